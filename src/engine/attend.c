/* Taking a session over from the command line; see attend.h.  The host in a
 * target starts this when it ends before others do (a daemon that has forked
 * into the background): no thread can be started in them from outside. */
#include "engine/attend.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "engine/prepare.h"
#include "engine/recorder.h"

static int take(struct prepared *p, const char *name)
{
	struct session_meta m;
	char pointer[4500];
	int r = store_session_find(p->store, name, &m);

	if (r < 0)
		return r;
	snprintf(p->name, sizeof p->name, "%s", m.name);
	snprintf(pointer, sizeof pointer, "%s/live/%s", store_path(p->store), m.id);
	r = session_attach(&p->session, pointer, true);
	if (r == -EBUSY)
		return fail(-EBUSY, "session %s is being recorded", name);
	if (r < 0)
		session_close(&p->session, false);
	return session_is_gone(r) ? fail(-ENOENT, "session %s has ended", name) : r;
}

int attend(const struct config *c, const char *name)
{
	struct prepared p = { .config = c, .session = { .lease = -1 } };
	struct recorder_options o = { .config = c, .session = &p.session, .session_name = p.name, .control = -1, .resume = true };
	struct store_options so;
	sigset_t none;
	int r;

	/* A host's thread has them all blocked, and that is inherited. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prepare_store_options(c, &so);
	r = store_open(c->path, &so, &p.store);
	if (r == 0)
		r = take(&p, name);
	if (r < 0) {
		store_close(p.store);
		return r;
	}
	o.store = p.store;
	return recorder_main(&o);
}
