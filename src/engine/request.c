/* Both ends of the request page; see request.h. */
#include "engine/request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"

static struct request_page *page_map(int fd)
{
	struct request_page *p = mmap(NULL, REQUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void page_path(const struct session *s, char out[320]) { snprintf(out, 320, "%s/requests", s->folder); }

/* Under its name only when it is whole. */
static int page_create(const char *path)
{
	char making[340];
	int fd, r;

	snprintf(making, sizeof making, "%s.making", path);
	unlink(making);
	fd = open(making, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	r = posix_fallocate(fd, 0, REQUEST_BYTES);
	if (r == 0 && rename(making, path) == 0)
		return fd;
	errno = r ? r : errno;
	close(fd);
	return -1;
}

struct request_page *request_page_make(const struct session *s)
{
	struct request_page *p = NULL;
	char path[320];
	int fd;

	page_path(s, path);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		fd = page_create(path);
	if (fd >= 0)
		p = page_map(fd);
	if (p == NULL)
		fail(-errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	if (p == NULL)
		return NULL;
	/* What was asked of a recorder that is gone is nobody's question now. */
	__atomic_store_n(&p->answered, p->asked, __ATOMIC_RELEASE);
	__atomic_store_n(&p->magic, REQUEST_MAGIC, __ATOMIC_RELEASE);
	return p;
}

void request_page_free(struct request_page *p)
{
	if (p)
		munmap(p, REQUEST_BYTES);
}

static void wake(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

void request_answer(struct request_page *p, int result, const char *text)
{
	p->result = result;
	snprintf(p->text, sizeof p->text, "%s", text ? text : "");
	__atomic_store_n(&p->answered, p->asked, __ATOMIC_RELEASE);
	wake(&p->answered);
}

char **request_tags(const struct request_page *p)
{
	size_t n = 0, at = 0;
	char **tags = NULL;

	/* The page may be written by others at any time: nothing beyond it is read. */
	for (;;) {
		size_t len = strnlen(p->tags + at, REQUEST_TEXT_BYTES - at);

		tags = xrealloc(tags, (n + 1) * sizeof *tags);
		tags[n] = NULL;
		if (len == 0 || at + len >= REQUEST_TEXT_BYTES)
			return tags;
		tags[n] = xmemdup(p->tags + at, len + 1);
		tags[n++][len] = 0;
		at += len + 1;
	}
}

/* ---- the one who asks ---- */

static int unanswered(const struct session *s, const char *what)
{
	int pid = session_recorder_pid(s), fd;
	char path[64], comm[32] = "?";
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, comm, sizeof comm - 1);
	if (fd >= 0)
		close(fd);
	if (n > 0)
		comm[n - 1] = 0;
	return fail(-EBUSY, "%s: its recorder is %s, pid %d", what, comm, pid);
}

/* A recorder that has just begun has its lease before its page. */
static int open_within(const char *path, uint64_t until_ns)
{
	int fd;

	while ((fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)) < 0 && errno == ENOENT && mono_now_ns() < until_ns)
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	return fd;
}

static int page_open(const struct session *s, uint64_t until_ns, int *ret_fd, struct request_page **ret)
{
	char path[320];
	struct stat st;
	int fd;

	page_path(s, path);
	fd = open_within(path, until_ns);
	if (fd < 0 && errno == EACCES)
		return unanswered(s, "the session belongs to another user");
	if (fd < 0)
		return unanswered(s, "the session takes no requests");
	if (fstat(fd, &st) < 0 || st.st_size < (off_t)REQUEST_BYTES || st.st_uid != geteuid()) {
		close(fd);
		return unanswered(s, st.st_uid != geteuid() ? "the session belongs to another user" : "the session takes no requests");
	}
	*ret = page_map(fd);
	*ret_fd = fd;
	while (*ret && __atomic_load_n(&(*ret)->magic, __ATOMIC_ACQUIRE) == 0 && mono_now_ns() < until_ns)
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	if (*ret && (*ret)->magic == REQUEST_MAGIC)
		return 0;
	request_page_free(*ret);
	close(fd);
	return unanswered(s, "the session takes no requests");
}

/* The page's lock, in turn with other commands. */
static bool lock_within(int fd, uint64_t until_ns)
{
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (mono_now_ns() > until_ns)
			return false;
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	return true;
}

static bool answer_within(struct board *b, struct request_page *p, uint32_t asked, uint64_t until_ns)
{
	for (;;) {
		uint32_t seen = __atomic_load_n(&p->answered, __ATOMIC_ACQUIRE);
		struct timespec ts = { .tv_nsec = 20000000 };

		if (seen == asked)
			return true;
		if (mono_now_ns() > until_ns)
			return false;
		__atomic_add_fetch(&b->bell, 1, __ATOMIC_RELEASE);
		wake(&b->bell);
		syscall(SYS_futex, &p->answered, FUTEX_WAIT, seen, &ts, NULL, 0);
	}
}

int request_ask(const struct session *s, struct request_page *q)
{
	uint64_t until = mono_now_ns() + REQUEST_WAIT_NS;
	struct request_page *p;
	uint32_t asked;
	int fd, r;

	r = page_open(s, until, &fd, &p);
	if (r < 0)
		return r;
	if (!lock_within(fd, until)) {
		r = unanswered(s, "other requests go before this one");
		goto out;
	}
	p->verb = q->verb;
	p->type = q->type;
	p->interval_ns = q->interval_ns;
	memcpy(p->tags, q->tags, sizeof p->tags);
	memcpy(p->description, q->description, sizeof p->description);
	asked = p->asked + 1;
	__atomic_store_n(&p->asked, asked, __ATOMIC_RELEASE);
	if (!answer_within(s->board, p, asked, until)) {
		__atomic_store_n(&p->asked, __atomic_load_n(&p->answered, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE); /* withdrawn */
		r = unanswered(s, "no answer within 5 s");
		goto out;
	}
	memcpy(q, p, sizeof *q);
	q->text[sizeof q->text - 1] = 0;
	r = q->result < 0 ? fail(q->result, "%s", q->text) : 0;
out:
	request_page_free(p);
	close(fd);
	return r;
}
