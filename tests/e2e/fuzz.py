"""What fuzzers found once, and seeds of real recordings, through every reader of
others' bytes: without a fuzzer, and unless built so without sanitizers."""
import glob
import os
import subprocess
import sys

import lib
from lib import snaptrail

FUZZ = os.path.join(lib.SOURCE, "tests/fuzz")
REPLAY = os.path.join(lib.BUILD, "fuzz-replay")


def replay(target, files):
    p = subprocess.run([REPLAY, target, *files], capture_output=True, text=True, timeout=50)
    assert p.returncode == 0 and p.stdout == "%d\n" % len(files), (target, p.returncode, p.stderr[-500:])


def test_what_was_found_once_is_answered():
    folders = glob.glob(FUZZ + "/corpus/*")
    assert len(folders) >= 5, folders
    for folder in folders:
        replay(os.path.basename(folder), glob.glob(folder + "/*"))


def test_seeds_of_real_recordings():
    subprocess.run([sys.executable, FUZZ + "/seeds.py", lib.BUILD, "seeds"], check=True)
    targets = sorted(os.listdir("seeds"))
    assert targets == ["change", "import", "ini", "json", "map", "payload", "ref", "ring", "segment", "state"], targets
    for t in targets:
        replay(t, glob.glob("seeds/%s/*" % t))


def test_bits_of_a_small_recording_flipped_behind_good_checksums():
    """The reader answers for every one of them, or says what is damaged."""
    snaptrail("create", "s", "--state", "-", input='{"agents":{"a":{"id":"a"}}}')
    segment, = glob.glob(os.environ["SNAPTRAIL_STORE"] + "/segments/*.seg")
    with open(segment, "rb") as f:
        data = bytearray(f.read())
    os.makedirs("bits")
    for at in range(0, len(data) * 8, max(1, len(data) * 8 // 1500)):
        data[at // 8] ^= 1 << at % 8
        with open("bits/%d" % at, "wb") as f:
            f.write(data)
        data[at // 8] ^= 1 << at % 8
    replay("segment", glob.glob("bits/*"))
