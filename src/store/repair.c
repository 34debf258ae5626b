/* Repair: a sound store beside the damaged one, with every record that can be
 * read.  The damaged one is only read. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/dir.h"
#include "base/err.h"
#include "base/io.h"

struct repair {
	struct store *to;
	struct segment out;          /* fd -1: none yet */
	void (*say)(void *arg, const char *what);
	void *arg;
	uint64_t copied, lost;
};

/* Records of a batch, until its end is met. */
struct pending {
	uint64_t *at;
	size_t n;
};

static void say(struct repair *r, struct segment *seg, uint64_t at, const char *what)
{
	_cleanup_free_ char *line = xasprintf("%s: %llu: %s", seg->path, (unsigned long long)at, what);

	if (r->say)
		r->say(r->arg, line);
}

static int copy_record(struct repair *r, struct segment *seg, uint64_t at)
{
	_cleanup_buf_ struct buf meta = BUF_INIT, payload = BUF_INIT;
	struct record_header h;
	uint64_t to;
	int e = segment_read(seg, at, &h, &meta);

	if (e <= 0)
		return -EBADMSG;
	if (r->out.fd >= 0 && r->out.size + h.payload_len > SEGMENT_MAX_BYTES) {
		e = segment_sync(&r->out);
		segment_close(&r->out);
		r->out.fd = -1;
		if (e < 0)
			return e;
	}
	if (r->out.fd < 0 && (e = segment_create(&r->out, r->to->segments_path)) < 0)
		return e;
	if (h.payload_len && (e = segment_payload(seg, at, &h, &payload, true)) < 0)
		return e;
	h.flags &= (uint16_t)~RECORD_MORE;
	e = segment_append(&r->out, &h, meta.data, payload.data, &to);
	r->copied += e == 0;
	return e;
}

static int copy_pending(struct repair *r, struct segment *seg, struct pending *p)
{
	int e = 0;

	for (size_t i = 0; i < p->n && e == 0; i++)
		e = copy_record(r, seg, p->at[i]);
	p->n = 0;
	return e;
}

static void add(struct pending *p, uint64_t at)
{
	if ((p->n & (p->n - 1)) == 0)
		p->at = xrealloc(p->at, (p->n ? p->n * 2 : 1) * sizeof *p->at);
	p->at[p->n++] = at;
}

/* Sound records are copied, the bytes between them told.  A batch without its
 * end never was. */
static int copy_segment(struct repair *r, struct segment *seg)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;
	uint64_t at = SEGMENT_HEADER_BYTES, end = segment_file_bytes(seg);
	struct pending batch = { 0 };
	struct record_header h;
	int e = 0;

	if (seg->damaged)
		say(r, seg, 0, "its header is damaged; its records are not");
	while (at < end && e == 0) {
		if (segment_read(seg, at, &h, &meta) == 1 && segment_sound(seg, at, &h)) {
			add(&batch, at);
			if (!(h.flags & RECORD_MORE))
				e = copy_pending(r, seg, &batch);
			at += record_extent_bytes(&h);
			continue;
		}
		r->lost++;
		say(r, seg, at, "what stands here cannot be read and is left out");
		at = segment_resync(seg, at, end);
	}
	if (e == 0 && batch.n)
		say(r, seg, batch.at[0], "a batch that was never finished is left out");
	free(batch.at);
	return e;
}

static int leave_out(struct repair *r, const char *folder, const char *name)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", folder, name);
	struct segment whole = { .path = path };

	r->lost++;
	say(r, &whole, 0, "nothing in it can be read, and it is left out");
	return 0;
}

static int copy_all(struct repair *r, const char *folder)
{
	struct dir d;
	int e = 0;

	dir_open(&d, folder);
	for (const char *name; e == 0 && (name = dir_next(&d));) {
		struct segment seg;

		if (!index_segment_name(name))
			continue;
		e = segment_open(&seg, folder, name);
		if (e == 0)
			e = copy_segment(r, &seg);
		else if (e == -EBADMSG)
			e = leave_out(r, folder, name);
		else if (e == -EAGAIN || e == -ENOENT)
			e = 0;
		segment_close(&seg);
	}
	dir_close(&d);
	return e;
}

static bool is_empty(const char *path)
{
	struct dir d;
	bool empty;

	if (access(path, F_OK) < 0)
		return true;
	dir_open(&d, path);
	empty = dir_next(&d) == NULL;
	dir_close(&d);
	return empty;
}

int store_repair(struct store *s, const char *into, void (*said)(void *arg, const char *what), void *arg, uint64_t *ret_copied,
		 uint64_t *ret_lost)
{
	struct store_options o = { .create = true, .persist = true, .type = STORE_DISK, .fsync = s->o.fsync };
	struct repair r = { .out = { .fd = -1 }, .say = said, .arg = arg };
	int e;

	*ret_copied = *ret_lost = 0;
	if (s->in_memory)
		return fail(-EINVAL, "a store in memory has nothing to repair");
	if (!is_empty(into))
		return fail(-EEXIST, "%s: is there already and not empty", into);
	e = store_open(into, &o, &r.to);
	if (e < 0)
		return e;
	e = copy_all(&r, s->segments_path);
	if (r.out.fd >= 0) {
		int synced = e == 0 ? segment_sync(&r.out) : 0;

		segment_close(&r.out);
		e = e < 0 ? e : synced;
	}
	store_close(r.to);
	*ret_copied = r.copied;
	*ret_lost = r.lost;
	return e;
}
