/* Compaction: segments that nobody writes any more are rewritten without what is
 * dead in them, and the old ones go.
 *
 * A copy is the record as it was, so that one which stands twice, after a kill
 * in between, is one.  The new segments have their names when they are whole and on
 * the disk: a copy that a loss of power cut short would hide what it was made of.
 * Deletions outlive what they delete: one is dropped only
 * when no other segment has a record of its snapshot.  The old ones go one after the
 * other, so deletions that only they need stand in a segment of their own until the
 * last of them is gone.  One process at a
 * time; readers whose segments vanish read the folder anew. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/err.h"
#include "base/io.h"
#include "proto/store.pb-c.h"

struct compaction {
	struct store *s;
	bool *chosen;                /* of the segments */
	struct record_of {
		char id[16];
		uint32_t segment;
	} *dead;                     /* records of snapshots that were deleted, sorted */
	size_t n, cap;
	char (*bases)[16];           /* deleted ones that some that live stand on all the same, sorted */
	size_t nbases;
	const struct run_session **held; /* of those that were just deleted */
	size_t nheld;
	uint64_t now_ns;
	struct segment out;          /* being written; fd -1 none */
	struct segment meanwhile;    /* deletions that are needed until the old ones are gone; fd -1 none */
	char **written;              /* paths of all that were */
	size_t nwritten;
	uint64_t copied;
};

static int by_id(const void *a, const void *b) { return memcmp(a, b, 16); }

/* ---- what lives ---- */

static bool is_deletion(const struct buf *meta)
{
	Snaptrail__Store__Edit *e = snaptrail__store__edit__unpack(NULL, meta->len, meta->data);
	bool is = e && e->has_deleted && e->deleted;

	if (e)
		snaptrail__store__edit__free_unpacked(e, NULL);
	return is;
}

#define RACE_NS 3000000000u

/* Somebody may stand on it who did not hear that it was deleted: it was the
 * newest then, a moment old, and writers look every second. */
static bool just_deleted(const struct compaction *c, const struct item *it)
{
	return it->m.handed_in && it->edited_ns < it->m.created_ns + RACE_NS && c->now_ns < it->edited_ns + RACE_NS;
}

/* A session that is empty, but whose first snapshot is about to be written, or
 * whose last one is kept a moment longer, needs its name. */
static bool session_lives(const struct compaction *c, const char id[16])
{
	const struct run_session *r = fold_session(c->s, id, false);

	if (r == NULL || r->m.snapshots || r->m.ended_ns == 0)
		return r != NULL;
	for (size_t i = 0; i < c->nheld; i++)
		if (c->held[i] == r)
			return true;
	return c->now_ns < r->begun.created_ns + RACE_NS;
}

static bool stood_on(const struct compaction *c, const struct item *it)
{
	return c->nbases && bsearch(it->m.id, c->bases, c->nbases, 16, by_id);
}

/* Whether another segment, or one that stays, has a record of what a deletion in this
 * one deletes. */
static bool dead_elsewhere(const struct compaction *c, uint32_t segment, const char id[16], bool stays)
{
	const struct record_of *r = c->n ? bsearch(id, c->dead, c->n, sizeof *c->dead, by_id) : NULL;

	while (r && r > c->dead && memcmp(r[-1].id, id, 16) == 0)
		r--;
	for (; r && r < c->dead + c->n && memcmp(r->id, id, 16) == 0; r++)
		if (r->segment != segment && !(stays && c->chosen[r->segment]))
			return true;
	return false;
}

static bool edit_lives(const struct compaction *c, uint32_t segment, const struct record_header *h, const struct buf *meta)
{
	const struct item *it = fold_item(c->s, h->id);

	if (it && (!it->deleted || just_deleted(c, it) || stood_on(c, it)))
		return true;
	return is_deletion(meta) && dead_elsewhere(c, segment, h->id, false);
}

static bool lives(const struct compaction *c, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	const struct item *it;

	switch (h->type) {
	case RECORD_SNAPSHOT:
		it = fold_item(c->s, h->id);
		return it && it->segment == segment && it->at == at && (!it->deleted || just_deleted(c, it) || stood_on(c, it));
	case RECORD_EDIT: return edit_lives(c, segment, h, meta);
	default: return session_lives(c, h->session_id);
	}
}

/* Calls back for each record of a segment; -EBADMSG where one should be and is none,
 * or all behind it would be taken for dead. */
static int each_record(struct compaction *c, uint32_t k,
		       int (*each)(struct compaction *c, uint32_t k, uint64_t at, struct record_header *h, const struct buf *meta, void *arg),
		       void *arg)
{
	struct segment *seg = &c->s->segments[k];
	_cleanup_buf_ struct buf meta = BUF_INIT;
	struct record_header h;
	uint64_t at = SEGMENT_HEADER_BYTES;
	int r = segment_use(seg);

	while (r == 0 && at < seg->size) {
		r = segment_read(seg, at, &h, &meta);
		r = r > 0 ? each(c, k, at, &h, &meta, arg) : r < 0 ? r : -EBADMSG;
		at += record_extent_bytes(&h);
	}
	segment_rest(seg);
	return r;
}

static int add_dead(struct compaction *c, uint32_t k, uint64_t at, struct record_header *h, const struct buf *meta, void *arg)
{
	if (!lives(c, k, at, h, meta))
		*(uint64_t *)arg += record_extent_bytes(h);
	return 0;
}

static int add_dead_record(struct compaction *c, uint32_t k, uint64_t at, struct record_header *h, const struct buf *meta, void *arg)
{
	const struct item *it = fold_item(c->s, h->id);

	(void)at, (void)meta, (void)arg;
	if (h->type != RECORD_SNAPSHOT || (it && !it->deleted))
		return 0;
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 64;
		c->dead = xrealloc(c->dead, c->cap * sizeof *c->dead);
	}
	memcpy(c->dead[c->n].id, h->id, 16);
	c->dead[c->n++].segment = k;
	return 0;
}

/* Damaged ones are left alone: they are for repair. */
static bool may_go(struct compaction *c, uint32_t k)
{
	struct segment *seg = &c->s->segments[k];
	bool written;

	if (k == c->s->mine || seg->damaged || seg->torn || segment_use(seg) < 0)
		return false;
	written = segment_is_written(seg) || segment_file_bytes(seg) != seg->size;
	segment_rest(seg);
	return !written;
}

/* Deletions are looked at as if all went: what a first choice keeps for a
 * segment that stays makes it a little less dead, never more. */
static bool choose(struct compaction *c, double share)
{
	bool any = false;

	for (uint32_t k = 0; k < c->s->nsegments; k++) {
		uint64_t dead = 0;

		if (may_go(c, k) && each_record(c, k, add_dead, &dead) == 0)
			c->chosen[k] = dead > 0 && (double)dead >= share * (double)c->s->segments[k].size;
		any = any || c->chosen[k];
	}
	for (uint32_t k = 0; any && k < c->s->nsegments; k++)
		each_record(c, k, add_dead_record, NULL);
	if (c->n)
		qsort(c->dead, c->n, sizeof *c->dead, by_id);
	return any;
}

/* What a writer built on in the moment in which it was deleted, down to what
 * was not. */
static void find_bases(struct compaction *c)
{
	for (size_t i = 0; i < c->s->nall; i++) {
		const struct item *it = c->s->all[i];

		if (it->deleted && just_deleted(c, it)) {
			c->held = xrealloc(c->held, (c->nheld + 1) * sizeof *c->held);
			c->held[c->nheld++] = it->session;
		}
		if (it->deleted || it->m.type != SNAPSHOT_INCREMENTAL || !it->m.handed_in)
			continue;
		for (size_t steps = 0; steps < c->s->nall && it && it->m.base_id[0]; steps++) {
			it = fold_item(c->s, it->m.base_id);
			if (it == NULL || !it->deleted)
				break;
			c->bases = xrealloc(c->bases, (c->nbases + 1) * 16);
			memcpy(c->bases[c->nbases++], it->m.id, 16);
		}
	}
	if (c->nbases)
		qsort(c->bases, c->nbases, 16, by_id);
}

/* ---- copying ---- */

static int finish_out(struct compaction *c, struct segment *out)
{
	int r;

	if (out->fd < 0)
		return 0;
	r = segment_appear(out, c->s->o.fsync != STORE_FSYNC_NEVER);
	if (r < 0)
		return r;
	c->written = xrealloc(c->written, (c->nwritten + 1) * sizeof *c->written);
	c->written[c->nwritten++] = xstrdup(out->path);
	segment_close(out);
	return 0;
}

static void drop_out(struct segment *out)
{
	if (out->fd < 0)
		return;
	io->unlink(out->path);
	segment_close(out);
}

/* Nothing that was copied has gone from where it was. */
static void undo(struct compaction *c)
{
	drop_out(&c->out);
	drop_out(&c->meanwhile);
	for (size_t i = 0; i < c->nwritten; i++)
		io->unlink(c->written[i]);
}

/* A deletion of what is nowhere once the chosen segments are gone. */
static bool only_meanwhile(const struct compaction *c, uint32_t k, const struct record_header *h, const struct buf *meta)
{
	const struct item *it = fold_item(c->s, h->id);

	return is_deletion(meta) && (it == NULL || (it->deleted && !just_deleted(c, it) && !stood_on(c, it))) &&
	       !dead_elsewhere(c, k, h->id, true);
}

/* The old ones, and when none is left what was needed until then. */
static void remove_old(struct compaction *c, const char *meanwhile)
{
	bool gone = true;

	for (uint32_t k = 0; k < c->s->nsegments && gone; k++)
		if (c->chosen[k])
			gone = io->unlink(c->s->segments[k].path) == 0;
	if (meanwhile && gone && (c->s->o.fsync == STORE_FSYNC_NEVER || io_sync_folder(c->s->segments_path) == 0))
		io->unlink(meanwhile);
}

static int copy_one(struct compaction *c, uint32_t k, uint64_t at, struct record_header *h, const struct buf *meta, void *arg)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct segment *out = &c->out;
	uint64_t to;
	int r = 0;

	(void)arg;
	if (!lives(c, k, at, h, meta))
		return 0;
	if (h->type == RECORD_EDIT && only_meanwhile(c, k, h, meta))
		out = &c->meanwhile;
	if (out->fd >= 0 && out->size + h->payload_len > SEGMENT_MAX_BYTES)
		r = finish_out(c, out);
	if (r == 0 && out->fd < 0)
		r = segment_create_aside(out, c->s->segments_path);
	if (r == 0) /* checks it whole: a copy must not make damage sound */
		r = segment_payload(&c->s->segments[k], at, h, &payload, true);
	if (r == -EBADMSG)
		return r; /* damaged: the whole compaction stops, nothing is lost */
	h->flags &= (uint16_t)~RECORD_MORE;
	if (r == 0)
		r = segment_append(out, h, meta->data, payload.data, &to);
	if (out == &c->out)
		c->copied += record_extent_bytes(h);
	return r;
}

static int rewrite(struct compaction *c, uint64_t *ret_freed)
{
	const char *meanwhile = NULL;
	uint64_t before = 0;
	int r = 0;

	for (uint32_t k = 0; k < c->s->nsegments && r == 0; k++) {
		if (!c->chosen[k])
			continue;
		before += c->s->segments[k].size;
		r = each_record(c, k, copy_one, NULL);
	}
	if (r == 0)
		r = finish_out(c, &c->out);
	if (r == 0 && c->meanwhile.fd >= 0) {
		r = finish_out(c, &c->meanwhile);
		meanwhile = r == 0 ? c->written[c->nwritten - 1] : NULL;
	}
	if (r < 0) {
		undo(c);
		return r;
	}
	remove_old(c, meanwhile);
	*ret_freed = before > c->copied ? before - c->copied : 0;
	return 0;
}

/* ---- the whole ---- */

/* What this handle wrote counts like the rest: the next record begins another. */
static int seal_mine(struct store *s)
{
	struct segment *mine = s->mine == UINT32_MAX ? NULL : &s->segments[s->mine];
	int r = 0;

	if (mine == NULL)
		return 0;
	if (!mine->failed && s->o.fsync != STORE_FSYNC_NEVER)
		r = segment_sync(mine);
	mine->mine = false;
	s->mine = UINT32_MAX;
	segment_rest(mine);
	return r;
}

static int lock_compaction(const struct store *s)
{
	_cleanup_free_ char *path = xasprintf("%s.lock", s->index_path);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	close(fd);
	return -EBUSY;
}

int store_compact(struct store *s, double share, uint64_t *ret_freed)
{
	struct compaction c = { .s = s, .out = { .fd = -1 }, .meanwhile = { .fd = -1 } };
	int lock, r = 0;

	*ret_freed = 0;
	if (s->in_memory || s->o.read_only || s->batch)
		return 0;
	lock = lock_compaction(s);
	if (lock < 0)
		return lock == -EBUSY ? 0 : lock;
	segment_clear_aside(s->segments_path);
	store_refresh(s);
	pthread_mutex_lock(&s->lock);
	c.now_ns = store_now_ns();
	index_unpack_all(s);
	find_bases(&c);
	c.chosen = xcalloc(s->nsegments, sizeof *c.chosen);
	r = seal_mine(s);
	if (r == 0 && choose(&c, share))
		r = rewrite(&c, ret_freed);
	pthread_mutex_unlock(&s->lock);
	free(c.chosen);
	free(c.dead);
	free(c.bases);
	free(c.held);
	for (size_t i = 0; i < c.nwritten; i++)
		free(c.written[i]);
	free(c.written);
	if (r == 0 && *ret_freed)
		r = store_reload(s);
	close(lock);
	return r;
}
