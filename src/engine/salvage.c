/* Salvage with the same collector that a recorder has; see salvage.h. */
#include "engine/salvage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/dir.h"
#include "base/err.h"
#include "base/mark.h"
#include "engine/flush.h"
#include "engine/look.h"
#include "engine/replay.h"
#include "engine/sample.h"

static int by_serial(const void *a, const void *b)
{
	const struct old_stage *x = a, *y = b;

	return x->serial < y->serial ? -1 : x->serial > y->serial;
}

static int find_stages(const char *folder, struct old_stage **ret, size_t *ret_n)
{
	struct dir d;
	size_t n = 0;
	int e;

	*ret = NULL;
	dir_open(&d, folder);
	for (const char *name; (name = dir_next(&d));) {
		if (strncmp(name, "stage.", 6))
			continue;
		*ret = xrealloc(*ret, (n + 1) * sizeof **ret);
		(*ret)[n].serial = strtoull(name + 6, NULL, 10);
		snprintf((*ret)[n].path, sizeof (*ret)[n].path, "%s/%s", folder, name);
		n++;
	}
	e = d.error;
	dir_close(&d);
	if (n)
		qsort(*ret, n, sizeof **ret, by_serial);
	*ret_n = n;
	return e ? fail(-e, "%s: %s", folder, strerror(e)) : 0;
}

/* -EBADMSG: it is no stage, or one that was never finished. */
static int stage_map(struct stage *s, const char *path)
{
	struct stat st;
	int e = 0;

	*s = (struct stage){ .fd = open(path, O_RDWR | O_CLOEXEC) };
	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		e = -errno;
	else if (!stage_is_whole(s->fd))
		e = -EBADMSG;
	s->h = e ? MAP_FAILED : mmap(NULL, STAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (e == 0 && s->h == MAP_FAILED)
		e = -errno;
	if (e == 0 && s->h->magic != STAGE_MAGIC) {
		munmap(s->h, STAGE_BYTES);
		e = -EBADMSG;
	}
	if (e < 0) {
		s->h = NULL;
		if (s->fd >= 0)
			close(s->fd);
		return e == -EBADMSG ? e : fail(e, "%s: %s", path, strerror(-e));
	}
	snprintf(s->path, sizeof s->path, "%.319s", path);
	return 0;
}

struct tally {
	uint64_t latest_ns, changes, coalesced;
};

/* What a stage holds.  Its header's counts move behind the records: after a kill
 * they may be one short. */
static struct tally count(const struct stage_header *h)
{
	struct clock_line const *l = h->line;
	struct tally c = { 0 };
	struct stage_part p;
	size_t pos = 0;

	while (stage_next(h, &pos, &p)) {
		struct wire w, in;
		size_t at = 0;

		c.coalesced += p.coalesced;
		while (wire_next(p.bytes, p.n, &at, &w) > 0) {
			size_t inner = 0;

			c.changes++;
			if (w.type == 2 && wire_next(w.b.p, w.b.n, &inner, &in) > 0 && in.field == 1 && in.type == 1) {
				uint64_t t = clock_lines_time(l, h->lines, h->offset_ns, in.u);

				if (t > c.latest_ns)
					c.latest_ns = t;
			}
		}
	}
	return c;
}

static uint64_t latest(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t last_stored(struct store *st, const char *id)
{
	struct snapshot_meta m;
	size_t n = store_snapshot_count(st, id);

	return n && store_snapshot_at(st, id, n - 1, &m) == 0 ? m.time_ns : 0;
}

/* One stage file becomes one snapshot, of an instant before which it holds all that
 * those before it do not.  Threads whose lanes were emptied early are ahead of it:
 * readers hold that back until the next one brings the others. */
static int store_stage(struct store *st, struct session *s, struct stage *stage, const struct tally *holds, uint64_t time_ns,
		       int origin)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct snapshot_meta m = { .type = SNAPSHOT_INCREMENTAL, .origin = origin, .description = "" }, last = { 0 };
	size_t n = store_snapshot_count(st, s->id);
	struct replay_result r;
	struct replay_query q = { .session_id = s->id, .until_ns = UINT64_MAX };
	int e;

	if (n && store_snapshot_at(st, s->id, n - 1, &last) == 0)
		memcpy(m.base_id, last.id, sizeof m.base_id);
	store_new_id(m.id);
	memcpy(m.session_id, s->id, sizeof m.session_id);
	m.since_ns = last.time_ns;
	m.time_ns = time_ns;
	if (m.time_ns <= last.time_ns)
		m.time_ns = last.time_ns + 1;
	m.changes = holds->changes;
	m.coalesced = holds->coalesced;
	m.lost = stage_lost(stage->h);
	if (n == 0) { /* nothing to continue: a full one of what the runs say */
		m.type = SNAPSHOT_FULL;
		m.since_ns = stage->h->line[0].time_ns;
	}
	cut_payload(stage->h, NULL, m.since_ns, m.time_ns, &payload);
	if (n && replay(st, &q, &r) == 0) {
		m.agents = model_count(r.model, TABLE_AGENTS);
		m.tasks = model_count(r.model, TABLE_TASKS);
		m.memory = model_count(r.model, TABLE_MEMORY);
		model_free(r.model);
	}
	e = store_append(st, &m, payload.data, payload.len, false);
	if (e == 0)
		note_gaps(st, s->id, stage->h);
	return e;
}

static bool anyone_lives(const struct collector *c)
{
	char comm[32], state = 0;
	uint32_t ppid;
	uint64_t start;

	for (const struct lane_view *v = c->views; v; v = v->next)
		if (v->pid && look_stat(v->pid, &ppid, &start, comm, &state) && state != 'Z' && state != 'X')
			return true;
	return false;
}

/* As its first process said when it ended. */
static int status_of(struct store *st, const char *id, int root)
{
	struct replay_query q = { .session_id = id, .until_ns = UINT64_MAX };
	struct replay_result r;
	int status = -1;

	if (root && replay(st, &q, &r) == 0) {
		status = model_exit_status(r.model, (uint32_t)root);
		model_free(r.model);
	}
	return status;
}

static int end_session(struct store *st, const struct session *s, uint64_t when, const char *note)
{
	int root = session_root_pid(s);
	struct session_meta m = { .ended_ns = when, .exit_status = status_of(st, s->id, root), .pid = root, .name = "", .command = "", .profile = "",
				  .boot_id = "", .note = note };

	memcpy(m.id, s->id, sizeof m.id);
	return store_session_end(st, &m);
}

void salvage_clock(const struct leftovers *l, const struct board *b, struct clock *ret)
{
	struct clock_line line = { b->calibration[0], b->calibration[1], b->calibration[2] };

	if (l->newest.magic && l->newest.lines && l->newest.lines <= CLOCK_LINES)
		clock_resume(ret, b->use_tsc, b->session_offset_ns, l->newest.line, l->newest.lines);
	else
		clock_resume(ret, b->use_tsc, b->session_offset_ns, &line, line.rate_q32 != 0);
}

int salvage_stages(struct store *st, struct session *s, int origin, struct leftovers *ret)
{
	uint64_t stored;
	int e = 0;

	*ret = (struct leftovers){ 0 };
	store_refresh(st);
	stored = replay_last_stage(st, s->id);
	e = find_stages(s->folder, &ret->stages, &ret->n);
	ret->next_serial = (ret->n && ret->stages[ret->n - 1].serial > stored ? ret->stages[ret->n - 1].serial : stored) + 1;
	for (size_t i = 0; i < ret->n && e == 0; i++) {
		struct tally holds;
		struct stage stage;

		e = stage_map(&stage, ret->stages[i].path);
		if (e == -EBADMSG) {
			e = 0;
			continue;
		}
		if (e < 0)
			break;
		holds = count(stage.h);
		ret->newest = *stage.h;
		ret->latest_ns = latest(ret->latest_ns, holds.latest_ns);
		if (ret->stages[i].serial > stored && (stage.h->used || stage.h->ngaps))
			e = store_stage(st, s, &stage, &holds, stage.h->sealed_ns ? stage.h->sealed_ns : s->board->watermark_ns, origin);
		MARK("salvage: a stage stored");
		stage_close(&stage);
	}
	return e;
}

int salvage_skip(struct collector *c, const struct leftovers *l)
{
	for (size_t i = 0; i < l->n; i++) {
		struct stage old;
		int e = stage_map(&old, l->stages[i].path);

		if (e == 0) {
			collect_skip(c, old.h);
			stage_close(&old);
		} else if (e != -EBADMSG) {
			return e;
		}
	}
	return 0;
}

void salvage_done(struct leftovers *l, bool remove)
{
	for (size_t i = 0; i < l->n && remove; i++) {
		unlink(l->stages[i].path);
		MARK("salvage: a stage gone");
	}
	free(l->stages);
	l->stages = NULL;
	l->n = 0;
}

/* Until a round finds nothing; stages that fill up become snapshots.  What a killed
 * recorder has not heard may be in any lane, and the last of them is read last. */
static int drain_all(struct store *st, struct session *s, struct collector *c, uint64_t heard_ns)
{
	double fill;
	int e = 0;

	while (e == 0 && (collect_drain(c, &fill) || stage_is_full(&c->stage))) {
		struct stage old;

		if (!stage_is_full(&c->stage))
			continue;
		e = collect_seal(c, &old);
		if (e == 0) {
			struct tally holds = count(old.h);

			e = store_stage(st, s, &old, &holds, heard_ns, ORIGIN_CRASH);
			if (e == 0)
				stage_remove(&old);
			else
				stage_close(&old); /* stays for the next salvage */
		}
	}
	return e;
}

/* Gauges that nobody read at the end, as of the last that was heard. */
static void sample_last(struct collector *c, uint64_t heard_ns)
{
	for (size_t i = 0; i < c->npending; i++)
		if (c->pending[i].time_ns > heard_ns)
			heard_ns = c->pending[i].time_ns;
	sample_heaps(c, (heard_ns - (uint64_t)c->clock.offset_ns) | STAMP_MONOTONIC);
}

/* The rest of the lanes, into a stage of its own. */
static int drain_rest(struct store *st, struct session *s, const struct leftovers *l, bool *ret_lives)
{
	struct collector c = { 0 };
	uint64_t heard_ns = s->board->watermark_ns, latest_ns;
	struct tally holds;
	int e;

	salvage_clock(l, s->board, &c.clock);
	c.clock.next_sync_mono_ns = UINT64_MAX;
	e = collect_begin(&c, s->folder, s->board, l->next_serial, s->board->max_rate);
	if (e < 0)
		return e;
	s->board->sleeping = 0;
	MARK("salvage: rest begun");
	collect_find(&c);
	e = salvage_skip(&c, l);
	if (e == 0)
		e = drain_all(st, s, &c, heard_ns);
	*ret_lives = anyone_lives(&c);
	if (e == 0 && !*ret_lives)
		sample_last(&c, heard_ns);
	if (!*ret_lives)
		for (struct lane_view *v = c.views; v; v = v->next)
			v->dead = true;
	if (e == 0)
		e = drain_all(st, s, &c, heard_ns);
	if (e == 0 && c.unread)
		e = fail(-EAGAIN, "a ring in %s could not be read", s->folder);
	holds = count(c.stage.h);
	latest_ns = latest(l->latest_ns, holds.latest_ns);
	if (latest_ns == 0) /* nothing but losses */
		latest_ns = heard_ns;
	if (e == 0 && (holds.changes || c.stage.h->ngaps || (!*ret_lives && latest_ns > last_stored(st, s->id))))
		e = store_stage(st, s, &c.stage, &holds, *ret_lives ? heard_ns : latest_ns, ORIGIN_CRASH);
	MARK("salvage: rest stored");
	if (e == 0)
		unlink(c.stage.path);
	MARK("salvage: rest gone");
	collect_end(&c);
	return e;
}

/* A recorder that had lost the right to take its folder away has ended the
 * session all the same. */
static bool has_ended(struct store *st, const char *id)
{
	struct session_meta m;

	for (size_t i = 0; store_session_at(st, i, &m) == 0; i++)
		if (strcmp(m.id, id) == 0)
			return m.ended_ns != 0;
	return false;
}

/* Its rings are gone for ever: it has ended.  For any other reason they stay for later. */
static int nothing_to_salvage(struct store *st, struct session *s, int why)
{
	bool gone = session_is_gone(why);
	int e = why;

	if (gone)
		e = has_ended(st, s->id) ? 0 :
		    end_session(st, s, 0, why == -EOWNERDEAD ? "the machine restarted while it was recorded" :
							       "its rings were taken away while it was recorded");
	session_close(s, gone && e == 0);
	return e;
}

int salvage_session(struct store *st, const char *pointer)
{
	struct session s;
	struct leftovers left;
	uint64_t when = 0;
	bool lives = false;
	int e = session_attach(&s, pointer, true);

	if (s.lease < 0)
		return e == -ENOENT ? 0 : e; /* its recorder has just ended it */
	if (e < 0)
		return nothing_to_salvage(st, &s, e);
	e = salvage_stages(st, &s, ORIGIN_CRASH, &left);
	if (e == 0)
		e = drain_rest(st, &s, &left, &lives);
	salvage_done(&left, e == 0);
	store_sync(st);
	MARK("salvage: all stored");
	if (e == 0 && !lives && !has_ended(st, s.id)) {
		struct snapshot_meta m;
		size_t count = store_snapshot_count(st, s.id);

		if (count && store_snapshot_at(st, s.id, count - 1, &m) == 0)
			when = m.time_ns;
		e = end_session(st, &s, when, "salvaged: its recorder ended before all was stored");
	}
	session_close(&s, e == 0 && !lives);
	return e;
}

struct attempt {
	struct store *store;
	int failed;
	char why[200];
};

static int one(void *arg, const char *path, const char *id)
{
	struct attempt *a = arg;
	int r = salvage_session(a->store, path);

	if (r == 0 || r == -EBUSY || a->failed)
		return 0;
	a->failed = r;
	snprintf(a->why, sizeof a->why, "session %s cannot be salvaged yet: %s", id, *err_detail() ? err_detail() : strerror(-r));
	return 0;
}

int salvage_all(struct store *store)
{
	struct attempt a = { .store = store };

	if (store_path(store))
		session_each_pointer(store_path(store), one, &a);
	return a.failed ? fail(a.failed, "%s", a.why) : 0;
}
