/* show: the whole state at an instant.  JSON gives every table in order; people
 * get an overview, or with --path everything that matches in full.  The
 * overview itself is in show_overview.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/out.h"
#include "cli/show.h"
#include "cli/stacks.h"

struct shower {
	struct cli *cli;
	struct json json;
	enum snaptrail_table table;
	const char *path, *field;
	size_t matched;
	struct last_stacks *stacks; /* or NULL */
};

/* `usage.bytesRead` inside an entity; the whole of it without a field. */
static const struct snaptrail_value *field_of(const struct snaptrail_value *v, const char *field)
{
	char name[256];

	while (v && field && *field) {
		size_t n = strcspn(field, ".");

		if (snaptrail_value_type(v) != SNAPTRAIL_OBJECT)
			return NULL;
		snprintf(name, sizeof name, "%.*s", (int)n, field);
		v = snaptrail_value_get(v, name);
		field += n + (field[n] == '.');
	}
	return v;
}

static bool matches(struct shower *s, const char *key, size_t key_len, const struct snaptrail_value *v)
{
	if (s->path && (!snaptrail_path_match(s->path, s->table, key, key_len) || !field_of(v, s->field)))
		return false;
	s->matched++;
	return true;
}

/* ---- JSON ---- */

/* The entity, or with a field only what leads to it. */
static void entity_json(struct json *j, const struct snaptrail_value *v, const char *field)
{
	size_t depth = 0;

	for (const char *p = field; p && *p; depth++) {
		size_t n = strcspn(p, ".");

		json_open(j, '{');
		json_key_bytes(j, p, n);
		p += n + (p[n] == '.');
	}
	json_value(j, field_of(v, field));
	while (depth-- > 0)
		json_close(j, '}');
}

static int one_json(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
		    uint64_t changed_ns)
{
	struct shower *s = arg;

	(void)source;
	(void)changed_ns;
	if (!matches(s, key, key_len, v))
		return 0;
	json_key_bytes(&s->json, key, key_len);
	entity_json(&s->json, v, s->field);
	return 0;
}

static void stack_of_one(void *arg, const char *name, const char *text)
{
	struct json *j = arg;

	json_key(j, name);
	json_raw(j, text, strlen(text));
}

/* A state that was handed in has its own. */
static void show_timestamp(struct json *j, const struct snaptrail_state *state)
{
	const struct snaptrail_value *own = snaptrail_state_top(state, "timestamp");

	if (own == NULL) {
		json_time(j, "timestamp", snaptrail_state_time(state));
		return;
	}
	json_key(j, "timestamp");
	json_value(j, own);
}

/* What else was handed in beside the tables, but for names that mean ours. */
static void show_others(struct json *j, const struct snaptrail_state *state)
{
	static const char *const ours[] = { "timestamp", "timeNs", "session", "coalesced", "lost", "stacks" };
	const struct snaptrail_value *v;
	const char *name;

	for (size_t i = 0; (v = snaptrail_state_top_at(state, i, &name)); i++) {
		bool taken = false;

		for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
			taken = taken || strcmp(name, ours[k]) == 0;
		for (int t = SNAPTRAIL_AGENTS; t <= SNAPTRAIL_METRICS; t++)
			taken = taken || strcmp(name, snaptrail_table_name((enum snaptrail_table)t)) == 0;
		if (taken)
			continue;
		json_key(j, name);
		json_value(j, v);
	}
}

static int state_json(struct shower *s, const struct snaptrail_state *state)
{
	struct json *j = &s->json;
	int r = 0;

	json_open(j, '{');
	show_timestamp(j, state);
	json_ns(j, "timeNs", snaptrail_state_time(state));
	json_pair_string(j, "session", snaptrail_state_session(state));
	if (snaptrail_state_coalesced(state))
		json_pair_uint(j, "coalesced", snaptrail_state_coalesced(state));
	if (snaptrail_state_lost(state))
		json_pair_uint(j, "lost", snaptrail_state_lost(state));
	for (s->table = SNAPTRAIL_AGENTS; s->table <= SNAPTRAIL_METRICS && r == 0; s->table++) {
		const struct snaptrail_value *other = snaptrail_state_top(state, snaptrail_table_name(s->table));

		json_key(j, snaptrail_table_name(s->table));
		if (other) { /* it was handed in as something else than a table */
			json_value(j, other);
			continue;
		}
		json_open(j, '{');
		r = snaptrail_state_each(state, s->table, one_json, s);
		json_close(j, '}');
	}
	show_others(j, state);
	if (s->stacks) {
		json_key(j, "stacks");
		json_open(j, '{');
		stacks_each(s->stacks, stack_of_one, j);
		json_close(j, '}');
	}
	json_close(j, '}');
	json_line(j);
	return r;
}

/* ---- entities in full ---- */

static void print_value(const struct snaptrail_value *v, int indent)
{
	for (size_t i = 0; i < snaptrail_value_count(v); i++) {
		size_t len;
		const char *name = snaptrail_value_name_at(v, i, &len);
		const struct snaptrail_value *item = snaptrail_value_at(v, i);
		char *clean = clean_text(name, len, 0), *text;

		printf("%*s%-14s", indent, "", clean);
		free(clean);
		if (snaptrail_value_type(item) == SNAPTRAIL_OBJECT && snaptrail_value_count(item) > 0 && indent < 16) {
			putchar('\n');
			print_value(item, indent + 2);
			continue;
		}
		text = value_words(item, 0);
		printf(" %s\n", text);
		free(text);
	}
}

static int one_in_full(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v, const char *source,
		       uint64_t changed_ns)
{
	struct shower *s = arg;
	struct cli *c = s->cli;
	char *clean, *text, time[TIME_WORDS];
	const char *stack = stacks_of(s->stacks, s->table, key, key_len);

	if (!matches(s, key, key_len, v))
		return 0;
	clean = clean_text(key, key_len, 0);
	printf("%s%s:%s%s", paint(c, PAINT_BOLD), snaptrail_table_name(s->table), clean, paint(c, PAINT_NONE));
	free(clean);
	if (s->field)
		printf("#%s", s->field);
	v = field_of(v, s->field);
	if (snaptrail_value_type(v) != SNAPTRAIL_OBJECT) {
		text = value_words(v, 0);
		printf(" = %s", text);
		free(text);
	}
	if (changed_ns)
		printf("  %s(%s%s%s)%s", paint(c, PAINT_DIM), time_words(changed_ns, time), source && *source ? ", " : "",
		       source ? source : "", paint(c, PAINT_NONE));
	putchar('\n');
	if (snaptrail_value_type(v) == SNAPTRAIL_OBJECT)
		print_value(v, 2);
	if (stack)
		fputs(stack, stdout);
	return 0;
}

/* ---- the verb ---- */

static int show_state(struct cli *c, const struct snaptrail_point *p, const struct snaptrail_state *state)
{
	struct shower s = { .cli = c, .json = JSON_INIT(stdout), .path = cli_flag(c, "path") };
	int r = 0;

	if (cli_has(c, "stack")) {
		if (!s.path && !c->json)
			return out_error(c, EXIT_USAGE, "snaptrail show --path 'p*/fd*' --stack", "show --stack needs a --path");
		r = stacks_find(c, p, s.path, &s.stacks);
		if (r != 0)
			return r;
	}
	if (s.path)
		s.field = snaptrail_path_field(s.path);
	if (s.field && !*s.field)
		return out_error(c, EXIT_USAGE, NULL, "--path %.60s: no field stands behind #", s.path);
	if (!c->json)
		out_page(c);
	if (c->json)
		r = state_json(&s, state);
	else if (!s.path)
		show_overview(c, p, state);
	else
		for (s.table = SNAPTRAIL_AGENTS; s.table <= SNAPTRAIL_METRICS && r == 0; s.table++)
			r = snaptrail_state_each(state, s.table, one_in_full, &s);
	stacks_done(s.stacks);
	if (r < 0)
		return out_failed(c, r);
	return s.path && s.matched == 0 ? EXIT_NO : EXIT_YES;
}

int cmd_show(struct cli *c)
{
	static struct snaptrail_point p;
	struct snaptrail_state *state = NULL;
	uint64_t n;
	int r;

	r = cli_state(c, c->words[0] ? c->words[0] : "latest", &p, &state);
	if (r != 0)
		return r;
	r = show_state(c, &p, state);
	out_flush();
	if ((n = snaptrail_state_coalesced(state)) > 0 && !c->json)
		out_note(c, "coalesced: %" PRIu64 ", so many changes around this instant were merged into others", n);
	if (snaptrail_state_lost(state) > 0)
		out_gaps(c, p.session, p.time_ns, p.time_ns + 1);
	snaptrail_state_free(state);
	return r;
}
