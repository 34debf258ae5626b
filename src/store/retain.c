/* Retention: which snapshots are beyond the limits, and why each stays or goes.
 * Goes by what any reader sees, the calls of store.h alone; what goes is
 * deleted as by hand. */
#include "store/store.h"

#include <errno.h>

#include "base/err.h"

#define RECORD_BYTES 220u /* of a snapshot beside its payload, about */
#define SESSION_BYTES 600u /* where one begins and ends */

/* One session's snapshots in order of time, and what is to become of them. */
struct row {
	struct snapshot_meta m;
	bool goes;
	const char *why;
	int64_t bytes;
};

struct plan {
	struct session_meta session;
	struct row *rows;
	size_t n;
};

static void plan_load(struct store *s, const struct session_meta *session, struct plan *p)
{
	*p = (struct plan){ .session = *session, .n = store_snapshot_count(s, session->id) };
	p->rows = xcalloc(p->n, sizeof *p->rows);
	for (size_t i = 0; i < p->n; i++)
		if (store_snapshot_at(s, session->id, i, &p->rows[i].m) < 0)
			p->n = i;
}

/* What its recorder stands on. */
static bool is_recorders(const struct plan *p, size_t i)
{
	return p->session.ended_ns == 0 && i + 1 == p->n && !p->rows[i].m.handed_in;
}

/* ---- judging ---- */


static bool kept_by_tag(const struct store_retention *r, const struct snapshot_meta *m)
{
	for (const char *const *k = r->keep_tags; k && *k; k++)
		for (size_t i = 0; i < m->ntags; i++)
			if (strcmp(*k, m->tags[i]) == 0)
				return true;
	return false;
}

/* What no limit touches. */
static const char *protected_by(const struct plan *p, size_t i, const struct store_retention *r)
{
	const struct snapshot_meta *m = &p->rows[i].m;

	if (is_recorders(p, i))
		return "the recording goes on from it";
	if (r->tagged_only && m->ntags)
		return "has a tag, and tagged_only keeps these";
	return kept_by_tag(r, m) ? "has a tag of keep_tags" : NULL;
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
	uint64_t limit = r->max_bytes, total = n * SESSION_BYTES;
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

/* ---- carrying out ---- */

struct pruning {
	struct store *s;
	struct plan *plans;
	size_t n;
	const char **ids;
	size_t going;
};

static void pruning_begin(struct pruning *p, struct store *s, const struct store_retention *r)
{
	struct session_meta m;
	size_t snapshots = 0;

	*p = (struct pruning){ .s = s, .n = store_session_count(s) };
	p->plans = xcalloc(p->n, sizeof *p->plans);
	for (size_t i = 0; i < p->n; i++) {
		if (store_session_at(s, i, &m) < 0) {
			p->n = i;
			break;
		}
		plan_load(s, &m, &p->plans[i]);
		judge_session(&p->plans[i], r);
		snapshots += p->plans[i].n;
	}
	judge_bytes(p->plans, p->n, r);
	p->ids = xcalloc(snapshots, sizeof *p->ids);
	for (size_t k = 0; k < p->n; k++) {
		for (size_t i = 0; i < p->plans[k].n; i++) {
			struct row *row = &p->plans[k].rows[i];

			if (!row->goes)
				continue;
			row->bytes = record_bytes(&row->m);
			p->ids[p->going++] = row->m.id;
		}
	}
}

static void pruning_done(struct pruning *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->plans[i].rows);
	free(p->plans);
	free(p->ids);
}

static void weighed(void *arg, const struct snapshot_meta *m, uint64_t stored_bytes)
{
	struct pruning *p = arg;

	for (size_t k = 0; k < p->n; k++)
		for (size_t i = 0; strcmp(p->plans[k].session.id, m->session_id) == 0 && i < p->plans[k].n; i++)
			if (strcmp(p->plans[k].rows[i].m.id, m->id) == 0)
				p->plans[k].rows[i].bytes = (int64_t)p->plans[k].rows[i].m.stored_bytes - (int64_t)stored_bytes;
}

static int64_t tell(const struct pruning *p, void (*verdict)(void *arg, const struct store_verdict *v), void *arg)
{
	int64_t freed = 0;

	for (size_t k = 0; k < p->n; k++) {
		for (size_t i = 0; i < p->plans[k].n; i++) {
			const struct row *row = &p->plans[k].rows[i];

			freed += row->bytes;
			if (verdict)
				verdict(arg, &(struct store_verdict){ &row->m, row->goes, row->why, row->bytes });
		}
	}
	return freed;
}

/* Judges, tells and deletes.  -ENOENT: another has deleted some of it meanwhile. */
static int prune_once(struct store *s, const struct store_retention *r, bool dry, const struct store_folding *f,
		      void (**verdict)(void *arg, const struct store_verdict *v), void *arg, uint64_t *ret_deleted, int64_t *ret_freed)
{
	struct pruning p;
	int e = 0;

	store_refresh(s);
	pruning_begin(&p, s, r);
	*ret_deleted = p.going;
	if (dry || *verdict)
		e = store_delete_weigh(s, p.ids, p.going, f, weighed, &p);
	if (e == 0) {
		*ret_freed = tell(&p, *verdict, arg);
		*verdict = NULL; /* once */
	}
	if (e == 0 && !dry && p.going)
		e = store_delete(s, p.ids, p.going, f, ret_deleted);
	pruning_done(&p);
	return e;
}

#define TRIES 10

int store_prune(struct store *s, const struct store_retention *r, bool dry, const struct store_folding *f,
		void (*verdict)(void *arg, const struct store_verdict *v), void *arg, uint64_t *ret_deleted, int64_t *ret_freed)
{
	struct store_stats before, after;
	uint64_t freed;
	int e, tries = 0;

	store_refresh(s);
	store_get_stats(s, &before);
	do {
		e = prune_once(s, r, dry, f, &verdict, arg, ret_deleted, ret_freed);
	} while (e == -ENOENT && ++tries < TRIES);
	if (e == 0 && !dry && (*ret_deleted || !r->lazy)) {
		e = store_compact(s, r->lazy ? 0.25 : 0, &freed);
		store_get_stats(s, &after);
		*ret_freed = (int64_t)(before.segment_bytes - after.segment_bytes);
	}
	return e;
}
