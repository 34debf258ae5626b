/* What the suites share: registering tests, random numbers that are the same
 * in every run, folders that go away.  A test is a static function whose name
 * is a sentence. */
#ifndef SNAPTRAIL_TESTS_UNIT_H
#define SNAPTRAIL_TESTS_UNIT_H

#include <CUnit/Basic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST(suite, name) CU_add_test(suite, #name, name)

/* For checks that run in loops: CUnit keeps a record of every failure, and one says enough. */
#define CHECK_OR(what, cleanup) \
	do { \
		bool good_ = (what); \
		CU_ASSERT_TRUE(good_); \
		if (!good_) { \
			fprintf(stderr, "\n    %s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			cleanup; \
		} \
	} while (0)

/* splitmix64 */
static inline uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}
static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)(random_next(state) % n); /* NOLINT(clang-analyzer-core.DivideZero): n is never 0 */
}

struct temp_folder {
	char path[64];
};
void temp_make(struct temp_folder *t);
void temp_remove(struct temp_folder *t);

#endif
