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

/* What exists nowhere else is not let go of by size: retention does that. */
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
}

const struct tier_ops tier_memory = { "memory", memory_get, memory_put, memory_drop };

static int disk_get(struct store *s, struct item *i, struct buf *out)
{
	if (i->segment == UINT32_MAX)
		return -ENOENT;
	return segment_payload(&s->segments[i->segment], i->at, &i->h, out, s->o.verify == STORE_VERIFY_READ);
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
