/* The real functions behind the hooked names, each looked up when it is first
 * called (lookup.c says how). */
#include "visitor.h"

#include "lookup.h"

struct real_functions real;
void *real_vfork, *real_clone; /* where the jumps of process.c lead */
static const struct link_map *last;

/* Offsets instead of pointers: nothing for the loader to relocate at a start. */
static const struct {
#define HOOK(group, result, name, params) char s_##name[sizeof #name];
#define JUMP(group, name) char s_##name[sizeof #name];
#include "hooks.def"
} names = {
#define HOOK(group, result, name, params) #name,
#define JUMP(group, name) #name,
#include "hooks.def"
};
static const uint16_t name_at[] = {
#define HOOK(group, result, name, params) offsetof(__typeof__(names), s_##name),
#define JUMP(group, name) offsetof(__typeof__(names), s_##name),
#include "hooks.def"
};
_Static_assert(sizeof(struct real_functions) == sizeof name_at / sizeof *name_at * sizeof(void *), "one pointer a name");

/* dlclose() unmaps only what was opened after the start, behind `last`. */
void real_find(void **slot)
{
	const char *name = (const char *)&names + name_at[slot - (void **)&real];
	void *found = lookup_behind(name, __atomic_load_n(&last, __ATOMIC_ACQUIRE), NULL);

	if (found)
		__atomic_store_n(slot, found, __ATOMIC_RELEASE);
}

void real_ready(void)
{
	__atomic_store_n(&last, lookup_last(), __ATOMIC_RELEASE);
}

void real_jumps(void)
{
	(void)REAL(vfork);
	(void)REAL(clone);
	__atomic_store_n(&real_vfork, (void *)real.vfork, __ATOMIC_RELEASE);
	__atomic_store_n(&real_clone, (void *)real.clone, __ATOMIC_RELEASE);
}
