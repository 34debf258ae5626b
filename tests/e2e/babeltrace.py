"""The Babeltrace 2 plugin, with the real babeltrace2 and real tracers: what they
print is the oracle."""
import json
import os
import re
import signal
import subprocess
import time

import ctf
import lib
from lib import limit, need, now_ns, show, skip, snaptrail, wait_for

PLUGIN = os.path.join(lib.BUILD, ".libs/babeltrace-plugin-snaptrail.so")
SECOND = 10 ** 9
T0 = 1700000000 * SECOND


def babeltrace(*args, code=0, **kw):
    need("babeltrace2")
    if not os.path.exists(PLUGIN):
        skip("built without Babeltrace 2")
    p = subprocess.run(["babeltrace2", "--plugin-path", os.path.dirname(PLUGIN), *args], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, errors="surrogateescape", timeout=50, **kw)
    assert (p.returncode != 0) == (code != 0), "babeltrace2 gave %d: %s" % (p.returncode, p.stderr[-1500:])
    return p


def quote(params):
    def one(v):
        if isinstance(v, bool):
            return "yes" if v else "no"
        return "[%s]" % ",".join(one(x) for x in v) if isinstance(v, list) else '"%s"' % v if isinstance(v, str) else str(v)
    return ",".join("%s=%s" % (k, one(v)) for k, v in params.items())


def sink(trace, session="s", code=0, **params):
    return babeltrace(trace, "-c", "sink.snaptrail.store", "-p", quote(dict(session=session, **params)), code=code)


def source(session="s", *rest, **params):
    return babeltrace("-c", "src:source.snaptrail.store", "-p", quote(dict(session=session, **params)), *rest)


def events(session="s"):
    """Of a session that may have none."""
    return [json.loads(line) for line in snaptrail("log", "--json", "--session", session, code=(0, 1)).splitlines()]


def messages(session="s"):
    """Every message that was ever in a channel: (ns, channel, message)."""
    return [(int(e["timeNs"]), e["key"], e["new"]) for e in events(session)
            if e["table"] == "communications" and e.get("new")]


def text_events(trace, *more):
    """(ns, event, text of its fields) as babeltrace2 prints them."""
    p = babeltrace("--clock-seconds", "--no-delta", trace, *more)
    found = []
    for line in p.stdout.splitlines():
        m = re.match(r"\[(\d+)\.(\d{9})\] (?:\S+ )?(\S+?): (.*)", line)
        assert m, "not understood: " + line
        found.append((int(m.group(1)) * SECOND + int(m.group(2)), m.group(3), m.group(4)))
    return found


# ---- a real tracer ----

TRACED = os.path.join(lib.SOURCE, "tests/lttng/traced.c")


def traced_program():
    out = os.path.join(os.getcwd(), "traced")
    p = subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-I" + os.path.dirname(TRACED), TRACED, "-o", out, "-llttng-ust",
                        "-ldl", "-pthread"], capture_output=True, text=True)
    if p.returncode:
        skip("no LTTng-UST to build with")
    return out


def listening():
    """TCP ports that somebody listens on."""
    rows = [line.split() for name in ("tcp", "tcp6") if os.path.exists("/proc/net/" + name) for line in open("/proc/net/" + name)]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


class Lttng:
    """A session daemon of our own, and what the tests ask of it.  Where LTTng's own
    commands do not return, there is nothing to test."""

    def __enter__(self):
        need("lttng", "lttng-sessiond")
        self.env = dict(os.environ, LTTNG_HOME=os.getcwd())
        if self.run("list").returncode == 0:
            skip("a session daemon runs already")
        self.started = []
        self.start("lttng-sessiond", "--no-kernel", "-q")
        wait_for(lambda: self.run("list").returncode == 0, 20, "the session daemon")
        return self

    def relay(self):
        """Its daemon is asked nothing before all of its ports are open."""
        self.start("lttng-relayd")
        wait_for(lambda: {5342, 5343, 5344} <= listening(), 20, "the relay daemon")

    def start(self, *command):
        self.started.append(subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return self.started[-1]

    def __exit__(self, *_):
        for p in reversed(self.started):
            p.terminate()
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    def run(self, *args):
        try:
            return subprocess.run(["lttng", *args], env=self.env, capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired:
            skip("lttng %s did not return within 20 s" % " ".join(args))

    def __call__(self, *args):
        p = self.run(*args)
        assert p.returncode == 0, "lttng %s: %s" % (" ".join(args), p.stdout + p.stderr)
        return p.stdout

    def record(self, program, *args, events=("shop:*",), channel=(), preload=None, create=()):
        """A trace of the program's run; its folder and what the program printed."""
        trace = os.path.join(os.getcwd(), "trace")
        self("create", "t", *(create or ("-o", trace)))
        self("enable-channel", "-u", *channel, "c")
        self("add-context", "-u", "-c", "c", "-t", "vpid", "-t", "vtid", "-t", "procname")
        for e in events:
            self("enable-event", "-u", "-c", "c", e)
        self("start")
        env = dict(self.env, LTTNG_UST_REGISTER_TIMEOUT="5000", **({"LD_PRELOAD": preload} if preload else {}))
        out = subprocess.run([program, *map(str, args)], env=env, capture_output=True, text=True, timeout=40).stdout
        self("destroy", "t")
        return trace, out


def test_every_event_and_every_field_of_a_real_trace():
    program = traced_program()
    with Lttng() as lttng:
        trace, out = lttng.record(program, 3, 400)
    pid = int(out.split()[0])
    p = sink(trace)
    printed = text_events(trace)
    assert len(printed) == 3 * (400 * 3 - 40), len(printed)
    assert "%d events" % len(printed) in p.stderr, p.stderr
    found = messages()
    assert len(found) == len(printed)
    assert [m[0] for m in found] == [e[0] for e in printed], "times differ"
    assert [m[1] for m in found] == [e[1] for e in printed]
    for (ns, name, text), (_, _, m) in zip(printed, found):
        body, ctx = m["message"], m["streamContext"]
        tid = int(re.search(r"vtid = (\d+)", text).group(1))
        assert ctx == {"vpid": pid, "vtid": tid, "procname": re.search(r'procname = "(.*?)"', text).group(1)}, (text, m)
        assert m["source"] == "p%d/t%d" % (pid, tid) and m["packet"]["cpu_id"] == int(re.search(r"cpu_id = (\d+)", text).group(1))
        if name == "shop:order_begin":
            i = body["id"] % 1000000
            assert "id = %d," % body["id"] in text and list(body) == ["id", "customer", "kind", "amount"], (text, body)
            assert body["customer"] == 'customer "%d"' % (i % 7) and body["amount"] == i * 0.5, body
            assert body["kind"] == [{"number": 1, "label": "RETAIL"}, {"number": 2, "label": "BULK"}, {"number": 3}][i % 3], body
        elif name == "shop:stock":
            n = int(re.search(r"_sizes_length = (\d+)", text).group(1))
            assert body["sizes"] == [38, 40, -1][:n] and body["_sizes_length"] == n, (text, body)
            assert "left = %d," % body["left"] in text and body["left"] > 2 ** 63, (text, body)
            assert body["password"] == "<redacted>", "a secret came through"
        else:
            assert body["why"] == ("no stock" if body["failed"] else ""), body
    state = show("latest")
    threads = {k: v.get("name") for k, v in state["agents"].items() if "/t" in k}
    assert sorted(filter(None, threads.values())) == ["clerk1", "clerk2", "clerk3"], threads
    assert not (state["agents"]["p%d" % pid].get("name") or "").startswith("clerk"), "a thread's name"
    assert state["communications"]["shop:order_begin"][-1] == [m for m in found if m[1] == "shop:order_begin"][-1][2]
    assert snaptrail("verify").endswith("all is well\n")


SHOP = """
[shop:order_begin]
action = task_begin
key = order/{id}
agent = p{vpid}/t{vtid}
type = {kind}
text = for {customer}, {amount}
keep = no
[shop:order_begin]
action = agent_begin
key = customer/{customer}
type = customer
[shop:order_end]
when = {failed} == 0
action = task_complete
key = order/{id}
value = *
keep = no
[shop:order_end]
when = {failed} != 0
action = task_fail
key = order/{id}
text = {why}
keep = no
[shop:stock]
action = value
key = stock/{item}/{vtid}
value = {left}
[shop:stock]
action = metric
key = {procname}/sizes
number = {_sizes_length}
[shop:stock]
action = message_in
key = deliveries
text = the {item} maker
value = {sizes}
keep = no
"""


def write(name, text):
    with open(name, "w") as f:
        f.write(text)
    return os.path.abspath(name)


def test_a_map_says_what_events_mean():
    program = traced_program()
    with Lttng() as lttng:
        trace, out = lttng.record(program, 2, 50)
    pid = int(out.split()[0])
    sink(trace, map=write("shop.ini", SHOP))
    state = show("latest")
    orders = {k: v for k, v in state["tasks"].items() if k.startswith("order/")}
    assert len(orders) == 100
    for key, t in orders.items():
        n = int(key[6:])
        i = n % 1000000
        want = "running" if i % 10 == 9 else "failed" if i % 5 == 4 else "completed"
        assert t["status"] == want, (key, t)
        assert t["type"] == ["RETAIL", "BULK", "3"][i % 3] and t["agentId"].startswith("p%d/t" % pid), t
        assert t["description"] == 'for customer "%d", %.17g' % (i % 7, i * 0.5), t
        assert ("completedAt" in t) == (want != "running") and t.get("error") == ("no stock" if want == "failed" else None), t
        if want == "completed":
            assert t["result"] == {"id": n, "failed": 0, "why": ""}, t
    assert len([k for k in state["agents"] if k.startswith("customer/")]) == 7
    stock = {k: v for k, v in state["memory"].items() if k.startswith("stock/")}
    assert len(stock) == 2 and all(v["value"] == 2 ** 64 - 1 - 49 and v["type"] == "integer" for v in stock.values()), stock
    assert state["metrics"] == {"clerk1/sizes": 1, "clerk2/sizes": 1}, state["metrics"]
    last = state["communications"]["deliveries"][-1]
    assert last["source"] == "the shoes maker" and last["message"] == [38] and last["direction"] == "in", last
    assert "shop:order_end" not in state["communications"], "no rule that was followed keeps it"
    assert {"shop:order_begin", "shop:stock"} <= set(state["communications"]), "one of its rules keeps it"
    # An instant within: what was open then was open then.
    begun = [(int(e["timeNs"]), e["key"]) for e in lib.log() if e["table"] == "tasks" and e["field"] == "status" and e["new"] == "running"]
    at, key = begun[17]
    assert show("@%d" % at)["tasks"][key]["status"] == "running"
    assert key not in show("@%d" % (at - 1))["tasks"]


def test_ready_maps_of_user_space_providers():
    libs = [os.path.join(d, n) for n in ("liblttng-ust-pthread-wrapper.so.1", "liblttng-ust-dl.so.1")
            for d in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/aarch64-linux-gnu") if os.path.exists(os.path.join(d, n))]
    c = write("logs.c", """#include <lttng/tracef.h>
#include <lttng/tracelog.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
int main(void)
{
	static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER, held = PTHREAD_MUTEX_INITIALIZER;
	void *z = dlopen("libz.so.1", RTLD_NOW);
	lttng_ust_tracef("began with %d", 42);
	for (int i = 0; i < 5; i++) {
		pthread_mutex_lock(&m);
		pthread_mutex_unlock(&m);
	}
	pthread_mutex_lock(&held);
	lttng_ust_tracelog(LTTNG_UST_TRACEPOINT_LOGLEVEL_WARNING, "careful: %s", "x");
	(void)z;
	printf("%p %p\\n", (void *)&m, (void *)&held);
	return 0;
}
""")
    if subprocess.run(["cc", c, "-o", "logs", "-llttng-ust", "-ldl", "-pthread"], capture_output=True).returncode:
        skip("no LTTng-UST to build with")
    with Lttng() as lttng:
        trace, out = lttng.record(os.path.abspath("logs"), events=("lttng_ust*",), preload=":".join(libs))
    sink(trace, map="lttng-ust")
    state = show("latest")
    assert [m["message"] for m in state["communications"]["tracef"]] == ["began with 42"], state["communications"]["tracef"]
    line = state["communications"]["tracelog"][-1]
    assert line["message"]["msg"] == "careful: x" and line["message"]["line"] > 10 and "WARNING" in line["type"], line
    modules = [v["allocation"]["path"] for k, v in state["resources"].items() if k.startswith("module/")]
    assert any(p.endswith("/logs") for p in modules) and any("libc.so" in p for p in modules), modules
    assert any("libz.so" in p for p in modules), "dlopen was not seen: %s" % modules
    if any("pthread" in l for l in libs):
        free, held = out.split()
        locks = [k.split("/")[2] for k in state["memory"] if k.startswith("mutex/")]
        assert held in locks and free not in locks, (out, locks)
        log = [e for e in lib.log() if e["table"] == "memory" and e["key"].endswith(free) and e["field"] in ("", "value")]
        assert [e["op"] for e in log] == ["set", "delete"] * 5, log


# ---- kernel events, as LTTng's modules lay them out ----

def kernel_trace(folder="kernel", contexts=True):
    """What a shell does: fork, exec, open, dup2, connect, exit."""
    family = "enum AF_UNSPEC = 0, AF_UNIX = 1, AF_INET = 2"
    syscalls = {
        "openat": ([("dfd", "i32"), ("filename", "string"), ("flags", "i32"), ("mode", "u32")], [("ret", "i64")]),
        "close": ([("fd", "u32")], [("ret", "i64")]), "dup2": ([("oldfd", "u32"), ("newfd", "u32")], [("ret", "i64")]),
        "socket": ([("family", family), ("type", "i32"), ("protocol", "i32")], [("ret", "i64")]),
        "connect": ([("fd", "i32"), ("addrlen", "i32"), ("family", family), ("dport", "u32"), ("_v4addr_length", "u8"),
                     ("v4addr", "u8[_v4addr_length]")], [("ret", "i64")]),
        "listen": ([("fd", "i32"), ("backlog", "i32")], [("ret", "i64")]),
        "pipe2": ([("flags", "i32")], [("ret", "i64"), ("fildes", "i32[2]")]), "chdir": ([("filename", "string")], [("ret", "i64")]),
        "uname": ([("name", "u64")], [("ret", "i64")]),
    }
    classes = {
        "lttng_statedump_process_state": [("tid", "i32"), ("pid", "i32"), ("ppid", "i32"), ("name", "string")],
        "sched_process_fork": [("parent_comm", "string"), ("parent_tid", "i32"), ("parent_pid", "i32"), ("child_comm", "string"),
                               ("child_tid", "i32"), ("child_pid", "i32")],
        "sched_process_exec": [("filename", "string"), ("tid", "i32"), ("old_tid", "i32")],
        "sched_process_exit": [("comm", "string"), ("tid", "i32"), ("prio", "i32")],
        "sched_switch": [("prev_comm", "string"), ("prev_tid", "i32"), ("next_comm", "string"), ("next_tid", "i32")],
    }
    for name, (entry, leave) in syscalls.items():
        classes["syscall_entry_" + name] = entry
        classes["syscall_exit_" + name] = leave
    events, now = [], [T0]

    def put(name, *values, pid=100, tid=None, comm="sh"):
        now[0] += 1000
        events.append((now[0], name, (pid, tid or pid, comm) if contexts else (), values))

    def call(name, entry, leave, **who):
        put("syscall_entry_" + name, *entry, **who)
        put("syscall_exit_" + name, *leave, **who)
        return now[0]

    marks = {}
    put("lttng_statedump_process_state", 100, 100, 1, "sh", pid=9, comm="lttng-statedump")
    put("lttng_statedump_process_state", 101, 100, 1, "sh", pid=9, comm="lttng-statedump")
    put("sched_switch", "idle", 0, "sh", 100, pid=9)
    call("chdir", ["/etc"], [0])
    call("openat", [-100, "passwd", os.O_RDONLY | os.O_CLOEXEC, 0], [3])
    call("openat", [-100, "/nowhere", 0, 0], [-2])
    call("pipe2", [0], [0, [4, 5]])
    marks["before"] = now[0]
    put("sched_process_fork", "sh", 100, 100, "sh", 200, 200)
    put("sched_switch", "sh", 100, "sh", 200)
    call("dup2", [5, 1], [1], pid=200)
    call("uname", [0], [0], pid=200)
    marks["forked"] = now[0]
    put("sched_process_exec", "/usr/bin/curl", 200, 200, pid=200)
    marks["executed"] = now[0]
    call("socket", [2, 1, 0], [6], pid=200, comm="curl")
    call("connect", [6, 16, 2, 80, 4, [10, 0, 0, 7]], [-115], pid=200, comm="curl")
    marks["connecting"] = now[0]
    call("connect", [6, 16, 2, 80, 4, [10, 0, 0, 7]], [0], pid=200, comm="curl")
    put("sched_process_fork", "curl", 200, 200, "resolver", 201, 200, pid=200, comm="curl")
    put("sched_switch", "curl", 200, "resolver", 201, pid=200)
    call("close", [4], [0], pid=200, tid=201, comm="resolver")
    marks["working"] = now[0]
    put("sched_process_exit", "resolver", 201, 20, pid=200, tid=201, comm="resolver")
    put("sched_switch", "resolver", 201, "curl", 200, pid=200)
    put("sched_process_exit", "curl", 200, 20, pid=200, comm="curl")
    put("sched_switch", "curl", 200, "sh", 100)
    call("close", [3], [0])
    ctf.write(folder, classes, events, context=[("pid", "i32"), ("tid", "i32"), ("procname", "string")] if contexts else [])
    return folder, marks, len(events)


def check_kernel(contexts):
    trace, at, count = kernel_trace(contexts=contexts)
    assert "%d events" % count in sink(trace, map="lttng-kernel").stderr
    assert len([m for m in messages() if not m[1].startswith("p200/")]) == count, "each event stays a message as well"

    def fds(mark, pid):
        return {k.split("/fd")[1]: v for k, v in show("@%d" % at[mark])["resources"].items() if k.startswith("p%d/" % pid)}
    before = fds("before", 100)
    assert sorted(before) == ["3", "4", "5"], before
    assert before["3"]["allocation"]["path"] == "/etc/passwd" and before["4"]["type"] == "pipe", before
    forked = fds("forked", 200)
    assert sorted(forked) == ["1", "3", "4", "5"], "a child has what its parent had: %s" % forked
    executed = show("@%d" % at["executed"])
    assert sorted(fds("executed", 200)) == ["1", "4", "5"], "close-on-exec"
    assert executed["agents"]["p200"]["executable"] == "/usr/bin/curl" and executed["agents"]["p200"]["name"] == "curl"
    assert executed["agents"]["p200"]["parent"] == "p100" and executed["agents"]["p100/t101"]["type"] == "thread"
    assert fds("connecting", 200)["6"]["status"] == "connecting"
    working = fds("working", 200)
    assert sorted(working) == ["1", "5", "6"] and working["6"]["status"] == "connected", working
    assert working["6"]["allocation"]["peer"] == "10.0.0.7:80" and working["6"]["allocation"]["family"] == "inet", working
    end = show("latest")
    assert end["agents"]["p200"]["status"] == "terminated" and end["agents"]["p200/t201"]["status"] == "terminated"
    assert end["agents"]["p100"]["status"] == "busy" and sorted(fds("working", 100)) == ["3", "4", "5"]
    assert sorted(k for k in end["resources"]) == ["p100/fd4", "p100/fd5"], end["resources"]


def test_kernel_events_become_processes_and_descriptors():
    check_kernel(True)


def test_kernel_events_without_contexts():
    """Who it was is what the scheduler said of the processor."""
    check_kernel(False)


# ---- back and forth ----

def without_session(d):
    return {k: v for k, v in d.items() if k not in ("session", "snapshot")}


def states_equal(one, two, step=1):
    times = sorted({int(e["timeNs"]) for e in lib.log(one)})
    assert times, "nothing to compare"
    for t in times[::step] + times[-1:]:
        a, b = (without_session(show("@%d" % t, s)) for s in (one, two))
        assert a == b, "at %d: %s" % (t, [(k, json.dumps(a[k])[:300], json.dumps(b[k])[:300]) for k in a if a[k] != b.get(k)])


def test_a_session_is_a_trace_and_that_trace_the_session():
    p = lib.record("sh", "-c", "ls / >/dev/null; exec 7</etc/passwd; (cat <&7 >/dev/null; exit 3); sleep 0.1; A=b env >/dev/null; exec true",
                   options=["--interval", "30ms", "--tag", "one", "--tag", "two"])
    assert p.returncode == 0, p.stderr
    folder = os.path.join(os.getcwd(), "ctf")
    source("s", "-c", "sink.ctf.fs", "-p", 'path="%s",quiet=yes' % folder)
    printed = text_events(folder)
    kinds = [name for _, name, _ in printed]
    assert kinds[0] == "snaptrail:session" and kinds.count("snaptrail:process_began") >= 4, kinds[:20]
    opened = [text for _, name, text in printed if name == "snaptrail:fd_opened" and '"/etc/passwd"' in text]
    assert opened and 'fd = ' in opened[0] and 'source = "hook"' in opened[0], opened
    assert printed == sorted(printed, key=lambda e: e[0]), "out of order"
    sink(folder, session="again")
    states_equal("s", "again", 3)
    ls = [json.loads(snaptrail("ls", "--json", "--session", s)) for s in ("s", "again")]
    one, two = ([(x["timeNs"], x["tags"]) for x in rows] for rows in ls)
    assert one == two, (one, two)
    # Which of two snapshots carries a change that came amid the cut is the recorder's business.
    one, two = (sum(x["changes"] for x in rows) for rows in ls)
    assert one == two, (one, two)
    # What was found out late is told late, in a trace as in time.
    one, two = (sorted(((e["timeNs"], e["table"], e["key"], e["field"], e.get("new")) for e in lib.log(s)), key=lambda e: e[0])
                for s in ("s", "again"))
    assert one == two, [x for x in zip(one, two) if x[0] != x[1]][:3]


def test_a_part_of_a_session_begins_with_its_state():
    lib.record("sh", "-c", "exec 7</etc/passwd; sleep 0.1; true; exec 8</etc/group; sleep 0.1; exec 7<&-; sleep 0.1", options=["--interval", "20ms"])
    opened = [int(e["timeNs"]) for e in lib.log() if e["key"].endswith("/fd8") and e.get("new")][0]
    source("s", "-c", "sink.snaptrail.store", "-p", quote(dict(session="part")), **{"from": str(opened)})
    times = sorted({int(e["timeNs"]) for e in lib.log("s") if int(e["timeNs"]) >= opened})
    for t in times[::2]:
        assert without_session(show("@%d" % t, "s")) == without_session(show("@%d" % t, "part")), t
    assert "begins later" in subprocess.run([lib.SNAPTRAIL, "show", "@%d" % (opened - 10 ** 8), "--session", "part"],
                                            capture_output=True, text=True).stderr


def test_states_that_were_handed_in_come_back_equal():
    states = [{"agents": {"a": {"id": "a", "status": "busy", "variables": {"n": 1, "deep": [1, {"x": None}]}}}, "tasks": {},
               "memory": {"k": {"value": "v\u00e9"}}, "timestamp": 5, "other": {"kept": True}},
              {"agents": {"a": {"id": "a", "status": "idle"}, "b": {"status": "new"}}, "tasks": {"t": {"id": "t"}}, "memory": {},
               "timestamp": 6, "other": "changed"},
              {"tasks": {"t": {"id": "t", "progress": 0.5}}, "agents": {"b": {"status": "new"}}, "communications": {"c": [{"message": 1}, {"message": 2}]},
               "memory": {}}]
    for i, state in enumerate(states):
        subprocess.run([lib.SNAPTRAIL, "create", "own", "--tag", "n%d" % i, "--state", "-", "--description", "the %d" % i],
                       input=json.dumps(state), text=True, check=True, capture_output=True)
    folder = os.path.join(os.getcwd(), "ctf")
    source("own", "-c", "sink.ctf.fs", "-p", 'path="%s",quiet=yes' % folder)
    names = [name for _, name, _ in text_events(folder)]
    assert names[0] == "snaptrail:handed" and names.count("snaptrail:snapshot") == 3 and "snaptrail:entity_set" in names, names
    sink(folder, session="again")
    ls = [json.loads(snaptrail("ls", "--json", "--session", s)) for s in ("own", "again")]
    assert [(x["timeNs"], x["tags"], x["description"]) for x in ls[0]] == [(x["timeNs"], x["tags"], x["description"]) for x in ls[1]]
    for a, b in zip(*ls):
        one, two = (snaptrail("show", x["id"], "--json", "--session", s) for x, s in ((a, "own"), (b, "again")))
        one, two = (json.loads(x) for x in (one, two))
        assert list(without_session(one)) == list(without_session(two)) and without_session(one) == without_session(two), (one, two)


def test_two_sessions_do_not_become_one():
    for s in ("a", "b"):
        lib.record("true", session=s)
    p = babeltrace("-c", "x:source.snaptrail.store", "-p", 'session="a"', "-c", "y:source.snaptrail.store", "-p", 'session="b"',
                   "-c", "sink.snaptrail.store", "-p", 'session="ab"', code=1)
    assert "two sessions at once" in p.stderr, p.stderr[-600:]


# ---- live ----

@limit(240)
def test_live_while_the_program_runs():
    need("lttng-relayd")
    program = traced_program()
    with Lttng() as lttng:
        lttng.relay()
        lttng("create", "t", "--live", "200000")
        lttng("enable-channel", "-u", "c")
        lttng("add-context", "-u", "-c", "c", "-t", "vpid", "-t", "vtid", "-t", "procname")
        lttng("enable-event", "-u", "-c", "c", "shop:*")
        lttng("start")
        env = dict(lttng.env, LTTNG_UST_REGISTER_TIMEOUT="5000")
        p = subprocess.Popen([program, "2", "150", "20000"], env=env, stdout=subprocess.PIPE, text=True)
        url = "net://localhost/host/%s/t" % os.uname().nodename
        b = subprocess.Popen(["babeltrace2", "--plugin-path", os.path.dirname(PLUGIN), "-i", "lttng-live", url, "-c",
                              "sink.snaptrail.store", "-p", quote(dict(session="now", map=write("shop.ini", SHOP)))],
                             stderr=subprocess.PIPE, text=True)
        try:
            def running():
                r = subprocess.run([lib.SNAPTRAIL, "show", "live", "--json", "--session", "now"], capture_output=True, text=True,
                                   timeout=20)
                return r.returncode == 0 and p.poll() is None and \
                    [k for k, t in json.loads(r.stdout)["tasks"].items() if t["status"] == "running"]
            wait_for(running, 25, "the state of the program as it runs")
            snap = subprocess.run([lib.SNAPTRAIL, "snap", "--session", "now", "--tag", "mine"], capture_output=True, text=True, timeout=20)
            assert snap.returncode == 0, snap.stderr
            assert p.poll() is None, "that was not live"
            p.wait(30)
            lttng("destroy", "t")
            b.wait(30)
        finally:
            for x in (p, b):
                if x.poll() is None:
                    x.kill()
                    x.wait()
        err = b.stderr.read()
        assert b.returncode == 0 and "session now:" in err, err[-500:]
    tasks = [e for e in lib.log("now") if e["table"] == "tasks" and e["field"] == "status" and e["new"] == "running"]
    assert len({e["key"] for e in tasks}) == 300, "every order: %d" % len(tasks)
    assert "mine" in snaptrail("ls", "--session", "now")


# ---- losses, ends, mistakes ----

def test_what_the_tracer_discarded_is_a_gap():
    program = traced_program()
    with Lttng() as lttng:
        trace, _ = lttng.record(program, 4, 20000, channel=("--subbuf-size", "4096", "--num-subbuf", "2"))
    p = sink(trace)
    counts = [int(n) for n in re.findall(r"Tracer discarded (\d+) events?", babeltrace(trace, "-o", "text").stderr)]
    said = back = 0
    for n in counts:  # a counter that falls is printed as a count of nearly 2^64: what follows counts that once more
        if n >= 2 ** 63:
            back += 2 ** 64 - n
        else:
            said += max(0, n - back)
            back = max(0, back - n)
    assert said > 0, "nothing was discarded: the test tests nothing"
    lost = int(re.search(r"(\d+) lost", p.stderr).group(1))
    assert lost == said, (said, p.stderr)
    ls = json.loads(snaptrail("ls", "--json", "--session", "s"))
    assert sum(s["lost"] for s in ls) == lost


def small_trace(folder="small", n=1000, **kw):
    ctf.write(folder, {"tick": [("n", "u64"), ("why", "string")]},
              [(T0 + i * 1000000, "tick", (), (i, "w%d" % i)) for i in range(n)], **kw)
    return folder


def test_a_killed_reader_loses_nothing_that_it_fed():
    trace = small_trace(n=60000)
    seen = set()
    for delay in (0.05, 0.15, 0.3):
        b = subprocess.Popen(["babeltrace2", "--plugin-path", os.path.dirname(PLUGIN), trace, "-c", "sink.snaptrail.store", "-p",
                              'session="k%s"' % delay], stderr=subprocess.DEVNULL)
        time.sleep(delay)
        b.kill()
        b.wait()
        wait_for(lambda: lib.dead(b.pid), 5)
        r = subprocess.run([lib.SNAPTRAIL, "log", "--json", "--session", "k%s" % delay], capture_output=True, text=True)
        numbers = [json.loads(l)["new"]["message"]["n"] for l in r.stdout.splitlines()
                   if json.loads(l)["table"] == "communications" and json.loads(l).get("new")]
        assert numbers == list(range(len(numbers))), "a hole at %s" % delay
        seen.add(len(numbers))
    assert max(seen) > 0, "none was killed amid the trace"
    assert snaptrail("verify", code=(0, 3))


def test_no_clock_and_no_date():
    log = write("dmesg.log", "no time in this line\nnor in this\n")
    before = now_ns()
    p = babeltrace("-c", "source.text.dmesg", "-p", 'path="%s",no-extract-timestamp=yes' % log, "-c", "sink.snaptrail.store", "-p", 'session="d"')
    assert p.stderr.count("without a clock") == 1, p.stderr
    found = messages("d")
    assert [m[2]["message"]["str"] for m in found] == ["no time in this line", "nor in this"], found
    assert all(before <= m[0] <= now_ns() for m in found)
    boot = small_trace("boot", 10, clock="absolute = false;")
    p = sink(boot, session="b")
    assert "does not know the date" in p.stderr and len(messages("b")) == 10, p.stderr


def test_two_sinks_and_a_second_run():
    trace = small_trace()
    p = babeltrace(trace, "-c", "sink.snaptrail.store", "-p", 'session="one"')
    p = sink(trace, session="one", code=1)
    assert "session one goes on to" in p.stderr and "another name" in p.stderr, p.stderr[-500:]
    assert len(messages("one")) == 1000, "what was there is as it was"
    later = "later"
    ctf.write(later, {"tick": [("n", "u64")]}, [(T0 + 10 ** 12 + i, "tick", (), (i,)) for i in range(5)])
    sink(later, session="one")
    assert len(messages("one")) == 1005
    sink(trace)
    assert [m[2] for m in messages()] == [m[2] for m in messages("one")][:1000]


def test_mistakes_are_one_line_that_names_them():
    trace = small_trace(n=3)
    cases = [
        (dict(sesion="x"), "no such parameter: sesion (did you mean session?)"),
        (dict(session=7), "parameter session: a text is wanted"),
        (dict(map=7), "parameter map: a name or a list of names is wanted"),
        (dict(map="nothing-like-it"), "nothing-like-it: neither a file nor a ready map"),
        (dict(map=write("a.ini", "[x]\naction = task_begn\n")), "a.ini:2: action = task_begn: no such action (did you mean task_begin?)"),
        (dict(map=write("b.ini", "[x]\naction = task_begin\n")), "b.ini:1: [x] does not say its key, and task_begin needs it"),
        (dict(map=write("c.ini", "[x]\nkey = {a\n")), "c.ini:2: key = {a: a brace without its partner"),
        (dict(map=write("d.ini", "[x]\nkeey = a\n")), "d.ini:2: no such key: keey (did you mean key?)"),
        (dict(map=write("e.ini", "[x]\naction = metric\nkey = a\nnumber = 1\nfd = 3\n")), "e.ini:1: [x] says fd, which metric has not"),
        (dict(map=write("f.ini", "[x]\nwhen = {a}\n")), "f.ini:2: when = {a}: not `{field} == text`"),
        (dict(config=write("bad.ini", "[storage]\nmemry = 1\n")), "bad.ini:2: "),
        (dict(profile="none-such"), "none-such"),
        (dict(store="/proc/none"), "/proc/none"),
    ]
    for params, want in cases:
        p = babeltrace(trace, "-c", "sink.snaptrail.store", "-p", quote(params), code=1)
        said = " ".join(p.stderr.split())
        assert want in said, (params, want, said[-900:])
    sink(trace)
    p = babeltrace("-c", "source.snaptrail.store", "-p", 'session="none"', code=1)
    assert "no session none" in " ".join(p.stderr.split()), p.stderr[-500:]


def test_a_field_that_an_event_has_not_is_said_and_the_event_kept():
    trace = small_trace(n=20)
    p = sink(trace, map=write("m.ini", "[tick]\naction = value\nkey = a\nvalue = {nothing}\nkeep = no\n"))
    assert p.stderr.count("m.ini:1: event tick has no field nothing: kept as a message") == 1, p.stderr
    assert len(messages()) == 20
    sink(trace, session="ignored", map=write("i.ini", "[ti*]\naction = ignore\n"))
    assert messages("ignored") == []


def test_interrupted_it_keeps_what_it_read():
    """As babeltrace2 does when it is told to stop."""
    trace = small_trace(n=400000)
    b = subprocess.Popen(["babeltrace2", "--plugin-path", os.path.dirname(PLUGIN), trace, "-c", "sink.snaptrail.store", "-p", 'session="i"'],
                         stderr=subprocess.PIPE, text=True)
    time.sleep(0.2)
    b.send_signal(signal.SIGINT)
    b.communicate(timeout=30)
    found = [m[2]["message"]["n"] for m in messages("i")]
    assert found == list(range(len(found))) and found, "a hole"
