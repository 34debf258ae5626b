/* One life of a store, and each of its calls to the system failing, being the last
 * before a kill -9, or the last before a loss of power: what was acknowledged is
 * there, whole, and nothing that was deleted comes back. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "store/store.h"

void suite_store_calls(void);

#define SESSION "00000000000000c1"
#define SNAPSHOTS 12u

static struct temp_folder folder;

/* What the life says is done, as numbers of calls: shared with the child that is killed. */
struct acks {
	unsigned calls;                 /* made so far */
	unsigned stored[SNAPSHOTS];     /* by when; 0 never */
	unsigned deleted[SNAPSHOTS];
	unsigned tagged;
	bool attempted[SNAPSHOTS];      /* its deletion was asked for */
};
static struct acks *acks;

/* ---- the life ---- */

static void id_of(unsigned i, char id[STORE_ID_LEN + 1]) { snprintf(id, STORE_ID_LEN + 1, "%016x", 0xa000 + i); }

static size_t payload_of(unsigned i, uint8_t room[4000])
{
	uint64_t r = i + 1;
	size_t n = 200 + i * 300;

	for (size_t k = 0; k < n; k++)
		room[k] = (uint8_t)(k % 3 ? i : random_next(&r));
	return n;
}

static int append(struct store *s, unsigned i)
{
	struct snapshot_meta m = { .session_id = SESSION, .type = SNAPSHOT_FULL, .origin = ORIGIN_IMPORT, .time_ns = 1000 + i, .description = "" };
	uint8_t payload[4000];

	id_of(i, m.id);
	return store_append(s, &m, payload, payload_of(i, payload), 0);
}

static void stored(unsigned i) { acks->stored[i] = acks->calls + 1; }

static void append_one(struct store *s, unsigned i)
{
	if (append(s, i) == 0)
		stored(i);
}

static void delete_some(struct store *s, unsigned a, unsigned b)
{
	char ids[2][STORE_ID_LEN + 1];
	const char *list[2] = { ids[0], ids[1] };
	uint64_t n;

	id_of(a, ids[0]);
	id_of(b, ids[1]);
	acks->attempted[a] = acks->attempted[b] = true;
	if (store_delete(s, list, 2, NULL, &n) == 0)
		acks->deleted[a] = acks->deleted[b] = acks->calls + 1;
}

static struct store *open_it(void)
{
	struct store_options o = { .type = STORE_DISK, .persist = true, .memory_bytes = 1 << 20, .create = true, .compress = true,
				   .compress_threshold_bytes = 1024, .verify = STORE_VERIFY_READ };
	struct store *s;

	return store_open(folder.path, &o, &s) < 0 ? NULL : s;
}

static void live(void)
{
	struct session_meta m = { .id = SESSION, .name = "c", .command = "", .profile = "", .boot_id = "", .note = "", .started_ns = 1,
				  .exit_status = -1 };
	static const char *const tag[] = { "kept", NULL };
	char id[STORE_ID_LEN + 1];
	struct store *s = open_it();
	uint64_t freed;

	if (s) {
		store_session_begin(s, &m);
		for (unsigned i = 0; i < 4; i++)
			append_one(s, i);
		id_of(2, id);
		if (store_note_tags(s, id, tag, NULL) == 0 && store_sync(s) == 0)
			acks->tagged = acks->calls + 1;
		if (store_batch_begin(s) == 0) {
			bool good = append(s, 4) == 0;

			good = append(s, 5) == 0 && good;
			if (store_batch_end(s, good) == 0 && good) {
				stored(4);
				stored(5);
			}
		}
		delete_some(s, 0, 4);
		m.ended_ns = 5;
		store_session_end(s, &m);
		store_close(s);
	}
	s = open_it(); /* the first segment is nobody's now */
	if (s == NULL)
		return;
	for (unsigned i = 6; i < 9; i++)
		append_one(s, i);
	delete_some(s, 1, 7);
	store_compact(s, 0.1, &freed);
	append_one(s, 9);
	store_close(s);
}

/* ---- what is there afterwards ---- */

static bool is_whole(struct store *s, unsigned i, struct snapshot_meta *m)
{
	_cleanup_buf_ struct buf got = BUF_INIT;
	uint8_t want[4000];
	char id[STORE_ID_LEN + 1];
	size_t n = payload_of(i, want);

	id_of(i, id);
	return store_snapshot_find(s, id, m, NULL) == 0 && store_load(s, m, &got) == 0 && got.len == n && memcmp(got.data, want, n) == 0;
}

static bool is_there(struct store *s, unsigned i)
{
	struct snapshot_meta m;
	char id[STORE_ID_LEN + 1];

	id_of(i, id);
	return store_snapshot_find(s, id, &m, NULL) == 0;
}

/* With all that was acknowledged within the first `calls` calls.  Returns what is
 * wrong, NULL: nothing. */
static const char *look(unsigned calls, bool damage_is_wrong)
{
	struct store *s = open_it();
	const char *wrong = NULL;
	struct snapshot_meta m;
	uint64_t records;

	if (s == NULL)
		return "it cannot be opened";
	for (unsigned i = 0; i < SNAPSHOTS && !wrong; i++) {
		bool was = acks->stored[i] && acks->stored[i] <= calls, gone = acks->deleted[i] && acks->deleted[i] <= calls;

		if (was && !acks->attempted[i] && !is_whole(s, i, &m))
			wrong = "an acknowledged snapshot is not there as it was";
		if (gone && is_there(s, i))
			wrong = "a deleted snapshot came back";
		if (is_there(s, i) && !is_whole(s, i, &m))
			wrong = "a snapshot is there and not whole";
	}
	if (!wrong && is_there(s, 4) != is_there(s, 5) && !acks->attempted[4])
		wrong = "half a batch";
	if (!wrong && acks->tagged && acks->tagged <= calls && is_whole(s, 2, &m) && (m.tags == NULL || m.tags[0] == NULL))
		wrong = "an acknowledged tag is gone";
	if (!wrong && store_verify_all(s, NULL, NULL, &records) < 0 && damage_is_wrong)
		wrong = "verify says damage";
	store_close(s);
	return wrong;
}

/* ---- every call fails once, or from then on ---- */

enum failing { FAIL_ENOSPC, FAIL_EIO, FAIL_EINTR, FAIL_SHORT, FAILINGS };

static struct io_ops ops;
static unsigned fail_at;
static enum failing how;
static bool on_and_on, kills;

/* Counts a call; true: this one is to fail. */
static bool turn(void)
{
	unsigned n = ++acks->calls;

	if (kills && n == fail_at)
		raise(SIGKILL);
	if (kills || !(n == fail_at || (on_and_on && n > fail_at)))
		return false;
	errno = how == FAIL_ENOSPC ? ENOSPC : how == FAIL_EIO ? EIO : EINTR;
	return true;
}

static int my_open(const char *path, int flags, mode_t mode) { return how != FAIL_SHORT && turn() ? -1 : io_system.open(path, flags, mode); }
static int my_ftruncate(int fd, off_t n) { return how != FAIL_SHORT && turn() ? -1 : io_system.ftruncate(fd, n); }
static int my_fdatasync(int fd) { return how != FAIL_SHORT && turn() ? -1 : io_system.fdatasync(fd); }
static int my_fsync(int fd) { return how != FAIL_SHORT && turn() ? -1 : io_system.fsync(fd); }
static int my_rename(const char *a, const char *b) { return how != FAIL_SHORT && turn() ? -1 : io_system.rename(a, b); }
static int my_mkdir(const char *path, mode_t mode) { return how != FAIL_SHORT && turn() ? -1 : io_system.mkdir(path, mode); }
static int my_unlink(const char *path) { return how != FAIL_SHORT && turn() ? -1 : io_system.unlink(path); }

static ssize_t my_pwrite(int fd, const void *p, size_t n, off_t at)
{
	if (!turn())
		return io_system.pwrite(fd, p, n, at);
	return how == FAIL_SHORT ? io_system.pwrite(fd, p, n > 1 ? n / 2 : n, at) : -1;
}

static void begin_life(unsigned at)
{
	temp_make(&folder);
	memset(acks, 0, sizeof *acks);
	fail_at = at;
	ops = io_system;
	ops.open = my_open;
	ops.pwrite = my_pwrite;
	ops.ftruncate = my_ftruncate;
	ops.fdatasync = my_fdatasync;
	ops.fsync = my_fsync;
	ops.rename = my_rename;
	ops.mkdir = my_mkdir;
	ops.unlink = my_unlink;
	io = &ops;
}

static void acks_make(void)
{
	acks = mmap(NULL, sizeof *acks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (acks == MAP_FAILED)
		abort();
}

static unsigned calls_of_a_life(void)
{
	unsigned n;

	kills = on_and_on = false;
	how = FAIL_EIO;
	begin_life(UINT32_MAX);
	live();
	io = &io_system;
	n = acks->calls;
	CU_ASSERT_PTR_NULL(look(UINT32_MAX, true));
	for (unsigned i = 0; i < 10; i++)
		CU_ASSERT(acks->stored[i] != 0);
	CU_ASSERT(acks->deleted[0] && acks->deleted[7] && acks->tagged);
	temp_remove(&folder);
	return n;
}

static void each_call_fails(void)
{
	unsigned calls;

	acks_make();
	calls = calls_of_a_life();
	CU_ASSERT(calls > 60);
	for (int h = 0; h < FAILINGS; h++) {
		for (int on = 0; on < 2; on++) {
			for (unsigned at = 1; at <= calls; at++) {
				const char *wrong;

				if (on && h >= FAIL_EINTR)
					break; /* nobody is interrupted for ever */
				kills = false;
				how = (enum failing)h;
				on_and_on = on;
				begin_life(at);
				live();
				io = &io_system;
				wrong = look(UINT32_MAX, true);
				if (wrong)
					fprintf(stderr, "\n    call %u, failure %d%s: %s\n", at, h, on ? " from then on" : "", wrong);
				CHECK_OR(wrong == NULL, return);
				if (h >= FAIL_EINTR) /* what is done again succeeds */
					for (unsigned i = 0; i < 10; i++)
						CHECK_OR(acks->stored[i] != 0 || h == FAIL_EINTR, return);
				temp_remove(&folder);
			}
		}
	}
	munmap(acks, sizeof *acks);
}

static void each_call_is_the_last_before_a_kill(void)
{
	unsigned calls;

	acks_make();
	calls = calls_of_a_life();
	for (unsigned at = 1; at <= calls; at++) {
		const char *wrong;
		pid_t pid;
		int status;

		kills = true;
		how = FAIL_EIO;
		on_and_on = false;
		begin_life(at);
		pid = fork();
		if (pid == 0) {
			live();
			_exit(0);
		}
		io = &io_system;
		waitpid(pid, &status, 0);
		CHECK_OR(WIFSIGNALED(status), return);
		wrong = look(UINT32_MAX, true);
		if (wrong)
			fprintf(stderr, "\n    killed at call %u: %s\n", at, wrong);
		CHECK_OR(wrong == NULL, return);
		temp_remove(&folder);
	}
	munmap(acks, sizeof *acks);
}

void suite_store_calls(void)
{
	CU_pSuite s = CU_add_suite("store_calls", NULL, NULL);

	TEST(s, each_call_fails);
	TEST(s, each_call_is_the_last_before_a_kill);
}
