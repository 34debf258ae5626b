/* Snapshots on their way from one store to another: the bytes of a sealed segment
 * as a stream.  A session begins, its snapshots follow, each whole by itself, and
 * the session ends: a stream without that end is cut short.
 *
 * Nothing here touches a store; one thread a stream. */
#ifndef SNAPTRAIL_STORE_CARRY_H
#define SNAPTRAIL_STORE_CARRY_H

#include "store/segment.h"
#include "store/store.h"

struct carry_writer {
	int (*write)(void *arg, const void *p, size_t n); /* negative: stop */
	void *arg;
	uint64_t file_id;
};

/* Header and session. */
int carry_begin(struct carry_writer *w, const struct session_meta *m);
/* The payload stands alone: the snapshot goes without its base. */
int carry_put(struct carry_writer *w, const struct snapshot_meta *m, const void *payload, size_t n);
int carry_end(struct carry_writer *w, const struct session_meta *m);

struct carry_reader {
	int64_t (*read)(void *arg, void *p, size_t n);
	void *arg;
	uint64_t at, file_id;
	bool ended;                    /* the session's end was met */
	char session[256];             /* its name */
	struct buf body;
};
struct carried {
	struct snapshot_meta m;        /* its strings are in `owner` */
	void *owner;
	struct buf payload;            /* as it was handed in */
	struct buf packed;             /* the same compressed, or empty */
	bool damaged;                  /* what it holds is not what was written: m has its id alone */
};
void carried_done(struct carried *c);

/* The header.  -EBADMSG it is none, -EPROTO a newer one. */
int carry_open(struct carry_reader *r);
/* 1 a snapshot, 0 the end; -EBADMSG where nothing more can be read. */
int carry_next(struct carry_reader *r, struct carried *ret);
void carry_close(struct carry_reader *r);

#endif
