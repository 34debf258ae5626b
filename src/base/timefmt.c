/* Durations, instants and sizes as people write them.  Used by the
 * configuration, the reference resolver and the public parse calls.  All
 * arithmetic is on integers, so what is typed is what is meant to the
 * nanosecond; whatever would overflow is refused. */
#include "base/timefmt.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/err.h"

struct unit {
	const char *name;
	uint64_t scale;
};

static const struct unit time_units[] = {
	{ "ns", 1 }, { "us", 1000 }, { "\302\265s", 1000 }, { "ms", NSEC_PER_MSEC },
	{ "s", NSEC_PER_SEC }, { "m", 60 * NSEC_PER_SEC }, { "h", 3600 * NSEC_PER_SEC },
	{ "d", 86400 * NSEC_PER_SEC }, { "w", 7 * 86400 * NSEC_PER_SEC }, { NULL, 0 },
};

static const struct unit size_units[] = {
	{ "B", 1 }, { "K", UINT64_C(1) << 10 }, { "M", UINT64_C(1) << 20 },
	{ "G", UINT64_C(1) << 30 }, { "T", UINT64_C(1) << 40 }, { NULL, 0 },
};

/* A decimal number: digits, then maybe '.' and digits. */
struct number {
	uint64_t whole;
	char fraction[20];           /* "" for none; digits beyond 19 are dropped */
	size_t digits;               /* of the whole part */
};

static bool read_number(const char **text, struct number *ret)
{
	const char *p = *text;
	size_t n = 0;

	memset(ret, 0, sizeof *ret);
	for (; isdigit((unsigned char)*p); p++, ret->digits++)
		if (__builtin_mul_overflow(ret->whole, 10, &ret->whole) ||
		    __builtin_add_overflow(ret->whole, (uint64_t)(*p - '0'), &ret->whole))
			return false;
	if (ret->digits == 0)
		return false;
	if (*p == '.' && isdigit((unsigned char)p[1]))
		for (p++; isdigit((unsigned char)*p); p++)
			if (n < sizeof ret->fraction - 1)
				ret->fraction[n++] = *p;
	*text = p;
	return true;
}

/* whole.fraction * scale, rounded down. */
static bool scale_number(const struct number *n, uint64_t scale, uint64_t *ret)
{
	unsigned __int128 part = 0, ten = 1;
	uint64_t result;

	for (const char *p = n->fraction; *p; p++) {
		part = part * 10 + (unsigned)(*p - '0');
		ten *= 10;
	}
	if (__builtin_mul_overflow(n->whole, scale, &result))
		return false;
	/* 19 digits times a week's nanoseconds stay below 2^128. */
	return !__builtin_add_overflow(result, (uint64_t)(part * scale / ten), ret);
}

/* The longest unit that the letters at *text spell in full. */
static const struct unit *read_unit(const struct unit *units, const char **text)
{
	size_t len = 0;

	while ((*text)[len] && !isdigit((unsigned char)(*text)[len]) && (*text)[len] != ' ')
		len++;
	for (; units->name; units++) {
		if (strlen(units->name) == len && memcmp(units->name, *text, len) == 0) {
			*text += len;
			return units;
		}
	}
	return NULL;
}

int time_parse_duration(const char *text, uint64_t bare_unit_ns, uint64_t *ret_ns)
{
	const char *p = text;
	uint64_t total = 0, part;
	struct number n;

	do {
		const struct unit *u;
		uint64_t scale = bare_unit_ns;

		if (!read_number(&p, &n))
			return fail(-EINVAL, "bad duration '%.60s': write it like 30s, 1h30m or 500ms", text);
		if (*p || !scale || p == text) {
			u = *p ? read_unit(time_units, &p) : NULL;
			if (!u && !*p)
				return fail(-EINVAL, "duration '%.60s' needs a unit: %.20ss, %.20sms, %.20sm ...", text, text, text, text);
			if (!u)
				return fail(-EINVAL, "bad duration '%.60s': units are ns us ms s m h d w", text);
			scale = u->scale;
		}
		if (!scale_number(&n, scale, &part) || __builtin_add_overflow(total, part, &total))
			return fail(-EINVAL, "duration '%.60s' is too long", text);
		bare_unit_ns = 0; /* `5m3` says no clear thing */
	} while (*p);
	*ret_ns = total;
	return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	const char *p = text;
	struct number n;
	uint64_t scale = 1;

	if (!read_number(&p, &n))
		return fail(-EINVAL, "bad size '%.60s': write it like 4096, 64K, 1G", text);
	if (*p) {
		char unit[2] = { (char)toupper((unsigned char)*p), 0 };
		const char *q = unit;
		const struct unit *u = read_unit(size_units, &q);

		/* K, KB and KiB are the same thing. */
		p++;
		if (u && u->scale > 1 && (strcasecmp(p, "b") == 0 || strcasecmp(p, "ib") == 0))
			p += strlen(p);
		if (!u || *p)
			return fail(-EINVAL, "bad size '%.60s': sizes take K, M, G", text);
		scale = u->scale;
	}
	if (!scale_number(&n, scale, ret_bytes))
		return fail(-EINVAL, "size '%.60s' is too large", text);
	return 0;
}

/* n digits at *p as a number; -1 when they are not there. */
static int fixed_digits(const char **p, int n)
{
	int v = 0;

	for (; n > 0; n--, (*p)++) {
		if (!isdigit((unsigned char)**p))
			return -1;
		v = v * 10 + (**p - '0');
	}
	return v;
}

/* `HH:MM[:SS[.fraction]]` */
static bool read_clock(const char **p, struct tm *tm, uint64_t *ret_frac_ns)
{
	*ret_frac_ns = 0;
	tm->tm_hour = fixed_digits(p, 2);
	if (tm->tm_hour < 0 || tm->tm_hour > 23 || *(*p)++ != ':')
		return false;
	tm->tm_min = fixed_digits(p, 2);
	if (tm->tm_min < 0 || tm->tm_min > 59)
		return false;
	tm->tm_sec = 0;
	if (**p != ':')
		return true;
	(*p)++;
	tm->tm_sec = fixed_digits(p, 2);
	if (tm->tm_sec < 0 || tm->tm_sec > 60)
		return false;
	if (**p == '.' && isdigit((unsigned char)(*p)[1])) {
		uint64_t place = NSEC_PER_SEC / 10;

		for ((*p)++; isdigit((unsigned char)**p); (*p)++, place /= 10)
			*ret_frac_ns += (uint64_t)(**p - '0') * place;
	}
	return true;
}

/* `Z`, `+02:00` or nothing (local).  Seconds east of Greenwich. */
static bool read_offset(const char **p, bool *ret_local, long *ret_offset)
{
	int sign, hours, minutes;

	*ret_local = **p == '\0';
	*ret_offset = 0;
	if (*ret_local)
		return true;
	if (**p == 'Z' || **p == 'z') {
		(*p)++;
		return **p == '\0';
	}
	if (**p != '+' && **p != '-')
		return false;
	sign = *(*p)++ == '-' ? -1 : 1;
	hours = fixed_digits(p, 2);
	if (**p == ':')
		(*p)++;
	minutes = fixed_digits(p, 2);
	if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
		return false;
	*ret_offset = sign * (hours * 3600L + minutes * 60L);
	return **p == '\0';
}

static bool finish(struct tm *tm, bool local, long offset, uint64_t frac_ns, uint64_t *ret_ns)
{
	time_t t;

	tm->tm_isdst = -1;
	t = local ? mktime(tm) : timegm(tm) - offset;
	if (t < 0 || (uint64_t)t > UINT64_MAX / NSEC_PER_SEC - 1)
		return false;
	*ret_ns = (uint64_t)t * NSEC_PER_SEC + frac_ns;
	return true;
}

/* `YYYY-MM-DD` and maybe a clock and an offset. */
static bool parse_rfc3339(const char *p, uint64_t *ret_ns)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	struct tm tm = { 0 };
	uint64_t frac_ns = 0;
	bool local = true;
	long offset = 0;
	int year, leap;

	year = fixed_digits(&p, 4);
	if (year < 1970 || *p++ != '-')
		return false;
	leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	tm.tm_year = year - 1900;
	tm.tm_mon = fixed_digits(&p, 2) - 1;
	if (tm.tm_mon < 0 || tm.tm_mon > 11 || *p++ != '-')
		return false;
	tm.tm_mday = fixed_digits(&p, 2);
	if (tm.tm_mday < 1 || tm.tm_mday > days[tm.tm_mon] + (tm.tm_mon == 1 && leap))
		return false;
	if (*p) {
		if (*p != 'T' && *p != 't' && *p != ' ')
			return false;
		p++;
		if (!read_clock(&p, &tm, &frac_ns) || !read_offset(&p, &local, &offset))
			return false;
	}
	return finish(&tm, local, offset, frac_ns, ret_ns);
}

static bool parse_clock_today(const char *p, uint64_t now_ns, uint64_t *ret_ns)
{
	time_t now = (time_t)(now_ns / NSEC_PER_SEC);
	uint64_t frac_ns;
	struct tm tm;

	if (!localtime_r(&now, &tm) || !read_clock(&p, &tm, &frac_ns) || *p)
		return false;
	return finish(&tm, true, 0, frac_ns, ret_ns);
}

/* What a bare number counts is told by its digits. */
static bool parse_epoch(const char *p, uint64_t *ret_ns)
{
	struct number n;
	uint64_t scale;

	if (!read_number(&p, &n) || *p)
		return false;
	if (n.digits <= 11)
		scale = NSEC_PER_SEC;
	else if (n.digits == 13)
		scale = NSEC_PER_MSEC;
	else if (n.digits == 19)
		scale = 1;
	else
		return false;
	return scale_number(&n, scale, ret_ns);
}

int time_parse(const char *text, uint64_t start_ns, uint64_t now_ns, uint64_t *ret_ns)
{
	uint64_t d;

	if (text[0] == '-' || text[0] == '+') {
		int r = time_parse_duration(text + 1, 0, &d);

		if (r < 0) {
			char why[256];

			snprintf(why, sizeof why, "%s", err_detail());
			return fail(r, "bad time '%.60s': %s", text, why);
		}
		if (text[0] == '-' ? __builtin_sub_overflow(now_ns, d, ret_ns)
				   : __builtin_add_overflow(start_ns, d, ret_ns))
			return fail(-EINVAL, "time '%.60s' is out of range", text);
		return 0;
	}
	if (parse_epoch(text, ret_ns))
		return 0;
	if (strlen(text) >= 5 && text[2] == ':' && parse_clock_today(text, now_ns, ret_ns))
		return 0;
	if (strlen(text) >= 10 && text[4] == '-' && parse_rfc3339(text, ret_ns))
		return 0;
	return fail(-EINVAL, "bad time '%.60s': write it like 2026-01-31T14:03:22Z, 14:03:22.517, -5m, +30s "
		    "or seconds, milliseconds (13 digits) or nanoseconds (19) since 1970", text);
}

const char *time_format(uint64_t ns, bool utc, char ret_text[TIME_TEXT_MAX])
{
	time_t t = (time_t)(ns / NSEC_PER_SEC);
	char zone[8] = "Z", day[24];
	struct tm tm;

	if (!(utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm)))
		return strcpy(ret_text, "?");
	strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!utc)
		snprintf(zone, sizeof zone, "%c%02ld:%02ld", tm.tm_gmtoff < 0 ? '-' : '+',
			 labs(tm.tm_gmtoff) / 3600 % 100, labs(tm.tm_gmtoff) / 60 % 60);
	snprintf(ret_text, TIME_TEXT_MAX, "%s.%03u%s", day, (unsigned)(ns / NSEC_PER_MSEC % 1000), zone);
	return ret_text;
}
