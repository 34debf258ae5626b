"""Snapshots go out and come in: the original's files, our own, and what is neither."""
import glob
import gzip
import hashlib
import json
import os
import random
import struct
import subprocess

from lib import SNAPTRAIL, SOURCE, limit, need, record, show, snaptrail

DATA = os.path.join(SOURCE, "tests/data")
ALL, DEFAULT, BIN = (os.path.join(DATA, n) for n in ("orders-all.json", "orders-default.json", "orders-all.bin"))
TABLES = ("agents", "tasks", "memory", "communications", "resources", "swarms", "metrics")


def run(*args, stdin=None, store=None):
    env = dict(os.environ, SNAPTRAIL_STORE=store) if store else None
    p = subprocess.run([SNAPTRAIL, *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=50, env=env)
    return p.returncode, p.stdout, p.stderr.decode()


def states():
    with open(os.path.join(DATA, "states-by-id.json")) as f:
        return json.load(f)


def shown(ref, session="orders"):
    s = show(ref, session)
    return {k: v for k, v in s.items() if k not in ("timeNs", "session")}


def text_of(state):
    return json.dumps(state, separators=(",", ":"), ensure_ascii=False)


def ls(session="orders", *args):
    return json.loads(snaptrail("ls", session, "--json", *args))


def exported(*args, session="orders", store=None):
    code, out, err = run("export", session, *args, store=store)
    assert code == 0, err
    return json.loads(out)


def without_time(doc):
    """An export without what is the exporting store's own."""
    for s in doc["snapshots"]:
        s.pop("createdAt")
    doc["metadata"].pop("exportTime")
    return doc


def document(*snapshots, **metadata):
    return json.dumps({"metadata": {"version": "1.0.0", "sessionId": "d", **metadata}, "snapshots": snapshots}).encode()


A_STATE = {"timestamp": 1, "agents": {"x": {"id": "x"}}}


def snapshot(id="a", timestamp=1000, state=A_STATE, **more):
    return {"id": id, "timestamp": timestamp, "state": state, "type": "full", "tags": [],
            "checksum": hashlib.sha256(text_of(state).encode(errors="surrogatepass")).hexdigest()[:16], **more}


# ---- the original's files ----

def test_what_the_original_exported_by_default_comes_in_and_validates():
    code, out, err = run("import", DEFAULT)
    assert (code, out, err) == (0, b"4 imported\n", ""), (code, out, err)
    assert sorted(s["id"] for s in ls()) == ["snapshot-1", "snapshot-2", "snapshot-4", "snapshot-5"]
    want = states()
    for ref in ("snapshot-1", "snapshot-4"):
        assert text_of(shown(ref)) == text_of(want[ref]), ref
    for ref in ("snapshot-2", "snapshot-5"):  # incrementals: the base's timestamp is all that the file has
        got = shown(ref)
        got["timestamp"] = want[ref]["timestamp"]
        assert text_of(got) == text_of(want[ref]), ref


def test_of_a_whole_export_what_was_hashed_otherwise_is_named():
    for file in (ALL, BIN):
        store = os.path.abspath(os.path.basename(file))
        code, out, err = run("import", file, "--json", store=store)
        r = json.loads(out)
        assert code == 3 and r["imported"] == 4 and r["skipped"] == 0, (code, r)
        assert sorted((e["id"], e["type"]) for e in r["errors"]) == \
            [("snapshot-2", "checksum_mismatch"), ("snapshot-5", "checksum_mismatch")], r
        code, out, err = run("import", file, "--json", "--no-validate", store=store)
        assert code == 0 and json.loads(out) == {"imported": 2, "skipped": 4, "errors": []}, out


def test_tagged_ones_become_full_and_keep_their_words():
    snaptrail("import", "--no-validate", ALL)
    s = {x["id"]: x for x in ls()}
    assert len(s) == 6 and {x["type"] for x in s.values()} == {"full"} and {x["origin"] for x in s.values()} == {"import"}
    assert s["snapshot-3"]["tags"] == ["before-deployment", "milestone"]
    assert s["snapshot-6"]["description"] == "ünïcode “quotes”" and s["snapshot-1"]["description"] == "first"
    assert s["snapshot-1"]["timestamp"] == 1795372843858 and s["snapshot-1"]["agentCount"] == 8
    want = states()
    for ref in ("snapshot-1", "snapshot-3", "snapshot-4", "snapshot-6"):
        assert text_of(shown(ref)) == text_of(want[ref]), ref


def test_importing_again_skips_what_is_there():
    snaptrail("import", DEFAULT)
    assert snaptrail("import", DEFAULT) == "0 imported, 4 skipped (there already)\n"


def test_stdin_is_a_file_too():
    with open(BIN, "rb") as f:
        code, out, err = run("import", "-", "--no-validate", stdin=f.read())
    assert (code, out) == (0, b"6 imported\n"), err


# ---- our own ----

def test_json_and_binary_carry_everything_to_another_store():
    snaptrail("import", "--no-validate", ALL)
    here = without_time(exported("--include-incrementals"))
    for form in ("json", "binary"):
        store = os.path.abspath(form)
        snaptrail("export", "orders", "--format", form, "-o", form + ".out")
        code, out, err = run("import", form + ".out", store=store)
        assert (code, out) == (0, b"6 imported\n"), err
        assert without_time(exported(store=store)) == here, form
    assert os.path.getsize("binary.out") < os.path.getsize("json.out")


def test_what_is_compressed_stays_so_where_the_store_would_compress_it():
    state = {"agents": {"agent-%d" % i: {"id": i, "variables": {"k": "v" * 40}} for i in range(500)}, "memory": {"a": 1, "b": 2}}
    run("import", "-", stdin=document(snapshot("one", 1000, state, sessionId="s"), snapshot("small", 900, {}, sessionId="s")))
    snaptrail("export", "s", "-f", "binary", "-o", "b")
    for policy in ("yes", "no"):
        os.environ["SNAPTRAIL_COMPRESSION_ENABLED"] = policy
        store = os.path.abspath(policy)
        code, _, err = run("import", "b", store=store)
        assert code == 0, err
        small, one = sorted(json.loads(run("ls", "s", "--json", store=store)[1]), key=lambda s: s["timestamp"])
        assert (one["compressed"], small["compressed"]) == (policy == "yes", False), (policy, one, small)
        assert one["agentCount"] == 500 and one["memoryEntryCount"] == 2, one
        assert [s["state"] for s in exported(session="s", store=store)["snapshots"]] == \
            [s["state"] for s in exported(session="s")["snapshots"]], policy
        code, out, err = run("verify", store=store)
        assert code == 0, (out, err)


def test_a_recorded_session_is_the_same_elsewhere():
    record("/bin/sh", "-c", "cd /tmp; /bin/true; exec 7</dev/null; /bin/true")
    here = without_time(exported("--include-incrementals", session="s"))
    assert len(here["snapshots"]) >= 2 and here["snapshots"][0]["timestamp"] > here["snapshots"][-1]["timestamp"]
    for form in ("json", "binary"):
        store = os.path.abspath(form)
        code, out, err = run("export", "s", "-f", form, "--include-incrementals")
        code, _, err = run("import", "-", stdin=out, store=store)
        assert code == 0, err
        there = without_time(exported("--include-incrementals", session="s", store=store))
        for a, b in zip(here["snapshots"], there["snapshots"]):
            assert (a["id"], a["timestamp"], a["type"], a["checksum"]) == (b["id"], b["timestamp"], b["type"], b["checksum"])
            assert a["state"] == b["state"]


def test_node_finds_every_checksum_right():
    need("node")
    record("/bin/sh", "-c", "/bin/true")  # before the import: a recording lets go of what is older than a day
    snaptrail("import", "--no-validate", ALL)
    odd = {"9": 1, "a": 1, "1": 2, "big": 2 ** 63, "f": 1e21, "é\u2028": "\udcff", "agents": {"10": {"b": 1.5e-7, "2": None}, "z": {}}}
    run("import", "-", "--no-validate", stdin=json.dumps({"snapshots": [snapshot(state=odd, sessionId="odd")]}).encode())
    script = "const d=JSON.parse(require('fs').readFileSync(0));for(const s of d.snapshots)console.log(s.checksum===" \
        "require('crypto').createHash('sha256').update(JSON.stringify(s.state)).digest('hex').slice(0,16))"
    for session, least in (("orders", 6), ("s", 1), ("odd", 1)):
        code, out, err = run("export", session, "--include-incrementals")
        said = subprocess.run(["node", "-e", script], input=out, stdout=subprocess.PIPE, check=True).stdout.split()
        assert len(said) >= least and set(said) == {b"true"}, (session, said)
        assert ("2^53" in err) == (session == "odd"), err


def test_python_reads_exports_of_names_that_are_no_utf8():
    record("/bin/sh", "-c", b"exec 7>'/tmp/\xff\xfe'; /bin/true".decode(errors="surrogateescape"))
    code, out, err = run("export", "s", "--include-incrementals")
    assert code == 0 and b"\\udcff\\udcfe" in out and json.loads(out)["metadata"]["sessionId"] == "s", err


def test_only_what_is_asked_for_goes_out():
    snaptrail("import", "--no-validate", ALL)
    ids = lambda *a: [s["id"] for s in exported(*a)["snapshots"]]  # noqa: E731
    assert ids() == ["snapshot-%d" % i for i in (6, 5, 4, 3, 2, 1)]
    assert ids("--tag", "milestone,before-deployment") == ["snapshot-3"]
    assert ids("--since", "1795372843882") == ["snapshot-6", "snapshot-5", "snapshot-4"]
    assert ids("--until", "1795372843873") == ["snapshot-2", "snapshot-1"]
    code, out, err = run("export", "orders", "--tag", "none")
    assert code == 1 and json.loads(out)["snapshots"] == [] and json.loads(out)["metadata"]["snapshotCount"] == 0
    assert run("export", "nobody")[0] == 4 and run("export", "a", "b")[0] == 2 and run("export", "--format", "xml")[0] == 2


def test_a_file_is_whole_or_as_it_was():
    snaptrail("import", DEFAULT)
    with open("out", "w") as f:
        f.write("before")
    assert run("export", "nobody", "-o", "out")[0] == 4
    with open("out") as f:
        assert f.read() == "before"
    snaptrail("export", "orders", "-o", "out")
    with open("out") as f:
        assert len(json.load(f)["snapshots"]) == 4
    assert [n for n in os.listdir(".") if n.startswith("out")] == ["out"]
    os.symlink("out", "link")
    snaptrail("export", "orders", "-o", "link")
    assert os.path.islink("link") and sorted(os.listdir(".")) == ["link", "out"]
    assert run("export", "orders", "-o", "no/such/folder")[0] == 2
    assert run("export", "orders", "-o", "/dev/full")[0] == 70


# ---- what is amiss ----

def test_each_snapshot_that_is_none_is_named_and_the_others_come_in():
    bad = [("no id", {"id": None}), ("id", {"id": 7}), ("long", {"id": "x" * 64}), ("time", {"timestamp": None}), ("time", {"timestamp": "now"}),
           ("time", {"timestamp": -1}), ("time", {"timestamp": 1e300}), ("state", {"state": None}), ("state", {"state": []}), ("state", {"state": "x"}),
           ("type", {"type": "half"}), ("type", {"type": 1}), ("tags", {"tags": "a"}), ("tags", {"tags": [1]}), ("tags", {"tags": [""]}),
           ("description", {"description": 5}), ("checksum", {"checksum": 5}), ("session", {"sessionId": {}}), ("lost", {"lost": "x"}),
           ("incrementalData", {"state": None, "incrementalData": 3}), ("bad name", {"sessionId": "a/b"}), ("bad name", {"sessionId": ""}),
           ("bad name", {"sessionId": "latest"}), ("zero", {"id": "a\0b"}), ("base", {"state": None, "incrementalData": {}}),
           ("base", {"state": None, "incrementalData": {"baseSnapshotId": "gone", "changes": {}}}),
           ("changes", {"state": None, "incrementalData": {"baseSnapshotId": "good", "changes": {"agents": {"added": []}}}}),
           ("changes", {"state": None, "incrementalData": {"baseSnapshotId": "good"}})]
    broken = [snapshot(**{"id": "bad%d" % i, **more}) for i, (_, more) in enumerate(bad)] + [7, None, [], "x"]
    doc = document(*broken, snapshot("good", 2000.25))
    code, out, err = run("import", "-", "--json", "--no-validate", stdin=doc)
    r = json.loads(out)
    assert code == 3 and r["imported"] == 1 and len(r["errors"]) == len(broken), (code, r["imported"], len(r["errors"]), len(broken))
    assert {e["type"] for e in r["errors"]} == {"invalid_snapshot", "missing_base"}
    (s,) = ls("d")
    assert s["id"] == "good" and s["timestamp"] == 2000.25


def test_a_checksum_that_does_not_match_is_told():
    doc = document(snapshot("a", checksum="0" * 16), snapshot("b", checksum=None), snapshot("c"))
    code, out, err = run("import", "-", stdin=doc)
    assert code == 3 and out == b"1 imported, 2 not taken\n" and "a: it is not what its checksum says" in err and "b: it has no checksum" in err


def test_text_that_is_laid_out_otherwise_validates():
    with open(DEFAULT) as f:
        doc = json.load(f)
    code, out, err = run("import", "-", stdin=json.dumps(doc, indent=3).encode())
    assert (code, out) == (0, b"4 imported\n"), err


def test_malformed_text_changes_nothing_and_says_where():
    with open(DEFAULT, "rb") as f:
        good = f.read()
    code, out, err = run("import", "-", stdin=good[:15000])
    assert code == 2 and out == b"" and "byte 15000" in err and "nothing was imported" in err, err
    code, out, err = run("import", "-", stdin=good[:-1] + b",}")
    assert code == 2 and "unexpected" in err, err
    for text in (b"", b" ", b"{}", b"[]", b"null", b"{\"snapshots\":{}}", b"{\"snapshots\":[]} x", b"\x7fELF", b"\x1f\x8b", b"SNAPTRL1",
                 gzip.compress(good)[:500], gzip.compress(good) + b"x", gzip.compress(good[:100])):
        code, out, err = run("import", "-", stdin=text)
        assert code in (2, 5) and out == b"" and err.startswith("snaptrail: stdin: "), (text, code, err)
    assert run("import", "-", stdin=document(version="2.0"))[0] == 6
    assert run("sessions")[1] == b"" or b"orders" not in run("sessions")[1]
    assert run("import", "/no/such/file")[0] == 2 and run("import", "/")[0] == 2 and run("import")[0] == 2


def test_nesting_and_names_of_any_kind_come_in_or_are_refused():
    deep = cur = {}
    for _ in range(100):
        cur["d"] = {}
        cur = cur["d"]
    many = {"timestamp": 5, "agents": {str(i): {"id": i} for i in range(2000)}, "memory": {"": None, "é": [deep]}}
    code, out, err = run("import", "-", stdin=document(snapshot("a", state=many), snapshot("b", state={}), snapshot("c", state={"agents": None})), )
    assert (code, out) == (0, b"3 imported\n"), err
    back = {s["id"]: s["state"] for s in exported(session="d")["snapshots"]}
    assert text_of(back["a"]) == text_of(many) and back["b"] == {} and back["c"] == {"agents": None}
    text = b'{"snapshots":[{"state":' + b'{"agents":' * 300 + b"1" + b"}" * 300 + b"}]}"
    code, out, err = run("import", "-", stdin=text)
    assert code == 2 and "nested deeper" in err, err


def test_ids_may_come_twice():
    doc = document(snapshot("a"), snapshot("a"), snapshot("0123456789abcdef"), snapshot("a", sessionId="other"))
    code, out, err = run("import", "-", stdin=doc)
    assert (code, out) == (0, b"3 imported, 1 skipped (there already)\n"), (out, err)
    assert [s["id"] for s in ls("other")] == ["a"] and "0123456789abcdef" in [s["id"] for s in ls("d")]


def test_chains_of_incrementals_find_their_bases_in_any_order():
    base = {"agents": {"x": {"n": 0}}}
    inc = [dict(snapshot("i%d" % i, 1000 + i), state=None,
                incrementalData={"baseSnapshotId": "i%d" % (i - 1), "changes": {"agents": {"added": {}, "updated": {"x": {"n": i}}, "removed": []}}})
           for i in range(1, 6)]
    everything = [snapshot("i0", 1000, state=base)] + inc
    random.Random(5).shuffle(everything)
    code, out, err = run("import", "-", "--no-validate", stdin=document(*everything))
    assert (code, out) == (0, b"6 imported\n"), err
    assert [s["state"]["agents"]["x"]["n"] for s in exported(session="d")["snapshots"]] == [5, 4, 3, 2, 1, 0]


def test_overwriting_replaces_and_leaves_what_stands_on_it():
    a0, a1, b = ({"agents": {"x": {"n": i, "rest": "." * 2000}}} for i in (1, 2, 3))
    inc = dict(snapshot("b", 2000), state=None, type="incremental",
               incrementalData={"baseSnapshotId": "a", "changes": {"agents": {"added": {}, "updated": {"x": {"n": 3}}, "removed": []}}})
    run("import", "-", "--no-validate", stdin=document(inc, snapshot("a", state=a0)))
    code, out, err = run("import", "-", "--overwrite", stdin=document(snapshot("a", 1500, state=a1, description="again")))
    assert (code, out) == (0, b"1 imported\n"), err
    (s,) = [s for s in ls("d") if s["id"] == "a"]
    assert s["description"] == "again" and s["timestamp"] == 1500 and len(ls("d")) == 2
    back = {s["id"]: s["state"] for s in exported("--include-incrementals", session="d")["snapshots"]}
    assert back == {"a": a1, "b": b}, back


def test_what_was_recorded_here_is_not_replaced():
    record("/bin/sh", "-c", "/bin/true")
    before = exported("--include-incrementals", session="s")
    code, out, err = run("import", "-", "--overwrite", "--json", stdin=json.dumps(before).encode())
    assert code == 0 and json.loads(out) == {"imported": 0, "skipped": len(before["snapshots"]), "errors": []}, (out, err)
    assert exported("--include-incrementals", session="s")["snapshots"] == before["snapshots"]


def test_a_killed_import_leaves_all_or_nothing():
    state = {"agents": {"agent-%d" % i: {"id": i, "variables": {"k": str(random.Random(i).random())}} for i in range(2000)}}
    with open("in", "wb") as f:
        f.write(document(*(snapshot("n%d" % i, 1000 + i, state) for i in range(40, 0, -1))))
    seen = set()
    for i in range(12):
        store = "k%d" % i
        p = subprocess.Popen([SNAPTRAIL, "--store", store, "import", "in"], stdout=subprocess.DEVNULL)
        size = 0
        while p.poll() is None and size < 4096 * (i * 4 + 1):
            size = sum(map(os.path.getsize, glob.glob(os.path.join(store, "segments", "*.seg"))))
        p.kill()
        p.wait()
        n = len(json.loads(run("--store", store, "ls", "d", "--json")[1] or "[]"))
        assert n in (0, 40), n
        seen.add(n)
    assert 0 in seen, "none was killed in time"


def peak_kb(*args):
    pid = os.fork()
    if pid == 0:
        os.execv(SNAPTRAIL, [SNAPTRAIL, *args])
    _, status, used = os.wait4(pid, 0)
    assert status == 0, (args, status)
    return used.ru_maxrss


def test_memory_holds_one_state_however_many_there_are():
    state = {"agents": {"agent-%d" % i: {"id": i, "variables": {"k": "v" * 40, "n": i + 0.5}} for i in range(5000)}}
    peaks = []
    for n in (3, 30):
        with open("in", "wb") as f:
            f.write(document(*(snapshot("n%d-%d" % (n, i), 1000 + i, state, sessionId="n%d" % n) for i in range(n, 0, -1))))
        peaks.append([peak_kb("import", "in"), peak_kb("export", "n%d" % n, "-o", "out"),
                      peak_kb("export", "n%d" % n, "-f", "binary", "-o", "b"), peak_kb("--store", "s%d" % n, "import", "b")])
    for few, many in zip(*peaks):
        assert many < few + 8000, peaks


@limit(180)
def test_no_damage_of_a_file_is_more_than_an_answer():
    snaptrail("import", DEFAULT)
    snaptrail("export", "orders", "-f", "binary", "-o", "b")
    snaptrail("export", "orders", "-o", "j")
    rnd = random.Random(1)
    for name in ("b", "j", BIN):
        with open(name, "rb") as f:
            good = f.read()
        for i in range(60):
            bad = bytearray(good)
            if i % 3 == 0:
                bad = bad[:rnd.randrange(len(bad))]
            for _ in range(rnd.randrange(1, 4) if i % 3 else 0):
                bad[rnd.randrange(len(bad))] = rnd.randrange(256)
            store = os.path.abspath("s-%s-%d" % (os.path.basename(name), i))
            code, out, err = run("import", "-", "--json", stdin=bytes(bad), store=store)
            assert code in (0, 2, 3, 5, 6), (name, i, code, err)
            n = len(json.loads(run("ls", "orders", "--json", store=store)[1] or "[]"))
            assert n == (json.loads(out)["imported"] if code in (0, 3) else 0), (name, i, code, n, out)
            if name == "b" and i % 3 == 0:
                assert code == 5, (i, code)


def test_a_damaged_record_of_a_binary_file_is_named():
    snaptrail("import", DEFAULT)
    snaptrail("export", "orders", "-f", "binary", "-o", "b")
    with open("b", "rb") as f:
        bad = bytearray(f.read())
    at = 64
    while struct.unpack_from("<H", bad, at + 4)[0] != 3:  # its first snapshot
        at += (128 + struct.unpack_from("<I", bad, at + 12)[0] + struct.unpack_from("<Q", bad, at + 16)[0] + 7) & ~7
    bad[at + 128 + struct.unpack_from("<I", bad, at + 12)[0] + 100] ^= 0x55
    code, out, err = run("import", "-", "--json", stdin=bytes(bad), store=os.path.abspath("t"))
    r = json.loads(out)
    assert code == 3 and r["imported"] == 3 and [e["type"] for e in r["errors"]] == ["damaged"], (code, out, err)
