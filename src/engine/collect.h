/* The collector: drains the lanes into the stage, merges by time up to the
 * watermark, applies to the live model.
 *
 * One thread.  It is the only consumer of the lanes while it holds the
 * session's lease; salvage runs the same code on what a dead recorder left. */
#ifndef SNAPTRAIL_ENGINE_COLLECT_H
#define SNAPTRAIL_ENGINE_COLLECT_H

#include "base/dir.h"
#include "engine/clock.h"
#include "engine/namespace.h"
#include "engine/stage.h"
#include "model/model.h"
#include "report/ring.h"

/* One lane as the consumer sees it. */
struct lane_view {
	struct lane_view *next;
	struct lane *lane;
	size_t map_bytes;        /* 0: a slot of the board */
	uint8_t *data;           /* where and how long, as checked once: the target can */
	uint32_t size_bytes;     /* write over its own words at any time */
	uint64_t name;           /* lane's name in blocks and runs */
	uint32_t pid, tid;       /* who reports now, by our numbers */
	uint64_t idle_ns;        /* when it was last seen without unfinished records */
	uint64_t stuck_ns;       /* since when its next record is unfinished; 0 it is not */
	uint64_t lost_seen;
	bool dead;               /* its process is gone or has another image */
	char *path;              /* of a ring file */
};

/* A Change that stands in the stage and is not in the model yet. */
struct pending {
	uint64_t time_ns, order, lane;
	const uint8_t *p;        /* the Change, or NULL: look into `hot` */
	struct stage_block *hot;
	uint32_t n, pid, tid, hot_index;
	bool owned;              /* p is a copy of ours */
};

/* A key's allowance, as a token bucket: each change kept costs 1 / max_rate
 * seconds of credit, which time pays back, up to a second's worth.  Changes
 * without credit share a place in the stage, one a tick. */
struct hot_key {
	uint64_t key, tick, seen_ns, credit_ns;
	struct stage_block *block;
	uint32_t epoch;          /* of the collector when the block was made */
	bool pending;
};
#define HOT_KEYS 8192u
#define HOT_CREDIT_NS 1000000000u

struct collector {
	struct board *board;
	char folder[280];
	struct clock clock;
	struct stage stage;
	struct lane_view *views;
	struct lane_view *slots[BOARD_SLOTS];
	struct dir names;        /* of the folder: held open, the process may lose the right to list it */
	uint32_t rings_seen;
	bool unread;             /* a ring file is there that could not be opened or mapped so far */
	uint64_t all_read_ns;    /* when there was none such; the watermark passes it only then */
	struct namespaces namespaces;
	struct buf translated;   /* one record of another namespace */
	struct buf restamped;    /* one record that said it was of a time to come */
	uint64_t now_ns;         /* when this round began, or later */
	struct model *model;
	struct pending *pending;
	size_t npending, pending_cap;
	struct hot_key *hot;
	uint32_t hot_epoch;      /* moves at each fork: nothing is merged across one */
	uint64_t tick_ns;        /* 1 / max_rate; 0: every change is kept */
	uint64_t watermark_ns;   /* what is stamped before has been applied */
	uint64_t changes, coalesced; /* since the session began */
	uint32_t ring_max_bytes;     /* no larger ring file is taken */
	uint64_t lost, voided;
	uint64_t no_lane_seen;
	uint64_t own_offset;     /* of the recorder's own lane */
	const char *secret_words; /* hidden in what is read of /proc; NULL: nothing is */
	/* told of processes: a new lane, an image that began or could not, a child that was started */
	void (*process_seen)(void *arg, uint32_t pid);
	/* told of SNAPSHOT_WANTED when the model has reached its instant exactly; may seal */
	void (*snapshot_wanted)(void *arg, uint64_t time_ns, const struct change *wish);
	void *arg;
};

#define OWN_LANE 1u /* the recorder's own reports */

int collect_begin(struct collector *c, const char *folder, struct board *b, uint64_t stage_serial, uint64_t max_rate);
void collect_end(struct collector *c);

/* Finds lanes that are new; collect_drain() does so itself. */
void collect_find(struct collector *c);

/* One round over all lanes.  Returns how many records it took; *ret_fill is
 * how full the fullest lane was, 0 to 1. */
size_t collect_drain(struct collector *c, double *ret_fill);
/* Brings the model up to the watermark. */
void collect_apply(struct collector *c);
/* As collect_apply, to the end of what was drained. */
void collect_apply_all(struct collector *c);

/* The recorder's own Change; stamped now unless it has a stamp. */
void collect_report(struct collector *c, struct change *ch);

/* A process is gone: what its lanes still hold is final. */
void collect_process_gone(struct collector *c, uint32_t pid);
/* The slot that holds the gauges of its descriptors, or NULL. */
struct lane *collect_gauges(struct collector *c, uint32_t pid);
/* Since when what /proc shows of a process may be behind its reports: now, or
 * the stamp of a call under way whose fact is reported ahead of its effect. */
uint64_t collect_under_way(struct collector *c, uint32_t pid);
uint32_t collect_lanes(const struct collector *c, uint32_t pid);

/* Lanes whose tail did not move after their records were staged here: skips them. */
void collect_skip(struct collector *c, const struct stage_header *h);

/* Changes the stage for a new one.  The old one is handed to the caller. */
int collect_seal(struct collector *c, struct stage *ret_old);
void collect_gap(struct collector *c, uint64_t from_ns, uint64_t to_ns, uint64_t lost, const char *cause);

/* Place among equal times. */
static inline uint64_t change_order(uint64_t lane, uint64_t offset)
{
	return (lane * 0x9e3779b97f4a7c15ull) >> 40 << 40 | (offset & 0xffffffffffull);
}

#endif
