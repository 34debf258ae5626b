/* Attending: a process of its own goes on recording a session whose recorder
 * has gone while others of it live. */
#ifndef SNAPTRAIL_ENGINE_ATTEND_H
#define SNAPTRAIL_ENGINE_ATTEND_H

#include "base/config.h"

/* Records the session of this name until its last process has ended.  -ENOENT
 * no such session, or it has ended; -EBUSY somebody records it. */
int attend(const struct config *c, const char *name);

#endif
