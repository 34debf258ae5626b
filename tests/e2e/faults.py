"""Each system call of ours failing, once and from then on, until there is none left to
fail: those of `run`, of its recorder and flusher, and of the visitor within the program;
and of the engine, where it is a thread of the program.  The program says what it says
plain and ends as it does; nothing is told that did not happen; what is missing was
counted; every command works afterwards.

By default some of them, other ones each time (TEST_SEED repeats a run); TEST_FAULTS=all
for every single one."""
import errno
import json
import os
import random
import subprocess
import time

from lib import PLAIN, limit, program, run_argv, snaptrail

HOSTS = ("run", "plain")
ALL = os.environ.get("TEST_FAULTS") == "all"
LAST = 3000
SAID = b"3 4\n%d\n" % LAST
HOWS = ("ENOSPC", "EIO", "ENOMEM", "EMFILE", "EACCES", "EINTR", "SHORT")
REASONS = {h: os.strerror(getattr(errno, h, 0)) for h in HOWS}
ONCE = ("EINTR", "SHORT")  # nobody is interrupted for ever
SOME = 15  # of each of us


def inject(who, how, nth, again, session):
    """A recorded life of a program in which a call fails; how many there were, and which did."""
    argv = run_argv(program("guest"), "everything", str(LAST), session=session, options=("--profile", "forensic", "--interval", "20ms"))
    began = time.monotonic()
    p = subprocess.run([program("inject"), who, how, str(nth), again, "report", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=40)
    assert time.monotonic() - began < 20, "it took %.1f s" % (time.monotonic() - began)
    with open("report") as f:
        calls, name = f.read().split()
    return p, int(calls), name


def log(session, *args):
    return [json.loads(x) for x in snaptrail("log", "--json", "--session", session, *args, code=(0, 1, 3, 4, 5)).splitlines()]


def check(p, session, how):
    """What the program said and what is told of it agree."""
    if p.returncode == 127 and b"loading shared libraries" in p.stderr:
        return "not even loaded"
    if p.returncode != 7 and p.stdout == b"":  # `run` could not begin: nothing was started, and the true reason is one line
        assert not PLAIN and p.returncode in (2, 125, 126 if how == "EACCES" else 125), p
        assert p.stderr.startswith(b"snaptrail: ") and p.stderr.count(b"\n") == 1, p
        whys = (REASONS[how], "cannot be written", "no profile") + ("cannot be executed",) * (how == "EACCES")
        assert any(why in p.stderr.decode() for why in whys), p
        return "refused"
    assert (p.returncode, p.stdout) == (7, SAID), "the program noticed: %s" % p
    # Whatever could not be stored is, now that nothing fails any more.
    about = [s for s in json.loads(snaptrail("sessions", "--json", code=(0, 1, 4)) or "[]") if s["name"] == session]
    if not about:
        assert PLAIN, "no session, and `run` said nothing: %s" % p
        return "unrecorded"
    (about,) = about
    assert not about["live"], about
    # What it forks and executes has the value of that time, and never another one.
    values = [(x["key"], int(x["new"])) for x in log(session, "*/env/COUNT#value") if x["op"] == "set"]
    whose = [key for key, _ in values]
    values = [v for key, v in values if key == max(set(whose), key=whose.count)] if len(whose) > 3 else []
    assert values == sorted(set(values)) and set(values) <= set(range(1, LAST + 1)), "out of order, twice, or never said"
    if not values and about["lost"] == 0:  # not a word of it: then that is told
        assert about["note"] or any(x["kind"] == "process_uninjected" for x in log(session)), "nothing recorded and nothing said: %s" % about
        return "unrecorded"
    missing = LAST - len(values)
    assert missing <= about["lost"], "%d missing, %d counted as lost" % (missing, about["lost"])
    return "whole" if about["lost"] == 0 else "lost some"


def sound():
    assert snaptrail("verify", code=(0, 1, 3)) is not None
    live = os.environ["SNAPTRAIL_STORE"] + "/live"
    assert not os.path.isdir(live) or not os.listdir(live), os.listdir(live)


def each_call(who):
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 1 << 30)
    dice, lives, outcomes, failed = random.Random(seed), 0, {}, set()
    calls = inject(who, "EIO", 1 << 30, "once", "none")[1] + 10
    assert calls > 30, calls
    plan = [(how, again, nth) for how in HOWS for again in ("once", "on")[:1 if how in ONCE else 2] for nth in range(1, calls + 1)]
    if not ALL:  # rather near the beginning and the end: what lies between is one look into /proc after the other
        plan.sort(key=lambda step: dice.random() ** min(step[2], calls + 1 - step[2]), reverse=True)
    for how, again, nth in plan:
        if not ALL and lives >= SOME and len(failed) > 4 and set(outcomes) != {"refused"}:
            break
        if lives % 50 == 0:
            os.environ["SNAPTRAIL_STORE"] = os.path.abspath("store%d" % lives)
        lives += 1
        session = "f%d" % lives
        story = "TEST_SEED=%d, %s: call %d %s %s" % (seed, who, nth, how, again)
        try:
            p, _, name = inject(who, how, nth, again, session)
            story += " (%s)" % name
            if name != "-":
                outcome = check(p, session, how)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                failed.add(name)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            raise AssertionError("%s: %s" % (story, e)) from e
        if lives % 50 == 0:
            sound()
    sound()
    print(who, lives, outcomes, sorted(failed))
    assert set(outcomes) != {"refused"} and len(failed) > 4, (outcomes, failed)


@limit(3000 if ALL else 120)
def test_each_call_of_run_fails():
    PLAIN or each_call("front")


@limit(3000 if ALL else 120)
def test_each_call_of_who_records_fails():
    each_call("recorder")


@limit(3000 if ALL else 120)
def test_each_call_within_the_program_fails():
    each_call("visitor")
