/* A shop that tells LTTng of its orders: threads x orders, from two threads on.
 * traced THREADS ORDERS [PAUSE_US] */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "traced_provider.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static int orders, pause_us;

static void *clerk(void *arg)
{
	int me = (int)(long)arg;
	char name[16], customer[32];
	const int sizes[3] = { 38, 40, -1 };

	snprintf(name, sizeof name, "clerk%d", me);
	prctl(PR_SET_NAME, name);
	for (int i = 0; i < orders; i++) {
		int id = me * 1000000 + i;

		snprintf(customer, sizeof customer, "customer \"%d\"", i % 7);
		lttng_ust_tracepoint(shop, order_begin, id, customer, 1 + i % 3, i * 0.5);
		lttng_ust_tracepoint(shop, stock, "shoes", UINT64_MAX - (uint64_t)i, sizes, (size_t)(i % 4), "hunter2");
		if (i % 10 != 9) /* the tenth stays open */
			lttng_ust_tracepoint(shop, order_end, id, i % 5 == 4, i % 5 == 4 ? "no stock" : "");
		if (pause_us)
			usleep((useconds_t)pause_us);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 2;
	pthread_t t[64];

	orders = argc > 2 ? atoi(argv[2]) : 100;
	pause_us = argc > 3 ? atoi(argv[3]) : 0;
	for (int i = 0; i < threads && i < 64; i++)
		pthread_create(&t[i], NULL, clerk, (void *)(long)(i + 1));
	for (int i = 0; i < threads && i < 64; i++)
		pthread_join(t[i], NULL);
	printf("%d %d\n", (int)getpid(), threads * orders);
	return 0;
}
