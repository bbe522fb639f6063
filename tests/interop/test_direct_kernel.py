"""Memory sent in place over a TAP: the kernel at the other end gets the same bytes, and nobody has copied them."""

import hashlib

import pytest
from endpoint import blocks, digest_of
from test_transfer_stream import connected
from wiring import wires

import ustack

N = 20_000_000
SOL_SOCKET = 1


def joined(n, seed):
    data = bytearray()
    for block in blocks(n, seed):
        data += block
    return data


def copied(net):
    return {name: n for name, (n, _) in net.ledger().items() if n and not name.startswith("device.")}


@pytest.mark.parametrize("wire", wires("tap", "tun"), indirect=True)
def test_in_place_to_linux(wire):
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    receiving = wire.theirs.start("receive", s)
    sock = wire.ours.endpoint.sockets[c]
    data = joined(N, 3)
    with ustack.register(data), memoryview(data) as view:
        for at in range(0, N, 3_000_000):
            sock.sendall(view[at:at + 3_000_000], direct=True)
        sock.shutdown(1)
        assert receiving.result(60) == (N, digest_of(N, 3))
    assert wire.net.stats()["direct.sent"] == 7
    assert not copied(wire.net)
    data.clear()


@pytest.mark.parametrize("wire", wires("tap"), indirect=True)
def test_with_completions_to_linux(wire):
    """Sixteen buffers in turn, each used again when its completion says so."""
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    receiving = wire.theirs.start("receive", s)
    sock = wire.ours.endpoint.sockets[c]
    sock.setsockopt(SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
    buffers = [bytearray(1 << 18) for _ in range(16)]
    free, calls = list(range(16)), []
    for block in blocks(N, 4):
        while not free:
            for one in sock.completions(60.0):
                assert not one.copied
                free += [calls[k] for k in range(one.low, one.high + 1)]
        k = free.pop()
        buffers[k][:len(block)] = block
        left = memoryview(buffers[k])[:len(block)]
        assert sock.send(left, zerocopy=True) == len(block)
        calls.append(k)
    sock.shutdown(1)
    assert receiving.result(60) == (N, digest_of(N, 4))
    assert not copied(wire.net)


@pytest.mark.parametrize("wire", wires("tap", "tun"), indirect=True)
def test_a_posted_receive_from_linux(wire):
    """The kernel's device writes to the program's memory: what was placed was not copied, the rest was, once."""
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    sock = wire.ours.endpoint.sockets[c]
    data = bytearray(N)
    with ustack.register(memoryview(data)[:4_000_000]) as memory:
        sending = wire.theirs.start("send", s, N, 6)
        at, view = 0, memoryview(data)[:4_000_000]
        sha = hashlib.sha256()
        while n := sock.recv_posted(view):
            sha.update(view[:n])
            at += n
        view.release()
        assert (at, sha.hexdigest()) == (N, sending.result(60))
    stats = wire.net.stats()
    book = {name: n for name, (n, _) in wire.net.ledger().items()}
    if memory.pinned:
        assert stats["posted.hit_bytes"] > 0
        assert stats["posted.hit_bytes"] + book.get("rx.copy", 0) >= N
        assert book.get("rx.copy", 0) < N


@pytest.mark.parametrize("wire", wires("tap-plain"), indirect=True)
def test_without_offloads_it_is_copied(wire):
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    receiving = wire.theirs.start("receive", s)
    sock = wire.ours.endpoint.sockets[c]
    sock.sendall(joined(1_000_000, 5), direct=True)
    sock.shutdown(1)
    assert receiving.result(60) == (1_000_000, digest_of(1_000_000, 5))
    assert wire.net.stats()["direct.fallback.no_checksum"] == 1
