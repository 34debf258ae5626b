/* The rows of commands.def as tables. */
#ifndef SNAPTRAIL_CLI_PARSE_H
#define SNAPTRAIL_CLI_PARSE_H

#include "cli/cli.h"

struct verb {
	const char *name, *synopsis, *summary, *help;
	int (*run)(struct cli *c);
};
struct flag {
	const char *verb, *name;
	char letter;
	const char *argument, *summary;
};
struct topic { const char *name, *title, *text; };

/* Each ends with a NULL name. */
extern const struct verb verbs[];
extern const struct flag flags[];
extern const struct topic topics[];

const struct verb *verb_find(const char *name);
/* The verb nearest to a word, or NULL. */
const char *verb_near(const char *word);

#endif
