/* Starts PATH in ways of its own: starts CASE PATH. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void pause_ms(long ms) { syscall(SYS_nanosleep, &(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }

/* A vfork child that waits first; limited: it may write no file. */
static pid_t start(const char *path, long ms, int limited)
{
	pid_t p = vfork();

	if (p == 0) {
		/* NOLINTBEGIN(clang-analyzer-unix.Vfork): that is what is tried */
		if (limited)
			setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 0, 0 });
		if (ms)
			pause_ms(ms);
		/* NOLINTEND(clang-analyzer-unix.Vfork) */
		execl(path, "brief", NULL);
		_exit(127);
	}
	return p;
}

int main(int n, char **a)
{
	const char *which = n == 3 ? a[1] : "", *path = n == 3 ? a[2] : "";
	pid_t p = 0;

	if (!strcmp(which, "slow")) {
		p = start(path, 500, 0);
	} else if (!strcmp(which, "once")) {
		p = start(path, 0, 0);
	} else if (!strcmp(which, "fails")) {
		execl(path, "bad", NULL);
		printf("%d\n", errno);
		pause_ms(300);
	} else if (!strcmp(which, "unwaited")) {
		signal(SIGCHLD, SIG_IGN);
		start(path, 0, 0);
		start("/missing", 0, 0);
		pause_ms(1500);
	} else if (!strcmp(which, "limited")) { /* its report has no room, and its parent's much */
		char far[3000] = "";

		while (strlen(far) + strlen(path) + 3 < sizeof far)
			strcat(far, "./");
		p = start(strcat(far, path), 0, 1);
		for (int i = 0; i < 3000; i++)
			setenv("FAR", far + i % 16, 1);
	} else {
		return 2;
	}
	if (p)
		waitpid(p, NULL, 0);
	printf("%d\n", (int)p);
	return 0;
}
