/* The overview: processes as a tree with their threads, descriptors process by
 * process, then the other tables, each only so long that all fit on a screen
 * or two.  What is left out is said, with the command that shows it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/out.h"
#include "cli/show.h"

#define ROWS_MAX 24           /* of a table, and of one process's descriptors */

/* What the overview says of an entity, copied while the library shows it. */
struct row {
	char *key, *parent, *left, *right;
	bool gone;                   /* ended: shown after those that live */
	bool printed;
};

struct rows {
	struct cli *cli;
	struct row *items;
	size_t count, cap;
};

static struct row *add_row(struct rows *r, const char *key, size_t key_len)
{
	if (r->count == r->cap) {
		r->cap = r->cap ? 2 * r->cap : 64;
		r->items = must(realloc(r->items, r->cap * sizeof *r->items));
	}
	memset(&r->items[r->count], 0, sizeof *r->items);
	r->items[r->count].key = clean_text(key, key_len, 0);
	return &r->items[r->count++];
}

static void free_rows(struct rows *r)
{
	for (size_t i = 0; i < r->count; i++) {
		free(r->items[i].key);
		free(r->items[i].parent);
		free(r->items[i].left);
		free(r->items[i].right);
	}
	free(r->items);
	*r = (struct rows){ .cli = r->cli };
}

static void heading(const struct cli *c, const char *name, size_t n)
{
	char words[TIME_WORDS];

	printf("\n%s%s%s (%s)\n", paint(c, PAINT_BOLD), name, paint(c, PAINT_NONE), count_words(n, words));
}

static void more(const struct cli *c, size_t hidden, const char *glob)
{
	if (hidden)
		printf("  %s... %zu more: snaptrail show --path '%s'%s\n", paint(c, PAINT_DIM), hidden, glob, paint(c, PAINT_NONE));
}

static void print_cut(const struct cli *c, size_t used, const char *text)
{
	char *cut = clean_text(text, strlen(text), c->width ? (size_t)(c->width > (int)used + 10 ? c->width - (int)used : 10) : 0);

	printf("%s\n", cut);
	free(cut);
}

/* ---- processes ---- */

static int collect_agent(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
			 uint64_t changed_ns)
{
	struct rows *r = arg;
	struct row *row = add_row(r, key, key_len);
	char *name = field_words(v, "name"), *status = field_words(v, "status"), *code = field_words(v, "exitCode");
	char *signal = field_words(v, "signal"), *command = field_words(v, "commandLine"), *text = NULL;
	char *slash = strchr(row->key, '/');

	(void)source;
	(void)changed_ns;
	/* A thread belongs to its process whoever made it. */
	row->parent = slash ? must(strndup(row->key, (size_t)(slash - row->key))) : field_words(v, "parent");
	row->gone = strcmp(status, "terminated") == 0 || strcmp(status, "error") == 0;
	if (asprintf(&text, "%s%s%s%s%s", status, *code ? " exit " : "", code, *signal ? " " : "", signal) < 0)
		text = NULL;
	row->left = must(text);
	if (asprintf(&text, "%s%s%s", name, !slash && *command ? "  " : "", slash ? "" : command) < 0)
		text = NULL;
	row->right = must(text);
	free(name);
	free(status);
	free(code);
	free(signal);
	free(command);
	return 0;
}

static bool is_root(const struct rows *r, const struct row *row)
{
	for (size_t i = 0; i < r->count; i++)
		if (&r->items[i] != row && strcmp(r->items[i].key, row->parent) == 0)
			return false;
	return true;
}

static void print_agent(struct rows *r, struct row *row, char *prefix, size_t *left);

/* The children of `row`; *left counts the lines that remain. */
static void print_children(struct rows *r, const struct row *row, char *prefix, size_t *left)
{
	size_t last = SIZE_MAX, n = strlen(prefix);

	for (size_t i = 0; i < r->count; i++)
		if (!r->items[i].printed && strcmp(r->items[i].parent, row->key) == 0)
			last = i;
	for (size_t i = 0; last != SIZE_MAX && i <= last && n < 200; i++) {
		struct row *child = &r->items[i];

		if (child->printed || strcmp(child->parent, row->key) != 0)
			continue;
		strcpy(prefix + n, i == last ? "`- " : "|- ");
		print_agent(r, child, prefix, left);
	}
	prefix[n] = '\0';
}

static void print_agent(struct rows *r, struct row *row, char *prefix, size_t *left)
{
	const char *slash = strchr(row->key, '/');
	size_t n = strlen(prefix), used;
	int pad;

	row->printed = true;
	if (*left == 0)
		return;
	--*left;
	pad = 20 - (int)(n + strlen(slash ? slash + 1 : row->key));
	used = (size_t)printf("  %s%s%*s  ", prefix, slash ? slash + 1 : row->key, pad > 0 ? pad : 0, "");
	printf("%s", paint(r->cli, row->gone ? PAINT_DIM : PAINT_GREEN));
	used += (size_t)printf("%-12s  ", row->left);
	printf("%s", paint(r->cli, PAINT_NONE));
	print_cut(r->cli, used, row->right);
	if (n >= 3)
		memcpy(prefix + n - 3, prefix[n - 3] == '`' ? "   " : "|  ", 3); /* NOLINT(bugprone-not-null-terminated-result): the end stands */
	print_children(r, row, prefix, left);
}

static void show_agents(struct cli *c, const struct snaptrail_state *s)
{
	struct rows r = { .cli = c };
	char prefix[256] = "";
	size_t left = 2 * ROWS_MAX, n;

	snaptrail_state_each(s, SNAPTRAIL_AGENTS, collect_agent, &r);
	n = r.count;
	if (n > 0)
		heading(c, "Processes and threads", n);
	for (size_t i = 0; i < r.count && left > 0; i++)
		if (!r.items[i].printed && is_root(&r, &r.items[i]))
			print_agent(&r, &r.items[i], prefix, &left);
	/* Parents that name each other in a ring have no root. */
	for (size_t i = 0; i < r.count && left > 0; i++)
		if (!r.items[i].printed)
			print_agent(&r, &r.items[i], prefix, &left);
	more(c, n > 2 * ROWS_MAX ? n - 2 * ROWS_MAX : 0, "agents:*");
	free_rows(&r);
}

/* ---- descriptors ---- */

static int collect_resource(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v,
			    const char *source, uint64_t changed_ns)
{
	struct rows *r = arg;
	struct row *row = add_row(r, key, key_len);
	const struct snaptrail_value *usage = snaptrail_value_get(v, "usage");
	char *what = entity_words(v, 0), *rest = strchr(what, ' ');
	char *in = field_words(usage, "bytesRead"), *out = field_words(usage, "bytesWritten"), *text;
	char *slash = strchr(row->key, '/');

	(void)source;
	(void)changed_ns;
	row->parent = must(strndup(row->key, slash ? (size_t)(slash - row->key) : 0));
	row->left = field_words(v, "type");
	if (strcmp(in, "0") == 0)
		*in = 0;
	if (strcmp(out, "0") == 0)
		*out = 0;
	if (asprintf(&text, "%s%s%s%s%s", rest ? rest + 1 : "", *in ? "  read " : "", in, *out ? "  written " : "", out) < 0)
		text = NULL;
	row->right = must(text);
	free(what);
	free(in);
	free(out);
	return 0;
}

static void print_owner(struct cli *c, struct rows *r, size_t first)
{
	const char *owner = r->items[first].parent;
	size_t n = 0;
	char glob[300];

	for (size_t i = first; i < r->count; i++)
		n += strcmp(r->items[i].parent, owner) == 0;
	printf("  %s%s%s  %zu open\n", paint(c, PAINT_CYAN), owner, paint(c, PAINT_NONE), n);
	for (size_t i = first, shown = 0; i < r->count; i++) {
		struct row *row = &r->items[i];
		size_t skip = strlen(owner), used;

		if (strcmp(row->parent, owner) != 0)
			continue;
		row->printed = true;
		if (shown++ >= ROWS_MAX)
			continue;
		used = (size_t)printf("    %-6s  %-9s  ", row->key + skip + (row->key[skip] == '/'), row->left);
		print_cut(c, used, row->right);
	}
	snprintf(glob, sizeof glob, "resources:%s/*", owner);
	more(c, n > ROWS_MAX ? n - ROWS_MAX : 0, glob);
}

static void show_resources(struct cli *c, const struct snaptrail_state *s)
{
	struct rows r = { .cli = c };

	snaptrail_state_each(s, SNAPTRAIL_RESOURCES, collect_resource, &r);
	if (r.count > 0)
		heading(c, "Descriptors", r.count);
	for (size_t i = 0; i < r.count; i++)
		if (!r.items[i].printed)
			print_owner(c, &r, i);
	free_rows(&r);
}

/* ---- the other tables: one line an entry ---- */

static int collect_memory(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
			  uint64_t changed_ns)
{
	struct rows *r = arg;
	struct row *row = add_row(r, key, key_len);
	const struct snaptrail_value *value = snaptrail_value_type(v) == SNAPTRAIL_OBJECT ? snaptrail_value_get(v, "value") : v;

	(void)source;
	(void)changed_ns;
	/* Environments are long and seldom the question: last, and counted. */
	row->gone = strstr(row->key, "/env/") != NULL;
	row->right = value_words(value, 0);
	return 0;
}

static int collect_task(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
			uint64_t changed_ns)
{
	struct rows *r = arg;
	struct row *row = add_row(r, key, key_len);
	char *status = field_words(v, "status"), *type = field_words(v, "type"), *what = field_words(v, "description");
	char *error = field_words(v, "error"), *text;

	(void)source;
	(void)changed_ns;
	if (asprintf(&text, "%-10s %s%s%s%s%s", status, *error ? error : "", *error ? "  " : "", type, *what ? "  " : "", what) < 0)
		text = NULL;
	row->right = must(text);
	free(status);
	free(type);
	free(what);
	free(error);
	return 0;
}

static int collect_value(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
			 uint64_t changed_ns)
{
	struct rows *r = arg;
	struct row *row = add_row(r, key, key_len);
	size_t n = snaptrail_value_type(v) == SNAPTRAIL_LIST ? snaptrail_value_count(v) : 0;

	(void)source;
	(void)changed_ns;
	/* Of a channel the last message says most. */
	row->right = n > 0 ? value_words(snaptrail_value_at(v, n - 1), 0) : value_words(v, 0);
	return 0;
}

typedef int (*collector)(void *, const char *, size_t, const struct snaptrail_value *, const char *, uint64_t);

static void show_lines(struct cli *c, const struct snaptrail_state *s, enum snaptrail_table table, const char *title,
		       collector collect)
{
	struct rows r = { .cli = c };
	size_t shown = 0, wide = 0, apart = 0;
	char glob[64];

	snaptrail_state_each(s, table, collect, &r);
	if (r.count > 0)
		heading(c, title, r.count);
	for (size_t i = 0; i < r.count; i++)
		if (!r.items[i].gone && text_columns(r.items[i].key) > wide)
			wide = text_columns(r.items[i].key);
	if (wide > 40)
		wide = 40;
	for (size_t i = 0; i < r.count; i++) {
		size_t columns = text_columns(r.items[i].key);

		apart += r.items[i].gone;
		if (r.items[i].gone || shown == ROWS_MAX)
			continue;
		shown++;
		printf("  %s%*s  ", r.items[i].key, columns < wide ? (int)(wide - columns) : 0, "");
		print_cut(c, 4 + (columns > wide ? columns : wide), r.items[i].right);
	}
	if (apart)
		printf("  %zu environment variables: snaptrail show --path 'memory:*/env/*'\n", apart);
	snprintf(glob, sizeof glob, "%s:*", snaptrail_table_name(table));
	more(c, r.count - apart - shown, glob);
	free_rows(&r);
}

void show_overview(struct cli *c, const struct snaptrail_point *p, const struct snaptrail_state *s)
{
	char time[TIME_WORDS];

	printf("%s%s%s  %s%s", paint(c, PAINT_BOLD), snaptrail_state_session(s), paint(c, PAINT_NONE),
	       time_words(snaptrail_state_time(s), time), p->live ? "  live" : "");
	if (p->is_snapshot)
		printf("  snapshot %s", p->snapshot.id);
	putchar('\n');
	show_agents(c, s);
	show_resources(c, s);
	show_lines(c, s, SNAPTRAIL_MEMORY, "Memory", collect_memory);
	show_lines(c, s, SNAPTRAIL_TASKS, "Tasks", collect_task);
	show_lines(c, s, SNAPTRAIL_COMMUNICATIONS, "Communications", collect_value);
	show_lines(c, s, SNAPTRAIL_SWARMS, "Swarms", collect_value);
	show_lines(c, s, SNAPTRAIL_METRICS, "Metrics", collect_value);
}
