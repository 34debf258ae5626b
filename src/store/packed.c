/* The index file: what a scan of the segments would read of them, in one mapped
 * piece, session by session.  Opening folds what is said of sessions, and how
 * much each holds; a session's snapshots are folded when somebody asks for that
 * session, for one of its ids or for one of its tags.  So a store of a million
 * snapshots opens at once, and who looks at one session reads that one.
 *
 * It names how far it covers each segment; what lies beyond is scanned.  Anything
 * wrong with its front, and it is as if it were not there; anything wrong with a
 * session's part, and that session is read from the segments.  The file is only
 * ever replaced by renaming.  Used under the store's lock. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/io.h"
#include "proto/store.pb-c.h"

#define INDEX_MAGIC "SNAPIDX2"
#define INDEX_VERSION 3u
#define INDEX_WORTH 256u /* new records that make it worth writing anew, and a sixteenth of all */

struct index_header {
	char magic[8];
	uint32_t version, crc;       /* of the front: everything before the ids */
	uint64_t segments, sessions, records, front_bytes, eager_bytes, tag_bytes, ids, bytes;
	uint32_t ids_crc, own_crc;   /* of the header, this field 0 */
};
struct index_segment {
	char name[16];
	uint64_t covered, created_ns;
};
struct index_session {
	char id[16];
	uint64_t at, bytes, records; /* its part, from the end of the header */
	uint64_t snapshots, changes, coalesced, stored_bytes, last_time_ns, next_seq;
	uint32_t crc, foreign;       /* of its part; whether it has foreign ids */
};
struct index_id {
	char id[16];
	uint32_t session, reserved;
};
struct index_record {
	uint32_t segment, meta_len;
	uint64_t at;
	struct record_header h;      /* then meta, padded to 8 */
};
struct index_tag {
	uint32_t len, sessions;      /* then the tag, padded to 4, then session numbers */
};

struct packed {
	const struct index_header *h;
	size_t bytes;                /* of the mapping */
	const struct index_session *sessions;
	const uint8_t *tags;
	const struct index_id *ids;
	bool ids_checked, ids_bad;
	uint32_t *segment;           /* the store's number of each of its segments */
	size_t left;                 /* sessions that are still packed */
};

static const uint8_t *behind(const struct index_header *h) { return (const uint8_t *)(h + 1); }

/* ---- reading ---- */

static uint32_t own_crc(struct index_header h)
{
	h.own_crc = 0;
	return crc32c(0, &h, sizeof h);
}

static bool index_sound(const struct index_header *h, size_t n)
{
	if (n < sizeof *h || memcmp(h->magic, INDEX_MAGIC, 8) || h->version != INDEX_VERSION || h->own_crc != own_crc(*h) ||
	    h->bytes != n - sizeof *h ||
	    h->front_bytes > h->bytes || h->ids > (h->bytes - h->front_bytes) / sizeof(struct index_id))
		return false;
	if (h->segments > h->front_bytes / sizeof(struct index_segment) || h->sessions > h->front_bytes / sizeof(struct index_session) ||
	    h->eager_bytes > h->front_bytes || h->tag_bytes > h->front_bytes ||
	    h->segments * sizeof(struct index_segment) + h->sessions * sizeof(struct index_session) + h->eager_bytes + h->tag_bytes !=
		    h->front_bytes)
		return false;
	return crc32c(0, behind(h), h->front_bytes) == h->crc;
}

/* All segments that it names must be there and at least as long.  They are
 * opened when something is read of them. */
static bool segments_match(struct store *s, const struct index_segment *seg, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char name[17];

		memcpy(name, seg[i].name, 16);
		name[16] = 0;
		if (strspn(name, "0123456789abcdef") != 16 || seg[i].covered % 8)
			return false;
		s->segments = xrealloc(s->segments, (s->nsegments + 1) * sizeof *s->segments);
		segment_known(&s->segments[s->nsegments++], s->segments_path, name, seg[i].covered, seg[i].created_ns);
		if (segment_file_bytes(&s->segments[s->nsegments - 1]) < seg[i].covered)
			return false;
	}
	return true;
}

/* The next record, or NULL at the end or where it lies. */
static const struct index_record *next_record(const struct store *s, const struct packed *p, const uint8_t **at, const uint8_t *end)
{
	const struct index_record *r = (const struct index_record *)*at;
	size_t left = (size_t)(end - *at);
	const struct segment *seg;

	if (left < sizeof *r || r->meta_len > RECORD_META_MAX || ((r->meta_len + 7) & ~7u) > left - sizeof *r ||
	    r->segment >= p->h->segments || r->meta_len != r->h.meta_len)
		return NULL;
	seg = &s->segments[p->segment[r->segment]];
	if (r->at < SEGMENT_HEADER_BYTES || r->at % 8 || r->at > seg->size || !segment_sane(seg, &r->h, seg->size - r->at))
		return NULL;
	*at += sizeof *r + ((r->meta_len + 7) & ~7u);
	return r;
}

/* All of it is looked at before any of it is believed. */
static bool replay(struct store *s, const struct packed *p, const uint8_t *from, size_t bytes)
{
	const uint8_t *end = from + bytes, *at = from;

	while (at < end)
		if (next_record(s, p, &at, end) == NULL)
			return false;
	for (at = from; at < end;) {
		const struct index_record *r = next_record(s, p, &at, end);
		struct buf meta = { .data = (uint8_t *)(r + 1), .len = r->meta_len, .cap = r->meta_len };

		fold_record(s, p->segment[r->segment], r->at, &r->h, &meta);
	}
	return true;
}

static void pack_session(struct store *s, struct packed *p, uint32_t i)
{
	const struct index_session *is = &p->sessions[i];
	struct run_session *r = fold_session(s, is->id, true);

	r->packed = i + 1;
	r->m.snapshots = is->snapshots;
	r->m.changes = is->changes;
	r->m.coalesced = is->coalesced;
	r->m.stored_bytes = is->stored_bytes;
	r->m.last_time_ns = is->last_time_ns;
	r->next_seq = is->next_seq;
}

/* Takes the mapping when it is good. */
static bool take(struct store *s, const void *map, size_t bytes)
{
	struct packed *p = xcalloc(1, sizeof *p);
	const struct index_segment *segments;

	p->h = map;
	p->bytes = bytes;
	segments = (const struct index_segment *)behind(p->h);
	p->sessions = (const struct index_session *)(segments + p->h->segments);
	p->tags = (const uint8_t *)(p->sessions + p->h->sessions) + p->h->eager_bytes;
	p->ids = (const struct index_id *)(p->tags + p->h->tag_bytes);
	p->segment = xcalloc(p->h->segments, sizeof *p->segment);
	for (uint32_t i = 0; i < p->h->segments; i++)
		p->segment[i] = i;
	if (s->nsegments || !segments_match(s, segments, p->h->segments) ||
	    !replay(s, p, (const uint8_t *)(p->sessions + p->h->sessions), p->h->eager_bytes)) {
		free(p->segment);
		free(p);
		return false;
	}
	s->packed = p;
	for (uint32_t i = 0; i < p->h->sessions; i++)
		pack_session(s, p, i);
	p->left = p->h->sessions;
	return true;
}

/* The file mapped; NULL: there is none. */
static const struct index_header *map_index(const struct store *s, size_t *ret_n)
{
	struct stat st;
	void *p;
	int fd = open(s->index_path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	p = fstat(fd, &st) == 0 && st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
	close(fd);
	if (p == MAP_FAILED)
		return NULL;
	*ret_n = (size_t)st.st_size;
	return p;
}

void index_load(struct store *s)
{
	size_t n;
	const struct index_header *h = map_index(s, &n);

	if (h == NULL)
		return;
	s->index_bad = !index_sound(h, n);
	if (s->index_bad || !take(s, h, n)) {
		while (s->nsegments)
			segment_close(&s->segments[--s->nsegments]);
		fold_start_over(s);
		munmap((void *)h, n);
	}
	s->folded = 0;
}

/* Whether its bytes are what was written; else where they are not, from the file's begin. */
static bool index_whole(const struct index_header *h, size_t n, uint64_t *ret_at)
{
	const struct index_session *is;

	*ret_at = n < sizeof *h || h->own_crc != own_crc(*h) ? 0 : sizeof *h;
	if (!index_sound(h, n))
		return false;
	*ret_at = sizeof *h + h->front_bytes;
	if (crc32c(0, (const uint8_t *)h + *ret_at, h->ids * sizeof(struct index_id)) != h->ids_crc)
		return false;
	is = (const struct index_session *)(behind(h) + h->segments * sizeof(struct index_segment));
	for (uint64_t i = 0; i < h->sessions; i++) {
		*ret_at = sizeof *h + is[i].at;
		if (is[i].at > h->bytes || is[i].bytes > h->bytes - is[i].at || crc32c(0, behind(h) + is[i].at, is[i].bytes) != is[i].crc)
			return false;
	}
	return true;
}

/* Those before the third had no checksum of the header. */
static bool of_other_version(const struct index_header *h, size_t n)
{
	return n >= sizeof *h && memcmp(h->magic, INDEX_MAGIC, 8) == 0 &&
	       (h->version < INDEX_VERSION ? h->own_crc == 0 : h->version > INDEX_VERSION && h->own_crc == own_crc(*h));
}

void index_verify(const struct store *s, struct segment_verify *v)
{
	struct segment whole = { .path = s->index_path };
	size_t n;
	const struct index_header *h = map_index(s, &n);
	uint64_t at;

	if (h == NULL)
		return;
	if (!of_other_version(h, n) && !index_whole(h, n, &at))
		segment_finding(v, false, &whole, at, "the index does not match its checksum; nothing is lost, it is made anew");
	munmap((void *)h, n);
}

void index_forget(struct store *s)
{
	struct packed *p = s->packed;

	if (p == NULL)
		return;
	munmap((void *)p->h, p->bytes);
	free(p->segment);
	free(p);
	s->packed = NULL;
}

/* ---- a session, when it is asked for ---- */

/* Its part is damaged: what it was made of is not. */
static void read_segments(struct store *s, const struct packed *p, const char id[16])
{
	const struct index_segment *segments = (const struct index_segment *)behind(p->h);
	_cleanup_buf_ struct buf meta = BUF_INIT;

	for (uint64_t k = 0; k < p->h->segments; k++) {
		struct segment *seg = &s->segments[p->segment[k]];
		uint64_t at = SEGMENT_HEADER_BYTES;
		struct record_header h;

		if (segment_use(seg) < 0)
			continue;
		while (at < segments[k].covered && segment_read(seg, at, &h, &meta) > 0) {
			if ((h.type == RECORD_SNAPSHOT || h.type == RECORD_EDIT) && memcmp(h.session_id, id, 16) == 0)
				fold_record(s, p->segment[k], at, &h, &meta);
			at += record_extent_bytes(&h);
		}
		segment_rest(seg);
	}
}

void index_unpack(struct store *s, struct run_session *r)
{
	struct packed *p = s->packed;
	const struct index_session *is;
	const uint8_t *part;
	bool bulk = s->bulk;
	uint64_t folded = s->folded;

	if (p == NULL || r == NULL || r->packed == 0)
		return;
	is = &p->sessions[r->packed - 1];
	r->packed = 0;
	p->left--;
	r->m.snapshots = r->m.changes = r->m.coalesced = r->m.stored_bytes = 0;
	s->bulk = s->unpacking = true;
	part = behind(p->h) + is->at;
	if (is->at > p->h->bytes || is->bytes > p->h->bytes - is->at || crc32c(0, part, is->bytes) != is->crc || !replay(s, p, part, is->bytes)) {
		s->index_bad = true;
		read_segments(s, p, is->id);
	}
	s->unpacking = false;
	if (!bulk)
		fold_settle(s);
	s->folded = folded;
	search_forget_tags(s);
}

void index_unpack_all(struct store *s)
{
	if (s->packed == NULL || s->packed->left == 0)
		return;
	for (size_t i = 0; i < s->nsessions; i++)
		index_unpack(s, s->sessions[i]);
}

static void unpack_number(struct store *s, uint32_t i)
{
	if (i < s->packed->h->sessions)
		index_unpack(s, fold_session(s, s->packed->sessions[i].id, false));
}

static bool ids_good(struct packed *p)
{
	if (!p->ids_checked) {
		p->ids_checked = true;
		p->ids_bad = crc32c(0, p->ids, p->h->ids * sizeof *p->ids) != p->h->ids_crc;
	}
	return !p->ids_bad;
}

void index_unpack_id(struct store *s, const char *id, size_t n)
{
	struct packed *p = s->packed;
	size_t lo = 0, hi;

	if (p == NULL || p->left == 0)
		return;
	if (!ids_good(p)) {
		index_unpack_all(s);
		return;
	}
	for (hi = p->h->ids; lo < hi;) {
		size_t mid = (lo + hi) / 2;

		if (memcmp(p->ids[mid].id, id, n) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < p->h->ids && memcmp(p->ids[lo].id, id, n) == 0; lo++)
		unpack_number(s, p->ids[lo].session);
}

void index_unpack_foreign(struct store *s)
{
	for (uint32_t i = 0; s->packed && s->packed->left && i < s->packed->h->sessions; i++)
		if (s->packed->sessions[i].foreign)
			unpack_number(s, i);
}

void index_unpack_tag(struct store *s, const char *tag)
{
	const uint8_t *at = s->packed ? s->packed->tags : NULL, *end = at ? at + s->packed->h->tag_bytes : NULL;
	size_t n = strlen(tag);

	while (at && s->packed->left && (size_t)(end - at) >= sizeof(struct index_tag)) {
		const struct index_tag *t = (const struct index_tag *)at;
		const uint32_t *numbers = (const uint32_t *)(at + sizeof *t + ((t->len + 3) & ~3u));

		if (t->len > (size_t)(end - at) || t->sessions > (size_t)(end - at) / 4)
			return; /* the front's checksum says otherwise */
		if (t->len == n && memcmp(t + 1, tag, n) == 0)
			for (uint32_t i = 0; i < t->sessions; i++)
				unpack_number(s, numbers[i]);
		at = (const uint8_t *)(numbers + t->sessions);
	}
}

/* ---- writing ---- */

struct building_tag {
	char *text;
	size_t len;
	struct buf sessions;
};

struct building {
	struct index_session *sessions;
	struct buf *parts;
	size_t n;
	struct buf eager, ids, tags;
	struct building_tag *tag;
	size_t ntags;
	uint64_t records;
};

static size_t session_number(struct building *b, const char id[16])
{
	for (size_t i = b->n; i-- > 0;)
		if (memcmp(b->sessions[i].id, id, 16) == 0)
			return i;
	if ((b->n & (b->n - 1)) == 0) {
		b->sessions = xrealloc(b->sessions, (b->n ? b->n * 2 : 1) * sizeof *b->sessions);
		b->parts = xrealloc(b->parts, (b->n ? b->n * 2 : 1) * sizeof *b->parts);
	}
	b->sessions[b->n] = (struct index_session){ .records = 0 };
	b->parts[b->n] = (struct buf)BUF_INIT;
	memcpy(b->sessions[b->n].id, id, 16);
	return b->n++;
}

static void note_tag(struct building *b, const ProtobufCBinaryData *tag, uint32_t session)
{
	struct building_tag *t = NULL;
	uint32_t last;

	for (size_t i = 0; i < b->ntags && t == NULL; i++)
		if (b->tag[i].len == tag->len && (tag->len == 0 || memcmp(b->tag[i].text, tag->data, tag->len) == 0))
			t = &b->tag[i];
	if (t == NULL) {
		b->tag = xrealloc(b->tag, (b->ntags + 1) * sizeof *b->tag);
		t = &b->tag[b->ntags++];
		*t = (struct building_tag){ .text = xmemdup(tag->data, tag->len), .len = tag->len };
	}
	for (size_t i = t->sessions.len / 4; i-- > 0;) {
		memcpy(&last, t->sessions.data + i * 4, 4);
		if (last == session)
			return;
	}
	buf_put(&t->sessions, &session, 4);
}

/* Every tag that was ever put on: a session too many is only read for nothing. */
static void note_snapshot(struct building *b, uint32_t session, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__SnapshotInfo *i = snaptrail__store__snapshot_info__unpack(NULL, meta->len, meta->data);
	struct index_id id = { .session = session };

	memcpy(id.id, h->id, 16);
	buf_put(&b->ids, &id, sizeof id);
	if (i == NULL)
		return;
	for (size_t k = 0; k < i->n_tags; k++)
		note_tag(b, &i->tags[k], session);
	b->sessions[session].foreign |= i->has_foreign_id && i->foreign_id.len;
	snaptrail__store__snapshot_info__free_unpacked(i, NULL);
}

static void note_edit(struct building *b, uint32_t session, const struct buf *meta)
{
	Snaptrail__Store__Edit *e = snaptrail__store__edit__unpack(NULL, meta->len, meta->data);

	for (size_t k = 0; e && k < e->n_add_tags; k++)
		note_tag(b, &e->add_tags[k], session);
	if (e)
		snaptrail__store__edit__free_unpacked(e, NULL);
}

static void put_record(struct building *b, const struct index_record *r, const struct buf *meta)
{
	bool lazy = r->h.type == RECORD_SNAPSHOT || r->h.type == RECORD_EDIT;
	size_t k = lazy ? session_number(b, r->h.session_id) : 0;
	struct buf *out = lazy ? &b->parts[k] : &b->eager;

	buf_put(out, r, sizeof *r);
	buf_put(out, meta->data, meta->len);
	buf_put(out, "\0\0\0\0\0\0\0", -meta->len & 7);
	b->records++;
	if (lazy)
		b->sessions[k].records++;
	if (r->h.type == RECORD_SNAPSHOT)
		note_snapshot(b, (uint32_t)k, &r->h, meta);
	else if (lazy)
		note_edit(b, (uint32_t)k, meta);
}

/* A segment with damage is left out: scanned each time, it is told each time. */
static bool indexed(const struct segment *seg) { return seg->damaged == 0; }

static void put_records(struct store *s, struct building *b)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;

	for (uint32_t k = 0, number = 0; k < s->nsegments; k++) {
		uint64_t at = SEGMENT_HEADER_BYTES;
		struct index_record r = { .segment = number };

		if (!indexed(&s->segments[k]))
			continue;
		number++;
		if (segment_use(&s->segments[k]) < 0)
			continue;
		while (at < s->segments[k].size && segment_read(&s->segments[k], at, &r.h, &meta) > 0) {
			r.at = at;
			r.meta_len = (uint32_t)meta.len;
			put_record(b, &r, &meta);
			at += record_extent_bytes(&r.h);
		}
		segment_rest(&s->segments[k]);
	}
}

static void put_totals(struct store *s, struct building *b)
{
	uint64_t at = 0;

	for (size_t i = 0; i < b->n; i++) {
		struct index_session *is = &b->sessions[i];
		const struct run_session *r = fold_session(s, is->id, false);

		is->at = at; /* counted from the first part: where that lies is known when all are built */
		is->bytes = b->parts[i].len;
		is->crc = crc32c(0, b->parts[i].data, b->parts[i].len);
		at += is->bytes;
		if (r == NULL)
			continue;
		is->snapshots = r->m.snapshots;
		is->changes = r->m.changes;
		is->coalesced = r->m.coalesced;
		is->stored_bytes = r->m.stored_bytes;
		is->last_time_ns = r->m.last_time_ns;
		is->next_seq = r->next_seq;
	}
}

static void put_tags(struct building *b)
{
	for (size_t i = 0; i < b->ntags; i++) {
		struct index_tag t = { .len = (uint32_t)b->tag[i].len, .sessions = (uint32_t)(b->tag[i].sessions.len / 4) };

		buf_put(&b->tags, &t, sizeof t);
		buf_put(&b->tags, b->tag[i].text, b->tag[i].len);
		buf_put(&b->tags, "\0\0\0", -b->tag[i].len & 3);
		buf_put(&b->tags, b->tag[i].sessions.data, b->tag[i].sessions.len);
	}
	buf_put(&b->tags, "\0\0\0\0\0\0\0", -b->tags.len & 7);
}

static int by_id(const void *x, const void *y) { return memcmp(((const struct index_id *)x)->id, ((const struct index_id *)y)->id, 16); }

static int write_file(const char *path, const struct index_header *h, const struct buf *front, struct building *b)
{
	uint64_t at = sizeof *h;
	int fd = io->open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r;

	if (fd < 0)
		return -errno;
	r = io_pwrite_all(fd, h, sizeof *h, 0);
	if (r == 0)
		r = io_pwrite_all(fd, front->data, front->len, at);
	at += front->len;
	if (r == 0)
		r = io_pwrite_all(fd, b->ids.data, b->ids.len, at);
	at += b->ids.len;
	for (size_t i = 0; i < b->n && r == 0; i++) {
		r = io_pwrite_all(fd, b->parts[i].data, b->parts[i].len, at);
		at += b->parts[i].len;
	}
	close(fd);
	return r;
}

static void put_front(struct store *s, struct building *b, struct index_header *h, struct buf *front)
{
	uint64_t parts_at;

	for (size_t i = 0; i < s->nsegments; i++) {
		struct index_segment seg = { .covered = s->segments[i].size, .created_ns = s->segments[i].created_ns };

		if (!indexed(&s->segments[i]))
			continue;
		h->segments++;
		memcpy(seg.name, s->segments[i].name, 16);
		buf_put(front, &seg, sizeof seg);
	}
	h->sessions = b->n;
	h->records = b->records;
	h->eager_bytes = b->eager.len;
	h->tag_bytes = b->tags.len;
	h->ids = b->ids.len / sizeof(struct index_id);
	h->front_bytes = front->len + b->n * sizeof *b->sessions + b->eager.len + b->tags.len;
	parts_at = h->front_bytes + b->ids.len;
	h->bytes = parts_at;
	for (size_t i = 0; i < b->n; i++) {
		b->sessions[i].at += parts_at;
		h->bytes += b->sessions[i].bytes;
	}
	buf_put(front, b->sessions, b->n * sizeof *b->sessions);
	buf_put(front, b->eager.data, b->eager.len);
	buf_put(front, b->tags.data, b->tags.len);
	h->crc = crc32c(0, front->data, front->len);
	h->ids_crc = crc32c(0, b->ids.data, b->ids.len);
	h->own_crc = own_crc(*h);
}

static void building_done(struct building *b)
{
	for (size_t i = 0; i < b->n; i++)
		buf_done(&b->parts[i]);
	for (size_t i = 0; i < b->ntags; i++) {
		free(b->tag[i].text);
		buf_done(&b->tag[i].sessions);
	}
	free(b->sessions);
	free(b->parts);
	free(b->tag);
	buf_done(&b->eager);
	buf_done(&b->ids);
	buf_done(&b->tags);
}

/* Written beside and renamed: a reader sees the old one or the new one. */
void index_save(struct store *s)
{
	struct index_header h = { .magic = INDEX_MAGIC, .version = INDEX_VERSION };
	_cleanup_buf_ struct buf front = BUF_INIT;
	_cleanup_free_ char *temp = NULL;
	struct building b = { 0 };

	if (!s->index_bad && (s->folded < INDEX_WORTH || (s->packed && s->folded < s->packed->h->records / 16)))
		return;
	put_records(s, &b);
	put_totals(s, &b);
	put_tags(&b);
	if (b.ids.len)
		qsort(b.ids.data, b.ids.len / sizeof(struct index_id), sizeof(struct index_id), by_id);
	put_front(s, &b, &h, &front);
	temp = xasprintf("%s.%d", s->index_path, (int)getpid());
	if (write_file(temp, &h, &front, &b) < 0 || io->rename(temp, s->index_path) < 0)
		io->unlink(temp);
	building_done(&b);
}
