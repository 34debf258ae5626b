/* The fold: what the records of all segments, in order, amount to.  Sessions,
 * their snapshots by time, tags and deletions, gaps.  Used under the store's
 * lock. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>

#include "proto/store.pb-c.h"

static const char *const no_tags[] = { NULL };
static const char no_text[] = "";

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

	if (s->recent && memcmp(s->recent->m.id, id, 16) == 0)
		return s->recent;
	for (size_t i = 0; i < s->nsessions; i++)
		if (memcmp(s->sessions[i]->m.id, id, 16) == 0)
			return s->recent = s->sessions[i];
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

static void discard(struct store *s, const void *p)
{
	if (p == NULL || p == no_text || p == no_tags)
		return;
	if ((s->ndiscarded & (s->ndiscarded - 1)) == 0)
		s->discarded = xrealloc(s->discarded, (s->ndiscarded ? s->ndiscarded * 2 : 1) * sizeof *s->discarded);
	s->discarded[s->ndiscarded++] = (void *)p;
}

void fold_let_go(struct store *s)
{
	for (size_t i = 0; i < s->ndiscarded; i++)
		free(s->discarded[i]);
	free(s->discarded);
	s->discarded = NULL;
	s->ndiscarded = 0;
}

static void replace(struct store *s, const char **at, char *with)
{
	discard(s, *at);
	*at = with;
}

static struct stamp stamp_of(const struct record_header *h, uint64_t at)
{
	return (struct stamp){ h->created_ns, h->file_id, at };
}

static bool later(struct stamp a, struct stamp b)
{
	if (a.created_ns != b.created_ns)
		return a.created_ns > b.created_ns;
	return a.file_id != b.file_id ? a.file_id > b.file_id : a.at >= b.at;
}

static void run_begun(struct store *s, struct run_session *r, const Snaptrail__Store__SessionInfo *i)
{
	replace(s, &r->m.name, text_of(&i->name, i->has_name));
	replace(s, &r->m.command, text_of(&i->command, i->has_command));
	replace(s, &r->m.profile, text_of(&i->profile, i->has_profile));
	replace(s, &r->m.boot_id, text_of(&i->boot_id, i->has_boot_id));
}

/* Runs may be read in any order: the first one's start, the last one's rest. */
static void fold_run(struct store *s, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__SessionInfo *i = snaptrail__store__session_info__unpack(NULL, meta->len, meta->data);
	struct stamp said = stamp_of(h, at);
	struct run_session *r;
	bool live, newest;

	if (i == NULL)
		return;
	r = fold_session(s, h->session_id, true);
	newest = later(said, r->begun) && later(said, r->ended);
	if (h->type == RECORD_SESSION) {
		if (later(said, r->begun)) {
			run_begun(s, r, i);
			r->begun = said;
		}
		if (i->started_ns && (r->m.started_ns == 0 || i->started_ns < r->m.started_ns))
			r->m.started_ns = i->started_ns;
	} else if (later(said, r->ended)) {
		r->ended = said;
		r->end_ns = i->ended_ns;
		r->end_status = i->has_exit_status ? i->exit_status : -1;
	}
	live = later(r->begun, r->ended);
	r->m.ended_ns = live ? 0 : r->end_ns;
	r->m.exit_status = live ? -1 : r->end_status;
	if (i->pid && newest)
		r->m.pid = i->pid;
	if (i->has_note && i->note.len && newest)
		replace(s, &r->m.note, text_of(&i->note, true));
	snaptrail__store__session_info__free_unpacked(i, NULL);
}

/* By (time_ns, seq), and by id where two writers took the same. */
int fold_compare(const struct item *a, const struct item *b)
{
	if (a->m.time_ns != b->m.time_ns)
		return a->m.time_ns < b->m.time_ns ? -1 : 1;
	if (a->m.seq != b->m.seq)
		return a->m.seq < b->m.seq ? -1 : 1;
	return memcmp(a->m.id, b->m.id, 16);
}

int fold_in_sequence(const void *a, const void *b) { return fold_compare(*(struct item *const *)a, *(struct item *const *)b); }

size_t fold_position(const struct item *it)
{
	const struct run_session *r = it->session;
	size_t lo = 0, hi = r->count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (fold_compare(r->items[mid], it) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void fold_settle(struct store *s)
{
	s->bulk = false;
	for (size_t k = 0; k < s->nsessions; k++) {
		struct run_session *r = s->sessions[k];
		size_t n = 0;

		if (!r->unsettled)
			continue;
		for (size_t i = 0; i < r->count; i++)
			if (!r->items[i]->deleted)
				r->items[n++] = r->items[i];
		r->count = n;
		if (n)
			qsort(r->items, n, sizeof *r->items, fold_in_sequence);
		r->unsettled = false;
		r->reached = 0;
	}
}

struct item **fold_merged(struct store *s, size_t *ret_n)
{
	if (s->merged_stale) {
		s->nmerged = 0;
		s->merged = xrealloc(s->merged, (s->nall + 1) * sizeof *s->merged);
		for (size_t i = 0; i < s->nall; i++)
			if (!s->all[i]->deleted)
				s->merged[s->nmerged++] = s->all[i];
		if (s->nmerged)
			qsort(s->merged, s->nmerged, sizeof *s->merged, fold_in_sequence);
		s->merged_stale = false;
	}
	*ret_n = s->nmerged;
	return s->merged;
}

struct item **fold_items_of(struct store *s, const char *session_id, size_t *ret_n)
{
	struct run_session *r;

	if (session_id == NULL)
		index_unpack_all(s);

	if (session_id == NULL && s->nsessions != 1)
		return fold_merged(s, ret_n);
	r = session_id == NULL ? s->sessions[0] : strlen(session_id) == STORE_ID_LEN ? fold_session(s, session_id, false) : NULL;
	index_unpack(s, r);
	*ret_n = r ? r->count : 0;
	return r ? r->items : NULL;
}

/* Nearly always at the end; late ones find their place from there. */
static void in_order(struct store *s, struct run_session *r, struct item *it)
{
	size_t at;

	if (r->count == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 64;
		r->items = xrealloc(r->items, r->cap * sizeof *r->items);
	}
	for (at = r->count; !s->bulk && at > 0 && fold_compare(r->items[at - 1], it) > 0; at--)
		r->items[at] = r->items[at - 1];
	if (s->bulk && at > 0 && fold_compare(r->items[at - 1], it) > 0)
		r->unsettled = true;
	r->items[at] = it;
	r->count++;
	if (r->reached > at)
		r->reached = at;
	s->merged_stale = true;
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

/* What callers see of the marks. */
static void show_tags(struct store *s, struct item *it)
{
	const char **tags = xcalloc(it->nmarks + 1, sizeof *tags);

	search_forget_tags(s);
	it->m.ntags = 0;
	for (size_t i = 0; i < it->nmarks; i++)
		if (it->marks[i].on)
			tags[it->m.ntags++] = it->marks[i].tag;
	qsort(tags, it->m.ntags, sizeof *tags, by_text);
	discard(s, it->m.tags);
	it->m.tags = it->m.ntags ? tags : no_tags;
	if (it->m.ntags == 0)
		free(tags);
}

static void mark(struct item *it, const ProtobufCBinaryData *tag, bool on, struct stamp said)
{
	char *text = text_of(tag, true);
	size_t i = 0;

	while (i < it->nmarks && strcmp(it->marks[i].tag, text))
		i++;
	if (i == it->nmarks) {
		it->marks = xrealloc(it->marks, (it->nmarks + 1) * sizeof *it->marks);
		it->marks[it->nmarks++] = (struct tag_mark){ .tag = text };
	} else {
		free(text);
	}
	if (later(said, it->marks[i].said)) {
		it->marks[i].on = on;
		it->marks[i].said = said;
	}
}

static size_t slot_of(const struct store *s, const char id[16])
{
	uint64_t a, b;
	size_t i;

	memcpy(&a, id, 8);
	memcpy(&b, id + 8, 8);
	a = (a ^ (b << 29 | b >> 35)) * 0x9e3779b97f4a7c15ull;
	for (i = (a ^ a >> 32) & (s->nslots - 1); s->slots[i] && memcmp(s->slots[i]->m.id, id, 16); i = (i + 1) & (s->nslots - 1))
		;
	return i;
}

/* Keeps the table at most half full. */
static void remember(struct store *s, struct item *it)
{
	if (s->nall == s->all_cap) {
		s->all_cap = s->all_cap ? s->all_cap * 2 : 256;
		s->all = xrealloc(s->all, s->all_cap * sizeof *s->all);
		free(s->slots);
		s->nslots = s->all_cap * 2;
		s->slots = xcalloc(s->nslots, sizeof *s->slots);
		for (size_t i = 0; i < s->nall; i++)
			s->slots[slot_of(s, s->all[i]->m.id)] = s->all[i];
	}
	it->place = s->nall;
	s->all[s->nall++] = it;
	s->slots[slot_of(s, it->m.id)] = it;
}

struct item *fold_item(struct store *s, const char id[16])
{
	struct item *it = s->nslots ? s->slots[slot_of(s, id)] : NULL;

	if (it || s->packed == NULL || s->unpacking)
		return it;
	index_unpack_id(s, id, 16);
	return s->nslots ? s->slots[slot_of(s, id)] : NULL;
}

/* What the record says of it, but for tags and texts. */
static void read_info(struct item *it, uint32_t segment, uint64_t at, const struct record_header *h, const Snaptrail__Store__SnapshotInfo *i)
{
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
	it->m.created_ns = i->has_first_created_ns ? i->first_created_ns : h->created_ns;
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
	it->m.crc = i->has_payload_crc ? i->payload_crc : h->crc;
	it->m.compressed = h->flags & RECORD_COMPRESSED;
	it->m.expires_ns = i->expires_ns;
	it->m.handed_in = i->handed_in;
}

static void read_tags(struct store *s, struct item *it, const Snaptrail__Store__SnapshotInfo *i, struct stamp said)
{
	for (size_t k = 0; k < i->n_tags; k++)
		mark(it, &i->tags[k], true, said);
	if (i->n_tags)
		show_tags(s, it);
}

static void new_snapshot(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const Snaptrail__Store__SnapshotInfo *i)
{
	struct item *it = xcalloc(1, sizeof *it);

	read_info(it, segment, at, h, i);
	it->m.description = i->description.len ? text_of(&i->description, i->has_description) : no_text;
	it->m.foreign_id = i->foreign_id.len ? text_of(&i->foreign_id, i->has_foreign_id) : no_text;
	it->described = stamp_of(h, at);
	it->edited_ns = h->created_ns;
	it->m.tags = no_tags;
	read_tags(s, it, i, it->described);
	it->session = fold_session(s, h->session_id, true);
	index_unpack(s, it->session);
	in_order(s, it->session, it);
	count_in(it->session, it);
	remember(s, it);
}

static void take_out(struct store *s, struct item *it);

/* In its session's order again, after its time has changed. */
static void move(struct store *s, struct item *it, uint32_t segment, uint64_t at, const struct record_header *h,
		 const Snaptrail__Store__SnapshotInfo *i)
{
	bool bulk = s->bulk; /* then it stays in its list, which will be sorted */

	take_out(s, it);
	read_info(it, segment, at, h, i);
	if (!bulk)
		in_order(s, it->session, it);
	it->session->m.snapshots++;
	it->session->m.stored_bytes += it->m.stored_bytes;
	if (it->m.time_ns > it->session->m.last_time_ns)
		it->session->m.last_time_ns = it->m.time_ns;
	if (it->m.seq >= it->session->next_seq)
		it->session->next_seq = it->m.seq + 1;
}

/* The later record of a snapshot counts: it was written again, in another form,
 * or replaced by an import. */
static void same_snapshot(struct store *s, struct item *it, uint32_t segment, uint64_t at, const struct record_header *h,
			  const Snaptrail__Store__SnapshotInfo *i)
{
	struct stamp said = stamp_of(h, at);
	struct run_session *r = it->session;

	if (it->deleted || memcmp(h->session_id, it->m.session_id, 16))
		return;
	read_tags(s, it, i, said);
	if (i->has_description && later(said, it->described)) {
		replace(s, &it->m.description, text_of(&i->description, true));
		it->described = said;
	}
	if (h->created_ns > it->edited_ns)
		it->edited_ns = h->created_ns;
	if (!later(said, stamp_of(&it->h, it->at)))
		return;
	r->m.changes += i->changes - it->m.changes;
	r->m.coalesced += i->coalesced - it->m.coalesced;
	tier_memory.drop(s, it);
	if (h->time_ns != it->m.time_ns || h->seq != it->m.seq) {
		move(s, it, segment, at, h, i);
	} else {
		r->m.stored_bytes += h->payload_len - it->m.stored_bytes;
		read_info(it, segment, at, h, i);
	}
	r->reached = 0;
}

static void fold_snapshot(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__SnapshotInfo *i = snaptrail__store__snapshot_info__unpack(NULL, meta->len, meta->data);
	struct item *it = fold_item(s, h->id);

	if (i && it)
		same_snapshot(s, it, segment, at, h, i);
	else if (i)
		new_snapshot(s, segment, at, h, i);
	if (i)
		snaptrail__store__snapshot_info__free_unpacked(i, NULL);
}

static void take_out(struct store *s, struct item *it)
{
	struct run_session *r = it->session;

	s->merged_stale = true;
	r->m.snapshots--;
	r->m.stored_bytes -= it->m.stored_bytes;
	if (it->m.ntags)
		search_forget_tags(s);
	if (s->bulk) {
		r->unsettled = true;
		return;
	}
	size_t i = fold_position(it);

	memmove(&r->items[i], &r->items[i + 1], (r->count - i - 1) * sizeof *r->items);
	r->count--;
	if (r->reached > i)
		r->reached = i;
}

static void edit(struct store *s, struct item *it, const Snaptrail__Store__Edit *e, struct stamp said)
{
	for (size_t i = 0; i < e->n_remove_tags; i++)
		mark(it, &e->remove_tags[i], false, said);
	for (size_t i = 0; i < e->n_add_tags; i++)
		mark(it, &e->add_tags[i], true, said);
	if (e->n_add_tags || e->n_remove_tags)
		show_tags(s, it);
	if (e->has_description && later(said, it->described)) {
		replace(s, &it->m.description, text_of(&e->description, true));
		it->described = said;
	}
	if (said.created_ns > it->edited_ns)
		it->edited_ns = said.created_ns;
	if (e->has_deleted && e->deleted) {
		it->deleted = true;
		it->session->m.changes -= it->m.changes;
		it->session->m.coalesced -= it->m.coalesced;
		take_out(s, it);
		tier_memory.drop(s, it);
	}
}

static void fold_edit(struct store *s, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): an orphan that went was overwritten by the last */
	Snaptrail__Store__Edit *e = snaptrail__store__edit__unpack(NULL, meta->len, meta->data);
	struct item *it = fold_item(s, h->id);

	if (e && it == NULL) {
		s->orphans = xrealloc(s->orphans, (s->norphans + 1) * sizeof *s->orphans);
		s->orphans[s->norphans] = (struct orphan){ .h = *h, .at = at };
		buf_put(&s->orphans[s->norphans++].meta, meta->data, meta->len);
	}
	if (e && it && !it->deleted)
		edit(s, it, e, stamp_of(h, at));
	if (e)
		snaptrail__store__edit__free_unpacked(e, NULL);
}

/* A writer whose sync failed writes it once more, elsewhere. */
static bool known_gap(const struct store *s, const struct record_header *h, const Snaptrail__Store__GapInfo *g)
{
	for (size_t i = s->ngaps; i-- > 0;) {
		const struct gap_meta *m = &s->gaps[i];

		if (m->from_ns == g->from_ns && m->to_ns == g->to_ns && m->lost == g->lost && memcmp(m->session_id, h->session_id, 16) == 0 &&
		    strlen(m->cause) == g->cause.len && (g->cause.len == 0 || memcmp(m->cause, g->cause.data, g->cause.len) == 0))
			return true;
	}
	return false;
}

static void fold_gap(struct store *s, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__GapInfo *g = snaptrail__store__gap_info__unpack(NULL, meta->len, meta->data);
	struct gap_meta *m;

	if (g == NULL)
		return;
	if (known_gap(s, h, g)) {
		snaptrail__store__gap_info__free_unpacked(g, NULL);
		return;
	}
	s->gaps = xrealloc(s->gaps, (s->ngaps + 1) * sizeof *s->gaps);
	m = &s->gaps[s->ngaps++];
	*m = (struct gap_meta){ .from_ns = g->from_ns, .to_ns = g->to_ns, .lost = g->lost, .cause = text_of(&g->cause, g->has_cause) };
	copy_id(m->session_id, h->session_id);
	fold_session(s, h->session_id, true)->m.lost += g->lost;
	snaptrail__store__gap_info__free_unpacked(g, NULL);
}

static void fold_mark(struct store *s, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	Snaptrail__Store__GapInfo *g = snaptrail__store__gap_info__unpack(NULL, meta->len, meta->data);
	struct stamp said = stamp_of(h, at);
	char *name = g ? text_of(&g->cause, g->has_cause) : NULL;
	size_t i = 0;

	while (name && i < s->nmarks && (memcmp(s->marks[i].session_id, h->session_id, 16) || strcmp(s->marks[i].name, name)))
		i++;
	if (name && i == s->nmarks) {
		s->marks = xrealloc(s->marks, (i + 1) * sizeof *s->marks);
		s->marks[s->nmarks++] = (struct mark){ .name = xstrdup(name) };
		memcpy(s->marks[i].session_id, h->session_id, 16);
	}
	if (name && later(said, s->marks[i].said)) {
		s->marks[i].time_ns = h->time_ns;
		s->marks[i].said = said;
	}
	free(name);
	if (g)
		snaptrail__store__gap_info__free_unpacked(g, NULL);
}

/* Edits that came before their snapshot, in another segment. */
static void adopt_orphans(struct store *s, const char id[16])
{
	for (size_t i = 0; i < s->norphans; i++) {
		if (memcmp(s->orphans[i].h.id, id, 16))
			continue;
		fold_edit(s, s->orphans[i].at, &s->orphans[i].h, &s->orphans[i].meta);
		buf_done(&s->orphans[i].meta);
		s->orphans[i--] = s->orphans[--s->norphans];
	}
}

void fold_record(struct store *s, uint32_t segment, uint64_t at, const struct record_header *h, const struct buf *meta)
{
	s->folded++;
	switch (h->type) {
	case RECORD_SESSION:
	case RECORD_SESSION_END: fold_run(s, at, h, meta); break;
	case RECORD_SNAPSHOT:
		fold_snapshot(s, segment, at, h, meta);
		if (s->norphans)
			adopt_orphans(s, h->id);
		break;
	case RECORD_EDIT: fold_edit(s, at, h, meta); break;
	case RECORD_GAP: fold_gap(s, h, meta); break;
	case RECORD_MARK: fold_mark(s, at, h, meta); break;
	default: break;
	}
}

static void item_free(struct item *it)
{
	for (size_t i = 0; i < it->nmarks; i++)
		free(it->marks[i].tag);
	free(it->marks);
	if (it->m.tags != no_tags)
		free((void *)it->m.tags);
	if (it->m.description != no_text)
		free((void *)it->m.description);
	if (it->m.foreign_id != no_text)
		free((void *)it->m.foreign_id);
	free(it->kept);
	free(it);
}

/* The slots behind it close up, so that a search ends at the first empty one. */
static void unslot(struct store *s, const struct item *it)
{
	size_t mask = s->nslots - 1, i = slot_of(s, it->m.id);

	s->slots[i] = NULL;
	for (i = (i + 1) & mask; s->slots[i]; i = (i + 1) & mask) {
		struct item *moved = s->slots[i];

		s->slots[i] = NULL;
		s->slots[slot_of(s, moved->m.id)] = moved;
	}
}

static void discard_texts(struct store *s, struct item *it)
{
	for (size_t i = 0; i < it->nmarks; i++)
		discard(s, it->marks[i].tag);
	it->nmarks = 0;
	discard(s, it->m.tags);
	discard(s, it->m.description);
	discard(s, it->m.foreign_id);
	it->m.tags = no_tags;
	it->m.description = it->m.foreign_id = no_text;
}

void fold_forget(struct store *s, struct item *it)
{
	take_out(s, it);
	tier_memory.drop(s, it);
	unslot(s, it);
	s->all[it->place] = s->all[--s->nall];
	s->all[it->place]->place = it->place;
	discard_texts(s, it);
	item_free(it);
}

static void discard_session(struct store *s, struct run_session *r)
{
	discard(s, r->m.name);
	discard(s, r->m.command);
	discard(s, r->m.profile);
	discard(s, r->m.boot_id);
	discard(s, r->m.note);
	free(r->items);
	free(r->reach);
	free(r);
}

void fold_start_over(struct store *s)
{
	index_forget(s);
	for (size_t i = 0; i < s->nall; i++) {
		tier_memory.drop(s, s->all[i]);
		discard_texts(s, s->all[i]);
		item_free(s->all[i]);
	}
	for (size_t i = 0; i < s->nsessions; i++)
		discard_session(s, s->sessions[i]);
	search_forget_tags(s);
	for (size_t i = 0; i < s->ngaps; i++)
		discard(s, s->gaps[i].cause);
	for (size_t i = 0; i < s->norphans; i++)
		buf_done(&s->orphans[i].meta);
	for (size_t i = 0; i < s->nmarks; i++)
		free(s->marks[i].name);
	free(s->marks);
	s->marks = NULL;
	s->nmarks = 0;
	free(s->orphans);
	free(s->slots);
	free(s->merged);
	free(s->all);
	free(s->sessions);
	free(s->gaps);
	s->orphans = NULL;
	s->slots = NULL;
	s->merged = s->all = NULL;
	s->sessions = NULL;
	s->gaps = NULL;
	s->recent = NULL;
	s->norphans = s->nslots = s->nmerged = s->nall = s->all_cap = s->nsessions = s->ngaps = 0;
	s->merged_stale = true;
}

void fold_free(struct store *s)
{
	fold_start_over(s);
	fold_let_go(s);
}
