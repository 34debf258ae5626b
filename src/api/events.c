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

void notify_created(struct snaptrail *st, const struct snapshot_meta *m)
{
	struct snaptrail_snapshot s;
	HOLD(st);

	if (st->listeners == NULL)
		return;
	snapshot_public(st, m, &s);
	notify(st,
	       &(struct snaptrail_notification){ .event = "snapshot_created", .session = s.session, .id = s.id, .snapshot = &s });
}
