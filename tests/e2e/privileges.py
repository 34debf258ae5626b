"""Programs that drop their privileges, change their root, or live in
namespaces of their own; and those that cannot be injected."""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

from lib import (BUILD, PLAIN, PRELOAD, SNAPTRAIL, alive, differences, log, need, proc_note, record, run_argv, show, show_at,
                 skip, snaptrail, steady_note, supervised, wait_for)

HOSTS = ("run", "plain")
PYTHON = "/usr/bin/python3"
NOBODY = 65534


def root_only():
    if os.geteuid():
        skip("not root")


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(x) for x in f.read().split()]


def name_of(pid):
    with open("/proc/%d/comm" % pid) as f:
        return f.read().rstrip("\n")


def namespaces_work():
    root_only()
    if subprocess.run(["unshare", "-pm", "--fork", "true"], stderr=subprocess.DEVNULL, timeout=20).returncode:
        skip("no namespaces here")


class Started:
    """A program under a recorder; `pid` is its own, seen from here."""

    def __init__(self, *command, **kw):
        self.p = subprocess.Popen(run_argv(*command), **kw)
        self.pid = self.p.pid if PLAIN else wait_for(self.child, what="the target")

    def child(self):
        for pid in children(self.p.pid):
            if os.path.realpath("/proc/%d/exe" % pid) != os.path.realpath(SNAPTRAIL):
                return pid
        return None


# ---- privileges ----

def test_a_program_that_becomes_another_user_reports_on_in_new_rings_too():
    root_only()
    p = record(PYTHON, "-c", "import os, threading\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
               "def work(n):\n"
               "    for i in range(3000): os.close(os.open('/etc/passwd', 0))\n"
               "    os.putenv('DONE_%d' % n, 'yes')\n"
               "t = [threading.Thread(target=work, args=(n,)) for n in range(3)]\n"
               "[x.start() for x in t]; [x.join() for x in t]")
    assert p.returncode == 0, p
    events = log()
    for n in range(3):
        assert any(e["key"].endswith("/env/DONE_%d" % n) for e in events), n
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert not s["lost"], s


@supervised
def test_a_server_executed_as_another_user_is_recorded():
    root_only()
    need("redis-server", "redis-cli", "setpriv")
    sock = os.path.join(os.environ["TMPDIR"], "r.sock")
    os.chmod(os.environ["TMPDIR"], 0o777)
    os.chmod(".", 0o777)
    r = Started("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "redis-server", "--port", "0",
                "--unixsocket", sock, "--dir", os.getcwd(), "--appendonly", "yes", stdout=subprocess.DEVNULL)
    wait_for(lambda: os.path.exists(sock))
    cli = ["redis-cli", "-s", sock]
    subprocess.run(cli + ["debug", "populate", "2000"], stdout=subprocess.DEVNULL, timeout=20)
    subprocess.run(cli + ["bgsave"], stdout=subprocess.DEVNULL, timeout=20)
    time.sleep(0.3)
    assert os.stat("/proc/%d" % r.pid).st_uid == NOBODY
    n = steady_note(r.pid)
    subprocess.run(cli + ["shutdown", "nosave"], stdout=subprocess.DEVNULL, timeout=20)
    assert r.p.wait(20) == 0
    bad = differences(n, show_at(n["time"]))
    assert not bad, bad
    assert {"setpriv", "redis-server"} & {a.get("name") for a in show("latest")["agents"].values()}
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert s["exitCode"] == 0 and not s["lost"], s


@supervised
def test_postgres_started_by_root_as_its_user_is_recorded_in_all_processes():
    root_only()
    need("setpriv")
    found = sorted(d for d in (os.listdir("/usr/lib/postgresql") if os.path.isdir("/usr/lib/postgresql") else []))
    if not found:
        skip("no postgres")
    binaries = "/usr/lib/postgresql/%s/bin" % found[-1]
    os.chmod(os.environ["TMPDIR"], 0o777)
    data, sock = os.path.join(os.environ["TMPDIR"], "pg"), os.environ["TMPDIR"]
    os.mkdir(data)
    os.chown(data, NOBODY, NOBODY)
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run(as_user + [binaries + "/initdb", "-D", data, "-A", "trust", "-U", "pg", "-N"],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=50, cwd="/")
    r = Started(*as_user, binaries + "/postgres", "-D", data, "-k", sock, "-c", "listen_addresses=", "-c", "fsync=off",
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    psql = [binaries + "/psql", "-h", sock, "-U", "pg", "-At", "postgres", "-c"]

    def answers():
        return subprocess.run(psql + ["select 1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=20).stdout == b"1\n"
    wait_for(answers)
    held = subprocess.Popen(psql + ["create table t as select generate_series(1, 20000) n; select count(*) from t; "
                                    "select pg_sleep(2)"], stdout=subprocess.DEVNULL)
    time.sleep(0.7)
    # Shared memory is opened and dropped by the workers as they please: names and threads, then what is open.
    notes = []
    for pid in [r.pid] + children(r.pid):
        try:
            notes.append(steady_note(pid))
        except OSError:
            pass  # a worker that has gone
    held.wait(20)
    os.kill(r.pid, signal.SIGINT)
    assert r.p.wait(30) == 0
    bad = []
    for n in notes:
        bad += ["p%d %s" % (n["pid"], d) for d in differences(n, show_at(n["time"]))]
    assert len(notes) >= 6 and not bad, (len(notes), bad[:5])
    ended = [a for a in show("latest")["agents"].values() if a["type"] == "process"]
    assert len(ended) > 8 and all("endedAt" in a for a in ended)
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert not s["lost"], s


# ---- roots and mounts ----

def jail():
    """A root with a shell and nothing else."""
    os.makedirs("jail/bin")
    shell = os.path.realpath(shutil.which("dash") or "/bin/sh")
    files = [shell] + [w for line in subprocess.run(["ldd", shell], stdout=subprocess.PIPE, text=True, timeout=20).stdout.splitlines()
                       for w in line.split() if w.startswith("/")]
    for f in files:
        os.makedirs("jail" + os.path.dirname(f), exist_ok=True)
        shutil.copy(f, "jail" + f)
    shutil.copy(shell, "jail/bin/sh")
    return os.path.abspath("jail")


def test_a_program_below_another_root_says_what_it_says_plain():
    root_only()
    command = ["chroot", jail(), "/bin/sh", "-c", "echo inside; exec /bin/sh -c 'echo again >&2; exit 4'"]
    bare = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    p = record(*command)
    assert (bare.returncode, bare.stdout, bare.stderr) == (4, b"inside\n", b"again\n")
    assert (p.returncode, p.stdout, p.stderr) == (4, b"inside\n", b"again\n"), p
    assert any(a.get("name") == "chroot" or a.get("commandLine", "").startswith("chroot") or a["type"] == "process"
               for a in show("latest")["agents"].values())


def test_a_small_shared_memory_is_enough():
    namespaces_work()
    script = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'
    p = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *run_argv("sh", "-c", "/bin/true; echo ok")],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"ok\n", b""), p
    (s,) = json.loads(snaptrail("sessions", "--json"))
    assert s["changes"] > 5 and not s["lost"], s


def test_a_read_only_root_is_no_hindrance():
    namespaces_work()
    script = 'mount --bind "$TMPDIR" "$TMPDIR" && mount -o remount,ro,bind / / && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh"]
    p = subprocess.run(command + run_argv("sh", "-c", "touch /etc/x 2>/dev/null; echo $?"),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, cwd="/")
    assert (p.returncode, p.stdout, p.stderr) == (0, b"1\n", b""), p
    assert len(show("latest")["agents"]) > 2


# ---- pid namespaces ----

INSIDE = """
import os, subprocess, sys, threading, time
f = os.open('/etc/passwd', os.O_RDONLY)
t = threading.Thread(target=time.sleep, args=(60,), daemon=True); t.start()
kids = [subprocess.Popen(['sleep', '60']) for _ in range(2)]
r = os.fork()
if r == 0:
    os.close(f); os.open('/etc/group', os.O_RDONLY); time.sleep(60); os._exit(0)
open('ready', 'w').write(str(os.getpid()))
sys.stdin.readline()
for k in kids: k.kill(); k.wait()
os.kill(r, 9); os.waitpid(r, 0)
os.execv('/bin/sh', ['sh', '-c', 'exit 3'])
"""


@supervised
def test_processes_of_another_pid_namespace_are_shown_by_the_numbers_seen_from_here():
    namespaces_work()
    with open("inside.py", "w") as f:
        f.write(INSIDE)
    r = Started("unshare", "-p", "--fork", "--mount-proc", "sh", "-c", "/usr/bin/python3 inside.py; exit 5",
                stdin=subprocess.PIPE)
    wait_for(lambda: os.path.exists("ready") and os.path.getsize("ready"))
    with open("ready") as f:
        inner = int(f.read())
    (shell,) = children(r.pid)
    (python,) = children(shell)
    assert inner != python and inner < 100
    time.sleep(0.3)
    family = [r.pid, shell, python] + children(python)
    assert len(family) == 6
    notes = [steady_note(pid) for pid in family]
    notes[2]["children"] = family[3:]
    live = show("live")
    r.p.stdin.write(b"go\n")
    r.p.stdin.close()
    assert r.p.wait(20) == 5
    for n in notes:
        bad = differences(n, show_at(n["time"]))
        assert not bad, (n["pid"], bad)
    assert not differences(notes[2], live)
    agents = show("latest")["agents"]
    assert agents["p%d" % python]["exitCode"] == 3 and agents["p%d" % shell]["exitCode"] == 5
    assert agents["p%d" % python]["execCount"] >= 2
    codes = [agents["p%d" % k].get("signal") for k in family[3:]]
    assert codes == ["SIGKILL"] * 3, codes


@supervised
def test_two_namespaces_with_the_same_pids_are_kept_apart():
    namespaces_work()
    script = ("for i in 1 2; do unshare -p --fork sh -c 'exec 7</etc/hostname; sleep 1; exec sh -c \"exit '$i'\"' & done; "
              "wait; exit 0")
    assert record("sh", "-c", script).returncode == 0
    agents = [a for a in show("latest")["agents"].values() if a["type"] == "process"]
    codes = sorted(a.get("exitCode") for a in agents if a.get("exitCode"))
    # unshare hands its child's status on.
    assert codes == [1, 1, 2, 2], codes
    assert all("endedAt" in a for a in agents)


@supervised
def test_a_short_life_in_another_namespace_is_not_taken_for_somebody_else():
    namespaces_work()
    p = record("unshare", "-p", "--fork", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do /bin/true; done; echo done")
    assert p.stdout == b"done\n"
    agents = [a for a in show("latest")["agents"].values() if a["type"] == "process"]
    assert len([a for a in agents if a.get("name") == "true"]) == 8
    for a in agents:
        assert a["pid"] > 8 and "endedAt" in a, a


# ---- service managers ----

@supervised
def test_a_service_run_with_detach_speaks_to_its_manager_from_its_own_pid():
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("notify")
    manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    manager.settimeout(20)
    env = dict(os.environ, NOTIFY_SOCKET=os.path.abspath("notify"))
    service = ("import os, socket, signal, time\n"
               "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])\n"
               "signal.signal(signal.SIGTERM, lambda *a: (s.send(b'STOPPING=1'), os._exit(0)))\n"
               "s.send(b'READY=1\\nSTATUS=serving\\nMAINPID=%d' % os.getpid())\n"
               "time.sleep(60)")
    p = subprocess.Popen(run_argv(PYTHON, "-c", service, options=("--detach",)), env=env, stdout=subprocess.DEVNULL)
    data, anc, _, _ = manager.recvmsg(500, 200)
    pid, _, _ = struct.unpack("iII", [d for level, kind, d in anc if kind == socket.SCM_CREDENTIALS][0])
    assert pid == p.pid and b"READY=1" in data and b"MAINPID=%d" % p.pid in data, (pid, p.pid, data)
    assert name_of(p.pid).startswith("python3") and not children(p.pid)
    p.terminate()
    assert manager.recv(100) == b"STOPPING=1"
    assert p.wait(20) == 0
    wait_for(lambda: not json.loads(snaptrail("sessions", "--json"))[0]["live"])
    told = [e for e in log() if "/notify/" in e["key"]]
    assert {e["key"].split("/notify/")[1] for e in told} >= {"READY", "STATUS", "STOPPING"}, told
    root = show("latest")["agents"]["p%d" % p.pid]
    assert root["exitCode"] == 0, root


# ---- what cannot be injected ----

def refused(path, word):
    p = subprocess.run([SNAPTRAIL, "run", "--", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    assert p.returncode == 7 and word in p.stderr and not p.stdout, p
    d = subprocess.run([SNAPTRAIL, "doctor", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    assert d.returncode == 7 and word in d.stdout + d.stderr, d


def elf_with(**patches):
    with open("/bin/true", "rb") as f:
        b = bytearray(f.read())
    for at, data in patches.values():
        b[at:at + len(data)] = data
    with open("patched", "wb") as f:
        f.write(b)
    os.chmod("patched", 0o755)
    return os.path.abspath("patched")


@supervised
def test_a_program_of_another_word_size_is_refused_with_7():
    refused(elf_with(word=(4, b"\1")), b"32")


@supervised
def test_a_program_of_another_libc_is_refused_with_7():
    with open("/bin/true", "rb") as f:
        b = f.read()
    at = b.index(b"/lib64/ld-linux-x86-64.so.2")
    other = b"/lib/ld-musl-x86_64.so.1"
    refused(elf_with(interp=(at, other + bytes(27 - len(other)))), b"musl")


@supervised
def test_a_static_program_is_recorded_from_proc_alone_when_asked():
    with open("static.c", "w") as f:
        f.write('#include <fcntl.h>\n#include <unistd.h>\n#include <stdio.h>\n'
                'int main(void) { open("/etc/passwd", O_RDONLY); puts("here"); fflush(stdout); char c; '
                'return read(0, &c, 1) == 1 ? 6 : 1; }\n')
    if subprocess.run(["cc", "-static", "static.c", "-o", "static"], stderr=subprocess.DEVNULL).returncode:
        skip("no static libc")
    refused(os.path.abspath("static"), b"static")
    p = subprocess.Popen(run_argv(os.path.abspath("static"), options=("--proc-only", "--interval", "50ms")),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"here\n"
    time.sleep(0.4)
    p.stdin.write(b"x")
    p.stdin.close()
    assert p.wait(20) == 6
    snapshots = json.loads(snaptrail("ls", "s", "--json"))
    opened = [r["allocation"]["path"] for s in snapshots for r in show(s["id"])["resources"].values()]
    root = [a for a in show("latest")["agents"].values() if a["type"] == "process"]
    assert "/etc/passwd" in opened and len(root) == 1 and root[0]["exitCode"] == 6, (opened, root)
