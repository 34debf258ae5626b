/* A session fed by calls instead of lanes: a trace that is read, live or long
 * after it was made.  Its Changes carry their own time, nanoseconds since the
 * epoch, which must not go back; what no instant could tell apart is kept in the
 * order of the calls.  Stage, cuts, flusher and requests are the recorder's own,
 * so a feeder that is killed loses nothing that it fed, and readers see a session
 * that is still fed.
 *
 * One thread.  Failures leave one line in err_detail(). */
#ifndef SNAPTRAIL_ENGINE_FEED_H
#define SNAPTRAIL_ENGINE_FEED_H

#include "base/config.h"
#include "report/change.h"
#include "snaptrail.h"

struct feed;

/* Opens the store and begins the session at `begins_ns`; `name` NULL: one is made
 * of argv[0].  -EEXIST when the session holds later instants already, -EBUSY when it
 * is being recorded.  `config` stays the caller's and must outlive the feed. */
int feed_open(const struct config *config, const char *name, char *const argv[], uint64_t begins_ns, struct feed **ret);
const char *feed_session(const struct feed *f);
/* A Change at `time_ns`, or at the last one's time when that was later (a nanosecond
 * later still when a snapshot was asked for at that very instant); its stamp is set here.  Snapshots are made as the configuration wants them, by this time. */
int feed_put(struct feed *f, uint64_t time_ns, struct change *c);
/* One that was encoded elsewhere, with its thread and place; its stamp is replaced. */
int feed_put_encoded(struct feed *f, uint64_t time_ns, uint32_t pid, uint32_t tid, uint64_t lane, uint64_t offset,
		     const uint8_t *change, size_t n);
/* The state (message SystemState) that the session begins with. */
int feed_load(struct feed *f, uint64_t time_ns, const uint8_t *state, size_t n);
/* `lost` reports are missing in [from, to]; 0: unknown how many. */
void feed_gap(struct feed *f, uint64_t from_ns, uint64_t to_ns, uint64_t lost, const char *cause);
/* No snapshots but by feed_cut(), unless there is no room. */
void feed_by_hand(struct feed *f);
/* A snapshot of `time_ns`, by when all before it was fed.  `tags` NULL-terminated or NULL. */
int feed_cut(struct feed *f, uint64_t time_ns, const char *const *tags, const char *description);
/* Nothing comes for the moment: answers requests, and snapshots what waits for
 * longer than the interval. */
int feed_idle(struct feed *f);
/* The last snapshot and the session's end; with `failed` it ends where it is and
 * says why.  Frees the feed in any case. */
int feed_close(struct feed *f, const char *failed, struct snaptrail_summary *ret);

#endif
