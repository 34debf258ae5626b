/* SHA-256 by nettle; see digest.h. */
#include "base/digest.h"

#include <stdint.h>
#include <stdio.h>

void digest_init(struct digest *d) { sha256_init(&d->sha); }
void digest_add(struct digest *d, const void *p, size_t n) { sha256_update(&d->sha, n, p); }

void digest_done(struct digest *d, char ret[DIGEST_TEXT])
{
	uint8_t bytes[8];

	sha256_digest(&d->sha, sizeof bytes, bytes);
	for (size_t i = 0; i < sizeof bytes; i++)
		snprintf(ret + i * 2, 3, "%02x", bytes[i]);
}

void digest_of(const void *p, size_t n, char ret[DIGEST_TEXT])
{
	struct digest d;

	digest_init(&d);
	digest_add(&d, p, n);
	digest_done(&d, ret);
}
