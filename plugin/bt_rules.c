/* What an event means: its rules at work, or a message of its channel. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/un.h>

#include "base/err.h"
#include "bt_sink.h"
#include "model/model.h"

/* ---- objects ---- */

static void put_name(struct buf *b, const char *name, size_t mark[2])
{
	mark[0] = pack_begin(b, 1);
	pack_bytes(b, 1, name, strlen(name));
	mark[1] = pack_begin(b, 2);
}

static void put_name_end(struct buf *b, const size_t mark[2])
{
	pack_end(b, mark[1]);
	pack_end(b, mark[0]);
}

static void put_text(struct buf *b, const char *name, struct bytes text)
{
	size_t mark[2];

	put_name(b, name, mark);
	pack_bytes(b, 6, text.p, text.n);
	put_name_end(b, mark);
}

static void put_scope(struct buf *b, const char *name, const struct event *e, enum scope scope)
{
	size_t mark[2];

	if (e->root[scope] == NULL || e->plan->shape[scope]->n == 0)
		return;
	put_name(b, name, mark);
	shape_put(e->plan->shape[scope], e->root[scope], b);
	put_name_end(b, mark);
}

/* ---- one event as a message ---- */

static int keep_event(struct sink *s, const struct event *e)
{
	struct change c = { .kind = MESSAGE, .table = TABLE_COMMUNICATIONS, .name = BYTES(e->plan->name, e->plan->name_len),
			    .pid = e->thread ? e->pid : 0 };
	struct buf *b = &s->entity;
	size_t object;

	buf_reset(b);
	object = pack_begin(b, 9);
	if (e->root[SCOPE_PAYLOAD])
		put_scope(b, "message", e, SCOPE_PAYLOAD);
	if (e->thread)
		put_text(b, "source", BYTES(e->thread->key, e->thread->key_len));
	put_scope(b, "context", e, SCOPE_SPECIFIC);
	put_scope(b, "streamContext", e, SCOPE_COMMON);
	put_scope(b, "packet", e, SCOPE_PACKET);
	pack_end(b, object);
	c.entity = BYTES(b->data, b->len);
	return sink_put(s, &c);
}

/* ---- rules at work ---- */

static bool compare(int order, enum map_op op)
{
	switch (op) {
	case MAP_EQ: return order == 0;
	case MAP_NE: return order != 0;
	case MAP_LT: return order < 0;
	case MAP_LE: return order <= 0;
	case MAP_GT: return order > 0;
	default: return order >= 0;
	}
}

static bool holds(struct sink *s, const struct plan_rule *r, const struct event *e)
{
	struct cell left, right;
	double a, b;
	int order;

	if (r->rule->op == MAP_ALWAYS)
		return true;
	if (!template_cell(&r->left, e, &s->a, &left) || !template_cell(&r->right, e, &s->b, &right))
		return false;
	if (left.type != CELL_TEXT || right.type != CELL_TEXT) {
		if (cell_number(&left, &a) && cell_number(&right, &b))
			return compare(a < b ? -1 : a > b, r->rule->op);
	}
	if (left.type != CELL_TEXT || right.type != CELL_TEXT) { /* a label, or a number and a word */
		struct bytes one, two;

		if (!template_text(&r->left, e, &s->a, &one) || !template_text(&r->right, e, &s->b, &two))
			return false;
		left.text = one.p;
		left.n = one.n;
		right.text = two.p;
		right.n = two.n;
	}
	order = memcmp(left.text, right.text, left.n < right.n ? left.n : right.n);
	return compare(order ? order : left.n < right.n ? -1 : left.n > right.n, r->rule->op);
}

/* What a rule works with. */
struct doing {
	struct sink *s;
	const struct plan_rule *r;
	const struct event *e;
	struct change c;
	bool fits;                       /* all that it needs is there */
};

static bool has(const struct doing *d, enum map_field f) { return d->r->rule->field[f] != NULL; }

static int64_t integer(struct doing *d, enum map_field f, int64_t otherwise)
{
	int64_t v = otherwise;

	if (has(d, f) && !template_integer(&d->r->field[f], d->e, &d->s->a, &v))
		d->fits = false;
	return v;
}

static struct bytes text(struct doing *d, enum map_field f, struct buf *room)
{
	struct bytes b = { NULL, 0 };

	if (has(d, f) && !template_text(&d->r->field[f], d->e, room, &b))
		d->fits = false;
	return b;
}

static void add_text(struct doing *d, const char *name, enum map_field f)
{
	struct bytes b = text(d, f, &d->s->a);

	if (has(d, f))
		put_text(&d->s->entity, name, b);
}

static void add_word(struct doing *d, const char *name, const char *word)
{
	put_text(&d->s->entity, name, BYTES(word, strlen(word)));
}

static void put_the_value(struct doing *d, struct buf *b)
{
	struct cell c;

	if (strcmp(d->r->rule->field[MAP_THE_VALUE], "*") == 0) {
		if (d->e->root[SCOPE_PAYLOAD])
			shape_put(d->e->plan->shape[SCOPE_PAYLOAD], d->e->root[SCOPE_PAYLOAD], b);
		else
			pack_uint(b, 1, 1);
	} else if (template_cell(&d->r->field[MAP_THE_VALUE], d->e, &d->s->a, &c)) {
		cell_put(&c, d->s->config, b);
	} else {
		d->fits = false;
	}
}

static void add_value(struct doing *d, const char *name)
{
	size_t mark[2];

	if (!has(d, MAP_THE_VALUE))
		return;
	put_name(&d->s->entity, name, mark);
	put_the_value(d, &d->s->entity);
	put_name_end(&d->s->entity, mark);
}

static void add_number(struct doing *d, const char *name)
{
	struct cell c;
	size_t mark[2];
	double v = 0;

	if (!template_cell(&d->r->field[MAP_NUMBER], d->e, &d->s->a, &c) || !cell_number(&c, &v))
		d->fits = false;
	put_name(&d->s->entity, name, mark);
	pack_real(&d->s->entity, 5, v);
	put_name_end(&d->s->entity, mark);
}

static void say_agent(struct doing *d, enum map_action a)
{
	d->c.kind = ENTITY_PATCHED;
	d->c.table = TABLE_AGENTS;
	d->c.flags = a == MAP_AGENT_BEGIN;
	add_text(d, "type", MAP_THE_TYPE);
	if (has(d, MAP_STATUS))
		add_text(d, "status", MAP_STATUS);
	else
		add_word(d, "status", a == MAP_AGENT_BEGIN ? "busy" : "terminated");
	add_text(d, "parent", MAP_AGENT);
	add_text(d, "endReason", MAP_TEXT);
	add_value(d, "variables");
}

static void say_task(struct doing *d, enum map_action a)
{
	d->c.kind = ENTITY_PATCHED;
	d->c.table = TABLE_TASKS;
	d->c.flags = a == MAP_TASK_BEGIN;
	add_text(d, "agentId", MAP_AGENT);
	if (a == MAP_TASK_BEGIN && !has(d, MAP_AGENT) && d->e->thread)
		put_text(&d->s->entity, "agentId", BYTES(d->e->thread->key, d->e->thread->key_len));
	add_text(d, "type", MAP_THE_TYPE);
	if (has(d, MAP_STATUS))
		add_text(d, "status", MAP_STATUS);
	else
		add_word(d, "status", a == MAP_TASK_COMPLETE ? "completed" : a == MAP_TASK_FAIL ? "failed" : "running");
	if (a == MAP_TASK_PROGRESS)
		add_number(d, "progress");
	add_text(d, a == MAP_TASK_FAIL ? "error" : "description", MAP_TEXT);
	add_value(d, "result");
}

static void say_message(struct doing *d, enum map_action a)
{
	bool in = a == MAP_MESSAGE_IN;

	d->c.kind = MESSAGE;
	d->c.table = TABLE_COMMUNICATIONS;
	add_value(d, "message");
	add_word(d, "direction", in ? "in" : "out");
	add_text(d, in ? "source" : "target", MAP_TEXT);
	add_text(d, in ? "target" : "source", MAP_AGENT);
	if (!has(d, MAP_AGENT) && d->e->thread)
		put_text(&d->s->entity, in ? "target" : "source", BYTES(d->e->thread->key, d->e->thread->key_len));
	add_text(d, "type", MAP_THE_TYPE);
}

static void say_resource(struct doing *d)
{
	d->c.kind = ENTITY_SET;
	d->c.table = TABLE_RESOURCES;
	put_text(&d->s->entity, "id", d->c.name);
	add_text(d, "type", MAP_THE_TYPE);
	if (has(d, MAP_STATUS))
		add_text(d, "status", MAP_STATUS);
	else
		add_word(d, "status", "open");
	add_value(d, "allocation");
}

/* A rule that says something of a table's entry. */
static int say(struct doing *d, enum map_action a)
{
	struct buf *b = &d->s->entity;
	struct bytes agent = { NULL, 0 };
	size_t object = 0;
	double number = 0;
	struct cell c;

	d->c.name = text(d, MAP_KEY, &d->s->b); /* `b` is the name's until it is put */
	buf_reset(b);
	if (a != MAP_VALUE && a != MAP_MARK && a != MAP_METRIC)
		object = pack_begin(b, 9);
	switch (a) {
	case MAP_AGENT_BEGIN: case MAP_AGENT_STATUS: case MAP_AGENT_END: say_agent(d, a); break;
	case MAP_TASK_BEGIN: case MAP_TASK_PROGRESS: case MAP_TASK_COMPLETE: case MAP_TASK_FAIL: say_task(d, a); break;
	case MAP_MESSAGE_IN: case MAP_MESSAGE_OUT: say_message(d, a); break;
	case MAP_RESOURCE_OPEN: say_resource(d); break;
	case MAP_VALUE:
		d->c.kind = ENTITY_SET;
		d->c.table = TABLE_MEMORY;
		put_the_value(d, b);
		agent = text(d, MAP_AGENT, &d->s->a);
		break;
	case MAP_MARK:
		d->c.kind = MARK;
		agent = text(d, MAP_TEXT, &d->s->a);
		if (has(d, MAP_TEXT))
			pack_bytes(b, 6, agent.p, agent.n);
		agent = text(d, MAP_AGENT, &d->s->a);
		break;
	case MAP_METRIC:
		d->c.kind = METRIC;
		d->fits = d->fits && template_cell(&d->r->field[MAP_NUMBER], d->e, &d->s->a, &c) && cell_number(&c, &number);
		d->c.real = number;
		break;
	default: /* MAP_VALUE_DELETE, MAP_RESOURCE_CLOSE */
		d->c.kind = ENTITY_DELETED;
		d->c.table = a == MAP_VALUE_DELETE ? TABLE_MEMORY : TABLE_RESOURCES;
		break;
	}
	if (object)
		pack_end(b, object);
	if (d->c.kind != METRIC && d->c.kind != ENTITY_DELETED)
		d->c.entity = BYTES(b->data, b->len);
	d->c.value = agent;
	if (!d->fits || d->c.name.n == 0)
		return -ENODATA;
	return sink_put(d->s, &d->c);
}

/* ---- what kernels know ---- */

static uint32_t family_of(struct doing *d)
{
	static const struct { const char *name; uint32_t family; } names[] = {
		{ "AF_INET", AF_INET }, { "AF_INET6", AF_INET6 }, { "AF_UNIX", AF_UNIX }, { "AF_LOCAL", AF_UNIX },
		{ "AF_NETLINK", AF_NETLINK }, { "AF_UNSPEC", AF_UNSPEC },
	};
	struct cell c;
	int64_t v = 0;

	if (!has(d, MAP_FAMILY) || !template_cell(&d->r->field[MAP_FAMILY], d->e, &d->s->a, &c))
		return 0;
	if (c.type == CELL_INT || c.type == CELL_UINT)
		return (uint32_t)c.natural;
	for (size_t i = 0; c.type == CELL_TEXT && i < sizeof names / sizeof *names; i++)
		if (is_word(c.text, c.n, names[i].name))
			return names[i].family;
	return template_integer(&d->r->field[MAP_FAMILY], d->e, &d->s->a, &v) ? (uint32_t)v : 0;
}

/* A struct sockaddr of a family, a port and the bytes or text of an address. */
static struct bytes address_of(struct doing *d, uint32_t family, struct sockaddr_storage *room)
{
	struct cell c = { .type = CELL_NONE };
	uint16_t port = 0;
	int64_t v;

	memset(room, 0, sizeof *room);
	if (has(d, MAP_PORT) && template_integer(&d->r->field[MAP_PORT], d->e, &d->s->a, &v))
		port = (uint16_t)v;
	if (has(d, MAP_ADDRESS))
		template_cell(&d->r->field[MAP_ADDRESS], d->e, &d->s->a, &c);
	room->ss_family = (sa_family_t)family;
	if (family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)room;

		in->sin_port = htons(port);
		if (c.type == CELL_BYTES && c.n == 4)
			memcpy(&in->sin_addr, c.bytes, 4);
		return BYTES(room, sizeof *in);
	}
	if (family == AF_INET6) {
		struct sockaddr_in6 *in = (struct sockaddr_in6 *)room;

		in->sin6_port = htons(port);
		if (c.type == CELL_BYTES && c.n == 16)
			memcpy(&in->sin6_addr, c.bytes, 16);
		return BYTES(room, sizeof *in);
	}
	if (family == AF_UNIX && c.type == CELL_TEXT && c.n < sizeof ((struct sockaddr_un *)room)->sun_path) {
		memcpy(((struct sockaddr_un *)room)->sun_path, c.text, c.n);
		return BYTES(room, offsetof(struct sockaddr_un, sun_path) + c.n);
	}
	return family ? BYTES(room, sizeof room->ss_family) : BYTES(NULL, 0);
}

static uint32_t fd_type_of(struct bytes name)
{
	uint32_t t = 0;

	while (t < FDT_COUNT && !is_word(name.p, name.n, fd_type_name(t)))
		t++;
	return t < FDT_COUNT ? t : FDT_OTHER;
}

static void set_fds(struct doing *d)
{
	if (has(d, MAP_FD)) {
		d->c.has_fd = true;
		d->c.fd = (int32_t)integer(d, MAP_FD, -1);
		d->fits = d->fits && d->c.fd >= 0;
	}
	if (has(d, MAP_FD2)) {
		d->c.has_fd2 = true;
		d->c.fd2 = (int32_t)integer(d, MAP_FD2, -1);
	}
	d->c.flags = (uint64_t)integer(d, MAP_FLAGS, 0);
}

static const uint32_t kinds[MAP_ACTIONS] = {
	[MAP_PROCESS] = PROCESS_SEEN, [MAP_FORK] = PROCESS_FORKED, [MAP_EXEC] = PROCESS_BEGAN, [MAP_EXIT] = PROCESS_ENDED,
	[MAP_THREAD] = THREAD_BEGAN, [MAP_THREAD_END] = THREAD_ENDED, [MAP_THREAD_NAME] = THREAD_NAMED,
	[MAP_OPEN] = FD_OPENED, [MAP_CLOSE] = FD_CLOSED, [MAP_DUP] = FD_DUPED, [MAP_PIPE] = FD_PAIR, [MAP_SOCKET_PAIR] = FD_PAIR,
	[MAP_SOCKET] = FD_OPENED, [MAP_BIND] = SOCKET_BOUND, [MAP_LISTEN] = SOCKET_LISTENING, [MAP_CONNECT] = SOCKET_CONNECTED,
	[MAP_ACCEPT] = SOCKET_ACCEPTED, [MAP_SHUTDOWN] = SOCKET_SHUT, [MAP_CHDIR] = CWD,
};

/* Who the rule is about is shown first: what is said of a process that nobody
 * knows would be lost. */
static int show_subject(struct doing *d, enum map_action a)
{
	struct thread *t;

	if (a == MAP_PROCESS || a == MAP_FORK) {
		thread_is_of(&d->s->threads, d->c.pid, d->c.pid);
		return 0;
	}
	thread_is_of(&d->s->threads, d->c.tid, d->c.pid);
	t = thread_get(d->s, d->c.pid, a == MAP_THREAD || d->c.tid == 0 ? d->c.pid : d->c.tid);
	return t ? thread_show(d->s, t, NULL, 0) : 0;
}

/* What is known afterwards without having been seen in a context. */
static void note_subject(struct doing *d, enum map_action a)
{
	struct thread *t;

	switch (a) {
	case MAP_PROCESS: case MAP_FORK:
		if ((t = thread_get(d->s, d->c.pid, 0)))
			t->shown = true;
		if ((t = thread_get(d->s, d->c.pid, d->c.pid))) {
			t->shown = true;
			t->life = thread_get(d->s, d->c.pid, 0)->life;
		}
		break;
	case MAP_THREAD:
		if ((t = thread_get(d->s, d->c.pid, d->c.tid))) {
			t->shown = true;
			t->life = thread_get(d->s, d->c.pid, 0)->life;
		}
		break;
	case MAP_THREAD_END: thread_ended(d->s, d->c.pid, d->c.tid); break;
	case MAP_EXIT: thread_ended(d->s, d->c.pid, 0); break;
	default: break;
	}
}

static int know(struct doing *d, enum map_action a)
{
	struct sockaddr_storage room;
	int r;

	d->c.kind = kinds[a];
	d->c.name = text(d, MAP_NAME, &d->s->b);
	set_fds(d);
	if (a == MAP_CONNECT) {
		d->c.error = (uint32_t)integer(d, MAP_NUMBER, 0);
	} else if (has(d, MAP_NUMBER)) {
		d->c.has_number = true;
		d->c.number = integer(d, MAP_NUMBER, 0);
	}
	d->c.ppid = (uint32_t)integer(d, MAP_PPID, 0);
	d->c.family = family_of(d);
	if (a == MAP_BIND || a == MAP_CONNECT || a == MAP_ACCEPT)
		d->c.address = address_of(d, d->c.family, &room);
	if (a == MAP_OPEN && has(d, MAP_THE_TYPE))
		d->c.fd_type = fd_type_of(text(d, MAP_THE_TYPE, &d->s->a));
	if (a == MAP_SOCKET || a == MAP_SOCKET_PAIR)
		d->c.fd_type = FDT_SOCKET;
	else if (a == MAP_PIPE)
		d->c.fd_type = FDT_PIPE;
	if (a == MAP_EXEC) {
		d->c.exe = d->c.name;
		d->c.name = BYTES(NULL, 0);
		d->c.partial = true; /* descriptors are not listed: those without close-on-exec stay */
	}
	if (a == MAP_OPEN && d->c.has_fd2 && d->c.fd2 == AT_FDCWD)
		d->c.has_fd2 = false;
	if (!d->fits || d->c.pid == 0)
		return -ENODATA;
	if (a == MAP_THREAD_END && d->c.tid == d->c.pid)
		return 0; /* the process's own end says it */
	r = show_subject(d, a);
	if (r == 0)
		r = sink_put(d->s, &d->c);
	if (r == 0)
		note_subject(d, a);
	if (r == 0 && a == MAP_FORK && d->c.name.n) {
		struct thread *t = thread_get(d->s, d->c.pid, d->c.pid);

		r = t ? thread_show(d->s, t, d->c.name.p, d->c.name.n) : 0;
	}
	return r;
}

/* The scheduler's word on who runs where. */
static int running(struct doing *d)
{
	struct bytes name;
	struct thread *t;
	struct cell cpu;
	uint32_t pid;

	ref_get(&d->e->plan->cpu, d->e, &cpu);
	if (!d->fits || cpu.type != CELL_UINT)
		return -ENODATA;
	thread_on_cpu(&d->s->threads, cpu.natural, d->c.tid);
	pid = thread_pid(&d->s->threads, d->c.tid);
	name = text(d, MAP_NAME, &d->s->b);
	t = d->c.tid ? thread_get(d->s, pid, d->c.tid) : NULL;
	return t ? thread_show(d->s, t, name.p, name.n) : 0;
}

static int follow(struct sink *s, const struct plan_rule *r, const struct event *e)
{
	struct doing d = { .s = s, .r = r, .e = e, .fits = true };
	enum map_action a = r->rule->action;

	d.c.pid = (uint32_t)integer(&d, MAP_PID, e->pid);
	d.c.tid = (uint32_t)integer(&d, MAP_TID, e->tid);
	if (a == MAP_RUNNING)
		return running(&d);
	if (a >= MAP_PROCESS && a <= MAP_CHDIR)
		return know(&d, a);
	if (e->thread == NULL)
		d.c.pid = 0;
	return say(&d, a);
}

/* ---- entries ---- */

static void entry_save(struct thread *t, const struct event *e)
{
	const struct shape *payload = e->plan->shape[SCOPE_PAYLOAD];
	struct entry *n = &t->entry;

	n->ncells = payload ? payload->n : 0;
	if (n->ncells > n->cap) {
		n->cap = n->ncells;
		n->cells = xrealloc(n->cells, n->cap * sizeof *n->cells);
	}
	n->plan = e->plan;
	buf_reset(&n->text);
	for (uint32_t i = 0; i < n->ncells; i++) {
		struct cell *c = &n->cells[i];

		cell_of(bt_field_structure_borrow_member_field_by_index_const(e->root[SCOPE_PAYLOAD], i), c);
		if (c->type == CELL_TEXT) {
			size_t at = n->text.len;

			buf_put(&n->text, c->text, c->n);
			buf_byte(&n->text, 0);
			c->text = (const char *)(uintptr_t)at;
		} else if (c->type == CELL_FIELD) {
			c->type = CELL_NONE; /* gone with its event */
		}
	}
}

static bool entry_fits(const struct plan_rule *r, const struct event *e)
{
	return r->rule->entry == NULL ||
	       (e->thread && e->thread->entry.plan && strcmp(e->thread->entry.plan->name, r->rule->entry) == 0);
}

/* ---- the whole ---- */

int event_take(struct sink *s, struct event *e)
{
	struct plan *p = e->plan;
	bool keep = p->keep, taken = false;
	int r = 0;

	for (uint32_t i = 0; i < p->nrules && r == 0; i++) {
		if (!entry_fits(&p->rules[i], e) || !holds(s, &p->rules[i], e))
			continue;
		r = follow(s, &p->rules[i], e);
		if (r == -ENODATA) { /* it is not what the rule takes it for */
			keep = true;
			r = 0;
		} else {
			taken = true;
			keep |= p->rules[i].rule->keep;
		}
	}
	if (e->thread && p->ends)
		e->thread->entry.plan = NULL;
	if (e->thread && p->saved)
		entry_save(e->thread, e);
	return r == 0 && (keep || !(taken || p->ignored)) ? keep_event(s, e) : r;
}
