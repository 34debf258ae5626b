"""The examples, built as a stranger would: by pkg-config against what `make
install` puts there, with the compiler's warnings on, and run."""
import fcntl
import os
import re
import subprocess

from lib import BUILD, SOURCE, limit, need

ROOT = os.path.join(BUILD, "test-install")
LIBDIR = os.path.join(ROOT, "usr/local/lib")
EXAMPLES = os.path.join(SOURCE, "doc/examples")

SAYS = {
    "basic": """\
full snapshot: State before the deployment
tags: before-deployment milestone
1 agent, 1 task
the nearest before is the same
the second is incremental
progress: 0.1, then 0.9
""",
    "search": """\
all of these tags:
  +20 min  error-state and another
  1 found
one of them, but not error-state:
  + 0 min  milestone
  +40 min  milestone
  2 found
the twenty minutes from the tenth on:
  +10 min
  +20 min  error-state and another
  2 found
the newest:
  +50 min
  6 found
first to last: 4 changes, 3 tasks, 1 metric
""",
    "transfer": """\
JSON: 3 snapshots
imported 3, skipped 0, errors 0
binary: 3 snapshots
imported 0, skipped 3, errors 0
""",
    "statistics": """\
Total snapshots: 20 (N full, N incremental)
  shop: 20
Storage size: N KiB of N KiB
Average snapshot: N bytes
Compression ratio: N% (of N that are compressed)
Creation: N ms on average, half of them within N ms, 95% within N ms
Lost: 0
""",
    "events": """\
snapshot_created
failed to create a snapshot: "tagged": a snapshot is full or incremental
snapshot_deleted
automatic_snapshots_started
three automatic snapshots
automatic_snapshots_stopped
shutdown_complete
""",
    "reconstruct": """\
from +1.5 s to +3 s:
  queue#length was 3, is 12
replayed from +2 s to before +5 s:
  +2 s queue#length is 7
  +3 s queue#length is 12
  +4 s queue#length is 4
more than ten for the first time at +3 s
""",
    "retention": """\
a batch kept: 10 snapshots
another given up: 10
two deleted: 8
  stays: has a tag of keep_tags
  goes: beyond max_snapshots of its session
the limits would take 1
pruned: 7 left
""",
}


def installed():
    """Installs once for all tests, and again when what is installed is another."""
    sources = [os.path.join(BUILD, n) for n in (".libs/libsnaptrail.so", "Makefile", "snaptrail.pc")] + \
        [os.path.join(SOURCE, n) for n in ("src/snaptrail.h", "doc/snaptrail.3")]
    stamp = os.path.join(ROOT, "stamp")
    with open(os.path.join(BUILD, "test-install.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp) and os.path.getmtime(stamp) > max(map(os.path.getmtime, sources)):
            return
        p = subprocess.run(["make", "-s", "install", "DESTDIR=" + ROOT], cwd=BUILD, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
        assert p.returncode == 0, p.stdout[-800:]
        with open(stamp, "w"):
            pass


def pkg_config(*args):
    env = dict(os.environ, PKG_CONFIG_PATH=LIBDIR + "/pkgconfig", PKG_CONFIG_SYSROOT_DIR=ROOT)
    p = subprocess.run(["pkg-config", *args, "snaptrail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert p.returncode == 0, p.stderr
    return p.stdout.split()


def build(source, out, *flags):
    p = subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", source, *flags,
                        *pkg_config("--cflags", "--libs"), "-o", out], stderr=subprocess.PIPE, text=True)
    assert p.returncode == 0, p.stderr[:800]


def run(program, *args):
    p = subprocess.run([program, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20,
                       env=dict(os.environ, LD_LIBRARY_PATH=LIBDIR))
    assert p.returncode == 0 and not p.stderr, (program, p.returncode, p.stderr)
    return p.stdout


@limit(120)
def test_each_example_builds_against_the_installed_package_and_says_so():
    need("pkg-config", "cc", "make")
    installed()
    there = {n[:-2] for n in os.listdir(EXAMPLES) if n.endswith(".c")}
    assert there == set(SAYS), there ^ set(SAYS)
    for name, says in SAYS.items():
        build(os.path.join(EXAMPLES, name + ".c"), "./" + name)
        said = run("./" + name, *(os.path.abspath(name + d) for d in ("-store", "-other")[:2 if name == "transfer" else 1]))
        if "N" in says:
            said = re.sub(r"\d+(\.\d+)?(?=( full| incremental| KiB| bytes|% \(|\b that| ms))", "N", said)
        assert said == says, "%s says %r" % (name, said)


def test_an_example_fails_loudly_where_there_can_be_no_store():
    need("pkg-config", "cc", "make")
    installed()
    build(os.path.join(EXAMPLES, "basic.c"), "./basic")
    p = subprocess.run(["./basic", "/proc/no/store"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       env=dict(os.environ, LD_LIBRARY_PATH=LIBDIR))
    assert p.returncode == 1 and p.stderr.startswith("open: ") and not p.stdout, (p.returncode, p.stderr)


@limit(120)
def test_the_manual_is_found_by_each_name_and_its_example_works():
    need("pkg-config", "cc", "make", "man")
    installed()
    with open(os.path.join(SOURCE, "doc/snaptrail.3")) as f:
        text = f.read()
    example = text[text.index(".SH EXAMPLES\n.nf\n") + 17:]
    with open("example.c", "w") as f:
        f.write(example[:example.index("\n.fi")].replace("\\e", "\\"))
    build("example.c", "./example")
    assert re.fullmatch(r"[0-9a-f]{16}\n", run("./example"))
    pages = subprocess.run(["man", "-M", os.path.join(ROOT, "usr/local/share/man"), "-P", "cat", "snaptrail_create"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert pages.returncode == 0 and "snaptrail_settle" in pages.stdout, pages.stderr


@limit(120)
def test_a_cxx_program_uses_it_too():
    need("pkg-config", "g++", "make")
    installed()
    with open("program.cc", "w") as f:
        f.write('''#include <cstdio>
#include <snaptrail.h>
int main() {
	snaptrail_settings settings;
	snaptrail_query query{};
	struct snaptrail *st;
	snaptrail_settings_init(&settings, sizeof settings);
	settings.storage_type = "memory";
	if (snaptrail_open_with(&settings, SNAPTRAIL_CREATE, &st) < 0)
		return 1;
	query.all_sessions = true;
	query.sort = SNAPTRAIL_BY_SIZE;
	std::printf("%d\\n", static_cast<int>(snaptrail_list(st, &query, nullptr, nullptr)));
	snaptrail_close(st);
}
''')
    subprocess.run(["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "program.cc", *pkg_config("--cflags", "--libs"), "-o", "program"],
                   check=True)
    assert run("./program") == "0\n"


@limit(120)
def test_pkg_config_has_what_is_needed_and_no_more():
    need("pkg-config", "make")
    installed()
    assert pkg_config("--libs") == ["-L" + LIBDIR, "-lsnaptrail"], pkg_config("--libs")
    assert pkg_config("--cflags") == ["-I" + os.path.join(ROOT, "usr/local/include")], pkg_config("--cflags")
    static = pkg_config("--static", "--libs")
    for lib in ("-lprotobuf-c", "-linih", "-lz", "-lnettle"):
        assert lib in static, static
    version = subprocess.run([os.path.join(BUILD, "snaptrail"), "--version"], stdout=subprocess.PIPE, text=True).stdout
    assert pkg_config("--modversion")[0] in version
