/* The thread behind a handle, begun when there is something for it to do: it
 * stores the snapshots that were handed over for later, in their order, and
 * takes the automatic ones of sessions whose state the caller holds.
 *
 * Its own lock is never held while a callback runs or a snapshot is stored. */
#include "api/internal.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "engine/clock.h"

#define QUEUE_BYTES (512u << 20) /* beyond that handing over waits for the disk */

struct queued {
	struct queued *next;
	struct handed_snapshot h;
	char **tags;
	char *description, *foreign_id;
	unsigned flags;
};

struct timer {
	struct timer *next;
	char *session;
	uint64_t interval_ns, due_ns;
	struct snaptrail_state *(*state)(void *arg);
	void *arg;
	bool running, stopped;
	unsigned awaited;           /* by who stops it and looks at it again: it stays until then */
};

struct worker {
	struct snaptrail *st;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake, idle;
	struct queued *first, **last;
	size_t bytes;
	bool storing, ending;
	struct timer *timers;
	int failed;
	char why[400];
};

static void queued_free(struct queued *q)
{
	for (size_t i = 0; q->tags && q->tags[i]; i++)
		free(q->tags[i]);
	free(q->tags);
	free(q->description);
	free(q->foreign_id);
	handed_snapshot_done(&q->h);
	free(q);
}

/* ---- storing ---- */

/* Stores the first of the queue; with the lock, which it lets go of meanwhile.
 * Who waits for the queue does this too: the thread itself may be held up by
 * the very handle that the waiting one holds.  So nothing between the two
 * marks of `storing` asks for the handle. */
static void store_next(struct worker *w)
{
	struct queued *q = w->first;
	int r;

	w->storing = true;
	pthread_mutex_unlock(&w->lock);
	r = store_append(w->st->store, &q->h.m, q->h.payload.data, q->h.payload.len, q->flags);
	pthread_mutex_lock(&w->lock);
	w->first = q->next;
	if (w->first == NULL)
		w->last = &w->first;
	w->bytes -= q->h.payload.len;
	w->storing = false;
	if (r < 0 && w->failed == 0) {
		w->failed = r;
		snprintf(w->why, sizeof w->why, "%s", err_detail());
	}
	pthread_cond_broadcast(&w->idle);
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	if (r == 0)
		notify_created(w->st, &q->h.m);
	else
		notify_error(w->st, "snapshot_creation_failed", NULL, q->h.m.id, r);
	queued_free(q);
	pthread_mutex_lock(&w->lock);
}

/* ---- timers ---- */

static void run_timer(struct worker *w, struct timer *t)
{
	struct snaptrail_state *s = t->state(t->arg);

	if (s)
		handle_create_automatic(w->st, t->session, s);
}

static struct timer *due(struct worker *w, uint64_t now, uint64_t *ret_next)
{
	struct timer *first = NULL;

	for (struct timer *t = w->timers; t; t = t->next)
		if (!t->stopped && (first == NULL || t->due_ns < first->due_ns))
			first = t;
	*ret_next = first ? first->due_ns : UINT64_MAX;
	return first && first->due_ns <= now ? first : NULL;
}

/* Stopped ones go when they do not run; under the lock. */
static void sweep(struct worker *w)
{
	for (struct timer **at = &w->timers, *t; (t = *at);) {
		if (!t->stopped || t->running || t->awaited) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		free(t->session);
		free(t);
	}
}

/* ---- the thread ---- */

static void wait_until(struct worker *w, uint64_t mono_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(mono_ns / 1000000000u), .tv_nsec = (long)(mono_ns % 1000000000u) };

	if (mono_ns == UINT64_MAX)
		pthread_cond_wait(&w->wake, &w->lock);
	else
		pthread_cond_timedwait(&w->wake, &w->lock, &ts);
}

static void work_once(struct worker *w)
{
	uint64_t next;
	struct timer *t;

	if (w->first && !w->storing) {
		store_next(w);
		return;
	}
	t = due(w, mono_now_ns(), &next);
	if (t == NULL) {
		wait_until(w, next);
		return;
	}
	t->running = true;
	pthread_mutex_unlock(&w->lock);
	run_timer(w, t);
	pthread_mutex_lock(&w->lock);
	t->running = false;
	t->due_ns += t->interval_ns;
	if (t->due_ns < mono_now_ns()) /* it takes longer than that: no rush to catch up */
		t->due_ns = mono_now_ns() + t->interval_ns;
	sweep(w);
	pthread_cond_broadcast(&w->idle);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	pthread_mutex_lock(&w->lock);
	while (!w->ending || w->first || w->storing)
		work_once(w);
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int begin(struct snaptrail *st)
{
	struct worker *w;
	pthread_condattr_t attr;
	int r;
	HOLD(st);

	if (st->worker)
		return 0;
	w = xcalloc(1, sizeof *w);
	w->st = st;
	w->last = &w->first;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_cond_init(&w->idle, NULL);
	pthread_condattr_destroy(&attr);
	r = pthread_create(&w->thread, NULL, work, w);
	if (r) {
		free(w);
		return fail(-r, "a thread for the store: %s", strerror(r));
	}
	__atomic_store_n(&st->worker, w, __ATOMIC_RELEASE);
	return 0;
}

/* ---- what the handle asks ---- */

static char **copy_list(const char *const *list)
{
	size_t n = 0;
	char **copy;

	while (list && list[n])
		n++;
	copy = xcalloc(n + 1, sizeof *copy);
	for (size_t i = 0; i < n; i++)
		copy[i] = xstrdup(list[i]);
	return copy;
}

int worker_queue(struct snaptrail *st, struct handed_snapshot *h, unsigned flags)
{
	struct queued *q;
	struct worker *w;
	int r = begin(st);

	if (r < 0)
		return r;
	w = st->worker;
	q = xcalloc(1, sizeof *q);
	q->h = *h;
	q->flags = flags;
	q->tags = copy_list(h->m.tags);
	q->description = xstrdup(h->m.description);
	q->foreign_id = xstrdup(h->m.foreign_id);
	q->h.m.tags = (const char *const *)q->tags;
	q->h.m.description = q->description;
	q->h.m.foreign_id = q->foreign_id;
	h->payload = (struct buf)BUF_INIT;
	pthread_mutex_lock(&w->lock);
	while (w->bytes > QUEUE_BYTES && w->storing)
		pthread_cond_wait(&w->idle, &w->lock);
	w->bytes += q->h.payload.len;
	*w->last = q;
	w->last = &q->next;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

void worker_wait(struct snaptrail *st)
{
	struct worker *w = st->worker;

	if (w == NULL)
		return;
	pthread_mutex_lock(&w->lock);
	while (w->first) {
		if (w->storing)
			pthread_cond_wait(&w->idle, &w->lock);
		else
			store_next(w);
	}
	pthread_mutex_unlock(&w->lock);
}

int worker_settle(struct snaptrail *st)
{
	struct worker *w = st->worker;
	int r = 0;

	if (w == NULL)
		return 0;
	worker_wait(st);
	pthread_mutex_lock(&w->lock);
	if (w->failed)
		r = fail(w->failed, "%s", w->why);
	w->failed = 0;
	pthread_mutex_unlock(&w->lock);
	return r;
}

/* Without the handle, which what it waits for may need. */
bool worker_stop(struct snaptrail *st, const char *session)
{
	struct worker *w = __atomic_load_n(&st->worker, __ATOMIC_ACQUIRE);
	bool found = false;

	if (w == NULL)
		return false;
	pthread_mutex_lock(&w->lock);
	for (struct timer *t = w->timers; t; t = t->next) {
		if (t->stopped || strcmp(t->session, session))
			continue;
		t->stopped = found = true;
		t->awaited++;
		while (t->running && !held_here(st) && !pthread_equal(pthread_self(), w->thread))
			pthread_cond_wait(&w->idle, &w->lock);
		t->awaited--;
		break;
	}
	sweep(w);
	pthread_mutex_unlock(&w->lock);
	return found;
}

int worker_every(struct snaptrail *st, const char *session, uint64_t interval_ns, struct snaptrail_state *(*state)(void *arg),
		 void *arg)
{
	struct timer *t;
	int r = begin(st);

	if (r < 0)
		return r;
	worker_stop(st, session);
	t = xcalloc(1, sizeof *t);
	*t = (struct timer){ .session = xstrdup(session),
			     .interval_ns = interval_ns,
			     .due_ns = mono_now_ns() + interval_ns,
			     .state = state,
			     .arg = arg };
	pthread_mutex_lock(&st->worker->lock);
	t->next = st->worker->timers;
	st->worker->timers = t;
	pthread_cond_signal(&st->worker->wake);
	pthread_mutex_unlock(&st->worker->lock);
	return 0;
}

void worker_end(struct snaptrail *st)
{
	struct worker *w = st->worker;

	if (w == NULL)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	for (struct timer *t = w->timers; t; t = t->next)
		t->stopped = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	sweep(w);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->wake);
	pthread_cond_destroy(&w->idle);
	free(w);
	st->worker = NULL;
}
