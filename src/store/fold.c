/* The fold: what the records of all segments, in order, amount to.  Sessions,
 * their snapshots by time, tags and deletions, gaps.  Used under the store's
 * lock. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>

#include "proto/store.pb-c.h"

static const char *const no_tags[] = { NULL };

static char *text_of(const ProtobufCBinaryData *b, bool has)
{
	char *s = xmalloc((has ? b->len : 0) + 1);

	if (has && b->len)
		memcpy(s, b->data, b->len);
	s[has ? b->len : 0] = 0;
	return s;
}

static void copy_id(char out[17], const char in[16])
{
	memcpy(out, in, 16);
	out[16] = 0;
}

struct run_session *fold_session(struct store *s, const char id[16], bool create)
{
	struct run_session *r;

	for (size_t i = 0; i < s->nsessions; i++)
		if (memcmp(s->sessions[i]->m.id, id, 16) == 0)
			return s->sessions[i];
	if (!create)
		return NULL;
	r = xcalloc(1, sizeof *r);
	copy_id(r->m.id, id);
	r->m.name = xstrdup(r->m.id);
	r->m.command = xstrdup("");
	r->m.profile = xstrdup("");
	r->m.boot_id = xstrdup("");
	r->m.note = xstrdup("");
	r->m.exit_status = -1;
	r->next_seq = 1;
	s->sessions = xrealloc(s->sessions, (s->nsessions + 1) * sizeof *s->sessions);
	s->sessions[s->nsessions++] = r;
	return r;
}

static void replace(const char **at, char *with)
{
	free((char *)*at);
	*at = with;
}

static void fold_run(struct store *s, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__SessionInfo *i = snaptrail__store__session_info__unpack(NULL, meta->len, meta->data);
	struct run_session *r;

	if (i == NULL)
		return;
	r = fold_session(s, h->session_id, true);
	if (i->pid && h->created_ns >= r->over_ns)
		r->m.pid = i->pid;
	if (h->type == RECORD_SESSION && h->created_ns >= r->begun_ns) {
		r->begun_ns = h->created_ns;
		replace(&r->m.name, text_of(&i->name, i->has_name));
		replace(&r->m.command, text_of(&i->command, i->has_command));
		replace(&r->m.profile, text_of(&i->profile, i->has_profile));
		replace(&r->m.boot_id, text_of(&i->boot_id, i->has_boot_id));
		if (r->m.started_ns == 0)
			r->m.started_ns = i->started_ns;
		if (h->created_ns > r->over_ns) { /* its end may stand in a segment that was read before */
			r->m.ended_ns = 0;
			r->m.exit_status = -1;
		}
	} else if (h->type == RECORD_SESSION_END && h->created_ns >= r->over_ns) {
		r->over_ns = h->created_ns;
		if (h->created_ns >= r->begun_ns) {
			r->m.ended_ns = i->ended_ns;
			r->m.exit_status = i->has_exit_status ? i->exit_status : -1;
		}
	}
	if (i->has_note && i->note.len)
		replace(&r->m.note, text_of(&i->note, true));
	snaptrail__store__session_info__free_unpacked(i, NULL);
}

/* Nearly always at the end; late ones find their place from there. */
static void in_order(struct run_session *r, struct item *it)
{
	size_t at;

	if (r->count == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 64;
		r->items = xrealloc(r->items, r->cap * sizeof *r->items);
	}
	for (at = r->count; at > 0; at--) {
		const struct snapshot_meta *m = &r->items[at - 1]->m;

		if (m->time_ns < it->m.time_ns || (m->time_ns == it->m.time_ns && m->seq <= it->m.seq))
			break;
		r->items[at] = r->items[at - 1];
	}
	r->items[at] = it;
	r->count++;
}

static void count_in(struct run_session *r, const struct item *it)
{
	r->m.snapshots++;
	r->m.changes += it->m.changes;
	r->m.coalesced += it->m.coalesced;
	r->m.stored_bytes += it->m.stored_bytes;
	if (it->m.time_ns > r->m.last_time_ns)
		r->m.last_time_ns = it->m.time_ns;
	if (it->m.seq >= r->next_seq)
		r->next_seq = it->m.seq + 1;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void set_tags(struct item *it, char **tags, size_t n)
{
	qsort(tags, n, sizeof *tags, by_text);
	tags[n] = NULL;
	it->m.tags = n ? (const char *const *)tags : no_tags;
	it->m.ntags = n;
	if (n == 0)
		free(tags);
}

static void fold_snapshot(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__SnapshotInfo *i;
	struct item *it;
	char **tags;

	if (fold_item(s, h->id) || (i = snaptrail__store__snapshot_info__unpack(NULL, meta->len, meta->data)) == NULL)
		return;
	it = xcalloc(1, sizeof *it);
	it->h = *h;
	it->segment = segment;
	it->at = at;
	copy_id(it->m.id, h->id);
	copy_id(it->m.base_id, h->base_id);
	copy_id(it->m.session_id, h->session_id);
	it->m.type = (int)i->type;
	it->m.origin = (int)i->origin;
	it->m.time_ns = h->time_ns;
	it->m.since_ns = h->since_ns;
	it->m.created_ns = h->created_ns;
	it->m.creation_ns = i->creation_ns;
	it->m.clock_step_ns = i->clock_step_ns;
	it->m.seq = h->seq;
	it->m.changes = i->changes;
	it->m.coalesced = i->coalesced;
	it->m.lost = i->lost;
	it->m.agents = i->agents;
	it->m.tasks = i->tasks;
	it->m.memory = i->memory;
	it->m.size_bytes = h->raw_len;
	it->m.stored_bytes = h->payload_len;
	it->m.crc = h->crc;
	it->m.compressed = h->flags & RECORD_COMPRESSED;
	it->m.expires_ns = i->expires_ns;
	it->m.description = text_of(&i->description, i->has_description);
	tags = xcalloc(i->n_tags + 1, sizeof *tags);
	for (size_t k = 0; k < i->n_tags; k++)
		tags[k] = text_of(&i->tags[k], true);
	set_tags(it, tags, i->n_tags);
	snaptrail__store__snapshot_info__free_unpacked(i, NULL);
	it->session = fold_session(s, h->session_id, true);
	in_order(it->session, it);
	count_in(it->session, it);
	if (s->nall == s->all_cap) {
		s->all_cap = s->all_cap ? s->all_cap * 2 : 256;
		s->all = xrealloc(s->all, s->all_cap * sizeof *s->all);
	}
	s->all[s->nall++] = it;
	s->sorted = s->nall == 1 || (s->sorted && memcmp(s->all[s->nall - 2]->m.id, it->m.id, 16) < 0);
}

static int by_id(const void *a, const void *b)
{
	return memcmp((*(struct item *const *)a)->m.id, (*(struct item *const *)b)->m.id, 16);
}

struct item *fold_item(struct store *s, const char id[16])
{
	size_t lo = 0, hi = s->nall;

	if (!s->sorted && s->nall) { /* a few at the end: look there first, sort rarely */
		for (size_t i = s->nall; i > 0 && i + 64 > s->nall; i--)
			if (memcmp(s->all[i - 1]->m.id, id, 16) == 0)
				return s->all[i - 1];
		qsort(s->all, s->nall, sizeof *s->all, by_id);
		s->sorted = true;
	}
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = memcmp(s->all[mid]->m.id, id, 16);

		if (c == 0)
			return s->all[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static void free_tags(struct item *it)
{
	for (size_t i = 0; i < it->m.ntags; i++)
		free((char *)it->m.tags[i]);
	if (it->m.ntags)
		free((void *)it->m.tags);
}

static bool listed(ProtobufCBinaryData *b, size_t n, const char *tag)
{
	for (size_t i = 0; i < n; i++)
		if (b[i].len == strlen(tag) && memcmp(b[i].data, tag, b[i].len) == 0)
			return true;
	return false;
}

static void edit_tags(struct item *it, const Snaptrail__Store__Edit *e)
{
	char **tags = xcalloc(it->m.ntags + e->n_add_tags + 1, sizeof *tags);
	size_t n = 0;

	for (size_t i = 0; i < it->m.ntags; i++)
		if (!listed(e->remove_tags, e->n_remove_tags, it->m.tags[i]) &&
		    !listed(e->add_tags, e->n_add_tags, it->m.tags[i]))
			tags[n++] = xstrdup(it->m.tags[i]);
	for (size_t i = 0; i < e->n_add_tags; i++)
		tags[n++] = text_of(&e->add_tags[i], true);
	free_tags(it);
	set_tags(it, tags, n);
}

static void take_out(struct run_session *r, const struct item *it)
{
	size_t i = 0;

	while (i < r->count && r->items[i] != it)
		i++;
	if (i == r->count)
		return;
	memmove(&r->items[i], &r->items[i + 1], (r->count - i - 1) * sizeof *r->items);
	r->count--;
	r->m.snapshots--;
	r->m.stored_bytes -= it->m.stored_bytes;
}

static void fold_edit(struct item *it, const struct buf *meta)
{
	Snaptrail__Store__Edit *e = snaptrail__store__edit__unpack(NULL, meta->len, meta->data);

	if (e && !it->deleted) {
		edit_tags(it, e);
		if (e->has_description)
			replace(&it->m.description, text_of(&e->description, true));
		if (e->has_deleted && e->deleted) {
			it->deleted = true;
			take_out(it->session, it);
		}
	}
	if (e)
		snaptrail__store__edit__free_unpacked(e, NULL);
}

static void fold_gap(struct store *s, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__GapInfo *g = snaptrail__store__gap_info__unpack(NULL, meta->len, meta->data);
	struct gap_meta *m;

	if (g == NULL)
		return;
	s->gaps = xrealloc(s->gaps, (s->ngaps + 1) * sizeof *s->gaps);
	m = &s->gaps[s->ngaps++];
	*m = (struct gap_meta){ .from_ns = g->from_ns, .to_ns = g->to_ns, .lost = g->lost, .cause = text_of(&g->cause, g->has_cause) };
	copy_id(m->session_id, h->session_id);
	fold_session(s, h->session_id, true)->m.lost += g->lost;
	snaptrail__store__gap_info__free_unpacked(g, NULL);
}

static void keep_edit(struct store *s, const struct record_header *h, const struct buf *meta)
{
	if (s->norphans == s->orphans_cap) {
		s->orphans_cap = s->orphans_cap ? s->orphans_cap * 2 : 16;
		s->orphans = xrealloc(s->orphans, s->orphans_cap * sizeof *s->orphans);
	}
	s->orphans[s->norphans] = (struct orphan){ .h = *h };
	buf_put(&s->orphans[s->norphans++].meta, meta->data, meta->len);
}

static int by_created(const void *a, const void *b)
{
	const struct orphan *x = a, *y = b;

	return x->h.created_ns < y->h.created_ns ? -1 : x->h.created_ns > y->h.created_ns;
}

void fold_edits(struct store *s)
{
	size_t left = 0;

	if (s->norphans > 1)
		qsort(s->orphans, s->norphans, sizeof *s->orphans, by_created);
	for (size_t i = 0; i < s->norphans; i++) {
		struct item *it = fold_item(s, s->orphans[i].h.id);

		if (it == NULL) {
			s->orphans[left++] = s->orphans[i];
			continue;
		}
		fold_edit(it, &s->orphans[i].meta);
		buf_done(&s->orphans[i].meta);
	}
	s->norphans = left;
}

void fold_record(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	s->folded++;
	switch (h->type) {
	case RECORD_SESSION:
	case RECORD_SESSION_END: fold_run(s, h, meta); break;
	case RECORD_SNAPSHOT:
		fold_snapshot(s, segment, at, h, meta);
		break;
	case RECORD_EDIT: keep_edit(s, h, meta); break;
	case RECORD_GAP: fold_gap(s, h, meta); break;
	default: break;
	}
}

void fold_free(struct store *s)
{
	for (size_t i = 0; i < s->nall; i++) {
		free_tags(s->all[i]);
		free((char *)s->all[i]->m.description);
		free(s->all[i]->kept);
		free(s->all[i]);
	}
	for (size_t i = 0; i < s->nsessions; i++) {
		struct run_session *r = s->sessions[i];

		free((char *)r->m.name);
		free((char *)r->m.command);
		free((char *)r->m.profile);
		free((char *)r->m.boot_id);
		free((char *)r->m.note);
		free(r->items);
		free(r);
	}
	for (size_t i = 0; i < s->ngaps; i++)
		free((char *)s->gaps[i].cause);
	for (size_t i = 0; i < s->norphans; i++)
		buf_done(&s->orphans[i].meta);
	free(s->orphans);
	free(s->all);
	free(s->sessions);
	free(s->gaps);
}
