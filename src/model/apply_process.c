/* What Changes of processes and threads mean: agents, their tasks, the swarm,
 * and what a process has of its own (environment, folder, descriptors) when it
 * begins, forks, executes and ends.  Called by apply.c. */
#include "model/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "report/ring.h"

/* ---- the session's swarm ---- */

void swarm_update(struct moment *at)
{
	struct model *m = at->m;
	struct moment now = *at;
	struct entity *e;

	if (m->swarm[0] == 0)
		return;
	e = model_find(m, TABLE_SWARMS, m->swarm, strlen(m->swarm));
	if (e == NULL)
		return;
	now.source = SOURCE_INFERRED;
	if (e->time_ns < at->time_ns) {
		e->time_ns = at->time_ns;
		e->order = at->order;
	}
	field_int(&now, e, "activeAgents", m->active_agents);
	field_int(&now, e, "runningTasks", m->running_tasks);
	field_str(&now, e, "coordinationStatus", m->alive ? "active" : "ended");
}

static void swarm_begin(struct moment *at, uint32_t pid)
{
	struct entity *e;

	if (at->m->swarm[0])
		return;
	sprintf(at->m->swarm, "p%u", pid);
	e = entity_take(at, TABLE_SWARMS, at->m->swarm, strlen(at->m->swarm), true);
	if (e == NULL)
		return;
	field_str(at, e, "id", at->m->swarm);
	field_str(at, e, "topology", "tree");
}

/* ---- agents and tasks ---- */

static void task_end(struct moment *at, struct process *p, const char *status, const char *result)
{
	const struct value *current = p->agent ? value_get(&p->agent->value, "currentTask") : NULL;
	struct entity *t;

	if (current == NULL || current->type != VALUE_STRING)
		return;
	t = entity_take(at, TABLE_TASKS, current->bytes, current->n, false);
	if (t == NULL)
		return;
	const struct value *s = value_get(&t->value, "status");

	if (s == NULL || s->type != VALUE_STRING || strcmp(s->bytes, "running"))
		return;
	field_str(at, t, "status", status);
	field_ms(at, t, "completedAt", at->time_ns);
	field_str(at, t, strcmp(status, "failed") ? "result" : "error", result);
	model_ended(at, t);
}

static void task_begin(struct moment *at, struct process *p, const char *what, size_t n)
{
	struct key k;
	struct entity *t;

	k.n = (size_t)sprintf(k.text, "p%u/x%u", p->pid, p->exec_count);
	t = entity_take(at, TABLE_TASKS, k.text, k.n, true);
	if (t == NULL)
		return;
	entity_own(at->m, t, p);
	field_text(at, t, "id", k.text, k.n);
	key_pid_only(&k, p->pid);
	field_text(at, t, "agentId", k.text, k.n);
	field_str(at, t, "type", "command");
	field_text(at, t, "description", what, n);
	field_str(at, t, "status", "running");
	field_ms(at, t, "startedAt", at->time_ns);
	if (p->agent) {
		k.n = (size_t)sprintf(k.text, "p%u/x%u", p->pid, p->exec_count);
		field_text(at, p->agent, "currentTask", k.text, k.n);
	}
}

static struct entity *thread_begin(struct moment *at, struct process *p, uint32_t tid)
{
	struct key k;
	struct entity *e;
	bool fresh;

	key_thread(&k, p->pid, tid);
	e = entity_take(at, TABLE_AGENTS, k.text, k.n, true);
	if (e == NULL)
		return NULL;
	fresh = e->value.n == 0 || agent_ended(e);
	if (!fresh)
		return e;
	model_unended(at->m, e);
	value_unset(&e->value, "endedAt");
	value_unset(&e->value, "endReason");
	entity_own(at->m, e, p);
	field_text(at, e, "id", k.text, k.n);
	field_str(at, e, "type", "thread");
	key_pid_only(&k, p->pid);
	field_text(at, e, "parent", k.text, k.n);
	field_str(at, e, "status", "busy");
	field_int(at, e, "pid", p->pid);
	field_int(at, e, "tid", tid);
	field_ms(at, e, "createdAt", at->time_ns);
	at->m->threads_seen++;
	return e;
}

static void agent_end(struct moment *at, struct entity *e, const char *status, const char *reason)
{
	if (agent_ended(e))
		return;
	field_str(at, e, "status", status);
	field_ms(at, e, "endedAt", at->time_ns);
	if (reason)
		field_str(at, e, "endReason", reason);
	model_ended(at, e);
}

/* The dead process that had this pid before keeps its history under a name of its own. */
static void process_retire(struct moment *at, struct process *p)
{
	static const enum table tables[] = { TABLE_AGENTS, TABLE_TASKS };
	struct entity *e, *next;
	char suffix[40];

	if (p->agent) {
		const struct value *ticks = value_get(&p->agent->value, "startTicks");
		const struct value *created = value_get(&p->agent->value, "createdAt");

		sprintf(suffix, "~%lld", ticks && ticks->type == VALUE_INT ? (long long)ticks->integer :
			created && created->type == VALUE_DOUBLE ? (long long)created->real : 0LL);
		for (int t = 0; t < 2; t++) {
			for (e = p->owned; e; e = next) {
				const char *rest = strchr(e->key, '/');
				_cleanup_free_ char *key = NULL;

				next = e->owned_next;
				if (e->table != tables[t] || explicit_entity(e))
					continue;
				key = xasprintf("p%u%s%s", p->pid, suffix, rest ? rest : "");
				entity_rename(at, e, key, strlen(key));
			}
		}
	}
	p->agent = NULL;
	p->exec_count = 0;
	p->awaited_ns = 0;
}

/* The process `pid`, made when this is the first that is heard of it. */
static struct process *process_begin(struct moment *at, uint32_t pid, uint32_t ppid, bool *ret_new)
{
	struct process *p = process_get(at->m, pid, true);
	struct key k;
	struct entity *e;

	*ret_new = false;
	if (p->alive && p->agent)
		return p;
	process_retire(at, p);
	key_pid_only(&k, pid);
	e = entity_take(at, TABLE_AGENTS, k.text, k.n, true);
	if (e == NULL)
		return NULL;
	*ret_new = true;
	entity_own(at->m, e, p);
	p->agent = e;
	at->m->alive += !p->alive;
	p->alive = true;
	at->m->processes_seen++;
	swarm_begin(at, pid);
	field_text(at, e, "id", k.text, k.n);
	field_str(at, e, "type", "process");
	field_str(at, e, "status", "spawning");
	if (ppid) {
		key_pid_only(&k, ppid);
		field_text(at, e, "parent", k.text, k.n);
	}
	field_int(at, e, "pid", pid);
	field_ms(at, e, "createdAt", at->time_ns);
	field_int(at, e, "execCount", 0);
	thread_begin(at, p, pid);
	return p;
}

/* Removes a process's entities of a table. */
static void process_strip(struct moment *at, struct process *p, enum table t)
{
	struct entity *e, *next;

	for (e = p->owned; e; e = next) {
		next = e->owned_next;
		if (e->table == t && e->time_ns <= at->time_ns)
			entity_bury(at, e);
	}
}

static void threads_end(struct moment *at, struct process *p, uint32_t but, const char *reason)
{
	struct entity *e, *next;

	for (e = p->owned; e; e = next) {
		const struct value *tid = value_get(&e->value, "tid");

		next = e->owned_next;
		if (e->table == TABLE_AGENTS && tid && tid->type == VALUE_INT && tid->integer != but &&
		    e->time_ns <= at->time_ns)
			agent_end(at, e, "terminated", reason);
	}
}

struct entity *memory_set(struct moment *at, struct process *p, const struct key *k, const void *v, size_t n, const char *type)
{
	struct entity *e = entity_take(at, TABLE_MEMORY, k->text, k->n, true);
	struct key id;

	if (e == NULL)
		return NULL;
	if (e->owner != p)
		entity_own(at->m, e, p);
	field_text(at, e, "value", v, n);
	field_ms(at, e, "timestamp", at->time_ns);
	key_pid_only(&id, p->pid);
	field_text(at, e, "agentId", id.text, id.n);
	field_str(at, e, "type", type);
	return e;
}

void memory_unset(struct moment *at, const struct key *k)
{
	entity_delete(at, TABLE_MEMORY, k->text, k->n);
}

static struct entity *env_put(struct moment *at, struct process *p, const char *s, size_t n)
{
	const char *eq = memchr(s, '=', n);
	size_t name = eq ? (size_t)(eq - s) : n;
	struct key k;

	key_named(&k, p->pid, "env/", s, name);
	return memory_set(at, p, &k, eq ? eq + 1 : "", eq ? n - name - 1 : 0, "env");
}

/* ---- inherited environments ---- */

void env_unfold(struct model *m, struct process *p)
{
	struct moment then = { .m = m, .time_ns = p->env_time_ns, .order = p->env_order, .pid = p->pid };
	struct environment *env = p->env;

	p->env = NULL;
	for (uint32_t i = 0; env && i < env->list.n; i++) {
		struct entity *e = env_put(&then, p, env->list.items[i].bytes, env->list.items[i].n);

		if (e) {
			e->inherited = true;
			p->inherited++;
		}
	}
	environment_unref(p->unfolded);
	p->unfolded = env;
}

/* What stands for all that a child has of its parent's environment but for the entries
 * that are not marked: what fork costs must not grow with that. */
static struct environment *env_of(const struct process *p, uint64_t time_ns)
{
	if (p->env)
		return p->env;
	return p->unfolded && p->inherited == p->unfolded->list.n && p->env_time_ns <= time_ns ? p->unfolded : NULL;
}

void model_unfold(struct model *m)
{
	for (size_t i = 0; i < PROCESS_BUCKETS; i++)
		for (struct process *p = m->processes[i]; p; p = p->next)
			if (p->env)
				env_unfold(m, p);
}

static void env_forget(struct process *p)
{
	for (struct entity *e = p->owned; e && p->inherited; e = e->owned_next) {
		p->inherited -= e->inherited;
		e->inherited = false;
	}
	environment_unref(p->env);
	environment_unref(p->unfolded);
	p->env = p->unfolded = NULL;
}

/* Most processes never change what they inherited: one pointer instead of an
 * entry a variable.  Who observes wants to see each. */
static void env_inherit(struct moment *at, struct process *p, struct environment *env)
{
	environment_unref(p->env);
	env->users++;
	p->env = env;
	p->env_time_ns = at->time_ns;
	p->env_order = at->order;
	if (at->m->observe)
		env_unfold(at->m, p);
}

/* ---- processes ---- */

static void on_forked(struct moment *at, const struct change *c)
{
	struct process *parent = process_get(at->m, c->ppid, false), *p;
	struct environment *env;
	struct entity *e;
	bool fresh;

	if (c->pid == 0)
		return;
	p = process_begin(at, c->pid, c->ppid, &fresh);
	if (p && p->agent && value_get(&p->agent->value, "recordedFrom")) { /* /proc was faster */
		field_drop(at, p->agent, "recordedFrom");
		fresh = true;
	}
	if (p == NULL || !fresh)
		return;
	if (p->agent)
		field_str(at, p->agent, "status", "busy");
	if (parent == NULL || parent->agent == NULL || parent == p)
		return;
	static const char *const same[] = { "name", "commandLine", "executable", "uid" };

	for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
		const struct value *v = value_get(&parent->agent->value, same[i]);

		if (v)
			field_take(at, p->agent, same[i], value_copy(v));
	}
	env = env_of(parent, at->time_ns);
	if (env)
		env_inherit(at, p, env);
	for (e = parent->owned; e; e = e->owned_next) {
		const char *rest = strchr(e->key, '/');
		struct key k;

		if (rest == NULL || e->time_ns > at->time_ns || (env && e->inherited))
			continue;
		if (e->table == TABLE_MEMORY && (strncmp(rest, "/env/", 5) == 0 || strcmp(rest, "/cwd") == 0 ||
						 strcmp(rest, "/title") == 0)) {
			const struct value *v = value_get(&e->value, "value"), *type = value_get(&e->value, "type");

			key_named(&k, p->pid, "", rest + 1, strlen(rest + 1));
			if (v && v->type == VALUE_STRING)
				memory_set(at, p, &k, v->bytes, v->n, type && type->type == VALUE_STRING ? type->bytes : "env");
		} else if (e->table == TABLE_RESOURCES) {
			const struct value *fd = allocation_of(e, "fd"), *flags = allocation_of(e, "flags");

			if (fd && fd->type == VALUE_INT)
				fd_copy(at, p, e, (int)fd->integer, flags ? (uint64_t)flags->integer & O_CLOEXEC : 0);
		}
	}
}

/* The variables that the visitor leaves out of the hash and writes each time. */
static bool left_out_of_hash(const char *s, size_t n)
{
	static const char *const names[] = { "_=", "PWD=", "OLDPWD=", "SHLVL=" };

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (n >= strlen(names[i]) && memcmp(s, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

/* A recorded program names what its board has room to remember; more hashes than
 * that, and those of programs that began at once, nobody means well. */
static struct environment *environment_new(struct model *m, uint64_t hash)
{
	return m->nenvironments < 2 * BOARD_KNOWN ? environment_get(m, hash, true) : NULL;
}

/* The environment of a new image: named by a hash, listed, or both. */
static void began_env(struct moment *at, struct process *p, const struct change *c, const uint8_t *raw, size_t n)
{
	struct environment *known = c->env_hash ? environment_get(at->m, c->env_hash, false) : NULL, *env = known;
	struct bytes item;
	size_t pos = 0;

	if (env == NULL && c->env_hash)
		env = environment_new(at->m, c->env_hash);
	if (env == NULL)
		env = environment_unnamed();
	while (change_next_item(raw, n, &pos, CHANGE_ENV, &item)) {
		const char *s = item.p;

		if (env->hash && left_out_of_hash(s, item.n))
			env_put(at, p, s, item.n);
		else if (env != known)
			value_push(&env->list, value_text(s, item.n));
	}
	env_inherit(at, p, env);
	environment_unref(env);
}

/* A path that came with its hash once and by the hash alone from then on; kept
 * as a list of one among the environments. */
static struct bytes named_once(struct model *m, uint64_t hash, struct bytes path)
{
	struct environment *v = environment_get(m, hash, false);

	if (v == NULL && path.n)
		v = environment_new(m, hash);
	if (v == NULL)
		return path;
	if (path.n && v->list.n == 0)
		value_push(&v->list, value_text(path.p, path.n));
	return v->list.n && v->list.items[0].type == VALUE_STRING ? BYTES(v->list.items[0].bytes, v->list.items[0].n) : path;
}

static void began_fds(struct moment *at, struct process *p, const struct change *c, const uint8_t *raw, size_t n)
{
	struct bytes item;
	size_t pos = 0;
	uint8_t open[8192 / 8] = { 0 };
	struct entity *e, *next;

	while (change_next_item(raw, n, &pos, CHANGE_FDS, &item)) {
		struct wire w;
		struct bytes link = BYTES("", 0);
		uint64_t hash = 0;
		size_t at_byte = 0;
		uint32_t fd = 0;

		while (wire_next(item.p, item.n, &at_byte, &w) > 0) {
			if (w.field == 1)
				fd = (uint32_t)w.u;
			else if (w.field == 2 && w.type == 2)
				link = w.b;
			else if (w.field == 3)
				hash = w.u;
		}
		if (fd < 8192)
			open[fd / 8] |= (uint8_t)(1 << fd % 8);
		if (hash)
			link = named_once(at->m, hash, link);
		fd_seen(at, p, (int)fd, link);
	}
	for (e = p->owned; e && !c->partial; e = next) { /* exec closed the others */
		const struct value *fd = e->table == TABLE_RESOURCES ? allocation_of(e, "fd") : NULL;

		next = e->owned_next;
		if (fd && fd->type == VALUE_INT && (fd->integer < 0 || fd->integer >= 8192 || !(open[fd->integer / 8] & 1 << fd->integer % 8)) &&
		    e->time_ns <= at->time_ns)
			entity_bury(at, e);
	}
}

/* A tracer of the kernel knows the file alone; what close-on-exec means for the
 * descriptors that it saw opened is known as well. */
static void began_traced(struct moment *at, struct process *p, const struct change *c)
{
	const char *base = c->exe.n ? memrchr(c->exe.p, '/', c->exe.n) : NULL;
	struct entity *e, *next;

	if (base)
		field_text(at, p->agent, "name", base + 1, c->exe.n - (size_t)(base + 1 - (const char *)c->exe.p));
	field_text(at, p->agent, "executable", c->exe.p, c->exe.n);
	for (e = p->owned; e; e = next) {
		const struct value *flags = e->table == TABLE_RESOURCES ? allocation_of(e, "flags") : NULL;

		next = e->owned_next;
		if (flags && flags->type == VALUE_INT && flags->integer & O_CLOEXEC && e->time_ns <= at->time_ns)
			entity_bury(at, e);
	}
	task_begin(at, p, c->exe.p, c->exe.n);
}

static void on_began(struct moment *at, const struct change *c, const uint8_t *raw, size_t n)
{
	_cleanup_buf_ struct buf line = BUF_INIT;
	struct process *p;
	struct bytes item;
	size_t pos = 0;
	bool fresh;
	struct key k;
	const char *base;
	struct bytes exe = c->exe_hash ? named_once(at->m, c->exe_hash, c->exe) : c->exe;

	p = process_begin(at, c->pid, c->ppid, &fresh);
	if (p == NULL || p->agent == NULL)
		return;
	while (change_next_item(raw, n, &pos, CHANGE_ARGS, &item)) {
		if (line.len)
			buf_byte(&line, ' ');
		buf_put(&line, item.p, item.n);
	}
	field_drop(at, p->agent, "recordedFrom"); /* /proc was faster */
	if (p->awaited_ns || !fresh)
		task_end(at, p, "completed", "replaced by exec");
	threads_end(at, p, p->pid, "exec");
	explicit_end(at, p, "replaced by exec");
	p->exec_count++;
	p->awaited_ns = 0;
	field_int(at, p->agent, "execCount", p->exec_count);
	field_str(at, p->agent, "status", "busy");
	if (at->source == SOURCE_PLUGIN) {
		began_traced(at, p, c);
		return;
	}
	env_forget(p);
	process_strip(at, p, TABLE_MEMORY);
	base = exe.n ? memrchr(exe.p, '/', exe.n) : NULL;
	if (c->name.n)
		field_text(at, p->agent, "name", c->name.p, c->name.n);
	else if (base)
		field_text(at, p->agent, "name", base + 1, exe.n - (size_t)(base + 1 - (const char *)exe.p));
	field_text(at, p->agent, "commandLine", line.data, line.len);
	if (exe.n)
		field_text(at, p->agent, "executable", exe.p, exe.n);
	field_int(at, p->agent, "uid", c->uid);
	if (c->cwd.n) {
		key_named(&k, p->pid, "cwd", "", 0);
		memory_set(at, p, &k, c->cwd.p, c->cwd.n, "cwd");
	}
	began_env(at, p, c, raw, n);
	began_fds(at, p, c, raw, n);
	task_begin(at, p, (char *)line.data, line.len);
}

static const char *status_text(int status, char *out, size_t cap)
{
	if (WIFSIGNALED(status))
		snprintf(out, cap, "signal %s", sigabbrev_np(WTERMSIG(status)) ? sigabbrev_np(WTERMSIG(status)) : "?");
	else
		snprintf(out, cap, "exit %d", WEXITSTATUS(status));
	return out;
}

static void on_ended(struct moment *at, const struct change *c)
{
	struct process *p = process_get(at->m, c->pid, false);
	int status = (int)c->number;
	char text[40];

	if (p == NULL || p->agent == NULL)
		return;
	if (p->agent->time_ns > at->time_ns && p->alive) /* a newer process of the same pid */
		return;
	if (c->has_number && !value_get(&p->agent->value, "exitCode") && !value_get(&p->agent->value, "signal")) {
		if (WIFSIGNALED(status)) {
			const char *name = sigabbrev_np(WTERMSIG(status));
			char sig[24];

			snprintf(sig, sizeof sig, "SIG%s", name ? name : "?");
			field_str(at, p->agent, "signal", sig);
		} else {
			field_int(at, p->agent, "exitCode", WEXITSTATUS(status));
		}
		field_str(at, p->agent, "endReason", WIFSIGNALED(status) ? "signal" : "exit");
	}
	if (!p->alive)
		return;
	task_end(at, p, !c->has_number || status == 0 ? "completed" : "failed",
		 c->has_number ? status_text(status, text, sizeof text) : "unknown");
	p->alive = false;
	env_forget(p);
	at->m->alive--;
	if (p->awaited_ns) {
		at->m->processes_unheard++;
		if (*p->awaited)
			field_str(at, p->agent, "name", p->awaited);
		field_str(at, p->agent, "recordedFrom", "exec");
	}
	threads_end(at, p, 0, NULL);
	explicit_end(at, p, "process ended");
	if (!value_get(&p->agent->value, "endReason"))
		field_str(at, p->agent, "endReason", "unknown");
	value_unset(&p->agent->value, "currentTask");
	agent_end(at, p->agent, c->has_number && WIFSIGNALED(status) ? "error" : "terminated", NULL);
	process_strip(at, p, TABLE_MEMORY);
	process_strip(at, p, TABLE_RESOURCES);
}

static void on_exiting(struct moment *at, struct process *p, const struct change *c)
{
	if (p->agent == NULL)
		return;
	if (c->has_number && !value_get(&p->agent->value, "exitCode"))
		field_int(at, p->agent, "exitCode", c->number & 0xff);
	field_text(at, p->agent, "endReason", c->value.p, c->value.n);
}

static void on_seen(struct moment *at, const struct change *c)
{
	bool fresh;
	struct process *p = process_begin(at, c->pid, c->ppid, &fresh);

	if (p == NULL || p->agent == NULL)
		return;
	if (c->name.n)
		field_text(at, p->agent, "name", c->name.p, c->name.n);
	if (c->start_ticks)
		field_int(at, p->agent, "startTicks", (int64_t)c->start_ticks);
	if (c->value.n)
		field_text(at, p->agent, "commandLine", c->value.p, c->value.n);
	if (c->exe.n)
		field_text(at, p->agent, "executable", c->exe.p, c->exe.n);
	if (fresh && at->source == SOURCE_PLUGIN)
		field_str(at, p->agent, "status", "busy");
	if (c->kind == PROCESS_UNINJECTED) {
		field_str(at, p->agent, "recordedFrom", "proc");
		p->awaited_ns = 0;
	}
}

/* The name of an image is the end of its path, as the kernel cuts it; of a descriptor's
 * nobody knows. */
void process_await(struct process *p, struct bytes path, uint64_t time_ns)
{
	const char *from = path.n ? path.p : "", *slash = memrchr(from, '/', path.n), *name = slash ? slash + 1 : from;
	size_t n = path.n - (size_t)(name - from);

	if (n && *name == '(')
		n = 0;
	if (n >= sizeof p->awaited)
		n = sizeof p->awaited - 1;
	memcpy(p->awaited, name, n);
	p->awaited[n] = 0;
	p->awaited_ns = time_ns;
}

static const char left[] = "executed without the visitor: ";

/* without_us: the new image's environment has no visitor.  Until something is heard of it
 * again, what is shown is what was before. */
static void image_called(struct moment *at, struct process *p, const struct change *c, bool without_us)
{
	_cleanup_buf_ struct buf text = BUF_INIT;
	struct key k;

	process_await(p, c->name, at->time_ns);
	if (!without_us)
		return;
	key_named(&k, p->pid, "", "blind", 5);
	buf_put(&text, left, sizeof left - 1);
	buf_put(&text, c->name.p, c->name.n);
	memory_set(at, p, &k, text.data, text.len, "note");
}

static void image_failed(struct moment *at, struct process *p)
{
	const struct entity *e;
	const struct value *v;
	struct key k;

	p->awaited_ns = 0;
	if (p->agent)
		field_drop(at, p->agent, "recordedFrom"); /* it took so long that it was taken for another */
	key_named(&k, p->pid, "", "blind", 5);
	e = model_find(at->m, TABLE_MEMORY, k.text, k.n);
	v = e ? value_get(&e->value, "value") : NULL;
	if (v && v->type == VALUE_STRING && v->n >= sizeof left - 1 && memcmp(v->bytes, left, sizeof left - 1) == 0)
		memory_unset(at, &k);
}

/* The child shows itself when its image begins; until then it exists.  One that could not
 * execute this may try another. */
static void on_spawned(struct moment *at, const struct change *c)
{
	bool fresh;
	struct process *p = c->pid ? process_begin(at, c->pid, at->pid, &fresh) : NULL;

	if (p == NULL || p->agent == NULL || p->exec_count)
		return;
	if (c->flags & 2)
		image_failed(at, p);
	else
		image_called(at, p, c, c->flags & 1);
}

/* ---- threads ---- */

/* seq: how many threads had begun when the handle was used, 0 unknown; a later
 * one has the handle of one that is gone. */
static struct entity *thread_by_handle(struct process *p, uint64_t handle, uint64_t seq)
{
	for (struct entity *e = p->owned; e; e = e->owned_next) {
		const struct value *h = e->table == TABLE_AGENTS ? value_get(&e->value, "handle") : NULL;

		if (h && h->type == VALUE_INT && (uint64_t)h->integer == handle && !agent_ended(e)) {
			const struct value *number = value_get(&e->value, "number");

			return seq && number && number->integer > (int64_t)seq ? NULL : e;
		}
	}
	return NULL;
}

static struct entity *thread_of(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;

	if (c->tid == 0)
		return c->flags ? thread_by_handle(p, c->flags, c->seq) : NULL;
	key_thread(&k, p->pid, c->tid);
	return model_find(at->m, TABLE_AGENTS, k.text, k.n);
}

static void on_thread(struct moment *at, struct process *p, const struct change *c)
{
	struct entity *e = c->kind == THREAD_BEGAN ? thread_begin(at, p, c->tid) : thread_of(at, p, c);

	if (e == NULL || e->time_ns > at->time_ns)
		return;
	e = entity_take(at, TABLE_AGENTS, e->key, e->key_len, false);
	if (e == NULL)
		return;
	switch (c->kind) {
	case THREAD_BEGAN:
		if (c->flags)
			field_int(at, e, "handle", (int64_t)c->flags);
		if (c->seq)
			field_int(at, e, "number", (int64_t)c->seq);
		if (c->value.n)
			field_text(at, e, "type", c->value.p, c->value.n);
		break;
	case THREAD_ENDED:
		agent_end(at, e, "terminated", c->flags ? "joined" : "returned");
		break;
	case THREAD_NAMED:
		field_text(at, e, "name", c->name.p, c->name.n);
		if (c->tid == p->pid && p->agent)
			field_text(at, p->agent, "name", c->name.p, c->name.n);
		break;
	case THREAD_DETACHED:
		field_take(at, e, "detached", value_bool(true));
		break;
	default: break;
	}
}

/* ---- one Change ---- */

void apply_process(struct moment *at, const struct change *c, const uint8_t *raw, size_t n)
{
	switch (c->kind) {
	case PROCESS_BEGAN: on_began(at, c, raw, n); break;
	case PROCESS_FORKED: on_forked(at, c); break;
	case PROCESS_ENDED: on_ended(at, c); break;
	case PROCESS_SPAWNED: on_spawned(at, c); break;
	default: on_seen(at, c); break;
	}
}

void apply_agent(struct moment *at, struct process *p, const struct change *c)
{
	switch (c->kind) {
	case PROCESS_EXITING: on_exiting(at, p, c); break;
	case EXEC_CALLED: image_called(at, p, c, c->flags & 1); break;
	case EXEC_FAILED: image_failed(at, p); break;
	default: on_thread(at, p, c); break;
	}
}
