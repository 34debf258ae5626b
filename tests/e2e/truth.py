"""The kernel is the oracle: at quiet instants what snaptrail shows for
descriptors, threads, children, folder and names is what /proc showed."""
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

from lib import (OWN_THREADS, PLAIN, SNAPTRAIL, assert_true_to, differences, limit, need, program, record, run_argv, show,
                 show_at, skip, steady_note, supervised, wait_for)


HOSTS = ("run", "plain")


def read_notes(path):
    notes = []
    with open(path, errors="surrogateescape") as f:
        for line in f:
            n = json.loads(line)
            n["fds"] = {int(k): v for k, v in n["fds"].items()}
            n["threads"] = {int(k): v for k, v in n["threads"].items()}
            notes.append(n)
    return notes


def check_notes(notes, at_least, **kw):
    """Each instant is shown once and compared with all that was noted of it."""
    assert len(notes) >= at_least, "only %d notes" % len(notes)
    states, bad = {}, []
    for n in notes:
        if n["time"] not in states:
            states[n["time"]] = show_at(n["time"])
        found = differences(n, states[n["time"]], **kw)
        if found:
            bad.append("p%d, note %d of %d: %s" % (n["pid"], len(states), len(notes), ", ".join(found[:4])))
    assert not bad, "%d of %d notes differ: %s" % (len(bad), len(notes), "; ".join(bad[:3]))


def play(seed, threads, rounds, operations, options=()):
    os.makedirs("play", exist_ok=True)
    if os.path.exists("notes"):
        os.unlink("notes")
    p = record(program("truth"), "notes", os.path.abspath("play"), str(seed), str(threads), str(rounds),
               str(operations), options=options, timeout=40)
    assert p.returncode == 0, (p.returncode, p.stderr)
    return read_notes("notes")


def test_one_thread_is_shown_as_proc_showed_it():
    check_notes(play(1, 0, 20, 12), 20)


def test_four_threads_at_once_are_shown_as_proc_showed_them():
    check_notes(play(2, 4, 15, 40), 15)


def test_many_short_rounds_are_each_right():
    check_notes(play(3, 3, 40, 3), 40)


@limit(120)
def test_thousands_of_operations_between_two_looks_lose_nothing():
    check_notes(play(4, 4, 6, 4000), 6)


def test_sessions_with_snapshots_in_between_are_right_too():
    check_notes(play(5, 3, 25, 30, options=("--interval", "20ms")), 25)


@limit(120)
def test_a_look_into_proc_in_the_middle_of_calls_changes_nothing():
    for seed in (7, 8, 9):
        os.environ["SNAPTRAIL_STORE"] += str(seed)
        check_notes(play(seed, 4, 25, 60, options=("--interval", "5ms")), 25)


def test_the_forensic_profile_shows_the_same():
    check_notes(play(6, 3, 15, 40, options=("--profile", "forensic")), 15)


# ---- small stories in Python: each step is one fact ----

def story(script, options=()):
    """Runs a script in a recorded python3; note() in it notes its own /proc."""
    prelude = """
import os, sys, json, time, socket, threading
_notes = []
def note():
    fds = {}
    names = [n for n in os.listdir('/proc/self/fd')]
    for n in names:
        try:
            fds[int(n)] = os.readlink('/proc/self/fd/' + n)
        except OSError:
            pass  # the listing's own
    time.sleep(0.004)
    t = time.clock_gettime_ns(time.CLOCK_REALTIME)
    time.sleep(0.004)
    threads = {int(x): open('/proc/self/task/%s/comm' % x).read()[:-1] for x in os.listdir('/proc/self/task')}
    kids = [int(c) for x in threads for c in open('/proc/self/task/%d/children' % x).read().split()]
    _notes.append(dict(pid=os.getpid(), time=t, fds=fds, threads=threads, children=kids, cwd=os.getcwd()))
"""
    with open("story.py", "w") as f:
        f.write(prelude + script + "\njson_out = open('notes', 'a')\n"
                "for n in _notes: json_out.write(json.dumps(n) + chr(10))\n")
    p = record("/usr/bin/python3", "story.py", options=options)
    assert p.returncode == 0, p.stderr.decode(errors="replace")[-600:]
    return read_notes("notes")


def test_a_closed_descriptor_leaves_the_state():
    notes = story("f = os.open('/etc/passwd', os.O_RDONLY); note(); os.close(f); note()")
    check_notes(notes, 2)
    assert len(notes[0]["fds"]) == len(notes[1]["fds"]) + 1


def test_a_descriptor_duplicated_over_another_takes_its_place():
    check_notes(story("""
a = os.open('/etc/passwd', os.O_RDONLY); b = os.open('/etc/group', os.O_RDONLY)
note(); os.dup2(a, b); note(); os.dup2(b, 77); note(); os.close(a); note()"""), 4)


def test_a_range_that_is_closed_leaves_the_state():
    check_notes(story("""
fds = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(30)]
note(); os.closerange(fds[5], fds[20]); note()"""), 2)


def test_close_range_and_closefrom_of_libc_leave_the_state():
    check_notes(story("""
import ctypes
libc = ctypes.CDLL(None)
fds = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(30)]
note(); libc.close_range(fds[20], fds[22], 0); note(); libc.closefrom(fds[10]); note()"""), 3)


def test_close_range_that_only_marks_close_on_exec_closes_at_exec():
    check_notes(story("""
import ctypes
fds = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(4)]
for f in fds: os.set_inheritable(f, True)
ctypes.CDLL(None).close_range(fds[1], fds[2], 4)
note()
if os.environ.get('AGAIN') is None:
    out = open('notes', 'a'); out.write(json.dumps(_notes[0]) + chr(10)); out.close()
    os.environ['AGAIN'] = '1'
    os.execv('/usr/bin/python3', ['python3', 'story.py'])
"""), 2)


def test_exec_keeps_the_process_and_closes_what_is_marked():
    notes = story("""
if os.environ.get('AGAIN') is None:
    keep = os.open('/etc/passwd', os.O_RDONLY); os.set_inheritable(keep, True)
    lose = os.open('/etc/group', os.O_RDONLY)
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    note()
    out = open('notes', 'a'); out.write(json.dumps(_notes[0]) + chr(10)); out.close()
    os.environ['AGAIN'] = '1'
    os.execv('/usr/bin/python3', ['python3', 'story.py'])
note()""")
    check_notes(notes, 2)
    assert len(notes[0]["threads"]) == 2 + OWN_THREADS and len(notes[1]["threads"]) == 1 + OWN_THREADS


def test_what_an_image_inherits_is_right_at_once():
    notes = story("""
n = int(os.environ.get('AGAIN', '0'))
if n:
    note()
    out = open('notes', 'a'); out.write(json.dumps(_notes[0]) + chr(10)); out.close()
    _notes.clear()
os.closerange(3, 400)
if n == 0:
    os.mkfifo('fifo'); s = socket.socket(socket.AF_UNIX); s.bind('bound'); s.close()
kinds = [
    lambda: [os.open('/dev/zero', os.O_RDONLY), *os.pipe(), os.dup(socket.socket().detach())],
    lambda: [os.open('/dev/zero', os.O_RDONLY), os.open('/dev/null', os.O_RDWR), os.dup2(os.pipe()[0], 70)],
    lambda: [os.open('/dev/zero', os.O_RDONLY), os.dup2(os.open('/dev/null', os.O_RDWR), 255)],
    lambda: [os.dup2(os.pipe()[0], 64), os.dup2(os.pipe()[0], 256), os.dup2(1, 300)],
    lambda: [os.open('fifo', os.O_RDWR), os.open('bound', os.O_PATH)],
    lambda: [os.eventfd(0), os.open('.', os.O_RDONLY), os.open('/etc/passwd', os.O_RDONLY)],
]
if n < len(kinds):
    for fd in kinds[n](): os.set_inheritable(fd, True)
    os.environ['AGAIN'] = str(n + 1)
    os.execv('/usr/bin/python3', ['python3', 'story.py'])
""")
    check_notes(notes, 6)


def test_a_renamed_open_file_has_its_new_name_after_a_snapshot():
    notes = story("""
open(os.getcwd() + '/one', 'w').close()
f = os.open(os.getcwd() + '/one', os.O_RDONLY)
note(); os.rename('one', 'two'); time.sleep(0.15); note()""", options=("--interval", "40ms"))
    check_notes(notes, 2)
    assert any(p.endswith("/two") for p in notes[1]["fds"].values())


def test_a_removed_open_file_is_shown_as_deleted_after_a_snapshot():
    check_notes(story("""
f = os.open(os.getcwd() + '/gone', os.O_RDWR | os.O_CREAT)
note(); os.unlink('gone'); time.sleep(0.15); note()""", options=("--interval", "40ms")), 2)


def test_a_relative_path_behind_a_symlink_is_right_after_a_snapshot():
    check_notes(story("""
os.makedirs('real/deep'); os.symlink('real', 'link'); open('real/deep/f', 'w').close()
os.chdir('link/deep'); f = os.open('../deep/./f', os.O_RDONLY)
time.sleep(0.15); note(); os.chdir(os.environ['TMPDIR'] + '/w')""", options=("--interval", "40ms")), 1)


def test_relative_paths_through_dot_dot_are_right_at_once():
    check_notes(story("""
os.makedirs('a/b'); open('a/f', 'w').close()
os.chdir('a/b'); f = os.open('../f', os.O_RDONLY); note(); os.chdir('../..'); note()"""), 2)


def test_fchdir_moves_the_process():
    check_notes(story("d = os.open('/usr/lib', os.O_RDONLY); os.fchdir(d); note(); os.chdir(os.environ['TMPDIR'] + '/w')"), 1)


def test_descriptors_passed_over_a_socket_are_shown():
    check_notes(story("""
import array
a, b = socket.socketpair()
f = os.open('/etc/passwd', os.O_RDONLY)
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [f, f]))])
data, anc, _, _ = b.recvmsg(1, 100)
note()"""), 1, paths=False)


def test_accepted_and_connected_sockets_are_shown():
    notes = story("""
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(5)
c = socket.create_connection(s.getsockname()); d, peer = s.accept()
note(); d.close(); note()""")
    check_notes(notes, 2)


def test_pseudo_terminals_are_shown():
    check_notes(story("import pty\nm, s = pty.openpty(); note(); os.close(s); note()"), 2)


def test_a_forked_pseudo_terminal_child_is_shown():
    check_notes(story("""
import pty
pid, m = pty.fork()
if pid == 0:
    note()
    n = open('notes', 'a'); n.write(json.dumps(_notes[0]) + chr(10)); n.close(); os._exit(0)
os.waitpid(pid, 0); note()"""), 2)


def test_children_by_every_road_are_children():
    notes = story("""
import subprocess
import sys
p = [subprocess.Popen(['sleep', '30']), subprocess.Popen(['sleep', '30'], close_fds=False)]
p.append(subprocess.Popen('exec sleep 30', shell=True))
q = os.posix_spawn('/usr/bin/sleep', ['sleep', '30'], os.environ)
r = os.fork()
if r == 0:
    time.sleep(30); os._exit(0)
time.sleep(0.1); note()
p[0].kill(); p[0].wait(); time.sleep(0.02); note()
os.kill(q, 9); os.waitpid(q, 0); time.sleep(0.02); note()
os.kill(r, 9); os.waitpid(r, 0); time.sleep(0.02); note()
for x in p[1:]: x.kill(); x.wait()
""")
    check_notes(notes, 4)
    assert [len(n["children"]) for n in notes] == [5, 4, 3, 2]


def test_children_that_nobody_waits_for_end_in_the_recording_too():
    check_notes(story("""
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
r = os.fork()
if r == 0:
    time.sleep(0.1); os._exit(0)
note(); time.sleep(0.4); note()"""), 2)


def test_threads_come_and_go():
    notes = story("""
stop = threading.Event()
ts = [threading.Thread(target=stop.wait) for _ in range(6)]
[t.start() for t in ts]; note(); stop.set(); [t.join() for t in ts]; time.sleep(0.02); note()""")
    check_notes(notes, 2)
    assert [len(n["threads"]) for n in notes] == [7 + OWN_THREADS, 1 + OWN_THREADS]


def test_a_name_set_for_another_thread_is_its_own():
    check_notes(story("""
import ctypes
libc = ctypes.CDLL(None)
stop = threading.Event()
t = threading.Thread(target=stop.wait); t.start()
libc.pthread_setname_np.argtypes = [ctypes.c_ulong, ctypes.c_char_p]
libc.pthread_setname_np(t.ident, b'the other'); note()
libc.prctl(15, b'a name longer than fifteen', 0, 0, 0); note()
stop.set(); t.join()"""), 2)


def test_a_cleared_environment_is_empty():
    story("""
import ctypes
ctypes.CDLL(None).setenv(b'BEFORE', b'1', 1); t = time.clock_gettime_ns(time.CLOCK_REALTIME); time.sleep(0.01)
ctypes.CDLL(None).clearenv(); ctypes.CDLL(None).setenv(b'AFTER', b'1', 1); time.sleep(0.01)
note()""")
    (n,) = read_notes("notes")
    names = {k.split("/env/")[1] for k in show_at(n["time"])["memory"] if "/env/" in k}
    assert names == {"AFTER"}, names


# ---- programs that know nothing of this ----

class Running:
    """A recorded program that stays; the test looks at it from outside."""

    def __init__(self, *command, options=(), **kw):
        kw.setdefault("stdin", subprocess.PIPE)
        kw.setdefault("stdout", subprocess.PIPE)
        self.p = subprocess.Popen(run_argv(*command, options=options), **kw)
        self.pid = wait_for(self.target, what="the target")

    def target(self):
        """The recorder's child that is not the recorder's own program."""
        if PLAIN:
            return self.p.pid
        with open("/proc/%d/task/%d/children" % (self.p.pid, self.p.pid)) as f:
            for pid in f.read().split():
                if os.path.realpath("/proc/%s/exe" % pid) != os.path.realpath(SNAPTRAIL):
                    return int(pid)
        assert self.p.poll() is None, "ended with %s" % self.p.returncode
        return None

    def end(self, sig=signal.SIGTERM):
        if self.p.poll() is None:
            os.kill(self.pid, sig)
        self.p.wait(20)


def shell_is_true(shell):
    os.mkfifo("stop")
    with open("s.sh", "w") as f:
        f.write("""cd /usr
exec 7</etc/passwd 8>>"$TMPDIR/w/out" 6<&7
ls / | cat >/dev/null
x=$(echo hello; (cd /; pwd))
sleep 30 &
cd "$TMPDIR/w"
for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true <&7; done
exec 6<&-
echo ready
read line
kill $!
wait
""")
    r = Running(shell, os.path.abspath("s.sh"))
    assert r.p.stdout.readline() == b"ready\n"
    n = steady_note(r.pid)
    with open("/proc/%d/task/%d/children" % (r.pid, r.pid)) as f:
        n["children"] = [int(x) for x in f.read().split()]
    r.p.stdin.write(b"go\n")
    r.p.stdin.close()
    r.p.wait(20)
    assert len(n["children"]) == 1 and 7 in n["fds"] and 6 not in n["fds"]
    assert_true_to(n)


def test_bash_is_shown_as_proc_showed_it():
    need("bash")
    shell_is_true("bash")


def test_dash_is_shown_as_proc_showed_it():
    need("dash")
    shell_is_true("dash")


def test_sqlite_with_an_open_transaction_is_shown():
    need("sqlite3")
    r = Running("sqlite3", os.path.abspath("base.db"))
    r.p.stdin.write(b"create table t(a); begin; insert into t values(1); select 'ready';\n")
    r.p.stdin.flush()
    assert r.p.stdout.readline() == b"ready\n"
    n = steady_note(r.pid)
    r.p.stdin.write(b"commit;\n")
    r.p.stdin.flush()
    time.sleep(0.1)
    m = steady_note(r.pid)
    r.p.stdin.close()
    r.p.wait(20)
    assert any(p.endswith("base.db-journal") for p in n["fds"].values())
    assert_true_to(n)
    assert_true_to(m)


def test_a_redis_under_load_is_shown_at_its_quiet_instants():
    need("redis-server", "redis-cli")
    sock = os.path.join(os.environ["TMPDIR"], "r.sock")
    r = Running("redis-server", "--port", "0", "--unixsocket", sock, "--appendonly", "yes", "--dir", os.getcwd(),
                stdout=subprocess.DEVNULL)
    wait_for(lambda: os.path.exists(sock))
    notes = []
    for i in range(3):
        if os.path.exists("/usr/bin/redis-benchmark"):
            subprocess.run(["redis-benchmark", "-s", sock, "-n", "4000", "-c", "20", "-q"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=40, check=True)
        idle = [socket.socket(socket.AF_UNIX) for _ in range(i)]
        for s in idle:
            s.connect(sock)
            s.sendall(b"PING\r\n")
            s.recv(10)
        subprocess.run(["redis-cli", "-s", sock, "bgsave"], stdout=subprocess.DEVNULL, check=True)
        wait_for(lambda: "rdb_bgsave_in_progress:0" in subprocess.run(
            ["redis-cli", "-s", sock, "info", "persistence"], stdout=subprocess.PIPE, text=True).stdout)
        notes.append(steady_note(r.pid))
        for s in idle:
            s.close()
    r.end()
    assert r.p.returncode == 0
    for n in notes:
        assert_true_to(n)


def test_nginx_with_its_workers_is_shown():
    need("nginx")
    here = os.getcwd()
    for d in ("logs", "t"):
        os.mkdir(d)
    with open("nginx.conf", "w") as f:
        f.write("""daemon off; worker_processes 2; pid %(d)s/pid; error_log %(d)s/logs/e;
events { worker_connections 64; }
http { access_log %(d)s/logs/a; root %(d)s; client_body_temp_path %(d)s/t/a; proxy_temp_path %(d)s/t/b;
 fastcgi_temp_path %(d)s/t/c; uwsgi_temp_path %(d)s/t/d; scgi_temp_path %(d)s/t/e;
 server { listen unix:%(d)s/sock; } }
""" % {"d": here})
    os.chmod(here, 0o777)
    os.chmod("logs", 0o777)
    r = Running("/usr/sbin/nginx", "-p", here, "-c", here + "/nginx.conf", "-e", here + "/logs/e")
    wait_for(lambda: os.path.exists("sock"))

    def workers():
        with open("/proc/%d/task/%d/children" % (r.pid, r.pid)) as f:
            return [int(x) for x in f.read().split()]

    wait_for(lambda: len(workers()) == 2)
    idle = []
    for i in range(30):
        s = socket.socket(socket.AF_UNIX)
        s.connect(here + "/sock")
        s.sendall(b"GET /nginx.conf HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(20).startswith(b"HTTP/1.1 200")
        idle.append(s)
        if i % 3:
            s.close()
    notes = [steady_note(p) for p in [r.pid] + workers()]
    notes[0]["children"] = workers()
    old = set(workers())
    os.kill(r.pid, signal.SIGHUP)  # new workers
    for s in idle:
        s.close()
    wait_for(lambda: len(workers()) == 2 and not old & set(workers()))
    again = [steady_note(p) for p in [r.pid] + workers()]
    again[0]["children"] = workers()
    r.end(signal.SIGQUIT)
    assert r.p.returncode == 0
    for n in notes + again:
        assert_true_to(n)


def static_program(name, source):
    """One that the loader, and with it we, never come into."""
    with open(name + ".c", "w") as f:
        f.write(source)
    if subprocess.run(["cc", "-static", "-o", name, name + ".c"], stderr=subprocess.DEVNULL).returncode:
        skip("no static libc")


@supervised
def test_who_was_seen_before_it_could_report_is_not_called_uninjected():
    def uninjected(*argv):
        p = subprocess.run([SNAPTRAIL, "run", "--json", "--interval", "5ms", "--", *argv], stderr=subprocess.PIPE, text=True, timeout=50)
        assert p.returncode == 0, p.stderr
        return json.loads(p.stderr.splitlines()[-1])["uninjected"]
    assert uninjected("sh", "-c", "for i in $(seq 600); do /bin/true; done") == 0
    static_program("still", "#include <unistd.h>\nint main(void) { return usleep(300000); }\n")
    assert uninjected("sh", "-c", "./still; ./still; /bin/true") == 2


@supervised
def test_who_ran_without_us_is_there_however_short_it_lived():
    static_program("brief", "int main(void) { return 3; }\n")
    code = """
import os, subprocess
pids = []
for i in range(20):
    p = subprocess.Popen(["./brief"])                     # vfork
    p.wait()
    pids.append(p.pid)
    pids.append(os.posix_spawn("./brief", ["brief"], os.environ))
    os.waitpid(pids[-1], 0)
    p = os.fork()
    if p == 0:
        os.execv("./brief", ["brief"])
    os.waitpid(p, 0)
    pids.append(p)
    for missing in "/missing/brief", "brief":             # the second in each folder of PATH
        try:
            subprocess.run([missing])
        except FileNotFoundError:
            pass
    assert subprocess.run(["true"]).returncode == 0
print(*pids)
"""
    p = subprocess.run([SNAPTRAIL, "run", "--json", "--session", "s", "--", sys.executable, "-c", code],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=50)
    pids = p.stdout.split()
    agents = show("latest")["agents"]
    for pid in pids:
        a = agents["p" + pid]
        assert (a["name"], a["exitCode"], a["recordedFrom"]) == ("brief", 3, "exec"), a
        assert "endedAt" in a, a
    others = [a for a in agents.values() if a["type"] == "process" and str(a["pid"]) not in pids]
    assert not [a for a in others if "recordedFrom" in a], others
    assert len(others) == 1 + 20 + 40, len(others)
    assert json.loads(p.stderr.splitlines()[-1])["uninjected"] == len(pids) == 60


@supervised
def test_who_is_started_slowly_or_left_alone_is_counted_once():
    static_program("brief", "#include <unistd.h>\nint main(void) { return usleep(60000) + 3; }\n")

    # Its beginning is short, so that no room was made for it.
    short = {k: v for k, v in os.environ.items() if k == "SNAPTRAIL_STORE" or k.endswith("SAN_OPTIONS")}

    def starts(case, path="./brief", during=lambda: None, number=0):
        session = "%s%d" % (case, number)
        p = subprocess.Popen([SNAPTRAIL, "run", "--json", "--interval", "150ms", "--session", session, "--", program("starts"), case, path],
                             env=short,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        during()
        out, err = p.communicate(timeout=40)
        assert p.returncode == 0, (out, err)
        state = show("latest", session)
        others = [a for a in state["agents"].values() if a["type"] == "process" and a.get("name") != "starts"]
        return out.split(), json.loads(err.splitlines()[-1]), others, state
    for i in range(5):  # the first snapshot comes while it runs
        _, told, others, _ = starts("once", number=i)
        assert [(a["name"], a["exitCode"], a["recordedFrom"]) for a in others] == [("brief", 3, "exec")], others
        assert told["uninjected"] == 1, told
    _, told, others, _ = starts("slow")
    assert told["uninjected"] == 1 and [a["name"] for a in others] == ["brief"], (told, others)
    _, told, others, state = starts("unwaited")
    assert told["uninjected"] == 1 and len(others) == 2, (told, others)
    assert all(a["endedAt"] < state["timestamp"] - 1000 for a in others), (others, state["timestamp"])
    _, told, _, _ = starts("limited")
    assert told["lost"] == 1, told
    with open("bad", "w") as f:
        f.write("no program")
    os.chmod("bad", 0o755)
    lease = os.open("bad", os.O_RDWR)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def hold():
        time.sleep(1)
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    (errno, _), told, others, state = starts("fails", "./bad", hold)
    assert errno in ("8", "26") and told["uninjected"] == 0 and not others, (errno, told, others)
    assert not [a for a in state["agents"].values() if "recordedFrom" in a], state["agents"]


def test_git_with_make_and_gcc_leaves_no_living_child_in_the_recording():
    need("git", "make", "gcc")
    with open("m.c", "w") as f:
        f.write('#include "h.h"\nint main(void) { return f() + g(); }\n')
    for n in "fg":
        with open(n + ".c", "w") as f:
            f.write("int %s(void) { return 0; }\n" % n)
    with open("h.h", "w") as f:
        f.write("int f(void), g(void);\n")
    with open("Makefile", "w") as f:
        f.write("m: m.o f.o g.o\n\tgcc -o m m.o f.o g.o\n%.o: %.c\n\tgcc -c $<\n")
    with open("all.sh", "w") as f:
        f.write("""set -e
git init -q repo; cp *.c *.h Makefile repo; cd repo; git add .
git -c user.name=a -c user.email=a@b commit -qm one
make -s -j3; ./m; git status --short >../status; git log --oneline | cat >../log
date +%s%N >../time; sleep 0.1
""")
    p = record("sh", "all.sh", timeout=55)
    assert p.returncode == 0, p.stderr
    with open("time") as f:
        state = show_at(int(f.read()))
    living = [a["name"] for a in state["agents"].values() if a["type"] == "process" and "endedAt" not in a]
    assert sorted(living) in (["date", "sh"], ["sh"], ["sh", "sleep"]), living
    ran = {a.get("name") for a in state["agents"].values()}
    assert {"git", "make", "cc1", "as", "m"} <= ran, ran
    codes = {a.get("exitCode") for a in state["agents"].values() if "endedAt" in a and a["type"] == "process"}
    assert codes == {0}, codes
