/* The flusher: one thread that turns cuts into stored snapshots.
 *
 * A cut hands over a sealed stage and, for a full one, the packed state.  The
 * flusher builds the payload, lets the store compress, append and sync it, and
 * only then removes the stage file: until that moment the stage is what a
 * salvage would read.  The queue is bounded; flush_try_put() says when it is
 * full and the collector keeps staging.
 *
 * What cannot be stored is tried again, in order and for as long as the session
 * lasts: nothing may follow a snapshot that is missing.  What is left at the end
 * stays in the session's folder, for the salvage that the next command does. */
#ifndef SNAPTRAIL_ENGINE_FLUSH_H
#define SNAPTRAIL_ENGINE_FLUSH_H

#include <pthread.h>

#include "base/config.h"
#include "engine/collect.h"
#include "engine/retain.h"
#include "store/store.h"

struct cut {
	struct snapshot_meta meta;
	char **tags;                 /* owned, NULL-terminated or NULL */
	char *description;           /* owned or NULL */
	struct stage stage;          /* owned */
	struct buf state;            /* SystemState, empty for an incremental; owned */
	uint64_t from_ns;
	uint64_t begun_mono_ns;
	bool force_compression;
};

#define FLUSH_QUEUE 4u

struct flush_status {
	uint64_t stored, raw_bytes, stored_bytes;
	uint64_t dropped;            /* left at the end */
	size_t queued;
	unsigned failures;           /* of the first in the queue, one after the other */
	char error[256];             /* the last failure, "" for none */
};

struct flusher {
	struct store *store;
	const struct config *config; /* whose limits are applied; NULL: none */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct cut *queue[FLUSH_QUEUE];
	size_t head;
	bool stop, busy, running;
	uint64_t again_mono_ns;      /* in place: not tried before */
	bool in_place;               /* no thread of its own: a cut is stored by who puts it */
	bool ending;                 /* the session's end record follows the cuts and syncs them too */
	struct flush_status now;     /* under the lock */
	struct retainer wrote;       /* the thread's own */
};

/* With `in_place` there is no thread: flush_try_put() does the work itself. */
int flush_start(struct flusher *f, struct store *s, const struct config *c, bool in_place);
/* Takes the cut, or false when the queue is full. */
bool flush_try_put(struct flusher *f, struct cut *c);
/* Waits until the queue has room.  False: it is stuck. */
bool flush_wait_room(struct flusher *f);
/* Waits until all that was put is stored.  False: it is stuck, as the store is full
 * or worse; why is in its status. */
bool flush_wait(struct flusher *f);
/* As it is at this moment; any thread. */
struct flush_status flush_status(struct flusher *f);
/* What failed before there was a cut to put. */
void flush_failed(struct flusher *f, const char *why);
/* In place: what could not be stored, once more. */
void flush_again(struct flusher *f);
/* Ends it; what could not be stored has been dropped from the queue, with its stages left. */
void flush_stop(struct flusher *f);

/* The parts of a message Snapshot.  One LaneRun: *p as it is in *out. */
void cut_run(struct stage_part *p, struct buf *out);
/* By what a stage's stamps become times, and which stage it is. */
void cut_clock(const struct stage_header *h, struct buf *out);
/* message Snapshot of a sealed stage (and of a state), also for salvage. */
void cut_payload(const struct stage_header *h, const struct buf *state, uint64_t from_ns, uint64_t time_ns,
		 struct buf *out);
/* What is missing by a stage that is stored. */
void note_gaps(struct store *st, const char *session_id, const struct stage_header *h);
void cut_free(struct cut *c);

#endif
