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
const char *codec_name(void);

#endif
