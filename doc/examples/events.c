/* Listeners, errors by their type, automatic snapshots, shutdown.
 *
 *     cc events.c $(pkg-config --cflags --libs snaptrail) -o events -pthread
 *     ./events /tmp/example-store */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <snaptrail.h>

static sem_t automatic;

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

/* Told on the thread that caused it; may use the handle, but not close it. */
static void told(void *arg, const struct snaptrail_notification *n)
{
	(void)arg;
	if (strcmp(n->event, "error") == 0)
		return; /* its own listener's */
	if (n->snapshot && strcmp(n->snapshot->origin, "automatic") == 0) {
		sem_post(&automatic); /* how many there are is a matter of time */
		return;
	}
	printf("%s\n", n->event); /* n->session, n->id and so on, as far as it has them */
}

static void error_told(void *arg, const struct snaptrail_notification *n)
{
	(void)arg;
	if (strcmp(n->type, "snapshot_creation_failed") == 0)
		printf("failed to create a snapshot: %s\n", n->error);
	else if (strcmp(n->type, "automatic_snapshot_failed") == 0)
		printf("automatic snapshot failed: %s\n", n->error);
	else
		printf("%s (%s): %s\n", n->type, snaptrail_strerror(n->code), n->error);
}

/* The state of now, each time that one is wanted.  It runs on the handle's own
 * thread, so what it shares with others needs a lock; this state is its alone. */
static struct snaptrail_state *state_now(void *arg)
{
	struct snaptrail_state *state = arg;
	struct snaptrail_value *v;
	static int64_t round;

	v = snaptrail_value_of_int(++round);
	snaptrail_state_set(state, SNAPTRAIL_METRICS, "round", v);
	snaptrail_value_free(v);
	return state; /* NULL: nothing to store this time */
}

int main(int argc, char **argv)
{
	struct snaptrail_create_options wrong = { .size = sizeof wrong, .type = "tagged" };
	struct snaptrail_state *state = snaptrail_state_new(), *own = snaptrail_state_new();
	struct snaptrail_settings settings;
	struct snaptrail *st;
	const char *ids[1];
	char id[17];
	int number;

	sem_init(&automatic, 0, 0);
	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = argc > 1 ? argv[1] : NULL;
	check("open", snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));
	check("listen", snaptrail_on(st, NULL, told, NULL)); /* to everything */
	number = snaptrail_on(st, "error", error_told, NULL);
	check("listen", number);

	check("create", snaptrail_create(st, "orders", state, NULL, id));
	if (snaptrail_create(st, "orders", state, &wrong, id) != -EINVAL)
		return 1; /* it returns its error and tells the listener as well */
	ids[0] = id;
	check("delete", snaptrail_delete(st, ids, 1));
	snaptrail_off(st, number);

	check("start", snaptrail_automatic_from(st, "shop", 10 * 1000000u, state_now, own));
	for (int i = 0; i < 3; i++)
		sem_wait(&automatic);
	printf("three automatic snapshots\n");
	check("stop", snaptrail_automatic(st, "shop", false, 0)); /* state_now() does not run any more */

	snaptrail_close(st);
	snaptrail_state_free(own);
	snaptrail_state_free(state);
	return 0;
}
