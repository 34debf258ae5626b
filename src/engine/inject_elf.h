/* What inject.c wants to know of one ELF file, and where the loader would find
 * the libraries it needs. */
#ifndef SNAPTRAIL_ENGINE_INJECT_ELF_H
#define SNAPTRAIL_ENGINE_INJECT_ELF_H

#include <limits.h>
#include <stdbool.h>

#define ELF_NEEDED_MAX 64

struct elf_file {
	bool is_elf, native;         /* native: our class, byte order and machine */
	bool is_64;
	int machine, type;           /* e_machine, e_type */
	bool has_interp, has_dynamic, is_go;
	char interp[256], soname[128], runpath[1024];
	char *needed[ELF_NEEDED_MAX];
	int needed_count;
};

/* 0, -ENOENT, -EACCES or -EBADMSG for a file that is cut short or nonsense. */
int elf_read(const char *path, struct elf_file *ret);
void elf_done(struct elf_file *e);

/* Calls back with the path of every library that `path` needs, and of those
 * that they need, each once, in the loader's order. */
void elf_walk_needed(const char *path, const struct elf_file *e,
		     void (*each)(void *arg, const char *soname, const char *path), void *arg);

#endif
