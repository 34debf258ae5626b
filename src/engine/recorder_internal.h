/* What the recorder's files share, and feed.c with them: follow.c (processes and messages), cuts.c
 * (looks and snapshots), serve.c (requests), leave.c (in a target), recorder.c
 * (the loop).  All of it is the collecting thread's. */
#ifndef SNAPTRAIL_ENGINE_RECORDER_INTERNAL_H
#define SNAPTRAIL_ENGINE_RECORDER_INTERNAL_H

#include "engine/recorder.h"
#include "engine/request.h"
#include "engine/wanted.h"

struct followed {
	struct followed *next;
	uint32_t pid;
	int pidfd;
	uint64_t exited_ns;      /* 0: lives */
	uint64_t exited_stamp;
	bool drained, hung_up;
	bool uninjected;
	bool counted;            /* among the recorder's uninjected */
};

struct recorder {
	const struct recorder_options *o;
	struct collector c;
	struct flusher f;
	struct followed *processes;
	int epoll, control;
	int root_pid, root_status;
	bool root_known, root_ended, front_gone, wait_all, answered, started;
	uint64_t root_cpu_ns, began_mono_ns;
	uint64_t next_cut_mono_ns, last_cut_ns, sealed_ns, changes_at_cut;
	uint64_t full_mono_ns, full_bytes, since_full_bytes;
	uint64_t interval_ns;    /* of automatic snapshots, 0 none */
	struct request_page *requests;
	uint64_t alone_next_ns, poll_next_ns;
	uint64_t gone_mono_ns;   /* when `run` was gone */
	bool no_pidfd;           /* this kernel has none */
	bool fed;                /* by feed.c: no lanes, and the watermark is the only clock */
	bool host_seen;          /* our own process has reported its beginning */
	char last_id[17];
	uint32_t uninjected;
	struct wanted wanted;    /* snapshots that programs asked for */
	char secret_words[BOARD_WORDS_BYTES];
};

/* ---- follow.c ---- */

struct followed *followed_find(struct recorder *r, uint32_t pid);
struct followed *follow(struct recorder *r, uint32_t pid);
void follow_seen(void *arg, uint32_t pid);
void follow_report_ended(struct recorder *r, struct followed *p, bool known, int status);
/* Those that the state says live. */
void follow_known(struct recorder *r);
uint32_t follow_living(const struct recorder *r);
void follow_settle(struct recorder *r);
/* The first process had not said a word; stamp 0: now. */
void follow_report_unheard(struct recorder *r, uint32_t pid, uint64_t stamp);
void follow_report_uninjected(struct recorder *r, uint32_t pid, uint32_t parent, uint64_t stamp);
void follow_events(struct recorder *r);

/* ---- cuts.c ---- */

/* What a snapshot is to be; tags and description are taken over by cut(). */
struct wish {
	int origin;
	int type;                /* enum snapshot_type, 0 as it comes */
	char **tags;
	char *description;
};

bool cuts_drain_beyond(struct recorder *r, uint64_t time_ns);
uint64_t cuts_look_around(struct recorder *r);
void cuts_own_metrics(struct recorder *r, uint64_t stamp);
/* False when the flusher is behind: the stage goes on and the cut comes later. */
bool cuts_as(struct recorder *r, const struct wish *w);
bool cuts_make(struct recorder *r, int origin);
/* At the instant that everything has been applied up to. */
bool cuts_here(struct recorder *r, const struct wish *w, uint64_t stamp);
void cuts_on_wanted(void *arg, uint64_t time_ns, const struct change *wish);
void cuts_wanted(struct recorder *r);
void cuts_automatic(struct recorder *r);

/* ---- serve.c ---- */

void requests_serve(struct recorder *r);

/* ---- leave.c ---- */

uint32_t host_wish(struct recorder *r);
void host_runs(struct host *h);
void host_show_thread(struct recorder *r);
/* True when the session is over with this recorder. */
bool host_leaves(struct recorder *r);

#endif
