/* States, values, differences and history for users of the library. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/replay.h"
#include "engine/symbols.h"

/* ---- values ---- */

enum snaptrail_type snaptrail_value_type(const struct snaptrail_value *v) { return (enum snaptrail_type)private_value(v)->type; }
bool snaptrail_value_bool(const struct snaptrail_value *v) { return private_value(v)->boolean; }
int64_t snaptrail_value_int(const struct snaptrail_value *v) { return private_value(v)->integer; }
uint64_t snaptrail_value_uint(const struct snaptrail_value *v) { return private_value(v)->natural; }
double snaptrail_value_double(const struct snaptrail_value *v) { return private_value(v)->real; }

const char *snaptrail_value_bytes(const struct snaptrail_value *v, size_t *ret_len)
{
	const struct value *p = private_value(v);

	if (p->type != VALUE_STRING && p->type != VALUE_BYTES) {
		*ret_len = 0;
		return "";
	}
	*ret_len = p->n;
	return p->bytes;
}

size_t snaptrail_value_count(const struct snaptrail_value *v)
{
	const struct value *p = private_value(v);

	return p->type == VALUE_LIST || p->type == VALUE_OBJECT ? p->n : 0;
}

const struct snaptrail_value *snaptrail_value_at(const struct snaptrail_value *v, size_t i)
{
	const struct value *p = private_value(v);

	if (i >= snaptrail_value_count(v))
		return NULL;
	return public_value(p->type == VALUE_LIST ? &p->items[i] : &p->pairs[i].value);
}

const char *snaptrail_value_name_at(const struct snaptrail_value *v, size_t i, size_t *ret_len)
{
	const struct value *p = private_value(v);

	if (p->type != VALUE_OBJECT || i >= p->n)
		return NULL;
	*ret_len = p->pairs[i].name_len;
	return p->pairs[i].name;
}

const struct snaptrail_value *snaptrail_value_get(const struct snaptrail_value *v, const char *name)
{
	return public_value(value_get(private_value(v), name));
}

bool snaptrail_value_equal(const struct snaptrail_value *a, const struct snaptrail_value *b)
{
	return value_equal(private_value(a), private_value(b));
}

/* ---- states ---- */

int snaptrail_state_at(struct snaptrail *st, const struct snaptrail_point *p, struct snaptrail_state **ret)
{
	struct session_meta s;
	struct replay_query q = { .until_ns = p->live && p->time_ns == UINT64_MAX ? UINT64_MAX : p->time_ns, .tick_ns = tick_of(st) };
	struct replay_result result;
	int e = session_meant(st, p->session, &s);

	if (e < 0)
		return e;
	q.session_id = s.id;
	/* A snapshot's own instant is stored; only what may lie behind the last looks at live parts. */
	q.store_folder = s.ended_ns ? NULL : store_path(st->store);
	if (!p->live && p->time_ns < s.started_ns)
		return fail(-ENODATA, "session %s begins later than that", s.name);
	e = replay(st->store, &q, &result);
	if (e < 0)
		return e;
	*ret = xcalloc(1, sizeof **ret);
	(*ret)->model = result.model;
	(*ret)->time_ns = q.until_ns == UINT64_MAX ? result.time_ns : p->time_ns;
	(*ret)->coalesced = result.coalesced;
	(*ret)->lost = result.lost;
	(*ret)->seq = result.seq;
	snprintf((*ret)->session, sizeof (*ret)->session, "%s", s.name);
	return 0;
}

void snaptrail_state_free(struct snaptrail_state *s)
{
	if (s)
		model_free(s->model);
	free(s);
}

uint64_t snaptrail_state_time(const struct snaptrail_state *s) { return s->time_ns; }
const char *snaptrail_state_session(const struct snaptrail_state *s) { return s->session; }
uint64_t snaptrail_state_coalesced(const struct snaptrail_state *s) { return s->coalesced; }
uint64_t snaptrail_state_lost(const struct snaptrail_state *s) { return s->lost; }
size_t snaptrail_state_count(const struct snaptrail_state *s, enum snaptrail_table t) { return model_count(s->model, (enum table)t); }

int snaptrail_state_each(const struct snaptrail_state *s, enum snaptrail_table t,
			 int (*each)(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v,
				     const char *source, uint64_t changed_ns), void *arg)
{
	for (const struct entity *e = model_first(s->model, (enum table)t); e; e = e->next) {
		int r = each(arg, e->key, e->key_len, public_value(entity_value(e)), change_source_name(e->source), e->time_ns);

		if (r)
			return r;
	}
	return 0;
}

const struct snaptrail_value *snaptrail_state_get(const struct snaptrail_state *s, enum snaptrail_table t, const char *key, size_t n)
{
	const struct entity *e = model_find(s->model, (enum table)t, key, n);

	return e ? public_value(entity_value(e)) : NULL;
}

/* ---- paths ---- */

/* `*` any run of bytes, `?` one; the usual two-pointer walk, linear in practice. */
static bool glob(const char *p, size_t pn, const char *s, size_t n)
{
	size_t i = 0, k = 0, star = SIZE_MAX, mark = 0;

	while (k < n) {
		if (i < pn && (p[i] == '?' || p[i] == s[k]) && p[i] != '*') {
			i++, k++;
		} else if (i < pn && p[i] == '*') {
			star = i++;
			mark = k;
		} else if (star != SIZE_MAX) {
			i = star + 1;
			k = ++mark;
		} else {
			return false;
		}
	}
	while (i < pn && p[i] == '*')
		i++;
	return i == pn;
}

const char *snaptrail_path_field(const char *path)
{
	const char *hash = strchr(path, '#');

	return hash ? hash + 1 : NULL;
}

bool snaptrail_path_match(const char *path, enum snaptrail_table t, const char *key, size_t n)
{
	const char *colon = strchr(path, ':'), *hash;
	enum table named = colon ? table_by_name(path, (size_t)(colon - path)) : (enum table)0;

	if (named) {
		if (named != (enum table)t)
			return false;
		path = colon + 1;
	}
	hash = strchr(path, '#');
	return glob(path, hash ? (size_t)(hash - path) : strlen(path), key, n);
}

/* ---- differences ---- */

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
	struct snaptrail_difference d = { .table = (enum snaptrail_table)a->table, .op = 'u', .key = a->key, .key_len = a->key_len };

	const struct value *va, *vb;

	if (a->row && b->row && a->row_len == b->row_len && memcmp(a->row, b->row, a->row_len) == 0)
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

static void diff_table(struct comparing *c, const struct model *a, const struct model *b, enum table t)
{
	for (const struct entity *e = model_first(a, t); e; e = e->next) {
		const struct entity *other = model_find(b, t, e->key, e->key_len);

		if (other) {
			diff_entity(c, e, other);
			continue;
		}
		c->total++;
		if (c->changed)
			c->changed[t]++;
		differ(c, (struct snaptrail_difference){ .table = (enum snaptrail_table)t, .op = 'r', .key = e->key,
							 .key_len = e->key_len, .field = "", .before = public_value(entity_value(e)) });
	}
	for (const struct entity *e = model_first(b, t); e; e = e->next) {
		if (model_find(a, t, e->key, e->key_len))
			continue;
		c->total++;
		if (c->changed)
			c->changed[t]++;
		differ(c, (struct snaptrail_difference){ .table = (enum snaptrail_table)t, .op = 'a', .key = e->key,
							 .key_len = e->key_len, .field = "", .after = public_value(entity_value(e)) });
	}
}

int64_t snaptrail_diff(const struct snaptrail_state *a, const struct snaptrail_state *b,
		       uint64_t ret_changed[SNAPTRAIL_TABLES + 1],
		       int (*each)(void *arg, const struct snaptrail_difference *d), void *arg)
{
	struct comparing c = { .changed = ret_changed, .each = each, .arg = arg };

	if (ret_changed)
		memset(ret_changed, 0, (SNAPTRAIL_TABLES + 1) * sizeof *ret_changed);
	for (int t = 1; t < TABLE_COUNT && c.stop == 0; t++)
		diff_table(&c, a->model, b->model, (enum table)t);
	return c.stop ? c.stop : c.total;
}

/* ---- history ---- */

struct logging {
	const struct snaptrail_log_query *q;
	int (*each)(void *arg, const struct snaptrail_event *e);
	void *arg;
	const char *session;
	uint64_t time_ns, seq, coalesced;
	const char *kind, *source;
	uint64_t stack;              /* of the Change at work */
	const struct replay_result *result;
	struct symbols *symbols;     /* NULL: no stacks are asked for */
	struct snaptrail_frame frames[MODEL_STACK_FRAMES];
	struct buf paths;            /* of their modules */
	int64_t count;
	int stop;
};

static void on_tick(void *arg, uint64_t time_ns, uint64_t seq, const struct change *c)
{
	struct logging *l = arg;

	l->time_ns = time_ns;
	l->seq = seq;
	l->coalesced = c->coalesced;
	l->kind = change_kind_name(c->kind);
	l->source = change_source_name(c->source);
	l->stack = c->stack;
}

/* Names for the frames of the stack of the Change at work. */
static void add_stack(struct logging *l, struct snaptrail_event *ev)
{
	struct model_frame f[MODEL_STACK_FRAMES];
	size_t n = model_stack(l->result->model, l->stack, f, MODEL_STACK_FRAMES, &ev->stack_cut), at = 0;

	buf_reset(&l->paths);
	for (size_t i = 0; i < n; i++) {
		buf_put(&l->paths, f[i].path.p, f[i].path.n);
		buf_byte(&l->paths, 0);
	}
	for (size_t i = 0; i < n; at += f[i++].path.n + 1) {
		struct symbol s;

		symbols_find(l->symbols, &f[i], &s);
		l->frames[i] = (struct snaptrail_frame){
			.address = f[i].address, .module = f[i].path.n ? (const char *)l->paths.data + at : NULL,
			.offset = f[i].address - f[i].bias, .symbol = s.name, .symbol_offset = s.offset,
			.file = s.file, .line = s.line, .why = s.why,
		};
	}
	ev->stack = n ? l->frames : NULL;
	ev->stack_count = n;
}

static void on_change(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	struct logging *l = arg;
	const char *wanted = l->q->path ? snaptrail_path_field(l->q->path) : NULL;
	struct snaptrail_event ev = {
		.time_ns = l->time_ns, .seq = l->seq, .session = l->session, .table = (enum snaptrail_table)e->table,
		.key = e->key, .key_len = e->key_len, .field = field, .deleted = after == NULL,
		.before = public_value(before), .after = public_value(after), .source = l->source, .kind = l->kind,
		.coalesced = l->coalesced,
	};

	if (l->stop || l->time_ns < l->q->since_ns || (l->q->until_ns && l->time_ns >= l->q->until_ns))
		return;
	if (l->q->path && !snaptrail_path_match(l->q->path, ev.table, e->key, e->key_len))
		return;
	if (wanted && *field) {
		size_t n = strlen(field);

		if (strncmp(wanted, field, n) || (wanted[n] && wanted[n] != '.'))
			return;
	}
	if (l->symbols && l->stack)
		add_stack(l, &ev);
	l->count++;
	l->stop = l->each(l->arg, &ev);
}

int64_t snaptrail_log(struct snaptrail *st, const struct snaptrail_log_query *q,
		      int (*each)(void *arg, const struct snaptrail_event *e), void *arg)
{
	struct session_meta s;
	struct logging l = { .q = q, .each = each, .arg = arg, .kind = "", .source = "" };
	struct replay_query rq = { .from_ns = q->since_ns, .observe = on_change, .tick = on_tick, .arg = &l, .tick_ns = tick_of(st) };
	struct replay_result result;
	int e = session_meant(st, q->session, &s);

	if (e < 0)
		return e;
	rq.session_id = s.id;
	rq.until_ns = q->until_ns ? q->until_ns - 1 : UINT64_MAX;
	rq.store_folder = s.ended_ns ? NULL : store_path(st->store);
	l.session = s.name;
	l.result = &result;
	l.symbols = q->stacks ? symbols_new() : NULL;
	e = replay(st->store, &rq, &result);
	symbols_free(l.symbols);
	buf_done(&l.paths);
	if (e < 0)
		return e;
	model_free(result.model);
	return l.stop ? l.stop : l.count;
}
