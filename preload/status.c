/* Hooks of the status group: syslog and its fortified names, and the two
 * datagrams by which a program that is linked past our second object still
 * tells its state: sd_notify's to NOTIFY_SOCKET and the journal's. */
#include "visitor.h"

#include <sys/un.h>
#include <syslog.h>

static char notify_path[sizeof ((struct sockaddr_un *)0)->sun_path];
static char log_ident[64];

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

void notify_remember(char **env)
{
	for (; env && *env; env++) {
		if (__builtin_strncmp(*env, "NOTIFY_SOCKET=", 14) == 0) {
			__builtin_strncpy(notify_path, *env + 14, sizeof notify_path - 1);
			if (notify_path[0] == '@')
				notify_path[0] = 0; /* abstract: compared from the second byte */
		}
	}
}

void report_notify(const char *state, uint32_t n)
{
	REPORT(.kind = NOTIFY, .value = BYTES(state, n < 2048 ? n : 2048));
}

void report_log(int priority, const char *ident, const char *message, uint32_t n)
{
	char out[512];

	n = redact_text(message, n < 512 ? n : 512, out, sizeof out);
	REPORT(.kind = LOG, .has_number = true, .number = priority, .name = text(ident), .value = BYTES(out, n));
}

/* The first bytes of a message that may lie in several pieces. */
static uint32_t gather(const struct iovec *iov, size_t count, char *out, uint32_t cap)
{
	uint32_t n = 0;

	for (size_t i = 0; i < count && n < cap; i++) {
		size_t take = iov[i].iov_len < cap - n ? iov[i].iov_len : cap - n;

		__builtin_memcpy(out + n, iov[i].iov_base, take);
		n += (uint32_t)take;
	}
	return n;
}

static void report_journal(const char *s, uint32_t n)
{
	int priority = LOG_INFO;

	for (uint32_t at = 0; at < n;) {
		const char *line = s + at, *nl = __builtin_memchr(line, '\n', n - at);
		uint32_t len = nl ? (uint32_t)(nl - line) : n - at;

		if (len == 10 && __builtin_memcmp(line, "PRIORITY=", 9) == 0)
			priority = line[9] - '0';
		if (len > 8 && __builtin_memcmp(line, "MESSAGE=", 8) == 0) {
			report_log(priority, "journal", line + 8, len - 8);
			return;
		}
		at += len + 1;
	}
}

void report_datagram(const struct sockaddr *to, socklen_t n, const struct iovec *iov, size_t count)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)to;
	const size_t skip = offsetof(struct sockaddr_un, sun_path);
	char out[512];

	if (to->sa_family != AF_UNIX || n <= skip)
		return;
	if ((notify_path[0] || notify_path[1]) &&
	    __builtin_strncmp(un->sun_path + !un->sun_path[0], notify_path + !notify_path[0], n - skip - !un->sun_path[0]) == 0)
		report_notify(out, gather(iov, count, out, sizeof out));
	else if (n >= skip + sizeof JOURNAL_SOCKET - 1 &&
		 __builtin_memcmp(un->sun_path, JOURNAL_SOCKET, sizeof JOURNAL_SOCKET - 1) == 0)
		report_journal(out, gather(iov, count, out, sizeof out));
}

/* A socket that was connected to one of the two: what is sent on it is read as
 * if it were addressed.  One is enough for what a program tells its manager. */
int datagram_fd = -1;
static struct sockaddr_un datagram_to;
static socklen_t datagram_to_len;

static bool to_manager(const struct sockaddr *to, socklen_t n)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)to;
	const size_t skip = offsetof(struct sockaddr_un, sun_path);

	if (n <= skip || n > sizeof *un || to->sa_family != AF_UNIX)
		return false;
	return notify_path[0] || notify_path[1] || (n >= skip + sizeof JOURNAL_SOCKET - 1 &&
						    __builtin_memcmp(un->sun_path, JOURNAL_SOCKET, sizeof JOURNAL_SOCKET - 1) == 0);
}

void datagram_connected(int fd, const struct sockaddr *to, socklen_t n)
{
	if (fd == datagram_fd)
		datagram_fd = -1;
	if (!to_manager(to, n))
		return;
	__builtin_memcpy(&datagram_to, to, n);
	datagram_to_len = n;
	datagram_fd = fd;
}

void datagram_sent(const struct iovec *iov, size_t count)
{
	report_datagram((const struct sockaddr *)&datagram_to, datagram_to_len, iov, count);
}

EXPORT void openlog(const char *ident, int option, int facility)
{
	REAL(openlog)(ident, option, facility);
	if (ident) {
		__builtin_strncpy(log_ident, ident, sizeof log_ident - 1);
		log_ident[sizeof log_ident - 1] = 0;
	}
}

/* The text as syslog will format it; a %m means the caller's errno. */
static void logged(int priority, const char *format, va_list ap)
{
	char out[512];
	int saved = errno, n;

	if (!reporting(GROUP_STATUS) || !(setlogmask(0) & LOG_MASK(LOG_PRI(priority)))) /* libc does not look at it either */
		return;
	n = vsnprintf(out, sizeof out, format, ap);
	errno = saved;
	if (n > 0)
		report_log(priority, log_ident, out, (uint32_t)n < sizeof out ? (uint32_t)n : (uint32_t)sizeof out - 1);
}

EXPORT void vsyslog(int priority, const char *format, va_list ap)
{
	va_list copy;

	va_copy(copy, ap);
	logged(priority, format, copy);
	va_end(copy);
	REAL(vsyslog)(priority, format, ap);
}

EXPORT void __vsyslog_chk(int priority, int flag, const char *format, va_list ap)
{
	va_list copy;

	va_copy(copy, ap);
	logged(priority, format, copy);
	va_end(copy);
	REAL(__vsyslog_chk)(priority, flag, format, ap);
}

EXPORT void syslog(int priority, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsyslog(priority, format, ap);
	va_end(ap);
}

EXPORT void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	__vsyslog_chk(priority, flag, format, ap);
	va_end(ap);
}

/* The door for the second object, which alone exports sd_notify's names. */
EXPORT void snaptrail_visitor_notify(const char *state, uint32_t pid);
EXPORT void snaptrail_visitor_notify(const char *state, uint32_t pid)
{
	if (state && reporting(GROUP_STATUS))
		REPORT(.kind = NOTIFY, .value = text(state), .pid = pid);
}
