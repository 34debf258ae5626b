/* zlib-format streams by igzip or zlib; see codec.h. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "store/codec.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
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

/* ---- decompressing, a piece at a time ---- */

#define PIECE_BYTES (128u << 10) /* smaller ones cost igzip its history each time */

struct inflating {
	const uint8_t *in;
	size_t left;              /* of the input */
	uint8_t *out;
	uint64_t done, raw_len;   /* of the output */
	bool ended;               /* the stream has, and its checksum holds */
#if defined(HAVE_ISAL) && !defined(ZLIB_ALONE)
	struct inflate_state state;
#else
	z_stream state;
#endif
};

static uint32_t at_most(uint64_t n, uint32_t most) { return n < most ? (uint32_t)n : most; }

#if defined(HAVE_ISAL) && !defined(ZLIB_ALONE)
static bool inflating_begin(struct inflating *f)
{
	isal_inflate_init(&f->state);
	f->state.crc_flag = ISAL_ZLIB;
	return true;
}

/* Up to `most` bytes more.  False: damaged. */
static bool inflating_step(struct inflating *f, uint32_t most)
{
	struct inflate_state *s = &f->state;
	uint32_t in = at_most(f->left, 1u << 30), room = at_most(f->raw_len + 1 - f->done, most);
	int r;

	s->next_in = (uint8_t *)f->in;
	s->avail_in = in;
	s->next_out = f->out + f->done;
	s->avail_out = room;
	r = isal_inflate(s);
	f->in += in - s->avail_in;
	f->left -= in - s->avail_in;
	f->done += room - s->avail_out;
	f->ended = r == ISAL_DECOMP_OK && s->block_state == ISAL_BLOCK_FINISH;
	return r == ISAL_DECOMP_OK && (f->ended || in != s->avail_in || room != s->avail_out);
}

static void inflating_end(struct inflating *f) { (void)f; }
#else
static bool inflating_begin(struct inflating *f)
{
	f->state = (z_stream){ 0 };
	return inflateInit(&f->state) == Z_OK;
}

static bool inflating_step(struct inflating *f, uint32_t most)
{
	z_stream *s = &f->state;
	uint32_t in = at_most(f->left, 1u << 30), room = at_most(f->raw_len + 1 - f->done, most);
	int r;

	s->next_in = (Bytef *)f->in;
	s->avail_in = in;
	s->next_out = f->out + f->done;
	s->avail_out = room;
	r = inflate(s, Z_NO_FLUSH);
	f->in += in - s->avail_in;
	f->left -= in - s->avail_in;
	f->done += room - s->avail_out;
	f->ended = r == Z_STREAM_END;
	return f->ended || (r == Z_OK && (in != s->avail_in || room != s->avail_out));
}

static void inflating_end(struct inflating *f) { inflateEnd(&f->state); }
#endif

static bool inflating_is_whole(const struct inflating *f) { return f->ended && f->done == f->raw_len && f->left == 0; }

static int claims_too_much(size_t n, uint64_t raw_len)
{
	return fail(-EBADMSG, "a compressed payload of %zu bytes claims to hold %llu", n, (unsigned long long)raw_len);
}

static int not_what_it_says(void) { return fail(-EBADMSG, "a compressed payload does not hold what its record says"); }

/* Room for one byte more tells too long a stream. */
static struct inflating *inflating_new(const void *p, size_t n, uint64_t raw_len, struct buf *out, int *ret_error)
{
	struct inflating *f;

	if (raw_len / RATIO_MAX > n) {
		*ret_error = claims_too_much(n, raw_len);
		return NULL;
	}
	f = xmalloc(sizeof *f);
	f->in = p;
	f->left = n;
	f->out = buf_room(out, raw_len + 1);
	f->done = 0;
	f->raw_len = raw_len;
	f->ended = false;
	if (!inflating_begin(f)) {
		free(f);
		*ret_error = -ENOMEM;
		return NULL;
	}
	return f;
}

static int inflating_done(struct inflating *f)
{
	bool whole = inflating_is_whole(f);

	inflating_end(f);
	free(f);
	return whole ? 0 : not_what_it_says();
}

int codec_decompress(const void *p, size_t n, uint64_t raw_len, struct buf *out)
{
	int r = 0;
	struct inflating *f = inflating_new(p, n, raw_len, out, &r);

	if (f == NULL)
		return r;
	while (!f->ended && f->done <= raw_len && inflating_step(f, 1u << 30))
		;
	r = inflating_done(f);
	if (r == 0)
		out->len += raw_len;
	return r;
}

/* ---- ahead of who reads it ---- */

struct codec_ahead {
	struct inflating *f;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	uint64_t done;            /* bytes that may be read */
	bool over;
};

static void *ahead_run(void *arg)
{
	struct codec_ahead *a = arg;
	bool going = true;

	while (going) {
		going = inflating_step(a->f, PIECE_BYTES) && !a->f->ended && a->f->done <= a->f->raw_len;
		pthread_mutex_lock(&a->lock);
		a->done = a->f->done < a->f->raw_len ? a->f->done : a->f->raw_len;
		a->over = !going;
		pthread_cond_signal(&a->more);
		pthread_mutex_unlock(&a->lock);
	}
	return NULL;
}

/* No signal of the program's is ours. */
static bool thread_start(pthread_t *ret, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(ret, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r == 0;
}

int codec_ahead_begin(const void *p, size_t n, uint64_t raw_len, struct buf *out, struct codec_ahead **ret)
{
	struct codec_ahead *a;
	struct inflating *f;
	int r = 0;

	*ret = NULL;
	if (raw_len < CODEC_AHEAD_BYTES)
		return codec_decompress(p, n, raw_len, out);
	f = inflating_new(p, n, raw_len, out, &r);
	if (f == NULL)
		return r;
	a = xmalloc(sizeof *a);
	*a = (struct codec_ahead){ .f = f, .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };
	if (!thread_start(&a->thread, ahead_run, a)) { /* then nothing is ahead */
		ahead_run(a);
		r = inflating_done(f);
		free(a);
		if (r == 0)
			out->len += raw_len;
		return r;
	}
	out->len += raw_len;
	*ret = a;
	return 0;
}

uint64_t codec_ahead_wait(struct codec_ahead *a, uint64_t n)
{
	uint64_t done;

	pthread_mutex_lock(&a->lock);
	while (a->done < n && !a->over)
		pthread_cond_wait(&a->more, &a->lock);
	done = a->done;
	pthread_mutex_unlock(&a->lock);
	return done;
}

int codec_ahead_end(struct codec_ahead *a)
{
	int r;

	if (a == NULL)
		return 0;
	pthread_join(a->thread, NULL);
	r = inflating_done(a->f);
	pthread_mutex_destroy(&a->lock);
	pthread_cond_destroy(&a->more);
	free(a);
	return r;
}
