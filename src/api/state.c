/* States for users of the library: at an instant, of their own, and the cache
 * of decoded ones that a handle keeps. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/replay.h"
#include "model/state_json.h"

#define KEY_MAX 65535u

/* ---- sharing ---- */

static struct shared_model *share(struct model *m)
{
	struct shared_model *s = xcalloc(1, sizeof *s);

	s->m = m;
	s->refs = 1;
	return s;
}

static void let_go(struct shared_model *s)
{
	if (__atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
		return;
	model_free(s->m);
	free(s);
}

static struct snaptrail_state *state_of(struct shared_model *shared, uint64_t time_ns, const char *session)
{
	struct snaptrail_state *s = xcalloc(1, sizeof *s);

	s->shared = shared;
	s->model = shared->m;
	s->time_ns = time_ns;
	snprintf(s->session, sizeof s->session, "%s", session);
	return s;
}

struct snaptrail_state *state_of_model(struct model *m, uint64_t time_ns, const char *session)
{
	return state_of(share(m), time_ns, session);
}

void snaptrail_state_free(struct snaptrail_state *s)
{
	if (s)
		let_go(s->shared);
	free(s);
}

struct model *state_own(struct snaptrail_state *s)
{
	struct shared_model *copy;

	if (model_is_handed(s->model) && __atomic_load_n(&s->shared->refs, __ATOMIC_ACQUIRE) == 1)
		return s->model;
	copy = share(model_copy_handed(s->model));
	let_go(s->shared);
	s->shared = copy;
	s->base_st = NULL;
	return s->model = copy->m;
}

/* ---- the decoded states at hand, by last use, within the memory tier's budget
 * ---- */

static void hot_out(struct snaptrail *st, struct shared_model *h)
{
	*(h->older ? &h->older->newer : &st->hot_oldest) = h->newer;
	*(h->newer ? &h->newer->older : &st->hot_newest) = h->older;
	st->hot_bytes -= h->bytes;
}

static void hot_in(struct snaptrail *st, struct shared_model *h)
{
	h->older = st->hot_newest;
	h->newer = NULL;
	*(st->hot_newest ? &st->hot_newest->newer : &st->hot_oldest) = h;
	st->hot_newest = h;
	st->hot_bytes += h->bytes;
}

static void hot_drop_oldest(struct snaptrail *st)
{
	struct shared_model *h = st->hot_oldest;

	st->hot_oldest = h->newer;
	*(h->newer ? &h->newer->older : &st->hot_newest) = NULL;
	st->hot_bytes -= h->bytes;
	let_go(h);
}

void hot_forget(struct snaptrail *st)
{
	while (st->hot_oldest)
		hot_drop_oldest(st);
}

static struct shared_model *hot_find(struct snaptrail *st, const char *id)
{
	struct shared_model *h = st->hot_newest;

	while (h && strcmp(h->id, id))
		h = h->older;
	*(h ? &st->hot_hits : &st->hot_misses) += 1;
	if (h == NULL)
		return NULL;
	hot_out(st, h);
	hot_in(st, h);
	__atomic_add_fetch(&h->refs, 1, __ATOMIC_ACQ_REL);
	return h;
}

static void hot_keep(struct snaptrail *st, struct shared_model *h, const char *id)
{
	h->bytes = model_size(h->m);
	if (h->bytes > st->config->memory_bytes)
		return;
	snprintf(h->id, sizeof h->id, "%s", id);
	__atomic_add_fetch(&h->refs, 1, __ATOMIC_ACQ_REL);
	hot_in(st, h);
	while (st->hot_oldest && st->hot_bytes > st->config->memory_bytes)
		hot_drop_oldest(st);
}

/* ---- at an instant ---- */

static int recorded_at(struct snaptrail *st, const struct session_meta *s, uint64_t until_ns, bool live,
		       struct snaptrail_state **ret)
{
	struct replay_query q = { .session_id = s->id, .until_ns = until_ns, .tick_ns = tick_of(st) };
	struct replay_result result;
	int r;

	/* A snapshot's own instant is stored; only what may lie behind the last looks
   * at live parts. */
	q.store_folder = s->ended_ns ? NULL : store_path(st->store);
	if (!live && until_ns < s->started_ns)
		return fail(-ENODATA, "session %s begins later than that", s->name);
	r = replay(st->store, &q, &result);
	if (r < 0)
		return r;
	*ret = state_of_model(result.model, until_ns == UINT64_MAX ? result.time_ns : until_ns, s->name);
	(*ret)->coalesced = result.coalesced;
	(*ret)->lost = result.lost;
	(*ret)->seq = result.seq;
	return 0;
}

int state_of_snapshot(struct snaptrail *st, const struct snapshot_meta *m, struct snaptrail_state **ret)
{
	struct snaptrail_snapshot p;
	struct shared_model *h = m->handed_in ? hot_find(st, m->id) : NULL;
	struct model *model;
	int r;

	snapshot_public(st, m, &p);
	if (!m->handed_in) {
		struct session_meta s;

		r = session_meant(st, p.session, &s);
		return r < 0 ? r : recorded_at(st, &s, m->time_ns, false, ret);
	}
	if (h) {
		*ret = state_of(h, m->time_ns, p.session);
		return 0;
	}
	r = handed_state(st->store, m, &model);
	if (r < 0)
		return r;
	*ret = state_of_model(model, m->time_ns, p.session);
	hot_keep(st, (*ret)->shared, m->id);
	return 0;
}

int snaptrail_state_at(struct snaptrail *st, const struct snaptrail_point *p, struct snaptrail_state **ret)
{
	struct session_meta s;
	struct snapshot_meta m;
	int r;
	HOLD(st);

	worker_wait(st);
	r = session_meant(st, p->session, &s);
	if (r == 0 && p->is_snapshot && p->snapshot.handed_in) {
		r = store_snapshot_find(st->store, p->snapshot.own_id, &m, NULL);
		if (r == 0)
			r = state_of_snapshot(st, &m, ret);
	} else if (r == 0) {
		r = recorded_at(st, &s, p->live && p->time_ns == UINT64_MAX ? UINT64_MAX : p->time_ns, p->live, ret);
	}
	return r < 0 && r != -ENODATA && r != -ENOENT ? notify_error(st, "snapshot_load_failed", p->session, NULL, r) : r;
}

uint64_t snaptrail_state_time(const struct snaptrail_state *s) { return s->time_ns; }
const char *snaptrail_state_session(const struct snaptrail_state *s) { return s->session; }
uint64_t snaptrail_state_coalesced(const struct snaptrail_state *s) { return s->coalesced; }
uint64_t snaptrail_state_lost(const struct snaptrail_state *s) { return s->lost; }
size_t snaptrail_state_count(const struct snaptrail_state *s, enum snaptrail_table t)
{
	return model_count(s->model, (enum table)t);
}

int snaptrail_state_each(const struct snaptrail_state *s, enum snaptrail_table t,
			 int (*each)(void *arg, const char *key, size_t key_len, const struct snaptrail_value *v,
				     const char *source, uint64_t changed_ns),
			 void *arg)
{
	for (const struct entity *e = model_first(s->model, (enum table)t); e; e = e->next) {
		int r = each(arg, e->key, e->key_len, public_value(entity_value(e)), change_source_name(e->source), e->time_ns);

		if (r)
			return r;
	}
	return 0;
}

const struct snaptrail_value *snaptrail_state_get(const struct snaptrail_state *s, enum snaptrail_table t, const char *key,
						  size_t n)
{
	const struct entity *e = model_find(s->model, (enum table)t, key, n);

	return e ? public_value(entity_value(e)) : NULL;
}

/* ---- states of your own ---- */

struct snaptrail_state *snaptrail_state_new(void) { return state_of_model(model_new_handed(), 0, ""); }

struct snaptrail_state *snaptrail_state_copy(const struct snaptrail_state *s)
{
	return state_of_model(model_copy_handed(s->model), s->time_ns, s->session);
}

static int check(enum snaptrail_table t, const char *key)
{
	size_t n = strlen(key);

	if (t < SNAPTRAIL_AGENTS || t > SNAPTRAIL_METRICS)
		return fail(-EINVAL, "%d is no table", (int)t);
	return n <= KEY_MAX ? 0 : fail(-EINVAL, "a key of %zu bytes: at most %u", n, KEY_MAX);
}

int snaptrail_state_set(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const struct snaptrail_value *v)
{
	int r = check(t, key);

	if (r == 0)
		model_put(state_own(s), (enum table)t, key, strlen(key), value_copy(private_value(v)));
	return r;
}

int snaptrail_state_set_field(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const char *field,
			      const struct snaptrail_value *v)
{
	int r = check(t, key);

	if (r == 0)
		model_put_field(state_own(s), (enum table)t, key, strlen(key), field, strlen(field), value_copy(private_value(v)));
	return r;
}

int snaptrail_state_append(struct snaptrail_state *s, const char *channel, const struct snaptrail_value *v)
{
	int r = check(SNAPTRAIL_COMMUNICATIONS, channel);

	if (r == 0)
		model_put_message(state_own(s), channel, strlen(channel), value_copy(private_value(v)));
	return r;
}

int snaptrail_state_remove(struct snaptrail_state *s, enum snaptrail_table t, const char *key)
{
	int r = check(t, key);

	if (r == 0 && !model_drop(state_own(s), (enum table)t, key, strlen(key)))
		r = fail(-ENOENT, "%s has no %.60s", table_name((enum table)t), key);
	return r;
}

int snaptrail_state_remove_field(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const char *field)
{
	int r = check(t, key);

	if (r == 0 && !model_drop_field(state_own(s), (enum table)t, key, strlen(key), field, strlen(field)))
		r = fail(-ENOENT, "%s %.60s has no %.60s", table_name((enum table)t), key, field);
	return r;
}

int snaptrail_state_set_top(struct snaptrail_state *s, const char *name, const struct snaptrail_value *v)
{
	if (table_by_name(name, strlen(name)))
		return fail(-EINVAL, "%s is a table", name);
	model_layout_add(state_own(s), name, strlen(name), (enum table)0, value_copy(private_value(v)));
	return 0;
}

const struct snaptrail_value *snaptrail_state_top(const struct snaptrail_state *s, const char *name)
{
	size_t n;
	const struct layout_entry *l = model_layout(s->model, &n);

	for (size_t i = 0; i < n; i++)
		if (l[i].table == 0 && strcmp(l[i].name, name) == 0)
			return public_value(&l[i].value);
	return NULL;
}

const struct snaptrail_value *snaptrail_state_top_at(const struct snaptrail_state *s, size_t i, const char **ret_name)
{
	size_t n;
	const struct layout_entry *l = model_layout(s->model, &n);

	for (size_t k = 0; k < n; k++) {
		if (l[k].table || i--)
			continue;
		*ret_name = l[k].name;
		return public_value(&l[k].value);
	}
	return NULL;
}

/* ---- JSON and protobuf ---- */

int snaptrail_state_from_json(const char *text, size_t n, struct snaptrail_state **ret)
{
	struct model *m;
	int r = state_from_json(text, n, &m);

	if (r == 0)
		*ret = state_of_model(m, 0, "");
	return r;
}

int snaptrail_state_to_json(const struct snaptrail_state *s, char **ret, size_t *ret_len)
{
	struct buf out = BUF_INIT;

	state_json(s->model, s->time_ns, 0, &out, NULL);
	*ret_len = out.len;
	*ret = buf_cstr(&out);
	return 0;
}

int snaptrail_state_from_protobuf(const void *p, size_t n, struct snaptrail_state **ret)
{
	struct model *m = model_new_handed();

	if (n > UINT32_MAX || !model_load_checked(m, p, n)) {
		model_free(m);
		return fail(-EBADMSG, "not a message SystemState");
	}
	*ret = state_of_model(m, 0, "");
	return 0;
}

int snaptrail_state_to_protobuf(const struct snaptrail_state *s, void **ret, size_t *ret_len)
{
	struct model *copy = model_copy_handed(s->model);
	struct buf out = BUF_INIT;

	model_save(copy, s->time_ns, &out);
	model_free(copy);
	*ret = out.data;
	*ret_len = out.len;
	return 0;
}
