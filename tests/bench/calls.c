/* A function entered and left n times: nanoseconds for each. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__attribute__((noinline)) static int leaf(int a)
{
	__asm__ volatile("" ::: "memory");
	return a + 1;
}

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 100000;
	struct timespec a, b;
	int x = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < n; i++)
		x = leaf(x);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.1f\n", ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)n);
	return x < 0;
}
