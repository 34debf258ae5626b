/* Handed-in snapshots; see handed.h.  Called by the API and by importers. */
#include "engine/handed.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "engine/clock.h"

/* What reading one more snapshot costs beside its bytes, as bytes of a full one
 * (5 us at 400 MB/s, measured), and how much of that is never too much. */
#define LINK_BYTES 2048u
#define LINKS_FREE_BYTES (1u << 20)
#define CHAIN_MAX 100000u /* longer ones are a loop, so damage */

void handed_snapshot_done(struct handed_snapshot *h) { buf_done(&h->payload); }

/* ---- sessions ---- */

static int bad_name(const char *name)
{
	size_t n = strlen(name);

	if (n >= 1 && n <= 255 && strchr(name, '/') == NULL && strcmp(name, "live") && strcmp(name, "latest") &&
	    strcmp(name, "first"))
		return 0;
	return fail(-EINVAL,
		    "\"%.60s\": a session's name has 1 to 255 bytes, no '/', and is "
		    "not live, latest or first",
		    name);
}

/* It begins and ends at once: nobody is at work on it between two snapshots. */
static int session_note(struct store *st, struct session_meta *m)
{
	int r = store_session_begin(st, m);

	m->ended_ns = m->started_ns;
	return r < 0 ? r : store_session_end(st, m);
}

int handed_session(struct store *st, const char *name, uint64_t time_ns, struct session_meta *ret)
{
	struct session_meta m = { .name = name, .command = "", .profile = "", .boot_id = "", .note = "", .exit_status = -1 };
	int r = bad_name(name);

	if (r < 0)
		return r;
	if (store_session_find(st, name, ret) == 0) {
		if (ret->started_ns <= time_ns || ret->command[0])
			return 0;
		m = *ret; /* something older than what was there */
	} else {
		store_new_id(m.id);
	}
	m.started_ns = time_ns;
	r = session_note(st, &m);
	if (r == 0 && store_session_find(st, name, ret) < 0)
		*ret = m; /* in a batch nobody sees it yet */
	return r;
}

int handed_floor(struct store *st, const char *session_id, uint64_t time_ns, struct snapshot_meta *ret)
{
	size_t i;

	if (store_snapshot_floor(st, session_id, time_ns, &i) < 0)
		return -ENOENT;
	do {
		if (store_snapshot_at(st, session_id, i, ret) == 0 && ret->handed_in)
			return 0;
	} while (i--);
	return -ENOENT;
}

/* ---- giving back ---- */

/* One payload onto the model, which takes the bytes when it points into them.
 */
static const uint8_t *loaded(void *loading, const uint8_t *end)
{
	struct store_loading *l = loading;

	return l->payload.data + store_loaded(l, (uint64_t)(end - l->payload.data));
}

static bool apply_payload(struct model *m, uint64_t time_ns, struct store_loading *l)
{
	struct model_source source = { .upto = loaded, .arg = l };
	struct buf *payload = &l->payload;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = model_source_next(&source, payload->data, payload->len, &pos, &w)) > 0) {
		bool good = true;

		if (w.field == 15 && w.type == 2)
			good = model_load_from(m, w.b.p, w.b.n, &source);
		else if (!model_source_has(&source, payload->data + pos))
			good = false;
		else if (w.field == 1 && w.type == 2)
			good = model_patch_later(m, time_ns, w.b.p, w.b.n);
		else if (w.field == 8 && w.type == 2)
			good = layout_unpack(m, w.b.p, w.b.n);
		if (!good) {
			r = -1;
			break;
		}
	}
	if (store_load_end(l) < 0)
		r = -1;
	model_keep(m, payload);
	return r == 0;
}

struct chain {
	struct snapshot_meta *m;
	size_t n;
};

/* From the snapshot back to the full one that it stands on. */
static int chain_find(struct store *st, const struct snapshot_meta *m, struct chain *c)
{
	struct snapshot_meta at = *m;

	*c = (struct chain){ 0 };
	for (;;) {
		int r;

		if ((c->n & (c->n - 1)) == 0)
			c->m = xrealloc(c->m, (c->n ? c->n * 2 : 1) * sizeof *c->m);
		c->m[c->n++] = at;
		if (at.type == SNAPSHOT_FULL || at.base_id[0] == 0)
			return 0;
		r = c->n > CHAIN_MAX ? -ELOOP : store_base_find(st, at.base_id, &at);
		if (r < 0) {
			fail(-EBADMSG, "snapshot %s stands on %s, which is not there", m->id, c->m[c->n - 1].base_id);
			free(c->m);
			return -EBADMSG;
		}
	}
}

int handed_state(struct store *st, const struct snapshot_meta *m, struct model **ret)
{
	struct chain c;
	int r = chain_find(st, m, &c);

	if (r < 0)
		return r;
	*ret = model_new_handed();
	while (r == 0 && c.n--) {
		struct store_loading payload;

		r = store_load_begin(st, &c.m[c.n], &payload);
		if (r == 0 && !apply_payload(*ret, c.m[c.n].time_ns, &payload))
			r = fail(-EBADMSG, "snapshot %s: its payload is damaged", c.m[c.n].id);
	}
	free(c.m);
	if (r < 0)
		model_free(*ret);
	return r;
}

/* ---- one after the other ---- */

struct stepping {
	const struct replay_query *q;
	struct replay_result *ret;
	uint64_t seq;
	bool observing;
	char at[STORE_ID_LEN + 1]; /* the snapshot whose state the model is */
};

static bool step_run(struct stepping *t, uint64_t time_ns, const uint8_t *p, size_t n)
{
	struct wire w;
	size_t pos = 0;
	int r;

	if (!t->observing && time_ns >= t->q->from_ns) {
		t->observing = true;
		model_observe(t->ret->model, t->q->observe, t->q->arg);
	}
	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		struct change c;

		if (w.field != RUN_CHANGES || w.type != 2)
			continue;
		t->ret->seq = ++t->seq;
		if (t->observing && t->q->tick && change_read(&c, w.b.p, w.b.n))
			t->q->tick(t->q->arg, time_ns, t->seq, &c);
		if (!model_patch(t->ret->model, time_ns, w.b.p, w.b.n))
			return false;
	}
	return r == 0;
}

/* An incremental of the very state that the model is. */
static int step_on(struct store *st, struct stepping *t, const struct snapshot_meta *m)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct wire w;
	size_t pos = 0;
	int r = store_load(st, m, &payload);

	while (r == 0 && (r = wire_next(payload.data, payload.len, &pos, &w)) > 0) {
		bool good = true;

		if (w.field == 1 && w.type == 2)
			good = step_run(t, m->time_ns, w.b.p, w.b.n);
		else if (w.field == 8 && w.type == 2)
			good = layout_unpack(t->ret->model, w.b.p, w.b.n);
		r = good ? 0 : -EBADMSG;
	}
	return r;
}

static int step_to(struct store *st, struct stepping *t, const struct snapshot_meta *m)
{
	_cleanup_buf_ struct buf journal = BUF_INIT, layout = BUF_INIT;
	struct model *next;
	struct wire w;
	size_t pos = 0;
	int r = handed_state(st, m, &next);

	if (r < 0)
		return r;
	model_differ(t->ret->model, next, &journal);
	layout_pack(next, 1, &layout);
	model_free(next);
	if (!step_run(t, m->time_ns, journal.data, journal.len) || wire_next(layout.data, layout.len, &pos, &w) <= 0 ||
	    !layout_unpack(t->ret->model, w.b.p, w.b.n))
		return -EBADMSG;
	return 0;
}

static int step(struct store *st, struct stepping *t, const struct snapshot_meta *m)
{
	bool on = m->type == SNAPSHOT_INCREMENTAL && strcmp(m->base_id, t->at) == 0;
	int r = on ? step_on(st, t, m) : step_to(st, t, m);

	memcpy(t->at, m->id, sizeof t->at);
	t->ret->time_ns = m->time_ns;
	return r == -EBADMSG && *err_detail() == 0 ? fail(r, "snapshot %s: its payload is damaged", m->id) : r;
}

int handed_replay(struct store *st, const struct replay_query *q, struct replay_result *ret)
{
	struct stepping t = { .q = q, .ret = ret };
	struct snapshot_meta m;
	int r = 0;

	*ret = (struct replay_result){ 0 };
	if (!q->observe) {
		r = handed_floor(st, q->session_id, q->until_ns, &m);
		if (r < 0)
			return fail(-ENODATA, "the session begins later than that");
		ret->time_ns = m.time_ns;
		return handed_state(st, &m, &ret->model);
	}
	ret->model = model_new_handed();
	for (size_t i = 0; r == 0 && store_snapshot_at(st, q->session_id, i, &m) == 0 && m.time_ns <= q->until_ns; i++)
		if (m.handed_in)
			r = step(st, &t, &m);
	model_observe(ret->model, NULL, NULL);
	if (r < 0)
		model_free(ret->model);
	return r;
}

/* ---- handing in ---- */

static void put_times(const struct snapshot_meta *m, struct buf *out)
{
	size_t mark = pack_begin(out, 2);

	pack_fixed64(out, 2, m->time_ns); /* its ticks are nothing: 0 is not written */
	pack_end(out, mark);
	pack_fixed64(out, 4, m->since_ns);
	pack_fixed64(out, 5, m->time_ns);
}

static void put_full(struct handed_snapshot *h, struct model *state)
{
	size_t mark;

	put_times(&h->m, &h->payload);
	buf_room(&h->payload, model_size(state) + 4096);
	mark = pack_begin_large(&h->payload, 15);
	model_save(state, h->m.time_ns, &h->payload);
	pack_end_large(&h->payload, mark);
	h->m.type = SNAPSHOT_FULL;
}

/* The journal becomes the payload: not a byte of it is copied. */
static void put_incremental(struct handed_snapshot *h, const struct model *state, bool with_layout, struct buf *changes)
{
	size_t n = changes->len - JOURNAL_HEAD;

	changes->data[0] = 1 << 3 | 2;
	for (unsigned i = 1; i < JOURNAL_HEAD; i++, n >>= 7)
		changes->data[i] = (uint8_t)((n & 0x7f) | (i + 1 < JOURNAL_HEAD ? 0x80 : 0));
	buf_done(&h->payload);
	h->payload = *changes;
	*changes = (struct buf)BUF_INIT;
	put_times(&h->m, &h->payload);
	if (with_layout)
		layout_pack(state, 8, &h->payload);
	h->m.type = SNAPSHOT_INCREMENTAL;
}

/* Worth a full one: reading the chain would cost more than twice the state. */
static bool chain_is_long(const struct handed_base *base, size_t more, const struct handed_options *o, uint64_t time_ns)
{
	uint64_t links = (base->links + 1) * LINK_BYTES;

	return base->grown_bytes + more > base->full_bytes || (links > base->full_bytes && links > LINKS_FREE_BYTES) ||
	       (o->full_every_ns && time_ns > base->full_ns && time_ns - base->full_ns > o->full_every_ns);
}

/* How the state differs from that of the snapshot, NULL: from none. */
static int differ_from(struct store *st, const char *base_id, struct model *state, struct buf *ret, uint64_t *ret_n, bool *ret_layout)
{
	_cleanup_buf_ struct buf was = BUF_INIT, is = BUF_INIT;
	struct snapshot_meta base;
	struct model *last;
	int r = 0;

	if (base_id) {
		r = store_snapshot_find(st, base_id, &base, NULL);
		if (r == 0)
			r = handed_state(st, &base, &last);
		if (r != 0)
			return r;
	} else {
		last = model_new_handed();
	}
	buf_put(ret, "\0\0\0\0\0", JOURNAL_HEAD);
	*ret_n = model_differ(last, state, ret);
	layout_pack(last, 8, &was);
	layout_pack(state, 8, &is);
	*ret_layout = was.len != is.len || memcmp(was.data, is.data, is.len);
	model_free(last);
	return 0;
}

static int base_of(struct store *st, const struct snapshot_meta *m, struct handed_base *ret)
{
	struct chain c;
	int r = chain_find(st, m, &c);

	if (r < 0)
		return r;
	*ret = (struct handed_base){ .time_ns = m->time_ns,
				     .full_ns = c.m[c.n - 1].time_ns,
				     .full_bytes = c.m[c.n - 1].size_bytes };
	memcpy(ret->id, m->id, sizeof ret->id);
	for (size_t i = 0; i + 1 < c.n; i++)
		ret->grown_bytes += c.m[i].size_bytes;
	ret->links = c.n - 1;
	free(c.m);
	return 0;
}

static int find_base(struct store *st, const char *session_id, const struct handed_options *o, struct handed_base *ret)
{
	struct snapshot_meta m;

	if (o->base) {
		*ret = *o->base;
		return 0;
	}
	return handed_floor(st, session_id, UINT64_MAX, &m) < 0 ? -ENOENT : base_of(st, &m, ret);
}

static int prepare_incremental(struct store *st, const char *session_id, struct model *state, const struct handed_options *o,
			       struct handed_snapshot *h, bool *ret_done)
{
	_cleanup_buf_ struct buf changes = BUF_INIT;
	struct handed_base base = { 0 };
	bool have = find_base(st, session_id, o, &base) == 0, layout = model_layout_changed(state);
	uint64_t n = 0;
	const struct buf *journal = o->base ? model_journal(state, &n) : NULL;
	size_t bytes = journal ? journal->len : 0;
	int r = 0;

	*ret_done = false;
	if (o->type == 0 && (!have || o->whole || base.time_ns > h->m.time_ns || chain_is_long(&base, bytes, o, h->m.time_ns)))
		return 0;
	if (journal == NULL)
		r = differ_from(st, have ? base.id : NULL, state, &changes, &n, &layout);
	if (r == -EBADMSG && o->type == 0)
		return 0; /* what is damaged is not built on */
	if (r < 0)
		return r;
	if (o->type == 0 && (journal ? bytes : changes.len) > model_size(state) / 2)
		return 0;
	if (journal)
		model_journal_take(state, &changes);
	h->m.changes = n;
	memcpy(h->m.base_id, base.id, sizeof h->m.base_id);
	if (have && base.time_ns < h->m.time_ns)
		h->m.since_ns = base.time_ns;
	put_incremental(h, state, layout, &changes);
	h->after = base;
	h->after.grown_bytes += h->payload.len;
	h->after.links++;
	*ret_done = true;
	return 0;
}

int handed_prepare(struct store *st, const char *session_id, struct model *state, const struct handed_options *o,
		   struct handed_snapshot *ret)
{
	uint64_t begun = mono_now_ns();
	bool done = false;
	int r = 0;

	*ret = (struct handed_snapshot){ .m = {
						 .origin = o->origin ? o->origin : ORIGIN_MANUAL,
						 .time_ns = o->time_ns ? o->time_ns : wall_now_ns(),
						 .agents = model_count(state, TABLE_AGENTS),
						 .tasks = model_count(state, TABLE_TASKS),
						 .memory = model_count(state, TABLE_MEMORY),
						 .handed_in = true,
						 .foreign_id = o->foreign_id ? o->foreign_id : "",
						 .description = o->description ? o->description : "",
						 .tags = o->tags,
					 } };
	memcpy(ret->m.session_id, session_id, sizeof ret->m.session_id);
	if (o->id && o->id[0])
		snprintf(ret->m.id, sizeof ret->m.id, "%s", o->id);
	else
		store_new_id(ret->m.id);
	ret->m.since_ns = ret->m.time_ns;
	if (o->type != SNAPSHOT_FULL)
		r = prepare_incremental(st, session_id, state, o, ret, &done);
	if (r == 0 && !done) {
		ret->m.changes = 0;
		put_full(ret, state);
		ret->after = (struct handed_base){ .full_ns = ret->m.time_ns, .full_bytes = ret->payload.len };
	}
	memcpy(ret->after.id, ret->m.id, sizeof ret->after.id);
	ret->after.time_ns = ret->m.time_ns;
	ret->m.creation_ns = mono_now_ns() - begun;
	if (r < 0)
		handed_snapshot_done(ret);
	return r;
}

int handed_append(struct store *st, const char *session, struct model *state, const struct handed_options *given,
		  struct snapshot_meta *ret)
{
	struct handed_options o = *given;
	struct handed_snapshot h;
	struct session_meta s;
	int r;

	if (o.time_ns == 0)
		o.time_ns = wall_now_ns();
	r = handed_session(st, session, o.time_ns, &s);
	if (r == 0)
		r = handed_prepare(st, s.id, state, &o, &h);
	if (r != 0)
		return r;
	r = store_append(st, &h.m, h.payload.data, h.payload.len, 0);
	*ret = h.m;
	handed_snapshot_done(&h);
	return r;
}

/* What live readers and salvage go by: the stage that it came from, and its clock. */
static int keep_origin(struct store *st, const struct snapshot_meta *m, struct buf *out)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct wire w;
	size_t pos = 0, from = 0;
	int r = store_load(st, m, &payload);

	for (; r == 0 && wire_next(payload.data, payload.len, &pos, &w) > 0; from = pos)
		if (w.field == 6 || w.field == 7)
			buf_put(out, payload.data + from, pos - from);
	return r;
}

int handed_full(struct store *st, const struct snapshot_meta *m, struct buf *ret)
{
	struct handed_snapshot h = { .m = *m };
	struct replay_query q = { .session_id = m->session_id, .until_ns = m->time_ns };
	struct replay_result result;
	struct model *state = NULL;
	int r = m->handed_in ? handed_state(st, m, &state) : replay(st, &q, &result);

	if (r < 0)
		return r;
	if (!m->handed_in)
		state = result.model;
	put_full(&h, state);
	model_free(state);
	if (!m->handed_in)
		r = keep_origin(st, m, &h.payload);
	buf_put(ret, h.payload.data, h.payload.len);
	handed_snapshot_done(&h);
	return r;
}
