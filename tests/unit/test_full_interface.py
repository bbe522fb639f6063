"""Connections that wait for room on an interface: nobody else waits with them, and each of them gets its turn."""

import socket

import pytest

import ustack

MANY = 600  # an interface queues half as many packets of senders that can wait
SIZE = 3000
MS = 1_000_000


class World:
    """A client with an interface to each of two servers, all on virtual time."""

    def __init__(self):
        self.client, *self.servers = (ustack.Stack(clock=ustack.VirtualClock(), seed=k) for k in range(3))
        self.time = 0
        self.listeners, self.links, self.sockets = [], [], []
        for k, server in enumerate(self.servers):
            near, far = ustack.pair()
            self.links.append(near)
            self.client.add_interface(near, addresses=[f"10.{k}.0.1/24"])
            server.add_interface(far, addresses=[f"10.{k}.0.2/24"])
            self.listeners.append(server.create_server((f"10.{k}.0.2", 7), backlog=MANY))

    def run(self, *stacks, ms=1):
        for _ in range(ms):
            self.time += MS
            for stack in stacks or (self.client, *self.servers):
                stack.advance_to(self.time)

    def connect(self, k, n):
        """n connections to a server; both ends of each."""
        near = []
        for _ in range(n):
            near.append(s := self.client.socket())
            s.setblocking(False)
            s.connect_ex((f"10.{k}.0.2", 7))
        self.run(ms=100)
        far = {}
        for _ in range(n):
            s, address = self.listeners[k].accept()
            s.setblocking(False)
            far[address] = s
        self.sockets += [*near, *far.values()]
        return [(s, far[s.getsockname()]) for s in near]

    def close(self):
        for one in (*self.sockets, *self.listeners, self.client, *self.servers):
            one.close()


@pytest.fixture
def world():
    w = World()
    yield w
    w.close()


def received(s):
    got = b""
    while True:
        try:
            part = s.recv(1 << 16)
        except BlockingIOError:
            return got
        if not part:
            return got
        got += part


def test_all_of_them_get_their_turn(world):
    crowd = world.connect(0, MANY)
    for k, (a, _) in enumerate(crowd):
        a.sendall(bytes([k % 251]) * SIZE)
    for _ in range(40):
        world.run()
    assert [received(b) for _, b in crowd] == [bytes([k % 251]) * SIZE for k in range(MANY)]


def test_one_that_is_full_does_not_hold_up_another(world):
    crowd = world.connect(0, MANY)
    ((a, b),) = world.connect(1, 1)
    for near, _ in crowd:  # the first server does not look: its interface fills up
        near.sendall(bytes(SIZE))
    world.run(world.client)
    a.sendall(b"by another way")
    world.run(world.client, world.servers[1], ms=3)
    assert received(b) == b"by another way"
    assert not received(crowd[-1][1])
    world.run(ms=40)
    assert all(received(far) == bytes(SIZE) for _, far in crowd)


def test_those_that_wait_can_be_closed(world):
    crowd = world.connect(0, MANY)
    for near, _ in crowd:
        near.sendall(bytes(SIZE))
    for k, (near, _) in enumerate(crowd):
        if k % 3 == 0:
            near.close()
        elif k % 3 == 1:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            near.close()
    world.run(ms=60)
    for k, (_, far) in enumerate(crowd):
        if k % 3 == 1:
            with pytest.raises(ConnectionResetError):
                received(far)
        else:
            assert received(far) == bytes(SIZE)


def test_those_that_wait_for_an_interface_that_goes_hear_of_it(world):
    crowd = world.connect(0, MANY)
    for near, _ in crowd:
        near.sendall(bytes(SIZE))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
    world.client.remove_interface(world.links[0])
    world.run(world.client, ms=10_000)
    for near, _ in crowd:
        with pytest.raises(TimeoutError):
            near.send(b"x")
