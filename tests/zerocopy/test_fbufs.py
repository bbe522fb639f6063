"""Fbufs within one process: ownership, protection, aggregates, limits, early demultiplexing, message blocks."""

import contextlib
import gc
import mmap
import os
import socket
import struct

import pytest
from beds import connected, read_all
from dark import copied_out, dark_stacks
from helpers import Background, in_thread
from hypothesis import given
from hypothesis import strategies as st

import ustack
from ustack import buffers, fbufs
from ustack._core.py.probe_shm import protect

PATIENCE = 60
KINDS = ["protected", "strict", "volatile"]


@pytest.fixture
def ends():
    a, b = fbufs.pair()
    with a, b:
        yield a, b


def test_what_is_sent_is_read_in_place(ends):
    a, b = ends
    pool = fbufs.Pool(5000, 4)
    assert pool.size == 8192
    f = pool.alloc(5)
    f.write(b"hello")
    before = fbufs.fbuf_ledger()
    a.send(f)
    got = b.recv(PATIENCE)
    assert bytes(got.data) == b"hello"
    assert fbufs.fbuf_ledger() == before
    assert got.received
    assert got.place == (0, 0)
    with pytest.raises(BufferError, match="only be read"):
        got.write(b"x")
    assert memoryview(got).readonly
    assert pool.free == 3
    got.free()
    assert pool.free == 4


def test_a_volatile_buffer_is_the_same_memory_for_both(ends):
    a, b = ends
    f = fbufs.Pool(4096, kind="volatile").alloc()
    a.send(f, keep=True)
    got = b.recv(PATIENCE)
    f.data[:3] = b"new"
    assert bytes(got.data[:3]) == b"new"
    assert not got.secured
    asking = Background(b.secure, got, PATIENCE)
    for _ in range(PATIENCE * 100):
        if got.secured:
            break
        with pytest.raises(TimeoutError):   # the producer answers when it next uses its channel
            a.recv(0.01)
    asking.result(PATIENCE)
    assert got.secured
    assert not got.sealed


def test_an_fbuf_that_was_sent_is_lost(ends):
    a, _ = ends
    f = fbufs.Pool(4096, 2).alloc()
    view = f.data
    a.send(f)
    assert f.lost
    with pytest.raises(ValueError, match="released"):
        view[0]
    for use in (lambda: f.data, lambda: f.write(b""), f.free, lambda: a.send(f), lambda: f.window(0, 1),
                lambda: f.address, lambda: memoryview(f)):
        with pytest.raises((fbufs.FbufLost, BufferError)):
            use()


def test_exports_that_are_alive_keep_it_ours(ends):
    a, b = ends
    f = fbufs.Pool(4096, 2).alloc()
    held = memoryview(f)
    with pytest.raises(BufferError, match="alive"):
        a.send(f)
    held[:2] = b"ok"
    held.release()
    a.send(f)
    assert bytes(b.recv(PATIENCE).data[:2]) == b"ok"


@pytest.mark.parametrize("kind", KINDS)
def test_a_send_that_fails_leaves_it_ours(kind):
    a, b = fbufs.pair()
    pool = fbufs.Pool(4096, 2, kind=kind)
    f = pool.alloc()
    b.close()
    a.close()
    with pytest.raises(ConnectionError):
        a.send(f)
    f.write(b"still mine")
    f.free()
    assert pool.free == 2


@pytest.mark.parametrize(("reuse", "order"), [("oldest", [0, 1, 2, 3] * 5), ("latest", [0] * 20)])
def test_which_of_the_buffers_that_came_back_is_used_next(ends, reuse, order):
    a, b = ends
    pool = fbufs.Pool(4096, 4, reuse=reuse)
    places = []
    for _ in order:
        f = pool.alloc()
        places.append(f.place[0])
        a.send(f)
        b.recv(PATIENCE).free()
    assert places == order


@given(st.lists(st.sampled_from(["take", "free", "send", "return"]), max_size=60))
def test_a_pool_is_a_line_in_which_what_was_not_sent_stands_first(steps):
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(end) for end in fbufs.pair())
        pool = fbufs.Pool(4096, 5)
        line, ours, theirs = list(range(5)), [], []
        for step in steps:
            if step == "take" and line:
                ours.append(pool.alloc())
                assert ours[-1].place[0] == line.pop(0)
            elif step == "free" and ours:
                f = ours.pop()
                line.insert(0, f.place[0])
                f.free()
            elif step == "send" and ours:
                a.send(ours.pop(0))
                theirs.append(b.recv(PATIENCE))
            elif step == "return" and theirs:
                f = theirs.pop()
                line.append(f.place[0])
                f.free()
            assert pool.free == len(line)
        while line:
            ours.append(pool.alloc())
            assert ours[-1].place[0] == line.pop(0)


@pytest.mark.parametrize(("kind", "protects"), [("volatile", 0), ("protected", 2), ("strict", 2)])
def test_what_protection_costs(ends, kind, protects):
    a, b = ends
    pool = fbufs.Pool(4096, 2, kind=kind, reuse="latest")
    for _ in range(10):
        a.send(pool.alloc())
        b.recv(PATIENCE).free()
    pool.alloc()
    assert pool.protects == 10 * protects


def test_a_strict_buffer_cannot_be_looked_at_while_it_is_away(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2, kind="strict")
    f = pool.alloc()
    a.send(f, keep=True)
    with pytest.raises(fbufs.FbufLost, match="strict"):
        memoryview(f)
    b.send(b.recv(PATIENCE))                # it comes back; our window is still on it
    with a.recv(PATIENCE) as back:
        assert memoryview(back).readonly
        f.free()


def test_one_that_is_used_once_is_sealed_by_the_kernel(ends):
    a, b = ends
    pool = fbufs.Pool(4096, once=True)
    f = pool.alloc()
    f.write(b"for ever")
    a.send(f)
    with b.recv(PATIENCE) as got:
        assert got.sealed
        assert got.secured
        assert bytes(got.data[:8]) == b"for ever"
    with pytest.raises(MemoryError):
        pool.alloc(timeout=0)


def memory_files() -> set[int]:
    """Descriptors of this process that are memory files."""
    found = set()
    for n in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):            # that of the listing itself
            if os.readlink(f"/proc/self/fd/{n}").startswith("/memfd:"):
                found.add(int(n))
    return found


@pytest.mark.parametrize("once", [False, True])
def test_whoever_gets_the_file_cannot_map_it_for_writing(ends, once):
    a, b = ends
    before = memory_files()
    pool = fbufs.Pool(8192, once=once)
    files = sorted(memory_files() - before)
    assert len(files) == 1
    a.send(pool.alloc())
    got = b.recv(PATIENCE)
    with pytest.raises(PermissionError):
        mmap.mmap(files[0], 8192)
    with pytest.raises(PermissionError):
        os.ftruncate(files[0], 4096)
    with mmap.mmap(files[0], 8192, prot=mmap.PROT_READ) as m:
        assert m[:1] == b"\0"
    got.free()


def test_what_was_received_can_be_sent_back_as_it_is(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    f = pool.alloc()
    f.write(b"ping")
    a.send(f)
    got = b.recv(PATIENCE)
    got.trim(1, 4)
    b.send(got)
    back = a.recv(PATIENCE)
    assert not back.received
    assert bytes(back.data) == b"ing"
    back.write(b"our")                      # nobody else has it: it is ours to write
    back.free()
    assert pool.free == 2
    assert a.stats()["lent"] == b.stats()["held"] == 0


def test_a_part_of_what_was_received_can_be_sent_back_while_the_rest_is_kept(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    f = pool.alloc()
    f.write(b"headbody")
    a.send(f)
    got = b.recv(PATIENCE)
    part = got.window(4, 8)
    b.send(part)
    back = a.recv(PATIENCE)
    assert bytes(back.data) == b"body"
    assert memoryview(back).readonly
    assert bytes(got.data[:4]) == b"head"
    got.free()
    assert pool.free == 1
    back.free()
    b.collect()                             # its return goes the way it came: by way of the one that passed it on
    assert pool.free == 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_received_can_be_passed_on(kind):
    (a, b), (c, d) = fbufs.pair(), fbufs.pair()
    with a, b, c, d:
        pool = fbufs.Pool(4096, 2, kind=kind)
        f = pool.alloc()
        f.write(b"onward")
        a.send(f)
        c.send(b.recv(PATIENCE))
        got = d.recv(PATIENCE)
        assert bytes(got.data[:6]) == b"onward"
        with pytest.raises(PermissionError, match="passed on"):
            d.secure(got)
        assert pool.free == 1
        got.free()
        c.collect()
        assert pool.free == 2


def test_a_pool_can_forbid_that_it_is_passed_on():
    (a, b), (c, d) = fbufs.pair(), fbufs.pair()
    with a, b, c, d:
        pool = fbufs.Pool(4096, 2, forward=False)
        a.send(pool.alloc())
        got = b.recv(PATIENCE)
        with pytest.raises(PermissionError, match="passed on"):
            c.send(got)
        assert not got.lost
        b.send(got)                         # back to where it came from is allowed
        a.recv(PATIENCE).free()
        assert pool.free == 2


def test_one_buffer_for_many(ends):
    a, b = ends
    c, d = fbufs.pair()
    with c, d:
        pool = fbufs.Pool(4096, 2)
        f = pool.alloc()
        f.write(b"all")
        a.send(f, keep=True)
        c.send(f, keep=True)
        with pytest.raises(BufferError):
            f.write(b"no")
        f.free()
        for end in (b, d):
            assert pool.free == 1
            with end.recv(PATIENCE) as got:
                assert bytes(got.data[:3]) == b"all"
        assert pool.free == 2


# --- messages of several windows --------------------------------------------------------------------------------------

def test_an_aggregate_is_one_message(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 8)
    head, body = pool.alloc(4), pool.alloc(6)
    head.write(b"head")
    body.write(b"abcdef")
    message = fbufs.Aggregate([body])
    message.prepend(head)
    tail = message.split(7)
    a.send(message)
    a.send(tail)
    assert len(message) == 0
    got = b.recv(PATIENCE)
    assert b"".join(got.views()) == b"headabc"
    rest = b.recv(PATIENCE)
    assert bytes(rest.data) == b"def"
    copied = fbufs.fbuf_ledger().get("rx.copy", (0, 0))[0]
    assert got.contiguous() == b"headabc"
    assert fbufs.fbuf_ledger()["rx.copy"][0] == copied + 7
    got.free()
    assert pool.free == 7                   # the second window on `body` is still out
    rest.free()
    assert pool.free == 8


@given(st.lists(st.tuples(st.sampled_from(["append", "prepend", "split", "join"]), st.integers(0, 40)), max_size=12))
def test_edits_of_aggregates_are_those_of_bytes(edits):
    pool = fbufs.Pool(4096, 64)
    message, model = fbufs.Aggregate(), b""
    kept, kept_model = fbufs.Aggregate(), b""
    for i, (edit, n) in enumerate(edits):
        data = bytes([65 + i]) * n
        if edit in ("append", "prepend"):
            f = pool.alloc(n)
            f.write(data)
            getattr(message, edit)(f)
            model = model + data if edit == "append" else data + model
        elif edit == "split":
            at = min(n, len(message))
            kept.append(message.split(at))
            model, kept_model = model[:at], kept_model + model[at:]
        else:
            message.append(kept)
            model, kept_model = model + kept_model, b""
        assert b"".join(message.views()) == model
        assert b"".join(kept.views()) == kept_model
    message.free()
    kept.free()
    assert pool.free == 64


# --- limits -----------------------------------------------------------------------------------------------------------

def test_an_empty_pool_waits_for_what_is_out(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    a.send(pool.alloc())
    a.send(pool.alloc())
    with pytest.raises(BlockingIOError):
        pool.alloc(timeout=0)
    with pytest.raises(TimeoutError):
        pool.alloc(timeout=0.01)
    waiting = Background(pool.alloc)
    got = b.recv(PATIENCE)
    got.free()
    assert waiting.result(PATIENCE).place == (0, 0)


def test_an_empty_pool_that_nothing_comes_home_to_says_so():
    pool = fbufs.Pool(4096, 2)
    held = [pool.alloc(), pool.alloc()]
    with pytest.raises(MemoryError, match="all 2 buffers"):
        pool.alloc()
    held.clear()
    pool.alloc().free()


def test_a_hoarder_meets_back_pressure(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 600)
    for _ in range(512):
        a.send(pool.alloc(), timeout=0)
    f = pool.alloc()
    with pytest.raises(BlockingIOError, match="not given back"):
        a.send(f, timeout=0)
    assert not f.lost
    hoard = [b.recv(0) for _ in range(512)]
    with pytest.raises(TimeoutError):
        a.send(f, timeout=0.01)
    waiting = Background(a.send, f)
    hoard.pop().free()
    waiting.result(PATIENCE)
    hoard.clear()
    gc.collect()
    b.recv(PATIENCE).free()
    assert pool.free == 600


def test_a_message_that_nobody_takes_does_not_keep_others_from_giving_up(ends):
    """Who waits for room, or for a buffer, does not look at what came."""
    a, b = ends
    theirs, ours = fbufs.Pool(4096, 600), fbufs.Pool(4096, 1)
    b.send(theirs.alloc())
    a.send(ours.alloc())
    for _ in range(511):
        a.send(theirs.alloc())
    f = theirs.alloc()
    for call in (lambda: ours.alloc(timeout=0.01), lambda: a.send(f, timeout=0.01)):
        with pytest.raises(TimeoutError):
            Background(call).result(PATIENCE)
    assert a.recv(0).free() is None


@pytest.mark.parametrize("how", ["closes", "hangs up"])
def test_the_end_of_the_other_side_ends_waiting(how):
    """For a buffer: it is home. For room: there will be none. What came before is still to be had."""
    if how == "closes":
        a, b = fbufs.pair()
        end = b.close
    else:                                   # as when its process was killed
        mine, theirs = socket.socketpair()
        opened = Background(fbufs.Channel, mine)
        b = fbufs.Channel(theirs.dup())
        a = opened.result(PATIENCE)

        def end():
            theirs.shutdown(socket.SHUT_RDWR)
            theirs.close()
    with a, b:
        pool, other = fbufs.Pool(4096, 1), fbufs.Pool(4096, 600)
        b.send(other.alloc(3))
        a.send(pool.alloc())
        waiting = Background(pool.alloc)
        end()
        assert waiting.result(PATIENCE).place == (0, 0)
        assert len(a.recv(0)) == 3
        assert a.recv(0) is None
    a, b = fbufs.pair()
    with a, b:
        for _ in range(512):
            a.send(other.alloc())
        f = other.alloc()
        waiting = Background(a.send, f)
        b.close()
        with pytest.raises(ConnectionResetError):
            waiting.result(PATIENCE)
        assert not f.lost


def test_a_producer_that_is_gone_does_not_answer(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    a.send(pool.alloc())
    a.send(pool.alloc(5))
    f = b.recv(PATIENCE)
    asking = Background(b.secure, f, PATIENCE)
    a.close()
    with pytest.raises(ConnectionResetError, match="gone"):
        asking.result(PATIENCE)
    assert len(b.recv(0)) == 5
    assert b.recv(0) is None


def test_a_channel_that_another_thread_closes_ends_waiting(ends):
    a, b = ends
    waiting = Background(a.recv)
    assert not waiting._thread.join(0.02)
    a.close()
    assert waiting.result(PATIENCE) is None
    assert b.recv(PATIENCE) is None


@pytest.mark.parametrize("how", ["freed", "looked at"])
def test_an_fbuf_that_changes_while_its_sender_waits_for_room(ends, how):
    a, b = ends
    pool = fbufs.Pool(4096, 600)
    for _ in range(512):
        a.send(pool.alloc())
    f = pool.alloc()
    waiting = Background(a.send, f)
    waiting._thread.join(0.02)              # it may not have come so far: then it says the same
    if how == "freed":
        f.free()
    else:
        view = memoryview(f)
    b.recv(PATIENCE).free()
    if how == "freed":
        with pytest.raises(fbufs.FbufLost):
            waiting.result(PATIENCE)
    else:
        with view, pytest.raises(BufferError, match="alive"):
            waiting.result(PATIENCE)
    assert a.stats()["lent"] <= 512


def test_regions_of_pools_that_are_used_once_make_room_for_others(ends):
    a, b = ends
    for i in range(600):                    # more than a channel can know at a time
        f = fbufs.Pool(4096, once=True).alloc(8)
        f.write(struct.pack("<Q", i))
        a.send(f)
        with b.recv(PATIENCE) as got:
            assert struct.unpack("<Q", got.data) == (i,)
    a.collect()
    assert a.stats()["lent"] == 0


def test_too_many_pools_for_a_channel(ends):
    a, b = ends
    pools = [fbufs.Pool(4096, 1) for _ in range(257)]
    for pool in pools[:256]:
        a.send(pool.alloc())
        b.recv(PATIENCE).free()
    f = pools[256].alloc()
    with pytest.raises(OSError, match="as many pools"):
        a.send(f)
    f.write(b"ours")


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 4096, "count": 0}, {"size": 4096, "count": 65537},
                                       {"size": 1 << 20, "count": 1 << 10}, {"size": 4096, "kind": "nice"},
                                       {"size": 4096, "count": 2, "once": True}])
def test_pools_that_cannot_be(arguments):
    with pytest.raises(ValueError, match=r"pool"):
        fbufs.Pool(**arguments)


def test_what_is_not_an_fbuf_is_not_sent(ends):
    for wrong in (None, b"bytes", 5):
        with pytest.raises(TypeError, match="an Fbuf or an Aggregate"):
            ends[0].send(wrong)


def test_sockets_that_make_no_channel():
    """Said at once, rather than when the other side has not answered for ten seconds."""
    for family, kind in ((socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)):
        with socket.socket(family, kind) as s, pytest.raises(ValueError, match="UNIX socket"):
            fbufs.Channel(s)
    with pytest.raises(ValueError, match="UNIX socket"):
        fbufs.Channel(None)


def test_windows_that_cannot_be(ends):
    f = fbufs.Pool(4096).alloc(100)
    for start, stop in [(-1, 5), (5, 4), (0, 101)]:
        with pytest.raises(ValueError, match="not within"):
            f.window(start, stop)
        with pytest.raises(ValueError, match="not within"):
            f.trim(start, stop)
    with pytest.raises(ValueError, match="do not fit"):
        f.write(b"x" * 60, 41)
    with pytest.raises(ValueError, match="no window"):
        ends[0].send(fbufs.Aggregate())


# --- ends -------------------------------------------------------------------------------------------------------------

def test_the_end_comes_after_what_was_sent(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 4)
    a.send(pool.alloc(3))
    a.close()
    got = b.recv(PATIENCE)
    assert len(got) == 3
    assert b.recv(PATIENCE) is None
    assert pool.free == 4                   # closing brought it home ...
    assert len(bytes(got.data)) == 3        # ... and it can still be read, as what it has become
    got.free()
    with pytest.raises(ConnectionError):
        b.send(pool.alloc())


def test_nothing_to_receive(ends):
    with pytest.raises(BlockingIOError):
        ends[1].recv(0)
    with pytest.raises(TimeoutError):
        ends[1].recv(0.01)


def test_nobody_at_the_other_end():
    ours, theirs = socket.socketpair()
    with theirs, ours, pytest.raises(TimeoutError, match="did not open"):
        fbufs.Channel(ours, timeout=0.01)


def test_nothing_is_left_open():
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        a, b = fbufs.pair()
        pool = fbufs.Pool(4096, 4)
        a.send(pool.alloc())
        kept = b.recv(PATIENCE)
        a.send(pool.alloc())
        b.send(kept.window(0, 1))
        del a, b, pool, kept
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_process_cannot_use_its_parents():
    a, b = fbufs.pair()
    with a, b:
        pool = fbufs.Pool(4096, 4)
        mine = pool.alloc()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for use in (pool.alloc, lambda: a.send(mine), lambda: b.recv(0)):
                    try:
                        use()
                        code = 2
                        break
                    except RuntimeError:
                        code = 0
                if memoryview(mine).readonly is False:
                    code = 3
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        mine.write(b"still")
        a.send(mine)
        assert bytes(b.recv(PATIENCE).data[:5]) == b"still"


# --- drivers ----------------------------------------------------------------------------------------------------------

def udp(dst: str, dport: int, src: str = "10.0.0.9", sport: int = 7, *, offset: int = 0) -> bytes:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 1, offset, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
    return ip + struct.pack(">HHHH", sport, dport, 8, 0)


def udp6(dst: str, dport: int) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::9") + socket.inet_pton(socket.AF_INET6, dst)
    return struct.pack(">IHBB", 6 << 28, 8, 17, 64) + addresses + struct.pack(">HHHH", 7, dport, 8, 0)


def test_a_packet_goes_into_its_readers_pool():
    default, any_host, one_host, one_flow, six = (fbufs.Pool(4096, 2) for _ in range(5))
    demux = fbufs.Demux(default)
    demux.add(any_host, "udp", ("", 53))
    demux.add(one_host, "udp", ("10.0.0.1", 53))
    demux.add(one_flow, "udp", ("10.0.0.1", 53), ("10.0.0.9", 99))
    demux.add(six, "udp", ("fd00::1", 53))
    for packet, pool in [(udp("10.0.0.2", 53), any_host), (udp("10.0.0.1", 53), one_host),
                         (udp("10.0.0.1", 53, sport=99), one_flow), (udp6("fd00::1", 53), six),
                         (udp6("fd00::2", 53), any_host), (udp("10.0.0.1", 54), default),
                         (udp("10.0.0.1", 53, offset=5), default), (udp("10.0.0.1", 53)[:24], default), (b"", default),
                         (b"\x45", default)]:
        assert demux.pool_for(packet) is pool
    assert (demux.matched, demux.unmatched) == (5, 5)
    with pytest.raises(ValueError, match="pool already"):
        demux.add(six, "udp", ("10.0.0.1", 53))
    demux.remove("udp", ("10.0.0.1", 53))
    assert demux.pool_for(udp("10.0.0.1", 53)) is any_host
    held = [fbufs.uf_allocb(demux, udp("10.0.0.2", 53), 100) for _ in range(2)]
    with pytest.raises((BlockingIOError, MemoryError)):
        fbufs.uf_allocb(demux, udp("10.0.0.2", 53), 100)
    assert [len(f) for f in held] == [100, 100]


def test_the_solaris_names(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    f = fbufs.uf_get(pool, 5)
    f.write(b"names")
    assert fbufs.uf_write(a, f) == 5
    got = fbufs.uf_read(b)
    assert bytes(got.data) == b"names"
    fbufs.uf_free(got)
    assert pool.free == 2


def test_an_fbuf_passes_through_code_for_message_blocks(ends):
    a, b = ends
    pool = fbufs.Pool(4096, 2)
    f = pool.alloc(100)
    f.write(bytes(range(100)))
    a.send(f)
    m = b.recv(PATIENCE).mblk()
    d = buffers.dupb(m)
    assert buffers.adjmsg(d, 10)
    assert buffers.adjmsg(d, -10)
    assert bytes(d) == bytes(range(10, 90))
    head = buffers.copyb(m)
    buffers.linkb(head, d)
    assert buffers.msgdsize(head) == 180
    assert buffers.msgcopyout(head, 95, 10) == bytes([*range(95, 100), *range(10, 15)])
    buffers.freeb(m)
    assert pool.free == 1
    buffers.freemsg(head)
    gc.collect()
    assert pool.free == 2


# --- over a stack -----------------------------------------------------------------------------------------------------

def test_what_another_process_produced_goes_out_over_tcp_without_being_looked_at(ends):
    a, b = ends
    pool = fbufs.Pool(65536, 8)
    sent = bytearray()
    with dark_stacks() as (near, far), connected(near, far) as (c, s), in_thread(read_all, s) as got:
        for i in range(40):
            f = pool.alloc(timeout=PATIENCE)
            f.write(bytes([i]) * 65536)
            sent += f.data
            a.send(f)
            with b.recv(PATIENCE) as received:
                with ustack.register(received) as known:
                    assert known.pinned                     # else its pages would be looked after
                    protect(known.address, 65536, "none")   # whoever reads it here dies of SIGSEGV
                    c.sendall(received, direct=True)
                    protect(known.address, 65536, "read")
        assert copied_out(near) == {}
        c.close()
        assert got.result(PATIENCE) == sent
    assert pool.free == 8
