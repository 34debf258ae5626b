"""Bad input of every kind to every verb: one line that says what is wrong, the exit
status of the contract, nothing on stdout, and the store as it was.

A row is the arguments as a shell would split them, the exit status, and a word of the
message.  Every row is asked for twice, in words and with --json."""
import gzip
import hashlib
import json
import os
import re
import shlex
import stat
import subprocess

from lib import SNAPTRAIL, need, record, skip, snaptrail

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
LONG = "x" * 100000
ODD = "a\x1b[31m\n\udcff\udcfe"  # what would colour a terminal, break the line and be no UTF-8

# Each verb with arguments that are good; a kind of bad input is put beside them.
GOOD = {
    "run": "run -- true", "sessions": "sessions", "ls": "ls s", "show": "show latest", "log": "log '*'", "diff": "diff first latest",
    "nearest": "nearest 1767000000", "mark": "mark m latest", "when": "when metrics:n '>' 1", "create": "create s --state state.json",
    "snap": "snap s", "auto": "auto start s", "flush": "flush s", "attend": "attend s", "watch": "watch s", "tag": "tag latest +good",
    "describe": "describe latest text", "rm": "rm latest", "prune": "prune", "repair": "repair --into copy", "export": "export s",
    "import": "import good.json", "stats": "stats", "verify": "verify", "config": "config", "doctor": "doctor true", "help": "help ls",
}
ANY_NUMBER = ("run", "tag", "rm")  # of words
NO_STORE = ("config", "doctor", "help")
NO_CONFIG = ("help",)
REFERENCES = ("show %s", "diff %s latest", "diff latest %s", "mark m %s", "tag %s +t", "describe %s text", "rm %s", "rm latest %s")
SESSIONS = ("ls %s", "snap %s", "auto start %s", "auto stop %s", "flush %s", "attend %s", "watch %s", "export %s", "show --session %s",
            "log --session %s", "diff first latest --session %s", "nearest 5 --session %s", "when t exists --session %s",
            "stats --session %s", "mark m --session %s", "tag latest +t --session %s", "rm latest --session %s", "show %s/latest",
            "rm %s/latest")


def make_store():
    """Two snapshots whose ids begin alike, in a session of states, and a recorded session."""
    with open("state.json", "w") as f:
        f.write('{"metrics": {"n": 3}}')
    snapshots = [{"id": "feed00000000000%d" % i, "sessionId": "s", "timestamp": 1767000000000 + i, "type": "full", "tags": ["t%d" % i],
                  "state": {"metrics": {"n": i}}} for i in (1, 2)]
    with open("good.json", "w") as f:
        json.dump({"metadata": {"version": "1.0"}, "snapshots": snapshots}, f)
    record("true", session="recorded")
    snaptrail("import", "good.json", "--no-validate")
    snaptrail("create", "s", "--state", "state.json")
    snaptrail("verify")


def files(root):
    """Every name below a folder with what it holds."""
    found = {}
    for folder, _, names in os.walk(root):
        found[folder] = stat.S_IMODE(os.stat(folder).st_mode)
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                found[os.path.join(folder, name)] = hashlib.sha256(f.read()).hexdigest()
    return found


def words(row):
    return row if isinstance(row, list) else shlex.split(row)


def run(argv, env=None, before=(), **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    kw.setdefault("stdout", subprocess.PIPE)
    p = subprocess.run([*before, SNAPTRAIL, *argv], stderr=subprocess.PIPE, timeout=20,
                       env={**os.environ, **env} if env else None, **kw)
    return p.returncode, p.stdout, p.stderr.decode()  # strictly: a message is text whatever was typed


def says_why(argv, code, word, result):
    """One line of words, or one object; and the status is what was promised."""
    got, out, err = result
    about = "%.200r: %r %.300r %.600r" % (argv, got, out, err)
    assert got == code, about
    assert not out, about
    assert err.endswith("\n") and err.count("\n") == 1 and len(err) < 1500, about
    if "--json" in argv:
        e = json.loads(err)
        assert set(e) == {"error", "code", "hint"} and e["code"] == code, about
        assert word in "%s (%s)" % (e["error"], e["hint"]), about
    else:
        assert err.startswith("snaptrail: ") and word in err and err[:-1].isprintable(), about


def refused(rows, **kw):
    before, n = files(os.environ["SNAPTRAIL_STORE"]), 0
    assert len(before) > 3, "no store"
    for row, code, word in rows:
        for argv in (words(row), ["--json", *words(row)]):
            says_why(argv, code, word, run(argv, **kw))
            after = files(os.environ["SNAPTRAIL_STORE"])
            assert after == before, (argv, sorted(set(after.items()) ^ set(before.items())))
            n += 1
    assert n >= 2, "no row"


def no_store(code, word, *options, but=(), **kw):
    """Each verb that needs a store, behind options; a `run` that cannot start has a status of its own."""
    refused((([*options, *words(good)], 125 if verb == "run" else code, word) for verb, good in GOOD.items()
             if verb not in (*NO_STORE, *but)), **kw)


def no_config(word, *options, **kw):
    refused((([*options, *words(good)], 2, word) for verb, good in GOOD.items() if verb not in NO_CONFIG), **kw)


def test_every_verb_has_a_row():
    verbs = re.findall(r"^  ([a-z]+) ", snaptrail("help").partition("Verbs\n")[2].partition("\n\n")[0], re.M)
    assert len(verbs) > 20 and set(verbs) == set(GOOD), set(verbs) ^ set(GOOD)


def test_a_verb_that_does_not_exist():
    make_store()
    refused([("shwo", 2, "show"), ("''", 2, "''"), ("LS", 2, "verb"), ("'ls s'", 2, "verb"), ([LONG], 2, "verb"), ([ODD], 2, "verb"),
             ("shwo --help", 2, "show"), ("help shwo", 2, "show"), ("help ''", 2, "topic"), (["help", LONG], 2, "topic")])


def test_an_option_that_does_not_exist():
    make_store()
    refused([("--bogus ls", 2, "--bogus"), ("-Z ls", 2, "-Z"), ("ls --limti 5", 2, "--limit"), ("ls --limit", 2, "--limit"),
             ("ls -n", 2, "--limit"), ("ls --json=5", 2, "--json"), ("ls --reverse=no", 2, "--reverse"), (["ls", "--" + LONG], 2, "flag"),
             (["ls", "--" + ODD], 2, "flag")])
    refused((words(good)[:1] + [option] + words(good)[1:], 2, "flag")
            for good in GOOD.values() for option in ("--bogus", "--bogus=1", "-Z"))


def test_an_argument_that_is_missing():
    make_store()
    refused([("run", 2, "command"), ("run --", 2, "command"), ("diff", 2, "two references"), ("diff first", 2, "two references"),
             ("nearest", 2, "TIME"), ("mark", 2, "NAME"), ("when", 2, "PATH"), ("when x", 2, "PATH"), ("when x ==", 2, "value"),
             ("create", 2, "SESSION"), ("create --state state.json", 2, "SESSION"), ("auto", 2, "start or stop"), ("attend", 2, "SESSION"),
             ("tag", 2, "REF"), ("tag latest", 2, "tags"), ("describe", 2, "REF"), ("describe latest", 2, "TEXT"), ("rm", 2, "REF"),
             ("repair", 2, "--into"), ("import", 2, "file"), ("doctor", 2, "command"), ("export -o", 2, "FILE"), ("ls --store", 2, "DIR")])


def test_an_argument_too_many():
    make_store()
    refused((words(good) + ["more"], 2, "'more'") for verb, good in GOOD.items() if verb not in ANY_NUMBER)
    refused([("config --check good.ini more", 2, "'more'"), ("when n == 1 2", 2, "'2'"), ("describe latest a good one", 2, "quote"),
             ("log a b", 2, "quote"), (["sessions", LONG], 2, "no"), (["ls", "s", ODD], 2, "ls")])


def test_a_number_that_is_none():
    make_store()
    for number in ("x", "''", "-5", "+5", "5x", "0x10", "1.5", "' 5'", "18446744073709551616", "9" * 300, "٣"):
        refused([("ls s --limit %s" % number, 2, "--limit"), ("ls s --offset=%s" % number, 2, "--offset")])
    refused([("show latest~99999999999999999999999", 4, "before"), ("show latest~1x", 2, "~"), ("show '#'", 2, "number"),
             ("show '#x'", 2, "number"), ("show '#-1'", 2, "number"), ("show '#1 '", 2, "number"),
             ("show '#99999999999999999999999'", 4, "#9999"), ("doctor 99999999999999999999999", 4, "9999"), ("doctor 0", 4, "0"),
             ("doctor -5", 4, "-5")])


def test_a_time_that_is_none():
    make_store()
    times = ("x", "''", "-", "+", "-5", "-5x", "+5.", "25:00", "12:60", "12:00:", "2026-13-01", "2026-02-30", "1969-12-31",
             "2026-01-01T00:00:00Q", "12345678901234", "99999999999999999999", "-99999999999w", "+99999999999w", "5m", LONG, ODD)
    for t in times:
        refused([(["log", "--since=" + t], 2, "bad time"), (["nearest", "--", t], 2, "bad time")])
    refused((["show", "@" + t], 2, "bad time") for t in times if t != LONG)
    refused((verb % "x", 2, "bad time") for verb in (
        "ls --since %s", "ls --until %s", "log --until %s", "when n exists --since %s", "when n exists --until %s", "watch s --since %s",
        "export --since %s", "export --until %s", "create s --state state.json --time %s", "create new --state state.json --time %s", "rm @%s",
        "diff @%s latest", "mark m @%s", "tag @%s +x"))


def test_a_duration_or_a_size_that_is_none():
    make_store()
    for d in ("x", "-5s", "5", "5x", "5s5", "1h 30m", "999999999999w", LONG, ODD):
        refused([(["auto", "start", "s", "--interval=" + d], 2, "duration")])
    for d in ("x", "-5s", "5x", "999999999999w"):
        refused([("run --interval=%s -- true" % d, 2, "duration"), ("auto start s --interval=%s" % d, 2, "duration")])
    refused([("auto start s --interval 0s", 2, "interval"), ("auto start s --interval ''", 2, "--interval"),
             ("run --interval '' -- true", 2, "--interval")])
    for size in ("x", "-1", "1X", "1KK", "99999999999T", "1 K"):
        refused([("ls", 2, "SNAPTRAIL_STORAGE_MEMORY")], env={"SNAPTRAIL_STORAGE_MEMORY": size})


def test_a_reference_that_does_not_exist():
    make_store()
    for ref in ("nothing", "deadbeef", "tag:none", "mark:none", "none/latest", "latest~99", "s/cafe"):
        refused((verb % ref, 4, "no ") for verb in REFERENCES)
    refused((verb % "live", 4, "ended") for verb in REFERENCES)
    refused((verb % "'#999999'", 4, "#999999") for verb in REFERENCES)
    refused((verb % "@1767000001", 4, "instant") for verb in ("tag %s +t", "describe %s text", "rm %s"))


def test_a_reference_that_is_ambiguous():
    make_store()
    refused((verb % ref, 2, "feed000000000002") for verb in REFERENCES for ref in ("feed", "s/feed0", "feed~1"))
    refused((verb % "fee", 4, "fee") for verb in REFERENCES)


def test_a_reference_that_is_malformed():
    make_store()
    refused((verb % ref, 2, word) for verb in REFERENCES for ref, word in (
        ("''", "empty"), ("s/", "empty"), ("@", "time"), ("@x", "time"), ("'#'", "number"), ("'#1x'", "number"), ("latest~1x", "~")))
    for ref in ("'*'", "latest~", "~", "/latest", "a/b/c", "tag:", "mark:", "-1", "LATEST", "s/live/x"):
        refused((verb % ref, 4, "no ") for verb in REFERENCES)


def test_a_reference_of_any_bytes_or_length():
    make_store()
    for odd in (LONG, ODD, "tag:" + LONG, "mark:" + LONG, LONG + "/latest", "s/" + LONG, "latest~" + LONG, "#" + LONG, "@" + LONG, "tag:" + ODD,
                "mark:" + ODD, ODD + "/latest"):
        refused(([odd if w == "%s" else w for w in verb.split()], 4, "no ") for verb in REFERENCES)
    for odd, word in (("#" + ODD, "number"), ("@" + ODD, "time")):
        refused(([odd if w == "%s" else w for w in verb.split()], 2, word) for verb in REFERENCES)


def test_a_session_that_does_not_exist():
    make_store()
    refused((verb % "none", 4, "none") for verb in SESSIONS)
    refused(([w.replace("%s", odd) for w in verb.split()], 4, "no ") for verb in SESSIONS for odd in (LONG, ODD))
    refused([("show", 4, "none"), ("log", 4, "none"), ("ls", 4, "none"), ("nearest 5", 4, "none"),
             ("rm latest", 4, "none")], env={"SNAPTRAIL_SESSION": "none"})


def test_a_session_that_has_ended():
    make_store()
    refused((row, 4, "s") for row in ("snap s", "auto start s", "auto stop s", "flush s", "attend s", "create s", "show s/live"))


def test_a_session_of_no_allowed_name():
    make_store()
    for name in ("''", "a/b", "live", "latest", "first", "/", "x" * 256):
        refused([("create %s --state state.json" % name, 2, "session"), ("run --session %s -- true" % name, 2, "session")])
    refused((verb % "''", 2, "session") for verb in SESSIONS if "/" not in verb)


def test_a_tag_or_a_mark_with_a_slash_is_found_again():
    make_store()
    snaptrail("tag", "s/first", "+team/release")
    snaptrail("mark", "team/deploy", "s/first")
    for ref in ("s/tag:team/release", "s/mark:team/deploy"):
        assert json.loads(snaptrail("show", ref, "--json"))["metrics"] == {"n": 1}
    assert json.loads(snaptrail("show", "tag:team/release", "--session", "s", "--json"))["metrics"] == {"n": 1}


def test_a_tag_that_is_not_allowed():
    make_store()
    for tag in ("a,b", "!a", "+a", "-a", "t" * 256, LONG, "!" + ODD):
        refused([(["create", "s", "--state", "state.json", "--tag=" + tag], 2, "a tag has"), (["tag", "latest", "+" + tag], 2, "a tag has"),
                 (["snap", "s", "--tag=" + tag], 2, "a tag has"), (["run", "--tag=" + tag, "true"], 2, "a tag has")])
    refused([("tag latest good", 2, "+TAG"), ("tag latest ''", 2, "+TAG"), ("tag latest +", 2, "a tag has"), ("snap s -t ''", 2, "--tag"),
             ("tag latest +a +b,c", 2, "b,c")])


def test_a_text_that_is_too_long():
    make_store()
    refused([(["create", "s", "--state", "state.json", "-d", LONG], 2, "description"), (["describe", "latest", LONG], 2, "description"),
             (["snap", "s", "-d", LONG], 2, "description"), (["mark", LONG], 2, "mark"), (["mark", ""], 2, "mark")])


def test_a_pattern_that_is_malformed():
    make_store()
    for path in ("n#", "metrics:n#", "#"):
        refused([(["log", path], 2, "#"), (["show", "--path", path], 2, "#"), (["when", path, "exists"], 2, "#")])
    refused([("when n '><' 4", 2, "comparison"), ("when n '' 4", 2, "comparison"), ("when n == ", 2, "value"),
             ("when n exists 5", 2, "exists"), (["when", "n", LONG, "4"], 2, "comparison"), (["when", "n", ODD, "4"], 2, "comparison")])


def test_a_format_that_does_not_exist():
    make_store()
    refused([("export s --format xml", 2, "json|binary"), ("export s -f ''", 2, "json|binary"), ("export s -f jso", 2, "json|binary"),
             ("ls s --type tagged", 2, "full|incremental"), ("ls s --sort name", 2, "timestamp"),
             ("create s --state state.json --type tagged", 2, "full"), ("snap s --type x", 2, "full"), ("--color=blue ls", 2, "always"),
             (["export", "s", "--format", LONG], 2, "json|binary"), (["--color=" + ODD, "ls"], 2, "always")])


def test_options_that_exclude_each_other():
    make_store()
    says_why(["show", "--stack"], 2, "--path", run(["show", "--stack"]))
    refused([("run --wait --detach -- true", 2, "--detach"), ("nearest 5 --before --after", 2, "--after"),
             ("nearest 5 --either --before", 2, "--before"), ("ls s --all", 2, "--all"), ("ls s --session recorded", 2, "recorded"),
             ("auto stop s --interval 5s", 2, "interval"), ("create s --time -5m", 2, "--state"),
             ("create s --force-compression", 2, "--state"), ("export s --session recorded", 2, "recorded")])


def broken_files():
    """Name, exit status, a word of the message."""
    with open("good.json", "rb") as f:
        good = f.read()
    snaptrail("export", "s", "--format", "binary", "-o", "good.snap")
    with open("good.snap", "rb") as f:
        binary = f.read()
    deep = b'{"snapshots":[{"id":"x","sessionId":"s","timestamp":1,"state":' + b'{"agents":' * 100000 + b"1" + b"}" * 100000 + b"}]}"
    for name, code, word, data in (
            ("empty", 2, "byte", b""),
            ("blank", 2, "byte", b" \n"),
            ("rubbish", 2, "byte", bytes(range(128, 256)) * 50),
            ("elf", 2, "byte", b"\x7fELF" + b"\0" * 99),
            ("cut", 2, "byte", good[:-20]),
            ("cut.gz", 5, "cut short", gzip.compress(good)[:-9]),
            ("rubbish.gz", 5, "gzip", b"\x1f\x8b" + b"\xff" * 99),
            ("cut.snap", 5, "", binary[:-20]),
            ("head.snap", 5, "", binary[:64]),
            ("magic.snap", 5, "cut short", b"SNAPTRL1"),
            ("deep", 2, "deep", deep),
            ("list", 2, "byte", b"[]"),
            ("none", 2, "snapshots", b"{}"),
            ("future", 6, "version", good.replace(b'"1.0"', b'"9.0"'))):
        with open(name, "wb") as f:
            f.write(data)
        yield name, code, word


def test_an_import_of_what_is_no_export():
    make_store()
    os.mkdir("folder")
    for name, code, word in [*broken_files(), ("missing", 2, "No such file"), ("folder", 2, "directory")]:
        refused([(["import", name], code, name + ": "), (["import", "--overwrite", "--no-validate", name], code, word)])
    refused([("import -", 2, "stdin: "), ("import ''", 2, "No such file"), (["import", LONG], 2, "too long")])


def test_an_import_that_fails_makes_no_store():
    make_store()
    os.mkdir("folder")
    for name in ("missing", "folder"):
        says_why(["import", name], 2, name, run(["--store", "elsewhere", "import", name]))
        assert not os.path.exists("elsewhere"), name


def test_a_state_that_is_none():
    make_store()
    with open("text", "w") as f:
        f.write("{bad")
    os.mkdir("folder")
    refused([("create s --state missing", 2, "missing"), ("create s --state folder", 2, "folder"), ("create s --state text", 2, "text: "),
             ("create s --state ''", 2, "--state"), ("create s --state -", 2, "stdin"), ("create new --state text", 2, "line 1")])


def test_an_export_that_cannot_be_written():
    make_store()
    os.mkdir("folder")
    refused([("export s -o folder", 2, "folder"), ("export s -o missing/file", 2, "missing/file"),
             ("export s -o state.json/file", 2, "state.json"), ("export s -o ''", 2, "--output"), (["export", "s", "-o", LONG], 2, "too long"),
             ("export s -o /dev/full", 70, "/dev/full"), ("export s -f binary -o /dev/full", 70, "/dev/full")])
    assert os.listdir("folder") == []
    snaptrail("export", "s", "-o", "there")
    with open("there") as f:
        assert len(json.load(f)["snapshots"]) >= 2
    refused([("export none -o there", 4, "none"), ("export s -o there --since x", 2, "time")])
    with open("there") as f:
        assert len(json.load(f)["snapshots"]) >= 2, "what was there is gone"


def test_a_repair_that_cannot_be_written():
    make_store()
    os.mkdir("full")
    open("full/file", "w").close()
    refused([("repair --into full", 2, "full"), ("repair --into state.json", 2, "state.json"),
             ("repair --into state.json/x", 2, "state.json"), ("repair --into /proc/x", 2, "/proc/x"), ("repair --into ''", 2, "DIR"),
             (["repair", "--into", os.environ["SNAPTRAIL_STORE"]], 2, "store")])
    assert os.listdir("full") == ["file"]


def test_a_store_that_is_a_file():
    make_store()
    open("file", "w").close()
    no_store(2, "file: Not a directory", "--store", "file")
    no_store(2, "file/below: Not a directory", "--store", "file/below")
    assert os.path.getsize("file") == 0


def test_a_store_that_is_missing():
    make_store()
    no_store(4, "no store", "--store", "nowhere", but=("run", "create", "import"))  # these make one
    assert not os.path.exists("nowhere")
    refused([("--store /proc/nowhere run -- true", 125, "/proc/nowhere"), ("--store /proc/nowhere import good.json", 2, "/proc/nowhere"),
             ("--store /proc/nowhere create s --state state.json", 2, "/proc/nowhere"), ("--store '' ls", 2, "--store")])
    no_store(2, "too long", "--store", LONG)


def test_a_store_that_may_not_be_read():
    need("setpriv")
    if os.geteuid() != 0:
        skip("only root becomes somebody else")
    make_store()
    os.chmod(os.environ["SNAPTRAIL_STORE"], 0o700)
    no_store(2, "Permission denied", before=NOBODY)


def test_a_configuration_that_is_bad():
    make_store()
    os.mkdir("folder.ini")
    for name, line, word, text in (
            ("key", 2, "interval", b"[snapshot]\nintervall = 5s\n"),
            ("section", 1, "snapshot", b"[snapshto]\ninterval = 5s\n"),
            ("value", 2, "duration", b"[snapshot]\ninterval = often\n"),
            ("bool", 3, "neither yes nor no", b"\n[snapshot]\nincremental = perhaps\n"),
            ("count", 2, "whole number", b"[retention]\nmax_snapshots = -1\n"),
            ("size", 2, "size", b"[storage]\nmemory = 5X\n"),
            ("choice", 2, "hybrid", b"[storage]\ntype = hybird\n"),
            ("rate", 2, "rate", b"[capture]\nmax_rate = 1/h\n"),
            ("stacks", 2, "resource", b"[capture]\nstacks = process, resuorce\n"),
            ("depth", 2, "64", b"[capture]\nstack_depth = 65\n"),
            ("lane", 3, "power of two", b"\n[ring]\nlane = 5000\n"),
            ("lanes", 2, "lane_max", b"[ring]\nlane = 8M\n"),
            ("words", 2, "key = value", b"[snapshot]\ninterval 5s\n"),
            ("nowhere", 1, "interval", b"interval = 5s\n"),
            ("open", 1, "key = value", b"[snapshot\n"),
            ("binary", 1, "", bytes(range(128, 256)) * 9),
            ("long", 2, "", b"[storage]\npath = /" + b"x" * 100000 + b"\n"),
            ("odd", 2, "", b"[snapshot]\n\x1b[31m\xff = 5\n")):
        with open(name + ".ini", "wb") as f:
            f.write(text)
        where = "%s.ini:%d: " % (name, line)
        refused([(["--config", name + ".ini", "ls"], 2, where), (["--profile", "./%s.ini" % name, "ls"], 2, where),
                 (["config", "--check", name + ".ini"], 2, where), (["config", "--check", name + ".ini"], 2, word)])
        refused([("sessions", 2, where)], env={"SNAPTRAIL_CONFIG": name + ".ini"})
    no_config("key.ini:2: ", "--config", "key.ini")
    for name in ("missing.ini", "folder.ini", "state.json/x"):
        no_config(name + ": cannot be read", "--config", name)
    refused([("config --check missing.ini", 2, "missing.ini"), ("config --check folder.ini", 2, "folder"), ("config --check ''", 2, ""),
             ("--profile forensics ls", 2, "forensic"), ("--profile ./missing ls", 2, "missing"), (["--profile", LONG, "ls"], 2, "profile"),
             (["--profile", ODD, "ls"], 2, "profile")])


def test_a_variable_that_is_bad():
    make_store()
    for variable, value, word in (
            ("SNAPTRAIL_SNAPSHOT_INTERVAL", "often", "duration"),
            ("SNAPTRAIL_SNAPSHOT_INTERVALL", "5s", "interval"),
            ("SNAPTRAIL_STORAGE_TYPE", "", "hybrid"),
            ("SNAPTRAIL_RETENTION_MAX_SNAPSHOTS", "many", "whole number"),
            ("SNAPTRAIL_HOOKS_HEAP", "perhaps", "yes"),
            ("SNAPTRAIL_STORAGE_MEMORY", "-1", "size"),
            ("SNAPTRAIL_CAPTURE_MAX_RATE", "fast", "rate"),
            ("SNAPTRAIL_CAPTURE_STACKS", "som", "stacks"),
            ("SNAPTRAIL_SNAPSHOT_INTERVAL", LONG, "duration"),
            ("SNAPTRAIL_SNAPSHOT_INTERVAL", ODD, "duration"),
            ("SNAPTRAIL_CONFIG", "missing.ini", "missing.ini"),
            ("SNAPTRAIL_PROFILE", "forensics", "forensic")):
        where = "" if value in ("missing.ini", "forensics") else variable
        refused([("ls s", 2, word), ("run -- true", 2, where)], env={variable: value})
    no_config("SNAPTRAIL_SNAPSHOT_INTERVALL: ", env={"SNAPTRAIL_SNAPSHOT_INTERVALL": "5s"})
    refused([("ls", 2, "state.json: Not a directory")], env={"SNAPTRAIL_STORE": "state.json"})


def test_a_program_that_cannot_be_run():
    make_store()
    os.mkdir("folder")
    refused([("run -- ./missing", 127, "missing"), ("run -- missing-program", 127, "missing-program"), ("run -- ./folder", 126, "folder"),
             ("run -- ./state.json", 126, "state.json"), ("run -- ''", 127, ""), (["run", LONG], 127, ""), ("doctor ./missing", 4, "missing"),
             ("doctor ''", 4, ""), (["doctor", LONG], 4, ""), (["doctor", ODD], 4, "a")])


def test_a_program_that_may_not_be_executed_cannot_be_injected():
    make_store()
    for argv in (["doctor", "./state.json"], ["--json", "doctor", "./state.json"]):
        code, out, err = run(argv)
        assert code == 7 and b"state.json: cannot be executed" in out and not err, (code, out, err)


PRINTING = ("sessions", "ls s", "ls s --count", "show", "show --path '*'", "log --session recorded", "diff first latest --session s",
            "nearest 1767000000 --session s", "when metrics:n exists --session s", "stats", "verify", "config", "doctor true", "help",
            "help ls", "help times", "--version", "ls --help", "export s", "export s --format binary",
            "prune --dry-run", "import good.json --no-validate")


def cannot_write(argv, word, result):
    """Beside notes, which go to stderr, one error."""
    code, _, err = result
    lines = [line for line in err.splitlines() if not line.startswith("snaptrail: note: ")]
    assert code == 70 and len(lines) == 1 and word in lines[0], (argv, code, err)


def test_an_output_that_is_full_or_closed():
    make_store()
    before = files(os.environ["SNAPTRAIL_STORE"])
    for row in PRINTING:
        for argv in (words(row), ["--json", *words(row)]):
            assert run(argv)[0] in (0, 1), argv
            with open("/dev/full", "w") as full:
                cannot_write(argv, "No space left", run(argv, stdout=full))
            cannot_write(argv, "Bad file descriptor", run(argv, stdout=None, preexec_fn=lambda: os.close(1)))
            run(argv, stdin=None, preexec_fn=lambda: os.closerange(0, 3))
            assert files(os.environ["SNAPTRAIL_STORE"]) == before, argv


def test_an_id_that_cannot_be_told_is_not_told_into_the_store():
    make_store()
    for _ in range(3):
        code, _, err = run(words(GOOD["create"]), stdout=None, preexec_fn=lambda: os.closerange(0, 2))
        assert code == 70 and "Bad file descriptor" in err, (code, err)
        code, _, err = run(words(GOOD["create"]), stdout=None, stdin=None, preexec_fn=lambda: os.closerange(0, 3))
        assert code == 70 and not err, (code, err)
    assert snaptrail("verify").endswith("all is well\n") and len(json.loads(snaptrail("ls", "s", "--json"))) == 9


def test_what_an_import_says_to_a_closed_stderr_is_not_told_into_its_files():
    make_store()
    document = json.loads(snaptrail("export", "s", "--include-incrementals"))
    sound = [s["id"] for s in document["snapshots"]]
    for i in range(2 * len(sound), 0, -1):
        document["snapshots"].insert(i // 2, {**document["snapshots"][0], "id": "unsound%d" % i, "checksum": "none"})
    with open("mixed.json", "w") as f:
        json.dump(document, f)
    for number in (1, 2):
        store = "closed-%d" % number
        with open("mixed.json") as mixed:
            code, _, _ = run(["--store", store, "import", "-"], stdin=mixed, stdout=None, preexec_fn=lambda: os.closerange(number, 3))
        assert code == (70 if number == 1 else 3), code
        assert sorted(s["id"] for s in json.loads(snaptrail("--store", store, "ls", "s", "--json"))) == sorted(sound)
        assert snaptrail("--store", store, "verify").endswith("all is well\n")


def test_an_input_that_is_closed():
    make_store()
    refused([("import -", 2, "stdin: Bad file descriptor"), ("create s --state -", 2, "stdin")], stdin=None, preexec_fn=lambda: os.close(0))
