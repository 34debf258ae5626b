/* Other namespaces' pids; see namespace.h. */
#include "engine/namespace.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/dir.h"
#include "model/value.h"
#include "report/change.h"

uint64_t namespace_here(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* The innermost of its numbers, if it has more than ours; 0 otherwise. */
static uint32_t innermost(const char *status_path)
{
	char text[4096];
	const char *at;
	uint32_t last = 0;
	unsigned count = 0;
	int fd = open(status_path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	at = strstr(text, "\nNSpid:");
	for (at = at ? at + 7 : NULL; at && (*at == '\t' || *at == ' '); count++) {
		char *end;

		last = (uint32_t)strtoul(at, &end, 10);
		at = end;
	}
	return count > 1 ? last : 0;
}

static bool is_process(uint32_t pid, uint64_t ns, uint32_t inner)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof path, "/proc/%u/status", pid);
	if (innermost(path) != inner)
		return false;
	snprintf(path, sizeof path, "/proc/%u/ns/pid", pid);
	return ns == UINT64_MAX || (stat(path, &st) == 0 && st.st_ino == ns);
}

/* The newest first: it has most likely just begun. */
static uint32_t find_process(uint64_t ns, uint32_t inner)
{
	uint32_t *all = NULL, found = 0;
	size_t n = 0;
	struct dir d;

	dir_open(&d, "/proc");
	for (const char *name; (name = dir_next(&d));) {
		if (*name < '1' || *name > '9')
			continue;
		if ((n & (n - 1)) == 0)
			all = xrealloc(all, (n ? n * 2 : 1) * sizeof *all);
		all[n++] = (uint32_t)strtoul(name, NULL, 10);
	}
	dir_close(&d);
	while (n-- > 0 && !found)
		if (is_process(all[n], ns, inner))
			found = all[n];
	free(all);
	return found;
}

uint32_t namespace_pid(struct namespaces *n, uint64_t ns, uint32_t inner)
{
	uint32_t pid;

	if (ns == 0 || inner == 0)
		return inner;
	for (size_t i = 0; i < n->n; i++)
		if (n->pids[i].ns == ns && n->pids[i].inner == inner)
			return n->pids[i].pid;
	pid = find_process(ns, inner);
	if (pid == 0)
		pid = NAMESPACE_UNKNOWN + n->unknown++;
	n->pids = xrealloc(n->pids, (n->n + 1) * sizeof *n->pids);
	n->pids[n->n++] = (struct namespace_pid){ ns, inner, pid };
	return pid;
}

uint32_t namespace_tid(uint32_t pid, uint32_t inner_pid, uint32_t inner_tid)
{
	char path[96];
	struct dir d;
	uint32_t found = 0;

	if (inner_tid == inner_pid || inner_tid == 0)
		return inner_tid ? pid : 0;
	snprintf(path, sizeof path, "/proc/%u/task", pid);
	dir_open(&d, path);
	for (const char *name; !found && (name = dir_next(&d));) {
		snprintf(path, sizeof path, "/proc/%u/task/%.20s/status", pid, name);
		if (innermost(path) == inner_tid)
			found = (uint32_t)strtoul(name, NULL, 10);
	}
	dir_close(&d);
	return found ? found : NAMESPACE_UNKNOWN + inner_tid;
}

void namespace_forget(struct namespaces *n, uint32_t pid)
{
	for (size_t i = n->n; i-- > 0;)
		if (n->pids[i].pid == pid)
			n->pids[i] = n->pids[--n->n];
}

void namespace_translate(struct namespaces *n, uint64_t ns, uint32_t inner_pid, const uint8_t *change, size_t len,
			 struct buf *out)
{
	size_t pos = 0, before = 0;
	struct wire w;

	while (wire_next(change, len, &pos, &w) > 0) {
		if (w.type == 0 && (w.field == 6 || w.field == 22))
			pack_uint(out, w.field, namespace_pid(n, ns, (uint32_t)w.u));
		else if (w.type == 0 && w.field == 10)
			pack_uint(out, 10, namespace_tid(namespace_pid(n, ns, inner_pid), inner_pid, (uint32_t)w.u));
		else
			buf_put(out, change + before, pos - before);
		before = pos;
	}
}

void namespaces_done(struct namespaces *n)
{
	free(n->pids);
	*n = (struct namespaces){ 0 };
}
