/* Looking into /proc; see look.h.  On the collecting thread, at cuts. */
#include "engine/look.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/sample.h"
#include "engine/secrets.h"

static char *read_proc(uint32_t pid, const char *name, size_t *ret_n)
{
	char path[64];
	struct buf b = BUF_INIT;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	while (b.len < 65536 && (n = read(fd, buf_room(&b, 4096), 4096)) > 0)
		b.len += (size_t)n;
	close(fd);
	*ret_n = b.len;
	return buf_cstr(&b);
}

char *look_cmdline(const char *words, uint32_t pid, size_t *ret_len)
{
	size_t n = 0;
	_cleanup_free_ char *s = read_proc(pid, "cmdline", &n);
	struct buf line = BUF_INIT;
	const char *before = NULL;

	if (s == NULL)
		return NULL;
	while (n && (s[n - 1] == 0 || s[n - 1] == ' '))
		n--;
	s[n] = 0; /* read_proc() leaves room for it */
	for (size_t i = 0; i < n; i += strlen(s + i) + 1) {
		if (i)
			buf_byte(&line, ' ');
		secret_put(&line, words, before, s + i);
		before = s + i;
	}
	*ret_len = line.len;
	return buf_cstr(&line);
}

static bool parse_stat(const char *s, uint32_t *ppid, uint64_t *start, char comm[32], char *state, uint64_t *utime,
		       uint64_t *rss)
{
	const char *open = strchr(s, '('), *close = strrchr(s, ')');
	unsigned long long ut = 0, st = 0, begun = 0;
	long long pages = 0;
	unsigned parent = 0;
	size_t n;

	if (open == NULL || close == NULL || close < open)
		return false;
	n = (size_t)(close - open - 1);
	if (n > 31)
		n = 31;
	memcpy(comm, open + 1, n);
	comm[n] = 0;
	if (sscanf(close + 1, " %c %u %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu %*u %lld",
		   state, &parent, &ut, &st, &begun, &pages) != 6)
		return false;
	*ppid = parent;
	*start = begun;
	*utime = ut + st;
	*rss = (uint64_t)pages;
	return true;
}

bool look_stat(uint32_t pid, uint32_t *ret_ppid, uint64_t *ret_start, char comm[32], char *ret_state)
{
	size_t n;
	char *s = read_proc(pid, "stat", &n);
	uint64_t utime, rss;
	bool good = s && parse_stat(s, ret_ppid, ret_start, comm, ret_state, &utime, &rss);

	free(s);
	return good;
}

static char *read_link(uint32_t pid, const char *name, int fd, uint32_t *ret_n)
{
	char path[64], link[4096];
	ssize_t n;

	if (fd >= 0)
		snprintf(path, sizeof path, "/proc/%u/%s/%d", pid, name, fd);
	else
		snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
	n = readlink(path, link, sizeof link - 1);
	if (n < 0)
		return NULL;
	link[n] = 0;
	*ret_n = (uint32_t)n;
	return xmemdup(link, (size_t)n + 1);
}

/* The numbers in a folder of /proc, in the kernel's order, or -1. */
static ssize_t numbers(uint32_t pid, const char *name, int **ret)
{
	char path[64];
	struct dir d;
	size_t n = 0;

	snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
	*ret = NULL;
	if (!dir_open(&d, path))
		return -1;
	for (const char *entry; (entry = dir_next(&d));) {
		if ((n & (n - 1)) == 0)
			*ret = xrealloc(*ret, (n ? n * 2 : 16) * sizeof **ret);
		(*ret)[n++] = atoi(entry);
	}
	dir_close(&d);
	return (ssize_t)n;
}

static bool thread_ended(uint32_t pid, uint32_t tid)
{
	uint64_t start_ticks, utime, rss;
	char path[64], comm[32], state = 0, *s;
	uint32_t ppid;
	size_t n;
	bool gone;

	snprintf(path, sizeof path, "task/%u/stat", tid);
	s = read_proc(pid, path, &n);
	gone = !s || !parse_stat(s, &ppid, &start_ticks, comm, &state, &utime, &rss) || state == 'Z' || state == 'X';
	free(s);
	return gone;
}

/* The last field of a zombie's stat. */
static int exit_code_of(uint32_t pid)
{
	size_t n;
	char *s = read_proc(pid, "stat", &n), *last = s ? strrchr(s, ' ') : NULL;
	int code = last ? atoi(last + 1) : 0;

	free(s);
	return code;
}

bool look_is_last_thread(uint32_t pid, uint32_t tid, int *ret_status)
{
	int *list = NULL;
	ssize_t n;
	bool last = true;

	if (!thread_ended(pid, pid))
		return false;
	n = numbers(pid, "task", &list);
	for (ssize_t i = 0; i < n && last; i++)
		last = (uint32_t)list[i] == tid || thread_ended(pid, (uint32_t)list[i]);
	free(list);
	*ret_status = exit_code_of(pid);
	return last && n > 0;
}

static void thread_name(uint32_t pid, uint32_t tid, char out[32], uint32_t *ret_n)
{
	char path[64];
	size_t n = 0;
	char *s;

	snprintf(path, sizeof path, "task/%u/comm", tid);
	s = read_proc(pid, path, &n);
	if (n && s[n - 1] == '\n')
		n--;
	if (n > 31)
		n = 31;
	memcpy(out, s ? s : "", n);
	out[n] = 0;
	*ret_n = (uint32_t)n;
	free(s);
}

static uint64_t fd_changed_ns(struct collector *c, uint32_t pid, int fd)
{
	char suffix[24];

	snprintf(suffix, sizeof suffix, "/fd%d", fd);
	return model_changed_ns(c->model, pid, TABLE_RESOURCES, suffix);
}

static struct entity *known_fd(struct collector *c, uint32_t pid, int fd)
{
	char suffix[24];

	snprintf(suffix, sizeof suffix, "/fd%d", fd);
	return model_process_entity(c->model, pid, TABLE_RESOURCES, suffix);
}

/* The visitor has a ring file open while it maps it: that is not the target's. */
static bool is_ring(const struct collector *c, const char *link)
{
	size_t n = strlen(c->folder);

	return strncmp(link, c->folder, n) == 0 && link[n] == '/';
}

static void look_children(struct look *l)
{
	char name[64];
	size_t n;
	char *s, *at;

	for (size_t i = 0; i < l->nthreads; i++) {
		snprintf(name, sizeof name, "task/%u/children", l->threads[i].tid);
		s = read_proc(l->pid, name, &n);
		for (char *w = s ? strtok_r(s, " \n", &at) : NULL; w; w = strtok_r(NULL, " \n", &at)) {
			l->children = xrealloc(l->children, (l->nchildren + 1) * sizeof *l->children);
			l->children[l->nchildren++] = (uint32_t)atoi(w);
		}
		free(s);
	}
}

void look_begin(struct look *l, struct collector *c, uint32_t pid)
{
	char comm[32];
	uint32_t ppid, n;
	size_t len = 0;
	char *stat;
	int *list;
	ssize_t count;

	*l = (struct look){ .pid = pid, .since_ns = collect_under_way(c, pid) };
	count = numbers(pid, "fd", &list);
	l->gone = count < 0;
	l->fds = xcalloc(count > 0 ? (size_t)count : 0, sizeof *l->fds);
	for (ssize_t i = 0; i < count; i++) {
		struct look_fd *f = &l->fds[l->nfds];

		f->fd = list[i];
		f->link = read_link(pid, "fd", list[i], &f->link_len);
		if (f->link && !is_ring(c, f->link))
			l->nfds++;
		else
			free(f->link);
	}
	free(list);
	count = numbers(pid, "task", &list);
	l->threads = xcalloc(count > 0 ? (size_t)count : 0, sizeof *l->threads);
	for (ssize_t i = 0; i < count; i++) {
		struct look_thread *t = &l->threads[l->nthreads++];

		t->tid = (uint32_t)list[i];
		thread_name(pid, t->tid, t->name, &t->name_len);
	}
	free(list);
	l->cwd = read_link(pid, "cwd", -1, &n);
	l->cmdline = look_cmdline(c->secret_words, pid, &l->cmdline_len);
	stat = read_proc(pid, "stat", &len);
	if (stat)
		parse_stat(stat, &ppid, &l->start_ticks, comm, &l->state, &l->utime_ticks, &l->rss_pages);
	free(stat);
	look_children(l);
}

/* The second look: marks what is as it was. */
void look_agree(struct look *l, const struct collector *c)
{
	uint32_t n;
	size_t len = 0;
	char *s, name[32];
	int *list;
	ssize_t count;

	if (l->gone)
		return;
	count = numbers(l->pid, "fd", &list);
	l->fds_agreed = count == (ssize_t)l->nfds;
	for (size_t i = 0; i < l->nfds; i++) {
		struct look_fd *f = &l->fds[i];

		s = read_link(l->pid, "fd", f->fd, &n);
		f->agreed = s && n == f->link_len && memcmp(s, f->link, n) == 0;
		l->fds_agreed = l->fds_agreed && f->agreed;
		free(s);
	}
	free(list);
	count = numbers(l->pid, "task", &list);
	l->threads_agreed = count == (ssize_t)l->nthreads;
	for (size_t i = 0; i < l->nthreads; i++) {
		struct look_thread *t = &l->threads[i];

		thread_name(l->pid, t->tid, name, &n);
		t->agreed = n == t->name_len && memcmp(name, t->name, n) == 0;
		l->threads_agreed = l->threads_agreed && i < (size_t)(count > 0 ? count : 0) && (uint32_t)list[i] == t->tid;
	}
	free(list);
	s = read_link(l->pid, "cwd", -1, &n);
	l->cwd_agreed = s && l->cwd && strcmp(s, l->cwd) == 0;
	free(s);
	s = look_cmdline(c->secret_words, l->pid, &len);
	l->cmdline_agreed = s && l->cmdline && len == l->cmdline_len && memcmp(s, l->cmdline, len) == 0;
	free(s);
}

static bool text_equals(const struct value *v, const char *s, size_t n)
{
	return v && v->type == VALUE_STRING && v->n == n && memcmp(v->bytes, s, n) == 0;
}

static void proc_report(struct collector *c, uint64_t stamp, uint32_t pid, struct change ch)
{
	ch.stamp = stamp;
	ch.pid = pid;
	ch.source = SOURCE_PROC;
	collect_report(c, &ch);
}

/* Open descriptors that the model lacks or calls otherwise. */
static void report_open_fds(struct look *l, struct collector *c, uint64_t stamp)
{
	for (size_t i = 0; i < l->nfds; i++) {
		struct look_fd *f = &l->fds[i];
		struct entity *e = known_fd(c, l->pid, f->fd);
		const struct value *a = e ? value_get(&e->value, "allocation") : NULL;
		const struct value *source = a ? value_get(a, "pathSource") : NULL;

		if (!f->agreed || fd_changed_ns(c, l->pid, f->fd) >= l->since_ns)
			continue;
		if (e && a && text_equals(value_get(a, "path"), f->link, f->link_len) && text_equals(source, "proc", 4))
			continue;
		proc_report(c, stamp, l->pid, (struct change){ .kind = FD_OPENED, .has_fd = true, .fd = f->fd,
							       .name = BYTES(f->link, f->link_len) });
	}
}

/* Descriptors that the model has and the kernel has not. */
static void report_closed_fds(struct look *l, struct collector *c, uint64_t stamp)
{
	struct process *p = model_process(c->model, l->pid);
	struct entity *e, *next;

	for (e = p ? p->owned : NULL; e; e = next) {
		const struct value *a = e->table == TABLE_RESOURCES ? value_get(&e->value, "allocation") : NULL;
		const struct value *fd = a ? value_get(a, "fd") : NULL;
		bool open = false;

		next = e->owned_next;
		if (fd == NULL || fd->type != VALUE_INT || e->time_ns >= l->since_ns)
			continue;
		for (size_t i = 0; i < l->nfds && !open; i++)
			open = l->fds[i].fd == fd->integer;
		if (!open)
			proc_report(c, stamp, l->pid, (struct change){ .kind = FD_CLOSED, .has_fd = true, .fd = (int)fd->integer });
	}
}

/* A thread says that it ends a while before the kernel lets it go; only one
 * that started later is another with the same number. */
static bool began_after(struct collector *c, uint32_t pid, uint32_t tid, const struct value *ended_ms)
{
	const uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t start_ticks, utime, rss, age_ns;
	uint32_t ppid;
	char path[64], comm[32], state, *s;
	struct timespec boot;
	size_t n;
	bool good;

	snprintf(path, sizeof path, "task/%u/stat", tid);
	s = read_proc(pid, path, &n);
	good = s && parse_stat(s, &ppid, &start_ticks, comm, &state, &utime, &rss);
	free(s);
	if (!good || ended_ms == NULL || ended_ms->type != VALUE_DOUBLE)
		return false;
	clock_gettime(CLOCK_BOOTTIME, &boot);
	age_ns = (uint64_t)boot.tv_sec * 1000000000u + (uint64_t)boot.tv_nsec - start_ticks * tick_ns;
	return (double)clock_now(&c->clock) - ended_ms->real * 1e6 > (double)age_ns;
}

static void report_threads(struct look *l, struct collector *c, uint64_t stamp)
{
	struct process *p = model_process(c->model, l->pid);
	struct entity *e, *next;

	for (size_t i = 0; i < l->nthreads; i++) {
		struct look_thread *t = &l->threads[i];
		char suffix[24];
		const struct value *status;

		snprintf(suffix, sizeof suffix, "/t%u", t->tid);
		e = model_process_entity(c->model, l->pid, TABLE_AGENTS, suffix);
		status = e ? value_get(&e->value, "status") : NULL;
		if (e && e->time_ns >= l->since_ns)
			continue;
		if (text_equals(status, "terminated", 10) && !began_after(c, l->pid, t->tid, value_get(&e->value, "endedAt")))
			continue;
		if (e == NULL || text_equals(status, "terminated", 10))
			proc_report(c, stamp, l->pid, (struct change){ .kind = THREAD_BEGAN, .tid = t->tid });
		if (t->agreed && !(e && text_equals(value_get(&e->value, "name"), t->name, t->name_len)))
			proc_report(c, stamp, l->pid, (struct change){ .kind = THREAD_NAMED, .tid = t->tid,
								       .name = BYTES(t->name, t->name_len) });
	}
	for (e = p && l->threads_agreed ? p->owned : NULL; e; e = next) {
		const struct value *tid = e->table == TABLE_AGENTS ? value_get(&e->value, "tid") : NULL;
		bool there = false;

		next = e->owned_next;
		if (tid == NULL || tid->type != VALUE_INT || e->time_ns >= l->since_ns ||
		    text_equals(value_get(&e->value, "status"), "terminated", 10))
			continue;
		for (size_t i = 0; i < l->nthreads && !there; i++)
			there = l->threads[i].tid == tid->integer;
		if (!there)
			proc_report(c, stamp, l->pid, (struct change){ .kind = THREAD_ENDED, .tid = (uint32_t)tid->integer });
	}
}

static void report_texts(struct look *l, struct collector *c, uint64_t stamp)
{
	struct entity *cwd = model_process_entity(c->model, l->pid, TABLE_MEMORY, "/cwd");
	struct entity *title = model_process_entity(c->model, l->pid, TABLE_MEMORY, "/title");
	struct process *p = model_process(c->model, l->pid);
	const struct value *now = title ? value_get(&title->value, "value")
				  : p && p->agent ? value_get(&p->agent->value, "commandLine") : NULL;

	if (l->cwd_agreed && !(cwd && cwd->time_ns >= l->since_ns) &&
	    !(cwd && text_equals(value_get(&cwd->value, "value"), l->cwd, strlen(l->cwd))))
		proc_report(c, stamp, l->pid, (struct change){ .kind = CWD, .name = BYTES(l->cwd, strlen(l->cwd)) });
	if (l->cmdline_agreed && l->cmdline_len && !text_equals(now, l->cmdline, l->cmdline_len))
		proc_report(c, stamp, l->pid, (struct change){ .kind = TITLE, .value = BYTES(l->cmdline, l->cmdline_len) });
	if (p && p->agent && l->start_ticks && !value_get(&p->agent->value, "startTicks"))
		proc_report(c, stamp, l->pid, (struct change){ .kind = PROCESS_SEEN, .start_ticks = l->start_ticks });
}

/* Gauges of descriptors beyond the slot's, in a file of their own. */
static const struct gauge *more_gauges(const struct collector *c, struct lane *slot)
{
	const size_t n = MORE_GAUGES * sizeof(struct gauge);
	uint32_t serial = slot ? __atomic_load_n(&slot_gauges(slot)->more_serial, __ATOMIC_ACQUIRE) : 0;
	char path[400];
	struct stat st;
	void *p;
	int fd;

	if (serial == 0 || serial == UINT32_MAX)
		return NULL;
	snprintf(path, sizeof path, "%s/g.%u.0.%u", c->folder, slot->pid, serial);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return NULL;
	p = fstat(fd, &st) == 0 && st.st_size >= (off_t)n ? mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static void report_gauges(struct look *l, struct collector *c, uint64_t stamp)
{
	struct lane *slot = collect_gauges(c, l->pid);
	struct slot_gauges *g = slot ? slot_gauges(slot) : NULL;
	const struct gauge *more = more_gauges(c, slot);

	for (size_t i = 0; g && i < l->nfds; i++) {
		struct look_fd *f = &l->fds[i];
		struct entity *e = known_fd(c, l->pid, f->fd);
		const struct value *usage = e ? value_get(&e->value, "usage") : NULL;
		const struct value *calls = usage ? value_get(usage, "calls") : NULL;
		struct gauge now;

		if (calls == NULL)
			continue;
		if ((unsigned)f->fd < SLOT_GAUGES)
			now = g->fd[f->fd];
		else if (more && (unsigned)f->fd - SLOT_GAUGES < MORE_GAUGES)
			now = more[f->fd - (int)SLOT_GAUGES];
		else
			continue;
		if (now.calls == (uint64_t)calls->integer)
			continue;
		proc_report(c, stamp, l->pid, (struct change){ .kind = FD_GAUGE, .has_fd = true, .fd = f->fd,
							       .bytes_read = now.bytes_read,
							       .bytes_written = now.bytes_written, .calls = now.calls });
	}
	if (more)
		munmap((void *)more, MORE_GAUGES * sizeof(struct gauge));
}

static void metric(struct collector *c, uint64_t stamp, uint32_t pid, const char *name, double v)
{
	char key[64];
	int n = snprintf(key, sizeof key, "p%u/%s", pid, name);
	struct change ch = { .kind = METRIC, .stamp = stamp, .source = SOURCE_PROC, .name = BYTES(key, n), .real = v };

	collect_report(c, &ch);
}

void look_report(struct look *l, struct collector *c, uint64_t stamp)
{
	struct process *p = model_process(c->model, l->pid);

	if (l->gone || p == NULL || !p->alive)
		return;
	report_open_fds(l, c, stamp);
	if (l->fds_agreed)
		report_closed_fds(l, c, stamp);
	report_threads(l, c, stamp);
	report_texts(l, c, stamp);
	report_gauges(l, c, stamp);
	sample_heap(c, l->pid, stamp);
	metric(c, stamp, l->pid, "rss", (double)l->rss_pages * (double)sysconf(_SC_PAGESIZE));
	metric(c, stamp, l->pid, "cpu", (double)l->utime_ticks / (double)sysconf(_SC_CLK_TCK));
	metric(c, stamp, l->pid, "threads", (double)l->nthreads);
	metric(c, stamp, l->pid, "descriptors", (double)l->nfds);
}

void look_done(struct look *l)
{
	for (size_t i = 0; i < l->nfds; i++)
		free(l->fds[i].link);
	free(l->fds);
	free(l->threads);
	free(l->cwd);
	free(l->cmdline);
	free(l->children);
}
