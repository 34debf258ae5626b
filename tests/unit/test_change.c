/* The encoder of fixed shape, held against protobuf-c's generated code, and
 * the reader against damage. */
#include "unit.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "proto/snaptrail.pb-c.h"
#include "report/change.h"

void suite_change(void);

/* Either side of every length that a varint can have. */
static const uint64_t edges[] = {
	0, 1, 127, 128, 16383, 16384, (1u << 21) - 1, 1u << 21, (1u << 28) - 1, 1u << 28, UINT32_MAX, (1ull << 35) - 1,
	1ull << 35, (1ull << 42) - 1, 1ull << 42, (1ull << 49) - 1, 1ull << 49, (1ull << 56) - 1, 1ull << 56,
	(1ull << 63) - 1, 1ull << 63, UINT64_MAX,
};
#define EDGES (sizeof edges / sizeof *edges)

static uint64_t any_number(uint64_t *r)
{
	switch (random_below(r, 3)) {
	case 0: return edges[random_below(r, EDGES)];
	case 1: return random_next(r) >> random_below(r, 64);
	default: return 0;
	}
}

static char text[20000];

static struct bytes any_bytes(uint64_t *r)
{
	static const uint32_t sizes[] = { 0, 0, 1, 5, 126, 127, 128, 129, 300, 16383, 16384, 20000 };
	uint32_t n = random_below(r, 50) ? sizes[random_below(r, 9)] : sizes[random_below(r, 12)];

	return BYTES(text, n);
}

static void any_change(uint64_t *r, struct change *c)
{
	*c = (struct change){
		.stamp = any_number(r), .kind = 1 + random_below(r, KIND_COUNT - 1),
		.has_fd = random_below(r, 2), .has_fd2 = random_below(r, 2), .has_number = random_below(r, 2),
		.partial = random_below(r, 2), .name = any_bytes(r), .value = any_bytes(r), .flags = any_number(r),
		.pid = (uint32_t)any_number(r), .tid = (uint32_t)any_number(r), .ppid = (uint32_t)any_number(r),
		.uid = (uint32_t)any_number(r), .source = random_below(r, 6), .error = (uint32_t)any_number(r) & INT32_MAX,
		.table = random_below(r, 8), .fd_type = random_below(r, FDT_COUNT), .family = (uint32_t)any_number(r),
		.bytes_read = any_number(r), .bytes_written = any_number(r), .calls = any_number(r),
		.coalesced = any_number(r), .env_hash = any_number(r), .start_ticks = any_number(r), .seq = any_number(r),
		.exe_hash = any_number(r), .stack = any_number(r),
		.cwd = any_bytes(r), .exe = any_bytes(r), .address = any_bytes(r),
	};
	if (c->has_fd)
		c->fd = (int32_t)any_number(r);
	if (c->has_fd2)
		c->fd2 = (int32_t)any_number(r);
	if (c->has_number)
		c->number = (int64_t)any_number(r);
	if (c->kind == METRIC)
		c->real = (double)(int64_t)any_number(r) / 3;
	if (random_below(r, 2))
		c->entity = BYTES("\x18\x08", 2); /* Value { integer: 4 } */
}

static bool same(const struct bytes *b, protobuf_c_boolean has, ProtobufCBinaryData other)
{
	return has ? b->n == other.len && memcmp(b->p, other.data, b->n) == 0 : b->n == 0;
}

/* An optional number that is not written when it is 0. */
#define NUMBER(field) (g->has_##field ? g->field == c->field : c->field == 0)

static bool agree(const struct change *c, const Snaptrail__Change *g)
{
	uint8_t entity[64];
	struct bytes e = BYTES(entity, g->entity ? snaptrail__value__pack(g->entity, entity) : 0);

	return g->has_stamp && g->stamp == c->stamp && g->has_kind && (uint32_t)g->kind == c->kind &&
	       g->has_fd == c->has_fd && g->fd == c->fd && g->has_fd2 == c->has_fd2 && g->fd2 == c->fd2 &&
	       g->has_number == c->has_number && g->number == c->number &&
	       same(&c->name, g->has_name, g->name) && same(&c->value, g->has_value, g->value) &&
	       same(&c->cwd, g->has_cwd, g->cwd) && same(&c->exe, g->has_exe, g->exe) &&
	       same(&c->address, g->has_address, g->address) && NUMBER(flags) && NUMBER(pid) && NUMBER(tid) &&
	       NUMBER(ppid) && NUMBER(uid) && NUMBER(bytes_read) && NUMBER(bytes_written) && NUMBER(calls) &&
	       NUMBER(coalesced) && NUMBER(env_hash) && NUMBER(start_ticks) && NUMBER(seq) && NUMBER(family) &&
	       NUMBER(exe_hash) && NUMBER(stack) &&
	       (g->has_source ? (uint32_t)g->source == c->source : c->source == 0) &&
	       (g->has_error ? (uint32_t)g->error == c->error : c->error == 0) &&
	       (g->has_table ? (uint32_t)g->table == c->table : c->table == 0) &&
	       (g->has_fd_type ? (uint32_t)g->fd_type == c->fd_type : c->fd_type == 0) &&
	       (g->has_partial && g->partial) == c->partial &&
	       g->has_real == (c->kind == METRIC) && g->real == c->real &&
	       e.n == c->entity.n && memcmp(entity, c->entity.n ? c->entity.p : "", e.n) == 0;
}

static bool read_agrees(const struct change *c, const uint8_t *p, size_t n)
{
	struct change back;
	Snaptrail__Change *g;
	bool good;

	if (!change_read(&back, p, n))
		return false;
	g = snaptrail__change__unpack(NULL, n, p);
	good = g && agree(&back, g) && agree(c, g);
	if (g)
		snaptrail__change__free_unpacked(g, NULL);
	return good;
}

static void what_we_write_protobuf_c_reads(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	uint64_t r = 1;

	for (int i = 0; i < 20000; i++) {
		struct change c;
		uint32_t n;

		any_change(&r, &c);
		n = change_size(&c);
		buf_reset(&b);
		CHECK_OR(change_put(buf_room(&b, n), &c) == b.data + n, return);
		CHECK_OR(read_agrees(&c, b.data, n), return);
	}
}

/* protobuf-c writes its fields in the same order, so that even the bytes agree. */
static void what_protobuf_c_writes_we_read(void)
{
	_cleanup_buf_ struct buf ours = BUF_INIT, theirs = BUF_INIT;
	uint64_t r = 2;

	for (int i = 0; i < 5000; i++) {
		Snaptrail__Change *g;
		struct change c;
		uint32_t n;
		size_t m;

		any_change(&r, &c);
		n = change_size(&c);
		buf_reset(&ours);
		buf_reset(&theirs);
		change_put(buf_room(&ours, n), &c);
		g = snaptrail__change__unpack(NULL, n, ours.data);
		CHECK_OR(g != NULL, return);
		m = snaptrail__change__pack(g, buf_room(&theirs, snaptrail__change__get_packed_size(g)));
		snaptrail__change__free_unpacked(g, NULL);
		CHECK_OR(m == n && memcmp(ours.data, theirs.data, n) == 0, return);
		CHECK_OR(read_agrees(&c, theirs.data, m), return);
	}
}

static void every_field_keeps_every_edge(void)
{
	uint8_t room[256];

	for (size_t i = 0; i < EDGES; i++) {
		uint64_t v = edges[i];
		struct change c[] = {
			{ .stamp = v }, { .kind = LOG, .flags = v }, { .pid = (uint32_t)v }, { .tid = (uint32_t)v },
			{ .bytes_read = v }, { .bytes_written = v }, { .calls = v }, { .coalesced = v }, { .env_hash = v },
			{ .ppid = (uint32_t)v }, { .uid = (uint32_t)v }, { .start_ticks = v }, { .family = (uint32_t)v },
			{ .seq = v }, { .has_number = true, .number = (int64_t)v }, { .has_number = true, .number = -(int64_t)(v >> 1) },
			{ .has_fd = true, .fd = (int32_t)v }, { .has_fd2 = true, .fd2 = -(int32_t)(v & INT32_MAX) },
		};

		for (size_t k = 0; k < sizeof c / sizeof *c; k++) {
			uint32_t n = change_size(&c[k]);

			CHECK_OR(n <= sizeof room && change_put(room, &c[k]) == room + n && read_agrees(&c[k], room, n), return);
		}
	}
}

static void varint_sizes_are_those_that_are_written(void)
{
	uint8_t room[10];
	uint64_t r = 3;

	for (size_t i = 0; i < EDGES; i++)
		CU_ASSERT_EQUAL(varint_put(room, edges[i]) - room, varint_size(edges[i]));
	for (unsigned bits = 0; bits < 64; bits++)
		for (int i = 0; i < 50; i++) {
			uint64_t v = random_next(&r) >> bits;

			CHECK_OR(varint_put(room, v) - room == varint_size(v), return);
		}
}

static void lists_are_walked_in_order(void)
{
	static const char *const args[] = { "sh", "-c", "", "exit 3" };
	_cleanup_buf_ struct buf lists = BUF_INIT, b = BUF_INIT;
	struct change c = { .kind = PROCESS_BEGAN, .stamp = 7, .pid = 3 };
	Snaptrail__Change *g;
	struct bytes item;
	size_t pos = 0, k = 0;

	for (size_t i = 0; i < 4; i++) {
		size_t n = strlen(args[i]);
		uint8_t *p = varint_put(tag_put(buf_room(&lists, n + 8), CHANGE_ARGS, 2), n);

		memcpy(p, args[i], n);
		lists.len = (size_t)(p + n - lists.data);
	}
	c.lists = BYTES(lists.data, lists.len);
	b.len = (size_t)(change_put(buf_room(&b, change_size(&c)), &c) - b.data);
	while (change_next_item(b.data, b.len, &pos, CHANGE_ARGS, &item)) {
		CU_ASSERT_FATAL(k < 4);
		CU_ASSERT_EQUAL(item.n, strlen(args[k]));
		CU_ASSERT_EQUAL(memcmp(item.p, args[k], item.n), 0);
		k++;
	}
	CU_ASSERT_EQUAL(k, 4);
	g = snaptrail__change__unpack(NULL, b.len, b.data);
	CU_ASSERT_PTR_NOT_NULL_FATAL(g);
	CU_ASSERT_EQUAL(g->n_args, 4);
	snaptrail__change__free_unpacked(g, NULL);
}

static void tags_for_the_ring_and_the_run_are_one(void)
{
	CU_ASSERT_EQUAL(snaptrail__lane_run__descriptor.fields[snaptrail__lane_run__descriptor.n_fields - 1].id, RUN_CHANGES);
}

/* A page with nothing behind it: reading one byte too far ends the test. */
struct fence {
	uint8_t *map, *end;
	size_t page;
};

static void fence_make(struct fence *f)
{
	f->page = (size_t)sysconf(_SC_PAGESIZE);
	f->map = mmap(NULL, 2 * f->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->map == MAP_FAILED)
		abort();
	f->end = f->map + f->page;
	mprotect(f->end, f->page, PROT_NONE);
}

static bool inside(const struct bytes *b, const uint8_t *p, size_t n)
{
	const uint8_t *q = b->p;

	return b->n == 0 || (q >= p && b->n <= n && (size_t)(q - p) <= n - b->n);
}

/* Reads them every way there is; true when nothing points outside. */
static bool read_all(const uint8_t *p, size_t n)
{
	struct change c;
	struct bytes item;
	size_t pos = 0;

	if (change_read(&c, p, n) && !(inside(&c.name, p, n) && inside(&c.value, p, n) && inside(&c.cwd, p, n) &&
				       inside(&c.exe, p, n) && inside(&c.address, p, n) && inside(&c.entity, p, n)))
		return false;
	for (uint32_t field = CHANGE_ARGS; field <= CHANGE_FDS; field++)
		for (pos = 0; change_next_item(p, n, &pos, field, &item);)
			if (!inside(&item, p, n) || pos > n)
				return false;
	return true;
}

static void a_truncated_change_is_not_read_beyond_its_end(void)
{
	struct fence f;
	uint64_t r = 4;

	fence_make(&f);
	for (int i = 0; i < 300; i++) {
		uint8_t room[4096];
		struct change c;
		uint32_t n;

		do
			any_change(&r, &c);
		while ((n = change_size(&c)) > sizeof room);
		change_put(room, &c);
		for (uint32_t cut = 0; cut <= n; cut++) {
			memcpy(f.end - cut, room, cut);
			CHECK_OR(read_all(f.end - cut, cut), return);
		}
	}
	munmap(f.map, 2 * f.page);
}

static void random_and_damaged_bytes_are_not_read_beyond_their_end(void)
{
	struct fence f;
	uint64_t r = 5;

	fence_make(&f);
	for (int i = 0; i < 50000; i++) {
		uint8_t room[4096];
		struct change c;
		uint32_t n = 1 + random_below(&r, 200);

		if (i % 2) {
			do
				any_change(&r, &c);
			while ((n = change_size(&c)) > sizeof room);
			change_put(room, &c);
			for (uint32_t k = random_below(&r, 4) + 1; k; k--)
				room[random_below(&r, n)] = (uint8_t)random_next(&r);
		} else {
			for (uint32_t k = 0; k < n; k++)
				room[k] = (uint8_t)random_next(&r);
		}
		memcpy(f.end - n, room, n);
		CHECK_OR(read_all(f.end - n, n), return);
	}
	munmap(f.map, 2 * f.page);
}

static void a_known_field_of_another_wire_type_is_damage(void)
{
	static const uint8_t fd_as_bytes[] = { 3 << 3 | 2, 1, 'x' }, name_as_number[] = { 4 << 3, 1 };
	static const uint8_t unknown[] = { 0xa2, 0x06, 1, 'x' }, group[] = { 5 << 3 | 3 }, field_zero[] = { 0, 1 };
	struct change c;

	CU_ASSERT_FALSE(change_read(&c, fd_as_bytes, sizeof fd_as_bytes));
	CU_ASSERT_FALSE(change_read(&c, name_as_number, sizeof name_as_number));
	CU_ASSERT_FALSE(change_read(&c, group, sizeof group));
	CU_ASSERT_FALSE(change_read(&c, field_zero, sizeof field_zero));
	CU_ASSERT_TRUE(change_read(&c, unknown, sizeof unknown));
}

static void every_kind_of_the_schema_has_its_name(void)
{
	const ProtobufCEnumDescriptor *d = &snaptrail__kind__descriptor;

	for (unsigned i = 0; i < d->n_values; i++) {
		char name[40];

		if (d->values[i].value == 0)
			continue;
		snprintf(name, sizeof name, "%s", d->values[i].name);
		for (char *p = name; *p; p++)
			if (*p >= 'A' && *p <= 'Z')
				*p += 'a' - 'A';
		CU_ASSERT_STRING_EQUAL(change_kind_name((uint32_t)d->values[i].value), name);
	}
	CU_ASSERT_STRING_EQUAL(change_kind_name(15), "unknown");
	CU_ASSERT_STRING_EQUAL(change_kind_name(UINT32_MAX), "unknown");
}

void suite_change(void)
{
	CU_pSuite s = CU_add_suite("change", NULL, NULL);

	memset(text, 'x', sizeof text);
	TEST(s, what_we_write_protobuf_c_reads);
	TEST(s, what_protobuf_c_writes_we_read);
	TEST(s, every_field_keeps_every_edge);
	TEST(s, varint_sizes_are_those_that_are_written);
	TEST(s, lists_are_walked_in_order);
	TEST(s, tags_for_the_ring_and_the_run_are_one);
	TEST(s, a_truncated_change_is_not_read_beyond_its_end);
	TEST(s, random_and_damaged_bytes_are_not_read_beyond_their_end);
	TEST(s, a_known_field_of_another_wire_type_is_damage);
	TEST(s, every_kind_of_the_schema_has_its_name);
}
