/* Raw system calls for the visitor: they leave errno alone, are no
 * cancellation points and cannot come back to us through a hook.  Each returns
 * what the kernel says: a result, or a negative errno. */
#ifndef SNAPTRAIL_PRELOAD_SYS_H
#define SNAPTRAIL_PRELOAD_SYS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#if !defined(__x86_64__)
#error "the visitor knows the system call convention of x86-64 only"
#endif

#ifdef __clang_analyzer__ /* sees no writing in assembler: a stranger may write to all that it is given */
long sys_call(long n, long a, long b, long c, long d, long e, long f);
#else
static inline long sys_call(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#endif

/* How often the target has locked itself in: it may be killed for any call that is not
 * its own, and ours are refused here.  Each object that makes some has one.  (A filter
 * is its thread's: what runs on ours alone goes by sys_call().) */
extern uint32_t sys_forbidden __attribute__((visibility("hidden")));

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	return __builtin_expect(sys_forbidden, 0) ? -1 /* EPERM */ : sys_call(n, a, b, c, d, e, f);
}
static inline long sys0(long n) { return sys6(n, 0, 0, 0, 0, 0, 0); }
static inline long sys1(long n, long a) { return sys6(n, a, 0, 0, 0, 0, 0); }
static inline long sys2(long n, long a, long b) { return sys6(n, a, b, 0, 0, 0, 0); }
static inline long sys3(long n, long a, long b, long c) { return sys6(n, a, b, c, 0, 0, 0); }
static inline long sys4(long n, long a, long b, long c, long d) { return sys6(n, a, b, c, d, 0, 0); }

static inline long sys_open(const char *path, int flags, int mode)
{
	return sys4(SYS_openat, -100 /* AT_FDCWD */, (long)path, flags, mode);
}
static inline long sys_close(int fd) { return sys1(SYS_close, fd); }
static inline long sys_read(int fd, void *p, unsigned long n) { return sys3(SYS_read, fd, (long)p, (long)n); }
static inline void *sys_mmap(void *at, unsigned long n, int prot, int flags, int fd)
{
	return (void *)sys6(SYS_mmap, (long)at, (long)n, prot, flags, fd, 0);
}
static inline long sys_munmap(void *p, unsigned long n) { return sys2(SYS_munmap, (long)p, (long)n); }
/* What /proc says a descriptor is; how many bytes, not ended by a 0. */
static inline long sys_fd_link(int fd, char *out, unsigned long n)
{
	char path[32] = "/proc/self/fd/", digits[12];
	int k = 0, at = 14;

	do
		digits[k++] = (char)('0' + fd % 10);
	while (fd /= 10);
	while (k)
		path[at++] = digits[--k];
	path[at] = 0;
	return sys3(SYS_readlink, (long)path, (long)out, (long)n);
}
/* A program that counts its address space has none to spare for big rings,
 * engines and unwinders. */
static inline bool address_space_limited(void)
{
	struct rlimit limit;

	return sys4(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&limit) < 0 || limit.rlim_cur != RLIM_INFINITY;
}
static inline int sys_failed(const void *p) { return (unsigned long)p > -4096ul; }

#endif
