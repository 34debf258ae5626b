/* The overview of a state for people. */
#ifndef SNAPTRAIL_CLI_SHOW_H
#define SNAPTRAIL_CLI_SHOW_H

#include "cli/cli.h"

void show_overview(struct cli *c, const struct snaptrail_point *p, const struct snaptrail_state *s);

#endif
