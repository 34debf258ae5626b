/* Imports: snapshots read one at a time from whatever kind of export it is and
 * stored as states that were handed in.  Called by users of the library and by
 * the command; one thread a handle.
 *
 * What was read waits in a file without a name until the last byte is found to be
 * good, so that malformed text changes nothing.  It is stored from the last to
 * the first, which is the order of time: exports have the newest first, and the
 * base of an incremental behind it. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>

#include "api/transfer.h"
#include "base/err.h"
#include "engine/handed.h"
#include "store/carry.h"

struct import_session {
	char *name;
	char id[STORE_ID_LEN + 1];  /* "" not found or made yet */
	uint64_t first_ns;          /* of its snapshots in the file */
};

/* One that waits, by the store's own id. */
struct known {
	char id[STORE_ID_LEN];      /* zeros: free */
	uint64_t place;             /* in the file aside */
};

/* What stands on what, as it was before the import. */
struct standing {
	char base_id[STORE_ID_LEN + 1], id[STORE_ID_LEN + 1];
};

struct importing {
	struct snaptrail *st;
	struct snaptrail_import_options o;
	struct snaptrail_import_result *result;
	struct transfer_source source;
	struct import_session *sessions;
	size_t nsessions;
	struct value session;        /* metadata.sessionId */
	bool had_snapshots;
	struct aside aside;          /* what was read */
	struct known *known;         /* open addressing, a power of two, at most half full */
	size_t nslots;
	char last_id[STORE_ID_LEN + 1]; /* the one that was stored last, and its state: often the next one's base */
	struct model *last;
	struct standing *standing;   /* by base_id; made when one is replaced */
	size_t nstanding;
	bool know_standing;
};

static void told(struct importing *im)
{
	if (im->o.progress)
		im->o.progress(im->o.arg, im->result->imported + im->result->skipped, im->source.bytes);
}

/* One that is not taken; the others are. */
static int refuse(struct importing *im, const struct incoming *in, const char *type, const char *text)
{
	struct snaptrail_import_error e = { .id = in->id.type == VALUE_STRING ? in->id.bytes : "", .type = type, .text = text };

	im->result->errors++;
	if (im->o.error)
		im->o.error(im->o.arg, &e);
	return 0;
}

/* ---- names ---- */

static bool is_own_id(const char *id)
{
	size_t n = strspn(id, "0123456789abcdef");

	return n == STORE_ID_LEN && id[n] == 0;
}

/* The store's own id for one that was called otherwise elsewhere. */
static void own_id(const char *session, const char *id, char ret[STORE_ID_LEN + 1])
{
	struct digest d;

	if (is_own_id(id)) {
		memcpy(ret, id, STORE_ID_LEN + 1);
		return;
	}
	digest_init(&d);
	digest_add(&d, session, strlen(session) + 1);
	digest_add(&d, id, strlen(id));
	digest_done(&d, ret);
}

static struct import_session *session_of(struct importing *im, const char *name)
{
	for (size_t i = im->nsessions; i-- > 0;)
		if (strcmp(im->sessions[i].name, name) == 0)
			return &im->sessions[i];
	return NULL;
}

static void note_session(struct importing *im, const char *name, uint64_t time_ns)
{
	struct import_session *s = session_of(im, name);

	if (s == NULL) {
		im->sessions = xrealloc(im->sessions, (im->nsessions + 1) * sizeof *im->sessions);
		s = &im->sessions[im->nsessions++];
		*s = (struct import_session){ .name = xstrdup(name), .first_ns = time_ns };
	}
	if (time_ns < s->first_ns)
		s->first_ns = time_ns;
}

/* Found in the store, or made there; -EINVAL for a name that none can have. */
static int find_session(struct importing *im, const char *name, struct import_session **ret)
{
	struct session_meta m;
	int r = 0;

	*ret = session_of(im, name);
	if ((*ret)->id[0])
		return 0;
	r = handed_session(im->st->store, name, (*ret)->first_ns, &m);
	if (r == 0)
		memcpy((*ret)->id, m.id, sizeof m.id);
	return r;
}

/* ---- what waits, by id ---- */

/* Its slot, or the free one where it would be. */
static struct known *slot_of(const struct importing *im, const char *id)
{
	uint64_t h;
	size_t at;

	memcpy(&h, id, sizeof h);
	h = (h ^ (uint64_t)id[15] << 56 ^ h >> 29) * 0x9e3779b97f4a7c15ull;
	for (at = (h >> 20) & (im->nslots - 1); im->known[at].id[0] && memcmp(im->known[at].id, id, STORE_ID_LEN); at = (at + 1) & (im->nslots - 1))
		;
	return &im->known[at];
}

static bool waits(const struct importing *im, const char *id, uint64_t *ret_place)
{
	const struct known *k = im->nslots ? slot_of(im, id) : NULL;

	if (k == NULL || k->id[0] == 0)
		return false;
	*ret_place = k->place;
	return true;
}

static void note_waiting(struct importing *im, const char *id, uint64_t place)
{
	struct known *old = im->known, *k;
	size_t n = im->nslots;

	if (im->aside.n * 2 >= n) {
		im->nslots = n ? n * 2 : 64;
		im->known = xcalloc(im->nslots, sizeof *im->known);
		for (size_t i = 0; i < n; i++)
			if (old[i].id[0])
				*slot_of(im, old[i].id) = old[i];
		free(old);
	}
	k = slot_of(im, id);
	memcpy(k->id, id, STORE_ID_LEN);
	k->place = place;
}

/* ---- replacing ---- */

static int by_base(const void *a, const void *b)
{
	return strcmp(((const struct standing *)a)->base_id, ((const struct standing *)b)->base_id);
}

static void find_standing(struct importing *im)
{
	size_t n = store_snapshot_count(im->st->store, NULL);
	struct snapshot_meta m;

	im->know_standing = true;
	im->standing = xmalloc(n * sizeof *im->standing);
	for (size_t i = 0; i < n; i++) {
		if (store_snapshot_at(im->st->store, NULL, i, &m) < 0 || !m.handed_in || m.base_id[0] == 0)
			continue;
		memcpy(im->standing[im->nstanding].base_id, m.base_id, sizeof m.base_id);
		memcpy(im->standing[im->nstanding++].id, m.id, sizeof m.id);
	}
	qsort(im->standing, im->nstanding, sizeof *im->standing, by_base);
}

/* A snapshot that stands on one about to be replaced gets its whole state. */
static int make_full(struct importing *im, const char *id)
{
	_cleanup_buf_ struct buf payload = BUF_INIT;
	struct snapshot_meta m;
	int r = store_snapshot_find(im->st->store, id, &m, NULL);

	if (r < 0 || m.type == SNAPSHOT_FULL)
		return 0;
	r = handed_full(im->st->store, &m, &payload);
	if (r < 0)
		return r;
	m.type = SNAPSHOT_FULL;
	m.base_id[0] = 0;
	m.since_ns = m.time_ns;
	return store_append(im->st->store, &m, payload.data, payload.len, STORE_SYNC_LATER);
}

static int free_from(struct importing *im, const char *id)
{
	size_t lo = 0, hi;
	int r = 0;

	if (!im->know_standing)
		find_standing(im);
	for (hi = im->nstanding; lo < hi;) {
		size_t mid = (lo + hi) / 2;

		if (strcmp(im->standing[mid].base_id, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; r == 0 && lo < im->nstanding && strcmp(im->standing[lo].base_id, id) == 0; lo++)
		r = make_full(im, im->standing[lo].id);
	return r;
}

/* Before the first of them is replaced: until then all read as they were. */
static int free_all(struct importing *im)
{
	struct snapshot_meta m;
	int r = 0;

	for (size_t i = 0; r == 0 && im->o.overwrite && i < im->nslots; i++) {
		char id[STORE_ID_LEN + 1] = "";

		memcpy(id, im->known[i].id, STORE_ID_LEN);
		if (id[0] && store_snapshot_find(im->st->store, id, &m, NULL) == 0)
			r = free_from(im, id);
	}
	return r;
}

/* ---- storing ---- */

/* As it came: nothing is compressed twice. */
static int store_packed(struct importing *im, const struct incoming *in, struct snapshot_meta *m)
{
	m->since_ns = m->time_ns;
	m->size_bytes = in->size_bytes;
	m->agents = in->agents;
	m->tasks = in->tasks;
	m->memory = in->memory;
	return store_append(im->st->store, m, in->packed.data, in->packed.len, STORE_SYNC_LATER | STORE_PACKED);
}

static int store_state(struct importing *im, const struct incoming *in, struct snapshot_meta *m)
{
	struct handed_options o = { .id = m->id, .foreign_id = m->foreign_id, .tags = m->tags, .description = m->description,
				    .type = SNAPSHOT_FULL, .origin = m->origin, .time_ns = m->time_ns };
	struct handed_snapshot h;
	int r = handed_prepare(im->st->store, m->session_id, in->state, &o, &h);

	if (r < 0)
		return r;
	h.m.type = m->type; /* an incremental has its whole state as well, and no base */
	h.m.creation_ns = m->creation_ns ? m->creation_ns : h.m.creation_ns;
	h.m.expires_ns = m->expires_ns;
	h.m.lost = m->lost;
	r = store_append(im->st->store, &h.m, h.payload.data, h.payload.len, STORE_SYNC_LATER);
	handed_snapshot_done(&h);
	return r;
}

static int store_one(struct importing *im, struct incoming *in, struct import_session *s, const char *id)
{
	_cleanup_free_ const char **tags = xcalloc(in->tags.type == VALUE_LIST ? in->tags.n + 1u : 1u, sizeof *tags);
	struct snapshot_meta m = { .type = in->type, .origin = ORIGIN_IMPORT, .time_ns = in->time_ns, .tags = tags,
				   .creation_ns = in->creation_ns, .expires_ns = in->expires_ns, .lost = in->lost, .handed_in = true };
	int r;

	for (uint32_t i = 0; in->tags.type == VALUE_LIST && i < in->tags.n; i++)
		tags[i] = in->tags.items[i].bytes;
	memcpy(m.id, id, sizeof m.id);
	memcpy(m.session_id, s->id, sizeof m.session_id);
	m.foreign_id = is_own_id(in->id.bytes) ? "" : in->id.bytes;
	m.description = in->description.type == VALUE_STRING ? in->description.bytes : "";
	r = in->packed.len ? store_packed(im, in, &m) : store_state(im, in, &m);
	if (r < 0)
		return r;
	im->result->imported++;
	if (in->state == NULL)
		return 0;
	model_free(im->last);
	im->last = in->state;
	in->state = NULL;
	memcpy(im->last_id, id, sizeof im->last_id);
	return 0;
}

/* ---- taking ---- */

/* There is one of that id that stays. */
static bool stays(const struct importing *im, const struct snapshot_meta *there)
{
	return !im->o.overwrite || !there->handed_in; /* what was recorded here has more to it than an export */
}

/* Into its session, in the place of one of the same id when there is one. */
static int take_state_in(struct importing *im, struct incoming *in)
{
	char id[STORE_ID_LEN + 1];
	struct import_session *s;
	struct snapshot_meta there;
	int r = find_session(im, in->session.bytes, &s);

	if (r == -EINVAL)
		return refuse(im, in, "invalid_snapshot", err_detail());
	if (r < 0)
		return r;
	own_id(in->session.bytes, in->id.bytes, id);
	if (store_snapshot_find(im->st->store, id, &there, NULL) == 0 && strcmp(there.session_id, s->id))
		return refuse(im, in, "conflict", "another session has a snapshot of that id");
	return store_one(im, in, s, id);
}

/* One that was read: skipped, refused, or put aside until all is read. */
static int take_in(struct importing *im, struct incoming *in)
{
	char id[STORE_ID_LEN + 1];
	struct snapshot_meta there;
	uint64_t place;
	int r;

	if (in->session.type != VALUE_STRING && im->session.type == VALUE_STRING)
		in->session = value_copy(&im->session);
	if (in->wrong[0] == 0 && in->session.type != VALUE_STRING)
		snprintf(in->wrong, sizeof in->wrong, "it has no sessionId");
	if (in->wrong[0])
		return refuse(im, in, "invalid_snapshot", in->wrong);
	own_id(in->session.bytes, in->id.bytes, id);
	if (waits(im, id, &place) || (store_snapshot_find(im->st->store, id, &there, NULL) == 0 && stays(im, &there))) {
		im->result->skipped++;
		return 0;
	}
	if (!im->o.no_validate && !incoming_sound(in))
		return refuse(im, in, "checksum_mismatch",
			      in->checksum.type == VALUE_STRING ? "it is not what its checksum says" : "it has no checksum");
	r = aside_put(&im->aside, store_path(im->st->store), in);
	if (r < 0)
		return r;
	note_waiting(im, id, im->aside.places[im->aside.n - 1]);
	note_session(im, in->session.bytes, in->time_ns);
	return 0;
}

/* ---- JSON ---- */

static int read_metadata(struct importing *im, struct json_reader *r)
{
	struct value v;
	const struct value *version, *session;
	int e = json_take(r, &v);

	if (e < 0)
		return e;
	version = value_get(&v, "version");
	session = value_get(&v, "sessionId");
	if (version && version->type == VALUE_STRING && strncmp(version->bytes, "1.", 2))
		e = fail(-EPROTO, "an export of version %.20s: this snaptrail knows 1", version->bytes);
	if (session && session->type == VALUE_STRING && memchr(session->bytes, 0, session->n) == NULL) {
		value_done(&im->session);
		im->session = value_copy(session);
	}
	value_done(&v);
	return e;
}

static int read_snapshots(struct importing *im, struct json_reader *r)
{
	int e = json_enter(r, '[');

	im->had_snapshots = true;
	while (e >= 0 && (e = json_item(r)) > 0) {
		struct incoming in;

		e = incoming_read(r, &in);
		if (e == 0)
			e = take_in(im, &in);
		incoming_done(&in);
		told(im);
	}
	return e;
}

static int import_json(struct importing *im, json_source source)
{
	struct json_reader r;
	struct bytes name;
	int e;

	json_reader_open(&r, source, &im->source);
	r.max_depth = JSON_DEPTH + 4; /* what stands around a state */
	e = json_enter(&r, '{');
	while (e >= 0 && (e = json_member(&r, &name)) > 0) {
		if (name.n == 8 && memcmp(name.p, "metadata", 8) == 0)
			e = read_metadata(im, &r);
		else if (name.n == 9 && memcmp(name.p, "snapshots", 9) == 0)
			e = read_snapshots(im, &r);
		else
			e = json_skip(&r);
	}
	if (e == 0)
		e = json_finish(&r);
	if (e == 0 && !im->had_snapshots)
		e = json_fail(&r, "no export: it has no snapshots");
	json_reader_done(&r);
	return e;
}

/* ---- storing what waits ---- */

static int base_state(struct importing *im, const struct snapshot_meta *m, struct model **ret)
{
	struct replay_query q = { .session_id = m->session_id, .until_ns = m->time_ns };
	struct replay_result result;
	int r;

	if (m->handed_in)
		return handed_state(im->st->store, m, ret);
	r = replay(im->st->store, &q, &result);
	if (r < 0)
		return r;
	*ret = model_copy_handed(result.model);
	model_free(result.model);
	return 0;
}

/* The id of what an incremental stands on; false: it does not say. */
static bool base_of(const struct incoming *in, char ret[STORE_ID_LEN + 1])
{
	const struct value *base = value_get(&in->changes, "baseSnapshotId");

	if (base == NULL || base->type != VALUE_STRING || memchr(base->bytes, 0, base->n))
		return false;
	own_id(in->session.bytes, base->bytes, ret);
	return true;
}

static int orphan(struct importing *im, const struct incoming *in)
{
	const struct value *base = value_get(&in->changes, "baseSnapshotId");
	char text[200] = "it does not say what it stands on";

	if (base && base->type == VALUE_STRING)
		snprintf(text, sizeof text, "it stands on %.100s, which is neither in the file nor in the store", base->bytes);
	refuse(im, in, "missing_base", text);
	return 0;
}

/* The places of incrementals that stand on each other, the first one first. */
struct chain {
	uint64_t *places;
	size_t n;
};

/* From an incremental down to a state: that of the one stored last, of one that
 * waits, or of one that was there.  1 found, 0 there is none. */
static int find_ground(struct importing *im, char id[STORE_ID_LEN + 1], struct chain *c, struct model **ret)
{
	struct incoming in = { 0 };
	struct snapshot_meta m;
	uint64_t place;
	bool more = true;

	for (; more && strcmp(id, im->last_id) && waits(im, id, &place) && c->n <= im->aside.n; incoming_done(&in)) {
		if (!aside_get(&im->aside, place, &in))
			return fail(-EIO, "a temporary file cannot be read back");
		*ret = in.state;
		in.state = NULL;
		if (*ret == NULL)
			c->places[c->n++] = place;
		more = *ret == NULL && base_of(&in, id);
		if (*ret) {
			incoming_done(&in);
			return 1;
		}
	}
	if (!more || c->n > im->aside.n)
		return 0;
	if (strcmp(id, im->last_id) == 0) {
		*ret = im->last;
		im->last = NULL;
		im->last_id[0] = 0;
		return 1;
	}
	if (store_snapshot_find(im->st->store, id, &m, NULL) < 0)
		return 0;
	int r = base_state(im, &m, ret);

	return r == -EBADMSG || r == -ENODATA ? 0 : r < 0 ? r : 1;
}

/* The state of the original's incremental.  1 made, 0 refused. */
static int rebuild(struct importing *im, struct incoming *in)
{
	struct chain c = { .places = xmalloc((im->aside.n + 1) * sizeof *c.places) };
	char id[STORE_ID_LEN + 1];
	bool good = base_of(in, id);
	int r = good ? find_ground(im, id, &c, &in->state) : 0;

	while (r > 0 && good && c.n--) {
		struct incoming step;

		good = aside_get(&im->aside, c.places[c.n], &step) && incoming_apply(&step.changes, in->state);
		incoming_done(&step);
	}
	free(c.places);
	if (r <= 0)
		return r < 0 ? r : orphan(im, in);
	if (good && incoming_apply(&in->changes, in->state))
		return 1;
	return refuse(im, in, "invalid_snapshot", "its incrementalData is none");
}

/* From the last on. */
static int store_all(struct importing *im)
{
	int r = 0;

	if (im->aside.f && fflush(im->aside.f) != 0)
		return fail(-errno, "a temporary file: %s", strerror(errno));
	r = free_all(im);
	for (size_t i = im->aside.n; r >= 0 && i-- > 0;) {
		struct incoming in;

		r = aside_get(&im->aside, im->aside.places[i], &in) ? 1 : fail(-EIO, "a temporary file cannot be read back");
		if (r > 0 && in.state == NULL && in.packed.len == 0)
			r = rebuild(im, &in);
		if (r > 0)
			r = take_state_in(im, &in);
		incoming_done(&in);
		told(im);
	}
	return r;
}

/* ---- binary ---- */

/* What an import would write of that state itself: it may stay as it is. */
static bool is_as_written(const struct carried *c)
{
	struct wire w;
	size_t pos = 0;
	bool stamped = false;
	int r;

	while ((r = wire_next(c->payload.data, c->payload.len, &pos, &w)) > 0) {
		if (w.field == 5 && w.type == 1)
			stamped = w.u == c->m.time_ns;
		else if (w.field != 2 && w.field != 4 && w.field != 15)
			return false;
	}
	return r == 0 && stamped;
}

/* A payload's whole state; the model takes the bytes. */
static bool state_of(struct buf *payload, struct model **ret)
{
	struct model *m = model_new_handed();
	bool good = false;
	struct wire w;
	size_t pos = 0;
	int r;

	while ((r = wire_next(payload->data, payload->len, &pos, &w)) > 0)
		if (w.field == 15 && w.type == 2 && !(good = model_load(m, w.b.p, w.b.n)))
			break;
	if (r < 0 || !good) {
		model_free(m);
		return false;
	}
	model_keep(m, payload);
	*ret = m;
	return true;
}

/* In place of the state, which was looked through. */
static void keep_packed(struct incoming *in, struct carried *c, size_t size)
{
	in->size_bytes = size;
	in->agents = model_count(in->state, TABLE_AGENTS);
	in->tasks = model_count(in->state, TABLE_TASKS);
	in->memory = model_count(in->state, TABLE_MEMORY);
	model_free(in->state);
	in->state = NULL;
	in->packed = c->packed;
	c->packed = (struct buf)BUF_INIT;
}

static int take_carried(struct importing *im, const char *session, struct carried *c)
{
	struct incoming in = { .type = c->m.type, .time_ns = c->m.time_ns, .creation_ns = c->m.creation_ns, .expires_ns = c->m.expires_ns,
			       .lost = c->m.lost, .has_time = true };
	bool validate = im->o.no_validate;
	size_t size = c->payload.len;
	bool as_it_is = c->packed.len && store_compresses(im->st->store, size) && is_as_written(c);
	int r;

	in.id = value_str(c->m.foreign_id && *c->m.foreign_id ? c->m.foreign_id : c->m.id);
	in.session = value_str(session);
	if (!c->damaged && state_of(&c->payload, &in.state)) {
		in.description = value_str(c->m.description);
		in.tags = value_list();
		for (size_t i = 0; i < c->m.ntags; i++)
			value_push(&in.tags, value_str(c->m.tags[i]));
		if (as_it_is)
			keep_packed(&in, c, size);
		im->o.no_validate = true; /* the record's own checksum held */
		r = take_in(im, &in);
		im->o.no_validate = validate;
	} else {
		r = refuse(im, &in, "damaged", "its bytes are not those that were written");
	}
	incoming_done(&in);
	return r;
}

static int import_binary(struct importing *im)
{
	struct carry_reader r = { .read = transfer_read, .arg = &im->source };
	int e = carry_open(&r);

	while (e >= 0) {
		struct carried c;

		e = carry_next(&r, &c);
		if (e <= 0)
			break;
		e = take_carried(im, r.session, &c);
		carried_done(&c);
		told(im);
	}
	carry_close(&r);
	return e;
}

/* ---- the whole ---- */

static int read_all(struct importing *im)
{
	int kind = transfer_open(&im->source);

	if (kind == TRANSFER_BINARY)
		return import_binary(im);
	return kind < 0 ? kind : import_json(im, kind == TRANSFER_GZIP ? transfer_inflate : transfer_read);
}

/* All of it counts together. */
static int import_all(struct importing *im)
{
	int r = read_all(im), ended;

	if (r < 0 || im->aside.n == 0)
		return r;
	r = store_batch_begin(im->st->store);
	if (r < 0)
		return r;
	r = store_all(im);
	ended = store_batch_end(im->st->store, r == 0);
	return r < 0 ? r : ended;
}

static void importing_done(struct importing *im)
{
	for (size_t i = 0; i < im->nsessions; i++)
		free(im->sessions[i].name);
	free(im->sessions);
	aside_done(&im->aside);
	free(im->standing);
	free(im->known);
	model_free(im->last);
	value_done(&im->session);
	transfer_close(&im->source);
}

int snaptrail_import(struct snaptrail *st, const struct snaptrail_import_options *o, struct snaptrail_import_result *ret)
{
	struct importing im = { .st = st, .result = ret };
	int r;
	HOLD(st);

	*ret = (struct snaptrail_import_result){ 0 };
	memcpy(&im.o, o, o->size < sizeof im.o ? o->size : sizeof im.o);
	if (im.o.read == NULL)
		return fail(-EINVAL, "an import needs somebody who reads");
	im.source.read = im.o.read;
	im.source.arg = im.o.arg;
	worker_wait(st);
	r = import_all(&im);
	importing_done(&im);
	hot_forget(st); /* what was replaced */
	if (r < 0) {
		*ret = (struct snaptrail_import_result){ 0 };
		return notify_error(st, "import_failed", NULL, NULL, r);
	}
	notify(st, &(struct snaptrail_notification){ .event = "snapshots_imported", .imported = ret->imported, .skipped = ret->skipped,
						     .errors = ret->errors });
	return 0;
}
