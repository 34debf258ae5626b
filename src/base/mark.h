/* Marked steps of whoever writes: where a test kills it.  Nothing in a usual build;
 * with `configure --enable-kill-points` a step asks the environment its image began
 * with for KILL_AT:
 *
 *     KILL_AT=/FILE          names that are passed are appended to it, with how
 *                            often, at each power of two
 *     KILL_AT=/FILE:N:NAME   SIGKILL at the Nth time an image passes NAME, which
 *                            is appended to FILE
 *
 * May be passed by any thread, in a signal handler and in the visitor: system calls
 * of its own, errno untouched. */
#ifndef SNAPTRAIL_BASE_MARK_H
#define SNAPTRAIL_BASE_MARK_H

#ifdef KILL_POINTS
#define MARK(name) \
	do { \
		static unsigned passed_; \
		mark_passed(name, __atomic_add_fetch(&passed_, 1, __ATOMIC_RELAXED)); \
	} while (0)
void mark_passed(const char *name, unsigned n);
#else
#define MARK(name) ((void)0)
#endif

#endif
