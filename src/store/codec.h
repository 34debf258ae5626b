/* Compression of payloads in the zlib format (RFC 1950), one stream a payload:
 * ISA-L's igzip where it was found at build time, zlib else.  Any thread. */
#ifndef SNAPTRAIL_STORE_CODEC_H
#define SNAPTRAIL_STORE_CODEC_H

#include <stdbool.h>

#include "base/buf.h"

/* Appends the stream; false when it came out no smaller. */
bool codec_compress(const void *p, size_t n, struct buf *out);
/* Appends exactly raw_len bytes; -EBADMSG for anything else. */
int codec_decompress(const void *p, size_t n, uint64_t raw_len, struct buf *out);

/* The same by a thread of its own, for a reader that follows: room for all of it is made in `out`
 * at once, and the bytes come.  Shorter payloads than CODEC_AHEAD_BYTES are there at return; *ret is
 * NULL then, which codec_ahead_end() takes.  `p` stays where it is until then, and `out`. */
#define CODEC_AHEAD_BYTES (1u << 20)
struct codec_ahead;
int codec_ahead_begin(const void *p, size_t n, uint64_t raw_len, struct buf *out, struct codec_ahead **ret);
/* Waits until the first n bytes are there; how many are: fewer when it is damaged. */
uint64_t codec_ahead_wait(struct codec_ahead *a, uint64_t n);
/* Waits for the end.  -EBADMSG: what came was not what was written, to the last byte. */
int codec_ahead_end(struct codec_ahead *a);

const char *codec_name(void);

#endif
