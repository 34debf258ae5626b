/* What a store holds and what it cost.
 *
 *     cc statistics.c $(pkg-config --cflags --libs snaptrail) -o statistics
 *     ./statistics /tmp/example-store */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <snaptrail.h>

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

/* Twenty snapshots of a state of some size, of which little changes. */
static void fill(struct snaptrail *st)
{
	struct snaptrail_state *state = snaptrail_state_new();
	struct snaptrail_value *v;
	char key[30], id[17];

	for (int i = 0; i < 500; i++) {
		snprintf(key, sizeof key, "customer-%03d", i);
		v = snaptrail_value_of_string("orders nothing but books and tea, and that each week");
		check("set", snaptrail_state_set(state, SNAPTRAIL_MEMORY, key, v));
		snaptrail_value_free(v);
	}
	for (int i = 0; i < 20; i++) {
		v = snaptrail_value_of_int(i);
		check("set", snaptrail_state_set(state, SNAPTRAIL_METRICS, "orders", v));
		snaptrail_value_free(v);
		check("create", snaptrail_create(st, "shop", state, NULL, id));
	}
	snaptrail_state_free(state);
}

int main(int argc, char **argv)
{
	struct snaptrail_settings settings;
	struct snaptrail_session session;
	struct snaptrail_stats s;
	struct snaptrail_gap gap;
	struct snaptrail *st;

	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));
	fill(st);

	check("statistics", snaptrail_stats(st, NULL, &s));
	if (s.snapshots == 0)
		return 1;
	printf("Total snapshots: %" PRIu64 " (%" PRIu64 " full, %" PRIu64 " incremental)\n", s.snapshots, s.full, s.incremental);
	for (size_t i = 0; snaptrail_session_at(st, i, &session) == 0; i++)
		printf("  %s: %" PRIu64 "\n", session.name, session.snapshots);
	printf("Storage size: %.1f KiB of %.1f KiB\n", (double)s.stored_bytes / 1024, (double)s.raw_bytes / 1024);
	printf("Average snapshot: %" PRIu64 " bytes\n", s.stored_bytes / s.snapshots);
	if (s.raw_bytes)
		printf("Compression ratio: %.0f%% (of %" PRIu64 " that are compressed)\n",
		       100.0 * (double)s.stored_bytes / (double)s.raw_bytes, s.compressed);
	printf("Creation: %.3f ms on average, half of them within %.3f ms, 95%% within %.3f ms\n",
	       (double)s.creation_ns_total / (double)s.snapshots / 1e6, (double)s.creation_ns_p50 / 1e6,
	       (double)s.creation_ns_p95 / 1e6);
	printf("Lost: %" PRIu64 "\n", s.lost);
	for (size_t i = 0; snaptrail_gap_at(st, i, &gap) == 0; i++)
		printf("  %s: %" PRIu64 " reports (%s)\n", gap.session, gap.lost, gap.cause);
	snaptrail_close(st);
	return 0;
}
