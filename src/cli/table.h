/* Aligned tables for people.  Cells are copied and made safe for a terminal;
 * the last column is cut to the terminal's width where there is one. */
#ifndef SNAPTRAIL_CLI_TABLE_H
#define SNAPTRAIL_CLI_TABLE_H

#include "cli/cli.h"

#define TABLE_COLUMNS_MAX 16

struct table {
	char **cells;                /* row by row; the first row is the heading */
	size_t count, cap, columns;
	bool right[TABLE_COLUMNS_MAX];
};

/* Headings; one that begins with '>' aligns to the right. */
void table_init(struct table *t, const char *const *headings);
void table_cell(struct table *t, const char *text);
void table_cellf(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints to stdout and frees.  Without a heading when `plain`. */
void table_print(struct table *t, const struct cli *c, const char *indent, bool plain);

#endif
