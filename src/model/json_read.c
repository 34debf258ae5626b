/* JSON text read strictly (RFC 8259), pulled from a window that slides over the
 * source: see json.h.  Called by imports and by whoever is handed a state, on any
 * one thread.  A text of any length is read in the memory of its longest string.
 *
 * Why our own: yajl makes '?' of the lone surrogates that stand for bytes here,
 * Jansson wants the whole document in memory, and neither shows the text's own
 * bytes, which the original's checksums are over. */
#include "model/json.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>

#include "base/err.h"

#define WINDOW_BYTES (64u << 10)
#define NUMBER_MAX (64u << 10)  /* characters of a number */

/* ---- the window ---- */

void json_reader_init(struct json_reader *r, const void *p, size_t n)
{
	*r = (struct json_reader){ .data = p, .p = p, .max_depth = JSON_DEPTH };
	r->end = n ? r->p + n : r->p;
}

void json_reader_open(struct json_reader *r, json_source source, void *arg)
{
	json_reader_init(r, NULL, 0);
	r->source = source;
	r->arg = arg;
}

void json_reader_done(struct json_reader *r)
{
	buf_done(&r->own);
	buf_done(&r->text);
}

static void tell_tap(struct json_reader *r, const uint8_t *to)
{
	if (r->tap && to > r->tapped) {
		r->tap(r->tap_arg, r->tapped, (size_t)(to - r->tapped));
		r->tapped = to;
	}
}

void json_tap(struct json_reader *r, void (*tap)(void *arg, const void *p, size_t n), void *arg)
{
	tell_tap(r, r->p);
	if (tap)
		json_look(r);
	r->tap = tap;
	r->tap_arg = arg;
	r->tapped = r->p;
}

/* Lines that end before `to`, which is in the window. */
static void count_lines(struct json_reader *r, const uint8_t *to)
{
	const uint8_t *p = r->data;

	while (p < to && (p = memchr(p, '\n', (size_t)(to - p)))) {
		r->lines++;
		r->line_at = r->at + (uint64_t)(++p - r->data);
	}
}

int json_fail(struct json_reader *r, const char *fmt, ...)
{
	struct json_reader at = *r;
	char what[200];
	va_list ap;

	if (r->failed)
		return r->failed;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	count_lines(&at, r->p);
	uint64_t byte = r->at + (uint64_t)(r->p - r->data);

	r->failed = fail(-EINVAL, "line %llu, column %llu (byte %llu): %s", (unsigned long long)at.lines + 1,
			 (unsigned long long)(byte - at.line_at) + 1, (unsigned long long)byte, what);
	return r->failed;
}

/* More text behind what is left of the window; r->p moves with it.  False at the
 * end and on failure. */
static bool more(struct json_reader *r)
{
	size_t left = (size_t)(r->end - r->p);
	int64_t n;

	if (r->failed || r->source == NULL)
		return false;
	tell_tap(r, r->p);
	count_lines(r, r->p);
	r->at += (uint64_t)(r->p - r->data);
	if (left && r->p != r->own.data)
		memmove(r->own.data, r->p, left);
	r->own.len = left;
	buf_room(&r->own, left < WINDOW_BYTES ? WINDOW_BYTES : left); /* doubles while a token does not fit */
	r->data = r->p = r->tapped = r->own.data;
	r->end = r->p + left;
	n = r->source(r->arg, r->own.data + left, r->own.cap - left);
	if (n < 0)
		r->failed = (int)n;
	if (n <= 0)
		return false;
	r->end += n;
	return true;
}

static bool at_end(struct json_reader *r) { return r->p == r->end && !more(r); }

static int token_fail(struct json_reader *r)
{
	char text[16];
	size_t n = 0;

	if (at_end(r))
		return json_fail(r, "the text ends too early");
	if (*r->p < 0x20 || *r->p > 0x7e)
		return json_fail(r, "unexpected byte 0x%02x", *r->p);
	while (n < sizeof text - 1 && r->p + n < r->end && r->p[n] > 0x20 && r->p[n] < 0x7f) {
		text[n] = (char)r->p[n];
		n++;
	}
	text[n] = 0;
	return json_fail(r, "unexpected \"%s\"", text);
}

/* ---- tokens ---- */

int json_look(struct json_reader *r)
{
	for (;;) {
		while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t'))
			r->p++;
		if (r->p < r->end)
			break;
		if (r->failed || !more(r))
			return 0;
	}
	if (r->failed)
		return 0;
	return *r->p == '-' || (*r->p >= '0' && *r->p <= '9') ? '0' : *r->p;
}

static int expect(struct json_reader *r, char c)
{
	if (json_look(r) != c)
		return r->failed ? r->failed : token_fail(r);
	r->p++;
	return 0;
}

static int word(struct json_reader *r, const char *word)
{
	size_t n = strlen(word);

	while ((size_t)(r->end - r->p) < n && more(r))
		;
	if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n))
		return token_fail(r);
	r->p += n;
	return r->failed;
}

/* ---- strings ---- */

enum { PLAIN = 0, QUOTE, ESCAPE, CONTROL, HIGH };
static const uint8_t kinds[256] = {
	[0 ... 0x1f] = CONTROL, ['"'] = QUOTE, ['\\'] = ESCAPE, [0x80 ... 0xff] = HIGH,
};

/* The string's closing quote, all of it in the window; r->p is behind the opening
 * one.  NULL: failed.  *ret_kinds has a bit for each kind met. */
static const uint8_t *string_end(struct json_reader *r, unsigned *ret_kinds)
{
	size_t at = 0;

	*ret_kinds = 0;
	for (;;) {
		const uint8_t *p = r->p + at;

		while (p < r->end && kinds[*p] == PLAIN)
			p++;
		at = (size_t)(p - r->p);
		if (at > JSON_STRING_MAX) {
			json_fail(r, "a string of more than 256 MiB");
			return NULL;
		}
		if (p == r->end || (kinds[*p] == ESCAPE && p + 1 == r->end)) {
			if (!more(r)) {
				r->p = r->end;
				json_fail(r, "the text ends within a string");
				return NULL;
			}
			continue;
		}
		if (kinds[*p] == QUOTE)
			return p;
		if (kinds[*p] == CONTROL) {
			r->p = p;
			json_fail(r, "byte 0x%02x within a string", *p);
			return NULL;
		}
		*ret_kinds |= 1u << kinds[*p];
		at += kinds[*p] == ESCAPE ? 2 : 1;
	}
}

/* Valid UTF-8 from p on: how many bytes of a sequence, 0 when there is none. */
static size_t utf8_bytes(const uint8_t *p, const uint8_t *end)
{
	size_t n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

	if (n == 0 || (size_t)(end - p) < n)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

static int check_utf8(struct json_reader *r, const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		size_t n = *p < 0x80 ? 1 : utf8_bytes(p, end);

		if (n == 0) {
			r->p = p;
			return json_fail(r, "byte 0x%02x is no UTF-8 here", *p);
		}
		p += n;
	}
	return 0;
}

static int hex4(const uint8_t *p, const uint8_t *end)
{
	int v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int c = p[i] | 0x20;

		if (p[i] >= '0' && p[i] <= '9')
			v = v << 4 | (p[i] - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (c - 'a' + 10);
		else
			return -1;
	}
	return v;
}

static void put_utf8(struct buf *b, uint32_t c)
{
	uint8_t text[4];
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	static const uint8_t lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };

	for (size_t i = n; i-- > 1; c >>= 6)
		text[i] = (uint8_t)(0x80 | (c & 0x3f));
	text[0] = (uint8_t)(lead[n] | c);
	buf_put(b, text, n);
}

/* `\uXXXX` at p, maybe a pair of them: where it ends, NULL when it is none. */
static const uint8_t *unicode(struct json_reader *r, const uint8_t *p, const uint8_t *end)
{
	int high = hex4(p + 2, end), low;

	if (high < 0)
		return NULL;
	if (high < 0xd800 || high > 0xdfff) {
		put_utf8(&r->text, (uint32_t)high);
		return p + 6;
	}
	if (high >= 0xdc80 && high <= 0xdcff) { /* a byte that is no UTF-8 */
		buf_byte(&r->text, (uint8_t)high);
		return p + 6;
	}
	low = high < 0xdc00 && end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, end) : -1;
	if (low < 0xdc00 || low > 0xdfff)
		return NULL;
	put_utf8(&r->text, 0x10000u + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00));
	return p + 12;
}

/* Undoes the escapes between r->p and end into r->text. */
static int unescape(struct json_reader *r, const uint8_t *end)
{
	static const char letters[] = "\"\\/bfnrt", plain[] = "\"\\/\b\f\n\r\t";
	const uint8_t *p = r->p;

	buf_reset(&r->text);
	while (p < end) {
		const uint8_t *next = memchr(p, '\\', (size_t)(end - p));
		const char *letter;

		buf_put(&r->text, p, (size_t)((next ? next : end) - p));
		if (next == NULL)
			break;
		p = next;
		letter = p[1] ? strchr(letters, p[1]) : NULL;
		if (letter) {
			buf_byte(&r->text, (uint8_t)plain[letter - letters]);
			p += 2;
			continue;
		}
		next = p[1] == 'u' ? unicode(r, p, end) : NULL;
		if (next == NULL) {
			r->p = p;
			return json_fail(r, p[1] == 'u' && hex4(p + 2, end) >= 0 ? "half a surrogate pair" : "not an escape");
		}
		p = next;
	}
	return 0;
}

/* The string that comes next; its bytes live until the next call. */
static int string(struct json_reader *r, const uint8_t **ret_p, size_t *ret_n)
{
	const uint8_t *end;
	unsigned met;
	int e;

	r->p++;
	end = string_end(r, &met);
	if (end == NULL)
		return r->failed;
	if (met & 1u << HIGH && (e = check_utf8(r, r->p, end)) < 0)
		return e;
	*ret_p = r->p;
	*ret_n = (size_t)(end - r->p);
	if (met & 1u << ESCAPE) {
		e = unescape(r, end);
		if (e < 0)
			return e;
		*ret_p = r->text.data;
		*ret_n = r->text.len;
	}
	r->p = end + 1;
	return 0;
}

/* ---- numbers ---- */

struct number {
	const uint8_t *p, *end;
	uint64_t digits;   /* the first 19 that count, as an integer */
	int places;        /* which of them are behind the point */
	int exponent;
	unsigned used;     /* of the 19 */
	bool negative, fraction, more;
};

static void take_digit(struct number *n, uint8_t c)
{
	if (n->used < 19) {
		n->digits = n->digits * 10 + (uint64_t)(c - '0');
		n->used += n->digits != 0;
		n->places += n->fraction;
	} else {
		n->more = true; /* beyond what fits: strtod has them */
	}
}

static bool digit(const uint8_t *p, const uint8_t *end) { return p < end && *p >= '0' && *p <= '9'; }

static const uint8_t *digits(struct number *n, const uint8_t *p)
{
	if (!digit(p, n->end))
		return NULL;
	for (; digit(p, n->end); p++)
		take_digit(n, *p);
	return p;
}

/* By the grammar; NULL when it is no number. */
static const uint8_t *parse_number(struct number *n)
{
	const uint8_t *p = n->p;
	bool minus;

	n->negative = p < n->end && *p == '-';
	p += n->negative;
	if (p + 1 < n->end && p[0] == '0' && digit(p + 1, n->end))
		return NULL;
	p = digits(n, p);
	if (p && p < n->end && *p == '.') {
		n->fraction = true;
		p = digits(n, p + 1);
	}
	if (p && p < n->end && (*p | 0x20) == 'e') {
		n->fraction = true;
		minus = ++p < n->end && *p == '-';
		p += p < n->end && (*p == '-' || *p == '+');
		if (!digit(p, n->end))
			return NULL;
		for (; digit(p, n->end); p++)
			n->exponent = n->exponent < 100000 ? n->exponent * 10 + (*p - '0') : n->exponent;
		n->exponent = minus ? -n->exponent : n->exponent;
	}
	return p;
}

/* Exact when the digits fit a double and the power of ten is one; else the C
 * library's, in no locale. */
static double real_of(const struct number *n, struct buf *scratch)
{
	static const double tens[] = { 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
				       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
	int power = n->exponent - n->places;
	double d;

	if (!n->more && n->digits <= 1ull << 53 && power >= -22 && power <= 22) {
		d = power < 0 ? (double)n->digits / tens[-power] : (double)n->digits * tens[power];
		return n->negative ? -d : d;
	}
	buf_reset(scratch);
	buf_put(scratch, n->p, (size_t)(n->end - n->p));
	return strtod_l(buf_cstr(scratch), NULL, newlocale(LC_ALL_MASK, "C", (locale_t)0)); /* a static one: nothing to free */
}

static struct value value_of(const struct number *n, struct buf *scratch)
{
	double d;

	if (!n->fraction && !n->more) {
		if (!n->negative && n->digits > INT64_MAX)
			return (struct value){ .type = VALUE_UINT, .natural = n->digits };
		if (n->digits <= INT64_MAX)
			return value_int(n->negative ? -(int64_t)n->digits : (int64_t)n->digits);
		if (n->digits == 1ull << 63)
			return value_int(INT64_MIN);
	}
	d = real_of(n, scratch);
	if (n->fraction && fabs(d) <= 9007199254740992.0 && d == (double)(int64_t)d)
		return value_int((int64_t)d);
	return value_real(d);
}

/* 20 digits: up to 2^64 - 1 they are still an integer. */
static void widen(struct number *n)
{
	size_t len = (size_t)(n->end - n->p);

	if (!n->more || n->fraction || n->negative || len != 20)
		return;
	if (memcmp(n->p, "18446744073709551615", 20) > 0)
		return;
	n->digits = n->digits * 10 + (uint64_t)(n->p[19] - '0');
	n->more = false;
}

static const bool numeric[256] = { ['0' ... '9'] = true, ['+'] = true, ['-'] = true, ['.'] = true, ['e'] = true, ['E'] = true };

static int number(struct json_reader *r, struct value *ret)
{
	struct number n = { 0 };
	size_t at = 0;

	for (;;) {
		while (r->p + at < r->end && numeric[r->p[at]])
			at++;
		if (at > NUMBER_MAX)
			return json_fail(r, "a number of more than %u characters", NUMBER_MAX);
		if (r->p + at < r->end || !more(r))
			break;
	}
	if (r->failed)
		return r->failed;
	n.p = r->p;
	n.end = r->p + at;
	if (parse_number(&n) != n.end)
		return json_fail(r, "not a number: \"%.*s\"", at > 40 ? 40 : (int)at, (const char *)r->p);
	widen(&n);
	*ret = value_of(&n, &r->text);
	r->p += at;
	return 0;
}

/* ---- containers ---- */

int json_enter(struct json_reader *r, char bracket)
{
	int e = expect(r, bracket);

	if (e < 0)
		return e;
	if (r->depth >= r->max_depth || r->depth + 1 >= sizeof r->first) {
		r->p--;
		return json_fail(r, "nested deeper than %u", r->max_depth);
	}
	r->first[++r->depth] = true;
	return 0;
}

/* Past the comma that is due: 1 something comes, 0 the container is left. */
static int step(struct json_reader *r, char bracket)
{
	int c = json_look(r);

	if (c == bracket) {
		r->p++;
		r->depth--;
		return 0;
	}
	if (c == 0)
		return r->failed ? r->failed : token_fail(r);
	if (r->first[r->depth]) {
		r->first[r->depth] = false;
		return 1;
	}
	if (c != ',')
		return token_fail(r);
	r->p++;
	return json_look(r) ? 1 : r->failed ? r->failed : token_fail(r);
}

int json_item(struct json_reader *r) { return step(r, ']'); }

/* A name; its bytes live until the next call. */
static int name(struct json_reader *r, const uint8_t **ret_p, size_t *ret_n)
{
	if (json_look(r) != '"')
		return r->failed ? r->failed : token_fail(r);
	return string(r, ret_p, ret_n);
}

int json_member(struct json_reader *r, struct bytes *ret)
{
	const uint8_t *p = NULL;
	size_t n = 0;
	int e = step(r, '}');

	if (e <= 0)
		return e;
	e = name(r, &p, &n);
	if (e < 0)
		return e;
	if (p != r->text.data) { /* the window may move behind it */
		buf_reset(&r->text);
		buf_put(&r->text, p, n);
		buf_room(&r->text, 1);
	}
	*ret = BYTES(r->text.data, n);
	e = expect(r, ':');
	return e < 0 ? e : json_look(r) ? 1 : r->failed ? r->failed : token_fail(r);
}

/* ---- values ---- */

static int take_object(struct json_reader *r, struct value *ret)
{
	const uint8_t *p = NULL;
	size_t n = 0;
	int e = json_enter(r, '{');

	*ret = value_object();
	while (e >= 0 && (e = step(r, '}')) > 0) {
		struct pair *pair;
		struct value v;

		e = name(r, &p, &n);
		if (e < 0)
			break;
		pair = value_append(ret, (const char *)p, n);
		e = expect(r, ':');
		if (e == 0)
			e = json_take(r, &v);
		if (e == 0)
			pair->value = v;
	}
	value_unite(ret); /* names that came twice */
	return e;
}

static int take_list(struct json_reader *r, struct value *ret)
{
	int e = json_enter(r, '[');

	*ret = value_list();
	while (e >= 0 && (e = json_item(r)) > 0) {
		struct value v;

		e = json_take(r, &v);
		if (e == 0)
			value_push(ret, v);
	}
	return e;
}

static int take_string(struct json_reader *r, struct value *ret)
{
	const uint8_t *p = NULL;
	size_t n = 0;
	int e = string(r, &p, &n);

	if (e == 0)
		*ret = value_text(p, n);
	return e;
}

int json_take(struct json_reader *r, struct value *ret)
{
	int e;

	*ret = (struct value){ .type = VALUE_NULL };
	switch (json_look(r)) {
	case '{': e = take_object(r, ret); break;
	case '[': e = take_list(r, ret); break;
	case '"': e = take_string(r, ret); break;
	case '0': e = number(r, ret); break;
	case 't': *ret = value_bool(true); e = word(r, "true"); break;
	case 'f': *ret = value_bool(false); e = word(r, "false"); break;
	case 'n': e = word(r, "null"); break;
	default: e = r->failed ? r->failed : token_fail(r); break;
	}
	if (e < 0)
		value_done(ret);
	return e;
}

int json_skip(struct json_reader *r)
{
	struct bytes unused;
	const uint8_t *p;
	struct value v;
	size_t n;
	int c = json_look(r), e;

	if (c == '{' || c == '[') {
		e = json_enter(r, (char)c);
		while (e >= 0 && (e = c == '{' ? json_member(r, &unused) : json_item(r)) > 0)
			e = json_skip(r);
		return e;
	}
	return c == '"' ? string(r, &p, &n) : json_take(r, &v);
}

int json_finish(struct json_reader *r)
{
	json_look(r);
	return r->failed == 0 && r->p < r->end ? json_fail(r, "text behind the end") : r->failed;
}

int json_read(const void *p, size_t n, struct value *ret)
{
	struct json_reader r;
	int e;

	json_reader_init(&r, p, n);
	e = json_take(&r, ret);
	if (e == 0 && (e = json_finish(&r)) < 0)
		value_done(ret);
	json_reader_done(&r);
	return e;
}
