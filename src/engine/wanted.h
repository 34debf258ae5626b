/* Snapshots that recorded programs ask for, bounded: at most one each tenth of
 * a second is cut at its own instant, and the requests between are one snapshot
 * that carries what all of them said.
 *
 * Embedded in the recorder, zeroed; its thread alone. */
#ifndef SNAPTRAIL_ENGINE_WANTED_H
#define SNAPTRAIL_ENGINE_WANTED_H

#include <stdbool.h>
#include <stdint.h>

#include "report/change.h"

#define WANTED_EVERY_NS 100000000u
#define WANTED_TAGS 64u       /* of one snapshot; more are left out */
#define WANTED_TAG_BYTES 255u

struct wanted {
	uint64_t requests;        /* that wait */
	uint64_t again_mono_ns;   /* not cut before */
	char *tags[WANTED_TAGS + 1]; /* each once */
	uint32_t ntags;
	char *description;        /* of the last that gave one */
};

void wanted_add(struct wanted *w, const struct change *wish);
/* Whether a snapshot is to be cut now. */
bool wanted_due(const struct wanted *w, uint64_t mono_ns);
/* The snapshot at hand is theirs: its tags are added to the NULL-terminated list,
 * and *ret_description is the caller's.  False: nobody waits for one. */
bool wanted_take(struct wanted *w, char ***tags, char **ret_description);
void wanted_done(struct wanted *w);

#endif
