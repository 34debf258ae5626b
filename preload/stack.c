/* The third object: call stacks.  `snaptrail run` preloads it where the profile
 * asks for stacks; it hands its walk to the visitor, which calls it on target
 * threads for each report of the groups that want one.
 *
 * libunwind's own local walk is not for a guest: it opens a pipe, writes into it
 * to see whether memory is readable, takes the loader's lock and wants several
 * KiB of stack.  So it is asked something smaller, once for each return address:
 * "unwind one frame from here", over an address space of our own in which the
 * stack pointer, the frame pointer and every word of the stack are made-up
 * numbers.  What comes out says where the caller's frame, frame pointer and
 * return address lie; that rule is one word in a table.  A walk then reads the
 * thread's own stack and that table and nothing else: no lock, no allocation, no
 * system call, a few nanoseconds a frame, within known bounds, so that wrong
 * unwind information cannot make it fault.
 *
 * Rules are learnt on a stack of our own, with signals blocked, by one thread at
 * a time; who finds it busy goes without.  (A child forked at that very moment by
 * another thread inherits the closed gate: it names stacks along frames that were
 * known and counts the others.)  Modules are found by the lock-free
 * _dl_find_object(), so nothing here takes the loader's lock or minds who has it.
 *
 * libunwind is opened RTLD_LOCAL: linked, it would come to the global scope and
 * its _Unwind_* in place of libgcc's, for the target's exceptions. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "stack.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <libunwind.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <sys/auxv.h>

#include "sys.h"

uint32_t sys_forbidden; /* never: who walks is told whether it may call */

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define RULES 8192u             /* return addresses; beyond these a walk ends early */
#define PROBES 8u
#define IDS 4096u               /* stacks; beyond these each is explained again */
#define MODULES 1024u           /* module 0: none */
#define DEPTH_MAX 64u
#define LEARN_STACK (64 * 1024)
#define SCAN_BYTES (64 * 1024)  /* how far up a handler's frame is looked for before learning */
#define ROOM_BYTES 6144         /* of the thread's stack that must be left */
#define MAIN_STACK_BYTES (64ul << 20) /* nothing else is mapped this near below the main thread's stack */
#define BOUNDS_TRIES 8

void snaptrail_visitor_stacks(stack_function walk) __attribute__((weak));
bool snaptrail_visitor_hosts(void) __attribute__((weak));
extern void *__libc_stack_end;
extern int dwarf_search_unwind_table_type(unw_addr_space_t, unw_word_t, unw_dyn_info_t *, unw_proc_info_t *, int, void *);

/* ---- tables: written by who holds the gate, read by anyone ---- */

struct module {
	uint64_t id;
	uintptr_t start, end;
	const struct link_map *map;
	const void *eh_frame;
	bool passing;            /* was opened later and can be closed */
	bool told;               /* a MODULE Change explains it */
};

enum rule_kind { RULE_NONE, RULE_FRAME, RULE_DEREF, RULE_END, RULE_SIGNAL };

/* Where the caller is, given this frame's stack and frame pointer: its frame
 * begins at base + cfa (or at what is stored there), its frame pointer is at
 * base + bp; offsets in words. */
struct rule {
	uint64_t kind : 4, cfa_on_bp : 1, bp_saved : 1, bp_on_bp : 1, own : 1, passing : 1, module : 10;
	int64_t cfa : 22, bp : 22;
};
union rule_word {
	struct rule rule;
	uint64_t word;
};
_Static_assert(sizeof(union rule_word) == 8, "one word");

static struct { uint64_t ip, how; } rules[RULES];
static uint64_t ids[IDS];
static struct module modules[MODULES];
static uint32_t module_count = 1;
static uint32_t gate;
static uint64_t seed;            /* ids are this program image's */
static uintptr_t restorer;       /* a handler returns there */
static const struct link_map *last_fixed;
static const void *visitor_map, *own_map;

/* The stack that a thread was given: [lo, hi) is mapped, all of it. */
struct bounds {
	uintptr_t lo, hi;
	uintptr_t walking;       /* the stack pointer of the walk under way; 0 none */
	uint32_t tries;
};
static __thread struct bounds mine __attribute__((tls_model("initial-exec")));

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9fb21c651e98df25ull;
	return h ^ h >> 32;
}

/* ---- asking libunwind for one frame ---- */

static __typeof__(&unw_init_remote) u_init;
static __typeof__(&unw_step) u_step;
static __typeof__(&unw_get_reg) u_get_reg;
static __typeof__(&dwarf_search_unwind_table_type) u_search;
static unw_addr_space_t space;

/* Made-up numbers: registers, and words of the stack by where they are. */
#define FAKE_SP 0x5000000000000000ull
#define FAKE_BP 0x6000000000000000ull
#define FAKE_WORD 0x7000000000000000ull
#define FAKE_RANGE (1ull << 31)
#define WORD_ON_BP (1ull << 40)

struct question {
	uint64_t ip;
	struct dl_find_object found;
	uint64_t deref_ip;       /* a word read from an address that was read itself */
	bool informed;
};

static bool on(uint64_t base, uint64_t v) { return v - (base - FAKE_RANGE) < 2 * FAKE_RANGE; }

static uint64_t fake_word(uint64_t at)
{
	bool bp = on(FAKE_BP, at);

	return FAKE_WORD + (bp ? WORD_ON_BP : 0) + (at - (bp ? FAKE_BP : FAKE_SP) + FAKE_RANGE);
}

/* Which stack word a made-up value stands for. */
static bool word_at(uint64_t v, uint64_t *ret)
{
	bool bp = v >= FAKE_WORD + WORD_ON_BP;
	uint64_t at = v - FAKE_WORD - (bp ? WORD_ON_BP : 0);

	*ret = (bp ? FAKE_BP : FAKE_SP) + at - FAKE_RANGE;
	return at < 2 * FAKE_RANGE;
}

static int q_mem(unw_addr_space_t as, unw_word_t at, unw_word_t *v, int write, void *arg)
{
	struct question *q = arg;

	(void)as;
	if (write)
		return -UNW_EINVAL;
	if (at >= (uintptr_t)q->found.dlfo_map_start && at + 8 <= (uintptr_t)q->found.dlfo_map_end) {
		*v = *(const uint64_t *)at;
	} else if (on(FAKE_SP, at) || on(FAKE_BP, at)) {
		*v = fake_word(at);
	} else {
		q->deref_ip = at;
		*v = ~0ull;
	}
	return 0;
}

static int q_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *v, int write, void *arg)
{
	(void)as;
	if (write)
		return -UNW_EREADONLYREG;
	*v = reg == UNW_X86_64_RIP ? ((struct question *)arg)->ip : reg == UNW_X86_64_RSP ? FAKE_SP :
	     reg == UNW_X86_64_RBP ? FAKE_BP : 0;
	return 0;
}

static int q_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *v, int write, void *arg)
{
	(void)as, (void)reg, (void)v, (void)write, (void)arg;
	return -UNW_EBADREG;
}

/* The binary search table that every linker makes: version 1, 32-bit count,
 * pairs of 32-bit offsets from its own header. */
static int q_find(unw_addr_space_t as, unw_word_t ip, unw_proc_info_t *pi, int need, void *arg)
{
	struct question *q = arg;
	const uint8_t *h = q->found.dlfo_eh_frame;
	unw_dyn_info_t di = { .format = UNW_INFO_FORMAT_REMOTE_TABLE, .start_ip = (uintptr_t)q->found.dlfo_map_start,
			      .end_ip = (uintptr_t)q->found.dlfo_map_end };
	uint32_t count;
	int r;

	if (h == NULL || h[0] != 1 || h[2] != 0x03 || h[3] != 0x3b)
		return -UNW_ENOINFO;
	__builtin_memcpy(&count, h + 8, sizeof count);
	di.u.rti.segbase = (uintptr_t)h;
	di.u.rti.table_data = (uintptr_t)(h + 12);
	di.u.rti.table_len = (unw_word_t)count * 8 / sizeof(unw_word_t);
	r = u_search(as, ip, &di, pi, need, arg);
	q->informed = r == 0;
	return r;
}

static void q_put(unw_addr_space_t as, unw_proc_info_t *pi, void *arg) { (void)as, (void)pi, (void)arg; }

static int q_dyn(unw_addr_space_t as, unw_word_t *v, void *arg)
{
	(void)as, (void)v, (void)arg;
	return -UNW_ENOINFO;
}

static int q_resume(unw_addr_space_t as, unw_cursor_t *c, void *arg)
{
	(void)as, (void)c, (void)arg;
	return -UNW_EINVAL;
}

/* 48 c7 c0 0f 00 00 00 0f 05: mov $SYS_rt_sigreturn, %rax; syscall. */
static bool is_restorer(const struct question *q, uint64_t ip)
{
	static const uint8_t code[] = { 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05 };

	return ip == restorer || (ip + sizeof code <= (uintptr_t)q->found.dlfo_map_end &&
				  __builtin_memcmp((const void *)ip, code, sizeof code) == 0);
}

/* A made-up address as a base and an offset in words. */
static bool place(uint64_t at, bool *ret_on_bp, int64_t *ret_words)
{
	*ret_on_bp = on(FAKE_BP, at);
	if (!*ret_on_bp && !on(FAKE_SP, at))
		return false;
	*ret_words = (int64_t)(at - (*ret_on_bp ? FAKE_BP : FAKE_SP));
	if (*ret_words & 7)
		return false;
	*ret_words /= 8;
	return *ret_words < 1 << 21 && *ret_words >= -(1 << 21);
}

static struct rule rule_from(const struct question *q, uint64_t ip, uint64_t sp, uint64_t bp)
{
	struct rule r = { .kind = RULE_FRAME }, none = { .kind = RULE_NONE };
	uint64_t at;
	int64_t words;
	bool bp_based;

	if (place(sp, &bp_based, &words)) { /* the frame begins at a register and so much */
		if (!word_at(ip, &at) || at != sp - 8)
			return none;
	} else { /* or at what is stored there, as where main aligns its stack */
		r.kind = RULE_DEREF;
		if (!word_at(sp, &at) || !place(at, &bp_based, &words) || q->deref_ip != sp - 8)
			return none;
	}
	r.cfa_on_bp = bp_based;
	r.cfa = words;
	if (bp == FAKE_BP)
		return r;
	if (!word_at(bp, &at) || !place(at, &bp_based, &words))
		return none;
	r.bp_saved = true;
	r.bp_on_bp = bp_based;
	r.bp = words;
	return r;
}

static struct rule ask(struct question *q)
{
	struct rule none = { .kind = RULE_NONE };
	unw_word_t ip = 0, sp = 0, bp = 0;
	unw_cursor_t c;
	int r;

	if (is_restorer(q, q->ip + 1))
		return (struct rule){ .kind = RULE_SIGNAL };
	if (u_init(&c, space, q) < 0)
		return none;
	r = u_step(&c);
	if (!q->informed || r < 0)
		return none;
	if (r == 0)
		return (struct rule){ .kind = RULE_END };
	if (u_get_reg(&c, UNW_REG_IP, &ip) < 0 || u_get_reg(&c, UNW_REG_SP, &sp) < 0 ||
	    u_get_reg(&c, UNW_X86_64_RBP, &bp) < 0)
		return none;
	return rule_from(q, ip, sp, bp);
}

/* ---- on a stack of our own ---- */

static uint8_t learn_stack[LEARN_STACK] __attribute__((aligned(64)));

__attribute__((used)) static void ask_there(struct question *q, struct rule *ret) { *ret = ask(q); }

static void ask_on_own_stack(struct question *q, struct rule *ret)
{
	register struct question *a __asm__("rdi") = q;
	register struct rule *b __asm__("rsi") = ret;
	uint8_t *top = learn_stack + LEARN_STACK;

	__asm__ volatile("movq %%rsp, %%rbx\n\tmovq %2, %%rsp\n\tcall *%3\n\tmovq %%rbx, %%rsp"
			 : "+r"(a), "+r"(b) : "r"(top), "r"(ask_there)
			 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "rbx", "memory", "cc",
			   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
			   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

/* ---- modules ---- */

static bool was_there_at_start(const struct link_map *map)
{
	for (const struct link_map *m = _r_debug.r_map; m; m = m == last_fixed ? NULL : m->l_next)
		if (m == map)
			return true;
	return false;
}

/* The note of the linker's --build-id, in memory; 0 bytes when there is none. */
static struct bytes build_id(const struct module *m)
{
	const ElfW(Ehdr) *e = (const void *)m->start;
	const ElfW(Phdr) *p = (const void *)(m->start + e->e_phoff);

	if (m->end - m->start < 4096 || __builtin_memcmp(e->e_ident, ELFMAG, SELFMAG) ||
	    e->e_phoff + (uint64_t)e->e_phnum * sizeof *p > 4096)
		return BYTES(NULL, 0);
	for (int i = 0; i < e->e_phnum; i++) {
		uintptr_t at = m->map->l_addr + p[i].p_vaddr, end = at + p[i].p_memsz;

		if (p[i].p_type != PT_NOTE || at < m->start || end > m->end)
			continue;
		while (end - at >= sizeof(ElfW(Nhdr))) {
			const ElfW(Nhdr) *n = (const void *)at;
			uintptr_t name = at + sizeof *n, desc = name + ((n->n_namesz + 3) & ~3u);

			at = desc + ((n->n_descsz + 3) & ~3u);
			if (at > end || at < desc)
				break;
			if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 && __builtin_memcmp((void *)name, "GNU", 4) == 0)
				return BYTES((const void *)desc, n->n_descsz);
		}
	}
	return BYTES(NULL, 0);
}

static bool same_module(const struct module *m, const struct dl_find_object *f)
{
	return m->map == f->dlfo_link_map && m->start == (uintptr_t)f->dlfo_map_start && m->eh_frame == f->dlfo_eh_frame;
}

static uint64_t module_id(const struct module *m)
{
	struct bytes b = build_id(m);
	uint64_t h = mix(mix(seed, m->start), m->end);

	for (const char *s = m->map->l_name; s && *s; s++)
		h = mix(h, (uint8_t)*s);
	for (uint32_t i = 0; i < b.n; i++)
		h = mix(h, ((const uint8_t *)b.p)[i]);
	return h ? h : 1;
}

/* Holds the gate.  0: the table is full. */
static uint32_t module_of(const struct dl_find_object *f)
{
	uint32_t n = module_count;
	struct module *m = &modules[n];

	for (uint32_t i = 1; i < n; i++)
		if (same_module(&modules[i], f))
			return i;
	if (n == MODULES)
		return 0;
	*m = (struct module){ .start = (uintptr_t)f->dlfo_map_start, .end = (uintptr_t)f->dlfo_map_end,
			      .map = f->dlfo_link_map, .eh_frame = f->dlfo_eh_frame,
			      .passing = !was_there_at_start(f->dlfo_link_map) };
	m->id = module_id(m);
	__atomic_store_n(&module_count, n + 1, __ATOMIC_RELEASE);
	return n;
}

/* The path of the program itself is not in the loader's list. */
static bool module_tell(const struct stack_call *call, struct module *m)
{
	struct bytes build = build_id(m);
	char path[512];
	struct change c = { .kind = MODULE, .stamp = call->stamp, .stack = m->id, .value = build, .flags = m->start,
			    .has_number = true, .number = (int64_t)(m->end - m->start), .seq = m->map->l_addr };
	const char *name = m->map->l_name;
	long n;

	if (name && *name) {
		c.name = BYTES(name, __builtin_strlen(name));
	} else if (call->may_call) {
		n = sys3(SYS_readlink, (long)"/proc/self/exe", (long)path, sizeof path);
		c.name = BYTES(path, n > 0 ? n : 0);
	}
	return call->emit(&c);
}

/* ---- rules ---- */

static uint32_t slot_of(uint64_t ip) { return (uint32_t)(ip * 0x9e3779b97f4a7c15ull >> 51); }
_Static_assert(RULES == 1u << 13, "slot_of");

/* The kernel's frame of a handler: the restorer's address, then a ucontext_t,
 * whose interrupted code segment is the user's and whose stack goes on above.
 * Both may be left over, in memory that a frame has not filled, from a handler
 * that jumped away: then the mask of before is the mask of now.  (So it is in a
 * handler that blocks nothing; its walk ends where it meets the frame.) */
static bool is_signal_frame(const uint64_t *w, uintptr_t hi, uint64_t mask)
{
	const ucontext_t *u = (const ucontext_t *)(w + 1);

	return *w == restorer && (uintptr_t)(u + 1) <= hi && (u->uc_mcontext.gregs[REG_CSGSFS] & 0xffff) == 0x33 &&
	       (uintptr_t)u->uc_mcontext.gregs[REG_RSP] > (uintptr_t)w && (uintptr_t)u->uc_mcontext.gregs[REG_RSP] < hi &&
	       *(const uint64_t *)&u->uc_sigmask != mask;
}

static bool handler_above(uintptr_t sp, uintptr_t end, uintptr_t hi, uint64_t mask)
{
	end = end - sp > SCAN_BYTES ? sp + SCAN_BYTES : end;
	for (; restorer && sp < end; sp += 8)
		if (is_signal_frame((const uint64_t *)sp, hi, mask))
			return true;
	return false;
}

/* Holds the gate. */
static struct rule learn(uint64_t ip, const struct dl_find_object *f)
{
	struct question q = { .ip = ip - 1, .found = *f };
	union rule_word w = { .rule = { .kind = RULE_NONE } };
	uint32_t slot = slot_of(ip), module = module_of(f);

	for (uint32_t i = 0; module; i++, slot = (slot + 1) % RULES) {
		if (i == PROBES)
			return w.rule;
		if (rules[slot].ip == 0 || rules[slot].ip == ip)
			break;
	}
	if (module == 0)
		return w.rule;
	ask_on_own_stack(&q, &w.rule);
	w.rule.module = module;
	w.rule.passing = modules[module].passing;
	w.rule.own = f->dlfo_map_start == visitor_map || f->dlfo_map_start == own_map;
	__atomic_store_n(&rules[slot].how, w.word, __ATOMIC_RELEASE);
	__atomic_store_n(&rules[slot].ip, ip, __ATOMIC_RELEASE);
	return w.rule;
}

struct walk {
	const struct stack_call *call;
	uint64_t ip;
	uintptr_t sp, bp, hi;
	enum stack_miss miss;        /* STACK_MISSES: none */
};

static struct rule rule_learnt(struct walk *w)
{
	struct rule r = { .kind = RULE_NONE };
	uint64_t all = ~0ull, old = 0;
	struct dl_find_object f;

	if (_dl_find_object((void *)(w->ip - 1), &f) < 0)
		return r; /* code of no file: the walk ends there */
	if (!w->call->may_call) {
		w->miss = STACK_UNREADY;
		return r;
	}
	/* Blocked first: a handler that jumps away would leave the gate closed for good. */
	sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&old, sizeof all);
	if (handler_above(w->sp, w->hi, w->hi, old)) {
		w->miss = STACK_IN_HANDLER;
	} else if (__atomic_exchange_n(&gate, 1, __ATOMIC_ACQUIRE)) {
		w->miss = STACK_UNREADY;
	} else {
		r = learn(w->ip, &f);
		__atomic_store_n(&gate, 0, __ATOMIC_RELEASE);
	}
	sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, sizeof old);
	return r;
}

static struct rule rule_of(struct walk *w)
{
	uint32_t slot = slot_of(w->ip);
	union rule_word r;

	for (uint32_t i = 0; i < PROBES; i++, slot = (slot + 1) % RULES) {
		uint64_t ip = __atomic_load_n(&rules[slot].ip, __ATOMIC_ACQUIRE);
		struct dl_find_object f;

		if (ip == 0)
			break;
		if (ip != w->ip)
			continue;
		r.word = __atomic_load_n(&rules[slot].how, __ATOMIC_ACQUIRE);
		if (likely(!r.rule.passing))
			return r.rule;
		if (_dl_find_object((void *)(ip - 1), &f) == 0 && same_module(&modules[r.rule.module], &f))
			return r.rule;
		break; /* its file was closed and another lies there */
	}
	return rule_learnt(w);
}

/* ---- the walk ---- */

static bool word(const struct walk *w, uintptr_t at, uintptr_t *ret)
{
	if (at < w->sp || at > w->hi - 8 || at & 7)
		return false;
	*ret = *(const uintptr_t *)at;
	return true;
}

/* To the caller's frame.  False: this is the outermost that can be told. */
static bool step(struct walk *w, struct rule r)
{
	uintptr_t cfa = (r.cfa_on_bp ? w->bp : w->sp) + (uintptr_t)(r.cfa * 8), bp = w->bp, ip;

	if (r.kind != RULE_FRAME && (r.kind != RULE_DEREF || !word(w, cfa, &cfa)))
		return false;
	if (r.bp_saved && !word(w, (r.bp_on_bp ? w->bp : w->sp) + (uintptr_t)(r.bp * 8), &bp))
		return false;
	if (cfa <= w->sp || cfa > w->hi || !word(w, cfa - 8, &ip) || ip == 0)
		return false;
	*w = (struct walk){ w->call, ip, cfa, bp, w->hi, w->miss };
	return true;
}

/* Pairs of return address and module id, innermost first, without our own. */
static uint32_t frames_of(struct walk *w, uint64_t *out, uint32_t depth, uint64_t *ret_id, bool *ret_cut)
{
	uint32_t n = 0;
	uint64_t id = seed;
	bool outside = false;

	*ret_cut = false;
	for (;;) {
		struct rule r = rule_of(w);

		if (r.kind == RULE_SIGNAL)
			w->miss = STACK_IN_HANDLER;
		if (w->miss != STACK_MISSES)
			return 0;
		outside = outside || !r.own; /* the hook's frames come first: not those of who called it */
		if (outside && n == depth) {
			*ret_cut = true;
			break;
		}
		if (outside) {
			out[2 * n] = w->ip;
			out[2 * n++ + 1] = r.module;
			id = mix(id, w->ip);
			if (unlikely(r.passing))
				id = mix(id, modules[r.module].id);
		}
		if (!step(w, r))
			break;
	}
	*ret_id = id ? id : 1;
	return n;
}

/* ---- whose stack this is ---- */

static const char *hex(const char *s, const char *end, uintptr_t *ret)
{
	for (*ret = 0; s < end; s++) {
		char c = *s;

		if (c >= '0' && c <= '9')
			*ret = *ret << 4 | (uintptr_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*ret = *ret << 4 | (uintptr_t)(c - 'a' + 10);
		else
			break;
	}
	return s;
}

/* The mapping that an address lies in, by /proc/self/maps; lines may be long,
 * only their beginnings count. */
static bool mapping_of(uintptr_t at, uintptr_t *ret_lo, uintptr_t *ret_hi)
{
	char text[512], line[40];
	long fd = sys_open("/proc/self/maps", O_RDONLY | O_CLOEXEC, 0), n;
	uint32_t len = 0;
	bool found = false;

	if (fd < 0)
		return false;
	while (!found && (n = sys_read((int)fd, text, sizeof text)) > 0) {
		for (long i = 0; i < n && !found; i++) {
			if (text[i] != '\n') {
				if (len < sizeof line)
					line[len++] = text[i];
				continue;
			}
			const char *s = hex(line, line + len, ret_lo);

			hex(s + 1, line + len, ret_hi);
			found = at >= *ret_lo && at < *ret_hi;
			len = 0;
		}
	}
	sys_close((int)fd);
	return found;
}

/* The C library keeps a thread's own data at the top of its stack: a mapping
 * that holds both is the thread's.  The main thread's ends where the kernel put
 * its arguments. */
static bool bounds_find(uintptr_t sp)
{
	uintptr_t lo, hi, own = (uintptr_t)__builtin_thread_pointer(), end = (uintptr_t)__libc_stack_end;

	if (mine.tries++ >= BOUNDS_TRIES || !mapping_of(sp, &lo, &hi))
		return false;
	if (own > sp && own <= hi)
		hi = own & ~7ul;
	else if (end > sp && end < hi)
		lo = hi - MAIN_STACK_BYTES;
	else
		return false;
	mine.lo = lo;
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* a handler sees the end last */
	mine.hi = hi;
	return true;
}

static enum stack_miss place_is_bad(uintptr_t sp, bool may_call)
{
	if (unlikely(mine.hi == 0 || sp - mine.lo >= mine.hi - mine.lo) && !(may_call && mine.hi == 0 && bounds_find(sp)))
		return STACK_ELSEWHERE;
	return sp - mine.lo < ROOM_BYTES ? STACK_NO_ROOM : STACK_MISSES;
}

/* ---- ids ---- */

static uint64_t *id_slot(uint64_t id)
{
	for (uint32_t i = 0; i < PROBES; i++) {
		uint64_t *s = &ids[(id + i) % IDS], known = __atomic_load_n(s, __ATOMIC_RELAXED);

		if (known == id || known == 0)
			return s;
	}
	return NULL;
}

/* False: it could not be reported, or the next time it must be again. */
static bool stack_tell(const struct stack_call *call, uint64_t id, uint64_t *frames, uint32_t n, bool cut)
{
	struct change c = { .kind = STACK, .stamp = call->stamp, .stack = id, .partial = cut,
			    .value = BYTES(frames, n * 16) };

	for (uint32_t i = 0; i < n; i++) {
		struct module *m = &modules[frames[2 * i + 1]];

		if (frames[2 * i + 1] && !m->told) {
			if (!module_tell(call, m))
				return false;
			m->told = true;
		}
		frames[2 * i + 1] = m->id;
	}
	return call->emit(&c);
}

static uint64_t walked(const struct stack_call *call, struct walk *w)
{
	uint32_t depth = call->depth < DEPTH_MAX ? call->depth : DEPTH_MAX, n;
	uint64_t frames[2 * depth + 1], id = 0, *slot;
	bool cut;

	n = frames_of(w, frames, depth, &id, &cut);
	if (n == 0)
		return 0;
	slot = id_slot(id);
	if (likely(slot && __atomic_load_n(slot, __ATOMIC_RELAXED) == id))
		return id;
	if (!stack_tell(call, id, frames, n, cut))
		return 0;
	if (slot) {
		uint64_t none = 0;

		__atomic_compare_exchange_n(slot, &none, id, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
	}
	return id;
}

/* Whether the walk that was under way at `walking` still is, above this handler. */
__attribute__((noinline)) static bool interrupted(uintptr_t sp, uintptr_t walking)
{
	uint64_t mask = 0;

	sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&mask, sizeof mask);
	return handler_above(sp, walking, mine.hi, mask);
}

__attribute__((noinline)) static uint64_t stack_here(const struct stack_call *call)
{
	struct walk w = { .call = call, .miss = STACK_MISSES };
	uint64_t id = 0;

	__asm__ volatile("leaq 0f(%%rip), %0\n0:\tmovq %%rsp, %1\n\tmovq %%rbp, %2" : "=r"(w.ip), "=r"(w.sp), "=r"(w.bp));
	w.miss = place_is_bad(w.sp, call->may_call);
	/* A handler that interrupted a walk is below it; one that jumped out of a walk left the mark. */
	if (w.miss == STACK_MISSES && unlikely(mine.walking && w.sp < mine.walking) && interrupted(w.sp, mine.walking))
		w.miss = STACK_IN_HANDLER;
	if (w.miss == STACK_MISSES) {
		w.hi = mine.hi;
		mine.walking = w.sp;
		id = walked(call, &w);
		mine.walking = 0;
	}
	if (w.miss != STACK_MISSES)
		__atomic_fetch_add(&call->missed[w.miss], 1, __ATOMIC_RELAXED);
	return id;
}

/* ---- start ---- */

/* What the kernel returns to after a handler, from the kernel's own record. */
static uintptr_t restorer_get(void)
{
	struct { uintptr_t handler, flags, restorer; uint64_t mask; } old = { 0 }, now = { 0 };
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	int sig = SIGRTMAX;

	if (sys4(SYS_rt_sigaction, sig, 0, (long)&old, 8) < 0 || sigaction(sig, &ignore, NULL) < 0)
		return 0;
	sys4(SYS_rt_sigaction, sig, (long)&old, (long)&now, 8);
	return now.restorer;
}

/* Its client request RUNNING_ON_VALGRIND (0x1001), which does nothing on a processor.
 * There handlers have frames of valgrind's making, not the kernel's, and looking for
 * one in what a frame has not filled yet would be told as the program's mistake. */
static bool on_valgrind(void)
{
	uint64_t request[6] = { 0x1001 }, answer = 0;

	__asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
			 : "+d"(answer) : "a"(request) : "cc", "memory");
	return answer != 0;
}

static bool libunwind_open(void)
{
	static unw_accessors_t acc = { .find_proc_info = q_find, .put_unwind_info = q_put, .get_dyn_info_list_addr = q_dyn,
				       .access_mem = q_mem, .access_reg = q_reg, .access_fpreg = q_fpreg, .resume = q_resume };
	void *lib = dlopen("libunwind-x86_64.so.8", RTLD_NOW | RTLD_LOCAL);
	unw_addr_space_t (*create)(unw_accessors_t *, int);

	if (lib == NULL) {
		dlerror(); /* the target's first dlerror() must not be ours */
		return false;
	}
	*(void **)&create = dlsym(lib, "_Ux86_64_create_addr_space");
	*(void **)&u_init = dlsym(lib, "_Ux86_64_init_remote");
	*(void **)&u_step = dlsym(lib, "_Ux86_64_step");
	*(void **)&u_get_reg = dlsym(lib, "_Ux86_64_get_reg");
	*(void **)&u_search = dlsym(lib, "_Ux86_64_dwarf_search_unwind_table");
	if (!create || !u_init || !u_step || !u_get_reg || !u_search)
		return false;
	space = create(&acc, 0);
	return space != NULL;
}

static const void *map_of(const void *address)
{
	struct dl_find_object f;

	return _dl_find_object((void *)(uintptr_t)address, &f) == 0 ? f.dlfo_map_start : NULL;
}

/* libunwind's first question makes its pools, and a pipe for the local walks
 * that we never ask for: it is asked here, before main, while no descriptor can
 * be made. */
static void warm_up(void)
{
	struct question q = { .ip = (uintptr_t)warm_up + 4 };
	struct { uint64_t now, most; } limit, none;
	struct rule r;

	if (_dl_find_object((void *)(uintptr_t)q.ip, &q.found) < 0 ||
	    sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit) < 0)
		return;
	none = limit;
	none.now = 0;
	sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&none, 0);
	ask_on_own_stack(&q, &r);
	sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&limit, 0);
}

static void seed_make(void)
{
	const uint8_t *random = (const uint8_t *)getauxval(AT_RANDOM);
	uint64_t r = 0;

	if (random)
		__builtin_memcpy(&r, random, sizeof r);
	seed = mix(mix(r, __builtin_ia32_rdtsc()), (uint64_t)sys0(SYS_getpid));
}

__attribute__((constructor)) static void stack_start(void)
{
	int saved = errno;

	bool wanted = snaptrail_visitor_stacks && (getenv("SNAPTRAIL_BOARD") || (snaptrail_visitor_hosts && snaptrail_visitor_hosts()));

	if (wanted && !address_space_limited() && libunwind_open()) {
		seed_make();
		restorer = on_valgrind() ? 0 : restorer_get();
		visitor_map = map_of((const void *)snaptrail_visitor_stacks);
		own_map = map_of((const void *)stack_start);
		for (last_fixed = _r_debug.r_map; last_fixed->l_next; last_fixed = last_fixed->l_next)
			;
		warm_up();
		snaptrail_visitor_stacks(stack_here);
	}
	errno = saved;
}
