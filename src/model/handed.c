/* States that callers hand in: seven tables kept as they came, edited in
 * place, with a journal of the edits.  No meaning is read into them, so nothing
 * here knows of processes, and whatever stands in a table stays.
 *
 * An entry that was loaded is a row: its encoded bytes in the payload that it
 * came in, decoded when somebody looks inside.  Called by the API, importers
 * and the reader of handed-in snapshots, on any one thread. */
#include "model/internal.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#define PIECE_BYTES (256u << 10)
#define PIECE_MAX_BYTES (32u << 20)
#define PIECE_LARGE_BYTES (2u << 20)
#define JOURNAL_SLACK (1u << 20) /* a journal smaller than this is never given up */

struct piece {
	struct piece *older;
	size_t bytes;
};

/* ---- making and unmaking ---- */

struct model *model_new_handed(void)
{
	struct model *m = model_new();

	m->handed = true;
	return m;
}

bool model_is_handed(const struct model *m) { return m->handed; }

void handed_done(struct model *m)
{
	for (struct piece *p = (struct piece *)m->arena, *older; p; p = older) {
		older = p->older;
		munmap(p, p->bytes);
	}
	for (size_t i = 0; i < m->nkept; i++)
		buf_done(&m->kept[i]);
	for (size_t i = 0; i < m->nlayout; i++) {
		free(m->layout[i].name);
		value_done(&m->layout[i].value);
	}
	free(m->kept);
	free(m->layout);
	free(m->layout_slots);
	buf_done(&m->journal);
	buf_done(&m->scratch);
}

void model_keep(struct model *m, struct buf *payload)
{
	m->kept = xrealloc(m->kept, (m->nkept + 1) * sizeof *m->kept);
	m->kept[m->nkept++] = *payload;
	*payload = (struct buf)BUF_INIT;
}

/* Pieces grow with what is loaded, and large ones ask for large pages: first
 * touch of small ones costs more than all else that is done to an entity. */
static void piece_new(struct model *m, size_t at_least)
{
	struct piece *older = (struct piece *)m->arena, *p;
	size_t n = older ? older->bytes * 2 : PIECE_BYTES;

	if (n > PIECE_MAX_BYTES)
		n = PIECE_MAX_BYTES;
	while (n < at_least + sizeof *p)
		n *= 2;
	p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (older && n < PIECE_LARGE_BYTES ? MAP_POPULATE : 0), -1, 0);
	if (p == MAP_FAILED)
		abort(); /* as xmalloc() does */
	if (n >= PIECE_LARGE_BYTES)
		madvise(p, n, MADV_HUGEPAGE);
	p->older = older;
	p->bytes = n;
	m->arena = (uint8_t *)p;
	m->arena_left = n - sizeof *p;
}

static void *arena_get(struct model *m, size_t n)
{
	void *p;

	n = (n + 7) & ~(size_t)7;
	if (m->arena == NULL || m->arena_left < n)
		piece_new(m, n);
	p = m->arena + ((struct piece *)m->arena)->bytes - m->arena_left;
	m->arena_left -= n;
	return p;
}

struct entity *handed_room(struct model *m, size_t key_len)
{
	struct entity *e = arena_get(m, sizeof *e + key_len + 1); /* zeros: pieces are never used twice */

	e->in_arena = true;
	return e;
}

struct entity *handed_entity(struct model *m, enum table t, const char *key, size_t n)
{
	struct entity *e = handed_room(m, n);

	entity_enter(m, e, t, key, n);
	return e;
}

/* A Change of an entity, where it lies in its payload. */
struct patch {
	struct patch *before;
	const uint8_t *p;
	uint32_t n;
};

static bool patch_value(struct value *v, const struct change *c)
{
	struct value with;

	if (c->kind == FIELD_DROPPED) {
		value_unset_n(v, c->value.p ? c->value.p : "", c->value.n);
		return true;
	}
	if (!value_unpack(&with, c->entity.p, c->entity.n, 0))
		return false;
	if (c->kind == ENTITY_SET) {
		value_done(v);
		*v = with;
		return true;
	}
	if (c->kind == MESSAGE) {
		value_push(v, with);
		return true;
	}
	for (uint32_t i = 0; with.type == VALUE_OBJECT && i < with.n; i++) {
		value_set(v, with.pairs[i].name, with.pairs[i].name_len, false, with.pairs[i].value);
		with.pairs[i].value = (struct value){ 0 };
	}
	value_done(&with);
	return true;
}

/* The first one first; they are few. */
static void apply_patches(struct entity *e, const struct patch *p)
{
	struct change c;

	if (p == NULL)
		return;
	if (change_read(&c, p->p, p->n) && c.kind != ENTITY_SET) /* that one replaces what was before */
		apply_patches(e, p->before);
	patch_value(&e->value, &c);
}

static struct value empty_of(enum table t)
{
	return t == TABLE_COMMUNICATIONS ? value_list() : t == TABLE_METRICS ? value_real(0) : value_object();
}

/* States that share a decoded model may be looked at by several threads. */
const struct value *entity_value(const struct entity *const_e)
{
	static pthread_mutex_t unfolding = PTHREAD_MUTEX_INITIALIZER;
	struct entity *e = (struct entity *)const_e;

	if (!__atomic_load_n(&e->folded, __ATOMIC_ACQUIRE))
		return &e->value;
	pthread_mutex_lock(&unfolding);
	if (e->folded && e->late) {
		late_unfold(e);
		__atomic_store_n(&e->folded, false, __ATOMIC_RELEASE);
	} else if (e->folded) {
		if (e->row == NULL)
			e->value = empty_of((enum table)e->table);
		else if (!entry_unpack(e, e->row, e->row_len) && e->value.type == VALUE_ABSENT)
			e->value.type = VALUE_NULL;
		apply_patches(e, e->patches);
		__atomic_store_n(&e->folded, false, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&unfolding);
	return &e->value;
}

/* Rows of others may have their key anywhere; ours have it first. */
static bool row_of(const struct bytes *b, struct buf *row, struct bytes *ret_key)
{
	struct wire w;
	size_t pos = 0, from;
	int r;

	*ret_key = BYTES(NULL, 0);
	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0)
		if (w.field == 1 && w.type == 2)
			*ret_key = w.b;
	if (r < 0 || ret_key->p == NULL)
		return false;
	buf_reset(row);
	pack_bytes(row, 1, ret_key->p, ret_key->n);
	for (pos = from = 0; wire_next(b->p, b->n, &pos, &w) > 0; from = pos)
		if (w.field != 1)
			buf_put(row, (const uint8_t *)b->p + from, pos - from);
	return true;
}

bool model_load_checked(struct model *m, const uint8_t *p, size_t n)
{
	_cleanup_buf_ struct buf row = BUF_INIT;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		struct bytes key;
		struct entity *e;

		if (w.field == STATE_LAYOUT && w.type == 2 && !layout_unpack(m, w.b.p, w.b.n))
			return false;
		if (w.field < 2 || w.field > 8)
			continue;
		if (w.type != 2 || !row_of(&w.b, &row, &key) ||
		    !model_put_row(m, (enum table)(w.field - 1), key.p, key.n, row.data, row.len))
			return false;
		e = model_find(m, (enum table)(w.field - 1), key.p, key.n);
		if (!entry_unpack(e, e->row, e->row_len))
			return false;
		value_done(&e->value);
	}
	return r == 0;
}

/* ---- the layout ---- */

const struct layout_entry *model_layout(const struct model *m, size_t *ret_n)
{
	*ret_n = m->nlayout;
	return m->layout;
}

bool model_layout_changed(const struct model *m) { return m->layout_changed; }

/* A hash of the names once there are many: position + 1 by slot. */
#define LAYOUT_FEW 32u

static uint32_t *layout_slot(const struct model *m, const char *name, size_t n)
{
	uint64_t h = 14695981039346656037u;
	size_t at;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)name[i]) * 1099511628211u;
	for (at = (h ^ h >> 32) & (m->nlayout_slots - 1); m->layout_slots[at]; at = (at + 1) & (m->nlayout_slots - 1)) {
		const struct layout_entry *l = &m->layout[m->layout_slots[at] - 1];

		if (l->name_len == n && memcmp(l->name, name, n) == 0)
			break;
	}
	return &m->layout_slots[at];
}

static size_t layout_find(struct model *m, const char *name, size_t n)
{
	size_t i = 0;

	if (m->nlayout < LAYOUT_FEW) {
		while (i < m->nlayout && (m->layout[i].name_len != n || memcmp(m->layout[i].name, name, n)))
			i++;
		return i;
	}
	if (m->nlayout_slots < 2 * m->nlayout + 2) {
		free(m->layout_slots);
		m->nlayout_slots = 4 * LAYOUT_FEW;
		while (m->nlayout_slots < 4 * m->nlayout)
			m->nlayout_slots *= 2;
		m->layout_slots = xcalloc(m->nlayout_slots, sizeof *m->layout_slots);
		for (i = 0; i < m->nlayout; i++)
			*layout_slot(m, m->layout[i].name, m->layout[i].name_len) = (uint32_t)i + 1;
	}
	i = *layout_slot(m, name, n);
	return i ? i - 1 : m->nlayout;
}

void model_layout_add(struct model *m, const char *name, size_t n, enum table t, struct value v)
{
	struct layout_entry *l = m->layout;
	size_t i = layout_find(m, name, n);

	if (i < m->nlayout && l[i].table == t && value_same(&l[i].value, &v)) {
		value_done(&v);
		return;
	}
	m->layout_changed = true;
	if (i == m->nlayout) {
		m->layout = l = xrealloc(l, (i + 1) * sizeof *l);
		l[i] = (struct layout_entry){ .name = xmalloc(n + 1), .name_len = (uint32_t)n };
		memcpy(l[i].name, name, n);
		l[i].name[n] = 0;
		if (m->nlayout_slots)
			*layout_slot(m, name, n) = (uint32_t)i + 1;
		m->nlayout++;
	}
	value_done(&l[i].value);
	l[i].table = t;
	l[i].value = v;
}

void layout_pack(const struct model *m, uint32_t field, struct buf *out)
{
	size_t whole = pack_begin(out, field);

	for (size_t i = 0; i < m->nlayout; i++) {
		size_t entry = pack_begin(out, 1);

		pack_bytes(out, 1, m->layout[i].name, m->layout[i].name_len);
		if (m->layout[i].table)
			pack_uint(out, 2, m->layout[i].table);
		if (m->layout[i].value.type != VALUE_ABSENT) {
			size_t v = pack_begin(out, 3);

			value_pack(&m->layout[i].value, out);
			pack_end(out, v);
		}
		pack_end(out, entry);
	}
	pack_end(out, whole);
}

static bool layout_entry_unpack(struct model *m, const struct bytes *b)
{
	struct bytes name = BYTES("", 0);
	struct value v = { 0 };
	uint64_t table = 0;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 2) {
			name = w.b;
		} else if (w.field == 2 && w.type == 0) {
			table = w.u;
		} else if (w.field == 3 && w.type == 2) {
			value_done(&v);
			if (!value_unpack(&v, w.b.p, w.b.n, 0))
				return false;
		}
	}
	if (r < 0 || table >= TABLE_COUNT) {
		value_done(&v);
		return false;
	}
	model_layout_add(m, name.p, name.n, (enum table)table, v);
	return true;
}

bool layout_unpack(struct model *m, const uint8_t *p, size_t n)
{
	struct wire w;
	size_t pos = 0;
	int r;

	for (size_t i = 0; i < m->nlayout; i++) {
		free(m->layout[i].name);
		value_done(&m->layout[i].value);
	}
	m->nlayout = m->nlayout_slots = m->laid_out = 0;
	free(m->layout_slots);
	m->layout_slots = NULL;
	while ((r = wire_next(p, n, &pos, &w)) > 0)
		if (w.field == 1 && w.type == 2 && !layout_entry_unpack(m, &w.b))
			return false;
	m->layout_changed = false;
	return r == 0;
}

/* A table that is written to stands in the layout, if there is one. */
static void layout_needs(struct model *m, enum table t)
{
	const char *name = table_name(t);

	if (m->nlayout == 0 || m->laid_out & 1u << t)
		return;
	m->laid_out |= 1u << t;
	for (size_t i = 0; i < m->nlayout; i++)
		if (m->layout[i].table == t)
			return;
	model_layout_add(m, name, strlen(name), t, (struct value){ 0 });
}

/* ---- the journal ---- */

void model_journal_begin(struct model *m)
{
	buf_reset(&m->journal);
	buf_put(&m->journal, "\0\0\0\0\0", JOURNAL_HEAD);
	m->journal_changes = 0;
	m->journaled = true;
	m->layout_changed = false;
}

const struct buf *model_journal(const struct model *m, uint64_t *ret_changes)
{
	*ret_changes = m->journal_changes;
	return m->journaled ? &m->journal : NULL;
}

void model_journal_take(struct model *m, struct buf *ret)
{
	*ret = m->journal;
	m->journal = (struct buf)BUF_INIT;
	m->journaled = false;
}

/* Stamped 0: the snapshot's clock line says when. */
static size_t change_begin(struct buf *b, uint32_t kind, enum table t, const char *key, size_t n)
{
	size_t mark = pack_begin(b, RUN_CHANGES);

	pack_fixed64(b, 1, 0);
	pack_uint(b, 2, kind);
	pack_bytes(b, 4, key, n);
	pack_uint(b, 11, SOURCE_API);
	pack_uint(b, 23, t);
	return mark;
}

/* Room stays behind it for the times of a snapshot, so that making one never
 * moves the journal. */
#define TAIL_BYTES 128u

static void put_change(struct buf *b, uint32_t kind, enum table t, const char *key, size_t n, const struct value *v)
{
	size_t mark = change_begin(b, kind, t, key, n);

	if (v) {
		size_t entity = pack_begin(b, 24);

		value_pack(v, b);
		pack_end(b, entity);
	}
	pack_end(b, mark);
	buf_room(b, TAIL_BYTES);
}

/* Where the next Change of the journal goes, or NULL when none is kept. */
static struct buf *journal(struct model *m)
{
	if (m->journaled && m->journal.len > JOURNAL_SLACK && m->journal.len > model_size(m)) {
		buf_done(&m->journal); /* a full snapshot is smaller by now */
		m->journaled = false;
	}
	m->journal_changes += m->journaled;
	return m->journaled ? &m->journal : NULL;
}

static void note(struct model *m, uint32_t kind, enum table t, const char *key, size_t n, const struct value *v)
{
	struct buf *b = journal(m);

	if (b)
		put_change(b, kind, t, key, n, v);
}

static void note_field(struct model *m, enum table t, const char *key, size_t n, const char *field, size_t field_len,
		       const struct value *v)
{
	struct pair p = { .name = field, .name_len = (uint32_t)field_len };
	struct value one = { .type = VALUE_OBJECT, .n = 1, .pairs = &p };
	struct buf *b = journal(m);

	if (b == NULL)
		return;
	if (v) {
		p.value = *v;
		put_change(b, ENTITY_PATCHED, t, key, n, &one);
		return;
	}
	size_t mark = change_begin(b, FIELD_DROPPED, t, key, n);

	pack_bytes(b, 7, field, field_len);
	pack_end(b, mark);
}

/* ---- edits ---- */

static void tell(struct model *m, const struct entity *e, const char *field, const struct value *before, const struct value *after)
{
	if (m->observe)
		m->observe(m->observe_arg, e, field, before, after);
}

/* For writing: what it was decoded from holds no more. */
static struct entity *open_entity(struct model *m, enum table t, const char *key, size_t n, bool *ret_new)
{
	struct entity *e = model_find(m, t, key, n);

	*ret_new = e == NULL;
	if (e == NULL) {
		layout_needs(m, t);
		return entity_new(m, t, key, n);
	}
	entity_value(e);
	entity_drop_row(e);
	return e;
}

static void assign(struct model *m, enum table t, const char *key, size_t n, struct value v)
{
	bool is_new;
	struct entity *e = open_entity(m, t, key, n, &is_new);

	if (is_new || !value_same(&e->value, &v))
		tell(m, e, "", is_new ? NULL : &e->value, &v);
	value_done(&e->value);
	e->value = v;
}

/* Encoded at once: a state of many entities is copied row by row, and its
 * values would lie in as many pieces of memory as they have fields. */
void model_put(struct model *m, enum table t, const char *key, size_t n, struct value v)
{
	struct entity *e;

	note(m, ENTITY_SET, t, key, n, &v);
	assign(m, t, key, n, v);
	e = model_find(m, t, key, n);
	buf_reset(&m->scratch);
	entry_pack(e, false, &m->scratch);
	if (m->scratch.len > UINT32_MAX)
		return;
	e->row = xmemdup(m->scratch.data, m->scratch.len);
	e->row_len = (uint32_t)m->scratch.len;
	e->row_owned = e->folded = true;
	value_done(&e->value);
}

bool model_put_row(struct model *m, enum table t, const char *key, size_t n, const uint8_t *row, size_t row_len)
{
	struct entity *e = model_find(m, t, key, n);

	if (row_len > UINT32_MAX)
		return false;
	if (e == NULL) {
		layout_needs(m, t);
		e = handed_entity(m, t, key, n);
	} else {
		value_done(&e->value);
		entity_drop_row(e);
		e->dropped = 0;
	}
	e->row = xmemdup(row, row_len);
	e->row_len = (uint32_t)row_len;
	e->row_owned = e->folded = true;
	if (m->journaled)
		note(m, ENTITY_SET, t, key, n, entity_value(e));
	return true;
}

static void patch_field(struct model *m, struct entity *e, const char *field, size_t n, struct value v)
{
	struct value *old = value_get_n(&e->value, field, n);

	if (m->observe && (old == NULL || !value_same(old, &v))) {
		_cleanup_free_ char *name = xmalloc(n + 1);

		memcpy(name, field, n);
		name[n] = 0;
		tell(m, e, name, old, &v);
	}
	value_set(&e->value, field, n, false, v);
}

void model_put_field(struct model *m, enum table t, const char *key, size_t n, const char *field, size_t field_len, struct value v)
{
	bool is_new;

	note_field(m, t, key, n, field, field_len, &v);
	patch_field(m, open_entity(m, t, key, n, &is_new), field, field_len, v);
}

static void append(struct model *m, enum table t, const char *key, size_t n, struct value v)
{
	bool is_new;
	struct entity *e = open_entity(m, t, key, n, &is_new);
	char number[16];

	snprintf(number, sizeof number, "%u", e->value.type == VALUE_LIST ? e->value.n : 0);
	tell(m, e, number, NULL, &v);
	value_push(&e->value, v);
}

void model_put_message(struct model *m, const char *key, size_t n, struct value v)
{
	note(m, MESSAGE, TABLE_COMMUNICATIONS, key, n, &v);
	append(m, TABLE_COMMUNICATIONS, key, n, v);
}

bool model_drop(struct model *m, enum table t, const char *key, size_t n)
{
	struct entity *e = model_find(m, t, key, n);

	if (e == NULL)
		return false;
	if (m->observe)
		tell(m, e, "", entity_value(e), NULL);
	note(m, ENTITY_DELETED, t, key, n, NULL);
	entity_remove(m, e);
	return true;
}

static bool drop_field(struct model *m, struct entity *e, const char *field, size_t n)
{
	_cleanup_free_ char *name = xmalloc(n + 1);
	const struct value *old = e ? value_get_n(entity_value(e), field, n) : NULL;

	if (old == NULL)
		return false;
	memcpy(name, field, n);
	name[n] = 0;
	tell(m, e, name, old, NULL);
	entity_drop_row(e);
	value_unset(&e->value, name);
	return true;
}

bool model_drop_field(struct model *m, enum table t, const char *key, size_t n, const char *field, size_t field_len)
{
	if (!drop_field(m, model_find(m, t, key, n), field, field_len))
		return false;
	note_field(m, t, key, n, field, field_len, NULL);
	return true;
}

/* ---- applying a journal ---- */

static bool patch(struct model *m, const struct change *c, enum table t)
{
	struct value v;
	bool is_new;

	if (!value_unpack(&v, c->entity.p, c->entity.n, 0))
		return false;
	if (c->kind == ENTITY_SET) {
		assign(m, t, c->name.p, c->name.n, v);
	} else if (c->kind == MESSAGE) {
		append(m, t, c->name.p, c->name.n, v);
	} else {
		struct entity *e = open_entity(m, t, c->name.p, c->name.n, &is_new);

		for (uint32_t i = 0; v.type == VALUE_OBJECT && i < v.n; i++) {
			patch_field(m, e, v.pairs[i].name, v.pairs[i].name_len, v.pairs[i].value);
			v.pairs[i].value = (struct value){ 0 };
		}
		value_done(&v);
	}
	return true;
}

bool model_patch(struct model *m, uint64_t time_ns, const uint8_t *p, size_t n)
{
	struct change c;
	struct entity *e;

	if (!change_read(&c, p, n) || c.table == 0 || c.table >= TABLE_COUNT || c.name.p == NULL)
		return false;
	switch (c.kind) {
	case ENTITY_DELETED: model_drop(m, (enum table)c.table, c.name.p, c.name.n); return true;
	case FIELD_DROPPED:
		drop_field(m, model_find(m, (enum table)c.table, c.name.p, c.name.n), c.value.p ? c.value.p : "", c.value.n);
		break;
	case ENTITY_SET:
	case ENTITY_PATCHED:
	case MESSAGE:
		if (!patch(m, &c, (enum table)c.table))
			return false;
		break;
	default: return false;
	}
	e = model_find(m, (enum table)c.table, c.name.p, c.name.n);
	if (e) {
		e->time_ns = time_ns;
		e->source = SOURCE_API;
	}
	return true;
}

/* Damage inside an entity was ruled out by the record's checksum: who made it
 * wrong wrote it wrong, and it shows as what could be read of it. */
static bool patch_later(struct model *m, uint64_t time_ns, const struct change *c, const struct bytes *raw)
{
	struct entity *e = model_find(m, (enum table)c->table, c->name.p, c->name.n);
	struct patch *patch;

	if (c->kind == ENTITY_DELETED && e)
		entity_remove(m, e);
	if (c->kind == ENTITY_DELETED || (c->kind == FIELD_DROPPED && e == NULL))
		return true;
	if (c->kind != ENTITY_SET && c->kind != ENTITY_PATCHED && c->kind != MESSAGE && c->kind != FIELD_DROPPED)
		return false;
	if (e && !e->folded)
		return model_patch(m, time_ns, raw->p, raw->n);
	if (e == NULL) {
		layout_needs(m, (enum table)c->table);
		e = handed_entity(m, (enum table)c->table, c->name.p, c->name.n);
		e->folded = true;
	}
	patch = arena_get(m, sizeof *patch);
	*patch = (struct patch){ .before = e->patches, .p = raw->p, .n = raw->n };
	e->patches = patch;
	e->time_ns = time_ns;
	e->source = SOURCE_API;
	return true;
}

#define AHEAD 16u /* Changes that are looked up together */

bool model_patch_later(struct model *m, uint64_t time_ns, const uint8_t *run, size_t n)
{
	struct change c[AHEAD];
	struct bytes raw[AHEAD];
	struct key_hint hint[AHEAD];
	size_t pos = 0;
	int r = 1;

	while (r > 0) {
		struct wire w;
		unsigned k = 0;

		while (k < AHEAD && (r = wire_next(run, n, &pos, &w)) > 0) {
			if (w.field != RUN_CHANGES || w.type != 2)
				continue;
			if (!change_read(&c[k], w.b.p, w.b.n) || c[k].table == 0 || c[k].table >= TABLE_COUNT || c[k].name.p == NULL)
				return false;
			model_expect_key(m, (enum table)c[k].table, c[k].name.p, c[k].name.n, &hint[k]);
			raw[k++] = w.b;
		}
		for (unsigned i = 0; i < k; i++)
			model_expect_entity(&hint[i]);
		for (unsigned i = 0; i < k; i++)
			if (!patch_later(m, time_ns, &c[i], &raw[i]))
				return false;
	}
	return r == 0;
}

/* ---- the difference of two, as a journal ---- */

struct differing {
	struct buf *out;
	uint64_t n;
};

static void differ(struct differing *d, uint32_t kind, const struct entity *e, const struct value *v)
{
	put_change(d->out, kind, (enum table)e->table, e->key, e->key_len, v);
	d->n++;
}

static bool same_key(const struct entity *a, const struct entity *b)
{
	return a->hash == b->hash && a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0;
}

/* Fields that a patch can bring: those of `a` all stay, in their order, and new
 * ones follow.  Made into `ret`, whose pairs point into b's. */
static bool patchable(const struct value *a, const struct value *b, struct value *ret)
{
	*ret = value_object();
	if (a->type != VALUE_OBJECT || b->type != VALUE_OBJECT || b->n < a->n)
		return false;
	for (uint32_t i = 0; i < a->n; i++)
		if (a->pairs[i].name_len != b->pairs[i].name_len ||
		    memcmp(a->pairs[i].name, b->pairs[i].name, a->pairs[i].name_len))
			return false;
	ret->pairs = xmalloc((b->n + 1) * sizeof *ret->pairs);
	for (uint32_t i = 0; i < b->n; i++)
		if (i >= a->n || !value_same(&a->pairs[i].value, &b->pairs[i].value))
			ret->pairs[ret->n++] = b->pairs[i];
	return true;
}

static bool is_longer_list(const struct value *a, const struct value *b)
{
	if (a->type != VALUE_LIST || b->type != VALUE_LIST || b->n <= a->n)
		return false;
	for (uint32_t i = 0; i < a->n; i++)
		if (!value_same(&a->items[i], &b->items[i]))
			return false;
	return true;
}

static void differ_entity(struct differing *d, const struct entity *a, const struct entity *b)
{
	const struct value *va, *vb;
	struct value fields;

	if (entity_row(a) && entity_row(b) && a->row_len == b->row_len && memcmp(a->row, b->row, a->row_len) == 0)
		return;
	va = entity_value(a);
	vb = entity_value(b);
	if (value_same(va, vb))
		return;
	if (b->table == TABLE_COMMUNICATIONS && is_longer_list(va, vb)) {
		for (uint32_t i = va->n; i < vb->n; i++)
			differ(d, MESSAGE, b, &vb->items[i]);
		return;
	}
	if (patchable(va, vb, &fields) && fields.n)
		differ(d, ENTITY_PATCHED, b, &fields);
	else
		differ(d, ENTITY_SET, b, vb);
	free(fields.pairs); /* not what they hold */
}

/* Both lists are walked together as long as their order agrees.  From where it
 * does not, what is left of the old one is taken out and put in anew. */
static void differ_table(struct differing *d, const struct model *from, const struct model *to, enum table t)
{
	const struct entity *a = from->first[t], *b = to->first[t];

	while (a) {
		if (b && same_key(a, b)) {
			differ_entity(d, a, b);
			b = b->next;
		} else if (model_find(to, t, a->key, a->key_len) == NULL) {
			differ(d, ENTITY_DELETED, a, NULL);
		} else {
			break;
		}
		a = a->next;
	}
	for (; a; a = a->next)
		differ(d, ENTITY_DELETED, a, NULL);
	for (; b; b = b->next)
		differ(d, ENTITY_SET, b, entity_value(b));
}

uint64_t model_differ(const struct model *from, const struct model *to, struct buf *ret)
{
	struct differing d = { .out = ret };

	for (int t = 1; t < TABLE_COUNT; t++)
		differ_table(&d, from, to, (enum table)t);
	return d.n;
}

/* ---- a recorded state as one that can be edited ---- */

struct model *model_copy_handed(struct model *m)
{
	struct model *copy = model_new_handed();
	_cleanup_buf_ struct buf row = BUF_INIT;

	model_unfold(m);
	for (size_t i = 0; i < m->nlayout; i++)
		model_layout_add(copy, m->layout[i].name, m->layout[i].name_len, m->layout[i].table,
				 value_copy(&m->layout[i].value));
	for (int t = 1; t < TABLE_COUNT; t++) {
		for (const struct entity *e = m->first[t]; e; e = e->next) {
			buf_reset(&row);
			if (entity_row(e)) {
				buf_put(&row, e->row, e->row_len);
			} else {
				entity_value(e);
				entry_pack(e, false, &row);
			}
			model_put_row(copy, (enum table)t, e->key, e->key_len, row.data, row.len);
		}
	}
	return copy;
}
