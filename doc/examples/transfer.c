/* Snapshots go to a file, as JSON and binary, and into another store.
 *
 *     cc transfer.c $(pkg-config --cflags --libs snaptrail) -o transfer
 *     ./transfer /tmp/example-store /tmp/other-store */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <snaptrail.h>

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}

static struct snaptrail *open_store(const char *folder)
{
	struct snaptrail_settings settings;
	struct snaptrail *st;

	snaptrail_settings_init(&settings, sizeof settings);
	settings.store = folder;
	check(folder, snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st));
	return st;
}

static int write_file(void *file, const void *p, size_t n)
{
	return fwrite(p, 1, n, file) == n ? 0 : -EIO;
}

static int64_t read_file(void *file, void *p, size_t n)
{
	size_t got = fread(p, 1, n, file);

	return ferror(file) ? -EIO : (int64_t)got;
}

static void refused(void *arg, const struct snaptrail_import_error *e)
{
	(void)arg;
	printf("not imported: %s: %s: %s\n", e->id, e->type, e->text);
}

/* Out to a temporary file; it is at its beginning again. */
static FILE *exported(struct snaptrail *st, int format, const char *word)
{
	FILE *f = tmpfile();
	struct snaptrail_export_options o = { .size = sizeof o, .session = "orders", .include_incrementals = true,
					      .format = format, .write = write_file, .arg = f };
	int64_t n;

	if (f == NULL)
		exit(1);
	n = snaptrail_export(st, &o);
	check("export", n);
	printf("%s: %" PRId64 " snapshots\n", word, n);
	rewind(f);
	return f;
}

static void imported(struct snaptrail *st, FILE *f)
{
	struct snaptrail_import_options o = { .size = sizeof o, .read = read_file, .error = refused, .arg = f };
	struct snaptrail_import_result r;

	check("import", snaptrail_import(st, &o, &r));
	printf("imported %" PRIu64 ", skipped %" PRIu64 ", errors %" PRIu64 "\n", r.imported, r.skipped, r.errors);
	fclose(f);
}

int main(int argc, char **argv)
{
	struct snaptrail *here, *there;
	struct snaptrail_state *state = snaptrail_state_new();
	char id[17];

	if (argc < 3) {
		fprintf(stderr, "usage: transfer STORE OTHER-STORE\n");
		return 2;
	}
	here = open_store(argv[1]);
	there = open_store(argv[2]);
	for (int i = 1; i <= 3; i++) {
		struct snaptrail_value *v = snaptrail_value_of_int(1000 * i);

		check("set", snaptrail_state_set(state, SNAPTRAIL_METRICS, "rows", v));
		snaptrail_value_free(v);
		check("create", snaptrail_create(here, "orders", state, NULL, id));
	}
	snaptrail_state_free(state);

	imported(there, exported(here, SNAPTRAIL_JSON, "JSON"));
	imported(there, exported(here, SNAPTRAIL_BINARY, "binary")); /* they are there already */
	snaptrail_close(there);
	snaptrail_close(here);
	return 0;
}
