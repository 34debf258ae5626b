"""Many at once and many after another: ten thousand short lives, a thousand images
of one process, threads that fork.  All of them are in the recording, and nothing of
them is left behind."""
import json
import os
import subprocess
import time

from lib import PLAIN, limit, log, program, record, snaptrail, wait_for

HOSTS = ("run", "plain")
GUEST = program("guest")
MANY = int(os.environ.get("TEST_STORM", "2500" if PLAIN else "10000"))
# An engine in the program begins anew with each image, and reads what there is: half a minute for a thousand.
CHAIN = 300 if PLAIN and "TEST_STORM" not in os.environ else 1000


def rings():
    """Every session's folder of rings, wherever a recorder makes them."""
    found = set()
    for root in ("/dev/shm", "/run/user/%d" % os.getuid(), "/tmp"):
        base = "%s/snaptrail-%d" % (root, os.getuid())
        found |= {os.path.join(base, n) for n in os.listdir(base)} if os.path.isdir(base) else set()
    return found


def nothing_left(before):
    wait_for(lambda: not json.loads(snaptrail("sessions", "--json"))[0]["live"], what="the end")
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    assert os.listdir(live) == [], os.listdir(live)
    # Other tests' sessions may come and go beside this one.
    ours = {f for f in rings() - before if os.path.islink(f + "/pointer") and os.environ["SNAPTRAIL_STORE"] in os.readlink(f + "/pointer")}
    assert not ours, ours


def session():
    (s,) = json.loads(snaptrail("sessions", "--json"))
    return s


@limit(240)
def test_thousands_of_short_lives_are_all_there():
    before = rings()
    p = record(GUEST, "lives", str(MANY), timeout=200)
    assert p.returncode == 0, p
    pids = [int(x) for x in p.stdout.split()]
    assert len(pids) == MANY
    nothing_left(before)
    out = subprocess.run([os.environ["TEST_BUILD"] + "/snaptrail", "log", "--json", "agents:p*#status", "--session", "s"], stdout=subprocess.PIPE,
                         timeout=100, check=True).stdout
    began, ended = {}, {}
    for line in out.splitlines():
        c = json.loads(line)
        if "/" not in c["key"]:
            (ended if c["new"] in ("terminated", "error") else began).setdefault(int(c["key"][1:]), []).append(c["timeNs"])
    assert session()["lost"] == 0
    assert set(pids) <= set(began), "%d lives are missing" % len(set(pids) - set(began))
    assert set(pids) <= set(ended), "%d ends are missing" % len(set(pids) - set(ended))


@limit(120)
def test_many_images_of_one_process_are_all_there():
    before = rings()
    n = CHAIN
    start = time.time()
    p = record(GUEST, "chain", str(n), timeout=100)
    assert p.stdout == b"end 3\n", p
    nothing_left(before)
    counts = [c["new"] for c in log("s", "agents:p*#execCount") if c["op"] == "set" and isinstance(c["new"], int)]
    assert counts[-1] >= n and sorted(set(counts)) == list(range(0, counts[-1] + 1)), counts[-5:]
    assert session()["lost"] == 0, session()
    assert start - 1 < session()["endedAt"] / 1000 < time.time() + 1, "its clock went wrong"


@limit(120)
def test_threads_that_fork_at_once_are_all_there():
    before = rings()
    p = record(GUEST, "forking_threads", "8", "100", timeout=100)
    assert p.returncode == 0, p
    pids = {int(x) for x in p.stdout.split()}
    assert len(pids) == 800
    nothing_left(before)
    seen = {int(c["key"][1:]) for c in log("s", "agents:p*#status") if "/" not in c["key"]}
    assert pids <= seen and session()["lost"] == 0, (len(pids - seen), session()["lost"])
