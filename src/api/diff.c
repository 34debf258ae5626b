/* What differs between two states, key by key and field by field. */
#include "api/internal.h"

#include <errno.h>

#include "base/err.h"

struct comparing {
	uint64_t *changed;
	int (*each)(void *arg, const struct snaptrail_difference *d);
	void *arg;
	int stop;
	int64_t total;
};

static void differ(struct comparing *c, struct snaptrail_difference d)
{
	if (c->stop == 0 && c->each)
		c->stop = c->each(c->arg, &d);
}

static void diff_entity(struct comparing *c, const struct entity *a, const struct entity *b)
{
	struct snaptrail_difference d = {
		.table = (enum snaptrail_table)a->table, .op = 'u', .key = a->key, .key_len = a->key_len
	};

	const struct value *va, *vb;

	if (entity_row(a) && entity_row(b) && a->row_len == b->row_len && memcmp(a->row, b->row, a->row_len) == 0)
		return;
	va = entity_value(a);
	vb = entity_value(b);
	if (value_equal(va, vb))
		return;
	c->total++;
	if (c->changed)
		c->changed[a->table]++;
	if (va->type != VALUE_OBJECT || vb->type != VALUE_OBJECT) {
		d.field = "";
		d.before = public_value(va);
		d.after = public_value(vb);
		differ(c, d);
		return;
	}
	for (uint32_t i = 0; i < va->n; i++) {
		const struct pair *p = &va->pairs[i];
		const struct value *other = value_get_n(vb, p->name, p->name_len);

		if (other && value_equal(&p->value, other))
			continue;
		d.field = p->name;
		d.before = public_value(&p->value);
		d.after = public_value(other);
		differ(c, d);
	}
	for (uint32_t i = 0; i < vb->n; i++) {
		const struct pair *p = &vb->pairs[i];

		if (value_get_n(va, p->name, p->name_len))
			continue;
		d.field = p->name;
		d.before = NULL;
		d.after = public_value(&p->value);
		differ(c, d);
	}
}

/* Removed ('r') or added ('a'). */
static void one_sided(struct comparing *c, const struct entity *e, char op)
{
	const struct snaptrail_value *v = public_value(entity_value(e));

	c->total++;
	if (c->changed)
		c->changed[e->table]++;
	differ(c, (struct snaptrail_difference){ .table = (enum snaptrail_table)e->table, .op = op, .key = e->key, .key_len = e->key_len,
						 .field = "", .before = op == 'r' ? v : NULL, .after = op == 'a' ? v : NULL });
}

static bool same_key(const struct entity *a, const struct entity *b)
{
	return a->hash == b->hash && a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0;
}

/* Where both have the same keys in the same order, as nearly everywhere, no key
 * is looked up. */
static void diff_table(struct comparing *c, const struct model *a, const struct model *b, enum table t)
{
	const struct entity *x = model_first(a, t), *y = model_first(b, t), *rest;

	for (; x && y && same_key(x, y); x = x->next, y = y->next)
		diff_entity(c, x, y);
	for (rest = y; x; x = x->next) {
		const struct entity *other = rest && same_key(x, rest) ? rest : model_find(b, t, x->key, x->key_len);

		if (other == NULL) {
			one_sided(c, x, 'r');
			continue;
		}
		diff_entity(c, x, other);
		rest = other->next;
	}
	for (; y; y = y->next)
		if (model_find(a, t, y->key, y->key_len) == NULL)
			one_sided(c, y, 'a');
}

int64_t snaptrail_diff(const struct snaptrail_state *a, const struct snaptrail_state *b, uint64_t ret_changed[SNAPTRAIL_TABLES + 1],
		       int (*each)(void *arg, const struct snaptrail_difference *d), void *arg)
{
	struct comparing c = { .changed = ret_changed, .each = each, .arg = arg };

	if (ret_changed)
		memset(ret_changed, 0, (SNAPTRAIL_TABLES + 1) * sizeof *ret_changed);
	for (int t = 1; t < TABLE_COUNT && c.stop == 0; t++)
		diff_table(&c, a->model, b->model, (enum table)t);
	return c.stop ? c.stop : c.total;
}

/* ---- of two that stand on each other ---- */

struct touched {
	const struct entity *a, *b;
};

/* The entities that the Changes of the snapshots between the two name. */
struct between {
	const struct model *a, *b;
	struct touched *list;
	size_t n;
};

static void touch(struct between *w, const struct change *c)
{
	enum table t = (enum table)c->table;
	struct touched e = { model_find(w->a, t, c->name.p, c->name.n), model_find(w->b, t, c->name.p, c->name.n) };

	if (e.a == NULL && e.b == NULL)
		return; /* came and went between them */
	if ((w->n & (w->n - 1)) == 0)
		w->list = xrealloc(w->list, (w->n ? w->n * 2 : 1) * sizeof *w->list);
	w->list[w->n++] = e;
}

static bool touch_run(struct between *w, const struct bytes *run)
{
	struct change c;
	struct wire field;
	size_t pos = 0;
	int r;

	while ((r = wire_next(run->p, run->n, &pos, &field)) > 0) {
		if (field.field != RUN_CHANGES || field.type != 2)
			continue;
		if (!change_read(&c, field.b.p, field.b.n) || c.table == 0 || c.table >= TABLE_COUNT || c.name.p == NULL)
			return false;
		touch(w, &c);
	}
	return r == 0;
}

static bool touch_snapshot(struct snaptrail *st, struct between *w, const struct snapshot_meta *m)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct wire field;
	size_t pos = 0;
	int r = store_load(st->store, m, &payload) < 0 ? -1 : 0;

	while (r == 0 && (r = wire_next(payload.data, payload.len, &pos, &field)) > 0)
		r = field.field == 1 && field.type == 2 && !touch_run(w, &field.b) ? -1 : 0;
	return r == 0;
}

/* From the later one down to the earlier: false when they are not so related.
 */
static bool touch_chain(struct snaptrail *st, struct between *w, const struct snapshot_meta *low, const struct snapshot_meta *high)
{
	struct snapshot_meta at = *high;

	while (strcmp(at.id, low->id)) {
		if (at.type != SNAPSHOT_INCREMENTAL || at.base_id[0] == 0 || !touch_snapshot(st, w, &at) ||
		    store_snapshot_find(st->store, at.base_id, &at, NULL) < 0)
			return false;
	}
	return true;
}

static enum table table_of(const struct touched *t) { return (enum table)(t->a ? t->a : t->b)->table; }

static int by_place(const void *x, const void *y)
{
	const struct touched *p = x, *q = y;

	if (table_of(p) != table_of(q))
		return table_of(p) < table_of(q) ? -1 : 1;
	if ((p->a == NULL) != (q->a == NULL))
		return p->a ? -1 : 1; /* what is new comes last, as it stands in the state */
	if (p->a != q->a)
		return p->a < q->a ? -1 : 1;
	return p->b < q->b ? -1 : p->b > q->b;
}

static void diff_touched(struct comparing *c, struct between *w)
{
	if (w->n)
		qsort(w->list, w->n, sizeof *w->list, by_place);
	for (size_t i = 0; i < w->n && c->stop == 0; i++) {
		struct touched *t = &w->list[i];

		if (i && t->a == t[-1].a && t->b == t[-1].b)
			continue;
		if (t->a && t->b)
			diff_entity(c, t->a, t->b);
		else if (t->a)
			one_sided(c, t->a, 'r');
		else
			one_sided(c, t->b, 'a');
	}
}

static int state_of_ref(struct snaptrail *st, const char *ref, struct snapshot_meta *ret_meta, struct snaptrail_state **ret)
{
	struct snaptrail_point p;
	int r = snaptrail_resolve(st, NULL, ref, &p);

	*ret_meta = (struct snapshot_meta){ 0 };
	if (r == 0 && p.is_snapshot)
		r = store_snapshot_find(st->store, p.snapshot.own_id, ret_meta, NULL);
	return r < 0 ? r : snaptrail_state_at(st, &p, ret);
}

int64_t snaptrail_compare(struct snaptrail *st, const char *ref_a, const char *ref_b, uint64_t ret_changed[SNAPTRAIL_TABLES + 1],
			  int (*each)(void *arg, const struct snaptrail_difference *d), void *arg)
{
	struct comparing c = { .changed = ret_changed, .each = each, .arg = arg };
	struct snapshot_meta ma, mb;
	struct snaptrail_state *a = NULL, *b = NULL;
	struct between w = { 0 };
	int64_t r;
	HOLD(st);

	r = state_of_ref(st, ref_a, &ma, &a);
	if (r == 0)
		r = state_of_ref(st, ref_b, &mb, &b);
	if (r == 0 && ret_changed)
		memset(ret_changed, 0, (SNAPTRAIL_TABLES + 1) * sizeof *ret_changed);
	if (r == 0) {
		w.a = a->model;
		w.b = b->model;
		if (ma.handed_in && mb.handed_in && (touch_chain(st, &w, &ma, &mb) || (w.n = 0, touch_chain(st, &w, &mb, &ma))))
			diff_touched(&c, &w);
		else
			for (int t = 1; t < TABLE_COUNT && c.stop == 0; t++)
				diff_table(&c, w.a, w.b, (enum table)t);
		r = c.stop ? c.stop : c.total;
	}
	free(w.list);
	snaptrail_state_free(a);
	snaptrail_state_free(b);
	return r;
}
