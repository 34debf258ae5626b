/* The public interface as a program uses it that makes snapshots of its own. */
#include "unit.h"

#include <errno.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "snaptrail.h"

struct fixture {
	struct temp_folder folder;
	struct snaptrail *st;
};

static void begin(struct fixture *f, const char *type)
{
	struct snaptrail_settings s;

	temp_make(&f->folder);
	snaptrail_settings_init(&s, sizeof s);
	s.store = f->folder.path;
	s.storage_type = type;
	s.fsync = false;
	CU_ASSERT_EQUAL_FATAL(snaptrail_open_with(&s, SNAPTRAIL_CREATE, &f->st), 0);
}

static void reopen(struct fixture *f)
{
	struct snaptrail_settings s;

	snaptrail_close(f->st);
	snaptrail_settings_init(&s, sizeof s);
	s.store = f->folder.path;
	CU_ASSERT_EQUAL_FATAL(snaptrail_open_with(&s, 0, &f->st), 0);
}

static void end(struct fixture *f)
{
	snaptrail_close(f->st);
	temp_remove(&f->folder);
}

static void set(struct snaptrail_state *s, enum snaptrail_table t, const char *key, const char *field, struct snaptrail_value *v)
{
	CU_ASSERT_EQUAL(snaptrail_state_set_field(s, t, key, field, v), 0);
	snaptrail_value_free(v);
}

/* "ok" or what went wrong, so that a failure says itself. */
static const char *create(struct fixture *f, struct snaptrail_state *s, const char *type, const char *tag, char id[17])
{
	const char *tags[] = { tag, NULL };
	struct snaptrail_create_options o = { .size = sizeof o, .type = type, .tags = tag ? tags : NULL };

	return snaptrail_create(f->st, "orders", s, &o, id) == 0 ? "ok" : snaptrail_error();
}

static int64_t int_at(struct fixture *f, const char *ref, enum snaptrail_table t, const char *key, const char *field)
{
	struct snaptrail_point p;
	struct snaptrail_state *s;
	const struct snaptrail_value *v;
	int64_t r = -1;

	if (snaptrail_resolve(f->st, "orders", ref, &p) < 0 || snaptrail_state_at(f->st, &p, &s) < 0)
		return -2;
	v = snaptrail_state_get(s, t, key, strlen(key));
	v = v ? snaptrail_value_get(v, field) : NULL;
	if (v && snaptrail_value_type(v) == SNAPTRAIL_INT)
		r = snaptrail_value_int(v);
	snaptrail_state_free(s);
	return r;
}

/* ---- making and reading ---- */

static void a_snapshot_is_of_the_state_then(void)
{
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_snapshot got;
	char one[17], two[17], three[17];

	begin(&f, "hybrid");
	for (int i = 0; i < 100; i++) {
		char key[16];

		snprintf(key, sizeof key, "task-%d", i);
		set(s, SNAPTRAIL_TASKS, key, "n", snaptrail_value_of_int(i));
	}
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, "milestone", one), "ok");
	set(s, SNAPTRAIL_TASKS, "task-7", "n", snaptrail_value_of_int(700));
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, two), "ok");
	CU_ASSERT_EQUAL(snaptrail_state_remove(s, SNAPTRAIL_TASKS, "task-7"), 0);
	CU_ASSERT_EQUAL(snaptrail_state_remove(s, SNAPTRAIL_TASKS, "task-7"), -ENOENT);
	CU_ASSERT_STRING_EQUAL(create(&f, s, "full", NULL, three), "ok");
	set(s, SNAPTRAIL_TASKS, "task-8", "n", snaptrail_value_of_int(800)); /* after the copy */
	snaptrail_state_free(s);
	for (int again = 0; again < 2; again++) {
		CU_ASSERT_EQUAL(int_at(&f, one, SNAPTRAIL_TASKS, "task-7", "n"), 7);
		CU_ASSERT_EQUAL(int_at(&f, two, SNAPTRAIL_TASKS, "task-7", "n"), 700);
		CU_ASSERT_EQUAL(int_at(&f, three, SNAPTRAIL_TASKS, "task-7", "n"), -1);
		CU_ASSERT_EQUAL(int_at(&f, "latest", SNAPTRAIL_TASKS, "task-8", "n"), 8);
		CU_ASSERT_EQUAL(int_at(&f, "tag:milestone", SNAPTRAIL_TASKS, "task-8", "n"), 8);
		CU_ASSERT_EQUAL(snaptrail_get(f.st, NULL, two, &got), 0);
		CU_ASSERT_STRING_EQUAL(got.type, "incremental");
		CU_ASSERT_STRING_EQUAL(got.base_id, one);
		CU_ASSERT_EQUAL(got.tasks, 100);
		reopen(&f);
	}
	end(&f);
}

static void the_type_that_is_asked_for_is_made(void)
{
	static const char *const types[] = { "incremental", "full", "incremental", "incremental", "full" };
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_snapshot got;
	char id[17];

	begin(&f, "hybrid");
	for (int i = 0; i < 5; i++) {
		set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
		CU_ASSERT_STRING_EQUAL(create(&f, s, types[i], NULL, id), "ok");
		CU_ASSERT_EQUAL(snaptrail_get(f.st, "orders", id, &got), 0);
		CU_ASSERT_STRING_EQUAL(got.type, types[i]);
		CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "k", "value"), i);
	}
	CU_ASSERT_STRING_EQUAL(create(&f, s, "tagged", NULL, id), "\"tagged\": a snapshot is full or incremental");
	snaptrail_state_free(s);
	end(&f);
}

static void states_of_equal_times_keep_their_order(void)
{
	struct fixture f;
	char ids[30][17];
	struct snaptrail_create_options o = { .size = sizeof o, .time_ns = 1700000000000000000 };
	struct snaptrail_query q = { .session = "orders" };

	begin(&f, "hybrid");
	for (int i = 0; i < 30; i++) {
		struct snaptrail_state *s = snaptrail_state_new(); /* each a whole one, as the original was given */

		set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
		CU_ASSERT_EQUAL(snaptrail_create(f.st, "orders", s, &o, ids[i]), 0);
		snaptrail_state_free(s);
	}
	for (int i = 0; i < 30; i++) {
		char ref[40];

		snprintf(ref, sizeof ref, "latest~%d", 29 - i);
		CU_ASSERT_EQUAL(int_at(&f, ref, SNAPTRAIL_MEMORY, "k", "value"), i);
		CU_ASSERT_EQUAL(int_at(&f, ids[i], SNAPTRAIL_MEMORY, "k", "value"), i);
	}
	CU_ASSERT_EQUAL(snaptrail_list(f.st, &q, NULL, NULL), 30);
	q.limited = true;
	CU_ASSERT_EQUAL(snaptrail_list(f.st, &q, NULL, NULL), 30);
	end(&f);
}

static void snapshots_for_later_are_read_at_once(void)
{
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_create_options o = { .size = sizeof o, .later = true };
	char id[17];

	begin(&f, "hybrid");
	for (int i = 0; i < 200; i++) {
		set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
		CU_ASSERT_EQUAL(snaptrail_create(f.st, "orders", s, &o, id), 0);
		if (i % 50 == 0)
			CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "k", "value"), i);
	}
	CU_ASSERT_EQUAL(snaptrail_settle(f.st), 0);
	snaptrail_state_free(s);
	reopen(&f);
	CU_ASSERT_EQUAL(int_at(&f, "latest", SNAPTRAIL_MEMORY, "k", "value"), 199);
	CU_ASSERT_EQUAL(int_at(&f, "first", SNAPTRAIL_MEMORY, "k", "value"), 0);
	end(&f);
}

static void a_store_in_memory_leaves_nothing(void)
{
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	char id[17], command[100];

	begin(&f, "memory");
	set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(5));
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "k", "value"), 5);
	snprintf(command, sizeof command, "test -z \"$(find %s -type f)\"", f.folder.path);
	CU_ASSERT_EQUAL(system(command), 0);
	snaptrail_state_free(s);
	end(&f);
}

/* ---- comparing ---- */

static int note_difference(void *arg, const struct snaptrail_difference *d)
{
	char *text = arg;
	size_t n = strlen(text);

	snprintf(text + n, 400 - n, "%c %s:%.*s%s%s\n", d->op, snaptrail_table_name(d->table), (int)d->key_len, d->key,
		 *d->field ? "#" : "", d->field);
	return 0;
}

static void compared_by_what_was_touched_and_by_all_is_the_same(void)
{
	static const char *const expected = "u agents:a1#status\nr tasks:t2\na tasks:t9\nu communications:c\nu "
					    "resources:r1#usage\nu metrics:m\n";
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new(), *a, *b;
	struct snaptrail_value *v;
	struct snaptrail_point p;
	char one[17], two[17], text[400] = "";
	uint64_t changed[SNAPTRAIL_TABLES + 1];

	begin(&f, "hybrid");
	for (int i = 0; i < 300; i++) { /* so that what follows is small beside it */
		char key[16];

		snprintf(key, sizeof key, "k%d", i);
		set(s, SNAPTRAIL_MEMORY, key, "value", snaptrail_value_of_int(i));
	}
	set(s, SNAPTRAIL_AGENTS, "a1", "status", snaptrail_value_of_string("idle"));
	set(s, SNAPTRAIL_TASKS, "t2", "status", snaptrail_value_of_string("running"));
	set(s, SNAPTRAIL_RESOURCES, "r1", "usage", snaptrail_value_object());
	v = snaptrail_value_of_double(1.5);
	CU_ASSERT_EQUAL(snaptrail_state_set(s, SNAPTRAIL_METRICS, "m", v), 0);
	CU_ASSERT_EQUAL(snaptrail_state_append(s, "c", v), 0);
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, one), "ok");
	CU_ASSERT_EQUAL(snaptrail_state_append(s, "c", v), 0);
	snaptrail_value_free(v);
	v = snaptrail_value_of_double(2.5);
	CU_ASSERT_EQUAL(snaptrail_state_set(s, SNAPTRAIL_METRICS, "m", v), 0);
	snaptrail_value_free(v);
	set(s, SNAPTRAIL_AGENTS, "a1", "status", snaptrail_value_of_string("busy"));
	set(s, SNAPTRAIL_AGENTS, "a2", "status", snaptrail_value_of_string("busy"));
	CU_ASSERT_EQUAL(snaptrail_state_remove(s, SNAPTRAIL_AGENTS, "a2"), 0);
	CU_ASSERT_EQUAL(snaptrail_state_remove(s, SNAPTRAIL_TASKS, "t2"), 0);
	set(s, SNAPTRAIL_TASKS, "t9", "status", snaptrail_value_of_string("pending"));
	set(s, SNAPTRAIL_RESOURCES, "r1", "usage", snaptrail_value_null());
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, two), "ok");
	CU_ASSERT_EQUAL(snaptrail_compare(f.st, one, two, changed, note_difference, text), 6);
	CU_ASSERT_STRING_EQUAL(text, expected);
	CU_ASSERT(changed[SNAPTRAIL_TASKS] == 2 && changed[SNAPTRAIL_COMMUNICATIONS] == 1 && changed[SNAPTRAIL_MEMORY] == 0);
	CU_ASSERT_EQUAL(snaptrail_resolve(f.st, NULL, one, &p), 0);
	CU_ASSERT_EQUAL(snaptrail_state_at(f.st, &p, &a), 0);
	CU_ASSERT_EQUAL(snaptrail_resolve(f.st, NULL, two, &p), 0);
	CU_ASSERT_EQUAL(snaptrail_state_at(f.st, &p, &b), 0);
	text[0] = 0;
	CU_ASSERT_EQUAL(snaptrail_diff(a, b, changed, note_difference, text), 6);
	CU_ASSERT_STRING_EQUAL(text, expected);
	/* An edit of what the cache shares is a copy's. */
	set(a, SNAPTRAIL_AGENTS, "a1", "status", snaptrail_value_of_string("error"));
	CU_ASSERT_EQUAL(snaptrail_compare(f.st, one, two, changed, NULL, NULL), 6);
	CU_ASSERT_EQUAL(snaptrail_compare(f.st, one, one, changed, NULL, NULL), 0);
	snaptrail_state_free(a);
	snaptrail_state_free(b);
	snaptrail_state_free(s);
	end(&f);
}

/* ---- when ---- */

static int when(struct fixture *f, const char *path, const char *op, struct snaptrail_value *v, bool last, uint64_t since,
		uint64_t *ret)
{
	struct snaptrail_condition c = { .path = path, .op = op, .value = v, .last = last, .since_ns = since };
	int r = snaptrail_when(f->st, "orders", &c, ret);

	snaptrail_value_free(v);
	return r;
}

static bool more_than_two_tasks(void *arg, const struct snaptrail_state *s)
{
	(void)arg;
	return snaptrail_state_count(s, SNAPTRAIL_TASKS) > 2;
}

static void when_something_became_true_is_found(void)
{
	static const double progress[] = { 0.1, 0.6, 0.2, 0.9, 0.9 };
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_condition count = { .holds = more_than_two_tasks };
	uint64_t t = 0;
	char id[17];

	begin(&f, "hybrid");
	for (unsigned i = 0; i < 5; i++) {
		struct snaptrail_create_options o = { .size = sizeof o, .time_ns = 1000 + i };
		char key[8];

		snprintf(key, sizeof key, "t%u", i);
		set(s, SNAPTRAIL_TASKS, key, "progress", snaptrail_value_of_int(0));
		set(s, SNAPTRAIL_TASKS, "t0", "progress", snaptrail_value_of_double(progress[i]));
		CU_ASSERT_EQUAL(snaptrail_create(f.st, "orders", s, &o, id), 0);
	}
	CU_ASSERT_EQUAL(when(&f, "tasks:t0#progress", ">", snaptrail_value_of_double(0.5), false, 0, &t), 0);
	CU_ASSERT_EQUAL(t, 1001);
	CU_ASSERT_EQUAL(when(&f, "tasks:t0#progress", ">", snaptrail_value_of_double(0.5), true, 0, &t), 0);
	CU_ASSERT_EQUAL(t, 1003);
	CU_ASSERT_EQUAL(when(&f, "tasks:t0#progress", "<", snaptrail_value_of_double(0.5), false, 0, &t), 0);
	CU_ASSERT_EQUAL(t, 1000);
	CU_ASSERT_EQUAL(when(&f, "*#progress", ">", snaptrail_value_of_double(0.7), false, 1002, &t), 0);
	CU_ASSERT_EQUAL(t, 1003);
	CU_ASSERT_EQUAL(when(&f, "t3", "exists", NULL, false, 0, &t), 0);
	CU_ASSERT_EQUAL(t, 1003);
	CU_ASSERT_EQUAL(when(&f, "tasks:t0#progress", ">", snaptrail_value_of_int(1), false, 0, &t), -ENOENT);
	CU_ASSERT_EQUAL(when(&f, "tasks:t0#progress", ">", snaptrail_value_of_double(0.8), false, 1004, &t), -ENOENT);
	CU_ASSERT_EQUAL(when(&f, "t0", "exists", NULL, false, 5000, &t), -ENODATA);
	CU_ASSERT_EQUAL(when(&f, "t0", "=~", NULL, false, 0, &t), -EINVAL);
	CU_ASSERT_EQUAL(snaptrail_when(f.st, "orders", &count, &t), 0);
	CU_ASSERT_EQUAL(t, 1002);
	snaptrail_state_free(s);
	end(&f);
}

/* ---- events and automatic snapshots ---- */

struct told {
	pthread_mutex_t lock;
	char text[400];
	int automatic;
	struct snaptrail *st;
	uint64_t listed;
};

static void note_event(void *arg, const struct snaptrail_notification *n)
{
	struct told *t = arg;
	size_t len;

	pthread_mutex_lock(&t->lock);
	len = strlen(t->text);
	if (n->snapshot && strcmp(n->snapshot->origin, "automatic") == 0)
		t->automatic++;
	else
		snprintf(t->text + len, sizeof t->text - len, "%s%s%s;", n->event, n->type ? ":" : "", n->type ? n->type : "");
	if (n->snapshot && t->st) { /* a listener may use the handle */
		struct snaptrail_query q = { .session = n->session };

		t->listed = (uint64_t)snaptrail_list(t->st, &q, NULL, NULL);
	}
	pthread_mutex_unlock(&t->lock);
}

static int automatic_so_far(struct told *t)
{
	int n;

	pthread_mutex_lock(&t->lock);
	n = t->automatic;
	pthread_mutex_unlock(&t->lock);
	return n;
}

static struct snaptrail_state *give(void *arg)
{
	struct snaptrail_state *s = arg;

	set(s, SNAPTRAIL_MEMORY, "tick", "value", snaptrail_value_of_int(1));
	return s;
}

static void events_are_told(void)
{
	struct fixture f;
	struct told t = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_query q = { .session = "orders" };
	char id[17];
	int64_t n;

	begin(&f, "hybrid");
	t.st = f.st;
	CU_ASSERT_EQUAL(snaptrail_on(f.st, "snapshot_made", note_event, &t), -EINVAL);
	CU_ASSERT(snaptrail_on(f.st, NULL, note_event, &t) > 0);
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	CU_ASSERT_EQUAL(t.listed, 1);
	CU_ASSERT_EQUAL(snaptrail_create(f.st, "a/b", s, NULL, id), -EINVAL);
	CU_ASSERT(strstr(snaptrail_error(), "a session's name") != NULL);
	CU_ASSERT_EQUAL(snaptrail_automatic_from(f.st, "orders", 1000000, give, s), 0);
	for (int i = 0; i < 2000 && automatic_so_far(&t) < 5; i++)
		usleep(5000);
	CU_ASSERT_EQUAL(snaptrail_automatic(f.st, "orders", false, 0), 0);
	CU_ASSERT(automatic_so_far(&t) >= 5);
	n = snaptrail_list(f.st, &q, NULL, NULL);
	usleep(20000);
	CU_ASSERT_EQUAL(snaptrail_list(f.st, &q, NULL, NULL), n);
	CU_ASSERT_EQUAL(n, automatic_so_far(&t) + 1);
	t.st = NULL;
	end(&f);
	CU_ASSERT_STRING_EQUAL(t.text, "snapshot_created;error:snapshot_creation_failed;"
				       "automatic_snapshots_started;"
				       "automatic_snapshots_stopped;shutdown_complete;");
	snaptrail_state_free(s);
}

/* Two handles of a store, four threads, each on its own session and on
 * another's. */
struct party {
	struct fixture *f;
	int number, bad;
};

static void *take_part(void *arg)
{
	struct party *p = arg;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_create_options o = { .size = sizeof o, .later = p->number & 1 };
	struct snaptrail_point at;
	struct snaptrail_state *back = NULL;
	char name[8], id[17];

	snprintf(name, sizeof name, "s%d", p->number);
	for (int i = 0; i < 60; i++) {
		struct snaptrail_value *v = snaptrail_value_of_int(i);

		snaptrail_state_set(s, SNAPTRAIL_METRICS, "n", v);
		snaptrail_value_free(v);
		p->bad += snaptrail_create(p->f->st, name, s, &o, id) != 0;
		p->bad += snaptrail_resolve(p->f->st, name, id, &at) != 0 || snaptrail_state_at(p->f->st, &at, &back) != 0;
		if (p->bad)
			break;
		p->bad += snaptrail_value_int(snaptrail_state_get(back, SNAPTRAIL_METRICS, "n", 1)) != i;
		snaptrail_state_free(back);
	}
	snaptrail_state_free(s);
	return NULL;
}

static void threads_share_a_handle(void)
{
	struct fixture f;
	struct party p[4];
	pthread_t thread[4];

	begin(&f, "hybrid");
	for (int i = 0; i < 4; i++) {
		p[i] = (struct party){ &f, i, 0 };
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[i], NULL, take_part, &p[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		CU_ASSERT_EQUAL(p[i].bad, 0);
	}
	end(&f);
}

static void protobuf_goes_there_and_back(void)
{
	struct snaptrail_state *s = snaptrail_state_new(), *back;
	struct snaptrail_value *v = snaptrail_value_of_int(1769000000000);
	void *bytes;
	size_t n;

	set(s, SNAPTRAIL_AGENTS, "a", "status", snaptrail_value_of_string("busy"));
	CU_ASSERT_EQUAL(snaptrail_state_set_top(s, "timestamp", v), 0);
	CU_ASSERT_EQUAL(snaptrail_state_to_protobuf(s, &bytes, &n), 0);
	CU_ASSERT_EQUAL_FATAL(snaptrail_state_from_protobuf(bytes, n, &back), 0);
	CU_ASSERT(snaptrail_value_equal(snaptrail_state_top(back, "timestamp"), v));
	CU_ASSERT_EQUAL(snaptrail_diff(s, back, NULL, NULL, NULL), 0);
	snaptrail_state_free(back);
	for (size_t cut = 1; cut < n; cut++) { /* hostile ones are refused or read, never worse */
		((char *)bytes)[cut] ^= 0x55;
		if (snaptrail_state_from_protobuf(bytes, n, &back) == 0)
			snaptrail_state_free(back);
		((char *)bytes)[cut] ^= 0x55;
	}
	snaptrail_value_free(v);
	snaptrail_state_free(s);
	free(bytes);
}

/* Compaction keeps what was the newest a moment longer, and let go of its
 * session's name: it was listed as a crashed one without any. */
static void a_session_has_its_name_as_long_as_anything_of_it(void)
{
	struct fixture f;
	struct snaptrail_session session;
	struct snaptrail_pruned pruned;
	struct snaptrail_state *s = snaptrail_state_new();
	const char *ids[1];
	char id[17];

	begin(&f, "hybrid");
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	ids[0] = id;
	CU_ASSERT_EQUAL(snaptrail_delete(f.st, ids, 1), 0);
	CU_ASSERT_EQUAL(snaptrail_prune(f.st, false, NULL, NULL, &pruned), 0);
	reopen(&f);
	for (size_t i = 0; snaptrail_session_at(f.st, i, &session) == 0; i++)
		CU_ASSERT_STRING_EQUAL(session.name, "orders");
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	CU_ASSERT_EQUAL(snaptrail_session_find(f.st, "orders", &session), 0);
	CU_ASSERT_EQUAL(session.snapshots, 1);
	snaptrail_state_free(s);
	end(&f);
}

static void count_deleted(void *arg, const struct snaptrail_notification *n)
{
	*(int *)arg += n->session && strcmp(n->session, "orders") == 0 && n->id[0];
}

static void count_failed(void *arg, const struct snaptrail_notification *n)
{
	(void)n;
	++*(int *)arg;
}

static void what_the_limits_take_is_told_as_deleted(void)
{
	struct fixture f;
	struct snaptrail_pruned pruned;
	struct snaptrail_settings settings;
	struct snaptrail_state *s = snaptrail_state_new();
	int deleted = 0, failed = 0;
	char id[17];

	begin(&f, "hybrid");
	snaptrail_close(f.st);
	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = f.folder.path;
	settings.max_snapshots = 3;
	CU_ASSERT_EQUAL_FATAL(snaptrail_open_with(&settings, 0, &f.st), 0);
	CU_ASSERT(snaptrail_on(f.st, "snapshot_deleted", count_deleted, &deleted) > 0);
	CU_ASSERT(snaptrail_on(f.st, "error", count_failed, &failed) > 0);
	CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
	for (int i = 0; i < 70; i++) /* the look at the limits falls into the batch */
		CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, true), 0);
	CU_ASSERT_EQUAL(deleted + failed, 0);
	CU_ASSERT_EQUAL(snaptrail_prune(f.st, true, NULL, NULL, &pruned), 0);
	CU_ASSERT_EQUAL(pruned.snapshots, 67);
	CU_ASSERT_EQUAL(deleted, 0);
	CU_ASSERT_EQUAL(snaptrail_prune(f.st, false, NULL, NULL, &pruned), 0);
	CU_ASSERT_EQUAL(deleted, 67);
	CU_ASSERT_EQUAL(failed, 0);
	snaptrail_state_free(s);
	end(&f);
}

static void *create_and_prune(void *arg)
{
	struct party *p = arg;
	struct snaptrail_state *s = snaptrail_state_new();
	struct snaptrail_pruned pruned;
	char id[17];

	for (int i = 0; i < 150; i++) {
		set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
		p->bad += strcmp(create(p->f, s, NULL, NULL, id), "ok") != 0;
		if (i % 5 == 0)
			p->bad += snaptrail_prune(p->f->st, false, NULL, NULL, &pruned) != 0;
	}
	snaptrail_state_free(s);
	return NULL;
}

/* Each judged what the other had just deleted, and failed. */
static void two_that_prune_at_once_both_succeed(void)
{
	struct fixture f[2];
	struct party parties[2] = { { &f[0], 0, 0 }, { &f[1], 1, 0 } };
	struct snaptrail_settings settings;
	pthread_t threads[2];

	begin(&f[0], "hybrid");
	f[1] = f[0];
	snaptrail_close(f[0].st);
	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = f[0].folder.path;
	settings.fsync = false;
	settings.max_snapshots = 4;
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(snaptrail_open_with(&settings, 0, &f[i].st), 0);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, create_and_prune, &parties[i]), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_EQUAL(parties[i].bad, 0);
	}
	snaptrail_close(f[1].st);
	end(&f[0]);
}

/* 1.0 of JSON is an integer, and was read as 5e-324 by who asked for a double. */
static void a_number_is_read_as_what_it_is(void)
{
	static const char text[] = "[1.0, 0.5, 18446744073709551615, -1, \"x\", true]";
	static const double reals[] = { 1, 0.5, 18446744073709551615.0, -1, 0, 0 };
	struct snaptrail_value *v;
	size_t n;

	CU_ASSERT_EQUAL_FATAL(snaptrail_value_from_json(text, strlen(text), &v), 0);
	for (size_t i = 0; i < snaptrail_value_count(v); i++)
		CU_ASSERT_EQUAL(snaptrail_value_double(snaptrail_value_at(v, i)), reals[i]);
	CU_ASSERT_EQUAL(snaptrail_value_int(snaptrail_value_at(v, 0)), 1);
	CU_ASSERT_EQUAL(snaptrail_value_int(snaptrail_value_at(v, 1)), 0);
	CU_ASSERT_EQUAL(snaptrail_value_int(snaptrail_value_at(v, 4)), 0);
	CU_ASSERT_EQUAL(snaptrail_value_uint(snaptrail_value_at(v, 0)), 1);
	CU_ASSERT_EQUAL(snaptrail_value_uint(snaptrail_value_at(v, 2)), UINT64_MAX);
	CU_ASSERT_EQUAL(snaptrail_value_uint(snaptrail_value_at(v, 3)), 0);
	CU_ASSERT_FALSE(snaptrail_value_bool(snaptrail_value_at(v, 0)));
	CU_ASSERT(snaptrail_value_bool(snaptrail_value_at(v, 5)));
	CU_ASSERT_STRING_EQUAL(snaptrail_value_bytes(snaptrail_value_at(v, 5), &n), "");
	snaptrail_value_free(v);
}

static void only_segment(const struct fixture *f, char *path, size_t n)
{
	char pattern[300];
	glob_t g;

	snprintf(pattern, sizeof pattern, "%s/segments/*.seg", f->folder.path);
	CU_ASSERT_EQUAL_FATAL(glob(pattern, 0, NULL, &g), 0);
	CU_ASSERT_EQUAL(g.gl_pathc, 1);
	snprintf(path, n, "%s", g.gl_pathv[0]);
	globfree(&g);
}

static void flip_byte(const char *path, long back)
{
	FILE *f = fopen(path, "r+");
	int c;

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	fseek(f, back, SEEK_END);
	c = fgetc(f);
	fseek(f, back, SEEK_END);
	fputc(c ^ 0x55, f);
	fclose(f);
}

static bool is_there(struct fixture *f, const char *id)
{
	struct snaptrail_point p;

	return snaptrail_resolve(f->st, "orders", id, &p) == 0;
}

static void count_event(void *arg, const struct snaptrail_notification *n)
{
	int *counts = arg;

	counts[strcmp(n->event, "snapshot_deleted") == 0]++;
}

/* The one that is deleted is what another of the same batch stands on. */
static void a_batch_creates_tags_and_deletes(void)
{
	static const char *const types[] = { "disk", "hybrid", "memory" };

	for (int k = 0; k < 3; k++) {
		struct fixture f;
		struct snaptrail_state *s = snaptrail_state_new();
		char old[17], made[17], gone[17];
		const char *ids[] = { old }, *also[] = { gone };
		int told[2] = { 0, 0 };

		begin(&f, types[k]);
		snaptrail_on(f.st, "snapshot_created", count_event, told);
		snaptrail_on(f.st, "snapshot_deleted", count_event, told);
		set(s, SNAPTRAIL_AGENTS, "a", "n", snaptrail_value_of_int(1));
		CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, old), "ok");
		for (int kept = 0; kept < 2; kept++) {
			told[0] = told[1] = 0;
			CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
			set(s, SNAPTRAIL_AGENTS, "b", "n", snaptrail_value_of_int(2));
			CU_ASSERT_STRING_EQUAL(create(&f, s, "incremental", NULL, made), "ok");
			CU_ASSERT_EQUAL(snaptrail_tag(f.st, made, (const char *[]){ "chosen", NULL }, NULL), 0);
			CU_ASSERT_EQUAL(snaptrail_describe(f.st, made, "said later"), 0);
			CU_ASSERT_EQUAL(snaptrail_delete(f.st, ids, 1), 0);
			CU_ASSERT_STRING_EQUAL(create(&f, s, "incremental", NULL, gone), "ok");
			CU_ASSERT_EQUAL(snaptrail_delete(f.st, also, 1), 0);
			CU_ASSERT_EQUAL(snaptrail_delete(f.st, (const char *[]){ "0123456789abcdef" }, 1), -ENOENT);
			CU_ASSERT_TRUE(is_there(&f, old));
			CU_ASSERT_FALSE(is_there(&f, made));
			CU_ASSERT_EQUAL(told[0] + told[1], 0);
			CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, kept), 0);
			CU_ASSERT_EQUAL(is_there(&f, old), !kept);
			CU_ASSERT_EQUAL(is_there(&f, made), kept);
			CU_ASSERT_FALSE(is_there(&f, gone));
			CU_ASSERT_EQUAL(told[0], kept);
			CU_ASSERT_EQUAL(told[1], kept);
		}
		for (int again = 0; again < (k == 2 ? 1 : 2); again++) {
			struct snaptrail_point p;

			CU_ASSERT_EQUAL(int_at(&f, made, SNAPTRAIL_AGENTS, "a", "n"), 1);
			CU_ASSERT_EQUAL(int_at(&f, made, SNAPTRAIL_AGENTS, "b", "n"), 2);
			CU_ASSERT_FALSE(is_there(&f, old));
			CU_ASSERT_EQUAL(snaptrail_resolve(f.st, "orders", "tag:chosen", &p), 0);
			if (k < 2)
				reopen(&f);
		}
		end(&f);
		snaptrail_state_free(s);
	}
}

/* What a deletion needs cannot be read: the snapshots of the batch are undone too. */
static void a_batch_whose_deletion_fails_was_never_there(void)
{
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	char old[17], on_it[17], made[17], path[512];
	const char *ids[] = { old };

	begin(&f, "disk");
	for (int i = 0; i < 200; i++) {
		char key[16];

		snprintf(key, sizeof key, "agent-%d", i);
		set(s, SNAPTRAIL_AGENTS, key, "n", snaptrail_value_of_int(i));
	}
	CU_ASSERT_STRING_EQUAL(create(&f, s, "full", NULL, old), "ok");
	only_segment(&f, path, sizeof path);
	flip_byte(path, -200);
	set(s, SNAPTRAIL_AGENTS, "agent-7", "n", snaptrail_value_of_int(-7));
	CU_ASSERT_STRING_EQUAL(create(&f, s, "incremental", NULL, on_it), "ok");
	reopen(&f);
	CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
	CU_ASSERT_STRING_EQUAL(create(&f, s, "full", "chosen", made), "ok");
	CU_ASSERT_EQUAL(snaptrail_delete(f.st, ids, 1), 0);
	CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, true), -EBADMSG);
	for (int again = 0; again < 2; again++) {
		CU_ASSERT_TRUE(is_there(&f, old));
		CU_ASSERT_TRUE(is_there(&f, on_it));
		CU_ASSERT_FALSE(is_there(&f, made));
		reopen(&f);
	}
	CU_ASSERT_STRING_EQUAL(create(&f, s, "full", NULL, made), "ok");
	CU_ASSERT_EQUAL(int_at(&f, made, SNAPTRAIL_AGENTS, "agent-7", "n"), -7);
	end(&f);
	snaptrail_state_free(s);
}

/* Nobody sees the session that the first of a batch makes: each made its own. */
static void a_batch_makes_its_session_once(void)
{
	struct fixture f;
	struct snaptrail_session session;
	struct snaptrail_state *s = snaptrail_state_new();
	char id[17];

	begin(&f, "hybrid");
	for (int round = 0; round < 2; round++) {
		CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
		for (int i = 0; i < 5; i++) {
			set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
			CU_ASSERT_EQUAL(snaptrail_create(f.st, i == 2 ? "other" : "s", s, NULL, id), 0);
		}
		CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, round == 1), 0);
	}
	CU_ASSERT_EQUAL(snaptrail_session_at(f.st, 0, &session), 0);
	CU_ASSERT_EQUAL(session.snapshots, 4);
	CU_ASSERT_EQUAL(snaptrail_session_at(f.st, 1, &session), 0);
	CU_ASSERT_EQUAL(session.snapshots, 1);
	CU_ASSERT_EQUAL(snaptrail_session_at(f.st, 2, &session), -ENOENT);
	snaptrail_state_free(s);
	end(&f);
}

/* The state's next one stood on what had never come to be. */
static void what_a_batch_gave_up_is_stood_on_by_none(void)
{
	struct fixture f;
	struct snaptrail_state *s = snaptrail_state_new();
	char id[17];

	begin(&f, "hybrid");
	set(s, SNAPTRAIL_MEMORY, "a", "value", snaptrail_value_of_int(1));
	CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
	CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
	set(s, SNAPTRAIL_MEMORY, "b", "value", snaptrail_value_of_int(2));
	CU_ASSERT_STRING_EQUAL(create(&f, s, "incremental", NULL, id), "ok");
	CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, false), 0);
	set(s, SNAPTRAIL_MEMORY, "c", "value", snaptrail_value_of_int(3));
	CU_ASSERT_STRING_EQUAL(create(&f, s, "incremental", NULL, id), "ok");
	reopen(&f);
	CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "a", "value"), 1);
	CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "b", "value"), 2);
	CU_ASSERT_EQUAL(int_at(&f, id, SNAPTRAIL_MEMORY, "c", "value"), 3);
	snaptrail_state_free(s);
	end(&f);
}

struct hearing {
	struct fixture *f;
	bool ends;
	int told;
};

static void begin_a_batch(void *arg, const struct snaptrail_notification *n)
{
	struct hearing *h = arg;

	(void)n;
	if (h->told++ > 0)
		return;
	CU_ASSERT_EQUAL(snaptrail_batch_begin(h->f->st), 0);
	if (h->ends)
		CU_ASSERT_EQUAL(snaptrail_batch_end(h->f->st, false), 0);
}

/* What was still to be told was noted for the new batch: told never, or again and
 * again when that went on. */
static void a_listener_may_begin_a_batch(void)
{
	for (int ends = 1; ends >= 0; ends--) {
		struct fixture f;
		struct hearing h = { .f = &f, .ends = ends };
		struct snaptrail_state *s = snaptrail_state_new();
		char id[17];

		begin(&f, "hybrid");
		snaptrail_on(f.st, NULL, begin_a_batch, &h);
		CU_ASSERT_EQUAL(snaptrail_batch_begin(f.st), 0);
		for (int i = 0; i < 3; i++) {
			set(s, SNAPTRAIL_MEMORY, "k", "value", snaptrail_value_of_int(i));
			CU_ASSERT_STRING_EQUAL(create(&f, s, NULL, NULL, id), "ok");
		}
		CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, true), 0);
		CU_ASSERT_EQUAL(h.told, 3);
		if (!ends)
			CU_ASSERT_EQUAL(snaptrail_batch_end(f.st, false), 0);
		CU_ASSERT_EQUAL(h.told, 3);
		end(&f);
		snaptrail_state_free(s);
	}
}

void suite_api(void)
{
	CU_pSuite s = CU_add_suite("api", NULL, NULL);

	TEST(s, a_snapshot_is_of_the_state_then);
	TEST(s, the_type_that_is_asked_for_is_made);
	TEST(s, states_of_equal_times_keep_their_order);
	TEST(s, snapshots_for_later_are_read_at_once);
	TEST(s, a_store_in_memory_leaves_nothing);
	TEST(s, compared_by_what_was_touched_and_by_all_is_the_same);
	TEST(s, when_something_became_true_is_found);
	TEST(s, events_are_told);
	TEST(s, threads_share_a_handle);
	TEST(s, protobuf_goes_there_and_back);
	TEST(s, a_batch_makes_its_session_once);
	TEST(s, a_batch_creates_tags_and_deletes);
	TEST(s, a_batch_whose_deletion_fails_was_never_there);
	TEST(s, what_a_batch_gave_up_is_stood_on_by_none);
	TEST(s, a_listener_may_begin_a_batch);
	TEST(s, a_session_has_its_name_as_long_as_anything_of_it);
	TEST(s, what_the_limits_take_is_told_as_deleted);
	TEST(s, two_that_prune_at_once_both_succeed);
	TEST(s, a_number_is_read_as_what_it_is);
}
