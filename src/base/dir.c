/* Folders by getdents64; see dir.h. */
#include "base/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

bool dir_open(struct dir *d, const char *path)
{
	d->len = d->pos = 0;
	d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d->error = d->fd < 0 ? errno : 0;
	return d->fd >= 0;
}

const char *dir_next(struct dir *d)
{
	for (;;) {
		const struct dirent64 *e;

		if (d->fd < 0)
			return NULL;
		if (d->pos >= d->len) {
			d->pos = 0;
			d->len = (int32_t)getdents64(d->fd, d->bytes, sizeof d->bytes);
			if (d->len <= 0) {
				d->error = d->len < 0 ? errno : 0;
				d->len = 0;
				return NULL;
			}
		}
		e = (const struct dirent64 *)(const void *)(d->bytes + d->pos);
		d->pos += e->d_reclen;
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			return e->d_name;
	}
}

void dir_rewind(struct dir *d)
{
	d->len = d->pos = 0;
	d->error = d->fd < 0 ? d->error : 0;
	if (d->fd >= 0)
		lseek(d->fd, 0, SEEK_SET);
}

void dir_close(struct dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}
