/* What the import's files share: bytes from somewhere, and one snapshot on its way
 * in. */
#ifndef SNAPTRAIL_API_TRANSFER_H
#define SNAPTRAIL_API_TRANSFER_H

#include <stdio.h>
#include <zlib.h>

#include "base/digest.h"
#include "model/state_json.h"
#include "store/store.h"

/* ---- bytes ---- */

enum transfer_kind { TRANSFER_JSON, TRANSFER_GZIP, TRANSFER_BINARY };

struct transfer_source {
	int64_t (*read)(void *arg, void *p, size_t n);
	void *arg;
	uint64_t bytes;             /* that came from there */
	uint8_t peeked[8];
	size_t npeeked, at;         /* bytes that were looked at, and how many of them are given */
	z_stream z;                 /* gzip */
	uint8_t *packed;
	bool member_ended;          /* nothing but another gzip member may follow */
};

/* Looks at the first bytes; a negative errno when they cannot be read. */
int transfer_open(struct transfer_source *s);
void transfer_close(struct transfer_source *s);
/* The bytes as they come, and as they are inside gzip (TRANSFER_GZIP). */
int64_t transfer_read(void *source, void *p, size_t n);
int64_t transfer_inflate(void *source, void *p, size_t n);

/* ---- one snapshot ---- */

#define TRANSFER_ID_MAX 63u     /* bytes of an id that is kept */

struct incoming {
	struct value id, session, description, checksum; /* strings; absent */
	struct value tags;          /* a list of strings */
	int type;
	uint64_t time_ns, creation_ns, expires_ns, lost;
	bool has_time, has_type, has_state;
	struct model *state;        /* or NULL: `packed`, `changes` */
	struct buf packed;          /* the whole payload of a full snapshot, compressed; or empty */
	uint64_t size_bytes, agents, tasks, memory; /* of what is packed */
	struct value changes;       /* incrementalData of the original */
	char state_sum[DIGEST_TEXT], changes_sum[DIGEST_TEXT]; /* over the text as it stood; "" none */
	char wrong[200];            /* why it cannot be taken; "" nothing is */
};

/* The object that comes next.  What is amiss in it stands in ret->wrong; an error
 * is one of the text. */
int incoming_read(struct json_reader *r, struct incoming *ret);
void incoming_done(struct incoming *in);
/* Whether its checksum is that of its state, or of its incrementalData. */
bool incoming_sound(struct incoming *in);
/* The original's incrementalData onto the state of its base; false: no such thing. */
bool incoming_apply(const struct value *changes, struct model *m);

/* ---- snapshots that wait ---- */

struct aside {
	uint64_t bytes;              /* of states, as they are */
	FILE *f;
	uint64_t *places;           /* where in it each begins */
	size_t n;
};

/* Behind the others; the file is in `folder`, or for NULL in memory. */
int aside_put(struct aside *w, const char *folder, struct incoming *in);
/* The one that begins at `at`; false: it cannot be read back. */
bool aside_get(struct aside *w, uint64_t at, struct incoming *in);
void aside_done(struct aside *w);

#endif
