/* snaptrail: a flight recorder and time machine for the state of unmodified
 * Linux programs.  The public interface of libsnaptrail.
 *
 * Conventions.  Calls return 0 (or a count) or a negative errno with a fixed
 * meaning: -EINVAL bad argument or configuration, -ENOENT not found, -EMLINK
 * ambiguous, -EBADMSG damaged, -EBUSY being recorded or locked, -EPROTO
 * incompatible, -ENOEXEC cannot be injected, -ENODATA unknowable.
 * snaptrail_error() has the line of detail.  Results come last, in `ret_`
 * parameters.  Times are nanoseconds since the epoch on the session's own
 * clock: monotonic, labelled as wall clock when the session began.
 *
 * Threads: different `struct snaptrail` handles are independent, also on the
 * same store.  Calls on one handle exclude each other; strings in results live
 * until the next call on the handle, so threads that look at strings use one
 * handle each.  The library never prints, never exits. */
#ifndef SNAPTRAIL_H
#define SNAPTRAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* ---- errors and version ---- */

/* What a negative result means, in words. */
const char *snaptrail_strerror(int code);
/* The detail of the last failing call on this thread: one line, maybe "". */
const char *snaptrail_error(void);
const char *snaptrail_version(void);

/* ---- configuration ---- */

struct snaptrail_config;

/* Built-in defaults < system < user < `file` (or $SNAPTRAIL_CONFIG) < profile
 * (or $SNAPTRAIL_PROFILE) < SNAPTRAIL_* environment.  NULL file and profile:
 * none given.  -EINVAL names file, line and a "did you mean". */
int snaptrail_config_load(const char *file, const char *profile, struct snaptrail_config **ret);
void snaptrail_config_free(struct snaptrail_config *c);
/* A flag's word: sets "section.key" as the command line would. */
int snaptrail_config_set(struct snaptrail_config *c, const char *key, const char *value, const char *origin);
/* The i-th key: "section.key", its value as text, where it came from, what it
 * means.  -ENOENT past the last. */
int snaptrail_config_at(const struct snaptrail_config *c, size_t i, const char **ret_key,
                        const char **ret_value, const char **ret_origin, const char **ret_doc);
/* Checks one file alone. */
int snaptrail_config_check(const char *file);
/* The store folder that it means (option, environment, default). */
const char *snaptrail_config_store(const struct snaptrail_config *c);
const char *snaptrail_config_profile(const struct snaptrail_config *c);

/* ---- values ---- */

enum snaptrail_type {
	SNAPTRAIL_NULL = 1, SNAPTRAIL_BOOL, SNAPTRAIL_INT, SNAPTRAIL_UINT, SNAPTRAIL_DOUBLE,
	SNAPTRAIL_STRING, /* bytes that are text; may still hold invalid UTF-8 */
	SNAPTRAIL_BYTES, SNAPTRAIL_LIST, SNAPTRAIL_OBJECT,
};

struct snaptrail_value;

enum snaptrail_type snaptrail_value_type(const struct snaptrail_value *v);
/* false, 0 or "" for a value of another type.  A double may be asked of any
 * number; what fits an int64 is an INT, larger ones are UINT. */
bool snaptrail_value_bool(const struct snaptrail_value *v);
int64_t snaptrail_value_int(const struct snaptrail_value *v);
uint64_t snaptrail_value_uint(const struct snaptrail_value *v);
double snaptrail_value_double(const struct snaptrail_value *v);
const char *snaptrail_value_bytes(const struct snaptrail_value *v, size_t *ret_len);
/* Items of a list or pairs of an object, in order. */
size_t snaptrail_value_count(const struct snaptrail_value *v);
const struct snaptrail_value *snaptrail_value_at(const struct snaptrail_value *v, size_t i);
const char *snaptrail_value_name_at(const struct snaptrail_value *v, size_t i, size_t *ret_len);
/* The field of an object, or NULL. */
const struct snaptrail_value *snaptrail_value_get(const struct snaptrail_value *v, const char *name);
/* Equal; the order of an object's pairs does not count. */
bool snaptrail_value_equal(const struct snaptrail_value *a, const struct snaptrail_value *b);

/* Values of your own, to be freed by snaptrail_value_free() (which accepts
 * NULL) unless a call says that it takes them.  Texts are copied; a string may
 * hold any bytes.  None of these fails: out of memory ends the process. */
struct snaptrail_value *snaptrail_value_null(void);
struct snaptrail_value *snaptrail_value_of_bool(bool b);
struct snaptrail_value *snaptrail_value_of_int(int64_t i);
struct snaptrail_value *snaptrail_value_of_uint(uint64_t u);
struct snaptrail_value *snaptrail_value_of_double(double d);
struct snaptrail_value *snaptrail_value_of_string(const char *text);
struct snaptrail_value *snaptrail_value_of_bytes(enum snaptrail_type type, const void *p, size_t n); /* STRING or BYTES */
struct snaptrail_value *snaptrail_value_list(void);
struct snaptrail_value *snaptrail_value_object(void);
struct snaptrail_value *snaptrail_value_copy(const struct snaptrail_value *v);
void snaptrail_value_free(struct snaptrail_value *v);
/* Take `item`, also when they fail: -EINVAL, v is no list (no object). */
int snaptrail_value_push(struct snaptrail_value *v, struct snaptrail_value *item);
int snaptrail_value_put(struct snaptrail_value *v, const char *name, struct snaptrail_value *item);

/* JSON text to a value, and back (for free()).  As in JavaScript: a number that
 * is whole is an integer.  Bytes that are no UTF-8 stand as \udcXX escapes, both
 * ways.  -EINVAL with line and column. */
int snaptrail_value_from_json(const char *text, size_t n, struct snaptrail_value **ret);
int snaptrail_value_to_json(const struct snaptrail_value *v, char **ret, size_t *ret_len);

/* ---- tables ---- */

enum snaptrail_table {
	SNAPTRAIL_AGENTS = 1, SNAPTRAIL_TASKS, SNAPTRAIL_MEMORY, SNAPTRAIL_COMMUNICATIONS,
	SNAPTRAIL_RESOURCES, SNAPTRAIL_SWARMS, SNAPTRAIL_METRICS,
};
#define SNAPTRAIL_TABLES 7
const char *snaptrail_table_name(enum snaptrail_table t);

/* ---- a store ---- */

struct snaptrail;

#define SNAPTRAIL_CREATE 1u   /* make the store when it is missing */
#define SNAPTRAIL_READ_ONLY 2u /* do not even salvage crashed sessions */

/* Opens the store that the configuration means.  Sessions whose recorder died
 * are salvaged first, unless SNAPTRAIL_READ_ONLY. */
int snaptrail_open(const struct snaptrail_config *c, unsigned flags, struct snaptrail **ret);

/* The same without a file: a struct whose fields snaptrail_settings_init() has
 * filled with the defaults.  `size` lets it grow: a program built with an older
 * header leaves what it does not know at its default. */
struct snaptrail_settings {
	size_t size;
	const char *store;              /* folder; NULL: as configured */
	const char *storage_type;       /* "hybrid", "disk", "memory" */
	bool persistence_enabled;       /* false: nothing outlives the handle */
	bool incremental_enabled;
	bool compression_enabled;
	bool checksum_validation;       /* check whatever is read */
	bool tagged_snapshots_only;     /* the tagged stay beyond the limits below */
	bool fsync;                     /* false: a snapshot is durable when the system writes it back */
	uint64_t automatic_interval_ms; /* 0: none */
	uint64_t max_retention_ms;      /* 0: for ever */
	uint64_t max_snapshots;         /* a session; 0: all */
	uint64_t max_bytes;             /* of the store; 0: no limit */
	uint64_t compression_threshold; /* bytes */
	uint64_t memory_bytes;          /* of the memory tier, and again of decoded states */
	const char *const *keep_tags;   /* NULL-terminated or NULL: what has one of them never expires */
};
void snaptrail_settings_init(struct snaptrail_settings *s, size_t size);
/* With storage_type memory, or persistence off, the store is the handle's own. */
int snaptrail_open_with(const struct snaptrail_settings *s, unsigned flags, struct snaptrail **ret);

/* Stops automatic snapshots, stores what is queued, tells `shutdown_complete`. */
void snaptrail_close(struct snaptrail *st);
/* What opening could not mend, in one line (a session that cannot be salvaged
 * yet: a full disk, say), or NULL.  It is tried again at the next opening. */
const char *snaptrail_notice(const struct snaptrail *st);

struct snaptrail_session {
	char id[17];
	const char *name, *command, *profile, *note;
	uint64_t started_ns, ended_ns;  /* ended 0: not ended */
	uint64_t last_ns;               /* the last instant it covers */
	int pid;                        /* of its first process */
	int64_t exit_status;            /* wait status of the first process, -1 unknown */
	bool live;                      /* a recorder is at work on it */
	bool unattended;                /* it has processes, but nobody drains their rings just now */
	int recorder_pid;               /* when live */
	uint64_t snapshots, changes, coalesced, lost, dropped, stored_bytes;
};

/* Sessions in order of start.  Strings live until the next call on `st`. */
int snaptrail_session_at(struct snaptrail *st, size_t i, struct snaptrail_session *ret);
/* By name; NULL: SNAPTRAIL_SESSION, else the one that started last. */
int snaptrail_session_find(struct snaptrail *st, const char *name, struct snaptrail_session *ret);

#define SNAPTRAIL_ID_BYTES 64

struct snaptrail_snapshot {
	char id[SNAPTRAIL_ID_BYTES];      /* 16 hex digits, or what it was called where it was imported from */
	char base_id[SNAPTRAIL_ID_BYTES]; /* what an incremental stands on, "" none */
	char own_id[17];                /* the store's own name for it: never ambiguous */
	bool handed_in;                 /* its state was a caller's, not recorded */
	const char *session;            /* its session's name */
	const char *type;               /* "full" or "incremental" */
	const char *origin;             /* start manual automatic exit crash import */
	const char *description;        /* "" for none */
	const char *const *tags;        /* NULL-terminated, sorted */
	uint64_t time_ns, created_ns, expires_ns, creation_ns;
	uint64_t seq, changes, coalesced, lost;
	uint64_t agents, tasks, memory; /* entries in the state then */
	uint64_t size_bytes, stored_bytes;
	char checksum[17];
	bool compressed;
};

enum snaptrail_sort { SNAPTRAIL_BY_TIME = 0, SNAPTRAIL_BY_SIZE, SNAPTRAIL_BY_TAGS };
struct snaptrail_query {
	const char *session;            /* name, or NULL: the session that started last */
	bool all_sessions;
	const char *const *tags_all, *const *tags_any, *const *tags_none; /* NULL-terminated or NULL */
	uint64_t since_ns, until_ns;    /* since <= time < until; 0: open */
	const char *type;               /* "full", "incremental" or NULL */
	enum snaptrail_sort sort;
	bool reverse;
	bool limited;                   /* limit counts only when set: a limit of 0 is none */
	size_t limit, offset;
};

/* Calls back for each snapshot that matches; a nonzero result of the callback
 * stops and is returned.  Returns the number of matches otherwise. */
int64_t snaptrail_list(struct snaptrail *st, const struct snaptrail_query *q,
                       int (*each)(void *arg, const struct snaptrail_snapshot *s), void *arg);

/* ---- references ---- */

/* Durations: `30s`, `1h30m`, `500ms`, `2d`; a unit is needed. */
int snaptrail_parse_duration(const char *text, uint64_t *ret_ns);
/* TIME as in the manual: RFC 3339, 14:03:22.517, -5m, +30s, epoch s/ms/ns.
 * `start_ns` is the session's start, `now_ns` the present. */
int snaptrail_parse_time(const char *text, uint64_t start_ns, uint64_t now_ns, uint64_t *ret_ns);

/* Where a REF leads: an instant of a session, maybe a snapshot. */
struct snaptrail_point {
	char session[256];
	uint64_t time_ns;
	bool live;                      /* the present of a live session */
	bool is_snapshot;
	struct snaptrail_snapshot snapshot;
};
/* REF: id, unique prefix, latest, first, live, tag:NAME, mark:NAME, @TIME,
 * #SEQ, REF~N, SESSION/REF; never empty.  `session`: where unqualified ones look, or
 * NULL. */
int snaptrail_resolve(struct snaptrail *st, const char *session, const char *ref, struct snaptrail_point *ret);

/* By id or unique prefix of 4 or more characters; its state is not loaded.
 * `session`: only there, or NULL: anywhere.  -ENOENT, -EMLINK. */
int snaptrail_get(struct snaptrail *st, const char *session, const char *id, struct snaptrail_snapshot *ret);

enum snaptrail_direction { SNAPTRAIL_EITHER = 0, SNAPTRAIL_BEFORE, SNAPTRAIL_AFTER };
int snaptrail_nearest(struct snaptrail *st, const char *session, uint64_t time_ns,
                      enum snaptrail_direction dir, struct snaptrail_snapshot *ret);

/* ---- states ---- */

struct snaptrail_state;

/* The whole state at a point.  -ENODATA before the recording began. */
int snaptrail_state_at(struct snaptrail *st, const struct snaptrail_point *p, struct snaptrail_state **ret);
void snaptrail_state_free(struct snaptrail_state *s);
uint64_t snaptrail_state_time(const struct snaptrail_state *s);
const char *snaptrail_state_session(const struct snaptrail_state *s);
/* Changes merged away in the tick that holds this instant: 0 when the instant is exact. */
uint64_t snaptrail_state_coalesced(const struct snaptrail_state *s);
/* Reports known to be missing in a gap that touches this instant. */
uint64_t snaptrail_state_lost(const struct snaptrail_state *s);
size_t snaptrail_state_count(const struct snaptrail_state *s, enum snaptrail_table t);
/* Entities in order.  `ret_source`: where the last fact came from. */
int snaptrail_state_each(const struct snaptrail_state *s, enum snaptrail_table t,
                         int (*each)(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v,
                                     const char *source, uint64_t changed_ns), void *arg);
const struct snaptrail_value *snaptrail_state_get(const struct snaptrail_state *s, enum snaptrail_table t,
                                                  const char *key, size_t key_len);

/* States of your own.  A new one is empty; a copy of any can be edited; what
 * snaptrail_state_at() gives can be edited too and becomes a copy of its own.
 * Keys and names are copied, values too unless a call says that it takes them.
 * Edits are cheap to store: an incremental snapshot holds what was edited since
 * the snapshot that was made of this very object before. */
struct snaptrail_state *snaptrail_state_new(void);
struct snaptrail_state *snaptrail_state_copy(const struct snaptrail_state *s);
/* table[key] = v, in its place or at the end.  -EINVAL: no such table, an empty
 * key, or more than 65,535 bytes of it. */
int snaptrail_state_set(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const struct snaptrail_value *v);
/* One field of an entity, which is made when it is missing. */
int snaptrail_state_set_field(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const char *field,
                              const struct snaptrail_value *v);
/* A message at the end of a channel of the communications. */
int snaptrail_state_append(struct snaptrail_state *s, const char *channel, const struct snaptrail_value *v);
/* -ENOENT: it was not there. */
int snaptrail_state_remove(struct snaptrail_state *s, enum snaptrail_table t, const char *key);
int snaptrail_state_remove_field(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const char *field);
/* What stands beside the tables: `timestamp`, or any name that is no table's. */
int snaptrail_state_set_top(struct snaptrail_state *s, const char *name, const struct snaptrail_value *v);
const struct snaptrail_value *snaptrail_state_top(const struct snaptrail_state *s, const char *name);
/* The i-th of them, in order, or NULL past the last. */
const struct snaptrail_value *snaptrail_state_top_at(const struct snaptrail_state *s, size_t i, const char **ret_name);
/* A JSON object {timestamp, agents{}, tasks{} ...}: whatever stands in it comes
 * back the same, in its order. */
int snaptrail_state_from_json(const char *text, size_t n, struct snaptrail_state **ret);
int snaptrail_state_to_json(const struct snaptrail_state *s, char **ret, size_t *ret_len);
/* message SystemState of proto/snaptrail.proto.  -EBADMSG: it is not one. */
int snaptrail_state_from_protobuf(const void *p, size_t n, struct snaptrail_state **ret);
/* The bytes are the caller's, for free(). */
int snaptrail_state_to_protobuf(const struct snaptrail_state *s, void **ret, size_t *ret_len);

/* PATH = [table:]key[#field.path], `*` crosses `/`, `?` is one byte. */
bool snaptrail_path_match(const char *path, enum snaptrail_table t, const char *key, size_t key_len);
/* The field part of PATH behind '#', or NULL. */
const char *snaptrail_path_field(const char *path);

/* ---- differences ---- */

struct snaptrail_difference {
	enum snaptrail_table table;
	char op;                        /* 'a' added, 'r' removed, 'u' updated */
	const char *key;
	size_t key_len;
	const char *field;              /* updated: which field; "" for a bare value */
	const struct snaptrail_value *before, *after; /* NULL where it was not there */
};
/* Calls back table by table, key by key, field by field.  Returns the number
 * of entities that differ; ret_changed[t] has it per table (index by table). */
int64_t snaptrail_diff(const struct snaptrail_state *a, const struct snaptrail_state *b,
                       uint64_t ret_changed[SNAPTRAIL_TABLES + 1],
                       int (*each)(void *arg, const struct snaptrail_difference *d), void *arg);

/* The same of two snapshots, or any two references.  Two that stand on each
 * other and whose states are at hand cost what differs, not what there is. */
int64_t snaptrail_compare(struct snaptrail *st, const char *ref_a, const char *ref_b,
                          uint64_t ret_changed[SNAPTRAIL_TABLES + 1],
                          int (*each)(void *arg, const struct snaptrail_difference *d), void *arg);

/* ---- history ---- */

/* A frame of a call stack: where a call returns to. */
struct snaptrail_frame {
	uint64_t address;
	const char *module;             /* path of the file that it lies in; NULL: none, as generated code */
	uint64_t offset;                /* the file's own address */
	const char *symbol;             /* NULL: not known */
	uint64_t symbol_offset;
	const char *file;               /* NULL: not known */
	int line;
	const char *why;                /* why there are no names, where that can be said; else NULL */
};

struct snaptrail_event {
	uint64_t time_ns, seq;          /* seq: the Change's number in the session, as in #SEQ */
	const char *session;
	enum snaptrail_table table;
	const char *key;
	size_t key_len;
	const char *field;              /* "" for the whole entity */
	bool deleted;                   /* op delete, else set */
	const struct snaptrail_value *before, *after;
	const char *source;
	const char *kind;               /* the Change's kind, e.g. "fd_opened" */
	uint64_t coalesced;             /* changes it stands for beside itself */
	const struct snaptrail_frame *stack; /* innermost first; NULL: none was kept or none asked for */
	size_t stack_count;
	bool stack_cut;                 /* there were more frames than the recording's depth */
};
struct snaptrail_log_query {
	const char *session;
	const char *path;               /* GLOB or NULL */
	uint64_t since_ns, until_ns;    /* since <= time < until; 0: open */
	bool stacks;                    /* with call stacks */
};
/* Every change of value in order of time; `each` may be NULL: they are counted. */
int64_t snaptrail_log(struct snaptrail *st, const struct snaptrail_log_query *q,
                      int (*each)(void *arg, const struct snaptrail_event *e), void *arg);

/* When something became true.  Either `holds` is asked, or PATH OP VALUE: true
 * when for some entity that the path matches the field (or the entity) compares
 * so with the value.  OP: == != < <= > >= (numbers with numbers, texts with
 * texts), ~ (a glob over a text), exists, absent (value NULL). */
struct snaptrail_condition {
	const char *path, *op;
	const struct snaptrail_value *value;
	bool (*holds)(void *arg, const struct snaptrail_state *s);
	void *arg;
	uint64_t since_ns, until_ns;    /* since <= time < until; 0: open */
	bool last;                      /* the last time; else the first */
};
/* The instant at which it became true, having been false before or never asked:
 * a session that begins with it true has it true from its first instant.
 * -ENOENT never in that range; -ENODATA unknowable: the range, or a gap in it
 * that matters for the answer, is not covered by the recording; -EINVAL. */
int snaptrail_when(struct snaptrail *st, const char *session, const struct snaptrail_condition *c, uint64_t *ret_time_ns);

/* ---- snapshots of your own ---- */

struct snaptrail_create_options {
	size_t size;                    /* sizeof, for growth */
	const char *const *tags;        /* NULL-terminated or NULL; each 1 to 255 bytes without a comma */
	const char *description;        /* or NULL */
	const char *type;               /* "full", "incremental", or NULL as it comes */
	bool force_compression;         /* whatever the configuration says */
	bool later;                     /* return when it is handed over; see snaptrail_settle() */
	uint64_t time_ns;               /* the instant that it describes; 0: now */
};
/* A snapshot of `state`, or for NULL of the session's live one (snaptrail_snap).
 * The session is made when it is missing.  The state is copied: it may be
 * edited or freed at once.  As it comes a snapshot is incremental, unless none
 * was made before, or reading it would cost more than twice a full one.
 * Returns when it is stored, and by the configured fsync durable, unless
 * `later`. */
int snaptrail_create(struct snaptrail *st, const char *session, struct snaptrail_state *state,
                     const struct snaptrail_create_options *o, char ret_id[17]);
/* Returns when all that was handed over is stored; the first failure, if any. */
int snaptrail_settle(struct snaptrail *st);

/* Deletes snapshots by id, all or none; durable.  No other becomes unreadable:
 * what stands on them takes over what it needs.  -ENOENT an unknown id, -EBUSY
 * the newest one of a session that is being recorded. */
int snaptrail_delete(struct snaptrail *st, const char *const *ids, size_t n);
/* What is created, tagged, described and deleted between the two is durable and
 * visible together, or with `keep` false not at all; events of it are told at the
 * end.  Until then what the batch made is not found by this handle either, but
 * may be tagged, described and deleted by the id that snaptrail_create() gave.
 * Deletions come last: -EBUSY and what cannot be read are told at the end, and
 * then nothing of the batch is done. */
int snaptrail_batch_begin(struct snaptrail *st);
int snaptrail_batch_end(struct snaptrail *st, bool keep);

/* The configured limits (max_age, max_snapshots, max_size; what tagged_only and
 * keep_tags keep), applied.  A handle that makes snapshots and `run` do so now
 * and then, when a limit is passed by a sixteenth. */
struct snaptrail_verdict {
	const struct snaptrail_snapshot *snapshot;
	bool goes;
	const char *why;                /* a phrase */
	int64_t bytes;                  /* that come back; negative: what it takes over from those that go */
};
struct snaptrail_pruned {
	uint64_t snapshots;             /* that went, or with dry_run would */
	int64_t bytes;                  /* that came back, or would */
};
/* Tells of each snapshot, session by session in order of time, or of none when
 * `told` is NULL; unless `dry_run` it then deletes and gives the space back. */
int snaptrail_prune(struct snaptrail *st, bool dry_run, void (*told)(void *arg, const struct snaptrail_verdict *v), void *arg,
                    struct snaptrail_pruned *ret);

/* Automatic snapshots of a session whose state you hold: each interval (0: as
 * configured) `state` is called, on a thread of the handle's own, and gives the
 * state, which stays yours, or NULL for none this time.  Where the session has
 * one already it is replaced.  snaptrail_automatic(st, session, false, 0) ends
 * it; when that returns `state` is not running. */
int snaptrail_automatic_from(struct snaptrail *st, const char *session, uint64_t interval_ns,
                             struct snaptrail_state *(*state)(void *arg), void *arg);

/* ---- events ---- */

struct snaptrail_notification {
	const char *event;              /* as below */
	const char *session, *id;       /* or NULL */
	const struct snaptrail_snapshot *snapshot; /* of snapshot_created */
	const char *type, *error;       /* of error: snapshot_creation_failed, automatic_snapshot_failed,
	                                   snapshot_deletion_failed, snapshot_load_failed, import_failed, cleanup_failed */
	int code;                       /* of error: the negative errno */
	uint64_t imported, skipped, errors; /* of snapshots_imported */
};
/* Called for `event`, or NULL for all of: snapshot_created snapshot_deleted
 * automatic_snapshots_started automatic_snapshots_stopped snapshots_imported
 * error shutdown_complete.  On the thread that caused it, which for automatic
 * snapshots and for `later` ones is the handle's own; it may use the handle but
 * not close it.  A failing call returns its error whether or not somebody
 * listens.  Returns a number for snaptrail_off(). */
int snaptrail_on(struct snaptrail *st, const char *event,
                 void (*told)(void *arg, const struct snaptrail_notification *n), void *arg);
void snaptrail_off(struct snaptrail *st, int number);

/* ---- a live session ---- */

struct snaptrail_snap_options {
	const char *const *tags;        /* NULL-terminated or NULL; each 1 to 255 bytes without a comma */
	const char *description;        /* at most 3,071 bytes, or NULL */
	const char *type;               /* "full", "incremental", or NULL as it comes */
};
/* A snapshot of now, made by whoever records the session; its id.  Returns when
 * it is stored.  -ENOENT: the session has ended; -EBUSY: no answer within 5 s,
 * or it belongs to another user (the detail names its recorder). */
int snaptrail_snap(struct snaptrail *st, const char *session, const struct snaptrail_snap_options *o, char ret_id[17]);
/* Automatic snapshots on, each `interval_ns` (0: as configured), or off. */
int snaptrail_automatic(struct snaptrail *st, const char *session, bool on, uint64_t interval_ns);
/* Returns when what had been cut is durable. */
int snaptrail_flush(struct snaptrail *st, const char *session);

struct snaptrail_live {
	uint64_t changes, coalesced, lost, damaged, processes;
	uint64_t snapshots, dropped, queued, raw_bytes, stored_bytes; /* since this recorder began */
	uint64_t recorder_cpu_ns, interval_ns, watermark_ns;
};
int snaptrail_live_stats(struct snaptrail *st, const char *session, struct snaptrail_live *ret);

struct snaptrail_event;
struct snaptrail_watcher {
	int (*changed)(void *arg, const struct snaptrail_event *e);       /* a change of value, or NULL */
	int (*snapshot)(void *arg, const struct snaptrail_snapshot *s);   /* a snapshot was stored, or NULL */
	bool (*stopped)(void *arg);     /* asked between two looks, or NULL */
	void *arg;
};
/* Follows a session from `since_ns` on until it ends: every change once, in
 * order of time.  A nonzero result of a callback stops and is returned. */
int snaptrail_watch(struct snaptrail *st, const char *session, uint64_t since_ns, const struct snaptrail_watcher *w);

/* ---- edits ---- */

/* Of a stored snapshot, by its whole id; durable when they return.  -ENOENT
 * unknown id.  Lists are NULL-terminated or NULL; a tag that is there already,
 * or not there, is no error. */
int snaptrail_tag(struct snaptrail *st, const char *id, const char *const *add, const char *const *remove);
int snaptrail_describe(struct snaptrail *st, const char *id, const char *text);
/* Names an instant of a session: mark:NAME is a reference to it from then on,
 * before one that a program set itself.  1 to 255 bytes; said again it moves. */
int snaptrail_mark(struct snaptrail *st, const char *session, uint64_t time_ns, const char *name);

/* ---- care ---- */

struct snaptrail_stats {
	uint64_t snapshots, full, incremental, sessions;
	uint64_t segments, segment_bytes, raw_bytes, stored_bytes;
	uint64_t creation_ns_total, creation_ns_p50, creation_ns_p95, creation_ns_max;
	uint64_t compressed;            /* snapshots that are */
	uint64_t changes, coalesced, lost, dropped;
	uint64_t memory_bytes, memory_items, memory_hits, memory_misses, memory_evicted;
	uint64_t disk_hits;             /* payloads that were read from segments */
	uint64_t states_bytes, states_hits, states_misses; /* decoded states at hand in this handle */
};
int snaptrail_stats(struct snaptrail *st, const char *session, struct snaptrail_stats *ret);
struct snaptrail_gap { const char *session, *cause; uint64_t from_ns, to_ns, lost; };
int snaptrail_gap_at(struct snaptrail *st, size_t i, struct snaptrail_gap *ret);

/* Returns 0 all well, 1 only torn tails, -EBADMSG damage. */
int snaptrail_verify(struct snaptrail *st,
                     void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what),
                     void *arg, uint64_t *ret_records);

/* Writes a sound copy of the store, with all that can be read of it, to a folder
 * that is missing or empty (else -EEXIST).  `told`, or NULL: each place that cannot.
 * *ret_lost: how many.  The store itself is only read. */
int snaptrail_repair(struct snaptrail *st, const char *into, void (*told)(void *arg, const char *what), void *arg,
                     uint64_t *ret_copied, uint64_t *ret_lost);

/* ---- recording ---- */

/* What `run` has to say at its end. */
struct snaptrail_summary {
	char session[256];
	char store[4096];
	uint64_t duration_ns;
	uint64_t snapshots, changes, coalesced, lost, stored_bytes, raw_bytes;
	uint64_t processes, threads;
	uint64_t recorder_cpu_ns, target_cpu_ns;
	uint32_t remaining;             /* processes that live on with a detached recorder */
	uint32_t uninjected;            /* ran what the visitor was not in: known from /proc or from who started it */
	bool unheard;                   /* the recorder ended before its command: no number above is known */
	bool unstored;                  /* not all of it is in the store; error says why */
	char error[512];                /* the recorder's last error, "" for none */
};

struct snaptrail_run_options {
	const char *session;            /* NULL: SNAPTRAIL_SESSION or <comm>-<pid>-<time> */
	const char *const *tags;        /* for the first snapshot; NULL-terminated or NULL */
	char *const *argv;
	bool wait;                      /* for all processes of the session */
	bool detach;                    /* execute the target in place */
	bool proc_only;                 /* record what cannot be injected from /proc alone */
};

/* Records argv[0] until it ends.  *ret_status is its wait status.
 * -ENOEXEC cannot be injected (detail says why), -ENOENT / -EACCES no such
 * program / not executable, -EBUSY the session is being recorded.
 * Forks; to be called while the process has one thread. */
int snaptrail_run(const struct snaptrail_config *c, const struct snaptrail_run_options *o,
                  int *ret_status, struct snaptrail_summary *ret_summary);

/* Goes on recording a session whose recorder has gone while its processes live,
 * until the last has ended.  -ENOENT it has ended, -EBUSY somebody records it. */
int snaptrail_attend(const struct snaptrail_config *c, const char *session);

/* Says of a program file or a running process whether it can be injected and
 * what to expect: calls back with level "ok", "note" or "no" and a line.
 * Returns 0 it can, -ENOEXEC it cannot, -ENOENT no such program. */
int snaptrail_doctor(const struct snaptrail_config *c, const char *command_or_pid,
                     void (*say)(void *arg, const char *level, const char *text), void *arg);

/* ---- export and import ---- */

enum snaptrail_format { SNAPTRAIL_JSON = 0, SNAPTRAIL_BINARY };

/* Of one session, newest first.  Incrementals without a tag are left out unless
 * asked for; every snapshot goes with its whole state, so that none needs
 * another.  JSON is the original's format, for JavaScript; binary is exact. */
struct snaptrail_export_options {
	size_t size;                    /* sizeof, for growth */
	const char *session;            /* NULL: as snaptrail_session_find() */
	const char *const *tags;        /* those that have all of these; NULL-terminated or NULL */
	uint64_t since_ns, until_ns;    /* since <= time < until; 0: open */
	bool include_incrementals;
	int format;                     /* SNAPTRAIL_JSON, SNAPTRAIL_BINARY */
	/* Takes the next bytes; a negative result stops and is returned. */
	int (*write)(void *arg, const void *p, size_t n);
	void (*progress)(void *arg, uint64_t done, uint64_t total); /* snapshots; or NULL */
	void *arg;
	uint64_t *ret_rounded;          /* integers beyond 2^53 that JSON rounded, or NULL */
};
/* The number of snapshots.  Holds one state at a time. */
int64_t snaptrail_export(struct snaptrail *st, const struct snaptrail_export_options *o);

struct snaptrail_import_error {
	const char *id;                 /* the snapshot's, as it was called there; "" when it has none */
	const char *type;               /* invalid_snapshot, checksum_mismatch, missing_base, damaged, conflict */
	const char *text;
};
struct snaptrail_import_options {
	size_t size;
	/* The next bytes, at most n: how many, 0 at the end, or a negative errno. */
	int64_t (*read)(void *arg, void *p, size_t n);
	bool overwrite;                 /* replace what is there; else it is skipped */
	bool no_validate;               /* take what does not match its checksum, too */
	void (*error)(void *arg, const struct snaptrail_import_error *e);              /* or NULL */
	void (*progress)(void *arg, uint64_t snapshots, uint64_t bytes); /* or NULL */
	void *arg;
};
struct snaptrail_import_result { uint64_t imported, skipped, errors; };
/* Reads what snaptrail_export() or the original wrote, whichever it is: JSON, JSON
 * in gzip, binary.  Snapshots keep their ids, their sessions are made when they
 * are missing.  What cannot be taken is told and counted, the others are
 * imported.  -EINVAL it is no export (the detail has line and column), -EBADMSG it
 * is damaged, -EPROTO newer than this library; then nothing has changed.  What was
 * recorded in this store is never replaced. */
int snaptrail_import(struct snaptrail *st, const struct snaptrail_import_options *o, struct snaptrail_import_result *ret);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
