/* The JSON writer: numbers as JavaScript prints them, bytes that survive. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"

void suite_json(void);

static void numbers_read_as_javascript_prints_them(void)
{
	static const struct { double v; const char *text; } rows[] = {
		{ 0, "0" }, { -0.0, "0" }, { 1, "1" }, { -1.5, "-1.5" }, { 0.1, "0.1" }, { 0.1 + 0.2, "0.30000000000000004" },
		{ 1e21, "1e+21" }, { 1e20, "100000000000000000000" }, { 123456789012345680000.0, "123456789012345680000" },
		{ 1e-6, "0.000001" }, { 1e-7, "1e-7" }, { 1.5e-7, "1.5e-7" }, { 1.7976931348623157e308, "1.7976931348623157e+308" },
		{ 5e-324, "5e-324" }, { 1769868202517.25, "1769868202517.25" }, { 100, "100" },
	};
	char text[32];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		json_double_text(rows[i].v, text);
		CU_ASSERT_STRING_EQUAL(text, rows[i].text);
	}
}

static char *string_of(const char *s, size_t len)
{
	char *text = NULL;
	size_t n = 0;
	struct json j = JSON_INIT(open_memstream(&text, &n));

	json_bytes(&j, s, len);
	fclose(j.out);
	return text;
}

static void expect_string(const char *s, size_t len, const char *expected)
{
	char *text = string_of(s, len);

	CU_ASSERT_STRING_EQUAL(text, expected);
	free(text);
}

static void invalid_utf8_becomes_surrogate_escapes(void)
{
	expect_string("a\xffz", 3, "\"a\\udcffz\"");
	expect_string("\xe2\x82", 2, "\"\\udce2\\udc82\"");
	expect_string("\xed\xa0\x80", 3, "\"\\udced\\udca0\\udc80\"");
	expect_string("\xc0\x80", 2, "\"\\udcc0\\udc80\"");
	expect_string("\xe2\x82\xac", 3, "\"\xe2\x82\xac\"");
}

static void control_characters_and_quotes_are_escaped(void)
{
	expect_string("\"\\\n\t\x01\0", 6, "\"\\\"\\\\\\n\\t\\u0001\\u0000\"");
}

static void commas_stand_between_and_nowhere_else(void)
{
	char *text = NULL;
	size_t n = 0;
	struct json j = JSON_INIT(open_memstream(&text, &n));

	json_open(&j, '{');
	json_pair_uint(&j, "a", 1);
	json_key(&j, "b");
	json_open(&j, '[');
	json_open(&j, '{');
	json_close(&j, '}');
	json_null(&j);
	json_close(&j, ']');
	json_pair_bool(&j, "c", true);
	json_time(&j, "t", UINT64_C(1769868202517250000));
	json_ns(&j, "tNs", UINT64_C(1769868202517250000));
	json_close(&j, '}');
	fclose(j.out);
	CU_ASSERT_STRING_EQUAL(text, "{\"a\":1,\"b\":[{},null],\"c\":true,\"t\":1769868202517.25,\"tNs\":\"1769868202517250000\"}");
	free(text);
}

void suite_json(void)
{
	CU_pSuite s = CU_add_suite("json", NULL, NULL);

#define TEST(name) CU_add_test(s, #name, name)
	TEST(numbers_read_as_javascript_prints_them);
	TEST(invalid_utf8_becomes_surrogate_escapes);
	TEST(control_characters_and_quotes_are_escaped);
	TEST(commas_stand_between_and_nowhere_else);
#undef TEST
}

#ifdef TEST_CLI_JSON_MAIN
int main(void)
{
	CU_initialize_registry();
	suite_json();
	CU_basic_set_mode(CU_BRM_NORMAL);
	CU_basic_run_tests();
	return CU_get_number_of_failures() != 0;
}
#endif
