"""Completion in three shells: each loads the generated file and completes lines
as if they had been typed."""
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time

from lib import BUILD, SNAPTRAIL, need, record

NAMES = ["only $(touch evaluated) one", "other"]

# What is typed before the key, and what stands there afterwards, in every shell.
LINES = [
    ("snaptrail sn", "snaptrail snap "),
    ("snaptrail --store %s verif", "snaptrail --store %s verify "),
    ("snaptrail ls --rev", "snaptrail ls --reverse "),
    ("snaptrail show --pa", "snaptrail show --path"),
    ("snaptrail ls --type f", "snaptrail ls --type full "),
    ("snaptrail ls --sort ti", "snaptrail ls --sort timestamp "),
    ("snaptrail help exit-", "snaptrail help exit-codes "),
    ("snaptrail auto sto", "snaptrail auto stop "),
    ("snaptrail auto stop oth", "snaptrail auto stop other "),
    ("snaptrail ls oth", "snaptrail ls other "),
    ("snaptrail ls --session oth", "snaptrail ls --session other "),
    ("snaptrail ls -s oth", "snaptrail ls -s other "),
    ("snaptrail show lat", "snaptrail show latest "),
    ("snaptrail config --check a-f", "snaptrail config --check a-file "),
    ("snaptrail --profile forens", "snaptrail --profile forensic "),
    ("snaptrail run --wa", "snaptrail run --wait "),
    ("snaptrail run only-her", "snaptrail run only-here "),
    ("snaptrail stats nothin", "snaptrail stats nothin"),
]


def prepare(shell):
    """Two sessions, one with a name that must not be evaluated; a file; a command."""
    need(shell)
    for name in NAMES:
        assert record("true", session=name).returncode == 0
    os.makedirs("bin")
    with open("a-file", "w"), open("bin/only-here", "w"):
        os.chmod("bin/only-here", 0o755)
    os.environ["PATH"] = "%s:%s:%s" % (os.path.abspath("bin"), os.path.dirname(SNAPTRAIL), os.environ["PATH"])
    return os.path.join(BUILD, "snaptrail." + shell)


def lines():
    store = os.environ["SNAPTRAIL_STORE"]
    return [tuple(x.replace("%s", store) for x in pair) for pair in LINES]


def test_the_files_are_good_shell():
    for shell in ("bash", "zsh", "fish"):
        if shutil.which(shell):
            p = subprocess.run([shell, "-n", os.path.join(BUILD, "snaptrail." + shell)], stderr=subprocess.PIPE, text=True)
            assert (p.returncode, p.stderr) == (0, ""), (shell, p.stderr)


def test_every_verb_and_flag_is_in_all_three():
    verbs = re.findall(r"^ {2}(\w+) ", subprocess.run([SNAPTRAIL, "help"], stdout=subprocess.PIPE, text=True).stdout, re.M)
    assert len(verbs) > 12, verbs
    for shell in ("bash", "zsh", "fish"):
        with open(os.path.join(BUILD, "snaptrail." + shell)) as f:
            words = set(re.findall(r"[\w-]+", f.read().replace("-l ", "--")))
        assert set(verbs) <= words, (shell, set(verbs) - words)
        for verb in verbs:
            said = subprocess.run([SNAPTRAIL, "help", verb], stdout=subprocess.PIPE, text=True).stdout
            flags = set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", said, re.M))
            assert flags <= words, (shell, verb, flags - words)


class Terminal:
    """An interactive shell on a terminal of its own, asked for the line it has after a key."""

    def __init__(self, *argv):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ.update(TERM="dumb", PS1="", PS2="", COLUMNS="400")
            os.execvp(argv[0], argv)
        self.said = b""

    def send(self, text):
        os.write(self.fd, text.encode())

    def until(self, pattern):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            m = re.search(pattern, self.said, re.S)
            if m:
                self.said = self.said[m.end():]
                return m.group(1).decode()
            if select.select([self.fd], [], [], 0.2)[0]:
                self.said += os.read(self.fd, 65536)
        raise AssertionError("no answer: %r" % self.said[-600:])


def check(complete):
    """A value may be asked for by `=` or a blank."""
    bad = [(typed, got, wanted) for typed, wanted in lines() for got in [complete(typed)]
           if got != wanted and got.rstrip("= ") != wanted]
    assert not bad, bad
    got = complete("snaptrail ls onl")
    assert shlex.split(got) == ["snaptrail", "ls", NAMES[0]], got
    assert not os.path.exists("evaluated")


def test_bash_completes_what_was_typed():
    path = prepare("bash")
    t = Terminal("bash", "--norc", "--noprofile", "-i")
    t.send("bind 'set enable-bracketed-paste off'; bind 'set completion-ignore-case off'; . %s; "
           "say() { printf '<%%s>\\n' \"<$READLINE_LINE>\"; }; bind -x '\"\\C-g\": say'; echo rea''dy\n" % path)
    t.until(rb"(ready)\r")

    def complete(line):
        t.send("\x15" + line + "\t\x07")
        return t.until(rb"<<([^\r\n]*)>>")
    check(complete)


def test_zsh_completes_what_was_typed():
    path = prepare("zsh")
    os.makedirs("functions")
    shutil.copy(path, "functions/_snaptrail")
    t = Terminal("zsh", "-f", "-i")
    t.send("unset zle_bracketed_paste; fpath=($PWD/functions $fpath); autoload -Uz compinit; "
           "compinit -u -D; say() { print -r -- \"<<$BUFFER>>\" }; zle -N say; bindkey '^G' say; bindkey '^U' kill-whole-line; "
           "echo rea''dy\n")
    t.until(rb"(ready)\r?\n")

    def complete(line):
        t.send("\x15" + line + "\t\x07")
        return t.until(rb"<<([^\r\n]*)>>")
    check(complete)


def test_fish_completes_what_was_typed():
    path = prepare("fish")

    def complete(line):
        p = subprocess.run(["fish", "--no-config", "-c", "source %s; complete -C %s" % (path, shlex.quote(line))],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
        assert p.stderr == "", p.stderr
        words = [w.split("\t")[0] for w in p.stdout.splitlines()]
        if len(words) != 1:
            return line if not words else "%s of %s" % (line, words)
        return line[:line.rindex(" ") + 1] + (shlex.quote(words[0]) if " " in words[0] else words[0]) + " "
    check(complete)
