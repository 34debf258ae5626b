/* The heap's gauges; see sample.h.  They are plain counters that their threads
 * add to while we read: exact once the process is quiet or gone, and of an
 * instant within this call otherwise. */
#include "engine/sample.h"

#include <sched.h>
#include <stdio.h>

#define TRIES 200         /* while counts move between places; a thread killed there never ends it */
#define INSTANT_NS 100000u /* looking longer than this is no instant: what one lane gave another took */

struct sums {
	struct heap_count all;
	bool unsized;
};

static struct heap_count read_count(const struct heap_count *h)
{
	return (struct heap_count){ __atomic_load_n(&h->live, __ATOMIC_RELAXED),
				    __atomic_load_n(&h->allocations, __ATOMIC_RELAXED),
				    __atomic_load_n(&h->frees, __ATOMIC_RELAXED) };
}

static void sum(struct heap_count *to, struct heap_count h)
{
	to->live += h.live;
	to->allocations += h.allocations;
	to->frees += h.frees;
}

/* All lanes of the same image. */
static bool counts_into(const struct lane_view *v, const struct lane *slot)
{
	return v->lane->pid == slot->pid && v->lane->pid_ns == slot->pid_ns && !v->dead && v->lane->image == slot->image;
}

static struct heap_count sum_lanes(struct collector *c, struct lane *slot)
{
	struct heap_count all = read_count(&lane_heap(slot)->process);

	collect_find(c);
	for (const struct lane_view *v = c->views; v; v = v->next)
		if (counts_into(v, slot))
			sum(&all, read_count(&lane_heap(v->lane)->own));
	return all;
}

static struct heap_count sum_steady(struct collector *c, struct lane *slot)
{
	struct lane_heap *h = lane_heap(slot);
	struct heap_count all = { 0 };

	for (int i = 0; i < TRIES; i++) {
		uint32_t done = __atomic_load_n(&h->moves_done, __ATOMIC_SEQ_CST);
		uint32_t begun = __atomic_load_n(&h->moves_begun, __ATOMIC_SEQ_CST);
		uint64_t since_ns = mono_now_ns();

		all = sum_lanes(c, slot);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (done == begun && __atomic_load_n(&h->moves_begun, __ATOMIC_SEQ_CST) == begun &&
		    mono_now_ns() - since_ns < INSTANT_NS)
			break;
		sched_yield();
	}
	return all;
}

static void metric(struct collector *c, uint64_t stamp, uint32_t pid, const char *name, double v)
{
	char key[64];
	int n = snprintf(key, sizeof key, "p%u/heap/%s", pid, name);
	const struct entity *e = model_find(c->model, TABLE_METRICS, key, (size_t)n);
	struct change ch = { .kind = METRIC, .stamp = stamp, .source = SOURCE_PROC, .name = BYTES(key, n), .real = v };

	if (e == NULL || e->value.type != VALUE_DOUBLE || e->value.real != v)
		collect_report(c, &ch);
}

static struct value heap_object(const struct heap_count *h, bool unsized)
{
	struct value v = value_object();

	if (!unsized)
		value_set(&v, "live", 4, true, value_int(h->live));
	value_set(&v, "allocations", 11, true, value_int((int64_t)h->allocations));
	value_set(&v, "frees", 5, true, value_int((int64_t)h->frees));
	return v;
}

/* agents["p<pid>/t<tid>"].heap */
static void sample_thread(struct collector *c, uint64_t stamp, uint32_t pid, const struct lane_heap *h, bool unsized)
{
	uint32_t tid = __atomic_load_n(&h->tid, __ATOMIC_RELAXED);
	_cleanup_buf_ struct buf packed = BUF_INIT;
	struct heap_count count = read_count(&h->own);
	struct value patch, heap = heap_object(&count, unsized);
	const struct value *known;
	const struct entity *e;
	char key[64];
	int n = snprintf(key, sizeof key, "p%u/t%u", pid, tid);

	e = tid ? model_find(c->model, TABLE_AGENTS, key, (size_t)n) : NULL;
	known = e ? value_get(&e->value, "heap") : NULL;
	if (e == NULL || (known && value_equal(known, &heap))) {
		value_done(&heap);
		return;
	}
	patch = value_object();
	value_set(&patch, "heap", 4, true, heap);
	value_pack(&patch, &packed);
	value_done(&patch);
	struct change ch = { .kind = ENTITY_PATCHED, .stamp = stamp, .source = SOURCE_PROC, .table = TABLE_AGENTS,
			     .name = BYTES(key, n), .entity = BYTES(packed.data, packed.len) };

	collect_report(c, &ch);
}

void sample_heap(struct collector *c, uint32_t pid, uint64_t stamp)
{
	struct lane *slot = c->board->groups & GROUP_HEAP ? collect_gauges(c, pid) : NULL;
	struct heap_count all;
	bool unsized;

	if (slot == NULL)
		return;
	all = sum_steady(c, slot);
	unsized = lane_heap(slot)->unsized;
	if (all.allocations == 0 && all.frees == 0 && all.live == 0)
		return; /* another allocator came first, or nobody counts */
	for (struct lane_view *v = c->views; v; v = v->next)
		if (counts_into(v, slot))
			sample_thread(c, stamp, pid, lane_heap(v->lane), unsized);
	if (!unsized)
		metric(c, stamp, pid, "live", (double)all.live);
	metric(c, stamp, pid, "allocations", (double)all.allocations);
	metric(c, stamp, pid, "frees", (double)all.frees);
}

void sample_heaps(struct collector *c, uint64_t stamp)
{
	for (struct lane_view *v = c->views; v; v = v->next)
		if (v->map_bytes == 0 && slot_gauges(v->lane)->used)
			sample_heap(c, v->pid, stamp);
}
