"""Who may see and change what, and what a program that lies can do to its recorder."""
import glob
import json
import os
import signal
import stat
import subprocess
import time

from lib import PLAIN, SNAPTRAIL, limit, program, record, run_argv, show, skip, snaptrail, supervised, wait_for

HOSTS = ("run", "plain")
NOBODY = 65534


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def begun():
    """A session is named there; one that is just being made has a longer name."""
    return glob.glob(os.environ["SNAPTRAIL_STORE"] + "/live/" + "?" * 16)


def rings_folder():
    live = os.path.join(os.environ["SNAPTRAIL_STORE"], "live")
    (name,) = [n for n in os.listdir(live) if len(n) == 16]
    with open(os.path.join(live, name)) as f:
        return [line.split(" ", 1)[1].strip() for line in f if line.startswith("folder ")][0]


class Running:
    """A recorded shell that waits until told."""

    def __init__(self, script="read x", **kw):
        self.p = subprocess.Popen(run_argv("sh", "-c", script, **kw), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(begun)
        wait_for(lambda: json.loads(snaptrail("sessions", "--json", code=(0, 1)) or "[]"))

    def end(self):
        out, err = self.p.communicate(b"\n", timeout=30)
        return self.p.returncode, out, err


# ---- folders ----

def test_folders_and_files_are_for_their_owner_alone():
    os.umask(0)
    r = Running()
    store, rings = os.environ["SNAPTRAIL_STORE"], rings_folder()
    for path in (store, store + "/segments", store + "/live"):
        assert mode_of(path) == 0o700, (path, oct(mode_of(path)))
    for folder in (store + "/segments", store + "/live"):
        for name in os.listdir(folder):
            assert mode_of(os.path.join(folder, name)) == 0o600, (name, oct(mode_of(os.path.join(folder, name))))
    # Whoever the program becomes makes rings beside the others; nobody lists or takes them.
    assert mode_of(rings) == 0o1733 and mode_of(os.path.dirname(rings)) == 0o711, oct(mode_of(rings))
    for name in os.listdir(rings):
        if name.startswith(("r.", "stage.", "request")):
            assert mode_of(os.path.join(rings, name)) == 0o600, (name, oct(mode_of(os.path.join(rings, name))))
    assert r.end()[0] == 0


def test_another_user_sees_and_asks_nothing():
    if os.geteuid():
        skip("needs root to be two users")
    r = Running()
    os.chmod(os.path.dirname(os.environ["SNAPTRAIL_STORE"]), 0o755)

    def as_nobody(*argv):
        return subprocess.run(["setpriv", "--reuid=%d" % NOBODY, "--clear-groups", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=30)
    for verb in (["sessions"], ["show", "live", "-s", "s"], ["snap", "s"], ["log", "-s", "s"], ["rm", "s/first"], ["verify"]):
        p = as_nobody(SNAPTRAIL, *verb)
        assert p.returncode not in (0, 1) and p.stdout == "" and p.stderr.startswith("snaptrail: "), (verb, p)
    assert as_nobody("ls", rings_folder()).returncode != 0
    assert as_nobody("sh", "-c", "cat %s/stage.* %s/r.*" % (rings_folder(), rings_folder())).stdout == ""
    assert r.end()[0] == 0
    assert len(json.loads(snaptrail("ls", "--json", "--session", "s"))) >= 1


def test_a_link_where_the_rings_should_lie_is_not_followed():
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("cannot mount here")
    # An empty /dev/shm of our own, in which somebody was first.
    for plant in ("mkdir victim; ln -s $PWD/victim /dev/shm/snaptrail-0", "mkdir -p victim /dev/shm/snaptrail-0; chown 65534 /dev/shm/snaptrail-0",
                  "mkdir victim; echo x >/dev/shm/snaptrail-0", "mkdir victim; mkdir -m 777 /dev/shm/snaptrail-0"):
        script = "mount -t tmpfs none /dev/shm && rm -rf victim && %s && shift 0 && exec %s" % (
            plant, " ".join(run_argv("sh", "-c", "'echo on; ls -A victim /dev/shm/snaptrail-0/ 2>/dev/null | wc -l; exit 3'",
                                     session="p%d" % len(plant))))
        p = subprocess.run(["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=30)
        assert p.returncode == 3 and p.stdout.startswith("on\n"), (plant, p)
        assert os.listdir("victim") == [], (plant, os.listdir("victim"))
        assert snaptrail("log", "-s", "p%d" % len(plant)), plant


def test_a_store_that_is_a_link_to_another_user_s_folder_or_open_to_all_is_told():
    os.mkdir("open")
    os.chmod("open", 0o777)
    p = subprocess.run([SNAPTRAIL, "--store", "open", "create", "x", "--state", "-"], input=b'{"agents":{}}', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # What we make in it is ours alone, whatever the folder is.
    if p.returncode == 0:
        assert mode_of("open/segments") == 0o700
    else:
        assert p.stderr.startswith(b"snaptrail: ") and p.stderr.count(b"\n") == 1


# ---- a program that lies ----

LIAR = """
import ctypes, os, random, re, sys, time
random.seed(int(sys.argv[1]))
os.putenv('HONEST', 'yes')
time.sleep(0.1)
maps = []
for line in open('/proc/self/maps'):
    m = re.match(r'(\\w+)-(\\w+) rw-s \\S+ \\S+ \\S+ +(/\\S*snaptrail-\\S*/(board|r\\.\\S*))$', line)
    if m: maps.append((int(m.group(1), 16), int(m.group(2), 16)))
assert maps
end = time.time() + float(sys.argv[2])
keep = random.random() < 0.5
while time.time() < end:
    for a, b in maps:
        for i in range(200):
            at = random.randrange(a // 8, b // 8) * 8
            if random.random() < 0.5: at = a + at % 4096 // 8 * 8
            ctypes.c_uint64.from_address(at).value = random.choice((0, 1, 2**64 - 1, 2**63, 2**32, random.getrandbits(64), random.getrandbits(20)))
    try: open('/etc/passwd').close()
    except OSError: pass
os.kill(os.getpid(), 9)
"""


def anonymous_kib(pid):
    try:
        with open("/proc/%s/status" % pid) as f:
            return int(dict(line.split(":", 1) for line in f)["RssAnon"].split()[0])
    except (OSError, KeyError):
        return 0


@supervised
@limit(120)
def test_a_program_that_scribbles_over_its_rings_harms_only_itself():
    for seed in range(8):
        session = "liar%d" % seed
        p = subprocess.Popen(run_argv("/usr/bin/python3", "-c", LIAR, str(seed), "0.5", session=session, options=("--interval", "50ms")),
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        most, end = 0, time.monotonic() + 3
        while p.poll() is None:
            for pid in subprocess.run(["pgrep", "-x", "snaptrail"], stdout=subprocess.PIPE, text=True).stdout.split():
                most = max(most, anonymous_kib(pid))
            if time.monotonic() > end:  # a hook may go round in what it wrote
                with open("/proc/%d/task/%d/children" % (p.pid, p.pid)) as f:
                    for pid in f.read().split():
                        if "python" in os.readlink("/proc/%s/exe" % pid):
                            os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        err = p.stderr.read()
        assert p.returncode in (-9, -11, -7), (seed, p.returncode, err)  # it may well harm itself
        assert 0 < most < 300000, "%d KiB" % most
        for verb in (["show", "latest", "-s", session], ["log", "-s", session], ["ls", session]):
            q = subprocess.run([SNAPTRAIL, *verb], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            assert q.returncode in (0, 1, 3, 4, 5), (seed, verb, q.returncode, q.stderr[-300:])
    # Nothing was written elsewhere, and the next recording is as ever.
    snaptrail("verify", code=(0, 3))
    record("sh", "-c", "exit 3", session="after")
    assert any(a.get("exitCode") == 3 for a in show("latest", "after")["agents"].values())


@supervised
@limit(120)
def test_a_program_that_stamps_what_it_does_in_times_to_come_ends_all_the_same():
    for later in (2, 64):  # days, and months
        before = time.time_ns()
        p = record(program("guest"), "future", str(later), options=("--profile", "forensic"), session="later%d" % later, timeout=30)
        assert (p.returncode, p.stdout) == (0, b"1\n"), p
        lines = [json.loads(x) for x in snaptrail("log", "--json", "--session", "later%d" % later).splitlines()]
        assert len(lines) > 3000 and all(before <= int(x["timeNs"]) <= time.time_ns() for x in lines), (lines[0], lines[-1])
        (session,) = [s for s in json.loads(snaptrail("sessions", "--json")) if s["name"] == "later%d" % later]
        assert session["exitCode"] == 0 and not session["live"], session
        assert all("endedAt" in a for a in show("latest", "later%d" % later)["agents"].values())


# ---- set-user-id ----

def test_what_a_set_user_id_program_does_is_not_ours():
    if os.geteuid():
        skip("needs root to make one")
    subprocess.run("cp /usr/bin/env suid && chown 65534 suid && chmod 4755 suid", shell=True, check=True)
    out = record("sh", "-c", "./suid -0 >environment; ./suid cat /proc/self/maps | grep -c snaptrail; exit 0").stdout
    assert out.strip() in (b"0", b""), out


# ---- secrets ----

SECRETS = {  # name: value, as they look in the wild; none is anybody's
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "GITHUB_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "DB_PASSWORD": "correct horse battery", "PGPASSWORD": "s3cr3t-pg", "MYSQL_ROOT_PASSWORD": "r00tme-now", "STRIPE_API_KEY": "sk_live_4eC39HqLyjWDarjtT1",
    "SLACK_TOKEN": "xoxb-17653672481-19874698323", "JWT_SECRET": "eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8opsb", "SESSION_COOKIE": "sid=9f86d081884c7d659a2f",
    "ssh_passphrase": "open-sesame-77", "SERVICE_CREDENTIALS": "user:pw-8812", "TLS_PRIVATE_KEY": "MIIEvQIBADANBgkqhkiG9w0BAQ", "APIKEY": "AIzaSyD-9tSrke72PouQ",
    "HTTP_AUTHORIZATION": "Bearer-mF_9.B5f-4.1JqM", "OLD_PWD_HASH": "5f4dcc3b5aa765d61d83", "DATABASE_URL": "postgres://shop:hunter2hunter2@db/shop",
}
TEXTS = ["--password=pw-on-a-command-line", "token: tok-in-a-text-4411", "https://deploy:gitpass99@example.org/x.git", "api_key=AKIAIOSFODNN7EXAMPLE",
         "Authorization: Bearer mF-header-77", '{"client_secret": "json-secret-55"}', 'password="two-words and-66"', "deploy --api-key option-33 -v",
         "aws_secret_access_key = ini-file-44"]
SPLIT = ["--access-token", "argument-22"]  # an option and its value
IN_TEXTS = ["pw-on-a-command-line", "tok-in-a-text-4411", "gitpass99", "AKIAIOSFODNN7EXAMPLE", "mF-header-77", "json-secret-55", "and-66",
            "option-33", "ini-file-44"]
HIDDEN = list(SECRETS.values()) + IN_TEXTS + ["hunter2hunter2"]
OPEN = {"EDITOR": "vi-is-no-secret", "PATH_TO_KEYS": "/etc/keys-path", "KEYBOARD": "us-layout", "TOKENIZER": None, "MONKEY": "george-the-monkey"}


def test_no_secret_reaches_a_ring_or_the_store():
    env = dict(os.environ, **SECRETS, **{k: v for k, v in OPEN.items() if v})
    code = "import os, subprocess, sys, syslog\n" + "".join("os.putenv('LATER_%s', %r)\n" % (k, v + "-later") for k, v in SECRETS.items()) + \
        "syslog.syslog('login with %s')\n" % "; ".join(TEXTS) + "subprocess.run(['true'] + %r)\nsys.stdin.read()\n" % TEXTS
    p = subprocess.Popen(run_argv("/usr/bin/python3", "-c", code), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    wait_for(begun)
    wait_for(lambda: "EDITOR" in snaptrail("log", "*/env/*", "-s", "s", "--no-pager", code=(0, 1, 4)))
    time.sleep(0.5)
    rings = b""
    for name in os.listdir(rings_folder()):
        if name.startswith(("r.", "board", "stage")):
            with open(os.path.join(rings_folder(), name), "rb") as f:
                rings += f.read()
    assert b"vi-is-no-secret" in rings
    p.communicate(b"", timeout=30)
    # The program that we wrote here names them in its own text, which is an argument: its line is looked at apart.
    said = snaptrail("log", "--json", "-s", "s") + snaptrail("show", "latest", "--json", "-s", "s") + snaptrail("export", "s", "-o", "-", code=(0, 2))
    lines = [x for x in said.splitlines() if "import os, subprocess" not in x]
    for value in HIDDEN:
        assert not any(value in x for x in lines), (value, [x for x in lines if value in x][0][:300])
        at = rings.find(value.encode())
        assert at < 0 or b"import os, subprocess" in rings[max(0, at - 4000):at], (value, rings[max(0, at - 80):at + 60])
    for value in filter(None, OPEN.values()):
        assert any(value in x for x in lines), value + " is no secret and is hidden"


def test_no_secret_of_a_command_line_reaches_the_store():
    """The line of the session itself, of `run` and of processes that only /proc shows, was told as it is."""
    ways = [("args", ("/bin/true", *TEXTS, *SPLIT)), ("shell", ("sh", "-c", "/bin/true \"$@\"; sleep 0.2", "sh", *TEXTS, *SPLIT))]
    for session, argv in ways:
        record(*argv, session=session, options=("--interval", "50ms"))
    if not PLAIN:
        subprocess.run([SNAPTRAIL, "run", "--quiet", "--proc-only", "--interval", "50ms", "--session", "proc", "--", "/bin/sh", "-c",
                        "sleep 0.3; true", *TEXTS, *SPLIT], check=True)
        ways.append(("proc", None))
    said = snaptrail("sessions", "--json")
    for session, _ in ways:
        said += snaptrail("log", "--json", "-s", session) + snaptrail("export", session, "-o", "-", code=(0, 2))
    stored = b""
    for folder, _, names in os.walk(os.environ["SNAPTRAIL_STORE"]):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                stored += f.read()
    assert "deploy:<redacted>@example.org" in said, said[:2000]
    assert "--access-token <redacted>" in said.replace("'", ""), said[:2000]
    for value in (*IN_TEXTS, SPLIT[1]):
        assert value not in said, said[max(0, said.find(value) - 200):said.find(value) + 80]
        assert value.encode() not in stored, value
