/* Reading the heap's gauges of a process from its lanes; see report/ring.h.
 * On the collecting thread. */
#ifndef SNAPTRAIL_ENGINE_SAMPLE_H
#define SNAPTRAIL_ENGINE_SAMPLE_H

#include "engine/collect.h"

/* Reports metrics p<pid>/heap/... and the field `heap` of each thread's agent,
 * where they changed.  Nothing when the process counts nothing. */
void sample_heap(struct collector *c, uint32_t pid, uint64_t stamp);
/* Of every process that has lanes, when nobody else will. */
void sample_heaps(struct collector *c, uint64_t stamp);

#endif
