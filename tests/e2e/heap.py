"""[hooks] heap: what is counted is what the program and its C library count."""
import json
import os
import signal
import subprocess

from lib import (HEAP, PLAIN, PRELOAD, dead, limit, log, need, program, record, run_argv, show, skip, snaptrail, supervised,
                 wait_for)

HOSTS = ("run", "plain")
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
os.environ["SNAPTRAIL_HOOKS_HEAP"] = "yes"


class Story:
    """tests/programs/heap.c: its steps, each with what was recorded of it then."""

    def __init__(self, verb, options=()):
        self.p = subprocess.Popen(run_argv(program("heap"), verb, options=options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def step(self, snap=True):
        said = {}
        while "end" not in said:
            line = self.p.stdout.readline().split()
            assert line, "it ended with %s" % self.p.wait()
            said[line[0].decode()] = int(line[1])
        if snap:
            snaptrail("snap", "s")
            self.state = show("latest")
            said.update(heap_of(self.state, said["pid"]))
        return said

    def go(self):
        self.p.stdin.write(b"\n")

    def end(self, code=0):
        self.p.stdin.close()
        assert self.p.wait(timeout=30) == code
        return show("latest")


def heap_of(state, pid):
    key = "p%d/heap/" % pid
    return {k[len(key):]: int(v) for k, v in state["metrics"].items() if k.startswith(key)}


def agrees_with_the_c_library(said):
    """mallinfo2 has 8 or 16 bytes more in each block, and what waits in the thread's cache."""
    over = said["used"] - said["live"]
    blocks = said["allocations"] - said["frees"]
    assert 0 <= over <= 8 * abs(blocks) + 16384, said


def grew_as_known(before, after, slack=0):
    grown, known = after["live"] - before["live"], after["known"] - before["known"]
    assert 0 <= grown - known <= slack, (grown, known, before, after)


def test_every_name_of_the_family_is_counted_once():
    s = Story("family")
    a = s.step()
    s.go()
    b = s.step()
    grew_as_known(a, b)
    agrees_with_the_c_library(a)
    agrees_with_the_c_library(b)
    assert (b["allocations"] - a["allocations"], b["frees"] - a["frees"]) == (14, 6), (a, b)
    assert s.end()["metrics"]["p%d/heap/live" % b["pid"]] == b["live"]


def test_what_was_taken_before_any_constructor_is_counted():
    a = Story("family").step()
    assert a["live"] >= 4321 and a["allocations"] >= 1, a
    agrees_with_the_c_library(a)


def test_threads_have_their_own_counts_and_leave_them_to_the_process():
    s = Story("threads")
    a = s.step()
    s.go()
    b = s.step()
    grew_as_known(a, b, slack=8192)  # the C library's own for each thread
    threads = {k: v["heap"] for k, v in s.state["agents"].items()
               if k.startswith("p%d/t" % b["pid"]) and "heap" in v and v.get("type") != "recorder"}
    main = threads.pop("p%d/t%d" % (b["pid"], b["pid"]))
    assert len(threads) == 3, threads
    for t in threads.values():  # 200 blocks of its own, 200 larger ones of the main thread's freed
        assert -210000 < t["live"] < -190000 and 200 <= t["allocations"] < 220 and 200 <= t["frees"] < 220, t
    assert main["live"] > 3 * 200 * 2000, main
    s.go()
    c = s.step()
    assert c["known"] == b["known"] and abs(c["live"] - b["live"]) <= 8192, (b, c)
    assert c["allocations"] - b["allocations"] < 20, (b, c)
    assert s.end()["metrics"]["p%d/heap/allocations" % c["pid"]] >= c["allocations"]


def test_counts_move_with_a_lane_that_grows():
    os.environ["SNAPTRAIL_RING_LANE"] = "16K"
    s = Story("grow")
    a = s.step()
    s.go()
    b = s.step()
    assert any(f.startswith("r.") for _, _, fs in os.walk("/dev/shm/snaptrail-%d" % os.getuid()) for f in fs), "nothing grew"
    grew_as_known(a, b, slack=131072)  # the environment's strings
    agrees_with_the_c_library(b)
    assert b["allocations"] >= 40, b


def test_threads_that_come_and_go_are_never_counted_twice():
    s = Story("churn", options=("--interval", "2ms"))
    a = s.step()
    s.go()
    b = s.step()
    grew_as_known(a, b, slack=8192)
    assert b["allocations"] - a["allocations"] >= 150 * 4 * 200, (a, b)
    key = "p%d/heap/live" % b["pid"]
    seen = [x["new"] - a["live"] for x in log("s", "metrics:" + key) if x["key"] == key]
    # At most what one round takes; what goes on while the lanes are read may be another.
    assert len(seen) > 10 and max(seen) < 2.1 * 4 * 200 * 5000 and max(seen) > 100000, (len(seen), max(seen), min(seen))


def a_fork(verb):
    s = Story(verb)
    a = s.step()
    s.go()
    child = s.step()
    s.go()
    parent = s.step()
    assert child["pid"] != parent["pid"]
    agrees_with_the_c_library(dict(child, allocations=parent["allocations"], frees=0))
    grew_as_known(a, child, slack=1024)  # its setenv
    grew_as_known(a, parent)
    assert child["allocations"] < 10 and child["frees"] == 50, child
    assert s.end()["metrics"]["p%d/heap/live" % child["pid"]] >= child["live"]


def test_a_forked_child_begins_with_its_parents_heap():
    a_fork("fork")


def test_a_child_forked_past_the_hooks_begins_with_its_parents_heap_too():
    a_fork("clone")


def test_what_a_vfork_child_leaves_is_its_parents():
    s = Story("vfork")
    a = s.step()
    s.go()
    b = s.step()
    grew_as_known(a, b)
    agrees_with_the_c_library(b)


def test_kill_9_keeps_the_last_counts():
    s = Story("family")
    a = s.step(snap=False)
    s.go()
    b = s.step(snap=False)
    os.kill(b["pid"], signal.SIGKILL)
    s.p.wait(timeout=20)

    def heap():
        return heap_of(show("latest"), b["pid"]) if "s" in snaptrail("sessions", code=(0, 1, 4)) else {}
    got = wait_for(heap, what="the last counts")
    agrees_with_the_c_library(dict(b, **got))
    assert got["live"] > b["known"] > a["known"], (a, b, got)


@supervised
def test_kill_9_of_everything_keeps_the_last_counts():
    s = Story("family")
    s.step(snap=False)
    s.go()
    b = s.step(snap=False)
    all_of_them = [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != s.p.pid and is_snaptrail(p)]
    assert all_of_them
    all_of_them += [b["pid"], s.p.pid]
    for p in all_of_them:
        os.kill(p, signal.SIGKILL)
    wait_for(lambda: all(map(dead, all_of_them)), what="their end")
    agrees_with_the_c_library(dict(b, **heap_of(show("latest"), b["pid"])))


def is_snaptrail(pid):
    """One of this test's own."""
    try:
        mark = b"SNAPTRAIL_TEST_ID=%s\0" % os.environ["SNAPTRAIL_TEST_ID"].encode()
        with open("/proc/%s/environ" % pid, "rb") as f:
            return mark in f.read() and os.path.basename(os.readlink("/proc/%s/exe" % pid)) == "snaptrail"
    except OSError:
        return False


def test_small_stacks_locked_memory_and_errno_are_as_without():
    without = subprocess.run([program("heap"), "narrow"], input=b"\n\n", stdout=subprocess.PIPE, timeout=20).stdout.split()
    s = Story("narrow")
    a = s.step()
    s.go()
    b = s.step()
    for name in ("errno", "small-stack", "locked"):
        assert b[name] == int(without[without.index(name.encode()) + 1]), (name, b, without)
    assert b["errno"] == 77
    grew_as_known(a, b, slack=4096)


def test_binding_everything_at_once_changes_nothing():
    os.environ["LD_BIND_NOW"] = "1"
    s = Story("family")
    agrees_with_the_c_library(s.step())
    s.end(code=0)


def same_as_plain(*command, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    without = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=40, **kw)
    ours = record(*command, **kw)
    assert (ours.returncode, ours.stdout, ours.stderr) == (without.returncode, without.stdout, without.stderr), (ours, without)


def counted():
    return sum(v for k, v in show("latest")["metrics"].items() if k.endswith("/heap/allocations"))


def test_python_says_the_same():
    os.environ["PYTHONMALLOC"] = "malloc"  # each object by itself
    same_as_plain("/usr/bin/python3", "-c", "import json, threading, subprocess, gc\n"
                  "t = [threading.Thread(target=lambda: json.dumps(list(range(9999)))) for _ in range(6)]\n"
                  "[x.start() for x in t]; [x.join() for x in t]\n"
                  "print(subprocess.run(['sh', '-c', 'echo child; exit 3'], capture_output=True)); print(gc.collect() >= 0)")
    assert counted() > 5000


def test_sqlite_says_the_same():
    need("sqlite3")
    same_as_plain("sqlite3", ":memory:", "create table t(a); with recursive c(x) as (select 1 union all select x+1 from c "
                  "where x<20000) insert into t select x from c; select count(*), sum(a) from t; select nothing;")
    assert counted() > 1000


def test_a_compiler_says_the_same():
    need("gcc")
    with open("x.c", "w") as f:
        f.write("int main(void) { int unused; return 0 }\n")
    same_as_plain("gcc", "-Wall", "-O2", "-c", "x.c", "-o", "x.o")
    assert counted() > 1000


def test_an_address_sanitizer_program_says_the_same():
    with open("x.c", "w") as f:
        f.write("#include <stdlib.h>\n#include <stdio.h>\nint main(int c, char **v)\n{\n\tchar *p = malloc(10);\n"
                "\tprintf(\"fine\\n\");\n\tfflush(stdout);\n\tfree(p);\n\treturn c > 1 ? p[c] : 0;\n}\n")
    if subprocess.run(["gcc", "-fsanitize=address", "-g", "x.c", "-o", "x"], stderr=subprocess.DEVNULL).returncode:
        skip("no AddressSanitizer")
    asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], stdout=subprocess.PIPE, text=True).stdout.strip()

    def ours(*argv):
        argv = run_argv(*argv)
        if PLAIN:  # who preloads by hand puts it first by hand
            argv[1] = argv[1].replace("LD_PRELOAD=", "LD_PRELOAD=%s:" % os.path.realpath(asan))
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=40)

    p, bad = ours("./x"), ours("./x", "1")
    assert (p.returncode, p.stdout, p.stderr) == (0, b"fine\n", b""), p
    assert bad.returncode == 1 and b"heap-use-after-free" in bad.stderr, bad


@limit(120)
def test_valgrind_finds_no_more_than_without():
    need("valgrind")
    if PLAIN:
        skip("the engine's thread under valgrind is another test")
    p = record("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", program("heap"), "family", input=b"\n\n\n", timeout=100)
    without = subprocess.run(["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", program("heap"), "family"],
                             input=b"\n\n\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
    assert p.returncode == without.returncode, (p.returncode, p.stderr[-600:], without.returncode)


def test_jemalloc_behind_us_is_counted():
    if not os.path.exists(JEMALLOC):
        skip("no jemalloc")
    os.environ["LD_PRELOAD"] = JEMALLOC
    argv = run_argv("/usr/bin/python3", "-c", "import ctypes, threading\nl = [bytearray(1000) for _ in range(5000)]\n"
                    "t = [threading.Thread(target=lambda: bytearray(99999)) for _ in range(4)]\n"
                    "[x.start() for x in t]; [x.join() for x in t]\nprint('fine')")
    del os.environ["LD_PRELOAD"]
    p = subprocess.run(argv if PLAIN else ["env", "LD_PRELOAD=" + JEMALLOC, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=40)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"fine\n", b""), p
    assert counted() > 5000


@supervised
def test_jemalloc_before_us_leaves_nothing_to_count():
    if not os.path.exists(JEMALLOC):
        skip("no jemalloc")
    order = "%s:%s:%s" % (JEMALLOC, PRELOAD, HEAP)
    p = record("/usr/bin/env", "LD_PRELOAD=" + order, "/usr/bin/python3", "-c", "print([bytearray(9) for _ in range(3)])")
    assert p.returncode == 0 and p.stderr == b"", p
    state = show("latest")
    ended = [a for a in state["agents"].values() if a["type"] == "process" and "python3" in a.get("commandLine", "")]
    assert len(ended) == 1 and not heap_of(state, ended[0]["pid"]), state["metrics"]


def test_a_program_with_a_malloc_of_its_own_keeps_it():
    """Its free aborts on any block that is not from its own arena."""
    with open("own.c", "w") as f:
        f.write("#include <stddef.h>\n#include <stdint.h>\n#include <stdlib.h>\n#include <string.h>\n#include <stdio.h>\n"
                "static _Alignas(16) char arena[1 << 24];\nstatic size_t at;\n"
                "void *malloc(size_t n) { char *p = arena + at + 16; *(size_t *)(arena + at) = n;"
                " at += (n + 31) & ~15ul; return at < sizeof arena ? p : 0; }\n"
                "void free(void *p) { if (p && ((char *)p < arena || (char *)p >= arena + sizeof arena)) __builtin_trap(); }\n"
                "void *calloc(size_t n, size_t m) { return malloc(n * m); }\n"
                "void *realloc(void *p, size_t n) { char *q = malloc(n); if (p) { size_t had = ((size_t *)p)[-2];"
                " memcpy(q, p, had < n ? had : n); } free(p); return q; }\n"
                "int main(void) { char *s = NULL; size_t n = 0; FILE *f = fopen(\"own.c\", \"r\"); long sum = 0;\n"
                "while (getline(&s, &n, f) > 0) { char *d = strdup(s); sum += (long)strlen(d); free(d); }\n"
                "free(s); fclose(f); free(realpath(\".\", NULL)); printf(\"%ld\\n\", sum); return 0; }\n")
    subprocess.run(["gcc", "-O1", "-fno-builtin", "own.c", "-o", "own"], check=True)
    same_as_plain("./own")
    state = show("latest")
    roots = [a for a in state["agents"].values() if a["type"] == "process" and a.get("commandLine", "").startswith("./own")]
    assert len(roots) == 1 and not heap_of(state, roots[0]["pid"]), (roots, state["metrics"])


def test_a_heap_that_only_wraps_is_counted_without_sizes():
    """Its blocks have a header that malloc_usable_size of the C library would take for its own."""
    with open("wrap.c", "w") as f:
        f.write("#define _GNU_SOURCE\n#include <string.h>\n#include <stddef.h>\n"
                "extern void *__libc_malloc(size_t), __libc_free(void *);\nextern void *__libc_realloc(void *, size_t);\n"
                "void *malloc(size_t n) { char *p = __libc_malloc(n + 32); if (!p) return 0; memset(p, 0xff, 32); return p + 32; }\n"
                "void free(void *p) { if (p) __libc_free((char *)p - 32); }\n"
                "void *calloc(size_t n, size_t m) { void *p = malloc(n * m); return p ? memset(p, 0, n * m) : p; }\n"
                "void *realloc(void *p, size_t n) { char *q = __libc_realloc(p ? (char *)p - 32 : 0, n + 32);"
                " if (!q) return 0; memset(q, 0xff, 32); return q + 32; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", "wrap.c", "-o", "wrap.so"], check=True)
    os.environ["LD_PRELOAD"] = os.path.abspath("wrap.so")
    argv = run_argv("sh", "-c", "echo fine")
    del os.environ["LD_PRELOAD"]
    p = subprocess.run(argv if PLAIN else ["env", "LD_PRELOAD=" + os.path.abspath("wrap.so"), *argv],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=40)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"fine\n", b""), p
    metrics = show("latest")["metrics"]
    assert counted() > 10 and not [k for k in metrics if k.endswith("/heap/live")], metrics


@supervised
def test_without_the_option_nothing_is_preloaded_or_counted():
    os.environ["SNAPTRAIL_HOOKS_HEAP"] = "no"
    p = record("sh", "-c", "echo $LD_PRELOAD; grep -c preload-heap /proc/self/maps")
    assert p.stdout.split() == [PRELOAD.encode(), b"0"], p.stdout
    assert not [k for k in show("latest")["metrics"] if "/heap/" in k]


@supervised
def test_a_session_that_was_started_without_counts_nothing():
    os.environ["SNAPTRAIL_HOOKS_HEAP"] = "no"
    p = record("/usr/bin/env", "LD_PRELOAD=%s:%s" % (PRELOAD, HEAP), "SNAPTRAIL_HOOKS_HEAP=yes", "/usr/bin/python3", "-c", "print(3)")
    assert p.stdout == b"3\n" and p.stderr == b""
    state = show("latest")
    assert not [k for k in state["metrics"] if "/heap/" in k] and not [a for a in state["agents"].values() if "heap" in a]


def test_diff_and_log_show_a_heap_that_grew():
    s = Story("family")
    a = s.step()
    s.go()
    s.step()
    key = "p%d/heap/live" % a["pid"]
    assert key in snaptrail("diff", "latest~1", "latest", "--session", "s")
    lines = [json.loads(x) for x in snaptrail("log", "metrics:*/heap/live", "--json", "--session", "s").splitlines()]
    assert [x for x in lines if x["key"] == key and x["new"] > (x.get("old") or 0)], lines
    s.end()
