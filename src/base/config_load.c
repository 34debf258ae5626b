/* Where the configuration comes from: files, profiles found by
 * name, the environment.  Runs once, early, on one thread: in the command, or
 * in a preloaded program just before its main.  It writes nothing. */
#include "base/config.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/config_table.h"
#include "base/err.h"
#include "base/ini.h"

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

static int file_section(void *arg, const char *name, const char *origin)
{
	(void)arg;
	return option_section(name, origin);
}

static int file_key(void *arg, const char *section, const char *name, const char *value, const char *origin)
{
	return config_set_in(arg, section, name, value, origin);
}

int config_read_file(struct config *c, const char *path)
{
	return ini_read(path, &(struct ini_reader){ file_section, file_key, c });
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

	if (r == 0)
		r = config_validate(c);
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
		r = fail(-EINVAL, "no profile '%.60s' (did you mean '%s'?)", name, near);
	else
		r = fail(-EINVAL, "no profile '%.60s': put it into %s/%s.ini, or give a file with a /", name, dirs[0], name);
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
