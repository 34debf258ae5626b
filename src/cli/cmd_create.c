/* Snapshots of states from files (create), and when something became true. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/out.h"

/* ---- create ---- */

struct file {
	char *data;
	size_t len, cap;
};

static int read_all(struct cli *c, const char *path, struct file *f)
{
	FILE *in = strcmp(path, "-") ? fopen(path, "rb") : stdin;
	size_t n = 0;
	int r = 0;

	if (in == NULL)
		return out_error(c, EXIT_USAGE, NULL, "%s: %s", path, strerror(errno));
	errno = 0;
	do {
		f->len += n;
		if (f->cap - f->len < 65536) {
			f->cap = f->cap ? f->cap * 2 : 262144;
			f->data = must(realloc(f->data, f->cap));
		}
		n = fread(f->data + f->len, 1, f->cap - f->len, in);
	} while (n > 0);
	if (ferror(in))
		r = out_error(c, EXIT_USAGE, NULL, "%s: %s", in == stdin ? "stdin" : path, strerror(errno));
	if (in != stdin)
		fclose(in);
	return r;
}

/* JSON, or message SystemState of the schema. */
static int state_of_file(struct cli *c, const char *path, struct snaptrail_state **ret)
{
	struct file f = { 0 };
	int r = read_all(c, path, &f);

	if (r != 0) {
		free(f.data);
		return r;
	}
	if (f.len && f.data[strspn(f.data, " \t\r\n")] != '{' && snaptrail_state_from_protobuf(f.data, f.len, ret) == 0) {
		free(f.data);
		return 0;
	}
	r = snaptrail_state_from_json(f.data, f.len, ret);
	free(f.data);
	return r < 0 ? out_error(c, EXIT_USAGE, NULL, "%s: %s", strcmp(path, "-") ? path : "stdin", snaptrail_error()) : 0;
}

static int time_of(struct cli *c, uint64_t *ret)
{
	struct snaptrail_session s = { .started_ns = 0 };
	int r;

	if (!cli_has(c, "time"))
		return 0;
	snaptrail_session_find(c->store, c->words[0], &s);
	r = snaptrail_parse_time(cli_flag(c, "time"), s.started_ns ? s.started_ns : now_ns(), now_ns(), ret);
	return r < 0 ? out_failed(c, r) : 0;
}

/* The state is read before a store is made for it. */
int cmd_create(struct cli *c)
{
	const char **tags = cli_flags(c, "tag"), *path = cli_flag(c, "state");
	struct snaptrail_create_options o = { .size = sizeof o, .tags = tags, .description = cli_flag(c, "description"),
					      .type = cli_flag(c, "type"), .force_compression = cli_has(c, "force-compression") };
	struct snaptrail_state *s = NULL;
	char id[17];
	int r = 0;

	if (c->word_count != 1)
		r = out_error(c, EXIT_USAGE, "snaptrail create orders --state state.json", "create takes a SESSION");
	if (r == 0 && !path && (o.force_compression || cli_has(c, "time")))
		r = out_error(c, EXIT_USAGE, NULL, "--time and --force-compression need a --state: a live session is as it is");
	if (r == 0 && path)
		r = state_of_file(c, path, &s);
	if (r == 0)
		r = cli_open_as(c, SNAPTRAIL_CREATE);
	if (r == 0)
		r = time_of(c, &o.time_ns);
	if (r == 0 && (r = snaptrail_create(c->store, c->words[0], s, &o, id)) < 0)
		r = out_failed(c, r);
	else if (r == 0)
		printf(c->json ? "\"%s\"\n" : "%s\n", id);
	snaptrail_state_free(s);
	free(tags);
	return r;
}

/* ---- when ---- */

/* A value as one types it: JSON, or a plain word. */
static struct snaptrail_value *value_of(const char *word)
{
	struct snaptrail_value *v;

	return snaptrail_value_from_json(word, strlen(word), &v) == 0 ? v : snaptrail_value_of_string(word);
}

static int when_told(struct cli *c, int r, uint64_t t)
{
	struct json j = JSON_INIT(stdout);

	if (r == -ENOENT && !c->json)
		out_note(c, "%s", snaptrail_error());
	if (r == -ENOENT && c->json)
		puts("null");
	if (r == -ENOENT)
		return EXIT_NO;
	if (r < 0)
		return out_failed(c, r);
	if (c->json) {
		json_open(&j, '{');
		json_time(&j, "time", t);
		json_ns(&j, "timeNs", t);
		json_close(&j, '}');
		putchar('\n');
	} else {
		char text[TIME_WORDS];

		printf("%s  @%llu\n", time_words(t, text), (unsigned long long)t);
	}
	return EXIT_YES;
}

/* A bare 2 means the text as well: an environment has no numbers. */
static int when_asked(struct cli *c, const char *session, struct snaptrail_condition *w, const char *word, uint64_t *ret)
{
	struct snaptrail_value *v = word ? value_of(word) : NULL, *text;
	uint64_t t;
	int r, also;

	w->value = v;
	r = snaptrail_when(c->store, session, w, ret);
	if (v && snaptrail_value_type(v) != SNAPTRAIL_STRING && strcmp(w->op, "==") == 0) {
		w->value = text = snaptrail_value_of_string(word);
		also = snaptrail_when(c->store, session, w, &t);
		snaptrail_value_free(text);
		if (also == 0 && (r < 0 || (w->last ? t > *ret : t < *ret)))
			*ret = t;
		r = r == 0 ? 0 : also;
	}
	snaptrail_value_free(v);
	return r;
}

int cmd_when(struct cli *c)
{
	struct snaptrail_condition w = { .last = cli_has(c, "last") };
	uint64_t start, t = 0;
	char session[256];
	int r;

	if (c->word_count < 2 || c->word_count > 3)
		return out_error(c, EXIT_USAGE, "snaptrail when 'agents:p*#status' == error", "when takes PATH OP VALUE, or PATH exists|absent");
	if ((r = cli_find_session(c, NULL, session, &start)) != 0 || (r = cli_range(c, start, &w.since_ns, &w.until_ns)) != 0)
		return r;
	w.path = c->words[0];
	w.op = c->words[1];
	r = when_asked(c, session, &w, c->word_count == 3 ? c->words[2] : NULL, &t);
	return when_told(c, r, t);
}
