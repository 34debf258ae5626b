/* Recording without a supervisor: just before main the visitor opens the
 * engine module and gives it a thread in this process.
 *
 * main is reached through __libc_start_main: constructors are done and no lock
 * is held there.  The engine's thread has all signals blocked, and passes
 * through every hook.  It steps aside for calls that want a process of one
 * thread (unshare, setns), and goes before the last thread of the target does,
 * so that the C library's exit() runs where it would have.
 *
 * When another process of the session was its host and is gone, the next one
 * that starts, or creates a thread, takes its place. */
#include "visitor.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "report/host.h"
#include "stack.h"
#include "sys.h"

#define STACK_BYTES (192u << 10)
#define START_NS 10000000000u   /* a disk may be slow; then the target goes on without us */
#define LEAVE_NS 2000000000u
#define ENV_MORE 2

/* The command that reads recordings is not recorded just for being looked at. */
extern const char snaptrail_observer __attribute__((weak));

static struct host host;
static pthread_t host_thread;
static uint32_t host_joined;        /* pthread_join is done for it */
static void *engine_run;
static int (*the_main)(int, char **, char **);
static void (*the_fini)(void);
static char **the_argv;
static bool main_begun, main_ended;
static bool main_hosts;             /* main is to begin with an engine beside it */
static uint32_t ending[64];         /* threads on their last steps, once main has ended */

static bool hosting(void)
{
	uint32_t state = __atomic_load_n(&host.state, __ATOMIC_ACQUIRE);

	return (state == HOST_RUNNING || state == HOST_STARTING) && !self.locked_child &&
	       host.pid == (sys_forbidden ? visitor.pid : (uint32_t)sys0(SYS_getpid));
}

static uint64_t now_ns(void) { return stamp_monotonic() & ~STAMP_MONOTONIC; }

static void host_wishes(uint32_t wish)
{
	struct board *b = visitor.board;

	__atomic_store_n(&host.wish, wish, __ATOMIC_SEQ_CST);
	if (b && !sys_forbidden) {
		__atomic_add_fetch(&b->bell, 1, __ATOMIC_RELEASE);
		sys4(SYS_futex, (long)&b->bell, FUTEX_WAKE, 1, 0);
	}
}

/* Until a word of the engine's is not `was`; under a strict filter, spinning. */
static uint32_t word_wait(uint32_t *word, uint32_t was, uint64_t limit_ns)
{
	uint64_t until = now_ns() + limit_ns;
	uint32_t value;

	while ((value = __atomic_load_n(word, __ATOMIC_SEQ_CST)) == was && now_ns() < until) {
		struct timespec ts = { .tv_nsec = limit_ns < 50000000 ? (long)limit_ns : 50000000 };

		if (sys_forbidden)
			__builtin_ia32_pause();
		else
			sys4(SYS_futex, (long)word, FUTEX_WAIT, was, (long)&ts);
	}
	return value;
}

static uint32_t host_wait(uint32_t was, uint64_t limit_ns) { return word_wait(&host.state, was, limit_ns); }

/* ---- the engine's thread ---- */

static void *host_main(void *unused)
{
	(void)unused;
	self.ended = true; /* hooks pass through */
	((host_run_fn)engine_run)(&host);
	if (host.alone) /* the last thread's status is the process's */
		sys_call(SYS_exit, host.status, 0, 0, 0, 0, 0);
	return NULL;
}

/* All signals but the two that setuid and cancellation run on. */
static int thread_start(void)
{
	pthread_attr_t a;
	sigset_t all, old;
	int r;

	host.state = HOST_STARTING;
	host.wish = HOST_GO;
	host.writing = host.execs = 0; /* a fork may have copied them */
	host.pid = (uint32_t)sys0(SYS_getpid);
	host_joined = 0;
	sigfillset(&all);
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = REAL(pthread_create)(&host_thread, &a, host_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&a);
	if (r)
		host.state = HOST_OVER;
	return r; /* threads_seen stays: this one opens nothing and counts nothing of the target's */
}

/* Its thread has ended or is about to: the kernel counts it until it is gone. */
static void thread_join(void)
{
	if (__atomic_exchange_n(&host_joined, 1, __ATOMIC_ACQ_REL))
		return;
	REAL(pthread_join)(host_thread, NULL);
	for (int i = 0; i < 100000 && sys3(SYS_tgkill, host.pid, host.tid, 0) == 0; i++)
		sys0(SYS_sched_yield);
}

/* A module beside this one. */
static void *module_open(const char *name)
{
	char path[1024];
	const char *slash;
	Dl_info here;
	size_t n;

	if (!dladdr((void *)module_open, &here) || (slash = __builtin_strrchr(here.dli_fname, '/')) == NULL)
		return NULL;
	n = (size_t)(slash + 1 - here.dli_fname);
	if (n + __builtin_strlen(name) >= sizeof path)
		return NULL;
	__builtin_memcpy(path, here.dli_fname, n);
	__builtin_strcpy(path + n, name);
	return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

EXPORT bool snaptrail_visitor_hosts(void) { return host.stacks; }

/* Before the engine's thread begins: it takes the right to open files away for
 * a moment. */
static void stacks_open(void)
{
	static bool once;

	if (!once)
		module_open("libsnaptrail-preload-stack.so");
	once = true;
}

static void complain(const char *what)
{
	size_t n = __builtin_strlen(what);

	if (!host.verbose || n == 0)
		return;
	sys3(SYS_write, 2, (long)"snaptrail: not recorded: ", 25);
	sys3(SYS_write, 2, (long)what, (long)n);
	sys3(SYS_write, 2, (long)"\n", 1);
}

/* The engine runs, or another process's does; false when there is none. */
static bool host_start(char **argv)
{
	void *engine = module_open("libsnaptrail-engine.so"), *plan = engine ? dlsym(engine, HOST_PLAN_NAME) : NULL;
	uint32_t state;

	engine_run = engine ? dlsym(engine, HOST_RUN_NAME) : NULL;
	host.abi = HOST_ABI;
	if (plan == NULL || engine_run == NULL) {
		complain("libsnaptrail-engine.so is not beside libsnaptrail-preload.so");
		return false;
	}
	if (((host_plan_fn)plan)(&host, argv) < 0) {
		complain(host.error);
		return false;
	}
	if (host.stacks && !main_begun)
		stacks_open();
	if (thread_start() != 0) {
		complain(host.error);
		return false;
	}
	state = host_wait(HOST_STARTING, START_NS);
	if (state == HOST_STARTING)
		host_wishes(HOST_ASIDE);
	else if (state != HOST_RUNNING)
		thread_join();
	if (state != HOST_RUNNING && state != HOST_JOINED)
		complain(host.error);
	return state == HOST_RUNNING || state == HOST_JOINED;
}

/* ---- before main ---- */

extern char **environ;

/* Not setenv(): nothing of the target's is touched but the pointer. */
static void tell_children(const char *board, const char *session)
{
	size_t n = 0, k = 0, bytes = __builtin_strlen(board) + __builtin_strlen(session) + 64;
	char **env, *text;

	while (environ && environ[n])
		n++;
	env = sys_mmap(NULL, (n + ENV_MORE + 1) * sizeof *env + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (sys_failed(env))
		return;
	text = (char *)(env + n + ENV_MORE + 1);
	for (size_t i = 0; i < n; i++)
		if (__builtin_strncmp(environ[i], "SNAPTRAIL_BOARD=", 16) && __builtin_strncmp(environ[i], "SNAPTRAIL_SESSION=", 18))
			env[k++] = environ[i];
	env[k++] = text;
	text = __builtin_stpcpy(__builtin_stpcpy(text, "SNAPTRAIL_BOARD="), board) + 1;
	env[k++] = text;
	__builtin_stpcpy(__builtin_stpcpy(text, "SNAPTRAIL_SESSION="), session);
	environ = env;
}

static void exits_with(int status, void *unused)
{
	(void)unused;
	host.status = status;
	host.has_status = true;
}

/* exit() by whatever road: libc calls it inside, and main returns. */
static void exits(int status, void *unused)
{
	exits_with(status, unused);
	if (reporting(GROUP_PROCESS))
		REPORT(.kind = PROCESS_EXITING, .has_number = true, .number = status, .value = text("exit"));
}

static int hosted_main(int argc, char **argv, char **env)
{
	bool joined = visitor.board != NULL;

	(void)env;
	if (main_hosts)
		host_start(argv);
	else
		stacks_open();
	main_begun = true;
	errno = 0; /* as main finds it */
	if (!joined && (host.state == HOST_RUNNING || host.state == HOST_JOINED) &&
	    visitor_join(host.board, argc, argv, environ))
		tell_children(host.board, host.session);
	visitor_decided = true;
	if (!joined && visitor.board && visitor_heap)
		visitor_heap->joined();
	if (host.state == HOST_RUNNING)
		on_exit(exits, NULL);
	return the_main(argc, argv, environ);
}

/* Behind every destructor: what they did is recorded too. */
static void hosted_fini(void)
{
	if (the_fini)
		the_fini();
	host_finish(0, false);
}

/* A session without a supervisor whose host is gone.  From another pid
 * namespace one cannot tell; the lease then says no. */
static bool host_gone(const struct board *b)
{
	uint32_t pid = __atomic_load_n(&b->recorder_pid, __ATOMIC_RELAXED);

	return b->plain && !b->closing && visitor.pid_ns == 0 && (pid == 0 || pid == visitor.pid || sys2(SYS_kill, pid, 0) == -ESRCH);
}

/* ThreadSanitizer takes the engine's every strlen for the program's, and cannot see
 * what orders them: it would report races that are none. */
extern void __tsan_init(void) __attribute__((weak));

static bool wants_host(char **env)
{
	const char *verbose = env_value(env, "SNAPTRAIL_VERBOSE");

	host.verbose = verbose && *verbose == '1';
	if (&snaptrail_observer || address_space_limited() || &__tsan_init)
		return false;
	if (visitor.board == NULL)
		return !visitor_refused;
	if (!host_gone(visitor.board))
		return false;
	__builtin_strncpy(host.board, env_value(env, "SNAPTRAIL_BOARD"), sizeof host.board - 1);
	return true;
}

/* A child in a session without a supervisor, whose preload list is the user's. */
static bool wants_stacks(void)
{
	return visitor.board && visitor.board->plain && visitor.board->stack_groups;
}

EXPORT int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
			     void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
	main_hosts = wants_host(argv + argc + 1);
	if (!main_hosts && !wants_stacks()) {
		visitor_decided = true;
		return REAL(__libc_start_main)(main, argc, argv, init, fini, rtld_fini, stack_end);
	}
	the_main = main;
	the_fini = rtld_fini;
	the_argv = argv;
	return REAL(__libc_start_main)(hosted_main, argc, argv, init, fini, hosted_fini, stack_end);
}

/* ---- leaving ---- */

void host_finish(int status, bool known)
{
	static uint32_t once;

	if (!hosting() || __atomic_exchange_n(&once, 1, __ATOMIC_ACQ_REL))
		return;
	__atomic_store_n(&visitor.groups, 0, __ATOMIC_RELEASE);
	if (known)
		exits_with(status, NULL);
	host_wishes(HOST_FINISH);
	/* Joined as a thread should be, where this is no handler's _exit. */
	if (host_wait(HOST_RUNNING, LEAVE_NS) != HOST_RUNNING && !known)
		thread_join();
}

bool host_step_aside(void)
{
	if (!hosting())
		return false;
	host_wishes(HOST_ASIDE);
	if (host_wait(HOST_RUNNING, LEAVE_NS) != HOST_RUNNING)
		thread_join();
	return true;
}

void host_again(bool was)
{
	if (was && !main_ended && thread_start() == 0)
		host_wait(HOST_STARTING, START_NS);
}

bool host_exec_begin(void)
{
	if (sys_forbidden || !hosting()) /* a vfork child could not be told from us */
		return false;
	__atomic_add_fetch(&host.execs, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&host.writing, __ATOMIC_SEQ_CST))
		word_wait(&host.writing, 1, HOST_EXEC_NS);
	return true;
}

void host_exec_failed(bool was)
{
	if (!was)
		return;
	__atomic_sub_fetch(&host.execs, 1, __ATOMIC_SEQ_CST);
	if (!sys_forbidden) /* it looks again by itself */
		sys4(SYS_futex, (long)&host.execs, FUTEX_WAKE, 1, 0);
}

/* A thread is being created anyway: a safe place to become the host of a
 * session that has lost its own.  At most once a second. */
void host_maybe(void)
{
	static uint64_t next_ns;
	uint64_t now;

	if (visitor.board == NULL || !visitor.board->plain || sys_forbidden || main_ended || hosting())
		return;
	now = now_ns();
	if (now < __atomic_load_n(&next_ns, __ATOMIC_RELAXED))
		return;
	__atomic_store_n(&next_ns, now + 1000000000u, __ATOMIC_RELAXED);
	if (!host_gone(visitor.board) || !visitor_board_path(host.board, sizeof host.board))
		return;
	host.plan = NULL;
	host_start(the_argv);
}

/* ---- the last thread ---- */

static bool thread_sleeps_for_good(uint32_t tid)
{
	char path[64] = "/proc/self/task/", text[128], digits[12];
	int k = 0, at = 16;
	long fd, n;

	do
		digits[k++] = (char)('0' + tid % 10);
	while (tid /= 10);
	while (k)
		path[at++] = digits[--k];
	__builtin_memcpy(path + at, "/stat", 6);
	fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return true;
	n = sys_read((int)fd, text, sizeof text - 1);
	sys_close((int)fd);
	text[n > 0 ? n : 0] = 0;
	for (long i = n - 3; i > 0; i--)
		if (text[i] == ')')
			return text[i + 2] == 'Z' || text[i + 2] == 'X';
	return true;
}

static bool is_ending(uint32_t tid)
{
	for (size_t i = 0; i < sizeof ending / sizeof *ending; i++)
		if (__atomic_load_n(&ending[i], __ATOMIC_ACQUIRE) == tid)
			return true;
	return false;
}

/* Does any thread go on but those that end, and the engine's? */
static bool others_go_on(void)
{
	struct linux_dirent64 {
		uint64_t ino;
		int64_t off;
		uint16_t reclen;
		uint8_t type;
		char name[];
	} *e;
	_Alignas(8) char list[512];
	long fd = sys_open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n;
	bool found = false;

	if (fd < 0)
		return true;
	while (!found && (n = sys3(SYS_getdents64, fd, (long)list, sizeof list)) > 0)
		for (long at = 0; at < n && !found; at += e->reclen) {
			uint32_t tid = 0;

			e = (void *)(list + at);
			for (const char *p = e->name; *p >= '0' && *p <= '9'; p++)
				tid = tid * 10 + (uint32_t)(*p - '0');
			found = tid && tid != host.tid && !is_ending(tid) && !thread_sleeps_for_good(tid);
		}
	sys_close((int)fd);
	return found;
}

/* A thread takes its last steps.  When main has ended by pthread_exit the C
 * library ends the process with its last thread: that must not be ours. */
void host_thread_ends(void)
{
	uint32_t tid = thread_id();
	static uint32_t at;

	if (tid == visitor.pid)
		main_ended = true;
	if (!main_ended || sys_forbidden || !hosting())
		return;
	__atomic_store_n(&ending[__atomic_fetch_add(&at, 1, __ATOMIC_RELAXED) % 64], tid, __ATOMIC_RELEASE);
	if (!others_go_on())
		host_step_aside();
}

/* ---- calls that want one thread ---- */

EXPORT int unshare(int flags)
{
	bool was = host_step_aside();
	int r = REAL(unshare)(flags), e = errno;

	if (r == 0 && visitor.board && flags & (CLONE_NEWPID | CLONE_NEWUSER))
		visitor.board->namespaces = 1;
	if (r == 0 && flags & CLONE_NEWNS)
		process_mounts_moved();
	host_again(was);
	errno = e;
	return r;
}

EXPORT int setns(int fd, int type)
{
	bool was = host_step_aside();
	int r = REAL(setns)(fd, type), e = errno;

	if (r == 0 && visitor.board)
		visitor.board->namespaces = 1;
	if (r == 0)
		process_mounts_moved();
	host_again(was);
	errno = e;
	return r;
}
