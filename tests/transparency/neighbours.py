"""What lives in the same process as the visitor, and what it is told apart from: other
libraries, names that are ours too, locks, stacks, filters, the programs of this machine.

TEST_SUITES=long asks every program there is; by default it is some of them, other ones
each time (TEST_SEED repeats a run)."""
import json
import os
import random
import re
import subprocess

from lib import HOST, PLAIN, SNAPTRAIL, SOURCE, limit, need, program, record, run_argv, skip, snaptrail
from manners import both, outcome

HOSTS = ("run", "plain", "forensic")
NEIGHBOURS = program("neighbours")


def neighbours(*args, **kw):
    return both(NEIGHBOURS, *args, **kw)[:2]


def library(name, *flags):
    """The program's other half: a library with a constructor."""
    need("cc")
    source = SOURCE + "/tests/programs/neighbours.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-pthread", "-DAS_LIBRARY", *flags, source, "-o", name], check=True)
    return os.path.abspath(name)


# ---- libraries ----

def test_a_library_that_begins_before_us_may_do_anything():
    early = library("libearly.so")
    subprocess.run(["cc", "-x", "c", "-", "-x", "none", "-o", "early", early, "-Wl,-rpath," + os.getcwd()], check=True, text=True,
                   input="#include <stdio.h>\n#include <stdlib.h>\nconst char *early_says(void);\n"
                         "int main(void) { return puts(early_says()) < 0; }\n")
    assert both("./early")[:2] == (0, b"early 5\nyes\n")
    # And one that is preloaded beside us.
    assert both("env", "LD_PRELOAD=" + ":".join(filter(None, [early, os.environ.get("LD_PRELOAD")])), "true", recorded=False)[1] == b"early 5\n"


def test_a_library_is_found_by_the_runpath_of_who_opens_it():
    os.mkdir("beside")
    library("beside/libbeside.so")
    need("cc")
    subprocess.run(["cc", "-O1", "-pthread", "-rdynamic", SOURCE + "/tests/programs/neighbours.c", "-o", "opener", "-Wl,--enable-new-dtags",
                    "-Wl,-rpath,$ORIGIN/beside"], check=True)
    assert both("./opener", "runpath", "libbeside.so")[:2] == (0, b"early 5\nyes\n")
    assert b"cannot open" in both("./opener", "runpath", "libnowhere.so")[1]


def test_a_late_library_has_the_room_for_its_thread_storage_that_it_has_plain():
    """Our 256 bytes are taken from what the loader keeps for such libraries."""
    most = 0
    os.environ["LATE"] = "yes"
    for size in range(128, 4097, 128):
        lib = library("tls%d.so" % size, "-DTLS_BYTES=%d" % size)
        if b"nothing" not in outcome([NEIGHBOURS, "runpath", lib])[1]:
            break
        most = size
    assert most >= 1024, most
    assert outcome(run_argv(NEIGHBOURS, "runpath", os.path.abspath("tls%d.so" % ((most - 256) // 128 * 128))))[:2] == (0, b"nothing\n")


def test_names_that_are_ours_too_are_the_program_s():
    assert neighbours("names") == (0, b"own names\n")


def test_what_programs_look_for_and_is_not_there_stays_away():
    assert neighbours("weak") == (0, b"0 0\n")


# ---- processes ----

def test_handlers_of_forks_run_when_they_do_plain():
    assert neighbours("atfork") == (0, b"1 0 0 1 1 0\n")


def test_a_daemon_has_the_parent_that_it_has_plain():
    assert neighbours("daemon") == (0, b"1 0\n")


def test_programs_executed_in_any_way_have_their_environment_and_no_more():
    plain = outcome([NEIGHBOURS, "executions"])[:2]
    assert plain == (0, b"0\nA=B\n0\nA=B\n0\n")
    neighbours("executions")


def test_threads_that_libc_does_not_know_disturb_nothing():
    assert neighbours("bare_clone") == (0, b"cloned\n")


# ---- descriptors, memory, stacks ----

def test_locks_of_the_process_stay():
    assert neighbours("locks") == (0, b"0 11\n")


def test_locked_memory_is_enough_where_it_is_plain():
    for most in ("65536", "8388608"):
        neighbours("locked_memory", most)


def test_a_handler_s_small_stack_is_enough():
    assert neighbours("alternate_stack") == (0, b"alternate 1\n")


def test_coroutines_have_their_own_stacks():
    assert neighbours("coroutines") == (0, b"1\n")


def test_a_filter_that_kills_for_any_other_call_does_not():
    for how in ("prctl", "syscall"):
        assert neighbours("filter", how) == (5, b"lived\n")
    record(NEIGHBOURS, "filter", "prctl", session="told")
    log = snaptrail("log", "*/env/*", "--session", "told")
    assert "env/THREAD" in log and "env/CHILD" in log, log[-500:]


def test_who_sets_no_filter_after_all_is_recorded_as_before():
    """Our calls are refused from before the program's; they are allowed again if that failed."""
    assert neighbours("asks") == (0, b"-1 14 -1 22 -1 14 -1 22 -1 14 -1 22 \n")
    record(NEIGHBOURS, "asks", session="asked")
    assert "/dev/pts/" in snaptrail("log", "--session", "asked")


def test_a_filter_and_vfork_leave_nobody_silent_unsaid():
    for who, said in (("child", "env/AFTER"), ("alone", "env/AFTER"), ("threads", "/blind")):
        assert neighbours("vforks", who) == (0, b"done\n")
        record(NEIGHBOURS, "vforks", who, session=who)
        assert said in snaptrail("log", "--session", who), who


def test_who_leaves_us_behind_says_so():
    for name, command, left in (("kept", "exec env sleep 0.1", False), ("bare", "exec env -i /bin/sleep 0.1", True),
                                ("vforked", "python3 -c 'import subprocess; subprocess.run([\"/bin/sleep\", \"0.1\"], env={})'", True),
                                ("spawned", "python3 -c 'import os; os.waitpid(os.posix_spawn(\"/bin/sleep\", [\"sleep\", \"0.1\"], {}), 0)'", True),
                                ("failed", "env -i /no/such/program; :", False)):
        record("sh", "-c", command, session=name)
        state = json.loads(snaptrail("show", "latest", "--json", "--session", name))
        said = [m["value"] for k, m in state["memory"].items() if k.endswith("/blind")]
        log = snaptrail("log", "--session", name)
        assert ('executed without the visitor: /bin/sleep"' in log) == left, (name, log)
        assert not said or (PLAIN and left), (name, said)  # there nobody is left to see its end
    log = snaptrail("log", "--session", "failed")
    assert '+ "executed without the visitor: /no/such/program"' in log and '- "executed without' in log, log


def test_what_a_call_refuses_to_read_no_hook_reads():
    status, out = both(program("refused"))[:2]
    assert status == 0 and len(out.splitlines()) > 40


def test_what_io_uring_does_is_said_to_be_unseen():
    record("/usr/bin/python3", "-c", "import ctypes; ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(200))")
    assert '+ "io_uring"' in snaptrail("log", "p*/blind#value", "--session", "s")


# ---- the programs of this machine ----

NOBODY = 65534


def as_nobody():
    """Some programs do what they do whatever they are asked: they shall not be allowed to."""
    if os.geteuid() == 0:
        work = os.path.dirname(os.environ["SNAPTRAIL_STORE"])
        for path in (work, os.getcwd()):
            os.chown(path, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if not os.access(SNAPTRAIL, os.X_OK):
        skip("nobody may not execute what was built here")


def programs():
    found = {}
    for name in sorted(os.listdir("/usr/bin")):
        path = os.path.join("/usr/bin", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            found.setdefault(path if "/alternatives/" in os.path.realpath(path) else os.path.realpath(path), path)
    return sorted(found.values())


def told(argv):
    """What it says, without what differs from time to time."""
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=8, start_new_session=True)
    except subprocess.TimeoutExpired:
        return None

    def settled(b):
        return re.sub(rb"0x[0-9a-f]+|\d\d:\d\d:\d\d|\d+\.\d+|\b\d{3,}\b", b"N", b)
    return p.returncode, settled(p.stdout), settled(p.stderr)


@limit(3000 if os.environ.get("TEST_SUITES") == "long" else 90)
def test_programs_of_this_machine_say_of_themselves_what_they_say_plain():
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 1 << 30)
    as_nobody()
    paths = programs()
    if os.environ.get("TEST_SUITES") != "long":
        paths = random.Random(seed).sample(paths, min(8, len(paths)))
    os.environ.update(TERM="dumb", PAGER="cat", PERL_HASH_SEED="0")
    os.environ.pop("DISPLAY", None)
    asked = refused = 0
    for path in paths:
        for arg in ("--version", "--help"):
            plain = told([path, arg])
            if plain is None or plain != told([path, arg]):
                continue  # it does not end, or never says the same
            for again in range(2):
                under = told(run_argv(path, arg, session="%s-%s-%d" % (HOST, os.path.basename(path), again)))
                if under == plain:
                    break
            if under and under[0] == 7 and under[2].startswith(b"snaptrail: ") and not PLAIN:
                refused += 1
                continue
            assert under == plain, "TEST_SEED=%d %s %s: plain %s, recorded %s" % (seed, path, arg, str(plain)[-500:], str(under)[-500:])
            asked += 1
    print("%d asked, %d cannot be injected" % (asked, refused))
    if not asked:
        skip("none of them says the same twice")
