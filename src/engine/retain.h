/* Retention by recorders and programs that write: the configured limits, applied
 * now and then.  On the thread that writes the store. */
#ifndef SNAPTRAIL_ENGINE_RETAIN_H
#define SNAPTRAIL_ENGINE_RETAIN_H

#include "base/config.h"
#include "store/store.h"

void retain_limits(const struct config *c, struct store_retention *ret);
/* What deletion asks of the engine; arg is the store. */
int retain_fold(void *store, const struct snapshot_meta *m, struct buf *out);
/* Once in RETAIN_EVERY_NS a store, whoever asks: deletes what is beyond a limit
 * by a sixteenth.  0, or the failure. */
int retain_if_due(struct store *s, const struct config *c);

#define RETAIN_EVERY_NS 600000000000u

#endif
