/* Deleting snapshots: what is kept reads as before.
 *
 * The payloads are words: an incremental one holds a letter for its change, a full
 * one every letter so far in brackets.  The state at a snapshot is what the last full
 * one at or before it holds and the letters behind. */
#include "unit.h"
#include "base/io.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "store/segment.h"
#include "store/store.h"

void suite_store_delete(void);

#define SESSION "00000000000000d1"

static struct temp_folder folder;
static bool handed_in;

static struct store *open_as(enum store_type type)
{
	struct store_options o = { .type = type, .persist = true, .memory_bytes = 1 << 20, .create = true, .fsync = STORE_FSYNC_NEVER };
	struct store *s = NULL;

	if (store_open(folder.path, &o, &s) < 0)
		abort();
	return s;
}

static void session(struct store *s, bool end)
{
	struct session_meta m = { .id = SESSION, .name = "d", .command = "", .profile = "", .boot_id = "", .note = "",
				  .started_ns = 1, .ended_ns = end ? 99999 : 0, .exit_status = -1 };

	CU_ASSERT_EQUAL(end ? store_session_end(s, &m) : store_session_begin(s, &m), 0);
}

static void id_of(unsigned i, char ret[17]) { snprintf(ret, 17, "%016x", i + 0x100); }
static char letter(unsigned i) { return (char)('a' + i % 26); }

/* `kinds`: F a full one, i an incremental one; each 10 ns behind the one before. */
static void record(struct store *s, const char *kinds)
{
	char state[200] = "";

	for (unsigned i = 0; kinds[i]; i++) {
		struct snapshot_meta m = { .session_id = SESSION, .origin = ORIGIN_AUTOMATIC, .time_ns = 100 + 10 * i,
					   .since_ns = 90 + 10 * i, .changes = i + 1, .handed_in = handed_in, .description = "said" };
		char payload[210];

		id_of(i, m.id);
		if (i)
			id_of(i - 1, m.base_id);
		state[i] = letter(i);
		m.type = kinds[i] == 'F' ? SNAPSHOT_FULL : SNAPSHOT_INCREMENTAL;
		if (kinds[i] == 'F')
			snprintf(payload, sizeof payload, "[%s]", state);
		else
			snprintf(payload, sizeof payload, "%c", letter(i));
		CU_ASSERT_EQUAL(store_append(s, &m, payload, strlen(payload), 0), 0);
	}
}

static bool state_at(struct store *s, size_t i, char ret[300])
{
	struct snapshot_meta m;
	size_t full, used = 0;

	if (store_snapshot_at(s, SESSION, i, &m) < 0 || store_full_floor(s, SESSION, m.time_ns, &full) < 0)
		return false;
	for (; full <= i; full++) {
		_cleanup_buf_ struct buf b = BUF_INIT;

		if (store_snapshot_at(s, SESSION, full, &m) < 0 || store_load(s, &m, &b) < 0)
			return false;
		for (size_t k = 0; k < b.len; k++) {
			if (b.data[k] == '[')
				used = 0;
			else if (b.data[k] != ']')
				ret[used++] = (char)b.data[k];
		}
	}
	ret[used] = 0;
	return true;
}

static struct store *asked;
static int asked_times;

static int make_full(void *arg, const struct snapshot_meta *m, struct buf *out)
{
	char state[300];
	size_t i;

	(void)arg;
	asked_times++;
	if (store_snapshot_floor(asked, SESSION, m->time_ns, &i) < 0 || !state_at(asked, i, state))
		return -EBADMSG;
	buf_printf(out, "[%s]", state);
	return 0;
}

static const struct store_folding folding = { make_full, NULL };

static int delete_some(struct store *s, const unsigned *which, size_t n, uint64_t *ret_deleted)
{
	const char *ids[100];
	char texts[100][17];

	for (size_t i = 0; i < n; i++) {
		id_of(which[i], texts[i]);
		ids[i] = texts[i];
	}
	asked = s;
	return store_delete(s, ids, n, &folding, ret_deleted);
}

/* Every kept one has all letters up to its own. */
static bool kept_read_as_before(struct store *s)
{
	struct snapshot_meta m;

	for (size_t i = 0; i < store_snapshot_count(s, SESSION); i++) {
		char state[300];
		size_t n;

		if (store_snapshot_at(s, SESSION, i, &m) < 0 || !state_at(s, i, state) || strcmp(m.description, "said"))
			return false;
		n = (m.time_ns - 100) / 10 + 1;
		if (strlen(state) != n || m.seq != n)
			return false;
		for (unsigned k = 0; k < n; k++)
			if (state[k] != letter(k))
				return false;
	}
	return true;
}

static bool holds(struct store *s, unsigned which, const char *payload)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct snapshot_meta m;
	char id[17];

	id_of(which, id);
	return store_snapshot_find(s, id, &m, NULL) == 0 && store_load(s, &m, &b) == 0 && b.len == strlen(payload) &&
	       memcmp(b.data, payload, b.len) == 0;
}

static struct store *fresh(enum store_type type, const char *kinds)
{
	struct store *s;

	temp_make(&folder);
	s = open_as(type);
	session(s, false);
	record(s, kinds);
	session(s, true);
	return s;
}

static void an_incremental_takes_over_those_before_it(void)
{
	for (int type = STORE_HYBRID; type <= STORE_MEMORY; type++) {
		struct store *s = fresh((enum store_type)type, "Fiiiii");
		struct snapshot_meta m;
		struct session_meta run;
		uint64_t n;

		asked_times = 0;
		CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 3, 2, 2 }, 3, &n), 0);
		CU_ASSERT_EQUAL(n, 2);
		for (int again = 0; again < (type == STORE_MEMORY ? 1 : 2); again++) {
			CU_ASSERT_EQUAL(store_snapshot_count(s, SESSION), 4);
			CU_ASSERT_TRUE(holds(s, 4, "cde") && kept_read_as_before(s));
			CU_ASSERT_EQUAL(store_snapshot_find(s, "0000000000000104", &m, NULL), 0);
			CU_ASSERT_TRUE(m.since_ns == 110 && strcmp(m.base_id, "0000000000000101") == 0 && m.changes == 3 + 4 + 5);
			CU_ASSERT_TRUE(store_session_find(s, "d", &run) == 0 && run.changes == 21 && run.snapshots == 4);
			CU_ASSERT_TRUE(store_gap_count(s) == 0 && asked_times == 0);
			if (type != STORE_MEMORY && again == 0) {
				store_close(s);
				s = open_as((enum store_type)type);
			}
		}
		store_close(s);
		temp_remove(&folder);
	}
}

static void what_stood_on_a_full_one_becomes_full(void)
{
	struct store *s = fresh(STORE_DISK, "FiFiiF");
	struct snapshot_meta m;
	struct gap_meta g;

	asked_times = 0;
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 2, 3 }, 2, NULL), 0);
	CU_ASSERT_TRUE(holds(s, 4, "[abcde]") && asked_times == 1 && kept_read_as_before(s));
	CU_ASSERT_EQUAL(store_snapshot_find(s, "0000000000000104", &m, NULL), 0);
	CU_ASSERT_TRUE(m.type == SNAPSHOT_FULL && m.base_id[0] != 0); /* so that it is no beginning */
	CU_ASSERT_EQUAL(store_gap_count(s), 1);
	CU_ASSERT_TRUE(store_gap_at(s, 0, &g) == 0 && g.from_ns == 110 && g.to_ns == 140 && g.lost == 0 && strcmp(g.cause, "deleted") == 0);
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 0, 1 }, 2, NULL), 0);
	CU_ASSERT_EQUAL(store_gap_count(s), 1); /* nothing is kept before that hole */
	CU_ASSERT_TRUE(kept_read_as_before(s) && store_snapshot_count(s, SESSION) == 2);
	store_close(s);
	temp_remove(&folder);
}

static void nothing_goes_when_one_cannot(void)
{
	struct snapshot_meta m;
	struct store *s;
	uint64_t n = 9;

	temp_make(&folder);
	s = open_as(STORE_DISK);
	session(s, false);
	record(s, "FiiFii");
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 2, 77 }, 2, &n), -ENOENT);
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 2, 5 }, 2, &n), -EBUSY);
	CU_ASSERT_EQUAL(store_delete(s, (const char *const[]){ "0000000000000100" }, 1, NULL, &n), -EINVAL);
	CU_ASSERT_TRUE(n == 0 && store_snapshot_count(s, SESSION) == 6 && kept_read_as_before(s));
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 2 }, 1, &n), 0); /* a full one behind it needs no help */
	CU_ASSERT_TRUE(n == 1 && store_snapshot_find(s, "0000000000000102", &m, NULL) == -ENOENT && kept_read_as_before(s));
	store_close(s);
	temp_remove(&folder);
}

static void whatever_goes_the_rest_reads_as_before(void)
{
	uint64_t seed = 11;

	for (int round = 0; round < 120; round++) {
		char kinds[24] = "F";
		struct store *s;

		handed_in = round % 2;
		for (unsigned i = 1; i < 20; i++)
			kinds[i] = random_below(&seed, 4) ? 'i' : 'F';
		s = fresh(round % 3 ? STORE_DISK : STORE_MEMORY, kinds);
		for (int turn = 0; turn < 4; turn++) {
			unsigned which[20];
			size_t n = 0, before = store_snapshot_count(s, SESSION);
			struct snapshot_meta m;

			for (size_t i = 0; i < before; i++)
				if (store_snapshot_at(s, SESSION, i, &m) == 0 && random_below(&seed, 3) == 0)
					which[n++] = (unsigned)((m.time_ns - 100) / 10);
			CHECK_OR(delete_some(s, which, n, NULL) == 0, round = 120);
			CHECK_OR(store_snapshot_count(s, SESSION) == before - n && kept_read_as_before(s), round = 120);
			if (round % 3) {
				store_close(s);
				s = open_as(STORE_DISK);
			}
			CHECK_OR(store_snapshot_count(s, SESSION) == before - n && kept_read_as_before(s), round = 120);
		}
		store_close(s);
		temp_remove(&folder);
	}
	handed_in = false;
}

static void segment_path(char ret[400])
{
	struct stat st;
	char path[100];
	struct dirent *e;
	off_t most = 0;
	DIR *d;

	snprintf(path, sizeof path, "%s/segments", folder.path);
	d = opendir(path);
	while ((e = readdir(d))) {
		char one[400];

		snprintf(one, sizeof one, "%s/%s", path, e->d_name);
		if (strstr(one, ".seg") && stat(one, &st) == 0 && st.st_size > most) {
			most = st.st_size;
			strcpy(ret, one);
		}
	}
	closedir(d);
}

static void a_deletion_cut_short_never_was(void)
{
	struct store *s = fresh(STORE_DISK, "FiFiiFii");
	struct stat before, after;
	char path[400];

	segment_path(path);
	stat(path, &before);
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 1, 2, 6 }, 3, NULL), 0);
	store_close(s);
	stat(path, &after);
	for (off_t cut = after.st_size; cut > before.st_size; cut -= 5) {
		CU_ASSERT_EQUAL(truncate(path, cut), 0);
		s = open_as(STORE_DISK);
		CHECK_OR(store_snapshot_count(s, SESSION) == (cut == after.st_size ? 5 : 8) && kept_read_as_before(s), cut = before.st_size);
		store_close(s);
	}
	temp_remove(&folder);
}

/* Damage that came after the segment was read: nothing behind it may be lost. */
static void a_segment_that_went_bad_is_not_compacted_away(void)
{
	struct store *s = fresh(STORE_DISK, "FiFiiFii");
	struct stat st;
	char path[400];
	uint64_t freed;

	segment_path(path);
	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 1 }, 1, NULL), 0);
	store_close(s);
	for (int what = 0; what < 2; what++) { /* a session's text, then a header's magic */
		FILE *f = fopen(path, "r+");

		s = open_as(STORE_DISK);
		fseek(f, what ? 64 : 64 + 128, SEEK_SET);
		fputc(0x7f, f);
		fclose(f);
		CU_ASSERT_TRUE(store_compact(s, 0, &freed) < 0 || freed == 0);
		CU_ASSERT_EQUAL(stat(path, &st), 0);
		CU_ASSERT_TRUE(kept_read_as_before(s));
		store_close(s);
	}
	temp_remove(&folder);
}

static struct io_ops racing;
static unsigned races;

/* Between the list of the segments and the first of them. */
static int open_after_compaction(const char *path, int flags, mode_t mode)
{
	if (races && strstr(path, ".seg")) {
		uint64_t freed = 0;
		struct store *other;

		io = &io_system;
		races--;
		other = open_as(STORE_DISK);
		CU_ASSERT_TRUE(store_compact(other, 0, &freed) == 0 && freed > 0);
		store_close(other);
		io = &racing;
	}
	return io_system.open(path, flags, mode);
}

static void a_reader_whose_segments_go_before_it_opens_them_finds_all(void)
{
	struct store *s = fresh(STORE_DISK, "FiFiiFii");
	char index[100];

	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 1, 2 }, 2, NULL), 0);
	store_close(s);
	snprintf(index, sizeof index, "%s/index/main.idx", folder.path);
	unlink(index);
	racing = io_system;
	racing.open = open_after_compaction;
	races = 1;
	io = &racing;
	s = open_as(STORE_DISK);
	io = &io_system;
	CU_ASSERT_TRUE(races == 0 && store_snapshot_count(s, SESSION) == 6 && kept_read_as_before(s));
	store_close(s);
	temp_remove(&folder);
}

/* Between a new segment's open and its lock. */
static int open_and_clear(const char *path, int flags, mode_t mode)
{
	int fd = io_system.open(path, flags, mode);

	if (races && strstr(path, ".new")) {
		char segments[100];

		races--;
		snprintf(segments, sizeof segments, "%s/segments", folder.path);
		segment_clear_aside(segments);
		CU_ASSERT_EQUAL(access(path, F_OK), -1);
	}
	return fd;
}

static void what_is_begun_aside_is_begun_again_when_it_is_cleared_away(void)
{
	struct store *s = fresh(STORE_DISK, "FiFiiFii");
	uint64_t freed = 0;

	CU_ASSERT_EQUAL(delete_some(s, (unsigned[]){ 1, 2 }, 2, NULL), 0);
	racing = io_system;
	racing.open = open_and_clear;
	races = 2;
	io = &racing;
	CU_ASSERT_TRUE(store_compact(s, 0, &freed) == 0 && freed > 0);
	io = &io_system;
	CU_ASSERT_TRUE(races == 0 && kept_read_as_before(s));
	store_close(s);
	temp_remove(&folder);
}

void suite_store_delete(void)
{
	CU_pSuite s = CU_add_suite("store_delete", NULL, NULL);

	TEST(s, an_incremental_takes_over_those_before_it);
	TEST(s, what_stood_on_a_full_one_becomes_full);
	TEST(s, nothing_goes_when_one_cannot);
	TEST(s, whatever_goes_the_rest_reads_as_before);
	TEST(s, a_deletion_cut_short_never_was);
	TEST(s, a_segment_that_went_bad_is_not_compacted_away);
	TEST(s, a_reader_whose_segments_go_before_it_opens_them_finds_all);
	TEST(s, what_is_begun_aside_is_begun_again_when_it_is_cleared_away);
}
