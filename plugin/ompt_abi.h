/* The part of OMPT, the tools interface of OpenMP 5.0 (chapter 4), that a collector
 * needs: names and numbers are the specification's. */
#ifndef SNAPTRAIL_PLUGIN_OMPT_ABI_H
#define SNAPTRAIL_PLUGIN_OMPT_ABI_H

#include <stdint.h>

typedef union { uint64_t value; void *ptr; } ompt_data;
typedef void (*ompt_function)(void);
typedef ompt_function (*ompt_lookup)(const char *name);
typedef int (*ompt_set_callback)(int event, ompt_function callback);

struct ompt_start_tool_result {
	int (*initialize)(ompt_lookup lookup, int device, ompt_data *tool);
	void (*finalize)(ompt_data *tool);
	ompt_data tool;
};

enum { /* events */
	OMPT_THREAD_BEGIN = 1, OMPT_THREAD_END = 2, OMPT_PARALLEL_BEGIN = 3, OMPT_PARALLEL_END = 4, OMPT_TASK_CREATE = 5,
	OMPT_TASK_SCHEDULE = 6, OMPT_IMPLICIT_TASK = 7, OMPT_SYNC_REGION_WAIT = 16, OMPT_WORK = 20, OMPT_SYNC_REGION = 23,
};
enum { OMPT_SCOPE_BEGIN = 1, OMPT_SCOPE_END = 2 };
enum { OMPT_THREAD_INITIAL = 1, OMPT_THREAD_WORKER = 2, OMPT_THREAD_OTHER = 3 };
enum { OMPT_TASK_INITIAL = 1, OMPT_TASK_IMPLICIT = 2, OMPT_TASK_EXPLICIT = 4 };
enum { OMPT_TASK_COMPLETE = 1, OMPT_TASK_YIELD = 2, OMPT_TASK_CANCEL = 3, OMPT_TASK_DETACH = 4 };
enum { OMPT_PARALLEL_LEAGUE = 0x40000000 };

#endif
