/* Calls that the kernel or libc refuses: what each returned, and errno after it.
 * A hook must not read what the call itself would be told EFAULT of. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

extern char **environ;

#define SAY(call) \
	do { \
		long r_; \
		errno = 77; \
		r_ = (long)(call); \
		printf("%s: %ld %d\n", #call, r_, errno); \
	} while (0)
static void *volatile nowhere = (void *)8; /* which the compiler does not know */
#define NOWHERE nowhere
static char *volatile null;

int main(void)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = page + 4096;
	char *const argv[] = { (char *)"x", NULL }, *const bad_env[] = { NOWHERE, NULL }, *const gone_env[] = { end, NULL };
	struct sockaddr_storage a;
	struct msghdr m = { .msg_iov = NOWHERE, .msg_iovlen = 1 };
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	setvbuf(stdout, NULL, _IOLBF, 0);
	munmap(end, 4096);
	memset(page, 'x', 4096);
	listen(listener, 1);
	SAY(execve(NOWHERE, argv, environ));
	SAY(execve(end - 20, argv, environ)); /* a path that runs out of its page */
	SAY(execve("/bin/true", argv, NOWHERE));
	SAY(execve("/bin/true", argv, bad_env));
	SAY(execve("/bin/true", argv, gone_env));
	SAY(execv(NOWHERE, argv));
	SAY(execveat(AT_FDCWD, NOWHERE, argv, environ, 0));
	SAY(fexecve(0, argv, NOWHERE));
	SAY(execvp("no such program", argv));
	SAY(system(NOWHERE));
	SAY(prctl(PR_SET_NAME, end - 15));
	SAY(prctl(PR_SET_NAME, NOWHERE));
	SAY(prctl(PR_SET_NAME, "refused"));
	SAY(pthread_setname_np(pthread_self(), "longer than any name may be"));
	SAY(sendmsg(-1, NULL, 0));
	SAY(sendmsg(s, NULL, 0));
	SAY(sendmsg(s, NOWHERE, 0));
	SAY(sendmsg(s, &m, 0));
	SAY(recvmsg(s, NOWHERE, MSG_DONTWAIT));
	SAY(sendto(s, NOWHERE, 5, 0, NULL, 0));
	SAY(sendto(s, "x", 1, 0, NOWHERE, 16));
	SAY(accept(-1, (struct sockaddr *)&a, NOWHERE));
	SAY(accept4(listener, (struct sockaddr *)&a, (socklen_t *)end, 0));
	SAY(accept(listener, NOWHERE, NULL));
	SAY(bind(s, NOWHERE, 10));
	SAY(connect(s, (struct sockaddr *)end, 10));
	SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, NOWHERE));
	SAY(pipe(NOWHERE));
	SAY(pipe2(NOWHERE, ~0));
	SAY(open(null, O_RDONLY));
	SAY(open(end, O_RDONLY));
	SAY(openat(-5, "x", O_RDONLY));
	SAY(close(-1));
	SAY(dup2(-1, 3));
	SAY(dup3(3, 3, 0));
	SAY(setenv("a=b", "x", 1));
	SAY(setenv("", "x", 1));
	SAY(unsetenv("a=b"));
	SAY(fopen("/dev/null", "odd") == NULL); /* cppcheck-suppress leakReturnValNotUsed */
	SAY(popen("true", "odd") == NULL);
	SAY(wait4(-1, NULL, 0, NULL));
	SAY((setlogmask(LOG_MASK(LOG_ERR)), syslog(LOG_DEBUG, "%s", (char *)NOWHERE), 0));
	return 0;
}
