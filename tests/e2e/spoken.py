"""What a program says of itself with snaptrail/report.h arrives exactly: from
threads, children, signal handlers, C++, other languages; and costs nothing and
does nothing where nothing is injected."""
import json
import os
import re
import subprocess
import sys
import time

from lib import BUILD, SNAPTRAIL, SOURCE, log, need, program, record, run_argv, show, skip, snaptrail, supervised, wait_for

HOSTS = ("run", "plain")
SPOKEN = program("spoken")
PRELOAD = os.path.join(BUILD, ".libs", "libsnaptrail-preload.so")


def say(part, session="s", options=(), **kw):
    p = record(SPOKEN, *part.split(), session=session, options=options, **kw)
    assert p.returncode == 0, (p.returncode, p.stdout, p.stderr)
    return p


def own(table):
    """Entries that the program named, not the recorder."""
    return {k: v for k, v in table.items() if not re.match(r"p\d+($|[/~])", k) and not k.startswith("recorder/")}


def without(entity, *names):
    return {k: v for k, v in entity.items() if k not in names}


def pid_of(state):
    return next(a["pid"] for a in state["agents"].values() if a["type"] == "process")


TIMES = ("createdAt", "lastActivity", "endedAt", "startedAt", "completedAt", "timestamp")


def said_all(state):
    """Holds what `spoken all` said against what is expected, times and all."""
    pid = pid_of(state)
    me, ended = "p%d" % pid, {"endReason": "process ended"}
    agents, tasks = own(state["agents"]), own(state["tasks"])
    assert {k: without(v, *TIMES) for k, v in agents.items()} == {
        "worker-1": {"id": "worker-1", "type": "worker", "status": "terminated", "parent": me, "pid": pid, **ended},
        "worker-2": {"id": "worker-2", "type": "agent", "status": "terminated", "parent": "worker-1", "pid": pid,
                     "endReason": "no more work"},
        "worker-3": {"id": "worker-3", "type": "agent", "status": "error", "parent": me, "pid": pid,
                     "endReason": "out of memory"},
        "dated": {"id": "dated", "type": "agent", "status": "terminated", "parent": me, "pid": pid, **ended},
    }, agents
    assert {k: without(v, *TIMES) for k, v in tasks.items()} == {
        "t1": {"id": "t1", "agentId": "worker-1", "type": "sort", "status": "failed", "description": "sort 10 rows",
               "pid": pid, "progress": 0.25, "error": "process ended"},
        "t2": {"id": "t2", "agentId": "%s/t%d" % (me, pid), "type": "task", "status": "completed", "pid": pid,
               "result": "42 rows"},
        "t3": {"id": "t3", "agentId": "worker-1", "type": "task", "status": "failed", "pid": pid,
               "error": "no such table"},
        "t4": {"id": "t4", "agentId": "worker-1", "type": "task", "status": "completed", "pid": pid, "result": -7},
    }, tasks
    now = state["agents"][me]["createdAt"]
    for e in list(tasks.values()):
        assert now <= e["startedAt"] <= e["completedAt"] <= now + 60000, e
    for k, e in agents.items():
        assert e["createdAt"] <= e["lastActivity"] <= e["endedAt"], e
        assert (e["createdAt"] == 1500000000250) == (k == "dated"), e
    assert own(state["metrics"]) == {"qps": 1250.5}
    assert [without(m, "timestamp") for m in state["communications"]["orders"]] == [
        {"message": "one", "direction": "in", "source": "shop", "target": me},
        {"message": 2, "direction": "out", "target": "store", "source": me},
        {"message": None, "direction": "out", "source": me}]
    values = {
        "v/null": (None, "null"), "v/true": (True, "boolean"), "v/false": (False, "boolean"), "v/zero": (0, "integer"),
        "v/least": (-2**63, "integer"), "v/most": (2**63 - 1, "integer"), "v/huge": (2**64 - 1, "integer"),
        "v/real": (0.1, "number"), "v/text": ("gr\u00fc\u00dfe \"x\"\n", "string"), "v/empty": ("", "string"),
        "v/bytes": ("\0\udcff\1", "bytes"), "v/list": ([], "list"),
        "v/object": ({"z": 1, "a": None, "list": [2.5, [], {}, 2**64 - 1], "in": {"": True}}, "object"),
        "dated": (5, "integer"), "mark/done": ("done", "mark"),
    }
    memory = own(state["memory"])
    assert sorted(memory) == sorted(values), sorted(memory)
    for k, (value, kind) in values.items():
        e = memory[k]
        assert e["value"] == value and type(e["value"]) is type(value) and e["type"] == kind, (k, e)
        assert e["agentId"] == ("dated" if k == "dated" else me), (k, e)
        assert e["timestamp"] == 1500000000250 if k == "dated" else now <= e["timestamp"] <= now + 60000, (k, e)
    assert list(memory["v/object"]["value"]) == ["z", "a", "list", "in"]


def test_everything_that_can_be_said_arrives_exactly():
    say("all")
    said_all(show("latest"))
    assert {e["source"] for e in log("s", "v/*") + log("s", "t1#progress") + log("s", "qps")} == {"api"}


def test_it_is_read_back_from_full_snapshots_as_it_was():
    with open("full.ini", "w") as f:
        f.write("[snapshot]\nincremental = no\n")
    p = subprocess.Popen(run_argv(SPOKEN, "hold", options=("--config", "full.ini")), stdin=subprocess.PIPE)
    wait_for(lambda: tagged("middle"), what="the snapshot")
    p.communicate(b"\n", timeout=20)
    state = show("tag:middle")
    assert state["agents"]["held"]["currentTask"] == "held" and state["tasks"]["held"]["status"] == "running"
    # The end as a reader plays it who begins at the full snapshot before.
    snapshots = json.loads(snaptrail("ls", "s", "--json"))
    assert [s["type"] for s in snapshots] == ["full"] * len(snapshots)
    state = show("@%d" % (int(snapshots[-1]["timestamp"] * 1000) * 1000 - 10000))
    held = state["agents"]["held"]
    assert (held["status"], held["endReason"]) == ("terminated", "process ended") and "currentTask" not in held, held
    assert state["tasks"]["held"]["status"] == "failed", state["tasks"]
    assert state["agents"]["held"] == show("latest")["agents"]["held"]


def tagged(tags):
    return json.loads(snaptrail("ls", "s", "--tag", tags, "--json", code=(0, 1, 4)) or "[]")


def test_with_nothing_injected_each_call_says_so_and_does_nothing():
    p = subprocess.run([SPOKEN, "nothing"], stdout=subprocess.PIPE, timeout=20)
    assert p.returncode == 0, p.stdout
    # There, but nothing records.
    env = dict(os.environ, LD_PRELOAD=PRELOAD, SNAPTRAIL_CONFIG="/no/such/file")
    p = subprocess.run([SPOKEN, "nothing"], stdout=subprocess.PIPE, timeout=20, env=env)
    assert p.returncode == 0, p.stdout


def test_each_thread_speaks_for_itself():
    say("threads", options=("--profile", "forensic"))
    state = show("latest")
    names = ["thread-%d" % i for i in range(4)]
    assert sorted(own(state["agents"])) == names and sorted(own(state["memory"])) == names
    for n in names:
        assert state["memory"][n]["value"] == 1000
        assert state["tasks"][n]["agentId"] == n
        numbers = [e["new"] for e in log("s", "memory:" + n + "#value")]
        assert numbers == list(range(1001)), (n, len(numbers))


def test_a_forked_child_speaks_for_itself_and_its_agents_end_with_it():
    say("fork")
    state = show("latest")
    child, parent = (state["memory"][k]["value"] for k in ("by-child", "by-parent"))
    assert child != parent
    a = state["agents"]["child"]
    assert a["parent"] == "p%d" % child and a["pid"] == child
    assert a["status"] == "terminated" and a["endReason"] == "process ended"
    assert state["memory"]["by-child"]["agentId"] == "p%d" % child
    assert state["memory"]["by-parent"]["agentId"] == "p%d" % parent


def test_a_handler_may_report_while_a_report_is_under_way():
    p = say("signal", options=("--profile", "forensic"))
    state = show("latest")
    ticks = int(p.stdout)
    assert ticks >= 400
    assert state["memory"]["last"]["value"] == ticks
    seen = [e["new"] for e in log("s", "memory:ticks#value")]
    assert seen == sorted(seen) and len(set(seen)) == len(seen)
    lost = json.loads(snaptrail("stats", "--json"))["loss"]["lost"]
    assert len(seen) + lost >= ticks - 1, (len(seen), lost, ticks)


def test_secrets_do_not_leave_the_program():
    say("secret")
    state = show("latest")
    memory = state["memory"]
    assert memory["db/password"]["value"] == memory["API_TOKEN"]["value"] == "<redacted>"
    assert memory["db/url"]["value"] == "postgres://joe:<redacted>@host/db"
    assert memory["plain"]["value"] == "colour=red: fine"
    assert state["tasks"]["dial"]["description"] == "password=<redacted> now"
    assert state["tasks"]["dial"]["error"] == "no: postgres://joe:<redacted>@host/db"
    login = memory["login"]["value"]
    assert login["user"] == "joe" and login["after"] == 3, login
    assert login["password"].startswith("<redacted>") and login["secret"].startswith("<redacted>"), login
    out = snaptrail("show", "latest", "--json") + snaptrail("log", "--json")
    assert "hunter2" not in out


def test_secrets_are_not_in_the_mapping_either():
    p = subprocess.Popen(run_argv("sh", "-c", SPOKEN + " secret; kill -STOP $$"), stdout=subprocess.PIPE)
    folder = wait_for(lambda: live_folder(), what="the live folder")
    wait_for(lambda: "db/url" in snaptrail("show", "live", "--json", code=(0, 4)), what="the report")
    looked = 0
    for name in os.listdir(folder):
        try:
            with open(os.path.join(folder, name), "rb") as f:
                assert b"hunter2" not in f.read(), name
                looked += 1
        except FileNotFoundError:
            pass  # a ring that was drained and is done with
    assert looked
    p.kill()


def live_folder():
    pointers = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    # Another name is of one that is just being made.
    for name in [n for n in os.listdir(pointers) if len(n) == 16] if os.path.isdir(pointers) else []:
        with open(os.path.join(pointers, name), errors="replace") as f:
            m = re.search(r"/\S*snaptrail-\d+/\w+", f.read())
            if m and os.path.isdir(m.group(0)):
                return m.group(0)
    return None


def test_what_is_wrong_is_refused_with_a_reason():
    say("wrong")
    state = show("latest")
    assert sorted(own(state["agents"])) == ["p", "p1x"]
    assert sorted(own(state["memory"])) == ["longest"]
    assert state["memory"]["longest"]["value"] == "x" * 65536
    assert not own(state["tasks"])


def test_what_a_dead_process_left_behind_ends_with_it():
    say("dies")
    state = show("latest")
    left, ended, task = state["agents"]["left"], state["agents"]["ended"], state["tasks"]["left"]
    assert (left["status"], left["endReason"]) == ("terminated", "process ended") and "currentTask" not in left
    assert ended["status"] == "terminated" and "endReason" not in ended
    assert (task["status"], task["error"]) == ("failed", "process ended")
    assert state["memory"]["kept"]["value"] == 1
    assert all(s["activeAgents"] == 0 and s["runningTasks"] == 0 for s in state["swarms"].values())


def test_a_name_used_again_begins_anew_and_lost_beginnings_heal():
    say("again")
    state = show("mark:none")
    a, healed = state["agents"]["a"], state["tasks"]["healed"]
    assert (a["type"], a["status"]) == ("agent", "busy") and "endedAt" not in a and "endReason" not in a
    assert (healed["status"], healed["progress"]) == ("running", 0.5) and "startedAt" in healed
    assert show("mark:both")["agents"]["a"]["currentTask"] == "inner"
    assert show("mark:one")["agents"]["a"]["currentTask"] == "outer"
    assert "currentTask" not in a


def test_marks_name_instants():
    say("marks")
    assert show("mark:b")["memory"]["x"]["value"] == 2
    assert show("mark:a")["memory"]["x"]["value"] == 3  # the latest of the name
    assert show("latest")["memory"]["x"]["value"] == 4
    d = json.loads(snaptrail("diff", "mark:b", "mark:a", "--json"))
    assert d["differences"]["memory"]["updated"]["x"]["value"] == {"old": 2, "new": 3}, d
    assert [e["key"] for e in log("s", "mark/*#timestamp")] == ["mark/a", "mark/b", "mark/a"]
    snaptrail("show", "mark:c", code=4)


def test_a_mark_of_an_earlier_run_of_the_session_is_found():
    say("marks")
    say("all")
    assert show("mark:b")["memory"]["x"]["value"] == 2


def test_a_snapshot_is_taken_of_the_instant_it_was_asked_for():
    p = subprocess.Popen(run_argv(SPOKEN, "snapshot"), stdin=subprocess.PIPE)
    found = wait_for(lambda: tagged("release,v2"), what="the snapshot")
    p.communicate(b"\n", timeout=20)
    assert p.returncode == 0 and len(found) == 1
    s = found[0]
    assert s["origin"] == "manual" and s["description"] == "before the release", s
    assert sorted(s["tags"]) == ["red", "release", "v2"], s
    assert show("tag:release")["memory"]["x"]["value"] == "before"
    assert show("latest")["memory"]["x"]["value"] == "after"


def test_a_snapshot_asked_for_at_the_end_is_there():
    p = record(SPOKEN, "snapshot", stdin=subprocess.DEVNULL)
    assert p.returncode == 0, p.stdout
    found = tagged("release")
    assert [s["origin"] for s in found] == ["manual"], found
    assert show(found[0]["id"])["memory"]["x"]["value"] == "before"


def test_a_thousand_requests_a_second_are_ten_snapshots_with_all_their_tags():
    say("flood 1000")
    snapshots = json.loads(snaptrail("ls", "s", "--json"))
    manual = [s for s in snapshots if s["origin"] == "manual"]
    took = (snapshots[-1]["timestamp"] - snapshots[0]["timestamp"]) / 1000
    assert 2 <= len(manual) <= took * 10 + 1, (len(manual), took)
    assert {t for s in snapshots for t in s["tags"]} == {"n%d" % i for i in range(60)}


# ---- how it may be built ----

BUILDS = [
    ("c11", ["gcc", "-std=c11", "-O2"], []), ("O0", ["gcc", "-std=c11", "-O0"], []),
    ("nopie", ["gcc", "-std=c11", "-O2", "-fno-pie"], ["-no-pie"]),
    ("nopie-gold", ["gcc", "-std=c11", "-fno-pie"], ["-no-pie", "-fuse-ld=gold"]),
    ("noplt", ["gcc", "-std=c11", "-O2", "-fno-plt", "-fPIE"], ["-pie"]),
    ("now", ["gcc", "-std=c11", "-O2"], ["-Wl,-z,now"]), ("lto", ["gcc", "-std=c11", "-O2", "-flto"], []),
    ("cxx11", ["g++", "-x", "c++", "-std=c++11", "-O2"], []), ("cxx20", ["g++", "-x", "c++", "-std=c++20"], []),
    ("clang", ["clang", "-std=c11", "-O2"], []), ("clang-cxx", ["clang++", "-x", "c++", "-std=c++11"], []),
    ("lld", ["clang", "-std=c11", "-O2"], ["-fuse-ld=lld"]),
]

SMALL = r"""
#include <snaptrail/report.h>
#ifdef PART
int speak(void);
int speak(void) { return snaptrail_report_set("built", snaptrail_report_int(12)); }
#endif
#ifdef MAIN
#ifdef APART
#ifdef __cplusplus
extern "C" int speak(void);
#else
int speak(void);
#endif
int main(void) { return speak() == 0 ? 0 : 1; }
#else
int main(void)
{
	return snaptrail_report_on() && snaptrail_report_set("built", snaptrail_report_int(12)) == 0 ? 0 : 1;
}
#endif
#endif
"""

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Wshadow", "-Wconversion", "-Werror", "-I" + os.path.join(SOURCE, "src")]


def can(command, flags):
    p = subprocess.run([*command, *flags, "-o", "probe", "-"], input=b"int main(void) { return 0; }\n",
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if subprocess.run(
                           ["which", command[0]], stdout=subprocess.DEVNULL).returncode == 0 else None
    return p is not None and (p.returncode == 0 or command[1:2] != ["-x"] and compiles_file(command, flags))


def compiles_file(command, flags):
    with open("probe.c", "w") as f:
        f.write("int main(void) { return 0; }\n")
    return subprocess.run([*command, "probe.c", *flags, "-o", "probe"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def build(name, command, flags, *more):
    subprocess.run([*command, *STRICT, *more, "small.c", *flags, "-o", name], check=True)
    return os.path.abspath(name)


def test_every_way_to_build_a_program_works_without_a_warning():
    with open("small.c", "w") as f:
        f.write(SMALL)
    tried = []
    for name, command, flags in BUILDS:
        if not can(command, flags):
            continue
        path = build(name, command, flags, "-DMAIN")
        for env in ({}, {"LD_BIND_NOW": "1"}):
            session = name + ("-now" if env else "")
            p = record(path, session=session, env=dict(os.environ, **env))
            assert p.returncode == 0, "%s %s: %s" % (name, env, p.stderr)
            assert show("latest", session)["memory"]["built"]["value"] == 12
        assert subprocess.run([path]).returncode == 1, name
        tried.append(name)
    print("built with", tried)
    assert {"c11", "nopie", "noplt"} <= set(tried), tried


def test_a_shared_library_may_use_it_too():
    with open("small.c", "w") as f:
        f.write(SMALL)
    gcc = ["gcc", "-std=c11", "-O2"]
    build("libpart.so", gcc, ["-shared", "-fPIC", "-Wl,-z,defs"], "-DPART", "-fPIC")
    path = build("user", gcc, ["-L.", "-lpart", "-Wl,-rpath," + os.getcwd()], "-DMAIN", "-DAPART")
    assert record(path).returncode == 0
    assert show("latest")["memory"]["built"]["value"] == 12
    assert subprocess.run([path]).returncode == 1


# ---- other languages ----

PYTHON = r"""
import ctypes, sys
class Report(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("kind", ctypes.c_uint32)] + [
        f for n in ("key", "agent", "type", "status", "text") for f in ((n, ctypes.c_char_p), (n + "_len", ctypes.c_size_t))
    ] + [("time_ns", ctypes.c_uint64), ("number", ctypes.c_double), ("value_type", ctypes.c_uint32),
         ("flags", ctypes.c_uint32), ("value", ctypes.c_int64), ("value_len", ctypes.c_size_t)]
door = ctypes.CDLL(None).snaptrail_report_v1
def say(kind, **fields):
    r = Report(size=ctypes.sizeof(Report), kind=kind)
    for k, v in fields.items():
        setattr(r, k, v.encode() if isinstance(v, str) else v)
        if isinstance(v, str):
            setattr(r, k + "_len", ctypes.c_size_t(-1).value)
    return door(ctypes.byref(r))
assert ctypes.sizeof(Report) == 128
assert ctypes.CDLL(None).snaptrail_report_enabled() == 1
assert say(1, key="worker", type="python") == 0
assert say(4, key="job", agent="worker", text="from Python") == 0
assert say(5, key="job", number=0.5) == 0
assert say(8, key="answer", value_type=3, value=-42) == 0
text = b"words"
keep = ctypes.create_string_buffer(text)
assert say(8, key="said", value_type=6, value=ctypes.addressof(keep), value_len=len(text)) == 0
assert say(12, key="load", number=0.75) == 0
assert say(13, key="here") == 0
assert say(77, key="x") == -22
"""


def test_python_speaks_through_ctypes():
    p = record(sys.executable, "-c", PYTHON, session="py")
    assert p.returncode == 0, p.stderr
    state = show("mark:here", "py")
    assert state["agents"]["worker"]["type"] == "python"
    assert state["agents"]["worker"]["currentTask"] == "job"
    assert state["tasks"]["job"]["progress"] == 0.5 and state["tasks"]["job"]["description"] == "from Python"
    assert state["memory"]["answer"]["value"] == -42 and state["memory"]["said"]["value"] == "words"
    assert state["metrics"]["load"] == 0.75


def test_the_documented_adapter_builds_out_of_tree_and_runs():
    adapter = os.path.join(SOURCE, "doc", "adapter-example.c")
    with open(adapter) as f:
        assert len(f.read().splitlines()) < 60
    subprocess.run(["gcc", "-std=c11", *STRICT, adapter, "-o", "adapter"], check=True)
    lines = b"+ boil water\n% boil 0.5\n= temperature 71.5\n- boil done\n+ tea\n! tea no leaves\n"
    p = record(os.path.abspath("adapter"), input=lines)
    assert p.returncode == 0 and p.stdout == lines, (p.returncode, p.stdout, p.stderr)
    state = show("latest")
    assert state["tasks"]["boil"]["status"] == "completed" and state["tasks"]["boil"]["result"] == "done"
    assert state["tasks"]["boil"]["description"] == "water" and state["tasks"]["boil"]["progress"] == 0.5
    assert state["tasks"]["tea"]["status"] == "failed" and state["tasks"]["tea"]["error"] == "no leaves"
    assert state["metrics"]["temperature"] == 71.5


@supervised
def test_the_example_of_the_readme_prints_what_the_readme_shows():
    with open(os.path.join(SOURCE, "README.md")) as f:
        section = f.read().split("## Your own program's words", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"((?:^    .*\n|^\n)+)", section, re.M)
    code = next(b for b in blocks if "#include" in b)
    with open("words.c", "w") as f:
        f.write("\n".join(line[4:] for line in code.splitlines()) + "\n")
    subprocess.run(["gcc", "-I" + os.path.join(SOURCE, "src"), "-Wall", "-Werror", "words.c", "-o", "words"], check=True)
    assert record("./words", session="words").returncode == 0
    shown = next(b for b in blocks if "snaptrail show mark:" in b)
    wanted = [line.strip() for line in shown.splitlines() if line.strip() and "$" not in line]
    got = [re.sub(r"\s+", " ", line.strip()) for line in
           (snaptrail("show", "mark:half", "--session", "words") + snaptrail("log", "tasks:import", "--session", "words")).splitlines()]
    for line in wanted:
        if line == "...":
            continue
        line = re.sub(r"\s+", " ", line)
        pattern = re.sub(r"p\\?\d+", r"p\\d+", re.escape(line))
        pattern = re.sub(r"\d{4}\\-\d\d\\-\d\d\\ \d\d:\d\d:\d\d\\.\d{3}", r"\\S+ \\S+", pattern)
        pattern = re.sub(r"\d{10,}\\.\d+", r"[\\d.]+", pattern)
        assert any(re.fullmatch(pattern, g) for g in got), "README: %r is not printed; %r" % (line, got)


def test_the_manual_page_names_every_function():
    with open(os.path.join(SOURCE, "src", "snaptrail", "report.h")) as f:
        names = set(re.findall(r"^SNAPTRAIL_REPORT_(?:API|BUILD) [\w ]+?[\s*](snaptrail_report_\w*[a-z])\(", f.read(), re.M))
    assert len(names) > 25, names
    with open(os.path.join(SOURCE, "doc", "snaptrail_report.3")) as f:
        page = f.read()
    missing = sorted(n for n in names if n + "(" not in page.replace("\\fR", "").replace("\\fB", ""))
    assert not missing, missing
