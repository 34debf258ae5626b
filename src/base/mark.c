/* The slow half of a marked step; see mark.h.  In the visitor as well: no libc. */
#include "base/mark.h"

#ifdef KILL_POINTS

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>

#define WISH "KILL_AT="

static char wish[512]; /* a file's name; behind that, its end made a NUL: */
static const char *wish_name;
static unsigned wish_n; /* 0: list */
static int asked; /* 1: being asked, 2: known */

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r = number;

	__asm__ volatile("syscall" : "+a"(r) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}

/* The value of WISH in an environment that is read piece by piece. */
static void look_for_wish(int fd)
{
	char piece[512];
	unsigned matched = 0, n = 0;
	bool inside = false, possible = true;
	long got;

	while ((got = call(SYS_read, fd, (long)piece, sizeof piece, 0)) > 0)
		for (long i = 0; i < got; i++) {
			char c = piece[i];

			if (inside && c == 0)
				return;
			if (inside && n + 1 < sizeof wish)
				wish[n++] = c;
			else if (c == 0)
				possible = true, matched = 0;
			else if (possible && c == WISH[matched])
				inside = ++matched == sizeof WISH - 1;
			else
				possible = false;
		}
}

static void ask(void)
{
	long fd = call(SYS_openat, AT_FDCWD, (long)"/proc/self/environ", O_RDONLY | O_CLOEXEC, 0);
	char *p = wish;

	if (fd >= 0) {
		look_for_wish((int)fd);
		call(SYS_close, fd, 0, 0, 0);
	}
	while (*p && *p != ':')
		p++;
	if (*p)
		*p++ = 0;
	for (; *p >= '0' && *p <= '9'; p++)
		wish_n = wish_n * 10 + (unsigned)(*p - '0');
	wish_name = *p ? p + 1 : p;
	__atomic_store_n(&asked, 2, __ATOMIC_RELEASE);
}

static void list(const char *name, unsigned n)
{
	long fd = call(SYS_openat, AT_FDCWD, (long)wish, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	char line[128], digits[12], *p = line;
	int k = 0;

	while (*name && p < line + 100)
		*p++ = *name++;
	*p++ = ' ';
	do
		digits[k++] = (char)('0' + n % 10);
	while (n /= 10);
	while (k)
		*p++ = digits[--k];
	*p++ = '\n';
	call(SYS_write, fd, (long)line, p - line, 0);
	call(SYS_close, fd, 0, 0, 0);
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

void mark_passed(const char *name, unsigned n)
{
	int none = 0;

	if (__atomic_compare_exchange_n(&asked, &none, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE))
		ask();
	else if (none == 1)
		return;
	if (*wish == 0 || (wish_n ? n != wish_n || !same(wish_name, name) : n & (n - 1)))
		return;
	list(name, n);
	if (wish_n)
		call(SYS_kill, call(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
}

#endif
