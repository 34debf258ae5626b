/* What each kind of Change means for the tables.  Called by the collector for
 * the live state and by the reader for any earlier one: the same Changes in
 * the same order always give the same state.  Processes and descriptors have
 * files of their own; here are channels, named values, the generic kinds, and
 * the way in. */
#include "model/internal.h"

#include <stdio.h>

/* ---- channels ---- */

void channel_push(struct moment *at, struct entity *e, struct value v, uint32_t kept)
{
	entity_value(e);
	if (at->m->observe) {
		char field[32];

		snprintf(field, sizeof field, "%llu", (unsigned long long)e->dropped + e->value.n);
		at->m->observe(at->m->observe_arg, e, field, NULL, &v);
	}
	value_push(&e->value, v);
	if (e->value.n >= kept * 2) {
		e->dropped += e->value.n - kept;
		value_shift(&e->value, e->value.n - kept);
	}
}

void channel_add(struct moment *at, struct process *p, const char *channel, const char *direction,
			const char *target, const void *message, size_t n)
{
	struct key k;
	struct entity *e;
	struct value v = value_object();
	char id[24];

	k.n = (size_t)snprintf(k.text, sizeof k.text, "p%u/%s", p->pid, channel);
	e = entity_take(at, TABLE_COMMUNICATIONS, k.text, k.n, true);
	if (e == NULL)
		return;
	if (e->owner != p)
		entity_own(at->m, e, p);
	snprintf(id, sizeof id, "p%u", p->pid);
	set_text(&v, "message", message, n);
	set_str(&v, "direction", direction);
	set_str(&v, "source", strcmp(direction, "in") ? id : target);
	set_str(&v, "target", strcmp(direction, "in") ? target : id);
	value_set(&v, "timestamp", 9, true, value_real(time_ms(at->time_ns)));
	channel_push(at, e, v, CHANNEL_KEPT);
}

static void on_notify(struct moment *at, struct process *p, const struct change *c)
{
	const char *s = c->value.p;
	size_t at_byte = 0;

	while (at_byte < c->value.n) {
		const char *line = s + at_byte, *nl = memchr(line, '\n', c->value.n - at_byte);
		size_t n = nl ? (size_t)(nl - line) : c->value.n - at_byte;
		const char *eq = memchr(line, '=', n);
		struct key k;

		if (eq) {
			key_named(&k, p->pid, "notify/", line, (size_t)(eq - line));
			memory_set(at, p, &k, eq + 1, n - (size_t)(eq - line) - 1, "notify");
		}
		at_byte += n + 1;
	}
	channel_add(at, p, "notify", "out", "service-manager", c->value.p, c->value.n);
}

static void on_log(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;

	key_named(&k, p->pid, "log/last", "", 0);
	memory_set(at, p, &k, c->value.p, c->value.n, "log");
	channel_add(at, p, "log", "out", "syslog", c->value.p, c->value.n);
}

/* ---- generic ---- */

void apply_entity(struct moment *at, const struct change *c)
{
	bool whole;
	struct entity *e;
	uint32_t pid;
	struct value v;

	if (c->table == 0 || c->table >= TABLE_COUNT)
		return;
	if (c->kind == ENTITY_DELETED) {
		entity_delete(at, (enum table)c->table, c->name.p, c->name.n);
		return;
	}
	e = entity_take(at, (enum table)c->table, c->name.p, c->name.n, true);
	if (e == NULL)
		return;
	entity_value(e);
	pid = e->owner ? 0 : key_pid(e->key, &whole);
	if (pid && e->table != TABLE_SWARMS && e->table != TABLE_METRICS)
		entity_own(at->m, e, process_get(at->m, pid, true));
	if (!value_unpack(&v, c->entity.p, c->entity.n, 0))
		return;
	if (c->kind == ENTITY_SET) {
		entity_assign(at, e, v);
	} else if (c->kind == MESSAGE) {
		if (e->value.type == VALUE_LIST)
			value_push(&e->value, v);
		else
			value_done(&v);
	} else {
		entity_patch(at, e, &v);
		value_done(&v);
	}
}

static void on_metric(struct moment *at, const struct change *c)
{
	struct entity *e = entity_take(at, TABLE_METRICS, c->name.p, c->name.n, true);

	if (e)
		entity_assign(at, e, value_real(c->real));
}

/* memory["p<pid>/blind"] and the like belong to their process. */
static void on_own_entity(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;
	struct value v;
	bool own = false, whole;

	if (c->table != TABLE_MEMORY || c->kind != ENTITY_SET || !value_unpack(&v, c->entity.p, c->entity.n, 0)) {
		apply_entity(at, c);
		return;
	}
	if (v.type == VALUE_STRING && c->name.n < sizeof k.text && c->source == SOURCE_HOOK) {
		memcpy(k.text, c->name.p, c->name.n);
		k.text[k.n = c->name.n] = 0;
		own = key_pid(k.text, &whole) == p->pid;
	}
	if (own) {
		memory_set(at, p, &k, v.bytes, v.n, "note");
	} else {
		apply_entity(at, c);
	}
	value_done(&v);
}

/* ---- memory ---- */

static void on_memory(struct moment *at, struct process *p, const struct change *c)
{
	_cleanup_buf_ struct buf path = BUF_INIT;
	struct entity *e, *next;
	struct key k;

	if (p->env && c->kind >= ENV_SET && c->kind <= ENV_CLEARED)
		env_unfold(at->m, p);
	switch (c->kind) {
	case ENV_SET:
		key_named(&k, p->pid, "env/", c->name.p, c->name.n);
		memory_set(at, p, &k, c->value.p, c->value.n, "env");
		break;
	case ENV_UNSET:
		key_named(&k, p->pid, "env/", c->name.p, c->name.n);
		memory_unset(at, &k);
		break;
	case ENV_CLEARED:
		for (e = p->owned; e; e = next) {
			const char *rest = strchr(e->key, '/');

			next = e->owned_next;
			if (e->table == TABLE_MEMORY && rest && strncmp(rest, "/env/", 5) == 0 && e->time_ns <= at->time_ns)
				entity_bury(at, e);
		}
		break;
	case CWD: {
		const struct value *dir = c->has_fd ? folder_of(at, p->pid, true, c->fd) : NULL;

		key_named(&k, p->pid, "cwd", "", 0);
		if (c->source == SOURCE_PROC)
			memory_set(at, p, &k, c->name.p, c->name.n, "cwd");
		else if (dir && dir->type == VALUE_STRING)
			memory_set(at, p, &k, dir->bytes, dir->n, "cwd");
		else if (!c->has_fd && path_infer(at, c->name, false, 0, &path))
			memory_set(at, p, &k, path.data, path.len, "cwd");
		break;
	}
	case TITLE:
		key_named(&k, p->pid, "title", "", 0);
		memory_set(at, p, &k, c->value.p, c->value.n, "title");
		break;
	default: break;
	}
}

/* ---- one Change ---- */

/* Any report is activity of who made it: not a fact of its own. */
static void active(struct model *m, const struct process *p, uint64_t time_ns)
{
	if (p->agent && p->alive)
		value_set(&p->agent->value, "lastActivity", 12, true, value_real(time_ms(time_ns)));
	(void)m;
}

static void apply_own(struct moment *at, struct process *p, const struct change *c)
{
	switch (c->kind) {
	case PROCESS_EXITING: case EXEC_CALLED: case EXEC_FAILED:
	case THREAD_BEGAN: case THREAD_ENDED: case THREAD_NAMED: case THREAD_DETACHED:
		apply_agent(at, p, c);
		break;
	case FD_OPENED: case FD_CLOSED: case FD_RANGE_CLOSED: case FD_DUPED: case FD_PAIR: case FD_GAUGE: case FD_FLAGS:
	case RENAMED: case UNLINKED:
	case SOCKET_BOUND: case SOCKET_LISTENING: case SOCKET_CONNECTED: case SOCKET_ACCEPTED: case SOCKET_SHUT:
		apply_fd(at, p, c);
		break;
	case NOTIFY: on_notify(at, p, c); break;
	case LOG: on_log(at, p, c); break;
	case ENV_SET: case ENV_UNSET: case ENV_CLEARED: case CWD: case TITLE: on_memory(at, p, c); break;
	case ENTITY_SET: case ENTITY_PATCHED: case ENTITY_DELETED: case MESSAGE: case MARK:
		if (c->source == SOURCE_API || c->source == SOURCE_PLUGIN)
			apply_explicit(at, p, c);
		else
			on_own_entity(at, p, c);
		break;
	default: break;
	}
	if (c->source == SOURCE_HOOK || c->source == SOURCE_API || c->source == SOURCE_PLUGIN)
		active(at->m, p, at->time_ns);
}

bool model_apply(struct model *m, const struct origin *o, uint64_t time_ns, const uint8_t *raw, size_t n)
{
	struct moment at = { .m = m, .time_ns = time_ns, .order = o->order, .pid = o->pid, .tid = o->tid };
	int64_t agents = m->active_agents, tasks = m->running_tasks;
	uint32_t alive = m->alive;
	struct process *p;
	struct change c;

	if (!change_read(&c, raw, n))
		return false;
	at.source = (uint8_t)c.source;
	if (c.name.p == NULL)
		c.name.p = "";
	if (c.value.p == NULL)
		c.value.p = "";
	switch (c.kind) {
	case PROCESS_BEGAN: case PROCESS_FORKED: case PROCESS_ENDED: case PROCESS_SPAWNED:
	case PROCESS_SEEN: case PROCESS_UNINJECTED:
		apply_process(&at, &c, raw, n);
		break;
	case METRIC: on_metric(&at, &c); return true;
	case STACK: case MODULE: stacks_take(m, &c); return true;
	default:
		/* Of another process when it says so, as the recorder's own do. */
		at.pid = c.pid ? c.pid : o->pid;
		p = process_get(m, at.pid, false);
		if (p && p->alive)
			apply_own(&at, p, &c);
		else if (c.source == SOURCE_PLUGIN && c.kind >= ENTITY_SET)
			apply_explicit(&at, NULL, &c);
		else if (at.pid == 0 && c.kind >= ENTITY_SET)
			apply_entity(&at, &c);
		break;
	}
	if (m->active_agents != agents || m->running_tasks != tasks || m->alive != alive)
		swarm_update(&at);
	return true;
}
