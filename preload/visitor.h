/* The visitor's inside: what every hook file uses.
 *
 * A hook calls the real function and reports what changed.  It never touches
 * errno (all our own system calls are raw), takes no lock, allocates nothing.
 * Before the visitor is ready and after a thread's end the hooks pass straight
 * through, and in a vfork child all but exec's. */
#ifndef SNAPTRAIL_PRELOAD_VISITOR_H
#define SNAPTRAIL_PRELOAD_VISITOR_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <threads.h>

#include "heap.h"
#include "base/mark.h"
#include "report/change.h"
#include "report/redact.h"
#include "report/ring.h"

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* The real functions, one member for each name of the table. */
struct real_functions {
#define HOOK(group, result, name, params) result (*name) params;
#define JUMP(group, name) void *name;
#include "hooks.def"
};
extern struct real_functions real;
/* Finds the one that belongs at `slot` of `real`; from any thread, at any time:
 * it takes no lock, allocates nothing and always writes the same. */
void real_find(void **slot);
/* What was loaded up to now stays: the search ends there. */
void real_ready(void);
/* Finds where the jumps of process.c lead. */
void real_jumps(void);

#define REAL(name) (likely(real.name != NULL) ? real.name : (real_find((void **)&real.name), real.name))

/* One for the process, written at start and after a fork. */
struct visitor {
	struct board *board;       /* NULL: not recording */
	const uint32_t *generation; /* on a page that fork wipes to 0 */
	uint32_t groups;           /* to be reported, 0 when not ready */
	uint32_t stack_groups;     /* of them with a call stack; 0 without the object that walks */
	bool use_tsc;
	bool threads_seen;         /* counters need locked adds */
	uint32_t pid;
	uint64_t image;            /* when this image, or this forked child, began */
	uint64_t pid_ns;           /* of pid, as in struct lane */
	struct lane *main_slot;    /* holds the gauges, or NULL */
	struct slot_gauges *gauges;
	struct gauge *more_gauges; /* of descriptors beyond SLOT_GAUGES, or NULL */
};
extern struct visitor visitor;
/* Whether a hook may run in a child that shares this memory: while its parent waits
 * (vfork), or beside it (clone). */
enum { SHARED_WAITED_FOR = 1, SHARED_BESIDE = 2 };
extern uint8_t visitor_shared;

/* One for each thread; initial-exec, far below the 256 bytes a guest may take. */
struct visitor_thread {
	struct lane *lane;
	uint8_t *data;
	uint32_t mask;
	uint32_t generation;       /* equals *visitor.generation while the lane is ours; 0 never valid */
	uint32_t tid;
	bool ended;                /* pass through from now on */
	bool busy;                 /* in the slow path: a nested hook passes through */
	bool locked_child;         /* a vfork child that runs on this has locked itself in: nothing is its own to say */
};
extern __thread struct visitor_thread self __attribute__((tls_model("initial-exec")));

/* errno of a call that this C library does not have. */
#define LACKING(name, failed) \
	do { \
		if (unlikely(REAL(name) == NULL)) { \
			errno = ENOSYS; \
			return failed; \
		} \
	} while (0)

/* The slow half: a thread's first report, a forked child, a vfork child. */
bool visitor_enter(void);
/* The pid of a vfork child that may report here as the parent, who waits for it, and
 * whose thread's lane this is; 0: it is none, or nobody can say. */
uint32_t visitor_vfork_child(void);
/* Such a report, while that is so: without a call stack, as it stands on the parent's
 * own; where its lane would have to grow with the child's rights, lost and counted. */
void visitor_vfork_report(struct change c);
/* Somebody calls clone or the like with these flags. */
void visitor_shares(uint64_t clone_flags);

/* May this thread report facts of this group now? */
static inline __attribute__((always_inline)) bool reporting(uint32_t group)
{
	if (unlikely(!(visitor.groups & group)))
		return false;
	if (likely(self.generation == *visitor.generation && !visitor_shared && self.generation))
		return true;
	return visitor_enter();
}

uint64_t stamp_monotonic(void);
/* Of the calling thread; 0 when it may not be asked for and libc's place is unknown. */
uint32_t thread_id(void);

static inline __attribute__((always_inline)) uint64_t stamp_now(void)
{
	if (likely(visitor.use_tsc))
		return __builtin_ia32_rdtsc() & ~STAMP_MONOTONIC;
	return stamp_monotonic();
}

/* A handler made this thread's lane grow while room was taken in the old one:
 * that room is given up, as the old one may be read to its end already. */
void lane_void(struct lane *l, uint64_t pos, uint64_t n);

/* Room for a record of n bytes, its header marked unfinished; NULL: lost and
 * counted.  *ret_pos is for lane_commit(). */
uint8_t *lane_reserve_slow(uint32_t n, uint64_t *ret_pos);

static inline __attribute__((always_inline)) bool lane_take(struct lane *l, uint64_t pos, uint64_t n)
{
	uint64_t seen = pos;

	/* No lock prefix: only a signal handler on this thread can be between. */
	__asm__ volatile("cmpxchgq %2, %1" : "+a"(seen), "+m"(l->reserve) : "r"(pos + n) : "cc", "memory");
	return seen == pos;
}

/* The consumer has read the lines that come next a round ago: fetched for
 * writing this far ahead, some twenty records, they are there in time. */
#define PREFETCH_BYTES 1024

static inline __attribute__((always_inline)) uint8_t *lane_reserve(uint32_t n, uint64_t *ret_pos)
{
	struct lane *l = self.lane;
	uint32_t extent = record_extent(n);
	uint64_t pos = l->reserve;
	uint32_t size = self.mask + 1;

	if (likely(pos + extent <= l->limit && (pos & self.mask) + extent <= size &&
		   lane_take(l, pos, extent))) {
		uint8_t *p = self.data + (pos & self.mask);

		MARK("room taken");
		__atomic_signal_fence(__ATOMIC_SEQ_CST); /* p was made while the lane was l, or it is no good */
		if (unlikely(self.lane != l)) {
			lane_void(l, pos, extent);
			return lane_reserve_slow(n, ret_pos);
		}
		__atomic_store_n((uint64_t *)p, record_header(pos, n, RECORD_UNFINISHED), __ATOMIC_RELAXED);
		__builtin_prefetch(p + PREFETCH_BYTES, 1, 3);
		*ret_pos = pos;
		return p + 8;
	}
	return lane_reserve_slow(n, ret_pos);
}

static inline __attribute__((always_inline)) void lane_commit(uint8_t *p, uint64_t pos, uint32_t n)
{
	__atomic_store_n((uint64_t *)(p - 8), record_header(pos, n, RECORD_FINISHED), __ATOMIC_RELEASE);
}

/* Which group's switch for call stacks a kind obeys.  Kinds are constants where
 * they are reported, so nothing of this is left in the code. */
static inline __attribute__((always_inline)) uint32_t group_of_kind(uint32_t kind)
{
	if (kind >= PROCESS_FORKED && kind <= EXEC_FAILED)
		return GROUP_PROCESS;
	if (kind >= THREAD_BEGAN && kind <= THREAD_DETACHED)
		return GROUP_THREAD;
	if (kind == NOTIFY || kind == LOG)
		return GROUP_STATUS;
	if (kind >= ENV_SET && kind <= CWD)
		return GROUP_MEMORY;
	if (kind >= FD_OPENED && kind <= UNLINKED)
		return GROUP_RESOURCE;
	return kind >= SOCKET_BOUND && kind <= SOCKET_SHUT ? GROUP_COMMUNICATION : 0;
}

/* The id of the call stack that led here, for a Change with this stamp; 0 none. */
uint64_t stack_here(uint64_t stamp);

/* False: lost and counted. */
static inline __attribute__((always_inline)) bool report_plain(struct change c)
{
	uint32_t inner = change_size(&c);
	uint32_t n = 1 + varint_size(inner) + inner;
	uint64_t pos;
	uint8_t *p = lane_reserve(n, &pos), *q;

	if (unlikely(p == NULL))
		return false;
	if (c.stamp == 0)
		c.stamp = stamp_now();
	q = p;
	*q++ = RUN_CHANGES_TAG;
	q = varint_put(q, inner);
	MARK("report begun");
	change_put(q, &c);
	MARK("report written");
	lane_commit(p, pos, n);
	MARK("report finished");
	return true;
}

/* Reports one Change, stamped now unless it has a stamp.  reporting() first. */
static inline __attribute__((always_inline)) void report(struct change c)
{
	if (unlikely(visitor.stack_groups & group_of_kind(c.kind))) {
		c.stack = stack_here(c.stamp);
		report_plain(c); /* the encoder again: so that the other one knows of no stack */
		return;
	}
	report_plain(c);
}

#define REPORT(...) report((struct change){ __VA_ARGS__ })

static inline struct bytes text(const char *s)
{
	return s ? BYTES(s, __builtin_strlen(s)) : BYTES(NULL, 0);
}

/* The same of what a call that has not been made yet may refuse with EFAULT: no text
 * then, where reading it would end the target. */
struct bytes text_there(const char *s);
bool readable(const void *p);

/* A fact whose stamp lies before a call that takes long: the engine waits.
 * The stamp is taken after the hold is seen, however long lies between. */
static inline uint64_t hold_begin(void)
{
	__atomic_store_n(&self.lane->hold, stamp_now(), __ATOMIC_SEQ_CST);
	return stamp_now();
}
static inline void hold_end(void)
{
	if (self.lane)
		__atomic_store_n(&self.lane->hold, 0, __ATOMIC_RELEASE);
}

/* A fact that is reported before the call that makes it true: until the end a
 * look into /proc may still see what was before.  The report is stamped after. */
static inline void ahead_begin(void) { __atomic_store_n(&self.lane->ahead, stamp_now(), __ATOMIC_RELEASE); }
static inline void ahead_end(void)
{
	if (self.lane)
		__atomic_store_n(&self.lane->ahead, 0, __ATOMIC_RELEASE);
}

/* The object that counts the heap, once it has shown itself; NULL without it. */
extern const struct heap_watch *visitor_heap;

/* In the child of a fork that was stamped `stamp`; 0: now. */
void visitor_forked(uint64_t stamp);
/* This thread ends: its lane goes to the next one. */
void visitor_thread_ended(void);

/* Gauges of descriptors. */
static inline __attribute__((always_inline)) struct gauge *gauge_of(int fd)
{
	if (likely((unsigned)fd < SLOT_GAUGES && visitor.gauges))
		return &visitor.gauges->fd[fd];
	if (visitor.more_gauges && (unsigned)fd - SLOT_GAUGES < MORE_GAUGES)
		return &visitor.more_gauges[fd - SLOT_GAUGES];
	return NULL;
}
static inline __attribute__((always_inline)) void gauge_add(uint64_t *g, uint64_t n)
{
	if (visitor.threads_seen)
		__atomic_fetch_add(g, n, __ATOMIC_RELAXED);
	else
		*g += n;
}
/* A descriptor begins: its counters start at zero; makes room for high ones. */
void gauge_begin(int fd);

static inline const char *secret_words(void) { return visitor.board->redact ? board_words(visitor.board) : NULL; }
static inline bool redact_name(const char *name, uint32_t n) { return secret_name(secret_words(), name, n); }
static inline uint32_t redact_text(const char *s, uint32_t n, char *out, uint32_t cap)
{
	return secret_hide(secret_words(), s, n, out, cap);
}

/* Big and hardly touched; linked last, so that all else is on one page. */
#define LISTS_BYTES (24 * 1024)
#define SCRATCH_BYTES (16 * 1024)
extern uint64_t room_verdicts[64];       /* hashes of keys, and whether they are secret */
extern uint8_t room_wiped[8192];         /* an aligned page of it is emptied by fork */
extern uint8_t room_lists[LISTS_BYTES];  /* the lists of the first record */
extern uint8_t scratch[SCRATCH_BYTES];   /* where its texts are made */

/* Maps the board and reports this image's beginning; false: not recording. */
bool visitor_join(const char *board_path, int argc, char **argv, char **env);
/* A board was named and is there, but not for us: of another version, or the
 * process has no room for it. */
extern bool visitor_refused;
/* main is about to run: a process without a board by now never has one. */
extern bool visitor_decided;
bool visitor_board_path(char *out, size_t cap);
const char *env_value(char **env, const char *name);

/* The engine in this process, where there is no supervisor (host.c).  All of
 * them do nothing in a process that does not host it. */
void host_finish(int status, bool known);
bool host_step_aside(void);
void host_again(bool was);
/* Around exec: true when there was an engine here, which writes nothing until told
 * that the exec has failed. */
bool host_exec_begin(void);
void host_exec_failed(bool was);
void host_maybe(void);
void host_thread_ends(void);
/* This process may see other files by the same names from now on. */
void process_mounts_moved(void);
/* This process does, from now on, what no hook sees. */
void process_blind(const char *what);

/* Reports used by more than one group. */
void report_opened(int fd, const char *path, int dirfd, uint64_t flags, enum fd_type type);
void report_found(int fd);
void report_began(int argc, char **argv, char **env);
/* In the child of a process with several threads: what fork really copied.
 * `ours` is the folder of the session's ring files, "" none. */
void report_copied(const char *ours);
void report_notify(const char *state, uint32_t n);
void report_log(int priority, const char *ident, const char *message, uint32_t n);
/* Reads a datagram sent to NOTIFY_SOCKET or to the journal. */
void report_datagram(const struct sockaddr *to, socklen_t n, const struct iovec *iov, size_t count);
void notify_remember(char **env);
/* The descriptor that is connected to one of them, -1 none. */
extern int datagram_fd;
void datagram_connected(int fd, const struct sockaddr *to, socklen_t n);
void datagram_sent(const struct iovec *iov, size_t count);
/* The target may not read the TSC from now on. */
void visitor_tsc_off(void);
/* The target is about to lock itself in (strictly: read, write and exit are left), and
 * did not after all.  A vfork child locks in itself and not its parent, which it ends
 * being by exec or exit. */
void visitor_locks(bool strict);
void visitor_locks_not(void);

#endif
