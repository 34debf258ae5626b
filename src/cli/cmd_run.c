/* run: records a command and ends as it did.  Nothing here touches signals or
 * descriptors before the library has started the target: it inherits ours. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/json.h"
#include "cli/out.h"

/* Dies of the signal that the command died of, without a second core. */
static int end_as(int status)
{
	const struct rlimit no_core = { 0, 0 };
	sigset_t set;
	int sig;

	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	sig = WTERMSIG(status);
	fflush(NULL);
	setrlimit(RLIMIT_CORE, &no_core);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return 128 + sig;
}

static int start_failed(struct cli *c, int code)
{
	switch (code) {
	case -ENOENT:
		return out_error(c, EXIT_NOT_THERE, NULL, "%s", snaptrail_error());
	case -EACCES:
		return out_error(c, EXIT_NOT_EXECUTABLE, NULL, "%s", snaptrail_error());
	case -EINVAL:
	case -EBUSY:
	case -EPROTO:
	case -ENOEXEC:
		return out_failed(c, code);
	default:
		return out_error(c, EXIT_OURS, NULL, "%s", *snaptrail_error() ? snaptrail_error() : snaptrail_strerror(code));
	}
}

/* ---- the summary ---- */

static void summary_json(const struct snaptrail_summary *s)
{
	const struct { const char *key; uint64_t n; bool ns; } numbers[] = {
		{ "duration", s->duration_ns, true }, { "snapshots", s->snapshots, false }, { "changes", s->changes, false },
		{ "coalesced", s->coalesced, false }, { "lost", s->lost, false }, { "storedBytes", s->stored_bytes, false },
		{ "rawBytes", s->raw_bytes, false }, { "processes", s->processes, false }, { "threads", s->threads, false },
		{ "recorderCpu", s->recorder_cpu_ns, true }, { "targetCpu", s->target_cpu_ns, true },
		{ "remaining", s->remaining, false }, { "uninjected", s->uninjected, false },
	};
	struct json j = JSON_INIT(stderr);

	json_open(&j, '{');
	json_pair_string(&j, "session", s->session);
	json_pair_string(&j, "store", s->store);
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		json_key(&j, numbers[i].key);
		if (s->unheard)
			json_null(&j);
		else if (numbers[i].ns)
			json_ms(&j, numbers[i].n);
		else
			json_uint(&j, numbers[i].n);
	}
	json_pair_string(&j, "error", *s->error ? s->error : NULL);
	json_close(&j, '}');
	json_line(&j);
}

static void summary_recorded(const struct snaptrail_summary *s, const char *name)
{
	char a[TIME_WORDS], b[TIME_WORDS], d[TIME_WORDS], e[TIME_WORDS], f[TIME_WORDS], g[TIME_WORDS];

	fprintf(stderr, "snaptrail: recorded %s: %s, %s %s, %s %s, %s %s in %s %s, %s stored\n", name,
		duration_words(s->duration_ns, a), count_words(s->processes, b), plural(s->processes, "process", "processes"),
		count_words(s->threads, d), plural(s->threads, "thread", "threads"), count_words(s->changes, e),
		plural(s->changes, "change", "changes"), count_words(s->snapshots, f),
		plural(s->snapshots, "snapshot", "snapshots"), size_words(s->stored_bytes, g));
}

static void summary_lost(const struct snaptrail_summary *s)
{
	char n[TIME_WORDS];

	if (s->lost)
		fprintf(stderr, "snaptrail: lost %s %s; `snaptrail stats` shows where\n", count_words(s->lost, n),
			plural(s->lost, "report", "reports"));
	else if (!s->unstored)
		fprintf(stderr, "snaptrail: lost nothing");
	if (s->coalesced)
		fprintf(stderr, "%s%s %s of busy keys merged", s->lost || s->unstored ? "snaptrail: " : ", ", count_words(s->coalesced, n),
			plural(s->coalesced, "change", "changes"));
	if ((!s->lost && !s->unstored) || s->coalesced)
		fputc('\n', stderr);
	if (s->uninjected)
		fprintf(stderr, "snaptrail: %" PRIu32 " %s known from /proc or from what started %s alone: injection did not take\n",
			s->uninjected, plural(s->uninjected, "process is", "processes are"), s->uninjected == 1 ? "it" : "them");
	if (s->remaining)
		fprintf(stderr, "snaptrail: %" PRIu32 " %s on and %s recorded further\n", s->remaining,
			plural(s->remaining, "process lives", "processes live"), plural(s->remaining, "is", "are"));
	if (*s->error)
		fprintf(stderr, "snaptrail: the recorder's last error: %s\n", s->error);
}

static void summary_words(struct cli *c, const struct snaptrail_summary *s)
{
	const char *store = cli_flag(c, "store"), *flag = store ? " --store " : "";
	char a[TIME_WORDS], b[TIME_WORDS], *name = clean_text(s->session, strlen(s->session), 0);

	store = store ? store : "";
	if (s->unheard) {
		fprintf(stderr, "snaptrail: recorded %s: %s\n", name, s->error);
	} else {
		summary_recorded(s, name);
		summary_lost(s);
		fprintf(stderr, "snaptrail: cost %s of CPU beside the command's %s\n", duration_words(s->recorder_cpu_ns, a),
			duration_words(s->target_cpu_ns, b));
	}
	fprintf(stderr, "snaptrail: next: snaptrail%s%s show | snaptrail%s%s log | snaptrail%s%s diff first latest\n", flag,
		store, flag, store, flag, store);
	free(name);
}

int cmd_run(struct cli *c)
{
	static struct snaptrail_summary summary;
	struct snaptrail_run_options o = {
		.session = cli_flag(c, "session"), .argv = c->words, .wait = cli_has(c, "wait"),
		.detach = cli_has(c, "detach"), .proc_only = cli_has(c, "proc-only"),
	};
	const char **tags;
	int status = 0, r;

	if (c->word_count == 0)
		return out_error(c, EXIT_USAGE, "e.g. `snaptrail run sleep 1`", "run needs a command");
	if (o.wait && o.detach)
		return out_error(c, EXIT_USAGE, NULL, "--wait and --detach exclude each other");
	tags = cli_flags(c, "tag");
	o.tags = *tags ? tags : NULL;
	r = snaptrail_run(c->config, &o, &status, &summary);
	free(tags);
	if (r < 0)
		return start_failed(c, r);
	if (!cli_has(c, "quiet")) {
		if (c->json)
			summary_json(&summary);
		else
			summary_words(c, &summary);
	}
	return end_as(status);
}
