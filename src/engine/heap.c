/* The engine's own heap, for the module that lives in a target.
 *
 * The module is linked with --wrap for these names, so every allocation of
 * ours and of the libraries inside it comes here.  A malloc of the target's
 * from a second thread would cost 65 MB of its address space, and its heap may
 * be anybody's: locked at a fork, interposed, counted.  One thread at a time
 * uses it: the main thread until the engine's begins, then that one.
 *
 * Blocks of a size class come from chunks and go back to the class's list;
 * large ones are mapped and unmapped each.  Classes are four to a doubling, so
 * at most a fifth is unused. */
#include "engine/heap.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC 0x70616548704e5331ull
#define CHUNK_BYTES (256u << 10)
#define LARGE_BYTES (64u << 10)
#define CLASSES 64

struct block {
	uint64_t magic_class;    /* MAGIC plus the class, CLASSES for a mapped one */
	uint64_t size;           /* usable bytes; of a free block: the next */
};
_Static_assert(sizeof(struct block) == 16, "keeps what follows aligned");

static struct block *free_blocks[CLASSES];
static uint8_t *chunk, *chunk_end;

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
void __wrap_qsort(void *base, size_t n, size_t size, int (*cmp)(const void *, const void *));

static unsigned class_of(size_t n)
{
	unsigned shift;

	if (n <= 64)
		return (unsigned)((n + 15) / 16);
	shift = 63 - (unsigned)__builtin_clzll(n - 1); /* 2^shift < n <= 2^(shift + 1) */
	return 4 * (shift - 5) + (unsigned)((n - 1 - (1ull << shift)) >> (shift - 2)) + 1;
}

static size_t class_bytes(unsigned c)
{
	unsigned shift = (c - 1) / 4 + 5;

	return c <= 4 ? c * 16 : (1ull << shift) + (((c - 1) & 3) + 1ull) * (1ull << (shift - 2));
}

/* Not copied by the target's forks: after each one every page that this thread
 * writes would be copied, 2,000 small children took half as long again. */
static void *map(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, n, MADV_DONTFORK);
	return p;
}

void heap_begin(void)
{
	static pid_t owner;

	if (owner == getpid())
		return;
	owner = getpid();
	memset(free_blocks, 0, sizeof free_blocks);
	chunk = chunk_end = NULL;
}

static void *large(size_t n)
{
	size_t whole = (n + sizeof(struct block) + 4095) & ~(size_t)4095;
	struct block *b = whole > n ? map(whole) : NULL;

	if (b == NULL)
		return NULL;
	b->magic_class = MAGIC + CLASSES;
	b->size = whole - sizeof *b;
	return b + 1;
}

/* A mapped block moves by its page table, not by its bytes. */
static void *regrow(struct block *b, size_t n)
{
	size_t whole = (n + sizeof *b + 4095) & ~(size_t)4095;

	b = whole > n ? mremap(b, b->size + sizeof *b, whole, MREMAP_MAYMOVE) : MAP_FAILED;
	if (b == MAP_FAILED)
		return NULL;
	b->size = whole - sizeof *b;
	return b + 1;
}

static struct block *carve(unsigned c)
{
	size_t n = class_bytes(c) + sizeof(struct block);
	struct block *b;

	if ((size_t)(chunk_end - chunk) < n) {
		chunk = map(CHUNK_BYTES);
		chunk_end = chunk ? chunk + CHUNK_BYTES : NULL;
		if (chunk == NULL)
			return NULL;
	}
	b = (struct block *)chunk;
	chunk += n;
	return b;
}

void *__wrap_malloc(size_t n)
{
	unsigned c = class_of(n ? n : 1);
	struct block *b;

	if (n > LARGE_BYTES)
		return large(n);
	b = free_blocks[c];
	if (b)
		free_blocks[c] = (struct block *)(uintptr_t)b->size;
	else
		b = carve(c);
	if (b == NULL)
		return NULL;
	b->magic_class = MAGIC + c;
	b->size = class_bytes(c);
	return b + 1;
}

void *__wrap_calloc(size_t n, size_t size)
{
	size_t whole;
	void *p;

	if (__builtin_mul_overflow(n, size, &whole))
		return NULL;
	p = __wrap_malloc(whole);
	if (p && whole <= LARGE_BYTES) /* a fresh mapping is zero */
		memset(p, 0, whole);
	return p;
}

/* What the C library allocated inside, such as getline's, is its own. */
static struct block *block_of(void *p)
{
	struct block *b = (struct block *)p - 1;

	return b->magic_class - MAGIC <= CLASSES ? b : NULL;
}

void __wrap_free(void *p)
{
	struct block *b = p ? block_of(p) : NULL;
	unsigned c;

	if (b == NULL) {
		__real_free(p);
		return;
	}
	c = (unsigned)(b->magic_class - MAGIC);
	b->magic_class = 0;
	if (c == CLASSES) {
		munmap(b, b->size + sizeof *b);
		return;
	}
	b->size = (uint64_t)(uintptr_t)free_blocks[c];
	free_blocks[c] = b;
}

void *__wrap_realloc(void *p, size_t n)
{
	struct block *b = p ? block_of(p) : NULL;
	void *fresh;

	if (p && b == NULL)
		return __real_realloc(p, n);
	if (b && n <= b->size && n > b->size / 2)
		return p;
	if (b && b->magic_class == MAGIC + CLASSES && n > LARGE_BYTES)
		return regrow(b, n);
	fresh = __wrap_malloc(n);
	if (fresh && b) {
		memcpy(fresh, p, n < b->size ? n : b->size);
		__wrap_free(p);
	}
	return fresh;
}

/* ---- no memory: the recording ends, the target does not ---- */

jmp_buf heap_exhausted;
void __wrap_abort(void) __attribute__((noreturn));

void __wrap_abort(void) { longjmp(heap_exhausted, 1); }

/* ---- the C library's qsort allocates too ---- */

static void merge(uint8_t *to, const uint8_t *a, size_t na, const uint8_t *b, size_t nb, size_t size,
		  int (*cmp)(const void *, const void *))
{
	while (na && nb) {
		int first = cmp(a, b) <= 0;

		memcpy(to, first ? a : b, size);
		to += size;
		a += first ? size : 0;
		b += first ? 0 : size;
		na -= (size_t)first;
		nb -= (size_t)!first;
	}
	memcpy(to, a, na * size);
	memcpy(to + na * size, b, nb * size);
}

/* Bottom up; what is in order already costs one pass. */
void __wrap_qsort(void *base, size_t n, size_t size, int (*cmp)(const void *, const void *))
{
	uint8_t *from = base, *to, *other;
	size_t sorted = 1;

	while (sorted < n && cmp(from + (sorted - 1) * size, from + sorted * size) <= 0)
		sorted++;
	if (sorted >= n || (other = __wrap_malloc(n * size)) == NULL)
		return;
	to = other;
	for (size_t width = 1; width < n; width *= 2) {
		uint8_t *swap = from;

		for (size_t i = 0; i < n; i += 2 * width) {
			size_t na = width < n - i ? width : n - i, nb = 2 * width < n - i ? width : n - i - na;

			merge(to + i * size, from + i * size, na, from + (i + na) * size, nb, size, cmp);
		}
		from = to;
		to = swap;
	}
	if (from != (uint8_t *)base)
		memcpy(base, from, n * size);
	__wrap_free(other);
}
