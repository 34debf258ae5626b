/* Can a program be injected?  Looks at its file, and at the files it needs,
 * without running anything.  Used by `run` before the start, by the exec hook's
 * host and by doctor.  Any thread; no state. */
#ifndef SNAPTRAIL_ENGINE_INJECT_H
#define SNAPTRAIL_ENGINE_INJECT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

struct inject_report {
	bool can;
	char reason[256];            /* why not; "" when it can */
	char program[PATH_MAX];      /* the ELF file that runs in the end: a script's interpreter */
	char loader[256];            /* its PT_INTERP */
	bool is_script;
	bool unreadable;             /* may be executed but not read: nothing is known */
	bool needs_asan_first;       /* asan_path must come before us in LD_PRELOAD */
	char asan_path[PATH_MAX];
	bool needs_sd;               /* it needs libsystemd: preload the sd object too */
	bool is_go;                  /* system calls go past libc */
	bool has_omp, has_gomp, has_uring;
};

/* 0 when it can; -ENOEXEC (detail = ret->reason), -ENOENT, -EACCES.
 * `program_path` is a path, not a name: see inject_find_program(). */
int inject_check(const char *program_path, struct inject_report *ret);

/* The files in which Intel's ITT is, ", " between them; "" for none.  Reads them all. */
void inject_find_itt(const struct inject_report *r, char *ret, size_t size);

/* Searches PATH as execvp does.  -ENOENT: exit status 127; -EACCES: 126. */
int inject_find_program(const char *name, char ret_path[PATH_MAX]);

#endif
