/* The file system as the store sees it: one small table of functions, so that
 * tests can make any call fail.  Each behaves as the system call of its name. */
#ifndef SNAPTRAIL_BASE_IO_H
#define SNAPTRAIL_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct io_ops {
	int (*open)(const char *path, int flags, mode_t mode);
	ssize_t (*pread)(int fd, void *p, size_t n, off_t at);
	ssize_t (*pwrite)(int fd, const void *p, size_t n, off_t at);
	int (*ftruncate)(int fd, off_t n);
	int (*fdatasync)(int fd);
	int (*fsync)(int fd);
	int (*rename)(const char *from, const char *to);
	int (*mkdir)(const char *path, mode_t mode);
	int (*unlink)(const char *path);
};
extern const struct io_ops io_system;
extern const struct io_ops *io;

/* All n bytes, or a negative errno. */
int io_pwrite_all(int fd, const void *p, size_t n, uint64_t at);
/* Exactly n bytes; -EBADMSG at the end of the file. */
int io_pread_all(int fd, void *p, size_t n, uint64_t at);
/* fsync of a folder. */
int io_sync_folder(const char *path);

/* Told before and after writes that mean something only together; set once, before
 * the first.  A recorder within a program keeps its exec from falling between them. */
extern void (*io_together)(bool begin);

#endif
