/* Sessions that are fed by calls: times, order, and what a reader finds. */
#include "unit.h"

#include <errno.h>
#include <time.h>

#include "base/err.h"
#include "engine/feed.h"
#include "engine/prepare.h"
#include "engine/replay.h"
#include "model/model.h"

void suite_feed(void);

static struct temp_folder folder;
static struct config *config;

static struct feed *open_feed(const char *interval, uint64_t begins_ns)
{
	char *argv[] = { (char *)"trace", NULL };
	struct feed *f = NULL;

	temp_make(&folder);
	config = config_new();
	if (config_set(config, "storage.path", folder.path, "test") < 0 || config_set(config, "snapshot.interval", interval, "test") < 0 ||
	    feed_open(config, "f", argv, begins_ns, &f) < 0)
		abort();
	return f;
}

static int put(struct feed *f, uint64_t time_ns, const char *key)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct value v = value_str("x");
	struct change c = { .kind = ENTITY_SET, .table = TABLE_MEMORY, .name = BYTES(key, strlen(key)) };

	value_pack(&v, &b);
	value_done(&v);
	c.entity = BYTES(b.data, b.len);
	return feed_put(f, time_ns, &c);
}

/* How many values a reader finds at an instant; -1: none can be known. */
static int values_at(uint64_t time_ns)
{
	struct store_options so;
	struct session_meta s;
	struct replay_query q = { .until_ns = time_ns };
	struct replay_result r;
	struct store *st;
	int n = -1;

	prepare_store_options(config, &so);
	if (store_open(folder.path, &so, &st) < 0 || store_session_find(st, "f", &s) < 0)
		abort();
	q.session_id = s.id;
	if (replay(st, &q, &r) == 0) {
		n = (int)model_count(r.model, TABLE_MEMORY);
		model_free(r.model);
	}
	store_close(st);
	return n;
}

static void done(void)
{
	config_free(config);
	temp_remove(&folder);
}

static void what_comes_at_the_instant_of_a_snapshot_is_there_too(void)
{
	struct feed *f = open_feed("1ms", 1000);

	CU_ASSERT_EQUAL(put(f, 1000, "a"), 0);
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	CU_ASSERT_EQUAL(feed_idle(f), 0); /* a full one */
	CU_ASSERT_EQUAL(put(f, 1000, "b"), 0);
	CU_ASSERT_EQUAL(put(f, 1000, "c"), 0);
	CU_ASSERT_EQUAL(put(f, 500, "d"), 0); /* time does not go back */
	CU_ASSERT_EQUAL(feed_close(f, NULL, NULL), 0);
	CU_ASSERT_EQUAL(values_at(1000), 1);
	CU_ASSERT_EQUAL(values_at(1001), 4);
	CU_ASSERT_EQUAL(values_at(UINT64_MAX), 4);
	done();
}

static void a_session_is_in_order_and_goes_on(void)
{
	struct feed *f = open_feed("0", 1000), *again = NULL;
	char *argv[] = { (char *)"trace", NULL };

	CU_ASSERT_EQUAL(put(f, 2000, "a"), 0);
	CU_ASSERT_EQUAL(feed_close(f, NULL, NULL), 0);
	CU_ASSERT_EQUAL(feed_open(config, "f", argv, 2000, &again), -EEXIST);
	CU_ASSERT(strstr(err_detail(), "session f goes on to") != NULL);
	CU_ASSERT_EQUAL(feed_open(config, "f", argv, 3000, &again), 0);
	CU_ASSERT_EQUAL(feed_open(config, "f", argv, 4000, &f), -EBUSY);
	CU_ASSERT_EQUAL(put(again, 3000, "b"), 0);
	CU_ASSERT_EQUAL(feed_close(again, NULL, NULL), 0);
	CU_ASSERT_EQUAL(values_at(2500), 1);
	CU_ASSERT(values_at(3500) >= 1);
	done();
}

static void damaged_changes_are_refused(void)
{
	struct feed *f = open_feed("0", 1000);

	CU_ASSERT_EQUAL(feed_put_encoded(f, 2000, 1, 1, 9, 0, (const uint8_t *)"short", 5), -EBADMSG);
	CU_ASSERT_EQUAL(feed_put_encoded(f, 2000, 1, 1, 9, 0, (const uint8_t *)"no stamp at its front", 21), -EBADMSG);
	CU_ASSERT_EQUAL(put(f, 2000, "a"), 0);
	CU_ASSERT_EQUAL(feed_put_encoded(f, 1999, 1, 1, 9, 0, (const uint8_t *)"\x09________\x10\x01", 11), -EBADMSG);
	CU_ASSERT_EQUAL(feed_load(f, 3000, (const uint8_t *)"", 0), -EBADMSG);
	CU_ASSERT_EQUAL(feed_close(f, NULL, NULL), 0);
	CU_ASSERT_EQUAL(values_at(UINT64_MAX), 1);
	done();
}

void suite_feed(void)
{
	CU_pSuite s = CU_add_suite("feed", NULL, NULL);

	TEST(s, what_comes_at_the_instant_of_a_snapshot_is_there_too);
	TEST(s, a_session_is_in_order_and_goes_on);
	TEST(s, damaged_changes_are_refused);
}
