/* Session time from TSC ticks; see clock.h.  Used by the recorder on its
 * collecting thread and, with recorded lines, by readers. */
#include "engine/clock.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "report/change.h"

#define LEARN_NS 1000000u /* how long the first rate is measured: 20 ns of error in 1 ms */

static long bare_clock(clockid_t id, struct timespec *ts) { return syscall(SYS_clock_gettime, id, ts); }

/* The kernel's clock and not libc's name for it, which a preload may have made its own:
 * programs that are told another time are recorded at the true one. */
static uint64_t read_clock(clockid_t id)
{
	static long (*kernel_clock)(clockid_t id, struct timespec *ts);
	struct timespec ts;

	if (__atomic_load_n(&kernel_clock, __ATOMIC_ACQUIRE) == NULL) { /* whoever is here at once finds the same */
		void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD), *f = vdso ? dlsym(vdso, "__vdso_clock_gettime") : NULL;

		__atomic_store_n((void **)&kernel_clock, f ? f : (void *)bare_clock, __ATOMIC_RELEASE);
	}
	kernel_clock(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t mono_now_ns(void) { return read_clock(CLOCK_MONOTONIC); }
uint64_t wall_now_ns(void) { return read_clock(CLOCK_REALTIME); }

static uint64_t tick_now(void) { return __builtin_ia32_rdtsc() & ~STAMP_MONOTONIC; }

/* One instant on both clocks: the closest of a few tries. */
static void sample(uint64_t *ret_tick, uint64_t *ret_mono)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		uint64_t a = tick_now(), mono = mono_now_ns(), b = tick_now();

		if (i == 0 || b - a < best) {
			best = b - a;
			*ret_tick = a + (b - a) / 2;
			*ret_mono = mono;
		}
	}
}

static bool clocksource_is_tsc(void)
{
	char name[16] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (read(fd, name, sizeof name - 1) < 0)
		name[0] = 0;
	close(fd);
	return strncmp(name, "tsc", 3) == 0;
}

static uint64_t rate_of(uint64_t ns, uint64_t ticks)
{
	return ticks ? (uint64_t)(((unsigned __int128)ns << 32) / ticks) : 0;
}

void clock_begin(struct clock *c, bool use_tsc)
{
	*c = (struct clock){ .use_tsc = use_tsc && clocksource_is_tsc() };
	c->offset_ns = (int64_t)(wall_now_ns() - mono_now_ns());
	if (c->use_tsc)
		sample(&c->first_tick, &c->first_mono_ns);
}

void clock_learn(struct clock *c)
{
	uint64_t tick, mono;

	if (!c->use_tsc || c->lines)
		return;
	while (mono_now_ns() - c->first_mono_ns < LEARN_NS)
		;
	sample(&tick, &mono);
	c->line[0] = (struct clock_line){ c->first_tick, c->first_mono_ns + (uint64_t)c->offset_ns,
					  rate_of(mono - c->first_mono_ns, tick - c->first_tick) };
	c->lines = 1;
	c->next_sync_mono_ns = mono + 10 * LEARN_NS;
}

void clock_resume(struct clock *c, bool use_tsc, int64_t offset_ns, const struct clock_line *line, size_t n)
{
	*c = (struct clock){ .use_tsc = use_tsc, .offset_ns = offset_ns };
	if (!use_tsc)
		return;
	if (n == 0) {
		sample(&c->first_tick, &c->first_mono_ns);
		clock_learn(c);
		return;
	}
	memcpy(c->line, line, n * sizeof *line);
	c->lines = n;
	/* A rate is measured between readings of both clocks, never from a line, whose error
	 * each that resumes would multiply. */
	sample(&c->first_tick, &c->first_mono_ns);
	c->next_sync_mono_ns = c->first_mono_ns + LEARN_NS;
}

static uint64_t on_line(const struct clock_line *l, uint64_t tick)
{
	if (tick >= l->tick)
		return l->time_ns + (uint64_t)(((unsigned __int128)(tick - l->tick) * l->rate_q32) >> 32);
	return l->time_ns - (uint64_t)(((unsigned __int128)(l->tick - tick) * l->rate_q32) >> 32);
}

bool clock_sync(struct clock *c)
{
	uint64_t tick, mono, predicted, truth, reach, rate;
	int64_t error, bend;

	if (!c->use_tsc || c->lines == 0 || mono_now_ns() < c->next_sync_mono_ns)
		return false;
	sample(&tick, &mono);
	reach = mono - c->first_mono_ns;
	if (reach > 10000000000u)
		reach = 10000000000u;
	predicted = on_line(&c->line[c->lines - 1], tick);
	truth = mono + (uint64_t)c->offset_ns;
	rate = rate_of(mono - c->first_mono_ns, tick - c->first_tick);
	error = (int64_t)(truth - predicted);
	bend = (int64_t)((double)rate * (double)error / (double)(reach * 9));
	if (bend > (int64_t)(rate / 1000))
		bend = (int64_t)(rate / 1000);
	if (bend < -(int64_t)(rate / 1000))
		bend = -(int64_t)(rate / 1000);
	if (c->lines == CLOCK_LINES) {
		memmove(c->line, c->line + 1, (CLOCK_LINES - 1) * sizeof *c->line);
		c->lines--;
	}
	c->line[c->lines++] = (struct clock_line){ tick, predicted, (uint64_t)((int64_t)rate + bend) };
	c->next_sync_mono_ns = mono + reach * 9;
	return true;
}

uint64_t clock_lines_time(const struct clock_line *line, size_t n, int64_t offset_ns, uint64_t stamp)
{
	if (stamp & STAMP_MONOTONIC)
		return (stamp & ~STAMP_MONOTONIC) + (uint64_t)offset_ns;
	if (n == 0)
		return stamp;
	while (n > 1 && line[n - 1].tick > stamp)
		n--;
	return on_line(&line[n - 1], stamp);
}

uint64_t clock_time(const struct clock *c, uint64_t stamp)
{
	return clock_lines_time(c->line, c->lines, c->offset_ns, stamp);
}

uint64_t clock_stamp(const struct clock *c)
{
	return c->use_tsc ? tick_now() : mono_now_ns() | STAMP_MONOTONIC;
}

uint64_t clock_now(const struct clock *c) { return clock_time(c, clock_stamp(c)); }

void clock_forget(struct clock *c, uint64_t time_ns)
{
	while (c->lines > 1 && c->line[1].time_ns < time_ns) {
		memmove(c->line, c->line + 1, (c->lines - 1) * sizeof *c->line);
		c->lines--;
	}
}
