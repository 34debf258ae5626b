/* Words for time and size: parsing what people type, printing what they read.
 * No state, any thread; local time is the process's TZ. */
#ifndef SNAPTRAIL_BASE_TIMEFMT_H
#define SNAPTRAIL_BASE_TIMEFMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_SEC UINT64_C(1000000000)

/* `30s`, `1h30m`, `1.5s`; units ns us ms s m h d w.  `bare_unit_ns`: what a
 * bare number counts, 0 when a unit is needed.  -EINVAL with a detail. */
int time_parse_duration(const char *text, uint64_t bare_unit_ns, uint64_t *ret_ns);

/* TIME: RFC 3339 (without offset: local), `14:03:22.517` (today, local), `-5m`
 * before now_ns, `+30s` after start_ns, epoch seconds with fraction, 13-digit
 * milliseconds (fraction allowed), 19-digit nanoseconds. */
int time_parse(const char *text, uint64_t start_ns, uint64_t now_ns, uint64_t *ret_ns);

/* Bytes: a number, a fraction allowed, with K, M, G or T (of 1024). */
int size_parse(const char *text, uint64_t *ret_bytes);

#define TIME_TEXT_MAX 40
/* `2026-01-31T14:03:22.517Z`, or local with its offset. */
const char *time_format(uint64_t ns, bool utc, char ret_text[TIME_TEXT_MAX]);

#endif
