"""What the preloaded objects are made of, and which way the sources include."""
import glob
import os
import re
import subprocess
import zlib
import struct

from lib import BUILD, SOURCE, need, program, record, skip

PRELOAD = os.path.join(BUILD, ".libs", "libsnaptrail-preload.so")


def run(*argv, **kw):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=50, **kw).stdout


def hooks(table="hooks.def"):
    with open(os.path.join(SOURCE, "preload", table)) as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    return set(re.findall(r"^HOOK\(\w+, [^,]+, (\w+),", text, re.M)) | set(re.findall(r"^JUMP\(\w+, (\w+)\)", text, re.M))


def exports(path):
    return {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--defined-only", path).splitlines()
            if line.split()[-2] != "A"}


def test_exactly_the_hooked_names_are_exported():
    need("nm")
    ours = {n for n in exports(PRELOAD) if not n.startswith("snaptrail_")}
    assert ours == hooks(), "only exported: %s; only in the table: %s" % (sorted(ours - hooks()), sorted(hooks() - ours))
    assert exports(PRELOAD) - ours == {"snaptrail_report_v1", "snaptrail_report_enabled",
                                      "snaptrail_visitor_notify", "snaptrail_visitor_stacks", "snaptrail_visitor_hosts",
                                      "snaptrail_visitor_heap"}


def test_the_engine_module_shows_two_functions_and_needs_nothing_but_libc():
    need("nm", "readelf")
    path = PRELOAD.replace("preload", "engine")
    assert exports(path) == {"snaptrail_engine_plan", "snaptrail_engine_run"}
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path))) <= {"libc.so.6", "ld-linux-x86-64.so.2"}
    # Its heap is its own: what libc allocates inside may only be given back.
    used = imports(path)
    assert not used & {"malloc", "calloc", "qsort", "abort", "strdup", "vasprintf", "__tls_get_addr"}, used


def test_the_second_object_exports_only_names_of_libsystemd():
    names = exports(PRELOAD.replace(".so", "-sd.so"))
    assert names and all(n.startswith("sd_") for n in names), names


def test_the_heaps_object_exports_the_mallocs_and_nothing_else():
    assert exports(PRELOAD.replace(".so", "-heap.so")) == hooks("heap.def")
    assert not exports(PRELOAD) & hooks("heap.def")


def test_the_heaps_object_asks_the_loader_for_nothing():
    wanted = {line.split()[-1].split("@")[0] for line in
              run("nm", "-D", "--undefined-only", PRELOAD.replace(".so", "-heap.so")).splitlines() if line.split()[-2] == "U"}
    assert wanted == {"__errno_location", "_r_debug"}, wanted


def test_the_visitor_needs_nothing_but_libc():
    for path in (PRELOAD, PRELOAD.replace(".so", "-sd.so"), PRELOAD.replace(".so", "-heap.so")):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path))
        assert set(needed) <= {"libc.so.6", "ld-linux-x86-64.so.2"}, (path, needed)


def test_thread_local_storage_is_at_most_256_bytes_and_initial_exec():
    for path in (PRELOAD, PRELOAD.replace(".so", "-heap.so")):
        m = re.search(r"^\s*TLS\s+\S+\s+\S+\s+\S+\s*\S+\s+(0x\w+)", run("readelf", "-lW", path), re.M)
        assert m and int(m.group(1), 16) <= 256, m
        assert "__tls_get_addr" not in run("nm", "-D", path)
        assert not re.search(r"R_X86_64_(DTPMOD64|DTPOFF64|TLSDESC)", run("readelf", "-rW", path))


def test_the_visitor_wants_no_new_libc():
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_(\d[\d.]*)", run("nm", "-D", PRELOAD))}
    assert versions and max(versions) <= (2, 34), max(versions)


def test_no_hook_takes_more_than_a_kilobyte_of_stack():
    need("objdump")
    bad, name = [], ""
    wanted = hooks()
    for line in run("objdump", "-d", "--no-show-raw-insn", PRELOAD).splitlines():
        m = re.match(r"[0-9a-f]+ <(\S+)>:", line)
        if m:
            name = m.group(1)
        m = re.search(r"sub\s+\$0x([0-9a-f]+),%rsp", line)
        if m and name in wanted and 1024 < int(m.group(1), 16) < 1 << 20:
            bad.append("%s %d" % (name, int(m.group(1), 16)))
    assert not bad, bad


# Names of libc that make or close a descriptor, or move a process.
INTEREST = """open open64 openat openat64 __open_2 __open64_2 __openat_2 __openat64_2 creat creat64 fopen fopen64 freopen
freopen64 fclose fcloseall tmpfile tmpfile64 mkstemp mkstemp64 mkostemp mkostemp64 mkstemps mkstemps64 mkostemps
mkostemps64 opendir closedir close close_range closefrom dup dup2 dup3 fcntl fcntl64 pipe pipe2 socket socketpair accept
accept4 eventfd epoll_create epoll_create1 timerfd_create signalfd inotify_init inotify_init1 fanotify_init memfd_create
pidfd_open pidfd_getfd shm_open mq_open mq_close posix_openpt getpt openpty forkpty login_tty popen pclose recvmsg recvmmsg
open_by_handle_at perf_event_open userfaultfd fdopendir setmntent endmntent fork _Fork vfork clone execve execv execvp
execvpe execl execlp execle fexecve execveat posix_spawn posix_spawnp pidfd_spawn system wait wait3 wait4 waitpid waitid
daemon chdir fchdir chroot setenv putenv unsetenv clearenv pthread_create thrd_create pthread_setname_np prctl
rename renameat renameat2 unlink unlinkat remove syslog vsyslog __syslog_chk __vsyslog_chk""".split()

# Not hooked, and why that is right.
KNOWN = {
    "fcloseall": "at exit only", "login_tty": "seen as dup2 is not: healed at snapshots", "setmntent": "short-lived",
    "endmntent": "short-lived", "fdopendir": "makes no descriptor", "mq_close": "calls close", "getpt": "rare",
    "chroot": "changes no fact that is shown",
    "fanotify_init": "rare: healed at snapshots", "pidfd_getfd": "rare: healed at snapshots",
    "mq_open": "rare: healed at snapshots", "open_by_handle_at": "rare: healed at snapshots",
    "perf_event_open": "no libc wrapper", "userfaultfd": "no libc wrapper", "pidfd_spawn": "glibc 2.39",
}


def imports(path):
    return {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--undefined-only", path).splitlines() if line}


def test_what_programs_import_is_hooked_or_known():
    need("nm")
    unhooked, programs, table = {}, [], hooks()
    for path in sorted(glob.glob("/usr/bin/*") + glob.glob("/usr/sbin/*"))[:1500:3]:
        with open(path, "rb") as f:
            if f.read(4) == b"\x7fELF":
                programs.append(path)
    # One nm for all of them: each line begins with the file's name.
    p = subprocess.run(["nm", "-A", "-D", "--undefined-only", *programs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in p.stdout.splitlines():
        path, n = line.split(":", 1)[0], line.split()[-1].split("@")[0]
        if n in set(INTEREST) - set(table):
            unhooked.setdefault(n, []).append(os.path.basename(path))
    assert len(p.stdout.splitlines()) > 1000, "nm told next to nothing"
    for n, who in sorted(unhooked.items()):
        print("%s: not hooked, imported by %d programs (%s): %s" % (n, len(who), ", ".join(who[:3]), KNOWN.get(n, "?")))
    bad = sorted(set(unhooked) - set(KNOWN))
    assert not bad, "%s, imported by %s" % (bad, [unhooked[n][:3] for n in bad])


def test_stored_payloads_are_the_documented_protobuf():
    need("protoc")
    assert record("sh", "-c", "cd /; exec 5</etc/passwd; sleep 0.1").returncode == 0
    kinds = {1: "Session", 3: "Snapshot"}
    seen = 0
    for path in glob.glob(os.environ["SNAPTRAIL_STORE"] + "/segments/*.seg"):
        with open(path, "rb") as f:
            data = f.read()
        at = 64
        assert data[:8] == b"SNAPTRL1"
        while at + 128 <= len(data):
            magic, kind, flags, _, meta_len, payload_len, raw_len = struct.unpack_from("<IHHIIQQ", data, at)
            if magic != 0x43455253:
                break
            payload = data[at + 128 + meta_len:at + 128 + meta_len + payload_len]
            raw = zlib.decompress(payload) if flags & 1 else payload
            assert len(raw) == raw_len, (kind, len(raw), raw_len)
            if raw:
                text = subprocess.run(["protoc", "--decode_raw"], input=raw, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, timeout=30)
                assert text.returncode == 0, (kind, text.stderr)
                assert named(raw), "record type %d of %d bytes is no message of the schema" % (kind, len(raw))
                seen += kind == 3
            at += 128 + (meta_len + payload_len + 7 & ~7)
    assert seen >= 2, seen


def named(raw):
    """Whether some message of the schema takes these bytes with no unknown field left."""
    folder = os.path.join(SOURCE, "proto")
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".proto"):
            continue
        with open(os.path.join(folder, file)) as f:
            text = f.read()
        package = re.search(r"^package ([\w.]+);", text, re.M)
        for message in re.findall(r"^message (\w+)", text, re.M):
            full = (package.group(1) + "." if package else "") + message
            p = subprocess.run(["protoc", "-I", folder, "--decode=" + full, file], input=raw, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=30)
            if p.returncode == 0 and p.stdout and not re.search(rb"^\s*\d+(:| \{)", p.stdout, re.M):
                return full
    return None


GENERATOR = "/gendoc.c"  # runs when the documents are built, no part of the command

MAY_INCLUDE = {
    "cli": {"cli"}, "preload": {"report", "snaptrail"}, "plugin": {"report", "snaptrail"}, "base": {"base"}, "report": {"report"},
    "model": {"report", "base", "model", "proto"}, "store": {"base", "store", "proto"},
    "engine": {"engine", "model", "store", "report", "base", "proto"},
    "api": {"api", "engine", "model", "store", "report", "base", "proto"},
}


# A reader of traces is no guest: it is a recorder of its own, as the command is.
READERS = {"engine", "model", "report", "base"}


def test_sources_include_only_downwards():
    bad = []
    for folder, allowed in MAY_INCLUDE.items():
        where = os.path.join(SOURCE, folder if folder in ("preload", "plugin") else "src/" + folder)
        for path in glob.glob(where + "/**/*.[ch]", recursive=True):
            if path.endswith(GENERATOR):
                continue
            with open(path) as f:
                for name in re.findall(r'^\s*#\s*include "([^"]+)"', f.read(), re.M):
                    top = name.split("/")[0] if "/" in name else None
                    if top is None or top == "..":
                        if name in ("config.h", "snaptrail.h") or os.path.exists(os.path.join(os.path.dirname(path), name)) \
                                and not name.startswith(".."):
                            continue
                    elif top in allowed or name == "base/mark.h" or folder == "plugin" and re.match(r"bt_|map\.", os.path.basename(path)) and top in READERS:
                        continue
                    bad.append("%s includes %s" % (os.path.relpath(path, SOURCE), name))
    assert not bad, "; ".join(bad)


def test_the_command_uses_the_public_header_alone():
    own = {os.path.basename(p) for p in glob.glob(SOURCE + "/src/cli/*.[hd]*")}
    bad = []
    for path in glob.glob(SOURCE + "/src/cli/*.[ch]"):
        if path.endswith(GENERATOR):
            continue
        with open(path) as f:
            names = re.findall(r'^\s*#\s*include "([^"]+)"', f.read(), re.M)
        bad += ["%s: %s" % (os.path.basename(path), n) for n in names
                if os.path.basename(n) not in own | {"snaptrail.h", "config.h"}]
    assert not bad, bad


def test_the_visitor_names_no_allocator():
    used = imports(PRELOAD)
    bad = used & {"malloc", "free", "calloc", "realloc", "pthread_mutex_lock", "pthread_atfork"}
    assert not bad, bad


def test_only_the_host_opens_modules():
    folder = os.path.join(BUILD, "preload/.libs")
    objects = [n for n in os.listdir(folder) if re.match(r"libsnaptrail_preload_la-.*\.o$", n)]
    assert len(objects) > 10, objects
    users = {n for n in objects if re.search(r" U (dlopen|dlsym|dladdr)\b", run("nm", "-u", os.path.join(folder, n)))}
    assert users == {"libsnaptrail_preload_la-host.o"}, users


def test_the_runner_itself_fails_what_asserts_and_counts_it():
    folder = os.path.abspath("self")
    os.makedirs(folder + "/e2e")
    os.makedirs(folder + "/programs")
    with open(folder + "/e2e/lib.py", "w") as f:
        f.write("class Skip(Exception):\n    pass\n")
    with open(folder + "/e2e/some.py", "w") as f:
        f.write("import os, time, lib\ndef test_right(): pass\ndef test_wrong_one(): assert 1 == 2, 'not equal'\n"
                "def test_absent(): raise lib.Skip('no such thing')\n"
                "def test_endless(): time.sleep(9)\n"
                "def test_slow_once(): os.path.exists('%s') or os.mkdir('%s') or time.sleep(9)\n" % (folder + "/once", folder + "/once") +
                "test_endless.limit_s = test_slow_once.limit_s = 1\n")
    subprocess.run(["cp", os.path.join(SOURCE, "tests", "run"), folder])
    env = {k: v for k, v in os.environ.items() if k not in ("KEEP", "TIMES", "TEST_SLOWER")}
    p = subprocess.run([folder + "/run", folder], stdout=subprocess.PIPE, text=True, timeout=30, env=env)
    endless = "some endless: took more than 1 s, in e2e/some.py:5 test_endless"
    assert p.stdout.splitlines() == ["ok some right", "FAIL some wrong one: not equal", "skip some absent: no such thing",
                                     "late " + endless, "FAIL " + endless,
                                     "late some slow once: took more than 1 s, in e2e/some.py:6 test_slow_once", "ok some slow once",
                                     "2 passed, 2 failed, 1 skipped, 2 late once and repeated"], p.stdout
    assert p.returncode == 1
