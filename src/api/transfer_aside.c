/* Snapshots that were read and wait to be stored: in a file without a name, so that
 * neither memory nor the store holds what may turn out to be cut short.  See
 * transfer.h. */
#include "api/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/err.h"
#include "store/codec.h"

/* A file without a name, where all this will be in the end. */
static FILE *nameless(const char *folder)
{
	int fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create("snaptrail-import", MFD_CLOEXEC);

	return fd < 0 ? tmpfile() : fdopen(fd, "w+");
}

static const char *const kept_names[] = { "id", "session", "description", "tags", "changes" };
enum { KEPT = sizeof kept_names / sizeof *kept_names };

static void kept_of(struct incoming *in, struct value *ret[KEPT])
{
	struct value *const all[KEPT] = { &in->id, &in->session, &in->description, &in->tags, &in->changes };

	memcpy(ret, all, sizeof all);
}

/* What stands in front of each: its facts, and how long its parts are. */
struct facts {
	uint64_t meta_len, state_len, raw_len; /* raw_len 0: no state */
	uint64_t type, time_ns, creation_ns, expires_ns, lost;
	uint64_t packed_len, size_bytes, agents, tasks, memory;
};

#define AS_IT_IS_BYTES (256u << 20) /* of states; what comes beyond is compressed */

static void pack_state(struct aside *w, struct incoming *in, struct facts *a, struct buf *out)
{
	_cleanup_buf_ struct buf raw = BUF_INIT;

	if (in->state == NULL)
		return;
	model_save(in->state, in->time_ns, &raw);
	a->raw_len = a->state_len = raw.len;
	w->bytes += raw.len;
	if (w->bytes > AS_IT_IS_BYTES && codec_compress(raw.data, raw.len, out)) {
		a->state_len = out->len;
		return;
	}
	buf_done(out);
	*out = raw;
	raw = (struct buf)BUF_INIT;
}

static bool write_part(FILE *f, const void *p, size_t n) { return n == 0 || fwrite(p, 1, n, f) == n; }

int aside_put(struct aside *w, const char *folder, struct incoming *in)
{
	_cleanup_buf_ struct buf meta = BUF_INIT, state = BUF_INIT;
	struct facts a = { .type = (uint64_t)in->type, .time_ns = in->time_ns, .creation_ns = in->creation_ns,
			   .expires_ns = in->expires_ns, .lost = in->lost, .packed_len = in->packed.len, .size_bytes = in->size_bytes,
			   .agents = in->agents, .tasks = in->tasks, .memory = in->memory };
	struct value v = value_object(), *kept[KEPT];

	kept_of(in, kept);
	for (size_t i = 0; i < KEPT; i++)
		if (kept[i]->type != VALUE_ABSENT)
			value_set(&v, kept_names[i], strlen(kept_names[i]), true, value_copy(kept[i]));
	object_pack(&v, &meta);
	value_done(&v);
	a.meta_len = meta.len;
	pack_state(w, in, &a, &state);
	if (w->f == NULL && (w->f = nameless(folder)) == NULL)
		return fail(-errno, "a temporary file: %s", strerror(errno));
	if ((w->n & (w->n - 1)) == 0)
		w->places = xrealloc(w->places, (w->n ? w->n * 2 : 1) * sizeof *w->places);
	w->places[w->n++] = (uint64_t)ftello(w->f);
	if (!write_part(w->f, &a, sizeof a) || !write_part(w->f, meta.data, meta.len) || !write_part(w->f, state.data, state.len) ||
	    !write_part(w->f, in->packed.data, in->packed.len))
		return fail(errno ? -errno : -EIO, "a temporary file: %s", strerror(errno));
	return 0;
}

static bool unpack_state(const struct facts *a, struct buf *packed, struct incoming *in)
{
	_cleanup_buf_ struct buf raw = BUF_INIT;

	if (a->state_len == a->raw_len) {
		raw = *packed;
		*packed = (struct buf)BUF_INIT;
	} else if (codec_decompress(packed->data, packed->len, a->raw_len, &raw) < 0)
		return false;
	in->state = model_new_handed();
	if (!model_load(in->state, raw.data, raw.len))
		return false;
	model_keep(in->state, &raw);
	return true;
}

static bool read_part(FILE *f, uint64_t n, struct buf *ret)
{
	ret->len = fread(buf_room(ret, n + 1), 1, n, f);
	return ret->len == n;
}

bool aside_get(struct aside *w, uint64_t at, struct incoming *in)
{
	_cleanup_buf_ struct buf meta = BUF_INIT, state = BUF_INIT;
	struct value v, *kept[KEPT];
	struct facts a;

	*in = (struct incoming){ .has_time = true };
	if (fseeko(w->f, (off_t)at, SEEK_SET) || fread(&a, sizeof a, 1, w->f) != 1 ||
	    !read_part(w->f, a.meta_len, &meta) || !read_part(w->f, a.state_len, &state) ||
	    !object_unpack(&v, meta.data, meta.len, 0))
		return false;
	kept_of(in, kept);
	for (size_t i = 0; i < KEPT; i++)
		if (value_get(&v, kept_names[i]))
			*kept[i] = value_copy(value_get(&v, kept_names[i]));
	value_done(&v);
	in->type = (int)a.type;
	in->time_ns = a.time_ns;
	in->creation_ns = a.creation_ns;
	in->expires_ns = a.expires_ns;
	in->lost = a.lost;
	in->size_bytes = a.size_bytes;
	in->agents = a.agents;
	in->tasks = a.tasks;
	in->memory = a.memory;
	return read_part(w->f, a.packed_len, &in->packed) && (a.raw_len == 0 || unpack_state(&a, &state, in));
}

void aside_done(struct aside *w)
{
	free(w->places);
	if (w->f)
		fclose(w->f);
	*w = (struct aside){ 0 };
}
