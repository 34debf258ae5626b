"""What the whole-program tests share: running the command, plain and
recorded, and reading /proc as the oracle."""
import json
import os
import subprocess
import time

BUILD = os.environ.get("TEST_BUILD", "build")
SNAPTRAIL = os.path.join(BUILD, "snaptrail")
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))


# Who hosts the engine: "run", the supervisor, or "plain", the target itself;
# "forensic" is the supervisor with that profile.
HOST = os.environ.get("TEST_HOST", "run")
PLAIN = HOST == "plain"
# The engine's own thread is one of the target's.
OWN_THREADS = 1 if PLAIN else 0
PRELOAD = os.path.join(BUILD, "preload/.libs/libsnaptrail-preload.so")
HEAP = PRELOAD.replace(".so", "-heap.so")


class Skip(Exception):
    pass


def skip(reason):
    raise Skip(reason)


def need(*programs):
    for p in programs:
        if not any(os.access(os.path.join(d, p), os.X_OK) for d in os.environ["PATH"].split(":") + ["/usr/sbin"]):
            skip("no " + p)


def supervised(f):
    """A test of what only `run` does."""
    f.hosts = ("run",)
    return f


def limit(seconds):
    def set_limit(f):
        f.limit_s = seconds
        return f
    return set_limit


def program(name):
    return os.path.join(BUILD, "test-programs", name)


def snaptrail(*args, code=0, **kw):
    """Runs the command; its stdout.  Any other exit status is a failure."""
    kw.setdefault("timeout", 50)
    p = subprocess.run([SNAPTRAIL, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, errors="surrogateescape", **kw)
    codes = code if isinstance(code, tuple) else (code,)
    assert p.returncode in codes, "snaptrail %s gave %d: %s" % (" ".join(map(str, args)), p.returncode,
                                                                (p.stderr or p.stdout)[-800:])
    return p.stdout


def plain_argv(*command, session="s", options=()):
    """The same by LD_PRELOAD alone: options are said by the environment."""
    heap = HEAP if os.environ.get("SNAPTRAIL_HOOKS_HEAP") == "yes" else None
    env = ["LD_PRELOAD=" + ":".join(filter(None, [PRELOAD, heap, os.environ.get("LD_PRELOAD")])), "SNAPTRAIL_SESSION=" + session]
    options = list(options)
    while options:
        name = options.pop(0)
        if name not in ("--interval", "--profile"):
            skip("no %s without a supervisor" % name)
        env.append("%s=%s" % ({"--interval": "SNAPTRAIL_SNAPSHOT_INTERVAL", "--profile": "SNAPTRAIL_PROFILE"}[name],
                              options.pop(0)))
    return ["/usr/bin/env", *env, *command]


def run_argv(*command, session="s", options=()):
    if PLAIN:
        return plain_argv(*command, session=session, options=options)
    if HOST == "forensic":
        options = ("--profile", "forensic", *options)
    return [SNAPTRAIL, "run", "--quiet", "--session", session, *options, "--", *command]


def record(*command, session="s", options=(), **kw):
    """Runs a command under the recorder; a CompletedProcess."""
    kw.setdefault("timeout", 50)
    kw.setdefault("stdout", subprocess.PIPE)
    kw.setdefault("stderr", subprocess.PIPE)
    return subprocess.run(run_argv(*command, session=session, options=options), **kw)


def show(ref, session="s"):
    return json.loads(snaptrail("show", ref, "--json", "--session", session))


def show_at(time_ns, session="s"):
    return show("@%d" % time_ns, session)


def log(session="s", *args):
    return [json.loads(line) for line in snaptrail("log", "--json", "--session", session, *args).splitlines()]


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def wait_for(condition, seconds=20, what="the condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        r = condition()
        if r:
            return r
        time.sleep(0.005)
    raise AssertionError("%s did not come within %d s" % (what, seconds))


def children_of(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


def state(pid):
    """The letter of /proc; X when it is gone."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def dead(pid):
    """It holds no file and no lock any more; its parent may not have noticed."""
    return state(pid) in "ZX"


def type_of_link(link):
    """What /proc says a descriptor is, in the words of resources#type."""
    for prefix, kind in (("socket:", "socket"), ("pipe:", "pipe"), ("anon_inode:[eventfd]", "eventfd"),
                         ("anon_inode:[eventpoll]", "epoll"), ("anon_inode:[timerfd]", "timerfd"),
                         ("anon_inode:[signalfd]", "signalfd"), ("anon_inode:inotify", "inotify"),
                         ("anon_inode:[pidfd]", "pidfd"), ("/memfd:", "memfd")):
        if link.startswith(prefix):
            return kind
    return None


def proc_note(pid):
    """What the kernel says about a process now: descriptors, threads, folder, name."""
    base = "/proc/%d" % pid
    fds = {}
    for n in os.listdir(base + "/fd"):
        try:
            fds[int(n)] = os.readlink("%s/fd/%s" % (base, n))
        except OSError:
            pass
    threads = {}
    for t in os.listdir(base + "/task"):
        try:
            with open("%s/task/%s/comm" % (base, t), errors="surrogateescape") as f:
                threads[int(t)] = f.read().rstrip("\n")
        except OSError:
            pass
    return {"pid": pid, "fds": fds, "threads": threads, "cwd": os.readlink(base + "/cwd")}


def steady_note(pid):
    """proc_note at an instant when two looks agree, with that instant."""
    for _ in range(200):
        a = proc_note(pid)
        time.sleep(0.1)
        t = now_ns()
        time.sleep(0.1)
        if a == proc_note(pid):
            a["time"] = t
            return a
    raise AssertionError("process %d is never quiet" % pid)


def fds_of(state, pid):
    return {r["allocation"]["fd"]: r for r in state["resources"].values()
            if r.get("allocation", {}).get("pid") == pid and r.get("status") != "closed"}


def alive(state, pid, kind):
    """Agents of a kind that live: of a process its threads, or its children."""
    out = {}
    for a in state["agents"].values():
        if a["status"] in ("terminated", "error") or "endedAt" in a:
            continue
        if a["type"] != kind and not (kind == "thread" and a["type"] == "recorder"):
            continue
        if kind == "thread" and a["pid"] == pid:
            out[a["tid"]] = a
        if kind == "process" and a.get("parent") == "p%d" % pid:
            out[a["pid"]] = a
    return out


def differences(note, state, names=True, paths=True):
    """How a recorded state differs from what /proc said; [] when it does not."""
    pid, bad = note["pid"], []
    shown = fds_of(state, pid)
    for fd in sorted(set(note["fds"]) | set(shown)):
        link = note["fds"].get(fd)
        if link is None:
            bad.append("fd %d shown (%s), not there" % (fd, shown[fd]["allocation"].get("path")))
        elif fd not in shown:
            bad.append("fd %d -> %s not shown" % (fd, link))
        else:
            kind, path = shown[fd]["type"], shown[fd]["allocation"].get("path")
            want = type_of_link(link)
            if want and kind != want:
                bad.append("fd %d is a %s, shown as %s" % (fd, want, kind))
            if want is None and kind not in ("file", "directory", "device", "tty"):
                bad.append("fd %d -> %s shown as %s" % (fd, link, kind))
            if paths and want is None and path != link:
                bad.append("fd %d -> %s shown as %s" % (fd, link, path))
    threads = alive(state, pid, "thread")
    for t in sorted(set(note["threads"]) ^ set(threads)):
        bad.append("thread %d %s" % (t, "not shown" if t in note["threads"] else "shown, not there"))
    if names:
        process = state["agents"].get("p%d" % pid, {})
        for t, comm in note["threads"].items():
            # A thread that was never named has its creator's name of that time.
            told = threads.get(t, {}).get("name") or (process.get("name") if t == pid else comm)
            if t in threads and told != comm:
                bad.append("thread %d is named %r, shown as %r" % (t, comm, told))
    if "children" in note:
        children = alive(state, pid, "process")
        for c in sorted(set(note["children"]) ^ set(children)):
            bad.append("child %d %s" % (c, "not shown" if c in note["children"] else "shown, not there"))
    cwd = state["memory"].get("p%d/cwd" % pid, {}).get("value")
    if cwd != note["cwd"]:
        bad.append("folder %s shown as %s" % (note["cwd"], cwd))
    return bad


def assert_true_to(note, session="s", **kw):
    bad = differences(note, show_at(note["time"], session), **kw)
    assert not bad, "; ".join(bad[:12]) + (" and %d more" % (len(bad) - 12) if len(bad) > 12 else "")
