/* doctor: what to expect of a program before it is recorded, or of a process
 * that runs.  Called by the command on its only thread; prints nothing itself,
 * every line goes to the caller's `say`. */
#include "snaptrail.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/inject.h"

#define VISITOR "libsnaptrail-preload.so"

struct speaker {
	void (*say)(void *arg, const char *level, const char *text);
	void *arg;
};

static void tell(const struct speaker *s, const char *level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void tell(const struct speaker *s, const char *level, const char *fmt, ...)
{
	char text[PATH_MAX + 512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (s->say)
		s->say(s->arg, level, text);
}

static void tell_findings(const struct speaker *s, const struct inject_report *r)
{
	char itt[512];

	if (r->is_script)
		tell(s, "note", "it is a script: %s runs it, and is what is recorded", r->program);
	if (r->unreadable)
		tell(s, "note", "its file cannot be read, so nothing more is known about it");
	if (r->needs_asan_first)
		tell(s, "note", "built with AddressSanitizer: %s is preloaded before us", r->asan_path);
	if (r->needs_sd)
		tell(s, "note", "uses libsystemd: its sd_notify and journal messages are recorded");
	if (r->is_go)
		tell(s, "note", "a Go program: its system calls go past libc, descriptors are read from /proc at snapshots");
	inject_find_itt(r, itt, sizeof itt);
	if (itt[0])
		tell(s, "note", "ITT is in %s: `plugins.itt = yes` records its tasks", itt);
	if (r->has_omp)
		tell(s, "note", "uses LLVM's OpenMP: `plugins.ompt = yes` records its parallel regions");
	if (r->has_gomp)
		tell(s, "note", "uses gcc's OpenMP, which has no OMPT: run it over libomp (LD_PRELOAD=libomp.so.5) and `plugins.ompt = yes` records it");
	if (r->has_uring)
		tell(s, "note", "uses liburing: what goes through io_uring is read from /proc at snapshots");
	else if (r->can)
		tell(s, "note", "io_uring and raw system calls cannot be seen in the file; where used, /proc heals the record");
}

static int doctor_file(const struct speaker *s, const char *path)
{
	struct inject_report r;
	int result = inject_check(path, &r);

	if (result == -ENOEXEC) {
		tell(s, "no", "%s", r.reason);
		tell(s, "note", "`snaptrail run --proc-only` runs it and records what /proc shows");
	} else if (result == 0) {
		tell(s, "ok", "%s can be injected", path);
		tell_findings(s, &r);
	}
	return result;
}

/* ---- a running process ---- */

static bool find_line(int pid, const char *file, const char *part, char *ret, size_t size)
{
	_cleanup_free_ char *line = NULL;
	char path[64];
	bool found = false;
	size_t room = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	f = fopen(path, "re");
	while (f && !found && getline(&line, &room, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		found = strstr(line, part) != NULL;
		if (found)
			snprintf(ret, size, "%s", line);
	}
	if (f)
		fclose(f);
	return found;
}

static void tell_namespaces(const struct speaker *s, int pid)
{
	static const char *const kinds[] = { "mnt", "pid", "net", "user" };
	char list[64] = "";

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char ours[64], theirs[64], path[64];
		ssize_t a, b;

		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		a = readlink(path, ours, sizeof ours);
		snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, kinds[i]);
		b = readlink(path, theirs, sizeof theirs);
		if (a > 0 && b > 0 && (a != b || memcmp(ours, theirs, (size_t)a) != 0))
			snprintf(list + strlen(list), sizeof list - strlen(list), " %s", kinds[i]);
	}
	if (*list)
		tell(s, "note", "it lives in namespaces of its own:%s", list);
}

static void tell_seccomp(const struct speaker *s, int pid)
{
	char line[128];

	if (!find_line(pid, "status", "Seccomp:", line, sizeof line))
		return;
	if (strchr(line, '1'))
		tell(s, "note", "it runs under strict seccomp: the visitor makes no system call there");
	else if (strchr(line, '2'))
		tell(s, "note", "it runs under a seccomp filter: what the filter forbids is read from /proc instead");
}

static int doctor_process(const struct speaker *s, int pid)
{
	char link[64], exe[PATH_MAX], line[PATH_MAX + 128];
	struct inject_report r;
	bool loaded;
	ssize_t n;

	snprintf(link, sizeof link, "/proc/%d/exe", pid);
	n = readlink(link, exe, sizeof exe - 1);
	if (n < 0)
		return errno == EACCES || errno == EPERM
			? fail(-EACCES, "process %d belongs to somebody else", pid)
			: fail(-ENOENT, "process %d has no program: it is a kernel thread or has ended", pid);
	exe[n] = '\0';
	loaded = find_line(pid, "maps", VISITOR, line, sizeof line);
	tell(s, loaded ? "ok" : "note", loaded ? "process %d (%s) is injected" : "process %d (%s) runs without us",
	     pid, exe);
	tell_seccomp(s, pid);
	tell_namespaces(s, pid);
	if (loaded)
		return 0;
	/* Its file as it sees it, deleted or in another mount namespace. */
	if (inject_check(link, &r) == -ENOEXEC) {
		char *at = strstr(r.reason, link);

		tell(s, "no", "%s%s", at ? exe : "", at ? at + strlen(link) : r.reason);
		return -ENOEXEC;
	}
	tell(s, "ok", "%s could be injected at its next start", exe);
	tell_findings(s, &r);
	return 0;
}

/* ---- what happened before ---- */

/* Runs under LD_PRELOAD alone that could not be recorded were silent: the store
 * knows why.  The last one of this program, by its pid or its name. */
static void tell_failures(const struct speaker *s, const struct snaptrail_config *c, int pid, const char *program)
{
	struct snaptrail_session one;
	const char *base = strrchr(program, '/');
	struct snaptrail *st;
	char why[400] = "";

	if (snaptrail_open(c, SNAPTRAIL_READ_ONLY, &st) < 0)
		return;
	base = base ? base + 1 : program;
	for (size_t i = 0; snaptrail_session_at(st, i, &one) == 0; i++) {
		size_t n = strcspn(one.command, " ");
		const char *word = one.command + n;

		while (word > one.command && word[-1] != '/')
			word--;
		if (*one.note && one.snapshots == 0 && (pid ? one.pid == pid : strlen(base) == (size_t)(one.command + n - word) &&
								  strncmp(base, word, strlen(base)) == 0))
			snprintf(why, sizeof why, "process %d was not recorded: %s", one.pid, one.note);
	}
	snaptrail_close(st);
	if (*why)
		tell(s, "note", "%s", why);
}

static bool is_pid(const char *text, int *ret_pid)
{
	char *end;
	long v = strtol(text, &end, 10);

	*ret_pid = (int)v;
	return isdigit((unsigned char)*text) && !*end && v > 0 && v < INT_MAX;
}

int snaptrail_doctor(const struct snaptrail_config *c, const char *command_or_pid,
		     void (*say)(void *arg, const char *level, const char *text), void *arg)
{
	struct speaker s = { say, arg };
	char path[PATH_MAX];
	int pid, r;

	if (is_pid(command_or_pid, &pid)) {
		if (kill(pid, 0) < 0 && errno == ESRCH)
			return fail(-ENOENT, "no process %d", pid);
		r = doctor_process(&s, pid);
		tell_failures(&s, c, pid, "");
		return r;
	}
	r = inject_find_program(command_or_pid, path);
	if (r == -EACCES) {
		tell(&s, "no", "%s", err_detail());
		return -ENOEXEC;
	}
	if (r < 0)
		return r;
	r = doctor_file(&s, path);
	tell_failures(&s, c, 0, path);
	return r;
}
