/* The descriptors that a program image or a forked child begins with.
 *
 * Opening /proc/self/fd costs more than the rest of a start together (50 us
 * for three descriptors where a process takes 600), and most programs begin
 * with pipes, sockets and devices only: those are told by statx().  What else
 * is open, a device that is new to the session, or a table of more than
 * TABLE_MAX, and the kernel's own list is read. */
#include "began.h"

#include <poll.h>
#include <sys/select.h>
#include <sys/stat.h>

#include "sys.h"

#define ONE_BY_ONE 16
#define TABLE_MIN 64  /* what the kernel gives every process */
#define TABLE_MAX 256 /* bash keeps a descriptor at 255 */
#define NEW_DEVICES 8

static uint64_t new_devices[NEW_DEVICES];
static uint32_t new_count;

static void list_fd(struct list *l, int fd, const char *link, uint32_t n, uint64_t hash)
{
	uint8_t item[1024], *q = item;

	if (fd)
		q = put_uint(q, 1, (uint64_t)fd);
	if (n) {
		q = varint_put(tag_put(q, 2, 2), n);
		__builtin_memcpy(q, link, n);
		q += n;
	}
	if (hash)
		q = put_fixed64(q, 3, hash);
	list_put(l, CHANGE_FDS, item, (uint32_t)(q - item));
}

/* ---- without /proc ---- */

static bool is_open(int fd) { return sys3(SYS_fcntl, fd, F_GETFD, 0) >= 0; }

/* select() ignores descriptors beyond the process's table and refuses closed
 * ones within it, which tells how long the table is. */
static bool table_within(int n)
{
	unsigned long set[TABLE_MAX / 64 + 1] = { 0 };
	struct timeval now = { 0, 0 };

	set[n / 64] = 1ul << n % 64;
	return sys6(SYS_select, n + 1, (long)set, 0, 0, (long)&now, 0) >= 0 && !is_open(n);
}

/* A device's identity: its path is found by that later. */
static uint64_t device_hash(const struct statx *st)
{
	uint64_t h = hash_word(HASH_START, (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor);

	h = hash_word(hash_word(h, st->stx_ino), (uint64_t)st->stx_rdev_major << 32 | st->stx_rdev_minor);
	return h ? h : 1;
}

/* No network or user-space file system is asked. */
static bool identify(int fd, struct statx *st)
{
	return sys6(SYS_statx, fd, (long)"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, (long)st, 0) >= 0;
}

static bool list_known(struct list *l, int fd)
{
	struct board *b = visitor.board;
	char name[40];
	struct statx st;
	uint64_t dev, hash;

	if (!identify(fd, &st))
		return false;
	dev = (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor;
	if ((S_ISFIFO(st.stx_mode) && dev == b->pipe_dev) || (S_ISSOCK(st.stx_mode) && dev == b->socket_dev)) {
		uint32_t n = S_ISFIFO(st.stx_mode) ? 6 : 8;
		char digits[24];
		int k = 0;

		__builtin_memcpy(name, S_ISFIFO(st.stx_mode) ? "pipe:[" : "socket:[", n);
		do
			digits[k++] = (char)('0' + st.stx_ino % 10);
		while (st.stx_ino /= 10);
		while (k)
			name[n++] = digits[--k];
		name[n++] = ']';
		list_fd(l, fd, name, n, 0);
		return true;
	}
	hash = S_ISCHR(st.stx_mode) ? device_hash(&st) : 0;
	if (hash == 0 || !is_known(hash))
		return false;
	list_fd(l, fd, NULL, 0, hash);
	return true;
}

/* The low ones are asked one by one; of the others, which are hardly ever
 * open, poll() tells all at once.  (On one that is open it runs the file's own
 * poll, which does not wait.) */
static bool list_all_known(struct list *l)
{
	struct pollfd p[TABLE_MAX];
	int n = table_within(TABLE_MIN) ? TABLE_MIN : TABLE_MAX;

	for (int fd = 0; fd < ONE_BY_ONE; fd++)
		if (is_open(fd) && !list_known(l, fd))
			return false;
	if (n == TABLE_MAX && !table_within(TABLE_MAX))
		return false;
	for (int fd = ONE_BY_ONE; fd < n; fd++)
		p[fd] = (struct pollfd){ .fd = fd };
	if (sys3(SYS_poll, (long)(p + ONE_BY_ONE), n - ONE_BY_ONE, 0) < 0)
		return false;
	for (int fd = ONE_BY_ONE; fd < n; fd++)
		if (!(p[fd].revents & POLLNVAL) && !list_known(l, fd))
			return false;
	return true;
}

/* ---- from /proc ---- */

struct dirent64_raw {
	uint64_t ino, off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* A walk through /proc/self/fd, in ascending order, without the walk's own. */
struct walk {
	long dir, n, at;
	char link[1024];
	long len;
};

static bool walk_begin(struct walk *w)
{
	w->dir = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	w->n = w->at = 0;
	return w->dir >= 0;
}

static int number_of(const char *s)
{
	int v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (*s - '0');
	return *s ? -1 : v;
}

/* The next descriptor with its link, or -1 at the end, which closes. */
static int walk_next(struct walk *w)
{
	for (;;) {
		struct dirent64_raw *e = (struct dirent64_raw *)(scratch + w->at);
		int fd;

		if (w->at >= w->n) {
			w->at = 0;
			w->n = sys3(SYS_getdents64, w->dir, (long)scratch, 4096);
			if (w->n > 0)
				continue;
			sys_close((int)w->dir);
			return -1;
		}
		w->at += e->reclen;
		fd = number_of(e->name);
		if (fd < 0 || e->name[0] == '.' || fd == w->dir)
			continue;
		w->len = sys4(SYS_readlinkat, w->dir, (long)e->name, (long)w->link, sizeof w->link);
		if (w->len >= 0)
			return fd;
	}
}

bool inherited_list(struct list *l)
{
	uint8_t *begun = l->p;
	bool cut = l->cut, room = room_to_remember();
	struct walk w;
	int fd;

	new_count = 0;
	if (list_all_known(l) && !l->cut)
		return true;
	l->p = begun;
	l->cut = cut;
	if (!walk_begin(&w))
		return false;
	while ((fd = walk_next(&w)) >= 0) {
		struct statx st;
		uint64_t hash = room && new_count < NEW_DEVICES && identify(fd, &st) && S_ISCHR(st.stx_mode) ? device_hash(&st) : 0;

		list_fd(l, fd, w.link, w.len < 900 ? (uint32_t)w.len : 900, hash);
		if (hash)
			new_devices[new_count++] = hash;
	}
	return true;
}

void inherited_remember(void)
{
	for (uint32_t i = 0; i < new_count; i++)
		remember_known(new_devices[i]);
}

/* ---- a forked child ---- */

static void report_gap(int from, int to)
{
	if (from <= to)
		REPORT(.kind = FD_RANGE_CLOSED, .has_fd = true, .fd = from, .has_fd2 = true, .fd2 = to);
}

/* `link` names a ring file of this session: <ours>/<letter>.<pid>... */
static bool is_ring(const char *link, long len, const char *ours)
{
	long n = (long)__builtin_strlen(ours);

	return n && len > n + 2 && __builtin_memcmp(link, ours, (size_t)n) == 0 && link[n] == '/' && link[n + 2] == '.' &&
	       (link[n + 1] == 't' || link[n + 1] == 'r' || link[n + 1] == 'g');
}

/* Other threads open and close between the stamp of a fork and the instant at
 * which the kernel copies: what they did there is mended in the child, which
 * has one thread.  One of them may have been about to map a ring file: that
 * descriptor is ours and goes. */
void report_copied(const char *ours)
{
	bool wanted = visitor.groups & GROUP_RESOURCE;
	struct walk w;
	int fd, next = 0;

	if (!walk_begin(&w))
		return;
	while ((fd = walk_next(&w)) >= 0) {
		if (is_ring(w.link, w.len, ours)) {
			sys_close(fd);
			continue;
		}
		if (!wanted)
			continue;
		report_gap(next, fd - 1);
		next = fd + 1;
		REPORT(.kind = FD_OPENED, .has_fd = true, .fd = fd, .source = SOURCE_PROC,
		       .name = BYTES(w.link, w.len < 512 ? w.len : 512));
	}
	if (wanted)
		report_gap(next, INT32_MAX);
}
