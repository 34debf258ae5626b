/* The state model: seven ordered tables of entities, changed by Changes.
 *
 * It does no I/O, has no threads and reads no clock: time arrives in Changes,
 * so a replayed recording behaves like a live one.  A Change is taken for a
 * key only when its (time, order) is greater than that of the key's last;
 * deleted keys leave a tombstone until model_settle() passes them.
 *
 * One thread at a time. */
#ifndef SNAPTRAIL_MODEL_MODEL_H
#define SNAPTRAIL_MODEL_MODEL_H

#include "base/buf.h"
#include "model/value.h"
#include "report/change.h"

enum table {
	TABLE_AGENTS = 1, TABLE_TASKS, TABLE_MEMORY, TABLE_COMMUNICATIONS, TABLE_RESOURCES, TABLE_SWARMS,
	TABLE_METRICS, TABLE_COUNT,
};

struct patch;

/* What a walk over a table and a lookup need comes first: a line of the cache. */
struct entity {
	struct entity *next, *prev;       /* in the table's order */
	const void *ahead;                /* some places further on when it came, to be fetched: it may be gone */
	const uint8_t *row;               /* of a handed-in state: the encoded entry, or NULL when value is newer */
	union {
		struct patch *patches;    /* Changes on top of it that were not looked at either, the last first */
		struct late *messages;    /* with `late`: of a channel, behind those in value */
	};
	struct entity *chain;             /* hash */
	uint64_t hash;
	uint32_t row_len, key_len;
	uint8_t table, source;
	bool dead;                        /* a tombstone: in no table */
	bool counted;                     /* among the active agents or running tasks */
	bool folded;                      /* value is not decoded yet, or not all of it: row or messages hold it */
	bool row_owned, in_arena, late;
	bool inherited;                   /* a variable as its process's unfolded environment has it */
	struct value value;               /* an object; a list of messages; a bare number: see entity_value() */
	uint64_t time_ns, order;          /* of the last Change taken */
	struct entity *owned_next, *owned_prev; /* of the same process */
	struct process *owner;
	union {
		uint64_t dropped;         /* messages that the bound let go */
		uint64_t grave;           /* of a tombstone: its number in the row of them */
	};
	uint64_t ended;                   /* an agent or task that ended: its place in that order; 0 else */
	char key[];                       /* NUL-terminated */
};

struct model;

struct model *model_new(void);
void model_free(struct model *m);

/* Who made a Change. */
struct origin {
	uint32_t pid, tid;
	uint64_t lane, order;
};

/* Applies one encoded Change whose stamp means `time_ns`.  False: damaged. */
bool model_apply(struct model *m, const struct origin *o, uint64_t time_ns, const uint8_t *p, size_t n);

/* Nothing stamped before `time_ns` will come any more. */
void model_settle(struct model *m, uint64_t time_ns);

/* Told of every field that changes; `field` "" means the whole entity.
 * `before` or `after` is NULL where it was not there. */
typedef void (*model_observer)(void *arg, const struct entity *e, const char *field, const struct value *before,
			       const struct value *after);
void model_observe(struct model *m, model_observer fn, void *arg);

/* message SystemState. */
void model_save(struct model *m, uint64_t time_ns, struct buf *out);
bool model_load(struct model *m, const uint8_t *p, size_t n);

/* Bytes that may still be coming. */
struct model_source {
	const uint8_t *there;             /* as far as they have come */
	/* Waits until those before `end` have; returns how far they have. */
	const uint8_t *(*upto)(void *arg, const uint8_t *end);
	void *arg;
};
/* Waits for the bytes before `end`; false: they will not come.  NULL: all are there. */
static inline bool model_source_has(struct model_source *s, const uint8_t *end)
{
	if (s == NULL || end <= s->there)
		return true;
	s->there = s->upto(s->arg, end);
	return end <= s->there;
}
/* As wire_next(), where the bytes of the field itself may be missing still. */
int model_source_next(struct model_source *s, const uint8_t *p, size_t n, size_t *pos, struct wire *ret);
bool model_load_from(struct model *m, const uint8_t *p, size_t n, struct model_source *s);

/* One frame of a call stack: its return address, and the file it lies in (path
 * "" when there is none).  An address minus the bias is the file's own. */
struct model_frame {
	uint64_t address, module;
	struct bytes path, build_id;
	uint64_t start, length, bias;
};
#define MODEL_STACK_FRAMES 64
/* The frames of a stack, innermost first; 0 when it is not known.  They point
 * into the model.  *ret_cut: there were more than the recording's depth. */
size_t model_stack(const struct model *m, uint64_t id, struct model_frame *ret, size_t cap, bool *ret_cut);

/* Makes entries of what stands for them; before looking at the memory table. */
void model_unfold(struct model *m);
size_t model_count(const struct model *m, enum table t);
const struct entity *model_first(const struct model *m, enum table t);
struct entity *model_find(const struct model *m, enum table t, const char *key, size_t n);
/* Bytes that model_save() would write, roughly: kept up to date cheaply. */
size_t model_size(const struct model *m);

/* ---- states that are handed in ----
 *
 * A caller's own state: whatever JSON can say under seven tables, kept as it
 * came, in its order, with no meaning read into it.  Entries stay encoded until
 * somebody looks inside, so that loading, saving and copying a large state
 * touches no field.  Edits are noted as Changes in a journal, which is what an
 * incremental snapshot is made of. */

/* What stood at the top of the state: a table, or a plain value beside them. */
struct layout_entry {
	char *name;               /* NUL-terminated */
	uint32_t name_len;
	enum table table;         /* 0: a value */
	struct value value;
};

struct model *model_new_handed(void);
bool model_is_handed(const struct model *m);
/* The same state as one that can be edited: of a recorded one its tables. */
struct model *model_copy_handed(struct model *m);
/* In order; n = 0: nobody gave one, and it is the usual. */
const struct layout_entry *model_layout(const struct model *m, size_t *ret_n);
/* Adds or replaces by name; takes v. */
void model_layout_add(struct model *m, const char *name, size_t n, enum table t, struct value v);
/* Whether the layout differs from what the journal's base had. */
bool model_layout_changed(const struct model *m);
/* table[key] = v, in place when the key is there, else at the end; takes v. */
void model_put(struct model *m, enum table t, const char *key, size_t n, struct value v);
/* The same by an encoded entry (message AgentEntry and the like). */
bool model_put_row(struct model *m, enum table t, const char *key, size_t n, const uint8_t *row, size_t row_len);
/* One field of an entity, made when it is missing; takes v. */
void model_put_field(struct model *m, enum table t, const char *key, size_t n, const char *field, size_t field_len, struct value v);
/* Appends to a channel; takes v. */
void model_put_message(struct model *m, const char *key, size_t n, struct value v);
/* False: it was not there. */
bool model_drop(struct model *m, enum table t, const char *key, size_t n);
bool model_drop_field(struct model *m, enum table t, const char *key, size_t n, const char *field, size_t field_len);
/* Applies a Change of a journal.  False: damaged. */
bool model_patch(struct model *m, uint64_t time_ns, const uint8_t *p, size_t n);
/* Those of a whole LaneRun, each when somebody looks: the bytes go to model_keep(). */
bool model_patch_later(struct model *m, uint64_t time_ns, const uint8_t *run, size_t n);
#define JOURNAL_HEAD 6u /* bytes in front, for the tag and length of the LaneRun */
/* The Changes since model_journal_begin(), as fields `changes` of a LaneRun
 * behind JOURNAL_HEAD bytes of room.  NULL when there is no journal or it has
 * outgrown the state it stands for. */
const struct buf *model_journal(const struct model *m, uint64_t *ret_changes);
void model_journal_begin(struct model *m);
/* Takes it; there is none until the next beginning. */
void model_journal_take(struct model *m, struct buf *ret);
/* Bytes from anywhere, message SystemState, into an empty handed-in model:
 * everything is decoded once, keys that stand twice are the last one's.
 * False: they are not one. */
bool model_load_checked(struct model *m, const uint8_t *p, size_t n);
/* Takes the bytes that model_load() was given and rows point into. */
void model_keep(struct model *m, struct buf *payload);
/* What turns `from` into `to`, both handed in, in to's order, appended as a
 * journal's Changes; their number. */
uint64_t model_differ(const struct model *from, const struct model *to, struct buf *ret);
void layout_pack(const struct model *m, uint32_t field, struct buf *out);
bool layout_unpack(struct model *m, const uint8_t *p, size_t n);

/* The encoded entry, when that is all that is known of it. */
static inline const uint8_t *entity_row(const struct entity *e) { return e->patches ? NULL : e->row; }
/* The entity's value, decoded when it was not yet. */
const struct value *entity_value(const struct entity *e);

const char *table_name(enum table t);
enum table table_by_name(const char *name, size_t n);

/* ---- what the engine asks of processes ---- */

struct process {
	struct process *next;
	struct entity *owned;             /* all its entities but tombstones */
	struct entity *agent;             /* may be NULL for a moment */
	uint32_t pid;
	uint32_t exec_count;
	bool alive;
	/* An image was started of which nothing has been heard: since when (0: none), and what
	 * its name will be. */
	uint64_t awaited_ns;
	char awaited[16];
	/* An inherited environment stands for its entries in the memory table
	 * until somebody looks at them or changes one. */
	struct environment *env;
	uint64_t env_time_ns, env_order;
	struct environment *unfolded;     /* what stands in the memory table now, all of it while so many */
	uint32_t inherited;               /* entries are marked as that */
};
struct process *model_process(struct model *m, uint32_t pid);
/* A process's entity: `p<pid>` + suffix. */
struct entity *model_process_entity(struct model *m, uint32_t pid, enum table t, const char *suffix);
/* When it last changed, its end included (as long as that is settled); 0 never. */
uint64_t model_changed_ns(struct model *m, uint32_t pid, enum table t, const char *suffix);
/* A wait status, as far as the process said how it ends; -1 unknown. */
int model_exit_status(struct model *m, uint32_t pid);
/* It has ended, and somebody said how. */
bool model_end_known(struct model *m, uint32_t pid);
uint32_t model_processes_alive(const struct model *m);
uint64_t model_processes_seen(const struct model *m);
/* Of these the ones that ended with an image of which nothing was heard. */
uint64_t model_processes_unheard(const struct model *m);
uint64_t model_threads_seen(const struct model *m);

#endif
