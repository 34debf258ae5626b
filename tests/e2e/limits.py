"""Where the store or the process may not have what it wants: a disk that is full,
read-only, few bytes, few descriptors, little memory.  The program does not notice,
what is missing is said, and recording goes on when there is room again."""
import json
import os
import random
import resource
import signal
import subprocess
import time

from lib import PLAIN, SNAPTRAIL, limit, need, program, run_argv, show, skip, snaptrail, supervised, wait_for

HOSTS = ("run", "plain")


def can_mount():
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("cannot mount here")


class Disk:
    """A tmpfs of so many bytes with the store in it, and what fills it."""

    def __init__(self, size):
        can_mount()
        os.mkdir("disk")
        assert subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%s" % size, "none", "disk"]).returncode == 0
        self.path = os.path.abspath("disk")
        os.environ["SNAPTRAIL_STORE"] = self.path + "/store"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.chdir("/")
        subprocess.run(["umount", "-l", self.path])

    def fill(self):
        fd = os.open(self.path + "/ballast", os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(fd, bytes(4096)):
                pass
        except OSError:
            os.close(fd)

    def empty(self):
        os.unlink(self.path + "/ballast")

    def remount(self, how):
        assert subprocess.run(["mount", "-o", "remount," + how, self.path]).returncode == 0


# A program that says after each step what it has set; a line of stdin lets it go on.
STEPS = """
import os, sys
for line in sys.stdin:
    for i in range(int(line)):
        os.putenv('STEP', str(i))
    print(line.strip(), flush=True)
"""


class Steps:
    def __init__(self, *options):
        self.p = subprocess.Popen(run_argv("/usr/bin/python3", "-c", STEPS, options=options), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.go(1)

    def go(self, n):
        self.p.stdin.write("%d\n" % n)
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "%d\n" % n, "the program noticed"

    def end(self):
        self.p.stdin.close()
        assert self.p.wait(30) == 0, self.p.returncode
        self.p.stdout.close()


def session():
    (s,) = json.loads(snaptrail("sessions", "--json"))
    return s


def last_step():
    lines = [json.loads(x) for x in snaptrail("log", "--json", "*/env/STEP#value", "--session", "s").splitlines()]
    return int([x["new"] for x in lines if x["op"] == "set"][-1])


@limit(90)
def test_a_disk_that_fills_and_empties_again_loses_only_what_is_said():
    with Disk("12m") as disk:
        steps = Steps("--interval", "50ms", "--profile", "forensic")
        wait_for(lambda: len(snaptrail("ls", "s").splitlines()) > 2, what="snapshots")
        disk.fill()
        for i in range(5):
            steps.go(1000 + i)
            time.sleep(0.12)
        disk.empty()
        steps.go(77)
        before = len(json.loads(snaptrail("ls", "--json", "--session", "s")))
        wait_for(lambda: steps.go(3) or len(json.loads(snaptrail("ls", "--json", "--session", "s"))) > before + 1,
                 what="recording after the disk had room again")
        steps.go(50)
        steps.end()
        wait_for(lambda: not session()["live"])
        assert last_step() == 49
        snaptrail("verify")
        # What was done while it was full has waited in memory.
        seen = [json.loads(x)["new"] for x in snaptrail("log", "--json", "*/env/STEP#value", "--session", "s").splitlines()]
        assert (seen.count("999"), seen.count("1003"), session()["lost"]) == (5, 1, 0), (seen.count("999"), session()["lost"])


@limit(90)
def test_a_disk_that_stays_full_to_the_end_keeps_all_for_later():
    with Disk("12m") as disk:
        steps = Steps("--interval", "50ms", "--profile", "forensic")
        wait_for(lambda: len(snaptrail("ls", "s").splitlines()) > 2, what="snapshots")
        disk.fill()
        for i in range(8):
            steps.go(1000 + i)
            time.sleep(0.1)
        steps.end()
        p = subprocess.run([SNAPTRAIL, "sessions"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert p.returncode == 0 and "cannot be salvaged yet" in p.stderr, p
        disk.empty()
        seen = [json.loads(x)["new"] for x in snaptrail("log", "--json", "*/env/STEP#value", "--session", "s").splitlines()]
        assert (seen.count("999"), seen.count("1006"), session()["lost"], session()["live"]) == (8, 1, 0, False), \
            (seen.count("999"), seen.count("1006"), session())
        snaptrail("verify")


@limit(90)
def test_a_store_that_became_read_only_is_read():
    with Disk("12m") as disk:
        steps = Steps("--interval", "50ms")
        wait_for(lambda: len(snaptrail("ls", "s").splitlines()) > 2, what="snapshots")
        steps.go(20)
        steps.end()
        wait_for(lambda: not session()["live"])
        assert last_step() == 19
        disk.remount("ro")
        # Reading a store needs no right to write in it.
        assert last_step() == 19 and show("latest") and snaptrail("verify")
        for verb in (["tag", "s/latest", "+x"], ["rm", "s/latest"]):
            p = subprocess.run([SNAPTRAIL, *verb], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert p.returncode not in (0, -signal.SIGSEGV) and p.stderr.startswith("snaptrail: ") and p.stderr.count("\n") == 1, (verb, p)
        p = subprocess.run(run_argv("sh", "-c", "echo on; exit 3", session="more"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if p.returncode != 3:  # `run` says before the start that nothing can be recorded
            assert p.stderr.count(b"\n") == 1 and b"ead-only" in p.stderr, p
        disk.remount("rw")


def limited(which, value):
    def set_it():
        resource.setrlimit(which, (value, value))
    return set_it


def test_each_limit_leaves_the_program_as_it_is():
    for which, value in (("RLIMIT_FSIZE", 0), ("RLIMIT_FSIZE", 8192), ("RLIMIT_FSIZE", 300000), ("RLIMIT_NOFILE", 8), ("RLIMIT_NOFILE", 16),
                         ("RLIMIT_AS", 400 << 20), ("RLIMIT_STACK", 256 << 10), ("RLIMIT_MEMLOCK", 0), ("RLIMIT_NPROC", 0), ("RLIMIT_CORE", 0)):
        argv = ["sh", "-c", "x=1; exec 5</etc/passwd; read line <&5; echo $line $x; exit 6"]
        kw = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30,
                  preexec_fn=limited(getattr(resource, which), value))
        plain = subprocess.run(argv, **kw)
        p = subprocess.run(run_argv(*argv, session="%s%d" % (which, value)), **kw)
        if p.returncode == 125:  # nothing can be recorded, and `run` says so before the start
            assert not PLAIN and which == "RLIMIT_FSIZE" and p.stderr.endswith(b": File too large\n") and p.stderr.count(b"\n") == 1, p
            continue
        assert (p.returncode, p.stdout) == (plain.returncode, plain.stdout), (which, value, plain, p)


@supervised
def test_more_processes_than_the_recorder_may_have_descriptors_live_and_end():
    """Each that no pidfd could be had for was taken for ended."""
    p = subprocess.Popen(run_argv("sh", "-c", "for i in $(seq 100); do sleep 60 & p=\"$p $!\"; done; echo up; read x; kill $p; wait", options=("--interval", "100ms")),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=limited(resource.RLIMIT_NOFILE, 64))
    assert p.stdout.readline() == b"up\n"

    def sleepers():
        state = json.loads(subprocess.run([SNAPTRAIL, "show", "live", "--json", "--session", "s"], stdout=subprocess.PIPE).stdout or '{"agents": {}}')
        return [a for a in state["agents"].values() if a["type"] == "process" and a.get("name") == "sleep"]
    wait_for(lambda: len(sleepers()) == 100, what="a hundred of them")
    time.sleep(0.5)
    assert not [a for a in sleepers() if "endedAt" in a]
    p.communicate(b"\n", timeout=30)
    ended = [a for a in show("latest")["agents"].values() if a.get("name") == "sleep" and a["type"] == "process"]
    assert len(ended) == 100 and all(a.get("signal") == "SIGTERM" for a in ended), (len(ended), ended[0])


def test_a_recorder_whose_files_may_not_grow_counts_what_it_cannot_keep():
    counter, ack = program("counter"), os.path.abspath("ack")
    p = subprocess.Popen(run_argv(counter, ack, options=("--profile", "forensic", "--interval", "50ms")), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=limited(resource.RLIMIT_FSIZE, 2 << 20))
    wait_for(lambda: os.path.exists(ack) and os.path.getsize(ack))
    time.sleep(1.5)
    subprocess.run(["pkill", "-KILL", "-f", ack])
    p.wait(20)
    wait_for(lambda: not session()["live"])
    values = [json.loads(x) for x in snaptrail("log", "--json", "*/env/CTR0#value", "--session", "s", code=(0, 1)).splitlines()]
    if not values:  # an engine in the program, whose files may not grow, could not begin; it says so
        assert PLAIN and session()["note"], session()
        return
    values = [int(x["new"]) for x in values if x["op"] == "set"]
    missing = values[-1] - len(values)
    assert values == sorted(set(values)) and missing <= session()["lost"], (missing, session()["lost"])


FAILING = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static int left = -1; /* a forked recorder goes on counting for itself */
static int fails(void)
{
	const char *s;
	if (left < 0)
		left = strcmp(program_invocation_short_name, "snaptrail") || !(s = getenv("FAIL_FROM")) ? 1 << 30 : atoi(s);
	if (left > 0 && left-- > 1)
		return 0;
	errno = ENOMEM;
	return 1;
}
void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails() ? NULL : __libc_realloc(p, n); }
"""


@supervised
@limit(120)
def test_no_memory_is_said_and_nothing_that_was_recorded_is_lost():
    """From the nth allocation on there is none, for `run` and its recorder."""
    with open("failing.c", "w") as f:
        f.write(FAILING)
    need("cc")
    assert subprocess.run(["cc", "-shared", "-fPIC", "-O1", "failing.c", "-o", "failing.so"]).returncode == 0
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 1 << 30)
    dice, at, came, told = random.Random(seed), 1, 0, 0
    while came < 3 and at < 1 << 20:  # more than it ever needs
        env = dict(os.environ, LD_PRELOAD=os.path.abspath("failing.so"), FAIL_FROM=str(at))
        p = subprocess.run(run_argv("sh", "-c", "echo begun; X=%d; export X; /bin/true; echo done; exit 6" % at, session="n%d" % at), env=env,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
        story = "TEST_SEED=%d, from %d on: %s" % (seed, at, p)
        assert p.returncode in (6, 70, 125), story
        assert p.stdout in (b"", b"begun\ndone\n"), story
        assert p.returncode != 6 or p.stdout, story
        assert p.returncode == 6 or p.stderr.count(b"\n") == 1, story
        told += b"out of memory" in p.stderr
        wait_for(lambda: snaptrail("sessions", code=(0, 1, 4)) is not None and not live(), 10, "the salvage")
        if p.returncode == 6 and b"out of memory" not in p.stderr:
            came += 1
            assert snaptrail("log", "--session", "n%d" % at, "agents:p*#exitCode"), story
        at += 1 + dice.randrange(at // 40 + 2)
    assert told > 10 and came == 3, (told, came)
    snaptrail("verify", code=(0, 3))


def live():
    folder = os.environ["SNAPTRAIL_STORE"] + "/live"
    return os.path.isdir(folder) and os.listdir(folder)
