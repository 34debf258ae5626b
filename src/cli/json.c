/* The JSON writer: see json.h.  Writes to a FILE and keeps one bit of state,
 * so documents may be of any depth and length. */
#include "cli/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void before(struct json *j)
{
	if (j->follows)
		fputc(',', j->out);
	j->follows = true;
}

void json_open(struct json *j, char bracket)
{
	before(j);
	fputc(bracket, j->out);
	j->follows = false;
}

void json_close(struct json *j, char bracket)
{
	fputc(bracket, j->out);
	j->follows = true;
}

size_t utf8_length(const unsigned char *s, size_t len)
{
	size_t n;

	if (len == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	n = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
	if (n == 0 || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static void write_escaped(FILE *out, unsigned char c)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	const char *at = c ? strchr(plain, c) : NULL;

	if (at)
		fprintf(out, "\\%c", letters[at - plain]);
	else if (c < 0x20)
		fprintf(out, "\\u%04x", c);
	else
		fprintf(out, "\\udc%02x", c);
}

static void write_string(FILE *out, const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + len, *plain = p;

	fputc('"', out);
	while (p < end) {
		size_t n = utf8_length(p, (size_t)(end - p));

		if (n > 1 || (n == 1 && *p >= 0x20 && *p != '"' && *p != '\\')) {
			p += n;
			continue;
		}
		fwrite(plain, 1, (size_t)(p - plain), out);
		write_escaped(out, *p);
		plain = ++p;
	}
	fwrite(plain, 1, (size_t)(p - plain), out);
	fputc('"', out);
}

void json_key_bytes(struct json *j, const char *key, size_t len)
{
	before(j);
	write_string(j->out, key, len);
	fputc(':', j->out);
	j->follows = false;
}

void json_key(struct json *j, const char *key)
{
	json_key_bytes(j, key, strlen(key));
}

void json_bytes(struct json *j, const char *s, size_t len)
{
	before(j);
	write_string(j->out, s, len);
}

void json_string(struct json *j, const char *s)
{
	if (s)
		json_bytes(j, s, strlen(s));
	else
		json_null(j);
}

void json_int(struct json *j, int64_t v)
{
	before(j);
	fprintf(j->out, "%" PRId64, v);
}

void json_uint(struct json *j, uint64_t v)
{
	before(j);
	fprintf(j->out, "%" PRIu64, v);
}

/* Places the digits d1..dk of d.ddd * 10^e as ECMAScript's Number::toString. */
static void place_digits(const char *digits, int k, int e, char *p)
{
	int n = e + 1; /* where the point stands */

	if (k <= n && n <= 21) {
		p += sprintf(p, "%.*s", k, digits);
		memset(p, '0', (size_t)(n - k));
		p[n - k] = '\0';
	} else if (n > 0 && n <= 21) {
		sprintf(p, "%.*s.%.*s", n, digits, k - n, digits + n);
	} else if (n > -6 && n <= 0) {
		p += sprintf(p, "0.");
		memset(p, '0', (size_t)-n);
		sprintf(p - n, "%.*s", k, digits);
	} else if (k == 1) {
		sprintf(p, "%ce%+d", digits[0], e);
	} else {
		sprintf(p, "%c.%.*se%+d", digits[0], k - 1, digits + 1, e);
	}
}

void json_double_text(double v, char ret[32])
{
	char shortest[32], digits[20] = "";
	int k = 0, e;

	if (v == 0) {
		strcpy(ret, "0"); /* -0 as well */
		return;
	}
	for (int precision = 0; precision < 17; precision++) {
		snprintf(shortest, sizeof shortest, "%.*e", precision, v);
		if (strtod(shortest, NULL) == v)
			break;
	}
	if (v < 0)
		*ret++ = '-';
	e = atoi(strchr(shortest, 'e') + 1);
	for (const char *p = shortest; *p != 'e' && k < 17; p++)
		if (*p >= '0' && *p <= '9')
			digits[k++] = *p;
	while (k > 1 && digits[k - 1] == '0')
		k--;
	place_digits(digits, k, e, ret);
}

void json_double(struct json *j, double v)
{
	char text[32];

	before(j);
	if (!isfinite(v)) {
		fputs("null", j->out);
		return;
	}
	json_double_text(v, text);
	fputs(text, j->out);
}

void json_bool(struct json *j, bool v)
{
	before(j);
	fputs(v ? "true" : "false", j->out);
}

void json_null(struct json *j)
{
	before(j);
	fputs("null", j->out);
}

void json_raw(struct json *j, const char *text, size_t len)
{
	before(j);
	fwrite(text, 1, len, j->out);
}

void json_value(struct json *j, const struct snaptrail_value *v)
{
	enum snaptrail_type type = v ? snaptrail_value_type(v) : SNAPTRAIL_NULL;
	const char *s;
	size_t len;

	switch (type) {
	case SNAPTRAIL_NULL: json_null(j); break;
	case SNAPTRAIL_BOOL: json_bool(j, snaptrail_value_bool(v)); break;
	case SNAPTRAIL_INT: json_int(j, snaptrail_value_int(v)); break;
	case SNAPTRAIL_UINT: json_uint(j, snaptrail_value_uint(v)); break;
	case SNAPTRAIL_DOUBLE: json_double(j, snaptrail_value_double(v)); break;
	case SNAPTRAIL_STRING:
	case SNAPTRAIL_BYTES:
		s = snaptrail_value_bytes(v, &len);
		json_bytes(j, s, len);
		break;
	case SNAPTRAIL_LIST:
		json_open(j, '[');
		for (size_t i = 0; i < snaptrail_value_count(v); i++)
			json_value(j, snaptrail_value_at(v, i));
		json_close(j, ']');
		break;
	case SNAPTRAIL_OBJECT:
		json_open(j, '{');
		for (size_t i = 0; i < snaptrail_value_count(v); i++) {
			s = snaptrail_value_name_at(v, i, &len);
			json_key_bytes(j, s, len);
			json_value(j, snaptrail_value_at(v, i));
		}
		json_close(j, '}');
		break;
	}
}

void json_ms(struct json *j, uint64_t ns)
{
	unsigned fraction = (unsigned)(ns % 1000000);
	int digits = 6;

	before(j);
	fprintf(j->out, "%" PRIu64, ns / 1000000);
	if (fraction == 0)
		return;
	while (fraction % 10 == 0) {
		fraction /= 10;
		digits--;
	}
	fprintf(j->out, ".%0*u", digits, fraction);
}

void json_time(struct json *j, const char *key, uint64_t ns)
{
	json_key(j, key);
	if (ns)
		json_ms(j, ns);
	else
		json_null(j);
}

void json_ns(struct json *j, const char *key, uint64_t ns)
{
	json_key(j, key);
	before(j);
	fprintf(j->out, "\"%" PRIu64 "\"", ns);
}

void json_pair_string(struct json *j, const char *key, const char *s)
{
	json_key(j, key);
	json_string(j, s);
}

void json_pair_uint(struct json *j, const char *key, uint64_t v)
{
	json_key(j, key);
	json_uint(j, v);
}

void json_pair_bool(struct json *j, const char *key, bool v)
{
	json_key(j, key);
	json_bool(j, v);
}

void json_line(struct json *j)
{
	fputc('\n', j->out);
	j->follows = false;
}
