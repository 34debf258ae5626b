/* Deleting snapshots that others stand on, and keeping by limits what is to be
 * kept.  Goes by what any reader sees: the calls of store.h alone, so that a
 * plan can be made without carrying it out. */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "store/codec.h"

#define RECORD_BYTES 300u /* of a snapshot beside its payload, about */

/* One session's snapshots in order of time, and what is to become of them. */
struct row {
	struct snapshot_meta m;
	bool goes;
	const char *why;
	int64_t bytes;
};

struct plan {
	struct store *s;
	struct session_meta session;
	struct row *rows;
	size_t n;
};

static int plan_load(struct store *s, const struct session_meta *session, struct plan *p)
{
	*p = (struct plan){ .s = s, .session = *session, .n = store_snapshot_count(s, session->id) };
	p->rows = xcalloc(p->n, sizeof *p->rows);
	for (size_t i = 0; i < p->n; i++)
		if (store_snapshot_at(s, session->id, i, &p->rows[i].m) < 0)
			p->n = i;
	return 0;
}

static void plan_done(struct plan *p) { free(p->rows); }

static bool is_recorded_now(const struct plan *p) { return p->session.ended_ns == 0; }

/* What its recorder stands on. */
static size_t newest_recorded(const struct plan *p)
{
	size_t i = p->n;

	while (i && p->rows[i - 1].m.handed_in)
		i--;
	return i ? i - 1 : SIZE_MAX;
}

/* The row of an id; snapshots mostly stand on the one before them. */
static size_t row_of(const struct plan *p, const char *id, size_t near)
{
	for (size_t i = near; i-- > 0;)
		if (strcmp(p->rows[i].m.id, id) == 0)
			return i;
	for (size_t i = near; i < p->n; i++)
		if (strcmp(p->rows[i].m.id, id) == 0)
			return i;
	return SIZE_MAX;
}

/* ---- what stays takes over ---- */

struct takeover {
	size_t path[64];             /* the deleted ones below it, the nearest first */
	size_t n;
	bool whole;                  /* a full one among them, or more than can be strung together */
	char base_id[STORE_ID_LEN + 1];
	uint64_t since_ns;
};

/* Nothing to take over: false. */
static bool takeover_find(const struct plan *p, size_t i, struct takeover *t)
{
	const struct snapshot_meta *m = &p->rows[i].m;
	size_t below = i;

	*t = (struct takeover){ .since_ns = m->since_ns };
	if (m->type == SNAPSHOT_FULL)
		return false;
	for (;;) {
		const struct snapshot_meta *at = &p->rows[below].m;
		size_t next = at->base_id[0] ? row_of(p, at->base_id, below) : SIZE_MAX;

		memcpy(t->base_id, at->base_id, sizeof t->base_id);
		t->since_ns = at->since_ns < t->since_ns ? at->since_ns : t->since_ns;
		if (next == SIZE_MAX || !p->rows[next].goes)
			return t->n > 0;
		if (p->rows[next].m.type == SNAPSHOT_FULL || t->n == sizeof t->path / sizeof *t->path)
			t->whole = true;
		if (t->whole)
			return true;
		t->path[t->n++] = next;
		below = next;
	}
}

/* Repeated fields of a message concatenate: the Changes of those below, then its own. */
static int takeover_payload(const struct plan *p, size_t i, const struct takeover *t, const struct store_folding *f, struct buf *out)
{
	int r = 0;

	if (t->whole)
		return f->full(f->arg, &p->rows[i].m, out);
	for (size_t k = t->n; k-- > 0 && r == 0;)
		r = store_load(p->s, &p->rows[t->path[k]].m, out);
	return r < 0 ? r : store_load(p->s, &p->rows[i].m, out);
}

static int takeover_write(const struct plan *p, size_t i, const struct takeover *t, const struct store_folding *f)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct snapshot_meta m = p->rows[i].m;
	int r = takeover_payload(p, i, t, f, &payload);

	if (r < 0)
		return r;
	m.type = t->whole ? SNAPSHOT_FULL : SNAPSHOT_INCREMENTAL;
	memcpy(m.base_id, t->base_id, sizeof m.base_id);
	m.since_ns = t->since_ns;
	for (size_t k = 0; k < t->n; k++)
		m.changes += p->rows[t->path[k]].m.changes;
	if (t->whole)
		m.changes = p->rows[i].m.changes;
	return store_append(p->s, &m, payload.data, payload.len, STORE_REPLACE | STORE_SYNC_LATER);
}

/* ---- holes ---- */

/* Between what stays before i and i itself something recorded goes that i does
 * not take over. */
static bool hole_before(const struct plan *p, size_t i, size_t *ret_before)
{
	size_t k = i;

	while (k && (p->rows[k - 1].goes || p->rows[k - 1].m.handed_in))
		k--;
	*ret_before = k ? k - 1 : SIZE_MAX;
	return k > 0 && k < i && !p->rows[i].goes && !p->rows[i].m.handed_in;
}

static int note_hole(const struct plan *p, size_t i)
{
	struct gap_meta g = { .to_ns = p->rows[i].m.time_ns, .cause = GAP_DELETED };
	struct takeover t;
	size_t before, gone = 0;

	if (!hole_before(p, i, &before) || (takeover_find(p, i, &t) && !t.whole))
		return 0;
	for (size_t k = before + 1; k < i; k++)
		gone += p->rows[k].goes && !p->rows[k].m.handed_in;
	if (gone == 0)
		return 0;
	g.from_ns = p->rows[before].m.time_ns;
	memcpy(g.session_id, p->session.id, sizeof g.session_id);
	return store_note_gap(p->s, &g);
}

/* ---- carrying out ---- */

static int plan_write(const struct plan *p, const struct store_folding *f)
{
	int r = 0;

	for (size_t i = 0; i < p->n && r == 0; i++) {
		struct takeover t;

		if (!p->rows[i].goes && takeover_find(p, i, &t))
			r = takeover_write(p, i, &t, f);
		if (r == 0 && !p->rows[i].goes)
			r = note_hole(p, i);
	}
	for (size_t i = 0; i < p->n && r == 0; i++)
		if (p->rows[i].goes)
			r = store_note_deleted(p->s, p->rows[i].m.id);
	return r;
}

/* Batches do not nest: within one that the caller began this is a part of it. */
static int plans_write(struct store *s, struct plan *plans, size_t n, const struct store_folding *f)
{
	bool own = store_batch_begin(s) == 0;
	int r = 0, ended;

	for (size_t i = 0; i < n && r == 0; i++)
		r = plan_write(&plans[i], f);
	ended = own ? store_batch_end(s, r == 0) : 0;
	return r < 0 ? r : ended;
}

/* ---- deleting by id ---- */

static int mark_one(struct store *s, struct plan **plans, size_t *n, const char *id)
{
	struct snapshot_meta m;
	struct session_meta session;
	size_t k = 0, i;
	int r = store_snapshot_find(s, id, &m, NULL);

	if (r < 0)
		return r;
	while (k < *n && strcmp((*plans)[k].session.id, m.session_id))
		k++;
	if (k == *n) {
		for (i = 0; (r = store_session_at(s, i, &session)) == 0 && strcmp(session.id, m.session_id); i++)
			;
		if (r < 0)
			return r;
		*plans = xrealloc(*plans, (k + 1) * sizeof **plans);
		plan_load(s, &session, &(*plans)[k]);
		++*n;
	}
	i = row_of(&(*plans)[k], m.id, (*plans)[k].n);
	if (i == SIZE_MAX)
		return fail(-ENOENT, "no snapshot %s", id);
	if (is_recorded_now(&(*plans)[k]) && i == newest_recorded(&(*plans)[k]))
		return fail(-EBUSY, "snapshot %s is the newest of session %s, which is being recorded on it", id, session.name);
	(*plans)[k].rows[i].goes = true;
	return 0;
}

int store_delete(struct store *s, const char *const *ids, size_t n, const struct store_folding *f)
{
	struct plan *plans = NULL;
	size_t nplans = 0;
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = mark_one(s, &plans, &nplans, ids[i]);
	if (r == 0)
		r = plans_write(s, plans, nplans, f);
	for (size_t i = 0; i < nplans; i++)
		plan_done(&plans[i]);
	free(plans);
	return r;
}

/* ---- retention ---- */

static bool kept_by_tag(const struct store_retention *r, const struct snapshot_meta *m, char why[300])
{
	for (const char *const *k = r->keep_tags; k && *k; k++) {
		for (size_t i = 0; i < m->ntags; i++) {
			if (strcmp(*k, m->tags[i]))
				continue;
			snprintf(why, 300, "has the tag %s, which keeps", *k);
			return true;
		}
	}
	return false;
}

/* What no limit touches; the phrase must outlive the row. */
static const char *protected_by(const struct plan *p, size_t i, const struct store_retention *r)
{
	static const char *const tagged = "has a tag, and tagged_only keeps these", *const live = "the recording goes on from it";
	const struct snapshot_meta *m = &p->rows[i].m;
	char why[300];

	if (is_recorded_now(p) && i == newest_recorded(p))
		return live;
	if (r->tagged_only && m->ntags)
		return tagged;
	return kept_by_tag(r, m, why) ? "has a tag of keep_tags" : NULL;
}

static void judge_session(struct plan *p, const struct store_retention *r)
{
	uint64_t slack = r->lazy ? 16 : UINT64_MAX;
	bool too_many = r->max_snapshots && p->n > r->max_snapshots + (r->lazy ? r->max_snapshots / slack : 0);

	for (size_t i = 0; i < p->n; i++) {
		struct row *row = &p->rows[i];
		uint64_t t = row->m.time_ns;

		row->why = protected_by(p, i, r);
		row->bytes = 0;
		if (row->why)
			continue;
		row->why = "within the limits";
		if (r->max_age_ns && t < r->now_ns && r->now_ns - t > r->max_age_ns + (r->lazy ? r->max_age_ns / slack : 0)) {
			row->why = "older than max_age";
			row->goes = true;
		} else if (too_many && p->n - i > r->max_snapshots) {
			row->why = "beyond max_snapshots of its session";
			row->goes = true;
		}
	}
}

static int64_t record_bytes(const struct snapshot_meta *m) { return (int64_t)m->stored_bytes + RECORD_BYTES; }

/* The oldest of all sessions go until the rest fits. */
static void judge_bytes(struct plan *plans, size_t n, const struct store_retention *r)
{
	uint64_t limit = r->max_bytes, total = 0;
	size_t *at = xcalloc(n, sizeof *at);

	for (size_t k = 0; k < n; k++)
		for (size_t i = 0; i < plans[k].n; i++)
			total += plans[k].rows[i].goes ? 0 : (uint64_t)record_bytes(&plans[k].rows[i].m);
	if (limit == 0 || total <= limit + (r->lazy ? limit / 16 : 0))
		n = 0;
	while (n && total > limit) {
		size_t oldest = SIZE_MAX;

		for (size_t k = 0; k < n; k++) {
			while (at[k] < plans[k].n && (plans[k].rows[at[k]].goes || protected_by(&plans[k], at[k], r)))
				at[k]++;
			if (at[k] < plans[k].n && (oldest == SIZE_MAX || plans[k].rows[at[k]].m.time_ns < plans[oldest].rows[at[oldest]].m.time_ns))
				oldest = k;
		}
		if (oldest == SIZE_MAX)
			break;
		plans[oldest].rows[at[oldest]].goes = true;
		plans[oldest].rows[at[oldest]].why = "the store is over max_size";
		total -= (uint64_t)record_bytes(&plans[oldest].rows[at[oldest]].m);
	}
	free(at);
}

/* What a takeover will be, compressed as it would be. */
static int weigh(struct plan *p, size_t i, const struct takeover *t, const struct store_folding *f)
{
	_cleanup_buf_ struct buf payload = BUF_INIT, packed = BUF_INIT;
	int r = takeover_payload(p, i, t, f, &payload);

	if (r < 0)
		return r;
	p->rows[i].bytes = (int64_t)p->rows[i].m.stored_bytes -
			   (int64_t)(codec_compress(payload.data, payload.len, &packed) ? packed.len : payload.len);
	return 0;
}

static int weigh_all(struct plan *p, const struct store_folding *f)
{
	int r = 0;

	for (size_t i = 0; i < p->n && r == 0; i++) {
		struct takeover t;

		if (p->rows[i].goes)
			p->rows[i].bytes = record_bytes(&p->rows[i].m);
		else if (takeover_find(p, i, &t))
			r = weigh(p, i, &t, f);
	}
	return r;
}

static void tell(const struct plan *p, void (*verdict)(void *arg, const struct store_verdict *v), void *arg, uint64_t *deleted, int64_t *freed)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct row *row = &p->rows[i];

		*deleted += row->goes;
		*freed += row->bytes;
		if (verdict)
			verdict(arg, &(struct store_verdict){ &row->m, row->goes, row->why, row->bytes });
	}
}

int store_prune(struct store *s, const struct store_retention *r, bool dry, const struct store_folding *f,
		void (*verdict)(void *arg, const struct store_verdict *v), void *arg, uint64_t *ret_deleted, int64_t *ret_freed)
{
	size_t n = store_session_count(s);
	struct plan *plans = xcalloc(n, sizeof *plans);
	struct session_meta m;
	uint64_t freed = 0;
	int e = 0;

	*ret_deleted = 0;
	*ret_freed = 0;
	for (size_t i = 0; i < n; i++) {
		if (store_session_at(s, i, &m) < 0) {
			n = i;
			break;
		}
		plan_load(s, &m, &plans[i]);
		judge_session(&plans[i], r);
	}
	judge_bytes(plans, n, r);
	for (size_t i = 0; i < n && e == 0; i++)
		e = (dry || verdict) ? weigh_all(&plans[i], f) : 0;
	for (size_t i = 0; i < n && e == 0; i++)
		tell(&plans[i], verdict, arg, ret_deleted, ret_freed);
	if (e == 0 && !dry && *ret_deleted)
		e = plans_write(s, plans, n, f);
	for (size_t i = 0; i < n; i++)
		plan_done(&plans[i]);
	free(plans);
	if (e == 0 && !dry && (*ret_deleted || !r->lazy)) {
		e = store_compact(s, r->lazy ? 0.25 : 0, &freed);
		*ret_freed = (int64_t)freed;
	}
	return e;
}
