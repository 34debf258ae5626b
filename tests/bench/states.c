/* What snapshots of large states cost: made, changed, stored, read, compared.
 *
 *   states ENTITIES [FOLDER]
 *
 * Entities as in the field: 20 % agents, 40 % tasks, 30 % memory entries, 10 %
 * resources, 110 to 200 bytes each.  Prints one line a figure: name, unit,
 * median of the runs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "snaptrail.h"

static unsigned entities;
static uint64_t seed = 42;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static uint32_t any(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((seed >> 33) % below);
}

static void put(struct snaptrail_value *o, const char *name, struct snaptrail_value *v) { snaptrail_value_put(o, name, v); }

static void put_text(struct snaptrail_value *o, const char *name, const char *fmt, unsigned a, unsigned b)
{
	char text[120];

	snprintf(text, sizeof text, fmt, a, b);
	put(o, name, snaptrail_value_of_string(text));
}

static enum snaptrail_table kind(unsigned i)
{
	static const enum snaptrail_table of[10] = { SNAPTRAIL_AGENTS, SNAPTRAIL_AGENTS, SNAPTRAIL_TASKS,  SNAPTRAIL_TASKS,
						     SNAPTRAIL_TASKS,  SNAPTRAIL_TASKS,	 SNAPTRAIL_MEMORY, SNAPTRAIL_MEMORY,
						     SNAPTRAIL_MEMORY, SNAPTRAIL_RESOURCES };

	return of[i % 10];
}

static void key_of(char key[24], unsigned i) { snprintf(key, 24, "%s-%u", kind(i) == SNAPTRAIL_AGENTS ? "agent" : "entry", i); }

static struct snaptrail_value *entity(unsigned i)
{
	struct snaptrail_value *o = snaptrail_value_object(), *inner = snaptrail_value_object();

	switch (kind(i)) {
	case SNAPTRAIL_AGENTS:
		put_text(o, "id", "agent-%u", i, 0);
		put_text(o, "status", any(2) ? "busy" : "idle", 0, 0);
		put_text(o, "currentTask", "task-%u", any(100000), 0);
		put_text(inner, "host", "node-%u.eu-west-%u.prod.example.net", any(500), any(4));
		put(inner, "pid", snaptrail_value_of_int(any(4000000)));
		put(o, "variables", inner);
		put(o, "createdAt", snaptrail_value_of_double(1769000000000.0 + any(1000000)));
		put(o, "lastActivity", snaptrail_value_of_double(1769000000000.0 + any(1000000)));
		return o;
	case SNAPTRAIL_TASKS:
		put_text(o, "id", "task-%u", i, 0);
		put_text(o, "agentId", "agent-%u", any(entities), 0);
		put_text(o, "type", "build", 0, 0);
		put_text(o, "status", "running", 0, 0);
		put(o, "progress", snaptrail_value_of_double(any(1000) / 1000.0));
		put(o, "startedAt", snaptrail_value_of_double(1769000000000.0 + any(1000000)));
		put_text(o, "description", "compile /srv/build/%u/src/module-%u.c with what it includes", any(1000), any(1000));
		break;
	case SNAPTRAIL_MEMORY:
		put_text(o, "value", "postgres://db-%u.internal/orders?shard=%u&pool=16&timeout=30s&application=worker", any(100), any(1000));
		put(o, "timestamp", snaptrail_value_of_double(1769000000000.0 + any(1000000)));
		put_text(o, "agentId", "agent-%u", any(entities), 0);
		put_text(o, "type", "config", 0, 0);
		break;
	default:
		put_text(o, "id", "file-%u", i, 0);
		put_text(o, "type", "file", 0, 0);
		put_text(o, "status", "open", 0, 0);
		put_text(inner, "path", "/var/lib/postgresql/15/main/base/%u/%u", any(1000), any(100000));
		put(inner, "pid", snaptrail_value_of_int(any(4000000)));
		put(o, "allocation", inner);
		put(o, "timestamp", snaptrail_value_of_double(1769000000000.0 + any(1000000)));
		return o;
	}
	snaptrail_value_free(inner);
	return o;
}

static struct snaptrail_state *build(void)
{
	struct snaptrail_state *s = snaptrail_state_new();

	for (unsigned i = 0; i < entities; i++) {
		struct snaptrail_value *v = entity(i);
		char key[24];

		key_of(key, i);
		snaptrail_state_set(s, kind(i), key, v);
		snaptrail_value_free(v);
	}
	return s;
}

static void edit(struct snaptrail_state *s, unsigned n)
{
	for (; n; n--) {
		unsigned i = any(entities);
		struct snaptrail_value *v = snaptrail_value_of_double(any(1000000) / 7.0);
		char key[24];

		key_of(key, i);
		snaptrail_state_set_field(s, kind(i), key, kind(i) == SNAPTRAIL_TASKS ? "progress" : "lastActivity", v);
		snaptrail_value_free(v);
	}
}

static int by_number(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void say(const char *name, double *runs, unsigned n, const char *unit)
{
	qsort(runs, n, sizeof *runs, by_number);
	printf("%s\t%s\t%.4g\t(%.4g to %.4g)\n", name, unit, runs[n / 2], runs[0], runs[n - 1]);
	fflush(stdout);
}

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", what, snaptrail_error());
		exit(1);
	}
}

static uint64_t size_of(struct snaptrail *st, const char *id, uint64_t *ret_stored)
{
	struct snaptrail_snapshot s;

	must(snaptrail_get(st, NULL, id, &s), "get");
	*ret_stored = s.stored_bytes;
	return s.size_bytes;
}

static double read_one(struct snaptrail *st, const char *id)
{
	struct snaptrail_point p;
	struct snaptrail_state *s;
	double t = now_ms();

	must(snaptrail_resolve(st, NULL, id, &p), "resolve");
	must(snaptrail_state_at(st, &p, &s), "state");
	t = now_ms() - t;
	snaptrail_state_free(s);
	return t;
}

#define READS 9

/* By a process that has nothing else, as a command is; the store is opened anew
 * each time. */
static void read_elsewhere(const char *folder, const char *id, double ms[READS])
{
	int channel[2];

	must(pipe(channel), "pipe");
	if (fork() == 0) {
		char fd[16];

		snprintf(fd, sizeof fd, "%d", channel[1]);
		execl("/proc/self/exe", "states", "--read", folder, id, fd, (char *)NULL);
		_exit(127);
	}
	close(channel[1]);
	must(read(channel[0], ms, READS * sizeof *ms) == READS * sizeof *ms ? 0 : -EPIPE, "reading elsewhere");
	close(channel[0]);
	wait(NULL);
}

static int read_for_another(const char *folder, const char *id, int fd)
{
	struct snaptrail_settings cfg;
	struct snaptrail *st;
	double ms[READS];

	snaptrail_settings_init(&cfg, sizeof cfg);
	cfg.store = folder;
	for (unsigned i = 0; i < READS; i++) {
		must(snaptrail_open_with(&cfg, 0, &st), "open");
		ms[i] = read_one(st, id);
		snaptrail_close(st);
	}
	return write(fd, ms, sizeof ms) == sizeof ms ? 0 : 1;
}

/* ---- transfer ---- */

struct moving {
	char *data;
	size_t len, cap, at;
};

static int take(void *arg, const void *p, size_t n)
{
	struct moving *m = arg;

	if (m->cap - m->len < n) {
		m->cap = m->cap ? m->cap * 2 : 1 << 20;
		while (m->cap - m->len < n)
			m->cap *= 2;
		m->data = realloc(m->data, m->cap);
	}
	memcpy(m->data + m->len, p, n);
	m->len += n;
	return 0;
}

static int64_t give(void *arg, void *p, size_t n)
{
	struct moving *m = arg;

	if (n > m->len - m->at)
		n = m->len - m->at;
	memcpy(p, m->data + m->at, n);
	m->at += n;
	return (int64_t)n;
}

/* MB/s of raw state: JSON text for JSON, encoded states for binary. */
static void transfer(struct snaptrail *st, int format, uint64_t raw_bytes)
{
	struct snaptrail_settings cfg;
	struct snaptrail *to;
	struct snaptrail_import_result result;
	struct moving m = { 0 };
	double t = now_ms();
	uint64_t raw;

	must((int)snaptrail_export(st, &(struct snaptrail_export_options){ .size = sizeof(struct snaptrail_export_options), .session = "out",
									    .format = format, .write = take, .arg = &m }), "export");
	raw = format == SNAPTRAIL_JSON ? m.len : raw_bytes;
	printf("export, %s\tMB/s\t%.4g\n", format == SNAPTRAIL_JSON ? "JSON" : "binary", (double)raw / 1e3 / (now_ms() - t));
	snaptrail_settings_init(&cfg, sizeof cfg);
	cfg.storage_type = "memory";
	cfg.memory_bytes = 8ull << 30;
	must(snaptrail_open_with(&cfg, SNAPTRAIL_CREATE, &to), "open");
	t = now_ms();
	must(snaptrail_import(to, &(struct snaptrail_import_options){ .size = sizeof(struct snaptrail_import_options), .read = give, .arg = &m },
			      &result), "import");
	printf("import, %s\tMB/s\t%.4g\n", format == SNAPTRAIL_JSON ? "JSON" : "binary", (double)raw / 1e3 / (now_ms() - t));
	snaptrail_close(to);
	free(m.data);
}

int main(int argc, char **argv)
{
	struct snaptrail_settings cfg;
	struct snaptrail *st;
	struct snaptrail_state *s;
	struct snaptrail_create_options now = { .size = sizeof now, .type = "full" }, later = { .size = sizeof later, .later = true };
	char first[17], id[17], other[17], folder[200];
	double runs[64], t, edit_ms;
	uint64_t stored, raw, total = 0, full_stored;
	unsigned rounds, n = 7;

	if (argc > 4 && strcmp(argv[1], "--read") == 0)
		return read_for_another(argv[2], argv[3], atoi(argv[4]));
	entities = argc > 1 ? (unsigned)atoi(argv[1]) : 10000;
	snprintf(folder, sizeof folder, "%s", argc > 2 ? argv[2] : "/tmp/snaptrail-bench-states");
	snaptrail_settings_init(&cfg, sizeof cfg);
	cfg.store = folder;
	cfg.fsync = false;
	cfg.memory_bytes = 4ull << 30;
	cfg.max_bytes = cfg.max_snapshots = cfg.max_retention_ms = 0;
	must(snaptrail_open_with(&cfg, SNAPTRAIL_CREATE, &st), "open");
	t = now_ms();
	s = build();
	printf("built by functions\tns/entity\t%.4g\n", (now_ms() - t) * 1e6 / entities);

	for (unsigned i = 0; i < 3; i++) {
		struct snaptrail_create_options o = now;

		o.later = true;
		t = now_ms();
		must(snaptrail_create(st, "bench", s, &o, first), "create");
		runs[i] = now_ms() - t;
		must(snaptrail_settle(st), "settle");
	}
	say("a whole state handed over", runs, 3, "ms");
	for (unsigned i = 0; i < n; i++) {
		t = now_ms();
		must(snaptrail_create(st, "bench", s, &now, first), "create");
		runs[i] = now_ms() - t;
	}
	say("full: packed, compressed, written", runs, n, "ms");
	raw = size_of(st, first, &full_stored);
	printf("size of a full one\tMB\t%.4g\traw; %.4g stored\n", (double)raw / 1e6, (double)full_stored / 1e6);

	for (unsigned part = 100; part <= 10000; part *= 100) {
		unsigned count = entities / part ? entities / part : 1;

		for (unsigned i = 0; i < n; i++) {
			t = now_ms();
			edit(s, count);
			edit_ms = now_ms() - t;
			t = now_ms();
			must(snaptrail_create(st, "bench", s, &later, id), "create");
			runs[i] = (now_ms() - t) * 1000;
			must(snaptrail_settle(st), "settle");
		}
		printf("an edit of a field\tns\t%.4g\n", edit_ms * 1e6 / count);
		say(part == 100 ? "a snapshot after edits of 1 %" : "a snapshot after edits of 0.01 %", runs, n, "us");
		must(snaptrail_settle(st), "settle");
	}
	rounds = entities > 100000 ? 100 : 1000;
	for (unsigned i = 0; i < rounds; i++) {
		edit(s, entities / 1000 ? entities / 1000 : 1);
		must(snaptrail_create(st, "bench", s, &later, id), "create");
		must(snaptrail_settle(st), "settle");
		size_of(st, id, &stored);
		total += stored;
	}
	printf("saved over %u snapshots of 0.1 %% each\t%%\t%.5g\n", rounds, 100 - 100.0 * (double)total / ((double)full_stored * rounds));
	strcpy(other, id);
	snaptrail_close(st);
	read_elsewhere(folder, id, runs);
	say("reconstructed, nothing at hand", runs, READS, "ms");
	must(snaptrail_open_with(&cfg, 0, &st), "open");
	edit(s, 100);
	must(snaptrail_create(st, "bench", s, &(struct snaptrail_create_options){ .size = sizeof now }, id), "create");
	edit(s, 100);
	must(snaptrail_create(st, "bench", s, &(struct snaptrail_create_options){ .size = sizeof now, .type = "incremental" }, other), "create");
	read_one(st, id);
	read_one(st, other);
	for (unsigned i = 0; i < n; i++) {
		t = now_ms();
		must((int)snaptrail_compare(st, id, other, NULL, NULL, NULL), "compare");
		runs[i] = now_ms() - t;
	}
	say("compared, 100 differences, at hand", runs, n, "ms");
	now.later = false;
	for (unsigned i = 0; i < 3; i++)
		must(snaptrail_create(st, "out", s, &now, first), "create");
	raw = size_of(st, first, &stored) * 3;
	transfer(st, SNAPTRAIL_BINARY, raw);
	transfer(st, SNAPTRAIL_JSON, raw);
	snaptrail_state_free(s);
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	printf("memory at most\tMB\t%.4g\n", (double)u.ru_maxrss / 1e3);
	snaptrail_close(st);
	return 0;
}
