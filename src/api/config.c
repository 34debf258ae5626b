/* The configuration's public face: the same object under its public name.
 * Called by the command and by programs that link the library. */
#include "snaptrail.h"

#include "base/config.h"
#include "base/err.h"
#include "base/timefmt.h"

static struct config *inner(struct snaptrail_config *c)
{
	return (struct config *)(void *)c;
}

int snaptrail_config_load(const char *file, const char *profile, struct snaptrail_config **ret)
{
	struct config *c;
	int r = config_load(file, profile, &c);

	if (r == 0)
		*ret = (struct snaptrail_config *)(void *)c;
	return r;
}

void snaptrail_config_free(struct snaptrail_config *c)
{
	config_free(inner(c));
}

int snaptrail_config_set(struct snaptrail_config *c, const char *key, const char *value, const char *origin)
{
	int r = config_set(inner(c), key, value, origin);

	return r < 0 ? r : config_validate(inner(c));
}

int snaptrail_config_at(const struct snaptrail_config *c, size_t i, const char **ret_key,
			const char **ret_value, const char **ret_origin, const char **ret_doc)
{
	return config_at(config_of(c), i, ret_key, ret_value, ret_origin, ret_doc);
}

int snaptrail_config_check(const char *file)
{
	return config_check(file);
}

const char *snaptrail_config_store(const struct snaptrail_config *c)
{
	return config_of(c)->path;
}

const char *snaptrail_config_profile(const struct snaptrail_config *c)
{
	return config_of(c)->profile;
}

int snaptrail_parse_duration(const char *text, uint64_t *ret_ns)
{
	return time_parse_duration(text, 0, ret_ns);
}

int snaptrail_parse_time(const char *text, uint64_t start_ns, uint64_t now_ns, uint64_t *ret_ns)
{
	return time_parse(text, start_ns, now_ns, ret_ns);
}
