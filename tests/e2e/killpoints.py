"""Each marked step of those who write killed at: the program that reports, the
recorder that reads, its flusher, the store, `run` that begins it all, and the salvage
that follows.  Built of its own, with `configure --enable-kill-points`.  TEST_MARKS=n
kills at each step n times under each profile (2 and below: once, under one at the first
time and under the other later), TEST_SEED repeats a run."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import lib
from lib import BUILD, PLAIN, SOURCE, limit, need, program, skip

HOSTS = ("run", "plain")
HERE = os.path.join(BUILD, "kill-points")
SALVAGE = "salvage: "
MANY = int(os.environ.get("TEST_MARKS", "2"))
CARE = {"io rename", "io unlink"}  # of who deletes and tidies


def build():
    """Stays beside the usual one: the second time there is little to do."""
    need("make", "cc")
    if not os.access(os.path.join(SOURCE, "configure"), os.X_OK):
        skip("no configure in the source folder")
    os.makedirs(HERE, exist_ok=True)

    def step(*command):
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=HERE)
        assert p.returncode == 0, "%s: %s" % (command[0], p.stdout[-800:])
    if not os.path.exists(os.path.join(HERE, "Makefile")):
        step("env", "CONFIG_SHELL=/bin/sh", os.path.join(SOURCE, "configure"), "--quiet", "--enable-kill-points", "CFLAGS=-O0")
    step("make", "-s", "-j2", "proto/store.pb-c.c", "proto/store.pb-c.h", "proto/snaptrail.pb-c.c", "proto/snaptrail.pb-c.h")
    step("make", "-s", "-j2", "snaptrail", "preload/.libs/stamp")
    if not os.path.islink(os.path.join(HERE, "test-programs")):
        os.symlink(os.path.join(BUILD, "test-programs"), os.path.join(HERE, "test-programs"))
    os.environ["TEST_BUILD"] = HERE
    del sys.modules["lib"]
    import kills
    return kills


def marks():
    """Every name in the sources, and the file it stands in."""
    found = {}
    for folder in ("preload", "src/base", "src/engine"):
        for file in os.listdir(os.path.join(SOURCE, folder)):
            with open(os.path.join(SOURCE, folder, file)) as f:
                found.update({name: os.path.join(folder, file) for name in re.findall(r'\bMARK\("([^"]+)"\)', f.read())})
    return found


def passed(path):
    """Names, and how often at most."""
    most = {}
    if os.path.exists(path):
        with open(path) as f:
            for line in f:
                name, n = line.rsplit(None, 1)
                most[name] = max(most.get(name, 0), int(n))
    return most


def life_of(kills):
    class Life(kills.Life):
        def __init__(self, session, profile, wish, command=None, threads=2):
            self.session, self.profile, self.threads, self.early = session, profile, threads, True
            self.counts = command is None
            self.ack, self.seen, self.victims = os.path.abspath("ack-" + session), set(), ["target"]
            self.story = "%s %s %s" % (session, profile, wish)
            argv = kills.run_argv(*(command or (program("counter"), self.ack, str(threads))), session=session,
                                  options=("--profile", profile, "--interval", "20ms"))
            env = dict(os.environ, KILL_AT=wish)
            if argv[0] == "/usr/bin/env":  # its own image would be the first
                at = [i for i, a in enumerate(argv) if i and "=" not in a][0]
                env.update(a.split("=", 1) for a in argv[1:at])
                argv = argv[at:]
            self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
            self.pids = {"run": self.p.pid}

        def cut_short(self, wish):
            """Goes on for a moment, unless it is killed; the program is ended then."""
            until = time.monotonic() + 0.12
            while time.monotonic() < until and not os.path.exists(wish) and self.p.poll() is None:
                time.sleep(0.002)
            if os.path.exists(wish):
                time.sleep(0.02)  # what it leaves alone goes on a little
            end(kills, self)
            return self.bury()
    return Life


FORKING = (program("guest"), "forking_threads", "20", "1")  # more threads than lanes are kept for
BUSY = (program("guest"), "busy")  # outgrows one ring after the other
CRAMPED = (program("guest"), "cramped")  # more than its lane takes
# By others only where they happen to be faster than they are read.
RARE = {"ring goes": BUSY, "gap written": CRAMPED, "gap told": CRAMPED}
PROFILES = ("default", "forensic")


def end(kills, life):
    life.find()
    for pid in filter(kills.is_counter, life.pids.values()):
        kills.kill(pid)


def what_there_is(kills, Life):
    """Each step that is passed: by whom of four programs, under which profile, how often."""
    most = {}
    for profile in PROFILES:
        for command in (None, FORKING, BUSY, CRAMPED):
            os.environ["SNAPTRAIL_STORE"] = os.path.abspath("list-%s-%s" % (profile, command and command[1]))
            wish = os.environ["SNAPTRAIL_STORE"] + ".passed"
            life = Life("list", profile, wish, command)
            if command is None:
                time.sleep(0.3)
                end(kills, life)
            life.bury()
            for name, n in passed(wish).items():
                if RARE.get(name, command) == command and (name in RARE or command not in RARE.values()):
                    most[name, command, profile] = n
    return most


def one_life(kills, life, name, wish):
    """Whether that step was come by."""
    if name.startswith(SALVAGE):
        time.sleep(0.1)
        life.find()
        for pid in life.pids.values():
            kills.kill(pid)
        last = life.bury()
        ended = subprocess.run([kills.SNAPTRAIL, "ls"], env=dict(os.environ, KILL_AT="%s:1:%s" % (wish, name)), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL).returncode
        assert ended in (0, 1, 4, -signal.SIGKILL), ended
    else:
        last = life.cut_short(wish)
    if life.counts:
        kills.check(life, last)
    else:
        kills.wait_for(lambda: kills.snaptrail("sessions", code=(0, 1, 4)) is not None and not list(kills.pointers()), 5, "the salvage")
    return os.path.exists(wish)


@limit(200 * MANY)
def test_each_marked_step_once():
    kills = build()
    where, Life = marks(), life_of(kills)
    assert len(where) > 60, where
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 1 << 30)
    dice = random.Random(seed)
    most = what_there_is(kills, Life)
    salvage = [n for n in where if n.startswith(SALVAGE)]
    never = set(where) - {name for name, *_ in most} - set(salvage) - CARE
    assert PLAIN or not never, "never passed: %s" % sorted(never)

    def which(profile, times):
        if MANY > 2:
            return sorted({1, *(dice.randint(1, times) for _ in range(MANY - 1))})
        return [1 if profile == "default" or times == 1 else dice.randint(2, times)]

    plan = [(name, command, profile, n) for (name, command, profile), times in most.items() for n in which(profile, times)]
    plan += [(name, None, profile, 1) for name in salvage for profile in PROFILES]
    hit, lives = set(), 0

    def live(name, command, profile, n, threads=2):
        nonlocal lives
        if lives % 20 == 0:
            os.environ["SNAPTRAIL_STORE"] = os.path.abspath("store%d" % lives)
        wish = os.path.abspath("wish%d" % lives)
        life = Life("k%d" % lives, profile, "" if name in salvage else "%s:%d:%s" % (wish, n, name), command, threads)
        if not PLAIN and not where[name].startswith("preload/"):
            life.victims = ["recorder"]
        story = "%s (of %s): %d, %s" % (name, os.path.basename((command or ["counter"])[0]), n, life.story)
        print(story, flush=True)
        try:
            hit.update({name} if one_life(kills, life, name, wish) else set())
        except AssertionError as e:
            raise AssertionError("TEST_SEED=%d, %s: %s" % (seed, story, e)) from e
        lives += 1
        if lives % 20 == 0:
            sound(kills)
    for step in plan:
        live(*step, threads=dice.choice((1, 2)))  # one alone: what it says goes on where it ended, drain by drain
    for name, command, profile, _ in plan * 10:  # what depends on who was first is not come by each time
        if name not in hit:
            live(name, command, profile, 1)
    sound(kills)
    missed = {name for name, *_ in plan} - hit
    assert not missed, "nobody was killed at %s" % sorted(missed)
    print("%d lives, %d steps" % (lives, len(hit)))


def sound(kills):
    kills.snaptrail("verify", code=(0, 3))
    names = [s["name"] for s in json.loads(kills.snaptrail("sessions", "--json", code=(0, 4)))]
    left = os.listdir(os.path.join(os.environ["SNAPTRAIL_STORE"], "live"))
    assert len(names) == len(set(names)) and not left, (names, left)
    for name in names:
        kills.snaptrail("diff", "first", "latest", "--stat", "--session", name, code=(0, 1, 4))


def ids(kills):
    return [m["id"] for m in json.loads(kills.snaptrail("ls", "--json"))]


@lib.supervised
@limit(200)
def test_each_call_of_who_deletes_and_tidies():
    """Killed at, a deletion is done or not, and tidying up can be seen in the space alone."""
    kills = build()
    base, work, wish = (os.path.abspath(n) for n in ("base", "work", "wish"))
    os.environ["SNAPTRAIL_STORE"] = base
    for session in ("one", "two"):
        life = life_of(kills)(session, "forensic", "")
        time.sleep(0.4)
        end(kills, life)
        life.bury()
    before = ids(kills)
    states = {i: kills.snaptrail("show", i, "--json") for i in before[::5]}
    gone = before[::2]
    seen, dice = set(), random.Random()
    for verb, damaged in ((["tag", before[1], "+x"], True), (["rm", *gone[:-1]], False), (["prune"], False)):
        if damaged:  # a writer was killed amid a record
            for name in os.listdir(base + "/segments"):
                with open(os.path.join(base, "segments", name), "ab") as f:
                    f.write(b"cut short" * 5)

        def again(kill_at):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(base, work)
            os.environ["SNAPTRAIL_STORE"] = work
            return subprocess.run([kills.SNAPTRAIL, *verb], env=dict(os.environ, KILL_AT=kill_at), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        p = again(wish)
        assert p.returncode == 0, p
        after, most = ids(kills), passed(wish)
        os.unlink(wish)
        for name, times in most.items():
            numbers = list(range(1, 2 * times))
            for n in numbers if MANY > 2 else numbers[:3] + dice.sample(numbers[3:], min(3, len(numbers[3:]))):
                p = again("%s:%d:%s" % (wish, n, name))
                assert p.returncode in (0, -signal.SIGKILL), (name, n, p)
                if p.returncode == 0:
                    continue
                seen.add(name)
                found = ids(kills)
                story = "%s killed at %s, %d" % (verb[0], name, n)
                assert set(after) <= set(found) <= set(before if verb[0] != "prune" else after), story
                assert verb[0] != "rm" or found in (before, after), "%s: half of it is done" % story
                for i, state in states.items():
                    assert i not in found or kills.snaptrail("show", i, "--json") == state, story
                kills.snaptrail(*[a for a in verb if a not in gone or a in found], code=(0, 2) if verb[0] == "rm" else 0)
                kills.snaptrail("verify", code=(0, 3))
                assert ids(kills) == after, story
        p = again("")  # the next verb's store is one that this one has changed
        shutil.rmtree(base)
        os.rename(work, base)
    assert CARE <= seen, CARE - seen
