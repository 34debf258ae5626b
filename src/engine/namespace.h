/* Pid namespaces: a process in one of its own calls itself, its threads and its
 * children by other numbers than the recorder does.
 *
 * The kernel knows both: /proc/PID/status lists a process's numbers from our
 * namespace inwards (NSpid).  What is gone before it can be asked for gets a
 * number of its own that no process can have, so that nothing is mixed up.
 *
 * Embedded, zeroed; one thread. */
#ifndef SNAPTRAIL_ENGINE_NAMESPACE_H
#define SNAPTRAIL_ENGINE_NAMESPACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* Above every pid that Linux gives out (2^22). */
#define NAMESPACE_UNKNOWN (1u << 30)

struct namespaces {
	struct namespace_pid { uint64_t ns; uint32_t inner, pid; } *pids;
	size_t n;
	uint32_t unknown;
};

/* The inode that stands for this process's own pid namespace; 0 unknown. */
uint64_t namespace_here(void);
/* Our number of process `inner` of namespace `ns` (an inode, UINT64_MAX when its
 * process could not tell). */
uint32_t namespace_pid(struct namespaces *n, uint64_t ns, uint32_t inner);
/* Our number of a thread of a process. */
uint32_t namespace_tid(uint32_t pid, uint32_t inner_pid, uint32_t inner_tid);
/* A process is gone: its inner number may be another's soon. */
void namespace_forget(struct namespaces *n, uint32_t pid);
/* A Change with its pid, ppid and tid as we know them, appended to *out. */
void namespace_translate(struct namespaces *n, uint64_t ns, uint32_t inner_pid, const uint8_t *change, size_t len,
			 struct buf *out);
void namespaces_done(struct namespaces *n);

#endif
