/* The real file system behind the table, and loops around short counts. */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int real_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

const struct io_ops io_system = {
	.open = real_open, .pread = pread, .pwrite = pwrite, .ftruncate = ftruncate, .fdatasync = fdatasync,
	.fsync = fsync, .rename = rename, .mkdir = mkdir, .unlink = unlink,
};
const struct io_ops *io = &io_system;

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
