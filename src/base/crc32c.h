/* CRC32C (Castagnoli), as in RFC 3720: the checksum of every stored record. */
#ifndef SNAPTRAIL_BASE_CRC32C_H
#define SNAPTRAIL_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from `crc` (0 at first) over n bytes.  SSE4.2 where there is any. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

#endif
