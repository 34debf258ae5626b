/* A life of a store in which all happens that writes: see life.h. */
#include "life.h"

#include <sys/mman.h>

#include "base/dir.h"
#include "store/store.h"

#define SESSION "00000000000000c1"

struct temp_folder folder;
struct acks *acks;

/* ---- the life ---- */

static void id_of(unsigned i, char id[STORE_ID_LEN + 1]) { snprintf(id, STORE_ID_LEN + 1, "%016x", 0xa000 + i); }

static size_t payload_of(unsigned i, uint8_t room[4000])
{
	uint64_t r = i + 1;
	size_t n = 200 + i * 300;

	for (size_t k = 0; k < n; k++)
		room[k] = (uint8_t)(k % 3 ? i : random_next(&r));
	return n;
}

static int append(struct store *s, unsigned i)
{
	struct snapshot_meta m = { .session_id = SESSION, .type = SNAPSHOT_FULL, .origin = ORIGIN_IMPORT, .time_ns = 1000 + i, .description = "" };
	uint8_t payload[4000];

	id_of(i, m.id);
	return store_append(s, &m, payload, payload_of(i, payload), 0);
}

static void stored(unsigned i) { acks->stored[i] = acks->calls; }

static void append_one(struct store *s, unsigned i)
{
	if (append(s, i) == 0)
		stored(i);
}

static void delete_some(struct store *s, unsigned a, unsigned b)
{
	char ids[2][STORE_ID_LEN + 1];
	const char *list[2] = { ids[0], ids[1] };
	uint64_t n;

	id_of(a, ids[0]);
	id_of(b, ids[1]);
	acks->asked[a] = acks->asked[b] = acks->calls;
	if (store_delete(s, list, 2, NULL, &n) == 0)
		acks->deleted[a] = acks->deleted[b] = acks->calls;
}

static struct store *open_it(void)
{
	struct store_options o = { .type = STORE_DISK, .persist = true, .memory_bytes = 1 << 20, .create = true, .compress = true,
				   .compress_threshold_bytes = 1024, .verify = STORE_VERIFY_READ };
	struct store *s;

	return store_open(folder.path, &o, &s) < 0 ? NULL : s;
}

void live(void)
{
	struct session_meta m = { .id = SESSION, .name = "c", .command = "", .profile = "", .boot_id = "", .note = "", .started_ns = 1,
				  .exit_status = -1 };
	static const char *const tag[] = { "kept", NULL };
	char id[STORE_ID_LEN + 1];
	struct store *s = open_it();
	uint64_t freed;

	if (s) {
		store_session_begin(s, &m);
		for (unsigned i = 0; i < 4; i++)
			append_one(s, i);
		id_of(2, id);
		if (store_note_tags(s, id, tag, NULL) == 0 && store_sync(s) == 0)
			acks->tagged = acks->calls;
		if (store_batch_begin(s) == 0) {
			bool good = append(s, 4) == 0;

			good = append(s, 5) == 0 && good;
			if (store_batch_end(s, good) == 0 && good) {
				stored(4);
				stored(5);
			}
		}
		delete_some(s, 0, 4);
		m.ended_ns = 5;
		store_session_end(s, &m);
		store_close(s);
	}
	s = open_it(); /* the first segment is nobody's now */
	if (s == NULL)
		return;
	for (unsigned i = 6; i < 9; i++)
		append_one(s, i);
	delete_some(s, 1, 7);
	store_compact(s, 0.1, &freed);
	append_one(s, 9);
	store_close(s);
}

/* ---- what is there afterwards ---- */

enum found { FOUND_NOT, FOUND_WHOLE, FOUND_DAMAGED, FOUND_WRONG };

static enum found find(struct store *s, unsigned i, struct snapshot_meta *m)
{
	_cleanup_buf_ struct buf got = BUF_INIT;
	uint8_t want[4000];
	char id[STORE_ID_LEN + 1];
	size_t n = payload_of(i, want);

	id_of(i, id);
	if (store_snapshot_find(s, id, m, NULL) < 0)
		return FOUND_NOT;
	if (store_load(s, m, &got) < 0)
		return FOUND_DAMAGED;
	return got.len == n && memcmp(got.data, want, n) == 0 ? FOUND_WHOLE : FOUND_WRONG;
}

static bool asked(unsigned i, unsigned calls) { return acks->asked[i] && acks->asked[i] < calls; }

/* A kill, as an exec is one for a recorder in the program, leaves what is whole or goes by itself. */
static void found_one(void *arg, const char *kind, const char *file, uint64_t at, const char *what)
{
	const char **wrong = arg;

	(void)kind;
	(void)file;
	(void)at;
	if (strstr(what, "never begun"))
		*wrong = "a segment without a header is left";
}

static const char *look_for_what_is_aside(void)
{
	_cleanup_free_ char *segments = xasprintf("%s/segments", folder.path);
	const char *wrong = NULL;
	struct dir d;

	if (!dir_open(&d, segments))
		return "its folder cannot be read";
	for (const char *name; (name = dir_next(&d));)
		if (strstr(name, ".new"))
			wrong = "what was aside stays there";
	dir_close(&d);
	return wrong;
}

const char *look(unsigned calls, bool damage_is_wrong)
{
	struct store *s = open_it();
	const char *wrong = NULL;
	struct snapshot_meta m;
	uint64_t records;

	if (s == NULL)
		return "it cannot be opened";
	for (unsigned i = 0; i < SNAPSHOTS && !wrong; i++) {
		bool was = acks->stored[i] && acks->stored[i] <= calls, gone = acks->deleted[i] && acks->deleted[i] <= calls;
		enum found f = find(s, i, &m);

		if (was && !asked(i, calls) && f != FOUND_WHOLE)
			wrong = "an acknowledged snapshot is not there as it was";
		if (gone && f != FOUND_NOT)
			wrong = "a deleted snapshot came back";
		if (f == FOUND_WRONG || (f == FOUND_DAMAGED && damage_is_wrong))
			wrong = "a snapshot is there and not whole";
	}
	if (!wrong && (find(s, 4, &m) == FOUND_NOT) != (find(s, 5, &m) == FOUND_NOT) && !asked(4, calls))
		wrong = "half a batch";
	if (!wrong && acks->tagged && acks->tagged <= calls && find(s, 2, &m) == FOUND_WHOLE && (m.tags == NULL || m.tags[0] == NULL))
		wrong = "an acknowledged tag is gone";
	if (!wrong && store_verify_all(s, damage_is_wrong ? found_one : NULL, &wrong, &records) < 0 && damage_is_wrong)
		wrong = "verify says damage";
	store_close(s);
	return wrong;
}

const char *go_on(void)
{
	struct store *s = open_it();
	struct snapshot_meta m;
	const char *wrong = NULL;

	if (s == NULL)
		return "it cannot be opened again";
	if (append(s, SNAPSHOTS - 1) < 0)
		wrong = "nothing can be added";
	store_close(s);
	s = open_it();
	if (!wrong && (s == NULL || find(s, SNAPSHOTS - 1, &m) != FOUND_WHOLE))
		wrong = "what was added is not there";
	store_close(s);
	return wrong ? wrong : look_for_what_is_aside();
}

void acks_make(void)
{
	acks = mmap(NULL, sizeof *acks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (acks == MAP_FAILED)
		abort();
}
