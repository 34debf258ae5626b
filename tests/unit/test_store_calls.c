/* Each call of a store's life failing, and each being the last before a kill -9: what
 * was acknowledged is there, whole, and nothing that was deleted comes back. */
#include "life.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"

void suite_store_calls(void);

/* ---- every call fails once, or from then on ---- */

enum failing { FAIL_ENOSPC, FAIL_EIO, FAIL_ENOMEM, FAIL_EINTR, FAIL_SHORT, FAILINGS };

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
	errno = how == FAIL_ENOSPC ? ENOSPC : how == FAIL_EIO ? EIO : how == FAIL_ENOMEM ? ENOMEM : EINTR;
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

/* TEST_FEW, as under sanitizers: one in seven, each time other ones. */
static unsigned first_call(void) { return getenv("TEST_FEW") ? 1 + (unsigned)getpid() % 7 : 1; }
static unsigned next_call(void) { return getenv("TEST_FEW") ? 7 : 1; }

static void each_call_fails(void)
{
	unsigned calls;

	acks_make();
	calls = calls_of_a_life();
	CU_ASSERT(calls > 60);
	for (int h = 0; h < FAILINGS; h++) {
		for (int on = 0; on < 2; on++) {
			for (unsigned at = first_call(); at <= calls; at += next_call()) {
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
	for (unsigned at = first_call(); at <= calls; at += next_call()) {
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
