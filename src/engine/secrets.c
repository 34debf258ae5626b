/* What the recorder reads itself and must not tell: command lines of `run` and of /proc
 * hide the same as the visitor does in the program. */
#include "engine/secrets.h"

#include <ctype.h>

#include "report/redact.h"

/* A pattern `*SECRET*` as it is looked for: its longest literal part,
 * in lower case. */
static size_t word_of(const char *pattern, char *out, size_t cap)
{
	const char *best = pattern;
	size_t len = 0;

	for (const char *p = pattern; *p;) {
		size_t n = strcspn(p, "*?");

		if (n > len) {
			best = p;
			len = n;
		}
		p += n;
		p += *p != 0;
	}
	if (len > cap)
		len = cap;
	for (size_t i = 0; i < len; i++)
		out[i] = (char)tolower((unsigned char)best[i]);
	return len;
}

const char *secret_words_of(const struct config *c, char words[BOARD_WORDS_BYTES])
{
	char *p = words, *end = p + BOARD_WORDS_BYTES - 2;

	for (char *const *pattern = c->patterns; pattern && *pattern && end - p > 64; pattern++) {
		size_t n = word_of(*pattern, p, 60);

		if (n) {
			p += n;
			*p++ = 0;
		}
	}
	*p = 0;
	return c->redact ? words : NULL;
}

void secret_put(struct buf *b, const char *words, const char *before, const char *s)
{
	size_t n = strlen(s), most = 16 + 5 * n; /* `key=x`: a word of a letter or more, and a secret of one */

	if (before && s[0] != '-' && secret_option(words, before, (uint32_t)strlen(before)))
		buf_str(b, "<redacted>");
	else
		b->len += secret_hide(words, s, (uint32_t)n, (char *)buf_room(b, most), (uint32_t)most);
}
