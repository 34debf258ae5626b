/* Event classes with the rules that match them: looked at once, from then on fields
 * are found by index.  See bt_sink.h. */
#include <fnmatch.h>
#include <stdio.h>

#include "bt_sink.h"

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

void ref_get(struct ref *r, const struct event *e, struct cell *c)
{
	const bt_field *f;

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
		ref_get(&e->plan->procname, e, c);
		break;
	case REF_CPU:
		ref_get(&e->plan->cpu, e, c);
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

bool template_cell(const struct template *t, const struct event *e, struct buf *room, struct cell *ret)
{
	struct cell c;

	if (t->n == 1 && t->parts[0].literal == NULL) {
		ref_get(&t->parts[0].ref, e, ret);
		return ret->type != CELL_NONE;
	}
	buf_reset(room);
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->parts[i].literal) {
			buf_str(room, t->parts[i].literal);
			continue;
		}
		ref_get(&t->parts[i].ref, e, &c);
		if (c.type == CELL_NONE)
			return false;
		cell_text(&c, room);
	}
	*ret = (struct cell){ .type = CELL_TEXT, .text = (const char *)room->data, .n = (uint32_t)room->len };
	if (room->len == 0)
		ret->text = "";
	return true;
}

bool template_text(const struct template *t, const struct event *e, struct buf *room, struct bytes *ret)
{
	struct cell c;

	if (!template_cell(t, e, room, &c))
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

bool template_integer(const struct template *t, const struct event *e, struct buf *room, int64_t *ret)
{
	struct cell c;
	char text[32], *end;

	if (t->n == 0 || !template_cell(t, e, room, &c))
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
