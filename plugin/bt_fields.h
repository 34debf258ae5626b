/* Fields of Babeltrace events: as Values, and one at a time by name. */
#ifndef SNAPTRAIL_PLUGIN_BT_FIELDS_H
#define SNAPTRAIL_PLUGIN_BT_FIELDS_H

#include <babeltrace2/babeltrace.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"

/* A field class as far as encoding needs it, looked at once. */
struct shape {
	bt_field_class_type type;
	uint32_t n;
	struct shape_member {
		char *name;
		uint32_t name_len;
		bool secret;             /* its name is one of [privacy] patterns */
		struct shape *shape;
	} *members;                      /* of a structure */
	struct shape *inner;             /* of an array or option */
};

/* NULL for NULL. */
struct shape *shape_new(const bt_field_class *fc, const struct config *c);
void shape_free(struct shape *s);
/* message Value. */
void shape_put(const struct shape *s, const bt_field *f, struct buf *out);

/* One value that a rule asks for. */
struct cell {
	enum { CELL_NONE, CELL_INT, CELL_UINT, CELL_REAL, CELL_TEXT, CELL_BYTES, CELL_FIELD } type;
	union {
		int64_t integer;
		uint64_t natural;
		double real;
		const bt_field *field;   /* a structure and the like */
	};
	const char *text;                /* CELL_TEXT, CELL_BYTES; of an enumeration its label or NULL */
	uint32_t n;                      /* bytes of text */
	bool hex;                        /* of a number that is meant to be read so */
	uint8_t bytes[32];               /* CELL_BYTES: of a short array of small numbers */
};

void cell_of(const bt_field *f, struct cell *ret);
/* As text: numbers in decimal, enumerations by label. */
void cell_text(const struct cell *c, struct buf *out);
bool cell_number(const struct cell *c, double *ret);
/* message Value; CELL_NONE is null. */
void cell_put(const struct cell *c, const struct config *config, struct buf *out);

/* Where a field lies: steps down from one of an event's structures. */
struct field_path {
	uint32_t step[8];
	uint32_t n;
};
/* `name` with dots; array elements by number.  False: there is no such field. */
bool field_path_find(const bt_field_class *root, const char *name, size_t n, struct field_path *ret);
/* NULL when an array is too short for it, or an option is empty. */
const bt_field *field_path_get(const bt_field *root, const struct field_path *p);

#endif
