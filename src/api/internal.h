/* What the public interface's files share. */
#ifndef SNAPTRAIL_API_INTERNAL_H
#define SNAPTRAIL_API_INTERNAL_H

#include "base/config.h"
#include "model/model.h"
#include "snaptrail.h"
#include "store/store.h"

struct snaptrail {
	struct store *store;
	const struct config *config;
	char text[2][300];
	char notice[300];           /* what opening could not mend */
	uint64_t *creation;         /* scratch for percentiles */
};

struct snaptrail_state {
	struct model *model;
	uint64_t time_ns, coalesced, lost, seq;
	char session[256];
};

static inline const struct snaptrail_value *public_value(const struct value *v)
{
	return (const struct snaptrail_value *)(const void *)v;
}
static inline const struct value *private_value(const struct snaptrail_value *v)
{
	return (const struct value *)(const void *)v;
}

void snapshot_public(struct snaptrail *st, const struct snapshot_meta *m, struct snaptrail_snapshot *ret);
/* The session meant by a name or by nobody. */
int session_meant(struct snaptrail *st, const char *name, struct session_meta *ret);
uint64_t tick_of(const struct snaptrail *st);

#endif
