#!/usr/bin/env python3
"""What recording costs, as ratios against plain runs and peers in the same run.

bench.py BUILD [--out FILE] [PATTERN]: each figure is a median of alternating
runs in both orders.  Nothing here passes or fails: it prints the table kept in
doc/bench.md, with the goal beside each row.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(sys.argv[1])
ARGS = sys.argv[2:]
OUT = ARGS[ARGS.index("--out") + 1] if "--out" in ARGS else None
PATTERN = next((a for i, a in enumerate(ARGS) if not a.startswith("--") and (i == 0 or ARGS[i - 1] != "--out")), "")
SNAPTRAIL = os.path.join(BUILD, "snaptrail")
WORK = tempfile.mkdtemp(prefix="snaptrail-bench-")
os.environ["SNAPTRAIL_STORE"] = os.path.join(WORK, "store")
ROWS = []


def run(cmd, **kw):
    return subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


def recorded(cmd, *flags):
    return [SNAPTRAIL, "run", "--quiet", *flags, "--", *cmd]


def hosted(cmd):
    """The engine in the target: LD_PRELOAD alone."""
    where = os.path.join(BUILD, "preload/.libs/libsnaptrail-preload")
    return ["env", f"LD_PRELOAD={where}.so:{where}-sd.so", *cmd]


def wall(cmd):
    begun = time.perf_counter()
    subprocess.run(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=WORK)
    return time.perf_counter() - begun


def row(what, figure, goal):
    ROWS.append((what, figure, goal))
    print(f"{what:58} {figure:44} {goal}", flush=True)


def compile_c(name, *libs):
    out = os.path.join(WORK, name)
    r = run(["cc", "-O2", "-o", out, os.path.join(HERE, name + ".c"), "-I" + HERE, "-I" + os.path.join(HERE, "..", "..", "src"), "-pthread", *libs])
    if r.returncode:
        print(f"bench: {name} was not built: {r.stderr.splitlines()[0] if r.stderr else ''}", file=sys.stderr)
        return None
    return out


def pairs(plain, other, n):
    """Medians of both and of the ratio, alternating and in both orders."""
    a, b = [], []
    for i in range(n):
        first, second = (plain, other) if i % 2 else (other, plain)
        x, y = wall(first), wall(second)
        a.append(x if i % 2 else y)
        b.append(y if i % 2 else x)
    return statistics.median(a), statistics.median(b), statistics.median(y / x for x, y in zip(a, b)), a, b


def say_rows(report):
    """What a program says itself, less the cost of calling nothing, beside the hook above."""
    def median(name, command=lambda argv: argv):
        return statistics.median(float(run(command([report, "call", name, "50000"])).stdout) for _ in range(5))
    nothing = median("say nothing")
    parts = ("metric", "set", "text", "progress", "status", "message")
    each = {p: median("say " + p, recorded) - nothing for p in parts}
    row("report.h", ", ".join(f"{p} {each[p]:.1f}" for p in parts) + " ns", "15 ns")
    row("report.h, nothing injected", f"{median('say set') - nothing:.1f} ns", "1 ns")


def report_rows(report):
    plain, ours = [], []
    for _ in range(7):
        plain.append(float(run([report, "cost", "200000"]).stdout))
        ours.append(float(run(recorded([report, "cost", "200000"])).stdout))
    added = statistics.median(ours) - statistics.median(plain)
    row("hooked report with clock, added to the call", f"{added:.1f} ns (best of runs {min(ours) - min(plain):.1f})", "15 ns")
    tracepoint = compile_c("tracepoint", "-llttng-ust", "-ldl")
    if tracepoint and shutil.which("lttng-sessiond"):
        cost = lttng_cost(tracepoint)
        if cost and cost < 5:
            print("bench: the tracepoint did not reach a tracer here: no row", file=sys.stderr)
        elif cost:
            row("  the same through an LTTng-UST tracepoint", f"{cost:.1f} ns; ours is 1/{cost / max(added, .1):.1f}", "1/6")
    uftrace_row()
    for name, n in [("setenv", "300000"), ("prctl", "200000"), ("open+close", "100000"), ("read", "300000"),
                    ("fork+wait", "1000"), ("pthread_create+join", "3000")]:
        a = [float(run([report, "call", name, n]).stdout) for _ in range(3)]
        b = [float(run(recorded([report, "call", name, n])).stdout) for _ in range(3)]
        row(f"  {name}", f"+{statistics.median(b) - statistics.median(a):.0f} ns on {statistics.median(a):.0f}", "")
    say_rows(report)
    stack_rows(report)
    latency = [report, "latency", "2000000", "2e6"]
    p, r = [], []
    for i in range(9):
        for k in ((0, 1) if i % 2 else (1, 0)):
            (p, r)[k].append([float(x) for x in run((latency, recorded(latency))[k]).stdout.split()])
    middle = lambda runs: " / ".join(f"{statistics.median(x):.0f}" for x in zip(*runs)) + " ns"
    row("latency at 2 M/s: p50 / p99 / p99.9 / p99.99", middle(r), "p99.99 1,000 ns")
    row("  the same, plain", middle(p), "")
    for what, flags, args, goal in [
            ("bursts of 1 ms, 10 M/s, one thread", [], ["10e6", "1", "200", "1"], "0 lost"),
            ("bursts of 1 ms, 5 M/s, each of two threads", [], ["5e6", "1", "200", "2"], "0 lost"),
            ("bursts of 1 ms, 10 M/s, each of two, forensic", ["--profile", "forensic"], ["10e6", "1", "200", "2"], "0 lost")]:
        r = subprocess.run([SNAPTRAIL, "run", *flags, "--session", f"burst{len(ROWS)}", "--", report, "burst", *args],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        s = json.loads(run([SNAPTRAIL, "sessions", "--json"]).stdout)[-1]
        rate = re.findall(r"at ([0-9.]+) M/s", r.stderr)
        row(what, f"{s['lost']} lost of {s['changes'] + s['coalesced']:,} at {'+'.join(rate)} M/s", goal)


def plain_host_rows(report):
    """Without a supervisor: what the engine's thread in the target costs."""
    a, b, _, _, _ = pairs(["env", "/bin/true"], hosted(["/bin/true"]), 41)
    row("LD_PRELOAD alone, around a program that does nothing", f"+{(b - a) * 1e3:.1f} ms on {a * 1e3:.1f}", "5 ms")
    loop = ["bash", "-c", "for ((i = 0; i < 2000; i++)); do /bin/true; done"]
    _, _, ratio, _, _ = pairs(["env", *loop], hosted(loop), 5)
    row("  2,000 x /bin/true under bash", f"{ratio:.3f}", "1.25")
    plain, ours = [], []
    for _ in range(7):
        plain.append(float(run([report, "cost", "200000"]).stdout))
        ours.append(float(run(hosted([report, "cost", "200000"])).stdout))
    row("  hooked report with clock, added to the call", f"{statistics.median(ours) - statistics.median(plain):.1f} ns", "15 ns")
    opens = ["/usr/bin/python3", "-c", "for i in range(200000):\n open('/dev/null').close()"]
    a, b, ratio, _, _ = pairs(["env", *opens], hosted(opens), 7)
    row("  python3 opening 200,000 files", f"{ratio:.3f} of plain ({a:.2f} s)", "1.05")
    for what, args in (("10 M/s, one thread", ["10e6", "1", "200", "1"]), ("5 M/s, each of two threads", ["5e6", "1", "200", "2"])):
        env = dict(os.environ, SNAPTRAIL_SESSION=f"hosted{len(ROWS)}")
        r = subprocess.run(hosted([report, "burst", *args]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        s = json.loads(run([SNAPTRAIL, "sessions", "--json"]).stdout)[-1]
        rate = re.findall(r"at ([0-9.]+) M/s", r.stderr)
        row(f"  bursts of 1 ms, {what}", f"{s['lost']} lost of {s['changes'] + s['coalesced']:,} at {'+'.join(rate)} M/s", "0 lost")


def uftrace_row():
    """A function entered and left under uftrace, beside what a report costs."""
    if not shutil.which("uftrace"):
        return
    out = os.path.join(WORK, "calls")
    r = run(["cc", "-O2", "-pg", "-o", out, os.path.join(HERE, "calls.c")])
    if r.returncode:
        print(f"bench: calls was not built: {r.stderr[:200]}", file=sys.stderr)
        return
    trace = ["uftrace", "record", "--no-libcall", "-d", os.path.join(WORK, "uftrace"), out, "300000"]
    a = [float(run([out, "300000"], cwd=WORK).stdout) for _ in range(5)]
    b = [float(run(trace, cwd=WORK).stdout.split()[0]) for _ in range(5)]
    row("  a function traced by uftrace (-pg)", f"{statistics.median(b) - statistics.median(a):.0f} ns", "")


def stack_rows(report):
    """The same call from so many frames down, with its stack and without."""
    walk = dict(os.environ, SNAPTRAIL_CAPTURE_STACKS="yes")
    for frames in (2, 6, 12):
        cmd = recorded([report, "stack", str(frames), "100000"])
        a, b = [], []
        for i in range(9):
            for k in ((0, 1) if i % 2 else (1, 0)):
                (a, b)[k].append(float(run(cmd, env=(os.environ, walk)[k]).stdout))
        added = statistics.median(b) - statistics.median(a)
        row(f"  call stack of {frames + 5} frames, hot path", f"+{added:.0f} ns on {statistics.median(a):.0f}", "")


def lttng_cost(tracepoint):
    home = os.path.join(WORK, "lttng")
    os.makedirs(home)
    env = dict(os.environ, LTTNG_HOME=home)
    daemon = None
    try:
        daemon = subprocess.Popen(["lttng-sessiond", "--no-kernel", "-q"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        lttng = lambda *a: run(["lttng", *a], env=env)
        lttng("create", "bench", "-o", os.path.join(home, "trace"))
        lttng("enable-channel", "-u", "--overwrite", "--subbuf-size", "1M", "--num-subbuf", "8", "c")
        lttng("enable-event", "-u", "-c", "c", "snaptrail_bench:report")
        lttng("start")
        got = [float(run([tracepoint, "200000"], env=env).stdout) for _ in range(5)]
        lttng("stop")
        lttng("destroy", "bench")
        return statistics.median(got)
    except (ValueError, OSError) as e:
        print("bench: lttng:", e, file=sys.stderr)
        return None
    finally:
        if daemon:
            daemon.terminate()
            daemon.wait()


def program_rows():
    a, b, _, _, _ = pairs(["/bin/true"], recorded(["/bin/true"]), 41)
    row("`run` itself, around a program that does nothing", f"+{(b - a) * 1e3:.1f} ms on {a * 1e3:.1f}", "5 ms")
    loop = ["bash", "-c", "for ((i = 0; i < 2000; i++)); do /bin/true; done"]
    a, b, ratio, _, _ = pairs(loop, recorded(loop), 5)
    row("2,000 x /bin/true under bash", f"{ratio:.3f}", "1.25")
    row("  added to each process", f"{(b - a) / 2000 * 1e6:.0f} us", "150 us")
    opens = ["/usr/bin/python3", "-c", "for i in range(200000):\n open('/dev/null').close()"]
    compare("python3 opening 200,000 files", opens, 11)
    source = os.path.join(WORK, "x.c")
    with open(source, "w") as f:
        f.write("".join(f"int f{i}(int a){{int s=0;for(int k=0;k<a;k++)s+=k*{i};return s;}}\n" for i in range(600)))
    compare("gcc -O2", ["gcc", "-O2", "-c", source, "-o", os.path.join(WORK, "x.o")], 11)
    sql = ("create table t(a,b);with recursive c(x) as (select 1 union all select x+1 from c where x<3000000) "
           "insert into t select x,x*x from c;select sum(b) from t;")
    compare("sqlite3", ["sqlite3", os.path.join(WORK, "t.db"), sql], 7, before=lambda: remove("t.db"))


def remove(name):
    try:
        os.unlink(os.path.join(WORK, name))
    except FileNotFoundError:
        pass


def compare(what, cmd, n, before=None):
    a, b, h = [], [], []
    heap = shutil.which("heaptrack")
    for i in range(n):
        for k in ((0, 1) if i % 2 else (1, 0)):
            if before:
                before()
            (a, b)[k].append(wall((cmd, recorded(cmd))[k]))
        if heap and i < 2:
            if before:
                before()
            h.append(wall([heap, "-o", os.path.join(WORK, "heap"), *cmd]))
    ratio = statistics.median(y / x for x, y in zip(a, b))
    beside = f"; heaptrack {statistics.median(h) / statistics.median(a):.2f}" if h else ""
    row(what, f"{ratio:.3f} of plain ({statistics.median(a):.2f} s){beside}", "1.02")


def server(cmd, ready, flags):
    p = subprocess.Popen(recorded(cmd, *flags) if flags is not None else cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=WORK)
    for _ in range(200):
        if os.path.exists(ready):
            return p
        time.sleep(0.02)
    raise RuntimeError(f"{cmd[0]} did not start")


def throughput(what, cmd, ready, load, figure, n=6):
    got = {None: [], "r": []}
    for i in range(n):
        for k in ((None, "r") if i % 2 else ("r", None)):
            remove(os.path.basename(ready))
            p = server(cmd, ready, None if k is None else [])
            time.sleep(0.2)
            out = run(load).stdout
            got[k].append(figure(out))
            p.terminate()
            p.wait()
    ratios = [r / q for q, r in zip(got[None], got["r"])]
    row(what, f"{statistics.median(ratios):.3f} of plain ({min(ratios):.2f} to {max(ratios):.2f})", "0.98")


def server_rows():
    sock = os.path.join(WORK, "redis.sock")
    redis = ["redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", WORK]
    per_second = lambda out: sum(float(x) for x in re.findall(r"([0-9.]+) requests per second", out)) or 1.0
    if shutil.which("redis-benchmark"):
        throughput("redis-benchmark", redis, sock, ["redis-benchmark", "-s", sock, "-n", "100000", "-q", "-t", "set,get"], per_second)
        throughput("redis-benchmark, pipeline of 16", redis, sock,
                   ["redis-benchmark", "-s", sock, "-n", "2000000", "-P", "16", "-q", "-t", "set,get"], per_second, n=10)
    if shutil.which("nginx") and shutil.which("wrk"):
        conf = os.path.join(WORK, "nginx.conf")
        pid = os.path.join(WORK, "nginx.pid")
        with open(conf, "w") as f:
            f.write(f"daemon off; worker_processes 1; pid {pid}; error_log {WORK}/e.log; events {{ worker_connections 512; }}\n"
                    f"http {{ access_log off; keepalive_requests 1000000; server {{ listen 127.0.0.1:18099; return 200 'ok'; }} }}\n")
        throughput("nginx, keep-alive load", ["nginx", "-p", WORK, "-c", conf], pid,
                   ["wrk", "-t1", "-c16", "-d2s", "http://127.0.0.1:18099/"],
                   lambda out: float(re.search(r"Requests/sec:\s*([0-9.]+)", out).group(1)))


def heap_rows(pair):
    """A malloc and its free, alternating with plain and with heaptrack; figures without what one start costs."""
    heaptrack = shutil.which("heaptrack")
    ways = {"plain": [], "ours": [], **({"heaptrack": []} if heaptrack else {})}
    env = dict(os.environ, SNAPTRAIL_HOOKS_HEAP="yes")
    for i in range(9):
        for way in list(ways) if i % 2 else reversed(list(ways)):
            cmd = {"plain": [pair, "3000000"], "ours": recorded([pair, "3000000"]),
                   "heaptrack": [heaptrack or "", "-o", os.path.join(WORK, "heap"), pair, "400000"]}[way]
            said = [float(x) for x in run(cmd, env=env).stdout.split("\n") if re.fullmatch(r"[0-9.]+", x)]
            if said:
                ways[way].append(said[0])
    plain = statistics.median(ways["plain"])
    added = statistics.median(ways["ours"]) - plain
    figure = f"+{added:.1f} ns on {plain:.1f}"
    if ways.get("heaptrack"):
        theirs = statistics.median(ways["heaptrack"]) - plain
        figure += f"; heaptrack +{theirs:.0f}; ours is 1/{theirs / max(added, .1):.0f}"
    row("malloc+free pair, heap = yes: added", figure, "1/5")


def memory_row():
    code = ("import re\n"
            "s=open('/proc/self/smaps').read()\n"
            "r=a=0\n"
            "for part in re.split(r'\\n(?=[0-9a-f]+-[0-9a-f]+ )', s):\n"
            " head=part.split('\\n')[0]\n"
            " if 'snaptrail' in head:\n"
            "  r+=int(re.search(r'Rss:\\s+(\\d+)', part).group(1)); a+=int(re.search(r'Size:\\s+(\\d+)', part).group(1))\n"
            "print(r, a)")
    r, a = run(recorded(["/usr/bin/python3", "-c", code])).stdout.split()
    row("memory of ours in the target: resident / address space", f"{r} / {a} KiB", "256 / 2,048 KiB")


# What the original needed, in ms (NUMBERS of its own runs); we have no program of it to run beside.
ORIGINAL = {("full: packed", 1000): 4.7, ("full: packed", 10000): 49, ("full: packed", 100000): 539,
            ("a snapshot after edits of 1 %", 1000): 4.8, ("a snapshot after edits of 1 %", 10000): 56,
            ("a snapshot after edits of 1 %", 100000): 615, ("reconstructed", 1000): 0.4, ("reconstructed", 10000): 3.4,
            ("reconstructed", 100000): 70, ("compared", 1000): 3.4, ("compared", 10000): 31, ("compared", 100000): 408}
STATE_GOALS = {"a snapshot after edits of 1 %": "1,000 us at 1 M", "a snapshot after edits of 0.01 %": "50 us at 1 M",
               "a whole state": "200 ms at 1 M", "full: packed": "300 ms at 1 M", "saved": "99.5 %", "reconstructed": "200 ms at 1 M, 2 at 10 k",
               "compared": "1 ms at 1 M", "export, JSON": "60 MB/s", "import, JSON": "60 MB/s", "export, binary": "200 MB/s",
               "import, binary": "200 MB/s"}


def state_rows():
    subprocess.run(["make", "-s", "-C", BUILD, "bench-states"], check=True, stdout=subprocess.DEVNULL)
    for n in (1000, 10000, 100000, 1000000):
        folder = tempfile.mkdtemp(prefix="snaptrail-bench-")
        out = run([os.path.join(BUILD, "bench-states"), str(n), os.path.join(folder, "store")]).stdout
        shutil.rmtree(folder)
        for line in out.splitlines():
            name, unit, figure = line.split("\t")[:3]
            spread = line.split("\t")[3] if line.count("\t") > 2 else ""
            was = next((v for (k, m), v in ORIGINAL.items() if m == n and name.startswith(k)), None)
            row("%s entities: %s" % (f"{n:,}", name), "%s %s %s%s" % (figure, unit, spread, "; the original %g ms" % was if was else ""),
                next((v for k, v in STATE_GOALS.items() if name.startswith(k)), ""))


def store_rows():
    subprocess.run(["make", "-s", "-C", BUILD, "bench-store"], check=True, stdout=subprocess.DEVNULL)
    folder = tempfile.mkdtemp(prefix="snaptrail-bench-")
    out = run([os.path.join(BUILD, "bench-store"), "1000000", os.path.join(folder, "store")]).stdout
    shutil.rmtree(folder)
    goals = {"open": "1 ms", "nearest": "1 us; the original 45 ms", "tag": "50 us; the original 54 ms"}
    for line in out.splitlines():  # a name of 34 columns and a figure, or how many hits the one above had
        name, figure = line[:34].strip(), " ".join(line[34:].split())
        if name:
            row("1,000,000 snapshots: " + name, figure, next((v for k, v in goals.items() if name.startswith(k) and "first" not in name), ""))


def itt_rows():
    """A task pair through ITT beside a bare report of the same process."""
    itt = os.path.join(WORK, "itt")
    source = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "programs/itt.c")
    run(["cc", "-O2", "-pthread", "-I" + os.path.join(os.path.dirname(source), "../../src"), source, "-o", itt, "-ldl"])
    env = dict(os.environ, INTEL_LIBITTNOTIFY64=os.path.join(BUILD, ".libs/libsnaptrail-itt.so"))
    got = [tuple(map(float, run(recorded([itt, "cost"]), env=env).stdout.split())) for _ in range(7)]
    pair, bare = (statistics.median(g[i] for g in got) for i in (0, 1))
    row("an ITT task, begun and ended", f"{pair:.0f} ns; a bare report {bare:.0f} ns: {statistics.median(g[0] / g[1] for g in got):.2f} times",
        "3 times a bare report")


def ompt_rows():
    """GraphicsMagick over libomp, recorded without and with the collector."""
    libomp = next((os.path.join(d, "libomp.so.5") for d in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
                   if os.path.exists(os.path.join(d, "libomp.so.5"))), None)
    if not shutil.which("gm") or libomp is None:
        print("bench: no gm or no libomp.so.5: no row", file=sys.stderr)
        return
    picture = os.path.join(WORK, "a.png")
    run(["gm", "convert", "-size", "1200x900", "gradient:red-blue", picture])
    blur = ["gm", "convert", picture, "-blur", "0x12", os.path.join(WORK, "b.ppm")]
    os.environ["LD_PRELOAD"] = libomp
    try:
        on = ["env", "OMP_TOOL_LIBRARIES=" + os.path.join(BUILD, ".libs/libsnaptrail-ompt.so"), *recorded(blur)]
        _, _, ratio, _, _ = pairs(recorded(blur), on, 31)
    finally:
        del os.environ["LD_PRELOAD"]
    row("gm -blur over libomp: with OMPT / without, both recorded", f"{ratio:.3f}", "1.02")


TRACE_EVENTS = 300000


def make_trace():
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
    import ctf
    folder = os.path.join(WORK, "trace")
    context = [("vpid", "i32"), ("vtid", "i32"), ("procname", "string")]
    classes = {"shop:begin": [("id", "i32"), ("customer", "string"), ("amount", "f64")], "shop:end": [("id", "i32"), ("why", "string")]}
    ctf.write(folder, classes, [(1700000000 * 10 ** 9 + i * 1000, "shop:end" if i % 2 else "shop:begin", (100, 101 + i % 4, "clerk%d" % (i % 4)),
                                 (i, "sold") if i % 2 else (i, "customer %d" % (i % 7), i * 0.5)) for i in range(TRACE_EVENTS)], context=context)
    return folder


def babeltrace_rows():
    """Into the store, beside Babeltrace's own sinks on the same trace."""
    if not shutil.which("babeltrace2") or not os.path.exists(os.path.join(BUILD, ".libs/babeltrace-plugin-snaptrail.so")):
        print("bench: no babeltrace2: no rows", file=sys.stderr)
        return
    trace = make_trace()
    command = ["babeltrace2", "--plugin-path=" + os.path.join(BUILD, ".libs"), trace]
    store = os.path.join(WORK, "bt-store")
    sinks = {"dummy": ["-c", "sink.utils.dummy"], "text": ["-c", "sink.text.pretty", "-p", 'path="/dev/null"'],
             "store": ["-c", "sink.snaptrail.store", "-p", 'quiet=yes,session="s",store="%s"' % store]}
    took = {k: [] for k in sinks}
    for _ in range(7):
        for k, more in sinks.items():
            shutil.rmtree(store, ignore_errors=True)
            took[k].append(wall(command + more))
    rate = {k: TRACE_EVENTS / statistics.median(v) for k, v in took.items()}
    row("babeltrace2 into the store, %s events" % f"{TRACE_EVENTS:,}",
        "%s events/s; its dummy %s, its text sink %s" % tuple(f"{rate[k]:,.0f}" for k in ("store", "dummy", "text")), "500,000 events/s")


def main():
    print(f"{'what':58} {'measured':44} goal")
    groups = [("report", lambda: report_rows(compile_c("report", "-lsystemd"))), ("program", program_rows),
              ("plain", lambda: plain_host_rows(compile_c("report", "-lsystemd"))), ("stack", lambda: stack_rows(compile_c("report", "-lsystemd"))), ("server", server_rows),
              ("heap", lambda: heap_rows(compile_c("pair", "-fno-builtin"))), ("memory", memory_row),
              ("state", state_rows), ("store", store_rows), ("babeltrace", babeltrace_rows), ("itt", itt_rows), ("ompt", ompt_rows)]
    for name, group in groups:
        if PATTERN in name and not (PATTERN == "" and name == "stack"): # those are among the reports' rows
            group()
    if OUT:
        with open(OUT, "w") as f:
            f.write("# What recording costs\n\nMade by `./dev bench --out doc/bench.md`: medians of alternating runs on a shared\n"
                    "2-core virtual machine; compare the ratios, not the times.\n\n| what | measured | goal |\n| --- | --- | --- |\n")
            for what, figure, goal in ROWS:
                f.write(f"| {what.strip()} | {figure} | {goal} |\n")


try:
    main()
finally:
    shutil.rmtree(WORK, ignore_errors=True)
