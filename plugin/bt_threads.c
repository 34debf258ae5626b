/* Who an event is of: processes and threads as contexts and rules tell of them. */
#include <stdio.h>

#include "bt_sink.h"

static uint32_t bucket_of(uint32_t pid, uint32_t tid)
{
	return (uint32_t)(((uint64_t)pid << 32 | tid) * 0x9e3779b97f4a7c15ull >> 52) % THREAD_BUCKETS;
}

static void entry_done(struct entry *e)
{
	free(e->cells);
	buf_done(&e->text);
}

void threads_done(struct threads *t)
{
	for (size_t i = 0; i < THREAD_BUCKETS; i++)
		for (struct thread *h; (h = t->buckets[i]);) {
			t->buckets[i] = h->next;
			entry_done(&h->entry);
			free(h);
		}
	free(t->of);
	free(t->on_cpu);
}

static struct thread *thread_find(struct threads *t, uint32_t pid, uint32_t tid)
{
	struct thread **b = &t->buckets[bucket_of(pid, tid)];

	for (struct thread *h = *b; h; h = h->next)
		if (h->pid == pid && h->tid == tid)
			return h;
	return NULL;
}

struct thread *thread_get(struct sink *s, uint32_t pid, uint32_t tid)
{
	struct thread *h = pid ? thread_find(&s->threads, pid, tid) : NULL, **b;

	if (h || pid == 0)
		return h;
	b = &s->threads.buckets[bucket_of(pid, tid)];
	h = xcalloc(1, sizeof *h);
	h->pid = pid;
	h->tid = tid;
	h->key_len = (uint32_t)(tid ? sprintf(h->key, "p%u/t%u", pid, tid) : sprintf(h->key, "p%u", pid));
	h->next = *b;
	return *b = h;
}

/* ---- whose a thread is, where it runs ---- */

static size_t place_of(const struct threads *t, uint32_t tid)
{
	size_t i = tid * 0x9e3779b1u & (t->nof - 1);

	while (t->of[i].tid && t->of[i].tid != tid)
		i = (i + 1) & (t->nof - 1);
	return i;
}

uint32_t thread_pid(const struct threads *t, uint32_t tid)
{
	return t->nof && tid ? t->of[place_of(t, tid)].pid : 0;
}

void thread_is_of(struct threads *t, uint32_t tid, uint32_t pid)
{
	size_t i;

	if (tid == 0)
		return;
	if (t->of_used * 2 >= t->nof) {
		struct threads old = *t;

		t->nof = old.nof ? old.nof * 2 : 1024;
		t->of = xcalloc(t->nof, sizeof *t->of);
		for (size_t k = 0; k < old.nof; k++)
			if (old.of[k].tid)
				t->of[place_of(t, old.of[k].tid)] = old.of[k];
		free(old.of);
	}
	i = place_of(t, tid);
	t->of_used += t->of[i].tid == 0;
	t->of[i].tid = tid;
	t->of[i].pid = pid;
}

void thread_on_cpu(struct threads *t, uint64_t cpu, uint32_t tid)
{
	if (cpu >= 65536)
		return;
	if (cpu >= t->ncpus) {
		size_t n = (size_t)cpu + 16;

		t->on_cpu = xrealloc(t->on_cpu, n * sizeof *t->on_cpu);
		memset(t->on_cpu + t->ncpus, 0, (n - t->ncpus) * sizeof *t->on_cpu);
		t->ncpus = n;
	}
	t->on_cpu[cpu] = tid;
}

uint32_t thread_of_cpu(const struct threads *t, uint64_t cpu) { return cpu < t->ncpus ? t->on_cpu[cpu] : 0; }

/* ---- telling of them ---- */

static uint64_t hash_of(const char *s, uint32_t n)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (uint32_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)s[i]) * 0x100000001b3ull;
	return h | 1;
}

int thread_show(struct sink *s, struct thread *t, const char *name, uint32_t n)
{
	struct thread *p = t->tid ? thread_get(s, t->pid, 0) : t;
	uint64_t hash = n ? hash_of(name, n) : t->name_hash;
	struct change c = { .pid = t->pid };
	int r = 0;

	if (t->shown && t->life == p->life && hash == t->name_hash)
		return 0;
	if (!p->shown) {
		c.kind = PROCESS_SEEN;
		if (t->tid == t->pid || t->tid == 0) /* another thread's name is not the process's */
			c.name = BYTES(name, n);
		r = sink_put(s, &c);
		p->shown = true;
		if (t->tid == t->pid)
			t->shown = true, t->life = p->life;
	}
	if (r == 0 && t->tid && (!t->shown || t->life != p->life)) {
		c = (struct change){ .kind = THREAD_BEGAN, .pid = t->pid, .tid = t->tid };
		r = sink_put(s, &c);
		t->shown = true;
		t->life = p->life;
		t->entry.plan = NULL;
	}
	if (r == 0 && n && t->tid && hash != t->name_hash) {
		c = (struct change){ .kind = THREAD_NAMED, .pid = t->pid, .tid = t->tid, .name = BYTES(name, n) };
		r = sink_put(s, &c);
	}
	t->name_hash = hash;
	return r;
}

void thread_ended(struct sink *s, uint32_t pid, uint32_t tid)
{
	struct thread *t = thread_find(&s->threads, pid, tid);

	thread_is_of(&s->threads, tid ? tid : pid, 0);
	if (t == NULL)
		return;
	t->shown = false;
	t->name_hash = 0;
	t->life += tid == 0;
}
