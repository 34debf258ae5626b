/* States to JSON and back, byte for byte, with what the original wrote. */
#include "unit.h"

#include "base/digest.h"
#include "base/err.h"
#include "model/state_json.h"

void suite_state_json(void);

static void read_file(const char *name, struct buf *ret)
{
	char path[500];
	FILE *f;
	size_t n;

	snprintf(path, sizeof path, TOP_SRCDIR "/tests/data/%s", name);
	f = fopen(path, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while ((n = fread(buf_room(ret, 65536), 1, 65536, f)))
		ret->len += n;
	fclose(f);
}

/* The state's text after reading it, and after storing it too. */
static bool comes_back(const void *p, size_t n, const char *wanted, size_t wanted_n)
{
	struct model *m, *stored = model_new();
	struct buf text = BUF_INIT, bytes = BUF_INIT, again = BUF_INIT;
	bool good = state_from_json(p, n, &m) == 0;

	if (good) {
		state_json(m, 1, JSON_JS, &text, NULL);
		model_save(m, 1, &bytes);
		good = model_load(stored, bytes.data, bytes.len);
		state_json(stored, 1, JSON_JS, &again, NULL);
		good = good && text.len == wanted_n && memcmp(text.data, wanted, wanted_n) == 0;
		good = good && again.len == wanted_n && memcmp(again.data, wanted, wanted_n) == 0;
		if (!good)
			fprintf(stderr, "\n    %.300s\n    %.300s\n", buf_cstr(&text), buf_cstr(&again));
		model_free(m);
	}
	model_free(stored);
	buf_done(&text);
	buf_done(&bytes);
	buf_done(&again);
	return good;
}

static void the_originals_states_come_back_byte_for_byte(void)
{
	struct buf text = BUF_INIT, one = BUF_INIT;
	struct value all;

	read_file("states-by-id.json", &text);
	CU_ASSERT_EQUAL_FATAL(json_read(text.data, text.len, &all), 0);
	CU_ASSERT_EQUAL(all.n, 6);
	for (uint32_t i = 0; i < all.n; i++) {
		buf_reset(&one);
		json_write(&all.pairs[i].value, JSON_JS, &one, NULL);
		CHECK_OR(comes_back(one.data, one.len, (char *)one.data, one.len), break);
	}
	value_done(&all);
	buf_done(&text);
	buf_done(&one);
}

static void any_object_is_a_state_and_comes_back_as_javascript_has_it(void)
{
	static const struct { const char *text, *wanted; } rows[] = {
		{ "{}", NULL }, { "{\"timestamp\":5}", NULL }, { "{\"agents\":{}}", NULL },
		{ "{\"metrics\":{\"b\":1,\"a\":[1,null],\"c\":{\"d\":1.5}},\"agents\":null,\"x\":[{}],\"tasks\":[1],\"memory\":{\"\":null,\"k\":\"v\"}}", NULL },
		{ "{\"b\":1,\"7\":2,\"agents\":{\"x\":{},\"12\":1,\"3\":{\"9\":1,\"8\":2}}}", "{\"7\":2,\"b\":1,\"agents\":{\"3\":{\"8\":2,\"9\":1},\"12\":1,\"x\":{}}}" },
		{ "{\"agents\":{\"a\":{\"id\":1}},\"t\":1,\"agents\":{\"b\":{}}}", "{\"agents\":{\"b\":{}},\"t\":1}" },
		{ "{\"agents\":{\"a\":{\"id\":1}},\"t\":1,\"agents\":7}", "{\"agents\":7,\"t\":1}" },
		{ "{\"agents\":7,\"t\":1,\"agents\":{\"a\":{\"x\":1},\"b\":2,\"a\":3}}", "{\"agents\":{\"a\":3,\"b\":2},\"t\":1}" },
		{ "{\"communications\":{\"c\":[],\"d\":[1,{\"message\":null,\"z\":{}}],\"e\":{\"x\":1},\"f\":[{\"message\":\"m\",\"timestamp\":1}]}}", NULL },
		{ "{\"agents\":{\"a\":{\"id\":null,\"variables\":{},\"performance\":[],\"createdAt\":\"then\",\"exitCode\":1.5,\"name\":\"\"}}}", NULL },
		{ "{\"resources\":{\"r\":{\"usage\":{\"bytes\":9007199254740991},\"timestamp\":1768999988171,\"id\":\"r\"}},\"swarms\":{\"s\":{\"activeAgents\":\"3\"}}}", NULL },
		{ "{\"memory\":{\"k\":{\"value\":{\"deep\":[[[]]]},\"agentId\":false,\"\\udcff\":\"\\udcfe\"}}}", NULL },
		{ "{\"__proto__\":{\"a\":1},\"\":{\"\":{}}}", NULL },
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const char *wanted = rows[i].wanted ? rows[i].wanted : rows[i].text;

		CHECK_OR(comes_back(rows[i].text, strlen(rows[i].text), wanted, strlen(wanted)), fprintf(stderr, "    %s\n", rows[i].text));
	}
}

static void what_is_no_object_is_no_state(void)
{
	static const char *const texts[] = { "", "[]", "null", "7", "{\"agents\":", "{\"agents\":{\"a\":1,}}", "{} {}", "\"{}\"", "{\"agents\":{]}" };
	struct model *m;

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		CHECK_OR(state_from_json(texts[i], strlen(texts[i]), &m) == -EINVAL && *err_detail(), fprintf(stderr, "    %s\n", texts[i]));
}

static void a_recorded_state_has_seven_tables_and_its_time(void)
{
	struct model *m = model_new();
	struct buf text = BUF_INIT;

	state_json(m, 1769000000123456789u, JSON_JS, &text, NULL);
	CU_ASSERT_STRING_EQUAL(buf_cstr(&text), "{\"timestamp\":1769000000123.456,\"agents\":{},\"tasks\":{},\"memory\":{},"
						"\"communications\":{},\"resources\":{},\"swarms\":{},\"metrics\":{}}");
	model_free(m);
	buf_done(&text);
}

/* ---- checksums ---- */

static void add(void *arg, const void *p, size_t n) { digest_add(arg, p, n); }

/* Of one snapshot's object: whether its checksum is that of its state as it
 * stands in the file, or of its incrementalData. */
static int checksum_holds(struct json_reader *r)
{
	char state[DIGEST_TEXT] = "", changes[DIGEST_TEXT] = "", said[DIGEST_TEXT] = "";
	struct bytes name;
	struct value v;
	int e = json_enter(r, '{');

	while (e >= 0 && (e = json_member(r, &name)) > 0) {
		char *into = name.n == 5 && memcmp(name.p, "state", 5) == 0 ? state :
			name.n == 15 && memcmp(name.p, "incrementalData", 15) == 0 ? changes : NULL;
		bool is_sum = name.n == 8 && memcmp(name.p, "checksum", 8) == 0;
		struct digest d;

		digest_init(&d);
		json_tap(r, add, &d);
		e = json_take(r, &v);
		json_tap(r, NULL, NULL);
		if (into && v.type != VALUE_NULL)
			digest_done(&d, into);
		if (is_sum)
			snprintf(said, sizeof said, "%s", v.bytes);
		value_done(&v);
	}
	return e < 0 ? e : strcmp(said, *state ? state : changes) == 0;
}

static int checksums_that_hold(const char *file, int *ret_all)
{
	struct buf text = BUF_INIT;
	struct json_reader r;
	struct bytes name;
	int good = 0, e;

	*ret_all = 0;
	read_file(file, &text);
	json_reader_init(&r, text.data, text.len);
	e = json_enter(&r, '{');
	while (e >= 0 && (e = json_member(&r, &name)) > 0) {
		if (name.n != 9 || memcmp(name.p, "snapshots", 9)) {
			e = json_skip(&r);
			continue;
		}
		e = json_enter(&r, '[');
		while (e >= 0 && (e = json_item(&r)) > 0) {
			good += (e = checksum_holds(&r)) > 0;
			++*ret_all;
		}
	}
	CU_ASSERT_EQUAL(e, 0);
	json_reader_done(&r);
	buf_done(&text);
	return good;
}

static void the_originals_checksums_hold_over_the_files_bytes(void)
{
	int all;

	CU_ASSERT_EQUAL(checksums_that_hold("orders-default.json", &all), 4);
	CU_ASSERT_EQUAL(all, 4);
	/* Two were hashed as incrementals and exported whole. */
	CU_ASSERT_EQUAL(checksums_that_hold("orders-all.json", &all), 4);
	CU_ASSERT_EQUAL(all, 6);
}

static void our_text_has_the_originals_checksum(void)
{
	struct buf file = BUF_INIT, text = BUF_INIT;
	char sum[DIGEST_TEXT];
	struct value all;
	struct model *m;

	read_file("states-by-id.json", &file);
	CU_ASSERT_EQUAL_FATAL(json_read(file.data, file.len, &all), 0);
	CU_ASSERT_EQUAL_FATAL(state_from_value(value_get(&all, "snapshot-6"), &m), 0);
	state_json(m, 1, JSON_JS, &text, NULL);
	digest_of(text.data, text.len, sum);
	CU_ASSERT_STRING_EQUAL(sum, "014c984fc836bfab");
	model_free(m);
	value_done(&all);
	buf_done(&file);
	buf_done(&text);
}

void suite_state_json(void)
{
	CU_pSuite s = CU_add_suite("state_json", NULL, NULL);

	TEST(s, the_originals_states_come_back_byte_for_byte);
	TEST(s, any_object_is_a_state_and_comes_back_as_javascript_has_it);
	TEST(s, what_is_no_object_is_no_state);
	TEST(s, a_recorded_state_has_seven_tables_and_its_time);
	TEST(s, the_originals_checksums_hold_over_the_files_bytes);
	TEST(s, our_text_has_the_originals_checksum);
}
