/* Values for users of the library: looking at them and making them. */
#include "api/internal.h"

#include <errno.h>

#include "base/err.h"
#include "model/json.h"

static struct value *writable(struct snaptrail_value *v) { return (struct value *)(void *)v; }

static struct snaptrail_value *made(struct value v) { return (struct snaptrail_value *)xmemdup(&v, sizeof v); }

enum snaptrail_type snaptrail_value_type(const struct snaptrail_value *v) { return (enum snaptrail_type)private_value(v)->type; }

/* What is 1.0 in JSON is an integer: who asks for a number shall not have to know. */

bool snaptrail_value_bool(const struct snaptrail_value *v)
{
	const struct value *p = private_value(v);

	return p->type == VALUE_BOOL && p->boolean;
}

int64_t snaptrail_value_int(const struct snaptrail_value *v)
{
	const struct value *p = private_value(v);

	return p->type == VALUE_INT ? p->integer : 0;
}

uint64_t snaptrail_value_uint(const struct snaptrail_value *v)
{
	const struct value *p = private_value(v);

	return p->type == VALUE_UINT ? p->natural : p->type == VALUE_INT && p->integer > 0 ? (uint64_t)p->integer : 0;
}

double snaptrail_value_double(const struct snaptrail_value *v)
{
	const struct value *p = private_value(v);

	switch (p->type) {
	case VALUE_INT: return (double)p->integer;
	case VALUE_UINT: return (double)p->natural;
	case VALUE_DOUBLE: return p->real;
	default: return 0;
	}
}

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

/* ---- making ---- */

struct snaptrail_value *snaptrail_value_null(void) { return made((struct value){ .type = VALUE_NULL }); }
struct snaptrail_value *snaptrail_value_of_bool(bool b) { return made(value_bool(b)); }
struct snaptrail_value *snaptrail_value_of_int(int64_t i) { return made(value_int(i)); }
struct snaptrail_value *snaptrail_value_of_double(double d) { return made(value_real(d)); }
struct snaptrail_value *snaptrail_value_of_string(const char *text) { return made(value_str(text)); }
struct snaptrail_value *snaptrail_value_list(void) { return made(value_list()); }
struct snaptrail_value *snaptrail_value_object(void) { return made(value_object()); }
struct snaptrail_value *snaptrail_value_copy(const struct snaptrail_value *v) { return made(value_copy(private_value(v))); }

/* One form for each number: what fits int64 is one. */
struct snaptrail_value *snaptrail_value_of_uint(uint64_t u)
{
	return made(u <= INT64_MAX ? value_int((int64_t)u) : (struct value){ .type = VALUE_UINT, .natural = u });
}

struct snaptrail_value *snaptrail_value_of_bytes(enum snaptrail_type type, const void *p, size_t n)
{
	struct value v = value_text(p, n);

	v.type = type == SNAPTRAIL_BYTES ? VALUE_BYTES : VALUE_STRING;
	return made(v);
}

void snaptrail_value_free(struct snaptrail_value *v)
{
	if (v)
		value_done(writable(v));
	free(v);
}

int snaptrail_value_push(struct snaptrail_value *v, struct snaptrail_value *item)
{
	if (private_value(v)->type != VALUE_LIST) {
		snaptrail_value_free(item);
		return fail(-EINVAL, "only a list takes items");
	}
	value_push(writable(v), *private_value(item));
	free(item);
	return 0;
}

int snaptrail_value_put(struct snaptrail_value *v, const char *name, struct snaptrail_value *item)
{
	if (private_value(v)->type != VALUE_OBJECT) {
		snaptrail_value_free(item);
		return fail(-EINVAL, "only an object takes fields");
	}
	value_set(writable(v), name, strlen(name), false, *private_value(item));
	free(item);
	return 0;
}

/* ---- JSON ---- */

int snaptrail_value_from_json(const char *text, size_t n, struct snaptrail_value **ret)
{
	struct value v;
	int r = json_read(text, n, &v);

	if (r == 0)
		*ret = made(v);
	return r;
}

int snaptrail_value_to_json(const struct snaptrail_value *v, char **ret, size_t *ret_len)
{
	struct buf out = BUF_INIT;

	json_write(private_value(v), 0, &out, NULL);
	*ret_len = out.len;
	*ret = buf_cstr(&out);
	return 0;
}
