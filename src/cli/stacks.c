/* Call stacks for `log` and `show`; see stacks.h.  What `show` prints is kept as
 * text by entity while the history up to the instant is read. */
#include "cli/stacks.h"

#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "cli/out.h"

void stack_json(struct json *j, const struct snaptrail_event *e)
{
	json_key(j, "stack");
	json_open(j, '[');
	for (size_t i = 0; i < e->stack_count; i++) {
		const struct snaptrail_frame *f = &e->stack[i];
		char address[24];

		snprintf(address, sizeof address, "0x%" PRIx64, f->address);
		json_open(j, '{');
		json_pair_string(j, "address", address);
		json_pair_string(j, "module", f->module);
		json_pair_uint(j, "offset", f->module ? f->offset : 0);
		json_pair_string(j, "symbol", f->symbol);
		json_pair_string(j, "file", f->file);
		json_key(j, "line");
		json_uint(j, f->file ? (uint64_t)f->line : 0);
		if (f->why)
			json_pair_string(j, "note", f->why);
		json_close(j, '}');
	}
	json_close(j, ']');
	if (e->stack_cut)
		json_pair_bool(j, "stackCut", true);
}

void stack_words(FILE *out, struct cli *c, const struct snaptrail_event *e)
{
	for (size_t i = 0; i < e->stack_count; i++) {
		const struct snaptrail_frame *f = &e->stack[i];
		const char *slash = f->module ? strrchr(f->module, '/') : NULL, *path = slash ? slash + 1 : f->module;
		char *base = path ? clean_text(path, strlen(path), 0) : NULL;

		fprintf(out, "  %s#%zu%s ", paint(c, PAINT_DIM), i, paint(c, PAINT_NONE));
		if (f->symbol)
			fprintf(out, "%.*s+0x%" PRIx64 " (%s)", (int)strcspn(f->symbol, "@"), f->symbol, f->symbol_offset, base);
		else if (f->module)
			fprintf(out, "%s+0x%" PRIx64, base, f->offset);
		else
			fprintf(out, "0x%" PRIx64 " (no file)", f->address);
		if (f->file)
			fprintf(out, " %s:%d", f->file, f->line);
		if (f->why)
			fprintf(out, " (%s)", f->why);
		putc('\n', out);
		free(base);
	}
	if (e->stack_cut)
		fprintf(out, "  ...\n");
}

/* ---- by entity ---- */

struct last_stack {
	char *text;
	char name[];             /* "table:key" */
};

struct last_stacks {
	struct cli *cli;
	void *tree;
};

static int by_name(const void *a, const void *b)
{
	const struct last_stack *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static struct last_stack *named(enum snaptrail_table t, const char *key, size_t key_len)
{
	const char *table = snaptrail_table_name(t);
	size_t n = strlen(table);
	struct last_stack *s = must(calloc(1, sizeof *s + n + key_len + 2));

	memcpy(s->name, table, n); /* NOLINT(bugprone-not-null-terminated-result): more follows, and zeros */
	s->name[n] = ':';
	memcpy(s->name + n + 1, key, key_len);
	return s;
}

static char *rendered(struct cli *c, const struct snaptrail_event *e)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = must(open_memstream(&text, &n));

	if (c->json) {
		struct json j = JSON_INIT(out);

		json_open(&j, '{');
		json_time(&j, "time", e->time_ns);
		json_pair_string(&j, "kind", e->kind);
		stack_json(&j, e);
		json_close(&j, '}');
	} else {
		stack_words(out, c, e);
	}
	fclose(out);
	return text;
}

static int remember(void *arg, const struct snaptrail_event *e)
{
	struct last_stacks *l = arg;
	struct last_stack *mine, **at;

	if (e->stack == NULL)
		return 0;
	mine = named(e->table, e->key, e->key_len);
	at = must(tsearch(mine, &l->tree, by_name));
	if (*at != mine)
		free(mine);
	free((*at)->text);
	(*at)->text = rendered(l->cli, e);
	return 0;
}

int stacks_find(struct cli *c, const struct snaptrail_point *p, const char *path, struct last_stacks **ret)
{
	struct last_stacks *l = must(calloc(1, sizeof *l));
	struct snaptrail_log_query q = { .session = p->session, .path = path, .until_ns = p->time_ns + 1, .stacks = true };
	int64_t n;

	l->cli = c;
	if (p->live)
		q.until_ns = 0;
	n = snaptrail_log(c->store, &q, remember, l);
	if (n < 0) {
		stacks_done(l);
		return out_failed(c, (int)n);
	}
	*ret = l;
	return 0;
}

const char *stacks_of(const struct last_stacks *l, enum snaptrail_table t, const char *key, size_t key_len)
{
	struct last_stack *wanted, **found;

	if (l == NULL)
		return NULL;
	wanted = named(t, key, key_len);
	found = tfind(wanted, &l->tree, by_name);
	free(wanted);
	return found ? (*found)->text : NULL;
}

struct visit {
	void (*each)(void *arg, const char *name, const char *text);
	void *arg;
};

static void visit_one(const void *node, VISIT when, void *arg)
{
	const struct last_stack *s = *(struct last_stack *const *)node;
	const struct visit *v = arg;

	if (when == postorder || when == leaf)
		v->each(v->arg, s->name, s->text);
}

void stacks_each(struct last_stacks *l, void (*each)(void *arg, const char *name, const char *text), void *arg)
{
	struct visit v = { each, arg };

	if (l)
		twalk_r(l->tree, visit_one, &v);
}

static void free_one(void *node)
{
	struct last_stack *s = node;

	free(s->text);
	free(s);
}

void stacks_done(struct last_stacks *l)
{
	if (l)
		tdestroy(l->tree, free_one);
	free(l);
}
