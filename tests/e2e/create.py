"""States from files become snapshots of a session, and say when what became true."""
import json
import os
import subprocess
import time

from lib import SNAPTRAIL, snaptrail

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "states-by-id.json")


def run(*args, text=None):
    p = subprocess.run([SNAPTRAIL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, input=text, text=True, timeout=20)
    return p.returncode, p.stdout, p.stderr


def create(state, *args):
    code, out, err = run("create", "orders", "--state", "-", *args, text=json.dumps(state))
    assert code == 0 and not err, err
    return out.strip()


def states():
    with open(DATA) as f:
        return json.load(f)


def orders():
    return {name: create(s, "-t", name, "-d", "the %s" % name) for name, s in states().items()}


def test_each_state_comes_back_as_it_was():
    ids = orders()
    for name, s in states().items():
        shown = json.loads(snaptrail("show", ids[name], "--json"))
        assert {k: shown[k] for k in s} == s and list(shown["agents"]) == list(s["agents"])
        assert shown["session"] == "orders"
    listed = json.loads(snaptrail("ls", "orders", "--json"))
    assert [x["id"] for x in listed] == list(ids.values())
    assert listed[0]["type"] == "full" and {x["type"] for x in listed[1:]} == {"incremental"}
    assert listed[2]["tags"] == ["snapshot-3"] and listed[2]["description"] == "the snapshot-3"
    assert listed[1]["baseSnapshotId"] == listed[0]["id"] and listed[0]["origin"] == "manual"
    assert listed[0]["agentCount"] == 8 and listed[3]["taskCount"] == 16


def test_a_file_and_stdin_are_the_same_and_a_time_is_taken():
    with open("state.json", "w") as f:
        f.write('{"metrics": {"m": 1}}')
    code, out, _ = run("create", "s", "--state", "state.json", "--time", "2026-01-02T03:04:05Z", "--type", "incremental")
    assert code == 0
    (s,) = json.loads(snaptrail("ls", "s", "--json"))
    assert (s["id"], s["type"], s["timestamp"]) == (out.strip(), "incremental", 1767323045000)
    assert json.loads(snaptrail("show", "@2026-01-02T03:04:06Z", "--json"))["metrics"] == {"m": 1}


def test_whatever_json_says_is_kept():
    odd = {"timestamp": None, "agents": {"a": None, "b": [], "c": {}, "10": {"x": {}}, "2": 1.5}, "tasks": [], "memory": {},
           "own": {"deep": [[[{"k": "\u2603\U0001f600\u0000"}]]]}, "metrics": {"big": 2**63 + 5, "neg": -2**63, "tiny": 5e-324}}
    one = create(odd)
    two = create({**odd, "own": 1})
    for ref, s in ((one, odd), (two, {**odd, "own": 1})):
        code, out, _ = run("export", "orders", "--include-incrementals")
        mine = [x for x in json.loads(out)["snapshots"] if x["id"] == ref]
        assert code == 0 and list(mine[0]["state"]) == list(s)
        del s["metrics"], mine[0]["state"]["metrics"]  # JavaScript's numbers
        assert mine[0]["state"] == s
    shown = json.loads(snaptrail("show", one, "--json"))
    assert shown["tasks"] == [] and shown["own"] == odd["own"] and shown["timestamp"] is None
    assert shown["metrics"] == {"big": 2**63 + 5, "neg": -2**63, "tiny": 5e-324}


def test_bad_states_change_nothing_and_say_where():
    for text, where in (("{bad", "line 1, column 2"), ('{"a": 1', "line 1"), ("[]", "object"), ('{"a":"\\ud800"}', "line 1"),
                        ("", "stdin"), ('{"a":' * 300 + "1" + "}" * 300, "stdin"), ('{"a": 01}', "line 1")):
        code, out, err = run("create", "orders", "--state", "-", text=text)
        assert code == 2 and not out and err.count("\n") <= 2 and where in err, (text, code, err)
    assert run("create", "orders", "--state", "missing.json")[0] == 2
    assert run("create", "--state", "-", text="{}")[0] == 2
    assert run("create", "a/b", "--state", "-", text="{}")[0] == 2
    assert run("create", "s", "--state", "-", "--type", "tagged", text="{}")[0] == 2
    assert run("create", "s", "--state", "-", "-t", "a,b", text="{}")[0] == 2
    assert run("sessions")[0] == 1
    assert run("create", "s")[0] == 4  # nothing is live under that name


def test_when_something_became_true():
    for i, n in enumerate((1, 5, 2, 9)):
        run("create", "s", "--state", "-", "--time", "17670000%02d" % i, text=json.dumps({"tasks": {"t": {"n": n, "s": "x%d" % n}}}))

    def when(*args):
        code, out, err = run("when", *args, "--json")
        return code, json.loads(out)["time"] / 1000 - 1767000000 if code == 0 else err

    assert when("tasks:t#n", ">", "4") == (0, 1)
    assert when("tasks:t#n", ">", "4", "--last") == (0, 3)
    assert when("t#s", "~", "x[29]") [0] == 1 and when("t#s", "~", "x?") == (0, 0)
    assert when("t#s", "==", "x9") == (0, 3)
    assert when("t#n", ">", "100")[0] == 1
    assert when("t#n", ">", "4", "--until", "1767000001")[0] == 1
    assert when("t#n", ">", "0", "--since", "1767000009")[0] == 8
    assert run("when", "t#n", "><", "4")[0] == 2 and run("when", "t")[0] == 2


def test_a_store_in_memory_keeps_nothing_and_says_so():
    for text in ("[storage]\ntype = memory\n", "[storage]\npersist = no\n"):
        with open("m.ini", "w") as f:
            f.write(text)
        code, out, err = run("--config", "m.ini", "create", "s", "--state", "-", text="{}")
        assert code == 0 and len(out) == 17 and "nothing of this outlives" in err, (code, out, err)
        assert not os.path.exists(os.path.join(os.environ["SNAPTRAIL_STORE"], "segments"))


def test_an_instant_gets_a_name_afterwards():
    for i in range(4):
        run("create", "s", "--state", "-", "--time", "17670000%02d" % i, text=json.dumps({"metrics": {"n": i}}))

    def n(ref):
        return json.loads(snaptrail("show", ref, "--json"))["metrics"]["n"]

    assert run("mark", "here", "@1767000001.5")[0] == 0 and n("mark:here") == 1
    assert run("mark", "here", "latest~1")[0] == 0 and n("mark:here") == 2 and n("s/mark:here") == 2
    assert run("mark", "end")[0] == 0 and n("mark:end") == 3
    assert run("show", "mark:none")[0] == 4 and run("mark")[0] == 2 and run("mark", "x", "nothing")[0] == 4
    assert run("verify")[0] == 0


def test_when_says_the_instant_at_which_a_value_came():
    """Against a clock of its own; a bare number is the text of an environment as well."""
    took = {}
    for i in (1, 2, 3):
        state = {"memory": {"e": {"value": str(i)}}, "metrics": {"n": i}}
        before = time.time_ns()
        p = subprocess.run([SNAPTRAIL, "create", "w", "--state", "-"], input=json.dumps(state), text=True, stdout=subprocess.PIPE)
        assert p.returncode == 0
        took[i] = before, time.time_ns()

    def when(*args):
        return int(json.loads(snaptrail("when", *args, "--session", "w", "--json"))["timeNs"])
    for i in (1, 2, 3):
        for path, value in (("metrics:n", str(i)), ("memory:e#value", str(i)), ("memory:e#value", '"%d"' % i)):
            assert took[i][0] <= when(path, "==", value) <= took[i][1], (i, path, value)
    assert when("metrics:n", ">", "1") == when("metrics:n", "==", "2") and when("memory:e#value", "!=", '"1"') == when("metrics:n", "==", "2")
    assert snaptrail("when", "memory:e#value", "==", "4", "--session", "w", "--json", code=1) == "null\n"
    assert snaptrail("when", "metrics:n", "==", '"2"', "--session", "w", "--json", code=1) == "null\n"
