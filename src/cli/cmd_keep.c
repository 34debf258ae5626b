/* What stays and what goes: rm, prune, repair. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/out.h"
#include "cli/table.h"

/* ---- rm ---- */

/* REFs are resolved before anything goes: first~1 means what it meant. */
int cmd_rm(struct cli *c)
{
	char(*ids)[17] = must(calloc((size_t)c->word_count + 1, sizeof *ids));
	const char **list = must(calloc((size_t)c->word_count + 1, sizeof *list));
	struct snaptrail_point p;
	int r = 0;

	if (c->word_count == 0)
		r = out_error(c, EXIT_USAGE, "snaptrail rm latest", "rm takes one or more REFs");
	if (r == 0)
		r = cli_open(c);
	for (int i = 0; i < c->word_count && r == 0; i++) {
		r = cli_snapshot(c, c->words[i], &p);
		memcpy(ids[i], p.snapshot.own_id, sizeof ids[i]);
		list[i] = ids[i];
	}
	if (r == 0 && (r = snaptrail_delete(c->store, list, (size_t)c->word_count)) < 0)
		r = out_failed(c, r);
	free(ids);
	free(list);
	return r;
}

/* ---- prune ---- */

struct pruner {
	struct cli *cli;
	struct json json;
	struct table table;
};

static void verdict_json(void *arg, const struct snaptrail_verdict *v)
{
	struct json *j = &((struct pruner *)arg)->json;

	json_open(j, '{');
	json_pair_string(j, "id", v->snapshot->id);
	json_pair_string(j, "sessionId", v->snapshot->session);
	json_time(j, "timestamp", v->snapshot->time_ns);
	json_pair_string(j, "verdict", v->goes ? "goes" : "stays");
	json_pair_string(j, "why", v->why);
	json_key(j, "bytes");
	json_int(j, v->bytes);
	json_close(j, '}');
}

static void verdict_row(void *arg, const struct snaptrail_verdict *v)
{
	struct pruner *p = arg;
	char when[TIME_WORDS], size[TIME_WORDS], bytes[TIME_WORDS + 2] = "";

	if (v->bytes)
		snprintf(bytes, sizeof bytes, "%s%s", v->bytes < 0 ? "-" : "", size_words((uint64_t)(v->bytes < 0 ? -v->bytes : v->bytes), size));
	table_cell(&p->table, v->snapshot->session);
	table_cell(&p->table, v->snapshot->id);
	table_cell(&p->table, time_words(v->snapshot->time_ns, when));
	table_cell(&p->table, v->goes ? "goes" : "stays");
	table_cell(&p->table, bytes);
	table_cell(&p->table, v->why);
}

static void prune_begin(struct pruner *p)
{
	static const char *const headings[] = { "SESSION", "SNAPSHOT", "TIME", "VERDICT", "BYTES", "WHY", NULL };

	if (!p->cli->json) {
		table_init(&p->table, headings);
		return;
	}
	json_open(&p->json, '{');
	json_key(&p->json, "snapshots");
	json_open(&p->json, '[');
}

static void prune_end(struct pruner *p, bool dry, const struct snaptrail_pruned *done)
{
	char n[TIME_WORDS], size[TIME_WORDS];
	uint64_t bytes = (uint64_t)(done->bytes < 0 ? -done->bytes : done->bytes);

	if (p->cli->json) {
		json_close(&p->json, ']');
		json_pair_uint(&p->json, "deleted", dry ? 0 : done->snapshots);
		json_pair_uint(&p->json, "wouldGo", done->snapshots);
		json_key(&p->json, "bytes");
		json_int(&p->json, done->bytes);
		json_close(&p->json, '}');
		json_line(&p->json);
		return;
	}
	if (dry)
		table_print(&p->table, p->cli, "", false);
	printf("%s %s %s, %s%s %s\n", count_words(done->snapshots, n), plural(done->snapshots, "snapshot", "snapshots"),
	       dry ? "would go" : "went", done->bytes < 0 ? "-" : "", size_words(bytes, size), dry ? "would come back" : "came back");
}

int cmd_prune(struct cli *c)
{
	struct pruner p = { .cli = c, .json = JSON_INIT(stdout) };
	struct snaptrail_pruned done;
	bool dry = cli_has(c, "dry-run"), tells = dry || c->json;
	int r;

	if ((r = cli_open(c)) != 0)
		return r;
	if (tells)
		prune_begin(&p);
	r = snaptrail_prune(c->store, dry, !tells ? NULL : c->json ? verdict_json : verdict_row, &p, &done);
	if (r < 0)
		return out_failed(c, r);
	prune_end(&p, dry, &done);
	return EXIT_YES;
}

/* ---- repair ---- */

static void told(void *arg, const char *what) { out_note(arg, "%s", what); }

int cmd_repair(struct cli *c)
{
	const char *into = cli_flag(c, "into");
	uint64_t copied, lost;
	char n[TIME_WORDS], m[TIME_WORDS];
	int r;

	if (into == NULL)
		return out_error(c, EXIT_USAGE, "snaptrail repair --into DIR", "repair takes --into DIR");
	if ((r = cli_open_as(c, SNAPTRAIL_READ_ONLY)) != 0)
		return r;
	r = snaptrail_repair(c->store, into, told, c, &copied, &lost);
	if (r == -ENOENT)
		return out_error(c, EXIT_USAGE, NULL, "%s", snaptrail_error());
	if (r < 0)
		return out_failed(c, r);
	if (c->json) {
		struct json j = JSON_INIT(stdout);

		json_open(&j, '{');
		json_pair_uint(&j, "copied", copied);
		json_pair_uint(&j, "lost", lost);
		json_close(&j, '}');
		json_line(&j);
	} else {
		printf("%s %s in %s; %s %s could not be read\n", count_words(copied, n), plural(copied, "record", "records"), into,
		       count_words(lost, m), plural(lost, "place", "places"));
	}
	return lost ? EXIT_PARTIAL : EXIT_YES;
}
