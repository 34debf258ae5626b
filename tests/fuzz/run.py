#!/usr/bin/env python3
"""Fuzzes every reader of others' bytes: run.py BUILD FUZZ_BUILD [--minutes N] [TARGET]...

Builds FUZZ_BUILD with clang's libFuzzer, AddressSanitizer and UBSan, makes seeds of
real recordings, and gives each target its share of the minutes (5 when none are
given).  What it finds is left in FUZZ_BUILD/found with the command that shows it;
mended, its file belongs into tests/fuzz/corpus/TARGET."""
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
TARGETS = ["json", "ini", "map", "ref", "state", "change", "payload", "segment", "import", "ring"]
FLAGS = "-g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=alignment -fno-sanitize-recover=undefined"


def build(folder):
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(os.path.join(folder, "Makefile")):
        subprocess.run([os.path.join(SOURCE, "configure"), "--quiet", "CC=clang", "CFLAGS=" + FLAGS], cwd=folder, check=True)
    proto = ["proto/%s.pb-c.h" % n for n in ("store", "snaptrail")]
    subprocess.run(["make", "-s", *proto], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["make", "-s", "-j2", "fuzz"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main():
    args = sys.argv[1:]
    minutes = 5.0
    if "--minutes" in args:
        at = args.index("--minutes")
        minutes = float(args[at + 1])
        del args[at:at + 2]
    plain, folder, wanted = os.path.abspath(args[0]), os.path.abspath(args[1]), args[2:] or TARGETS
    unknown = [t for t in wanted if t not in TARGETS]
    if unknown:
        sys.exit("fuzz: no target %s: there are %s" % (unknown[0], " ".join(TARGETS)))
    build(folder)
    subprocess.run([sys.executable, os.path.join(HERE, "seeds.py"), plain, os.path.join(folder, "seeds")], check=True)
    found = os.path.join(folder, "found")
    os.makedirs(found, exist_ok=True)
    failed = 0
    print("%-10s %10s %10s %8s  %s" % ("target", "runs", "a second", "edges", "found"))
    for t in wanted:
        corpus = os.path.join(folder, "corpus", t)
        os.makedirs(corpus, exist_ok=True)
        seeds = [d for d in (os.path.join(folder, "seeds", t), os.path.join(HERE, "corpus", t)) if os.path.isdir(d)]
        began = time.monotonic()
        p = subprocess.run([os.path.join(folder, "fuzz"), "-max_total_time=%d" % max(1, minutes * 60 / len(wanted)), "-timeout=20", "-rss_limit_mb=3000",
                            "-max_len=65536", "-artifact_prefix=%s/%s-" % (found, t), "-print_final_stats=1", corpus, *seeds],
                           env=dict(os.environ, FUZZ_TARGET=t, ASAN_OPTIONS="detect_leaks=1:allocator_may_return_null=1"),
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        with open(os.path.join(folder, t + ".log"), "w") as f:
            f.write(p.stderr)
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", p.stderr)
        edges = re.findall(r" cov: (\d+)", p.stderr)
        what = ""
        if p.returncode:
            failed += 1
            what = (re.findall(r"(?:SUMMARY|ERROR): (.*)", p.stderr) or ["it ended with %d" % p.returncode])[-1][:90]
        n = int(runs[-1]) if runs else 0
        print("%-10s %10d %10.0f %8s  %s" % (t, n, n / max(time.monotonic() - began, 0.1), edges[-1] if edges else "?", what or "nothing"), flush=True)
    if failed:
        print("fuzz: what was found is in %s; %s/TARGET.log says how" % (found, folder))
    sys.exit(failed > 0)


main()
