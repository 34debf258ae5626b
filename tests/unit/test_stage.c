/* The stage at every instant: a process that fills one is stepped instruction by
 * instruction, and after each the file is read as after a kill. */
#include "unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/stage.h"
#include "report/change.h"

void suite_stage(void);

#define RECORD_EXTENT 64 /* of each record in its lane's stream */
#define LANES 2

/* What is put, in this order: into a run, or with a key's name into that key's place. */
static const struct step {
	uint32_t lane;
	char hot;
	uint8_t len;
} steps[] = {
	{ 0, 0, 5 }, { 0, 0, 8 }, { 0, 0, 31 }, /* a run that grows */
	{ 1, 0, 9 }, { 1, 0, 16 },
	{ 0, 0, 1 },
	{ 0, 'a', 12 }, { 0, 'a', 20 }, { 0, 0, 7 }, { 0, 'a', 3 }, { 0, 0, 7 }, /* it grows beside a place in use */
	{ 1, 'b', 30 }, { 1, 'b', 30 }, { 0, 'a', 12 }, { 1, 'b', 2 },
	{ 1, 0, 2 }, { 1, 0, 60 }, { 1, 0, 3 },
};
#define STEPS (sizeof steps / sizeof *steps)

static uint64_t end_of_step(size_t i)
{
	uint64_t end = 0;

	for (size_t k = 0; k <= i; k++)
		end += steps[k].lane == steps[i].lane ? RECORD_EXTENT : 0;
	return end;
}

/* The tag, a length and bytes that all say which step it is. */
static uint32_t record_of(size_t i, uint8_t *room)
{
	room[0] = RUN_CHANGES_TAG;
	room[1] = steps[i].len;
	memset(room + 2, (int)i + 1, steps[i].len);
	return steps[i].len + 2u;
}

static void put_step(struct stage *s, struct stage_block **hot, size_t i)
{
	uint8_t room[80];
	uint32_t n = record_of(i, room);
	uint64_t end = end_of_step(i), pos = end - RECORD_EXTENT;
	struct stage_block **b = &hot[steps[i].hot == 'b'];

	if (steps[i].hot == 0) {
		stage_put(s, steps[i].lane, 10, 10, pos, end, room, n);
		return;
	}
	if (*b == NULL)
		*b = stage_hot(s, steps[i].lane, 10, 10, pos, 40);
	stage_hot_put(*b, end, room, n);
}

struct seen {
	bool has[STEPS];
	uint64_t end[LANES];
	size_t hot, wrong;
};

static void see_records(struct seen *r, const struct stage_part *p)
{
	for (size_t at = 0; at < p->n;) {
		size_t i = at + 2 < p->n ? p->bytes[at + 2] - 1u : STEPS;
		uint8_t room[80];
		uint32_t n = i < STEPS ? record_of(i, room) : 0;

		if (n == 0 || n > p->n - at || memcmp(room, p->bytes + at, n) != 0 || r->has[i]) {
			r->wrong++;
			return;
		}
		r->has[i] = true;
		at += n;
	}
}

static struct seen look(const struct stage_header *h)
{
	struct seen r = { 0 };
	struct stage_part p;
	size_t pos = 0;

	while (stage_next(h, &pos, &p)) {
		if (p.block->lane >= LANES) {
			r.wrong++;
			break;
		}
		see_records(&r, &p);
		if (p.place)
			r.hot += 1 + p.coalesced;
		if (p.end > r.end[p.block->lane])
			r.end[p.block->lane] = p.end;
	}
	return r;
}

/* What the stage says it has taken of each lane it has, each record once, and nothing
 * else; and that is at least what was put. */
static bool is_sound(const struct stage_header *h, size_t done, char *why, size_t size)
{
	struct seen r = look(h);
	size_t hot = 0;

	for (size_t i = 0; i < done; i++)
		if (end_of_step(i) > r.end[steps[i].lane])
			return snprintf(why, size, "step %zu was put and is not there", i), false;
	for (size_t i = 0; i < STEPS; i++) {
		bool taken = end_of_step(i) <= r.end[steps[i].lane];

		hot += taken && steps[i].hot;
		if (steps[i].hot ? r.has[i] && !taken : r.has[i] != taken)
			return snprintf(why, size, "step %zu: there %d, taken %d", i, r.has[i], taken), false;
	}
	if (r.hot != hot || r.wrong)
		return snprintf(why, size, "%zu of %zu counted, %zu wrong", r.hot, hot, r.wrong), false;
	return true;
}

static void fill(struct stage *s, volatile size_t *done)
{
	struct stage_block *hot[2] = { NULL, NULL };

	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(1);
	raise(SIGSTOP);
	for (size_t i = 0; i < STEPS; i++) {
		put_step(s, hot, i);
		*done = i + 1;
	}
	_exit(0);
}

static void a_kill_at_any_instruction_leaves_what_was_put(void)
{
	struct temp_folder t;
	struct clock c;
	struct stage s;
	volatile size_t *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char why[200] = "";
	size_t instants = 0;
	int status = 0;
	pid_t pid;

	temp_make(&t);
	clock_begin(&c, false);
	CU_ASSERT_EQUAL_FATAL(stage_open(&s, t.path, 1, &c), 0);
	pid = fork();
	if (pid == 0)
		fill(&s, done);
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	while (WIFSTOPPED(status) && why[0] == 0) {
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 || waitpid(pid, &status, 0) != pid)
			break;
		instants++;
		is_sound(s.h, *done, why, sizeof why);
	}
	CHECK_OR(why[0] == 0, fprintf(stderr, "\n    after %zu of them: %s\n", instants, why));
	if (WIFSTOPPED(status)) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CU_ASSERT_EQUAL(*done, STEPS);
	CU_ASSERT(instants > 20 * STEPS);
	CU_ASSERT(is_sound(s.h, STEPS, why, sizeof why));
	stage_remove(&s);
	munmap((void *)done, 4096);
	temp_remove(&t);
}

void suite_stage(void)
{
	CU_pSuite s = CU_add_suite("stage", NULL, NULL);

	TEST(s, a_kill_at_any_instruction_leaves_what_was_put);
}
