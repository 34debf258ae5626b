/* The index file: what a scan of the segments would read of them, in one
 * mapped piece.  It names how far it covers each segment; what lies beyond is
 * scanned.  Anything wrong with it, and it is as if it were not there.  Used
 * under the store's lock, or before anyone else knows the store. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/dir.h"
#include "base/io.h"

#define INDEX_MAGIC "SNAPIDX1"
#define INDEX_VERSION 1u
#define INDEX_WORTH 256u /* new records that make it worth writing anew, and a sixteenth of all */

struct index_header {
	char magic[8];
	uint32_t version, crc;     /* of everything behind this header */
	uint64_t segments, records, bytes;
};
struct index_segment {
	char name[16];
	uint64_t covered;
};
struct index_record {
	uint32_t segment, meta_len;
	uint64_t at;
	struct record_header h;    /* then meta, padded to 8 */
};

static bool index_sound(const struct index_header *h, size_t n)
{
	return n >= sizeof *h && memcmp(h->magic, INDEX_MAGIC, 8) == 0 && h->version == INDEX_VERSION &&
	       h->bytes == n - sizeof *h && h->segments <= h->bytes / sizeof(struct index_segment) &&
	       crc32c(0, h + 1, h->bytes) == h->crc;
}

/* All segments that it names must be there and at least as long. */
static bool segments_match(struct store *s, const struct index_segment *seg, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char name[17];

		memcpy(name, seg[i].name, 16);
		name[16] = 0;
		s->segments = xrealloc(s->segments, (s->nsegments + 1) * sizeof *s->segments);
		if (strspn(name, "0123456789abcdef") != 16)
			return false;
		if (segment_open(&s->segments[s->nsegments], s->segments_path, name) < 0) {
			segment_close(&s->segments[s->nsegments]);
			return false;
		}
		s->segments[s->nsegments].size = seg[i].covered;
		s->nsegments++;
		segment_rest(&s->segments[s->nsegments - 1]);
		if (segment_file_bytes(&s->segments[s->nsegments - 1]) < seg[i].covered || seg[i].covered % 8)
			return false;
	}
	return true;
}

/* The next record of the file, or NULL at its end or where it lies. */
static const struct index_record *next_record(const struct store *s, const uint8_t **p, const uint8_t *end)
{
	const struct index_record *r = (const struct index_record *)*p;
	size_t left = (size_t)(end - *p);
	const struct segment *seg;

	if (left < sizeof *r || r->meta_len > RECORD_META_MAX || ((r->meta_len + 7) & ~7u) > left - sizeof *r ||
	    r->segment >= s->nsegments || r->meta_len != r->h.meta_len)
		return NULL;
	seg = &s->segments[r->segment];
	if (r->at < SEGMENT_HEADER_BYTES || r->at % 8 || r->at > seg->size || !segment_sane(seg, &r->h, seg->size - r->at))
		return NULL;
	*p += sizeof *r + ((r->meta_len + 7) & ~7u);
	return r;
}

/* All of it is looked at before any of it is believed. */
static bool replay(struct store *s, const struct index_header *h)
{
	const uint8_t *p = (const uint8_t *)(h + 1) + h->segments * sizeof(struct index_segment);
	const uint8_t *end = (const uint8_t *)(h + 1) + h->bytes;

	const uint8_t *q = p;

	for (uint64_t i = 0; i < h->records; i++)
		if (next_record(s, &q, end) == NULL)
			return false;
	for (uint64_t i = 0; q == end && i < h->records; i++) {
		const struct index_record *r = next_record(s, &p, end);
		struct buf meta = { .data = (uint8_t *)(r + 1), .len = r->meta_len, .cap = r->meta_len };

		fold_record(s, r->segment, r->at, &r->h, &meta);
	}
	return q == end;
}

void index_load(struct store *s)
{
	struct stat st;
	void *p;
	int fd = open(s->index_path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	p = fstat(fd, &st) == 0 && st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
	close(fd);
	if (p == MAP_FAILED)
		return;
	if (index_sound(p, (size_t)st.st_size)) {
		const struct index_header *h = p;

		if (!segments_match(s, (const struct index_segment *)(h + 1), h->segments) || !replay(s, h))
			while (s->nsegments)
				segment_close(&s->segments[--s->nsegments]);
	}
	munmap(p, (size_t)st.st_size);
	s->folded = 0;
}

/* A segment with damage is left out: scanned each time, it is told each time. */
static bool indexed(const struct segment *seg) { return seg->damaged == 0; }

static void put_records(struct store *s, struct buf *out, uint64_t *ret_records)
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
			buf_put(out, &r, sizeof r);
			buf_put(out, meta.data, meta.len);
			buf_put(out, "\0\0\0\0\0\0\0", -meta.len & 7);
			++*ret_records;
			at += record_extent_bytes(&r.h);
		}
		segment_rest(&s->segments[k]);
	}
}

/* Written beside and renamed: a reader sees the old one or the new one. */
void index_save(struct store *s)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct index_header h = { .magic = INDEX_MAGIC, .version = INDEX_VERSION };
	_cleanup_free_ char *temp = NULL;
	int fd, r;

	if (s->folded < INDEX_WORTH || s->folded < s->nall / 16)
		return;
	for (size_t i = 0; i < s->nsegments; i++) {
		struct index_segment seg = { .covered = s->segments[i].size };

		if (!indexed(&s->segments[i]))
			continue;
		h.segments++;
		memcpy(seg.name, s->segments[i].name, 16);
		buf_put(&b, &seg, sizeof seg);
	}
	put_records(s, &b, &h.records);
	h.bytes = b.len;
	h.crc = crc32c(0, b.data, b.len);
	temp = xasprintf("%s.%d", s->index_path, (int)getpid());
	fd = io->open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	r = io_pwrite_all(fd, &h, sizeof h, 0);
	if (r == 0)
		r = io_pwrite_all(fd, b.data, b.len, sizeof h);
	close(fd);
	if (r < 0 || io->rename(temp, s->index_path) < 0)
		io->unlink(temp);
}

/* ---- what no index covers ---- */

#define CHECKED_BYTES 65536u /* smaller records are checked whole when they are scanned */

/* Whether another record, or the end, stands where this one's lengths say. */
static bool followed(const struct segment *seg, uint64_t at, uint64_t end)
{
	uint32_t magic = 0;

	return at == end || (at + sizeof magic <= end && io_pread_all(seg->fd, &magic, sizeof magic, at) == 0 && magic == RECORD_MAGIC);
}

/* Reads the next record: 1 when it is to be folded.  A snapshot in its place
 * is, even a damaged one: it stays listed, and loading it says what is wrong.
 * Anything else must be sound to be believed; so must lengths that lead
 * nowhere, or one flipped bit would hide all that follows. */
static int scan_one(const struct segment *seg, uint64_t end, struct record_header *h, struct buf *meta, bool *ret_damaged)
{
	bool listed;
	int r = segment_read(seg, seg->size, h, meta);

	*ret_damaged = false;
	if (r <= 0)
		return r;
	listed = h->type == RECORD_SNAPSHOT && followed(seg, seg->size + record_extent_bytes(h), end);
	if (listed && record_extent_bytes(h) > CHECKED_BYTES)
		return 1;
	*ret_damaged = !segment_sound(seg, seg->size, h);
	return listed || !*ret_damaged ? 1 : -EBADMSG;
}

/* Records of a batch whose end was not met yet. */
struct held {
	struct orphan *list;
	size_t n;
	uint64_t start, damaged; /* where it begins in the segment, and what was damaged before */
};

static void hold(struct held *b, const struct segment *seg, const struct record_header *h, const struct buf *meta)
{
	if (b->n == 0) {
		b->start = seg->size;
		b->damaged = seg->damaged;
	}
	if ((b->n & (b->n - 1)) == 0)
		b->list = xrealloc(b->list, (b->n ? b->n * 2 : 1) * sizeof *b->list);
	b->list[b->n] = (struct orphan){ .h = *h, .at = seg->size };
	buf_put(&b->list[b->n++].meta, meta->data, meta->len);
}

static void let_go(struct store *s, uint32_t k, struct held *b, bool whole)
{
	for (size_t i = 0; i < b->n; i++) {
		if (whole)
			fold_record(s, k, b->list[i].at, &b->list[i].h, &b->list[i].meta);
		buf_done(&b->list[i].meta);
	}
	free(b->list);
	*b = (struct held){ 0 };
}

/* Behind damage: on to the next sound record.  False at the end. */
static bool step_over(struct segment *seg, uint64_t end, struct record_header *h, struct buf *meta)
{
	uint64_t next = segment_resync(seg, seg->size, end);
	bool damaged;

	if (next == end)
		return false; /* a torn tail, or one that is being written */
	if (scan_one(seg, end, h, meta, &damaged) == 1)
		return true; /* its writer finished it just now */
	seg->damaged++;
	seg->size = next;
	return true;
}

/* What was appended to a segment since it was last looked at.  A batch without
 * its end is as if it were not there, and looked at again. */
void index_scan(struct store *s, uint32_t k)
{
	struct segment *seg = &s->segments[k];
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct held batch = { 0 };
	struct record_header h;
	uint64_t end = segment_file_bytes(seg);
	bool damaged;
	int r;

	if (seg->size >= end || segment_use(seg) < 0)
		return;
	while (seg->size < end && (r = scan_one(seg, end, &h, &meta, &damaged)) != 0) {
		if (r == -EBADMSG && step_over(seg, end, &h, &meta))
			continue;
		if (r < 0)
			break;
		if (h.flags & RECORD_MORE) {
			hold(&batch, seg, &h, &meta);
		} else {
			let_go(s, k, &batch, true);
			fold_record(s, k, seg->size, &h, &meta);
		}
		seg->damaged += damaged;
		seg->size += record_extent_bytes(&h);
	}
	if (batch.n) {
		seg->size = batch.start;
		seg->damaged = batch.damaged;
	}
	let_go(s, k, &batch, false);
	seg->torn = end > seg->size ? end - seg->size : 0;
	segment_rest(seg);
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

bool index_segment_name(const char *name)
{
	return strspn(name, "0123456789abcdef") == 16 && strcmp(name + 16, ".seg") == 0;
}

/* New segments, in the order in which they were begun.  A damaged one is set
 * aside and counted, one that has no header yet is for the next look. */
int index_find_segments(struct store *s)
{
	size_t known = s->nsegments;
	struct dir d;
	int worst = 0;

	s->damaged = 0;
	dir_open(&d, s->segments_path);
	for (const char *name; (name = dir_next(&d));) {
		struct segment *seg;
		int r;

		if (!index_segment_name(name) || open_already(s, name))
			continue;
		s->segments = xrealloc(s->segments, (s->nsegments + 1) * sizeof *s->segments);
		seg = &s->segments[s->nsegments];
		r = segment_open(seg, s->segments_path, name);
		if (r == 0) {
			segment_rest(seg);
			s->nsegments++;
			continue;
		}
		segment_close(seg);
		s->damaged += r == -EBADMSG || r == -EACCES;
		if (r != -EBADMSG && r != -EACCES && r != -EAGAIN && r != -ENOENT)
			worst = r;
	}
	dir_close(&d);
	if (s->nsegments > known)
		qsort(s->segments + known, s->nsegments - known, sizeof *s->segments, by_created);
	return worst;
}
