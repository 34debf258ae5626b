/* What the user gave a component; see bt_params.h. */
#include "bt_params.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"

/* ---- reading them ---- */

struct reading {
	struct params *p;
	const char *const *allowed;
	int result;
};

static int text_param(const char *name, const bt_value *v, const char **ret)
{
	if (!bt_value_is_string(v))
		return fail(-EINVAL, "parameter %s: a text is wanted", name);
	*ret = bt_value_string_get(v);
	return 0;
}

static bt_value_map_foreach_entry_const_func_status one_param(const char *name, const bt_value *v, void *arg)
{
	struct reading *in = arg;
	struct params *p = in->p;
	const struct { const char *name; const char **text; } texts[] = {
		{ "session", &p->session }, { "store", &p->store }, { "profile", &p->profile },
		{ "config", &p->config }, { "from", &p->from }, { "to", &p->to },
	};
	const char *const *a = in->allowed, *near;

	while (*a && strcmp(*a, name))
		a++;
	if (*a == NULL) {
		near = config_did_you_mean(name, in->allowed);
		in->result = near ? fail(-EINVAL, "no such parameter: %s (did you mean %s?)", name, near) :
				    fail(-EINVAL, "no such parameter: %s", name);
		return BT_VALUE_MAP_FOREACH_ENTRY_CONST_FUNC_STATUS_INTERRUPT;
	}
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (strcmp(texts[i].name, name) == 0)
			in->result = text_param(name, v, texts[i].text);
	if (strcmp(name, "quiet") == 0) {
		if (!bt_value_is_bool(v))
			in->result = fail(-EINVAL, "parameter quiet: yes or no is wanted");
		else
			p->quiet = bt_value_bool_get(v);
	}
	if (strcmp(name, "map") == 0)
		p->map = v;
	return in->result < 0 ? BT_VALUE_MAP_FOREACH_ENTRY_CONST_FUNC_STATUS_INTERRUPT :
				BT_VALUE_MAP_FOREACH_ENTRY_CONST_FUNC_STATUS_OK;
}

int params_read(const bt_value *map, const char *const *allowed, struct params *ret)
{
	struct reading in = { .p = ret, .allowed = allowed };

	*ret = (struct params){ 0 };
	bt_value_map_foreach_entry_const(map, one_param, &in);
	return in.result;
}

/* ---- files beside us ---- */

/* The plugin's own folder, and in a build tree that of the sources. */
static bool beside(const char *below, const char *name, char ret[PATH_MAX])
{
	static const char *const ways[] = { "../share/snaptrail", "../../share/snaptrail", "../../../share/snaptrail",
					    "../../../../share/snaptrail", "../conf", "../../conf", "../../../conf" };
	char self[PATH_MAX], path[PATH_MAX * 2];
	Dl_info info;
	char *slash;

	if (dladdr((void *)params_read, &info) == 0 || realpath(info.dli_fname, self) == NULL)
		return false;
	slash = strrchr(self, '/');
	if (slash)
		*slash = 0;
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		snprintf(path, sizeof path, "%s/%s/%s%s%s", self, ways[i], below, *name ? "/" : "", name);
		if (realpath(path, ret))
			return true;
	}
	return false;
}

int params_config(const struct params *p, struct config **ret)
{
	static bool added;
	char dir[PATH_MAX];
	char *path;
	int r;

	if (!added && beside("profiles", "", dir))
		config_add_profile_dir(dir);
	added = true;
	r = config_load(p->config, p->profile, ret);
	if (r < 0 || p->store == NULL)
		return r;
	if (p->store[0] == '/') {
		path = xstrdup(p->store);
	} else {
		_cleanup_free_ char *here = getcwd(NULL, 0);

		path = xasprintf("%s/%s", here ? here : "", p->store);
	}
	r = config_set(*ret, "storage.path", path, "parameter store");
	free(path);
	if (r < 0)
		config_free(*ret);
	return r;
}

/* ---- maps ---- */

static int read_map(const char *name, struct map *ret)
{
	_cleanup_free_ char *file = xasprintf("%s.ini", name), *installed = NULL;
	char path[PATH_MAX];

	if (*name == 0)
		return fail(-EINVAL, "parameter map: an empty name");
	if (strchr(name, '/') || strstr(name, ".ini") || access(name, F_OK) == 0)
		return map_read(ret, name);
	installed = xasprintf("%s/maps/%s", PKGDATADIR, file);
	if (access(installed, R_OK) == 0)
		return map_read(ret, installed);
	if (beside("maps", file, path))
		return map_read(ret, path);
	return fail(-EINVAL, "parameter map: %s: neither a file nor a ready map", name);
}

int params_maps(const struct params *p, struct map *ret)
{
	int r = 0;

	if (p->map == NULL)
		return 0;
	if (bt_value_is_string(p->map))
		return read_map(bt_value_string_get(p->map), ret);
	if (!bt_value_is_array(p->map))
		return fail(-EINVAL, "parameter map: a name or a list of names is wanted");
	for (uint64_t i = 0; r == 0 && i < bt_value_array_get_length(p->map); i++) {
		const bt_value *v = bt_value_array_borrow_element_by_index_const(p->map, i);

		r = bt_value_is_string(v) ? read_map(bt_value_string_get(v), ret) :
					    fail(-EINVAL, "parameter map: a list of names is wanted");
	}
	return r == -ENOENT ? -EINVAL : r;
}
