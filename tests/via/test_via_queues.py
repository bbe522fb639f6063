"""Posting, matching, completing: one process, the loopback provider."""

import mmap
import threading

import pytest
from helpers import in_thread
from hypothesis import given
from hypothesis import strategies as st

from ustack import via
from ustack.via import Reliability, State, Status

PAGE = mmap.PAGESIZE
LEVELS = list(Reliability)


@pytest.fixture
def nic():
    with via.Nic() as one:
        yield one


def couple(nic, ptag, **more):
    a, b = via.Vi(nic, ptag, **more), via.Vi(nic, ptag, **more)
    via.pair(a, b)
    return a, b


def drain(vi, is_recv):
    """Everything that is posted to a queue, oldest first."""
    taken = []
    while True:
        try:
            taken.append(vi.recv_done() if is_recv else vi.send_done())
        except via.ViaError as e:
            if e.code != via.Code.DESCRIPTOR_ERROR:
                raise
            return taken


@pytest.mark.parametrize("reliability", LEVELS)
def test_the_kth_message_meets_the_kth_receive_descriptor(nic, reliability):
    ptag = nic.ptag()
    a, b = couple(nic, ptag, reliability=reliability)
    source, target = via.buffers(nic, ptag, 100, 20), via.buffers(nic, ptag, 100, 20)
    for buffer in target:
        b.post_recv(buffer)
    assert b.recv_done() is None
    for k, buffer in enumerate(source):
        buffer.copy_in(bytes([k]) * k, immediate=k if k % 2 else None)
        a.post_send(buffer)
    for k in range(20):
        assert a.send_done() is source[k]
        got = b.recv_done()
        assert got is target[k]
        assert got.length == k
        assert bytes(got.data[:k]) == bytes([k]) * k
        assert got.immediate == (k if k % 2 else None)
        assert source[k].status == Status.DONE
        assert got.status == Status.DONE | Status.OP_RECEIVE | (Status.IMMEDIATE if k % 2 else 0)
    assert nic.stats()["via.received_bytes"] == sum(range(20))
    assert nic.ledger()["device.rx"] == (sum(range(20)), 19)


def test_an_empty_queue_and_one_that_is_not_done_differ(nic):
    ptag = nic.ptag()
    _a, b = couple(nic, ptag)
    for call in (b.recv_done, b.send_done, b.recv_wait, b.send_wait):
        with pytest.raises(via.ViaError, match="no descriptor is posted") as caught:
            call()
        assert caught.value.code == via.Code.DESCRIPTOR_ERROR
    b.post_recv(via.buffers(nic, ptag, 8, 1)[0])
    assert b.recv_done() is None
    with pytest.raises(via.ViaTimeout) as late:
        b.recv_wait(0.0)
    assert late.value.code == via.Code.TIMEOUT
    assert isinstance(late.value, TimeoutError)
    with pytest.raises(ValueError, match="seconds"):
        b.recv_wait(-1)


@pytest.mark.parametrize("reliability", LEVELS)
def test_no_receive_descriptor(nic, reliability):
    ptag = nic.ptag()
    a, b = couple(nic, ptag, reliability=reliability)
    first, second = via.buffers(nic, ptag, 8, 2)
    first.copy_in(b"lost")
    a.post_send(first)
    assert nic.stats()["via.recvq_empty"] == 1
    assert a.send_done() is first
    assert ("RECVQ_EMPTY", b.id) in (events := nic.errors())
    if reliability == Reliability.UD:
        assert (first.status, a.state, b.state) == (Status.DONE, State.CONNECTED, State.CONNECTED)
        b.post_recv(second)
        a.post_send(first)
        assert b.recv_done() is second
        return
    wanted = Status.DONE | (Status.TRANSPORT_ERROR if reliability == Reliability.RR else 0)
    assert (first.status, a.state, b.state) == (wanted, State.ERROR, State.ERROR)
    assert ("CONN_LOST", a.id) in events
    b.post_recv(second)
    assert b.recv_done() is second
    assert second.status & Status.DESC_FLUSHED_ERROR


@pytest.mark.parametrize("reliability", LEVELS)
@pytest.mark.parametrize("room", [0, 1, 63])
def test_a_receive_descriptor_that_is_too_small_is_not_written_behind(nic, reliability, room):
    ptag = nic.ptag()
    a, b = couple(nic, ptag, reliability=reliability)
    with mmap.mmap(-1, 2 * PAGE) as guarded:
        memory, work = nic.register(memoryview(guarded)[:PAGE], ptag), nic.allocate(PAGE, ptag)
        memory.data[:] = b"\xaa" * PAGE
        target, message, rest = via.Descriptor(work, 0), via.Descriptor(work, 128), via.Descriptor(work, 256)
        target.set([(memory, PAGE - room, room)])           # ends where the registered memory ends
        rest.set([(work, 2048, 64)])
        message.set([(work, 1024, 64)])
        b.post_recv(target)
        b.post_recv(rest)
        a.post_send(message)
        assert b.recv_done() is target
        assert target.status == Status.DONE | Status.LENGTH_ERROR | Status.OP_RECEIVE
        assert target.length == 0
        assert bytes(memory.data) == b"\xaa" * PAGE
        assert bytes(guarded[PAGE:]) == bytes(PAGE)
        assert a.send_done() is message
        if reliability == Reliability.UD:
            assert (message.status, a.state, b.state) == (Status.DONE, State.CONNECTED, State.CONNECTED)
            a.post_send(message)
            assert b.recv_done().length == 64
        else:
            assert message.failed == (reliability == Reliability.RR)
            assert bool(message.status & Status.REMOTE_DESC_ERROR) == (reliability == Reliability.RR)
            assert (a.state, b.state) == (State.ERROR, State.ERROR)
            assert b.recv_done().status & Status.DESC_FLUSHED_ERROR
        memory.deregister()


def test_a_message_that_fits_exactly_ends_at_the_guard_page(nic):
    import ctypes

    ptag, libc = nic.ptag(), ctypes.CDLL(None)
    a, b = couple(nic, ptag, reliability=Reliability.UD)
    work = nic.allocate(PAGE, ptag)
    with mmap.mmap(-1, 2 * PAGE) as guarded:
        memory = nic.register(memoryview(guarded)[:PAGE], ptag)
        behind = ctypes.c_void_p(memory.address + PAGE)
        assert libc.mprotect(behind, ctypes.c_size_t(PAGE), 0) == 0
        target, message = via.Descriptor(work, 0), via.Descriptor(work, 128)
        target.set([(memory, PAGE - 64, 64)])
        for length in (64, 65):
            message.set([(work, 1024, length)])
            b.post_recv(target)
            a.post_send(message)
            assert (a.send_done(), b.recv_done()) == (message, target)
            assert bool(target.status & Status.LENGTH_ERROR) == (length == 65)
        assert libc.mprotect(behind, ctypes.c_size_t(PAGE), 3) == 0
        memory.deregister()


@pytest.mark.parametrize("reliability", LEVELS)
@pytest.mark.parametrize(("change", "wanted"), [
    ("segments", Status.FORMAT_ERROR), ("control", Status.FORMAT_ERROR), ("rdma", Status.FORMAT_ERROR),
    ("length", Status.FORMAT_ERROR), ("too long", Status.LENGTH_ERROR),
])
def test_a_malformed_send_descriptor_fails_by_itself(nic, reliability, change, wanted):
    ptag = nic.ptag()
    a, b = couple(nic, ptag, reliability=reliability, max_transfer=100)
    work = nic.allocate(PAGE, ptag)
    b.post_recv(target := via.buffers(nic, ptag, 200, 1)[0])
    message = via.Descriptor(work, 0)
    message.set([(work, 1024, 101 if change == "too long" else 100)], op=1 if change == "rdma" else 0)
    if change == "segments":
        work.data[12] = 17
    elif change == "control":
        work.data[14] = 0x10
    elif change == "length":
        work.data[24] = 99
    a.post_send(message)
    assert a.send_done() is message
    assert message.status == Status.DONE | wanted
    if reliability == Reliability.UD:
        assert (a.state, b.state, b.recv_done()) == (State.CONNECTED, State.CONNECTED, None)
    else:
        assert (a.state, b.state) == (State.ERROR, State.ERROR)
        assert b.recv_done() is target
        assert target.status & Status.DESC_FLUSHED_ERROR
        assert target.length == 0


@given(st.data())
def test_gather_and_scatter(data):
    """Any cuts of a message into segments arrive as the same bytes in any cuts of the target, and nowhere else."""
    sizes = st.lists(st.integers(0, 200), max_size=16)
    source, target = data.draw(sizes), data.draw(sizes)
    total, room = sum(source), sum(target)
    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b = couple(nic, ptag, reliability=Reliability.UD)
        memory = nic.allocate(4 * PAGE, ptag)
        send, receive = via.Descriptor(memory, 0), via.Descriptor(memory, 512)
        memory.data[PAGE:2 * PAGE] = bytes(k % 251 + 1 for k in range(PAGE))
        placed, at = [], 2 * PAGE
        for n in target:
            placed.append((memory, at, n))
            at += n + 3                                     # gaps that nothing may be written to
        ends = [(sum(source[:k]), n) for k, n in enumerate(source)]
        send.set([(memory, PAGE + at, n) for at, n in ends], immediate=total)
        receive.set(placed)
        b.post_recv(receive)
        a.post_send(send)
        assert a.send_done().status == Status.DONE
        assert b.recv_done() is receive
        got = b"".join(bytes(memory.data[o:o + n]) for _, o, n in placed)
        if total > room:
            assert receive.status & Status.LENGTH_ERROR
            assert got == bytes(room)
        else:
            assert (receive.length, receive.immediate) == (total, total)
            assert got[:total] == bytes(memory.data[PAGE:PAGE + total])
            assert got[total:] == bytes(room - total)
        assert bytes(memory.data[2 * PAGE:]).count(0) >= 2 * PAGE - min(total, room)


@given(st.binary(min_size=64, max_size=64 + 16 * 18), st.booleans(), st.sampled_from(LEVELS))
def test_any_bytes_as_a_descriptor(raw, is_recv, reliability):
    """Whatever lies there: it is given back with a status, or refused; nothing outside is moved."""
    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b = couple(nic, ptag, reliability=reliability)
        memory, good = nic.allocate(PAGE, ptag), nic.allocate(PAGE, ptag)
        memory.data[:len(raw)] = raw
        wild, message = via.Descriptor(memory, 0), via.Descriptor(good, 0)
        message.set([(good, 1024, 32)])
        try:
            (b.post_recv if is_recv else a.post_send)(wild)
        except via.ViaError as e:
            if e.code != via.Code.INVALID_PARAMETER:
                raise
            return
        if is_recv and b.state == State.CONNECTED:
            a.post_send(message)
        done = b.recv_done() if is_recv else a.send_done()
        assert done is wild
        assert wild.status & Status.DONE
        assert wild.failed or wild.length <= 32


def test_the_queue_has_a_bound_and_descriptors_are_posted_once(nic):
    ptag = nic.ptag()
    _a, b = couple(nic, ptag, depth=4)
    many = via.buffers(nic, ptag, 8, 5)
    for buffer in many[:4]:
        b.post_recv(buffer)
    with pytest.raises(via.ViaError, match="4 descriptors are posted"):
        b.post_recv(many[4])
    with pytest.raises(via.ViaError, match="posted already"):
        b.post_recv(many[0])
    with pytest.raises(via.ViaError, match="belongs to the NIC"):
        many[0].prepare(1)
    assert many[0].posted
    b.disconnect()
    assert drain(b, True) == many[:4]
    assert not many[0].posted


@pytest.mark.parametrize("reliability", LEVELS)
def test_disconnecting_gives_everything_back_in_order(nic, reliability):
    ptag = nic.ptag()
    a, b = couple(nic, ptag, reliability=reliability)
    ours, theirs = via.buffers(nic, ptag, 8, 10), via.buffers(nic, ptag, 8, 10)
    for x, y in zip(ours, theirs, strict=True):
        a.post_recv(x)
        b.post_recv(y)
    a.disconnect()
    assert (a.state, b.state) == (State.IDLE, State.ERROR)
    assert ("CONN_LOST", b.id) in nic.errors()
    assert drain(a, True) == ours
    assert drain(b, True) == theirs
    assert {d.status for d in (*ours, *theirs)} == {Status.DONE | Status.DESC_FLUSHED_ERROR | Status.OP_RECEIVE}
    with pytest.raises(via.ViaError, match="INVALID_STATE"):
        a.post_send(ours[0])
    b.post_send(theirs[0])                                  # in ERROR: given back at once
    assert b.send_done().status & Status.DESC_FLUSHED_ERROR
    b.disconnect()
    via.pair(a, b)
    b.post_recv(theirs[0])
    ours[0].prepare(8)                                      # a descriptor that was given back tells what was moved: 0
    a.post_send(ours[0])
    assert not b.recv_done().failed


def test_vis_are_destroyed_idle_and_drained(nic):
    ptag = nic.ptag()
    a, b = couple(nic, ptag)
    with pytest.raises(via.ViaError, match="INVALID_STATE"):
        a.destroy()
    b.post_recv(via.buffers(nic, ptag, 8, 1)[0])
    a.disconnect()
    b.disconnect()
    with pytest.raises(via.ViaError, match="not taken back"):
        b.destroy()
    assert len(drain(b, True)) == 1
    a.destroy()
    b.destroy()
    with pytest.raises(via.ViaError, match="destroyed"):
        b.post_recv(via.buffers(nic, ptag, 8, 1)[0])


@pytest.mark.parametrize(("attributes", "code"), [
    ({"reliability": 3}, via.Code.INVALID_RELIABILITY_LEVEL), ({"reliability": 0}, via.Code.INVALID_RELIABILITY_LEVEL),
    ({"max_transfer": 0}, via.Code.INVALID_MTU), ({"max_transfer": (1 << 24) + 1}, via.Code.INVALID_MTU),
    ({"depth": 0}, via.Code.INVALID_PARAMETER), ({"depth": 4097}, via.Code.INVALID_PARAMETER),
])
def test_attributes_that_no_vi_has(nic, attributes, code):
    with pytest.raises(via.ViaError) as caught:
        via.Vi(nic, nic.ptag(), **attributes)
    assert caught.value.code == code


def test_as_many_vis_as_the_nic_says(nic):
    ptag = nic.ptag()
    limit = nic.attributes()["MaxVI"]
    many = [via.Vi(nic, ptag, depth=1) for _ in range(limit)]
    with pytest.raises(via.ViaError, match="ERROR_RESOURCE"):
        via.Vi(nic, ptag, depth=1)
    old = many[5].id
    many[5].destroy()
    assert via.Vi(nic, ptag, depth=1).id != old


def test_one_completion_queue_for_many_vis(nic):
    ptag = nic.ptag()
    cq = via.CompletionQueue(nic, 1024)
    pairs = [couple(nic, ptag, depth=8, recv_cq=cq) for _ in range(64)]
    posted = {b: via.buffers(nic, ptag, 8, 4) for _, b in pairs}
    for b, group in posted.items():
        for buffer in group:
            b.post_recv(buffer)
    assert cq.done() is None
    message = via.buffers(nic, ptag, 8, 1)[0]
    for _turn in range(4):
        for a, _b in pairs:
            message.prepare(1)
            a.post_send(message)
            assert a.send_done() is message
    seen = []
    for _ in range(256):
        vi, is_recv = cq.done()
        assert is_recv
        seen.append(vi)
        assert vi.recv_done() is posted[vi].pop(0)
    assert seen == [b for _ in range(4) for _, b in pairs]
    assert cq.done() is None
    with pytest.raises(via.ViaError, match="wait for that"):
        pairs[0][1].recv_wait(0)
    with pytest.raises(via.ViaError, match="ERROR_RESOURCE"):
        cq.destroy()


def test_a_completion_queue_that_is_too_small_says_so_and_loses_no_descriptor(nic):
    ptag = nic.ptag()
    cq = via.CompletionQueue(nic, 4)
    a, b = couple(nic, ptag, send_cq=cq, recv_cq=cq)
    source, target = via.buffers(nic, ptag, 8, 4), via.buffers(nic, ptag, 8, 4)
    for buffer in target:
        b.post_recv(buffer)
    for buffer in source:
        a.post_send(buffer)
    assert [cq.done() for _ in range(4)] == [(b, True), (a, False)] * 2
    with pytest.raises(via.ViaError, match="overflowed"):
        cq.done()
    assert cq.done() is None                                # said once
    assert nic.stats()["via.cq_limit"] == 4
    assert {name for name, _ in nic.errors()} == {"VI_OVERRUN"}
    assert drain(b, True) == target
    assert drain(a, False) == source


def test_a_completion_queue_grows_without_forgetting(nic):
    ptag = nic.ptag()
    cq = via.CompletionQueue(nic, 2)
    a, b = couple(nic, ptag, recv_cq=cq)
    for buffer in via.buffers(nic, ptag, 8, 8):
        b.post_recv(buffer)
    source = via.buffers(nic, ptag, 8, 8)
    a.post_send(source[0])
    a.post_send(source[1])
    with pytest.raises(via.ViaError, match="ERROR_RESOURCE"):
        cq.resize(1)
    cq.resize(16)
    for buffer in source[2:]:
        a.post_send(buffer)
    assert [cq.done() for _ in range(8)] == [(b, True)] * 8
    a.disconnect()
    b.disconnect()
    assert len(drain(b, True)) == 8
    assert len(drain(a, False)) == 8
    a.destroy()
    b.destroy()
    cq.destroy()
    with pytest.raises(via.ViaError, match="INVALID_PARAMETER"):
        via.CompletionQueue(nic, 0)


def test_a_destroyed_vi_leaves_no_notifications(nic):
    ptag = nic.ptag()
    cq = via.CompletionQueue(nic, 8)
    a, b = couple(nic, ptag, recv_cq=cq)
    b.post_recv(via.buffers(nic, ptag, 8, 1)[0])
    a.disconnect()
    b.disconnect()
    drain(b, True)
    b.destroy()
    assert cq.done() is None


@pytest.mark.parametrize("busy_poll", [0.0, 0.001])
def test_waiting_threads_are_woken_and_do_not_stand_in_the_way(busy_poll):
    with via.Nic(busy_poll=busy_poll) as nic:
        ptag = nic.ptag()
        pairs = [couple(nic, ptag) for _ in range(4)]
        target = via.buffers(nic, ptag, 8, 4)
        for (_a, b), buffer in zip(pairs, target, strict=True):
            b.post_recv(buffer)
        with in_thread(pairs[0][1].recv_wait, 60) as first, in_thread(pairs[1][1].recv_wait, 60) as second:
            assert pairs[2][1].recv_done() is None          # though others wait
            with pytest.raises(via.ViaTimeout):
                pairs[2][1].recv_wait(0.01)
            source = via.buffers(nic, ptag, 8, 2)
            pairs[1][0].post_send(source[1])
            assert second.result(60) is target[1]
            pairs[0][0].post_send(source[0])
            assert first.result(60) is target[0]


def test_a_nic_is_not_closed_under_a_waiting_thread():
    nic = via.Nic()
    ptag = nic.ptag()
    a, b = couple(nic, ptag)
    b.post_recv(via.buffers(nic, ptag, 8, 1)[0])
    started = threading.Event()

    def wait():
        started.set()
        return b.recv_wait(60)

    with in_thread(wait) as waiting:
        started.wait()
        while True:                                         # until the thread is inside
            try:
                b.destroy()
            except via.ViaError as e:
                if "a thread waits" in str(e):
                    break
        with pytest.raises(via.ViaError, match="a thread waits"):
            nic.close()
        a.disconnect()
        assert waiting.result(60).status & Status.DESC_FLUSHED_ERROR
    nic.close()
    nic.close()
    with pytest.raises(via.ViaError, match="closed"):
        b.recv_done()
    with pytest.raises(via.ViaError, match="closed"):
        nic.ptag()
