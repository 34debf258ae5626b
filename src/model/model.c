/* The tables: a hash of keys, lists in order, tombstones, bounded memory of
 * what ended, and the setting of fields.  Knows nothing of what Changes mean;
 * apply.c does. */
#include "model/internal.h"

#include <stdio.h>

static const char *const names[TABLE_COUNT] = {
	"", "agents", "tasks", "memory", "communications", "resources", "swarms", "metrics",
};

const char *table_name(enum table t) { return t < TABLE_COUNT ? names[t] : ""; }

enum table table_by_name(const char *name, size_t n)
{
	for (int t = 1; t < TABLE_COUNT; t++)
		if (strlen(names[t]) == n && memcmp(names[t], name, n) == 0)
			return (enum table)t;
	return (enum table)0;
}

struct model *model_new(void)
{
	struct model *m = xcalloc(1, sizeof *m);

	m->nbuckets = 1024;
	m->buckets = xcalloc(m->nbuckets, sizeof *m->buckets);
	return m;
}

void entity_drop_row(struct entity *e)
{
	late_free(e);
	if (e->row_owned)
		free((void *)e->row);
	e->row = NULL;
	e->row_owned = false;
	e->patches = NULL;
}

static void entity_free(struct entity *e)
{
	value_done(&e->value);
	entity_drop_row(e);
	if (!e->in_arena)
		free(e);
}

void model_free(struct model *m)
{
	if (m == NULL)
		return;
	for (size_t i = 0; i < m->nbuckets && m->graves_count; i++) /* what is dead is in no table */
		for (struct entity *e = m->buckets[i], *next; e; e = next) {
			next = e->chain;
			if (e->dead)
				entity_free(e);
		}
	for (int t = 1; t < TABLE_COUNT; t++)
		for (struct entity *e = m->first[t], *next; e; e = next) {
			next = e->next;
			__builtin_prefetch(e->ahead);
			entity_free(e);
		}
	for (size_t i = 0; i < PROCESS_BUCKETS; i++) {
		for (struct process *p = m->processes[i], *next; p; p = next) {
			next = p->next;
			environment_unref(p->env);
			environment_unref(p->unfolded);
			free(p);
		}
	}
	for (struct environment *v = m->environments, *next; v; v = next) {
		next = v->next;
		value_done(&v->list);
		free(v);
	}
	said_done(&m->stacks);
	said_done(&m->modules);
	handed_done(m);
	free(m->buckets);
	free(m->graves);
	free(m->ended);
	free(m);
}

void model_observe(struct model *m, model_observer fn, void *arg)
{
	m->observe = fn;
	m->observe_arg = arg;
}

size_t model_count(const struct model *m, enum table t)
{
	size_t n = m->count[t];

	for (size_t i = 0; t == TABLE_MEMORY && i < PROCESS_BUCKETS; i++)
		for (const struct process *p = m->processes[i]; p; p = p->next)
			n += p->env ? p->env->list.n : 0;
	return n;
}

const struct entity *model_first(const struct model *m, enum table t) { return m->first[t]; }
int model_exit_status(struct model *m, uint32_t pid)
{
	struct process *p = model_process(m, pid);
	const struct value *code = p && p->agent ? value_get(&p->agent->value, "exitCode") : NULL;

	return code && code->type == VALUE_INT ? (int)(code->integer & 0xff) << 8 : -1;
}

bool model_end_known(struct model *m, uint32_t pid)
{
	struct process *p = model_process(m, pid);

	return p && !p->alive && p->agent && (value_get(&p->agent->value, "exitCode") || value_get(&p->agent->value, "signal"));
}

uint32_t model_processes_alive(const struct model *m) { return m->alive; }
uint64_t model_processes_seen(const struct model *m) { return m->processes_seen; }
uint64_t model_processes_unheard(const struct model *m) { return m->processes_unheard; }
uint64_t model_threads_seen(const struct model *m) { return m->threads_seen; }
size_t model_size(const struct model *m) { return m->bytes + m->nentities * 48 + m->stacks.bytes + m->modules.bytes; }

/* ---- the hash ---- */

static uint64_t key_hash(enum table t, const char *key, size_t n)
{
	uint64_t h = 0x9e3779b97f4a7c15ull * (t + 1), word;

	for (; n >= 8; key += 8, n -= 8) {
		memcpy(&word, key, 8);
		h = (h ^ word) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	word = 0;
	memcpy(&word, key, n);
	h = (h ^ word ^ (uint64_t)n << 56) * 0xc4ceb9fe1a85ec53ull;
	return h ^ h >> 29;
}

static struct entity *lookup(const struct model *m, enum table t, const char *key, size_t n, uint64_t hash)
{
	struct entity *e = m->buckets[hash & (m->nbuckets - 1)];

	while (e && (e->hash != hash || e->table != t || e->key_len != n || memcmp(e->key, key, n)))
		e = e->chain;
	return e;
}

static void rehash(struct model *m, size_t bigger)
{
	struct entity **b = xzeros(bigger * sizeof *b);

	for (size_t i = 0; i < m->nbuckets; i++) {
		for (struct entity *e = m->buckets[i], *next; e; e = next) {
			next = e->chain;
			e->chain = b[e->hash & (bigger - 1)];
			b[e->hash & (bigger - 1)] = e;
		}
	}
	free(m->buckets);
	m->buckets = b;
	m->nbuckets = bigger;
}

void model_expect(struct model *m, size_t entities)
{
	size_t n = m->nbuckets;

	while (n < entities)
		n *= 2;
	if (n > m->nbuckets)
		rehash(m, n);
}

static void unhash(struct model *m, struct entity *e)
{
	struct entity **at = &m->buckets[e->hash & (m->nbuckets - 1)];

	while (*at != e)
		at = &(*at)->chain;
	*at = e->chain;
	m->nentities--;
}

static void hash_in(struct model *m, struct entity *e)
{
	if (m->nentities >= m->nbuckets)
		rehash(m, m->nbuckets * 2);
	e->chain = m->buckets[e->hash & (m->nbuckets - 1)];
	m->buckets[e->hash & (m->nbuckets - 1)] = e;
	m->nentities++;
}

struct entity *model_find(const struct model *m, enum table t, const char *key, size_t n)
{
	struct entity *e = lookup(m, t, key, n, key_hash(t, key, n));

	return e && !e->dead ? e : NULL;
}

/* ---- lists ---- */

#define CAME (sizeof(((struct came *)0)->e) / sizeof(struct entity *))

static void list_in(struct model *m, struct entity *e)
{
	struct came *came = &m->came[e->table];
	struct entity **first = &came->e[came->turn++ % CAME];

	e->prev = m->last[e->table];
	e->next = NULL;
	*(e->prev ? &e->prev->next : &m->first[e->table]) = e;
	m->last[e->table] = e;
	if (*first)
		(*first)->ahead = e;
	*first = e;
	m->count[e->table]++;
	m->bytes += e->key_len + 100;
}

static void list_out(struct model *m, struct entity *e)
{
	*(e->prev ? &e->prev->next : &m->first[e->table]) = e->next;
	*(e->next ? &e->next->prev : &m->last[e->table]) = e->prev;
	e->next = e->prev = NULL;
	for (unsigned i = 0; i < CAME; i++)
		if (m->came[e->table].e[i] == e)
			m->came[e->table].e[i] = NULL;
	m->count[e->table]--;
	m->bytes -= e->key_len + 100;
}

static void disown(struct entity *e)
{
	if (e->owner == NULL)
		return;
	*(e->owned_prev ? &e->owned_prev->owned_next : &e->owner->owned) = e->owned_next;
	if (e->owned_next)
		e->owned_next->owned_prev = e->owned_prev;
	if (e->owner->agent == e)
		e->owner->agent = NULL;
	e->owner = NULL;
}

void entity_own(struct model *m, struct entity *e, struct process *p)
{
	(void)m;
	if (e->owner == p)
		return;
	disown(e);
	e->owner = p;
	e->owned_prev = NULL;
	e->owned_next = p->owned;
	if (p->owned)
		p->owned->owned_prev = e;
	p->owned = e;
}

void entity_enter(struct model *m, struct entity *e, enum table t, const char *key, size_t n)
{
	entity_list(m, e, t, key, n);
	hash_in(m, e);
}

void entity_list(struct model *m, struct entity *e, enum table t, const char *key, size_t n)
{
	memcpy(e->key, key, n);
	e->key_len = (uint32_t)n;
	e->table = (uint8_t)t;
	e->hash = key_hash(t, key, n);
	list_in(m, e);
	__builtin_prefetch(&m->buckets[e->hash & (m->nbuckets - 1)], 1);
}

void entity_hash(struct model *m, struct entity *e) { hash_in(m, e); }

void model_expect_key(const struct model *m, enum table t, const char *key, size_t n, struct key_hint *h)
{
	h->hash = key_hash(t, key, n);
	h->bucket = &m->buckets[h->hash & (m->nbuckets - 1)];
	__builtin_prefetch(h->bucket);
}

void model_expect_entity(const struct key_hint *h) { __builtin_prefetch(*h->bucket); }

struct entity *entity_new(struct model *m, enum table t, const char *key, size_t n)
{
	struct entity *e = xcalloc(1, sizeof *e + n + 1);

	e->value = t == TABLE_COMMUNICATIONS ? value_list() : t == TABLE_METRICS ? value_real(0) : value_object();
	entity_enter(m, e, t, key, n);
	return e;
}

void entity_remove(struct model *m, struct entity *e)
{
	list_out(m, e);
	unhash(m, e);
	entity_free(e);
}

/* ---- tombstones and what ended: rings of entities ---- */

static void grave_push(struct model *m, struct entity *e)
{
	if (m->graves_count == m->graves_cap) {
		size_t bigger = m->graves_cap ? m->graves_cap * 2 : 256;
		struct entity **r = xmalloc(bigger * sizeof *r);

		for (size_t i = 0; i < m->graves_count; i++)
			r[i] = m->graves[(m->graves_head + i) % m->graves_cap];
		free(m->graves);
		m->graves = r;
		m->graves_head = 0;
		m->graves_cap = bigger;
	}
	e->grave = m->graves_gone + m->graves_count;
	m->graves[(m->graves_head + m->graves_count++) % m->graves_cap] = e;
}

/* Those of whom nothing is left to know go, when there are twice as many as after
 * the last time. */
static void processes_settle(struct model *m)
{
	if (m->nprocesses < m->nprocesses_settled * 2)
		return;
	for (size_t i = 0; i < PROCESS_BUCKETS; i++)
		for (struct process **at = &m->processes[i], *p; (p = *at);) {
			if (p->alive || p->owned || p->agent) {
				at = &p->next;
				continue;
			}
			*at = p->next;
			if (m->recent == p)
				m->recent = NULL;
			m->nprocesses--;
			environment_unref(p->unfolded);
			free(p);
		}
	m->nprocesses_settled = m->nprocesses + ENDED_KEPT;
}

/* What is deleted again while it is dead (a program that closes what is not open, round
 * after round) is younger than its place in the row: it goes to the end, and so do a few
 * that are only young, or one of them would keep all behind it for ever. */
#define YOUNG 16u

void model_settle(struct model *m, uint64_t time_ns)
{
	processes_settle(m);
	for (size_t young = 0, left = m->graves_count; left; left--) {
		struct entity *e = m->graves[m->graves_head];

		if (e && e->dead && e->time_ns >= time_ns && young++ == YOUNG)
			return;
		m->graves_head = (m->graves_head + 1) % m->graves_cap;
		m->graves_count--;
		m->graves_gone++;
		if (e && e->dead && e->time_ns >= time_ns) {
			grave_push(m, e);
			continue;
		}
		if (e && e->dead) {
			unhash(m, e);
			entity_free(e);
		}
	}
}

/* A key that comes back to life leaves its grave empty. */
static void unbury(struct model *m, struct entity *e)
{
	m->graves[(m->graves_head + (e->grave - m->graves_gone)) % m->graves_cap] = NULL;
	e->dropped = 0;
	e->dead = false;
	e->value = e->table == TABLE_COMMUNICATIONS ? value_list() : e->table == TABLE_METRICS ? value_real(0) : value_object();
	list_in(m, e);
}

/* What is sampled of a process goes with the last that is known of it. */
static void forget_metrics(struct moment *at, const struct entity *agent)
{
	static const char *const sampled[] = { "rss", "cpu", "threads", "descriptors", "heap/live", "heap/allocations", "heap/frees" };
	bool whole = false;
	uint32_t pid = agent->table == TABLE_AGENTS ? key_pid(agent->key, &whole) : 0;

	for (size_t i = 0; pid && whole && i < sizeof sampled / sizeof *sampled; i++) {
		char key[64];
		int n = snprintf(key, sizeof key, "p%u/%s", pid, sampled[i]);
		struct entity *e = model_find(at->m, TABLE_METRICS, key, (size_t)n);

		if (e)
			entity_bury(at, e);
	}
}

static struct ended *ended_at(const struct model *m, size_t i) { return &m->ended[(m->ended_head + i) % m->ended_cap]; }

/* Without the empty places, and with room for more. */
static void ended_pack(struct model *m)
{
	size_t cap = m->ended_live * 2 > 256 ? m->ended_live * 2 : 256, n = 0;
	struct ended *packed = xmalloc(cap * sizeof *packed);

	for (size_t i = 0; i < m->ended_count; i++)
		if (ended_at(m, i)->e)
			packed[n++] = *ended_at(m, i);
	free(m->ended);
	m->ended = packed;
	m->ended_head = 0;
	m->ended_count = n;
	m->ended_cap = cap;
}

static void ended_push(struct model *m, struct entity *e)
{
	if (m->ended_count == m->ended_cap)
		ended_pack(m);
	*ended_at(m, m->ended_count++) = (struct ended){ e, e->ended };
	m->ended_live++;
}

/* Numbers ascend. */
static struct ended *ended_find(const struct model *m, uint64_t number)
{
	size_t low = 0, high = m->ended_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (ended_at(m, mid)->number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->ended_count && ended_at(m, low)->number == number ? ended_at(m, low) : NULL;
}

/* The oldest go when there are too many: of those that are ended now, however often
 * others began again in between. */
void model_ended(struct moment *at, struct entity *e)
{
	struct model *m = at->m;

	model_unended(m, e);
	e->ended = ++m->ended_last;
	ended_push(m, e);
	while (m->ended_live > ENDED_KEPT || (m->ended_count && ended_at(m, 0)->e == NULL)) {
		struct entity *old = ended_at(m, 0)->e;

		m->ended_head = (m->ended_head + 1) % m->ended_cap;
		m->ended_count--;
		if (old == NULL)
			continue;
		m->ended_live--;
		old->ended = 0;
		forget_metrics(at, old);
		entity_bury(at, old);
	}
}

void model_ended_again(struct model *m, struct entity *e)
{
	if (e->ended <= m->ended_last) /* of a damaged state */
		e->ended = m->ended_last + 1;
	m->ended_last = e->ended;
	ended_push(m, e);
}

void model_renumber_ended(struct model *m)
{
	m->ended_last = 0;
	if (m->ended_count > m->ended_live)
		ended_pack(m);
	for (size_t i = 0; i < m->ended_count; i++)
		ended_at(m, i)->number = ended_at(m, i)->e->ended = ++m->ended_last;
}

void model_unended(struct model *m, struct entity *e)
{
	struct ended *place = e->ended ? ended_find(m, e->ended) : NULL;

	e->ended = 0;
	if (place == NULL)
		return;
	place->e = NULL;
	m->ended_live--;
}

/* ---- counting ---- */

static const char *status_of(const struct entity *e)
{
	const struct value *s = value_get(&e->value, "status");

	return s && s->type == VALUE_STRING ? s->bytes : NULL;
}

bool agent_ended(const struct entity *e)
{
	const char *s = status_of(e);

	return s && (strcmp(s, "terminated") == 0 || strcmp(s, "error") == 0);
}

void entity_recount(struct model *m, struct entity *e)
{
	const char *s;
	bool counts;

	if (e->table != TABLE_AGENTS && e->table != TABLE_TASKS)
		return;
	s = e->dead ? NULL : status_of(e);
	counts = s && (e->table == TABLE_AGENTS ? !agent_ended(e) : strcmp(s, "running") == 0);
	*(e->table == TABLE_AGENTS ? &m->active_agents : &m->running_tasks) += (int64_t)counts - (int64_t)e->counted;
	e->counted = counts;
}

/* ---- changing entities ---- */

static void tell(struct moment *at, const struct entity *e, const char *field, const struct value *before,
		 const struct value *after)
{
	if (at->m->observe)
		at->m->observe(at->m->observe_arg, e, field, before, after);
}

static void uninherit(struct entity *e)
{
	e->inherited = false;
	if (e->owner)
		e->owner->inherited--;
}

struct entity *entity_take(struct moment *at, enum table t, const char *key, size_t n, bool create)
{
	struct entity *e = lookup(at->m, t, key, n, key_hash(t, key, n));

	if (e && (e->time_ns > at->time_ns || (e->time_ns == at->time_ns && e->order > at->order)))
		return NULL;
	if (e && e->inherited)
		uninherit(e);
	if (e && e->dead) {
		if (!create)
			return NULL;
		unbury(at->m, e);
	} else if (e == NULL) {
		if (!create)
			return NULL;
		e = entity_new(at->m, t, key, n);
	}
	e->time_ns = at->time_ns;
	e->order = at->order;
	e->source = at->source;
	return e;
}

void entity_bury(struct moment *at, struct entity *e)
{
	struct model *m = at->m;

	tell(at, e, "", entity_value(e), NULL);
	if (e->inherited)
		uninherit(e);
	model_unended(m, e);
	list_out(m, e);
	disown(e);
	late_free(e);
	value_done(&e->value);
	e->dead = true;
	entity_recount(m, e);
	e->time_ns = at->time_ns;
	e->order = at->order;
	grave_push(m, e);
}

void entity_delete(struct moment *at, enum table t, const char *key, size_t n)
{
	struct entity *e = lookup(at->m, t, key, n, key_hash(t, key, n));
	model_observer observe = at->m->observe;

	if (e && (e->time_ns > at->time_ns || (e->time_ns == at->time_ns && e->order > at->order)))
		return;
	if (e && e->dead) {
		e->time_ns = at->time_ns;
		e->order = at->order;
		return;
	}
	if (e) {
		e->source = at->source;
		entity_bury(at, e);
		return;
	}
	at->m->observe = NULL; /* there was nothing to see */
	e = entity_new(at->m, t, key, n);
	e->source = at->source;
	entity_bury(at, e);
	at->m->observe = observe;
}

void entity_rename(struct moment *at, struct entity *e, const char *key, size_t n)
{
	struct entity *copy = lookup(at->m, e->table, key, n, key_hash(e->table, key, n));
	struct ended *place;

	if (copy)
		return; /* renamed before */
	copy = entity_new(at->m, e->table, key, n);
	copy->value = value_copy(&e->value);
	copy->time_ns = e->time_ns;
	copy->order = e->order;
	copy->source = e->source;
	tell(at, copy, "", NULL, &copy->value);
	entity_recount(at->m, copy);
	copy->ended = e->ended;
	place = e->ended ? ended_find(at->m, e->ended) : NULL;
	if (place)
		place->e = copy; /* it takes its place */
	e->ended = 0;
	entity_bury(at, e);
}

void entity_born(struct moment *at, struct entity *e) { tell(at, e, "", NULL, &e->value); }

void entity_assign(struct moment *at, struct entity *e, struct value v)
{
	if (!value_equal(&e->value, &v))
		tell(at, e, "", e->value.n || e->table == TABLE_METRICS ? &e->value : NULL, &v);
	value_done(&e->value);
	e->value = v;
	entity_recount(at->m, e);
}

void field_take(struct moment *at, struct entity *e, const char *name, struct value v)
{
	size_t n = strlen(name);
	struct value *old = value_get_n(&e->value, name, n);

	if (old && value_equal(old, &v)) {
		value_done(&v);
		return;
	}
	tell(at, e, name, old, &v);
	value_set(&e->value, name, n, true, v);
	if (strcmp(name, "status") == 0)
		entity_recount(at->m, e);
}

void field_drop(struct moment *at, struct entity *e, const char *name)
{
	struct value *old = value_get_n(&e->value, name, strlen(name));

	if (old == NULL)
		return;
	tell(at, e, name, old, NULL);
	value_unset(&e->value, name);
}

void entity_patch(struct moment *at, struct entity *e, const struct value *v)
{
	for (uint32_t i = 0; v->type == VALUE_OBJECT && i < v->n; i++) {
		const struct pair *p = &v->pairs[i];
		struct value *old = value_get_n(&e->value, p->name, p->name_len);

		if (old && value_equal(old, &p->value))
			continue;
		tell(at, e, p->name, old, &p->value);
		value_set(&e->value, p->name, p->name_len, false, value_copy(&p->value));
	}
	entity_recount(at->m, e);
}

void field_text(struct moment *at, struct entity *e, const char *name, const void *p, size_t n)
{
	const struct value *old = value_get(&e->value, name);

	if (old && old->type == VALUE_STRING && old->n == n && (n == 0 || memcmp(old->bytes, p, n) == 0))
		return;
	field_take(at, e, name, value_text(p, n));
}

void field_str(struct moment *at, struct entity *e, const char *name, const char *s)
{
	field_text(at, e, name, s, strlen(s));
}

void field_int(struct moment *at, struct entity *e, const char *name, int64_t v)
{
	field_take(at, e, name, value_int(v));
}

void field_ms(struct moment *at, struct entity *e, const char *name, uint64_t ns)
{
	field_take(at, e, name, value_real(time_ms(ns)));
}

/* ---- processes ---- */

struct process *process_get(struct model *m, uint32_t pid, bool create)
{
	struct process *p = m->recent;

	if (p && p->pid == pid)
		return p;
	for (p = m->processes[pid % PROCESS_BUCKETS]; p && p->pid != pid; p = p->next)
		;
	if (p == NULL && create) {
		p = xcalloc(1, sizeof *p);
		p->pid = pid;
		m->nprocesses++;
		p->next = m->processes[pid % PROCESS_BUCKETS];
		m->processes[pid % PROCESS_BUCKETS] = p;
	}
	if (p)
		m->recent = p;
	return p;
}

struct process *model_process(struct model *m, uint32_t pid) { return process_get(m, pid, false); }

struct entity *model_process_entity(struct model *m, uint32_t pid, enum table t, const char *suffix)
{
	char key[300];
	int n = snprintf(key, sizeof key, "p%u%s", pid, suffix);

	return n > 0 && (size_t)n < sizeof key ? model_find(m, t, key, (size_t)n) : NULL;
}

uint64_t model_changed_ns(struct model *m, uint32_t pid, enum table t, const char *suffix)
{
	char key[300];
	int n = snprintf(key, sizeof key, "p%u%s", pid, suffix);
	struct entity *e = n > 0 && (size_t)n < sizeof key ? lookup(m, t, key, (size_t)n, key_hash(t, key, (size_t)n)) : NULL;

	return e ? e->time_ns : 0;
}

struct environment *environment_get(struct model *m, uint64_t hash, bool create)
{
	struct environment **v = &m->environments;

	while (*v && (*v)->hash != hash)
		v = &(*v)->next;
	if (*v == NULL && create) { /* behind the others: a loaded state has the same order */
		*v = xcalloc(1, sizeof **v);
		(*v)->hash = hash;
		(*v)->list = value_list();
		(*v)->users = 1;
		m->nenvironments++;
	}
	return *v;
}

struct environment *environment_unnamed(void)
{
	struct environment *v = xcalloc(1, sizeof *v);

	v->list = value_list();
	v->users = 1;
	return v;
}

void environment_unref(struct environment *v)
{
	if (v == NULL || v->hash || --v->users)
		return;
	value_done(&v->list);
	free(v);
}
