/* What the Changes STACK and MODULE said: call stacks and the files that they
 * lie in, by id.  Ids are of the whole session and mean the same before and
 * after their Change, so nothing here has a time.  Each is kept as it will be
 * saved, one encoded message; beyond a number of them the oldest go. */
#include "model/internal.h"

#define STACKS_KEPT 16384u
#define MODULES_KEPT 8192u

struct said {
	uint64_t id;
	uint32_t n;
	uint8_t message[];
};

static size_t slot_of(const struct said_pool *p, uint64_t id)
{
	size_t i = (size_t)(id * 0x9e3779b97f4a7c15ull >> 20) & (p->nslots - 1);

	while (p->slots[i] && p->slots[i]->id != id)
		i = (i + 1) & (p->nslots - 1);
	return i;
}

static const struct said *pool_find(const struct said_pool *p, uint64_t id)
{
	return p->nslots ? p->slots[slot_of(p, id)] : NULL;
}

static void rebuild(struct said_pool *p, size_t nslots)
{
	free(p->slots);
	p->nslots = nslots;
	p->slots = xcalloc(nslots, sizeof *p->slots);
	for (size_t i = 0; i < p->count; i++)
		p->slots[slot_of(p, p->order[i]->id)] = p->order[i];
}

/* The older half goes at once: so it need not be done again soon. */
static void forget_half(struct said_pool *p)
{
	size_t gone = p->count / 2;

	for (size_t i = 0; i < gone; i++) {
		p->bytes -= p->order[i]->n;
		free(p->order[i]);
	}
	p->count -= gone;
	memmove(p->order, p->order + gone, p->count * sizeof *p->order);
	rebuild(p, p->nslots);
}

static void pool_put(struct said_pool *p, uint64_t id, const void *message, size_t n, size_t kept)
{
	struct said *s;

	if (id == 0 || pool_find(p, id))
		return;
	if (p->count == kept)
		forget_half(p);
	if (p->count == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 64;
		p->order = xrealloc(p->order, p->cap * sizeof *p->order);
	}
	if ((p->count + 1) * 2 > p->nslots)
		rebuild(p, p->nslots ? p->nslots * 2 : 128);
	s = xmalloc(sizeof *s + n);
	s->id = id;
	s->n = (uint32_t)n;
	memcpy(s->message, message, n);
	p->order[p->count++] = s;
	p->slots[slot_of(p, id)] = s;
	p->bytes += n;
}

void said_done(struct said_pool *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->order[i]);
	free(p->order);
	free(p->slots);
}

void stacks_take(struct model *m, const struct change *c)
{
	_cleanup_buf_ struct buf b = BUF_INIT;

	pack_fixed64(&b, 1, c->stack);
	if (c->kind == STACK) {
		pack_bytes(&b, 2, c->value.p, c->value.n);
		if (c->partial)
			pack_uint(&b, 3, 1);
		pool_put(&m->stacks, c->stack, b.data, b.len, STACKS_KEPT);
		return;
	}
	pack_bytes(&b, 2, c->name.p, c->name.n);
	pack_bytes(&b, 3, c->value.p, c->value.n);
	pack_uint(&b, 4, c->flags);
	pack_uint(&b, 5, (uint64_t)c->number);
	pack_uint(&b, 6, c->seq);
	pool_put(&m->modules, c->stack, b.data, b.len, MODULES_KEPT);
}

/* ---- saving and loading ---- */

static void pool_save(const struct said_pool *p, uint32_t field, struct buf *out)
{
	for (size_t i = 0; i < p->count; i++)
		pack_bytes(out, field, p->order[i]->message, p->order[i]->n);
}

void stacks_save(const struct model *m, struct buf *out)
{
	pool_save(&m->modules, STATE_MODULES, out);
	pool_save(&m->stacks, STATE_STACKS, out);
}

bool stacks_load(struct model *m, uint32_t field, struct bytes message)
{
	struct wire w;
	size_t pos = 0;

	if (wire_next(message.p, message.n, &pos, &w) <= 0 || w.field != 1 || w.type != 1)
		return false;
	if (field == STATE_STACKS)
		pool_put(&m->stacks, w.u, message.p, message.n, STACKS_KEPT);
	else
		pool_put(&m->modules, w.u, message.p, message.n, MODULES_KEPT);
	return true;
}

/* ---- what readers ask ---- */

static void frame_module(const struct model *m, uint64_t id, struct model_frame *f)
{
	const struct said *s = pool_find(&m->modules, id);
	struct wire w;
	size_t pos = 0;

	while (s && wire_next(s->message, s->n, &pos, &w) > 0) {
		switch (w.field) {
		case 2: f->path = w.type == 2 ? w.b : f->path; break;
		case 3: f->build_id = w.type == 2 ? w.b : f->build_id; break;
		case 4: f->start = w.u; break;
		case 5: f->length = w.u; break;
		case 6: f->bias = w.u; break;
		default: break;
		}
	}
}

size_t model_stack(const struct model *m, uint64_t id, struct model_frame *ret, size_t cap, bool *ret_cut)
{
	const struct said *s = id ? pool_find(&m->stacks, id) : NULL;
	size_t n = 0, pos = 0;
	struct wire w;

	*ret_cut = false;
	while (s && wire_next(s->message, s->n, &pos, &w) > 0) {
		if (w.field == 3 && w.type == 0)
			*ret_cut = w.u != 0;
		for (size_t i = 0; w.field == 2 && w.type == 2 && i + 16 <= w.b.n && n < cap; i += 16) {
			uint64_t pair[2];

			memcpy(pair, (const uint8_t *)w.b.p + i, sizeof pair);
			ret[n] = (struct model_frame){ .address = pair[0], .module = pair[1], .path = BYTES("", 0),
						       .build_id = BYTES("", 0) };
			frame_module(m, pair[1], &ret[n++]);
		}
	}
	return n;
}
