"""The unit tests once more, compiled in the test's own folder with the compiler's
sanitizers: no data race, no bad address, nothing undefined.  What takes longest there
is left to `./dev sanitize`."""
import os
import re
import subprocess
from multiprocessing.pool import ThreadPool

from lib import BUILD, SOURCE, limit, need, skip


def knows(*flags):
    """Whether the compiler has it and a program of it runs here."""
    with open("try.c", "w") as f:
        f.write("int main(void) { return 0; }\n")
    return subprocess.run(["cc", *flags, "try.c", "-o", "try"], stderr=subprocess.DEVNULL).returncode == 0 and \
        subprocess.run([*plainly(), "./try"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def plainly():
    """ThreadSanitizer's map of memory does not take every random layout."""
    p = subprocess.run(["setarch", "-R", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ["setarch", "-R"] if p.returncode == 0 else []


def tests_unit(*flags):
    """The program of all suites, of these flags, in this folder."""
    def step(*command):
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", cwd=BUILD)
        assert p.returncode == 0, "%s: %s" % (command[0], p.stderr[-800:])
        return p.stdout

    def compile_one(source):
        out = os.path.join(here, source.replace("/", "_") + ".o")
        step(*cc, *flags, "-O0", "-g1", "-c", "-o", out, source)
        return out
    here = os.getcwd()
    cc, libraries, sources, generated = map(str.split, step("make", "-s", "--no-print-directory", "say-unit").splitlines())
    with ThreadPool(2) as two:
        objects = two.map(compile_one, sources + generated, 1)
    step(*cc, *flags, "-o", os.path.join(here, "tests-unit"), *objects, *libraries)


def run(*groups, **options):
    """Groups of suites, at the same time: none of them reports anything."""
    env = dict(os.environ, TEST_FEW="1", **{k: v + ":exitcode=66" for k, v in options.items()})
    going = [subprocess.Popen([*plainly(), "./tests-unit", *g.split()], stdout=open("said%d" % i, "w"), stderr=subprocess.STDOUT,
                              env=env) for i, g in enumerate(groups)]
    for i, (g, p) in enumerate(zip(groups, going)):
        code = p.wait()
        with open("said%d" % i, errors="replace") as f:
            said = f.read()
        report = re.search(r"(?:WARNING|ERROR): \w+Sanitizer.*|[^\n]*runtime error:.*", said, re.S)
        assert report is None, "%s: %s" % (g, report.group(0)[:3000])
        assert code == 0, "%s: %d: %s" % (g, code, said[-800:])
        ran = re.search(r"^\s*tests\s+\d+\s+(\d+)", said, re.M)
        assert ran and int(ran.group(1)) >= len(set(g.split())), said[-400:]


def suites():
    with open(os.path.join(SOURCE, "tests/unit/main.c")) as f:
        found = re.findall(r'\{ "(\w+)", suite_', f.read())
    assert len(found) > 10
    return found


def check(*flags):
    need("make", "cc")
    if not os.access(os.path.join(BUILD, "Makefile"), os.R_OK):
        skip("not in the folder of a build")
    if not knows(*flags):
        skip("the compiler has no " + " ".join(flags))
    tests_unit(*flags)


@limit(240)
def test_no_two_threads_race():
    check("-fsanitize=thread")
    run("store_more", *["api"] * 5, TSAN_OPTIONS="halt_on_error=0")


@limit(300)
def test_no_bad_address_and_nothing_undefined():
    check("-fsanitize=address,undefined")
    half, later = ("store_more", "model", "store"), ("store_calls", "store_index", "store_power")
    run(" ".join(half), " ".join(n for n in suites() if n not in half + later),
        ASAN_OPTIONS="detect_leaks=1:quarantine_size_mb=8:malloc_context_size=8", UBSAN_OPTIONS="print_stacktrace=1")
