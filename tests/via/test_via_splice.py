"""Splices with a VI at an end: who copies, what is lost, what is kept. Every pair of ends: zerocopy/test_splice.py."""

import contextlib
import errno
import os
import random
import socket
import textwrap
import threading
import time

import pytest
from helpers import Background, in_thread
from peer import other_process
from streams import ERROR, GRANT, HELLO, PATIENCE, STOP, attached, by_hand, join, streams

import ustack
from ustack import via

DATA = random.Random(9).randbytes(2_000_003)


@contextlib.contextmanager
def file_of(data, tmp_path):
    with open(tmp_path / "source", "w+b", buffering=0) as f:
        f.write(data)
        f.seek(0)
        yield f


def bytes_of(nic):
    return {name: n for name, (n, _) in nic.ledger().items()}


@contextlib.contextmanager
def line(nic, ptag, **options):
    """Two pairs of VIs: (a stream, its other end, a stream, its other end), to be joined in the middle."""
    made = [via.Stream(via.Vi(nic, ptag), **options) for _ in range(4)]
    for k in (0, 2):
        via.pair(made[k].vi, made[k + 1].vi)
    for one in made:
        one.settimeout(PATIENCE)
    yield made


def test_from_a_file_to_a_file_over_vis_only_the_devices_move_bytes(tmp_path):
    """read(2) into the buffer that is sent, on from where it came to lie, write(2) from there."""
    with via.Nic() as nic, file_of(DATA, tmp_path) as f, open(tmp_path / "out", "wb") as out:
        with line(nic, nic.ptag()) as (a, b, c, d):
            jobs = [ustack.splice(*ends, wait=False, pass_end=True) for ends in ((f, a.vi), (b.vi, c.vi), (d.vi, out))]
            assert [job.wait(PATIENCE) for job in jobs] == [len(DATA)] * 3
            assert f.tell() == len(DATA)
            assert (tmp_path / "out").read_bytes() == DATA
            n = len(DATA)
            assert bytes_of(nic) == {"file.read": n, "device.rx": 2 * n, "device.tx": n}


def test_a_smaller_peer_gets_smaller_messages_from_the_same_buffer():
    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b, c = (via.Stream(via.Vi(nic, ptag), piece=5000) for _ in range(3))
        d = via.Stream(via.Vi(nic, ptag), piece=1777, window=3)
        via.pair(a.vi, b.vi)
        via.pair(c.vi, d.vi)
        a.settimeout(PATIENCE)
        job = ustack.splice(b, c, wait=False, pass_end=True)
        with in_thread(lambda: (a.sendall(DATA[:300_000]), a.shutdown(socket.SHUT_WR))):
            got = bytearray()
            while part := d.recv(1777):
                got += part
        assert bytes(got) == DATA[:300_000]
        assert job.wait(PATIENCE) == 300_000
        assert bytes_of(nic) == {"tx.copy": 300_000, "rx.copy": 300_000, "device.rx": 600_000}


def test_between_protection_tags_a_message_is_copied_once():
    with via.Nic() as nic:
        with line(nic, nic.ptag()) as (a, b, _, _), line(nic, nic.ptag()) as (c, d, _, _):
            with in_thread(lambda: (a.sendall(DATA), a.shutdown(socket.SHUT_WR))):
                job = ustack.splice(b, c, wait=False, pass_end=True)
                got = bytearray()
                while part := d.recv(1 << 20):
                    got += part
            assert bytes(got) == DATA
            assert job.wait(PATIENCE) == len(DATA)
            assert bytes_of(nic)["tx.copy"] == 2 * len(DATA)


@contextlib.contextmanager
def wire(**options):
    """A connection between two stacks, over a cable that may gather."""
    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(**options), ("10.9.0.1", "10.9.0.2"), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        with far.create_server(("10.9.0.2", 0)) as listener, near.create_connection(listener.getsockname()) as c:
            s, _ = listener.accept()
            with s:
                c.settimeout(PATIENCE)
                s.settimeout(PATIENCE)
                yield c, s


def read_all(s):
    got = bytearray()
    while part := s.recv(1 << 20):
        got += part
    return bytes(got)


def test_to_a_stack_a_message_is_sent_from_where_it_came_to_lie():
    """Its place is the peer's again when the bytes were acknowledged: many times the window goes through."""
    with streams(window=4) as (x, y), wire(device=True) as (c, s):
        got = Background(read_all, s)
        job = ustack.splice(y, c, wait=False, pass_end=True)
        x.sendall(DATA)
        x.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA
        assert job.wait(PATIENCE) == len(DATA)
        assert bytes_of(x.vi.nic) == {"tx.copy": len(DATA), "device.rx": len(DATA)}     # the test's own copy
        assert {k: n for k, (n, _) in c.stack.ledger().items() if n and not k.startswith("device.")} == {}


def test_to_a_stack_whose_link_does_not_gather_it_is_copied_once():
    with streams(window=4) as (x, y), wire() as (c, s):
        got = Background(read_all, s)
        job = ustack.splice(y, c, wait=False, pass_end=True)
        x.sendall(DATA)
        x.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA
        assert job.wait(PATIENCE) == len(DATA)
        assert c.stack.ledger()["tx.copy"][0] == len(DATA)


def test_from_a_stack_it_is_copied_once():
    with streams() as (x, y), wire() as (c, s):
        got = Background(read_all, y)
        job = ustack.splice(s, x, wait=False, pass_end=True)
        c.sendall(DATA)
        c.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA
        assert job.wait(PATIENCE) == len(DATA)
        assert s.stack.ledger()["rx.copy"][0] == len(DATA)
        assert bytes_of(x.vi.nic) == {"rx.copy": len(DATA), "device.rx": len(DATA)}


# --- nothing is lost ------------------------------------------------------------------------------------------------


def wait_until(true):
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        threading.Event().wait(0.001)


def test_cancel_leaves_what_was_received_with_the_stream(tmp_path):
    """And the VI can be spliced again."""
    with streams(window=4, piece=1000) as (x, y):
        reader, writer = os.pipe()
        with open(reader, "rb", buffering=0) as r, open(writer, "wb", buffering=0) as w:
            os.set_blocking(writer, False)
            held = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    held += os.write(writer, bytes(4096))
            job = ustack.splice(y.vi, w, wait=False)
            sending = Background(lambda: (x.sendall(DATA[:50_000]), x.shutdown(socket.SHUT_WR)))
            assert len(r.read(8192)) == 8192
            wait_until(lambda: job.moved > 0)
            job.cancel()
            moved = job.wait(PATIENCE)
            assert 0 < moved < 50_000
            assert job.unsent == b""
            with open(tmp_path / "rest", "wb") as rest:
                assert ustack.splice(y.vi, rest) == 50_000 - moved
            sending.result(PATIENCE)
            got = b""
            os.set_blocking(reader, False)
            while part := r.read(1 << 16):
                got += part
            assert got[held - 8192:] + (tmp_path / "rest").read_bytes() == DATA[:50_000]


def test_cancel_of_a_wait_for_credits(tmp_path):
    with streams(window=2, piece=1000) as (x, y), file_of(DATA, tmp_path) as f:
        y._greet()
        job = ustack.splice(f, x, wait=False)
        wait_until(lambda: job.moved == 2000)
        job.cancel()
        assert job.wait(PATIENCE) == 2000
        assert f.tell() == 2000
        with in_thread(lambda: (ustack.splice(f, x, 3000), x.shutdown(socket.SHUT_WR))):
            assert read_all(y) == DATA[:5000]


def test_how_it_ended_is_passed_on(tmp_path):
    """With pass_end: an error of the source, a cancellation, a sink that takes no more."""
    with by_hand(window=2) as (x, hand):
        hand.say(HELLO, 100)
        hand.say(GRANT, 4)
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(IsADirectoryError) as caught:
            ustack.splice(folder, x, pass_end=True)
        os.close(folder)
        assert caught.value.moved == 0
        assert [hand.hear()[1] >> 24 for _ in range(3)] == [HELLO, GRANT, ERROR]
    with by_hand(window=2) as (x, hand), open(os.devnull, "rb") as null:
        hand.say(HELLO, 100)
        with pytest.raises(OSError, match="not open for writing"):
            ustack.splice(x, null)
        reader, writer = os.pipe()
        os.close(reader)
        x._greet()
        hand.say(GRANT, 4)
        hand.message(b"to nobody")
        with open(writer, "wb", buffering=0) as w, pytest.raises(BrokenPipeError) as caught:
            ustack.splice(x, w, pass_end=True)
        assert caught.value.moved == 0
        assert [hand.hear()[1] for _ in range(3)][2] == STOP << 24 | errno.EPIPE
        assert x.recv(100) == b"to nobody"
    with by_hand() as (x, hand):
        reader, writer = os.pipe()
        with open(reader, "rb") as r, open(writer, "wb"):
            hand.say(HELLO, 100)
            job = ustack.splice(r, x, wait=False, pass_end=True)
            job.cancel()
            assert job.wait(PATIENCE) == 0
        assert [hand.hear()[1] for _ in range(3)][2] == ERROR << 24 | errno.ECANCELED


def test_a_vi_that_breaks_gives_back_what_it_did_not_deliver(tmp_path):
    """Of a file the position says it; of a pipe it is in ``unsent``; of a VI it is received again."""
    for kind in ("file", "pipe", "vi"):
        with contextlib.ExitStack() as stack:
            a, port, b = stack.enter_context(attached())
            tags = a.ptag(), b.ptag()
            x = via.Stream(via.Vi(a, tags[0]), piece=1000)
            y = via.Stream(via.Vi(b, tags[1]), piece=1000, window=8)
            join(x.vi, y.vi, port)
            y._greet()
            if kind == "vi":
                c, d, _, _ = stack.enter_context(line(a, tags[0], piece=1000))
                source = d
                feed = Background(lambda c=c: (c.sendall(DATA[:20_000]), c.shutdown(socket.SHUT_WR)))
            elif kind == "pipe":
                reader, writer = os.pipe()
                source = stack.enter_context(open(reader, "rb", buffering=0))
                feed = Background(lambda writer=writer: (os.write(writer, DATA[:20_000]), os.close(writer)))
            else:
                source = stack.enter_context(file_of(DATA[:20_000], tmp_path))
                feed = Background(lambda: None)
            job = ustack.splice(source, x, wait=False)
            wait_until(lambda job=job: job.moved == 8000)   # the window; the other NIC has looked at none of it
            y.settimeout(PATIENCE)
            got = y.recv(1000)
            b.close()
            with pytest.raises(ConnectionResetError) as caught:
                job.wait(PATIENCE)
            moved = caught.value.moved
            assert 1000 <= moved <= 8000
            assert got == DATA[:1000]
            if kind == "file":
                assert source.tell() == moved
            elif kind == "pipe":
                assert job.unsent + source.read() == DATA[moved:20_000]
            else:
                d.settimeout(PATIENCE)
                assert read_all(d) == DATA[moved:20_000]
            feed.result(PATIENCE)


PEER = """
    import os, socket, sys
    import ustack
    from ustack import via

    nic = via.Nic()
    with via.Listener(nic, b"s") as listener, os.fdopen(1, "wb", buffering=0) as out:
        nic.attach(socket.socket(fileno=int(sys.argv[-1])))
        vi = via.Vi(nic, nic.ptag())
        for buffer in via.buffers(nic, vi.ptag, 16384, 12):
            vi.post_recv(buffer)
        listener.wait(60).accept(vi)
        ustack.splice(vi, out)
        vi.disconnect()
"""


def test_to_another_process_and_one_that_is_killed(tmp_path):
    """A file here, a pipe there."""
    with via.Nic() as nic:
        for kill in (False, True):
            with other_process("-c", textwrap.dedent(PEER)) as (process, sock), file_of(DATA, tmp_path) as f:
                x = via.Stream(via.Vi(nic, nic.ptag()))
                x.vi.connect(b"s", nic.attach(sock, timeout=PATIENCE), timeout=PATIENCE)
                pipe = process.stdout.buffer
                if kill:
                    job = ustack.splice(f, x, wait=False, pass_end=True)
                    assert pipe.read(100_000) == DATA[:100_000]
                    process.kill()
                    with pytest.raises(ConnectionResetError) as caught:
                        job.wait(PATIENCE)
                    assert 100_000 <= caught.value.moved < len(DATA)
                    assert f.tell() == caught.value.moved
                else:
                    got = Background(pipe.read)
                    assert ustack.splice(f, x, pass_end=True) == len(DATA)
                    assert got.result(PATIENCE) == DATA
                x.close()


# --- the rest -------------------------------------------------------------------------------------------------------


def test_completion_is_told_as_of_other_splices():
    with streams() as (x, y), streams() as (z, _w):
        told = threading.Event()
        job = ustack.splice(y.vi, z.vi, wait=False, callback=lambda _job: told.set())
        assert not job.done
        x.shutdown(socket.SHUT_WR)
        assert told.wait(PATIENCE)
        assert job.wait(PATIENCE) == 0


def test_a_timeout_of_the_stream_holds(tmp_path):
    with streams(window=2, piece=1000) as (x, y), file_of(DATA, tmp_path) as f:
        y._greet()
        y.settimeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            ustack.splice(y, f)
        assert caught.value.moved == 0
        f.seek(0)
        x.settimeout(0)
        assert ustack.splice(f, x, pass_end=True) == 2000
        with pytest.raises(BlockingIOError) as caught:
            ustack.splice(f, x, pass_end=True)      # it can go on: nobody is told of an end
        assert caught.value.moved == 0
        assert f.tell() == 2000


def test_ends_that_cannot_be(tmp_path):
    with streams() as (x, y), file_of(b"", tmp_path) as f:
        with pytest.raises(OSError, match="no offsets") as caught:
            ustack.splice(y, f, offset=1)
        assert caught.value.errno == errno.ESPIPE
        with pytest.raises(OSError, match="itself"):
            ustack.splice(x.vi, x)
        ptag = x.vi.nic.ptag()
        a, b = via.Vi(x.vi.nic, ptag), via.Vi(x.vi.nic, ptag)
        via.pair(a, b)
        with pytest.raises(ValueError, match="before it is connected"):
            ustack.splice(a, f)
        job = ustack.splice(y, f, wait=False)
        with pytest.raises(OSError, match="already") as caught:
            ustack.splice(y, f)
        assert caught.value.errno == errno.EBUSY
        job.cancel()
        job.wait(PATIENCE)
        reader, writer = os.pipe()
        with open(reader, "rb") as r, open(writer, "wb") as w:
            with pytest.raises(OSError, match="Illegal seek"):
                ustack.splice(r, x, offset=5)
            with pytest.raises(OSError, match="not open for reading"):
                ustack.splice(w, x)


def test_a_watermark_bounds_what_a_peer_has_not_taken(tmp_path):
    with attached() as (a, port, b), file_of(DATA, tmp_path) as f:
        x, y = via.Stream(via.Vi(a, a.ptag())), via.Stream(via.Vi(b, b.ptag()))
        join(x.vi, y.vi, port)
        y._greet()
        job = ustack.splice(f, x, wait=False, pass_end=True, high_water=10_000)
        wait_until(lambda: job.moved == 10_000)
        with x._lock:
            assert x._bytes == 10_000
        y.settimeout(PATIENCE)
        got = bytearray()
        while part := y.recv(1 << 20):
            got += part
            assert x._bytes <= 10_000
        assert bytes(got) == DATA
        assert job.wait(PATIENCE) == len(DATA)
