/* A program's own words for snaptrail: its agents, tasks, values, messages,
 * metrics and marks, and "take a snapshot now".
 *
 * This header is all there is: nothing to link, no dependency.  Where the
 * program runs under snaptrail each call leaves one record, about as cheap as a
 * hook; where it does not, a call is a load and a branch.  Works in C11 and in
 * C++11 and later, in executables of any kind and in shared libraries.
 *
 * For all functions here:
 *
 *   Return value  0: recorded, which survives the death of every process.
 *                 -ENOSYS: nothing records this process.  -EINVAL: an argument
 *                 is not as described.  -EMSGSIZE: too long (see the limits).
 *                 -ENOBUFS: lost for want of room, counted and shown as a loss.
 *                 errno stays untouched.
 *   Threads       any thread at any time, without locks or waiting.
 *   Signals       any handler may call any of them, also one that interrupted
 *                 another call.
 *   fork          the child reports for itself.  A vfork child's reports are
 *                 lost and counted.
 *   Strings       end with 0 and are bytes, usually UTF-8; they are copied
 *                 before the call returns.  NULL: not said.
 *   Keys          1 to 1,024 bytes, taken as they are.  Names of agents and tasks
 *                 are not `p<digits>`, alone or before "/" or "~": these are
 *                 processes'.
 *   Secrets       a value whose key holds one of the words of [privacy] (password,
 *                 token ...) is replaced by "<redacted>" before it leaves the
 *                 program; pairs of that kind inside a value keep their size.
 *
 * Every report says what is so now, never a difference: after a lost one the
 * next heals the picture.  snaptrail_report(3) has an example, doc/report-abi.md
 * the binary interface for other languages. */
#ifndef SNAPTRAIL_REPORT_H
#define SNAPTRAIL_REPORT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the binary interface, version 1 ---- */

enum snaptrail_report_kind {
	SNAPTRAIL_REPORT_AGENT_BEGIN = 1, /* key; type; agent = parent; status; value = variables */
	SNAPTRAIL_REPORT_AGENT_STATUS,    /* key; status; value = variables */
	SNAPTRAIL_REPORT_AGENT_END,       /* key; status terminated (or error); text = reason */
	SNAPTRAIL_REPORT_TASK_BEGIN,      /* key; type; agent; status running (or pending); text = description */
	SNAPTRAIL_REPORT_TASK_PROGRESS,   /* key; number = 0 to 1; text = description */
	SNAPTRAIL_REPORT_TASK_COMPLETE,   /* key; value = result */
	SNAPTRAIL_REPORT_TASK_FAIL,       /* key; text = error */
	SNAPTRAIL_REPORT_VALUE_SET,       /* key; value; agent */
	SNAPTRAIL_REPORT_VALUE_DELETE,    /* key */
	SNAPTRAIL_REPORT_MESSAGE_IN,      /* key = channel; value = message; text = source; agent = target; type */
	SNAPTRAIL_REPORT_MESSAGE_OUT,     /* key = channel; value = message; text = target; agent = source; type */
	SNAPTRAIL_REPORT_METRIC,          /* key; number */
	SNAPTRAIL_REPORT_MARK,            /* key; text = description; agent */
	SNAPTRAIL_REPORT_SNAPSHOT         /* key = tags, separated by commas, may be empty; text = description */
};

enum snaptrail_report_type {
	SNAPTRAIL_REPORT_ABSENT = 0,
	SNAPTRAIL_REPORT_NULL,
	SNAPTRAIL_REPORT_BOOL,            /* value.integer, 0 or 1 */
	SNAPTRAIL_REPORT_INT,             /* value.integer */
	SNAPTRAIL_REPORT_UINT,            /* value.natural */
	SNAPTRAIL_REPORT_DOUBLE,          /* value.real */
	SNAPTRAIL_REPORT_TEXT,            /* value.bytes, value_len */
	SNAPTRAIL_REPORT_BYTES,
	SNAPTRAIL_REPORT_ENCODED          /* the same two: message Value of proto/snaptrail.proto, 1 byte or more */
};

/* A length that says: up to the 0. */
#define SNAPTRAIL_REPORT_TO_NUL ((size_t)-1)

/* Limits in bytes: beyond them a report is -EMSGSIZE. */
#define SNAPTRAIL_REPORT_KEY_MAX 1024u    /* key, agent, type, status; all tags of a snapshot */
#define SNAPTRAIL_REPORT_TEXT_MAX 4096u   /* text */
#define SNAPTRAIL_REPORT_VALUE_MAX 65536u /* value; and 32 levels of lists and objects */

/* One report.  Fill with zeros, set size and kind and what the kind names
 * above; the rest stays 0.  It grows at its end only: an older caller's is taken
 * as if it went on with zeros, a newer caller's is -E2BIG where it says more
 * than this snaptrail knows. */
struct snaptrail_report {
	uint32_t size;                    /* sizeof (struct snaptrail_report) */
	uint32_t kind;                    /* enum snaptrail_report_kind */
	const char *key;
	size_t key_len;
	const char *agent;
	size_t agent_len;
	const char *type;
	size_t type_len;
	const char *status;
	size_t status_len;
	const char *text;
	size_t text_len;
	uint64_t time_ns;                 /* when it happened, ns since the epoch; 0: now.  Kept with the fact; the
	                                   * recording's own order is that of the calls */
	double number;
	uint32_t value_type;              /* enum snaptrail_report_type */
	uint32_t flags;                   /* 0 */
	union {
		int64_t integer;
		uint64_t natural;
		double real;
		const void *bytes;
	} value;
	size_t value_len;
};

/* Exported by snaptrail's preloaded object while it is there, to be found by
 * dlsym(RTLD_DEFAULT, ...).  snaptrail_report_v1 takes one report.
 * snaptrail_report_enabled is 1 where reports are recorded now, else 0. */
typedef int (*snaptrail_report_function)(const struct snaptrail_report *);
typedef int (*snaptrail_report_question)(void);

/* The two are looked up through the global offset table, also in executables at
 * a fixed address: there a plain weak reference would be 0 for good, as no
 * library at link time has the name. */
#if defined(__x86_64__) && defined(__ELF__) && defined(__LP64__)
#define SNAPTRAIL_REPORT_FIND(name, result) \
	__asm__(".weak " #name "\n\tmovq " #name "@GOTPCREL(%%rip), %0" : "=r"(result))
#else
extern int snaptrail_report_v1(const struct snaptrail_report *) __attribute__((weak));
extern int snaptrail_report_enabled(void) __attribute__((weak));
#define SNAPTRAIL_REPORT_FIND(name, result) ((result) = name)
#endif

#define SNAPTRAIL_REPORT_API static inline __attribute__((always_inline, unused))
#define SNAPTRAIL_REPORT_BUILD static inline __attribute__((unused))

/* Any report at all; *r as described at the struct.  Returns -ENOSYS (38) where
 * nothing is injected. */
SNAPTRAIL_REPORT_API int snaptrail_report_send(const struct snaptrail_report *r)
{
	snaptrail_report_function f;

	SNAPTRAIL_REPORT_FIND(snaptrail_report_v1, f);
	return f ? f(r) : -38;
}

/* 1 where reports are recorded now, else 0: to skip the making of a costly one. */
SNAPTRAIL_REPORT_API int snaptrail_report_on(void)
{
	snaptrail_report_question f;

	SNAPTRAIL_REPORT_FIND(snaptrail_report_enabled, f);
	return f ? f() : 0;
}

SNAPTRAIL_REPORT_API int snaptrail_report_injected_(void)
{
	snaptrail_report_function f;

	SNAPTRAIL_REPORT_FIND(snaptrail_report_v1, f);
	return f != NULL;
}

SNAPTRAIL_REPORT_API struct snaptrail_report snaptrail_report_make_(uint32_t kind, const char *key)
{
	struct snaptrail_report r;

	/* One by one: compilers make a slow instruction of a memset of this size. */
	r.size = (uint32_t)sizeof r;
	r.kind = kind;
	r.key = key;
	r.key_len = key ? __builtin_strlen(key) : 0;
	r.agent = r.type = r.status = r.text = NULL;
	r.agent_len = r.type_len = r.status_len = r.text_len = 0;
	r.time_ns = 0;
	r.number = 0;
	r.value_type = SNAPTRAIL_REPORT_ABSENT;
	r.flags = 0;
	r.value.natural = 0;
	r.value_len = 0;
	return r;
}

#define SNAPTRAIL_REPORT_SAY_(r, field, string) \
	((r).field = (string), (r).field##_len = (string) ? __builtin_strlen(string) : 0)

/* ---- values ---- */

/* A value of JSON, or bytes: made by the functions below, passed on at once
 * (texts and bytes are pointed to, not copied). */
struct snaptrail_report_value {
	uint32_t type;
	union {
		int64_t integer;
		uint64_t natural;
		double real;
		const void *bytes;
	} is;
	size_t len;
};

SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_value_(uint32_t type, const void *p, size_t n)
{
	struct snaptrail_report_value v;

	v.type = type;
	v.is.bytes = p;
	v.len = n;
	return v;
}

/* JSON's null. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_null(void)
{
	return snaptrail_report_value_(SNAPTRAIL_REPORT_NULL, NULL, 0);
}

/* true unless b is 0. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_bool(int b)
{
	struct snaptrail_report_value v = snaptrail_report_value_(SNAPTRAIL_REPORT_BOOL, NULL, 0);

	v.is.integer = b != 0;
	return v;
}

/* A whole number, exact. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_int(int64_t i)
{
	struct snaptrail_report_value v = snaptrail_report_value_(SNAPTRAIL_REPORT_INT, NULL, 0);

	v.is.integer = i;
	return v;
}

/* A whole number up to 2^64 - 1, exact. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_uint(uint64_t u)
{
	struct snaptrail_report_value v = snaptrail_report_value_(SNAPTRAIL_REPORT_UINT, NULL, 0);

	v.is.natural = u;
	return v;
}

/* A binary64 number, exact. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_double(double d)
{
	struct snaptrail_report_value v = snaptrail_report_value_(SNAPTRAIL_REPORT_DOUBLE, NULL, 0);

	v.is.real = d;
	return v;
}

/* A string; NULL is null. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_text(const char *s)
{
	return s ? snaptrail_report_value_(SNAPTRAIL_REPORT_TEXT, s, __builtin_strlen(s)) : snaptrail_report_null();
}

/* A string of n bytes, which may hold 0. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_text_n(const char *s, size_t n)
{
	return snaptrail_report_value_(SNAPTRAIL_REPORT_TEXT, s, n);
}

/* n bytes that are no text. */
SNAPTRAIL_REPORT_API struct snaptrail_report_value snaptrail_report_bytes(const void *p, size_t n)
{
	return snaptrail_report_value_(SNAPTRAIL_REPORT_BYTES, p, n);
}

/* ---- lists and objects, built in the caller's buffer ---- */

#define SNAPTRAIL_REPORT_DEPTH 16u

/* What is being built.  Its fields are nobody's business. */
struct snaptrail_report_builder {
	unsigned char *start;
	size_t used, size;
	uint32_t depth, failed;
	uint32_t mark[SNAPTRAIL_REPORT_DEPTH][3]; /* lengths to be filled in at the end; 0 none */
	unsigned char object[SNAPTRAIL_REPORT_DEPTH];
};

/* Begins a value in n bytes at buffer; the first thing put is to be a list or an
 * object.  A value takes a few bytes more than its JSON text, never twice as many
 * and 16 a list or object. */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_build(struct snaptrail_report_builder *b, void *buffer, size_t n)
{
	b->start = (unsigned char *)buffer;
	b->used = 0;
	b->size = n < (1u << 28) ? n : (1u << 28) - 1; /* lengths are 4 bytes of 7 bits */
	b->depth = b->failed = 0;
}

SNAPTRAIL_REPORT_BUILD void snaptrail_report_put_(struct snaptrail_report_builder *b, const void *p, size_t n)
{
	if (b->failed || n > b->size - b->used) {
		b->failed = 1;
		return;
	}
	if (n)
		__builtin_memcpy(b->start + b->used, p, n);
	b->used += n;
}

SNAPTRAIL_REPORT_BUILD void snaptrail_report_byte_(struct snaptrail_report_builder *b, unsigned c)
{
	unsigned char byte = (unsigned char)c;

	snaptrail_report_put_(b, &byte, 1);
}

SNAPTRAIL_REPORT_BUILD void snaptrail_report_varint_(struct snaptrail_report_builder *b, uint64_t v)
{
	unsigned char out[10];
	size_t n = 0;

	while (v >= 0x80) {
		out[n++] = (unsigned char)(v | 0x80);
		v >>= 7;
	}
	out[n++] = (unsigned char)v;
	snaptrail_report_put_(b, out, n);
}

/* A tag and room for a length of 4 bytes; where it stands. */
SNAPTRAIL_REPORT_BUILD uint32_t snaptrail_report_open_(struct snaptrail_report_builder *b, unsigned tag)
{
	snaptrail_report_byte_(b, tag);
	snaptrail_report_put_(b, "\0\0\0", 4);
	return (uint32_t)b->used - 4;
}

SNAPTRAIL_REPORT_BUILD void snaptrail_report_close_(struct snaptrail_report_builder *b, uint32_t at)
{
	size_t n = b->used - at - 4;

	if (b->failed)
		return;
	b->start[at] = (unsigned char)(n | 0x80);
	b->start[at + 1] = (unsigned char)(n >> 7 | 0x80);
	b->start[at + 2] = (unsigned char)(n >> 14 | 0x80);
	b->start[at + 3] = (unsigned char)(n >> 21 & 0x7f);
}

/* What stands before an item: in an object its name. */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_item_(struct snaptrail_report_builder *b, const char *name, uint32_t mark[2])
{
	mark[0] = mark[1] = 0;
	if (b->failed || b->depth == 0 || !name != !b->object[b->depth - 1]) {
		b->failed = 1;
		return;
	}
	mark[0] = snaptrail_report_open_(b, 0x0a);
	if (name) {
		size_t n = __builtin_strlen(name);

		snaptrail_report_byte_(b, 0x0a);
		snaptrail_report_varint_(b, n);
		snaptrail_report_put_(b, name, n);
		mark[1] = snaptrail_report_open_(b, 0x12);
	}
}

SNAPTRAIL_REPORT_BUILD void snaptrail_report_nest_(struct snaptrail_report_builder *b, const char *name, unsigned tag)
{
	uint32_t *mark = b->mark[b->depth < SNAPTRAIL_REPORT_DEPTH ? b->depth : 0];

	if (b->depth >= SNAPTRAIL_REPORT_DEPTH || (b->depth == 0 && (b->used || name)))
		b->failed = 1;
	if (b->failed)
		return;
	mark[0] = mark[1] = 0;
	if (b->depth)
		snaptrail_report_item_(b, name, mark);
	mark[2] = snaptrail_report_open_(b, tag);
	b->object[b->depth++] = tag == 0x4a;
}

/* Begins an object: the whole value, or an item of the list (name NULL) or
 * object that is open, at most 16 deep. */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_object(struct snaptrail_report_builder *b, const char *name)
{
	snaptrail_report_nest_(b, name, 0x4a);
}

/* Begins a list, as snaptrail_report_object(). */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_list(struct snaptrail_report_builder *b, const char *name)
{
	snaptrail_report_nest_(b, name, 0x42);
}

/* Ends the list or object that was begun last. */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_close(struct snaptrail_report_builder *b)
{
	if (b->depth == 0)
		b->failed = 1;
	if (b->failed)
		return;
	b->depth--;
	snaptrail_report_close_(b, b->mark[b->depth][2]);
	if (b->mark[b->depth][1])
		snaptrail_report_close_(b, b->mark[b->depth][1]);
	if (b->mark[b->depth][0])
		snaptrail_report_close_(b, b->mark[b->depth][0]);
}

/* Adds a pair to the open object, or with name NULL an item to the open list.
 * Pairs keep their order. */
SNAPTRAIL_REPORT_BUILD void snaptrail_report_add(struct snaptrail_report_builder *b, const char *name,
						 struct snaptrail_report_value v)
{
	uint32_t mark[2];

	snaptrail_report_item_(b, name, mark);
	switch (v.type) {
	case SNAPTRAIL_REPORT_BOOL:
		snaptrail_report_byte_(b, 0x10);
		snaptrail_report_byte_(b, v.is.integer != 0);
		break;
	case SNAPTRAIL_REPORT_INT:
		snaptrail_report_byte_(b, 0x18);
		snaptrail_report_varint_(b, (uint64_t)v.is.integer << 1 ^ (v.is.integer < 0 ? UINT64_MAX : 0));
		break;
	case SNAPTRAIL_REPORT_UINT:
		snaptrail_report_byte_(b, 0x20);
		snaptrail_report_varint_(b, v.is.natural);
		break;
	case SNAPTRAIL_REPORT_DOUBLE:
		snaptrail_report_byte_(b, 0x29);
		snaptrail_report_put_(b, &v.is.real, 8);
		break;
	case SNAPTRAIL_REPORT_TEXT: case SNAPTRAIL_REPORT_BYTES:
		snaptrail_report_byte_(b, v.type == SNAPTRAIL_REPORT_TEXT ? 0x32 : 0x3a);
		snaptrail_report_varint_(b, v.len);
		snaptrail_report_put_(b, v.is.bytes, v.len);
		break;
	case SNAPTRAIL_REPORT_ENCODED:
		snaptrail_report_put_(b, v.is.bytes, v.len);
		break;
	default:
		snaptrail_report_put_(b, "\010\001", 2);
		break;
	}
	if (mark[1])
		snaptrail_report_close_(b, mark[1]);
	if (mark[0])
		snaptrail_report_close_(b, mark[0]);
}

/* The value that was built; it lies in the buffer.  Where the buffer was too
 * small, the nesting too deep or unbalanced, or a name missing, the report that it
 * is given to answers -EINVAL. */
SNAPTRAIL_REPORT_BUILD struct snaptrail_report_value snaptrail_report_built(const struct snaptrail_report_builder *b)
{
	int whole = !b->failed && b->depth == 0 && b->used;

	return snaptrail_report_value_(SNAPTRAIL_REPORT_ENCODED, b->start, whole ? b->used : 0);
}

SNAPTRAIL_REPORT_API void snaptrail_report_give_(struct snaptrail_report *r, struct snaptrail_report_value v)
{
	r->value_type = v.type;
	r->value.natural = v.is.natural;
	r->value_len = v.len;
}

/* ---- agents ---- */

/* An agent begins: agents[name], status "busy".  type: what kind of agent, NULL
 * "agent".  parent: another agent, NULL this process.  A name that is there
 * already begins anew.  When this process ends or executes another program, its
 * agents that did not end are terminated, and endReason says so. */
SNAPTRAIL_REPORT_API int snaptrail_report_agent_begin(const char *name, const char *type, const char *parent)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_AGENT_BEGIN, name);
	SNAPTRAIL_REPORT_SAY_(r, type, type);
	SNAPTRAIL_REPORT_SAY_(r, agent, parent);
	return snaptrail_report_send(&r);
}

/* An agent's status: spawning, idle, busy, or any other word. */
SNAPTRAIL_REPORT_API int snaptrail_report_agent_status(const char *name, const char *status)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_AGENT_STATUS, name);
	SNAPTRAIL_REPORT_SAY_(r, status, status);
	return snaptrail_report_send(&r);
}

/* An agent ends: status "terminated"; it stays in the state with endedAt and the
 * reason as endReason (NULL none), until very many have ended after it. */
SNAPTRAIL_REPORT_API int snaptrail_report_agent_end(const char *name, const char *reason)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_AGENT_END, name);
	SNAPTRAIL_REPORT_SAY_(r, text, reason);
	return snaptrail_report_send(&r);
}

/* An agent ends in failure: as snaptrail_report_agent_end(), status "error". */
SNAPTRAIL_REPORT_API int snaptrail_report_agent_fail(const char *name, const char *reason)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_AGENT_END, name);
	r.status = "error";
	r.status_len = 5;
	SNAPTRAIL_REPORT_SAY_(r, text, reason);
	return snaptrail_report_send(&r);
}

/* ---- tasks ---- */

/* A task begins: tasks[name], status "running".  type: NULL "task".  agent: who
 * does it, NULL the calling thread; it shows the task as its currentTask.
 * description: NULL none.  A name that is there already begins anew.  When this
 * process ends, its running tasks have failed. */
SNAPTRAIL_REPORT_API int snaptrail_report_task_begin(const char *name, const char *type, const char *agent,
						     const char *description)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_TASK_BEGIN, name);
	SNAPTRAIL_REPORT_SAY_(r, type, type);
	SNAPTRAIL_REPORT_SAY_(r, agent, agent);
	SNAPTRAIL_REPORT_SAY_(r, text, description);
	return snaptrail_report_send(&r);
}

/* How much of a task is done, 0 to 1 (-EINVAL otherwise).  It is running. */
SNAPTRAIL_REPORT_API int snaptrail_report_task_progress(const char *name, double done)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_TASK_PROGRESS, name);
	r.number = done;
	return snaptrail_report_send(&r);
}

/* A task is done: status "completed", completedAt.  result: NULL none. */
SNAPTRAIL_REPORT_API int snaptrail_report_task_complete(const char *name, const char *result)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_TASK_COMPLETE, name);
	if (result)
		snaptrail_report_give_(&r, snaptrail_report_text(result));
	return snaptrail_report_send(&r);
}

/* As snaptrail_report_task_complete() with a result of any type. */
SNAPTRAIL_REPORT_API int snaptrail_report_task_complete_with(const char *name, struct snaptrail_report_value result)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_TASK_COMPLETE, name);
	snaptrail_report_give_(&r, result);
	return snaptrail_report_send(&r);
}

/* A task did not succeed: status "failed", completedAt, the error's text. */
SNAPTRAIL_REPORT_API int snaptrail_report_task_fail(const char *name, const char *error)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_TASK_FAIL, name);
	SNAPTRAIL_REPORT_SAY_(r, text, error);
	return snaptrail_report_send(&r);
}

/* ---- named values, messages, metrics ---- */

/* memory[key] is now `value`.  It stays after the process has ended; a key
 * `p<pid>/...` of a process leaves with that one. */
SNAPTRAIL_REPORT_API int snaptrail_report_set(const char *key, struct snaptrail_report_value value)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_VALUE_SET, key);
	snaptrail_report_give_(&r, value);
	return snaptrail_report_send(&r);
}

/* memory[key] is no more. */
SNAPTRAIL_REPORT_API int snaptrail_report_delete(const char *key)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_VALUE_DELETE, key);
	return snaptrail_report_send(&r);
}

/* A message came in on a channel from `source` (NULL: not said).  The state keeps
 * the last 1,000 or so of a channel and counts the others; the log has all. */
SNAPTRAIL_REPORT_API int snaptrail_report_message_in(const char *channel, const char *source,
						     struct snaptrail_report_value message)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_MESSAGE_IN, channel);
	SNAPTRAIL_REPORT_SAY_(r, text, source);
	snaptrail_report_give_(&r, message);
	return snaptrail_report_send(&r);
}

/* A message went out on a channel to `target`, as snaptrail_report_message_in(). */
SNAPTRAIL_REPORT_API int snaptrail_report_message_out(const char *channel, const char *target,
						      struct snaptrail_report_value message)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_MESSAGE_OUT, channel);
	SNAPTRAIL_REPORT_SAY_(r, text, target);
	snaptrail_report_give_(&r, message);
	return snaptrail_report_send(&r);
}

/* metrics[name] is now `value`; its unit is the program's own affair. */
SNAPTRAIL_REPORT_API int snaptrail_report_metric(const char *name, double value)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_METRIC, name);
	r.number = value;
	return snaptrail_report_send(&r);
}

/* ---- marks and snapshots ---- */

/* Names this instant: `snaptrail show mark:NAME`.  The latest of a name counts. */
SNAPTRAIL_REPORT_API int snaptrail_report_mark(const char *name)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_MARK, name);
	return snaptrail_report_send(&r);
}

/* Asks for a snapshot of this instant.  tags: separated by commas, NULL none;
 * description: NULL none.  The call does not wait for it.  At most ten a second
 * are taken; requests beyond that are one snapshot a little later with the tags
 * of all (64 at most) and the last description. */
SNAPTRAIL_REPORT_API int snaptrail_report_snapshot(const char *tags, const char *description)
{
	struct snaptrail_report r;

	if (!snaptrail_report_injected_())
		return -38;
	r = snaptrail_report_make_(SNAPTRAIL_REPORT_SNAPSHOT, tags);
	SNAPTRAIL_REPORT_SAY_(r, text, description);
	return snaptrail_report_send(&r);
}

#ifdef __cplusplus
}
#endif

#endif
