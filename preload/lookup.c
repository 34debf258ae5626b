/* Finds functions in the objects behind this one, in the order of the loader.
 *
 * RTLD_NEXT is what is meant, but dlsym() allocates when a name is missing and
 * takes locks, which deadlocks under jemalloc and the sanitizers when the
 * first hook is called from an allocator or a constructor.  So this walks the
 * loader's own list of objects behind ours and reads their GNU hash tables: no
 * allocation, no lock, no failure path.  Other preloads behind us (faketime,
 * eatmydata, jemalloc) are found first, as with RTLD_NEXT.  Part of the visitor
 * and of the heap's object: each looks behind itself. */
#include "lookup.h"

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct object {
	const uint32_t *hash;
	const ElfW(Sym) *symbols;
	const char *strings;
	const uint16_t *versions;
	ElfW(Addr) base;
};

static const void *dynamic_pointer(const struct link_map *m, ElfW(Addr) p)
{
	/* The loader relocates these in place, except in the vdso. */
	return (const void *)(p < m->l_addr ? p + m->l_addr : p);
}

static bool object_of(const struct link_map *m, struct object *o)
{
	*o = (struct object){ .base = m->l_addr };
	for (const ElfW(Dyn) *d = m->l_ld; d && d->d_tag != DT_NULL; d++) {
		switch (d->d_tag) {
		case DT_GNU_HASH: o->hash = dynamic_pointer(m, d->d_un.d_ptr); break;
		case DT_SYMTAB: o->symbols = dynamic_pointer(m, d->d_un.d_ptr); break;
		case DT_STRTAB: o->strings = dynamic_pointer(m, d->d_un.d_ptr); break;
		case DT_VERSYM: o->versions = dynamic_pointer(m, d->d_un.d_ptr); break;
		default: break;
		}
	}
	return o->hash && o->symbols && o->strings;
}

static uint32_t gnu_hash(const char *s)
{
	uint32_t h = 5381;

	for (; *s; s++)
		h = h * 33 + (uint8_t)*s;
	return h;
}

static bool same_name(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* The GNU hash table: header, Bloom filter, buckets, chains that end at an odd hash. */
static void *object_symbol(const struct object *o, const char *name, uint32_t hash)
{
	uint32_t nbuckets = o->hash[0], first = o->hash[1], bloom_words = o->hash[2], shift = o->hash[3];
	const ElfW(Addr) *bloom = (const ElfW(Addr) *)(o->hash + 4);
	const uint32_t *buckets = (const uint32_t *)(bloom + bloom_words);
	const uint32_t *chain = buckets + nbuckets;
	const unsigned bits = sizeof(ElfW(Addr)) * 8;
	ElfW(Addr) word, want;
	uint32_t i;

	if (nbuckets == 0 || bloom_words == 0)
		return NULL;
	word = bloom[(hash / bits) % bloom_words];
	want = (ElfW(Addr))1 << (hash % bits) | (ElfW(Addr))1 << ((hash >> shift) % bits);
	if ((word & want) != want)
		return NULL;
	i = buckets[hash % nbuckets];
	if (i < first)
		return NULL;
	for (;; i++) {
		uint32_t h = chain[i - first];
		const ElfW(Sym) *s = &o->symbols[i];

		/* Bit 15 of a version marks an old one that links only by name@version. */
		if ((h | 1) == (hash | 1) && s->st_shndx != SHN_UNDEF && s->st_value &&
		    ELF64_ST_TYPE(s->st_info) == STT_FUNC && !(o->versions && o->versions[i] & 0x8000) &&
		    same_name(name, o->strings + s->st_name))
			return (void *)(o->base + s->st_value);
		if (h & 1)
			return NULL;
	}
}

void *lookup_behind(const char *name, const struct link_map *end, const struct link_map **ret_where)
{
	const struct link_map *m = _r_debug.r_map;
	uint32_t hash = gnu_hash(name);
	struct object o;

	while (m && m->l_ld != _DYNAMIC)
		m = m->l_next;
	for (m = m ? m->l_next : NULL; m; m = m == end ? NULL : m->l_next) {
		void *found = object_of(m, &o) ? object_symbol(&o, name, hash) : NULL;

		if (found == NULL)
			continue;
		if (ret_where)
			*ret_where = m;
		return found;
	}
	return NULL;
}

void *lookup_at(ElfW(Addr) address, const char *name)
{
	const struct link_map *m = address ? _r_debug.r_map : NULL;
	struct object o;

	while (m && m->l_addr != address)
		m = m->l_next;
	return m && object_of(m, &o) ? object_symbol(&o, name, gnu_hash(name)) : NULL;
}

const struct link_map *lookup_last(void)
{
	const struct link_map *m = _r_debug.r_map;

	while (m && m->l_next)
		m = m->l_next;
	return m;
}
