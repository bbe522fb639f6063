"""PagePipe: references in and out, their bounds, bytes and lifetimes; splice(), tee() and vmsplice() on it."""

import contextlib
import errno
import gc
import mmap
import os
import random
import signal
import socket
import tempfile
import threading

import pytest
from beds import PATIENCE, Lossy, connected, copied, read_all, two_stacks
from dark import copied_out
from helpers import Background
from test_splice import fill_pages, streams

import ustack
from ustack import SPLICE_F_GIFT, SPLICE_F_MORE, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, PagePipe
from ustack.buffers import Arena, esballoc

PAGE = mmap.PAGESIZE
DATA = random.Random(8).randbytes(300_007)


def copies(pipe):
    """Bytes that a CPU has copied for a pipe, by reason."""
    return {name: n for name, (n, _) in pipe.ledger().items() if not name.startswith("device.")}


@contextlib.contextmanager
def refused(number):
    """OSError with this number."""
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        yield


def at(thing):
    """The address that a buffer begins at."""
    return esballoc(thing).address


def pages(n):
    return mmap.mmap(-1, n * PAGE)


# --- in and out -------------------------------------------------------------------------------------------------------

def test_what_goes_in_comes_out_from_where_it_lies():
    first, second = bytearray(DATA[:1000]), DATA[1000:5000]
    with PagePipe() as pipe:
        assert pipe.vmsplice([first, b"", second]) == 5000
        assert (len(pipe), pipe.used) == (5000, 2)
        blocks = pipe.take()
        assert [b.address for b in blocks] == [at(first), at(second)]
        assert b"".join(blocks) == DATA[:5000]
        assert (len(pipe), pipe.used) == (0, 0)
        assert pipe.ledger() == {}
        assert bool(pipe)


def test_reading_copies_and_says_so():
    with PagePipe() as pipe:
        pipe.vmsplice(DATA[:5000])
        one, two = bytearray(100), bytearray(200)
        assert pipe.vmsplice_into([one, two]) == 300
        assert bytes(one + two) == DATA[:300]
        assert pipe.read(1000) == DATA[300:1300]
        assert pipe.vmsplice_into(big := bytearray(10_000)) == 3700
        assert big[:3700] == DATA[1300:5000]
        assert copies(pipe) == {"rx.copy": 5000}


def test_a_part_that_has_room_goes_in():
    with PagePipe(buffers=2, size=2 * PAGE) as pipe:
        assert pipe.vmsplice(DATA) == 2 * PAGE
        assert pipe.read(10) == DATA[:10]
        assert pipe.vmsplice([b"abc", bytes(100)]) == 3, "a place for one more reference"
        pipe.settimeout(0)
        with pytest.raises(BlockingIOError):
            pipe.vmsplice(b"x")
        assert pipe.read() == DATA[10:2 * PAGE] + b"abc"


def test_more_blocks_than_are_looked_at_together():
    with PagePipe(buffers=1000, size=1 << 20) as pipe, PagePipe(buffers=1000, size=1 << 20) as other:
        parts = [DATA[k:k + 7] for k in range(0, 7000, 7)]
        assert pipe.vmsplice(parts) == 7000
        assert ustack.splice(pipe, other, 7000) == 7000
        target = bytearray(7001)
        assert other.vmsplice_into(target) == 7000
        assert target[:7000] == DATA[:7000]


def test_bounds_are_checked_and_can_be_changed():
    for wrong in ({"buffers": 0}, {"buffers": 65537}, {"size": 0}, {"size": PAGE + 1}, {"size": 1 << 31}):
        with refused(errno.EINVAL):
            PagePipe(**wrong)
    with PagePipe() as pipe:
        pipe.vmsplice([DATA[:5000], b"abc"])
        for less in ({"buffers": 1}, {"size": PAGE}):
            with refused(errno.EBUSY):
                pipe.resize(**less)
        pipe.resize(2, 2 * PAGE)
        assert (pipe.buffers, pipe.size) == (2, 2 * PAGE)
        assert pipe.read() == DATA[:5000] + b"abc"


def test_what_is_no_buffer():
    with PagePipe() as pipe:
        for wrong in (7, ["abc"], [b"good", 1]):
            with pytest.raises(TypeError):
                pipe.vmsplice(wrong)
        with pytest.raises(BufferError):
            pipe.vmsplice_into(b"read-only") if pipe.vmsplice(b"x") else None
        assert pipe.read() == b"x"
        for call in (pipe.vmsplice, pipe.vmsplice_into):
            with pytest.raises(OSError, match="unknown flag"):
                call(bytearray(1), 16)


# --- waiting and ends -------------------------------------------------------------------------------------------------

def test_who_waits_is_woken():
    with PagePipe(size=PAGE) as pipe:
        got = Background(pipe.read)
        pipe.vmsplice(b"first")
        assert got.result(PATIENCE) == b"first"
        filling = Background(fill_pages, pipe, DATA)
        assert b"".join(iter(pipe.read, b"")) == DATA
        filling.result(PATIENCE)


def test_time_outs():
    with PagePipe(buffers=1) as pipe:
        pipe.settimeout(0.001)
        assert pipe.gettimeout() == 0.001
        with pytest.raises(TimeoutError):
            pipe.read()
        pipe.vmsplice(b"x")
        with pytest.raises(TimeoutError):
            pipe.vmsplice(b"y")
        pipe.settimeout(None)
        with pytest.raises(BlockingIOError):
            pipe.vmsplice(b"y", SPLICE_F_NONBLOCK)
        assert pipe.take(flags=SPLICE_F_NONBLOCK)
        with pytest.raises(BlockingIOError):
            pipe.take(flags=SPLICE_F_NONBLOCK)
        with pytest.raises(BlockingIOError):
            pipe.vmsplice_into(bytearray(1), SPLICE_F_NONBLOCK)
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="time-out"):
                pipe.settimeout(wrong)
        pipe.settimeout(float("inf"))


def test_the_writing_end_closes():
    with PagePipe() as pipe:
        pipe.vmsplice(b"rest")
        pipe.close_write()
        assert pipe.read(2) == b"re"
        with refused(errno.EBADF):
            pipe.vmsplice(b"x")
        assert pipe.read() == b"st"
        assert pipe.read() == b""
        assert pipe.take() == []
        assert pipe.vmsplice_into(bytearray(4)) == 0
        with PagePipe() as other:
            assert ustack.splice(pipe, other, 100) == 0
            assert ustack.tee(pipe, other) == 0
        assert not pipe.closed
    assert pipe.closed


def test_the_reading_end_closes():
    memory = bytearray(DATA)
    with PagePipe() as pipe:
        pipe.vmsplice(memory)
        pipe.close_read()
        memory.append(1)                # nobody needs it any more
        with pytest.raises(BrokenPipeError):
            pipe.vmsplice(b"x")
        with refused(errno.EBADF):
            pipe.read()


@pytest.mark.parametrize("close", ["close_read", "close_write", "close"])
def test_who_waits_hears_that_an_end_was_closed(close):
    with PagePipe(buffers=1) as empty, PagePipe(buffers=1) as full:
        full.vmsplice(b"x")
        reading, writing = Background(empty.read), Background(full.vmsplice, b"y")
        getattr(empty, close)()
        getattr(full, close)()
        if close == "close_write":
            assert reading.result(PATIENCE) == b""
        else:
            with pytest.raises(OSError, match="closed"):
                reading.result(PATIENCE)
        with refused(errno.EPIPE if close == "close_read" else errno.EBADF):
            writing.result(PATIENCE)


def test_control_c_ends_a_wait():
    def stop(*_):
        raise KeyboardInterrupt

    def interrupted(wait):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        wait()

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with PagePipe() as pipe, PagePipe() as other:
            for wait in (pipe.read, lambda: ustack.splice(pipe, other), lambda: ustack.tee(pipe, other)):
                with pytest.raises(KeyboardInterrupt):
                    interrupted(wait)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- lifetimes --------------------------------------------------------------------------------------------------------

def test_memory_is_held_until_nobody_needs_it():
    memory = bytearray(DATA)
    told = []
    with PagePipe() as pipe, PagePipe() as other:
        assert pipe.vmsplice([memory, memory], given_back=lambda: told.append(1)) == 65536
        with pytest.raises(BufferError):
            memory.append(1)
        assert ustack.tee(pipe, other) == 65536
        assert len(pipe.read()) == 65536
        with pytest.raises(BufferError):
            memory.append(1)
        assert told == []
        blocks = other.take()
        del blocks
        gc.collect()
        assert told == [1]
        memory.append(1)


def test_nothing_taken_is_nothing_given_back():
    told = []
    with PagePipe(buffers=1) as pipe:
        pipe.vmsplice(b"x")
        with pytest.raises(BlockingIOError):
            pipe.vmsplice(b"y", SPLICE_F_NONBLOCK, lambda: told.append(1))
        with pytest.raises(TypeError):
            pipe.vmsplice([1], 0, lambda: told.append(1))
        assert pipe.read() == b"x"
        pipe.vmsplice([b"one", b"two"], given_back=lambda: told.append(2))
        pipe.read()
    assert told == [2]


def test_a_pipe_that_is_dropped_gives_everything_back():
    memory = bytearray(DATA)
    arena = Arena()
    pipe = PagePipe(arena=arena)
    with tempfile.TemporaryFile() as f:
        f.write(DATA)
        f.seek(0)
        assert ustack.splice(f, pipe, 5000) == 5000
        pipe.vmsplice(memory)
        a, b = socket.socketpair()
        with a, b:
            b.sendall(b"from the kernel")
            pipe.resize(size=1 << 20)
            assert ustack.splice(a, pipe, 100) == 15
    assert arena.live > 0
    del pipe
    gc.collect()
    arena.reap()
    assert arena.live == 0
    memory.append(1)


def test_the_bytes_outlive_pipe_and_arena():
    pipe = PagePipe()
    a, b = socket.socketpair()
    with a, b:
        b.sendall(DATA[:10_000])
        assert ustack.splice(a, pipe, 10_000) == 10_000
    blocks = pipe.take()
    pipe.close()
    del pipe
    gc.collect()
    assert b"".join(blocks) == DATA[:10_000]


# --- gifts ------------------------------------------------------------------------------------------------------------

@pytest.fixture(params=["userfaultfd", "mprotect"])
def mechanism(request):
    before = ustack.cow_mechanism()
    try:
        ustack.cow_mechanism(request.param)
    except OSError as e:
        pytest.skip(f"no {request.param}: {e}")
    yield request.param
    if before is not None:
        ustack.cow_mechanism(before)


def test_gifts_are_whole_pages():
    with PagePipe() as pipe:
        view = memoryview(memory := pages(2))
        for part in (view[1:PAGE + 1], view[:PAGE - 1], view[PAGE // 2:PAGE + PAGE // 2]):
            with refused(errno.EINVAL):
                pipe.vmsplice([view, part], SPLICE_F_GIFT)
        assert len(pipe) == 0
        assert pipe.vmsplice(memory, SPLICE_F_GIFT) == 2 * PAGE
        assert pipe.take()[0].address == at(memory)


def test_gifts_go_in_by_whole_pages():
    with pages(4) as memory, PagePipe(size=3 * PAGE) as pipe:
        pipe.vmsplice(b"x")
        assert pipe.vmsplice(memory, SPLICE_F_GIFT) == 2 * PAGE
        with pytest.raises(BlockingIOError):
            pipe.vmsplice(memory, SPLICE_F_GIFT | SPLICE_F_NONBLOCK)
        pipe.close()


def test_a_write_to_what_was_given_away_is_noticed(mechanism):
    with pages(4) as memory, PagePipe(debug=True) as pipe:
        assert pipe.debug
        assert pipe.vmsplice(memory, SPLICE_F_GIFT) == 4 * PAGE
        assert memory[2 * PAGE] == 0
        assert pipe.touched == 0
        memory[2 * PAGE + 5] = 1
        memory[2 * PAGE + 6] = 2            # the same page
        memory[3 * PAGE] = 3
        assert pipe.touched == 2
        with pytest.raises(RuntimeError, match=f"2 page.*{at(memory) + 2 * PAGE:#x}"):
            pipe.read(1)
        assert pipe.read()[2 * PAGE + 5] == 1, "it is told of, not undone"
        memory[:] = bytes(4 * PAGE)         # given back: it is the program's again
        assert pipe.touched == 2


def test_splice_and_close_tell_as_well(mechanism):
    with pages(1) as memory, PagePipe() as other:
        pipe = PagePipe(debug=True)
        pipe.vmsplice(memory, SPLICE_F_GIFT)
        memory[0] = 1
        with pytest.raises(RuntimeError, match="given away"):
            ustack.splice(pipe, other, 100)
        assert ustack.splice(pipe, other, PAGE) == PAGE
        with pytest.raises(BufferError):
            memory.close()                  # it is in the other pipe
        other.close()
        pipe.vmsplice(memory, SPLICE_F_GIFT)
        memory[0] = 1
        with pytest.raises(RuntimeError, match="given away"):
            pipe.close()
        assert pipe.closed


def test_only_gifts_are_watched_and_only_with_debug(mechanism):
    with pages(1) as memory:
        with PagePipe(debug=True) as pipe:
            pipe.vmsplice(memory)
            memory[0] = 1
            assert pipe.touched == 0
        with PagePipe() as pipe:
            pipe.vmsplice(memory, SPLICE_F_GIFT)
            memory[0] = 1
            assert not pipe.debug
            assert pipe.touched == 0


def test_the_same_page_given_twice(mechanism):
    with pages(1) as memory, PagePipe(debug=True) as one, PagePipe(debug=True) as two:
        one.vmsplice(memory, SPLICE_F_GIFT)
        two.vmsplice(memory, SPLICE_F_GIFT)
        one.take()
        assert one.touched == two.touched == 0
        memory[0] = 1
        assert (one.touched, two.touched) == (0, 1)
        with pytest.raises(RuntimeError):
            two.read()


def test_a_gift_that_is_sent_by_copy_on_write_stays_protected_for_it(mechanism):
    """What the pipe lets go of, a connection may still have to send as it was."""
    with two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe(debug=True) as pipe:
        buffer = ustack.CowBuffer(PAGE)
        with refused(errno.EBUSY):
            pipe.vmsplice(buffer, SPLICE_F_GIFT)
        assert pipe.vmsplice(buffer) == PAGE
        c.sendall(buffer, cow=True)
        memoryview(buffer)[:] = b"x" * PAGE
        assert s.recv(PAGE, socket.MSG_WAITALL) == bytes(PAGE)


def test_a_fork_ends_the_watch(mechanism):
    with pages(1) as memory, PagePipe(debug=True) as pipe:
        pipe.vmsplice(memory, SPLICE_F_GIFT)
        child = os.fork()
        if child == 0:
            memory[0] = 1
            os._exit(pipe.touched)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        memory[0] = 2
        assert pipe.touched == 0


# --- splice and tee ---------------------------------------------------------------------------------------------------

def test_from_a_stack_to_two_files_without_a_copy():
    """The loop of splice(2)'s manual page: every byte twice, and none of them touched."""
    with (two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe() as a, PagePipe() as b,
          tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two):
        sending = Background(lambda: (c.sendall(DATA), c.shutdown(socket.SHUT_WR)))
        while n := ustack.splice(s, a, 65536):
            assert ustack.tee(a, b, n) == n
            for pipe, f in ((a, one), (b, two)):
                left = n
                while left:
                    left -= ustack.splice(pipe, f, left)
        sending.result(PATIENCE)
        assert os.pread(one.fileno(), 1 << 20, 0) == os.pread(two.fileno(), 1 << 20, 0) == DATA
        assert copied(far) == copies(a) == copies(b) == {}


def test_a_file_is_in_the_pipe_as_windows():
    with tempfile.TemporaryFile() as f, PagePipe(size=1 << 20) as pipe:
        f.write(DATA)
        assert ustack.splice(f, pipe, 200_000, offset=100) == 200_000
        assert copies(pipe) == {}
        (block, *_) = pipe.take(1)
        assert block.external
        assert pipe.read() == DATA[101:200_100]


def test_a_file_that_is_cut_is_an_error():
    with tempfile.TemporaryFile() as f, PagePipe() as pipe, tempfile.TemporaryFile() as g:
        f.write(DATA)
        assert ustack.splice(f, pipe, 5 * PAGE, offset=0) == 5 * PAGE
        f.truncate(PAGE)
        for call in (pipe.read, lambda: pipe.vmsplice_into(bytearray(5 * PAGE)),
                     lambda: ustack.splice(pipe, g, 5 * PAGE)):
            with refused(errno.EIO):
                call()
        assert len(pipe) == 5 * PAGE


def test_a_file_that_is_cut_is_an_error_for_a_connection():
    with (tempfile.TemporaryFile() as f, PagePipe() as pipe, two_stacks() as (near, far),
          connected(near, far) as (c, _)):
        f.write(DATA)
        ustack.splice(f, pipe, 5 * PAGE, offset=0)
        f.truncate(0)
        with refused(errno.EIO):
            ustack.splice(pipe, c, 5 * PAGE)


def test_a_mapping_of_a_file_is_copied():
    with tempfile.TemporaryFile() as f, PagePipe() as pipe:
        f.write(DATA)
        f.flush()
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            assert pipe.vmsplice(mapping) == 65536
        assert copies(pipe) == {"tx.copy": 65536}
        f.truncate(0)
        assert pipe.read() == DATA[:65536]


def test_memory_is_copied_for_a_link_that_keeps_packets_and_summed_on_the_way():
    with two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe() as pipe:
        pipe.vmsplice([DATA[:20_001], DATA[20_001:50_000]])
        assert ustack.splice(pipe, c, 50_000) == 50_000
        assert len(pipe) == 0
        assert s.recv(50_000, socket.MSG_WAITALL) == DATA[:50_000]
        assert copied(near) == {"tx.copy": 50_000}


def test_memory_is_summed_while_it_is_copied_where_the_link_does_not_sum():
    with Lossy(lambda raw: False, offloads=[]) as wire, PagePipe() as pipe:
        c, s = wire.connect()
        with c, s:
            s.setblocking(False)
            pipe.vmsplice([DATA[:1001], DATA[1001:9000], DATA[9000:9001], DATA[9001:20_000]])
            got = bytearray()

            def step():
                with contextlib.suppress(BlockingIOError):
                    ustack.splice(pipe, c, 20_000, flags=SPLICE_F_NONBLOCK)
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 16))
                return len(got) == 20_000

            wire.run(step)
            assert got == DATA[:20_000]
            assert copied_out(wire.stacks[0]) == {"tx.copy": 20_000, "tx.fused": 20_000}


def test_received_blocks_go_on_as_they_are():
    with (two_stacks() as (near, far), connected(near, far) as (c, s), connected(near, far) as (d, t),
          PagePipe() as pipe):
        c.sendall(DATA[:50_000])
        left = 50_000
        while left:
            n = ustack.splice(s, pipe, left)
            while n:
                out = ustack.splice(pipe, t, n)
                n -= out
                left -= out
        assert d.recv(50_000, socket.MSG_WAITALL) == DATA[:50_000]
        assert copied(far) == copies(pipe) == {}


def test_a_count_is_not_waited_for():
    with PagePipe() as pipe, PagePipe() as other, tempfile.TemporaryFile() as f:
        pipe.vmsplice(b"some")
        assert ustack.splice(pipe, f, 100) == 4
        f.write(DATA)
        f.seek(4)
        assert ustack.splice(f, pipe, 1 << 20) == 65536
        assert f.tell() == 65540
        other.vmsplice(b"x" * 65530)
        assert ustack.splice(pipe, other, 100) == 6
        assert ustack.splice(pipe, other, 0) == 0
        with pytest.raises(BlockingIOError):
            ustack.splice(pipe, other, 100, flags=SPLICE_F_NONBLOCK)
        other.settimeout(0.001)
        with pytest.raises(TimeoutError):
            ustack.splice(pipe, other, 100)
        assert (len(pipe), len(other)) == (65530, 65536)


def test_flags_and_offsets():
    with PagePipe() as pipe, tempfile.TemporaryFile() as f, tempfile.TemporaryFile() as g:
        f.write(b"abc")
        f.seek(0)
        with refused(errno.ESPIPE):
            ustack.splice(pipe, g, 10, offset=0)
        for call in (ustack.splice, ustack.tee):
            with refused(errno.EINVAL):
                call(pipe, g, 10, flags=16)
        for call in (ustack.splice, ustack.tee):
            with refused(errno.EINVAL):
                call(pipe, pipe, 10)
        for call in (ustack.splice, ustack.tee):
            with pytest.raises(BlockingIOError):
                call(pipe, g, 10, flags=SPLICE_F_NONBLOCK)
        with pytest.raises(ValueError, match="wait=True"):
            ustack.splice(pipe, g, 10, flags=SPLICE_F_NONBLOCK, wait=False)
        assert ustack.splice(f, pipe, flags=SPLICE_F_NONBLOCK | SPLICE_F_MOVE | SPLICE_F_GIFT) == 3
        assert ustack.splice(pipe, g, flags=SPLICE_F_NONBLOCK) == 3


def test_other_ends_are_waited_for_whatever_the_flags():
    with two_stacks() as (near, far), connected(near, far) as (_, s), streams() as (x, y), PagePipe() as pipe:
        s.settimeout(0.001)
        y.settimeout(0.001)
        greeting = Background(y.recv, 1)        # so that x has somebody to send to
        for source, sink in ((s, x), (s, pipe)):
            with pytest.raises(TimeoutError):
                ustack.splice(source, sink, flags=SPLICE_F_NONBLOCK)
            with pytest.raises(TimeoutError):
                ustack.tee(source, sink, flags=SPLICE_F_NONBLOCK)
        with pytest.raises(TimeoutError):
            greeting.result(PATIENCE)
        with pytest.raises(TimeoutError):
            ustack.splice(y, pipe, flags=SPLICE_F_NONBLOCK)
        pipe.settimeout(None)
        with pytest.raises(BlockingIOError):
            ustack.splice(pipe, x, flags=SPLICE_F_NONBLOCK)


def test_the_flag_for_more_is_a_cork():
    with Lossy(lambda raw: False) as wire, PagePipe() as pipe:
        c, s = wire.connect()
        with c, s:
            s.setblocking(False)
            pipe.vmsplice(b"head, ")
            assert ustack.splice(pipe, c, 100, flags=SPLICE_F_MORE) == 6
            wire.carry()
            with pytest.raises(BlockingIOError):
                s.recv(100)
            pipe.vmsplice(b"body")
            assert ustack.splice(pipe, c, 100) == 4
            wire.carry()
            assert s.recv(100) == b"head, body"


def test_tee_gives_two_sinks_the_same_blocks():
    memory = pages(4)
    memory[:] = DATA[:4 * PAGE]
    with PagePipe() as a, PagePipe(size=2 * PAGE) as b:
        a.vmsplice(memory)
        assert ustack.tee(a, b) == 2 * PAGE, "what there is room for"
        assert (len(a), len(b)) == (4 * PAGE, 2 * PAGE)
        (one,), (two,) = a.take(PAGE), b.take(PAGE)
        assert one.address == two.address == at(memory)
        assert b.read() == DATA[PAGE:2 * PAGE]
        assert ustack.tee(a, b, 10) == 10
        assert b.read() == DATA[PAGE:PAGE + 10]
        assert copies(a) == {}
        del one, two
    memory.close()


def test_tee_to_what_is_no_pipe():
    with PagePipe() as pipe, tempfile.TemporaryFile() as f, streams() as (x, y):
        pipe.vmsplice(b"again")
        assert ustack.tee(pipe, f) == 5
        got = Background(read_all, y)
        assert ustack.tee(pipe, x.vi, 3) == 3
        assert ustack.splice(pipe, x, 100) == 5
        x.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == b"agaagain"
        assert os.pread(f.fileno(), 100, 0) == b"again"
        assert len(pipe) == 0


def test_tee_of_a_connection():
    with two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe() as pipe, streams() as (x, y):
        c.sendall(b"both")
        got = Background(y.recv, 100)
        assert ustack.tee(s, pipe) == 4
        assert ustack.tee(s, x) == 4
        assert pipe.read() == got.result(PATIENCE) == s.recv(100) == b"both"


def test_a_buffer_of_a_vi_is_lent_to_the_pipe():
    messages = [b"%d" % k * 9 for k in range(100)]
    with streams() as (x, y), PagePipe() as pipe:
        sending = Background(lambda: ([x.send(one) for one in messages], x.shutdown(socket.SHUT_WR)))
        got = b""
        while n := ustack.splice(y.vi, pipe, 5):
            assert n <= 5
            got += pipe.read()
        sending.result(PATIENCE)
        assert got == b"".join(messages)        # and each buffer was given back: there are but sixteen
        assert copies(pipe) == {"rx.copy": len(got)}


def test_a_job_goes_on_until_the_end():
    with two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe() as pipe, tempfile.TemporaryFile() as f:
        there = ustack.splice(s, pipe, wait=False, pass_end=True)
        on = ustack.splice(pipe, f, wait=False)
        c.sendall(DATA)
        c.shutdown(socket.SHUT_WR)
        assert there.wait(PATIENCE) == on.wait(PATIENCE) == len(DATA)
        assert os.pread(f.fileno(), 1 << 20, 0) == DATA


def test_a_job_that_is_cancelled_loses_nothing():
    with PagePipe(size=PAGE) as a, PagePipe(size=PAGE) as b:
        job = ustack.splice(a, b, wait=False)
        a.vmsplice(DATA[:PAGE])
        while len(b) < PAGE:
            pass
        a.vmsplice(DATA[PAGE:PAGE + 100])
        job.cancel()
        assert job.wait(PATIENCE) == PAGE
        assert b.read() + a.read() == DATA[:PAGE + 100]


def test_the_end_is_passed_on_when_it_is_there():
    with PagePipe() as a, PagePipe() as b:
        a.vmsplice(b"last")
        a.close_write()
        assert ustack.splice(a, b, 100, pass_end=True) == 4
        assert b.read() == b"last"
        with pytest.raises(BlockingIOError):
            b.take(flags=SPLICE_F_NONBLOCK)
        assert ustack.splice(a, b, 100, pass_end=True) == 0
        assert b.read() == b""


def test_a_sink_that_fails_leaves_the_bytes_in_the_pipe():
    with PagePipe() as pipe, PagePipe() as other:
        pipe.vmsplice(b"kept")
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb", buffering=0) as w, pytest.raises(BrokenPipeError):
            ustack.splice(pipe, w, 100)
        other.close_read()
        with pytest.raises(BrokenPipeError):
            ustack.splice(pipe, other, 100)
        assert pipe.read() == b"kept"


def test_threads_at_both_ends():
    """Four write, four read in different ways, two pipes in a row: every reference comes out once, whole."""
    with PagePipe(buffers=3, size=4 * PAGE) as a, PagePipe(buffers=5, size=2 * PAGE) as b:
        words = [b"%07d|" % k for k in range(4000)]
        lock = threading.Lock()
        got = []

        def write(mine):
            for word in mine:
                while not a.vmsplice(word):
                    pass

        def collect(take):
            while blocks := take():
                with lock:
                    got.extend(bytes(block) for block in blocks)

        moving = [ustack.splice(a, b, wait=False) for _ in range(2)]
        writers = [Background(write, words[k::4]) for k in range(4)]
        readers = [Background(collect, b.take) for _ in range(4)]
        for one in writers:
            one.result(PATIENCE)
        a.close_write()
        assert sum(job.wait(PATIENCE) for job in moving) == 8 * len(words)
        b.close_write()
        for one in readers:
            one.result(PATIENCE)
        assert sorted(got) == words


def test_what_was_read_to_its_end_by_a_connection():
    with two_stacks() as (near, far), connected(near, far) as (c, s), PagePipe() as pipe:
        filling = Background(fill_pages, pipe, DATA)
        got = Background(read_all, s)
        assert ustack.splice(pipe, c, pass_end=True) == len(DATA)
        filling.result(PATIENCE)
        assert got.result(PATIENCE) == DATA


def test_what_it_says_of_itself():
    with PagePipe(2, PAGE) as pipe:
        pipe.vmsplice(b"abc")
        assert repr(pipe) == "<ustack.PagePipe 1 of 2 references, 3 of 4096 bytes>"
    assert repr(pipe).endswith("closed>")
    with contextlib.suppress(OSError):
        pipe.close()
