"""A program run plain and one run under snaptrail cannot be told apart: the
same output, status, descriptors, children; and it does not hang."""
import glob
import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time

import lib
from lib import PLAIN, SNAPTRAIL, need, program, record, run_argv, skip, snaptrail, supervised, wait_for

HOSTS = ("run", "plain", "forensic")
GUEST = program("guest")
sessions = itertools.count()


def outcome(argv, stdin=b"", **kw):
    p = subprocess.run(argv, input=stdin if "stdin" not in kw else None, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=40, **kw)
    return p.returncode, p.stdout, p.stderr


def both(*command, options=(), normal=lambda b: b, recorded=True, **kw):
    """Runs the command plain and recorded; asserts that nothing differs, and
    that there is a recording."""
    plain = outcome(list(command), **kw)
    # A session of its own: children of the one before may still be followed.
    session = "s%d" % next(sessions)
    under = outcome(run_argv(*command, session=session, options=options), **kw)
    if recorded:
        assert snaptrail("show", "latest", "--session", session), "nothing was recorded"
    plain, under = ((c, normal(o), normal(e)) for c, o, e in (plain, under))
    for what, a, b in zip(("status", "stdout", "stderr"), plain, under):
        assert a == b, "%s: plain %r, recorded %r; stderr %r" % (what, a if what == "status" else a[-300:],
                                                      b if what == "status" else b[-300:], under[2][-300:])
    return plain


def sh(script, **kw):
    return both("sh", "-c", script, **kw)


def guest(*args, **kw):
    return both(GUEST, *args, **kw)


# ---- start ----

def test_errno_is_0_at_main():
    assert guest("errno")[1] == b"errno 0\n"


def test_the_next_descriptor_and_all_open_ones_are_the_same():
    guest("fds")


def test_descriptors_of_an_executed_child_are_the_same():
    def without_pid(b):
        return re.sub(rb"(socket|pipe):\[\d+\]|/proc/\d+", b"X", b)
    sh("ls -l /proc/self/fd | sed 's/.*[0-9] \\([0-9]* ->\\)/\\1/'; exec 7</etc/passwd; sh -c 'ls /proc/self/fd'",
       normal=without_pid)


def test_closed_standard_descriptors_stay_closed():
    for how in ("0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"):
        for which in ([], [SNAPTRAIL, "run", "--quiet", "--session", "s", "--"]):
            out = "out-" + ("run" if which else "plain")
            script = 'exec %s; exec "$@" -c \'ls -l /proc/self/fd >%s 2>&1\'' % (how, out)
            p = subprocess.run(["sh", "-c", script, "sh", *which, "sh"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
            assert p.returncode == 0, (how, which, p.stderr)

        def numbers(path):
            with open(path) as f:
                return re.findall(r" (\d+) ->", f.read())
        assert numbers("out-plain") == numbers("out-run"), how


def test_an_empty_environment_is_empty_but_for_ours():
    plain = outcome(["env", "-i", "/usr/bin/env"])
    under = outcome(["env", "-i", "SNAPTRAIL_STORE=" + os.environ["SNAPTRAIL_STORE"]] + run_argv("/usr/bin/env"))
    assert plain == (0, b"", b"")
    names = {line.split(b"=")[0] for line in under[1].splitlines()}
    assert under[0] == 0 and all(n == b"LD_PRELOAD" or n.startswith(b"SNAPTRAIL_") for n in names), under


def test_env_i_inside_leaves_nothing_of_us():
    assert both("env", "-i", "/usr/bin/env")[1] == b""


def test_the_environment_differs_only_in_our_names():
    def values(b):
        return sorted(v for v in b.split(b"\0") if not v.startswith((b"LD_PRELOAD=", b"SNAPTRAIL_")))
    plain = outcome(["cat", "/proc/self/environ"])
    under = outcome(run_argv("cat", "/proc/self/environ"))
    assert values(plain[1]) == values(under[1]) and under[0] == 0


@supervised
def test_an_existing_preload_stays():
    lib = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
    if not os.path.exists(lib):
        skip("no libjemalloc")
    both("sh", "-c", "env -u X true; echo $((1+1)); ls / | wc -l", env=dict(os.environ, LD_PRELOAD=lib))
    p = record("sh", "-c", "echo $LD_PRELOAD; grep -c jemalloc /proc/$$/maps", env=dict(os.environ, LD_PRELOAD=lib))
    assert b"libjemalloc" in p.stdout and b"libsnaptrail-preload" in p.stdout and p.returncode == 0, p


def test_jemalloc_before_and_behind_the_visitor_works():
    lib = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
    if not os.path.exists(lib):
        skip("no libjemalloc")
    for order in ('"$LD_PRELOAD:%s"', '"%s:$LD_PRELOAD"'):
        p = record("sh", "-c", "LD_PRELOAD=%s exec /usr/bin/python3 -c 'import threading\n"
                   "t=[threading.Thread(target=open, args=(\"/etc/passwd\",)) for _ in range(20)]\n"
                   "[x.start() for x in t]; [x.join() for x in t]; print(len(t))'" % (order % lib), session=order)
        assert (p.returncode, p.stdout) == (0, b"20\n"), (order, p)


def test_binding_all_symbols_at_start_works():
    for argv in (["/bin/true"], ["/usr/bin/python3", "-c", "print(1)"], ["bash", "-c", "echo $((2+2))"]):
        both(*argv, env=dict(os.environ, LD_BIND_NOW="1"))


# ---- programs of every day ----

def test_shells_say_the_same():
    for shell in ("bash", "dash"):
        need(shell)
        both(shell, "-c", "for i in 1 2 3; do echo $i | cat; (exit $i); echo $?; done; x=$(seq 100 | tail -1); "
             "echo $x; ls /nonexistent; exec 5>&1; echo five >&5; trap 'echo bye' EXIT; kill -TERM $$ & wait; exit 9")


def test_python_says_the_same():
    both("/usr/bin/python3", "-c", """
import os, sys, subprocess, threading, tempfile, socket, select, sqlite3
print(os.listdir('/proc/self/fd').__len__(), sys.flags)
with tempfile.TemporaryFile() as f: f.write(b'x' * 100000); print(f.tell(), f.fileno())
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.fileno()); s.close()
print(subprocess.check_output(['ls', '/proc/self/fd']).decode().split())
t = threading.Thread(target=print, args=('thread',)); t.start(); t.join(); print(threading.active_count())
os.environ['A'] = 'b'; os.system('echo $A'); print(os.popen('echo pop').read())
sys.exit(5)
""")


def test_python_subprocess_in_every_way_says_the_same():
    both("/usr/bin/python3", "-c", """
import subprocess as s, os, itertools
for close_fds, shell, session, pre, cwd in itertools.product((0, 1), (0, 1), (0, 1), (None, lambda: None), (None, '/')):
    c = 'ls /proc/self/fd; pwd | tail -c 2; exit 4'
    p = s.Popen(c if shell else ['sh', '-c', c], close_fds=bool(close_fds), shell=bool(shell),
                start_new_session=bool(session), preexec_fn=pre, cwd=cwd, stdout=s.PIPE, stderr=s.STDOUT)
    print(close_fds, shell, session, bool(pre), cwd, p.communicate()[0].split() if cwd else p.communicate()[0].split()[:-1], p.returncode)
r, w = os.pipe()
print(s.run(['sh', '-c', 'echo x >&%d' % w], pass_fds=[w]).returncode, os.read(r, 2))
print(s.run(['true'], stdin=s.DEVNULL).returncode, s.call(['sh', '-c', 'kill -9 $$']))
for bad in ('/nonexistent', '/etc/passwd'):
    try: s.run([bad])
    except OSError as e: print(type(e).__name__, e)
try: s.run(['sleep', '5'], timeout=.1)
except s.TimeoutExpired: print('timeout')
print(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 6'], os.environ), 0)[1]))
try: os.wait()
except ChildProcessError as e: print(e)
""", normal=lambda b: re.sub(rb"'\d+'", b"N", b))


def test_git_sqlite_and_make_say_the_same():
    need("git", "sqlite3", "make", "gcc")
    sh("""rm -rf g; git init -q g; cd g; echo x >f; git add f
GIT_AUTHOR_DATE='2020-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2020-01-01 00:00:00 +0000' git -c user.name=a -c user.email=b commit -qm m
git log; git status; git diff HEAD; git nonsense; echo $?""")
    sh("rm -f d.db; sqlite3 d.db 'create table t(a); insert into t values(1),(2); select sum(a) from t; bad sql'; echo $?")
    sh("""rm -rf m; mkdir m; cd m; printf 'all: a b\\n\\tgcc a.o b.o -o all && ./all\\na b:\\n\\t@gcc -c $@.c\\n' >Makefile
echo 'int main(void){return 0;}' >a.c; echo 'int b;' >b.c; make -j2 | sort; make nothing; echo $?""")


def test_valgrind_finds_the_same():
    need("valgrind")
    both("valgrind", "-q", "--error-exitcode=9", GUEST, "wait_nothing", normal=lambda b: re.sub(rb"==\d+==", b"==P==", b))
    both("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", GUEST, "keys",
         normal=lambda b: re.sub(rb"==\d+==", b"==P==", b))


def test_gdb_sees_the_same():
    need("gdb")
    # One of a function that is hooked stands at two places, the hook's and libc's: that is how it is.
    both("gdb", "-nx", "-batch", "-ex", "break case_wait", "-ex", "run", "-ex", "p (int) getppid() > 0", "-ex", "delete", "-ex", "continue",
         "--args", GUEST, "wait", normal=lambda b: re.sub(rb"0x[0-9a-f]+|process \d+|Thread \S+|\(LWP \d+\)", b"N", b) if b else b)


def test_fake_time_before_and_behind_the_visitor_is_told_the_same():
    (lib,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1") or skip("no libfaketime")
    for order in ('"$LD_PRELOAD:%s"', '"%s:$LD_PRELOAD"'):
        p = record("sh", "-c", "LD_PRELOAD=%s FAKETIME='@2001-09-09 01:46:40' TZ=UTC exec sh -c 'date +%%Y; mkdir -p d; date +%%m; exit 3'" % (order % lib),
                   session="f%d" % len(order))
        assert (p.returncode, p.stdout) == (3, b"2001\n09\n"), (order, p)
        # Nobody tells us another time.
        times = [json.loads(x)["timeNs"] for x in snaptrail("log", "--json", "--session", "f%d" % len(order)).splitlines()]
        assert times and all(abs(int(t) - time.time_ns()) < 120 * 10 ** 9 for t in times), (order, times[0], times[-1])


def test_eatmydata_and_stdbuf_work():
    for tool in (("eatmydata", "sh", "-c", "echo x | tee f; sync; cat f"), ("stdbuf", "-o0", "sh", "-c", "echo a; exec 7</etc/passwd; head -c 9 <&7")):
        need(tool[0])
        both(*tool)


def test_an_auditor_of_the_loader_sees_a_program_that_works():
    audit = build_c("audit.so", "#define _GNU_SOURCE\n#include <link.h>\n#include <stdint.h>\nunsigned la_version(unsigned v) { return v; }\n"
                    "unsigned la_objopen(struct link_map *m, Lmid_t n, uintptr_t *c) { (void)m, (void)n, (void)c; return LA_FLG_BINDTO | LA_FLG_BINDFROM; }\n"
                    "uintptr_t la_symbind64(Elf64_Sym *s, unsigned n, uintptr_t *r, uintptr_t *d, unsigned *f, const char *name)\n"
                    "{ (void)n, (void)r, (void)d, (void)f, (void)name; return s->st_value; }", "-shared", "-fPIC")
    both("sh", "-c", "ls / | wc -l; (exit 4); echo $?; exec 8</etc/passwd; read x <&8; echo $x",
         env=dict(os.environ, LD_AUDIT=audit))


def build_c(name, source, *flags):
    with open(name + ".c", "w") as f:
        f.write(source)
    p = subprocess.run(["cc", name + ".c", "-o", name, *flags], stderr=subprocess.PIPE)
    if p.returncode:
        skip("cc %s: %s" % (" ".join(flags), p.stderr[-100:].decode()))
    return os.path.abspath(name)


@supervised
def test_a_program_with_address_sanitizer_works_and_finds_its_bugs():
    good = build_c("good", '#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(void) { free(malloc(9)); '
                   'if (fork() == 0) _exit(0); FILE *f = fopen("/etc/passwd", "r"); fclose(f); puts("fine"); }',
                   "-fsanitize=address")
    bad = build_c("bad", "#include <stdlib.h>\nint main(int c, char **v) { char *p = malloc(9); free(p); return p[c]; }",
                  "-fsanitize=address")
    both(good)
    plain, under = outcome([bad]), outcome(run_argv(bad, session="bad"))
    assert plain[0] == under[0] != 0 and b"heap-use-after-free" in under[2], under


def test_a_program_with_other_sanitizers_works():
    for which in ("undefined", "thread"):
        name = build_c(which, "#include <pthread.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
                       "static void *f(void *p) { setenv(p, \"1\", 1); return p; }\n"
                       "int main(void) { pthread_t t; pthread_create(&t, NULL, f, \"A\"); pthread_join(t, NULL); puts(getenv(\"A\")); "
                       "if (fork() == 0) _exit(0); return 4; }", "-fsanitize=" + which, "-pthread")
        if PLAIN and which == "thread":  # wants its runtime before the visitor, and no engine beside threads that are watched
            (tsan,) = re.findall(r"=> (\S*libtsan\S*)", subprocess.check_output(["ldd", name], text=True))
            preload = "LD_PRELOAD=%s:%s" % (tsan, lib.PRELOAD)
            assert outcome(["env", preload, "setarch", "-R", name]) == outcome(["setarch", "-R", name])
            continue
        both("setarch", "-R", name)  # its shadow wants the addresses of a kernel without much randomness


def test_a_fortified_overflow_still_aborts():
    code, _, err = guest("overflow", stdin=b"x" * 64)
    assert code == -signal.SIGABRT and b"buffer overflow" in err


# ---- processes and threads ----

def test_children_for_wait_are_the_same():
    guest("wait")
    guest("wait_nothing")


def test_vfork_and_exec_work_and_leave_memory_alone():
    guest("vfork")


def test_posix_spawn_works():
    guest("spawn")


def test_a_main_that_calls_pthread_exit_ends_with_its_last_thread():
    assert guest("main_leaves")[1] == b"the last thread\n"


def test_threads_with_the_smallest_stack_start():
    assert guest("small_stacks")[1] == b"200\n"


def test_cancelled_threads_end():
    assert guest("cancel")[1] == b"100\n"


def test_destructors_of_thread_keys_may_call_anything():
    guest("keys")


def test_a_storm_of_forks_ends_as_plain():
    guest("storm")


def test_chains_of_exec_end_as_plain():
    assert guest("chain", "60")[1] == b"end 3\n"


def test_unshare_of_the_user_namespace_works():
    if subprocess.run(["unshare", "-Ur", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("not allowed here")
    both("unshare", "-Ur", "true")
    both("unshare", "-Ur", "sh", "-c", "id -u; echo ok")
    both("unshare", "-Urpf", "sh", "-c", "echo $$")


def test_system_and_popen_work():
    both("/usr/bin/python3", "-c", "import ctypes; l = ctypes.CDLL(None); print(l.system(b'exit 3'), l.system(b'true'))")


# ---- signals ----

def test_a_handler_amid_hooked_calls_disturbs_nothing():
    assert guest("handler")[1] == b"bad 0\n"


def test_a_jump_out_of_a_handler_disturbs_nothing():
    guest("jump")


def test_a_jump_out_of_a_handler_leaves_the_recording_readable():
    p = record(GUEST, "jump")
    assert p.returncode == 0
    out = snaptrail("log", "*/env/JUMP", "--session", "s")
    assert '+ "x"' in out, out


def test_a_crash_is_the_same_crash():
    assert guest("crash")[:2] == (-signal.SIGSEGV, b"signal 11 at 0x10\n")
    assert guest("abort")[0] == -signal.SIGABRT


def test_killed_by_a_signal_is_killed_by_the_same_signal():
    for s in ("KILL", "TERM", "INT", "HUP", "USR1", "PIPE", "SEGV", "QUIT"):
        assert sh("ulimit -c 0; kill -%s $$; sleep 5" % s)[0] == -getattr(signal, "SIG" + s)


def test_signals_that_were_ignored_stay_ignored():
    both("/usr/bin/python3", "-c", "import signal; print([s for s in signal.valid_signals() if signal.getsignal(s) is "
         "signal.SIG_IGN], signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    ignore = ["sh", "-c", "trap '' PIPE HUP; exec \"$@\"", "sh"]
    see = ["grep", "^Sig[BI]", "/proc/self/status"]


    def masks(argv):  # without 32 and 33, which are libc's own and which its posix_spawn ignores
        return [int(x, 16) & ~0x180000000 for x in re.findall(rb"\t(\w+)", outcome(argv)[1])]
    assert masks(ignore + see) == masks(ignore + run_argv(*see)) != []


@supervised
def test_sigterm_and_sighup_reach_the_command():
    for s in (signal.SIGTERM, signal.SIGHUP):
        p = subprocess.Popen(run_argv("sh", "-c", "trap 'echo got; exit 4' TERM HUP; echo up; while :; do sleep .05; done"),
                             stdout=subprocess.PIPE)
        assert p.stdout.readline() == b"up\n"
        p.send_signal(s)
        assert p.communicate(timeout=20)[0] == b"got\n" and p.returncode == 4


@supervised
def test_a_signal_right_after_the_start_reaches_the_command():
    for i in range(40):
        p = subprocess.Popen(run_argv("sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep .02; done",
                                      session="s%d" % i), stdout=subprocess.PIPE)
        assert p.stdout.readline() == b"up\n"
        p.send_signal(signal.SIGTERM)
        try:
            assert p.wait(5) == 4
        except subprocess.TimeoutExpired:
            raise AssertionError("signal %d never came through" % i) from None


@supervised
def test_ctrl_c_reaches_the_command_and_the_recorder_outlives_it():
    pid, master = pty.fork()
    if pid == 0:
        os.execv(SNAPTRAIL, run_argv("sh", "-c", "trap 'echo caught; exit 6' INT; echo up; while :; do sleep .05; done"))
    seen = b""
    while b"up" not in seen:
        seen += os.read(master, 100)
    os.write(master, b"\x03")
    try:
        while True:
            seen += os.read(master, 100)
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6 and b"caught" in seen
    assert json.loads(snaptrail("sessions", "--json"))[0]["exitCode"] == 6


@supervised
def test_ctrl_z_stops_both_and_fg_continues_both():
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/bash", ["bash", "--norc", "-i"])
    seen = b""

    def until(*words):
        nonlocal seen
        end = time.monotonic() + 15
        while not all(w in seen for w in words):
            assert time.monotonic() < end, seen
            seen += os.read(master, 1000)
    os.write(master, b"PS1='%% '; %s; echo status $((3+4))$?\n" % " ".join(run_argv(
        "sh", "-c", "'echo u''p; sleep 0.3; echo en''d'")).encode())
    until(b"up")
    os.write(master, b"\x1a")
    until(b"Stopped")
    os.write(master, b"fg; echo again $((4+5))$?\n")
    until(b"end", b"again 90")
    os.write(master, b"exit\n")
    os.close(master)
    os.waitpid(pid, 0)


# ---- limits and filters ----

def test_few_descriptors_are_enough():
    for n in (4, 5, 6):  # the loader itself needs one beside 0, 1, 2
        # The engine needs a dozen of its own: in a process that may not have them it does not record.
        sh("ulimit -n %d; exec %s fds" % (n, GUEST), recorded=not PLAIN)


def test_strict_seccomp_is_survived():
    assert guest("strict")[:2] == (5, b"x" * 3000)


def test_strict_seccomp_behind_a_vfork_is_survived():
    assert guest("strict", "after-vfork")[:2] == (5, b"x" * 3000)


def test_a_forbidden_time_stamp_counter_is_survived():
    assert guest("tsc")[:2] == (0, b"survived\n")


def test_small_address_spaces_are_enough():
    need_kib = None
    for kib in range(2000, 30000, 250):
        if outcome([GUEST, "limits", "as", str(kib * 1024)])[:2] == (0, b"busy 29999\n"):
            need_kib = kib
            break
    assert need_kib
    assert outcome(run_argv(GUEST, "limits", "as", str((need_kib + 2048) * 1024)))[:2] == (0, b"busy 29999\n")


def test_files_that_may_not_grow_are_no_end():
    for n in ("0", "4096", "100000"):
        guest("limits", "fsize", n)


def test_a_limit_on_file_size_leaves_the_beginning_on_record():
    assert record("sh", "-c", "ulimit -f 0; exec %s busy" % GUEST).returncode == 0
    state = json.loads(snaptrail("show", "latest", "--json", "--session", "s"))
    assert any(a.get("name") == "guest" for a in state["agents"].values()), list(state["agents"].values())


def test_everything_may_be_closed():
    for how in ("closefrom", "close_range", "loop"):
        guest("close_all", how)


def test_addresses_are_read_no_further_than_given():
    guest("accept")


def test_a_stream_reopened_onto_itself_works():
    guest("reopen")


def test_a_full_store_does_not_reach_the_program():
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("cannot mount here")
    os.mkdir("m")
    script = "mount -t tmpfs -o size=64k none m && SNAPTRAIL_STORE=$PWD/m/store exec %s run --quiet -- %s busy"
    p = subprocess.run(["unshare", "-m", "sh", "-c", script % (SNAPTRAIL, GUEST)], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=40)
    assert (p.returncode, p.stdout) == (0, b"busy 29999\n"), p


def test_syslog_says_the_same():
    guest("log", normal=lambda b: re.sub(rb"\[\d+\]", b"", b))


# ---- what cannot be followed, and what is not there ----

@supervised
def test_a_static_program_is_refused_with_7():
    static = build_c("static", "int main(void) { return 0; }", "-static")
    p = record(static)
    assert p.returncode == 7 and b"static" in p.stderr.lower(), p


@supervised
def test_a_setuid_program_is_refused_with_7():
    if os.geteuid():
        skip("needs root to make one")
    shutil.copy("/bin/true", "su")
    os.chown("su", 12345, 12345)
    os.chmod("su", 0o4755)
    p = record(os.path.abspath("su"))
    assert p.returncode == 7 and b"set" in p.stderr.lower(), p


@supervised
def test_a_missing_program_is_127_and_one_that_may_not_run_126():
    assert record("/nonexistent/program").returncode == 127
    assert record("no-such-program-anywhere").returncode == 127
    with open("plain", "w") as f:
        f.write("echo no\n")
    assert record(os.path.abspath("plain")).returncode == 126


def test_exit_codes_pass_through():
    for n in (0, 1, 2, 7, 70, 125, 126, 127, 128, 255):
        assert record("sh", "-c", "exit %d" % n, session="s%d" % n).returncode == n


# ---- the supervisor ----

def test_stdin_passes_through():
    data = os.urandom(300000)
    assert outcome(run_argv("cat"), stdin=data)[1] == data


@supervised
def test_nothing_but_the_summary_is_said():
    p = subprocess.run([SNAPTRAIL, "run", "--session", "s", "--", "echo", "hello"], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert p.stdout == b"hello\n" and all(line.startswith(b"snaptrail: ") for line in p.stderr.splitlines())
    assert outcome(run_argv("echo", "hello")) == (0, b"hello\n", b"")


def test_a_command_that_leaves_a_daemon_returns():
    t = time.monotonic()
    daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n" \
             "n = os.open('/dev/null', 2)\nfor i in (0, 1, 2): os.dup2(n, i)\n" \
             "open('up', 'w').write(str(os.getpid()))\ntime.sleep(20)"
    out = subprocess.run(["sh", "-c", "x=$(%s); echo got \"$x\"" % " ".join(
        "'%s'" % a.replace("'", "'\\''") for a in run_argv("/usr/bin/python3", "-c", daemon))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=15)
    assert out.stdout == b"got \n" and time.monotonic() - t < 10, out
    pid = int(wait_for(lambda: os.path.exists("up") and open("up").read()))
    with open("/proc/%d/stat" % pid) as f:
        parent = int(f.read().rsplit(")", 1)[1].split()[1])
    with open("/proc/%d/comm" % parent) as f:
        assert f.read() != "snaptrail\n", "the recorder adopted the daemon"
    wait_for(lambda: [s["live"] for s in json.loads(snaptrail("sessions", "--json"))] == [True], what="the recorder")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not json.loads(snaptrail("sessions", "--json"))[0]["live"], what="the recorder's end")


@supervised
def test_wait_waits_for_what_remains():
    t = time.monotonic()
    p = record("sh", "-c", "sleep 0.7 >/dev/null 2>&1 & echo now", options=("--wait",))
    assert p.stdout == b"now\n" and time.monotonic() - t > 0.6


@supervised
def test_detach_keeps_pid_and_parent():
    p = subprocess.Popen([SNAPTRAIL, "run", "--quiet", "--detach", "--session", "s", "--", "sh", "-c",
                          "echo $$ $PPID; cat /proc/$$/task/$$/children; exit 3"], stdout=subprocess.PIPE)
    out = p.communicate(timeout=20)[0].split()
    assert [int(x) for x in out[:2]] == [p.pid, os.getpid()] and p.returncode == 3, (out, p.pid)


def test_the_parent_sees_no_child_of_ours():
    # A recorder that was somebody's child would be found by wait(-1) of the command's own parent.
    both("/usr/bin/python3", "-c", "import os\ntry:\n    os.wait()\nexcept ChildProcessError as e:\n    print(e)")
