/* Hooks of the memory group: the environment and the working directory. */
#include "visitor.h"

/* A value whose name or text is secret is replaced before it is encoded. */
static void env_set(const char *name, uint32_t n, const char *value)
{
	char out[512];
	struct bytes v = text(value);

	if (redact_name(name, n))
		v = BYTES("<redacted>", 10);
	else if (visitor.board->redact && value[__builtin_strcspn(value, "=:-")])
		v = BYTES(out, redact_text(value, v.n, out, sizeof out));
	if (v.n > 1024)
		v.n = 1024;
	REPORT(.kind = ENV_SET, .name = BYTES(name, n), .value = v);
}

EXPORT int setenv(const char *name, const char *value, int overwrite)
{
	bool changes = overwrite || (name && getenv(name) == NULL);
	int r = REAL(setenv)(name, value, overwrite);

	if (r == 0 && changes && reporting(GROUP_MEMORY))
		env_set(name, (uint32_t)__builtin_strlen(name), value);
	return r;
}

EXPORT int putenv(char *string)
{
	int r = REAL(putenv)(string);

	if (r == 0 && reporting(GROUP_MEMORY)) {
		const char *eq = __builtin_strchr(string, '=');

		if (eq)
			env_set(string, (uint32_t)(eq - string), eq + 1);
		else
			REPORT(.kind = ENV_UNSET, .name = text(string));
	}
	return r;
}

EXPORT int unsetenv(const char *name)
{
	int r = REAL(unsetenv)(name);

	if (r == 0 && reporting(GROUP_MEMORY))
		REPORT(.kind = ENV_UNSET, .name = text(name));
	return r;
}

EXPORT int clearenv(void)
{
	int r = REAL(clearenv)();

	if (r == 0 && reporting(GROUP_MEMORY))
		REPORT(.kind = ENV_CLEARED);
	return r;
}

EXPORT int chdir(const char *path)
{
	int r = REAL(chdir)(path);

	if (r == 0 && reporting(GROUP_MEMORY))
		REPORT(.kind = CWD, .name = text(path));
	return r;
}

EXPORT int fchdir(int fd)
{
	int r = REAL(fchdir)(fd);

	if (r == 0 && reporting(GROUP_MEMORY))
		REPORT(.kind = CWD, .has_fd = true, .fd = fd);
	return r;
}
