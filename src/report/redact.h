/* What is secret and is not to be told; see redact.c. */
#ifndef SNAPTRAIL_REPORT_REDACT_H
#define SNAPTRAIL_REPORT_REDACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `words` are those of [privacy] patterns, small letters, each with its NUL, an empty one
 * at the end; NULL: nothing is secret. */

/* A name whose value is a secret: it holds one of the words. */
bool secret_name(const char *words, const char *name, uint32_t n);
/* An option without a value, `--password`: what follows it is a secret, unless it is the next one. */
bool secret_option(const char *words, const char *s, uint32_t n);
/* The text with "<redacted>" for each value of such a name and each password in a URL.
 * Writes at most cap bytes to out and returns how many. */
uint32_t secret_hide(const char *words, const char *s, uint32_t n, char *out, uint32_t cap);

#endif
