/* Every class of field that MIP 0 has; see bt_fields.h. */
#include "bt_fields.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "model/value.h"
#include "report/change.h"

#define REDACTED "<redacted>"

static bool is(bt_field_class_type type, bt_field_class_type of) { return bt_field_class_type_is(type, of); }

/* ---- shapes ---- */

static bool secret_name(const char *name, const struct config *c)
{
	for (char **p = c->redact ? c->patterns : NULL; p && *p; p++)
		if (fnmatch(*p, name, FNM_CASEFOLD) == 0)
			return true;
	return false;
}

struct shape *shape_new(const bt_field_class *fc, const struct config *c)
{
	struct shape *s;

	if (fc == NULL)
		return NULL;
	s = xcalloc(1, sizeof *s);
	s->type = bt_field_class_get_type(fc);
	if (is(s->type, BT_FIELD_CLASS_TYPE_STRUCTURE)) {
		s->n = (uint32_t)bt_field_class_structure_get_member_count(fc);
		s->members = xcalloc(s->n + 1, sizeof *s->members);
		for (uint32_t i = 0; i < s->n; i++) {
			const bt_field_class_structure_member *m = bt_field_class_structure_borrow_member_by_index_const(fc, i);
			const char *name = bt_field_class_structure_member_get_name(m);

			s->members[i] = (struct shape_member){
				xstrdup(name), (uint32_t)strlen(name), secret_name(name, c),
				shape_new(bt_field_class_structure_member_borrow_field_class_const(m), c)
			};
		}
	} else if (is(s->type, BT_FIELD_CLASS_TYPE_ARRAY)) {
		s->inner = shape_new(bt_field_class_array_borrow_element_field_class_const(fc), c);
	} else if (is(s->type, BT_FIELD_CLASS_TYPE_OPTION)) {
		s->inner = shape_new(bt_field_class_option_borrow_field_class_const(fc), c);
	} else if (is(s->type, BT_FIELD_CLASS_TYPE_VARIANT)) {
		s->n = (uint32_t)bt_field_class_variant_get_option_count(fc);
		s->members = xcalloc(s->n + 1, sizeof *s->members);
		for (uint32_t i = 0; i < s->n; i++)
			s->members[i].shape = shape_new(bt_field_class_variant_option_borrow_field_class_const(
				bt_field_class_variant_borrow_option_by_index_const(fc, i)), c);
	}
	return s;
}

void shape_free(struct shape *s)
{
	if (s == NULL)
		return;
	for (uint32_t i = 0; s->members && i < s->n; i++) {
		free(s->members[i].name);
		shape_free(s->members[i].shape);
	}
	free(s->members);
	shape_free(s->inner);
	free(s);
}

/* ---- as Values ---- */

static void put_natural(uint64_t v, struct buf *out)
{
	if (v > INT64_MAX)
		pack_uint(out, 4, v);
	else
		pack_uint(out, 3, v << 1);
}

static void put_pair_begin(const char *name, size_t n, struct buf *out, size_t mark[2])
{
	mark[0] = pack_begin(out, 1);
	pack_bytes(out, 1, name, n);
	mark[1] = pack_begin(out, 2);
}

static void put_pair_end(struct buf *out, const size_t mark[2])
{
	pack_end(out, mark[1]);
	pack_end(out, mark[0]);
}

/* {"number": 3, "label": "X"}, or a list of labels: neither says the other. */
static void put_enumeration(const bt_field *f, bool is_signed, struct buf *out)
{
	bt_field_class_enumeration_mapping_label_array labels;
	uint64_t count = 0;
	size_t object = pack_begin(out, 9), mark[2], list = 0;

	put_pair_begin("number", 6, out, mark);
	if (is_signed)
		pack_uint(out, 3, zigzag(bt_field_integer_signed_get_value(f)));
	else
		put_natural(bt_field_integer_unsigned_get_value(f), out);
	put_pair_end(out, mark);
	if ((is_signed ? bt_field_enumeration_signed_get_mapping_labels(f, &labels, &count) :
			 bt_field_enumeration_unsigned_get_mapping_labels(f, &labels, &count)) == 0 && count) {
		put_pair_begin("label", 5, out, mark);
		if (count > 1)
			list = pack_begin(out, 8);
		for (uint64_t i = 0; i < count; i++) {
			size_t item = count > 1 ? pack_begin(out, 1) : 0;

			pack_bytes(out, 6, labels[i], strlen(labels[i]));
			if (count > 1)
				pack_end(out, item);
		}
		if (count > 1)
			pack_end(out, list);
		put_pair_end(out, mark);
	}
	pack_end(out, object);
}

static void put_structure(const struct shape *s, const bt_field *f, struct buf *out)
{
	size_t object = pack_begin(out, 9), mark[2];

	for (uint32_t i = 0; i < s->n; i++) {
		const struct shape_member *m = &s->members[i];

		put_pair_begin(m->name, m->name_len, out, mark);
		if (m->secret)
			pack_bytes(out, 6, REDACTED, sizeof REDACTED - 1);
		else
			shape_put(m->shape, bt_field_structure_borrow_member_field_by_index_const(f, i), out);
		put_pair_end(out, mark);
	}
	pack_end(out, object);
}

static void put_array(const struct shape *s, const bt_field *f, struct buf *out)
{
	uint64_t n = bt_field_array_get_length(f);
	size_t list = pack_begin(out, 8);

	for (uint64_t i = 0; i < n; i++) {
		size_t item = pack_begin(out, 1);

		shape_put(s->inner, bt_field_array_borrow_element_field_by_index_const(f, i), out);
		pack_end(out, item);
	}
	pack_end(out, list);
}

void shape_put(const struct shape *s, const bt_field *f, struct buf *out)
{
	bt_field_class_type t = s->type;

	if (t == BT_FIELD_CLASS_TYPE_SIGNED_INTEGER) {
		pack_uint(out, 3, zigzag(bt_field_integer_signed_get_value(f)));
	} else if (t == BT_FIELD_CLASS_TYPE_UNSIGNED_INTEGER) {
		put_natural(bt_field_integer_unsigned_get_value(f), out);
	} else if (t == BT_FIELD_CLASS_TYPE_STRING) {
		pack_bytes(out, 6, bt_field_string_get_value(f), bt_field_string_get_length(f));
	} else if (t == BT_FIELD_CLASS_TYPE_STRUCTURE) {
		put_structure(s, f, out);
	} else if (t == BT_FIELD_CLASS_TYPE_DOUBLE_PRECISION_REAL) {
		pack_real(out, 5, bt_field_real_double_precision_get_value(f));
	} else if (t == BT_FIELD_CLASS_TYPE_SINGLE_PRECISION_REAL) {
		pack_real(out, 5, (double)bt_field_real_single_precision_get_value(f));
	} else if (is(t, BT_FIELD_CLASS_TYPE_ENUMERATION)) {
		put_enumeration(f, t == BT_FIELD_CLASS_TYPE_SIGNED_ENUMERATION, out);
	} else if (is(t, BT_FIELD_CLASS_TYPE_ARRAY)) {
		put_array(s, f, out);
	} else if (t == BT_FIELD_CLASS_TYPE_BOOL) {
		pack_uint(out, 2, bt_field_bool_get_value(f) != 0);
	} else if (t == BT_FIELD_CLASS_TYPE_BIT_ARRAY) {
		put_natural(bt_field_bit_array_get_value_as_integer(f), out);
	} else if (is(t, BT_FIELD_CLASS_TYPE_OPTION)) {
		const bt_field *inner = bt_field_option_borrow_field_const(f);

		if (inner)
			shape_put(s->inner, inner, out);
		else
			pack_uint(out, 1, 1);
	} else if (is(t, BT_FIELD_CLASS_TYPE_VARIANT)) {
		shape_put(s->members[bt_field_variant_get_selected_option_index(f)].shape,
			  bt_field_variant_borrow_selected_option_field_const(f), out);
	} else {
		pack_uint(out, 1, 1); /* nothing that this version of the library has */
	}
}

/* ---- one at a time ---- */

static void label_of(const bt_field *f, bool is_signed, struct cell *c)
{
	bt_field_class_enumeration_mapping_label_array labels;
	uint64_t count = 0;

	if ((is_signed ? bt_field_enumeration_signed_get_mapping_labels(f, &labels, &count) :
			 bt_field_enumeration_unsigned_get_mapping_labels(f, &labels, &count)) == 0 && count) {
		c->text = labels[0];
		c->n = (uint32_t)strlen(labels[0]);
	}
}

/* Addresses come as arrays of bytes. */
static bool short_array(const bt_field *f, struct cell *c)
{
	uint64_t n = bt_field_array_get_length(f);

	for (uint64_t i = 0; i < n; i++) {
		const bt_field *item = bt_field_array_borrow_element_field_by_index_const(f, i);
		uint64_t v;

		if (n > sizeof c->bytes || bt_field_get_class_type(item) != BT_FIELD_CLASS_TYPE_UNSIGNED_INTEGER)
			return false;
		v = bt_field_integer_unsigned_get_value(item);
		if (v > 255)
			return false;
		c->bytes[i] = (uint8_t)v;
	}
	c->n = (uint32_t)n;
	return true;
}

void cell_of(const bt_field *f, struct cell *c)
{
	bt_field_class_type t = f ? bt_field_get_class_type(f) : 0;

	c->type = CELL_NONE;
	c->text = NULL;
	c->n = 0;
	c->hex = false;
	if (f == NULL)
		return;
	if (is(t, BT_FIELD_CLASS_TYPE_SIGNED_INTEGER)) {
		c->type = CELL_INT;
		c->integer = bt_field_integer_signed_get_value(f);
		if (t == BT_FIELD_CLASS_TYPE_SIGNED_ENUMERATION)
			label_of(f, true, c);
	} else if (is(t, BT_FIELD_CLASS_TYPE_UNSIGNED_INTEGER)) {
		c->type = CELL_UINT;
		c->natural = bt_field_integer_unsigned_get_value(f);
		c->hex = bt_field_class_integer_get_preferred_display_base(bt_field_borrow_class_const(f)) ==
			 BT_FIELD_CLASS_INTEGER_PREFERRED_DISPLAY_BASE_HEXADECIMAL;
		if (t == BT_FIELD_CLASS_TYPE_UNSIGNED_ENUMERATION)
			label_of(f, false, c);
	} else if (t == BT_FIELD_CLASS_TYPE_BOOL || t == BT_FIELD_CLASS_TYPE_BIT_ARRAY) {
		c->type = CELL_UINT;
		c->natural = t == BT_FIELD_CLASS_TYPE_BOOL ? bt_field_bool_get_value(f) != 0 :
							     bt_field_bit_array_get_value_as_integer(f);
	} else if (t == BT_FIELD_CLASS_TYPE_STRING) {
		c->type = CELL_TEXT;
		c->text = bt_field_string_get_value(f);
		c->n = (uint32_t)bt_field_string_get_length(f);
	} else if (is(t, BT_FIELD_CLASS_TYPE_REAL)) {
		c->type = CELL_REAL;
		c->real = t == BT_FIELD_CLASS_TYPE_SINGLE_PRECISION_REAL ?
			(double)bt_field_real_single_precision_get_value(f) : bt_field_real_double_precision_get_value(f);
	} else if (is(t, BT_FIELD_CLASS_TYPE_OPTION)) {
		cell_of(bt_field_option_borrow_field_const(f), c);
	} else if (is(t, BT_FIELD_CLASS_TYPE_VARIANT)) {
		cell_of(bt_field_variant_borrow_selected_option_field_const(f), c);
	} else if (is(t, BT_FIELD_CLASS_TYPE_ARRAY) && short_array(f, c)) {
		c->type = CELL_BYTES;
	} else {
		c->type = CELL_FIELD;
		c->field = f;
	}
}

void cell_text(const struct cell *c, struct buf *out)
{
	switch (c->type) {
	case CELL_INT: case CELL_UINT:
		if (c->text)
			buf_put(out, c->text, c->n);
		else if (c->hex)
			buf_printf(out, "0x%llx", (unsigned long long)c->natural);
		else if (c->type == CELL_INT)
			buf_printf(out, "%lld", (long long)c->integer);
		else
			buf_printf(out, "%llu", (unsigned long long)c->natural);
		break;
	case CELL_REAL: buf_printf(out, "%.17g", c->real); break;
	case CELL_TEXT: buf_put(out, c->text, c->n); break;
	case CELL_BYTES:
		for (uint32_t i = 0; i < c->n; i++)
			buf_printf(out, "%s%u", i ? "." : "", c->bytes[i]);
		break;
	default: break;
	}
}

bool cell_number(const struct cell *c, double *ret)
{
	char text[64], *end;

	switch (c->type) {
	case CELL_INT: *ret = (double)c->integer; return true;
	case CELL_UINT: *ret = (double)c->natural; return true;
	case CELL_REAL: *ret = c->real; return true;
	case CELL_TEXT:
		if (c->n == 0 || c->n >= sizeof text)
			return false;
		memcpy(text, c->text, c->n);
		text[c->n] = 0;
		*ret = strtod(text, &end);
		return *end == 0;
	default: return false;
	}
}

void cell_put(const struct cell *c, const struct config *config, struct buf *out)
{
	struct shape *s;

	switch (c->type) {
	case CELL_INT: case CELL_UINT:
		if (c->text)
			pack_bytes(out, 6, c->text, c->n);
		else if (c->type == CELL_INT)
			pack_uint(out, 3, zigzag(c->integer));
		else
			put_natural(c->natural, out);
		break;
	case CELL_REAL: pack_real(out, 5, c->real); break;
	case CELL_TEXT: pack_bytes(out, 6, c->text, c->n); break;
	case CELL_BYTES: {
		size_t list = pack_begin(out, 8);

		for (uint32_t i = 0; i < c->n; i++) {
			size_t item = pack_begin(out, 1);

			put_natural(c->bytes[i], out);
			pack_end(out, item);
		}
		pack_end(out, list);
		break;
	}
	case CELL_FIELD:
		s = shape_new(bt_field_borrow_class_const(c->field), config);
		shape_put(s, c->field, out);
		shape_free(s);
		break;
	default: pack_uint(out, 1, 1); break;
	}
}

/* ---- paths ---- */

static const bt_field_class *without_option(const bt_field_class *fc)
{
	while (is(bt_field_class_get_type(fc), BT_FIELD_CLASS_TYPE_OPTION))
		fc = bt_field_class_option_borrow_field_class_const(fc);
	return fc;
}

static bool member_index(const bt_field_class *fc, const char *name, size_t n, uint32_t *ret)
{
	uint64_t count = bt_field_class_structure_get_member_count(fc);

	for (uint64_t i = 0; i < count; i++) {
		const char *s = bt_field_class_structure_member_get_name(
			bt_field_class_structure_borrow_member_by_index_const(fc, i));

		if (strlen(s) == n && memcmp(s, name, n) == 0) {
			*ret = (uint32_t)i;
			return true;
		}
	}
	return false;
}

bool field_path_find(const bt_field_class *fc, const char *name, size_t n, struct field_path *ret)
{
	ret->n = 0;
	while (n && fc) {
		const char *dot = memchr(name, '.', n);
		size_t part = dot ? (size_t)(dot - name) : n;
		bt_field_class_type t;
		uint32_t *step = &ret->step[ret->n];

		if (ret->n == sizeof ret->step / sizeof *ret->step)
			return false;
		fc = without_option(fc);
		t = bt_field_class_get_type(fc);
		if (is(t, BT_FIELD_CLASS_TYPE_STRUCTURE)) {
			if (!member_index(fc, name, part, step))
				return false;
			fc = bt_field_class_structure_member_borrow_field_class_const(
				bt_field_class_structure_borrow_member_by_index_const(fc, *step));
		} else if (is(t, BT_FIELD_CLASS_TYPE_ARRAY) && part < 9 && strspn(name, "0123456789") >= part) {
			*step = (uint32_t)strtoul(name, NULL, 10);
			fc = bt_field_class_array_borrow_element_field_class_const(fc);
		} else {
			return false;
		}
		ret->n++;
		name += part + (dot != NULL);
		n -= part + (dot != NULL);
	}
	return ret->n > 0;
}

const bt_field *field_path_get(const bt_field *f, const struct field_path *p)
{
	for (uint32_t i = 0; f && i < p->n; i++) {
		while (f && is(bt_field_get_class_type(f), BT_FIELD_CLASS_TYPE_OPTION))
			f = bt_field_option_borrow_field_const(f);
		if (f == NULL)
			return NULL;
		if (is(bt_field_get_class_type(f), BT_FIELD_CLASS_TYPE_STRUCTURE))
			f = bt_field_structure_borrow_member_field_by_index_const(f, p->step[i]);
		else
			f = p->step[i] < bt_field_array_get_length(f) ?
				bt_field_array_borrow_element_field_by_index_const(f, p->step[i]) : NULL;
	}
	return f;
}
