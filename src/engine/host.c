/* The engine inside a target: what the visitor calls when there is no
 * supervisor; see report/host.h.  Only in the engine module.
 *
 * The thread it runs on is a guest in the target: it has a descriptor table
 * and a working folder of its own, so that the target's descriptors, locks and
 * chroot are not ours; it never calls the target's malloc (heap.c); signals
 * are blocked by who made it. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/io.h"
#include "engine/heap.h"
#include "engine/prepare.h"
#include "engine/recorder.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

extern char **environ;

#define EXPORTED __attribute__((visibility("default")))

struct plan {
	struct config *config;
	struct prepared p;
	char **argv;
};

/* In place, the profiles lie in the source tree that the module was built from. */
static void profiles_beside_module(void)
{
	static const char *const beside[] = { "../../../conf/profiles", "../../conf/profiles" };
	Dl_info here;
	char dir[4096];
	const char *slash;

	if (!dladdr((void *)profiles_beside_module, &here) || (slash = strrchr(here.dli_fname, '/')) == NULL)
		return;
	for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
		snprintf(dir, sizeof dir, "%.*s/%s", (int)(slash - here.dli_fname), here.dli_fname, beside[i]);
		config_add_profile_dir(dir);
	}
}

/* Why a program is not recorded stands in the store, where `sessions` shows it. */
static void note_failure(const struct plan *plan, struct prepared *p, const char *why)
{
	_cleanup_free_ char *command = NULL;
	struct config *fallback = NULL;
	struct session_meta m = { .name = p->name, .profile = "", .boot_id = "", .note = why,
				  .pid = (int)getpid(), .exit_status = -1 };
	struct store_options so;
	const char *path = getenv("SNAPTRAIL_STORE");
	struct store *s;

	if (p->config == NULL)
		p->config = fallback = config_new();
	command = prepare_command_line(p->config, plan->argv);
	m.command = command;
	if (path == NULL || *path == 0)
		path = p->config->path;
	prepare_store_options(p->config, &so);
	so.create = so.unread = true;
	if (store_open(path, &so, &s) == 0) {
		store_new_id(m.id);
		m.started_ns = m.ended_ns = wall_now_ns();
		store_session_begin(s, &m);
		store_session_end(s, &m);
		store_close(s);
	}
	config_free(fallback);
}

static int planned(struct host *h, struct plan *plan)
{
	const char *name = getenv("SNAPTRAIL_SESSION");
	int r = prepare_name(&plan->p, NULL, NULL, plan->argv[0]);

	profiles_beside_module();
	if (r == 0)
		r = config_load(NULL, NULL, &plan->config);
	if (r == 0)
		r = prepare_name(&plan->p, plan->config, name, plan->argv[0]);
	h->stacks = r == 0 && config_stack_groups(plan->config);
	if (r < 0) {
		snprintf(h->error, sizeof h->error, "%s", err_detail());
		note_failure(plan, &plan->p, h->error);
	}
	return r;
}

EXPORTED int snaptrail_engine_plan(struct host *h, char **argv);
EXPORTED int snaptrail_engine_plan(struct host *h, char **argv)
{
	static char *unnamed[] = { (char *)"?", NULL };
	struct plan *plan;
	int r;

	heap_begin();
	if (setjmp(heap_exhausted)) {
		snprintf(h->error, sizeof h->error, "out of memory");
		return -ENOMEM;
	}
	plan = xcalloc(1, sizeof *plan);
	plan->argv = argv && argv[0] ? argv : unnamed;
	h->plan = plan;
	r = h->abi == HOST_ABI ? planned(h, plan) : fail(-EPROTO, "the engine module is of another version");
	return r;
}

/* ---- on the engine's thread ---- */

static void tell(struct host *h, uint32_t state)
{
	__atomic_store_n(&h->state, state, __ATOMIC_RELEASE);
	syscall(SYS_futex, &h->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static int tell_board(struct host *h, const struct session *s, const char *name)
{
	snprintf(h->board, sizeof h->board, "%s/board", s->folder);
	snprintf(h->session, sizeof h->session, "%s", name);
	return 0;
}

/* The pointer file in the store, by the link in the session's folder. */
static int find_pointer(const char *board, char *out, size_t cap)
{
	const char *slash = strrchr(board, '/');
	char link[400];
	ssize_t n;

	snprintf(link, sizeof link, "%.*s/pointer", slash ? (int)(slash - board) : 0, board);
	n = readlink(link, out, cap - 1);
	if (n <= 0 || out[0] != '/')
		return fail(-ENOENT, "%s: the session has no store", board);
	out[n] = 0;
	return 0;
}

/* `<store>/live/<id>` */
static int open_store_of(struct plan *plan, const char *pointer)
{
	_cleanup_free_ char *path = xstrdup(pointer);
	struct store_options so;
	char *slash;

	for (int i = 0; i < 2; i++)
		if ((slash = strrchr(path, '/')))
			*slash = 0;
	prepare_store_options(plan->config, &so);
	return store_open(path, &so, &plan->p.store);
}

/* A session whose recorder is gone.  -EBUSY: somebody has it. */
static int attach(struct host *h, struct plan *plan)
{
	struct session_meta m;
	char pointer[4400];
	int r = find_pointer(h->board, pointer, sizeof pointer);

	if (r == 0)
		r = session_attach(&plan->p.session, pointer, true);
	if (r == 0)
		r = open_store_of(plan, pointer);
	if (r < 0)
		return r;
	snprintf(plan->p.name, sizeof plan->p.name, "%s", h->session);
	for (size_t i = 0; store_session_at(plan->p.store, i, &m) == 0; i++)
		if (strcmp(m.id, plan->p.session.id) == 0)
			snprintf(plan->p.name, sizeof plan->p.name, "%s", m.name);
	return tell_board(h, &plan->p.session, plan->p.name);
}

/* A session of the user's name that another process records is joined. */
static int join_named(struct host *h, struct plan *plan)
{
	struct session_meta m;
	struct session s;
	char pointer[4400];
	int r;

	if (store_session_find(plan->p.store, plan->p.name, &m) < 0)
		return -EBUSY;
	snprintf(pointer, sizeof pointer, "%s/live/%s", store_path(plan->p.store), m.id);
	r = session_attach(&s, pointer, false);
	if (r == 0)
		tell_board(h, &s, plan->p.name);
	session_close(&s, false);
	return r;
}

static int begin(struct host *h, struct plan *plan, bool *ret_resume)
{
	int r;

	*ret_resume = h->board[0] != 0;
	if (*ret_resume)
		return attach(h, plan);
	r = prepare(&plan->p, plan->argv);
	if (r == 0) {
		plan->p.session.board->plain = 1;
		return tell_board(h, &plan->p.session, plan->p.name);
	}
	if (r == -EBUSY && join_named(h, plan) == 0)
		return -EBUSY;
	snprintf(h->error, sizeof h->error, "%s", err_detail());
	note_failure(plan, &plan->p, h->error);
	return r;
}

static void be_a_guest(struct host *h)
{
	syscall(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);
	for (int fd = 0; fd < 3; fd++) /* whoever complains on 2 must not hit a segment */
		if (open("/dev/null", O_RDWR) != fd)
			break;
	if (syscall(SYS_unshare, CLONE_FS) == 0) /* the target may change its root and folder, and its umask is its own */
		umask(077);
	prctl(PR_SET_NAME, "snaptrail");
	h->tid = (uint32_t)syscall(SYS_gettid);
}

/* ---- the target's exec ---- */

static struct host *target;

static void wait_word(uint32_t *word, uint32_t was)
{
	struct timespec ts = { .tv_nsec = 10000000 };

	syscall(SYS_futex, word, FUTEX_WAIT, was, &ts, NULL, 0);
}

static void writing(uint32_t yes)
{
	__atomic_store_n(&target->writing, yes, __ATOMIC_SEQ_CST);
	if (!yes && __atomic_load_n(&target->execs, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &target->writing, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Each says what it is about to do before it looks at what the other does. */
static void keep_together(bool begin)
{
	uint64_t until = 0;
	uint32_t execs;

	writing(begin);
	while (begin && (execs = __atomic_load_n(&target->execs, __ATOMIC_SEQ_CST))) {
		if (until == 0)
			until = mono_now_ns() + HOST_HELD_NS;
		else if (mono_now_ns() > until)
			return;
		writing(0);
		wait_word(&target->execs, execs);
		writing(1);
	}
}

/* ---- the whole ---- */

static int run(struct host *h, struct plan *plan)
{
	struct recorder_options o = { .host = h, .control = -1 };
	int r = begin(h, plan, &o.resume);

	if (r < 0) {
		if (plan->p.session.board)
			session_close(&plan->p.session, false);
		store_close(plan->p.store);
		return r;
	}
	o.config = plan->config;
	o.store = plan->p.store;
	o.session = &plan->p.session;
	o.clock = &plan->p.clock;
	o.session_name = plan->p.name;
	o.command = o.resume ? NULL : plan->argv;
	r = recorder_main(&o);
	if (r < 0)
		snprintf(h->error, sizeof h->error, "%s", err_detail());
	return r;
}

/* The command, in place or installed. */
static bool find_command(char *out, size_t cap)
{
	Dl_info here;
	const char *slash;

	if (dladdr((void *)find_command, &here) && (slash = strrchr(here.dli_fname, '/'))) {
		snprintf(out, cap, "%.*s/../../snaptrail", (int)(slash - here.dli_fname), here.dli_fname);
		if (access(out, X_OK) == 0)
			return true;
	}
	snprintf(out, cap, "%s", BINDIR "/snaptrail");
	return access(out, X_OK) == 0;
}

/* Ours to hand on: what says where and how, and no preload. */
static size_t attending_env(char **env, size_t cap)
{
	size_t n = 0;

	for (char **e = environ; e && *e && n + 1 < cap; e++)
		if (strncmp(*e, "LD_PRELOAD=", 11) && strncmp(*e, "SNAPTRAIL_BOARD=", 16))
			env[n++] = *e;
	env[n] = NULL;
	return n;
}

/* This process ends and others of its session do not (a daemon goes into the
 * background like that): a process of the command's goes on for them, a child of
 * one that waits for nobody any more, and soon nobody's. */
static void leave_to_command(const struct host *h)
{
	static char command[4200], store[4400], *env[4096];
	char *argv[] = { command, (char *)"--store", store, (char *)"attend", (char *)h->session, NULL };
	const char *board = h->board;
	char pointer[4400];
	char *end;

	if (find_pointer(board, pointer, sizeof pointer) < 0 || !find_command(command, sizeof command))
		return;
	snprintf(store, sizeof store, "%s", pointer);
	for (int i = 0; i < 2; i++)
		if ((end = strrchr(store, '/')))
			*end = 0;
	attending_env(env, sizeof env / sizeof *env);
	if (vfork() == 0) {
		setsid(); /* NOLINT(clang-analyzer-unix.Vfork): a system call, nothing of the parent's */
		execve(command, argv, env);
		_exit(127);
	}
}

EXPORTED void snaptrail_engine_run(struct host *h);
EXPORTED void snaptrail_engine_run(struct host *h)
{
	int r;

	if (setjmp(heap_exhausted)) {
		snprintf(h->error, sizeof h->error, "out of memory: the recording ended, what is in its rings is salvaged");
		tell(h, HOST_OVER);
		return;
	}
	be_a_guest(h);
	target = h;
	io_together = keep_together;
	r = run(h, h->plan);
	if (h->others && h->wish == HOST_FINISH)
		leave_to_command(h);
	tell(h, r == -EBUSY ? HOST_JOINED : HOST_OVER);
}
