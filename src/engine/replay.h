/* Replay: the state at any instant, from the nearest full snapshot and the
 * Changes behind it, stored or still in a live session's stage and lanes.
 *
 * Readers' side; one thread a handle.  A live session is only looked at: no
 * lock, nothing moved, nothing written. */
#ifndef SNAPTRAIL_ENGINE_REPLAY_H
#define SNAPTRAIL_ENGINE_REPLAY_H

#include "model/model.h"
#include "store/store.h"

struct replay_result {
	struct model *model;     /* the caller frees it */
	uint64_t time_ns;        /* of the last Change applied, or of the base */
	uint64_t coalesced;      /* merged away in the tick that holds the instant */
	uint64_t lost;           /* known to be missing in a gap that touches it */
	uint64_t seq;            /* of the last Change */
};

/* Told before each Change is applied. */
typedef void (*replay_tick)(void *arg, uint64_t time_ns, uint64_t seq, const struct change *c);

/* A Change as it is stored, and where it stands. */
struct replay_fact {
	uint64_t time_ns, seq, lane, offset;
	uint32_t pid, tid, n;
	const uint8_t *p;
	struct model *before;    /* the state that it changes */
	uint64_t before_ns;      /* ... and the time of that */
};
/* Told of each Change from from_ns on before it is applied; false: that is enough. */
typedef bool (*replay_each)(void *arg, const struct replay_fact *f);

struct replay_query {
	const char *session_id;
	uint64_t until_ns;       /* the instant; UINT64_MAX: to the end */
	uint64_t from_ns;        /* where observing or `each` begins; without them: at the base of until_ns */
	const char *store_folder; /* where live pointers are; NULL: stored alone */
	model_observer observe;  /* fields that change after from_ns, or NULL */
	replay_tick tick;
	replay_each each;
	void *arg;
	uint64_t tick_ns;        /* of coalescing, to say what an instant misses */
};

/* -ENODATA: the recording begins later. */
int replay(struct store *s, const struct replay_query *q, struct replay_result *ret);

/* The `stage` number of a session's last stored payload, 0 none. */
uint64_t replay_last_stage(struct store *s, const char *session_id);

#endif
