/* The second object: sd_notify and its kin, which are libsystemd's and not
 * libc's.  The visitor must not export them, because programs probe for them
 * as weak symbols; `snaptrail run` preloads this object only where a program's
 * own libraries define them.  It reports through the visitor and forwards. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))

void snaptrail_visitor_notify(const char *state, uint32_t pid) __attribute__((weak));

static int (*real_notify)(int, const char *);
static int (*real_pid_notify)(pid_t, int, const char *);
static int (*real_pid_notify_with_fds)(pid_t, int, const char *, const int *, unsigned);

/* libsystemd is among the needed libraries, or this object would not be here. */
__attribute__((constructor)) static void sd_start(void)
{
	*(void **)&real_notify = dlsym(RTLD_NEXT, "sd_notify");
	*(void **)&real_pid_notify = dlsym(RTLD_NEXT, "sd_pid_notify");
	*(void **)&real_pid_notify_with_fds = dlsym(RTLD_NEXT, "sd_pid_notify_with_fds");
}

/* libsystemd's names call each other through their exported symbols, which are
 * ours: only the outermost call is the program's. */
static __thread bool inside __attribute__((tls_model("initial-exec")));

#define OUTERMOST(pid, call) \
	int r; \
	if (inside) \
		return call; \
	if (snaptrail_visitor_notify) \
		snaptrail_visitor_notify(state, (uint32_t)(pid)); \
	inside = true; \
	r = call; \
	inside = false; \
	return r

EXPORT int sd_notify(int unset, const char *state)
{
	OUTERMOST(0, real_notify ? real_notify(unset, state) : 0);
}

EXPORT int sd_pid_notify(pid_t pid, int unset, const char *state)
{
	OUTERMOST(pid, real_pid_notify ? real_pid_notify(pid, unset, state) : 0);
}

EXPORT int sd_pid_notify_with_fds(pid_t pid, int unset, const char *state, const int *fds, unsigned n)
{
	OUTERMOST(pid, real_pid_notify_with_fds ? real_pid_notify_with_fds(pid, unset, state, fds, n) : 0);
}

/* The formatting forms become the plain ones, as libsystemd does it. */
#define FORMATTED(call) \
	va_list ap; \
	char *text = NULL; \
	int r; \
	va_start(ap, format); \
	r = vasprintf(&text, format, ap); \
	va_end(ap); \
	if (r < 0) \
		return -12; /* -ENOMEM */ \
	r = call; \
	free(text); \
	return r

EXPORT int sd_notifyf(int unset, const char *format, ...)
{
	FORMATTED(sd_notify(unset, text));
}

EXPORT int sd_pid_notifyf(pid_t pid, int unset, const char *format, ...)
{
	FORMATTED(sd_pid_notify(pid, unset, text));
}
