/* One event of `log` and `watch`: a line for people, or JSON Lines. */
#ifndef SNAPTRAIL_CLI_LOGGER_H
#define SNAPTRAIL_CLI_LOGGER_H

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/stacks.h"

struct logger {
	struct cli *cli;
	struct json json;
};

/* `arg` is a struct logger. */
int event_words(void *arg, const struct snaptrail_event *e);
int event_json(void *arg, const struct snaptrail_event *e);

#endif
