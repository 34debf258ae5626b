/* The index file: whatever is asked, in whatever order, the answer is what the
 * segments say, with the index, without it, and with a damaged one. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "store/store.h"

#define SESSIONS 7
#define SNAPSHOTS 900

static struct store_options usual(void)
{
	return (struct store_options){ .type = STORE_HYBRID, .fsync = STORE_FSYNC_NEVER, .persist = true, .compress = true,
				       .compress_threshold_bytes = 512, .memory_bytes = 1 << 20, .create = true };
}

static struct store *opened(const char *path)
{
	struct store_options o = usual();
	struct store *s = NULL;

	if (store_open(path, &o, &s) < 0)
		abort();
	return s;
}

static void name_of(char id[17], const char *prefix, unsigned i) { snprintf(id, 17, "%s%0*x", prefix, (int)(16 - strlen(prefix)), i); }

static void append(struct store *s, unsigned i, uint64_t *seed)
{
	static const char *const tags[] = { "good", "bad", "a b", NULL };
	const char *some[3] = { NULL };
	char foreign[20] = "", payload[40];
	struct snapshot_meta m = { .type = 1 + (int)random_below(seed, 2), .origin = ORIGIN_MANUAL, .time_ns = 1000 + random_below(seed, 5000),
				   .changes = random_below(seed, 10), .description = i % 5 ? "" : "described", .foreign_id = foreign };

	if (random_below(seed, 3) == 0)
		some[0] = tags[random_below(seed, 3)];
	if (random_below(seed, 9) == 0)
		snprintf(foreign, sizeof foreign, "snapshot-%u", i);
	m.tags = some;
	name_of(m.id, "5", i * 2654435761u);
	name_of(m.session_id, "e", random_below(seed, SESSIONS));
	CU_ASSERT_EQUAL(store_append(s, &m, payload, (size_t)snprintf(payload, sizeof payload, "payload %u", i), 0), 0);
}

static void edit(struct store *s, uint64_t *seed, unsigned n)
{
	static const char *const add[] = { "late", NULL }, *const drop[] = { "good", NULL };
	char id[17];

	name_of(id, "5", random_below(seed, n) * 2654435761u);
	switch (random_below(seed, 3)) {
	case 0: store_note_tags(s, id, add, random_below(seed, 2) ? drop : NULL); break;
	case 1: store_note_description(s, id, "edited"); break;
	default: store_note_deleted(s, id);
	}
}

static void begin_session(struct store *s, unsigned i)
{
	char name[16];
	struct session_meta m = { .name = name, .command = "cmd", .profile = "", .boot_id = "", .note = "", .started_ns = 100 + i, .exit_status = -1 };

	snprintf(name, sizeof name, "session %u", i);
	name_of(m.id, "e", i);
	CU_ASSERT_EQUAL(store_session_begin(s, &m), 0);
	if (i % 2) {
		m.ended_ns = 9000;
		CU_ASSERT_EQUAL(store_session_end(s, &m), 0);
	}
}

static void add_meta(struct buf *out, const struct snapshot_meta *m)
{
	buf_printf(out, "%s %s %s %d %llu %llu %llu %s %s %zu:", m->id, m->session_id, m->base_id, m->type, (unsigned long long)m->time_ns,
		   (unsigned long long)m->seq, (unsigned long long)m->changes, m->description, m->foreign_id, m->ntags);
	for (size_t i = 0; i < m->ntags; i++)
		buf_printf(out, " %s", m->tags[i]);
	buf_byte(out, '\n');
}

static int add_found(void *arg, const struct snapshot_meta *m)
{
	add_meta(arg, m);
	return 0;
}

/* The answer to the k-th question, as text. */
static void ask(struct store *s, uint64_t k, struct buf *out)
{
	static const char *const tags[][2] = { { "good" }, { "late" }, { "none" }, { "a b" } };
	uint64_t seed = k;
	struct store_search q = { .reverse = k & 1, .limited = k & 2, .limit = 7, .offset = k % 5 };
	struct snapshot_meta m;
	struct session_meta session;
	char id[17];
	size_t i;

	name_of(id, "e", random_below(&seed, SESSIONS + 1));
	switch (k % 8) {
	case 0: buf_printf(out, "%zu %zu", store_snapshot_count(s, id), store_session_count(s)); break;
	case 1:
		if (store_snapshot_floor(s, id, 1000 + random_below(&seed, 5000), &i) == 0 && store_snapshot_at(s, id, i, &m) == 0)
			add_meta(out, &m);
		break;
	case 2:
		q.all = tags[random_below(&seed, 4)];
		q.session_id = seed & 1 ? id : NULL;
		buf_printf(out, "%lld\n", (long long)store_search(s, &q, add_found, out));
		break;
	case 3:
		name_of(id, "5", random_below(&seed, SNAPSHOTS + 50) * 2654435761u);
		if (seed & 1)
			id[12 + seed % 5] = 0;
		if (store_snapshot_find(s, id, &m, &i) == 0) {
			add_meta(out, &m);
			buf_printf(out, "%zu ", i);
			CU_ASSERT_EQUAL(store_load(s, &m, out), 0);
		}
		break;
	case 4:
		snprintf(id, sizeof id, "snapshot-%u", random_below(&seed, SNAPSHOTS));
		buf_printf(out, "%d", store_snapshot_find(s, id, &m, NULL));
		break;
	case 5:
		if (store_session_at(s, random_below(&seed, SESSIONS), &session) == 0)
			buf_printf(out, "%s %s %llu %llu %llu %llu %llu", session.id, session.name, (unsigned long long)session.snapshots,
				   (unsigned long long)session.changes, (unsigned long long)session.stored_bytes,
				   (unsigned long long)session.last_time_ns, (unsigned long long)session.ended_ns);
		break;
	case 6:
		if (store_full_floor(s, id, 1000 + random_below(&seed, 5000), &i) == 0)
			buf_printf(out, "%zu %llu", i, (unsigned long long)store_changes_before(s, id, i));
		break;
	default:
		q.since_ns = 1000 + random_below(&seed, 4000);
		q.until_ns = q.since_ns + 500;
		q.session_id = seed & 3 ? id : NULL;
		buf_printf(out, "%lld\n", (long long)store_search(s, &q, add_found, out));
	}
	buf_str(out, "\n--\n");
}

/* A few questions to a fresh handle, then some more after an append. */
static void answers(const char *path, uint64_t first, struct buf *out)
{
	struct store *s = opened(path);

	for (uint64_t k = first; k < first + 6; k++)
		ask(s, k * 7919 + first, out);
	store_close(s);
}

static bool same_answers(const char *path, const char *index, uint64_t first, uint64_t n)
{
	char aside[200];
	bool same = true;

	snprintf(aside, sizeof aside, "%s.aside", index);
	for (uint64_t k = first; k < first + n && same; k++) {
		_cleanup_buf_ struct buf with = BUF_INIT, without = BUF_INIT;

		answers(path, k, &with);
		if (rename(index, aside) < 0)
			return false;
		answers(path, k, &without);
		unlink(index); /* a scan of so much writes one */
		same = rename(aside, index) == 0 && with.len == without.len && memcmp(with.data, without.data, with.len) == 0;
	}
	return same;
}

static void fill(const char *path, unsigned from, unsigned to, uint64_t *seed)
{
	struct store *s = opened(path);

	for (unsigned i = from; i < to; i++) {
		append(s, i, seed);
		if (random_below(seed, 4) == 0)
			edit(s, seed, i + 1);
	}
	store_close(s);
}

static void answers_are_the_same_with_and_without_an_index(void)
{
	struct temp_folder f;
	struct store *s;
	char index[100];
	uint64_t seed = 11;

	temp_make(&f);
	snprintf(index, sizeof index, "%s/index/main.idx", f.path);
	s = opened(f.path);
	for (unsigned i = 0; i < SESSIONS; i++)
		begin_session(s, i);
	store_close(s);
	fill(f.path, 0, SNAPSHOTS, &seed);
	CU_ASSERT_EQUAL_FATAL(access(index, R_OK), 0);
	CU_ASSERT_TRUE(same_answers(f.path, index, 1, 60));
	fill(f.path, SNAPSHOTS, SNAPSHOTS + 40, &seed); /* beyond what it covers */
	CU_ASSERT_TRUE(same_answers(f.path, index, 1000, 60));
	temp_remove(&f);
}

static void a_damaged_index_changes_no_answer(void)
{
	struct temp_folder f;
	char index[100];
	uint64_t seed = 5;
	struct stat st;
	int fd;

	temp_make(&f);
	snprintf(index, sizeof index, "%s/index/main.idx", f.path);
	fill(f.path, 0, 400, &seed);
	CU_ASSERT_EQUAL_FATAL(stat(index, &st), 0);
	for (off_t at = 0; at < st.st_size; at += 1 + (off_t)random_below(&seed, (uint32_t)st.st_size / 150)) {
		uint8_t byte, flipped;

		fd = open(index, O_RDWR);
		CU_ASSERT_EQUAL_FATAL(pread(fd, &byte, 1, at), 1);
		flipped = byte ^ (uint8_t)(1u << random_below(&seed, 8));
		CU_ASSERT_EQUAL(pwrite(fd, &flipped, 1, at), 1);
		CHECK_OR(same_answers(f.path, index, (uint64_t)at, 1), break);
		CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, at), 1);
		close(fd);
	}
	for (off_t cut = st.st_size - 1; cut > 0; cut -= 1 + (off_t)random_below(&seed, (uint32_t)st.st_size / 20)) {
		CU_ASSERT_EQUAL(truncate(index, cut), 0);
		CHECK_OR(same_answers(f.path, index, (uint64_t)cut, 1), break);
	}
	temp_remove(&f);
}

void suite_store_index(void)
{
	CU_pSuite s = CU_add_suite("store_index", NULL, NULL);

	TEST(s, answers_are_the_same_with_and_without_an_index);
	TEST(s, a_damaged_index_changes_no_answer);
}
