"""One suite for all semantics of Genie's taxonomy: the same bytes, and what each promises of its memory."""

import random
import socket

import pytest
from beds import PATIENCE, Lossy, connected, copied, two_stacks
from direct_beds import two_devices
from helpers import Background

import ustack
from ustack import genie

DATA = random.Random(6).randbytes(300_000)
ALL = list(genie.SEMANTICS)
SYSTEM = [name for name, one in genie.SEMANTICS.items() if one.allocation == "system"]
APPLICATION = [name for name in ALL if name not in SYSTEM]


@pytest.fixture(params=[two_devices, two_stacks], ids=["devices", "by reference"])
def pair(request):
    with request.param() as (near, far), connected(near, far) as ends:
        yield ends


def made(semantics, data):
    """The bytes in memory of the kind that the semantics send."""
    if semantics == "emulated_copy":
        buffer = ustack.CowBuffer(len(data))
        memoryview(buffer)[:] = data
        return buffer
    if semantics in APPLICATION:
        return bytearray(data)
    buffer = genie.Buffer(len(data))
    with buffer.view() as view:
        view[:] = data
    return buffer


def received(s, n, semantics):
    got = bytearray()
    room = bytearray(70_000)
    while len(got) < n:
        if semantics in APPLICATION:
            count = genie.recv(s, memoryview(room)[:min(len(room), n - len(got))], semantics)
            assert count
            got += room[:count]
        else:
            blocks = genie.recv(s, n - len(got), semantics)
            assert blocks
            for block in blocks:
                assert memoryview(block).readonly
                got += block
    return bytes(got)


def test_the_table():
    """Each cell of allocation, integrity and optimisation has one name."""
    assert len(set(genie.SEMANTICS.values())) == len(genie.SEMANTICS) == 8
    assert genie.SEMANTICS["copy"] == ("application", "strong", False)
    assert genie.SEMANTICS["emulated_weak_move"] == ("system", "weak", True)


@pytest.mark.parametrize("sending", ALL)
@pytest.mark.parametrize("size", [1, 4096, 300_000])
def test_the_same_bytes(pair, sending, size):
    c, s = pair
    taking = Background(received, s, size, sending)
    assert genie.send(c, made(sending, DATA[:size]), sending) == size
    assert taking.result(PATIENCE) == DATA[:size]


@pytest.mark.parametrize("receiving", ALL)
def test_the_end_of_the_stream(pair, receiving):
    c, s = pair
    c.shutdown(socket.SHUT_WR)
    got = genie.recv(s, bytearray(10) if receiving in APPLICATION else 10, receiving)
    assert got == (0 if receiving in APPLICATION else [])


@pytest.mark.parametrize("semantics", ALL)
def test_what_is_copied_on_the_way_out(semantics):
    """One by "copy", none by the others where the path sends in place; of "emulated_copy" what is no whole page."""
    with two_devices() as (near, far), connected(near, far) as (c, s):
        taking = Background(received, s, len(DATA), "move")
        genie.send(c, made(semantics, DATA), semantics)
        assert taking.result(PATIENCE) == DATA
        expected = {"copy": {"tx.copy": len(DATA)}, "emulated_copy": {"tx.copy": len(DATA) % 4096}}
        assert copied(near) == expected.get(semantics, {})


def test_emulated_copy_keeps_what_was_in_the_buffer_when_it_was_called():
    """Integrity is strong although nothing was copied: whoever writes to it afterwards is given another page."""
    with Lossy(lambda raw: False) as wire:
        c, s = wire.connect()
        buffer = made("emulated_copy", DATA[:8192])
        with c, s:
            genie.send(c, buffer, "emulated_copy")
            memoryview(buffer)[:5000] = bytes(5000)
            assert copied(wire.stacks[0]) == {"cow.page": 8192}
            wire.carry()
            assert s.recv(10_000) == DATA[:8192]
            wire.run(lambda: buffer.shared == 0)


def test_emulated_copy_exchanges_pages_on_the_way_in():
    """With segments of whole pages nothing is copied."""
    with Lossy(lambda raw: False, mtu=4096 + 52, header_split=True) as wire:
        c, s = wire.connect()
        room = ustack.FlipBuffer(16384)
        with c, s:
            c.send(DATA[:16384])
            wire.carry()
            assert genie.recv(s, room, "emulated_copy") == 16384
            assert bytes(memoryview(room)) == DATA[:16384]
            assert wire.stacks[1].stats()["flip.pages"] == 4
            assert "rx.copy" not in copied(wire.stacks[1])


@pytest.mark.parametrize("semantics", APPLICATION)
def test_the_applications_memory_is_its_own_again(pair, semantics):
    """When the call is over it can be written, resized and sent again; what was sent does not change."""
    c, s = pair
    buffer = bytearray(DATA[:50_000])
    genie.send(c, buffer, semantics)
    buffer[:] = bytes(50_000)
    buffer.clear()
    assert received(s, 50_000, semantics) == DATA[:50_000]


@pytest.mark.parametrize("semantics", SYSTEM)
def test_what_was_moved_is_gone(pair, semantics):
    c, s = pair
    buffer = made(semantics, DATA[:50_000])
    genie.send(c, buffer, semantics)
    assert buffer.moved
    with pytest.raises(ValueError, match="given away"):
        buffer.view()
    with pytest.raises(ValueError, match="given away"):
        genie.send(c, buffer, semantics)
    assert received(s, 50_000, semantics) == DATA[:50_000]


@pytest.mark.parametrize("semantics", SYSTEM)
def test_views_forbid_a_strong_move_only(pair, semantics):
    c, s = pair
    buffer = made(semantics, DATA[:1000])
    view = buffer.view()
    if genie.SEMANTICS[semantics].integrity == "strong":
        with pytest.raises(BufferError, match="views"):
            genie.send(c, buffer, semantics)
        view.release()
        genie.send(c, buffer, semantics)
    else:
        genie.send(c, buffer, semantics)
        view[0] = 1                         # still there, with whatever it shows
        view.release()
    assert received(s, 1000, "copy") == DATA[:1000]


@pytest.mark.parametrize("semantics", SYSTEM)
def test_the_emulated_ones_keep_their_buffers(pair, semantics):
    c, s = pair
    genie._cache.clear()
    genie.send(c, made(semantics, DATA[:5000]), semantics)
    assert sum(map(len, genie._cache.values())) == genie.SEMANTICS[semantics].emulated
    again = genie.Buffer(6000)
    assert not any(genie._cache.values())
    again.view().release()
    assert received(s, 5000, "copy") == DATA[:5000]
    genie._cache.clear()


def test_arguments_that_make_no_sense(pair):
    c, s = pair
    for call in (genie.send, genie.recv):
        with pytest.raises(ValueError, match="semantics is one of"):
            call(c, b"x", "steal")
    with pytest.raises(TypeError, match=r"genie\.Buffer"):
        genie.send(c, b"x", "move")
    with pytest.raises(TypeError, match="number of bytes"):
        genie.recv(s, bytearray(5), "move")
    with pytest.raises(ValueError, match="at least one"):
        genie.Buffer(0)
    assert genie.send(c, b"", "share") == 0
