/* The recorder's loop: drain, apply, follow, cut, answer, sleep; see recorder.h.
 * One collecting thread and the flusher; in a target one thread is both. */
#include "engine/recorder_internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mark.h"
#include "engine/replay.h"
#include "engine/salvage.h"
#include "engine/secrets.h"

#define SLEEP_MIN_NS 100000u
#define SLEEP_WORK_NS 2000000u   /* while records come */
#define SLEEP_FILL 0.125         /* of the fastest lane: a producer rings at a quarter */
#define SLEEP_ENDING_NS 50000u
#define ENDING_ROUNDS 50u        /* without sleep once the command has ended */
#define SLEEP_MAX_NS 20000000u
#define GRACE_NS 1000000000u     /* between fork and the first report of a new image */

/* ---- the end ---- */

/* False: the stage could not be changed for another, and what it holds is not stored. */
static bool last_cut(struct recorder *r, int origin)
{
	bool made = false;

	cuts_own_metrics(r, 0);
	collect_apply_all(&r->c);
	for (int i = 0; i < 100 && !(made = cuts_make(r, origin)); i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		flush_again(&r->f);
	}
	return made;
}

static void summarize(struct recorder *r, struct snaptrail_summary *s)
{
	struct flush_status f;
	struct timespec cpu;

	flush_wait(&r->f);
	f = flush_status(&r->f);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	*s = (struct snaptrail_summary){
		.duration_ns = mono_now_ns() - r->began_mono_ns, .snapshots = f.stored, .changes = r->c.changes,
		.coalesced = r->c.coalesced, .lost = r->c.lost, .raw_bytes = f.raw_bytes,
		.stored_bytes = f.stored_bytes, .processes = model_processes_seen(r->c.model),
		.threads = model_threads_seen(r->c.model), .target_cpu_ns = r->root_cpu_ns, .remaining = follow_living(r),
		.recorder_cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
		.uninjected = r->uninjected + (uint32_t)model_processes_unheard(r->c.model),
	};
	snprintf(s->session, sizeof s->session, "%s", r->o->session_name);
	snprintf(s->store, sizeof s->store, "%s", store_path(r->o->store) ? store_path(r->o->store) : "");
	snprintf(s->error, sizeof s->error, "%.255s", f.error[0] ? f.error : r->c.board->error);
}

static void answer(struct recorder *r, const struct snaptrail_summary *s)
{
	if (r->control >= 0 && !r->answered && send(r->control, s, sizeof *s, MSG_NOSIGNAL) < 0)
		r->front_gone = true;
	r->answered = true;
}

static int end_origin(const struct recorder *r)
{
	return r->root_ended && WIFSIGNALED(r->root_status) ? ORIGIN_CRASH : ORIGIN_EXIT;
}

static void session_over(struct recorder *r)
{
	struct session_meta m = { .ended_ns = r->c.watermark_ns, /* it may have ended under another host: the state knows how */
				  .exit_status = r->root_ended ? r->root_status : model_exit_status(r->c.model, (uint32_t)r->root_pid),
				  .pid = r->root_pid, .name = r->o->session_name, .command = "", .profile = "",
				  .boot_id = "", .note = "" };

	memcpy(m.id, r->o->session->id, sizeof m.id);
	store_session_end(r->o->store, &m);
}

/* ---- the loop ---- */

static void sleep_on_bell(struct recorder *r, uint64_t ns)
{
	struct board *b = r->c.board;
	uint32_t bell = __atomic_load_n(&b->bell, __ATOMIC_ACQUIRE);
	struct timespec ts = { .tv_nsec = (long)ns };

	__atomic_store_n(&b->sleeping, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &b->bell, FUTEX_WAIT, bell, &ts, NULL, 0);
	__atomic_store_n(&b->sleeping, 0, __ATOMIC_RELAXED);
}

/* `run` was killed before it told what it had started: that may be about to report. */
static bool may_come(const struct recorder *r)
{
	return r->front_gone && r->gone_mono_ns && !r->root_known && model_processes_seen(r->c.model) == 0 &&
	       mono_now_ns() - r->gone_mono_ns < GRACE_NS;
}

static bool over(struct recorder *r)
{
	if (r->o->host)
		return host_wish(r) != HOST_GO;
	if (r->root_ended && r->c.unread && clock_now(&r->c.clock) - r->c.all_read_ns > GRACE_NS)
		return true; /* the next command may be able to */
	if (r->processes == NULL && r->root_ended) {
		collect_apply_all(&r->c);
		follow_known(r);
	}
	return r->processes == NULL && (r->root_ended || r->front_gone || r->control < 0) && !may_come(r);
}

/* The command has ended but others of the session live on. */
static bool command_left_others(const struct recorder *r)
{
	const struct followed *p = r->processes;

	if (r->o->host || !r->root_ended || r->answered || r->wait_all || follow_living(r) == 0)
		return false;
	while (p && (int)p->pid != r->root_pid)
		p = p->next;
	return p == NULL;
}

/* Falls slowly, as the next burst is likely to be like the last. */
static double filling_rate(double before, double fill, uint64_t *drained_ns)
{
	uint64_t now = mono_now_ns();
	double rate = now > *drained_ns ? fill / (double)(now - *drained_ns) : 0;

	*drained_ns = now;
	return rate > before ? rate : before * 0.98;
}

static void loop(struct recorder *r)
{
	uint64_t sleep_ns = SLEEP_MIN_NS, applied = 0, drained_ns = mono_now_ns();
	double rate = 0; /* of the fastest lane: how much of it is filled in a nanosecond */
	struct snaptrail_summary s;
	unsigned ending = 0;

	for (unsigned round = 0; !over(r); round++) {
		double fill;
		size_t n = collect_drain(&r->c, &fill);
		bool busy = fill > 0.25;

		rate = filling_rate(rate, fill, &drained_ns);

		if (!busy || r->c.npending > 100000 || round - applied > 64) {
			collect_apply(&r->c);
			applied = round;
		}
		if (!busy || round % 64 == 0) {
			follow_events(r);
			follow_settle(r);
		}
		host_show_thread(r);
		flush_again(&r->f);
		cuts_automatic(r);
		requests_serve(r);
		cuts_wanted(r);
		if (command_left_others(r)) {
			cuts_here(r, &(struct wish){ .origin = end_origin(r) }, cuts_look_around(r));
			summarize(r, &s);
			answer(r, &s);
		}
		if (busy) {
			sleep_ns = SLEEP_MIN_NS;
			continue;
		}
		/* Reading each record as it comes would bounce its cache line and keep a
		 * processor busy with timers: a sleep lets them gather.  A producer past
		 * a quarter of its lane rings the bell, which costs it a system call:
		 * better to be back before. */
		if (n && sleep_ns > SLEEP_WORK_NS)
			sleep_ns = SLEEP_WORK_NS;
		if (rate * (double)sleep_ns > SLEEP_FILL)
			sleep_ns = rate * SLEEP_MIN_NS < SLEEP_FILL ? (uint64_t)(SLEEP_FILL / rate) : SLEEP_MIN_NS;
		if (r->root_ended && !r->answered && !r->o->host) { /* `run` waits for us */
			if (ending++ < ENDING_ROUNDS)
				continue;
			sleep_ns = SLEEP_ENDING_NS;
		}
		sleep_on_bell(r, sleep_ns);
		sleep_ns = sleep_ns * 2 < SLEEP_MAX_NS ? sleep_ns * 2 : SLEEP_MAX_NS;
	}
}

/* ---- beginning and ending ---- */

/* What the recorder before left becomes snapshots; its state is ours. */
static int take_over(struct recorder *r)
{
	const char *id = r->o->session->id;
	struct replay_query q = { .session_id = id, .until_ns = UINT64_MAX };
	struct replay_result was;
	struct snapshot_meta last;
	struct leftovers left;
	size_t n;
	int e = salvage_stages(r->o->store, r->o->session, ORIGIN_AUTOMATIC, &left);

	if (e == 0) {
		salvage_clock(&left, r->o->session->board, &r->c.clock);
		e = collect_begin(&r->c, r->o->session->folder, r->o->session->board, left.next_serial, r->o->config->max_rate);
	}
	if (e == 0) {
		collect_find(&r->c);
		e = salvage_skip(&r->c, &left);
	}
	salvage_done(&left, e == 0);
	n = store_snapshot_count(r->o->store, id);
	if (e == 0 && n && store_snapshot_at(r->o->store, id, n - 1, &last) == 0 && replay(r->o->store, &q, &was) == 0) {
		model_free(r->c.model);
		r->c.model = was.model;
		memcpy(r->last_id, last.id, sizeof r->last_id);
		r->last_cut_ns = r->c.watermark_ns = last.time_ns;
		r->started = true;
		r->since_full_bytes = UINT64_MAX / 2; /* unknown: the next one is full */
		follow_known(r);
	}
	return e;
}

static int begin_anew(struct recorder *r)
{
	r->c.clock = *r->o->clock;
	clock_learn(&r->c.clock);
	r->last_cut_ns = r->o->session->board->created_mono_ns + (uint64_t)r->c.clock.offset_ns; /* before the command */
	return collect_begin(&r->c, r->o->session->folder, r->o->session->board, 1, r->o->config->max_rate);
}

static int recorder_begin(struct recorder *r)
{
	struct epoll_event e = { .events = EPOLLIN };
	const struct host *h = r->o->host;

	r->began_mono_ns = mono_now_ns();
	r->control = r->o->control;
	r->interval_ns = r->o->config->interval_ns;
	r->front_gone = h || r->control < 0;
	r->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (r->epoll < 0)
		return fail(-errno, "epoll_create1: %s", strerror(errno));
	if (r->control >= 0 && epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->control, &e) < 0)
		return fail(-errno, "epoll_ctl: %s", strerror(errno));
	r->c.process_seen = follow_seen;
	r->c.snapshot_wanted = cuts_on_wanted;
	r->c.arg = r;
	r->c.secret_words = secret_words_of(r->o->config, r->secret_words);
	r->next_cut_mono_ns = r->began_mono_ns + r->interval_ns;
	if (r->o->resume) {
		r->root_pid = session_root_pid(r->o->session);
	} else if (h) {
		r->root_pid = (int)h->pid;
		r->root_known = true;
	}
	session_set_pids(r->o->session, (int)getpid(), r->root_pid);
	r->requests = request_page_make(r->o->session);
	MARK("recorder named");
	return r->o->resume ? take_over(r) : begin_anew(r);
}

/* The session was begun, and nothing can be recorded: it says why. */
static void never_began(struct recorder *r)
{
	struct session_meta m = { .ended_ns = wall_now_ns(), .exit_status = -1, .name = "", .command = "", .profile = "",
				  .boot_id = "", .note = err_detail() };

	if (r->o->resume)
		return;
	memcpy(m.id, r->o->session->id, sizeof m.id);
	store_session_end(r->o->store, &m);
}

/* Folders that somebody took away hold nothing any more. */
static void say_what_is_left(struct recorder *r, bool stored, struct snaptrail_summary *s)
{
	const char *store = store_path(r->o->store), *why = r->c.unread ? "a ring could not be read" : flush_status(&r->f).error;

	s->unstored = true;
	if (store && access(store, F_OK) < 0 && errno == ENOENT)
		snprintf(s->error, sizeof s->error, "the store was removed while it was recorded into");
	else if (stored)
		s->unstored = false;
	else if (access(r->o->session->folder, F_OK) < 0 && errno == ENOENT)
		snprintf(s->error, sizeof s->error, "%.180s; its rings were removed, and what waited there is lost", why);
	else
		snprintf(s->error, sizeof s->error, "%.180s; what waits is salvaged by the next command that finds room", why);
}

/* False: it goes on elsewhere.  Not all stored: the session stays for a salvage. */
static bool record(struct recorder *r, struct snaptrail_summary *s, bool *ret_stored)
{
	bool cut, stored;

	loop(r);
	if (r->o->host && !host_leaves(r)) {
		flush_stop(&r->f);
		return false;
	}
	__atomic_store_n(&r->f.ending, true, __ATOMIC_RELEASE);
	MARK("end seen");
	cut = !r->c.unread && last_cut(r, end_origin(r));
	MARK("last cut made");
	stored = flush_wait(&r->f) && cut;
	MARK("last cut stored");
	if (stored)
		session_over(r);
	MARK("session over");
	summarize(r, s);
	flush_stop(&r->f);
	say_what_is_left(r, stored, s);
	*ret_stored = stored;
	return true;
}

int recorder_main(const struct recorder_options *o)
{
	struct recorder *r = xcalloc(1, sizeof *r);
	struct snaptrail_summary s = { 0 };
	bool ended = false, stored = true;
	int e;

	r->o = o;
	e = recorder_begin(r);
	if (e == 0)
		e = flush_start(&r->f, o->store, o->config, o->host != NULL);
	if (e < 0)
		never_began(r);
	if (e == 0 && o->host)
		host_runs(o->host);
	if (e == 0)
		ended = record(r, &s, &stored);
	/* The lease goes first: who hears that we are done may record again.  The
	 * folder can go while they do. */
	collect_end(&r->c);
	wanted_done(&r->wanted);
	store_close(o->store);
	MARK("store closed");
	if (!ended && o->session->board)
		o->session->board->recorder_pid = 0;
	if (o->host)
		o->host->others = e == 0 && !ended;
	session_release(o->session, ended && stored);
	MARK("lease let go");
	if (ended)
		answer(r, &s);
	MARK("run told");
	request_page_free(r->requests);
	session_close(o->session, ended && stored);
	if (r->epoll >= 0)
		close(r->epoll);
	free(r);
	return e;
}
