/* The store: opening, appending, finding, loading, verifying; see store.h.
 * One lock around the fold; compression happens outside it. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
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

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- opening ---- */

/* What was appended to a segment since it was last looked at. */
static void scan(struct store *s, uint32_t k)
{
	struct segment *seg = &s->segments[k];
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h;
	uint64_t end = segment_file_bytes(seg);
	int r;

	while (seg->size < end && (r = segment_read(seg, seg->size, &h, &meta)) != 0) {
		if (r < 0) {
			uint64_t next = segment_resync(seg, seg->size, end);

			if (next == end)
				break; /* a torn tail, or one that is being written */
			seg->damaged++;
			seg->size = next;
			continue;
		}
		fold_record(s, k, seg->size, &h, &meta);
		seg->size += record_extent_bytes(&h);
	}
	seg->torn = end > seg->size ? end - seg->size : 0;
}

static int by_created(const void *a, const void *b)
{
	const struct segment *x = a, *y = b;

	return x->created_ns < y->created_ns ? -1 : x->created_ns > y->created_ns;
}

static bool open_already(const struct store *s, const char *name)
{
	for (size_t i = 0; i < s->nsegments; i++)
		if (strncmp(s->segments[i].name, name, 16) == 0)
			return true;
	return false;
}

/* New segments, in the order in which they were begun: edits and ends mean
 * what came before them. */
static void find_segments(struct store *s)
{
	size_t known = s->nsegments;
	struct dirent *e;
	DIR *d = opendir(s->segments_path);

	s->damaged = 0;
	while (d && (e = readdir(d))) {
		if (strlen(e->d_name) != 20 || strcmp(e->d_name + 16, ".seg") || open_already(s, e->d_name))
			continue;
		s->segments = xrealloc(s->segments, (s->nsegments + 1) * sizeof *s->segments);
		if (segment_open(&s->segments[s->nsegments], s->segments_path, e->d_name) == 0)
			s->nsegments++;
		else
			s->damaged++;
	}
	if (d)
		closedir(d);
	if (s->nsegments > known)
		qsort(s->segments + known, s->nsegments - known, sizeof *s->segments, by_created);
}

int store_refresh(struct store *s)
{
	if (s->in_memory)
		return 0;
	pthread_mutex_lock(&s->lock);
	find_segments(s);
	for (uint32_t k = 0; k < s->nsegments; k++)
		if (k != s->mine)
			scan(s, k);
	fold_edits(s);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int make_folder(const char *path)
{
	char part[4400];

	snprintf(part, sizeof part, "%s", path);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
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

		r = make_folder(s->segments_path);
		if (r == 0)
			r = make_folder(index);
		if (r < 0)
			return fail(r, "%s: %s", path, strerror(-r));
	}
	if (stat(s->segments_path, &st) < 0)
		return fail(-errno, "%s: %s", path, errno == ENOENT ? "no store here" : strerror(errno));
	index_load(s);
	return store_refresh(s);
}

int store_open(const char *path, const struct store_options *o, struct store **ret)
{
	struct store *s = xcalloc(1, sizeof *s);
	int r = 0;

	s->o = *o;
	s->mine = NO_SEGMENT;
	s->sorted = true;
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
	if (!s->in_memory && !s->o.read_only)
		index_save(s);
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

const char *store_path(const struct store *s) { return s->in_memory ? NULL : s->path; }

/* ---- writing ---- */

/* The segment that this process appends to; a failed or full one is left. */
static int my_segment(struct store *s)
{
	struct segment fresh;
	int r;

	if (s->o.read_only)
		return fail(-EROFS, "%s: opened for reading", s->path);
	if (s->mine != NO_SEGMENT && !s->segments[s->mine].failed && s->segments[s->mine].size < SEGMENT_MAX_BYTES)
		return 0;
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
	uint64_t at = 0;
	bool first;
	int r;

	h->created_ns = wall_ns();
	h->meta_len = (uint32_t)meta->len;
	if (s->in_memory) {
		fold_record(s, NO_SEGMENT, 0, h, meta);
		fold_edits(s);
		return 0;
	}
	r = my_segment(s);
	if (r < 0)
		return r;
	first = s->segments[s->mine].size == SEGMENT_HEADER_BYTES;
	r = segment_append(&s->segments[s->mine], h, meta->data, payload, &at);
	if (r < 0)
		return r;
	if (s->o.fsync == STORE_FSYNC_ALWAYS || (sync && s->o.fsync == STORE_FSYNC_SNAPSHOT))
		r = segment_sync(&s->segments[s->mine], first);
	if (r < 0)
		return r;
	fold_record(s, s->mine, at, h, meta);
	fold_edits(s);
	return 0;
}

static ProtobufCBinaryData bytes_of(const char *s) { return (ProtobufCBinaryData){ strlen(s), (uint8_t *)s }; }

static int put_session(struct store *s, const struct session_meta *m, enum record_type type)
{
	Snaptrail__Store__SessionInfo i = SNAPTRAIL__STORE__SESSION_INFO__INIT;
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = (uint16_t)type, .time_ns = m->started_ns };
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
	r = put_record(s, &h, &meta, NULL, false);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int store_session_begin(struct store *s, const struct session_meta *m) { return put_session(s, m, RECORD_SESSION); }
int store_session_end(struct store *s, const struct session_meta *m) { return put_session(s, m, RECORD_SESSION_END); }

static void pack_info(const struct snapshot_meta *m, struct buf *out)
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
	i.has_memory = i.has_creation_ns = i.has_expires_ns = i.has_clock_step_ns = i.has_description = 1;
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
	out->len += snaptrail__store__snapshot_info__pack(&i, buf_room(out, snaptrail__store__snapshot_info__get_packed_size(&i)));
	free(i.tags);
}

int store_append(struct store *s, struct snapshot_meta *m, const void *payload, size_t len, bool force)
{
	_cleanup_buf_ struct buf packed = BUF_INIT, meta = BUF_INIT;
	struct record_header h = { .type = RECORD_SNAPSHOT, .raw_len = len, .payload_len = len, .time_ns = m->time_ns,
				   .since_ns = m->since_ns };
	struct run_session *run;
	struct item *it;
	int r;

	if ((force || (s->o.compress && len >= s->o.compress_threshold_bytes)) && codec_compress(payload, len, &packed)) {
		h.flags = RECORD_COMPRESSED;
		h.payload_len = packed.len;
		payload = packed.data;
	}
	pack_info(m, &meta);
	memcpy(h.id, m->id, 16);
	memcpy(h.base_id, m->base_id, 16);
	memcpy(h.session_id, m->session_id, 16);
	pthread_mutex_lock(&s->lock);
	run = fold_session(s, h.session_id, false);
	h.seq = run ? run->next_seq : 1;
	r = put_record(s, &h, &meta, payload, true);
	it = r == 0 ? fold_item(s, h.id) : NULL;
	if (it && s->tiers[0])
		s->tiers[0]->put(s, it, payload, h.payload_len);
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r;
	m->seq = h.seq;
	m->created_ns = h.created_ns;
	m->size_bytes = len;
	m->stored_bytes = h.payload_len;
	m->crc = h.crc;
	m->compressed = h.flags & RECORD_COMPRESSED;
	return 0;
}

int store_note_gap(struct store *s, const struct gap_meta *g)
{
	Snaptrail__Store__GapInfo i = SNAPTRAIL__STORE__GAP_INFO__INIT;
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = RECORD_GAP, .time_ns = g->to_ns, .since_ns = g->from_ns };
	int r;

	i.has_from_ns = i.has_to_ns = i.has_lost = i.has_cause = 1;
	i.from_ns = g->from_ns;
	i.to_ns = g->to_ns;
	i.lost = g->lost;
	i.cause = bytes_of(g->cause);
	meta.len = snaptrail__store__gap_info__pack(&i, buf_room(&meta, snaptrail__store__gap_info__get_packed_size(&i)));
	memcpy(h.session_id, g->session_id, 16);
	pthread_mutex_lock(&s->lock);
	r = put_record(s, &h, &meta, NULL, false);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int put_edit(struct store *s, const char *id, Snaptrail__Store__Edit *e)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h = { .type = RECORD_EDIT };
	struct item *it;
	int r;

	meta.len = snaptrail__store__edit__pack(e, buf_room(&meta, snaptrail__store__edit__get_packed_size(e)));
	pthread_mutex_lock(&s->lock);
	it = strlen(id) == STORE_ID_LEN ? fold_item(s, id) : NULL;
	if (it && !it->deleted) {
		memcpy(h.id, id, 16);
		memcpy(h.session_id, it->m.session_id, 16);
		r = put_record(s, &h, &meta, NULL, true);
		if (r == 0 && it->deleted && s->tiers[0])
			s->tiers[0]->drop(s, it);
	} else {
		r = fail(-ENOENT, "no snapshot %s", id);
	}
	pthread_mutex_unlock(&s->lock);
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

int store_note_deleted(struct store *s, const char *id)
{
	Snaptrail__Store__Edit e = SNAPTRAIL__STORE__EDIT__INIT;

	e.has_deleted = e.deleted = 1;
	return put_edit(s, id, &e);
}

int store_sync(struct store *s)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->mine != NO_SEGMENT)
		r = segment_sync(&s->segments[s->mine], true);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---- reading ---- */

size_t store_session_count(struct store *s) { return s->nsessions; }

static int earlier(const void *a, const void *b)
{
	const struct run_session *x = *(struct run_session *const *)a, *y = *(struct run_session *const *)b;

	return x->m.started_ns < y->m.started_ns ? -1 : x->m.started_ns > y->m.started_ns;
}

int store_session_at(struct store *s, size_t i, struct session_meta *ret)
{
	if (i >= s->nsessions)
		return -ENOENT;
	pthread_mutex_lock(&s->lock);
	for (size_t k = 1; k < s->nsessions; k++) {
		if (s->sessions[k - 1]->m.started_ns > s->sessions[k]->m.started_ns) {
			qsort(s->sessions, s->nsessions, sizeof *s->sessions, earlier);
			break;
		}
	}
	*ret = s->sessions[i]->m;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int store_session_find(struct store *s, const char *name, struct session_meta *ret)
{
	for (size_t i = 0; i < s->nsessions; i++) {
		if (strcmp(s->sessions[i]->m.name, name) == 0) {
			*ret = s->sessions[i]->m;
			return 0;
		}
	}
	return fail(-ENOENT, "no session \"%s\"", name);
}

static struct run_session *run_of(struct store *s, const char *id)
{
	return id && strlen(id) == STORE_ID_LEN ? fold_session(s, id, false) : NULL;
}

/* The i-th of all sessions' snapshots: session by session. */
static struct item *item_at(struct store *s, const char *session_id, size_t i)
{
	struct run_session *r;

	if (session_id) {
		r = run_of(s, session_id);
		return r && i < r->count ? r->items[i] : NULL;
	}
	for (size_t k = 0; k < s->nsessions; k++) {
		if (i < s->sessions[k]->count)
			return s->sessions[k]->items[i];
		i -= s->sessions[k]->count;
	}
	return NULL;
}

size_t store_snapshot_count(struct store *s, const char *session_id)
{
	struct run_session *r = run_of(s, session_id);
	size_t n = r ? r->count : 0;

	for (size_t k = 0; session_id == NULL && k < s->nsessions; k++)
		n += s->sessions[k]->count;
	return n;
}

int store_snapshot_at(struct store *s, const char *session_id, size_t i, struct snapshot_meta *ret)
{
	struct item *it;

	pthread_mutex_lock(&s->lock);
	it = item_at(s, session_id, i);
	if (it)
		*ret = it->m;
	pthread_mutex_unlock(&s->lock);
	return it ? 0 : -ENOENT;
}

int store_snapshot_floor(struct store *s, const char *session_id, uint64_t t, size_t *ret_i)
{
	struct run_session *r;
	size_t lo = 0, hi;

	pthread_mutex_lock(&s->lock);
	r = run_of(s, session_id);
	hi = r ? r->count : 0;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (r->items[mid]->m.time_ns <= t)
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

/* Where a snapshot stands in its session. */
static size_t position(const struct item *it)
{
	size_t i = 0;

	while (i < it->session->count && it->session->items[i] != it)
		i++;
	return i;
}

int store_snapshot_find(struct store *s, const char *prefix, struct snapshot_meta *ret, size_t *ret_i)
{
	size_t n = strlen(prefix), found = 0;
	struct item *hit = NULL;
	char candidates[200] = "";

	if (n < 4 || n > STORE_ID_LEN)
		return fail(-ENOENT, "no snapshot \"%s\"", prefix);
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->nall; i++) {
		struct item *it = s->all[i];

		if (it->deleted || memcmp(it->m.id, prefix, n))
			continue;
		if (found++ < 6)
			snprintf(candidates + strlen(candidates), sizeof candidates - strlen(candidates), " %s", it->m.id);
		hit = it;
	}
	if (found == 1) {
		*ret = hit->m;
		if (ret_i)
			*ret_i = position(hit);
	}
	pthread_mutex_unlock(&s->lock);
	if (found > 1)
		return fail(-EMLINK, "\"%s\" is ambiguous:%s%s", prefix, candidates, found > 6 ? " ..." : "");
	return found ? 0 : fail(-ENOENT, "no snapshot \"%s\"", prefix);
}

size_t store_gap_count(struct store *s) { return s->ngaps; }

int store_gap_at(struct store *s, size_t i, struct gap_meta *ret)
{
	if (i >= s->ngaps)
		return -ENOENT;
	*ret = s->gaps[i];
	return 0;
}

int store_load(struct store *s, const struct snapshot_meta *m, struct buf *ret)
{
	_cleanup_buf_ struct buf stored = BUF_INIT;
	struct item *it;
	int r = -ENOENT;

	pthread_mutex_lock(&s->lock);
	it = fold_item(s, m->id);
	for (size_t k = 0; it && r == -ENOENT && s->tiers[k]; k++) {
		r = s->tiers[k]->get(s, it, &stored);
		if (r == 0 && k > 0)
			s->tiers[0]->put(s, it, stored.data, stored.len);
	}
	pthread_mutex_unlock(&s->lock);
	if (it == NULL || r == -ENOENT)
		return fail(-ENOENT, "no snapshot %s", m->id);
	if (r < 0)
		return r;
	if (it->h.flags & RECORD_COMPRESSED)
		return codec_decompress(stored.data, stored.len, it->h.raw_len, ret);
	buf_put(ret, stored.data, stored.len);
	return 0;
}

void store_get_stats(struct store *s, struct store_stats *r)
{
	pthread_mutex_lock(&s->lock);
	*r = (struct store_stats){ .segments = s->nsegments, .memory_bytes = s->memory_bytes, .memory_items = s->memory_items,
				   .memory_hits = s->hits, .memory_misses = s->misses, .memory_evicted = s->evicted,
				   .damaged_segments = s->damaged };
	for (size_t i = 0; i < s->nsegments; i++) {
		r->segment_bytes += segment_file_bytes(&s->segments[i]);
		r->torn_bytes += s->segments[i].torn;
		r->damaged_segments += s->segments[i].damaged != 0;
	}
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

struct verify {
	void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what);
	void *arg;
	uint64_t records;
	bool torn, damaged;
};

static void finding(struct verify *v, bool torn, const struct segment *seg, uint64_t at, const char *what)
{
	*(torn ? &v->torn : &v->damaged) = true;
	if (v->found)
		v->found(v->arg, torn ? "torn" : "damaged", seg->path, at, what);
}

/* Behind the last whole record: nothing but what a killed writer can leave,
 * which is a body whose header was never written. */
static bool tail_is_torn(const struct segment *seg, uint64_t at, uint64_t end)
{
	char header[RECORD_HEADER_BYTES] = { 0 };
	struct record_header h;
	size_t n = end - at < sizeof header ? (size_t)(end - at) : sizeof header;

	if (pread(seg->fd, header, n, (off_t)at) != (ssize_t)n)
		return false;
	memcpy(&h, header, sizeof h);
	if (n == sizeof header && h.magic == RECORD_MAGIC && h.file_id == seg->file_id && h.meta_len <= RECORD_META_MAX &&
	    h.payload_len < 1ull << 40 && at + record_extent_bytes(&h) > end)
		return true; /* the file was cut short */
	for (size_t i = 0; i < n; i++)
		if (header[i])
			return n < sizeof header;
	return true;
}

static void verify_segment(struct verify *v, const struct segment *seg)
{
	_cleanup_buf_ struct buf meta = BUF_INIT, payload = BUF_INIT;
	uint64_t at = SEGMENT_HEADER_BYTES, end = segment_file_bytes(seg);
	struct record_header h;
	int r;

	while (at < end) {
		r = segment_read(seg, at, &h, &meta);
		if (r == 1) {
			buf_reset(&payload);
			if (segment_payload(seg, at, &h, &payload, true) == 0) {
				v->records++;
				at += record_extent_bytes(&h);
				continue;
			}
		}
		uint64_t next = segment_resync(seg, at, end);

		if (next == end && r != 1 && (segment_is_written(seg) || tail_is_torn(seg, at, end))) {
			if (!segment_is_written(seg))
				finding(v, true, seg, at, "a record that was never finished");
			return;
		}
		finding(v, false, seg, at, r == 1 ? "checksum does not match" : "no record where one should be");
		at = next;
	}
}

int store_verify_all(struct store *s,
		     void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what),
		     void *arg, uint64_t *ret_records)
{
	struct verify v = { .found = found, .arg = arg };
	struct dirent *e;
	DIR *d = s->in_memory ? NULL : opendir(s->segments_path);

	while (d && (e = readdir(d))) {
		struct segment seg;
		struct stat st;
		char name[17];

		if (strlen(e->d_name) != 20 || strcmp(e->d_name + 16, ".seg"))
			continue;
		memcpy(name, e->d_name, 16);
		name[16] = 0;
		if (segment_open(&seg, s->segments_path, name) < 0) {
			snprintf(seg.path, sizeof seg.path, "%s/%s", s->segments_path, e->d_name);
			if (stat(seg.path, &st) == 0 && st.st_size < (off_t)SEGMENT_HEADER_BYTES)
				finding(&v, true, &seg, 0, "a segment that was never begun");
			else
				finding(&v, false, &seg, 0, "not a segment");
			continue;
		}
		verify_segment(&v, &seg);
		segment_close(&seg);
	}
	if (d)
		closedir(d);
	if (ret_records)
		*ret_records = v.records;
	return v.damaged ? fail(-EBADMSG, "%s: damaged", s->path) : v.torn;
}
