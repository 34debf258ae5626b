/* Searching: by tag, by time, by type, in order of time, size or tags; by name; and
 * what lies before a snapshot.  Lists of each tag's snapshots and sums along each
 * session are made when they are first asked for, and again when what they stand on
 * changed.
 *
 * A search by time streams: it looks at a few hundred snapshots under the lock,
 * hands them over without it, and goes on behind the last one.  So the one who is
 * called may use the store, and a writer may append meanwhile. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"

#define CHUNK 128u

struct tag_list {
	const char *tag;         /* a mark's, which lives as long as its item */
	struct item **items;     /* by (time_ns, seq), once it is made */
	size_t n, cap;
};

struct tag_lists {
	struct tag_list *slots;  /* by tag: open addressing, a power of two */
	size_t nslots, n;
};

/* ---- lists of tags ---- */

static size_t tag_slot(const struct tag_lists *t, const char *tag)
{
	uint64_t h = 14695981039346656037ull;
	size_t i;

	for (const char *p = tag; *p; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211ull;
	for (i = (h ^ h >> 32) & (t->nslots - 1); t->slots[i].tag && strcmp(t->slots[i].tag, tag); i = (i + 1) & (t->nslots - 1))
		;
	return i;
}

/* At most half full. */
static void grow(struct tag_lists *t)
{
	struct tag_list *old = t->slots;
	size_t n = t->nslots;

	t->nslots = n ? n * 2 : 64;
	t->slots = xcalloc(t->nslots, sizeof *t->slots);
	for (size_t i = 0; i < n; i++)
		if (old[i].tag)
			t->slots[tag_slot(t, old[i].tag)] = old[i];
	free(old);
}

static void enlist(struct tag_lists *t, const char *tag, struct item *it)
{
	struct tag_list *l;

	if (t->n * 2 >= t->nslots)
		grow(t);
	l = &t->slots[tag_slot(t, tag)];
	if (l->tag == NULL) {
		l->tag = tag;
		t->n++;
	}
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 8;
		l->items = xrealloc(l->items, l->cap * sizeof *l->items);
	}
	l->items[l->n++] = it;
}

void search_forget_tags(struct store *s)
{
	struct tag_lists *t = s->tagged;

	for (size_t i = 0; t && i < t->nslots; i++)
		free(t->slots[i].items);
	if (t)
		free(t->slots);
	free(t);
	s->tagged = NULL;
}

static struct tag_lists *tag_lists(struct store *s)
{
	struct tag_lists *t = s->tagged;

	if (t)
		return t;
	s->tagged = t = xcalloc(1, sizeof *t);
	grow(t);
	for (size_t i = 0; i < s->nall; i++)
		for (size_t k = 0; !s->all[i]->deleted && k < s->all[i]->m.ntags; k++)
			enlist(t, s->all[i]->m.tags[k], s->all[i]);
	for (size_t i = 0; i < t->nslots; i++)
		if (t->slots[i].n > 1)
			qsort(t->slots[i].items, t->slots[i].n, sizeof *t->slots[i].items, fold_in_sequence);
	return t;
}

/* ---- what matches ---- */

static bool has_tag(const struct snapshot_meta *m, const char *tag)
{
	for (size_t i = 0; i < m->ntags; i++)
		if (strcmp(m->tags[i], tag) == 0)
			return true;
	return false;
}

static bool tags_match(const struct snapshot_meta *m, const struct store_search *q)
{
	bool any = q->any == NULL || q->any[0] == NULL;

	for (size_t i = 0; q->all && q->all[i]; i++)
		if (!has_tag(m, q->all[i]))
			return false;
	for (size_t i = 0; q->none && q->none[i]; i++)
		if (has_tag(m, q->none[i]))
			return false;
	for (size_t i = 0; !any && q->any[i]; i++)
		any = has_tag(m, q->any[i]);
	return any;
}

static bool matches(const struct snapshot_meta *m, const struct store_search *q)
{
	return m->time_ns >= q->since_ns && (q->until_ns == 0 || m->time_ns < q->until_ns) &&
	       (q->type == 0 || m->type == q->type) &&
	       (q->session_id == NULL || strcmp(m->session_id, q->session_id) == 0) && tags_match(m, q);
}

/* ---- where to look: one list, or those of several tags side by side ---- */

struct source {
	struct item **items;
	size_t lo, hi;           /* what of it is left */
};

struct sources {
	struct source *list;
	size_t n;
};

static void add_source(struct sources *w, struct item **items, size_t n)
{
	w->list = xrealloc(w->list, (w->n + 1) * sizeof *w->list);
	w->list[w->n++] = (struct source){ items, 0, n };
}

static void add_tag(struct store *s, struct sources *w, const char *tag)
{
	struct tag_lists *t;
	const struct tag_list *l;

	index_unpack_tag(s, tag);
	t = tag_lists(s);
	l = &t->slots[tag_slot(t, tag)];
	add_source(w, l->items, l->n);
}

/* The shortest of the tags that must be there, else all of those of which one
 * must, else the session. */
static void choose_sources(struct store *s, const struct store_search *q, struct sources *w)
{
	size_t n;

	for (size_t i = 0; q->all && q->all[i]; i++) {
		add_tag(s, w, q->all[i]);
		if (w->n == 2) {
			if (w->list[1].hi < w->list[0].hi)
				w->list[0] = w->list[1];
			w->n = 1;
		}
	}
	for (size_t i = 0; w->n == i && q->any && q->any[i]; i++)
		add_tag(s, w, q->any[i]);
	if (w->n == 0) {
		struct item **items = fold_items_of(s, q->session_id, &n);

		add_source(w, items, n);
	}
}

/* Where a stream stands: behind (time_ns, seq, id). */
struct place {
	bool begun;
	struct item last;        /* the key alone */
};

static size_t first_behind(const struct source *w, const struct item *key, bool itself)
{
	size_t lo = 0, hi = w->hi;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = fold_compare(w->items[mid], key);

		if (c < 0 || (c == 0 && !itself))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void narrow(struct sources *w, const struct store_search *q, const struct place *p)
{
	struct item since = { .m = { .time_ns = q->since_ns } }, until = { .m = { .time_ns = q->until_ns } };

	for (size_t i = 0; i < w->n; i++) {
		struct source *src = &w->list[i];
		size_t lo = first_behind(src, &since, true), hi = q->until_ns ? first_behind(src, &until, true) : src->hi;

		if (p->begun && !q->reverse && first_behind(src, &p->last, false) > lo)
			lo = first_behind(src, &p->last, false);
		if (p->begun && q->reverse && first_behind(src, &p->last, true) < hi)
			hi = first_behind(src, &p->last, true);
		src->lo = lo;
		src->hi = hi > lo ? hi : lo;
	}
}

/* The nearest of all sources; it is taken from each in which it stands. */
static struct item *next_item(struct sources *w, bool reverse)
{
	struct item *best = NULL;

	for (size_t i = 0; i < w->n; i++) {
		const struct source *src = &w->list[i];
		struct item *it = src->lo < src->hi ? src->items[reverse ? src->hi - 1 : src->lo] : NULL;

		if (it && (best == NULL || (reverse ? fold_compare(it, best) > 0 : fold_compare(it, best) < 0)))
			best = it;
	}
	for (size_t i = 0; best && i < w->n; i++) {
		struct source *src = &w->list[i];

		if (src->lo < src->hi && src->items[reverse ? src->hi - 1 : src->lo] == best)
			*(reverse ? &src->hi : &src->lo) -= reverse ? 1 : (size_t)-1;
	}
	return best;
}

/* The next few that match; 0 at the end. */
static size_t next_chunk(struct store *s, const struct store_search *q, struct place *p, struct snapshot_meta *out, size_t max)
{
	struct sources w = { 0 };
	struct item *it = NULL;
	size_t n = 0;

	store_enter(s);
	choose_sources(s, q, &w);
	narrow(&w, q, p);
	while (n < max && (it = next_item(&w, q->reverse))) {
		if (matches(&it->m, q))
			out[n++] = it->m;
		p->last.m = it->m;
		p->begun = true;
	}
	store_leave(s);
	free(w.list);
	return n;
}

/* ---- the other orders ---- */

static int compare_instants(const struct snapshot_meta *a, const struct snapshot_meta *b)
{
	if (a->time_ns != b->time_ns)
		return a->time_ns < b->time_ns ? -1 : 1;
	return a->seq != b->seq ? (a->seq < b->seq ? -1 : 1) : strcmp(a->id, b->id);
}

static int by_size(const void *x, const void *y)
{
	const struct snapshot_meta *a = x, *b = y;

	return a->size_bytes != b->size_bytes ? (a->size_bytes < b->size_bytes ? -1 : 1) : compare_instants(a, b);
}

static int by_tags(const void *x, const void *y)
{
	const struct snapshot_meta *a = x, *b = y;

	for (size_t i = 0; i < a->ntags && i < b->ntags; i++) {
		int c = strcmp(a->tags[i], b->tags[i]);

		if (c)
			return c;
	}
	return a->ntags != b->ntags ? (a->ntags < b->ntags ? -1 : 1) : compare_instants(a, b);
}

static size_t all_matches(struct store *s, const struct store_search *q, struct snapshot_meta **ret)
{
	struct store_search forward = *q;
	struct place p = { 0 };
	size_t n = 0, cap = 0, got;

	forward.reverse = false;
	do {
		if (cap - n < CHUNK) {
			cap = cap * 2 + CHUNK;
			*ret = xrealloc(*ret, cap * sizeof **ret);
		}
		n += got = next_chunk(s, &forward, &p, *ret + n, CHUNK);
	} while (got);
	qsort(*ret, n, sizeof **ret, q->sort == STORE_BY_SIZE ? by_size : by_tags);
	return n;
}

static int64_t search_sorted(struct store *s, const struct store_search *q, int (*each)(void *, const struct snapshot_meta *), void *arg)
{
	_cleanup_free_ struct snapshot_meta *hits = NULL;
	size_t n = all_matches(s, q, &hits);
	int64_t done = 0;

	for (size_t i = q->offset; i < n && !(q->limited && i - q->offset >= q->limit); i++, done++) {
		int stop = each(arg, &hits[q->reverse ? n - 1 - i : i]);

		if (stop)
			return stop;
	}
	return done;
}

int64_t store_search(struct store *s, const struct store_search *q, int (*each)(void *, const struct snapshot_meta *), void *arg)
{
	struct snapshot_meta chunk[CHUNK];
	struct place p = { 0 };
	size_t skip = q->offset, n;
	int64_t done = 0;

	if (q->sort != STORE_BY_TIME)
		return search_sorted(s, q, each, arg);
	do {
		n = q->limited && (size_t)done >= q->limit ? 0 : next_chunk(s, q, &p, chunk, CHUNK);
		for (size_t i = 0; i < n && !(q->limited && (size_t)done >= q->limit); i++) {
			int stop = skip ? 0 : each(arg, &chunk[i]);

			if (stop)
				return stop;
			*(skip ? &skip : (size_t *)&done) += skip ? (size_t)-1 : 1;
		}
	} while (n == CHUNK);
	return done;
}

/* ---- by name ---- */

/* How well a text names a snapshot. */
enum naming { NAMES_NOT, NAMES_BY_PREFIX, NAMES_AS_FOREIGN, NAMES_WHOLE };

static enum naming names(const struct item *it, const char *text, size_t n)
{
	if (n == STORE_ID_LEN && memcmp(it->m.id, text, n) == 0)
		return NAMES_WHOLE;
	if (n && strcmp(it->m.foreign_id, text) == 0)
		return NAMES_AS_FOREIGN;
	if (n >= 4 && (strncmp(it->m.id, text, n) == 0 || strncmp(it->m.foreign_id, text, n) == 0))
		return NAMES_BY_PREFIX;
	return NAMES_NOT;
}

struct named {
	const char *text;
	struct item *hit;
	enum naming how;
	size_t found;            /* that are named as well as that */
	char candidates[300];
};

static void consider(struct named *w, struct item *it)
{
	enum naming how = names(it, w->text, strlen(w->text));
	size_t used;

	if (how == NAMES_NOT || how < w->how)
		return;
	if (how > w->how) {
		w->found = 0;
		w->candidates[0] = 0;
	}
	w->how = how;
	w->hit = it;
	used = strlen(w->candidates);
	if (w->found++ < 6)
		snprintf(w->candidates + used, sizeof w->candidates - used, " %s", it->m.id);
}

int store_snapshot_find_in(struct store *s, const char *session_id, const char *text, struct snapshot_meta *ret, size_t *ret_i)
{
	struct named w = { .text = text };
	size_t n = strlen(text);
	struct item *whole;
	bool named;

	store_enter(s);
	whole = n == STORE_ID_LEN ? fold_item(s, text) : NULL;
	named = whole && !whole->deleted && (session_id == NULL || strcmp(whole->m.session_id, session_id) == 0);
	if (named) {
		w.hit = whole;
		w.found = 1;
	} else if (session_id) {
		index_unpack(s, fold_session(s, session_id, false));
	} else {
		index_unpack_foreign(s);
		if (n >= 4 && n <= STORE_ID_LEN)
			index_unpack_id(s, text, n);
	}
	for (size_t i = 0; !named && i < s->nall; i++)
		if (!s->all[i]->deleted && (session_id == NULL || strcmp(s->all[i]->m.session_id, session_id) == 0))
			consider(&w, s->all[i]);
	if (w.found == 1) {
		*ret = w.hit->m;
		if (ret_i)
			*ret_i = fold_position(w.hit);
	}
	store_leave(s);
	if (w.found > 1)
		return fail(-EMLINK, "\"%s\" is ambiguous:%s%s", text, w.candidates, w.found > 6 ? " ..." : "");
	return w.found ? 0 : fail(-ENOENT, "no snapshot \"%s\"", text);
}

int store_snapshot_find(struct store *s, const char *text, struct snapshot_meta *ret, size_t *ret_i)
{
	return store_snapshot_find_in(s, NULL, text, ret, ret_i);
}

/* ---- along a session ---- */

/* Up to date for all of it; made anew from the first that changed. */
static const struct reach *reach_of(struct run_session *r)
{
	if (r->reach_cap < r->count + 1) {
		r->reach_cap = r->cap + 1;
		r->reach = xrealloc(r->reach, r->reach_cap * sizeof *r->reach);
	}
	if (r->reached == 0)
		r->reach[0] = (struct reach){ 0, SIZE_MAX };
	for (size_t i = r->reached; i < r->count; i++) {
		r->reach[i + 1].changes = r->reach[i].changes + r->items[i]->m.changes;
		r->reach[i + 1].full = r->items[i]->m.type == SNAPSHOT_FULL ? i : r->reach[i].full;
	}
	r->reached = r->count;
	return r->reach;
}

int store_full_floor(struct store *s, const char *session_id, uint64_t t, size_t *ret_i)
{
	struct item key = { .m = { .time_ns = t, .seq = UINT64_MAX } };
	struct run_session *r;
	size_t full = SIZE_MAX;

	memset(key.m.id, 0xff, 16);
	store_enter(s);
	r = fold_session(s, session_id, false);
	index_unpack(s, r);
	if (r) {
		struct source whole = { r->items, 0, r->count };

		full = reach_of(r)[first_behind(&whole, &key, false)].full;
	}
	store_leave(s);
	if (full == SIZE_MAX)
		return -ENOENT;
	*ret_i = full;
	return 0;
}

uint64_t store_changes_before(struct store *s, const char *session_id, size_t i)
{
	struct run_session *r;
	uint64_t n = 0;

	store_enter(s);
	r = fold_session(s, session_id, false);
	index_unpack(s, r);
	if (r)
		n = reach_of(r)[i < r->count ? i : r->count].changes;
	store_leave(s);
	return n;
}
