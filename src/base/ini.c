/* Reading INI files; see ini.h. */
#include "base/ini.h"

#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/err.h"

struct ini_input {
	const struct ini_reader *reader;
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
	char name[256], origin[PATH_MAX + 16];
	size_t n = text[0] == '[' ? strcspn(text + 1, "]") : 0; /* a line with a NUL may be empty */

	if (text[0] != '[' || text[1 + n] != ']')
		return;
	snprintf(name, sizeof name, "%.*s", (int)n, text + 1);
	snprintf(origin, sizeof origin, "%s:%d", in->path, in->line);
	if (in->reader->section(in->reader->arg, name, origin) < 0)
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
	if (in->reader->key(in->reader->arg, section, name, value ? value : "", origin) < 0)
		ini_failed(in);
	return 1;
}

int ini_read(const char *path, const struct ini_reader *r)
{
	struct ini_input in = { .reader = r, .path = path };
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
