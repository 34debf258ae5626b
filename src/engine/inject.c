/* The verdict on a program: can the loader be made to bring the visitor along,
 * and what must stand beside it?  Called by `run` before the start and by
 * doctor.  It opens files for reading and never executes anything; what it
 * cannot read it does not guess at. */
#include "engine/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/inject_elf.h"

#define SCRIPT_DEPTH_MAX 5
#define ELFMAG_TEXT "\177ELF"

static int cannot(struct inject_report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int cannot(struct inject_report *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->reason, sizeof r->reason, fmt, ap);
	va_end(ap);
	r->can = false;
	return fail(-ENOEXEC, "%s", r->reason);
}

/* ---- finding it ---- */

static int executable(const char *path)
{
	struct stat sb;

	if (stat(path, &sb) < 0)
		return errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG ? -ENOENT : -errno;
	if (!S_ISREG(sb.st_mode))
		return -EACCES;
	return access(path, X_OK) < 0 ? -errno : 0;
}

static int not_found(int code, const char *name)
{
	return fail(code, "%s: %s", name, code == -EACCES ? "cannot be executed" : code == -ENOENT ? "no such program" : strerror(-code));
}

int inject_find_program(const char *name, char ret_path[PATH_MAX])
{
	const char *path = getenv("PATH");
	int result = -ENOENT, r;

	if (strchr(name, '/')) {
		snprintf(ret_path, PATH_MAX, "%s", name);
		r = executable(name);
		return r < 0 ? not_found(r, name) : 0;
	}
	if (!*name)
		return not_found(-ENOENT, "''");
	if (!path)
		path = "/bin:/usr/bin";
	for (;; path++) {
		size_t n = strcspn(path, ":");

		/* An empty element is the current folder. */
		if (snprintf(ret_path, PATH_MAX, "%.*s%s%s", (int)n, path, n ? "/" : "./", name) < PATH_MAX) {
			r = executable(ret_path);
			if (r == 0)
				return 0;
			if (r != -ENOENT)
				result = r;
		}
		path += n;
		if (!*path)
			return not_found(result, name);
	}
}

/* ---- scripts ---- */

/* The word at *text, cut off in place; NULL at the end. */
static char *next_word(char **text)
{
	char *word = *text + strspn(*text, " \t\r");

	if (!*word)
		return NULL;
	*text = word + strcspn(word, " \t\r");
	if (**text)
		*(*text)++ = '\0';
	return word;
}

/* `#!/usr/bin/env [-S] [NAME=VALUE] python3`: the program that env runs. */
static int follow_env(char *rest, char path[PATH_MAX])
{
	char *word;

	while ((word = next_word(&rest)) && (*word == '-' || strchr(word, '=')))
		;
	return word ? inject_find_program(word, path) : 0;
}

/* 1 when path was a script and now names its interpreter, 0 when it is none. */
static int follow_script(char path[PATH_MAX])
{
	char line[256], *rest, *word;
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;
	ssize_t n;

	if (fd < 0)
		return errno == EACCES ? 0 : fail(-errno, "%s: %s", path, strerror(errno));
	n = read(fd, line, sizeof line - 1);
	close(fd);
	if (n <= 0 || memchr(line, 0, (size_t)n < 4 ? (size_t)n : 4) || memcmp(line, ELFMAG_TEXT, 4) == 0)
		return 0;
	line[n] = '\0';
	if (memcmp(line, "#!", 2) != 0) {
		/* execvp gives what the kernel refuses to the shell. */
		if (strlen(line) < (size_t)n)
			return 0;
		return snprintf(path, PATH_MAX, "/bin/sh") > 0;
	}
	line[strcspn(line, "\n")] = '\0';
	rest = line + 2;
	word = next_word(&rest);
	if (!word)
		return 0;
	r = executable(word);
	if (r < 0)
		return fail(r, "%s: its interpreter %s is missing or cannot be executed", path, word);
	snprintf(path, PATH_MAX, "%s", word);
	word = strrchr(path, '/');
	if (word && strcmp(word, "/env") == 0 && (r = follow_env(rest, path)) < 0)
		return r;
	return 1;
}

/* ---- privileges ---- */

static int check_privileges(const char *path, struct inject_report *r)
{
	struct statvfs fs;
	struct stat sb;
	char caps[64];

	if (stat(path, &sb) < 0)
		return 0;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 || (statvfs(path, &fs) == 0 && (fs.f_flag & ST_NOSUID)))
		return 0; /* the bits mean nothing here */
	if ((sb.st_mode & S_ISUID) && (sb.st_uid != geteuid() || geteuid() != getuid()))
		return cannot(r, "%s is set-user-id: the loader ignores a preload in silence", path);
	if ((sb.st_mode & S_ISGID) && (sb.st_mode & S_IXGRP) && sb.st_gid != getegid())
		return cannot(r, "%s is set-group-id: the loader ignores a preload in silence", path);
	/* The kernel does not call it a change of privileges when root runs it. */
	if (getuid() != 0 && getxattr(path, "security.capability", caps, sizeof caps) > 0)
		return cannot(r, "%s has file capabilities: the loader ignores a preload in silence", path);
	return 0;
}

/* ---- the file ---- */

static void note_library(void *arg, const char *soname, const char *path)
{
	struct inject_report *r = arg;

	if (strncmp(soname, "libasan.so", 10) == 0 || strncmp(soname, "libclang_rt.asan", 16) == 0) {
		r->needs_asan_first = true;
		snprintf(r->asan_path, sizeof r->asan_path, "%s", *path ? path : soname);
	}
	r->needs_sd |= strncmp(soname, "libsystemd.so", 13) == 0;
	r->has_gomp |= strncmp(soname, "libgomp.so", 10) == 0;
	r->has_omp |= strncmp(soname, "libomp.so", 9) == 0 || strncmp(soname, "libiomp5.so", 11) == 0;
	r->has_uring |= strncmp(soname, "liburing.so", 11) == 0;
}

static bool is_glibc_loader(const char *loader)
{
	static const char *const names[] = { "ld-linux", "ld.so.", "ld64.so.", "ld-2." };
	const char *base = strrchr(loader, '/');

	base = base ? base + 1 : loader;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strncmp(base, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

static int check_loader(const char *path, const struct elf_file *e, struct inject_report *r)
{
	if (!e->has_interp) {
		/* The loader as a command, `ld-linux.so.2 program`, is fine. */
		if (is_glibc_loader(e->soname))
			return 0;
		if (e->is_go)
			return cannot(r, "%s is a Go program without cgo: it has no loader that could bring us in", path);
		return cannot(r, "%s is statically linked%s: it has no loader that could bring us in", path,
			      e->has_dynamic ? " (position independent)" : "");
	}
	snprintf(r->loader, sizeof r->loader, "%s", e->interp);
	if (strstr(e->interp, "ld-musl"))
		return cannot(r, "%s runs on musl, another libc than glibc (%s)", path, e->interp);
	if (!is_glibc_loader(e->interp))
		return cannot(r, "%s runs on another libc than glibc (%s)", path, e->interp);
	if (access(e->interp, X_OK) == 0)
		return 0;
	if (errno == ENOENT || errno == ENOTDIR)
		return cannot(r, "%s needs the loader %s, which is not here", path, e->interp);
	return fail(-errno, "%s: %s", e->interp, strerror(errno));
}

static int check_elf(const char *path, const struct elf_file *e, struct inject_report *r)
{
	int result;

	if (!e->is_elf)
		return cannot(r, "%s is neither an ELF program nor a script", path);
	if (!e->native && e->is_64 != (sizeof(void *) == 8))
		return cannot(r, "%s is a %d-bit program, snaptrail's visitor has %d bits", path, e->is_64 ? 64 : 32,
			      (int)sizeof(void *) * 8);
	if (!e->native)
		return cannot(r, "%s is built for another machine (ELF machine %d)", path, e->machine);
	r->is_go = e->is_go;
	result = check_loader(path, e, r);
	if (result == 0)
		elf_walk_needed(path, e, note_library, r);
	return result;
}

int inject_check(const char *program_path, struct inject_report *ret)
{
	struct elf_file e;
	int r = executable(program_path);

	memset(ret, 0, sizeof *ret);
	if (r < 0)
		return not_found(r, program_path);
	snprintf(ret->program, sizeof ret->program, "%s", program_path);
	for (int depth = 0; (r = follow_script(ret->program)) > 0; depth++) {
		ret->is_script = true;
		if (depth == SCRIPT_DEPTH_MAX)
			return cannot(ret, "%s: scripts that run each other without end", program_path);
	}
	if (r < 0)
		return r;
	r = check_privileges(ret->program, ret);
	if (r < 0)
		return r;
	r = elf_read(ret->program, &e);
	if (r == -EACCES) {
		ret->can = ret->unreadable = true;
		return 0;
	}
	if (r == -EBADMSG)
		r = cannot(ret, "%s is a damaged ELF file", ret->program);
	else if (r < 0)
		r = fail(r, "%s: %s", ret->program, strerror(-r));
	else
		r = check_elf(ret->program, &e, ret);
	elf_done(&e);
	ret->can = r == 0;
	return r;
}

/* ---- ITT ---- */

struct itt_search {
	char *found;
	size_t size;
};

/* Its static part looks for a collector under this name; nothing else tells that it
 * is there. */
static void look_for_itt(void *arg, const char *name, const char *path)
{
	static const char word[] = "INTEL_LIBITTNOTIFY64";
	struct itt_search *s = arg;
	int fd = *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	size_t used = strlen(s->found);
	struct stat sb;
	void *p;

	if (fd < 0)
		return;
	p = fstat(fd, &sb) == 0 && sb.st_size > 0 ? mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
	close(fd);
	if (p == MAP_FAILED)
		return;
	if (memmem(p, (size_t)sb.st_size, word, sizeof word - 1))
		snprintf(s->found + used, s->size - used, "%s%s", used ? ", " : "", name);
	munmap(p, (size_t)sb.st_size);
}

void inject_find_itt(const struct inject_report *r, char *ret, size_t size)
{
	struct itt_search s = { ret, size };
	struct elf_file e;
	const char *base = strrchr(r->program, '/');

	*ret = 0;
	if (elf_read(r->program, &e) == 0) {
		look_for_itt(&s, base ? base + 1 : r->program, r->program);
		elf_walk_needed(r->program, &e, look_for_itt, &s);
	}
	elf_done(&e);
}
