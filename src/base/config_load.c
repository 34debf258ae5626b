/* Where the configuration comes from: files read with inih, profiles found by
 * name, the environment.  Runs once, early, on one thread: in the command, or
 * in a preloaded program just before its main.  It writes nothing. */
#include "base/config.h"

#include <ctype.h>
#include <dirent.h>
#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/config_table.h"
#include "base/err.h"

#ifndef SYSCONFDIR
#define SYSCONFDIR "/etc"
#endif
#ifndef PKGDATADIR
#define PKGDATADIR "/usr/share/snaptrail"
#endif

extern char **environ;

#define EXTRA_DIRS_MAX 8
static char *extra_dirs[EXTRA_DIRS_MAX];

void config_add_profile_dir(const char *dir)
{
	for (size_t i = 0; i < EXTRA_DIRS_MAX; i++) {
		if (!extra_dirs[i]) {
			extra_dirs[i] = xstrdup(dir);
			return;
		}
	}
}

/* ---- one file ---- */

struct ini_input {
	struct config *config;
	FILE *file;
	const char *path;
	int line;                    /* the one that inih works on: it never reads ahead */
	int result;                  /* of the first failure; its detail is this thread's */
	char error[384];
};

static void ini_failed(struct ini_input *in)
{
	in->result = -EINVAL;
	snprintf(in->error, sizeof in->error, "%s", err_detail());
}

static void ini_check_section(struct ini_input *in, const char *text)
{
	char name[64], origin[PATH_MAX + 16];
	size_t n = strcspn(text + 1, "]");

	if (text[0] != '[' || text[1 + n] != ']')
		return;
	snprintf(name, sizeof name, "%.*s", (int)n, text + 1);
	snprintf(origin, sizeof origin, "%s:%d", in->path, in->line);
	if (option_section(name, origin) < 0)
		ini_failed(in);
}

/* Feeds inih: counts lines, which Debian's build does not tell the handler,
 * takes away indentation, which inih would read as the line before going on,
 * and empties comments, which may then be of any length. */
static char *ini_line(char *str, int num, void *stream)
{
	struct ini_input *in = stream;
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	char *p;

	if (in->result < 0 || getline(&line, &size, in->file) < 0)
		return NULL;
	in->line++;
	p = line;
	if (in->line == 1 && strncmp(p, "\xef\xbb\xbf", 3) == 0)
		p += 3;
	p += strspn(p, " \t");
	if (*p == '#' || *p == ';')
		strcpy(p, "\n");
	if (strlen(p) + 1 > (size_t)num) {
		fail(-EINVAL, "%s:%d: line is longer than %d bytes", in->path, in->line, num - 2);
		ini_failed(in);
		return NULL;
	}
	ini_check_section(in, p);
	return strcpy(str, p);
}

static int ini_key(void *user, const char *section, const char *name, const char *value)
{
	struct ini_input *in = user;
	char origin[PATH_MAX + 16];

	if (in->result < 0)
		return 1;
	snprintf(origin, sizeof origin, "%s:%d", in->path, in->line);
	if (config_set_in(in->config, section, name, value ? value : "", origin) < 0)
		ini_failed(in);
	return 1;
}

int config_read_file(struct config *c, const char *path)
{
	struct ini_input in = { .config = c, .path = path };
	struct stat sb;
	int bad;

	in.file = fopen(path, "re");
	if (!in.file)
		return fail(errno == ENOENT ? -ENOENT : -EINVAL, "%s: cannot be read: %s", path, strerror(errno));
	if (fstat(fileno(in.file), &sb) == 0 && S_ISDIR(sb.st_mode)) {
		fclose(in.file);
		return fail(-EINVAL, "%s: cannot be read: it is a folder", path);
	}
	bad = ini_parse_stream(ini_line, &in, ini_key, &in);
	if (in.result == 0 && ferror(in.file)) {
		fail(-EINVAL, "%s: cannot be read: %s", path, strerror(errno));
		ini_failed(&in);
	}
	fclose(in.file);
	if (in.result < 0 && (bad <= 0 || bad >= in.line))
		return fail(in.result, "%s", in.error);
	if (bad != 0)
		return fail(-EINVAL, "%s:%d: neither `[section]` nor `key = value`", path, bad);
	return 0;
}

/* A file that was asked for must be there; the others need not. */
static int read_layer(struct config *c, const char *path, bool asked_for)
{
	int r = config_read_file(c, path);

	if (r == -ENOENT)
		return asked_for ? -EINVAL : 0;
	return r;
}

int config_check(const char *path)
{
	struct config *c = config_new();
	int r = read_layer(c, path, true);

	if (r == 0 && (r = config_validate(c)) < 0) {
		_cleanup_free_ char *what = xstrdup(err_detail());

		fail(r, "%s: %s", path, what);
	}
	config_free(c);
	return r;
}

/* ---- folders ---- */

static char *user_dir(void)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

	if (xdg && *xdg == '/')
		return xasprintf("%s/snaptrail", xdg);
	if (home && *home == '/')
		return xasprintf("%s/.config/snaptrail", home);
	return NULL;
}

/* Profiles beside an installed or a freshly built command: ../share/snaptrail
 * and the source's conf folder. */
static void beside_program(char **dirs)
{
	static const char *const below[] = { "../share/snaptrail/profiles", "../conf/profiles", "../../conf/profiles" };
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	char *slash;

	exe[n > 0 ? n : 0] = '\0';
	slash = strrchr(exe, '/');
	if (!slash)
		return;
	*slash = '\0';
	for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
		_cleanup_free_ char *dir = xasprintf("%s/%s", exe, below[i]);

		if ((*dirs = realpath(dir, NULL)))
			dirs++;
	}
}

#define PROFILE_DIRS_MAX (EXTRA_DIRS_MAX + 8)

/* In order of preference, NULL-terminated; the caller frees each. */
static void profile_dirs(char *dirs[PROFILE_DIRS_MAX])
{
	_cleanup_free_ char *user = user_dir();
	size_t n = 0;

	memset(dirs, 0, PROFILE_DIRS_MAX * sizeof *dirs);
	if (user)
		dirs[n++] = xasprintf("%s/profiles", user);
	dirs[n++] = xstrdup(SYSCONFDIR "/snaptrail/profiles");
	for (size_t i = 0; i < EXTRA_DIRS_MAX && extra_dirs[i]; i++)
		dirs[n++] = xstrdup(extra_dirs[i]);
	dirs[n++] = xstrdup(PKGDATADIR "/profiles");
	beside_program(dirs + n);
}

/* Says which profiles there are near to a name that is none. */
static int unknown_profile(const char *name, char **dirs)
{
	const char *names[64], *near;
	size_t n = 0;
	int r;

	for (char **dir = dirs; *dir; dir++) {
		DIR *d = opendir(*dir);
		struct dirent *e;

		while (d && (e = readdir(d)) && n < 63) {
			size_t len = strlen(e->d_name);

			if (len > 4 && strcmp(e->d_name + len - 4, ".ini") == 0) {
				char *copy = xstrdup(e->d_name);

				copy[len - 4] = '\0';
				names[n++] = copy;
			}
		}
		if (d)
			closedir(d);
	}
	names[n] = NULL;
	near = config_did_you_mean(name, names);
	if (near)
		r = fail(-EINVAL, "no profile '%s' (did you mean '%s'?)", name, near);
	else
		r = fail(-EINVAL, "no profile '%s': put it into %s/%s.ini, or give a file with a /", name, dirs[0], name);
	while (n > 0)
		free((char *)names[--n]);
	return r;
}

static int read_profile(struct config *c, const char *name)
{
	char *dirs[PROFILE_DIRS_MAX];
	int r = -ENOENT;

	if (strchr(name, '/')) {
		r = read_layer(c, name, true);
	} else {
		profile_dirs(dirs);
		for (char **d = dirs; *d && r == -ENOENT; d++) {
			_cleanup_free_ char *path = xasprintf("%s/%s.ini", *d, name);

			r = config_read_file(c, path);
		}
		if (r == -ENOENT && strcmp(name, "default") == 0)
			r = 0; /* it changes nothing, so it needs no file */
		if (r == -ENOENT)
			r = unknown_profile(name, dirs);
		for (char **d = dirs; *d; d++)
			free(*d);
	}
	free(c->profile);
	c->profile = xstrdup(name);
	return r;
}

/* ---- environment ---- */

/* SNAPTRAIL_SNAPSHOT_INTERVAL: the section is the first word, the key the rest.
 * Variables of other first words (SESSION, CONFIG ...) are not options. */
static int read_variable(struct config *c, const char *variable)
{
	static const char prefix[] = "SNAPTRAIL_";
	const char *equals = strchr(variable, '=');
	char name[96], word[96];
	char *key;
	size_t n;

	if (!equals || strncmp(variable, prefix, sizeof prefix - 1) != 0)
		return 0;
	n = (size_t)(equals - variable);
	if (n >= sizeof name)
		return 0;
	snprintf(name, sizeof name, "%.*s", (int)n, variable);
	if (strcmp(name, "SNAPTRAIL_STORE") == 0)
		return config_set(c, "storage.path", equals + 1, name);
	for (n = 0; name[n + sizeof prefix - 1]; n++)
		word[n] = (char)tolower((unsigned char)name[n + sizeof prefix - 1]);
	word[n] = '\0';
	key = strchr(word, '_');
	if (!key)
		return 0;
	*key++ = '\0';
	if (option_section(word, name) < 0)
		return 0;
	return config_set_in(c, word, key, equals + 1, name);
}

static int read_environment(struct config *c)
{
	for (char **v = environ; v && *v; v++) {
		int r = read_variable(c, *v);

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- all layers ---- */

static int read_layers(struct config *c, const char *file, const char *profile)
{
	_cleanup_free_ char *user = user_dir();
	_cleanup_free_ char *user_file = user ? xasprintf("%s/snaptrail.ini", user) : NULL;
	int r = read_layer(c, SYSCONFDIR "/snaptrail/snaptrail.ini", false);

	if (r == 0 && user_file)
		r = read_layer(c, user_file, false);
	if (r == 0 && file && *file)
		r = read_layer(c, file, true);
	if (r == 0 && profile && *profile)
		r = read_profile(c, profile);
	if (r == 0)
		r = read_environment(c);
	return r < 0 ? r : config_validate(c);
}

int config_load(const char *file, const char *profile, struct config **ret)
{
	struct config *c = config_new();
	int r = read_layers(c, file ? file : getenv("SNAPTRAIL_CONFIG"),
			    profile ? profile : getenv("SNAPTRAIL_PROFILE"));

	if (r < 0) {
		config_free(c);
		return r;
	}
	*ret = c;
	return 0;
}
