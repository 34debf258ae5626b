/* Events of our own source in the sink: see bt_ours.h. */
#include "bt_ours.h"

#include <nettle/base64.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "bt_sink.h"
#include "engine/handed.h"
#include "engine/prepare.h"

struct ours {
	enum { OURS_A_CHANGE, OURS_A_SESSION, OURS_A_STATE, OURS_A_SNAPSHOT, OURS_A_GAP, OURS_A_HANDED, OURS_A_LAYOUT } what;
	struct field_path pid, tid, lane, offset, text, tags, number, from, to;
};

static const struct {
	const char *event;
	int what;
	const char *needs; /* a field that tells it from a foreign event of that name */
} known[] = {
	{ "session", OURS_A_SESSION, "command" }, { "state", OURS_A_STATE, "left" }, { "snapshot", OURS_A_SNAPSHOT, "description" },
	{ "gap", OURS_A_GAP, "lost" }, { "handed", OURS_A_HANDED, "left" }, { "layout", OURS_A_LAYOUT, "layout" },
};

static bool find(const bt_field_class *payload, const char *name, struct field_path *ret)
{
	return field_path_find(payload, name, strlen(name), ret);
}

struct ours *ours_new(const char *event, const bt_field_class *payload)
{
	struct ours o = { .what = OURS_A_CHANGE };
	bool good = false;

	if (payload == NULL || strncmp(event, OURS_PREFIX, strlen(OURS_PREFIX)))
		return NULL;
	event += strlen(OURS_PREFIX);
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(event, known[i].event) == 0 && find(payload, known[i].needs, &o.text)) {
			o.what = known[i].what;
			good = true;
		}
	switch (o.what) {
	case OURS_A_CHANGE:
		good = find(payload, "change", &o.text) && find(payload, "lane", &o.lane) && find(payload, "offset", &o.offset) &&
		       find(payload, "pid", &o.pid) && find(payload, "tid", &o.tid);
		break;
	case OURS_A_STATE: case OURS_A_HANDED: good = good && find(payload, "state", &o.text) && find(payload, "left", &o.number); break;
	case OURS_A_SNAPSHOT: good = good && find(payload, "tags", &o.tags); break;
	case OURS_A_GAP:
		good = good && find(payload, "lost", &o.number) && find(payload, "from", &o.from) && find(payload, "to", &o.to) &&
		       find(payload, "cause", &o.text);
		break;
	default: break;
	}
	return good ? xmemdup(&o, sizeof o) : NULL;
}

void ours_free(struct ours *o) { free(o); }

static uint64_t number(const struct event *e, const struct field_path *p)
{
	struct cell c;

	cell_of(field_path_get(e->root[SCOPE_PAYLOAD], p), &c);
	return c.type == CELL_UINT || c.type == CELL_INT ? c.natural : 0;
}

static struct bytes text(const struct event *e, const struct field_path *p)
{
	struct cell c;

	cell_of(field_path_get(e->root[SCOPE_PAYLOAD], p), &c);
	return c.type == CELL_TEXT ? BYTES(c.text, c.n) : BYTES("", 0);
}

static bool decode(struct bytes from, struct buf *to)
{
	struct base64_decode_ctx ctx;
	size_t n = BASE64_DECODE_LENGTH((size_t)from.n);

	base64_decode_init(&ctx);
	if (!base64_decode_update(&ctx, &n, buf_room(to, n + 1), from.n, from.p) || !base64_decode_final(&ctx))
		return false;
	to->len += n;
	return true;
}

/* ---- states that were handed in ---- */

void handing_done(struct handing *h)
{
	if (h->state)
		model_free(h->state);
	if (h->store)
		store_close(h->store);
	buf_done(&h->pieces);
	*h = (struct handing){ 0 };
}

bool ours_is_handed(const struct sink *s, const struct ours *o) { return s->handing.store || o->what == OURS_A_HANDED; }

static int handing_begin(struct sink *s)
{
	struct store_options so;
	struct prepared p;
	int r = prepare_name(&p, s->config, s->session, s->what ? s->what : "trace");

	if (r < 0)
		return r;
	snprintf(s->handing.name, sizeof s->handing.name, "%s", p.name);
	prepare_store_options(s->config, &so);
	so.create = true;
	return store_open(s->config->path, &so, &s->handing.store);
}

static int take_handed_state(struct sink *s, const struct ours *o, const struct event *e)
{
	struct handing *h = &s->handing;

	if (!decode(text(e, &o->text), &h->pieces))
		return fail(-EBADMSG, "event %s: its field state is damaged", e->plan->name);
	if (number(e, &o->number))
		return 0;
	if (h->state)
		model_free(h->state);
	h->state = model_new_handed();
	if (!model_load(h->state, h->pieces.data, h->pieces.len))
		return fail(-EBADMSG, "event %s: a damaged state", e->plan->name);
	model_keep(h->state, &h->pieces);
	h->pieces = (struct buf)BUF_INIT;
	return 0;
}

static int take_handed_layout(struct sink *s, const struct ours *o, const struct event *e)
{
	struct wire w;
	size_t pos = 0;

	buf_reset(&s->a);
	if (decode(text(e, &o->text), &s->a) && wire_next(s->a.data, s->a.len, &pos, &w) > 0 && layout_unpack(s->handing.state, w.b.p, w.b.n))
		return 0;
	return fail(-EBADMSG, "event %s: its field layout is damaged", e->plan->name);
}

static int take_handed(struct sink *s, const struct ours *o, const struct event *e)
{
	int r = s->handing.store ? 0 : handing_begin(s);

	if (r < 0)
		return r;
	if (o->what == OURS_A_HANDED)
		return take_handed_state(s, o, e);
	if (s->handing.state == NULL)
		return fail(-EBADMSG, "event %s: before any state", e->plan->name);
	if (o->what == OURS_A_LAYOUT)
		return take_handed_layout(s, o, e);
	if (o->what != OURS_A_CHANGE)
		return 0;
	buf_reset(&s->a);
	if (decode(text(e, &o->text), &s->a) && model_patch(s->handing.state, e->time_ns, s->a.data, s->a.len))
		return 0;
	return fail(-EBADMSG, "event %s: its field change is damaged", e->plan->name);
}

static int store_handed(struct sink *s, uint64_t time_ns, const char *const *tags, const char *description)
{
	struct handed_options o = { .tags = tags, .description = description, .time_ns = time_ns, .whole = !s->config->incremental,
				    .full_every_ns = s->config->full_every_ns };
	struct snapshot_meta m;

	s->snapshots++;
	return handed_append(s->handing.store, s->handing.name, s->handing.state, &o, &m);
}

/* ---- the events ---- */

static int take_snapshot(struct sink *s, const struct ours *o, const struct event *e)
{
	struct bytes tags = text(e, &o->tags), about = text(e, &o->text);
	_cleanup_free_ char *list = xasprintf("%.*s", (int)tags.n, (const char *)tags.p);
	_cleanup_free_ char *description = xasprintf("%.*s", (int)about.n, (const char *)about.p);
	const char *tag[256];
	size_t n = 0;
	char *at = NULL;

	for (char *t = strtok_r(list, ",", &at); t && n < 255; t = strtok_r(NULL, ",", &at))
		tag[n++] = t;
	tag[n] = NULL;
	if (s->handing.state)
		return store_handed(s, e->time_ns, tag, *description ? description : NULL);
	return feed_cut(s->feed, e->time_ns, tag, *description ? description : NULL);
}

int ours_take(struct sink *s, const struct ours *o, const struct event *e)
{
	if (s->ours == NULL) {
		s->ours = e->stream;
		if (s->feed)
			feed_by_hand(s->feed);
	}
	if (s->ours != e->stream || (s->feed && ours_is_handed(s, o)))
		return fail(-EINVAL, "two sessions at once: each needs a sink of its own");
	if (ours_is_handed(s, o) && o->what != OURS_A_SNAPSHOT)
		return take_handed(s, o, e);
	switch (o->what) {
	case OURS_A_CHANGE:
		buf_reset(&s->a);
		if (!decode(text(e, &o->text), &s->a))
			return fail(-EBADMSG, "event %s: its field change is damaged", e->plan->name);
		return feed_put_encoded(s->feed, e->time_ns, (uint32_t)number(e, &o->pid), (uint32_t)number(e, &o->tid),
					number(e, &o->lane), number(e, &o->offset), s->a.data, s->a.len);
	case OURS_A_STATE: /* in pieces, the last one of which has nothing left */
		if (!decode(text(e, &o->text), &s->b))
			return fail(-EBADMSG, "event %s: its field state is damaged", e->plan->name);
		if (number(e, &o->number))
			return 0;
		return feed_load(s->feed, e->time_ns, s->b.data, s->b.len);
	case OURS_A_SNAPSHOT: return take_snapshot(s, o, e);
	case OURS_A_GAP: {
		struct bytes cause = text(e, &o->text);
		_cleanup_free_ char *why = xasprintf("%.*s", (int)cause.n, (const char *)cause.p);

		feed_gap(s->feed, number(e, &o->from), number(e, &o->to), number(e, &o->number), why);
		return 0;
	}
	default: return 0;
	}
}
