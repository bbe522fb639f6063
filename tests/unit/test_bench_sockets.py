"""The loops of ``ustack bench`` over sockets without Python objects. What they measure is nobody's business here."""

import socket
import threading
from array import array

import pytest

import ustack
from ustack._bench.alone import ALONE
from ustack._bench.duets import Crowded, Memory
from ustack._core.py.bench_loops import Loops
from ustack._core.py.bench_sockets import Accepted, Crowd


@pytest.fixture
def stacks():
    with ustack.Stack(clock=ustack.VirtualClock()) as a, ustack.Stack(clock=ustack.VirtualClock()) as b:
        for stack, link, ip in zip((a, b), ustack.pair(), ("10.0.0.1/24", "10.0.0.2/24"), strict=True):
            stack.add_interface(link, addresses=[ip])
        yield a, b


def settle(stacks, at):
    for _ in range(4):
        for stack in stacks:
            stack.advance_to(at)


def connections(stacks, n):
    a, b = stacks
    listener = b.create_server(("10.0.0.2", 7))
    near = [a.socket() for _ in range(n)]
    for s in near:
        s.setsockopt(ustack.socket.IPPROTO_TCP, ustack.socket.TCP_NODELAY, 1)
        s.connect_ex(("10.0.0.2", 7))
    settle(stacks, 1000)
    return near, listener


def test_connections_that_the_core_accepts_alone(stacks):
    near, listener = connections(stacks, 3)
    accepted = Accepted(listener, 3)
    assert len(accepted) == 3
    accepted.close()
    accepted.close()
    settle(stacks, 2000)
    assert [s.recv(1) for s in near] == [b""] * 3
    for s in [*near, listener]:
        s.close()


def test_a_packet_for_each_connection_named(stacks):
    near, listener = connections(stacks, 3)
    far = [listener.accept()[0] for _ in range(3)]
    far.sort(key=lambda s: [n.getsockname() for n in near].index(s.getpeername()))
    crowd = Crowd(near, far, 1000)
    before = stacks[1].stats()["tcp.rx"]
    assert crowd.ingress(array("I", [0, 1, 2, 0]), 2) > 0
    assert stacks[1].stats()["tcp.rx"] - before == 4
    for wrong, burst in ((array("I", [3]), 1), (array("I", [0]), 2), (array("H", [0, 0]), 1)):
        with pytest.raises(ValueError, match=r"connections|integers"):
            crowd.ingress(wrong, burst)
    for s in [*near, *far, listener]:
        s.close()
    with pytest.raises(ValueError, match="as many"):
        Crowd(near, far[:2], 0)


def test_a_crowd_whose_connection_is_closed_says_so(stacks):
    near, listener = connections(stacks, 1)
    far = [listener.accept()[0]]
    crowd = Crowd(near, far, 1000)
    near[0].close()
    with pytest.raises(OSError, match="crowd"):
        crowd.ingress(array("I", [0]), 1)
    far[0].close()
    listener.close()


def test_a_crowd_needs_a_clock_that_stands_still():
    memory = Memory()
    a, b = memory.pair()
    with a, b, pytest.raises(ValueError, match="VirtualClock"):
        Crowd([a], [b], 0)
    for stack in memory.stacks:
        stack.close()


@pytest.mark.parametrize("at_random", [False, True])
def test_the_work_of_a_crowd(at_random):
    crowded = Crowded()
    p = {"connections": 20, "burst": 10 if at_random else 1, "random": at_random, "seconds": 0.0}
    figures = ALONE["alone.crowd"](crowded, p)
    assert figures["ns"] > 0
    assert figures["count"] == 6000
    assert crowded.crowd(20) is crowded.crowd(20)
    crowded.close()


@pytest.fixture(params=["kernel", "ours"])
def make(request):
    """Makes connected pairs."""
    if request.param == "kernel":
        yield socket.socketpair
        return
    memory = Memory()
    yield memory.pair
    for stack in memory.stacks:
        stack.close()


def test_loops_over_a_stream(make):
    a, b = make()
    with a, b:
        thread = threading.Thread(target=Loops(b, 100).echo)
        thread.start()
        times = Loops(a, 100).ping_pong(0.01)
        assert times.typecode == "q"
        assert len(times) > 0
        assert min(times) > 0
        a.shutdown(socket.SHUT_WR)
        thread.join()
    a, b = make()
    with a, b:
        total, seconds = Loops(a, 1000).exchange_for(Loops(b, 1000), 0.01)
        assert total >= 1000
        assert total % 1000 == 0
        assert seconds >= 0.01
        sent = []
        thread = threading.Thread(target=lambda: (sent.append(Loops(a, 5000).send_for(0.01)), a.shutdown(1)))
        thread.start()
        first, rest, _ = Loops(b, 5000).receive_all()
        thread.join()
        assert first + rest == sent[0]


@pytest.mark.parametrize("ours", [False, True])
def test_loops_over_datagrams(ours):
    stack = ustack.Stack() if ours else None
    a, b = (stack.socket(2, 2) if stack else socket.socket(2, 2) for _ in range(2))
    with a, b:
        for s in (a, b):
            s.bind(("127.0.0.1", 0))
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        got = []
        thread = threading.Thread(target=lambda: got.append(Loops(b, 100).receive_datagrams(4)))
        thread.start()
        sent = Loops(a, 100).send_datagrams_for(0.01, 16)
        thread.join()
        assert got[0][0] == sent > 0
    if stack:
        stack.close()


def test_loops_over_a_socket_that_ended_say_so():
    a, b = socket.socketpair()
    with a:
        b.close()
        with pytest.raises(BrokenPipeError):
            Loops(a, 10).ping_pong(1.0)
