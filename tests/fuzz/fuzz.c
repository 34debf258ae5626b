/* Everything that reads bytes of others, each as a target for a fuzzer.
 *
 * `./dev fuzz` builds this with libFuzzer, AddressSanitizer and UBSan and gives each
 * target its share of the time, from the seeds of tests/fuzz/seeds (made by
 * seeds.py of real recordings) and of tests/fuzz/corpus/TARGET, what once found
 * something.  The default tests replay both with fuzz-replay: the same targets, and a
 * main that reads files.
 *
 * A target answers or refuses; what it must not do is crash, read what is not there,
 * or take forever.  Where a reader also writes, what it wrote must read back. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/timefmt.h"
#include "engine/collect.h"
#include "engine/replay.h"
#include "model/json.h"
#include "model/model.h"
#include "model/state_json.h"
#include "snaptrail.h"
#include "store/segment.h"
#include "store/store.h"

#include "map.h"

#define SESSION "0123456789abcdef"

/* ---- files of bytes ---- */

static char folder[64];

static void folder_make(void)
{
	if (folder[0])
		return;
	snprintf(folder, sizeof folder, "%s/snaptrail-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (mkdtemp(folder) == NULL)
		abort();
}

static void folder_remove(void)
{
	char command[128];

	if (folder[0] == 0)
		return;
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	if (system(command))
		return;
	folder[0] = 0;
}

static void file_make(const char *name, const uint8_t *p, size_t n, char path[160])
{
	int fd;

	snprintf(path, 160, "%s/%s", folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		abort();
	close(fd);
}

/* ---- text ---- */

static void fuzz_json(const uint8_t *p, size_t n)
{
	struct snaptrail_state *s, *again;
	char *text, *text_again;
	size_t len, len_again;

	if (snaptrail_state_from_json((const char *)p, n, &s) < 0)
		return;
	if (snaptrail_state_to_json(s, &text, &len) < 0 || snaptrail_state_from_json(text, len, &again) < 0 ||
	    snaptrail_state_to_json(again, &text_again, &len_again) < 0)
		abort(); /* what we wrote we read */
	if (len != len_again || memcmp(text, text_again, len))
		abort();
	snaptrail_state_free(s);
	snaptrail_state_free(again);
	free(text);
	free(text_again);
}

static void fuzz_ini(const uint8_t *p, size_t n)
{
	char path[160];

	folder_make();
	file_make("a.ini", p, n, path);
	config_check(path);
}

static void fuzz_map(const uint8_t *p, size_t n)
{
	struct map m = { 0 };
	char path[160];

	folder_make();
	file_make("a.map", p, n, path);
	map_read(&m, path);
	map_done(&m);
}

/* Times, sizes, and references into a small session. */
static void fuzz_ref(const uint8_t *p, size_t n)
{
	static struct snaptrail *st;
	char text[512];
	struct snaptrail_point point;
	uint64_t v;

	if (st == NULL) {
		struct snaptrail_settings s;

		snaptrail_settings_init(&s, sizeof s);
		s.storage_type = "memory";
		if (snaptrail_open_with(&s, 0, &st) < 0)
			abort();
		for (int i = 0; i < 5; i++) {
			struct snaptrail_state *state = snaptrail_state_new();
			char id[SNAPTRAIL_ID_BYTES];

			if (snaptrail_create(st, "s", state, NULL, id) < 0)
				abort();
			snaptrail_state_free(state);
		}
	}
	n = n < sizeof text - 1 ? n : sizeof text - 1;
	memcpy(text, p, n);
	text[n] = 0;
	time_parse(text, 1700000000000000000u, 1700000001000000000u, &v);
	time_parse_duration(text, 1000000, &v);
	size_parse(text, &v);
	snaptrail_resolve(st, NULL, text, &point);
	snaptrail_resolve(st, "s", text, &point);
	snaptrail_path_match(text, SNAPTRAIL_AGENTS, "p1/t2", 5);
}

/* ---- protobuf ---- */

static void fuzz_state(const uint8_t *p, size_t n)
{
	struct model *m = model_new(), *again = model_new();
	struct snaptrail_state *s;
	struct buf b = BUF_INIT, c = BUF_INIT;

	if (model_load(m, p, n)) {
		model_save(m, 1, &b);
		if (!model_load(again, b.data, b.len))
			abort();
		model_save(again, 1, &c);
		if (b.len != c.len || memcmp(b.data, c.data, b.len))
			abort();
	}
	model_free(m);
	model_free(again);
	buf_done(&b);
	buf_done(&c);
	if (snaptrail_state_from_protobuf(p, n, &s) == 0)
		snaptrail_state_free(s);
}

/* Changes one behind the other, as a lane has them: tag, length, Change. */
static void fuzz_change(const uint8_t *p, size_t n)
{
	struct model *m = model_new(), *handed = model_new_handed();
	struct buf b = BUF_INIT;
	struct wire w;
	size_t pos = 0;

	for (uint64_t t = 1; wire_next(p, n, &pos, &w) > 0 && t < 2000; t++) {
		struct origin o = { .pid = (uint32_t)(t % 3) + 7, .tid = (uint32_t)(t % 5) + 7, .lane = t % 2, .order = t };

		if (w.type != 2)
			continue;
		model_apply(m, &o, t * 1000, w.b.p, w.b.n);
		model_patch(handed, t * 1000, w.b.p, w.b.n);
	}
	model_unfold(m);
	model_save(m, 1, &b);
	model_settle(m, UINT64_MAX);
	model_free(m);
	model_free(handed);
	buf_done(&b);
}

/* A stored payload, replayed. */
static void fuzz_payload(const uint8_t *p, size_t n)
{
	struct store_options so = { .type = STORE_MEMORY, .memory_bytes = 64u << 20 };
	struct session_meta session = { .id = SESSION, .name = "s", .command = "", .profile = "", .boot_id = "", .note = "", .started_ns = 1,
					.ended_ns = 1 };
	struct snapshot_meta m = { .id = "00000000000000a1", .session_id = SESSION, .type = SNAPSHOT_FULL, .origin = ORIGIN_START,
				   .time_ns = 2000000000, .since_ns = 1, .description = "" };
	struct replay_query q = { .session_id = SESSION, .until_ns = UINT64_MAX };
	struct replay_result r;
	struct store *s;

	if (store_open(NULL, &so, &s) < 0)
		abort();
	store_session_begin(s, &session);
	store_session_end(s, &session);
	for (int handed = 0; handed < 2; handed++) {
		m.handed_in = handed;
		m.id[15] = handed ? '2' : '1';
		if (store_append(s, &m, p, n, 0) < 0)
			abort();
		if (replay(s, &q, &r) == 0)
			model_free(r.model);
		q.until_ns = 1500000000;
		if (replay(s, &q, &r) == 0)
			model_free(r.model);
	}
	store_close(s);
}

/* ---- the store's files ---- */

/* A fuzzer does not guess checksums: those of records that look whole are made good. */
static void make_good(uint8_t *p, size_t n)
{
	static const uint8_t zero[8];

	for (size_t at = SEGMENT_HEADER_BYTES; n >= RECORD_HEADER_BYTES && at <= n - RECORD_HEADER_BYTES;) {
		struct record_header h;
		uint64_t extent, used;

		memcpy(&h, p + at, sizeof h);
		if (h.magic != RECORD_MAGIC || h.meta_len > n || h.payload_len > n)
			return;
		extent = record_extent_bytes(&h);
		used = (uint64_t)h.meta_len + h.payload_len;
		if (extent > n - at)
			return;
		h.crc = 0;
		h.crc = crc32c(crc32c(crc32c(0, &h, sizeof h), p + at + sizeof h, used), zero, extent - RECORD_HEADER_BYTES - used);
		memcpy(p + at, &h, sizeof h);
		memset(p + at + RECORD_HEADER_BYTES + used, 0, extent - RECORD_HEADER_BYTES - used);
		at += extent;
	}
}

static void read_all(struct store *s)
{
	struct session_meta session;
	struct snapshot_meta m;
	struct gap_meta g;
	struct buf b = BUF_INIT;

	for (size_t i = 0; store_session_at(s, i, &session) == 0 && i < 50; i++) {
		struct replay_query q = { .session_id = session.id, .until_ns = UINT64_MAX };
		struct replay_result r;

		for (size_t k = 0; store_snapshot_at(s, session.id, k, &m) == 0 && k < 50; k++) {
			buf_reset(&b);
			store_load(s, &m, &b);
		}
		if (replay(s, &q, &r) == 0)
			model_free(r.model);
	}
	for (size_t i = 0; store_gap_at(s, i, &g) == 0; i++)
		;
	buf_done(&b);
}

static void fuzz_segment(const uint8_t *p, size_t n)
{
	struct store_options so = { .type = STORE_DISK, .persist = true, .verify = STORE_VERIFY_READ, .memory_bytes = 1u << 20, .read_only = true };
	uint8_t *copy = malloc(n ? n : 1);
	char path[160], root[128], name[64];
	uint64_t records, id = 1;
	struct store *s;

	folder_make();
	snprintf(root, sizeof root, "%s/store", folder);
	mkdir(root, 0700);
	snprintf(path, sizeof path, "%s/segments", root);
	mkdir(path, 0700);
	memcpy(copy, p, n);
	make_good(copy, n);
	if (n >= SEGMENT_HEADER_BYTES)
		memcpy(&id, copy + 16, sizeof id);
	snprintf(name, sizeof name, "store/segments/%016llx.seg", (unsigned long long)id); /* as its header says */
	file_make(name, copy, n, path);
	free(copy);
	if (store_open(root, &so, &s) == 0) {
		store_verify_all(s, NULL, NULL, &records);
		read_all(s);
		store_close(s);
	}
	unlink(path);
}

/* What is imported is exported and imported again. */
struct stream {
	const uint8_t *p;
	size_t n, at;
};

static int64_t stream_read(void *arg, void *to, size_t n)
{
	struct stream *s = arg;

	n = n < s->n - s->at ? n : s->n - s->at;
	memcpy(to, s->p + s->at, n);
	s->at += n;
	return (int64_t)n;
}

static void fuzz_import(const uint8_t *p, size_t n)
{
	struct snaptrail_settings settings;
	struct stream stream = { p, n, 0 };
	struct snaptrail_import_options o = { .size = sizeof o, .read = stream_read, .arg = &stream, .no_validate = n & 1 };
	struct snaptrail_import_result r = { 0 };
	struct snaptrail *st;

	snaptrail_settings_init(&settings, sizeof settings);
	settings.storage_type = "memory";
	if (snaptrail_open_with(&settings, 0, &st) < 0)
		abort();
	snaptrail_import(st, &o, &r);
	snaptrail_close(st);
}

/* ---- the rings ---- */

/* A target may write anything into what it shares with us: the board's slots from
 * the first byte on, here. */
static void fuzz_ring(const uint8_t *p, size_t n)
{
	struct board *board = mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct collector c = { 0 };
	size_t room = BOARD_BYTES - (size_t)((uint8_t *)board_slot(board, 0) - (uint8_t *)board);
	double fill;

	if (board == MAP_FAILED)
		abort();
	folder_make();
	board->magic = BOARD_MAGIC;
	board->slots = BOARD_SLOTS;
	memcpy(board_slot(board, 0), p, n < room ? n : room);
	clock_begin(&c.clock, false);
	c.clock.next_sync_mono_ns = UINT64_MAX;
	if (collect_begin(&c, folder, board, 1, 1000) < 0)
		abort();
	for (int i = 0; i < 3; i++) {
		collect_drain(&c, &fill);
		collect_apply(&c);
		for (struct lane_view *v = c.views; v; v = v->next)
			v->dead = i > 0;
	}
	collect_apply_all(&c);
	stage_remove(&c.stage);
	collect_end(&c);
	munmap(board, BOARD_BYTES);
}

/* ---- the way in ---- */

static const struct target {
	const char *name;
	void (*run)(const uint8_t *p, size_t n);
} targets[] = {
	{ "json", fuzz_json }, { "ini", fuzz_ini }, { "map", fuzz_map }, { "ref", fuzz_ref }, { "state", fuzz_state },
	{ "change", fuzz_change }, { "payload", fuzz_payload }, { "segment", fuzz_segment }, { "import", fuzz_import }, { "ring", fuzz_ring },
};

static const struct target *target_of(const char *name)
{
	for (size_t i = 0; name && i < sizeof targets / sizeof *targets; i++)
		if (strcmp(targets[i].name, name) == 0)
			return &targets[i];
	fprintf(stderr, "fuzz: FUZZ_TARGET is one of:");
	for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
		fprintf(stderr, " %s", targets[i].name);
	fprintf(stderr, "\n");
	exit(2);
}

#ifdef REPLAY
/* Two lanes as targets write them. */
static void ring_seed(void)
{
	struct board *board = calloc(1, BOARD_BYTES);

	for (uint32_t slot = 0; slot < 2; slot++) {
		struct lane *l = board_slot(board, slot);
		struct change c[] = { { .kind = PROCESS_BEGAN, .pid = 7 + slot, .ppid = 1, .exe = BYTES("/bin/x", 6), .cwd = BYTES("/", 1) },
				      { .kind = FD_OPENED, .has_fd = true, .fd = 3, .name = BYTES("/etc/passwd", 11) },
				      { .kind = ENV_SET, .name = BYTES("A", 1), .value = BYTES("b", 1) }, { .kind = FD_CLOSED, .has_fd = true, .fd = 3 } };

		l->magic = LANE_MAGIC;
		l->pid = l->tid = 7 + slot;
		l->size_bytes = SLOT_DATA_BYTES;
		l->data_offset = SLOT_DATA_OFFSET;
		l->claimed_stamp = 5 + slot;
		l->state = LANE_LIVE;
		for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
			uint32_t inner, n;
			uint8_t *p = lane_data(l) + l->reserve;
			uint64_t header;

			c[i].stamp = (1000 + i) | STAMP_MONOTONIC;
			inner = change_size(&c[i]);
			n = 1 + varint_size(inner) + inner;
			header = record_header(l->reserve, n, RECORD_FINISHED);
			memcpy(p, &header, 8);
			p[8] = RUN_CHANGES_TAG;
			change_put(varint_put(p + 9, inner), &c[i]);
			l->reserve += record_extent(n);
		}
	}
	fwrite(board_slot(board, 0), 1, (size_t)((uint8_t *)board_slot(board, 2) - (uint8_t *)board_slot(board, 0)), stdout);
	free(board);
}

/* fuzz-replay TARGET FILE...: the same without a fuzzer. */
int main(int argc, char **argv)
{
	const struct target *t;

	if (argc == 2 && strcmp(argv[1], "ring-seed") == 0) {
		ring_seed();
		return 0;
	}
	t = target_of(argc > 1 ? argv[1] : NULL);
	for (int i = 2; i < argc; i++) {
		FILE *f = fopen(argv[i], "re");
		uint8_t *p = malloc(16u << 20);
		size_t n;

		if (f == NULL || p == NULL) {
			fprintf(stderr, "fuzz: %s: cannot be read\n", argv[i]);
			return 2;
		}
		n = fread(p, 1, 16u << 20, f);
		fclose(f);
		t->run(p, n);
		free(p);
	}
	folder_remove();
	printf("%d\n", argc - 2);
	return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const struct target *t;

	if (t == NULL) {
		t = target_of(getenv("FUZZ_TARGET"));
		atexit(folder_remove);
	}
	t->run(p, n);
	return 0;
}
#endif
