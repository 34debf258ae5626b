"""kill -9 at random instants: of the program, of the recorder, of `run`, each
alone and together.  What was acknowledged as recorded is there afterwards, in
order, nothing else is, and what is missing was counted.

TEST_KILLS says how many in each host of the engine (500), TEST_SEED repeats a run."""
import json
import os
import random
import signal
import struct
import subprocess
import time

from lib import PLAIN, SNAPTRAIL, children_of, dead, limit, program, run_argv, snaptrail, wait_for

HOSTS = ("run", "plain")
KILLS = int(os.environ.get("TEST_KILLS", "500"))
PER_STORE = 25
FORENSIC, DEFAULT = "forensic", "default"


def acknowledged(path):
    try:
        with open(path, "rb") as f:
            data = f.read(8)
    except OSError:
        return 0
    return struct.unpack("<Q", data)[0] if len(data) == 8 else 0


def pointers():
    """What each session that is not yet buried says: its recorder and its program."""
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    try:
        names = os.listdir(live)
    except OSError:
        return
    for name in names:
        try:
            with open(os.path.join(live, name)) as f:
                said = dict(line.split(None, 1) for line in f.read().splitlines() if " " in line)
        except OSError:
            continue
        yield {k: int(said[k]) for k in ("recorder", "pid") if said.get(k, "").strip().isdigit()}


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_counter(pid):
    try:
        return os.readlink("/proc/%s/exe" % pid) == os.path.realpath(program("counter"))
    except OSError:
        return False


class Life:
    """One recorded life of the counter, cut short."""

    def __init__(self, dice, n):
        self.dice, self.session, self.ack = dice, "k%d" % n, os.path.abspath("ack%d" % n)
        self.profile = dice.choice((FORENSIC, FORENSIC, DEFAULT))
        options = ["--profile", self.profile]
        if dice.random() < 0.5:
            options += ["--interval", dice.choice(("5ms", "10ms", "50ms"))]
        self.threads = dice.choice((1, 1, 3))
        self.early = dice.random() < 0.1
        whom = {"target"} if PLAIN else {"target", "recorder", "run"}
        self.victims = sorted(dice.sample(sorted(whom), dice.randint(1, len(whom))))
        dice.shuffle(self.victims)
        self.story = "%s %s killing %s%s" % (self.session, " ".join(options), "+".join(self.victims), " early" if self.early else "")
        self.p = subprocess.Popen(run_argv(program("counter"), self.ack, str(self.threads), session=self.session, options=options),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pids = {"run": self.p.pid}
        self.seen = set()

    def find(self):
        """Whom to kill; before all is up, who is there."""
        if PLAIN:
            self.pids = {"target": self.p.pid}
            return
        for said in pointers():
            if said.get("recorder", self.p.pid) != self.p.pid:
                self.pids["recorder"] = said["recorder"]
        for c in children_of(self.p.pid):
            if is_counter(c):
                self.pids["target"] = c
            elif c not in self.pids.values():
                self.pids["recorder"] = c

    def cut_short(self):
        if self.early:
            time.sleep(self.dice.random() * 0.01)
        else:
            end = time.monotonic() + 10
            while not acknowledged(self.ack):
                assert time.monotonic() < end, "never began"
                time.sleep(0.0005)
            time.sleep(self.dice.random() * 0.02)
        self.find()
        for v in self.victims:
            if v in self.pids:
                kill(self.pids[v])
            if self.dice.random() < 0.3:
                time.sleep(self.dice.random() * 0.002)
        if "target" not in self.victims:
            time.sleep(self.dice.random() * 0.01)
        return self.bury()

    def bury(self):
        """Nobody of it lives on; what was acknowledged."""
        end = time.monotonic() + 20
        while self.left() or self.p.poll() is None:
            assert time.monotonic() < end, "does not end: %s" % self.left()
            time.sleep(0.001)
        return acknowledged(self.ack)

    def left(self):
        """Who of it lives, but for the program, which is ended."""
        # One that is dying has no command line any more, and still its locks.
        self.seen |= {int(n) for n in os.listdir("/proc") if n.isdigit() and self.is_mine(n)} | set(self.pids.values())
        left = [pid for pid in self.seen if not dead(pid)]
        for pid in filter(is_counter, left):
            kill(pid)
        return left

    def is_mine(self, pid):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                return self.ack.encode() in f.read()
        except OSError:
            return False


def values_of(session):
    """What the recording says of CTR0, in its order; None: it has no such session."""
    p = subprocess.run([SNAPTRAIL, "log", "--json", "*/env/CTR0#value", "--session", session], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=50)
    if p.returncode == 4:
        return None
    assert p.returncode in (0, 1, 3), (p.returncode, p.stderr)
    lines = [json.loads(line) for line in p.stdout.splitlines()]
    return [int(c["new"]) for c in lines if c["op"] == "set"]


def losses(session):
    return {s["name"]: s["lost"] for s in json.loads(snaptrail("sessions", "--json"))}[session]


def check(life, last):
    # A dying process may hold its locks a moment longer than it can be seen.
    wait_for(lambda: snaptrail("sessions", code=(0, 1, 4)) is not None and not list(pointers()), 5, "the salvage")
    values = values_of(life.session)
    if values is None:
        assert last == 0 and life.early, "no session, and %d acknowledged" % last
        return
    assert values == sorted(set(values)), "out of order, or twice"
    assert not values or values[-1] <= last + 1, "%d was never said: %d acknowledged" % (values[-1], last)
    lost = losses(life.session)
    # In a ring that nobody empties any more there is room for so many; each that had none is counted.
    # Beside those a thread may have been killed amid one report, which nobody was told of.
    alone = "target" not in life.victims[:1] and not PLAIN
    assert alone or lost <= life.threads, "%d lost" % lost
    if life.profile == FORENSIC:
        missing = last - sum(v <= last for v in values)
        assert missing <= (lost if alone else 0), "%d of %d are missing, %d counted as lost" % (missing, last, lost)
    elif not (alone and lost):
        assert last == 0 or (values and values[-1] >= last), "acknowledged %d, recorded to %s" % (last, values[-1:])


@limit(max(200, KILLS))
def test_killed_at_random_nothing_that_was_acknowledged_is_missing():
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 1 << 30)
    dice = random.Random(seed)
    for n in range(KILLS):
        if n % PER_STORE == 0:
            os.environ["SNAPTRAIL_STORE"] = os.path.abspath("store%d" % n)
        life = Life(dice, n)
        print(life.story, flush=True)  # a failed run's log has them all
        try:
            check(life, life.cut_short())
        except AssertionError as e:
            raise AssertionError("TEST_SEED=%d, %s: %s" % (seed, life.story, e)) from e
        os.path.exists(life.ack) and os.unlink(life.ack)
        if n % PER_STORE == PER_STORE - 1:
            snaptrail("verify", code=(0, 3))
            names = [s["name"] for s in json.loads(snaptrail("sessions", "--json"))]
            left = os.listdir(os.path.join(os.environ["SNAPTRAIL_STORE"], "live"))
            assert len(names) == len(set(names)) and not left, (names, left)
