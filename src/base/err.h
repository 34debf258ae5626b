/* Errors of the library: a negative errno with a fixed meaning, plus one
 * line of detail that says which file, which place, which value.
 *
 * The detail is kept per thread and is valid until the next failing call on
 * that thread.  The library never prints; the command shows the detail. */
#ifndef SNAPTRAIL_BASE_ERR_H
#define SNAPTRAIL_BASE_ERR_H

#include <errno.h>
#include <stdarg.h>

/* The fixed meanings (and the exit code the command gives them):
 *   -EINVAL      bad argument or configuration          2
 *   -ENOENT      reference not found                    4
 *   -EBADMSG     damaged bytes                          5
 *   -EBUSY       locked, or the session is being recorded  6
 *   -EPROTO      a newer or foreign format              6
 *   -ENOEXEC     the program cannot be injected         7
 *   -ENODATA     unknowable: the recording does not cover it  8
 *   -EMLINK      ambiguous reference                    2
 *   anything else is what the operating system said     70 */

/* Keeps the formatted line as this thread's detail and returns `code`. */
int fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#ifdef __clang_analyzer__ /* looks into one file at a time: whoever calls fail() returns less than 0 */
#define fail(code, ...) ((fail)(code, __VA_ARGS__), (code) < 0 ? (code) : -1)
#endif

/* The detail of this thread's last fail(), never NULL, maybe "". */
const char *err_detail(void);

/* The fixed meaning of a negative errno in words. */
const char *err_text(int code);

#endif
