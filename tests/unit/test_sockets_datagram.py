"""Datagram sockets over stacks, and what every kind of socket shares with the clock and the housekeeper."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ustack
from ustack import socket as us
from ustack._core.py.probe_loop import post_while_the_loop_looks, signal_that_comes_late

Bed = tuple[ustack.Stack, ustack.Stack, str]


@pytest.fixture(params=["pair", "loopback"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "loopback":
        with ustack.Stack() as one:
            yield one, one, "127.0.0.1"
            one.close(0)
        return
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        b.add_interface(there, ["10.0.0.2/24"])
        yield a, b, "10.0.0.2"
        a.close(0)
        b.close(0)


def udp(stack: ustack.Stack, *address: str | int) -> us.socket:
    sock = stack.socket(us.AF_INET, us.SOCK_DGRAM)
    sock.settimeout(10)
    if address:
        sock.bind((str(address[0]), int(address[1])))
    return sock


def test_datagrams_keep_their_bounds(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, 53) as server:
        sizes = [0, 1, 1472, 1473, 9000, 65507]
        for size in sizes:
            assert client.sendto(bytes(size), (host, 53)) == size
            data, sender = server.recvfrom(65535)
            assert len(data) == size
        assert sender is not None
        with pytest.raises(OSError, match="too long") as info:
            client.sendto(bytes(65508), (host, 53))
        assert info.value.errno == errno.EMSGSIZE
        server.sendto(b"answer", us.MSG_DONTWAIT, sender)
        assert client.recv(100) == b"answer"


def test_short_buffers_truncate(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, 53) as server:
        for _ in range(4):
            client.sendto(b"0123456789", (host, 53))
        assert server.recv(4, us.MSG_PEEK) == b"0123"
        assert server.recv(4) == b"0123"
        data, _, flags, _ = server.recvmsg(4)
        assert (data, flags) == (b"0123", us.MSG_TRUNC)
        assert server.recv_into(bytearray(4), 0, us.MSG_TRUNC) == 10
        buffer = bytearray(20)
        assert server.recvfrom_into(buffer)[0] == 10
        assert bytes(buffer[:10]) == b"0123456789"
        with pytest.raises(BlockingIOError):
            server.recv(10, us.MSG_DONTWAIT)
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            server.recv(10)


def test_connected_datagram_sockets(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, 53) as server, udp(b, host, 54) as stranger:
        with pytest.raises(OSError, match="Errno") as info:
            client.send(b"nowhere")
        assert info.value.errno == errno.EDESTADDRREQ
        client.connect((host, 53))
        assert client.getpeername() == (host, 53)
        client.send(b"hello")
        _, sender = server.recvfrom(10)
        assert sender is not None
        stranger.sendto(b"not for you", sender)
        server.sendto(b"for you", sender)
        assert client.recv(20) == b"for you"
        server.close()
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        client.settimeout(0.01)
        with pytest.raises(TimeoutError):      # the error is told once
            client.recv(10)


def test_a_refusal_wakes_who_waits_and_is_told_once(bed: Bed) -> None:
    a, _, host = bed
    raised: list[BaseException] = []
    with udp(a) as client, udp(a) as other:
        client.connect((host, 9))
        other.connect((host, 10))

        def receive() -> None:
            try:
                client.recv(10)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        client.send(b"anybody?")
        thread.join(20)
        assert not thread.is_alive(), "still blocked"
        assert [type(error) for error in raised] == [ConnectionRefusedError]
        for sock in (client, other):
            with pytest.raises(BlockingIOError):
                sock.recv(10, us.MSG_DONTWAIT)


def test_port_errors(bed: Bed) -> None:
    _, b, host = bed
    with udp(b, host, 53), udp(b) as other:
        with pytest.raises(OSError, match="Errno") as info:
            other.bind((host, 53))
        assert info.value.errno == errno.EADDRINUSE
        for call in (lambda: other.listen(), lambda: other.accept(), lambda: other.recv_buffers()):
            with pytest.raises(OSError, match="Errno") as wrong:
                call()
            assert wrong.value.errno == errno.EOPNOTSUPP


def test_closing_wakes_a_receiver(bed: Bed) -> None:
    sock = udp(bed[0])
    errors: list[BaseException] = []

    def receive() -> None:
        try:
            sock.recv(1)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    time.sleep(0.05)
    sock.close()
    thread.join(10)
    assert isinstance(errors[0], OSError)
    assert not isinstance(errors[0], TimeoutError)


# --- clocks, descriptors, idleness ------------------------------------------------------------------------------------

def test_virtual_stacks_never_wait() -> None:
    with ustack.Stack(clock=ustack.VirtualClock(5), seed=1) as net, net.socket() as s:
        assert net.virtual
        assert net.now_ns() == 5
        assert net.deadline_ns() is None
        for call in (lambda: s.settimeout(1), lambda: s.setblocking(True), lambda: s.fileno(), net.fileno):
            with pytest.raises(ValueError, match="VirtualClock"):
                call()
        with net.create_server(("127.0.0.1", 80)) as server:
            with pytest.raises(BlockingIOError):
                server.accept()
            assert s.connect_ex(("127.0.0.1", 80)) in (0, errno.EINPROGRESS)
            net.advance_to(net.now_ns() + 1)
            conn, _ = server.accept()
            with conn:
                with pytest.raises(BlockingIOError):
                    conn.recv(1)
                s.send(b"x")
                net.poll()
                assert conn.recv(1) == b"x"
        with pytest.raises(ValueError, match="back"):
            net.advance_to(1)
    with ustack.Stack() as real, pytest.raises(ValueError, match="VirtualClock"):
        real.advance_to(1 << 62)


def test_a_loop_of_ones_own_over_fileno_and_deadline() -> None:
    """Two stacks, driven by nothing but select(): handshake, data, a retransmission, the end."""
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        b.add_interface(there, ["10.0.0.2/24"])
        stacks = {a.fileno(): a, b.fileno(): b}

        def turn() -> None:
            waits = [wait for stack in stacks.values() if (wait := stack.deadline()) is not None]
            for fd in select.select(list(stacks), [], [], min([*waits, 1.0]))[0]:
                stacks[fd].poll()

        with b.create_server(("10.0.0.2", 80)) as server, a.socket() as client:
            server.setblocking(False)
            client.setblocking(False)
            client.connect_ex(("10.0.0.2", 80))
            conn = None
            for _ in range(1000):
                turn()
                try:
                    conn, _ = server.accept()
                    break
                except BlockingIOError:
                    continue
            assert conn is not None
            conn.setblocking(False)
            client.send(b"ping")
            data = b""
            for _ in range(1000):
                turn()
                try:
                    data = conn.recv(10)
                    break
                except BlockingIOError:
                    continue
            assert data == b"ping"
            conn.close()
        fd = a.fileno()
        a.close(0)
        b.close(0)
        assert select.select([fd], [], [], 0)[0] == [fd]    # a closed stack's descriptor stays readable


def test_a_deadline_makes_the_descriptor_readable() -> None:
    with ustack.Stack() as a, a.socket() as s:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        s.setblocking(False)
        s.connect_ex(("10.0.0.2", 80))          # nobody is there: ARP, then retransmissions
        fd = a.fileno()
        for _ in range(2):
            a.poll()
            deadline = a.deadline()
            assert deadline is not None
            assert select.select([fd], [], [], deadline + 5)[0] == [fd]
        a.close(0)
        there.close()


def a_loop_on_a_pipe(net: ustack.Stack) -> tuple[ustack.Pipe, int]:
    """A stack at 10.0.0.2 on a pipe, in the hands of an event loop that has nothing to do."""
    pipe = ustack.Pipe()
    net.add_interface(pipe, ["10.0.0.2/24"])
    fd = net.fileno()
    while select.select([fd], [], [], 0)[0]:
        net.poll()
        net._take_fired()
    return pipe, fd


def test_a_loop_is_told_of_what_its_own_look_brought_about() -> None:
    """A packet is posted while the loop holds the lock to look for what has fired: it finds nothing, and processes the
    packet on letting go. Nobody else will say so."""
    datagram = bytes.fromhex("4500001d000000004011 66ce 0a000001 0a000002 0009 0007 0009 0000 78")
    with ustack.Stack() as net, net.socket(us.AF_INET, us.SOCK_DGRAM) as s:
        pipe, fd = a_loop_on_a_pipe(net)
        s.bind(("10.0.0.2", 7))
        s.setblocking(False)
        assert s._watch(1) == 0
        assert not post_while_the_loop_looks(net, pipe, datagram)
        assert select.select([fd], [], [], 5)[0] == [fd]
        net.poll()
        assert net._take_fired() == [s._token()]
        assert s.recv(10) == b"x"


def test_a_signal_that_comes_late_does_not_keep_the_loop_awake() -> None:
    with ustack.Stack() as net:
        _, fd = a_loop_on_a_pipe(net)
        signal_that_comes_late(net)
        assert select.select([fd], [], [], 5)[0] == [fd]
        net.poll()
        assert select.select([fd], [], [], 0)[0] == []


def housekeepers() -> dict[str, int]:
    """Voluntary context switches of each of this process's housekeeper threads, by thread id."""
    counts = {}
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() != "ustack\n":
            continue
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                counts[task.name] = int(line.split()[1])
    return counts


def test_an_idle_stack_wakes_nobody() -> None:
    """No timer is armed, nobody calls: the housekeeper sleeps on its descriptors and stays there."""
    before = set(housekeepers())
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        b.add_interface(there, ["10.0.0.2/24"])
        with b.create_server(("10.0.0.2", 80)) as server, a.create_connection(("10.0.0.2", 80)) as client:
            conn, _ = server.accept()
            with conn:
                client.sendall(b"x")
                assert conn.recv(1) == b"x"
                # Let delayed acknowledgements and ARP come to rest.
                until = time.monotonic() + 30
                while (a.deadline() or b.deadline()) is not None and time.monotonic() < until:
                    if min(w for w in (a.deadline(), b.deadline()) if w is not None) > 5:
                        break
                    time.sleep(0.1)
                time.sleep(0.3)
                first = {k: v for k, v in housekeepers().items() if k not in before}
                assert len(first) == 2
                time.sleep(2)
                second = {k: v for k, v in housekeepers().items() if k not in before}
        assert second == first
        a.close(0)
        b.close(0)


def test_closed_stacks_leave_no_descriptor_behind() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(5):
        stack = ustack.Stack()
        stack.fileno()
        with udp(stack) as sock:
            sock.fileno()
        stack.close()
        del sock, stack
    assert count() == before
