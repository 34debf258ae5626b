/* Opening a store, sessions, lists of snapshots, care.  Called by users of the
 * library and by the command; one thread a handle. */
#include "api/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/err.h"
#include "engine/attend.h"
#include "engine/prepare.h"
#include "engine/run.h"
#include "engine/salvage.h"
#include "engine/session.h"

#ifndef VERSION
#define VERSION "0.1.0"
#endif

const char *snaptrail_strerror(int code) { return err_text(code); }
const char *snaptrail_error(void) { return err_detail(); }
const char *snaptrail_version(void) { return VERSION; }
const char *snaptrail_table_name(enum snaptrail_table t) { return table_name((enum table)t); }

/* A reader of any kind of configuration looks at what is on disk. */
/* Who asked for it cannot go on. */
void out_of_memory(void)
{
	static const char said[] = "snaptrail: out of memory\n";

	(void)!write(STDERR_FILENO, said, sizeof said - 1);
}

static void options_of(const struct config *c, unsigned flags, struct store_options *o)
{
	prepare_store_options(c, o);
	if (!(flags & SNAPTRAIL_CREATE)) { /* who only reads sees what others left */
		o->type = o->type == STORE_MEMORY ? STORE_HYBRID : o->type;
		o->persist = true;
	}
	o->create = flags & SNAPTRAIL_CREATE;
	o->read_only = flags & SNAPTRAIL_READ_ONLY;
}

int handle_open(struct config *c, bool own, const struct store_options *o, struct snaptrail **ret)
{
	struct snaptrail *st = xcalloc(1, sizeof *st);
	pthread_mutexattr_t attr;
	int r;

	st->config = c;
	r = store_open(c->path, o, &st->store);
	if (r < 0) {
		free(st);
		return r;
	}
	if (!o->read_only && salvage_all(st->store) < 0)
		snprintf(st->notice, sizeof st->notice, "%s", err_detail());
	if (store_path(st->store) == NULL)
		snprintf(st->notice, sizeof st->notice, "storage.type is memory, or storage.persist no: nothing of this outlives the process");
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&st->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	st->own_config = own ? c : NULL;
	*ret = st;
	return 0;
}

int snaptrail_open(const struct snaptrail_config *config, unsigned flags, struct snaptrail **ret)
{
	struct config *c = (struct config *)(const void *)config;
	struct store_options o;

	options_of(c, flags, &o);
	return handle_open(c, false, &o, ret);
}

void snaptrail_close(struct snaptrail *st)
{
	if (st == NULL)
		return;
	worker_end(st);
	notify(st, &(struct snaptrail_notification){ .event = "shutdown_complete" });
	for (struct listener *l = st->listeners, *next; l; l = next) {
		next = l->next;
		free(l->event);
		free(l);
	}
	hot_forget(st);
	batch_sessions_forget(st);
	notify_batched(st, false);
	store_close(st->store);
	config_free(st->own_config);
	free(st->creation);
	pthread_mutex_destroy(&st->lock);
	free(st);
}

const char *snaptrail_notice(const struct snaptrail *st) { return st->notice[0] ? st->notice : NULL; }

uint64_t tick_of(const struct snaptrail *st) { return st->config->max_rate ? 1000000000u / st->config->max_rate : 1; }

/* ---- sessions ---- */

/* Somebody holds the lease: who, -1 nobody does but it goes on, or 0. */
static int recorder_of(struct snaptrail *st, const char *id, int *ret_root)
{
	char pointer[4500];
	struct session s;
	int pid = 0, fd;

	if (store_path(st->store) == NULL)
		return 0;
	snprintf(pointer, sizeof pointer, "%s/live/%s", store_path(st->store), id);
	fd = open(pointer, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	pid = -1;
	if (flock(fd, LOCK_SH | LOCK_NB) < 0) {
		s = (struct session){ .lease = fd };
		pid = session_recorder_pid(&s);
		*ret_root = session_root_pid(&s);
	}
	close(fd);
	return pid;
}

static void session_public(struct snaptrail *st, const struct session_meta *m, struct snaptrail_session *ret)
{
	*ret = (struct snaptrail_session){
		.name = m->name,
		.command = m->command,
		.profile = m->profile,
		.note = m->note,
		.started_ns = m->started_ns,
		.ended_ns = m->ended_ns,
		.last_ns = m->last_time_ns,
		.pid = m->pid,
		.exit_status = m->exit_status,
		.snapshots = m->snapshots,
		.changes = m->changes,
		.coalesced = m->coalesced,
		.lost = m->lost,
		.dropped = m->dropped,
		.stored_bytes = m->stored_bytes,
	};
	memcpy(ret->id, m->id, sizeof ret->id);
	ret->recorder_pid = m->ended_ns ? 0 : recorder_of(st, m->id, &ret->pid);
	ret->unattended = ret->recorder_pid < 0;
	if (ret->unattended)
		ret->recorder_pid = 0;
	ret->live = ret->recorder_pid != 0;
}

int snaptrail_session_at(struct snaptrail *st, size_t i, struct snaptrail_session *ret)
{
	struct session_meta m;
	HOLD(st);

	if (store_session_at(st->store, i, &m) < 0)
		return -ENOENT;
	session_public(st, &m, ret);
	return 0;
}

int session_meant(struct snaptrail *st, const char *name, struct session_meta *ret)
{
	size_t n = store_session_count(st->store);

	if (name == NULL || *name == 0)
		name = getenv("SNAPTRAIL_SESSION");
	if (name && *name)
		return store_session_find(st->store, name, ret);
	if (n == 0)
		return fail(-ENOENT, "%s: no session has been recorded here",
			    store_path(st->store) ? store_path(st->store) : "memory");
	return store_session_at(st->store, n - 1, ret);
}

int snaptrail_session_find(struct snaptrail *st, const char *name, struct snaptrail_session *ret)
{
	struct session_meta m;
	int r;
	HOLD(st);

	worker_wait(st);
	r = session_meant(st, name, &m);
	if (r == 0)
		session_public(st, &m, ret);
	return r;
}

/* ---- lists ---- */

/* Where it came from it had another name, which people still use. */
static const char *shown_id(const struct snapshot_meta *m)
{
	return m->foreign_id && *m->foreign_id && strlen(m->foreign_id) < SNAPTRAIL_ID_BYTES ? m->foreign_id : m->id;
}

/* When retention will let go of it, as far as its age decides. */
static uint64_t expires(const struct config *c, const struct snapshot_meta *m)
{
	bool stays = c->tagged_only && m->ntags;

	for (size_t i = 0; i < m->ntags && !stays; i++)
		for (char *const *k = c->keep_tags; *k && !stays; k++)
			stays = strcmp(*k, m->tags[i]) == 0;
	return stays || c->max_age_ns == 0 ? 0 : m->time_ns + c->max_age_ns;
}

void snapshot_public(struct snaptrail *st, const struct snapshot_meta *m, struct snaptrail_snapshot *ret)
{
	struct session_meta s;

	*ret = (struct snaptrail_snapshot){
		.session = "",
		.type = snapshot_type_name(m->type),
		.origin = snapshot_origin_name(m->origin),
		.description = m->description,
		.tags = m->tags,
		.time_ns = m->time_ns,
		.created_ns = m->created_ns,
		.expires_ns = m->expires_ns,
		.creation_ns = m->creation_ns,
		.seq = m->seq,
		.changes = m->changes,
		.coalesced = m->coalesced,
		.lost = m->lost,
		.agents = m->agents,
		.tasks = m->tasks,
		.memory = m->memory,
		.size_bytes = m->size_bytes,
		.stored_bytes = m->stored_bytes,
		.compressed = m->compressed,
	};
	ret->handed_in = m->handed_in;
	ret->expires_ns = m->expires_ns ? m->expires_ns : expires(st->config, m);
	memcpy(ret->own_id, m->id, sizeof ret->own_id);
	snprintf(ret->id, sizeof ret->id, "%s", shown_id(m));
	if (m->type == SNAPSHOT_INCREMENTAL && m->base_id[0]) {
		struct snapshot_meta base;

		snprintf(ret->base_id, sizeof ret->base_id, "%s",
			 m->handed_in && store_snapshot_find(st->store, m->base_id, &base, NULL) == 0 ? shown_id(&base)
												      : m->base_id);
	}
	snprintf(ret->checksum, sizeof ret->checksum, "%08x", m->crc);
	if (store_session_get(st->store, m->session_id, &s) == 0)
		ret->session = s.name;
}

/* What of the matches is wanted: all are counted. */
struct listing {
	struct snaptrail *st;
	const struct snaptrail_query *q;
	int (*each)(void *arg, const struct snaptrail_snapshot *s);
	void *arg;
	size_t n;
};

static int list_one(void *arg, const struct snapshot_meta *m)
{
	struct listing *l = arg;
	const struct snaptrail_query *q = l->q;
	struct snaptrail_snapshot p;
	size_t i = l->n++;

	if (l->each == NULL || i < q->offset || (q->limited && i - q->offset >= q->limit))
		return 0;
	snapshot_public(l->st, m, &p);
	return l->each(l->arg, &p);
}

static int type_of(const char *name)
{
	return name == NULL ? 0 : strcmp(name, "full") == 0 ? SNAPSHOT_FULL : strcmp(name, "incremental") == 0 ? SNAPSHOT_INCREMENTAL : -1;
}

int64_t snaptrail_list(struct snaptrail *st, const struct snaptrail_query *q,
		       int (*each)(void *arg, const struct snaptrail_snapshot *s), void *arg)
{
	struct listing l = { st, q, each, arg, 0 };
	struct store_search search = { .all = q->tags_all, .any = q->tags_any, .none = q->tags_none, .since_ns = q->since_ns,
				       .until_ns = q->until_ns, .type = type_of(q->type), .reverse = q->reverse };
	struct session_meta s = { 0 };
	int r;
	int64_t result;
	HOLD(st);

	worker_wait(st);
	r = q->all_sessions ? 0 : session_meant(st, q->session, &s);
	if (r < 0)
		return r;
	search.session_id = q->all_sessions ? NULL : s.id;
	search.sort = q->sort == SNAPTRAIL_BY_SIZE ? STORE_BY_SIZE : q->sort == SNAPTRAIL_BY_TAGS ? STORE_BY_TAGS : STORE_BY_TIME;
	result = store_search(st->store, &search, list_one, &l);
	return result;
}

/* ---- care ---- */

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int snaptrail_stats(struct snaptrail *st, const char *session, struct snaptrail_stats *ret)
{
	struct store_stats ss;
	struct session_meta s;
	const char *id = NULL;
	size_t n, k = 0;
	int r = 0;
	HOLD(st);

	worker_wait(st);
	if (session && (r = store_session_find(st->store, session, &s)) < 0)
		return r;
	id = session ? s.id : NULL;
	store_get_stats(st->store, &ss);
	*ret = (struct snaptrail_stats){ .sessions = session ? 1 : store_session_count(st->store),
					 .segments = ss.segments,
					 .segment_bytes = ss.segment_bytes,
					 .memory_bytes = ss.memory_bytes,
					 .memory_items = ss.memory_items,
					 .memory_hits = ss.memory_hits,
					 .memory_misses = ss.memory_misses,
					 .memory_evicted = ss.memory_evicted,
					 .disk_hits = ss.disk_hits,
					 .states_bytes = st->hot_bytes,
					 .states_hits = st->hot_hits,
					 .states_misses = st->hot_misses };
	n = store_snapshot_count(st->store, id);
	free(st->creation);
	st->creation = xcalloc(n, sizeof *st->creation);
	for (size_t i = 0; i < n; i++) {
		struct snapshot_meta m;

		if (store_snapshot_at(st->store, id, i, &m) < 0)
			continue;
		ret->snapshots++;
		*(m.type == SNAPSHOT_FULL ? &ret->full : &ret->incremental) += 1;
		ret->raw_bytes += m.size_bytes;
		ret->stored_bytes += m.stored_bytes;
		ret->compressed += m.compressed;
		ret->changes += m.changes;
		ret->coalesced += m.coalesced;
		ret->lost += m.lost;
		ret->creation_ns_total += m.creation_ns;
		st->creation[k++] = m.creation_ns;
	}
	qsort(st->creation, k, sizeof *st->creation, by_number);
	if (k) {
		ret->creation_ns_p50 = st->creation[k / 2];
		ret->creation_ns_p95 = st->creation[k * 95 / 100];
		ret->creation_ns_max = st->creation[k - 1];
	}
	return 0;
}

int snaptrail_gap_at(struct snaptrail *st, size_t i, struct snaptrail_gap *ret)
{
	struct gap_meta g;
	struct session_meta s;
	HOLD(st);

	if (store_gap_at(st->store, i, &g) < 0)
		return -ENOENT;
	*ret = (struct snaptrail_gap){ .session = "", .cause = g.cause, .from_ns = g.from_ns, .to_ns = g.to_ns, .lost = g.lost };
	if (store_session_get(st->store, g.session_id, &s) == 0)
		ret->session = s.name;
	return 0;
}

int snaptrail_verify(struct snaptrail *st,
		     void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what), void *arg,
		     uint64_t *ret_records)
{
	HOLD(st);

	worker_wait(st);
	return store_verify_all(st->store, found, arg, ret_records);
}

int snaptrail_repair(struct snaptrail *st, const char *into, void (*told)(void *arg, const char *what), void *arg,
		     uint64_t *ret_copied, uint64_t *ret_lost)
{
	HOLD(st);

	worker_wait(st);
	return store_repair(st->store, into, told, arg, ret_copied, ret_lost);
}

int snaptrail_attend(const struct snaptrail_config *c, const char *session) { return attend(config_of(c), session); }

int snaptrail_run(const struct snaptrail_config *c, const struct snaptrail_run_options *o, int *ret_status,
		  struct snaptrail_summary *ret)
{
	int r = tags_check(o->tags);

	return r < 0 ? r : run_command((const struct config *)(const void *)c, o, ret_status, ret);
}
