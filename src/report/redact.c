/* Hides secrets before they reach the shared mapping: values of variables whose
 * name holds one of the profile's words, the same in command lines and texts
 * as NAME=value or name: value, and passwords in URLs. */
#include "visitor.h"

static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

static bool has_word(const char *s, uint32_t n, const char *word, uint32_t len)
{
	for (uint32_t i = 0; i + len <= n; i++) {
		uint32_t k = 0;

		while (k < len && lower((uint8_t)s[i + k]) == word[k])
			k++;
		if (k == len)
			return true;
	}
	return false;
}

bool redact_name(const char *name, uint32_t n)
{
	const char *w;

	if (!visitor.board->redact)
		return false;
	for (w = board_words(visitor.board); *w; w += __builtin_strlen(w) + 1)
		if (has_word(name, n, w, (uint32_t)__builtin_strlen(w)))
			return true;
	return false;
}

static bool name_char(int c)
{
	c = lower(c);
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

/* The end of a secret that starts at i: white space, a quote or a separator. */
static uint32_t secret_end(const char *s, uint32_t n, uint32_t i)
{
	while (i < n && s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && s[i] != '"' && s[i] != '\'' && s[i] != ',' &&
	       s[i] != ';' && s[i] != '&')
		i++;
	return i;
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

uint32_t redact_text(const char *s, uint32_t n, char *out, uint32_t cap)
{
	struct redacted r = { out, 0, cap };
	uint32_t from = 0, i = 0;

	if (!visitor.board->redact) {
		redacted_put(&r, s, n);
		return r.len;
	}
	for (; i < n; i++) {
		uint32_t name = i, start = i + 1, end = 0;

		if (s[i] != '=' && s[i] != ':')
			continue;
		if (i + 2 < n && s[i + 1] == '/' && s[i + 2] == '/') {
			end = url_secret(s, n, i + 3, &start);
		} else {
			while (name > from && name_char(s[name - 1]))
				name--;
			if (name < i && redact_name(s + name, i - name)) {
				while (start < n && (s[start] == ' ' || s[start] == '"' || s[start] == '\''))
					start++;
				end = secret_end(s, n, start);
			}
		}
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
