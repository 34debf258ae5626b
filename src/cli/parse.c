/* argv by the table: flags before or after the verb, `--flag=value` and
 * `--flag value`, `--` ends them; for `run` the first other word does.  A word
 * like -5m is a time and no flag.  Also help, which reads the same rows. */
#include "cli/parse.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/out.h"

#define VERB(n, s, sum, h) { #n, s, sum, h, cmd_##n },
const struct verb verbs[] = {
#include "cli/commands.def"
	{ 0 }
};
#define FLAG(v, n, l, a, s) { #v, n, l, a, s },
const struct flag flags[] = {
#include "cli/commands.def"
	{ 0 }
};
#define TOPIC(n, title, text) { #n, title, text },
const struct topic topics[] = {
#include "cli/commands.def"
	{ 0 }
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

/* ---- did you mean ---- */

/* Edits between two short words, a swap of neighbours counting one. */
static size_t edits(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), d[24][24];

	if (la > 22 || lb > 22)
		return 99;
	for (size_t i = 0; i <= la; i++) {
		for (size_t j = 0; j <= lb; j++) {
			size_t best;

			if (i == 0 || j == 0) {
				d[i][j] = i + j;
				continue;
			}
			best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
			best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
				best = d[i - 2][j - 2] + 1;
			d[i][j] = best;
		}
	}
	return d[la][lb];
}

static void nearer(const char *word, const char *name, size_t *best, const char **ret)
{
	size_t d = edits(word, name);

	if (d < *best) {
		*best = d;
		*ret = name;
	}
}

const char *verb_near(const char *word)
{
	size_t best = strlen(word) < 6 ? 2 : strlen(word) / 3 + 1;
	const char *found = NULL;

	for (const struct verb *v = verbs; v->name; v++)
		nearer(word, v->name, &best, &found);
	return found;
}

static bool flag_of(const struct flag *f, const char *verb)
{
	return strcmp(f->verb, "global") == 0 || (verb && strcmp(f->verb, verb) == 0);
}

static int unknown_flag(const struct cli *c, const char *word, size_t len)
{
	char hint[96] = "`snaptrail help` lists the verbs and their flags", name[32];
	size_t best = 4;
	const char *near = NULL;

	snprintf(name, sizeof name, "%.*s", (int)(len > 2 ? len - 2 : 0), len > 2 ? word + 2 : "");
	for (const struct flag *f = flags; f->name; f++)
		if (flag_of(f, c->verb))
			nearer(name, f->name, &best, &near);
	if (near && len > 2)
		snprintf(hint, sizeof hint, "did you mean --%s?", near);
	else if (c->verb)
		snprintf(hint, sizeof hint, "`snaptrail help %s` lists its flags", c->verb);
	return out_error(c, EXIT_USAGE, hint, "unknown flag %.*s%s%s", (int)(len < 60 ? len : 60), word, c->verb ? " of " : " before the verb",
			 c->verb ? c->verb : "");
}

/* ---- parsing ---- */

static int add_flag(struct cli *c, const struct flag *f, const char *value)
{
	if (c->flag_count == FLAGS_MAX)
		return out_error(c, EXIT_USAGE, NULL, "too many flags");
	c->flags[c->flag_count].name = f->name;
	c->flags[c->flag_count++].value = value;
	if (strcmp(f->name, "json") == 0)
		c->json = true;
	return 0;
}

/* `full|incremental` lists what may stand there; other arguments are free. */
static bool is_choice(const char *choices, const char *value)
{
	size_t n = strlen(value);

	if (!strchr(choices, '|'))
		return true;
	for (const char *p = choices; p; p = strchr(p, '|'), p = p ? p + 1 : NULL)
		if (n && strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == '\0'))
			return true;
	return false;
}

/* One flag at argv[*at]; moves on over its argument. */
static int parse_flag(struct cli *c, char **argv, int *at, const struct flag *f, const char *value)
{
	bool takes = f->argument && f->argument[0] != '[';

	if (value && !f->argument)
		return out_error(c, EXIT_USAGE, NULL, "--%s takes no value", f->name);
	if (!value && takes) {
		value = argv[*at + 1];
		if (!value)
			return out_error(c, EXIT_USAGE, NULL, "--%s needs a value: %s", f->name, f->argument);
		++*at;
	}
	if (takes && !*value && strcmp(f->argument, "TEXT") != 0) /* a variable that was not set, mostly */
		return out_error(c, EXIT_USAGE, NULL, "--%s is empty: it needs a value: %s", f->name, f->argument);
	if (takes && !is_choice(f->argument, value))
		return out_error(c, EXIT_USAGE, NULL, "--%s %.60s: one of %s", f->name, value, f->argument);
	return add_flag(c, f, value ? value : "");
}

static int parse_long(struct cli *c, char **argv, int *at)
{
	const char *word = argv[*at], *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);

	for (const struct flag *f = flags; f->name; f++)
		if (flag_of(f, c->verb) && strlen(f->name) == len - 2 && strncmp(f->name, word + 2, len - 2) == 0)
			return parse_flag(c, argv, at, f, equals ? equals + 1 : NULL);
	return unknown_flag(c, word, len);
}

/* `-r`, `-rn5`, `-n 5`. */
static int parse_letters(struct cli *c, char **argv, int *at)
{
	int status;

	for (const char *p = argv[*at] + 1; *p; p++) {
		const struct flag *f = flags;

		while (f->name && !(flag_of(f, c->verb) && f->letter == *p))
			f++;
		if (!f->name)
			return unknown_flag(c, argv[*at], strlen(argv[*at]) > 2 ? 2 : strlen(argv[*at]));
		if (f->argument && p[1])
			return parse_flag(c, argv, at, f, p + 1);
		if ((status = parse_flag(c, argv, at, f, NULL)) != 0)
			return status;
		if (f->argument)
			return 0;
	}
	return 0;
}

static int take_verb(struct cli *c, const char *word)
{
	const char *near;
	char hint[64];

	if (verb_find(word)) {
		c->verb = word;
		return 0;
	}
	near = verb_near(word);
	snprintf(hint, sizeof hint, near ? "did you mean `snaptrail %s`?" : "`snaptrail help` lists the verbs", near);
	return out_error(c, EXIT_USAGE, hint, "unknown verb '%.60s'", word);
}

/* So many words a synopsis has room for; a flag in it takes its argument along. */
static int words_at_most(const char *synopsis)
{
	int n = 0;

	if (strstr(synopsis, "..."))
		return INT_MAX;
	for (const char *p = synopsis; *p; p += strspn(p, " ")) {
		n += strncmp(p, "--", 2) ? 1 : -1;
		p += strcspn(p, " ");
	}
	return n;
}

static int check_words(const struct cli *c)
{
	const struct verb *v = verb_find(c->verb);
	int most = words_at_most(v->synopsis);

	if (c->word_count <= most)
		return 0;
	return out_error(c, EXIT_USAGE, most ? "quote blanks and *" : NULL, "%s takes %s: '%.60s' is too much", v->name,
			 *v->synopsis ? v->synopsis : "no words", c->words[most]);
}

/* Behind its REF, `tag` takes -TAG for a tag to remove. */
static bool takes_signs(const struct cli *c) { return c->verb && strcmp(c->verb, "tag") == 0 && c->word_count > 0; }

int cli_parse(struct cli *c, int argc, char **argv)
{
	bool ended = false;
	int status = 0;

	/* An error about the first flag is JSON too when --json comes later. */
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0 && strcmp(argv[i], "run") != 0; i++)
		c->json |= strcmp(argv[i], "--json") == 0;
	c->words = must(calloc((size_t)argc + 1, sizeof *c->words));
	for (int i = 1; i < argc && status == 0; i++) {
		const char *w = argv[i];

		if (ended || w[0] != '-' || !w[1] || isdigit((unsigned char)w[1]) || (takes_signs(c) && w[1] != '-')) {
			if (!c->verb) {
				status = take_verb(c, w);
				continue;
			}
			c->words[c->word_count++] = argv[i];
			ended |= strcmp(c->verb, "run") == 0;
		} else if (strcmp(w, "--") == 0) {
			ended = true;
		} else if (w[1] == '-') {
			status = parse_long(c, argv, &i);
		} else {
			status = parse_letters(c, argv, &i);
		}
	}
	return status == 0 && c->verb ? check_words(c) : status;
}
