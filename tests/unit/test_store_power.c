/* The power fails: every prefix of what a store's life wrote and synced becomes the
 * disks that could be found afterwards, and each is looked at.
 *
 * The model is POSIX's, stricter than any file system in use: of a file's bytes and
 * length that is certain which its last fsync or fdatasync saw, of a folder's names
 * that which its last fsync saw.  What came later is there, or not, or in part:
 * sectors of 512 bytes each for itself, names in the order in which they were made
 * (a journal keeps that), lengths without their bytes (read as zeros).  See Pillai et
 * al., "All File Systems Are Not Created Equal", OSDI 2014. */
#include "life.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"

void suite_store_power(void);

enum { SECTOR = 512, FILES = 64, FILE_BYTES = 1 << 20, FDS = 1024 };

enum op_kind { OP_MAKE, OP_FOLDER, OP_RENAME, OP_UNLINK, OP_WRITE, OP_LENGTH, OP_SYNC, OP_SYNC_FOLDER };

struct op {
	enum op_kind kind;
	int file;
	uint64_t at;
	size_t len;
	uint8_t *data;
	char *path, *to;
};

static struct op ops[2000];
static unsigned nops;
static struct {
	char *path; /* NULL: no name any more */
} files[FILES];
static int nfiles;
static struct {
	int file;
	char *folder;
} fds[FDS];

/* ---- the log ---- */

static struct op *noted(enum op_kind kind, int file, const char *path)
{
	struct op *o = &ops[nops++];

	if (nops == sizeof ops / sizeof *ops)
		abort();
	acks->calls++;
	*o = (struct op){ .kind = kind, .file = file, .path = path ? strdup(path) : NULL };
	return o;
}

static int file_at(const char *path)
{
	for (int i = 0; i < nfiles; i++)
		if (files[i].path && strcmp(files[i].path, path) == 0)
			return i;
	return -1;
}

static void forget(char **s)
{
	free(*s);
	*s = NULL;
}

static int my_open(const char *path, int flags, mode_t mode)
{
	int fd = io_system.open(path, flags, mode), file = file_at(path);

	if (fd < 0)
		return fd;
	if (fd >= FDS)
		abort();
	forget(&fds[fd].folder);
	fds[fd].file = -1;
	if (flags & O_DIRECTORY) {
		fds[fd].folder = strdup(path);
	} else if (flags & O_CREAT && file < 0) {
		if (nfiles == FILES)
			abort();
		file = nfiles++;
		files[file].path = strdup(path);
		noted(OP_MAKE, file, path);
	} else if (flags & O_TRUNC) {
		noted(OP_LENGTH, file, NULL);
	}
	if (!fds[fd].folder)
		fds[fd].file = file;
	return fd;
}

static ssize_t my_pwrite(int fd, const void *p, size_t n, off_t at)
{
	ssize_t done = io_system.pwrite(fd, p, n, at);

	if (done > 0) {
		struct op *o = noted(OP_WRITE, fds[fd].file, NULL);

		o->at = (uint64_t)at;
		o->len = (size_t)done;
		o->data = malloc(o->len);
		memcpy(o->data, p, o->len);
	}
	return done;
}

static int my_ftruncate(int fd, off_t n)
{
	int r = io_system.ftruncate(fd, n);

	if (r == 0)
		noted(OP_LENGTH, fds[fd].file, NULL)->at = (uint64_t)n;
	return r;
}

static int synced(int fd)
{
	if (fds[fd].folder)
		noted(OP_SYNC_FOLDER, -1, fds[fd].folder);
	else
		noted(OP_SYNC, fds[fd].file, NULL);
	return 0;
}

static int my_rename(const char *from, const char *to)
{
	int r = io_system.rename(from, to), file = file_at(from), over = file_at(to);

	if (r < 0)
		return r;
	noted(OP_RENAME, file, from)->to = strdup(to);
	if (over >= 0)
		forget(&files[over].path);
	forget(&files[file].path);
	files[file].path = strdup(to);
	return r;
}

static int my_mkdir(const char *path, mode_t mode)
{
	int r = io_system.mkdir(path, mode);

	if (r == 0)
		noted(OP_FOLDER, -1, path);
	return r;
}

static int my_unlink(const char *path)
{
	int r = io_system.unlink(path), file = file_at(path);

	if (r == 0) {
		noted(OP_UNLINK, file, path);
		forget(&files[file].path);
	}
	return r;
}

static void log_a_life(void)
{
	struct io_ops mine = { my_open, io_system.pread, my_pwrite, my_ftruncate, synced, synced, my_rename, my_mkdir, my_unlink };

	temp_make(&folder);
	memset(acks, 0, sizeof *acks);
	io = &mine;
	live();
	io = &io_system;
	temp_remove(&folder);
}

static void forget_the_log(void)
{
	for (unsigned i = 0; i < nops; i++) {
		free(ops[i].data);
		free(ops[i].path);
		free(ops[i].to);
	}
	for (int i = 0; i < nfiles; i++)
		forget(&files[i].path);
	for (int i = 0; i < FDS; i++)
		forget(&fds[i].folder);
	nops = 0;
	nfiles = 0;
}

/* ---- the disks that could be found ---- */

enum luck {
	NOTHING_LATER,  /* only what is certain */
	ALL_OF_IT,      /* as after kill -9 */
	NAMES_ONLY,     /* names and lengths, no bytes */
	BYTES_ONLY,     /* no names */
	BY_CHANCE,      /* and any number beyond */
};

static bool in_folder(const char *path, const char *above)
{
	const char *slash = strrchr(path, '/');

	return slash && (size_t)(slash - path) == strlen(above) && strncmp(path, above, strlen(above)) == 0;
}

static bool is_name(const struct op *o) { return o->kind <= OP_UNLINK; }

/* Whether the first n operations make number i certain. */
static bool certain(unsigned i, unsigned n)
{
	for (unsigned k = i + 1; k < n; k++) {
		if (is_name(&ops[i]) ? ops[k].kind == OP_SYNC_FOLDER && in_folder(ops[i].path, ops[k].path) :
				       ops[k].kind == OP_SYNC && ops[k].file == ops[i].file)
			return true;
	}
	return false;
}

struct file_now {
	uint8_t *data;
	size_t len;
	char *path;
};

static void lengthen(struct file_now *f, uint64_t n)
{
	if (n > FILE_BYTES)
		abort();
	if (n > f->len)
		memset(f->data + f->len, 0, n - f->len);
	f->len = n;
}

static void write_sectors(struct file_now *f, const struct op *o, bool keep_all, bool keep_none, uint64_t *dice)
{
	if (o->at + o->len > f->len)
		lengthen(f, o->at + o->len);
	for (size_t k = 0; k < o->len && !keep_none;) {
		size_t n = SECTOR - (o->at + k) % SECTOR;

		if (n > o->len - k)
			n = o->len - k;
		if (keep_all || random_below(dice, 2))
			memcpy(f->data + o->at + k, o->data + k, n);
		k += n;
	}
}

static void apply_bytes(struct file_now *f, const struct op *o, bool sure, enum luck luck, uint64_t *dice)
{
	if (!sure && (luck == NOTHING_LATER || (luck >= BY_CHANCE && random_below(dice, 4) == 0)))
		return;
	if (o->kind == OP_LENGTH)
		lengthen(f, o->at);
	else if (o->kind == OP_WRITE)
		write_sectors(f, o, sure || luck == ALL_OF_IT || luck == BYTES_ONLY, !sure && luck == NAMES_ONLY, dice);
}

static struct file_now *named(struct file_now *now, const char *path)
{
	for (int i = 0; i < nfiles; i++)
		if (now[i].path && strcmp(now[i].path, path) == 0)
			return &now[i];
	return NULL;
}

static void apply_name(struct file_now *now, const struct op *o)
{
	struct file_now *f, *over;

	switch (o->kind) {
	case OP_MAKE: now[o->file].path = o->path; break;
	case OP_FOLDER: mkdir(o->path, 0700); break;
	case OP_UNLINK:
		if ((f = named(now, o->path)))
			f->path = NULL;
		break;
	case OP_RENAME:
		f = named(now, o->path);
		over = named(now, o->to);
		if (f && over)
			over->path = NULL;
		if (f)
			f->path = o->to;
		break;
	default: break;
	}
}

static void write_out(const struct file_now *f)
{
	int fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL, 0600);

	if (fd < 0)
		return; /* its folder is not there */
	if (write(fd, f->data, f->len) != (ssize_t)f->len)
		abort();
	close(fd);
}

/* What is on the disk when the power fails after n operations. */
static void find_the_disk(unsigned n, enum luck luck)
{
	static uint8_t room[FILES][FILE_BYTES];
	struct file_now now[FILES] = { 0 };
	uint64_t dice = n * 131u + luck;
	unsigned names = luck == NOTHING_LATER || luck == BYTES_ONLY ? 0 : luck < BY_CHANCE ? n : random_below(&dice, n + 1);

	mkdir(folder.path, 0700);
	for (int i = 0; i < nfiles; i++)
		now[i].data = room[i];
	for (unsigned i = 0; i < n; i++) {
		bool sure = certain(i, n);

		if (!is_name(&ops[i]) && ops[i].file >= 0)
			apply_bytes(&now[ops[i].file], &ops[i], sure, luck, &dice);
		else if (is_name(&ops[i]) && (sure || i < names))
			apply_name(now, &ops[i]);
	}
	for (int i = 0; i < nfiles; i++)
		if (now[i].path)
			write_out(&now[i]);
}

static void what_was_durable_is_there_when_the_power_fails(void)
{
	unsigned disks = 0;
	int most = BY_CHANCE + (getenv("TEST_FEW") ? 2 : 24); /* TEST_FEW: under sanitizers */

	acks_make();
	log_a_life();
	CU_ASSERT(nops > 60 && acks->stored[9] && acks->deleted[7]);
	for (unsigned n = 0; n <= nops; n++) {
		for (int luck = 0; luck < most; luck++, disks++) {
			const char *wrong;

			find_the_disk(n, (enum luck)luck);
			wrong = look(n, luck == ALL_OF_IT);
			if (!wrong)
				wrong = go_on();
			if (wrong)
				fprintf(stderr, "\n    power lost after %u of %u operations, luck %d: %s\n", n, nops, luck, wrong);
			CHECK_OR(wrong == NULL, return);
			temp_remove(&folder);
		}
	}
	CU_ASSERT(disks > 700);
	forget_the_log();
	munmap(acks, sizeof *acks);
}

void suite_store_power(void)
{
	CU_pSuite s = CU_add_suite("store_power", NULL, NULL);

	TEST(s, what_was_durable_is_there_when_the_power_fails);
}
