"""Test suites of software that others wrote, plain and recorded: the result of each
of their tests is the same.  The short ones belong to every run; TEST_SUITES=long
adds those that are fetched as source and take minutes each.

A test that fails now and then fails plain as well: where a result differs both are
run again, and what counts is one that recorded never came out as it does plain."""
import os
import re
import shutil
import subprocess

from lib import BUILD, limit, need, run_argv, skip, snaptrail

HOSTS = ("run", "plain", "forensic")
LONG = os.environ.get("TEST_SUITES") == "long"
CACHE = os.path.join(BUILD, "suites")


def run_suite(argv, read, seconds, cwd=None, session=None):
    """Results by test's name."""
    if session:
        argv = run_argv(*argv, session=session)
    p = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds)
    return read(p.stdout.decode(errors="replace"))


def the_same(argv, read, least, seconds=400, cwd=None):
    plain, recorded = [], []
    for i in range(3):
        plain.append(run_suite(argv, read, seconds, cwd))
        recorded.append(run_suite(argv, read, seconds, cwd, "suite%d" % i))
        assert len(plain[i]) >= least, "only %d results: %s" % (len(plain[i]), list(plain[i].items())[:5])
        names = set().union(*plain, *recorded)
        differ = {n: ({p.get(n) for p in plain}, {r.get(n) for r in recorded}) for n in names
                  if not {p.get(n) for p in plain} & {r.get(n) for r in recorded}}
        if not differ:
            break
    assert not differ, "%d of %d differ: %s" % (len(differ), len(names), sorted(differ.items())[:6])
    assert len(snaptrail("ls", "suite0").splitlines()) > 1, "nothing was recorded"
    print(len(names), "results")


def source(package):
    """Its source as the system's own package archive has it, unpacked once."""
    if not LONG:
        skip("TEST_SUITES=long")
    need("apt-get")
    done = os.path.join(CACHE, package)
    if os.path.isdir(done):
        return done
    work = done + ".fetch"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work + "/lists/partial")
    os.makedirs(work + "/parts")
    for folder, names in (("/etc/apt", ["sources.list"]), ("/etc/apt/sources.list.d", os.listdir("/etc/apt/sources.list.d"))):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.exists(path) and "debian" in name + open(path).read():
                with open(path) as f, open(os.path.join(work, "parts", name), "w") as to:
                    to.write(re.sub(r"(?m)^Types: deb$", "Types: deb-src", re.sub(r"(?m)^deb ", "deb-src ", f.read())))
    options = ["-o", "Dir::Etc::sourcelist=-", "-o", "Dir::Etc::sourceparts=" + work + "/parts", "-o", "Dir::State::lists=" + work + "/lists",
               "-o", "APT::Sandbox::User=root"]
    with open("/etc/os-release") as f:
        release = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line).get("VERSION_CODENAME", "stable")
    # The newest may be gone from an archive that has a newer one by now; the release's own stays.
    got = subprocess.run(["apt-get", "-qq", *options, "update"]).returncode == 0 and any(
        subprocess.run(["apt-get", "-qq", *options, "source", name], cwd=work).returncode == 0 for name in (package, package + "/" + release))
    if not got:
        skip("no source of " + package)
    (tree,) = [e.path for e in os.scandir(work) if e.is_dir() and e.name.startswith(package + "-")]
    os.rename(tree, done)
    shutil.rmtree(work)
    return done


# ---- CPython ----

PYTHON = "/usr/bin/python3"


def read_python(text):
    # The description of a test may stand on a line between its name and its result.
    return {m.group(1): m.group(2) for m in re.finditer(r"^(test\w* \([\w.]+\))(?:\n[^\n]*)? \.\.\. (ok|FAIL|ERROR|skipped)", text, re.M)}


def cpython(least, *tests, seconds=400):
    if subprocess.run([PYTHON, "-c", "import test.test_os"], stderr=subprocess.DEVNULL).returncode:
        skip("no test suite of python3 (libpython3.11-testsuite)")
    the_same([PYTHON, "-m", "test", "-v", "--timeout", str(seconds), *tests], read_python, least, seconds)


@limit(200)
def test_short_cpython_processes_and_terminals():
    cpython(200, "test_popen", "test_pipes", "test_pty", "test_posix", "test_fileio", "test_tempfile", "test_syslog", "test_ioctl", "test_contextlib")


@limit(3000)
def test_cpython_what_an_operating_system_does():
    if not LONG:
        skip("TEST_SUITES=long")
    cpython(1500, "test_os", "test_fork1", "test_wait3", "test_wait4", "test_poll", "test_subprocess", "test_signal", "test_threading", "test_select", "test_epoll",
            "test_mmap", "test_thread", "test_resource", "test_faulthandler", "test_shutil", "test_logging", "test_sqlite3", "test_selectors",
            "test_socketserver", "test_pathlib", "test_os", "test_file", "test_asyncore", "test_queue", seconds=900)


# ---- stress-ng ----

def read_stress(text):
    # What one did not like it says as "fail:" or "error:"; a name's line ends what is its own.
    out = {}
    for name, said, status in re.findall(r"^begin (\S+)\n(.*?)^end (\d+)$", text, re.M | re.S):
        out[name] = "%s%s" % (status, " and complains" if re.search(r": (fail|error):", said) else "")
    return out


def stress(least, *names, seconds=300):
    need("stress-ng")
    each = 'for s in %s; do echo begin $s; stress-ng --seed 7 --oomable --temp-path . --$s 1 --$s-ops 40 --timeout 3 2>&1; echo end $?; done'
    the_same(["sh", "-c", each % " ".join(names)], read_stress, least, seconds)


@limit(200)
def test_short_stress_of_processes_threads_and_descriptors():
    stress(12, "fork", "vfork", "clone", "exec", "pthread", "dup", "open", "close", "pipe", "env", "prctl", "daemon", "eventfd", "sigsegv")


@limit(3000)
def test_stress_of_what_runs_unprivileged():
    if not LONG:
        skip("TEST_SUITES=long")
    stress(60, "access", "affinity", "aio", "alarm", "chdir", "chmod", "clock", "clone", "close", "context", "copy-file", "daemon", "dentry",
           "dir", "dirdeep", "dup", "env", "epoll", "eventfd", "exec", "exit-group", "fallocate", "fault", "fcntl", "fifo", "file-ioctl",
           "flock", "fork", "fp-error", "fpunch", "fstat", "full", "futex", "getdent", "getrandom", "handle", "hrtimers", "inotify", "io",
           "itimer", "kcmp", "kill", "lease", "link", "locka", "lockf", "loop", "madvise", "malloc", "membarrier", "memfd", "mincore",
           "mknod", "mmap", "mmapfork", "mprotect", "mq", "msg", "munmap", "mutex", "nice", "null", "open", "pidfd", "pipe", "poll", "prctl",
           "procfs", "pthread", "ptrace", "pty", "readahead", "rename", "resched", "revio", "rlimit", "schedpolicy", "seccomp", "secretmem",
           "seek", "sem", "sendfile", "session", "set", "shm", "sigabrt", "sigchld", "sigfd", "sigio", "signal", "signest", "sigpending",
           "sigpipe", "sigq", "sigrt", "sigsegv", "sigsuspend", "sigtrap", "sleep", "sock", "sockabuse", "sockdiag", "sockfd", "sockmany",
           "sockpair", "spawn", "splice", "stack", "switch", "symlink", "sync-file", "sysinfo", "tee", "timer", "timerfd", "tsc", "udp",
           "unshare", "userfaultfd", "utime", "vfork", "vforkmany", "wait", "yield", "zombie", seconds=900)


# ---- redis ----

def read_redis(text):
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    return {m.group(2): m.group(1) for m in re.finditer(r"^\[(ok|err|exception|skip|ignore)\]: (.*?)(?: \(\d+ ms\))?$", text, re.M)}


@limit(3000)
def test_redis_its_own_suite():
    tree = source("redis")
    need("redis-server", "tclsh")
    for name in ("server", "cli", "benchmark", "sentinel", "check-rdb", "check-aof"):
        link = os.path.join(tree, "src", "redis-" + name)
        if not os.path.lexists(link):
            os.symlink(shutil.which("redis-" + name) or "/nonexistent", link)
    units = ["unit/auth", "unit/expire", "unit/info", "unit/introspection", "unit/multi", "unit/other", "unit/protocol", "unit/pubsub",
             "unit/scan", "unit/shutdown", "unit/type/hash", "unit/type/list", "unit/type/set", "unit/type/string", "unit/type/zset",
             "unit/type/stream", "integration/aof", "integration/rdb", "integration/logging", "integration/convert-zipmap-hash-on-load",
             "integration/redis-cli"]
    the_same(["./runtest", "--clients", "2", *[w for u in units for w in ("--single", u)]], read_redis, 400, 900, tree)


# ---- perl ----

def read_tap(text):
    out, file = {}, "?"
    for line in text.splitlines():
        m = re.match(r"(\S+\.t) \.+", line)
        file = m.group(1) if m else file
        m = re.match(r"(ok|not ok) (\d+)", line)
        if m:
            out["%s %s" % (file, m.group(2))] = m.group(1)
    return out


@limit(3000)
def test_perl_its_own_suite():
    tree = source("perl")
    need("prove")
    folder = os.path.join(tree, "t")
    files = sorted(f for d in ("base", "cmd", "io", "op") for f in
                   (os.path.join(d, n) for n in os.listdir(os.path.join(folder, d)) if n.endswith(".t")))
    the_same(["prove", "-v", "-e", "/usr/bin/perl", *files], read_tap, 5000, 900, folder)


# ---- coreutils ----

def read_make_check(text):
    return {m.group(2): m.group(1) for m in re.finditer(r"^(PASS|FAIL|SKIP|XFAIL|XPASS|ERROR): (\S+)", text, re.M)}


@limit(3000)
def test_coreutils_its_own_suite():
    tree = source("coreutils")
    if not os.path.exists(os.path.join(tree, "src", "true")):
        build = "FORCE_UNSAFE_CONFIGURE=1 ./configure -q --disable-nls && make -s -j2 && make -s -j2 check TESTS="
        if subprocess.run(["sh", "-c", build], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            skip("coreutils cannot be built here")
    # Those that ask for the store's space or many processes at once say the same, later.
    tests = "make -k check SUBDIRS=. TESTS=\"$(cd tests && ls */*.sh | sed 's,^,tests/,' | grep -E 'misc/|cp/|mv/|rm/|ls/|mkdir/|touch/|ln/' | tr '\\n' ' ')\""
    the_same(["sh", "-c", tests], read_make_check, 200, 1500, tree)
