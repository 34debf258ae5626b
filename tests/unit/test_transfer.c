/* Exports and imports as a program asks for them; the files themselves are tried
 * from end to end. */
#include "unit.h"

#include <errno.h>

#include "base/buf.h"
#include "snaptrail.h"

void suite_transfer(void);

static const char two[] = "{\"metadata\":{\"version\":\"1.0.0\",\"sessionId\":\"t\"},\"snapshots\":["
			  "{\"id\":\"new\",\"timestamp\":2,\"state\":{\"agents\":{\"a\":{\"n\":2}}}},"
			  "{\"id\":\"old\",\"timestamp\":1,\"tags\":[\"x\"],\"state\":{\"agents\":{\"a\":{\"n\":1}}}}]}";

struct text {
	struct buf out;
	const char *in;
	size_t left, fail_at;        /* bytes after which it fails, 0: never */
	uint64_t imported, failed;
	size_t errors, steps;
};

static struct snaptrail *in_memory(void)
{
	struct snaptrail_settings s;
	struct snaptrail *st = NULL;

	snaptrail_settings_init(&s, sizeof s);
	s.storage_type = "memory";
	CU_ASSERT_EQUAL_FATAL(snaptrail_open_with(&s, SNAPTRAIL_CREATE, &st), 0);
	return st;
}

static int put(void *arg, const void *p, size_t n)
{
	struct text *t = arg;

	if (t->fail_at && t->out.len + n > t->fail_at)
		return -ENOSPC;
	buf_put(&t->out, p, n);
	return 0;
}

static int64_t get(void *arg, void *p, size_t n)
{
	struct text *t = arg;

	n = n < 7 ? n : 7; /* in small bites */
	n = n < t->left ? n : t->left;
	if (t->fail_at && t->left < t->fail_at)
		return -EIO;
	memcpy(p, t->in, n);
	t->in += n;
	t->left -= n;
	return (int64_t)n;
}

static void refused(void *arg, const struct snaptrail_import_error *e)
{
	struct text *t = arg;

	t->errors += e->type && e->text && e->id;
}

static void step(void *arg, uint64_t done, uint64_t total)
{
	struct text *t = arg;

	t->steps++;
	CU_ASSERT_TRUE(done <= total);
}

static int import(struct snaptrail *st, struct text *t, const void *p, size_t n, bool no_validate, struct snaptrail_import_result *ret)
{
	struct snaptrail_import_options o = { .size = sizeof o, .read = get, .no_validate = no_validate, .error = refused, .arg = t };

	t->in = p;
	t->left = n;
	return snaptrail_import(st, &o, ret);
}

static int64_t export(struct snaptrail *st, struct text *t, int format)
{
	struct snaptrail_export_options o = { .size = sizeof o, .session = "t", .format = format, .write = put, .progress = step, .arg = t };

	buf_reset(&t->out);
	return snaptrail_export(st, &o);
}

static void what_goes_out_comes_in_without_a_disk(void)
{
	for (int format = SNAPTRAIL_JSON; format <= SNAPTRAIL_BINARY; format++) {
		struct snaptrail *here = in_memory(), *there = in_memory();
		struct snaptrail_import_result r;
		struct snaptrail_snapshot s;
		struct text t = { 0 };

		CU_ASSERT_EQUAL(import(here, &t, two, sizeof two - 1, true, &r), 0);
		CU_ASSERT_EQUAL(r.imported, 2);
		CU_ASSERT_EQUAL(export(here, &t, format), 2);
		CU_ASSERT_EQUAL(t.steps, 2);
		CU_ASSERT_EQUAL(import(there, &t, t.out.data, t.out.len, false, &r), 0);
		CU_ASSERT_EQUAL(r.imported, 2);
		CU_ASSERT_EQUAL(snaptrail_get(there, "t", "old", &s), 0);
		CU_ASSERT_TRUE(s.handed_in && s.time_ns == 1000000 && s.tags[0] && strcmp(s.tags[0], "x") == 0);
		buf_done(&t.out);
		snaptrail_close(here);
		snaptrail_close(there);
	}
}

static void who_cannot_write_stops_the_export(void)
{
	struct snaptrail *st = in_memory();
	struct snaptrail_import_result r;
	struct text t = { 0 };

	CU_ASSERT_EQUAL(import(st, &t, two, sizeof two - 1, true, &r), 0);
	t.fail_at = 150;
	CU_ASSERT_EQUAL(export(st, &t, SNAPTRAIL_JSON), -ENOSPC);
	CU_ASSERT_EQUAL(export(st, &t, SNAPTRAIL_BINARY), -ENOSPC);
	CU_ASSERT_EQUAL(export(st, &t, 7), -EINVAL);
	buf_done(&t.out);
	snaptrail_close(st);
}

static void who_cannot_read_changes_nothing(void)
{
	struct snaptrail *st = in_memory();
	struct snaptrail_import_result r;
	struct snaptrail_session s;
	struct text t = { .fail_at = 10 };

	CU_ASSERT_EQUAL(import(st, &t, two, sizeof two - 1, true, &r), -EIO);
	CU_ASSERT_EQUAL(r.imported, 0);
	CU_ASSERT_EQUAL(snaptrail_session_at(st, 0, &s), -ENOENT);
	snaptrail_close(st);
}

static void on_event(void *arg, const struct snaptrail_notification *n)
{
	struct text *t = arg;

	if (strcmp(n->event, "snapshots_imported") == 0)
		t->imported += n->imported * 100 + n->skipped * 10 + n->errors;
	else if (strcmp(n->event, "error") == 0)
		t->failed += strcmp(n->type, "import_failed") == 0 && n->code == -EINVAL;
}

static void listeners_are_told_of_imports(void)
{
	struct snaptrail *st = in_memory();
	struct snaptrail_import_result r;
	struct text t = { 0 };

	snaptrail_on(st, NULL, on_event, &t);
	CU_ASSERT_EQUAL(import(st, &t, two, sizeof two - 1, true, &r), 0);
	CU_ASSERT_EQUAL(t.imported, 200);
	CU_ASSERT_EQUAL(import(st, &t, two, sizeof two - 1, false, &r), 0);
	CU_ASSERT_EQUAL(t.imported, 220);
	CU_ASSERT_EQUAL(import(st, &t, two, 100, true, &r), -EINVAL);
	CU_ASSERT_EQUAL(t.failed, 1);
	CU_ASSERT_EQUAL(t.errors, 0);
	snaptrail_close(st);
}

static void an_import_needs_a_reader(void)
{
	struct snaptrail *st = in_memory();
	/* Of a program that knows the struct up to its reader, what follows is not looked at. */
	struct snaptrail_import_options o = { .size = offsetof(struct snaptrail_import_options, read), .read = get };
	struct snaptrail_import_result r;

	CU_ASSERT_EQUAL(snaptrail_import(st, &o, &r), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(snaptrail_error(), "reads"));
	snaptrail_close(st);
}

void suite_transfer(void)
{
	CU_pSuite s = CU_add_suite("transfer", NULL, NULL);

	TEST(s, what_goes_out_comes_in_without_a_disk);
	TEST(s, who_cannot_write_stops_the_export);
	TEST(s, who_cannot_read_changes_nothing);
	TEST(s, listeners_are_told_of_imports);
	TEST(s, an_import_needs_a_reader);
}
