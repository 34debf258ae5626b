/* The snaptrail command: reads argv by the table in commands.def, loads the
 * configuration, runs the verb, ends with its exit code. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/out.h"
#include "cli/parse.h"

const char *cli_flag(const struct cli *c, const char *name)
{
	for (size_t i = c->flag_count; i > 0; i--)
		if (strcmp(c->flags[i - 1].name, name) == 0)
			return c->flags[i - 1].value;
	return NULL;
}

const char **cli_flags(const struct cli *c, const char *name)
{
	const char **all = must(calloc(c->flag_count + 1, sizeof *all));
	size_t n = 0;

	for (size_t i = 0; i < c->flag_count; i++)
		if (strcmp(c->flags[i].name, name) == 0)
			all[n++] = c->flags[i].value;
	return all;
}

const char *cli_session(const struct cli *c)
{
	const char *name = cli_flag(c, "session");

	if (!name)
		name = getenv("SNAPTRAIL_SESSION");
	return name && *name ? name : NULL;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int cli_open_as(struct cli *c, unsigned how)
{
	int r = 0;

	if (c->store == NULL) {
		r = snaptrail_open(c->config, how, &c->store);
		if (r == 0 && snaptrail_notice(c->store))
			out_note(c, "%s", snaptrail_notice(c->store));
	}
	if (r == -ENOENT && how & SNAPTRAIL_CREATE)
		return out_error(c, EXIT_USAGE, NULL, "%s", snaptrail_error());
	if (r == -ENOENT)
		return out_error(c, EXIT_NO_REF, "`snaptrail run CMD` records something",
				 "there is no store at %s yet", snaptrail_config_store(c->config));
	return r < 0 ? out_failed(c, r) : 0;
}

int cli_open(struct cli *c) { return cli_open_as(c, 0); }

/* A word and --session are two ways to say one thing. */
static int one_session(struct cli *c, const char *name)
{
	const char *flag = cli_flag(c, "session");

	if (name && !*name)
		return out_error(c, EXIT_USAGE, "`snaptrail sessions` lists them", "%s takes a session with a name", c->verb);
	if (name && flag && strcmp(name, flag) != 0)
		return out_error(c, EXIT_USAGE, NULL, "%.60s or --session %.60s: one of them", name, flag);
	return 0;
}

int cli_find_session(struct cli *c, const char *name, char ret_name[256], uint64_t *ret_start_ns)
{
	struct snaptrail_session s;
	int r = one_session(c, name);

	if (r == 0)
		r = cli_open(c);
	if (r != 0)
		return r;
	r = snaptrail_session_find(c->store, name ? name : cli_session(c), &s);
	if (r < 0)
		return out_failed(c, r);
	snprintf(ret_name, 256, "%s", s.name);
	*ret_start_ns = s.started_ns;
	return 0;
}

int cli_snapshot(struct cli *c, const char *ref, struct snaptrail_point *p)
{
	int r = cli_open(c);

	if (r != 0)
		return r;
	if ((r = snaptrail_resolve(c->store, cli_session(c), ref, p)) < 0)
		return out_failed(c, r);
	if (!p->is_snapshot)
		return out_error(c, EXIT_NO_REF, "`snaptrail ls` lists the snapshots", "%s is an instant, not a snapshot", ref);
	return 0;
}

int cli_state(struct cli *c, const char *ref, struct snaptrail_point *ret_point, struct snaptrail_state **ret_state)
{
	int r = cli_open(c);

	if (r != 0)
		return r;
	r = snaptrail_resolve(c->store, cli_session(c), ref, ret_point);
	if (r == 0)
		r = snaptrail_state_at(c->store, ret_point, ret_state);
	return r < 0 ? out_failed(c, r) : 0;
}

int cli_range(struct cli *c, uint64_t start_ns, uint64_t *ret_since, uint64_t *ret_until)
{
	const char *since = cli_flag(c, "since"), *until = cli_flag(c, "until");
	uint64_t now = now_ns();
	int r = 0;

	*ret_since = *ret_until = 0;
	if (since)
		r = snaptrail_parse_time(since, start_ns, now, ret_since);
	if (r == 0 && until)
		r = snaptrail_parse_time(until, start_ns, now, ret_until);
	return r == 0 ? 0 : out_failed(c, r);
}

int cli_number(struct cli *c, const char *flag, size_t *ret)
{
	const char *text = cli_flag(c, flag);
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end)
		return out_error(c, EXIT_USAGE, NULL, "--%s: '%.60s' is not a whole number", flag, text);
	if (errno)
		return out_error(c, EXIT_USAGE, NULL, "--%s: %.60s is too large", flag, text);
	return 0;
}

/* Flags that are options of the configuration. */
static int set_options(struct cli *c)
{
	static const struct { const char *flag, *key, *origin; } map[] = {
		{ "store", "storage.path", "--store" }, { "interval", "snapshot.interval", "--interval" },
	};
	int r;

	for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
		const char *value = cli_flag(c, map[i].flag);

		if (value && (r = snaptrail_config_set(c->config, map[i].key, value, map[i].origin)) < 0)
			return out_failed(c, r);
	}
	return 0;
}

static int load_config(struct cli *c)
{
	int r = snaptrail_config_load(cli_flag(c, "config"), cli_flag(c, "profile"), &c->config);

	return r < 0 ? out_failed(c, r) : set_options(c);
}

static int check_color(struct cli *c)
{
	const char *v = cli_flag(c, "color");

	if (!v || !*v || strcmp(v, "auto") == 0 || strcmp(v, "always") == 0 || strcmp(v, "never") == 0)
		return 0;
	return out_error(c, EXIT_USAGE, NULL, "--color=%.60s: one of auto, always, never", v);
}

static int run_verb(struct cli *c)
{
	const struct verb *v = verb_find(c->verb);
	bool needs_config = v->run != cmd_help && !cli_has(c, "check");
	int status = needs_config ? load_config(c) : 0;

	if (status == 0)
		status = v->run(c);
	snaptrail_close(c->store);
	snaptrail_config_free(c->config);
	return status;
}

/* Tells a preloaded visitor that this program looks at recordings: it is not
 * recorded itself for being started where LD_PRELOAD is set. */
extern const char snaptrail_observer;
__attribute__((visibility("default"))) const char snaptrail_observer = 1;

/* A file that may not grow is an error like a full disk.  A handler and not
 * SIG_IGN: exec gives the target of `run` the default again. */
static void too_large(int sig) { (void)sig; }

static void survive_file_limits(void)
{
	struct sigaction a = { .sa_handler = too_large, .sa_flags = SA_RESTART }, old;

	if (sigaction(SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		sigaction(SIGXFSZ, &a, NULL);
}

/* Of stdin, stdout and stderr what is closed would be the number of the next file
 * that is opened, and what is printed would go into the store.  These fail as a closed
 * one does: they are open the wrong way round.  The command of `run` has them closed. */
static void occupy_standard(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", O_CLOEXEC | (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY));
}

/* The library aborts when it has no memory, and has said so. */
static void on_abort(int signo)
{
	(void)signo;
	_exit(EXIT_INTERNAL);
}

int main(int argc, char **argv)
{
	struct cli c = { 0 };
	int status;

	signal(SIGABRT, on_abort);
	status = cli_parse(&c, argc, argv);
	survive_file_limits();
	occupy_standard();
	out_setup(&c);
	if (status == 0)
		status = check_color(&c);
	if (status != 0)
		return status;
	/* Local time is the process's: the target of `run` keeps its own TZ. */
	if (cli_has(&c, "utc") && !(c.verb && strcmp(c.verb, "run") == 0))
		setenv("TZ", "UTC0", 1);
	if (cli_has(&c, "version")) {
		printf("snaptrail %s\n", snaptrail_version());
	} else if (cli_has(&c, "help")) {
		status = help_text(&c, c.verb);
	} else if (!c.verb) {
		help_text(&c, NULL);
		status = EXIT_USAGE;
	} else {
		status = run_verb(&c);
	}
	free(c.words);
	return out_finish(&c, status);
}
