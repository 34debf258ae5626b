/* Runs every suite and says each test's name; exit status 1 when one failed.
 * With arguments only the suites of these names run. */
#include "unit.h"

#include <ftw.h>
#include <unistd.h>

void suite_api(void);
void suite_change(void);
void suite_collect(void);
void suite_stage(void);
void suite_config(void);
void suite_explicit(void);
void suite_feed(void);
void suite_handed(void);
void suite_json(void);
void suite_json_text(void);
void suite_model(void);
void suite_state_json(void);
void suite_store(void);
void suite_store_more(void);
void suite_store_search(void);
void suite_store_batch(void);
void suite_store_calls(void);
void suite_store_power(void);
void suite_store_faults(void);
void suite_store_delete(void);
void suite_store_index(void);
void suite_transfer(void);

static const struct {
	const char *name;
	void (*add)(void);
} suites[] = {
	{ "change", suite_change }, { "model", suite_model }, { "store", suite_store }, { "store_more", suite_store_more },
	{ "store_search", suite_store_search }, { "store_batch", suite_store_batch },
	{ "feed", suite_feed }, { "store_calls", suite_store_calls }, { "store_power", suite_store_power }, { "store_faults", suite_store_faults }, { "store_delete", suite_store_delete },
	{ "collect", suite_collect }, { "stage", suite_stage }, { "config", suite_config }, { "json", suite_json },
	{ "json_text", suite_json_text }, { "state_json", suite_state_json }, { "explicit", suite_explicit }, { "handed", suite_handed },
	{ "api", suite_api }, { "transfer", suite_transfer }, { "store_index", suite_store_index },
};

void temp_make(struct temp_folder *t)
{
	const char *base = getenv("TMPDIR");

	if (base == NULL || base[0] != '/' || strlen(base) > 30)
		base = "/tmp";
	snprintf(t->path, sizeof t->path, "%s/snaptrail-unit-XXXXXX", base);
	if (mkdtemp(t->path) == NULL)
		abort();
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)st, (void)flag, (void)at;
	return remove(path);
}

void temp_remove(struct temp_folder *t) { nftw(t->path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static bool wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return true;
	return argc < 2;
}

int main(int argc, char **argv)
{
	bool failed;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 1;
	for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
		if (wanted(suites[i].name, argc, argv))
			suites[i].add();
	CU_basic_set_mode(CU_BRM_VERBOSE);
	failed = CU_basic_run_tests() != CUE_SUCCESS || CU_get_number_of_failures() || CU_get_number_of_tests_run() == 0;
	CU_cleanup_registry();
	return failed;
}
