/* Retention by recorders and programs that write: the configured limits, applied
 * now and then.  On the thread that writes the store. */
#ifndef SNAPTRAIL_ENGINE_RETAIN_H
#define SNAPTRAIL_ENGINE_RETAIN_H

#include "base/config.h"
#include "store/store.h"

void retain_limits(const struct config *c, struct store_retention *ret);
/* What deletion asks of the engine; arg is the store. */
int retain_fold(void *store, const struct snapshot_meta *m, struct buf *out);

#define RETAIN_EVERY_NS 600000000000u
#define RETAIN_SHARE 16u     /* of a limit, by which it may be passed before anything goes */
#define RETAIN_COST 20u      /* looking takes at most this part of the time */

/* What one who writes has written since it looked. */
struct retainer {
	uint64_t bytes, snapshots;
	uint64_t looked_mono_ns, took_ns;
};

void retain_wrote(struct retainer *w, const struct snapshot_meta *m);
/* Deletes what is beyond a limit by a RETAIN_SHARE: once in RETAIN_EVERY_NS a store,
 * whoever asks, and when this one has written that much itself.  0, or the failure. */
int retain_if_due(struct store *s, const struct config *c, struct retainer *w);

#endif
