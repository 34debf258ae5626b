/* The encoder of explicit reports, held against protobuf-c: the real source is
 * compiled in, on a lane of ours; what it leaves there is decoded. */
#include "unit.h"

#include "proto/snaptrail.pb-c.h"
#include "visitor.h"

#include "snaptrail/report.h"

void suite_explicit(void);
int snaptrail_report_v1(const struct snaptrail_report *r);
int snaptrail_report_enabled(void);

/* What the visitor would give it. */
struct visitor visitor;
uint8_t visitor_shared;
__thread struct visitor_thread self __attribute__((tls_model("initial-exec")));
uint64_t room_verdicts[64];
uint64_t stamp_monotonic(void) { return 77 | STAMP_MONOTONIC; }
bool visitor_enter(void) { return false; }
static bool full;
void lane_void(struct lane *l, uint64_t pos, uint64_t n)
{
	(void)l, (void)pos, (void)n;
	abort(); /* no handler makes this lane grow */
}

uint8_t *lane_reserve_slow(uint32_t n, uint64_t *pos)
{
	(void)n, (void)pos;
	full = true;
	return NULL;
}

#define LANE_BYTES (1u << 18)
static union {
	struct board board;
	uint8_t bytes[BOARD_BYTES];
} board;
static struct lane lane;
static uint8_t data[LANE_BYTES];
static uint32_t generation = 1;

static void ready(bool redact)
{
	memset(&lane, 0, sizeof lane);
	lane.limit = sizeof data;
	memset(data, 0, sizeof data);
	memset(room_verdicts, 0, sizeof room_verdicts);
	board.board.redact = redact;
	memcpy(board_words(&board.board), "password\0token\0", 16);
	visitor = (struct visitor){ .board = &board.board, .generation = &generation, .groups = GROUP_EXPLICIT, .pid = 5 };
	self = (struct visitor_thread){ .lane = &lane, .data = data, .mask = sizeof data - 1, .generation = generation };
	full = false;
}

/* The one Change that lies in the lane; the caller frees it. */
static Snaptrail__Change *taken(void)
{
	uint64_t header;
	Snaptrail__LaneRun *run;
	Snaptrail__Change *c = NULL;

	memcpy(&header, data, 8);
	CU_ASSERT(record_state(header) == RECORD_FINISHED && record_extent(record_len(header)) == lane.reserve);
	run = snaptrail__lane_run__unpack(NULL, record_len(header), data + 8);
	CU_ASSERT(run != NULL && run->n_changes == 1);
	if (run && run->n_changes == 1) {
		c = run->changes[0];
		run->n_changes = 0;
		free(run->changes);
		run->changes = NULL;
	}
	if (run)
		snaptrail__lane_run__free_unpacked(run, NULL);
	return c;
}

static bool is(ProtobufCBinaryData b, const char *s) { return b.len == strlen(s) && memcmp(b.data, s, b.len) == 0; }

static const Snaptrail__Value *field(const Snaptrail__Value *v, const char *name)
{
	for (size_t i = 0; v && v->is_case == SNAPTRAIL__VALUE__IS_OBJECT && i < v->object->n_pairs; i++)
		if (is(v->object->pairs[i]->name, name))
			return v->object->pairs[i]->value;
	return NULL;
}

static bool field_is(const Snaptrail__Value *v, const char *name, const char *text)
{
	const Snaptrail__Value *f = field(v, name);

	return f && f->is_case == SNAPTRAIL__VALUE__IS_TEXT && is(f->text, text);
}

static struct snaptrail_report said(uint32_t kind, const char *key)
{
	return (struct snaptrail_report){ .size = sizeof(struct snaptrail_report), .kind = kind, .key = key,
					  .key_len = key ? SNAPTRAIL_REPORT_TO_NUL : 0 };
}

static void every_kind_decodes_to_what_was_said(void)
{
	static const struct { uint32_t said, kind, table; const char *status; } kinds[] = {
		{ SNAPTRAIL_REPORT_AGENT_BEGIN, SNAPTRAIL__KIND__ENTITY_PATCHED, 1, "busy" },
		{ SNAPTRAIL_REPORT_AGENT_END, SNAPTRAIL__KIND__ENTITY_PATCHED, 1, "terminated" },
		{ SNAPTRAIL_REPORT_TASK_BEGIN, SNAPTRAIL__KIND__ENTITY_PATCHED, 2, "running" },
		{ SNAPTRAIL_REPORT_TASK_PROGRESS, SNAPTRAIL__KIND__ENTITY_PATCHED, 2, "running" },
		{ SNAPTRAIL_REPORT_TASK_COMPLETE, SNAPTRAIL__KIND__ENTITY_PATCHED, 2, "completed" },
		{ SNAPTRAIL_REPORT_TASK_FAIL, SNAPTRAIL__KIND__ENTITY_PATCHED, 2, "failed" },
		{ SNAPTRAIL_REPORT_VALUE_DELETE, SNAPTRAIL__KIND__ENTITY_DELETED, 3, NULL },
		{ SNAPTRAIL_REPORT_METRIC, SNAPTRAIL__KIND__METRIC, 0, NULL },
		{ SNAPTRAIL_REPORT_MARK, SNAPTRAIL__KIND__MARK, 0, NULL },
	};

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct snaptrail_report r = said(kinds[i].said, "some key");
		Snaptrail__Change *c;

		ready(true);
		r.number = 0.75;
		r.time_ns = 1234567890123456789;
		CU_ASSERT_EQUAL(snaptrail_report_v1(&r), 0);
		c = taken();
		if (c == NULL)
			continue;
		CU_ASSERT(c->kind == kinds[i].kind && c->table == kinds[i].table && is(c->name, "some key"));
		CU_ASSERT(c->source == SNAPTRAIL__SOURCE__API && c->number == 1234567890123456789);
		CU_ASSERT(c->kind != SNAPTRAIL__KIND__METRIC || c->real == 0.75);
		CU_ASSERT(kinds[i].status == NULL || field_is(c->entity, "status", kinds[i].status));
		if (kinds[i].said == SNAPTRAIL_REPORT_TASK_PROGRESS)
			CU_ASSERT(field(c->entity, "progress") && field(c->entity, "progress")->real == 0.75);
		snaptrail__change__free_unpacked(c, NULL);
	}
}

/* Either side of every length that changes how many bytes a length takes, in
 * each of the lengths around it. */
static void texts_of_every_length_arrive_in_every_place(void)
{
	static char text_room[4100];

	memset(text_room, 'x', sizeof text_room);
	for (uint32_t n = 0; n < 4096; n += n < 300 || n > 3990 ? 1 : 97) {
		struct snaptrail_report r = said(SNAPTRAIL_REPORT_MESSAGE_OUT, "k");
		Snaptrail__Change *c;
		bool good;

		ready(true);
		r.text = text_room;
		r.text_len = n;
		r.type = text_room;
		r.type_len = n < 1024 ? n : 1024;
		r.agent = "a";
		r.agent_len = 1;
		r.value_type = SNAPTRAIL_REPORT_BYTES;
		r.value.bytes = text_room;
		r.value_len = n;
		CHECK_OR(snaptrail_report_v1(&r) == 0, return);
		c = taken();
		CHECK_OR(c != NULL, return);
		good = c->entity && field(c->entity, "target") && field(c->entity, "target")->text.len == n &&
		       field(c->entity, "message")->bytes.len == n && field(c->entity, "type")->text.len == r.type_len &&
		       field_is(c->entity, "source", "a") && field_is(c->entity, "direction", "out") &&
		       (n == 0 || memcmp(field(c->entity, "message")->bytes.data, text_room, n) == 0);
		snaptrail__change__free_unpacked(c, NULL);
		CHECK_OR(good, return);
	}
}

static void numbers_of_every_size_arrive(void)
{
	for (int shift = 0; shift < 64; shift++) {
		for (int sign = -1; sign <= 1; sign += 2) {
			struct snaptrail_report r = said(SNAPTRAIL_REPORT_VALUE_SET, "n");
			Snaptrail__Change *c;
			bool good;

			ready(true);
			r.value_type = sign < 0 ? SNAPTRAIL_REPORT_INT : SNAPTRAIL_REPORT_UINT;
			r.value.natural = sign < 0 ? -(1ull << shift) : (1ull << shift) - 1;
			CHECK_OR(snaptrail_report_v1(&r) == 0, return);
			c = taken();
			CHECK_OR(c != NULL, return);
			good = sign < 0 ? c->entity->is_case == SNAPTRAIL__VALUE__IS_INTEGER && c->entity->integer == r.value.integer
					: c->entity->is_case == SNAPTRAIL__VALUE__IS_NATURAL && c->entity->natural == r.value.natural;
			snaptrail__change__free_unpacked(c, NULL);
			CHECK_OR(good, return);
		}
	}
}

static void tags_are_split_at_commas_and_trimmed(void)
{
	struct snaptrail_report r = said(SNAPTRAIL_REPORT_SNAPSHOT, " red ,, v2,a b,");
	static const char *const want[] = { "red", "v2", "a b" };
	const Snaptrail__Value *tags;
	Snaptrail__Change *c;

	ready(true);
	r.text = "why";
	r.text_len = 3;
	CU_ASSERT_EQUAL(snaptrail_report_v1(&r), 0);
	c = taken();
	CU_ASSERT_FATAL(c != NULL);
	tags = field(c->entity, "tags");
	CU_ASSERT_FATAL(tags && tags->is_case == SNAPTRAIL__VALUE__IS_LIST && tags->list->n_items == 3);
	for (int i = 0; i < 3; i++)
		CU_ASSERT(is(tags->list->items[i]->text, want[i]));
	CU_ASSERT(field_is(c->entity, "description", "why") && c->kind == SNAPTRAIL__KIND__SNAPSHOT_WANTED);
	snaptrail__change__free_unpacked(c, NULL);
}

/* A random value by the header's builder, packed again by protobuf-c after
 * decoding, must say the same. */
static void build_any(uint64_t *r, struct snaptrail_report_builder *b, const char *name, unsigned depth)
{
	static const char *const names[] = { "a", "", "password", "a longer name of a pair" };
	uint32_t kind = random_below(r, depth < 6 ? 9 : 7);

	switch (kind) {
	case 0: snaptrail_report_add(b, name, snaptrail_report_null()); break;
	case 1: snaptrail_report_add(b, name, snaptrail_report_bool((int)random_below(r, 2))); break;
	case 2: snaptrail_report_add(b, name, snaptrail_report_int((int64_t)random_next(r) >> random_below(r, 64))); break;
	case 3: snaptrail_report_add(b, name, snaptrail_report_uint(random_next(r) >> random_below(r, 64))); break;
	case 4: snaptrail_report_add(b, name, snaptrail_report_double((double)random_next(r) / 7)); break;
	case 5: snaptrail_report_add(b, name, snaptrail_report_bytes("\0\1\2\3", random_below(r, 5))); break;
	case 6: snaptrail_report_add(b, name, snaptrail_report_text_n("hunter2 and more of a text that is long, so that it is not short, and goes on "
								     "beyond the hundred and thirty bytes at which a length takes two", random_below(r, 140))); break;
	default:
		if (kind == 7)
			snaptrail_report_object(b, name);
		else
			snaptrail_report_list(b, name);
		for (uint32_t i = random_below(r, 4); i > 0; i--)
			build_any(r, b, kind == 7 ? names[random_below(r, 4)] : NULL, depth + 1);
		snaptrail_report_close(b);
		break;
	}
}

/* No text below a pair of a secret name but what stands for it. */
static bool veiled(const Snaptrail__Value *v, bool secret)
{
	if (secret)
		return v->is_case == SNAPTRAIL__VALUE__IS_TEXT &&
		       (v->text.len < 10 ? v->text.len == 0 || v->text.data[0] == '*' : memcmp(v->text.data, "<redacted>", 10) == 0);
	for (size_t i = 0; v->is_case == SNAPTRAIL__VALUE__IS_LIST && i < v->list->n_items; i++)
		if (!veiled(v->list->items[i], false))
			return false;
	for (size_t i = 0; v->is_case == SNAPTRAIL__VALUE__IS_OBJECT && i < v->object->n_pairs; i++)
		if (!veiled(v->object->pairs[i]->value, is(v->object->pairs[i]->name, "password")))
			return false;
	return true;
}

static void built_values_arrive_byte_for_byte_but_for_secrets(void)
{
	uint64_t random = 42;
	static uint8_t room[60000];

	for (int i = 0; i < 3000; i++) {
		struct snaptrail_report_builder b;
		struct snaptrail_report_value v;
		struct snaptrail_report r = said(SNAPTRAIL_REPORT_VALUE_SET, "v");
		Snaptrail__Value *plain;
		Snaptrail__Change *c;
		uint8_t *packed;
		bool good, redact = i & 1;

		snaptrail_report_build(&b, room, sizeof room);
		snaptrail_report_object(&b, NULL);
		for (uint32_t k = random_below(&random, 5); k > 0; k--)
			build_any(&random, &b, k & 1 ? "x" : "password", 1);
		snaptrail_report_close(&b);
		v = snaptrail_report_built(&b);
		plain = snaptrail__value__unpack(NULL, v.len, v.is.bytes);
		CHECK_OR(v.len && plain, return);
		ready(redact);
		r.value_type = v.type;
		r.value.bytes = v.is.bytes;
		r.value_len = v.len;
		CHECK_OR(snaptrail_report_v1(&r) == 0, return);
		c = taken();
		CHECK_OR(c && c->entity, return);
		if (redact) {
			good = veiled(c->entity, c->entity->is_case == SNAPTRAIL__VALUE__IS_TEXT);
		} else {
			size_t n = snaptrail__value__get_packed_size(plain);

			packed = malloc(2 * n);
			snaptrail__value__pack(plain, packed);
			good = snaptrail__value__get_packed_size(c->entity) == n && snaptrail__value__pack(c->entity, packed + n) == n &&
			       memcmp(packed, packed + n, n) == 0;
			free(packed);
		}
		snaptrail__value__free_unpacked(plain, NULL);
		snaptrail__change__free_unpacked(c, NULL);
		CHECK_OR(good, return);
	}
}

/* Whatever bytes come, they are refused or are a Value; and nothing is read beyond them. */
static void damaged_values_are_refused(void)
{
	static const uint8_t sound[] = { 0x4a, 0x0a, 0x0a, 0x08, 0x0a, 0x01, 'a', 0x12, 0x03, 0x32, 0x01, 'x' };
	uint64_t random = 7;
	int refused = 0;

	for (int i = 0; i < 200000; i++) {
		uint32_t n = 1 + random_below(&random, sizeof sound);
		uint8_t *bytes = malloc(n);
		struct snaptrail_report r = said(SNAPTRAIL_REPORT_VALUE_SET, "v");
		int e;

		memcpy(bytes, sound, n);
		bytes[random_below(&random, n)] = (uint8_t)random_next(&random);
		ready(true);
		r.value_type = SNAPTRAIL_REPORT_ENCODED;
		r.value.bytes = bytes;
		r.value_len = n;
		e = snaptrail_report_v1(&r);
		if (e == 0) {
			Snaptrail__Change *c = taken();

			CHECK_OR(c != NULL, free(bytes); return);
			snaptrail__change__free_unpacked(c, NULL);
		} else {
			CHECK_OR(e == -EINVAL && lane.reserve == 0, free(bytes); return);
			refused++;
		}
		free(bytes);
	}
	CU_ASSERT(refused > 100000 && refused < 200000);
}

static void a_report_without_room_is_lost_and_says_so(void)
{
	struct snaptrail_report r = said(SNAPTRAIL_REPORT_MARK, "m");

	ready(true);
	lane.limit = 0;
	CU_ASSERT_EQUAL(snaptrail_report_v1(&r), -ENOBUFS);
	CU_ASSERT(full && lane.reserve == 0);
	ready(true);
	self.generation = 0; /* no lane: a vfork child, a thread behind its end */
	board.board.no_lane = 0;
	CU_ASSERT_EQUAL(snaptrail_report_v1(&r), -ENOBUFS);
	CU_ASSERT_EQUAL(board.board.no_lane, 1);
	visitor.groups = 0;
	CU_ASSERT_EQUAL(snaptrail_report_v1(&r), -ENOSYS);
	CU_ASSERT_EQUAL(snaptrail_report_enabled(), 0);
}

static void a_secret_key_is_secret_the_second_time_too(void)
{
	for (int i = 0; i < 3; i++) {
		struct snaptrail_report r = said(SNAPTRAIL_REPORT_VALUE_SET, "db/PassWord"), plain = said(SNAPTRAIL_REPORT_VALUE_SET, "db/user");
		Snaptrail__Change *c;
		uint64_t verdicts[64];

		memcpy(verdicts, room_verdicts, sizeof verdicts);
		ready(true);
		if (i)
			memcpy(room_verdicts, verdicts, sizeof verdicts);
		r.value_type = plain.value_type = SNAPTRAIL_REPORT_INT;
		r.value.integer = plain.value.integer = 9;
		CU_ASSERT_EQUAL(snaptrail_report_v1(i % 2 ? &plain : &r), 0);
		c = taken();
		CU_ASSERT_FATAL(c && c->entity);
		CU_ASSERT(i % 2 ? c->entity->is_case == SNAPTRAIL__VALUE__IS_INTEGER && c->entity->integer == 9 :
			  c->entity->is_case == SNAPTRAIL__VALUE__IS_TEXT && is(c->entity->text, "<redacted>"));
		snaptrail__change__free_unpacked(c, NULL);
	}
}

void suite_explicit(void)
{
	CU_pSuite s = CU_add_suite("explicit", NULL, NULL);

	TEST(s, every_kind_decodes_to_what_was_said);
	TEST(s, texts_of_every_length_arrive_in_every_place);
	TEST(s, numbers_of_every_size_arrive);
	TEST(s, tags_are_split_at_commas_and_trimmed);
	TEST(s, built_values_arrive_byte_for_byte_but_for_secrets);
	TEST(s, damaged_values_are_refused);
	TEST(s, a_report_without_room_is_lost_and_says_so);
	TEST(s, a_secret_key_is_secret_the_second_time_too);
}
