/* References: from what a person types to an instant of a session. */
#include "api/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/clock.h"
#include "engine/replay.h"

struct refs {
	struct snaptrail *st;
	struct session_meta s;
	struct snaptrail_point *ret;
	bool qualified; /* SESSION/REF */
};

static int at_snapshot(struct refs *r, size_t i)
{
	struct snapshot_meta m;

	if (store_snapshot_at(r->st->store, r->s.id, i, &m) < 0)
		return fail(-ENOENT, "session %s has no such snapshot", r->s.name);
	snapshot_public(r->st, &m, &r->ret->snapshot);
	r->ret->is_snapshot = true;
	r->ret->time_ns = m.time_ns;
	snprintf(r->ret->session, sizeof r->ret->session, "%s", r->ret->snapshot.session);
	return 0;
}

static int position_of(struct refs *r, const struct snaptrail_snapshot *s, size_t *ret)
{
	struct snapshot_meta m;
	int e = store_snapshot_find(r->st->store, s->own_id, &m, ret);

	if (e == 0 && strcmp(m.session_id, r->s.id))
		return store_session_find(r->st->store, s->session, &r->s) < 0 ? -ENOENT : 0;
	return e;
}

static int by_tag(struct refs *r, const char *tag)
{
	for (size_t i = store_snapshot_count(r->st->store, r->s.id); i-- > 0;) {
		struct snapshot_meta m;

		if (store_snapshot_at(r->st->store, r->s.id, i, &m) < 0)
			continue;
		for (size_t k = 0; k < m.ntags; k++)
			if (strcmp(m.tags[k], tag) == 0)
				return at_snapshot(r, i);
	}
	return fail(-ENOENT, "session %s has no snapshot tagged %.200s", r->s.name, tag);
}

static bool is_live(struct refs *r)
{
	struct snaptrail_session s;

	return snaptrail_session_find(r->st, r->s.name, &s) == 0 && s.live;
}

static int by_time(struct refs *r, const char *text)
{
	uint64_t t;
	int e = snaptrail_parse_time(text, r->s.started_ns, wall_now_ns(), &t);

	if (e < 0)
		return e;
	r->ret->time_ns = t;
	r->ret->live = t > r->s.last_time_ns && is_live(r);
	return 0;
}

struct numbered {
	uint64_t want, time_ns;
};

static void note_time(void *arg, uint64_t time_ns, uint64_t seq, const struct change *c)
{
	struct numbered *n = arg;

	(void)c;
	if (seq == n->want)
		n->time_ns = time_ns;
}

static void quiet(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	(void)arg, (void)e, (void)field, (void)before, (void)after;
}

static int by_number(struct refs *r, const char *text)
{
	char *end;
	struct numbered n = { .want = strtoull(text, &end, 10) };
	struct replay_query q = { .session_id = r->s.id,
				  .until_ns = UINT64_MAX,
				  .store_folder = store_path(r->st->store),
				  .observe = quiet,
				  .tick = note_time,
				  .arg = &n };
	struct replay_result result;
	int e;

	if (*end || !isdigit((unsigned char)*text))
		return fail(-EINVAL, "\"#%.60s\": a Change has a number", text);
	e = replay(r->st->store, &q, &result);
	if (e < 0)
		return e;
	model_free(result.model);
	if (n.time_ns == 0)
		return fail(-ENOENT, "session %s has no Change #%.60s", r->s.name, text);
	r->ret->time_ns = n.time_ns;
	return 0;
}

struct marked {
	const char *name;
	uint64_t time_ns;
};

static void note_mark(void *arg, uint64_t time_ns, uint64_t seq, const struct change *c)
{
	struct marked *m = arg;

	(void)seq;
	if (c->kind == MARK && c->name.n == strlen(m->name) && memcmp(c->name.p, m->name, c->name.n) == 0)
		m->time_ns = time_ns;
}

/* The latest mark of a name: what the last state says of it, and for a mark of
 * an earlier run of the session the whole recording. */
static int by_mark(struct refs *r, const char *name)
{
	struct marked m = { .name = name };
	struct replay_query q = { .session_id = r->s.id, .until_ns = UINT64_MAX, .store_folder = store_path(r->st->store) };
	struct replay_result result;
	char key[520];
	int n = snprintf(key, sizeof key, "mark/%s", name), e;
	const struct entity *entry;

	if (store_mark_find(r->st->store, r->s.id, name, &r->ret->time_ns) == 0)
		return 0; /* set afterwards, so by somebody who knew the others */

	e = replay(r->st->store, &q, &result);
	if (e < 0)
		return e;
	entry = model_find(result.model, TABLE_MEMORY, key, (size_t)n);
	if (entry && entry->source == SOURCE_API)
		m.time_ns = entry->time_ns;
	model_free(result.model);
	if (m.time_ns == 0) {
		q.observe = quiet;
		q.tick = note_mark;
		q.arg = &m;
		e = replay(r->st->store, &q, &result);
		if (e < 0)
			return e;
		model_free(result.model);
	}
	if (m.time_ns == 0)
		return fail(-ENOENT, "session %s has no mark %.200s", r->s.name, name);
	r->ret->time_ns = m.time_ns;
	return 0;
}

/* In the session that is meant; an id that is not there may be of any other. */
static int by_id(struct refs *r, const char *ref, struct snapshot_meta *ret)
{
	int e = store_snapshot_find_in(r->st->store, r->s.id, ref, ret, NULL);

	return e == -ENOENT && !r->qualified ? store_snapshot_find(r->st->store, ref, ret, NULL) : e;
}

static int by_name(struct refs *r, const char *ref)
{
	struct snapshot_meta m;
	size_t n = store_snapshot_count(r->st->store, r->s.id);
	int e;

	if (strcmp(ref, "latest") == 0)
		return n ? at_snapshot(r, n - 1) : fail(-ENOENT, "session %s has no snapshot yet", r->s.name);
	if (strcmp(ref, "first") == 0)
		return at_snapshot(r, 0);
	if (strcmp(ref, "live") == 0) {
		if (!is_live(r))
			return fail(-ENOENT, "session %s has ended: live is not there any more", r->s.name);
		r->ret->live = true;
		r->ret->time_ns = UINT64_MAX;
		return 0;
	}
	if (strncmp(ref, "tag:", 4) == 0)
		return by_tag(r, ref + 4);
	if (strncmp(ref, "mark:", 5) == 0)
		return by_mark(r, ref + 5);
	if (ref[0] == '@')
		return by_time(r, ref + 1);
	if (ref[0] == '#')
		return by_number(r, ref + 1);
	e = by_id(r, ref, &m);
	if (e < 0)
		return e;
	snapshot_public(r->st, &m, &r->ret->snapshot);
	r->ret->is_snapshot = true;
	r->ret->time_ns = m.time_ns;
	snprintf(r->ret->session, sizeof r->ret->session, "%s", r->ret->snapshot.session);
	return 0;
}

/* REF~N: N snapshots earlier; of an instant, counted from the last one before
 * it. */
static int earlier(struct refs *r, unsigned long n)
{
	size_t i;
	int e = 0;

	if (r->ret->is_snapshot)
		e = position_of(r, &r->ret->snapshot, &i);
	else if (store_snapshot_floor(r->st->store, r->s.id, r->ret->time_ns, &i) < 0)
		e = -ENOENT;
	if (e < 0 || n > i)
		return fail(-ENOENT, "session %s has no snapshot %lu before that one", r->s.name, n);
	r->ret->live = false;
	return at_snapshot(r, i - n);
}

/* Where the session ends in SESSION/REF: no name has a slash, but a tag or a mark may. */
static const char *slash_of(struct snaptrail *st, const char *ref)
{
	const char *slash = strchr(ref, '/');
	struct session_meta s;
	char name[256];

	if (slash == NULL || ref[0] == '@' || slash - ref > 255)
		return ref[0] == '@' ? NULL : slash;
	if (strncmp(ref, "tag:", 4) && strncmp(ref, "mark:", 5))
		return slash;
	snprintf(name, sizeof name, "%.*s", (int)(slash - ref), ref);
	return store_session_find(st->store, name, &s) == 0 ? slash : NULL;
}

int snaptrail_resolve(struct snaptrail *st, const char *session, const char *ref, struct snaptrail_point *ret)
{
	struct refs r = { .st = st, .ret = ret };
	const char *slash = slash_of(st, ref);
	char name[256], word[512];
	char *tilde;
	unsigned long back = 0;
	int e;
	HOLD(st);

	worker_wait(st);
	*ret = (struct snaptrail_point){ 0 };
	if (slash) {
		if (slash == ref || slash - ref > 255)
			return fail(-ENOENT, "no session of that name");
		snprintf(name, sizeof name, "%.*s", (int)(slash - ref), ref);
		session = name;
		ref = slash + 1;
		r.qualified = true;
	}
	if (*ref == 0)
		return fail(-EINVAL, "an empty reference names no snapshot: latest is the last one");
	if (strlen(ref) >= sizeof word)
		return fail(-ENOENT, "no snapshot \"%.40s...\"", ref);
	snprintf(word, sizeof word, "%s", ref);
	tilde = strrchr(word, '~');
	if (tilde && isdigit((unsigned char)tilde[1])) {
		char *end;

		back = strtoul(tilde + 1, &end, 10);
		if (*end)
			return fail(-EINVAL, "\"%.60s\": REF~N takes a number", ref);
		*tilde = 0;
	} else {
		tilde = NULL;
	}
	e = session_meant(st, session, &r.s);
	if (e < 0)
		return e;
	snprintf(ret->session, sizeof ret->session, "%s", r.s.name);
	e = by_name(&r, word[0] ? word : "latest");
	return e == 0 && tilde ? earlier(&r, back) : e;
}

int snaptrail_get(struct snaptrail *st, const char *session, const char *id, struct snaptrail_snapshot *ret)
{
	struct session_meta s;
	struct snapshot_meta m;
	int e = 0;
	HOLD(st);

	worker_wait(st);
	if (session)
		e = store_session_find(st->store, session, &s);
	if (e == 0)
		e = store_snapshot_find_in(st->store, session ? s.id : NULL, id, &m, NULL);
	if (e == 0)
		snapshot_public(st, &m, ret);
	return e;
}

int snaptrail_nearest(struct snaptrail *st, const char *session, uint64_t t, enum snaptrail_direction dir,
		      struct snaptrail_snapshot *ret)
{
	struct session_meta s;
	struct snapshot_meta before, after;
	bool has_before, has_after;
	size_t i = 0;
	int e;
	HOLD(st);

	worker_wait(st);
	e = session_meant(st, session, &s);
	if (e < 0)
		return e;
	has_before = store_snapshot_floor(st->store, s.id, t, &i) == 0 && store_snapshot_at(st->store, s.id, i, &before) == 0;
	if (has_before && before.time_ns == t) {
		snapshot_public(st, &before, ret);
		return 0;
	}
	has_after = store_snapshot_at(st->store, s.id, has_before ? i + 1 : 0, &after) == 0;
	has_before = has_before && dir != SNAPTRAIL_AFTER;
	has_after = has_after && dir != SNAPTRAIL_BEFORE;
	if (!has_before && !has_after)
		return fail(-ENOENT, "session %s has no snapshot there", s.name);
	if (has_before && has_after && after.time_ns - t < t - before.time_ns)
		has_before = false;
	snapshot_public(st, has_before ? &before : &after, ret);
	return 0;
}
