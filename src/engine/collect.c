/* Draining, coalescing, merging; see collect.h.  Bytes in a lane come from
 * another process: every length is checked against what the lane holds. */
#include "engine/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mark.h"

#define SLACK_NS 100000u        /* a store of a producer is visible long before this */
#define STUCK_NS 1000000000u    /* an unfinished record this old was abandoned */
#define DRAIN_BYTES (1u << 20)  /* of one lane in one round */

int collect_begin(struct collector *c, const char *folder, struct board *b, uint64_t stage_serial, uint64_t max_rate)
{
	snprintf(c->folder, sizeof c->folder, "%s", folder);
	c->board = b;
	c->no_lane_seen = b->no_lane_told < b->no_lane ? b->no_lane_told : b->no_lane;
	c->model = model_new();
	/* Before the first program runs, or what a configuration could say at most. */
	c->ring_max_bytes = b->lane_max_bytes && b->lane_max_bytes <= 1u << 30 ? b->lane_max_bytes : 1u << 30;
	c->tick_ns = max_rate ? 1000000000u / max_rate : 0;
	c->hot = c->tick_ns ? xcalloc(HOT_KEYS, sizeof *c->hot) : NULL;
	dir_open(&c->names, folder);
	return stage_open(&c->stage, folder, stage_serial, &c->clock);
}

static void view_free(struct collector *c, struct lane_view *v, bool remove)
{
	for (uint32_t i = 0; i < BOARD_SLOTS && v->map_bytes == 0; i++)
		if (c->slots[i] == v)
			c->slots[i] = NULL;
	if (v->map_bytes) {
		munmap(v->lane, v->map_bytes);
		if (remove) {
			MARK("ring goes");
			unlink(v->path);
		}
	} else if (remove) {
		MARK("slot goes");
		__atomic_store_n(&v->lane->state, LANE_FREE, __ATOMIC_RELEASE);
	}
	free(v->path);
	free(v);
}

void collect_end(struct collector *c)
{
	if (c->model == NULL)
		return; /* never begun */
	for (struct lane_view *v = c->views, *next; v; v = next) {
		next = v->next;
		view_free(c, v, false);
	}
	for (size_t i = 0; i < c->npending; i++)
		if (c->pending[i].owned)
			free((void *)c->pending[i].p);
	free(c->pending);
	namespaces_done(&c->namespaces);
	buf_done(&c->translated);
	buf_done(&c->restamped);
	free(c->hot);
	model_free(c->model);
	stage_close(&c->stage);
	dir_close(&c->names);
	c->views = NULL;
}

static void gap_of(struct collector *c, struct gap *g, const char *cause)
{
	snprintf(g->cause, sizeof g->cause, "%s", cause);
	stage_gap(&c->stage, g);
	c->lost += g->lost;
}

void collect_gap(struct collector *c, uint64_t from_ns, uint64_t to_ns, uint64_t lost, const char *cause)
{
	gap_of(c, &(struct gap){ .from_ns = from_ns, .to_ns = to_ns, .lost = lost }, cause);
}

/* ---- finding lanes ---- */

/* No later than now.  What a program stamps later would not end when it does, and neither
 * would its recorder: nothing that happens could follow it. */
static uint64_t time_that_came(struct collector *c, uint64_t stamp)
{
	uint64_t time_ns = clock_time(&c->clock, stamp);

	if (time_ns <= c->now_ns)
		return time_ns;
	c->now_ns = clock_now(&c->clock);
	return time_ns <= c->now_ns + SLACK_NS ? time_ns : c->now_ns;
}

/* Whoever found out what a process of another namespace is called here wrote it
 * down: it may be gone by now. */
static uint32_t lane_pid(struct collector *c, struct lane *l)
{
	if (l->pid_ns == 0)
		return l->pid;
	if (l->outer_pid == 0)
		l->outer_pid = namespace_pid(&c->namespaces, l->pid_ns, l->pid);
	return l->outer_pid;
}

static struct lane_view *view_new(struct collector *c, struct lane *l, size_t map_bytes)
{
	struct lane_view *v = xcalloc(1, sizeof *v);

	v->lane = l;
	v->map_bytes = map_bytes;
	v->size_bytes = map_bytes ? (uint32_t)(map_bytes - LANE_HEADER_BYTES) : SLOT_DATA_BYTES;
	v->data = (uint8_t *)l + (map_bytes ? LANE_HEADER_BYTES : SLOT_DATA_OFFSET);
	v->name = (l->claimed_stamp & ~STAMP_MONOTONIC) ^ (uint64_t)l->tid << 44 ^ (uint64_t)l->serial;
	if (v->name <= OWN_LANE)
		v->name = 2;
	v->pid = lane_pid(c, l);
	v->tid = l->pid_ns ? namespace_tid(v->pid, l->pid, l->tid) : l->tid;
	/* Its first record may have been stamped before we found it. */
	v->idle_ns = time_that_came(c, l->claimed_stamp);
	v->lost_seen = l->lost_told < l->lost ? l->lost_told : l->lost;
	v->next = c->views;
	c->views = v;
	if (c->process_seen)
		c->process_seen(c->arg, v->pid);
	return v;
}

static void find_slots(struct collector *c)
{
	for (uint32_t i = 0; i < BOARD_SLOTS; i++) { /* the board's own number is anybody's to write */
		struct lane *l = board_slot(c->board, i);
		uint32_t state = __atomic_load_n(&l->state, __ATOMIC_ACQUIRE);

		if (c->slots[i] == NULL && (state == LANE_LIVE || state == LANE_CLOSED) &&
		    l->size_bytes == SLOT_DATA_BYTES && l->data_offset == SLOT_DATA_OFFSET)
			c->slots[i] = view_new(c, l, 0);
	}
}

static bool known_path(const struct collector *c, const char *path)
{
	for (const struct lane_view *v = c->views; v; v = v->next)
		if (v->path && strcmp(v->path, path) == 0)
			return true;
	return false;
}

/* It could not be opened now: for want of descriptors or memory, say.  What is no ring of
 * anybody's that we may read, by its kind, owner or mode, is passed over. */
static bool may_open_later(const char *path)
{
	bool denied = errno == EACCES || errno == EPERM;
	struct stat st;

	if (errno == ENOENT || errno == ELOOP || lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	return !denied || (st.st_uid == geteuid() && (st.st_mode & 0600) == 0600);
}

/* A ring file is taken when its size and header agree.  False: it could not be looked at
 * for want of descriptors or memory, which may pass. */
static bool ring_take(struct collector *c, const char *path)
{
	struct stat st;
	struct lane_view *v;
	struct lane *l;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return !may_open_later(path);
	if (fstat(fd, &st) < 0) {
		close(fd);
		return false;
	}
	if (st.st_size < (off_t)(LANE_HEADER_BYTES + 4096) ||
	    st.st_size > (off_t)(LANE_HEADER_BYTES + (uint64_t)c->ring_max_bytes)) {
		close(fd);
		return true;
	}
	l = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	close(fd);
	if (l == MAP_FAILED)
		return false;
	if (l->magic != LANE_MAGIC || l->data_offset != LANE_HEADER_BYTES || (l->size_bytes & (l->size_bytes - 1)) ||
	    l->size_bytes + (uint64_t)LANE_HEADER_BYTES != (uint64_t)st.st_size) {
		munmap(l, (size_t)st.st_size);
		return true;
	}
	v = view_new(c, l, (size_t)st.st_size);
	v->path = xstrdup(path);
	return true;
}

static void find_rings(struct collector *c)
{
	uint32_t ready = __atomic_load_n(&c->board->rings_ready, __ATOMIC_ACQUIRE);

	if (ready == c->rings_seen && !c->unread)
		return;
	c->rings_seen = ready;
	c->unread = false;
	if (c->names.fd < 0)
		dir_open(&c->names, c->folder);
	dir_rewind(&c->names);
	for (const char *name; (name = dir_next(&c->names));) {
		char path[600];

		if (name[0] != 'r' || name[1] != '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", c->folder, name);
		if (!known_path(c, path) && !ring_take(c, path))
			c->unread = true;
	}
	c->unread = c->unread || c->names.error;
}

void collect_find(struct collector *c)
{
	find_slots(c);
	find_rings(c);
}

/* ---- one record ---- */

/* The head of a Change as the fixed-shape encoder writes it. */
struct head {
	const uint8_t *change;
	uint32_t n;
	uint64_t stamp;
	uint32_t kind;
	const uint8_t *rest, *end;
};

static bool head_read(struct head *h, const uint8_t *p, uint32_t n)
{
	uint32_t i = 1, shift = 0, len = 0;

	if (n < 13 || p[0] != RUN_CHANGES_TAG) /* a stamp and a kind */
		return false;
	do {
		if (i >= n || shift > 21)
			return false;
		len |= (uint32_t)(p[i] & 0x7f) << shift;
		shift += 7;
	} while (p[i++] & 0x80);
	if (len != n - i || len < 11 || p[i] != (1 << 3 | 1) || p[i + 9] != 2 << 3)
		return false;
	h->change = p + i;
	h->n = len;
	memcpy(&h->stamp, p + i + 1, 8);
	h->kind = p[i + 10];
	h->rest = p + i + 11;
	h->end = p + n;
	return true;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0xff51afd7ed558ccdull;
	return h ^ h >> 31;
}

static uint64_t mix_bytes(uint64_t h, const uint8_t *p, size_t n)
{
	uint64_t w;

	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&w, p, 8);
		h = mix(h, w);
	}
	for (w = 0; n; n--)
		w = w << 8 | p[n - 1];
	return mix(h, w);
}

static const uint8_t *skip_varint(const uint8_t *p, const uint8_t *end)
{
	while (p < end && *p & 0x80)
		p++;
	return p < end ? p + 1 : end;
}

/* The bytes of field `tag` right at p, if it stands there with a short length. */
static struct bytes short_bytes(const uint8_t *p, const uint8_t *end, uint8_t tag)
{
	if (end - p < 2 || p[0] != tag || p[1] & 0x80 || p[1] > end - p - 2)
		return BYTES(NULL, 0);
	return BYTES(p + 2, p[1]);
}

static bool opens_folder(const struct head *h)
{
	struct wire w;
	size_t pos = 0;

	while (wire_next(h->change, h->n, &pos, &w) > 0 && w.field <= 5)
		if (w.field == 5)
			return w.u & O_DIRECTORY;
	return false;
}

/* What is open on descriptor *p, a varint. */
static uint64_t fd_key(uint32_t pid, const uint8_t *p, const uint8_t *end)
{
	return mix_bytes(mix(pid, 0x100), p, (size_t)(skip_varint(p, end) - p)) | 1;
}

/* Which key a Change of a coalescable kind is about; 0 for the others, whose
 * every instance matters. */
static uint64_t key_of(const struct head *h, uint32_t pid, uint32_t tid)
{
	const uint8_t *p = h->rest;
	uint64_t key = mix(pid, h->kind);
	struct bytes b;

	switch (h->kind) {
	case FD_OPENED:
		if (opens_folder(h))
			return 0; /* others may be opened below it before it closes */
		/* fall through */
	case FD_CLOSED:
		return p < h->end && *p == 3 << 3 ? fd_key(pid, p + 1, h->end) : 0;
	case FD_FLAGS: case FD_GAUGE:
		break;
	case THREAD_NAMED:
		return mix(key, tid) | 1;
	case TITLE: case CWD:
		return key | 1;
	case ENV_SET: case ENV_UNSET:
		key = mix(pid, ENV_SET);
		/* fall through */
	case METRIC: case ENTITY_SET:
		b = short_bytes(p, h->end, 4 << 3 | 2);
		return b.n ? mix_bytes(key, b.p, b.n) | 1 : 0;
	case ENTITY_PATCHED: /* progress alone, as its flags say */
		b = short_bytes(p, h->end, 4 << 3 | 2);
		p = b.n ? (const uint8_t *)b.p + b.n : h->end;
		return h->end - p > 2 && p[0] == 5 << 3 && p[1] == 2 ? mix_bytes(key, b.p, b.n) | 1 : 0;
	case NOTIFY: {
		const uint8_t *eq;

		if (p < h->end && *p == 6 << 3)
			p = skip_varint(p + 1, h->end);
		b = short_bytes(p, h->end, 7 << 3 | 2);
		eq = b.n ? memchr(b.p, '=', b.n) : NULL;
		if (eq == NULL || memchr(b.p, '\n', b.n))
			return 0;
		return mix_bytes(key, b.p, (size_t)(eq - (const uint8_t *)b.p)) | 1;
	}
	default:
		return 0;
	}
	if (p >= h->end || *p != 3 << 3)
		return 0;
	return mix_bytes(key, p + 1, (size_t)(skip_varint(p + 1, h->end) - p - 1)) | 1;
}

static struct pending *pending_new(struct collector *c)
{
	if (c->npending == c->pending_cap) {
		c->pending_cap = c->pending_cap ? c->pending_cap * 2 : 4096;
		c->pending = xrealloc(c->pending, c->pending_cap * sizeof *c->pending);
	}
	return &c->pending[c->npending++];
}

/* Of the two places a key may have, its own or the one unseen for longer. */
static struct hot_key *hot_find(struct collector *c, uint64_t key, uint64_t time_ns)
{
	struct hot_key *a = &c->hot[key & (HOT_KEYS - 2)], *b = a + 1, *k;

	if (a->key == key || b->key == key)
		return a->key == key ? a : b;
	k = a->seen_ns <= b->seen_ns ? a : b;
	*k = (struct hot_key){ .key = key, .seen_ns = time_ns, .credit_ns = HOT_CREDIT_NS };
	return k;
}

static bool has_credit(struct hot_key *k, uint64_t time_ns, uint64_t cost_ns)
{
	if (time_ns > k->seen_ns) {
		k->credit_ns += time_ns - k->seen_ns;
		k->seen_ns = time_ns;
		if (k->credit_ns > HOT_CREDIT_NS)
			k->credit_ns = HOT_CREDIT_NS;
	}
	if (k->credit_ns < cost_ns)
		return false;
	k->credit_ns -= cost_ns;
	return true;
}

/* A copy is made of what its source is at that instant: later changes of the
 * source must not take the place of the one before.  A fork copies everything. */
static void keep_sources(struct collector *c, const struct lane_view *v, const struct head *h)
{
	if (h->kind == PROCESS_FORKED)
		c->hot_epoch++;
	if (h->kind == FD_DUPED && h->rest < h->end && *h->rest == 3 << 3) {
		uint64_t key = fd_key(v->pid, h->rest + 1, h->end);
		struct hot_key *a = &c->hot[key & (HOT_KEYS - 2)], *k = a->key == key ? a : a + 1;

		if (k->key == key)
			k->block = NULL;
	}
}

/* A Change of a key that has used up its allowance goes into the key's place
 * in the stage, and the one that stood there before is counted. */
static bool coalesce(struct collector *c, const struct lane_view *v, const struct head *h, uint64_t time_ns,
		     uint64_t pos, uint64_t end, const uint8_t *p, uint32_t n)
{
	uint64_t key = key_of(h, v->pid, v->tid), tick = time_ns / c->tick_ns;
	struct hot_key *k;

	if (key == 0) {
		keep_sources(c, v, h);
		return false;
	}
	k = hot_find(c, key, time_ns);
	if (has_credit(k, time_ns, c->tick_ns)) {
		k->block = NULL;
		return false;
	}
	if (k->block && k->tick == tick && k->epoch == c->hot_epoch && k->block->lane == v->name && k->block->tid == v->tid &&
	    stage_hot_put(k->block, end, p, n)) {
		c->coalesced++;
		c->stage.h->coalesced++;
	} else {
		k->block = stage_hot(&c->stage, v->name, v->pid, v->tid, pos, n);
		k->tick = tick;
		k->epoch = c->hot_epoch;
		stage_hot_put(k->block, end, p, n);
		k->pending = false;
		c->changes++;
		c->stage.h->changes++;
	}
	if (!k->pending) {
		*pending_new(c) = (struct pending){ .time_ns = time_ns, .lane = v->name, .hot = k->block,
						    .order = change_order(v->name, pos), .pid = v->pid, .tid = v->tid,
						    .hot_index = (uint32_t)(k - c->hot) };
		k->pending = true;
	}
	return true;
}

/* exec ended the images before this one.  The next one may have begun as well. */
static void earlier_are_dead(struct collector *c, const struct lane_view *image)
{
	uint64_t began = clock_time(&c->clock, image->lane->image);

	for (struct lane_view *v = c->views; v; v = v->next)
		if (v->pid == image->pid && clock_time(&c->clock, v->lane->image) < began)
			v->dead = true;
}

/* Who reports in this lane from now on. */
static void identify(struct collector *c, struct lane_view *v, const struct head *h)
{
	struct change ch;

	if (!change_read(&ch, h->change, h->n))
		return;
	if (h->kind == PROCESS_FORKED && ch.tid == 0)
		return; /* the parent's report of its child */
	if (h->kind == PROCESS_SPAWNED || h->kind == EXEC_FAILED) {
		uint32_t pid = h->kind == EXEC_FAILED ? v->pid : ch.pid;

		if (pid && v->lane && c->process_seen)
			c->process_seen(c->arg, pid);
		return;
	}
	if (ch.tid)
		v->tid = ch.tid;
	if (h->kind == PROCESS_BEGAN && v->lane) { /* not what a feed says */
		earlier_are_dead(c, v);
		if (c->process_seen)
			c->process_seen(c->arg, v->pid);
	}
}

/* A record whose pids are of another namespace, as one with ours. */
static const uint8_t *translate(struct collector *c, const struct lane_view *v, const struct head *h, uint32_t *ret_n)
{
	struct buf *b = &c->translated;
	size_t mark;

	buf_reset(b);
	mark = pack_begin(b, RUN_CHANGES);
	namespace_translate(&c->namespaces, v->lane->pid_ns, v->lane->pid, h->change, h->n, b);
	pack_end(b, mark);
	*ret_n = (uint32_t)b->len;
	return b->data;
}

/* The record with another stamp. */
static const uint8_t *restamp(struct collector *c, struct head *h, const uint8_t *p, uint32_t n)
{
	struct buf *b = &c->restamped;
	uint64_t stamp = clock_stamp(&c->clock);

	buf_reset(b);
	buf_put(b, p, n);
	memcpy(b->data + (h->change - p) + 1, &stamp, sizeof stamp);
	head_read(h, b->data, n);
	return b->data;
}

static void ingest(struct collector *c, struct lane_view *v, uint64_t pos, uint64_t end, const uint8_t *p, uint32_t n)
{
	struct head h;
	uint64_t time_ns;
	const uint8_t *at;

	bool sound = head_read(&h, p, n);

	if (sound && v->lane && v->lane->pid_ns) {
		p = translate(c, v, &h, &n);
		sound = head_read(&h, p, n);
	}
	if (!sound) {
		c->voided++;
		collect_gap(c, v->idle_ns, clock_now(&c->clock), 1, "a report was damaged");
		return;
	}
	if (h.kind == THREAD_BEGAN || h.kind == PROCESS_BEGAN || h.kind == PROCESS_FORKED || h.kind == PROCESS_SPAWNED ||
	    h.kind == EXEC_FAILED)
		identify(c, v, &h);
	time_ns = clock_time(&c->clock, h.stamp);
	if (v->lane && time_ns > c->now_ns && time_that_came(c, h.stamp) < time_ns) {
		p = restamp(c, &h, p, n);
		time_ns = clock_time(&c->clock, h.stamp);
	}
	if (c->tick_ns && coalesce(c, v, &h, time_ns, pos, end, p, n))
		return;
	at = stage_put(&c->stage, v->name, v->pid, v->tid, pos, end, p, n);
	c->changes++;
	c->stage.h->changes++;
	*pending_new(c) = (struct pending){ .time_ns = time_ns, .order = change_order(v->name, pos), .lane = v->name,
					    .p = at + (h.change - p), .n = h.n, .pid = v->pid, .tid = v->tid };
}

/* ---- one lane ---- */

/* Where the next record begins behind one that nobody will finish. */
static uint64_t resync(const struct lane_view *v, uint64_t pos, uint64_t reserve)
{
	uint32_t mask = v->size_bytes - 1;

	for (pos += 8; pos < reserve; pos += 8) {
		uint64_t h = __atomic_load_n((uint64_t *)(v->data + (pos & mask)), __ATOMIC_ACQUIRE);

		if (record_is_at(h, pos) && record_state(h) >= RECORD_UNFINISHED && record_state(h) <= RECORD_VOID)
			return pos;
	}
	return reserve;
}

static bool abandoned(struct collector *c, struct lane_view *v, uint64_t now)
{
	(void)c;
	if (v->dead)
		return true;
	if (v->stuck_ns == 0)
		v->stuck_ns = now;
	return now - v->stuck_ns > STUCK_NS;
}

static size_t drain_lane(struct collector *c, struct lane_view *v, uint64_t now)
{
	struct lane *l = v->lane;
	uint8_t *data = v->data;
	uint32_t mask = v->size_bytes - 1;
	uint64_t reserve = __atomic_load_n(&l->reserve, __ATOMIC_ACQUIRE) & ~7ull;
	uint64_t pos = l->tail & ~7ull, start = pos;
	size_t taken = 0;

	if (reserve < pos || reserve - pos > v->size_bytes) { /* nothing in here can be told apart */
		collect_gap(c, v->idle_ns, now, 1, "a lane was damaged");
		pos = reserve;
	}
	while (pos < reserve && pos - start < DRAIN_BYTES) {
		uint64_t h = __atomic_load_n((uint64_t *)(data + (pos & mask)), __ATOMIC_ACQUIRE);
		uint32_t len = record_len(h), extent = record_extent(len);
		bool sound = record_is_at(h, pos) && pos + extent <= reserve && (pos & mask) + extent <= v->size_bytes;

		if (!sound || record_state(h) == RECORD_UNFINISHED) {
			if (!abandoned(c, v, now))
				break;
			v->stuck_ns = 0;
			c->voided++;
			collect_gap(c, v->idle_ns, now, 1, "a report was never finished");
			pos = sound ? pos + extent : resync(v, pos, reserve);
			continue;
		}
		if (record_state(h) == RECORD_FINISHED) {
			if (!stage_has_room(&c->stage, len))
				break;
			ingest(c, v, pos, pos + extent, data + (pos & mask) + 8, len);
			taken++;
		}
		v->stuck_ns = 0;
		pos += extent;
	}
	if (pos != start) {
		MARK("lane read");
		__atomic_store_n(&l->tail, pos, __ATOMIC_RELEASE);
		MARK("lane let go");
	}
	if (pos >= reserve)
		v->idle_ns = now;
	return taken;
}

static void lane_losses(struct collector *c, struct lane_view *v)
{
	struct lane *l = v->lane;
	uint64_t lost = __atomic_load_n(&l->lost, __ATOMIC_ACQUIRE);

	if (lost == v->lost_seen)
		return;
	gap_of(c, &(struct gap){ .from_ns = time_that_came(c, l->lost_first), .to_ns = time_that_came(c, l->lost_last),
				 .lost = lost - v->lost_seen, .lane = v->name, .upto = lost }, "a lane was full");
	v->lost_seen = l->lost_told = lost;
}

static void board_losses(struct collector *c)
{
	struct board *b = c->board;
	uint64_t lost = __atomic_load_n(&b->no_lane, __ATOMIC_ACQUIRE);

	if (lost == c->no_lane_seen)
		return;
	gap_of(c, &(struct gap){ .from_ns = time_that_came(c, b->no_lane_first), .to_ns = time_that_came(c, b->no_lane_last),
				 .lost = lost - c->no_lane_seen, .lane = GAP_NO_LANE, .upto = lost }, "no lane could be had");
	c->no_lane_seen = b->no_lane_told = lost;
}

/* Nothing will come from it any more.  A process's first slot stays while the
 * process does: its gauges live there. */
static bool finished(const struct lane_view *v, uint32_t state)
{
	return v->dead || (state == LANE_CLOSED && (v->map_bytes || !slot_gauges(v->lane)->used));
}

/* Records begin at multiples of 8, whatever a program wrote there. */
static bool is_empty(const struct lane *l) { return ((l->tail ^ __atomic_load_n(&l->reserve, __ATOMIC_ACQUIRE)) & ~7ull) == 0; }

size_t collect_drain(struct collector *c, double *ret_fill)
{
	uint64_t now = clock_now(&c->clock), mark = now - SLACK_NS;
	struct lane_view **at;
	size_t taken = 0;

	*ret_fill = 0;
	c->now_ns = now;
	if (clock_sync(&c->clock)) /* readers see times by the same lines */
		stage_lines(&c->stage, &c->clock);
	collect_find(c);
	for (at = &c->views; *at;) {
		struct lane_view *v = *at;
		struct lane *l = v->lane;
		uint32_t state = __atomic_load_n(&l->state, __ATOMIC_ACQUIRE);
		/* Before the records: a hold that ends in between has its record in them. */
		uint64_t hold = __atomic_load_n(&l->hold, __ATOMIC_ACQUIRE);
		uint64_t used = __atomic_load_n(&l->reserve, __ATOMIC_ACQUIRE) - l->tail;

		if ((double)used > *ret_fill * v->size_bytes)
			*ret_fill = (double)used / v->size_bytes;
		taken += drain_lane(c, v, now);
		lane_losses(c, v);
		if (hold && !v->dead) {
			uint64_t t = clock_time(&c->clock, hold);

			if (t < mark && now - t < STUCK_NS)
				mark = t - 1;
		}
		if (l->tail < __atomic_load_n(&l->reserve, __ATOMIC_ACQUIRE) && v->idle_ns < mark)
			mark = v->idle_ns > SLACK_NS ? v->idle_ns - SLACK_NS : 0;
		if (finished(v, state) && is_empty(l)) {
			*at = v->next;
			view_free(c, v, true);
			continue;
		}
		at = &v->next;
	}
	board_losses(c);
	if (!c->unread)
		c->all_read_ns = now;
	else if (c->all_read_ns < mark + SLACK_NS)
		mark = c->all_read_ns > SLACK_NS ? c->all_read_ns - SLACK_NS : 0;
	if (mark > c->watermark_ns) {
		c->watermark_ns = mark;
		__atomic_store_n(&c->board->watermark_ns, mark, __ATOMIC_RELEASE);
	}
	return taken;
}

/* ---- applying ---- */

static int by_time(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;

	if (x->time_ns != y->time_ns)
		return x->time_ns < y->time_ns ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static void apply_one(struct collector *c, struct pending *p)
{
	struct origin o = { .pid = p->pid, .tid = p->tid, .lane = p->lane, .order = p->order };
	const struct hot_place *place;
	struct head h;

	if (p->hot == NULL) {
		model_apply(c->model, &o, p->time_ns, p->p, p->n);
		if (p->owned)
			free((void *)p->p);
		return;
	}
	if (c->hot[p->hot_index].block == p->hot) /* NOLINT(clang-analyzer-core.NullDereference): p->hot is of c->hot */
		c->hot[p->hot_index].pending = false;
	place = stage_hot_get(p->hot);
	if (place && head_read(&h, place->bytes, (uint32_t)place->len))
		model_apply(c->model, &o, clock_time(&c->clock, h.stamp), h.change, h.n);
}

/* A shared place stands at the time of the change that is in it now. */
static void pending_refresh(struct collector *c)
{
	for (size_t i = 0; i < c->npending; i++) {
		struct pending *p = &c->pending[i];
		const struct hot_place *place = p->hot ? stage_hot_get(p->hot) : NULL;
		struct head h;

		if (place && head_read(&h, place->bytes, (uint32_t)place->len))
			p->time_ns = clock_time(&c->clock, h.stamp);
	}
}

static void pending_drop(struct collector *c, size_t n)
{
	memmove(c->pending, c->pending + n, (c->npending - n) * sizeof *c->pending);
	c->npending -= n;
}

/* Tells who wants to know that a program asked for a snapshot.  The stage may be
 * another one afterwards, so what was applied is dropped first. */
static void wanted(struct collector *c, const struct pending *p, size_t applied)
{
	struct change wish;

	pending_drop(c, applied);
	if (change_read(&wish, p->p, p->n))
		c->snapshot_wanted(c->arg, p->time_ns, &wish);
}

#define SETTLE_EVERY 4096u
#define LATE_NS 1000000000u /* of the time that tombstones stay */

static void settle(struct collector *c, uint64_t time_ns) { model_settle(c->model, time_ns > LATE_NS ? time_ns - LATE_NS : 0); }

static void apply_until(struct collector *c, uint64_t until)
{
	size_t late = 0;

	if (c->npending == 0)
		return;
	if (c->hot)
		pending_refresh(c);
	qsort(c->pending, c->npending, sizeof *c->pending, by_time);
	while (late < c->npending && c->pending[late].time_ns <= until) {
		struct pending *p = &c->pending[late++];

		if (c->snapshot_wanted && p->hot == NULL && p->n > 10 && p->p[10] == SNAPSHOT_WANTED) {
			struct pending wish = *p;

			wish.p = xmemdup(p->p, p->n);
			apply_one(c, p);
			wanted(c, &wish, late);
			free((void *)wish.p);
			late = 0;
			continue;
		}
		apply_one(c, p);
		if (late % SETTLE_EVERY == 0) /* what comes is not older */
			settle(c, p->time_ns);
	}
	pending_drop(c, late);
	settle(c, until);
}

void collect_apply(struct collector *c) { apply_until(c, c->watermark_ns); }

void collect_apply_all(struct collector *c)
{
	uint64_t now = clock_now(&c->clock);

	apply_until(c, UINT64_MAX);
	c->watermark_ns = now;
}

void collect_report(struct collector *c, struct change *ch)
{
	uint8_t room[2048], *record = room, *p;
	uint32_t inner, n;
	struct lane_view own = { .name = OWN_LANE };

	if (ch->source == SOURCE_HOOK)
		ch->source = SOURCE_SUPERVISOR;
	if (ch->stamp == 0)
		ch->stamp = clock_stamp(&c->clock);
	inner = change_size(ch);
	n = 1 + varint_size(inner) + inner;
	if (n > sizeof room)
		record = xmalloc(n);
	p = record;
	*p++ = RUN_CHANGES_TAG;
	change_put(varint_put(p, inner), ch);
	if (stage_has_room(&c->stage, n)) {
		uint64_t tick = c->tick_ns;

		c->tick_ns = 0;
		ingest(c, &own, c->own_offset, c->own_offset + n, record, n);
		c->tick_ns = tick;
		c->own_offset += n;
	} else {
		collect_gap(c, c->watermark_ns, clock_now(&c->clock), 1, "the stage was full");
	}
	if (record != room)
		free(record);
}

/* ---- processes and stages ---- */

void collect_skip(struct collector *c, const struct stage_header *h)
{
	struct stage_part p;
	size_t pos = 0;

	while (stage_next(h, &pos, &p))
		for (struct lane_view *v = c->views; v; v = v->next)
			if (v->name == p.block->lane && p.end > v->lane->tail && p.end <= v->lane->reserve)
				v->lane->tail = p.end;
	/* Its writer may have been killed before it could say in the lane that they stand here. */
	for (size_t i = 0; i < stage_gaps(h); i++) {
		const struct gap *g = &h->gap[i];

		if (g->lane == GAP_NO_LANE && g->upto > c->no_lane_seen && g->upto <= c->board->no_lane)
			c->no_lane_seen = g->upto;
		for (struct lane_view *v = c->views; v && g->lane; v = v->next)
			if (v->name == g->lane && g->upto > v->lost_seen && g->upto <= v->lane->lost)
				v->lost_seen = g->upto;
	}
}

void collect_process_gone(struct collector *c, uint32_t pid)
{
	for (struct lane_view *v = c->views; v; v = v->next)
		if (v->pid == pid)
			v->dead = true;
	namespace_forget(&c->namespaces, pid);
}

uint32_t collect_lanes(const struct collector *c, uint32_t pid)
{
	uint32_t n = 0;

	for (const struct lane_view *v = c->views; v; v = v->next)
		n += v->pid == pid;
	return n;
}

uint64_t collect_under_way(struct collector *c, uint32_t pid)
{
	uint64_t now, since;

	collect_find(c);
	now = since = clock_now(&c->clock);
	for (const struct lane_view *v = c->views; v; v = v->next) {
		uint64_t stamps[2] = { __atomic_load_n(&v->lane->hold, __ATOMIC_ACQUIRE),
				       __atomic_load_n(&v->lane->ahead, __ATOMIC_ACQUIRE) };

		for (int i = 0; i < 2 && v->pid == pid && !v->dead; i++) {
			uint64_t t = stamps[i] ? clock_time(&c->clock, stamps[i]) : since;

			if (t < since && now - t < STUCK_NS)
				since = t;
		}
	}
	return since - SLACK_NS;
}

/* Its first lane may be closed while it lives in a ring: gauges stay in the slot,
 * and so does our view of it. */
struct lane *collect_gauges(struct collector *c, uint32_t pid)
{
	for (struct lane_view *v = c->views; v; v = v->next)
		if (v->pid == pid && v->map_bytes == 0 && !v->dead && slot_gauges(v->lane)->used)
			return v->lane;
	return NULL;
}

int collect_seal(struct collector *c, struct stage *ret_old)
{
	struct stage fresh;
	int r;

	stage_lines(&c->stage, &c->clock);
	pending_refresh(c);
	r = stage_open(&fresh, c->folder, c->stage.h->serial + 1, &c->clock);
	if (r < 0)
		return r;
	for (size_t i = 0; i < c->npending; i++) { /* what is not applied yet must outlive the old stage */
		struct pending *p = &c->pending[i];
		const struct hot_place *place;
		struct head h;

		if (p->hot) {
			place = stage_hot_get(p->hot);
			p->hot = NULL;
			if (place == NULL || !head_read(&h, place->bytes, (uint32_t)place->len)) {
				h.change = (const uint8_t *)"";
				h.n = 0;
			}
			p->p = h.change;
			p->n = h.n;
			p->owned = false;
		}
		if (!p->owned) {
			p->p = xmemdup(p->p, p->n);
			p->owned = true;
		}
	}
	for (size_t i = 0; c->hot && i < HOT_KEYS; i++)
		c->hot[i].block = NULL; /* credit stays used up */
	MARK("stage to be sealed");
	c->stage.h->sealed_ns = c->watermark_ns;
	MARK("stage sealed");
	*ret_old = c->stage;
	c->stage = fresh;
	return 0;
}
