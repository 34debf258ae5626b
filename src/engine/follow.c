/* Following the session's processes by their pidfds, and what `run` says of the
 * first one; see recorder_internal.h. */
#include "engine/recorder_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/look.h"
#include "engine/prepare.h"
#include "engine/sample.h"

#define ENDED_WAIT_NS 100000000u /* how long a parent's wait may still tell how it ended */
#define POLL_NS 20000000u        /* between looks at processes without pidfds */

/* How a process ended, from the kernel (6.15 and later); the header of Debian
 * 12 does not have it. */
struct pidfd_info_exit {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
	uint32_t more[8];
};
#define PIDFD_GET_INFO_EXIT _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64)
#define PIDFD_INFO_EXIT_BIT 8u

struct followed *followed_find(struct recorder *r, uint32_t pid)
{
	struct followed *p = r->processes;

	while (p && p->pid != pid)
		p = p->next;
	return p;
}

static void follow_exited(struct recorder *r, struct followed *p)
{
	if (p->exited_ns == 0) {
		p->exited_stamp = clock_stamp(&r->c.clock);
		p->exited_ns = clock_time(&r->c.clock, p->exited_stamp);
	}
}

static void follow_forget(struct recorder *r, struct followed *p)
{
	struct followed **at = &r->processes;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	if (p->pidfd >= 0)
		close(p->pidfd);
	free(p);
}

struct followed *follow(struct recorder *r, uint32_t pid)
{
	struct followed *p = followed_find(r, pid);
	struct epoll_event e = { .events = EPOLLIN };

	if (p && p->exited_ns) { /* the pid is another process now */
		follow_forget(r, p);
		p = NULL;
	}
	if (p)
		return p;
	p = xcalloc(1, sizeof *p);
	p->pid = pid;
	p->next = r->processes;
	r->processes = p;
	p->pidfd = -1;
	if (r->o->host && pid == r->o->host->pid)
		return p; /* we end with it */
	if (!r->no_pidfd) {
		p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		r->no_pidfd = p->pidfd < 0 && errno == ENOSYS;
	}
	if (r->no_pidfd) /* under valgrind, or an old kernel */
		return p;
	e.data.ptr = p;
	if (p->pidfd < 0 && errno == ESRCH)
		follow_exited(r, p);
	if (p->pidfd >= 0 && epoll_ctl(r->epoll, EPOLL_CTL_ADD, p->pidfd, &e) < 0) {
		close(p->pidfd);
		p->pidfd = -1;
	}
	return p;
}

void follow_seen(void *arg, uint32_t pid)
{
	struct recorder *r = arg;

	if (pid) {
		struct followed *p = follow(r, pid);

		p->uninjected = false;
		r->uninjected -= p->counted; /* it was seen while its program was being loaded */
		p->counted = false;
	}
	if (r->o->host && pid == r->o->host->pid)
		r->host_seen = true;
}

static bool kernel_status(const struct followed *p, int *ret_status)
{
	struct pidfd_info_exit info = { .mask = PIDFD_INFO_EXIT_BIT };

	if (p->pidfd < 0 || ioctl(p->pidfd, PIDFD_GET_INFO_EXIT, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT_BIT))
		return false;
	*ret_status = info.exit_code;
	return true;
}

void follow_report_ended(struct recorder *r, struct followed *p, bool known, int status)
{
	struct change c = { .kind = PROCESS_ENDED, .stamp = p->exited_stamp, .pid = p->pid, .has_number = known,
			    .number = status };

	collect_report(&r->c, &c);
}

/* Its visitor could not begin; that it was there is known all the same. */
void follow_report_unheard(struct recorder *r, uint32_t pid, uint64_t stamp)
{
	_cleanup_free_ char *line = prepare_command_line(r->o->config, r->o->command);
	const char *slash = strrchr(r->o->command[0], '/'), *name = slash ? slash + 1 : r->o->command[0];
	struct change c = { .kind = PROCESS_UNINJECTED, .stamp = stamp, .pid = pid, .source = SOURCE_PROC,
			    .name = BYTES(name, strlen(name)), .value = BYTES(line, strlen(line)) };

	collect_report(&r->c, &c);
	r->uninjected++;
}

/* A process that ended: when its lanes are empty, say so once, with its status
 * if anyone knows it.  True when it can be forgotten. */
static bool settle_exited(struct recorder *r, struct followed *p)
{
	struct process *m = model_process(r->c.model, p->pid);
	uint64_t now = clock_now(&r->c.clock);
	int status = 0;
	bool known = false;

	if (r->c.unread) /* what it said last may stand there */
		return false;
	if (!p->drained) { /* one whole round after its end takes all that it wrote */
		p->drained = true;
		return false;
	}
	sample_heap(&r->c, p->pid, 0); /* the last there will be */
	collect_process_gone(&r->c, p->pid);
	if (collect_lanes(&r->c, p->pid))
		return false; /* a big lane takes more than one round */
	if ((int)p->pid == r->root_pid && r->root_ended) {
		known = true;
		status = r->root_status;
	} else if (kernel_status(p, &status)) {
		known = true;
		if ((int)p->pid == r->root_pid) {
			r->root_ended = true;
			r->root_status = status;
		}
	} else if (!(m && !m->alive) && now - p->exited_ns < ENDED_WAIT_NS && !p->hung_up) {
		return false;
	} else if ((int)p->pid == r->root_pid && !r->root_ended && !r->front_gone) {
		return false;
	}
	if (m == NULL && r->o->command && (int)p->pid == r->root_pid)
		follow_report_unheard(r, p->pid, p->exited_stamp);
	/* Its parent may have said so, and what is added would be a second end, of another instant. */
	if (known ? !model_end_known(r->c.model, p->pid) : !(m && !m->alive))
		follow_report_ended(r, p, known, status);
	return true;
}

/* Each process that the state says lives is followed, if it still does: also a
 * forked one that has not run yet and has no lane. */
void follow_known(struct recorder *r)
{
	for (const struct entity *e = model_first(r->c.model, TABLE_AGENTS); e; e = e->next)
		if (e->owner && e->owner->alive && e->owner->agent == e)
			follow(r, e->owner->pid);
}

uint32_t follow_living(const struct recorder *r)
{
	uint32_t n = 0;

	for (const struct followed *p = r->processes; p; p = p->next)
		n += p->exited_ns == 0;
	return n;
}

void follow_settle(struct recorder *r)
{
	struct followed *p, *next;

	for (p = r->processes; p; p = next) {
		next = p->next;
		if (p->exited_ns && settle_exited(r, p))
			follow_forget(r, p);
	}
}

/* A process that no visitor reports: what /proc says of it.  It was silent at `stamp` (0:
 * now); what it reports of later wins. */
void follow_report_uninjected(struct recorder *r, uint32_t pid, uint32_t parent, uint64_t stamp)
{
	struct followed *p = follow(r, pid);
	char comm[32] = "", state = 0;
	uint32_t ppid = 0;
	uint64_t start = 0;
	size_t n = 0;
	char *line;

	if (!look_stat(pid, &ppid, &start, comm, &state) || (parent && ppid != parent))
		return;
	line = look_cmdline(r->c.secret_words, pid, &n);
	struct change c = { .kind = PROCESS_UNINJECTED, .stamp = stamp, .pid = pid, .ppid = ppid, .source = SOURCE_PROC,
			    .name = BYTES(comm, strlen(comm)), .value = BYTES(line, n), .start_ticks = start };

	collect_report(&r->c, &c);
	r->uninjected += !p->counted;
	p->counted = true;
	free(line);
}

/* ---- messages from `run` ---- */

static void on_control(struct recorder *r)
{
	struct control m;
	ssize_t n = recv(r->control, &m, sizeof m, MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		epoll_ctl(r->epoll, EPOLL_CTL_DEL, r->control, NULL);
		close(r->control);
		r->control = -1;
		r->front_gone = true;
		r->gone_mono_ns = mono_now_ns();
		return;
	}
	if (n != sizeof m)
		return;
	if (m.type == CONTROL_STARTED) {
		r->root_pid = m.pid;
		r->root_known = true;
		r->wait_all = m.wait;
		session_set_pids(r->o->session, (int)getpid(), m.pid);
		follow(r, (uint32_t)m.pid)->uninjected = m.uninjected;
		if (m.uninjected)
			follow_report_uninjected(r, (uint32_t)m.pid, 0, 0);
	} else if (m.type == CONTROL_ENDED) {
		struct followed *p = followed_find(r, (uint32_t)m.pid);

		r->root_ended = true;
		r->root_status = m.status;
		r->root_cpu_ns = m.cpu_ns;
		if (p)
			follow_exited(r, p);
	}
}

/* What epoll tells of those that have pidfds: more of them may live than we may have open. */
static void poll_processes(struct recorder *r)
{
	uint64_t now = mono_now_ns();

	if (now < r->poll_next_ns)
		return;
	r->poll_next_ns = now + POLL_NS;
	for (struct followed *p = r->processes; p; p = p->next) {
		char comm[32], state = 0;
		uint32_t ppid;
		uint64_t start;

		if (p->exited_ns || p->pidfd >= 0 || (r->o->host && p->pid == r->o->host->pid))
			continue;
		if ((kill((pid_t)p->pid, 0) < 0 && errno == ESRCH) ||
		    (look_stat(p->pid, &ppid, &start, comm, &state) && (state == 'Z' || state == 'X')))
			follow_exited(r, p);
	}
}

void follow_events(struct recorder *r)
{
	struct epoll_event e[32];
	int n = epoll_wait(r->epoll, e, 32, 0);
	bool control = false;

	poll_processes(r);

	for (int i = 0; i < n; i++) {
		struct followed *p = e[i].data.ptr;

		if (p == NULL) {
			control = true;
			continue;
		}
		follow_exited(r, p);
		p->hung_up = e[i].events & EPOLLHUP;
		if (p->hung_up) {
			epoll_ctl(r->epoll, EPOLL_CTL_DEL, p->pidfd, NULL);
		} else { /* a zombie: wake again only for the reaping */
			struct epoll_event again = { .events = EPOLLHUP | EPOLLET, .data.ptr = p };

			epoll_ctl(r->epoll, EPOLL_CTL_MOD, p->pidfd, &again);
		}
	}
	if (control) /* may forget a process that another event is of */
		on_control(r);
}
