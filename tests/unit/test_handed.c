/* States that callers hand in: what goes in comes out, however it was stored.
 * The naive model is a plain list of (table, key, value). */
#include "unit.h"

#include <errno.h>

#include "engine/handed.h"

#define ENTRIES 60
#define KEPT 200

struct plain_entry {
	enum table table;
	char key[24];
	struct value v;
};

struct plain {
	struct plain_entry e[ENTRIES];
	size_t n;
	int64_t stamp;
};

static void plain_done(struct plain *p)
{
	for (size_t i = 0; i < p->n; i++)
		value_done(&p->e[i].v);
	p->n = 0;
}

static struct plain plain_copy(const struct plain *p)
{
	struct plain c = *p;

	for (size_t i = 0; i < p->n; i++)
		c.e[i].v = value_copy(&p->e[i].v);
	return c;
}

static struct plain_entry *plain_find(struct plain *p, enum table t, const char *key)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->e[i].table == t && strcmp(p->e[i].key, key) == 0)
			return &p->e[i];
	return NULL;
}

static bool plain_drop(struct plain *p, enum table t, const char *key)
{
	struct plain_entry *e = plain_find(p, t, key);

	if (e == NULL)
		return false;
	value_done(&e->v);
	memmove(e, e + 1, (size_t)(&p->e[--p->n] - e) * sizeof *e);
	return true;
}

static struct value any_value(uint64_t *seed, int depth)
{
	static const char *const words[] = { "", "a", "status", "p12/t7", "caf\xc3\xa9", "\xff\xfe raw", "10", "2" };
	struct value v = { 0 };
	uint32_t n = random_below(seed, 4);

	switch (random_below(seed, depth > 2 ? 7 : 9)) {
	case 0: v.type = VALUE_NULL; return v;
	case 1: return value_bool(n & 1);
	case 2: return value_int((int64_t)random_next(seed) >> random_below(seed, 64));
	case 3:
		v.type = VALUE_UINT;
		v.natural = random_next(seed) | 1ull << 63;
		return v;
	case 4: return value_real((double)(int64_t)random_next(seed) / 1024);
	case 5: return value_str(words[random_below(seed, 8)]);
	case 6:
		v = value_str(words[random_below(seed, 8)]);
		v.type = VALUE_BYTES;
		return v;
	case 7:
		v = value_list();
		while (n--)
			value_push(&v, any_value(seed, depth + 1));
		return v;
	default:
		v = value_object();
		while (n--) {
			const char *name = words[random_below(seed, 8)];

			value_set(&v, name, strlen(name), false, any_value(seed, depth + 1));
		}
		return v;
	}
}

/* Mostly what fits its table, sometimes anything at all. */
static struct value any_entity(uint64_t *seed, enum table t)
{
	static const char *const fields[] = { "id", "status", "progress", "variables", "value", "message", "own" };
	struct value v;

	if (random_below(seed, 10) == 0)
		return any_value(seed, 0);
	if (t == TABLE_METRICS)
		return value_real(random_below(seed, 1000) / 8.0);
	v = value_object();
	for (uint32_t n = random_below(seed, 6); n--;) {
		const char *name = fields[random_below(seed, 7)];

		value_set(&v, name, strlen(name), false, any_value(seed, 1));
	}
	if (t == TABLE_COMMUNICATIONS) {
		struct value list = value_list();

		value_push(&list, v);
		return list;
	}
	return v;
}

static void edit_once(struct plain *p, struct model *m, uint64_t *seed)
{
	enum table t = (enum table)(1 + random_below(seed, 7));
	char key[24];
	struct plain_entry *e;
	struct value v;

	snprintf(key, sizeof key, "%s%u", random_below(seed, 3) ? "k" : "", random_below(seed, 12));
	e = plain_find(p, t, key);
	switch (random_below(seed, 6)) {
	case 0:
	case 1:
		if (e == NULL && p->n == ENTRIES)
			return;
		if (e == NULL) {
			e = &p->e[p->n++];
			e->table = t;
			snprintf(e->key, sizeof e->key, "%s", key);
		} else {
			value_done(&e->v);
		}
		e->v = any_entity(seed, t);
		model_put(m, t, key, strlen(key), value_copy(&e->v));
		break;
	case 2: CU_ASSERT_EQUAL(model_drop(m, t, key, strlen(key)), plain_drop(p, t, key)); break;
	case 3:
		if (e == NULL)
			return;
		v = any_value(seed, 1);
		value_set(&e->v, "status", 6, false, value_copy(&v));
		model_put_field(m, t, key, strlen(key), "status", 6, v);
		break;
	case 4:
		if (e == NULL)
			return;
		CU_ASSERT_EQUAL(model_drop_field(m, t, key, strlen(key), "id", 2), value_get(&e->v, "id") != NULL);
		value_unset(&e->v, "id");
		break;
	default:
		e = plain_find(p, TABLE_COMMUNICATIONS, key);
		if (e == NULL)
			return;
		v = any_value(seed, 1);
		value_push(&e->v, value_copy(&v));
		model_put_message(m, key, strlen(key), v);
	}
}

static void stamp(struct plain *p, struct model *m, uint64_t *seed)
{
	if (random_below(seed, 4))
		return;
	p->stamp = 1 + random_below(seed, 1000);
	model_layout_add(m, "timestamp", 9, (enum table)0, value_int(p->stamp));
}

/* A state of its own, built anew in the naive model's order. */
static struct model *whole(const struct plain *p)
{
	struct model *m = model_new_handed();

	if (p->stamp)
		model_layout_add(m, "timestamp", 9, (enum table)0, value_int(p->stamp));
	for (size_t i = 0; i < p->n; i++)
		model_put(m, p->e[i].table, p->e[i].key, strlen(p->e[i].key), value_copy(&p->e[i].v));
	return m;
}

static bool is_plain(struct model *m, const struct plain *p)
{
	size_t n = 0, nlayout;
	const struct layout_entry *l = model_layout(m, &nlayout);

	if (p->stamp && (nlayout == 0 || strcmp(l[0].name, "timestamp") || l[0].value.integer != p->stamp))
		return false;
	for (int t = 1; t < TABLE_COUNT; t++) {
		const struct entity *e = model_first(m, (enum table)t);

		for (size_t i = 0; i < p->n; i++) {
			if (p->e[i].table != (enum table)t)
				continue;
			if (e == NULL || strcmp(e->key, p->e[i].key) || !value_same(entity_value(e), &p->e[i].v))
				return false;
			e = e->next;
			n++;
		}
		if (e)
			return false;
	}
	return n == p->n;
}

struct kept {
	struct snapshot_meta m;
	struct plain state;
};

static bool all_come_back(struct store *st, struct kept *k, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct snapshot_meta m;
		struct model *back;
		bool good;

		if (store_snapshot_find(st, k[i].m.id, &m, NULL) < 0 || handed_state(st, &m, &back) < 0)
			return false;
		good = is_plain(back, &k[i].state);
		model_free(back);
		if (!good)
			return false;
	}
	return true;
}

static int make_full(void *arg, const struct snapshot_meta *m, struct buf *out) { return handed_full(arg, m, out); }

/* Some go, and compaction takes their bytes: those that stay are as they were. */
static size_t delete_some(struct store *st, struct kept *k, size_t n, uint64_t *seed)
{
	struct store_folding folding = { make_full, st };
	const char *ids[KEPT];
	size_t gone = 0, stay = 0;
	bool goes[KEPT];
	uint64_t freed;

	for (size_t i = 0; i < n; i++) {
		goes[i] = random_below(seed, 3) == 0;
		if (goes[i])
			ids[gone++] = k[i].m.id;
	}
	CU_ASSERT_EQUAL(store_delete(st, ids, gone, &folding, NULL), 0);
	if (random_below(seed, 2))
		CU_ASSERT_EQUAL(store_compact(st, random_below(seed, 2) ? 0 : 0.3, &freed), 0);
	for (size_t i = 0; i < n; i++) {
		struct snapshot_meta m;

		if (!goes[i]) {
			k[stay++] = k[i];
			continue;
		}
		CU_ASSERT_EQUAL(store_snapshot_find(st, k[i].m.id, &m, NULL), -ENOENT);
		plain_done(&k[i].state);
	}
	CU_ASSERT_EQUAL(store_snapshot_count(st, NULL), stay);
	return stay;
}

/* Thousands of random edits and whole states, stored in every way: each comes
 * back as it was, from memory, from disk, and after a restart. */
static void what_is_handed_in_comes_back(void)
{
	static struct kept k[KEPT];
	struct store_options so = { .persist = true,
				    .compress = true,
				    .compress_threshold_bytes = 1024,
				    .memory_bytes = 100000,
				    .create = true,
				    .fsync = STORE_FSYNC_NEVER };

	for (uint64_t round = 0; round < (getenv("TEST_FEW") ? 4 : 20); round++) { /* TEST_FEW: under sanitizers */
		struct temp_folder f;
		struct store *st;
		struct plain p = { 0 };
		struct model *m = model_new_handed();
		struct handed_base base = { 0 };
		uint64_t seed = round * 77 + 5;
		size_t n = 0;

		temp_make(&f);
		CU_ASSERT_EQUAL_FATAL(store_open(f.path, &so, &st), 0);
		while (n < KEPT) {
			struct handed_options o = { .base = base.id[0] ? &base : NULL,
						    .type = (int)random_below(&seed, 6),
						    .time_ns = 1000000 + n / 3 };
			bool anew = random_below(&seed, 5) == 0;
			struct handed_snapshot h;
			struct session_meta s;
			struct model *w;

			if (o.type > 2)
				o.type = 0;
			for (uint32_t e = random_below(&seed, 20); e--;)
				edit_once(&p, m, &seed);
			stamp(&p, m, &seed);
			w = anew ? whole(&p) : m;
			if (anew)
				o.base = NULL;
			CU_ASSERT_EQUAL_FATAL(handed_session(st, "s", o.time_ns, &s), 0);
			CU_ASSERT_EQUAL_FATAL(handed_prepare(st, s.id, w, &o, &h), 0);
			CU_ASSERT_EQUAL_FATAL(store_append(st, &h.m, h.payload.data, h.payload.len, 0), 0);
			if (o.type)
				CHECK_OR(h.m.type == o.type, break);
			k[n].m = h.m;
			k[n++].state = plain_copy(&p);
			if (anew) {
				model_free(w);
			} else {
				base = h.after;
				model_journal_begin(m);
			}
			handed_snapshot_done(&h);
		}
		CHECK_OR(all_come_back(st, k, n), break);
		for (int again = 0; again < 4; again++) {
			store_close(st);
			CU_ASSERT_EQUAL_FATAL(store_open(f.path, &so, &st), 0);
			CHECK_OR(all_come_back(st, k, n), break);
			n = delete_some(st, k, n, &seed);
			CHECK_OR(all_come_back(st, k, n), break);
		}
		CU_ASSERT_EQUAL(store_verify_all(st, NULL, NULL, NULL), 0);
		store_close(st);
		for (size_t i = 0; i < n; i++)
			plain_done(&k[i].state);
		plain_done(&p);
		model_free(m);
		temp_remove(&f);
	}
}

struct seen {
	unsigned n;
	char text[600];
};

static void see(void *arg, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	struct seen *s = arg;

	s->n++;
	snprintf(s->text + strlen(s->text), sizeof s->text - strlen(s->text), "%s#%s%s%s ", e->key, field, before ? "-" : "",
		 after ? "+" : "");
}

static void the_log_of_handed_in_states_is_what_changed(void)
{
	struct store_options so = { .type = STORE_MEMORY, .memory_bytes = 1 << 20 };
	struct replay_query q = { .until_ns = UINT64_MAX, .observe = see };
	struct replay_result result;
	struct snapshot_meta meta;
	struct session_meta s;
	struct seen seen = { 0 };
	struct store *st;
	struct model *m = model_new_handed();

	CU_ASSERT_EQUAL_FATAL(store_open(NULL, &so, &st), 0);
	for (int i = 0; i < 3; i++) {
		struct handed_options o = { .time_ns = 1000u + (unsigned)i, .type = i == 1 ? SNAPSHOT_FULL : 0 };

		if (i == 0)
			model_put(m, TABLE_TASKS, "a", 1, value_object());
		if (i == 1)
			model_put_field(m, TABLE_TASKS, "a", 1, "progress", 8, value_real(0.5));
		if (i == 2)
			model_drop(m, TABLE_TASKS, "a", 1);
		CU_ASSERT_EQUAL(handed_append(st, "s", m, &o, &meta), 0);
	}
	CU_ASSERT_EQUAL(store_session_find(st, "s", &s), 0);
	q.session_id = s.id;
	q.arg = &seen;
	CU_ASSERT_EQUAL_FATAL(replay(st, &q, &result), 0);
	CU_ASSERT_STRING_EQUAL(seen.text, "a#+ a#progress+ a#- ");
	CU_ASSERT_EQUAL(model_count(result.model, TABLE_TASKS), 0);
	model_free(result.model);
	q = (struct replay_query){ .session_id = s.id, .until_ns = 1001 };
	CU_ASSERT_EQUAL_FATAL(replay(st, &q, &result), 0);
	CU_ASSERT_EQUAL(model_count(result.model, TABLE_TASKS), 1);
	model_free(result.model);
	q.until_ns = 999;
	CU_ASSERT_EQUAL(replay(st, &q, &result), -ENODATA);
	model_free(m);
	store_close(st);
}

static void an_order_that_changed_is_kept(void)
{
	struct model *a = model_new_handed(), *b = model_new_handed(), *c = model_new_handed();
	_cleanup_buf_ struct buf j = BUF_INIT, saved_b = BUF_INIT, saved_c = BUF_INIT;
	static const char *const first[] = { "1", "2", "3", "4" }, *const then[] = { "1", "3", "2", "5" };
	struct wire w;
	size_t pos = 0;

	for (int i = 0; i < 4; i++) {
		model_put(a, TABLE_AGENTS, first[i], 1, value_object());
		model_put(c, TABLE_AGENTS, first[i], 1, value_object());
		model_put(b, TABLE_AGENTS, then[i], 1, value_object());
	}
	CU_ASSERT(model_differ(a, b, &j) > 0);
	while (wire_next(j.data, j.len, &pos, &w) > 0)
		CU_ASSERT(model_patch(c, 1, w.b.p, w.b.n));
	model_save(b, 1, &saved_b);
	model_save(c, 1, &saved_c);
	CU_ASSERT(saved_b.len == saved_c.len && memcmp(saved_b.data, saved_c.data, saved_b.len) == 0);
	model_free(a);
	model_free(b);
	model_free(c);
}

void suite_handed(void)
{
	CU_pSuite s = CU_add_suite("handed", NULL, NULL);

	TEST(s, what_is_handed_in_comes_back);
	TEST(s, the_log_of_handed_in_states_is_what_changed);
	TEST(s, an_order_that_changed_is_kept);
}
