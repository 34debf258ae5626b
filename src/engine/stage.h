/* The stage: what was drained from the lanes and is not in a segment yet.
 *
 * It is a mapped file beside the rings, because the recorder's heap dies with
 * it: a lane's tail moves only after its records stand here.  A stage is a
 * header and blocks; a block is a run of Changes of one thread, kept as the
 * lane had them (each with the tag of LaneRun.changes, so a block is the body
 * of a LaneRun), or one hot key's last Change in two places of which the one
 * with the higher turn counts, so that a kill in the middle of writing leaves
 * the other.
 *
 * A run that already holds records of which the lane has let go grows by more
 * of them; so how far it goes is one word, `extent`, and after a kill at any
 * instant the block is what it was before or after.  `used` says where a block
 * may begin; the last one may reach beyond it, by what was being added.
 *
 * One writer, the collector; readers of a live session map it read-only. */
#ifndef SNAPTRAIL_ENGINE_STAGE_H
#define SNAPTRAIL_ENGINE_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/clock.h"

#define STAGE_MAGIC 0x33474154534e5331ull
#define STAGE_BYTES (32u << 20)
#define STAGE_FULL (STAGE_BYTES - (1u << 20))

/* Reports that are missing.  Of a lane: up to so many that it had lost by then. */
struct gap {
	uint64_t from_ns, to_ns, lost;
	uint64_t lane, upto;         /* the lane's name; 0: of none */
	char cause[40];
};
#define GAP_NO_LANE UINT64_MAX   /* a name too: of reports that found no lane */
#define STAGE_GAPS 32u           /* the last one takes in what no longer fits */

struct stage_header {
	uint64_t magic;
	uint64_t serial;
	uint64_t used;               /* bytes behind the header; a block begins before it or not yet */
	uint64_t from_ns;
	int64_t offset_ns;
	uint64_t changes, coalesced;
	uint64_t lines;
	struct clock_line line[CLOCK_LINES];
	uint64_t sealed_ns;          /* the watermark when it was sealed; 0: it is still filled */
	uint64_t ngaps;
	struct gap gap[STAGE_GAPS];
};
#define STAGE_HEADER_BYTES 4096u
_Static_assert(sizeof(struct stage_header) <= STAGE_HEADER_BYTES, "a stage's first page");

static inline size_t stage_gaps(const struct stage_header *h) { return h->ngaps < STAGE_GAPS ? h->ngaps : STAGE_GAPS; }
/* All that is missing by its gaps. */
static inline uint64_t stage_lost(const struct stage_header *h)
{
	uint64_t lost = 0;

	for (size_t i = 0; i < stage_gaps(h); i++)
		lost += h->gap[i].lost;
	return lost;
}

enum { BLOCK_RUN = 1, BLOCK_HOT = 2 };

struct stage_block {
	uint32_t type;
	uint32_t pid, tid;
	uint32_t cap;                /* of each place (BLOCK_HOT) */
	uint64_t lane;               /* the lane's name: its claim stamp and thread */
	uint64_t offset;             /* stream offset of the first record */
	uint64_t extent;             /* BLOCK_RUN: see below */
};

/* Of a run: the bytes of its body, and its length in the lane's stream, which
 * is more when some of the lane's records went elsewhere. */
#define EXTENT_BODY_BITS 25 /* a stage has no more */
#define EXTENT_SPAN_MAX ((1ull << (64 - EXTENT_BODY_BITS)) - 1)
static inline uint32_t extent_body(uint64_t e) { return (uint32_t)(e & ((1u << EXTENT_BODY_BITS) - 1)); }
static inline uint64_t extent_span(uint64_t e) { return e >> EXTENT_BODY_BITS; }

struct hot_place {
	uint64_t turn;               /* 0: not valid */
	uint64_t coalesced;
	uint64_t end;
	uint64_t len;
	uint8_t bytes[];
};

/* A block as it was at one moment. */
struct stage_part {
	const struct stage_block *block;
	const struct hot_place *place; /* BLOCK_HOT */
	uint64_t turn;               /* of the place at that moment */
	uint64_t end;                /* stream offset behind its last record */
	const uint8_t *bytes;        /* tag, length, Change; and so on */
	size_t n;                    /* 0: a place in which nothing stands */
	uint64_t coalesced;          /* how many more its last Change stands for */
};

struct stage {
	struct stage_header *h;
	struct stage_block *last;    /* the block that is being written, or NULL */
	int fd;
	uint64_t allocated;          /* bytes of the file that are sure to be there */
	char path[320];
};

/* Makes `<folder>/stage.<serial>`. */
int stage_open(struct stage *s, const char *folder, uint64_t serial, const struct clock *c);
/* Something is missing.  After a kill at any instant it stands here or not at all. */
void stage_gap(struct stage *s, const struct gap *gap);
/* A stage file may be mapped: it has all its length. */
bool stage_is_whole(int fd);
void stage_close(struct stage *s);   /* unmaps */
void stage_remove(struct stage *s);  /* and unlinks */
/* Room for a record of n bytes, allocated if need be. */
bool stage_has_room(struct stage *s, size_t n);
static inline bool stage_is_full(const struct stage *s) { return s->h->used > STAGE_FULL - STAGE_HEADER_BYTES; }

/* Appends one record (tag, length, Change); returns where it stands. */
const uint8_t *stage_put(struct stage *s, uint64_t lane, uint32_t pid, uint32_t tid, uint64_t offset, uint64_t end,
			 const uint8_t *record, uint32_t n);
/* A place for a hot key's Changes. */
struct stage_block *stage_hot(struct stage *s, uint64_t lane, uint32_t pid, uint32_t tid, uint64_t offset, uint32_t n);
/* Writes the next one there; false when it does not fit. */
bool stage_hot_put(struct stage_block *b, uint64_t end, const uint8_t *record, uint32_t n);
const struct hot_place *stage_hot_get(const struct stage_block *b);
void stage_lines(struct stage *s, const struct clock *c);

/* Steps through a stage's blocks: *pos from 0.  False at the end or at damage. */
bool stage_next(const struct stage_header *h, size_t *pos, struct stage_part *ret);
/* Whether its bytes, copied since, are those of that moment: a place in which the
 * recorder goes on writing may have been used again.  If not, *p is as it is now. */
bool stage_part_held(struct stage_part *p);

#endif
