/* States as JSON: the object that a caller handed in, or that the original's own
 * programs would have made of a recorded one.  No I/O; any one thread. */
#ifndef SNAPTRAIL_MODEL_STATE_JSON_H
#define SNAPTRAIL_MODEL_STATE_JSON_H

#include "model/json.h"
#include "model/model.h"

/* Appends the state's object, with JSON_JS byte for byte what JSON.stringify()
 * makes of it.  `time_ns` is the timestamp of a state that has none of its own: a
 * recorded one, in milliseconds. */
void state_json(struct model *m, uint64_t time_ns, unsigned flags, struct buf *out, uint64_t *rounded);

/* The object that comes next as a state.  Tables that are objects become tables;
 * everything else at its top (other names, a table that is null or a list) stays
 * a plain value in its place.  -EINVAL: not an object, or no JSON. */
int state_read(struct json_reader *r, struct model **ret);
/* The whole text. */
int state_from_json(const void *p, size_t n, struct model **ret);
/* The same of a value, which stays the caller's. */
int state_from_value(const struct value *v, struct model **ret);

#endif
