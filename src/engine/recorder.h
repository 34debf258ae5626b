/* The recorder: the process in which engine and flusher live.
 *
 * It drains rings, follows processes by their pidfds, cuts snapshots, and ends
 * when the session's last process has.  `run` forks it off and talks to it
 * through a socket pair of small messages.  Without `run` it is a thread of
 * the target, and what is said goes through struct host. */
#ifndef SNAPTRAIL_ENGINE_RECORDER_H
#define SNAPTRAIL_ENGINE_RECORDER_H

#include "base/config.h"
#include "engine/collect.h"
#include "engine/flush.h"
#include "engine/session.h"
#include "report/host.h"
#include "snaptrail.h"

/* From `run` to the recorder. */
enum control_type { CONTROL_STARTED = 1, CONTROL_ENDED };
struct control {
	uint32_t type;
	int32_t pid;
	int32_t status;          /* CONTROL_ENDED: a wait status */
	uint32_t wait;           /* CONTROL_STARTED: answer only when all processes have ended */
	uint32_t uninjected;     /* CONTROL_STARTED: from /proc alone */
	uint64_t cpu_ns;
};

struct recorder_options {
	const struct config *config;
	struct store *store;
	struct session *session;
	const struct clock *clock;
	const char *session_name;
	const char *const *tags; /* for the first snapshot */
	char *const *command;    /* of the session's first process; NULL unknown */
	int control;             /* socket to `run`, -1 none */
	struct host *host;       /* on a thread of this process, with one thread for all; NULL: a process of its own */
	bool resume;             /* the session goes on where a recorder that is gone left it */
};

/* Records until the session is over.  Sends a struct snaptrail_summary to
 * `control` when the command has ended and, without `wait`, goes on for the
 * processes that remain.  Closes store and session.  Returns 0 or a negative
 * errno. */
int recorder_main(const struct recorder_options *o);

#endif
