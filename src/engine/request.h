/* Requests to a live session: a page in its folder, mapped by whoever records
 * it and by the command that asks.  No socket, and no descriptor in a target.
 *
 * One command at a time holds the page's lock (flock, so that a killed command
 * lets go).  It fills the page in, moves `asked`, rings the board's bell and
 * waits until `answered` has followed.  The file is 0600: the same user only,
 * whatever may write into the board. */
#ifndef SNAPTRAIL_ENGINE_REQUEST_H
#define SNAPTRAIL_ENGINE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/session.h"

#define REQUEST_MAGIC 0x31515152504e5331ull
#define REQUEST_BYTES 8192u
#define REQUEST_TEXT_BYTES 3072u
#define REQUEST_WAIT_NS 5000000000u

enum request_verb { REQUEST_SNAP = 1, REQUEST_AUTO_START, REQUEST_AUTO_STOP, REQUEST_FLUSH, REQUEST_STATS };

struct request_stats {
	uint64_t changes, coalesced, lost, voided, snapshots, dropped, queued;
	uint64_t processes, raw_bytes, stored_bytes, cpu_ns, interval_ns, watermark_ns;
};

struct request_page {
	uint64_t magic;
	uint32_t asked, answered;        /* `answered` is a futex word */
	/* the question */
	uint32_t verb;
	int32_t type;                    /* REQUEST_SNAP: enum snapshot_type, 0 as it comes */
	uint64_t interval_ns;            /* REQUEST_AUTO_START: 0 as configured */
	char tags[REQUEST_TEXT_BYTES];   /* each with its NUL, then an empty one */
	char description[REQUEST_TEXT_BYTES];
	/* the answer */
	int32_t result;                  /* 0 or a negative errno */
	char text[256];                  /* an id, or what went wrong */
	struct request_stats stats;
};
_Static_assert(sizeof(struct request_page) <= REQUEST_BYTES, "two pages");

/* Makes or opens the page of a session that this process records; NULL with
 * err_detail(). */
struct request_page *request_page_make(const struct session *s);
void request_page_free(struct request_page *p);
/* Is there a question?  The caller answers it with request_answer(). */
static inline bool request_waits(const struct request_page *p)
{
	return p && __atomic_load_n(&p->asked, __ATOMIC_ACQUIRE) != p->answered;
}
/* `text` NULL: none. */
void request_answer(struct request_page *p, int result, const char *text);
/* The tags of a question as a NULL-terminated list, owned by the caller. */
char **request_tags(const struct request_page *p);

/* Asks: the question's fields of *q are sent and its answer's filled in.
 * Returns the answer's result; -EBUSY when nobody answers within 5 s or the
 * session belongs to another user, with the holder in err_detail(). */
int request_ask(const struct session *s, struct request_page *q);

#endif
