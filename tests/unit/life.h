/* One life of a store: sessions, snapshots, a batch, tags, deletions, compaction,
 * with what it was told is done; and the look at what is there afterwards. */
#ifndef SNAPTRAIL_TESTS_LIFE_H
#define SNAPTRAIL_TESTS_LIFE_H

#include "unit.h"

#define SNAPSHOTS 12u

/* Where the store of the life is. */
extern struct temp_folder folder;

/* What the life says is done, as numbers of calls: shared with the child that is killed. */
struct acks {
	unsigned calls;             /* made so far: whoever sees them counts them */
	unsigned stored[SNAPSHOTS]; /* after how many; 0 never */
	unsigned deleted[SNAPSHOTS];
	unsigned tagged;
	unsigned asked[SNAPSHOTS];  /* its deletion was asked for; 0 never */
};
extern struct acks *acks;

void acks_make(void);
/* Lives, in `folder`. */
void live(void);
/* Opens what is in `folder`: with all that was acknowledged within the first `calls`
 * calls.  Returns what is wrong, NULL: nothing. */
const char *look(unsigned calls, bool damage_is_wrong);
/* That one may go on in it. */
const char *go_on(void);

#endif
