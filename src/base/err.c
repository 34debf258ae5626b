/* Keeps the last error's one-line detail per thread; see err.h. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

#ifdef ONE_THREAD /* in a target: thread-local storage would be allocated by its malloc */
static char detail[512];
#else
static __thread char detail[512];
#endif

int (fail)(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof detail, fmt, ap);
	va_end(ap);
	return code;
}

const char *err_detail(void)
{
	return detail;
}

const char *err_text(int code)
{
	switch (code) {
	case -EINVAL: return "invalid argument or configuration";
	case -ENOENT: return "not found";
	case -EBADMSG: return "damaged";
	case -EBUSY: return "busy: locked or being recorded";
	case -EPROTO: return "incompatible format";
	case -ENOEXEC: return "cannot be injected";
	case -ENODATA: return "unknowable: the recording does not cover it";
	case -EMLINK: return "ambiguous";
	default: return strerror(code < 0 ? -code : code);
	}
}
