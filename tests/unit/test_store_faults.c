/* Bytes that rot: every bit of a store turned, every length it could be cut to, its
 * blocks zeroed and swapped.  What was not touched is read as it was, what was touched
 * is read as it was or not at all, verify names the file and the record, and repair
 * makes a sound store of the rest.
 *
 * The default run turns one bit of one byte in eleven, each time other ones; TEST_ALL=1,
 * as in the soak, every bit; TEST_FEW=1, as under sanitizers, of one byte in 187. */
#include "unit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/dir.h"
#include "store/segment.h"
#include "store/store.h"

void suite_store_faults(void);

#define SESSION "00000000000000f1"
enum { MOST = 320, FILES = 4, BLOCK = 4096, ID = STORE_ID_LEN };

static struct temp_folder folder;
static unsigned nsnapshots, payload_bytes;

/* A record of a snapshot or an edit, where it stands. */
static struct record {
	char id[ID + 1];
	int file, type;
	uint64_t at, end;
} records[2 * MOST];
static unsigned nrecords;

static struct {
	char *path;
	int fd;
	size_t len;
	uint8_t *data;
} files[FILES];
static int nfiles;

/* Which bytes of which file are not as they were written. */
struct touched {
	int file;
	uint64_t from, to;
};

/* ---- what is there ---- */

static void id_of(unsigned i, char id[ID + 1])
{
	uint64_t r = i;

	snprintf(id, ID + 1, "%016llx", (unsigned long long)random_next(&r));
}

static bool is_tagged(unsigned i) { return i % 7 == 2; }
static bool is_deleted(unsigned i) { return i % 11 == 5; }

static size_t payload_of(unsigned i, uint8_t *room)
{
	uint64_t r = i * 77 + 1;
	size_t n = payload_bytes / 2 + i * 37 % payload_bytes;

	for (size_t k = 0; k < n; k++)
		room[k] = (uint8_t)(random_next(&r) | 1);
	return n;
}

static struct store *open_it(const char *path, bool read_only)
{
	struct store_options o = { .type = STORE_DISK, .persist = true, .memory_bytes = 1 << 16, .create = !read_only, .read_only = read_only,
				   .fsync = STORE_FSYNC_NEVER, .verify = STORE_VERIFY_READ };
	struct store *s = NULL;

	CU_ASSERT_FATAL(store_open(path, &o, &s) == 0);
	return s;
}

static void append(struct store *s, unsigned i)
{
	struct snapshot_meta m = { .session_id = SESSION, .type = SNAPSHOT_FULL, .origin = ORIGIN_IMPORT, .time_ns = 5000 + i,
				   .description = i % 3 ? "" : "third" };
	uint8_t room[8000];

	id_of(i, m.id);
	CU_ASSERT(store_append(s, &m, room, payload_of(i, room), 0) == 0);
}

static void edit(struct store *s, unsigned from, unsigned to)
{
	static const char *const tag[] = { "kept", NULL };
	char id[ID + 1];

	for (unsigned i = from; i < to; i++) {
		id_of(i, id);
		if (is_tagged(i))
			CU_ASSERT(store_note_tags(s, id, tag, NULL) == 0);
		if (is_deleted(i))
			CU_ASSERT(store_note_deleted(s, id) == 0);
	}
}

static void add_file(const char *path)
{
	struct stat st;

	if (nfiles == FILES)
		abort();
	files[nfiles].path = strdup(path);
	files[nfiles].fd = open(path, O_RDWR | O_CLOEXEC);
	if (files[nfiles].fd < 0 || fstat(files[nfiles].fd, &st) < 0 || st.st_size == 0)
		abort();
	files[nfiles].len = (size_t)st.st_size;
	files[nfiles].data = malloc(files[nfiles].len);
	CU_ASSERT(pread(files[nfiles].fd, files[nfiles].data, files[nfiles].len, 0) == st.st_size);
	nfiles++;
}

static void add_records(const char *segments, const char *name)
{
	struct buf meta = BUF_INIT;
	struct segment seg;
	struct record_header h;

	CU_ASSERT_FATAL(segment_open(&seg, segments, name) == 0 && nfiles < FILES);
	add_file(seg.path);
	for (uint64_t at = SEGMENT_HEADER_BYTES; segment_read(&seg, at, &h, &meta) == 1; at += record_extent_bytes(&h)) {
		struct record *r = &records[nrecords++];

		*r = (struct record){ .file = nfiles - 1, .type = h.type, .at = at, .end = at + record_extent_bytes(&h) };
		memcpy(r->id, h.id, ID);
	}
	buf_done(&meta);
	segment_close(&seg);
}

static void make_store(unsigned n, unsigned bytes)
{
	struct session_meta m = { .id = SESSION, .name = "rot", .command = "", .profile = "", .boot_id = "", .note = "", .exit_status = -1 };
	char path[100];
	struct store *s;
	struct dir d;

	nsnapshots = n;
	payload_bytes = bytes;
	temp_make(&folder);
	for (unsigned half = 0; half < 2; half++) {
		s = open_it(folder.path, false);
		CU_ASSERT(store_session_begin(s, &m) == 0);
		for (unsigned i = half * n / 2; i < (half + 1) * n / 2; i++)
			append(s, i);
		edit(s, half * n / 2, (half + 1) * n / 2);
		store_close(s);
	}
	snprintf(path, sizeof path, "%s/segments", folder.path);
	dir_open(&d, path);
	for (const char *name; (name = dir_next(&d));)
		if (strstr(name, ".seg"))
			add_records(path, name);
	dir_close(&d);
}

static void unmake_store(void)
{
	for (; nfiles; nfiles--) {
		close(files[nfiles - 1].fd);
		free(files[nfiles - 1].path);
		free(files[nfiles - 1].data);
	}
	nrecords = 0;
	temp_remove(&folder);
}

/* ---- what is found ---- */

static bool touches(const struct touched *t, size_t n, const char *id, int type)
{
	for (unsigned k = 0; k < nrecords; k++)
		for (size_t i = 0; i < n; i++)
			if (records[k].type == type && strcmp(records[k].id, id) == 0 && t[i].file == records[k].file && t[i].from < records[k].end &&
			    t[i].to > records[k].at)
				return true;
	return false;
}

/* NULL: as it should be with these bytes touched. */
static const char *wrong_with(struct store *s, unsigned i, const struct touched *t, size_t n)
{
	struct buf got = BUF_INIT;
	struct snapshot_meta m;
	uint8_t want[8000];
	char id[ID + 1];
	size_t len = payload_of(i, want);
	const char *wrong = NULL;
	bool itself, edits, found;

	id_of(i, id);
	itself = touches(t, n, id, RECORD_SNAPSHOT);
	edits = touches(t, n, id, RECORD_EDIT);
	found = store_snapshot_find(s, id, &m, NULL) == 0;
	if (is_deleted(i)) {
		if (found && !edits)
			wrong = "a deleted snapshot is back";
		return wrong;
	}
	if (!found)
		return itself ? NULL : "a snapshot that was not touched is gone";
	if (store_load(s, &m, &got) < 0)
		wrong = itself ? NULL : "a snapshot that was not touched cannot be read";
	else if (got.len != len || memcmp(got.data, want, len))
		wrong = "a wrong payload was read";
	else if (!itself && (m.time_ns != 5000 + i || strcmp(m.description, i % 3 ? "" : "third") || strcmp(m.session_id, SESSION)))
		wrong = "what is said of a snapshot that was not touched is wrong";
	else if (!itself && !edits && (m.ntags == 1) != is_tagged(i))
		wrong = "a tag is gone or come";
	buf_done(&got);
	return wrong;
}

static const char *all_of_it(const char *path, const struct touched *t, size_t n)
{
	struct store *s = open_it(path, true);
	const char *wrong = NULL;

	for (unsigned i = 0; i < nsnapshots && !wrong; i++)
		wrong = wrong_with(s, i, t, n);
	store_close(s);
	return wrong;
}

/* ---- what verify and repair make of it ---- */

struct findings {
	const struct touched *t;
	size_t n;
	unsigned all, there; /* how many, and how many in a record that was touched */
};

static uint64_t begin_of_record(int file, uint64_t at)
{
	for (unsigned k = 0; k < nrecords; k++)
		if (records[k].file == file && at >= records[k].at && at < records[k].end)
			return records[k].at;
	return 0;
}

static void found(void *arg, const char *kind, const char *file, uint64_t offset, const char *what)
{
	struct findings *f = arg;

	(void)kind, (void)what;
	f->all++;
	for (size_t i = 0; i < f->n; i++)
		f->there += strcmp(file, files[f->t[i].file].path) == 0 && offset < f->t[i].to &&
			    offset >= begin_of_record(f->t[i].file, f->t[i].from);
}

static const char *named(const struct touched *t, size_t n)
{
	struct findings f = { .t = t, .n = n };
	struct store *s = open_it(folder.path, true);
	int r = store_verify_all(s, found, &f, NULL);

	store_close(s);
	if (r == 0 || f.all == 0)
		return "verify found nothing";
	return f.there == 0 ? "verify named another place" : NULL;
}

static const char *repaired(const struct touched *t, size_t n)
{
	struct temp_folder beside;
	char into[80];
	struct store *s = open_it(folder.path, true), *copy;
	const char *wrong = NULL;
	uint64_t copied, lost;

	temp_make(&beside);
	snprintf(into, sizeof into, "%s/r", beside.path);
	if (store_repair(s, into, NULL, NULL, &copied, &lost) < 0)
		wrong = "repair failed";
	store_close(s);
	if (!wrong) {
		copy = open_it(into, true);
		if (store_verify_all(copy, NULL, NULL, NULL) != 0)
			wrong = "the repaired store is not sound";
		store_close(copy);
	}
	if (!wrong)
		wrong = all_of_it(into, t, n);
	temp_remove(&beside);
	return wrong;
}

/* Looks at a store with these bytes touched; now and then repairs it as well. */
static bool stands(const struct touched *t, size_t n, bool repair)
{
	const char *wrong = all_of_it(folder.path, t, n);

	if (!wrong)
		wrong = named(t, n);
	if (!wrong && repair)
		wrong = repaired(t, n);
	if (wrong)
		for (size_t i = 0; i < n; i++)
			fprintf(stderr, "\n    %s %llu-%llu touched: %s\n", files[t[i].file].path, (unsigned long long)t[i].from,
				(unsigned long long)t[i].to, wrong);
	return !wrong;
}

static void put(int f, uint64_t at, const void *p, size_t n) { CU_ASSERT_FATAL(pwrite(files[f].fd, p, n, (off_t)at) == (ssize_t)n); }

/* ---- the faults ---- */

static unsigned sparse(unsigned step) { return getenv("TEST_FEW") ? step * 17 : step; }

static bool turn_bits_of(int f, unsigned step)
{
	const char *all = getenv("TEST_ALL");

	for (uint64_t at = (unsigned)getpid() % step; at < files[f].len; at += step) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct touched t = { f, at, at + 1 };
			uint8_t turned = files[f].data[at] ^ (uint8_t)(1u << bit);
			bool good;

			if (!(all && *all) && bit != at * 5 % 8)
				continue;
			put(f, at, &turned, 1);
			good = stands(&t, 1, (at * 8 + bit) % 1009 == 0);
			put(f, at, &files[f].data[at], 1);
			if (!good)
				return false;
		}
	}
	return true;
}

static void a_turned_bit_is_never_believed(void)
{
	const char *all = getenv("TEST_ALL");
	size_t bytes = 0;

	make_store(32, 2900);
	CU_ASSERT(nfiles == 2);
	for (int f = 0; f < nfiles; f++) {
		bytes += files[f].len;
		CHECK_OR(turn_bits_of(f, all && *all ? 1 : sparse(11)), break);
	}
	CU_ASSERT(bytes > 65536);
	CU_ASSERT(all_of_it(folder.path, NULL, 0) == NULL);
	unmake_store();
}

static void a_turned_bit_of_the_index_is_never_believed(void)
{
	const char *all = getenv("TEST_ALL");
	char index[100];

	make_store(300, 60);
	snprintf(index, sizeof index, "%s/index/main.idx", folder.path);
	add_file(index);
	CU_ASSERT(files[nfiles - 1].len > 30000);
	CU_ASSERT(turn_bits_of(nfiles - 1, all && *all ? 1 : sparse(61)));
	unmake_store();
}

static void a_store_cut_short_anywhere_keeps_what_lies_before(void)
{
	const char *all = getenv("TEST_ALL");

	make_store(28, 2400);
	for (int f = 0; f < nfiles; f++) {
		for (uint64_t len = 0; len < files[f].len; len += all && *all ? 1 : sparse(23)) {
			struct touched t = { f, len, files[f].len };
			bool boundary = begin_of_record(f, len) == len && len > SEGMENT_HEADER_BYTES, good;

			CU_ASSERT_FATAL(ftruncate(files[f].fd, (off_t)len) == 0);
			good = boundary || len == SEGMENT_HEADER_BYTES ? all_of_it(folder.path, &t, 1) == NULL : stands(&t, 1, len % 1009 == 0);
			put(f, len, files[f].data + len, files[f].len - len);
			CHECK_OR(good, break);
		}
	}
	CU_ASSERT(all_of_it(folder.path, NULL, 0) == NULL);
	unmake_store();
}

static size_t block_len(int f, size_t b) { return files[f].len - b * BLOCK < BLOCK ? files[f].len - b * BLOCK : BLOCK; }

static void zeroed_blocks_take_only_what_was_in_them(void)
{
	static const uint8_t zero[BLOCK];

	make_store(28, 2400);
	for (int f = 0; f < nfiles; f++) {
		for (size_t step = 512; step <= BLOCK; step *= 8) {
			for (uint64_t at = 0; at < files[f].len; at += step) {
				size_t n = files[f].len - at < step ? files[f].len - at : step;
				struct touched t = { f, at, at + n };

				put(f, at, zero, n);
				CHECK_OR(stands(&t, 1, true), step = BLOCK);
				put(f, at, files[f].data + at, n);
			}
		}
	}
	unmake_store();
}

static void swapped_blocks_take_only_what_was_in_them(void)
{
	make_store(28, 2400);
	for (int f = 0; f < nfiles; f++) {
		size_t blocks = files[f].len / BLOCK;

		for (size_t a = 0; a < blocks; a++) {
			for (size_t b = a + 1; b < blocks; b++) {
				struct touched t[2] = { { f, a * BLOCK, a * BLOCK + block_len(f, a) }, { f, b * BLOCK, b * BLOCK + block_len(f, b) } };

				put(f, a * BLOCK, files[f].data + b * BLOCK, BLOCK);
				put(f, b * BLOCK, files[f].data + a * BLOCK, BLOCK);
				CHECK_OR(stands(t, 2, b == a + 1), a = b = blocks);
				put(f, 0, files[f].data, files[f].len);
			}
		}
	}
	unmake_store();
}

/* Each file in turn is nothing at all, or of somebody else's bytes. */
static void what_is_no_segment_any_more_takes_nothing_with_it(void)
{
	uint64_t r = 3;

	make_store(12, 800);
	for (int f = 0; f < nfiles; f++) {
		struct touched t = { f, 0, files[f].len };
		uint8_t *other = malloc(files[f].len);

		for (int kind = 0; kind < 2; kind++) {
			for (size_t i = 0; i < files[f].len; i++)
				other[i] = kind ? (uint8_t)random_next(&r) : 0;
			put(f, 0, other, files[f].len);
			CU_ASSERT_TRUE(stands(&t, 1, true));
		}
		put(f, 0, files[f].data, files[f].len);
		free(other);
	}
	unmake_store();
}

void suite_store_faults(void)
{
	CU_pSuite s = CU_add_suite("store_faults", NULL, NULL);

	TEST(s, a_turned_bit_is_never_believed);
	TEST(s, a_turned_bit_of_the_index_is_never_believed);
	TEST(s, a_store_cut_short_anywhere_keeps_what_lies_before);
	TEST(s, zeroed_blocks_take_only_what_was_in_them);
	TEST(s, swapped_blocks_take_only_what_was_in_them);
	TEST(s, what_is_no_segment_any_more_takes_nothing_with_it);
}
