/* Preparing a session; see prepare.h.  Called by `run` before it forks, and by
 * the host in a target before main; one thread. */
#include "engine/prepare.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mark.h"
#include "base/timefmt.h"
#include "engine/salvage.h"
#include "engine/secrets.h"

void prepare_store_options(const struct config *c, struct store_options *ret)
{
	*ret = (struct store_options){
		.type = c->storage_type == CONFIG_STORAGE_DISK ? STORE_DISK :
			c->storage_type == CONFIG_STORAGE_MEMORY ? STORE_MEMORY : STORE_HYBRID,
		.fsync = c->fsync == CONFIG_FSYNC_NEVER ? STORE_FSYNC_NEVER :
			 c->fsync == CONFIG_FSYNC_ALWAYS ? STORE_FSYNC_ALWAYS : STORE_FSYNC_SNAPSHOT,
		.verify = c->verify == CONFIG_VERIFY_NEVER ? STORE_VERIFY_NEVER : STORE_VERIFY_READ,
		.persist = c->persist, .compress = c->compression, .compress_threshold_bytes = c->threshold_bytes,
		.memory_bytes = c->memory_bytes, .max_bytes = c->max_size_bytes,
	};
}

static void default_name(struct prepared *p, const char *program)
{
	const char *base = strrchr(program, '/');
	struct tm tm;
	time_t now = time(NULL);
	char stamp[32];

	localtime_r(&now, &tm);
	strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%S", &tm);
	snprintf(p->name, sizeof p->name, "%.100s-%d-%s", base ? base + 1 : program, (int)getpid(), stamp);
}

int prepare_name(struct prepared *p, const struct config *c, const char *name, const char *program)
{
	*p = (struct prepared){ .config = c, .session = { .lease = -1 } };
	if (name == NULL || *name == 0) {
		default_name(p, program);
		return 0;
	}
	if (strlen(name) > 255 || strchr(name, '/') || strcmp(name, "live") == 0 || strcmp(name, "latest") == 0 ||
	    strcmp(name, "first") == 0)
		return fail(-EINVAL, "\"%s\": a session's name has 1 to 255 bytes, no '/', and is not live, latest or first", name);
	snprintf(p->name, sizeof p->name, "%s", name);
	p->named = true;
	return 0;
}

/* As a shell would want it, without what is secret. */
static void put_argument(struct buf *b, const char *s)
{
	bool quote = *s == 0 || strpbrk(s, " \t\n'\"\\$&|;<>()*?");

	if (quote)
		buf_byte(b, '\'');
	for (; *s; s++)
		if (*s == '\'')
			buf_str(b, "'\\''");
		else
			buf_byte(b, (uint8_t)*s);
	if (quote)
		buf_byte(b, '\'');
}

char *prepare_command_line(const struct config *c, char *const *argv)
{
	char room[BOARD_WORDS_BYTES];
	const char *words = secret_words_of(c, room);
	_cleanup_buf_ struct buf open = BUF_INIT;
	struct buf b = BUF_INIT;

	for (size_t i = 0; argv[i]; i++) {
		buf_reset(&open);
		secret_put(&open, words, i ? argv[i - 1] : NULL, argv[i]);
		if (i)
			buf_byte(&b, ' ');
		put_argument(&b, buf_cstr(&open));
	}
	return buf_cstr(&b);
}

static int begin_record(struct prepared *p, char *const argv[])
{
	_cleanup_free_ char *command = prepare_command_line(p->config, argv);
	struct session_meta m = {
		.name = p->name, .command = command, .profile = p->config->profile, .boot_id = p->session.board->boot_id,
		.note = "", .exit_status = -1,
		.started_ns = p->begins_ns ? p->begins_ns : mono_now_ns() + (uint64_t)p->clock.offset_ns,
	};

	memcpy(m.id, p->session.id, sizeof m.id);
	p->session.board->watermark_ns = m.started_ns; /* who is killed before the first round has this to go by */
	return store_session_begin(p->store, &m);
}

/* Stamps are times, whatever they are stamps of. */
static void clock_of_others(struct prepared *p)
{
	p->clock = (struct clock){ .line = { { .time_ns = p->begins_ns } }, .lines = 1 };
}

/* Instants of a session are in order: nothing can begin amid them. */
static int check_order(const struct prepared *p, const char *id)
{
	size_t n = store_snapshot_count(p->store, id);
	struct snapshot_meta last;
	char when[TIME_TEXT_MAX];

	if (n == 0 || store_snapshot_at(p->store, id, n - 1, &last) < 0 || last.time_ns < p->begins_ns)
		return 0;
	return fail(-EEXIST, "session %s goes on to %s already, and this begins before: give it another name", p->name,
		    time_format(last.time_ns, false, when));
}

int prepare(struct prepared *p, char *const argv[])
{
	struct store_options so;
	struct session_meta known;
	char id[17];
	int r;

	prepare_store_options(p->config, &so);
	so.create = so.unread = true;
	r = store_open(p->config->path, &so, &p->store);
	if (r < 0)
		return r;
	salvage_all(p->store); /* what cannot be salvaged yet stays, and the reading commands tell why */
	if (p->named && store_session_find(p->store, p->name, &known) == 0)
		memcpy(id, known.id, sizeof id);
	else
		store_new_id(id);
	if (p->begins_ns && (r = check_order(p, id)) < 0)
		return r;
	if (p->begins_ns)
		clock_of_others(p);
	else
		clock_begin(&p->clock, true);
	r = session_create(&p->session, store_path(p->store), id, p->config, &p->clock);
	if (r == -EBUSY)
		return fail(-EBUSY, "session %s is being recorded already", p->name);
	if (r == 0)
		r = begin_record(p, argv);
	MARK("session begun");
	return r;
}
