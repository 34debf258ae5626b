/* What the collectors that live in targets share: the door to the visitor, and
 * texts without a libc call that could wait or allocate.  See snaptrail/report.h. */
#ifndef SNAPTRAIL_PLUGIN_DOOR_H
#define SNAPTRAIL_PLUGIN_DOOR_H

#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "snaptrail/report.h"

#define DOOR_INLINE static inline __attribute__((always_inline, unused))

/* NULL: nobody records this process. */
DOOR_INLINE snaptrail_report_function door_find(void)
{
	void *say = dlsym(RTLD_DEFAULT, "snaptrail_report_v1"), *ask = dlsym(RTLD_DEFAULT, "snaptrail_report_enabled");
	snaptrail_report_question enabled;
	snaptrail_report_function found;

	memcpy(&enabled, &ask, sizeof enabled);
	memcpy(&found, &say, sizeof found);
	return found && enabled && enabled() ? found : NULL;
}

/* A thread's own block: zeros at first, and again in a forked child, whose thread
 * has another number.  NULL: no memory. */
DOOR_INLINE void *door_block(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, size, MADV_WIPEONFORK);
	return p;
}

/* Texts of a fixed room: what does not fit ends in "~" and a number that tells it
 * from others. */
struct door_text {
	uint32_t n, cap;
	char *s;
};

DOOR_INLINE void text_put(struct door_text *t, const char *s, size_t n)
{
	if (n <= t->cap - t->n) {
		memcpy(t->s + t->n, s, n);
		t->n += (uint32_t)n;
	} else {
		uint32_t h = 0x811c9dc5u, room = t->cap - t->n;

		for (size_t i = 0; i < n; i++)
			h = (h ^ (uint8_t)s[i]) * 0x01000193u;
		if (room >= 9) {
			memcpy(t->s + t->n, s, room - 9);
			t->n += room - 9;
			t->s[t->n++] = '~';
			for (int i = 28; i >= 0; i -= 4)
				t->s[t->n++] = "0123456789abcdef"[h >> i & 15];
		}
		t->n = t->cap;
	}
}

DOOR_INLINE void text_str(struct door_text *t, const char *s) { text_put(t, s, strlen(s)); }

DOOR_INLINE void text_number(struct door_text *t, uint64_t v)
{
	char digits[20];
	int i = 20;

	do
		digits[--i] = (char)('0' + v % 10);
	while (v /= 10);
	text_put(t, digits + i, (size_t)(20 - i));
}

DOOR_INLINE void text_hex(struct door_text *t, uint64_t v)
{
	char digits[16];
	int i = 16;

	do
		digits[--i] = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	text_put(t, digits + i, (size_t)(16 - i));
}

DOOR_INLINE uint32_t thread_number(void) { return (uint32_t)syscall(SYS_gettid); }

#endif
