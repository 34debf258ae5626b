/* The store: what survives a torn tail, a flipped byte, a full or failing
 * disk, other writers, and the loss of the index. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/io.h"
#include "store/codec.h"
#include "store/segment.h"
#include "store/store.h"

void suite_store(void);

#define SESSION "00000000000000aa"

static struct store_options options(void)
{
	return (struct store_options){ .type = STORE_HYBRID, .persist = true, .compress = true, .compress_threshold_bytes = 1024,
				       .memory_bytes = 1 << 20, .create = true };
}

static struct store *open_with(const struct temp_folder *t, struct store_options o)
{
	struct store *s = NULL;

	if (store_open(t->path, &o, &s) < 0)
		abort();
	return s;
}

static struct store *open_store(const struct temp_folder *t) { return open_with(t, options()); }

static void begin(struct store *s, const char *id, const char *name)
{
	struct session_meta m = { .name = name, .command = "true", .profile = "default", .boot_id = "b", .note = "",
				  .started_ns = 1000, .exit_status = -1 };

	strcpy(m.id, id);
	CU_ASSERT_EQUAL(store_session_begin(s, &m), 0);
}

static int append(struct store *s, const char *session, uint64_t time_ns, const void *payload, size_t n, char ret_id[17])
{
	struct snapshot_meta m = { .type = SNAPSHOT_FULL, .origin = ORIGIN_MANUAL, .time_ns = time_ns, .description = "" };
	int r;

	store_new_id(m.id);
	strcpy(m.session_id, session);
	r = store_append(s, &m, payload, n, false);
	if (ret_id)
		strcpy(ret_id, m.id);
	return r;
}

/* Compressible, and different for each `what`. */
static void fill(uint8_t *p, size_t n, unsigned what)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i / 7 * what + what);
}

static bool holds(struct store *s, const char *id, const void *payload, size_t n)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct snapshot_meta m;

	return store_snapshot_find(s, id, &m, NULL) == 0 && store_load(s, &m, &b) == 0 && b.len == n &&
	       (n == 0 || memcmp(b.data, payload, n) == 0);
}

/* The i-th segment's path, by name; false past the last. */
static bool segment_path(const struct temp_folder *t, int i, char ret[300])
{
	char folder[100];
	struct dirent **names;
	int n, found = 0;

	snprintf(folder, sizeof folder, "%s/segments", t->path);
	n = scandir(folder, &names, NULL, alphasort);
	for (int k = 0; k < n; k++) {
		if (strstr(names[k]->d_name, ".seg") && found++ == i)
			snprintf(ret, 300, "%s/%.20s", folder, names[k]->d_name);
		free(names[k]);
	}
	free(names);
	return found > i;
}

static int segment_count(const struct temp_folder *t)
{
	char path[300];
	int n = 0;

	while (segment_path(t, n, path))
		n++;
	return n;
}

static size_t file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static size_t kinds_torn, kinds_damaged;
static void found(void *arg, const char *kind, const char *file, uint64_t offset, const char *what)
{
	(void)arg, (void)file, (void)offset, (void)what;
	*(strcmp(kind, "torn") == 0 ? &kinds_torn : &kinds_damaged) += 1;
}

static int verify(const struct temp_folder *t)
{
	struct store_options o = options();
	struct store *s;
	int r;

	o.read_only = true;
	kinds_torn = kinds_damaged = 0;
	s = open_with(t, o);
	r = store_verify_all(s, found, NULL, NULL);
	store_close(s);
	return r;
}

/* ---- damage ---- */

static void what_was_stored_comes_back(void)
{
	static const size_t sizes[] = { 0, 1, 7, 8, 1000, 1023, 1024, 100000, 3000000 };
	struct temp_folder t;
	uint8_t *p = malloc(3000000);

	temp_make(&t);
	for (int type = STORE_HYBRID; type <= STORE_MEMORY; type++) {
		struct store_options o = options();
		char ids[9][17];
		struct store *s;

		o.type = (enum store_type)type;
		s = open_with(&t, o);
		begin(s, SESSION, "demo");
		for (unsigned i = 0; i < 9; i++) {
			fill(p, sizes[i], i + 1);
			CU_ASSERT_EQUAL(append(s, SESSION, 2000 + i, p, sizes[i], ids[i]), 0);
		}
		for (int again = 0; again < 2; again++) {
			for (unsigned i = 0; i < 9; i++) {
				fill(p, sizes[i], i + 1);
				CU_ASSERT_TRUE(holds(s, ids[i], p, sizes[i]));
			}
			if (again == 0 && type != STORE_MEMORY) {
				store_close(s);
				s = open_with(&t, o);
			}
		}
		store_close(s);
	}
	CU_ASSERT_EQUAL(verify(&t), 0);
	free(p);
	temp_remove(&t);
}

static void a_torn_tail_keeps_earlier_snapshots(void)
{
	struct temp_folder t;
	uint8_t p[3000];
	char ids[3][17], path[300];
	size_t before, after;
	struct store *s;

	temp_make(&t);
	s = open_store(&t);
	begin(s, SESSION, "demo");
	fill(p, sizeof p, 3);
	append(s, SESSION, 2000, p, sizeof p, ids[0]);
	append(s, SESSION, 3000, p, sizeof p, ids[1]);
	segment_path(&t, 0, path);
	before = file_size(path);
	append(s, SESSION, 4000, p, sizeof p, ids[2]);
	store_close(s);
	after = file_size(path);
	for (size_t cut = after - 1; cut > before; cut--) {
		CU_ASSERT_EQUAL(truncate(path, (off_t)cut), 0);
		s = open_store(&t);
		CHECK_OR(store_snapshot_count(s, SESSION) == 2 && holds(s, ids[0], p, sizeof p) && holds(s, ids[1], p, sizeof p),
			 cut = before + 1);
		store_close(s);
		CHECK_OR(verify(&t) == 1 && kinds_torn == 1 && kinds_damaged == 0, cut = before + 1);
	}
	temp_remove(&t);
}

static void a_body_without_its_header_is_a_torn_tail(void)
{
	struct temp_folder t;
	uint8_t p[500];
	char id[17], path[300], nothing[RECORD_HEADER_BYTES] = { 0 };
	struct store *s;
	int fd;

	temp_make(&t);
	s = open_store(&t);
	begin(s, SESSION, "demo");
	fill(p, sizeof p, 3);
	append(s, SESSION, 2000, p, sizeof p, id);
	store_close(s);
	segment_path(&t, 0, path);
	fd = open(path, O_WRONLY | O_APPEND);
	CU_ASSERT_EQUAL(write(fd, nothing, sizeof nothing), (ssize_t)sizeof nothing);
	CU_ASSERT_EQUAL(write(fd, p, sizeof p), (ssize_t)sizeof p);
	close(fd);
	CU_ASSERT_EQUAL(verify(&t), 1);
	s = open_store(&t);
	CU_ASSERT_TRUE(holds(s, id, p, sizeof p));
	CU_ASSERT_EQUAL(append(s, SESSION, 5000, p, sizeof p, id), 0);
	store_close(s);
	CU_ASSERT_EQUAL(segment_count(&t), 2); /* never appended to */
	temp_remove(&t);
}

static void a_segment_whose_writer_was_killed_at_once_is_torn(void)
{
	struct temp_folder t;
	char path[300];
	struct store *s;

	temp_make(&t);
	s = open_store(&t);
	begin(s, SESSION, "demo");
	store_close(s);
	segment_path(&t, 0, path);
	CU_ASSERT_EQUAL(truncate(path, 0), 0);
	CU_ASSERT_EQUAL(verify(&t), 1);
	CU_ASSERT_EQUAL(truncate(path, 30), 0);
	CU_ASSERT_EQUAL(verify(&t), 1);
	temp_remove(&t);
}

static uint8_t *map_file(const char *path, size_t *ret_n)
{
	int fd = open(path, O_RDWR);
	uint8_t *p;

	*ret_n = file_size(path);
	p = mmap(NULL, *ret_n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED || *ret_n == 0)
		abort();
	return p;
}

/* A segment with one record of every type. */
static void small_store(const struct temp_folder *t)
{
	struct store *s = open_store(t);
	struct session_meta end = { .id = SESSION, .name = "", .command = "", .profile = "", .boot_id = "", .note = "", .ended_ns = 9 };
	struct gap_meta gap = { .session_id = SESSION, .from_ns = 1, .to_ns = 2, .lost = 3, .cause = "why" };
	uint8_t p[1500];
	char id[17];

	fill(p, sizeof p, 5);
	begin(s, SESSION, "demo");
	append(s, SESSION, 2000, p, sizeof p, id); /* compressed */
	append(s, SESSION, 3000, p, 45, NULL);
	store_note_gap(s, &gap);
	store_note_tags(s, id, (const char *const[]){ "t", NULL }, NULL);
	store_session_end(s, &end);
	store_close(s);
}

static void every_flipped_byte_is_found_by_verify(void)
{
	struct temp_folder t;
	char path[300];
	uint8_t *p;
	size_t n;

	temp_make(&t);
	small_store(&t);
	CU_ASSERT_EQUAL(verify(&t), 0);
	segment_path(&t, 0, path);
	p = map_file(path, &n);
	for (size_t i = 0; i < n; i++) {
		for (unsigned flip = 1; flip < 256; flip += 127) {
			p[i] ^= (uint8_t)flip;
			CHECK_OR(verify(&t) != 0, fprintf(stderr, "    byte %zu, bits %#x\n", i, flip));
			p[i] ^= (uint8_t)flip;
		}
	}
	munmap(p, n);
	CU_ASSERT_EQUAL(verify(&t), 0);
	temp_remove(&t);
}

static void a_flipped_payload_is_an_error_with_its_place(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct snapshot_meta m;
	struct temp_folder t;
	uint8_t data[500], *p;
	char path[300], id[17], other[17];
	struct store *s;
	size_t n;

	temp_make(&t);
	s = open_store(&t);
	fill(data, sizeof data, 9);
	append(s, SESSION, 2000, data, sizeof data, other);
	append(s, SESSION, 3000, data, sizeof data, id);
	store_close(s);
	segment_path(&t, 0, path);
	p = map_file(path, &n);
	p[n - 20] ^= 1;
	munmap(p, n);
	s = open_store(&t);
	CU_ASSERT_EQUAL(store_snapshot_find(s, id, &m, NULL), 0);
	CU_ASSERT_EQUAL(store_load(s, &m, &b), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), path));
	CU_ASSERT_TRUE(holds(s, other, data, sizeof data));
	store_close(s);
	temp_remove(&t);
}

static void use_all(const struct temp_folder *t)
{
	struct store_options o = options();
	struct snapshot_meta m;
	struct session_meta sm;
	struct gap_meta g;
	struct store_stats stats;
	struct store *s;
	size_t at;

	o.read_only = true;
	if (store_open(t->path, &o, &s) < 0)
		return;
	for (size_t i = 0; i < store_session_count(s) && store_session_at(s, i, &sm) == 0; i++)
		store_snapshot_floor(s, sm.id, 2500, &at);
	for (size_t i = 0; store_snapshot_at(s, NULL, i, &m) == 0; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT;

		store_load(s, &m, &b);
	}
	for (size_t i = 0; store_gap_at(s, i, &g) == 0; i++)
		;
	store_get_stats(s, &stats);
	store_verify_all(s, found, NULL, NULL);
	store_close(s);
}

static void random_bytes_as_a_segment_never_crash(void)
{
	struct temp_folder t;
	uint8_t *p, *sound;
	char path[300];
	uint64_t r = 31;
	size_t n;

	temp_make(&t);
	small_store(&t);
	segment_path(&t, 0, path);
	p = map_file(path, &n);
	sound = malloc(n);
	memcpy(sound, p, n);
	for (int i = 0; i < 4000; i++) {
		for (uint32_t k = 1 + random_below(&r, 6); k; k--) {
			uint32_t at = random_below(&r, (uint32_t)n);

			switch (random_below(&r, 4)) {
			case 0: memset(p + at, 0xff, n - at < 8 ? n - at : 8); break;
			case 1: memmove(p + at, p + random_below(&r, (uint32_t)n - 8), n - at < 8 ? n - at : 8); break;
			default: p[at] = (uint8_t)random_next(&r);
			}
		}
		if (i % 7 == 0)
			for (size_t k = SEGMENT_HEADER_BYTES; k < n; k++)
				p[k] = (uint8_t)random_next(&r);
		if (i % 3)
			memcpy(p, sound, SEGMENT_HEADER_BYTES);
		use_all(&t);
		memcpy(p, sound, n);
	}
	free(sound);
	munmap(p, n);
	CU_PASS("still here");
	temp_remove(&t);
}

static void a_foreign_file_is_an_error_not_a_crash(void)
{
	struct store_options o = options();
	struct temp_folder t;
	struct store_stats stats;
	struct store *s;
	char path[200], id[17];
	FILE *f;

	temp_make(&t);
	snprintf(path, sizeof path, "%s/file", t.path);
	f = fopen(path, "w");
	fputs("not a store", f);
	fclose(f);
	CU_ASSERT(store_open(path, &o, &s) < 0);
	s = open_store(&t);
	append(s, SESSION, 2000, "x", 1, id);
	store_close(s);
	snprintf(path, sizeof path, "%s/segments/0123456789abcdef.seg", t.path);
	f = fopen(path, "w");
	for (int i = 0; i < 200; i++)
		fputs("what somebody else wrote", f);
	fclose(f);
	s = open_store(&t);
	CU_ASSERT_TRUE(holds(s, id, "x", 1));
	store_refresh(s);
	store_refresh(s);
	store_get_stats(s, &stats);
	CU_ASSERT_EQUAL(stats.damaged_segments, 1);
	store_close(s);
	CU_ASSERT_EQUAL(verify(&t), -EBADMSG);
	temp_remove(&t);
}

/* ---- a failing disk ---- */

static struct io_ops failing;
static long room_bytes;
static int syncs, sync_errors;

static ssize_t pwrite_with_room(int fd, const void *p, size_t n, off_t at)
{
	if (room_bytes <= 0) {
		errno = ENOSPC;
		return -1;
	}
	if ((long)n > room_bytes)
		n = (size_t)room_bytes; /* a short count first, as a disk does */
	room_bytes -= (long)n;
	return pwrite(fd, p, n, at);
}

static int fdatasync_fails_once(int fd)
{
	syncs++;
	if (sync_errors > 0) {
		sync_errors--;
		errno = EIO;
		return -1;
	}
	return fdatasync(fd);
}

static int ftruncate_fails(int fd, off_t n)
{
	(void)fd, (void)n;
	errno = EIO;
	return -1;
}

static void a_full_disk_loses_nothing_acknowledged(void)
{
	struct temp_folder t;
	uint8_t p[400];
	char (*ids)[17] = calloc(2000, 17), id[17];
	size_t kept = 0;
	struct store *s;

	temp_make(&t);
	fill(p, sizeof p, 77);
	s = open_store(&t);
	begin(s, SESSION, "demo");
	failing = io_system;
	failing.pwrite = pwrite_with_room;
	io = &failing;
	for (long room = 0; room < 3000; room += 37) {
		int r;

		room_bytes = room;
		while ((r = append(s, SESSION, 2000 + kept, p, sizeof p, id)) == 0)
			memcpy(ids[kept++], id, 17);
		CHECK_OR(r == -ENOSPC && store_snapshot_count(s, SESSION) == kept, break);
	}
	io = &io_system;
	CU_ASSERT_EQUAL(append(s, SESSION, 900000, p, sizeof p, ids[kept++]), 0); /* space is back */
	CU_ASSERT_EQUAL(store_session_count(s), 1);
	store_close(s);
	s = open_store(&t);
	CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), kept);
	for (size_t i = 0; i < kept; i++)
		CHECK_OR(holds(s, ids[i], p, sizeof p), break);
	store_close(s);
	CU_ASSERT_EQUAL(verify(&t), 0);
	free(ids);
	temp_remove(&t);
}

static void a_disk_that_cannot_even_truncate_gets_another_segment(void)
{
	struct temp_folder t;
	uint8_t p[400];
	char one[17], two[17], id[17];
	struct store *s;

	temp_make(&t);
	fill(p, sizeof p, 77);
	s = open_store(&t);
	append(s, SESSION, 2000, p, sizeof p, one);
	failing = io_system;
	failing.pwrite = pwrite_with_room;
	failing.ftruncate = ftruncate_fails;
	io = &failing;
	room_bytes = 200;
	CU_ASSERT_EQUAL(append(s, SESSION, 3000, p, sizeof p, id), -ENOSPC);
	io = &io_system;
	CU_ASSERT_EQUAL(append(s, SESSION, 4000, p, sizeof p, two), 0);
	store_close(s);
	CU_ASSERT_EQUAL(segment_count(&t), 2);
	s = open_store(&t);
	CU_ASSERT_TRUE(holds(s, one, p, sizeof p) && holds(s, two, p, sizeof p));
	CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 2);
	store_close(s);
	CU_ASSERT_EQUAL(verify(&t), 1);
	temp_remove(&t);
}

static void a_failed_sync_is_never_retried_on_the_same_segment(void)
{
	struct snapshot_meta m = { .type = SNAPSHOT_FULL, .origin = ORIGIN_MANUAL, .time_ns = 3000, .description = "", .session_id = SESSION };
	struct temp_folder t;
	struct store *s;
	char id[17];

	temp_make(&t);
	s = open_store(&t);
	append(s, SESSION, 2000, "one", 3, id);
	failing = io_system;
	failing.fdatasync = fdatasync_fails_once;
	io = &failing;
	syncs = 0;
	sync_errors = 1;
	store_new_id(m.id);
	CU_ASSERT_EQUAL(store_append(s, &m, "two", 3, false), -EIO);
	CU_ASSERT_EQUAL(syncs, 1);
	CU_ASSERT_EQUAL(segment_count(&t), 1);
	CU_ASSERT_EQUAL(store_append(s, &m, "two", 3, false), 0); /* the same one again */
	CU_ASSERT_EQUAL(syncs, 2);
	CU_ASSERT_EQUAL(segment_count(&t), 2);
	io = &io_system;
	CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 2);
	store_close(s);
	s = open_store(&t);
	CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 2); /* and not seen twice */
	CU_ASSERT_TRUE(holds(s, id, "one", 3) && holds(s, m.id, "two", 3));
	store_close(s);
	temp_remove(&t);
}

/* ---- several writers ---- */

static void two_writers_and_a_reader_see_each_other(void)
{
	struct store_options o = options();
	struct temp_folder t;
	struct store *a, *b, *reader;
	char one[17], two[17], three[17] = "";
	int status, fds[2];
	pid_t pid;

	temp_make(&t);
	a = open_store(&t);
	b = open_store(&t);
	o.read_only = true;
	reader = open_with(&t, o);
	begin(a, SESSION, "demo");
	append(a, SESSION, 2000, "from a", 6, one);
	append(b, SESSION, 3000, "from b", 6, two);
	CU_ASSERT_EQUAL(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		struct store *c = open_store(&t);
		int r = append(c, SESSION, 4000, "from c", 6, three);

		r |= write(fds[1], three, 17) != 17;
		r |= store_snapshot_count(c, SESSION) != 3;
		store_close(c);
		_exit(r != 0);
	}
	waitpid(pid, &status, 0);
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_EQUAL(read(fds[0], three, 17), 17);
	close(fds[0]);
	close(fds[1]);
	for (int i = 0; i < 3; i++) {
		struct store *s = i == 0 ? a : i == 1 ? b : reader;

		store_refresh(s);
		CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 3);
		CU_ASSERT_TRUE(holds(s, one, "from a", 6) && holds(s, two, "from b", 6) && holds(s, three, "from c", 6));
	}
	CU_ASSERT_EQUAL(append(reader, SESSION, 5000, "x", 1, NULL), -EROFS);
	store_note_tags(b, one, (const char *const[]){ "seen", NULL }, NULL);
	store_refresh(reader);
	struct snapshot_meta m;

	CU_ASSERT_EQUAL(store_snapshot_find(reader, one, &m, NULL), 0);
	CU_ASSERT_EQUAL(m.ntags, 1);
	store_close(a);
	store_close(b);
	store_close(reader);
	CU_ASSERT_EQUAL(verify(&t), 0);
	temp_remove(&t);
}

/* The segments' names are random: none of this may depend on their order. */
static void edits_count_in_the_order_they_were_made(void)
{
	for (int round = 0; round < 10; round++) {
		struct temp_folder t;
		struct snapshot_meta m;
		struct session_meta sm, end = { .id = SESSION, .name = "", .command = "", .profile = "", .boot_id = "", .note = "salvaged",
						.ended_ns = 99 };
		struct store *a, *b;
		char id[17];

		temp_make(&t);
		a = open_store(&t);
		begin(a, SESSION, "demo");
		append(a, SESSION, 2000, "x", 1, id);
		b = open_store(&t);
		store_note_tags(b, id, (const char *const[]){ "late", NULL }, NULL);
		store_note_description(b, id, "first");
		store_note_tags(a, id, NULL, (const char *const[]){ "late", NULL });
		store_note_tags(a, id, (const char *const[]){ "stays", NULL }, NULL);
		store_note_description(a, id, "second");
		store_session_end(b, &end);
		store_close(a);
		store_close(b);
		a = open_store(&t);
		CU_ASSERT_EQUAL(store_snapshot_find(a, id, &m, NULL), 0);
		CHECK_OR(m.ntags == 1 && strcmp(m.tags[0], "stays") == 0, round = 100);
		CU_ASSERT_STRING_EQUAL(m.description, "second");
		CU_ASSERT_EQUAL(store_session_at(a, 0, &sm), 0);
		CU_ASSERT_STRING_EQUAL(sm.name, "demo");
		CHECK_OR(sm.ended_ns == 99, round = 100);
		store_close(a);
		temp_remove(&t);
	}
}

static void tags_and_deletions_survive_reopening(void)
{
	struct temp_folder t;
	struct snapshot_meta m;
	struct store *s;
	char one[17], two[17];

	temp_make(&t);
	s = open_store(&t);
	begin(s, SESSION, "demo");
	append(s, SESSION, 2000, "one", 3, one);
	append(s, SESSION, 3000, "two", 3, two);
	CU_ASSERT_EQUAL(store_note_tags(s, one, (const char *const[]){ "b", "a", "gone", NULL }, NULL), 0);
	CU_ASSERT_EQUAL(store_note_tags(s, one, (const char *const[]){ "a", NULL }, (const char *const[]){ "gone", NULL }), 0);
	CU_ASSERT_EQUAL(store_note_description(s, one, "what it is"), 0);
	CU_ASSERT_EQUAL(store_note_deleted(s, two), 0);
	CU_ASSERT_EQUAL(store_note_deleted(s, two), -ENOENT);
	for (int again = 0; again < 2; again++) {
		CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 1);
		CU_ASSERT_EQUAL(store_snapshot_find(s, two, &m, NULL), -ENOENT);
		CU_ASSERT_EQUAL(store_snapshot_find(s, one, &m, NULL), 0);
		CU_ASSERT_EQUAL_FATAL(m.ntags, 2);
		CU_ASSERT_STRING_EQUAL(m.tags[0], "a");
		CU_ASSERT_STRING_EQUAL(m.tags[1], "b");
		CU_ASSERT_STRING_EQUAL(m.description, "what it is");
		if (again == 0) {
			store_close(s);
			s = open_store(&t);
		}
	}
	store_close(s);
	temp_remove(&t);
}

static void edits_in_an_earlier_segment_find_their_snapshot(void)
{
	for (int round = 0; round < 10; round++) {
		struct temp_folder t;
		struct snapshot_meta m;
		struct store *early, *late;
		char id[17];

		temp_make(&t);
		early = open_store(&t);
		begin(early, SESSION, "demo"); /* its segment is begun first */
		late = open_store(&t);
		append(late, SESSION, 2000, "x", 1, id);
		store_refresh(early);
		CU_ASSERT_EQUAL(store_note_tags(early, id, (const char *const[]){ "t", NULL }, NULL), 0);
		store_close(early);
		store_close(late);
		late = open_store(&t);
		CU_ASSERT_EQUAL(store_snapshot_find(late, id, &m, NULL), 0);
		CHECK_OR(m.ntags == 1, round = 100);
		store_close(late);
		temp_remove(&t);
	}
}

static void snapshots_are_found_by_time_and_prefix(void)
{
	struct temp_folder t;
	struct snapshot_meta m;
	struct store *s;
	char ids[100][17], prefix[5];
	size_t at;

	temp_make(&t);
	s = open_store(&t);
	for (unsigned i = 0; i < 100; i++) /* not in the order of time */
		append(s, SESSION, 1000 + (i * 37 % 100) * 10, &i, sizeof i, ids[i]);
	CU_ASSERT_EQUAL(store_snapshot_floor(s, SESSION, 999, &at), -ENOENT);
	for (uint64_t time = 1000; time < 2100; time += 7) {
		CHECK_OR(store_snapshot_floor(s, SESSION, time, &at) == 0 && at == (time < 2000 ? (time - 1000) / 10 : 99), break);
		CHECK_OR(store_snapshot_at(s, SESSION, at, &m) == 0 && m.time_ns <= time, break);
	}
	for (unsigned i = 0; i < 100; i++)
		CHECK_OR(store_snapshot_find(s, ids[i], &m, &at) == 0 && m.time_ns == 1000 + (i * 37 % 100) * 10 &&
			 at == i * 37 % 100, break);
	snprintf(prefix, sizeof prefix, "%.4s", ids[0]);
	at = 0;
	for (unsigned i = 0; i < 100; i++)
		at += strncmp(ids[i], prefix, 4) == 0;
	CU_ASSERT_EQUAL(store_snapshot_find(s, prefix, &m, NULL), at == 1 ? 0 : -EMLINK);
	CU_ASSERT_EQUAL(store_snapshot_find(s, "zz", &m, NULL), -ENOENT);
	store_close(s);
	temp_remove(&t);
}

/* ---- the index ---- */

static void index_path(const struct temp_folder *t, char ret[300]) { snprintf(ret, 300, "%s/index/main.idx", t->path); }

static void many(const struct temp_folder *t, char ids[][17], unsigned n)
{
	struct store_options o = options();
	struct store *s;

	o.fsync = STORE_FSYNC_NEVER;
	s = open_with(t, o);
	begin(s, SESSION, "demo");
	for (unsigned i = 0; i < n; i++)
		append(s, SESSION, 2000 + i, &i, sizeof i, ids[i]);
	store_note_tags(s, ids[7], (const char *const[]){ "seven", NULL }, NULL);
	store_note_deleted(s, ids[8]);
	store_close(s);
}

static bool all_there(const struct temp_folder *t, char ids[][17], unsigned n)
{
	struct store *s = open_store(t);
	struct snapshot_meta m;
	bool good = store_snapshot_count(s, SESSION) == n - 1 && store_snapshot_find(s, ids[7], &m, NULL) == 0 && m.ntags == 1 &&
		    store_snapshot_find(s, ids[8], &m, NULL) == -ENOENT;

	for (unsigned i = 0; i < n && good; i++)
		good = i == 8 || holds(s, ids[i], &i, sizeof i);
	store_close(s);
	return good;
}

static void the_index_can_be_deleted(void)
{
	char (*ids)[17] = calloc(400, 17), path[300];
	struct temp_folder t;

	temp_make(&t);
	many(&t, ids, 400);
	index_path(&t, path);
	CU_ASSERT(file_size(path) > 0);
	CU_ASSERT_TRUE(all_there(&t, ids, 400));
	CU_ASSERT_EQUAL(unlink(path), 0);
	CU_ASSERT_TRUE(all_there(&t, ids, 400));
	CU_ASSERT_EQUAL(verify(&t), 0);
	free(ids);
	temp_remove(&t);
}

static void a_damaged_index_is_ignored(void)
{
	char (*ids)[17] = calloc(400, 17), path[300];
	struct temp_folder t;
	uint64_t r = 33;
	uint8_t *p;
	size_t n;

	temp_make(&t);
	many(&t, ids, 400);
	index_path(&t, path);
	CU_ASSERT(file_size(path) > 0);
	p = map_file(path, &n);
	for (int i = 0; i < 60; i++) {
		size_t at = i < 40 ? (size_t)i : random_below(&r, (uint32_t)n);

		p[at] ^= 0x41;
		CHECK_OR(all_there(&t, ids, 400), break);
		munmap(p, n);
		p = map_file(path, &n); /* it may have been written anew */
		p[at] ^= 0x41;
		munmap(p, n);
		unlink(path);
		p = NULL;
		CHECK_OR(all_there(&t, ids, 400), break);
		p = map_file(path, &n);
	}
	munmap(p, n);
	CU_ASSERT_EQUAL(truncate(path, (off_t)n / 2), 0);
	CU_ASSERT_TRUE(all_there(&t, ids, 400));
	free(ids);
	temp_remove(&t);
}

static void an_index_that_names_a_lost_segment_is_ignored(void)
{
	char (*ids)[17] = calloc(400, 17), path[300], id[17];
	struct temp_folder t;
	struct store *s;

	temp_make(&t);
	many(&t, ids, 400);
	segment_path(&t, 0, path);
	CU_ASSERT_EQUAL(unlink(path), 0);
	s = open_store(&t);
	CU_ASSERT_EQUAL(store_snapshot_count(s, NULL), 0);
	append(s, SESSION, 5, "x", 1, id);
	CU_ASSERT_TRUE(holds(s, id, "x", 1));
	store_close(s);
	free(ids);
	temp_remove(&t);
}

/* ---- formats and tiers ---- */

static void python_can_inflate_what_we_stored(void)
{
	_cleanup_buf_ struct buf packed = BUF_INIT;
	uint8_t p[50000];
	struct temp_folder t;
	char path[100], command[300];
	FILE *f;

	if (system("python3 -c 'import zlib' >/dev/null 2>&1") != 0) {
		fprintf(stderr, "\n    skipped: no python3 with zlib\n");
		CU_PASS("skipped");
		return;
	}
	fill(p, sizeof p, 3);
	CU_ASSERT_TRUE_FATAL(codec_compress(p, sizeof p, &packed));
	temp_make(&t);
	snprintf(path, sizeof path, "%s/packed", t.path);
	f = fopen(path, "w");
	fwrite(packed.data, 1, packed.len, f);
	fclose(f);
	snprintf(command, sizeof command, "python3 -c \"import zlib,sys; d=zlib.decompress(open('%s','rb').read()); "
		 "sys.exit(d != bytes((i//7*3+3)%%256 for i in range(50000)))\"", path);
	CU_ASSERT_EQUAL(system(command), 0);
	temp_remove(&t);
}

static void a_payload_that_says_it_is_larger_is_damage(void)
{
	_cleanup_buf_ struct buf packed = BUF_INIT, out = BUF_INIT;
	uint8_t p[5000];

	fill(p, sizeof p, 3);
	CU_ASSERT_TRUE_FATAL(codec_compress(p, sizeof p, &packed));
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, sizeof p, &out), 0);
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, sizeof p + 1, &out), -EBADMSG);
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, sizeof p - 1, &out), -EBADMSG);
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len, UINT64_MAX, &out), -EBADMSG);
	CU_ASSERT_EQUAL(codec_decompress(packed.data, packed.len - 1, sizeof p, &out), -EBADMSG);
	CU_ASSERT_EQUAL(out.len, sizeof p);
}

/* Bytes come while the rest is being decompressed; what was not all of it is said at the end. */
static void a_large_payload_comes_ahead_of_its_end(void)
{
	static const struct {
		int64_t more_raw, more_packed; /* than there is */
		uint64_t turned;               /* a byte of the stream, 0: none */
		int result;
	} cases[] = { { 0, 0, 0, 0 },         { 1, 0, 0, -EBADMSG },    { -1, 0, 0, -EBADMSG },    { 0, -1, 0, -EBADMSG },
		      { 0, -70000, 0, -EBADMSG }, { 0, 0, 5000, -EBADMSG }, { 0, 0, 200000, -EBADMSG } };
	_cleanup_buf_ struct buf raw = BUF_INIT, packed = BUF_INIT;
	uint64_t r = 5, n = 3 * CODEC_AHEAD_BYTES + 17;
	uint8_t *p = buf_room(&raw, n);

	for (uint64_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i % 4 ? i >> 7 : random_next(&r));
	CU_ASSERT_TRUE_FATAL(codec_compress(p, n, &packed) && packed.len > 300000);
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
		_cleanup_buf_ struct buf out = BUF_INIT;
		struct codec_ahead *a;
		uint64_t size = n + (uint64_t)cases[k].more_raw, got = 0;

		buf_put(&out, "before", 6);
		packed.data[cases[k].turned] ^= cases[k].turned ? 0x10 : 0;
		CU_ASSERT_EQUAL_FATAL(codec_ahead_begin(packed.data, packed.len + (uint64_t)cases[k].more_packed, size, &out, &a), 0);
		CU_ASSERT_PTR_NOT_NULL_FATAL(a);
		for (uint64_t want = 1; want <= size && (got = codec_ahead_wait(a, want)) >= want; want += 100000) {
			CU_ASSERT(got <= size);
			CU_ASSERT(cases[k].turned || memcmp(out.data + 6, p, got < n ? got : n) == 0);
		}
		CU_ASSERT_EQUAL(codec_ahead_end(a), cases[k].result);
		if (cases[k].result == 0)
			CU_ASSERT(out.len == 6 + n && memcmp(out.data, "before", 6) == 0 && memcmp(out.data + 6, p, n) == 0);
		packed.data[cases[k].turned] ^= cases[k].turned ? 0x10 : 0;
	}
	/* Short ones are there at once; a size that no stream can have is refused before there is room for it. */
	{
		_cleanup_buf_ struct buf small = BUF_INIT, out = BUF_INIT;
		struct codec_ahead *a;

		CU_ASSERT_TRUE_FATAL(codec_compress(p, 100000, &small));
		CU_ASSERT_EQUAL(codec_ahead_begin(small.data, small.len, 100000, &out, &a), 0);
		CU_ASSERT(a == NULL && out.len == 100000 && memcmp(out.data, p, 100000) == 0);
		CU_ASSERT_EQUAL(codec_ahead_end(a), 0);
		CU_ASSERT_EQUAL(codec_ahead_begin(packed.data, packed.len, UINT64_MAX, &out, &a), -EBADMSG);
		CU_ASSERT_PTR_NULL(a);
	}
}

static void memory_type_leaves_nothing_on_disk(void)
{
	struct store_options o = options();
	struct temp_folder t;
	struct store_stats stats;
	struct store *s;
	char path[100], id[17];
	uint8_t p[600];

	temp_make(&t);
	snprintf(path, sizeof path, "%s/store", t.path);
	for (int i = 0; i < 2; i++) {
		o.type = i ? STORE_HYBRID : STORE_MEMORY;
		o.persist = !i;
		CU_ASSERT_EQUAL_FATAL(store_open(path, &o, &s), 0);
		CU_ASSERT_PTR_NULL(store_path(s));
		begin(s, SESSION, "demo");
		fill(p, sizeof p, 8);
		CU_ASSERT_EQUAL(append(s, SESSION, 2000, p, sizeof p, id), 0);
		CU_ASSERT_TRUE(holds(s, id, p, sizeof p));
		CU_ASSERT_EQUAL(store_note_deleted(s, id), 0);
		store_get_stats(s, &stats);
		CU_ASSERT_EQUAL(stats.memory_bytes, 0); /* it is nowhere else: deleting lets go of it */
		store_close(s);
		CU_ASSERT_EQUAL(access(path, F_OK), -1);
	}
	temp_remove(&t);
}

static void hybrid_keeps_within_its_budget(void)
{
	struct store_options o = options();
	struct temp_folder t;
	struct store_stats stats;
	struct store *s;
	uint8_t p[1000];
	char ids[50][17];

	temp_make(&t);
	o.memory_bytes = 10000;
	o.compress = false;
	s = open_with(&t, o);
	for (unsigned i = 0; i < 50; i++) {
		fill(p, sizeof p, i + 1);
		append(s, SESSION, 2000 + i, p, sizeof p, ids[i]);
		store_get_stats(s, &stats);
		CHECK_OR(stats.memory_bytes <= 10000, break);
	}
	CU_ASSERT_EQUAL(stats.memory_items, 10);
	CU_ASSERT_EQUAL(stats.memory_evicted, 40);
	for (unsigned i = 0; i < 50; i++) { /* what was let go of is read again */
		fill(p, sizeof p, i + 1);
		CHECK_OR(holds(s, ids[i], p, sizeof p), break);
		store_get_stats(s, &stats);
		CHECK_OR(stats.memory_bytes <= 10000, break);
	}
	fill(p, sizeof p, 50);
	CU_ASSERT_TRUE(holds(s, ids[49], p, sizeof p));
	store_get_stats(s, &stats);
	CU_ASSERT(stats.memory_hits >= 1);
	store_close(s);
	temp_remove(&t);
}

static void disk_type_keeps_nothing_in_memory(void)
{
	struct store_options o = options();
	struct temp_folder t;
	struct store_stats stats;
	struct store *s;
	char id[17];

	temp_make(&t);
	o.type = STORE_DISK;
	s = open_with(&t, o);
	append(s, SESSION, 2000, "x", 1, id);
	CU_ASSERT_TRUE(holds(s, id, "x", 1));
	store_get_stats(s, &stats);
	CU_ASSERT_EQUAL(stats.memory_items, 0);
	store_close(s);
	temp_remove(&t);
}

void suite_store(void)
{
	CU_pSuite s = CU_add_suite("store", NULL, NULL);

	TEST(s, what_was_stored_comes_back);
	TEST(s, a_torn_tail_keeps_earlier_snapshots);
	TEST(s, a_body_without_its_header_is_a_torn_tail);
	TEST(s, a_segment_whose_writer_was_killed_at_once_is_torn);
	TEST(s, every_flipped_byte_is_found_by_verify);
	TEST(s, a_flipped_payload_is_an_error_with_its_place);
	TEST(s, random_bytes_as_a_segment_never_crash);
	TEST(s, a_foreign_file_is_an_error_not_a_crash);
	TEST(s, a_full_disk_loses_nothing_acknowledged);
	TEST(s, a_disk_that_cannot_even_truncate_gets_another_segment);
	TEST(s, a_failed_sync_is_never_retried_on_the_same_segment);
	TEST(s, two_writers_and_a_reader_see_each_other);
	TEST(s, edits_count_in_the_order_they_were_made);
	TEST(s, tags_and_deletions_survive_reopening);
	TEST(s, edits_in_an_earlier_segment_find_their_snapshot);
	TEST(s, snapshots_are_found_by_time_and_prefix);
	TEST(s, the_index_can_be_deleted);
	TEST(s, a_damaged_index_is_ignored);
	TEST(s, an_index_that_names_a_lost_segment_is_ignored);
	TEST(s, python_can_inflate_what_we_stored);
	TEST(s, a_payload_that_says_it_is_larger_is_damage);
	TEST(s, a_large_payload_comes_ahead_of_its_end);
	TEST(s, memory_type_leaves_nothing_on_disk);
	TEST(s, hybrid_keeps_within_its_budget);
	TEST(s, disk_type_keeps_nothing_in_memory);
}
