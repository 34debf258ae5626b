/* The real file system behind the table, and loops around short counts. */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mark.h"

/* Each call that changes something may be the last; a write in its middle, unless it
 * is of eight bytes in one page.  (After a failed one: tests/unit/test_store_calls.c.) */
static int real_open(const char *path, int flags, mode_t mode)
{
	int fd = open(path, flags, mode);

	if (flags & O_CREAT)
		MARK("io open");
	return fd;
}

static ssize_t real_pwrite(int fd, const void *p, size_t n, off_t at)
{
	MARK("io write");
#ifdef KILL_POINTS
	if (n > 8 && pwrite(fd, p, n / 2, at) > 0)
		MARK("io half written");
#endif
	return pwrite(fd, p, n, at);
}

static int real_fdatasync(int fd)
{
	MARK("io sync");
	return fdatasync(fd);
}

static int real_fsync(int fd)
{
	MARK("io sync folder");
	return fsync(fd);
}

static int real_rename(const char *from, const char *to)
{
	MARK("io rename");
	return rename(from, to);
}

static int real_unlink(const char *path)
{
	MARK("io unlink");
	return unlink(path);
}

const struct io_ops io_system = {
	.open = real_open, .pread = pread, .pwrite = real_pwrite, .ftruncate = ftruncate, .fdatasync = real_fdatasync,
	.fsync = real_fsync, .rename = real_rename, .mkdir = mkdir, .unlink = real_unlink,
};
const struct io_ops *io = &io_system;

static void nobody(bool begin) { (void)begin; }

void (*io_together)(bool begin) = nobody;

int io_pwrite_all(int fd, const void *p, size_t n, uint64_t at)
{
	const char *s = p;

	while (n) {
		ssize_t w = io->pwrite(fd, s, n, (off_t)at);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -EIO;
		s += w;
		at += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

int io_pread_all(int fd, void *p, size_t n, uint64_t at)
{
	char *s = p;

	while (n) {
		ssize_t r = io->pread(fd, s, n, (off_t)at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -EBADMSG;
		s += r;
		at += (uint64_t)r;
		n -= (size_t)r;
	}
	return 0;
}

int io_sync_folder(const char *path)
{
	int fd = io->open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), r;

	if (fd < 0)
		return -errno;
	r = io->fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}
