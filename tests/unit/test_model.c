/* Values and the state model: what Changes make of the tables, and that a
 * saved and loaded model goes on like the one it was saved from. */
#include "unit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "model/model.h"
#include "proto/snaptrail.pb-c.h"

void suite_model(void);

/* ---- values ---- */

static struct value any_value(uint64_t *r, int depth)
{
	static char words[300];
	uint32_t n = random_below(r, 20) ? random_below(r, 9) : random_below(r, 300);
	struct value v = { 0 };

	switch (random_below(r, depth > 5 ? 7 : 9)) {
	case 0: v.type = VALUE_NULL; break;
	case 1: v = value_bool(random_below(r, 2)); break;
	case 2: v = value_int((int64_t)(random_next(r) >> random_below(r, 64))); break;
	case 3: v = (struct value){ .type = VALUE_UINT, .natural = random_next(r) }; break;
	case 4: v = value_real((double)(int64_t)random_next(r) / 7); break;
	case 5:
	case 6:
		for (uint32_t i = 0; i < n; i++)
			words[i] = (char)random_next(r);
		v = value_text(words, n);
		v.type = random_below(r, 2) ? VALUE_STRING : VALUE_BYTES;
		break;
	case 7:
		v = value_list();
		for (uint32_t i = random_below(r, 12); i; i--)
			value_push(&v, any_value(r, depth + 1));
		break;
	default:
		v = value_object();
		for (uint32_t i = random_below(r, 12); i; i--) {
			char name[12];
			int len = snprintf(name, sizeof name, "k%u", random_below(r, 99));

			value_set(&v, name, (size_t)len, false, any_value(r, depth + 1));
		}
	}
	return v;
}

/* Equal, and every object's pairs in the same order. */
static bool identical(const struct value *a, const struct value *b)
{
	if (a->type != b->type || !value_equal(a, b))
		return false;
	for (uint32_t i = 0; a->type == VALUE_LIST && i < a->n; i++)
		if (!identical(&a->items[i], &b->items[i]))
			return false;
	for (uint32_t i = 0; a->type == VALUE_OBJECT && i < a->n; i++)
		if (strcmp(a->pairs[i].name, b->pairs[i].name) || !identical(&a->pairs[i].value, &b->pairs[i].value))
			return false;
	return true;
}

static void random_trees_come_back_as_they_were(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	uint64_t r = 11;

	for (int i = 0; i < 2000; i++) {
		struct value v = any_value(&r, 0), back, copy = value_copy(&v);
		Snaptrail__Value *g;

		buf_reset(&b);
		value_pack(&v, &b);
		CHECK_OR(value_unpack(&back, b.data, b.len, 0), return);
		CHECK_OR(identical(&v, &back) && identical(&v, &copy), return);
		g = snaptrail__value__unpack(NULL, b.len, b.data);
		CHECK_OR(g != NULL, return);
		snaptrail__value__free_unpacked(g, NULL);
		value_done(&v);
		value_done(&back);
		value_done(&copy);
	}
}

static void absent_null_zero_and_empty_differ(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct value o = value_object(), back;

	value_set(&o, "null", 4, true, (struct value){ .type = VALUE_NULL });
	value_set(&o, "zero", 4, true, value_int(0));
	value_set(&o, "no", 2, true, value_bool(false));
	value_set(&o, "text", 4, true, value_str(""));
	value_set(&o, "list", 4, true, value_list());
	value_set(&o, "object", 6, true, value_object());
	object_pack(&o, &b);
	CU_ASSERT_TRUE_FATAL(object_unpack(&back, b.data, b.len, 0));
	CU_ASSERT_PTR_NULL(value_get(&back, "absent"));
	CU_ASSERT_EQUAL(value_get(&back, "null")->type, VALUE_NULL);
	CU_ASSERT_EQUAL(value_get(&back, "zero")->type, VALUE_INT);
	CU_ASSERT_EQUAL(value_get(&back, "no")->type, VALUE_BOOL);
	CU_ASSERT_EQUAL(value_get(&back, "text")->type, VALUE_STRING);
	CU_ASSERT_EQUAL(value_get(&back, "list")->type, VALUE_LIST);
	CU_ASSERT_EQUAL(value_get(&back, "object")->type, VALUE_OBJECT);
	CU_ASSERT_TRUE(identical(&o, &back));
	value_done(&o);
	value_done(&back);
}

static void a_replaced_pair_keeps_its_place(void)
{
	struct value o = value_object();

	value_set(&o, "b", 1, true, value_int(1));
	value_set(&o, "a", 1, true, value_int(2));
	value_set(&o, "b", 1, true, value_int(3));
	CU_ASSERT_EQUAL(o.n, 2);
	CU_ASSERT_STRING_EQUAL(o.pairs[0].name, "b");
	CU_ASSERT_EQUAL(o.pairs[0].value.integer, 3);
	value_unset(&o, "b");
	CU_ASSERT_STRING_EQUAL(o.pairs[0].name, "a");
	value_done(&o);
}

/* A copy once had room for exactly what was in it, and the next push wrote behind that. */
static void a_copied_list_can_grow(void)
{
	for (uint32_t n = 0; n < 40; n++) {
		struct value l = value_list(), copy;

		for (uint32_t i = 0; i < n; i++)
			value_push(&l, value_int(i));
		copy = value_copy(&l);
		for (uint32_t i = 0; i < 40; i++)
			value_push(&copy, value_int(n + i));
		for (uint32_t i = 0; i < n + 40; i++)
			CHECK_OR(copy.items[i].integer == i, return);
		value_done(&l);
		value_done(&copy);
	}
}

static void nesting_that_is_too_deep_is_damage(void)
{
	for (int deep = 150; deep <= 250; deep += 100) {
		_cleanup_buf_ struct buf b = BUF_INIT;
		struct value v = value_int(1), back;

		for (int i = 0; i < deep; i++) {
			struct value l = value_list();

			value_push(&l, v);
			v = l;
		}
		value_pack(&v, &b);
		CU_ASSERT_EQUAL(value_unpack(&back, b.data, b.len, 0), deep < (int)VALUE_DEPTH);
		if (deep < (int)VALUE_DEPTH)
			value_done(&back);
		value_done(&v);
	}
}

static void damaged_values_are_refused_or_read_but_never_crash(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	uint64_t r = 12;

	for (int i = 0; i < 5000; i++) {
		struct value v = any_value(&r, 0), back;

		buf_reset(&b);
		value_pack(&v, &b);
		value_done(&v);
		for (uint32_t k = 1 + random_below(&r, 3); k && b.len; k--)
			b.data[random_below(&r, (uint32_t)b.len)] = (uint8_t)random_next(&r);
		uint8_t *exact = xmemdup(b.data, b.len); /* a sanitizer sees its end */

		if (value_unpack(&back, exact, b.len, 0))
			value_done(&back);
		free(exact);
	}
	CU_PASS("still here");
}

/* ---- a model and Changes by hand ---- */

#define T0 1700000000000000000ull

struct bench {
	struct model *m;
	uint64_t t, order; /* of the last Change */
};

static void bench_make(struct bench *b) { *b = (struct bench){ .m = model_new(), .t = T0 }; }
static void bench_end(struct bench *b) { model_free(b->m); }

static void encode(const struct change *c, struct buf *out)
{
	out->len = (size_t)(change_put(buf_room(out, change_size(c)), c) - out->data);
}

static void apply_to(struct model *m, uint32_t pid, uint64_t t, uint64_t order, const struct change *c)
{
	_cleanup_buf_ struct buf raw = BUF_INIT;
	struct origin o = { .pid = pid, .tid = pid, .lane = 1, .order = order };

	encode(c, &raw);
	if (!model_apply(m, &o, t, raw.data, raw.len))
		CU_FAIL("a sound Change was refused");
}

/* One microsecond after the one before. */
static void say(struct bench *b, uint32_t pid, struct change c)
{
	b->t += 1000;
	apply_to(b->m, pid, b->t, ++b->order, &c);
}

#define NAME(s) BYTES(s, sizeof(s) - 1)

static void put_item(struct buf *b, uint32_t field, const void *p, size_t n)
{
	pack_bytes(b, field, p, n);
}

static void put_fd(struct buf *b, uint32_t fd, const char *link)
{
	size_t mark = pack_begin(b, CHANGE_FDS);

	pack_uint(b, 1, fd);
	pack_bytes(b, 2, link, strlen(link));
	pack_end(b, mark);
}

static void began(struct bench *b, uint32_t pid, uint32_t ppid)
{
	_cleanup_buf_ struct buf lists = BUF_INIT;

	put_item(&lists, CHANGE_ARGS, "server", 6);
	put_item(&lists, CHANGE_ARGS, "-v", 2);
	put_item(&lists, CHANGE_ENV, "HOME=/root", 10);
	put_item(&lists, CHANGE_ENV, "LANG=C", 6);
	put_fd(&lists, 0, "/dev/null");
	put_fd(&lists, 1, "pipe:[77]");
	say(b, pid, (struct change){ .kind = PROCESS_BEGAN, .pid = pid, .ppid = ppid, .cwd = NAME("/srv"),
				     .exe = NAME("/usr/bin/server"), .lists = BYTES(lists.data, lists.len) });
}

static const struct value *entry(const struct bench *b, enum table t, const char *key)
{
	struct entity *e;

	model_unfold(b->m);
	e = model_find(b->m, t, key, strlen(key));
	return e ? &e->value : NULL;
}

static const char *text_at(const struct bench *b, enum table t, const char *key, const char *field)
{
	const struct value *v = entry(b, t, key), *f = v ? value_get(v, field) : NULL;

	return f && f->type == VALUE_STRING ? f->bytes : "(none)";
}

static int64_t int_at(const struct bench *b, enum table t, const char *key, const char *field)
{
	const struct value *v = entry(b, t, key), *f = v ? value_get(v, field) : NULL;

	return f && f->type == VALUE_INT ? f->integer : -999;
}

static const char *path_of(const struct bench *b, const char *key)
{
	const struct value *v = entry(b, TABLE_RESOURCES, key), *a = v ? value_get(v, "allocation") : NULL;
	const struct value *p = a ? value_get(a, "path") : NULL;

	return p && p->type == VALUE_STRING ? p->bytes : "(none)";
}

static void a_process_shows_how_it_began(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "commandLine"), "server -v");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "name"), "server");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "status"), "busy");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t10", "type"), "thread");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/env/LANG", "value"), "C");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/cwd", "value"), "/srv");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_RESOURCES, "p10/fd1", "type"), "pipe");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_TASKS, "p10/x1", "status"), "running");
	CU_ASSERT_EQUAL(int_at(&b, TABLE_SWARMS, "p10", "activeAgents"), 2);
	CU_ASSERT_EQUAL(int_at(&b, TABLE_SWARMS, "p10", "runningTasks"), 1);
	bench_end(&b);
}

static void fork_copies_descriptors_cwd_and_environment(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = NOTIFY, .value = NAME("STATUS=ready") });
	say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = 11, .ppid = 10 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p11", "parent"), "p10");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p11", "commandLine"), "server -v");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/HOME", "value"), "/root");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/cwd", "value"), "/srv");
	CU_ASSERT_STRING_EQUAL(path_of(&b, "p11/fd0"), "/dev/null");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_RESOURCES, "p11/fd1", "type"), "pipe");
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_MEMORY, "p11/notify/STATUS"));
	bench_end(&b);
}

static void what_a_child_does_leaves_its_parent_alone(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = 11, .ppid = 10 });
	say(&b, 11, (struct change){ .kind = ENV_SET, .name = NAME("LANG"), .value = NAME("de") });
	say(&b, 11, (struct change){ .kind = FD_CLOSED, .has_fd = true, .fd = 1 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/env/LANG", "value"), "C");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/LANG", "value"), "de");
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_RESOURCES, "p10/fd1"));
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_RESOURCES, "p11/fd1"));
	bench_end(&b);
}

static void an_environment_stays_as_long_as_somebody_has_it(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = 11, .ppid = 10 });
	say(&b, 10, (struct change){ .kind = PROCESS_ENDED, .pid = 10, .has_number = true });
	say(&b, 11, (struct change){ .kind = PROCESS_FORKED, .pid = 12, .ppid = 11 });
	began(&b, 11, 1);
	CU_ASSERT_EQUAL(model_count(b.m, TABLE_MEMORY), 6); /* two variables and a folder each */
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p12/env/HOME", "value"), "/root");
	CU_ASSERT_EQUAL(model_count(b.m, TABLE_MEMORY), 6);
	bench_end(&b);
}

/* After a full snapshot the parent's variables stand one by one, and a child has them all
 * the same; one that the parent set since comes with its new value, one that is unset does not. */
static void fork_after_a_full_snapshot_copies_the_environment(void)
{
	for (int change = 0; change < 3; change++) {
		struct bench b;
		_cleanup_buf_ struct buf saved = BUF_INIT;
		struct model *copy = model_new();

		bench_make(&b);
		began(&b, 10, 1);
		model_save(b.m, b.t, &saved);
		CU_ASSERT_TRUE_FATAL(model_load(copy, saved.data, saved.len));
		for (int again = 0; again < 2; again++) { /* the same for who begins with that snapshot */
			if (change == 1)
				say(&b, 10, (struct change){ .kind = ENV_SET, .name = NAME("LANG"), .value = NAME("de") });
			if (change == 2)
				say(&b, 10, (struct change){ .kind = ENV_UNSET, .name = NAME("LANG") });
			say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = 11, .ppid = 10 });
			CU_ASSERT_EQUAL(model_count(b.m, TABLE_MEMORY), change == 2 ? 4 : 6);
			CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/HOME", "value"), "/root");
			CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/LANG", "value"), change == 0 ? "C" : change == 1 ? "de" : "(none)");
			say(&b, 11, (struct change){ .kind = ENV_SET, .name = NAME("HOME"), .value = NAME("/h") });
			say(&b, 11, (struct change){ .kind = PROCESS_FORKED, .pid = 12, .ppid = 11 });
			CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p12/env/HOME", "value"), "/h");
			CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/env/HOME", "value"), "/root");
			if (again == 0) {
				model_free(b.m);
				b.m = copy;
			}
		}
		bench_end(&b);
	}
}

/* Keys that come back while their tombstones stand, as when numbers of processes go round. */
static void many_tombstones_come_back_quickly(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 9, 1);
	for (int round = 0; round < 3; round++)
		for (uint32_t pid = 10; pid < 20010; pid++) {
			say(&b, pid, (struct change){ .kind = PROCESS_FORKED, .pid = pid, .ppid = 9 });
			say(&b, pid, (struct change){ .kind = ENV_SET, .name = NAME("A"), .value = NAME("1") });
			say(&b, pid, (struct change){ .kind = PROCESS_ENDED, .pid = pid, .has_number = true });
		}
	CU_ASSERT_EQUAL(model_count(b.m, TABLE_MEMORY), 3);
	model_settle(b.m, b.t + 1);
	began(&b, 10, 9);
	CU_ASSERT_EQUAL(model_count(b.m, TABLE_MEMORY), 6);
	bench_end(&b);
}

/* A program may say hashes of which its board knows nothing. */
static void hashes_without_end_are_not_kept(void)
{
	struct bench b;
	_cleanup_buf_ struct buf saved = BUF_INIT;

	bench_make(&b);
	for (uint32_t i = 0; i < 20000; i++) {
		_cleanup_buf_ struct buf lists = BUF_INIT;
		char item[1000] = "X=";

		memset(item + 2, 'x', sizeof item - 2);
		put_item(&lists, CHANGE_ENV, item, sizeof item);
		say(&b, 10, (struct change){ .kind = PROCESS_BEGAN, .pid = 10, .ppid = 1, .env_hash = 1 + i,
					     .lists = BYTES(lists.data, lists.len) });
	}
	model_save(b.m, b.t, &saved);
	CU_ASSERT(saved.len > 1000000 && saved.len < 2000000);
	CU_ASSERT_EQUAL(strlen(text_at(&b, TABLE_MEMORY, "p10/env/X", "value")), 998);
	bench_end(&b);
}

/* What is known of a process goes with the last of its entities. */
static void processes_that_are_over_are_forgotten(void)
{
	struct bench b;
	struct process *last;

	bench_make(&b);
	for (uint32_t pid = 10; pid < 5000; pid++) {
		began(&b, pid, 1);
		say(&b, pid, (struct change){ .kind = PROCESS_ENDED, .pid = pid, .has_number = true });
	}
	CU_ASSERT_PTR_NOT_NULL(model_process(b.m, 11));
	model_settle(b.m, b.t);
	CU_ASSERT_PTR_NULL(model_process(b.m, 11));
	last = model_process(b.m, 4999);
	CU_ASSERT(last && !last->alive && last->agent);
	began(&b, 11, 1);
	model_settle(b.m, b.t);
	CU_ASSERT_PTR_NOT_NULL(model_process(b.m, 11));
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p11", "status"), "busy");
	bench_end(&b);
}

static void exec_keeps_the_key_counts_and_ends_other_threads(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = 12 });
	say(&b, 10, (struct change){ .kind = FD_OPENED, .has_fd = true, .fd = 5, .name = NAME("/etc/passwd"), .flags = O_CLOEXEC });
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_RESOURCES, "p10/fd5"));
	say(&b, 10, (struct change){ .kind = EXEC_CALLED, .name = NAME("/bin/other") });
	began(&b, 10, 1);
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10", "execCount"), 2);
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t12", "status"), "terminated");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t12", "endReason"), "exec");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t10", "status"), "busy");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_TASKS, "p10/x1", "status"), "completed");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_TASKS, "p10/x2", "status"), "running");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "currentTask"), "p10/x2");
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_RESOURCES, "p10/fd5"));
	bench_end(&b);
}

static void a_reused_pid_renames_the_dead_one(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 0, (struct change){ .kind = PROCESS_SEEN, .pid = 10, .start_ticks = 4711, .source = SOURCE_PROC });
	say(&b, 0, (struct change){ .kind = PROCESS_ENDED, .pid = 10, .has_number = true, .number = 3 << 8 });
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10", "exitCode"), 3);
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_RESOURCES, "p10/fd0"));
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_MEMORY, "p10/env/HOME"));
	began(&b, 10, 1);
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10~4711", "status"), "terminated");
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10~4711", "exitCode"), 3);
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_TASKS, "p10~4711/x1", "status"), "failed");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "status"), "busy");
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10", "exitCode"), -999);
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10", "execCount"), 1);
	bench_end(&b);
}

static void a_killed_process_tells_its_signal(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 0, (struct change){ .kind = PROCESS_ENDED, .pid = 10, .has_number = true, .number = 9 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "signal"), "SIGKILL");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "status"), "error");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_SWARMS, "p10", "coordinationStatus"), "ended");
	CU_ASSERT_EQUAL(int_at(&b, TABLE_SWARMS, "p10", "activeAgents"), 0);
	CU_ASSERT_EQUAL(int_at(&b, TABLE_SWARMS, "p10", "runningTasks"), 0);
	bench_end(&b);
}

static void an_unknown_end_says_so(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 0, (struct change){ .kind = PROCESS_ENDED, .pid = 10 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10", "endReason"), "unknown");
	CU_ASSERT_EQUAL(int_at(&b, TABLE_AGENTS, "p10", "exitCode"), -999);
	bench_end(&b);
}

static void the_last_writer_by_time_and_order_wins(void)
{
	static const struct { uint64_t t, order; const char *value; } writes[] = {
		{ 5, 1, "five" }, { 3, 9, "three" }, { 5, 3, "five and last" }, { 5, 2, "five and late" }, { 4, 7, "four" },
	};
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
		apply_to(b.m, 10, T0 + 1000000 + writes[i].t, writes[i].order,
			 &(struct change){ .kind = ENV_SET, .name = NAME("X"), .value = BYTES(writes[i].value, strlen(writes[i].value)) });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/env/X", "value"), "five and last");
	bench_end(&b);
}

static void a_late_report_does_not_raise_the_dead(void)
{
	struct bench b;
	struct change set = { .kind = ENV_SET, .name = NAME("X"), .value = NAME("1") };
	struct change unset = { .kind = ENV_UNSET, .name = NAME("X") };

	bench_make(&b);
	began(&b, 10, 1);
	apply_to(b.m, 10, T0 + 1000000, 1, &set);
	apply_to(b.m, 10, T0 + 3000000, 2, &unset);
	apply_to(b.m, 10, T0 + 2000000, 3, &set);
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_MEMORY, "p10/env/X"));
	model_settle(b.m, T0 + 2500000); /* not passed yet: the tombstone stays */
	apply_to(b.m, 10, T0 + 2600000, 4, &set);
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_MEMORY, "p10/env/X"));
	apply_to(b.m, 10, T0 + 4000000, 5, &set);
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_MEMORY, "p10/env/X"));
	bench_end(&b);
}

static void a_deletion_that_comes_first_is_remembered(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	apply_to(b.m, 10, T0 + 3000000, 2, &(struct change){ .kind = ENV_UNSET, .name = NAME("X") });
	apply_to(b.m, 10, T0 + 2000000, 1, &(struct change){ .kind = ENV_SET, .name = NAME("X"), .value = NAME("1") });
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_MEMORY, "p10/env/X"));
	bench_end(&b);
}

static void a_descriptor_duplicated_onto_itself_stays(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = FD_DUPED, .has_fd = true, .fd = 0, .has_fd2 = true, .fd2 = 0 });
	CU_ASSERT_STRING_EQUAL(path_of(&b, "p10/fd0"), "/dev/null");
	say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = 77, .ppid = 77 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p77", "status"), "busy");
	bench_end(&b);
}

static void paths_are_inferred_from_the_working_directory(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = FD_OPENED, .has_fd = true, .fd = 4, .name = NAME("../a/./b//c") });
	CU_ASSERT_STRING_EQUAL(path_of(&b, "p10/fd4"), "/a/b/c");
	say(&b, 10, (struct change){ .kind = CWD, .name = NAME("sub/..") });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p10/cwd", "value"), "/srv");
	say(&b, 10, (struct change){ .kind = RENAMED, .name = NAME("/a/b/c"), .value = NAME("d") });
	CU_ASSERT_STRING_EQUAL(path_of(&b, "p10/fd4"), "/srv/d");
	say(&b, 10, (struct change){ .kind = UNLINKED, .name = NAME("d") });
	CU_ASSERT_STRING_EQUAL(path_of(&b, "p10/fd4"), "/srv/d (deleted)");
	bench_end(&b);
}

static void addresses_of_any_length_are_read_within_bounds(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char raw[600];
	struct bench b;
	const struct value *peer;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = SOCKET_ACCEPTED, .has_fd = true, .fd = 3, .has_fd2 = true, .fd2 = 7,
				     .address = BYTES(&in, sizeof in) });
	peer = value_get(value_get(entry(&b, TABLE_RESOURCES, "p10/fd7"), "allocation"), "peer");
	CU_ASSERT_STRING_EQUAL(peer->bytes, "127.0.0.1:80");
	memset(raw, 'x', sizeof raw);
	for (int family = 0; family < 12; family++)
		for (uint32_t n = 0; n < sizeof raw; n += n < 140 ? 1 : 50) {
			sa_family_t f = (sa_family_t)family;

			memcpy(raw + 1, &f, sizeof f); /* and not aligned */
			say(&b, 10, (struct change){ .kind = SOCKET_ACCEPTED, .has_fd2 = true, .fd2 = 8, .address = BYTES(raw + 1, n) });
		}
	bench_end(&b);
}

static void a_known_environment_comes_back_by_its_hash(void)
{
	_cleanup_buf_ struct buf all = BUF_INIT, few = BUF_INIT;
	struct bench b;

	bench_make(&b);
	put_item(&all, CHANGE_ENV, "PWDFILE=/etc/pw", 15); /* only PWD itself is left out of the hash */
	put_item(&all, CHANGE_ENV, "PWD=/one", 8);
	put_item(&all, CHANGE_ENV, "HOME=/h", 7);
	put_item(&few, CHANGE_ENV, "PWD=/two", 8);
	say(&b, 10, (struct change){ .kind = PROCESS_BEGAN, .pid = 10, .env_hash = 99, .lists = BYTES(all.data, all.len) });
	say(&b, 11, (struct change){ .kind = PROCESS_BEGAN, .pid = 11, .env_hash = 99, .lists = BYTES(few.data, few.len) });
	model_unfold(b.m);
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/HOME", "value"), "/h");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/PWD", "value"), "/two");
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_MEMORY, "p11/env/PWDFILE", "value"), "/etc/pw");
	bench_end(&b);
}

static void say_stack(struct bench *b, uint64_t id, uint64_t address, uint64_t module)
{
	uint64_t frames[4] = { address, module, address + 16, 0 };

	say(b, 10, (struct change){ .kind = STACK, .stack = id, .value = BYTES(frames, sizeof frames), .partial = id == 7 });
}

static void a_stack_is_known_by_its_id_here_and_after_loading(void)
{
	_cleanup_buf_ struct buf saved = BUF_INIT;
	struct model_frame f[MODEL_STACK_FRAMES];
	struct model *loaded = model_new();
	struct bench b;
	bool cut;

	bench_make(&b);
	say(&b, 10, (struct change){ .kind = MODULE, .stack = 50, .name = NAME("/lib/x.so"), .value = NAME("\1\2\3"),
				     .flags = 0x7000, .has_number = true, .number = 0x900, .seq = 0x6000 });
	say_stack(&b, 7, 0x7010, 50);
	say_stack(&b, 8, 0x7020, 51); /* of a module that nothing was said about */
	model_save(b.m, b.t, &saved);
	CU_ASSERT_FATAL(model_load(loaded, saved.data, saved.len));
	for (int i = 0; i < 2; i++) {
		const struct model *m = i ? loaded : b.m;

		CU_ASSERT_EQUAL_FATAL(model_stack(m, 7, f, MODEL_STACK_FRAMES, &cut), 2);
		CU_ASSERT(cut && f[0].address == 0x7010 && f[0].bias == 0x6000 && f[0].start == 0x7000 && f[0].length == 0x900);
		CU_ASSERT(f[0].path.n == 9 && memcmp(f[0].path.p, "/lib/x.so", 9) == 0);
		CU_ASSERT(f[0].build_id.n == 3 && memcmp(f[0].build_id.p, "\1\2\3", 3) == 0);
		CU_ASSERT(f[1].address == 0x7020 && f[1].path.n == 0);
		CU_ASSERT_EQUAL(model_stack(m, 7, f, 1, &cut), 1);
		CU_ASSERT_EQUAL_FATAL(model_stack(m, 8, f, MODEL_STACK_FRAMES, &cut), 2);
		CU_ASSERT(!cut && f[0].module == 51 && f[0].path.n == 0);
		CU_ASSERT_EQUAL(model_stack(m, 9, f, MODEL_STACK_FRAMES, &cut), 0);
		CU_ASSERT_EQUAL(model_stack(m, 0, f, MODEL_STACK_FRAMES, &cut), 0);
	}
	model_free(loaded);
	bench_end(&b);
}

static void only_so_many_stacks_stay_and_the_newest_do(void)
{
	struct model_frame f[MODEL_STACK_FRAMES];
	size_t kept = 0;
	struct bench b;
	bool cut;

	bench_make(&b);
	for (uint64_t id = 1; id <= 40000; id++)
		say_stack(&b, id, id * 16, 0);
	for (uint64_t id = 1; id <= 40000; id++)
		kept += model_stack(b.m, id, f, MODEL_STACK_FRAMES, &cut) == 2;
	CU_ASSERT(kept >= 8192 && kept <= 16384);
	for (uint64_t id = 40001 - kept; id <= 40000; id++)
		CHECK_OR(model_stack(b.m, id, f, MODEL_STACK_FRAMES, &cut) == 2 && f[0].address == id * 16, break);
	bench_end(&b);
}

static void only_so_many_ended_ones_stay(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	for (uint32_t pid = 100; pid < 100 + 2000; pid++) {
		char metric[32];
		int n = snprintf(metric, sizeof metric, "p%u/heap/live", pid);

		say(&b, 10, (struct change){ .kind = PROCESS_FORKED, .pid = pid, .ppid = 10 });
		say(&b, 0, (struct change){ .kind = METRIC, .name = BYTES(metric, n), .real = 5 });
		say(&b, 0, (struct change){ .kind = PROCESS_ENDED, .pid = pid, .has_number = true });
	}
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_METRICS, "p2099/heap/live"));
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_METRICS, "p100/heap/live"));
	CU_ASSERT(model_count(b.m, TABLE_METRICS) <= 1024 + 2);
	CU_ASSERT(model_count(b.m, TABLE_AGENTS) <= 1024 + 2);
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_AGENTS, "p10"));
	CU_ASSERT_PTR_NOT_NULL(entry(&b, TABLE_AGENTS, "p2099"));
	CU_ASSERT_PTR_NULL(entry(&b, TABLE_AGENTS, "p100"));
	CU_ASSERT_EQUAL(int_at(&b, TABLE_SWARMS, "p10", "activeAgents"), 2);
	bench_end(&b);
}

/* Its number had ended before: it once was forgotten with those. */
static void a_thread_that_has_an_ended_ones_number_stays(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = 12 });
	say(&b, 10, (struct change){ .kind = THREAD_ENDED, .tid = 12 });
	say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = 12 });
	for (uint32_t tid = 100; tid < 1500; tid++) {
		say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = tid });
		say(&b, 10, (struct change){ .kind = THREAD_ENDED, .tid = tid });
	}
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t12", "status"), "busy");
	bench_end(&b);
}

/* The C library gives a joined thread's handle to the next one, which may show
 * itself before the joiner comes to report. */
static void a_join_that_is_told_late_does_not_end_the_next_thread(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = 11, .flags = 0x7000, .seq = 1 });
	say(&b, 10, (struct change){ .kind = THREAD_ENDED, .tid = 11 });
	say(&b, 10, (struct change){ .kind = THREAD_BEGAN, .tid = 12, .flags = 0x7000, .seq = 2 });
	say(&b, 10, (struct change){ .kind = THREAD_ENDED, .flags = 0x7000, .seq = 1 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t12", "status"), "busy");
	say(&b, 10, (struct change){ .kind = THREAD_ENDED, .flags = 0x7000, .seq = 2 });
	CU_ASSERT_STRING_EQUAL(text_at(&b, TABLE_AGENTS, "p10/t12", "status"), "terminated");
	bench_end(&b);
}

static void a_channel_keeps_the_last_messages_and_counts_the_others(void)
{
	struct bench b;
	struct entity *e;

	bench_make(&b);
	began(&b, 10, 1);
	for (int i = 0; i < 1000; i++)
		say(&b, 10, (struct change){ .kind = LOG, .value = NAME("hello") });
	e = model_find(b.m, TABLE_COMMUNICATIONS, "p10/log", 7);
	CU_ASSERT_PTR_NOT_NULL_FATAL(e);
	CU_ASSERT(e->value.n >= 64 && e->value.n < 128);
	CU_ASSERT_EQUAL(e->value.n + e->dropped, 1000);
	bench_end(&b);
}

static void set_entity(struct bench *b, uint32_t kind, enum table t, const char *key, const struct value *v)
{
	_cleanup_buf_ struct buf e = BUF_INIT;

	value_pack(v, &e);
	say(b, 0, (struct change){ .kind = kind, .table = t, .name = BYTES(key, strlen(key)), .source = SOURCE_API,
				   .entity = BYTES(e.data, e.len) });
}

static void what_does_not_fit_its_table_is_kept_and_can_be_patched(void)
{
	struct bench b;

	for (int t = 1; t < TABLE_COUNT; t++) {
		struct value odd[] = { value_str("x"), value_int(5), value_list(), value_object(), { .type = VALUE_NULL },
				       value_text("a long text, longer than a value is", 35) };
		struct value patch = value_object(), message = value_str("m");

		value_push(&odd[2], value_str("in a list"));
		value_set(&odd[3], "name", 4, true, value_int(7));
		value_set(&patch, "status", 6, true, value_str("running"));
		for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
			_cleanup_buf_ struct buf saved = BUF_INIT;
			struct bench back;

			bench_make(&b);
			bench_make(&back);
			set_entity(&b, ENTITY_SET, (enum table)t, "k", &odd[i]);
			CU_ASSERT_TRUE(identical(entry(&b, (enum table)t, "k"), &odd[i]));
			model_save(b.m, b.t, &saved);
			CU_ASSERT_TRUE(model_load(back.m, saved.data, saved.len));
			CHECK_OR(entry(&back, (enum table)t, "k") && identical(entry(&back, (enum table)t, "k"), &odd[i]),
				 fprintf(stderr, "    table %d, value %zu\n", t, i));
			set_entity(&b, MESSAGE, (enum table)t, "k", &message);
			set_entity(&b, ENTITY_PATCHED, (enum table)t, "k", &patch);
			CU_ASSERT_STRING_EQUAL(text_at(&b, (enum table)t, "k", "status"), "running");
			set_entity(&b, ENTITY_DELETED, (enum table)t, "k", &patch);
			CU_ASSERT_EQUAL(model_count(b.m, (enum table)t), 0);
			bench_end(&b);
			bench_end(&back);
			value_done(&odd[i]);
		}
		value_done(&patch);
		value_done(&message);
	}
}

/* A state that is handed in is nobody's history: none of it is let go of. */
static void a_loaded_state_keeps_all_that_ended(void)
{
	_cleanup_buf_ struct buf saved = BUF_INIT;
	struct value done = value_object();
	struct bench b, back;

	bench_make(&b);
	bench_make(&back);
	value_set(&done, "status", 6, true, value_str("completed"));
	for (int i = 0; i < 3000; i++) {
		char key[20];

		snprintf(key, sizeof key, "task-%d", i);
		set_entity(&b, ENTITY_SET, TABLE_TASKS, key, &done);
	}
	model_save(b.m, b.t, &saved);
	CU_ASSERT_TRUE(model_load(back.m, saved.data, saved.len));
	CU_ASSERT_EQUAL(model_count(back.m, TABLE_TASKS), 3000);
	value_done(&done);
	bench_end(&b);
	bench_end(&back);
}

/* ---- random streams ---- */

static struct bytes any_name(uint64_t *r)
{
	static const char *const names[] = { "A", "HOME", "LANG", "x y", "PATH", "a/b", "/etc/passwd", "../up", "/tmp/t" };
	const char *s = names[random_below(r, 9)];

	return BYTES(s, strlen(s));
}

/* Appends one random Change; who makes it is in *ret_pid. */
static void any_fact(uint64_t *r, struct buf *raw, uint32_t *ret_pid)
{
	static const uint32_t kinds[] = {
		PROCESS_BEGAN, PROCESS_FORKED, PROCESS_FORKED, PROCESS_SPAWNED, PROCESS_EXITING, PROCESS_ENDED, EXEC_CALLED,
		EXEC_FAILED, PROCESS_SEEN, PROCESS_UNINJECTED, THREAD_BEGAN, THREAD_BEGAN, THREAD_ENDED, THREAD_NAMED,
		THREAD_DETACHED, NOTIFY, LOG, TITLE, ENV_SET, ENV_SET, ENV_UNSET, ENV_CLEARED, CWD, FD_OPENED, FD_OPENED,
		FD_OPENED, FD_CLOSED, FD_RANGE_CLOSED, FD_DUPED, FD_FLAGS, FD_PAIR, FD_GAUGE, FD_FAILED, RENAMED, UNLINKED,
		SOCKET_BOUND, SOCKET_LISTENING, SOCKET_CONNECTED, SOCKET_ACCEPTED, SOCKET_SHUT, ENTITY_SET, ENTITY_PATCHED,
		ENTITY_DELETED, METRIC, MESSAGE,
	};
	static const char un[] = "\1\0/run/socket";
	_cleanup_buf_ struct buf lists = BUF_INIT, entity = BUF_INIT;
	uint32_t pid = 10 + random_below(r, 6);
	struct change c = {
		.kind = kinds[random_below(r, sizeof kinds / sizeof *kinds)], .has_fd = true, .fd = (int)random_below(r, 12),
		.has_fd2 = true, .fd2 = (int)random_below(r, 12), .name = any_name(r), .value = any_name(r),
		.flags = random_below(r, 3) ? 0 : O_CLOEXEC, .source = random_below(r, 3) ? SOURCE_HOOK : SOURCE_PROC,
		.fd_type = random_below(r, FDT_COUNT), .calls = random_below(r, 3), .bytes_read = random_below(r, 1000),
		.real = random_below(r, 100), .has_number = random_below(r, 2),
	};

	*ret_pid = pid;
	if (c.has_number)
		c.number = random_below(r, 4) << 8;
	switch (c.kind) {
	case PROCESS_BEGAN:
		put_item(&lists, CHANGE_ARGS, "prog", 4);
		for (uint32_t i = random_below(r, 4); i; i--) {
			char env[32];
			struct bytes n = any_name(r);

			put_item(&lists, CHANGE_ENV, env, (size_t)snprintf(env, sizeof env, "%.*s=%u", (int)n.n, (const char *)n.p, i));
		}
		for (uint32_t i = random_below(r, 4); i; i--)
			put_fd(&lists, random_below(r, 12), "/dev/tty");
		c.env_hash = random_below(r, 4);
		c.pid = pid;
		c.ppid = 9;
		c.lists = BYTES(lists.data, lists.len);
		c.cwd = BYTES("/work", 5);
		break;
	case PROCESS_FORKED: case PROCESS_SPAWNED:
		c.pid = 10 + random_below(r, 6);
		c.ppid = pid;
		break;
	case PROCESS_SEEN: case PROCESS_UNINJECTED:
		c.start_ticks = random_below(r, 1000);
		/* fall through */
	case PROCESS_ENDED: c.pid = pid; break;
	case THREAD_BEGAN: case THREAD_ENDED: case THREAD_NAMED: case THREAD_DETACHED:
		c.tid = 10 + random_below(r, 20);
		break;
	case FD_PAIR: c.fd_type = FDT_PIPE; break;
	case RENAMED: case UNLINKED: c.has_fd = c.has_fd2 = false; break;
	case CWD: c.has_fd = random_below(r, 4) == 0; break;
	case SOCKET_BOUND: case SOCKET_CONNECTED: case SOCKET_ACCEPTED: c.address = BYTES(un, sizeof un - 1); break;
	case ENTITY_SET: case ENTITY_PATCHED: case ENTITY_DELETED: case MESSAGE: {
		static const char *const keys[] = { "mine", "other", "p11/mine", "p12/notes", "third" };
		struct value v = any_value(r, 3);

		c.table = c.kind == MESSAGE ? TABLE_COMMUNICATIONS : 1 + random_below(r, 6);
		value_pack(&v, &entity);
		value_done(&v);
		c.entity = BYTES(entity.data, entity.len);
		c.name.p = keys[random_below(r, 5)];
		c.name.n = (uint32_t)strlen(c.name.p);
		if (random_below(r, 2))
			*ret_pid = 0;
		break;
	}
	default: break;
	}
	encode(&c, raw);
}

static void saved_bytes(struct model *m, struct buf *out)
{
	buf_reset(out);
	model_save(m, 5, out);
}

static bool loads_to_the_same(struct model *m, struct model **ret)
{
	_cleanup_buf_ struct buf one = BUF_INIT, two = BUF_INIT;
	Snaptrail__SystemState *g;

	saved_bytes(m, &one);
	*ret = model_new();
	if (!model_load(*ret, one.data, one.len))
		return false;
	saved_bytes(*ret, &two);
	g = snaptrail__system_state__unpack(NULL, one.len, one.data);
	if (g == NULL)
		return false;
	snaptrail__system_state__free_unpacked(g, NULL);
	return one.len == two.len && memcmp(one.data, two.data, one.len) == 0;
}

static void tables_in_the_same_order(const struct model *a, const struct model *b)
{
	for (int t = 1; t < TABLE_COUNT; t++) {
		const struct entity *x = model_first(a, (enum table)t), *y = model_first(b, (enum table)t);

		CU_ASSERT_EQUAL(model_count(a, (enum table)t), model_count(b, (enum table)t));
		for (; x && y; x = x->next, y = y->next)
			CHECK_OR(strcmp(x->key, y->key) == 0 && identical(&x->value, &y->value) && x->time_ns == y->time_ns &&
				 x->order == y->order && x->source == y->source, return);
		CU_ASSERT_TRUE(x == NULL && y == NULL);
	}
}

static void a_saved_state_loads_to_the_same_tables(void)
{
	uint64_t r = 21;

	for (int round = 0; round < 40; round++) {
		struct model *m = model_new(), *copy;

		for (uint64_t i = 0; i < 400; i++) {
			_cleanup_buf_ struct buf raw = BUF_INIT;
			struct origin o = { .order = i };

			any_fact(&r, &raw, &o.pid);
			CHECK_OR(model_apply(m, &o, T0 + i * 1000, raw.data, raw.len), return);
		}
		CHECK_OR(loads_to_the_same(m, &copy), round = 1000);
		tables_in_the_same_order(m, copy);
		model_free(m);
		model_free(copy);
	}
}

/* What a reader does that starts from a full snapshot: it must arrive where
 * the live model did.  Times go back now and then, as late reports do. */
static void a_loaded_copy_goes_on_like_the_original(void)
{
	uint64_t r = 22;

	for (int round = 0; round < 60; round++) {
		_cleanup_buf_ struct buf one = BUF_INIT, two = BUF_INIT;
		struct model *m = model_new(), *copy = NULL;
		uint64_t split = random_below(&r, 500), t = T0;

		for (uint64_t i = 0; i < 1000; i++) {
			_cleanup_buf_ struct buf raw = BUF_INIT;
			struct origin o = { .order = i };
			uint64_t late = random_below(&r, 10) ? 0 : random_below(&r, 20000);

			if (i == split)
				CHECK_OR(loads_to_the_same(m, &copy), return);
			t += random_below(&r, 3000);
			any_fact(&r, &raw, &o.pid);
			model_apply(m, &o, t - late, raw.data, raw.len);
			if (copy)
				model_apply(copy, &o, t - late, raw.data, raw.len);
			if (i % 50 == 0)
				model_settle(m, t - 100000);
			if (i % 50 == 0 && copy)
				model_settle(copy, t - 100000);
		}
		saved_bytes(m, &one);
		saved_bytes(copy, &two);
		tables_in_the_same_order(m, copy);
		CHECK_OR(one.len == two.len && memcmp(one.data, two.data, one.len) == 0, round = 1000);
		model_free(m);
		model_free(copy);
	}
}

struct sent {
	struct buf raw;
	struct origin o;
	uint64_t t;
};

static int by_time(const void *a, const void *b)
{
	const struct sent *x = a, *y = b;

	return x->t != y->t ? (x->t < y->t ? -1 : 1) : x->o.order < y->o.order ? -1 : x->o.order > y->o.order;
}

static void arrival_order_does_not_matter_once_sorted(void)
{
	enum { N = 500 };
	_cleanup_buf_ struct buf one = BUF_INIT, two = BUF_INIT;
	struct sent *sent = xcalloc(N, sizeof *sent);
	struct model *a = model_new(), *b = model_new();
	uint64_t r = 23;

	for (uint64_t i = 0; i < N; i++) {
		sent[i].t = T0 + i / 3 * 1000;
		sent[i].o.order = i;
		any_fact(&r, &sent[i].raw, &sent[i].o.pid);
		model_apply(a, &sent[i].o, sent[i].t, sent[i].raw.data, sent[i].raw.len);
	}
	for (uint32_t i = N - 1; i; i--) {
		uint32_t k = random_below(&r, i + 1);
		struct sent s = sent[i];

		sent[i] = sent[k];
		sent[k] = s;
	}
	qsort(sent, N, sizeof *sent, by_time);
	for (uint32_t i = 0; i < N; i++) {
		model_apply(b, &sent[i].o, sent[i].t, sent[i].raw.data, sent[i].raw.len);
		buf_done(&sent[i].raw);
	}
	saved_bytes(a, &one);
	saved_bytes(b, &two);
	CU_ASSERT_TRUE(one.len == two.len && memcmp(one.data, two.data, one.len) == 0);
	free(sent);
	model_free(a);
	model_free(b);
}

/* Keys that are set and deleted whole: the same whatever comes first. */
static void independent_keys_agree_in_any_arrival_order(void)
{
	uint64_t r = 24;

	for (int round = 0; round < 50; round++) {
		struct change c[60] = { 0 };
		struct bench a, b;

		bench_make(&a);
		bench_make(&b);
		began(&a, 10, 1);
		began(&b, 10, 1);
		for (int i = 0; i < 60; i++)
			c[i] = (struct change){ .kind = random_below(&r, 3) ? ENV_SET : ENV_UNSET, .name = any_name(&r), .value = any_name(&r) };
		for (uint32_t i = 0; i < 60; i++)
			apply_to(a.m, 10, T0 + 10000000 + i, i, &c[i]);
		for (uint32_t i = 0; i < 60; i++)
			apply_to(b.m, 10, T0 + 10000000 + (i * 7 + 13) % 60, (i * 7 + 13) % 60, &c[(i * 7 + 13) % 60]);
		CHECK_OR(model_count(a.m, TABLE_MEMORY) == model_count(b.m, TABLE_MEMORY), return);
		for (const struct entity *e = model_first(a.m, TABLE_MEMORY); e; e = e->next) {
			const struct entity *other = model_find(b.m, TABLE_MEMORY, e->key, e->key_len);

			CHECK_OR(other && value_equal(value_get(&e->value, "value"), value_get(&other->value, "value")), return);
		}
		bench_end(&a);
		bench_end(&b);
	}
}


static size_t heard;
static void hear(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	(void)arg, (void)e, (void)field;
	heard += !(before && after && value_equal(before, after));
}

static void the_observer_hears_of_every_difference_once(void)
{
	struct bench b;

	bench_make(&b);
	began(&b, 10, 1);
	say(&b, 10, (struct change){ .kind = TITLE, .value = NAME("one"), .source = SOURCE_PROC });
	heard = 0;
	model_observe(b.m, hear, NULL);
	say(&b, 10, (struct change){ .kind = THREAD_NAMED, .tid = 10, .name = NAME("worker"), .source = SOURCE_PROC });
	CU_ASSERT_EQUAL(heard, 2); /* the thread, and the process that is named after it */
	say(&b, 10, (struct change){ .kind = THREAD_NAMED, .tid = 10, .name = NAME("worker"), .source = SOURCE_PROC });
	CU_ASSERT_EQUAL(heard, 2);
	bench_end(&b);
}

static void damaged_states_are_refused_or_read_but_never_crash(void)
{
	_cleanup_buf_ struct buf saved = BUF_INIT;
	struct model *m = model_new();
	uint64_t r = 25;

	for (uint64_t i = 0; i < 200; i++) {
		_cleanup_buf_ struct buf raw = BUF_INIT;
		struct origin o = { .order = i };

		any_fact(&r, &raw, &o.pid);
		model_apply(m, &o, T0 + i, raw.data, raw.len);
	}
	model_save(m, 1, &saved);
	model_free(m);
	for (int i = 0; i < 2000; i++) {
		uint8_t *bad = xmemdup(saved.data, saved.len);
		struct bench b;

		for (uint32_t k = 1 + random_below(&r, 4); k; k--)
			bad[random_below(&r, (uint32_t)saved.len)] = (uint8_t)random_next(&r);
		bench_make(&b);
		model_load(b.m, bad, i % 5 ? saved.len : random_below(&r, (uint32_t)saved.len));
		say(&b, 11, (struct change){ .kind = PROCESS_FORKED, .pid = 70, .ppid = 11 });
		began(&b, 12, 1);
		say(&b, 0, (struct change){ .kind = PROCESS_ENDED, .pid = 11 });
		bench_end(&b);
		free(bad);
	}
	CU_PASS("still here");
}

static void damaged_changes_never_crash_the_model(void)
{
	struct model *m = model_new();
	uint64_t r = 26;

	for (uint64_t i = 0; i < 30000; i++) {
		_cleanup_buf_ struct buf raw = BUF_INIT;
		struct origin o = { .order = i };
		uint8_t *exact;

		any_fact(&r, &raw, &o.pid);
		for (uint32_t k = random_below(&r, 3); k; k--)
			raw.data[random_below(&r, (uint32_t)raw.len)] = (uint8_t)random_next(&r);
		exact = xmemdup(raw.data, raw.len);
		model_apply(m, &o, T0 + i, exact, raw.len);
		free(exact);
		if (i % 1000 == 0)
			model_settle(m, T0 + i);
	}
	model_free(m);
	CU_PASS("still here");
}

static void say_task(struct model *m, const char *key, const char *status, uint64_t t)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct value v = value_object();
	struct change c = { .kind = ENTITY_PATCHED, .table = TABLE_TASKS, .name = BYTES(key, strlen(key)), .source = SOURCE_API, .pid = 7,
			    .flags = strcmp(status, "running") == 0 };

	value_set(&v, "status", 6, true, value_str(status));
	value_pack(&v, &b);
	value_done(&v);
	c.entity = BYTES(b.data, b.len);
	apply_to(m, 7, t, t, &c);
}

/* A busy one that begins and ends again and again once pushed out all others. */
static void what_ended_long_ago_goes_and_not_what_others_do_often(void)
{
	struct model *m = model_new(), *again = model_new();
	struct change began = { .kind = PROCESS_SEEN, .pid = 7 };
	_cleanup_buf_ struct buf b = BUF_INIT;
	char key[32];
	uint64_t t = 1;

	apply_to(m, 7, t++, 0, &began);
	for (int i = 0; i < 1200; i++) { /* 1,024 stay */
		snprintf(key, sizeof key, "once%d", i);
		say_task(m, key, "running", t++);
		say_task(m, key, "completed", t++);
	}
	CU_ASSERT(model_find(m, TABLE_TASKS, "once175", 7) == NULL || model_find(m, TABLE_TASKS, "once175", 7)->dead);
	for (int i = 0; i < 60000; i++) {
		snprintf(key, sizeof key, "often%d", i % 3);
		say_task(m, key, "running", t++);
		say_task(m, key, "completed", t++);
		if (i != 10000)
			continue;
		model_save(m, t, &b);
		CU_ASSERT(model_load(again, b.data, b.len));
	}
	CU_ASSERT(model_find(m, TABLE_TASKS, "once1199", 8) && model_find(m, TABLE_TASKS, "once180", 7));
	CU_ASSERT_EQUAL(model_count(m, TABLE_TASKS), 1024);
	CU_ASSERT_EQUAL(model_count(again, TABLE_TASKS), 1024);
	say_task(again, "one more", "running", t++);
	say_task(again, "one more", "failed", t++);
	CU_ASSERT_EQUAL(model_count(again, TABLE_TASKS), 1024);
	CU_ASSERT(model_find(again, TABLE_TASKS, "once179", 7) == NULL || model_find(again, TABLE_TASKS, "once179", 7)->dead);
	model_free(m);
	model_free(again);
}

static void hears_nothing(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	(void)arg, (void)e, (void)field, (void)before, (void)after;
}

static void say_message(struct model *m, uint64_t *r, uint64_t i)
{
	static const char *const channels[] = { "orders", "p7/own", "rare" };
	_cleanup_buf_ struct buf b = BUF_INIT;
	const char *name = channels[random_below(r, 50) ? random_below(r, 2) : 2];
	struct change c = { .kind = MESSAGE, .table = TABLE_COMMUNICATIONS, .name = BYTES(name, strlen(name)),
			    .source = random_below(r, 2) ? SOURCE_API : SOURCE_PLUGIN, .pid = random_below(r, 3) ? 7 : 0 };
	struct value v = value_object();

	value_set(&v, "message", 7, true, any_value(r, 4));
	if (random_below(r, 3))
		value_set(&v, "direction", 9, true, value_str(random_below(r, 2) ? "in" : "out"));
	if (random_below(r, 4) == 0)
		value_set(&v, "source", 6, true, value_str("me"));
	if (random_below(r, 4) == 0)
		value_set(&v, "timestamp", 9, true, value_real(5));
	if (random_below(r, 5) == 0) {
		c.has_number = true;
		c.number = (int64_t)i * 1000 + 7;
	}
	if (random_below(r, 9000) == 0)
		c.kind = ENTITY_DELETED;
	if (random_below(r, 9000) == 0) { /* it is no channel any more: a long text, say */
		static const char text[3000] = "t";

		c.kind = ENTITY_SET;
		value_done(&v);
		v = random_below(r, 2) ? value_text(text, sizeof text) : any_value(r, 3);
	}
	value_pack(&v, &b);
	value_done(&v);
	if (c.kind != ENTITY_DELETED)
		c.entity = BYTES(b.data, b.len);
	apply_to(m, c.pid ? 7 : c.source == SOURCE_PLUGIN ? 0 : 7, 1000 + i, i, &c);
}

/* One model keeps messages as they came until it is saved or looked at, the other
 * is observed and takes each apart at once. */
static void messages_that_nobody_looked_at_are_the_same_when_somebody_does(void)
{
	struct model *late = model_new(), *once = model_new();
	struct change began = { .kind = PROCESS_SEEN, .pid = 7 };

	model_observe(once, hears_nothing, NULL);
	apply_to(late, 7, 1, 0, &began);
	apply_to(once, 7, 1, 0, &began);
	uint64_t dropped = 0;

	for (uint64_t i = 0, r = 77, r2 = 77, looks = 3; i < 60000; i++) {
		_cleanup_buf_ struct buf a = BUF_INIT, b = BUF_INIT;
		struct entity *e;

		say_message(late, &r, i);
		say_message(once, &r2, i);
		if (random_below(&looks, 900) == 0 && (e = model_find(late, TABLE_COMMUNICATIONS, "orders", 6)))
			CU_ASSERT(entity_value(e)->type == VALUE_LIST);
		if (random_below(&looks, 2500) && i != 59999)
			continue;
		model_save(late, 1, &a);
		model_save(once, 1, &b);
		CHECK_OR(a.len == b.len && memcmp(a.data, b.data, a.len) == 0, return);
		if ((e = model_find(late, TABLE_COMMUNICATIONS, "orders", 6)) && e->dropped > dropped)
			dropped = e->dropped;
	}
	CU_ASSERT(dropped > 1000); /* of one life of the channel */
	model_free(late);
	model_free(once);
}

void suite_model(void)
{
	CU_pSuite s = CU_add_suite("model", NULL, NULL);

	TEST(s, random_trees_come_back_as_they_were);
	TEST(s, absent_null_zero_and_empty_differ);
	TEST(s, a_replaced_pair_keeps_its_place);
	TEST(s, a_copied_list_can_grow);
	TEST(s, nesting_that_is_too_deep_is_damage);
	TEST(s, damaged_values_are_refused_or_read_but_never_crash);
	TEST(s, a_process_shows_how_it_began);
	TEST(s, fork_copies_descriptors_cwd_and_environment);
	TEST(s, an_environment_stays_as_long_as_somebody_has_it);
	TEST(s, fork_after_a_full_snapshot_copies_the_environment);
	TEST(s, many_tombstones_come_back_quickly);
	TEST(s, hashes_without_end_are_not_kept);
	TEST(s, processes_that_are_over_are_forgotten);
	TEST(s, what_a_child_does_leaves_its_parent_alone);
	TEST(s, exec_keeps_the_key_counts_and_ends_other_threads);
	TEST(s, a_reused_pid_renames_the_dead_one);
	TEST(s, a_killed_process_tells_its_signal);
	TEST(s, an_unknown_end_says_so);
	TEST(s, the_last_writer_by_time_and_order_wins);
	TEST(s, a_late_report_does_not_raise_the_dead);
	TEST(s, a_deletion_that_comes_first_is_remembered);
	TEST(s, a_descriptor_duplicated_onto_itself_stays);
	TEST(s, paths_are_inferred_from_the_working_directory);
	TEST(s, addresses_of_any_length_are_read_within_bounds);
	TEST(s, a_known_environment_comes_back_by_its_hash);
	TEST(s, a_stack_is_known_by_its_id_here_and_after_loading);
	TEST(s, only_so_many_stacks_stay_and_the_newest_do);
	TEST(s, only_so_many_ended_ones_stay);
	TEST(s, a_thread_that_has_an_ended_ones_number_stays);
	TEST(s, a_join_that_is_told_late_does_not_end_the_next_thread);
	TEST(s, a_channel_keeps_the_last_messages_and_counts_the_others);
	TEST(s, what_does_not_fit_its_table_is_kept_and_can_be_patched);
	TEST(s, a_loaded_state_keeps_all_that_ended);
	TEST(s, a_saved_state_loads_to_the_same_tables);
	TEST(s, a_loaded_copy_goes_on_like_the_original);
	TEST(s, arrival_order_does_not_matter_once_sorted);
	TEST(s, independent_keys_agree_in_any_arrival_order);
	TEST(s, the_observer_hears_of_every_difference_once);
	TEST(s, what_ended_long_ago_goes_and_not_what_others_do_often);
	TEST(s, messages_that_nobody_looked_at_are_the_same_when_somebody_does);
	TEST(s, damaged_states_are_refused_or_read_but_never_crash);
	TEST(s, damaged_changes_never_crash_the_model);
}
