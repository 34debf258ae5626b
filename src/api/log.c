/* History: every change of a value, and when something became true. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/replay.h"
#include "engine/symbols.h"

/* ---- paths ---- */

/* `*` any run of bytes, `?` one; the usual two-pointer walk, linear in
 * practice. */
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

static int path_check(const char *path)
{
	const char *field = path ? snaptrail_path_field(path) : NULL;

	return field && !*field ? fail(-EINVAL, "\"%.60s\": no field stands behind #", path) : 0;
}

/* ---- history ---- */

struct logging {
	const struct snaptrail_log_query *q;
	int (*each)(void *arg, const struct snaptrail_event *e);
	void *arg;
	const char *session;
	uint64_t time_ns, seq, coalesced;
	const char *kind, *source;
	uint64_t stack; /* of the Change at work */
	const struct replay_result *result;
	struct symbols *symbols; /* NULL: no stacks are asked for */
	struct snaptrail_frame frames[MODEL_STACK_FRAMES];
	struct buf paths; /* of their modules */
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
			.address = f[i].address,
			.module = f[i].path.n ? (const char *)l->paths.data + at : NULL,
			.offset = f[i].address - f[i].bias,
			.symbol = s.name,
			.symbol_offset = s.offset,
			.file = s.file,
			.line = s.line,
			.why = s.why,
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
		.time_ns = l->time_ns,
		.seq = l->seq,
		.session = l->session,
		.table = (enum snaptrail_table)e->table,
		.key = e->key,
		.key_len = e->key_len,
		.field = field,
		.deleted = after == NULL,
		.before = public_value(before),
		.after = public_value(after),
		.source = l->source,
		.kind = l->kind,
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
	l->stop = l->each ? l->each(l->arg, &ev) : 0;
}

int64_t snaptrail_log(struct snaptrail *st, const struct snaptrail_log_query *q,
		      int (*each)(void *arg, const struct snaptrail_event *e), void *arg)
{
	struct session_meta s;
	struct logging l = { .q = q, .each = each, .arg = arg, .kind = "", .source = "" };
	struct replay_query rq = {
		.from_ns = q->since_ns, .observe = on_change, .tick = on_tick, .arg = &l, .tick_ns = tick_of(st)
	};
	struct replay_result result;
	int e;
	HOLD(st);

	worker_wait(st);
	e = path_check(q->path);
	if (e == 0)
		e = session_meant(st, q->session, &s);
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

/* ---- when something became true ---- */

const struct value *field_at(const struct value *v, const char *path)
{
	while (v && path && *path) {
		size_t n = strcspn(path, ".");
		const struct value *whole = value_get(v, path); /* a name may have a dot inside */

		if (whole)
			return whole;
		v = value_get_n(v, path, n);
		path += n + (path[n] == '.');
	}
	return v;
}

static bool number_of(const struct value *v, double *ret)
{
	switch (v->type) {
	case VALUE_INT: *ret = (double)v->integer; return true;
	case VALUE_UINT: *ret = (double)v->natural; return true;
	case VALUE_DOUBLE: *ret = v->real; return true;
	default: return false;
	}
}

/* Integers are compared as such, so that large ones are not confused. */
static bool compare_values(const struct value *a, const struct value *b, int *ret)
{
	double x, y;

	if (a->type == VALUE_INT && b->type == VALUE_INT) {
		*ret = a->integer < b->integer ? -1 : a->integer > b->integer;
		return true;
	}
	if (number_of(a, &x) && number_of(b, &y)) {
		*ret = x < y ? -1 : x > y;
		return x == x && y == y;
	}
	if (a->type == VALUE_STRING && b->type == VALUE_STRING) {
		size_t n = a->n < b->n ? a->n : b->n;
		int c = n ? memcmp(a->bytes, b->bytes, n) : 0;

		*ret = c ? c : a->n < b->n ? -1 : a->n > b->n;
		return true;
	}
	return false;
}

enum op { OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_GLOB, OP_EXISTS, OP_ABSENT, OP_COUNT };
static const char *const ops[OP_COUNT] = { "==", "!=", "<", "<=", ">", ">=", "~", "exists", "absent" };

static bool holds_for(enum op op, const struct value *v, const struct value *wanted)
{
	int c;

	if (op == OP_EXISTS)
		return v != NULL;
	if (v == NULL)
		return false;
	if (op == OP_GLOB)
		return v->type == VALUE_STRING && wanted->type == VALUE_STRING && glob(wanted->bytes, wanted->n, v->bytes, v->n);
	if (!compare_values(v, wanted, &c))
		return op == OP_EQ ? value_equal(v, wanted) : op == OP_NE && !value_equal(v, wanted);
	switch (op) {
	case OP_EQ: return c == 0;
	case OP_NE: return c != 0;
	case OP_LT: return c < 0;
	case OP_LE: return c <= 0;
	case OP_GT: return c > 0;
	default: return c >= 0;
	}
}

struct when {
	const struct snaptrail_condition *c;
	enum op op;
	const struct value *value;
	const char *field;
	enum table table; /* 0: all */
	const char *key;
	size_t key_len;
	bool exact;
	struct replay_result *result;
	const char *session;
	bool begun, dirty, was, found;
	uint64_t now_ns, found_ns;
};

static bool any_holds(const struct when *w, enum table t)
{
	enum op op = w->op == OP_ABSENT ? OP_EXISTS : w->op;
	const struct entity *e;

	if (w->exact) {
		e = model_find(w->result->model, t, w->key, w->key_len);
		return e && holds_for(op, field_at(entity_value(e), w->field), w->value);
	}
	for (e = model_first(w->result->model, t); e; e = e->next)
		if (glob(w->key, w->key_len, e->key, e->key_len) && holds_for(op, field_at(entity_value(e), w->field), w->value))
			return true;
	return false;
}

static bool holds_now(const struct when *w)
{
	bool any = false;

	if (w->c->holds) {
		struct snaptrail_state s = { .model = w->result->model, .time_ns = w->now_ns };

		snprintf(s.session, sizeof s.session, "%s", w->session);
		return w->c->holds(w->c->arg, &s);
	}
	for (int t = 1; t < TABLE_COUNT && !any; t++)
		any = (w->table == 0 || w->table == (enum table)t) && any_holds(w, (enum table)t);
	return w->op == OP_ABSENT ? !any : any;
}

/* All that holds from one instant on is asked about together. */
static void instant_ends(struct when *w)
{
	bool is;

	if (!w->dirty)
		return;
	w->dirty = false;
	is = holds_now(w);
	if (is && !w->was && w->now_ns >= w->c->since_ns && (w->c->last || !w->found)) {
		w->found = true;
		w->found_ns = w->now_ns;
	}
	w->was = is;
}

static void when_tick(void *arg, uint64_t time_ns, uint64_t seq, const struct change *c)
{
	struct when *w = arg;

	(void)seq, (void)c;
	if (time_ns != w->now_ns)
		instant_ends(w);
	if (!w->begun) {
		bool any = false;

		w->begun = true;
		for (int t = 1; t < TABLE_COUNT; t++)
			any = any || model_count(w->result->model, (enum table)t);
		w->was = any && holds_now(w);
		w->dirty = !any;
	}
	w->now_ns = time_ns;
}

static void when_change(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	struct when *w = arg;

	(void)field, (void)before, (void)after;
	if (w->c->holds || ((w->table == 0 || w->table == (enum table)e->table) && glob(w->key, w->key_len, e->key, e->key_len)))
		w->dirty = true;
}

static int when_parse(struct when *w)
{
	const char *path = w->c->path, *colon, *hash;

	if (w->c->holds)
		return 0;
	if (path == NULL || w->c->op == NULL)
		return fail(-EINVAL, "a condition is a predicate, or PATH OP VALUE");
	while (w->op < OP_COUNT && strcmp(ops[w->op], w->c->op))
		w->op++;
	if (w->op == OP_COUNT)
		return fail(-EINVAL, "\"%.60s\": a comparison is == != < <= > >= ~ exists absent", w->c->op);
	if (w->c->value == NULL && w->op != OP_EXISTS && w->op != OP_ABSENT)
		return fail(-EINVAL, "\"%s\" needs a value", w->c->op);
	if (w->c->value && (w->op == OP_EXISTS || w->op == OP_ABSENT))
		return fail(-EINVAL, "%s takes no value", w->c->op);
	if (path_check(path) < 0)
		return -EINVAL;
	w->value = w->c->value ? private_value(w->c->value) : NULL;
	colon = strchr(path, ':');
	w->table = colon ? table_by_name(path, (size_t)(colon - path)) : (enum table)0;
	w->key = w->table ? colon + 1 : path;
	hash = strchr(w->key, '#');
	w->key_len = hash ? (size_t)(hash - w->key) : strlen(w->key);
	w->field = hash ? hash + 1 : NULL;
	w->exact = memchr(w->key, '*', w->key_len) == NULL && memchr(w->key, '?', w->key_len) == NULL;
	return 0;
}

/* What is known of a session before its first snapshot is nothing, when that is
 * not how it began. */
static uint64_t covered_from(struct snaptrail *st, const struct session_meta *s)
{
	struct snapshot_meta m;

	if (store_snapshot_at(st->store, s->id, 0, &m) < 0)
		return s->started_ns;
	if (m.handed_in)
		return m.time_ns;
	return m.base_id[0] ? m.time_ns : s->started_ns;
}

/* A stretch of the session that nobody knows, in which the answer may lie. */
static bool hole_in(struct snaptrail *st, const struct session_meta *s, uint64_t from_ns, uint64_t to_ns)
{
	struct gap_meta g;

	for (size_t i = 0; store_gap_at(st->store, i, &g) == 0; i++)
		if (strcmp(g.session_id, s->id) == 0 && g.from_ns < to_ns && g.to_ns > from_ns)
			return true;
	return false;
}

static int when_answer(struct snaptrail *st, const struct session_meta *s, const struct when *w, uint64_t *ret)
{
	uint64_t from = w->c->since_ns > s->started_ns ? w->c->since_ns : s->started_ns, covered = covered_from(st, s);
	uint64_t to = w->c->until_ns ? w->c->until_ns : UINT64_MAX;
	bool first = !w->c->last;

	if (w->c->until_ns && w->c->until_ns <= covered)
		return fail(-ENODATA, "the recording of session %s begins later", s->name);
	if (s->ended_ns && w->c->since_ns > s->last_time_ns)
		return fail(-ENODATA, "the recording of session %s ends before", s->name);
	if (from < covered && (first || !w->found))
		return fail(-ENODATA, "session %s is not known before its first snapshot that was kept", s->name);
	if (hole_in(st, s, w->found && !first ? w->found_ns : from, w->found && first ? w->found_ns : to))
		return fail(-ENODATA, "reports are missing in session %s where the answer may lie", s->name);
	if (!w->found)
		return fail(-ENOENT, "not in session %s%s", s->name, w->was ? ": it is true throughout" : "");
	*ret = w->found_ns;
	return 0;
}

int snaptrail_when(struct snaptrail *st, const char *session, const struct snaptrail_condition *c, uint64_t *ret_time_ns)
{
	struct when w = { .c = c };
	struct session_meta s;
	struct replay_result result = { 0 };
	struct replay_query q = { .until_ns = c->until_ns ? c->until_ns - 1 : UINT64_MAX,
				  .from_ns = c->since_ns,
				  .observe = when_change,
				  .tick = when_tick,
				  .arg = &w };
	int r;
	HOLD(st);

	r = when_parse(&w);
	worker_wait(st);
	if (r == 0)
		r = session_meant(st, session, &s);
	if (r != 0)
		return r;
	q.session_id = s.id;
	q.store_folder = s.ended_ns ? NULL : store_path(st->store);
	w.session = s.name;
	w.result = &result;
	r = replay(st->store, &q, &result);
	if (r < 0)
		return r;
	instant_ends(&w);
	if (!w.begun) /* nothing happens in that range */
		w.was = holds_now(&w);
	model_free(result.model);
	return when_answer(st, &s, &w, ret_time_ns);
}
