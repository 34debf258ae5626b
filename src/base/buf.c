/* Growing byte runs and allocation that does not fail; see buf.h. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

static void *must(void *p)
{
	if (p)
		return p;
	if (out_of_memory) /* an engine within a program has nobody to tell */
		out_of_memory();
	abort();
}

void *xmalloc(size_t n) { return must(malloc(n ? n : 1)); }
void *xcalloc(size_t n, size_t size) { return must(calloc(n ? n : 1, size ? size : 1)); }
void *xrealloc(void *p, size_t n) { return must(realloc(p, n ? n : 1)); }
char *xstrdup(const char *s) { return xmemdup(s, strlen(s) + 1); }

void *xmemdup(const void *p, size_t n)
{
	void *copy = xmalloc(n);

	if (n)
		memcpy(copy, p, n);
	return copy;
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	s = xmalloc((size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}

/* What is this large is written once from end to end: large pages spare it the
 * first touch of each small one, which costs more than the writing. */
#define LARGE_BYTES (8u << 20)

static void want_large_pages(uint8_t *p, size_t n)
{
	size_t skip = -(uintptr_t)p & 4095u;

	madvise(p + skip, n - skip, MADV_HUGEPAGE);
}

void *xzeros(size_t n)
{
	void *p = xmalloc(n);

	if (n >= LARGE_BYTES)
		want_large_pages(p, n);
	return memset(p, 0, n);
}

uint8_t *buf_room(struct buf *b, size_t n)
{
	if (b->cap - b->len < n) {
		size_t cap = b->cap ? b->cap : 256;

		while (cap - b->len < n)
			cap *= 2;
		b->data = xrealloc(b->data, cap);
		b->cap = cap;
		if (cap >= LARGE_BYTES)
			want_large_pages(b->data, cap);
	}
	return b->data ? b->data + b->len : NULL; /* of nothing */
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	va_start(ap, fmt);
	vsnprintf((char *)buf_room(b, (size_t)n + 1), (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

char *buf_cstr(struct buf *b)
{
	*buf_room(b, 1) = 0;
	return (char *)b->data;
}
