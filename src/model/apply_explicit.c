/* What a program says itself (source API), or a tracer of it (source PLUGIN): its
 * agents, tasks, values, messages and marks.  The Change has what was said; here
 * come the times, the defaults and what follows for others.  Called by apply.c for
 * the process that spoke, NULL when a tracer does not know of one.
 *
 * A report is absolute: whatever comes first of an agent or task makes it, so a
 * lost beginning is healed by the next word about it.  Each keeps the pid that
 * spoke of it last, which ends it when that process ends. */
#include "model/internal.h"

/* Instead of a walk through all tasks when one ends. */
#define TASKS_LOOKED_AT 256u

/* `p<digits>`, alone or before "/" or "~": a process's own, living or gone. */
static bool names_process(const char *key, size_t n)
{
	size_t i = 1;

	while (i < n && key[i] >= '0' && key[i] <= '9')
		i++;
	return n > 1 && key[0] == 'p' && i > 1 && (i == n || key[i] == '/' || key[i] == '~');
}

bool explicit_entity(const struct entity *e)
{
	return (e->table == TABLE_AGENTS || e->table == TABLE_TASKS) && !names_process(e->key, e->key_len);
}

/* When the program says it happened, or else when it said so. */
static uint64_t said_ns(const struct moment *at, const struct change *c)
{
	return c->has_number && c->number > 0 ? (uint64_t)c->number : at->time_ns;
}

static const char *status_of(const struct entity *e)
{
	const struct value *s = value_get(&e->value, "status");

	return s && s->type == VALUE_STRING ? s->bytes : "";
}

static bool has(const struct entity *e, const char *name) { return value_get(&e->value, name) != NULL; }

/* An agent or task of that key begins anew: nothing of the last one stays. */
static void begin_anew(struct moment *at, struct entity *e)
{
	static const char *const names[] = { "type", "endedAt", "endReason", "currentTask", "variables", "parent", "startedAt",
					     "completedAt", "progress", "result", "error", "description", "agentId" };

	model_unended(at->m, e);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		field_drop(at, e, names[i]);
}

/* The agent or task that a report is about, taken and made to begin when it has
 * to; NULL when newer is known of it. */
static struct entity *about(struct moment *at, struct process *p, const struct change *c, const struct value *v, bool *ret_begins)
{
	const struct value *status = value_get(v, "status");
	struct entity *e;
	bool over;

	if (c->name.n == 0 || (p && names_process(c->name.p, c->name.n)))
		return NULL;
	e = entity_take(at, (enum table)c->table, c->name.p, c->name.n, true);
	if (e == NULL)
		return NULL;
	over = e->ended && status && status->type == VALUE_STRING && strcmp(status->bytes, status_of(e));
	*ret_begins = c->flags & 1 || e->value.n == 0;
	if (*ret_begins)
		begin_anew(at, e);
	else if (over) /* it goes on after all */
		model_unended(at->m, e);
	if (p)
		entity_own(at->m, e, p);
	return e;
}

/* ---- agents ---- */

/* Not a fact of its own: nobody is told. */
static void active(struct entity *agent, uint64_t time_ns)
{
	value_set(&agent->value, "lastActivity", 12, true, value_real(time_ms(time_ns)));
}

static void on_agent(struct moment *at, struct process *p, const struct change *c, const struct value *v)
{
	bool begins;
	struct entity *e = about(at, p, c, v, &begins);
	struct key k;

	if (e == NULL)
		return;
	if (begins)
		field_text(at, e, "id", e->key, e->key_len);
	entity_patch(at, e, v);
	if (begins) {
		if (!has(e, "type"))
			field_str(at, e, "type", "agent");
		if (!has(e, "status"))
			field_str(at, e, "status", "busy");
		if (p && !has(e, "parent")) {
			key_pid_only(&k, p->pid);
			field_text(at, e, "parent", k.text, k.n);
		}
		field_ms(at, e, "createdAt", said_ns(at, c));
	}
	if (p)
		field_int(at, e, "pid", p->pid);
	active(e, said_ns(at, c));
	if (agent_ended(e) && !e->ended) {
		field_drop(at, e, "currentTask");
		field_ms(at, e, "endedAt", said_ns(at, c));
		model_ended(at, e);
	} else if (!agent_ended(e)) {
		field_drop(at, e, "endedAt");
		field_drop(at, e, "endReason");
	}
}

/* ---- tasks ---- */

static bool is_text(const struct value *v, const char *s, size_t n)
{
	return v && v->type == VALUE_STRING && v->n == n && memcmp(v->bytes, s, n) == 0;
}

/* Another task that an agent is at, the one that began last. */
static const struct entity *other_task(const struct model *m, const struct entity *done, const struct entity *agent)
{
	const struct entity *e = m->last[TABLE_TASKS];

	for (unsigned i = 0; e && i < TASKS_LOOKED_AT; e = e->prev, i++)
		if (e != done && e->counted && is_text(value_get(&e->value, "agentId"), agent->key, agent->key_len))
			return e;
	return NULL;
}

/* What the task's agent is at.  A process goes on showing its command. */
static void show_current(struct moment *at, const struct entity *task)
{
	const struct value *id = value_get(&task->value, "agentId");
	struct entity *agent = id && id->type == VALUE_STRING ? model_find(at->m, TABLE_AGENTS, id->bytes, id->n) : NULL;
	const struct entity *other;

	if (agent == NULL || agent_ended(agent) || (agent->owner && agent->owner->agent == agent))
		return;
	if (explicit_entity(agent) && agent->time_ns <= at->time_ns)
		active(agent, at->time_ns);
	if (task->counted) {
		field_text(at, agent, "currentTask", task->key, task->key_len);
	} else if (is_text(value_get(&agent->value, "currentTask"), task->key, task->key_len)) {
		other = other_task(at->m, task, agent);
		if (other)
			field_text(at, agent, "currentTask", other->key, other->key_len);
		else
			field_drop(at, agent, "currentTask");
	}
}

static bool task_over(const struct entity *e)
{
	return strcmp(status_of(e), "completed") == 0 || strcmp(status_of(e), "failed") == 0;
}

static void on_task(struct moment *at, struct process *p, const struct change *c, const struct value *v)
{
	bool begins;
	struct entity *e = about(at, p, c, v, &begins);
	struct key k;

	if (e == NULL)
		return;
	if (begins)
		field_text(at, e, "id", e->key, e->key_len);
	entity_patch(at, e, v);
	if (begins) {
		if (p && !has(e, "agentId")) {
			key_thread(&k, p->pid, at->tid ? at->tid : p->pid);
			field_text(at, e, "agentId", k.text, k.n);
		}
		if (!has(e, "type"))
			field_str(at, e, "type", "task");
	}
	if (strcmp(status_of(e), "running") == 0) {
		if (!has(e, "startedAt"))
			field_ms(at, e, "startedAt", said_ns(at, c));
		field_drop(at, e, "completedAt");
		field_drop(at, e, "error");
	}
	if (p)
		field_int(at, e, "pid", p->pid);
	if (task_over(e) && !e->ended) {
		field_ms(at, e, "completedAt", said_ns(at, c));
		model_ended(at, e);
	}
	show_current(at, e);
}

/* ---- values, marks, messages ---- */

static const char *type_name(const struct value *v)
{
	static const char *const names[] = { "null", "null", "boolean", "integer", "integer", "number", "string", "bytes",
					     "list", "object" };

	return v->type < sizeof names / sizeof *names ? names[v->type] : "null";
}

/* Takes v. */
static void set_memory(struct moment *at, struct process *p, const struct change *c, const char *key, size_t n,
		       struct value v, const char *type)
{
	struct entity *e = entity_take(at, TABLE_MEMORY, key, n, true);
	bool whole;
	uint32_t pid;
	struct key id;

	if (e == NULL) {
		value_done(&v);
		return;
	}
	pid = key_pid(e->key, &whole);
	if (pid && !e->owner)
		entity_own(at->m, e, process_get(at->m, pid, true));
	field_take(at, e, "value", v);
	field_ms(at, e, "timestamp", said_ns(at, c));
	if (c->value.n) {
		field_text(at, e, "agentId", c->value.p, c->value.n);
	} else if (p) {
		key_pid_only(&id, p->pid);
		field_text(at, e, "agentId", id.text, id.n);
	}
	field_str(at, e, "type", type);
}

/* memory["mark/NAME"]: its entry's own time is the instant. */
static void on_mark(struct moment *at, struct process *p, const struct change *c, struct value *v)
{
	struct key k;

	if (c->name.n == 0 || c->name.n > sizeof k.text - 8)
		return;
	k.n = (size_t)sprintf(k.text, "mark/");
	memcpy(k.text + k.n, c->name.p, c->name.n);
	k.n += c->name.n;
	set_memory(at, p, c, k.text, k.n, c->entity.n ? *v : value_text(c->name.p, c->name.n), "mark");
	*v = (struct value){ 0 };
}

void message_complete(struct value *v, uint32_t pid, uint64_t said)
{
	const char *self = is_text(value_get(v, "direction"), "in", 2) ? "target" : "source";
	struct key k;

	if (v->type != VALUE_OBJECT)
		return;
	if (pid && !value_get(v, self)) {
		key_pid_only(&k, pid);
		value_set(v, self, 6, true, value_text(k.text, k.n));
	}
	if (!value_get(v, "timestamp"))
		value_set(v, "timestamp", 9, true, value_real(time_ms(said)));
}

/* Whether the bytes are message Value with an object; what that holds is not looked at. */
static bool is_object(struct bytes b)
{
	struct wire w;
	size_t pos = 0;

	return wire_next(b.p, b.n, &pos, &w) > 0 && w.field == 9 && w.type == 2 && pos == b.n;
}

static void on_message(struct moment *at, struct process *p, const struct change *c)
{
	struct entity *e = entity_take(at, TABLE_COMMUNICATIONS, c->name.p, c->name.n, true);
	struct value v;

	if (e == NULL)
		return;
	if (!at->m->observe) {
		late_push(e, p ? p->pid : 0, said_ns(at, c), c->entity, MESSAGES_KEPT);
		return;
	}
	if (!value_unpack(&v, c->entity.p, c->entity.n, 0))
		v = (struct value){ .type = VALUE_NULL };
	message_complete(&v, p ? p->pid : 0, said_ns(at, c));
	channel_push(at, e, v, MESSAGES_KEPT);
}

/* ---- the end of who spoke ---- */

void explicit_end(struct moment *at, struct process *p, const char *reason)
{
	struct entity *e, *next;

	for (e = p->owned; e; e = next) {
		next = e->owned_next;
		if (e->ended || !explicit_entity(e) || e->time_ns > at->time_ns)
			continue;
		if (e->table == TABLE_AGENTS && !agent_ended(e)) {
			field_str(at, e, "status", "terminated");
			field_drop(at, e, "currentTask");
			field_ms(at, e, "endedAt", at->time_ns);
			field_str(at, e, "endReason", reason);
			model_ended(at, e);
		} else if (e->table == TABLE_TASKS && strcmp(status_of(e), "running") == 0) {
			field_str(at, e, "status", "failed");
			field_ms(at, e, "completedAt", at->time_ns);
			field_str(at, e, "error", reason);
			model_ended(at, e);
			show_current(at, e);
		}
	}
}

/* ---- one Change ---- */

void apply_explicit(struct moment *at, struct process *p, const struct change *c)
{
	struct value v = { 0 };

	if (c->kind == ENTITY_DELETED) {
		apply_entity(at, c);
		return;
	}
	if (c->kind == MESSAGE && c->table == TABLE_COMMUNICATIONS && is_object(c->entity)) {
		on_message(at, p, c);
		return;
	}
	if (!value_unpack(&v, c->entity.p, c->entity.n, 0))
		return;
	if (c->kind == MARK) {
		on_mark(at, p, c, &v);
	} else if (c->kind == ENTITY_PATCHED && c->table == TABLE_AGENTS) {
		on_agent(at, p, c, &v);
	} else if (c->kind == ENTITY_PATCHED && c->table == TABLE_TASKS) {
		on_task(at, p, c, &v);
	} else if (c->kind == ENTITY_SET && c->table == TABLE_MEMORY) {
		set_memory(at, p, c, c->name.p, c->name.n, v, type_name(&v));
		v = (struct value){ 0 };
	} else {
		apply_entity(at, c);
	}
	value_done(&v);
}
