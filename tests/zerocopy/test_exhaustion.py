"""What runs out is named, and what was being sent is sent all the same."""

import os
import subprocess
import sys

import pytest
from beds import PATIENCE

HERE = os.path.dirname(__file__)


def run_script(script):
    """In a process of its own, which prints "fine" at its end."""
    paths = os.pathsep.join([HERE, os.path.dirname(HERE), *sys.path])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE,
                         env=os.environ | {"PYTHONPATH": paths})
    assert run.stdout == "fine\n", run.stderr


NO_DESCRIPTORS = """
import contextlib, errno, mmap, os, resource, tempfile
import ustack
from ustack import fbufs
from direct_beds import counted, two_devices
from beds import connected
with two_devices() as (near, far), connected(near, far) as (c, s), tempfile.TemporaryFile() as f:
    f.write(bytes(100_000))
    f.flush()
    here, there = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.dup(0))
    for refused in (
        lambda: ustack.CowBuffer(5), lambda: fbufs.Pool(4096, 1), lambda: ustack.FlipBuffer(5),
        ustack.SharedMemory.pair,
        lambda: ustack.splice(f, c, wait=False), lambda: ustack.splice(here, there, wait=False),
        lambda: ustack.splice(c, s, wait=False),
    ):
        try:
            refused()
        except OSError as error:
            assert error.errno == errno.EMFILE, error
        else:
            raise AssertionError("there was a descriptor left")
    memory = mmap.mmap(-1, 20_000)
    for send in (
        lambda: c.sendfile(f, how="mmap"), lambda: c.sendfile(f, how="gather"), lambda: c.sendfile(f, how="copy"),
    ):
        assert send() == 100_000
        assert s.recv(100_000, 0x100) == bytes(100_000)
    for how in ({"direct": True}, {"cow": True}, {}):
        c.setblocking(False)
        assert c.send(memory, **how) == 20_000
        c.settimeout(60)
        assert s.recv(20_000, 0x100) == bytes(20_000)
    for number in held:
        os.close(number)
    print("fine")
"""


def test_without_descriptors():
    """Each error is EMFILE, which says what ran out, and no descriptor is lost on the way."""
    run_script(NO_DESCRIPTORS)


LITTLE_LOCKED = """
import os, resource
import ustack
from ustack import fbufs, genie, via
from direct_beds import two_devices
from beds import connected, reading
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
os.setuid(65534)
with two_devices() as (near, far), connected(near, far) as (c, s), via.Nic() as nic:
    try:
        nic.register(bytearray(1 << 20), nic.ptag())
    except via.ViaError as error:
        assert "RLIMIT_MEMLOCK is 65536" in str(error), error
    else:
        raise AssertionError("it was pinned")
    buffer = ustack.CowBuffer(1 << 18)
    with reading(s) as got, ustack.register(buffer) as memory:
        assert not memory.pinned
        c.sendall(buffer, direct=True)
        c.sendall(buffer, cow=True)
        assert genie.send(c, bytearray(1 << 18), "share") == 1 << 18
        c.shutdown(1)
    assert got.result(60) == bytes(3 << 18)
    s2 = near.stats()
    assert s2["direct.sent"] == 2 and not s2.get("direct.registered"), s2
    print("fine")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="giving up the right to lock memory needs a root to give it up")
def test_with_little_memory_that_may_be_locked():
    """VIA says so with the numbers; everything else does without."""
    run_script(LITTLE_LOCKED)
