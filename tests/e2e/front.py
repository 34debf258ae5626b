"""`run` as its caller sees it: it ends, stops and goes on as its command would, whatever
it was given, and waits for no recorder that does not answer."""
import json
import os
import signal
import subprocess
import time

from lib import SNAPTRAIL, children_of, snaptrail, state, wait_for

RUN = [SNAPTRAIL, "run", "--quiet", "--store", os.path.abspath("store"), "--"]


def test_a_caller_that_ignores_its_children_gets_the_status():
    ignoring = ["env", "--ignore-signal=CHLD"]
    for command, status in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -SEGV $$"], -signal.SIGSEGV)):
        assert subprocess.run([*ignoring, *RUN, *command]).returncode == status
    (first, second) = json.loads(snaptrail("sessions", "--json", "--store", "store"))
    assert {first["exitCode"], second["exitCode"]} == {7, None} and {first["signal"], second["signal"]} == {None, signal.SIGSEGV}
    mask = [*ignoring, *RUN, "grep", "SigIgn", "/proc/self/status"]
    assert subprocess.check_output(mask) == subprocess.check_output(ignoring + mask[-3:])


def test_who_continues_the_command_continues_run_and_the_other_way_round():
    for whom in ("command", "run"):
        p = subprocess.Popen([*RUN, "sh", "-c", "kill -STOP $$; exit 4"])
        (command,) = wait_for(lambda: [c for c in children_of(p.pid) if state(c) == "T"], what="the command")
        wait_for(lambda: state(p.pid) == "T", what="run to stop")
        time.sleep(0.1)
        assert state(p.pid) == "T"
        os.kill(p.pid if whom == "run" else command, signal.SIGCONT)
        assert p.wait(timeout=10) == 4


def test_closed_standard_descriptors_stay_closed_and_nothing_goes_into_the_store():
    script = "import os; os.write(9, b' '.join(b'%d' % n for n in range(3) if not os.path.exists('/proc/self/fd/%d' % n)))"
    for closed in ([0], [1], [2], [0, 1], [0, 1, 2]):
        r, w = os.pipe()
        redirections = " ".join("%d>&-" % n for n in closed)
        session = "c" + "".join(map(str, closed))
        run = [SNAPTRAIL, "run", "--profile", "ci", "--store", "closed", "--session", session, "--"]
        p = subprocess.Popen(["sh", "-c", 'exec "$@" 9>&%d %s' % (w, redirections), "sh", *run, "/usr/bin/python3", "-c", script],
                             pass_fds=(w,))
        os.close(w)
        assert p.wait(timeout=20) == 0
        assert os.read(r, 100).decode() == " ".join(map(str, closed))
        os.close(r)
        sessions = json.loads(snaptrail("sessions", "--json", "--store", "closed"))
        (s,) = [s for s in sessions if s["name"] == session]
        assert s["snapshots"] >= 2 and s["exitCode"] == 0 and not s["note"], s
    snaptrail("verify", "--store", "closed")


def test_the_lease_holds_whatever_is_closed():
    p = subprocess.Popen(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *RUN[:-1], "--session", "one", "--", "sh", "-c", "sleep 1; exit 3"])
    wait_for(lambda: "one" in snaptrail("sessions", "--store", "store", code=(0, 1, 4)) + "", what="the session")
    again = subprocess.run([*RUN[:-1], "--session", "one", "--", "true"], stderr=subprocess.PIPE, text=True)
    assert again.returncode == 6 and "is being recorded" in again.stderr, again
    assert p.wait(timeout=20) == 3


def test_a_recorder_that_does_not_answer_is_left_behind():
    p = subprocess.Popen([*RUN[:-3], "--store", "stuck", "--", "sh", "-c",
                          "kill -STOP $(sed -n 's/^recorder //p' stuck/live/*); exit 5"], stderr=subprocess.PIPE, text=True)
    (recorder,) = wait_for(lambda: [c for c in children_of(p.pid) if state(c) == "T"], what="the recorder to stop")
    time.sleep(0.5)
    assert p.poll() is None
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=10) == 5
    os.kill(recorder, signal.SIGCONT)
    wait_for(lambda: not os.listdir("stuck/live"), what="the recorder to go on")
    (s,) = json.loads(snaptrail("sessions", "--json", "--store", "stuck"))
    assert s["exitCode"] == 5, s


def test_a_script_without_an_interpreter_runs_detached_too():
    with open("script", "w") as f:
        f.write("echo $1; exit 3\n")
    os.chmod("script", 0o755)
    p = subprocess.run([*RUN[:-1], "--detach", "--", "./script", "told"], stdout=subprocess.PIPE)
    assert (p.returncode, p.stdout) == (3, b"told\n")


def test_a_name_reaches_no_terminal_as_control_characters():
    p = subprocess.run([SNAPTRAIL, "run", "--store", "store", "--session", "a\nb\033[31m", "--", "true"], stderr=subprocess.PIPE)
    assert p.returncode == 0 and b"recorded a\\x0ab\\x1b[31m: " in p.stderr, p.stderr


def test_the_recorder_holds_no_descriptor_of_the_caller_s():
    r, w = os.pipe()
    high = 2000
    subprocess.run(["sh", "-c", "ulimit -n 4096; exec /usr/bin/python3 -c 'import os, sys; os.dup2(%d, %d); os.close(%d); os.set_inheritable(%d, True); "
                    "os.execv(sys.argv[1], sys.argv[1:])' \"$@\"" % (w, high, w, high), "sh", *RUN, "/usr/bin/python3", "-c",
                    "import os\nif os.fork() == 0: os.closerange(0, 4096); import time; time.sleep(5)"], pass_fds=(w,), check=True)
    os.close(w)
    began = time.monotonic()
    assert os.read(r, 1) == b"" and time.monotonic() - began < 4
