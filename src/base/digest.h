/* The checksum of exported snapshots: the first 16 hex digits of SHA-256 over
 * text that comes in pieces.  Not for the module that lives in targets. */
#ifndef SNAPTRAIL_BASE_DIGEST_H
#define SNAPTRAIL_BASE_DIGEST_H

#include <nettle/sha2.h>
#include <stddef.h>

#define DIGEST_TEXT 17 /* with its NUL */

struct digest {
	struct sha256_ctx sha;
};

void digest_init(struct digest *d);
void digest_add(struct digest *d, const void *p, size_t n);
void digest_done(struct digest *d, char ret[DIGEST_TEXT]);
/* Of one run of bytes. */
void digest_of(const void *p, size_t n, char ret[DIGEST_TEXT]);

#endif
