/* The collector against a producer made by hand, which lays its records out
 * exactly as ring.h says; the stage, and the clock's lines. */
#include "unit.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/collect.h"

void suite_collect(void);

/* Time does not pass by itself: offset_ns is moved on. */
#define SECOND 1000000000LL

struct rig {
	struct temp_folder t;
	struct board *board;
	struct collector c;
	uint64_t stamp;          /* of the next record, a monotonic one */
};

static void rig_make(struct rig *r, uint64_t max_rate)
{
	memset(r, 0, sizeof *r);
	temp_make(&r->t);
	r->board = mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r->board == MAP_FAILED)
		abort();
	r->board->magic = BOARD_MAGIC;
	r->board->slots = BOARD_SLOTS;
	clock_begin(&r->c.clock, false);
	if (collect_begin(&r->c, r->t.path, r->board, 1, max_rate) < 0)
		abort();
	r->stamp = mono_now_ns() - (uint64_t)SECOND; /* all of it is past */
}

static void rig_end(struct rig *r)
{
	collect_end(&r->c);
	munmap(r->board, BOARD_BYTES);
	temp_remove(&r->t);
}

static struct lane *lane_make(struct rig *r, uint32_t slot, uint32_t pid, uint32_t tid)
{
	struct lane *l = board_slot(r->board, slot);

	l->magic = LANE_MAGIC;
	l->pid = pid;
	l->tid = tid;
	l->size_bytes = SLOT_DATA_BYTES;
	l->data_offset = SLOT_DATA_OFFSET;
	l->claimed_stamp = (r->stamp | STAMP_MONOTONIC) + slot;
	__atomic_store_n(&l->state, LANE_LIVE, __ATOMIC_RELEASE);
	return l;
}

static uint32_t encode(uint8_t *room, const struct change *c)
{
	uint8_t *p = room;

	*p++ = RUN_CHANGES_TAG;
	p = varint_put(p, change_size(c));
	return (uint32_t)(change_put(p, c) - room);
}

/* Reserves and fills in; the caller says whether it is finished.  Returns where it stands. */
static uint64_t write_record(struct lane *l, const struct change *c, uint32_t state)
{
	uint8_t room[600];
	uint32_t n = encode(room, c), extent = record_extent(n), mask = l->size_bytes - 1;
	uint64_t pos = l->reserve;

	if ((pos & mask) + extent > l->size_bytes) {
		uint32_t pad = l->size_bytes - (uint32_t)(pos & mask);
		uint64_t header = record_header(pos, pad - 8, RECORD_VOID);

		memcpy(lane_data(l) + (pos & mask), &header, 8);
		pos += pad;
	}
	uint64_t header = record_header(pos, n, state);

	memcpy(lane_data(l) + (pos & mask) + 8, room, n);
	memcpy(lane_data(l) + (pos & mask), &header, 8);
	__atomic_store_n(&l->reserve, pos + extent, __ATOMIC_RELEASE);
	return pos;
}

static void finish(struct lane *l, uint64_t pos)
{
	uint64_t *h = (uint64_t *)(lane_data(l) + (pos & (l->size_bytes - 1)));

	*h = record_header(pos, record_len(*h), RECORD_FINISHED);
}

static uint64_t at(struct rig *r, uint64_t after_ns) { return (r->stamp + after_ns) | STAMP_MONOTONIC; }

static struct change set_env(uint64_t stamp, const char *name, const char *value)
{
	return (struct change){ .stamp = stamp, .kind = ENV_SET, .name = BYTES(name, strlen(name)), .value = BYTES(value, strlen(value)) };
}

static void began(struct rig *r, struct lane *l, uint64_t after_ns)
{
	struct change c = { .stamp = at(r, after_ns), .kind = PROCESS_BEGAN, .pid = l->pid, .ppid = 1, .exe = BYTES("/x", 2) };

	write_record(l, &c, RECORD_FINISHED);
}

static size_t drain(struct rig *r)
{
	double fill;

	return collect_drain(&r->c, &fill);
}

static const char *env_of(struct rig *r, uint32_t pid, const char *suffix)
{
	struct entity *e = model_process_entity(r->c.model, pid, TABLE_MEMORY, suffix);
	const struct value *v = e ? value_get(&e->value, "value") : NULL;

	return v && v->type == VALUE_STRING ? v->bytes : "(none)";
}

static const char *text_of(struct rig *r, enum table t, const char *key, const char *field)
{
	struct entity *e = model_find(r->c.model, t, key, strlen(key));
	const struct value *v = e ? value_get(&e->value, field) : NULL;

	return v && v->type == VALUE_STRING ? v->bytes : "(none)";
}

/* ---- merging ---- */

static void records_of_two_lanes_merge_by_time(void)
{
	struct rig r;
	struct lane *a, *b;
	struct change c;

	rig_make(&r, 0);
	a = lane_make(&r, 0, 10, 10);
	b = lane_make(&r, 1, 10, 11);
	began(&r, a, 0);
	for (int i = 0; i < 20; i++) { /* lane b is drained first, and lane a has the last word now and then */
		char value[12];

		snprintf(value, sizeof value, "%d", i);
		c = set_env(at(&r, 1000 + (uint64_t)i * 10), "X", value);
		write_record(i % 2 ? b : a, &c, RECORD_FINISHED);
	}
	CU_ASSERT_EQUAL(drain(&r), 21);
	collect_apply(&r.c);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/X"), "19");
	CU_ASSERT_EQUAL(r.c.npending, 0);
	rig_end(&r);
}

static void a_lane_goes_round_its_end_many_times(void)
{
	struct rig r;
	struct lane *l;

	rig_make(&r, 0);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	for (int i = 0; i < 5000; i++) {
		char value[80];
		struct change c;

		snprintf(value, sizeof value, "%0*d", 1 + i % 70, i);
		c = set_env(at(&r, 1000 + (uint64_t)i), "X", value);
		write_record(l, &c, RECORD_FINISHED);
		if (i % 16 == 0)
			drain(&r);
	}
	drain(&r);
	collect_apply(&r.c);
	CU_ASSERT_EQUAL(r.c.changes, 5001);
	CU_ASSERT_EQUAL(r.c.voided, 0);
	CU_ASSERT_EQUAL(atoi(env_of(&r, 10, "/env/X")), 4999);
	rig_end(&r);
}

static void an_unfinished_record_holds_the_watermark(void)
{
	struct rig r;
	struct lane *a, *b;
	struct change early, late;
	uint64_t pos, stamp;

	rig_make(&r, 0);
	a = lane_make(&r, 0, 10, 10);
	b = lane_make(&r, 1, 10, 11);
	began(&r, a, 0);
	drain(&r);
	collect_apply(&r.c);
	stamp = mono_now_ns() | STAMP_MONOTONIC;
	early = set_env(stamp, "X", "early");
	late = set_env(stamp + 1000, "X", "late");
	pos = write_record(b, &early, RECORD_UNFINISHED);
	write_record(a, &late, RECORD_FINISHED);
	r.c.clock.offset_ns += SECOND / 2; /* half a second goes by */
	drain(&r);
	collect_apply(&r.c);
	CU_ASSERT(r.c.watermark_ns < clock_time(&r.c.clock, stamp));
	finish(b, pos);
	drain(&r);
	collect_apply_all(&r.c);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/X"), "late");
	CU_ASSERT_EQUAL(r.c.voided, 0);
	CU_ASSERT_EQUAL(r.c.changes, 3);
	rig_end(&r);
}

static void an_abandoned_record_is_voided_and_counted(void)
{
	struct rig r;
	struct lane *l;
	struct change c;

	rig_make(&r, 0);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	c = set_env(at(&r, 10), "X", "lost");
	write_record(l, &c, RECORD_UNFINISHED);
	c = set_env(at(&r, 20), "Y", "kept");
	write_record(l, &c, RECORD_FINISHED);
	drain(&r);
	CU_ASSERT_EQUAL(r.c.changes, 1);
	r.c.clock.offset_ns += 2 * SECOND;
	drain(&r);
	collect_apply_all(&r.c);
	CU_ASSERT_EQUAL(r.c.voided, 1);
	CU_ASSERT_EQUAL(r.c.lost, 1);
	CU_ASSERT_EQUAL(r.c.stage.h->ngaps, 1);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/Y"), "kept");
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/X"), "(none)");
	CU_ASSERT_EQUAL(l->tail, l->reserve);
	rig_end(&r);
}

/* A round that comes late finds several images of a chain of execs at once: the last
 * of them may be in the middle of its first report. */
static void the_next_image_is_not_dead(void)
{
	for (uint32_t last = 0; last < 2; last++) { /* its slot comes before or behind */
		struct rig r;
		struct lane *l, *next;
		struct change c;
		uint64_t pos, dead;

		rig_make(&r, 0);
		l = lane_make(&r, 1, 10, 10);
		next = lane_make(&r, last ? 2 : 0, 10, 10);
		l->image = at(&r, 0);
		next->image = at(&r, 50);
		began(&r, l, 1);
		c = set_env(at(&r, 20), "X", "lost");
		dead = write_record(l, &c, RECORD_UNFINISHED);
		c = (struct change){ .stamp = at(&r, 60), .kind = PROCESS_BEGAN, .pid = 10, .ppid = 1, .exe = BYTES("/y", 2) };
		pos = write_record(next, &c, RECORD_UNFINISHED);
		drain(&r);
		drain(&r);
		CU_ASSERT_EQUAL(r.c.voided, 0);
		finish(next, pos);
		drain(&r);
		drain(&r);
		collect_apply_all(&r.c);
		CU_ASSERT_EQUAL(r.c.voided, 1);
		CU_ASSERT(l->tail > dead);
		CU_ASSERT_STRING_EQUAL(text_of(&r, TABLE_AGENTS, "p10", "executable"), "/y");
		rig_end(&r);
	}
}

static void a_lane_s_losses_become_a_gap(void)
{
	struct rig r;
	struct lane *l;

	rig_make(&r, 0);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	l->lost_first = at(&r, 100);
	l->lost_last = at(&r, 300);
	l->lost = 5;
	drain(&r);
	drain(&r);
	CU_ASSERT_EQUAL(r.c.stage.h->ngaps, 1);
	CU_ASSERT_EQUAL(r.c.stage.h->gap[0].lost, 5);
	CU_ASSERT_EQUAL(r.c.stage.h->gap[0].to_ns - r.c.stage.h->gap[0].from_ns, 200);
	rig_end(&r);
}

/* ---- hot keys ---- */

static void write_many(struct rig *r, struct lane *l, unsigned n)
{
	uint64_t tick = 1000000, base = clock_time(&r->c.clock, at(r, 0));
	uint64_t start = (base / tick + 2) * tick - base; /* a tick's first nanosecond */

	for (unsigned i = 0; i < n; i++) {
		char value[12];
		struct change c;

		snprintf(value, sizeof value, "%u", i);
		c = set_env(at(r, start + i), "HOT", value);
		write_record(l, &c, RECORD_FINISHED);
		if (i % 20 == 0)
			drain(r);
	}
	drain(r);
	collect_apply(&r->c);
}

static void a_hot_key_keeps_its_last_value_and_an_exact_count(void)
{
	struct stage_part p;
	uint64_t kept = 0, merged = 0;
	struct rig r;
	struct lane *l;
	size_t pos = 0;

	rig_make(&r, 1000);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	write_many(&r, l, 3000); /* a second's worth is kept, the rest shares places */
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/HOT"), "2999");
	CU_ASSERT_EQUAL(r.c.changes + r.c.coalesced, 3001);
	CU_ASSERT(r.c.changes >= 1002 && r.c.changes < 1100);
	while (stage_next(r.c.stage.h, &pos, &p)) {
		kept += p.place != NULL;
		merged += p.coalesced;
	}
	CU_ASSERT(kept >= 1);
	CU_ASSERT_EQUAL(merged, r.c.coalesced);
	rig_end(&r);
}

/* Of which kinds the last is enough, and what one key is. */
static void only_what_says_the_same_thing_again_is_merged(void)
{
	static const struct {
		struct change c;
		bool merged;
	} kinds[] = {
		{ { .kind = ENV_SET, .name = BYTES("A", 1), .value = BYTES("v", 1) }, true },
		{ { .kind = ENV_UNSET, .name = BYTES("A", 1) }, true },
		{ { .kind = THREAD_NAMED, .tid = 10, .name = BYTES("n", 1) }, true },
		{ { .kind = TITLE, .value = BYTES("t", 1) }, true },
		{ { .kind = CWD, .value = BYTES("/", 1) }, true },
		{ { .kind = NOTIFY, .value = BYTES("STATUS=x", 8) }, true },
		{ { .kind = NOTIFY, .value = BYTES("STATUS=x\nREADY=1", 16) }, false }, /* of several keys */
		{ { .kind = NOTIFY, .value = BYTES("no key", 6) }, false },
		{ { .kind = METRIC, .name = BYTES("m", 1), .has_number = true, .number = 3 }, true },
		{ { .kind = ENTITY_SET, .name = BYTES("e", 1), .value = BYTES("1", 1) }, true },
		{ { .kind = LOG, .value = BYTES("said", 4) }, false },
		{ { .kind = ENV_CLEARED }, false },
	};

	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		uint64_t base, start, tick = 1000000;
		struct rig r;
		struct lane *l;

		rig_make(&r, 1000);
		l = lane_make(&r, 0, 10, 10);
		began(&r, l, 0);
		base = clock_time(&r.c.clock, at(&r, 0));
		start = (base / tick + 2) * tick - base;
		for (unsigned i = 0; i < 2000; i++) {
			struct change c = kinds[k].c;

			c.stamp = at(&r, start + i);
			write_record(l, &c, RECORD_FINISHED);
			if (i % 20 == 0)
				drain(&r);
		}
		drain(&r);
		collect_apply(&r.c);
		CU_ASSERT_EQUAL(r.c.changes + r.c.coalesced, 2001);
		CHECK_OR(kinds[k].merged ? r.c.coalesced > 900 : r.c.coalesced == 0,
			 fprintf(stderr, "\n    kind %d, row %zu: %llu merged\n", kinds[k].c.kind, k, (unsigned long long)r.c.coalesced));
		rig_end(&r);
	}
}

static void without_a_rate_nothing_is_coalesced(void)
{
	struct rig r;
	struct lane *l;

	rig_make(&r, 0);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	write_many(&r, l, 1000);
	CU_ASSERT_EQUAL(r.c.changes, 1001);
	CU_ASSERT_EQUAL(r.c.coalesced, 0);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/HOT"), "999");
	rig_end(&r);
}

static void a_torn_hot_place_leaves_the_other_valid(void)
{
	static const uint8_t one[] = "the first report", two[] = "the second one, a little longer", three[] = "the third";
	struct rig r;
	struct stage_block *b;
	uint8_t *before, *after, *bytes;
	size_t n;

	rig_make(&r, 1000);
	b = stage_hot(&r.c.stage, 7, 10, 10, 0, sizeof two);
	stage_hot_put(b, 1, one, sizeof one);
	stage_hot_put(b, 2, two, sizeof two);
	n = 2 * (sizeof(struct hot_place) + b->cap);
	bytes = (uint8_t *)(b + 1);
	before = malloc(n);
	after = malloc(n);
	memcpy(before, bytes, n);
	stage_hot_put(b, 3, three, sizeof three);
	memcpy(after, bytes, n);
	/* The place that is written has turn 0 first; then any of its other bytes may be old or new. */
	for (size_t cut = 8; cut <= sizeof(struct hot_place) + sizeof three; cut++) {
		const struct hot_place *p;

		memcpy(bytes, before, n);
		memset(bytes, 0, 8);
		memcpy(bytes + 8, after + 8, cut - 8);
		p = stage_hot_get(b);
		CHECK_OR(p && p->len == sizeof two && memcmp(p->bytes, two, sizeof two) == 0 && p->end == 2, break);
	}
	memcpy(bytes, after, n);
	CU_ASSERT_EQUAL(stage_hot_get(b)->end, 3);
	CU_ASSERT_EQUAL(stage_hot_get(b)->coalesced, 2);
	CU_ASSERT_FALSE(stage_hot_put(b, 4, after, b->cap + 1));
	free(before);
	free(after);
	rig_end(&r);
}

/* ---- a killed recorder ---- */

/* The stage says how far each lane was taken: what salvage skips, by the same
 * names and offsets, is all of it and nothing more. */
static void a_kill_between_stage_and_tail_gives_no_duplicates(void)
{
	for (uint64_t rate = 0; rate <= 1000; rate += 1000) {
		struct collector again = { 0 };
		struct rig r;
		struct lane *l;
		uint64_t tail;
		struct change c;
		double fill;

		rig_make(&r, rate);
		l = lane_make(&r, 0, 10, 10);
		began(&r, l, 0);
		drain(&r);
		tail = l->tail;
		for (int i = 0; i < 30; i++) {
			c = set_env(at(&r, 1000 + (uint64_t)i), i % 3 ? "HOT" : "OTHER", "v");
			write_record(l, &c, RECORD_FINISHED);
		}
		drain(&r);
		__atomic_store_n(&l->tail, tail, __ATOMIC_RELEASE); /* killed before it moved */
		c = set_env(at(&r, 5000), "NEW", "v");
		write_record(l, &c, RECORD_FINISHED);
		again.clock = r.c.clock;
		CU_ASSERT_EQUAL_FATAL(collect_begin(&again, r.t.path, r.board, 2, rate), 0);
		collect_find(&again);
		collect_skip(&again, r.c.stage.h);
		CU_ASSERT_EQUAL(collect_drain(&again, &fill), 1);
		CU_ASSERT_EQUAL(again.changes, 1);
		collect_end(&again);
		rig_end(&r);
	}
}

static void what_is_not_applied_outlives_its_stage(void)
{
	struct stage old;
	struct rig r;
	struct lane *l;
	struct change c;
	uint64_t now;

	rig_make(&r, 1000);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	drain(&r);
	collect_apply(&r.c);
	now = mono_now_ns() + 10 * (uint64_t)SECOND;
	for (int i = 0; i < 5; i++) {
		c = set_env((now + (uint64_t)i) | STAMP_MONOTONIC, "X", i == 4 ? "last" : "before");
		write_record(l, &c, RECORD_FINISHED);
	}
	drain(&r);
	collect_apply(&r.c); /* the watermark is not there yet */
	CU_ASSERT(r.c.npending > 0);
	CU_ASSERT_EQUAL_FATAL(collect_seal(&r.c, &old), 0);
	stage_remove(&old);
	collect_apply_all(&r.c);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/X"), "last");
	rig_end(&r);
}

/* The same for the places of hot keys, which go on being written until the seal. */
static void a_hot_place_that_is_not_applied_outlives_its_stage(void)
{
	struct stage old;
	struct rig r;
	struct lane *l;
	uint64_t tick = 1000000, now, base;
	bool hot = false;

	rig_make(&r, 1000);
	l = lane_make(&r, 0, 10, 10);
	began(&r, l, 0);
	drain(&r);
	collect_apply(&r.c);
	now = mono_now_ns() + 10 * (uint64_t)SECOND; /* the watermark is not there yet */
	base = clock_time(&r.c.clock, now | STAMP_MONOTONIC);
	now += (base / tick + 2) * tick - base;
	for (unsigned i = 0; i < 3000; i++) {
		char value[12];
		struct change c;

		snprintf(value, sizeof value, "%u", i);
		c = set_env((now + i) | STAMP_MONOTONIC, "HOT", value);
		write_record(l, &c, RECORD_FINISHED);
		if (i % 20 == 0)
			drain(&r);
	}
	drain(&r);
	collect_apply(&r.c);
	for (size_t i = 0; i < r.c.npending; i++)
		hot = hot || r.c.pending[i].hot;
	CU_ASSERT_TRUE(hot);
	CU_ASSERT_EQUAL_FATAL(collect_seal(&r.c, &old), 0);
	stage_remove(&old);
	collect_apply_all(&r.c);
	CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/HOT"), "2999");
	rig_end(&r);
}

/* ---- lies ---- */

static void a_lying_lane_never_crashes(void)
{
	uint64_t rnd = 41;

	for (int round = 0; round < 300; round++) {
		struct rig r;
		struct lane *l;

		rig_make(&r, round % 2 ? 1000 : 0);
		l = lane_make(&r, BOARD_SLOTS - 1, 10, 10); /* nothing is mapped behind it */
		began(&r, l, 0);
		for (int i = 0; i < 60; i++) {
			struct change c = set_env(at(&r, 1000 + (uint64_t)i), "X", "some value of it");

			write_record(l, &c, RECORD_FINISHED);
		}
		for (uint32_t k = 1 + random_below(&rnd, 6); k; k--) {
			uint32_t where = random_below(&rnd, SLOT_DATA_BYTES / 8) * 8;
			uint64_t header = record_header(where, random_below(&rnd, 1 << 24), random_below(&rnd, 5));

			if (random_below(&rnd, 2))
				memcpy(lane_data(l) + where, &header, 8);
			else
				lane_data(l)[random_below(&rnd, SLOT_DATA_BYTES)] = (uint8_t)random_next(&rnd);
		}
		if (round % 5 == 0)
			l->reserve = random_next(&rnd) >> random_below(&rnd, 60);
		if (round % 7 == 0)
			for (uint32_t i = 0; i < SLOT_DATA_BYTES; i++)
				lane_data(l)[i] = (uint8_t)random_next(&rnd);
		for (int i = 0; i < 4; i++) {
			drain(&r);
			r.c.clock.offset_ns += 2 * SECOND;
		}
		collect_apply_all(&r.c);
		rig_end(&r);
	}
	CU_PASS("still here");
}

/* A recorder waited for ever for a process whose beginning lay in a time to come: no end
 * of it could follow.  (A preload that tells another time had told the visitor.) */
static void what_is_stamped_later_than_now_is_of_now(void)
{
	struct change c = { .kind = PROCESS_ENDED, .pid = 10, .has_number = true, .number = 3 << 8 };

	for (int rate = 0; rate < 2; rate++) {
		struct rig r;
		struct lane *l;
		uint64_t before;

		rig_make(&r, (uint64_t)rate); /* with one the second of a key's changes is put into its place */
		r.stamp += 1000 * (uint64_t)SECOND;
		l = lane_make(&r, 0, 10, 10);
		before = clock_now(&r.c.clock);
		began(&r, l, 0);
		for (int i = 0; i < 3; i++) {
			struct change e = set_env(at(&r, 5 + (uint64_t)i), "X", i == 2 ? "last" : "first");

			write_record(l, &e, RECORD_FINISHED);
		}
		l->lost = 2;
		l->lost_first = l->lost_last = at(&r, 100);
		CU_ASSERT_EQUAL(drain(&r), 4);
		for (size_t i = 0; i < r.c.npending; i++)
			CU_ASSERT(r.c.pending[i].time_ns >= before && r.c.pending[i].time_ns <= clock_now(&r.c.clock));
		CU_ASSERT_EQUAL(r.c.lost, 2);
		CU_ASSERT(r.c.stage.h->gap[0].from_ns <= clock_now(&r.c.clock) && r.c.stage.h->gap[0].to_ns <= clock_now(&r.c.clock));
		collect_apply_all(&r.c);
		CU_ASSERT_STRING_EQUAL(env_of(&r, 10, "/env/X"), "last");
		c.stamp = 0;
		collect_report(&r.c, &c);
		collect_apply_all(&r.c);
		CU_ASSERT_FALSE(model_process(r.c.model, 10)->alive);
		rig_end(&r);
	}
}

static void a_ring_file_that_lies_about_its_size_is_not_taken(void)
{
	struct { uint32_t size, offset; uint64_t magic; } lies[] = {
		{ 1 << 20, LANE_HEADER_BYTES, LANE_MAGIC }, { 4096, 8, LANE_MAGIC }, { 4096, LANE_HEADER_BYTES, 1 },
		{ 3000, LANE_HEADER_BYTES, LANE_MAGIC }, { UINT32_MAX, LANE_HEADER_BYTES, LANE_MAGIC },
	};
	struct rig r;

	rig_make(&r, 0);
	for (uint32_t i = 0; i < sizeof lies / sizeof *lies; i++) {
		struct lane l = { .magic = lies[i].magic, .size_bytes = lies[i].size, .data_offset = lies[i].offset, .pid = 5 };
		char path[100];
		FILE *f;

		snprintf(path, sizeof path, "%s/r.5.%u", r.t.path, i);
		f = fopen(path, "w");
		fwrite(&l, sizeof l, 1, f);
		fclose(f);
		CU_ASSERT_EQUAL(truncate(path, 8192), 0);
		r.board->rings_ready++;
		drain(&r);
		CU_ASSERT_EQUAL(collect_lanes(&r.c, 5), 0);
	}
	rig_end(&r);
}

/* The watermark waits for a ring that cannot be opened now, and for nothing else that lies there. */
static void what_is_no_ring_of_ours_holds_nothing_up(void)
{
	const char *const names[] = { "r.1.1.1", "r.2.2.2", "r.3.3.3" };
	char path[100];
	struct rig r;

	rig_make(&r, 0);
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", r.t.path, names[i]);
		CU_ASSERT_EQUAL(i == 0 ? mkdir(path, 0700) : i == 1 ? symlink("/etc/passwd", path) : mkfifo(path, 0), 0);
	}
	r.board->rings_ready++;
	drain(&r);
	CU_ASSERT_FALSE(r.c.unread);
	CU_ASSERT(r.c.watermark_ns > 0 && clock_now(&r.c.clock) - r.c.watermark_ns < (uint64_t)SECOND);
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", r.t.path, names[i]);
		CU_ASSERT_EQUAL(remove(path), 0);
	}
	rig_end(&r);
}

/* ---- the clock ---- */

static void the_clock_s_lines_are_continuous_and_monotonic(void)
{
	struct clock c;

	clock_begin(&c, true);
	if (!c.use_tsc) { /* the same arithmetic, whatever this machine's clocksource is */
		c.use_tsc = true;
		c.first_tick = __builtin_ia32_rdtsc();
		c.first_mono_ns = mono_now_ns();
	}
	clock_learn(&c);
	for (int i = 0; i < 100; i++) {
		c.next_sync_mono_ns = 0; /* it is time */
		clock_sync(&c);
	}
	CU_ASSERT_EQUAL(c.lines, CLOCK_LINES);
	for (size_t i = 1; i < c.lines; i++) {
		uint64_t tick = c.line[i].tick, before = clock_time(&c, tick - 1), on = clock_time(&c, tick);

		CHECK_OR(tick > c.line[i - 1].tick && c.line[i].time_ns >= c.line[i - 1].time_ns, break);
		CHECK_OR(before <= on && on - before <= 2, break);
		CHECK_OR(clock_time(&c, tick + 1) >= on, break);
	}
	clock_forget(&c, c.line[10].time_ns + 1);
	CU_ASSERT_EQUAL(c.lines, CLOCK_LINES - 10);
}

static void session_time_keeps_with_the_monotonic_clock(void)
{
	struct clock c;
	int64_t off;

	clock_begin(&c, true);
	clock_learn(&c);
	off = (int64_t)(clock_now(&c) - (mono_now_ns() + (uint64_t)c.offset_ns));
	CU_ASSERT(off < 10000000 && off > -10000000);
	CU_ASSERT_EQUAL(clock_time(&c, 5 | STAMP_MONOTONIC), 5 + (uint64_t)c.offset_ns);
}

/* Each image of a chain of execs resumes the clock of the one before: an error that
 * grew eightfold each time ended in the year 2137. */
static void a_clock_that_is_resumed_often_keeps_time(void)
{
	struct clock c;
	int64_t off;

	clock_begin(&c, true);
	clock_learn(&c);
	if (c.lines)
		c.line[0].time_ns += 100000; /* as after a moment in which another was on the processor */
	for (int i = 0; i < 20; i++) {
		uint64_t until = mono_now_ns() + 1200000;
		struct clock was = c;

		clock_resume(&c, was.use_tsc, was.offset_ns, was.line, was.lines);
		while (mono_now_ns() < until)
			;
		clock_sync(&c);
		if (i & 1)
			nanosleep(&(struct timespec){ .tv_nsec = 16000000 }, NULL);
	}
	off = (int64_t)(clock_now(&c) - (mono_now_ns() + (uint64_t)c.offset_ns));
	CU_ASSERT(off < 10000000 && off > -10000000);
}

void suite_collect(void)
{
	CU_pSuite s = CU_add_suite("collect", NULL, NULL);

	TEST(s, records_of_two_lanes_merge_by_time);
	TEST(s, a_lane_goes_round_its_end_many_times);
	TEST(s, an_unfinished_record_holds_the_watermark);
	TEST(s, an_abandoned_record_is_voided_and_counted);
	TEST(s, the_next_image_is_not_dead);
	TEST(s, a_lane_s_losses_become_a_gap);
	TEST(s, a_hot_key_keeps_its_last_value_and_an_exact_count);
	TEST(s, only_what_says_the_same_thing_again_is_merged);
	TEST(s, without_a_rate_nothing_is_coalesced);
	TEST(s, a_torn_hot_place_leaves_the_other_valid);
	TEST(s, a_kill_between_stage_and_tail_gives_no_duplicates);
	TEST(s, what_is_not_applied_outlives_its_stage);
	TEST(s, a_hot_place_that_is_not_applied_outlives_its_stage);
	TEST(s, a_lying_lane_never_crashes);
	TEST(s, what_is_stamped_later_than_now_is_of_now);
	TEST(s, a_ring_file_that_lies_about_its_size_is_not_taken);
	TEST(s, what_is_no_ring_of_ours_holds_nothing_up);
	TEST(s, the_clock_s_lines_are_continuous_and_monotonic);
	TEST(s, session_time_keeps_with_the_monotonic_clock);
	TEST(s, a_clock_that_is_resumed_often_keeps_time);
}
