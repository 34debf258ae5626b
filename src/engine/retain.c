/* Applying the limits; see retain.h. */
#include "engine/retain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "engine/clock.h"
#include "engine/handed.h"

void retain_limits(const struct config *c, struct store_retention *ret)
{
	*ret = (struct store_retention){ .max_age_ns = c->max_age_ns, .max_snapshots = c->max_snapshots, .max_bytes = c->max_size_bytes,
					 .tagged_only = c->tagged_only, .keep_tags = (const char *const *)c->keep_tags,
					 .now_ns = wall_now_ns() };
}

int retain_fold(void *store, const struct snapshot_meta *m, struct buf *out) { return handed_full(store, m, out); }

/* The time of a file says when somebody last did; touching it is the claim. */
static bool claim(struct store *s, bool passed, const struct retainer *w)
{
	char path[4200];
	struct stat st;
	uint64_t now = wall_now_ns();
	bool due;
	int fd;

	if (store_path(s) == NULL)
		return passed || w->looked_mono_ns + RETAIN_EVERY_NS < mono_now_ns(); /* in memory there is nobody else */
	snprintf(path, sizeof path, "%s/index/retained", store_path(s));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	due = passed || (fstat(fd, &st) == 0 &&
			 (st.st_size == 0 || (uint64_t)st.st_mtim.tv_sec * 1000000000u + RETAIN_EVERY_NS < now));
	if (due)
		due = pwrite(fd, "retained\n", 9, 0) == 9;
	close(fd);
	return due;
}

void retain_wrote(struct retainer *w, const struct snapshot_meta *m)
{
	w->snapshots++;
	w->bytes += m->stored_bytes;
}

static bool wrote_much(const struct retainer *w, const struct config *c)
{
	return (c->max_snapshots && w->snapshots > c->max_snapshots / RETAIN_SHARE) ||
	       (c->max_size_bytes && w->bytes > c->max_size_bytes / RETAIN_SHARE);
}

int retain_if_due(struct store *s, const struct config *c, struct retainer *w)
{
	struct store_retention r;
	uint64_t deleted, began = mono_now_ns();
	int64_t freed;
	int e;

	if (!claim(s, wrote_much(w, c) && began - w->looked_mono_ns >= RETAIN_COST * w->took_ns, w))
		return 0;
	retain_limits(c, &r);
	r.lazy = true;
	e = store_prune(s, &r, false, &(struct store_folding){ retain_fold, s }, NULL, NULL, &deleted, &freed);
	*w = (struct retainer){ .looked_mono_ns = mono_now_ns(), .took_ns = mono_now_ns() - began };
	return e;
}
