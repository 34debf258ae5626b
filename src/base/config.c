/* The options themselves: the table made of options.def, reading one value,
 * setting one key, listing them all.  Which files and variables are read, and
 * in what order, is in config_load.c.  No globals but the constant table. */
#include "base/config.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/config_table.h"
#include "base/err.h"
#include "base/timefmt.h"

#define OPTION(s, k, t, m, d, c, o, doc) \
	{ #s, #k, #s "." #k, OPTION_##t, offsetof(struct config, m), d, c, o, doc },
const struct option_row option_rows[] = {
#include "base/options.def"
	{ NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL }
};
#undef OPTION

#define OPTION(s, k, t, m, d, c, o, doc) + 1
_Static_assert(0
#include "base/options.def"
	<= CONFIG_KEYS_MAX, "CONFIG_KEYS_MAX is too small");
#undef OPTION

/* The member must be what the type writes. */
#define SIZE_OF_DURATION 8
#define SIZE_OF_MILLIS 8
#define SIZE_OF_SIZE 8
#define SIZE_OF_COUNT 8
#define SIZE_OF_RATE 8
#define SIZE_OF_BOOL sizeof(bool)
#define SIZE_OF_ENUM sizeof(int)
#define SIZE_OF_TEXT sizeof(char *)
#define SIZE_OF_LIST sizeof(char **)
#define OPTION(s, k, t, m, d, c, o, doc) \
	_Static_assert(sizeof(((struct config *)0)->m) == SIZE_OF_##t, #m " does not fit its type");
#include "base/options.def"
#undef OPTION

static void free_list(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}

/* ---- did you mean ---- */

static size_t edit_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), row[64];

	if (la >= 63 || lb >= 63)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t corner = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t swap = corner + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
			size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;

			corner = row[j];
			row[j] = swap < best ? swap : best;
		}
	}
	return row[lb];
}

const char *config_did_you_mean(const char *word, const char *const *words)
{
	size_t limit = strlen(word) / 3 + 1, best = limit + 1;
	const char *found = NULL;

	for (; *words; words++) {
		size_t d = edit_distance(word, *words);

		if (d < best) {
			best = d;
			found = *words;
		}
	}
	return found;
}

/* ---- values ---- */

static int bad_value(const char *origin, const struct option_row *o, const char *detail)
{
	char text[384];

	snprintf(text, sizeof text, "%s", detail); /* it may be err_detail() itself */
	return fail(-EINVAL, "%s: %s: %s", origin, o->name, text);
}

static int parse_bool(const char *value, bool *ret)
{
	static const char *const yes[] = { "yes", "true", "on", "1", NULL };
	static const char *const no[] = { "no", "false", "off", "0", NULL };

	for (int i = 0; yes[i]; i++) {
		if (strcasecmp(value, yes[i]) == 0 || strcasecmp(value, no[i]) == 0) {
			*ret = strcasecmp(value, yes[i]) == 0;
			return 0;
		}
	}
	return fail(-EINVAL, "'%.60s' is neither yes nor no", value);
}

/* A choice by its word, or by yes/no where the row gives it that alias. */
static int parse_enum(const char *choices, const char *value, int *ret)
{
	_cleanup_free_ char *copy = xstrdup(choices);
	const char *words[16];
	char *save = NULL, listed[128] = "";
	const char *near;
	int n = 0;
	bool b = false, is_bool = parse_bool(value, &b) == 0;

	for (char *w = strtok_r(copy, " ", &save); w && n < 15; w = strtok_r(NULL, " ", &save)) {
		char *alias = strchr(w, '=');

		if (alias)
			*alias++ = '\0';
		if (strcasecmp(value, w) == 0 || (alias && is_bool && b == (strcmp(alias, "yes") == 0))) {
			*ret = n;
			return 0;
		}
		words[n++] = w;
		snprintf(listed + strlen(listed), sizeof listed - strlen(listed), "%s%s", n > 1 ? ", " : "", w);
	}
	words[n] = NULL;
	near = config_did_you_mean(value, words);
	if (near)
		return fail(-EINVAL, "bad value '%.60s' (did you mean '%s'?)", value, near);
	return fail(-EINVAL, "bad value '%.60s': one of %s", value, listed);
}

static int parse_count(const char *value, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno)
		return fail(-EINVAL, "'%.60s' is not a whole number", value);
	return 0;
}

/* `1000`, `1000/s` or `unlimited`. */
static int parse_rate(const char *value, uint64_t *ret)
{
	_cleanup_free_ char *copy = xstrdup(value);
	size_t n = strlen(copy);

	if (strcasecmp(value, "unlimited") == 0) {
		*ret = 0;
		return 0;
	}
	if (n > 2 && strcmp(copy + n - 2, "/s") == 0)
		copy[n - 2] = '\0';
	if (parse_count(copy, ret) < 0)
		return fail(-EINVAL, "bad rate '%.60s': write it like 1000/s, or 0 for unlimited", value);
	return 0;
}

static char **parse_list(const char *value)
{
	_cleanup_free_ char *copy = xstrdup(value);
	char **list = xcalloc(strlen(value) / 2 + 2, sizeof *list);
	char *save = NULL;
	size_t n = 0;

	for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		char *end;

		w += strspn(w, " \t");
		for (end = w + strlen(w); end > w && (end[-1] == ' ' || end[-1] == '\t'); end--)
			;
		*end = '\0';
		if (*w)
			list[n++] = xstrdup(w);
	}
	return list;
}

/* The folder that a path in the configuration means, absolute: the recorder
 * and the target may change their directories later. */
static char *absolute_path(const char *value)
{
	const char *home = getenv("HOME"), *state = getenv("XDG_STATE_HOME");
	char cwd[PATH_MAX];

	if (!*value && state && *state == '/')
		return xasprintf("%s/snaptrail", state);
	if (!*value && home && *home == '/')
		return xasprintf("%s/.local/state/snaptrail", home);
	if (!*value)
		return xasprintf("/tmp/snaptrail-%u", (unsigned)getuid());
	if (value[0] == '~' && value[1] == '/' && home)
		return xasprintf("%s%s", home, value + 1);
	if (value[0] == '/' || !getcwd(cwd, sizeof cwd))
		return xstrdup(value);
	return xasprintf("%s/%s", cwd, value);
}

static int parse_value(const struct option_row *o, const char *value, bool original, void *member)
{
	uint64_t bare = original || o->type == OPTION_MILLIS ? NSEC_PER_MSEC : 0;

	switch (o->type) {
	case OPTION_DURATION:
	case OPTION_MILLIS: return time_parse_duration(value, bare, member);
	case OPTION_SIZE: return size_parse(value, member);
	case OPTION_COUNT: return parse_count(value, member);
	case OPTION_RATE: return parse_rate(value, member);
	case OPTION_BOOL: return parse_bool(value, member);
	case OPTION_ENUM: return parse_enum(o->choices, value, member);
	case OPTION_TEXT:
		free(*(char **)member);
		*(char **)member = absolute_path(value);
		return 0;
	case OPTION_LIST:
		free_list(*(char ***)member);
		*(char ***)member = parse_list(value);
		return 0;
	}
	return fail(-EINVAL, "no such type of option");
}

int config_set_row(struct config *c, size_t row, const char *value, bool original, const char *origin)
{
	const struct option_row *o = &option_rows[row];

	if (parse_value(o, value, original, (char *)c + o->offset) < 0)
		return bad_value(origin, o, err_detail());
	free(c->text[row]);
	free(c->origin[row]);
	c->text[row] = xstrdup(o->type == OPTION_TEXT ? *(char **)((char *)c + o->offset) : value);
	c->origin[row] = xstrdup(origin);
	return 0;
}

/* ---- keys ---- */

static bool word_in(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = words; n && (p = strstr(p, word)); p += n)
		if ((p == words || p[-1] == ' ') && (p[n] == '\0' || p[n] == ' '))
			return true;
	return false;
}

int option_find(const char *section, const char *key, bool *ret_original)
{
	for (int i = 0; option_rows[i].name; i++) {
		const struct option_row *o = &option_rows[i];

		if (strcasecmp(o->section, section) == 0 && strcasecmp(o->key, key) == 0) {
			*ret_original = false;
			return i;
		}
		if (word_in(o->original, key)) {
			*ret_original = true;
			return i;
		}
	}
	return -1;
}

static int unknown_key(const char *section, const char *key, const char *origin)
{
	const char *keys[2 * CONFIG_KEYS_MAX + 1], *near;
	size_t n = 0;
	bool known = false;

	for (const struct option_row *o = option_rows; o->name; o++) {
		if (strcasecmp(o->section, section) == 0) {
			keys[n++] = o->key;
			known = true;
		}
		if (*o->original)
			keys[n++] = o->original;
	}
	keys[n] = NULL;
	near = config_did_you_mean(key, keys);
	for (const struct option_row *o = option_rows; o->name && !near; o++)
		if (strcasecmp(o->key, key) == 0)
			return fail(-EINVAL, "%s: unknown key '%.60s' in [%s] (did you mean '%s' in [%s]?)",
				    origin, key, section, o->key, o->section);
	if (near)
		return fail(-EINVAL, "%s: unknown key '%.60s' in [%s] (did you mean '%s'?)", origin, key, section, near);
	if (!known && *section)
		return option_section(section, origin);
	return fail(-EINVAL, "%s: unknown key '%.60s' in [%s]", origin, key, section);
}

int option_section(const char *section, const char *origin)
{
	const char *names[CONFIG_KEYS_MAX + 1], *near;
	size_t n = 0;

	for (const struct option_row *o = option_rows; o->name; o++) {
		if (strcasecmp(o->section, section) == 0)
			return 0;
		if (n == 0 || strcmp(names[n - 1], o->section) != 0)
			names[n++] = o->section;
	}
	names[n] = NULL;
	near = config_did_you_mean(section, names);
	if (near)
		return fail(-EINVAL, "%s: unknown section [%s] (did you mean [%s]?)", origin, section, near);
	return fail(-EINVAL, "%s: unknown section [%s]", origin, section);
}

int config_set_in(struct config *c, const char *section, const char *key, const char *value, const char *origin)
{
	bool original;
	int row = option_find(section, key, &original);

	if (row < 0)
		return unknown_key(section, key, origin);
	return config_set_row(c, (size_t)row, value, original, origin);
}

int config_set(struct config *c, const char *key, const char *value, const char *origin)
{
	_cleanup_free_ char *copy = xstrdup(key);
	char *dot = strchr(copy, '.');

	if (!dot)
		return config_set_in(c, "", copy, value, origin);
	*dot = '\0';
	return config_set_in(c, copy, dot + 1, value, origin);
}

int config_at(const struct config *c, size_t i, const char **ret_key, const char **ret_value,
	      const char **ret_origin, const char **ret_doc)
{
	if (i >= sizeof option_rows / sizeof *option_rows - 1)
		return -ENOENT;
	*ret_key = option_rows[i].name;
	*ret_value = c->text[i];
	*ret_origin = c->origin[i];
	*ret_doc = option_rows[i].doc;
	return 0;
}

/* In the order of enum hook_group's bits. */
static const char *const group_words[] = { "process", "thread", "status", "memory", "resource", "communication", NULL };
#define ALL_GROUPS 63u

static int stack_groups(char *const *words, unsigned *ret)
{
	bool b;

	*ret = 0;
	if (words[0] && !words[1] && parse_bool(words[0], &b) == 0) {
		*ret = b ? ALL_GROUPS : 0;
		return 0;
	}
	for (; *words; words++) {
		const char *near = config_did_you_mean(*words, group_words);
		int i = 0;

		while (group_words[i] && strcasecmp(group_words[i], *words))
			i++;
		if (group_words[i] == NULL)
			return near ? fail(-EINVAL, "'%.60s' is no group (did you mean '%s'?)", *words, near) :
				      fail(-EINVAL, "'%.60s' is neither yes, no, nor a group of [hooks]", *words);
		*ret |= 1u << i;
	}
	return 0;
}

unsigned config_stack_groups(const struct config *c)
{
	unsigned groups;

	return stack_groups(c->capture_stacks, &groups) < 0 ? 0 : groups;
}

static size_t row_of(const char *section, const char *key)
{
	return (size_t)option_find(section, key, &(bool){ 0 });
}

/* Said by the file and line, variable or flag that set the option. */
static int bad_row(const struct config *c, size_t row, const char *detail)
{
	return bad_value(c->origin[row], &option_rows[row], detail);
}

int config_validate(const struct config *c)
{
	size_t lane = row_of("ring", "lane"), lane_max = row_of("ring", "lane_max");
	_cleanup_free_ char *depth = NULL;
	unsigned groups;

	if (stack_groups(c->capture_stacks, &groups) < 0)
		return bad_row(c, row_of("capture", "stacks"), err_detail());
	if (c->stack_depth < 1 || c->stack_depth > CONFIG_STACK_DEPTH_MAX) {
		depth = xasprintf("%llu is not from 1 to %d frames", (unsigned long long)c->stack_depth, CONFIG_STACK_DEPTH_MAX);
		return bad_row(c, row_of("capture", "stack_depth"), depth);
	}
	if (c->lane_bytes < 4096 || (c->lane_bytes & (c->lane_bytes - 1)))
		return bad_row(c, lane, "it is a power of two from 4K on");
	if (c->lane_max_bytes & (c->lane_max_bytes - 1) || c->lane_max_bytes > UINT64_C(1) << 30)
		return bad_row(c, lane_max, "it is a power of two up to 1G");
	if (c->lane_max_bytes < c->lane_bytes)
		return bad_row(c, strcmp(c->origin[lane], "built-in") ? lane : lane_max, "ring.lane is not above ring.lane_max");
	return 0;
}

struct config *config_new(void)
{
	struct config *c = xcalloc(1, sizeof *c);

	for (size_t i = 0; option_rows[i].name; i++)
		if (config_set_row(c, i, option_rows[i].initial, false, "built-in") < 0)
			abort(); /* a row of options.def that does not parse */
	c->profile = xstrdup("default");
	return c;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < CONFIG_KEYS_MAX; i++) {
		free(c->text[i]);
		free(c->origin[i]);
	}
	free_list(c->keep_tags);
	free_list(c->patterns);
	free_list(c->capture_stacks);
	free(c->path);
	free(c->profile);
	free(c);
}
