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

/* ---- by tag and time ---- */

static const char *const words[] = { "a", "b", "c", "d" };

/* Two sessions, in no order of time, some deleted, some tagged later. */
static void populate(struct store *s, unsigned n)
{
	uint64_t seed = 7;

	begin(s, ONE);
	begin(s, TWO);
	for (unsigned i = 0; i < n; i++) {
		const char *tags[3] = { NULL }, *later[2] = { NULL };
		struct snapshot_meta m = snapshot(random_below(&seed, 3) ? ONE : TWO, "", 1000 + random_below(&seed, n));
		char payload[100] = "";

		store_new_id(m.id);
		m.type = random_below(&seed, 4) ? SNAPSHOT_INCREMENTAL : SNAPSHOT_FULL;
		m.changes = random_below(&seed, 50);
		if (random_below(&seed, 2))
			tags[0] = words[random_below(&seed, 4)];
		m.tags = tags;
		CU_ASSERT_EQUAL(store_append(s, &m, payload, random_below(&seed, 100), 0), 0);
		later[0] = words[random_below(&seed, 4)];
		if (random_below(&seed, 4) == 0)
			store_note_tags(s, m.id, later, NULL);
		if (random_below(&seed, 9) == 0)
			store_note_deleted(s, m.id);
	}
}

struct hits {
	char ids[1000][17];
	size_t n;
};

static int collect(void *arg, const struct snapshot_meta *m)
{
	struct hits *h = arg;

	strcpy(h->ids[h->n++], m->id);
	return 0;
}

static bool tagged(const struct snapshot_meta *m, const char *tag)
{
	for (size_t i = 0; i < m->ntags; i++)
		if (strcmp(m->tags[i], tag) == 0)
			return true;
	return false;
}

static bool wanted(const struct snapshot_meta *m, const struct store_search *q)
{
	bool any = q->any == NULL;

	for (size_t i = 0; q->all && q->all[i]; i++)
		if (!tagged(m, q->all[i]))
			return false;
	for (size_t i = 0; q->none && q->none[i]; i++)
		if (tagged(m, q->none[i]))
			return false;
	for (size_t i = 0; q->any && q->any[i]; i++)
		any = any || tagged(m, q->any[i]);
	return any && m->time_ns >= q->since_ns && (q->until_ns == 0 || m->time_ns < q->until_ns) && (q->type == 0 || m->type == q->type);
}

/* One by one, in the store's order of time. */
static bool as_by_hand(struct store *s, const struct store_search *q)
{
	static struct hits got, expected;
	size_t n = store_snapshot_count(s, q->session_id), skip = q->offset;
	struct snapshot_meta m;

	got.n = expected.n = 0;
	for (size_t i = 0; i < n && !(q->limited && expected.n >= q->limit); i++) {
		if (store_snapshot_at(s, q->session_id, q->reverse ? n - 1 - i : i, &m) < 0 || !wanted(&m, q))
			continue;
		if (skip)
			skip--;
		else
			collect(&expected, &m);
	}
	return store_search(s, q, collect, &got) == (int64_t)expected.n && got.n == expected.n &&
	       memcmp(got.ids, expected.ids, got.n * 17) == 0;
}

static void a_search_gives_what_looking_at_each_would(void)
{
	static const char *const sessions[] = { NULL, ONE, TWO, "00000000000000ff" };
	uint64_t seed = 3;

	for (int type = STORE_DISK; type <= STORE_MEMORY; type++) {
		struct store *s;

		temp_make(&folder);
		s = open_store((enum store_type)type);
		populate(s, 900);
		for (int i = 0; i < 400; i++) {
			const char *const all[] = { words[random_below(&seed, 4)], random_below(&seed, 2) ? words[random_below(&seed, 4)] : NULL, NULL };
			const char *const any[] = { words[random_below(&seed, 4)], words[random_below(&seed, 4)], NULL };
			const char *const none[] = { random_below(&seed, 2) ? words[random_below(&seed, 4)] : "nowhere", NULL };
			struct store_search q = { .session_id = sessions[random_below(&seed, 4)], .all = random_below(&seed, 3) ? NULL : all,
						  .any = random_below(&seed, 3) ? NULL : any, .none = random_below(&seed, 2) ? NULL : none,
						  .since_ns = random_below(&seed, 2) ? 0 : 1000 + random_below(&seed, 900),
						  .until_ns = random_below(&seed, 2) ? 0 : 1000 + random_below(&seed, 900),
						  .type = (int)random_below(&seed, 3), .reverse = random_below(&seed, 2),
						  .offset = random_below(&seed, 2) ? 0 : random_below(&seed, 200),
						  .limited = random_below(&seed, 2), .limit = random_below(&seed, 300) };

			CHECK_OR(as_by_hand(s, &q), break);
		}
		store_close(s);
		temp_remove(&folder);
	}
}

static uint64_t last_size;
static bool rising;

static int sizes_rise(void *arg, const struct snapshot_meta *m)
{
	const struct store_search *q = arg;

	rising = rising && (q->reverse ? m->size_bytes <= last_size : m->size_bytes >= last_size);
	last_size = m->size_bytes;
	return 0;
}

static int stop_at_third(void *arg, const struct snapshot_meta *m)
{
	(void)m;
	return ++*(int *)arg == 3 ? 42 : 0;
}

static void a_search_sorts_and_stops(void)
{
	struct store_search q = { .sort = STORE_BY_SIZE };
	struct store *s;
	int calls = 0;

	temp_make(&folder);
	s = open_store(STORE_DISK);
	populate(s, 500);
	for (int i = 0; i < 2; i++) {
		q.reverse = i;
		rising = true;
		last_size = i ? UINT64_MAX : 0;
		CU_ASSERT_EQUAL(store_search(s, &q, sizes_rise, &q), (int64_t)store_snapshot_count(s, NULL));
		CU_ASSERT_TRUE(rising);
	}
	CU_ASSERT_EQUAL(store_search(s, &q, stop_at_third, &calls), 42);
	CU_ASSERT_EQUAL(calls, 3);
	q.sort = STORE_BY_TIME;
	calls = 0;
	CU_ASSERT_EQUAL(store_search(s, &q, stop_at_third, &calls), 42);
	CU_ASSERT_EQUAL(calls, 3);
	store_close(s);
	temp_remove(&folder);
}

static struct store *searched;

/* Of many hits, each is deleted as it comes, by the one who is called. */
static int delete_it(void *arg, const struct snapshot_meta *m)
{
	++*(int *)arg;
	return store_note_deleted(searched, m->id) < 0;
}

static void the_one_who_is_called_may_change_the_store(void)
{
	struct store_search q = { .session_id = ONE };
	int calls = 0;
	size_t n;

	temp_make(&folder);
	searched = open_store(STORE_DISK);
	populate(searched, 900);
	n = store_snapshot_count(searched, ONE);
	CU_ASSERT_EQUAL(store_search(searched, &q, delete_it, &calls), (int64_t)n);
	CU_ASSERT_EQUAL(calls, (int)n);
	CU_ASSERT_EQUAL(store_snapshot_count(searched, ONE), 0);
	store_close(searched);
	temp_remove(&folder);
}

/* ---- along a session ---- */

static bool reach_is_right(struct store *s)
{
	size_t n = store_snapshot_count(s, ONE), full = SIZE_MAX, got;
	struct snapshot_meta m, next;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		if (store_changes_before(s, ONE, i) != sum || store_snapshot_at(s, ONE, i, &m) < 0)
			return false;
		sum += m.changes;
		if (m.type == SNAPSHOT_FULL)
			full = i;
		if (store_snapshot_at(s, ONE, i + 1, &next) == 0 && next.time_ns == m.time_ns)
			continue;
		if (store_full_floor(s, ONE, m.time_ns, &got) < 0 ? full != SIZE_MAX : got != full)
			return false;
	}
	return store_changes_before(s, ONE, n) == sum && store_full_floor(s, ONE, 999, &got) == -ENOENT;
}

static void what_lies_before_follows_late_and_deleted_ones(void)
{
	struct snapshot_meta m;
	struct store *s;

	temp_make(&folder);
	s = open_store(STORE_DISK);
	CU_ASSERT_EQUAL(store_changes_before(s, ONE, 3), 0);
	populate(s, 300);
	CU_ASSERT_TRUE(reach_is_right(s));
	m = snapshot(ONE, "7777777777777777", 1100);
	m.changes = 1000;
	append(s, m);
	CU_ASSERT_TRUE(reach_is_right(s));
	store_note_deleted(s, "7777777777777777");
	CU_ASSERT_TRUE(reach_is_right(s));
	store_refresh(s);
	store_close(s);
	s = open_store(STORE_DISK);
	CU_ASSERT_TRUE(reach_is_right(s));
	store_close(s);
	temp_remove(&folder);
}

static void what_the_disk_gave_is_counted(void)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	struct snapshot_meta m;
	struct store_stats st;
	struct store *s;

	temp_make(&folder);
	s = open_store(STORE_DISK);
	begin(s, ONE);
	append(s, snapshot(ONE, "1111111111111111", 1000));
	CU_ASSERT_TRUE(store_snapshot_at(s, ONE, 0, &m) == 0 && store_load(s, &m, &b) == 0 && store_load(s, &m, &b) == 0);
	store_get_stats(s, &st);
	CU_ASSERT_TRUE(st.disk_hits == 2 && st.memory_hits == 0);
	store_close(s);
	temp_remove(&folder);
}

void suite_store_search(void)
{
	CU_pSuite s = CU_add_suite("store_search", NULL, NULL);

	TEST(s, an_imported_snapshot_is_found_by_the_id_it_had);
	TEST(s, a_search_gives_what_looking_at_each_would);
	TEST(s, a_search_sorts_and_stops);
	TEST(s, the_one_who_is_called_may_change_the_store);
	TEST(s, what_lies_before_follows_late_and_deleted_ones);
	TEST(s, what_the_disk_gave_is_counted);
}
