/* The front of `run`: it prepares the session, forks the recorder off, starts
 * the command with the visitor preloaded, forwards signals, and hands on the
 * status.  The target keeps terminal, stdin and process group; nothing of ours
 * stays open in it.  One thread until the end. */
#include "engine/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/inject.h"
#include "engine/look.h"
#include "engine/prepare.h"
#include "engine/recorder.h"

#ifndef PKGLIBDIR
#define PKGLIBDIR "/usr/local/lib/snaptrail"
#endif

extern char **environ;

struct front {
	const struct snaptrail_run_options *o;
	struct prepared p;
	struct inject_report inject;
	char program[PATH_MAX];
	int control[2];
	int *inherited;      /* descriptors that were open before us */
	size_t ninherited;
};

/* ---- where the visitor is ---- */

/* In place beside the command that was built, else where it was installed. */
static int visitor_path(const char *name, char *out, size_t cap)
{
	char exe[PATH_MAX - 64];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	char *slash;

	exe[n > 0 ? n : 0] = 0;
	slash = strrchr(exe, '/');
	if (slash) {
		*slash = 0;
		snprintf(out, cap, "%s/preload/.libs/%s", exe, name);
		if (access(out, R_OK) == 0)
			return 0;
	}
	snprintf(out, cap, "%s/%s", PKGLIBDIR, name);
	if (access(out, R_OK) == 0)
		return 0;
	return fail(-ENOENT, "%s: not found, neither beside the command nor installed", name);
}

/* LD_PRELOAD is split at blanks and colons: such a path goes by a link. */
static void plain_path(const struct front *f, char *path, size_t cap, const char *as)
{
	char link[400];

	if (strpbrk(path, " :\t") == NULL)
		return;
	snprintf(link, sizeof link, "%s/%s", f->p.session.folder, as);
	if (symlink(path, link) == 0)
		snprintf(path, cap, "%s", link);
}

/* One more object of ours, where it was built. */
static bool preload_add(struct front *f, struct buf *list, const char *name)
{
	char path[PATH_MAX];

	if (visitor_path(name, path, sizeof path) < 0)
		return false;
	plain_path(f, path, sizeof path, name);
	if (list->len)
		buf_byte(list, ':');
	buf_str(list, path);
	return true;
}

static char *preload_list(struct front *f)
{
	_cleanup_buf_ struct buf list = BUF_INIT;
	const char *own = getenv("LD_PRELOAD");

	if (f->inject.needs_asan_first)
		buf_str(&list, f->inject.asan_path);
	if (!preload_add(f, &list, "libsnaptrail-preload.so"))
		return NULL;
	if (f->inject.needs_sd)
		preload_add(f, &list, "libsnaptrail-preload-sd.so");
	if (f->p.session.board->stack_groups && !preload_add(f, &list, "libsnaptrail-preload-stack.so"))
		fprintf(stderr, "snaptrail: no call stacks: libsnaptrail-preload-stack.so was not built (libunwind-dev)\n");
	if (f->p.config->hooks_heap)
		preload_add(f, &list, "libsnaptrail-preload-heap.so");
	return xasprintf("LD_PRELOAD=%s%s%s", buf_cstr(&list), own && *own ? ":" : "", own ? own : "");
}

/* A collector that a runtime in the target finds by a variable; NULL: not wanted, or
 * the user has another. */
static char *collector(struct front *f, bool wanted, const char *variable, const char *object)
{
	const char *own = getenv(variable);
	char path[PATH_MAX];

	if (!wanted || !f->inject.can || (own && *own))
		return NULL;
	if (visitor_path(object, path, sizeof path) < 0) {
		fprintf(stderr, "snaptrail: nothing by %s: %s was not built\n", variable, object);
		return NULL;
	}
	plain_path(f, path, sizeof path, object);
	return xasprintf("%s=%s", variable, path);
}

/* The target's environment: ours but for LD_PRELOAD, SNAPTRAIL_* and collectors. */
static char **target_env(struct front *f)
{
	size_t n = 0, k = 0;
	char **env, *preload = f->inject.can ? preload_list(f) : NULL;
	char *more[] = { collector(f, f->p.config->plugin_itt, "INTEL_LIBITTNOTIFY64", "libsnaptrail-itt.so"),
			 collector(f, f->p.config->plugin_ompt, "OMP_TOOL_LIBRARIES", "libsnaptrail-ompt.so") };

	if (preload == NULL && f->inject.can)
		return NULL;
	while (environ[n])
		n++;
	env = xcalloc(n + 6, sizeof *env);
	for (size_t i = 0; i < n; i++)
		if (!(preload && strncmp(environ[i], "LD_PRELOAD=", 11) == 0) && strncmp(environ[i], "SNAPTRAIL_BOARD=", 16) &&
		    strncmp(environ[i], "SNAPTRAIL_SESSION=", 18))
			env[k++] = environ[i];
	if (preload)
		env[k++] = preload;
	env[k++] = xasprintf("SNAPTRAIL_BOARD=%s/board", f->p.session.folder);
	env[k++] = xasprintf("SNAPTRAIL_SESSION=%s", f->p.name);
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		if (more[i])
			env[k++] = more[i];
	return env;
}

/* ---- the recorder's own process ---- */

static void note_inherited(struct front *f)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] == '.' || fd == dirfd(d))
			continue;
		f->inherited = xrealloc(f->inherited, (f->ninherited + 1) * sizeof *f->inherited);
		f->inherited[f->ninherited++] = fd;
	}
	if (d)
		closedir(d);
}

/* The recorder holds nothing that was given to `run`. */
static void let_go(const struct front *f)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < f->ninherited; i++)
		if (f->inherited[i] > 2)
			close(f->inherited[i]);
	for (int fd = 0; fd < 3; fd++)
		if (null != fd)
			dup2(null, fd);
	if (null > 2)
		close(null);
	if (chdir("/") < 0)
		return;
}

static void recorder_child(struct front *f)
{
	struct recorder_options o = { .config = f->p.config, .store = f->p.store, .session = &f->p.session,
				      .clock = &f->p.clock, .session_name = f->p.name, .tags = f->o->tags,
				      .command = f->o->argv, .control = f->control[1] };
	int e;

	setsid();
	let_go(f);
	if (f->control[0] >= 0)
		close(f->control[0]);
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ };

	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	e = recorder_main(&o);
	_exit(e < 0);
}

/* Twice forked when the caller becomes the target: no wait of its may see it. */
static int fork_recorder(struct front *f, bool twice)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return fail(-errno, "fork: %s", strerror(errno));
	if (pid == 0) {
		if (twice && fork() != 0)
			_exit(0);
		recorder_child(f);
	}
	if (twice)
		waitpid(pid, &status, 0);
	if (f->control[1] >= 0)
		close(f->control[1]);
	return 0;
}

/* ---- the target ---- */

static volatile sig_atomic_t target_pid, early_signal, late_signal;

static void forward(int sig)
{
	int saved = errno;

	if (target_pid == 0)
		early_signal = sig; /* before there is a target: kept for it */
	if (target_pid < 0)
		late_signal = sig; /* after it: waits for no recorder any longer */

	/* The terminal sends INT and QUIT to the whole group: the target has them. */
	if (target_pid > 0 && (sig == SIGTERM || sig == SIGHUP))
		kill(target_pid, sig);
	errno = saved;
}

/* A handler, not SIG_IGN: exec gives the target the default again. */
static void catch(int sig)
{
	struct sigaction a = { .sa_handler = forward, .sa_flags = SA_RESTART }, old;

	if (sigaction(sig, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(sig, &a, NULL);
}

/* Ctrl-Z stops both of us and fg continues both, in any order: only a target
 * that stays stopped was stopped alone. */
static bool stays_stopped(pid_t pid)
{
	for (int i = 0; i < 20; i++) {
		siginfo_t info = { 0 };

		if (waitid(P_PID, (id_t)pid, &info, WCONTINUED | WNOHANG) == 0 && info.si_pid == pid)
			return false;
		if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid)
			return false;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return true;
}

static bool is_stopped(pid_t pid)
{
	char comm[32], state = 0;
	uint32_t ppid;
	uint64_t start;

	return look_stat((uint32_t)pid, &ppid, &start, comm, &state) && (state == 'T' || state == 't');
}

/* Stops with it, and continues with it: whoever continues only one of the two means
 * both.  What is stopped cannot look: another one does. */
static void stop_with(pid_t pid)
{
	pid_t front = getpid(), looks = fork();

	if (looks == 0) {
		target_pid = 0; /* what is forwarded is the front's to forward */
		/* Not before it has stopped: who is continued too early stays stopped. */
		while ((is_stopped(pid) || !is_stopped(front)) && getppid() == front)
			nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		if (getppid() == front)
			kill(front, SIGCONT);
		_exit(0);
	}
	raise(SIGSTOP);
	kill(pid, SIGCONT);
	if (looks > 0) {
		kill(looks, SIGKILL);
		while (waitpid(looks, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

static void wait_for(pid_t pid, int *status, struct rusage *usage)
{
	for (;;) {
		if (wait4(pid, status, WUNTRACED, usage) < 0) {
			if (errno == EINTR)
				continue;
			*status = 0;
			return;
		}
		if (!WIFSTOPPED(*status))
			return;
		if (stays_stopped(pid))
			stop_with(pid);
	}
}

static void tell(const struct front *f, const struct control *m)
{
	struct board *b = f->p.session.board;

	if (send(f->control[0], m, sizeof *m, MSG_NOSIGNAL) < 0)
		return; /* a dead recorder never stops the target */
	__atomic_add_fetch(&b->bell, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &b->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Who ignores SIGCHLD, and so would its command, hears of no status: not for as long as
 * we wait for one. */
static struct sigaction child_before;
static bool child_ignored;

static void hear_children(void)
{
	child_ignored = sigaction(SIGCHLD, NULL, &child_before) == 0 && child_before.sa_handler == SIG_IGN;
	sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
}

/* vfork and not posix_spawn, which leaves two of glibc's own signals ignored
 * in the new image. */
static int spawn(const char *program, char *const argv[], char *const env[], pid_t *ret_pid)
{
	volatile int error = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		if (child_ignored)
			signal(SIGCHLD, SIG_IGN); /* NOLINT(clang-analyzer-unix.Vfork): dispositions are not shared */
		execve(program, argv, env);
		error = errno; /* NOLINT(clang-analyzer-unix.Vfork): for the parent, who waits in vfork() */
		_exit(127);
	}
	if (pid < 0)
		return errno;
	if (error)
		waitpid(pid, NULL, 0);
	*ret_pid = pid;
	return error;
}

/* For a script without #!, as execvp does it: /bin/sh runs it. */
static char **shell_argv(const struct front *f)
{
	size_t n = 0;
	char **argv;

	while (f->o->argv[n])
		n++;
	argv = xcalloc(n + 2, sizeof *argv);
	argv[0] = (char *)"/bin/sh";
	argv[1] = (char *)f->program;
	for (size_t i = 1; i < n; i++)
		argv[i + 1] = f->o->argv[i];
	return argv;
}

static int start_target(struct front *f, char **env, pid_t *ret_pid)
{
	int r = spawn(f->program, f->o->argv, env, ret_pid);

	if (r == ENOEXEC) {
		char **argv = shell_argv(f);

		r = spawn("/bin/sh", argv, env, ret_pid);
		free(argv);
	}
	return r ? fail(r == ENOENT ? -ENOENT : -EACCES, "%s: %s", f->o->argv[0], strerror(r)) : 0;
}

/* It may take its time, for a slow disk or with --wait; a signal to us gives it two
 * seconds more. */
static void hear(const struct front *f, struct snaptrail_summary *s)
{
	struct pollfd answer = { .fd = f->control[0], .events = POLLIN };
	const char *why = "the recorder ended before its command; the next command of this store salvages what was recorded";
	ssize_t n = -1;
	int r, more = 20;

	do
		r = poll(&answer, 1, 100);
	while (r <= 0 && (!late_signal || more-- > 0));
	if (r > 0)
		n = recv(f->control[0], s, sizeof *s, MSG_DONTWAIT);
	if (n == sizeof *s)
		return;
	memset(s, 0, sizeof *s);
	snprintf(s->session, sizeof s->session, "%s", f->p.name);
	snprintf(s->store, sizeof s->store, "%s", f->p.config->path ? f->p.config->path : "");
	s->unheard = s->unstored = true;
	if (r <= 0)
		why = "the recorder does not answer, and is not waited for; it stores the rest, or the next command salvages it";
	else if (access(f->p.session.folder, F_OK) < 0 && errno == ENOENT)
		why = "the recorder ended before its command, and its rings were removed";
	snprintf(s->error, sizeof s->error, "%s", why);
}

static int attend(struct front *f, char **env, int *ret_status, struct snaptrail_summary *ret)
{
	struct control m = { .type = CONTROL_STARTED, .wait = f->o->wait, .uninjected = !f->inject.can };
	struct rusage usage = { 0 };
	pid_t pid = 0;
	int r;

	r = start_target(f, env, &pid);
	if (r < 0) {
		m = (struct control){ .type = CONTROL_ENDED };
		tell(f, &m);
		sigaction(SIGCHLD, &child_before, NULL);
		hear(f, ret);
		return r;
	}
	target_pid = pid;
	if (early_signal)
		kill(pid, early_signal);
	m.pid = pid;
	tell(f, &m);
	wait_for(pid, ret_status, &usage);
	target_pid = -1;
	m = (struct control){ .type = CONTROL_ENDED, .pid = pid, .status = *ret_status,
			      .cpu_ns = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
					(uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u };
	tell(f, &m);
	sigaction(SIGCHLD, &child_before, NULL);
	hear(f, ret);
	return 0;
}

/* The caller becomes the target: same pid, same parent, as a service manager
 * needs; the recorder is nobody's child that it could see. */
static int become(struct front *f, char **env)
{
	struct control m = { .type = CONTROL_STARTED, .pid = getpid(), .uninjected = !f->inject.can };

	tell(f, &m);
	execve(f->program, f->o->argv, env);
	if (errno == ENOEXEC)
		execve("/bin/sh", shell_argv(f), env);
	return fail(errno == ENOENT ? -ENOENT : -EACCES, "%s: %s", f->o->argv[0], strerror(errno));
}

/* ---- the whole ---- */

static int find_and_check(struct front *f)
{
	int r = inject_find_program(f->o->argv[0], f->program);

	if (r < 0)
		return r;
	r = inject_check(f->program, &f->inject);
	return r == -ENOEXEC && f->o->proc_only ? 0 : r;
}

static int run_prepared(struct front *f, int *ret_status, struct snaptrail_summary *ret)
{
	char **env;
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->control) < 0)
		return fail(-errno, "socketpair: %s", strerror(errno));
	env = target_env(f);
	if (env == NULL)
		return -EIO;
	if (!f->o->detach) {
		hear_children();
		catch(SIGINT);
		catch(SIGQUIT);
		catch(SIGTERM);
		catch(SIGHUP);
	}
	r = fork_recorder(f, f->o->detach);
	if (r < 0)
		return r;
	if (f->p.session.lease >= 0)
		close(f->p.session.lease); /* the recorder's copy holds the lock */
	f->p.session.lease = -1;
	store_forget(f->p.store); /* a segment that two hold is never compacted */
	f->p.store = NULL;
	return f->o->detach ? become(f, env) : attend(f, env, ret_status, ret);
}

int run_command(const struct config *c, const struct snaptrail_run_options *o, int *ret_status,
		struct snaptrail_summary *ret)
{
	struct front f = { .o = o, .control = { -1, -1 } };
	const char *name = o->session ? o->session : getenv("SNAPTRAIL_SESSION");
	int r;

	r = prepare_name(&f.p, c, name, o->argv[0]);
	if (r < 0)
		return r;
	r = find_and_check(&f);
	if (r < 0)
		return r;
	note_inherited(&f);
	r = prepare(&f.p, o->argv);
	if (r == -ENOENT || r == -EACCES)
		r = -EIO; /* those two mean the program; the detail says what this is */
	if (r == 0)
		r = run_prepared(&f, ret_status, ret);
	else
		session_close(&f.p.session, true);
	free(f.inherited);
	/* The session belongs to the recorder now; this copy just goes. */
	return r;
}
