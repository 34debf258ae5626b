/* What a program does that may notice its guest: guest CASE [ARG]... */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <dirent.h>
#include <unistd.h>

extern char **environ;
static int errno_at_main;

static void say(const char *s) { (void)!write(1, s, strlen(s)); }

static int case_errno(char **a) { (void)a; return printf("errno %d\n", errno_at_main) < 0; }

/* The next number, and every open one. */
static int case_fds(char **a)
{
	(void)a;
	for (int fd = 0; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			dprintf(2, "open %d flags %d\n", fd, fcntl(fd, F_GETFD));
	dprintf(2, "next %d\n", open("/dev/null", O_RDONLY));
	errno = 0;
	dprintf(2, "close(900) %d errno %d\n", close(900), errno);
	errno = 0;
	dprintf(2, "closedir(NULL) %d errno %d\n", closedir((DIR *)getenv("NOT_THERE")), errno);
	errno = 0;
	dprintf(2, "setenv(NULL) %d errno %d\n", setenv(getenv("NOT_THERE"), "x", 0), errno);
	return 0;
}

static int case_wait(char **a)
{
	int status, n = 0;

	(void)a;
	for (int i = 0; i < 5; i++)
		if (fork() == 0)
			_exit(i);
	while (wait(&status) > 0)
		n += 1 + WEXITSTATUS(status);
	printf("%d %s\n", n, strerror(errno));
	return 0;
}

static int case_wait_nothing(char **a)
{
	(void)a;
	printf("%d %s\n", (int)waitpid(-1, NULL, WNOHANG), strerror(errno));
	return 0;
}

static int case_vfork(char **a)
{
	char *args[] = { "true", NULL };
	int status, n = 0;

	(void)a;
	for (int i = 0; i < 50; i++) {
		volatile int changed = 0;
		pid_t p = vfork();

		if (p == 0) {
			changed = 1; /* NOLINT(clang-analyzer-unix.Vfork): that is what is tried */
			close(0);
			dup2(2, 9);
			if (i % 3 == 0)
				execv("/nonexistent", args);
			else
				execve("/bin/true", args, environ);
			_exit(7);
		}
		waitpid(p, &status, 0);
		n += changed * 100 + WEXITSTATUS(status);
		close(open("/dev/null", O_RDONLY));
	}
	printf("%d %d\n", n, fcntl(0, F_GETFD));
	return 0;
}

static int case_spawn(char **a)
{
	posix_spawn_file_actions_t fa;
	char *args[] = { "sh", "-c", "echo spawned; ls /proc/self/fd | wc -l; exit 3", NULL };
	int status, r;
	pid_t p;

	(void)a;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 5, "/etc/passwd", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, 5, 0);
	r = posix_spawnp(&p, "sh", &fa, NULL, args, environ);
	waitpid(p, &status, 0);
	printf("%d %d\n", r, WEXITSTATUS(status));
	printf("%d\n", posix_spawn(&p, "/nonexistent", NULL, NULL, args, environ));
	return 0;
}

static void *late(void *p)
{
	usleep(30000);
	say("the last thread\n");
	return p;
}

static int case_main_leaves(char **a)
{
	pthread_t t;

	(void)a;
	pthread_create(&t, NULL, late, NULL);
	pthread_exit(NULL);
}

static int case_strict(char **a)
{
	char c;

	if (a[0] && vfork() == 0)
		_exit(0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
	for (int i = 0; i < 3000; i++)
		(void)!write(1, "x", 1);
	(void)!read(0, &c, 1);
	syscall(SYS_exit, 5);
	return 1;
}

static int case_tsc(char **a)
{
	(void)a;
	prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
	for (int i = 0; i < 1000; i++)
		close(open("/dev/null", O_RDONLY));
	say("survived\n");
	return 0;
}

/* The shape of a crash: status and address. */
static void crashed(int sig, siginfo_t *info, void *unused)
{
	(void)unused;
	dprintf(1, "signal %d at %p\n", sig, info->si_addr);
	signal(sig, SIG_DFL);
}

static int case_crash(char **a)
{
	struct sigaction sa = { .sa_sigaction = crashed, .sa_flags = SA_SIGINFO };

	(void)a;
	sigaction(SIGSEGV, &sa, NULL);
	*(volatile int *)16 = 1;
	return 0;
}

static int case_abort(char **a) { (void)a; abort(); }

static int case_overflow(char **a)
{
	char small[4];
	volatile size_t n = 64;
	ssize_t read_chk(int, void *, size_t, size_t) __asm__("__read_chk");

	(void)a;
	return (int)read_chk(0, small, n, sizeof small);
}

static int case_close_all(char **a)
{
	if (!strcmp(a[0], "closefrom"))
		closefrom(0);
	else if (!strcmp(a[0], "close_range"))
		close_range(3, ~0u, 0);
	else
		for (int fd = 0; fd < 65536; fd++)
			close(fd);
	for (int i = 0; i < 100; i++)
		close(open("/dev/null", O_RDONLY));
	return open("/dev/null", O_RDONLY);
}

static sigjmp_buf back;
static void jump(int sig) { (void)sig; siglongjmp(back, 1); }

/* Out of a handler into the middle of hooked calls, thousands of times. */
static int case_jump(char **a)
{
	struct itimerval every = { { 0, 60 }, { 0, 60 } }, never = { { 0, 0 }, { 0, 0 } };
	static volatile int jumps, rounds;
	int low = 0;

	(void)a;
	setenv("JUMP", "x", 1); /* not in the loop: libc holds a lock in it */
	signal(SIGALRM, jump);
	if (sigsetjmp(back, 1))
		jumps++;
	else
		setitimer(ITIMER_REAL, &every, NULL);
	while (jumps < 3000) {
		dup2(2, 50);
		rounds++;
		close(50);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	for (int i = 0; i < 100; i++) {
		low = open("/dev/null", O_RDONLY);
		close(low);
	}
	printf("%d %d\n", low, rounds > 0);
	return 0;
}

static void in_handler(int sig)
{
	int saved = errno;

	(void)sig;
	close(open("/dev/null", O_RDONLY));
	errno = saved;
}

static int case_handler(char **a)
{
	struct itimerval every = { { 0, 50 }, { 0, 50 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = in_handler, .sa_flags = SA_RESTART };
	int bad = 0;

	(void)a;
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 200000; i++) {
		errno = 77;
		bad += getenv("X") && dup2(2, 40) < 0;
		if (close(-1) != -1 || errno != EBADF)
			bad++;
		setenv("I", i & 1 ? "1" : "0", 1);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	printf("bad %d\n", bad);
	return 0;
}

static int case_storm(char **a)
{
	int n = 0, status;

	(void)a;
	for (int i = 0; i < 60; i++) {
		for (int k = 0; k < 10; k++) {
			if (fork() == 0) {
				close(open("/etc/passwd", O_RDONLY));
				if (k & 1)
					fork();
				_exit(1);
			}
		}
		while (wait(&status) > 0)
			n += WEXITSTATUS(status);
	}
	printf("%d\n", n);
	return 0;
}

static int case_chain(char **a)
{
	char next[16];
	int n = atoi(a[0]);

	if (n == 0)
		return printf("end %d\n", open("/dev/null", O_RDONLY)) < 0;
	snprintf(next, sizeof next, "%d", n - 1);
	return execl("/proc/self/exe", "guest", "chain", next, NULL);
}

static void *touch(void *p)
{
	close(open("/dev/null", O_RDONLY));
	return p;
}

static int case_small_stacks(char **a)
{
	pthread_attr_t attr;
	pthread_t t[200];
	int made = 0;

	(void)a;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384);
	for (int i = 0; i < 200; i++)
		made += pthread_create(&t[i], &attr, touch, NULL) == 0;
	for (int i = 0; i < made; i++)
		pthread_join(t[i], NULL);
	printf("%d\n", made);
	return 0;
}

static void *run_forever(void *p)
{
	for (;;)
		close(open("/dev/null", O_RDONLY));
	return p;
}

/* open() is a cancellation point, and cancelling it must end the thread. */
static int case_cancel(char **a)
{
	int n = 0;

	(void)a;
	for (int i = 0; i < 100; i++) {
		pthread_t t;
		void *result;

		pthread_create(&t, NULL, run_forever, NULL);
		usleep(200);
		pthread_cancel(t);
		pthread_join(t, &result);
		n += result == PTHREAD_CANCELED;
	}
	printf("%d\n", n);
	return 0;
}

static pthread_key_t key;
static void at_end(void *p)
{
	close(open("/dev/null", O_RDONLY));
	setenv("END", "1", 1);
	(void)p;
}
static void *keyed(void *p)
{
	pthread_setspecific(key, &key);
	return touch(p);
}
static int case_keys(char **a)
{
	pthread_t t;

	(void)a;
	pthread_key_create(&key, at_end);
	for (int i = 0; i < 50; i++) {
		pthread_create(&t, NULL, keyed, NULL);
		pthread_join(t, NULL);
	}
	return printf("keys %s\n", getenv("END")) < 0;
}

static int case_limits(char **a)
{
	struct rlimit l = { strtoull(a[1], NULL, 0), strtoull(a[1], NULL, 0) };

	setrlimit(!strcmp(a[0], "as") ? RLIMIT_AS : !strcmp(a[0], "fsize") ? RLIMIT_FSIZE : RLIMIT_NOFILE, &l);
	execv("/proc/self/exe", (char *[]){ "guest", "busy", NULL });
	return 1;
}

static int case_busy(char **a)
{
	(void)a;
	for (int i = 0; i < 30000; i++) {
		char v[16];

		snprintf(v, sizeof v, "%d", i);
		setenv("BUSY", v, 1);
		close(open("/dev/null", O_RDONLY));
	}
	return printf("busy %s\n", getenv("BUSY")) < 0;
}

/* May make no larger ring: what comes at once does not fit its first lane. */
static int case_cramped(char **a)
{
	struct rlimit none = { 0, 0 };

	(void)a;
	setrlimit(RLIMIT_FSIZE, &none);
	for (int burst = 0; burst < 10; burst++) {
		for (int i = 0; i < 2000; i++)
			setenv("CRAMPED", i & 1 ? "odd" : "even", 1);
		usleep(30000);
	}
	return 0;
}

/* An address buffer that ends where the memory ends. */
static int case_accept(char **a)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX }, long_name = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), fd;
	char *page = (char *)((uintptr_t)sbrk(3 * 4096) + 8191);
	socklen_t n = 2;

	(void)a;
	page = (char *)((uintptr_t)page & ~4095ul);
	sbrk(-(intptr_t)((char *)sbrk(0) - page - 4096));
	strcpy(un.sun_path, "listener");
	memset(long_name.sun_path, 'x', sizeof long_name.sun_path - 1);
	unlink("listener");
	unlink(long_name.sun_path);
	if (bind(l, (void *)&un, sizeof un) || listen(l, 1) || bind(c, (void *)&long_name, sizeof long_name) ||
	    connect(c, (void *)&un, sizeof un))
		return 1;
	fd = accept(l, (void *)((char *)sbrk(0) - 2), &n);
	printf("%d %d\n", fd >= 0, (int)n);
	/* A null address with a length of 0, and one nobody may read. */
	printf("%d\n", (int)sendto(c, "x", 1, 0, (void *)16, 0));
	unlink("listener");
	unlink(long_name.sun_path);
	return 0;
}

static int case_reopen(char **a)
{
	FILE *f = fopen("/etc/passwd", "r"), *g;
	int fd = fileno(f);

	(void)a;
	g = freopen(NULL, "r", f);
	printf("%d\n", g && fileno(g) == fd);
	return 0;
}

static int case_log(char **a)
{
	(void)a;
	openlog("guest", LOG_PERROR, LOG_USER);
	errno = ENOENT;
	syslog(LOG_INFO, "a %s of %d: %m", "message", 3);
	closelog();
	return 0;
}

/* Some at once, each over at once; their numbers. */
static int case_lives(char **a)
{
	int n = atoi(a[0]), running = 0;

	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		printf("%d\n", (int)pid);
		if (++running == 16)
			for (; running > 8; running--)
				wait(NULL);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}

static int forks_each;
static pthread_barrier_t all_forked; /* each has a lane of its own until all have */

static void *forking(void *p)
{
	for (int i = 0; i < forks_each; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			setenv("FORKED", "yes", 1);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		dprintf(1, "%d\n", (int)pid);
	}
	pthread_barrier_wait(&all_forked);
	return p;
}

static int case_forking_threads(char **a)
{
	pthread_t t[64];
	int n = atoi(a[0]) < 64 ? atoi(a[0]) : 64;

	forks_each = atoi(a[1]);
	pthread_barrier_init(&all_forked, NULL, (unsigned)n);
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], NULL, forking, NULL);
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	return 0;
}

/* Moves the stamps of its own reports by days or months, until they are read. */
static int case_future(char **a)
{
	char line[600], path[500];
	uint8_t *from[8], *to[8], later = (uint8_t)atoi(a[0]);
	int n = 0, moved = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	void *b, *e;

	while (n < 8 && fgets(line, sizeof line, maps))
		if (sscanf(line, "%p-%p rw-s %*s %*s %*s %499s", &b, &e, path) == 3 && strstr(path, "snaptrail-")) {
			from[n] = b;
			to[n++] = e;
		}
	fclose(maps);
	for (int i = 0; i < 3000; i++) {
		setenv("FUTURE", i & 1 ? "a" : "b", 1);
		/* Of the fixed shape: field 1 of 8 bytes, then field 2. */
		for (int k = 0; i % 20 == 0 && k < n; k++)
			for (uint8_t *p = from[k]; p + 12 < to[k]; p++)
				if (p[0] == 9 && p[9] == 16 && !(p[7] & later)) {
					p[7] |= later;
					moved++;
				}
	}
	return printf("%d\n", moved > 0) < 0;
}

static void *opening(void *p)
{
	for (int i = 0; i < 3; i++)
		close(open("/dev/null", O_RDONLY));
	return p;
}

/* Some of everything, and enough of it to need more room. */
static int case_everything(char **a)
{
	int status, last = atoi(a[0]);
	char v[16];
	pthread_t t;
	pid_t pid;

	for (int i = 1; i <= last; i++) {
		snprintf(v, sizeof v, "%d", i);
		setenv("COUNT", v, 1);
		if (i % 500 == 0)
			usleep(1000);
		if (i != last / 2)
			continue;
		pid = fork();
		if (pid == 0) {
			setenv("CHILD", "yes", 1);
			opening(NULL);
			_exit(3);
		}
		waitpid(pid, &status, 0);
		pthread_create(&t, NULL, opening, NULL);
		pthread_join(t, NULL);
		printf("%d %d\n", WEXITSTATUS(status), system("exit 4") >> 8);
		opening(NULL);
	}
	printf("%s\n", getenv("COUNT"));
	return 7;
}

static const struct { const char *name; int (*run)(char **); } cases[] = {
#define CASE(n) { #n, case_##n }
	CASE(errno), CASE(fds), CASE(wait), CASE(wait_nothing), CASE(vfork), CASE(spawn), CASE(main_leaves),
	CASE(strict), CASE(tsc), CASE(crash), CASE(abort), CASE(overflow), CASE(close_all), CASE(jump), CASE(cramped), CASE(handler),
	CASE(storm), CASE(chain), CASE(small_stacks), CASE(cancel), CASE(keys), CASE(limits), CASE(busy), CASE(accept),
	CASE(reopen), CASE(log), CASE(lives), CASE(forking_threads),
	CASE(future), CASE(everything),
};

int main(int argc, char **argv)
{
	errno_at_main = errno;
	for (size_t i = 0; argc > 1 && i < sizeof cases / sizeof *cases; i++)
		if (!strcmp(cases[i].name, argv[1]))
			return cases[i].run(argv + 2);
	return 64;
}
