"""A session that goes on: what its recorder holds of memory, descriptors, shared memory
and disk at the end is what it held half way.  TEST_SLOPE_S says for how long (10)."""
import json
import os
import subprocess
import time

from lib import limit, run_argv, snaptrail, wait_for

ALONE = True  # memory and rates are measured

SECONDS = float(os.environ.get("TEST_SLOPE_S", "10"))
# Short lives, each with an environment of its own, descriptors, closing what is not open: all that
# makes entities and ends them.
BUSY = "while :; do x=$((x+1)); export X=$x; exec 7</etc/passwd; exec 7<&-; exec 8<&-; /bin/true; (exit 3); sleep 0.002; done"


def recorder_of(front):
    with open("/proc/%d/task/%d/children" % (front, front)) as f:
        children = f.read().split()
    return [int(c) for c in children if open("/proc/%s/comm" % c).read().strip() == "snaptrail"][0]


def held(pid):
    with open("/proc/%d/status" % pid) as f:
        kib = int(dict(line.split(":", 1) for line in f)["RssAnon"].split()[0])
    return kib, len(os.listdir("/proc/%d/fd" % pid)), len(os.listdir(rings())), disk()


def disk():
    """KiB that the store takes."""
    total = 0
    for folder, _, names in os.walk(os.environ["SNAPTRAIL_STORE"]):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks
            except FileNotFoundError:  # compacted away
                pass
    return total // 2


def rings():
    live = os.environ["SNAPTRAIL_STORE"] + "/live"
    (name,) = [n for n in os.listdir(live) if len(n) == 16]
    with open(os.path.join(live, name)) as f:
        return [line.split(" ", 1)[1].strip() for line in f if line.startswith("folder ")][0]


def median(values):
    return sorted(values)[len(values) // 2]


@limit(120 + 2 * SECONDS)
def test_what_a_recorder_holds_does_not_grow():
    with open("limits.ini", "w") as f:
        f.write("[storage]\nmemory = 1M\n[retention]\nmax_snapshots = 50\n[snapshot]\ninterval = 50ms\n")
    p = subprocess.Popen(run_argv("sh", "-c", BUSY, options=("--config", os.path.abspath("limits.ini"))), stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: len(snaptrail("ls", "s", code=(0, 1, 4)).splitlines()) > 3)
    # First what is bounded fills up: two thousand processes, of which the state keeps a part.
    wait_for(lambda: json.loads(snaptrail("stats", "--json", "--session", "s"))["live"]["changes"] > 15000, 60, what="the busy one")
    recorder = recorder_of(p.pid)
    samples, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        samples.append(held(recorder))
        time.sleep(0.05)
    for child in open("/proc/%d/task/%d/children" % (p.pid, p.pid)).read().split():
        if int(child) != recorder:
            os.kill(int(child), 15)
    p.wait(20)
    third = len(samples) // 3
    for what, slack, middle, last in zip(("KiB", "descriptors", "files of rings", "KiB of disk"), (2048, 6, 4, 1024),
                                         *[[median(v) for v in zip(*part)] for part in (samples[third:2 * third], samples[2 * third:])]):
        assert last <= middle * 1.1 + slack, "%s: %d half way, %d at the end" % (what, middle, last)
    print([median(v) for v in zip(*samples)], snaptrail("verify"))
