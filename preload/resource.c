/* Hooks of the resource group: whatever makes, copies or closes a descriptor,
 * and what renames files under them.  Acquiring calls are reported after the
 * real one, releasing ones before it: stamped otherwise, one thread's close
 * would wipe another's open of the same number. */
#include "visitor.h"

#include <sys/epoll.h>

#include "sys.h"

void report_opened(int fd, const char *path, int dirfd, uint64_t flags, enum fd_type type)
{
	bool relative = path && path[0] != '/' && dirfd != AT_FDCWD;

	gauge_begin(fd);
	REPORT(.kind = FD_OPENED, .has_fd = true, .fd = fd, .name = text(path), .flags = flags, .fd_type = type,
	       .has_fd2 = relative, .fd2 = dirfd);
}

/* A descriptor that was made elsewhere is what the kernel says it is. */
void report_found(int fd)
{
	char link[512];
	long n = sys_fd_link(fd, link, sizeof link);

	gauge_begin(fd);
	REPORT(.kind = FD_OPENED, .has_fd = true, .fd = fd, .source = n > 0 ? SOURCE_PROC : SOURCE_HOOK,
	       .name = BYTES(link, n > 0 ? n : 0));
}

static inline int opened(int fd, const char *path, int dirfd, int flags)
{
	if (fd >= 0 && reporting(GROUP_RESOURCE))
		report_opened(fd, path, dirfd, (unsigned)flags, flags & O_DIRECTORY ? FDT_DIRECTORY : FDT_FILE);
	return fd;
}

/* The mode is there only with O_CREAT or O_TMPFILE. */
#define MODE_OF(flags) \
	mode_t mode = 0; \
	if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
		va_list ap; \
		va_start(ap, flags); \
		mode = va_arg(ap, mode_t); \
		va_end(ap); \
	}

#define OPEN(name) \
	EXPORT int name(const char *path, int flags, ...) \
	{ \
		MODE_OF(flags) \
		return opened(REAL(name)(path, flags, mode), path, AT_FDCWD, flags); \
	}
#define OPENAT(name) \
	EXPORT int name(int dir, const char *path, int flags, ...) \
	{ \
		MODE_OF(flags) \
		return opened(REAL(name)(dir, path, flags, mode), path, dir, flags); \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags) { return opened(REAL(__open_2)(path, flags), path, AT_FDCWD, flags); }
EXPORT int __open64_2(const char *path, int flags) { return opened(REAL(__open64_2)(path, flags), path, AT_FDCWD, flags); }
EXPORT int __openat_2(int dir, const char *path, int flags) { return opened(REAL(__openat_2)(dir, path, flags), path, dir, flags); }
EXPORT int __openat64_2(int dir, const char *path, int flags) { return opened(REAL(__openat64_2)(dir, path, flags), path, dir, flags); }

#define CREAT_FLAGS (O_CREAT | O_WRONLY | O_TRUNC)
EXPORT int creat(const char *path, mode_t mode) { return opened(REAL(creat)(path, mode), path, AT_FDCWD, CREAT_FLAGS); }
EXPORT int creat64(const char *path, mode_t mode) { return opened(REAL(creat64)(path, mode), path, AT_FDCWD, CREAT_FLAGS); }

#define TEMP_FLAGS (O_CREAT | O_RDWR | O_EXCL)
EXPORT int mkstemp(char *t) { return opened(REAL(mkstemp)(t), t, AT_FDCWD, TEMP_FLAGS); }
EXPORT int mkstemp64(char *t) { return opened(REAL(mkstemp64)(t), t, AT_FDCWD, TEMP_FLAGS); }
EXPORT int mkostemp(char *t, int f) { return opened(REAL(mkostemp)(t, f), t, AT_FDCWD, TEMP_FLAGS | f); }
EXPORT int mkostemp64(char *t, int f) { return opened(REAL(mkostemp64)(t, f), t, AT_FDCWD, TEMP_FLAGS | f); }
EXPORT int mkstemps(char *t, int n) { return opened(REAL(mkstemps)(t, n), t, AT_FDCWD, TEMP_FLAGS); }
EXPORT int mkstemps64(char *t, int n) { return opened(REAL(mkstemps64)(t, n), t, AT_FDCWD, TEMP_FLAGS); }
EXPORT int mkostemps(char *t, int n, int f) { return opened(REAL(mkostemps)(t, n, f), t, AT_FDCWD, TEMP_FLAGS | f); }
EXPORT int mkostemps64(char *t, int n, int f) { return opened(REAL(mkostemps64)(t, n, f), t, AT_FDCWD, TEMP_FLAGS | f); }

/* ---- streams: the C library opens and closes inside, past every hook ---- */

static int stream_fd(FILE *f)
{
	int saved = errno, fd = fileno(f);

	errno = saved;
	return fd;
}

static uint64_t mode_flags(const char *mode)
{
	uint64_t flags = mode[0] == 'r' ? O_RDONLY : mode[0] == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY | O_CREAT | O_APPEND;

	for (const char *m = mode; *m && *m != ','; m++) {
		if (*m == '+')
			flags = (flags & ~(uint64_t)O_ACCMODE) | O_RDWR;
		if (*m == 'e')
			flags |= O_CLOEXEC;
	}
	return flags;
}

static FILE *stream_opened(FILE *f, const char *path, const char *mode)
{
	if (f && path && reporting(GROUP_RESOURCE))
		report_opened(stream_fd(f), path, AT_FDCWD, mode_flags(mode), FDT_FILE);
	return f;
}

EXPORT FILE *fopen(const char *path, const char *mode) { return stream_opened(REAL(fopen)(path, mode), path, mode); }
EXPORT FILE *fopen64(const char *path, const char *mode) { return stream_opened(REAL(fopen64)(path, mode), path, mode); }

/* Reported before: afterwards the number may be another thread's.  After the
 * call comes ahead_end(). */
static void closing(int fd)
{
	struct gauge *g = gauge_of(fd), none = { 0 };

	if (g == NULL)
		g = &none;
	ahead_begin();
	REPORT(.kind = FD_CLOSED, .has_fd = true, .fd = fd, .bytes_read = g->bytes_read,
	       .bytes_written = g->bytes_written, .calls = g->calls);
}

static bool stream_closing(FILE *f)
{
	int fd = f && reporting(GROUP_RESOURCE) ? stream_fd(f) : -1;

	if (fd >= 0)
		closing(fd);
	return fd >= 0;
}

static void closed(bool reported)
{
	if (reported)
		ahead_end();
}

/* Without a path only the mode changes. */
EXPORT FILE *freopen(const char *path, const char *mode, FILE *f)
{
	bool reported = path && stream_closing(f);
	FILE *r = REAL(freopen)(path, mode, f);

	closed(reported);
	return stream_opened(r, path, mode);
}

EXPORT FILE *freopen64(const char *path, const char *mode, FILE *f)
{
	bool reported = path && stream_closing(f);
	FILE *r = REAL(freopen64)(path, mode, f);

	closed(reported);
	return stream_opened(r, path, mode);
}

EXPORT int fclose(FILE *f)
{
	bool reported = stream_closing(f);
	int r = REAL(fclose)(f);

	closed(reported);
	return r;
}

EXPORT FILE *tmpfile(void) { return stream_opened(REAL(tmpfile)(), "(tmpfile)", "w+"); }
EXPORT FILE *tmpfile64(void) { return stream_opened(REAL(tmpfile64)(), "(tmpfile)", "w+"); }

EXPORT DIR *opendir(const char *path)
{
	DIR *d = REAL(opendir)(path);

	if (d && reporting(GROUP_RESOURCE))
		report_opened(dirfd(d), path, AT_FDCWD, O_RDONLY | O_DIRECTORY | O_CLOEXEC, FDT_DIRECTORY);
	return d;
}

/* glibc's closedir() takes NULL and says EINVAL; its dirfd() does not look.
 * (Through a variable, as the header lets the compiler forget the question.) */
EXPORT int closedir(DIR *d)
{
	DIR *volatile given = d;
	bool reported = given && reporting(GROUP_RESOURCE);
	int r;

	if (reported)
		closing(dirfd(d));
	r = REAL(closedir)(d);
	closed(reported);
	return r;
}

/* ---- closing ---- */

EXPORT int close(int fd)
{
	int r;

	if (fd < 0 || !reporting(GROUP_RESOURCE))
		return REAL(close)(fd);
	closing(fd);
	r = REAL(close)(fd);
	ahead_end();
	return r;
}

static void range_closing(int first, int last, int flags)
{
	ahead_begin();
	REPORT(.kind = FD_RANGE_CLOSED, .has_fd = true, .fd = first, .has_fd2 = true, .fd2 = last, .flags = (unsigned)flags);
}

/* Flag 4 (CLOSE_RANGE_CLOEXEC) closes nothing yet; 2 (UNSHARE) makes the
 * thread's table its own, which the model does not follow. */
EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	bool reported;
	int r;

	LACKING(close_range, -1);
	reported = first <= last && !(flags & 2) && reporting(GROUP_RESOURCE);
	if (reported)
		range_closing(first < INT32_MAX ? (int)first : INT32_MAX, last < INT32_MAX ? (int)last : INT32_MAX, flags);
	r = real.close_range(first, last, flags);
	closed(reported);
	return r;
}

EXPORT void closefrom(int first)
{
	bool reported = reporting(GROUP_RESOURCE);

	if (reported)
		range_closing(first < 0 ? 0 : first, INT32_MAX, 0);
	if (REAL(closefrom))
		real.closefrom(first);
	closed(reported);
}

/* ---- copies ---- */

static int duped(uint64_t t, int from, int to, uint64_t flags)
{
	if (to >= 0 && to != from) {
		gauge_begin(to);
		REPORT(.kind = FD_DUPED, .stamp = t, .has_fd = true, .fd = from, .has_fd2 = true, .fd2 = to,
		       .flags = flags & O_CLOEXEC);
	}
	return to;
}

EXPORT int dup(int fd)
{
	int r = REAL(dup)(fd);

	return r >= 0 && reporting(GROUP_RESOURCE) ? duped(0, fd, r, 0) : r;
}

/* Onto a number that may be in use: stamped before, reported after. */
EXPORT int dup2(int from, int to)
{
	uint64_t t;
	int r;

	if (!reporting(GROUP_RESOURCE))
		return REAL(dup2)(from, to);
	t = hold_begin();
	r = duped(t, from, REAL(dup2)(from, to), 0);
	hold_end();
	return r;
}

EXPORT int dup3(int from, int to, int flags)
{
	uint64_t t;
	int r;

	if (!reporting(GROUP_RESOURCE))
		return REAL(dup3)(from, to, flags);
	t = hold_begin();
	r = duped(t, from, REAL(dup3)(from, to, flags), (unsigned)flags);
	hold_end();
	return r;
}

static int controlled(int r, int fd, int command, void *arg)
{
	if (r < 0)
		return r;
	if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
		if (reporting(GROUP_RESOURCE))
			duped(0, fd, r, command == F_DUPFD_CLOEXEC ? O_CLOEXEC : 0);
	} else if (command == F_SETFD) {
		if (reporting(GROUP_RESOURCE))
			REPORT(.kind = FD_FLAGS, .has_fd = true, .fd = fd,
			       .flags = (uintptr_t)arg & FD_CLOEXEC ? O_CLOEXEC : 0);
	}
	return r;
}

#define FCNTL(name) \
	EXPORT int name(int fd, int command, ...) \
	{ \
		va_list ap; \
		void *arg; \
		va_start(ap, command); \
		arg = va_arg(ap, void *); \
		va_end(ap); \
		return controlled(REAL(name)(fd, command, arg), fd, command, arg); \
	}
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---- other makers ---- */

static int made(int fd, const char *name, uint64_t flags, enum fd_type type)
{
	if (fd >= 0 && reporting(GROUP_RESOURCE))
		report_opened(fd, name, AT_FDCWD, flags, type);
	return fd;
}

static int paired(int r, const int *fds, uint64_t flags)
{
	if (r == 0 && reporting(GROUP_RESOURCE)) {
		gauge_begin(fds[0]);
		gauge_begin(fds[1]);
		REPORT(.kind = FD_PAIR, .has_fd = true, .fd = fds[0], .has_fd2 = true, .fd2 = fds[1], .flags = flags,
		       .fd_type = FDT_PIPE);
	}
	return r;
}

EXPORT int pipe(int fds[2]) { return paired(REAL(pipe)(fds), fds, 0); }
EXPORT int pipe2(int fds[2], int flags) { return paired(REAL(pipe2)(fds, flags), fds, (unsigned)flags); }
EXPORT int eventfd(unsigned n, int flags) { return made(REAL(eventfd)(n, flags), NULL, (unsigned)flags & O_CLOEXEC, FDT_EVENTFD); }
EXPORT int epoll_create(int size) { return made(REAL(epoll_create)(size), NULL, 0, FDT_EPOLL); }
EXPORT int epoll_create1(int flags) { return made(REAL(epoll_create1)(flags), NULL, flags & EPOLL_CLOEXEC ? O_CLOEXEC : 0, FDT_EPOLL); }
EXPORT int timerfd_create(int clock, int flags) { return made(REAL(timerfd_create)(clock, flags), NULL, (unsigned)flags & O_CLOEXEC, FDT_TIMERFD); }
EXPORT int inotify_init(void) { return made(REAL(inotify_init)(), NULL, 0, FDT_INOTIFY); }
EXPORT int inotify_init1(int flags) { return made(REAL(inotify_init1)(flags), NULL, (unsigned)flags & O_CLOEXEC, FDT_INOTIFY); }
EXPORT int posix_openpt(int flags) { return made(REAL(posix_openpt)(flags), "/dev/ptmx", (unsigned)flags, FDT_DEVICE); }

EXPORT int openpty(int *master, int *slave, char *name, const struct termios *t, const struct winsize *w)
{
	int r = REAL(openpty)(master, slave, name, t, w);

	if (r == 0 && reporting(GROUP_RESOURCE)) {
		report_found(*master);
		report_found(*slave);
	}
	return r;
}

/* With a descriptor given it changes that one's set and opens nothing. */
EXPORT int signalfd(int fd, const sigset_t *mask, int flags)
{
	int r = REAL(signalfd)(fd, mask, flags);

	return fd == -1 ? made(r, NULL, (unsigned)flags & O_CLOEXEC, FDT_SIGNALFD) : r;
}

EXPORT int memfd_create(const char *name, unsigned flags)
{
	LACKING(memfd_create, -1);
	return made(real.memfd_create(name, flags), name, flags & 1 ? O_CLOEXEC : 0, FDT_MEMFD);
}

EXPORT int pidfd_open(pid_t pid, unsigned flags)
{
	LACKING(pidfd_open, -1);
	return made(real.pidfd_open(pid, flags), NULL, O_CLOEXEC, FDT_PIDFD);
}

EXPORT int shm_open(const char *name, int flags, mode_t mode)
{
	int fd = REAL(shm_open)(name, flags, mode);

	if (fd >= 0 && reporting(GROUP_RESOURCE)) {
		char path[280] = "/dev/shm/";

		__builtin_strncpy(path + 9, name + (name[0] == '/'), sizeof path - 10);
		report_opened(fd, path, AT_FDCWD, (unsigned)flags | O_CLOEXEC, FDT_FILE);
	}
	return fd;
}

/* ---- names ---- */

static int renamed(int r, int from_dir, const char *from, int to_dir, const char *to)
{
	if (r == 0 && reporting(GROUP_RESOURCE))
		REPORT(.kind = RENAMED, .name = text(from), .value = text(to),
		       .has_fd = from[0] != '/' && from_dir != AT_FDCWD, .fd = from_dir,
		       .has_fd2 = to[0] != '/' && to_dir != AT_FDCWD, .fd2 = to_dir);
	return r;
}

EXPORT int rename(const char *from, const char *to) { return renamed(REAL(rename)(from, to), AT_FDCWD, from, AT_FDCWD, to); }
EXPORT int renameat(int a, const char *from, int b, const char *to) { return renamed(REAL(renameat)(a, from, b, to), a, from, b, to); }

EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	LACKING(renameat2, -1);
	return renamed(real.renameat2(a, from, b, to, flags), a, from, b, to);
}

static int unlinked(int r, int dir, const char *path)
{
	if (r == 0 && reporting(GROUP_RESOURCE))
		REPORT(.kind = UNLINKED, .name = text(path), .has_fd = path[0] != '/' && dir != AT_FDCWD, .fd = dir);
	return r;
}

EXPORT int unlink(const char *path) { return unlinked(REAL(unlink)(path), AT_FDCWD, path); }
EXPORT int unlinkat(int dir, const char *path, int flags) { return unlinked(REAL(unlinkat)(dir, path, flags), dir, path); }
EXPORT int remove(const char *path) { return unlinked(REAL(remove)(path), AT_FDCWD, path); }
