/* Reading Changes back: a small protobuf reader that distrusts every length,
 * and the names of kinds, sources and descriptor types.  Called by the engine
 * and the reader on any thread; no state, no allocation. */
#include "report/change.h"

static bool varint_get(const uint8_t *p, size_t n, size_t *pos, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64 && *pos < n; shift += 7) {
		uint8_t c = p[(*pos)++];

		v |= (uint64_t)(c & 0x7f) << shift;
		if (!(c & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

int wire_next(const uint8_t *p, size_t n, size_t *pos, struct wire *w)
{
	uint64_t tag;

	if (*pos >= n)
		return 0;
	if (!varint_get(p, n, pos, &tag) || tag >> 3 == 0 || tag >> 32)
		return -1;
	w->field = (uint32_t)(tag >> 3);
	w->type = tag & 7;
	switch (w->type) {
	case 0:
		return varint_get(p, n, pos, &w->u) ? 1 : -1;
	case 1:
		if (n - *pos < 8)
			return -1;
		memcpy(&w->u, p + *pos, 8);
		*pos += 8;
		return 1;
	case 2:
		if (!varint_get(p, n, pos, &w->u) || w->u > n - *pos || w->u > UINT32_MAX)
			return -1;
		w->b = BYTES(p + *pos, w->u);
		*pos += w->u;
		return 1;
	case 5: {
		uint32_t v;

		if (n - *pos < 4)
			return -1;
		memcpy(&v, p + *pos, 4);
		w->u = v;
		*pos += 4;
		return 1;
	}
	default:
		return -1;
	}
}

/* What wire type a field of Change has; a known field of another type is damage. */
static const uint8_t wire_type[CHANGE_FIELDS] = {
	[1] = 1, [2] = 0, [3] = 0, [4] = 2, [5] = 0, [6] = 0, [7] = 2, [8] = 0, [9] = 0, [17] = 2, [18] = 2,
	[19] = 1, [20] = 2, [21] = 2, [24] = 2, [25] = 1, [28] = 2, [30] = 2, [34] = 1, [35] = 1,
};

bool change_read(struct change *c, const uint8_t *p, size_t n)
{
	struct wire w;
	size_t pos = 0;
	int r;

	memset(c, 0, sizeof *c);
	while ((r = wire_next(p, n, &pos, &w)) > 0) {
		if (w.field >= CHANGE_FIELDS)
			continue;
		if (w.type != wire_type[w.field])
			return false;
		switch (w.field) {
		case 1: c->stamp = w.u; break;
		case 2: c->kind = (uint32_t)w.u; break;
		case 3: c->fd = (int32_t)w.u; c->has_fd = true; break;
		case 4: c->name = w.b; break;
		case 5: c->flags = w.u; break;
		case 6: c->pid = (uint32_t)w.u; break;
		case 7: c->value = w.b; break;
		case 8: c->number = (int64_t)(w.u >> 1) ^ -(int64_t)(w.u & 1); c->has_number = true; break;
		case 9: c->fd2 = (int32_t)w.u; c->has_fd2 = true; break;
		case 10: c->tid = (uint32_t)w.u; break;
		case 11: c->source = (uint32_t)w.u; break;
		case 12: c->error = (uint32_t)w.u; break;
		case 13: c->bytes_read = w.u; break;
		case 14: c->bytes_written = w.u; break;
		case 15: c->calls = w.u; break;
		case 16: c->coalesced = w.u; break;
		case 19: c->env_hash = w.u; break;
		case 21: c->cwd = w.b; break;
		case 22: c->ppid = (uint32_t)w.u; break;
		case 23: c->table = (uint32_t)w.u; break;
		case 24: c->entity = w.b; break;
		case 25: memcpy(&c->real, &w.u, 8); break;
		case 26: c->uid = (uint32_t)w.u; break;
		case 27: c->start_ticks = w.u; break;
		case 28: c->exe = w.b; break;
		case 29: c->fd_type = (uint32_t)w.u; break;
		case 30: c->address = w.b; break;
		case 31: c->family = (uint32_t)w.u; break;
		case 32: c->partial = w.u != 0; break;
		case 33: c->seq = w.u; break;
		case 34: c->exe_hash = w.u; break;
		case 35: c->stack = w.u; break;
		default: break;
		}
	}
	return r == 0;
}

bool change_next_item(const uint8_t *p, size_t n, size_t *pos, uint32_t field, struct bytes *ret)
{
	struct wire w;

	while (wire_next(p, n, pos, &w) > 0) {
		if (w.field == field && w.type == 2) {
			*ret = w.b;
			return true;
		}
	}
	return false;
}

const char *change_kind_name(uint32_t kind)
{
	static const char *const names[KIND_COUNT] = {
		[PROCESS_BEGAN] = "process_began", [PROCESS_FORKED] = "process_forked",
		[PROCESS_SPAWNED] = "process_spawned", [PROCESS_EXITING] = "process_exiting",
		[PROCESS_ENDED] = "process_ended", [EXEC_CALLED] = "exec_called", [EXEC_FAILED] = "exec_failed",
		[PROCESS_SEEN] = "process_seen", [PROCESS_UNINJECTED] = "process_uninjected",
		[THREAD_BEGAN] = "thread_began", [THREAD_ENDED] = "thread_ended", [THREAD_NAMED] = "thread_named",
		[THREAD_DETACHED] = "thread_detached",
		[NOTIFY] = "notify", [LOG] = "log", [TITLE] = "title", [ENV_SET] = "env_set",
		[ENV_UNSET] = "env_unset", [ENV_CLEARED] = "env_cleared", [CWD] = "cwd",
		[FD_OPENED] = "fd_opened", [FD_CLOSED] = "fd_closed", [FD_RANGE_CLOSED] = "fd_range_closed",
		[FD_DUPED] = "fd_duped", [FD_FLAGS] = "fd_flags", [FD_PAIR] = "fd_pair", [FD_GAUGE] = "fd_gauge",
		[FD_FAILED] = "fd_failed", [RENAMED] = "renamed", [UNLINKED] = "unlinked",
		[SOCKET_BOUND] = "socket_bound", [SOCKET_LISTENING] = "socket_listening",
		[SOCKET_CONNECTED] = "socket_connected", [SOCKET_ACCEPTED] = "socket_accepted",
		[SOCKET_SHUT] = "socket_shut", [ENTITY_SET] = "entity_set", [ENTITY_PATCHED] = "entity_patched",
		[ENTITY_DELETED] = "entity_deleted", [METRIC] = "metric", [MESSAGE] = "message",
		[MARK] = "mark", [SNAPSHOT_WANTED] = "snapshot_wanted", [FIELD_DROPPED] = "field_dropped",
		[STACK] = "stack", [MODULE] = "module",
	};

	return kind < KIND_COUNT && names[kind] ? names[kind] : "unknown";
}

const char *change_source_name(uint32_t source)
{
	static const char *const names[] = { "hook", "proc", "supervisor", "api", "inferred", "plugin" };

	return source < sizeof names / sizeof *names ? names[source] : "unknown";
}

const char *fd_type_name(uint32_t type)
{
	static const char *const names[FDT_COUNT] = {
		"unknown", "file", "socket", "pipe", "eventfd", "epoll", "timerfd", "signalfd", "inotify",
		"memfd", "pidfd", "directory", "device", "other",
	};

	return type < FDT_COUNT ? names[type] : "unknown";
}
