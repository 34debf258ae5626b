/* The ITT collector: what programs tell Intel's tracing interface becomes tasks,
 * metrics, values and agents.  Their static part opens this object when
 * INTEL_LIBITTNOTIFY64 names it and calls __itt_api_init(), once for each library
 * that has such a part inside.
 *
 * A task's key is itt/<thread>/<domain>/<name>, with #2 and so on where it is within
 * itself: a state has the last of each name, and the log all.  Tasks that have no
 * thread of their own (overlapped ones, frames and regions with an id) have their id
 * instead of the thread.  Types say what it was: itt.task, itt.frame ...
 *
 * On the caller's path there is no lock and, after a thread's first call, no
 * allocation and no system call.  Where nothing records, nothing is bound. */
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "door.h"
#include "itt_abi.h"

#define EXPORT __attribute__((visibility("default")))
#define KEY_BYTES 120u
#define DEEP 64u                 /* tasks within tasks that are told; deeper ones are counted */
#define KEYS 64u
#define FUNCTIONS 256u

static snaptrail_report_function door;
static volatile int paused;

/* ---- a thread ---- */

struct key {
	const void *domain, *name;
	uint32_t n;
	char text[KEY_BYTES];
};

struct open_task {
	const void *domain, *name;
	uint32_t n;              /* of the key; 0: untold */
	char key[KEY_BYTES + 4];
};

struct thread {
	uint32_t tid;            /* 0: fresh, or of a forked child */
	uint32_t depth, agent_n, too_deep, events;
	int making;              /* a key, which a signal handler must leave alone */
	char agent[KEY_BYTES];   /* itt/<name>/<thread>, when it has one */
	struct key keys[KEYS];
	struct open_task open[DEEP];
};

static __thread struct thread *self;
static pthread_key_t at_exit;

/* Destructors of others may still begin a task: then the thread is fresh again. */
static void thread_gone(void *p)
{
	self = NULL;
	munmap(p, sizeof(struct thread));
}

static __attribute__((noinline)) struct thread *thread_new(void)
{
	int e = errno;

	if (self == NULL && (self = door_block(sizeof *self)))
		pthread_setspecific(at_exit, self);
	if (self)
		self->tid = thread_number();
	errno = e;
	return self;
}

DOOR_INLINE struct thread *thread_self(void)
{
	struct thread *t = self;

	return __builtin_expect(t && t->tid, 1) ? t : thread_new();
}

/* ---- saying it ---- */

DOOR_INLINE int off(const itt_domain *d) { return d == NULL || d->flags == 0 || paused; }

static void say(struct snaptrail_report *r)
{
	r->size = sizeof *r;
	door(r);
}

DOOR_INLINE void say_begin(const char *key, uint32_t n, const char *type, const struct thread *t, uint64_t time_ns)
{
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_TASK_BEGIN, .key = key, .key_len = n, .type = type,
				      .type_len = strlen(type), .time_ns = time_ns };

	if (t && t->agent_n) {
		r.agent = t->agent;
		r.agent_len = t->agent_n;
	}
	door(&r);
}

DOOR_INLINE void say_end(const char *key, uint32_t n, uint64_t time_ns)
{
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_TASK_COMPLETE, .key = key, .key_len = n,
				      .time_ns = time_ns };

	door(&r);
}

static void say_metric(const char *key, uint32_t n, double v)
{
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_METRIC, .key = key, .key_len = n, .number = v };

	say(&r);
}

/* ---- keys ---- */

static const char *name_of(const itt_string *s) { return s && s->text ? s->text : "unnamed"; }

static __attribute__((noinline)) uint32_t key_make(struct key *k, struct thread *t, const itt_domain *d, const itt_string *name, char *room)
{
	struct door_text b = { 0, KEY_BYTES, room };

	text_str(&b, "itt/");
	text_number(&b, t->tid);
	text_str(&b, "/");
	text_str(&b, d->name ? d->name : "");
	text_str(&b, "/");
	text_str(&b, name_of(name));
	if (!t->making) {
		t->making = 1;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		memcpy(k->text, room, b.n);
		k->n = b.n;
		k->domain = d;
		k->name = name;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		t->making = 0;
	}
	return b.n;
}

/* Into `room` of KEY_BYTES. */
DOOR_INLINE uint32_t key_put(struct thread *t, const itt_domain *d, const itt_string *name, char *room)
{
	struct key *k = &t->keys[((uintptr_t)d ^ (uintptr_t)name >> 4) * 0x9e3779b97f4a7c15ull >> 58];

	if (__builtin_expect(k->domain != d || k->name != name || k->n == 0 || t->making, 0))
		return key_make(k, t, d, name, room);
	memcpy(room, k->text, k->n);
	return k->n;
}

/* itt/<what>/<id>, of what belongs to no thread. */
static uint32_t id_key(char *room, const char *what, const itt_id *id)
{
	struct door_text b = { 0, KEY_BYTES, room };

	text_str(&b, "itt/");
	text_str(&b, what);
	text_str(&b, "/");
	text_hex(&b, id->d1);
	text_str(&b, ".");
	text_hex(&b, id->d2);
	text_str(&b, ".");
	text_hex(&b, id->d3);
	return b.n;
}

/* ---- tasks ---- */

/* Within itself it has a number. */
static __attribute__((noinline)) void number_within(const struct thread *t, struct open_task *o, uint32_t at)
{
	uint32_t same = 1;

	for (uint32_t i = 0; i < at; i++)
		same += t->open[i].domain == o->domain && t->open[i].name == o->name;
	if (same > 1) {
		struct door_text b = { o->n, KEY_BYTES + 4, o->key };

		text_str(&b, "#");
		text_number(&b, same > 99 ? 99 : same);
		o->n = b.n;
	}
}

/* The parent where it is not simply the one around: said with the child. */
static void say_parent(const struct open_task *o, itt_id parent)
{
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_VALUE_SET, .value_type = SNAPTRAIL_REPORT_TEXT };
	char key[KEY_BYTES + 16], text[KEY_BYTES];
	struct door_text b = { 0, sizeof key, key };

	text_put(&b, o->key, o->n);
	text_str(&b, "/parent");
	r.key = key;
	r.key_len = b.n;
	r.value.bytes = text;
	r.value_len = id_key(text, "id", &parent);
	say(&r);
}

/* What begins while it is switched off has its place, untold, so that ends meet their
 * beginnings.  The place is taken first: a signal handler's tasks come behind it. */
DOOR_INLINE void begin(const itt_domain *d, itt_id parent, const itt_string *name, uint64_t time_ns)
{
	struct thread *t;
	struct open_task *o;
	uint32_t at;

	if (d == NULL || (t = thread_self()) == NULL)
		return;
	at = t->depth++;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (__builtin_expect(at >= DEEP, 0)) {
		t->too_deep++;
		return;
	}
	o = &t->open[at];
	o->domain = d;
	o->name = name;
	o->n = 0;
	if (off(d))
		return;
	o->n = key_put(t, d, name, o->key);
	if (at)
		number_within(t, o, at);
	say_begin(o->key, o->n, "itt.task", t, time_ns);
	if (__builtin_expect(parent.d1 != 0, 0))
		say_parent(o, parent);
}

static void said_too_deep(const struct thread *t)
{
	char key[KEY_BYTES];
	struct door_text b = { 0, sizeof key, key };

	text_str(&b, "itt/");
	text_number(&b, t->tid);
	text_str(&b, "/tooDeep");
	say_metric(key, b.n, t->too_deep);
}

/* Ends the innermost one of its domain; what was left open within it ends with it. */
DOOR_INLINE void end(const itt_domain *d, uint64_t time_ns)
{
	struct thread *t = self;
	uint32_t at;

	if (d == NULL || t == NULL || t->tid == 0 || t->depth == 0)
		return;
	if (__builtin_expect(t->depth > DEEP, 0)) {
		if (--t->depth == DEEP)
			said_too_deep(t);
		return;
	}
	for (at = t->depth; at && t->open[at - 1].domain != d; at--)
		;
	if (at == 0)
		return; /* it never began, or another domain's lies open */
	for (; t->depth >= at; t->depth--) { /* told before its place is free for a signal handler's */
		const struct open_task *o = &t->open[t->depth - 1];

		if (o->n)
			say_end(o->key, o->n, time_ns);
	}
}

static void task_begin(const itt_domain *d, itt_id id, itt_id parent, itt_string *name)
{
	(void)id;
	begin(d, parent, name, 0);
}

static void task_end(const itt_domain *d) { end(d, 0); }

/* Functions are named by their address; the first to come has the slot. */
static void task_begin_fn(const itt_domain *d, itt_id id, itt_id parent, void *fn)
{
	static struct { void *fn; itt_string string; char text[24]; } functions[FUNCTIONS];
	static itt_string other = { .text = "function" };
	uintptr_t at = ((uintptr_t)fn >> 4) * 0x9e3779b97f4a7c15ull >> 56;
	void *is = NULL;

	(void)id;
	if (__atomic_load_n(&functions[at].string.text, __ATOMIC_ACQUIRE) == NULL &&
	    __atomic_compare_exchange_n(&functions[at].fn, &is, fn, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
		struct door_text b = { 0, sizeof functions[at].text - 1, functions[at].text };

		text_str(&b, "0x");
		text_hex(&b, (uintptr_t)fn);
		functions[at].text[b.n] = 0;
		__atomic_store_n(&functions[at].string.text, functions[at].text, __ATOMIC_RELEASE);
	}
	begin(d, parent, functions[at].fn == fn && functions[at].string.text ? &functions[at].string : &other, 0);
}

/* A time is ours when it is of no clock of theirs: see timestamp(). */
static uint64_t time_of(const void *clock, unsigned long long stamp) { return clock || stamp >> 63 ? 0 : stamp; }

static void task_begin_ex(const itt_domain *d, void *clock, unsigned long long stamp, itt_id id, itt_id parent, itt_string *name)
{
	(void)id;
	begin(d, parent, name, time_of(clock, stamp));
}

static void task_end_ex(const itt_domain *d, void *clock, unsigned long long stamp) { end(d, time_of(clock, stamp)); }

/* ---- what has an id and no thread ---- */

/* Those that were told and are open: what ends while it is switched off may be one. */
static int32_t open_by_id;

static void begin_by_id(const itt_domain *d, const itt_id *id, const itt_id *parent, const char *name, const char *what, const char *type,
			uint64_t time_ns)
{
	char key[KEY_BYTES], text[KEY_BYTES * 2 + 40];
	struct door_text b = { 0, sizeof text, text };
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_TASK_BEGIN, .key = key, .type = type, .type_len = strlen(type), .text = text,
				      .time_ns = time_ns };

	if (off(d))
		return;
	__atomic_add_fetch(&open_by_id, 1, __ATOMIC_RELAXED);
	r.key_len = id_key(key, what, id);
	text_str(&b, name);
	text_str(&b, " [");
	text_str(&b, d->name ? d->name : "");
	text_str(&b, "]");
	if (parent && parent->d1) {
		char of[KEY_BYTES];

		text_str(&b, " of ");
		text_put(&b, of, id_key(of, "id", parent));
	}
	r.text_len = b.n;
	say(&r);
}

static void end_by_id(const itt_domain *d, const itt_id *id, const char *what, uint64_t time_ns)
{
	char key[KEY_BYTES];

	if (d == NULL || (off(d) && __atomic_load_n(&open_by_id, __ATOMIC_RELAXED) <= 0))
		return;
	__atomic_sub_fetch(&open_by_id, 1, __ATOMIC_RELAXED);
	say_end(key, id_key(key, what, id), time_ns);
}

static void task_begin_overlapped(const itt_domain *d, itt_id id, itt_id parent, itt_string *name)
{
	begin_by_id(d, &id, &parent, name_of(name), "task", "itt.task", 0);
}

static void task_end_overlapped(const itt_domain *d, itt_id id) { end_by_id(d, &id, "task", 0); }

static void task_begin_overlapped_ex(const itt_domain *d, void *clock, unsigned long long stamp, itt_id id, itt_id parent, itt_string *name)
{
	begin_by_id(d, &id, &parent, name_of(name), "task", "itt.task", time_of(clock, stamp));
}

static void task_end_overlapped_ex(const itt_domain *d, void *clock, unsigned long long stamp, itt_id id)
{
	end_by_id(d, &id, "task", time_of(clock, stamp));
}

static void region_begin(const itt_domain *d, itt_id id, itt_id parent, itt_string *name)
{
	begin_by_id(d, &id, &parent, name_of(name), "region", "itt.region", 0);
}

static void region_end(const itt_domain *d, itt_id id) { end_by_id(d, &id, "region", 0); }

/* A group of tasks is an agent, with the id that they may name as their parent. */
static void task_group(const itt_domain *d, itt_id id, itt_id parent, itt_string *name)
{
	char key[KEY_BYTES], own[KEY_BYTES], above[KEY_BYTES];
	struct door_text b = { 0, sizeof key, key };
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_AGENT_BEGIN, .key = key, .type = "itt.group", .type_len = 9,
				      .value_type = SNAPTRAIL_REPORT_TEXT, .value.bytes = own };

	if (off(d))
		return;
	text_str(&b, "itt/group/");
	text_str(&b, d->name ? d->name : "");
	text_str(&b, "/");
	text_str(&b, name_of(name));
	r.key_len = b.n;
	r.value_len = id_key(own, "id", &id);
	if (parent.d1) {
		r.agent = above;
		r.agent_len = id_key(above, "id", &parent);
	}
	say(&r);
}

/* ---- frames ---- */

static uint64_t timestamp(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t frame_key(char *room, const itt_domain *d, const itt_id *id)
{
	struct door_text b = { 0, KEY_BYTES, room };

	if (id && id->d1)
		return id_key(room, "frame", id);
	text_str(&b, "itt/frame/");
	text_str(&b, d->name ? d->name : "");
	return b.n;
}

static void frame_begin(const itt_domain *d, itt_id *id)
{
	char key[KEY_BYTES];

	if (!off(d))
		say_begin(key, frame_key(key, d, id), "itt.frame", NULL, 0);
}

static void frame_end(const itt_domain *d, itt_id *id)
{
	char key[KEY_BYTES];

	if (!off(d))
		say_end(key, frame_key(key, d, id), 0);
}

/* A frame told afterwards, in timestamps of ours. */
static void frame_submit(const itt_domain *d, itt_id *id, unsigned long long from, unsigned long long to)
{
	char key[KEY_BYTES];
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_TASK_BEGIN, .key = key, .type = "itt.frame", .type_len = 9, .time_ns = from };

	if (off(d))
		return;
	r.key_len = frame_key(key, d, id);
	say(&r);
	r.kind = SNAPTRAIL_REPORT_TASK_COMPLETE;
	r.type = NULL;
	r.type_len = 0;
	r.time_ns = to ? to : timestamp();
	say(&r);
}

/* ---- metadata ---- */

static void put_about(struct door_text *b, const itt_id *id, const itt_string *key)
{
	const struct thread *t = self;
	char of[KEY_BYTES];

	if (id->d1)
		text_put(b, of, id_key(of, "id", id));
	else if (t && t->tid && t->depth && t->depth <= DEEP)
		text_put(b, t->open[t->depth - 1].key, t->open[t->depth - 1].n);
	else
		text_str(b, "itt/metadata");
	text_str(b, "/");
	text_str(b, name_of(key));
}

static void metadata_text(const itt_domain *d, itt_id id, itt_string *key, const char *data, size_t n)
{
	char room[KEY_BYTES * 2 + 8];
	struct door_text b = { 0, sizeof room, room };
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_VALUE_SET, .key = room, .value_type = SNAPTRAIL_REPORT_TEXT,
				      .value.bytes = data ? data : "" };

	if (off(d))
		return;
	put_about(&b, &id, key);
	r.key_len = b.n;
	r.value_len = data ? n ? n : strlen(data) : 0;
	say(&r);
}

static void metadata_one(struct snaptrail_report *r, int type, const void *data, size_t i)
{
	r->value_type = SNAPTRAIL_REPORT_INT;
	switch (type) {
	case ITT_U64: r->value_type = SNAPTRAIL_REPORT_UINT; r->value.natural = ((const uint64_t *)data)[i]; break;
	case ITT_S64: r->value.integer = ((const int64_t *)data)[i]; break;
	case ITT_U32: r->value.integer = ((const uint32_t *)data)[i]; break;
	case ITT_S32: r->value.integer = ((const int32_t *)data)[i]; break;
	case ITT_U16: r->value.integer = ((const uint16_t *)data)[i]; break;
	case ITT_S16: r->value.integer = ((const int16_t *)data)[i]; break;
	case ITT_FLOAT: r->value_type = SNAPTRAIL_REPORT_DOUBLE; r->value.real = (double)((const float *)data)[i]; break;
	case ITT_DOUBLE: r->value_type = SNAPTRAIL_REPORT_DOUBLE; r->value.real = ((const double *)data)[i]; break;
	default: r->value_type = SNAPTRAIL_REPORT_NULL; break;
	}
}

/* One number is a value, several are a value each: key/0, key/1 ... */
static void metadata_add(const itt_domain *d, itt_id id, itt_string *key, int type, size_t count, void *data)
{
	char room[KEY_BYTES * 2 + 32];
	struct door_text b = { 0, sizeof room - 24, room };
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_VALUE_SET, .key = room };

	if (off(d) || data == NULL)
		return;
	put_about(&b, &id, key);
	b.cap = sizeof room;
	for (size_t i = 0; i < count && i < 256; i++) {
		struct door_text each = b;

		if (count > 1) {
			text_str(&each, "/");
			text_number(&each, i);
		}
		r.key_len = each.n;
		metadata_one(&r, type, data, i);
		say(&r);
	}
}

static void metadata_add_with_scope(const itt_domain *d, int scope, itt_string *key, int type, size_t count, void *data)
{
	(void)scope;
	metadata_add(d, (itt_id){ 0 }, key, type, count, data);
}

static void metadata_str_add_with_scope(const itt_domain *d, int scope, itt_string *key, const char *data, size_t n)
{
	(void)scope;
	metadata_text(d, (itt_id){ 0 }, key, data, n);
}

/* ---- names, marks, events ---- */

static void thread_set_name(const char *name)
{
	struct thread *t = thread_self();
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_AGENT_BEGIN, .type = "itt.thread", .type_len = 10 };
	struct door_text b = { 0, KEY_BYTES, t ? t->agent : NULL };

	if (t == NULL || name == NULL || paused)
		return;
	text_str(&b, "itt/");
	text_str(&b, name);
	text_str(&b, "/");
	text_number(&b, t->tid);
	t->agent_n = b.n;
	r.key = t->agent;
	r.key_len = b.n;
	say(&r);
}

static void marker(const itt_domain *d, itt_id id, itt_string *name, int scope)
{
	const char *text = name_of(name);
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_MARK, .key = text, .key_len = strlen(text) };

	(void)id, (void)scope;
	if (!off(d))
		say(&r);
}

/* Marks and events of the older interface have numbers; a slot keeps the name. */
#define NAMED 1024
static char *named[NAMED];
static int named_count;

static int number_name(const char *name, size_t n)
{
	char *copy;
	int at;

	for (int i = 0; i < NAMED && name && __atomic_load_n(&named[i], __ATOMIC_ACQUIRE); i++)
		if (strncmp(named[i], name, n) == 0 && named[i][n] == 0)
			return i + 1;
	copy = strndup(name ? name : "unnamed", name ? n : 7);
	at = copy ? __atomic_fetch_add(&named_count, 1, __ATOMIC_RELAXED) : NAMED;

	if (at >= NAMED) {
		free(copy);
		return 0;
	}
	__atomic_store_n(&named[at], copy, __ATOMIC_RELEASE);
	return at + 1;
}

static const char *name_by_number(int i) { return i > 0 && i <= NAMED ? __atomic_load_n(&named[i - 1], __ATOMIC_ACQUIRE) : NULL; }

static int mark_create(const char *name) { return number_name(name, name ? strlen(name) : 0); }

static int mark(int type, const char *parameter)
{
	const char *name = name_by_number(type);
	struct snaptrail_report r = { .kind = SNAPTRAIL_REPORT_MARK, .key = name, .key_len = SNAPTRAIL_REPORT_TO_NUL, .text = parameter,
				      .text_len = parameter ? SNAPTRAIL_REPORT_TO_NUL : 0 };

	if (name && !paused)
		say(&r);
	return 0;
}

static int event_create(const char *name, int n) { return number_name(name, n > 0 ? (size_t)n : 0); }

static int event_say(int event, bool starts)
{
	const char *name = name_by_number(event);
	struct thread *t = thread_self();
	char key[KEY_BYTES];
	struct door_text b = { 0, sizeof key, key };

	if (name == NULL || t == NULL || (paused && (starts || t->events == 0)))
		return 0;
	text_str(&b, "itt/");
	text_number(&b, t->tid);
	text_str(&b, "/event/");
	text_str(&b, name);
	if (starts) {
		t->events++;
		say_begin(key, b.n, "itt.event", t, 0);
	} else {
		t->events -= t->events > 0;
		say_end(key, b.n, 0);
	}
	return 0;
}

static int event_start(int event) { return event_say(event, true); }
static int event_end(int event) { return event_say(event, false); }

/* ---- counters ---- */

struct counter {
	struct counter *next;
	const itt_domain *domain;        /* of the newer interface, with its string */
	const itt_string *handle;
	int type;
	uint32_t n;
	uint64_t count;                  /* what inc and dec add up to */
	char key[KEY_BYTES];
};

static struct counter *counters;

/* Made once and kept; a list that only grows needs no lock. */
static struct counter *counter_add(const char *name, const char *domain, int type)
{
	struct counter *c = calloc(1, sizeof *c);
	struct door_text b;

	if (c == NULL)
		return NULL;
	b = (struct door_text){ 0, KEY_BYTES, c->key };
	text_str(&b, "itt/");
	text_str(&b, domain ? domain : "");
	text_str(&b, "/");
	text_str(&b, name ? name : "unnamed");
	c->n = b.n;
	c->type = type;
	return c;
}

static void counter_list(struct counter *c)
{
	c->next = __atomic_load_n(&counters, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&counters, &c->next, c, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

static void *counter_create_typed(const char *name, const char *domain, int type)
{
	struct counter *c = counter_add(name, domain, type);

	if (c)
		counter_list(c);
	return c;
}

static void *counter_create(const char *name, const char *domain) { return counter_create_typed(name, domain, ITT_U64); }

static void *counter_create_v3(const itt_domain *d, const char *name, int type)
{
	struct counter *c = counter_add(name, d ? d->name : NULL, type);

	if (c) {
		c->domain = d;
		counter_list(c);
	}
	return c;
}

static void counter_count(struct counter *c, int64_t by)
{
	if (c && !paused)
		say_metric(c->key, c->n, (double)(int64_t)__atomic_add_fetch(&c->count, (uint64_t)by, __ATOMIC_RELAXED));
}

static void counter_inc(void *c) { counter_count(c, 1); }
static void counter_dec(void *c) { counter_count(c, -1); }
static void counter_inc_delta(void *c, unsigned long long by) { counter_count(c, (int64_t)by); }
static void counter_dec_delta(void *c, unsigned long long by) { counter_count(c, -(int64_t)by); }

static struct counter *counter_of(const itt_domain *d, const itt_string *name)
{
	struct counter *c = __atomic_load_n(&counters, __ATOMIC_ACQUIRE);

	while (c && !(c->domain == d && c->handle == name && name))
		c = c->next;
	if (c == NULL && (c = counter_add(name_of(name), d->name, ITT_U64))) {
		c->domain = d;
		c->handle = name;
		counter_list(c);
	}
	return c;
}

static void counter_inc_delta_v3(const itt_domain *d, itt_string *name, unsigned long long by)
{
	if (!off(d))
		counter_count(counter_of(d, name), (int64_t)by);
}
static void counter_inc_v3(const itt_domain *d, itt_string *name) { counter_inc_delta_v3(d, name, 1); }
static void counter_dec_delta_v3(const itt_domain *d, itt_string *name, unsigned long long by)
{
	if (!off(d))
		counter_count(counter_of(d, name), -(int64_t)by);
}
static void counter_dec_v3(const itt_domain *d, itt_string *name) { counter_dec_delta_v3(d, name, 1); }

static void counter_set_value(void *id, void *value)
{
	struct snaptrail_report r = { 0 };
	struct counter *c = id;
	double v;

	if (c == NULL || value == NULL || paused)
		return;
	metadata_one(&r, c->type, value, 0);
	v = r.value_type == SNAPTRAIL_REPORT_DOUBLE ? r.value.real :
	    r.value_type == SNAPTRAIL_REPORT_UINT ? (double)r.value.natural : (double)r.value.integer;
	__atomic_store_n(&c->count, (uint64_t)(int64_t)v, __ATOMIC_RELAXED);
	say_metric(c->key, c->n, v);
}

static void counter_set_value_ex(void *id, void *clock, unsigned long long stamp, void *value)
{
	(void)clock, (void)stamp;
	counter_set_value(id, value);
}

/* ---- domains and strings ---- */

/* Each name once.  Ours stay for ever; what a static part made before we came is good
 * as long as its library is there. */
struct handle {
	struct handle *next;
	const struct itt_global *of;     /* NULL: ours */
	void *made;                      /* NULL: it went */
	bool is_domain;
	union {
		itt_domain domain;
		itt_string string;
	} own;
	char name[];
};
static struct handle *handles;           /* grows at its head alone */

static void *handle_made(const struct handle *h, const char *name, bool is_domain)
{
	void *made = __atomic_load_n(&h->made, __ATOMIC_ACQUIRE);
	struct dl_find_object found;

	return made && h->is_domain == is_domain && strcmp(h->name, name) == 0 &&
			       (h->of == NULL || _dl_find_object((void *)h->of, &found) == 0) ? made : NULL;
}

/* The one of that name, or `made` of `g`, or with neither a new one. */
static void *handle_of(const char *name, bool is_domain, const struct itt_global *g, void *made)
{
	struct handle *first = __atomic_load_n(&handles, __ATOMIC_ACQUIRE), *fresh = NULL;

	if (name == NULL)
		return NULL;
	for (;;) {
		for (struct handle *h = first; h; h = h->next) {
			void *known = handle_made(h, name, is_domain);

			if (known) {
				free(fresh);
				return known;
			}
		}
		if (fresh == NULL) {
			fresh = calloc(1, sizeof *fresh + strlen(name) + 1);
			if (fresh == NULL)
				return NULL;
			strcpy(fresh->name, name);
			fresh->of = g;
			fresh->is_domain = is_domain;
			if (is_domain)
				fresh->own.domain = (itt_domain){ .flags = 1, .name = fresh->name };
			else
				fresh->own.string = (itt_string){ .text = fresh->name };
			fresh->made = made ? made : &fresh->own;
		}
		fresh->next = first;
		if (__atomic_compare_exchange_n(&handles, &first, fresh, false, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
			return fresh->made;
	}
}

static itt_domain *domain_create(const char *name) { return handle_of(name, true, NULL, NULL); }
static itt_string *string_create(const char *text) { return handle_of(text, false, NULL, NULL); }

/* ---- control ---- */

static void pause_all(void) { paused = 1; }
static void resume_all(void) { paused = 0; }

/* ---- binding ---- */

static const struct { const char *name; void *function; } functions[] = {
	{ "domain_create", domain_create }, { "string_handle_create", string_create },
	{ "domain_createA", domain_create }, { "string_handle_createA", string_create },
	{ "task_begin", task_begin }, { "task_begin_fn", task_begin_fn }, { "task_begin_ex", task_begin_ex },
	{ "task_end", task_end }, { "task_end_ex", task_end_ex },
	{ "task_begin_overlapped", task_begin_overlapped }, { "task_end_overlapped", task_end_overlapped },
	{ "task_begin_overlapped_ex", task_begin_overlapped_ex }, { "task_end_overlapped_ex", task_end_overlapped_ex },
	{ "task_group", task_group }, { "region_begin", region_begin }, { "region_end", region_end },
	{ "frame_begin_v3", frame_begin }, { "frame_end_v3", frame_end }, { "frame_submit_v3", frame_submit },
	{ "get_timestamp", timestamp },
	{ "metadata_add", metadata_add }, { "metadata_str_add", metadata_text }, { "metadata_str_addA", metadata_text },
	{ "metadata_add_with_scope", metadata_add_with_scope }, { "metadata_str_add_with_scope", metadata_str_add_with_scope },
	{ "metadata_str_add_with_scopeA", metadata_str_add_with_scope },
	{ "thread_set_name", thread_set_name }, { "thread_set_nameA", thread_set_name }, { "marker", marker },
	{ "mark_create", mark_create }, { "mark_createA", mark_create }, { "mark", mark }, { "markA", mark },
	{ "mark_global", mark }, { "mark_globalA", mark },
	{ "event_create", event_create }, { "event_createA", event_create }, { "event_start", event_start }, { "event_end", event_end },
	{ "counter_create", counter_create }, { "counter_createA", counter_create },
	{ "counter_create_typed", counter_create_typed }, { "counter_create_typedA", counter_create_typed },
	{ "counter_create_v3", counter_create_v3 },
	{ "counter_inc", counter_inc }, { "counter_dec", counter_dec }, { "counter_inc_delta", counter_inc_delta },
	{ "counter_dec_delta", counter_dec_delta }, { "counter_inc_v3", counter_inc_v3 }, { "counter_dec_v3", counter_dec_v3 },
	{ "counter_inc_delta_v3", counter_inc_delta_v3 }, { "counter_dec_delta_v3", counter_dec_delta_v3 },
	{ "counter_set_value", counter_set_value }, { "counter_set_value_ex", counter_set_value_ex },
	{ "pause", pause_all }, { "resume", resume_all }, { "detach", pause_all },
};

static void *function_of(const char *name)
{
	if (strncmp(name, "__itt_", 6))
		return NULL;
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
		if (strcmp(name + 6, functions[i].name) == 0)
			return functions[i].function;
	return NULL;
}

static void know(const struct itt_global *g)
{
	for (itt_domain *d = g->domains; d; d = d->next)
		handle_of(d->name, true, g, d);
	for (itt_string *x = g->strings; x; x = x->next)
		handle_of(x->text, false, g, x);
}

/* Two libraries may begin at once: the second waits for the first. */
static bool ready(void)
{
	static int state; /* 0 fresh, 1 somebody prepares, 2 done */
	int fresh = 0;

	if (__atomic_compare_exchange_n(&state, &fresh, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		if (pthread_key_create(&at_exit, thread_gone) == 0)
			door = door_find();
		__atomic_store_n(&state, 2, __ATOMIC_RELEASE);
	}
	while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2)
		sched_yield();
	return door != NULL;
}

/* A static part that goes takes along what it made. */
EXPORT void __itt_api_fini(struct itt_global *g)
{
	for (struct handle *h = __atomic_load_n(&handles, __ATOMIC_ACQUIRE); h; h = h->next)
		if (h->of == g && g)
			__atomic_store_n(&h->made, NULL, __ATOMIC_RELEASE);
}

/* Called by each static part with its own state, some call it twice.  One that is
 * of another version, or a process that nobody records: nothing is done by it. */
EXPORT void __itt_api_init(struct itt_global *g, int groups)
{
	bool good = g && memcmp(g->magic, itt_magic, sizeof itt_magic) == 0 && g->version_major == 3 && g->api_list;

	(void)groups;
	if (!good)
		return;
	good = ready();
	if (good)
		know(g);
	for (struct itt_api_info *a = g->api_list; a->name; a++) {
		void *f = good ? function_of(a->name) : NULL;

		if (a->function)
			*a->function = f ? f : a->nothing;
	}
}
