/* The recorder on a thread of a target: it shows itself, notices what the target
 * wishes, and leaves it; see report/host.h. */
#include "engine/recorder_internal.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/look.h"
#include "engine/sample.h"

#define ALONE_NS 50000000u       /* between two looks at the target's main thread */

/* Every other thread of the process has ended by a road that no hook saw: a raw
 * exit of main, which then waits as a zombie for us alone. */
static bool host_alone(struct recorder *r)
{
	struct host *h = r->o->host;
	uint64_t now = mono_now_ns();
	int status;

	if (now < r->alone_next_ns)
		return false;
	r->alone_next_ns = now + ALONE_NS;
	if (!look_is_last_thread(h->pid, h->tid, &status))
		return false;
	h->alone = h->has_status = true;
	h->status = status >> 8 & 0xff;
	return true;
}

uint32_t host_wish(struct recorder *r)
{
	struct host *h = r->o->host;

	if (h && h->wish == HOST_GO && host_alone(r))
		h->wish = HOST_FINISH;
	return r->o->host ? __atomic_load_n(&r->o->host->wish, __ATOMIC_ACQUIRE) : HOST_GO;
}

/* The target may begin: its board is there. */
void host_runs(struct host *h)
{
	__atomic_store_n(&h->state, HOST_RUNNING, __ATOMIC_RELEASE);
	syscall(SYS_futex, &h->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* In a target we are a thread of it, and say so once its process is known. */
void host_show_thread(struct recorder *r)
{
	const struct host *h = r->o->host;
	struct change c = { .kind = THREAD_BEGAN, .value = BYTES("recorder", 8) };

	if (h == NULL || !r->host_seen)
		return;
	r->host_seen = false;
	c.pid = h->pid;
	c.tid = h->tid;
	collect_report(&r->c, &c);
}

/* Others of the session live on when this process has ended. */
static bool host_others_live(const struct recorder *r)
{
	for (const struct followed *p = r->processes; p; p = p->next)
		if (p->exited_ns == 0 && p->pid != r->o->host->pid)
			return true;
	return false;
}

/* The target has ended but for its last system call: its status is known, and
 * what ended beside it is waited for no longer. */
static void host_ended(struct recorder *r)
{
	const struct host *h = r->o->host;
	struct change c = { .kind = PROCESS_ENDED, .pid = h->pid, .has_number = h->has_status,
			    .number = (h->status & 0xff) << 8 };

	follow_settle(r);
	follow_settle(r);
	for (struct followed *p = r->processes; p; p = p->next)
		if (p->exited_ns)
			follow_report_ended(r, p, false, 0);
	sample_heap(&r->c, h->pid, 0);
	if (!r->host_seen && r->o->command && (int)h->pid == r->root_pid)
		follow_report_unheard(r, h->pid, 0);
	collect_report(&r->c, &c);
	if ((int)h->pid == r->root_pid) {
		r->root_ended = h->has_status;
		r->root_status = (int)c.number;
	}
}

/* All that stands in the lanes: a process that ends reports no more. */
static void drain_out(struct recorder *r)
{
	double fill;

	while (collect_drain(&r->c, &fill) || stage_is_full(&r->c.stage)) {
		if (!stage_is_full(&r->c.stage))
			continue;
		collect_apply(&r->c);
		if (!cuts_make(r, ORIGIN_AUTOMATIC))
			return; /* the next command finds the rest in the rings */
	}
}

/* True when the session is over with this recorder. */
bool host_leaves(struct recorder *r)
{
	bool finish = host_wish(r) == HOST_FINISH;

	if (finish)
		drain_out(r);
	else
		cuts_drain_beyond(r, clock_now(&r->c.clock));
	if (finish && r->c.unread)
		return true; /* for the next command to read */
	collect_apply_all(&r->c);
	follow_known(r);
	follow_events(r);
	if (finish)
		host_ended(r);
	if (finish && !host_others_live(r))
		return true;
	collect_apply_all(&r->c);
	for (int i = 0; i < 10 && !cuts_make(r, ORIGIN_AUTOMATIC); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return false;
}
