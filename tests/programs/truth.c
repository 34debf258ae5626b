/* Opens, copies, hands over and closes descriptors, starts and ends threads
 * and children, moves and renames itself, on several threads at once; between
 * rounds all stand still and the program notes what /proc says of itself and
 * of its children, one JSON object a line.
 *
 *     truth NOTES FOLDER SEED THREADS ROUNDS OPERATIONS */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OWN 12
#define SHARED 8
#define CHILDREN 4

static const char *folder;
static int notes, operations;
static pthread_barrier_t barrier;
static atomic_int shared[SHARED];
static pid_t children[CHILDREN];

struct worker {
	uint64_t random;
	int number, fds[OWN];
	FILE *stream;
	DIR *dir;
	pthread_t helper;
	bool has_helper;
	sem_t helper_runs; /* a thread shows itself when it first runs */
	int stop_helper[2];
};

static uint32_t dice(struct worker *w, uint32_t n)
{
	w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(w->random >> 33) % n;
}

static int open_something(struct worker *w)
{
	static const char *const files[] = { "/etc/passwd", "/etc/group", "/usr", "/etc", "/dev/null", "/dev/zero" };
	char path[400];
	sigset_t set;
	int fd, dir;

	switch (dice(w, 16)) {
	case 0: case 1: case 2: return open(files[dice(w, 6)], O_RDONLY);
	case 3:
		snprintf(path, sizeof path, "%s/f%d-%u", folder, w->number, dice(w, 5));
		return open(path, O_RDWR | O_CREAT | (dice(w, 2) ? O_CLOEXEC : 0), 0600);
	case 4:
		dir = open(folder, O_RDONLY | O_DIRECTORY);
		snprintf(path, sizeof path, "r%d-%u", w->number, dice(w, 5));
		fd = openat(dir, path, O_WRONLY | O_CREAT, 0600);
		close(dir);
		return fd;
	case 5: return socket(AF_UNIX, SOCK_STREAM, 0);
	case 6: return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	case 7: return eventfd(0, EFD_CLOEXEC);
	case 8: return epoll_create1(0);
	case 9: return timerfd_create(CLOCK_MONOTONIC, 0);
	case 10: return memfd_create("note", 0);
	case 11: return inotify_init1(IN_CLOEXEC);
	case 12:
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		return signalfd(-1, &set, 0);
	case 13:
		snprintf(path, sizeof path, "%s/tXXXXXX", folder);
		return mkstemp(path);
	case 14: return creat("/dev/null", 0600);
	default: return (int)syscall(SYS_getpid) > 0 ? open64("/etc/passwd", O_RDONLY) : -1;
	}
}

static void *helper(void *p)
{
	struct worker *w = p;
	char c, name[16];

	snprintf(name, sizeof name, "helper %d", w->number);
	pthread_setname_np(pthread_self(), name);
	sem_post(&w->helper_runs);
	while (read(w->stop_helper[0], &c, 1) < 0 && errno == EINTR)
		;
	return NULL;
}

static void *brief(void *p)
{
	close(open("/etc/passwd", O_RDONLY));
	if (p)
		pthread_exit(p);
	return p;
}

static void operate(struct worker *w)
{
	int *slot = &w->fds[dice(w, OWN)], pair[2], fd;
	char name[16];
	pthread_t t;

	switch (dice(w, 14)) {
	case 0: case 1: case 2: case 3:
		if (*slot >= 0)
			close(*slot);
		*slot = open_something(w);
		break;
	case 4: /* onto a number in use */
		fd = w->fds[dice(w, OWN)];
		if (*slot >= 0 && fd >= 0)
			dup2(fd, *slot);
		break;
	case 5:
		fd = w->fds[dice(w, OWN)];
		if (*slot < 0 && fd >= 0)
			*slot = dice(w, 2) ? dup(fd) : fcntl(fd, F_DUPFD_CLOEXEC, (int)dice(w, 200));
		break;
	case 6:
		if (dice(w, 2) ? pipe2(pair, O_CLOEXEC) : socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
			break;
		if (*slot >= 0)
			close(*slot);
		*slot = pair[0];
		close(pair[1]);
		break;
	case 7: case 8: /* opened here, closed by another thread */
		fd = atomic_exchange(&shared[dice(w, SHARED)], open_something(w));
		if (fd >= 0)
			close(fd);
		break;
	case 9:
		if (w->stream)
			fclose(w->stream), w->stream = NULL;
		else
			w->stream = dice(w, 4) ? fopen("/etc/group", "re") : freopen("/etc/passwd", "r", fopen("/etc/group", "r"));
		break;
	case 10:
		if (w->dir)
			closedir(w->dir), w->dir = NULL;
		else
			w->dir = opendir("/etc");
		break;
	case 11:
		snprintf(name, sizeof name, "w%d-%u", w->number, dice(w, 1000));
		if (dice(w, 2))
			prctl(PR_SET_NAME, name);
		else
			pthread_setname_np(pthread_self(), name);
		break;
	case 12:
		if (pthread_create(&t, NULL, brief, dice(w, 2) ? w : NULL) == 0)
			pthread_join(t, NULL);
		break;
	case 13:
		if (w->has_helper) {
			(void)!write(w->stop_helper[1], "", 1); /* children hold copies: no end of file */
			pthread_join(w->helper, NULL);
			close(w->stop_helper[0]);
			close(w->stop_helper[1]);
			w->has_helper = false;
		} else if (pipe(w->stop_helper) == 0) {
			w->has_helper = pthread_create(&w->helper, NULL, helper, w) == 0;
			while (w->has_helper && sem_wait(&w->helper_runs) < 0)
				;
		}
		break;
	}
}

static void *work(void *p)
{
	struct worker *w = p;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (operations == 0)
			return NULL;
		for (int i = 0; i < operations; i++)
			operate(w);
		pthread_barrier_wait(&barrier);
	}
}

static void child_life(int number)
{
	char name[16];

	close(open("/etc/group", O_RDONLY));
	for (int fd = 3 + number; fd < 40; fd += 5)
		if (fd != notes)
			close(fd);
	(void)!open("/etc/passwd", O_RDONLY);
	if (number & 1)
		(void)!chdir("/usr");
	snprintf(name, sizeof name, "child %d", number);
	prctl(PR_SET_NAME, name);
	kill(getppid(), SIGUSR1);
	for (;;)
		pause();
}

/* The main thread's share: children and the current folder. */
static void main_share(struct worker *w)
{
	int n = (int)dice(w, CHILDREN), sig;
	sigset_t set;

	(void)!chdir(dice(w, 2) ? "/etc" : folder);
	if (children[n]) {
		kill(children[n], SIGKILL);
		waitpid(children[n], NULL, 0);
		children[n] = 0;
		return;
	}
	children[n] = fork();
	if (children[n] == 0)
		child_life(n);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigwait(&set, &sig); /* it says when it stands still */
}

static void note_fds(int pid, int except)
{
	char path[64], link[512];
	DIR *d;
	struct dirent *e;
	bool first = true;

	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	d = opendir(path);
	dprintf(notes, "\"fds\":{");
	while (d && (e = readdir(d))) {
		ssize_t n;

		if (e->d_name[0] == '.' || (except && atoi(e->d_name) == dirfd(d)))
			continue;
		n = readlinkat(dirfd(d), e->d_name, link, sizeof link - 1);
		if (n < 0)
			continue;
		link[n] = 0;
		dprintf(notes, "%s\"%s\":\"%s\"", first ? "" : ",", e->d_name, link);
		first = false;
	}
	if (d)
		closedir(d);
	dprintf(notes, "},");
}

static void note_threads(int pid)
{
	char path[300], comm[64];
	DIR *d;
	struct dirent *e;
	bool first = true;

	snprintf(path, sizeof path, "/proc/%d/task", pid);
	d = opendir(path);
	dprintf(notes, "\"threads\":{");
	while (d && (e = readdir(d))) {
		ssize_t n;
		int fd;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/%d/task/%s/comm", pid, e->d_name);
		fd = open(path, O_RDONLY);
		n = read(fd, comm, sizeof comm - 1);
		close(fd);
		if (n <= 0)
			continue;
		comm[n - 1] = 0;
		dprintf(notes, "%s\"%s\":\"%s\"", first ? "" : ",", e->d_name, comm);
		first = false;
	}
	if (d)
		closedir(d);
	dprintf(notes, "},");
}

static void note(int pid, int64_t t, bool with_children)
{
	char path[64], cwd[512];
	ssize_t n;

	dprintf(notes, "{\"pid\":%d,\"time\":%lld,", pid, (long long)t);
	note_fds(pid, pid == getpid());
	note_threads(pid);
	if (with_children) {
		bool first = true;

		dprintf(notes, "\"children\":[");
		for (int i = 0; i < CHILDREN; i++) {
			if (!children[i])
				continue;
			dprintf(notes, "%s%d", first ? "" : ",", children[i]);
			first = false;
		}
		dprintf(notes, "],");
	}
	snprintf(path, sizeof path, "/proc/%d/cwd", pid);
	n = readlink(path, cwd, sizeof cwd - 1);
	cwd[n > 0 ? n : 0] = 0;
	dprintf(notes, "\"cwd\":\"%s\"}\n", cwd);
}

static void rest(void) { nanosleep(&(struct timespec){ 0, 5000000 }, NULL); }

int main(int argc, char **argv)
{
	int threads, rounds;
	struct worker *w;
	pthread_t *t;
	sigset_t set;

	if (argc < 7)
		return 2;
	folder = argv[2];
	threads = atoi(argv[4]);
	rounds = atoi(argv[5]);
	operations = atoi(argv[6]);
	notes = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < SHARED; i++)
		shared[i] = -1;
	w = calloc((size_t)threads + 1, sizeof *w);
	t = calloc((size_t)threads + 1, sizeof *t);
	pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
	for (int i = 0; i <= threads; i++) {
		w[i].random = strtoull(argv[3], NULL, 0) * 7919 + (uint64_t)i;
		w[i].number = i;
		sem_init(&w[i].helper_runs, 0, 0);
		for (int k = 0; k < OWN; k++)
			w[i].fds[k] = -1;
		if (i)
			pthread_create(&t[i], NULL, work, &w[i]);
	}
	for (int r = 0; r < rounds; r++) {
		struct timespec ts;
		int64_t at;

		pthread_barrier_wait(&barrier);
		for (int i = 0; i < operations; i++)
			operate(&w[0]);
		main_share(&w[0]);
		pthread_barrier_wait(&barrier);
		rest();
		clock_gettime(CLOCK_REALTIME, &ts);
		rest();
		at = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
		note(getpid(), at, true);
		for (int i = 0; i < CHILDREN; i++)
			if (children[i])
				note(children[i], at, false);
	}
	operations = 0;
	pthread_barrier_wait(&barrier);
	for (int i = 1; i <= threads; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < CHILDREN; i++)
		if (children[i])
			kill(children[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
