/* Making, finding and removing a session's live folder; see session.h.
 * Called by `run` before anything starts, by salvage, and by live readers. */
#include "engine/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/dir.h"
#include "base/err.h"
#include "base/mark.h"
#include "engine/namespace.h"
#include "engine/secrets.h"

#define ORPHAN_S 60
#define AWAY_S (24 * 60 * 60)
#define LEASE_TRIES 20
#define LEASE_WAIT_NS 5000000

/* Where rings may lie, best first: `%u` is the user.  The last one may be a
 * disk: slower, and better than nothing. */
static const char *const roots[] = { "/dev/shm/snaptrail-%u", "/run/user/%u/snaptrail", "/tmp/snaptrail-%u" };
#define ROOM_BYTES (16u << 20) /* board, a stage that fills slowly, some rings */
#define ROOTS (sizeof roots / sizeof *roots)

/* Ours and 0711: a process that drops its privileges can still walk through it. */
static int parent_folder(size_t root, char *out, size_t cap)
{
	struct stat st;

	snprintf(out, cap, roots[root], (unsigned)geteuid());
	if (mkdir(out, 0711) == 0)
		return chmod(out, 0711) < 0 ? -errno : 0;
	if (errno == EEXIST && lstat(out, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid())
		return 0;
	return fail(-EACCES, "no folder for rings: /dev/shm, /run/user and /tmp cannot be written");
}

static void folder_remove(const char *folder)
{
	struct dir d;

	dir_open(&d, folder);
	for (const char *name; (name = dir_next(&d));)
		unlinkat(d.fd, name, 0);
	dir_close(&d);
	rmdir(folder);
}

/* A minute old and without the link that says whose it is: somebody was killed
 * before it was made, or a process wrote on while the rest was taken away. */
static bool is_orphan(const char *folder)
{
	struct stat st;

	return lstat(folder, &st) == 0 && S_ISDIR(st.st_mode) && st.st_mtime + ORPHAN_S < time(NULL);
}

/* Its recorder lives, or may: one of another pid namespace cannot be asked. */
static bool may_live(const char *folder)
{
	char path[700];
	struct board b;
	bool may;
	int fd;

	snprintf(path, sizeof path, "%s/board", folder);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno != ENOENT;
	if (pread(fd, &b, sizeof b, 0) != (ssize_t)sizeof b)
		may = !is_orphan(folder); /* it is being made */
	else if (b.pid_ns != namespace_here())
		may = b.pid_ns != 0;
	else
		may = kill((pid_t)b.recorder_pid, 0) == 0 || errno != ESRCH;
	close(fd);
	return may;
}

/* What a folder's link leads to is gone for good, with the store or without it; or it
 * may only be somewhere else just now, which is believed for a day. */
static bool is_gone(const char *folder, char *pointer)
{
	char *slash = strrchr(pointer, '/');
	struct stat st;

	if (lstat(pointer, &st) == 0 || errno != ENOENT || slash == NULL)
		return false;
	*slash = 0;
	return lstat(pointer, &st) == 0 || (lstat(folder, &st) == 0 && st.st_mtime + AWAY_S < time(NULL));
}

/* What nobody can salvage any more: its recorder is dead and its store is gone
 * or never was. */
static void sweep(const char *parent)
{
	struct dir d;

	dir_open(&d, parent);
	for (const char *name; (name = dir_next(&d));) {
		char path[600], link[700], target[4400];
		ssize_t n;

		snprintf(path, sizeof path, "%s/%s", parent, name);
		snprintf(link, sizeof link, "%s/pointer", path);
		if (strlen(name) != 32)
			continue;
		n = readlink(link, target, sizeof target - 1);
		if (n < 0) {
			if (errno == ENOENT && is_orphan(path))
				folder_remove(path);
			continue;
		}
		target[n] = 0;
		/* A number: of a store in memory only its recorder knows. */
		if ((atoi(target) || is_gone(path, target)) && !may_live(path))
			folder_remove(path);
	}
	dir_close(&d);
}

static bool has_room(const char *folder)
{
	struct statvfs v;

	return statvfs(folder, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize >= ROOM_BYTES;
}

static int live_folder(struct session *s, size_t root, bool roomy)
{
	char parent[200];
	uint64_t r[2];
	int e = parent_folder(root, parent, sizeof parent);

	if (e < 0)
		return e;
	sweep(parent);
	if (roomy && !has_room(parent))
		return -ENOSPC;
	if (getrandom(r, sizeof r, 0) != sizeof r)
		return fail(-errno, "getrandom: %s", strerror(errno));
	snprintf(s->folder, sizeof s->folder, "%s/%016llx%016llx", parent, (unsigned long long)r[0], (unsigned long long)r[1]);
	if (mkdir(s->folder, 0733) < 0 || chmod(s->folder, 01733) < 0)
		return fail(-errno, "%s: %s", s->folder, strerror(errno));
	MARK("folder made");
	return 0;
}

static uint32_t groups_of(const struct config *c)
{
	return (c->hooks_process ? GROUP_PROCESS : 0u) | (c->hooks_thread ? GROUP_THREAD : 0u) |
	       (c->hooks_status ? GROUP_STATUS : 0u) | (c->hooks_memory ? GROUP_MEMORY : 0u) |
	       (c->hooks_resource ? GROUP_RESOURCE : 0u) | (c->hooks_communication ? GROUP_COMMUNICATION : 0u) |
	       (c->hooks_heap ? GROUP_HEAP : 0u);
}

static void read_boot_id(char *out, size_t cap)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, cap - 1);

	if (fd >= 0)
		close(fd);
	out[n > 0 ? n - (out[n - 1] == '\n') : 0] = 0;
}

static uint64_t device_of(int fd)
{
	struct statx st;

	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_INO, &st) < 0)
		return 0;
	return (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor;
}

/* The kernel's own file systems: what lies there needs no path. */
static void board_set_devices(struct board *b)
{
	int fds[2], s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (pipe2(fds, O_CLOEXEC) == 0) {
		b->pipe_dev = device_of(fds[0]);
		close(fds[0]);
		close(fds[1]);
	}
	b->socket_dev = device_of(s);
	if (s >= 0)
		close(s);
}

static int board_create(struct session *s, const struct config *c, const struct clock *clock)
{
	char path[320];
	struct board *b;
	int fd, r;

	snprintf(path, sizeof path, "%s/board", s->folder);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	MARK("board file made");
	r = fchmod(fd, 0666) < 0 ? errno : posix_fallocate(fd, 0, BOARD_BYTES);
	b = r ? MAP_FAILED : mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (b == MAP_FAILED)
		return fail(-(r ? r : errno), "%s: %s", path, strerror(r ? r : errno));
	snprintf(b->session_id, sizeof b->session_id, "%s", s->id);
	read_boot_id(b->boot_id, sizeof b->boot_id);
	b->created_mono_ns = mono_now_ns();
	b->session_offset_ns = clock->offset_ns;
	b->use_tsc = clock->use_tsc;
	b->groups = groups_of(c);
	b->lane_bytes = (uint32_t)c->lane_bytes;
	b->lane_max_bytes = (uint32_t)c->lane_max_bytes;
	b->redact = c->redact;
	b->max_rate = c->max_rate;
	b->stack_groups = config_stack_groups(c) & groups_of(c);
	b->stack_depth = (uint32_t)c->stack_depth;
	b->slots = BOARD_SLOTS;
	b->pid_ns = namespace_here();
	b->size_bytes = BOARD_BYTES;
	secret_words_of(c, board_words(b));
	board_set_devices(b);
	MARK("board filled");
	b->version = BOARD_VERSION;
	b->magic = BOARD_MAGIC;
	s->board = b;
	return 0;
}

/* Gives a file its name, unless another has it: -EEXIST. */
static int name_it(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	return link(from, to) < 0 ? -errno : 0; /* a file system that cannot; the caller removes `from` */
}

/* The lock on what the pointer's name means, once it is held and still does. */
static int lease_lock(const char *path, int tries)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat held, named;

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (tries-- <= 0) {
			close(fd);
			return -EBUSY;
		}
		nanosleep(&(struct timespec){ .tv_nsec = LEASE_WAIT_NS }, NULL);
	}
	if (fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino)
		return fd;
	close(fd);
	return -ESTALE;
}

static int pointer_text(const struct session *s, char *text, size_t size, int recorder, int root)
{
	struct stat st = { 0 };
	int n;

	if (stat(s->folder, &st) < 0)
		st.st_dev = 0; /* taken away already */
	n = snprintf(text, size, "folder %s\nboot %.39s\ndevice %lld\nrecorder %d\n", s->folder,
		     s->board->boot_id[0] ? s->board->boot_id : "-", (long long)st.st_dev, recorder);
	return root ? n + snprintf(text + n, size - (size_t)n, "pid %d\n", root) : n;
}

/* A pointer has its name only when it is written and locked: whoever finds one
 * that is not locked may salvage and remove it. */
static int pointer_new(struct session *s)
{
	char path[sizeof s->pointer + 24], text[1024];
	int n = pointer_text(s, text, sizeof text, (int)getpid(), 0), fd, r;

	snprintf(path, sizeof path, "%s.new.%d", s->pointer, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	MARK("pointer made");
	r = flock(fd, LOCK_EX | LOCK_NB) < 0 || write(fd, text, (size_t)n) != n ? -errno : name_it(path, s->pointer);
	MARK("pointer named");
	unlink(path);
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

/* A recorder that was killed a moment ago may still be letting go, and left
 * its pointer. */
static int pointer_old(struct session *s)
{
	char text[1024];
	int n = pointer_text(s, text, sizeof text, (int)getpid(), 0), fd = lease_lock(s->pointer, LEASE_TRIES);

	if (fd >= 0 && (pwrite(fd, text, (size_t)n, 0) != n || ftruncate(fd, n) < 0)) {
		n = -errno;
		close(fd);
		return n;
	}
	return fd;
}

static int pointer_write(struct session *s, const char *store_folder)
{
	char live[4200];
	int r = -ESTALE;

	snprintf(live, sizeof live, "%s/live", store_folder);
	if (mkdir(live, 0700) < 0 && errno != EEXIST)
		return fail(-errno, "%s: %s", live, strerror(errno));
	snprintf(s->pointer, sizeof s->pointer, "%s/%s", live, s->id);
	/* Who held the old one may remove it at any moment: once more. */
	for (int i = 0; i < LEASE_TRIES && (r == -ESTALE || r == -ENOENT); i++) {
		r = pointer_new(s);
		if (r == -EEXIST)
			r = pointer_old(s);
	}
	if (r == -EBUSY)
		return fail(-EBUSY, "the session is being recorded already");
	if (r < 0)
		return fail(r, "%s: %s", s->pointer, strerror(-r));
	s->lease = r;
	return 0;
}

/* A link that is never followed: the pointer file, or a pid. */
static void point_back(const struct session *s)
{
	char link[320], pid[16];

	snprintf(link, sizeof link, "%s/pointer", s->folder);
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	if (symlink(s->pointer[0] ? s->pointer : pid, link) < 0)
		return; /* then it is never swept */
}

int session_create(struct session *s, const char *store_folder, const char *id, const struct config *c,
		   const struct clock *clock)
{
	int r = -EACCES;

	*s = (struct session){ .lease = -1 };
	snprintf(s->id, sizeof s->id, "%s", id);
	/* First where there is room for a while, then where there is any. */
	for (size_t i = 0; i < 2 * ROOTS && r < 0; i++) {
		r = live_folder(s, i % ROOTS, i < ROOTS);
		if (r == 0 && (r = board_create(s, c, clock)) < 0)
			folder_remove(s->folder); /* a full tmpfs, say: on to the next */
	}
	if (r == 0 && store_folder)
		r = pointer_write(s, store_folder);
	MARK("pointer locked");
	if (r == 0)
		point_back(s);
	MARK("board pointed back");
	if (r < 0)
		session_close(s, r != -EBUSY);
	return r;
}

void session_set_pids(struct session *s, int pid, int root)
{
	char text[1024];
	int n = pointer_text(s, text, sizeof text, pid, root);

	s->board->recorder_pid = (uint32_t)pid;
	if (s->pointer[0] == 0) {
		char link[320];

		snprintf(link, sizeof link, "%s/pointer", s->folder);
		unlink(link);
		snprintf(text, sizeof text, "%d", pid);
		if (symlink(text, link) < 0)
			return;
	}
	if (s->lease >= 0 && pwrite(s->lease, text, (size_t)n, 0) == n && ftruncate(s->lease, n) < 0)
		return; /* a longer number's tail stays: harmless */
}

static int pointer_read(struct session *s, char boot[40])
{
	char text[1024] = "";

	if (pread(s->lease, text, sizeof text - 1, 0) < 0)
		return fail(-errno, "%s: %s", s->pointer, strerror(errno));
	if (sscanf(text, "folder %279s\nboot %39s", s->folder, boot) != 2)
		return fail(-EBADMSG, "%s: not a session's pointer", s->pointer);
	return 0;
}

/* -ENOENT there is none, or it was never finished. */
static int board_map(struct session *s)
{
	char path[320];
	struct stat st;
	struct board *b;
	int fd, r = 0;

	snprintf(path, sizeof path, "%s/board", s->folder);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = errno == ENOTDIR ? -ENOENT : -errno;
		if (fd >= 0)
			close(fd);
		return fail(r, "%s: %s", path, strerror(-r));
	}
	b = st.st_size < (off_t)BOARD_BYTES ? NULL : mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	r = b == MAP_FAILED ? -errno : 0;
	close(fd);
	if (r < 0)
		return fail(r, "%s: %s", path, strerror(-r));
	if (b && b->magic == BOARD_MAGIC && b->version == BOARD_VERSION && b->slots == BOARD_SLOTS) {
		s->board = b;
		return 0;
	}
	r = b == NULL || b->magic != BOARD_MAGIC ? -ENOENT : -EPROTO;
	if (b)
		munmap(b, BOARD_BYTES);
	return r == -ENOENT ? fail(r, "%s: gone", path) : fail(r, "%s: of another version of snaptrail", path);
}

static long long pointer_number(const struct session *s, const char *name)
{
	char text[1024] = "";
	const char *at;

	if (s->lease < 0 || pread(s->lease, text, sizeof text - 1, 0) <= 0)
		return 0;
	at = strstr(text, name);
	return at ? atoll(at + strlen(name)) : 0;
}

/* Whether the file system that its folder was made in is the one that is seen here. */
static bool is_here(const struct session *s)
{
	long long device = pointer_number(s, "\ndevice ");
	char parent[sizeof s->folder];
	struct stat st;

	snprintf(parent, sizeof parent, "%s", s->folder);
	for (char *slash; device && (slash = strrchr(parent, '/')) && slash > parent;) {
		*slash = 0;
		if (stat(parent, &st) == 0)
			return (long long)st.st_dev == device;
	}
	return device == 0; /* it never said */
}

int session_attach(struct session *s, const char *pointer, bool take)
{
	char boot[40] = "", now[40] = "";
	int fd, r;

	*s = (struct session){ .lease = -1 };
	snprintf(s->pointer, sizeof s->pointer, "%s", pointer);
	snprintf(s->id, sizeof s->id, "%s", strrchr(pointer, '/') ? strrchr(pointer, '/') + 1 : pointer);
	fd = take ? lease_lock(pointer, 0) : open(pointer, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		r = take ? fd : -errno;
		s->pointer[0] = 0; /* nothing of it is ours */
		return r == -EBUSY || r == -ESTALE ? fail(-EBUSY, "the session is being recorded") :
						     fail(r, "%s: %s", pointer, strerror(-r));
	}
	s->lease = fd;
	r = pointer_read(s, boot);
	if (r < 0)
		return r;
	read_boot_id(now, sizeof now);
	if (strcmp(boot, "-") != 0 && now[0] && strcmp(boot, now) != 0) /* both are known */
		return fail(-EOWNERDEAD, "%s: of a time before the machine restarted", pointer);
	r = board_map(s);
	if (r == -ENOENT && !is_here(s))
		return fail(-EXDEV, "its rings cannot be seen from here: %s says where (remove it if they are gone for good)", pointer);
	return r;
}

int session_recorder_pid(const struct session *s) { return (int)pointer_number(s, "\nrecorder "); }
int session_root_pid(const struct session *s) { return (int)pointer_number(s, "\npid "); }

void session_release(struct session *s, bool remove)
{
	if (remove && s->board)
		s->board->closing = 1;
	MARK("pointer to go");
	if (remove && s->pointer[0])
		unlink(s->pointer);
	MARK("pointer gone");
	if (s->lease >= 0)
		close(s->lease);
	s->pointer[0] = 0;
	s->lease = -1;
}

/* A folder whose pointer is gone is swept by the next session, so that a kill
 * in the middle leaves nothing behind. */
void session_close(struct session *s, bool remove)
{
	session_release(s, remove);
	if (remove && s->folder[0])
		folder_remove(s->folder);
	if (s->board)
		munmap(s->board, BOARD_BYTES);
	s->board = NULL;
}

/* A pointer that was never named: its maker, whose number is its ending, was killed.
 * One that still lives, where we cannot see it, makes another. */
static void sweep_unnamed(const char *path, const char *name)
{
	int pid = strncmp(name + 16, ".new.", 5) == 0 ? atoi(name + 21) : 0;

	if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH)
		unlink(path);
}

int session_each_pointer(const char *store_folder, int (*each)(void *arg, const char *path, const char *id), void *arg)
{
	char live[4200], path[4500];
	const char *name;
	struct dir d;
	int r = 0;

	snprintf(live, sizeof live, "%s/live", store_folder);
	dir_open(&d, live);
	while (r == 0 && (name = dir_next(&d))) {
		snprintf(path, sizeof path, "%s/%s", live, name);
		if (strlen(name) == 16)
			r = each(arg, path, name);
		else if (strlen(name) > 21)
			sweep_unnamed(path, name);
	}
	dir_close(&d);
	return r;
}
