"""The collectors that runtimes load into targets: Intel ITT and OMPT, by clients of
our own for each call, and by unmodified TBB, libomp and GraphicsMagick."""
import json
import os
import re
import subprocess

import lib
from lib import SNAPTRAIL, limit, need, program, record, show, skip, snaptrail

ITT = os.path.join(lib.BUILD, ".libs/libsnaptrail-itt.so")
OMPT = os.path.join(lib.BUILD, ".libs/libsnaptrail-ompt.so")
LIBOMP = next((os.path.join(d, "libomp.so.5") for d in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
               if os.path.exists(os.path.join(d, "libomp.so.5"))), None)
HOSTS = ("run", "plain")


def with_itt(*args, session="s", **env):
    p = record(program("itt"), *args, session=session, env=dict(os.environ, INTEL_LIBITTNOTIFY64=ITT, **env))
    assert p.returncode == 0, p
    return p.stdout.decode().split()


def test_everything_that_itt_tells():
    tid, = with_itt("everything")
    s = show("latest")
    tasks = {k: (t["type"], t["status"], t.get("description")) for k, t in s["tasks"].items() if k.startswith("itt/")}
    own = "itt/%s/" % tid
    assert tasks == {
        own + "shop/load": ("itt.task", "completed", None), own + "shop/parse": ("itt.task", "completed", None),
        own + "shop/parse#2": ("itt.task", "completed", None), own + "early/from the start": ("itt.task", "completed", None),
        "itt/task/b2.7.0": ("itt.task", "completed", "load [shop] of itt/id/a1.0.0"),
        "itt/region/b2.7.0": ("itt.region", "completed", "warmup [shop]"),
        "itt/frame/shop": ("itt.frame", "completed", None), "itt/frame/f3.0.0": ("itt.frame", "completed", None),
        own + "event/tick": ("itt.event", "completed", None)}, tasks
    submitted = s["tasks"]["itt/frame/f3.0.0"]
    assert abs(submitted["completedAt"] - submitted["startedAt"] - 1) < 0.01, submitted
    memory = {k: m["value"] for k, m in s["memory"].items() if "itt/" in k or k.startswith("mark")}
    assert memory == {own + "shop/load/rows": 42, own + "shop/load/password": "<redacted>", own + "shop/parse#2/rows/0": 1,
                      own + "shop/parse#2/rows/1": -2, own + "shop/parse#2/rows/2": 3, "mark/halfway": "halfway"}, memory
    assert {k: v for k, v in s["metrics"].items() if k.startswith("itt/")} == {"itt/shop/requests": 5, "itt/shop/ratio": 0.5}
    front = s["agents"]["itt/front/" + tid]
    assert front["type"] == "itt.thread" and front["parent"].startswith("p"), front
    assert s["tasks"][own + "shop/load"]["agentId"] == "itt/front/" + tid
    group = s["agents"]["itt/group/shop/batch"]
    assert group["type"] == "itt.group" and group["variables"] == "itt/id/a1.0.0", group
    # In the log each of them begins and ends, also those of one name.
    said = [(e["key"], e["new"]) for e in lib.log() if e["table"] == "tasks" and e["field"] == "status" and e["key"].startswith(own)]
    assert said[:8] == [(own + "shop/load", "running"), (own + "shop/parse", "running"), (own + "shop/parse#2", "running"),
                        (own + "shop/parse#2", "completed"), (own + "shop/parse", "completed"),
                        (own + "early/from the start", "running"), (own + "shop/parse", "running"),
                        (own + "shop/parse", "completed")], said[:9]
    assert not [e for e in lib.log() if "unseen" in e["key"]], "told while paused"


def test_the_collector_is_silent_where_nothing_records():
    for args in ((), ("old",)):
        p = subprocess.run([program("itt"), *args], env=dict(os.environ, INTEL_LIBITTNOTIFY64=ITT), capture_output=True, text=True, timeout=20)
        assert (p.returncode, p.stdout, p.stderr) == (0, "nothing bound\n", ""), p
    assert with_itt("old") == ["nothing", "bound"], "of another version"


def test_itt_from_many_threads():
    with_itt("threads", "3000")
    s = show("latest")
    by_thread = {}
    for k, t in s["tasks"].items():
        m = re.match(r"itt/(\d+)/busy/(\w+?)(#2)?$", k)
        if m:
            by_thread.setdefault(m.group(1), set()).add(m.group(2))
            assert t["status"] == "completed", (k, t)
    assert len(by_thread) == 4 and all(v == {"a", "b", "c", "own"} for v in by_thread.values()), by_thread
    told = s["metrics"]["recorder/reports"] + s["metrics"]["recorder/lost"]
    assert told >= 4 * 3000 * 4, "two tasks a round, each begun and ended: %d" % told


def test_itt_nested_deeper_than_anybody_does():
    with_itt("deep")
    s = show("latest")
    down = [k for k in s["tasks"] if "/deep/" in k]
    assert len(down) == 64 and all(s["tasks"][k]["status"] == "completed" for k in down), len(down)
    assert [v for k, v in s["metrics"].items() if k.endswith("/tooDeep")] == [500 - 64], s["metrics"]


def test_itt_across_fork_exec_and_reloading():
    child, parent, status = with_itt("fork")
    assert status == "0"
    s = show("latest")
    assert s["tasks"]["itt/%s/fork/child's" % child]["status"] == "completed"
    assert s["tasks"]["itt/%s/fork/parent's" % parent]["status"] == "completed"
    ends = [e["new"] for e in lib.log() if e["key"] == "itt/%s/fork/parent's" % parent and e["field"] == "status"]
    assert ends == ["running", "completed"], "the child ended its parent's: %s" % ends


def test_itt_from_a_thread_that_is_over_and_a_library_that_is_gone():
    with_itt("late")
    keys = {k.split("/")[3] for k in show("latest")["tasks"] if "/late/" in k}
    lost = sum(s["lost"] for s in json.loads(snaptrail("ls", "--json", "--session", "s")))
    assert keys == {"in time", "too late"} or (keys == {"in time"} and lost >= 1), (keys, lost)
    assert with_itt("gone", session="g") == ["its", "own"]


def test_itt_paused_amid_tasks():
    with_itt("pause")
    tasks = {k.partition("/pause/")[2] or k: t["status"] for k, t in show("latest")["tasks"].items() if k.startswith("itt/")}
    assert tasks == {"outer": "completed", "inner": "completed", "itt/task/1.2.3": "completed"}, tasks
    began = [e for e in lib.log() if e["field"] == "status" and e["key"].endswith("/inner")]
    assert [e["new"] for e in began] == ["running", "completed"], "once it was told, twice it was not: %s" % began


# ---- [plugins] ----

def profile(**kw):
    with open("plugins.ini", "w") as f:
        f.write("[plugins]\n" + "".join("%s = %s\n" % i for i in kw.items()))
    return os.path.abspath("plugins.ini")


@lib.supervised
def test_run_turns_them_on_and_leaves_the_users_own():
    env = {k: v for k, v in os.environ.items() if k not in ("INTEL_LIBITTNOTIFY64", "OMP_TOOL_LIBRARIES")}
    names = "INTEL_LIBITTNOTIFY64 OMP_TOOL_LIBRARIES"
    say = ["sh", "-c", "for n in %s; do eval echo \"$n=\\$$n\"; done" % names]

    def told(config, **more):
        out = record(*say, options=["--config", config] if config else [], env=dict(env, **more)).stdout.decode()
        return dict(line.split("=", 1) for line in out.split())
    assert told(None) == {"INTEL_LIBITTNOTIFY64": "", "OMP_TOOL_LIBRARIES": ""}, "off by default"
    both = told(profile(itt="yes", ompt="yes"))
    assert os.path.basename(both["INTEL_LIBITTNOTIFY64"]) == "libsnaptrail-itt.so" and os.path.exists(both["INTEL_LIBITTNOTIFY64"])
    assert os.path.basename(both["OMP_TOOL_LIBRARIES"]) == "libsnaptrail-ompt.so"
    assert told(profile(itt="yes"), INTEL_LIBITTNOTIFY64="/my/own.so")["INTEL_LIBITTNOTIFY64"] == "/my/own.so"
    assert told(profile(ompt="yes"))["INTEL_LIBITTNOTIFY64"] == ""


@lib.supervised
def test_doctor_says_what_would_report():
    out = snaptrail("doctor", program("itt"))
    assert "ITT is in itt: `plugins.itt = yes`" in out, out
    out = snaptrail("doctor", "/bin/true")
    assert "ITT" not in out and "OpenMP" not in out, out


# ---- unmodified runtimes ----

def openmp(source, *flags):
    with open("omp.c", "w") as f:
        f.write(source)
    if subprocess.run(["gcc", "-fopenmp", "-O1", "-rdynamic", "omp.c", "-o", "omp", *flags], capture_output=True).returncode:
        skip("no OpenMP to build with")
    if LIBOMP is None:
        skip("no libomp.so.5")
    return os.path.abspath("omp")


def over_libomp(**more):
    """Plain preloading adds what the environment has."""
    os.environ["LD_PRELOAD"] = LIBOMP
    return {"env": dict(os.environ, OMP_TOOL_LIBRARIES=OMPT, **more)}


REGIONS = """#include <omp.h>
#include <stdio.h>
double sum;
void regions(int n)
{
	for (int k = 0; k < n; k++) {
#pragma omp parallel for schedule(dynamic, 1000) reduction(+:sum)
		for (int i = 0; i < 100000; i++)
			sum += i;
	}
}
int main(void)
{
	omp_set_num_threads(3);
	regions(5);
#pragma omp parallel
#pragma omp single
	for (int i = 0; i < 20; i++) {
#pragma omp task
		{
#pragma omp atomic
			sum += i;
		}
	}
	printf("%.0f\\n", sum);
	return 0;
}
"""


def test_openmp_regions_tasks_and_work():
    omp = openmp(REGIONS)
    p = record(omp, **over_libomp())
    assert p.returncode == 0 and p.stdout == b"24999750190\n", p
    s = show("latest")
    agents = {k: a for k, a in s["agents"].items() if k.startswith("ompt/")}
    assert sorted(a["type"] for a in agents.values()) == ["ompt.initial", "ompt.worker", "ompt.worker"], agents
    tasks = {k: t for k, t in s["tasks"].items() if k.startswith("ompt/")}
    assert {t["type"] for t in tasks.values()} >= {"ompt.parallel", "ompt.implicit", "ompt.loop", "ompt.task"}, tasks
    assert all(t["status"] == "completed" and t["agentId"] in agents for t in tasks.values()), tasks
    initial = next(k for k, a in agents.items() if a["type"] == "ompt.initial")
    log = [e for e in lib.log() if e["key"] == initial + "/region"]
    begun = [e["new"] for e in log if e["field"] == "status" and e["new"] == "running"]
    assert len(begun) == 6, "a region each: %s" % begun
    where = [e["new"] for e in log if e["field"] == "description" and e["new"]]
    assert where and re.match(r"regions\+0x[0-9a-f]+ omp\+0x[0-9a-f]+, 3 threads$", where[0]), where
    offset = int(re.search(r" omp\+0x([0-9a-f]+)", where[0]).group(1), 16)
    symbols = subprocess.run(["nm", omp], capture_output=True, text=True).stdout
    at = int(re.search(r"^([0-9a-f]+) T regions$", symbols, re.M).group(1), 16)
    assert "regions+0x%x " % (offset - at) in where[0], (where[0], hex(at))
    assert sum(v for k, v in s["metrics"].items() if k.endswith("/created")) == 20
    assert any(k.endswith("/waited") for k in s["metrics"]), s["metrics"]


def test_openmp_at_a_grain_that_is_too_fine_is_counted():
    omp = openmp(REGIONS.replace("regions(5)", "regions(20000)").replace("i < 100000", "i < 10"))
    p = record(omp, **over_libomp(OMP_WAIT_POLICY="passive"))
    assert p.returncode == 0, p
    s = show("latest")
    untold = sum(v for k, v in s["metrics"].items() if k.endswith("/untold"))
    assert untold > 1000, s["metrics"]
    assert all(t["status"] == "completed" for k, t in s["tasks"].items() if k.startswith("ompt/"))


def test_openmp_in_a_thread_that_ends():
    """libomp tells of the thread after its keys are destroyed."""
    omp = openmp("""#include <pthread.h>
#include <stdio.h>
static double sum;
static void *one(void *arg)
{
#pragma omp parallel for reduction(+:sum)
	for (int i = 0; i < 1000; i++)
		sum += i;
	return arg;
}
int main(void)
{
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		pthread_create(&t, NULL, one, NULL);
		pthread_join(t, NULL);
	}
	printf("%.0f\\n", sum);
	return 0;
}
""")
    p = record(omp, **over_libomp())
    assert p.returncode == 0 and p.stdout == b"9990000\n", p
    assert any(k.endswith("/region") for k in show("latest")["tasks"])


def test_openmp_without_a_recorder_goes_on_without_a_tool():
    omp = openmp(REGIONS)
    p = subprocess.run([omp], **over_libomp(), capture_output=True, timeout=30)
    assert (p.returncode, p.stdout, p.stderr) == (0, b"24999750190\n", b""), p


@lib.supervised
def test_hooks_itt_and_ompt_of_one_program_on_one_clock():
    """libomp has ITT inside as well."""
    omp = openmp(REGIONS.replace("int main(void)\n{", 'int main(void)\n{\n\tfopen("/etc/passwd", "r");').replace(
        "	printf(", '	fopen("/etc/group", "r");\n	printf('))
    p = record(omp, options=["--config", profile(itt="yes", ompt="yes")], env=dict(os.environ, LD_PRELOAD=LIBOMP))
    assert p.returncode == 0, p
    log = lib.log()
    first = {}
    for e in log:
        kind = "itt" if e["key"].startswith("itt/") else "ompt" if e["key"].startswith("ompt/") else None
        if kind and e["table"] == "tasks":
            first.setdefault(kind, int(e["timeNs"]))
    opened = {v["allocation"]["path"]: int(e["timeNs"]) for e in log for v in [e.get("new")]
              if e["table"] == "resources" and isinstance(v, dict) and v.get("allocation", {}).get("path")}
    assert set(first) == {"itt", "ompt"}, first
    for t in first.values():
        assert opened["/etc/passwd"] < t < opened["/etc/group"], (first, opened)


@limit(90)
def test_graphicsmagick_over_libomp():
    need("gm")
    if LIBOMP is None:
        skip("no libomp.so.5")
    subprocess.run(["gm", "convert", "-size", "600x400", "gradient:red-blue", "a.png"], check=True)
    subprocess.run(["gm", "convert", "a.png", "-blur", "0x8", "plain.ppm"], check=True)
    p = record("gm", "convert", "a.png", "-blur", "0x8", "b.ppm", **over_libomp())
    assert p.returncode == 0, p
    with open("plain.ppm", "rb") as a, open("b.ppm", "rb") as b:
        assert a.read() == b.read(), "another picture"
    regions = [e["new"] for e in lib.log() if e["key"].endswith("/region") and e["field"] == "description" and e["new"]]
    assert regions and all("GraphicsMagick" in r for r in regions), regions


def test_threading_building_blocks():
    with open("tbb.cpp", "w") as f:
        f.write("#include <tbb/parallel_for.h>\n#include <atomic>\n#include <cstdio>\nint main()\n{\n\tstd::atomic<long> s{0};\n"
                "\tfor (int k = 0; k < 3; k++)\n\t\ttbb::parallel_for(0, 100000, [&](int i) { s += i; });\n"
                '\tprintf("%ld\\n", (long)s);\n}\n')
    if subprocess.run(["g++", "-O1", "tbb.cpp", "-o", "tbb", "-ltbb"], capture_output=True).returncode:
        skip("no TBB to build with")
    p = record(os.path.abspath("tbb"), env=dict(os.environ, INTEL_LIBITTNOTIFY64=ITT))
    assert p.returncode == 0 and p.stdout == b"14999850000\n", p
    tasks = [k for k in show("latest")["tasks"] if re.match(r"itt/\d+/tbb", k)]
    assert any("parallel_for" in k for k in tasks), tasks
    if lib.PLAIN:
        return
    out = subprocess.run([SNAPTRAIL, "doctor", "./tbb"], capture_output=True, text=True).stdout
    assert "ITT is in libtbb.so" in out, out
