/* What the first record of a program image is put together from: began.c and
 * inherited.c share it.  Used before main on the main thread, and in a forked
 * child that is still alone. */
#ifndef SNAPTRAIL_PRELOAD_BEGAN_H
#define SNAPTRAIL_PRELOAD_BEGAN_H

#include "visitor.h"

/* Encoded repeated fields of a Change. */
struct list {
	uint8_t *p, *end;
	bool cut;               /* something did not fit: /proc heals it */
};

void list_put(struct list *l, uint32_t field, const void *s, uint32_t n);

/* What the session has seen in full is named by its hash from then on. */
#define HASH_START 14695981039346656037ull
static inline uint64_t hash_word(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0xff51afd7ed558ccdull; /* a step of MurmurHash3's finalizer */
	return h ^ h >> 33;
}
bool is_known(uint64_t hash);
/* After the record that defines it: who reads it as known must find that. */
void remember_known(uint64_t hash);
bool room_to_remember(void);

/* The descriptors this image began with, as the field CHANGE_FDS.  Devices that
 * are seen for the first time are to be remembered by inherited_remember(). */
bool inherited_list(struct list *l);
void inherited_remember(void);

#endif
