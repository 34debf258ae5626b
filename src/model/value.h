/* A value of JSON and a little more: what an entity of the state is made of.
 *
 * Absent, null, zero and empty are four different things; the order of an
 * object's pairs is kept.  A value owns what it points to; copying is deep.
 * Names that are string literals of the schema are not copied. */
#ifndef SNAPTRAIL_MODEL_VALUE_H
#define SNAPTRAIL_MODEL_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum value_type {
	VALUE_ABSENT = 0, VALUE_NULL, VALUE_BOOL, VALUE_INT, VALUE_UINT, VALUE_DOUBLE, VALUE_STRING, VALUE_BYTES,
	VALUE_LIST, VALUE_OBJECT,
};

struct value {
	uint32_t type;
	uint32_t n;            /* bytes of a string, items of a list, pairs of an object */
	union {
		bool boolean;
		int64_t integer;
		uint64_t natural;
		double real;
		char *bytes;
		struct value *items;
		struct pair *pairs;
	};
};

struct pair {
	const char *name;      /* NUL-terminated copy, or the schema's literal */
	uint32_t name_len;
	bool literal;
	struct value value;
};

/* The public header's opaque type is this one. */
struct snaptrail_value { struct value v; };

void value_done(struct value *v);
struct value value_copy(const struct value *v);
bool value_equal(const struct value *a, const struct value *b);
/* Equal, and every object's pairs in the same order. */
bool value_same(const struct value *a, const struct value *b);

static inline struct value value_int(int64_t i) { return (struct value){ .type = VALUE_INT, .integer = i }; }
static inline struct value value_real(double d) { return (struct value){ .type = VALUE_DOUBLE, .real = d }; }
/* A time as states have it: milliseconds, down to the microsecond. */
static inline double time_ms(uint64_t ns)
{
	uint64_t us = ns / 1000;

	return (double)us / 1000.0;
}
static inline struct value value_bool(bool b) { return (struct value){ .type = VALUE_BOOL, .boolean = b }; }
struct value value_text(const void *p, size_t n);
struct value value_str(const char *s);
static inline struct value value_object(void) { return (struct value){ .type = VALUE_OBJECT }; }
static inline struct value value_list(void) { return (struct value){ .type = VALUE_LIST }; }

/* The value of a field, or NULL. */
const struct value *value_get(const struct value *object, const char *name);
struct value *value_get_n(const struct value *object, const char *name, size_t n);
/* Takes `v`.  With `literal` the name is not copied.  What was no object (for
 * value_push: no list) becomes one. */
void value_set(struct value *object, const char *name, size_t n, bool literal, struct value v);
/* For reading many: a pair behind the others, whatever its name; then, once, those
 * of one name become one as if they had been set in turn. */
struct pair *value_append(struct value *object, const char *name, size_t n);
void value_unite(struct value *object);
void value_unset(struct value *object, const char *name);
void value_unset_n(struct value *object, const char *name, size_t n);
void value_push(struct value *list, struct value v);
void value_shift(struct value *list, uint32_t count);

/* message Value and message Object of the schema. */
void value_pack(const struct value *v, struct buf *out);
bool value_unpack(struct value *ret, const uint8_t *p, size_t n, unsigned depth);
void object_pack(const struct value *v, struct buf *out);
bool object_unpack(struct value *ret, const uint8_t *p, size_t n, unsigned depth);
void pair_pack(const struct pair *p, struct buf *out);
/* Appends the pair that the bytes hold to an object: see value_append(). */
bool pair_unpack(struct value *object, const uint8_t *p, size_t n, unsigned depth);

/* protobuf pieces for packing. */
void pack_uint(struct buf *b, uint32_t field, uint64_t v);  /* also when 0 */
void pack_fixed64(struct buf *b, uint32_t field, uint64_t v);
void pack_real(struct buf *b, uint32_t field, double v);
void pack_bytes(struct buf *b, uint32_t field, const void *p, size_t n);
/* A message field written in place: begin, write, end. */
size_t pack_begin(struct buf *b, uint32_t field);
void pack_end(struct buf *b, size_t mark);
/* The same for what may be large, below 2^35 bytes. */
size_t pack_begin_large(struct buf *b, uint32_t field);
void pack_end_large(struct buf *b, size_t mark);

#define VALUE_DEPTH 200u /* nesting that is read; deeper is damage */

#endif
