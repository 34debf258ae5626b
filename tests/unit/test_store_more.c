/* The store: what it promises about torn tails, damage, full disks, other
 * processes and its index.  Every test has a folder of its own and leaves
 * nothing behind; where a call must fail, the table of base/io.h fails it. */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/io.h"
#include "store/codec.h"
#include "store/segment.h"
#include "store/store.h"

void suite_store_more(void);

#define SESSION "00000000000000aa"
#define SECOND 1000000000u

static char dir[256];

/* ---- a folder, a store in it ---- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	(void)st, (void)flag, (void)f;
	return remove(path);
}

static void wipe(void) { nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void fresh(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof dir, "%s/snaptrail-store-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (mkdtemp(dir) == NULL)
		abort();
}

static struct store_options usual(void)
{
	return (struct store_options){ .type = STORE_HYBRID, .fsync = STORE_FSYNC_NEVER, .persist = true, .compress = true,
				       .compress_threshold_bytes = 512, .memory_bytes = 1 << 20, .create = true };
}

static struct store *opened_with(struct store_options o)
{
	struct store *s = NULL;
	int r = store_open(dir, &o, &s);

	if (r < 0) {
		fprintf(stderr, "store_open: %s: %s\n", err_text(r), err_detail());
		abort();
	}
	return s;
}

static struct store *opened(void) { return opened_with(usual()); }

static struct store *reader(void)
{
	struct store_options o = usual();

	o.create = false;
	o.read_only = true;
	o.type = STORE_DISK; /* so that every load comes from the segment */
	return opened_with(o);
}

static int begin(struct store *s, const char *name, const char *command, uint64_t at)
{
	struct session_meta m = { .name = name, .command = command, .profile = "default", .boot_id = "b", .note = "",
				  .started_ns = at, .exit_status = -1, .pid = 7 };

	strcpy(m.id, SESSION);
	return store_session_begin(s, &m);
}

static int end(struct store *s, uint64_t at, int status)
{
	struct session_meta m = { .name = "", .command = "", .profile = "", .boot_id = "", .note = "", .ended_ns = at,
				  .exit_status = status };

	strcpy(m.id, SESSION);
	return store_session_end(s, &m);
}

/* The n-th snapshot: id, time and payload all follow from n. */
static void payload_of(unsigned n, size_t len, struct buf *b)
{
	uint32_t x = n * 2654435761u + 1;

	buf_reset(b);
	for (size_t i = 0; i < len; i++) {
		x = x * 1664525u + 1013904223u;
		buf_byte(b, len < 512 || i % 4 ? (uint8_t)(x >> 24) : 'a');
	}
}

static struct snapshot_meta meta_of(unsigned n)
{
	struct snapshot_meta m = { .type = n % 8 ? SNAPSHOT_INCREMENTAL : SNAPSHOT_FULL, .origin = ORIGIN_AUTOMATIC,
				   .time_ns = (uint64_t)(n + 1) * SECOND, .since_ns = (uint64_t)n * SECOND, .changes = n,
				   .description = "" };

	snprintf(m.id, sizeof m.id, "%016llx", (unsigned long long)((n + 1) * 0x9e3779b97f4a7c15ull));
	strcpy(m.session_id, SESSION);
	return m;
}

static int add(struct store *s, unsigned n, size_t len)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct snapshot_meta m = meta_of(n);

	payload_of(n, len, &b);
	return store_append(s, &m, b.data, b.len, false);
}

static bool readable(struct store *s, unsigned n, size_t len)
{
	_cleanup_buf_ struct buf want = BUF_INIT, got = BUF_INIT;
	struct snapshot_meta m = meta_of(n), found;

	payload_of(n, len, &want);
	return store_snapshot_find(s, m.id, &found, NULL) == 0 && store_load(s, &found, &got) == 0 && got.len == want.len &&
	       (want.len == 0 || memcmp(got.data, want.data, want.len) == 0) && found.time_ns == m.time_ns;
}

static struct snapshot_meta found(struct store *s, unsigned n)
{
	struct snapshot_meta m = meta_of(n), ret = { .description = "?" };

	CU_ASSERT_EQUAL(store_snapshot_find(s, m.id, &ret, NULL), 0);
	return ret;
}

/* ---- its files ---- */

static size_t segments(char path[][512], size_t max)
{
	char folder[300];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	snprintf(folder, sizeof folder, "%s/segments", dir);
	d = opendir(folder);
	while (d && (e = readdir(d)))
		if (strstr(e->d_name, ".seg") && n++ < max && path)
			snprintf(path[n - 1], 512, "%s/%.200s", folder, e->d_name);
	if (d)
		closedir(d);
	return n;
}

static void slurp(const char *path, struct buf *b)
{
	int fd = open(path, O_RDONLY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		abort();
	buf_reset(b);
	if (io_pread_all(fd, buf_room(b, (size_t)st.st_size + 1), (size_t)st.st_size, 0) < 0)
		abort();
	b->len = (size_t)st.st_size;
	if (b->len == 0)
		abort();
	close(fd);
}

static void spill(const char *path, const void *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || io_pwrite_all(fd, p, n, 0) < 0)
		abort();
	close(fd);
}

static size_t record_at(const struct buf *b, unsigned k)
{
	size_t at = SEGMENT_HEADER_BYTES;

	while (k--) {
		struct record_header h;

		memcpy(&h, b->data + at, sizeof h);
		at += record_extent_bytes(&h);
	}
	return at;
}

struct findings { unsigned torn, damaged; uint64_t first; };

static void note(void *arg, const char *kind, const char *file, uint64_t at, const char *what)
{
	struct findings *f = arg;

	CU_ASSERT(file[0] && what[0]);
	if (f->torn + f->damaged == 0)
		f->first = at;
	*(strcmp(kind, "torn") ? &f->damaged : &f->torn) += 1;
}

static int verified(struct findings *f, uint64_t *ret_records)
{
	struct store *s = reader();
	uint64_t n = 0;
	int r;

	*f = (struct findings){ 0 };
	r = store_verify_all(s, note, f, &n);
	store_close(s);
	if (ret_records)
		*ret_records = n;
	return r;
}

/* ---- a file system that fails ---- */

static struct io_ops failing;
static size_t room_bytes;
static int sync_failures, folder_syncs, file_syncs;

static ssize_t small_disk(int fd, const void *p, size_t n, off_t at)
{
	if (room_bytes == 0) {
		errno = ENOSPC;
		return -1;
	}
	n = n < room_bytes ? n : room_bytes;
	room_bytes -= n;
	return pwrite(fd, p, n, at);
}

static int bad_fdatasync(int fd)
{
	file_syncs++;
	if (sync_failures > 0) {
		sync_failures--;
		errno = EIO;
		return -1;
	}
	return fdatasync(fd);
}

static int counted_fsync(int fd)
{
	struct stat st;

	folder_syncs += fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
	return fsync(fd);
}

static void fail_with(void)
{
	failing = io_system;
	failing.pwrite = small_disk;
	failing.fdatasync = bad_fdatasync;
	failing.fsync = counted_fsync;
	room_bytes = SIZE_MAX;
	sync_failures = folder_syncs = file_syncs = 0;
	io = &failing;
}

/* ---- the tests ---- */

static void the_checksum_is_crc32c(void)
{
	uint8_t b[512];
	uint32_t one = 0;

	for (size_t i = 0; i < sizeof b; i++)
		b[i] = (uint8_t)(i * 7);
	CU_ASSERT_EQUAL(crc32c(0, "123456789", 9), 0xe3069283u);
	for (size_t i = 0; i < sizeof b; i++)
		one = crc32c(one, b + i, 1);
	CU_ASSERT_EQUAL(one, crc32c(0, b, sizeof b));
}

static void a_stream_must_hold_what_its_record_says(void)
{
	_cleanup_buf_ struct buf raw = BUF_INIT, packed = BUF_INIT, out = BUF_INIT;

	payload_of(3, 9000, &raw);
	CU_ASSERT_TRUE_FATAL(codec_compress(raw.data, raw.len, &packed));
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, 9000, &out), 0);
	CU_ASSERT(out.len == 9000 && memcmp(out.data, raw.data, 9000) == 0);
	for (int k = 0; k < 4; k++) {
		static const uint64_t lies[] = { 8999, 9001, 0, 1ull << 60 };

		CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, lies[k], &out), -EBADMSG);
	}
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len - 1, 9000, &out), -EBADMSG);
	CU_ASSERT_EQUAL(codec_decompress(packed.data, 0, 9000, &out), -EBADMSG);
	CU_ASSERT_EQUAL(out.len, 9000);
}

static void what_was_stored_is_read_back(void)
{
	static const char *const tags[] = { "zeta", "alpha", NULL };
	struct snapshot_meta m = meta_of(1), got;
	struct session_meta ses;
	struct store *s;

	fresh();
	s = opened();
	CU_ASSERT_EQUAL(begin(s, "web", "nginx -g 'a b'", 5), 0);
	m.tags = tags;
	m.description = "by hand";
	m.lost = 3;
	m.expires_ns = 99;
	m.clock_step_ns = -4;
	CU_ASSERT_EQUAL(store_append(s, &m, "", 0, false), 0);
	CU_ASSERT_EQUAL(m.seq, 1);
	CU_ASSERT_EQUAL(add(s, 2, 100), 0);
	CU_ASSERT_EQUAL(add(s, 3, 200000), 0);
	store_close(s);
	s = reader();
	CU_ASSERT(readable(s, 2, 100) && readable(s, 3, 200000));
	got = found(s, 1);
	CU_ASSERT(got.ntags == 2 && strcmp(got.tags[0], "alpha") == 0 && strcmp(got.tags[1], "zeta") == 0 && !got.tags[2]);
	CU_ASSERT_STRING_EQUAL(got.description, "by hand");
	CU_ASSERT(got.lost == 3 && got.expires_ns == 99 && got.clock_step_ns == -4 && got.size_bytes == 0);
	got = found(s, 3);
	CU_ASSERT(got.compressed && got.size_bytes == 200000 && got.stored_bytes < 200000 && got.seq == 3);
	CU_ASSERT_EQUAL(store_session_find(s, "web", &ses), 0);
	CU_ASSERT_STRING_EQUAL(ses.command, "nginx -g 'a b'");
	CU_ASSERT(ses.snapshots == 3 && ses.changes == 6 && ses.last_time_ns == 4ull * SECOND);
	store_close(s);
	wipe();
}

static void files_are_for_their_owner_alone(void)
{
	char path[1][512];
	struct stat st;
	struct store *s;

	fresh();
	s = opened();
	CU_ASSERT_EQUAL(segments(NULL, 0), 0); /* begun with the first write */
	add(s, 1, 10);
	CU_ASSERT_EQUAL_FATAL(segments(path, 1), 1);
	CU_ASSERT(stat(path[0], &st) == 0 && (st.st_mode & 07777) == 0600);
	*strrchr(path[0], '/') = 0;
	CU_ASSERT(stat(path[0], &st) == 0 && (st.st_mode & 07777) == 0700);
	store_close(s);
	wipe();
}

static void a_torn_tail_keeps_earlier_snapshots(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct findings f;
	char path[2][512];
	struct store *s;
	size_t last;

	fresh();
	s = opened();
	for (unsigned n = 0; n < 3; n++)
		add(s, n, 300);
	store_close(s);
	segments(path, 1);
	slurp(path[0], &b);
	last = record_at(&b, 2);
	for (size_t n = last + 1; n < b.len; n += n + 9 < b.len ? 7 : 1) {
		spill(path[0], b.data, n);
		s = reader();
		CU_ASSERT(readable(s, 0, 300) && readable(s, 1, 300) && store_snapshot_count(s, NULL) == 2);
		store_close(s);
		CU_ASSERT_EQUAL(verified(&f, NULL), 1);
		CU_ASSERT(f.torn == 1 && f.damaged == 0 && f.first == last);
	}
	s = opened(); /* and a writer leaves the torn file alone */
	CU_ASSERT_EQUAL(add(s, 5, 300), 0);
	store_close(s);
	CU_ASSERT_EQUAL(segments(path, 2), 2);
	s = reader();
	CU_ASSERT(readable(s, 0, 300) && readable(s, 1, 300) && readable(s, 5, 300));
	store_close(s);
	wipe();
}

/* What a killed writer leaves: a body whose header was never written. */
static void a_body_without_its_header_is_a_torn_tail(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct findings f;
	char path[1][512];
	struct store *s;
	size_t last;

	fresh();
	s = opened();
	add(s, 0, 300);
	add(s, 1, 300);
	store_close(s);
	segments(path, 1);
	slurp(path[0], &b);
	last = record_at(&b, 1);
	memset(b.data + last, 0, RECORD_HEADER_BYTES);
	spill(path[0], b.data, b.len);
	CU_ASSERT_EQUAL(verified(&f, NULL), 1);
	CU_ASSERT(f.torn == 1 && f.first == last);
	wipe();
}

static void every_flipped_bit_is_found(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	char path[1][512];
	struct findings f;
	struct store *s;
	uint64_t records;
	size_t missed = 0, wrong = 0;

	fresh();
	s = opened();
	begin(s, "x", "true", 1);
	for (unsigned n = 0; n < 2; n++)
		add(s, n, 61);
	store_note_gap(s, &(struct gap_meta){ .session_id = SESSION, .from_ns = 1, .to_ns = 2, .lost = 3, .cause = "c" });
	store_close(s);
	CU_ASSERT_EQUAL(verified(&f, &records), 0);
	CU_ASSERT_EQUAL(records, 4);
	segments(path, 1);
	slurp(path[0], &b);
	for (size_t i = 0; i < b.len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			b.data[i] ^= (uint8_t)(1 << bit);
			spill(path[0], b.data, b.len);
			missed += verified(&f, NULL) == 0;
			b.data[i] ^= (uint8_t)(1 << bit);
		}
		b.data[i] ^= 0xff; /* and what is still read is right */
		spill(path[0], b.data, b.len);
		s = reader();
		for (unsigned n = 0; n < 2; n++) {
			struct snapshot_meta m = meta_of(n), got;
			_cleanup_buf_ struct buf p = BUF_INIT;

			if (store_snapshot_find(s, m.id, &got, NULL) == 0 && store_load(s, &got, &p) == 0)
				wrong += !readable(s, n, 61);
		}
		store_close(s);
		b.data[i] ^= 0xff;
	}
	CU_ASSERT_EQUAL(missed, 0);
	CU_ASSERT_EQUAL(wrong, 0);
	wipe();
}

/* A flipped length must not lead the scan past the records behind it. */
static void damage_in_the_middle_keeps_what_is_around_it(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	char path[1][512];
	struct findings f;
	struct store *s;
	size_t at;

	fresh();
	s = opened();
	for (unsigned n = 0; n < 6; n++)
		add(s, n, 400);
	store_close(s);
	segments(path, 1);
	slurp(path[0], &b);
	at = record_at(&b, 2);
	for (size_t i = 0; i < RECORD_HEADER_BYTES; i++) {
		for (int bit = 0; bit < 8; bit++) {
			size_t kept = 0;

			b.data[at + i] ^= (uint8_t)(1 << bit);
			spill(path[0], b.data, b.len);
			s = reader();
			for (unsigned n = 0; n < 6; n++)
				kept += n != 2 && readable(s, n, 400);
			store_close(s);
			CU_ASSERT_EQUAL(kept, 5);
			CU_ASSERT_EQUAL(verified(&f, NULL), -EBADMSG);
			CU_ASSERT_EQUAL(f.first, at);
			b.data[at + i] ^= (uint8_t)(1 << bit);
		}
	}
	wipe();
}

static void a_damaged_tag_is_not_believed(void)
{
	static const char *const tags[] = { "release-candidate", NULL };
	_cleanup_buf_ struct buf b = BUF_INIT;
	char path[1][512];
	struct store *s;
	uint8_t *p;

	fresh();
	s = opened();
	add(s, 0, 100);
	store_note_tags(s, meta_of(0).id, tags, NULL);
	store_close(s);
	segments(path, 1);
	slurp(path[0], &b);
	p = memmem(b.data, b.len, "release", 7);
	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	p[0] = 'R'; /* NOLINT(clang-analyzer-core.NullDereference): the assertion ends the test */
	spill(path[0], b.data, b.len);
	s = reader();
	CU_ASSERT_EQUAL(found(s, 0).ntags, 0);
	store_close(s);
	wipe();
}

static void a_full_disk_loses_nothing_acknowledged(void)
{
	struct findings f;
	unsigned refused = 0;

	for (size_t room = 0; room < 1600; room += 13) {
		struct store *s, *r;
		bool acked[4] = { false };

		fresh();
		fail_with();
		s = opened();
		room_bytes = room;
		for (unsigned n = 0; n < 4; n++) {
			int e = add(s, n, 200);

			CU_ASSERT(e == 0 || e == -ENOSPC);
			acked[n] = e == 0;
			refused += e != 0;
		}
		r = reader();
		for (unsigned n = 0; n < 4; n++) /* nothing half-visible, nothing lost */
			CU_ASSERT_EQUAL(readable(r, n, 200), acked[n]);
		store_close(r);
		room_bytes = SIZE_MAX; /* space returns, the calls are repeated */
		for (unsigned n = 0; n < 4; n++)
			CU_ASSERT(acked[n] || add(s, n, 200) == 0);
		store_close(s);
		io = &io_system;
		CU_ASSERT_EQUAL(verified(&f, NULL), 0);
		r = reader();
		for (unsigned n = 0; n < 4; n++)
			CU_ASSERT(readable(r, n, 200));
		CU_ASSERT_EQUAL(store_snapshot_count(r, NULL), 4);
		store_close(r);
		wipe();
	}
	CU_ASSERT(refused > 100);
}

static void a_failed_sync_is_never_tried_again_on_its_file(void)
{
	struct gap_meta g = { .session_id = SESSION, .from_ns = 1, .to_ns = 2, .lost = 3, .cause = "ring full" };
	struct store_options o = usual();
	struct session_meta m;
	struct store *s;

	fresh();
	fail_with();
	o.fsync = STORE_FSYNC_ALWAYS;
	s = opened_with(o);
	CU_ASSERT_EQUAL(begin(s, "x", "true", 1), 0);
	CU_ASSERT_EQUAL(add(s, 0, 100), 0);
	sync_failures = 1;
	CU_ASSERT_EQUAL(add(s, 1, 100), -EIO);
	CU_ASSERT_EQUAL(segments(NULL, 0), 1);
	CU_ASSERT_EQUAL(add(s, 1, 100), 0);
	CU_ASSERT_EQUAL(segments(NULL, 0), 2);
	sync_failures = 1;
	CU_ASSERT_EQUAL(store_note_gap(s, &g), -EIO);
	CU_ASSERT_EQUAL(store_note_gap(s, &g), 0);
	store_close(s);
	io = &io_system;
	s = reader();
	CU_ASSERT(readable(s, 0, 100) && readable(s, 1, 100) && store_snapshot_count(s, SESSION) == 2);
	CU_ASSERT(store_session_find(s, "x", &m) == 0 && m.lost == 3); /* written twice, lost once */
	CU_ASSERT_EQUAL(store_gap_count(s), 1);
	store_close(s);
	wipe();
}

/* Durable means that the file's name is durable too. */
static void the_folder_is_synced_before_a_snapshot_is_acknowledged(void)
{
	struct store_options o = usual();
	struct store *s;

	fresh();
	fail_with();
	o.fsync = STORE_FSYNC_SNAPSHOT;
	s = opened_with(o);
	begin(s, "x", "true", 1);
	folder_syncs = file_syncs = 0;
	CU_ASSERT_EQUAL(add(s, 0, 100), 0);
	CU_ASSERT(file_syncs >= 1 && folder_syncs >= 1);
	folder_syncs = 0;
	CU_ASSERT_EQUAL(add(s, 1, 100), 0);
	CU_ASSERT_EQUAL(folder_syncs, 0); /* once a segment is enough */
	store_close(s);
	io = &io_system;
	wipe();
}

static void two_writers_and_a_reader_see_each_other(void)
{
	struct store *a, *b, *r;
	struct findings f;
	size_t i;

	fresh();
	a = opened();
	b = opened();
	begin(a, "x", "true", 1);
	r = reader();
	for (unsigned n = 0; n < 20; n++)
		CU_ASSERT_EQUAL(add(n % 2 ? a : b, n, 100 + n * 100), 0);
	CU_ASSERT_EQUAL(store_snapshot_count(r, NULL), 0);
	store_refresh(a);
	store_refresh(b);
	store_refresh(r);
	for (unsigned n = 0; n < 20; n++)
		CU_ASSERT(readable(a, n, 100 + n * 100) && readable(b, n, 100 + n * 100) && readable(r, n, 100 + n * 100));
	for (i = 0; i < 20; i++) {
		struct snapshot_meta m;

		CU_ASSERT(store_snapshot_at(r, SESSION, i, &m) == 0 && m.time_ns == (i + 1) * SECOND);
	}
	CU_ASSERT_EQUAL(segments(NULL, 0), 2);
	CU_ASSERT_EQUAL(verified(&f, NULL), 0);
	store_close(a);
	store_close(b);
	store_close(r);
	wipe();
}

static void a_growing_tail_is_not_called_torn(void)
{
	char path[1][512];
	struct findings f;
	struct store *s;
	int fd;

	fresh();
	s = opened();
	add(s, 0, 100);
	segments(path, 1);
	fd = open(path[0], O_WRONLY | O_APPEND);
	CU_ASSERT_EQUAL(write(fd, "\0\0\0\0\0\0\0\0", 8), 8);
	close(fd);
	CU_ASSERT_EQUAL(verified(&f, NULL), 0);
	store_close(s);
	CU_ASSERT_EQUAL(verified(&f, NULL), 1); /* now nobody will finish it */
	wipe();
}

static void tags_and_deletions_survive_reopening(void)
{
	static const char *const one[] = { "keep", NULL }, *const two[] = { "also", NULL };
	struct store *s;

	fresh();
	s = opened();
	for (unsigned n = 0; n < 3; n++)
		add(s, n, 100);
	CU_ASSERT_EQUAL(store_note_tags(s, meta_of(0).id, one, NULL), 0);
	CU_ASSERT_EQUAL(store_note_tags(s, meta_of(0).id, two, one), 0);
	CU_ASSERT_EQUAL(store_note_description(s, meta_of(1).id, "before the fire"), 0);
	CU_ASSERT_EQUAL(store_note_deleted(s, meta_of(2).id), 0);
	CU_ASSERT_EQUAL(store_note_deleted(s, meta_of(2).id), -ENOENT);
	for (int k = 0; k < 2; k++) {
		struct snapshot_meta m = meta_of(2), got = found(s, 0);

		CU_ASSERT(got.ntags == 1 && strcmp(got.tags[0], "also") == 0);
		CU_ASSERT_STRING_EQUAL(found(s, 1).description, "before the fire");
		CU_ASSERT_EQUAL(store_snapshot_find(s, m.id, &got, NULL), -ENOENT);
		CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 2);
		store_close(s);
		s = reader();
	}
	store_close(s);
	wipe();
}

/* Segment names are random: order of files must not decide who was last. */
static void the_later_edit_wins_whoever_wrote_it(void)
{
	static const char *const tag[] = { "hot", NULL };
	size_t wrong = 0;

	for (int k = 0; k < 12; k++) {
		struct store *a, *b, *r;

		fresh();
		a = opened();
		add(a, 0, 50);
		b = opened();
		store_note_tags(a, meta_of(0).id, tag, NULL);
		store_note_description(a, meta_of(0).id, "first");
		store_note_tags(b, meta_of(0).id, NULL, tag);
		store_note_description(b, meta_of(0).id, "second");
		store_refresh(b);
		wrong += found(b, 0).ntags != 0 || strcmp(found(b, 0).description, "second") != 0;
		store_close(a);
		store_close(b);
		r = reader();
		wrong += found(r, 0).ntags != 0 || strcmp(found(r, 0).description, "second") != 0;
		store_close(r);
		wipe();
	}
	CU_ASSERT_EQUAL(wrong, 0);
}

static void the_latest_run_of_a_session_is_shown(void)
{
	size_t wrong = 0;

	for (int k = 0; k < 12; k++) {
		struct session_meta m;
		struct store *s;

		fresh();
		s = opened();
		begin(s, "x", "old", 10);
		end(s, 20, 1);
		store_close(s);
		s = opened();
		begin(s, "x", "new", 30);
		store_refresh(s);
		for (int live = 1; live >= 0; live--) {
			struct store *r = reader();

			CU_ASSERT_EQUAL(store_session_find(r, "x", &m), 0);
			wrong += strcmp(m.command, "new") != 0 || m.started_ns != 10;
			wrong += m.ended_ns != (live ? 0 : 40) || m.exit_status != (live ? -1 : 0);
			wrong += store_session_count(r) != 1;
			store_close(r);
			if (live)
				end(s, 40, 0);
		}
		store_close(s);
		wipe();
	}
	CU_ASSERT_EQUAL(wrong, 0);
}

static void snapshots_are_found_by_time_and_by_prefix(void)
{
	struct snapshot_meta m, got;
	struct store *s;
	size_t i = 99;

	fresh();
	s = opened();
	for (unsigned n = 10; n-- > 0;)
		add(s, n, 20);
	CU_ASSERT_EQUAL(store_snapshot_floor(s, SESSION, SECOND - 1, &i), -ENOENT);
	CU_ASSERT(store_snapshot_floor(s, SESSION, SECOND, &i) == 0 && i == 0);
	CU_ASSERT(store_snapshot_floor(s, SESSION, 5ull * SECOND + 1, &i) == 0 && i == 4);
	CU_ASSERT(store_snapshot_floor(s, SESSION, UINT64_MAX, &i) == 0 && i == 9);
	m = meta_of(4);
	m.id[6] = 0;
	CU_ASSERT(store_snapshot_find(s, m.id, &got, &i) == 0 && i == 4);
	CU_ASSERT_EQUAL(store_snapshot_find(s, "9e3", &got, &i), -ENOENT);
	m = meta_of(70);
	memcpy(m.id, meta_of(4).id, 8);
	CU_ASSERT_EQUAL(store_append(s, &m, "x", 1, false), 0);
	m.id[8] = 0;
	CU_ASSERT_EQUAL(store_snapshot_find(s, m.id, &got, &i), -EMLINK);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), meta_of(4).id));
	store_close(s);
	wipe();
}

static void snapshots_of_all_sessions_come_in_order_of_time(void)
{
	struct store *s;
	uint64_t last = 0;
	size_t k;

	fresh();
	s = opened();
	for (unsigned n = 0; n < 9; n++) {
		struct snapshot_meta m = meta_of(n);

		m.session_id[0] = (char)('0' + n % 3);
		CU_ASSERT_EQUAL(store_append(s, &m, "x", 1, false), 0);
	}
	CU_ASSERT_EQUAL(store_snapshot_count(s, NULL), 9);
	for (k = 0; k < 9; k++) {
		struct snapshot_meta m;

		CU_ASSERT(store_snapshot_at(s, NULL, k, &m) == 0 && m.time_ns > last);
		last = m.time_ns;
	}
	CU_ASSERT(store_snapshot_floor(s, NULL, 4ull * SECOND, &k) == 0 && k == 3);
	store_close(s);
	wipe();
}

/* ---- the index ---- */

static char *index_file(void)
{
	static char path[400];

	snprintf(path, sizeof path, "%s/index/main.idx", dir);
	return path;
}

static void fill(unsigned from, unsigned n)
{
	struct store *s = opened();

	begin(s, "x", "true", 1);
	for (unsigned i = from; i < from + n; i++)
		add(s, i, 40);
	store_note_deleted(s, meta_of(from + 1).id);
	store_close(s);
}

static bool all_there(unsigned n, unsigned deleted)
{
	struct store *s = reader();
	bool ok = store_snapshot_count(s, SESSION) == n - deleted;

	for (unsigned i = 0; ok && i < n; i += 50)
		ok = readable(s, i, 40);
	store_close(s);
	return ok;
}

static void index_can_be_deleted(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;

	fresh();
	fill(0, 600);
	CU_ASSERT_EQUAL_FATAL(access(index_file(), R_OK), 0);
	CU_ASSERT(all_there(600, 1));
	slurp(index_file(), &b);
	for (size_t i = 0; i < b.len; i += 1 + b.len / 60) { /* any wrong byte is as good as no index */
		b.data[i] ^= 0x10;
		spill(index_file(), b.data, b.len);
		CU_ASSERT(all_there(600, 1));
		b.data[i] ^= 0x10;
		spill(index_file(), b.data, i);
		CU_ASSERT(all_there(600, 1));
	}
	unlink(index_file());
	CU_ASSERT(all_there(600, 1));
	fill(600, 600);
	CU_ASSERT_EQUAL(access(index_file(), R_OK), 0);
	CU_ASSERT(all_there(1200, 2));
	wipe();
}

/* Sums that fit prove only that somebody computed them. */
static void an_index_that_lies_is_not_followed(void)
{
	_cleanup_buf_ struct buf good = BUF_INIT, b = BUF_INIT;
	uint32_t x = 1;

	fresh();
	fill(0, 400);
	CU_ASSERT_EQUAL_FATAL(access(index_file(), R_OK), 0);
	slurp(index_file(), &good);
	for (int k = 0; k < 400; k++) {
		struct store *s;
		struct snapshot_meta m;
		uint32_t crc;

		buf_reset(&b);
		buf_put(&b, good.data, good.len);
		for (int j = 0; j < 3; j++) {
			x = x * 1664525u + 1013904223u;
			b.data[40 + (k < 200 ? (x >> 8) % 400 : (x >> 4) % (b.len - 40))] = (uint8_t)(x >> 24);
		}
		crc = crc32c(0, b.data + 40, b.len - 40);
		memcpy(b.data + 12, &crc, 4);
		spill(index_file(), b.data, b.len);
		s = reader();
		for (size_t i = 0; store_snapshot_at(s, NULL, i, &m) == 0; i++) {
			_cleanup_buf_ struct buf p = BUF_INIT;

			store_load(s, &m, &p); /* the sum is checked: right or an error */
		}
		store_close(s);
	}
	CU_PASS("nothing was read that is not there");
	wipe();
}

static void a_torn_segment_does_not_switch_the_index_off(void)
{
	char path[1][512];
	struct stat st;

	fresh();
	fill(0, 3);
	segments(path, 1);
	CU_ASSERT_EQUAL(stat(path[0], &st), 0);
	CU_ASSERT_EQUAL(truncate(path[0], st.st_size + 40), 0);
	fill(3, 600);
	CU_ASSERT_EQUAL(access(index_file(), R_OK), 0);
	CU_ASSERT(all_there(603, 2));
	wipe();
}

/* ---- what is not ours ---- */

static void a_foreign_file_is_an_error_not_a_crash(void)
{
	static const char *const names[] = { "0123456789abcdef.seg", "short.seg", "README", "fedcba9876543210.seg" };
	char path[400], junk[4096];
	struct store_stats st;
	struct findings f;
	struct store *s;

	fresh();
	fill(0, 4);
	memset(junk, 'S', sizeof junk);
	for (size_t i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/segments/%s", dir, names[i]);
		spill(path, junk, sizeof junk);
	}
	CU_ASSERT(all_there(4, 1));
	CU_ASSERT_EQUAL(verified(&f, NULL), -EBADMSG);
	CU_ASSERT_EQUAL(f.damaged, 2); /* those that bear a segment's name */
	s = reader();
	store_refresh(s);
	store_get_stats(s, &st);
	CU_ASSERT_EQUAL(st.damaged_segments, 2); /* however often one looks */
	store_close(s);
	wipe();
	s = NULL;
	CU_ASSERT_EQUAL(store_open("/nonexistent/store", &(struct store_options){ .persist = true, .read_only = true }, &s), -ENOENT);
	CU_ASSERT_PTR_NULL(s);
}

static void random_bytes_are_survived(void)
{
	_cleanup_buf_ struct buf good = BUF_INIT, b = BUF_INIT;
	char path[1][512];
	uint32_t x = 7;

	fresh();
	fill(0, 12);
	segments(path, 1);
	slurp(path[0], &good);
	for (int k = 0; k < 1500; k++) {
		struct findings f;
		struct store *s;

		buf_reset(&b);
		buf_put(&b, good.data, good.len);
		for (int j = 0; j < 1 + k % 8; j++) {
			x = x * 1664525u + 1013904223u;
			b.data[64 + (x >> 8) % (b.len - 64)] = (uint8_t)(x >> 3);
		}
		spill(path[0], b.data, k % 3 ? b.len : 64 + (x >> 5) % (b.len - 64));
		verified(&f, NULL);
		s = reader();
		for (unsigned n = 0; n < 12; n++)
			readable(s, n, 40);
		store_close(s);
	}
	CU_PASS("survived");
	wipe();
}

static void a_newer_format_is_refused(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct store_options o = usual();
	struct store *s = NULL;
	char path[1][512];
	uint32_t version = 2, crc = 0;

	fresh();
	fill(0, 2);
	segments(path, 1);
	slurp(path[0], &b);
	memcpy(b.data + 8, &version, 4);
	memcpy(b.data + 12, &crc, 4);
	crc = crc32c(0, b.data, SEGMENT_HEADER_BYTES);
	memcpy(b.data + 12, &crc, 4);
	spill(path[0], b.data, b.len);
	CU_ASSERT_EQUAL(store_open(dir, &o, &s), -EPROTO);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), ".seg"));
	wipe();
}

/* Between its creation and its first bytes a segment is empty. */
static void a_segment_just_begun_is_not_damage(void)
{
	struct store_stats st;
	struct findings f;
	struct store *s;
	char path[400];
	int fd;

	fresh();
	fill(0, 2);
	snprintf(path, sizeof path, "%s/segments/00112233445566aa.seg", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CU_ASSERT_EQUAL(flock(fd, LOCK_EX), 0);
	s = reader();
	store_get_stats(s, &st);
	CU_ASSERT_EQUAL(st.damaged_segments, 0);
	CU_ASSERT_EQUAL(verified(&f, NULL), 0);
	close(fd);
	CU_ASSERT_EQUAL(verified(&f, NULL), 1); /* its writer died: torn, at 0 */
	CU_ASSERT(f.torn == 1 && f.first == 0);
	store_close(s);
	wipe();
}

static void many_segments_need_few_descriptors(void)
{
	struct rlimit before, few;
	struct store *s;
	struct findings f;

	fresh();
	for (unsigned n = 0; n < 80; n++) {
		s = opened();
		add(s, n, 30);
		store_close(s);
	}
	CU_ASSERT_EQUAL(segments(NULL, 0), 80);
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = 32;
	setrlimit(RLIMIT_NOFILE, &few);
	s = reader();
	for (unsigned n = 0; n < 80; n++)
		CU_ASSERT(readable(s, n, 30));
	CU_ASSERT_EQUAL(store_verify_all(s, note, &(struct findings){ 0 }, NULL), 0);
	store_close(s);
	CU_ASSERT_EQUAL(verified(&f, NULL), 0);
	setrlimit(RLIMIT_NOFILE, &before);
	wipe();
}

/* ---- memory ---- */

static void a_store_in_memory_leaves_nothing_behind(void)
{
	struct store_options o = usual();
	struct store_stats st;
	struct store *s;

	fresh();
	o.type = STORE_MEMORY;
	s = opened_with(o);
	CU_ASSERT_PTR_NULL(store_path(s));
	CU_ASSERT(add(s, 0, 100) == 0 && add(s, 1, 3000) == 0);
	CU_ASSERT(readable(s, 0, 100) && readable(s, 1, 3000));
	CU_ASSERT(store_refresh(s) == 0 && store_sync(s) == 0);
	CU_ASSERT_EQUAL(store_verify_all(s, note, NULL, NULL), 0);
	CU_ASSERT_EQUAL(store_note_deleted(s, meta_of(0).id), 0);
	store_get_stats(s, &st);
	CU_ASSERT(st.snapshots == 1 && st.memory_items == 1); /* what is deleted is given back */
	CU_ASSERT_EQUAL(segments(NULL, 0), 0);
	store_close(s);
	wipe();
}

static void a_store_in_memory_keeps_its_budget(void)
{
	static const char *const tag[] = { "mine", NULL };
	struct store_options o = usual();
	struct store_stats st;
	struct store *s;

	fresh();
	o.type = STORE_MEMORY;
	o.compress = false;
	o.memory_bytes = 20000;
	s = opened_with(o);
	for (unsigned n = 0; n < 8; n++)
		CU_ASSERT_EQUAL(add(s, n, 500), 0);
	CU_ASSERT_EQUAL(store_note_tags(s, meta_of(3).id, tag, NULL), 0);
	for (unsigned n = 8; n < 200; n++)
		CU_ASSERT_EQUAL(add(s, n, 500), 0);
	store_get_stats(s, &st);
	CU_ASSERT(st.memory_bytes <= 20000 && st.memory_evicted >= 160);
	CU_ASSERT(readable(s, 199, 500) && readable(s, 192, 500));
	CU_ASSERT(readable(s, 0, 500) && readable(s, 3, 500)); /* the tagged one and what it stands on */
	CU_ASSERT(!readable(s, 4, 500) && !readable(s, 8, 500));
	for (size_t i = 0; i < store_snapshot_count(s, SESSION); i++) { /* none stands on one that is gone */
		struct snapshot_meta m, first;

		CU_ASSERT_EQUAL(store_snapshot_at(s, SESSION, i, &m), 0);
		if (m.type == SNAPSHOT_INCREMENTAL) {
			CU_ASSERT_EQUAL_FATAL(store_snapshot_at(s, SESSION, i - 1, &first), 0);
			CU_ASSERT_EQUAL(first.time_ns, m.since_ns);
		}
	}
	store_close(s);
	wipe();
}

static void the_memory_tier_lets_go_of_what_the_disk_has(void)
{
	struct store_options o = usual();
	struct store_stats st;
	struct store *s;

	fresh();
	o.memory_bytes = 2000;
	o.compress = false;
	s = opened_with(o);
	for (unsigned n = 0; n < 20; n++)
		add(s, n, 300);
	store_get_stats(s, &st);
	CU_ASSERT(st.memory_bytes <= 2000 && st.memory_evicted == 14);
	for (unsigned n = 0; n < 20; n++)
		CU_ASSERT(readable(s, n, 300));
	store_close(s);
	wipe();
}

/* ---- promises to the caller ---- */

static void strings_live_until_the_next_refresh(void)
{
	static const char *const tag[] = { "first", NULL }, *const other[] = { "second", NULL };
	struct snapshot_meta m;
	struct session_meta ses;
	struct store *s;

	fresh();
	s = opened();
	begin(s, "x", "one", 1);
	add(s, 0, 10);
	store_note_tags(s, meta_of(0).id, tag, NULL);
	store_note_description(s, meta_of(0).id, "before");
	m = found(s, 0);
	CU_ASSERT_EQUAL(store_session_find(s, "x", &ses), 0);
	store_note_tags(s, meta_of(0).id, other, tag);
	store_note_description(s, meta_of(0).id, "after");
	begin(s, "x", "two", 2);
	CU_ASSERT(m.ntags == 1 && strcmp(m.tags[0], "first") == 0);
	CU_ASSERT_STRING_EQUAL(m.description, "before");
	CU_ASSERT_STRING_EQUAL(ses.command, "one");
	store_close(s);
	wipe();
}

static void *append_many(void *arg)
{
	for (unsigned n = 0; n < 600; n++) {
		if (n % 100 == 0) {
			struct session_meta m = { .name = "n", .command = "", .profile = "", .boot_id = "", .note = "", .started_ns = n };

			snprintf(m.id, sizeof m.id, "%016x", n + 1);
			store_session_begin(arg, &m);
			store_note_gap(arg, &(struct gap_meta){ .session_id = SESSION, .from_ns = n, .to_ns = n + 1, .lost = 1, .cause = "" });
		}
		add(arg, n, 60);
	}
	return NULL;
}

static void one_thread_may_append_while_others_read(void)
{
	struct store *s;
	pthread_t t;
	size_t n = 0, wrong = 0;

	fresh();
	s = opened();
	pthread_create(&t, NULL, append_many, s);
	while (n < 600) {
		struct session_meta ses;
		struct snapshot_meta m;
		struct gap_meta g;
		size_t before = n;

		n = store_snapshot_count(s, SESSION);
		wrong += n < before;
		for (size_t i = before; i < n; i++)
			wrong += store_snapshot_at(s, SESSION, i, &m) != 0 || !readable(s, (unsigned)i, 60);
		store_session_find(s, "n", &ses);
		for (size_t i = 0; store_session_at(s, i, &ses) == 0; i++)
			wrong += ses.name == NULL;
		for (size_t i = 0; store_gap_at(s, i, &g) == 0; i++)
			wrong += g.lost != 1;
	}
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT(store_session_count(s) == 7 && store_gap_count(s) == 6);
	store_close(s);
	wipe();
}

static void python_inflates_what_was_stored(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT, raw = BUF_INIT;
	char path[1][512], packed[400], plain[400], command[1200];
	struct record_header h;
	struct store *s;
	size_t at;

	if (system("python3 -c 'import zlib' 2>/dev/null") != 0) {
		CU_PASS("no python3 here");
		return;
	}
	fresh();
	s = opened();
	add(s, 9, 50000);
	store_close(s);
	segments(path, 1);
	slurp(path[0], &b);
	at = record_at(&b, 0);
	memcpy(&h, b.data + at, sizeof h);
	CU_ASSERT(h.flags == RECORD_COMPRESSED && h.raw_len == 50000);
	payload_of(9, 50000, &raw);
	snprintf(packed, sizeof packed, "%s/packed", dir);
	snprintf(plain, sizeof plain, "%s/plain", dir);
	spill(packed, b.data + at + RECORD_HEADER_BYTES + h.meta_len, h.payload_len);
	spill(plain, raw.data, raw.len);
	snprintf(command, sizeof command, "python3 -c \"import zlib,sys; "
		 "sys.exit(zlib.decompress(open('%s','rb').read()) != open('%s','rb').read())\"", packed, plain);
	CU_ASSERT_EQUAL(system(command), 0);
	wipe();
}

void suite_store_more(void)
{
	CU_pSuite suite = CU_add_suite("store_more", NULL, NULL);

#define TEST(name) CU_add_test(suite, #name, name)
	TEST(the_checksum_is_crc32c);
	TEST(a_stream_must_hold_what_its_record_says);
	TEST(what_was_stored_is_read_back);
	TEST(files_are_for_their_owner_alone);
	TEST(a_torn_tail_keeps_earlier_snapshots);
	TEST(a_body_without_its_header_is_a_torn_tail);
	TEST(every_flipped_bit_is_found);
	TEST(damage_in_the_middle_keeps_what_is_around_it);
	TEST(a_damaged_tag_is_not_believed);
	TEST(a_full_disk_loses_nothing_acknowledged);
	TEST(a_failed_sync_is_never_tried_again_on_its_file);
	TEST(the_folder_is_synced_before_a_snapshot_is_acknowledged);
	TEST(two_writers_and_a_reader_see_each_other);
	TEST(a_growing_tail_is_not_called_torn);
	TEST(tags_and_deletions_survive_reopening);
	TEST(the_later_edit_wins_whoever_wrote_it);
	TEST(the_latest_run_of_a_session_is_shown);
	TEST(snapshots_are_found_by_time_and_by_prefix);
	TEST(snapshots_of_all_sessions_come_in_order_of_time);
	TEST(index_can_be_deleted);
	TEST(an_index_that_lies_is_not_followed);
	TEST(a_torn_segment_does_not_switch_the_index_off);
	TEST(a_foreign_file_is_an_error_not_a_crash);
	TEST(random_bytes_are_survived);
	TEST(a_newer_format_is_refused);
	TEST(a_segment_just_begun_is_not_damage);
	TEST(many_segments_need_few_descriptors);
	TEST(a_store_in_memory_leaves_nothing_behind);
	TEST(a_store_in_memory_keeps_its_budget);
	TEST(the_memory_tier_lets_go_of_what_the_disk_has);
	TEST(strings_live_until_the_next_refresh);
	TEST(one_thread_may_append_while_others_read);
	TEST(python_inflates_what_was_stored);
#undef TEST
}
