/* Hides secrets before they reach the shared mapping or the store: values of variables
 * whose name holds one of the profile's words, the same in command lines and texts
 * as NAME=value, name: value or --name value, and passwords in URLs.  Part of the visitor, and of the
 * recorder, which reads command lines itself: libc alone, no allocation. */
#include "report/redact.h"

static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

/* --api-key is API_KEY. */
static int plain(int c) { return c == '-' ? '_' : lower(c); }

static bool has_word(const char *s, uint32_t n, const char *word, uint32_t len)
{
	for (uint32_t i = 0; i + len <= n; i++) {
		uint32_t k = 0;

		while (k < len && plain((uint8_t)s[i + k]) == plain(word[k]))
			k++;
		if (k == len)
			return true;
	}
	return false;
}

bool secret_name(const char *words, const char *name, uint32_t n)
{
	for (const char *w = words; w && *w; w += __builtin_strlen(w) + 1)
		if (has_word(name, n, w, (uint32_t)__builtin_strlen(w)))
			return true;
	return false;
}

static bool name_char(int c)
{
	c = lower(c);
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

static bool quotes(int c) { return c == '"' || c == '\''; }

/* The end of a secret that starts at i: the quote it stands in, or else white space, a
 * quote or a separator. */
static uint32_t secret_end(const char *s, uint32_t n, uint32_t i)
{
	int quote = i > 0 && quotes(s[i - 1]) ? s[i - 1] : 0;

	while (i < n && (quote ? s[i] != quote : s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && !quotes(s[i]) && s[i] != ',' &&
					       s[i] != ';' && s[i] != '&'))
		i++;
	return i;
}

/* `Authorization: Bearer secret`: the word before the secret. */
static bool is_scheme(const char *s, uint32_t n)
{
	static const char schemes[][8] = { "bearer", "basic", "token", "apikey", "digest" };

	for (uint32_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
		if (n == __builtin_strlen(schemes[i]) && has_word(s, n, schemes[i], n))
			return true;
	return false;
}

/* `name=secret`, `name: secret`, `"name": "secret"`, `name = secret`: where the secret
 * behind the sign at i ends, or 0. */
static uint32_t named_secret(const char *words, const char *s, uint32_t n, uint32_t from, uint32_t i, uint32_t *ret_start)
{
	uint32_t end = i, name;

	while (end > from && s[end - 1] == ' ')
		end--;
	if (end > from && quotes(s[end - 1]))
		end--;
	for (name = end; name > from && name_char(s[name - 1]);)
		name--;
	if (name == end || !secret_name(words, s + name, end - name))
		return 0;
	while (*ret_start < n && (s[*ret_start] == ' ' || quotes(s[*ret_start])))
		++*ret_start;
	end = secret_end(s, n, *ret_start);
	if (end + 1 < n && s[end] == ' ' && is_scheme(s + *ret_start, end - *ret_start))
		end = secret_end(s, n, end + 1);
	return end;
}

bool secret_option(const char *words, const char *s, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!name_char(s[i]))
			return false;
	return n > 1 && s[0] == '-' && secret_name(words, s, n);
}

/* `--name secret`: where the secret behind the space at i ends, or 0. */
static uint32_t option_secret(const char *words, const char *s, uint32_t n, uint32_t from, uint32_t i)
{
	uint32_t option = i;

	while (option > from && s[option - 1] != ' ')
		option--;
	return i + 1 < n && s[i + 1] != '-' && secret_option(words, s + option, i - option) ? secret_end(s, n, i + 1) : 0;
}

/* `scheme://user:secret@`: where the secret behind "://" at i ends, or 0. */
static uint32_t url_secret(const char *s, uint32_t n, uint32_t i, uint32_t *ret_start)
{
	uint32_t colon = 0;

	for (; i < n && s[i] != '/' && s[i] != ' ' && s[i] != '"' && s[i] != '\n'; i++) {
		if (s[i] == ':' && !colon)
			colon = i;
		if (s[i] == '@' && colon) {
			*ret_start = colon + 1;
			return i;
		}
	}
	return 0;
}

struct redacted {
	char *out;
	uint32_t len, cap;
};

static void redacted_put(struct redacted *r, const char *s, uint32_t n)
{
	if (n > r->cap - r->len)
		n = r->cap - r->len;
	__builtin_memcpy(r->out + r->len, s, n);
	r->len += n;
}

uint32_t secret_hide(const char *words, const char *s, uint32_t n, char *out, uint32_t cap)
{
	struct redacted r = { out, 0, cap };
	uint32_t from = 0, i = 0;

	if (words == NULL) {
		redacted_put(&r, s, n);
		return r.len;
	}
	for (; i < n; i++) {
		uint32_t start = i + 1, end = 0;

		if (s[i] == ' ')
			end = option_secret(words, s, n, from, i);
		else if (s[i] == ':' && i + 2 < n && s[i + 1] == '/' && s[i + 2] == '/')
			end = url_secret(s, n, i + 3, &start);
		else if (s[i] == '=' || s[i] == ':')
			end = named_secret(words, s, n, from, i, &start);
		if (end <= start)
			continue;
		redacted_put(&r, s + from, start - from);
		redacted_put(&r, "<redacted>", 10);
		from = end;
		i = end - 1;
	}
	redacted_put(&r, s + from, n - from);
	return r.len;
}
