/* Snapshots found by tags, time and type; two of them compared.
 *
 *     cc search.c $(pkg-config --cflags --libs snaptrail) -o search
 *     ./search /tmp/example-store */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <snaptrail.h>

#define SECOND UINT64_C(1000000000)
#define TAGS(...) (const char *const[]){ __VA_ARGS__, NULL }

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

/* An hour of releases: one each ten minutes, every other one tagged. */
static uint64_t fill(struct snaptrail *st, uint64_t start_ns, char ids[6][17])
{
	struct snaptrail_state *state = snaptrail_state_new();

	for (int i = 0; i < 6; i++) {
		const char *const *tags = i == 2 ? TAGS("milestone", "error-state") : i % 2 == 0 ? TAGS("milestone") : NULL;
		struct snaptrail_create_options o = { .size = sizeof o, .tags = tags, .time_ns = start_ns + (uint64_t)i * 600 * SECOND };
		struct snaptrail_value *v = snaptrail_value_of_int(i);
		char key[20];

		snprintf(key, sizeof key, "release-%d", i / 2);
		check("set", snaptrail_state_set(state, SNAPTRAIL_TASKS, key, v));
		check("set", snaptrail_state_set(state, SNAPTRAIL_METRICS, "builds", v));
		snaptrail_value_free(v);
		check("create", snaptrail_create(st, "releases", state, &o, ids[i]));
	}
	snaptrail_state_free(state);
	return start_ns;
}

static int print_one(void *arg, const struct snaptrail_snapshot *s)
{
	printf("  +%2" PRIu64 " min%s%s%s\n", (s->time_ns - *(uint64_t *)arg) / (60 * SECOND), s->tags[0] ? "  " : "",
	       s->tags[0] ? s->tags[0] : "", s->tags[0] && s->tags[1] ? " and another" : "");
	return 0; /* anything else would end the search and be its result */
}

static void search(struct snaptrail *st, const char *title, struct snaptrail_query q, uint64_t start_ns)
{
	int64_t n;

	q.session = "releases";
	printf("%s\n", title);
	n = snaptrail_list(st, &q, print_one, &start_ns);
	check("search", n);
	printf("  %" PRId64 " found\n", n);
}

int main(int argc, char **argv)
{
	uint64_t start = ((uint64_t)time(NULL) - 3600) * SECOND, changed[SNAPTRAIL_TABLES + 1];
	struct snaptrail_settings settings;
	struct snaptrail *st;
	char ids[6][17];
	int64_t n;

	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));
	fill(st, start, ids);

	search(st, "all of these tags:", (struct snaptrail_query){ .tags_all = TAGS("milestone", "error-state") }, start);
	search(st, "one of them, but not error-state:",
	       (struct snaptrail_query){ .tags_any = TAGS("milestone", "demo"), .tags_none = TAGS("error-state") }, start);
	search(st, "the twenty minutes from the tenth on:",
	       (struct snaptrail_query){ .since_ns = start + 600 * SECOND, .until_ns = start + 1800 * SECOND }, start);
	/* The limit is of what is told; the count is of all that match. */
	search(st, "the newest:", (struct snaptrail_query){ .reverse = true, .limited = true, .limit = 1 }, start);

	n = snaptrail_compare(st, ids[0], ids[5], changed, NULL, NULL);
	check("compare", n);
	printf("first to last: %" PRId64 " changes, %" PRIu64 " tasks, %" PRIu64 " metric\n", n, changed[SNAPTRAIL_TASKS],
	       changed[SNAPTRAIL_METRICS]);
	snaptrail_close(st);
	return 0;
}
