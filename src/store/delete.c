/* Deleting snapshots for good, without harm to what stands on them.
 *
 * An incremental snapshot whose predecessors go takes their Changes over, one
 * payload behind the other; where a full one goes with them it becomes full
 * itself.  A full one goes on naming what it followed: so a reader tells it from
 * one that begins a recording.  What has to be written for
 * that is made first, without the lock; then everything is one batch. */
#include "store/internal.h"

#include <errno.h>

#include "base/err.h"
#include "store/codec.h"

/* A kept snapshot in its new form. */
struct remade {
	struct snapshot_meta m;
	struct buf payload;      /* as handed in */
	bool gap;
	uint64_t gap_from_ns;
};

struct deletion {
	struct store *s;
	struct snapshot_meta *going;
	size_t ngoing;
	struct remade *remade;
	size_t nremade;
};

static void deletion_done(struct deletion *d)
{
	for (size_t i = 0; i < d->nremade; i++)
		buf_done(&d->remade[i].payload);
	free(d->remade);
	free(d->going);
}

/* What it builds on.  A recorder whose snapshot could not be stored names one
 * that never was, and then its changes are missing and the order counts. */
static struct item *before(struct store *s, const struct item *it)
{
	struct item *base = it->m.base_id[0] ? fold_item(s, it->m.base_id) : NULL;
	size_t i;

	if (base && !base->deleted && base != it && base->session == it->session)
		return base;
	if (it->m.handed_in || it->m.base_id[0] == 0)
		return NULL;
	i = fold_position(it);
	return i ? it->session->items[i - 1] : NULL;
}

static bool is_recorders(const struct item *it)
{
	const struct run_session *r = it->session;

	return !it->m.handed_in && r->m.ended_ns == 0 && r->items[r->count - 1] == it;
}

/* Marks what goes.  Nothing is done when any of it cannot. */
static int mark_going(struct deletion *d, const char *const *ids, size_t n)
{
	int r = 0;

	d->going = xcalloc(n, sizeof *d->going);
	for (size_t i = 0; i < n && r == 0; i++) {
		struct item *it = strlen(ids[i]) == STORE_ID_LEN ? fold_item(d->s, ids[i]) : NULL;

		if (it == NULL || it->deleted) {
			r = fail(-ENOENT, "no snapshot %s", ids[i]);
		} else if (is_recorders(it)) {
			r = fail(-EBUSY, "%s is the newest snapshot of session \"%s\", which goes on from it", it->m.id, it->session->m.name);
		} else if (!it->going) {
			it->going = true;
			d->going[d->ngoing++] = it->m;
		}
	}
	return r;
}

static void unmark(struct deletion *d)
{
	for (size_t i = 0; i < d->ngoing; i++) {
		struct item *it = fold_item(d->s, d->going[i].id);

		if (it)
			it->going = false;
	}
}

static const struct item *kept_before(const struct item *it)
{
	for (size_t i = fold_position(it); i-- > 0;)
		if (!it->session->items[i]->going)
			return it->session->items[i];
	return NULL;
}

/* The chain from a kept one back through those that go, nearest first. */
static size_t chain(struct deletion *d, struct item *it, struct snapshot_meta **ret, bool *ret_full)
{
	size_t n = 0;

	*ret_full = false;
	for (struct item *b = before(d->s, it); b && b->going && n < it->session->count; b = before(d->s, b)) {
		*ret = xrealloc(*ret, (n + 1) * sizeof **ret);
		(*ret)[n++] = b->m;
		*ret_full |= b->m.type == SNAPSHOT_FULL;
	}
	return n;
}

/* A kept one that stands on some that go; its payload comes later. */
struct plan {
	struct snapshot_meta m, *path;
	size_t n;
	bool full, gap;
	uint64_t gap_from_ns;
};

static size_t make_plans(struct deletion *d, struct plan **ret)
{
	size_t n = 0;

	for (size_t k = 0; k < d->s->nsessions; k++) {
		struct run_session *r = d->s->sessions[k];

		for (size_t i = 0; i < r->count; i++) {
			struct plan p = { .m = r->items[i]->m };
			const struct item *kept;

			if (r->items[i]->going || (p.n = chain(d, r->items[i], &p.path, &p.full)) == 0)
				continue;
			p.full = p.full || p.m.type == SNAPSHOT_FULL;
			kept = kept_before(r->items[i]);
			p.gap = p.full && kept && !p.m.handed_in;
			p.gap_from_ns = kept ? kept->m.time_ns : 0;
			*ret = xrealloc(*ret, (n + 1) * sizeof **ret);
			(*ret)[n++] = p;
		}
	}
	return n;
}

/* The payloads of the chain and its own, in order: their fields concatenate. */
static int concatenate(struct store *s, const struct plan *p, struct remade *out)
{
	int r = 0;

	for (size_t i = p->n; i-- > 0 && r == 0;) {
		r = store_load(s, &p->path[i], &out->payload);
		out->m.changes += p->path[i].changes;
		out->m.coalesced += p->path[i].coalesced;
		out->m.lost += p->path[i].lost;
	}
	if (r == 0)
		r = store_load(s, &p->m, &out->payload);
	out->m.since_ns = p->path[p->n - 1].since_ns;
	memcpy(out->m.base_id, p->path[p->n - 1].base_id, sizeof out->m.base_id);
	return r;
}

static int remake(struct store *s, const struct plan *p, const struct store_folding *f, struct remade *out)
{
	*out = (struct remade){ .m = p->m, .gap = p->gap, .gap_from_ns = p->gap_from_ns };
	if (!p->full)
		return concatenate(s, p, out);
	if (p->m.type == SNAPSHOT_FULL)
		return store_load(s, &p->m, &out->payload);
	if (f == NULL || f->full == NULL)
		return fail(-EINVAL, "snapshot %s would have to become a full one", p->m.id);
	out->m.type = SNAPSHOT_FULL;
	return f->full(f->arg, &p->m, &out->payload);
}

static int put_remade(struct store *s, const struct remade *m)
{
	const struct item *it = fold_item(s, m->m.id);

	return it == NULL || it->deleted ? fail(-ENOENT, "no snapshot %s", m->m.id) :
		store_put_again(s, it, &m->m, m->payload.data, m->payload.len);
}

static int put_all(struct deletion *d)
{
	int r = 0;

	for (size_t i = 0; i < d->nremade && r == 0; i++) {
		const struct remade *m = &d->remade[i];
		struct gap_meta g = { .from_ns = m->gap_from_ns, .to_ns = m->m.time_ns, .cause = GAP_DELETED };

		memcpy(g.session_id, m->m.session_id, sizeof g.session_id);
		r = put_remade(d->s, m);
		if (r == 0 && m->gap)
			r = store_put_gap(d->s, &g);
	}
	for (size_t i = 0; i < d->ngoing && r == 0; i++)
		r = store_put_deletion(d->s, d->going[i].id);
	return r;
}

static int write_all(struct deletion *d)
{
	bool stale;
	int r, end;

	store_enter(d->s);
	r = store_batch_open(d->s);
	if (r == 0) {
		r = put_all(d);
		end = batch_end(d->s, r == 0, &stale);
		r = r < 0 ? r : end;
	}
	store_leave(d->s);
	return r;
}

/* Everything but the writing. */
static int prepare(struct store *s, const char *const *ids, size_t n, const struct store_folding *f, struct deletion *d)
{
	struct plan *plans = NULL;
	size_t nplans = 0;
	int r;

	*d = (struct deletion){ .s = s };
	store_enter(s);
	r = mark_going(d, ids, n);
	if (r == 0)
		nplans = make_plans(d, &plans);
	unmark(d);
	store_leave(s);
	d->remade = xcalloc(nplans, sizeof *d->remade);
	for (; d->nremade < nplans && r == 0; d->nremade++)
		r = remake(s, &plans[d->nremade], f, &d->remade[d->nremade]);
	for (size_t i = 0; i < nplans; i++)
		free(plans[i].path);
	free(plans);
	return r;
}

int delete_within(struct store *s, const char *const *ids, size_t n, const struct store_folding *f)
{
	struct deletion d;
	int r = prepare(s, ids, n, f, &d);

	if (r == 0) {
		store_enter(s);
		r = put_all(&d);
		store_leave(s);
	}
	deletion_done(&d);
	return r;
}

int store_delete(struct store *s, const char *const *ids, size_t n, const struct store_folding *f, uint64_t *ret_deleted)
{
	struct deletion d;
	int r;

	if (store_batch_is_open(s)) {
		store_enter(s);
		r = batch_delete(s, ids, n, f);
		store_leave(s);
		if (ret_deleted)
			*ret_deleted = r == 0 ? n : 0;
		return r;
	}
	store_refresh(s);
	r = prepare(s, ids, n, f, &d);
	if (r == 0 && d.ngoing)
		r = write_all(&d);
	if (ret_deleted)
		*ret_deleted = r == 0 ? d.ngoing : 0;
	deletion_done(&d);
	return r;
}

int store_delete_weigh(struct store *s, const char *const *ids, size_t n, const struct store_folding *f,
		       void (*weighed)(void *arg, const struct snapshot_meta *m, uint64_t stored_bytes), void *arg)
{
	struct deletion d;
	int r = prepare(s, ids, n, f, &d);

	for (size_t i = 0; i < d.nremade && r == 0; i++) {
		_cleanup_buf_ struct buf packed = BUF_INIT;
		const struct buf *p = &d.remade[i].payload;

		weighed(arg, &d.remade[i].m, codec_compress(p->data, p->len, &packed) ? packed.len : p->len);
	}
	deletion_done(&d);
	return r;
}
