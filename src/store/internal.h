/* What the store's own files share: the fold of the segments in memory, and
 * the seam between the tiers. */
#ifndef SNAPTRAIL_STORE_INTERNAL_H
#define SNAPTRAIL_STORE_INTERNAL_H

#include <pthread.h>

#include "store/segment.h"
#include "store/store.h"

struct item;

struct run_session {
	struct session_meta m;      /* strings owned */
	struct item **items;        /* by (time_ns, seq) */
	size_t count, cap;
	uint64_t next_seq;
	uint64_t begun_ns, over_ns; /* when the last begin and end record were written */
};

struct item {
	struct snapshot_meta m;     /* strings owned */
	struct record_header h;
	struct run_session *session;
	uint32_t segment;           /* index, UINT32_MAX: in memory alone */
	uint64_t at;
	bool deleted;
	/* the memory tier's */
	struct item *older, *newer;
	uint8_t *kept;
	size_t kept_bytes;
};

/* A tier keeps stored payloads: get() appends one or says -ENOENT. */
struct tier_ops {
	const char *name;
	int (*get)(struct store *s, struct item *i, struct buf *out);
	void (*put)(struct store *s, struct item *i, const void *p, size_t n);
	void (*drop)(struct store *s, struct item *i);
};
extern const struct tier_ops tier_memory, tier_disk;

/* An edit that is not folded yet, because others may have been made before
 * it or because the snapshot it names was not read. */
struct orphan {
	struct record_header h;
	struct buf meta;
};

struct store {
	char *path, *segments_path, *index_path;
	struct store_options o;
	bool in_memory;             /* nothing on disk */
	pthread_mutex_t lock;
	struct segment *segments;
	size_t nsegments;
	uint32_t mine;              /* index of the segment that is written, UINT32_MAX none */
	struct run_session **sessions;
	size_t nsessions;
	struct item **all;          /* every item, sorted by id when `sorted` */
	size_t nall, all_cap;
	bool sorted;
	struct gap_meta *gaps;
	size_t ngaps;
	struct orphan *orphans;
	size_t norphans, orphans_cap;
	uint64_t folded;            /* records since the index was read */
	const struct tier_ops *tiers[3]; /* from near to far */
	struct item *oldest, *newest;    /* the memory tier's order of use */
	uint64_t memory_bytes, memory_items, hits, misses, evicted, damaged;
};

/* One record into the fold. */
void fold_record(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta);
struct item *fold_item(struct store *s, const char id[16]);
/* Edits wait, as segments are read one after the other, until this applies
 * them in the order in which they were made. */
void fold_edits(struct store *s);
void fold_free(struct store *s);
struct run_session *fold_session(struct store *s, const char id[16], bool create);

/* The index file: every record's header and meta without its payload. */
void index_load(struct store *s);
void index_save(struct store *s);

#endif
