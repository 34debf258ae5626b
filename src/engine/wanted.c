/* Merging requests for snapshots; see wanted.h.  What they say comes from
 * another process: lengths are bounded, texts end with 0 here. */
#include "engine/wanted.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/clock.h"
#include "model/value.h"

static void add_tag(struct wanted *w, const struct value *tag)
{
	size_t n = tag->type == VALUE_STRING ? strnlen(tag->bytes, tag->n) : 0;

	if (n == 0 || n > WANTED_TAG_BYTES)
		return;
	for (uint32_t i = 0; i < w->ntags; i++)
		if (strncmp(w->tags[i], tag->bytes, n) == 0 && w->tags[i][n] == 0)
			return;
	if (w->ntags == WANTED_TAGS)
		return;
	w->tags[w->ntags] = xmemdup(tag->bytes, n + 1);
	w->tags[w->ntags++][n] = 0;
}

void wanted_add(struct wanted *w, const struct change *wish)
{
	const struct value *tags, *description;
	struct value v;

	w->requests++;
	if (!value_unpack(&v, wish->entity.p, wish->entity.n, 0))
		return;
	tags = value_get(&v, "tags");
	description = value_get(&v, "description");
	for (uint32_t i = 0; tags && tags->type == VALUE_LIST && i < tags->n; i++)
		add_tag(w, &tags->items[i]);
	if (description && description->type == VALUE_STRING && description->n) {
		free(w->description);
		w->description = xstrdup(description->bytes);
	}
	value_done(&v);
}

bool wanted_due(const struct wanted *w, uint64_t mono_ns) { return w->requests && mono_ns >= w->again_mono_ns; }

bool wanted_take(struct wanted *w, char ***tags, char **ret_description)
{
	size_t n = 0;

	if (w->requests == 0)
		return false;
	while (*tags && (*tags)[n])
		n++;
	*tags = xrealloc(*tags, (n + w->ntags + 1) * sizeof **tags);
	memcpy(*tags + n, w->tags, w->ntags * sizeof **tags);
	(*tags)[n + w->ntags] = NULL;
	*ret_description = w->description ? w->description : xstrdup("");
	*w = (struct wanted){ .again_mono_ns = mono_now_ns() + WANTED_EVERY_NS };
	return true;
}

void wanted_done(struct wanted *w)
{
	for (uint32_t i = 0; i < w->ntags; i++)
		free(w->tags[i]);
	free(w->description);
	*w = (struct wanted){ 0 };
}
