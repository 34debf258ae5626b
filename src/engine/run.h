/* `run`: the front that starts the target and behaves like time(1) around it. */
#ifndef SNAPTRAIL_ENGINE_RUN_H
#define SNAPTRAIL_ENGINE_RUN_H

#include "base/config.h"
#include "snaptrail.h"

int run_command(const struct config *c, const struct snaptrail_run_options *o, int *ret_status,
		struct snaptrail_summary *ret_summary);

#endif
