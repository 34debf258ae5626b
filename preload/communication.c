/* Hooks of the communication group: sockets' lives as transitions, and the
 * bytes that pass through every descriptor as gauges: plain counters in the
 * shared mapping that cost an add and are read at cuts. */
#include "visitor.h"

EXPORT int socket(int domain, int type, int protocol)
{
	int fd = REAL(socket)(domain, type, protocol);

	if (fd >= 0 && reporting(GROUP_COMMUNICATION)) {
		gauge_begin(fd);
		REPORT(.kind = FD_OPENED, .has_fd = true, .fd = fd, .fd_type = FDT_SOCKET, .family = (uint32_t)domain,
		       .flags = (unsigned)type & SOCK_CLOEXEC ? O_CLOEXEC : 0, .has_number = true, .number = type & 0xf);
	}
	return fd;
}

EXPORT int socketpair(int domain, int type, int protocol, int fds[2])
{
	int r = REAL(socketpair)(domain, type, protocol, fds);

	if (r == 0 && reporting(GROUP_COMMUNICATION)) {
		gauge_begin(fds[0]);
		gauge_begin(fds[1]);
		REPORT(.kind = FD_PAIR, .has_fd = true, .fd = fds[0], .has_fd2 = true, .fd2 = fds[1],
		       .flags = (unsigned)type & SOCK_CLOEXEC ? O_CLOEXEC : 0, .fd_type = FDT_SOCKET,
		       .family = (uint32_t)domain);
	}
	return r;
}

/* The kernel never takes more than a sockaddr_storage. */
static struct bytes address_of(const struct sockaddr *a, socklen_t n)
{
	return a ? BYTES(a, n < sizeof(struct sockaddr_storage) ? n : sizeof(struct sockaddr_storage)) : BYTES(NULL, 0);
}

EXPORT int bind(int fd, const struct sockaddr *a, socklen_t n)
{
	int r = REAL(bind)(fd, a, n);

	if (r == 0 && reporting(GROUP_COMMUNICATION))
		REPORT(.kind = SOCKET_BOUND, .has_fd = true, .fd = fd, .address = address_of(a, n));
	return r;
}

EXPORT int listen(int fd, int backlog)
{
	int r = REAL(listen)(fd, backlog);

	if (r == 0 && reporting(GROUP_COMMUNICATION))
		REPORT(.kind = SOCKET_LISTENING, .has_fd = true, .fd = fd, .has_number = true, .number = backlog);
	return r;
}

EXPORT int connect(int fd, const struct sockaddr *a, socklen_t n)
{
	int r = REAL(connect)(fd, a, n);

	if ((r == 0 || errno == EINPROGRESS) && reporting(GROUP_COMMUNICATION))
		REPORT(.kind = SOCKET_CONNECTED, .has_fd = true, .fd = fd, .address = address_of(a, n),
		       .error = r ? EINPROGRESS : 0);
	if (r == 0 && a && n >= sizeof(sa_family_t) && a->sa_family == AF_UNIX)
		datagram_connected(fd, a, n);
	return r;
}

/* room: what the caller had; *n may say more, when the address was cut. */
static int accepted(int fd, int listener, const struct sockaddr *a, const socklen_t *n, socklen_t room, int flags)
{
	if (fd >= 0 && reporting(GROUP_COMMUNICATION)) {
		gauge_begin(fd);
		REPORT(.kind = SOCKET_ACCEPTED, .has_fd = true, .fd = listener, .has_fd2 = true, .fd2 = fd,
		       .address = a && n ? address_of(a, *n < room ? *n : room) : BYTES(NULL, 0),
		       .flags = (unsigned)flags & SOCK_CLOEXEC ? O_CLOEXEC : 0);
	}
	return fd;
}

/* Before the call, which may refuse to read it; what lies on this stack it does not. */
static inline __attribute__((always_inline)) socklen_t room_of(const struct sockaddr *a, const socklen_t *n)
{
	bool here = (uintptr_t)n - (uintptr_t)__builtin_frame_address(0) < 4096;

	return a && n && reporting(GROUP_COMMUNICATION) && (here || readable(n)) ? *n : 0;
}

EXPORT int accept(int fd, struct sockaddr *a, socklen_t *n)
{
	socklen_t room = room_of(a, n);

	return accepted(REAL(accept)(fd, a, n), fd, a, n, room, 0);
}

EXPORT int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
	socklen_t room = room_of(a, n);

	return accepted(REAL(accept4)(fd, a, n, flags), fd, a, n, room, flags);
}

EXPORT int shutdown(int fd, int how)
{
	int r = REAL(shutdown)(fd, how);

	if (r == 0 && reporting(GROUP_COMMUNICATION))
		REPORT(.kind = SOCKET_SHUT, .has_fd = true, .fd = fd, .has_number = true, .number = how);
	return r;
}

/* ---- gauges ---- */

static inline __attribute__((always_inline)) ssize_t taken(ssize_t n, int fd)
{
	if (likely(n >= 0) && reporting(GROUP_COMMUNICATION)) {
		struct gauge *g = gauge_of(fd);

		if (g) {
			gauge_add(&g->bytes_read, (uint64_t)n);
			gauge_add(&g->calls, 1);
		}
	}
	return n;
}

static inline __attribute__((always_inline)) ssize_t given(ssize_t n, int fd)
{
	if (likely(n >= 0) && reporting(GROUP_COMMUNICATION)) {
		struct gauge *g = gauge_of(fd);

		if (g) {
			gauge_add(&g->bytes_written, (uint64_t)n);
			gauge_add(&g->calls, 1);
		}
	}
	return n;
}

ssize_t __read_chk(int fd, void *p, size_t n, size_t room);
ssize_t __pread_chk(int fd, void *p, size_t n, off_t at, size_t room);
ssize_t __pread64_chk(int fd, void *p, size_t n, off_t at, size_t room);
ssize_t __recv_chk(int fd, void *p, size_t n, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *p, size_t n, size_t room, int flags, struct sockaddr *a, socklen_t *len);

EXPORT ssize_t read(int fd, void *p, size_t n) { return taken(REAL(read)(fd, p, n), fd); }
EXPORT ssize_t __read_chk(int fd, void *p, size_t n, size_t room) { return taken(REAL(__read_chk)(fd, p, n, room), fd); }
EXPORT ssize_t pread(int fd, void *p, size_t n, off_t at) { return taken(REAL(pread)(fd, p, n, at), fd); }
EXPORT ssize_t pread64(int fd, void *p, size_t n, off_t at) { return taken(REAL(pread64)(fd, p, n, at), fd); }
EXPORT ssize_t __pread_chk(int fd, void *p, size_t n, off_t at, size_t room) { return taken(REAL(__pread_chk)(fd, p, n, at, room), fd); }
EXPORT ssize_t __pread64_chk(int fd, void *p, size_t n, off_t at, size_t room) { return taken(REAL(__pread64_chk)(fd, p, n, at, room), fd); }
EXPORT ssize_t readv(int fd, const struct iovec *v, int n) { return taken(REAL(readv)(fd, v, n), fd); }
EXPORT ssize_t recv(int fd, void *p, size_t n, int flags) { return taken(REAL(recv)(fd, p, n, flags), fd); }
EXPORT ssize_t __recv_chk(int fd, void *p, size_t n, size_t room, int flags) { return taken(REAL(__recv_chk)(fd, p, n, room, flags), fd); }
EXPORT ssize_t recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *a, socklen_t *len)
{
	return taken(REAL(recvfrom)(fd, p, n, flags, a, len), fd);
}
EXPORT ssize_t __recvfrom_chk(int fd, void *p, size_t n, size_t room, int flags, struct sockaddr *a, socklen_t *len)
{
	return taken(REAL(__recvfrom_chk)(fd, p, n, room, flags, a, len), fd);
}

EXPORT ssize_t write(int fd, const void *p, size_t n) { return given(REAL(write)(fd, p, n), fd); }
EXPORT ssize_t pwrite(int fd, const void *p, size_t n, off_t at) { return given(REAL(pwrite)(fd, p, n, at), fd); }
EXPORT ssize_t pwrite64(int fd, const void *p, size_t n, off_t at) { return given(REAL(pwrite64)(fd, p, n, at), fd); }
EXPORT ssize_t writev(int fd, const struct iovec *v, int n) { return given(REAL(writev)(fd, v, n), fd); }
/* On a socket that is connected to the manager or the journal. */
static void told(ssize_t r, int fd, const struct iovec *iov, size_t count)
{
	if (unlikely(fd == datagram_fd) && r >= 0 && reporting(GROUP_STATUS))
		datagram_sent(iov, count);
}

EXPORT ssize_t send(int fd, const void *p, size_t n, int flags)
{
	ssize_t r = given(REAL(send)(fd, p, n, flags), fd);

	told(r, fd, &(struct iovec){ (void *)p, n }, 1);
	return r;
}

EXPORT ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *a, socklen_t len)
{
	ssize_t r = given(REAL(sendto)(fd, p, n, flags, a, len), fd);

	if (a == NULL)
		told(r, fd, &(struct iovec){ (void *)p, n }, 1);
	if (r >= 0 && a && len >= sizeof(sa_family_t) && a->sa_family == AF_UNIX && reporting(GROUP_STATUS)) {
		struct iovec v = { (void *)p, n };

		report_datagram(a, len, &v, 1);
	}
	return r;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	ssize_t r = given(REAL(sendmsg)(fd, m, flags), fd);

	if (r < 0)
		return r;
	if (m->msg_name == NULL)
		told(r, fd, m->msg_iov, m->msg_iovlen);
	if (m->msg_name && m->msg_namelen >= sizeof(sa_family_t) && ((const struct sockaddr *)m->msg_name)->sa_family == AF_UNIX &&
	    reporting(GROUP_STATUS))
		report_datagram(m->msg_name, m->msg_namelen, m->msg_iov, m->msg_iovlen);
	return r;
}

/* Descriptors that came in a message were opened by nobody here. */
static void received(struct msghdr *m)
{
	if (m->msg_control == NULL || m->msg_controllen == 0 || !reporting(GROUP_RESOURCE))
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
			int got;

			__builtin_memcpy(&got, (char *)c + at, sizeof got);
			report_found(got);
		}
	}
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	ssize_t r = taken(REAL(recvmsg)(fd, m, flags), fd);

	if (r >= 0)
		received(m);
	return r;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
	int r = REAL(recvmmsg)(fd, m, n, flags, timeout);

	for (int i = 0; i < r; i++) {
		taken(m[i].msg_len, fd);
		received(&m[i].msg_hdr);
	}
	return r;
}

static ssize_t sent(ssize_t n, int out, int in)
{
	given(n, out);
	return taken(n, in);
}

EXPORT ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sent(REAL(sendfile)(out, in, at, n), out, in); }
EXPORT ssize_t sendfile64(int out, int in, off_t *at, size_t n) { return sent(REAL(sendfile64)(out, in, at, n), out, in); }
