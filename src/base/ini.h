/* INI files, read with inih: lines counted, indentation and comments of any
 * length allowed, mistakes named by file and line. */
#ifndef SNAPTRAIL_BASE_INI_H
#define SNAPTRAIL_BASE_INI_H

/* What a file says, in order.  `origin` is "FILE:LINE"; a negative errno with its
 * detail ends the reading. */
struct ini_reader {
	int (*section)(void *arg, const char *name, const char *origin);
	int (*key)(void *arg, const char *section, const char *name, const char *value, const char *origin);
	void *arg;
};

/* -ENOENT: there is no such file; -EINVAL: `file:line: what`. */
int ini_read(const char *path, const struct ini_reader *r);

#endif
