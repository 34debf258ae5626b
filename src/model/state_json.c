/* States to JSON and from it; see state_json.h.  Called by exports, imports, and
 * checksums.  Entries of a large state are read one at a time. */
#include "model/state_json.h"

#include <errno.h>

#include "base/err.h"
#include "model/internal.h"

/* ---- writing ---- */

struct entries {
	const struct entity **e;
	size_t n;
};

static const char *entry_name(const void *arg, size_t i, size_t *ret_len)
{
	const struct entries *t = arg;

	*ret_len = t->e[i]->key_len;
	return t->e[i]->key;
}

/* Looked at in passing: a large state does not stay unfolded. */
static void write_row(const struct entity *e, unsigned flags, struct buf *out, uint64_t *rounded)
{
	struct entity copy = { .table = e->table };

	entry_unpack(&copy, e->row, e->row_len);
	json_write(&copy.value, flags, out, rounded);
	value_done(&copy.value);
}

static void write_entry(const struct entity *e, bool follows, unsigned flags, struct buf *out, uint64_t *rounded)
{
	if (follows)
		buf_byte(out, ',');
	json_write_string(e->key, e->key_len, out);
	buf_byte(out, ':');
	if (e->folded && entity_row(e))
		write_row(e, flags, out, rounded);
	else
		json_write(entity_value(e), flags, out, rounded);
}

/* In the order in which JavaScript lists them; false: they are in it already. */
static bool write_reordered(const struct model *m, enum table t, unsigned flags, struct buf *out, uint64_t *rounded)
{
	struct entries list = { .n = 0 };
	uint32_t *order;
	bool moved;

	list.e = xmalloc(model_count(m, t) * sizeof *list.e);
	order = xmalloc(model_count(m, t) * sizeof *order);
	for (const struct entity *e = model_first(m, t); e; e = e->next)
		list.e[list.n++] = e;
	moved = json_order(list.n, entry_name, &list, order);
	for (size_t i = 0; moved && i < list.n; i++)
		write_entry(list.e[order[i]], i > 0, flags, out, rounded);
	free(list.e);
	free(order);
	return moved;
}

static void write_table(const struct model *m, enum table t, unsigned flags, struct buf *out, uint64_t *rounded)
{
	bool indexes = false;
	uint32_t index;

	for (const struct entity *e = model_first(m, t); e && (flags & JSON_JS) && !indexes; e = e->next)
		indexes = json_index(e->key, e->key_len, &index);
	buf_byte(out, '{');
	if (!indexes || !write_reordered(m, t, flags, out, rounded))
		for (const struct entity *e = model_first(m, t); e; e = e->next)
			write_entry(e, e->prev != NULL, flags, out, rounded);
	buf_byte(out, '}');
}

static const char *layout_name(const void *arg, size_t i, size_t *ret_len)
{
	const struct layout_entry *l = arg;

	*ret_len = l[i].name_len;
	return l[i].name;
}

static void write_layout(const struct model *m, const struct layout_entry *l, size_t n, unsigned flags, struct buf *out,
			 uint64_t *rounded)
{
	_cleanup_free_ uint32_t *order = xmalloc(n * sizeof *order);
	bool moved = (flags & JSON_JS) && json_order(n, layout_name, l, order);

	buf_byte(out, '{');
	for (size_t i = 0; i < n; i++) {
		const struct layout_entry *at = &l[moved ? order[i] : i];

		if (i)
			buf_byte(out, ',');
		json_write_string(at->name, at->name_len, out);
		buf_byte(out, ':');
		if (at->table)
			write_table(m, at->table, flags, out, rounded);
		else
			json_write(&at->value, flags, out, rounded);
	}
	buf_byte(out, '}');
}

static bool is_empty(const struct model *m)
{
	for (int t = 1; t < TABLE_COUNT; t++)
		if (model_first(m, (enum table)t))
			return false;
	return true;
}

void state_json(struct model *m, uint64_t time_ns, unsigned flags, struct buf *out, uint64_t *rounded)
{
	size_t n;
	const struct layout_entry *l = model_layout(m, &n);

	if (n) {
		write_layout(m, l, n, flags, out, rounded);
		return;
	}
	model_unfold(m);
	if (model_is_handed(m) && is_empty(m)) { /* "{}" has no layout either */
		buf_str(out, "{}");
		return;
	}
	buf_str(out, "{\"timestamp\":");
	json_write_double(time_ms(time_ns), out);
	for (int t = 1; t < TABLE_COUNT; t++) {
		buf_printf(out, ",\"%s\":", table_name((enum table)t));
		write_table(m, (enum table)t, flags, out, rounded);
	}
	buf_byte(out, '}');
}

/* ---- reading ---- */

static void empty_table(struct model *m, enum table t)
{
	for (const struct entity *e; (e = model_first(m, t));)
		model_drop(m, t, e->key, e->key_len);
}

static int read_table(struct json_reader *r, struct model *m, enum table t)
{
	_cleanup_buf_ struct buf copy = BUF_INIT; /* reading the value takes the name's place */
	struct bytes key;
	int e = json_enter(r, '{');

	while (e >= 0 && (e = json_member(r, &key)) > 0) {
		struct value v;

		buf_reset(&copy);
		buf_put(&copy, key.p, key.n);
		e = json_take(r, &v);
		if (e == 0)
			model_put(m, t, buf_cstr(&copy), copy.len, v);
	}
	return e;
}

/* A name that came before is what it is last, in its first place. */
static int read_member(struct json_reader *r, struct model *m, const char *name, size_t n)
{
	enum table t = table_by_name(name, n);
	struct value v = { 0 };
	int e = 0;

	if (t)
		empty_table(m, t);
	if (t && json_look(r) == '{') {
		model_layout_add(m, name, n, t, v);
		return read_table(r, m, t);
	}
	e = json_take(r, &v);
	if (e == 0)
		model_layout_add(m, name, n, (enum table)0, v);
	return e;
}

int state_read(struct json_reader *r, struct model **ret)
{
	struct model *m = model_new_handed();
	_cleanup_buf_ struct buf copy = BUF_INIT;
	struct bytes name;
	int e;

	if (json_look(r) != '{') {
		model_free(m);
		return json_fail(r, "a state is an object");
	}
	e = json_enter(r, '{');
	while (e >= 0 && (e = json_member(r, &name)) > 0) {
		buf_reset(&copy);
		buf_put(&copy, name.p, name.n);
		e = read_member(r, m, buf_cstr(&copy), copy.len);
	}
	if (e < 0)
		model_free(m);
	else
		*ret = m;
	return e;
}

int state_from_json(const void *p, size_t n, struct model **ret)
{
	struct json_reader r;
	int e;

	json_reader_init(&r, p, n);
	e = state_read(&r, ret);
	if (e == 0 && (e = json_finish(&r)) < 0)
		model_free(*ret);
	json_reader_done(&r);
	return e;
}

int state_from_value(const struct value *v, struct model **ret)
{
	const struct value none = { 0 };
	struct model *m;

	if (v->type != VALUE_OBJECT)
		return fail(-EINVAL, "a state is an object");
	m = model_new_handed();
	for (uint32_t i = 0; i < v->n; i++) {
		const struct pair *p = &v->pairs[i];
		enum table t = table_by_name(p->name, p->name_len);
		bool is_table = t && p->value.type == VALUE_OBJECT;

		model_layout_add(m, p->name, p->name_len, is_table ? t : (enum table)0,
				 is_table ? none : value_copy(&p->value));
		for (uint32_t k = 0; is_table && k < p->value.n; k++)
			model_put(m, t, p->value.pairs[k].name, p->value.pairs[k].name_len, value_copy(&p->value.pairs[k].value));
	}
	*ret = m;
	return 0;
}
