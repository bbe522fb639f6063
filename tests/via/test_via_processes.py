"""Two processes over shared memory."""

import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from peer import connected, other_process

from ustack import via
from ustack.buffers import Region
from ustack.via import Reliability, State, Status

PATIENCE = 60
LEVELS = list(Reliability)


def attached():
    """Two NICs of this process, attached to each other as those of two processes are."""
    import threading

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a, b = via.Nic(), via.Nic()
    made = []
    thread = threading.Thread(target=lambda: made.append(b.attach(theirs, timeout=PATIENCE)))
    thread.start()
    port = a.attach(ours, timeout=PATIENCE)
    thread.join()
    return a, port, b, made[0]


@pytest.fixture
def nics():
    a, port, b, other = attached()
    with a, b:
        yield a, port, b, other


def coupled(nics, **more):
    """A protection tag and a connected VI on each of the two."""
    from helpers import in_thread

    a, port, b, _ = nics
    tags = a.ptag(), b.ptag()
    x, y = via.Vi(a, tags[0], **more), via.Vi(b, tags[1], **more)
    with via.Listener(b, b"s") as listener, in_thread(x.connect, b"s", port, PATIENCE):
        listener.wait(PATIENCE).accept(y)
    return tags, x, y


@pytest.mark.parametrize("reliability", LEVELS)
def test_messages_go_there_and_back(reliability):
    with connected("echo", reliability=reliability) as (nic, ptag, vi, _process):
        out, *into = via.buffers(nic, ptag, 4096, 3)
        for k in range(500):
            size = (k * 37) % 4097
            vi.post_recv(into[k % 2])
            out.copy_in(bytes([k % 256]) * size, immediate=k)
            vi.post_send(out)
            got = vi.recv_wait(PATIENCE)
            assert got is into[k % 2]
            assert (got.length, got.immediate) == (size, k)
            assert bytes(got.data[:size]) == bytes([k % 256]) * size
            assert vi.send_wait(PATIENCE).status == Status.DONE
        moved = nic.ledger()
        assert moved["device.rx"][0] == moved["tx.copy"][0]
        assert set(moved) == {"device.rx", "tx.copy"}


def test_a_message_is_moved_once_by_the_receiver_and_by_no_cpu_copy_of_the_stack(nics):
    tags, x, y = coupled(nics)
    a, _, b, _ = nics
    source, target = via.buffers(a, tags[0], 60000, 1)[0], via.buffers(b, tags[1], 60000, 1)[0]
    source.data[:] = bytes(range(250)) * 240
    y.post_recv(target)
    source.prepare(60000)
    x.post_send(source)
    assert x.send_done() is None                            # its memory is in use until it has been read
    assert y.recv_wait(PATIENCE) is target
    assert x.send_wait(PATIENCE) is source
    assert bytes(target.data) == bytes(source.data)
    assert a.ledger() == {}
    assert b.ledger() == {"device.rx": (60000, 1)}
    own = bytearray(60000)
    assert target.copy_out(own) == 60000
    assert own == source.data
    assert b.ledger() == {"device.rx": (60000, 1), "rx.copy": (60000, 1)}
    with pytest.raises(BufferError, match="do not fit"):
        target.copy_out(bytearray(59999))


def test_the_sending_process_need_not_see_the_bytes(nics):
    """PROT_NONE in the mapping that the sending NIC has: nothing there touches the payload."""
    tags, x, y = coupled(nics)
    a, _, b, _ = nics
    libc = ctypes.CDLL(None)
    region = Region(1 << 16)
    data, work = a.register(region, tags[0]), a.allocate(4096, tags[0])
    data.data[:] = b"payload!" * (1 << 13)
    message = via.Descriptor(work, 0)
    message.set([(data, 0, 1 << 15), (data, 1 << 15, 1 << 15)])
    target = via.buffers(b, tags[1], 1 << 16, 1)[0]
    y.post_recv(target)
    assert libc.mprotect(ctypes.c_void_p(data.address), ctypes.c_size_t(1 << 16), 0) == 0
    x.post_send(message)
    assert y.recv_wait(PATIENCE).length == 1 << 16
    assert x.send_wait(PATIENCE).status == Status.DONE
    assert libc.mprotect(ctypes.c_void_p(data.address), ctypes.c_size_t(1 << 16), 3) == 0
    assert bytes(target.data) == b"payload!" * (1 << 13)


def test_memory_that_is_in_no_file_can_be_received_into_but_not_sent_from(nics):
    tags, x, y = coupled(nics)
    a, _, b, _ = nics
    plain, work = bytearray(128), a.allocate(4096, tags[0])
    memory = a.register(plain, tags[0])
    d = via.Descriptor(work, 0)
    d.set([(memory, 0, 128)])
    with pytest.raises(via.ViaError, match="in no memory file") as caught:
        x.post_send(d)
    assert caught.value.code == via.Code.ERROR_NOT_SUPPORTED
    assert (x.state, d.posted) == (State.CONNECTED, False)
    x.post_recv(d)
    reply = via.buffers(b, tags[1], 128, 1)[0]
    reply.copy_in(b"to any memory")
    y.post_send(reply)
    assert x.recv_wait(PATIENCE).length == 13
    assert plain[:13] == b"to any memory"


def test_as_many_segments_as_there_may_be(nics):
    tags, x, y = coupled(nics)
    a, _, b, _ = nics
    work, target = a.allocate(1 << 14, tags[0]), via.buffers(b, tags[1], 1 << 13, 1)[0]
    work.data[4096:] = bytes(k % 253 for k in range(12288))
    d = via.Descriptor(work, 0)
    for n in (*range(17), 16, 16):
        d.set([(work, 4096 + 300 * k, 200 + k) for k in range(n)])
        y.post_recv(target)
        x.post_send(d)
        assert y.recv_wait(PATIENCE).length == sum(200 + k for k in range(n))
        assert bytes(target.data[:target.length]) == b"".join(
            bytes(work.data[4096 + 300 * k:4096 + 300 * k + 200 + k]) for k in range(n))
        assert x.send_wait(PATIENCE) is d


def test_more_messages_than_the_lane_holds_wait_for_room(nics):
    tags, x, y = coupled(nics, depth=1024)
    a, _, b, _ = nics
    source, target = via.buffers(a, tags[0], 8, 1000), via.buffers(b, tags[1], 8, 1000)
    for k, buffer in enumerate(source):
        y.post_recv(target[k])
        buffer.copy_in(k.to_bytes(4, "little"))
        x.post_send(buffer)
    for k in range(1000):
        while (got := y.recv_done()) is None:
            x.nic.poll()
        assert got is target[k]
        assert int.from_bytes(got.data[:4], "little") == k
    for buffer in source:
        while (sent := x.send_done()) is None:
            pass
        assert sent is buffer


@pytest.mark.parametrize("reliability", LEVELS)
@pytest.mark.parametrize("case", ["none posted", "too small"])
def test_the_error_matrix(nics, reliability, case):
    tags, x, y = coupled(nics, reliability=reliability)
    a, _, b, _ = nics
    source = via.buffers(a, tags[0], 64, 1)[0]
    target = via.buffers(b, tags[1], 63, 1)[0]
    if case == "too small":
        y.post_recv(target)
    x.post_send(source)
    b.poll()
    assert x.send_wait(PATIENCE) is source
    events = a.errors(), b.errors()
    if case == "too small":
        assert y.recv_done() is target
        assert target.status & Status.LENGTH_ERROR
        assert bytes(target.data) == bytes(63)
    if reliability == Reliability.UD:
        assert (source.status, x.state, y.state) == (Status.DONE, State.CONNECTED, State.CONNECTED)
        return
    assert (x.state, y.state) == (State.ERROR, State.ERROR)
    assert ("CONN_LOST", x.id) in events[0]
    assert events[1] == [("CONN_LOST" if case == "too small" else "RECVQ_EMPTY", y.id)]
    told = Status.REMOTE_DESC_ERROR if case == "too small" else Status.TRANSPORT_ERROR
    assert source.status == Status.DONE | (told if reliability == Reliability.RR else 0)


def test_disconnecting_takes_back_what_was_not_received(nics):
    tags, x, y = coupled(nics)
    a, _, b, _ = nics
    source, target = via.buffers(a, tags[0], 8, 3), via.buffers(b, tags[1], 8, 3)
    for s, t in zip(source, target, strict=True):
        y.post_recv(t)
        x.post_send(s)
    x.disconnect()
    assert [x.send_done() for _ in source] == source
    assert {s.status for s in source} == {Status.DONE | Status.DESC_FLUSHED_ERROR}
    for s in source:
        s.data[:] = b"garbage!"                             # ours again, and nobody takes it for a message
    assert [y.recv_wait(PATIENCE) for _ in target] == target
    assert all(t.status & Status.DESC_FLUSHED_ERROR for t in target)
    assert b.stats()["via.cancelled"] == 3
    assert y.state == State.ERROR


@pytest.mark.parametrize("reliability", LEVELS)
def test_deregistering_takes_back_what_was_not_received(nics, reliability):
    tags, x, y = coupled(nics, reliability=reliability)
    a, _, b, _ = nics
    work, going = a.allocate(4096, tags[0]), a.allocate(4096, tags[0])
    target = via.buffers(b, tags[1], 64, 2)
    first, second = via.Descriptor(work, 0), via.Descriptor(work, 64)
    first.set([(work, 1024, 8)])
    second.set([(going, 0, 8)])
    for t in target:
        y.post_recv(t)
    x.post_send(first)
    x.post_send(second)
    going.deregister()
    if reliability == Reliability.UD:
        assert y.recv_wait(PATIENCE).length == 8
        assert y.recv_done() is None                        # the second was taken back
        assert x.send_wait(PATIENCE).status == Status.DONE
        assert x.send_done().status == Status.DONE | Status.PROTECTION_ERROR
    else:
        assert [x.send_done(), x.send_done()] == [first, second]
        assert second.status & Status.PROTECTION_ERROR
        assert all(y.recv_wait(PATIENCE).failed for _ in target)
        assert x.state == y.state == State.ERROR


def test_nobody_waits_there(nics):
    a, port, _b, _ = nics
    vi = via.Vi(a, a.ptag())
    from helpers import in_thread

    def ask():
        with pytest.raises(via.ViaError) as caught:
            vi.connect(b"nobody", port, timeout=PATIENCE)
        return caught.value.code

    with in_thread(ask) as asking:
        while True:
            nics[2].poll()
            try:
                assert asking.result(0.01) == via.Code.NO_MATCH
                break
            except TimeoutError:
                pass


def test_closing_the_port_ends_the_connections(nics):
    _tags, x, y = coupled(nics)
    nics[1].close()
    nics[1].close()
    assert not nics[1].connected
    assert x.state == State.ERROR
    nics[2].poll()
    assert y.state == State.ERROR
    assert not nics[3].connected
    for vi, port in ((x, nics[1]), (y, nics[3])):
        vi.disconnect()
        with pytest.raises(via.ViaError, match="NOT_REACHABLE"):
            vi.connect(b"s", port, timeout=PATIENCE)


def test_a_sleeping_process_is_woken_and_a_looking_one_is_not():
    with connected("echo") as (nic, ptag, vi, _process):
        out, *into = via.buffers(nic, ptag, 8, 2)
        for _ in range(20):
            vi.post_recv(into[0])
            out.prepare(8)
            vi.post_send(out)
            nic.busy_poll = 0.0                             # we sleep until it answers
            assert vi.recv_wait(PATIENCE) is into[0]
            assert vi.send_wait(PATIENCE) is out
        # At most once for each entry of ours (20 and a request), and once for each of theirs that was taken.
        assert nic.stats().get("via.kicks", 0) <= 42


SPINNING = """
    import ctypes, os, socket, sys
    from ustack import via
    from ustack._core.py import bench_via

    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("p", ctypes.c_void_p)]

    def forbid():
        # A system call other than exit_group (231) ends this process from here on.
        load, same = bytes.fromhex("2000000000000000"), bytes.fromhex("15000001e7000000")
        allow, kill = bytes.fromhex("060000000000ff7f"), bytes.fromhex("0600000000000080")
        code = ctypes.create_string_buffer(load + same + allow + kill, 32)
        program = Program(4, ctypes.addressof(code))
        libc = ctypes.CDLL(None)
        leave = libc._exit
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
        return leave

    serve, also = sys.argv[1] == "serve", sys.argv[2]
    nic = via.Nic(busy_poll=1000.0)                         # who slept would have to be woken
    ptag = nic.ptag()
    listener = via.Listener(nic, b"s")
    port = nic.attach(socket.socket(fileno=int(sys.argv[3])), timeout=60)
    vi = via.Vi(nic, ptag)
    out, *into = via.buffers(nic, ptag, 64, 3)
    for buffer in into:
        vi.post_recv(buffer)
    listener.wait(60).accept(vi) if serve else vi.connect(b"s", port, timeout=60)
    out.prepare(8)
    for _ in into:                                          # each is shown the other's memory
        if not serve:
            vi.post_send(out)
        vi.post_recv(vi.recv_wait(60))
        if serve:
            vi.post_send(out)
        vi.send_wait(60)
    leave = forbid()
    bench_via.ping_pong(vi, out, into, 10, 20, serve)
    if also == "fail":
        os.getppid()
    leave(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter knows the numbers of x86-64's system calls")
@pytest.mark.parametrize(("also", "wanted"), [("pass", 0), ("fail", -signal.SIGSYS)])
def test_a_message_costs_no_system_call_while_both_look(also, wanted):
    """Two processes under a filter that ends them at their first system call: 200 messages each way."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    both = []
    with ours, theirs:
        for role, end in (("serve", ours), ("call", theirs)):
            both.append(subprocess.Popen(
                [sys.executable, "-P", "-c", textwrap.dedent(SPINNING), role, also, str(end.fileno())],
                pass_fds=[end.fileno()], stderr=subprocess.PIPE, text=True))
    try:
        for one in both:
            _, err = one.communicate(timeout=PATIENCE)
            assert one.returncode == wanted, err
    finally:
        for one in both:
            one.kill()
            one.communicate()


def resources():
    """Open descriptors and mapped memory files of this process."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("memfd:")


def test_a_killed_process_loses_its_connections_and_leaves_nothing_behind():
    with via.Nic() as nic:
        ptag = nic.ptag()
        ring = via.buffers(nic, ptag, 256, 16)
        held = []
        command = (str(Path(__file__).with_name("peer.py")), "echo", "256", "4", "2")
        for turn in range(6):
            with other_process(*command) as (process, sock):
                port = nic.attach(sock, timeout=PATIENCE)
                vi = via.Vi(nic, ptag)
                for buffer in ring[:8]:
                    vi.post_recv(buffer)
                vi.connect(b"peer", port, timeout=PATIENCE)
                ring[8].prepare(8)
                for _ in range(turn * 3):                   # killed after so many messages, or in the middle of one
                    vi.post_send(ring[8])
                    vi.send_wait(PATIENCE)
                    vi.post_recv(vi.recv_wait(PATIENCE))
                vi.post_send(ring[8])
                process.kill()
                taken = [vi.recv_wait(PATIENCE) for _ in range(8)]
                assert {id(d) for d in taken} == {id(d) for d in ring[:8]}
                assert taken[-1].status & Status.DESC_FLUSHED_ERROR
                assert vi.send_wait(PATIENCE) is ring[8]
                assert vi.state == State.ERROR
                assert ("CONN_LOST", vi.id) in nic.errors()
                vi.disconnect()
                vi.destroy()
            nic.poll()
            assert not port.connected
            port = None
            held.append(resources())
        assert held == held[:1] * 6


def test_ctrl_c_ends_a_wait():
    import _thread
    import threading

    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b = via.Vi(nic, ptag), via.Vi(nic, ptag)
        via.pair(a, b)
        b.post_recv(via.buffers(nic, ptag, 8, 1)[0])
        for busy_poll in (0.0, 60.0):
            nic.busy_poll = busy_poll
            started = threading.Event()
            thread = threading.Thread(target=lambda e=started: (e.wait(), _thread.interrupt_main()))
            thread.start()
            with pytest.raises(KeyboardInterrupt):          # noqa: PT012
                started.set()
                b.recv_wait(PATIENCE)
            thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stream_of_messages_is_complete_and_in_order(nics):
    from helpers import in_thread

    tags, x, y = coupled(nics)
    ring = via.buffers(nics[2], tags[1], 512, 16)
    for buffer in ring:
        y.post_recv(buffer)
    nics[0].busy_poll = nics[2].busy_poll = 0.0
    out = via.buffers(nics[0], tags[0], 512, 8)

    def send():
        for k in range(2000):
            buffer = out[k % 8] if k < 8 else x.send_wait(PATIENCE)
            buffer.copy_in(k.to_bytes(8, "little") * (k % 64))
            x.post_send(buffer)

    # Eight are on their way at most, and sixteen places are posted: the receiver looks only when it has taken all
    # that it was given.
    with in_thread(send):
        for k in range(2000):
            got = y.recv_wait(PATIENCE)
            assert bytes(got.data[:got.length]) == k.to_bytes(8, "little") * (k % 64)
            y.post_recv(got)
    assert (x.state, y.state) == (State.CONNECTED, State.CONNECTED)
