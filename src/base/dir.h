/* Reading a folder's names without opendir(), which allocates by malloc: the
 * engine's thread in a target must not.  Embedded; `.` and `..` are left out.
 * A folder that cannot be opened has no names. */
#ifndef SNAPTRAIL_BASE_DIR_H
#define SNAPTRAIL_BASE_DIR_H

#include <stdbool.h>
#include <stdint.h>

struct dir {
	int fd;                  /* -1: could not be opened, errno says why */
	int error;               /* errno of what failed: there may be more names; 0 nothing */
	int32_t len, pos;
	uint64_t align;
	char bytes[2048];
};

bool dir_open(struct dir *d, const char *path);
/* The next name, valid until the next call; NULL at the end. */
const char *dir_next(struct dir *d);
/* From the first name again. */
void dir_rewind(struct dir *d);
void dir_close(struct dir *d);

#endif
