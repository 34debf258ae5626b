/* diff: what differs between two instants.  The library calls back table by
 * table and key by key; JSON wants added, updated and removed apart, so each
 * table is written into three buffers and put together at its end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/out.h"

enum { ADDED, UPDATED, REMOVED, GROUPS };

struct group {
	char *text;
	size_t len;
	struct json json;
};

struct differ {
	struct cli *cli;
	int table;                   /* being written, 0 before the first */
	struct group groups[GROUPS];
	struct json json;
	char *key;                   /* of the entity being updated */
	size_t key_len;
};

/* ---- JSON ---- */

static void table_begin(struct differ *d, int table)
{
	d->table = table;
	for (int i = 0; i < GROUPS; i++) {
		d->groups[i] = (struct group){ 0 };
		d->groups[i].json.out = must(open_memstream(&d->groups[i].text, &d->groups[i].len));
	}
}

static void entity_end(struct differ *d)
{
	if (d->key)
		json_close(&d->groups[UPDATED].json, '}');
	free(d->key);
	d->key = NULL;
}

static void table_end(struct differ *d)
{
	static const char *const names[GROUPS] = { "added", "updated", "removed" };

	entity_end(d);
	json_key(&d->json, snaptrail_table_name(d->table));
	json_open(&d->json, '{');
	for (int i = 0; i < GROUPS; i++) {
		struct group *g = &d->groups[i];

		fclose(g->json.out);
		json_key(&d->json, names[i]);
		json_open(&d->json, i == REMOVED ? '[' : '{');
		if (g->len)
			json_raw(&d->json, g->text, g->len);
		json_close(&d->json, i == REMOVED ? ']' : '}');
		free(g->text);
	}
	json_close(&d->json, '}');
}

/* Every table stands in the result, in order, with or without differences. */
static void tables_up_to(struct differ *d, int table)
{
	while (d->table < table) {
		if (d->table)
			table_end(d);
		if (d->table == SNAPTRAIL_TABLES) {
			d->table++;
			return;
		}
		table_begin(d, d->table + 1);
	}
}

static bool same_entity(const struct differ *d, const struct snaptrail_difference *f)
{
	return d->key && d->key_len == f->key_len && memcmp(d->key, f->key, f->key_len) == 0;
}

static void keep_key(struct differ *d, const struct snaptrail_difference *f)
{
	free(d->key);
	d->key = must(malloc(f->key_len + 1));
	memcpy(d->key, f->key, f->key_len);
	d->key_len = f->key_len;
}

static int difference_json(void *arg, const struct snaptrail_difference *f)
{
	struct differ *d = arg;
	struct json *j;

	tables_up_to(d, f->table);
	if (f->op == 'u' && !same_entity(d, f)) {
		entity_end(d);
		json_key_bytes(&d->groups[UPDATED].json, f->key, f->key_len);
		json_open(&d->groups[UPDATED].json, '{');
		keep_key(d, f);
	}
	j = &d->groups[f->op == 'a' ? ADDED : f->op == 'r' ? REMOVED : UPDATED].json;
	if (f->op == 'a') {
		json_key_bytes(j, f->key, f->key_len);
		json_value(j, f->after);
	} else if (f->op == 'r') {
		json_bytes(j, f->key, f->key_len);
	} else {
		json_key(j, f->field);
		json_open(j, '{');
		if (f->before) {
			json_key(j, "old");
			json_value(j, f->before);
		}
		if (f->after) {
			json_key(j, "new");
			json_value(j, f->after);
		}
		json_close(j, '}');
	}
	return 0;
}

static void point_json(struct json *j, const char *key, const struct snaptrail_point *p, const struct snaptrail_state *s)
{
	json_key(j, key);
	json_open(j, '{');
	json_pair_string(j, "id", p->is_snapshot ? p->snapshot.id : NULL);
	json_pair_string(j, "session", snaptrail_state_session(s));
	json_time(j, "timestamp", snaptrail_state_time(s));
	json_ns(j, "timeNs", snaptrail_state_time(s));
	json_close(j, '}');
}

static void summary_json(struct json *j, const uint64_t *changed, uint64_t total)
{
	json_key(j, "summary");
	json_open(j, '{');
	for (int t = 1; t <= SNAPTRAIL_TABLES; t++) {
		char name[64];

		snprintf(name, sizeof name, "%sChanged", snaptrail_table_name(t));
		json_pair_uint(j, name, changed[t]);
	}
	json_pair_uint(j, "totalChanges", total);
	json_close(j, '}');
}

/* ---- people ---- */

static int difference_words(void *arg, const struct snaptrail_difference *f)
{
	struct differ *d = arg;
	struct cli *c = d->cli;
	char *key = clean_text(f->key, f->key_len, 0), *before = NULL, *after = NULL;
	size_t half = c->width ? (size_t)(c->width > 50 ? c->width - 26 : 24) / 2 : 0;

	if (d->table != (int)f->table)
		printf("%s%s%s\n", paint(c, PAINT_BOLD), snaptrail_table_name(f->table), paint(c, PAINT_NONE));
	if (f->op == 'a') {
		size_t room = c->width ? (size_t)c->width - 6 : 0;

		after = value_words(f->after, room > strlen(key) + 10 ? room - strlen(key) : room ? 10 : 0);
		printf("  %s+ %s%s %s\n", paint(c, PAINT_GREEN), key, paint(c, PAINT_NONE), after);
	} else if (f->op == 'r') {
		printf("  %s- %s%s\n", paint(c, PAINT_RED), key, paint(c, PAINT_NONE));
	} else {
		before = f->before ? value_words(f->before, half) : NULL;
		after = f->after ? value_words(f->after, half) : NULL;
		if (d->table != (int)f->table || !same_entity(d, f))
			printf("  %s~ %s%s\n", paint(c, PAINT_YELLOW), key, paint(c, PAINT_NONE));
		printf("      %s%s%s -> %s\n", f->field, *f->field ? "  " : "", before ? before : "(absent)",
		       after ? after : "(absent)");
	}
	if (f->op == 'u') {
		keep_key(d, f);
	} else {
		free(d->key);
		d->key = NULL;
	}
	d->table = (int)f->table;
	free(key);
	free(before);
	free(after);
	return 0;
}

static int difference_none(void *arg, const struct snaptrail_difference *f)
{
	(void)arg;
	(void)f;
	return 0;
}

static void stat_words(const uint64_t *changed, uint64_t total)
{
	for (int t = 1; t <= SNAPTRAIL_TABLES; t++)
		if (changed[t])
			printf("%-16s%8" PRIu64 "\n", snaptrail_table_name(t), changed[t]);
	printf("%-16s%8" PRIu64 "\n", "total", total);
}

/* ---- the verb ---- */

static void note_inexact(struct cli *c, const struct snaptrail_point *p, const struct snaptrail_state *s)
{
	uint64_t coalesced = snaptrail_state_coalesced(s);

	if (coalesced)
		out_note(c, "%" PRIu64 " changes around the instant in %s were merged", coalesced, p->session);
	if (snaptrail_state_lost(s))
		out_gaps(c, p->session, p->time_ns, p->time_ns + 1);
}

static int64_t difference(struct cli *c, const struct snaptrail_point p[2], struct snaptrail_state *s[2])
{
	bool stat = cli_has(c, "stat");
	struct differ d = { .cli = c, .json = JSON_INIT(stdout) };
	uint64_t changed[SNAPTRAIL_TABLES + 1] = { 0 };
	int64_t n;

	if (c->json) {
		json_open(&d.json, '{');
		point_json(&d.json, "from", &p[0], s[0]);
		point_json(&d.json, "to", &p[1], s[1]);
		if (!stat) {
			json_key(&d.json, "differences");
			json_open(&d.json, '{');
		}
	}
	n = snaptrail_diff(s[0], s[1], changed, stat ? difference_none : c->json ? difference_json : difference_words, &d);
	if (c->json && !stat) {
		tables_up_to(&d, SNAPTRAIL_TABLES + 1);
		json_close(&d.json, '}');
	}
	free(d.key);
	if (n < 0)
		return n;
	if (c->json) {
		summary_json(&d.json, changed, (uint64_t)n);
		json_close(&d.json, '}');
		json_line(&d.json);
	} else if (stat) {
		stat_words(changed, (uint64_t)n);
	}
	return n;
}

int cmd_diff(struct cli *c)
{
	static struct snaptrail_point p[2];
	struct snaptrail_state *s[2] = { NULL, NULL };
	int64_t n = 0;
	int r;

	if (c->word_count != 2)
		return out_error(c, EXIT_USAGE, "e.g. `snaptrail diff first latest`", "diff takes two references");
	r = cli_state(c, c->words[0], &p[0], &s[0]);
	if (r == 0)
		r = cli_state(c, c->words[1], &p[1], &s[1]);
	if (r == 0) {
		out_page(c);
		n = difference(c, p, s);
		r = n < 0 ? out_failed(c, (int)n) : n > 0 && cli_has(c, "exit-code") ? EXIT_NO : EXIT_YES;
		for (int i = 0; i < 2; i++)
			note_inexact(c, &p[i], s[i]);
	}
	snaptrail_state_free(s[0]);
	snaptrail_state_free(s[1]);
	return r;
}
