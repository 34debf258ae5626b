/* The mapped stage file; see stage.h.  Written by the collecting thread, read
 * by the flusher once sealed, by salvage, and by readers of a live session. */
#include "engine/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mark.h"

#define STAGE_STEP (256u << 10)

int stage_open(struct stage *s, const char *folder, uint64_t serial, const struct clock *c)
{
	char making[sizeof s->path];
	int fd, r;

	snprintf(s->path, sizeof s->path, "%s/stage.%llu", folder, (unsigned long long)serial);
	snprintf(making, sizeof making, "%s/making.%llu", folder, (unsigned long long)serial);
	unlink(making); /* of a recorder that was killed while it made it */
	fd = open(making, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(-errno, "%s: %s", making, strerror(errno));
	MARK("stage file made");
	/* Allocated step by step and always before use: a full tmpfs must be an
	 * error here and not a SIGBUS. */
	r = posix_fallocate(fd, 0, STAGE_STEP);
	if (r == 0 && ftruncate(fd, STAGE_BYTES) < 0)
		r = errno;
	s->h = r ? MAP_FAILED : mmap(NULL, STAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s->h == MAP_FAILED) {
		r = r ? r : errno;
		close(fd);
		unlink(making);
		s->h = NULL;
		return fail(-r, "%s: %s", making, strerror(r));
	}
	s->fd = fd;
	s->allocated = STAGE_STEP;
	s->h->serial = serial;
	s->last = NULL;
	stage_lines(s, c);
	s->h->magic = STAGE_MAGIC;
	MARK("stage prepared");
	/* Readers and salvage look for the name: they find it whole or not at all. */
	if (rename(making, s->path) < 0) {
		r = -errno;
		unlink(making);
		stage_close(s);
		return fail(r, "%s: %s", s->path, strerror(-r));
	}
	MARK("stage named");
	return 0;
}

bool stage_is_whole(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t)STAGE_BYTES;
}

void stage_close(struct stage *s)
{
	if (s->h) {
		munmap(s->h, STAGE_BYTES);
		close(s->fd);
	}
	s->h = NULL;
	s->last = NULL;
}

void stage_remove(struct stage *s)
{
	if (s->h)
		unlink(s->path);
	stage_close(s);
}

bool stage_has_room(struct stage *s, size_t n)
{
	uint64_t need = STAGE_HEADER_BYTES + s->h->used + 2 * n + 512;

	if (need > STAGE_BYTES)
		return false;
	while (need > s->allocated) {
		if (posix_fallocate(s->fd, (off_t)s->allocated, STAGE_STEP))
			return false;
		s->allocated += STAGE_STEP;
	}
	return true;
}

void stage_lines(struct stage *s, const struct clock *c)
{
	memcpy(s->h->line, c->line, sizeof s->h->line);
	s->h->offset_ns = c->offset_ns;
	__atomic_store_n(&s->h->lines, c->lines, __ATOMIC_RELEASE);
}

void stage_gap(struct stage *s, const struct gap *gap)
{
	uint64_t n = s->h->ngaps;

	if (n < STAGE_GAPS) {
		s->h->gap[n] = *gap;
		MARK("gap written");
		__atomic_store_n(&s->h->ngaps, n + 1, __ATOMIC_RELEASE);
	} else {
		struct gap *last = &s->h->gap[STAGE_GAPS - 1];

		last->to_ns = gap->to_ns;
		last->lane = gap->lane;
		last->upto = gap->upto;
		last->lost += gap->lost;
	}
	MARK("gap told");
}

static uint8_t *base_of(struct stage_header *h) { return (uint8_t *)h + STAGE_HEADER_BYTES; }

static struct stage_block *block_new(struct stage *s, uint32_t type, uint64_t lane, uint32_t pid, uint32_t tid)
{
	struct stage_block *b = (struct stage_block *)(base_of(s->h) + s->h->used);

	*b = (struct stage_block){ .type = type, .lane = lane, .pid = pid, .tid = tid };
	s->last = type == BLOCK_RUN ? b : NULL;
	return b;
}

static uint64_t hot_len(const struct stage_block *b) { return 2 * (sizeof(struct hot_place) + (uint64_t)b->cap); }
static uint32_t whole_words(uint32_t n) { return (n + 7) & ~7u; }

static void publish(struct stage *s, const struct stage_block *b, uint64_t len)
{
	uint64_t used = (uint64_t)((const uint8_t *)(b + 1) - base_of(s->h)) + len;

	__atomic_store_n(&s->h->used, used, __ATOMIC_RELEASE);
}

/* Whether a record that ends there may follow what the block holds. */
static bool can_grow(const struct stage_block *b, uint64_t lane, uint32_t tid, uint64_t end, uint32_t n)
{
	return b && b->lane == lane && b->tid == tid && extent_body(b->extent) + n <= 1u << 20 &&
	       end - b->offset <= EXTENT_SPAN_MAX;
}

const uint8_t *stage_put(struct stage *s, uint64_t lane, uint32_t pid, uint32_t tid, uint64_t offset, uint64_t end,
			 const uint8_t *record, uint32_t n)
{
	struct stage_block *b = s->last;
	uint32_t body;

	if (!can_grow(b, lane, tid, end, n)) {
		b = block_new(s, BLOCK_RUN, lane, pid, tid);
		b->offset = offset;
	}
	body = extent_body(b->extent);
	MARK("block begun");
	memcpy((uint8_t *)(b + 1) + body, record, n);
	MARK("record copied");
	__atomic_store_n(&b->extent, (end - b->offset) << EXTENT_BODY_BITS | (body + n), __ATOMIC_RELEASE);
	MARK("block grown");
	publish(s, b, whole_words(body + n));
	MARK("block published");
	return (uint8_t *)(b + 1) + body;
}

static struct hot_place *place(const struct stage_block *b, unsigned i)
{
	return (struct hot_place *)((uint8_t *)(b + 1) + i * (sizeof(struct hot_place) + b->cap));
}

struct stage_block *stage_hot(struct stage *s, uint64_t lane, uint32_t pid, uint32_t tid, uint64_t offset, uint32_t n)
{
	struct stage_block *b = block_new(s, BLOCK_HOT, lane, pid, tid);

	b->cap = (n + 32 + 7) & ~7u;
	b->offset = offset;
	place(b, 0)->turn = place(b, 1)->turn = 0;
	publish(s, b, hot_len(b));
	MARK("hot block published");
	return b;
}

/* The place that counts and the turn it has, or NULL. */
static const struct hot_place *place_of_turn(const struct stage_block *b, uint64_t *ret_turn)
{
	uint64_t one = __atomic_load_n(&place(b, 0)->turn, __ATOMIC_ACQUIRE);
	uint64_t two = __atomic_load_n(&place(b, 1)->turn, __ATOMIC_ACQUIRE);
	const struct hot_place *best = place(b, one < two);

	*ret_turn = one < two ? two : one;
	return *ret_turn && best->len <= b->cap ? best : NULL;
}

const struct hot_place *stage_hot_get(const struct stage_block *b)
{
	uint64_t turn;

	return place_of_turn(b, &turn);
}

bool stage_hot_put(struct stage_block *b, uint64_t end, const uint8_t *record, uint32_t n)
{
	const struct hot_place *now = stage_hot_get(b);
	struct hot_place *next = place(b, now == place(b, 0));

	if (n > b->cap)
		return false;
	__atomic_store_n(&next->turn, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE); /* before any of what follows */
	MARK("hot place emptied");
	memcpy(next->bytes, record, n);
	next->len = n;
	next->end = end;
	next->coalesced = now ? now->coalesced + 1 : 0;
	MARK("hot place filled");
	__atomic_store_n(&next->turn, now ? now->turn + 1 : 1, __ATOMIC_RELEASE);
	return true;
}

static void part_of_run(struct stage_part *p)
{
	uint64_t extent = __atomic_load_n(&p->block->extent, __ATOMIC_ACQUIRE);

	p->end = p->block->offset + extent_span(extent);
	p->bytes = (const uint8_t *)(p->block + 1);
	p->n = extent_body(extent);
}

static void part_of_hot(struct stage_part *p)
{
	p->end = p->block->offset;
	p->bytes = NULL;
	p->n = 0;
	p->coalesced = 0;
	p->place = place_of_turn(p->block, &p->turn);
	if (p->place == NULL)
		return;
	p->end = p->place->end;
	p->bytes = p->place->bytes;
	p->n = p->place->len <= p->block->cap ? p->place->len : 0;
	p->coalesced = p->place->coalesced;
}

bool stage_part_held(struct stage_part *p)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (p->place == NULL || __atomic_load_n(&p->place->turn, __ATOMIC_RELAXED) == p->turn)
		return true;
	part_of_hot(p);
	return false;
}

bool stage_next(const struct stage_header *h, size_t *pos, struct stage_part *ret)
{
	uint64_t used = __atomic_load_n(&h->used, __ATOMIC_ACQUIRE), room, len;
	const struct stage_block *b;

	if (used > STAGE_BYTES - STAGE_HEADER_BYTES || *pos + sizeof *b > used)
		return false;
	room = STAGE_BYTES - STAGE_HEADER_BYTES - *pos - sizeof *b;
	b = (const struct stage_block *)((const uint8_t *)h + STAGE_HEADER_BYTES + *pos);
	*ret = (struct stage_part){ .block = b };
	if (b->type == BLOCK_RUN) {
		part_of_run(ret);
		len = whole_words((uint32_t)ret->n);
	} else if (b->type == BLOCK_HOT && hot_len(b) <= room) {
		part_of_hot(ret);
		len = hot_len(b);
	} else {
		return false;
	}
	if (len > room)
		return false;
	*pos += sizeof *b + len;
	return true;
}
