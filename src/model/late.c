/* Messages of a recorded channel that nobody has looked at yet: kept as they were
 * encoded, because most of a busy channel's go again before anybody does.  What
 * entity_value() makes of them is what on_message() would have made at once. */
#include "model/internal.h"

struct late_message {
	uint64_t said_ns;
	uint32_t pid;             /* whose it is where it does not say; 0: nobody's */
	uint32_t n;
	size_t at;                /* in `bytes` */
};

struct late {
	struct late_message *list;
	uint32_t n, cap;
	struct buf bytes;
};

void late_free(struct entity *e)
{
	if (!e->late)
		return;
	free(e->messages->list);
	buf_done(&e->messages->bytes);
	free(e->messages);
	e->messages = NULL;
	e->late = e->folded = false;
}

/* The oldest go: those that were looked at first. */
static void drop(struct entity *e, uint32_t count)
{
	struct late *l = e->messages;
	uint32_t looked_at = count < e->value.n ? count : e->value.n;
	size_t from;

	e->dropped += count;
	value_shift(&e->value, looked_at);
	count -= looked_at;
	if (count == 0)
		return;
	from = count < l->n ? l->list[count].at : l->bytes.len;
	memmove(l->bytes.data, l->bytes.data + from, l->bytes.len - from);
	l->bytes.len -= from;
	l->n -= count;
	memmove(l->list, l->list + count, l->n * sizeof *l->list);
	for (uint32_t i = 0; i < l->n; i++)
		l->list[i].at -= from;
}

void late_push(struct entity *e, uint32_t pid, uint64_t said_ns, struct bytes value, uint32_t kept)
{
	struct late *l;

	if (e->value.type != VALUE_LIST) { /* somebody set it to something else; value_push() does the same */
		value_done(&e->value);
		e->value = value_list();
	}
	if (!e->late) {
		e->messages = xcalloc(1, sizeof *e->messages);
		e->late = true;
	}
	l = e->messages;
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->list = xrealloc(l->list, l->cap * sizeof *l->list);
	}
	l->list[l->n++] = (struct late_message){ .said_ns = said_ns, .pid = pid, .n = value.n, .at = l->bytes.len };
	buf_put(&l->bytes, value.p, value.n);
	e->folded = true;
	if (e->value.n + l->n >= kept * 2)
		drop(e, e->value.n + l->n - kept);
}

void late_unfold(struct entity *e)
{
	struct late *l = e->messages;

	for (uint32_t i = 0; i < l->n; i++) {
		const struct late_message *m = &l->list[i];
		struct value v;

		if (!value_unpack(&v, l->bytes.data + m->at, m->n, 0))
			v = (struct value){ .type = VALUE_NULL };
		message_complete(&v, m->pid, m->said_ns);
		value_push(&e->value, v);
	}
	l->n = 0;
	buf_reset(&l->bytes);
}
