/* The two tiers behind one seam.  Memory keeps stored payloads within a byte
 * budget and lets go of the least recently used; disk is the segments. */
#include "store/internal.h"

#include <errno.h>

static void unlist(struct store *s, struct item *i)
{
	*(i->older ? &i->older->newer : &s->oldest) = i->newer;
	*(i->newer ? &i->newer->older : &s->newest) = i->older;
	i->older = i->newer = NULL;
}

static void enlist(struct store *s, struct item *i)
{
	i->older = s->newest;
	i->newer = NULL;
	*(s->newest ? &s->newest->newer : &s->oldest) = i;
	s->newest = i;
}

static void memory_drop(struct store *s, struct item *i)
{
	if (i->kept == NULL)
		return;
	unlist(s, i);
	s->memory_bytes -= i->kept_bytes;
	s->memory_items--;
	free(i->kept);
	i->kept = NULL;
}

static int memory_get(struct store *s, struct item *i, struct buf *out)
{
	if (i->kept == NULL) {
		s->misses++;
		return -ENOENT;
	}
	s->hits++;
	unlist(s, i);
	enlist(s, i);
	buf_put(out, i->kept, i->kept_bytes);
	return 0;
}

/* A store in memory that is over its budget gives up its oldest automatic
 * snapshots.  A run is a full snapshot and the incrementals that stand on it:
 * it is taken from its end, so that nothing loses what it stands on, down to
 * the last one that was tagged or made on purpose.  The newest run stays. */
static bool give_up_one(struct store *s)
{
	struct item *last = NULL;
	uint64_t oldest = UINT64_MAX;

	for (size_t k = 0; k < s->nsessions; k++) {
		const struct run_session *r = s->sessions[k];

		for (size_t i = 1; i < r->count; i++) {
			const struct item *it = r->items[i - 1];

			if (r->items[i]->m.type != SNAPSHOT_FULL || it->m.origin != ORIGIN_AUTOMATIC || it->m.ntags)
				continue;
			if (last == NULL || it->m.time_ns < oldest) {
				last = r->items[i - 1];
				oldest = it->m.time_ns;
			}
			break;
		}
	}
	if (last)
		fold_forget(s, last);
	return last != NULL;
}

/* What exists nowhere else is let go of only as above. */
static void memory_put(struct store *s, struct item *i, const void *p, size_t n)
{
	if (i->kept || (!s->in_memory && n > s->o.memory_bytes))
		return;
	i->kept = n ? xmemdup(p, n) : xmalloc(1);
	i->kept_bytes = n;
	enlist(s, i);
	s->memory_bytes += n;
	s->memory_items++;
	while (s->memory_bytes > s->o.memory_bytes && s->oldest && s->oldest->segment != UINT32_MAX) {
		memory_drop(s, s->oldest);
		s->evicted++;
	}
	while (s->in_memory && s->memory_bytes > s->o.memory_bytes && give_up_one(s))
		s->evicted++;
}

const struct tier_ops tier_memory = { "memory", memory_get, memory_put, memory_drop };

static int disk_get(struct store *s, struct item *i, struct buf *out)
{
	if (i->segment == UINT32_MAX)
		return -ENOENT;
	struct segment *seg = &s->segments[i->segment];
	int r = segment_use(seg);

	if (r < 0)
		return r;
	r = segment_payload(seg, i->at, &i->h, out, s->o.verify == STORE_VERIFY_READ);
	/* The next one is mostly in the same segment. */
	if (s->warm != i->segment && s->warm < s->nsegments)
		segment_rest(&s->segments[s->warm]);
	s->warm = i->segment;
	s->disk_hits += r == 0;
	return r;
}

static void disk_put(struct store *s, struct item *i, const void *p, size_t n)
{
	(void)s, (void)i, (void)p, (void)n; /* appended before it has an item */
}

static void disk_drop(struct store *s, struct item *i)
{
	(void)s, (void)i; /* space comes back by compaction */
}

const struct tier_ops tier_disk = { "disk", disk_get, disk_put, disk_drop };
