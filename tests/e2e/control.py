"""A live session is asked, watched and edited, whoever hosts its engine."""
import json
import os
import re
import signal
import subprocess
import time

from lib import SNAPTRAIL, run_argv, show, snaptrail, wait_for

HOSTS = ("run", "plain")
PYTHON = "/usr/bin/python3"


def ls(*args):
    return json.loads(snaptrail("ls", "s", "--json", *args))


def live():
    p = subprocess.run([SNAPTRAIL, "sessions", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    return [s for s in json.loads(p.stdout or "[]") if s["live"]]


class Recorded:
    """A python3 that runs each line it is sent, until the end of its stdin."""

    def __init__(self, options=()):
        code = "import os, sys\nfor line in sys.stdin:\n    exec(line); print('did', flush=True)"
        self.p = subprocess.Popen(run_argv(PYTHON, "-c", code, options=options), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        wait_for(live, what="the session")
        self.do("pass")
        self.session = live()[0] # who begins it hands it to its recorder

    def do(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "did\n"

    def end(self):
        self.p.stdin.close()
        assert self.p.wait(20) == 0


def error_of(*args):
    p = subprocess.run([SNAPTRAIL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
    return p.returncode, p.stdout, p.stderr


def test_snap_stores_the_present_with_tags_and_description():
    r = Recorded()
    r.do("os.putenv('STEP', 'one')")
    one = snaptrail("snap", "s", "-t", "good", "-t", "by hand", "-d", "the first step").strip()
    r.do("os.putenv('STEP', 'two')")
    two = snaptrail("snap").strip()
    r.end()
    assert re.fullmatch("[0-9a-f]{16}", one) and one != two
    (s,) = [s for s in ls() if s["id"] == one]
    assert (s["tags"], s["description"], s["origin"]) == (["by hand", "good"], "the first step", "manual"), s

    def step(ref):
        return [m["value"] for k, m in show(ref)["memory"].items() if k.endswith("/env/STEP")]
    assert step(one) == ["one"] and step(two) == ["two"] and step("tag:good") == ["one"]


def test_snap_makes_the_type_that_is_asked_for():
    r = Recorded()
    full = snaptrail("snap", "--type", "full").strip()
    r.do("os.putenv('A', 'b')")
    part = snaptrail("snap", "--type", "incremental").strip()
    r.end()
    types = {s["id"]: s["type"] for s in ls()}
    assert (types[full], types[part]) == ("full", "incremental"), types


def test_automatic_snapshots_start_and_stop():
    r = Recorded()
    snaptrail("auto", "start", "s", "--interval", "30ms")
    for i in range(20):
        r.do("os.putenv('N', '%d')" % i)
        time.sleep(0.02)
    snaptrail("auto", "stop")
    n = len([s for s in ls() if s["origin"] == "automatic"])
    for i in range(10):
        r.do("os.putenv('N', '%d')" % i)
        time.sleep(0.02)
    assert n >= 4 and len([s for s in ls() if s["origin"] == "automatic"]) == n, n
    r.end()


def test_flush_returns_when_snapshots_are_stored():
    r = Recorded()
    snaptrail("flush", "s")
    r.end()
    code, _, err = error_of("flush", "s")
    assert code == 4 and "not being recorded" in err, (code, err)


def test_live_figures_are_asked_of_the_recorder():
    r = Recorded()
    r.do("[os.putenv('N', str(i)) for i in range(50)]")
    figures = json.loads(snaptrail("stats", "--json", "--session", "s"))["live"]
    assert figures["changes"] >= 50 and figures["lost"] == 0 and figures["processes"] == 1, figures
    r.end()
    assert "live" not in json.loads(snaptrail("stats", "--json", "--session", "s"))


def test_what_watch_prints_is_what_log_prints():
    r = Recorded(options=("--interval", "150ms"))
    out = open("watched", "wb")
    w = subprocess.Popen([SNAPTRAIL, "watch", "s", "--since", "+0s", "--json"], stdout=out)
    for i in range(30):
        r.do("f = os.open('/etc/passwd', 0); os.close(f); os.putenv('N', '%d')" % i)
        if i % 10 == 0:
            r.do("import subprocess; subprocess.run(['/bin/true'])")
        time.sleep(0.02)
    r.end()
    assert w.wait(20) == 0
    with open("watched") as f:
        lines = [json.loads(x) for x in f]
    events = [x for x in lines if "event" not in x]
    made = [x["id"] for x in lines if x.get("event") == "snapshot_created"]
    logged = [json.loads(x) for x in snaptrail("log", "--json", "--session", "s").splitlines()]
    # An end that no parent tells is waited for a while, and stored where it was found out.
    late = [(a, b) for a, b in zip(events, events[1:]) if int(a["timeNs"]) > int(b["timeNs"])]
    assert all(b["kind"] == "process_ended" and b["source"] == "supervisor" for _, b in late), late

    def bag(some):
        return sorted(json.dumps({k: v for k, v in e.items() if k != "coalesced"}, sort_keys=True) for e in some)
    assert bag(events) == bag(logged), (len(events), len(logged))
    stored = [s["id"] for s in ls()]
    assert made and [i for i in stored if i in made] == made, (made, stored)


def test_watch_ends_with_ctrl_c():
    r = Recorded()
    w = subprocess.Popen([SNAPTRAIL, "watch", "s", "--since", "+0s"], stdout=subprocess.PIPE)
    r.do("os.putenv('SEEN', 'yes')")
    line = b""
    while b"SEEN" not in line:
        line = w.stdout.readline()
        assert line
    w.send_signal(signal.SIGINT)
    assert w.wait(10) == 0
    w.stdout.close()
    r.end()


def test_tags_and_descriptions_are_edited_afterwards():
    r = Recorded()
    r.end()
    snaptrail("tag", "latest", "+a", "+b", "--", "-none")
    snaptrail("tag", "tag:a", "-b", "+c d")
    snaptrail("describe", "tag:a", "what it was")
    (s,) = [s for s in ls("--tag", "a")]
    assert (s["tags"], s["description"]) == (["a", "c d"], "what it was"), s
    for bad in (["tag", "latest", "+a,b"], ["tag", "latest", "+"], ["tag", "latest", "a"], ["tag", "latest"], ["describe", "latest"]):
        code, out, err = error_of(*bad)
        assert code == 2 and not out and err.startswith("snaptrail: "), (bad, code, err)
    assert error_of("tag", "ffff0000", "+a")[0] == 4
    assert ls("--tag", "a") == [s]
    snaptrail("verify")


def test_a_stopped_recorder_does_not_answer_and_is_named():
    r = Recorded()
    pid = r.session["recorderPid"]
    os.kill(pid, signal.SIGSTOP)
    t = time.monotonic()
    code, out, err = error_of("snap", "s")
    took = time.monotonic() - t
    os.kill(pid, signal.SIGCONT)
    assert code == 6 and not out and "pid %d" % pid in err and 4.5 < took < 8, (code, err, took)
    assert snaptrail("snap", "s")
    r.end()
    assert len([s for s in ls() if s["origin"] == "manual"]) == 1


def test_requests_of_many_at_once_are_each_answered():
    r = Recorded()
    many = [subprocess.Popen([SNAPTRAIL, "snap", "s", "-t", "t%d" % i], stdout=subprocess.PIPE, text=True) for i in range(8)]
    ids = [p.communicate(timeout=20)[0].strip() for p in many]
    assert all(p.returncode == 0 for p in many) and len(set(ids)) == 8, ids
    r.end()
    by_tag = {t: s["id"] for s in ls() for t in s["tags"]}
    assert [by_tag["t%d" % i] for i in range(8)] == ids


def test_another_user_is_refused():
    if os.geteuid():
        return
    r = Recorded()
    page = None
    for name in os.listdir("/dev/shm/snaptrail-0"):
        path = os.path.join("/dev/shm/snaptrail-0", name, "requests")
        try:
            if os.environ["TMPDIR"] in os.readlink(os.path.join("/dev/shm/snaptrail-0", name, "pointer")):
                page = path
        except OSError:
            pass
    assert page and os.stat(page).st_mode & 0o777 == 0o600
    p = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "cat", page], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=20)
    assert p.returncode != 0 and b"Permission denied" in p.stderr
    os.chown(page, 65534, 65534)
    code, _, err = error_of("snap", "s")
    assert code == 6 and "another user" in err, (code, err)
    r.end()


def test_nonsense_in_the_request_page_is_answered_and_nothing_breaks():
    r = Recorded()
    with open([os.path.join(d, "requests") for d in folders()][0], "r+b") as f:
        f.seek(24)  # behind magic, asked, answered, verb and type
        f.write(b"\xff" * 6000)
        f.seek(16)
        f.write(b"\xee\xee\x00\x00")
        f.seek(8)
        f.write(b"\x07\x00\x00\x00")
    time.sleep(0.2)
    r.do("os.putenv('STILL', 'there')")
    then = snaptrail("snap", "s").strip()
    r.end()
    assert any(k.endswith("/env/STILL") for k in show(then)["memory"])


def folders():
    live_folder = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    for name in os.listdir(live_folder):
        with open(os.path.join(live_folder, name)) as f:
            yield [line.split(" ", 1)[1].strip() for line in f if line.startswith("folder ")][0]


def test_who_looks_at_any_moment_takes_no_session_away():
    """A pointer that had its name before its lock was salvaged by the command that found it."""
    store = os.environ["SNAPTRAIL_STORE"]
    looks = "while [ ! -e %s.enough ]; do %s sessions --json; done >%s.seen 2>/dev/null" % (store, SNAPTRAIL, store)
    many = [subprocess.Popen(["sh", "-c", looks]) for _ in range(2)]
    for i in range(40):
        assert subprocess.run(run_argv("/bin/true", session="n%d" % i), stdin=subprocess.DEVNULL, timeout=20).returncode == 0
    open(store + ".enough", "w").close()
    for p in many:
        p.wait(20)
    sessions = json.loads(snaptrail("sessions", "--json"))
    assert len(sessions) == 40 and all(s["note"] in (None, "") and s["exitCode"] == 0 and not s["live"] for s in sessions), sessions
