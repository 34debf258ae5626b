/* A recorder without processes: see feed.h. */
#include "engine/feed.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "engine/prepare.h"
#include "engine/recorder_internal.h"

#define FEED_LANE 2u              /* OWN_LANE is the recorder's */
#define RECORD_MAX (8u << 20)
#define ATTEND_EVERY 1024u        /* Changes between looks for requests */

struct feed {
	struct recorder r;
	struct recorder_options o;
	struct prepared p;
	uint64_t offset, puts;
	uint64_t asked_ns;        /* a snapshot was asked for at this instant: what comes now is later */
	struct buf record;
};

const char *feed_session(const struct feed *f) { return f->p.name; }

/* ---- beginning ---- */

static int begin(struct feed *f, const char *name, char *const argv[], uint64_t begins_ns)
{
	struct recorder *r = &f->r;
	int e = prepare_name(&f->p, f->o.config, name, argv[0]);

	if (e == 0) {
		f->p.begins_ns = begins_ns;
		e = prepare(&f->p, argv);
	}
	if (e < 0)
		return e;
	f->o.store = f->p.store;
	f->o.session = &f->p.session;
	f->o.session_name = f->p.name;
	r->fed = r->started = true;
	r->c.clock = f->p.clock;
	r->c.watermark_ns = begins_ns;
	r->last_cut_ns = begins_ns;
	r->interval_ns = f->o.config->interval_ns;
	r->began_mono_ns = mono_now_ns();
	r->next_cut_mono_ns = r->began_mono_ns + r->interval_ns;
	session_set_pids(&f->p.session, (int)getpid(), 0);
	r->requests = request_page_make(&f->p.session);
	e = collect_begin(&r->c, f->p.session.folder, f->p.session.board, 1, 0);
	return e < 0 ? e : flush_start(&r->f, f->p.store, f->o.config, false);
}

static void feed_free(struct feed *f, bool ended)
{
	collect_end(&f->r.c);
	if (f->p.store)
		store_close(f->p.store);
	if (f->p.session.board) {
		f->p.session.board->recorder_pid = 0;
		session_release(&f->p.session, ended);
	}
	if (f->r.requests)
		request_page_free(f->r.requests);
	if (f->p.session.board)
		session_close(&f->p.session, ended);
	buf_done(&f->record);
	free(f);
}

static void end_record(struct feed *f, const char *note)
{
	struct session_meta m = { .ended_ns = f->r.c.watermark_ns, .exit_status = -1, .name = f->p.name, .command = "",
				  .profile = "", .boot_id = "", .note = note };

	memcpy(m.id, f->p.session.id, sizeof m.id);
	store_session_end(f->p.store, &m);
}

int feed_open(const struct config *config, const char *name, char *const argv[], uint64_t begins_ns, struct feed **ret)
{
	struct feed *f = xcalloc(1, sizeof *f);
	int e;

	f->o = (struct recorder_options){ .config = config, .control = -1 };
	f->r.o = &f->o;
	f->r.epoll = -1;
	f->p.session.lease = -1;
	e = begin(f, name, argv, begins_ns);
	if (e < 0) {
		_cleanup_free_ char *why = xstrdup(err_detail());

		if (f->p.session.board) /* the record of it was begun */
			end_record(f, why);
		feed_free(f, true);
		return fail(e, "%s", why);
	}
	*ret = f;
	return 0;
}

/* ---- cuts ---- */

static int cut(struct feed *f, struct wish *w)
{
	struct recorder *r = &f->r;

	struct flush_status now;

	if (flush_wait_room(&r->f) && cuts_as(r, w))
		return 0;
	now = flush_status(&r->f);
	return fail(-EIO, "%s", now.error[0] ? now.error : err_detail());
}

static bool due(const struct recorder *r, uint64_t time_ns)
{
	return stage_is_full(&r->c.stage) || (r->interval_ns && time_ns - r->last_cut_ns >= r->interval_ns);
}

/* All before it has come. */
static void reach(struct feed *f, uint64_t time_ns)
{
	struct collector *c = &f->r.c;

	if (time_ns <= c->watermark_ns)
		return;
	c->watermark_ns = time_ns;
	__atomic_store_n(&c->board->watermark_ns, time_ns, __ATOMIC_RELEASE);
}

/* Before anything later than all that was fed comes in, so that the snapshot has
 * its instant whole. */
static int advance(struct feed *f, uint64_t time_ns, size_t n)
{
	struct recorder *r = &f->r;
	bool fed = r->c.changes != r->changes_at_cut;
	int e = 0;

	if (time_ns > r->c.watermark_ns && fed && due(r, time_ns))
		e = cut(f, &(struct wish){ .origin = ORIGIN_AUTOMATIC });
	else if (!stage_has_room(&r->c.stage, n)) /* one instant of 32 MiB, and the reader takes it in pieces */
		e = cut(f, &(struct wish){ .origin = ORIGIN_AUTOMATIC, .type = r->last_id[0] ? SNAPSHOT_INCREMENTAL : 0 });
	if (e == 0 && !stage_has_room(&r->c.stage, n))
		e = fail(-ENOSPC, "%s: no room for the stage", f->p.session.folder);
	reach(f, time_ns);
	return e;
}

void feed_by_hand(struct feed *f) { f->r.interval_ns = 0; }

int feed_cut(struct feed *f, uint64_t time_ns, const char *const *tags, const char *description)
{
	struct wish w = { .origin = ORIGIN_MANUAL };
	size_t n = 0;

	while (tags && tags[n])
		n++;
	if (n) {
		w.tags = xcalloc(n + 1, sizeof *w.tags);
		for (size_t i = 0; i < n; i++)
			w.tags[i] = xstrdup(tags[i]);
	}
	w.description = description ? xstrdup(description) : NULL;
	reach(f, time_ns);
	return cut(f, &w);
}

/* A snapshot that is made now has all of its instant only when nothing more of that
 * comes: who begins to read there would miss it. */
static void attend(struct feed *f)
{
	char last_id[sizeof f->r.last_id];

	memcpy(last_id, f->r.last_id, sizeof last_id);
	requests_serve(&f->r);
	if (memcmp(last_id, f->r.last_id, sizeof last_id))
		f->asked_ns = f->r.last_cut_ns;
}

/* The time that a Change gets. */
static uint64_t time_for(struct feed *f, uint64_t time_ns)
{
	if (++f->puts % ATTEND_EVERY == 0)
		attend(f);
	return time_ns > f->asked_ns ? time_ns : f->asked_ns + 1;
}

int feed_idle(struct feed *f)
{
	struct recorder *r = &f->r;
	int e;

	attend(f);
	if (r->interval_ns == 0 || mono_now_ns() < r->next_cut_mono_ns)
		return 0;
	r->next_cut_mono_ns = mono_now_ns() + r->interval_ns;
	if (r->c.changes == r->changes_at_cut)
		return 0;
	e = cut(f, &(struct wish){ .origin = ORIGIN_AUTOMATIC });
	f->asked_ns = r->last_cut_ns;
	return e;
}

/* ---- Changes ---- */

static int put_record(struct feed *f, uint64_t time_ns, uint32_t pid, uint32_t tid, uint64_t lane, uint64_t offset,
		      const uint8_t *record, uint32_t n, const uint8_t *change)
{
	struct recorder *r = &f->r;
	struct origin o = { .pid = pid, .tid = tid, .lane = lane, .order = change_order(lane, offset) };
	int e;

	e = advance(f, time_ns, n);
	if (e < 0)
		return e;
	stage_put(&r->c.stage, lane, pid, tid, offset, offset + n, record, n);
	r->c.changes++;
	r->c.stage.h->changes++;
	if (!model_apply(r->c.model, &o, time_ns, change, (size_t)(record + n - change)))
		return fail(-EBADMSG, "a damaged change");
	return 0;
}

int feed_put(struct feed *f, uint64_t time_ns, struct change *c)
{
	uint32_t inner, n;
	uint64_t at = f->offset;
	uint8_t *p;

	c->source = SOURCE_PLUGIN;
	inner = change_size(c);
	n = 1 + varint_size(inner) + inner;
	if (n > RECORD_MAX)
		return fail(-EMSGSIZE, "a change of %u bytes: at most %u", n, RECORD_MAX);
	time_ns = time_for(f, time_ns > f->r.c.watermark_ns ? time_ns : f->r.c.watermark_ns);
	c->stamp = time_ns | STAMP_MONOTONIC;
	buf_reset(&f->record);
	p = buf_room(&f->record, n + 16);
	*p++ = RUN_CHANGES_TAG;
	p = varint_put(p, inner);
	f->offset += n;
	change_put(p, c);
	return put_record(f, time_ns, 0, 0, FEED_LANE, at, f->record.data, n, p);
}

int feed_put_encoded(struct feed *f, uint64_t time_ns, uint32_t pid, uint32_t tid, uint64_t lane, uint64_t offset,
		     const uint8_t *change, size_t len)
{
	uint32_t n = 1 + varint_size(len) + (uint32_t)len;
	uint64_t stamp;
	uint8_t *p;

	if (len < 9 || change[0] != (1 << 3 | 1) || n > RECORD_MAX)
		return fail(-EBADMSG, "a damaged change");
	if (time_ns < f->r.c.watermark_ns)
		return fail(-EBADMSG, "a change before the one before it");
	time_ns = time_for(f, time_ns);
	stamp = time_ns | STAMP_MONOTONIC;
	buf_reset(&f->record);
	p = buf_room(&f->record, n);
	*p++ = RUN_CHANGES_TAG;
	p = varint_put(p, len);
	memcpy(p, change, len);
	memcpy(p + 1, &stamp, sizeof stamp);
	return put_record(f, time_ns, pid, tid, lane, offset, f->record.data, n, p);
}

int feed_load(struct feed *f, uint64_t time_ns, const uint8_t *state, size_t n)
{
	struct recorder *r = &f->r;
	struct model *m = model_new();

	if (r->c.changes || r->last_id[0] || !model_load(m, state, n)) {
		model_free(m);
		return fail(-EBADMSG, r->c.changes || r->last_id[0] ? "a state amid its changes" : "a damaged state");
	}
	model_free(r->c.model);
	r->c.model = m;
	r->c.watermark_ns = time_ns;
	return cut(f, &(struct wish){ .origin = ORIGIN_START });
}

void feed_gap(struct feed *f, uint64_t from_ns, uint64_t to_ns, uint64_t lost, const char *cause)
{
	collect_gap(&f->r.c, from_ns, to_ns, lost, cause);
}

/* ---- the end ---- */

static void summarize(struct feed *f, struct snaptrail_summary *s)
{
	struct recorder *r = &f->r;
	struct flush_status now = flush_status(&r->f);

	*s = (struct snaptrail_summary){
		.duration_ns = mono_now_ns() - r->began_mono_ns, .snapshots = now.stored, .changes = r->c.changes,
		.lost = r->c.lost, .raw_bytes = now.raw_bytes, .stored_bytes = now.stored_bytes,
		.processes = model_processes_seen(r->c.model), .threads = model_threads_seen(r->c.model),
	};
	snprintf(s->session, sizeof s->session, "%s", f->p.name);
	snprintf(s->store, sizeof s->store, "%s", store_path(f->p.store) ? store_path(f->p.store) : "");
	snprintf(s->error, sizeof s->error, "%s", now.error);
}

int feed_close(struct feed *f, const char *failed, struct snaptrail_summary *ret)
{
	struct recorder *r = &f->r;
	struct snaptrail_summary s;
	int e = 0;

	__atomic_store_n(&r->f.ending, true, __ATOMIC_RELEASE);
	if (r->c.changes != r->changes_at_cut || r->c.stage.h->ngaps || r->last_id[0] == 0)
		e = cut(f, &(struct wish){ .origin = failed ? ORIGIN_CRASH : ORIGIN_EXIT });
	if (!flush_wait(&r->f) && e == 0)
		e = fail(-EIO, "%s", flush_status(&r->f).error);
	if (e == 0)
		end_record(f, failed ? failed : "");
	flush_stop(&r->f);
	summarize(f, &s);
	if (ret)
		*ret = s;
	/* What could not be stored stays in the session's folder for a salvage. */
	feed_free(f, e == 0);
	return e;
}
