/* Segments: append-only files of records; doc/format.md has the bytes.
 *
 * One writer a segment, which holds its flock; every opening of a store for
 * writing begins a new one, so a torn tail is never appended to.  A record is
 * written body first and header last: what a killed writer leaves behind the
 * last whole record has no header and is a torn tail. */
#ifndef SNAPTRAIL_STORE_SEGMENT_H
#define SNAPTRAIL_STORE_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define SEGMENT_MAGIC "SNAPTRL1"
#define SEGMENT_VERSION 1u
#define SEGMENT_HEADER_BYTES 64u
#define SEGMENT_MAX_BYTES (256ull << 20)
#define RECORD_MAGIC 0x43455253u /* "SREC" */
#define RECORD_HEADER_BYTES 128u
#define RECORD_META_MAX (16u << 20)

enum record_type { RECORD_SESSION = 1, RECORD_SESSION_END, RECORD_SNAPSHOT, RECORD_EDIT, RECORD_GAP, RECORD_MARK };
enum {
	RECORD_COMPRESSED = 1,
	RECORD_MORE = 2,           /* it counts when one without this mark stands behind it */
};

struct record_header {
	uint32_t magic;
	uint16_t type, flags;
	uint32_t crc;              /* CRC32C of header (this field 0), meta, payload and padding */
	uint32_t meta_len;
	uint64_t payload_len, raw_len;
	uint64_t seq, time_ns, since_ns, created_ns;
	char id[16], base_id[16], session_id[16];
	uint64_t file_id;          /* of the segment it was written into */
	uint64_t reserved;
};
_Static_assert(sizeof(struct record_header) == RECORD_HEADER_BYTES, "fixed");
/* Written when all else of the record is: eight aligned bytes are there or not, whereas a
 * kill may come between the pages that a longer write lies in. */
#define RECORD_BEGIN_BYTES 8u
_Static_assert(offsetof(struct record_header, crc) == RECORD_BEGIN_BYTES, "fixed");

static inline uint64_t record_extent_bytes(const struct record_header *h)
{
	return RECORD_HEADER_BYTES + ((h->meta_len + h->payload_len + 7) & ~7ull);
}

struct segment {
	char *path;
	char name[20];             /* 16 hex digits */
	uint64_t file_id, created_ns;
	int fd;                    /* -1 while a segment of others rests */
	uint64_t size;             /* whole records end here */
	bool mine;                 /* this process appends to it */
	bool failed;               /* an fsync failed: never appended to again */
	bool named;                /* the folder was synced since it was made */
	uint64_t torn, damaged;    /* bytes behind the last whole record; damaged places met */
	uint8_t *ahead;            /* what was read ahead of small records one behind the other, or NULL */
	uint64_t ahead_at, ahead_end, read_end; /* where that lies; where the last small one that was read ended */
};

/* Makes a new segment for writing, locked.  It has its header when it has its name:
 * an exec, which ends a recorder at any instruction, leaves none that was never begun. */
int segment_create(struct segment *s, const char *folder);
/* The same under another name (`.new`), which no reader takes for a segment, until
 * segment_appear().  What nobody may see in part is made like that. */
int segment_create_aside(struct segment *s, const char *folder);
/* Syncs it if asked, and gives it its name. */
int segment_appear(struct segment *s, bool sync);
/* Removes what killed writers left aside: what nobody holds locked. */
void segment_clear_aside(const char *folder);
/* Opens one for reading; its header is checked.  -EAGAIN: it has none yet, and
 * is left open so that segment_is_written() tells begun from torn.  A damaged header
 * before sound records is damage like any other; -EBADMSG: there are none. */
int segment_open(struct segment *s, const char *folder, const char *name);
/* One that was opened before, by what is known of it: no file is touched. */
void segment_known(struct segment *s, const char *folder, const char *name, uint64_t covered, uint64_t created_ns);
void segment_close(struct segment *s);
/* A store has more segments than a process has descriptors: those of others
 * are opened for each use and rest in between. */
int segment_use(struct segment *s);
void segment_rest(struct segment *s);

/* Appends; fills h->crc and file_id.  On failure the file is as before. */
int segment_append(struct segment *s, struct record_header *h, const void *meta, const void *payload, uint64_t *ret_at);
/* fdatasync, and once a segment the fsync of its folder. */
int segment_sync(struct segment *s);

/* Header and meta of the record at `at`; 1 read, 0 at the end of what is
 * whole, -EBADMSG when no record stands there.  Does not read the payload. */
int segment_read(const struct segment *s, uint64_t at, struct record_header *h, struct buf *meta);
/* The payload, appended; with `check` its checksum is compared. */
int segment_payload(struct segment *s, uint64_t at, const struct record_header *h, struct buf *out, bool check);
/* Whether a header could stand at `at` with `left` bytes of file behind. */
bool segment_sane(const struct segment *s, const struct record_header *h, uint64_t left);
/* The whole record's checksum, at the cost of reading it. */
bool segment_sound(const struct segment *s, uint64_t at, const struct record_header *h);
/* Of the last record, which is not sound: whether the power failed before all of it had
 * come to the disk.  Files grow by zeros, so a sector's worth of it is nothing else. */
bool segment_cut_short(const struct segment *s, uint64_t at, const struct record_header *h);
/* Whether another process has it locked, that is still writes it. */
bool segment_is_written(const struct segment *s);
/* Where a sound record begins behind `at`, or the file's end. */
uint64_t segment_resync(const struct segment *s, uint64_t at, uint64_t end);
uint64_t segment_file_bytes(const struct segment *s);

struct segment_verify {
	void (*found)(void *arg, const char *kind, const char *file, uint64_t offset, const char *what);
	void *arg;
	uint64_t records;          /* sound ones so far */
	bool torn, damaged;
};
void segment_finding(struct segment_verify *v, bool torn, const struct segment *seg, uint64_t at, const char *what);
/* Checks every record.  What a living writer has not finished is no finding. */
void segment_verify(struct segment_verify *v, const struct segment *seg);

#endif
