/* Session time: nanoseconds since the epoch on a monotonic clock, labelled as
 * wall clock when the session began.
 *
 * Stamps are TSC ticks where the machine's clocksource is the TSC; a line
 * (tick, time, rate) turns them into session time.  Lines follow each other
 * without a jump: each starts where the last one was, with a slope that meets
 * CLOCK_MONOTONIC again about as far ahead as the measurement reaches back, so
 * that order by stamp and order by time are the same. */
#ifndef SNAPTRAIL_ENGINE_CLOCK_H
#define SNAPTRAIL_ENGINE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct clock_line {
	uint64_t tick, time_ns, rate_q32;
};

#define CLOCK_LINES 32u

struct clock {
	bool use_tsc;
	int64_t offset_ns;          /* session time minus CLOCK_MONOTONIC */
	uint64_t first_tick, first_mono_ns;
	uint64_t next_sync_mono_ns;
	struct clock_line line[CLOCK_LINES]; /* ascending, the last in force */
	size_t lines;
};

/* Starts the clock; with `use_tsc` only if this machine's clocksource is the
 * TSC.  Stamps mean nothing before clock_learn(), which wants a millisecond
 * between the two and waits for what is missing of it. */
void clock_begin(struct clock *c, bool use_tsc);
void clock_learn(struct clock *c);
/* Goes on with the lines of a clock that is gone; without any it learns anew. */
void clock_resume(struct clock *c, bool use_tsc, int64_t offset_ns, const struct clock_line *line, size_t n);
/* Measures again when it is time; call now and then.  True: there is a new line. */
bool clock_sync(struct clock *c);
/* A stamp as session time. */
uint64_t clock_time(const struct clock *c, uint64_t stamp);
uint64_t clock_stamp(const struct clock *c); /* now, as hooks stamp */
uint64_t clock_now(const struct clock *c);   /* now, as session time */
/* Forgets lines that end before `time_ns`. */
void clock_forget(struct clock *c, uint64_t time_ns);
/* The same conversion from recorded lines. */
uint64_t clock_lines_time(const struct clock_line *line, size_t n, int64_t offset_ns, uint64_t stamp);

uint64_t mono_now_ns(void);
uint64_t wall_now_ns(void);

#endif
