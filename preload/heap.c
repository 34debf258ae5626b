/* The third object: counts what the heap gives and takes, for `[hooks] heap`.
 *
 * A malloc costs the real one, the C library's word for the block's size and
 * three plain adds into the first page of this thread's lane: no report, no
 * locked instruction, no system call.  The recorder reads the sums at cuts and
 * when the process has ended; they are in the shared mapping, so kill -9 keeps
 * them.
 *
 * The first calls come from the loader before any constructor, and more from
 * dlsym: real functions are looked up without either (lookup.c), nothing here
 * allocates, and until the visitor has a lane to count into, counts wait in
 * this object.  A thread without a lane, or past its end, counts into the
 * process's own counters, which takes locked adds.
 *
 * Every block goes back to the allocator that it came from: each name forwards
 * to the next object that has it, as it would have been called without us.  A
 * child of vfork runs on its parent's heap and in its thread's place: what it
 * takes and leaves is live in the parent, and is counted there. */
#include "heap.h"

#include <errno.h>
#include <stdlib.h>

#include "lookup.h"

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum heap_place snaptrail_visitor_heap(const struct heap_watch *watch, struct heap_view *ret) __attribute__((weak));

/* ---- the real functions ---- */

static size_t no_size(void *p)
{
	(void)p;
	return 0;
}

static struct {
#define HOOK(group, result, name, params) result (*name) params;
#include "heap.def"
	size_t (*size)(void *);
} real = { .size = no_size };

/* An allocator that wraps another's blocks and does not say how big they are
 * must not be asked by the C library's function: that reads what lies before. */
static void resolve_size(void)
{
	const struct link_map *of_malloc = NULL, *of_free = NULL, *of_size = NULL;
	void *size = lookup_behind("malloc_usable_size", NULL, &of_size);

	lookup_behind("malloc", NULL, &of_malloc);
	lookup_behind("free", NULL, &of_free);
	if (size && of_malloc == of_size && of_free == of_size)
		real.size = (size_t (*)(void *))size;
}

/* Before there is a second thread: the loader itself calls malloc. */
static __attribute__((noinline, cold)) void resolve(void)
{
	resolve_size();
#define HOOK(group, result, name, params) real.name = (__typeof__(real.name))lookup_behind(#name, NULL, NULL);
#include "heap.def"
}

#define READY() \
	do { \
		if (unlikely(real.malloc == NULL)) \
			resolve(); \
	} while (0)

/* ---- where to count ---- */

#define THREADS 256u

static const uint32_t never = 1;
static const uint32_t *generation = &never;
static __thread struct {
	struct lane_heap *heap;   /* of this thread's lane */
	uint32_t generation;      /* equals *generation while `heap` is ours; 0 never valid */
} me __attribute__((tls_model("initial-exec")));

static struct lane_heap *process;          /* the first slot's */
static struct lane_heap *threads[THREADS]; /* of all threads that count into lanes */
static struct heap_count early;            /* before there was a place */
static int64_t live_at_fork;
static bool off;

static void add(struct heap_count *c, int64_t live, uint64_t allocations, uint64_t frees)
{
	__atomic_fetch_add(&c->live, live, __ATOMIC_RELAXED);
	__atomic_fetch_add(&c->allocations, allocations, __ATOMIC_RELAXED);
	__atomic_fetch_add(&c->frees, frees, __ATOMIC_RELAXED);
}

static bool thread_replace(struct lane_heap *was, struct lane_heap *now)
{
	for (unsigned i = 0; i < THREADS; i++) {
		struct lane_heap *expected = was;

		if (__atomic_load_n(&threads[i], __ATOMIC_RELAXED) == was &&
		    __atomic_compare_exchange_n(&threads[i], &expected, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return true;
	}
	return false;
}

static void take_early(void)
{
	if (__atomic_load_n(&early.allocations, __ATOMIC_RELAXED) || __atomic_load_n(&early.frees, __ATOMIC_RELAXED))
		add(&process->process, __atomic_exchange_n(&early.live, 0, __ATOMIC_RELAXED),
		    __atomic_exchange_n(&early.allocations, 0, __ATOMIC_RELAXED),
		    __atomic_exchange_n(&early.frees, 0, __ATOMIC_RELAXED));
}

/* From now on this thread counts by plain adds. */
static bool attach(const struct heap_view *v)
{
	if (v->thread == NULL || !thread_replace(NULL, v->thread))
		return false;
	v->thread->tid = v->tid;
	me.heap = v->thread;
	me.generation = *v->generation;
	return true;
}

static void moved(struct lane_heap *to);
static void thread_ended(void);
static void forking(void);
static void forked(bool expected);
static void joined(void);
static const struct heap_watch watch = { joined, moved, thread_ended, forking, forked };

static enum heap_place place(struct heap_view *ret)
{
	enum heap_place p = snaptrail_visitor_heap ? snaptrail_visitor_heap(&watch, ret) : HEAP_NEVER;

	if (p == HEAP_HERE) {
		process = ret->process;
		process->unsized = real.size == no_size;
		__atomic_store_n(&generation, ret->generation, __ATOMIC_RELEASE);
		take_early();
	}
	return p;
}

static void joined(void)
{
	struct heap_view v = { 0 };

	if (place(&v) == HEAP_HERE)
		attach(&v);
}

static __attribute__((noinline)) void count_elsewhere(int64_t live, uint64_t allocations, uint64_t frees)
{
	struct heap_view v = { 0 };
	struct heap_count *to = &early;

	if (off)
		return;
	switch (place(&v)) {
	case HEAP_NEVER:
		off = true;
		return;
	case HEAP_EARLY:
		break;
	case HEAP_HERE:
		to = attach(&v) ? &me.heap->own : &process->process;
		break;
	}
	add(to, live, allocations, frees);
}

static inline __attribute__((always_inline)) void count(int64_t live, uint64_t allocations, uint64_t frees)
{
	struct heap_count *c = &me.heap->own;

	if (unlikely(me.generation != *__atomic_load_n(&generation, __ATOMIC_RELAXED))) {
		count_elsewhere(live, allocations, frees);
		return;
	}
	c->live += live;
	c->allocations += allocations;
	c->frees += frees;
}

/* ---- what the visitor tells ---- */

static bool attached(void) { return me.generation && me.generation == *generation; }

/* For a moment the counts are in both places: the recorder looks again then. */
static void move_begin(void) { __atomic_add_fetch(&process->moves_begun, 1, __ATOMIC_SEQ_CST); }
static void move_end(struct lane_heap *from)
{
	from->own = (struct heap_count){ 0 };
	from->tid = 0;
	__atomic_add_fetch(&process->moves_done, 1, __ATOMIC_SEQ_CST);
}

static void moved(struct lane_heap *to)
{
	struct lane_heap *from = me.heap;

	if (!attached() || from == to)
		return;
	move_begin();
	to->own = from->own;
	to->tid = from->tid;
	me.heap = to;
	move_end(from);
	thread_replace(from, to);
}

static void thread_ended(void)
{
	struct lane_heap *from = me.heap;

	if (!attached())
		return;
	me.generation = 0;
	me.heap = NULL;
	move_begin();
	add(&process->process, from->own.live, from->own.allocations, from->own.frees);
	move_end(from);
	thread_replace(from, NULL);
}

static int64_t live_now(void)
{
	int64_t n = process ? __atomic_load_n(&process->process.live, __ATOMIC_RELAXED) : 0;

	for (unsigned i = 0; i < THREADS; i++)
		if (threads[i])
			n += __atomic_load_n(&threads[i]->own.live, __ATOMIC_RELAXED);
	return n;
}

static void forking(void) { live_at_fork = live_now(); }

/* The heap is a copy of the parent's and so is its size; calls are its own.  A
 * fork that came by another road is taken at what the parent has by now. */
static void forked(bool expected)
{
	struct heap_view v = { 0 };
	int64_t live = expected ? live_at_fork : live_now();

	for (unsigned i = 0; i < THREADS; i++)
		threads[i] = NULL;
	me.heap = NULL;
	me.generation = 0;
	process = NULL;
	off = false;
	if (place(&v) != HEAP_HERE)
		return;
	add(&process->process, live, 0, 0);
	attach(&v);
}

/* ---- the names ---- */

static inline __attribute__((always_inline)) void *took(void *p)
{
	if (likely(p != NULL))
		count((int64_t)real.size(p), 1, 0);
	return p;
}

#define LACKING(name) \
	do { \
		READY(); \
		if (unlikely(real.name == NULL)) { \
			errno = ENOMEM; \
			return NULL; \
		} \
	} while (0)

EXPORT void *malloc(size_t n)
{
	READY();
	return took(real.malloc(n));
}

EXPORT void *calloc(size_t n, size_t size)
{
	LACKING(calloc);
	return took(real.calloc(n, size));
}

EXPORT void free(void *p)
{
	READY();
	if (likely(p != NULL))
		count(-(int64_t)real.size(p), 0, 1);
	real.free(p);
}

/* One call of each kind: what it takes less what it frees is what lives. */
EXPORT void *realloc(void *p, size_t n)
{
	int64_t had;
	void *r;

	LACKING(realloc);
	had = p ? (int64_t)real.size(p) : 0;
	r = real.realloc(p, n);
	if (r)
		count((int64_t)real.size(r) - had, 1, p != NULL);
	else if (p && n == 0)
		count(-had, 0, 1);
	return r;
}

/* The C library's own calls realloc by its name, which is ours. */
EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
	size_t whole;

	if (__builtin_mul_overflow(n, size, &whole)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, whole);
}

EXPORT void *memalign(size_t alignment, size_t n)
{
	LACKING(memalign);
	return took(real.memalign(alignment, n));
}

EXPORT void *aligned_alloc(size_t alignment, size_t n)
{
	LACKING(aligned_alloc);
	return took(real.aligned_alloc(alignment, n));
}

EXPORT void *valloc(size_t n)
{
	LACKING(valloc);
	return took(real.valloc(n));
}

EXPORT void *pvalloc(size_t n)
{
	LACKING(pvalloc);
	return took(real.pvalloc(n));
}

EXPORT int posix_memalign(void **p, size_t alignment, size_t n)
{
	int r;

	READY();
	if (unlikely(real.posix_memalign == NULL))
		return ENOMEM;
	r = real.posix_memalign(p, alignment, n);
	if (r == 0)
		took(*p);
	return r;
}
