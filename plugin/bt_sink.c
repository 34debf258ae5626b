/* sink.snaptrail.store: whatever Babeltrace reads becomes a session.  Here are its
 * messages and the session's beginning and end; bt_rules.c says what events mean. */
#include "bt_sink.h"

#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "bt_params.h"
#include "bt_plugin.h"
#include "engine/clock.h"

/* The library's errors as the graph's. */
static void append_error(bt_self_component *c, const char *what)
{
	bt_current_thread_error_append_cause_from_component(c, __FILE__, __LINE__, "%s%s%s", what, *what ? ": " : "", err_detail());
}

/* ---- the session ---- */

static void sink_free(struct sink *s)
{
	if (s->iterator)
		bt_message_iterator_put_ref(s->iterator);
	plans_done(s);
	handing_done(&s->handing);
	threads_done(&s->threads);
	map_done(&s->map);
	if (s->config)
		config_free(s->config);
	free(s->session);
	free(s->what);
	buf_done(&s->a);
	buf_done(&s->b);
	buf_done(&s->entity);
	free(s);
}

static int begin(struct sink *s, uint64_t time_ns)
{
	char *argv[] = { s->what ? s->what : (char *)"trace", NULL };

	return feed_open(s->config, s->session, argv, time_ns, &s->feed);
}

static int end(struct sink *s, const char *failed)
{
	struct snaptrail_summary sum;
	char rest[64] = "";
	int r;

	if (s->handing.store && !s->quiet)
		fprintf(stderr, "snaptrail: session %s: %llu events, %llu snapshot%s\n", s->handing.name, (unsigned long long)s->events,
			(unsigned long long)s->snapshots, s->snapshots == 1 ? "" : "s");
	handing_done(&s->handing);
	if (s->feed == NULL)
		return 0;
	r = feed_close(s->feed, failed, &sum);
	s->feed = NULL;
	if (r < 0)
		return r;
	if (sum.lost)
		snprintf(rest, sizeof rest, ", %llu lost by the tracer", (unsigned long long)sum.lost);
	if (!s->quiet)
		fprintf(stderr, "snaptrail: session %s: %llu events, %llu changes, %llu snapshot%s%s\n", sum.session,
			(unsigned long long)s->events, (unsigned long long)sum.changes, (unsigned long long)sum.snapshots,
			sum.snapshots == 1 ? "" : "s", rest);
	return 0;
}

int sink_put(struct sink *s, struct change *c) { return feed_put(s->feed, s->now_ns, c); }

/* ---- messages ---- */

/* Where the time is none, it is that of the reading; an origin that is not the
 * epoch is taken for it, and both are said once. */
static int time_of(struct sink *s, const bt_stream *stream, const bt_clock_snapshot *snapshot, uint64_t *ret)
{
	const bt_stream_class *sc = bt_stream_borrow_class_const(stream);
	const bt_clock_class *cc = bt_stream_class_borrow_default_clock_class_const(sc);
	int64_t ns;

	if (cc == NULL || snapshot == NULL) {
		if (!s->no_clock)
			fprintf(stderr, "snaptrail: a stream without a clock: its events are of when they were read\n");
		s->no_clock = true;
		*ret = wall_now_ns();
		return 0;
	}
	if (bt_clock_snapshot_get_ns_from_origin(snapshot, &ns) != BT_CLOCK_SNAPSHOT_GET_NS_FROM_ORIGIN_STATUS_OK || ns < 0)
		return fail(-EBADMSG, "an event at a time that nanoseconds since 1970 cannot say");
	if (!bt_clock_class_origin_is_unix_epoch(cc) && !s->no_epoch) {
		fprintf(stderr, "snaptrail: a clock that does not know the date: times begin at 1970-01-01\n");
		s->no_epoch = true;
	}
	*ret = ns ? (uint64_t)ns : 1;
	return 0;
}

static uint32_t small(const struct cell *c)
{
	return c->type == CELL_INT && c->integer > 0 ? (uint32_t)c->integer : c->type == CELL_UINT ? (uint32_t)c->natural : 0;
}

/* By its contexts, or by what the scheduler said of its processor. */
static void find_thread(struct sink *s, struct event *e)
{
	struct plan *p = e->plan;
	struct cell c;

	ref_get(&p->tid, e, &c);
	e->tid = small(&c);
	if (e->tid == 0 && p->tid.what == REF_NONE && s->threads.ncpus) {
		ref_get(&p->cpu, e, &c);
		e->tid = c.type == CELL_UINT ? thread_of_cpu(&s->threads, c.natural) : 0;
	}
	ref_get(&p->pid, e, &c);
	e->pid = small(&c);
	if (e->pid == 0)
		e->pid = thread_pid(&s->threads, e->tid);
	e->thread = thread_get(s, e->pid, e->tid);
}

static int take_event(struct sink *s, const bt_message *m)
{
	const bt_event *event = bt_message_event_borrow_event_const(m);
	struct event e = { .stream = bt_event_borrow_stream_const(event) };
	const bt_clock_snapshot *when;
	const bt_packet *packet;
	struct cell name;
	int r;

	when = bt_stream_class_borrow_default_clock_class_const(bt_stream_borrow_class_const(e.stream)) ?
		bt_message_event_borrow_default_clock_snapshot_const(m) : NULL;
	r = time_of(s, e.stream, when, &e.time_ns);
	if (r < 0)
		return r;
	e.plan = plan_get(s, bt_event_borrow_class_const(event));
	if (s->feed == NULL && !(e.plan->ours && ours_is_handed(s, e.plan->ours)) && (r = begin(s, e.time_ns)) < 0)
		return r;
	s->now_ns = e.time_ns;
	s->events++;
	e.root[SCOPE_PAYLOAD] = bt_event_borrow_payload_field_const(event);
	if (e.plan->ours)
		return ours_take(s, e.plan->ours, &e);
	e.root[SCOPE_SPECIFIC] = bt_event_borrow_specific_context_field_const(event);
	e.root[SCOPE_COMMON] = bt_event_borrow_common_context_field_const(event);
	if (bt_stream_class_supports_packets(bt_stream_borrow_class_const(e.stream))) {
		packet = bt_event_borrow_packet_const(event);
		e.root[SCOPE_PACKET] = packet ? bt_packet_borrow_context_field_const(packet) : NULL;
	}
	find_thread(s, &e);
	if (e.thread) {
		ref_get(&e.plan->procname, &e, &name);
		r = thread_show(s, e.thread, name.type == CELL_TEXT ? name.text : NULL, name.type == CELL_TEXT ? name.n : 0);
	}
	return r < 0 ? r : event_take(s, &e);
}

static int take_discarded(struct sink *s, const bt_stream *stream, const bt_clock_snapshot *from, const bt_clock_snapshot *to,
			  uint64_t lost, const char *cause)
{
	uint64_t begins = s->now_ns, ends = s->now_ns;
	int r = 0;

	if (from && to) {
		r = time_of(s, stream, from, &begins);
		if (r == 0)
			r = time_of(s, stream, to, &ends);
	}
	if (r == 0 && s->feed == NULL)
		r = begin(s, begins ? begins : wall_now_ns());
	if (r == 0)
		feed_gap(s->feed, begins, ends, lost, cause);
	return r;
}

static int take_discarded_events(struct sink *s, const bt_message *m)
{
	const bt_stream *stream = bt_message_discarded_events_borrow_stream_const(m);
	bool timed = bt_stream_class_discarded_events_have_default_clock_snapshots(bt_stream_borrow_class_const(stream));
	uint64_t count;

	if (bt_message_discarded_events_get_count(m, &count) != BT_PROPERTY_AVAILABILITY_AVAILABLE)
		count = 0;
	/* Counters of tracers may fall from one packet to the next; then their difference
	 * is no count, and the next ones hold it once more. */
	if (count >> 63) {
		s->overcounted += -count;
		count = 0;
	} else {
		uint64_t back = count < s->overcounted ? count : s->overcounted;

		s->overcounted -= back;
		count -= back;
	}
	return take_discarded(s, stream, timed ? bt_message_discarded_events_borrow_beginning_default_clock_snapshot_const(m) : NULL,
			      timed ? bt_message_discarded_events_borrow_end_default_clock_snapshot_const(m) : NULL, count,
			      "the tracer discarded events");
}

static int take_discarded_packets(struct sink *s, const bt_message *m)
{
	const bt_stream *stream = bt_message_discarded_packets_borrow_stream_const(m);
	bool timed = bt_stream_class_discarded_packets_have_default_clock_snapshots(bt_stream_borrow_class_const(stream));

	return take_discarded(s, stream,
			      timed ? bt_message_discarded_packets_borrow_beginning_default_clock_snapshot_const(m) : NULL,
			      timed ? bt_message_discarded_packets_borrow_end_default_clock_snapshot_const(m) : NULL, 0,
			      "the tracer discarded packets");
}

/* What the trace is called, for the session's name. */
static void take_stream(struct sink *s, const bt_message *m)
{
	const char *name = bt_trace_get_name(
		bt_stream_borrow_trace_const(bt_message_stream_beginning_borrow_stream_const(m)));

	if (s->what == NULL && name && *name)
		s->what = xstrdup(strrchr(name, '/') && strrchr(name, '/')[1] ? strrchr(name, '/') + 1 : name);
}

static int take(struct sink *s, const bt_message *m)
{
	switch (bt_message_get_type(m)) {
	case BT_MESSAGE_TYPE_EVENT: return take_event(s, m);
	case BT_MESSAGE_TYPE_DISCARDED_EVENTS: return take_discarded_events(s, m);
	case BT_MESSAGE_TYPE_DISCARDED_PACKETS: return take_discarded_packets(s, m);
	case BT_MESSAGE_TYPE_STREAM_BEGINNING: take_stream(s, m); return 0;
	default: return 0;
	}
}

bt_component_class_sink_consume_method_status sink_consume(bt_self_component_sink *self)
{
	struct sink *s = bt_self_component_get_data(bt_self_component_sink_as_self_component(self));
	bt_message_array_const messages;
	uint64_t count = 0;
	int r = 0;

	switch (bt_message_iterator_next(s->iterator, &messages, &count)) {
	case BT_MESSAGE_ITERATOR_NEXT_STATUS_OK: break;
	case BT_MESSAGE_ITERATOR_NEXT_STATUS_END:
		if (end(s, NULL) == 0)
			return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_END;
		append_error(s->component, "");
		return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_ERROR;
	case BT_MESSAGE_ITERATOR_NEXT_STATUS_AGAIN:
		r = s->feed ? feed_idle(s->feed) : 0;
		if (r == 0)
			return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_AGAIN;
		append_error(s->component, "");
		return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_ERROR;
	case BT_MESSAGE_ITERATOR_NEXT_STATUS_MEMORY_ERROR:
		return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_MEMORY_ERROR;
	default:
		s->failed = true;
		return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_ERROR;
	}
	for (uint64_t i = 0; i < count; i++) {
		if (r == 0)
			r = take(s, messages[i]);
		bt_message_put_ref(messages[i]);
	}
	if (r == 0)
		return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_OK;
	append_error(s->component, "");
	s->failed = true;
	return BT_COMPONENT_CLASS_SINK_CONSUME_METHOD_STATUS_ERROR;
}

/* ---- the component ---- */

static const char *const allowed[] = { "session", "store", "profile", "config", "map", "quiet", NULL };

bt_component_class_initialize_method_status sink_initialize(bt_self_component_sink *self, bt_self_component_sink_configuration *c,
							     const bt_value *values, void *data)
{
	struct sink *s = xcalloc(1, sizeof *s);
	struct params p;
	int r;

	(void)c;
	(void)data;
	s->component = bt_self_component_sink_as_self_component(self);
	r = params_read(values, allowed, &p);
	if (r == 0)
		r = params_config(&p, &s->config);
	if (r == 0)
		r = params_maps(&p, &s->map);
	if (r < 0) {
		append_error(s->component, "");
		sink_free(s);
		return BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
	}
	s->session = p.session ? xstrdup(p.session) : NULL;
	s->quiet = p.quiet;
	bt_self_component_set_data(s->component, s);
	return bt_self_component_sink_add_input_port(self, "in", NULL, NULL) == BT_SELF_COMPONENT_ADD_PORT_STATUS_OK ?
		BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_OK : BT_COMPONENT_CLASS_INITIALIZE_METHOD_STATUS_ERROR;
}

bt_component_class_sink_graph_is_configured_method_status sink_configured(bt_self_component_sink *self)
{
	struct sink *s = bt_self_component_get_data(bt_self_component_sink_as_self_component(self));

	return bt_message_iterator_create_from_sink_component(
		       self, bt_self_component_sink_borrow_input_port_by_index(self, 0), &s->iterator) ==
			       BT_MESSAGE_ITERATOR_CREATE_FROM_SINK_COMPONENT_STATUS_OK ?
		BT_COMPONENT_CLASS_SINK_GRAPH_IS_CONFIGURED_METHOD_STATUS_OK :
		BT_COMPONENT_CLASS_SINK_GRAPH_IS_CONFIGURED_METHOD_STATUS_ERROR;
}

/* Also when the graph was interrupted or failed: what was fed is kept. */
void sink_finalize(bt_self_component_sink *self)
{
	struct sink *s = bt_self_component_get_data(bt_self_component_sink_as_self_component(self));

	if (end(s, s->failed ? "the trace ends with an error" : "interrupted") < 0)
		fprintf(stderr, "snaptrail: %s\n", err_detail());
	sink_free(s);
}
