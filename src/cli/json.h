/* A streaming JSON writer.  Commas are its own business; integers are exact,
 * doubles the shortest that read back equal, as JavaScript prints them; bytes
 * that are no UTF-8 become \udcXX, which python's surrogateescape reverses. */
#ifndef SNAPTRAIL_CLI_JSON_H
#define SNAPTRAIL_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "snaptrail.h"

struct json {
	FILE *out;
	bool follows;                /* something stands before, in the same container */
};

#define JSON_INIT(file) { (file), false }

void json_open(struct json *j, char bracket);  /* '{' or '[' */
void json_close(struct json *j, char bracket); /* '}' or ']' */
void json_key(struct json *j, const char *key);
void json_key_bytes(struct json *j, const char *key, size_t len);
void json_bytes(struct json *j, const char *s, size_t len);
void json_string(struct json *j, const char *s); /* NULL: null */
void json_int(struct json *j, int64_t v);
void json_uint(struct json *j, uint64_t v);
void json_double(struct json *j, double v);
void json_bool(struct json *j, bool v);
void json_null(struct json *j);
void json_value(struct json *j, const struct snaptrail_value *v); /* NULL: null */
/* Text that is JSON already. */
void json_raw(struct json *j, const char *text, size_t len);
/* Nanoseconds as milliseconds with their fraction. */
void json_ms(struct json *j, uint64_t ns);
/* `key`: milliseconds; null for 0. */
void json_time(struct json *j, const char *key, uint64_t ns);
/* `key`: "nanoseconds" as a string. */
void json_ns(struct json *j, const char *key, uint64_t ns);
void json_pair_string(struct json *j, const char *key, const char *s);
void json_pair_uint(struct json *j, const char *key, uint64_t v);
void json_pair_bool(struct json *j, const char *key, bool v);
/* The newline behind a document. */
void json_line(struct json *j);

/* JavaScript's Number::toString; 32 bytes suffice. */
void json_double_text(double v, char ret[32]);
/* Length of the valid UTF-8 sequence at s, 0 when there is none. */
size_t utf8_length(const unsigned char *s, size_t len);

#endif
