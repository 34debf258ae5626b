/* Values: making, copying, comparing, and their protobuf form.  No I/O, no
 * state; called by the model, the API and importers on any one thread. */
#include "model/value.h"

#include "report/change.h"

void value_done(struct value *v)
{
	switch (v->type) {
	case VALUE_STRING:
	case VALUE_BYTES:
		free(v->bytes);
		break;
	case VALUE_LIST:
		for (uint32_t i = 0; i < v->n; i++)
			value_done(&v->items[i]);
		free(v->items);
		break;
	case VALUE_OBJECT:
		for (uint32_t i = 0; i < v->n; i++) {
			if (!v->pairs[i].literal)
				free((char *)v->pairs[i].name);
			value_done(&v->pairs[i].value);
		}
		free(v->pairs);
		break;
	default:
		break;
	}
	*v = (struct value){ 0 };
}

struct value value_text(const void *p, size_t n)
{
	struct value v = { .type = VALUE_STRING, .n = (uint32_t)n, .bytes = xmalloc(n + 1) };

	if (n)
		memcpy(v.bytes, p, n);
	v.bytes[n] = 0;
	return v;
}

struct value value_str(const char *s) { return value_text(s, strlen(s)); }

static void copy_pairs(const struct value *v, struct value *ret)
{
	uint32_t room = 4;

	while (room < v->n)
		room *= 2;
	*ret = value_object();
	ret->pairs = v->n ? xmalloc(room * sizeof *ret->pairs) : NULL;
	for (; ret->n < v->n; ret->n++) {
		const struct pair *p = &v->pairs[ret->n];
		const char *name = p->literal ? p->name : xmemdup(p->name, p->name_len + 1u);

		ret->pairs[ret->n] = (struct pair){ name, p->name_len, p->literal, value_copy(&p->value) };
	}
}

struct value value_copy(const struct value *v)
{
	struct value c = *v;

	switch (v->type) {
	case VALUE_STRING:
	case VALUE_BYTES:
		c = value_text(v->bytes, v->n);
		c.type = v->type;
		break;
	case VALUE_LIST:
		c = value_list();
		for (uint32_t i = 0; i < v->n; i++)
			value_push(&c, value_copy(&v->items[i]));
		break;
	case VALUE_OBJECT:
		copy_pairs(v, &c);
		break;
	default:
		break;
	}
	return c;
}

bool value_equal(const struct value *a, const struct value *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case VALUE_BOOL: return a->boolean == b->boolean;
	case VALUE_INT: return a->integer == b->integer;
	case VALUE_UINT: return a->natural == b->natural;
	case VALUE_DOUBLE: /* bit by bit: 0 is not -0, and what is no number is equal to itself */
		return memcmp(&a->real, &b->real, sizeof a->real) == 0; /* NOLINT(bugprone-suspicious-memory-comparison,cert-exp42-c,cert-flp37-c) */
	case VALUE_STRING:
	case VALUE_BYTES: return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
	case VALUE_LIST:
		for (uint32_t i = 0; a->n == b->n && i < a->n; i++)
			if (!value_equal(&a->items[i], &b->items[i]))
				return false;
		return a->n == b->n;
	case VALUE_OBJECT:
		for (uint32_t i = 0; a->n == b->n && i < a->n; i++) {
			const struct value *other = value_get_n(b, a->pairs[i].name, a->pairs[i].name_len);

			if (other == NULL || !value_equal(&a->pairs[i].value, other))
				return false;
		}
		return a->n == b->n;
	default: return true;
	}
}

bool value_same(const struct value *a, const struct value *b)
{
	if (a->type != b->type || a->n != b->n)
		return false;
	for (uint32_t i = 0; a->type == VALUE_LIST && i < a->n; i++)
		if (!value_same(&a->items[i], &b->items[i]))
			return false;
	for (uint32_t i = 0; a->type == VALUE_OBJECT && i < a->n; i++) {
		const struct pair *p = &a->pairs[i], *q = &b->pairs[i];

		if (p->name_len != q->name_len || memcmp(p->name, q->name, p->name_len) || !value_same(&p->value, &q->value))
			return false;
	}
	return a->type == VALUE_LIST || a->type == VALUE_OBJECT || value_equal(a, b);
}

struct value *value_get_n(const struct value *o, const char *name, size_t n)
{
	if (o->type != VALUE_OBJECT)
		return NULL;
	for (uint32_t i = 0; i < o->n; i++)
		if (o->pairs[i].name == name ||
		    (o->pairs[i].name_len == n && memcmp(o->pairs[i].name, name, n) == 0))
			return &o->pairs[i].value;
	return NULL;
}

const struct value *value_get(const struct value *o, const char *name)
{
	return value_get_n(o, name, strlen(name));
}

/* Room grows at powers of two: 4, 8, 16 ... */
static bool at_capacity(uint32_t n) { return n == 0 || (n >= 4 && (n & (n - 1)) == 0); }

void value_set(struct value *o, const char *name, size_t n, bool literal, struct value v)
{
	struct value *old = value_get_n(o, name, n);

	if (o->type != VALUE_OBJECT) { /* was handed in as something else */
		value_done(o);
		*o = value_object();
	}
	if (old) {
		value_done(old);
		*old = v;
		return;
	}
	if (at_capacity(o->n))
		o->pairs = xrealloc(o->pairs, (o->n ? o->n * 2 : 4) * sizeof *o->pairs);
	if (!literal) {
		char *copy = xmalloc(n + 1);

		memcpy(copy, name, n);
		copy[n] = 0;
		name = copy;
	}
	o->pairs[o->n++] = (struct pair){ name, (uint32_t)n, literal, v };
}

struct pair *value_append(struct value *o, const char *name, size_t n)
{
	char *copy = xmalloc(n + 1);

	if (at_capacity(o->n))
		o->pairs = xrealloc(o->pairs, (o->n ? o->n * 2ull : 4) * sizeof *o->pairs);
	if (n)
		memcpy(copy, name, n);
	copy[n] = 0;
	o->pairs[o->n] = (struct pair){ .name = copy, .name_len = (uint32_t)n };
	return &o->pairs[o->n++];
}

static uint32_t hash_of(const struct pair *p)
{
	uint32_t h = 2166136261u;

	for (uint32_t i = 0; i < p->name_len; i++)
		h = (h ^ (uint8_t)p->name[i]) * 16777619u;
	return h ^ h >> 15;
}

static bool same_name(const struct pair *a, const struct pair *b)
{
	return a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0;
}

/* The first pair of that name takes the value, as value_set() would. */
static void merge(struct pair *first, struct pair *again)
{
	value_done(&first->value);
	first->value = again->value;
	if (!again->literal)
		free((char *)again->name);
}

static void unite_few(struct value *o)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < o->n; i++) {
		uint32_t k = 0;

		while (k < kept && !same_name(&o->pairs[k], &o->pairs[i]))
			k++;
		if (k < kept)
			merge(&o->pairs[k], &o->pairs[i]);
		else
			o->pairs[kept++] = o->pairs[i];
	}
	o->n = kept;
}

void value_unite(struct value *o)
{
	_cleanup_free_ uint32_t *slots = NULL;
	uint32_t kept = 0, mask = 16;

	if (o->n <= 12) {
		unite_few(o);
		return;
	}
	while (mask < o->n * 2ull)
		mask *= 2;
	slots = xcalloc(mask--, sizeof *slots);
	for (uint32_t i = 0; i < o->n; i++) {
		uint32_t at = hash_of(&o->pairs[i]) & mask;

		while (slots[at] && !same_name(&o->pairs[slots[at] - 1], &o->pairs[i]))
			at = (at + 1) & mask;
		if (slots[at]) {
			merge(&o->pairs[slots[at] - 1], &o->pairs[i]);
			continue;
		}
		o->pairs[kept] = o->pairs[i];
		slots[at] = ++kept;
	}
	o->n = kept;
}

void value_unset(struct value *o, const char *name) { value_unset_n(o, name, strlen(name)); }

void value_unset_n(struct value *o, const char *name, size_t n)
{
	for (uint32_t i = 0; o->type == VALUE_OBJECT && i < o->n; i++) {
		if (o->pairs[i].name_len != n || memcmp(o->pairs[i].name, name, n))
			continue;
		if (!o->pairs[i].literal)
			free((char *)o->pairs[i].name);
		value_done(&o->pairs[i].value);
		memmove(&o->pairs[i], &o->pairs[i + 1], (o->n - i - 1) * sizeof *o->pairs);
		o->n--;
		return;
	}
}

void value_push(struct value *l, struct value v)
{
	if (l->type != VALUE_LIST) {
		value_done(l);
		*l = value_list();
	}
	if (at_capacity(l->n))
		l->items = xrealloc(l->items, (l->n ? l->n * 2 : 4) * sizeof *l->items);
	l->items[l->n++] = v;
}

void value_shift(struct value *l, uint32_t count)
{
	struct value kept = value_list();

	for (uint32_t i = 0; i < count && i < l->n; i++)
		value_done(&l->items[i]);
	for (uint32_t i = count; i < l->n; i++)
		value_push(&kept, l->items[i]);
	free(l->items);
	*l = kept;
}

/* ---- protobuf ---- */

static void pack_varint(struct buf *b, uint64_t v)
{
	b->len = (size_t)(varint_put(buf_room(b, 10), v) - b->data);
}

static void pack_tag(struct buf *b, uint32_t field, uint32_t wire) { pack_varint(b, field << 3 | wire); }

void pack_uint(struct buf *b, uint32_t field, uint64_t v)
{
	pack_tag(b, field, 0);
	pack_varint(b, v);
}

void pack_fixed64(struct buf *b, uint32_t field, uint64_t v)
{
	pack_tag(b, field, 1);
	buf_put(b, &v, 8);
}

void pack_real(struct buf *b, uint32_t field, double d)
{
	uint64_t v;

	memcpy(&v, &d, 8);
	pack_fixed64(b, field, v);
}

void pack_bytes(struct buf *b, uint32_t field, const void *p, size_t n)
{
	pack_tag(b, field, 2);
	pack_varint(b, n);
	buf_put(b, p, n);
}

/* The length goes in front once it is known; most messages need one byte. */
size_t pack_begin(struct buf *b, uint32_t field)
{
	pack_tag(b, field, 2);
	buf_byte(b, 0);
	return b->len;
}

void pack_end(struct buf *b, size_t mark)
{
	size_t n = b->len - mark;
	uint32_t extra = varint_size(n) - 1;

	if (extra) {
		buf_room(b, extra);
		memmove(b->data + mark + extra, b->data + mark, n);
		b->len += extra;
	}
	varint_put(b->data + mark - 1, n);
}

/* Room for any length: what may be hundreds of megabytes is not moved. */
size_t pack_begin_large(struct buf *b, uint32_t field)
{
	pack_tag(b, field, 2);
	buf_put(b, "\x80\x80\x80\x80\x00", 5);
	return b->len;
}

void pack_end_large(struct buf *b, size_t mark)
{
	uint64_t n = b->len - mark;

	for (int i = 0; i < 5; i++, n >>= 7)
		b->data[mark - 5 + (size_t)i] = (uint8_t)((n & 0x7f) | (i < 4 ? 0x80 : 0));
}

void value_pack(const struct value *v, struct buf *out)
{
	size_t mark;

	switch (v->type) {
	case VALUE_NULL: pack_uint(out, 1, 1); break;
	case VALUE_BOOL: pack_uint(out, 2, v->boolean); break;
	case VALUE_INT: pack_uint(out, 3, zigzag(v->integer)); break;
	case VALUE_UINT: pack_uint(out, 4, v->natural); break;
	case VALUE_DOUBLE: pack_real(out, 5, v->real); break;
	case VALUE_STRING: pack_bytes(out, 6, v->bytes, v->n); break;
	case VALUE_BYTES: pack_bytes(out, 7, v->bytes, v->n); break;
	case VALUE_LIST:
		mark = pack_begin(out, 8);
		for (uint32_t i = 0; i < v->n; i++) {
			size_t item = pack_begin(out, 1);

			value_pack(&v->items[i], out);
			pack_end(out, item);
		}
		pack_end(out, mark);
		break;
	case VALUE_OBJECT:
		mark = pack_begin(out, 9);
		object_pack(v, out);
		pack_end(out, mark);
		break;
	default: break;
	}
}

void pair_pack(const struct pair *p, struct buf *out)
{
	size_t mark;

	pack_bytes(out, 1, p->name, p->name_len);
	mark = pack_begin(out, 2);
	value_pack(&p->value, out);
	pack_end(out, mark);
}

void object_pack(const struct value *v, struct buf *out)
{
	for (uint32_t i = 0; i < v->n; i++) {
		size_t mark = pack_begin(out, 1);

		pair_pack(&v->pairs[i], out);
		pack_end(out, mark);
	}
}

bool pair_unpack(struct value *o, const uint8_t *p, size_t n, unsigned depth)
{
	struct bytes name = BYTES("", 0);
	struct value v = { 0 };
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 2) {
			name = w.b;
		} else if (w.field == 2 && w.type == 2) {
			value_done(&v);
			if (!value_unpack(&v, w.b.p, w.b.n, depth + 1))
				return false;
		}
	}
	if (r < 0) {
		value_done(&v);
		return false;
	}
	if (v.type == VALUE_ABSENT) /* as an empty one: it is written so */
		v.type = VALUE_NULL;
	value_append(o, name.p, name.n)->value = v;
	return true;
}

bool object_unpack(struct value *ret, const uint8_t *p, size_t n, unsigned depth)
{
	struct wire w;
	size_t pos = 0;
	int r;

	*ret = value_object();
	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		if (w.field != 1 || w.type != 2)
			continue;
		if (!pair_unpack(ret, w.b.p, w.b.n, depth)) {
			r = -1;
			break;
		}
	}
	value_unite(ret);
	if (r < 0)
		value_done(ret);
	return r == 0;
}

static bool list_unpack(struct value *ret, const uint8_t *p, size_t n, unsigned depth)
{
	struct wire w;
	size_t pos = 0;
	int r;

	*ret = value_list();
	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		struct value item;

		if (w.field != 1 || w.type != 2)
			continue;
		if (!value_unpack(&item, w.b.p, w.b.n, depth + 1)) {
			r = -1;
			break;
		}
		value_push(ret, item);
	}
	if (r < 0)
		value_done(ret);
	return r == 0;
}

bool value_unpack(struct value *ret, const uint8_t *p, size_t n, unsigned depth)
{
	static const uint8_t types[] = { [1] = 0, [2] = 0, [3] = 0, [4] = 0, [5] = 1, [6] = 2, [7] = 2, [8] = 2, [9] = 2 };
	struct wire w;
	size_t pos = 0;
	int r;

	*ret = (struct value){ .type = VALUE_NULL };
	if (depth > VALUE_DEPTH)
		return false;
	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		if (w.field > 9)
			continue;
		value_done(ret);
		if (w.type != types[w.field])
			return false;
		switch (w.field) {
		case 1: ret->type = VALUE_NULL; break;
		case 2: *ret = value_bool(w.u != 0); break;
		case 3: *ret = value_int((int64_t)(w.u >> 1) ^ -(int64_t)(w.u & 1)); break;
		case 4: *ret = (struct value){ .type = VALUE_UINT, .natural = w.u }; break;
		case 5: ret->type = VALUE_DOUBLE; memcpy(&ret->real, &w.u, 8); break;
		case 6: *ret = value_text(w.b.p, w.b.n); break;
		case 7: *ret = value_text(w.b.p, w.b.n); ret->type = VALUE_BYTES; break;
		case 8:
			if (!list_unpack(ret, w.b.p, w.b.n, depth))
				return false;
			break;
		case 9:
			if (!object_unpack(ret, w.b.p, w.b.n, depth))
				return false;
			break;
		default: break;
		}
	}
	if (r < 0)
		value_done(ret);
	return r == 0;
}
