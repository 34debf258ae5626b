/* flags: -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -ldl -rdynamic */
/* Opens files from places whose callers are known: `stacks WHERE [LIBRARY]`.
 * Each file is called like its place, so that a log tells which line is which.
 * The same source, with -DLIBRARY, is the library that is opened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP __attribute__((noinline, noclone, noipa, visibility("default")))

#ifdef LIBRARY

STEP int library_c(const char *path)
{
	int fd = open(path, O_CREAT | O_RDONLY, 0600);

	close(fd);
	return fd + 1;
}

STEP int library_b(const char *path) { return library_c(path) + 1; }

__attribute__((constructor)) static void library_constructor(void) { library_b("constructor"); }

#else

static void *addresses[32];
static int address_count;

STEP int c(const char *path)
{
	int fd;

	address_count = backtrace(addresses, 32);
	fd = open(path, O_CREAT | O_RDONLY, 0600);
	close(fd);
	return fd + 1;
}

STEP int b(const char *path) { return c(path) + 1; }
STEP int a(const char *path) { return b(path) + 1; }

/* Aligns its stack by a register that is saved on it: the frame is found
 * through memory. */
STEP int aligned(const char *path)
{
	char room[64] __attribute__((aligned(64)));

	memset(room, 1, sizeof room);
	__asm__ volatile("" : : "r"(room) : "memory");
	return a(path) + room[0];
}

STEP int down(int n, const char *path) { return n ? down(n - 1, path) + 1 : a(path); }

static void *in_thread(void *path) { return (void *)(long)a(path); }

STEP void handler(int sig)
{
	(void)sig;
	a("handler");
}

static volatile sig_atomic_t storms;

STEP void storm(int sig)
{
	(void)sig;
	storms++;
	close(open("storm", O_CREAT | O_RDONLY, 0600));
}

static sigjmp_buf out;

STEP void jump(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/* Leaves whatever it was doing, hooks and walks included, a hundred times. */
STEP void jumped(void)
{
	struct itimerval soon = { { 0, 0 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };

	signal(SIGALRM, jump);
	for (volatile int i = 0; i < 100; i++) {
		if (sigsetjmp(out, 1))
			continue;
		setitimer(ITIMER_REAL, &soon, NULL);
		for (;;)
			close(open("jumped", O_CREAT | O_RDONLY, 0600));
	}
	setitimer(ITIMER_REAL, &never, NULL);
	if (fork() == 0) /* has a lane of its own: reports left unfinished hold up this one */
		_exit(a("afterwards") == 0);
}

static void interrupted(void)
{
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };

	signal(SIGALRM, storm);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 200000 && storms < 100; i++)
		down(i % 40, "interrupted");
	setitimer(ITIMER_REAL, &never, NULL);
}

static void on_alternate(int where)
{
	stack_t s = { .ss_sp = malloc(65536), .ss_size = 65536 };
	struct sigaction act = { .sa_handler = handler, .sa_flags = where };

	sigaltstack(&s, NULL);
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
	a("afterwards");
}

/* All of a thread's stack but `left` bytes is used when a() is called. */
static void *nearly_full(void *left)
{
	pthread_attr_t attr;
	void *low;
	size_t size;
	char here, *room;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &low, &size);
	pthread_attr_destroy(&attr);
	room = __builtin_alloca((size_t)(&here - (char *)low) - (size_t)left);
	memset(room, 0, 64);
	__asm__ volatile("" : : "r"(room) : "memory");
	a("full");
	return NULL;
}

static void thread(size_t stack, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	if (stack)
		pthread_attr_setstacksize(&attr, stack);
	if (pthread_create(&t, &attr, run, arg))
		abort();
	pthread_join(t, NULL);
}

STEP void library(const char *file, int times)
{
	for (int i = 0; i < times; i++) {
		void *lib = dlopen(file, RTLD_NOW);
		int (*f)(const char *) = lib ? (int (*)(const char *))dlsym(lib, "library_b") : NULL;

		if (f == NULL)
			abort();
		f("library");
		dlclose(lib);
	}
}

int main(int argc, char **argv)
{
	const char *where = argc > 1 ? argv[1] : "";
	void *warm[1];

	backtrace(warm, 1);
	if (strcmp(where, "main") == 0)
		a("main");
	else if (strcmp(where, "aligned") == 0)
		aligned("aligned");
	else if (strcmp(where, "deep") == 0)
		down(40, "deep");
	else if (strcmp(where, "thread") == 0)
		thread(0, in_thread, "thread");
	else if (strcmp(where, "child") == 0 && (a("parent"), fork() == 0))
		_exit(a("child") == 0);
	else if (strcmp(where, "library") == 0)
		library(argv[2], 3);
	else if (strcmp(where, "handler") == 0)
		on_alternate(0);
	else if (strcmp(where, "alternate") == 0)
		on_alternate(SA_ONSTACK);
	else if (strcmp(where, "interrupted") == 0)
		interrupted();
	else if (strcmp(where, "jumped") == 0)
		jumped();
	else if (strcmp(where, "small") == 0)
		thread(PTHREAD_STACK_MIN, in_thread, "small");
	else if (strcmp(where, "full") == 0)
		thread(64 * 1024, nearly_full, (void *)atol(argv[2]));
	else if (strcmp(where, "hot") == 0)
		for (int i = 0; i < atoi(argv[2]); i++)
			down(i & 3, "hot");
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < address_count; i++)
		printf("%p\n", addresses[i]);
	return 0;
}
#endif
