/* What each kind of Change means for the tables.  Called by the collector for
 * the live state and by the reader for any earlier one: the same Changes in
 * the same order always give the same state. */
#include "model/internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

struct key {
	char text[1100];
	size_t n;
};

static void key_pid_only(struct key *k, uint32_t pid) { k->n = (size_t)sprintf(k->text, "p%u", pid); }

static void key_thread(struct key *k, uint32_t pid, uint32_t tid) { k->n = (size_t)sprintf(k->text, "p%u/t%u", pid, tid); }

static void key_fd(struct key *k, uint32_t pid, int fd) { k->n = (size_t)sprintf(k->text, "p%u/fd%d", pid, fd); }

static void key_named(struct key *k, uint32_t pid, const char *middle, const void *name, size_t n)
{
	k->n = (size_t)sprintf(k->text, "p%u/%s", pid, middle);
	if (n > sizeof k->text - k->n - 1)
		n = sizeof k->text - k->n - 1;
	memcpy(k->text + k->n, name, n);
	k->n += n;
	k->text[k->n] = 0;
}

/* ---- the session's swarm ---- */

static void swarm_update(struct moment *at)
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
			created && created->type == VALUE_DOUBLE ? (long long)created->real : 0ll);
		for (int t = 0; t < 2; t++) {
			for (e = p->owned; e; e = next) {
				const char *rest = strchr(e->key, '/');
				_cleanup_free_ char *key = NULL;

				next = e->owned_next;
				if (e->table != tables[t])
					continue;
				key = xasprintf("p%u%s%s", p->pid, suffix, rest ? rest : "");
				entity_rename(at, e, key, strlen(key));
			}
		}
	}
	p->agent = NULL;
	p->exec_count = 0;
	p->execing = false;
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

static void memory_set(struct moment *at, struct process *p, const struct key *k, const void *v, size_t n, const char *type)
{
	struct entity *e = entity_take(at, TABLE_MEMORY, k->text, k->n, true);
	struct key id;

	if (e == NULL)
		return;
	if (e->owner != p)
		entity_own(at->m, e, p);
	field_text(at, e, "value", v, n);
	field_ms(at, e, "timestamp", at->time_ns);
	key_pid_only(&id, p->pid);
	field_text(at, e, "agentId", id.text, id.n);
	field_str(at, e, "type", type);
}

static void memory_unset(struct moment *at, const struct key *k)
{
	entity_delete(at, TABLE_MEMORY, k->text, k->n);
}

static void env_put(struct moment *at, struct process *p, const char *s, size_t n)
{
	const char *eq = memchr(s, '=', n);
	size_t name = eq ? (size_t)(eq - s) : n;
	struct key k;

	key_named(&k, p->pid, "env/", s, name);
	memory_set(at, p, &k, eq ? eq + 1 : "", eq ? n - name - 1 : 0, "env");
}

/* ---- inherited environments ---- */

static void env_unfold(struct model *m, struct process *p)
{
	struct moment then = { .m = m, .time_ns = p->env_time_ns, .order = p->env_order, .pid = p->pid };
	struct environment *env = p->env;

	p->env = NULL;
	for (uint32_t i = 0; env && i < env->list.n; i++)
		env_put(&then, p, env->list.items[i].bytes, env->list.items[i].n);
}

void model_unfold(struct model *m)
{
	for (size_t i = 0; i < PROCESS_BUCKETS; i++)
		for (struct process *p = m->processes[i]; p; p = p->next)
			if (p->env)
				env_unfold(m, p);
}

/* Most processes never change what they inherited: one pointer instead of an
 * entry a variable.  Who observes wants to see each. */
static void env_inherit(struct moment *at, struct process *p, struct environment *env)
{
	p->env = env;
	p->env_time_ns = at->time_ns;
	p->env_order = at->order;
	if (at->m->observe)
		env_unfold(at->m, p);
}

/* ---- paths ---- */

static const struct value *allocation_of(const struct entity *e, const char *name)
{
	const struct value *a = e ? value_get(&e->value, "allocation") : NULL;

	return a && a->type == VALUE_OBJECT ? value_get(a, name) : NULL;
}

static const struct value *folder_of(struct moment *at, uint32_t pid, bool has_dir, int dir)
{
	struct key k;
	struct entity *e;

	if (has_dir) {
		key_fd(&k, pid, dir);
		return allocation_of(model_find(at->m, TABLE_RESOURCES, k.text, k.n), "path");
	}
	e = model_process_entity(at->m, pid, TABLE_MEMORY, "/cwd");
	return e ? value_get(&e->value, "value") : NULL;
}

/* Takes "." and "..", and doubled slashes out of an absolute path, in place. */
static void path_clean(struct buf *b)
{
	char *out = (char *)b->data, *in = buf_cstr(b), *start = out = (char *)b->data;

	while (*in) {
		size_t n;

		while (*in == '/')
			in++;
		n = strcspn(in, "/");
		if (n == 2 && in[0] == '.' && in[1] == '.') {
			while (out > start && *--out != '/')
				;
		} else if (n && !(n == 1 && in[0] == '.')) {
			*out++ = '/';
			memmove(out, in, n);
			out += n;
		}
		in += n;
	}
	if (out == start)
		*out++ = '/';
	b->len = (size_t)(out - start);
}

/* The path as the kernel will spell it, if no symbolic link is in it. */
static bool path_infer(struct moment *at, struct bytes path, bool has_dir, int dir, struct buf *ret)
{
	const char *s = path.p;

	if (path.n == 0)
		return false;
	if (s[0] != '/') {
		const struct value *folder = folder_of(at, at->pid, has_dir, dir);

		if (folder == NULL || folder->type != VALUE_STRING || folder->n == 0 || folder->bytes[0] != '/')
			return false;
		buf_put(ret, folder->bytes, folder->n);
		buf_byte(ret, '/');
	}
	buf_put(ret, s, path.n);
	buf_room(ret, 1);
	path_clean(ret);
	return true;
}

/* ---- descriptors ---- */

static void set_str(struct value *o, const char *name, const char *s) { value_set(o, name, strlen(name), true, value_str(s)); }
static void set_int(struct value *o, const char *name, int64_t i) { value_set(o, name, strlen(name), true, value_int(i)); }
static void set_text(struct value *o, const char *name, const void *p, size_t n)
{
	value_set(o, name, strlen(name), true, value_text(p, n));
}

static const char *family_name(uint32_t family)
{
	switch (family) {
	case AF_UNIX: return "unix";
	case AF_INET: return "inet";
	case AF_INET6: return "inet6";
	case AF_NETLINK: return "netlink";
	case AF_PACKET: return "packet";
	default: return "other";
	}
}

static void address_text(struct bytes a, char *out, size_t cap)
{
	struct sockaddr_storage s = { 0 };
	char host[INET6_ADDRSTRLEN] = "";

	if (a.n > sizeof s)
		a.n = sizeof s;
	memcpy(&s, a.p, a.n);
	if (s.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&s;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(out, cap, "%s:%u", host, ntohs(in->sin_port));
	} else if (s.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&s;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
		snprintf(out, cap, "[%s]:%u", host, ntohs(in->sin6_port));
	} else if (s.ss_family == AF_UNIX) {
		const struct sockaddr_un *un = (const struct sockaddr_un *)&s;
		size_t skip = offsetof(struct sockaddr_un, sun_path), n = a.n > skip ? a.n - skip : 0;

		if (n && un->sun_path[0] == 0)
			snprintf(out, cap, "@%.*s", (int)(n - 1), un->sun_path + 1);
		else
			snprintf(out, cap, "%.*s", (int)n, un->sun_path);
	} else {
		snprintf(out, cap, "family %u", s.ss_family);
	}
}

/* An open descriptor: makes its entry new, with what is known of it. */
static struct entity *fd_begin(struct moment *at, struct process *p, int fd, uint32_t type, struct value allocation)
{
	struct key k;
	struct entity *e;
	struct value v = value_object(), usage = value_object(), all = value_object();

	key_fd(&k, p->pid, fd);
	e = entity_take(at, TABLE_RESOURCES, k.text, k.n, true);
	if (e == NULL) {
		value_done(&allocation);
		return NULL;
	}
	entity_own(at->m, e, p);
	set_int(&all, "pid", p->pid);
	set_int(&all, "fd", fd);
	for (uint32_t i = 0; i < allocation.n; i++)
		value_set(&all, allocation.pairs[i].name, allocation.pairs[i].name_len, allocation.pairs[i].literal,
			  value_copy(&allocation.pairs[i].value));
	value_done(&allocation);
	set_int(&usage, "bytesRead", 0);
	set_int(&usage, "bytesWritten", 0);
	set_int(&usage, "calls", 0);
	set_text(&v, "id", k.text, k.n);
	set_str(&v, "type", fd_type_name(type));
	set_str(&v, "status", "open");
	value_set(&v, "allocation", 10, true, all);
	value_set(&v, "usage", 5, true, usage);
	value_set(&v, "timestamp", 9, true, value_real((double)(at->time_ns / 1000) / 1000.0));
	entity_assign(at, e, v);
	return e;
}

/* Changes one field of a descriptor's allocation. */
static void fd_patch(struct moment *at, struct entity *e, const char *name, struct value v)
{
	const struct value *old = value_get(&e->value, "allocation");
	struct value a = old && old->type == VALUE_OBJECT ? value_copy(old) : value_object();

	value_set(&a, name, strlen(name), true, v);
	field_take(at, e, "allocation", a);
}

static struct entity *fd_find(struct moment *at, struct process *p, int fd)
{
	struct key k;

	key_fd(&k, p->pid, fd);
	return entity_take(at, TABLE_RESOURCES, k.text, k.n, false);
}

static void fd_end(struct moment *at, struct process *p, int fd)
{
	struct entity *e = fd_find(at, p, fd);

	if (e)
		entity_bury(at, e);
}

/* What a link of /proc/PID/fd says of a descriptor. */
static uint32_t link_type(const char *s, size_t n)
{
	static const struct { const char *prefix; uint32_t type; } kinds[] = {
		{ "socket:[", FDT_SOCKET }, { "pipe:[", FDT_PIPE }, { "anon_inode:[eventfd", FDT_EVENTFD },
		{ "anon_inode:[eventpoll", FDT_EPOLL }, { "anon_inode:[timerfd", FDT_TIMERFD },
		{ "anon_inode:[signalfd", FDT_SIGNALFD }, { "anon_inode:inotify", FDT_INOTIFY },
		{ "anon_inode:[pidfd", FDT_PIDFD }, { "/memfd:", FDT_MEMFD }, { "/dev/", FDT_DEVICE },
		{ "anon_inode:", FDT_OTHER }, { "/", FDT_FILE },
	};

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		size_t len = strlen(kinds[i].prefix);

		if (n >= len && memcmp(s, kinds[i].prefix, len) == 0)
			return n > 9 && memcmp(s, "/dev/shm/", 9) == 0 ? FDT_FILE : kinds[i].type;
	}
	return FDT_OTHER;
}

/* A descriptor as the kernel showed it: what the hooks said of it stays. */
static void fd_seen(struct moment *at, struct process *p, int fd, struct bytes link)
{
	struct key k;
	struct entity *e;
	uint32_t type = link_type(link.p, link.n);

	key_fd(&k, p->pid, fd);
	e = model_find(at->m, TABLE_RESOURCES, k.text, k.n);
	if (e == NULL) {
		struct value a = value_object();

		set_text(&a, "path", link.p, link.n);
		set_str(&a, "pathSource", "proc");
		fd_begin(at, p, fd, type, a);
		return;
	}
	const struct value *path = allocation_of(e, "path"), *src = allocation_of(e, "pathSource");

	if (path && path->type == VALUE_STRING && path->n == link.n && memcmp(path->bytes, link.p, link.n) == 0 &&
	    src && src->type == VALUE_STRING && strcmp(src->bytes, "proc") == 0)
		return;
	e = entity_take(at, TABLE_RESOURCES, k.text, k.n, false);
	if (e == NULL)
		return;
	const struct value *old = value_get(&e->value, "allocation"), *known = value_get(&e->value, "type");
	struct value a = old && old->type == VALUE_OBJECT ? value_copy(old) : value_object();

	set_text(&a, "path", link.p, link.n);
	set_str(&a, "pathSource", "proc");
	field_take(at, e, "allocation", a);
	if (!(type == FDT_FILE && known && known->type == VALUE_STRING && strcmp(known->bytes, "directory") == 0))
		field_str(at, e, "type", fd_type_name(type));
}

static void on_fd_opened(struct moment *at, struct process *p, const struct change *c)
{
	struct buf path = BUF_INIT;
	struct value a = value_object();
	uint32_t type = c->fd_type;
	const char *s = c->name.p;

	if (c->source == SOURCE_PROC) {
		fd_seen(at, p, c->fd, c->name);
		return;
	}
	if (c->name.n) {
		if (path_infer(at, c->name, c->has_fd2, c->fd2, &path) && type <= FDT_FILE + 0u) {
			type = link_type((char *)path.data, path.len);
		}
		if (path.len || s[0] == '/' || type == FDT_FILE || type == FDT_DIRECTORY) {
			if (path.len) {
				set_text(&a, "path", path.data, path.len);
				set_str(&a, "pathSource", "inferred");
			}
		}
		set_text(&a, "requestedPath", c->name.p, c->name.n);
	}
	set_int(&a, "flags", (int64_t)c->flags);
	if (c->family)
		set_str(&a, "family", family_name(c->family));
	fd_begin(at, p, c->fd, type, a);
	buf_done(&path);
}

static void fd_copy(struct moment *at, struct process *p, const struct entity *from, int to, uint64_t cloexec)
{
	const struct value *a = value_get(&from->value, "allocation"), *type = value_get(&from->value, "type");
	struct value copy = a && a->type == VALUE_OBJECT ? value_copy(a) : value_object();
	const struct value *flags = value_get(&copy, "flags");
	int64_t f = flags && flags->type == VALUE_INT ? flags->integer : 0;
	struct entity *e;

	value_unset(&copy, "pid");
	value_unset(&copy, "fd");
	set_int(&copy, "flags", (f & ~(int64_t)O_CLOEXEC) | (int64_t)cloexec);
	e = fd_begin(at, p, to, FDT_UNKNOWN, copy);
	if (e && type && type->type == VALUE_STRING)
		field_text(at, e, "type", type->bytes, type->n);
}

static void on_fd_duped(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;
	struct entity *from;

	if (c->fd == c->fd2)
		return; /* dup2() of a descriptor onto itself does nothing */
	key_fd(&k, p->pid, c->fd);
	from = model_find(at->m, TABLE_RESOURCES, k.text, k.n);
	if (from)
		fd_copy(at, p, from, c->fd2, c->flags & O_CLOEXEC);
	else
		fd_begin(at, p, c->fd2, FDT_UNKNOWN, value_object());
}

static void on_fd_pair(struct moment *at, struct process *p, const struct change *c)
{
	int fds[2] = { c->fd, c->fd2 };

	for (int i = 0; i < 2; i++) {
		struct value a = value_object();

		set_int(&a, "flags", (int64_t)c->flags | (c->fd_type == FDT_PIPE ? i : 2));
		set_int(&a, "pairedWith", fds[!i]);
		if (c->family)
			set_str(&a, "family", family_name(c->family));
		fd_begin(at, p, fds[i], c->fd_type, a);
	}
}

static void on_fd_range(struct moment *at, struct process *p, const struct change *c)
{
	struct entity *e, *next;

	for (e = p->owned; e; e = next) {
		const struct value *fd = allocation_of(e, "fd"), *flags = allocation_of(e, "flags");

		next = e->owned_next;
		if (e->table != TABLE_RESOURCES || fd == NULL || fd->integer < c->fd || fd->integer > c->fd2 ||
		    e->time_ns > at->time_ns)
			continue;
		if (c->flags & 4)
			fd_patch(at, e, "flags", value_int((flags ? flags->integer : 0) | O_CLOEXEC));
		else
			entity_bury(at, e);
	}
}

static void on_fd_gauge(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;
	struct entity *e;
	struct value usage = value_object();

	key_fd(&k, p->pid, c->fd);
	e = model_find(at->m, TABLE_RESOURCES, k.text, k.n);
	if (e == NULL)
		return;
	set_int(&usage, "bytesRead", (int64_t)c->bytes_read);
	set_int(&usage, "bytesWritten", (int64_t)c->bytes_written);
	set_int(&usage, "calls", (int64_t)c->calls);
	field_take(at, e, "usage", usage);
}

/* Files under open descriptors change their names. */
static void on_renamed(struct moment *at, struct process *p, const struct change *c)
{
	_cleanup_buf_ struct buf from = BUF_INIT, to = BUF_INIT;

	(void)p;
	if (!path_infer(at, c->name, c->has_fd, c->fd, &from))
		return;
	if (c->kind == RENAMED && !path_infer(at, c->value, c->has_fd2, c->fd2, &to))
		return;
	if (c->kind == UNLINKED) {
		buf_put(&to, from.data, from.len);
		buf_str(&to, " (deleted)");
	}
	for (struct entity *e = at->m->first[TABLE_RESOURCES]; e; e = e->next) {
		const struct value *path = allocation_of(e, "path");

		if (path && path->type == VALUE_STRING && path->n == from.len &&
		    memcmp(path->bytes, from.data, from.len) == 0 && e->time_ns <= at->time_ns)
			fd_patch(at, e, "path", value_text(to.data, to.len));
	}
}

/* ---- channels ---- */

static void channel_add(struct moment *at, struct process *p, const char *channel, const char *direction,
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
	value_set(&v, "timestamp", 9, true, value_real((double)(at->time_ns / 1000) / 1000.0));
	if (at->m->observe) {
		char field[32];

		snprintf(field, sizeof field, "%llu", (unsigned long long)(e->dropped + e->value.n));
		at->m->observe(at->m->observe_arg, e, field, NULL, &v);
	}
	value_push(&e->value, v);
	if (e->value.n >= CHANNEL_KEPT * 2) {
		e->dropped += e->value.n - CHANNEL_KEPT;
		value_shift(&e->value, e->value.n - CHANNEL_KEPT);
	}
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

/* ---- sockets ---- */

static void on_socket(struct moment *at, struct process *p, const struct change *c)
{
	char address[160] = "", message[200];
	struct entity *e;

	if (c->address.n)
		address_text(c->address, address, sizeof address);
	if (c->kind == SOCKET_ACCEPTED) {
		struct value a = value_object();

		set_int(&a, "flags", (int64_t)c->flags);
		set_int(&a, "acceptedOn", c->fd);
		if (address[0])
			set_str(&a, "peer", address);
		if (c->address.n >= sizeof(sa_family_t)) {
			sa_family_t family;

			memcpy(&family, c->address.p, sizeof family);
			set_str(&a, "family", family_name(family));
		}
		e = fd_begin(at, p, c->fd2, FDT_SOCKET, a);
		if (e)
			field_str(at, e, "status", "connected");
		snprintf(message, sizeof message, "accept fd%d", c->fd2);
		channel_add(at, p, "sockets", "in", address, message, strlen(message));
		return;
	}
	e = fd_find(at, p, c->fd);
	if (e == NULL)
		return;
	switch (c->kind) {
	case SOCKET_BOUND:
		fd_patch(at, e, "address", value_str(address));
		field_str(at, e, "status", "bound");
		snprintf(message, sizeof message, "bind fd%d", c->fd);
		channel_add(at, p, "sockets", "out", address, message, strlen(message));
		break;
	case SOCKET_LISTENING:
		fd_patch(at, e, "backlog", value_int(c->number));
		field_str(at, e, "status", "listening");
		break;
	case SOCKET_CONNECTED:
		fd_patch(at, e, "peer", value_str(address));
		field_str(at, e, "status", c->error ? "connecting" : "connected");
		snprintf(message, sizeof message, "connect fd%d", c->fd);
		channel_add(at, p, "sockets", "out", address, message, strlen(message));
		break;
	case SOCKET_SHUT:
		field_str(at, e, "status", c->number == 0 ? "shut for reading" : c->number == 1 ? "shut for writing" : "shut");
		break;
	default: break;
	}
}

/* ---- processes ---- */

static void on_forked(struct moment *at, const struct change *c)
{
	struct process *parent = process_get(at->m, c->ppid, false), *p;
	struct entity *e;
	bool fresh;

	if (c->pid == 0)
		return;
	p = process_begin(at, c->pid, c->ppid, &fresh);
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
	if (parent->env)
		env_inherit(at, p, parent->env);
	for (e = parent->owned; e; e = e->owned_next) {
		const char *rest = strchr(e->key, '/');
		struct key k;

		if (rest == NULL || e->time_ns > at->time_ns)
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

/* The environment of a new image: named by a hash, listed, or both. */
static void began_env(struct moment *at, struct process *p, const struct change *c, const uint8_t *raw, size_t n)
{
	struct environment *known = c->env_hash ? environment_get(at->m, c->env_hash, false) : NULL;
	struct bytes item;
	size_t pos = 0;
	bool store = c->env_hash && known == NULL;

	if (known)
		env_inherit(at, p, known);
	else if (store)
		known = environment_get(at->m, c->env_hash, true);
	while (change_next_item(raw, n, &pos, CHANGE_ENV, &item)) {
		const char *s = item.p;

		env_put(at, p, s, item.n);
		if (store && !left_out_of_hash(s, item.n))
			value_push(&known->list, value_text(s, item.n));
	}
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
		size_t at_byte = 0;
		uint32_t fd = 0;

		while (wire_next(item.p, item.n, &at_byte, &w) > 0) {
			if (w.field == 1)
				fd = (uint32_t)w.u;
			else if (w.field == 2 && w.type == 2)
				link = w.b;
		}
		if (fd < 8192)
			open[fd / 8] |= (uint8_t)(1 << fd % 8);
		fd_seen(at, p, (int)fd, link);
	}
	for (e = p->owned; e && !c->partial; e = next) { /* exec closed the others */
		const struct value *fd = e->table == TABLE_RESOURCES ? allocation_of(e, "fd") : NULL;

		next = e->owned_next;
		if (fd && fd->type == VALUE_INT && (fd->integer >= 8192 || !(open[fd->integer / 8] & 1 << fd->integer % 8)) &&
		    e->time_ns <= at->time_ns)
			entity_bury(at, e);
	}
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

	p = process_begin(at, c->pid, c->ppid, &fresh);
	if (p == NULL || p->agent == NULL)
		return;
	while (change_next_item(raw, n, &pos, CHANGE_ARGS, &item)) {
		if (line.len)
			buf_byte(&line, ' ');
		buf_put(&line, item.p, item.n);
	}
	if (p->execing || !fresh)
		task_end(at, p, "completed", "replaced by exec");
	threads_end(at, p, p->pid, "exec");
	p->exec_count++;
	p->execing = false;
	p->env = NULL;
	process_strip(at, p, TABLE_MEMORY);
	field_int(at, p->agent, "execCount", p->exec_count);
	field_str(at, p->agent, "status", "busy");
	base = c->exe.n ? memrchr(c->exe.p, '/', c->exe.n) : NULL;
	if (c->name.n)
		field_text(at, p->agent, "name", c->name.p, c->name.n);
	else if (base)
		field_text(at, p->agent, "name", base + 1, c->exe.n - (size_t)(base + 1 - (const char *)c->exe.p));
	field_text(at, p->agent, "commandLine", line.data, line.len);
	if (c->exe.n)
		field_text(at, p->agent, "executable", c->exe.p, c->exe.n);
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
	p->env = NULL;
	at->m->alive--;
	threads_end(at, p, 0, NULL);
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
	if (c->kind == PROCESS_UNINJECTED)
		field_str(at, p->agent, "recordedFrom", "proc");
}

/* The child shows itself when its image begins; until then it exists. */
static void on_spawned(struct moment *at, const struct change *c)
{
	bool fresh;

	if (c->pid)
		process_begin(at, c->pid, at->pid, &fresh);
}

/* ---- threads ---- */

static struct entity *thread_by_handle(struct process *p, uint64_t handle)
{
	for (struct entity *e = p->owned; e; e = e->owned_next) {
		const struct value *h = e->table == TABLE_AGENTS ? value_get(&e->value, "handle") : NULL;

		if (h && h->type == VALUE_INT && (uint64_t)h->integer == handle && !agent_ended(e))
			return e;
	}
	return NULL;
}

static struct entity *thread_of(struct moment *at, struct process *p, const struct change *c)
{
	struct key k;

	if (c->tid == 0)
		return c->flags ? thread_by_handle(p, c->flags) : NULL;
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

/* ---- generic ---- */

static void on_entity(struct moment *at, const struct change *c)
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
		for (uint32_t i = 0; v.type == VALUE_OBJECT && i < v.n; i++) {
			struct pair *p = &v.pairs[i];
			struct value *old = value_get_n(&e->value, p->name, p->name_len);

			if (old && value_equal(old, &p->value))
				continue;
			if (at->m->observe)
				at->m->observe(at->m->observe_arg, e, p->name, old, &p->value);
			value_set(&e->value, p->name, p->name_len, false, value_copy(&p->value));
		}
		entity_recount(at->m, e);
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
		on_entity(at, c);
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
		on_entity(at, c);
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
		value_set(&p->agent->value, "lastActivity", 12, true, value_real((double)(time_ns / 1000) / 1000.0));
	(void)m;
}

static void apply_own(struct moment *at, struct process *p, const struct change *c)
{
	switch (c->kind) {
	case PROCESS_EXITING: on_exiting(at, p, c); break;
	case EXEC_CALLED: p->execing = true; break;
	case EXEC_FAILED: p->execing = false; break;
	case THREAD_BEGAN: case THREAD_ENDED: case THREAD_NAMED: case THREAD_DETACHED: on_thread(at, p, c); break;
	case NOTIFY: on_notify(at, p, c); break;
	case LOG: on_log(at, p, c); break;
	case ENV_SET: case ENV_UNSET: case ENV_CLEARED: case CWD: case TITLE: on_memory(at, p, c); break;
	case FD_OPENED: on_fd_opened(at, p, c); break;
	case FD_CLOSED:
		if (c->calls)
			on_fd_gauge(at, p, c); /* its last values */
		fd_end(at, p, c->fd);
		break;
	case FD_RANGE_CLOSED: on_fd_range(at, p, c); break;
	case FD_DUPED: on_fd_duped(at, p, c); break;
	case FD_PAIR: on_fd_pair(at, p, c); break;
	case FD_GAUGE: on_fd_gauge(at, p, c); break;
	case FD_FLAGS: {
		struct entity *e = fd_find(at, p, c->fd);
		const struct value *flags = allocation_of(e, "flags");

		if (e)
			fd_patch(at, e, "flags", value_int(((flags ? flags->integer : 0) & ~(int64_t)O_CLOEXEC) | (int64_t)c->flags));
		break;
	}
	case RENAMED: case UNLINKED: on_renamed(at, p, c); break;
	case SOCKET_BOUND: case SOCKET_LISTENING: case SOCKET_CONNECTED: case SOCKET_ACCEPTED: case SOCKET_SHUT:
		on_socket(at, p, c);
		break;
	case ENTITY_SET: case ENTITY_PATCHED: case ENTITY_DELETED: case MESSAGE: on_own_entity(at, p, c); break;
	default: break;
	}
	if (c->source == SOURCE_HOOK)
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
	case PROCESS_BEGAN: on_began(&at, &c, raw, n); break;
	case PROCESS_FORKED: on_forked(&at, &c); break;
	case PROCESS_ENDED: on_ended(&at, &c); break;
	case PROCESS_SPAWNED: on_spawned(&at, &c); break;
	case PROCESS_SEEN: case PROCESS_UNINJECTED: on_seen(&at, &c); break;
	case METRIC: on_metric(&at, &c); return true;
	default:
		/* Of another process when it says so, as the recorder's own do. */
		at.pid = c.pid ? c.pid : o->pid;
		p = process_get(m, at.pid, false);
		if (p && p->alive)
			apply_own(&at, p, &c);
		else if (at.pid == 0 && c.kind >= ENTITY_SET)
			on_entity(&at, &c);
		break;
	}
	if (m->active_agents != agents || m->running_tasks != tasks || m->alive != alive)
		swarm_update(&at);
	return true;
}
