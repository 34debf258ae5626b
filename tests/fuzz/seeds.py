#!/usr/bin/env python3
"""Seeds for the fuzz targets, of real recordings: seeds.py BUILD FOLDER"""
import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

BUILD, OUT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SNAPTRAIL = os.path.join(BUILD, "snaptrail")


def put(target, name, data):
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def varint(p, at):
    v = shift = 0
    while True:
        v |= (p[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if not p[at - 1] & 128:
            return v, at


def fields(p):
    """(number, wire type, bytes of the value) of a message."""
    at = 0
    while at < len(p):
        tag, at = varint(p, at)
        if tag & 7 == 2:
            n, at = varint(p, at)
        elif tag & 7 == 0:
            n = varint(p, at)[1] - at
        else:
            n = 8 if tag & 7 == 1 else 4
        yield tag >> 3, tag & 7, p[at:at + n]
        at += n


def payloads(segment):
    """Of its snapshots, as doc/format.md has them."""
    at = 64
    while at + 128 <= len(segment):
        magic, kind, flags, _, meta, payload = struct.unpack_from("<IHHIIQ", segment, at)
        if magic != 0x43455253:
            return
        if kind == 3 and not flags & 1:
            yield segment[at + 128 + meta:at + 128 + meta + payload]
        at += 128 + (meta + payload + 7 & ~7)


def main():
    work = tempfile.mkdtemp(prefix="snaptrail-seeds-")
    config = os.path.join(work, "config.ini")
    with open(config, "w") as f:
        f.write("[compression]\nenabled = no\n")
    env = dict(os.environ, SNAPTRAIL_STORE=os.path.join(work, "store"), SNAPTRAIL_CONFIG=config)

    def run(*args, **kw):
        return subprocess.run([SNAPTRAIL, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=work, timeout=60, **kw).stdout
    try:
        script = "exec 3</etc/passwd; true; (exec 4<&3; read x <&4; exit 3); A=1 sh -c 'exec true' & wait; cd /; :"
        run("run", "-q", "--session", "s", "--interval", "2ms", "--tag", "t", "--", "sh", "-c", script)
        run("run", "-q", "--session", "spoken", "--", os.path.join(BUILD, "test-programs/spoken"))
        states = [{"agents": {"a": {"id": "a", "variables": {"n": 1.5, "l": [None, True, "\u00e9"]}}}, "timestamp": 1},
                  {"agents": {"a": {"id": "a", "status": "idle"}}, "communications": {"c": [{"message": "m"}]}, "x": {}}]
        for s in states:
            run("create", "own", "--state", "-", input=json.dumps(s).encode())
            put("json", "state%d" % len(s), json.dumps(s))
        put("json", "all", run("show", "latest", "--json", "--session", "s"))
        for segment in glob.glob(os.path.join(work, "store/segments/*")):
            with open(segment, "rb") as f:
                data = f.read()
            if len(data) < 200000:
                put("segment", os.path.basename(segment), data)
            for i, payload in enumerate(payloads(data)):
                name = "%s-%d" % (os.path.basename(segment)[:6], i)
                if len(payload) > 100000:
                    continue
                put("payload", name, payload)
                for number, kind, value in fields(payload):
                    if number == 15 and kind == 2:
                        put("state", name, value)
                    elif number == 1 and kind == 2:
                        put("change", "%s-%d" % (name, len(value)), value)
        for session in ("s", "spoken", "own"):
            for form in ("json", "binary"):
                put("import", "%s.%s" % (session, form), run("export", session, "--format", form, "--include-incrementals", "-o", "-"))
        for path in glob.glob(SOURCE + "/conf/*.ini") + glob.glob(SOURCE + "/conf/profiles/*.ini"):
            with open(path, "rb") as f:
                put("ini", os.path.basename(path), f.read())
        for path in glob.glob(SOURCE + "/conf/maps/*.ini"):
            with open(path, "rb") as f:
                put("map", os.path.basename(path), f.read())
        for i, text in enumerate(("latest", "first", "s/latest~2", "@1700000000000000000", "-5m", "12:30:01.5", "2026-11-23T10:00:00+01:00", "tag:t",
                                  "mark:m", "start+3s", "abcd", "s:latest", "1.5h", "64K", "memory:p1/env/*#value", "10%", "live")):
            put("ref", str(i), text)
        put("ring", "empty", b"\0" * 8192)
        put("ring", "records", subprocess.run([os.path.join(BUILD, "fuzz-replay"), "ring-seed"], stdout=subprocess.PIPE, check=True).stdout)
    finally:
        shutil.rmtree(work)


main()
