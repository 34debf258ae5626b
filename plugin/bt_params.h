/* Parameters of our components: checked, with one line for what is wrong. */
#ifndef SNAPTRAIL_PLUGIN_BT_PARAMS_H
#define SNAPTRAIL_PLUGIN_BT_PARAMS_H

#include <babeltrace2/babeltrace.h>

#include "base/config.h"
#include "map.h"

struct params {
	const char *session, *store, *profile, *config, *from, *to; /* the graph's; NULL: not given */
	const bt_value *map;
	bool quiet;
};

/* `allowed` NULL-terminated names.  -EINVAL with err_detail(). */
int params_read(const bt_value *map, const char *const *allowed, struct params *ret);
/* The configuration that they mean; the caller frees it. */
int params_config(const struct params *p, struct config **ret);
/* The maps that they name, by path or by the name of a ready one. */
int params_maps(const struct params *p, struct map *ret);

#endif
