/* A growing run of bytes.  Embedded: `struct buf b = BUF_INIT`, freed by
 * buf_done() or `_cleanup_buf_`.  Growth doubles; a failed allocation aborts
 * the engine's process, which is never the target (see base/mem.h). */
#ifndef SNAPTRAIL_BASE_BUF_H
#define SNAPTRAIL_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct buf {
	uint8_t *data;
	size_t len;
	size_t cap;
};

#define BUF_INIT { NULL, 0, 0 }

static inline void buf_done(struct buf *b)
{
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

#define _cleanup_buf_ __attribute__((cleanup(buf_done)))

static inline void buf_reset(struct buf *b) { b->len = 0; }

/* Room for n more bytes; returns where they go (b->len is not moved). */
uint8_t *buf_room(struct buf *b, size_t n);

static inline void buf_put(struct buf *b, const void *p, size_t n)
{
	if (n == 0)
		return;
	memcpy(buf_room(b, n), p, n);
	b->len += n;
}

static inline void buf_byte(struct buf *b, uint8_t c)
{
	*buf_room(b, 1) = c;
	b->len++;
}

static inline void buf_str(struct buf *b, const char *s) { buf_put(b, s, strlen(s)); }

/* Appends formatted text without its final NUL. */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes data a C string (a NUL behind the last byte, not counted). */
char *buf_cstr(struct buf *b);

/* malloc and friends that never return NULL: running out of memory ends the
 * recorder, whose rings and stage outlive it and are salvaged. */
/* Defined where somebody can be told before the end: src/api/handle.c. */
__attribute__((weak, visibility("hidden"))) void out_of_memory(void);
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
/* As xcalloc(1, n), and touched: for what is read here and there before it is written. */
void *xzeros(size_t n);
void *xrealloc(void *p, size_t n);
void *xmemdup(const void *p, size_t n);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static inline void freep(void *p) { free(*(void **)p); }
#define _cleanup_free_ __attribute__((cleanup(freep)))

#endif
