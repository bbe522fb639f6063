"""Where bytes lie and how often they are copied: the ledger's word, held against addresses."""

import contextlib
import errno
import socket

import pytest
from endpoint import digest_of
from test_transfer_stream import connected
from wiring import wires

import ustack
from ustack import testbed

N = 20_000_000


def ledger(net, *reasons):
    """Bytes booked under the reasons; all that a CPU of ours copied or summed, if none are named."""
    rows = {name: nbytes for name, (nbytes, _) in net.ledger().items()}
    if reasons:
        return sum(rows.get(r, 0) for r in reasons)
    return sum(n for name, n in rows.items() if not name.startswith("device."))


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_what_is_lent_was_never_copied(wire):
    """recv_buffers() lends what the link received into; nothing is booked but what short frames cost in a ring."""
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    sending = wire.theirs.start("send", s, N, 6)
    sock = wire.ours.endpoint.sockets[c]
    reasons = ("rx.ring", "rx.collapse") if hasattr(wire.link, "extent") else ("rx.collapse",)
    before, moved_before = ledger(wire.net), ledger(wire.net, *reasons)
    lent_in_place = total = 0
    base, length = wire.link.extent if hasattr(wire.link, "extent") else (0, 0)
    while lent := sock.recv_buffers(1 << 20):
        for m in lent:
            assert memoryview(m).readonly
            total += len(m)
            if base <= m.address < base + length:
                lent_in_place += len(m)
            elif not length:
                assert m.region_id is not None          # the storage that the TAP was read into
    assert sending.result(60) == digest_of(N, 6)
    assert total == N
    # Moved were small frames in large buffers, when the reader was slow; and in a ring short ones, and what came when
    # half of its slots were lent. How many those are depends on who is faster. All the
    # rest lies where the device put it, unless the reader was so slow that another ring had to take over.
    moved = ledger(wire.net, *reasons) - moved_before
    assert ledger(wire.net) - before == moved
    if length:
        assert lent_in_place + moved >= N or wire.link.replaced
    else:
        assert moved < N // 10


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_bulk_to_linux_is_copied_once_and_in_large_frames(wire):
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    before = wire.net.stats()
    receiving = wire.theirs.start("receive", s)
    sent = wire.ours.call("send", c, 200_000_000, 7)
    assert receiving.result(60) == (200_000_000, sent)
    after = wire.net.stats()
    frames = after["link.tx"] - before["link.tx"]
    mean = (after["link.tx_bytes"] - before["link.tx_bytes"]) / frames
    assert mean >= 30_000, f"{frames} frames of {mean:.0f} bytes"
    # Copied by send(), and by nobody afterwards; not summed, for the device does that.
    assert ledger(wire.net, "tx.copy") == 200_000_000
    # Ends of writes may share a block with the next one; nothing else is moved.
    # (A ring copies short frames, the ACKs, so as not to lend a slot for them.)
    assert ledger(wire.net) == ledger(wire.net, "tx.copy", "tx.append", "rx.ring")
    assert ledger(wire.net, "tx.append") < 1_000_000


class Forgetful:
    """Two stacks over pipes, whose wire loses what the test says; virtual time."""

    def __init__(self, lose):
        self.lose = lose
        self.stacks, self.pipes = [], []
        for k in (1, 2):
            net = ustack.Stack(clock=ustack.VirtualClock(), seed=k)
            pipe = ustack.Pipe(layer=3, queue=4096)
            net.add_interface(pipe, addresses=[f"10.9.0.{k}/24"])
            self.stacks.append(net)
            self.pipes.append(pipe)

    def carry(self):
        """Packets over the wire until it is silent; whether any went."""
        went = False
        while True:
            moving = [(other, raw) for pipe, other in (self.pipes, self.pipes[::-1]) for _, raw in pipe.drain()]
            if not moving:
                return went
            went = True
            for other, raw in moving:
                if not self.lose(raw):
                    other.inject(raw)

    def run(self, until):
        for _ in range(100_000):
            self.carry()
            if until():
                return
            due = [t for t in (net.deadline_ns() for net in self.stacks) if t is not None]
            now = max(self.stacks[0].now_ns() + 1, min(due))
            for net in self.stacks:
                net.advance_to(now)
        raise AssertionError("it did not come to an end")

    def close(self):
        for net in self.stacks:
            net.close()


@pytest.mark.parametrize("which", ["each", "every third"])
def test_what_is_sent_again_is_not_copied_again(which):
    """The wire loses the first copy of segments; the bytes arrive, and the stack copied each of them once."""
    seen = set()
    count = 0

    def lose(raw):
        nonlocal count
        payload = raw[40:] if len(raw) > 100 else b""
        if not payload:
            return False
        count += 1
        key = raw[24:28]
        if key in seen or (which == "every third" and count % 3):
            return False
        seen.add(key)
        return True

    wire = Forgetful(lose)
    a, b = wire.stacks
    data = bytes(range(256)) * 1000
    with b.create_server(("10.9.0.2", 80)) as listener, a.socket() as c:
        assert c.connect_ex(("10.9.0.2", 80)) == errno.EINPROGRESS
        wire.run(lambda: c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO)[0] == 1)
        wire.carry()
        s, _ = listener.accept()
        sent = c.send(data)
        got = bytearray()

        def received():
            with contextlib.suppress(BlockingIOError):
                got.extend(s.recv(1 << 20))
            return len(got) >= sent

        wire.run(received)
        assert bytes(got) == data[:sent]
        stats = a.stats()
        assert stats["tcp.retransmitted_bytes"] > sent // 8
        assert ledger(a, "tx.copy", "tx.append") == sent         # 1.000 copies for each byte
        assert ledger(a, "copyb", "pullup", "tx.bounce") == 0
        s.close()
    wire.close()


@pytest.mark.root
@pytest.mark.tun
def test_loss_on_a_real_wire_costs_no_copies():
    """To Linux over a TAP that loses one frame in fifty: send() copies, and nobody else."""
    from endpoint import Local, Remote

    with testbed.over_tap() as bed, ustack.Stack() as net:
        net.add_interface(ustack.Impair(bed.link, seed=3, loss=0.02), addresses=[bed.address])
        ours, theirs = Local(net), Remote(bed.peer)
        try:
            c, s = connected(ours, theirs, bed.peer_ip)
            receiving = theirs.start("receive", s)
            sent = ours.call("send", c, 3_000_000, 8)
            assert receiving.result(60) == (3_000_000, sent)
            assert net.stats()["tcp.retransmitted_bytes"] > 0
            assert ledger(net, "tx.copy") == 3_000_000
            assert ledger(net) == ledger(net, "tx.copy", "tx.append")
        finally:
            ours.close()
            theirs.close()


