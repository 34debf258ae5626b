/* Output of the command: stdout is buffered and may run through a pager,
 * errors and notes go to stderr, with --json errors are objects.  Everything
 * runs on the command's only thread. */
#include "cli/out.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/json.h"

static pid_t pager_pid;
static int output_error;            /* an errno */

static void no_memory(void)
{
	static const char said[] = "snaptrail: out of memory\n";

	(void)!write(STDERR_FILENO, said, sizeof said - 1);
	_exit(EXIT_INTERNAL);
}

void *must(void *allocated)
{
	if (!allocated)
		no_memory();
	return allocated;
}

static bool want_color(const struct cli *c)
{
	const char *when = cli_flag(c, "color"), *none = getenv("NO_COLOR"), *term = getenv("TERM");

	if (when && strcmp(when, "never") == 0)
		return false;
	if (when && (strcmp(when, "always") == 0 || !*when))
		return true;
	return isatty(STDOUT_FILENO) && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

void out_setup(struct cli *c)
{
	struct winsize w = { 0 };

	setlocale(LC_CTYPE, "");
	if (isatty(STDOUT_FILENO))
		c->width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
	c->color = want_color(c);
	c->pager = c->width && !c->json && !cli_has(c, "no-pager");
}

void out_page(struct cli *c)
{
	const char *pager = getenv("PAGER");
	int ends[2];

	if (!c->pager || pager_pid)
		return;
	if (!pager || !*pager)
		pager = "less -FRX";
	if (strcmp(pager, "cat") == 0 || pipe(ends) < 0)
		return;
	pager_pid = fork();
	if (pager_pid == 0) {
		dup2(ends[0], STDIN_FILENO);
		close(ends[0]);
		close(ends[1]);
		execl("/bin/sh", "sh", "-c", pager, (char *)NULL);
		_exit(127);
	}
	if (pager_pid > 0)
		dup2(ends[1], STDOUT_FILENO);
	else
		pager_pid = 0;
	close(ends[0]);
	close(ends[1]);
	/* Ctrl-C belongs to the pager, and it may quit before we have said all. */
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
}

/* What stdout's buffer could not be rid of at first says why; later nothing does. */
bool out_flush(void)
{
	bool good = fflush(stdout) == 0;

	if (!good && output_error == 0)
		output_error = errno;
	return good;
}

int out_finish(const struct cli *c, int status)
{
	bool failed = !out_flush() || ferror(stdout);

	if (pager_pid) {
		fclose(stdout);
		while (waitpid(pager_pid, NULL, 0) < 0 && errno == EINTR)
			;
		return status;
	}
	if (failed && output_error != EPIPE)
		return out_error(c, EXIT_INTERNAL, NULL, "the output cannot be written: %s",
				 strerror(output_error ? output_error : EIO));
	return status;
}

/* ---- errors ---- */

int exit_of(int code)
{
	switch (code) {
	case -EINVAL:
	case -EEXIST:
	case -EMLINK:
	case -EACCES: /* what was named for a store is none */
	case -EPERM:
	case -EROFS:
	case -ENOTDIR:
	case -ENAMETOOLONG:
	case -ELOOP: return EXIT_USAGE;
	case -ENOENT: return EXIT_NO_REF;
	case -EBADMSG: return EXIT_DAMAGED;
	case -EBUSY:
	case -EPROTO: return EXIT_BUSY;
	case -ENOEXEC: return EXIT_NO_INJECT;
	case -ENODATA: return EXIT_UNKNOWABLE;
	default: return EXIT_INTERNAL;
	}
}

/* One line: what somebody else's name contains must not break it. */
static void print_line(const char *before, const char *text)
{
	char *clean = clean_text(text, strlen(text), 0);

	out_flush();
	fprintf(stderr, "%s%s\n", before, clean);
	free(clean);
}

static void print_error(const struct cli *c, int status, const char *hint, const char *text)
{
	struct json j = JSON_INIT(stderr);

	if (!c->json) {
		char *line;

		if (asprintf(&line, hint ? "%s (%s)" : "%s", text, hint) < 0)
			no_memory();
		print_line("snaptrail: ", line);
		free(line);
		return;
	}
	out_flush();
	json_open(&j, '{');
	json_pair_string(&j, "error", text);
	json_key(&j, "code");
	json_int(&j, status);
	json_pair_string(&j, "hint", hint);
	json_close(&j, '}');
	json_line(&j);
}

/* A word of any length that somebody typed: how it begins, and what is wrong with it. */
static void shorten(char *text)
{
	size_t n = strlen(text), half = 400;

	if (n > 2 * half + 3)
		memmove(mempcpy(text + half, "...", 3), text + n - half, half + 1);
}

int out_error(const struct cli *c, int status, const char *hint, const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		no_memory();
	va_end(ap);
	shorten(text);
	print_error(c, status, hint, text);
	free(text);
	return status;
}

/* The next thing to type, by kind of failure. */
static const char *hint_of(int code)
{
	switch (code) {
	case -EBADMSG: return "`snaptrail verify` says where";
	case -ENOENT: return "`snaptrail sessions` and `snaptrail ls` list what there is";
	case -ENOEXEC: return "`snaptrail run --proc-only` records what /proc shows";
	case -ENODATA: return "`snaptrail stats` lists the gaps";
	default: return NULL;
	}
}

int out_failed(const struct cli *c, int code)
{
	const char *detail = snaptrail_error();
	int status = exit_of(code);

	return out_error(c, status, hint_of(code), "%s", *detail ? detail : snaptrail_strerror(code));
}

void out_note(const struct cli *c, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	(void)c;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	print_line("snaptrail: note: ", text);
}

void out_gaps(struct cli *c, const char *session, uint64_t since_ns, uint64_t until_ns)
{
	struct snaptrail_gap g;

	for (size_t i = 0; snaptrail_gap_at(c->store, i, &g) == 0; i++) {
		char from[TIME_WORDS], to[TIME_WORDS], n[TIME_WORDS];

		if ((session && strcmp(g.session, session) != 0) || (until_ns && g.from_ns >= until_ns) || g.to_ns < since_ns)
			continue;
		if (g.lost)
			out_note(c, "%s %s lost between %s and %s (%s)", count_words(g.lost, n),
				 plural(g.lost, "report", "reports"), time_words(g.from_ns, from), time_words(g.to_ns, to),
				 g.cause);
		else
			out_note(c, "an unknown number of reports lost between %s and %s (%s)",
				 time_words(g.from_ns, from), time_words(g.to_ns, to), g.cause);
	}
}

const char *paint(const struct cli *c, enum paint p)
{
	static const char *const codes[] = {
		"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[36m",
	};

	return c->color ? codes[p] : "";
}
