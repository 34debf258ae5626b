/* Reading event maps; see map.h. */
#include "map.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"
#include "base/ini.h"

#define F(name) (1u << MAP_##name)

/* What each action must and may be told. */
static const struct {
	const char *name;
	unsigned must, may;
} actions[MAP_ACTIONS] = {
	[MAP_AGENT_BEGIN] = { "agent_begin", F(KEY), F(THE_TYPE) | F(STATUS) | F(AGENT) | F(THE_VALUE) },
	[MAP_AGENT_STATUS] = { "agent_status", F(KEY) | F(STATUS), F(THE_TYPE) | F(THE_VALUE) },
	[MAP_AGENT_END] = { "agent_end", F(KEY), F(STATUS) | F(TEXT) },
	[MAP_TASK_BEGIN] = { "task_begin", F(KEY), F(AGENT) | F(THE_TYPE) | F(STATUS) | F(TEXT) },
	[MAP_TASK_PROGRESS] = { "task_progress", F(KEY) | F(NUMBER), F(TEXT) },
	[MAP_TASK_COMPLETE] = { "task_complete", F(KEY), F(THE_VALUE) },
	[MAP_TASK_FAIL] = { "task_fail", F(KEY), F(TEXT) },
	[MAP_VALUE] = { "value", F(KEY) | F(THE_VALUE), F(AGENT) },
	[MAP_VALUE_DELETE] = { "value_delete", F(KEY), 0 },
	[MAP_MESSAGE_IN] = { "message_in", F(KEY) | F(THE_VALUE), F(AGENT) | F(TEXT) | F(THE_TYPE) },
	[MAP_MESSAGE_OUT] = { "message_out", F(KEY) | F(THE_VALUE), F(AGENT) | F(TEXT) | F(THE_TYPE) },
	[MAP_METRIC] = { "metric", F(KEY) | F(NUMBER), 0 },
	[MAP_MARK] = { "mark", F(KEY), F(TEXT) | F(AGENT) },
	[MAP_RESOURCE_OPEN] = { "resource_open", F(KEY), F(THE_TYPE) | F(STATUS) | F(THE_VALUE) },
	[MAP_RESOURCE_CLOSE] = { "resource_close", F(KEY), 0 },
	[MAP_PROCESS] = { "process", F(PID), F(PPID) | F(NAME) },
	[MAP_FORK] = { "fork", F(PID) | F(PPID), F(NAME) },
	[MAP_EXEC] = { "exec", F(NAME), 0 },
	[MAP_EXIT] = { "exit", 0, F(NUMBER) },
	[MAP_THREAD] = { "thread", F(TID), F(NAME) },
	[MAP_THREAD_END] = { "thread_end", 0, 0 },
	[MAP_THREAD_NAME] = { "thread_name", F(NAME), 0 },
	[MAP_RUNNING] = { "running", F(TID), F(NAME) },
	[MAP_OPEN] = { "open", F(FD), F(NAME) | F(FLAGS) | F(FD2) | F(THE_TYPE) },
	[MAP_CLOSE] = { "close", F(FD), 0 },
	[MAP_DUP] = { "dup", F(FD) | F(FD2), F(FLAGS) },
	[MAP_PIPE] = { "pipe", F(FD) | F(FD2), F(FLAGS) },
	[MAP_SOCKET_PAIR] = { "socket_pair", F(FD) | F(FD2), F(FLAGS) | F(FAMILY) },
	[MAP_SOCKET] = { "socket", F(FD), F(FAMILY) | F(FLAGS) },
	[MAP_BIND] = { "bind", F(FD), F(FAMILY) | F(PORT) | F(ADDRESS) },
	[MAP_LISTEN] = { "listen", F(FD), F(NUMBER) },
	[MAP_CONNECT] = { "connect", F(FD), F(FAMILY) | F(PORT) | F(ADDRESS) | F(NUMBER) },
	[MAP_ACCEPT] = { "accept", F(FD) | F(FD2), F(FAMILY) | F(PORT) | F(ADDRESS) | F(FLAGS) },
	[MAP_SHUTDOWN] = { "shutdown", F(FD), F(NUMBER) },
	[MAP_CHDIR] = { "chdir", F(NAME), 0 },
	[MAP_IGNORE] = { "ignore", 0, 0 },
};

static const char *const fields[MAP_FIELDS + 1] = { "key", "agent", "type", "status", "text", "value", "number", "pid", "tid",
						    "ppid", "name", "fd", "fd2", "flags", "family", "port", "address", NULL };

const char *map_action_name(enum map_action a) { return actions[a].name; }
const char *map_field_name(enum map_field f) { return fields[f]; }

/* ---- rules ---- */

static void rule_done(struct map_rule *r)
{
	for (int i = 0; i < MAP_FIELDS; i++)
		free(r->field[i]);
	free(r->event);
	free(r->origin);
	free(r->left);
	free(r->right);
	free(r->entry);
}

void map_done(struct map *m)
{
	for (size_t i = 0; i < m->n; i++)
		rule_done(&m->rules[i]);
	free(m->rules);
	*m = (struct map){ 0 };
}

struct reading {
	struct map *map;
	struct map_rule *rule;       /* the section at hand */
};

/* What is known only when a section is whole. */
static int rule_check(const struct map_rule *r)
{
	if (r->action == MAP_NONE)
		return fail(-EINVAL, "%s: [%s] does not say its action", r->origin, r->event);
	for (int i = 0; i < MAP_FIELDS; i++) {
		unsigned bit = 1u << i, always = F(PID) | F(TID);

		if (actions[r->action].must & bit && r->field[i] == NULL)
			return fail(-EINVAL, "%s: [%s] does not say its %s, and %s needs it", r->origin, r->event, fields[i],
				    actions[r->action].name);
		if (r->field[i] && !((actions[r->action].must | actions[r->action].may | always) & bit))
			return fail(-EINVAL, "%s: [%s] says %s, which %s has not", r->origin, r->event, fields[i],
				    actions[r->action].name);
	}
	return 0;
}

static int on_section(void *arg, const char *name, const char *origin)
{
	struct reading *in = arg;
	struct map *m = in->map;
	int r = in->rule ? rule_check(in->rule) : 0;

	if (r < 0)
		return r;
	if (*name == 0)
		return fail(-EINVAL, "%s: a section is an event's name", origin);
	m->rules = xrealloc(m->rules, (m->n + 1) * sizeof *m->rules);
	in->rule = &m->rules[m->n++];
	*in->rule = (struct map_rule){ .event = xstrdup(name), .origin = xstrdup(origin), .keep = true };
	return 0;
}

/* A template's braces come in pairs and hold a name. */
static int check_template(const char *text, const char *origin, const char *key)
{
	for (const char *s = text; *s; s++) {
		size_t n = strcspn(s, "{}");

		s += n;
		if (*s == 0)
			return 0;
		n = strcspn(s + 1, "{}");
		if (*s == '}' || s[1 + n] != '}')
			return fail(-EINVAL, "%s: %s = %s: a brace without its partner", origin, key, text);
		if (n == 0)
			return fail(-EINVAL, "%s: %s = %s: {} names no field", origin, key, text);
		s += 1 + n;
	}
	return 0;
}

static char *trimmed(const char *s, size_t n)
{
	while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
		n--;
	while (n && (*s == ' ' || *s == '\t')) {
		s++;
		n--;
	}
	return xasprintf("%.*s", (int)n, s);
}

static int set_when(struct map_rule *r, const char *value, const char *origin)
{
	static const struct { const char *text; enum map_op op; } ops[] = {
		{ " == ", MAP_EQ }, { " != ", MAP_NE }, { " <= ", MAP_LE }, { " >= ", MAP_GE }, { " < ", MAP_LT }, { " > ", MAP_GT },
	};

	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		const char *at = strstr(value, ops[i].text);

		if (at == NULL)
			continue;
		free(r->left);
		free(r->right);
		r->op = ops[i].op;
		r->left = trimmed(value, (size_t)(at - value));
		r->right = trimmed(at + strlen(ops[i].text), strlen(at + strlen(ops[i].text)));
		return check_template(value, origin, "when");
	}
	return fail(-EINVAL, "%s: when = %s: not `{field} == text` (or !=, <, <=, >, >=, with blanks around it)", origin, value);
}

static int set_action(struct map_rule *r, const char *value, const char *origin)
{
	const char *names[MAP_ACTIONS] = { 0 }, *near;

	for (int i = 1; i < MAP_ACTIONS; i++) {
		names[i - 1] = actions[i].name;
		if (strcmp(actions[i].name, value) == 0)
			r->action = (enum map_action)i;
	}
	if (r->action)
		return 0;
	near = config_did_you_mean(value, names);
	return near ? fail(-EINVAL, "%s: action = %s: no such action (did you mean %s?)", origin, value, near) :
		      fail(-EINVAL, "%s: action = %s: no such action", origin, value);
}

static int set_keep(struct map_rule *r, const char *value, const char *origin)
{
	r->keep = strcmp(value, "yes") == 0;
	return r->keep || strcmp(value, "no") == 0 ? 0 : fail(-EINVAL, "%s: keep = %s: yes or no", origin, value);
}

static int on_key(void *arg, const char *section, const char *name, const char *value, const char *origin)
{
	struct reading *in = arg;
	struct map_rule *r = in->rule;
	const char *near;

	(void)section;
	if (r == NULL)
		return fail(-EINVAL, "%s: a key before any section", origin);
	if (strcmp(name, "action") == 0)
		return set_action(r, value, origin);
	if (strcmp(name, "when") == 0)
		return set_when(r, value, origin);
	if (strcmp(name, "keep") == 0)
		return set_keep(r, value, origin);
	if (strcmp(name, "entry") == 0) {
		free(r->entry);
		r->entry = xstrdup(value);
		return 0;
	}
	for (int i = 0; i < MAP_FIELDS; i++) {
		if (strcmp(name, fields[i]))
			continue;
		free(r->field[i]);
		r->field[i] = xstrdup(value);
		return check_template(value, origin, name);
	}
	near = config_did_you_mean(name, fields);
	return near ? fail(-EINVAL, "%s: no such key: %s (did you mean %s?)", origin, name, near) :
		      fail(-EINVAL, "%s: no such key: %s", origin, name);
}

int map_read(struct map *m, const char *path)
{
	struct reading in = { .map = m };
	int r = ini_read(path, &(struct ini_reader){ on_section, on_key, &in });

	return r == 0 && in.rule ? rule_check(in.rule) : r;
}
