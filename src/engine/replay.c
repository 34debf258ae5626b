/* Reconstructing states; see replay.h.  Payloads come from files: every length
 * is checked, damage is an error that names the snapshot. */
#include "engine/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/dir.h"
#include "base/err.h"
#include "engine/collect.h"
#include "engine/flush.h"
#include "engine/handed.h"
#include "engine/session.h"

struct fact {
	uint64_t time_ns, order, seq, lane, offset;
	uint32_t pid, tid;
	const uint8_t *p;
	uint32_t n;
	bool owned;
};

struct batch {
	struct fact *facts;
	size_t n, cap;
	struct clock_line line[CLOCK_LINES];
	size_t lines;
	int64_t offset_ns;
	uint64_t time_ns, stage;
	struct bytes state;
};

static int by_time(const void *a, const void *b)
{
	const struct fact *x = a, *y = b;

	if (x->time_ns != y->time_ns)
		return x->time_ns < y->time_ns ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static bool read_clock(struct batch *b, struct bytes m)
{
	struct clock_line l = { 0 };
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(m.p, m.n, &pos, &w)) > 0) {
		if (w.type != 1)
			continue;
		if (w.field == 1)
			l.tick = w.u;
		else if (w.field == 2)
			l.time_ns = w.u;
		else if (w.field == 3)
			l.rate_q32 = w.u;
	}
	if (b->lines < CLOCK_LINES)
		b->line[b->lines++] = l;
	return r == 0;
}

static void batch_add(struct batch *b, struct fact f)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 1024;
		b->facts = xrealloc(b->facts, b->cap * sizeof *b->facts);
	}
	b->facts[b->n++] = f;
}

static void batch_done(struct batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->facts[i].owned)
			free((void *)b->facts[i].p);
	free(b->facts);
	*b = (struct batch){ 0 };
}

static bool read_run(struct batch *b, struct bytes m)
{
	uint32_t pid = 0, tid = 0;
	uint64_t lane = 0, offset = 0, k = 0;
	struct wire w, in;
	size_t pos = 0;
	int r;

	while ((r = wire_next(m.p, m.n, &pos, &w)) > 0) {
		size_t at = 0;

		if (w.type == 0 && w.field == 1)
			pid = (uint32_t)w.u;
		else if (w.type == 0 && w.field == 2)
			tid = (uint32_t)w.u;
		else if (w.type == 0 && w.field == 3)
			lane = w.u;
		else if (w.type == 0 && w.field == 4)
			offset = w.u;
		if (w.field != RUN_CHANGES || w.type != 2)
			continue;
		if (wire_next(w.b.p, w.b.n, &at, &in) <= 0 || in.field != 1 || in.type != 1)
			return false;
		batch_add(b, (struct fact){ .time_ns = in.u, .order = change_order(lane, offset + k), .pid = pid, .tid = tid,
					    .lane = lane, .offset = offset + k, .p = w.b.p, .n = w.b.n });
		k++;
	}
	return r == 0;
}

/* Splits message Snapshot; stamps become times once all clocks are known. */
static bool read_payload(struct batch *b, const struct buf *payload)
{
	struct wire w;
	size_t pos = 0;
	int r;

	b->n = b->lines = 0;
	b->state = BYTES(NULL, 0);
	b->offset_ns = 0;
	b->stage = 0;
	while ((r = wire_next(payload->data, payload->len, &pos, &w)) > 0) {
		bool good = true;

		if (w.type == 2 && w.field == 1)
			good = read_run(b, w.b);
		else if (w.type == 2 && w.field == 2)
			good = read_clock(b, w.b);
		else if (w.type == 2 && w.field == 15)
			b->state = w.b;
		else if (w.type == 1 && w.field == 5)
			b->time_ns = w.u;
		else if (w.type == 1 && w.field == 6)
			b->offset_ns = (int64_t)w.u;
		else if (w.type == 0 && w.field == 7)
			b->stage = w.u;
		if (!good)
			return false;
	}
	for (size_t i = 0; i < b->n; i++)
		b->facts[i].time_ns = clock_lines_time(b->line, b->lines, b->offset_ns, b->facts[i].time_ns);
	if (b->n)
		qsort(b->facts, b->n, sizeof *b->facts, by_time);
	return r == 0;
}

/* ---- applying a batch ---- */

struct player {
	const struct replay_query *q;
	struct replay_result *ret;
	uint64_t seq;
	bool observing, enough;
	struct batch held;           /* facts beyond the instant of the snapshot they stand in */
};

static void note_coalesced(struct player *p, const struct fact *f, const struct change *c)
{
	uint64_t tick = p->q->tick_ns ? p->q->tick_ns : 1000000u;

	if (c->coalesced && p->q->until_ns != UINT64_MAX && f->time_ns / tick == p->q->until_ns / tick)
		p->ret->coalesced += c->coalesced;
}

static void play_fact(struct player *p, const struct fact *f)
{
	struct origin o = { .pid = f->pid, .tid = f->tid, .order = f->order };
	struct change c;

	if (change_read(&c, f->p, f->n))
		note_coalesced(p, f, &c);
	if (f->time_ns > p->q->until_ns || p->enough)
		return;
	if (p->q->each && f->time_ns >= p->q->from_ns)
		p->enough = !p->q->each(p->q->arg, &(struct replay_fact){
			f->time_ns, f->seq, f->lane, f->offset, f->pid, f->tid, f->n, f->p, p->ret->model, p->ret->time_ns });
	if (p->q->observe && !p->observing && f->time_ns >= p->q->from_ns) {
		p->observing = true;
		model_unfold(p->ret->model); /* what is there already is no news, but its end will be */
		model_observe(p->ret->model, p->q->observe, p->q->arg);
	}
	if (p->observing && p->q->tick)
		p->q->tick(p->q->arg, f->time_ns, f->seq, &c);
	model_apply(p->ret->model, &o, f->time_ns, f->p, f->n);
	if (f->time_ns > p->ret->time_ns)
		p->ret->time_ns = f->time_ns;
	if (f->seq > p->ret->seq)
		p->ret->seq = f->seq;
}

/* What call stacks are holds at any time: a Change of one thread may name one
 * that another thread explains a moment later. */
static void learn_stacks(struct player *p, const struct batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct fact *f = &b->facts[i];
		struct origin o = { .pid = f->pid, .tid = f->tid, .order = f->order };

		if (f->n > 11 && f->p[9] == 2 << 3 && (f->p[10] == STACK || f->p[10] == MODULE))
			model_apply(p->ret->model, &o, f->time_ns, f->p, f->n);
	}
}

/* Plays the facts of (after_ns, upto_ns].  A snapshot holds all facts up to its
 * instant that those before it do not, and some beyond it, from threads that
 * were drained early: these wait until the next one brings the others. */
static void play(struct player *p, struct batch *b, uint64_t after_ns, uint64_t upto_ns)
{
	size_t kept = 0, waiting = p->held.n;

	learn_stacks(p, b);
	for (size_t i = 0; i < b->n; i++) {
		struct fact f = b->facts[i];

		f.seq = ++p->seq;
		if (f.time_ns <= after_ns)
			continue;
		if (f.time_ns <= upto_ns) {
			b->facts[kept++] = f;
			continue;
		}
		f.p = xmemdup(f.p, f.n);
		f.owned = true;
		batch_add(&p->held, f);
	}
	b->n = kept;
	for (size_t i = 0, to = 0, n = p->held.n; i < n; i++) {
		if (i < waiting && p->held.facts[i].time_ns <= upto_ns)
			batch_add(b, p->held.facts[i]);
		else
			p->held.facts[to++] = p->held.facts[i];
		p->held.n = to;
	}
	if (b->n > kept)
		qsort(b->facts, b->n, sizeof *b->facts, by_time);
	for (size_t i = 0; i < b->n; i++) {
		play_fact(p, &b->facts[i]);
		if (b->facts[i].owned)
			free((void *)b->facts[i].p);
	}
	b->n = 0;
}

/* What no later snapshot follows. */
static void play_held(struct player *p)
{
	struct batch none = { 0 };

	play(p, &none, 0, UINT64_MAX);
	batch_done(&none);
}

/* ---- a live session's part ---- */

struct live {
	struct buf payload;      /* message Snapshot of what is not stored */
	uint64_t first_stage;
};

struct lane_end {
	uint64_t lane, end;
};

struct ends {
	struct lane_end *e;
	size_t n;
};

static uint64_t *end_of(struct ends *ends, uint64_t lane)
{
	for (size_t i = 0; i < ends->n; i++)
		if (ends->e[i].lane == lane)
			return &ends->e[i].end;
	ends->e = xrealloc(ends->e, (ends->n + 1) * sizeof *ends->e);
	ends->e[ends->n] = (struct lane_end){ .lane = lane };
	return &ends->e[ends->n++].end;
}

static uint64_t lane_name(const struct lane *l)
{
	uint64_t name = (l->claimed_stamp & ~STAMP_MONOTONIC) ^ (uint64_t)l->tid << 44 ^ (uint64_t)l->serial;

	return name <= OWN_LANE ? 2 : name;
}

/* Finished records that the collector has not taken: copied, with the offset
 * at which they begin. */
struct untaken {
	uint64_t lane, pos;
	uint32_t pid, tid, n;
	uint8_t *record;
};

struct untaken_list {
	struct untaken *u;
	size_t n;
};

/* `data` has `size` bytes, a power of two; what the lane says of itself is its program's. */
static void copy_lane(struct lane *l, uint8_t *data, uint32_t size, struct untaken_list *list)
{
	uint64_t pos = __atomic_load_n(&l->tail, __ATOMIC_ACQUIRE), reserve = __atomic_load_n(&l->reserve, __ATOMIC_ACQUIRE);
	uint32_t mask = size - 1, tid = l->tid;

	/* Those of another namespace are read when the recorder has translated them. */
	if (reserve - pos > size || pos % 8 || l->pid_ns)
		return;
	while (pos < reserve) {
		uint64_t h = __atomic_load_n((uint64_t *)(data + (pos & mask)), __ATOMIC_ACQUIRE);
		uint32_t len = record_len(h), extent = record_extent(len);

		if (!record_is_at(h, pos) || pos + extent > reserve || (pos & mask) + extent > size ||
		    record_state(h) == RECORD_UNFINISHED)
			return;
		if (record_state(h) == RECORD_FINISHED) {
			list->u = xrealloc(list->u, (list->n + 1) * sizeof *list->u);
			list->u[list->n++] = (struct untaken){ lane_name(l), pos, l->pid, tid, len,
							       xmemdup(data + (pos & mask) + 8, len) };
		}
		pos += extent;
	}
}

static void copy_ring(const char *path, struct untaken_list *list)
{
	struct stat st;
	struct lane *l;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return;
	l = fstat(fd, &st) == 0 && st.st_size >= (off_t)LANE_HEADER_BYTES ?
		mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
	close(fd);
	if (l == MAP_FAILED)
		return;
	if (l->magic == LANE_MAGIC && l->data_offset == LANE_HEADER_BYTES && (l->size_bytes & (l->size_bytes - 1)) == 0 &&
	    l->size_bytes + (uint64_t)LANE_HEADER_BYTES == (uint64_t)st.st_size)
		copy_lane(l, (uint8_t *)l + LANE_HEADER_BYTES, (uint32_t)((uint64_t)st.st_size - LANE_HEADER_BYTES), list);
	munmap(l, (size_t)st.st_size);
}

static void copy_lanes(const struct session *s, struct untaken_list *list)
{
	struct dir d;

	for (uint32_t i = 0; i < BOARD_SLOTS; i++) {
		struct lane *l = board_slot(s->board, i);
		uint32_t state = __atomic_load_n(&l->state, __ATOMIC_ACQUIRE);

		if ((state == LANE_LIVE || state == LANE_CLOSED) && l->size_bytes == SLOT_DATA_BYTES &&
		    l->data_offset == SLOT_DATA_OFFSET)
			copy_lane(l, (uint8_t *)l + SLOT_DATA_OFFSET, SLOT_DATA_BYTES, list);
	}
	dir_open(&d, s->folder);
	for (const char *name; (name = dir_next(&d));) {
		char path[600];

		snprintf(path, sizeof path, "%s/%s", s->folder, name);
		if (strncmp(name, "r.", 2) == 0)
			copy_ring(path, list);
	}
	dir_close(&d);
}

/* The stage files as they are now, oldest first, as one message Snapshot. */
static void copy_stages(const struct session *s, uint64_t stored, struct ends *ends, struct buf *out)
{
	struct dir d;

	dir_open(&d, s->folder);
	for (const char *name; (name = dir_next(&d));) {
		struct stage_header *h;
		struct stage_part p;
		char path[600];
		size_t pos = 0;
		int fd;

		if (strncmp(name, "stage.", 6) || strtoull(name + 6, NULL, 10) <= stored)
			continue;
		snprintf(path, sizeof path, "%s/%s", s->folder, name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		h = stage_is_whole(fd) ? mmap(NULL, STAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
		if (fd >= 0)
			close(fd);
		if (h == MAP_FAILED)
			continue;
		if (h->magic == STAGE_MAGIC) {
			while (stage_next(h, &pos, &p)) {
				uint64_t *known = end_of(ends, p.block->lane);

				cut_run(&p, out); /* and the end of what was copied, not of what is there by now */
				if (p.end > *known)
					*known = p.end;
			}
			cut_clock(h, out);
		}
		munmap(h, STAGE_BYTES);
	}
}

static void add_untaken(struct untaken_list *list, struct ends *ends, struct buf *out)
{
	for (size_t i = 0; i < list->n; i++) {
		struct untaken *u = &list->u[i];

		if (u->pos >= *end_of(ends, u->lane)) {
			size_t mark = pack_begin(out, 1);

			pack_uint(out, 1, u->pid);
			pack_uint(out, 2, u->tid);
			pack_uint(out, 3, u->lane);
			pack_uint(out, 4, u->pos);
			buf_put(out, u->record, u->n);
			pack_end(out, mark);
		}
		free(u->record);
	}
	free(list->u);
}

/* What a live session holds beyond its stored snapshots.  Looked at in the
 * direction in which records move, lanes before stages; when a cut came in
 * between, again. */
static bool live_payload(struct store *st, const struct replay_query *q, struct buf *out)
{
	char pointer[4500];
	bool any = false;

	if (q->store_folder == NULL)
		return false;
	snprintf(pointer, sizeof pointer, "%s/live/%s", q->store_folder, q->session_id);
	for (int attempt = 0; attempt < 5; attempt++) {
		struct untaken_list list = { 0 };
		struct ends ends = { 0 };
		struct session s;
		uint64_t stored;

		if (session_attach(&s, pointer, false) < 0) {
			session_close(&s, false);
			return any;
		}
		buf_reset(out);
		store_refresh(st);
		stored = replay_last_stage(st, q->session_id);
		copy_lanes(&s, &list);
		copy_stages(&s, stored, &ends, out);
		add_untaken(&list, &ends, out);
		free(ends.e);
		session_close(&s, false);
		any = true;
		store_refresh(st);
		if (replay_last_stage(st, q->session_id) == stored)
			return true;
	}
	return any;
}

/* ---- the whole ---- */

uint64_t replay_last_stage(struct store *s, const char *session_id)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	size_t n = store_snapshot_count(s, session_id), pos = 0;
	struct snapshot_meta m = { .handed_in = true };
	struct wire w;

	while (n && m.handed_in && store_snapshot_at(s, session_id, n - 1, &m) == 0)
		n--;
	if (m.id[0] == 0 || m.handed_in || store_load(s, &m, &payload) < 0)
		return 0;
	while (wire_next(payload.data, payload.len, &pos, &w) > 0)
		if (w.field == 7 && w.type == 0)
			return w.u;
	return 0;
}

/* The first of a run: its own Changes say everything.  Others name what they
 * stood on, also when that was deleted. */
static bool begins(const struct snapshot_meta *m) { return m->base_id[0] == 0; }

/* The last full snapshot at or before an instant. */
static int find_base(struct store *s, const char *session_id, uint64_t t, size_t *ret)
{
	struct snapshot_meta m;
	size_t i;

	if (store_snapshot_floor(s, session_id, t, &i) < 0)
		return -ENODATA;
	for (;; i--) {
		if (store_snapshot_at(s, session_id, i, &m) == 0 && m.type == SNAPSHOT_FULL && !m.handed_in) {
			*ret = i;
			return 0;
		}
		if (i == 0)
			return -ENODATA;
	}
}

static void find_losses(struct store *s, const struct replay_query *q, struct replay_result *ret)
{
	struct gap_meta g;

	for (size_t i = 0; store_gap_at(s, i, &g) == 0; i++)
		if (strcmp(g.session_id, q->session_id) == 0 && g.from_ns <= q->until_ns && q->until_ns <= g.to_ns)
			ret->lost += g.lost;
}

/* Between two snapshots of which those in between were deleted. */
static bool in_hole(struct store *s, const struct replay_query *q)
{
	struct gap_meta g;

	for (size_t i = 0; store_gap_at(s, i, &g) == 0; i++)
		if (strcmp(g.session_id, q->session_id) == 0 && strcmp(g.cause, GAP_DELETED) == 0 && g.from_ns < q->until_ns &&
		    q->until_ns < g.to_ns)
			return true;
	return false;
}

static uint64_t changes_before(struct store *s, const char *session_id, size_t n)
{
	struct snapshot_meta m;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		if (store_snapshot_at(s, session_id, i, &m) == 0 && !m.handed_in)
			sum += m.changes;
	return sum;
}

/* From the first Change on, not from a state on. */
static bool walks(const struct replay_query *q) { return q->observe || q->each; }

static int play_stored(struct store *s, struct player *p, size_t base, bool have_base, struct batch *b)
{
	const struct replay_query *q = p->q;
	size_t n = store_snapshot_count(s, q->session_id);
	char before[STORE_ID_LEN + 1] = "";

	for (size_t i = base; i < n && !p->enough; i++) {
		_cleanup_buf_ struct buf payload = BUF_INIT;
		struct snapshot_meta m;
		uint64_t after = 0;
		int r;

		if (store_snapshot_at(s, q->session_id, i, &m) < 0 || m.handed_in)
			continue;
		if (q->until_ns != UINT64_MAX && m.since_ns > q->until_ns + 2000000000u)
			break;
		r = store_load(s, &m, &payload);
		if (r < 0)
			return r;
		if (!read_payload(b, &payload))
			return fail(-EBADMSG, "snapshot %s: its payload is not a Snapshot", m.id);
		/* A new run of a session begins anew, and so does what follows a hole. */
		bool follows = i > base && m.base_id[0] && strcmp(m.base_id, before) == 0;
		bool restart = i > base && m.type == SNAPSHOT_FULL && !follows && m.time_ns <= q->until_ns;

		memcpy(before, m.id, sizeof before);

		if (restart || (i == base && (have_base || !begins(&m)))) {
			if (restart) { /* what the runs before left is gone with them */
				play_held(p);
				model_free(p->ret->model);
				p->ret->model = model_new();
				if (p->observing)
					model_observe(p->ret->model, q->observe, q->arg);
			}
			if ((i == base || restart) && !(walks(q) && m.time_ns >= q->from_ns && begins(&m))) {
				if (!model_load(p->ret->model, b->state.p, b->state.n))
					return fail(-EBADMSG, "snapshot %s: its state is damaged", m.id);
				after = b->state.n ? m.time_ns : 0; /* salvaged ones have runs alone */
				p->ret->time_ns = m.time_ns;
			}
		}
		play(p, b, after, m.time_ns);
	}
	return 0;
}

/* A session that begins with a handed-in state and has no recorded snapshot. */
static bool is_handed(struct store *s, const char *session_id)
{
	struct snapshot_meta m;
	size_t base;

	return store_snapshot_at(s, session_id, 0, &m) == 0 && m.handed_in && find_base(s, session_id, UINT64_MAX, &base) < 0;
}

int replay(struct store *s, const struct replay_query *q, struct replay_result *ret)
{
	_cleanup_buf_ struct buf live = BUF_INIT;
	struct player p = { .q = q, .ret = ret };
	struct batch b = { 0 };
	bool has_live = live_payload(s, q, &live);
	size_t base = 0;
	int r;

	if (!has_live && is_handed(s, q->session_id))
		return handed_replay(s, q, ret);
	if (!walks(q) && in_hole(s, q))
		return fail(-ENODATA, "the snapshots of that time were deleted");
	*ret = (struct replay_result){ .model = model_new() };
	r = find_base(s, q->session_id, walks(q) ? q->from_ns : q->until_ns, &base);
	if (r < 0 && !walks(q) && !(has_live && store_snapshot_count(s, q->session_id) == 0)) {
		/* Before its first snapshot a session has what that one's runs say. */
		struct snapshot_meta m;

		if (store_snapshot_at(s, q->session_id, 0, &m) < 0 || m.since_ns > q->until_ns || !(begins(&m) || m.handed_in)) {
			model_free(ret->model);
			return fail(-ENODATA, "the recording begins later than that");
		}
	}
	p.seq = changes_before(s, q->session_id, r < 0 ? 0 : base);
	r = play_stored(s, &p, r < 0 ? 0 : base, r == 0, &b);
	if (r == 0 && has_live && read_payload(&b, &live))
		play(&p, &b, 0, UINT64_MAX);
	if (r == 0)
		play_held(&p);
	batch_done(&b);
	batch_done(&p.held);
	if (r < 0) {
		model_free(ret->model);
		return r;
	}
	model_unfold(ret->model);
	find_losses(s, q, ret);
	model_observe(ret->model, NULL, NULL);
	return 0;
}
