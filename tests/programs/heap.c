/* flags: -fno-builtin */
/* A program whose heap is known: each verb does something to it and then says,
 * as `NAME VALUE` lines, what the C library itself counts (mallinfo2) and the
 * pid; then it waits for a line of input.  What it says is said without stdio. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEEP 200

static void *kept[KEEP * 8];
static long known; /* bytes in the blocks that this program took and has not given back */
static long steps;

static void *got(void *p)
{
	if (p == NULL)
		_exit(9);
	__atomic_fetch_add(&known, (long)malloc_usable_size(p), __ATOMIC_RELAXED);
	return p;
}

/* Before it is freed or grown. */
static void *gone(void *p)
{
	__atomic_fetch_sub(&known, (long)malloc_usable_size(p), __ATOMIC_RELAXED);
	return p;
}

static void say(const char *name, long value)
{
	char line[80];

	if (write(1, line, (size_t)snprintf(line, sizeof line, "%s %ld\n", name, value)) < 0)
		_exit(9);
}

/* Bytes in use by mallinfo2 have 8 of overhead in each block of the heap, 16 in
 * mapped ones; malloc_usable_size has none. */
static void tell(void)
{
	struct mallinfo2 m = mallinfo2();
	char c;

	say("used", (long)(m.uordblks + m.hblkhd));
	say("known", known);
	say("pid", getpid());
	say("end", ++steps);
	if (read(0, &c, 1) < 0)
		_exit(9);
}

/* One block by each name of the family, then some grown and some given back. */
static void family(void **p)
{
	void *aligned = NULL;

	p[0] = got(malloc(1000));
	p[1] = got(calloc(10, 300));
	p[2] = got(realloc(NULL, 5000));
	p[3] = got(memalign(4096, 100));
	p[4] = got(aligned_alloc(64, 640));
	if (posix_memalign(&aligned, 256, 7000))
		_exit(9);
	p[5] = got(aligned);
	p[6] = got(valloc(50));
	p[7] = got(pvalloc(60));
	p[8] = got(reallocarray(NULL, 7, 77));
	p[9] = got(malloc(1 << 20));
	p[2] = got(realloc(gone(p[2]), 300000));
	p[0] = got(realloc(gone(p[0]), 10));
	p[8] = got(reallocarray(gone(p[8]), 700, 77));
	free(malloc(123456));
	free(NULL);
	free(gone(p[3]));
	if (realloc(gone(p[1]), 0)) /* the C library frees it. NOLINT(clang-analyzer-optin.portability.UnixAPI) */
		_exit(9);
	errno = 0;
	if (reallocarray(NULL, strlen(getenv("PATH")) + (size_t)-1 / 2, 3) || errno != ENOMEM)
		_exit(9);
}

static int step[2][2]; /* pipes: thread is ready, thread may end */

static void *allocator(void *arg)
{
	void **mine = arg;
	char c = 0;

	for (int i = 0; i < KEEP; i++)
		mine[i] = got(malloc(1000));
	for (int i = 0; i < KEEP; i++)
		free(gone(mine[KEEP + i])); /* the main thread's */
	if (write(step[0][1], &c, 1) < 0 || read(step[1][0], &c, 1) < 0)
		_exit(9);
	return NULL;
}

static void threads(void)
{
	pthread_t t[3];
	char c = 0;

	if (pipe(step[0]) || pipe(step[1]))
		_exit(9);
	for (int k = 0; k < 3; k++) {
		void **its = got(malloc(2 * KEEP * sizeof *its));

		for (int i = 0; i < KEEP; i++)
			its[KEEP + i] = got(malloc(2000));
		if (pthread_create(&t[k], NULL, allocator, its) || read(step[0][0], &c, 1) < 0)
			_exit(9);
	}
	tell(); /* while they live */
	for (int k = 0; k < 3; k++)
		if (write(step[1][1], &c, 1) < 0)
			_exit(9);
	for (int k = 0; k < 3; k++)
		pthread_join(t[k], NULL);
	tell(); /* when they have ended */
}

/* Threads that take, end, and leave to the main one what they took. */
#define CROWD 4

static void *taker(void *arg)
{
	void **mine = arg;

	for (int i = 0; i < KEEP; i++)
		mine[i] = got(malloc(5000));
	return NULL;
}

static void churn(void)
{
	pthread_t t[CROWD];

	for (int round = 0; round < 150; round++) {
		for (int k = 0; k < CROWD; k++)
			if (pthread_create(&t[k], NULL, taker, kept + k * KEEP))
				_exit(9);
		for (int k = 0; k < CROWD; k++)
			pthread_join(t[k], NULL);
		for (int i = 0; i < CROWD * KEEP; i++)
			free(gone(kept[i]));
	}
	tell();
}

/* A lane that outgrows its slot, and grows again. */
static void grow(void)
{
	for (int round = 0; round < 40; round++) {
		kept[round] = got(malloc(10000));
		for (int i = 0; i < 2000; i++) {
			char value[40];

			snprintf(value, sizeof value, "%d", i);
			setenv("GROWS", value, 1);
			unsetenv("GROWS");
		}
	}
	tell();
}

static void fork_it(int raw)
{
	pid_t pid;

	for (int i = 0; i < KEEP; i++)
		kept[i] = got(malloc(3000));
	pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
	if (pid == 0) {
		for (int i = 0; i < 50; i++)
			free(gone(kept[i]));
		kept[0] = got(malloc(100000));
		setenv("CHILD", "1", 1);
		tell();
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	tell();
}

static void vfork_it(void)
{
	pid_t pid;

	for (int i = 0; i < KEEP; i++)
		kept[i] = got(malloc(3000));
	pid = vfork();
	if (pid == 0) {
		kept[KEEP] = got(malloc(50000)); /* not freed: it stays in the parent */
		free(gone(kept[0]));
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	tell();
}

static void *nothing(void *arg)
{
	free(malloc(100));
	return arg;
}

/* Limits that a guest must not exceed. */
static void narrow(void)
{
	pthread_attr_t a;
	pthread_t t;
	int r;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 16384);
	r = pthread_create(&t, &a, nothing, NULL);
	if (r == 0)
		pthread_join(t, NULL);
	say("small-stack", r);
	say("locked", mlockall(MCL_CURRENT | MCL_FUTURE));
	kept[0] = got(malloc(100000));
	errno = 77;
	free(malloc(100));
	say("errno", errno);
	tell();
}

/* Before main, as a constructor of any library would. */
__attribute__((constructor)) static void first(void)
{
	kept[KEEP * 8 - 1] = malloc(4321);
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	tell(); /* what there is before anything is done */
	if (!strcmp(verb, "family"))
		family(kept), tell();
	else if (!strcmp(verb, "threads"))
		threads();
	else if (!strcmp(verb, "churn"))
		churn();
	else if (!strcmp(verb, "grow"))
		grow();
	else if (!strcmp(verb, "fork") || !strcmp(verb, "clone"))
		fork_it(*verb == 'c');
	else if (!strcmp(verb, "vfork"))
		vfork_it();
	else if (!strcmp(verb, "narrow"))
		narrow();
	else
		return 2;
	return 0;
}
