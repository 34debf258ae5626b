/* The store: sessions and snapshots on disk and in memory.
 *
 * A store is a directory.  `segments/` holds append-only files of records and
 * is the only truth; `index/` is a fold of the segments that may be thrown
 * away at any time; `live/` belongs to the engine.  The store does not know
 * what is inside a snapshot: a payload is bytes.
 *
 * Threads: a `struct store` is used by one thread at a time, except that
 * store_append() and the store_note_*() calls may run on one writer thread
 * while other threads read.  Processes: any number of readers and writers;
 * each writing process appends to a segment of its own.
 *
 * All calls return 0 or a negative errno as in base/err.h. */
#ifndef SNAPTRAIL_STORE_STORE_H
#define SNAPTRAIL_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct store;

enum store_type { STORE_HYBRID = 0, STORE_DISK, STORE_MEMORY };
enum store_fsync { STORE_FSYNC_SNAPSHOT = 0, STORE_FSYNC_NEVER, STORE_FSYNC_ALWAYS };
enum store_verify { STORE_VERIFY_READ = 0, STORE_VERIFY_NEVER };

struct store_options {
	enum store_type type;
	enum store_fsync fsync;       /* snapshot: fdatasync after each snapshot and at session end */
	enum store_verify verify;     /* read: every payload's checksum is checked when read */
	bool persist;                 /* no: nothing is written, as STORE_MEMORY */
	bool compress;
	size_t compress_threshold_bytes; /* smaller payloads stay as they are */
	size_t memory_bytes;          /* budget of the memory tier */
	uint64_t max_bytes;           /* budget of segments/; 0: none */
	bool create;                  /* make the directory (0700) when it is missing */
	bool read_only;
	bool unread;                  /* for writing: what is there is read when it is first asked for */
};

/* Snapshot types and origins; the numbers are in the file format. */
enum snapshot_type { SNAPSHOT_FULL = 1, SNAPSHOT_INCREMENTAL = 2 };
enum snapshot_origin {
	ORIGIN_START = 1, ORIGIN_MANUAL, ORIGIN_AUTOMATIC, ORIGIN_EXIT, ORIGIN_CRASH, ORIGIN_IMPORT,
};
const char *snapshot_type_name(int type);
const char *snapshot_origin_name(int origin);

#define STORE_ID_LEN 16 /* hex digits of a snapshot's or session's id, random */

/* What is known of a snapshot without its payload.  Strings returned by the
 * store live until store_close() or the next store_refresh(). */
struct snapshot_meta {
	char id[STORE_ID_LEN + 1];
	char base_id[STORE_ID_LEN + 1];   /* the snapshot before it that it continues, which for a full one may
	                                   * be deleted; "" for none: it begins a recording */
	char session_id[STORE_ID_LEN + 1];
	int type;
	int origin;
	uint64_t time_ns;                 /* the instant it describes: session time, labelled as wall clock */
	uint64_t since_ns;                /* changes in it lie in (since_ns, time_ns] */
	uint64_t created_ns;              /* wall clock when it was written */
	uint64_t creation_ns;             /* how long making it took */
	int64_t clock_step_ns;            /* wall clock minus session time at the cut */
	uint64_t seq;                     /* store-wide order of appending within the session, from 1 */
	uint64_t changes;                 /* Changes inside */
	uint64_t coalesced;               /* Changes that were merged away */
	uint64_t lost;                    /* reports known to be lost in its range */
	uint64_t agents, tasks, memory;   /* entries in the state at time_ns */
	uint64_t size_bytes;              /* payload as handed in */
	uint64_t stored_bytes;            /* payload in the segment */
	uint32_t crc;                     /* CRC32C of the stored payload */
	bool compressed;
	uint64_t expires_ns;              /* 0: never */
	const char *description;          /* "" for none */
	const char *foreign_id;           /* the id it had where it was imported from; "" for none */
	bool handed_in;                   /* a caller handed in its state; it was not recorded */
	const char *const *tags;          /* NULL-terminated, sorted, never NULL */
	size_t ntags;
};

struct session_meta {
	char id[STORE_ID_LEN + 1];
	const char *name;         /* 1..255 bytes, no '/' */
	const char *command;      /* as typed, joined with spaces, quoted where needed; may hold any byte but NUL */
	const char *profile;
	const char *boot_id;
	const char *note;         /* e.g. why it was not recorded; "" for none */
	uint64_t started_ns;
	uint64_t ended_ns;        /* 0: no end record (live, or crashed and not salvaged) */
	int64_t exit_status;      /* wait status of the first process; -1 unknown */
	int32_t pid;              /* of the first process */
	uint64_t snapshots, changes, coalesced, lost, dropped, stored_bytes, last_time_ns; /* folded from its snapshots */
};

#define GAP_DELETED "deleted" /* the cause of a gap in which snapshots were deleted: its inside is unknown */

/* A stretch of session time in which reports are known to be missing. */
struct gap_meta {
	char session_id[STORE_ID_LEN + 1];
	uint64_t from_ns, to_ns, lost;
	const char *cause;
};

/* Opens (and with options->create makes) a store.  NULL path or
 * STORE_MEMORY/!persist: a store that leaves nothing on disk.  -ENOENT when
 * missing, -EPROTO for a newer format.  A torn tail is skipped, a damaged
 * segment set aside; both are told by store_verify(). */
int store_open(const char *path, const struct store_options *options, struct store **ret_store);
void store_close(struct store *s);
/* After a fork, of a store that the other process goes on with: writes nothing, and
 * lets go of the segment, whose lock is the other's alone from then on. */
void store_forget(struct store *s);
const char *store_path(const struct store *s); /* NULL for a store in memory */

/* Sees what other processes appended since. */
int store_refresh(struct store *s);

/* Random hex id, NUL-terminated. */
void store_new_id(char ret_id[STORE_ID_LEN + 1]);

/* ---- writing ---- */

/* A run of a session.  `m->id` is given by the caller.  A later session of
 * the same name appends to it: the store keeps both and the reader sees one
 * session whose runs follow each other (session_meta.id is then the first's). */
int store_session_begin(struct store *s, const struct session_meta *m);
int store_session_end(struct store *s, const struct session_meta *m);

enum store_append_flags {
	STORE_COMPRESS = 1,   /* whatever the policy says */
	STORE_SYNC_LATER = 2, /* another one follows at once, and its sync covers both */
	STORE_PACKED = 4,     /* the payload is compressed; m->size_bytes says how long it was */
};
/* Compresses (by policy or flag), appends, syncs by policy, indexes and keeps it in the memory tier.  Fills in seq, sizes,
 * crc, compressed and created_ns of *m.  On -ENOSPC and the like nothing is
 * half-visible and the call may be repeated later. */
int store_append(struct store *s, struct snapshot_meta *m, const void *payload, size_t len,
                 unsigned flags);
/* Whether the policy compresses a payload of that length. */
bool store_compresses(const struct store *s, size_t len);
int store_note_gap(struct store *s, const struct gap_meta *g);
/* An instant of a session gets a name; of two of a name the later said counts. */
int store_note_mark(struct store *s, const char *session_id, uint64_t time_ns, const char *name);
/* Edits of what was written: records of their own. NULL-terminated lists or NULL. */
int store_note_tags(struct store *s, const char *id, const char *const *add, const char *const *remove);
int store_note_description(struct store *s, const char *id, const char *text);
int store_note_deleted(struct store *s, const char *id);
struct store_folding {
	/* Appends the payload of a full snapshot of m's instant and state.  Called
	 * without the store's lock; may read the store. */
	int (*full)(void *arg, const struct snapshot_meta *m, struct buf *out);
	void *arg;
};
/* Deletes for good, all or nothing, durable.  What stands on them takes their
 * changes over or becomes full, and keeps id, tags, description, instant, origin
 * and seq; where a recording has a hole now, a gap with cause GAP_DELETED says so.
 * -ENOENT for an unknown id; -EBUSY for the newest of a session that is being
 * recorded; -EINVAL when one must become full and `folding` (NULL: none) cannot. */
int store_delete(struct store *s, const char *const *ids, size_t n, const struct store_folding *folding, uint64_t *ret_deleted);
/* What a deletion would write of those that stay, without doing it: `weighed`
 * is told of each and of the bytes it would then take. */
int store_delete_weigh(struct store *s, const char *const *ids, size_t n, const struct store_folding *folding,
		       void (*weighed)(void *arg, const struct snapshot_meta *m, uint64_t stored_bytes), void *arg);

/* Limits; 0: none. */
struct store_retention {
	uint64_t max_age_ns;              /* of the instant described */
	uint64_t max_snapshots;           /* a session */
	uint64_t max_bytes;               /* of all that is stored */
	bool tagged_only;                 /* those with tags stay beyond the limits */
	const char *const *keep_tags;     /* those with one of these stay always; NULL-terminated or NULL */
	uint64_t now_ns;
	bool lazy;                        /* nothing until a limit is passed by a sixteenth */
};
struct store_verdict {
	const struct snapshot_meta *m;
	bool goes;
	const char *why;                  /* a phrase */
	int64_t bytes;                    /* that come back; negative: what it takes over from others */
};
/* Tells of every snapshot, session by session in order of time, whether it stays, and unless
 * `dry` deletes those that go and compacts.  The newest one of a session that is
 * being recorded stays.  *ret_freed: bytes that come back, by the verdicts when dry. */
int store_prune(struct store *s, const struct store_retention *r, bool dry, const struct store_folding *f,
		void (*verdict)(void *arg, const struct store_verdict *v), void *arg, uint64_t *ret_deleted, int64_t *ret_freed);
/* Rewrites the segments that nobody writes and of whose bytes at least `share`
 * (0 to 1) are dead, without these.  Another process at it: nothing is done. */
int store_compact(struct store *s, double share, uint64_t *ret_freed);
/* All that this handle appends between counts together or not at all, for every
 * reader, after a kill -9 and after a loss of power: store_batch_end() writes the last
 * record and syncs (unless fsync is never).  Until then nobody sees any of it, this handle
 * neither, but what the batch made can be edited and deleted by its whole id; all
 * deletions are done at its end.  With keep false, and when any of it failed, nothing
 * of it was ever there.  Batches do not nest: -EINVAL.  store_close() undoes an open one. */
int store_batch_begin(struct store *s);
int store_batch_end(struct store *s, bool keep);
bool store_batch_is_open(struct store *s);
bool store_batch_has(struct store *s, const char *id);
/* fdatasync of the segment and fsync of its folder. */
int store_sync(struct store *s);

/* ---- reading ---- */

/* Sessions in order of start; i from 0. -ENOENT past the last. */
size_t store_session_count(struct store *s);
int store_session_at(struct store *s, size_t i, struct session_meta *ret);
/* By its id of STORE_ID_LEN. */
int store_session_get(struct store *s, const char *id, struct session_meta *ret);
/* By name. */
int store_session_find(struct store *s, const char *name, struct session_meta *ret);

/* Snapshots of a session (by its id as in session_meta.id) in order of
 * (time_ns, seq); i from 0.  session_id NULL: of all sessions. */
size_t store_snapshot_count(struct store *s, const char *session_id);
int store_snapshot_at(struct store *s, const char *session_id, size_t i, struct snapshot_meta *ret);
/* Position of the last snapshot with time_ns <= t, or -ENOENT: binary search. */
int store_snapshot_floor(struct store *s, const char *session_id, uint64_t time_ns, size_t *ret_i);
/* Position of the last full one with time_ns <= t, or -ENOENT: binary search. */
int store_full_floor(struct store *s, const char *session_id, uint64_t time_ns, size_t *ret_i);
/* The sum of the changes of those before position i. */
uint64_t store_changes_before(struct store *s, const char *session_id, size_t i);
/* By its id, its foreign id, or a prefix of 4 or more characters that fits no
 * other snapshot of the session (NULL: of all).  A whole id wins over a whole
 * foreign id, and that over prefixes.  ret_i, which may be NULL: its position in its
 * session.  -ENOENT, -EMLINK (the candidates are in the detail). */
int store_snapshot_find_in(struct store *s, const char *session_id, const char *text, struct snapshot_meta *ret, size_t *ret_i);
int store_snapshot_find(struct store *s, const char *text, struct snapshot_meta *ret, size_t *ret_i);
/* What another stands on, by its whole id: also one that was deleted in the
 * moment in which that was made, as long as its record is there. */
int store_base_find(struct store *s, const char *id, struct snapshot_meta *ret);
struct store_search {
	const char *session_id;           /* NULL: of all */
	const char *const *all, *const *any, *const *none; /* tags; NULL-terminated or NULL */
	uint64_t since_ns, until_ns;      /* since <= time < until; 0: open */
	int type;                         /* 0: any */
	enum { STORE_BY_TIME, STORE_BY_SIZE, STORE_BY_TAGS } sort; /* equal ones by time */
	bool reverse;
	size_t offset;
	bool limited;
	size_t limit;
};
/* Calls back for each that matches, without the store's lock; a nonzero result ends
 * it.  Returns how many were handed over, or that result.  By time it streams, by
 * size or tags it gathers all first. */
int64_t store_search(struct store *s, const struct store_search *q, int (*each)(void *arg, const struct snapshot_meta *m), void *arg);
/* -ENOENT: no such mark was set afterwards. */
int store_mark_find(struct store *s, const char *session_id, const char *name, uint64_t *ret_time_ns);
size_t store_gap_count(struct store *s);
int store_gap_at(struct store *s, size_t i, struct gap_meta *ret);

/* The payload as it was handed in, from the memory tier or the disk; appended
 * to *ret.  -EBADMSG with file and offset when its checksum fails. */
int store_load(struct store *s, const struct snapshot_meta *m, struct buf *ret);

/* The same for a reader that follows: a large payload is decompressed meanwhile,
 * by a thread of its own. */
struct store_loading {
	struct buf payload;          /* all its length, but see store_loaded() */
	struct buf stored;
	struct codec_ahead *ahead;
};
int store_load_begin(struct store *s, const struct snapshot_meta *m, struct store_loading *ret);
/* Waits for the payload's first n bytes; how many are there: fewer when it is damaged. */
uint64_t store_loaded(struct store_loading *l, uint64_t n);
/* -EBADMSG: it was damaged after all.  The payload is the caller's then. */
int store_load_end(struct store_loading *l);

/* Writes a sound store to a folder that is missing or empty (-EEXIST): every
 * record that can be read.  `say` is told of each place that cannot, with file and
 * offset.  What was written so far stays when it fails. */
int store_repair(struct store *s, const char *into, void (*say)(void *arg, const char *what), void *arg, uint64_t *ret_copied,
		 uint64_t *ret_lost);

struct store_stats {
	uint64_t segments, segment_bytes, snapshots, raw_bytes, stored_bytes;
	uint64_t memory_bytes, memory_items, memory_hits, memory_misses, memory_evicted, disk_hits;
	uint64_t torn_bytes, damaged_segments;
};
void store_get_stats(struct store *s, struct store_stats *ret);

/* Reads every record and checks it.  Calls back for each finding.
 * kind: "torn" or "damaged".  Returns 0 when all is well, 1 when there are
 * only torn tails, -EBADMSG when anything is damaged. */
int store_verify_all(struct store *s,
                     void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what),
                     void *arg, uint64_t *ret_records);

#endif
