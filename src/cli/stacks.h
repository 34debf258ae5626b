/* Call stacks on the screen, and which call last touched each entity. */
#ifndef SNAPTRAIL_CLI_STACKS_H
#define SNAPTRAIL_CLI_STACKS_H

#include "cli/cli.h"
#include "cli/json.h"

/* `  #0 name+0x12 (module) file:line`, or what is known of that; a line each. */
void stack_words(FILE *out, struct cli *c, const struct snaptrail_event *e);
/* "stack": [...] in an open object. */
void stack_json(struct json *j, const struct snaptrail_event *e);

/* The stacks of the changes that made entities what they are at an instant. */
struct last_stacks;
/* 0 or an exit code, the error told; freed by stacks_done(). */
int stacks_find(struct cli *c, const struct snaptrail_point *p, const char *path, struct last_stacks **ret);
/* As words or JSON, as the command line asked; NULL: none was kept. */
const char *stacks_of(const struct last_stacks *l, enum snaptrail_table t, const char *key, size_t key_len);
/* Calls back for each, in order of table and key. */
void stacks_each(struct last_stacks *l, void (*each)(void *arg, const char *name, const char *text), void *arg);
void stacks_done(struct last_stacks *l);

#endif
