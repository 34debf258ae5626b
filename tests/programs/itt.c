/* flags: -ldl */
/* A client of ITT as the static part of Intel's library makes one: pointers to
 * functions that do nothing until a collector is found by INTEL_LIBITTNOTIFY64. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <snaptrail/report.h>

#include "../../plugin/itt_abi.h"

static void nothing(void) {}

static itt_domain *(*domain_create)(const char *);
static itt_string *(*string_create)(const char *);
static void (*task_begin)(const itt_domain *, itt_id, itt_id, itt_string *);
static void (*task_end)(const itt_domain *);
static void (*begin_overlapped)(const itt_domain *, itt_id, itt_id, itt_string *);
static void (*end_overlapped)(const itt_domain *, itt_id);
static void (*group)(const itt_domain *, itt_id, itt_id, itt_string *);
static void (*region_begin)(const itt_domain *, itt_id, itt_id, itt_string *);
static void (*region_end)(const itt_domain *, itt_id);
static void (*frame_begin)(const itt_domain *, itt_id *);
static void (*frame_end)(const itt_domain *, itt_id *);
static void (*frame_submit)(const itt_domain *, itt_id *, unsigned long long, unsigned long long);
static unsigned long long (*stamp)(void);
static void (*metadata)(const itt_domain *, itt_id, itt_string *, int, size_t, void *);
static void (*metadata_str)(const itt_domain *, itt_id, itt_string *, const char *, size_t);
static void (*name_thread)(const char *);
static void (*marker)(const itt_domain *, itt_id, itt_string *, int);
static void *(*counter)(const char *, const char *, int);
static void (*counter_inc)(void *);
static void (*counter_set)(void *, void *);
static int (*event_create)(const char *, int);
static int (*event_start)(int), (*event_end)(int);
static void (*pause_all)(void), (*resume_all)(void), (*sync_acquired)(void *);

#define F(name, pointer) { "__itt_" name, (void **)&pointer, NULL, nothing, 0 }
static struct itt_api_info list[] = {
	F("domain_create", domain_create), F("string_handle_create", string_create), F("task_begin", task_begin), F("task_end", task_end),
	F("task_begin_overlapped", begin_overlapped), F("task_end_overlapped", end_overlapped), F("task_group", group),
	F("region_begin", region_begin), F("region_end", region_end), F("frame_begin_v3", frame_begin), F("frame_end_v3", frame_end),
	F("frame_submit_v3", frame_submit), F("get_timestamp", stamp), F("metadata_add", metadata), F("metadata_str_add", metadata_str),
	F("thread_set_name", name_thread), F("marker", marker), F("counter_create_typed", counter), F("counter_inc", counter_inc),
	F("counter_set_value", counter_set), F("event_create", event_create), F("event_start", event_start), F("event_end", event_end),
	F("pause", pause_all), F("resume", resume_all), F("sync_acquired", sync_acquired),
	{ 0 },
};

/* Made before any collector is there. */
static itt_domain early = { .flags = 1, .name = "early" };
static itt_string early_name = { .text = "from the start" };
static struct itt_global global = { .version_major = 3, .api_list = list, .domains = &early, .strings = &early_name };
static void *collector;

/* False: nobody collects, or it bound nothing. */
static int find(unsigned long major)
{
	const char *path = getenv("INTEL_LIBITTNOTIFY64");
	void (*init)(struct itt_global *, int);

	for (struct itt_api_info *a = list; a->name; a++)
		*a->function = nothing;
	collector = path ? dlopen(path, RTLD_LAZY) : NULL;
	if (collector == NULL)
		return 0;
	*(void **)&init = dlsym(collector, "__itt_api_init");
	if (init == NULL)
		return 0;
	memcpy(global.magic, itt_magic, 8);
	global.version_major = major;
	init(&global, 0);
	init(&global, 0);
	return (void *)task_begin != (void *)nothing && task_begin;
}

static const itt_id none;

static void everything(void)
{
	itt_domain *d = domain_create("shop");
	itt_string *parse = string_create("parse"), *load = string_create("load"), *key = string_create("rows");
	itt_id group_id = { 0xa1, 0, 0 }, one = { 0xb2, 7, 0 }, frame = { 0xf3, 0, 0 };
	double half = 0.5;
	uint64_t number = 42;
	int32_t three[3] = { 1, -2, 3 };
	void *requests = counter("requests", "shop", ITT_U64), *ratio = counter("ratio", "shop", ITT_DOUBLE);
	int event = event_create("tick", 4);
	unsigned long long then = stamp();

	if (domain_create("early") != &early || string_create("from the start") != &early_name || domain_create("shop") != d)
		puts("made twice");
	name_thread("front");
	task_begin(d, none, none, load);
	metadata(d, none, key, ITT_U64, 1, &number);
	metadata_str(d, none, string_create("password"), "hunter2", 0);
	task_begin(d, none, none, parse);
	task_begin(d, none, none, parse); /* within itself */
	metadata(d, none, key, ITT_S32, 3, three);
	sync_acquired(&number);
	task_end(d);
	task_end(d);
	task_begin(&early, none, none, &early_name);
	task_begin(d, none, none, parse);
	task_end(&early); /* what was left open within ends too */
	task_end(d);
	task_end(d);
	task_end(d); /* never begun */
	group(d, group_id, none, string_create("batch"));
	begin_overlapped(d, one, group_id, load);
	region_begin(d, one, none, string_create("warmup"));
	region_end(d, one);
	end_overlapped(d, one);
	frame_begin(d, NULL);
	frame_end(d, NULL);
	frame_submit(d, &frame, then, then + 1000000);
	marker(d, none, string_create("halfway"), 1);
	for (int i = 0; i < 5; i++)
		counter_inc(requests);
	counter_set(ratio, &half);
	event_start(event);
	event_end(event);
	pause_all();
	task_begin(d, none, none, string_create("unseen"));
	task_end(d);
	resume_all();
	early.flags = 0;
	task_begin(&early, none, none, &early_name);
	task_end(&early);
	printf("%ld\n", syscall(SYS_gettid));
}

static int rounds;

static void *busy(void *arg)
{
	itt_domain *d = domain_create("busy");
	itt_string *names[4] = { string_create("a"), string_create("b"), string_create("c"), string_create((const char *)arg) };

	for (int i = 0; i < rounds; i++) {
		task_begin(d, none, none, names[i % 4]);
		task_begin(d, none, none, names[(i + 1) % 4]);
		task_end(d);
		task_end(d);
	}
	return NULL;
}

/* A thread that is over for the collector already. */
static itt_domain *late_domain;

static void say_late(void *name)
{
	task_begin(late_domain, none, none, string_create(name));
	task_end(late_domain);
}

static void *ends(void *key)
{
	task_begin(late_domain, none, none, string_create("in time"));
	task_end(late_domain);
	pthread_setspecific(*(pthread_key_t *)key, "too late");
	return NULL;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void threads(void)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, busy, "own");
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

static void deep(void)
{
	itt_domain *d = domain_create("deep");

	for (int i = 0; i < 500; i++)
		task_begin(d, none, none, string_create("down"));
	for (int i = 0; i < 500; i++)
		task_end(d);
}

static void late_end(void)
{
	pthread_key_t key;
	pthread_t t;

	late_domain = domain_create("late");
	pthread_key_create(&key, say_late);
	pthread_create(&t, NULL, ends, &key);
	pthread_join(t, NULL);
}

static void pauses(void)
{
	itt_domain *d = domain_create("pause");
	itt_string *outer = string_create("outer"), *inner = string_create("inner");
	itt_id id = { 1, 2, 3 };

	task_begin(d, none, none, outer);
	begin_overlapped(d, id, none, outer);
	pause_all();
	task_begin(d, none, none, inner);
	task_end(d);
	end_overlapped(d, id);
	task_begin(d, none, none, inner); /* ends when it is told again */
	resume_all();
	task_end(d);
	task_end(d);
	task_begin(d, none, none, inner);
	pause_all();
	task_end(d);
}

/* The library whose static part began is unloaded. */
static void gone(void)
{
	void *(*fini)(struct itt_global *);
	itt_domain *d = domain_create("early");

	*(void **)&fini = dlsym(collector, "__itt_api_fini");
	fini(&global);
	puts(d == &early && domain_create("early") != &early ? "its own" : "wrong");
}

static void forks(void)
{
	itt_domain *d = domain_create("fork");
	int status;

	task_begin(d, none, none, string_create("parent's"));
	if (fork() == 0) {
		task_end(d); /* not the child's to end */
		task_begin(d, none, none, string_create("child's"));
		task_end(d);
		printf("%ld\n", syscall(SYS_gettid));
		fflush(stdout);
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	}
	wait(&status);
	dlclose(collector);
	find(3); /* opened again */
	task_end(d);
	printf("%ld %d\n", syscall(SYS_gettid), status);
}

/* The cost of an ITT pair and of a bare report in nanoseconds, medians in turns. */
static void cost(void)
{
	itt_domain *d = domain_create("cost");
	itt_string *s = string_create("pair");
	enum { TURNS = 101, EACH = 400 };
	double pair[TURNS], bare[TURNS];

	for (int k = 0; k < TURNS; k++) {
		double from = now();

		for (int i = 0; i < EACH; i++) {
			task_begin(d, none, none, s);
			task_end(d);
		}
		pair[k] = (now() - from) / EACH;
		usleep(2000);
		from = now();
		for (int i = 0; i < EACH; i++)
			snaptrail_report_task_begin("bare/report/of/a/task", "itt.task", NULL, NULL);
		bare[k] = (now() - from) / EACH;
		usleep(2000);
	}
	qsort(pair, TURNS, sizeof *pair, by_size);
	qsort(bare, TURNS, sizeof *bare, by_size);
	printf("%.1f %.1f\n", pair[TURNS / 2] * 1e9, bare[TURNS / 2] * 1e9);
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "everything", everything }, { "old", everything }, { "threads", threads }, { "deep", deep }, { "late", late_end },
	{ "pause", pauses }, { "gone", gone }, { "fork", forks }, { "cost", cost },
};

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "everything";

	if (argc > 2)
		rounds = atoi(argv[2]);
	if (!find(strcmp(what, "old") ? 3 : 2)) {
		puts("nothing bound");
		return 0;
	}
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		if (strcmp(what, modes[i].name) == 0) {
			modes[i].run();
			return 0;
		}
	}
	return 2;
}
