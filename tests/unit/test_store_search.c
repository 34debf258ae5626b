/* Finding in the store: by name, by tag, by time, and what lies before. */
#include "unit.h"

#include <errno.h>

#include "store/store.h"

void suite_store_search(void);

#define ONE "00000000000000a1"
#define TWO "00000000000000a2"

static struct temp_folder folder;

static struct store *open_store(enum store_type type)
{
	struct store_options o = { .type = type, .persist = true, .memory_bytes = 64 << 20, .create = true, .fsync = STORE_FSYNC_NEVER };
	struct store *s = NULL;

	if (store_open(folder.path, &o, &s) < 0)
		abort();
	return s;
}

static void begin(struct store *s, const char *id)
{
	struct session_meta m = { .name = id, .command = "true", .profile = "", .boot_id = "", .note = "", .started_ns = 1, .exit_status = -1 };

	strcpy(m.id, id);
	CU_ASSERT_EQUAL(store_session_begin(s, &m), 0);
}

static struct snapshot_meta snapshot(const char *session, const char *id, uint64_t time_ns)
{
	struct snapshot_meta m = { .type = SNAPSHOT_FULL, .origin = ORIGIN_MANUAL, .time_ns = time_ns, .description = "" };

	strcpy(m.session_id, session);
	strcpy(m.id, id);
	return m;
}

static void append(struct store *s, struct snapshot_meta m) { CU_ASSERT_EQUAL(store_append(s, &m, "12345678", 8, 0), 0); }

static bool finds(struct store *s, const char *session, const char *text, const char *id)
{
	struct snapshot_meta m;

	return store_snapshot_find_in(s, session, text, &m, NULL) == 0 && strcmp(m.id, id) == 0;
}

static void imported(struct store *s, const char *session, const char *id, const char *foreign)
{
	struct snapshot_meta m = snapshot(session, id, 1000);

	m.foreign_id = foreign;
	m.handed_in = true;
	append(s, m);
}

static void an_imported_snapshot_is_found_by_the_id_it_had(void)
{
	struct snapshot_meta m;
	struct store *s;

	temp_make(&folder);
	s = open_store(STORE_DISK);
	begin(s, ONE);
	begin(s, TWO);
	imported(s, ONE, "1111111111111111", "snap-7");
	imported(s, ONE, "2222222222222222", "snap-77");
	imported(s, ONE, "3333333333333333", "7");
	imported(s, TWO, "4444444444444444", "snap-7");
	append(s, snapshot(TWO, "5555555555555555", 1000));
	for (int again = 0; again < 2; again++) {
		CU_ASSERT_TRUE(finds(s, ONE, "snap-7", "1111111111111111")); /* whole, though a prefix of another */
		CU_ASSERT_TRUE(finds(s, NULL, "snap-77", "2222222222222222"));
		CU_ASSERT_TRUE(finds(s, NULL, "7", "3333333333333333")); /* whole, so of any length */
		CU_ASSERT_TRUE(finds(s, TWO, "snap", "4444444444444444"));
		CU_ASSERT_TRUE(finds(s, NULL, "5555", "5555555555555555"));
		CU_ASSERT_EQUAL(store_snapshot_find(s, "snap-7", &m, NULL), -EMLINK);
		CU_ASSERT_EQUAL(store_snapshot_find_in(s, ONE, "snap", &m, NULL), -EMLINK);
		CU_ASSERT_EQUAL(store_snapshot_find_in(s, ONE, "5555", &m, NULL), -ENOENT);
		CU_ASSERT_EQUAL(store_snapshot_find(s, "555", &m, NULL), -ENOENT);
		CU_ASSERT_EQUAL(store_snapshot_find(s, "", &m, NULL), -ENOENT);
		CU_ASSERT_EQUAL(store_snapshot_find(s, "2222", &m, NULL), 0);
		CU_ASSERT_STRING_EQUAL(m.foreign_id, "snap-77");
		CU_ASSERT_TRUE(m.handed_in);
		CU_ASSERT_EQUAL(store_snapshot_find(s, "5555", &m, NULL), 0);
		CU_ASSERT_STRING_EQUAL(m.foreign_id, "");
		CU_ASSERT_FALSE(m.handed_in);
		store_close(s);
		s = open_store(STORE_DISK);
	}
	store_close(s);
	temp_remove(&folder);
}

void suite_store_search(void)
{
	CU_pSuite s = CU_add_suite("store_search", NULL, NULL);

	TEST(s, an_imported_snapshot_is_found_by_the_id_it_had);
}
