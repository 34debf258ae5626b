/* The Babeltrace 2 plugin: sink.snaptrail.store records a trace as a session,
 * source.snaptrail.store reads a session as a trace. */
#include <babeltrace2/babeltrace.h>

#include "bt_plugin.h"

/* The library finds these by name. */
#pragma GCC visibility push(default)
BT_PLUGIN_MODULE();
#pragma GCC visibility pop
BT_PLUGIN(snaptrail);
BT_PLUGIN_DESCRIPTION("Record traces as snaptrail sessions, and read sessions as traces");

BT_PLUGIN_SINK_COMPONENT_CLASS(store, sink_consume);
BT_PLUGIN_SINK_COMPONENT_CLASS_DESCRIPTION(store, "Record a trace as a session");
BT_PLUGIN_SINK_COMPONENT_CLASS_HELP(store, "Parameters: session, store, profile, config, map (a name or a list), quiet.");
BT_PLUGIN_SINK_COMPONENT_CLASS_INITIALIZE_METHOD(store, sink_initialize);
BT_PLUGIN_SINK_COMPONENT_CLASS_GRAPH_IS_CONFIGURED_METHOD(store, sink_configured);
BT_PLUGIN_SINK_COMPONENT_CLASS_FINALIZE_METHOD(store, sink_finalize);

BT_PLUGIN_SOURCE_COMPONENT_CLASS(store, source_next);
BT_PLUGIN_SOURCE_COMPONENT_CLASS_DESCRIPTION(store, "Read a session as a trace");
BT_PLUGIN_SOURCE_COMPONENT_CLASS_HELP(store, "Parameters: session (the last one), store, profile, config, from, to.");
BT_PLUGIN_SOURCE_COMPONENT_CLASS_INITIALIZE_METHOD(store, source_initialize);
BT_PLUGIN_SOURCE_COMPONENT_CLASS_FINALIZE_METHOD(store, source_finalize);
BT_PLUGIN_SOURCE_COMPONENT_CLASS_MESSAGE_ITERATOR_CLASS_INITIALIZE_METHOD(store, source_iterator_initialize);
BT_PLUGIN_SOURCE_COMPONENT_CLASS_MESSAGE_ITERATOR_CLASS_FINALIZE_METHOD(store, source_iterator_finalize);
