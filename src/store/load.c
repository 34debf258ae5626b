/* Loading what a record holds: from the tier that has it, through the memory
 * tier, decompressed; at once or while it is read.  Another process may have
 * compacted since the fold was made, then the store is read again, once. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "store/store.h"

#include <errno.h>

#include "base/err.h"
#include "store/codec.h"
#include "store/internal.h"

/* What a record holds; *ret_raw_len 0: it is not compressed. */
static int load_once(struct store *s, const struct snapshot_meta *m, struct buf *ret, uint64_t *ret_raw_len, bool *ret_gone)
{
	struct item *it;
	int r = -ENOENT;

	store_enter(s);
	it = fold_item(s, m->id);
	*ret_raw_len = it && it->h.flags & RECORD_COMPRESSED ? it->h.raw_len : 0;
	for (size_t k = 0; it && r == -ENOENT && s->tiers[k]; k++) {
		r = s->tiers[k]->get(s, it, ret);
		if (r == 0 && k > 0)
			s->tiers[0]->put(s, it, ret->data, ret->len);
	}
	*ret_gone = r == -ENOENT && it && s->batch == NULL && store_segment_gone(s);
	pthread_mutex_unlock(&s->lock);
	return it == NULL || r == -ENOENT ? fail(-ENOENT, "no snapshot %s", m->id) : r;
}

static int load_stored(struct store *s, const struct snapshot_meta *m, struct buf *ret, uint64_t *ret_raw_len)
{
	bool gone = false;
	int r = load_once(s, m, ret, ret_raw_len, &gone);

	if (!gone)
		return r;
	r = store_reload(s); /* the strings of *m live on until the next refresh of the caller's own */
	return r < 0 ? r : load_once(s, m, ret, ret_raw_len, &gone);
}

int store_load(struct store *s, const struct snapshot_meta *m, struct buf *ret)
{
	_cleanup_buf_ struct buf stored = BUF_INIT;
	uint64_t raw_len;
	int r = load_stored(s, m, &stored, &raw_len);

	if (r < 0)
		return r;
	if (raw_len)
		return codec_decompress(stored.data, stored.len, raw_len, ret);
	buf_put(ret, stored.data, stored.len);
	return 0;
}

int store_load_begin(struct store *s, const struct snapshot_meta *m, struct store_loading *ret)
{
	uint64_t raw_len;
	int r;

	*ret = (struct store_loading){ .payload = BUF_INIT, .stored = BUF_INIT };
	r = load_stored(s, m, &ret->stored, &raw_len);
	if (r == 0 && raw_len) {
		r = codec_ahead_begin(ret->stored.data, ret->stored.len, raw_len, &ret->payload, &ret->ahead);
	} else if (r == 0) {
		ret->payload = ret->stored;
		ret->stored = (struct buf)BUF_INIT;
	}
	if (r < 0) {
		buf_done(&ret->stored);
		buf_done(&ret->payload);
	}
	return r;
}

uint64_t store_loaded(struct store_loading *l, uint64_t n) { return l->ahead ? codec_ahead_wait(l->ahead, n) : l->payload.len; }

int store_load_end(struct store_loading *l)
{
	int r = codec_ahead_end(l->ahead);

	buf_done(&l->stored);
	return r;
}
