/* Batches of records: together or not at all, whoever looks and whenever the
 * writer dies. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "store/store.h"

void suite_store_batch(void);

#define SESSION "00000000000000b1"

static struct temp_folder folder;

static struct store *open_as(enum store_type type)
{
	struct store_options o = { .type = type, .persist = true, .memory_bytes = 1 << 20, .create = true };
	struct store *s = NULL;

	if (store_open(folder.path, &o, &s) < 0)
		abort();
	return s;
}

static void begin(struct store *s)
{
	struct session_meta m = { .id = SESSION, .name = "b", .command = "", .profile = "", .boot_id = "", .note = "",
				  .started_ns = 1, .exit_status = -1 };

	CU_ASSERT_EQUAL(store_session_begin(s, &m), 0);
}

static int append(struct store *s, uint64_t time_ns)
{
	struct snapshot_meta m = { .session_id = SESSION, .type = SNAPSHOT_FULL, .origin = ORIGIN_IMPORT, .time_ns = time_ns };
	uint8_t payload[500];

	store_new_id(m.id);
	memset(payload, (int)time_ns, sizeof payload);
	return store_append(s, &m, payload, sizeof payload, 0);
}

static size_t count(struct store *s) { return store_snapshot_count(s, SESSION); }

/* What somebody sees who comes now. */
static size_t count_afresh(void)
{
	struct store *s = open_as(STORE_DISK);
	size_t n = count(s);

	store_close(s);
	return n;
}

static bool all_load(struct store *s)
{
	struct snapshot_meta m;

	for (size_t i = 0; i < count(s); i++) {
		_cleanup_buf_ struct buf b = BUF_INIT;

		if (store_snapshot_at(s, SESSION, i, &m) < 0 || m.seq != i + 1 || store_load(s, &m, &b) < 0 || b.len != 500 ||
		    b.data[0] != (uint8_t)m.time_ns)
			return false;
	}
	return true;
}

static size_t torn, damaged;

static void note(void *arg, const char *kind, const char *file, uint64_t at, const char *what)
{
	(void)arg, (void)file, (void)at, (void)what;
	*(strcmp(kind, "torn") == 0 ? &torn : &damaged) += 1;
}

static int verify(uint64_t *ret_records)
{
	struct store *s = open_as(STORE_DISK);
	int r;

	torn = damaged = 0;
	r = store_verify_all(s, note, NULL, ret_records);
	store_close(s);
	return r;
}

static void segment_path(char ret[400])
{
	char path[100];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof path, "%s/segments", folder.path);
	d = opendir(path);
	while ((e = readdir(d)))
		if (strstr(e->d_name, ".seg"))
			snprintf(ret, 400, "%s/%s", path, e->d_name);
	closedir(d);
}

static void a_batch_appears_at_its_end(void)
{
	for (int type = STORE_HYBRID; type <= STORE_MEMORY; type++) {
		struct store *s, *other = NULL;

		temp_make(&folder);
		s = open_as((enum store_type)type);
		begin(s);
		append(s, 10);
		if (type != STORE_MEMORY)
			other = open_as(STORE_DISK);
		CU_ASSERT_EQUAL(store_batch_begin(s), 0);
		CU_ASSERT_EQUAL(store_batch_begin(s), -EINVAL);
		for (uint64_t i = 0; i < 20; i++)
			CU_ASSERT_EQUAL(append(s, 20 + i), 0);
		CU_ASSERT_EQUAL(count(s), 1);
		if (other) {
			store_refresh(other);
			CU_ASSERT_EQUAL(count(other), 1);
			CU_ASSERT_EQUAL(count_afresh(), 1);
		}
		CU_ASSERT_EQUAL(store_batch_end(s, true), 0);
		CU_ASSERT_EQUAL(store_batch_end(s, true), -EINVAL);
		append(s, 50);
		CU_ASSERT_EQUAL(count(s), 22);
		CU_ASSERT_TRUE(all_load(s));
		if (other) {
			store_refresh(other);
			CU_ASSERT_TRUE(count(other) == 22 && all_load(other));
			CU_ASSERT_EQUAL(count_afresh(), 22);
			store_close(other);
		}
		store_close(s);
		CU_ASSERT_EQUAL(verify(NULL), 0);
		temp_remove(&folder);
	}
}

static void a_batch_undone_was_never_there(void)
{
	for (int type = STORE_HYBRID; type <= STORE_MEMORY; type++) {
		struct store *s;

		temp_make(&folder);
		s = open_as((enum store_type)type);
		begin(s);
		append(s, 10);
		store_batch_begin(s);
		for (uint64_t i = 0; i < 5; i++)
			append(s, 20 + i);
		CU_ASSERT_EQUAL(store_batch_end(s, false), 0);
		append(s, 30);
		store_batch_begin(s);
		append(s, 40);
		CU_ASSERT_TRUE(count(s) == 2 && all_load(s));
		store_close(s); /* undoes what is open */
		CU_ASSERT_EQUAL(verify(NULL), 0);
		if (type != STORE_MEMORY)
			CU_ASSERT_EQUAL(count_afresh(), 2);
		temp_remove(&folder);
	}
}

static void a_batch_cut_anywhere_is_torn(void)
{
	char path[400];
	struct stat before, after;
	struct store *s;
	uint64_t records;

	temp_make(&folder);
	s = open_as(STORE_DISK);
	begin(s);
	append(s, 10);
	segment_path(path);
	stat(path, &before);
	store_batch_begin(s);
	for (uint64_t i = 0; i < 4; i++)
		append(s, 20 + i);
	store_batch_end(s, true);
	store_close(s);
	stat(path, &after);
	CU_ASSERT_TRUE(verify(&records) == 0 && records == 6);
	for (off_t cut = after.st_size - 1; cut > before.st_size; cut -= 3) {
		CU_ASSERT_EQUAL(truncate(path, cut), 0);
		CHECK_OR(count_afresh() == 1, break);
		CHECK_OR(verify(&records) == 1 && torn == 1 && damaged == 0 && records == 2, break);
	}
	temp_remove(&folder);
}

static void a_writer_killed_within_a_batch_leaves_nothing_of_it(void)
{
	temp_make(&folder);
	for (int n = 1; n < 6; n++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			struct store *s = open_as(STORE_DISK);

			begin(s);
			append(s, (uint64_t)n);
			store_batch_begin(s);
			for (int i = 0; i < n; i++)
				append(s, 100);
			kill(getpid(), SIGKILL);
		}
		waitpid(pid, &status, 0);
		CU_ASSERT_TRUE(WIFSIGNALED(status));
		CU_ASSERT_EQUAL(count_afresh(), (size_t)n);
	}
	CU_ASSERT_EQUAL(verify(NULL), 1);
	temp_remove(&folder);
}

static struct io_ops failing;
static int syncs, writes_left;

static int counted_sync(int fd)
{
	syncs++;
	return io_system.fdatasync(fd);
}

static ssize_t limited_write(int fd, const void *p, size_t n, off_t at)
{
	if (writes_left-- > 0)
		return io_system.pwrite(fd, p, n, at);
	errno = ENOSPC;
	return -1;
}

static void a_full_disk_undoes_the_whole_batch(void)
{
	for (int writes = 0; writes < 18; writes++) {
		struct store *s;

		temp_make(&folder);
		s = open_as(STORE_DISK);
		begin(s);
		append(s, 10);
		store_batch_begin(s);
		failing = io_system;
		failing.pwrite = limited_write;
		writes_left = writes;
		io = &failing;
		for (uint64_t i = 0; i < 6; i++)
			append(s, 20 + i);
		CU_ASSERT_EQUAL(store_batch_end(s, true), -ENOSPC);
		io = &io_system;
		CU_ASSERT_EQUAL(append(s, 30), 0);
		CHECK_OR(count(s) == 2 && all_load(s), writes = 20);
		store_close(s);
		CHECK_OR(count_afresh() == 2 && verify(NULL) == 0, writes = 20);
		temp_remove(&folder);
	}
}

static void a_batch_costs_two_syncs_at_its_end(void)
{
	struct store *s;

	temp_make(&folder);
	s = open_as(STORE_DISK);
	begin(s);
	append(s, 10);
	failing = io_system;
	failing.fdatasync = counted_sync;
	io = &failing;
	syncs = 0;
	store_batch_begin(s);
	for (uint64_t i = 0; i < 50; i++)
		append(s, 20 + i);
	CU_ASSERT_EQUAL(syncs, 0);
	CU_ASSERT_EQUAL(store_batch_end(s, true), 0);
	CU_ASSERT_EQUAL(syncs, 2);
	io = &io_system;
	store_close(s);
	temp_remove(&folder);
}

void suite_store_batch(void)
{
	CU_pSuite s = CU_add_suite("store_batch", NULL, NULL);

	TEST(s, a_batch_appears_at_its_end);
	TEST(s, a_batch_undone_was_never_there);
	TEST(s, a_batch_cut_anywhere_is_torn);
	TEST(s, a_writer_killed_within_a_batch_leaves_nothing_of_it);
	TEST(s, a_full_disk_undoes_the_whole_batch);
	TEST(s, a_batch_costs_two_syncs_at_its_end);
}
