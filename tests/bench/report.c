/* What one hooked report costs its caller, and whether any is lost.
 *
 *   report cost N            mean ns of sd_notify(0, "STATUS=..."), best of 5 runs
 *   report latency N RATE    percentiles of single calls at RATE a second
 *   report burst RATE MS N T N bursts of MS ms at RATE a second in each of T threads,
 *                            with pauses of 20 ms between
 *   report call NAME N       mean ns of another hooked call
 *
 * sd_notify without NOTIFY_SOCKET does nothing, so the hook is what is
 * measured: an int and a text of 29 bytes, as the LTTng tracepoint beside it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <snaptrail/report.h>
#include <systemd/sd-daemon.h>

#define TEXT "STATUS=abcdefghijklmnopqrstuv" /* 29 bytes */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void do_notify(void) { sd_notify(0, TEXT); }
static void do_setenv(void) { setenv("BENCH", "abcdefghijklmnopqrstuvwxyz", 1); }
static void do_prctl(void) { prctl(PR_SET_NAME, "bench-name"); }
static void do_open(void) { close(open("/dev/null", O_RDONLY)); }
static void do_read(void) { char c; static int fd = -1; if (fd < 0) fd = open("/dev/zero", O_RDONLY); if (read(fd, &c, 1) != 1) abort(); }
static void do_fork(void) { pid_t p = fork(); if (p == 0) _exit(0); waitpid(p, NULL, 0); }
static void do_say_nothing(void) { __asm__ volatile(""); }
static void do_say_set(void) { snaptrail_report_set("cache/size", snaptrail_report_int(42)); }
static void do_say_text(void) { snaptrail_report_set("STATUS", snaptrail_report_text(&TEXT[7])); }
static void do_say_metric(void) { snaptrail_report_metric("qps", 1250.5); }
static void do_say_progress(void) { snaptrail_report_task_progress("t1", 0.5); }
static void do_say_status(void) { snaptrail_report_agent_status("worker-1", "idle"); }
static void do_say_message(void) { snaptrail_report_message_out("orders", "store", snaptrail_report_text("one more")); }
static void *nothing(void *p) { return p; }
static void do_thread(void) { pthread_t t; pthread_create(&t, NULL, nothing, NULL); pthread_join(t, NULL); }

static const struct { const char *name; void (*run)(void); } calls[] = {
	{ "sd_notify", do_notify }, { "setenv", do_setenv }, { "prctl", do_prctl }, { "open+close", do_open },
	{ "read", do_read }, { "fork+wait", do_fork }, { "pthread_create+join", do_thread },
	{ "say nothing", do_say_nothing }, { "say set", do_say_set }, { "say text", do_say_text },
	{ "say metric", do_say_metric }, { "say progress", do_say_progress }, { "say status", do_say_status },
	{ "say message", do_say_message },
};

static int cost(void (*run)(void), long n)
{
	double best = 1e18;

	for (int k = 0; k < 5; k++) {
		uint64_t t = now_ns();

		for (long i = 0; i < n; i++)
			run();
		double each = (double)(now_ns() - t) / (double)n;
		if (each < best)
			best = each;
		usleep(30000);
	}
	printf("%.2f\n", best);
	return 0;
}

/* So many frames of its own above the report. */
static int frames;

__attribute__((noinline, noclone)) static int deeper(int n)
{
	int r = 0;

	if (n == 0)
		do_notify();
	else
		r = deeper(n - 1);
	__asm__ volatile("" : "+r"(r)); /* no tail call */
	return r + 1;
}

static void do_deep(void) { deeper(frames); }

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int latency(long n, double rate)
{
	uint32_t *ticks = calloc((size_t)n, sizeof *ticks);
	uint64_t t0 = now_ns(), c0 = __builtin_ia32_rdtsc();
	double ns_per_tick, step;

	usleep(20000);
	ns_per_tick = (double)(now_ns() - t0) / (double)(__builtin_ia32_rdtsc() - c0);
	step = 1e9 / rate / ns_per_tick;
	c0 = __builtin_ia32_rdtsc();
	for (long i = 0; i < n; i++) {
		uint64_t a, b;

		while (__builtin_ia32_rdtsc() < c0 + (uint64_t)(step * (double)i))
			;
		a = __builtin_ia32_rdtsc();
		sd_notify(0, TEXT);
		b = __builtin_ia32_rdtsc();
		ticks[i] = (uint32_t)(b - a);
	}
	qsort(ticks, (size_t)n, sizeof *ticks, by_number);
	for (int i = 0; i < 4; i++) {
		static const double p[] = { 0.5, 0.99, 0.999, 0.9999 };

		printf("%.0f ", ns_per_tick * ticks[(size_t)((double)(n - 1) * p[i])]);
	}
	printf("\n");
	free(ticks);
	return 0;
}

static double burst_rate;
static long burst_ms, burst_count;

static void *burst(void *p)
{
	uint64_t begun = now_ns(), sent = 0, spent = 0;

	(void)p;
	for (long b = 0; b < burst_count; b++) {
		uint64_t t = now_ns(), end = t + (uint64_t)burst_ms * 1000000u, quota = (uint64_t)(burst_rate * (double)burst_ms / 1e3);

		for (uint64_t i = 0; i < quota; i++) {
			sd_notify(0, TEXT);
			sent++;
		}
		spent += now_ns() - t;
		while (now_ns() < end)
			;
		usleep(20000);
	}
	fprintf(stderr, "sent %llu at %.2f M/s in bursts, %.1f s\n", (unsigned long long)sent,
		(double)sent * 1e3 / (double)spent, (double)(now_ns() - begun) / 1e9);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "cost") == 0)
		return cost(do_notify, atol(argv[2]));
	if (argc == 4 && strcmp(argv[1], "stack") == 0) {
		frames = atoi(argv[2]);
		return cost(do_deep, atol(argv[3]));
	}
	if (argc == 4 && strcmp(argv[1], "call") == 0)
		for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
			if (strcmp(calls[i].name, argv[2]) == 0)
				return cost(calls[i].run, atol(argv[3]));
	if (argc == 4 && strcmp(argv[1], "latency") == 0)
		return latency(atol(argv[2]), atof(argv[3]));
	if (argc == 6 && strcmp(argv[1], "burst") == 0) {
		pthread_t t[8];
		int n = atoi(argv[5]);

		burst_rate = atof(argv[2]);
		burst_ms = atol(argv[3]);
		burst_count = atol(argv[4]);
		for (int i = 1; i < n && i < 8; i++)
			pthread_create(&t[i], NULL, burst, NULL);
		burst(NULL);
		for (int i = 1; i < n && i < 8; i++)
			pthread_join(t[i], NULL);
		return 0;
	}
	fprintf(stderr, "report cost N | stack FRAMES N | latency N RATE | burst RATE MS N THREADS | call NAME N\n");
	return 2;
}
