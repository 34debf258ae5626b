"""doc/guide.md: what it shows is run.  Its `sh` blocks are one script, its `c`
blocks without a main one program, in their order; `ini` blocks are checked, and
its table of options is compared with the table that the parser reads."""
import os
import re
import shutil
import subprocess

from lib import BUILD, SNAPTRAIL, SOURCE, need, snaptrail

GUIDE = os.path.join(SOURCE, "doc/guide.md")

BEFORE = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <snaptrail.h>

static void check(const char *what, int64_t result)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\\n", what, snaptrail_strerror((int)result), snaptrail_error());
	exit(1);
}
static struct snaptrail_state *state_now(void *arg) { return arg; }
static void error_told(void *arg, const struct snaptrail_notification *n) { (void)arg; printf("%s: %s\\n", n->type, n->error); }

int main(void)
{
	struct snaptrail_settings settings;
	struct snaptrail_state *state = snaptrail_state_new();
	struct snaptrail *st = NULL;
	char id[17];

"""
AFTER = """\
	snaptrail_state_free(state);
	snaptrail_close(st);
	return 0;
}
"""


def text():
    with open(GUIDE) as f:
        return f.read()


def blocks(language):
    found = re.findall(r"^```%s\n(.*?)^```$" % language, text(), re.M | re.S)
    assert found, language
    return found


def compile_and_run(name, source):
    need("cc")
    with open(name + ".c", "w") as f:
        f.write(source)
    p = subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I" + os.path.join(SOURCE, "src"), name + ".c",
                        "-L" + os.path.join(BUILD, ".libs"), "-lsnaptrail", "-o", name], stderr=subprocess.PIPE, text=True)
    assert p.returncode == 0, p.stderr[:1500]
    p = subprocess.run(["./" + name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20,
                       env=dict(os.environ, LD_LIBRARY_PATH=os.path.join(BUILD, ".libs")))
    assert p.returncode == 0 and not p.stderr, (name, p.returncode, p.stderr)
    return p.stdout


def test_every_command_of_the_guide_runs():
    shutil.copy(os.path.join(SOURCE, "tests/data/orders-default.json"), "snapshots.json")
    os.symlink(SNAPTRAIL, "snaptrail")
    p = subprocess.run(["sh", "-e"], input="\n".join(blocks("sh")), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       env=dict(os.environ, PATH=os.getcwd() + ":" + os.environ["PATH"]), timeout=50)
    told = [line for line in p.stderr.splitlines() if not line.startswith("snaptrail: note: ")]
    assert p.returncode == 0 and not told, (p.returncode, p.stdout[-600:], p.stderr)
    assert "4 imported" in p.stdout and "progress  0.1 -> 0.9" in p.stdout, p.stdout


def test_every_program_of_the_guide_runs():
    programs = [b for b in blocks("c") if "int main" in b]
    assert programs
    for i, b in enumerate(programs):
        assert re.fullmatch(r"[0-9a-f]{16}\n", compile_and_run("program%d" % i, b))
    fragments = "".join("\t{\n%s\t}\n" % b for b in blocks("c") if "int main" not in b)
    said = compile_and_run("fragments", BEFORE + fragments + AFTER)
    assert "Snapshot: Critical checkpoint" in said and "Compression ratio" in said, said


def test_every_ini_of_the_guide_is_right():
    for i, b in enumerate(blocks("ini")):
        with open("%d.ini" % i, "w") as f:
            f.write(b)
        snaptrail("config", "--check", "%d.ini" % i)


def test_the_guides_table_of_options_is_the_parsers():
    rows = re.findall(r"^\| (.*?) \| `\[(\w+)\] (\w+)` \| .*? \| (.*?) \|$", text(), re.M)
    with open(os.path.join(SOURCE, "src/base/options.def")) as f:
        options = {(m[0], m[1]): m[2] for m in
                   re.findall(r'^OPTION\((\w+), (\w+), \w+, \w+, "[^"]*",\s*"[^"]*", "([^"]*)"', f.read(), re.M)}
    with open(os.path.join(SOURCE, "src/snaptrail.h")) as f:
        header = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    settings = header[header.index("struct snaptrail_settings {"):]
    settings = set(re.findall(r"(\w+);", settings[:settings.index("};")])) - {"size"}
    assert {m for r in rows for m in re.findall(r"`(\w+)`", r[0])} == settings
    for _, section, key, original in rows:
        names = re.findall(r"`(\w+)`", original)
        assert (options[section, key] or "-") == (names[0] if names else "-"), (section, key)
    assert {o for o in options.values() if o} == {n for r in rows for n in re.findall(r"`(\w+)`", r[3])[:1]}


def test_what_the_guide_names_is_there():
    with open(os.path.join(SOURCE, "src/snaptrail.h")) as f:
        header = f.read()
    for name in set(re.findall(r"`(snaptrail_\w+)\(\)`", text())):
        assert re.search(r"\b%s\(" % name, header), name
    for link in re.findall(r"\]\((examples[^)]*)\)", text()):
        assert os.path.exists(os.path.join(SOURCE, "doc", link)), link
    verbs = set(re.findall(r"^VERB\((\w+)", open(os.path.join(SOURCE, "src/cli/commands.def")).read(), re.M))
    for block in blocks("sh"):
        for verb in re.findall(r"^(?:\w+=\S+ )?snaptrail (?:--\w+ \S+ )?(\w+)", block, re.M):
            assert verb in verbs, verb
