/* What the public interface's files share. */
#ifndef SNAPTRAIL_API_INTERNAL_H
#define SNAPTRAIL_API_INTERNAL_H

#include <pthread.h>

#include "base/config.h"
#include "engine/handed.h"
#include "model/model.h"
#include "snaptrail.h"
#include "store/store.h"

/* A decoded state that several objects and the handle's cache may look at; who
 * edits takes a copy, unless it is the only one. */
struct shared_model {
	struct model *m;
	unsigned refs;              /* atomic */
	size_t bytes;
	char id[STORE_ID_LEN + 1];  /* of the snapshot that it is the state of */
	struct shared_model *older, *newer;
};

struct listener {
	struct listener *next;
	int number;
	char *event;                /* NULL: all */
	void (*told)(void *arg, const struct snaptrail_notification *n);
	void *arg;
};

struct worker;

struct batch_session {
	struct batch_session *next;
	char id[STORE_ID_LEN + 1], name[256];
};

struct snaptrail {
	pthread_mutex_t lock;       /* recursive: a call may come from within a callback */
	unsigned depth;
	pthread_t holder;           /* atomic; 0 nobody */
	struct store *store;
	const struct config *config;
	struct config *own_config;  /* the same, when the handle has to free it */
	char text[2][300];
	char notice[300];           /* what opening could not mend */
	uint64_t *creation;         /* scratch for percentiles */
	struct listener *listeners;
	int last_listener;
	struct shared_model *hot_oldest, *hot_newest;
	size_t hot_bytes;
	uint64_t hot_hits, hot_misses;
	uint64_t created;           /* snapshots of callers' states */
	uint64_t retained_mono_ns;  /* when the limits were last looked at */
	bool batching;
	struct batched_event *batched_events, **batched_last; /* to be told at its end; where the next one goes */
	uint64_t undone_ns;         /* when a batch was given up: nothing seen before is sure to be there */
	struct batch_session *batch_sessions; /* made in the batch, which the store does not show yet */
	struct worker *worker;      /* NULL until something is to be done in the background */
};

/* `HOLD(st);` at the top of a call: the handle is this thread's until it ends. */
static inline struct snaptrail *hold(struct snaptrail *st)
{
	pthread_mutex_lock(&st->lock);
	if (st->depth++ == 0)
		__atomic_store_n(&st->holder, pthread_self(), __ATOMIC_RELAXED);
	return st;
}
static inline void unhold(struct snaptrail **st)
{
	if (--(*st)->depth == 0)
		__atomic_store_n(&(*st)->holder, 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&(*st)->lock);
}
#define HOLD(st) struct snaptrail *held_ __attribute__((cleanup(unhold), unused)) = hold(st)
/* Within a callback of this handle. */
static inline bool held_here(struct snaptrail *st)
{
	return __atomic_load_n(&st->holder, __ATOMIC_RELAXED) == pthread_self();
}

struct snaptrail_state {
	struct shared_model *shared;
	struct model *model;        /* the shared one's */
	uint64_t time_ns, coalesced, lost, seq;
	char session[256];
	/* what its journal stands on */
	const struct snaptrail *base_st;
	uint64_t base_seen_ns;      /* monotonic: when it was known to be there */
	char base_session[STORE_ID_LEN + 1];
	struct handed_base base;
};

static inline const struct snaptrail_value *public_value(const struct value *v)
{
	return (const struct snaptrail_value *)(const void *)v;
}
static inline const struct value *private_value(const struct snaptrail_value *v)
{
	return (const struct value *)(const void *)v;
}

/* Opens the store of `c`, which the handle frees at the end when `own`. */
int handle_open(struct config *c, bool own, const struct store_options *o, struct snaptrail **ret);
void snapshot_public(struct snaptrail *st, const struct snapshot_meta *m, struct snaptrail_snapshot *ret);
/* The session meant by a name or by nobody. */
int session_meant(struct snaptrail *st, const char *name, struct session_meta *ret);
void batch_sessions_forget(struct snaptrail *st);
uint64_t tick_of(const struct snaptrail *st);
int tags_check(const char *const *tags);
/* NULL is none. */
int description_check(const char *text);
/* Limits as configured, now and then: what a handle that writes does by itself. */
void handle_retain(struct snaptrail *st);
/* What a timer does with the state that it was given. */
int handle_create_automatic(struct snaptrail *st, const char *session, struct snaptrail_state *state);

/* ---- states ---- */

/* Takes m. */
struct snaptrail_state *state_of_model(struct model *m, uint64_t time_ns, const char *session);
/* The state of a snapshot, from the handle's cache or by reading it. */
int state_of_snapshot(struct snaptrail *st, const struct snapshot_meta *m, struct snaptrail_state **ret);
/* For writing: no other looks at it, and it is a handed-in one. */
struct model *state_own(struct snaptrail_state *s);
void hot_forget(struct snaptrail *st);
const struct value *field_at(const struct value *v, const char *path);

/* ---- events ---- */

void notify(struct snaptrail *st, const struct snaptrail_notification *n);
/* Tells `error` and returns its code. */
int notify_error(struct snaptrail *st, const char *type, const char *session, const char *id, int code);
void notify_created(struct snaptrail *st, const struct snapshot_meta *m);
/* Its deletion; in a batch, with what was created in it, at the end. */
void notify_deleted(struct snaptrail *st, const char *session, const char *id);
void notify_batched(struct snaptrail *st, bool kept);

/* ---- the thread behind the handle ---- */

/* Takes what `h` holds; its options' strings are copied. */
int worker_queue(struct snaptrail *st, struct handed_snapshot *h, unsigned flags);
/* Until nothing is queued: before anything is read. */
void worker_wait(struct snaptrail *st);
/* The same; the first failure since the last time. */
int worker_settle(struct snaptrail *st);
int worker_every(struct snaptrail *st, const char *session, uint64_t interval_ns, struct snaptrail_state *(*state)(void *arg), void *arg);
/* False: there was none. */
bool worker_stop(struct snaptrail *st, const char *session);
void worker_end(struct snaptrail *st);

#endif
