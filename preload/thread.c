/* Hooks of the thread group.  A new thread starts in a trampoline that takes a
 * lane for it and gives the lane back when it ends, by return, pthread_exit or
 * cancellation.  What the trampoline must know waits in a fixed pool: a guest
 * allocates nothing; when the pool is empty the thread starts plainly and
 * shows itself at its first report. */
#include "visitor.h"

#include <sys/prctl.h>

#include "sys.h"

struct start {
	uint32_t taken;
	void *(*run)(void *);
	void *arg;
};
static struct start pool[32];

static struct start *start_take(void *(*run)(void *), void *arg)
{
	for (size_t i = 0; i < sizeof pool / sizeof *pool; i++) {
		if (!__atomic_load_n(&pool[i].taken, __ATOMIC_RELAXED) &&
		    !__atomic_exchange_n(&pool[i].taken, 1, __ATOMIC_ACQUIRE)) {
			pool[i].run = run;
			pool[i].arg = arg;
			return &pool[i];
		}
	}
	return NULL;
}

static void ended(void *unused)
{
	(void)unused;
	if (!self.ended && reporting(GROUP_THREAD))
		visitor_thread_ended();
	host_thread_ends();
}

/* The C library gives a handle out again once its thread is joined: a number
 * tells the thread that a handle meant from the one that has it now. */
static uint64_t threads_begun;

static void began(void)
{
	REPORT(.kind = THREAD_BEGAN, .tid = self.tid, .flags = (uint64_t)pthread_self(),
	       .seq = __atomic_add_fetch(&threads_begun, 1, __ATOMIC_RELAXED));
}

static void *trampoline(void *p)
{
	struct start s = *(struct start *)p;
	void *result;

	__atomic_store_n(&((struct start *)p)->taken, 0, __ATOMIC_RELEASE);
	pthread_cleanup_push(ended, NULL);
	if (reporting(GROUP_THREAD)) /* the lane's first record says who */
		began();
	result = s.run(s.arg);
	pthread_cleanup_pop(1);
	return result;
}

EXPORT int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	struct start *s = NULL;
	int r;

	visitor.threads_seen = true;
	host_maybe();
	if (reporting(GROUP_THREAD))
		s = start_take(run, arg);
	r = s ? REAL(pthread_create)(t, attr, trampoline, s) : REAL(pthread_create)(t, attr, run, arg);
	if (r && s)
		__atomic_store_n(&s->taken, 0, __ATOMIC_RELEASE);
	return r;
}

/* A C11 thread returns an int; the C library passes it in the same pointer. */
static void *run_thrd(void *p)
{
	struct start s = *(struct start *)p;
	int result;

	__atomic_store_n(&((struct start *)p)->taken, 0, __ATOMIC_RELEASE);
	pthread_cleanup_push(ended, NULL);
	if (reporting(GROUP_THREAD))
		began();
	result = ((thrd_start_t)(void *)s.run)(s.arg);
	pthread_cleanup_pop(1);
	return (void *)(intptr_t)result;
}

static int start_thrd(void *p)
{
	return (int)(intptr_t)run_thrd(p);
}

EXPORT int thrd_create(thrd_t *t, thrd_start_t run, void *arg)
{
	struct start *s = NULL;
	int r;

	visitor.threads_seen = true;
	if (reporting(GROUP_THREAD))
		s = start_take((void *(*)(void *))(void *)run, arg);
	r = s ? REAL(thrd_create)(t, start_thrd, s) : REAL(thrd_create)(t, run, arg);
	if (r != thrd_success && s)
		__atomic_store_n(&s->taken, 0, __ATOMIC_RELEASE);
	return r;
}

/* The trampoline's cleanup runs as the stack unwinds; the main thread and
 * threads that started plainly have none. */
EXPORT void pthread_exit(void *result)
{
	if (thread_id() == visitor.pid)
		host_thread_ends();
	REAL(pthread_exit)(result);
	__builtin_unreachable();
}

EXPORT int pthread_join(pthread_t t, void **result)
{
	uint64_t begun = __atomic_load_n(&threads_begun, __ATOMIC_RELAXED);
	int r = REAL(pthread_join)(t, result);

	if (r == 0 && reporting(GROUP_THREAD))
		REPORT(.kind = THREAD_ENDED, .flags = (uint64_t)t, .seq = begun);
	return r;
}

EXPORT int pthread_detach(pthread_t t)
{
	uint64_t begun = __atomic_load_n(&threads_begun, __ATOMIC_RELAXED);
	int r = REAL(pthread_detach)(t);

	if (r == 0 && reporting(GROUP_THREAD))
		REPORT(.kind = THREAD_DETACHED, .flags = (uint64_t)t, .seq = begun);
	return r;
}

static void named(uint32_t tid, uint64_t handle, const char *name)
{
	/* As the kernel reads it: no further. */
	REPORT(.kind = THREAD_NAMED, .tid = tid, .flags = handle, .name = BYTES(name, strnlen(name, 15)));
}

EXPORT int pthread_setname_np(pthread_t t, const char *name)
{
	int r = REAL(pthread_setname_np)(t, name);

	if (r == 0 && reporting(GROUP_THREAD))
		named(pthread_equal(t, pthread_self()) ? self.tid : 0, (uint64_t)t, name);
	return r;
}

EXPORT int prctl(int option, ...)
{
	unsigned long a[4];
	va_list ap;
	bool locks;
	int r;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	locks = option == PR_SET_SECCOMP && (a[0] == 1 || a[1]);
	if (locks)
		visitor_locks(a[0] == 1);
	if (option == PR_SET_TSC && a[0] == PR_TSC_SIGSEGV)
		visitor_tsc_off();
	r = REAL(prctl)(option, a[0], a[1], a[2], a[3]);
	if (locks && r < 0)
		visitor_locks_not();
	if (r == 0 && option == PR_SET_NAME && reporting(GROUP_THREAD))
		named(self.tid, 0, (const char *)a[0]);
	return r;
}
