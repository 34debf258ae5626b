/* The command's inside: what was asked for, and the verbs.  The command uses
 * the public header alone; one struct cli goes through everything. */
#ifndef SNAPTRAIL_CLI_CLI_H
#define SNAPTRAIL_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snaptrail.h"

/* Exit codes; scripts lean on them. */
enum {
	EXIT_YES = 0, EXIT_NO = 1, EXIT_USAGE = 2, EXIT_PARTIAL = 3, EXIT_NO_REF = 4, EXIT_DAMAGED = 5,
	EXIT_BUSY = 6, EXIT_NO_INJECT = 7, EXIT_UNKNOWABLE = 8, EXIT_INTERNAL = 70,
	EXIT_OURS = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_THERE = 127,
};

#define FLAGS_MAX 128

struct cli {
	const char *verb;
	struct { const char *name, *value; } flags[FLAGS_MAX]; /* as given, in order */
	size_t flag_count;
	char **words;                /* what is no flag; NULL-terminated */
	int word_count;
	bool json, color, pager;
	int width;                   /* of the terminal; 0 when stdout is none */
	struct snaptrail_config *config;
	struct snaptrail *store;
};

/* Value of the last such flag, "" for one without; NULL when not given. */
const char *cli_flag(const struct cli *c, const char *name);
static inline bool cli_has(const struct cli *c, const char *name) { return cli_flag(c, name) != NULL; }
/* All values of a flag, NULL-terminated, for the caller to free. */
const char **cli_flags(const struct cli *c, const char *name);

/* --session, else SNAPTRAIL_SESSION, else NULL: the one that started last. */
const char *cli_session(const struct cli *c);
/* Opens the store and finds a session (NULL: cli_session()); 0 or an exit code. */
int cli_find_session(struct cli *c, const char *name, char ret_name[256], uint64_t *ret_start_ns);
/* Opens the store, resolves a reference and takes the state there. */
int cli_state(struct cli *c, const char *ref, struct snaptrail_point *ret_point, struct snaptrail_state **ret_state);
/* The same of a reference that must be a snapshot, without its state. */
int cli_snapshot(struct cli *c, const char *ref, struct snaptrail_point *p);
uint64_t now_ns(void);
/* Opens the store on first use; 0 or an exit code, the error told. */
int cli_open(struct cli *c);
/* The same with SNAPTRAIL_CREATE or SNAPTRAIL_READ_ONLY. */
int cli_open_as(struct cli *c, unsigned how);
/* --since and --until relative to a session's start; 0 or an exit code. */
int cli_range(struct cli *c, uint64_t start_ns, uint64_t *ret_since, uint64_t *ret_until);
/* A whole number of a flag; 0 or an exit code. */
int cli_number(struct cli *c, const char *flag, size_t *ret);

/* Parses argv by the table; 0 or an exit code, the error told. */
int cli_parse(struct cli *c, int argc, char **argv);
int help_text(struct cli *c, const char *topic);

int cmd_run(struct cli *c);
int cmd_sessions(struct cli *c);
int cmd_ls(struct cli *c);
int cmd_show(struct cli *c);
int cmd_log(struct cli *c);
int cmd_diff(struct cli *c);
int cmd_nearest(struct cli *c);
int cmd_create(struct cli *c);
int cmd_when(struct cli *c);
int cmd_rm(struct cli *c);
int cmd_prune(struct cli *c);
int cmd_repair(struct cli *c);
int cmd_snap(struct cli *c);
int cmd_auto(struct cli *c);
int cmd_flush(struct cli *c);
int cmd_attend(struct cli *c);
int cmd_watch(struct cli *c);
int cmd_tag(struct cli *c);
int cmd_describe(struct cli *c);
int cmd_mark(struct cli *c);
int cmd_export(struct cli *c);
int cmd_import(struct cli *c);
int cmd_stats(struct cli *c);
int cmd_verify(struct cli *c);
int cmd_config(struct cli *c);
int cmd_doctor(struct cli *c);
int cmd_help(struct cli *c);

#endif
