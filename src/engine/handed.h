/* Snapshots of states that callers hand in: storing one, whole or as what
 * changed, and giving it back.
 *
 * They stand on each other by `base_id` alone, whatever their times: two
 * writers of one session, or a state that is dated back, never mix.  A session
 * may hold recorded snapshots and handed-in ones; neither is replayed on the
 * other.  One thread a store handle. */
#ifndef SNAPTRAIL_ENGINE_HANDED_H
#define SNAPTRAIL_ENGINE_HANDED_H

#include "engine/replay.h"
#include "model/model.h"
#include "store/store.h"

/* A stored state that another may stand on, and what reading it costs. */
struct handed_base {
	char id[STORE_ID_LEN + 1];
	uint64_t time_ns;
	uint64_t full_ns, full_bytes; /* of the full snapshot at the bottom of the chain */
	uint64_t grown_bytes, links;  /* of the incrementals on it, and how many */
};

struct handed_options {
	const char *id;            /* "" or NULL: a new one */
	const char *foreign_id;    /* NULL none */
	const struct handed_base *base; /* what the model's journal stands on; NULL: it has none */
	const char *const *tags;   /* NULL-terminated or NULL */
	const char *description;   /* or NULL */
	int type;                  /* SNAPSHOT_FULL, SNAPSHOT_INCREMENTAL; 0: as it comes */
	int origin;                /* 0: manual */
	bool whole;                /* as it comes is full: incrementals are off */
	uint64_t time_ns;          /* 0: now */
	uint64_t full_every_ns;    /* as it comes is full after that long; 0: never */
};

/* What is ready to be appended. */
struct handed_snapshot {
	struct snapshot_meta m;    /* its strings and lists are the options' */
	struct buf payload;
	struct handed_base after;  /* for the next one on it */
};
void handed_snapshot_done(struct handed_snapshot *h);

/* The session of a name, made when it is missing.  -EINVAL for a bad name. */
int handed_session(struct store *st, const char *name, uint64_t time_ns, struct session_meta *ret);
/* Copies: the model may change at once; a journal is taken.  An incremental is what the model's
 * journal says when `base` is given, and else what differs from the last
 * state of the session; the first of a session holds everything. */
int handed_prepare(struct store *st, const char *session_id, struct model *state, const struct handed_options *o,
		   struct handed_snapshot *ret);
/* Both, and store_append(). */
int handed_append(struct store *st, const char *session, struct model *state, const struct handed_options *o,
		  struct snapshot_meta *ret);

/* The state of a handed-in snapshot. */
int handed_state(struct store *st, const struct snapshot_meta *m, struct model **ret);
/* replay() of a session that has only handed-in snapshots: observed, what each
 * changed of the one before it in time. */
int handed_replay(struct store *st, const struct replay_query *q, struct replay_result *ret);
/* The payload of a full snapshot with the state of `m`, recorded or handed in. */
int handed_full(struct store *st, const struct snapshot_meta *m, struct buf *ret);
/* The last handed-in snapshot of a session at or before an instant: -ENOENT. */
int handed_floor(struct store *st, const char *session_id, uint64_t time_ns, struct snapshot_meta *ret);

#endif
