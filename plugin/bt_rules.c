/* What an event means: its rules, or a message of its channel.  An event class is
 * looked at once; from then on its fields are found by index. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <sys/un.h>

#include "base/err.h"
#include "bt_sink.h"
#include "model/model.h"

/* ---- references ---- */

static const bt_field_class *scope_class(const bt_event_class *ec, enum scope scope)
{
	const bt_stream_class *sc = bt_event_class_borrow_stream_class_const(ec);

	switch (scope) {
	case SCOPE_PACKET: return bt_stream_class_borrow_packet_context_field_class_const(sc);
	case SCOPE_COMMON: return bt_stream_class_borrow_event_common_context_field_class_const(sc);
	case SCOPE_SPECIFIC: return bt_event_class_borrow_specific_context_field_class_const(ec);
	default: return bt_event_class_borrow_payload_field_class_const(ec);
	}
}

static bool find_in(const bt_event_class *ec, enum scope scope, const char *name, size_t n, struct ref *ret)
{
	const bt_field_class *fc = scope_class(ec, scope);

	if (fc == NULL || !field_path_find(fc, name, n, &ret->path))
		return false;
	ret->what = REF_FIELD;
	ret->scope = scope;
	return true;
}

static bool begins_with(const char *s, size_t n, const char *with)
{
	return n > strlen(with) && memcmp(s, with, strlen(with)) == 0;
}

static bool is_word(const char *s, size_t n, const char *word) { return n == strlen(word) && memcmp(s, word, n) == 0; }

/* False: the class has no such field. */
static bool ref_find(const bt_event_class *ec, const char *name, size_t n, struct ref *ret)
{
	static const struct { const char *name; int what; } words[] = {
		{ "event", REF_EVENT }, { "pid", REF_PID }, { "tid", REF_TID }, { "procname", REF_PROCNAME }, { "cpu", REF_CPU },
	};

	*ret = (struct ref){ 0 };
	if (begins_with(name, n, "entry.")) {
		ret->what = REF_ENTRY;
		ret->name = xasprintf("%.*s", (int)(n - 6), name + 6);
		return true;
	}
	if (begins_with(name, n, "packet."))
		return find_in(ec, SCOPE_PACKET, name + 7, n - 7, ret);
	if (begins_with(name, n, "ctx."))
		return find_in(ec, SCOPE_SPECIFIC, name + 4, n - 4, ret) || find_in(ec, SCOPE_COMMON, name + 4, n - 4, ret);
	for (int scope = SCOPE_PAYLOAD; scope >= SCOPE_PACKET; scope--)
		if (find_in(ec, (enum scope)scope, name, n, ret))
			return true;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (is_word(name, n, words[i].name)) {
			ret->what = words[i].what;
			return true;
		}
	return false;
}

static bool entry_cell(struct ref *r, const struct entry *e, struct cell *ret)
{
	if (e->plan == NULL)
		return false;
	if (r->known != e->plan) {
		const struct shape *s = e->plan->shape[SCOPE_PAYLOAD];

		r->known = e->plan;
		r->cell = UINT32_MAX;
		for (uint32_t i = 0; s && i < s->n; i++)
			if (strcmp(s->members[i].name, r->name) == 0)
				r->cell = i;
	}
	if (r->cell >= e->ncells)
		return false;
	*ret = e->cells[r->cell];
	if (ret->type == CELL_TEXT) /* kept as an offset: the texts may have moved */
		ret->text = (const char *)e->text.data + (size_t)(uintptr_t)ret->text;
	return true;
}

void ref_get(const struct sink *s, struct ref *r, const struct event *e, struct cell *c)
{
	const bt_field *f;

	(void)s;
	c->type = CELL_NONE;
	c->text = NULL;
	switch (r->what) {
	case REF_FIELD:
		f = e->root[r->scope];
		cell_of(f ? field_path_get(f, &r->path) : NULL, c);
		break;
	case REF_ENTRY:
		if (e->thread == NULL || !entry_cell(r, &e->thread->entry, c))
			c->type = CELL_NONE;
		break;
	case REF_EVENT:
		c->type = CELL_TEXT;
		c->text = e->plan->name;
		c->n = e->plan->name_len;
		break;
	case REF_PID: case REF_TID:
		c->type = CELL_UINT;
		c->natural = r->what == REF_PID ? e->pid : e->tid;
		if (c->natural == 0)
			c->type = CELL_NONE;
		break;
	case REF_PROCNAME:
		ref_get(s, &((struct plan *)e->plan)->procname, e, c);
		break;
	case REF_CPU:
		ref_get(s, &((struct plan *)e->plan)->cpu, e, c);
		break;
	default: break;
	}
}

/* ---- templates ---- */

static void template_done(struct template *t)
{
	for (uint32_t i = 0; i < t->n; i++) {
		free(t->parts[i].literal);
		free(t->parts[i].ref.name);
	}
	free(t->parts);
}

static struct part *part_new(struct template *t)
{
	t->parts = xrealloc(t->parts, (t->n + 1) * sizeof *t->parts);
	t->parts[t->n] = (struct part){ 0 };
	return &t->parts[t->n++];
}

/* False: *ret_missing names a field that the class has not. */
static bool template_make(const bt_event_class *ec, const char *text, struct template *t, char **ret_missing)
{
	while (text && *text) {
		size_t n = strcspn(text, "{");

		if (n)
			part_new(t)->literal = xasprintf("%.*s", (int)n, text);
		text += n;
		if (*text == 0)
			break;
		n = strcspn(text, "}");
		if (!ref_find(ec, text + 1, n - 1, &part_new(t)->ref)) {
			*ret_missing = xasprintf("%.*s", (int)(n - 1), text + 1);
			return false;
		}
		text += n + 1;
	}
	return true;
}

/* A template that is one field alone is what that is, others are text in `room`. */
static bool template_cell(const struct sink *s, const struct template *t, const struct event *e, struct buf *room, struct cell *ret)
{
	struct cell c;

	if (t->n == 1 && t->parts[0].literal == NULL) {
		ref_get(s, &t->parts[0].ref, e, ret);
		return ret->type != CELL_NONE;
	}
	buf_reset(room);
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->parts[i].literal) {
			buf_str(room, t->parts[i].literal);
			continue;
		}
		ref_get(s, &t->parts[i].ref, e, &c);
		if (c.type == CELL_NONE)
			return false;
		cell_text(&c, room);
	}
	*ret = (struct cell){ .type = CELL_TEXT, .text = (const char *)room->data, .n = (uint32_t)room->len };
	if (room->len == 0)
		ret->text = "";
	return true;
}

static bool template_text(const struct sink *s, const struct template *t, const struct event *e, struct buf *room, struct bytes *ret)
{
	struct cell c;

	if (!template_cell(s, t, e, room, &c))
		return false;
	if (c.type != CELL_TEXT) {
		buf_reset(room);
		cell_text(&c, room);
		c.text = (const char *)room->data;
		c.n = (uint32_t)room->len;
	}
	*ret = BYTES(c.text ? c.text : "", c.n);
	return true;
}

static bool template_integer(const struct sink *s, const struct template *t, const struct event *e, struct buf *room, int64_t *ret)
{
	struct cell c;
	char text[32], *end;

	if (t->n == 0 || !template_cell(s, t, e, room, &c))
		return false;
	switch (c.type) {
	case CELL_INT: *ret = c.integer; return true;
	case CELL_UINT: *ret = (int64_t)c.natural; return true;
	case CELL_REAL: *ret = (int64_t)c.real; return true;
	case CELL_TEXT:
		if (c.n == 0 || c.n >= sizeof text)
			return false;
		memcpy(text, c.text, c.n);
		text[c.n] = 0;
		*ret = strtoll(text, &end, 0);
		return *end == 0;
	default: return false;
	}
}

/* ---- plans ---- */

static void plan_rule_done(struct plan_rule *r)
{
	for (int i = 0; i < MAP_FIELDS; i++)
		template_done(&r->field[i]);
	template_done(&r->left);
	template_done(&r->right);
}

static void plan_free(struct plan *p)
{
	for (uint32_t i = 0; i < p->nrules; i++)
		plan_rule_done(&p->rules[i]);
	for (int i = 0; i < SCOPES; i++)
		shape_free(p->shape[i]);
	ours_free(p->ours);
	bt_event_class_put_ref(p->class);
	free(p->rules);
	free(p->name);
	free(p);
}

void plans_done(struct sink *s)
{
	for (size_t i = 0; i < PLAN_BUCKETS; i++)
		for (struct plan *p; (p = s->plans[i]);) {
			s->plans[i] = p->next;
			plan_free(p);
		}
}

static void add_rule(struct plan *p, const struct map_rule *rule)
{
	struct plan_rule r = { .rule = rule };
	char *missing = NULL;
	bool good = template_make(p->class, rule->left, &r.left, &missing) &&
		    template_make(p->class, rule->right, &r.right, &missing);

	for (int i = 0; i < MAP_FIELDS && good; i++)
		if (!(i == MAP_THE_VALUE && rule->field[i] && strcmp(rule->field[i], "*") == 0))
			good = template_make(p->class, rule->field[i], &r.field[i], &missing);
	if (!good) {
		fprintf(stderr, "snaptrail: %s: event %s has no field %s: kept as a message\n", rule->origin, p->name, missing);
		free(missing);
		plan_rule_done(&r);
		p->keep = true;
		return;
	}
	p->rules = xrealloc(p->rules, (p->nrules + 1) * sizeof *p->rules);
	p->rules[p->nrules++] = r;
	p->ends |= rule->entry != NULL;
}

static void add_rules(struct sink *s, struct plan *p)
{
	for (size_t i = 0; i < s->map.n; i++) {
		const struct map_rule *rule = &s->map.rules[i];

		p->saved |= rule->entry && strcmp(rule->entry, p->name) == 0;
		if (fnmatch(rule->event, p->name, 0))
			continue;
		if (rule->action == MAP_IGNORE)
			p->ignored = true;
		else
			add_rule(p, rule);
	}
}

/* The first of these that a context has. */
static void find_context(const struct plan *p, const char *const *names, struct ref *ret)
{
	*ret = (struct ref){ 0 };
	for (; *names; names++)
		for (int scope = SCOPE_SPECIFIC; scope >= SCOPE_PACKET; scope--)
			if (find_in(p->class, (enum scope)scope, *names, strlen(*names), ret))
				return;
}

static struct plan *plan_new(struct sink *s, const bt_event_class *class)
{
	static const char *const pids[] = { "pid", "vpid", NULL }, *const tids[] = { "tid", "vtid", NULL },
				 *const names[] = { "procname", "comm", NULL }, *const cpus[] = { "cpu_id", NULL };
	struct plan *p = xcalloc(1, sizeof *p);
	const char *name = bt_event_class_get_name(class);

	bt_event_class_get_ref(class);
	p->class = class;
	p->name = name && *name ? xstrdup(name) :
				  xasprintf("event%llu", (unsigned long long)bt_event_class_get_id(class));
	p->name_len = (uint32_t)strlen(p->name);
	for (int i = 0; i < SCOPES; i++)
		p->shape[i] = shape_new(scope_class(class, (enum scope)i), s->config);
	p->members = p->shape[SCOPE_PAYLOAD] ? p->shape[SCOPE_PAYLOAD]->n : 0;
	find_context(p, pids, &p->pid);
	find_context(p, tids, &p->tid);
	find_context(p, names, &p->procname);
	find_context(p, cpus, &p->cpu);
	p->ours = ours_new(p->name, scope_class(class, SCOPE_PAYLOAD));
	if (p->ours == NULL)
		add_rules(s, p);
	return p;
}

struct plan *plan_get(struct sink *s, const bt_event_class *class)
{
	struct plan **b = &s->plans[((uintptr_t)class >> 4) * 0x9e3779b97f4a7c15ull >> 54], *p;

	for (p = *b; p; p = p->next)
		if (p->class == class)
			return p;
	p = plan_new(s, class);
	p->next = *b;
	return *b = p;
}

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
	if (!template_cell(s, &r->left, e, &s->a, &left) || !template_cell(s, &r->right, e, &s->b, &right))
		return false;
	if (left.type != CELL_TEXT || right.type != CELL_TEXT) {
		if (cell_number(&left, &a) && cell_number(&right, &b))
			return compare(a < b ? -1 : a > b, r->rule->op);
	}
	if (left.type != CELL_TEXT || right.type != CELL_TEXT) { /* a label, or a number and a word */
		struct bytes one, two;

		if (!template_text(s, &r->left, e, &s->a, &one) || !template_text(s, &r->right, e, &s->b, &two))
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

	if (has(d, f) && !template_integer(d->s, &d->r->field[f], d->e, &d->s->a, &v))
		d->fits = false;
	return v;
}

static struct bytes text(struct doing *d, enum map_field f, struct buf *room)
{
	struct bytes b = { NULL, 0 };

	if (has(d, f) && !template_text(d->s, &d->r->field[f], d->e, room, &b))
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
	} else if (template_cell(d->s, &d->r->field[MAP_THE_VALUE], d->e, &d->s->a, &c)) {
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

	if (!template_cell(d->s, &d->r->field[MAP_NUMBER], d->e, &d->s->a, &c) || !cell_number(&c, &v))
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
		d->fits = d->fits && template_cell(d->s, &d->r->field[MAP_NUMBER], d->e, &d->s->a, &c) && cell_number(&c, &number);
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

	if (!has(d, MAP_FAMILY) || !template_cell(d->s, &d->r->field[MAP_FAMILY], d->e, &d->s->a, &c))
		return 0;
	if (c.type == CELL_INT || c.type == CELL_UINT)
		return (uint32_t)c.natural;
	for (size_t i = 0; c.type == CELL_TEXT && i < sizeof names / sizeof *names; i++)
		if (is_word(c.text, c.n, names[i].name))
			return names[i].family;
	return template_integer(d->s, &d->r->field[MAP_FAMILY], d->e, &d->s->a, &v) ? (uint32_t)v : 0;
}

/* A struct sockaddr of a family, a port and the bytes or text of an address. */
static struct bytes address_of(struct doing *d, uint32_t family, struct sockaddr_storage *room)
{
	struct cell c = { .type = CELL_NONE };
	uint16_t port = 0;
	int64_t v;

	memset(room, 0, sizeof *room);
	if (has(d, MAP_PORT) && template_integer(d->s, &d->r->field[MAP_PORT], d->e, &d->s->a, &v))
		port = (uint16_t)v;
	if (has(d, MAP_ADDRESS))
		template_cell(d->s, &d->r->field[MAP_ADDRESS], d->e, &d->s->a, &c);
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

	ref_get(d->s, &((struct plan *)d->e->plan)->cpu, d->e, &cpu);
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
	struct entry *n = &t->entry;

	if (e->plan->members > n->cap) {
		n->cap = e->plan->members;
		n->cells = xrealloc(n->cells, n->cap * sizeof *n->cells);
	}
	n->plan = e->plan;
	n->ncells = e->plan->members;
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
	struct plan *p = (struct plan *)e->plan;
	bool keep = p->keep, taken = false;
	int r = 0;

	for (uint32_t i = 0; i < p->nrules && r == 0; i++) {
		if (!entry_fits(&p->rules[i], e) || !holds(s, &p->rules[i], e))
			continue;
		r = follow(s, &p->rules[i], e);
		if (r == -ENODATA) { /* it is not what the rule takes it for */
			p->failed++;
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
