/* What is kept and what goes: limits, tags that stay, deletion, batches.
 *
 *     cc retention.c $(pkg-config --cflags --libs snaptrail) -o retention
 *     ./retention /tmp/example-store */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <snaptrail.h>

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

static void create(struct snaptrail *st, struct snaptrail_state *state, int i, const char *tag, char id[17])
{
	const char *const tags[] = { tag, NULL };
	struct snaptrail_create_options o = { .size = sizeof o, .tags = tag ? tags : NULL };
	struct snaptrail_value *v = snaptrail_value_of_int(i);

	check("set", snaptrail_state_set(state, SNAPTRAIL_METRICS, "build", v));
	snaptrail_value_free(v);
	check("create", snaptrail_create(st, "builds", state, &o, id));
}

static int64_t count(struct snaptrail *st)
{
	int64_t n = snaptrail_list(st, &(struct snaptrail_query){ .session = "builds" }, NULL, NULL);

	check("count", n);
	return n;
}

static void verdict(void *arg, const struct snaptrail_verdict *v)
{
	(void)arg;
	if (v->goes || v->snapshot->tags[0])
		printf("  %s: %s\n", v->goes ? "goes" : "stays", v->why);
}

int main(int argc, char **argv)
{
	static const char *const keep[] = { "release", NULL };
	struct snaptrail_settings settings;
	struct snaptrail_state *state = snaptrail_state_new();
	struct snaptrail_pruned pruned;
	struct snaptrail *st;
	const char *ids[2];
	char id[12][17];

	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	settings.max_snapshots = 6;                                 /* of each session, beside those that stay */
	settings.max_retention_ms = 7 * 24 * 3600 * UINT64_C(1000); /* a week */
	settings.keep_tags = keep;                                  /* whatever the limits say */
	settings.tagged_snapshots_only = false;                     /* true: so do all that have any tag */
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));

	/* All of a batch is there at once, or none of it. */
	check("begin", snaptrail_batch_begin(st));
	for (int i = 0; i < 10; i++)
		create(st, state, i, i == 0 ? "release" : NULL, id[i]);
	check("end", snaptrail_batch_end(st, true));
	printf("a batch kept: %" PRId64 " snapshots\n", count(st));
	check("begin", snaptrail_batch_begin(st));
	create(st, state, 10, NULL, id[10]);
	check("end", snaptrail_batch_end(st, false));
	printf("another given up: %" PRId64 "\n", count(st));

	/* What stands on a deleted one stays readable; an unknown id deletes nothing. */
	ids[0] = id[4];
	ids[1] = id[5];
	check("delete", snaptrail_delete(st, ids, 2));
	printf("two deleted: %" PRId64 "\n", count(st));
	if (snaptrail_delete(st, ids, 2) != -ENOENT)
		return 1;

	check("prune", snaptrail_prune(st, true, verdict, NULL, &pruned));
	printf("the limits would take %" PRIu64 "\n", pruned.snapshots);
	check("prune", snaptrail_prune(st, false, NULL, NULL, &pruned));
	printf("pruned: %" PRId64 " left\n", count(st));
	snaptrail_state_free(state);
	snaptrail_close(st);
	return 0;
}
