/* zlib-format streams by igzip or zlib; see codec.h. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "store/codec.h"

#include <errno.h>
#include <zlib.h>
#if defined(HAVE_ISAL) && !defined(ZLIB_ALONE)
#include <isa-l/igzip_lib.h>
#endif

#include "base/err.h"

#define RATIO_MAX 1100u /* deflate cannot do better than 1032 to 1 */

#if defined(HAVE_ISAL) && !defined(ZLIB_ALONE)
const char *codec_name(void) { return "igzip"; }

bool codec_compress(const void *p, size_t n, struct buf *out)
{
	static const size_t level_bytes = ISAL_DEF_LVL1_DEFAULT;
	struct isal_zstream s;
	size_t cap = n + n / 16 + 1024;
	uint8_t *level = xmalloc(level_bytes);
	int r;

	isal_deflate_init(&s);
	s.level = 1;
	s.level_buf = level;
	s.level_buf_size = (uint32_t)level_bytes;
	s.gzip_flag = IGZIP_ZLIB;
	s.end_of_stream = 1;
	s.next_in = (uint8_t *)p;
	s.avail_in = (uint32_t)n;
	s.next_out = buf_room(out, cap);
	s.avail_out = (uint32_t)cap;
	r = n > UINT32_MAX / 2 ? -1 : isal_deflate(&s);
	free(level);
	if (r != COMP_OK || s.internal_state.state != ZSTATE_END || s.total_out >= n)
		return false;
	out->len += s.total_out;
	return true;
}
#else
const char *codec_name(void) { return "zlib"; }

bool codec_compress(const void *p, size_t n, struct buf *out)
{
	uLongf len = compressBound(n);

	if (compress2(buf_room(out, len), &len, p, n, 1) != Z_OK || len >= n)
		return false;
	out->len += len;
	return true;
}
#endif

static int claims_too_much(size_t n, uint64_t raw_len)
{
	return fail(-EBADMSG, "a compressed payload of %zu bytes claims to hold %llu", n, (unsigned long long)raw_len);
}

static int not_what_it_says(void) { return fail(-EBADMSG, "a compressed payload does not hold what its record says"); }

#if defined(HAVE_ISAL) && !defined(ZLIB_ALONE)
int codec_decompress(const void *p, size_t n, uint64_t raw_len, struct buf *out)
{
	struct inflate_state *s;
	uint64_t done = 0;
	size_t left = n;
	int r;

	if (raw_len / RATIO_MAX > n)
		return claims_too_much(n, raw_len);
	s = xmalloc(sizeof *s);
	isal_inflate_init(s);
	s->crc_flag = ISAL_ZLIB;
	s->next_in = (uint8_t *)p;
	buf_room(out, raw_len + 1);
	do {
		uint32_t in = left > 1u << 30 ? 1u << 30 : (uint32_t)left, room = raw_len + 1 - done > 1u << 30 ? 1u << 30 : (uint32_t)(raw_len + 1 - done);

		s->avail_in = in;
		s->next_out = out->data + out->len + done;
		s->avail_out = room;
		r = isal_inflate(s);
		left -= in - s->avail_in;
		done += room - s->avail_out;
		if (in == s->avail_in && room == s->avail_out)
			break;
	} while (r == ISAL_DECOMP_OK && done <= raw_len && s->block_state != ISAL_BLOCK_FINISH);
	if (r != ISAL_DECOMP_OK || s->block_state != ISAL_BLOCK_FINISH || done != raw_len || left) {
		free(s);
		return not_what_it_says();
	}
	free(s);
	out->len += raw_len;
	return 0;
}
#else
int codec_decompress(const void *p, size_t n, uint64_t raw_len, struct buf *out)
{
	z_stream s = { .next_in = (Bytef *)p };
	size_t left = n, done = 0;
	int r;

	if (raw_len / RATIO_MAX > n)
		return claims_too_much(n, raw_len);
	if (inflateInit(&s) != Z_OK)
		return -ENOMEM;
	buf_room(out, raw_len + 1);
	do {
		s.avail_in = left > 1u << 30 ? 1u << 30 : (uInt)left;
		left -= s.avail_in;
		s.next_out = out->data + out->len + done;
		s.avail_out = raw_len + 1 - done > 1u << 30 ? 1u << 30 : (uInt)(raw_len + 1 - done);
		r = inflate(&s, Z_NO_FLUSH);
		left += s.avail_in;
		done = (size_t)(s.next_out - (out->data + out->len));
	} while (r == Z_OK && done <= raw_len && (left || s.avail_out == 0));
	inflateEnd(&s);
	if (r != Z_STREAM_END || done != raw_len || left)
		return not_what_it_says();
	out->len += raw_len;
	return 0;
}
#endif
