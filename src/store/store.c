/* The store: opening, appending, finding, verifying; see store.h.
 * One lock around the fold; compression happens outside it. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/dir.h"
#include "base/err.h"
#include "base/io.h"
#include "proto/store.pb-c.h"
#include "store/codec.h"
#include "store/internal.h"

#define NO_SEGMENT UINT32_MAX

const char *snapshot_type_name(int type) { return type == SNAPSHOT_FULL ? "full" : "incremental"; }

const char *snapshot_origin_name(int origin)
{
	static const char *const names[] = { "?", "start", "manual", "automatic", "exit", "crash", "import" };

	return origin > 0 && origin <= ORIGIN_IMPORT ? names[origin] : names[0];
}

void store_new_id(char id[STORE_ID_LEN + 1])
{
	uint64_t r = 0;

	while (getrandom(&r, sizeof r, 0) != sizeof r)
		;
	snprintf(id, STORE_ID_LEN + 1, "%016llx", (unsigned long long)r);
}

uint64_t store_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- opening ---- */

/* Under the lock. */
static int read_folder(struct store *s)
{
	int r;

	s->bulk = true;
	if (s->unread && s->nsegments == 0)
		index_load(s);
	__atomic_store_n(&s->unread, false, __ATOMIC_RELEASE);
	r = index_find_segments(s);
	for (uint32_t k = 0; k < s->nsegments; k++)
		if (k != s->mine)
			index_scan(s, k);
	fold_settle(s);
	return r;
}

/* What this handle writes itself stays open; it is read again like the others. */
int store_reload(struct store *s)
{
	struct segment mine = { .fd = -1 };
	bool writes;
	int r;

	pthread_mutex_lock(&s->lock);
	writes = s->mine != NO_SEGMENT;
	for (uint32_t k = 0; k < s->nsegments; k++) {
		if (k == s->mine)
			mine = s->segments[k];
		else
			segment_close(&s->segments[k]);
	}
	s->nsegments = 0;
	s->mine = NO_SEGMENT;
	fold_start_over(s);
	if (writes) {
		s->segments[0] = mine;
		s->segments[0].size = SEGMENT_HEADER_BYTES;
		s->nsegments = 1;
		s->mine = 0;
		s->bulk = true;
		index_scan(s, 0);
	}
	__atomic_store_n(&s->unread, true, __ATOMIC_RELEASE);
	r = read_folder(s);
	pthread_mutex_unlock(&s->lock);
	return r;
}

bool store_segment_gone(const struct store *s)
{
	for (uint32_t k = 0; k < s->nsegments; k++)
		if (k != s->mine && access(s->segments[k].path, F_OK) < 0 && errno == ENOENT)
			return true;
	return false;
}

int store_refresh(struct store *s)
{
	bool gone;
	int r = 0;

	if (s->in_memory)
		return 0;
	pthread_mutex_lock(&s->lock);
	fold_let_go(s);
	gone = s->batch == NULL && store_segment_gone(s);
	if (!gone)
		r = read_folder(s);
	pthread_mutex_unlock(&s->lock);
	return gone ? store_reload(s) : r;
}

/* A new folder's name is made durable when anything is to be. */
static int make_one(const struct store *s, const char *path)
{
	_cleanup_free_ char *above = NULL;
	char *slash;

	if (io->mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (s->o.fsync == STORE_FSYNC_NEVER)
		return 0;
	above = xstrdup(path);
	slash = strrchr(above, '/');
	if (slash)
		slash[slash == above] = 0;
	return io_sync_folder(slash ? above : ".");
}

static int make_folder(const struct store *s, const char *path)
{
	_cleanup_free_ char *part = xstrdup(path);
	int r = 0;

	for (char *p = strchr(part + 1, '/'); p && r == 0; p = strchr(p + 1, '/')) {
		*p = 0;
		r = make_one(s, part);
		*p = '/';
	}
	return r == 0 ? make_one(s, part) : r;
}

static int open_folder(struct store *s, const char *path)
{
	struct stat st;
	int r = 0;

	s->path = xstrdup(path);
	s->segments_path = xasprintf("%s/segments", path);
	s->index_path = xasprintf("%s/index/main.idx", path);
	if (s->o.create && !s->o.read_only) {
		_cleanup_free_ char *index = xasprintf("%s/index", path);

		r = make_folder(s, s->segments_path);
		if (r == 0)
			r = make_folder(s, index);
		if (r < 0)
			return fail(r, "%.300s: %s", path, strerror(-r));
	}
	if (stat(s->segments_path, &st) < 0)
		return fail(-errno, "%.300s: %s", path, errno == ENOENT ? "no store here" : strerror(errno));
	s->unread = true;
	return s->o.unread ? 0 : store_refresh(s);
}

void store_enter(struct store *s)
{
	if (__atomic_load_n(&s->unread, __ATOMIC_ACQUIRE))
		store_refresh(s);
	pthread_mutex_lock(&s->lock);
}

int store_open(const char *path, const struct store_options *o, struct store **ret)
{
	struct store *s = xcalloc(1, sizeof *s);
	int r = 0;

	s->o = *o;
	s->mine = NO_SEGMENT;
	s->in_memory = path == NULL || o->type == STORE_MEMORY || !o->persist;
	pthread_mutex_init(&s->lock, NULL);
	if (o->type != STORE_DISK || s->in_memory)
		s->tiers[0] = &tier_memory;
	s->tiers[s->tiers[0] ? 1 : 0] = s->in_memory ? NULL : &tier_disk;
	if (!s->in_memory)
		r = open_folder(s, path);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (s == NULL)
		return;
	if (s->batch)
		batch_end(s, false, &(bool){ false });
	if (!s->in_memory && !s->o.read_only && !s->unread)
		index_save(s);
	store_forget(s);
}

void store_forget(struct store *s)
{
	for (size_t i = 0; i < s->nsegments; i++)
		segment_close(&s->segments[i]);
	fold_free(s);
	free(s->segments);
	free(s->path);
	free(s->segments_path);
	free(s->index_path);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void store_leave(struct store *s) { pthread_mutex_unlock(&s->lock); }

const char *store_path(const struct store *s) { return s->in_memory ? NULL : s->path; }

/* ---- writing ---- */

/* The segment that this process appends to; a failed or full one is left. */
static int my_segment(struct store *s)
{
	struct segment fresh;
	int r;

	if (s->o.read_only)
		return fail(-EROFS, "%s: opened for reading", s->path);
	if (s->mine != NO_SEGMENT) {
		struct segment *old = &s->segments[s->mine];

		if (!old->failed && old->size < SEGMENT_MAX_BYTES)
			return 0;
		if (!old->failed && s->o.fsync != STORE_FSYNC_NEVER) {
			r = segment_sync(old); /* it may end in records that nobody waited for */
			if (r < 0)
				return r;
		}
		old->mine = false;
		s->mine = NO_SEGMENT;
		segment_rest(old);
	}
	r = segment_create(&fresh, s->segments_path);
	if (r < 0)
		return r;
	s->segments = xrealloc(s->segments, (s->nsegments + 1) * sizeof *s->segments);
	s->segments[s->nsegments] = fresh;
	s->mine = (uint32_t)s->nsegments++;
	return 0;
}

/* Writes a record and folds it in.  Under the lock. */
static int put_record(struct store *s, struct record_header *h, const struct buf *meta, const void *payload, bool sync)
{
	uint64_t at = 0, now = store_now_ns();
	int r;

	if (meta->len > RECORD_META_MAX)
		return fail(-EINVAL, "%zu bytes of tags and texts are more than a record takes", meta->len);
	h->created_ns = now > h->created_ns ? now : h->created_ns; /* never before what it follows */
	h->meta_len = (uint32_t)meta->len;
	if (s->batch)
		return batch_put(s, h, meta, payload);
	if (s->in_memory) {
		fold_record(s, NO_SEGMENT, 0, h, meta);
		return 0;
	}
	r = my_segment(s);
	if (r < 0)
		return r;
	r = segment_append(&s->segments[s->mine], h, meta->data, payload, &at);
	if (r < 0)
		return r;
	if (s->o.fsync == STORE_FSYNC_ALWAYS || (sync && s->o.fsync == STORE_FSYNC_SNAPSHOT))
		r = segment_sync(&s->segments[s->mine]);
	if (r < 0)
		return r;
	fold_record(s, s->mine, at, h, meta);
	return 0;
}

static ProtobufCBinaryData bytes_of(const char *s) { return (ProtobufCBinaryData){ strlen(s), (uint8_t *)s }; }

static int put_session(struct store *s, const struct session_meta *m, enum record_type type)
{
	Snaptrail__Store__SessionInfo i = SNAPTRAIL__STORE__SESSION_INFO__INIT;
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = (uint16_t)type, .time_ns = m->started_ns };
	struct run_session *run;
	int r;

	i.has_name = i.has_command = i.has_profile = i.has_boot_id = i.has_note = 1;
	i.name = bytes_of(m->name);
	i.command = bytes_of(m->command);
	i.profile = bytes_of(m->profile);
	i.boot_id = bytes_of(m->boot_id);
	i.note = bytes_of(m->note);
	i.has_started_ns = i.has_ended_ns = i.has_pid = 1;
	i.started_ns = m->started_ns;
	i.ended_ns = m->ended_ns;
	i.pid = m->pid;
	i.has_exit_status = m->exit_status >= 0;
	i.exit_status = m->exit_status;
	meta.len = snaptrail__store__session_info__pack(&i, buf_room(&meta, snaptrail__store__session_info__get_packed_size(&i)));
	memcpy(h.session_id, m->id, 16);
	pthread_mutex_lock(&s->lock);
	run = fold_session(s, h.session_id, false);
	if (run)
		h.created_ns = (run->begun.created_ns > run->ended.created_ns ? run->begun : run->ended).created_ns + 1;
	r = put_record(s, &h, &meta, NULL, type == RECORD_SESSION_END);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int store_session_begin(struct store *s, const struct session_meta *m) { return put_session(s, m, RECORD_SESSION); }
int store_session_end(struct store *s, const struct session_meta *m) { return put_session(s, m, RECORD_SESSION_END); }

static void pack_info(const struct snapshot_meta *m, uint32_t payload_crc, uint64_t first_created_ns, struct buf *out)
{
	Snaptrail__Store__SnapshotInfo i = SNAPTRAIL__STORE__SNAPSHOT_INFO__INIT;
	size_t n = 0;

	while (m->tags && m->tags[n])
		n++;
	i.tags = xcalloc(n, sizeof *i.tags);
	i.n_tags = n;
	for (size_t k = 0; k < n; k++)
		i.tags[k] = bytes_of(m->tags[k]);
	i.has_type = i.has_origin = i.has_changes = i.has_coalesced = i.has_lost = i.has_agents = i.has_tasks = 1;
	i.has_memory = i.has_creation_ns = i.has_expires_ns = i.has_clock_step_ns = i.has_description = i.has_payload_crc = 1;
	i.payload_crc = payload_crc;
	i.type = (uint32_t)m->type;
	i.origin = (uint32_t)m->origin;
	i.changes = m->changes;
	i.coalesced = m->coalesced;
	i.lost = m->lost;
	i.agents = m->agents;
	i.tasks = m->tasks;
	i.memory = m->memory;
	i.creation_ns = m->creation_ns;
	i.expires_ns = m->expires_ns;
	i.clock_step_ns = m->clock_step_ns;
	i.description = bytes_of(m->description ? m->description : "");
	i.has_foreign_id = m->foreign_id && m->foreign_id[0];
	i.foreign_id = bytes_of(i.has_foreign_id ? m->foreign_id : "");
	i.has_handed_in = i.handed_in = m->handed_in;
	i.has_first_created_ns = first_created_ns != 0;
	i.first_created_ns = first_created_ns;
	out->len += snaptrail__store__snapshot_info__pack(&i, buf_room(out, snaptrail__store__snapshot_info__get_packed_size(&i)));
	free(i.tags);
}

bool store_compresses(const struct store *s, size_t len) { return s->o.compress && len >= s->o.compress_threshold_bytes; }

/* As it is stored: compressed by policy where that makes it smaller. */
static const void *pack_payload(const struct store *s, struct record_header *h, const void *p, unsigned flags, struct buf *packed)
{
	if (flags & STORE_PACKED) {
		h->flags = RECORD_COMPRESSED;
		return p;
	}
	if (!((flags & STORE_COMPRESS) || store_compresses(s, h->raw_len)) || !codec_compress(p, h->raw_len, packed))
		return p;
	h->flags = RECORD_COMPRESSED;
	h->payload_len = packed->len;
	return packed->data;
}

int store_put_again(struct store *s, const struct item *it, const struct snapshot_meta *m, const void *payload, size_t len)
{
	_cleanup_buf_ struct buf packed = BUF_INIT, meta = BUF_INIT;
	struct record_header h = { .type = RECORD_SNAPSHOT, .raw_len = len, .payload_len = len, .time_ns = it->m.time_ns,
				   .since_ns = m->since_ns, .seq = it->m.seq, .created_ns = it->edited_ns + 1 };
	struct snapshot_meta now = *m;

	now.tags = it->m.tags;
	now.description = it->m.description;
	payload = pack_payload(s, &h, payload, 0, &packed);
	pack_info(&now, crc32c(0, payload, h.payload_len), it->m.created_ns, &meta);
	memcpy(h.id, it->m.id, 16);
	memcpy(h.base_id, m->base_id, 16);
	memcpy(h.session_id, it->m.session_id, 16);
	return put_record(s, &h, &meta, payload, false);
}

int store_append(struct store *s, struct snapshot_meta *m, const void *payload, size_t len, unsigned flags)
{
	_cleanup_buf_ struct buf packed = BUF_INIT, meta = BUF_INIT;
	struct record_header h = { .type = RECORD_SNAPSHOT, .raw_len = flags & STORE_PACKED ? m->size_bytes : len, .payload_len = len,
				   .time_ns = m->time_ns, .since_ns = m->since_ns };
	struct run_session *run;
	struct item *it;
	uint32_t crc;
	int r;

	if (strlen(m->id) != STORE_ID_LEN || strlen(m->session_id) != STORE_ID_LEN)
		return fail(-EINVAL, "a snapshot needs an id and its session's");
	payload = pack_payload(s, &h, payload, flags, &packed);
	crc = crc32c(0, payload, h.payload_len);
	pack_info(m, crc, 0, &meta);
	memcpy(h.id, m->id, 16);
	memcpy(h.base_id, m->base_id, 16);
	memcpy(h.session_id, m->session_id, 16);
	pthread_mutex_lock(&s->lock);
	run = fold_session(s, h.session_id, false);
	h.seq = run ? run->next_seq : 1;
	if (s->batch)
		h.seq = batch_sequence(s, h.session_id, h.seq);
	r = put_record(s, &h, &meta, payload, !(flags & STORE_SYNC_LATER));
	it = r == 0 && s->batch == NULL ? fold_item(s, h.id) : NULL;
	if (it && s->tiers[0])
		s->tiers[0]->put(s, it, payload, h.payload_len);
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r;
	m->seq = h.seq;
	m->created_ns = h.created_ns;
	m->size_bytes = h.raw_len;
	m->stored_bytes = h.payload_len;
	m->crc = crc;
	m->compressed = h.flags & RECORD_COMPRESSED;
	return 0;
}

int store_put_gap(struct store *s, const struct gap_meta *g)
{
	Snaptrail__Store__GapInfo i = SNAPTRAIL__STORE__GAP_INFO__INIT;
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = RECORD_GAP, .time_ns = g->to_ns, .since_ns = g->from_ns };

	i.has_from_ns = i.has_to_ns = i.has_lost = i.has_cause = 1;
	i.from_ns = g->from_ns;
	i.to_ns = g->to_ns;
	i.lost = g->lost;
	i.cause = bytes_of(g->cause);
	meta.len = snaptrail__store__gap_info__pack(&i, buf_room(&meta, snaptrail__store__gap_info__get_packed_size(&i)));
	memcpy(h.session_id, g->session_id, 16);
	return put_record(s, &h, &meta, NULL, false);
}

int store_note_gap(struct store *s, const struct gap_meta *g)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = store_put_gap(s, g);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int store_note_mark(struct store *s, const char *session_id, uint64_t time_ns, const char *name)
{
	Snaptrail__Store__GapInfo i = SNAPTRAIL__STORE__GAP_INFO__INIT;
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = RECORD_MARK, .time_ns = time_ns, .since_ns = time_ns };
	int r;

	i.has_cause = 1;
	i.cause = bytes_of(name);
	meta.len = snaptrail__store__gap_info__pack(&i, buf_room(&meta, snaptrail__store__gap_info__get_packed_size(&i)));
	memcpy(h.session_id, session_id, 16);
	store_enter(s);
	for (size_t k = 0; k < s->nmarks; k++)
		if (memcmp(s->marks[k].session_id, session_id, 16) == 0 && strcmp(s->marks[k].name, name) == 0)
			h.created_ns = s->marks[k].said.created_ns + 1;
	r = put_record(s, &h, &meta, NULL, true);
	store_leave(s);
	return r;
}

int store_mark_find(struct store *s, const char *session_id, const char *name, uint64_t *ret_time_ns)
{
	int r = -ENOENT;

	store_enter(s);
	for (size_t k = 0; k < s->nmarks; k++) {
		if (memcmp(s->marks[k].session_id, session_id, 16) || strcmp(s->marks[k].name, name))
			continue;
		*ret_time_ns = s->marks[k].time_ns;
		r = 0;
	}
	store_leave(s);
	return r;
}

/* Under the lock. */
static int put_edit_locked(struct store *s, const char *id, const Snaptrail__Store__Edit *e)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = RECORD_EDIT };
	struct item *it = strlen(id) == STORE_ID_LEN ? fold_item(s, id) : NULL;
	const char *session = it && !it->deleted ? it->m.session_id : batch_session_of(s, id);

	if (session == NULL)
		return fail(-ENOENT, "no snapshot %s", id);
	meta.len = snaptrail__store__edit__pack(e, buf_room(&meta, snaptrail__store__edit__get_packed_size(e)));
	memcpy(h.id, id, 16);
	memcpy(h.session_id, session, 16);
	h.created_ns = it ? it->edited_ns + 1 : 0;
	return put_record(s, &h, &meta, NULL, true);
}

static int put_edit(struct store *s, const char *id, const Snaptrail__Store__Edit *e)
{
	int r;

	store_enter(s);
	r = put_edit_locked(s, id, e);
	store_leave(s);
	return r;
}

static ProtobufCBinaryData *list_of(const char *const *words, size_t *ret_n)
{
	ProtobufCBinaryData *list;
	size_t n = 0;

	while (words && words[n])
		n++;
	list = xcalloc(n, sizeof *list);
	for (size_t i = 0; i < n; i++)
		list[i] = bytes_of(words[i]);
	*ret_n = n;
	return list;
}

int store_note_tags(struct store *s, const char *id, const char *const *add, const char *const *remove)
{
	Snaptrail__Store__Edit e = SNAPTRAIL__STORE__EDIT__INIT;
	int r;

	e.add_tags = list_of(add, &e.n_add_tags);
	e.remove_tags = list_of(remove, &e.n_remove_tags);
	r = put_edit(s, id, &e);
	free(e.add_tags);
	free(e.remove_tags);
	return r;
}

int store_note_description(struct store *s, const char *id, const char *text)
{
	Snaptrail__Store__Edit e = SNAPTRAIL__STORE__EDIT__INIT;

	e.has_description = 1;
	e.description = bytes_of(text);
	return put_edit(s, id, &e);
}

int store_put_deletion(struct store *s, const char *id)
{
	Snaptrail__Store__Edit e = SNAPTRAIL__STORE__EDIT__INIT;

	e.has_deleted = e.deleted = 1;
	return put_edit_locked(s, id, &e);
}

int store_note_deleted(struct store *s, const char *id)
{
	Snaptrail__Store__Edit e = SNAPTRAIL__STORE__EDIT__INIT;

	e.has_deleted = e.deleted = 1;
	return put_edit(s, id, &e);
}

int store_batch_open(struct store *s)
{
	int r = s->in_memory || s->batch ? 0 : my_segment(s);

	return r < 0 ? r : batch_begin(s);
}

int store_batch_begin(struct store *s)
{
	int r;

	store_enter(s);
	r = store_batch_open(s);
	store_leave(s);
	return r;
}

int store_batch_end(struct store *s, bool keep)
{
	bool stale;
	int r, end;

	pthread_mutex_lock(&s->lock);
	r = keep ? batch_delete_now(s) : 0;
	end = batch_end(s, keep && r == 0, &stale);
	pthread_mutex_unlock(&s->lock);
	if (stale)
		store_reload(s);
	return r < 0 ? r : end;
}

bool store_batch_is_open(struct store *s)
{
	bool open;

	pthread_mutex_lock(&s->lock);
	open = s->batch != NULL;
	pthread_mutex_unlock(&s->lock);
	return open;
}

bool store_batch_has(struct store *s, const char *id)
{
	bool has;

	pthread_mutex_lock(&s->lock);
	has = batch_session_of(s, id) != NULL;
	pthread_mutex_unlock(&s->lock);
	return has;
}

int store_sync(struct store *s)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->mine != NO_SEGMENT)
		r = segment_sync(&s->segments[s->mine]);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---- reading ---- */

size_t store_session_count(struct store *s)
{
	size_t n;

	store_enter(s);
	n = s->nsessions;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static int earlier(const void *a, const void *b)
{
	const struct run_session *x = *(struct run_session *const *)a, *y = *(struct run_session *const *)b;

	return x->m.started_ns < y->m.started_ns ? -1 : x->m.started_ns > y->m.started_ns;
}

int store_session_at(struct store *s, size_t i, struct session_meta *ret)
{
	int r = -ENOENT;

	store_enter(s);
	for (size_t k = 1; k < s->nsessions; k++) {
		if (s->sessions[k - 1]->m.started_ns > s->sessions[k]->m.started_ns) {
			qsort(s->sessions, s->nsessions, sizeof *s->sessions, earlier);
			break;
		}
	}
	if (i < s->nsessions) {
		*ret = s->sessions[i]->m;
		r = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

int store_session_get(struct store *s, const char *id, struct session_meta *ret)
{
	struct run_session *r;

	store_enter(s);
	r = fold_session(s, id, false);
	if (r)
		*ret = r->m;
	store_leave(s);
	return r ? 0 : -ENOENT;
}

int store_session_find(struct store *s, const char *name, struct session_meta *ret)
{
	const struct run_session *first = NULL;

	store_enter(s);
	for (size_t i = 0; i < s->nsessions; i++)
		if (strcmp(s->sessions[i]->m.name, name) == 0 && (first == NULL || s->sessions[i]->m.started_ns < first->m.started_ns))
			first = s->sessions[i];
	if (first)
		*ret = first->m;
	pthread_mutex_unlock(&s->lock);
	return first ? 0 : fail(-ENOENT, "no session \"%.255s\"", name);
}

size_t store_snapshot_count(struct store *s, const char *session_id)
{
	size_t n;

	store_enter(s);
	fold_items_of(s, session_id, &n);
	pthread_mutex_unlock(&s->lock);
	return n;
}

int store_snapshot_at(struct store *s, const char *session_id, size_t i, struct snapshot_meta *ret)
{
	struct item **items;
	size_t n;

	store_enter(s);
	items = fold_items_of(s, session_id, &n);
	if (i < n)
		*ret = items[i]->m;
	pthread_mutex_unlock(&s->lock);
	return i < n ? 0 : -ENOENT;
}

int store_snapshot_floor(struct store *s, const char *session_id, uint64_t t, size_t *ret_i)
{
	struct item **items;
	size_t lo = 0, hi;

	store_enter(s);
	items = fold_items_of(s, session_id, &hi);
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (items[mid]->m.time_ns <= t)
			lo = mid + 1;
		else
			hi = mid;
	}
	pthread_mutex_unlock(&s->lock);
	if (lo == 0)
		return -ENOENT;
	*ret_i = lo - 1;
	return 0;
}

int store_base_find(struct store *s, const char *id, struct snapshot_meta *ret)
{
	struct item *it;

	store_enter(s);
	it = strlen(id) == STORE_ID_LEN ? fold_item(s, id) : NULL;
	if (it)
		*ret = it->m;
	store_leave(s);
	return it ? 0 : fail(-ENOENT, "no snapshot %s", id);
}

size_t store_gap_count(struct store *s)
{
	size_t n;

	store_enter(s);
	n = s->ngaps;
	pthread_mutex_unlock(&s->lock);
	return n;
}

int store_gap_at(struct store *s, size_t i, struct gap_meta *ret)
{
	int r = -ENOENT;

	store_enter(s);
	if (i < s->ngaps) {
		*ret = s->gaps[i];
		r = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

void store_get_stats(struct store *s, struct store_stats *r)
{
	store_enter(s);
	*r = (struct store_stats){ .segments = s->nsegments, .memory_bytes = s->memory_bytes, .memory_items = s->memory_items,
				   .memory_hits = s->hits, .memory_misses = s->misses, .memory_evicted = s->evicted, .disk_hits = s->disk_hits,
				   .damaged_segments = s->damaged };
	for (size_t i = 0; i < s->nsegments; i++) {
		r->segment_bytes += segment_file_bytes(&s->segments[i]);
		r->torn_bytes += s->segments[i].torn;
		r->damaged_segments += s->segments[i].damaged != 0;
	}
	index_unpack_all(s);
	for (size_t i = 0; i < s->nall; i++) {
		if (s->all[i]->deleted)
			continue;
		r->snapshots++;
		r->raw_bytes += s->all[i]->m.size_bytes;
		r->stored_bytes += s->all[i]->m.stored_bytes;
	}
	pthread_mutex_unlock(&s->lock);
}

/* ---- verifying ---- */

int store_verify_all(struct store *s,
		     void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what),
		     void *arg, uint64_t *ret_records)
{
	struct segment_verify v = { .found = found, .arg = arg };
	struct dir d = { .fd = -1 };

	if (!s->in_memory)
		dir_open(&d, s->segments_path);
	for (const char *name; (name = dir_next(&d));) {
		struct segment seg;
		int r;

		if (!index_segment_name(name))
			continue;
		r = segment_open(&seg, s->segments_path, name);
		if (r == -EAGAIN && !segment_is_written(&seg))
			segment_finding(&v, true, &seg, 0, "a segment that was never begun");
		if (r < 0 && r != -EAGAIN && r != -ENOENT) {
			seg.path = xasprintf("%s/%s", s->segments_path, name);
			segment_finding(&v, false, &seg, 0, r == -EBADMSG ? "not a segment" : err_detail());
		}
		if (r == 0)
			segment_verify(&v, &seg);
		segment_close(&seg);
	}
	dir_close(&d);
	if (!s->in_memory)
		index_verify(s, &v);
	if (ret_records)
		*ret_records = v.records;
	return v.damaged ? fail(-EBADMSG, "%s: damaged", s->path) : v.torn;
}
