/* Event maps: INI files that say what a trace's events mean.
 *
 * A section is a rule and its name a glob over event names; all rules that match
 * an event are followed in the order in which they stand.  `action` says what the
 * event is, the other keys are templates of text and {fields}.  What no rule takes
 * stays a message of the channel that is called like the event.  conf/maps has
 * examples, doc/maps.md the whole language. */
#ifndef SNAPTRAIL_PLUGIN_MAP_H
#define SNAPTRAIL_PLUGIN_MAP_H

#include <stdbool.h>
#include <stddef.h>

enum map_action {
	MAP_NONE = 0,
	/* what programs say of themselves: see snaptrail/report.h */
	MAP_AGENT_BEGIN, MAP_AGENT_STATUS, MAP_AGENT_END,
	MAP_TASK_BEGIN, MAP_TASK_PROGRESS, MAP_TASK_COMPLETE, MAP_TASK_FAIL,
	MAP_VALUE, MAP_VALUE_DELETE, MAP_MESSAGE_IN, MAP_MESSAGE_OUT, MAP_METRIC, MAP_MARK,
	MAP_RESOURCE_OPEN, MAP_RESOURCE_CLOSE,
	/* what kernels know: see enum change_kind */
	MAP_PROCESS, MAP_FORK, MAP_EXEC, MAP_EXIT, MAP_THREAD, MAP_THREAD_END, MAP_THREAD_NAME, MAP_RUNNING,
	MAP_OPEN, MAP_CLOSE, MAP_DUP, MAP_PIPE, MAP_SOCKET_PAIR, MAP_SOCKET, MAP_BIND, MAP_LISTEN, MAP_CONNECT, MAP_ACCEPT,
	MAP_SHUTDOWN, MAP_CHDIR,
	MAP_IGNORE,
	MAP_ACTIONS,
};

enum map_field {
	MAP_KEY, MAP_AGENT, MAP_THE_TYPE, MAP_STATUS, MAP_TEXT, MAP_THE_VALUE, MAP_NUMBER, MAP_PID, MAP_TID, MAP_PPID, MAP_NAME,
	MAP_FD, MAP_FD2, MAP_FLAGS, MAP_FAMILY, MAP_PORT, MAP_ADDRESS, MAP_FIELDS,
};

enum map_op { MAP_ALWAYS = 0, MAP_EQ, MAP_NE, MAP_LT, MAP_LE, MAP_GT, MAP_GE };

struct map_rule {
	char *event, *origin;        /* glob; FILE:LINE */
	enum map_action action;
	char *field[MAP_FIELDS];     /* templates, NULL: not said */
	char *left, *right;          /* of `when` */
	enum map_op op;
	char *entry;                 /* the event that began what this one ends, on the same thread */
	bool keep;                   /* the event is a message too */
};

struct map {
	struct map_rule *rules;
	size_t n;
};

/* Appends a file's rules.  -EINVAL: `file:line: what`. */
int map_read(struct map *m, const char *path);
void map_done(struct map *m);
const char *map_action_name(enum map_action a);
const char *map_field_name(enum map_field f);

#endif
