/* A live session, asked and followed; and edits of what is stored. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "engine/clock.h"
#include "engine/request.h"

/* ---- requests ---- */

/* The session's folder, when somebody records it: -ENOENT it has ended. */
static int attach(struct snaptrail *st, const char *name, struct session *ret, struct session_meta *ret_meta)
{
	struct snaptrail_session s;
	char pointer[4500];
	int r = session_meant(st, name, ret_meta);

	if (r < 0)
		return r;
	r = snaptrail_session_find(st, ret_meta->name, &s);
	if (r < 0)
		return r;
	if (s.unattended)
		return fail(-EBUSY,
			    "session %s is unattended: its host has ended and no other has "
			    "taken its place yet",
			    s.name);
	if (!s.live)
		return fail(-ENOENT, "session %s is not being recorded", s.name);
	snprintf(pointer, sizeof pointer, "%s/live/%s", store_path(st->store), s.id);
	r = session_attach(ret, pointer, false);
	if (r < 0)
		session_close(ret, false);
	return r;
}

static int ask(struct snaptrail *st, const char *name, struct request_page *q)
{
	struct session_meta m;
	struct session s;
	int r = attach(st, name, &s, &m);

	if (r < 0)
		return r;
	r = request_ask(&s, q);
	session_close(&s, false);
	return r;
}

/* Tags go through lists like a,b,!c: what these need stays out of them. */
static int check_tag(const char *tag)
{
	size_t n = strlen(tag);

	if (n == 0 || n > 255 || strchr(tag, ',') || strchr("!+-", tag[0]))
		return fail(-EINVAL,
			    "\"%.60s\": a tag has 1 to 255 bytes, no comma, and does not "
			    "begin with !, + or -",
			    tag);
	return 0;
}

int tags_check(const char *const *tags)
{
	int r = 0;

	for (const char *const *t = tags; t && *t && r == 0; t++)
		r = check_tag(*t);
	return r;
}

int description_check(const char *text)
{
	return text && strlen(text) > 60000 ? fail(-EINVAL, "a description has at most 60,000 bytes") : 0;
}

int snaptrail_snap(struct snaptrail *st, const char *session, const struct snaptrail_snap_options *o, char ret_id[17])
{
	struct request_page q = { .verb = REQUEST_SNAP };
	size_t at = 0;
	int r = 0;
	HOLD(st);

	if (o && o->type)
		q.type = strcmp(o->type, "full") == 0 ? SNAPSHOT_FULL : SNAPSHOT_INCREMENTAL;
	for (const char *const *t = o ? o->tags : NULL; t && *t && r == 0; t++) {
		r = check_tag(*t);
		if (r == 0 && at + strlen(*t) + 2 > sizeof q.tags)
			r = fail(-EINVAL, "more tags than a request takes: %zu bytes", sizeof q.tags);
		if (r == 0)
			at += (size_t)snprintf(q.tags + at, sizeof q.tags - at, "%s", *t) + 1;
	}
	if (r == 0 && o && o->description && strlen(o->description) >= sizeof q.description)
		r = fail(-EINVAL, "a description of more than %zu bytes", sizeof q.description - 1);
	if (r < 0)
		return r;
	if (o && o->description)
		snprintf(q.description, sizeof q.description, "%s", o->description);
	r = ask(st, session, &q);
	if (r < 0)
		return r;
	snprintf(ret_id, 17, "%.16s", q.text);
	return store_refresh(st->store);
}

int snaptrail_automatic(struct snaptrail *st, const char *session, bool on, uint64_t interval_ns)
{
	struct request_page q = { .verb = on ? REQUEST_AUTO_START : REQUEST_AUTO_STOP, .interval_ns = interval_ns };
	const char *event = on ? "automatic_snapshots_started" : "automatic_snapshots_stopped";
	bool own = !on && session && worker_stop(st, session);
	int r = 0;
	HOLD(st);

	if (!own)
		r = ask(st, session, &q);
	if (r == 0)
		notify(st, &(struct snaptrail_notification){ .event = event, .session = session });
	return r;
}

int snaptrail_flush(struct snaptrail *st, const char *session)
{
	struct request_page q = { .verb = REQUEST_FLUSH };
	HOLD(st);

	return ask(st, session, &q);
}

int snaptrail_live_stats(struct snaptrail *st, const char *session, struct snaptrail_live *ret)
{
	struct request_page q = { .verb = REQUEST_STATS };
	int r;
	HOLD(st);

	r = ask(st, session, &q);
	*ret = (struct snaptrail_live){
		.changes = q.stats.changes,
		.coalesced = q.stats.coalesced,
		.lost = q.stats.lost,
		.damaged = q.stats.voided,
		.snapshots = q.stats.snapshots,
		.dropped = q.stats.dropped,
		.queued = q.stats.queued,
		.processes = q.stats.processes,
		.raw_bytes = q.stats.raw_bytes,
		.stored_bytes = q.stats.stored_bytes,
		.recorder_cpu_ns = q.stats.cpu_ns,
		.interval_ns = q.stats.interval_ns,
		.watermark_ns = q.stats.watermark_ns,
	};
	return r;
}

/* ---- edits ---- */

static int own_id(struct snaptrail *st, const char *id, char ret[STORE_ID_LEN + 1])
{
	struct snapshot_meta m;
	int r;

	worker_wait(st);
	if (st->batching && store_batch_has(st->store, id)) { /* not to be found before the batch's end */
		memcpy(ret, id, STORE_ID_LEN + 1);
		return 0;
	}
	r = store_snapshot_find(st->store, id, &m, NULL);
	if (r == 0)
		memcpy(ret, m.id, sizeof m.id);
	return r;
}

int snaptrail_tag(struct snaptrail *st, const char *id, const char *const *add, const char *const *remove)
{
	char own[STORE_ID_LEN + 1];
	int r = tags_check(add);
	HOLD(st);

	if (r == 0)
		r = own_id(st, id, own);
	return r < 0 ? r : store_note_tags(st->store, own, add, remove);
}

int snaptrail_describe(struct snaptrail *st, const char *id, const char *text)
{
	char own[STORE_ID_LEN + 1];
	int r = description_check(text);
	HOLD(st);

	if (r == 0)
		r = own_id(st, id, own);
	return r < 0 ? r : store_note_description(st->store, own, text);
}

int snaptrail_mark(struct snaptrail *st, const char *session, uint64_t time_ns, const char *name)
{
	struct session_meta s;
	size_t n = strlen(name);
	int r;
	HOLD(st);

	if (n == 0 || n > 255)
		return fail(-EINVAL, "a mark's name has 1 to 255 bytes");
	worker_wait(st);
	r = session_meant(st, session, &s);
	return r < 0 ? r : store_note_mark(st->store, s.id, time_ns, name);
}

/* ---- watching ---- */

#define WATCH_NS 100000000u /* between two looks, and never more than a fifth of the time */

static uint64_t watermark(struct snaptrail *st, const char *id)
{
	char pointer[4500];
	struct session s;
	uint64_t at = 0;

	snprintf(pointer, sizeof pointer, "%s/live/%s", store_path(st->store), id);
	if (session_attach(&s, pointer, false) == 0)
		at = __atomic_load_n(&s.board->watermark_ns, __ATOMIC_ACQUIRE);
	session_close(&s, false);
	return at;
}

static int watch_snapshots(struct snaptrail *st, const char *id, size_t *known, const struct snaptrail_watcher *w)
{
	struct snaptrail_snapshot public;
	struct snapshot_meta m;
	int r = 0;

	for (; r == 0 && w->snapshot && store_snapshot_at(st->store, id, *known, &m) == 0; ++*known) {
		snapshot_public(st, &m, &public);
		r = w->snapshot(w->arg, &public);
	}
	return r;
}

static void pause_for(uint64_t spent_ns)
{
	uint64_t ns = spent_ns * 4 > WATCH_NS ? spent_ns * 4 : WATCH_NS;

	nanosleep(&(struct timespec){ .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) }, NULL);
}

int snaptrail_watch(struct snaptrail *st, const char *session, uint64_t since_ns, const struct snaptrail_watcher *w)
{
	struct snaptrail_log_query q = { .since_ns = since_ns };
	struct session_meta m;
	char name[256], id[17];
	size_t known;
	int r = session_meant(st, session, &m);

	if (r < 0)
		return r;
	snprintf(name, sizeof name, "%s", m.name);
	memcpy(id, m.id, sizeof id);
	q.session = name;
	known = store_snapshot_count(st->store, id);
	for (;;) {
		struct snaptrail_session s;
		uint64_t begun = mono_now_ns();
		int64_t n = 0;
		bool lives;

		r = snaptrail_session_find(st, name, &s);
		if (r < 0)
			return r;
		lives = s.live || s.unattended;
		q.until_ns = lives ? watermark(st, id) : 0;
		if (w->changed && (!lives || q.until_ns > q.since_ns))
			n = snaptrail_log(st, &q, w->changed, w->arg);
		if (n == -ENODATA)
			n = 0; /* nothing stored yet */
		else if (q.until_ns > q.since_ns)
			q.since_ns = q.until_ns;
		r = n < 0 ? (int)n : watch_snapshots(st, id, &known, w);
		if (r || (w->stopped && w->stopped(w->arg)) || !lives)
			return r;
		pause_for(mono_now_ns() - begun);
		store_refresh(st->store);
	}
}
