"""Super-datagrams and many datagrams a call, to Linux and from it, over links with segmentation and without."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest

import ustack
from ustack import testbed

pytestmark = [pytest.mark.root, pytest.mark.tun]
UDP_SEGMENT, UDP_GRO = 103, 104
SIZE, COUNT = 1000, 40
DATA = os.urandom(SIZE * COUNT)
PARTS = [DATA[k : k + SIZE] for k in range(0, len(DATA), SIZE)]


@pytest.fixture(params=["tap", "tap without offloads", "ring"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, ustack.socket.socket]]:
    """A socket of the kernel and one of ours, bound, connected, with a timeout."""
    make = {
        "tap": testbed.over_tap, "ring": testbed.over_veth,
        "tap without offloads": lambda: testbed.over_tap(offloads=False),
    }[request.param]  # fmt: skip
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(make())
        net = stack.enter_context(ustack.Stack())
        net.add_interface(bed.link, addresses=[bed.address])
        kernel = stack.enter_context(bed.peer.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ours = stack.enter_context(net.socket(socket.AF_INET, socket.SOCK_DGRAM))
        kernel.bind((bed.peer_ip, 0))
        ours.bind((bed.ip, 0))
        for s, other in ((kernel, ours), (ours, kernel)):
            s.settimeout(10)
            s.connect(other.getsockname())
        ours.send(b"so that the neighbours are known")
        kernel.recv(100)
        yield kernel, ours


def test_what_we_send_in_one_linux_gets_as_many(ends):
    kernel, ours = ends
    ours.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
    assert ours.send(DATA + b"the end") == len(DATA) + 7
    assert [kernel.recv(65535) for _ in range(COUNT + 1)] == [*PARTS, b"the end"]


def test_what_we_send_in_one_linux_joins_again(ends):
    kernel, ours = ends
    kernel.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    ours.sendmsg([DATA], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", SIZE))])
    got = b""
    while len(got) < len(DATA):
        data, anc, _, _ = kernel.recvmsg(65535, 64)
        assert len(data) == SIZE or anc[0][2] == struct.pack("i", SIZE)
        got += data
    assert got == DATA


def test_what_linux_sends_in_one_we_get_as_many(ends):
    kernel, ours = ends
    kernel.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
    kernel.send(DATA)
    got = []
    while len(got) < COUNT:
        got += [data for data, _ in ours.recvmmsg(7)]
    assert got == PARTS


def test_what_linux_sends_in_one_we_join_again(ends):
    kernel, ours = ends
    ours.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    kernel.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
    kernel.send(DATA)
    got = b""
    while len(got) < len(DATA):
        data, anc, _, _ = ours.recvmsg(65535, 64)
        assert len(data) == SIZE or anc == [(socket.IPPROTO_UDP, UDP_GRO, struct.pack("i", SIZE))]
        got += data
    assert got == DATA


@pytest.mark.parametrize("sizes", [range(0, 1400, 20), [700] * 70, [300] * 30 + [200] + [1400] * 30], ids=str)
def test_many_a_call(ends, sizes):
    kernel, ours = ends
    parts = [DATA[k : k + n] for k, n in enumerate(sizes)]
    assert ours.sendmmsg(parts) == len(parts)
    assert [kernel.recv(65535) for _ in parts] == parts
    for part in parts:
        kernel.send(part)
    buffer, got = bytearray(len(parts) * 1500), []
    while len(got) < len(parts):
        for k, (n, address) in enumerate(ours.recvmmsg_into(buffer, 1500)):
            assert address == kernel.getsockname()
            got.append(bytes(buffer[k * 1500 : k * 1500 + n]))
    assert got == parts
