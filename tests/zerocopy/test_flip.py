"""Pages that change hands on receipt: recv_flip() exchanges them, recv_zerocopy() shows them."""

import contextlib
import errno
import mmap
import random
import socket

import pytest
from beds import PATIENCE, Lossy, lose_first
from beds import copied as booked
from helpers import Background
from test_cow import check_script

import ustack
from ustack import testbed

PAGE = mmap.PAGESIZE
DATA = random.Random(9).randbytes(61440 * 12 + 777)
HEADERS = 52            # IPv4, TCP with timestamps


def copied(net):
    """Bytes by reason, but for the odd header: that of a SYN is longer than what is split off."""
    return {k: n for k, n in booked(net).items() if k != "pullup"}


class Wire(Lossy):
    """A connection over virtual time whose far end receives by header split."""

    def __init__(self, payload, share=0, **options):
        super().__init__(lose_first(share) if share else lambda raw: False, mtu=payload + HEADERS, header_split=True,
                         **options)

    def __enter__(self):
        self.c, self.s = self.connect()
        self.c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *exc):
        self.c.close()
        self.s.close()
        super().__exit__(*exc)

    def feed(self, data, receive):
        """Send it all, calling receive() -> bytes whenever something may have come; what was received."""
        view, got = memoryview(data), bytearray()

        def step():
            nonlocal view
            with contextlib.suppress(BlockingIOError):
                while len(view):
                    view = view[self.c.send(view):]
            with contextlib.suppress(BlockingIOError):
                while part := receive():
                    got.extend(part)
            return len(got) >= len(data)

        self.run(step)
        return bytes(got)

    def stats(self):
        return {k: v for k, v in self.stacks[1].stats().items() if k.startswith("flip.")}


def by_flipping(s, buffer, **options):
    view = memoryview(buffer)

    def receive():
        n = s.recv_flip(buffer, **options)
        return bytes(view[:n])

    return receive


@pytest.mark.parametrize("payload", [4096, 8192, 61440])
def test_whole_pages_are_exchanged(payload):
    with Wire(payload) as wire:
        buffer = ustack.FlipBuffer(payload)
        for k in range(12):
            part = DATA[k * 61440:][:payload]
            wire.c.send(part)
            wire.carry()
            assert wire.s.recv_flip(buffer) == payload
            assert bytes(memoryview(buffer)) == part
        assert wire.stats() == {"flip.pages": 12 * payload // PAGE}
        assert copied(wire.stacks[1]) == {}


def test_segments_of_ethernet_are_copied():
    """With a payload of 1448 bytes no page is whole: the flip rate is 0."""
    data = DATA[:100_000]
    with Wire(1448) as wire:
        assert wire.feed(data, by_flipping(wire.s, ustack.FlipBuffer(16 * PAGE))) == data
        assert "flip.pages" not in wire.stats()
        assert copied(wire.stacks[1])["rx.copy"] == len(data)


@pytest.mark.parametrize("share", [0, 5])
def test_any_sizes_with_and_without_loss(share):
    """Whatever is asked for, in whatever order it comes: the bytes are those that were sent."""
    rng = random.Random(share)
    with Wire(61440, share) as wire:
        buffer = ustack.FlipBuffer(40 * PAGE)
        view = memoryview(buffer)

        def receive():
            first = rng.randrange(8) * PAGE + rng.choice([0, 0, 0, 7])
            part = view[first:first + rng.choice([1, 4095, 4096, 8192, 20_000, 65_536])]
            n = wire.s.recv_flip(part)
            return bytes(part[:n])

        data = got = b""
        for _ in range(120):
            part = rng.randbytes(rng.choice([1, 100, 4096, 4097, 8192, 12_288, 61_440]))
            data += part
            got += wire.feed(part, receive)
        assert got == data
        stats = wire.stats()
        assert stats["flip.pages"] > 20
        assert stats["flip.partial"] > 20
        view.release()


@pytest.mark.parametrize("zero", [False, True])
def test_nothing_but_what_was_received_is_ever_seen(zero):
    """What lies behind the received bytes stays the application's own, though pages come and go; so no page of the
    stack's, with what others received in it before, shows."""
    rng = random.Random(4)
    with Wire(4096 * 4) as wire:
        wire.feed(b"S" * 16384 * 20, lambda: wire.s.recv(1 << 20))      # what the windows hold from before
        buffer = ustack.FlipBuffer(12 * PAGE)
        view = memoryview(buffer)

        def receive():
            view[:] = b"u" * len(view)
            n = wire.s.recv_flip(buffer, zero=zero)
            assert view[n:] == b"u" * (len(view) - n)
            return bytes(view[:n])

        data = b"".join(bytes([rng.randrange(65, 80)]) * rng.randrange(1, 30_000) for _ in range(60))
        assert wire.feed(data, receive) == data
        pages = wire.stats()["flip.pages"]
        assert pages > 10
        assert wire.stacks[1].ledger().get("flip.zero", (0, 0))[0] == (pages * PAGE if zero else 0)
        view.release()


def test_storage_that_somebody_else_holds_is_copied():
    with Wire(61440) as wire:
        wire.c.send(DATA[:61440])
        wire.carry()
        lent = wire.s.recv_buffers(PAGE)
        buffer = ustack.FlipBuffer(61440)
        assert wire.s.recv_flip(buffer) == 61440 - PAGE
        assert bytes(memoryview(buffer))[:61440 - PAGE] == DATA[PAGE:61440]
        assert wire.stats() == {"flip.held": 14}
        assert bytes(memoryview(lent[0])) == DATA[:PAGE]
        del lent


def test_what_follows_in_the_same_storage_does_not_matter():
    with Wire(61440) as wire:
        wire.c.send(DATA[:61440])
        wire.carry()
        buffer = ustack.FlipBuffer(61440)
        assert wire.s.recv_flip(buffer, 4 * PAGE) == 4 * PAGE
        assert wire.stats() == {"flip.pages": 4}
        assert bytes(memoryview(buffer)[:4 * PAGE]) == DATA[:4 * PAGE]
        assert wire.s.recv(1 << 20) == DATA[4 * PAGE:61440]


def test_other_buffers_are_copied_to():
    with Wire(4096) as wire:
        wire.c.send(DATA[:8192])
        wire.carry()
        plain = bytearray(4096)
        assert wire.s.recv_flip(plain) == 4096
        assert plain == DATA[:4096]
        assert wire.stats() == {"flip.held": 1}
        with pytest.raises(ValueError, match="flags"):
            wire.s.recv_flip(plain, 0, socket.MSG_PEEK)
        with pytest.raises(ValueError, match="too small"):
            wire.s.recv_flip(plain, 5000)
        assert wire.s.recv_flip(bytearray()) == 0


def test_datagrams_are_not_received_by_page():
    with ustack.Stack() as net, net.socket(type=socket.SOCK_DGRAM) as udp:
        for buffer in (bytearray(10), ustack.FlipBuffer(4096)):
            with pytest.raises(OSError, match="not supported") as caught:
                udp.recv_flip(buffer)
            assert caught.value.errno == errno.EOPNOTSUPP


def test_sizes():
    for make in (ustack.FlipBuffer, ustack.ReceiveMapping):
        for wrong in (0, -1, (128 << 20) + 1):
            with pytest.raises(ValueError, match="between 1 and"):
                make(wrong)
    first = ustack.FlipBuffer(70 << 20)
    with pytest.raises(OSError, match="no FlipBuffer"):
        ustack.FlipBuffer(70 << 20)
    del first
    assert bytes(memoryview(ustack.FlipBuffer(3 * PAGE))) == bytes(3 * PAGE)
    assert len(ustack.FlipBuffer(5)) == 5


def test_a_child_has_buffers_of_its_own():
    check_script("mprotect", """
        b = ustack.FlipBuffer(PAGE)
        view = memoryview(b)
        view[:1] = b"p"
        child = os.fork()
        if child == 0:
            view[:1] = b"c"
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert view[:1] == b"p"
        view.release()
    """)


# --- mapped receive ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("payload", [4096, 61440])
def test_pages_are_mapped(payload):
    with Wire(payload) as wire:
        mapping = ustack.ReceiveMapping(16 * PAGE)
        view = memoryview(mapping)
        assert view.readonly
        assert bytes(view) == bytes(16 * PAGE)
        n = max(8 * PAGE, payload)
        wire.c.send(DATA[:n])
        wire.carry()
        assert wire.s.recv_zerocopy(mapping) == (n, 0, 0, 0, 0)
        assert bytes(view[:n]) == DATA[:n]
        assert wire.stats() == {"flip.mapped": n // PAGE}
        assert copied(wire.stacks[1]) == {}
        mapping.release()
        assert bytes(view) == bytes(16 * PAGE)
        wire.c.shutdown(socket.SHUT_WR)
        wire.carry()
        assert wire.s.recv_zerocopy(mapping) == (0, 0, 0, 0, 0)
        view.release()


@pytest.mark.parametrize("copybuf", [0, 3000, 100_000])
@pytest.mark.parametrize("share", [0, 7])
def test_nothing_is_lost_or_doubled_at_the_boundaries(share, copybuf):
    """Segments of all sizes; what is not mapped is read as the hint says, or comes by the buffer."""
    rng = random.Random(copybuf + share)
    sizes = [rng.choice([1, 100, 4096, 4097, 8192, 12_288, 61_440]) for _ in range(120)]
    with Wire(61440, share) as wire:
        mapping = ustack.ReceiveMapping(20 * PAGE)
        view = memoryview(mapping)
        room = bytearray(copybuf) if copybuf else None
        met = set()

        def receive():
            r = wire.s.recv_zerocopy(mapping, room)
            got = bytes(view[:r.length])
            assert r.length % PAGE == 0
            if r.copybuf_len:
                assert r.recv_skip_hint == 0
                got += bytes(room[:r.copybuf_len])
            if r.recv_skip_hint:
                assert r.recv_skip_hint <= r.inq
                got += wire.s.recv(r.recv_skip_hint)
            met.update(k for k, v in r._asdict().items() if v)
            return got

        data = b""
        got = b""
        for n in sizes:
            part = rng.randbytes(n)
            data += part
            got += wire.feed(part, receive)
        assert got == data
        assert {"length", "copybuf_len" if copybuf else "recv_skip_hint"} <= met
        view.release()


def test_a_mapping_smaller_than_what_came():
    with Wire(61440) as wire:
        mapping = ustack.ReceiveMapping(4 * PAGE)
        wire.c.send(DATA[:61440])
        wire.carry()
        assert wire.s.recv_zerocopy(mapping) == (4 * PAGE, 0, 61440 - 4 * PAGE, 0, 0)
        assert bytes(memoryview(mapping)) == DATA[:4 * PAGE]
        assert wire.s.recv(1 << 20) == DATA[4 * PAGE:61440]


def test_a_mapping_outlives_its_stack():
    with Wire(4096) as wire:
        mapping = ustack.ReceiveMapping(PAGE)
        wire.c.send(DATA[:4096])
        wire.carry()
        assert wire.s.recv_zerocopy(mapping).length == PAGE
    assert bytes(memoryview(mapping)) == DATA[:4096]


# --- a real wire ------------------------------------------------------------------------------------------------------

@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("payload", [1448, 4096, 8192, 61440])
def test_from_linux_over_a_tap(payload):
    """The kernel's segments, with their super-segments, through the two-part read."""
    with testbed.over_tap(mtu=payload + HEADERS, header_split=True, offloads=["csum"]) as bed, ustack.Stack() as net:
        net.add_interface(bed.link, addresses=[bed.address])
        with net.create_server((bed.address.partition("/")[0], 0)) as listener, bed.peer.socket() as c:
            c.connect((bed.address.partition("/")[0], listener.getsockname()[1]))
            s, _ = listener.accept()
            with s:
                s.settimeout(PATIENCE)
                sending = Background(lambda: (c.sendall(DATA), c.shutdown(socket.SHUT_WR)))
                buffer = ustack.FlipBuffer(61440 * 2)
                view = memoryview(buffer)
                got = bytearray()
                while n := s.recv_flip(buffer):
                    got += view[:n]
                sending.result(PATIENCE)
                view.release()
            assert bytes(got) == DATA
            flipped = net.stats().get("flip.pages", 0)
            if payload == 1448:
                assert flipped == 0
            else:
                assert flipped > 0
