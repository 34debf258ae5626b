/* Reads ELF headers and walks DT_NEEDED.  Every offset is checked against the
 * file's size: the files are other people's.  The library search is the
 * loader's without its cache: RUNPATH, LD_LIBRARY_PATH, our own libc's folder,
 * the folders of ld.so.conf, the standard ones. */
#include "engine/inject_elf.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

struct image {
	const uint8_t *data;
	size_t size;
};

static bool inside(const struct image *m, uint64_t offset, uint64_t len)
{
	return offset <= m->size && len <= m->size - offset;
}

/* A NUL-terminated string at offset, or "". */
static const char *text_at(const struct image *m, uint64_t offset)
{
	if (offset >= m->size || !memchr(m->data + offset, 0, m->size - offset))
		return "";
	return (const char *)m->data + offset;
}

static bool segment_at(const struct image *m, size_t i, ElfW(Phdr) *ret)
{
	ElfW(Ehdr) h;

	memcpy(&h, m->data, sizeof h);
	if (i >= h.e_phnum || h.e_phentsize != sizeof *ret || !inside(m, h.e_phoff + i * sizeof *ret, sizeof *ret))
		return false;
	memcpy(ret, m->data + h.e_phoff + i * sizeof *ret, sizeof *ret);
	return true;
}

/* Where an address of the loaded program lies in the file. */
static uint64_t file_offset(const struct image *m, uint64_t address)
{
	ElfW(Phdr) p;

	for (size_t i = 0; segment_at(m, i, &p); i++)
		if (p.p_type == PT_LOAD && address >= p.p_vaddr && address - p.p_vaddr < p.p_filesz)
			return p.p_offset + (address - p.p_vaddr);
	return UINT64_MAX;
}

static void read_dynamic(const struct image *m, const ElfW(Phdr) *p, struct elf_file *e)
{
	size_t n = p->p_filesz / sizeof(ElfW(Dyn));
	uint64_t strings = UINT64_MAX;
	ElfW(Dyn) d;

	if (!inside(m, p->p_offset, p->p_filesz))
		return;
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < n; i++) {
			memcpy(&d, m->data + p->p_offset + i * sizeof d, sizeof d);
			if (d.d_tag == DT_NULL)
				break;
			if (pass == 0 && d.d_tag == DT_STRTAB)
				strings = file_offset(m, d.d_un.d_ptr);
			if (pass == 0 || strings >= m->size || d.d_un.d_val >= m->size)
				continue;
			const char *s = text_at(m, strings + d.d_un.d_val);

			if (d.d_tag == DT_NEEDED && e->needed_count < ELF_NEEDED_MAX)
				e->needed[e->needed_count++] = xstrdup(s);
			else if (d.d_tag == DT_SONAME)
				snprintf(e->soname, sizeof e->soname, "%s", s);
			else if (d.d_tag == DT_RUNPATH || (d.d_tag == DT_RPATH && !*e->runpath))
				snprintf(e->runpath, sizeof e->runpath, "%s", s);
		}
	}
}

static void read_note(const struct image *m, const ElfW(Phdr) *p, struct elf_file *e)
{
	ElfW(Nhdr) n;

	if (p->p_filesz < sizeof n + 4 || !inside(m, p->p_offset, p->p_filesz))
		return;
	memcpy(&n, m->data + p->p_offset, sizeof n);
	if (n.n_namesz == 4 && memcmp(m->data + p->p_offset + sizeof n, "Go\0", 4) == 0)
		e->is_go = true;
}

static int parse_image(const struct image *m, struct elf_file *e)
{
	ElfW(Ehdr) h;
	ElfW(Phdr) p;

	if (m->size < EI_NIDENT + 4 || memcmp(m->data, ELFMAG, SELFMAG) != 0)
		return 0;
	e->is_elf = true;
	e->is_64 = m->data[EI_CLASS] == ELFCLASS64;
	/* e_type and e_machine lie at the same place in both classes. */
	e->type = m->data[16] | m->data[17] << 8;
	e->machine = m->data[18] | m->data[19] << 8;
	e->native = m->data[EI_CLASS] == (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) &&
		    m->data[EI_DATA] == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB) &&
		    e->machine == EM_X86_64 /* as the visitor's is */;
	if (!e->native)
		return 0;
	if (m->size < sizeof h)
		return -EBADMSG;
	for (size_t i = 0; segment_at(m, i, &p); i++) {
		if (p.p_type == PT_INTERP) {
			e->has_interp = true;
			snprintf(e->interp, sizeof e->interp, "%s", text_at(m, p.p_offset));
		} else if (p.p_type == PT_DYNAMIC) {
			e->has_dynamic = true;
			read_dynamic(m, &p, e);
		} else if (p.p_type == PT_NOTE) {
			read_note(m, &p, e);
		}
	}
	return 0;
}

int elf_read(const char *path, struct elf_file *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
	struct image m = { NULL, 0 };
	struct stat sb;
	void *map;

	memset(ret, 0, sizeof *ret);
	if (fd < 0)
		return errno == EPERM ? -EACCES : -errno;
	if (fstat(fd, &sb) < 0) {
		r = -errno;
	} else if (S_ISREG(sb.st_mode) && sb.st_size > 0) {
		map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map != MAP_FAILED) {
			m = (struct image){ map, (size_t)sb.st_size };
			r = parse_image(&m, ret);
			munmap(map, m.size);
		} else {
			r = -errno;
		}
	}
	close(fd);
	return r;
}

void elf_done(struct elf_file *e)
{
	while (e->needed_count > 0)
		free(e->needed[--e->needed_count]);
}

/* ---- the library search ---- */

#define WALK_MAX 512

struct walk {
	char *seen[WALK_MAX];        /* sonames */
	int count;
	char *folders[128];          /* standard ones */
	int folder_count;
	void (*each)(void *arg, const char *soname, const char *path);
	void *arg;
};

static void add_folder(struct walk *w, const char *dir, size_t len)
{
	if (len > 0 && dir[0] == '/' && w->folder_count < 127)
		w->folders[w->folder_count++] = xasprintf("%.*s", (int)len, dir);
}

static void add_folders(struct walk *w, const char *list)
{
	while (list && *list) {
		size_t n = strcspn(list, ":");

		add_folder(w, list, n);
		list += n + (list[n] == ':');
	}
}

static void add_conf(struct walk *w)
{
	glob_t g = { 0 };
	char line[512];

	if (glob("/etc/ld.so.conf.d/*.conf", 0, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc; i++) {
			FILE *f = fopen(g.gl_pathv[i], "re");

			while (f && fgets(line, sizeof line, f))
				add_folder(w, line, strcspn(line, " \t\n#"));
			if (f)
				fclose(f);
		}
	}
	globfree(&g);
}

static void standard_folders(struct walk *w)
{
	Dl_info libc;
	const char *slash;

	add_folders(w, getenv("LD_LIBRARY_PATH"));
	if (dladdr((void *)(uintptr_t)getenv, &libc) && libc.dli_fname && (slash = strrchr(libc.dli_fname, '/')))
		add_folder(w, libc.dli_fname, (size_t)(slash - libc.dli_fname));
	add_conf(w);
	add_folders(w, "/lib64:/usr/lib64:/lib:/usr/lib:/usr/local/lib");
}

static bool native_library(const char *path)
{
	struct elf_file e;
	bool yes = elf_read(path, &e) == 0 && e.native;

	elf_done(&e);
	return yes;
}

/* Tries each folder of a RUNPATH, $ORIGIN being that of the library that has it. */
static bool find_in_runpath(const char *runpath, const char *owner, const char *name, char ret_path[PATH_MAX])
{
	const char *slash = strrchr(owner, '/');
	int origin_len = slash ? (int)(slash - owner) : 0;

	while (*runpath) {
		size_t n = strcspn(runpath, ":"), skip = 0;

		if (strncmp(runpath, "$ORIGIN", 7) == 0)
			skip = 7;
		else if (strncmp(runpath, "${ORIGIN}", 9) == 0)
			skip = 9;
		if (snprintf(ret_path, PATH_MAX, "%.*s%.*s/%s", skip ? origin_len : 0, owner,
			     (int)(n - skip), runpath + skip, name) < PATH_MAX && native_library(ret_path))
			return true;
		runpath += n + (runpath[n] == ':');
	}
	return false;
}

static bool find_library(struct walk *w, const struct elf_file *owner, const char *owner_path, const char *name,
			 char ret_path[PATH_MAX])
{
	if (strchr(name, '/')) {
		snprintf(ret_path, PATH_MAX, "%s", name);
		return native_library(ret_path);
	}
	if (find_in_runpath(owner->runpath, owner_path, name, ret_path))
		return true;
	for (int i = 0; i < w->folder_count; i++)
		if (snprintf(ret_path, PATH_MAX, "%s/%s", w->folders[i], name) < PATH_MAX && native_library(ret_path))
			return true;
	ret_path[0] = '\0';
	return false;
}

static bool seen_before(struct walk *w, const char *name)
{
	for (int i = 0; i < w->count; i++)
		if (strcmp(w->seen[i], name) == 0)
			return true;
	if (w->count == WALK_MAX)
		return true;
	w->seen[w->count++] = xstrdup(name);
	return false;
}

static void walk_one(struct walk *w, const char *owner_path, const struct elf_file *owner)
{
	char (*found)[PATH_MAX] = xcalloc((size_t)owner->needed_count + 1, PATH_MAX);

	for (int i = 0; i < owner->needed_count; i++) {
		if (seen_before(w, owner->needed[i]))
			continue;
		find_library(w, owner, owner_path, owner->needed[i], found[i]);
		w->each(w->arg, owner->needed[i], found[i]);
	}
	for (int i = 0; i < owner->needed_count; i++) {
		struct elf_file e;

		if (found[i][0] && elf_read(found[i], &e) == 0)
			walk_one(w, found[i], &e);
		else if (!found[i][0])
			continue;
		elf_done(&e);
	}
	free(found);
}

void elf_walk_needed(const char *path, const struct elf_file *e,
		     void (*each)(void *arg, const char *soname, const char *path), void *arg)
{
	struct walk w = { .each = each, .arg = arg };

	standard_folders(&w);
	walk_one(&w, path, e);
	while (w.count > 0)
		free(w.seen[--w.count]);
	while (w.folder_count > 0)
		free(w.folders[--w.folder_count]);
}
