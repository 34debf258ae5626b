/* Exports: a session's snapshots as the original's JSON or as a sealed segment,
 * streamed, with one state in memory at a time.  Called by users of the library
 * and by the command; one thread a handle. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/digest.h"
#include "base/err.h"
#include "engine/clock.h"
#include "engine/handed.h"
#include "model/state_json.h"
#include "store/carry.h"

struct exporting {
	struct snaptrail *st;
	struct snaptrail_export_options o;
	struct session_meta s;
	uint64_t total, done, rounded;
	struct carry_writer *writer;
	struct buf text;            /* of the snapshot at work */
};

/* ---- which ---- */

static bool has_tag(const struct snapshot_meta *m, const char *tag)
{
	for (size_t i = 0; i < m->ntags; i++)
		if (strcmp(m->tags[i], tag) == 0)
			return true;
	return false;
}

static bool wanted(const struct exporting *x, const struct snapshot_meta *m)
{
	if (m->time_ns < x->o.since_ns || (x->o.until_ns && m->time_ns >= x->o.until_ns))
		return false;
	for (const char *const *t = x->o.tags; t && *t; t++)
		if (!has_tag(m, *t))
			return false;
	return x->o.include_incrementals || m->type == SNAPSHOT_FULL || m->ntags;
}

/* Newest first: each wanted one, or only their number. */
static int64_t each(struct exporting *x, int (*one)(struct exporting *x, const struct snapshot_meta *m))
{
	int64_t n = 0;

	for (size_t i = store_snapshot_count(x->st->store, x->s.id); i-- > 0;) {
		struct snapshot_meta m;
		int r;

		if (store_snapshot_at(x->st->store, x->s.id, i, &m) < 0 || !wanted(x, &m))
			continue;
		n++;
		if (one == NULL)
			continue;
		r = one(x, &m);
		if (r < 0)
			return r;
		if (x->o.progress)
			x->o.progress(x->o.arg, (uint64_t)n, x->total);
	}
	return n;
}

static int state_of(struct exporting *x, const struct snapshot_meta *m, struct model **ret)
{
	struct replay_query q = { .session_id = m->session_id, .until_ns = m->time_ns, .tick_ns = tick_of(x->st) };
	struct replay_result result;
	int r;

	if (m->handed_in)
		return handed_state(x->st->store, m, ret);
	r = replay(x->st->store, &q, &result);
	if (r < 0)
		return r;
	*ret = result.model;
	return 0;
}

/* ---- JSON ---- */

/* Milliseconds with their fraction, exactly. */
static void put_ms(struct buf *b, const char *name, uint64_t ns)
{
	char fraction[8];
	size_t n = 6;

	buf_printf(b, ",\"%s\":%llu", name, (unsigned long long)(ns / 1000000));
	snprintf(fraction, sizeof fraction, "%06u", (unsigned)(ns % 1000000));
	while (n && fraction[n - 1] == '0')
		n--;
	if (n)
		buf_printf(b, ".%.*s", (int)n, fraction);
}

static void put_number(struct buf *b, const char *name, uint64_t u) { buf_printf(b, ",\"%s\":%llu", name, (unsigned long long)u); }

static void put_text(struct buf *b, const char *name, const char *text)
{
	buf_printf(b, ",\"%s\":", name);
	json_write_string(text, strlen(text), b);
}

static const char *shown_id(const struct snapshot_meta *m) { return m->foreign_id && *m->foreign_id ? m->foreign_id : m->id; }

/* What stands behind the state, in the original's order; then what it has not. */
static void put_facts(struct buf *b, const struct snapshot_meta *m, const char *checksum)
{
	put_text(b, "type", snapshot_type_name(m->type));
	buf_str(b, ",\"tags\":[");
	for (size_t i = 0; i < m->ntags; i++) {
		if (i)
			buf_byte(b, ',');
		json_write_string(m->tags[i], strlen(m->tags[i]), b);
	}
	buf_byte(b, ']');
	if (*m->description)
		put_text(b, "description", m->description);
	put_number(b, "size", m->size_bytes);
	if (m->compressed)
		put_number(b, "compressedSize", m->stored_bytes);
	put_text(b, "checksum", checksum);
	buf_str(b, m->compressed ? ",\"compressed\":true" : ",\"compressed\":false");
	put_ms(b, "createdAt", m->created_ns);
	put_ms(b, "creationDuration", m->creation_ns);
	put_number(b, "agentCount", m->agents);
	put_number(b, "taskCount", m->tasks);
	put_number(b, "memoryEntryCount", m->memory);
	if (m->expires_ns)
		put_ms(b, "expiresAt", m->expires_ns);
	put_text(b, "origin", snapshot_origin_name(m->origin));
	put_number(b, "lost", m->lost);
}

static int one_json(struct exporting *x, const struct snapshot_meta *m)
{
	struct buf *b = &x->text;
	char checksum[DIGEST_TEXT];
	struct model *state;
	size_t from;
	int r = state_of(x, m, &state);

	if (r < 0)
		return r;
	buf_reset(b);
	buf_str(b, x->done++ ? ",{\"id\":" : "{\"id\":");
	json_write_string(shown_id(m), strlen(shown_id(m)), b);
	put_text(b, "sessionId", x->s.name);
	put_ms(b, "timestamp", m->time_ns);
	buf_str(b, ",\"state\":");
	from = b->len;
	state_json(state, m->time_ns, JSON_JS, b, &x->rounded);
	digest_of(b->data + from, b->len - from, checksum);
	model_free(state);
	put_facts(b, m, checksum);
	buf_byte(b, '}');
	return x->o.write(x->o.arg, b->data, b->len);
}

static int64_t export_json(struct exporting *x)
{
	struct buf *b = &x->text;
	int64_t n;
	int r;

	buf_printf(b, "{\"metadata\":{\"version\":\"1.0.0\",\"exportTime\":%llu", (unsigned long long)(wall_now_ns() / 1000000));
	put_text(b, "sessionId", x->s.name);
	put_number(b, "snapshotCount", x->total);
	buf_str(b, "},\"snapshots\":[");
	r = x->o.write(x->o.arg, b->data, b->len);
	n = r < 0 ? r : each(x, one_json);
	if (n >= 0)
		r = x->o.write(x->o.arg, "]}\n", 3);
	return r < 0 ? r : n;
}

/* ---- binary ---- */

static int one_binary(struct exporting *x, const struct snapshot_meta *m)
{
	int r;

	buf_reset(&x->text);
	/* A whole state goes as it is stored. */
	if (m->handed_in && m->type == SNAPSHOT_FULL)
		r = store_load(x->st->store, m, &x->text);
	else
		r = handed_full(x->st->store, m, &x->text);
	return r < 0 ? r : carry_put(x->writer, m, x->text.data, x->text.len);
}

static int64_t export_binary(struct exporting *x)
{
	struct carry_writer w = { .write = x->o.write, .arg = x->o.arg };
	int64_t n;
	int r = carry_begin(&w, &x->s);

	if (r < 0)
		return r;
	x->writer = &w;
	n = each(x, one_binary);
	if (n >= 0)
		r = carry_end(&w, &x->s);
	return r < 0 ? r : n;
}

int64_t snaptrail_export(struct snaptrail *st, const struct snaptrail_export_options *o)
{
	struct exporting x = { .st = st };
	int64_t n;
	int r;
	HOLD(st);

	worker_wait(st);
	memcpy(&x.o, o, o->size < sizeof x.o ? o->size : sizeof x.o);
	if (x.o.write == NULL || x.o.format < SNAPTRAIL_JSON || x.o.format > SNAPTRAIL_BINARY)
		return fail(-EINVAL, "an export needs a format and somebody who takes it");
	r = session_meant(st, x.o.session, &x.s);
	if (r < 0)
		return r;
	x.total = (uint64_t)each(&x, NULL);
	n = x.o.format == SNAPTRAIL_JSON ? export_json(&x) : export_binary(&x);
	if (x.o.ret_rounded)
		*x.o.ret_rounded = x.rounded;
	buf_done(&x.text);
	return n;
}
