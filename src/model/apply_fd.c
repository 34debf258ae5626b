/* What Changes of descriptors, of the files under them and of sockets mean for
 * the resources table.  Called by apply.c. */
#include "model/internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- paths ---- */

const struct value *allocation_of(const struct entity *e, const char *name)
{
	const struct value *a = e ? value_get(&e->value, "allocation") : NULL;

	return a && a->type == VALUE_OBJECT ? value_get(a, name) : NULL;
}

const struct value *folder_of(struct moment *at, uint32_t pid, bool has_dir, int dir)
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
	char *in = buf_cstr(b), *start = in, *out = in;

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
bool path_infer(struct moment *at, struct bytes path, bool has_dir, int dir, struct buf *ret)
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
	value_set(&v, "timestamp", 9, true, value_real(time_ms(at->time_ns)));
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
void fd_seen(struct moment *at, struct process *p, int fd, struct bytes link)
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
	bool folder = known && known->type == VALUE_STRING && strcmp(known->bytes, "directory") == 0; /* the fields may move */

	set_text(&a, "path", link.p, link.n);
	set_str(&a, "pathSource", "proc");
	field_take(at, e, "allocation", a);
	if (!(type == FDT_FILE && folder))
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

void fd_copy(struct moment *at, struct process *p, const struct entity *from, int to, uint64_t cloexec)
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

/* ---- one Change ---- */

static void on_fd_flags(struct moment *at, struct process *p, const struct change *c)
{
	struct entity *e = fd_find(at, p, c->fd);
	const struct value *flags = allocation_of(e, "flags");

	if (e)
		fd_patch(at, e, "flags", value_int(((flags ? flags->integer : 0) & ~(int64_t)O_CLOEXEC) | (int64_t)c->flags));
}

void apply_fd(struct moment *at, struct process *p, const struct change *c)
{
	switch (c->kind) {
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
	case FD_FLAGS: on_fd_flags(at, p, c); break;
	case RENAMED: case UNLINKED: on_renamed(at, p, c); break;
	default: on_socket(at, p, c); break;
	}
}
