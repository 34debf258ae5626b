/* The flusher thread and the making of payloads; see flush.h. */
#include "engine/flush.h"

#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "base/mark.h"

void cut_free(struct cut *c)
{
	if (c == NULL)
		return;
	for (char **t = c->tags; t && *t; t++)
		free(*t);
	free(c->tags);
	free(c->description);
	buf_done(&c->state);
	stage_close(&c->stage);
	free(c);
}

/* A hot key's place becomes a Change that says how many it stands for. */
static void pack_hot(const struct stage_part *p, struct buf *out)
{
	uint32_t n = 0, i = 1, shift = 0;
	size_t mark;

	if (p->n < 3 || p->bytes[0] != RUN_CHANGES_TAG)
		return;
	do {
		n |= (uint32_t)(p->bytes[i] & 0x7f) << shift;
		shift += 7;
	} while (p->bytes[i++] & 0x80 && i < p->n && shift < 28);
	if (n != p->n - i)
		return;
	mark = pack_begin(out, RUN_CHANGES);
	buf_put(out, p->bytes + i, n);
	if (p->coalesced)
		pack_uint(out, 16, p->coalesced);
	pack_end(out, mark);
}

void cut_run(struct stage_part *p, struct buf *out)
{
	const struct stage_block *b = p->block;
	size_t start = out->len, mark;

	do {
		out->len = start;
		mark = pack_begin(out, 1);
		if (b->pid)
			pack_uint(out, 1, b->pid);
		if (b->tid)
			pack_uint(out, 2, b->tid);
		pack_uint(out, 3, b->lane);
		pack_uint(out, 4, b->offset);
		if (p->place)
			pack_hot(p, out);
		else
			buf_put(out, p->bytes, p->n);
		pack_end(out, mark);
	} while (!stage_part_held(p));
}

static void pack_gap(const struct gap *g, struct buf *out)
{
	size_t mark = pack_begin(out, 3);

	pack_fixed64(out, 1, g->from_ns);
	pack_fixed64(out, 2, g->to_ns);
	if (g->lost)
		pack_uint(out, 3, g->lost);
	pack_bytes(out, 4, g->cause, strnlen(g->cause, sizeof g->cause));
	pack_end(out, mark);
}

void cut_clock(const struct stage_header *h, struct buf *out)
{
	for (uint64_t i = 0; i < h->lines && i < CLOCK_LINES; i++) {
		size_t mark = pack_begin(out, 2);

		pack_fixed64(out, 1, h->line[i].tick);
		pack_fixed64(out, 2, h->line[i].time_ns);
		pack_fixed64(out, 3, h->line[i].rate_q32);
		pack_end(out, mark);
	}
	pack_fixed64(out, 6, (uint64_t)h->offset_ns);
	pack_uint(out, 7, h->serial);
}

void cut_payload(const struct stage_header *h, const struct buf *state, uint64_t from_ns, uint64_t time_ns,
		 struct buf *out)
{
	struct stage_part p;
	size_t pos = 0;

	buf_room(out, h->used + (state ? state->len : 0) + 4096);
	while (stage_next(h, &pos, &p))
		cut_run(&p, out);
	cut_clock(h, out);
	for (size_t i = 0; i < stage_gaps(h); i++)
		pack_gap(&h->gap[i], out);
	pack_fixed64(out, 4, from_ns);
	pack_fixed64(out, 5, time_ns);
	if (state && state->len)
		pack_bytes(out, 15, state->data, state->len);
}

void note_gaps(struct store *st, const char *session_id, const struct stage_header *h)
{
	for (size_t i = 0; i < stage_gaps(h); i++) {
		char cause[sizeof h->gap[i].cause + 1] = "";
		struct gap_meta g = { .from_ns = h->gap[i].from_ns, .to_ns = h->gap[i].to_ns, .lost = h->gap[i].lost, .cause = cause };

		memcpy(cause, h->gap[i].cause, sizeof h->gap[i].cause);
		snprintf(g.session_id, sizeof g.session_id, "%s", session_id);
		store_note_gap(st, &g);
	}
}

#define AGAIN_NS 200000000u  /* between attempts */
#define STUCK 3u              /* failures from which on nobody waits */

static bool is_stuck(const struct flusher *f) { return f->now.queued && f->now.failures >= STUCK; }

static int store_cut(struct flusher *f, struct cut *c, bool another)
{
	unsigned flags = (c->force_compression ? STORE_COMPRESS : 0u) | (another ? STORE_SYNC_LATER : 0u);
	struct buf payload = BUF_INIT;
	int r;

	cut_payload(c->stage.h, &c->state, c->from_ns, c->meta.time_ns, &payload);
	c->meta.tags = (const char *const *)c->tags;
	c->meta.description = c->description ? c->description : "";
	MARK("payload made");
	c->meta.creation_ns = mono_now_ns() - c->begun_mono_ns;
	r = store_append(f->store, &c->meta, payload.data, payload.len, flags);
	if (r == 0)
		note_gaps(f->store, c->meta.session_id, c->stage.h);
	MARK("snapshot stored");
	if (r == 0)
		retain_wrote(&f->wrote, &c->meta);
	if (r < 0)
		store_sync(f->store); /* the one before may have relied on this one */
	else
		stage_remove(&c->stage);
	MARK("stage removed");
	buf_done(&payload);
	return r;
}

/* The first in the queue, under the lock but for the storing. */
static bool store_first(struct flusher *f)
{
	struct cut *c = f->queue[f->head];
	bool another = f->now.queued > 1 || __atomic_load_n(&f->ending, __ATOMIC_ACQUIRE);
	int r;

	f->busy = true;
	pthread_mutex_unlock(&f->lock);
	r = store_cut(f, c, another);
	pthread_mutex_lock(&f->lock);
	f->busy = false;
	if (r < 0) {
		f->now.failures++;
		f->again_mono_ns = mono_now_ns() + AGAIN_NS;
		snprintf(f->now.error, sizeof f->now.error, "%s", err_detail());
	} else {
		f->now.failures = 0;
		f->head = (f->head + 1) % FLUSH_QUEUE;
		f->now.queued--;
		f->now.stored++;
		f->now.raw_bytes += c->meta.size_bytes;
		f->now.stored_bytes += c->meta.stored_bytes;
		cut_free(c);
	}
	pthread_cond_broadcast(&f->changed);
	return r == 0;
}

static void wait_until(struct flusher *f, uint64_t mono_ns)
{
	struct timespec until = { (time_t)(mono_ns / 1000000000u), (long)(mono_ns % 1000000000u) };

	pthread_cond_clockwait(&f->changed, &f->lock, CLOCK_MONOTONIC, &until);
}

/* Beside the program, never in it, and not when somebody waits for the end. */
static void retain(struct flusher *f)
{
	int r = f->config ? retain_if_due(f->store, f->config, &f->wrote) : 0;

	if (r == 0)
		return;
	pthread_mutex_lock(&f->lock);
	snprintf(f->now.error, sizeof f->now.error, "limits: %s", *err_detail() ? err_detail() : err_text(r));
	pthread_mutex_unlock(&f->lock);
}

static void *flush_thread(void *arg)
{
	struct flusher *f = arg;

	retain(f);
	pthread_mutex_lock(&f->lock);
	for (;;) {
		while (f->now.queued == 0 && !f->stop)
			pthread_cond_wait(&f->changed, &f->lock);
		if (f->now.queued == 0 || (f->stop && is_stuck(f)))
			break;
		if (f->now.failures && mono_now_ns() < f->again_mono_ns) {
			wait_until(f, f->again_mono_ns);
			continue;
		}
		if (store_first(f) && f->now.queued == 0 && !__atomic_load_n(&f->ending, __ATOMIC_ACQUIRE)) {
			pthread_mutex_unlock(&f->lock);
			retain(f);
			pthread_mutex_lock(&f->lock);
		}
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

int flush_start(struct flusher *f, struct store *s, const struct config *c, bool in_place)
{
	sigset_t all, old;
	int r;

	*f = (struct flusher){ .store = s, .config = c, .in_place = in_place };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	if (in_place)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&f->thread, NULL, flush_thread, f);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	f->running = r == 0;
	return r ? fail(-r, "the flusher thread: %s", strerror(r)) : 0;
}

void flush_again(struct flusher *f)
{
	if (!f->in_place || f->now.queued == 0)
		return;
	pthread_mutex_lock(&f->lock);
	while (f->now.queued && (f->now.failures == 0 || mono_now_ns() >= f->again_mono_ns) && store_first(f))
		;
	pthread_mutex_unlock(&f->lock);
}

bool flush_try_put(struct flusher *f, struct cut *c)
{
	bool room;

	pthread_mutex_lock(&f->lock);
	room = f->now.queued < FLUSH_QUEUE;
	if (room) {
		f->queue[(f->head + f->now.queued++) % FLUSH_QUEUE] = c;
		pthread_cond_broadcast(&f->changed);
	}
	pthread_mutex_unlock(&f->lock);
	flush_again(f);
	return room;
}

/* Whether no more than so many are left, or it is stuck. */
static bool wait_left(struct flusher *f, size_t most)
{
	bool done;

	pthread_mutex_lock(&f->lock);
	while (f->now.queued > most && !is_stuck(f)) {
		if (!f->in_place)
			pthread_cond_wait(&f->changed, &f->lock);
		else if (!store_first(f) && !is_stuck(f))
			wait_until(f, f->again_mono_ns);
	}
	done = f->now.queued <= most;
	pthread_mutex_unlock(&f->lock);
	return done;
}

struct flush_status flush_status(struct flusher *f)
{
	struct flush_status now;

	pthread_mutex_lock(&f->lock);
	now = f->now;
	pthread_mutex_unlock(&f->lock);
	return now;
}

void flush_failed(struct flusher *f, const char *why)
{
	pthread_mutex_lock(&f->lock);
	snprintf(f->now.error, sizeof f->now.error, "%s", why);
	pthread_mutex_unlock(&f->lock);
}

bool flush_wait_room(struct flusher *f) { return wait_left(f, FLUSH_QUEUE - 2); }
bool flush_wait(struct flusher *f) { return wait_left(f, 0); }

void flush_stop(struct flusher *f)
{
	if (f->running) {
		pthread_mutex_lock(&f->lock);
		f->stop = true;
		pthread_cond_broadcast(&f->changed);
		pthread_mutex_unlock(&f->lock);
		pthread_join(f->thread, NULL);
		f->running = false;
	}
	for (; f->now.queued; f->now.queued--, f->now.dropped++) {
		cut_free(f->queue[f->head]);
		f->head = (f->head + 1) % FLUSH_QUEUE;
	}
}
