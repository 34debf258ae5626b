/* Makes the nth system call of one of us fail, or from the nth on all:
 *
 *     inject WHO HOW NTH once|on REPORT COMMAND [ARG]...
 *
 * WHO: front (the command itself, `snaptrail run`), recorder (the other processes and
 * threads of ours), visitor (calls from within our preloaded object).  HOW: an errno's
 * name, or SHORT (half of what is to be written).  REPORT, a file, gets how many calls
 * there were that could fail and the first that did.  Ends as COMMAND does. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum who { FRONT, RECORDER, VISITOR };
enum kind { NEVER, FAILS, WAITS, WRITES }; /* what is waited for can be interrupted and nothing else */

static const struct { short nr; unsigned char kind; const char *name; } calls[] = {
#define F(n) { SYS_##n, FAILS, #n }
#define W(n) { SYS_##n, WRITES, #n }
#define B(n) { SYS_##n, WAITS, #n }
	F(open), F(openat), F(mmap), F(ftruncate), F(fallocate), F(pread64), F(fsync), F(fdatasync), F(rename), F(renameat2), F(link), F(linkat),
	F(unlink), F(unlinkat), F(mkdir), F(mkdirat), F(symlink), F(symlinkat), F(readlink), F(readlinkat), F(newfstatat), F(fstat), F(statx),
	F(flock), F(fcntl), F(clone), F(clone3), F(fork), F(vfork), F(pidfd_open), F(epoll_create1), F(epoll_ctl), F(socketpair), F(sendto),
	F(memfd_create), F(getdents64), F(madvise), F(mprotect), F(close_range), F(prlimit64), F(prctl), F(unshare), F(access), F(faccessat2),
	F(lseek), F(chmod), F(fchmod), F(fchown), F(dup2), F(dup3), F(pipe2), F(setsid), F(eventfd2), F(msync), F(sched_setaffinity),
	W(write), W(pwrite64), B(read), B(futex), B(epoll_wait), B(poll), B(wait4), B(recvfrom), B(clock_nanosleep),
};

static const struct { const char *name; int number; } hows[] = {
	{ "ENOSPC", ENOSPC }, { "EIO", EIO }, { "ENOMEM", ENOMEM }, { "EMFILE", EMFILE }, { "EACCES", EACCES }, { "EINTR", EINTR }, { "SHORT", 0 },
};

static struct traced {
	pid_t tid, tgid;
	uint64_t from, to;   /* the visitor's text, as far as it was found; of the command the loader's */
	bool command, thread_of_ours, failing;
} *traced;
static size_t ntraced;
static enum who who;
static int how;
static unsigned nth, seen;
static bool on, hit;
static pid_t root;
static char first[64];
static const char *report_path;

static pid_t group_of(pid_t tid)
{
	char path[64], line[128];
	int tgid = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "Tgid: %d", &tgid) == 1)
			break;
	if (f)
		fclose(f);
	return tgid;
}

static struct traced *traced_get(pid_t tid)
{
	for (size_t i = 0; i < ntraced; i++)
		if (traced[i].tid == tid)
			return &traced[i];
	traced = realloc(traced, (ntraced + 1) * sizeof *traced);
	if (traced == NULL)
		exit(125);
	traced[ntraced] = (struct traced){ .tid = tid, .tgid = group_of(tid) };
	return &traced[ntraced++];
}

static void traced_forget(pid_t tid)
{
	for (size_t i = 0; i < ntraced; i++)
		if (traced[i].tid == tid)
			traced[i--] = traced[--ntraced];
}

/* Asked until one or the other is known: an image begins without any library. */
static void look(struct traced *t)
{
	char path[64], line[1024] = "", name[600];
	unsigned long from, to;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/exe", (int)t->tgid);
	line[readlink(path, line, sizeof line - 1) < 0 ? 0 : strcspn(line, "\n")] = 0;
	t->command = strrchr(line, '/') && strcmp(strrchr(line, '/'), "/snaptrail") == 0;
	snprintf(path, sizeof path, "/proc/%d/maps", (int)t->tgid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "%lx-%lx r-xp %*s %*s %*s %599s", &from, &to, name) == 3 &&
		    strstr(name, t->command ? "/ld-linux" : "/libsnaptrail-preload.so")) {
			t->from = from;
			t->to = to;
		}
	if (f)
		fclose(f);
}

static bool is_ours(struct traced *t, uint64_t ip)
{
	char path[64], comm[32] = "";
	FILE *f;

	if (!t->command && t->to == 0)
		look(t);
	if (who == VISITOR)
		return !t->command && ip >= t->from && ip < t->to;
	if (t->command && ip >= t->from && ip < t->to) /* before our first instruction: what then fails ends as the loader likes */
		return false;
	if (t->command || who == FRONT)
		return t->command && (t->tgid == root) == (who == FRONT);
	if (t->tid != t->tgid && !t->thread_of_ours) { /* in the program without a supervisor */
		snprintf(path, sizeof path, "/proc/%d/comm", (int)t->tid);
		f = fopen(path, "r");
		t->thread_of_ours = f && fgets(comm, sizeof comm, f) && strcmp(comm, "snaptrail\n") == 0;
		if (f)
			fclose(f);
	}
	return t->thread_of_ours;
}

/* Also when it happens: what follows may not end. */
static void report(void)
{
	FILE *f = fopen(report_path, "w");

	if (f == NULL || fprintf(f, "%u %s\n", seen, hit ? first : "-") < 0 || fclose(f))
		exit(125);
}

/* To wake others takes no time: the kernel never says EINTR, and libc ends who hears it. */
static bool waits(uint64_t nr, const uint64_t *args)
{
	uint64_t op = args[1] & (uint64_t)FUTEX_CMD_MASK;

	return nr != SYS_futex || op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET;
}

static void at_entry(struct traced *t, uint64_t nr, const uint64_t *args, uint64_t ip)
{
	struct user_regs_struct regs;
	const char *name = NULL;
	enum kind kind = NEVER;

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if ((uint64_t)calls[i].nr == nr) {
			kind = (enum kind)calls[i].kind;
			name = calls[i].name;
		}
	if (kind == NEVER || (kind == WAITS && (how != EINTR || !waits(nr, args))) || (kind != WRITES && how == 0) || !is_ours(t, ip))
		return;
	if (nr == SYS_write && args[0] < 3) /* what is said, and where that goes, is another's */
		return;
	if (++seen < nth || (seen > nth && !on))
		return;
	if (!hit) {
		hit = true;
		snprintf(first, sizeof first, "%s", name);
		report();
	}
	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
		return;
	if (how == 0) {
		if (regs.rdx > 1)
			regs.rdx /= 2;
	} else {
		regs.orig_rax = (unsigned long long)-1;
		t->failing = true;
	}
	ptrace(PTRACE_SETREGS, t->tid, NULL, &regs);
}

static void at_exit(struct traced *t)
{
	struct user_regs_struct regs;

	if (!t->failing)
		return;
	t->failing = false;
	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
		return;
	regs.rax = (unsigned long long)-how;
	ptrace(PTRACE_SETREGS, t->tid, NULL, &regs);
}

/* Which signal it goes on with. */
static int stopped(struct traced *t, int status)
{
	struct __ptrace_syscall_info info;
	int event = status >> 16, sig = WSTOPSIG(status);

	if (sig == (SIGTRAP | 0x80)) {
		if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof info, &info) <= 0)
			return 0;
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
			at_entry(t, info.entry.nr, info.entry.args, info.instruction_pointer);
		else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
			at_exit(t);
		return 0;
	}
	if (event == PTRACE_EVENT_EXEC) { /* the image that led the others has their number */
		*t = (struct traced){ .tid = t->tid, .tgid = t->tid };
		return 0;
	}
	return event ? 0 : sig;
}

int main(int argc, char **argv)
{
	int status, ended = 125 << 8;
	pid_t tid;

	if (argc < 7)
		return 64;
	who = !strcmp(argv[1], "front") ? FRONT : !strcmp(argv[1], "recorder") ? RECORDER : VISITOR;
	how = -1;
	for (size_t i = 0; i < sizeof hows / sizeof *hows; i++)
		if (!strcmp(hows[i].name, argv[2]))
			how = hows[i].number;
	nth = (unsigned)atoi(argv[3]);
	report_path = argv[5];
	on = !strcmp(argv[4], "on");
	if (how < 0)
		return 64;
	root = fork();
	if (root == 0) {
		raise(SIGSTOP);
		execv(argv[6], argv + 6);
		_exit(127);
	}
	waitpid(root, &status, WUNTRACED);
	if (ptrace(PTRACE_SEIZE, root, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
		   PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) < 0)
		return 125;
	kill(root, SIGCONT);
	ptrace(PTRACE_INTERRUPT, root, NULL, NULL);
	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (tid < 0)
			continue;
		if (WIFSTOPPED(status)) {
			int sig = stopped(traced_get(tid), status);

			ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(intptr_t)sig);
			continue;
		}
		traced_forget(tid);
		if (tid == root)
			ended = status;
	}
	report();
	if (WIFSIGNALED(ended)) {
		signal(WTERMSIG(ended), SIG_DFL);
		prctl(PR_SET_DUMPABLE, 0);
		raise(WTERMSIG(ended));
	}
	return WEXITSTATUS(ended);
}
