/* Values as JSON text: see json.h.  Called by exports, checksums and the command's
 * side of the library, on any one thread.
 *
 * Numbers are printed as ECMAScript's Number::toString does: the fewest digits
 * that read back equal, of those the nearest. */
#include "model/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- strings ---- */

/* Length of the valid UTF-8 sequence at p, 0 when there is none. */
static size_t sequence(const uint8_t *p, const uint8_t *end)
{
	size_t left = (size_t)(end - p), n;

	if (p[0] < 0x80)
		return 1;
	n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
	if (n == 0 || n > left)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

static void write_escape(uint8_t c, struct buf *out)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
	const char *at = c ? strchr(plain, c) : NULL;
	uint8_t text[6] = { '\\', 'u', c < 0x20 ? '0' : 'd', c < 0x20 ? '0' : 'c', (uint8_t)hex[c >> 4], (uint8_t)hex[c & 15] };

	if (at) {
		text[1] = (uint8_t)letters[at - plain];
		buf_put(out, text, 2);
	} else {
		buf_put(out, text, 6);
	}
}

void json_write_string(const void *s, size_t n, struct buf *out)
{
	const uint8_t *p = s, *end = p + n, *plain = p;

	buf_room(out, n + 2);
	buf_byte(out, '"');
	while (p < end) {
		size_t k;

		if (*p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') {
			p++;
			continue;
		}
		k = *p < 0x80 ? 0 : sequence(p, end);
		if (k) {
			p += k;
			continue;
		}
		buf_put(out, plain, (size_t)(p - plain));
		write_escape(*p, out);
		plain = ++p;
	}
	buf_put(out, plain, (size_t)(p - plain));
	buf_byte(out, '"');
}

/* ---- numbers ---- */

static void write_digits(uint64_t u, struct buf *out)
{
	char text[20];
	int at = sizeof text;

	do
		text[--at] = (char)('0' + u % 10);
	while (u /= 10);
	buf_put(out, text + at, sizeof text - (size_t)at);
}

/* Digits d1..dk of the number 0.d1..dk * 10^n, as Number::toString places them. */
static void place(const char *d, int k, int n, struct buf *out)
{
	if (k <= n && n <= 21) {
		buf_put(out, d, (size_t)k);
		for (int i = k; i < n; i++)
			buf_byte(out, '0');
	} else if (n > 0 && n <= 21) {
		buf_put(out, d, (size_t)n);
		buf_byte(out, '.');
		buf_put(out, d + n, (size_t)(k - n));
	} else if (n > -6 && n <= 0) {
		buf_str(out, "0.");
		for (int i = n; i < 0; i++)
			buf_byte(out, '0');
		buf_put(out, d, (size_t)k);
	} else {
		buf_byte(out, (uint8_t)d[0]);
		if (k > 1) {
			buf_byte(out, '.');
			buf_put(out, d + 1, (size_t)k - 1);
		}
		buf_printf(out, "e%+d", n - 1);
	}
}

/* What `%.*e` says of d, without sign, point and trailing zeros; the point of any
 * locale is skipped. */
static int digits_of(const char *text, char *ret, int *ret_n)
{
	int k = 0;

	*ret_n = atoi(strchr(text, 'e') + 1) + 1;
	for (; *text != 'e'; text++)
		if (*text >= '0' && *text <= '9')
			ret[k++] = *text;
	while (k > 1 && ret[k - 1] == '0')
		k--;
	return k;
}

/* At a power of two the next double below is nearer than the one above: the
 * digits nearest to d may read as another while the next greater read as d. */
static bool next_up_reads(char *text, double d)
{
	char *last = strchr(text, 'e') - 1;

	while (last >= text && *last == '9')
		*last-- = '0';
	if (last < text || *last < '0' || *last > '9')
		return false; /* a carry across the point: the shorter form was tried */
	++*last;
	return strtod(text, NULL) == d;
}

static int shortest(double d, char *ret, int *ret_n)
{
	char text[48];
	int e;
	bool edge = frexp(d, &e) == 0.5;
	/* Normal doubles hold any 15 digits: fewer show as trailing zeros. */
	int precision = d < 2.2250738585072014e-308 || edge ? 0 : 14;

	for (; precision < 17; precision++) {
		snprintf(text, sizeof text, "%.*e", precision, d);
		if (strtod(text, NULL) == d || (edge && next_up_reads(text, d)))
			break;
	}
	return digits_of(text, ret, ret_n);
}

/* Few digits behind the point, as times and shares have: m / 10^k is rounded once,
 * so that at most 15 digits which give d are its shortest. */
static bool write_decimal(double d, struct buf *out)
{
	double scale = 10;

	if (d >= 1e12 * 1e3 || d < 1e-3)
		return false;
	for (int k = 1; k <= 6; k++, scale *= 10) {
		double m = (double)(uint64_t)(d * scale + 0.5);
		char digits[20];
		int n = 0;

		if (m >= 1e15)
			return false;
		if (m / scale != d)
			continue;
		for (uint64_t u = (uint64_t)m; u; u /= 10)
			n++;
		for (uint64_t u = (uint64_t)m, at = (uint64_t)n; u; u /= 10)
			digits[--at] = (char)('0' + u % 10);
		place(digits, n, n - k, out);
		return true;
	}
	return false;
}

void json_write_double(double d, struct buf *out)
{
	char digits[48] = "";
	int k, n;

	if (!isfinite(d)) {
		buf_str(out, "null");
		return;
	}
	if (d < 0) {
		buf_byte(out, '-');
		d = -d;
	}
	if (d < 9007199254740992.0 && d == (double)(uint64_t)d) {
		write_digits((uint64_t)d, out);
	} else if (!write_decimal(d, out)) {
		k = shortest(d, digits, &n);
		place(digits, k, n, out);
	}
}

static void write_rounded(uint64_t u, struct buf *out, uint64_t *rounded)
{
	size_t from = out->len;
	char exact[24];
	int n = snprintf(exact, sizeof exact, "%" PRIu64, u);

	json_write_double((double)u, out);
	if (rounded && (out->len - from != (size_t)n || memcmp(out->data + from, exact, (size_t)n)))
		++*rounded;
}

void json_write_uint(uint64_t u, unsigned flags, struct buf *out, uint64_t *rounded)
{
	if ((flags & JSON_JS) && u > 1ull << 53)
		write_rounded(u, out, rounded);
	else
		write_digits(u, out);
}

void json_write_int(int64_t i, unsigned flags, struct buf *out, uint64_t *rounded)
{
	if (i < 0)
		buf_byte(out, '-');
	json_write_uint(i < 0 ? 0 - (uint64_t)i : (uint64_t)i, flags, out, rounded);
}

/* ---- the order of names ---- */

bool json_index(const char *name, size_t n, uint32_t *ret)
{
	uint64_t u = 0;

	if (n == 0 || n > 10 || (name[0] == '0' && n > 1))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (name[i] < '0' || name[i] > '9')
			return false;
		u = u * 10 + (uint64_t)(name[i] - '0');
	}
	*ret = (uint32_t)u;
	return u < UINT32_MAX;
}

static int by_index(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return x[0] < y[0] ? -1 : x[0] > y[0];
}

bool json_order(size_t n, const char *(*name)(const void *arg, size_t i, size_t *ret_len), const void *arg, uint32_t *ret)
{
	_cleanup_free_ uint32_t (*indexes)[2] = NULL;
	size_t k = 0, at, len;
	uint32_t index;
	bool moved = false;

	for (size_t i = 0; i < n; i++) {
		const char *s = name(arg, i, &len);

		if (!json_index(s, len, &index))
			continue;
		if (indexes == NULL)
			indexes = xmalloc((n - i) * sizeof *indexes);
		moved |= i != k || (k && indexes[k - 1][0] > index);
		indexes[k][0] = index;
		indexes[k++][1] = (uint32_t)i;
	}
	if (!moved)
		return false;
	qsort(indexes, k, sizeof *indexes, by_index);
	for (at = 0; at < k; at++)
		ret[at] = indexes[at][1];
	for (size_t i = 0; i < n; i++) {
		const char *s = name(arg, i, &len);

		if (!json_index(s, len, &index))
			ret[at++] = (uint32_t)i;
	}
	return true;
}

/* ---- values ---- */

static const char *pair_name(const void *arg, size_t i, size_t *ret_len)
{
	const struct value *v = arg;

	*ret_len = v->pairs[i].name_len;
	return v->pairs[i].name;
}

static void write_object(const struct value *v, unsigned flags, struct buf *out, uint64_t *rounded)
{
	_cleanup_free_ uint32_t *order = NULL;

	if (flags & JSON_JS) {
		uint32_t index;

		for (uint32_t i = 0; i < v->n && order == NULL; i++)
			if (json_index(v->pairs[i].name, v->pairs[i].name_len, &index))
				order = xmalloc(v->n * sizeof *order);
		if (order && !json_order(v->n, pair_name, v, order)) {
			free(order);
			order = NULL;
		}
	}
	buf_byte(out, '{');
	for (uint32_t i = 0; i < v->n; i++) {
		const struct pair *p = &v->pairs[order ? order[i] : i];

		if (i)
			buf_byte(out, ',');
		json_write_string(p->name, p->name_len, out);
		buf_byte(out, ':');
		json_write(&p->value, flags, out, rounded);
	}
	buf_byte(out, '}');
}

void json_write(const struct value *v, unsigned flags, struct buf *out, uint64_t *rounded)
{
	switch (v->type) {
	case VALUE_BOOL: buf_str(out, v->boolean ? "true" : "false"); break;
	case VALUE_INT: json_write_int(v->integer, flags, out, rounded); break;
	case VALUE_UINT: json_write_uint(v->natural, flags, out, rounded); break;
	case VALUE_DOUBLE: json_write_double(v->real, out); break;
	case VALUE_STRING:
	case VALUE_BYTES: json_write_string(v->bytes, v->n, out); break;
	case VALUE_LIST:
		buf_byte(out, '[');
		for (uint32_t i = 0; i < v->n; i++) {
			if (i)
				buf_byte(out, ',');
			json_write(&v->items[i], flags, out, rounded);
		}
		buf_byte(out, ']');
		break;
	case VALUE_OBJECT: write_object(v, flags, out, rounded); break;
	default: buf_str(out, "null"); break;
	}
}
