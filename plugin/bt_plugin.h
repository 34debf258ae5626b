/* The component classes of babeltrace-plugin-snaptrail.so. */
#ifndef SNAPTRAIL_PLUGIN_BT_PLUGIN_H
#define SNAPTRAIL_PLUGIN_BT_PLUGIN_H

#include <babeltrace2/babeltrace.h>

bt_component_class_sink_consume_method_status sink_consume(bt_self_component_sink *self);
bt_component_class_initialize_method_status sink_initialize(bt_self_component_sink *self, bt_self_component_sink_configuration *c,
							     const bt_value *values, void *data);
bt_component_class_sink_graph_is_configured_method_status sink_configured(bt_self_component_sink *self);
void sink_finalize(bt_self_component_sink *self);

bt_message_iterator_class_next_method_status source_next(bt_self_message_iterator *self, bt_message_array_const messages,
							  uint64_t capacity, uint64_t *count);
bt_message_iterator_class_initialize_method_status source_iterator_initialize(bt_self_message_iterator *self,
									       bt_self_message_iterator_configuration *c,
									       bt_self_component_port_output *port);
void source_iterator_finalize(bt_self_message_iterator *self);
bt_component_class_initialize_method_status source_initialize(bt_self_component_source *self,
							       bt_self_component_source_configuration *c, const bt_value *values,
							       void *data);
void source_finalize(bt_self_component_source *self);

#endif
