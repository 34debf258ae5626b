/* stats, verify, config and doctor: how the store, the options and programs
 * are doing. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/out.h"
#include "cli/table.h"

/* ---- stats ---- */

static double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

static void pair_double(struct json *j, const char *key, double v)
{
	json_key(j, key);
	json_double(j, v);
}

static void pair_ms(struct json *j, const char *key, uint64_t ns)
{
	json_key(j, key);
	json_ms(j, ns);
}

static void stats_snapshots(struct cli *c, struct json *j, const struct snaptrail_stats *s)
{
	const char *only = cli_flag(c, "session");
	struct snaptrail_session session;

	json_key(j, "snapshots");
	json_open(j, '{');
	json_pair_uint(j, "total", s->snapshots);
	json_key(j, "byType");
	json_open(j, '{');
	json_pair_uint(j, "full", s->full);
	json_pair_uint(j, "incremental", s->incremental);
	json_close(j, '}');
	json_key(j, "bySession");
	json_open(j, '{');
	for (size_t i = 0; snaptrail_session_at(c->store, i, &session) == 0; i++)
		if (!only || strcmp(only, session.name) == 0)
			json_pair_uint(j, session.name, session.snapshots);
	json_close(j, '}');
	json_close(j, '}');
}

static void stats_storage(struct json *j, const struct snaptrail_stats *s)
{
	json_key(j, "storage");
	json_open(j, '{');
	json_pair_uint(j, "totalSize", s->stored_bytes);
	json_pair_uint(j, "uncompressedSize", s->raw_bytes);
	pair_double(j, "compressionRatio", ratio(s->stored_bytes, s->raw_bytes));
	pair_double(j, "averageSnapshotSize", ratio(s->stored_bytes, s->snapshots));
	json_pair_uint(j, "sessions", s->sessions);
	json_pair_uint(j, "segments", s->segments);
	json_pair_uint(j, "segmentBytes", s->segment_bytes);
	json_key(j, "memory");
	json_open(j, '{');
	json_pair_uint(j, "bytes", s->memory_bytes);
	json_pair_uint(j, "items", s->memory_items);
	json_pair_uint(j, "hits", s->memory_hits);
	json_pair_uint(j, "misses", s->memory_misses);
	json_pair_uint(j, "evicted", s->memory_evicted);
	json_close(j, '}');
	json_close(j, '}');
}

static void stats_performance(struct json *j, const struct snaptrail_stats *s)
{
	json_key(j, "performance");
	json_open(j, '{');
	json_pair_uint(j, "snapshotsCreated", s->snapshots);
	pair_double(j, "averageCreationTime", ratio(s->creation_ns_total, s->snapshots) / 1e6);
	pair_ms(j, "medianCreationTime", s->creation_ns_p50);
	pair_ms(j, "p95CreationTime", s->creation_ns_p95);
	pair_ms(j, "maxCreationTime", s->creation_ns_max);
	pair_double(j, "compressionRate", ratio(s->compressed, s->snapshots));
	json_pair_uint(j, "changes", s->changes);
	json_pair_uint(j, "coalesced", s->coalesced);
	json_close(j, '}');
}

static void stats_loss(struct cli *c, struct json *j, const struct snaptrail_stats *s)
{
	const char *only = cli_flag(c, "session");
	struct snaptrail_gap g;

	json_key(j, "loss");
	json_open(j, '{');
	json_pair_uint(j, "lost", s->lost);
	json_pair_uint(j, "dropped", s->dropped);
	json_key(j, "gaps");
	json_open(j, '[');
	for (size_t i = 0; snaptrail_gap_at(c->store, i, &g) == 0; i++) {
		if (only && strcmp(only, g.session) != 0)
			continue;
		json_open(j, '{');
		json_pair_string(j, "session", g.session);
		json_time(j, "from", g.from_ns);
		json_ns(j, "fromNs", g.from_ns);
		json_time(j, "to", g.to_ns);
		json_ns(j, "toNs", g.to_ns);
		json_pair_uint(j, "lost", g.lost);
		json_pair_string(j, "cause", g.cause);
		json_close(j, '}');
	}
	json_close(j, ']');
	json_close(j, '}');
}

static void config_json(struct cli *c, struct json *j, bool in_full)
{
	const char *key, *value, *origin, *doc;

	json_open(j, '{');
	for (size_t i = 0; snaptrail_config_at(c->config, i, &key, &value, &origin, &doc) == 0; i++) {
		if (!in_full) {
			json_pair_string(j, key, value);
			continue;
		}
		json_key(j, key);
		json_open(j, '{');
		json_pair_string(j, "value", value);
		json_pair_string(j, "origin", origin);
		json_pair_string(j, "doc", doc);
		json_close(j, '}');
	}
	json_close(j, '}');
}

/* What the recorder of a live session counts just now. */
static void live_json(struct json *j, const struct snaptrail_live *l)
{
	json_key(j, "live");
	json_open(j, '{');
	json_pair_uint(j, "changes", l->changes);
	json_pair_uint(j, "coalesced", l->coalesced);
	json_pair_uint(j, "lost", l->lost);
	json_pair_uint(j, "damaged", l->damaged);
	json_pair_uint(j, "processes", l->processes);
	json_pair_uint(j, "snapshots", l->snapshots);
	json_pair_uint(j, "dropped", l->dropped);
	json_pair_uint(j, "queued", l->queued);
	json_pair_uint(j, "rawBytes", l->raw_bytes);
	json_pair_uint(j, "storedBytes", l->stored_bytes);
	json_pair_uint(j, "recorderCpuNs", l->recorder_cpu_ns);
	json_pair_uint(j, "intervalNs", l->interval_ns);
	json_ns(j, "watermarkNs", l->watermark_ns);
	json_close(j, '}');
}

static void live_words(const struct snaptrail_live *l)
{
	char a[TIME_WORDS], b[TIME_WORDS];

	printf("recorder   %s changes, %s merged, %" PRIu64 " processes, %" PRIu64 " snapshots", count_words(l->changes, a),
	       count_words(l->coalesced, b), l->processes, l->snapshots);
	if (l->interval_ns)
		printf(", one each %s", duration_words(l->interval_ns, a));
	printf(", %s of cpu\n", duration_words(l->recorder_cpu_ns, a));
}

static void stats_json(struct cli *c, const struct snaptrail_stats *s, const struct snaptrail_live *live)
{
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	stats_snapshots(c, &j, s);
	stats_storage(&j, s);
	stats_performance(&j, s);
	stats_loss(c, &j, s);
	if (live)
		live_json(&j, live);
	json_key(&j, "config");
	config_json(c, &j, false);
	json_close(&j, '}');
	json_line(&j);
}

static void stats_words(struct cli *c, const struct snaptrail_stats *s, const struct snaptrail_live *live)
{
	char a[TIME_WORDS], b[TIME_WORDS], d[TIME_WORDS], e[TIME_WORDS];

	printf("store      %s\n", snaptrail_config_store(c->config));
	printf("sessions   %s\n", count_words(s->sessions, a));
	printf("snapshots  %s: %s full, %s incremental\n", count_words(s->snapshots, a), count_words(s->full, b),
	       count_words(s->incremental, d));
	printf("changes    %s, %s merged\n", count_words(s->changes, a), count_words(s->coalesced, b));
	printf("stored     %s of %s (%.0f %%), %s on disk in %s %s\n", size_words(s->stored_bytes, a),
	       size_words(s->raw_bytes, b), 100 * ratio(s->stored_bytes, s->raw_bytes), size_words(s->segment_bytes, d),
	       count_words(s->segments, e), plural(s->segments, "segment", "segments"));
	printf("creation   %s median, %s for 95 of 100, %s at most\n", duration_words(s->creation_ns_p50, a),
	       duration_words(s->creation_ns_p95, b), duration_words(s->creation_ns_max, d));
	printf("memory     %s in %s items, %s hits, %s misses\n", size_words(s->memory_bytes, a),
	       count_words(s->memory_items, b), count_words(s->memory_hits, d), count_words(s->memory_misses, e));
	printf("lost       %s reports, %s dropped\n", count_words(s->lost, a), count_words(s->dropped, b));
	if (live)
		live_words(live);
	out_flush();
	out_gaps(c, cli_flag(c, "session"), 0, 0);
}

int cmd_stats(struct cli *c)
{
	const char *name = cli_flag(c, "session");
	struct snaptrail_session session;
	struct snaptrail_live live, *now = NULL;
	struct snaptrail_stats s;
	int r = cli_open(c), status = EXIT_YES;

	if (r != 0)
		return r;
	if ((r = snaptrail_stats(c->store, name, &s)) < 0)
		return out_failed(c, r);
	if (name && snaptrail_session_find(c->store, name, &session) == 0 && session.live) {
		if (snaptrail_live_stats(c->store, name, &live) == 0) {
			now = &live;
		} else { /* what is stored can be told all the same */
			fprintf(stderr, "snaptrail: note: %s\n", snaptrail_error());
			status = EXIT_PARTIAL;
		}
	}
	if (c->json)
		stats_json(c, &s, now);
	else
		stats_words(c, &s, now);
	return status;
}

/* ---- verify ---- */

struct finder {
	struct cli *cli;
	struct json json;
	uint64_t found;
};

static void found_one(void *arg, const char *kind, const char *file, uint64_t offset, const char *what)
{
	struct finder *f = arg;
	char *clean;

	f->found++;
	if (f->cli->json) {
		json_open(&f->json, '{');
		json_pair_string(&f->json, "kind", kind);
		json_pair_string(&f->json, "file", file);
		json_pair_uint(&f->json, "offset", offset);
		json_pair_string(&f->json, "what", what);
		json_close(&f->json, '}');
		return;
	}
	clean = clean_text(file, strlen(file), 0);
	printf("%s: %s at %" PRIu64 ": %s\n", kind, clean, offset, what);
	free(clean);
}

int cmd_verify(struct cli *c)
{
	struct finder f = { .cli = c, .json = JSON_INIT(stdout) };
	char n[TIME_WORDS];
	uint64_t records = 0;
	int r = cli_open_as(c, SNAPTRAIL_READ_ONLY);

	if (r != 0)
		return r;
	if (c->json) {
		json_open(&f.json, '{');
		json_key(&f.json, "findings");
		json_open(&f.json, '[');
	}
	r = snaptrail_verify(c->store, found_one, &f, &records);
	if (c->json) {
		json_close(&f.json, ']');
		json_pair_uint(&f.json, "records", records);
		json_pair_string(&f.json, "result", r == 0 ? "well" : r == 1 ? "torn" : "damaged");
		json_close(&f.json, '}');
		json_line(&f.json);
	} else if (r >= 0 || r == -EBADMSG) {
		printf("%s %s read: %s\n", count_words(records, n), plural(records, "record", "records"),
		       r == 0 ? "all is well" : r == 1 ? "torn tails, nothing else" : "damage found");
	}
	if (r == 1)
		return EXIT_PARTIAL;
	return r == 0 ? EXIT_YES : r == -EBADMSG ? EXIT_DAMAGED : out_failed(c, r);
}

/* ---- config ---- */

int cmd_config(struct cli *c)
{
	static const char *const headings[] = { "KEY", "VALUE", "FROM", "MEANING", NULL };
	const char *key, *value, *origin, *doc, *file = cli_flag(c, "check");
	struct json j = JSON_INIT(stdout);
	struct table t;
	int r;

	if (file)
		return (r = snaptrail_config_check(file)) < 0 ? out_failed(c, r) : EXIT_YES;
	if (c->json) {
		config_json(c, &j, true);
		json_line(&j);
		return EXIT_YES;
	}
	out_page(c);
	table_init(&t, headings);
	for (size_t i = 0; snaptrail_config_at(c->config, i, &key, &value, &origin, &doc) == 0; i++) {
		char *cut = clean_text(value, strlen(value), strcmp(key, "storage.path") == 0 ? 0 : 40);

		table_cell(&t, key);
		table_cell(&t, *cut ? cut : "-");
		table_cell(&t, origin);
		table_cell(&t, doc);
		free(cut);
	}
	table_print(&t, c, "", false);
	return EXIT_YES;
}

/* ---- doctor ---- */

static void say_one(void *arg, const char *level, const char *text)
{
	struct finder *f = arg;
	struct cli *c = f->cli;
	enum paint p = strcmp(level, "ok") == 0 ? PAINT_GREEN : strcmp(level, "no") == 0 ? PAINT_RED : PAINT_DIM;
	char *clean;

	if (c->json) {
		json_open(&f->json, '{');
		json_pair_string(&f->json, "level", level);
		json_pair_string(&f->json, "text", text);
		json_close(&f->json, '}');
		return;
	}
	clean = clean_text(text, strlen(text), 0);
	printf("%s%-4s%s  %s\n", paint(c, p), level, paint(c, PAINT_NONE), clean);
	free(clean);
}

static void doctor_json(const char *target, const char *findings, size_t len, bool can)
{
	struct json j = JSON_INIT(stdout);

	json_open(&j, '{');
	json_pair_string(&j, "target", target);
	json_key(&j, "findings");
	json_open(&j, '[');
	if (len)
		json_raw(&j, findings, len);
	json_close(&j, ']');
	json_pair_bool(&j, "canInject", can);
	json_close(&j, '}');
	json_line(&j);
}

int cmd_doctor(struct cli *c)
{
	struct finder f = { .cli = c };
	char *findings = NULL;
	size_t len;
	int r;

	if (c->word_count < 1)
		return out_error(c, EXIT_USAGE, "e.g. `snaptrail doctor redis-server`", "doctor needs a command or a process id");
	f.json = (struct json)JSON_INIT(must(open_memstream(&findings, &len)));
	r = snaptrail_doctor(c->config, c->words[0], say_one, &f);
	fclose(f.json.out);
	if (c->json && (r == 0 || r == -ENOEXEC))
		doctor_json(c->words[0], findings, len, r == 0);
	free(findings);
	if (r == -EACCES)
		return out_error(c, EXIT_UNKNOWABLE, NULL, "%s", snaptrail_error());
	if (r == -ENOENT)
		return out_error(c, EXIT_NO_REF, NULL, "%s", snaptrail_error());
	return r == 0 ? EXIT_YES : r == -ENOEXEC ? EXIT_NO_INJECT : out_failed(c, r);
}
