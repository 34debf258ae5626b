/* Snapshots: when one is cut, what it holds, and the looks into /proc before it;
 * see recorder_internal.h. */
#include "engine/recorder_internal.h"

#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "base/mark.h"
#include "engine/look.h"

#define UNHEARD_NS 1000000000u /* how long a program may take to be loaded */
#define AWAITED_NS 100000000u  /* the same, when its parent has said that it was started */

/* Until all that is stamped up to time_ns has been applied; false when a call
 * under way holds that back for too long. */
bool cuts_drain_beyond(struct recorder *r, uint64_t time_ns)
{
	uint64_t give_up = mono_now_ns() + 10000000u;
	double fill;

	do {
		collect_drain(&r->c, &fill);
	} while (r->c.watermark_ns <= time_ns && mono_now_ns() < give_up);
	collect_apply(&r->c);
	return r->c.watermark_ns > time_ns;
}

/* stamp: of the look that found it. */
static void found_child(struct recorder *r, uint32_t pid, uint32_t parent, uint64_t stamp)
{
	struct followed *p = followed_find(r, pid);

	if (p == NULL) {
		p = follow(r, pid);
		p->uninjected = true;
	}
	/* Forked children report nothing until they do something. */
	if (!p->uninjected || p->exited_ns || collect_lanes(&r->c, pid) || model_process(r->c.model, pid))
		return;
	follow_report_uninjected(r, pid, parent, stamp);
}

/* The command lives, and has not said a word since long before: its visitor could not begin. */
static void root_unheard(struct recorder *r, uint64_t stamp)
{
	struct followed *p = r->root_known && !r->o->host ? followed_find(r, (uint32_t)r->root_pid) : NULL;

	if (p == NULL || mono_now_ns() - r->began_mono_ns < UNHEARD_NS)
		return;
	p->uninjected = p->uninjected || (collect_lanes(&r->c, p->pid) == 0 && model_process(r->c.model, p->pid) == NULL);
	found_child(r, p->pid, 0, stamp);
}

/* Whoever started it has said so, and it has not: it may be static, or without our variable. */
static void images_unheard(struct recorder *r, uint64_t stamp)
{
	for (struct followed *p = r->processes; p; p = p->next) {
		struct process *m = p->exited_ns ? NULL : model_process(r->c.model, p->pid);

		if (m && m->alive && m->awaited_ns && m->awaited_ns + AWAITED_NS < r->c.watermark_ns)
			follow_report_uninjected(r, p->pid, 0, stamp);
	}
}

/* Two looks at every process, and what they say that the hooks did not: facts
 * of the instant that is returned, which the model has reached.  0: it could
 * not be reached, and nothing is believed. */
uint64_t cuts_look_around(struct recorder *r)
{
	size_t n = 0, count = follow_living(r);
	struct look *looks;
	uint64_t stamp;

	if (r->fed) /* of another time or machine */
		return 0;
	looks = xcalloc(count, sizeof *looks);
	for (struct followed *p = r->processes; p && n < count; p = p->next)
		if (p->exited_ns == 0)
			look_begin(&looks[n++], &r->c, p->pid);
	for (size_t i = 0; i < n; i++)
		look_agree(&looks[i], &r->c);
	stamp = clock_stamp(&r->c.clock);
	if (!cuts_drain_beyond(r, clock_time(&r->c.clock, stamp)))
		stamp = 0;
	for (size_t i = 0; i < n; i++) {
		if (stamp)
			look_report(&looks[i], &r->c, stamp);
		for (size_t k = 0; stamp && k < looks[i].nchildren; k++)
			found_child(r, looks[i].children[k], looks[i].pid, stamp);
		look_done(&looks[i]);
	}
	free(looks);
	root_unheard(r, stamp);
	if (stamp)
		images_unheard(r, stamp);
	collect_apply(&r->c);
	return stamp;
}

/* Why Changes that should have a call stack have none. */
static void report_missed_stacks(struct recorder *r, uint64_t stamp)
{
	static const char *const names[STACK_MISSES] = {
		[STACK_IN_HANDLER] = "stacks/inHandler", [STACK_ELSEWHERE] = "stacks/onOtherStack",
		[STACK_NO_ROOM] = "stacks/noRoom", [STACK_UNREADY] = "stacks/unready",
	};
	const struct board *b = r->c.board;

	for (size_t i = 0; b->stack_groups && i < STACK_MISSES; i++) {
		struct change c = { .kind = METRIC, .source = SOURCE_SUPERVISOR, .stamp = stamp,
				    .name = BYTES(names[i], strlen(names[i])),
				    .real = (double)__atomic_load_n(&b->stacks_missed[i], __ATOMIC_RELAXED) };

		collect_report(&r->c, &c);
	}
}

void cuts_own_metrics(struct recorder *r, uint64_t stamp)
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
	report_missed_stacks(r, stamp);
}

/* What intervals are measured on. */
static uint64_t ticking_ns(const struct recorder *r) { return r->fed ? r->c.watermark_ns : mono_now_ns(); }

static bool wants_full(const struct recorder *r, int type)
{
	const struct config *c = r->o->config;

	if (type && r->last_id[0])
		return type == SNAPSHOT_FULL;
	return r->last_id[0] == 0 || !c->incremental || r->since_full_bytes > r->full_bytes + 65536 ||
	       (c->full_every_ns && ticking_ns(r) - r->full_mono_ns > c->full_every_ns);
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
	m->clock_step_ns = r->fed ? 0 : (int64_t)(wall_now_ns() - clock_now(&r->c.clock));
	m->changes = cut->stage.h->changes;
	m->coalesced = cut->stage.h->coalesced;
	m->lost = stage_lost(cut->stage.h);
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
bool cuts_as(struct recorder *r, const struct wish *w)
{
	bool full = wants_full(r, w->type);
	struct cut *cut;

	if (flush_status(&r->f).queued >= FLUSH_QUEUE - 1)
		return false;
	cut = xcalloc(1, sizeof *cut);
	cut->begun_mono_ns = mono_now_ns();
	cut->from_ns = r->last_cut_ns;
	if (collect_seal(&r->c, &cut->stage) < 0) {
		flush_failed(&r->f, err_detail());
		free(cut);
		return false;
	}
	r->sealed_ns = r->fed ? r->c.watermark_ns : clock_now(&r->c.clock);
	if (full)
		model_save(r->c.model, r->c.watermark_ns, &cut->state);
	fill_meta(r, cut, w, full, r->last_cut_ns);
	r->since_full_bytes = full ? 0 : r->since_full_bytes + cut->stage.h->used;
	if (full) {
		r->full_bytes = cut->state.len;
		r->full_mono_ns = ticking_ns(r);
	}
	memcpy(r->last_id, cut->meta.id, sizeof r->last_id);
	r->last_cut_ns = cut->meta.time_ns;
	r->c.board->cut_ns = cut->meta.time_ns;
	r->changes_at_cut = r->c.changes + r->c.coalesced;
	clock_forget(&r->c.clock, r->c.watermark_ns > 2000000000u ? r->c.watermark_ns - 2000000000u : 0);
	MARK("cut made");
	flush_try_put(&r->f, cut);
	MARK("cut queued");
	r->next_cut_mono_ns = mono_now_ns() + r->interval_ns;
	return true;
}

bool cuts_make(struct recorder *r, int origin) { return cuts_as(r, &(struct wish){ .origin = origin }); }

/* A snapshot of the instant that everything has been applied up to, while
 * others go on: never of now.  It lies behind all that the stage before holds,
 * so that a reader who begins here needs nothing older. */
bool cuts_here(struct recorder *r, const struct wish *w, uint64_t stamp)
{
	if (stamp)
		cuts_own_metrics(r, stamp);
	collect_apply(&r->c);
	return (r->fed || r->c.watermark_ns > r->sealed_ns) && cuts_as(r, w);
}

static bool cut_at(struct recorder *r, int origin, uint64_t time_ns)
{
	uint64_t watermark_ns = r->c.watermark_ns;
	bool done;

	r->c.watermark_ns = time_ns;
	done = cuts_make(r, origin);
	r->c.watermark_ns = watermark_ns;
	return done;
}

/* A program asked for a snapshot of the instant that the model has just reached,
 * a little before the watermark.  The stage before may hold facts beyond it,
 * which only a reader who begins at a full one would miss.  Where none can be cut
 * now it waits. */
void cuts_on_wanted(void *arg, uint64_t time_ns, const struct change *wish)
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
void cuts_wanted(struct recorder *r)
{
	if (r->started && wanted_due(&r->wanted, mono_now_ns()))
		cuts_here(r, &(struct wish){ .origin = ORIGIN_MANUAL }, 0);
}

void cuts_automatic(struct recorder *r)
{
	uint64_t stamp;
	bool due = r->interval_ns && mono_now_ns() >= r->next_cut_mono_ns;

	if (!r->started) {
		if (model_processes_seen(r->c.model) == 0) {
			root_unheard(r, 0);
			return;
		}
		r->started = true;
		cuts_make(r, ORIGIN_START);
		return;
	}
	if (stage_is_full(&r->c.stage)) {
		collect_apply(&r->c);
		cuts_make(r, ORIGIN_AUTOMATIC);
		return;
	}
	if (!due)
		return;
	r->next_cut_mono_ns = mono_now_ns() + r->interval_ns;
	stamp = cuts_look_around(r);
	if (r->c.changes + r->c.coalesced == r->changes_at_cut)
		return;
	cuts_here(r, &(struct wish){ .origin = ORIGIN_AUTOMATIC }, stamp);
}
