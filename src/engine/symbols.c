/* Symbolising by elfutils' libdwfl: function, file and line from DWARF, else the
 * function from .symtab or .dynsym.  A file whose build id is not the one that
 * was loaded would give wrong names: it gives none and says so.  Without libdw
 * every answer is empty and readers print module+offset.  It is opened when the
 * first name is asked for: linked, it and its four libraries would cost every
 * command 0.3 ms.  See symbols.h. */
#include "engine/symbols.h"

#include "config.h"

#ifdef HAVE_LIBDW
#include <dlfcn.h>
#include <elfutils/libdwfl.h>

#define LIBRARY "libdw.so.1"
#define FUNCTIONS(X) \
	X(dwfl_begin) X(dwfl_end) X(dwfl_report_offline) X(dwfl_report_end) X(dwfl_module_getelf) X(dwfl_module_build_id) \
	X(dwfl_module_addrinfo) X(dwfl_module_getsrc) X(dwfl_lineinfo) X(dwfl_build_id_find_elf) \
	X(dwfl_standard_find_debuginfo) X(dwfl_offline_section_address)

static struct {
#define MEMBER(name) __typeof__(&name) name;
	FUNCTIONS(MEMBER)
} dw;

/* Once; what was opened stays. */
static bool library_open(void)
{
	void *lib = dw.dwfl_begin ? NULL : dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	bool all = dw.dwfl_begin || lib;

#define FIND(name) \
	if (lib && !(*(void **)&dw.name = dlsym(lib, #name))) \
		all = false;
	FUNCTIONS(FIND)
	if (!all)
		dw.dwfl_begin = NULL;
	return all;
}

struct opened {
	uint64_t module;
	Dwfl *dwfl;
	Dwfl_Module *file;
	uint64_t bias;           /* libdwfl's address minus the file's own */
	const char *why;
};

struct symbols {
	struct opened *modules;
	size_t n;
};

struct symbols *symbols_new(void) { return xcalloc(1, sizeof(struct symbols)); }

void symbols_free(struct symbols *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n; i++)
		if (s->modules[i].dwfl)
			dw.dwfl_end(s->modules[i].dwfl);
	free(s->modules);
	free(s);
}

static bool same_build(Dwfl_Module *file, struct bytes id)
{
	const unsigned char *bits;
	GElf_Addr at;
	int n = dw.dwfl_module_build_id(file, &bits, &at);

	return n > 0 && id.n ? (uint32_t)n == id.n && memcmp(bits, id.p, id.n) == 0 : n <= 0 && id.n == 0;
}

static void module_open(struct opened *o, const struct model_frame *f)
{
	static char *debug_path; /* libdwfl's own default */
	static Dwfl_Callbacks callbacks = { .debuginfo_path = &debug_path };
	_cleanup_buf_ struct buf path = BUF_INIT;
	GElf_Addr bias = 0;

	if (!library_open()) {
		o->why = LIBRARY " is not here";
		return;
	}
	callbacks.find_elf = dw.dwfl_build_id_find_elf;
	callbacks.find_debuginfo = dw.dwfl_standard_find_debuginfo;
	callbacks.section_address = dw.dwfl_offline_section_address;
	buf_put(&path, f->path.p, f->path.n);
	o->dwfl = dw.dwfl_begin(&callbacks);
	if (o->dwfl)
		o->file = dw.dwfl_report_offline(o->dwfl, "module", buf_cstr(&path), -1);
	if (o->file == NULL) {
		o->why = "the file is gone";
		return;
	}
	dw.dwfl_report_end(o->dwfl, NULL, NULL);
	if (dw.dwfl_module_getelf(o->file, &bias) == NULL)
		o->why = "the file cannot be read";
	else if (!same_build(o->file, f->build_id))
		o->why = "the file is of another build";
	o->bias = bias;
}

static const struct opened *module_of(struct symbols *s, const struct model_frame *f)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->modules[i].module == f->module)
			return &s->modules[i];
	s->modules = xrealloc(s->modules, (s->n + 1) * sizeof *s->modules);
	s->modules[s->n] = (struct opened){ .module = f->module };
	module_open(&s->modules[s->n], f);
	return &s->modules[s->n++];
}

/* A return address lies behind its call, at times in the next function. */
void symbols_find(struct symbols *s, const struct model_frame *f, struct symbol *ret)
{
	const struct opened *o = f->path.n ? module_of(s, f) : NULL;
	GElf_Off offset = 0;
	GElf_Sym sym;
	GElf_Addr at;
	Dwfl_Line *line;

	*ret = (struct symbol){ .why = o ? o->why : NULL };
	if (o == NULL || o->why)
		return;
	at = f->address - f->bias + o->bias - 1;
	ret->name = dw.dwfl_module_addrinfo(o->file, at, &offset, &sym, NULL, NULL, NULL);
	ret->offset = offset + 1;
	line = dw.dwfl_module_getsrc(o->file, at);
	if (line)
		ret->file = dw.dwfl_lineinfo(line, NULL, &ret->line, NULL, NULL, NULL);
}

#else

struct symbols {
	int none;
};

struct symbols *symbols_new(void) { return xcalloc(1, sizeof(struct symbols)); }
void symbols_free(struct symbols *s) { free(s); }

void symbols_find(struct symbols *s, const struct model_frame *f, struct symbol *ret)
{
	(void)s, (void)f;
	*ret = (struct symbol){ 0 };
}

#endif
