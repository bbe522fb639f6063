"""splice() and tee(): every pair of ends, in the engine and in threads; limits, time-outs, errors, completion."""

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import random
import select
import signal
import socket
import tempfile
import threading

import pytest
from beds import FAR, NEAR, PATIENCE, Lossy, connected, copied, lose_first, read_all, two_stacks
from helpers import Background

import ustack
import ustack.via

DATA = random.Random(5).randbytes(1_000_003)


@contextlib.contextmanager
def proxy():
    """A client and a server on one stack, and two sockets of another between them: (client, in, out, server)."""
    with two_stacks() as (near, far), connected(near, far) as (client, inner), connected(near, far) as (server, outer):
        yield client, inner, outer, server


@contextlib.contextmanager
def streams():
    """Two VIs of one NIC, connected, with a stream over each."""
    with ustack.via.Nic() as nic:
        ptag = nic.ptag()
        x, y = (ustack.via.Stream(ustack.via.Vi(nic, ptag)) for _ in range(2))
        ustack.via.pair(x.vi, y.vi)
        yield x, y


@contextlib.contextmanager
def pipe_of(data):
    """A pipe that a thread fills."""
    reader, writer = os.pipe()

    def feed():
        with open(writer, "wb") as f:
            f.write(data)

    feeding = Background(feed)
    with open(reader, "rb", buffering=0) as r:
        yield r
        feeding.result(PATIENCE)


def fill_pages(pages, data):
    """All of it into a pipe of references, which ends then."""
    while data:
        data = data[pages.vmsplice(data):]
    pages.close_write()


@contextlib.contextmanager
def source_of(kind, data):
    """A source of the kind that gives the data and ends."""
    if kind == "file":
        with tempfile.TemporaryFile() as f:
            f.write(data)
            f.seek(0)
            yield f
    elif kind == "pipe":
        with pipe_of(data) as r:
            yield r
    elif kind == "kernel":
        a, b = socket.socketpair()
        with a, b:
            feeding = Background(lambda: (a.sendall(data), a.shutdown(socket.SHUT_WR)))
            yield b
            feeding.result(PATIENCE)
    elif kind == "pages":
        with ustack.PagePipe() as pages:
            feeding = Background(fill_pages, pages, data)
            yield pages
            feeding.result(PATIENCE)
    elif kind == "vi":
        with streams() as (x, y):
            feeding = Background(lambda: (x.sendall(data), x.shutdown(socket.SHUT_WR)))
            yield y.vi
            feeding.result(PATIENCE)
    else:
        with two_stacks() as (near, far), connected(near, far) as (c, s):
            feeding = Background(lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)))
            yield s
            feeding.result(PATIENCE)


@contextlib.contextmanager
def sink_of(kind):
    """(sink, what() -> bytes that it got, once it was ended)"""
    if kind == "file":
        with tempfile.TemporaryFile() as f:
            yield f, lambda: os.pread(f.fileno(), 1 << 24, 0)
    elif kind == "pipe":
        reader, writer = os.pipe()
        with open(reader, "rb") as r, open(writer, "wb", buffering=0) as w:
            got = Background(r.read)
            yield w, lambda: (w.close(), got.result(PATIENCE))[1]
    elif kind == "kernel":
        a, b = socket.socketpair()
        with a, b:
            got = Background(read_all, b)
            yield a, lambda: (a.close(), got.result(PATIENCE))[1]
    elif kind == "pages":
        with ustack.PagePipe() as pages:
            got = Background(lambda: b"".join(iter(pages.read, b"")))
            yield pages, lambda: (pages.close_write(), got.result(PATIENCE))[1]
    elif kind == "vi":
        with streams() as (x, y):
            got = Background(read_all, y)
            yield x.vi, lambda: (x.shutdown(socket.SHUT_WR), got.result(PATIENCE))[1]
    else:
        with two_stacks() as (near, far), connected(near, far) as (c, s):
            got = Background(read_all, s)
            yield c, lambda: (c.shutdown(socket.SHUT_WR), got.result(PATIENCE))[1]


ENDS = ["file", "pipe", "kernel", "stack", "vi"]


@pytest.mark.parametrize("sink", [*ENDS, "pages"])
@pytest.mark.parametrize("source", [*ENDS, "pages"])
def test_from_every_source_to_every_sink(source, sink):
    with source_of(source, DATA) as src, sink_of(sink) as (dst, what):
        assert ustack.splice(src, dst) == len(DATA)
        assert what() == DATA


@pytest.mark.parametrize("sink", ENDS)
@pytest.mark.parametrize("source", ENDS)
def test_no_more_than_was_asked_for(source, sink):
    with source_of(source, DATA[:200_000]) as src, sink_of(sink) as (dst, what):
        assert ustack.splice(src, dst, 1000) == 1000
        assert ustack.splice(src, dst, 50_000) == 50_000
        assert ustack.splice(src, dst) == 149_000
        assert what() == DATA[:200_000]


def test_a_file_from_an_offset_stays_where_it_is():
    with source_of("file", DATA) as src, sink_of("stack") as (dst, what):
        assert ustack.splice(src, dst, 100, offset=1000) == 100
        assert src.tell() == 0
        assert what() == DATA[1000:1100]


def test_in_the_engine_nothing_is_copied():
    """A proxy: received blocks become sent ones; the proxy's own program does nothing."""
    with proxy() as (client, inner, outer, server):
        sending = Background(lambda: (client.sendall(DATA * 5), client.shutdown(socket.SHUT_WR)))
        got = Background(read_all, server)
        assert ustack.splice(inner, outer, pass_end=True) == 5 * len(DATA)
        sending.result(PATIENCE)
        assert got.result(PATIENCE) == DATA * 5
        assert copied(inner.stack) == {}


def test_both_directions_at_once_without_a_thread():
    with proxy() as (client, inner, outer, server):
        there = ustack.splice(inner, outer, pass_end=True, wait=False)
        back = ustack.splice(outer, inner, pass_end=True, wait=False)
        for k in range(50):
            client.sendall(b"ping%d" % k)
            assert server.recv(100) == b"ping%d" % k
            server.sendall(b"pong%d" % k)
            assert client.recv(100) == b"pong%d" % k
        client.close()
        assert server.recv(100) == b""
        server.close()
        assert there.wait(PATIENCE) == sum(len(b"ping%d" % k) for k in range(50))
        assert back.wait(PATIENCE) == there.moved


def test_a_hundred_connections():
    with two_stacks() as (near, far), contextlib.ExitStack() as stack:
        with far.create_server((FAR, 0), backlog=200) as listener, near.create_server((NEAR, 0), backlog=200) as behind:
            ends = []
            for _ in range(100):
                client = stack.enter_context(near.create_connection(listener.getsockname()))
                inner = stack.enter_context(listener.accept()[0])
                outer = stack.enter_context(far.create_connection(behind.getsockname()))
                server = stack.enter_context(behind.accept()[0])
                ends.append((client, server, ustack.splice(inner, outer, wait=False, pass_end=True)))
        threads = threading.active_count()
        for k, (client, _, _) in enumerate(ends):
            client.sendall(DATA[k:k + 5000])
            client.shutdown(socket.SHUT_WR)
        for k, (_, server, job) in enumerate(ends):
            assert read_all(server) == DATA[k:k + 5000]
            assert job.wait(PATIENCE) == 5000
        assert threading.active_count() == threads      # nobody worked for them
        assert copied(far) == {}


def test_loss_on_both_sides():
    """Over a lossy wire, in virtual time: through the engine's deadlines alone."""
    with Lossy(lose_first(5)) as wire:
        a, b = wire.stacks
        client, inner = wire.connect()
        with a.create_server((NEAR, 90)) as listener:
            outer = b.socket()
            outer.connect_ex((NEAR, 90))
            wire.run(lambda: outer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO)[0] == 1)
            wire.carry()
            server, _ = listener.accept()
        with client, inner, outer, server:
            job = ustack.splice(inner, outer, wait=False, pass_end=True)
            sent = client.send(DATA)
            client.shutdown(socket.SHUT_WR)
            got = bytearray()

            def received():
                with contextlib.suppress(BlockingIOError):
                    while part := server.recv(1 << 20):
                        got.extend(part)
                    return True
                return False

            wire.run(received)
            assert bytes(got) == DATA[:sent]
            assert job.done
            assert job.wait() == sent
            assert b.stats()["tcp.retransmitted_bytes"] > 0


def test_a_slow_sink_bounds_what_is_held():
    """TCP's own flow control: the source's window closes; nothing piles up in the proxy."""
    with proxy() as (client, inner, outer, server):
        for s in (inner, outer):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        job = ustack.splice(inner, outer, wait=False)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(50_000_000))
        assert job.moved < 2_000_000
        assert not job.done


def test_a_limit_leaves_the_rest_to_be_read():
    with proxy() as (client, inner, outer, server):
        client.sendall(b"0123456789")
        assert ustack.splice(inner, outer, 4) == 4
        assert server.recv(10) == b"0123"
        assert inner.recv(10, socket.MSG_PEEK) == b"456789"
        assert inner.recv(10) == b"456789"


def test_idle_ends_it():
    with proxy() as (client, inner, outer, server):
        client.sendall(b"hello")
        with pytest.raises(TimeoutError) as caught:
            ustack.splice(inner, outer, idle=0.05)
        assert caught.value.moved == 5
        assert server.recv(10) == b"hello"
        assert inner.stack.stats()["splice.idle"] == 1
        client.sendall(b"again")
        assert inner.recv(10) == b"again"


def test_cancel_leaves_the_rest_to_be_read():
    with proxy() as (client, inner, outer, server):
        job = ustack.splice(inner, outer, wait=False)
        client.sendall(b"one")
        assert server.recv(10) == b"one"
        assert not job.done
        job.cancel()
        assert job.done
        assert job.wait(PATIENCE) == 3
        client.sendall(b"two")
        assert inner.recv(10) == b"two"


def test_a_spliced_socket_is_busy_and_quiet():
    with proxy() as (client, inner, outer, _server):
        job = ustack.splice(inner, outer, wait=False)
        with pytest.raises(OSError, match="cannot splice") as caught:
            ustack.splice(inner, outer)
        assert caught.value.errno == errno.EBUSY
        client.sendall(b"x")
        assert select.select([inner], [], [], 0)[0] == []
        job.cancel()


@pytest.mark.parametrize("which", ["source", "sink"])
def test_closing_an_end_ends_it(which):
    with proxy() as (client, inner, outer, server):
        job = ustack.splice(inner, outer, wait=False)
        client.sendall(b"abc")
        assert server.recv(10) == b"abc"
        (inner if which == "source" else outer).close()
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            job.wait(PATIENCE)
        assert caught.value.moved == 3


@pytest.mark.parametrize("which", ["source", "sink"])
def test_a_reset_ends_it_with_an_error(which):
    with proxy() as (client, inner, outer, server):
        job = ustack.splice(inner, outer, wait=False)
        client.sendall(b"abc")
        assert server.recv(10) == b"abc"
        end = client if which == "source" else server
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()
        if which == "sink":
            with contextlib.suppress(OSError):
                client.sendall(b"more")
        with pytest.raises((ConnectionResetError, BrokenPipeError)) as caught:
            job.wait(PATIENCE)
        assert caught.value.moved >= 3


def test_closing_the_stack_ends_it():
    with ustack.Stack() as near, contextlib.ExitStack() as stack:
        with ustack.Stack() as far:
            for net, link, ip in zip((near, far), ustack.pair(), (NEAR, FAR), strict=True):
                net.add_interface(link, addresses=[f"{ip}/24"])
            client, inner = stack.enter_context(connected(near, far))
            server, outer = stack.enter_context(connected(near, far))
            job = ustack.splice(inner, outer, wait=False)
            waiting = Background(job.wait, PATIENCE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            waiting.result(PATIENCE)
        assert job.done
        assert client is not server


def test_an_error_of_a_pipe_says_how_much_went():
    reader, writer = os.pipe()
    with source_of("file", DATA) as src, open(writer, "wb", buffering=0) as w:
        taking = Background(lambda: (os.read(reader, 1000), os.close(reader)))
        with pytest.raises(BrokenPipeError) as caught:
            ustack.splice(src, w)
        taking.result(PATIENCE)
        assert 1000 <= caught.value.moved < len(DATA)


def test_a_timeout_of_the_socket_holds():
    with two_stacks() as (near, far), connected(near, far) as (_c, s), sink_of("file") as (dst, _):
        s.settimeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            ustack.splice(s, dst)
        assert caught.value.moved == 0
        s.settimeout(0)
        with pytest.raises(BlockingIOError):
            ustack.splice(s, dst)


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["engine", "thread"])
def job_maker(request):
    """(start(**options) -> Splice, finish()): a splice that goes on until finish is called."""
    with contextlib.ExitStack() as stack:
        if request.param == "engine":
            client, inner, outer, _server = stack.enter_context(proxy())
            yield (lambda **o: ustack.splice(inner, outer, wait=False, **o)), \
                lambda: (client.sendall(b"12345"), client.shutdown(socket.SHUT_WR))
        else:
            reader, writer = os.pipe()
            r, w = stack.enter_context(open(reader, "rb")), stack.enter_context(open(writer, "wb", buffering=0))
            dst, _what = stack.enter_context(sink_of("file"))
            yield (lambda **o: ustack.splice(r, dst, wait=False, **o)), lambda: (w.write(b"12345"), w.close())


def test_it_returns_at_once_and_is_waited_for(job_maker):
    start, finish = job_maker
    job = start()
    assert not job.done
    with pytest.raises(TimeoutError):
        job.wait(0.001)
    finish()
    assert job.wait(PATIENCE) == 5
    assert job.done
    assert "done" in repr(job)


def test_completion_by_descriptor(job_maker):
    start, finish = job_maker
    job = start()
    assert select.select([job], [], [], 0)[0] == []
    finish()
    assert select.select([job], [], [], PATIENCE)[0] == [job]
    assert job.wait(0) == 5


def test_completion_by_callback(job_maker):
    start, finish = job_maker
    told = threading.Event()
    heard = []
    job = start(callback=lambda one: (heard.append(one), told.set()))
    finish()
    assert job.wait(PATIENCE) == 5
    assert told.wait(PATIENCE)
    assert heard == [job]


def test_a_callback_comes_to_who_waits_for_nothing_else(job_maker):
    """Not only when this thread looks after the library, or runs Python at all."""
    start, finish = job_maker
    for _ in range(2):
        told = threading.Event()
        job = start(callback=lambda _one, told=told: told.set())
        job.cancel()
        assert told.wait(PATIENCE)
    told = threading.Event()
    job = start(callback=lambda _one: told.set())
    Background(finish).result(PATIENCE)
    assert told.wait(PATIENCE)
    assert job.moved == 5


def test_a_callback_that_fails_spoils_no_other(job_maker, monkeypatch):
    start, _finish = job_maker
    failed, told = threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _args: failed.set())

    def fail(_one):
        raise RuntimeError

    start(callback=fail).cancel()
    assert failed.wait(PATIENCE)
    start(callback=lambda _one: told.set()).cancel()
    assert told.wait(PATIENCE)


def test_completion_by_signal(job_maker):
    start, finish = job_maker
    heard = []
    before = signal.signal(signal.SIGIO, lambda number, frame: heard.append(number))
    try:
        job = start(owner=signal.SIGIO)
        finish()
        assert job.wait(PATIENCE) == 5
        deadline = threading.Event()
        for _ in range(10_000):
            if heard:
                break
            deadline.wait(0.001)
        assert heard == [signal.SIGIO]
    finally:
        signal.signal(signal.SIGIO, before)


def test_a_signal_without_a_handler_is_refused(job_maker):
    start, finish = job_maker
    with pytest.raises(ValueError, match="no handler"):
        start(owner=signal.SIGIO)
    finish()


async def waited(job):
    return await job


def test_completion_in_asyncio(job_maker):
    start, finish = job_maker

    async def main():
        job = start()
        finish()
        return await asyncio.wait_for(waited(job), PATIENCE)

    assert asyncio.run(main()) == 5


def test_completion_in_trio(job_maker):
    trio = pytest.importorskip("trio")
    start, finish = job_maker

    async def main():
        with trio.fail_after(PATIENCE):
            job = start()
            finish()
            return await job

    assert trio.run(main) == 5


def test_cancelling_a_thread(job_maker):
    start, finish = job_maker
    job = start()
    job.cancel()
    assert job.wait(PATIENCE) == 0
    finish()


def test_ctrl_c_ends_a_blocking_splice():
    with proxy() as (_client, inner, outer, _server):
        before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                ustack.splice(inner, outer)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            reader, writer = os.pipe()
            with open(reader) as r, open(writer, "w"), pytest.raises(KeyboardInterrupt):
                ustack.splice(r, outer)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert ustack.splice(inner, outer, wait=False).moved == 0


# --- objects of Python -----------------------------------------------------------------------------------------------


class Owned:
    """Something with a descriptor, which goes with it."""

    def __init__(self, path):
        self.number = os.open(path, os.O_RDONLY)

    def fileno(self):
        return self.number

    def __del__(self):
        os.close(self.number)


def test_an_object_that_nobody_else_holds_lives_as_long_as_it_is_needed(tmp_path):
    """Both in the call and in a thread; a descriptor's number, given back, may be another file's by then."""
    (tmp_path / "in").write_bytes(DATA)
    for wait in (True, False):
        with sink_of("stack") as (dst, what):
            job = ustack.splice(Owned(tmp_path / "in"), dst, wait=wait)
            assert (job if wait else job.wait(PATIENCE)) == len(DATA)
            assert what() == DATA


@pytest.mark.parametrize("kind", ["object", "descriptor"])
def test_a_sink_that_is_closed_meanwhile_is_not_mixed_up(tmp_path, kind):
    """A thread has descriptors of its own: the number may be given to another file, which is then left alone."""
    with source_of("kernel", b"") as _, two_stacks() as (near, far), connected(near, far) as (c, s):
        f = open(tmp_path / "a", "wb", buffering=0)                                         # noqa: SIM115
        number = f.fileno()
        job = ustack.splice(s, f if kind == "object" else number, 2000, wait=False)
        c.sendall(DATA[:1000])
        while job.moved < 1000:
            threading.Event().wait(0.001)
        f.close()
        with open(tmp_path / "b", "wb") as other:
            assert other.fileno() == number
            c.sendall(DATA[1000:2000])
            assert job.wait(PATIENCE) == 2000
        assert (tmp_path / "a").read_bytes() == DATA[:2000]
        assert (tmp_path / "b").read_bytes() == b""


@pytest.mark.parametrize("wait", [True, False])
def test_what_a_file_object_has_read_ahead_or_not_yet_written_is_seen_to(tmp_path, wait):
    """It begins where the object stands, not its descriptor, and leaves the object behind what was taken."""
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "w+b") as sink:
        assert source.read(10) == DATA[:10]
        sink.write(DATA[:10])
        job = ustack.splice(source, sink, 5000, wait=wait)
        assert (job if wait else job.wait(PATIENCE)) == 5000
        assert (source.tell(), sink.tell()) == (5010, 5010)
        assert source.read(10) == DATA[5010:5020]
        sink.write(DATA[5010:5020])
        sink.seek(0)
        assert sink.read() == DATA[:5020]


def test_a_descriptor_stands_behind_what_a_thread_has_taken():
    with source_of("file", DATA) as src, sink_of("stack") as (dst, what):
        number = src.fileno()
        assert ustack.splice(number, dst, 5000, wait=False).wait(PATIENCE) == 5000
        assert os.lseek(number, 0, os.SEEK_CUR) == 5000
        assert ustack.splice(number, dst, 100, offset=7, wait=False).wait(PATIENCE) == 100
        assert os.lseek(number, 0, os.SEEK_CUR) == 5000
        assert what() == DATA[:5000] + DATA[7:107]


# --- arguments ------------------------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense():
    with proxy() as (_client, inner, outer, _server), sink_of("file") as (dst, _):
        with pytest.raises(ValueError, match="SPLICE_EOF"):
            ustack.splice(inner, outer, -2)
        with pytest.raises(ValueError, match="idle"):
            ustack.splice(inner, outer, idle=0)
        with pytest.raises(ValueError, match="wait=False"):
            ustack.splice(inner, outer, callback=print)
        with pytest.raises(OSError, match="Invalid argument"):
            ustack.splice(inner, inner)
        with pytest.raises(ValueError, match="one stack"):
            ustack.splice(inner, dst, idle=1)
        for ends in ((inner, "nowhere"), (None, outer)):
            with pytest.raises(TypeError, match="has a descriptor: not a"):
                ustack.splice(*ends)
        with pytest.raises(TypeError, match="float"):
            ustack.splice(inner, outer, 1.5)
        with pytest.raises(TypeError, match="callback"):
            ustack.splice(inner, outer, wait=False, callback=5)
        with pytest.raises(ValueError, match="idle"):
            ustack.splice(inner, outer, idle=float("nan"))
        with pytest.raises(OSError, match="no offsets") as caught:
            ustack.splice(inner, outer, 5, offset=1)
        assert caught.value.errno == errno.ESPIPE
        with inner.stack.socket() as fresh, pytest.raises(OSError, match="not connected"):
            ustack.splice(fresh, outer)
        with inner.stack.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(ValueError, match="SOCK_STREAM"):
            ustack.splice(udp, outer)
        with open(os.devnull, "rb") as unwritable, pytest.raises(OSError, match="not open for writing"):
            ustack.splice(inner, unwritable)
        assert ustack.splice(inner, outer, 0) == 0
        assert ustack.SPLICE_EOF == -1


# --- tee ------------------------------------------------------------------------------------------------------------


def test_tee_gives_two_sinks_the_same_bytes():
    with proxy() as (client, inner, outer, server), sink_of("file") as (log, what):
        client.sendall(DATA[:5000])
        client.shutdown(socket.SHUT_WR)
        seen = 0
        while n := ustack.tee(inner, outer, 1 << 16):
            assert ustack.splice(inner, log, n) == n
            seen += n
        outer.shutdown(socket.SHUT_WR)
        assert seen == 5000
        assert read_all(server) == DATA[:5000]
        assert what() == DATA[:5000]
        assert copied(inner.stack) == {}


def test_tee_wants_a_socket():
    with sink_of("file") as (dst, _), pytest.raises(TypeError, match="receive queue"):
        ustack.tee(dst, dst)


# --- no byte is lost ------------------------------------------------------------------------------------------------


def filled_pipe():
    """A pipe that takes no more: (its reading end, its writing end, bytes in it)."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    held = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            held += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0), held


def test_cancel_leaves_what_the_sink_has_not_got_with_the_socket():
    with proxy() as (client, inner, _outer, _server):
        reader, writer, held = filled_pipe()
        with reader, writer:
            client.sendall(DATA[:300_000])
            inner.recv(300_000, socket.MSG_PEEK | socket.MSG_WAITALL)
            job = ustack.splice(inner, writer, wait=False)
            assert len(reader.read(8192)) == 8192
            while job.moved == 0:
                threading.Event().wait(0.001)
            job.cancel()
            moved = job.wait(PATIENCE)
            assert job.unsent == b""
            os.set_blocking(reader.fileno(), False)
            got = b""
            while part := reader.read(1 << 16):
                got += part
            assert got[held - 8192:] == DATA[:moved]
            assert inner.recv(300_000, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == DATA[moved:300_000]


def test_cancel_leaves_what_the_sink_has_not_got_in_the_file():
    reader, writer, held = filled_pipe()
    with reader, writer, source_of("file", DATA) as src:
        job = ustack.splice(src, writer, wait=False)
        assert len(reader.read(8192)) == 8192
        while job.moved == 0:
            threading.Event().wait(0.001)
        job.cancel()
        moved = job.wait(PATIENCE)
        assert 0 < moved <= held
        assert job.unsent == b""


def test_cancel_hands_out_what_a_pipe_cannot_have_back():
    reader, writer, held = filled_pipe()
    here, there = socket.socketpair()
    with reader, writer, here, there:
        here.sendall(DATA[:50_000])
        job = ustack.splice(there, writer, wait=False)
        assert len(reader.read(8192)) == 8192
        while job.moved == 0:
            threading.Event().wait(0.001)
        job.cancel()
        moved = job.wait(PATIENCE)
        there.setblocking(False)
        left = b""
        with contextlib.suppress(BlockingIOError):
            left = there.recv(1 << 20)
        assert 0 < moved < 50_000
        assert job.unsent + left == DATA[moved:50_000]
        assert held


def test_an_error_of_the_sink_leaves_the_rest_with_the_socket():
    with proxy() as (client, inner, _outer, _server):
        client.sendall(DATA[:100_000])
        inner.recv(100_000, socket.MSG_PEEK | socket.MSG_WAITALL)
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb", buffering=0) as w, pytest.raises(BrokenPipeError) as caught:
            ustack.splice(inner, w)
        assert caught.value.moved == 0
        assert inner.recv(100_000, socket.MSG_WAITALL) == DATA[:100_000]


# --- a relay and the threads around it ------------------------------------------------------------------------------


def test_who_waits_to_receive_goes_on_when_the_splice_is_over():
    with proxy() as (client, inner, outer, server):
        job = ustack.splice(inner, outer, 4, wait=False)
        waiting = Background(inner.recv, 10)
        client.sendall(b"01234567")
        assert server.recv(10) == b"0123"
        assert waiting.result(PATIENCE) == b"4567"
        assert job.wait(PATIENCE) == 4
        job = ustack.splice(inner, outer, wait=False)
        waiting = Background(inner.recv, 10)
        client.sendall(b"to the server")
        assert server.recv(100) == b"to the server"
        job.cancel()
        client.sendall(b"to you")
        assert waiting.result(PATIENCE) == b"to you"


def test_waiting_for_a_splice_while_others_poll():
    """A newer waiter takes over the polling; who waited before is told of the end all the same."""
    with proxy() as (client, inner, outer, server), connected(client.stack, inner.stack) as (other, idle):
        for _ in range(20):
            job = ustack.splice(inner, outer, 5, wait=False)
            waiting = Background(job.wait, PATIENCE)
            newer = Background(idle.recv, 10)
            client.sendall(b"hello")
            assert waiting.result(PATIENCE) == 5
            assert server.recv(10) == b"hello"
            other.sendall(b"x")
            assert newer.result(PATIENCE) == b"x"


# --- watermarks -----------------------------------------------------------------------------------------------------


def test_high_water_bounds_what_waits_in_front_of_the_sink():
    with proxy() as (client, inner, outer, server):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        job = ustack.splice(inner, outer, wait=False, high_water=30_000)
        assert outer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 30_000
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(10_000_000))
        assert job.moved < 200_000
        job.cancel()
        with pytest.raises(ValueError, match="high_water"):
            ustack.splice(inner, outer, high_water=0)


def test_high_water_in_front_of_a_pipe():
    with source_of("file", DATA[:10_000]) as src, sink_of("pipe") as (dst, what):
        assert ustack.splice(src, dst, high_water=100) == 10_000
        assert what() == DATA[:10_000]


def resident(number, offset):
    """Whether a page of a file is in memory."""
    with mmap.mmap(number, mmap.PAGESIZE, offset=offset) as page:
        there = (ctypes.c_ubyte * 1)()
        start = ctypes.c_char.from_buffer(page)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(1), there) == 0
        del start
    return bool(there[0] & 1)


@pytest.mark.parametrize("sink", ["pipe", "vi"])
def test_a_file_is_asked_for_ahead(tmp_path, sink):
    """As far as the first watermark; the sink has taken next to nothing by then."""
    with open(tmp_path / "cold", "w+b") as f, contextlib.ExitStack() as stack:
        f.write(bytes(8 << 20))
        f.flush()
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        far = 3 << 20
        if resident(f.fileno(), far):
            pytest.skip("this file system keeps files in memory")
        f.seek(0)
        if sink == "pipe":
            reader, writer, _held = filled_pipe()
            end = stack.enter_context(writer)
            stack.enter_context(reader)
            assert len(reader.read(8192)) == 8192
        else:
            x, y = stack.enter_context(streams())
            y.settimeout(0)
            with pytest.raises(BlockingIOError):
                y.recv(1)
            end = x.vi
        job = ustack.splice(f, end, wait=False, watermarks=(4 << 20, 8192))
        for _ in range(60_000):
            if resident(f.fileno(), far):
                break
            threading.Event().wait(0.001)
        assert resident(f.fileno(), far)
        assert job.moved <= (16 << 16)
        job.cancel()
        job.wait(PATIENCE)


def test_both_watermarks_bound_what_waits():
    with proxy() as (_client, inner, outer, _server):
        job = ustack.splice(inner, outer, wait=False, watermarks=(40_000, 30_000))
        assert inner.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 40_000
        assert outer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 30_000
        job.cancel()
        for wrong in ((0, 5), (5, -1)):
            with pytest.raises(ValueError, match="at least 1"):
                ustack.splice(inner, outer, watermarks=wrong)
        with pytest.raises(ValueError, match="one of them"):
            ustack.splice(inner, outer, watermarks=(1, 1), high_water=1)
