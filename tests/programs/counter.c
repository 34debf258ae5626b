/* Counts with setenv and writes each number down after the call has returned:
 * what is written down must be in the recording whoever is killed.
 *
 *     counter FILE [THREADS]   (thread n counts CTRn) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint64_t *acknowledged; /* one number a thread, in FILE */

static void *count(void *p)
{
	int n = (int)(intptr_t)p;
	char name[16], value[24];

	snprintf(name, sizeof name, "CTR%d", n);
	for (uint64_t i = 1;; i++) {
		snprintf(value, sizeof value, "%llu", (unsigned long long)i);
		setenv(name, value, 1);
		__asm__ volatile("" ::: "memory");
		acknowledged[n * 8] = i;
		if (i % 64 == 0)
			usleep(500);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 1, fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	pthread_t t;

	if (fd < 0 || ftruncate(fd, 4096))
		return 1;
	acknowledged = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 1; i < threads; i++)
		pthread_create(&t, NULL, count, (void *)(intptr_t)i);
	count(NULL);
	return 0;
}
