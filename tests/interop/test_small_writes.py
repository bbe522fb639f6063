"""Many small writes that leave together: a link takes chains of a limited number of blocks."""

import socket

import pytest

import ustack
from ustack import testbed

pytestmark = [pytest.mark.root, pytest.mark.tun]


@pytest.mark.parametrize("size", [1, 64, 256, 300])
@pytest.mark.parametrize("make", [testbed.over_tap, testbed.over_veth], ids=["tap", "ring"])
def test_what_waited_for_a_slow_reader_arrives_at_the_first_attempt(make, size):
    with make() as bed, ustack.Stack() as net, bed.peer.socket() as listener:
        net.add_interface(bed.link, addresses=[bed.address])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((bed.peer_ip, 0))
        listener.listen()
        with net.create_connection(listener.getsockname()) as ours:
            theirs, _ = listener.accept()
            with theirs:
                ours.setblocking(False)
                sent = 0
                try:
                    while sent < 300_000:
                        sent += ours.send(bytes([sent // size % 251]) * size)
                except BlockingIOError:
                    pass
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                theirs.settimeout(20)
                got = b""
                while len(got) < sent:
                    got += theirs.recv(1 << 20)
                assert got == b"".join(bytes([k // size % 251]) * size for k in range(0, sent, size))
        assert bed.link.stats["tx_drop"] == 0
        assert net.stats().get("tcp.rto", 0) == 0
