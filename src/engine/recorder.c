/* The recorder's loop: drain, apply, follow, cut, answer, sleep; see recorder.h.
 * One collecting thread and the flusher; in a target one thread is both. */
#include "engine/recorder.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "engine/look.h"
#include "engine/replay.h"
#include "engine/request.h"
#include "engine/salvage.h"
#include "engine/sample.h"
#include "engine/wanted.h"

#define SLEEP_MIN_NS 100000u
#define SLEEP_WORK_NS 2000000u   /* while records come */
#define SLEEP_FILL 0.125         /* of the fastest lane: a producer rings at a quarter */
#define SLEEP_ENDING_NS 50000u
#define ENDING_ROUNDS 50u        /* without sleep once the command has ended */
#define SLEEP_MAX_NS 20000000u
#define INTERVAL_NS 30000000000u /* of automatic snapshots that were off in the configuration */
#define ENDED_WAIT_NS 100000000u /* how long a parent's wait may still tell how it ended */

/* How a process ended, from the kernel (6.15 and later); the header of Debian
 * 12 does not have it. */
struct pidfd_info_exit {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
	uint32_t more[8];
};
#define PIDFD_GET_INFO_EXIT _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64)
#define PIDFD_INFO_EXIT_BIT 8u

struct followed {
	struct followed *next;
	uint32_t pid;
	int pidfd;
	uint64_t exited_ns;      /* 0: lives */
	uint64_t exited_stamp;
	bool drained, hung_up;
	bool uninjected;
	uint32_t sightings;      /* looks that saw it as a child without a visitor */
};

struct recorder {
	const struct recorder_options *o;
	struct collector c;
	struct flusher f;
	struct followed *processes;
	int epoll, control;
	int root_pid, root_status;
	bool root_known, root_ended, front_gone, wait_all, answered, started;
	uint64_t root_cpu_ns, began_mono_ns;
	uint64_t next_cut_mono_ns, last_cut_ns, sealed_ns, changes_at_cut;
	uint64_t full_mono_ns, full_bytes, since_full_bytes;
	uint64_t interval_ns;    /* of automatic snapshots, 0 none */
	struct request_page *requests;
	bool host_seen;          /* our own process has reported its beginning */
	char last_id[17];
	uint32_t uninjected;
	struct wanted wanted;    /* snapshots that programs asked for */
};

/* ---- following processes ---- */

static struct followed *followed_find(struct recorder *r, uint32_t pid)
{
	struct followed *p = r->processes;

	while (p && p->pid != pid)
		p = p->next;
	return p;
}

static void follow_exited(struct recorder *r, struct followed *p)
{
	if (p->exited_ns == 0) {
		p->exited_stamp = clock_stamp(&r->c.clock);
		p->exited_ns = clock_time(&r->c.clock, p->exited_stamp);
	}
}

static void follow_forget(struct recorder *r, struct followed *p)
{
	struct followed **at = &r->processes;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	if (p->pidfd >= 0)
		close(p->pidfd);
	free(p);
}

static struct followed *follow(struct recorder *r, uint32_t pid)
{
	struct followed *p = followed_find(r, pid);
	struct epoll_event e = { .events = EPOLLIN };

	if (p && p->exited_ns) { /* the pid is another process now */
		follow_forget(r, p);
		p = NULL;
	}
	if (p)
		return p;
	p = xcalloc(1, sizeof *p);
	p->pid = pid;
	p->next = r->processes;
	r->processes = p;
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	e.data.ptr = p;
	if (p->pidfd < 0 || epoll_ctl(r->epoll, EPOLL_CTL_ADD, p->pidfd, &e) < 0)
		follow_exited(r, p);
	return p;
}

static void on_process(void *arg, uint32_t pid)
{
	struct recorder *r = arg;

	if (pid)
		follow(r, pid)->uninjected = false;
	if (r->o->host && pid == r->o->host->pid)
		r->host_seen = true;
}

static bool kernel_status(const struct followed *p, int *ret_status)
{
	struct pidfd_info_exit info = { .mask = PIDFD_INFO_EXIT_BIT };

	if (p->pidfd < 0 || ioctl(p->pidfd, PIDFD_GET_INFO_EXIT, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT_BIT))
		return false;
	*ret_status = info.exit_code;
	return true;
}

static void report_ended(struct recorder *r, struct followed *p, bool known, int status)
{
	struct change c = { .kind = PROCESS_ENDED, .stamp = p->exited_stamp, .pid = p->pid, .has_number = known,
			    .number = status };

	collect_report(&r->c, &c);
}

/* A process that ended: when its lanes are empty, say so once, with its status
 * if anyone knows it.  True when it can be forgotten. */
static bool settle_exited(struct recorder *r, struct followed *p)
{
	struct process *m = model_process(r->c.model, p->pid);
	uint64_t now = clock_now(&r->c.clock);
	int status = 0;
	bool known = false;

	if (!p->drained) { /* one whole round after its end takes all that it wrote */
		p->drained = true;
		return false;
	}
	sample_heap(&r->c, p->pid, 0); /* the last there will be */
	collect_process_gone(&r->c, p->pid);
	if (collect_lanes(&r->c, p->pid))
		return false; /* a big lane takes more than one round */
	if ((int)p->pid == r->root_pid && r->root_ended) {
		known = true;
		status = r->root_status;
	} else if (kernel_status(p, &status)) {
		known = true;
		if ((int)p->pid == r->root_pid) {
			r->root_ended = true;
			r->root_status = status;
		}
	} else if (!(m && !m->alive) && now - p->exited_ns < ENDED_WAIT_NS && !p->hung_up) {
		return false;
	} else if ((int)p->pid == r->root_pid && !r->root_ended && !r->front_gone) {
		return false;
	}
	report_ended(r, p, known, status);
	return true;
}

/* Each process that the state says lives is followed, if it still does: also a
 * forked one that has not run yet and has no lane. */
static void follow_known(struct recorder *r)
{
	for (const struct entity *e = model_first(r->c.model, TABLE_AGENTS); e; e = e->next)
		if (e->owner && e->owner->alive && e->owner->agent == e)
			follow(r, e->owner->pid);
}

static uint32_t living(const struct recorder *r)
{
	uint32_t n = 0;

	for (const struct followed *p = r->processes; p; p = p->next)
		n += p->exited_ns == 0;
	return n;
}

static void settle(struct recorder *r)
{
	struct followed *p, *next;

	for (p = r->processes; p; p = next) {
		next = p->next;
		if (p->exited_ns && settle_exited(r, p))
			follow_forget(r, p);
	}
}

/* A process that no visitor reports: what /proc says of it. */
static void report_uninjected(struct recorder *r, uint32_t pid, uint32_t parent)
{
	char comm[32] = "", state = 0;
	uint32_t ppid = 0;
	uint64_t start = 0;
	size_t n = 0;
	char *line;

	if (!look_stat(pid, &ppid, &start, comm, &state) || (parent && ppid != parent))
		return;
	line = look_cmdline(pid, &n);
	struct change c = { .kind = PROCESS_UNINJECTED, .pid = pid, .ppid = ppid, .source = SOURCE_PROC,
			    .name = BYTES(comm, strlen(comm)), .value = BYTES(line, n), .start_ticks = start };

	collect_report(&r->c, &c);
	r->uninjected++;
	free(line);
}

/* ---- messages from `run` ---- */

static void on_control(struct recorder *r)
{
	struct control m;
	ssize_t n = recv(r->control, &m, sizeof m, MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		epoll_ctl(r->epoll, EPOLL_CTL_DEL, r->control, NULL);
		close(r->control);
		r->control = -1;
		r->front_gone = true;
		return;
	}
	if (n != sizeof m)
		return;
	if (m.type == CONTROL_STARTED) {
		r->root_pid = m.pid;
		r->root_known = true;
		r->wait_all = m.wait;
		session_set_pids(r->o->session, (int)getpid(), m.pid);
		follow(r, (uint32_t)m.pid)->uninjected = m.uninjected;
		if (m.uninjected)
			report_uninjected(r, (uint32_t)m.pid, 0);
	} else if (m.type == CONTROL_ENDED) {
		struct followed *p = followed_find(r, (uint32_t)m.pid);

		r->root_ended = true;
		r->root_status = m.status;
		r->root_cpu_ns = m.cpu_ns;
		if (p)
			follow_exited(r, p);
	}
}

static void events(struct recorder *r)
{
	struct epoll_event e[32];
	int n = epoll_wait(r->epoll, e, 32, 0);

	for (int i = 0; i < n; i++) {
		struct followed *p = e[i].data.ptr;

		if (p == NULL) {
			on_control(r);
			continue;
		}
		follow_exited(r, p);
		p->hung_up = e[i].events & EPOLLHUP;
		if (p->hung_up) {
			epoll_ctl(r->epoll, EPOLL_CTL_DEL, p->pidfd, NULL);
		} else { /* a zombie: wake again only for the reaping */
			struct epoll_event again = { .events = EPOLLHUP | EPOLLET, .data.ptr = p };

			epoll_ctl(r->epoll, EPOLL_CTL_MOD, p->pidfd, &again);
		}
	}
}

/* ---- cuts ---- */

/* Until all that is stamped up to time_ns has been applied; false when a call
 * under way holds that back for too long. */
static bool drain_beyond(struct recorder *r, uint64_t time_ns)
{
	uint64_t give_up = mono_now_ns() + 10000000u;
	double fill;

	do {
		collect_drain(&r->c, &fill);
	} while (r->c.watermark_ns <= time_ns && mono_now_ns() < give_up);
	collect_apply(&r->c);
	return r->c.watermark_ns > time_ns;
}

static void found_child(struct recorder *r, uint32_t pid, uint32_t parent)
{
	struct followed *p = followed_find(r, pid);

	if (p == NULL) {
		p = follow(r, pid);
		p->uninjected = true;
	}
	/* Forked children report nothing until they do something. */
	if (!p->uninjected || p->exited_ns || collect_lanes(&r->c, pid) || model_process(r->c.model, pid))
		return;
	report_uninjected(r, pid, parent);
}

/* Two looks at every process, and what they say that the hooks did not: facts
 * of the instant that is returned, which the model has reached.  0: it could
 * not be reached, and nothing is believed. */
static uint64_t look_around(struct recorder *r)
{
	size_t n = 0, count = living(r);
	struct look *looks = xcalloc(count, sizeof *looks);
	uint64_t stamp;

	for (struct followed *p = r->processes; p && n < count; p = p->next)
		if (p->exited_ns == 0)
			look_begin(&looks[n++], &r->c, p->pid);
	for (size_t i = 0; i < n; i++)
		look_agree(&looks[i]);
	stamp = clock_stamp(&r->c.clock);
	if (!drain_beyond(r, clock_time(&r->c.clock, stamp)))
		stamp = 0;
	for (size_t i = 0; i < n; i++) {
		if (stamp)
			look_report(&looks[i], &r->c, stamp);
		for (size_t k = 0; stamp && k < looks[i].nchildren; k++)
			found_child(r, looks[i].children[k], looks[i].pid);
		look_done(&looks[i]);
	}
	free(looks);
	collect_apply(&r->c);
	return stamp;
}

static void own_metrics(struct recorder *r, uint64_t stamp)
{
	struct timespec cpu;
	struct change c = { .kind = METRIC };
	const struct { const char *name; double value; } metrics[] = {
		{ "recorder/reports", (double)(r->c.changes + r->c.coalesced) },
		{ "recorder/coalesced", (double)r->c.coalesced },
		{ "recorder/lost", (double)r->c.lost },
		{ "recorder/cpu", 0 },
	};

	clock_gettime(r->o->host ? CLOCK_THREAD_CPUTIME_ID : CLOCK_PROCESS_CPUTIME_ID, &cpu);
	for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
		c.stamp = stamp;
		c.name = BYTES(metrics[i].name, strlen(metrics[i].name));
		c.real = i == 3 ? (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9 : metrics[i].value;
		collect_report(&r->c, &c);
	}
}

/* What a snapshot is to be; tags and description are taken over by cut(). */
struct wish {
	int origin;
	int type;                /* enum snapshot_type, 0 as it comes */
	char **tags;
	char *description;
};

static bool wants_full(const struct recorder *r, int type)
{
	const struct config *c = r->o->config;

	if (type && r->last_id[0])
		return type == SNAPSHOT_FULL;
	return r->last_id[0] == 0 || !c->incremental || r->since_full_bytes > r->full_bytes + 65536 ||
	       (c->full_every_ns && mono_now_ns() - r->full_mono_ns > c->full_every_ns);
}

static char **copy_tags(const char *const *tags)
{
	size_t n = 0;
	char **copy;

	while (tags && tags[n])
		n++;
	copy = xcalloc(n + 1, sizeof *copy);
	for (size_t i = 0; i < n; i++)
		copy[i] = xstrdup(tags[i]);
	return copy;
}

static void fill_meta(struct recorder *r, struct cut *cut, const struct wish *w, bool full, uint64_t since)
{
	struct snapshot_meta *m = &cut->meta;
	char *said;

	store_new_id(m->id);
	memcpy(m->base_id, r->last_id, sizeof m->base_id);
	memcpy(m->session_id, r->o->session->id, sizeof m->session_id);
	m->type = full ? SNAPSHOT_FULL : SNAPSHOT_INCREMENTAL;
	m->origin = w->origin;
	m->time_ns = r->c.watermark_ns;
	m->since_ns = since;
	m->clock_step_ns = (int64_t)(wall_now_ns() - clock_now(&r->c.clock));
	m->changes = cut->stage.h->changes;
	m->coalesced = cut->stage.h->coalesced;
	for (size_t i = 0; i < cut->ngaps; i++)
		m->lost += cut->gaps[i].lost;
	m->agents = model_count(r->c.model, TABLE_AGENTS);
	m->tasks = model_count(r->c.model, TABLE_TASKS);
	m->memory = model_count(r->c.model, TABLE_MEMORY);
	m->expires_ns = r->o->config->max_age_ns ? wall_now_ns() + r->o->config->max_age_ns : 0;
	cut->tags = w->tags ? w->tags : copy_tags(w->origin == ORIGIN_START ? r->o->tags : NULL);
	cut->description = w->description;
	if (w->origin != ORIGIN_START && wanted_take(&r->wanted, &cut->tags, &said)) {
		if (cut->description == NULL)
			cut->description = said;
		else
			free(said);
	}
}

/* Makes a snapshot of the state at the watermark.  False when the flusher is
 * behind: the stage goes on and the cut comes later. */
static bool cut_as(struct recorder *r, const struct wish *w)
{
	bool full = wants_full(r, w->type);
	struct cut *cut;

	if (r->f.count >= FLUSH_QUEUE - 1)
		return false;
	cut = xcalloc(1, sizeof *cut);
	cut->begun_mono_ns = mono_now_ns();
	cut->from_ns = r->last_cut_ns;
	if (collect_seal(&r->c, &cut->stage) < 0) {
		snprintf(r->f.error, sizeof r->f.error, "%s", err_detail());
		free(cut);
		return false;
	}
	r->sealed_ns = clock_now(&r->c.clock);
	memcpy(cut->gaps, r->c.gaps, sizeof cut->gaps);
	cut->ngaps = r->c.ngaps;
	r->c.ngaps = 0;
	if (full)
		model_save(r->c.model, r->c.watermark_ns, &cut->state);
	fill_meta(r, cut, w, full, r->last_cut_ns);
	r->since_full_bytes = full ? 0 : r->since_full_bytes + cut->stage.h->used;
	if (full) {
		r->full_bytes = cut->state.len;
		r->full_mono_ns = mono_now_ns();
	}
	memcpy(r->last_id, cut->meta.id, sizeof r->last_id);
	r->last_cut_ns = cut->meta.time_ns;
	r->c.board->cut_ns = cut->meta.time_ns;
	r->changes_at_cut = r->c.changes + r->c.coalesced;
	clock_forget(&r->c.clock, r->c.watermark_ns > 2000000000u ? r->c.watermark_ns - 2000000000u : 0);
	flush_try_put(&r->f, cut);
	r->next_cut_mono_ns = mono_now_ns() + r->interval_ns;
	return true;
}

static bool cut(struct recorder *r, int origin) { return cut_as(r, &(struct wish){ .origin = origin }); }

/* A snapshot of the instant that everything has been applied up to, while
 * others go on: never of now.  It lies behind all that the stage before holds,
 * so that a reader who begins here needs nothing older. */
static bool cut_here(struct recorder *r, const struct wish *w, uint64_t stamp)
{
	if (stamp)
		own_metrics(r, stamp);
	collect_apply(&r->c);
	return r->c.watermark_ns > r->sealed_ns && cut_as(r, w);
}

static bool cut_at(struct recorder *r, int origin, uint64_t time_ns)
{
	uint64_t watermark_ns = r->c.watermark_ns;
	bool done;

	r->c.watermark_ns = time_ns;
	done = cut(r, origin);
	r->c.watermark_ns = watermark_ns;
	return done;
}

/* A program asked for a snapshot of the instant that the model has just reached,
 * a little before the watermark.  The stage before may hold facts beyond it,
 * which only a reader who begins at a full one would miss.  Where none can be cut
 * now it waits. */
static void on_wanted(void *arg, uint64_t time_ns, const struct change *wish)
{
	struct recorder *r = arg;

	wanted_add(&r->wanted, wish);
	if (!wanted_due(&r->wanted, mono_now_ns()))
		return;
	if (!r->started)
		r->started = cut_at(r, ORIGIN_START, time_ns - 1);
	if (r->started && time_ns > r->last_cut_ns && (time_ns > r->sealed_ns || !wants_full(r, 0)))
		cut_at(r, ORIGIN_MANUAL, time_ns);
}

/* Those that had to wait. */
static void wanted_cut(struct recorder *r)
{
	if (r->started && wanted_due(&r->wanted, mono_now_ns()))
		cut_here(r, &(struct wish){ .origin = ORIGIN_MANUAL }, 0);
}

static void automatic_cut(struct recorder *r)
{
	uint64_t stamp;
	bool due = r->interval_ns && mono_now_ns() >= r->next_cut_mono_ns;

	if (!r->started) {
		if (model_processes_seen(r->c.model) == 0)
			return;
		r->started = true;
		cut(r, ORIGIN_START);
		return;
	}
	if (stage_is_full(&r->c.stage)) {
		collect_apply(&r->c);
		cut(r, ORIGIN_AUTOMATIC);
		return;
	}
	if (!due)
		return;
	r->next_cut_mono_ns = mono_now_ns() + r->interval_ns;
	stamp = look_around(r);
	if (r->c.changes + r->c.coalesced == r->changes_at_cut)
		return;
	cut_here(r, &(struct wish){ .origin = ORIGIN_AUTOMATIC }, stamp);
}

/* ---- requests ---- */

/* A snapshot of now, looked around for; answered when it is stored. */
static int snap(struct recorder *r, const struct request_page *q, char id[17])
{
	struct wish w = { .origin = ORIGIN_MANUAL, .type = q->type, .tags = request_tags(q) };
	uint64_t stored = r->f.stored + r->f.dropped, give_up = mono_now_ns() + 2000000000u;
	bool done;

	w.description = xmemdup(q->description, strnlen(q->description, REQUEST_TEXT_BYTES) + 1);
	w.description[strnlen(q->description, REQUEST_TEXT_BYTES - 1)] = 0;
	r->started = true;
	do {
		flush_wait(&r->f);
		stored = r->f.stored;
		done = cut_here(r, &w, look_around(r));
	} while (!done && r->f.error[0] == 0 && mono_now_ns() < give_up);
	if (!done) {
		for (char **t = w.tags; *t; t++)
			free(*t);
		free(w.tags);
		free(w.description);
		return fail(-EIO, "%s", r->f.error[0] ? r->f.error : "a call under way holds the snapshot back");
	}
	memcpy(id, r->last_id, 17);
	flush_wait(&r->f);
	return r->f.stored > stored ? 0 : fail(-EIO, "%s", r->f.error);
}

static void count_up(struct recorder *r, struct request_stats *s)
{
	struct timespec cpu;

	clock_gettime(r->o->host ? CLOCK_THREAD_CPUTIME_ID : CLOCK_PROCESS_CPUTIME_ID, &cpu);
	*s = (struct request_stats){
		.changes = r->c.changes, .coalesced = r->c.coalesced, .lost = r->c.lost, .voided = r->c.voided,
		.snapshots = r->f.stored, .dropped = r->f.dropped, .queued = r->f.count, .processes = living(r),
		.raw_bytes = r->f.raw_bytes, .stored_bytes = r->f.stored_bytes, .interval_ns = r->interval_ns,
		.watermark_ns = r->c.watermark_ns,
		.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
	};
}

static void automatic_set(struct recorder *r, uint64_t interval_ns)
{
	r->interval_ns = interval_ns;
	r->next_cut_mono_ns = mono_now_ns() + interval_ns;
}

static void serve_request(struct recorder *r)
{
	struct request_page *q = r->requests;
	uint64_t usual = r->o->config->interval_ns;
	char id[17] = "";
	int e = 0;

	if (!request_waits(q))
		return;
	switch (q->verb) {
	case REQUEST_SNAP:
		e = snap(r, q, id);
		break;
	case REQUEST_AUTO_START:
		automatic_set(r, q->interval_ns ? q->interval_ns : usual ? usual : INTERVAL_NS);
		break;
	case REQUEST_AUTO_STOP:
		automatic_set(r, 0);
		break;
	case REQUEST_FLUSH:
		flush_wait(&r->f);
		e = store_sync(r->o->store);
		break;
	case REQUEST_STATS:
		break;
	default:
		e = fail(-EPROTO, "the recorder does not know request %u", q->verb);
	}
	count_up(r, &q->stats);
	request_answer(q, e, e < 0 ? err_detail() : id);
}

/* ---- the end ---- */

static void last_cut(struct recorder *r, int origin)
{
	own_metrics(r, 0);
	collect_apply_all(&r->c);
	for (int i = 0; i < 100 && !cut(r, origin); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

static void summarize(struct recorder *r, struct snaptrail_summary *s)
{
	struct timespec cpu;

	flush_wait(&r->f);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	*s = (struct snaptrail_summary){
		.duration_ns = mono_now_ns() - r->began_mono_ns, .snapshots = r->f.stored, .changes = r->c.changes,
		.coalesced = r->c.coalesced, .lost = r->c.lost, .raw_bytes = r->f.raw_bytes,
		.stored_bytes = r->f.stored_bytes, .processes = model_processes_seen(r->c.model),
		.threads = model_threads_seen(r->c.model), .target_cpu_ns = r->root_cpu_ns, .remaining = living(r),
		.recorder_cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
		.uninjected = r->uninjected,
	};
	snprintf(s->session, sizeof s->session, "%s", r->o->session_name);
	snprintf(s->store, sizeof s->store, "%s", store_path(r->o->store) ? store_path(r->o->store) : "");
	snprintf(s->error, sizeof s->error, "%s", r->f.error[0] ? r->f.error : r->c.board->error);
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

static uint32_t host_wish(const struct recorder *r)
{
	return r->o->host ? __atomic_load_n(&r->o->host->wish, __ATOMIC_ACQUIRE) : HOST_GO;
}

static bool over(struct recorder *r)
{
	if (r->o->host)
		return host_wish(r) != HOST_GO;
	if (r->processes == NULL && r->root_ended) {
		collect_apply_all(&r->c);
		follow_known(r);
	}
	return r->processes == NULL && (r->root_ended || r->front_gone || r->control < 0);
}

/* The command has ended but others of the session live on. */
static bool command_left_others(const struct recorder *r)
{
	const struct followed *p = r->processes;

	if (r->o->host || !r->root_ended || r->answered || r->wait_all || living(r) == 0)
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

/* The target may begin: its board is there. */
static void host_runs(struct host *h)
{
	__atomic_store_n(&h->state, HOST_RUNNING, __ATOMIC_RELEASE);
	syscall(SYS_futex, &h->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* In a target we are a thread of it, and say so once its process is known. */
static void show_own_thread(struct recorder *r)
{
	const struct host *h = r->o->host;
	struct change c = { .kind = THREAD_BEGAN, .value = BYTES("recorder", 8) };

	if (h == NULL || !r->host_seen)
		return;
	r->host_seen = false;
	c.pid = h->pid;
	c.tid = h->tid;
	collect_report(&r->c, &c);
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
			events(r);
			settle(r);
		}
		show_own_thread(r);
		automatic_cut(r);
		serve_request(r);
		wanted_cut(r);
		if (command_left_others(r)) {
			cut_here(r, &(struct wish){ .origin = end_origin(r) }, look_around(r));
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
		salvage_skip(&r->c, &left);
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
	r->front_gone = h != NULL;
	r->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (r->epoll < 0)
		return fail(-errno, "epoll_create1: %s", strerror(errno));
	if (r->control >= 0)
		epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->control, &e);
	r->c.process_seen = on_process;
	r->c.snapshot_wanted = on_wanted;
	r->c.arg = r;
	r->next_cut_mono_ns = r->began_mono_ns + r->interval_ns;
	if (h && !r->o->resume) {
		r->root_pid = (int)h->pid;
		r->root_known = true;
	} else if (h) {
		r->root_pid = session_root_pid(r->o->session);
	}
	session_set_pids(r->o->session, (int)getpid(), r->root_pid);
	r->requests = request_page_make(r->o->session);
	return r->o->resume ? take_over(r) : begin_anew(r);
}

/* Others of the session live on when this process has ended. */
static bool others_live(const struct recorder *r)
{
	for (const struct followed *p = r->processes; p; p = p->next)
		if (p->exited_ns == 0 && p->pid != r->o->host->pid)
			return true;
	return false;
}

/* The target has ended but for its last system call: its status is known, and
 * what ended beside it is waited for no longer. */
static void host_ended(struct recorder *r)
{
	const struct host *h = r->o->host;
	struct change c = { .kind = PROCESS_ENDED, .pid = h->pid, .has_number = h->has_status,
			    .number = (h->status & 0xff) << 8 };

	settle(r);
	settle(r);
	for (struct followed *p = r->processes; p; p = p->next)
		if (p->exited_ns)
			report_ended(r, p, false, 0);
	sample_heap(&r->c, h->pid, 0);
	collect_report(&r->c, &c);
	if ((int)h->pid == r->root_pid) {
		r->root_ended = h->has_status;
		r->root_status = (int)c.number;
	}
}

/* True when the session is over with this recorder. */
static bool host_leaves(struct recorder *r)
{
	bool finish = host_wish(r) == HOST_FINISH;

	drain_beyond(r, clock_now(&r->c.clock));
	collect_apply_all(&r->c);
	follow_known(r);
	events(r);
	if (finish)
		host_ended(r);
	if (finish && !others_live(r))
		return true;
	collect_apply_all(&r->c);
	for (int i = 0; i < 10 && !cut(r, ORIGIN_AUTOMATIC); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return false;
}

static bool record(struct recorder *r, struct snaptrail_summary *s)
{
	loop(r);
	if (r->o->host && !host_leaves(r)) {
		flush_stop(&r->f);
		return false;
	}
	__atomic_store_n(&r->f.ending, true, __ATOMIC_RELEASE);
	last_cut(r, end_origin(r));
	flush_wait(&r->f);
	session_over(r);
	summarize(r, s);
	flush_stop(&r->f);
	return true;
}

int recorder_main(const struct recorder_options *o)
{
	struct recorder *r = xcalloc(1, sizeof *r);
	struct snaptrail_summary s = { 0 };
	bool ended = false;
	int e;

	r->o = o;
	e = recorder_begin(r);
	if (e == 0)
		e = flush_start(&r->f, o->store, o->host != NULL);
	if (e == 0 && o->host)
		host_runs(o->host);
	if (e == 0)
		ended = record(r, &s);
	/* The lease goes first: who hears that we are done may record again.  The
	 * folder can go while they do. */
	collect_end(&r->c);
	wanted_done(&r->wanted);
	store_close(o->store);
	if (!ended && o->session->board)
		o->session->board->recorder_pid = 0;
	session_release(o->session, ended);
	if (ended)
		answer(r, &s);
	request_page_free(r->requests);
	session_close(o->session, ended);
	if (r->epoll >= 0)
		close(r->epoll);
	free(r);
	return e;
}
