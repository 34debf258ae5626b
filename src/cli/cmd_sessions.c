/* sessions, ls and nearest: what has been recorded, and which snapshots there
 * are of it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cli/json.h"
#include "cli/out.h"
#include "cli/table.h"

/* ---- sessions ---- */

static const char *session_state(const struct snaptrail_session *s, char ret[32])
{
	int status = (int)s->exit_status;

	if (s->live)
		return "live";
	if (s->unattended)
		return "unattended";
	if (s->exit_status < 0)
		return s->ended_ns ? "ended" : "crashed";
	if (WIFSIGNALED(status)) {
		const char *name = sigabbrev_np(WTERMSIG(status));

		snprintf(ret, 32, "SIG%s", name ? name : "?");
	} else {
		snprintf(ret, 32, "exit %d", WEXITSTATUS(status));
	}
	return ret;
}

static void session_json(struct json *j, const struct snaptrail_session *s)
{
	int status = (int)s->exit_status;

	json_open(j, '{');
	json_pair_string(j, "id", s->id);
	json_pair_string(j, "name", s->name);
	json_pair_string(j, "command", s->command);
	json_pair_string(j, "profile", s->profile);
	json_pair_string(j, "note", s->note);
	json_time(j, "startedAt", s->started_ns);
	json_ns(j, "startedNs", s->started_ns);
	json_time(j, "endedAt", s->ended_ns);
	json_time(j, "lastAt", s->last_ns);
	json_ns(j, "lastNs", s->last_ns);
	json_key(j, "pid");
	json_int(j, s->pid);
	json_pair_bool(j, "live", s->live);
	json_pair_bool(j, "unattended", s->unattended);
	json_key(j, "recorderPid");
	if (s->live)
		json_int(j, s->recorder_pid);
	else
		json_null(j);
	json_key(j, "exitCode");
	if (s->exit_status >= 0 && WIFEXITED(status))
		json_int(j, WEXITSTATUS(status));
	else
		json_null(j);
	json_key(j, "signal");
	if (s->exit_status >= 0 && WIFSIGNALED(status))
		json_int(j, WTERMSIG(status));
	else
		json_null(j);
	json_pair_uint(j, "snapshots", s->snapshots);
	json_pair_uint(j, "changes", s->changes);
	json_pair_uint(j, "coalesced", s->coalesced);
	json_pair_uint(j, "lost", s->lost);
	json_pair_uint(j, "dropped", s->dropped);
	json_pair_uint(j, "storedBytes", s->stored_bytes);
	json_close(j, '}');
}

static void session_row(struct table *t, const struct snaptrail_session *s)
{
	char a[TIME_WORDS], b[32];
	uint64_t end = s->ended_ns ? s->ended_ns : s->live ? now_ns() : s->last_ns;

	table_cell(t, s->name);
	table_cell(t, time_words(s->started_ns, a));
	table_cell(t, end > s->started_ns ? duration_words(end - s->started_ns, a) : "-");
	table_cell(t, session_state(s, b));
	table_cell(t, count_words(s->snapshots, a));
	table_cell(t, count_words(s->changes, a));
	table_cell(t, count_words(s->lost + s->dropped, a));
	table_cell(t, size_words(s->stored_bytes, a));
	table_cell(t, s->note && *s->note ? s->note : s->command);
}

int cmd_sessions(struct cli *c)
{
	static const char *const headings[] = {
		"SESSION", "STARTED", ">LASTED", "STATE", ">SNAPSHOTS", ">CHANGES", ">LOST", ">STORED", "COMMAND", NULL,
	};
	struct json j = JSON_INIT(stdout);
	struct snaptrail_session s;
	struct table t;
	size_t n = 0;
	int r = cli_open(c);

	if (r != 0)
		return r;
	table_init(&t, headings);
	if (c->json)
		json_open(&j, '[');
	for (; (r = snaptrail_session_at(c->store, n, &s)) == 0; n++) {
		if (c->json)
			session_json(&j, &s);
		else
			session_row(&t, &s);
	}
	if (r != -ENOENT)
		return out_failed(c, r);
	if (c->json) {
		json_close(&j, ']');
		json_line(&j);
	} else if (n > 0) {
		out_page(c);
		table_print(&t, c, "", false);
	}
	return n > 0 ? EXIT_YES : EXIT_NO;
}

/* ---- ls ---- */

static void snapshot_json(struct json *j, const struct snaptrail_snapshot *s)
{
	json_open(j, '{');
	json_pair_string(j, "id", s->id);
	json_pair_string(j, "sessionId", s->session);
	json_time(j, "timestamp", s->time_ns);
	json_ns(j, "timeNs", s->time_ns);
	json_pair_string(j, "type", s->type);
	json_key(j, "tags");
	json_open(j, '[');
	for (const char *const *tag = s->tags; tag && *tag; tag++)
		json_string(j, *tag);
	json_close(j, ']');
	json_pair_string(j, "description", s->description);
	json_pair_uint(j, "size", s->size_bytes);
	json_pair_uint(j, "compressedSize", s->stored_bytes);
	json_pair_string(j, "checksum", s->checksum);
	json_pair_bool(j, "compressed", s->compressed);
	json_time(j, "createdAt", s->created_ns);
	json_time(j, "expiresAt", s->expires_ns);
	json_key(j, "creationDuration");
	json_ms(j, s->creation_ns);
	json_pair_uint(j, "agentCount", s->agents);
	json_pair_uint(j, "taskCount", s->tasks);
	json_pair_uint(j, "memoryEntryCount", s->memory);
	json_pair_string(j, "baseSnapshotId", *s->base_id ? s->base_id : NULL);
	json_pair_string(j, "origin", s->origin);
	json_pair_uint(j, "seq", s->seq);
	json_pair_uint(j, "changes", s->changes);
	json_pair_uint(j, "coalesced", s->coalesced);
	json_pair_uint(j, "lost", s->lost);
	json_close(j, '}');
}

static void snapshot_row(struct table *t, const struct snaptrail_snapshot *s, bool with_session)
{
	char a[TIME_WORDS], tags[256] = "";

	for (const char *const *tag = s->tags; tag && *tag; tag++)
		snprintf(tags + strlen(tags), sizeof tags - strlen(tags), "%s%s", *tags ? "," : "", *tag);
	table_cell(t, s->id);
	table_cell(t, time_words(s->time_ns, a));
	table_cell(t, s->type);
	table_cell(t, s->origin);
	table_cell(t, count_words(s->changes, a));
	table_cell(t, count_words(s->lost, a));
	table_cell(t, size_words(s->stored_bytes, a));
	if (with_session)
		table_cell(t, s->session);
	table_cell(t, *tags ? tags : "-");
	table_cell(t, s->description);
}

struct listing {
	struct cli *cli;
	struct json json;
	struct table table;
	bool with_session, silent;
	size_t shown;
};

static void listing_begin(struct listing *l)
{
	static const char *const headings[] = {
		"SNAPSHOT", "TIME", "TYPE", "ORIGIN", ">CHANGES", ">LOST", ">STORED", "TAGS", "DESCRIPTION", NULL,
	};
	static const char *const with_session[] = {
		"SNAPSHOT", "TIME", "TYPE", "ORIGIN", ">CHANGES", ">LOST", ">STORED", "SESSION", "TAGS", "DESCRIPTION", NULL,
	};

	if (!l->cli->json)
		table_init(&l->table, l->with_session ? with_session : headings);
}

static int list_one(void *arg, const struct snaptrail_snapshot *s)
{
	struct listing *l = arg;

	l->shown++;
	if (l->silent)
		return 0;
	if (l->cli->json)
		snapshot_json(&l->json, s);
	else
		snapshot_row(&l->table, s, l->with_session);
	return 0;
}

/* The words of `a,b,!c` into lists; what they point to is `text`, cut up. */
static void split_tags(char *text, const char **with, const char **without)
{
	char *save = NULL;

	while (*with)
		with++;
	while (*without)
		without++;
	for (char *w = strtok_r(text, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		if (*w == '!')
			*without++ = w + 1;
		else
			*with++ = w;
	}
}

/* Fills what the flags say; the tags point into argv. */
static int make_query(struct cli *c, struct snaptrail_query *q, const char **with, const char **without)
{
	static const char *const orders[] = { "timestamp", "size", "tags" };
	const char **lists = cli_flags(c, "tag"), *sort = cli_flag(c, "sort");
	int r = 0;

	for (const char **l = lists; *l; l++)
		split_tags((char *)*l, with, without); /* argv's own memory */
	free(lists);
	q->tags_none = without;
	if (cli_has(c, "any-tag"))
		q->tags_any = with;
	else
		q->tags_all = with;
	q->type = cli_flag(c, "type");
	q->reverse = cli_has(c, "reverse");
	q->all_sessions = cli_has(c, "all");
	q->limited = cli_has(c, "limit");
	for (int i = 0; sort && i < 3; i++)
		if (strcmp(sort, orders[i]) == 0)
			q->sort = i;
	if (q->limited)
		r = cli_number(c, "limit", &q->limit);
	if (r == 0 && cli_has(c, "offset"))
		r = cli_number(c, "offset", &q->offset);
	return r;
}

static void print_listing(struct cli *c, struct listing *l, int64_t matches)
{
	if (cli_has(c, "count")) {
		printf("%lld\n", (long long)matches);
	} else if (c->json) {
		json_close(&l->json, ']');
		json_line(&l->json);
	} else if (l->shown) {
		out_page(c);
		table_print(&l->table, c, "", false);
	}
}

static int list(struct cli *c, struct snaptrail_query *q)
{
	struct listing l = { .cli = c, .json = JSON_INIT(stdout), .with_session = q->all_sessions,
			     .silent = cli_has(c, "count") };
	int64_t n;

	listing_begin(&l);
	if (c->json && !l.silent)
		json_open(&l.json, '[');
	n = snaptrail_list(c->store, q, list_one, &l);
	if (n < 0)
		return out_failed(c, (int)n);
	print_listing(c, &l, n);
	return n > 0 || l.shown > 0 || (q->limited && q->limit == 0) ? EXIT_YES : EXIT_NO;
}

static size_t tag_words(const struct cli *c)
{
	size_t n = 1;

	for (size_t i = 0; i < c->flag_count; i++)
		n += strlen(c->flags[i].value) / 2 + 1;
	return n;
}

int cmd_ls(struct cli *c)
{
	size_t room = tag_words(c);
	const char **with = must(calloc(room, sizeof *with)), **without = must(calloc(room, sizeof *without));
	struct snaptrail_query q = { 0 };
	char session[256];
	uint64_t start;
	int r = make_query(c, &q, with, without);

	q.session = session;
	if (r == 0 && q.all_sessions && c->words[0])
		r = out_error(c, EXIT_USAGE, NULL, "--all and one session, %.60s, exclude each other", c->words[0]);
	if (r == 0)
		r = cli_find_session(c, c->words[0], session, &start);
	if (r == 0)
		r = cli_range(c, start, &q.since_ns, &q.until_ns);
	if (r == 0)
		r = list(c, &q);
	free(with);
	free(without);
	return r;
}

/* ---- nearest ---- */

static int print_nearest(struct cli *c, const struct snaptrail_snapshot *s, uint64_t time)
{
	struct listing l = { .cli = c, .json = JSON_INIT(stdout) };
	char d[TIME_WORDS];
	bool before = s->time_ns <= time;

	listing_begin(&l);
	list_one(&l, s);
	if (c->json)
		json_line(&l.json);
	else
		table_print(&l.table, c, "", true);
	if (s->time_ns != time && !c->json)
		out_note(c, "it lies %s %s that instant", duration_words(before ? time - s->time_ns : s->time_ns - time, d),
			 before ? "before" : "after");
	return EXIT_YES;
}

int cmd_nearest(struct cli *c)
{
	enum snaptrail_direction dir = cli_has(c, "before") ? SNAPTRAIL_BEFORE : cli_has(c, "after") ? SNAPTRAIL_AFTER
										      : SNAPTRAIL_EITHER;
	struct snaptrail_snapshot s;
	uint64_t start, time;
	char session[256];
	int r;

	if (c->word_count != 1)
		return out_error(c, EXIT_USAGE, "`snaptrail help nearest`", "nearest takes one TIME");
	if (cli_has(c, "before") + cli_has(c, "after") + cli_has(c, "either") > 1)
		return out_error(c, EXIT_USAGE, NULL, "--before, --after and --either exclude each other");
	if ((r = cli_find_session(c, NULL, session, &start)) != 0)
		return r;
	if ((r = snaptrail_parse_time(c->words[0], start, now_ns(), &time)) < 0)
		return out_failed(c, r);
	r = snaptrail_nearest(c->store, session, time, dir, &s);
	if (r == -ENOENT) {
		if (c->json)
			return out_error(c, EXIT_NO, NULL, "no snapshot on that side of %s", c->words[0]);
		out_note(c, "no snapshot on that side of %s", c->words[0]);
		return EXIT_NO;
	}
	return r < 0 ? out_failed(c, r) : print_nearest(c, &s, time);
}
