"""The command under valgrind: each verb that reads, changes or carries a store, on one
that was recorded just now.  No bad address, nothing used that was not set, nothing lost."""
import os
import subprocess

from lib import SNAPTRAIL, limit, need, program, record, snaptrail

MEMCHECK = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite", "--child-silent-after-fork=yes"]


@limit(200)
def test_no_verb_uses_what_it_may_not():
    need("valgrind")
    record("sh", "-c", "for i in 1 2 3; do export X=$i; /bin/true; exec 7</etc/passwd; sleep 0.05; done; exit 3", options=("--interval", "20ms"))
    record(program("guest"), "forking_threads", "3", "3", session="t", options=("--profile", "forensic"))
    verbs = [
        ["ls", "s"], ["ls", "--json", "t"], ["sessions"], ["show", "s/latest"], ["show", "--json", "s/first"], ["show", "t/latest", "--path", "agents:*"],
        ["log", "--session", "s"], ["log", "--json", "--session", "t", "agents:*"], ["diff", "s/first", "s/latest"], ["diff", "s/first", "s/latest", "--stat"],
        ["nearest", "12:00", "--session", "s"], ["when", "*/env/X#value", "==", "2", "--session", "s"], ["mark", "here", "s/latest"],
        ["tag", "s/first", "+good"], ["describe", "s/first", "what it is for"], ["ls", "--tag", "good", "s"], ["stats"], ["verify"],
        ["export", "s", "-o", "out.json"], ["export", "s", "-o", "out.sntr"], ["rm", "s/first~0"], ["prune"],
        ["--store", "other", "import", "out.json"], ["--store", "third", "import", "out.sntr"], ["--store", "third", "verify"],
        ["repair", "--into", "sound"], ["config"], ["doctor", "sh"], ["help", "run"],
        ["ls", "nobody"], ["show", "#99999999", "--session", "s"], ["log", "--session", "s", "no:such"],
    ]
    wrong = []
    for verb in verbs:
        p = subprocess.run([*MEMCHECK, SNAPTRAIL, *verb, "--no-pager"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           timeout=100, stdin=subprocess.DEVNULL)
        print(verb, p.returncode, p.stderr)
        if p.returncode == 99 or "== " in p.stderr:
            wrong.append("%s: %s" % (" ".join(verb), p.stderr[:1000]))
    assert not wrong, wrong[0]
    snaptrail("verify")
