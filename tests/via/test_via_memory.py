"""Registered memory: pinned, counted, protected."""

import ctypes
import gc
import mmap
import subprocess
import sys
import tempfile
import textwrap

import pytest

from ustack import via
from ustack.buffers import Region
from ustack.via import Status

PAGE = mmap.PAGESIZE
pins = pytest.mark.pins


def locked_pages() -> int:
    """VmLck of this process, in pages."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 // PAGE for line in status if line.startswith("VmLck"))


@pytest.fixture
def nic():
    with via.Nic() as one:
        yield one


def loop(nic, ptag, other=None, **more):
    """Two connected VIs of the NIC."""
    a, b = via.Vi(nic, ptag, **more), via.Vi(nic, other or ptag, **more)
    via.pair(a, b)
    return a, b


@pins
def test_registered_memory_is_pinned(nic):
    before = locked_pages()
    memory = nic.allocate(10 * PAGE, nic.ptag())
    memory.data[:] = bytes(len(memory))
    assert locked_pages() == before + 10
    memory.deregister()
    assert locked_pages() == before


@pins
def test_the_same_range_registered_twice_stays_pinned_until_both_are_gone(nic):
    before, ptag = locked_pages(), nic.ptag()
    region = Region(8 * PAGE)
    whole, again = nic.register(region, ptag), nic.register(region, ptag)
    part = nic.register(memoryview(region)[PAGE + 7:3 * PAGE + 9], ptag)
    assert len({whole.id, again.id, part.id}) == 3
    whole.deregister()
    assert locked_pages() == before + 8
    again.deregister()
    assert locked_pages() == before + 3
    assert via.pinned_bytes() == 3 * PAGE
    part.deregister()
    assert locked_pages() == before
    assert via.pinned_bytes() == 0


@pins
def test_a_nic_that_nobody_closed_unpins(nic):
    before = locked_pages()
    other = via.Nic()
    other.allocate(4 * PAGE, other.ptag())
    assert locked_pages() == before + 4
    del other
    gc.collect()
    assert locked_pages() == before


def test_memory_of_others_is_registered_and_cannot_be_resized_meanwhile(nic):
    data = bytearray(1000)
    memory = nic.register(data, nic.ptag())
    with pytest.raises(BufferError):
        data.append(1)
    assert not memory.shareable
    memory.deregister()
    data.append(1)


def test_what_cannot_be_registered(nic):
    ptag, foreign = nic.ptag(), via.Nic()
    with foreign:
        with pytest.raises(BufferError, match="read-only"):
            nic.register(b"constant", ptag)
        with pytest.raises(via.ViaError, match="0 bytes"):
            nic.register(bytearray(), ptag)
        with pytest.raises(via.ViaError, match="INVALID_PTAG"):
            nic.register(bytearray(8), foreign.ptag())
        with pytest.raises(TypeError):
            nic.register(5, ptag)
        with tempfile.TemporaryFile() as f:
            f.truncate(8192)
            with mmap.mmap(f.fileno(), 8192) as m, pytest.raises(via.ViaError, match="mapping of a file"):
                nic.register(m, ptag)


def test_deregistering_twice_is_an_error(nic):
    memory = nic.allocate(1, nic.ptag())
    memory.deregister()
    assert memory.id == 0
    with pytest.raises(via.ViaError, match="already"):
        memory.deregister()
    with pytest.raises(via.ViaError, match="deregistered"):
        memory.data  # noqa: B018


def test_the_table_has_a_bound(nic):
    ptag, data = nic.ptag(), bytearray(64)
    limit = nic.attributes()["MaxRegisterRegions"]
    many = [nic.register(data, ptag) for _ in range(limit)]
    with pytest.raises(via.ViaError, match=f"at most {limit}") as caught:
        nic.register(data, ptag)
    assert caught.value.code == via.Code.ERROR_RESOURCE
    many[7].deregister()
    assert nic.register(data, ptag).id != 0


def test_a_protection_tag_in_use_stays(nic):
    ptag = nic.ptag()
    memory = nic.allocate(1, ptag)
    with pytest.raises(via.ViaError, match="ERROR_RESOURCE"):
        ptag.destroy()
    memory.deregister()
    ptag.destroy()
    with pytest.raises(via.ViaError, match="INVALID_PTAG"):
        ptag.destroy()
    limit = nic.attributes()["MaxPtags"]
    tags = [nic.ptag() for _ in range(limit)]
    with pytest.raises(via.ViaError, match="at most"):
        nic.ptag()
    assert len(tags) == limit


MEMLOCK = """
    import ctypes, os, resource
    from ustack import via
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * 1024, 64 * 1024))
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)       # gives up CAP_IPC_LOCK
    with via.Nic() as nic:
        ptag = nic.ptag()
        nic.allocate(32 * 1024, ptag)
        try:
            nic.allocate(1 << 20, ptag)
        except via.ViaError as e:
            print(e.name, e)
        nic.allocate(16 * 1024, ptag)
        print(via.pinned_bytes())
"""


@pins
def test_exceeding_the_limit_of_locked_memory_is_said():
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(MEMLOCK)], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("\n")[:2]
    assert first.startswith("VIP_ERROR_RESOURCE")
    assert "RLIMIT_MEMLOCK is 65536 bytes" in first
    assert second == str(48 * 1024)


def post_and_take(a, b, descriptor, target):
    b.post_recv(target)
    a.post_send(descriptor)
    return a.send_done()


@pytest.mark.parametrize("case", ["behind", "before", "long", "huge", "stale", "unknown", "foreign tag"])
def test_memory_that_is_not_registered_is_never_touched(nic, case):
    ptag = nic.ptag()
    memory, other, room = nic.allocate(PAGE, ptag), nic.allocate(PAGE, nic.ptag()), nic.allocate(PAGE, ptag)
    gone = nic.allocate(PAGE, ptag)
    a, b = loop(nic, ptag, reliability=via.Reliability.UD)
    target = via.Descriptor(room, 0)
    target.set([(room, 1024, 64)])
    room.data[1024:1088] = b"\x55" * 64
    descriptor = via.Descriptor(memory, 0)
    named = {"foreign tag": other, "stale": gone}.get(case, memory)
    places = {"behind": (PAGE - 15, 16), "before": (-1, 16), "long": (PAGE, 1), "huge": (0, 16)}
    offset, length = places.get(case, (64, 16))
    if offset < 0:
        descriptor.set([(named, 0, length)])
        memory.data[32:40] = (memory.address - 1).to_bytes(8, "little")
    else:
        descriptor.set([(named, offset, length)])
    if case == "huge":                          # address + length would wrap around
        memory.data[32:40] = (2**64 - 8).to_bytes(8, "little")
    if case == "unknown":
        memory.data[40:44] = (0xDEADBEEF).to_bytes(4, "little")
    if case == "stale":
        gone.deregister()
        nic.allocate(PAGE, ptag)                # takes its place in the table
    sent = post_and_take(a, b, descriptor, target)
    assert sent.status == Status.DONE | Status.PROTECTION_ERROR
    assert b.recv_done() is None
    assert bytes(room.data[1024:1088]) == b"\x55" * 64
    assert "device.rx" not in nic.ledger()
    assert a.state == via.State.CONNECTED


@pytest.mark.parametrize("reliability", list(via.Reliability))
def test_a_receive_descriptor_of_a_foreign_tag_fails_when_it_is_posted(nic, reliability):
    ptag = nic.ptag()
    memory, other = nic.allocate(PAGE, ptag), nic.allocate(PAGE, nic.ptag())
    _a, b = loop(nic, ptag, reliability=reliability)
    target = via.Descriptor(memory, 0)
    target.set([(other, 0, 64)])
    b.post_recv(target)
    assert b.recv_done() is target
    assert target.status == Status.DONE | Status.PROTECTION_ERROR | Status.OP_RECEIVE
    assert (b.state == via.State.CONNECTED) == (reliability == via.Reliability.UD)


def test_a_descriptor_must_lie_aligned_in_memory_of_its_tag(nic):
    ptag = nic.ptag()
    memory, other = nic.allocate(PAGE, ptag), nic.allocate(PAGE, nic.ptag())
    _a, b = loop(nic, ptag)
    for bad in (via.Descriptor(memory, 32), via.Descriptor(other, 0)):
        bad.set([(memory, 0, 8)])
        with pytest.raises(via.ViaError, match="multiple of 64"):
            b.post_recv(bad)
    assert nic.errors() == [("POST_DESC", b.id)] * 2
    edge = via.Descriptor(memory, PAGE - 64)
    edge.set([(memory, 0, 1)] * 2)
    memory.data[PAGE - 64 + 12] = 3              # a third segment would lie behind the memory
    with pytest.raises(via.ViaError, match="multiple of 64"):
        b.post_recv(edge)
    with pytest.raises(ValueError, match="does not lie"):
        via.Descriptor(memory, PAGE)
    with pytest.raises(ValueError, match="no room"):
        via.Descriptor(memory, PAGE - 64).set([(memory, 0, 1)] * 3)


@pytest.mark.parametrize("reliability", list(via.Reliability))
@pytest.mark.parametrize("which", ["data", "descriptor"])
def test_deregistering_under_posted_descriptors_fails_them_and_never_touches_the_memory(nic, reliability, which):
    ptag = nic.ptag()
    libc = ctypes.CDLL(None, use_errno=True)
    freed = mmap.mmap(-1, PAGE)
    going, staying = nic.register(freed, ptag), nic.allocate(PAGE, ptag)
    a, b = loop(nic, ptag, reliability=reliability)
    target = via.Descriptor(going if which == "descriptor" else staying, 0)
    target.set([(staying if which == "descriptor" else going, 256, 64)])
    b.post_recv(target)
    address = going.address
    going.deregister()
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0) == 0       # any touch would be SIGSEGV
    assert b.recv_done() is target
    assert target.status & Status.PROTECTION_ERROR
    message = via.Descriptor(staying, 512)
    message.set([(staying, 1024, 64)])
    if reliability == via.Reliability.UD:
        a.post_send(message)
        assert not a.send_done().failed
        assert nic.stats()["via.recvq_empty"] == 1
    else:
        assert a.state == b.state == via.State.ERROR
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 3) == 0
    freed.close()


def test_unmapped_memory_is_not_looked_at_again(nic):
    ptag = nic.ptag()
    a, b = loop(nic, ptag, reliability=via.Reliability.UD)
    staying = nic.allocate(PAGE, ptag)
    for k in range(50):
        gone = mmap.mmap(-1, 4 * PAGE)
        memory = nic.register(gone, ptag)
        targets = [via.Descriptor(memory if (k + i) % 2 else staying, 64 * i) for i in range(4)]
        for i, d in enumerate(targets):
            d.set([(memory, 1024 * i + 512, 64)])
            b.post_recv(d)
        memory.deregister()
        gone.close()
        message = via.Descriptor(staying, 1024)
        message.set([(staying, 2048, 32)])
        a.post_send(message)
        assert a.send_done() is message
        assert [b.recv_done().status & Status.PROTECTION_ERROR for _ in targets] == [Status.PROTECTION_ERROR] * 4
