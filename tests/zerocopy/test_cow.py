"""send(cow=True): what was in the buffer at the time of the call is what arrives, whoever writes to it, and when."""

import contextlib
import errno
import mmap
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
from beds import PATIENCE, Lossy, connected, copied, lose_first, two_stacks
from helpers import Background

import ustack
from ustack import testbed
from ustack._core.py.cow import share_over_any_link
from ustack._core.py.probe_cow import alias, anything_protected

PAGE = mmap.PAGESIZE
MECHANISMS = ["userfaultfd", "mprotect"]


@pytest.fixture(params=MECHANISMS)
def mechanism(request):
    before = ustack.cow_mechanism()
    try:
        ustack.cow_mechanism(request.param)
    except OSError as e:
        pytest.skip(f"no {request.param}: {e}")
    yield request.param
    assert anything_protected() == (False, False)
    if before is not None:
        ustack.cow_mechanism(before)


@pytest.fixture
def any_link():
    share_over_any_link(True)
    yield
    share_over_any_link(False)


def memory(kind, pages, spare=None):
    """Writable memory of so many whole pages."""
    if kind == "file":
        return ustack.CowBuffer(pages * PAGE, spare=spare)
    flags = mmap.MAP_PRIVATE if kind == "private" else mmap.MAP_SHARED
    return mmap.mmap(-1, pages * PAGE, flags=flags | mmap.MAP_ANONYMOUS)


KINDS = ["file", "private", "shared"]


class Wire(Lossy):
    """A connection over a lossy wire on virtual time, and what the far end has received."""

    def __init__(self, share=0, **options):
        super().__init__(lose_first(share) if share else lambda raw: False, mtu=9000, **options)
        self.got = bytearray()

    def __enter__(self):
        self.c, self.s = self.connect()
        return self

    def __exit__(self, *exc):
        self.c.close()
        self.s.close()
        super().__exit__(*exc)

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            while part := self.s.recv(1 << 20):
                self.got += part

    def until(self, n):
        def there():
            self.receive()
            return len(self.got) >= n
        self.run(there)

    def settle(self):
        """Until everything is acknowledged."""
        self.run(lambda: not any(anything_protected()))

    def stats(self):
        return {k: v for k, v in self.stacks[0].stats().items() if k.startswith("cow.")}


def send_all(wire, view):
    """As sendall would on a blocking socket."""
    while len(view):
        try:
            n = wire.c.send(view, cow=True)
        except BlockingIOError:
            wire.run(lambda: (wire.receive(), bool(wire.c._events() & 4))[1])
            continue
        view = view[n:]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_sends_with_overwrites_over_a_lossy_wire(mechanism, any_link, kind):
    """4,000 sends for each mechanism and kind of memory, of anything from a part of a page to three pages and a bit."""
    rng = random.Random(f"{mechanism} {kind}")
    pages = 12
    buffer = memory(kind, pages)
    view = memoryview(buffer)
    noise = rng.randbytes(1 << 16)
    expected = bytearray()

    def scribble():
        n = rng.choice([1, 8, 256, 5000])
        where = rng.randrange(len(view) - n)
        at = rng.randrange(len(noise) - n)
        view[where:where + n] = noise[at:at + n]

    with Wire(17) as wire:
        for turn in range(4000):
            a = rng.randrange(pages) * PAGE + rng.choice([0, 0, 0, 1, 17, 4000])
            b = min(len(view), a + rng.choice([PAGE, 2 * PAGE, 3 * PAGE + 5, 5000, 100]))
            scribble()
            expected += view[a:b]
            send_all(wire, view[a:b])
            for _ in range(rng.randrange(3)):
                scribble()
            if turn % 8 == 7:
                wire.carry()
        wire.until(len(expected))
        assert bytes(wire.got) == bytes(expected)
        wire.settle()
        stats = wire.stats()
        assert stats["cow.pages"] > stats["cow.faults"] > 100
        assert stats["cow.nested"] > 100
        assert "tcp.retransmitted" in wire.stacks[0].stats()
    view.release()


# --- zero copies, and where they are ----------------------------------------------------------------------------------

def test_pages_that_are_not_written_to_are_not_copied(mechanism):
    """The far end of a link that passes packets by reference receives the very pages, seen through the alias."""
    buffer = ustack.CowBuffer(64 * PAGE)
    view = memoryview(buffer)
    view[:] = random.Random(1).randbytes(len(view))
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        assert c.send(buffer, cow=True) == len(view)
        blocks = []
        while sum(len(b) for b in blocks) < len(view):
            blocks += s.recv_buffers()
        at = 0
        for b in blocks:
            assert b.address == alias(buffer.address + at)[0]
            assert memoryview(b) == view[at:at + len(b)]
            at += len(b)
        assert copied(near) == copied(far) == {}
        assert buffer.shared == 64
        before = bytes(view[:PAGE])
        view[0] ^= 1                            # the receiver keeps what it was sent
        assert bytes(memoryview(blocks[0])[:PAGE]) == before
        assert copied(near) == {"cow.page": PAGE}
        assert alias(buffer.address)[1] == 64   # the application sees the first spare slot now
        del b, blocks
        c.sendall(b"x")                         # reaps
        s.recv(1)
        far.stats()
    view.release()
    assert buffer.shared == 0
    assert buffer.spare == 64


def frame_of(address):
    """The page frame that is mapped at an address (root only)."""
    with open("/proc/self/pagemap", "rb") as f:
        f.seek(address // PAGE * 8)
        return int.from_bytes(f.read(8), "little") & ((1 << 55) - 1)


@pytest.mark.root
def test_stack_and_application_have_the_same_page_frames_until_one_writes(mechanism):
    buffer = ustack.CowBuffer(4 * PAGE)
    view = memoryview(buffer)
    view[:] = b"a" * len(view)
    with Wire() as wire:
        wire.c.send(buffer, cow=True)
        theirs = [alias(buffer.address + k * PAGE)[0] for k in range(4)]
        before = [frame_of(buffer.address + k * PAGE) for k in range(4)]
        if before[0] == 0:
            pytest.skip("page frames are not shown here")
        view[2 * PAGE] = 1
        after = [frame_of(buffer.address + k * PAGE) for k in range(4)]
        assert [x == y for x, y in zip(before, after, strict=True)] == [True, True, False, True]
        wire.carry()                            # the stack has looked at its pages now
        assert [frame_of(at) for at in theirs] == before
        wire.until(4 * PAGE)
        wire.settle()
    assert bytes(wire.got) == b"a" * 4 * PAGE
    view.release()


# --- rules ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_one_page_sent_many_times(mechanism, any_link, kind):
    buffer = memory(kind, 2, 8)
    with Wire() as wire:
        expected = b""
        for letter in b"abc":
            memoryview(buffer)[:] = bytes([letter]) * 2 * PAGE
            for _ in range(3):
                expected += bytes(memoryview(buffer))
                assert wire.c.send(buffer, cow=True) == 2 * PAGE
        stats = wire.stats()
        assert stats["cow.pages"] == 18
        assert stats["cow.nested"] == 12
        assert stats["cow.faults"] == (4 if kind == "file" else 12)     # of the user's pages; of blocks
        wire.until(len(expected))
        assert bytes(wire.got) == expected
        wire.settle()


def test_less_than_a_page_and_what_is_beside_whole_pages_is_copied(mechanism):
    buffer = ustack.CowBuffer(4 * PAGE)
    view = memoryview(buffer)
    view[:] = random.Random(2).randbytes(len(view))
    with Wire() as wire:
        assert wire.c.send(view[1:PAGE], cow=True) == PAGE - 1
        assert wire.c.send(view[1:2 * PAGE - 1], cow=True) == 2 * PAGE - 2
        assert wire.c.send(b"", cow=True) == 0
        assert wire.stats() == {"cow.small": 2}
        assert wire.c.send(view[10:3 * PAGE + 5], cow=True) == 3 * PAGE - 5
        assert wire.stats() == {"cow.small": 2, "cow.pages": 2}
        assert wire.stacks[0].ledger()["tx.copy"][0] == 3 * PAGE - 3 + PAGE - 10 + 5
        expected = bytes(view[1:PAGE]) + bytes(view[1:2 * PAGE - 1]) + bytes(view[10:3 * PAGE + 5])
        view[:] = bytes(len(view))
        wire.until(len(expected))
        assert bytes(wire.got) == expected
        wire.settle()
    view.release()


def test_without_spare_pages_the_rest_is_copied(mechanism):
    buffer = ustack.CowBuffer(8 * PAGE, spare=3)
    view = memoryview(buffer)
    view[:] = random.Random(3).randbytes(len(view))
    with Wire() as wire:
        expected = bytes(view)
        assert wire.c.send(buffer, cow=True) == len(view)
        assert wire.stats() == {"cow.pages": 3, "cow.full": 1}
        assert (buffer.shared, buffer.spare) == (3, 0)
        view[:] = bytes(len(view))
        wire.until(len(expected))
        assert bytes(wire.got) == expected
        wire.settle()
        wire.c.send(b"x")
        assert buffer.spare == 3
    view.release()


def test_plain_memory_is_copied_for_a_link_that_keeps_packets(mechanism):
    m = memory("private", 2)
    with Wire() as wire:
        assert wire.c.send(m, cow=True) == 2 * PAGE
        assert wire.stats() == {"cow.kept": 1}
        m.resize(2 * PAGE)                      # nobody holds it
        assert wire.stacks[0].ledger()["tx.copy"][0] == 2 * PAGE
        wire.until(2 * PAGE)


def test_memory_that_is_read_only_is_copied_and_bytes_are_shared(mechanism, any_link):
    data = bytes(10 * PAGE)
    with Wire() as wire:
        assert wire.c.send(memoryview(bytearray(data)).toreadonly(), cow=True) == len(data)
        assert wire.stats() == {"cow.refused": 1}
        assert wire.c.send(data, cow=True) == len(data)
        assert wire.stats()["cow.pages"] >= 9
        wire.until(2 * len(data))
        assert bytes(wire.got) == 2 * data
        wire.settle()


def test_the_buffer_may_go_while_it_is_being_sent(mechanism, any_link):
    expected = b""
    with Wire() as wire:
        for kind in KINDS:
            m = memory(kind, 3)
            memoryview(m)[:] = kind[:1].encode() * 3 * PAGE
            expected += bytes(memoryview(m))
            wire.c.send(m, cow=True)
            if kind != "file":
                with pytest.raises(BufferError):
                    m.close()               # Python knows that it is in use
            del m
        wire.until(len(expected))
        assert bytes(wire.got) == expected
        wire.settle()


def test_a_bytearray_cannot_be_resized_before_it_is_acknowledged(mechanism, any_link):
    data = bytearray(64 * PAGE)
    with Wire() as wire:
        wire.c.send(data, cow=True)
        with pytest.raises(BufferError):
            data.append(1)
        wire.until(len(data))
        wire.settle()
        wire.c.send(b"x")
        data.append(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_that_is_closed_lets_go(mechanism, any_link, kind):
    m = memory(kind, 4)
    with Wire() as wire:
        wire.c.send(m, cow=True)
        assert any(anything_protected())
    assert anything_protected() == (False, False)
    memoryview(m)[:] = b"z" * 4 * PAGE


def test_sendall_flags_and_what_a_datagram_socket_says(mechanism):
    buffer = ustack.CowBuffer(3 * PAGE)
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        with Background_reader(s, 3 * PAGE + 5) as got:
            c.sendall(buffer, socket.MSG_MORE, cow=True)
            c.sendall(b"12345")
        assert got() == bytes(3 * PAGE) + b"12345"
        with near.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="not supported") as caught:
            udp.send(buffer, cow=True)
        assert caught.value.errno == errno.EOPNOTSUPP


@contextlib.contextmanager
def Background_reader(s, n):
    one = Background(s.recv, n, socket.MSG_WAITALL)
    yield lambda: one.result(PATIENCE)


def test_a_send_with_a_timeout_takes_what_there_is_room_for(mechanism):
    """Head, pages and tail, not the first of them alone; and waits for the first room only."""
    buffer = ustack.CowBuffer(40 * PAGE)
    view = memoryview(buffer)
    view[:] = random.Random(8).randbytes(len(view))
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        assert c.send(view[100:20 * PAGE - 100], cow=True) == 20 * PAGE - 200
        assert s.recv(20 * PAGE - 200, socket.MSG_WAITALL) == view[100:20 * PAGE - 100]
        expected = b""
        c.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while True:
                expected += view[100:100 + c.send(view[100:-100], cow=True)]
        assert len(expected) > len(view)
        assert s.recv(len(expected), socket.MSG_WAITALL) == expected
    view.release()


@pytest.mark.parametrize(("buffers", "faults"), [(1, True), (2, True), (8, False), (16, False)])
def test_buffers_in_turn(mechanism, buffers, faults):
    """Who sends from buffers in turn that are together more than twice the send buffer is never told, and never has a
    page copied: what is written to next was acknowledged before there was room for what came last."""
    size = 8 * PAGE
    ring = [ustack.CowBuffer(size) for _ in range(buffers)]
    expected = bytearray()
    with Wire() as wire:
        wire.c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
        for turn in range(100):
            with memoryview(ring[turn % buffers]) as view:
                view[:] = bytes([turn]) * size
                expected += view
                send_all(wire, view)
        wire.until(len(expected))
        assert bytes(wire.got) == bytes(expected)
        wire.settle()
        stats = wire.stats()
        assert (stats["cow.pages"] == 800) is ("cow.full" not in stats)
        assert (stats.get("cow.faults", 0) > 0) is faults


def test_a_mechanism_is_not_changed_while_pages_are_shared(mechanism):
    other = next(m for m in MECHANISMS if m != mechanism)
    buffer = ustack.CowBuffer(PAGE)
    with Wire() as wire:
        wire.c.send(buffer, cow=True)
        assert ustack.cow_mechanism() == mechanism
        with pytest.raises(OSError, match="busy") as caught:
            ustack.cow_mechanism(other)
        assert caught.value.errno == errno.EBUSY
        wire.until(PAGE)
        wire.settle()
    with pytest.raises(ValueError, match="mechanism is one of"):
        ustack.cow_mechanism("magic")


def test_sizes_of_buffers():
    for wrong in (0, -1, (64 << 20) + 1):
        with pytest.raises(ValueError, match="between 1 and"):
            ustack.CowBuffer(wrong)
    with pytest.raises(ValueError, match="spare"):
        ustack.CowBuffer(1, spare=-1)
    b = ustack.CowBuffer(100)
    assert (len(b), len(memoryview(b)), b.address % PAGE, b.shared, b.spare) == (100, 100, 0, 0, 1)
    big = ustack.CowBuffer(60 << 20)
    with pytest.raises(OSError, match="no CowBuffer") as caught:
        ustack.CowBuffer(5 << 20)
    assert caught.value.errno == errno.ENOSPC
    del big
    ustack.CowBuffer(5 << 20)


# --- other threads, the system ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_other_threads_write(mechanism, any_link, kind):
    """Two of them, to the same pages, while the stack sends: what was in the buffer at the call arrives."""
    pages, turns = 8, 60
    m = memory(kind, pages)
    view = memoryview(m)
    barrier = threading.Barrier(3)

    def writer(value):
        for _ in range(turns):
            barrier.wait(PATIENCE)
            for k in range(pages):
                view[k * PAGE + value] = value
            barrier.wait(PATIENCE)

    expected = b""
    with Wire() as wire:
        threads = [Background(writer, value) for value in (1, 2)]
        for turn in range(turns):
            view[:] = bytes([turn]) * len(view)
            expected += bytes(view)
            send_all(wire, view)
            barrier.wait(PATIENCE)          # the writers begin
            barrier.wait(PATIENCE)
            assert view[1] == 1
            assert view[PAGE + 2] == 2
            wire.until(len(expected))
        for one in threads:
            one.result(PATIENCE)
        assert bytes(wire.got) == expected
        wire.settle()
    view.release()


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_call_that_writes_to_a_shared_page(mechanism, any_link, kind):
    """userfaultfd sees to it as to any write; with mprotect it fails with EFAULT, and nothing is written."""
    m = memory(kind, 2)
    view = memoryview(m)
    view[:] = b"o" * len(view)
    reader, writer = os.pipe()
    os.write(writer, b"new")
    with Wire() as wire:
        wire.c.send(m, cow=True)
        if mechanism == "userfaultfd":
            assert os.readv(reader, [view[10:13]]) == 3
            assert view[10:13] == b"new"
        else:
            with pytest.raises(OSError, match="Bad address") as caught:
                os.readv(reader, [view[10:13]])
            assert caught.value.errno == errno.EFAULT
            assert view[10:13] == b"ooo"
        wire.until(len(view))
        assert bytes(wire.got) == b"o" * len(view)
        wire.settle()
        if mechanism == "mprotect":
            assert os.readv(reader, [view[10:13]]) == 3
    os.close(reader)
    os.close(writer)
    view.release()


@pytest.mark.parametrize("kind", KINDS)
def test_receiving_into_a_page_that_is_being_sent(mechanism, any_link, kind):
    m = memory(kind, 2)
    view = memoryview(m)
    view[:] = b"o" * len(view)
    with Wire() as wire:
        wire.s.send(b"new data")
        wire.carry()
        wire.c.send(m, cow=True)
        assert wire.c.recv_into(view[5:]) == 8
        assert view[5:13] == b"new data"
        wire.until(len(view))
        assert bytes(wire.got) == b"o" * len(view)
        wire.settle()
    view.release()


SCRIPT = """
import ctypes, faulthandler, mmap, os, signal, sys
sys.path[:0] = {paths!r}
import ustack
from test_cow import KINDS, PAGE, Wire, memory
from ustack._core.py.cow import share_over_any_link
from ustack._core.py.probe_cow import anything_protected
share_over_any_link(True)
try:
    ustack.cow_mechanism({mechanism!r})
except OSError:
    print("skip")
    sys.exit()
{body}
print("done")
"""


def run_script(mechanism, body):
    here = os.path.dirname(__file__)
    script = SCRIPT.format(paths=[here, os.path.dirname(here)], mechanism=mechanism, body=textwrap.dedent(body))
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    if done.stdout == "skip\n":
        pytest.skip(f"no {mechanism}")
    return done


def check_script(mechanism, body):
    done = run_script(mechanism, body)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr
    return done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MECHANISMS)
def test_fork(name, kind):
    """The child has plain memory, and its writes reach neither the stack nor, but for shared memory, the parent."""
    check_script(name, f"""
        m = memory({kind!r}, 4)
        view = memoryview(m)
        view[:] = b"p" * len(view)
        with Wire() as wire:
            wire.c.send(m, cow=True)
            child = os.fork()
            if child == 0:
                view[:] = b"c" * len(view)
                os._exit(0 if bytes(view) == b"c" * len(view) else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert bytes(view) == (b"c" if {kind!r} == "shared" else b"p") * len(view)
            view[:PAGE] = b"q" * PAGE
            wire.c.send(m, cow=True)
            second = bytes(view)
            view[:] = b"r" * len(view)
            wire.until(2 * len(view))
            assert bytes(wire.got) == b"p" * len(view) + second
            wire.settle()
        view.release()
    """)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_child_may_use_cow_itself(name):
    check_script(name, """
        old = ustack.CowBuffer(2 * PAGE)
        with Wire() as wire:
            wire.c.send(old, cow=True)
            child = os.fork()
            if child == 0:
                with Wire() as mine:
                    fresh = ustack.CowBuffer(2 * PAGE)
                    for b in (fresh, old):
                        mine.c.send(b, cow=True)
                        memoryview(b)[:] = b"x" * 2 * PAGE
                    mine.until(4 * PAGE)
                    assert bytes(mine.got) == bytes(4 * PAGE)
                    mine.settle()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            wire.until(2 * PAGE)
            assert bytes(wire.got) == bytes(2 * PAGE)
            wire.settle()
    """)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_buffer_that_is_unmapped_by_hand_is_sent_all_the_same(name):
    check_script(name, """
        libc = ctypes.CDLL(None, use_errno=True)
        b = ustack.CowBuffer(4 * PAGE)
        memoryview(b)[:] = b"m" * 4 * PAGE
        with Wire() as wire:
            wire.c.send(b, cow=True)
            assert libc.munmap(ctypes.c_void_p(b.address), ctypes.c_size_t(4 * PAGE)) == 0
            wire.until(4 * PAGE)
            assert bytes(wire.got) == b"m" * 4 * PAGE
            wire.settle()
    """)


def test_a_buffer_that_is_moved_by_hand_keeps_what_was_sent():
    """mremap(2): userfaultfd tells of it. (With mprotect the pages stay protected, and a write to them is fatal.)"""
    check_script("userfaultfd", """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mremap.restype = ctypes.c_void_p
        b = ustack.CowBuffer(4 * PAGE)
        memoryview(b)[:] = b"m" * 4 * PAGE
        with Wire() as wire:
            wire.c.send(b, cow=True)
            room = mmap.mmap(-1, 4 * PAGE)
            there = ctypes.addressof(ctypes.c_char.from_buffer(room))
            moved = libc.mremap(ctypes.c_void_p(b.address), ctypes.c_size_t(4 * PAGE), ctypes.c_size_t(4 * PAGE),
                                3, ctypes.c_void_p(there))      # MREMAP_MAYMOVE | MREMAP_FIXED
            assert moved == there
            ctypes.memset(there, 120, 4 * PAGE)
            wire.until(4 * PAGE)
            assert bytes(wire.got) == b"m" * 4 * PAGE
            wire.settle()
    """)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("when", ["never", "before", "after"])
def test_faults_of_others_stay_theirs(name, when):
    """A program that has a fault of its own dies of it, with faulthandler's report; ours are not reported."""
    done = run_script(name, f"""
        if {when!r} == "before":
            faulthandler.enable()
        b = ustack.CowBuffer(2 * PAGE)
        with Wire() as wire:
            wire.c.send(b, cow=True)
            if {when!r} == "after":
                faulthandler.enable()
            wire.c.send(b, cow=True)
            memoryview(b)[:] = b"x" * 2 * PAGE
            wire.until(4 * PAGE)
            assert bytes(wire.got) == bytes(4 * PAGE)
            wire.settle()
        print("alive", flush=True)
        mine = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
        address = int(next(line for line in open("/proc/self/maps") if " r--s " in line).split("-")[0], 16)
        ctypes.memset(address, 1, 1)
    """)
    assert done.stdout == "alive\n", done.stdout + done.stderr
    assert done.returncode == -11
    assert ("Fatal Python error: Segmentation fault" in done.stderr) == (when != "never")
    assert done.stderr.count("Fatal") <= 1


@pytest.mark.root
def test_where_userfaultfd_is_refused_mprotect_is_used():
    check_script("mprotect", """
        if open("/proc/sys/vm/unprivileged_userfaultfd").read().strip() == "0":
            child = os.fork()
            if child == 0:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                try:
                    ustack.cow_mechanism("userfaultfd")
                    os._exit(2)
                except OSError:
                    os._exit(0 if ustack.cow_mechanism() == "mprotect" else 3)
            assert os.waitpid(child, 0)[1] == 0
    """)


# --- a real wire ------------------------------------------------------------------------------------------------------

@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("kind", KINDS)
def test_to_linux_over_a_tap(mechanism, kind):
    """No copy by a CPU but of pages that were written to in time."""
    pages, turns = 32, 40
    rng = random.Random(5)
    m = memory(kind, pages)
    view = memoryview(m)
    expected = bytearray()
    with testbed.over_tap() as bed, ustack.Stack() as net:
        net.add_interface(bed.link, addresses=[bed.address])
        with bed.peer.socket() as listener:
            listener.bind((bed.peer_ip, 0))
            listener.listen()
            with net.create_connection(listener.getsockname()) as c:
                s, _ = listener.accept()
                with s:
                    s.settimeout(PATIENCE)
                    c.settimeout(PATIENCE)

                    def read_to_the_end():
                        got = bytearray()
                        while part := s.recv(1 << 20):
                            got += part
                        return bytes(got)

                    reading = Background(read_to_the_end)
                    for _ in range(turns):
                        view[:] = rng.randbytes(len(view))
                        expected += view
                        c.sendall(m, cow=True)
                        for _ in range(4):
                            view[rng.randrange(len(view))] ^= 255
                    c.shutdown(socket.SHUT_WR)
                    assert reading.result(PATIENCE) == bytes(expected)
                    stats = net.stats()
                    assert stats["cow.pages"] + stats.get("cow.full", 0) * pages >= pages * turns
                    names = set(copied(net)) - {"cow.page"}
                    if "cow.full" not in stats:
                        assert names <= set()
    view.release()
    del m
