/* Hiding secrets in what the recorder reads itself; see secrets.c. */
#ifndef SNAPTRAIL_ENGINE_SECRETS_H
#define SNAPTRAIL_ENGINE_SECRETS_H

#include "base/buf.h"
#include "base/config.h"
#include "report/ring.h"

/* The configuration's words for secret_hide(), in `words`; NULL when nothing is hidden. */
const char *secret_words_of(const struct config *c, char words[BOARD_WORDS_BYTES]);
/* Appends an argument without its secrets; `before` is the one before it, or NULL. */
void secret_put(struct buf *b, const char *words, const char *before, const char *s);

#endif
