"""Without a supervisor: LD_PRELOAD alone, the engine's thread in the target."""
import json
import os
import re
import signal
import socket
import subprocess
import time

from lib import (PRELOAD, SNAPTRAIL, alive, need, plain_argv, program, show, snaptrail, steady_note, wait_for)
from survival import acknowledged, all_commands_work, counted, every_value_is_there

PYTHON = "/usr/bin/python3"


def plain(*command, session="s", options=(), **kw):
    kw.setdefault("stdout", subprocess.PIPE)
    kw.setdefault("stderr", subprocess.PIPE)
    kw.setdefault("timeout", 40)
    return subprocess.run(plain_argv(*command, session=session, options=options), **kw)


def sessions():
    return json.loads(snaptrail("sessions", "--json", code=(0, 1, 4)) or "[]")


def ended_as(*command, **kw):
    """The recorded status of a session's first process."""
    p = plain(*command, **kw)
    (s,) = sessions()
    root = [a for a in show("latest")["agents"].values() if a["type"] == "process" and a["pid"] == s["pid"]]
    assert len(root) == 1, root
    return p.returncode, s, root[0]


def test_a_status_returned_from_main_is_recorded():
    code, s, root = ended_as("sh", "-c", "exit 3")
    assert code == 3 and root["exitCode"] == 3 and s["exitCode"] == 3, (s, root)


def test_a_status_given_to_exit_in_libc_is_recorded():
    code, _, root = ended_as("ls", "/no/such/folder")
    assert code == 2 and root["exitCode"] == 2 and root["status"] == "terminated", root


def test_a_status_given_to_underscore_exit_is_recorded():
    code, _, root = ended_as(PYTHON, "-c", "import os; os._exit(4)")
    assert code == 4 and root["exitCode"] == 4, root


def test_what_exit_handlers_do_is_recorded():
    plain(PYTHON, "-c", "import atexit, os, ctypes\n"
          "atexit.register(lambda: ctypes.CDLL(None).setenv(b'LAST_WORDS', b'said', 1))")
    log = snaptrail("log", "--json", "--session", "s")
    assert "LAST_WORDS" in log


def test_the_engines_thread_shows_itself_as_a_recorder():
    p = plain(PYTHON, "-c", "import os; print(len(os.listdir('/proc/self/task')), os.getpid())")
    threads, pid = map(int, p.stdout.split())
    state = show("latest")
    own = [a for a in state["agents"].values() if a["type"] == "recorder"]
    assert threads == 2 and len(own) == 1 and own[0]["pid"] == pid, own


def test_the_engine_has_no_descriptor_in_the_target_and_little_address_space():
    code = ("import os, re\nprint(sorted(os.listdir('/proc/self/fd')))\n"
            "print(int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read()).group(1)))")
    out = plain(PYTHON, "-c", code).stdout.splitlines()
    bare = subprocess.run([PYTHON, "-c", code], stdout=subprocess.PIPE, timeout=20).stdout.splitlines()
    assert out[0] == bare[0], (out, bare)
    # The stage is a mapping of 32 MiB; an arena of malloc would be 64 more.
    assert int(out[1]) - int(bare[1]) < 50 * 1024, (out, bare)


def test_a_killed_target_loses_nothing_that_was_told():
    for profile in ("default", "forensic"):
        os.environ["SNAPTRAIL_STORE"] += profile
        if os.path.exists("acknowledged"):
            os.unlink("acknowledged")
        p = subprocess.Popen(plain_argv(program("counter"), "acknowledged", "1", options=("--profile", profile)))
        wait_for(lambda: os.path.exists("acknowledged") and os.path.getsize("acknowledged") and all(acknowledged()))
        time.sleep(0.4)
        p.kill()
        p.wait()
        (last,) = acknowledged()
        all_commands_work()
        values = counted([json.loads(x) for x in snaptrail("log", "--json", "--session", "s").splitlines()])
        assert last <= values[-1] <= last + 1, (last, values[-1:])
        if profile == "forensic":
            every_value_is_there(last)


def test_ten_kills_at_odd_moments_lose_nothing():
    for i in range(10):
        os.environ["SNAPTRAIL_STORE"] = os.path.join(os.environ["TMPDIR"], "k%d" % i)
        if os.path.exists("acknowledged"):
            os.unlink("acknowledged")
        p = subprocess.Popen(plain_argv(program("counter"), "acknowledged", "1",
                                        options=("--profile", "forensic", "--interval", "10ms")))
        wait_for(lambda: os.path.exists("acknowledged") and os.path.getsize("acknowledged") and all(acknowledged()))
        time.sleep(0.013 * i)
        p.kill()
        p.wait()
        every_value_is_there(acknowledged()[0])


def test_chains_of_exec_keep_one_session_and_one_process():
    with open("chain.sh", "w") as f:
        f.write('[ $1 = 0 ] && { echo end; exit 0; }; exec sh chain.sh $(($1 - 1))')
    assert plain("sh", "chain.sh", "12").stdout == b"end\n"
    (s,) = sessions()
    root = show("latest")["agents"]["p%d" % s["pid"]]
    assert s["exitCode"] == 0 and root["execCount"] == 13 and not s["lost"], (s, root)
    snaptrail("verify")


def test_an_exec_waits_for_the_record_that_is_written():
    """It would end the engine's thread in its middle, and verify would speak of torn tails."""
    for s in "abc":
        assert plain(program("spoken"), "execs", "120", session=s).returncode == 0
    for s in sessions():
        assert s["exitCode"] == 0 and not s["lost"] and s["snapshots"] > 1, s
    snaptrail("verify")


def test_a_child_takes_over_when_the_host_has_ended():
    p = plain("sh", "-c", "(sleep 0.3; export LATE=1; /bin/true; touch done) >/dev/null 2>&1 &", session="s")
    assert p.returncode == 0
    assert [(s["live"], s["unattended"]) for s in sessions()] in ([(False, True)], [(True, False)])
    wait_for(lambda: os.path.exists("done"))
    wait_for(lambda: not sessions()[0]["unattended"] and not sessions()[0]["live"])
    (s,) = sessions()
    names = {a.get("name") for a in show("latest")["agents"].values() if a["type"] == "process"}
    assert {"sh", "sleep", "true", "touch"} <= names and s["exitCode"] == 0, (names, s)
    living = [a for a in show("latest")["agents"].values() if "endedAt" not in a]
    assert not living, living


def test_a_daemon_that_leaves_its_host_behind_is_recorded_to_its_end():
    code = ("import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
            "n = os.open('/dev/null', 2)\nfor i in (0, 1, 2): os.dup2(n, i)\n"
            "for i in range(100): os.putenv('N', str(i)); time.sleep(0.005)\n"
            "os.putenv('AT_THE', 'end'); open('done', 'w').write(str(os.getppid())); os._exit(0)")
    assert plain(PYTHON, "-c", code).returncode == 0
    (s,) = wait_for(lambda: [x for x in sessions() if x["live"]])
    with open("/proc/%d/cmdline" % s["recorderPid"], "rb") as f:
        assert b"attend" in f.read()
    assert sorted(os.readlink("/proc/%d/fd/%d" % (s["recorderPid"], fd)) for fd in (0, 1, 2)) == ["/dev/null"] * 3
    assert snaptrail("snap", "s")
    wait_for(lambda: os.path.exists("done"))
    wait_for(lambda: not sessions()[0]["live"])
    (s,) = sessions()
    log = snaptrail("log", "--json", "--session", "s")
    assert "AT_THE" in log and s["exitCode"] == 0 and not s["lost"] and not s["unattended"], s
    assert all("endedAt" in a for a in show("latest")["agents"].values())
    assert subprocess.run([SNAPTRAIL, "attend", "s"], stderr=subprocess.PIPE, timeout=20).returncode == 4


def test_a_child_takes_over_when_the_host_was_killed():
    code = ("import os, time, subprocess\n"
            "if os.fork() == 0:\n"
            "    time.sleep(0.3); subprocess.run(['/bin/true'])\n"
            "    import threading; t = threading.Thread(target=os.open, args=('/etc/passwd', 0)); t.start(); t.join()\n"
            "    open('done', 'w').write('x'); os._exit(0)\n"
            "time.sleep(0.1); os.kill(os.getpid(), 9)\n")
    assert plain(PYTHON, "-c", code).returncode == -signal.SIGKILL
    wait_for(lambda: os.path.exists("done"))
    time.sleep(0.1)
    all_commands_work()
    opened = [json.loads(x) for x in snaptrail("log", "--json", "--session", "s").splitlines() if "/etc/passwd" in x]
    assert opened


def test_a_storm_of_forks_is_recorded_by_the_one_host():
    p = plain("bash", "-c", "for i in $(seq 300); do (:) & done; wait; /bin/true")
    assert p.returncode == 0
    (s,) = sessions()
    agents = show("latest")["agents"].values()
    forked = [a for a in agents if a["type"] == "process" and a.get("parent") == "p%d" % s["pid"]]
    assert len(forked) >= 300 and not s["lost"], (len(forked), s)
    assert all("endedAt" in a for a in agents)


def test_a_main_that_calls_pthread_exit_is_recorded_to_its_last_thread():
    code, s, root = ended_as(program("guest"), "main_leaves")
    assert code == 0 and not s["lost"], (code, s)
    snaptrail("verify")


def test_two_programs_of_one_session_name_share_it():
    a = subprocess.Popen(plain_argv(PYTHON, "-c", "input(); open('/etc/passwd')"), stdin=subprocess.PIPE)
    wait_for(lambda: [s for s in sessions() if s["live"]])
    b = plain("sh", "-c", "/bin/true; exit 5")
    assert b.returncode == 5
    a.communicate(b"\n", timeout=20)
    assert a.returncode == 0
    (s,) = sessions()
    codes = {(x["name"], x.get("exitCode")) for x in show("latest")["agents"].values() if x["type"] == "process"}
    assert {("python3", 0), ("sh", 5), ("true", 0)} <= codes, codes


def test_a_bad_configuration_leaves_the_program_alone_and_is_told_by_sessions():
    with open("bad.ini", "w") as f:
        f.write("[snapshot]\nintervall = 3s\n")
    env = dict(os.environ, SNAPTRAIL_CONFIG=os.path.abspath("bad.ini"))
    p = plain("echo", "hello", env=env)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"hello\n", b"")
    (s,) = sessions()
    assert "bad.ini:2" in s["note"] and "interval" in s["note"], s
    assert "bad.ini:2" in snaptrail("doctor", "echo") and "bad.ini:2" not in snaptrail("doctor", "true")
    p = plain("echo", "hello", env=dict(env, SNAPTRAIL_VERBOSE="1"))
    assert p.stdout == b"hello\n" and re.fullmatch(rb"snaptrail: .*bad\.ini:2.*\n", p.stderr), p.stderr


def test_a_store_that_cannot_be_made_leaves_the_program_alone():
    env = dict(os.environ, SNAPTRAIL_STORE="/proc/none")
    p = plain("echo", "hello", env=env)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"hello\n", b"")
    assert b"/proc/none" in plain("echo", env=dict(env, SNAPTRAIL_VERBOSE="1")).stderr


def test_looking_at_recordings_with_the_preload_set_records_nothing():
    plain("true")
    env = dict(os.environ, LD_PRELOAD=PRELOAD)
    for verb in ("sessions", "ls", "stats"):
        assert subprocess.run([SNAPTRAIL, verb], env=env, stdout=subprocess.PIPE, timeout=20).returncode == 0
    assert len(sessions()) == 1


def test_a_program_that_drops_its_privileges_is_recorded_to_its_end():
    if os.geteuid():
        return
    os.chmod(os.environ["TMPDIR"], 0o755)
    p = plain(PYTHON, "-c", "import os, time\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
              "os.putenv('AFTER', 'the drop'); f = os.open('/etc/passwd', 0); time.sleep(0.3)\n"
              "for i in range(3000): os.close(os.open('/etc/group', 0))\n"
              "os.putenv('AT_THE', 'end')", options=("--interval", "50ms"))
    assert p.returncode == 0, p
    log = snaptrail("log", "--json", "--session", "s")
    assert "AFTER" in log and "AT_THE" in log
    (s,) = sessions()
    assert s["exitCode"] == 0 and not s["lost"], s
    snaptrail("verify")


def test_a_chroot_does_not_lose_the_store():
    if os.geteuid():
        return
    os.mkdir("jail")
    p = plain(PYTHON, "-c", "import os, time\nos.chroot('jail'); os.chdir('/')\n"
              "os.putenv('INSIDE', 'jail'); time.sleep(0.2); os.putenv('AT_THE', 'end'); os._exit(7)",
              options=("--interval", "40ms"))
    assert p.returncode == 7, p
    (s,) = sessions()
    log = snaptrail("log", "--json", "--session", "s")
    assert "INSIDE" in log and "AT_THE" in log and s["exitCode"] == 7, s


def test_unshare_of_namespaces_steps_aside_and_goes_on():
    need("unshare")
    p = plain("unshare", "-Ur", "sh", "-c", "id -u; /bin/true")
    assert (p.returncode, p.stdout) == (0, b"0\n"), p
    names = {a.get("name") for a in show("latest")["agents"].values() if a["type"] == "process"}
    assert {"true", "id"} <= names or {"sh", "true"} <= names, names


def test_a_full_ring_folder_or_store_leaves_the_program_alone():
    p = plain(PYTHON, "-c", "import os\nfor i in range(20000): os.close(os.open('/etc/passwd', 0))\nprint('ok')")
    assert p.stdout == b"ok\n"


def test_nothing_is_left_in_the_rings_folder():
    folder = "/dev/shm/snaptrail-%d" % os.geteuid()

    def mine():
        out = []
        for d in os.listdir(folder) if os.path.isdir(folder) else []:
            try:
                if os.environ["TMPDIR"] in os.readlink(os.path.join(folder, d, "pointer")):
                    out.append(d)
            except OSError:
                pass
        return out
    plain("sh", "-c", "ls / | cat; /bin/true")
    assert not mine(), mine()
    p = subprocess.Popen(plain_argv("sleep", "30"))
    wait_for(mine)
    p.kill()
    p.wait()
    snaptrail("sessions")
    assert not mine(), mine()
