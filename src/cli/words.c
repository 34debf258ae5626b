/* Values, times, sizes and foreign bytes as words for people.  Foreign bytes
 * are names and texts of recorded programs: they never reach a terminal as
 * control characters. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#include "cli/json.h"
#include "cli/out.h"

const char *time_words(uint64_t ns, char ret[TIME_WORDS])
{
	time_t t = (time_t)(ns / 1000000000);
	struct tm tm;
	size_t n;

	if (ns == 0 || !localtime_r(&t, &tm))
		return strcpy(ret, "-");
	n = strftime(ret, TIME_WORDS, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(ret + n, TIME_WORDS - n, ".%03u", (unsigned)(ns / 1000000 % 1000));
	return ret;
}

const char *duration_words(uint64_t ns, char ret[TIME_WORDS])
{
	uint64_t s = ns / 1000000000;

	if (ns < 1000000)
		snprintf(ret, TIME_WORDS, "%.3g us", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(ret, TIME_WORDS, "%.3g ms", (double)ns / 1e6);
	else if (s < 60)
		snprintf(ret, TIME_WORDS, "%.1f s", (double)ns / 1e9);
	else if (s < 3600)
		snprintf(ret, TIME_WORDS, "%" PRIu64 "m%02us", s / 60, (unsigned)(s % 60));
	else if (s < 86400)
		snprintf(ret, TIME_WORDS, "%" PRIu64 "h%02um", s / 3600, (unsigned)(s / 60 % 60));
	else
		snprintf(ret, TIME_WORDS, "%" PRIu64 "d%02uh", s / 86400, (unsigned)(s / 3600 % 24));
	return ret;
}

const char *size_words(uint64_t bytes, char ret[TIME_WORDS])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u < 4) {
		v /= 1024;
		u++;
	}
	snprintf(ret, TIME_WORDS, u && v < 10 ? "%.1f %s" : "%.0f %s", v, units[u]);
	return ret;
}

const char *count_words(uint64_t n, char ret[TIME_WORDS])
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
	char *p = ret;

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return ret;
}

const char *plural(uint64_t n, const char *one, const char *many)
{
	return n == 1 ? one : many;
}

/* Columns of the character at s, whose bytes are *ret_len; -1 for one that a
 * terminal must not see. */
static int columns_at(const char *s, size_t len, size_t *ret_len)
{
	mbstate_t state = { 0 };
	wchar_t w;
	size_t n = utf8_length((const unsigned char *)s, len);

	*ret_len = n ? n : 1;
	if (n <= 1)
		return n == 1 && (unsigned char)*s >= 0x20 && *s != 0x7f ? 1 : -1;
	/* In a locale of single bytes such characters are one column by guess. */
	if (mbrtowc(&w, s, n, &state) != n)
		return (unsigned char)s[0] == 0xc2 && (unsigned char)s[1] < 0xa0 ? -1 : 1;
	return wcwidth(w);
}

size_t text_columns(const char *s)
{
	size_t columns = 0, n, len = strlen(s);

	for (; len; s += n, len -= n) {
		int w = columns_at(s, len, &n);

		columns += w < 0 ? 1 : (size_t)w;
	}
	return columns;
}

char *clean_text(const char *s, size_t len, size_t width)
{
	char *text = must(malloc(len * 4 + 4)), *p = text, *cut = text;
	size_t columns = 0, n;

	for (; len; s += n, len -= n) {
		int w = columns_at(s, len, &n);
		size_t need = w < 0 ? 4 * n : (size_t)w;

		if (width && columns + 1 <= width)
			cut = p;                 /* the mark still fits here */
		if (width && columns + need > width) {
			strcpy(cut, "\xe2\x80\xa6");
			return text;
		}
		columns += need;
		for (size_t i = 0; w < 0 && i < n; i++)
			p += sprintf(p, "\\x%02x", (unsigned char)s[i]);
		if (w >= 0)
			p = mempcpy(p, s, n);
	}
	*p = '\0';
	return text;
}

char *value_words(const struct snaptrail_value *v, size_t width)
{
	char *text = NULL, *clean;
	size_t len = 0;
	struct json j = JSON_INIT(must(open_memstream(&text, &len)));

	json_value(&j, v);
	fclose(j.out);
	clean = clean_text(text, len, width);
	free(text);
	return clean;
}

char *value_bare(const struct snaptrail_value *v, size_t width)
{
	enum snaptrail_type t = v ? snaptrail_value_type(v) : SNAPTRAIL_NULL;
	size_t len;
	const char *s;

	if (t != SNAPTRAIL_STRING && t != SNAPTRAIL_BYTES)
		return value_words(v, width);
	s = snaptrail_value_bytes(v, &len);
	return clean_text(s, len, width);
}

char *field_words(const struct snaptrail_value *v, const char *name)
{
	const struct snaptrail_value *f = NULL;

	if (v && snaptrail_value_type(v) == SNAPTRAIL_OBJECT)
		f = snaptrail_value_get(v, name);
	return f ? value_bare(f, 0) : must(strdup(""));
}

/* Appends a word when there is one; takes it. */
static void add_word(char **text, const char *before, char *word)
{
	char *longer;

	if (*word && asprintf(&longer, "%s%s%s", *text, before, word) >= 0) {
		free(*text);
		*text = longer;
	}
	free(word);
}

char *entity_words(const struct snaptrail_value *v, size_t width)
{
	const struct snaptrail_value *a = NULL, *value = NULL;
	char *text, *status, *path;

	if (v && snaptrail_value_type(v) == SNAPTRAIL_OBJECT) {
		a = snaptrail_value_get(v, "allocation");
		value = snaptrail_value_get(v, "value");
	}
	if (a == NULL)
		return value_words(value ? value : v, width);
	text = field_words(v, "type");
	status = field_words(v, "status");
	if (strcmp(status, "open") == 0)
		*status = 0;
	path = field_words(a, "path");
	if (*path == 0) {
		free(path);
		path = field_words(a, "requestedPath");
	}
	add_word(&text, " ", path);
	add_word(&text, ", ", status);
	add_word(&text, " on ", field_words(a, "address"));
	add_word(&text, " with ", field_words(a, "peer"));
	add_word(&text, " from fd", field_words(a, "acceptedOn"));
	add_word(&text, " paired with fd", field_words(a, "pairedWith"));
	return text;
}
