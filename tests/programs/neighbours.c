/* A program with company: libraries that begin before everybody, names that are ours as
 * well, locks, stacks of its own, filters: neighbours CASE [ARG]...
 *
 * With -DAS_LIBRARY it is such a library. */
/* flags: -rdynamic */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef AS_LIBRARY
/* Does before main, and before whoever is loaded behind it, what our hooks are about. */
#ifndef TLS_BYTES
#define TLS_BYTES 1
#endif
static __thread char own[TLS_BYTES] __attribute__((tls_model("initial-exec"), used));

static void *early_thread(void *p)
{
	close(open("/dev/null", O_RDONLY));
	return p;
}

__attribute__((constructor)) static void early(void)
{
	pthread_t t;
	pid_t p;
	int status;

	own[0] = 1;
	if (getenv("LATE"))
		return;
	setenv("EARLY", "yes", 1);
	prctl(PR_SET_NAME, "early");
	close(open("/etc/passwd", O_RDONLY));
	pthread_create(&t, NULL, early_thread, NULL);
	pthread_join(t, NULL);
	p = fork();
	if (p == 0)
		_exit(5);
	waitpid(p, &status, 0);
	printf("early %d\n", WEXITSTATUS(status));
}

const char *early_says(void);
const char *early_says(void) { return getenv("EARLY"); }
#else

extern char **environ;

/* Names of what the engine brings along, and of ours: whoever called these would not come back. */
#define NOT_OURS(name) void name(void); void name(void) { abort(); }
NOT_OURS(compress) NOT_OURS(compress2) NOT_OURS(uncompress) NOT_OURS(deflate) NOT_OURS(deflateInit_) NOT_OURS(deflateInit2_) NOT_OURS(deflateEnd)
NOT_OURS(inflate) NOT_OURS(inflateInit_) NOT_OURS(inflateEnd) NOT_OURS(crc32) NOT_OURS(adler32) NOT_OURS(isal_deflate) NOT_OURS(isal_inflate)
NOT_OURS(ini_parse) NOT_OURS(ini_parse_file) NOT_OURS(protobuf_c_message_pack) NOT_OURS(protobuf_c_message_unpack) NOT_OURS(unw_step)
NOT_OURS(unw_init_local) NOT_OURS(unw_get_reg) NOT_OURS(visitor) NOT_OURS(visitor_enter) NOT_OURS(lane_reserve_slow) NOT_OURS(store_open)
NOT_OURS(model_new) NOT_OURS(buf_room) NOT_OURS(fail) NOT_OURS(xmalloc) NOT_OURS(config_load) NOT_OURS(stamp_monotonic)

static int case_names(char **a)
{
	(void)a;
	for (int i = 0; i < 1000; i++) {
		close(open("/dev/null", O_RDONLY));
		setenv("NAMES", i & 1 ? "x" : "y", 1);
	}
	return puts("own names") < 0;
}

static int count[3];
static void at_before(void) { count[0]++; }
static void at_parent(void) { count[1]++; }
static void at_child(void) { count[2]++; }

static int child_says(pid_t p)
{
	int status = 0;

	if (p == 0)
		_exit(count[2]);
	waitpid(p, &status, 0);
	return WEXITSTATUS(status);
}

/* Handlers of forks run for fork() alone. */
static int case_atfork(char **a)
{
	char *args[] = { "true", NULL };
	pid_t p;

	(void)a;
	pthread_atfork(at_before, at_parent, at_child);
	printf("%d %d", child_says(fork()), child_says(_Fork()));
	p = vfork();
	if (p == 0)
		_exit(count[2]);
	waitpid(p, NULL, 0);
	posix_spawn(&p, "/bin/true", NULL, NULL, args, environ);
	waitpid(p, NULL, 0);
	printf(" %d", system("true"));
	pclose(popen("true", "r"));
	return printf(" %d %d %d\n", count[0], count[1], count[2]) < 0;
}

/* A lock of a process goes with the first descriptor of the file that is closed in it. */
static int case_locks(char **a)
{
	int fd = open("lockfile", O_RDWR | O_CREAT, 0600), status = 0;
	struct flock lock = { .l_type = F_WRLCK };
	pid_t p;

	(void)a;
	printf("%d ", fcntl(fd, F_SETLK, &lock));
	for (int i = 0; i < 20000; i++)
		setenv("LOCKS", i & 1 ? "a" : "b", 1);
	usleep(100000);
	p = fork();
	if (p == 0) {
		int own = open("lockfile", O_RDWR);

		_exit(fcntl(own, F_SETLK, &lock) < 0 ? errno : 0);
	}
	waitpid(p, &status, 0);
	return printf("%d\n", WEXITSTATUS(status)) < 0;
}

static void on_alternate(int s)
{
	(void)s;
	close(open("/dev/null", O_RDONLY));
	setenv("ALTERNATE", "1", 1);
	prctl(PR_SET_NAME, "alternate");
}

/* A handler's stack of the least size and two kilobytes, with nothing below it. */
static int case_alternate_stack(char **a)
{
	size_t least = (size_t)sysconf(_SC_MINSIGSTKSZ) + 2048, room = (least + 4095) & ~4095ul;
	char *m = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *top = m + 65536 + room, name[17] = "";
	stack_t stack = { .ss_sp = top - least, .ss_size = least };
	struct sigaction act = { .sa_handler = on_alternate, .sa_flags = SA_ONSTACK };

	(void)a;
	mprotect(m + 65536, room, PROT_READ | PROT_WRITE);
	if (sigaltstack(&stack, NULL) < 0 || sigaction(SIGUSR1, &act, NULL) < 0)
		return 1;
	for (int i = 0; i < 100; i++)
		raise(SIGUSR1);
	prctl(PR_GET_NAME, name);
	return printf("%s %s\n", name, getenv("ALTERNATE")) < 0;
}

static ucontext_t main_context, other_context;

static void other(void)
{
	for (;;) {
		close(open("/dev/null", O_RDONLY));
		setenv("COROUTINE", "1", 1);
		swapcontext(&other_context, &main_context);
	}
}

static int case_coroutines(char **a)
{
	(void)a;
	getcontext(&other_context);
	other_context.uc_stack.ss_size = 16384;
	other_context.uc_stack.ss_sp = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	makecontext(&other_context, other, 0);
	for (int i = 0; i < 100; i++) {
		swapcontext(&main_context, &other_context);
		close(open("/dev/zero", O_RDONLY));
	}
	return printf("%s\n", getenv("COROUTINE")) < 0;
}

static int opens(void *p)
{
	(void)p;
	for (int i = 0; i < 1000; i++)
		close(open("/dev/null", O_RDONLY));
	return 0;
}

/* A thread that the C library knows nothing of: it runs on our thread's pointer. */
static int case_bare_clone(char **a)
{
	(void)a;
	for (int i = 0; i < 20; i++) {
		char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pid_t p = clone(opens, stack + 65536, CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, NULL);
		int status = -1;

		opens(NULL);
		waitpid(p, &status, 0);
		if (status)
			return 1;
	}
	return puts("cloned") < 0;
}

static void *sets(void *name)
{
	for (int i = 0; i < 2000; i++)
		setenv(name, i & 1 ? "a" : "b", 1);
	return NULL;
}

/* From now on whatever it does not do itself kills it: threads and forks too are plain ones. */
static int case_filter(char **a)
{
	static const short allowed[] = {
		SYS_write, SYS_exit_group, SYS_openat, SYS_close, SYS_brk, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_clone, SYS_clone3,
		SYS_rt_sigprocmask, SYS_rseq, SYS_set_robust_list, SYS_futex, SYS_exit, SYS_wait4, SYS_rt_sigaction,
		SYS_getrandom,
	};
	enum { N = sizeof allowed / sizeof *allowed };
	struct sock_filter rules[N + 3] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	struct sock_fprog program = { N + 3, rules };
	char value[2] = "";
	pthread_t t;
	int status = 0;
	pid_t p;

	for (int i = 0; i < N; i++)
		rules[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], (unsigned char)(N - i), 0);
	rules[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	rules[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	setenv("FILTER", "before", 1);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!strcmp(a[0], "syscall") ? syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 1;
	for (int i = 0; i < 100000; i++) {
		value[0] = (char)('a' + i % 20);
		setenv("FILTER", value, 1);
		if (i % 10 == 0)
			close(open("/dev/null", O_RDONLY));
	}
	pthread_create(&t, NULL, sets, "THREAD");
	pthread_join(t, NULL);
	p = fork();
	if (p == 0) {
		sets("CHILD");
		_exit(3);
	}
	waitpid(p, &status, 0);
	(void)!write(1, WEXITSTATUS(status) == 3 ? "lived\n" : "died\n", 6);
	_exit(5);
}

static void *waits(void *arg)
{
	(void)arg;
	pause();
	return NULL;
}

/* A child of vfork, or who had one, sets a filter; the program goes on: vforks CHILD|THREADS. */
static int case_vforks(char **a)
{
	struct sock_filter all[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, all };
	bool child = !strcmp(a[0], "child");
	pthread_t t;
	pid_t p;

	if (!strcmp(a[0], "threads"))
		pthread_create(&t, NULL, waits, NULL);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	p = vfork();
	if (p == 0) {
		if (child)
			prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program); /* NOLINT(clang-analyzer-unix.Vfork): that is what is tried */
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(p, NULL, 0);
	if (!child)
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
	setenv("AFTER", "yes", 1);
	return printf("done\n") < 0;
}

static void answered(long r) { printf("%ld %d ", r, errno); }

/* What a program does that wants to know which filters there are, or may set none. */
static int case_asks(char **a)
{
	struct sock_fprog none = { 0, NULL };
	int master, slave;

	(void)a;
	for (unsigned flags = 0; flags < 2; flags++) { /* the second would be for all threads */
		answered(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL));
		answered(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &none));
	}
	answered(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL));
	answered(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &none));
	putchar('\n');
	return openpty(&master, &slave, NULL, NULL, NULL); /* what that is, only the kernel can say */
}

int sd_notify(int unset, const char *state) __attribute__((weak));

/* What is there by chance is taken for a wish. */
static int case_weak(char **a)
{
	(void)a;
	return printf("%d %d\n", sd_notify != NULL, dlsym(RTLD_DEFAULT, "sd_notify") != NULL) < 0;
}

static int case_daemon(char **a)
{
	int ends[2], status;
	char said[16];
	ssize_t n;
	pid_t p;

	(void)a;
	if (pipe(ends) < 0)
		return 1;
	p = fork();
	if (p == 0) {
		setsid();
		if (fork())
			_exit(0);
		usleep(100000);
		dprintf(ends[1], "%d", getppid() == 1);
		_exit(0);
	}
	close(ends[1]);
	waitpid(p, &status, 0);
	n = read(ends[0], said, sizeof said - 1);
	said[n > 0 ? n : 0] = 0;
	return printf("%s %zd\n", said, read(ends[0], said, sizeof said)) < 0; /* and the pipe ends when it does */
}

static int case_locked_memory(char **a)
{
	struct rlimit most = { strtoull(a[0], NULL, 0), strtoull(a[0], NULL, 0) };

	setrlimit(RLIMIT_MEMLOCK, &most);
	printf("%d ", mlockall(MCL_FUTURE));
	for (int i = 0; i < 30000; i++)
		setenv("LOCKED", i & 1 ? "a" : "b", 1);
	return printf("%s\n", getenv("LOCKED")) < 0;
}

/* Without any environment, by a descriptor, and past libc. */
static int case_executions(char **a)
{
	char *args[] = { "env", NULL }, *one[] = { "A=B", NULL };

	(void)a;
	for (int i = 0; i < 3; i++) {
		int status = 0;
		pid_t p = fork();

		if (p == 0) {
			if (i == 0)
				execve("/usr/bin/env", args, NULL);
			else if (i == 1)
				fexecve(open("/usr/bin/env", O_RDONLY | O_CLOEXEC), args, one);
			else
				syscall(SYS_execveat, AT_FDCWD, "/usr/bin/env", args, one, 0);
			_exit(1);
		}
		waitpid(p, &status, 0);
		printf("%d\n", status);
		fflush(stdout);
	}
	return 0;
}

/* Found by the RUNPATH of who asks. */
static int case_runpath(char **a)
{
	void *lib = dlopen(a[0], RTLD_NOW | RTLD_LOCAL);
	const char *(*says)(void) = lib ? (const char *(*)(void))dlsym(lib, "early_says") : NULL;

	return printf("%s\n", says ? says() ? says() : "nothing" : dlerror()) < 0;
}

static const struct { const char *name; int (*run)(char **); } cases[] = {
#define CASE(n) { #n, case_##n }
	CASE(names), CASE(atfork), CASE(locks), CASE(alternate_stack), CASE(coroutines), CASE(bare_clone), CASE(filter), CASE(asks), CASE(vforks), CASE(weak),
	CASE(daemon), CASE(locked_memory), CASE(executions), CASE(runpath),
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof cases / sizeof *cases; i++)
		if (!strcmp(cases[i].name, argv[1]))
			return cases[i].run(argv + 2);
	return 64;
}
#endif
