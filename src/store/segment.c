/* Reading and writing segment files; see segment.h.  Every length from a file
 * is checked against what is left of it. */
#include "store/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/dir.h"
#include "base/err.h"
#include "base/io.h"

struct segment_header {
	char magic[8];
	uint32_t version, crc;
	uint64_t file_id, created_ns;
	char zero[32];
};
_Static_assert(sizeof(struct segment_header) == SEGMENT_HEADER_BYTES, "fixed");

static uint32_t header_crc(struct segment_header h)
{
	h.crc = 0;
	return crc32c(0, &h, sizeof h);
}

/* A file of a new name, locked.  False: one who clears up came before the lock. */
static bool begin_aside(struct segment *s)
{
	s->fd = io->open(s->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (s->fd < 0)
		return true;
	while (flock(s->fd, LOCK_EX) < 0 && errno == EINTR)
		; /* who asks whether we write holds it for an instant */
	if (access(s->path, F_OK) == 0 || errno != ENOENT)
		return true;
	close(s->fd);
	return false;
}

int segment_create_aside(struct segment *s, const char *folder)
{
	struct segment_header h = { .version = SEGMENT_VERSION };
	struct timespec now;
	int r;

	*s = (struct segment){ .fd = -1, .mine = true };
	if (getrandom(&s->file_id, sizeof s->file_id, 0) != sizeof s->file_id)
		return fail(-errno, "getrandom: %s", strerror(errno));
	snprintf(s->name, sizeof s->name, "%016llx", (unsigned long long)s->file_id);
	s->path = xasprintf("%s/%s.new", folder, s->name);
	while (!begin_aside(s))
		;
	if (s->fd < 0) {
		r = -errno;
		r = fail(r, "%s: %s", s->path, strerror(-r));
		segment_close(s);
		return r;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(h.magic, SEGMENT_MAGIC, 8);
	h.file_id = s->file_id;
	h.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	s->created_ns = h.created_ns;
	h.crc = header_crc(h);
	r = io_pwrite_all(s->fd, &h, sizeof h, 0);
	if (r < 0) {
		io->unlink(s->path);
		fail(r, "%s: %s", s->path, strerror(-r));
		segment_close(s);
		return r;
	}
	s->size = SEGMENT_HEADER_BYTES;
	return 0;
}

int segment_appear(struct segment *s, bool sync)
{
	_cleanup_free_ char *aside = xstrdup(s->path);
	int r;

	if (sync && io->fdatasync(s->fd) < 0)
		return fail(-errno, "%s: fdatasync: %s", s->path, strerror(errno));
	strcpy(s->path + strlen(s->path) - 4, ".seg");
	if (io->rename(aside, s->path) == 0)
		return sync ? segment_sync(s) : 0;
	r = fail(-errno, "%s: rename: %s", aside, strerror(errno));
	strcpy(s->path, aside);
	return r;
}

/* Killed between open and rename: nothing is in it that was promised to anybody. */
static void clear_one(const char *folder, const char *name)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		io->unlink(path);
	close(fd);
}

void segment_clear_aside(const char *folder)
{
	struct dir d;

	if (!dir_open(&d, folder))
		return;
	for (const char *name; (name = dir_next(&d));)
		if (strlen(name) == 20 && strcmp(name + 16, ".new") == 0)
			clear_one(folder, name);
	dir_close(&d);
}

int segment_create(struct segment *s, const char *folder)
{
	int r;

	segment_clear_aside(folder);
	r = segment_create_aside(s, folder);
	if (r < 0)
		return r;
	r = segment_appear(s, false);
	if (r < 0) {
		io->unlink(s->path);
		segment_close(s);
	}
	return r;
}

/* Each record says in which segment it stands: the header is missed for little. */
static bool open_headless(struct segment *s)
{
	uint64_t end = segment_file_bytes(s), at;
	struct record_header h;

	s->file_id = strtoull(s->name, NULL, 16);
	at = segment_resync(s, SEGMENT_HEADER_BYTES - 8, end);
	if (at == end || io_pread_all(s->fd, &h, sizeof h, at) < 0)
		return false;
	s->created_ns = h.created_ns;
	s->damaged = 1;
	s->size = SEGMENT_HEADER_BYTES;
	return true;
}

int segment_open(struct segment *s, const char *folder, const char *name)
{
	struct segment_header h;
	int r;

	*s = (struct segment){ .fd = -1 };
	snprintf(s->name, sizeof s->name, "%.16s", name);
	s->path = xasprintf("%s/%s.seg", folder, s->name);
	r = segment_use(s);
	if (r < 0) {
		segment_close(s);
		return r;
	}
	if (segment_file_bytes(s) < sizeof h)
		return -EAGAIN;
	r = io_pread_all(s->fd, &h, sizeof h, 0);
	if (r == 0 && (memcmp(h.magic, SEGMENT_MAGIC, 8) || h.crc != header_crc(h)))
		r = open_headless(s) ? 1 : -EBADMSG;
	if (r == 0 && h.version > SEGMENT_VERSION)
		r = -EPROTO;
	if (r < 0) {
		fail(r, "%s: %s", s->path, r == -EPROTO ? "written by a newer snaptrail" :
		     r == -EBADMSG ? "not a segment, or damaged at 0" : strerror(-r));
		segment_close(s);
		return r;
	}
	if (r == 1)
		return 0;
	s->file_id = h.file_id;
	s->created_ns = h.created_ns;
	s->size = SEGMENT_HEADER_BYTES;
	return 0;
}

static void ahead_drop(struct segment *s)
{
	free(s->ahead);
	s->ahead = NULL;
	s->ahead_at = s->ahead_end = s->read_end = 0;
}

void segment_close(struct segment *s)
{
	ahead_drop(s);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	free(s->path);
	s->path = NULL;
}

void segment_known(struct segment *s, const char *folder, const char *name, uint64_t covered, uint64_t created_ns)
{
	*s = (struct segment){ .fd = -1, .file_id = strtoull(name, NULL, 16), .created_ns = created_ns, .size = covered, .named = true };
	snprintf(s->name, sizeof s->name, "%.16s", name);
	s->path = xasprintf("%s/%.16s.seg", folder, name);
}

int segment_use(struct segment *s)
{
	if (s->fd < 0)
		s->fd = io->open(s->path, O_RDONLY | O_CLOEXEC, 0);
	return s->fd < 0 ? fail(-errno, "%s: %s", s->path, strerror(errno)) : 0;
}

void segment_rest(struct segment *s)
{
	ahead_drop(s);
	if (s->mine || s->fd < 0)
		return;
	close(s->fd);
	s->fd = -1;
}

uint64_t segment_file_bytes(const struct segment *s)
{
	struct stat st;

	return (s->fd < 0 ? stat(s->path, &st) : fstat(s->fd, &st)) < 0 ? 0 : (uint64_t)st.st_size;
}

bool segment_is_written(const struct segment *s)
{
	if (flock(s->fd, LOCK_SH | LOCK_NB) == 0) {
		flock(s->fd, LOCK_UN);
		return false;
	}
	return true;
}

static uint32_t record_crc(struct record_header h, const void *meta, const void *payload)
{
	static const uint8_t zero[8];
	uint64_t pad = record_extent_bytes(&h) - RECORD_HEADER_BYTES - h.meta_len - h.payload_len;
	uint32_t c;

	h.crc = 0;
	c = crc32c(0, &h, sizeof h);
	c = crc32c(c, meta, h.meta_len);
	c = crc32c(c, payload, h.payload_len);
	return crc32c(c, zero, pad);
}

int segment_append(struct segment *s, struct record_header *h, const void *meta, const void *payload, uint64_t *ret_at)
{
	static const uint8_t zero[8];
	uint64_t at = s->size, body = at + RECORD_HEADER_BYTES;
	uint64_t pad;
	int r;

	h->magic = RECORD_MAGIC;
	h->file_id = s->file_id;
	h->reserved = 0;
	h->crc = record_crc(*h, meta, payload);
	pad = record_extent_bytes(h) - RECORD_HEADER_BYTES - h->meta_len - h->payload_len;
	io_together(true);
	r = io_pwrite_all(s->fd, meta, h->meta_len, body);
	if (r == 0 && h->payload_len)
		r = io_pwrite_all(s->fd, payload, h->payload_len, body + h->meta_len);
	if (r == 0 && pad)
		r = io_pwrite_all(s->fd, zero, pad, body + h->meta_len + h->payload_len);
	if (r == 0)
		r = io_pwrite_all(s->fd, &h->crc, sizeof *h - RECORD_BEGIN_BYTES, at + RECORD_BEGIN_BYTES);
	if (r == 0)
		r = io_pwrite_all(s->fd, h, RECORD_BEGIN_BYTES, at);
	if (r < 0 && io->ftruncate(s->fd, (off_t)at) < 0)
		s->failed = true;
	io_together(false);
	if (r < 0)
		return fail(r, "%s: %s", s->path, strerror(-r));
	s->size = at + record_extent_bytes(h);
	*ret_at = at;
	return 0;
}

int segment_sync(struct segment *s)
{
	_cleanup_free_ char *folder = NULL;
	int r;

	if (io->fdatasync(s->fd) < 0) {
		s->failed = true; /* what the page cache holds of it is unknown now */
		return fail(-errno, "%s: fdatasync: %s", s->path, strerror(errno));
	}
	if (s->named)
		return 0;
	folder = xstrdup(s->path);
	*strrchr(folder, '/') = 0;
	r = io_sync_folder(folder);
	if (r < 0) {
		s->failed = true;
		return fail(r, "%s: fsync: %s", folder, strerror(-r));
	}
	s->named = true;
	return 0;
}

bool segment_sane(const struct segment *s, const struct record_header *h, uint64_t left)
{
	return h->magic == RECORD_MAGIC && h->file_id == s->file_id && h->meta_len <= RECORD_META_MAX &&
	       h->payload_len <= left && h->meta_len <= left && record_extent_bytes(h) <= left && h->type >= RECORD_SESSION &&
	       h->type <= RECORD_MARK;
}

int segment_read(const struct segment *s, uint64_t at, struct record_header *h, struct buf *meta)
{
	uint64_t end = segment_file_bytes(s);
	int r;

	if (at + RECORD_HEADER_BYTES > end)
		return 0;
	r = io_pread_all(s->fd, h, sizeof *h, at);
	if (r < 0)
		return r;
	if (!segment_sane(s, h, end - at))
		return -EBADMSG;
	buf_reset(meta);
	r = io_pread_all(s->fd, buf_room(meta, h->meta_len), h->meta_len, at + RECORD_HEADER_BYTES);
	meta->len = h->meta_len;
	return r < 0 ? r : 1;
}

#define SECTOR_BYTES 512u  /* what a disk writes whole, at least */
#define SMALL_BYTES 16384u /* a record that is read in one go */

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

#define AHEAD_BYTES (64u << 10)

/* Small records are read one after the other, from a full one on: then so are
 * those behind them.  What lies before `size` does not change any more. */
static int read_small(struct segment *s, uint64_t at, uint8_t *to, size_t n)
{
	bool follows = at >= s->read_end && at - s->read_end < SMALL_BYTES;
	uint64_t end = s->size - at < AHEAD_BYTES ? s->size : at + AHEAD_BYTES;

	s->read_end = at + n;
	if (s->ahead && at >= s->ahead_at && at + n <= s->ahead_end) {
		memcpy(to, s->ahead + (at - s->ahead_at), n);
		return 0;
	}
	if (!follows || at + n > s->size)
		return io_pread_all(s->fd, to, n, at);
	if (s->ahead == NULL)
		s->ahead = xmalloc(AHEAD_BYTES);
	s->ahead_at = s->ahead_end = 0;
	int r = io_pread_all(s->fd, s->ahead, end - at, at);
	if (r < 0)
		return r;
	s->ahead_at = at;
	s->ahead_end = end;
	memcpy(to, s->ahead, n);
	return 0;
}

static int small_payload(struct segment *s, uint64_t at, const struct record_header *h, struct buf *out, bool check)
{
	uint8_t body[SMALL_BYTES];
	size_t n = record_extent_bytes(h) - RECORD_HEADER_BYTES, used = h->meta_len + h->payload_len;
	int r = read_small(s, at + RECORD_HEADER_BYTES, body, n);

	if (r == 0 && check && (record_crc(*h, body, body + h->meta_len) != h->crc || !all_zero(body + used, n - used)))
		r = -EBADMSG;
	if (r < 0)
		return fail(r, "%s damaged at %llu", s->path, (unsigned long long)at);
	buf_put(out, body + h->meta_len, h->payload_len);
	return 0;
}

int segment_payload(struct segment *s, uint64_t at, const struct record_header *h, struct buf *out, bool check)
{
	if (record_extent_bytes(h) <= SMALL_BYTES)
		return small_payload(s, at, h, out, check);

	_cleanup_buf_ struct buf meta = BUF_INIT;
	uint64_t body = at + RECORD_HEADER_BYTES;
	size_t start = out->len;
	uint8_t pad[8] = { 0 };
	uint64_t pads = record_extent_bytes(h) - RECORD_HEADER_BYTES - h->meta_len - h->payload_len;
	int r = io_pread_all(s->fd, buf_room(out, h->payload_len + 1), h->payload_len, body + h->meta_len);

	if (r == 0)
		out->len += h->payload_len;
	if (r == 0 && check) {
		r = io_pread_all(s->fd, buf_room(&meta, h->meta_len + 1), h->meta_len, body);
		if (r == 0 && pads)
			r = io_pread_all(s->fd, pad, pads, body + h->meta_len + h->payload_len);
		if (r == 0 && (record_crc(*h, meta.data, out->data + start) != h->crc || memcmp(pad, "\0\0\0\0\0\0\0", 8)))
			r = -EBADMSG;
	}
	if (r < 0)
		return fail(r, "%s damaged at %llu", s->path, (unsigned long long)at);
	return 0;
}

bool segment_sound(const struct segment *s, uint64_t at, const struct record_header *h)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	size_t n = record_extent_bytes(h) - RECORD_HEADER_BYTES, used = h->meta_len + h->payload_len;

	if (io_pread_all(s->fd, buf_room(&b, n + 1), n, at + RECORD_HEADER_BYTES) < 0)
		return false;
	return all_zero(b.data + used, n - used) && record_crc(*h, b.data, b.data + h->meta_len) == h->crc;
}

bool segment_cut_short(const struct segment *s, uint64_t at, const struct record_header *h)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	uint64_t from = at + RECORD_HEADER_BYTES;
	size_t n = (size_t)h->meta_len + h->payload_len;

	if (io_pread_all(s->fd, buf_room(&b, n + 1), n, from) < 0)
		return false;
	for (size_t k = 0; k < n;) {
		size_t part = SECTOR_BYTES - (from + k) % SECTOR_BYTES;

		if (part > n - k)
			part = n - k;
		if (all_zero(b.data + k, part))
			return true;
		k += part;
	}
	return false;
}

static bool record_stands(const struct segment *s, uint64_t at, uint64_t end)
{
	struct record_header h;

	return end - at >= sizeof h && io_pread_all(s->fd, &h, sizeof h, at) == 0 && segment_sane(s, &h, end - at) &&
	       segment_sound(s, at, &h);
}

uint64_t segment_resync(const struct segment *s, uint64_t at, uint64_t end)
{
	static const uint32_t magic = RECORD_MAGIC;
	_cleanup_free_ uint8_t *window = xmalloc(65536);

	for (at += 8; at + RECORD_HEADER_BYTES <= end;) {
		size_t n = end - at < 65536 ? (size_t)(end - at) & ~7ul : 65536;

		if (io_pread_all(s->fd, window, n, at) < 0)
			break;
		for (size_t i = 0; i < n; i += 8)
			if (memcmp(window + i, &magic, 4) == 0 && record_stands(s, at + i, end))
				return at + i;
		at += n;
	}
	return end;
}

/* ---- verifying ---- */

void segment_finding(struct segment_verify *v, bool torn, const struct segment *seg, uint64_t at, const char *what)
{
	*(torn ? &v->torn : &v->damaged) = true;
	if (v->found)
		v->found(v->arg, torn ? "torn" : "damaged", seg->path, at, what);
}

/* Behind the last whole record: nothing but what a killed writer can leave,
 * which is a body whose header was never begun. */
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
	return n < sizeof header || all_zero((const uint8_t *)header, RECORD_BEGIN_BYTES);
}

/* A batch that has no end is the last thing in its segment. */
struct open_batch {
	uint64_t at, records;
};

static void verify_batch(struct open_batch *b, const struct record_header *h, uint64_t at)
{
	if (!(h->flags & RECORD_MORE))
		*b = (struct open_batch){ 0 };
	else if (b->records++ == 0)
		b->at = at;
}

static void verify_end(struct segment_verify *v, const struct segment *seg, const struct open_batch *b, uint64_t at, bool growing)
{
	v->records -= b->records;
	if (growing)
		return;
	if (b->records)
		segment_finding(v, true, seg, b->at, "a batch of records that was never finished");
	else if (at)
		segment_finding(v, true, seg, at, "a record that was never finished");
}

void segment_verify(struct segment_verify *v, const struct segment *seg)
{
	_cleanup_buf_ struct buf meta = BUF_INIT;
	bool growing = segment_is_written(seg); /* asked first: its size may change until it ends */
	uint64_t at = SEGMENT_HEADER_BYTES, end = segment_file_bytes(seg);
	struct open_batch batch = { 0 };
	struct record_header h;
	int r;

	if (seg->damaged)
		segment_finding(v, false, seg, 0, "its header is damaged");
	while (at < end) {
		r = segment_read(seg, at, &h, &meta);
		if (r == 1 && segment_sound(seg, at, &h)) {
			v->records++;
			verify_batch(&batch, &h, at);
			at += record_extent_bytes(&h);
			continue;
		}
		uint64_t next = segment_resync(seg, at, end);

		if (next == end && (r == 1 ? at + record_extent_bytes(&h) == end && segment_cut_short(seg, at, &h) :
					     growing || tail_is_torn(seg, at, end))) {
			verify_end(v, seg, &batch, at, growing);
			return;
		}
		segment_finding(v, false, seg, at, r == 1 ? "checksum does not match" : "no record where one should be");
		at = next;
	}
	verify_end(v, seg, &batch, 0, growing);
}
