/* export and import: snapshots to a file and from one, streamed.  A file that is
 * written stands under its name when it is whole, not before. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/json.h"
#include "cli/out.h"

#define QUIET_NS 1000000000u /* progress is for what takes longer */
#define EACH_NS 200000000u

/* ---- progress ---- */

struct progress {
	uint64_t begun_ns, told_ns;
	bool terminal;
};

static void progress_init(struct progress *p)
{
	*p = (struct progress){ .begun_ns = now_ns(), .terminal = isatty(STDERR_FILENO) };
}

static bool progress_due(struct progress *p)
{
	uint64_t now = now_ns();

	if (!p->terminal || now - p->begun_ns < QUIET_NS || now - p->told_ns < EACH_NS)
		return false;
	p->told_ns = now;
	return true;
}

static void progress_end(const struct progress *p)
{
	if (p->told_ns)
		fputs("\r\033[K", stderr);
}

/* ---- export ---- */

struct exporter {
	struct cli *cli;
	struct progress progress;
	const char *path;            /* NULL: stdout */
	char *beside;                /* what is written until it is whole; NULL: `path` is no plain file */
	bool nameless;               /* and it has that name only then */
	int fd;
	int failed;                  /* an errno of writing */
};

static int put_bytes(void *arg, const void *p, size_t n)
{
	struct exporter *x = arg;

	while (n) {
		ssize_t k = write(x->fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			x->failed = errno;
			return -EIO;
		}
		p = (const char *)p + k;
		n -= (size_t)k;
	}
	return 0;
}

static void exported(void *arg, uint64_t done, uint64_t total)
{
	struct exporter *x = arg;

	if (progress_due(&x->progress))
		fprintf(stderr, "\r\033[Ksnaptrail: exported %" PRIu64 " of %" PRIu64, done, total);
}

/* A file without a name in the folder of `path`, so that one who is killed leaves
 * nothing; where that cannot be, one with a name of its own. */
static int open_beside(struct exporter *x)
{
	char *folder = must(strdup(x->path)), *slash = strrchr(folder, '/');

	if (slash)
		slash[slash == folder] = 0;
	x->fd = open(slash ? folder : ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
	free(folder);
	x->beside = must(malloc(strlen(x->path) + 32));
	sprintf(x->beside, "%s.%d.part", x->path, (int)getpid());
	x->nameless = x->fd >= 0;
	if (!x->nameless)
		x->fd = open(x->beside, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
	return x->fd;
}

static int open_output(struct exporter *x)
{
	struct stat st;

	x->fd = STDOUT_FILENO;
	if (x->path == NULL)
		return 0;
	if (stat(x->path, &st) < 0 ? errno == ENOENT : S_ISREG(st.st_mode))
		open_beside(x);
	else
		x->fd = open(x->path, O_WRONLY | O_CLOEXEC);
	return x->fd < 0 ? out_error(x->cli, EXIT_USAGE, NULL, "%s: %s", x->path, strerror(errno)) : 0;
}

/* The file under its name, in one step. */
static bool give_name(struct exporter *x)
{
	char link[40];

	snprintf(link, sizeof link, "/proc/self/fd/%d", x->fd);
	return fsync(x->fd) == 0 && (!x->nameless || linkat(AT_FDCWD, link, AT_FDCWD, x->beside, AT_SYMLINK_FOLLOW) == 0) &&
	       rename(x->beside, x->path) == 0;
}

/* Under its name, or gone; 0 or an exit code. */
static int close_output(struct exporter *x, int status)
{
	bool good = status == EXIT_YES || status == EXIT_NO;

	if (x->path == NULL || x->fd < 0)
		return status;
	if (x->beside && (!good || !give_name(x))) {
		if (good)
			status = out_error(x->cli, EXIT_INTERNAL, NULL, "%s: %s", x->path, strerror(errno));
		unlink(x->beside);
	}
	free(x->beside);
	close(x->fd);
	return status;
}

/* "a,b" as a list, in the text itself; to be freed. */
static const char **split(char *text)
{
	const char **list = must(calloc(text ? strlen(text) + 2 : 1, sizeof *list));
	size_t n = 0;

	for (char *word = text ? strtok(text, ",") : NULL; word; word = strtok(NULL, ","))
		list[n++] = word;
	return list;
}

static int export_to(struct exporter *x, const struct snaptrail_export_options *o, uint64_t *rounded)
{
	struct cli *c = x->cli;
	int64_t n;
	int r = open_output(x);

	if (r != 0)
		return r;
	progress_init(&x->progress);
	n = snaptrail_export(c->store, o);
	progress_end(&x->progress);
	if (n < 0 && x->failed == EPIPE)
		r = EXIT_INTERNAL; /* who read it had enough */
	else if (n < 0 && x->failed)
		r = out_error(c, EXIT_INTERNAL, NULL, "%s: %s", x->path ? x->path : "stdout", strerror(x->failed));
	else if (n < 0)
		r = out_failed(c, (int)n);
	else
		r = n ? EXIT_YES : EXIT_NO;
	if (r == EXIT_YES && *rounded)
		out_note(c, "%" PRIu64 " whole %s beyond 2^53 rounded, as JavaScript has them; --format binary keeps them", *rounded,
			 plural(*rounded, "number was", "numbers were"));
	if (r == EXIT_NO)
		out_note(c, "no snapshot of %s matches%s", o->session, o->include_incrementals ? "" : "; --include-incrementals has more of them");
	return close_output(x, r);
}

/* What is to go out, by the flags; 0 or an exit code. */
static int export_range(struct cli *c, char session[256], struct snaptrail_export_options *o)
{
	const char *format = cli_flag(c, "format");
	uint64_t start;
	int r;

	o->format = format && strcmp(format, "binary") == 0 ? SNAPTRAIL_BINARY : SNAPTRAIL_JSON;
	o->include_incrementals = cli_has(c, "include-incrementals");
	o->session = session;
	r = cli_find_session(c, c->words[0], session, &start);
	return r == 0 ? cli_range(c, start, &o->since_ns, &o->until_ns) : r;
}

int cmd_export(struct cli *c)
{
	const char *tag = cli_flag(c, "tag"), *path = cli_flag(c, "output");
	uint64_t rounded = 0;
	struct exporter x = { .cli = c };
	struct snaptrail_export_options o = { .size = sizeof o, .write = put_bytes, .progress = exported, .arg = &x, .ret_rounded = &rounded };
	char session[256], *text, *real;
	const char **tags;
	int r = export_range(c, session, &o);

	if (r != 0)
		return r;
	if (path && strcmp(path, "-") == 0)
		path = NULL;
	if (o.format == SNAPTRAIL_BINARY && path == NULL && isatty(STDOUT_FILENO))
		return out_error(c, EXIT_USAGE, "give a file with -o", "a binary export is not for a terminal");
	real = path ? realpath(path, NULL) : NULL; /* a link stays one */
	x.path = real ? real : path;
	text = tag ? must(strdup(tag)) : NULL;
	o.tags = tags = split(text);
	r = export_to(&x, &o, &rounded);
	free(real);
	free(tags);
	free(text);
	return r;
}

/* ---- import ---- */

struct importer {
	struct cli *cli;
	struct progress progress;
	int fd;
	int failed;
	char *errors;                /* JSON, the list's inside */
	size_t errors_len;
	struct json json;
};

static int64_t get_bytes(void *arg, void *p, size_t n)
{
	struct importer *m = arg;
	ssize_t k;

	do
		k = read(m->fd, p, n);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		m->failed = errno;
	return k < 0 ? -EIO : k;
}

static void refused(void *arg, const struct snaptrail_import_error *e)
{
	struct importer *m = arg;

	progress_end(&m->progress);
	if (!m->cli->json) {
		out_note(m->cli, "%s: %s", *e->id ? e->id : "a snapshot", e->text);
		return;
	}
	json_open(&m->json, '{');
	json_pair_string(&m->json, "id", e->id);
	json_pair_string(&m->json, "type", e->type);
	json_pair_string(&m->json, "text", e->text);
	json_close(&m->json, '}');
}

static void taken(void *arg, uint64_t snapshots, uint64_t bytes)
{
	struct importer *m = arg;
	char size[TIME_WORDS];

	if (progress_due(&m->progress))
		fprintf(stderr, "\r\033[Ksnaptrail: %" PRIu64 " imported, %s read", snapshots, size_words(bytes, size));
}

static int import_result(struct importer *m, const struct snaptrail_import_result *res)
{
	struct json j = JSON_INIT(stdout);
	char n[TIME_WORDS], k[TIME_WORDS];

	if (m->cli->json) {
		json_open(&j, '{');
		json_pair_uint(&j, "imported", res->imported);
		json_pair_uint(&j, "skipped", res->skipped);
		json_key(&j, "errors");
		json_open(&j, '[');
		if (m->errors_len)
			json_raw(&j, m->errors, m->errors_len);
		json_close(&j, ']');
		json_close(&j, '}');
		json_line(&j);
	} else {
		printf("%s imported", count_words(res->imported, n));
		if (res->skipped)
			printf(", %s skipped (there already)", count_words(res->skipped, k));
		if (res->errors)
			printf(", %s not taken", count_words(res->errors, k));
		putchar('\n');
	}
	return res->errors ? EXIT_PARTIAL : EXIT_YES;
}

static int import_from(struct importer *m, const char *name)
{
	struct snaptrail_import_options o = { .size = sizeof o, .read = get_bytes, .error = refused, .progress = taken, .arg = m,
					      .overwrite = cli_has(m->cli, "overwrite"), .no_validate = cli_has(m->cli, "no-validate") };
	struct snaptrail_import_result res;
	int r;

	m->json = (struct json)JSON_INIT(open_memstream(&m->errors, &m->errors_len));
	must(m->json.out);
	progress_init(&m->progress);
	r = snaptrail_import(m->cli->store, &o, &res);
	progress_end(&m->progress);
	fclose(m->json.out);
	if (r < 0 && m->failed)
		r = out_error(m->cli, EXIT_USAGE, NULL, "%s: %s", name, strerror(m->failed));
	else if (r < 0)
		r = out_error(m->cli, exit_of(r), "nothing was imported", "%s: %s", name, *snaptrail_error() ? snaptrail_error() : snaptrail_strerror(r));
	else
		r = import_result(m, &res);
	free(m->errors);
	return r;
}

int cmd_import(struct cli *c)
{
	struct importer m = { .cli = c, .fd = STDIN_FILENO };
	const char *name = c->words[0];
	bool piped;
	struct stat st;
	int r;

	if (c->word_count != 1)
		return out_error(c, EXIT_USAGE, "snaptrail import FILE, or - for stdin", "import takes one file");
	piped = strcmp(name, "-") == 0;
	if (!piped)
		m.fd = open(name, O_RDONLY | O_CLOEXEC);
	if (m.fd < 0)
		return out_error(c, EXIT_USAGE, NULL, "%s: %s", name, strerror(errno));
	if (fstat(m.fd, &st) == 0 && S_ISDIR(st.st_mode)) /* before a store is made for it */
		r = out_error(c, EXIT_USAGE, NULL, "%s: %s", name, strerror(EISDIR));
	else
		r = cli_open_as(c, SNAPTRAIL_CREATE);
	if (r == 0)
		r = import_from(&m, piped ? "stdin" : name);
	if (!piped)
		close(m.fd);
	return r;
}
