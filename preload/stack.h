/* Between the visitor and the object that walks stacks: one function each way.
 *
 * The visitor is libc only; the third object has libunwind.  It hands its walk
 * over when it is loaded, before or after the visitor's own start. */
#ifndef SNAPTRAIL_PRELOAD_STACK_H
#define SNAPTRAIL_PRELOAD_STACK_H

#include "report/change.h"
#include "report/ring.h"

struct stack_call {
	uint32_t depth;      /* frames wanted */
	uint64_t stamp;      /* of the Change that will name the stack; 0: now */
	bool may_call;       /* system calls are allowed here */
	/* Reports a Change of this thread.  False: lost, and counted. */
	bool (*emit)(const struct change *c);
	uint64_t *missed;    /* by enum stack_miss, shared by all processes */
};

/* The id of the caller's stack, which a STACK Change has explained; 0 none.
 * From any thread, at any point where a hook reports. */
typedef uint64_t (*stack_function)(const struct stack_call *call);
void snaptrail_visitor_stacks(stack_function walk);
/* A session without a supervisor is about to begin here, and wants stacks. */
bool snaptrail_visitor_hosts(void);

#endif
