/* What happens before a session records, whoever hosts it: its name, the
 * store, the salvage of sessions whose recorder died, folder and board. */
#ifndef SNAPTRAIL_ENGINE_PREPARE_H
#define SNAPTRAIL_ENGINE_PREPARE_H

#include "base/config.h"
#include "engine/session.h"
#include "store/store.h"

struct prepared {
	const struct config *config;
	struct store *store;     /* NULL until opened */
	struct session session;
	struct clock clock;
	char name[256];
	bool named;              /* by the user: it may be there already */
	uint64_t begins_ns;      /* on a clock of its own that is read in nanoseconds since the epoch; 0: now, on ours */
};

/* A command as one would type it. */
char *prepare_command_line(const struct config *c, char *const *argv);
/* The store as a configuration wants it. */
void prepare_store_options(const struct config *c, struct store_options *ret);
/* Checks the user's name, or NULL or "": `<program>-<pid>-<time>`.  -EINVAL. */
int prepare_name(struct prepared *p, const struct config *c, const char *name, const char *program);
/* Opens the store, salvages, makes the session and begins its record.  -EBUSY
 * when a session of that name is being recorded, -EEXIST when it goes on beyond begins_ns. */
int prepare(struct prepared *p, char *const argv[]);

#endif
