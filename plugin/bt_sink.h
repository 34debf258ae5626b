/* What the sink's files share: bt_sink.c (messages, the session), bt_plan.c (event
 * classes), bt_rules.c (what an event means), bt_threads.c (who it is of).  One thread a graph. */
#ifndef SNAPTRAIL_PLUGIN_BT_SINK_H
#define SNAPTRAIL_PLUGIN_BT_SINK_H

#include "bt_fields.h"
#include "engine/feed.h"
#include "map.h"

/* ---- who ---- */

/* What an event that began something left for the one that ends it. */
struct entry {
	const struct plan *plan;         /* NULL: nothing */
	struct cell *cells;              /* by member of its payload */
	uint32_t ncells, cap;
	struct buf text;
};

struct thread {
	struct thread *next;
	uint32_t pid, tid;               /* tid 0: the process */
	uint32_t life;                   /* which life of the process it belongs to; of a process: the present one */
	bool shown;
	uint64_t name_hash;
	char key[32];                    /* in the table of agents */
	uint32_t key_len;
	struct entry entry;
};

#define THREAD_BUCKETS 4096u
struct threads {
	struct thread *buckets[THREAD_BUCKETS];
	struct { uint32_t tid, pid; } *of;   /* by tid: whose it is */
	size_t nof, of_used;
	uint32_t *on_cpu;                /* tid, by processor */
	size_t ncpus;
};

struct sink;
void threads_done(struct threads *t);
/* NULL for pid 0. */
struct thread *thread_get(struct sink *s, uint32_t pid, uint32_t tid);
uint32_t thread_pid(const struct threads *t, uint32_t tid); /* 0: unknown */
void thread_is_of(struct threads *t, uint32_t tid, uint32_t pid);
void thread_on_cpu(struct threads *t, uint64_t cpu, uint32_t tid);
uint32_t thread_of_cpu(const struct threads *t, uint64_t cpu);
/* Tells of the process and thread, once a life, and of names when they change. */
int thread_show(struct sink *s, struct thread *t, const char *name, uint32_t n);
void thread_ended(struct sink *s, uint32_t pid, uint32_t tid); /* tid 0: the process with all of them */

/* ---- what ---- */

enum scope { SCOPE_PACKET, SCOPE_COMMON, SCOPE_SPECIFIC, SCOPE_PAYLOAD, SCOPES };

struct ref {
	enum { REF_NONE, REF_FIELD, REF_ENTRY, REF_EVENT, REF_PID, REF_TID, REF_PROCNAME, REF_CPU } what;
	enum scope scope;
	struct field_path path;
	char *name;                      /* REF_ENTRY: of the member */
	const struct plan *known;        /* ... and where it stands in whose payload */
	uint32_t cell;
};

struct template {
	struct part {
		char *literal;           /* NULL: the ref */
		struct ref ref;
	} *parts;
	uint32_t n;
};

struct plan_rule {
	const struct map_rule *rule;
	struct template field[MAP_FIELDS], left, right;
};

/* An event class with the rules that match it. */
struct plan {
	struct plan *next;
	const bt_event_class *class;     /* with a reference */
	char *name;
	uint32_t name_len;
	struct shape *shape[SCOPES];
	struct ref pid, tid, procname, cpu;
	struct plan_rule *rules;
	uint32_t nrules;
	bool keep;                       /* the event is a message whatever its rules say */
	bool ignored;                    /* ... unless one takes it, it is nothing */
	bool saved;                      /* rules want it as an entry */
	bool ends;                       /* a rule of it wants an entry */
	struct ours *ours;               /* an event of our own source: see bt_ours.c */
};

struct event {
	struct plan *plan;
	const bt_field *root[SCOPES];
	uint64_t time_ns;
	uint32_t pid, tid;
	struct thread *thread;           /* NULL: not known */
	const bt_stream *stream;
};

struct plan *plan_get(struct sink *s, const bt_event_class *class);
void plans_done(struct sink *s);
/* Follows the event's rules and keeps it; a negative errno is a failure of the feed. */
int event_take(struct sink *s, struct event *e);
/* A field of an event; CELL_NONE when it is not there. */
void ref_get(struct ref *r, const struct event *e, struct cell *ret);

/* What a template is of an event; false: something that it names is not there.  One that
 * is a single field is what that is, others are text in `room`. */
bool template_cell(const struct template *t, const struct event *e, struct buf *room, struct cell *ret);
bool template_text(const struct template *t, const struct event *e, struct buf *room, struct bytes *ret);
bool template_integer(const struct template *t, const struct event *e, struct buf *room, int64_t *ret);

static inline bool is_word(const char *s, size_t n, const char *word) { return n == strlen(word) && memcmp(s, word, n) == 0; }

/* ---- our own events ---- */

/* A session of states that were handed in: not fed, but stored snapshot by snapshot. */
struct handing {
	struct store *store;
	struct model *state;
	char name[256];
	struct buf pieces;               /* of the first state, while they come */
};
void handing_done(struct handing *h);
/* Whether the event begins such a session or is of the one that began. */
bool ours_is_handed(const struct sink *s, const struct ours *o);

struct ours *ours_new(const char *event, const bt_field_class *payload);
void ours_free(struct ours *o);
int ours_take(struct sink *s, const struct ours *o, const struct event *e);

/* ---- the sink ---- */

#define PLAN_BUCKETS 1024u

struct sink {
	bt_self_component *component;
	bt_message_iterator *iterator;
	struct config *config;
	struct map map;
	struct feed *feed;               /* NULL until the first event */
	char *session, *what;            /* its name or NULL; the trace's name */
	struct plan *plans[PLAN_BUCKETS];
	struct threads threads;
	struct handing handing;
	uint64_t snapshots;              /* of handed-in states */
	uint64_t events, now_ns;         /* the time of the event at hand */
	const bt_stream *ours;           /* the stream of our own source that this session is made of */
	uint64_t overcounted;            /* events that were said to be discarded and then taken back */
	bool quiet, no_clock, no_epoch, failed;
	struct buf a, b, entity;
};

/* At the time of the event at hand. */
int sink_put(struct sink *s, struct change *c);

#endif
