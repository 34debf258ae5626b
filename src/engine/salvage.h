/* Salvage: what a recorder that is gone left in its stages and lanes.
 *
 * Done under the session's lease: by the next command that opens the store,
 * which ends the session when nobody of it lives, and by a recorder that takes
 * the session over. */
#ifndef SNAPTRAIL_ENGINE_SALVAGE_H
#define SNAPTRAIL_ENGINE_SALVAGE_H

#include "engine/collect.h"
#include "engine/session.h"
#include "store/store.h"

struct old_stage {
	uint64_t serial;
	char path[600];
};

struct leftovers {
	struct stage_header newest; /* magic 0: there is no stage */
	struct old_stage *stages;   /* in order */
	size_t n;
	uint64_t next_serial;       /* of a stage that follows them */
	uint64_t latest_ns;         /* the last instant that they tell of */
};

/* Brings what a dead recorder left of one session into the store. */
int salvage_session(struct store *store, const char *pointer);
/* All sessions of a store whose recorder died; 0, or the first failure, told in
 * err_detail(): what is left of that one stays for the next try. */
int salvage_all(struct store *store);

/* Each stage that is not stored yet becomes a snapshot of `origin`. */
int salvage_stages(struct store *store, struct session *s, int origin, struct leftovers *ret);
/* Lanes go on behind what the stages hold.  A negative errno: a stage could not be read. */
int salvage_skip(struct collector *c, const struct leftovers *l);
/* Frees the list; with `remove` the files go too. */
void salvage_done(struct leftovers *l, bool remove);
/* A clock that goes on where the dead recorder's was. */
void salvage_clock(const struct leftovers *l, const struct board *b, struct clock *ret);

#endif
