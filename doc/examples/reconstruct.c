/* Travel: the state at any instant, what differs between two, every change of a
 * range in its order, and when something became true.
 *
 *     cc reconstruct.c $(pkg-config --cflags --libs snaptrail) -o reconstruct
 *     ./reconstruct /tmp/example-store */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <snaptrail.h>

#define SECOND UINT64_C(1000000000)

static uint64_t start;

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

static double seconds(uint64_t time_ns) { return (double)(time_ns - start) / 1e9; }

/* A queue that fills up and is emptied: a snapshot each second. */
static void fill(struct snaptrail *st)
{
	static const int lengths[] = { 0, 3, 7, 12, 4, 0 };
	struct snaptrail_state *state = snaptrail_state_new();
	char id[17];

	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		struct snaptrail_create_options o = { .size = sizeof o, .time_ns = start + i * SECOND };
		struct snaptrail_value *v = snaptrail_value_of_int(lengths[i]);

		check("set", snaptrail_state_set_field(state, SNAPTRAIL_MEMORY, "queue", "length", v));
		snaptrail_value_free(v);
		check("create", snaptrail_create(st, "queue", state, &o, id));
	}
	snaptrail_state_free(state);
}

/* Any instant will do, also one between two snapshots. */
static struct snaptrail_state *state_at(struct snaptrail *st, uint64_t time_ns)
{
	char ref[40];
	struct snaptrail_point at;
	struct snaptrail_state *s;

	snprintf(ref, sizeof ref, "@%" PRIu64, time_ns); /* 19 digits: nanoseconds */
	check(ref, snaptrail_resolve(st, "queue", ref, &at));
	check(ref, snaptrail_state_at(st, &at, &s));
	return s;
}

static int64_t number(const struct snaptrail_value *v) { return v ? snaptrail_value_int(v) : 0; }

static int differs(void *arg, const struct snaptrail_difference *d)
{
	(void)arg;
	printf("  %.*s#%s was %" PRId64 ", is %" PRId64 "\n", (int)d->key_len, d->key, d->field, number(d->before), number(d->after));
	return 0;
}

static int replay(void *arg, const struct snaptrail_event *e)
{
	(void)arg;
	printf("  +%.0f s %.*s#%s is %" PRId64 "\n", seconds(e->time_ns), (int)e->key_len, e->key, e->field, number(e->after));
	return 0;
}

int main(int argc, char **argv)
{
	struct snaptrail_log_query range = { .session = "queue", .path = "memory:queue#length" };
	struct snaptrail_condition full = { .path = "memory:queue#length", .op = ">" };
	struct snaptrail_value *ten = snaptrail_value_of_int(10);
	struct snaptrail_settings settings;
	struct snaptrail_state *a, *b;
	struct snaptrail *st;
	uint64_t when;

	start = ((uint64_t)time(NULL) - 60) * SECOND;
	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));
	fill(st);

	a = state_at(st, start + SECOND + SECOND / 2);
	b = state_at(st, start + 3 * SECOND);
	printf("from +1.5 s to +3 s:\n");
	check("diff", snaptrail_diff(a, b, NULL, differs, NULL));
	snaptrail_state_free(a);
	snaptrail_state_free(b);

	range.since_ns = start + 2 * SECOND;
	range.until_ns = start + 5 * SECOND;
	printf("replayed from +2 s to before +5 s:\n");
	check("log", snaptrail_log(st, &range, replay, NULL));

	full.value = ten;
	check("when", snaptrail_when(st, "queue", &full, &when));
	printf("more than ten for the first time at +%.0f s\n", seconds(when));
	snaptrail_value_free(ten);
	snaptrail_close(st);
	return 0;
}
