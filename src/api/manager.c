/* The manager's own acts: opening by settings, making snapshots of a caller's
 * states, automatic ones. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/clock.h"
#include "engine/prepare.h"
#include "engine/retain.h"

/* Whether a caller's struct of `size` bytes has the member. */
#define HAS(s, member) ((s)->size >= offsetof(__typeof__(*(s)), member) + sizeof(s)->member)

/* ---- settings ---- */

static const struct {
	const char *word;
	int type;
} types[] = { { "hybrid", CONFIG_STORAGE_HYBRID }, { "disk", CONFIG_STORAGE_DISK }, { "memory", CONFIG_STORAGE_MEMORY } };

void snaptrail_settings_init(struct snaptrail_settings *s, size_t size)
{
	struct config *c = config_new();
	struct snaptrail_settings all = {
		.size = size,
		.storage_type = types[c->storage_type].word,
		.persistence_enabled = c->persist,
		.incremental_enabled = c->incremental,
		.compression_enabled = c->compression,
		.checksum_validation = c->verify == CONFIG_VERIFY_READ,
		.tagged_snapshots_only = c->tagged_only,
		.fsync = c->fsync != CONFIG_FSYNC_NEVER,
		.automatic_interval_ms = c->interval_ns / 1000000u,
		.max_retention_ms = c->max_age_ns / 1000000u,
		.max_snapshots = c->max_snapshots,
		.max_bytes = c->max_size_bytes,
		.compression_threshold = c->threshold_bytes,
		.memory_bytes = c->memory_bytes,
	};

	memcpy(s, &all, size < sizeof all ? size : sizeof all);
	config_free(c);
}

static int set_texts(struct config *c, const struct snaptrail_settings *s)
{
	struct buf tags = BUF_INIT;
	size_t i = 0;
	int r = 0;

	while (i < sizeof types / sizeof *types && strcmp(types[i].word, s->storage_type))
		i++;
	if (i == sizeof types / sizeof *types)
		return fail(-EINVAL, "\"%s\": storage_type is hybrid, disk or memory", s->storage_type);
	c->storage_type = types[i].type;
	if (s->store)
		r = config_set(c, "storage.path", s->store, "settings");
	for (i = 0; s->keep_tags && s->keep_tags[i]; i++) {
		buf_str(&tags, i ? "," : "");
		buf_str(&tags, s->keep_tags[i]);
	}
	if (r == 0 && tags.len)
		r = config_set(c, "retention.keep_tags", buf_cstr(&tags), "settings");
	buf_done(&tags);
	return r;
}

int snaptrail_open_with(const struct snaptrail_settings *given, unsigned flags, struct snaptrail **ret)
{
	struct snaptrail_settings s;
	struct store_options o;
	struct config *c;
	int r;

	snaptrail_settings_init(&s, sizeof s);
	memcpy(&s, given, given->size < sizeof s ? given->size : sizeof s);
	r = config_load(NULL, NULL, &c);
	if (r < 0)
		return r;
	r = set_texts(c, &s);
	if (r < 0) {
		config_free(c);
		return r;
	}
	c->persist = s.persistence_enabled;
	c->incremental = s.incremental_enabled;
	c->compression = s.compression_enabled;
	c->verify = s.checksum_validation ? CONFIG_VERIFY_READ : CONFIG_VERIFY_NEVER;
	c->tagged_only = s.tagged_snapshots_only;
	c->fsync = s.fsync ? CONFIG_FSYNC_SNAPSHOT : CONFIG_FSYNC_NEVER;
	c->interval_ns = s.automatic_interval_ms * 1000000u;
	c->max_age_ns = s.max_retention_ms * 1000000u;
	c->max_snapshots = s.max_snapshots;
	c->max_size_bytes = s.max_bytes;
	c->threshold_bytes = s.compression_threshold;
	c->memory_bytes = s.memory_bytes;
	prepare_store_options(c, &o);
	o.create = flags & SNAPTRAIL_CREATE;
	o.read_only = flags & SNAPTRAIL_READ_ONLY;
	r = handle_open(c, true, &o, ret);
	if (r < 0)
		config_free(c);
	return r;
}

/* ---- snapshots of a caller's states ---- */

static int options_of(const struct snaptrail *st, const struct snaptrail_create_options *o, struct handed_options *ret)
{
	*ret = (struct handed_options){ .tags = o->tags,
					.description = o->description,
					.whole = !st->config->incremental,
					.full_every_ns = st->config->full_every_ns };
	if (HAS(o, time_ns))
		ret->time_ns = o->time_ns;
	if (description_check(o->description) < 0)
		return -EINVAL;
	if (o->type && strcmp(o->type, "full") && strcmp(o->type, "incremental"))
		return fail(-EINVAL, "\"%s\": a snapshot is full or incremental", o->type);
	if (o->type)
		ret->type = strcmp(o->type, "full") ? SNAPSHOT_INCREMENTAL : SNAPSHOT_FULL;
	return tags_check(o->tags);
}

/* From now on the state's journal stands on what was made of it. */
static void stands_on(struct snaptrail *st, struct snaptrail_state *s, const struct handed_snapshot *h)
{
	if (__atomic_load_n(&s->shared->refs, __ATOMIC_ACQUIRE) > 1)
		return; /* others look at it: an edit makes a copy, which has no journal */
	s->base_st = st;
	s->base_seen_ns = mono_now_ns();
	s->base = h->after;
	memcpy(s->base_session, h->m.session_id, sizeof s->base_session);
	model_journal_begin(s->model);
}

#define LOOK_NS 1000000000u
#define RETAIN_EACH 64u /* snapshots between two looks at the limits */

/* Others may have deleted it; see just_deleted() of compaction. */
static bool base_is_there(struct snaptrail *st, struct snaptrail_state *s)
{
	struct snapshot_meta m;
	uint64_t now = mono_now_ns();

	if (now - s->base_seen_ns < LOOK_NS && s->base_seen_ns > st->undone_ns)
		return true;
	worker_wait(st);
	store_refresh(st->store);
	s->base_seen_ns = now;
	return store_snapshot_find(st->store, s->base.id, &m, NULL) == 0;
}

void batch_sessions_forget(struct snaptrail *st)
{
	for (struct batch_session *b; (b = st->batch_sessions);) {
		st->batch_sessions = b->next;
		free(b);
	}
}

/* The session, made when it is missing: in a batch once, though nobody sees it. */
static int session_for(struct snaptrail *st, const char *name, uint64_t time_ns, struct session_meta *ret)
{
	struct batch_session *b = st->batch_sessions;
	int r;

	while (b && strcmp(b->name, name))
		b = b->next;
	if (b) {
		*ret = (struct session_meta){ .name = b->name };
		memcpy(ret->id, b->id, sizeof ret->id);
		return 0;
	}
	r = handed_session(st->store, name, time_ns, ret);
	if (r == 0 && st->batching && store_session_get(st->store, ret->id, &(struct session_meta){ 0 }) < 0) {
		b = xcalloc(1, sizeof *b);
		snprintf(b->name, sizeof b->name, "%s", name);
		memcpy(b->id, ret->id, sizeof b->id);
		b->next = st->batch_sessions;
		st->batch_sessions = b;
	}
	return r;
}

static int create(struct snaptrail *st, const char *session, struct snaptrail_state *state,
		  const struct snaptrail_create_options *o, int origin, char ret_id[17])
{
	unsigned flags = o->force_compression ? STORE_COMPRESS : 0u;
	struct handed_options ho;
	struct handed_snapshot h;
	struct session_meta s;
	int r = options_of(st, o, &ho);

	if (r < 0)
		return r;
	ho.origin = origin;
	if (ho.time_ns == 0)
		ho.time_ns = wall_now_ns();
	if (!model_is_handed(state->model))
		state_own(state);
	r = session_for(st, session, ho.time_ns, &s);
	if (r < 0)
		return r;
	if (state->base_st == st && strcmp(state->base_session, s.id) == 0 && base_is_there(st, state))
		ho.base = &state->base;
	else
		worker_wait(st); /* what it is to be compared with may be on its way */
	r = handed_prepare(st->store, s.id, state->model, &ho, &h);
	if (r < 0)
		return r;
	memcpy(ret_id, h.m.id, 17);
	if (!o->later)
		worker_wait(st); /* in the order in which they were made */
	r = o->later ? worker_queue(st, &h, flags) : store_append(st->store, &h.m, h.payload.data, h.payload.len, flags);
	if (r == 0)
		stands_on(st, state, &h);
	else
		state->base_st = NULL; /* its journal went with it: the next one is compared */
	if (r == 0 && !o->later)
		notify_created(st, &h.m);
	handed_snapshot_done(&h);
	if (r == 0 && ++st->created % RETAIN_EACH == 0)
		handle_retain(st);
	return r;
}

int snaptrail_create(struct snaptrail *st, const char *session, struct snaptrail_state *state,
		     const struct snaptrail_create_options *o, char ret_id[17])
{
	static const struct snaptrail_create_options none = { .size = sizeof none };
	int r;
	HOLD(st);

	o = o ? o : &none;
	if (state == NULL)
		r = snaptrail_snap(st, session, &(struct snaptrail_snap_options){ o->tags, o->description, o->type }, ret_id);
	else
		r = create(st, session, state, o, ORIGIN_MANUAL, ret_id);
	return r < 0 ? notify_error(st, "snapshot_creation_failed", session, NULL, r) : r;
}

int snaptrail_settle(struct snaptrail *st)
{
	HOLD(st);

	return worker_settle(st);
}

/* ---- automatic ones ---- */

int handle_create_automatic(struct snaptrail *st, const char *session, struct snaptrail_state *state)
{
	char id[17];
	int r;
	HOLD(st);

	r = create(st, session, state, &(struct snaptrail_create_options){ .size = sizeof(struct snaptrail_create_options) },
		   ORIGIN_AUTOMATIC, id);
	return r < 0 ? notify_error(st, "automatic_snapshot_failed", session, NULL, r) : r;
}

static int session_now(struct snaptrail *st, const char *name)
{
	struct session_meta s;
	HOLD(st);

	return session_for(st, name, wall_now_ns(), &s);
}

/* Without the handle, which the one that is replaced may need to end. */
int snaptrail_automatic_from(struct snaptrail *st, const char *session, uint64_t interval_ns,
			     struct snaptrail_state *(*state)(void *arg), void *arg)
{
	int r;

	if (interval_ns == 0)
		interval_ns = st->config->interval_ns;
	if (interval_ns == 0)
		return fail(-EINVAL, "automatic snapshots need an interval");
	r = session_now(st, session);
	if (r == 0)
		r = worker_every(st, session, interval_ns, state, arg);
	if (r == 0)
		notify(st, &(struct snaptrail_notification){ .event = "automatic_snapshots_started", .session = session });
	return r;
}

/* ---- deleting ---- */

/* Who goes, to be told of when it has. */
struct gone {
	struct gone *next;
	char id[SNAPTRAIL_ID_BYTES], session[256];
};

static void gone_note(struct snaptrail *st, struct gone ***last, const struct snapshot_meta *m)
{
	struct snaptrail_snapshot s;
	struct gone *g;

	if (st->listeners == NULL)
		return;
	snapshot_public(st, m, &s);
	g = xcalloc(1, sizeof *g);
	snprintf(g->id, sizeof g->id, "%s", s.id);
	snprintf(g->session, sizeof g->session, "%s", s.session);
	**last = g;
	*last = &g->next;
}

static void gone_tell(struct snaptrail *st, struct gone *first, bool gone)
{
	for (struct gone *g; (g = first);) {
		first = g->next;
		if (gone)
			notify_deleted(st, g->session, g->id);
		free(g);
	}
}

int snaptrail_delete(struct snaptrail *st, const char *const *ids, size_t n)
{
	char(*own)[STORE_ID_LEN + 1] = xcalloc(n, sizeof *own);
	const char **list = xcalloc(n, sizeof *list);
	struct gone *first = NULL, **last = &first;
	int r = 0;
	HOLD(st);

	worker_wait(st);
	for (size_t i = 0; i < n && r == 0; i++) {
		struct snapshot_meta m;

		if (st->batching && store_batch_has(st->store, ids[i])) {
			memcpy(own[i], ids[i], sizeof own[i]);
			list[i] = own[i];
			continue;
		}
		r = store_snapshot_find(st->store, ids[i], &m, NULL);
		if (r == 0) {
			memcpy(own[i], m.id, sizeof m.id);
			gone_note(st, &last, &m);
		}
		list[i] = own[i];
	}
	if (r == 0)
		r = store_delete(st->store, list, n, &(struct store_folding){ retain_fold, st->store }, NULL);
	gone_tell(st, first, r == 0);
	free(own);
	free(list);
	return r < 0 ? notify_error(st, "snapshot_deletion_failed", NULL, n == 1 ? ids[0] : NULL, r) : r;
}

int snaptrail_batch_begin(struct snaptrail *st)
{
	int r;
	HOLD(st);

	worker_wait(st);
	r = store_batch_begin(st->store);
	st->batching |= r == 0;
	return r;
}

int snaptrail_batch_end(struct snaptrail *st, bool keep)
{
	int r;
	HOLD(st);

	worker_wait(st);
	st->batching = false;
	batch_sessions_forget(st);
	r = store_batch_end(st->store, keep);
	notify_batched(st, keep && r == 0);
	if (!keep || r < 0)
		st->undone_ns = mono_now_ns();
	return r;
}

/* ---- limits ---- */

struct pruning {
	struct snaptrail *st;
	void (*told)(void *arg, const struct snaptrail_verdict *v);
	void *arg;
	struct gone *first, **last;
};

static void tell_verdict(void *arg, const struct store_verdict *v)
{
	struct pruning *p = arg;
	struct snaptrail_snapshot s;

	if (v->goes)
		gone_note(p->st, &p->last, v->m);
	if (p->told == NULL)
		return;
	snapshot_public(p->st, v->m, &s);
	p->told(p->arg, &(struct snaptrail_verdict){ .snapshot = &s, .goes = v->goes, .why = v->why, .bytes = v->bytes });
}

static int prune(struct snaptrail *st, bool dry, bool lazy, void (*told)(void *arg, const struct snaptrail_verdict *v), void *arg,
		 struct snaptrail_pruned *ret)
{
	struct pruning p = { .st = st, .told = told, .arg = arg, .last = &p.first };
	struct store_retention limits;
	int r;

	retain_limits(st->config, &limits);
	limits.lazy = lazy;
	*ret = (struct snaptrail_pruned){ 0 };
	r = store_prune(st->store, &limits, dry, &(struct store_folding){ retain_fold, st->store },
			told || st->listeners ? tell_verdict : NULL, &p, &ret->snapshots, &ret->bytes);
	gone_tell(st, p.first, r == 0 && !dry);
	return r;
}

int snaptrail_prune(struct snaptrail *st, bool dry_run, void (*told)(void *arg, const struct snaptrail_verdict *v), void *arg,
		    struct snaptrail_pruned *ret)
{
	int r;
	HOLD(st);

	worker_wait(st);
	r = prune(st, dry_run, false, told, arg, ret);
	return r < 0 ? notify_error(st, "cleanup_failed", NULL, NULL, r) : r;
}

void handle_retain(struct snaptrail *st)
{
	struct snaptrail_pruned done;
	uint64_t now = mono_now_ns();
	int r;

	if (st->batching) /* nothing is deleted in a batch: the next look does it */
		return;
	if (st->retained_mono_ns && now - st->retained_mono_ns < LOOK_NS)
		return;
	worker_wait(st);
	r = prune(st, false, true, NULL, NULL, &done);
	st->retained_mono_ns = mono_now_ns() + (mono_now_ns() - now) * 20; /* at most a twentieth of the time */
	if (r < 0)
		notify_error(st, "cleanup_failed", NULL, NULL, r);
}
