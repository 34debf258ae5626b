/* Says everything that snaptrail/report.h can say, by part:
 *   spoken all         agents, tasks, every type of value, messages, metrics; prints a line each that fails
 *   spoken nothing     the same with nothing injected expected: every call is -ENOSYS, errno stays
 *   spoken threads     four threads, and an agent each
 *   spoken fork        a child that speaks for itself and dies
 *   spoken signal      reports from a handler that interrupts reports
 *   spoken secret      keys and texts that must not be seen
 *   spoken wrong       what is refused, and how
 *   spoken dies        leaves agents and tasks behind
 *   spoken again       names that are used again, healing
 *   spoken marks       two marks and a value between
 *   spoken snapshot    a snapshot with tags, then waits for a line on stdin
 *   spoken hold        an agent at a task, a snapshot, then waits for a line on stdin
 *   spoken flood N     N snapshots asked for as fast as can be
 *   spoken execs N     asks for a snapshot, executes itself while that is made, N times */
#include <snaptrail/report.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int expected, failures;

#define SAY(call) \
	do { \
		errno = 4711; \
		int got_ = (call); \
		if (got_ != expected || errno != 4711) { \
			printf("%s: %d, errno %d\n", #call, got_, errno); \
			failures++; \
		} \
	} while (0)

static void values(void)
{
	static char room[2000];
	struct snaptrail_report_builder b;

	SAY(snaptrail_report_set("v/null", snaptrail_report_null()));
	SAY(snaptrail_report_set("v/true", snaptrail_report_bool(1)));
	SAY(snaptrail_report_set("v/false", snaptrail_report_bool(0)));
	SAY(snaptrail_report_set("v/zero", snaptrail_report_int(0)));
	SAY(snaptrail_report_set("v/least", snaptrail_report_int(INT64_MIN)));
	SAY(snaptrail_report_set("v/most", snaptrail_report_int(INT64_MAX)));
	SAY(snaptrail_report_set("v/huge", snaptrail_report_uint(UINT64_MAX)));
	SAY(snaptrail_report_set("v/real", snaptrail_report_double(0.1)));
	SAY(snaptrail_report_set("v/text", snaptrail_report_text("gr\xc3\xbc\xc3\x9f" "e \"x\"\n")));
	SAY(snaptrail_report_set("v/empty", snaptrail_report_text("")));
	SAY(snaptrail_report_set("v/bytes", snaptrail_report_bytes("\0\xff\1", 3)));
	SAY(snaptrail_report_set("v/gone", snaptrail_report_int(1)));
	SAY(snaptrail_report_delete("v/gone"));
	snaptrail_report_build(&b, room, sizeof room);
	snaptrail_report_object(&b, NULL);
	snaptrail_report_add(&b, "z", snaptrail_report_int(1));
	snaptrail_report_add(&b, "a", snaptrail_report_null());
	snaptrail_report_list(&b, "list");
	snaptrail_report_add(&b, NULL, snaptrail_report_double(2.5));
	snaptrail_report_list(&b, NULL);
	snaptrail_report_close(&b);
	snaptrail_report_object(&b, NULL);
	snaptrail_report_close(&b);
	snaptrail_report_add(&b, NULL, snaptrail_report_uint(UINT64_MAX));
	snaptrail_report_close(&b);
	snaptrail_report_object(&b, "in");
	snaptrail_report_add(&b, "", snaptrail_report_bool(1));
	snaptrail_report_close(&b);
	snaptrail_report_close(&b);
	SAY(snaptrail_report_set("v/object", snaptrail_report_built(&b)));
	snaptrail_report_build(&b, room, sizeof room);
	snaptrail_report_list(&b, NULL);
	snaptrail_report_close(&b);
	SAY(snaptrail_report_set("v/list", snaptrail_report_built(&b)));
}

static void all(void)
{
	struct snaptrail_report r = { .size = sizeof r, .kind = SNAPTRAIL_REPORT_AGENT_BEGIN };

	SAY(snaptrail_report_agent_begin("worker-1", "worker", NULL));
	SAY(snaptrail_report_agent_status("worker-1", "idle"));
	SAY(snaptrail_report_agent_begin("worker-2", NULL, "worker-1"));
	SAY(snaptrail_report_agent_end("worker-2", "no more work"));
	SAY(snaptrail_report_agent_begin("worker-3", NULL, NULL));
	SAY(snaptrail_report_agent_fail("worker-3", "out of memory"));
	SAY(snaptrail_report_task_begin("t1", "sort", "worker-1", "sort 10 rows"));
	SAY(snaptrail_report_task_progress("t1", 0.25));
	SAY(snaptrail_report_task_begin("t2", NULL, NULL, NULL));
	SAY(snaptrail_report_task_complete("t2", "42 rows"));
	SAY(snaptrail_report_task_begin("t3", NULL, "worker-1", NULL));
	SAY(snaptrail_report_task_fail("t3", "no such table"));
	SAY(snaptrail_report_task_begin("t4", NULL, "worker-1", NULL));
	SAY(snaptrail_report_task_complete_with("t4", snaptrail_report_int(-7)));
	SAY(snaptrail_report_metric("qps", 1250.5));
	SAY(snaptrail_report_message_in("orders", "shop", snaptrail_report_text("one")));
	SAY(snaptrail_report_message_out("orders", "store", snaptrail_report_int(2)));
	SAY(snaptrail_report_message_out("orders", NULL, snaptrail_report_null()));
	values();
	r.key = "dated";
	r.key_len = SNAPTRAIL_REPORT_TO_NUL;
	r.time_ns = 1500000000250000000;
	SAY(snaptrail_report_send(&r));
	r.kind = SNAPTRAIL_REPORT_VALUE_SET;
	r.agent = "dated and more";
	r.agent_len = 5;
	r.value_type = SNAPTRAIL_REPORT_INT;
	r.value.integer = 5;
	SAY(snaptrail_report_send(&r));
	SAY(snaptrail_report_mark("done"));
	SAY(snaptrail_report_snapshot(NULL, NULL));
}

static void *thread(void *p)
{
	char name[32];

	snprintf(name, sizeof name, "thread-%d", (int)(intptr_t)p);
	SAY(snaptrail_report_agent_begin(name, "thread-worker", NULL));
	SAY(snaptrail_report_task_begin(name, NULL, name, NULL));
	for (int i = 0; i <= 1000; i++)
		SAY(snaptrail_report_set(name, snaptrail_report_int(i)));
	SAY(snaptrail_report_agent_status(name, "idle"));
	return NULL;
}

static void threads(void)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, thread, (void *)(intptr_t)i);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

static void forked(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		SAY(snaptrail_report_agent_begin("child", NULL, NULL));
		SAY(snaptrail_report_set("by-child", snaptrail_report_int(getpid())));
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	SAY(snaptrail_report_set("by-parent", snaptrail_report_int(getpid())));
}

static volatile sig_atomic_t ticks, bad_ticks;

static void on_alarm(int sig)
{
	int saved = errno;

	(void)sig;
	errno = 4711;
	if (snaptrail_report_set("ticks", snaptrail_report_int(ticks + 1)) != 0 || errno != 4711)
		bad_ticks++;
	ticks++;
	errno = saved;
}

static void signals(void)
{
	struct sigaction a = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	long sum = 0;

	sigaction(SIGALRM, &a, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	while (ticks < 400)
		sum += snaptrail_report_metric("spins", (double)ticks);
	setitimer(ITIMER_REAL, &never, NULL);
	/* The loop may outrun any ring: losses are fine here, wrong answers are not. */
	while (snaptrail_report_set("last", snaptrail_report_int(ticks)) == -ENOBUFS)
		usleep(1000);
	if (sum % ENOBUFS || (bad_ticks && sum == 0))
		failures++;
	printf("%d\n", (int)ticks);
}

static void secret(void)
{
	static char room[500];
	struct snaptrail_report_builder b;

	SAY(snaptrail_report_set("db/password", snaptrail_report_text("hunter2-key")));
	SAY(snaptrail_report_set("API_TOKEN", snaptrail_report_int(424242424242)));
	SAY(snaptrail_report_set("db/url", snaptrail_report_text("postgres://joe:hunter2-url@host/db")));
	SAY(snaptrail_report_task_begin("dial", NULL, NULL, "password=hunter2-text now"));
	SAY(snaptrail_report_task_fail("dial", "no: postgres://joe:hunter2-error@host/db"));
	snaptrail_report_build(&b, room, sizeof room);
	snaptrail_report_object(&b, NULL);
	snaptrail_report_add(&b, "user", snaptrail_report_text("joe"));
	snaptrail_report_add(&b, "password", snaptrail_report_text("hunter2-pair"));
	snaptrail_report_object(&b, "secret");
	snaptrail_report_add(&b, "x", snaptrail_report_text("hunter2-nested"));
	snaptrail_report_close(&b);
	snaptrail_report_add(&b, "after", snaptrail_report_int(3));
	snaptrail_report_close(&b);
	SAY(snaptrail_report_set("login", snaptrail_report_built(&b)));
	SAY(snaptrail_report_set("plain", snaptrail_report_text("colour=red: fine")));
}

static int with(uint32_t size, uint32_t kind, uint32_t flags, const char *key)
{
	struct { struct snaptrail_report r; uint64_t more; } big;

	memset(&big, 0, sizeof big);
	big.more = size == sizeof big;
	big.r.size = size;
	big.r.kind = kind;
	big.r.flags = flags;
	big.r.key = key;
	big.r.key_len = SNAPTRAIL_REPORT_TO_NUL;
	return snaptrail_report_send(&big.r);
}

static int encoded(const char *bytes, size_t n)
{
	struct snaptrail_report_value v = { .type = SNAPTRAIL_REPORT_ENCODED, .is = { .bytes = bytes }, .len = n };

	return snaptrail_report_set("wrong", v);
}

static void wrong(void)
{
	static char longer[SNAPTRAIL_REPORT_VALUE_MAX + 2];
	struct snaptrail_report_value unknown = { .type = 9 };
	struct snaptrail_report_builder b;
	char room[8];

	memset(longer, 'x', sizeof longer - 1);
	expected = -EINVAL;
	SAY(snaptrail_report_send(NULL));
	SAY(with(8, SNAPTRAIL_REPORT_MARK, 0, "wrong"));
	SAY(with(sizeof(struct snaptrail_report), 99, 0, "wrong"));
	SAY(with(sizeof(struct snaptrail_report), SNAPTRAIL_REPORT_MARK, 1, "wrong"));
	SAY(snaptrail_report_mark(""));
	SAY(snaptrail_report_mark(NULL));
	SAY(snaptrail_report_agent_begin("p12", NULL, NULL));
	SAY(snaptrail_report_task_begin("p12/x", NULL, NULL, NULL));
	SAY(snaptrail_report_agent_status("wrong", NULL));
	SAY(snaptrail_report_task_progress("wrong", 1.5));
	SAY(snaptrail_report_task_progress("wrong", -0.1));
	SAY(snaptrail_report_set("wrong", unknown));
	SAY(encoded("", 0));
	SAY(encoded("\x32\x05" "abc", 5));
	SAY(encoded("\x42\x02\x12\x00", 4));
	SAY(encoded("\xff\xff\xff\xff", 4));
	snaptrail_report_build(&b, room, sizeof room);
	snaptrail_report_list(&b, NULL);
	snaptrail_report_add(&b, NULL, snaptrail_report_text("too long for it"));
	snaptrail_report_close(&b);
	SAY(snaptrail_report_set("wrong", snaptrail_report_built(&b)));
	expected = -EMSGSIZE;
	SAY(snaptrail_report_set("wrong", snaptrail_report_text(longer)));
	SAY(snaptrail_report_mark(longer));
	expected = -E2BIG;
	SAY(with(sizeof(struct snaptrail_report) + 8, SNAPTRAIL_REPORT_MARK, 0, "wrong"));
	expected = 0;
	longer[SNAPTRAIL_REPORT_VALUE_MAX] = 0;
	SAY(snaptrail_report_set("longest", snaptrail_report_text(longer)));
	SAY(snaptrail_report_agent_begin("p", NULL, NULL));
	SAY(snaptrail_report_agent_begin("p1x", NULL, NULL));
}

static void dies(void)
{
	SAY(snaptrail_report_agent_begin("left", NULL, NULL));
	SAY(snaptrail_report_agent_begin("ended", NULL, NULL));
	SAY(snaptrail_report_agent_end("ended", NULL));
	SAY(snaptrail_report_task_begin("left", NULL, "left", NULL));
	SAY(snaptrail_report_set("kept", snaptrail_report_int(1)));
}

static void again(void)
{
	SAY(snaptrail_report_agent_begin("a", "first", NULL));
	SAY(snaptrail_report_agent_end("a", "done"));
	SAY(snaptrail_report_agent_begin("a", NULL, NULL));
	SAY(snaptrail_report_task_progress("healed", 0.5));
	SAY(snaptrail_report_task_begin("outer", NULL, "a", NULL));
	SAY(snaptrail_report_task_begin("inner", NULL, "a", NULL));
	SAY(snaptrail_report_mark("both"));
	SAY(snaptrail_report_task_complete("inner", NULL));
	SAY(snaptrail_report_mark("one"));
	SAY(snaptrail_report_task_complete("outer", NULL));
	SAY(snaptrail_report_mark("none"));
}

static void marks(void)
{
	SAY(snaptrail_report_set("x", snaptrail_report_int(1)));
	SAY(snaptrail_report_mark("a"));
	SAY(snaptrail_report_set("x", snaptrail_report_int(2)));
	SAY(snaptrail_report_mark("b"));
	SAY(snaptrail_report_set("x", snaptrail_report_int(3)));
	usleep(1000); /* times are shown in microseconds: a later one */
	SAY(snaptrail_report_mark("a"));
	SAY(snaptrail_report_set("x", snaptrail_report_int(4)));
}

static void snapshot(void)
{
	SAY(snaptrail_report_set("x", snaptrail_report_text("before")));
	SAY(snaptrail_report_snapshot("release, v2,,red", "before the release"));
	SAY(snaptrail_report_set("x", snaptrail_report_text("after")));
	getchar();
}

static void hold(void)
{
	SAY(snaptrail_report_agent_begin("held", NULL, NULL));
	SAY(snaptrail_report_task_begin("held", NULL, "held", NULL));
	SAY(snaptrail_report_snapshot("middle", NULL));
	getchar();
}

static void flood(int n)
{
	for (int i = 0; i < n; i++) {
		char tags[32];

		snprintf(tags, sizeof tags, "n%d", i % 60);
		SAY(snaptrail_report_snapshot(tags, NULL));
		usleep(1000);
	}
}

static void execs(char **argv, int left)
{
	char next[16];

	if (left == 0)
		return;
	snaptrail_report_snapshot("", NULL);
	usleep((useconds_t)(left % 40) * 50);
	snprintf(next, sizeof next, "%d", left - 1);
	argv[2] = next;
	execv("/proc/self/exe", argv);
	failures++;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } parts[] = {
		{ "all", all }, { "nothing", all }, { "threads", threads }, { "fork", forked }, { "signal", signals },
		{ "secret", secret }, { "wrong", wrong }, { "dies", dies }, { "again", again }, { "marks", marks },
		{ "snapshot", snapshot }, { "hold", hold },
	};

	if (argc < 2)
		return 2;
	if (strcmp(argv[1], "nothing") == 0)
		expected = -ENOSYS;
	if (snaptrail_report_on() != (expected == 0))
		return 3;
	if (strcmp(argv[1], "flood") == 0 && argc == 3)
		flood(atoi(argv[2]));
	if (strcmp(argv[1], "execs") == 0 && argc == 3)
		execs(argv, atoi(argv[2]));
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if (strcmp(argv[1], parts[i].name) == 0)
			parts[i].run();
	return failures ? 1 : 0;
}
