"""Call stacks: the functions that a program is known to have called, wherever
it calls them from, and none where none may be walked."""
import json
import os
import re
import shutil
import subprocess

from lib import BUILD, SOURCE, need, program, record, skip, snaptrail, supervised

HOSTS = ("run", "plain")
OBJECT = os.path.join(BUILD, "preload", ".libs", "libsnaptrail-preload-stack.so")


def stacks(*where, options=("--profile", "forensic"), session="s", **kw):
    """Runs tests/programs/stacks.c; its output and the events of its log."""
    if not os.path.exists(OBJECT):
        skip("built without libunwind")
    p = record(program("stacks"), *where, options=options, session=session, **kw)
    assert p.returncode == 0, (p.returncode, p.stderr[-500:])
    return p.stdout.decode().split(), events(session)


def events(session="s"):
    text = snaptrail("log", "--stack", "--json", "--session", session)
    return [json.loads(line) for line in text.splitlines()]


def opened(log, name):
    """Events that opened the file of this name."""
    return [e for e in log if e["kind"] == "fd_opened" and e["field"] == "" and e["op"] == "set" and
            e["new"].get("allocation", {}).get("path", "").endswith("/" + name)]


def names(event):
    return [f["symbol"] or "?" for f in event.get("stack", [])]


def names_of(where, name=None, *more):
    _, log = stacks(where, *more)
    found = opened(log, name or where)
    assert found, "%s was not opened: %s" % (name or where, [e["new"] for e in log if e["kind"] == "fd_opened"])
    return [names(e) for e in found]


def test_the_functions_are_those_that_were_called():
    got = names_of("main")
    assert got[0][:4] == ["c", "b", "a", "main"], got


def test_addresses_are_those_of_backtrace():
    told, log = stacks("main")
    frames = opened(log, "main")[0]["stack"]
    # The innermost one is another call of the same function.
    ours = [int(f["address"], 16) for f in frames]
    theirs = [int(a, 16) for a in told]
    assert len(ours) >= 5 and ours[1:] == theirs[1:], (ours, theirs)


def test_gdb_sees_the_same_functions():
    need("gdb")
    out = subprocess.run(["gdb", "-q", "-batch", "-nx", "-ex", "set debuginfod enabled off", "-ex", "set breakpoint pending on",
                          "-ex", "break close if $rdi > 2", "-ex", "run main", "-ex", "backtrace", program("stacks")],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50).stdout
    theirs = re.findall(r"^#\d+\s+(?:0x[0-9a-f]+ in )?(\w+) \(", out, re.M)
    if "c" not in theirs:
        skip("gdb cannot run programs here")
    log = stacks("main")[1]
    ours = [names(e) for e in log if e["kind"] == "fd_closed" and "main" in names(e)]
    assert ours and ours[0][:4] == theirs[theirs.index("c"):][:4], (ours, theirs)


def test_a_frame_found_through_memory_is_walked():
    got = names_of("aligned")
    assert got[0][:5] == ["c", "b", "a", "aligned", "main"], got


def test_a_thread_has_its_own_stack():
    got = names_of("thread")
    assert got[0][:4] == ["c", "b", "a", "in_thread"] and "main" not in got[0], got


def test_a_forked_child_names_stacks_that_its_parent_explained():
    _, log = stacks("child")
    parent, child = opened(log, "parent")[0], opened(log, "child")[0]
    assert parent["key"] != child["key"]
    assert names(parent)[:4] == names(child)[:4] == ["c", "b", "a", "main"], (names(parent), names(child))


def library():
    out = os.path.abspath("library.so")
    subprocess.run(["cc", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-g", "-shared", "-fPIC", "-DLIBRARY",
                    os.path.join(SOURCE, "tests", "programs", "stacks.c"), "-o", out], check=True)
    return out


def test_a_library_that_is_opened_and_closed_again_and_again_is_named():
    need("cc")
    lib = library()
    got = names_of("library", "library", lib)
    assert len(got) == 3, got
    for g in got:
        assert g[:4] == ["library_c", "library_b", "library", "main"], got


def test_a_constructor_under_the_loaders_lock_is_walked_without_it():
    need("cc")
    got = names_of("library", "constructor", library())
    assert len(got) == 3, got
    for g in got:
        assert g[:3] == ["library_c", "library_b", "library_constructor"], got
        assert "library" in g or len(g) == 16, got


def test_a_signal_handler_has_no_stack_and_what_follows_has():
    _, log = stacks("handler")
    assert names(opened(log, "handler")[0]) == [], names(opened(log, "handler")[0])
    assert names(opened(log, "afterwards")[0])[:3] == ["c", "b", "a"]


def test_an_alternate_stack_has_no_stack_and_what_follows_has():
    _, log = stacks("alternate")
    assert names(opened(log, "handler")[0]) == [], names(opened(log, "handler")[0])
    assert names(opened(log, "afterwards")[0])[:3] == ["c", "b", "a"]


def test_handlers_between_any_two_instructions_harm_nothing():
    _, log = stacks("interrupted")
    storms, walked = opened(log, "storm"), opened(log, "interrupted")
    assert len(storms) >= 100, len(storms)
    assert not any(names(e) for e in storms)
    good = [names(e) for e in walked if names(e)]
    assert len(good) >= len(walked) * 0.9, (len(good), len(walked))
    for g in good:
        assert g[:3] == ["c", "b", "a"] and set(g[3:]) <= {"down", "interrupted", "main", "?", "__libc_start_call_main"} | {
            n for n in g if n.startswith(("__libc_start_main", "_start"))}, g


def test_the_smallest_stack_suffices():
    _, log = stacks("small")
    assert names(opened(log, "small")[0])[:4] in (["c", "b", "a", "in_thread"], []), names(opened(log, "small")[0])


def test_a_stack_that_is_nearly_full_is_not_walked():
    assert names_of("full", "full", "4096")[0] == []


def test_a_walk_fits_into_the_room_that_it_asks_for():
    _, log = stacks("full", "7168", env=dict(os.environ, SNAPTRAIL_CAPTURE_STACK_DEPTH="64"))
    assert names(opened(log, "full")[0])[:4] == ["c", "b", "a", "nearly_full"], names(opened(log, "full")[0])


def test_the_depth_is_the_profiles():
    got = names_of("deep")[0]
    assert len(got) == 16 and got[:3] == ["c", "b", "a"] and set(got[3:]) == {"down"}, got
    _, log = stacks("deep", session="five", options=("--profile", "forensic"),
                    env=dict(os.environ, SNAPTRAIL_CAPTURE_STACK_DEPTH="5"))
    event = opened(log, "deep")[0]
    assert names(event) == ["c", "b", "a", "down", "down"] and event["stackCut"] is True, event


def test_only_the_groups_that_are_asked_for_have_stacks():
    _, log = stacks("child", options=(), env=dict(os.environ, SNAPTRAIL_CAPTURE_STACKS="process"))
    assert not any("stack" in e for e in log if e["kind"].startswith("fd_"))
    assert any("a" not in names(e) and "main" in names(e) for e in log if e["kind"] == "process_exiting"), log


def test_without_being_asked_for_nothing_is_loaded():
    p = record("sh", "-c", "cat /proc/self/maps; echo $LD_PRELOAD", session="plain")
    assert b"unwind" not in p.stdout and b"preload-stack" not in p.stdout, p.stdout
    assert not any("stack" in e for e in events("plain"))


def raw_bytes(session):
    return sum(e["size"] for e in json.loads(snaptrail("ls", session, "--json")))


def test_a_hot_path_costs_one_id():
    off = dict(os.environ, SNAPTRAIL_CAPTURE_STACKS="no")
    stacks("hot", "2000")
    stacks("hot", "2000", session="less", env=off)
    walked, plain = opened(events("s"), "hot"), opened(events("less"), "hot")
    assert len(walked) == len(plain) == 2000 and all(names(e)[:3] == ["c", "b", "a"] for e in walked)
    assert len({json.dumps(e["stack"]) for e in walked}) == 4
    # Two Changes a file, ten bytes each, and some thousand for what is said once.
    assert raw_bytes("s") - raw_bytes("less") < 2 * 2000 * 10 + 16000, (raw_bytes("s"), raw_bytes("less"))


def test_no_descriptor_is_left_in_the_target():
    p = record("ls", "/proc/self/fd", options=("--profile", "forensic"))
    plain = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout == plain.stdout, (p.stdout, plain.stdout)


def test_libunwind_stays_out_of_the_targets_names():
    """In the global scope its _Unwind_* would stand in for libgcc's."""
    need("python3")
    code = "import ctypes; print('libunwind-x86_64' in open('/proc/self/maps').read(), " \
           "hasattr(ctypes.CDLL(None), '_Ux86_64_step'), hasattr(ctypes.CDLL(None), 'unw_backtrace'))"
    p = record("python3", "-c", code, options=("--profile", "forensic"))
    assert p.stdout.split() == [b"True", b"False", b"False"], p.stdout


@supervised
def test_the_object_may_come_later_and_stay_local():
    """As a host that opens it just before main does."""
    if not os.path.exists(OBJECT):
        skip("built without libunwind")
    need("python3")
    preload = os.path.join(BUILD, ".libs", "libsnaptrail-preload.so")
    code = "import ctypes\nopen('/etc/passwd').close()\nctypes.CDLL('%s')\nopen('/etc/hostname').close()" % OBJECT
    p = record("env", "LD_PRELOAD=" + preload, "python3", "-c", code, options=("--profile", "forensic"))
    assert p.returncode == 0, p.stderr[-300:]
    log = events()
    assert names(opened(log, "passwd")[0]) == [] and len(names(opened(log, "hostname")[0])) >= 5, log


def test_show_tells_the_stack_that_made_an_entity_what_it_is():
    _, log = stacks("main")
    e = [e for e in log if e["kind"] == "fd_opened" and e["op"] == "set" and e["field"] == "" and names(e)[:3] == ["c", "b", "a"]][0]
    at = "@" + e["timeNs"]
    text = snaptrail("show", at, "--path", e["key"], "--stack", "--session", "s")
    assert re.search(r"^  #0 c\+0x", text, re.M) and re.search(r"^  #3 main\+0x", text, re.M), text
    kept = json.loads(snaptrail("show", at, "--json", "--stack", "--session", "s"))["stacks"]
    assert [f["symbol"] for f in kept["resources:" + e["key"]]["stack"]][:3] == ["c", "b", "a"]
    snaptrail("show", "latest", "--stack", "--session", "s", code=2)


def test_what_was_not_walked_is_counted():
    stacks("handler")
    metrics = json.loads(snaptrail("show", "latest", "--json", "--session", "s"))["metrics"]
    assert metrics["stacks/inHandler"] >= 2 and metrics["stacks/noRoom"] == 0, metrics


def test_a_walk_that_a_handler_jumps_out_of_is_not_the_last():
    _, log = stacks("jumped")
    metrics = json.loads(snaptrail("show", "latest", "--json", "--session", "s"))["metrics"]
    got = names(opened(log, "afterwards")[0])
    assert got[:4] == ["c", "b", "a", "jumped"], (got, metrics)
    assert metrics["stacks/unready"] == 0, metrics


def test_the_object_needs_libc_only_and_exports_nothing():
    if not os.path.exists(OBJECT):
        skip("built without libunwind")
    need("nm", "readelf")
    out = subprocess.run(["readelf", "-d", OBJECT], stdout=subprocess.PIPE, text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", out)
    assert needed and set(needed) <= {"libc.so.6", "ld-linux-x86-64.so.2"}, needed
    defined = subprocess.run(["nm", "-D", "--defined-only", OBJECT], stdout=subprocess.PIPE, text=True).stdout
    assert defined.strip() == "", defined


def test_python_runs_as_before_and_its_stacks_are_plausible():
    need("python3")
    code = "import json,os,threading\n" \
           "def f():\n  open('/etc/hostname').read(); os.environ['A']='b'\n" \
           "t=threading.Thread(target=f); t.start(); t.join(); f()\n" \
           "try:\n  open('/no/such')\nexcept OSError as e: print(e)\n" \
           "print(json.dumps(sorted(os.environ.get(k,'') for k in ['A'])))"
    p = record("python3", "-c", code, options=("--profile", "forensic"))
    plain = subprocess.run(["python3", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (p.stdout, p.returncode) == (plain.stdout, plain.returncode), (p.stdout, p.stderr[-300:])
    found = opened(events(), "hostname")
    assert len(found) == 2, found
    for e in found:
        assert len(e["stack"]) >= 8, names(e)
        assert any("python" in (f["module"] or "") for f in e["stack"]), e["stack"]
    envs = [names(e) for e in events() if e["kind"] == "env_set" and "stack" in e]
    assert envs, "no stack of setenv"


def test_lines_for_people_have_the_frames_below():
    stacks("main")
    text = snaptrail("log", "*/fd*", "--stack", "--session", "s", "--no-pager")
    assert re.search(r"resources:p\d+/fd\d+  \+ file .*/main\n  #0 c\+0x[0-9a-f]+ \(stacks\)", text), text[:800]
    if "HAVE_LIBDW" in open(os.path.join(BUILD, "config.h")).read():
        assert re.search(r"  #1 b\+0x[0-9a-f]+ \(stacks\) \S*stacks\.c:\d+\n  #2 a\+0x[0-9a-f]+ \(stacks\)", text), text[:800]


def test_another_build_of_the_file_gives_no_wrong_names():
    if not os.path.exists(OBJECT):
        skip("built without libunwind")
    need("cc")
    copy = os.path.abspath("copy")
    shutil.copy(program("stacks"), copy)
    record(copy, "main", options=("--profile", "forensic"))
    assert names(opened(events(), "main")[0])[:2] == ["c", "b"]
    os.unlink(copy)
    subprocess.run(["cc", "-O1", "-x", "c", "-", "-o", copy], input=b"int main(void) { return 3; }", check=True)
    frame = opened(events(), "main")[0]["stack"][0]
    assert frame["symbol"] is None and "another build" in frame["note"], frame
    os.unlink(copy)
    frame = opened(events(), "main")[0]["stack"][0]
    assert frame["symbol"] is None and "gone" in frame["note"] and frame["offset"] > 0, frame


def test_a_log_that_begins_at_a_later_full_snapshot_knows_the_stacks():
    if not os.path.exists(OBJECT):
        skip("built without libunwind")
    need("python3")
    code = "import time\nfor i in range(12):\n  open('/etc/hostname').close()\n  time.sleep(0.1)"
    p = record("python3", "-c", code, options=("--profile", "forensic", "--interval", "100ms"),
               env=dict(os.environ, SNAPTRAIL_SNAPSHOT_FULL_EVERY="300ms"))
    assert p.returncode == 0
    full = [s for s in json.loads(snaptrail("ls", "s", "--json", "--type", "full")) if s["origin"] == "automatic"]
    assert full, "no later full snapshot"
    since = min(s["timestamp"] for s in full)
    text = snaptrail("log", "*/fd*", "--stack", "--json", "--session", "s", "--since", "%d" % (since + 1))
    later = opened([json.loads(line) for line in text.splitlines()], "hostname")
    assert len(later) >= 4, (len(later), full)
    assert all(len(e.get("stack", [])) >= 5 for e in later), [names(e) for e in later]
