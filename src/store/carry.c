/* Segments as streams; see carry.h and doc/format.md.  Called by exports and
 * imports.  Every length is believed only as far as bytes come. */
#include "store/carry.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "proto/store.pb-c.h"
#include "store/codec.h"

#define PAYLOAD_MAX (64ull << 30)
#define PIECE_BYTES (1u << 20) /* what is made room for before it has come */

struct stream_header {
	char magic[8];
	uint32_t version, crc;
	uint64_t file_id, created_ns;
	char zero[32];
};
_Static_assert(sizeof(struct stream_header) == SEGMENT_HEADER_BYTES, "as a segment's");

static uint32_t header_crc(struct stream_header h)
{
	h.crc = 0;
	return crc32c(0, &h, sizeof h);
}

/* `body` is metadata, payload and padding. */
static uint32_t record_crc(struct record_header h, const void *body, size_t n)
{
	h.crc = 0;
	return crc32c(crc32c(0, &h, sizeof h), body, n);
}

static ProtobufCBinaryData bytes_of(const char *s) { return (ProtobufCBinaryData){ strlen(s), (uint8_t *)s }; }

/* ---- writing ---- */

/* `body` has the metadata in its first h->meta_len bytes, then the payload. */
static int put(struct carry_writer *w, struct record_header *h, struct buf *body)
{
	int r;

	h->magic = RECORD_MAGIC;
	h->file_id = w->file_id;
	while (body->len % 8)
		buf_byte(body, 0);
	h->crc = record_crc(*h, body->data, body->len);
	r = w->write(w->arg, h, sizeof *h);
	return r < 0 ? r : w->write(w->arg, body->data, body->len);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int put_session(struct carry_writer *w, const struct session_meta *m, enum record_type type)
{
	Snaptrail__Store__SessionInfo i = SNAPTRAIL__STORE__SESSION_INFO__INIT;
	_cleanup_buf_ struct buf body = BUF_INIT;
	struct record_header h = { .type = (uint16_t)type, .time_ns = m->started_ns, .created_ns = now_ns() };

	i.has_name = i.has_command = i.has_profile = i.has_boot_id = i.has_note = 1;
	i.name = bytes_of(m->name);
	i.command = bytes_of(m->command);
	i.profile = bytes_of(m->profile);
	i.boot_id = bytes_of(m->boot_id);
	i.note = bytes_of(m->note);
	i.has_started_ns = i.has_ended_ns = i.has_pid = 1;
	i.started_ns = m->started_ns;
	i.ended_ns = m->ended_ns ? m->ended_ns : m->last_time_ns;
	i.pid = m->pid;
	i.has_exit_status = m->exit_status >= 0;
	i.exit_status = m->exit_status;
	body.len = snaptrail__store__session_info__pack(&i, buf_room(&body, snaptrail__store__session_info__get_packed_size(&i) + 8));
	h.meta_len = (uint32_t)body.len;
	memcpy(h.session_id, m->id, 16);
	return put(w, &h, &body);
}

int carry_begin(struct carry_writer *w, const struct session_meta *m)
{
	struct stream_header h = { .version = SEGMENT_VERSION, .created_ns = now_ns() };
	int r;

	if (getrandom(&w->file_id, sizeof w->file_id, 0) != sizeof w->file_id)
		return fail(-errno, "getrandom: %s", strerror(errno));
	memcpy(h.magic, SEGMENT_MAGIC, 8);
	h.file_id = w->file_id;
	h.crc = header_crc(h);
	r = w->write(w->arg, &h, sizeof h);
	return r < 0 ? r : put_session(w, m, RECORD_SESSION);
}

int carry_end(struct carry_writer *w, const struct session_meta *m) { return put_session(w, m, RECORD_SESSION_END); }

static void pack_info(const struct snapshot_meta *m, uint32_t payload_crc, struct buf *out)
{
	Snaptrail__Store__SnapshotInfo i = SNAPTRAIL__STORE__SNAPSHOT_INFO__INIT;

	i.n_tags = m->ntags;
	i.tags = xcalloc(m->ntags, sizeof *i.tags);
	for (size_t k = 0; k < m->ntags; k++)
		i.tags[k] = bytes_of(m->tags[k]);
	i.has_type = i.has_origin = i.has_lost = i.has_agents = i.has_tasks = i.has_memory = i.has_creation_ns = 1;
	i.has_expires_ns = i.has_description = i.has_payload_crc = i.has_clock_step_ns = 1;
	i.type = (uint32_t)m->type;
	i.origin = (uint32_t)m->origin;
	i.lost = m->lost;
	i.agents = m->agents;
	i.tasks = m->tasks;
	i.memory = m->memory;
	i.creation_ns = m->creation_ns;
	i.expires_ns = m->expires_ns;
	i.clock_step_ns = m->clock_step_ns;
	i.description = bytes_of(m->description);
	i.payload_crc = payload_crc;
	i.has_foreign_id = m->foreign_id && *m->foreign_id;
	if (i.has_foreign_id)
		i.foreign_id = bytes_of(m->foreign_id);
	i.has_handed_in = i.handed_in = 1;
	out->len += snaptrail__store__snapshot_info__pack(&i, buf_room(out, snaptrail__store__snapshot_info__get_packed_size(&i)));
	free(i.tags);
}

int carry_put(struct carry_writer *w, const struct snapshot_meta *m, const void *payload, size_t n)
{
	_cleanup_buf_ struct buf body = BUF_INIT, packed = BUF_INIT;
	struct record_header h = { .type = RECORD_SNAPSHOT, .raw_len = n, .payload_len = n, .seq = m->seq, .time_ns = m->time_ns,
				   .since_ns = m->time_ns, .created_ns = m->created_ns };

	if (codec_compress(payload, n, &packed)) {
		h.flags = RECORD_COMPRESSED;
		h.payload_len = packed.len;
		payload = packed.data;
	}
	pack_info(m, crc32c(0, payload, h.payload_len), &body);
	h.meta_len = (uint32_t)body.len;
	buf_put(&body, payload, h.payload_len);
	memcpy(h.id, m->id, 16);
	memcpy(h.session_id, m->session_id, 16);
	return put(w, &h, &body);
}

/* ---- reading ---- */

/* Exactly n bytes behind what is in `out`; room is made as they come. */
static int take(struct carry_reader *r, struct buf *out, uint64_t n)
{
	while (n) {
		size_t most = n < PIECE_BYTES ? (size_t)n : PIECE_BYTES;
		int64_t got = r->read(r->arg, buf_room(out, most), most);

		if (got < 0)
			return (int)got;
		if (got == 0)
			return fail(-EBADMSG, "cut short at byte %llu", (unsigned long long)r->at);
		out->len += (size_t)got;
		r->at += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return 0;
}

int carry_open(struct carry_reader *r)
{
	struct stream_header h;
	int e;

	r->at = 0;
	r->ended = false;
	r->session[0] = 0;
	r->body = (struct buf)BUF_INIT;
	e = take(r, &r->body, sizeof h);
	if (e < 0)
		return e;
	memcpy(&h, r->body.data, sizeof h);
	if (memcmp(h.magic, SEGMENT_MAGIC, 8) || h.crc != header_crc(h))
		return fail(-EBADMSG, "not a binary export, or damaged at byte 0");
	r->file_id = h.file_id;
	return h.version > SEGMENT_VERSION ? fail(-EPROTO, "exported by a newer snaptrail") : 0;
}

void carry_close(struct carry_reader *r) { buf_done(&r->body); }

void carried_done(struct carried *c)
{
	if (c->owner)
		snaptrail__store__snapshot_info__free_unpacked(c->owner, NULL);
	free((void *)c->m.tags);
	free((void *)c->m.description);
	free((void *)c->m.foreign_id);
	buf_done(&c->payload);
	buf_done(&c->packed);
	*c = (struct carried){ 0 };
}

/* The next record: 1, or 0 at the stream's end. */
static int next_record(struct carry_reader *r, struct record_header *h, bool *ret_sound)
{
	uint64_t at = r->at;
	int64_t n;
	int e;

	buf_reset(&r->body);
	n = r->read(r->arg, buf_room(&r->body, sizeof *h), 1);
	if (n <= 0)
		return (int)n;
	r->body.len = 1;
	r->at++;
	e = take(r, &r->body, sizeof *h - 1);
	if (e < 0)
		return e;
	memcpy(h, r->body.data, sizeof *h);
	if (h->magic != RECORD_MAGIC || h->file_id != r->file_id || h->meta_len > RECORD_META_MAX || h->payload_len > PAYLOAD_MAX ||
	    h->type < RECORD_SESSION || h->type > RECORD_GAP)
		return fail(-EBADMSG, "no record at byte %llu, where one should be", (unsigned long long)at);
	buf_reset(&r->body);
	e = take(r, &r->body, record_extent_bytes(h) - sizeof *h);
	*ret_sound = e == 0 && record_crc(*h, r->body.data, r->body.len) == h->crc;
	return e < 0 ? e : 1;
}

static int note_session(struct carry_reader *r, const struct record_header *h)
{
	Snaptrail__Store__SessionInfo *i = snaptrail__store__session_info__unpack(NULL, h->meta_len, r->body.data);
	bool good = i && i->name.len > 0 && i->name.len < sizeof r->session && memchr(i->name.data, 0, i->name.len) == NULL;

	if (good && h->type == RECORD_SESSION) {
		memcpy(r->session, i->name.data, i->name.len);
		r->session[i->name.len] = 0;
	}
	if (i)
		snaptrail__store__session_info__free_unpacked(i, NULL);
	r->ended |= h->type == RECORD_SESSION_END;
	return good ? 0 : fail(-EBADMSG, "a session without a name");
}

static char *text_of(const ProtobufCBinaryData *b)
{
	char *s = xmalloc(b->len + 1);

	if (b->len)
		memcpy(s, b->data, b->len);
	s[b->len] = 0;
	return s;
}

static void open_meta(struct carried *c, const Snaptrail__Store__SnapshotInfo *i)
{
	const char **tags = xcalloc(i->n_tags + 1, sizeof *tags);

	c->m.type = i->type == SNAPSHOT_INCREMENTAL ? SNAPSHOT_INCREMENTAL : SNAPSHOT_FULL;
	c->m.origin = (int)i->origin;
	c->m.lost = i->lost;
	c->m.creation_ns = i->creation_ns;
	c->m.expires_ns = i->expires_ns;
	c->m.description = text_of(&i->description);
	c->m.foreign_id = text_of(&i->foreign_id);
	for (size_t k = 0; k < i->n_tags; k++)
		tags[k] = (const char *)i->tags[k].data; /* NUL-terminated below */
	c->m.tags = tags;
	c->m.ntags = i->n_tags;
}

/* protobuf-c's bytes have no NUL behind them: room for one is made. */
static void end_tags(Snaptrail__Store__SnapshotInfo *i)
{
	for (size_t k = 0; k < i->n_tags; k++) {
		char *text = text_of(&i->tags[k]);

		free(i->tags[k].data);
		i->tags[k].data = (uint8_t *)text;
	}
}

static void open_snapshot(struct carry_reader *r, const struct record_header *h, bool sound, struct carried *c)
{
	Snaptrail__Store__SnapshotInfo *i = sound ? snaptrail__store__snapshot_info__unpack(NULL, h->meta_len, r->body.data) : NULL;
	const uint8_t *payload = r->body.data + h->meta_len;

	*c = (struct carried){ .owner = i, .damaged = i == NULL };
	memcpy(c->m.id, h->id, 16);
	c->m.time_ns = h->time_ns;
	if (i == NULL)
		return;
	end_tags(i);
	open_meta(c, i);
	if (h->flags & RECORD_COMPRESSED) {
		c->damaged = codec_decompress(payload, h->payload_len, h->raw_len, &c->payload) < 0;
		buf_put(&c->packed, payload, h->payload_len);
	} else {
		buf_put(&c->payload, payload, h->payload_len);
	}
}

int carry_next(struct carry_reader *r, struct carried *ret)
{
	struct record_header h;
	bool sound = false;
	int e;

	while ((e = next_record(r, &h, &sound)) > 0) {
		if (r->ended)
			return fail(-EBADMSG, "something follows the end at byte %llu", (unsigned long long)r->at);
		if (h.type == RECORD_SNAPSHOT) {
			open_snapshot(r, &h, sound, ret);
			return 1;
		}
		if (!sound)
			return fail(-EBADMSG, "damaged before byte %llu", (unsigned long long)r->at);
		if (h.type == RECORD_SESSION || h.type == RECORD_SESSION_END)
			e = note_session(r, &h);
		if (e < 0)
			return e;
	}
	return e == 0 && !r->ended ? fail(-EBADMSG, "cut short at byte %llu", (unsigned long long)r->at) : e;
}
