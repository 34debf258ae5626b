/* JSON text to values and back: held against node where there is one, and against
 * texts that are no JSON. */
#include "unit.h"

#include <float.h>
#include <math.h>
#include <unistd.h>

#include "base/err.h"
#include "model/json.h"

void suite_json_text(void);

static char *text_of(const struct value *v, unsigned flags, uint64_t *rounded)
{
	struct buf b = BUF_INIT;

	json_write(v, flags, &b, rounded);
	return buf_cstr(&b);
}

/* What the text is after reading and writing; NULL when it is not read. */
static char *again(const char *text, size_t n, unsigned flags)
{
	struct value v;
	char *out;

	if (json_read(text, n, &v) < 0)
		return NULL;
	out = text_of(&v, flags, NULL);
	value_done(&v);
	return out;
}

static void expect(const char *text, const char *wanted)
{
	char *got = again(text, strlen(text), JSON_JS);

	CHECK_OR(got && strcmp(got, wanted) == 0, fprintf(stderr, "    %s gave %s, not %s\n", text, got ? got : err_detail(), wanted));
	free(got);
}

static void a_text_comes_back_as_javascript_writes_it(void)
{
	expect(" { \"b\" : [ 1 , -0 , 1.0, 1e3, 0.10 ] , \"a\" : null } ", "{\"b\":[1,0,1,1000,0.1],\"a\":null}");
	expect("{\"z\":1,\"10\":2,\"9\":3,\"01\":4,\"4294967295\":5,\"4294967294\":6}",
	       "{\"9\":3,\"10\":2,\"4294967294\":6,\"z\":1,\"01\":4,\"4294967295\":5}");
	expect("{\"a\":1,\"b\":2,\"a\":{\"c\":3}}", "{\"a\":{\"c\":3},\"b\":2}");
	expect("\"\\u00e9\\u2028\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\"",
	       "\"\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\"");
	expect("9007199254740993", "9007199254740992");
	expect("[18446744073709551615,18446744073709551616,-9223372036854775808]",
	       "[18446744073709552000,18446744073709552000,-9223372036854776000]");
	expect("[1e400,-1e400,1e-400]", "[null,null,0]");
	expect("[[],{},\"\",[[]],{\"\":{}}]", "[[],{},\"\",[[]],{\"\":{}}]");
}

static void integers_are_exact_and_what_javascript_rounds_is_counted(void)
{
	const char *text = "[9007199254740992,9007199254740993,18446744073709551615,-9223372036854775808,1152921504606846976]";
	uint64_t rounded = 0;
	struct value v;
	char *out;

	CU_ASSERT_EQUAL_FATAL(json_read(text, strlen(text), &v), 0);
	out = text_of(&v, 0, &rounded);
	CU_ASSERT_STRING_EQUAL(out, text);
	CU_ASSERT_EQUAL(rounded, 0);
	free(out);
	out = text_of(&v, JSON_JS, &rounded);
	CU_ASSERT_EQUAL(rounded, 4);
	free(out);
	value_done(&v);
}

static void numbers_that_are_equal_are_one_value(void)
{
	struct value a, b;

	CU_ASSERT_EQUAL_FATAL(json_read("1000", 4, &a), 0);
	CU_ASSERT_EQUAL_FATAL(json_read("1.0e3", 5, &b), 0);
	CU_ASSERT_TRUE(value_equal(&a, &b));
	CU_ASSERT_EQUAL(a.type, VALUE_INT);
	CU_ASSERT_EQUAL_FATAL(json_read("18446744073709551615", 20, &a), 0);
	CU_ASSERT_EQUAL(a.type, VALUE_UINT);
	CU_ASSERT_EQUAL_FATAL(json_read("0.5", 3, &a), 0);
	CU_ASSERT_EQUAL(a.type, VALUE_DOUBLE);
}

static void bytes_that_are_no_utf8_survive(void)
{
	char raw[256 * 3], *text, *back;
	struct value v, w;
	uint64_t seed = 7;

	for (int round = 0; round < 2000; round++) {
		size_t n = random_below(&seed, sizeof raw);

		for (size_t i = 0; i < n; i++)
			raw[i] = (char)random_below(&seed, round % 2 ? 256 : 0x90);
		v = value_text(raw, n);
		text = text_of(&v, JSON_JS, NULL);
		CHECK_OR(json_read(text, strlen(text), &w) == 0 && value_equal(&v, &w), break);
		back = text_of(&w, JSON_JS, NULL);
		CHECK_OR(strcmp(back, text) == 0, break);
		value_done(&v);
		value_done(&w);
		free(text);
		free(back);
	}
	v = value_text("a\xff\xc3", 3);
	text = text_of(&v, 0, NULL);
	CU_ASSERT_STRING_EQUAL(text, "\"a\\udcff\\udcc3\"");
	free(text);
	value_done(&v);
}

static void what_is_no_json_is_named_with_its_place(void)
{
	static const struct { const char *text, *why; } rows[] = {
		{ "", "line 1, column 1 (byte 0): the text ends too early" },
		{ "{\"a\":1,\n \"b\":}", "line 2, column 6 (byte 13): unexpected \"}\"" },
		{ "[1,]", "unexpected \"]\"" }, { "{\"a\":1,}", "unexpected \"}\"" }, { "[1 2]", "unexpected \"2]\"" },
		{ "01", "not a number: \"01\"" }, { "-", "not a number" }, { "1.", "not a number" }, { ".5", "unexpected" },
		{ "1e", "not a number" }, { "+1", "unexpected" }, { "0x1", "text behind" }, { "1e+", "not a number" },
		{ "-01", "not a number" }, { "1.e3", "not a number" }, { "1-2", "not a number" },
		{ "NaN", "unexpected \"NaN\"" }, { "tru", "unexpected \"tru\"" }, { "nul!", "unexpected" }, { "[1] x", "text behind the end" },
		{ "\"\\x\"", "not an escape" }, { "\"\\u12g4\"", "not an escape" }, { "\"a", "the text ends within a string" },
		{ "\"\\", "the text ends within a string" }, { "\"\\ud800\"", "half a surrogate pair" },
		{ "\"\\udc00\"", "half a surrogate pair" }, { "\"\\ud800\\ud800\"", "half a surrogate pair" },
		{ "\"\\udcff\"", NULL }, { "\"\\udd00\"", "half" }, { "\"\xff\"", "byte 0xff is no UTF-8 here" },
		{ "\"\xc0\x80\"", "no UTF-8" }, { "\"\xed\xa0\x80\"", "no UTF-8" }, { "\"\xf4\x90\x80\x80\"", "no UTF-8" },
		{ "\"a\nb\"", "byte 0x0a within a string" }, { "{1:2}", "unexpected" }, { "{\"a\" 1}", "unexpected" },
		{ "{\"a\":1 \"b\":2}", "unexpected" }, { "[", "ends too early" }, { "{\"a\"", "ends too early" },
		{ "'a'", "unexpected" }, { "[1,,2]", "unexpected" }, { "]", "unexpected" }, { "\xef\xbb\xbf[]", "unexpected byte 0xef" },
		{ "/**/1", "unexpected" }, { "[1]]", "text behind" }, { "\"\t\"", "within a string" },
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct value v = { 0 };
		int e = json_read(rows[i].text, strlen(rows[i].text), &v);
		bool good = rows[i].why ? e == -EINVAL && strstr(err_detail(), rows[i].why) : e == 0;

		CHECK_OR(good, fprintf(stderr, "    %s: %d %s\n", rows[i].text, e, err_detail()));
		value_done(&v);
	}
	CU_ASSERT_PTR_NULL(again("1\0", 2, 0));
}

static void nesting_is_read_to_200_and_refused_beyond(void)
{
	char text[402];
	char *got;

	memset(text, '[', 201);
	memset(text + 201, ']', 201);
	CU_ASSERT_PTR_NULL(again(text, 402, 0));
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), "nested deeper than 200"));
	got = again(text + 1, 400, 0);
	CU_ASSERT_PTR_NOT_NULL(got);
	free(got);
}

struct slices {
	const char *p;
	size_t left, most;
	uint64_t seed;
};

static int64_t slice(void *arg, void *p, size_t n)
{
	struct slices *s = arg;
	size_t k = 1 + random_below(&s->seed, (uint32_t)s->most);

	k = k < s->left ? k : s->left;
	k = k < n ? k : n;
	memcpy(p, s->p, k);
	s->p += k;
	s->left -= k;
	return (int64_t)k;
}

static void collect(void *arg, const void *p, size_t n) { buf_put(arg, p, n); }

/* A value of many kinds, for texts that nobody thought of. */
static struct value random_value(uint64_t *seed, unsigned depth)
{
	static const char *const strings[] = { "", "a", "ünï", "\"\\\n", "0", "17", "4294967295", "__proto__", "\xf0\x9f\x98\x80", "\x7f\x01",
					       "length", "toJSON", "\xe2\x80\xa8" };
	uint32_t n, kind = random_below(seed, depth > 5 ? 6 : 8);
	uint64_t bits;
	struct value v = { .type = VALUE_NULL };
	const char *s;

	switch (kind) {
	case 0: break;
	case 1: v = value_bool(random_below(seed, 2)); break;
	case 2: v = value_int((int64_t)random_next(seed) >> random_below(seed, 64)); break;
	case 3: v = (struct value){ .type = VALUE_UINT, .natural = random_next(seed) | 1ull << 63 }; break;
	case 4:
		bits = random_next(seed);
		v.type = VALUE_DOUBLE;
		memcpy(&v.real, &bits, 8);
		if (random_below(seed, 2))
			v.real = (double)random_below(seed, 1000000) / 1000.0;
		break;
	case 5: s = strings[random_below(seed, 13)]; v = value_str(s); break;
	case 6:
		v = value_list();
		for (n = random_below(seed, 6); n; n--)
			value_push(&v, random_value(seed, depth + 1));
		break;
	default:
		v = value_object();
		for (n = random_below(seed, 20); n; n--) {
			s = strings[random_below(seed, 13)];
			value_set(&v, s, strlen(s), false, random_value(seed, depth + 1));
		}
		break;
	}
	return v;
}

static void text_in_slices_reads_the_same_and_is_told_as_it_stands(void)
{
	uint64_t seed = 11;

	for (int round = 0; round < 3000; round++) {
		struct value v = value_list(), w;
		struct slices s = { .most = 1 + random_below(&seed, 40), .seed = seed };
		struct buf told = BUF_INIT, text = BUF_INIT, back = BUF_INIT;
		struct json_reader r;

		value_push(&v, random_value(&seed, 0));
		json_write(&v, 0, &text, NULL);
		buf_str(&text, " \n");
		s.p = (const char *)text.data;
		s.left = text.len;
		json_reader_open(&r, slice, &s);
		json_tap(&r, collect, &told);
		CHECK_OR(json_take(&r, &w) == 0, return);
		json_tap(&r, NULL, NULL);
		CHECK_OR(json_finish(&r) == 0, return);
		json_write(&w, 0, &back, NULL);
		CHECK_OR(told.len + 2 == text.len && memcmp(told.data, text.data, told.len) == 0, return);
		CHECK_OR(back.len == told.len && memcmp(back.data, told.data, told.len) == 0, return);
		json_reader_done(&r);
		value_done(&v);
		value_done(&w);
		buf_done(&told);
		buf_done(&text);
		buf_done(&back);
	}
}

static void an_object_may_have_many_names_twice(void)
{
	struct buf text = BUF_INIT;
	struct value v;
	uint32_t n = 100000;

	buf_byte(&text, '{');
	for (uint32_t i = 0; i < 2 * n; i++)
		buf_printf(&text, "%s\"k%u\":%u", i ? "," : "", i % n, i);
	buf_byte(&text, '}');
	CU_ASSERT_EQUAL_FATAL(json_read(text.data, text.len, &v), 0);
	CU_ASSERT_EQUAL_FATAL(v.n, n);
	CU_ASSERT_STRING_EQUAL(v.pairs[n - 1].name, "k99999");
	CU_ASSERT_EQUAL(v.pairs[n - 1].value.integer, 2 * n - 1);
	value_set(&v, "more", 4, false, value_int(1));
	value_done(&v);
	buf_done(&text);
}

/* ---- node as the judge ---- */

static void random_texts(struct buf *out)
{
	uint64_t seed = 3;

	for (int i = 0; i < 5000; i++) {
		struct value v = value_list();

		value_push(&v, random_value(&seed, 0));
		json_write(&v, i % 2, out, NULL);
		buf_byte(out, '\n');
		value_done(&v);
	}
	/* Doubles of all magnitudes, written with more digits than they need. */
	for (int i = 0; i < 40000; i++) {
		uint64_t bits = random_next(&seed);
		double d;

		if (i < 2100)
			bits = (uint64_t)i << 52; /* powers of two */
		else if (i < 4200)
			bits = ((uint64_t)(i - 2100) << 52) - 1 - i % 2;
		else if (i % 8 == 0)
			bits &= 0xfffffffffffff; /* subnormal */
		memcpy(&d, &bits, 8);
		if (i % 8 == 1)
			d = (double)(int64_t)random_next(&seed) / pow(10, random_below(&seed, 25));
		if (isfinite(d))
			buf_printf(out, i % 3 ? "%.20e\n" : "%.17g\n", d);
	}
	for (int e = -330; e < 310; e++)
		buf_printf(out, "[1e%d,9.999999999999999e%d,5e%d,123456789012345678901234567890e%d]\n", e, e, e, e);
}

static void node_writes_what_we_write(void)
{
	static const char script[] =
		"const fs=require('fs');const t=fs.readFileSync(process.argv[1],'utf8').split('\\n');t.pop();"
		"fs.writeFileSync(process.argv[2],t.map(x=>JSON.stringify(JSON.parse(x))+'\\n').join(''))";
	struct buf in = BUF_INIT, mine = BUF_INIT;
	struct temp_folder t;
	char name[2][100], command[1000];
	size_t n, lines = 0;
	FILE *f;
	char *line = NULL;

	if (system("node --version >/dev/null 2>&1"))
		return; /* none here: the other tests stand alone */
	temp_make(&t);
	snprintf(name[0], sizeof name[0], "%s/in", t.path);
	snprintf(name[1], sizeof name[1], "%s/out", t.path);
	random_texts(&in);
	f = fopen(name[0], "w");
	fwrite(in.data, 1, in.len, f);
	fclose(f);
	snprintf(command, sizeof command, "node -e \"%s\" %s %s", script, name[0], name[1]);
	CU_ASSERT_EQUAL_FATAL(system(command), 0);
	f = fopen(name[1], "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	n = 0;
	for (const char *p = (const char *)in.data, *end = p + in.len, *eol; p < end; p = eol + 1, lines++) {
		struct value v;
		ssize_t len = getline(&line, &n, f);

		eol = memchr(p, '\n', (size_t)(end - p));
		CHECK_OR(len > 0 && json_read(p, (size_t)(eol - p), &v) == 0, break);
		buf_reset(&mine);
		json_write(&v, JSON_JS, &mine, NULL);
		buf_byte(&mine, '\n');
		CHECK_OR(mine.len == (size_t)len && memcmp(mine.data, line, mine.len) == 0,
			 fprintf(stderr, "    %.*s\n    ours %s    node %s", (int)(eol - p), p, buf_cstr(&mine), line));
		value_done(&v);
	}
	CU_ASSERT_TRUE(lines > 40000);
	fclose(f);
	free(line);
	temp_remove(&t);
	buf_done(&in);
	buf_done(&mine);
}

void suite_json_text(void)
{
	CU_pSuite s = CU_add_suite("json_text", NULL, NULL);

	TEST(s, a_text_comes_back_as_javascript_writes_it);
	TEST(s, integers_are_exact_and_what_javascript_rounds_is_counted);
	TEST(s, numbers_that_are_equal_are_one_value);
	TEST(s, bytes_that_are_no_utf8_survive);
	TEST(s, what_is_no_json_is_named_with_its_place);
	TEST(s, nesting_is_read_to_200_and_refused_beyond);
	TEST(s, text_in_slices_reads_the_same_and_is_told_as_it_stands);
	TEST(s, an_object_may_have_many_names_twice);
	TEST(s, node_writes_what_we_write);
}
