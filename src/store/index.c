/* The index file: what a scan of the segments would read of them, in one
 * mapped piece.  It names how far it covers each segment; what lies beyond is
 * scanned.  Anything wrong with it, and it is as if it were not there. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/io.h"

#define INDEX_MAGIC "SNAPIDX1"
#define INDEX_VERSION 1u
#define INDEX_WORTH 256u /* records that make it worth writing anew */

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
		if (segment_open(&s->segments[s->nsegments], s->segments_path, name) < 0)
			return false;
		s->segments[s->nsegments].size = seg[i].covered;
		s->nsegments++;
		if (segment_file_bytes(&s->segments[s->nsegments - 1]) < seg[i].covered)
			return false;
	}
	return true;
}

static void replay(struct store *s, const struct index_header *h)
{
	const uint8_t *p = (const uint8_t *)(h + 1) + h->segments * sizeof(struct index_segment);
	const uint8_t *end = (const uint8_t *)(h + 1) + h->bytes;

	for (uint64_t i = 0; i < h->records && (size_t)(end - p) >= sizeof(struct index_record); i++) {
		const struct index_record *r = (const struct index_record *)p;
		struct buf meta = { .data = (uint8_t *)(r + 1), .len = r->meta_len, .cap = r->meta_len };

		if (r->meta_len > (size_t)(end - p) - sizeof *r || r->segment >= s->nsegments)
			return;
		fold_record(s, r->segment, r->at, &r->h, &meta);
		p += sizeof *r + ((r->meta_len + 7) & ~7u);
	}
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

		if (segments_match(s, (const struct index_segment *)(h + 1), h->segments)) {
			replay(s, h);
		} else {
			while (s->nsegments)
				segment_close(&s->segments[--s->nsegments]);
		}
	}
	munmap(p, (size_t)st.st_size);
	s->folded = 0;
}

static void put_records(struct store *s, struct buf *out, uint64_t *ret_records)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;

	for (uint32_t k = 0; k < s->nsegments; k++) {
		uint64_t at = SEGMENT_HEADER_BYTES;
		struct index_record r = { .segment = k };

		while (at < s->segments[k].size && segment_read(&s->segments[k], at, &r.h, &meta) > 0) {
			r.at = at;
			r.meta_len = (uint32_t)meta.len;
			buf_put(out, &r, sizeof r);
			buf_put(out, meta.data, meta.len);
			buf_put(out, "\0\0\0\0\0\0\0", -meta.len & 7);
			++*ret_records;
			at += record_extent_bytes(&r.h);
		}
	}
}

/* Written beside and renamed: a reader sees the old one or the new one. */
void index_save(struct store *s)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct index_header h = { .magic = INDEX_MAGIC, .version = INDEX_VERSION, .segments = s->nsegments };
	char temp[4500];
	int fd, r;

	if (s->folded < INDEX_WORTH)
		return;
	for (size_t i = 0; i < s->nsegments; i++) {
		struct index_segment seg = { .covered = s->segments[i].size };

		if (s->segments[i].damaged || s->segments[i].torn)
			return; /* scanned each time, so that it is told each time */
		memcpy(seg.name, s->segments[i].name, 16);
		buf_put(&b, &seg, sizeof seg);
	}
	put_records(s, &b, &h.records);
	h.bytes = b.len;
	h.crc = crc32c(0, b.data, b.len);
	snprintf(temp, sizeof temp, "%s.%d", s->index_path, (int)getpid());
	fd = io->open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	r = io_pwrite_all(fd, &h, sizeof h, 0);
	if (r == 0)
		r = io_pwrite_all(fd, b.data, b.len, sizeof h);
	close(fd);
	if (r < 0 || io->rename(temp, s->index_path) < 0)
		unlink(temp);
}
