/* Hooks of the process group: fork, exec, spawn, wait and the ways to end.
 *
 * vfork and clone are not wrapped: a wrapper's frame would be returned from
 * twice.  Their names lead to a jump that only sets a flag, after which the
 * hooks compare the pid before they report, because such a child may run in its
 * parent's memory.  A program that never calls them never pays for that.  What a
 * vfork child executes is said on its parent's lane, as the parent waits for it. */
#include "visitor.h"

#include <sys/prctl.h>

#include "sys.h"

/* The flag, then on to the real function with every register as it came.  flags: clone's
 * third argument, and what vfork is in its terms. */
#define JUMP_TO(name, flags) \
	__asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" \
		"	.cfi_startproc\n" \
		"	endbr64\n" \
		"	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %r8\n	push %r9\n" \
		"	sub $8, %rsp\n" \
		"	movl " flags ", %edi\n" \
		"	call visitor_shares\n" \
		"	add $8, %rsp\n" \
		"	pop %r9\n	pop %r8\n	pop %rcx\n	pop %rdx\n	pop %rsi\n	pop %rdi\n" \
		"	jmp *real_" #name "(%rip)\n" \
		"	.cfi_endproc\n.size " #name ", .-" #name "\n")

JUMP_TO(vfork, "$0x4100"); /* CLONE_VM | CLONE_VFORK */
JUMP_TO(clone, "%edx");

EXPORT pid_t fork(void)
{
	uint64_t t = 0;
	pid_t pid;

	if (reporting(GROUP_PROCESS))
		t = hold_begin();
	if (visitor_heap)
		visitor_heap->forking();
	pid = REAL(fork)();
	if (t == 0)
		return pid;
	if (pid == 0) {
		visitor_forked(t);
		return 0;
	}
	if (pid > 0)
		REPORT(.kind = PROCESS_FORKED, .stamp = t, .pid = (uint32_t)pid, .ppid = visitor.pid);
	hold_end();
	return pid;
}

EXPORT pid_t _Fork(void)
{
	uint64_t t = 0;
	pid_t pid;

	LACKING(_Fork, -1);
	if (reporting(GROUP_PROCESS))
		t = hold_begin();
	if (visitor_heap)
		visitor_heap->forking();
	pid = real._Fork();
	if (t == 0)
		return pid;
	if (pid == 0) {
		visitor_forked(t);
		return 0;
	}
	if (pid > 0)
		REPORT(.kind = PROCESS_FORKED, .stamp = t, .pid = (uint32_t)pid, .ppid = visitor.pid);
	hold_end();
	return pid;
}

EXPORT int forkpty(int *master, char *name, const struct termios *t, const struct winsize *w)
{
	int pid = REAL(forkpty)(master, name, t, w);

	if (pid > 0 && reporting(GROUP_PROCESS)) {
		report_found(*master);
		REPORT(.kind = PROCESS_FORKED, .pid = (uint32_t)pid, .ppid = visitor.pid);
	} else if (pid == 0 && reporting(GROUP_PROCESS)) {
		for (int fd = 0; fd < 3; fd++)
			report_found(fd);
	}
	return pid;
}

EXPORT int daemon(int nochdir, int noclose)
{
	int r = REAL(daemon)(nochdir, noclose);

	if (r == 0 && reporting(GROUP_PROCESS)) { /* in the grandchild */
		if (!nochdir)
			REPORT(.kind = CWD, .name = text("/"));
		for (int fd = 0; fd < 3 && !noclose; fd++)
			report_opened(fd, "/dev/null", AT_FDCWD, O_RDWR, FDT_DEVICE);
	}
	return r;
}

/* ---- exec ---- */

#define OUR_NAME "libsnaptrail-preload"

static bool on_page(uintptr_t *known, const void *p)
{
	bool good = (uintptr_t)p >> 12 == *known || readable(p);

	*known = (uintptr_t)p >> 12;
	return good;
}

/* Reads what the kernel may refuse to read, if it has not read it yet. */
static bool keeps_visitor(char *const *env, bool was_read)
{
	uintptr_t list = UINTPTR_MAX, texts = UINTPTR_MAX; /* pages that can be read: most lie on the same few */

	for (; env; env++) {
		if (!was_read && !on_page(&list, env))
			return true; /* nothing will be executed */
		if (*env == NULL)
			return false;
		if (!was_read && !on_page(&texts, *env))
			return true;
		if ((*env)[0] == 'L') {
			struct bytes b = was_read ? text(*env) : text_there(*env);

			if (b.n > 11 && __builtin_memcmp(b.p, "LD_PRELOAD=", 11) == 0)
				return __builtin_strstr(b.p, OUR_NAME) != NULL;
		}
	}
	return false;
}

/* ---- another root ---- */

/* Where we lie is in LD_PRELOAD.  Below another root or with other mounts that
 * may be nowhere: the loader would complain on the new image's stderr, so that
 * image goes without us. */
static bool root_moved;

/* The next entry of a preload list, as the loader splits it. */
static const char *next_entry(const char *p, size_t *ret_n)
{
	while (*p == ':' || *p == ' ')
		p++;
	*ret_n = __builtin_strcspn(p, ": ");
	return *ret_n ? p : NULL;
}

static bool is_ours(const char *entry, size_t n)
{
	const char *at = __builtin_strstr(entry, OUR_NAME);

	return at && (size_t)(at - entry) < n;
}

static bool is_there(const char *entry, size_t n)
{
	char path[1024];

	if (n >= sizeof path)
		return true;
	__builtin_memcpy(path, entry, n);
	path[n] = 0;
	return sys2(SYS_access, (long)path, R_OK) == 0;
}

/* The variable whose entries of ours cannot be found from here, or -1. */
static long lost_preload(char *const *env)
{
	size_t n;

	for (long i = 0; root_moved && env && env[i]; i++)
		if (__builtin_strncmp(env[i], "LD_PRELOAD=", 11) == 0)
			for (const char *p = env[i] + 11; (p = next_entry(p, &n)); p += n)
				if (is_ours(p, n) && !is_there(p, n))
					return i;
	return -1;
}

static size_t env_count(char *const *env)
{
	size_t n = 0;

	while (env && env[n])
		n++;
	return n;
}

/* A copy without our entries, in room for as many pointers and as long a text. */
static char **without_us(char *const *env, size_t count, size_t which, char **copy, char *text)
{
	const char *p = env[which] + 11;
	char *q = __builtin_stpcpy(text, "LD_PRELOAD=");
	size_t n, k = 0;

	for (; (p = next_entry(p, &n)); p += n) {
		if (is_ours(p, n))
			continue;
		if (q[-1] != '=')
			*q++ = ':';
		__builtin_memcpy(q, p, n);
		q += n;
	}
	*q = 0;
	for (size_t i = 0; i < count; i++)
		if (i != which || q[-1] != '=')
			copy[k++] = i == which ? text : env[i];
	copy[k] = NULL;
	return copy;
}

/* Calls an exec function with `env`, or with a copy on this stack: a vfork child
 * may be here, and exec frees it. */
#define EXEC_WITH(env, call) ({ \
	char *const *env_ = (env); \
	long lost_ = lost_preload(env_); \
	size_t count_ = lost_ < 0 ? 0 : env_count(env_); \
	char *copy_[count_ + 1], text_[lost_ < 0 ? 1 : __builtin_strlen(env_[lost_]) + 1]; \
	char *const *target_env = lost_ < 0 ? env_ : without_us(env_, count_, (size_t)lost_, copy_, text_); \
	bool locked_ = self.locked_child; \
	self.locked_child = false; /* the parent's again */ \
	int r_ = (call); \
	self.locked_child = locked_; \
	r_; \
})

extern char **environ;

EXPORT int chroot(const char *path)
{
	int r = REAL(chroot)(path);

	if (r == 0)
		root_moved = true;
	return r;
}

void process_mounts_moved(void) { root_moved = true; }

struct exec {
	bool reported;
	bool held;                 /* the engine of this process writes nothing meanwhile */
	uint32_t child;            /* of vfork, which says so for its parent */
};

/* What came before stays on record whether or not the call returns.  Flag 1:
 * the new environment leaves the visitor behind. */
static struct exec exec_called(const char *path, char *const *env)
{
	struct exec e = { 0 };

	if (reporting(GROUP_PROCESS)) {
		REPORT(.kind = EXEC_CALLED, .name = text_there(path), .flags = !keeps_visitor(env, false));
		e.reported = true;
	} else if (visitor.groups & GROUP_PROCESS) {
		e.child = visitor_vfork_child();
		if (e.child)
			visitor_vfork_report((struct change){ .kind = PROCESS_SPAWNED, .pid = e.child, .name = text_there(path),
							      .value = text("vfork"), .flags = !keeps_visitor(env, false) });
	}
	e.held = host_exec_begin();
	return e;
}

static int exec_failed(struct exec e, int r)
{
	host_exec_failed(e.held);
	if (e.reported && reporting(GROUP_PROCESS))
		REPORT(.kind = EXEC_FAILED, .error = (uint32_t)errno);
	if (e.child && visitor_vfork_child() == e.child)
		visitor_vfork_report((struct change){ .kind = PROCESS_SPAWNED, .pid = e.child, .value = text("vfork"), .flags = 2,
						      .error = (uint32_t)errno });
	return r;
}

EXPORT int execve(const char *path, char *const argv[], char *const env[])
{
	struct exec e = exec_called(path, env);

	return exec_failed(e, EXEC_WITH(env, REAL(execve)(path, argv, target_env)));
}

EXPORT int execv(const char *path, char *const argv[])
{
	struct exec e = exec_called(path, environ);

	return exec_failed(e, EXEC_WITH(environ, REAL(execve)(path, argv, target_env)));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	struct exec e = exec_called(file, environ);

	return exec_failed(e, EXEC_WITH(environ, REAL(execvpe)(file, argv, target_env)));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const env[])
{
	struct exec e = exec_called(file, env);

	return exec_failed(e, EXEC_WITH(env, REAL(execvpe)(file, argv, target_env)));
}

EXPORT int fexecve(int fd, char *const argv[], char *const env[])
{
	struct exec e = exec_called("(descriptor)", env);

	return exec_failed(e, EXEC_WITH(env, REAL(fexecve)(fd, argv, target_env)));
}

EXPORT int execveat(int fd, const char *path, char *const argv[], char *const env[], int flags)
{
	struct exec e;

	LACKING(execveat, -1);
	e = exec_called(path, env);
	return exec_failed(e, EXEC_WITH(env, real.execveat(fd, path, argv, target_env, flags)));
}

/* The list forms: their words are put into an array as the C library does. */
static size_t count_words(va_list ap)
{
	size_t n = 1;

	while (va_arg(ap, char *))
		n++;
	return n;
}

#define COLLECT_WORDS(argv, first) \
	va_list ap; \
	va_start(ap, first); \
	size_t words = count_words(ap); \
	va_end(ap); \
	char *argv[words + 1]; \
	va_start(ap, first); \
	argv[0] = (char *)first; \
	for (size_t i = 1; i <= words; i++) \
		argv[i] = va_arg(ap, char *)

EXPORT int execl(const char *path, const char *arg, ...)
{
	COLLECT_WORDS(argv, arg);
	va_end(ap);
	return execv(path, argv);
}

EXPORT int execlp(const char *file, const char *arg, ...)
{
	COLLECT_WORDS(argv, arg);
	va_end(ap);
	return execvp(file, argv);
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	COLLECT_WORDS(argv, arg);
	char *const *env = va_arg(ap, char *const *);

	va_end(ap);
	return execve(path, argv, env);
}

/* ---- spawn ---- */

static int spawned(uint64_t t, int r, pid_t pid, const char *path, char *const *env, const char *how)
{
	if (t == 0)
		return r;
	if (r == 0)
		REPORT(.kind = PROCESS_SPAWNED, .stamp = t, .pid = (uint32_t)pid, .name = text(path), .value = text(how),
		       .flags = !keeps_visitor(env, true));
	hold_end();
	return r;
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[], char *const env[])
{
	uint64_t t = reporting(GROUP_PROCESS) ? hold_begin() : 0;
	pid_t child = 0;
	int r = EXEC_WITH(env, REAL(posix_spawn)(pid ? pid : &child, path, actions, attr, argv, target_env));

	return spawned(t, r, r == 0 && pid ? *pid : child, path, env, "posix_spawn");
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[], char *const env[])
{
	uint64_t t = reporting(GROUP_PROCESS) ? hold_begin() : 0;
	pid_t child = 0;
	int r = EXEC_WITH(env, REAL(posix_spawnp)(pid ? pid : &child, file, actions, attr, argv, target_env));

	return spawned(t, r, r == 0 && pid ? *pid : child, file, env, "posix_spawnp");
}

EXPORT int system(const char *command)
{
	if (command && reporting(GROUP_PROCESS))
		REPORT(.kind = PROCESS_SPAWNED, .name = text_there(command), .value = text("system"));
	return REAL(system)(command);
}

EXPORT FILE *popen(const char *command, const char *mode)
{
	FILE *f = REAL(popen)(command, mode);

	if (f && reporting(GROUP_PROCESS)) {
		report_opened(fileno(f), NULL, AT_FDCWD, __builtin_strchr(mode, 'e') ? O_CLOEXEC : 0, FDT_PIPE);
		REPORT(.kind = PROCESS_SPAWNED, .name = text(command), .value = text("popen"));
	}
	return f;
}

EXPORT int pclose(FILE *f)
{
	bool reported = f && reporting(GROUP_PROCESS);
	int r;

	if (reported) {
		int saved = errno, fd = fileno(f);

		errno = saved;
		ahead_begin();
		if (fd >= 0)
			REPORT(.kind = FD_CLOSED, .has_fd = true, .fd = fd);
	}
	r = REAL(pclose)(f);
	if (reported)
		ahead_end();
	return r;
}

/* ---- wait ---- */

static pid_t waited(pid_t pid, int status)
{
	if (pid > 0 && (WIFEXITED(status) || WIFSIGNALED(status)) && reporting(GROUP_PROCESS))
		REPORT(.kind = PROCESS_ENDED, .pid = (uint32_t)pid, .has_number = true, .number = status);
	return pid;
}

EXPORT pid_t wait(int *status)
{
	int mine = 0, *where = status ? status : &mine;
	pid_t pid = REAL(wait)(where);

	return waited(pid, pid > 0 ? *where : 0);
}

EXPORT pid_t waitpid(pid_t which, int *status, int options)
{
	int mine = 0, *where = status ? status : &mine;
	pid_t pid = REAL(waitpid)(which, where, options);

	return waited(pid, pid > 0 ? *where : 0);
}

EXPORT pid_t wait3(int *status, int options, struct rusage *usage)
{
	int mine = 0, *where = status ? status : &mine;
	pid_t pid = REAL(wait3)(where, options, usage);

	return waited(pid, pid > 0 ? *where : 0);
}

EXPORT pid_t wait4(pid_t which, int *status, int options, struct rusage *usage)
{
	int mine = 0, *where = status ? status : &mine;
	pid_t pid = REAL(wait4)(which, where, options, usage);

	return waited(pid, pid > 0 ? *where : 0);
}

EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	int r = REAL(waitid)(type, id, info, options);

	if (r == 0 && info && info->si_pid && !(options & WNOWAIT)) {
		if (info->si_code == CLD_EXITED)
			waited(info->si_pid, (info->si_status & 0xff) << 8);
		else if (info->si_code == CLD_KILLED || info->si_code == CLD_DUMPED)
			waited(info->si_pid, (info->si_status & 0x7f) | (info->si_code == CLD_DUMPED ? 0x80 : 0));
	}
	return r;
}

/* ---- ends ---- */

static void exiting(int status, const char *how)
{
	if (reporting(GROUP_PROCESS))
		REPORT(.kind = PROCESS_EXITING, .has_number = true, .number = status, .value = text(how));
}

EXPORT void exit(int status)
{
	exiting(status, "exit");
	REAL(exit)(status);
	__builtin_unreachable();
}

EXPORT void _exit(int status)
{
	exiting(status, "_exit");
	host_finish(status, true);
	self.locked_child = false;
	REAL(_exit)(status);
	__builtin_unreachable();
}

EXPORT void _Exit(int status)
{
	exiting(status, "_Exit");
	host_finish(status, true);
	self.locked_child = false;
	REAL(_Exit)(status);
	__builtin_unreachable();
}

EXPORT void quick_exit(int status)
{
	exiting(status, "quick_exit");
	host_finish(status, true);
	REAL(quick_exit)(status);
	__builtin_unreachable();
}

EXPORT void abort(void)
{
	if (reporting(GROUP_PROCESS))
		REPORT(.kind = PROCESS_EXITING, .value = text("abort"));
	REAL(abort)();
	__builtin_unreachable();
}

/* ---- calls that go round the hooks ---- */

/* memory["p<pid>/blind"]: this process does things that no hook sees. */
void process_blind(const char *what)
{
	char key[32] = "p", digits[12];
	uint8_t value[64];
	uint32_t n = 1, k = 0, len = (uint32_t)__builtin_strlen(what);

	if (!reporting(GROUP_PROCESS | GROUP_RESOURCE))
		return;
	for (uint32_t pid = visitor.pid; pid; pid /= 10)
		digits[k++] = (char)('0' + pid % 10);
	while (k)
		key[n++] = digits[--k];
	__builtin_memcpy(key + n, "/blind", 6);
	value[0] = 6 << 3 | 2; /* Value.text */
	value[1] = (uint8_t)len;
	__builtin_memcpy(value + 2, what, len);
	REPORT(.kind = ENTITY_SET, .table = 3, .name = BYTES(key, n + 6), .entity = BYTES(value, len + 2));
}

/* seccomp(2).  Without a filter it only asks what the kernel knows. */
static long seccomp(const long *a)
{
	bool strict = a[0] == 0, locks = strict || (a[0] == 1 && a[2]), was = false;
	long r;

	if (locks && a[1] & 1) /* SECCOMP_FILTER_FLAG_TSYNC: the filter would be the engine's too */
		was = host_step_aside();
	if (locks)
		visitor_locks(strict);
	r = REAL(syscall)(SYS_seccomp, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (locks && r < 0) {
		int e = errno;

		visitor_locks_not();
		host_again(was);
		errno = e;
	}
	return r;
}

EXPORT long syscall(long number, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	switch (number) {
	case SYS_vfork:
		visitor_shares(CLONE_VM | CLONE_VFORK);
		break;
	case SYS_clone:
		visitor_shares((uint64_t)a[0]);
		break;
	case SYS_clone3:
		if (readable((const char *)a[0]) && readable((const char *)a[0] + 7))
			visitor_shares(*(const uint64_t *)a[0]); /* of struct clone_args */
		break;
	case SYS_pivot_root:
		root_moved = true;
		break;
	case SYS_seccomp:
		return seccomp(a);
	case SYS_io_uring_setup:
		process_blind("io_uring");
		break;
	default:
		break;
	}
	return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
