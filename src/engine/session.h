/* A session's live half: its folder on tmpfs with the board in it, and the
 * pointer file in the store that says where it is.
 *
 * The pointer file `live/<session id>` in the store is also the lease: whoever
 * holds its flock is the session's consumer.  A pointer whose lock can be
 * taken belongs to a recorder that died, and is salvaged. */
#ifndef SNAPTRAIL_ENGINE_SESSION_H
#define SNAPTRAIL_ENGINE_SESSION_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "engine/clock.h"
#include "report/ring.h"

struct session {
	char id[17];
	char folder[280];         /* of rings, board and stage */
	char pointer[4400];       /* the pointer file, "" for a store in memory */
	int lease;                /* descriptor with the lock, -1 none */
	struct board *board;
};

/* Makes folder, board and pointer for a session; takes the lease.
 * `store_folder` NULL: a store in memory, which has no pointer. */
int session_create(struct session *s, const char *store_folder, const char *id, const struct config *c,
		   const struct clock *clock);
/* Attaches to what a pointer file names.  With `take` the lease is wanted:
 * -EBUSY when a recorder holds it.  -EOWNERDEAD it is of a time before the machine
 * restarted, -ENOENT its folder was taken away, -EBADMSG it is no pointer: nothing is
 * left.  -EXDEV its folder is in a file system that is not seen here, -EPROTO of another
 * version, -EMFILE, -ENOMEM and others: not now. */
int session_attach(struct session *s, const char *pointer, bool take);
static inline bool session_is_gone(int r) { return r == -EOWNERDEAD || r == -ENOENT || r == -EBADMSG; }
/* Lets go of the lease; with `remove` the pointer goes away, and no process
 * joins any more.  The board stays mapped. */
void session_release(struct session *s, bool remove);
/* Lets go of everything; with `remove` the folder goes away too. */
void session_close(struct session *s, bool remove);
/* The pids in a pointer file, 0 unknown. */
int session_recorder_pid(const struct session *s);
int session_root_pid(const struct session *s);
void session_set_pids(struct session *s, int recorder, int root);

/* Calls back for each pointer file of a store. */
int session_each_pointer(const char *store_folder, int (*each)(void *arg, const char *path, const char *id), void *arg);

#endif
