/* Names for the addresses of call stacks, from the files on disk: read long
 * after the program ran, and never by it.
 *
 * One thread a handle.  Strings live as long as the handle. */
#ifndef SNAPTRAIL_ENGINE_SYMBOLS_H
#define SNAPTRAIL_ENGINE_SYMBOLS_H

#include "model/model.h"

struct symbol {
	const char *name;        /* NULL: not known */
	uint64_t offset;         /* of the address from where the name begins */
	const char *file;        /* NULL: not known */
	int line;
	const char *why;         /* the module's file is of no use: why; else NULL */
};

struct symbols;
struct symbols *symbols_new(void);
void symbols_free(struct symbols *s);
/* Fills *ret with what is known of a return address. */
void symbols_find(struct symbols *s, const struct model_frame *f, struct symbol *ret);

#endif
