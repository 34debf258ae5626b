/* The configuration: what the engine, the store and the visitor are told.
 *
 * Layers, each over the one before: built-in, system file, user file, --config
 * (or $SNAPTRAIL_CONFIG), profile, SNAPTRAIL_* environment, flags.  Every key
 * remembers its text and where it came from.  A struct config is read-only
 * after loading and may then be shared by threads.
 *
 * Failures are -EINVAL with one line: `file:line: what (did you mean ...?)`. */
#ifndef SNAPTRAIL_BASE_CONFIG_H
#define SNAPTRAIL_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_storage { CONFIG_STORAGE_HYBRID, CONFIG_STORAGE_DISK, CONFIG_STORAGE_MEMORY };
enum config_fsync { CONFIG_FSYNC_SNAPSHOT, CONFIG_FSYNC_NEVER, CONFIG_FSYNC_ALWAYS };
enum config_verify { CONFIG_VERIFY_READ, CONFIG_VERIFY_NEVER };
enum config_on_full { CONFIG_ON_FULL_DROP };

#define CONFIG_KEYS_MAX 48
#define CONFIG_STACK_DEPTH_MAX 64

struct config {
	/* [snapshot] */
	uint64_t interval_ns;        /* 0: no automatic snapshots */
	bool incremental;
	uint64_t full_every_ns;
	/* [retention] */
	uint64_t max_age_ns;         /* 0: never expire */
	uint64_t max_snapshots;      /* a session; 0: all */
	bool tagged_only;
	uint64_t max_size_bytes;     /* 0: no limit */
	char **keep_tags;            /* NULL-terminated, never NULL */
	/* [compression] */
	bool compression;
	uint64_t threshold_bytes;
	/* [storage] */
	int storage_type;            /* enum config_storage */
	bool persist;
	char *path;                  /* absolute, never empty after loading */
	uint64_t memory_bytes;
	int fsync;                   /* enum config_fsync */
	/* [integrity] */
	int verify;                  /* enum config_verify */
	/* [ring] */
	uint64_t lane_bytes;         /* powers of two, lane_bytes <= lane_max_bytes */
	uint64_t lane_max_bytes;
	int on_full;                 /* enum config_on_full */
	/* [hooks] */
	bool hooks_process, hooks_thread, hooks_status, hooks_memory, hooks_resource, hooks_communication;
	bool hooks_heap;
	/* [capture] */
	char **capture_stacks;       /* NULL-terminated, never NULL: see config_stack_groups() */
	uint64_t stack_depth;        /* frames, 1 to CONFIG_STACK_DEPTH_MAX */
	bool capture_io_records;
	uint64_t max_rate;           /* changes a second and key; 0: unlimited */
	/* [privacy] */
	bool redact;
	char **patterns;             /* globs, NULL-terminated, never NULL */
	/* [plugins] */
	bool plugin_itt, plugin_ompt;

	char *profile;               /* its name; "default" when none was asked for */
	char *text[CONFIG_KEYS_MAX];   /* value of each key as written */
	char *origin[CONFIG_KEYS_MAX]; /* "built-in", "FILE:LINE", a variable's or flag's name */
};

/* The public handle is the same object. */
struct snaptrail_config;
static inline const struct config *config_of(const struct snaptrail_config *c)
{
	return (const struct config *)(const void *)c;
}

/* NULL file and profile: $SNAPTRAIL_CONFIG and $SNAPTRAIL_PROFILE, if any. */
int config_load(const char *file, const char *profile, struct config **ret);
/* The built-in defaults alone: reads no file and no environment but HOME's. */
struct config *config_new(void);
void config_free(struct config *c);

/* `key` is "section.key" or one of the original's names. */
int config_set(struct config *c, const char *key, const char *value, const char *origin);
int config_at(const struct config *c, size_t i, const char **ret_key, const char **ret_value,
              const char **ret_origin, const char **ret_doc);
/* Reads one file over `c`. */
int config_read_file(struct config *c, const char *path);
/* The groups of [hooks] whose reports carry a call stack, bit i for the i-th of
 * process, thread, status, memory, resource, communication. */
unsigned config_stack_groups(const struct config *c);
/* Values that do not go together, e.g. a lane larger than lane_max. */
int config_validate(const struct config *c);
/* Checks one file alone, over the built-in defaults. */
int config_check(const char *path);

/* One more folder of profiles, looked at before the built-in one.  Call
 * before config_load(), from one thread. */
void config_add_profile_dir(const char *dir);

/* The nearest of a NULL-terminated list by edit distance, or NULL when none
 * is near enough to have been meant. */
const char *config_did_you_mean(const char *word, const char *const *words);

#endif
