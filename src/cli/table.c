/* Tables: collected whole, since a column is as wide as its widest cell. */
#include "cli/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/out.h"

void table_cell(struct table *t, const char *text)
{
	if (t->count == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		t->cells = must(realloc(t->cells, t->cap * sizeof *t->cells));
	}
	t->cells[t->count++] = clean_text(text, strlen(text), 0);
}

void table_init(struct table *t, const char *const *headings)
{
	memset(t, 0, sizeof *t);
	for (; headings[t->columns]; t->columns++) {
		const char *h = headings[t->columns];

		t->right[t->columns] = *h == '>';
		table_cell(t, h + (*h == '>'));
	}
}

void table_cellf(struct table *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	table_cell(t, text);
}

/* The last cell of a row is not padded, but cut at the terminal's edge. */
static void print_last(const struct cli *c, const char *text, size_t used)
{
	size_t room = c->width ? ((size_t)c->width > used + 8 ? (size_t)c->width - used : 8) : 0;
	char *cut = clean_text(text, strlen(text), room);

	printf("%s\n", cut);
	free(cut);
}

static void print_row(const struct table *t, const struct cli *c, const char *indent, char **row, const size_t *widths,
		      size_t last)
{
	size_t used = strlen(indent);

	fputs(indent, stdout);
	for (size_t i = 0; i < last; i++) {
		size_t pad = widths[i] - text_columns(row[i]);

		printf("%*s%s%*s", t->right[i] ? (int)pad : 0, "", row[i], t->right[i] ? 2 : (int)pad + 2, "");
		used += widths[i] + 2;
	}
	if (t->right[last])
		printf("%*s", (int)(widths[last] - text_columns(row[last])), "");
	print_last(c, row[last], used);
}

/* The last column that says anything below its heading. */
static size_t last_column(const struct table *t)
{
	size_t last = 0;

	for (size_t i = t->columns; i < t->count; i++)
		if (*t->cells[i] && i % t->columns > last)
			last = i % t->columns;
	return last;
}

void table_print(struct table *t, const struct cli *c, const char *indent, bool plain)
{
	size_t widths[TABLE_COLUMNS_MAX] = { 0 }, last = last_column(t);

	for (size_t i = plain ? t->columns : 0; i < t->count; i++) {
		size_t w = text_columns(t->cells[i]);

		if (w > widths[i % t->columns])
			widths[i % t->columns] = w;
	}
	for (size_t i = plain ? t->columns : 0; i + t->columns <= t->count; i += t->columns) {
		if (i == 0)
			fputs(paint(c, PAINT_BOLD), stdout);
		print_row(t, c, indent, t->cells + i, widths, last);
		if (i == 0)
			fputs(paint(c, PAINT_NONE), stdout);
	}
	while (t->count > 0)
		free(t->cells[--t->count]);
	free(t->cells);
}
