/* Events of a handle: who listens is told on the thread that caused them. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"

int snaptrail_on(struct snaptrail *st, const char *event, void (*told)(void *arg, const struct snaptrail_notification *n),
		 void *arg)
{
	static const char *const known[] = { "snapshot_created",
					     "snapshot_deleted",
					     "automatic_snapshots_started",
					     "automatic_snapshots_stopped",
					     "snapshots_imported",
					     "error",
					     "shutdown_complete",
					     NULL };
	struct listener *l, **at = &st->listeners;
	size_t i = 0;
	HOLD(st);

	while (event && known[i] && strcmp(event, known[i]))
		i++;
	if (event && known[i] == NULL)
		return fail(-EINVAL, "\"%s\" is no event", event);
	l = xcalloc(1, sizeof *l);
	*l = (struct listener){ .number = ++st->last_listener, .event = event ? xstrdup(event) : NULL, .told = told, .arg = arg };
	while (*at)
		at = &(*at)->next;
	*at = l;
	return l->number;
}

/* It may be called from within a listener: what is being told stays in the
 * list, deaf, until the handle goes. */
void snaptrail_off(struct snaptrail *st, int number)
{
	HOLD(st);

	for (struct listener *l = st->listeners; l; l = l->next)
		if (l->number == number)
			l->told = NULL;
}

void notify(struct snaptrail *st, const struct snaptrail_notification *n)
{
	HOLD(st);

	for (struct listener *l = st->listeners; l; l = l->next)
		if (l->told && (l->event == NULL || strcmp(l->event, n->event) == 0))
			l->told(l->arg, n);
}

int notify_error(struct snaptrail *st, const char *type, const char *session, const char *id, int code)
{
	char detail[1024];

	snprintf(detail, sizeof detail, "%s", *err_detail() ? err_detail() : err_text(code));
	notify(st, &(struct snaptrail_notification){
			   .event = "error", .type = type, .error = detail, .session = session, .id = id, .code = code });
	return fail(code, "%s", detail); /* a listener may have called and failed */
}

/* ---- snapshots that come and go ---- */

/* Told of at the end of the batch, if that is kept. */
struct batched_event {
	struct batched_event *next;
	char id[SNAPTRAIL_ID_BYTES], session[256]; /* session "": it was created */
};

static void batched_note(struct snaptrail *st, const char *id, const char *session)
{
	struct batched_event *e = xcalloc(1, sizeof *e);

	snprintf(e->id, sizeof e->id, "%s", id);
	snprintf(e->session, sizeof e->session, "%s", session);
	*(st->batched_events ? st->batched_last : &st->batched_events) = e;
	st->batched_last = &e->next;
}

static void tell_created(struct snaptrail *st, const struct snapshot_meta *m)
{
	struct snaptrail_snapshot s;

	snapshot_public(st, m, &s);
	notify(st,
	       &(struct snaptrail_notification){ .event = "snapshot_created", .session = s.session, .id = s.id, .snapshot = &s });
}

static void tell_deleted(struct snaptrail *st, const char *session, const char *id)
{
	notify(st, &(struct snaptrail_notification){ .event = "snapshot_deleted", .session = session, .id = id });
}

void notify_deleted(struct snaptrail *st, const char *session, const char *id)
{
	if (st->batching)
		batched_note(st, id, session);
	else
		tell_deleted(st, session, id);
}

/* A listener may begin a batch of its own: what that notes is no longer ours. */
void notify_batched(struct snaptrail *st, bool kept)
{
	struct batched_event *ended = st->batched_events;

	st->batched_events = NULL;
	for (struct batched_event *e; (e = ended);) {
		struct snapshot_meta m;

		ended = e->next;
		if (kept && e->session[0])
			tell_deleted(st, e->session, e->id);
		else if (kept && store_snapshot_find(st->store, e->id, &m, NULL) == 0)
			tell_created(st, &m);
		free(e);
	}
}

void notify_created(struct snaptrail *st, const struct snapshot_meta *m)
{
	HOLD(st);

	if (st->listeners == NULL)
		return;
	if (st->batching)
		batched_note(st, m->id, "");
	else
		tell_created(st, m);
}
