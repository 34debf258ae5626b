/* The first record of a program image: its command line, folder, executable,
 * descriptors and environment, read once before main on the main thread.
 *
 * An environment is long and mostly inherited, so it is recorded in full once
 * a session and named by a hash afterwards; the few variables that a shell
 * changes at every command are left out of the hash and always written.  Only
 * what will be named again has a hash: who reads keeps each that came with one. */
#include "began.h"

#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "sys.h"

#define ENV_BYTES (SCRATCH_BYTES - 4096)
#define ARGS_BYTES 4096
#define SMALL_BYTES 1024 /* what always fits an inline lane */

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

static uint64_t hash_text(uint64_t h, const char *s)
{
	size_t n = __builtin_strlen(s);
	uint64_t w;

	for (; n >= 8; s += 8, n -= 8) {
		__builtin_memcpy(&w, s, 8);
		h = hash_word(h, w);
	}
	for (w = n + 1; n; n--)
		w = w << 8 | (uint8_t)s[n - 1];
	return hash_word(h, w);
}

static uint64_t env_hash(char **env)
{
	uint64_t h = HASH_START;

	for (; env && *env; env++)
		if (!volatile_name(*env) && !ours(*env))
			h = hash_text(h, *env);
	return h ? h : 1;
}

bool is_known(uint64_t hash)
{
	const uint64_t *known = board_known(visitor.board);

	for (uint32_t i = 0; i < BOARD_KNOWN && known[i]; i++)
		if (__atomic_load_n(&known[i], __ATOMIC_ACQUIRE) == hash)
			return true;
	return false;
}

bool room_to_remember(void) { return __atomic_load_n(&board_known(visitor.board)[BOARD_KNOWN - 1], __ATOMIC_RELAXED) == 0; }

void remember_known(uint64_t hash)
{
	uint64_t *known = board_known(visitor.board);

	for (uint32_t i = 0; i < BOARD_KNOWN; i++) {
		uint64_t none = 0;

		if (__atomic_compare_exchange_n(&known[i], &none, hash, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED) ||
		    none == hash)
			return;
	}
}

void list_put(struct list *l, uint32_t field, const void *s, uint32_t n)
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
	bool secret = false;

	for (int i = 0; i < argc; i++) {
		uint32_t len = (uint32_t)__builtin_strlen(argv[i]);

		if (secret && argv[i][0] != '-')
			list_put(l, CHANGE_ARGS, "<redacted>", 10);
		else
			list_put(l, CHANGE_ARGS, scratch, redact_text(argv[i], len, (char *)scratch, ARGS_BYTES));
		secret = secret_option(secret_words(), argv[i], len);
	}
}

/* The executable by how it was called and what file that is: its path need not
 * be asked of /proc for one that this session has seen.  0: it must. */
static uint64_t exe_hash(const char *cwd, long cwd_len)
{
	const char *called = (const char *)getauxval(AT_EXECFN);
	struct statx st;
	uint64_t h = HASH_START;

	if (called == NULL || sys6(SYS_statx, AT_FDCWD, (long)called, AT_STATX_DONT_SYNC,
				   STATX_TYPE | STATX_INO | STATX_MTIME | STATX_CTIME, (long)&st, 0) < 0)
		return 0;
	h = hash_text(h, called);
	if (*called != '/' && cwd_len > 0)
		h = hash_text(h, cwd);
	h = hash_word(hash_word(h, st.stx_ino), (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor);
	h = hash_word(hash_word(h, (uint64_t)st.stx_mtime.tv_sec), st.stx_mtime.tv_nsec);
	h = hash_word(hash_word(h, (uint64_t)st.stx_ctime.tv_sec), st.stx_ctime.tv_nsec);
	return h ? h : 1;
}

void report_began(int argc, char **argv, char **env)
{
	struct list l = { room_lists, room_lists + LISTS_BYTES, false };
	uint64_t hash = env_hash(env), exe_is;
	bool env_known = is_known(hash), exe_known;
	char cwd[1024], exe[1024], comm[16] = "";
	long cwd_len, exe_len = 0;
	struct change c;

	notify_remember(env);
	list_args(&l, argc, argv);
	if (!inherited_list(&l))
		l.cut = true;
	for (char **e = env; e && *e; e++)
		if (!ours(*e) && (!env_known || volatile_name(*e)))
			list_env(&l, *e);
	cwd_len = sys2(SYS_getcwd, (long)cwd, sizeof cwd);
	exe_is = exe_hash(cwd, cwd_len);
	exe_known = exe_is && is_known(exe_is);
	if (!exe_known)
		exe_len = sys3(SYS_readlink, (long)"/proc/self/exe", (long)exe, sizeof exe);
	sys2(SYS_prctl, PR_GET_NAME, (long)comm);
	if (!env_known && (l.cut || !room_to_remember()))
		hash = 0;
	if (!exe_known && (exe_len <= 0 || !room_to_remember()))
		exe_is = 0;
	c = (struct change){
		.kind = PROCESS_BEGAN, .name = text(comm), .tid = self.tid, .pid = visitor.pid, .ppid = (uint32_t)sys0(SYS_getppid),
		.uid = (uint32_t)sys0(SYS_getuid), .env_hash = hash, .exe_hash = exe_is, .partial = l.cut,
		.cwd = BYTES(cwd, cwd_len > 1 ? cwd_len - 1 : 0), .exe = BYTES(exe, exe_len > 0 ? exe_len : 0),
		.lists = BYTES(room_lists, l.p - room_lists),
	};
	MARK("image to be told");
	report(c);
	MARK("image told");
	if (hash && !env_known)
		remember_known(hash);
	if (exe_is && !exe_known)
		remember_known(exe_is);
	inherited_remember();
}
