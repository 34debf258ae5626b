"""The public headers as a stranger's compiler sees them, and what the library
shows to the linker: the functions of the header, and nothing else."""
import os
import re
import subprocess

from lib import BUILD, SOURCE, need

HEADER = os.path.join(SOURCE, "src/snaptrail.h")
MANUAL = os.path.join(SOURCE, "doc/snaptrail.3")
LIBRARY = os.path.join(BUILD, ".libs/libsnaptrail.so")

# What each header offers, used: a macro or an enumerator that only one language knows shows here.
USES = {
    "snaptrail.h": """
        struct snaptrail_settings s;
        struct snaptrail_query q = { 0 };
        snaptrail_settings_init(&s, sizeof s);
        q.sort = SNAPTRAIL_BY_SIZE;
        return snaptrail_version() == NULL || q.sort == SNAPTRAIL_BY_TIME || SNAPTRAIL_METRICS != SNAPTRAIL_TABLES
            || SNAPTRAIL_EITHER == SNAPTRAIL_BEFORE || SNAPTRAIL_JSON == SNAPTRAIL_BINARY || SNAPTRAIL_OBJECT == SNAPTRAIL_NULL;""",
    "snaptrail/report.h": """
        snaptrail_report_set("rows", snaptrail_report_int(1));
        return snaptrail_report_on() && snaptrail_report_mark("half") != 0;""",
}
LANGUAGES = (("c99", "gcc clang", "c"), ("c11", "gcc clang", "c"), ("c17", "gcc clang", "c"),
             ("c++11", "g++ clang++", "c++"), ("c++17", "g++ clang++", "c++"))


def read(path):
    with open(path) as f:
        return f.read()


def declared():
    """The functions of snaptrail.h."""
    text = re.sub(r"/\*.*?\*/", "", read(HEADER), flags=re.S)
    found = set(re.findall(r"\b(snaptrail_\w+)\(", text))
    assert len(found) > 90, found
    return found


def has(program):
    return any(os.access(os.path.join(d, program), os.X_OK) for d in os.environ["PATH"].split(":"))


def test_the_headers_compile_alone_in_every_c_and_cxx():
    done = set()
    for std, compilers, language in LANGUAGES:
        for cc in filter(has, compilers.split()):
            for header, use in USES.items():
                # An empty initializer is C++'s; C++ warns of C's.
                text = "#include <%s>\nint main(void)\n{%s\n}\n" % (header, use.replace("{ 0 }", "{}") if language == "c++" else use)
                p = subprocess.run([cc, "-std=" + std, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                                    "-I" + os.path.join(SOURCE, "src"), "-x", language, "-"],
                                   input=text, stderr=subprocess.PIPE, text=True)
                assert p.returncode == 0, "%s -std=%s, %s: %s" % (cc, std, header, p.stderr[:600])
            done.add(cc)
    assert "gcc" in done, done


def test_the_library_shows_the_functions_of_its_header_and_no_more():
    need("nm")
    out = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], stdout=subprocess.PIPE, text=True, check=True).stdout
    shown = {line.split()[-1].split("@")[0] for line in out.splitlines()}
    functions = {line.split()[-1].split("@")[0] for line in out.splitlines() if line.split()[-2] == "T"}
    assert shown == functions == declared(), (shown ^ declared(), shown - functions)


def test_the_manual_has_every_function_once_in_name_and_synopsis():
    text = read(MANUAL)
    name = text[text.index(".SH NAME"):text.index(".SH SYNOPSIS")]
    synopsis = text[text.index(".SH SYNOPSIS"):text.index(".SH DESCRIPTION")]
    described = text[text.index(".SH DESCRIPTION"):].replace("\\-", "-")
    for f in sorted(declared()):
        assert len(re.findall(r"\b%s\b" % f, name)) == 1, f + " in NAME"
        assert len(re.findall(r"\b%s\(" % f, synopsis)) == 1, f + " in SYNOPSIS"
        assert re.search(r"\b%s\b" % f, described), f + " is not described"
    assert set(re.findall(r"\bsnaptrail_\w+(?=\()", synopsis)) == declared()


def prototypes(text):
    """Each function's declaration with one blank where there are some."""
    return {re.search(r"(snaptrail_\w+)\(", p).group(1): re.sub(r"\s+", " ", p).replace("( ", "(").strip()
            for p in re.findall(r"^(?!typedef)[a-z][\w \*]*?\bsnaptrail_\w+\((?:[^;{}]*)\);", text, re.M)}


def test_the_manual_declares_them_as_the_header_does():
    text = read(MANUAL)
    synopsis = text[text.index(".SH SYNOPSIS"):text.index(".SH DESCRIPTION")]
    synopsis = re.sub(r"^\..*$", "", synopsis, flags=re.M)
    mine, theirs = prototypes(synopsis), prototypes(re.sub(r"/\*.*?\*/", "", read(HEADER), flags=re.S))
    assert set(theirs) == declared(), declared() ^ set(theirs)
    wrong = [n for n in theirs if mine.get(n) != theirs[n]]
    assert not wrong, "; ".join("%s: %s" % (n, mine.get(n)) for n in wrong)


def test_man_prints_it_without_a_warning():
    need("man", "groff")
    p = subprocess.run(["man", "--warnings", "-l", "-P", "cat", MANUAL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       env=dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="100"))
    assert p.returncode == 0 and not p.stderr, p.stderr
    assert "snaptrail_settle" in p.stdout
