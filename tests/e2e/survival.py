"""Whoever is killed, and when: what the program was told had happened is in
the recording, and every command still works."""
import json
import os
import re
import signal
import struct
import subprocess
import time

from lib import SNAPTRAIL, children_of, dead, limit, program, run_argv, show, skip, snaptrail, wait_for


def acknowledged(threads=1):
    with open("acknowledged", "rb") as f:
        data = f.read(4096)
    return [struct.unpack_from("<Q", data, 64 * i)[0] for i in range(threads)]


def recorder_pid():
    for s in json.loads(snaptrail("sessions", "--json", code=(0, 1, 4)) or "[]"):
        if s["live"] and s["recorderPid"]:
            return s["recorderPid"]
    return None


def interrupted(victims, profile="default", threads=1, after=0.4, options=()):
    """Records the counter and kills 'target', 'recorder' or both amid its work;
    what was acknowledged by then."""
    p = subprocess.Popen(run_argv(program("counter"), "acknowledged", str(threads),
                                  options=("--profile", profile, *options)),
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def counting():
        assert p.poll() is None, p.stderr.read()
        return os.path.exists("acknowledged") and os.path.getsize("acknowledged") and all(acknowledged(threads))
    wait_for(counting, what="the program's work")
    target = [c for c in children_of(p.pid) if os.readlink("/proc/%d/exe" % c) == os.path.realpath(program("counter"))]
    # Until the recorder runs, the pointer names the one that forks it.
    (recorder,) = wait_for(lambda: {recorder_pid()} - {None, p.pid})
    time.sleep(after)
    pids = {"target": target, "recorder": {recorder, p.pid}}
    for v in victims:
        for pid in pids[v]:
            os.kill(pid, signal.SIGKILL)
    if "target" not in victims:
        time.sleep(0.3)
        before = acknowledged(threads)
        time.sleep(0.2)
        assert acknowledged(threads) > before, "the program stopped with its recorder"
        for pid in target:
            os.kill(pid, signal.SIGKILL)
    for pid in target:
        wait_for(lambda: dead(pid))
    p.wait(20)
    if "recorder" in victims:
        wait_for(lambda: dead(recorder))
    return acknowledged(threads), p.returncode


def counted(changes, n=0):
    end = "/env/CTR%d" % n
    return [int(c["new"] if c["field"] else c["new"]["value"]) for c in changes
            if c["table"] == "memory" and c["key"].endswith(end) and c["op"] == "set" and c["field"] in ("", "value")]


def all_commands_work():
    snaptrail("verify", code=(0, 3))
    snaptrail("ls", "s")
    snaptrail("diff", "first", "latest", "--session", "s")
    snaptrail("stats")
    s = json.loads(snaptrail("sessions", "--json"))
    assert len(s) == 1 and not s[0]["live"], s
    snaptrail("verify", code=(0, 3))
    return show("latest")


def changes_of(session="s"):
    return [json.loads(line) for line in snaptrail("log", "--json", "--session", session).splitlines()]


def last_value_is_there(last, thread=0):
    """In the log: a process that has ended takes its values out of the state."""
    all_commands_work()
    values = counted(changes_of(), thread)
    # One more than was written down may have happened.
    assert values and last <= values[-1] <= last + 1, "acknowledged %d, logged to %s" % (last, values[-1:])


def every_value_is_there(last, thread=0, changes=None):
    values = counted(changes or changes_of(), thread)
    assert values[:last] == list(range(1, last + 1)), \
        "acknowledged %d, logged %d from %s to %s, missing %s" % (
            last, len(values), values[:1], values[-1:], sorted(set(range(1, last + 1)) - set(values))[:70:9])


def test_what_a_killed_program_was_told_is_there():
    (last,), code = interrupted(["target"])
    assert code == -signal.SIGKILL, code
    last_value_is_there(last)


def test_every_value_of_a_killed_program_is_there_under_forensic():
    (last,), _ = interrupted(["target"], profile="forensic")
    last_value_is_there(last)
    every_value_is_there(last)


def test_what_was_told_is_there_when_both_are_killed():
    (last,), _ = interrupted(["recorder", "target"])
    last_value_is_there(last)


def test_every_value_is_there_when_both_are_killed_under_forensic():
    (last,), _ = interrupted(["recorder", "target"], profile="forensic")
    last_value_is_there(last)
    every_value_is_there(last)


def test_both_may_be_killed_amid_many_snapshots():
    (last,), _ = interrupted(["recorder", "target"], profile="forensic", options=("--interval", "20ms"))
    last_value_is_there(last)
    every_value_is_there(last)


def test_both_may_be_killed_at_the_very_beginning():
    (last,), _ = interrupted(["recorder", "target"], profile="forensic", after=0)
    last_value_is_there(last)
    every_value_is_there(last)


def test_four_threads_lose_nothing_when_both_are_killed():
    lasts, _ = interrupted(["recorder", "target"], profile="forensic", threads=4)
    all_commands_work()
    changes = changes_of()
    for i, last in enumerate(lasts):
        every_value_is_there(last, i, changes)


def test_the_program_goes_on_when_its_recorder_is_killed():
    (last,), _ = interrupted(["recorder"])
    all_commands_work()
    shown = counted(changes_of())[-1:]
    sessions = json.loads(snaptrail("sessions", "--json"))
    # The ring may have filled since: then the loss is counted.
    assert shown and (shown[0] >= last or sessions[0]["lost"] > 0), (last, shown, sessions)


def test_run_claims_nothing_of_a_recorder_that_was_killed():
    code = "import os, sys; print(flush=True); sys.stdin.readline()"
    for name, options in (("words", ()), ("json", ("--json",))):
        p = subprocess.Popen([SNAPTRAIL, "run", "--session", name, *options, "--", "python3", "-c", code], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.readline()
        (recorder,) = wait_for(lambda: {recorder_pid()} - {None, p.pid})
        os.kill(recorder, signal.SIGKILL)
        wait_for(lambda: dead(recorder))
        said = p.communicate(b"\n", timeout=30)[1].decode()
        assert p.returncode == 0 and "salvages" in said, said
        if options:
            s = json.loads(said)
            assert s["store"] and s["session"] == name and s["lost"] is None and s["processes"] is None, s
        else:
            assert "lost" not in said and "0 " not in said, said
        assert "python3" in [a.get("name") for a in show("latest", session=name)["agents"].values()]


def test_a_session_whose_recorder_was_killed_can_go_on_under_its_name():
    interrupted(["recorder", "target"])
    subprocess.run(run_argv("sh", "-c", "exit 3"), stdin=subprocess.DEVNULL, timeout=30)
    state = show("latest")
    assert any(a.get("exitCode") == 3 for a in state["agents"].values())
    assert snaptrail("log", "*CTR0*", "--session", "s")


def test_reading_while_it_runs_shows_what_happened_so_far():
    p = subprocess.Popen(run_argv(program("counter"), "acknowledged"), stdin=subprocess.DEVNULL)
    wait_for(lambda: os.path.exists("acknowledged") and os.path.getsize("acknowledged") and acknowledged()[0] > 100)
    (before,) = acknowledged()
    time.sleep(0.1)
    state = show("live")
    (after,) = acknowledged()
    shown = [int(m["value"]) for k, m in state["memory"].items() if k.endswith("/env/CTR0")]
    for c in children_of(p.pid):
        os.kill(c, signal.SIGKILL)
    p.wait(20)
    assert shown and before <= shown[0] <= after + 1, (before, shown, after)


def test_nothing_is_left_in_the_rings_folder_after_a_salvage():
    interrupted(["recorder", "target"])
    time.sleep(0.5)  # until init has buried the target
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    folders = []
    for name in os.listdir(live):
        with open(os.path.join(live, name)) as f:
            folders += [line.split(" ", 1)[1].strip() for line in f if line.startswith("folder ")]
    assert len(folders) == 1, folders
    all_commands_work()
    assert not os.listdir(live), os.listdir(live)
    assert not os.path.exists(folders[0]), os.listdir(folders[0])


def rings_folder():
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    (name,) = os.listdir(live)
    with open(os.path.join(live, name)) as f:
        return [line.split(" ", 1)[1].strip() for line in f if line.startswith("folder ")][0]


def next_stage(folder):
    return max([int(n[6:]) for n in os.listdir(folder) if n.startswith("stage.")] + [0]) + 1


def test_a_recorder_killed_while_it_makes_a_stage_loses_nothing():
    (last,), _ = interrupted(["recorder", "target"], profile="forensic")
    folder = rings_folder()
    open("%s/making.%d" % (folder, next_stage(folder)), "w").close()
    open("%s/stage.%d" % (folder, next_stage(folder) + 1), "w").close()  # as if cut short
    every_value_is_there(last)


def test_a_salvage_that_cannot_be_done_is_told_and_tried_again():
    (last,), _ = interrupted(["recorder", "target"], profile="forensic")
    folder = rings_folder()
    block = "%s/making.%d" % (folder, next_stage(folder))
    os.mkdir(block)
    p = subprocess.run([SNAPTRAIL, "sessions"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    assert p.returncode == 0 and b"cannot be salvaged yet" in p.stderr and p.stderr.count(b"\n") == 1, p.stderr
    os.rmdir(block)
    every_value_is_there(last)


@limit(120)
def test_ten_kills_at_odd_moments_lose_nothing():
    for i in range(10):
        os.environ["SNAPTRAIL_STORE"] = os.path.abspath("store%d" % i)
        if os.path.exists("acknowledged"):
            os.unlink("acknowledged")
        (last,), _ = interrupted(["recorder", "target"] if i % 2 else ["target"], profile="forensic",
                                 after=0.013 * i, options=("--interval", "15ms"))
        every_value_is_there(last)
        snaptrail("verify", code=(0, 3))


def test_a_burst_right_before_the_end_is_all_recorded():
    n = 300000
    code = "import os\nfor i in range(%d): os.putenv('N', str(i))" % n
    snaptrail("run", "--quiet", "--profile", "forensic", "--session", "burst", "--", "/usr/bin/python3", "-c", code)
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert s["lost"] == 0 and s["changes"] >= n, (s["lost"], s["changes"])
    last = snaptrail("log", "*/env/N#value", "--json", "--session", "burst").splitlines()
    assert [json.loads(line)["new"] for line in last if json.loads(line)["op"] == "set"][-1] == str(n - 1)


# ---- what leads to a session ----

def test_a_pointer_that_leads_nowhere_harms_nothing():
    p = subprocess.Popen(run_argv("cat", session="s"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")

    def snap():
        return subprocess.run([SNAPTRAIL, "snap", "--session", "s"], capture_output=True, text=True, timeout=20)
    wait_for(lambda: os.path.isdir(live) and os.listdir(live) and snap().returncode == 0, what="a first answer")
    (pointer,) = [os.path.join(live, name) for name in os.listdir(live)]

    def settled():
        """It is written once more when the program has begun."""
        with open(pointer) as f:
            text = f.read()
        return text if re.search("^pid [1-9]", text, re.M) else None
    whole = wait_for(settled)
    folder = re.search("^folder (.*)$", whole, re.M).group(1)
    boards = {"empty": b"", "another": b"x" * os.path.getsize(folder + "/board"), "of zeros": bytes(os.path.getsize(folder + "/board"))}
    for name, content in boards.items():
        os.mkdir(name)
        with open(name + "/board", "wb") as f:
            f.write(content)
    wrong = ["", "garbage", "folder \n", whole[:20], "folder /nowhere\nboot x\n", whole.replace(folder, "/nowhere"), whole.replace(folder, "x" * 5000)]
    for text in wrong + [whole.replace(folder, os.path.abspath(name)) for name in boards]:
        with open(pointer, "r+") as f:
            f.write(text)
            f.truncate()
        said = snap()
        assert said.returncode not in (0, 1) and said.returncode < 128 and said.stderr.count("\n") == 1, (text, said)
        assert len(json.loads(snaptrail("sessions", "--json"))) == 1, text
    with open(pointer, "r+") as f:
        f.write(whole)
        f.truncate()
    assert snap().returncode == 0
    p.communicate(b"x", timeout=20)
    assert p.returncode == 0
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert s["exitCode"] == 0 and os.listdir(live) == [] and not os.path.exists(folder), s
    assert snaptrail("verify")


def test_what_cannot_be_looked_at_now_is_salvaged_later():
    interrupted(["target", "recorder"])
    for limits in ["-n %d" % n for n in range(3, 10)] + ["-v 5000", "-v 6000"]:
        subprocess.run(["sh", "-c", "ulimit %s; exec %s sessions" % (limits, SNAPTRAIL)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s, = json.loads(snaptrail("sessions", "--json"))
    last, = acknowledged()
    assert s["lost"] == 0 and counted(changes_of())[-1] >= last


def test_a_recording_whose_store_is_not_seen_from_here_is_left_alone():
    """A service with a /tmp of its own, and others of that user in the same /dev/shm."""
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("no mount namespace of its own")
    os.mkdir("own")
    code = "import os, sys; print(flush=True)\nfor i in range(100): os.environ['I'] = str(i); open('/dev/null')\nsys.stdin.readline()\n" \
           "for i in range(100): os.environ['I'] = str(i); open('/dev/null')"
    p = subprocess.Popen(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none own && exec "$@"', "sh", SNAPTRAIL, "run", "--json", "--store", "own/st",
                          "--", "python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.readline()
    time.sleep(0.2)
    for i in range(3):
        subprocess.run([SNAPTRAIL, "run", "--quiet", "--store", "other%d" % i, "--", "true"], check=True)
    said = json.loads(p.communicate(b"\n", timeout=30)[1])
    assert said["error"] is None and said["lost"] == 0 and said["changes"] > 200 and said["snapshots"] > 0, said


def test_nothing_is_promised_of_what_was_removed():
    def said(script):
        p = subprocess.run([SNAPTRAIL, "run", "--store", "gone", "--", "sh", "-c", script], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert p.returncode == 0, p
        return p.stderr
    out = said('rm -rf "${SNAPTRAIL_BOARD%/board}"')
    assert "lost nothing" not in out and "salvaged by the next" not in out and "were removed" in out, out
    assert "its rings were taken away" in snaptrail("sessions", "--store", "gone")
    out = said("rm -rf %s" % os.path.abspath("gone"))
    assert "lost nothing" not in out and "store was removed" in out, out


@limit(120)
def test_what_was_lost_is_counted_once_on_every_road():
    """The lane lives on or ended with its process; the count stood in a stage or was stored already."""
    code = "import os, signal, sys\nr = int(sys.stdin.readline())\nos.kill(r, signal.SIGSTOP)\nif sys.argv[1] == 'here' or os.fork() == 0:\n" \
           "    for i in range(400000): os.putenv('A', str(i))\n    os.kill(r, signal.SIGCONT)\n    if sys.argv[1] == 'gone': os._exit(0)\n" \
           "else: os.wait()\nsys.stdin.readline()"
    for where in ("here", "gone"):
        for stored in (False, True):
            name = "%s-%s" % (where, stored)
            p = subprocess.Popen(run_argv("/usr/bin/python3", "-c", code, where, session=name, options=("--interval", "1h")), stdin=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
            recorder = wait_for(lambda: {recorder_pid()} - {None, p.pid}).pop()
            p.stdin.write("%d\n" % recorder)
            p.stdin.flush()
            lost = wait_for(lambda: json.loads(snaptrail("stats", "--session", name, "--json"))["live"]["lost"], 30, "the loss")
            if stored:
                snaptrail("snap", name)
            os.kill(recorder, signal.SIGKILL)
            p.stdin.close()
            p.wait()
            time.sleep(0.2)
            (s,) = [s for s in json.loads(snaptrail("sessions", "--json")) if s["name"] == name]
            assert s["lost"] == lost > 1000, (name, lost, s)


def test_what_cannot_be_seen_stays_and_what_is_of_an_earlier_boot_has_ended():
    interrupted(["target", "recorder"])
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    (name,) = os.listdir(live)
    pointer = os.path.join(live, name)
    with open(pointer) as f:
        whole = f.read()
    folder = re.search("^folder (.*)$", whole, re.M).group(1)

    def sessions_with(text):
        with open(pointer, "w") as f:
            f.write(text)
        p = subprocess.run([SNAPTRAIL, "sessions", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
        return json.loads(p.stdout)[0], p.stderr
    os.rename(folder, folder + "-away")  # as in another's /dev/shm
    s, said = sessions_with(re.sub("^device .*$", "device 1", whole, flags=re.M))
    assert "cannot be salvaged yet" in said and "cannot be seen from here" in said and "%s says where" % pointer in said and os.path.exists(pointer), said
    os.rename(folder + "-away", folder)
    with open(folder + "/board", "r+b") as f:  # its version
        f.seek(8)
        f.write(b"\x63")
    s, said = sessions_with(whole)
    assert "another version" in said and os.path.exists(folder), said
    s, said = sessions_with(re.sub("^boot .*$", "boot of-another-day", whole, flags=re.M))
    assert s["note"] == "the machine restarted while it was recorded" and not os.path.exists(pointer), (s, said)
