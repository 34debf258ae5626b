/* Between the visitor and the object that counts the heap.
 *
 * Malloc's names interpose wherever they are exported, so they are not the
 * visitor's but of an object that only `[hooks] heap = yes` preloads.  That one
 * owns how to count; the visitor knows where: in the first page of each
 * thread's lane.  It tells of what happens to lanes, always on the thread they
 * belong to. */
#ifndef SNAPTRAIL_PRELOAD_HEAP_H
#define SNAPTRAIL_PRELOAD_HEAP_H

#include <stdbool.h>

#include "report/ring.h"

enum heap_place {
	HEAP_EARLY,               /* nothing is mapped yet: count privately and ask again */
	HEAP_NEVER,               /* nothing is to be counted in this process */
	HEAP_HERE,
};

struct heap_view {
	const uint32_t *generation; /* on a page that fork wipes; as this while the rest holds */
	struct lane_heap *process;  /* its first slot's */
	struct lane_heap *thread;   /* of this thread's lane; NULL: it has none */
	uint32_t tid;
};

struct heap_watch {
	void (*joined)(void);                /* there is a place from now on: what was counted before goes there */
	void (*moved)(struct lane_heap *to); /* this thread has another lane */
	void (*thread_ended)(void);          /* its lane goes to another one */
	void (*forking)(void);
	void (*forked)(bool expected);       /* in the child; not expected: forking() was not called */
};

/* Exported by the visitor. */
enum heap_place snaptrail_visitor_heap(const struct heap_watch *watch, struct heap_view *ret);

#endif
