/* Where the command's words go: results to stdout (perhaps through a pager),
 * everything else to stderr.  Times and sizes as people read them. */
#ifndef SNAPTRAIL_CLI_OUT_H
#define SNAPTRAIL_CLI_OUT_H

#include <stdio.h>

#include "cli/cli.h"

/* Decides on colour, width and pager; once, before the verb. */
void out_setup(struct cli *c);
/* Starts the pager where one is due; before the first line of a result. */
void out_page(struct cli *c);
/* What was printed so far goes out; false, and why is kept, when it cannot. */
bool out_flush(void);
/* The same at the end, and waits for the pager; EXIT_INTERNAL when stdout failed. */
int out_finish(const struct cli *c, int status);

/* Tells an error as one line, the hint in brackets, or with --json as an object;
 * returns `status`. */
int out_error(const struct cli *c, int status, const char *hint, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The same for a failed call of the library. */
int out_failed(const struct cli *c, int code);
int exit_of(int code);
/* A remark on stderr. */
void out_note(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

enum paint { PAINT_NONE, PAINT_BOLD, PAINT_DIM, PAINT_RED, PAINT_GREEN, PAINT_YELLOW, PAINT_CYAN };
/* The escape sequence, or "" without colour; PAINT_NONE ends it. */
const char *paint(const struct cli *c, enum paint p);

#define TIME_WORDS 40
/* `2026-01-31 14:03:22.517`, local unless --utc. */
const char *time_words(uint64_t ns, char ret[TIME_WORDS]);
const char *duration_words(uint64_t ns, char ret[TIME_WORDS]);
const char *size_words(uint64_t bytes, char ret[TIME_WORDS]);
/* 1,234,567 */
const char *count_words(uint64_t n, char ret[TIME_WORDS]);
const char *plural(uint64_t n, const char *one, const char *many);

/* Bytes of somebody else made safe for a terminal: control characters and
 * invalid UTF-8 as \xNN, cut to `width` columns (0: whole).  To be freed. */
char *clean_text(const char *s, size_t len, size_t width);
size_t text_columns(const char *s);
/* A value in one line, strings in quotes.  To be freed. */
char *value_words(const struct snaptrail_value *v, size_t width);
/* A field of an object as value_bare(), "" when it is absent. */
char *field_words(const struct snaptrail_value *v, const char *name);
/* An entity in a phrase: a descriptor's type, state, path and peer, a named
 * value's text; anything else as value_words(). */
char *entity_words(const struct snaptrail_value *v, size_t width);
/* A string's bytes bare, anything else as value_words(). */
char *value_bare(const struct snaptrail_value *v, size_t width);

/* Says on stderr which gaps touch since <= t < until (0: open) of a session. */
void out_gaps(struct cli *c, const char *session, uint64_t since_ns, uint64_t until_ns);

void *must(void *allocated);         /* aborts on NULL */

#endif
