/* The configuration: options, layers, words for time and size. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/timefmt.h"

void suite_config(void);

#ifndef TOP_SRCDIR
#define TOP_SRCDIR "."
#endif

static char file_path[64];

static const char *ini_file(const char *text)
{
	int fd;

	strcpy(file_path, "/tmp/snaptrail-config-XXXXXX");
	fd = mkstemp(file_path);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd) != 0)
		abort();
	return file_path;
}

/* Reads `text` over the defaults and returns what config_read_file() did. */
static int read_text(const char *text, struct config **ret)
{
	int r;

	*ret = config_new();
	r = config_read_file(*ret, ini_file(text));
	unlink(file_path);
	return r;
}

static void expect_error(const char *text, const char *part)
{
	struct config *c;

	CU_ASSERT_EQUAL(read_text(text, &c), -EINVAL);
	if (!strstr(err_detail(), part))
		fprintf(stderr, "\n    got: %s\n    not: %s\n", err_detail(), part);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), part));
	CU_ASSERT_PTR_NULL(strchr(err_detail(), '\n'));
	config_free(c);
}

static void defaults_are_those_of_the_manual(void)
{
	struct config *c = config_new();

	CU_ASSERT_EQUAL(c->interval_ns, 30 * NSEC_PER_SEC);
	CU_ASSERT_TRUE(c->incremental);
	CU_ASSERT_EQUAL(c->full_every_ns, 3600 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(c->max_age_ns, 86400 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(c->max_snapshots, 1000);
	CU_ASSERT_EQUAL(c->max_size_bytes, UINT64_C(1) << 30);
	CU_ASSERT_EQUAL(c->threshold_bytes, 1024);
	CU_ASSERT_EQUAL(c->storage_type, CONFIG_STORAGE_HYBRID);
	CU_ASSERT_EQUAL(c->memory_bytes, 64 << 20);
	CU_ASSERT_EQUAL(c->lane_bytes, 64 << 10);
	CU_ASSERT_EQUAL(c->lane_max_bytes, 4 << 20);
	CU_ASSERT_EQUAL(c->max_rate, 1000);
	CU_ASSERT_PTR_NULL(c->keep_tags[0]);
	CU_ASSERT_STRING_EQUAL(c->patterns[0], "*PASSW*");
	CU_ASSERT_EQUAL(c->path[0], '/');
	config_free(c);
}

static void every_key_of_the_file_sets_its_member(void)
{
	struct config *c;

	CU_ASSERT_EQUAL(read_text("; a comment\n[snapshot]\n  interval = 1h30m\nincremental: off\n\n[storage]\n"
				  "type = disk ; inline\npath = /x/y\n[retention]\nkeep_tags = a , b,\n"
				  "[capture]\nmax_rate = unlimited\n", &c), 0);
	CU_ASSERT_EQUAL(c->interval_ns, 5400 * NSEC_PER_SEC);
	CU_ASSERT_FALSE(c->incremental);
	CU_ASSERT_EQUAL(c->storage_type, CONFIG_STORAGE_DISK);
	CU_ASSERT_STRING_EQUAL(c->path, "/x/y");
	CU_ASSERT_STRING_EQUAL(c->keep_tags[0], "a");
	CU_ASSERT_STRING_EQUAL(c->keep_tags[1], "b");
	CU_ASSERT_PTR_NULL(c->keep_tags[2]);
	CU_ASSERT_EQUAL(c->max_rate, 0);
	config_free(c);
}

static void names_of_the_original_are_taken_in_any_section(void)
{
	struct config *c;

	CU_ASSERT_EQUAL(read_text("automaticInterval = 5000\n[snapshot]\nmaxRetentionTime = 60000\n"
				  "checksumValidation = false\nstorageType = memory\npersistenceEnabled = no\n"
				  "taggedSnapshotsOnly = true\ncompressionThreshold = 2048\n", &c), 0);
	CU_ASSERT_EQUAL(c->interval_ns, 5 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(c->max_age_ns, 60 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(c->verify, CONFIG_VERIFY_NEVER);
	CU_ASSERT_EQUAL(c->storage_type, CONFIG_STORAGE_MEMORY);
	CU_ASSERT_FALSE(c->persist);
	CU_ASSERT_TRUE(c->tagged_only);
	CU_ASSERT_EQUAL(c->threshold_bytes, 2048);
	config_free(c);
}

static void a_bare_interval_is_milliseconds_and_no_other_duration_is(void)
{
	struct config *c;

	CU_ASSERT_EQUAL(read_text("[snapshot]\ninterval = 250\n", &c), 0);
	CU_ASSERT_EQUAL(c->interval_ns, 250 * NSEC_PER_MSEC);
	config_free(c);
	expect_error("[retention]\nmax_age = 250\n", ":2: retention.max_age: duration '250' needs a unit");
}

static void mistakes_name_the_line_and_the_likely_word(void)
{
	expect_error("[snapshot]\n\nintervall = 3s\n", ":3: unknown key 'intervall' in [snapshot] (did you mean 'interval'?)");
	expect_error("[snapshots]\ninterval = 3s\n", ":1: unknown section [snapshots] (did you mean [snapshot]?)");
	expect_error("[storage]\ntype = hybird\n", ":2: storage.type: bad value 'hybird' (did you mean 'hybrid'?)");
	expect_error("[storage]\nmemory = 3X\n", ":2: storage.memory: bad size '3X'");
	expect_error("[snapshot]\ninterval = soon\n", ":2: snapshot.interval: bad duration 'soon'");
	expect_error("[snapshot]\nincremental = maybe\n", ":2: snapshot.incremental: 'maybe' is neither yes nor no");
	expect_error("[snapshot\n", ":1: neither");
	expect_error("[snapshot]\n# fine\nwhat is this\n", ":3: neither");
	expect_error("[storage]\nmax_age = 1h\n", "did you mean 'max_age' in [retention]?");
}

static void a_file_that_was_asked_for_must_be_readable(void)
{
	struct config *c = NULL;

	CU_ASSERT_EQUAL(config_load("/nonexistent/x.ini", NULL, &c), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), "/nonexistent/x.ini: cannot be read"));
	CU_ASSERT_EQUAL(config_check("/"), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), "it is a folder"));
}

static void later_layers_override_and_origins_tell(void)
{
	const char *key, *value, *origin, *doc;
	struct config *c;

	setenv("SNAPTRAIL_SNAPSHOT_INTERVAL", "7s", 1);
	setenv("SNAPTRAIL_STORE", "/from/env", 1);
	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	CU_ASSERT_EQUAL_FATAL(config_load(ini_file("[snapshot]\ninterval = 1s\nfull_every = 2h\n"), NULL, &c), 0);
	CU_ASSERT_EQUAL(c->interval_ns, 7 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(c->full_every_ns, 7200 * NSEC_PER_SEC);
	CU_ASSERT_STRING_EQUAL(c->path, "/from/env");
	CU_ASSERT_EQUAL(config_set(c, "snapshot.interval", "9s", "--interval"), 0);
	CU_ASSERT_EQUAL(c->interval_ns, 9 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(config_at(c, 0, &key, &value, &origin, &doc), 0);
	CU_ASSERT_STRING_EQUAL(key, "snapshot.interval");
	CU_ASSERT_STRING_EQUAL(value, "9s");
	CU_ASSERT_STRING_EQUAL(origin, "--interval");
	CU_ASSERT_EQUAL(config_at(c, 1000, &key, &value, &origin, &doc), -ENOENT);
	config_free(c);
	setenv("SNAPTRAIL_SNAPSHOT_INTERVALL", "7s", 1);
	CU_ASSERT_EQUAL(config_load(file_path, NULL, &c), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), "SNAPTRAIL_SNAPSHOT_INTERVALL: unknown key"));
	unsetenv("SNAPTRAIL_SNAPSHOT_INTERVALL");
	unsetenv("SNAPTRAIL_SNAPSHOT_INTERVAL");
	unsetenv("SNAPTRAIL_STORE");
	unlink(file_path);
}

static void stacks_are_for_all_groups_some_or_none(void)
{
	static const struct { const char *value; unsigned groups; const char *error; } rows[] = {
		{ "no", 0, NULL }, { "yes", 63, NULL }, { "resource, process", 17, NULL }, { "Status", 4, NULL }, { "", 0, NULL },
		{ "resorce", 0, "did you mean 'resource'?" }, { "yes, no", 0, "nor a group" }, { "process, zzzzzzzz", 0, "nor a group" },
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct config *c = config_new();

		CU_ASSERT_EQUAL(config_set(c, "capture.stacks", rows[i].value, "test"), 0);
		CU_ASSERT_EQUAL(config_validate(c), rows[i].error ? -EINVAL : 0);
		CU_ASSERT(rows[i].error == NULL || strstr(err_detail(), rows[i].error));
		CU_ASSERT_EQUAL(config_stack_groups(c), rows[i].groups);
		CU_ASSERT_EQUAL(config_set(c, "capture.stacks", "no", "test"), 0);
		CU_ASSERT_EQUAL(config_set(c, "capture.stack_depth", "65", "test"), 0);
		CU_ASSERT_EQUAL(config_validate(c), -EINVAL);
		config_free(c);
	}
}

static void profiles_are_found_by_name_and_guessed_when_not(void)
{
	struct config *c;

	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	config_add_profile_dir(TOP_SRCDIR "/conf/profiles");
	CU_ASSERT_EQUAL_FATAL(config_load(NULL, "forensic", &c), 0);
	CU_ASSERT_EQUAL(c->max_rate, 0);
	CU_ASSERT_EQUAL(c->lane_max_bytes, 16 << 20);
	CU_ASSERT_STRING_EQUAL(c->profile, "forensic");
	config_free(c);
	CU_ASSERT_EQUAL(config_load(NULL, "forensik", &c), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err_detail(), "did you mean 'forensic'?"));
}

static void every_shipped_file_is_valid(void)
{
	static const char *const files[] = {
		"conf/snaptrail.ini", "conf/profiles/default.ini", "conf/profiles/low-overhead.ini",
		"conf/profiles/forensic.ini", "conf/profiles/memory-only.ini", "conf/profiles/ci.ini",
	};
	char path[512];

	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "%s/%s", TOP_SRCDIR, files[i]);
		CU_ASSERT_EQUAL(config_check(path), 0);
	}
}

/* Takes the # away from each `#key = value` and expects the default again. */
static void the_shipped_file_shows_every_key_at_its_default(void)
{
	struct config *c = config_new(), *fresh = config_new();
	char line[512], text[8192] = "";
	const char *name, *value, *origin, *doc;
	FILE *f = fopen(TOP_SRCDIR "/conf/snaptrail.ini", "r");

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof line, f)) {
		bool option = line[0] == '#' && line[1] != ' ' && strstr(line, " =");

		strcat(text, option ? line + 1 : line);
	}
	fclose(f);
	CU_ASSERT_EQUAL(config_read_file(c, ini_file(text)), 0);
	unlink(file_path);
	for (size_t i = 0; config_at(c, i, &name, &value, &origin, &doc) == 0; i++) {
		CU_ASSERT_STRING_NOT_EQUAL(origin, "built-in");
		CU_ASSERT_STRING_EQUAL(value, fresh->text[i]);
	}
	config_free(c);
	config_free(fresh);
}

static void lanes_that_do_not_fit_are_refused(void)
{
	struct config *c;

	CU_ASSERT_EQUAL(read_text("[ring]\nlane = 8M\n", &c), 0);
	CU_ASSERT_EQUAL(config_validate(c), -EINVAL);
	config_free(c);
}

static void durations_need_units_and_are_exact(void)
{
	uint64_t ns;

	CU_ASSERT_EQUAL(time_parse_duration("1h30m", 0, &ns), 0);
	CU_ASSERT_EQUAL(ns, 5400 * NSEC_PER_SEC);
	CU_ASSERT_EQUAL(time_parse_duration("1.5s", 0, &ns), 0);
	CU_ASSERT_EQUAL(ns, 1500 * NSEC_PER_MSEC);
	CU_ASSERT_EQUAL(time_parse_duration("500ms", 0, &ns), 0);
	CU_ASSERT_EQUAL(ns, 500 * NSEC_PER_MSEC);
	CU_ASSERT_EQUAL(time_parse_duration("2d", 0, &ns), 0);
	CU_ASSERT_EQUAL(ns, 172800 * NSEC_PER_SEC);
	for (const char *const *p = (const char *const[]){ "", "30", "s", "-5s", "5x", "1h30", "99999999999d", "1h 30m", NULL }; *p; p++)
		CU_ASSERT_EQUAL(time_parse_duration(*p, 0, &ns), -EINVAL);
}

static void times_are_read_in_every_form(void)
{
	static const struct { const char *text; uint64_t ns; } good[] = {
		{ "2026-01-31T14:03:22.517Z", UINT64_C(1769868202517000000) },
		{ "2026-01-31T15:03:22.517+01:00", UINT64_C(1769868202517000000) },
		{ "2026-01-31 14:03:22.517", UINT64_C(1769868202517000000) },
		{ "1769868202.5", UINT64_C(1769868202500000000) },
		{ "1769868202517", UINT64_C(1769868202517000000) },
		{ "1769868202517.25", UINT64_C(1769868202517250000) },
		{ "1769868202517000001", UINT64_C(1769868202517000001) },
		{ "14:03:22.517", UINT64_C(1769868202517000000) },
		{ "-5m", UINT64_C(1769868000000000000) - 300 * NSEC_PER_SEC },
		{ "+30s", UINT64_C(1000000000) + 30 * NSEC_PER_SEC },
	};
	uint64_t ns;

	setenv("TZ", "UTC0", 1);
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		CU_ASSERT_EQUAL(time_parse(good[i].text, UINT64_C(1000000000), UINT64_C(1769868000000000000), &ns), 0);
		CU_ASSERT_EQUAL(ns, good[i].ns);
	}
	for (const char *const *p = (const char *const[]){ "", "yesterday", "2026-02-30T00:00:00Z", "25:00:00", "2026-01-31T14:03:22Q",
							   "-5", "12345678901234", "2026-13-01", NULL }; *p; p++)
		CU_ASSERT_EQUAL(time_parse(*p, 0, UINT64_C(1769868000000000000), &ns), -EINVAL);
}

static void sizes_take_k_m_g(void)
{
	uint64_t n;

	CU_ASSERT_EQUAL(size_parse("64K", &n), 0);
	CU_ASSERT_EQUAL(n, 65536);
	CU_ASSERT_EQUAL(size_parse("1.5GiB", &n), 0);
	CU_ASSERT_EQUAL(n, UINT64_C(3) << 29);
	CU_ASSERT_EQUAL(size_parse("4096", &n), 0);
	CU_ASSERT_EQUAL(n, 4096);
	CU_ASSERT_EQUAL(size_parse("K", &n), -EINVAL);
	CU_ASSERT_EQUAL(size_parse("99999999999T", &n), -EINVAL);
}

static void times_are_shown_to_the_millisecond(void)
{
	char text[TIME_TEXT_MAX];

	CU_ASSERT_STRING_EQUAL(time_format(UINT64_C(1769868202517999999), true, text), "2026-01-31T14:03:22.517Z");
}

void suite_config(void)
{
	CU_pSuite s = CU_add_suite("config", NULL, NULL);

#define TEST(name) CU_add_test(s, #name, name)
	TEST(defaults_are_those_of_the_manual);
	TEST(every_key_of_the_file_sets_its_member);
	TEST(names_of_the_original_are_taken_in_any_section);
	TEST(a_bare_interval_is_milliseconds_and_no_other_duration_is);
	TEST(mistakes_name_the_line_and_the_likely_word);
	TEST(a_file_that_was_asked_for_must_be_readable);
	TEST(later_layers_override_and_origins_tell);
	TEST(profiles_are_found_by_name_and_guessed_when_not);
	TEST(every_shipped_file_is_valid);
	TEST(the_shipped_file_shows_every_key_at_its_default);
	TEST(lanes_that_do_not_fit_are_refused);
	TEST(stacks_are_for_all_groups_some_or_none);
	TEST(durations_need_units_and_are_exact);
	TEST(times_are_read_in_every_form);
	TEST(sizes_take_k_m_g);
	TEST(times_are_shown_to_the_millisecond);
#undef TEST
}

#ifdef TEST_CONFIG_MAIN
int main(void)
{
	CU_initialize_registry();
	suite_config();
	CU_basic_set_mode(CU_BRM_NORMAL);
	CU_basic_run_tests();
	return CU_get_number_of_failures() != 0;
}
#endif
