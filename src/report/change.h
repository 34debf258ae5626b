/* A Change: one fact, and its wire form.
 *
 * `struct change` mirrors message Change of proto/snaptrail.proto.  The writer
 * here is a protobuf encoder of fixed shape: it is always inlined, so that a
 * hook which fills three fields of a local struct gets code for three fields.
 * Tests hold it against protobuf-c.  Used by the visitor (no libc calls but
 * memcpy), by plugins and by the engine. */
#ifndef SNAPTRAIL_REPORT_CHANGE_H
#define SNAPTRAIL_REPORT_CHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum change_kind {
	KIND_NONE = 0,
	PROCESS_BEGAN = 1, PROCESS_FORKED, PROCESS_SPAWNED, PROCESS_EXITING, PROCESS_ENDED,
	EXEC_CALLED, EXEC_FAILED, PROCESS_SEEN, PROCESS_UNINJECTED,
	THREAD_BEGAN = 16, THREAD_ENDED, THREAD_NAMED, THREAD_DETACHED,
	NOTIFY = 24, LOG, TITLE,
	ENV_SET = 32, ENV_UNSET, ENV_CLEARED, CWD,
	FD_OPENED = 40, FD_CLOSED, FD_RANGE_CLOSED, FD_DUPED, FD_FLAGS, FD_PAIR, FD_GAUGE, FD_FAILED,
	RENAMED, UNLINKED,
	SOCKET_BOUND = 56, SOCKET_LISTENING, SOCKET_CONNECTED, SOCKET_ACCEPTED, SOCKET_SHUT,
	ENTITY_SET = 72, ENTITY_PATCHED, ENTITY_DELETED, METRIC, MESSAGE, MARK, SNAPSHOT_WANTED, FIELD_DROPPED,
	STACK = 84, MODULE,
	KIND_COUNT,
};

enum change_source {
	SOURCE_HOOK = 0, SOURCE_PROC, SOURCE_SUPERVISOR, SOURCE_API, SOURCE_INFERRED, SOURCE_PLUGIN,
};

enum fd_type {
	FDT_UNKNOWN = 0, FDT_FILE, FDT_SOCKET, FDT_PIPE, FDT_EVENTFD, FDT_EPOLL, FDT_TIMERFD, FDT_SIGNALFD,
	FDT_INOTIFY, FDT_MEMFD, FDT_PIDFD, FDT_DIRECTORY, FDT_DEVICE, FDT_OTHER, FDT_COUNT,
};

/* A stamp with this bit is CLOCK_MONOTONIC nanoseconds, else TSC ticks. */
#define STAMP_MONOTONIC (1ull << 63)

struct bytes {
	const void *p;
	uint32_t n;
};

#define BYTES(ptr, len) ((struct bytes){ (ptr), (uint32_t)(len) })

struct change {
	uint64_t stamp;
	uint32_t kind;
	bool has_fd, has_fd2, has_number, partial;
	int32_t fd, fd2;
	struct bytes name, value;
	uint64_t flags;
	int64_t number;
	uint32_t pid, tid, ppid, uid;
	uint32_t source, error, table, fd_type, family;
	uint64_t bytes_read, bytes_written, calls, coalesced, env_hash, exe_hash, start_ticks, seq, stack;
	double real;
	struct bytes cwd, exe, address, entity;
	/* Lists, already encoded as their repeated fields (args, env, fds). */
	struct bytes lists;
};

/* Field numbers used by hand. */
enum {
	CHANGE_ARGS = 17, CHANGE_ENV = 18, CHANGE_FDS = 20,
	CHANGE_FIELDS = 36, /* all numbers are below */
	RUN_CHANGES = 15, /* LaneRun.changes: each record in a ring carries this tag */
};
#define RUN_CHANGES_TAG ((RUN_CHANGES << 3) | 2)

#define CHANGE_INLINE static inline __attribute__((always_inline))

CHANGE_INLINE uint32_t varint_size(uint64_t v)
{
	/* ceil(bits / 7) without a division by 7. */
	return ((uint32_t)(63 - __builtin_clzll(v | 1)) * 9 + 73) / 64;
}

CHANGE_INLINE uint8_t *varint_put(uint8_t *p, uint64_t v)
{
	while (v >= 0x80) {
		*p++ = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	*p++ = (uint8_t)v;
	return p;
}

CHANGE_INLINE uint8_t *tag_put(uint8_t *p, uint32_t field, uint32_t wire)
{
	uint32_t tag = field << 3 | wire;

	*p++ = (uint8_t)(tag < 0x80 ? tag : (tag & 0x7f) | 0x80);
	if (tag >= 0x80)
		*p++ = (uint8_t)(tag >> 7);
	return p;
}

CHANGE_INLINE uint64_t zigzag(int64_t v) { return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63); }

CHANGE_INLINE uint32_t tag_size(uint32_t field) { return field < 16 ? 1 : 2; }

CHANGE_INLINE uint32_t size_bytes(uint32_t field, uint32_t n)
{
	return n ? tag_size(field) + varint_size(n) + n : 0;
}

CHANGE_INLINE uint32_t size_uint(uint32_t field, uint64_t v)
{
	return v ? tag_size(field) + varint_size(v) : 0;
}

CHANGE_INLINE uint8_t *put_uint(uint8_t *p, uint32_t field, uint64_t v)
{
	return v ? varint_put(tag_put(p, field, 0), v) : p;
}

/* Most texts are short: two overlapping moves instead of a call. */
CHANGE_INLINE void copy_text(uint8_t *to, const void *from, uint32_t n)
{
	const uint8_t *s = (const uint8_t *)from;

	if (n - 16 <= 16) {
		uint64_t a[2], b[2];

		memcpy(a, s, 16);
		memcpy(b, s + n - 16, 16);
		memcpy(to, a, 16);
		memcpy(to + n - 16, b, 16);
	} else if (n - 8 < 8) {
		uint64_t a, b;

		memcpy(&a, s, 8);
		memcpy(&b, s + n - 8, 8);
		memcpy(to, &a, 8);
		memcpy(to + n - 8, &b, 8);
	} else {
		memcpy(to, s, n);
	}
}

CHANGE_INLINE uint8_t *put_bytes(uint8_t *p, uint32_t field, const void *s, uint32_t n)
{
	if (n == 0)
		return p;
	p = tag_put(p, field, 2);
	if (n < 0x80)
		*p++ = (uint8_t)n;
	else
		p = varint_put(p, n);
	copy_text(p, s, n);
	return p + n;
}

CHANGE_INLINE uint8_t *put_fixed64(uint8_t *p, uint32_t field, uint64_t v)
{
	p = tag_put(p, field, 1);
	memcpy(p, &v, 8);
	return p + 8;
}

/* Bytes that change_put() will write.  The stamp always takes 9. */
CHANGE_INLINE uint32_t change_size(const struct change *c)
{
	uint32_t n = 9 + 2;

	if (c->has_fd)
		n += 1 + varint_size((uint64_t)(int64_t)c->fd);
	n += size_bytes(4, c->name.n) + size_uint(5, c->flags) + size_uint(6, c->pid);
	n += size_bytes(7, c->value.n);
	if (c->has_number)
		n += 1 + varint_size(zigzag(c->number));
	if (c->has_fd2)
		n += 1 + varint_size((uint64_t)(int64_t)c->fd2);
	n += size_uint(10, c->tid) + size_uint(11, c->source) + size_uint(12, c->error);
	n += size_uint(13, c->bytes_read) + size_uint(14, c->bytes_written) + size_uint(15, c->calls);
	n += size_uint(16, c->coalesced) + c->lists.n;
	n += c->env_hash ? 10 : 0;
	n += size_bytes(21, c->cwd.n) + size_uint(22, c->ppid) + size_uint(23, c->table);
	n += size_bytes(24, c->entity.n) + (c->kind == METRIC ? 10 : 0) + size_uint(26, c->uid);
	n += size_uint(27, c->start_ticks) + size_bytes(28, c->exe.n) + size_uint(29, c->fd_type);
	n += size_bytes(30, c->address.n) + size_uint(31, c->family) + (c->partial ? 3 : 0) + size_uint(33, c->seq);
	n += (c->exe_hash ? 10 : 0) + (c->stack ? 10 : 0);
	return n;
}

CHANGE_INLINE uint8_t *change_put(uint8_t *p, const struct change *c)
{
	p = put_fixed64(p, 1, c->stamp);
	*p++ = 2 << 3;
	*p++ = (uint8_t)c->kind;
	if (c->has_fd)
		p = varint_put(tag_put(p, 3, 0), (uint64_t)(int64_t)c->fd);
	p = put_bytes(p, 4, c->name.p, c->name.n);
	p = put_uint(p, 5, c->flags);
	p = put_uint(p, 6, c->pid);
	p = put_bytes(p, 7, c->value.p, c->value.n);
	if (c->has_number)
		p = varint_put(tag_put(p, 8, 0), zigzag(c->number));
	if (c->has_fd2)
		p = varint_put(tag_put(p, 9, 0), (uint64_t)(int64_t)c->fd2);
	p = put_uint(p, 10, c->tid);
	p = put_uint(p, 11, c->source);
	p = put_uint(p, 12, c->error);
	p = put_uint(p, 13, c->bytes_read);
	p = put_uint(p, 14, c->bytes_written);
	p = put_uint(p, 15, c->calls);
	p = put_uint(p, 16, c->coalesced);
	if (c->lists.n) {
		memcpy(p, c->lists.p, c->lists.n);
		p += c->lists.n;
	}
	if (c->env_hash)
		p = put_fixed64(p, 19, c->env_hash);
	p = put_bytes(p, 21, c->cwd.p, c->cwd.n);
	p = put_uint(p, 22, c->ppid);
	p = put_uint(p, 23, c->table);
	p = put_bytes(p, 24, c->entity.p, c->entity.n);
	if (c->kind == METRIC) {
		uint64_t bits;

		memcpy(&bits, &c->real, 8);
		p = put_fixed64(p, 25, bits);
	}
	p = put_uint(p, 26, c->uid);
	p = put_uint(p, 27, c->start_ticks);
	p = put_bytes(p, 28, c->exe.p, c->exe.n);
	p = put_uint(p, 29, c->fd_type);
	p = put_bytes(p, 30, c->address.p, c->address.n);
	p = put_uint(p, 31, c->family);
	p = put_uint(p, 32, c->partial);
	p = put_uint(p, 33, c->seq);
	if (c->exe_hash)
		p = put_fixed64(p, 34, c->exe_hash);
	return c->stack ? put_fixed64(p, 35, c->stack) : p;
}

/* Reads one Change of n bytes; byte fields point into them.  args, env and
 * fds stay encoded: walk them with change_next_item().  False for damage. */
bool change_read(struct change *c, const uint8_t *p, size_t n);

/* The next item of a repeated bytes/message field within a whole encoded
 * Change (begin with *pos = 0).  False at the end. */
bool change_next_item(const uint8_t *p, size_t n, size_t *pos, uint32_t field, struct bytes *ret);

/* One protobuf field: number, wire type, and its varint/fixed value or bytes. */
struct wire {
	uint32_t field, type;
	uint64_t u;
	struct bytes b;
};
/* Steps over the field at *pos.  1 read, 0 at the end, -1 damage. */
int wire_next(const uint8_t *p, size_t n, size_t *pos, struct wire *ret);

const char *change_kind_name(uint32_t kind);
const char *change_source_name(uint32_t source);
const char *fd_type_name(uint32_t type);

#endif
