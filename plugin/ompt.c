/* The OMPT collector: an OpenMP program's threads are agents, its parallel regions,
 * implicit and explicit tasks and work-sharing constructs are tasks, and the time that
 * threads wait for each other is a metric.  The runtime finds it by
 * OMP_TOOL_LIBRARIES.
 *
 * Keys are ompt/<thread> for the agent, ompt/<thread>/region, /implicit, /work and
 * /task, with #2 and so on where regions or tasks lie within each other: a state has
 * the last of each, and the log all.  A description says where in the code it is:
 * module+offset, and the dynamic symbol before it when there is one.
 *
 * Grain: each thread may begin 2,000 of these a second, with half a second's worth at
 * once; what is beyond is not told but counted, in ompt/<thread>/untold.  No locks, no
 * allocation after a thread's first event, no system call but the clock of the vdso. */
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "door.h"
#include "ompt_abi.h"

#define EXPORT __attribute__((visibility("default")))
#define KEY_BYTES 48u
#define WHERE_BYTES 160u
#define PLACES 256u              /* code addresses that are remembered */
#define DEEP 32u
#define EACH_NS 500000u          /* what one costs of a thread's credit */
#define CREDIT_NS 500000000u
#define WAIT_EVERY_NS 100000000u /* between metrics of waiting */

static snaptrail_report_function door;

/* ---- a thread ---- */

enum what { REGION, IMPLICIT, WORK, TASK, WHATS };
static const char *const words[WHATS] = { "region", "implicit", "work", "task" };

struct thread {
	uint32_t tid;                    /* 0: fresh, or of a forked child */
	uint32_t agent_n;
	char agent[KEY_BYTES];
	uint32_t depth[WHATS];
	uint64_t told[WHATS];            /* a bit for each depth: its begin was told */
	uint64_t single;                 /* of works: one thread does it, and not every ABI says when it is done */
	uint64_t credit_ns, seen_ns, untold, untold_told;
	uint64_t wait_from_ns, waited_ns, wait_told_ns, waits, tasks_created, tasks_told;
};

static __thread struct thread *self;
static pthread_key_t at_exit;

/* The runtime's own destructors may still tell of this thread: then it is fresh again. */
static void thread_gone(void *p)
{
	self = NULL;
	munmap(p, sizeof(struct thread));
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static __attribute__((noinline)) struct thread *thread_new(void)
{
	struct door_text b;
	int e = errno;

	if (self == NULL && (self = door_block(sizeof *self)))
		pthread_setspecific(at_exit, self);
	if (self) {
		self->tid = thread_number();
		b = (struct door_text){ 0, KEY_BYTES, self->agent };
		text_str(&b, "ompt/");
		text_number(&b, self->tid);
		self->agent_n = b.n;
		self->seen_ns = now_ns();
		self->credit_ns = CREDIT_NS;
	}
	errno = e;
	return self;
}

DOOR_INLINE struct thread *thread_self(void)
{
	struct thread *t = self;

	return __builtin_expect(t && t->tid, 1) ? t : thread_new();
}

/* Whether a thread may tell of one more. */
static bool may_tell(struct thread *t)
{
	uint64_t now = now_ns();

	t->credit_ns += now - t->seen_ns;
	if (t->credit_ns > CREDIT_NS)
		t->credit_ns = CREDIT_NS;
	t->seen_ns = now;
	if (t->credit_ns < EACH_NS) {
		t->untold++;
		return false;
	}
	t->credit_ns -= EACH_NS;
	return true;
}

/* ---- saying it ---- */

static uint32_t key_of(char *room, const struct thread *t, enum what w, uint32_t depth)
{
	struct door_text b = { 0, KEY_BYTES, room };

	text_put(&b, t->agent, t->agent_n);
	text_str(&b, "/");
	text_str(&b, words[w]);
	if (depth > 1) {
		text_str(&b, "#");
		text_number(&b, depth);
	}
	return b.n;
}

static void begin(struct thread *t, enum what w, const char *type, const char *text, uint32_t text_n)
{
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_TASK_BEGIN, .type = type, .type_len = strlen(type),
				      .agent = t->agent, .agent_len = t->agent_n, .text = text, .text_len = text_n };
	char key[KEY_BYTES];
	uint32_t depth = ++t->depth[w];

	if (depth - 1 >= DEEP || !may_tell(t))
		return;
	t->told[w] |= 1ull << (depth - 1);
	r.key = key;
	r.key_len = key_of(key, t, w, depth);
	door(&r);
}

static void end(struct thread *t, enum what w)
{
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_TASK_COMPLETE };
	char key[KEY_BYTES];
	uint32_t depth = t->depth[w];

	if (depth == 0)
		return;
	t->depth[w]--;
	if (depth > DEEP || !(t->told[w] >> (depth - 1) & 1))
		return;
	t->told[w] &= ~(1ull << (depth - 1));
	r.key = key;
	r.key_len = key_of(key, t, w, depth);
	door(&r);
}

/* A barrier is beyond it, and so is the end of the region. */
static void end_singles(struct thread *t)
{
	while (t->depth[WORK] && t->depth[WORK] <= DEEP && t->single >> (t->depth[WORK] - 1) & 1) {
		t->single &= ~(1ull << (t->depth[WORK] - 1));
		end(t, WORK);
	}
}

static void metric(const struct thread *t, const char *name, double v)
{
	char key[KEY_BYTES];
	struct door_text b = { 0, KEY_BYTES, key };
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_METRIC, .key = key, .number = v };

	text_put(&b, t->agent, t->agent_n);
	text_str(&b, name);
	r.key_len = b.n;
	door(&r);
}

static void sums(struct thread *t, uint64_t now)
{
	if (t->waits)
		metric(t, "/waited", (double)t->waited_ns / 1e9);
	if (t->untold != t->untold_told)
		metric(t, "/untold", (double)(t->untold_told = t->untold));
	if (t->tasks_created != t->tasks_told)
		metric(t, "/created", (double)(t->tasks_told = t->tasks_created));
	t->wait_told_ns = now;
}

/* ---- where in the code ---- */

struct place {
	const void *code;                /* set last */
	uint32_t n;
	char text[WHERE_BYTES];
};
static struct place places[PLACES];

/* The dynamic symbol that holds an address: read where the loader has it. */
static const char *symbol_of(const struct link_map *m, uintptr_t at, uintptr_t *ret_offset)
{
	const ElfW(Sym) *symbols = NULL, *best = NULL;
	const char *names = NULL;
	const uint32_t *hash = NULL, *buckets, *chain;
	uint32_t last = 0;

	for (const ElfW(Dyn) *d = m->l_ld; d && d->d_tag != DT_NULL; d++) {
		if (d->d_tag == DT_SYMTAB)
			symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
		else if (d->d_tag == DT_STRTAB)
			names = (const char *)d->d_un.d_ptr;
		else if (d->d_tag == DT_GNU_HASH)
			hash = (const uint32_t *)d->d_un.d_ptr;
	}
	if (symbols == NULL || names == NULL || hash == NULL || (uintptr_t)hash < m->l_addr)
		return NULL;
	buckets = hash + 4 + hash[2] * (sizeof(ElfW(Addr)) / 4);
	chain = buckets + hash[0];
	for (uint32_t i = 0; i < hash[0]; i++)
		if (buckets[i] > last)
			last = buckets[i];
	if (last < hash[1])
		return NULL;
	while (!(chain[last - hash[1]] & 1))
		last++;
	for (uint32_t i = hash[1]; i <= last; i++)
		if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC && symbols[i].st_shndx && m->l_addr + symbols[i].st_value <= at &&
		    at - (m->l_addr + symbols[i].st_value) < symbols[i].st_size)
			best = &symbols[i];
	if (best == NULL)
		return NULL;
	*ret_offset = at - (m->l_addr + best->st_value);
	return names + best->st_name;
}

static void place_fill(struct place *p, const void *code)
{
	struct door_text b = { 0, WHERE_BYTES, p->text };
	uintptr_t at = (uintptr_t)code, offset = 0;
	const char *symbol, *name;
	struct dl_find_object found;

	if (_dl_find_object((void *)code, &found) == 0 && found.dlfo_link_map) {
		name = found.dlfo_link_map->l_name;
		symbol = symbol_of(found.dlfo_link_map, at, &offset);
		if (symbol) {
			text_str(&b, symbol);
			text_str(&b, "+0x");
			text_hex(&b, offset);
			text_str(&b, " ");
		}
		if (name == NULL || *name == 0)
			name = program_invocation_short_name;
		else if (strrchr(name, '/'))
			name = strrchr(name, '/') + 1;
		text_str(&b, name);
		text_str(&b, "+0x");
		text_hex(&b, at - found.dlfo_link_map->l_addr);
	} else {
		text_str(&b, "0x");
		text_hex(&b, at);
	}
	p->n = b.n;
}

/* The first to come fills the slot; others of the same slot are made each time. */
static const struct place *place_of(const void *code, struct place *room)
{
	struct place *p = &places[(uintptr_t)code * 0x9e3779b97f4a7c15ull >> 56];
	const void *is = __atomic_load_n(&p->code, __ATOMIC_ACQUIRE), *none = NULL;

	if (is == code)
		return p;
	place_fill(room, code);
	if (is == NULL && __atomic_compare_exchange_n(&p->code, &none, (const void *)1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
		memcpy(p->text, room->text, room->n);
		p->n = room->n;
		__atomic_store_n(&p->code, code, __ATOMIC_RELEASE);
	}
	return room;
}

/* ---- the runtime's events ---- */

static void on_thread_begin(int type, ompt_data *data)
{
	struct thread *t = thread_self();
	const char *name = type == OMPT_THREAD_INITIAL ? "ompt.initial" : type == OMPT_THREAD_WORKER ? "ompt.worker" : "ompt.thread";
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_AGENT_BEGIN, .type = name, .type_len = strlen(name) };

	(void)data;
	if (t == NULL)
		return;
	r.key = t->agent;
	r.key_len = t->agent_n;
	door(&r);
}

static void on_thread_end(ompt_data *data)
{
	struct thread *t = thread_self();
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_AGENT_END };

	(void)data;
	if (t == NULL)
		return;
	sums(t, now_ns());
	r.key = t->agent;
	r.key_len = t->agent_n;
	door(&r);
}

static void on_parallel_begin(ompt_data *task, const void *frame, ompt_data *region, unsigned threads, int flags, const void *code)
{
	struct thread *t = thread_self();
	char text[WHERE_BYTES + 32];
	struct door_text b = { 0, sizeof text, text };
	const struct place *p;
	struct place room;

	(void)task, (void)frame, (void)region, (void)flags;
	if (t == NULL)
		return;
	p = place_of(code, &room);
	text_put(&b, p->text, p->n);
	text_str(&b, ", ");
	text_number(&b, threads);
	text_str(&b, " threads");
	begin(t, REGION, "ompt.parallel", text, b.n);
}

static void on_parallel_end(ompt_data *region, ompt_data *task, int flags, const void *code)
{
	struct thread *t = thread_self();

	(void)region, (void)task, (void)flags, (void)code;
	if (t)
		end(t, REGION);
}

static void on_implicit_task(int scope, ompt_data *region, ompt_data *task, unsigned threads, unsigned index, int flags)
{
	struct thread *t = thread_self();

	(void)region, (void)task, (void)threads, (void)index;
	if (t == NULL || flags & OMPT_TASK_INITIAL)
		return;
	if (scope == OMPT_SCOPE_BEGIN) {
		begin(t, IMPLICIT, "ompt.implicit", NULL, 0);
	} else {
		end_singles(t);
		end(t, IMPLICIT);
	}
}

static void on_work(int type, int scope, ompt_data *region, ompt_data *task, uint64_t count, const void *code)
{
	static const char *const types[] = { "ompt.work", "ompt.loop", "ompt.sections", "ompt.single", "ompt.single", "ompt.workshare",
					     "ompt.distribute", "ompt.taskloop" };
	struct thread *t = thread_self();
	const struct place *p;
	struct place room;

	(void)region, (void)task, (void)count;
	if (t == NULL || type == 4) /* a single that another thread executes */
		return;
	if (scope == OMPT_SCOPE_END) {
		if (t->depth[WORK] && t->depth[WORK] <= DEEP)
			t->single &= ~(1ull << (t->depth[WORK] - 1));
		end(t, WORK);
		return;
	}
	if (type == 3 && t->depth[WORK] < DEEP) {
		end_singles(t);
		t->single |= 1ull << t->depth[WORK];
	}
	p = place_of(code, &room);
	begin(t, WORK, types[type > 0 && type < 8 ? type : 0], p->text, p->n);
}

/* An explicit task's place is kept where the runtime keeps what tools say of it. */
static void on_task_create(ompt_data *parent, const void *frame, ompt_data *task, int flags, int dependences, const void *code)
{
	struct thread *t = thread_self();

	(void)parent, (void)frame, (void)dependences;
	if (t == NULL || !(flags & OMPT_TASK_EXPLICIT))
		return;
	t->tasks_created++;
	if (task)
		task->ptr = (void *)code;
}

/* From one task to another; only explicit ones have a place. */
static void on_task_schedule(ompt_data *from, int status, ompt_data *to)
{
	struct thread *t = thread_self();
	const struct place *p;
	struct place room;

	(void)status;
	if (t == NULL)
		return;
	if (from && from->ptr)
		end(t, TASK);
	if (to && to->ptr) {
		p = place_of(to->ptr, &room);
		begin(t, TASK, "ompt.task", p->text, p->n);
	}
}

static void on_wait(int kind, int scope, ompt_data *region, ompt_data *task, const void *code)
{
	struct thread *t = thread_self();
	uint64_t now = now_ns();

	(void)kind, (void)region, (void)task, (void)code;
	if (t == NULL)
		return;
	if (scope == OMPT_SCOPE_BEGIN) {
		end_singles(t);
		t->wait_from_ns = now;
	} else if (t->wait_from_ns) {
		t->waited_ns += now - t->wait_from_ns;
		t->wait_from_ns = 0;
		t->waits++;
		if (now - t->wait_told_ns > WAIT_EVERY_NS)
			sums(t, now);
	}
}

/* ---- beginning ---- */

static int initialize(ompt_lookup lookup, int device, ompt_data *tool)
{
	ompt_function found = lookup("ompt_set_callback");
	ompt_set_callback set;
	static const struct { int event; void *callback; } callbacks[] = {
		{ OMPT_THREAD_BEGIN, on_thread_begin }, { OMPT_THREAD_END, on_thread_end },
		{ OMPT_PARALLEL_BEGIN, on_parallel_begin }, { OMPT_PARALLEL_END, on_parallel_end },
		{ OMPT_IMPLICIT_TASK, on_implicit_task }, { OMPT_WORK, on_work }, { OMPT_TASK_CREATE, on_task_create },
		{ OMPT_TASK_SCHEDULE, on_task_schedule }, { OMPT_SYNC_REGION_WAIT, on_wait },
	};

	(void)device, (void)tool;
	memcpy(&set, &found, sizeof set);
	if (set == NULL)
		return 0;
	for (size_t i = 0; i < sizeof callbacks / sizeof *callbacks; i++) {
		ompt_function f;

		memcpy(&f, &callbacks[i].callback, sizeof f);
		set(callbacks[i].event, f);
	}
	return 1;
}

/* The last word of the thread that ends the runtime. */
static void finalize(ompt_data *tool)
{
	(void)tool;
	if (self && self->tid)
		sums(self, now_ns());
}

/* NULL: nobody records this process, and the runtime goes on without a tool. */
EXPORT struct ompt_start_tool_result *ompt_start_tool(unsigned version, const char *runtime)
{
	static struct ompt_start_tool_result result = { initialize, finalize, { 0 } };

	(void)runtime;
	if (version < 201611 || (door = door_find()) == NULL || pthread_key_create(&at_exit, thread_gone))
		return NULL;
	return &result;
}
