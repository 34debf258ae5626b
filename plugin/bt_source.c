/* source.snaptrail.store: a session as a stream of events; see bt_ours.h.
 *
 * Replaying pushes and a message iterator is asked, so the replay is a thread of
 * its own with a bounded queue between; the store is that thread's alone. */
#include <errno.h>
#include <nettle/base64.h>
#include <pthread.h>
#include <sys/socket.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/timefmt.h"
#include "bt_ours.h"
#include "bt_params.h"
#include "bt_plugin.h"
#include "engine/clock.h"
#include "engine/handed.h"
#include "engine/prepare.h"
#include "engine/replay.h"
#include "model/json.h"

/* ---- event classes ---- */

enum column {
	COL_NAME, COL_VALUE, COL_NUMBER, COL_REAL, COL_FD, COL_FD2, COL_FLAGS, COL_PPID, COL_ERROR, COL_ADDRESS, COL_ARGS,
	COL_READ, COL_WRITTEN, COL_CALLS, COL_TABLE, COL_ENTITY, COLS,
};
enum column_type { TYPE_TEXT, TYPE_INT, TYPE_UINT, TYPE_REAL };

static const struct { const char *name; enum column_type type; } columns[COLS] = {
	[COL_NAME] = { "name", TYPE_TEXT }, [COL_VALUE] = { "value", TYPE_TEXT }, [COL_NUMBER] = { "number", TYPE_INT },
	[COL_REAL] = { "real", TYPE_REAL }, [COL_FD] = { "fd", TYPE_INT }, [COL_FD2] = { "fd2", TYPE_INT },
	[COL_FLAGS] = { "flags", TYPE_UINT }, [COL_PPID] = { "ppid", TYPE_UINT }, [COL_ERROR] = { "error", TYPE_INT },
	[COL_ADDRESS] = { "family", TYPE_UINT }, [COL_ARGS] = { "command", TYPE_TEXT }, [COL_READ] = { "bytes_read", TYPE_UINT },
	[COL_WRITTEN] = { "bytes_written", TYPE_UINT }, [COL_CALLS] = { "calls", TYPE_UINT }, [COL_TABLE] = { "table", TYPE_TEXT },
	[COL_ENTITY] = { "entity", TYPE_TEXT },
};

#define C(name) (1u << COL_##name)
static const uint32_t kind_columns[KIND_COUNT] = {
	[PROCESS_BEGAN] = C(NAME) | C(PPID) | C(ARGS), [PROCESS_FORKED] = C(PPID), [PROCESS_SPAWNED] = C(NAME) | C(VALUE),
	[PROCESS_EXITING] = C(NUMBER) | C(VALUE), [PROCESS_ENDED] = C(NUMBER), [EXEC_CALLED] = C(NAME), [EXEC_FAILED] = C(ERROR),
	[PROCESS_SEEN] = C(NAME) | C(PPID), [PROCESS_UNINJECTED] = C(NAME) | C(VALUE), [THREAD_BEGAN] = C(VALUE), [THREAD_ENDED] = 0,
	[THREAD_NAMED] = C(NAME), [NOTIFY] = C(VALUE), [LOG] = C(NUMBER) | C(NAME) | C(VALUE), [TITLE] = C(VALUE),
	[ENV_SET] = C(NAME) | C(VALUE), [ENV_UNSET] = C(NAME), [CWD] = C(NAME), [FD_OPENED] = C(FD) | C(NAME) | C(FLAGS),
	[FD_CLOSED] = C(FD) | C(READ) | C(WRITTEN) | C(CALLS), [FD_RANGE_CLOSED] = C(FD) | C(FD2) | C(FLAGS),
	[FD_DUPED] = C(FD) | C(FD2) | C(FLAGS), [FD_FLAGS] = C(FD) | C(FLAGS), [FD_PAIR] = C(FD) | C(FD2) | C(FLAGS),
	[FD_GAUGE] = C(FD) | C(READ) | C(WRITTEN) | C(CALLS), [FD_FAILED] = C(FD) | C(ERROR), [RENAMED] = C(NAME) | C(VALUE),
	[UNLINKED] = C(NAME), [SOCKET_BOUND] = C(FD) | C(ADDRESS), [SOCKET_LISTENING] = C(FD) | C(NUMBER),
	[SOCKET_CONNECTED] = C(FD) | C(ADDRESS) | C(ERROR), [SOCKET_ACCEPTED] = C(FD) | C(FD2) | C(ADDRESS),
	[SOCKET_SHUT] = C(FD) | C(NUMBER), [ENTITY_SET] = C(TABLE) | C(NAME) | C(ENTITY), [ENTITY_PATCHED] = C(TABLE) | C(NAME) | C(ENTITY),
	[ENTITY_DELETED] = C(TABLE) | C(NAME), [METRIC] = C(NAME) | C(REAL), [MESSAGE] = C(NAME) | C(ENTITY), [MARK] = C(NAME) | C(ENTITY),
	[SNAPSHOT_WANTED] = C(ENTITY), [FIELD_DROPPED] = C(TABLE) | C(NAME) | C(VALUE), [STACK] = 0, [MODULE] = C(NAME) | C(VALUE),
};

/* ---- the queue ---- */

struct item {
	uint32_t kind;                   /* of a Change, or OURS_... */
	uint64_t time_ns, lane, offset;
	uint32_t pid, tid;
	uint64_t seq;                    /* among those of one time */
	uint64_t from_ns, to_ns, number; /* of a gap; of a piece of state the bytes that are left */
	struct buf bytes, text;          /* the Change, the piece; what else there is to say */
};

#define QUEUE 4096u

struct source {
	bt_self_component *component;
	struct config *config;
	char *session;
	uint64_t from_ns, to_ns;
};

struct iterator {
	struct source *source;
	struct store *store;
	struct session_meta session;
	const bt_stream *stream;
	bt_stream_class *stream_class;
	bt_event_class *classes[OURS_KINDS];
	pthread_t thread;
	bool running;
	/* between the two threads */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct item *queue;
	size_t head, count;
	bool stop, done;
	int result;
	char error[256];
	/* the replay's own */
	bool any;
	struct item *late;               /* a heap: what an earlier one may still come before */
	size_t nlate, late_cap;
	uint64_t seq, put_ns;            /* of the last one that was put */
	size_t next_snapshot, next_gap, ngaps;
	struct gap_meta *gaps;
	/* the asking thread's own */
	enum { AT_BEGINNING, AT_EVENTS, AT_END } at;
	struct buf room;
};

/* False: nobody wants more. */
static bool enqueue(struct iterator *it, struct item *item)
{
	bool go;

	pthread_mutex_lock(&it->lock);
	while (it->count == QUEUE && !it->stop)
		pthread_cond_wait(&it->changed, &it->lock);
	go = !it->stop;
	if (go) {
		it->queue[(it->head + it->count++) % QUEUE] = *item;
		if (it->count == 1 || it->count == QUEUE / 2)
			pthread_cond_signal(&it->changed);
	}
	pthread_mutex_unlock(&it->lock);
	if (!go) {
		buf_done(&item->bytes);
		buf_done(&item->text);
	}
	return go;
}

/* ---- the replay ---- */

static bool put_snapshot(struct iterator *it, const struct snapshot_meta *m)
{
	struct item item = { .kind = OURS_SNAPSHOT, .time_ns = m->time_ns };

	buf_put(&item.bytes, m->id, strlen(m->id) + 1);
	for (const char *const *t = m->tags; t && *t; t++)
		buf_printf(&item.bytes, "%s%s", t == m->tags ? "" : ",", *t);
	buf_byte(&item.bytes, 0);
	buf_str(&item.text, m->description ? m->description : "");
	return enqueue(it, &item);
}

static bool put_gap(struct iterator *it, const struct gap_meta *g)
{
	struct item item = { .kind = OURS_GAP, .time_ns = g->from_ns, .from_ns = g->from_ns, .to_ns = g->to_ns, .number = g->lost };

	buf_str(&item.text, g->cause);
	return enqueue(it, &item);
}

/* What stands before a time: snapshots at their instant, behind all that it holds. */
static bool put_before(struct iterator *it, uint64_t time_ns)
{
	uint64_t from_ns = it->source->from_ns;
	struct snapshot_meta m;

	for (;;) {
		bool snapshot = store_snapshot_at(it->store, it->session.id, it->next_snapshot, &m) == 0 && m.time_ns < time_ns;
		bool gap = it->next_gap < it->ngaps && it->gaps[it->next_gap].from_ns < time_ns;

		if (gap && (!snapshot || it->gaps[it->next_gap].from_ns <= m.time_ns)) {
			const struct gap_meta *g = &it->gaps[it->next_gap++];

			if (g->from_ns >= from_ns && !put_gap(it, g))
				return false;
		} else if (snapshot) {
			it->next_snapshot++;
			if (m.time_ns >= from_ns && !m.handed_in && !put_snapshot(it, &m))
				return false;
		} else {
			return true;
		}
	}
}

static bool is_empty(const struct model *m)
{
	for (int t = 1; t < TABLE_COUNT; t++)
		if (model_count(m, (enum table)t))
			return false;
	return true;
}

static bool put_state(struct iterator *it, uint32_t kind, struct model *m, uint64_t time_ns)
{
	_cleanup_buf_ struct buf state = BUF_INIT;

	model_save(m, time_ns, &state);
	for (size_t at = 0; at < state.len;) {
		size_t n = state.len - at < OURS_STATE_BYTES ? state.len - at : OURS_STATE_BYTES;
		struct item item = { .kind = kind, .time_ns = time_ns, .number = state.len - at - n };

		buf_put(&item.bytes, state.data + at, n);
		at += n;
		if (!enqueue(it, &item))
			return false;
	}
	return true;
}

static bool put_session(struct iterator *it, uint64_t time_ns)
{
	struct item item = { .kind = OURS_SESSION, .time_ns = time_ns };

	buf_put(&item.bytes, it->session.name, strlen(it->session.name) + 1);
	buf_str(&item.text, it->session.command);
	return enqueue(it, &item);
}

static bool begin(struct iterator *it, struct model *before, uint64_t before_ns, uint64_t first_ns)
{
	uint64_t from_ns = it->source->from_ns, began_ns = it->session.started_ns;

	it->any = true;
	it->put_ns = !is_empty(before) ? before_ns : from_ns > began_ns ? from_ns : began_ns < first_ns ? began_ns : first_ns;
	/* What was there before the first Change. */
	return put_session(it, it->put_ns) && (is_empty(before) || put_state(it, OURS_STATE, before, it->put_ns));
}

/* ---- order ----
 *
 * What was found out afterwards is stored with what was found out with it, up to
 * two seconds behind its time (see play_stored()).  A trace is in order, so Changes
 * wait that long for others to come before them. */
#define LATE_NS 2000000000u

static bool comes_before(const struct item *a, const struct item *b)
{
	return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->seq < b->seq;
}

static void late_add(struct iterator *it, const struct item *item)
{
	size_t i = it->nlate++;

	if (it->nlate > it->late_cap) {
		it->late_cap = it->late_cap ? it->late_cap * 2 : 1024;
		it->late = xrealloc(it->late, it->late_cap * sizeof *it->late);
	}
	for (; i && comes_before(item, &it->late[(i - 1) / 2]); i = (i - 1) / 2)
		it->late[i] = it->late[(i - 1) / 2];
	it->late[i] = *item;
}

static struct item late_take(struct iterator *it)
{
	struct item first = it->late[0], last = it->late[--it->nlate];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < it->nlate) {
		if (child + 1 < it->nlate && comes_before(&it->late[child + 1], &it->late[child]))
			child++;
		if (!comes_before(&it->late[child], &last))
			break;
		it->late[i] = it->late[child];
		i = child;
	}
	it->late[i] = last;
	return first;
}

static bool put_until(struct iterator *it, uint64_t time_ns)
{
	while (it->nlate && it->late[0].time_ns <= time_ns) {
		struct item item = late_take(it);

		if (item.time_ns < it->put_ns) /* later than anything should be */
			item.time_ns = it->put_ns;
		it->put_ns = item.time_ns;
		if (!put_before(it, item.time_ns) || !enqueue(it, &item))
			return false;
	}
	return true;
}

static bool on_fact(void *arg, const struct replay_fact *f)
{
	struct iterator *it = arg;
	struct item item = { .time_ns = f->time_ns, .lane = f->lane, .offset = f->offset, .pid = f->pid, .tid = f->tid };
	struct change c;

	if (!it->any && !begin(it, f->before, f->before_ns, f->time_ns))
		return false;
	item.kind = change_read(&c, f->p, f->n) && c.kind < KIND_COUNT ? c.kind : 0;
	item.seq = it->seq++;
	buf_put(&item.bytes, f->p, f->n);
	late_add(it, &item);
	return f->time_ns < LATE_NS || put_until(it, f->time_ns - LATE_NS);
}

static int by_from(const void *a, const void *b)
{
	const struct gap_meta *x = a, *y = b;

	return x->from_ns < y->from_ns ? -1 : x->from_ns > y->from_ns;
}

static void find_gaps(struct iterator *it)
{
	struct gap_meta g;

	for (size_t i = 0; store_gap_at(it->store, i, &g) == 0; i++)
		if (strcmp(g.session_id, it->session.id) == 0) {
			it->gaps = xrealloc(it->gaps, (it->ngaps + 1) * sizeof *it->gaps);
			it->gaps[it->ngaps++] = g;
		}
	if (it->ngaps)
		qsort(it->gaps, it->ngaps, sizeof *it->gaps, by_from);
}

/* ---- states that were handed in ---- */

static bool put_changes(struct iterator *it, uint64_t time_ns, const struct buf *journal)
{
	struct wire w;
	size_t pos = 0;

	while (wire_next(journal->data, journal->len, &pos, &w) > 0) {
		struct item item = { .time_ns = time_ns, .offset = it->seq++ };
		struct change c;

		if (w.field != RUN_CHANGES || w.type != 2)
			continue;
		item.kind = change_read(&c, w.b.p, w.b.n) && c.kind < KIND_COUNT ? c.kind : 0;
		buf_put(&item.bytes, w.b.p, w.b.n);
		if (!enqueue(it, &item))
			return false;
	}
	return true;
}

static bool put_layout(struct iterator *it, uint64_t time_ns, struct model *before, struct model *state)
{
	_cleanup_buf_ struct buf was = BUF_INIT;
	struct item item = { .kind = OURS_LAYOUT, .time_ns = time_ns };

	layout_pack(before, 1, &was);
	layout_pack(state, 1, &item.bytes);
	if (was.len != item.bytes.len || memcmp(was.data, item.bytes.data, was.len))
		return enqueue(it, &item);
	buf_done(&item.bytes);
	return true;
}

/* What each changed of the one before it in time. */
static int walk_handed(struct iterator *it)
{
	struct model *before = NULL;
	struct snapshot_meta m;
	bool go = true;
	int r = 0;

	for (size_t i = 0; go && r == 0 && store_snapshot_at(it->store, it->session.id, i, &m) == 0 && m.time_ns <= it->source->to_ns; i++) {
		_cleanup_buf_ struct buf journal = BUF_INIT;
		struct model *state;

		if (!m.handed_in || m.time_ns < it->source->from_ns)
			continue;
		r = handed_state(it->store, &m, &state);
		if (r < 0)
			break;
		if (before) {
			model_differ(before, state, &journal);
			go = put_changes(it, m.time_ns, &journal) && put_layout(it, m.time_ns, before, state);
			model_free(before);
		} else {
			go = put_state(it, OURS_HANDED, state, m.time_ns);
		}
		before = state;
		go = go && put_snapshot(it, &m);
	}
	if (before)
		model_free(before);
	return r;
}

static bool is_handed_in(struct iterator *it)
{
	struct snapshot_meta m;

	return store_snapshot_at(it->store, it->session.id, 0, &m) == 0 && m.handed_in;
}

static void *replay_thread(void *arg)
{
	struct iterator *it = arg;
	struct replay_query q = { .session_id = it->session.id, .from_ns = it->source->from_ns, .until_ns = it->source->to_ns,
				  .each = on_fact, .arg = it, .store_folder = it->session.ended_ns ? NULL : store_path(it->store) };
	struct replay_result r;
	bool handed = is_handed_in(it);
	int e;

	find_gaps(it);
	e = handed ? walk_handed(it) : replay(it->store, &q, &r);
	if (e == 0 && !handed) {
		if ((it->any || begin(it, r.model, r.time_ns ? r.time_ns : it->session.started_ns, UINT64_MAX)) &&
		    put_until(it, UINT64_MAX))
			put_before(it, it->source->to_ns == UINT64_MAX ? UINT64_MAX : it->source->to_ns + 1);
		model_free(r.model);
	}
	pthread_mutex_lock(&it->lock);
	it->done = true;
	it->result = e;
	snprintf(it->error, sizeof it->error, "%s", e < 0 ? err_detail() : "");
	pthread_cond_broadcast(&it->changed);
	pthread_mutex_unlock(&it->lock);
	return NULL;
}

/* ---- classes ---- */

static void add_member(bt_trace_class *tc, bt_field_class *s, const char *name, enum column_type type)
{
	bt_field_class *fc = type == TYPE_TEXT ? bt_field_class_string_create(tc) :
			     type == TYPE_INT ? bt_field_class_integer_signed_create(tc) :
			     type == TYPE_UINT ? bt_field_class_integer_unsigned_create(tc) :
						 bt_field_class_real_double_precision_create(tc);

	if (bt_field_class_structure_append_member(s, name, fc) != BT_FIELD_CLASS_STRUCTURE_APPEND_MEMBER_STATUS_OK)
		abort(); /* of memory alone */
	bt_field_class_put_ref(fc);
}

static void class_make(struct iterator *it, bt_trace_class *tc, uint32_t kind)
{
	static const char *const names[] = { "session", "state", "snapshot", "gap", "handed", "layout" };
	bt_field_class *s = bt_field_class_structure_create(tc);
	char name[64];

	it->classes[kind] = bt_event_class_create(it->stream_class);
	snprintf(name, sizeof name, OURS_PREFIX "%s", kind < KIND_COUNT ? change_kind_name(kind) : names[kind - KIND_COUNT]);
	bt_event_class_set_name(it->classes[kind], name);
	switch (kind) {
	case OURS_SESSION:
		add_member(tc, s, "name", TYPE_TEXT);
		add_member(tc, s, "command", TYPE_TEXT);
		break;
	case OURS_STATE: case OURS_HANDED:
		add_member(tc, s, "left", TYPE_UINT);
		add_member(tc, s, "state", TYPE_TEXT);
		break;
	case OURS_LAYOUT:
		add_member(tc, s, "layout", TYPE_TEXT);
		break;
	case OURS_SNAPSHOT:
		add_member(tc, s, "id", TYPE_TEXT);
		add_member(tc, s, "tags", TYPE_TEXT);
		add_member(tc, s, "description", TYPE_TEXT);
		break;
	case OURS_GAP:
		add_member(tc, s, "from", TYPE_UINT);
		add_member(tc, s, "to", TYPE_UINT);
		add_member(tc, s, "lost", TYPE_UINT);
		add_member(tc, s, "cause", TYPE_TEXT);
		break;
	default:
		add_member(tc, s, "pid", TYPE_UINT);
		add_member(tc, s, "tid", TYPE_UINT);
		for (int c = 0; c < COLS; c++)
			if (kind_columns[kind] & 1u << c)
				add_member(tc, s, columns[c].name, columns[c].type);
		add_member(tc, s, "source", TYPE_TEXT);
		add_member(tc, s, "lane", TYPE_UINT);
		add_member(tc, s, "offset", TYPE_UINT);
		add_member(tc, s, "change", TYPE_TEXT);
		break;
	}
	if (bt_event_class_set_payload_field_class(it->classes[kind], s) != BT_EVENT_CLASS_SET_FIELD_CLASS_STATUS_OK)
		abort();
	bt_field_class_put_ref(s);
}

static void make_stream(struct iterator *it)
{
	bt_self_component *c = it->source->component;
	bt_trace_class *tc = bt_trace_class_create(c);
	bt_clock_class *cc = bt_clock_class_create(c);
	bt_trace *trace = bt_trace_create(tc);

	bt_trace_set_name(trace, it->session.name);
	it->stream_class = bt_stream_class_create(tc);
	bt_stream_class_set_name(it->stream_class, "snaptrail");
	bt_clock_class_set_name(cc, "session");
	bt_clock_class_set_frequency(cc, 1000000000);
	bt_clock_class_set_origin_is_unix_epoch(cc, BT_TRUE);
	bt_stream_class_set_default_clock_class(it->stream_class, cc);
	for (uint32_t kind = 0; kind < OURS_KINDS; kind++)
		if (kind >= KIND_COUNT || kind == 0 || strcmp(change_kind_name(kind), change_kind_name(0)))
			class_make(it, tc, kind);
	it->stream = bt_stream_create(it->stream_class, trace);
	bt_trace_put_ref(trace);
	bt_clock_class_put_ref(cc);
	bt_trace_class_put_ref(tc);
}

/* ---- events ---- */

static bt_field *member(bt_field *payload, const char *name)
{
	return bt_field_structure_borrow_member_field_by_name(payload, name);
}

/* A string of a trace cannot hold a NUL; the Change itself has what was there. */
static void set_text(struct iterator *it, bt_field *payload, const char *name, const void *p, size_t n)
{
	struct buf *b = &it->room;

	buf_reset(b);
	buf_put(b, p, n);
	for (size_t i = 0; i < n; i++)
		if (b->data[i] == 0)
			b->data[i] = ' ';
	bt_field_string_set_value(member(payload, name), buf_cstr(b));
}

static void set_uint(bt_field *payload, const char *name, uint64_t v)
{
	bt_field_integer_unsigned_set_value(member(payload, name), v);
}

static void set_base64(struct iterator *it, bt_field *payload, const char *name, const struct buf *bytes)
{
	struct buf *b = &it->room;

	buf_reset(b);
	base64_encode_raw((char *)buf_room(b, BASE64_ENCODE_RAW_LENGTH(bytes->len) + 1), bytes->len, bytes->data);
	b->len = BASE64_ENCODE_RAW_LENGTH(bytes->len);
	bt_field_string_set_value(member(payload, name), buf_cstr(b));
}

static void set_column(struct iterator *it, bt_field *payload, enum column col, const struct change *c, const struct buf *raw)
{
	_cleanup_buf_ struct buf b = BUF_INIT;
	const char *name = columns[col].name;
	struct bytes item;
	struct value v;
	size_t pos = 0;
	uint64_t rounded = 0;
	sa_family_t family = 0;

	switch (col) {
	case COL_NAME: set_text(it, payload, name, c->name.p, c->name.n); break;
	case COL_VALUE: set_text(it, payload, name, c->value.p, c->value.n); break;
	case COL_NUMBER: bt_field_integer_signed_set_value(member(payload, name), c->number); break;
	case COL_REAL: bt_field_real_double_precision_set_value(member(payload, name), c->real); break;
	case COL_FD: bt_field_integer_signed_set_value(member(payload, name), c->has_fd ? c->fd : -1); break;
	case COL_FD2: bt_field_integer_signed_set_value(member(payload, name), c->has_fd2 ? c->fd2 : -1); break;
	case COL_FLAGS: set_uint(payload, name, c->flags); break;
	case COL_PPID: set_uint(payload, name, c->ppid); break;
	case COL_ERROR: bt_field_integer_signed_set_value(member(payload, name), (int32_t)c->error); break;
	case COL_ADDRESS:
		if (c->address.n >= sizeof family)
			memcpy(&family, c->address.p, sizeof family);
		set_uint(payload, name, family);
		break;
	case COL_ARGS:
		while (change_next_item(raw->data, raw->len, &pos, CHANGE_ARGS, &item)) {
			if (b.len)
				buf_byte(&b, ' ');
			buf_put(&b, item.p, item.n);
		}
		set_text(it, payload, name, b.data, b.len);
		break;
	case COL_READ: set_uint(payload, name, c->bytes_read); break;
	case COL_WRITTEN: set_uint(payload, name, c->bytes_written); break;
	case COL_CALLS: set_uint(payload, name, c->calls); break;
	case COL_TABLE: bt_field_string_set_value(member(payload, name), c->table < TABLE_COUNT ? table_name(c->table) : ""); break;
	case COL_ENTITY:
		if (c->entity.n && value_unpack(&v, c->entity.p, c->entity.n, 0)) {
			json_write(&v, 0, &b, &rounded);
			value_done(&v);
		}
		set_text(it, payload, name, b.data, b.len);
		break;
	default: break;
	}
}

static void fill_change(struct iterator *it, bt_field *payload, const struct item *item)
{
	struct change c = { .kind = 0 };

	if (!change_read(&c, item->bytes.data, item->bytes.len))
		c = (struct change){ .kind = 0 };
	set_uint(payload, "pid", item->pid);
	set_uint(payload, "tid", item->tid);
	for (int col = 0; col < COLS; col++)
		if (kind_columns[item->kind] & 1u << col)
			set_column(it, payload, (enum column)col, &c, &item->bytes);
	bt_field_string_set_value(member(payload, "source"), change_source_name(c.source));
	set_uint(payload, "lane", item->lane);
	set_uint(payload, "offset", item->offset);
	set_base64(it, payload, "change", &item->bytes);
}

static const bt_message *message_of(struct iterator *it, bt_self_message_iterator *self, struct item *item)
{
	bt_message *m;
	bt_field *payload;
	const char *second;

	if (it->classes[item->kind] == NULL)
		item->kind = 0;
	m = bt_message_event_create_with_default_clock_snapshot(self, it->classes[item->kind], it->stream, item->time_ns);
	if (m == NULL)
		return NULL;
	payload = bt_event_borrow_payload_field(bt_message_event_borrow_event(m));
	switch (item->kind) {
	case OURS_SESSION:
		set_text(it, payload, "name", item->bytes.data, item->bytes.len - 1);
		set_text(it, payload, "command", item->text.data, item->text.len);
		break;
	case OURS_STATE: case OURS_HANDED:
		set_uint(payload, "left", item->number);
		set_base64(it, payload, "state", &item->bytes);
		break;
	case OURS_LAYOUT:
		set_base64(it, payload, "layout", &item->bytes);
		break;
	case OURS_SNAPSHOT:
		second = (const char *)item->bytes.data + strlen((const char *)item->bytes.data) + 1;
		bt_field_string_set_value(member(payload, "id"), (const char *)item->bytes.data);
		bt_field_string_set_value(member(payload, "tags"), second);
		set_text(it, payload, "description", item->text.data, item->text.len);
		break;
	case OURS_GAP:
		set_uint(payload, "from", item->from_ns);
		set_uint(payload, "to", item->to_ns);
		set_uint(payload, "lost", item->number);
		set_text(it, payload, "cause", item->text.data, item->text.len);
		break;
	default: fill_change(it, payload, item); break;
	}
	return m;
}

/* ---- the iterator ---- */

static void append_error(bt_self_message_iterator *self, const char *detail)
{
	bt_current_thread_error_append_cause_from_message_iterator(self, __FILE__, __LINE__, "%s", detail);
}

/* One at least, or the end. */
static size_t dequeue(struct iterator *it, struct item *items, size_t cap)
{
	size_t n = 0;

	pthread_mutex_lock(&it->lock);
	while (it->count == 0 && !it->done)
		pthread_cond_wait(&it->changed, &it->lock);
	while (n < cap && it->count) {
		items[n++] = it->queue[it->head];
		it->head = (it->head + 1) % QUEUE;
		it->count--;
	}
	pthread_cond_signal(&it->changed);
	pthread_mutex_unlock(&it->lock);
	return n;
}

bt_message_iterator_class_next_method_status source_next(bt_self_message_iterator *self, bt_message_array_const messages,
							  uint64_t capacity, uint64_t *count)
{
	struct iterator *it = bt_self_message_iterator_get_data(self);
	struct item items[64];
	size_t n;

	*count = 0;
	if (it->at == AT_END)
		return BT_MESSAGE_ITERATOR_CLASS_NEXT_METHOD_STATUS_END;
	if (it->at == AT_BEGINNING) {
		messages[(*count)++] = bt_message_stream_beginning_create(self, it->stream);
		it->at = AT_EVENTS;
		return BT_MESSAGE_ITERATOR_CLASS_NEXT_METHOD_STATUS_OK;
	}
	n = dequeue(it, items, capacity < 64 ? capacity : 64);
	for (size_t i = 0; i < n; i++) {
		const bt_message *m = message_of(it, self, &items[i]);

		buf_done(&items[i].bytes);
		buf_done(&items[i].text);
		if (m)
			messages[(*count)++] = m;
	}
	if (n)
		return BT_MESSAGE_ITERATOR_CLASS_NEXT_METHOD_STATUS_OK;
	if (it->result < 0) {
		append_error(self, it->error);
		return BT_MESSAGE_ITERATOR_CLASS_NEXT_METHOD_STATUS_ERROR;
	}
	messages[(*count)++] = bt_message_stream_end_create(self, it->stream);
	it->at = AT_END;
	return BT_MESSAGE_ITERATOR_CLASS_NEXT_METHOD_STATUS_OK;
}

static int find_session(struct iterator *it)
{
	const char *name = it->source->session;
	struct session_meta m;
	int r = 0;

	if (name) {
		r = store_session_find(it->store, name, &it->session);
		return r < 0 ? fail(-ENOENT, "no session %s", name) : 0;
	}
	r = -ENOENT;
	for (size_t i = 0; store_session_at(it->store, i, &m) == 0; i++)
		if (r < 0 || m.started_ns >= it->session.started_ns) {
			it->session = m;
			r = 0;
		}
	return r < 0 ? fail(r, "the store has no session") : 0;
}

static int iterator_open(struct iterator *it)
{
	struct store_options so;
	int r;

	prepare_store_options(it->source->config, &so);
	r = store_open(it->source->config->path, &so, &it->store);
	if (r == 0)
		r = find_session(it);
	return r;
}

static void iterator_free(struct iterator *it)
{
	if (it->running) {
		pthread_mutex_lock(&it->lock);
		it->stop = true;
		pthread_cond_broadcast(&it->changed);
		pthread_mutex_unlock(&it->lock);
		pthread_join(it->thread, NULL);
	}
	for (; it->count; it->count--, it->head = (it->head + 1) % QUEUE) {
		buf_done(&it->queue[it->head].bytes);
		buf_done(&it->queue[it->head].text);
	}
	for (int i = 0; i < OURS_KINDS; i++)
		if (it->classes[i])
			bt_event_class_put_ref(it->classes[i]);
	if (it->stream)
		bt_stream_put_ref(it->stream);
	if (it->stream_class)
		bt_stream_class_put_ref(it->stream_class);
	if (it->store)
		store_close(it->store);
	pthread_mutex_destroy(&it->lock);
	pthread_cond_destroy(&it->changed);
	while (it->nlate) {
		struct item item = late_take(it);

		buf_done(&item.bytes);
	}
	buf_done(&it->room);
	free(it->late);
	free(it->gaps);
	free(it->queue);
	free(it);
}

bt_message_iterator_class_initialize_method_status source_iterator_initialize(bt_self_message_iterator *self,
									       bt_self_message_iterator_configuration *c,
									       bt_self_component_port_output *port)
{
	struct iterator *it = xcalloc(1, sizeof *it);
	int r;

	(void)c;
	(void)port;
	it->source = bt_self_component_get_data(bt_self_message_iterator_borrow_component(self));
	it->queue = xcalloc(QUEUE, sizeof *it->queue);
	pthread_mutex_init(&it->lock, NULL);
	pthread_cond_init(&it->changed, NULL);
	r = iterator_open(it);
	if (r == 0) {
		make_stream(it);
		r = -pthread_create(&it->thread, NULL, replay_thread, it);
		it->running = r == 0;
		if (r < 0)
			fail(r, "a thread: %s", strerror(-r));
	}
	if (r < 0) {
		append_error(self, err_detail());
		iterator_free(it);
		return BT_MESSAGE_ITERATOR_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
	}
	bt_self_message_iterator_set_data(self, it);
	return BT_MESSAGE_ITERATOR_CLASS_INITIALIZE_METHOD_STATUS_OK;
}

void source_iterator_finalize(bt_self_message_iterator *self) { iterator_free(bt_self_message_iterator_get_data(self)); }

/* ---- the component ---- */

static const char *const allowed[] = { "session", "store", "profile", "config", "from", "to", NULL };

static int parse_times(const struct params *p, struct source *s)
{
	int r = 0;

	s->to_ns = UINT64_MAX;
	if (p->from)
		r = time_parse(p->from, 0, wall_now_ns(), &s->from_ns);
	if (r == 0 && p->to)
		r = time_parse(p->to, 0, wall_now_ns(), &s->to_ns);
	return r;
}

bt_component_class_initialize_method_status source_initialize(bt_self_component_source *self,
							       bt_self_component_source_configuration *c, const bt_value *values,
							       void *data)
{
	struct source *s = xcalloc(1, sizeof *s);
	struct params p;
	int r;

	(void)c;
	(void)data;
	s->component = bt_self_component_source_as_self_component(self);
	r = params_read(values, allowed, &p);
	if (r == 0)
		r = params_config(&p, &s->config);
	if (r == 0)
		r = parse_times(&p, s);
	if (r < 0) {
		bt_current_thread_error_append_cause_from_component(s->component, __FILE__, __LINE__, "%s", err_detail());
		if (s->config)
			config_free(s->config);
		free(s);
		return BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
	}
	s->session = p.session ? xstrdup(p.session) : NULL;
	bt_self_component_set_data(s->component, s);
	return bt_self_component_source_add_output_port(self, "out", NULL, NULL) == BT_SELF_COMPONENT_ADD_PORT_STATUS_OK ?
		BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_OK : BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
}

void source_finalize(bt_self_component_source *self)
{
	struct source *s = bt_self_component_get_data(bt_self_component_source_as_self_component(self));

	config_free(s->config);
	free(s->session);
	free(s);
}
