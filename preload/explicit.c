/* What the program says itself: the one door that snaptrail/report.h and
 * adapters of other languages call, on any thread and in signal handlers.  A
 * report is checked, turned into a Change and encoded straight into the lane,
 * like a hook's; nothing is allocated, locked or kept, errno stays.
 *
 * Agents, tasks and messages become objects of the fields that were said; the
 * model adds times and defaults.  Secrets are told by their key and never reach
 * the mapping: values that are objects are walked for names of that kind. */
#include "visitor.h"

#include "snaptrail/report.h"

enum { TABLE_AGENTS = 1, TABLE_TASKS, TABLE_MEMORY, TABLE_COMMUNICATIONS }; /* as in the schema */

/* Of an ENTITY_PATCHED: the agent or task begins; it says the same fields each
 * time, so a busy one may be merged. */
enum { FLAG_BEGINS = 1, FLAG_GAUGE = 2 };

#define REDACTED "<redacted>"
#define VEIL_BYTES 640u         /* for texts that are looked through for NAME=secret */
#define VEIL_GROWTH 64u         /* how much longer one may become */

/* ---- values on their way ---- */

#define INLINE static inline __attribute__((always_inline))

/* A stretch of an encoded value that is replaced by one of the same length. */
struct mask {
	uint32_t at, n;
};
#define MASKS 8u

/* A message Value to be written. */
struct said {
	uint32_t type;            /* enum snaptrail_report_type */
	uint32_t n, masks;
	union {
		int64_t integer;
		uint64_t natural;
		double real;
		const uint8_t *p;
	};
	const struct mask *mask;  /* of an encoded one */
};

INLINE uint32_t block_size(uint32_t n) { return 1 + varint_size(n) + n; }

/* Most texts are short: no call. */
INLINE uint8_t *copy(uint8_t *to, const void *from, uint32_t n)
{
	const uint8_t *s = from;

	if (n >= 8) {
		copy_text(to, s, n);
	} else if (n >= 4) {
		uint32_t a, b;

		__builtin_memcpy(&a, s, 4);
		__builtin_memcpy(&b, s + n - 4, 4);
		__builtin_memcpy(to, &a, 4);
		__builtin_memcpy(to + n - 4, &b, 4);
	} else if (n) {
		to[0] = s[0];
		to[n / 2] = s[n / 2];
		to[n - 1] = s[n - 1];
	}
	return to + n;
}

INLINE uint8_t *block_put(uint8_t *p, uint8_t tag, const void *s, uint32_t n)
{
	*p++ = tag;
	return copy(varint_put(p, n), s, n);
}

/* The next tag of a list with commas, without blanks around it; empty ones are
 * passed over.  False at the end. */
static bool next_tag(const struct bytes *list, uint32_t *pos, struct bytes *ret)
{
	const char *s = list->p;

	while (*pos < list->n) {
		uint32_t from = *pos, to;

		while (*pos < list->n && s[*pos] != ',')
			++*pos;
		to = *pos;
		++*pos;
		while (from < to && s[from] == ' ')
			from++;
		while (to > from && s[to - 1] == ' ')
			to--;
		*ret = BYTES(s + from, to - from);
		if (to > from)
			return true;
	}
	return false;
}

/* How many bytes the tags take as a message List. */
static uint32_t tags_size(struct bytes list)
{
	uint32_t size = 0, pos = 0;
	struct bytes tag;

	while (next_tag(&list, &pos, &tag))
		size += block_size(block_size(tag.n));
	return size;
}

static uint8_t *tags_put(uint8_t *out, struct bytes list)
{
	uint32_t pos = 0;
	struct bytes tag;

	while (next_tag(&list, &pos, &tag)) {
		*out++ = 1 << 3 | 2;
		out = varint_put(out, block_size(tag.n));
		out = block_put(out, 6 << 3 | 2, tag.p, tag.n);
	}
	return out;
}

/* A Value of exactly n bytes that says nothing. */
static uint8_t *masked_put(uint8_t *p, uint32_t n)
{
	uint8_t *end = p + n;

	*p++ = 6 << 3 | 2;
	if (n < 130) {
		*p++ = (uint8_t)(n - 2);
	} else { /* a length of four bytes leaves no gap whatever n is */
		n -= 5;
		*p++ = (uint8_t)(n | 0x80);
		*p++ = (uint8_t)(n >> 7 | 0x80);
		*p++ = (uint8_t)(n >> 14 | 0x80);
		*p++ = (uint8_t)(n >> 21);
	}
	__builtin_memset(p, '*', (size_t)(end - p));
	if (end - p >= (long)sizeof REDACTED - 1)
		__builtin_memcpy(p, REDACTED, sizeof REDACTED - 1);
	return end;
}

static uint8_t *encoded_put(uint8_t *out, const struct said *v)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < v->masks; i++) {
		__builtin_memcpy(out, v->p + at, v->mask[i].at - at);
		out = masked_put(out + (v->mask[i].at - at), v->mask[i].n);
		at = v->mask[i].at + v->mask[i].n;
	}
	__builtin_memcpy(out, v->p + at, v->n - at);
	return out + (v->n - at);
}

INLINE uint32_t said_size(const struct said *v)
{
	switch (v->type) {
	case SNAPTRAIL_REPORT_INT: return 1 + varint_size(zigzag(v->integer));
	case SNAPTRAIL_REPORT_UINT: return 1 + varint_size(v->natural);
	case SNAPTRAIL_REPORT_DOUBLE: return 9;
	case SNAPTRAIL_REPORT_TEXT: case SNAPTRAIL_REPORT_BYTES: return block_size(v->n);
	case SNAPTRAIL_REPORT_ENCODED: return v->n;
	default: return 2;
	}
}

INLINE uint8_t *said_put(uint8_t *p, const struct said *v)
{
	switch (v->type) {
	case SNAPTRAIL_REPORT_BOOL:
		*p++ = 2 << 3;
		*p++ = v->integer != 0;
		return p;
	case SNAPTRAIL_REPORT_INT:
		*p++ = 3 << 3;
		return varint_put(p, zigzag(v->integer));
	case SNAPTRAIL_REPORT_UINT:
		*p++ = 4 << 3;
		return varint_put(p, v->natural);
	case SNAPTRAIL_REPORT_DOUBLE:
		return put_fixed64(p, 5, v->natural);
	case SNAPTRAIL_REPORT_TEXT:
		return block_put(p, 6 << 3 | 2, v->p, v->n);
	case SNAPTRAIL_REPORT_BYTES:
		return block_put(p, 7 << 3 | 2, v->p, v->n);
	case SNAPTRAIL_REPORT_ENCODED:
		return encoded_put(p, v);
	default: /* null */
		*p++ = 1 << 3;
		*p++ = 1;
		return p;
	}
}

/* ---- objects of fields ---- */

/* Written in two passes of the same code, which is inlined with the names as
 * constants: without `out` it counts, with it it writes. */
struct writer {
	uint8_t *out;
	uint32_t size;
};

/* A pair up to its Value of n bytes; `name` is a literal of less than 100 bytes. */
INLINE void pair_begin(struct writer *w, const char *name, uint32_t n)
{
	uint32_t name_len = (uint32_t)__builtin_strlen(name), pair = 2 + name_len + block_size(n);

	w->size += block_size(pair);
	if (w->out == NULL)
		return;
	*w->out++ = 1 << 3 | 2;
	w->out = varint_put(w->out, pair);
	*w->out++ = 1 << 3 | 2;
	*w->out++ = (uint8_t)name_len;
	__builtin_memcpy(w->out, name, name_len);
	w->out += name_len;
	*w->out++ = 2 << 3 | 2;
	w->out = varint_put(w->out, n);
}

INLINE void field_text(struct writer *w, const char *name, struct bytes b)
{
	if (b.p == NULL)
		return;
	pair_begin(w, name, block_size(b.n));
	if (w->out)
		w->out = block_put(w->out, 6 << 3 | 2, b.p, b.n);
}

INLINE void field_word(struct writer *w, const char *name, const char *literal)
{
	uint32_t n = (uint32_t)__builtin_strlen(literal);

	pair_begin(w, name, 2 + n);
	if (w->out) {
		*w->out++ = 6 << 3 | 2;
		*w->out++ = (uint8_t)n;
		__builtin_memcpy(w->out, literal, n);
		w->out += n;
	}
}

INLINE void field_value(struct writer *w, const char *name, const struct said *v)
{
	if (v->type == SNAPTRAIL_REPORT_ABSENT)
		return;
	pair_begin(w, name, said_size(v));
	if (w->out)
		w->out = said_put(w->out, v);
}

INLINE void field_tags(struct writer *w, const char *name, struct bytes list)
{
	uint32_t n = tags_size(list);

	pair_begin(w, name, block_size(n));
	if (w->out) {
		*w->out++ = 8 << 3 | 2;
		w->out = tags_put(varint_put(w->out, n), list);
	}
}

/* ---- secrets ---- */

/* Up to 8 bytes as a number, of a key that has `before` bytes in front of them:
 * loads alone, as a load behind smaller stores would wait for these. */
INLINE uint64_t key_tail(const char *p, uint32_t n, uint32_t before)
{
	uint64_t word = 0;
	uint32_t a, b;

	if (before + n >= 8) {
		__builtin_memcpy(&word, p + n - 8, 8);
	} else if (n >= 4) {
		__builtin_memcpy(&a, p, 4);
		__builtin_memcpy(&b, p + n - 4, 4);
		word = a | (uint64_t)b << 32;
	} else if (n) {
		word = (uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint64_t)(uint8_t)p[n - 1] << 16;
	}
	return word;
}

INLINE uint64_t key_hash(const char *key, uint32_t n)
{
	uint64_t h = 0x9e3779b97f4a7c15ull ^ n, word;
	uint32_t at = 0;

	for (; n - at > 8; at += 8) {
		__builtin_memcpy(&word, key + at, 8);
		h = (h ^ word) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	h = (h ^ key_tail(key + at, n - at, at)) * 0xc4ceb9fe1a85ec53ull;
	return (h ^ h >> 29) | 2; /* never 0, which is an empty place */
}

static __attribute__((noinline)) bool secret_look(const char *key, uint32_t n, uint64_t h)
{
	bool secret = redact_name(key, n);

	__atomic_store_n(&room_verdicts[h >> 58], (h & ~1ull) | secret, __ATOMIC_RELAXED);
	return secret;
}

/* redact_name(), remembered: a key is looked through for each word once. */
INLINE bool secret_key(const char *key, uint32_t n)
{
	uint64_t h, known;

	if (!visitor.board->redact)
		return false;
	h = key_hash(key, n);
	known = __atomic_load_n(&room_verdicts[h >> 58], __ATOMIC_RELAXED);
	return likely((known ^ h) <= 1) ? known & 1 : secret_look(key, n, h);
}

/* The messages that an encoded value is made of. */
enum part { PART_VALUE, PART_LIST, PART_OBJECT, PART_PAIR };
#define PARTS_DEEP 100u

static bool varint_at(const uint8_t *p, uint32_t end, uint32_t *pos, uint64_t *ret)
{
	uint64_t v = 0;

	for (uint32_t shift = 0; shift < 64 && *pos < end; shift += 7) {
		uint8_t c = p[(*pos)++];

		v |= (uint64_t)(c & 0x7f) << shift;
		if (!(c & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

/* What a field of a part leads into: a part, or nothing (-1), or damage (-2). */
static int part_within(enum part in, uint8_t tag)
{
	switch (in) {
	case PART_VALUE:
		return tag == (8 << 3 | 2) ? PART_LIST : tag == (9 << 3 | 2) ? PART_OBJECT :
		       tag == 1 << 3 || tag == 2 << 3 || tag == 3 << 3 || tag == 4 << 3 || tag == (5 << 3 | 1) ||
		       tag == (6 << 3 | 2) || tag == (7 << 3 | 2) ? -1 : -2;
	case PART_LIST: return tag == (1 << 3 | 2) ? PART_VALUE : -2;
	case PART_OBJECT: return tag == (1 << 3 | 2) ? PART_PAIR : -2;
	case PART_PAIR: return tag == (1 << 3 | 2) ? -1 : tag == (2 << 3 | 2) ? PART_VALUE : -2;
	}
	return -2;
}

/* Walks an encoded value: false for damage.  Notes the values of secret names;
 * *ret_masks above MASKS: too many to note. */
static __attribute__((noinline)) bool value_walk(const uint8_t *p, uint32_t n, struct mask *mask, uint32_t *ret_masks)
{
	uint32_t end[PARTS_DEEP], pos = 0, depth = 0;
	uint8_t in[PARTS_DEEP];
	bool named = false, secret = false; /* of the pair at hand */

	end[0] = n;
	in[0] = PART_VALUE;
	for (;;) {
		uint64_t len;
		uint8_t tag;
		int into;

		while (pos == end[depth])
			if (depth-- == 0)
				return true;
		tag = p[pos++];
		into = part_within((enum part)in[depth], tag);
		if (into == -2)
			return false;
		if ((tag & 7) == 1 ? end[depth] - pos < 8 : !varint_at(p, end[depth], &pos, &len))
			return false;
		if ((tag & 7) == 1)
			pos += 8;
		if ((tag & 7) != 2)
			continue;
		if (len > end[depth] - pos)
			return false;
		if (in[depth] == PART_PAIR && into == -1) {
			named = true;
			secret = secret_key((const char *)p + pos, (uint32_t)len);
		} else if (in[depth] == PART_PAIR) {
			if (!named || len == 1)
				return false;
			named = false;
			if (secret && len) {
				if (*ret_masks < MASKS)
					mask[*ret_masks] = (struct mask){ pos, (uint32_t)len };
				++*ret_masks;
				into = -1;
			}
		}
		if (into == -1) {
			pos += (uint32_t)len;
			continue;
		}
		if (++depth == PARTS_DEEP)
			return false;
		end[depth] = pos + (uint32_t)len;
		in[depth] = (uint8_t)into;
		if (into == PART_PAIR)
			named = false;
	}
}

/* Where a report's value and text are made fit to be seen. */
struct veil {
	struct mask mask[MASKS];
	uint32_t used;            /* of text */
	char text[VEIL_BYTES];
};

/* Whether it holds a byte c: the usual trick, eight at a time. */
INLINE uint64_t holds(uint64_t word, uint8_t c)
{
	word ^= 0x0101010101010101ull * c;
	return (word - 0x0101010101010101ull) & ~word & 0x8080808080808080ull;
}

/* Is there a "=", ":" or "-", without which no NAME=secret or --name secret? */
static bool may_tell(const char *s, uint32_t n)
{
	uint64_t word, seen = 0;
	uint32_t at = 0;

	for (; n - at > 8; at += 8) {
		__builtin_memcpy(&word, s + at, 8);
		seen |= holds(word, '=') | holds(word, ':') | holds(word, '-');
	}
	word = key_tail(s + at, n - at, at);
	return seen | holds(word, '=') | holds(word, ':') | holds(word, '-');
}

static struct bytes text_veiled(struct bytes b, struct veil *veil)
{
	char *out = veil->text + veil->used;
	uint32_t n;

	if (b.n == 0 || b.n + VEIL_GROWTH > VEIL_BYTES - veil->used || !visitor.board->redact || !may_tell(b.p, b.n))
		return b;
	n = redact_text(b.p, b.n, out, VEIL_BYTES - veil->used);
	veil->used += n;
	return BYTES(out, n);
}

/* ---- taking a report apart ---- */

INLINE int take_text(const char *p, size_t n, uint32_t max, struct bytes *ret)
{
	if (p == NULL) {
		*ret = BYTES(NULL, 0);
		return n && n != SNAPTRAIL_REPORT_TO_NUL ? -EINVAL : 0;
	}
	if (n == SNAPTRAIL_REPORT_TO_NUL)
		n = __builtin_strlen(p);
	*ret = BYTES(p, n);
	return n > max ? -EMSGSIZE : 0;
}

static int take_value(const struct snaptrail_report *r, bool secret, struct veil *veil, struct said *v)
{
	*v = (struct said){ .type = r->value_type, .natural = r->value.natural };
	switch (r->value_type) {
	case SNAPTRAIL_REPORT_ABSENT: return 0;
	case SNAPTRAIL_REPORT_NULL: case SNAPTRAIL_REPORT_BOOL: case SNAPTRAIL_REPORT_INT: case SNAPTRAIL_REPORT_UINT:
	case SNAPTRAIL_REPORT_DOUBLE: break;
	case SNAPTRAIL_REPORT_TEXT: case SNAPTRAIL_REPORT_BYTES: case SNAPTRAIL_REPORT_ENCODED: {
		struct bytes b;
		int e = take_text(r->value.bytes, r->value_len, SNAPTRAIL_REPORT_VALUE_MAX, &b);

		if (e < 0)
			return e;
		if (r->value_type == SNAPTRAIL_REPORT_TEXT && !secret)
			b = text_veiled(b, veil);
		v->p = b.p;
		v->n = b.n;
		break;
	}
	default: return -EINVAL;
	}
	if (r->value_type == SNAPTRAIL_REPORT_ENCODED) {
		if (v->n == 0 || !value_walk(v->p, v->n, veil->mask, &v->masks))
			return -EINVAL;
		v->mask = veil->mask;
		secret = secret || v->masks > MASKS;
	}
	if (secret)
		*v = (struct said){ .type = SNAPTRAIL_REPORT_TEXT, .n = sizeof REDACTED - 1, .p = (const uint8_t *)REDACTED };
	return 0;
}

/* A report as the kinds below see it. */
struct taken {
	uint32_t kind;
	struct bytes key, agent, type, status, text;
	struct said value;
	double number;
	uint64_t time_ns;
};

/* Fields of an object as the kinds below write them. */
typedef void fields_function(struct writer *w, const struct taken *t);

/* Into the lane: a Change and, where there is one, its entity: a value, or an
 * object of fields.  All but t is constant where this is inlined. */
INLINE int put(const struct taken *t, uint32_t kind, uint32_t table, uint64_t flags, struct bytes name, struct bytes agent,
	       const struct said *v, fields_function *fields)
{
	struct change c = { .kind = kind, .table = table, .name = name, .value = agent, .flags = flags,
			    .source = SOURCE_API, .has_number = t->time_ns != 0, .number = (int64_t)t->time_ns,
			    .real = t->number };
	struct writer w = { NULL, 0 };
	uint32_t entity = 0, inner = change_size(&c), n;
	uint64_t pos;
	uint8_t *p, *q;

	if (fields) {
		fields(&w, t);
		entity = block_size(w.size);
	} else if (v) {
		entity = said_size(v);
	}
	if (entity)
		inner += 2 + varint_size(entity) + entity;
	n = 1 + varint_size(inner) + inner;
	p = lane_reserve(n, &pos);
	if (unlikely(p == NULL))
		return -ENOBUFS;
	c.stamp = stamp_now();
	q = p;
	*q++ = RUN_CHANGES_TAG;
	q = varint_put(q, inner);
	q = change_put(q, &c);
	if (entity)
		q = varint_put(tag_put(q, 24, 2), entity);
	if (fields) {
		*q++ = 9 << 3 | 2;
		w.out = varint_put(q, w.size);
		fields(&w, t);
	} else if (v) {
		said_put(q, v);
	}
	lane_commit(p, pos, n);
	return 0;
}

#define NOBODY BYTES(NULL, 0)

/* ---- the kinds ---- */

/* Names of processes are not for programs to give. */
static bool names_process(struct bytes key)
{
	const char *s = key.p;
	uint32_t i = 1;

	if (key.n < 2 || s[0] != 'p')
		return false;
	while (i < key.n && s[i] >= '0' && s[i] <= '9')
		i++;
	return i > 1 && (i == key.n || s[i] == '/' || s[i] == '~');
}

INLINE void agent_fields(struct writer *w, const struct taken *t)
{
	field_text(w, "type", t->type);
	if (t->status.p)
		field_text(w, "status", t->status);
	else if (t->kind == SNAPTRAIL_REPORT_AGENT_BEGIN)
		field_word(w, "status", "busy");
	else
		field_word(w, "status", "terminated");
	field_text(w, "parent", t->agent);
	if (t->kind == SNAPTRAIL_REPORT_AGENT_END)
		field_text(w, "endReason", t->text);
	field_value(w, "variables", &t->value);
}

static int say_agent(const struct taken *t)
{
	if (names_process(t->key) || (t->kind == SNAPTRAIL_REPORT_AGENT_STATUS && t->status.n == 0))
		return -EINVAL;
	return put(t, ENTITY_PATCHED, TABLE_AGENTS, t->kind == SNAPTRAIL_REPORT_AGENT_BEGIN ? FLAG_BEGINS : 0, t->key,
		   NOBODY, NULL, agent_fields);
}

INLINE void begin_fields(struct writer *w, const struct taken *t)
{
	field_text(w, "agentId", t->agent);
	field_text(w, "type", t->type);
	if (t->status.p)
		field_text(w, "status", t->status);
	else
		field_word(w, "status", "running");
	field_text(w, "description", t->text);
}

INLINE void progress_fields(struct writer *w, const struct taken *t)
{
	struct said done = { .type = SNAPTRAIL_REPORT_DOUBLE, .real = t->number };

	field_word(w, "status", "running");
	field_value(w, "progress", &done);
	field_text(w, "description", t->text);
}

INLINE void end_fields(struct writer *w, const struct taken *t)
{
	if (t->kind == SNAPTRAIL_REPORT_TASK_COMPLETE) {
		field_word(w, "status", "completed");
		field_value(w, "result", &t->value);
	} else {
		field_word(w, "status", "failed");
		field_text(w, "error", t->text);
	}
}

static int say_task(const struct taken *t)
{
	if (names_process(t->key))
		return -EINVAL;
	switch (t->kind) {
	case SNAPTRAIL_REPORT_TASK_BEGIN:
		return put(t, ENTITY_PATCHED, TABLE_TASKS, FLAG_BEGINS, t->key, NOBODY, NULL, begin_fields);
	case SNAPTRAIL_REPORT_TASK_PROGRESS:
		if (!(t->number >= 0 && t->number <= 1))
			return -EINVAL;
		return put(t, ENTITY_PATCHED, TABLE_TASKS, t->text.p ? 0 : FLAG_GAUGE, t->key, NOBODY, NULL,
			   progress_fields);
	default:
		return put(t, ENTITY_PATCHED, TABLE_TASKS, 0, t->key, NOBODY, NULL, end_fields);
	}
}

INLINE void message_fields(struct writer *w, const struct taken *t)
{
	field_value(w, "message", &t->value);
	if (t->kind == SNAPTRAIL_REPORT_MESSAGE_IN) {
		field_word(w, "direction", "in");
		field_text(w, "source", t->text);
		field_text(w, "target", t->agent);
	} else {
		field_word(w, "direction", "out");
		field_text(w, "source", t->agent);
		field_text(w, "target", t->text);
	}
	field_text(w, "type", t->type);
}

INLINE void snapshot_fields(struct writer *w, const struct taken *t)
{
	field_tags(w, "tags", t->key);
	field_text(w, "description", t->text);
}

static int say_mark(const struct taken *t)
{
	struct said about = { .type = SNAPTRAIL_REPORT_TEXT, .n = t->text.n, .p = t->text.p };

	return put(t, MARK, 0, 0, t->key, t->agent, t->text.p ? &about : NULL, NULL);
}

static int say(const struct taken *t)
{
	switch (t->kind) {
	case SNAPTRAIL_REPORT_AGENT_BEGIN: case SNAPTRAIL_REPORT_AGENT_STATUS: case SNAPTRAIL_REPORT_AGENT_END:
		return say_agent(t);
	case SNAPTRAIL_REPORT_TASK_BEGIN: case SNAPTRAIL_REPORT_TASK_PROGRESS: case SNAPTRAIL_REPORT_TASK_COMPLETE:
	case SNAPTRAIL_REPORT_TASK_FAIL:
		return say_task(t);
	case SNAPTRAIL_REPORT_VALUE_SET:
		if (t->value.type == SNAPTRAIL_REPORT_ABSENT)
			return -EINVAL;
		return put(t, ENTITY_SET, TABLE_MEMORY, 0, t->key, t->agent, &t->value, NULL);
	case SNAPTRAIL_REPORT_VALUE_DELETE:
		return put(t, ENTITY_DELETED, TABLE_MEMORY, 0, t->key, NOBODY, NULL, NULL);
	case SNAPTRAIL_REPORT_MESSAGE_IN: case SNAPTRAIL_REPORT_MESSAGE_OUT:
		if (t->value.type == SNAPTRAIL_REPORT_ABSENT)
			return -EINVAL;
		return put(t, MESSAGE, TABLE_COMMUNICATIONS, 0, t->key, NOBODY, NULL, message_fields);
	case SNAPTRAIL_REPORT_METRIC:
		return put(t, METRIC, 0, 0, t->key, NOBODY, NULL, NULL);
	case SNAPTRAIL_REPORT_MARK:
		return say_mark(t);
	case SNAPTRAIL_REPORT_SNAPSHOT:
		return put(t, SNAPSHOT_WANTED, 0, 0, NOBODY, NOBODY, NULL, snapshot_fields);
	default:
		return -EINVAL;
	}
}

/* ---- the door ---- */

/* A thread that has no lane now: in a vfork child, behind its own end, or within
 * the visitor's own set-up that a signal interrupted. */
static int lost_without_lane(void)
{
	struct board *b = visitor.board;
	uint64_t t = stamp_now(), none = 0;

	__atomic_compare_exchange_n(&b->no_lane_first, &none, t, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	__atomic_store_n(&b->no_lane_last, t, __ATOMIC_RELAXED);
	__atomic_add_fetch(&b->no_lane, 1, __ATOMIC_RELEASE);
	return -ENOBUFS;
}

/* A newer caller may say what this version does not know: then all is refused. */
static bool says_more(const struct snaptrail_report *r)
{
	const uint8_t *p = (const uint8_t *)r;

	for (uint32_t i = sizeof *r; i < r->size && i < 4096; i++)
		if (p[i])
			return true;
	return r->size > 4096;
}

static int take_texts(const struct snaptrail_report *r, struct taken *t)
{
	int e = take_text(r->key, r->key_len, SNAPTRAIL_REPORT_KEY_MAX, &t->key);

	if (e == 0 && t->key.n == 0 && r->kind != SNAPTRAIL_REPORT_SNAPSHOT)
		return -EINVAL;
	if (e == 0)
		e = take_text(r->agent, r->agent_len, SNAPTRAIL_REPORT_KEY_MAX, &t->agent);
	if (e == 0)
		e = take_text(r->type, r->type_len, SNAPTRAIL_REPORT_KEY_MAX, &t->type);
	if (e == 0)
		e = take_text(r->status, r->status_len, SNAPTRAIL_REPORT_KEY_MAX, &t->status);
	return e ? e : take_text(r->text, r->text_len, SNAPTRAIL_REPORT_TEXT_MAX, &t->text);
}

/* What may hold a secret: texts, values in pieces, keys of that kind. */
static __attribute__((noinline)) int say_veiled(const struct snaptrail_report *r, struct taken *t)
{
	struct veil veil;
	int e;

	veil.used = 0;
	e = take_value(r, secret_key(t->key.p, t->key.n), &veil, &t->value);
	if (e < 0)
		return e;
	t->text = text_veiled(t->text, &veil);
	return say(t); /* NOLINT(clang-analyzer-core.StackAddressEscape): nobody looks at t afterwards */
}

EXPORT int snaptrail_report_v1(const struct snaptrail_report *r)
{
	struct taken t;
	int e;

	if (unlikely(!(visitor.groups & GROUP_EXPLICIT)))
		return -ENOSYS;
	if (unlikely(r == NULL || r->size < sizeof *r || r->flags || r->time_ns >> 63))
		return -EINVAL;
	if (unlikely(r->size > sizeof *r && says_more(r)))
		return -E2BIG;
	e = take_texts(r, &t);
	if (unlikely(e < 0))
		return e;
	t.kind = r->kind;
	t.number = r->number;
	t.time_ns = r->time_ns;
	if (unlikely(!reporting(GROUP_EXPLICIT)))
		return lost_without_lane();
	if (likely(r->value_type <= SNAPTRAIL_REPORT_DOUBLE && t.text.p == NULL) &&
	    (r->value_type == SNAPTRAIL_REPORT_ABSENT || !secret_key(t.key.p, t.key.n))) {
		t.value.type = r->value_type;
		t.value.natural = r->value.natural;
		return say(&t);
	}
	return say_veiled(r, &t);
}

EXPORT int snaptrail_report_enabled(void) { return (visitor.groups & GROUP_EXPLICIT) != 0; }
