/* What the model's own files share: making, changing and removing entities. */
#ifndef SNAPTRAIL_MODEL_INTERNAL_H
#define SNAPTRAIL_MODEL_INTERNAL_H

#include <stdio.h>

#include "model/model.h"

#define PROCESS_BUCKETS 1024u

struct environment {
	struct environment *next;
	uint64_t hash;     /* 0: not named, it goes with its last user */
	uint32_t users;    /* of one that is not named */
	struct value list; /* of strings NAME=value */
};

/* Call stacks or modules: encoded messages by id, in the order of their coming. */
struct said_pool {
	struct said **slots;        /* a hash */
	struct said **order;
	size_t nslots, count, cap, bytes;
};

struct model {
	struct entity **buckets;
	size_t nbuckets, nentities; /* tombstones included */
	struct entity *first[TABLE_COUNT], *last[TABLE_COUNT];
	size_t count[TABLE_COUNT];
	struct came {
		struct entity *e[8]; /* the last ones that were listed: a walk will pass the next one soon after them */
		unsigned turn;
	} came[TABLE_COUNT];
	size_t bytes;               /* keys and values, roughly */
	struct process *processes[PROCESS_BUCKETS];
	struct process *recent;     /* the last one looked up */
	uint32_t nprocesses, nprocesses_settled;
	struct environment *environments;
	uint32_t nenvironments;
	struct entity **graves;     /* tombstones in order of burial, a ring */
	size_t graves_head, graves_count, graves_cap;
	uint64_t graves_gone;       /* the number of the one at the head */
	struct ended {
		struct entity *e;   /* NULL: it went, or began again */
		uint64_t number;    /* as e->ended was */
	} *ended;                   /* ended agents and tasks in order, a ring */
	size_t ended_head, ended_count, ended_cap, ended_live; /* live: those that are not NULL */
	uint64_t ended_last;        /* given to the last one */
	char swarm[48];             /* the key of the session's swarm, "" before the first process */
	struct said_pool stacks, modules;
	uint64_t processes_seen, processes_unheard, threads_seen;
	uint32_t alive;
	int64_t active_agents, running_tasks;
	model_observer observe;
	void *observe_arg;
	/* a state that was handed in */
	bool handed, layout_changed, journaled;
	struct layout_entry *layout;
	size_t nlayout;
	uint32_t *layout_slots;     /* their hash, when they are many */
	size_t nlayout_slots;
	uint32_t laid_out;          /* tables that stand in the layout, as bits */
	struct buf journal, scratch;
	uint64_t journal_changes;
	uint8_t *arena;             /* entities of a loaded state: pieces, the newest first */
	size_t arena_left;
	struct buf *kept;           /* payloads that rows point into */
	size_t nkept;
};

/* The Change at work: when it holds and who made it. */
struct moment {
	struct model *m;
	uint64_t time_ns, order;
	uint32_t pid, tid;
	uint8_t source;
};

/* For a Change that wants to set or delete a key: the entity (made when it is
 * missing and `create`), or NULL when a newer fact of the key is known. */
struct entity *entity_take(struct moment *at, enum table t, const char *key, size_t n, bool create);
/* Deletes a key, known or not yet: a tombstone stays either way. */
void entity_delete(struct moment *at, enum table t, const char *key, size_t n);
/* Removes it, leaving a tombstone. */
void entity_bury(struct moment *at, struct entity *e);
void entity_rename(struct moment *at, struct entity *e, const char *key, size_t n);
struct entity *entity_new(struct model *m, enum table t, const char *key, size_t n);
/* The latest comes first; one that is owned already stays where it is, so
 * that within a table this is the table's order reversed. */
void entity_own(struct model *m, struct entity *e, struct process *p);

/* Set a field, tell the observer when it differs.  Names are literals. */
void field_take(struct moment *at, struct entity *e, const char *name, struct value v);
void field_text(struct moment *at, struct entity *e, const char *name, const void *p, size_t n);
void field_str(struct moment *at, struct entity *e, const char *name, const char *s);
void field_int(struct moment *at, struct entity *e, const char *name, int64_t v);
void field_ms(struct moment *at, struct entity *e, const char *name, uint64_t ns);
/* Replaces the whole value of an entity; takes v. */
void entity_assign(struct moment *at, struct entity *e, struct value v);
void entity_born(struct moment *at, struct entity *e);

/* Takes the fields of an object, leaving the others; takes no ownership of v. */
void entity_patch(struct moment *at, struct entity *e, const struct value *v);
/* Without it from now on. */
void field_drop(struct moment *at, struct entity *e, const char *name);

/* An ended agent or task, to be forgotten when too many follow it. */
void model_ended(struct moment *at, struct entity *e);
void model_unended(struct model *m, struct entity *e);
/* 1, 2 ... without the holes of those that are gone: for saving. */
void model_renumber_ended(struct model *m);
/* Puts one that has its place back; called in order. */
void model_ended_again(struct model *m, struct entity *e);
/* Keeps the numbers of active agents and running tasks: to be called when an
 * entity's status may have changed. */
void entity_recount(struct model *m, struct entity *e);
bool agent_ended(const struct entity *e);
/* "p123" and "p123/..." belong to process 123: 0 for other keys. */
uint32_t key_pid(const char *key, bool *ret_whole);

struct process *process_get(struct model *m, uint32_t pid, bool create);
/* An image of this path or name was started: nothing has been heard of it yet. */
void process_await(struct process *p, struct bytes path, uint64_t time_ns);
struct environment *environment_get(struct model *m, uint64_t hash, bool create);
/* One without a hash, of one user: its maker. */
struct environment *environment_unnamed(void);
void environment_unref(struct environment *v);

/* Call stacks: the Changes STACK and MODULE, and fields of SystemState. */
enum { STATE_LAYOUT = 12, STATE_MODULES = 13, STATE_STACKS = 14 };
void stacks_take(struct model *m, const struct change *c);
void stacks_save(const struct model *m, struct buf *out);
bool stacks_load(struct model *m, uint32_t field, struct bytes message);
void said_done(struct said_pool *p);

/* Layout, journal, arena: what a handed-in state has beside its tables. */
void handed_done(struct model *m);
struct entity *handed_entity(struct model *m, enum table t, const char *key, size_t n);
/* One that is entered by who asks. */
struct entity *handed_room(struct model *m, size_t key_len);
/* Without a stamp for a handed-in state: what model_save() writes of an entity
 * behind its tag and length, and the way back. */
void entry_pack(const struct entity *e, bool stamped, struct buf *out);
bool entry_unpack(struct entity *e, const uint8_t *p, size_t n);
/* A new one, whose memory is given, into hash and list. */
void entity_enter(struct model *m, struct entity *e, enum table t, const char *key, size_t n);
/* Out of hash and list, and freed. */
void entity_remove(struct model *m, struct entity *e);
/* The two halves of it: a large state's hash is far from any cache, so what goes
 * into it waits a little behind what is asked for. */
void entity_list(struct model *m, struct entity *e, enum table t, const char *key, size_t n);
void entity_hash(struct model *m, struct entity *e);
/* The same for looking up: first the bucket is asked for, then what is in it. */
struct key_hint {
	uint64_t hash;
	struct entity **bucket;
};
void model_expect_key(const struct model *m, enum table t, const char *key, size_t n, struct key_hint *h);
void model_expect_entity(const struct key_hint *h);
/* So many entities will come: the hash grows once. */
void model_expect(struct model *m, size_t entities);
void entity_drop_row(struct entity *e);

/* The known fields of a table's entities. */
enum field_kind { FIELD_TEXT, FIELD_INT, FIELD_REAL, FIELD_OBJECT };
struct field {
	const char *name;
	uint32_t number;
	enum field_kind kind;
};
const struct field *schema_fields(enum table t);

#define ENDED_KEPT 1024u   /* ended agents and tasks that stay in the state */
#define CHANNEL_KEPT 64u   /* messages that stay of a channel fed by hooks */
#define MESSAGES_KEPT 1000u /* and of one that the program feeds */

/* ---- messages that wait to be looked at: late.c ---- */

/* Appends an encoded object that on_message() would complete. */
void late_push(struct entity *e, uint32_t pid, uint64_t said_ns, struct bytes value, uint32_t kept);
void late_unfold(struct entity *e);
void late_free(struct entity *e);
/* What a message does not say itself. */
void message_complete(struct value *v, uint32_t pid, uint64_t said_ns);

/* ---- between the files that apply Changes ---- */

struct key {
	char text[1100];
	size_t n;
};

static inline void key_pid_only(struct key *k, uint32_t pid) { k->n = (size_t)sprintf(k->text, "p%u", pid); }

static inline void key_thread(struct key *k, uint32_t pid, uint32_t tid) { k->n = (size_t)sprintf(k->text, "p%u/t%u", pid, tid); }

static inline void key_fd(struct key *k, uint32_t pid, int fd) { k->n = (size_t)sprintf(k->text, "p%u/fd%d", pid, fd); }

static inline void key_named(struct key *k, uint32_t pid, const char *middle, const void *name, size_t n)
{
	k->n = (size_t)sprintf(k->text, "p%u/%s", pid, middle);
	if (n > sizeof k->text - k->n - 1)
		n = sizeof k->text - k->n - 1;
	memcpy(k->text + k->n, name, n);
	k->n += n;
	k->text[k->n] = 0;
}

static inline void set_str(struct value *o, const char *name, const char *s) { value_set(o, name, strlen(name), true, value_str(s)); }
static inline void set_int(struct value *o, const char *name, int64_t i) { value_set(o, name, strlen(name), true, value_int(i)); }
static inline void set_text(struct value *o, const char *name, const void *p, size_t n)
{
	value_set(o, name, strlen(name), true, value_text(p, n));
}

/* PROCESS_BEGAN and the other kinds that may make a process. */
void apply_process(struct moment *at, const struct change *c, const uint8_t *raw, size_t n);
/* Its own doings: exec, exit, threads. */
void apply_agent(struct moment *at, struct process *p, const struct change *c);
/* What a program says itself: agents, tasks, values, messages, marks. */
void apply_explicit(struct moment *at, struct process *p, const struct change *c);
/* Those of its agents and tasks that did not end end with it. */
void explicit_end(struct moment *at, struct process *p, const char *reason);
/* An agent or task that a process said of itself, not one of the process's own. */
bool explicit_entity(const struct entity *e);
/* Descriptors, files, sockets. */
void apply_fd(struct moment *at, struct process *p, const struct change *c);

void swarm_update(struct moment *at);
/* NULL when something newer is known. */
struct entity *memory_set(struct moment *at, struct process *p, const struct key *k, const void *v, size_t n, const char *type);
void memory_unset(struct moment *at, const struct key *k);
/* The generic kinds as they are. */
void apply_entity(struct moment *at, const struct change *c);
/* Appends to a channel of which `kept` to twice as many messages stay; takes v. */
void channel_push(struct moment *at, struct entity *e, struct value v, uint32_t kept);
void env_unfold(struct model *m, struct process *p);
void channel_add(struct moment *at, struct process *p, const char *channel, const char *direction,
		 const char *target, const void *message, size_t n);
/* A field of a descriptor's allocation, or NULL; e may be NULL. */
const struct value *allocation_of(const struct entity *e, const char *name);
/* The folder that relative paths start from. */
const struct value *folder_of(struct moment *at, uint32_t pid, bool has_dir, int dir);
/* The path as the kernel will spell it, if no symbolic link is in it. */
bool path_infer(struct moment *at, struct bytes path, bool has_dir, int dir, struct buf *ret);
void fd_seen(struct moment *at, struct process *p, int fd, struct bytes link);
void fd_copy(struct moment *at, struct process *p, const struct entity *from, int to, uint64_t cloexec);

#endif
