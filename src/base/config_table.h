/* The option table as config.c makes it of options.def, for config_load.c. */
#ifndef SNAPTRAIL_BASE_CONFIG_TABLE_H
#define SNAPTRAIL_BASE_CONFIG_TABLE_H

#include "base/config.h"

enum option_type {
	OPTION_DURATION, OPTION_MILLIS, OPTION_SIZE, OPTION_COUNT, OPTION_RATE,
	OPTION_BOOL, OPTION_ENUM, OPTION_TEXT, OPTION_LIST,
};

struct option_row {
	const char *section, *key, *name;
	enum option_type type;
	size_t offset;               /* of the member in struct config */
	const char *initial, *choices, *original, *doc;
};

extern const struct option_row option_rows[]; /* ends with a NULL name */

/* The row of [section] key, or of an original's name in any section; -1. */
int option_find(const char *section, const char *key, bool *ret_original);
/* 0 when there is such a section. */
int option_section(const char *section, const char *origin);
int config_set_row(struct config *c, size_t row, const char *value, bool original, const char *origin);
int config_set_in(struct config *c, const char *section, const char *key, const char *value, const char *origin);

#endif
