/* What a visitor and the engine that it has opened in its own process say to
 * each other: one struct in the visitor's memory.
 *
 * Without a supervisor the visitor opens the engine module just before main
 * and gives it a thread.  The engine sets `state` and wakes its waiters; the
 * visitor sets `wish` and rings the board's bell.
 *
 * An exec ends the engine's thread at whatever instruction it is.  So that no record
 * is left half written, a thread that calls exec counts itself in `execs` and waits
 * for `writing` to be 0, which is microseconds; the engine begins no record until the
 * exec has failed.  Both have a limit (HOST_EXEC_NS, HOST_HELD_NS) and go on. */
#ifndef SNAPTRAIL_REPORT_HOST_H
#define SNAPTRAIL_REPORT_HOST_H

#include <stdbool.h>
#include <stdint.h>

#define HOST_ABI 2u

enum host_state {
	HOST_NONE = 0,
	HOST_STARTING,  /* the thread runs, the session is being prepared */
	HOST_RUNNING,   /* it records; `board` says where */
	HOST_JOINED,    /* another process records the session; `board` says where */
	HOST_OVER,      /* it has let go of everything; `error` says why if it never ran */
};
enum host_wish {
	HOST_GO = 0,
	HOST_ASIDE,     /* let go of the session, others may take it */
	HOST_FINISH,    /* as ASIDE; the process ends with `status`, and with it the session if it was the last */
};

#define HOST_EXEC_NS 20000000u   /* a disk may be slow: then the record is torn */
#define HOST_HELD_NS 1000000000u /* so may be an exec, over a network */

struct host {
	uint32_t abi;
	uint32_t state;          /* futex word */
	uint32_t wish;
	uint32_t writing;        /* futex word: the engine is amid a record of the store */
	uint32_t execs;          /* futex word: threads that are about to execute another program */
	uint32_t pid, tid;       /* the process, and the engine's thread in it */
	int32_t status;          /* as exit() was given it */
	bool has_status;
	bool others;             /* out: it let go of a session whose other processes live on */
	bool alone;              /* out: every other thread has ended; ours ends the process, with `status` */
	bool stacks;             /* out of the plan: call stacks are wanted */
	bool verbose;            /* in: the user wants to hear why it does not record */
	char board[320];         /* in: a session to take over, "" a new one; out: its board */
	char session[256];       /* out: its name */
	char error[512];         /* out: one line, "" for none */
	void *plan;              /* the engine's own */
};

/* Exported by the engine module.  The first runs on the main thread and reads
 * the configuration: 0 or negative with `error`.  The second runs on the
 * engine's thread and returns when it is over. */
typedef int (*host_plan_fn)(struct host *h, char **argv);
typedef void (*host_run_fn)(struct host *h);
#define HOST_PLAN_NAME "snaptrail_engine_plan"
#define HOST_RUN_NAME "snaptrail_engine_run"

#endif
