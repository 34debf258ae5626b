/* Verbs about a live session (snap, auto, flush, watch) and edits of stored
 * snapshots (tag, describe). */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/logger.h"
#include "cli/out.h"

/* The session named as the word at `at`, or as cli_session() says. */
static int find(struct cli *c, int at, char session[256])
{
	uint64_t start;

	return cli_find_session(c, c->words[at], session, &start);
}

/* ---- snap, auto, flush ---- */

int cmd_snap(struct cli *c)
{
	const char **tags = cli_flags(c, "tag");
	struct snaptrail_snap_options o = { .tags = tags, .description = cli_flag(c, "description"), .type = cli_flag(c, "type") };
	char session[256], id[17];
	int r = find(c, 0, session);

	if (r == 0 && (r = snaptrail_snap(c->store, session, &o, id)) < 0)
		r = out_failed(c, r);
	else if (r == 0 && c->json)
		printf("\"%s\"\n", id);
	else if (r == 0)
		puts(id);
	free(tags);
	return r;
}

int cmd_auto(struct cli *c)
{
	const char *what = c->words[0], *interval = cli_flag(c, "interval");
	bool start = what && strcmp(what, "start") == 0;
	uint64_t ns = 0;
	char session[256];
	int r;

	if (!what || (!start && strcmp(what, "stop")))
		return out_error(c, EXIT_USAGE, "snaptrail auto start --interval 5s", "auto takes start or stop");
	if (interval && !start)
		return out_error(c, EXIT_USAGE, NULL, "auto stop takes no interval");
	if (interval && (r = snaptrail_parse_duration(interval, &ns)) < 0)
		return out_failed(c, r);
	if (interval && ns == 0)
		return out_error(c, EXIT_USAGE, "snaptrail auto stop", "an interval of 0 is none");
	if ((r = find(c, 1, session)) != 0)
		return r;
	r = snaptrail_automatic(c->store, session, start, ns);
	return r < 0 ? out_failed(c, r) : EXIT_YES;
}

int cmd_flush(struct cli *c)
{
	char session[256];
	int r = find(c, 0, session);

	if (r == 0 && (r = snaptrail_flush(c->store, session)) < 0)
		r = out_failed(c, r);
	return r;
}

int cmd_attend(struct cli *c)
{
	const char *name = c->words[0] ? c->words[0] : cli_session(c);
	int r;

	if (name == NULL || !*name)
		return out_error(c, EXIT_USAGE, "`snaptrail sessions` says which are unattended", "attend takes a SESSION");
	r = snaptrail_attend(c->config, name);
	return r < 0 ? out_failed(c, r) : EXIT_YES;
}

/* ---- watch ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static bool stopped(void *arg)
{
	(void)arg;
	out_flush();
	return interrupted || ferror(stdout);
}

static int snapshot_json(void *arg, const struct snaptrail_snapshot *s)
{
	struct logger *l = arg;
	struct json *j = &l->json;

	json_open(j, '{');
	json_time(j, "time", s->time_ns);
	json_ns(j, "timeNs", s->time_ns);
	json_pair_string(j, "session", s->session);
	json_pair_string(j, "event", "snapshot_created");
	json_pair_string(j, "id", s->id);
	json_pair_string(j, "type", s->type);
	json_pair_string(j, "origin", s->origin);
	json_key(j, "tags");
	json_open(j, '[');
	for (const char *const *t = s->tags; *t; t++)
		json_bytes(j, *t, strlen(*t));
	json_close(j, ']');
	json_close(j, '}');
	json_line(j);
	return ferror(stdout) ? 1 : 0;
}

static int snapshot_words(void *arg, const struct snaptrail_snapshot *s)
{
	struct logger *l = arg;
	const struct cli *c = l->cli;
	char time[TIME_WORDS];

	printf("%s%s%s %ssnapshot %s%s  %s, %s", paint(c, PAINT_DIM), time_words(s->time_ns, time), paint(c, PAINT_NONE),
	       paint(c, PAINT_CYAN), s->id, paint(c, PAINT_NONE), s->type, s->origin);
	for (const char *const *t = s->tags; *t; t++)
		printf(" +%s", *t);
	putchar('\n');
	return ferror(stdout) ? 1 : 0;
}

int cmd_watch(struct cli *c)
{
	struct logger l = { c, JSON_INIT(stdout) };
	struct snaptrail_watcher w = { .changed = c->json ? event_json : event_words,
				       .snapshot = c->json ? snapshot_json : snapshot_words, .stopped = stopped, .arg = &l };
	struct sigaction a = { .sa_handler = on_interrupt };
	uint64_t start, since = 0, until = 0;
	char session[256];
	int r;

	if ((r = cli_find_session(c, c->words[0], session, &start)) != 0 || (r = cli_range(c, start, &since, &until)) != 0)
		return r;
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	r = snaptrail_watch(c->store, session, since ? since : now_ns(), &w);
	out_flush();
	return r < 0 ? out_failed(c, r) : EXIT_YES;
}

/* ---- edits ---- */

int cmd_tag(struct cli *c)
{
	const char **add = must(calloc((size_t)c->word_count + 1, sizeof *add));
	const char **remove = must(calloc((size_t)c->word_count + 1, sizeof *remove));
	size_t added = 0, removed = 0;
	struct snaptrail_point p;
	int r = 0;

	if (c->word_count < 2)
		r = out_error(c, EXIT_USAGE, "snaptrail tag latest +good", "tag takes a REF, and tags to add (+TAG) or remove (-TAG)");
	for (int i = 1; i < c->word_count && r == 0; i++) {
		const char *w = c->words[i];

		if (*w == '+')
			add[added++] = w + 1;
		else if (*w == '-')
			remove[removed++] = w + 1;
		else
			r = out_error(c, EXIT_USAGE, NULL, "'%.60s': +TAG adds a tag, -TAG removes it", w);
	}
	if (r == 0)
		r = cli_snapshot(c, c->words[0], &p);
	if (r == 0 && (r = snaptrail_tag(c->store, p.snapshot.own_id, add, remove)) < 0)
		r = out_failed(c, r);
	free(add);
	free(remove);
	return r;
}

int cmd_describe(struct cli *c)
{
	struct snaptrail_point p;
	int r;

	if (c->word_count != 2)
		return out_error(c, EXIT_USAGE, "quote a text of several words", "describe takes a REF and a TEXT");
	r = cli_snapshot(c, c->words[0], &p);
	if (r == 0 && (r = snaptrail_describe(c->store, p.snapshot.own_id, c->words[1])) < 0)
		r = out_failed(c, r);
	return r;
}

int cmd_mark(struct cli *c)
{
	struct snaptrail_point p;
	int r;

	if (c->word_count < 1)
		return out_error(c, EXIT_USAGE, "snaptrail mark before-the-crash @14:03:22", "mark takes a NAME and a REF");
	if ((r = cli_open(c)) != 0)
		return r;
	if ((r = snaptrail_resolve(c->store, cli_session(c), c->word_count > 1 ? c->words[1] : "latest", &p)) < 0)
		return out_failed(c, r);
	r = snaptrail_mark(c->store, p.session, p.live ? now_ns() : p.time_ns, c->words[0]);
	return r < 0 ? out_failed(c, r) : EXIT_YES;
}
