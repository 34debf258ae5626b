/* A session as a trace: the events of source.snaptrail.store, which
 * sink.snaptrail.store turns back into the session that they were made of.
 *
 * An event is called snaptrail:<kind of Change> and has the fields of its kind,
 * typed, for people and for other tools, then what only our sink needs: `lane`,
 * `offset` and `change`, the Change itself in base64.  snaptrail:session, state,
 * snapshot and gap say what is no Change.
 *
 * A session of states that were handed in begins with snaptrail:handed, its first
 * state; then each snapshot has the Changes that make it of the one before it,
 * snaptrail:layout where what stands beside the tables became another, and
 * snaptrail:snapshot. */
#ifndef SNAPTRAIL_PLUGIN_BT_OURS_H
#define SNAPTRAIL_PLUGIN_BT_OURS_H

#include "report/change.h"

#define OURS_PREFIX "snaptrail:"
#define OURS_STATE_BYTES (48u << 10) /* of a state in one event, before base64 */

/* Kinds beyond those of Changes. */
enum { OURS_SESSION = KIND_COUNT, OURS_STATE, OURS_SNAPSHOT, OURS_GAP, OURS_HANDED, OURS_LAYOUT, OURS_KINDS };

#endif
