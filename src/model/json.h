/* JSON text to values and back, as JavaScript has it: what JSON.parse() and
 * JSON.stringify() would make of the same text, byte for byte.
 *
 * Strings here are bytes.  Those that are no UTF-8 are written as \udcXX, one
 * escape a byte, and read back from it; any other lone half of a surrogate pair
 * is refused.  Integers are exact up to 64 bits; numbers with a fraction or an
 * exponent, and larger ones, are doubles, but a double that is whole and within
 * 2^53 becomes an integer: 1, 1.0 and 1e0 are one value, as they are there.
 *
 * No I/O of its own, no state but the reader's; one thread a reader. */
#ifndef SNAPTRAIL_MODEL_JSON_H
#define SNAPTRAIL_MODEL_JSON_H

#include "base/buf.h"
#include "model/value.h"
#include "report/change.h"

/* ---- writing ---- */

enum json_flags {
	/* For JavaScript: integers beyond 2^53 as the double they become there, names
	 * that are array indexes first and in order, as its objects have them. */
	JSON_JS = 1,
};

/* Appends the compact text.  What has no JSON (NaN, infinities, an absent value)
 * is null; bytes are written as strings are.  *rounded counts the integers that
 * JSON_JS changed; it may be NULL. */
void json_write(const struct value *v, unsigned flags, struct buf *out, uint64_t *rounded);
void json_write_string(const void *p, size_t n, struct buf *out);
/* ECMAScript's Number::toString, or null. */
void json_write_double(double d, struct buf *out);
void json_write_int(int64_t i, unsigned flags, struct buf *out, uint64_t *rounded);
void json_write_uint(uint64_t u, unsigned flags, struct buf *out, uint64_t *rounded);

/* Whether a name is an array index, 0 to 2^32 - 2 without leading zeros. */
bool json_index(const char *name, size_t n, uint32_t *ret);
/* The order in which JavaScript lists n names: ret[i] is the i-th's number.  False
 * when that is the order in which they are, and ret is not filled. */
bool json_order(size_t n, const char *(*name)(const void *arg, size_t i, size_t *ret_len), const void *arg, uint32_t *ret);

/* ---- reading ---- */

#define JSON_DEPTH 200u               /* nesting that is read */
#define JSON_STRING_MAX (256u << 20)  /* bytes of a string in the text */

/* The next bytes, at most n: how many, 0 at the end, or a negative errno. */
typedef int64_t (*json_source)(void *arg, void *p, size_t n);

struct json_reader {
	const uint8_t *data, *p, *end;   /* the text at hand; p is read next */
	struct buf own;                  /* holds it, when it comes from a source */
	json_source source;
	void *arg;
	uint64_t at;                     /* bytes before data */
	uint64_t lines, line_at;         /* ends of lines before data; where the last line began */
	void (*tap)(void *arg, const void *p, size_t n);
	void *tap_arg;
	const uint8_t *tapped;           /* told up to here */
	struct buf text;                 /* a string whose escapes were undone */
	unsigned depth, max_depth;
	bool first[256];                 /* nothing was read yet of the container at this depth */
	int failed;                      /* the first error; every later call returns it */
};

/* Over text in memory, or from a source that is asked as needed. */
void json_reader_init(struct json_reader *r, const void *p, size_t n);
void json_reader_open(struct json_reader *r, json_source source, void *arg);
void json_reader_done(struct json_reader *r);

/* All return 0 (or what is said) or a negative errno; a text that is no JSON is
 * -EINVAL with line, column and byte in the detail.
 *
 * What comes next: one of { [ " t f n 0 (a number), or 0 when there is nothing
 * more or the reading has failed. */
int json_look(struct json_reader *r);
/* Into the object or list that comes next ('{' or '['). */
int json_enter(struct json_reader *r, char bracket);
/* In an object: 1 and the next name, whose value comes next; 0 behind the last.
 * The name lives until the next call. */
int json_member(struct json_reader *r, struct bytes *ret_name);
/* In a list: 1 when an item comes next, 0 behind the last. */
int json_item(struct json_reader *r);
/* The whole value that comes next. */
int json_take(struct json_reader *r, struct value *ret);
int json_skip(struct json_reader *r);
/* Nothing may follow. */
int json_finish(struct json_reader *r);
/* An error at the place that is read next. */
int json_fail(struct json_reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* From here on the text is told as it stands, from the next value's first byte,
 * until tap is NULL. */
void json_tap(struct json_reader *r, void (*tap)(void *arg, const void *p, size_t n), void *arg);

/* One value and nothing else. */
int json_read(const void *p, size_t n, struct value *ret);

#endif
