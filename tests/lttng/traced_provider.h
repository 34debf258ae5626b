/* What traced.c says through LTTng: one field of each class. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER shop
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./traced_provider.h"
#if !defined(TRACED_PROVIDER_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TRACED_PROVIDER_H
#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_ENUM(shop, kind,
	LTTNG_UST_TP_ENUM_VALUES(lttng_ust_field_enum_value("RETAIL", 1) lttng_ust_field_enum_value("BULK", 2)))

LTTNG_UST_TRACEPOINT_EVENT(shop, order_begin,
	LTTNG_UST_TP_ARGS(int, id, const char *, customer, int, kind, double, amount),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, id, id) lttng_ust_field_string(customer, customer)
		lttng_ust_field_enum(shop, kind, int, kind, kind) lttng_ust_field_float(double, amount, amount)))

LTTNG_UST_TRACEPOINT_EVENT(shop, order_end,
	LTTNG_UST_TP_ARGS(int, id, int, failed, const char *, why),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, id, id) lttng_ust_field_integer(int, failed, failed)
		lttng_ust_field_string(why, why)))

LTTNG_UST_TRACEPOINT_EVENT(shop, stock,
	LTTNG_UST_TP_ARGS(const char *, item, uint64_t, left, const int *, sizes, size_t, n, const char *, password),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_string(item, item) lttng_ust_field_integer(uint64_t, left, left)
		lttng_ust_field_sequence(int, sizes, sizes, size_t, n) lttng_ust_field_string(password, password)))
#endif
#include <lttng/tracepoint-event.h>
