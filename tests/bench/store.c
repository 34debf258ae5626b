/* What a large store costs: builds one of N snapshots in 100 sessions, one in a
 * thousand tagged, and prints the time of opening it and of each question.
 *
 *   make -C build bench-store && build/bench-store [N] [FOLDER] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "store/store.h"

#define SESSIONS 100u
#define ROUNDS 100000u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void said(const char *what, uint64_t since, uint64_t n)
{
	printf("%-34s %14.3f us\n", what, (double)(now_ns() - since) / 1000.0 / (double)n);
}

static long resident_kib(void)
{
	long pages = 0, total;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f) {
		if (fscanf(f, "%ld %ld", &total, &pages) != 2)
			pages = 0;
		fclose(f);
	}
	return pages * 4;
}

static struct store *open_it(const char *folder)
{
	struct store_options o = { .type = STORE_DISK, .persist = true, .create = true, .fsync = STORE_FSYNC_NEVER };
	struct store *s;

	if (store_open(folder, &o, &s) < 0)
		exit(1);
	return s;
}

static void fill(struct store *s, unsigned n)
{
	static const char *const tags[] = { "good", NULL };

	for (unsigned i = 0; i < n; i++) {
		struct snapshot_meta m = { .type = i / SESSIONS % 16 ? SNAPSHOT_INCREMENTAL : SNAPSHOT_FULL, .origin = ORIGIN_AUTOMATIC,
					   .time_ns = 1000000000ull * (i + 1), .changes = i % 50 };

		if (i < SESSIONS) {
			struct session_meta run = { .command = "", .profile = "", .boot_id = "", .note = "", .started_ns = i + 1 };
			char name[20];

			snprintf(name, sizeof name, "s%u", i);
			snprintf(run.id, sizeof run.id, "%016x", i);
			run.name = name;
			store_session_begin(s, &run);
		}
		store_new_id(m.id);
		snprintf(m.session_id, sizeof m.session_id, "%016x", i % SESSIONS);
		m.tags = i % 1000 == 7 ? tags : NULL;
		if (store_append(s, &m, &i, sizeof i, 0) < 0)
			exit(1);
	}
}

static int count(void *arg, const struct snapshot_meta *m)
{
	(void)m;
	++*(uint64_t *)arg;
	return 0;
}

static void ask(struct store *s, unsigned n)
{
	static const char *const good[] = { "good", NULL };
	static const struct store_search tagged = { .all = good }, one = { .session_id = "0000000000000005" }, all = { 0 };
	static const struct { const char *what; const struct store_search *q; } searches[] = {
		{ "tag search, first", &tagged }, { "tag search", &tagged }, { "list of a session", &one },
		{ "list of all, first", &all }, { "list of all", &all },
	};
	uint64_t start = now_ns(), hits = 0;
	size_t at;

	for (unsigned i = 0; i < ROUNDS; i++)
		store_snapshot_floor(s, "0000000000000005", 1000000000ull * (i * 7919ull % n), &at);
	said("nearest", start, ROUNDS);
	start = now_ns();
	store_full_floor(s, "0000000000000005", UINT64_MAX, &at);
	said("nearest full, first", start, 1);
	start = now_ns();
	for (unsigned i = 0; i < ROUNDS; i++)
		store_full_floor(s, "0000000000000005", 1000000000ull * (i * 7919ull % n), &at);
	said("nearest full", start, ROUNDS);
	for (size_t i = 0; i < sizeof searches / sizeof *searches; i++) {
		hits = 0;
		start = now_ns();
		store_search(s, searches[i].q, count, &hits);
		said(searches[i].what, start, 1);
		printf("%34s %14llu hits\n", "", (unsigned long long)hits);
	}
}

int main(int argc, char **argv)
{
	unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 1000000;
	const char *folder = argc > 2 ? argv[2] : "/tmp/snaptrail-bench-store";
	struct rusage use;
	struct store *s = open_it(folder);
	uint64_t start = now_ns();

	if (store_snapshot_count(s, NULL) == 0) {
		fill(s, n);
		said("append", start, n);
		start = now_ns();
		store_close(s);
		said("close, writing the index", start, 1);
		s = open_it(folder);
	}
	store_close(s);
	start = now_ns();
	s = open_it(folder);
	said("open, warm", start, 1);
	printf("%-34s %14ld KiB\n", "memory when open", resident_kib());
	ask(s, n);
	getrusage(RUSAGE_SELF, &use);
	printf("%-34s %14ld KiB\n", "most memory", use.ru_maxrss);
	store_close(s);
	return 0;
}
