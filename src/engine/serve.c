/* What commands ask of a live session; see request.h. */
#include "engine/recorder_internal.h"

#include <errno.h>
#include <time.h>

#include "base/err.h"

#define INTERVAL_NS 30000000000u /* of automatic snapshots that were off in the configuration */

static int stored(struct recorder *r) { return flush_wait(&r->f) ? 0 : fail(-EIO, "%s", flush_status(&r->f).error); }

/* A snapshot of now, looked around for; answered when it is stored. */
static int snap(struct recorder *r, const struct request_page *q, char id[17])
{
	struct wish w = { .origin = ORIGIN_MANUAL, .type = q->type, .tags = request_tags(q) };
	uint64_t give_up = mono_now_ns() + 2000000000u;
	struct flush_status now;
	bool done;

	w.description = xmemdup(q->description, strnlen(q->description, REQUEST_TEXT_BYTES) + 1);
	w.description[strnlen(q->description, REQUEST_TEXT_BYTES - 1)] = 0;
	r->started = true;
	do
		done = flush_wait(&r->f) && cuts_here(r, &w, cuts_look_around(r));
	while (!done && flush_status(&r->f).failures == 0 && mono_now_ns() < give_up);
	now = flush_status(&r->f);
	if (!done) {
		for (char **t = w.tags; *t; t++)
			free(*t);
		free(w.tags);
		free(w.description);
		return fail(-EIO, "%s", now.failures ? now.error : "a call under way holds the snapshot back");
	}
	memcpy(id, r->last_id, 17);
	return stored(r);
}

static void count_up(struct recorder *r, struct request_stats *s)
{
	struct flush_status f = flush_status(&r->f);
	struct timespec cpu;

	clock_gettime(r->o->host ? CLOCK_THREAD_CPUTIME_ID : CLOCK_PROCESS_CPUTIME_ID, &cpu);
	*s = (struct request_stats){
		.changes = r->c.changes, .coalesced = r->c.coalesced, .lost = r->c.lost, .voided = r->c.voided,
		.snapshots = f.stored, .dropped = f.dropped, .queued = f.queued, .processes = follow_living(r),
		.raw_bytes = f.raw_bytes, .stored_bytes = f.stored_bytes, .interval_ns = r->interval_ns,
		.watermark_ns = r->c.watermark_ns,
		.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
	};
}

static void automatic_set(struct recorder *r, uint64_t interval_ns)
{
	r->interval_ns = interval_ns;
	r->next_cut_mono_ns = mono_now_ns() + interval_ns;
}

void requests_serve(struct recorder *r)
{
	struct request_page *q = r->requests;
	uint64_t usual = r->o->config->interval_ns;
	char id[17] = "";
	int e = 0;

	if (!request_waits(q))
		return;
	switch (q->verb) {
	case REQUEST_SNAP:
		e = snap(r, q, id);
		break;
	case REQUEST_AUTO_START:
		automatic_set(r, q->interval_ns ? q->interval_ns : usual ? usual : INTERVAL_NS);
		break;
	case REQUEST_AUTO_STOP:
		automatic_set(r, 0);
		break;
	case REQUEST_FLUSH:
		e = stored(r);
		if (e == 0)
			e = store_sync(r->o->store);
		break;
	case REQUEST_STATS:
		break;
	default:
		e = fail(-EPROTO, "the recorder does not know request %u", q->verb);
	}
	count_up(r, &q->stats);
	request_answer(q, e, e < 0 ? err_detail() : id);
}
