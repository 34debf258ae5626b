/* What a malloc and its free cost: pair N prints the nanoseconds of one pair, of
 * sizes from 16 to 143 bytes, in the second of two rounds of N. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double round_ns(long n)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < n; i++) {
		void *volatile p = malloc(16 + (size_t)(i & 127));

		free(p);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)n;
}

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000000;

	round_ns(n);
	printf("%.2f\n", round_ns(n));
	return 0;
}
