/* The part of Intel's Instrumentation and Tracing Technology interface that a
 * collector needs, as its programs have it in memory (API version 3).  The names are
 * that interface's own; it is documented with Intel VTune and at
 * https://intel.github.io/ittapi/ . */
#ifndef SNAPTRAIL_PLUGIN_ITT_ABI_H
#define SNAPTRAIL_PLUGIN_ITT_ABI_H

#include <pthread.h>
#include <stdint.h>

typedef struct itt_domain {
	volatile int flags;              /* 0: switched off */
	const char *name;
	void *name_wide;
	int extra1;
	void *extra2;
	struct itt_domain *next;
} itt_domain;

typedef struct itt_string {
	const char *text;
	void *text_wide;
	int extra1;
	void *extra2;
	struct itt_string *next;
} itt_string;

typedef struct { unsigned long long d1, d2, d3; } itt_id; /* d1 0: none */

/* One function of the static part: where its pointer is, what does nothing. */
struct itt_api_info {
	const char *name;
	void **function;
	void *init, *nothing;
	int group;
};

/* The static part's state; each library that has one inside has its own. */
struct itt_global {
	unsigned char magic[8];
	unsigned long version_major, version_minor, version_build;
	volatile long api_initialized, mutex_initialized, atomic_counter;
	pthread_mutex_t mutex;
	void *lib, *error_handler;
	const char **dll_path;
	struct itt_api_info *api_list;
	struct itt_global *next;
	void *threads;
	itt_domain *domains;
	itt_string *strings;
};

static const unsigned char itt_magic[8] = { 0xed, 0xab, 0xab, 0xec, 0x0d, 0xee, 0xda, 0x30 };

enum itt_metadata_type {
	ITT_UNKNOWN = 0, ITT_U64, ITT_S64, ITT_U32, ITT_S32, ITT_U16, ITT_S16, ITT_FLOAT, ITT_DOUBLE,
};

#endif
