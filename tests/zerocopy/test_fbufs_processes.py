"""Fbufs between two real processes, with a third in between, and with one that lies or is killed."""

import contextlib
import gc
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fb_peer import pattern
from forger import Forger, memory

from ustack import fbufs

PEER = Path(__file__).with_name("fb_peer.py")
PATH = os.pathsep.join(filter(None, [str(PEER.parent), os.environ.get("PYTHONPATH")]))     # scripts/sanitize has one
PATIENCE = 60


@contextlib.contextmanager
def peer(role, *arguments, give=(), **more):
    """Another process in a role of fb_peer: (channel to it, process). It has ended, or is ended, afterwards."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", str(PEER), str(theirs.fileno()), role, *map(str, arguments)],
            pass_fds=[theirs.fileno(), *give], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": PATH}, **more)
    try:
        with process, fbufs.Channel(ours, timeout=PATIENCE) as channel:
            try:
                yield channel, process
            finally:
                channel.close()
                process.stdin.close()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
    finally:
        ours.close()


def test_another_process_reads_64_megabytes_in_place():
    total = hashlib.sha256()
    with peer("digest") as (channel, process):
        pool = fbufs.Pool(65536, 16)
        for i in range(1024):
            f = pool.alloc(65536 - i)
            f.write(pattern(i, len(f)))
            total.update(f.data)
            if i % 3:
                channel.send(f)
            else:
                message = fbufs.Aggregate([f])
                message.append(message.split(1000))
                channel.send(message)
        channel.close()
        assert process.stdout.read().decode().strip() == total.hexdigest()


@pytest.mark.parametrize("kind", ["protected", "strict", "volatile"])
def test_another_process_sends_back_what_it_gets(kind):
    with peer("echo") as (channel, _):
        pool = fbufs.Pool(4096, 4, kind=kind)
        for i in range(200):
            f = pool.alloc()
            f.write(pattern(i, 4096))
            channel.send(f)
            with channel.recv(PATIENCE) as back:
                assert not back.received
                assert bytes(back.data) == pattern(i, 4096)
        assert pool.free == 4


def test_a_third_process_gets_it_through_a_second():
    ours, theirs = socket.socketpair()
    with theirs, peer("relay", theirs.fileno(), give=[theirs.fileno()]) as (first, _):
        theirs.close()
        pool = fbufs.Pool(4096, 4)
        with fbufs.Channel(ours, timeout=PATIENCE) as last:
            for i in range(50):
                f = pool.alloc(timeout=PATIENCE)
                f.write(pattern(i, 4096))
                first.send(f)
                with last.recv(PATIENCE) as got:
                    assert bytes(got.data) == pattern(i, 4096)
            first.send(pool.alloc(0))
            last.recv(PATIENCE).free()


def test_a_killed_consumer_gives_everything_back():
    pool = fbufs.Pool(4096, 100)
    with peer("hoard") as (channel, process):
        for _ in range(100):
            channel.send(pool.alloc())
        got = 0
        while got < 100:
            got += len(process.stdout.read1(100))
        assert pool.free == 0
        process.kill()
        assert channel.recv(PATIENCE) is None
        assert pool.free == 100
        with pytest.raises(ConnectionError):
            channel.send(pool.alloc())
    with peer("echo") as (channel, _):              # the pool goes on
        channel.send(pool.alloc())
        channel.recv(PATIENCE).free()


def test_what_a_killed_producer_sent_is_still_there():
    with peer("produce", 8) as (channel, process):
        got = list(channel)
        assert process.wait(PATIENCE) == -9
        assert [bytes(f.data) for f in got] == [pattern(i, 4096) for i in range(8)]
        for f in got:
            f.free()


def test_without_security_a_producer_can_change_what_was_checked():
    with peer("scribble", "now") as (channel, process):
        with channel.recv(PATIENCE) as got:
            assert bytes(got.data[:5]) == b"first"          # checked ...
            process.stdin.write(b".")
            process.stdin.flush()
            assert process.stdout.read(1) == b"."
            assert bytes(got.data[:5]) == b"later"          # ... and used


def test_with_it_the_producer_faults():
    with peer("scribble", "now") as (channel, process):
        with channel.recv(PATIENCE) as got:
            with pytest.raises(TimeoutError):
                channel.secure(got, 0.01)                   # it has to use its channel first
            process.stdin.write(b".")
            process.stdin.flush()
            assert process.wait(PATIENCE) == -11            # SIGSEGV, in the process that wanted to write
            assert bytes(got.data[:5]) == b"first"


@pytest.mark.parametrize(("kind", "how", "end"), [
    ("protected", "read", 0), ("protected", "write", -11), ("strict", "read", -11), ("strict", "write", -11),
    ("volatile", "write", 0)])
def test_c_code_that_uses_what_was_sent(kind, how, end):
    with peer("poke", kind, how) as (channel, process):
        got = channel.recv(PATIENCE)
        assert process.wait(PATIENCE) == end
        assert bytes(got.data[:4]) == (b"evil" if kind == "volatile" else b"mine")
        got.free()


# --- one that lies ----------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def forged(**more):
    ours, theirs = socket.socketpair()
    forger = Forger(theirs, **more)
    try:
        yield ours, forger
    finally:
        forger.close()
        ours.close()


@pytest.mark.parametrize("lie", [{"magic": 7}, {"seals": 0}, {"length": 4096}, {"fds": 1}, {"fds": 0}])
def test_a_hello_that_is_none(lie):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with forged(**lie) as (ours, _), pytest.raises(OSError, match=r".") as failed:
        fbufs.Channel(ours, timeout=PATIENCE)
    assert not isinstance(failed.value, TimeoutError)
    assert len(os.listdir("/proc/self/fd")) == before


SHARED = 1 << 31


def introduced(f, **more):
    f.introduce(0, 4, 4096, **more)
    return f


LIES = {
    "a region that was never introduced": lambda f: f.describe(3, 0, 0, 1),
    "a region beyond all": lambda f: f.describe(1 << 20, 0, 0, 1),
    "another epoch": lambda f: introduced(f).describe(0, 0, 0, 1, epoch=9),
    "a buffer beyond the region": lambda f: introduced(f).describe(0, 4, 0, 1),
    "an offset beyond the buffer": lambda f: introduced(f).describe(0, 0, 4097, 0),
    "a length beyond the buffer": lambda f: introduced(f).describe(0, 0, 4095, 2),
    "a length that wraps": lambda f: introduced(f).describe(0, 0, 4095, 0xFFFFFFFF),
    "a buffer of ours that was never lent": lambda f: f.describe(0, 1, 0, 1, flags=2),
    "an introduction without a region": lambda f: (f.pass_on(b"\0" * 24, []), f.describe(0, 0, 0, 1)),
    "a short introduction": lambda f: (f.pass_on(b"\0" * 7, [0]), f.describe(0, 0, 0, 1)),
    "a region that can shrink": lambda f: introduced(f, seals=0).describe(0, 0, 0, 1),
    "a region smaller than it says": lambda f: introduced(f, fd=memory(4096)).describe(0, 3, 0, 1),
    "buffers of no whole pages": lambda f: (f.introduce(0, 4, 1000), f.describe(0, 0, 0, 1)),
    "buffers without end": lambda f: (f.introduce(0, 65536, 1 << 40), f.describe(0, 0, 0, 1)),
    "too many buffers": lambda f: (f.introduce(0, 65537, 4096), f.describe(0, 0, 0, 1)),
    "a region number beyond all": lambda f: (f.introduce(256, 1, 4096), f.describe(256, 0, 0, 1)),
    "a region again that is in use": lambda f: (introduced(f).describe(0, 0, 0, 1),
                                                introduced(f, epoch=2).describe(0, 0, 0, 1, epoch=2)),
    "an index that leaps": lambda f: f.publish(0, 5000),
    "an index that goes back": lambda f: f.publish(0, -1),
    "a return of what was never lent": lambda f: f.give_back(0, 1),
    "a return to a region beyond all": lambda f: f.give_back(1 << 30, 0),
    "a return of a buffer beyond the region": lambda f: f.give_back(0, 77),
    "a return twice": lambda f: (f.give_back(0, 0), f.give_back(0, 0)),
    "returns that leap": lambda f: f.publish(256 + 512 * 24, 1 << 20),
    "security for what was never lent": lambda f: f.give_back(0, 1 | SHARED),
    "a message without end": lambda f: (introduced(f), [f.describe(0, 0, 0, 1, flags=1) for _ in range(512)]),
}


def take_all(channel):
    taken = []
    while True:
        taken.append(channel.recv(0))


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_breaks_the_channel_and_nothing_else(lie):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with forged() as (ours, forger):
        channel = fbufs.Channel(ours, timeout=PATIENCE)
        pool = fbufs.Pool(4096, 4)
        channel.send(pool.alloc())
        assert pool.free == 3
        LIES[lie](forger)
        with pytest.raises(fbufs.ChannelBroken):
            take_all(channel)
        assert pool.free == 4
        with pytest.raises(ConnectionError):
            channel.send(pool.alloc())
        assert channel.closed
        del channel, pool
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_peer_that_takes_nothing_and_asks_for_everything_costs_no_more_than_the_limit():
    with forged() as (ours, forger):
        channel = fbufs.Channel(ours, timeout=PATIENCE)
        pool = fbufs.Pool(4096, 600)
        for _ in range(512):
            channel.send(pool.alloc(), timeout=0)
        with pytest.raises(BlockingIOError):
            channel.send(pool.alloc(), timeout=0)
        for _ in range(2000):
            forger.give_back(0, 5 | SHARED)
            channel.collect()
        assert channel.stats()["lent"] == 512
        channel.close()
        assert pool.free == 600


def test_a_page_that_the_producer_never_touched_reads_as_zeros():
    with forged() as (ours, forger):
        channel = fbufs.Channel(ours, timeout=PATIENCE)
        forger.introduce(0, 4, 4096)
        forger.describe(0, 3, 10, 4)
        with channel.recv(PATIENCE) as got:
            assert bytes(got.data) == bytes(4)
            assert not got.sealed
        channel.close()
