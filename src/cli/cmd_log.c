/* log: every change of value in order of time, as lines for people or as JSON
 * Lines, written while the library reads. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/logger.h"
#include "cli/out.h"

int event_json(void *arg, const struct snaptrail_event *e)
{
	struct logger *l = arg;
	struct json *j = &l->json;

	json_open(j, '{');
	json_time(j, "time", e->time_ns);
	json_ns(j, "timeNs", e->time_ns);
	json_pair_uint(j, "seq", e->seq);
	json_pair_string(j, "session", e->session);
	json_pair_string(j, "table", snaptrail_table_name(e->table));
	json_key(j, "key");
	json_bytes(j, e->key, e->key_len);
	json_pair_string(j, "op", e->deleted ? "delete" : "set");
	json_pair_string(j, "field", e->field);
	json_key(j, "old");
	json_value(j, e->before);
	json_key(j, "new");
	json_value(j, e->after);
	json_pair_string(j, "source", e->source);
	json_pair_string(j, "kind", e->kind);
	if (e->coalesced)
		json_pair_uint(j, "coalesced", e->coalesced);
	if (e->stack)
		stack_json(j, e);
	json_close(j, '}');
	json_line(j);
	return ferror(stdout) ? 1 : 0;
}

/* Columns for each of two values beside what else stands in the line. */
static size_t value_room(const struct cli *c, size_t used, bool two)
{
	size_t left;

	if (!c->width)
		return 0;
	left = (size_t)c->width > used + 24 ? (size_t)c->width - used : 24;
	return two ? (left - 4) / 2 : left;
}

int event_words(void *arg, const struct snaptrail_event *e)
{
	struct logger *l = arg;
	struct cli *c = l->cli;
	char time[TIME_WORDS], *key = clean_text(e->key, e->key_len, 0), *old = NULL, *new = NULL;
	size_t used = 24 + strlen(snaptrail_table_name(e->table)) + 1 + text_columns(key) + strlen(e->field) + 3;
	size_t room = value_room(c, used, e->before && e->after);

	if (e->before)
		old = *e->field ? value_words(e->before, room) : entity_words(e->before, room);
	if (e->after)
		new = *e->field ? value_words(e->after, room) : entity_words(e->after, room);
	printf("%s%s%s %s:%s%s%s%s%s ", paint(c, PAINT_DIM), time_words(e->time_ns, time), paint(c, PAINT_NONE),
	       snaptrail_table_name(e->table), paint(c, PAINT_CYAN), key, paint(c, PAINT_NONE),
	       *e->field ? "#" : "", e->field);
	if (e->deleted)
		printf(" %s-%s %s", paint(c, PAINT_RED), paint(c, PAINT_NONE), old ? old : "");
	else if (!old)
		printf(" %s+%s %s", paint(c, PAINT_GREEN), paint(c, PAINT_NONE), new ? new : "null");
	else
		printf(" %s -> %s", old, new ? new : "(absent)");
	if (e->source && strcmp(e->source, "hook") != 0)
		printf("  (%s)", e->source);
	if (e->coalesced)
		printf("  coalesced: %" PRIu64, e->coalesced);
	putchar('\n');
	stack_words(stdout, c, e);
	free(key);
	free(old);
	free(new);
	return ferror(stdout) ? 1 : 0;
}

int cmd_log(struct cli *c)
{
	struct logger l = { c, JSON_INIT(stdout) };
	struct snaptrail_log_query q = { .path = c->words[0] };
	char session[256];
	uint64_t start;
	int64_t n;
	int r;

	if ((r = cli_find_session(c, NULL, session, &start)) != 0 ||
	    (r = cli_range(c, start, &q.since_ns, &q.until_ns)) != 0)
		return r;
	q.session = session;
	q.stacks = cli_has(c, "stack");
	out_page(c);
	n = snaptrail_log(c->store, &q, c->json ? event_json : event_words, &l);
	if (n < 0)
		return out_failed(c, (int)n);
	out_flush();
	out_gaps(c, session, q.since_ns, q.until_ns);
	return n > 0 ? EXIT_YES : EXIT_NO;
}
