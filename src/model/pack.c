/* The state as message SystemState, and back.  One table of known fields says
 * which name has which number; what does not fit its field exactly goes into
 * `extra`, so that nothing handed over is lost. */
#include "model/internal.h"

#include <ctype.h>

static const struct field agent_fields[] = {
	{ "id", 1, FIELD_TEXT }, { "name", 2, FIELD_TEXT }, { "type", 3, FIELD_TEXT }, { "status", 4, FIELD_TEXT },
	{ "parent", 5, FIELD_TEXT }, { "commandLine", 6, FIELD_TEXT }, { "currentTask", 7, FIELD_TEXT },
	{ "createdAt", 8, FIELD_REAL }, { "lastActivity", 9, FIELD_REAL }, { "exitCode", 10, FIELD_INT },
	{ "signal", 11, FIELD_TEXT }, { "endReason", 12, FIELD_TEXT }, { "execCount", 13, FIELD_INT },
	{ "variables", 14, FIELD_OBJECT }, { "performance", 15, FIELD_OBJECT }, { "pid", 16, FIELD_INT },
	{ "tid", 17, FIELD_INT }, { "executable", 18, FIELD_TEXT }, { "endedAt", 19, FIELD_REAL },
	{ "startTicks", 20, FIELD_INT }, { "uid", 21, FIELD_INT }, { 0 },
};
static const struct field task_fields[] = {
	{ "id", 1, FIELD_TEXT }, { "agentId", 2, FIELD_TEXT }, { "type", 3, FIELD_TEXT }, { "status", 4, FIELD_TEXT },
	{ "progress", 5, FIELD_REAL }, { "startedAt", 6, FIELD_REAL }, { "completedAt", 7, FIELD_REAL },
	{ "result", 8, FIELD_TEXT }, { "error", 9, FIELD_TEXT }, { "description", 10, FIELD_TEXT }, { 0 },
};
static const struct field memory_fields[] = {
	{ "value", 1, FIELD_TEXT }, { "timestamp", 2, FIELD_REAL }, { "agentId", 3, FIELD_TEXT },
	{ "type", 4, FIELD_TEXT }, { 0 },
};
static const struct field message_fields[] = {
	{ "message", 1, FIELD_TEXT }, { "direction", 2, FIELD_TEXT }, { "source", 3, FIELD_TEXT },
	{ "target", 4, FIELD_TEXT }, { "timestamp", 5, FIELD_REAL }, { "type", 6, FIELD_TEXT }, { 0 },
};
static const struct field resource_fields[] = {
	{ "id", 1, FIELD_TEXT }, { "type", 2, FIELD_TEXT }, { "status", 3, FIELD_TEXT },
	{ "allocation", 4, FIELD_OBJECT }, { "usage", 5, FIELD_OBJECT }, { "timestamp", 6, FIELD_REAL }, { 0 },
};
static const struct field swarm_fields[] = {
	{ "id", 1, FIELD_TEXT }, { "topology", 2, FIELD_TEXT }, { "activeAgents", 3, FIELD_INT },
	{ "runningTasks", 4, FIELD_INT }, { "coordinationStatus", 5, FIELD_TEXT }, { 0 },
};

const struct field *schema_fields(enum table t)
{
	switch (t) {
	case TABLE_AGENTS: return agent_fields;
	case TABLE_TASKS: return task_fields;
	case TABLE_MEMORY: return memory_fields;
	case TABLE_COMMUNICATIONS: return message_fields;
	case TABLE_RESOURCES: return resource_fields;
	case TABLE_SWARMS: return swarm_fields;
	default: return NULL;
	}
}

enum { EXTRA = 100, STAMP = 102 };

static bool fits(const struct value *v, enum field_kind kind)
{
	switch (kind) {
	case FIELD_TEXT: return v->type == VALUE_STRING;
	case FIELD_INT: return v->type == VALUE_INT;
	case FIELD_REAL: return v->type == VALUE_DOUBLE;
	case FIELD_OBJECT: return v->type == VALUE_OBJECT && v->n > 0;
	}
	return false;
}

static void pack_field(const struct pair *p, const struct field *fields, struct buf *out)
{
	const struct field *f = fields;
	size_t mark;

	while (f->name && f->name != p->name && strcmp(f->name, p->name))
		f++;
	if (f->name && fits(&p->value, f->kind)) {
		switch (f->kind) {
		case FIELD_TEXT: pack_bytes(out, f->number, p->value.bytes, p->value.n); return;
		case FIELD_INT: pack_uint(out, f->number, zigzag(p->value.integer)); return;
		case FIELD_REAL: pack_real(out, f->number, p->value.real); return;
		case FIELD_OBJECT:
			mark = pack_begin(out, f->number);
			object_pack(&p->value, out);
			pack_end(out, mark);
			return;
		}
	}
	mark = pack_begin(out, EXTRA);
	pair_pack(p, out);
	pack_end(out, mark);
}

static void pack_fields(const struct value *v, const struct field *fields, struct buf *out)
{
	for (uint32_t i = 0; i < v->n; i++)
		pack_field(&v->pairs[i], fields, out);
}

static void pack_stamp(const struct entity *e, uint32_t field, struct buf *out)
{
	size_t mark = pack_begin(out, field);

	pack_fixed64(out, 1, e->time_ns);
	pack_uint(out, 2, e->order);
	if (e->source)
		pack_uint(out, 3, e->source);
	if (e->ended)
		pack_uint(out, 4, e->ended);
	if (e->inherited)
		pack_uint(out, 5, 1);
	pack_end(out, mark);
}

static void pack_channel(const struct entity *e, struct buf *out)
{
	for (uint32_t i = 0; i < e->value.n; i++) {
		size_t mark = pack_begin(out, 1);

		pack_fields(&e->value.items[i], message_fields, out);
		pack_end(out, mark);
	}
	if (e->dropped)
		pack_uint(out, 2, e->dropped);
}

static bool all_objects(const struct value *list)
{
	for (uint32_t i = 0; list->type == VALUE_LIST && i < list->n; i++)
		if (list->items[i].type != VALUE_OBJECT)
			return false;
	return list->type == VALUE_LIST;
}

void entry_pack(const struct entity *e, bool stamped, struct buf *out)
{
	bool metric = e->table == TABLE_METRICS, channel = e->table == TABLE_COMMUNICATIONS;
	bool shaped = channel ? all_objects(&e->value) : e->value.type == VALUE_OBJECT;
	size_t mark;

	pack_bytes(out, 1, e->key, e->key_len);
	mark = pack_begin(out, 2);
	if (metric)
		value_pack(&e->value, out);
	else if (channel && shaped)
		pack_channel(e, out);
	else if (shaped)
		pack_fields(&e->value, schema_fields(e->table), out);
	if (stamped && !metric)
		pack_stamp(e, STAMP, out);
	pack_end(out, mark);
	if (stamped && metric)
		pack_stamp(e, 3, out);
	if (!metric && !shaped) { /* not of its table's shape: kept whole */
		mark = pack_begin(out, 3);
		value_pack(&e->value, out);
		pack_end(out, mark);
	}
}

#define ROWS_AHEAD 4u

#define AWAITED 4u /* in AgentEntry */

static void pack_entity(const struct model *m, const struct entity *e, struct buf *out)
{
	size_t mark;

	if (entity_row(e)) {
		pack_bytes(out, e->table + 1u, e->row, e->row_len);
		return;
	}
	if (m->handed || e->late)
		entity_value(e);
	mark = pack_begin(out, e->table + 1u);
	entry_pack(e, !m->handed, out);
	if (e->owner && e->owner->agent == e && e->owner->awaited_ns)
		pack_bytes(out, AWAITED, e->owner->awaited, strlen(e->owner->awaited));
	pack_end(out, mark);
}

/* Entities lie anywhere: each is fetched some places before it is its turn, and
 * its row some fewer. */
static void save_table(const struct model *m, const struct entity *e, struct buf *out)
{
	const struct entity *soon = e;

	for (unsigned i = 0; soon && i < ROWS_AHEAD; i++)
		soon = soon->next;
	for (; e; e = e->next) {
		if (soon) {
			__builtin_prefetch(soon->ahead);
			for (uintptr_t at = (uintptr_t)soon->row, end = at + 3 * 64; at < end; at += 64)
				__builtin_prefetch((const void *)at);
			soon = soon->next;
		}
		pack_entity(m, e, out);
	}
}

void model_save(struct model *m, uint64_t time_ns, struct buf *out)
{
	model_unfold(m);
	model_renumber_ended(m);
	pack_fixed64(out, 1, time_ns);
	if (m->handed)
		layout_pack(m, STATE_LAYOUT, out);
	for (int t = 1; t < TABLE_COUNT; t++)
		save_table(m, m->first[t], out);
	for (const struct environment *v = m->environments; v; v = v->next) {
		size_t mark = pack_begin(out, 10);

		pack_fixed64(out, 1, v->hash);
		for (uint32_t i = 0; i < v->list.n; i++)
			pack_bytes(out, 2, v->list.items[i].bytes, v->list.items[i].n);
		pack_end(out, mark);
	}
	for (size_t i = 0; i < m->graves_count; i++) {
		const struct entity *e = m->graves[(m->graves_head + i) % m->graves_cap];
		size_t mark;

		if (e == NULL || !e->dead)
			continue;
		mark = pack_begin(out, 11);
		pack_uint(out, 1, e->table);
		pack_bytes(out, 2, e->key, e->key_len);
		pack_stamp(e, 3, out);
		pack_end(out, mark);
	}
	stacks_save(m, out);
}

/* ---- loading ---- */

static bool load_stamp(struct entity *e, const struct wire *from)
{
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(from->b.p, from->b.n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 1)
			e->time_ns = w.u;
		else if (w.field == 2 && w.type == 0)
			e->order = w.u;
		else if (w.field == 3 && w.type == 0)
			e->source = (uint8_t)w.u;
		else if (w.field == 4 && w.type == 0)
			e->ended = w.u;
		else if (w.field == 5 && w.type == 0)
			e->inherited = w.u && e->table == TABLE_MEMORY;
	}
	return r == 0;
}

static bool load_field(struct value *object, const struct field *f, const struct wire *w)
{
	struct value v = { 0 };

	switch (f->kind) {
	case FIELD_TEXT:
		if (w->type != 2)
			return false;
		v = value_text(w->b.p, w->b.n);
		break;
	case FIELD_INT:
		if (w->type != 0)
			return false;
		v = value_int((int64_t)(w->u >> 1) ^ -(int64_t)(w->u & 1));
		break;
	case FIELD_REAL:
		if (w->type != 1)
			return false;
		v.type = VALUE_DOUBLE;
		memcpy(&v.real, &w->u, 8);
		break;
	case FIELD_OBJECT:
		if (w->type != 2 || !object_unpack(&v, w->b.p, w->b.n, 0))
			return false;
		break;
	}
	value_set(object, f->name, strlen(f->name), true, v);
	return true;
}

/* An entity's message into an object; its stamp into e, when there is one. */
static bool load_fields(struct value *object, const struct field *fields, const struct bytes *b, struct entity *e)
{
	struct wire w;
	size_t pos = 0;
	bool extra = false;
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		const struct field *f = fields;

		if (w.field == STAMP && w.type == 2) {
			if (e && !load_stamp(e, &w))
				return false;
			continue;
		}
		if (w.field == EXTRA && w.type == 2) {
			if (!pair_unpack(object, w.b.p, w.b.n, 0))
				return false;
			extra = true;
			continue;
		}
		while (f->name && f->number != w.field)
			f++;
		if (f->name && !load_field(object, f, &w))
			return false;
	}
	if (extra)
		value_unite(object);
	return r == 0;
}

static bool load_channel(struct entity *e, const struct bytes *b)
{
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 2) {
			struct value v = value_object();

			if (!load_fields(&v, message_fields, &w.b, NULL)) {
				value_done(&v);
				return false;
			}
			value_push(&e->value, v);
		} else if (w.field == 2 && w.type == 0) {
			e->dropped = w.u;
		} else if (w.field == STAMP && w.type == 2 && !load_stamp(e, &w)) {
			return false;
		}
	}
	return r == 0;
}

static bool load_value(struct entity *e, const struct wire *w)
{
	if (e->table == TABLE_METRICS && w->field == 3)
		return load_stamp(e, w);
	if (e->table == TABLE_METRICS || w->field == 3) {
		value_done(&e->value);
		return value_unpack(&e->value, w->b.p, w->b.n, 0);
	}
	if (e->table == TABLE_COMMUNICATIONS)
		return load_channel(e, &w->b);
	return load_fields(&e->value, schema_fields(e->table), &w->b, e);
}

/* "p123~..." belongs to no process: it is gone. */
uint32_t key_pid(const char *key, bool *ret_whole)
{
	uint64_t pid = 0;
	const char *s = key + 1;

	*ret_whole = false;
	if (key[0] != 'p' || !isdigit((unsigned char)*s))
		return 0;
	while (isdigit((unsigned char)*s) && pid <= UINT32_MAX)
		pid = pid * 10 + (uint64_t)(*s++ - '0');
	*ret_whole = *s == 0;
	return pid <= UINT32_MAX && (*s == 0 || *s == '/') ? (uint32_t)pid : 0;
}

/* An environment that was unfolded is put together again. */
static void inherit_again(struct entity *e, struct process *p)
{
	const struct value *v = value_get(&e->value, "value");
	const char *name = strchr(e->key, '/');

	if (v == NULL || v->type != VALUE_STRING || name == NULL || strncmp(name, "/env/", 5)) {
		e->inherited = false;
		return;
	}
	_cleanup_buf_ struct buf text = BUF_INIT;

	buf_str(&text, name + 5);
	buf_byte(&text, '=');
	buf_put(&text, v->bytes, v->n);
	if (p->unfolded == NULL)
		p->unfolded = environment_unnamed();
	value_push(&p->unfolded->list, value_text(text.data, text.len));
	p->inherited++;
	p->env_time_ns = e->time_ns;
	p->env_order = e->order;
}

/* Puts a loaded entity back among its process's. */
static void adopt(struct model *m, struct entity *e)
{
	bool whole;
	uint32_t pid = key_pid(e->key, &whole);

	if (e->table == TABLE_SWARMS && whole && m->swarm[0] == 0 && e->key_len < sizeof m->swarm)
		memcpy(m->swarm, e->key, e->key_len + 1u);
	entity_recount(m, e);
	if (explicit_entity(e)) { /* the process that spoke of it last */
		const struct value *said_by = value_get(&e->value, "pid");

		pid = said_by && said_by->type == VALUE_INT ? (uint32_t)said_by->integer : 0;
	}
	if (pid == 0 || e->table == TABLE_SWARMS || e->table == TABLE_METRICS)
		return;
	struct process *p = process_get(m, pid, true);

	entity_own(m, e, p);
	if (e->inherited)
		inherit_again(e, p);
	if (e->table == TABLE_AGENTS && whole) {
		const struct value *execs = value_get(&e->value, "execCount");

		p->agent = e;
		p->alive = !agent_ended(e);
		m->alive += p->alive;
		p->exec_count = execs && execs->type == VALUE_INT ? (uint32_t)execs->integer : 0;
	}
}

bool entry_unpack(struct entity *e, const uint8_t *p, size_t n)
{
	struct wire w;
	size_t pos = 0;
	int r;

	e->value = e->table == TABLE_COMMUNICATIONS ? value_list() : e->table == TABLE_METRICS ? value_real(0) : value_object();
	while ((r = wire_next(p, n, &pos, &w)) > 0)
		if (w.type != 2 || ((w.field == 2 || w.field == 3) && !load_value(e, &w)))
			return false;
	return r == 0;
}

#define BEHIND 16u /* entities between listing one and putting it into the hash */

struct waiting {
	struct entity *e[BEHIND];
	unsigned n;
};

/* The key alone: what is inside stays as it is until somebody asks. */
static bool load_row(struct model *m, enum table t, const struct bytes *b, struct waiting *q)
{
	struct entity *e;
	struct wire w;
	size_t pos = 0;

	if (wire_next(b->p, b->n, &pos, &w) <= 0 || w.field != 1 || w.type != 2)
		return false;
	e = handed_room(m, w.b.n);
	entity_list(m, e, t, w.b.p, w.b.n);
	e->row = (const uint8_t *)b->p;
	e->row_len = (uint32_t)b->n;
	e->folded = true;
	if (q->n >= BEHIND)
		entity_hash(m, q->e[q->n % BEHIND]);
	q->e[q->n++ % BEHIND] = e;
	return true;
}

static void load_waiting(struct model *m, struct waiting *q)
{
	for (unsigned i = q->n > BEHIND ? q->n - BEHIND : 0; i < q->n; i++)
		entity_hash(m, q->e[i % BEHIND]);
}

static bool load_entry(struct model *m, enum table t, const struct bytes *b)
{
	struct bytes key = BYTES("", 0), awaited = { 0 };
	struct entity *e = NULL;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		if (w.type != 2)
			return false;
		if (t == TABLE_AGENTS && w.field == AWAITED)
			awaited = w.b;
		if (w.field == 1) {
			key = w.b;
			continue;
		}
		if (e == NULL)
			e = entity_new(m, t, key.p, key.n);
		if ((w.field == 2 || w.field == 3) && !load_value(e, &w))
			return false;
	}
	if (r == 0 && e) {
		adopt(m, e);
		if (awaited.p && e->owner && e->owner->agent == e)
			process_await(e->owner, awaited, e->time_ns + 1); /* no earlier than that, and not 0 */
	}
	return r == 0;
}

static bool load_environment(struct model *m, const struct bytes *b)
{
	struct environment *v = NULL;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 1)
			v = environment_get(m, w.u, true);
		else if (w.field == 2 && w.type == 2 && v)
			value_push(&v->list, value_text(w.b.p, w.b.n));
	}
	return r == 0;
}

static bool load_tombstone(struct model *m, const struct bytes *b)
{
	struct bytes key = BYTES("", 0);
	struct wire w, stamp = { 0 };
	uint64_t table = 0;
	size_t pos = 0;
	struct entity *e;
	struct moment at = { .m = m };
	int r;

	while ((r = wire_next(b->p, b->n, &pos, &w)) > 0) {
		if (w.field == 1 && w.type == 0)
			table = w.u;
		else if (w.field == 2 && w.type == 2)
			key = w.b;
		else if (w.field == 3 && w.type == 2)
			stamp = w;
	}
	if (r < 0 || table == 0 || table >= TABLE_COUNT || model_find(m, (enum table)table, key.p, key.n))
		return r == 0;
	e = entity_new(m, (enum table)table, key.p, key.n);
	if (!load_stamp(e, &stamp))
		return false;
	at.time_ns = e->time_ns;
	at.order = e->order;
	entity_bury(&at, e);
	return true;
}

static int by_ended(const void *a, const void *b)
{
	const struct entity *x = *(struct entity *const *)a, *y = *(struct entity *const *)b;

	return x->ended < y->ended ? -1 : x->ended > y->ended;
}

/* What ended is forgotten in the order in which it ended, not of its table. */
static void load_ended(struct model *m)
{
	static const enum table tables[] = { TABLE_AGENTS, TABLE_TASKS };
	size_t n = 0, cap = m->count[TABLE_AGENTS] + m->count[TABLE_TASKS];
	struct entity **list = xmalloc(cap * sizeof *list);

	for (int t = 0; t < 2; t++)
		for (struct entity *e = m->first[tables[t]]; e; e = e->next)
			if (e->ended)
				list[n++] = e;
	qsort(list, n, sizeof *list, by_ended);
	m->ended_count = m->ended_live = m->ended_last = 0;
	for (size_t i = 0; i < n; i++)
		model_ended_again(m, list[i]);
	free(list);
}

#define ROW_BYTES 128u /* of an entity, about */

#define HEAD_BYTES 16u /* of a field, at most */

int model_source_next(struct model_source *s, const uint8_t *p, size_t n, size_t *pos, struct wire *ret)
{
	if (s && n && !model_source_has(s, p + (n - *pos < HEAD_BYTES ? n : *pos + HEAD_BYTES)))
		return -1;
	return wire_next(p, n, pos, ret);
}

bool model_load(struct model *m, const uint8_t *p, size_t n) { return model_load_from(m, p, n, NULL); }

bool model_load_from(struct model *m, const uint8_t *p, size_t n, struct model_source *s)
{
	model_observer quiet = m->observe;
	struct waiting waiting = { .n = 0 };
	struct wire w;
	size_t pos = 0;
	int r;

	m->observe = NULL;
	while ((r = model_source_next(s, p, n, &pos, &w)) > 0) {
		bool good = model_source_has(s, p + pos);

		if (good && w.type == 2 && w.field == STATE_LAYOUT) {
			good = m->handed = layout_unpack(m, (const uint8_t *)w.b.p, w.b.n);
			model_expect(m, n / ROW_BYTES);
		}
		if (!good)
			; /* damaged */
		else if (m->handed && w.type == 2 && w.field >= 2 && w.field <= 8)
			good = load_row(m, (enum table)(w.field - 1), &w.b, &waiting);
		else if (w.type == 2 && w.field >= 2 && w.field <= 8)
			good = load_entry(m, (enum table)(w.field - 1), &w.b);
		else if (w.type == 2 && w.field == 10)
			good = load_environment(m, &w.b);
		else if (w.type == 2 && w.field == 11)
			good = load_tombstone(m, &w.b);
		else if (w.type == 2 && (w.field == STATE_MODULES || w.field == STATE_STACKS))
			good = stacks_load(m, w.field, w.b);
		if (!good) {
			r = -1;
			break;
		}
	}
	load_waiting(m, &waiting);
	m->observe = quiet;
	if (!m->handed)
		load_ended(m);
	return r == 0;
}
