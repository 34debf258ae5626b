/* What no index covers: the segments' own records, read in order.  Used under
 * the store's lock, or before anyone else knows the store. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/dir.h"
#include "base/io.h"

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
 * nowhere, or one flipped bit would hide all that follows.  A last one that the
 * power cut short is none: nobody was told of it. */
static int scan_one(const struct segment *seg, uint64_t end, struct record_header *h, struct buf *meta, bool *ret_damaged)
{
	bool listed, last;
	uint64_t next;
	int r = segment_read(seg, seg->size, h, meta);

	*ret_damaged = false;
	if (r <= 0)
		return r;
	next = seg->size + record_extent_bytes(h);
	last = next == end;
	listed = h->type == RECORD_SNAPSHOT && followed(seg, next, end);
	if (listed && !last && record_extent_bytes(h) > CHECKED_BYTES)
		return 1;
	*ret_damaged = !segment_sound(seg, seg->size, h);
	if (*ret_damaged && last && segment_cut_short(seg, seg->size, h))
		return 0;
	if (!*ret_damaged)
		return 1;
	/* Where sound ones lie inside, it is its length that is wrong. */
	return listed && segment_resync(seg, seg->size, next) == next ? 1 : -EBADMSG;
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

/* One look at the folder.  *ret_gone: one of those that it listed went meanwhile. */
static int list_segments(struct store *s, bool *ret_gone)
{
	struct dir d;
	int worst = 0;

	s->damaged = 0;
	*ret_gone = false;
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
		*ret_gone |= r == -ENOENT;
		if (r != -EBADMSG && r != -EACCES && r != -EAGAIN && r != -ENOENT)
			worst = r;
	}
	dir_close(&d);
	return worst;
}

#define LOOKS 20u

/* New segments, in the order in which they were begun.  A damaged one is set
 * aside and counted, one that has no header yet is for the next look.  What stood in
 * one that was compacted away meanwhile stands in another, which the list may not have. */
int index_find_segments(struct store *s)
{
	size_t known = s->nsegments;
	bool gone = true;
	int worst = 0;

	for (unsigned look = 0; gone && look < LOOKS; look++)
		worst = list_segments(s, &gone);
	if (s->nsegments > known)
		qsort(s->segments + known, s->nsegments - known, sizeof *s->segments, by_created);
	return worst;
}
