/* Where an import's bytes come from: told apart by the first of them, inflated as
 * they come.  See transfer.h. */
#include "api/transfer.h"

#include <errno.h>

#include "base/err.h"
#include "store/segment.h"

#define PACKED_BYTES (64u << 10)

int64_t transfer_read(void *arg, void *p, size_t n)
{
	struct transfer_source *s = arg;
	int64_t got;

	if (s->at < s->npeeked) {
		if (n > s->npeeked - s->at)
			n = s->npeeked - s->at;
		memcpy(p, s->peeked + s->at, n);
		s->at += n;
		return (int64_t)n;
	}
	got = s->read(s->arg, p, n);
	if (got > 0)
		s->bytes += (uint64_t)got;
	return got;
}

static int inflate_begin(struct transfer_source *s)
{
	s->packed = xmalloc(PACKED_BYTES);
	return inflateInit2(&s->z, 15 + 16) == Z_OK ? TRANSFER_GZIP : -ENOMEM;
}

int transfer_open(struct transfer_source *s)
{
	while (s->npeeked < sizeof s->peeked) {
		int64_t n = s->read(s->arg, s->peeked + s->npeeked, sizeof s->peeked - s->npeeked);

		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		s->npeeked += (size_t)n;
		s->bytes += (uint64_t)n;
	}
	if (s->npeeked >= 2 && s->peeked[0] == 0x1f && s->peeked[1] == 0x8b)
		return inflate_begin(s);
	if (s->npeeked == sizeof s->peeked && memcmp(s->peeked, SEGMENT_MAGIC, 8) == 0)
		return TRANSFER_BINARY;
	return TRANSFER_JSON;
}

void transfer_close(struct transfer_source *s)
{
	if (s->packed)
		inflateEnd(&s->z);
	free(s->packed);
}

/* More packed bytes; 1, or 0 at their end. */
static int refill(struct transfer_source *s)
{
	int64_t n = transfer_read(s, s->packed, PACKED_BYTES);

	if (n <= 0)
		return (int)n;
	s->z.next_in = s->packed;
	s->z.avail_in = (uInt)n;
	return 1;
}

int64_t transfer_inflate(void *arg, void *p, size_t n)
{
	struct transfer_source *s = arg;
	uInt most = n > 1u << 30 ? 1u << 30 : (uInt)n;

	s->z.next_out = p;
	s->z.avail_out = most;
	while (s->z.avail_out == most) {
		int r = s->z.avail_in ? 1 : refill(s);

		if (r < 0)
			return r;
		if (r == 0)
			return s->member_ended ? 0 : fail(-EBADMSG, "the gzip stream is cut short at byte %llu", (unsigned long long)s->bytes);
		if (s->member_ended && inflateReset(&s->z) != Z_OK)
			return -ENOMEM;
		s->member_ended = false;
		r = inflate(&s->z, Z_NO_FLUSH);
		s->member_ended = r == Z_STREAM_END;
		if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
			return fail(-EBADMSG, "the gzip stream is damaged before byte %llu", (unsigned long long)s->bytes);
	}
	return most - s->z.avail_out;
}
