/* The first record of a program image: its command line, folder, descriptors
 * and environment, read once before main on the main thread; and the
 * redaction of secrets, which happens here, before anything reaches the
 * shared mapping.
 *
 * An environment is long and mostly inherited, so it is recorded in full once
 * a session and named by a hash afterwards; the few variables that a shell
 * changes at every command are left out of the hash and always written. */
#include "visitor.h"

#include <sys/prctl.h>

#include "sys.h"

#define LISTS_BYTES (24 * 1024)
#define ENV_BYTES (12 * 1024)
#define ARGS_BYTES 4096
#define SMALL_BYTES 1024 /* what always fits an inline lane */

/* Touched only as far as it is used, and only before main. */
static uint8_t lists[LISTS_BYTES];
static uint8_t scratch[4096 + ENV_BYTES];

static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

static bool has_word(const char *s, uint32_t n, const char *word, uint32_t len)
{
	for (uint32_t i = 0; i + len <= n; i++) {
		uint32_t k = 0;

		while (k < len && lower((uint8_t)s[i + k]) == word[k])
			k++;
		if (k == len)
			return true;
	}
	return false;
}

bool redact_name(const char *name, uint32_t n)
{
	const char *w;

	if (!visitor.board->redact)
		return false;
	for (w = board_words(visitor.board); *w; w += __builtin_strlen(w) + 1)
		if (has_word(name, n, w, (uint32_t)__builtin_strlen(w)))
			return true;
	return false;
}

static bool name_char(int c)
{
	c = lower(c);
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

/* The end of a secret that starts at i: white space, a quote or a separator. */
static uint32_t secret_end(const char *s, uint32_t n, uint32_t i)
{
	while (i < n && s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && s[i] != '"' && s[i] != '\'' && s[i] != ',' &&
	       s[i] != ';' && s[i] != '&')
		i++;
	return i;
}

/* `scheme://user:secret@`: where the secret behind "://" at i ends, or 0. */
static uint32_t url_secret(const char *s, uint32_t n, uint32_t i, uint32_t *ret_start)
{
	uint32_t colon = 0;

	for (; i < n && s[i] != '/' && s[i] != ' ' && s[i] != '"' && s[i] != '\n'; i++) {
		if (s[i] == ':' && !colon)
			colon = i;
		if (s[i] == '@' && colon) {
			*ret_start = colon + 1;
			return i;
		}
	}
	return 0;
}

struct redacted {
	char *out;
	uint32_t len, cap;
};

static void redacted_put(struct redacted *r, const char *s, uint32_t n)
{
	if (n > r->cap - r->len)
		n = r->cap - r->len;
	__builtin_memcpy(r->out + r->len, s, n);
	r->len += n;
}

uint32_t redact_text(const char *s, uint32_t n, char *out, uint32_t cap)
{
	struct redacted r = { out, 0, cap };
	uint32_t from = 0, i = 0;

	if (!visitor.board->redact) {
		redacted_put(&r, s, n);
		return r.len;
	}
	for (; i < n; i++) {
		uint32_t name = i, start = i + 1, end = 0;

		if (s[i] != '=' && s[i] != ':')
			continue;
		if (i + 2 < n && s[i + 1] == '/' && s[i + 2] == '/') {
			end = url_secret(s, n, i + 3, &start);
		} else {
			while (name > from && name_char(s[name - 1]))
				name--;
			if (name < i && redact_name(s + name, i - name)) {
				while (start < n && (s[start] == ' ' || s[start] == '"' || s[start] == '\''))
					start++;
				end = secret_end(s, n, start);
			}
		}
		if (end <= start)
			continue;
		redacted_put(&r, s + from, start - from);
		redacted_put(&r, "<redacted>", 10);
		from = end;
		i = end - 1;
	}
	redacted_put(&r, s + from, n - from);
	return r.len;
}

/* Changed by shells at every command. */
static bool volatile_name(const char *e)
{
	return __builtin_strncmp(e, "_=", 2) == 0 || __builtin_strncmp(e, "PWD=", 4) == 0 ||
	       __builtin_strncmp(e, "OLDPWD=", 7) == 0 || __builtin_strncmp(e, "SHLVL=", 6) == 0;
}

static bool ours(const char *e)
{
	return __builtin_strncmp(e, "SNAPTRAIL_", 10) == 0 || __builtin_strncmp(e, "LD_PRELOAD=", 11) == 0;
}

/* FNV-1a over 8 bytes at a time would read past ends; names are short enough. */
static uint64_t env_hash(char **env)
{
	uint64_t h = 14695981039346656037ull;

	for (; env && *env; env++) {
		if (volatile_name(*env) || ours(*env))
			continue;
		for (const char *p = *env; *p; p++)
			h = (h ^ (uint8_t)*p) * 1099511628211ull;
		h = (h ^ 0xff) * 1099511628211ull;
	}
	return h ? h : 1;
}

static bool env_known(uint64_t hash)
{
	const uint64_t *known = board_envs(visitor.board);

	for (uint32_t i = 0; i < BOARD_ENVS && known[i]; i++)
		if (__atomic_load_n(&known[i], __ATOMIC_ACQUIRE) == hash)
			return true;
	return false;
}

static void env_remember(uint64_t hash)
{
	uint64_t *known = board_envs(visitor.board);

	for (uint32_t i = 0; i < BOARD_ENVS; i++) {
		uint64_t none = 0;

		if (__atomic_compare_exchange_n(&known[i], &none, hash, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED) ||
		    none == hash)
			return;
	}
}

struct list {
	uint8_t *p, *end;
	bool cut;
};

static void list_put(struct list *l, uint32_t field, const void *s, uint32_t n)
{
	if (l->end - l->p < (ptrdiff_t)n + 8) {
		l->cut = true;
		return;
	}
	l->p = varint_put(tag_put(l->p, field, 2), n);
	__builtin_memcpy(l->p, s, n);
	l->p += n;
}

static void list_env(struct list *l, const char *e)
{
	const char *eq = __builtin_strchr(e, '=');
	uint32_t name = eq ? (uint32_t)(eq - e) : (uint32_t)__builtin_strlen(e);
	char *out = (char *)scratch;
	uint32_t n = name + (eq ? 1 : 0);

	if (n >= 1024) {
		l->cut = true;
		return;
	}
	__builtin_memcpy(out, e, n);
	if (eq && redact_name(e, name)) {
		__builtin_memcpy(out + n, "<redacted>", 10);
		n += 10;
	} else if (eq) {
		n += redact_text(eq + 1, (uint32_t)__builtin_strlen(eq + 1), out + n, ENV_BYTES);
	}
	list_put(l, CHANGE_ENV, out, n);
}

static void list_args(struct list *l, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		uint32_t n = redact_text(argv[i], (uint32_t)__builtin_strlen(argv[i]), (char *)scratch, ARGS_BYTES);

		list_put(l, CHANGE_ARGS, scratch, n);
	}
}

struct dirent64_raw {
	uint64_t ino, off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

static int number_of(const char *s)
{
	int v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (*s - '0');
	return *s ? -1 : v;
}

static void list_fd(struct list *l, long dir, const char *name, int fd)
{
	uint8_t *item = scratch + 2048, *q = item;
	char *link = (char *)scratch + 3072;
	long n = sys4(SYS_readlinkat, dir, (long)name, (long)link, 1024);

	if (n < 0)
		return;
	if (fd)
		q = put_uint(q, 1, (uint64_t)fd);
	if (n > 900)
		n = 900;
	q = varint_put(tag_put(q, 2, 2), (uint64_t)n);
	__builtin_memcpy(q, link, (size_t)n);
	list_put(l, CHANGE_FDS, item, (uint32_t)(q + n - item));
}

/* The kernel's own list, at an instant when nobody else runs in here. */
static bool list_fds(struct list *l)
{
	long dir = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n;

	if (dir < 0)
		return false;
	while ((n = sys3(SYS_getdents64, dir, (long)scratch, 2048)) > 0) {
		for (long at = 0; at < n;) {
			struct dirent64_raw *e = (struct dirent64_raw *)(scratch + at);
			int fd = number_of(e->name);

			at += e->reclen;
			if (fd >= 0 && fd != dir)
				list_fd(l, dir, e->name, fd);
		}
	}
	sys_close((int)dir);
	return true;
}

static void report_gap(int from, int to)
{
	if (from <= to)
		REPORT(.kind = FD_RANGE_CLOSED, .has_fd = true, .fd = from, .has_fd2 = true, .fd2 = to);
}

/* `link` names a ring file of this session: <ours>/<letter>.<pid>... */
static bool is_ring(const char *link, long len, const char *ours)
{
	long n = (long)__builtin_strlen(ours);

	return n && len > n + 2 && __builtin_memcmp(link, ours, (size_t)n) == 0 && link[n] == '/' && link[n + 2] == '.' &&
	       (link[n + 1] == 't' || link[n + 1] == 'r' || link[n + 1] == 'g');
}

/* Other threads open and close between the stamp of a fork and the instant at
 * which the kernel copies: what they did there is mended in the child, which
 * has one thread.  One of them may have been about to map a ring file: that
 * descriptor is ours and goes.  /proc lists descriptors in ascending order. */
void report_copied(const char *ours)
{
	bool wanted = visitor.groups & GROUP_RESOURCE;
	long dir = visitor.no_syscalls ? -1 : sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), n;
	char *link = (char *)scratch + 3072;
	int next = 0;

	if (dir < 0)
		return;
	while ((n = sys3(SYS_getdents64, dir, (long)scratch, 2048)) > 0) {
		for (long at = 0; at < n;) {
			struct dirent64_raw *e = (struct dirent64_raw *)(scratch + at);
			int fd = number_of(e->name);
			long len;

			at += e->reclen;
			if (fd < 0 || e->name[0] == '.' || fd == dir)
				continue;
			len = sys4(SYS_readlinkat, dir, (long)e->name, (long)link, 1024);
			if (is_ring(link, len, ours)) {
				sys_close(fd);
				continue;
			}
			if (!wanted)
				continue;
			report_gap(next, fd - 1);
			next = fd + 1;
			if (len > 0)
				REPORT(.kind = FD_OPENED, .has_fd = true, .fd = fd, .source = SOURCE_PROC,
				       .name = BYTES(link, len < 512 ? len : 512));
		}
	}
	if (wanted)
		report_gap(next, INT32_MAX);
	sys_close((int)dir);
}

void report_began(int argc, char **argv, char **env)
{
	struct list l = { lists, lists + LISTS_BYTES, false };
	uint64_t hash = env_hash(env);
	bool known = env_known(hash);
	char cwd[1024], exe[1024], comm[16] = "";
	long cwd_len, exe_len;
	struct change c;

	notify_remember(env);
	list_args(&l, argc, argv);
	if (!list_fds(&l))
		l.cut = true;
	for (char **e = env; e && *e; e++)
		if (!ours(*e) && (!known || volatile_name(*e)))
			list_env(&l, *e);
	cwd_len = sys2(SYS_getcwd, (long)cwd, sizeof cwd);
	exe_len = sys3(SYS_readlink, (long)"/proc/self/exe", (long)exe, sizeof exe);
	sys2(SYS_prctl, PR_GET_NAME, (long)comm);
	c = (struct change){
		.kind = PROCESS_BEGAN, .name = text(comm), .tid = self.tid, .pid = visitor.pid, .ppid = (uint32_t)sys0(SYS_getppid),
		.uid = (uint32_t)sys0(SYS_getuid), .env_hash = hash, .partial = l.cut,
		.cwd = BYTES(cwd, cwd_len > 1 ? cwd_len - 1 : 0), .exe = BYTES(exe, exe_len > 0 ? exe_len : 0),
		.lists = BYTES(lists, l.p - lists),
	};
	report(c);
	if (!known && !l.cut)
		env_remember(hash);
}
