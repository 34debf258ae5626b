/* The visitor's life: it maps the session's board before main, gives each
 * thread a lane, notices forks, and makes ring files for threads that outgrow
 * their slot.  Everything here runs on target threads, in the slow half of a
 * report; what fails leaves the target unrecorded or a report lost and
 * counted, never disturbed. */
#include "visitor.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#include "lookup.h"
#include "stack.h"
#include "sys.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

struct visitor visitor;
uint8_t visitor_shared;
bool visitor_refused;
bool visitor_decided;
uint32_t sys_forbidden;
const struct heap_watch *visitor_heap;
__thread struct visitor_thread self __attribute__((tls_model("initial-exec")));

static uint32_t *generation_page;
static char ring_dir[256];
static uint32_t grow_pause;         /* slow calls to skip after a ring could not be made */
static struct lane *spare_lanes[16]; /* of ended threads, for new ones */

/* Where the target may not read the TSC the vdso may not either: then only
 * the coarse clock is safe. */
static clockid_t slow_clock = CLOCK_MONOTONIC;

void visitor_tsc_off(void)
{
	slow_clock = CLOCK_MONOTONIC_COARSE;
	visitor.use_tsc = false;
}

/* The kernel reads a set of signals before it finds that nothing is to be done with it. */
bool readable(const void *p)
{
	uintptr_t at = (uintptr_t)p & ~(uintptr_t)7;

	if (at < 4096)
		return false;
	return sys_forbidden || sys4(SYS_rt_sigprocmask, -1, (long)at, 0, 8) != -14 /* EFAULT */;
}

struct bytes text_there(const char *s)
{
	uint64_t n = 0;

	while (readable(s + n))
		do
			if (s[n] == 0)
				return BYTES(s, n);
		while ((uintptr_t)(s + ++n) & 4095);
	return BYTES(NULL, 0);
}

void visitor_locks(bool strict)
{
	if (visitor_shared && !sys_forbidden) {
		if ((uint32_t)sys0(SYS_getpid) != visitor.pid) {
			self.locked_child = true;
			return;
		}
		/* From now on nobody can tell a child from its parent. */
		if ((visitor.threads_seen || visitor_shared & SHARED_BESIDE) && !strict)
			process_blind("vfork behind a filter");
		else
			visitor_shared = 0;
	}
	__atomic_fetch_add(&sys_forbidden, 1, __ATOMIC_SEQ_CST);
	if (strict) {
		visitor_tsc_off();
		visitor_shared = 0; /* no more of them, and no getpid to tell one */
	}
}

void visitor_locks_not(void)
{
	if (self.locked_child)
		self.locked_child = false;
	else
		__atomic_fetch_sub(&sys_forbidden, 1, __ATOMIC_SEQ_CST);
}

/* The kernel's own, by the vdso, without a system call.  Not libc's name for it: a
 * preload that tells the program another time would tell us. */
static long (*vdso_clock)(clockid_t id, struct timespec *ts);

static uint64_t clock_ns(void)
{
	struct timespec ts = { 0 };

	if (vdso_clock)
		vdso_clock(slow_clock, &ts);
	else
		sys2(SYS_clock_gettime, slow_clock, (long)&ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Of the coarse clock, which stands still for milliseconds, each later than the one before,
 * of whichever thread: what follows another fact of the same instant would be taken for older. */
uint64_t stamp_monotonic(void)
{
	static uint64_t last;
	uint64_t now = clock_ns(), before, stamp;

	if (vdso_clock && slow_clock == CLOCK_MONOTONIC)
		return now | STAMP_MONOTONIC;
	before = __atomic_load_n(&last, __ATOMIC_RELAXED);
	do
		stamp = now > before ? now : before + 1;
	while (!__atomic_compare_exchange_n(&last, &before, stamp, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return stamp | STAMP_MONOTONIC;
}

/* ---- who we are ---- */

static uint32_t tid_at; /* in what pthread_self() points to: there libc keeps it, in forked children too; 0 unknown */

static uint32_t libc_tid(void)
{
	return tid_at ? *(volatile uint32_t *)((char *)pthread_self() + tid_at) : 0;
}

static void find_tid(uint32_t tid)
{
	for (uint32_t at = 128; tid > 255 && at < 1024 && tid_at == 0; at += 4) /* small numbers stand in many places */
		if (*(volatile uint32_t *)((char *)pthread_self() + at) == tid)
			tid_at = at;
}

uint32_t thread_id(void) { return sys_forbidden ? libc_tid() : (uint32_t)sys0(SYS_gettid); }

/* A child that is locked in has one thread yet, which has its number. */
static uint32_t forked_pid(void) { return sys_forbidden ? libc_tid() : (uint32_t)sys0(SYS_getpid); }

/* ---- lanes ---- */

static void ring_doorbell(void)
{
	struct board *b = visitor.board;

	if (!__atomic_load_n(&b->sleeping, __ATOMIC_RELAXED))
		return;
	if (__atomic_exchange_n(&b->sleeping, 0, __ATOMIC_ACQ_REL)) {
		__atomic_add_fetch(&b->bell, 1, __ATOMIC_RELEASE);
		sys4(SYS_futex, (long)&b->bell, FUTEX_WAKE, 1, 0);
	}
}

static void lane_init(struct lane *l, uint32_t tid, uint32_t size, uint32_t offset)
{
	l->magic = LANE_MAGIC;
	l->pid = visitor.pid;
	l->tid = tid;
	l->size_bytes = size;
	l->data_offset = offset;
	l->limit = l->tail;
	l->hold = l->ahead = 0;
	l->lost = l->lost_first = l->lost_last = l->lost_told = 0;
	l->claimed_stamp = stamp_now();
	l->image = visitor.image;
	l->pid_ns = visitor.pid_ns;
	l->outer_pid = 0;
}

static struct lane *slot_claim(uint32_t tid)
{
	struct board *b = visitor.board;
	uint32_t spread = tid * 2654435761u;

	/* First those that the kernel maps together with the header. */
	for (uint32_t i = 0; i < SLOTS_NEAR + BOARD_SLOTS; i++) {
		struct lane *l = board_slot(b, i < SLOTS_NEAR ? (spread + i) % SLOTS_NEAR : (spread + i) % BOARD_SLOTS);
		uint32_t expected = LANE_FREE;

		if (__atomic_load_n(&l->state, __ATOMIC_RELAXED) == LANE_FREE &&
		    __atomic_compare_exchange_n(&l->state, &expected, LANE_CLAIMED, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED)) {
			MARK("lane claimed");
			lane_init(l, tid, SLOT_DATA_BYTES, SLOT_DATA_OFFSET);
			l->serial = 0;
			slot_gauges(l)->used = 0;
			slot_gauges(l)->more_serial = 0;
			*lane_heap(l) = (struct lane_heap){ 0 };
			MARK("lane prepared");
			__atomic_store_n(&l->state, LANE_LIVE, __ATOMIC_RELEASE);
			MARK("lane live");
			return l;
		}
	}
	return NULL;
}

static char *put_str(char *p, const char *s)
{
	while (*s)
		*p++ = *s++;
	return p;
}

static char *put_num(char *p, uint32_t v)
{
	char digits[12];
	int n = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		*p++ = digits[--n];
	return p;
}

/* `<folder>/<letter>.<pid>.<tid>.<serial>` */
static void ring_path(char *out, char letter, uint32_t tid, uint32_t serial)
{
	char *p = put_str(out, ring_dir);

	*p++ = '/';
	*p++ = letter;
	*p++ = '.';
	p = put_num(p, visitor.pid);
	*p++ = '.';
	p = put_num(p, tid);
	*p++ = '.';
	p = put_num(p, serial);
	*p = 0;
}

/* Growth beyond RLIMIT_FSIZE would raise SIGXFSZ: look first. */
static bool file_size_allowed(uint64_t n)
{
	struct rlimit limit;

	if (sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)&limit) < 0)
		return false;
	return limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= n;
}

/* A handler that jumps away from here would leave our descriptor open in the
 * target: signals wait for these few calls, but not the two that glibc's own
 * setuid and cancellation run on. */
static uint64_t signals_hold(void)
{
	uint64_t all = ~(3ull << 31), old = 0;

	sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&old, sizeof all);
	return old;
}

static void signals_release(uint64_t old)
{
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, sizeof old);
}

/* A file of n preallocated bytes, mapped and pre-faulted; the descriptor is
 * closed again before this returns.  Named t.*, to be renamed when ready. */
static void *file_map(char letter, uint32_t tid, uint32_t serial, uint64_t n, bool populate)
{
	char path[320];
	uint64_t mask;
	void *p = NULL;
	long fd;

	if (ring_dir[0] == 0 || sys_forbidden || !file_size_allowed(n))
		return NULL;
	ring_path(path, letter, tid, serial);
	mask = signals_hold();
	fd = sys_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		signals_release(mask);
		return NULL;
	}
	MARK("ring file made");
	if (sys4(SYS_fallocate, fd, 0, 0, (long)n) >= 0)
		p = sys_mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | (populate ? MAP_POPULATE : 0), (int)fd);
	sys_close((int)fd);
	signals_release(mask);
	if (p == NULL || sys_failed(p)) {
		sys1(SYS_unlink, (long)path);
		return NULL;
	}
	return p;
}

static struct lane *ring_make(uint32_t tid, uint32_t size)
{
	struct board *b = visitor.board;
	uint32_t serial = __atomic_add_fetch(&b->ring_serial, 1, __ATOMIC_RELAXED);
	struct lane *l = file_map('t', tid, serial, (uint64_t)size + LANE_HEADER_BYTES, true);
	char from[320], to[320];

	if (l == NULL)
		return NULL;
	lane_init(l, tid, size, LANE_HEADER_BYTES);
	l->serial = serial;
	l->state = LANE_LIVE;
	MARK("ring prepared");
	ring_path(from, 't', tid, serial);
	ring_path(to, 'r', tid, serial);
	if (sys2(SYS_rename, (long)from, (long)to) < 0) {
		sys_munmap(l, (uint64_t)size + LANE_HEADER_BYTES);
		sys1(SYS_unlink, (long)from);
		return NULL;
	}
	MARK("ring named");
	__atomic_add_fetch(&b->rings_ready, 1, __ATOMIC_RELEASE);
	ring_doorbell();
	return l;
}

/* Makes l this thread's lane.  A signal handler that comes in between sees
 * generation 0 and passes through. */
static void lane_adopt(struct lane *l)
{
	__atomic_store_n(&self.generation, 0, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	self.lane = l;
	self.data = lane_data(l);
	self.mask = l->size_bytes - 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&self.generation, *visitor.generation, __ATOMIC_RELAXED);
}

/* What the board says of sizes is every program's of the session to write over: the
 * others must neither crash nor go round in it. */
static uint32_t sane_size(uint32_t n) { return n < 4096 || n > 1u << 30 || n & (n - 1) ? 65536 : n; }

/* The old lane stays mapped: a report that this one interrupted may still be
 * writing into it.  Its hold stays too: a round that does not know the new lane
 * yet sees it there. */
static bool lane_grow(uint32_t at_least)
{
	struct lane *old = self.lane, *l;
	struct board *b = visitor.board;
	uint32_t size = sane_size(old->serial ? old->size_bytes * 4 : b->lane_bytes), most = sane_size(b->lane_max_bytes);

	while (size < at_least * 2 && size < most)
		size *= 2;
	if (size > most)
		size = most;
	if (size <= old->size_bytes || self.busy)
		return false;
	if (grow_pause) {
		grow_pause--;
		return false;
	}
	self.busy = true;
	l = old->serial && address_space_limited() ? NULL : ring_make(old->tid, size);
	if (l) {
		l->tid = self.tid;
		__atomic_store_n(&l->hold, old->hold, __ATOMIC_RELAXED);
		__atomic_store_n(&l->ahead, old->ahead, __ATOMIC_RELAXED);
		lane_adopt(l);
		MARK("lane grown");
		if (visitor_heap)
			visitor_heap->moved(lane_heap(l));
		__atomic_store_n(&old->state, LANE_CLOSED, __ATOMIC_RELEASE);
	} else {
		grow_pause = 4096;
	}
	self.busy = false;
	return l != NULL;
}

static void lane_lose(struct lane *l)
{
	uint64_t t = stamp_now();

	if (l->lost == 0)
		l->lost_first = t;
	l->lost_last = t;
	__atomic_store_n(&l->lost, l->lost + 1, __ATOMIC_RELEASE);
}

void lane_void(struct lane *l, uint64_t pos, uint64_t n)
{
	uint64_t *header = (uint64_t *)(lane_data(l) + (pos & (l->size_bytes - 1)));

	__atomic_store_n(header, record_header(pos, (uint32_t)n - 8, RECORD_VOID), __ATOMIC_RELEASE);
}

/* What a record that begins at pos leaves unused, because the lane's end is too near. */
static uint32_t lane_pad(uint64_t pos, uint32_t extent)
{
	uint32_t rest = self.mask + 1 - (uint32_t)(pos & self.mask);

	return extent > rest ? rest : 0;
}

/* It should grow before it is used that far, or for a record that long. */
static bool lane_is_small(uint64_t used, uint32_t extent)
{
	uint32_t size = self.mask + 1;

	return used > size / 2 || extent > size / 4;
}

uint8_t *lane_reserve_slow(uint32_t n, uint64_t *ret_pos)
{
	uint32_t extent = record_extent(n);

	for (;;) {
		struct lane *l = self.lane;
		uint32_t size = self.mask + 1;
		uint64_t pos = l->reserve, pad = lane_pad(pos, extent), tail = __atomic_load_n(&l->tail, __ATOMIC_ACQUIRE);
		uint64_t used = pos + pad + extent - tail;
		uint8_t *p;

		if (used > size / 4)
			ring_doorbell();
		if (lane_is_small(used, extent) && lane_grow(extent))
			continue;
		if (used > size) {
			lane_lose(l);
			return NULL;
		}
		/* How far to go before looking at the consumer's line again. */
		l->limit = used > size / 4 ? pos + pad + extent + size / 16 : tail + size / 4;
		if (l->limit > tail + size)
			l->limit = tail + size;
		if (!lane_take(l, pos, pad + extent))
			continue;
		p = self.data + ((pos + pad) & self.mask);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		if (self.lane != l) {
			if (pad)
				lane_void(l, pos, pad);
			lane_void(l, pos + pad, extent);
			continue;
		}
		MARK("room taken at the end");
		if (pad)
			__atomic_store_n((uint64_t *)(self.data + (pos & self.mask)),
					 record_header(pos, (uint32_t)pad - 8, RECORD_VOID), __ATOMIC_RELEASE);
		MARK("end padded");
		pos += pad;
		__atomic_store_n((uint64_t *)p, record_header(pos, n, RECORD_UNFINISHED), __ATOMIC_RELAXED);
		*ret_pos = pos;
		return p + 8;
	}
}

/* ---- threads and processes ---- */

/* Of a thread whose number is known. */
static struct lane *lane_for(uint32_t tid)
{
	struct lane *l = NULL;

	for (size_t i = 0; tid && i < sizeof spare_lanes / sizeof *spare_lanes && !l; i++)
		if (__atomic_load_n(&spare_lanes[i], __ATOMIC_RELAXED))
			l = __atomic_exchange_n(&spare_lanes[i], NULL, __ATOMIC_ACQ_REL);
	if (tid && l == NULL)
		l = slot_claim(tid);
	if (tid && l == NULL)
		l = ring_make(tid, sane_size(visitor.board->lane_bytes));
	if (l == NULL) {
		struct board *b = visitor.board;
		uint64_t t = stamp_now(), none = 0;

		__atomic_compare_exchange_n(&b->no_lane_first, &none, t, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
		__atomic_store_n(&b->no_lane_last, t, __ATOMIC_RELAXED);
		__atomic_add_fetch(&b->no_lane, 1, __ATOMIC_RELAXED);
	}
	return l;
}

static bool thread_begin(void)
{
	struct lane *l;

	self.busy = true;
	self.tid = thread_id();
	l = lane_for(self.tid);
	if (l)
		lane_adopt(l);
	self.busy = false;
	if (l == NULL)
		return false;
	if (self.tid != visitor.pid)
		visitor.threads_seen = true;
	REPORT(.kind = THREAD_BEGAN, .tid = self.tid);
	return true;
}

void visitor_thread_ended(void)
{
	struct lane *l;

	if (self.lane == NULL || self.generation == 0 || self.generation != *visitor.generation)
		return;
	REPORT(.kind = THREAD_ENDED, .tid = self.tid);
	MARK("thread told");
	hold_end(); /* cancelled within a call */
	ahead_end();
	l = self.lane; /* the last report may have made it grow */
	if (visitor_heap)
		visitor_heap->thread_ended();
	self.ended = true;
	self.generation = 0;
	self.lane = NULL;
	for (size_t i = 0; i < sizeof spare_lanes / sizeof *spare_lanes; i++) {
		struct lane *none = NULL;

		if (__atomic_compare_exchange_n(&spare_lanes[i], &none, l, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return;
	}
	MARK("lane closing");
	__atomic_store_n(&l->state, LANE_CLOSED, __ATOMIC_RELEASE);
}

/* The process's first lane.  Its gauges live in the same slot. */
static bool process_begin(void)
{
	struct lane *l;

	self.tid = visitor.pid;
	self.ended = false;
	for (size_t i = 0; i < sizeof spare_lanes / sizeof *spare_lanes; i++)
		spare_lanes[i] = NULL; /* the parent's */
	visitor.gauges = NULL;
	visitor.more_gauges = NULL;
	visitor.main_slot = NULL;
	visitor.threads_seen = false;
	visitor.image = stamp_now();
	l = lane_for(self.tid);
	if (l == NULL) {
		visitor.groups = 0;
		return false;
	}
	if (l->serial == 0) {
		struct slot_gauges *g = slot_gauges(l);

		for (size_t i = 0; i < SLOT_GAUGES; i++)
			g->fd[i] = (struct gauge){ 0 };
		__atomic_store_n(&g->used, 1, __ATOMIC_RELEASE);
		visitor.gauges = g;
		visitor.main_slot = l;
	}
	*generation_page = 1;
	lane_adopt(l);
	return true;
}

/* Asked only once some process of the session has gone into another one. */
static uint64_t pid_namespace(void)
{
	struct statx st;
	long r = sys6(SYS_statx, AT_FDCWD, (long)"/proc/self/ns/pid", 0, STATX_INO, (long)&st, 0);

	if (r < 0)
		return UINT64_MAX;
	return st.stx_ino == visitor.board->pid_ns || visitor.board->pid_ns == 0 ? 0 : st.stx_ino;
}

/* The parent's report names the child by a number that both know, unless the
 * child is in another namespace: then its own report would name another. */
static bool in_same_namespace(void)
{
	uint64_t before = visitor.pid_ns;

	if (visitor.pid == 1 || sys0(SYS_getppid) == 0)
		visitor.board->namespaces = 1;
	if (visitor.board->namespaces)
		visitor.pid_ns = pid_namespace();
	return visitor.pid_ns == before;
}

void visitor_forked(uint64_t stamp)
{
	uint32_t parent = visitor.pid;
	bool threads = visitor.threads_seen, same;

	if (visitor.board == NULL || *visitor.generation != 0)
		return;
	self.busy = true;
	visitor.pid = forked_pid();
	visitor_shared = 0;
	same = in_same_namespace();
	if (visitor.pid && visitor.groups && !visitor.board->closing && process_begin()) {
		MARK("child begun");
		if (same || stamp == 0)
			REPORT(.kind = PROCESS_FORKED, .stamp = stamp, .pid = visitor.pid, .ppid = same ? parent : 0, .tid = self.tid);
	} else {
		visitor.groups = 0;
	}
	if (visitor_heap)
		visitor_heap->forked(stamp != 0);
	self.busy = false; /* the list may be long: its lane must be able to grow */
	if (threads)
		report_copied(ring_dir);
}

bool visitor_enter(void)
{
	if (visitor.board == NULL || self.ended || self.busy)
		return false;
	if (*visitor.generation == 0) { /* wiped by a fork we did not see */
		visitor_forked(0);
		return visitor.groups != 0;
	}
	if (visitor_shared) {
		if (self.locked_child || sys_forbidden || (uint32_t)sys0(SYS_getpid) != visitor.pid)
			return false; /* a vfork child, or who knows: this memory is its parent's */
		if (!visitor.threads_seen)
			visitor_shared &= SHARED_BESIDE;
	}
	return self.generation == *visitor.generation || thread_begin();
}

uint32_t visitor_vfork_child(void)
{
	const struct lane *l = self.lane;
	uint32_t pid;

	if (visitor.board == NULL || visitor_shared != SHARED_WAITED_FOR || sys_forbidden || self.locked_child || self.ended ||
	    self.busy || self.generation != *visitor.generation || *visitor.generation == 0)
		return 0;
	/* Its parent may have been killed and the lane be another's, or have executed something
	 * on another thread. */
	if (__atomic_load_n(&l->state, __ATOMIC_ACQUIRE) != LANE_LIVE || l->pid != visitor.pid || l->tid != self.tid ||
	    l->image != visitor.image)
		return 0;
	pid = (uint32_t)sys0(SYS_getpid);
	return pid != visitor.pid && (uint32_t)sys0(SYS_getppid) == visitor.pid ? pid : 0;
}

void visitor_vfork_report(struct change c)
{
	uint32_t inner = change_size(&c), extent = record_extent(1 + varint_size(inner) + inner);
	struct lane *l = self.lane;
	uint64_t end = l->reserve + lane_pad(l->reserve, extent) + extent;

	if (lane_is_small(end - __atomic_load_n(&l->tail, __ATOMIC_ACQUIRE), extent))
		lane_lose(l);
	else
		report_plain(c);
}

/* Also called by the jumps of process.c.  With CLONE_THREAD the pid is the same: there is
 * nothing to tell apart. */
void visitor_shares(uint64_t clone_flags)
{
	real_jumps();
	if (clone_flags & CLONE_VM)
		__atomic_fetch_or(&visitor_shared, clone_flags & (CLONE_VFORK | CLONE_THREAD) ? SHARED_WAITED_FOR : SHARED_BESIDE,
				  __ATOMIC_SEQ_CST);
}

/* Which counters are this thread's; called by the heap's object. */
EXPORT enum heap_place snaptrail_visitor_heap(const struct heap_watch *watch, struct heap_view *ret)
{
	visitor_heap = watch;
	if (visitor.board == NULL)
		return visitor_decided ? HEAP_NEVER : HEAP_EARLY;
	if (*visitor.generation == 0)
		return visitor.groups ? HEAP_EARLY : HEAP_NEVER; /* forked: the child's own will come */
	if (!(visitor.board->groups & GROUP_HEAP) || visitor.main_slot == NULL)
		return HEAP_NEVER;
	*ret = (struct heap_view){ .generation = visitor.generation, .process = lane_heap(visitor.main_slot) };
	if (self.generation == *visitor.generation && !self.ended && !self.busy) {
		ret->thread = lane_heap(self.lane);
		ret->tid = self.tid;
	}
	return HEAP_HERE;
}

void gauge_begin(int fd)
{
	struct gauge *g;

	if ((unsigned)fd >= SLOT_GAUGES && visitor.gauges && !visitor.more_gauges && !self.busy &&
	    !__atomic_load_n(&visitor.gauges->more_serial, __ATOMIC_RELAXED)) {
		uint32_t serial = __atomic_add_fetch(&visitor.board->ring_serial, 1, __ATOMIC_RELAXED);

		self.busy = true;
		visitor.more_gauges = file_map('g', 0, serial, MORE_GAUGES * sizeof(struct gauge), false);
		__atomic_store_n(&visitor.gauges->more_serial, visitor.more_gauges ? serial : UINT32_MAX,
				 __ATOMIC_RELEASE);
		self.busy = false;
	}
	if (unlikely(fd == datagram_fd))
		datagram_fd = -1;
	g = gauge_of(fd);
	if (g)
		*g = (struct gauge){ 0 };
}

/* ---- call stacks ---- */

static stack_function stack_walk; /* of the third object, when it is there */

static bool stack_emit(const struct change *c) { return report_plain(*c); }

__attribute__((cold, noinline)) uint64_t stack_here(uint64_t stamp)
{
	const struct stack_call call = { .depth = visitor.board->stack_depth, .stamp = stamp,
					 .may_call = !sys_forbidden, .emit = stack_emit,
					 .missed = visitor.board->stacks_missed };

	return stack_walk(&call);
}

EXPORT void snaptrail_visitor_stacks(stack_function walk)
{
	stack_walk = walk;
	if (visitor.groups)
		__atomic_store_n(&visitor.stack_groups, walk ? visitor.board->stack_groups : 0, __ATOMIC_RELEASE);
}

/* ---- start ---- */

const char *env_value(char **env, const char *name)
{
	size_t n = __builtin_strlen(name);

	for (; env && *env; env++)
		if (__builtin_strncmp(*env, name, n) == 0 && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

static struct board *board_map(const char *path)
{
	long fd = sys_open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
	struct board *b;

	if (fd < 0)
		return NULL;
	visitor_refused = true;
	b = sys_mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd);
	sys_close((int)fd);
	if (sys_failed(b))
		return NULL;
	if (b->magic != BOARD_MAGIC || b->version != BOARD_VERSION || b->size_bytes != BOARD_BYTES || b->closing) {
		visitor_refused = !b->closing;
		sys_munmap(b, BOARD_BYTES);
		return NULL;
	}
	return b;
}

/* A page that fork() empties, by whatever road the fork came. */
static uint32_t *generation_get(void)
{
	uint8_t *page = (uint8_t *)(((uintptr_t)room_wiped + 4095) & ~4095ul);

	return sys3(SYS_madvise, (long)page, 4096, MADV_WIPEONFORK) < 0 ? NULL : (uint32_t *)page;
}

static bool tsc_forbidden(void)
{
	int mode = PR_TSC_ENABLE;

	return sys2(SYS_prctl, PR_GET_TSC, (long)&mode) < 0 || mode != PR_TSC_ENABLE;
}

static bool ring_dir_set(const char *board_path)
{
	size_t n = __builtin_strlen(board_path);

	while (n && board_path[n - 1] != '/')
		n--;
	if (n < 2 || n > sizeof ring_dir)
		return false;
	__builtin_memcpy(ring_dir, board_path, n - 1);
	ring_dir[n - 1] = 0;
	return true;
}

bool visitor_board_path(char *out, size_t cap)
{
	if (ring_dir[0] == 0 || __builtin_strlen(ring_dir) + sizeof "/board" > cap)
		return false;
	__builtin_memcpy(put_str(out, ring_dir), "/board", sizeof "/board");
	return true;
}

bool visitor_join(const char *path, int argc, char **argv, char **env)
{
	struct board *b;

	if (!ring_dir_set(path))
		return false;
	generation_page = generation_get();
	b = generation_page ? board_map(path) : NULL;
	if (b == NULL)
		return false;
	visitor.generation = generation_page;
	visitor.pid = (uint32_t)sys0(SYS_getpid);
	find_tid((uint32_t)sys0(SYS_gettid));
	visitor.use_tsc = b->use_tsc;
	if (tsc_forbidden())
		visitor_tsc_off();
	visitor.board = b;
	if (visitor.pid == 1 && b->pid_ns)
		b->namespaces = 1;
	if (b->namespaces)
		visitor.pid_ns = pid_namespace();
	if (!process_begin())
		return false;
	report_began(argc, argv, env);
	visitor.stack_groups = stack_walk ? b->stack_groups : 0;
	__atomic_store_n(&visitor.groups, b->groups | GROUP_EXPLICIT, __ATOMIC_RELEASE);
	return true;
}

/* Valgrind hides it, and getauxval() of what is not there is an error. */
static void *vdso_find(void)
{
	int e = errno;
	void *found = lookup_at(getauxval(AT_SYSINFO_EHDR), "__vdso_clock_gettime");

	errno = e;
	return found;
}

__attribute__((constructor)) static void visitor_start(int argc, char **argv, char **env)
{
	const char *path = env_value(env, "SNAPTRAIL_BOARD");

	real_ready();
	vdso_clock = vdso_find();
	if (path)
		visitor_join(path, argc, argv, env);
}
