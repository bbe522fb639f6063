"""Receives posted before their data: the link puts payload in its place; a wrong guess costs a copy, never a byte."""

import contextlib
import random
import socket
import time

import pytest
from beds import FAR, NEAR, PATIENCE, connected, two_stacks
from direct_beds import counted, two_devices
from helpers import Background

import ustack

DATA = random.Random(8).randbytes(2_000_003)
CHUNK = 40_000


def copied_out(net):
    return net.ledger().get("rx.copy", (0, 0))[0]


@contextlib.contextmanager
def impaired(**fates):
    """Two stacks with devices; what the first sends has an accident now and then."""
    with ustack.Stack() as near, ustack.Stack() as far:
        left, right = ustack.pair(device=True, mtu=1500, offloads=["csum"], queue=4096)
        near.add_interface(ustack.Impair(left, seed=3, tx=fates), addresses=[f"{NEAR}/24"])
        far.add_interface(right, addresses=[f"{FAR}/24"])
        yield near, far


def test_what_comes_in_time_is_not_copied():
    """From the first hit on every segment is one: the order is what was predicted."""
    with two_devices() as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(len(DATA))
        with ustack.register(buffer) as memory:
            taking = Background(s.recv_posted, buffer)
            early = 0
            while early < len(DATA) // 2 and not counted(far, "posted."):
                c.sendall(DATA[early:early + CHUNK])
                early += CHUNK
                time.sleep(0.001)           # only so that the receiver comes to post at all
            c.sendall(DATA[early:])
            assert taking.result(PATIENCE) == len(DATA)
            assert buffer == DATA
            if memory.pinned:
                found = counted(far, "posted.")
                assert found["hit_bytes"] + copied_out(far) == len(DATA)
                assert copied_out(far) <= early
                assert "miss" not in found


def test_what_came_before_is_copied_as_ever():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        c.sendall(DATA[:50_000])
        assert s.recv(1, socket.MSG_PEEK) == DATA[:1]
        buffer = bytearray(1)
        with ustack.register(buffer):
            assert s.recv_posted(buffer) == 1
        assert buffer == DATA[:1]
        assert copied_out(far) == 2


@pytest.mark.parametrize("reorder", [0.0, 0.01, 0.05])
def test_the_same_bytes_out_of_order(reorder):
    with impaired(reorder=reorder, reorder_delay=0.0005) as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(len(DATA))
        with ustack.register(buffer):
            taking = Background(s.recv_posted, buffer)
            c.sendall(DATA)
            assert taking.result(PATIENCE) == len(DATA)
        assert buffer == DATA


def test_ends_early_and_the_memory_is_the_programs():
    """Timeouts, losses and exchanges; after each call the program scribbles over its buffer."""
    dice = random.Random(9)
    with impaired(reorder=0.03, reorder_delay=0.001, loss=0.005) as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(100_000)
        got = bytearray()
        sending = Background(c.sendall, DATA[:1_000_000])
        with ustack.register(buffer):
            while len(got) < 1_000_000:
                s.settimeout(dice.choice((0.0005, 0.002, PATIENCE)))
                n = min(dice.choice((600, 5000, 100_000)), 1_000_000 - len(got))
                with contextlib.suppress(TimeoutError), memoryview(buffer)[100_000 - n:] as view:
                    got += view[:s.recv_posted(view)]
                buffer[:] = bytes(100_000)
        sending.result(PATIENCE)
    assert got == DATA[:1_000_000]


def test_the_end_of_the_stream():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(10_000)
        with ustack.register(buffer):
            taking = Background(s.recv_posted, buffer)
            c.sendall(DATA[:3000])
            c.shutdown(socket.SHUT_WR)
            assert taking.result(PATIENCE) == 3000
            assert s.recv_posted(buffer) == 0
        assert buffer[:3000] == DATA[:3000]


def test_a_timeout():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(10_000)
        with ustack.register(buffer):
            s.settimeout(0.02)
            with pytest.raises(TimeoutError):
                s.recv_posted(buffer)
            c.sendall(DATA[:3000])
            s.settimeout(PATIENCE)
            assert s.recv_posted(buffer, 3000) == 3000
        assert buffer[:3000] == DATA[:3000]


def test_memory_that_is_not_registered():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(5000)
        c.sendall(DATA[:5000])
        assert s.recv_posted(buffer) == 5000
        assert buffer == DATA[:5000]
        assert counted(far, "posted.") == {"fallback.unregistered": 1}


def test_a_link_that_does_not_place():
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        buffer = bytearray(300_000)
        with ustack.register(buffer) as memory:
            taking = Background(s.recv_posted, buffer)
            time.sleep(0.01)
            c.sendall(DATA[:300_000])
            assert taking.result(PATIENCE) == 300_000
            assert set(counted(far, "posted.")) <= {"fallback.link"} or not memory.pinned
        assert buffer == DATA[:300_000]


def test_several_connections_share_a_link():
    """One of them has posted; what comes for the others is moved out of its buffer."""
    with two_devices() as (near, far), connected(near, far) as (c, s), connected(near, far) as (c2, s2):
        buffer, plain = bytearray(len(DATA)), bytearray(len(DATA))
        with ustack.register(buffer):
            jobs = [Background(s.recv_posted, buffer), Background(c.sendall, DATA), Background(c2.sendall, DATA[::-1])]
            at = 0
            while at < len(plain):
                at += s2.recv_into(memoryview(plain)[at:])
            assert jobs[0].result(PATIENCE) == len(DATA)
            for job in jobs[1:]:
                job.result(PATIENCE)
        assert buffer == DATA
        assert plain == DATA[::-1]


def test_closing_the_socket_in_another_thread():
    with two_devices() as (near, far), connected(near, far) as (_, s):
        buffer = bytearray(10_000)
        with ustack.register(buffer):
            taking = Background(s.recv_posted, buffer)
            time.sleep(0.01)
            s.close()
            with pytest.raises(OSError, match="Bad file"):
                taking.result(PATIENCE)
        buffer.append(1)


def test_arguments_that_make_no_sense():
    with two_devices() as (near, far), connected(near, far) as (_, s), far.socket(type=socket.SOCK_DGRAM) as udp:
        with pytest.raises(ValueError, match="too small"):
            s.recv_posted(bytearray(5), 6)
        with pytest.raises(ValueError, match="negative"):
            s.recv_posted(bytearray(5), -1)
        with pytest.raises((BufferError, TypeError)):
            s.recv_posted(b"x")
        with pytest.raises(OSError, match="not supported"):
            udp.recv_posted(bytearray(5))
        assert s.recv_posted(bytearray(0)) == 0
