/* One snapshot of an export in JSON, ours or the original's: its object read
 * member by member, in whatever order they stand, and what is amiss noted.  See
 * transfer.h. */
#include "api/transfer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#include "base/err.h"

/* The first complaint is the one that is told. */
__attribute__((format(printf, 2, 3))) static void wrong(struct incoming *in, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (in->wrong[0] == 0)
		vsnprintf(in->wrong, sizeof in->wrong, fmt, ap);
	va_end(ap);
}

/* ---- members ---- */

static int take_string(struct json_reader *r, struct incoming *in, struct value *ret, const char *name)
{
	struct value v;
	int e = json_take(r, &v);

	if (e < 0)
		return e;
	if (v.type != VALUE_STRING && v.type != VALUE_NULL)
		wrong(in, "its %s is no string", name);
	else if (v.type == VALUE_STRING && memchr(v.bytes, 0, v.n))
		wrong(in, "its %s has a byte 0", name);
	value_done(ret);
	*ret = (struct value){ 0 };
	if (v.type == VALUE_STRING)
		*ret = v;
	else
		value_done(&v);
	return 0;
}

static int take_id(struct json_reader *r, struct incoming *in) { return take_string(r, in, &in->id, "id"); }
static int take_session(struct json_reader *r, struct incoming *in) { return take_string(r, in, &in->session, "sessionId"); }
static int take_description(struct json_reader *r, struct incoming *in) { return take_string(r, in, &in->description, "description"); }
static int take_checksum(struct json_reader *r, struct incoming *in) { return take_string(r, in, &in->checksum, "checksum"); }

static int take_type(struct json_reader *r, struct incoming *in)
{
	struct value v = { 0 };
	int e = take_string(r, in, &v, "type");

	in->has_type = e == 0 && v.type == VALUE_STRING;
	if (in->has_type && strcmp(v.bytes, "incremental") == 0)
		in->type = SNAPSHOT_INCREMENTAL;
	else if (in->has_type && strcmp(v.bytes, "full") && strcmp(v.bytes, "tagged"))
		wrong(in, "its type is neither full, incremental nor tagged");
	value_done(&v);
	return e;
}

static int take_tags(struct json_reader *r, struct incoming *in)
{
	struct value v;
	int e = json_take(r, &v);
	bool good = e == 0 && (v.type == VALUE_LIST || v.type == VALUE_NULL);

	for (uint32_t i = 0; good && v.type == VALUE_LIST && i < v.n; i++)
		good = v.items[i].type == VALUE_STRING && v.items[i].n > 0 && v.items[i].n < 256 && !memchr(v.items[i].bytes, 0, v.items[i].n);
	if (e == 0 && !good)
		wrong(in, "its tags are no list of 1 to 255 bytes each");
	value_done(&in->tags);
	in->tags = (struct value){ 0 };
	if (e == 0)
		in->tags = v;
	return e;
}

static void collect(void *arg, const void *p, size_t n)
{
	struct buf *b = arg;

	if (b->len + n < 64) /* a number that says an instant is shorter */
		buf_put(b, p, n);
}

/* Milliseconds as they stand in the text, to the nanosecond; a double has not as
 * many digits. */
static bool ms_of(const char *text, const struct value *v, uint64_t *ret_ns)
{
	double d = v->type == VALUE_DOUBLE ? v->real : v->type == VALUE_INT ? (double)v->integer : -1;
	const char *point = strchr(text, '.');
	uint64_t ns, scale = 100000;

	if (!(d >= 0 && d < 9e12))
		return false;
	if (strpbrk(text, "eE") || (v->type == VALUE_DOUBLE && point == NULL)) {
		*ret_ns = (uint64_t)(d * 1e6);
		return true;
	}
	ns = strtoull(text, NULL, 10) * 1000000;
	for (point = point ? point + 1 : ""; *point && scale; point++, scale /= 10)
		ns += (uint64_t)(*point - '0') * scale;
	*ret_ns = ns;
	return true;
}

static int take_ms(struct json_reader *r, struct incoming *in, const char *name, uint64_t *ret_ns, bool *ret_has)
{
	_cleanup_buf_ struct buf text = BUF_INIT;
	struct value v;
	int e;

	json_tap(r, collect, &text);
	e = json_take(r, &v);
	json_tap(r, NULL, NULL);
	if (e < 0)
		return e;
	if (v.type != VALUE_NULL) {
		*ret_has = ms_of(buf_cstr(&text), &v, ret_ns);
		if (!*ret_has)
			wrong(in, "its %s is no time in milliseconds", name);
	}
	value_done(&v);
	return 0;
}

static int take_time(struct json_reader *r, struct incoming *in) { return take_ms(r, in, "timestamp", &in->time_ns, &in->has_time); }

static int take_creation(struct json_reader *r, struct incoming *in)
{
	bool has;

	return take_ms(r, in, "creationDuration", &in->creation_ns, &has);
}

static int take_expiry(struct json_reader *r, struct incoming *in)
{
	bool has;

	return take_ms(r, in, "expiresAt", &in->expires_ns, &has);
}

static int take_lost(struct json_reader *r, struct incoming *in)
{
	struct value v;
	int e = json_take(r, &v);

	if (e == 0 && v.type == VALUE_INT && v.integer >= 0)
		in->lost = (uint64_t)v.integer;
	else if (e == 0 && v.type != VALUE_NULL)
		wrong(in, "its lost is no count");
	if (e == 0)
		value_done(&v);
	return e;
}

static void sum_up(void *arg, const void *p, size_t n) { digest_add(arg, p, n); }

static int take_state(struct json_reader *r, struct incoming *in)
{
	struct digest d;
	struct value v;
	int e;

	model_free(in->state);
	in->state = NULL;
	in->state_sum[0] = 0;
	if (json_look(r) != '{') {
		e = json_take(r, &v);
		if (e == 0 && v.type != VALUE_NULL)
			wrong(in, "its state is no object");
		if (e == 0)
			value_done(&v);
		return e;
	}
	digest_init(&d);
	json_tap(r, sum_up, &d);
	e = state_read(r, &in->state);
	json_tap(r, NULL, NULL);
	digest_done(&d, in->state_sum);
	return e;
}

static int take_changes(struct json_reader *r, struct incoming *in)
{
	struct digest d;
	int e;

	value_done(&in->changes);
	digest_init(&d);
	json_tap(r, sum_up, &d);
	e = json_take(r, &in->changes);
	json_tap(r, NULL, NULL);
	digest_done(&d, in->changes_sum);
	if (e == 0 && in->changes.type != VALUE_OBJECT && in->changes.type != VALUE_NULL)
		wrong(in, "its incrementalData is no object");
	return e;
}

static const struct {
	const char *name;
	int (*take)(struct json_reader *r, struct incoming *in);
} members[] = {
	{ "id", take_id }, { "sessionId", take_session }, { "timestamp", take_time }, { "state", take_state },
	{ "incrementalData", take_changes }, { "type", take_type }, { "tags", take_tags }, { "description", take_description },
	{ "checksum", take_checksum }, { "creationDuration", take_creation }, { "expiresAt", take_expiry }, { "lost", take_lost },
};

static int read_member(struct json_reader *r, struct incoming *in, struct bytes name)
{
	for (size_t i = 0; i < sizeof members / sizeof *members; i++)
		if (strlen(members[i].name) == name.n && memcmp(members[i].name, name.p, name.n) == 0)
			return members[i].take(r, in);
	return json_skip(r); /* sizes and counts are found out anew */
}

static void check(struct incoming *in)
{
	if (in->id.type != VALUE_STRING || in->id.n == 0 || in->id.n > TRANSFER_ID_MAX)
		wrong(in, "its id has not 1 to 63 bytes");
	if (!in->has_time)
		wrong(in, "it has no timestamp");
	if (in->state == NULL && in->changes.type != VALUE_OBJECT)
		wrong(in, "it has no state");
}

int incoming_read(struct json_reader *r, struct incoming *in)
{
	struct bytes name;
	int e;

	*in = (struct incoming){ .type = SNAPSHOT_FULL };
	if (json_look(r) != '{') {
		wrong(in, "it is no object");
		return json_skip(r);
	}
	e = json_enter(r, '{');
	while (e >= 0 && (e = json_member(r, &name)) > 0)
		e = read_member(r, in, name);
	check(in);
	return e;
}

void incoming_done(struct incoming *in)
{
	value_done(&in->id);
	value_done(&in->session);
	value_done(&in->description);
	value_done(&in->checksum);
	value_done(&in->tags);
	value_done(&in->changes);
	model_free(in->state);
	buf_done(&in->packed);
	in->state = NULL;
}

/* ---- checking ---- */

/* The text as it stood, or when that was laid out otherwise as JSON.stringify()
 * would have it: the sum is over that. */
bool incoming_sound(struct incoming *in)
{
	_cleanup_buf_ struct buf text = BUF_INIT;
	char sum[DIGEST_TEXT];

	if (in->checksum.type != VALUE_STRING)
		return false;
	if (strcmp(in->checksum.bytes, in->state ? in->state_sum : in->changes_sum) == 0)
		return true;
	if (in->state)
		state_json(in->state, in->time_ns, JSON_JS, &text, NULL);
	else
		json_write(&in->changes, JSON_JS, &text, NULL);
	digest_of(text.data, text.len, sum);
	return strcmp(in->checksum.bytes, sum) == 0;
}

/* ---- the original's incrementals ---- */

/* Of agents and tasks it kept the fields that changed, of others the whole. */
static void update(struct model *m, enum table t, const struct pair *p)
{
	const struct entity *e = model_find(m, t, p->name, p->name_len);
	bool fields = (t == TABLE_AGENTS || t == TABLE_TASKS) && p->value.type == VALUE_OBJECT && e && entity_value(e)->type == VALUE_OBJECT;

	if (!fields) {
		model_put(m, t, p->name, p->name_len, value_copy(&p->value));
		return;
	}
	for (uint32_t i = 0; i < p->value.n; i++)
		model_put_field(m, t, p->name, p->name_len, p->value.pairs[i].name, p->value.pairs[i].name_len,
				value_copy(&p->value.pairs[i].value));
}

static bool apply_table(struct model *m, enum table t, const struct value *changes)
{
	const struct value *removed = value_get(changes, "removed"), *added = value_get(changes, "added"), *updated = value_get(changes, "updated");

	if (changes->type != VALUE_OBJECT || (added && added->type != VALUE_OBJECT) || (updated && updated->type != VALUE_OBJECT) ||
	    (removed && removed->type != VALUE_LIST))
		return false;
	for (uint32_t i = 0; added && i < added->n; i++)
		model_put(m, t, added->pairs[i].name, added->pairs[i].name_len, value_copy(&added->pairs[i].value));
	for (uint32_t i = 0; updated && i < updated->n; i++)
		update(m, t, &updated->pairs[i]);
	for (uint32_t i = 0; removed && i < removed->n; i++) {
		if (removed->items[i].type != VALUE_STRING)
			return false;
		model_drop(m, t, removed->items[i].bytes, removed->items[i].n);
	}
	return true;
}

bool incoming_apply(const struct value *data, struct model *m)
{
	const struct value *changes = value_get(data, "changes");

	if (changes == NULL || changes->type != VALUE_OBJECT)
		return false;
	for (uint32_t i = 0; i < changes->n; i++) {
		enum table t = table_by_name(changes->pairs[i].name, changes->pairs[i].name_len);

		if (t && !apply_table(m, t, &changes->pairs[i].value))
			return false;
	}
	return true;
}
