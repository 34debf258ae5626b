/* Batches: records that count together or not at all.  Called by the writing
 * calls under the store's lock.
 *
 * The last record so far is held back, because only it may lack the mark that
 * more follow; the others are in the segment, where readers hold them back.
 * Before the last is written the others are synced: it never reaches the disk
 * alone, whatever order the kernel chooses. */
#include "store/internal.h"

#include <errno.h>
#include <unistd.h>

#include "base/err.h"
#include "base/io.h"

/* A record of the batch, until it is folded in. */
struct batched {
	struct record_header h;
	struct buf meta, payload;   /* payload: of the held one, and in memory of all */
	uint64_t at;
};

/* The next sequence of a session that the batch has touched. */
struct batch_sequence {
	char session_id[16];
	uint64_t next;
};

struct batch {
	struct batched *list;
	size_t n, folded;           /* of them that are folded in already, for deletions to see */
	bool held;                  /* the last one is not in the segment yet */
	char (*going)[STORE_ID_LEN + 1]; /* snapshots to be deleted at the end */
	size_t ngoing;
	struct store_folding folding;
	struct batch_sequence *sequences;
	size_t nsequences;
	uint64_t start;             /* in the segment */
	uint64_t created_ns;        /* of the last: stamps rise within a batch */
	int failed;                 /* the first failure */
};

static void batch_free(struct store *s)
{
	struct batch *b = s->batch;

	for (size_t i = 0; i < b->n; i++) {
		buf_done(&b->list[i].meta);
		buf_done(&b->list[i].payload);
	}
	free(b->list);
	free(b->sequences);
	free(b->going);
	free(b);
	s->batch = NULL;
}

uint64_t batch_sequence(struct store *s, const char session_id[16], uint64_t next)
{
	struct batch *b = s->batch;

	for (size_t i = 0; i < b->nsequences; i++)
		if (memcmp(b->sequences[i].session_id, session_id, 16) == 0)
			return b->sequences[i].next++;
	b->sequences = xrealloc(b->sequences, (b->nsequences + 1) * sizeof *b->sequences);
	memcpy(b->sequences[b->nsequences].session_id, session_id, 16);
	b->sequences[b->nsequences++].next = next + 1;
	return next;
}

static int write_held(struct store *s, bool more)
{
	struct batched *held = &s->batch->list[s->batch->n - 1];
	int r;

	if (more)
		held->h.flags |= RECORD_MORE;
	r = segment_append(&s->segments[s->mine], &held->h, held->meta.data, held->payload.data, &held->at);
	buf_done(&held->payload);
	s->batch->held = false;
	return r;
}

int batch_put(struct store *s, struct record_header *h, const struct buf *meta, const void *payload)
{
	struct batch *b = s->batch;
	struct batched *held;

	if (b->failed)
		return fail(b->failed, "an earlier record of the batch was not written");
	if (b->held && !s->in_memory)
		b->failed = write_held(s, true);
	if (b->failed)
		return b->failed;
	if (h->created_ns <= b->created_ns)
		h->created_ns = b->created_ns + 1;
	b->created_ns = h->created_ns;
	if ((b->n & (b->n - 1)) == 0)
		b->list = xrealloc(b->list, (b->n ? b->n * 2 : 1) * sizeof *b->list);
	held = &b->list[b->n++];
	b->held = true;
	*held = (struct batched){ .h = *h };
	buf_put(&held->meta, meta->data, meta->len);
	buf_put(&held->payload, payload, h->payload_len);
	return 0;
}

/* The last one's header is what makes the others count. */
static int commit(struct store *s)
{
	struct segment *seg = &s->segments[s->mine];
	bool sync = s->o.fsync != STORE_FSYNC_NEVER;
	int r = s->batch->failed;

	if (r == 0 && s->batch->n > 1 && sync)
		r = segment_sync(seg);
	if (r == 0)
		r = write_held(s, false);
	if (r == 0 && sync)
		r = segment_sync(seg);
	return r;
}

/* Nobody has counted it yet, so the segment may go back to where it was. */
static void undo(struct store *s)
{
	struct segment *seg = &s->segments[s->mine];

	if (io->ftruncate(seg->fd, (off_t)s->batch->start) < 0)
		seg->failed = true; /* what stands there is a torn tail, and stays the end */
	seg->size = s->batch->start;
}

static void fold_batch(struct store *s)
{
	struct batch *b = s->batch;

	for (; b->folded < b->n; b->folded++) {
		struct batched *r = &b->list[b->folded];
		struct item *it;

		fold_record(s, s->in_memory ? UINT32_MAX : s->mine, r->at, &r->h, &r->meta);
		it = s->in_memory && r->h.type == RECORD_SNAPSHOT ? fold_item(s, r->h.id) : NULL;
		if (it)
			s->tiers[0]->put(s, it, r->payload.data, r->h.payload_len);
	}
}

/* ---- deletions ---- */

const char *batch_session_of(const struct store *s, const char *id)
{
	const struct batch *b = s->batch;

	for (size_t i = b ? b->n : 0; i-- > 0 && strlen(id) == STORE_ID_LEN;)
		if (b->list[i].h.type == RECORD_SNAPSHOT && memcmp(b->list[i].h.id, id, STORE_ID_LEN) == 0)
			return b->list[i].h.session_id;
	return NULL;
}

int batch_delete(struct store *s, const char *const *ids, size_t n, const struct store_folding *f)
{
	struct batch *b = s->batch;

	for (size_t i = 0; i < n; i++) {
		struct item *it = strlen(ids[i]) == STORE_ID_LEN ? fold_item(s, ids[i]) : NULL;

		if ((it == NULL || it->deleted) && batch_session_of(s, ids[i]) == NULL)
			return fail(-ENOENT, "no snapshot %s", ids[i]);
	}
	if (f)
		b->folding = *f;
	b->going = xrealloc(b->going, (b->ngoing + n) * sizeof *b->going);
	for (size_t i = 0; i < n; i++)
		memcpy(b->going[b->ngoing++], ids[i], STORE_ID_LEN + 1);
	return 0;
}

/* Deletions come last, when they can see what the batch made: it may stand on
 * what they delete. */
int batch_delete_now(struct store *s)
{
	struct batch *b = s->batch;
	const char **ids;
	int r;

	if (b == NULL || b->ngoing == 0 || b->failed)
		return 0;
	if (b->held && !s->in_memory)
		b->failed = write_held(s, true);
	if (b->failed)
		return b->failed;
	fold_batch(s);
	ids = xcalloc(b->ngoing, sizeof *ids);
	for (size_t i = 0; i < b->ngoing; i++)
		ids[i] = b->going[i];
	pthread_mutex_unlock(&s->lock);
	r = delete_within(s, ids, b->ngoing, &b->folding);
	pthread_mutex_lock(&s->lock);
	free(ids);
	return r;
}

int batch_begin(struct store *s)
{
	if (s->batch)
		return fail(-EINVAL, "a batch within a batch");
	s->batch = xcalloc(1, sizeof *s->batch);
	if (!s->in_memory)
		s->batch->start = s->segments[s->mine].size;
	return 0;
}

/* What was folded in for deletions that then failed. */
static void unfold(struct store *s)
{
	for (size_t i = 0; i < s->batch->folded; i++) {
		struct item *it = s->batch->list[i].h.type == RECORD_SNAPSHOT ? fold_item(s, s->batch->list[i].h.id) : NULL;

		if (it && !it->deleted)
			fold_forget(s, it);
	}
}

int batch_end(struct store *s, bool keep, bool *ret_stale)
{
	int r = 0;

	*ret_stale = false;
	if (s->batch == NULL)
		return fail(-EINVAL, "no batch was begun");
	if (keep && s->batch->n && !s->in_memory)
		r = commit(s);
	if (keep && r == 0) {
		fold_batch(s);
	} else if (s->in_memory) {
		unfold(s);
	} else {
		undo(s);
		*ret_stale = s->batch->folded > 0;
	}
	batch_free(s);
	return r;
}
