/* Functions in the objects that the loader has behind this one; see lookup.c. */
#ifndef SNAPTRAIL_PRELOAD_LOOKUP_H
#define SNAPTRAIL_PRELOAD_LOOKUP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <link.h>

/* The first function of that name behind ours and not behind `end` (NULL: to
 * the last); *ret_where (may be NULL) is its object.  NULL when there is none. */
void *lookup_behind(const char *name, const struct link_map *end, const struct link_map **ret_where);
/* That of the object at this address (0: none); NULL when there is none. */
void *lookup_at(ElfW(Addr) address, const char *name);
/* The object that was loaded last. */
const struct link_map *lookup_last(void);

#endif
