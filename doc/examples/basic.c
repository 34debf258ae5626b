/* Snapshots of a program's own state: made, found again, read back.
 *
 *     cc basic.c $(pkg-config --cflags --libs snaptrail) -o basic
 *     ./basic /tmp/example-store          (no folder: the configured store) */
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

static void set_progress(struct snaptrail_state *state, const char *task, double done)
{
	struct snaptrail_value *v = snaptrail_value_of_double(done);

	check("set", snaptrail_state_set_field(state, SNAPTRAIL_TASKS, task, "progress", v));
	snaptrail_value_free(v); /* the state has a copy */
}

/* The progress of a task as it was in a snapshot. */
static double progress_then(struct snaptrail *st, const char *id, const char *task)
{
	struct snaptrail_point at;
	struct snaptrail_state *then;
	const struct snaptrail_value *entity;
	double done = -1;

	check("resolve", snaptrail_resolve(st, "orders", id, &at));
	check("read", snaptrail_state_at(st, &at, &then));
	entity = snaptrail_state_get(then, SNAPTRAIL_TASKS, task, strlen(task));
	if (entity)
		done = snaptrail_value_double(snaptrail_value_get(entity, "progress"));
	snaptrail_state_free(then);
	return done;
}

int main(int argc, char **argv)
{
	static const char text[] =
		"{\"agents\": {\"loader\": {\"type\": \"worker\", \"status\": \"busy\"}},"
		" \"tasks\": {\"import\": {\"agentId\": \"loader\", \"status\": \"running\", \"progress\": 0.1}}}";
	static const char *const tags[] = { "milestone", "before-deployment", NULL };
	struct snaptrail_create_options how = { .size = sizeof how, .tags = tags, .description = "State before the deployment" };
	struct snaptrail_settings settings;
	struct snaptrail_snapshot s;
	struct snaptrail_state *state;
	struct snaptrail *st;
	char first[17], second[17];

	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));

	check("build", snaptrail_state_from_json(text, strlen(text), &state));
	check("create", snaptrail_create(st, "orders", state, &how, first));
	set_progress(state, "import", 0.9); /* what was stored does not notice */
	check("create", snaptrail_create(st, "orders", state, NULL, second));
	snaptrail_state_free(state);

	check("get", snaptrail_get(st, "orders", first, &s));
	printf("%s snapshot: %s\n", s.type, s.description);
	printf("tags:");
	for (size_t i = 0; s.tags[i]; i++)
		printf(" %s", s.tags[i]);
	printf("\n%" PRIu64 " agent, %" PRIu64 " task\n", s.agents, s.tasks);
	check("nearest", snaptrail_nearest(st, "orders", s.time_ns + 1, SNAPTRAIL_BEFORE, &s));
	printf("the nearest before is %s\n", strcmp(s.id, first) ? "another" : "the same");
	check("get", snaptrail_get(st, "orders", second, &s));
	printf("the second is %s\n", s.type);
	printf("progress: %g, then %g\n", progress_then(st, first, "import"), progress_then(st, second, "import"));
	snaptrail_close(st);
	return 0;
}
