/* The engine's own heap in a target; see heap.c. */
#ifndef SNAPTRAIL_ENGINE_HEAP_H
#define SNAPTRAIL_ENGINE_HEAP_H

#include <setjmp.h>
#include <stddef.h>

/* Where the engine goes when memory runs out, set by its entry points: in a
 * process of its own it would abort, here it must not. */
extern jmp_buf heap_exhausted;

/* The heap is not copied by fork: a forked child that is to host a session
 * itself begins with an empty one. */
void heap_begin(void);
#endif
