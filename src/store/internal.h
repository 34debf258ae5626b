/* What the store's own files share: the fold of the segments in memory, and
 * the seam between the tiers. */
#ifndef SNAPTRAIL_STORE_INTERNAL_H
#define SNAPTRAIL_STORE_INTERNAL_H

#include <pthread.h>

#include "store/segment.h"
#include "store/store.h"

struct item;
struct batch;
struct packed;
struct tag_lists;

/* When something was said, by whom: what the fold goes by, because segments
 * are read in no order.  The later one wins, for each tag and text by itself. */
struct stamp {
	uint64_t created_ns, file_id, at;
};

struct tag_mark {
	char *tag;
	struct stamp said;
	bool on;
};

/* What lies before a position of a session. */
struct reach {
	uint64_t changes;
	size_t full;                /* the last full one, or SIZE_MAX */
};

struct run_session {
	struct session_meta m;      /* strings owned */
	struct item **items;        /* by (time_ns, seq) */
	size_t count, cap;
	uint32_t packed;            /* its number in the index + 1, when its snapshots are not folded yet */
	bool unsettled;             /* out of order, or with deleted ones, until settled */
	struct reach *reach;        /* of positions up to `reached`, which later ones follow from */
	size_t reached, reach_cap;
	uint64_t next_seq;
	struct stamp begun, ended;  /* the latest of each */
	uint64_t end_ns;
	int64_t end_status;
};

struct item {
	struct snapshot_meta m;     /* strings owned */
	struct record_header h;
	struct run_session *session;
	uint32_t segment;           /* index, UINT32_MAX: in memory alone */
	uint64_t at;
	bool deleted;
	bool going;                 /* being deleted, under the lock */
	size_t place;               /* in store.all */
	struct tag_mark *marks;     /* every tag that was ever put on or taken off */
	size_t nmarks;
	struct stamp written;       /* the record that counts */
	struct stamp described;
	uint64_t edited_ns;         /* the newest record about it */
	/* the memory tier's */
	struct item *older, *newer;
	uint8_t *kept;
	size_t kept_bytes;
};

/* A tier keeps stored payloads: get() appends one or says -ENOENT. */
struct tier_ops {
	const char *name;
	int (*get)(struct store *s, struct item *i, struct buf *out);
	void (*put)(struct store *s, struct item *i, const void *p, size_t n);
	void (*drop)(struct store *s, struct item *i);
};
extern const struct tier_ops tier_memory, tier_disk;

/* A name for an instant. */
struct mark {
	char session_id[16];
	char *name;
	uint64_t time_ns;
	struct stamp said;
};

/* An edit that was read before the snapshot it names. */
struct orphan {
	struct record_header h;
	uint64_t at;
	struct buf meta;
};

struct store {
	char *path, *segments_path, *index_path;
	struct store_options o;
	bool in_memory;             /* nothing on disk */
	bool unread;                /* what others wrote is not folded in yet */
	pthread_mutex_t lock;
	struct segment *segments;
	size_t nsegments;
	uint32_t warm;              /* index of the one that was read last, which stays open */
	uint32_t mine;              /* index of the segment that is written, UINT32_MAX none */
	bool unpacking;             /* a session of it is being folded */
	struct packed *packed;      /* the index file that is mapped, or NULL */
	struct batch *batch;        /* being written, or NULL */
	struct run_session **sessions;
	size_t nsessions;
	struct run_session *recent; /* the one that was asked for last */
	struct item **all;          /* every item */
	size_t nall, all_cap;
	struct item **slots;        /* by id: open addressing, a power of two */
	size_t nslots;
	struct item **merged;       /* of all sessions by time, made when asked for */
	size_t nmerged;
	bool merged_stale;
	struct tag_lists *tagged;   /* made when asked for, NULL when stale */
	bool bulk;                  /* many records come: sessions are sorted once, at the end */
	void **discarded;           /* strings that callers may still hold */
	size_t ndiscarded;
	struct gap_meta *gaps;
	size_t ngaps;
	struct mark *marks;
	size_t nmarks;
	struct orphan *orphans;
	size_t norphans;
	uint64_t folded;            /* records since the index was read */
	bool index_bad;             /* the file is damaged: it is made anew */
	const struct tier_ops *tiers[3]; /* from near to far */
	struct item *oldest, *newest;    /* the memory tier's order of use */
	uint64_t memory_bytes, memory_items, hits, misses, evicted, disk_hits, damaged;
};

/* One record into the fold. */
void fold_record(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta);
struct item *fold_item(struct store *s, const char id[16]);
void fold_free(struct store *s);
struct run_session *fold_session(struct store *s, const char id[16], bool create);
/* Ends s->bulk. */
void fold_settle(struct store *s);
/* Frees what was replaced: callers' strings end here. */
void fold_let_go(struct store *s);
/* As if it had never been: for a store in memory that is over its budget. */
void fold_forget(struct store *s, struct item *it);
/* Where it stands in its session. */
size_t fold_position(const struct item *it);
/* Of all sessions, in order of (time_ns, seq). */
struct item **fold_merged(struct store *s, size_t *ret_n);

/* The lock, with everything read that a writer has put off; and out. */
void store_enter(struct store *s);
void store_leave(struct store *s);
/* Parts of a batch, which is open: a snapshot in a new form, a gap, a deletion. */
int store_batch_open(struct store *s);
int store_put_again(struct store *s, const struct item *it, const struct snapshot_meta *m, const void *payload, size_t len);
int store_put_gap(struct store *s, const struct gap_meta *g);
int store_put_deletion(struct store *s, const char *id);
/* By (time_ns, seq, id); and for qsort of pointers. */
int fold_compare(const struct item *a, const struct item *b);
int fold_in_sequence(const void *a, const void *b);
/* A session's snapshots by time, or for NULL those of all. */
struct item **fold_items_of(struct store *s, const char *session_id, size_t *ret_n);
/* The lists of tags are stale. */
void search_forget_tags(struct store *s);

/* A batch of records in the segment that is written; batch_put() takes the
 * place of appending and folding, batch_sequence() that of the session's count. */
int batch_begin(struct store *s);
int batch_put(struct store *s, struct record_header *h, const struct buf *meta, const void *payload);
uint64_t batch_sequence(struct store *s, const char session_id[16], uint64_t next);
/* *ret_stale: what was undone has been seen already, the store must be read again. */
int batch_end(struct store *s, bool keep, bool *ret_stale);
/* The session (16 bytes) of a snapshot that the open batch made, or NULL. */
const char *batch_session_of(const struct store *s, const char *id);
/* Deletes them at its end, with whatever that needs. */
int batch_delete(struct store *s, const char *const *ids, size_t n, const struct store_folding *f);
int batch_delete_now(struct store *s);
/* The records of a deletion into the open batch; called without the lock. */
int delete_within(struct store *s, const char *const *ids, size_t n, const struct store_folding *f);

/* As if nothing had been read yet, but for strings that callers may hold. */
void fold_start_over(struct store *s);
uint64_t store_now_ns(void); /* wall clock */
/* Reads the folder anew: segments have gone. */
int store_reload(struct store *s);
/* Whether a segment that was read has gone: another process compacted. */
bool store_segment_gone(const struct store *s);

/* The index file: every record's header and meta without its payload.  What it
 * holds of a session is folded when that is asked for, by its session, by an id
 * or the beginning of one, by a tag. */
void index_unpack(struct store *s, struct run_session *r);
void index_verify(const struct store *s, struct segment_verify *v);
void index_unpack_all(struct store *s);
void index_unpack_id(struct store *s, const char *id, size_t n);
void index_unpack_foreign(struct store *s);
void index_unpack_tag(struct store *s, const char *tag);
void index_forget(struct store *s);
void index_load(struct store *s);
void index_save(struct store *s);
/* What was appended to a segment since it was last looked at. */
void index_scan(struct store *s, uint32_t segment);
/* Opens the segments that were not there before; a damaged one is set aside
 * and counted, one just begun is for next time. */
int index_find_segments(struct store *s);
bool index_segment_name(const char *name);

#endif
