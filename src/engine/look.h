/* A look at a process in /proc, and what it says that the model does not know.
 *
 * A fact read from /proc is believed only when two looks agree and no fact of
 * that key is younger than `since_ns`: look_begin() takes the first look,
 * look_agree() the second, and look_report() reports what still differs from
 * the model once everything stamped before the second look has been applied.
 *
 * since_ns is when the first look began, or the stamp of a call that was under
 * way then and is reported ahead of its effect (close, dup2): the kernel may
 * have shown what was before it. */
#ifndef SNAPTRAIL_ENGINE_LOOK_H
#define SNAPTRAIL_ENGINE_LOOK_H

#include "engine/collect.h"

struct look_fd {
	int fd;
	bool agreed;
	uint32_t link_len;
	char *link;
};

struct look_thread {
	uint32_t tid;
	bool agreed;
	uint32_t name_len;
	char name[32];
};

struct look {
	uint32_t pid;
	uint64_t since_ns;
	struct look_fd *fds;
	size_t nfds;
	struct look_thread *threads;
	size_t nthreads;
	char *cwd, *cmdline;
	size_t cmdline_len;
	bool cwd_agreed, cmdline_agreed, fds_agreed, threads_agreed, gone;
	uint64_t start_ticks, utime_ticks, rss_pages;
	char state;
	uint32_t *children;
	size_t nchildren;
};

void look_begin(struct look *l, struct collector *c, uint32_t pid);
void look_agree(struct look *l, const struct collector *c);
/* Reports differences as Changes of source PROC, stamped `stamp`. */
void look_report(struct look *l, struct collector *c, uint64_t stamp);
void look_done(struct look *l);

/* Parent and start of a process; false when it is gone. */
bool look_stat(uint32_t pid, uint32_t *ret_ppid, uint64_t *ret_start_ticks, char ret_comm[32], char *ret_state);
/* Every thread of `pid` but `tid` has ended, the first one with *ret_status (a
 * wait status); cheap while that one lives. */
bool look_is_last_thread(uint32_t pid, uint32_t tid, int *ret_status);
/* The command line with spaces for NULs and without secrets, malloc'd; NULL when gone. */
char *look_cmdline(const char *secret_words, uint32_t pid, size_t *ret_len);

#endif
