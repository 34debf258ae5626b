"""What stays and what goes: deleting, limits, repair; nothing that stays is harmed."""
import json
import os
import subprocess
import time

from lib import SNAPTRAIL, record, run_argv, snaptrail, wait_for

ALONE = True  # a recorder has to keep up with who writes

PYTHON = "/usr/bin/python3"


def run(*args, text=None):
    p = subprocess.run([SNAPTRAIL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, input=text, text=True, timeout=50)
    return p.returncode, p.stdout, p.stderr


def ls(session):
    return json.loads(snaptrail("ls", session, "--json"))


def create(n, *args, session="s"):
    state = {"tasks": {"t%d" % (i % 50): {"progress": i, "text": "x" * 200} for i in range(n, n + 50)}, "metrics": {"n": n}}
    code, out, err = run("create", session, "--state", "-", *args, text=json.dumps(state))
    assert code == 0, err
    return out.strip()


def n_of(ref):
    return json.loads(snaptrail("show", ref, "--json"))["metrics"]["n"]


def segment_bytes():
    folder = os.path.join(os.environ["SNAPTRAIL_STORE"], "segments")
    total = 0
    for name in os.listdir(folder):
        try:
            total += os.path.getsize(os.path.join(folder, name))
        except FileNotFoundError:  # a copy that compaction gave its name, or an old one
            pass
    return total


def test_what_stays_is_as_it_was_whatever_goes():
    ids = [create(i) for i in range(12)]
    assert run("rm", ids[0], ids[3], ids[4], ids[11])[0] == 0
    for i in (1, 2, 5, 6, 7, 8, 9, 10):
        assert n_of(ids[i]) == i
    code, out, err = run("rm", ids[1], ids[3])
    assert code == 4 and ids[3] in err and n_of(ids[1]) == 1
    assert run("rm")[0] == 2
    assert [s["id"] for s in ls("s")] == [ids[i] for i in (1, 2, 5, 6, 7, 8, 9, 10)]
    assert run("verify")[0] == 0


class Steps:
    """A recorded program with a snapshot after each of its steps."""

    def __init__(self, n):
        code = "import os, sys\nfor line in sys.stdin:\n    os.putenv('STEP', line.strip()); print('did', flush=True)"
        p = subprocess.Popen(run_argv(PYTHON, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        wait_for(lambda: run("snap", "s")[0] == 0, what="the session")
        self.ids, self.states = [], {}
        for i in range(n):
            p.stdin.write("%d\n" % i)
            p.stdin.flush()
            assert p.stdout.readline() == "did\n"
            self.ids.append(snaptrail("snap", "s", *(["--type", "full"] if i % 4 == 2 else [])).strip())
        p.stdin.close()
        assert p.wait(20) == 0
        for i in self.ids:
            self.states[i] = json.loads(snaptrail("show", i, "--json"))


def test_recorded_snapshots_keep_their_states_and_holes_are_told():
    s = Steps(10)
    times = {x["id"]: x["timestamp"] for x in ls("s")}
    gone = [s.ids[i] for i in (1, 2, 5, 6, 7)]
    assert run("rm", *gone)[0] == 0
    for i in s.ids:
        if i not in gone:
            assert json.loads(snaptrail("show", i, "--json")) == s.states[i], i
    middle = (times[s.ids[1]] + times[s.ids[2]]) / 2
    code, out, err = run("show", "@%d" % int(middle * 1e6))
    assert code == 8 and "deleted" in err, (code, err)
    code, out, err = run("show", "@%d" % int((times[s.ids[8]] + times[s.ids[9]]) / 2 * 1e6))
    assert code == 0
    events = [json.loads(line) for line in snaptrail("log", "*/env/STEP", "--json").splitlines()]
    assert [e["new"] for e in events if e["field"] == "value"][-1] == "9"
    assert run("prune")[0] == 0
    for i in s.ids:
        if i not in gone:
            assert json.loads(snaptrail("show", i, "--json")) == s.states[i], i
    assert run("verify")[0] == 0


def test_the_newest_of_a_live_session_stays():
    p = subprocess.Popen(run_argv("sleep", "60"))
    wait_for(lambda: run("snap", "s")[0] == 0 and len(ls("s")) > 1, what="two snapshots")
    newest = ls("s")[-1]["id"]
    code, out, err = run("rm", newest)
    assert code == 6 and "newest" in err, (code, err)
    assert run("rm", ls("s")[0]["id"])[0] == 0
    p.terminate()
    p.wait(20)
    assert run("show", "latest")[0] == 0


def limits(text):
    with open("limits.ini", "w") as f:
        f.write("[retention]\n" + text)
    return ("--config", "limits.ini")


def test_limits_say_why_and_how_many_bytes_come_back():
    now = int(time.time())
    for i in range(20):
        create(i, "--time", str(now - 3600 * (20 - i)), *(["-t", "good"] if i in (2, 12) else ["-t", "other"] if i == 3 else []))
    time.sleep(3.1)  # who builds on a snapshot of this moment may not have heard that it goes
    c = limits("max_age = 15h\nmax_snapshots = 8\nkeep_tags = good\n")
    dry = json.loads(snaptrail(*c, "prune", "--dry-run", "--json"))
    why = {i: (v["verdict"], v["why"]) for i, v in enumerate(dry["snapshots"])}
    assert why[0] == ("goes", "older than max_age") and why[2] == ("stays", "has a tag of keep_tags")
    assert why[3] == ("goes", "older than max_age")
    assert why[8] == ("goes", "beyond max_snapshots of its session") and why[12][0] == "stays" and why[19] == ("stays", "within the limits")
    assert dry["deleted"] == 0 and dry["wouldGo"] == 11 and len(ls("s")) == 20
    before = segment_bytes()
    assert run(*c, "prune")[0] == 0
    freed = before - segment_bytes()
    assert len(ls("s")) == 9 and [n_of(s["id"]) for s in ls("s")] == [2] + list(range(12, 20))
    assert 0.8 < freed / dry["bytes"] < 1.25, (freed, dry["bytes"])
    assert run("verify")[0] == 0


def test_tagged_only_keeps_the_tagged_and_lets_the_others_expire():
    now = int(time.time())
    for i in range(6):
        create(i, "--time", str(now - 3600 * (6 - i)), *(["-t", "x"] if i % 2 else []))
    snaptrail(*limits("max_age = 90m\ntagged_only = yes\n"), "prune")
    assert [n_of(s["id"]) for s in ls("s")] == [1, 3, 5]


def test_the_store_stays_within_its_bytes():
    for i in range(40):
        create(i * 50, "--type", "full", session="s%d" % (i % 3))
    time.sleep(3.1)
    limit = segment_bytes() // 3
    snaptrail(*limits("max_size = %d\n" % limit), "prune")
    assert segment_bytes() < limit * 1.1, (segment_bytes(), limit)
    kept = [s for name in ("s0", "s1", "s2") for s in ls(name)]
    assert 8 < len(kept) < 16 and min(n_of(s["id"]) for s in kept) > 1200, (len(kept), limit)


def test_repair_writes_a_sound_copy():
    ids = [create(i, "--type", "full") for i in range(6)]
    folder = os.path.join(os.environ["SNAPTRAIL_STORE"], "segments")
    victim = None
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with open(path, "r+b") as f:
            data = f.read()
            if ids[2].encode() in data:
                f.seek(data.index(ids[2].encode()) + 300)
                f.write(b"\xff\x00\xff")
                victim = name
    assert victim and run("verify")[0] == 5
    code, out, err = run("repair", "--into", "sound")
    assert code == 3 and victim in err, (code, out, err)
    assert run("--store", "sound", "verify")[0] == 0
    assert [s["id"] for s in json.loads(snaptrail("--store", "sound", "ls", "s", "--json"))] == ids[:2] + ids[3:]
    assert json.loads(snaptrail("--store", "sound", "show", ids[4], "--json"))["metrics"]["n"] == 4
    assert run("repair", "--into", "sound")[0] == 2, run("repair", "--into", "sound")
    assert run("repair")[0] == 2
    assert run("verify")[0] == 5


def test_a_recorder_keeps_the_limits_by_itself():
    now = int(time.time())
    for i in range(30):
        create(i, "--time", str(now - 3600 * (30 - i)))
    time.sleep(3.1)
    config = limits("max_age = 5h\n")[1]
    assert record("sleep", "0.3", session="r", options=("--config", os.path.abspath(config))).returncode == 0
    assert [n_of(s["id"]) for s in ls("s")] in ([25, 26, 27, 28, 29], [26, 27, 28, 29])
    assert len(ls("r")) == 2


def lived_within(text, steps):
    """A session that writes fast: its snapshots at the end, and the most its store took."""
    config = os.path.abspath(limits(text)[1])
    code = ("import os, time\nfor i in range(%d):\n    os.putenv('STEP', str(i) + os.urandom(4000).hex()); time.sleep(0.01)" % steps)
    most, p = 0, subprocess.Popen(run_argv(PYTHON, "-c", code, options=("--interval", "10ms", "--config", config)))
    while p.poll() is None:
        time.sleep(0.1)
        most = max(most, segment_bytes())
    (session,) = json.loads(snaptrail("sessions", "--json"))
    left = ls("s")
    assert p.returncode == 0 and session["snapshots"] == len(left), (p.returncode, len(left), session)
    last = [e["new"] for e in map(json.loads, snaptrail("log", "*/env/STEP", "--json").splitlines()) if e["field"] == "value"][-1]
    assert last.startswith(str(steps - 1)), last[:40]
    assert run("verify")[0] == 0 and json.loads(snaptrail("show", left[0]["id"], "--json"))
    return len(left), most


def test_a_recorder_keeps_a_number_as_fast_as_it_writes():
    """Not once in ten minutes: what it wrote itself since it looked is counted."""
    left, _ = lived_within("max_snapshots = 40\n", 400)
    assert 20 < left < 100, left


def test_a_recorder_keeps_a_size_as_fast_as_it_writes():
    left, most = lived_within("max_size = 100K\n", 800)
    assert left > 5 and 50000 < most < 300000, (left, most)


def test_a_long_session_forgets_its_beginning_and_stays_whole():
    config = limits("max_snapshots = 20\n")[1]
    code = ("import os, time\nfor i in range(60):\n    os.putenv('STEP', str(i)); time.sleep(0.02)")
    p = subprocess.Popen(run_argv(PYTHON, "-c", code, options=("--interval", "10ms")))
    wait_for(lambda: run("ls", "s")[0] == 0 and len(ls("s")) > 40, what="forty snapshots")
    shown = {s["id"]: json.loads(snaptrail("show", s["id"], "--json")) for s in ls("s")[25:40]}
    snaptrail("--config", config, "prune")
    assert len(ls("s")) < 40, len(ls("s"))
    for i, state in shown.items():
        if i in [s["id"] for s in ls("s")]:
            assert json.loads(snaptrail("show", i, "--json")) == state
    assert p.wait(20) == 0
    snaptrail("--config", config, "prune")
    left = ls("s")
    assert len(left) == 20 and left[0]["type"] == "full", (len(left), left[0])
    events = [json.loads(line) for line in snaptrail("log", "*/env/STEP", "--json").splitlines()]
    assert [e["new"] for e in events if e["field"] == "value" and e["op"] == "set"][-1] == "59", events
    assert run("show", "@+1ms")[0] == 8, run("show", "@+1ms")
    assert run("verify")[0] == 0, run("verify")
    w = run("when", "*/env/STEP#value", "==", "\"0\"")
    assert w[0] == 8, w
