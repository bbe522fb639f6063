"""Threads blocked on sockets of one stack: each wakes for what is its own, however many sleep beside it."""

import socket
import threading

import pytest

import ustack


@pytest.fixture
def stacks():
    near, far = ustack.pair()
    with ustack.Stack() as a, ustack.Stack() as b:
        a.add_interface(near, addresses=["10.9.0.2/24"])
        b.add_interface(far, addresses=["10.9.0.1/24"])
        yield a, b


class Blocked(threading.Thread):
    """A thread that blocks in a call; `outcome` is what came of it."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call = call
        self.entered = threading.Event()
        self.outcome = None
        self.start()
        self.entered.wait(10)

    def run(self):
        self.entered.set()
        try:
            self.outcome = self.call()
        except OSError as e:
            self.outcome = e


@pytest.mark.parametrize("order", [1, -1], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("count", [2, 7])
def test_close_wakes_who_is_blocked_on_that_socket(stacks, count, order):
    _, b = stacks
    listeners = [b.create_server(("10.9.0.1", 7000 + i)) for i in range(count)]
    threads = [Blocked(s.accept) for s in listeners]
    for listener, thread in list(zip(listeners, threads, strict=True))[::order]:
        listener.close()
        thread.join(10)
        assert isinstance(thread.outcome, OSError), "still blocked"


def test_each_of_many_is_woken_by_its_own_data(stacks):
    a, b = stacks
    with b.create_server(("10.9.0.1", 7000)) as listener:
        pairs = []
        for _ in range(6):
            client = a.create_connection(("10.9.0.1", 7000))
            pairs.append((client, listener.accept()[0]))
    try:
        for _ in range(20):
            threads = [Blocked(lambda s=server: s.recv(10)) for _, server in pairs]
            for i, (client, _) in reversed(list(enumerate(pairs))):
                client.sendall(b"%d" % i)
                threads[i].join(10)
                assert threads[i].outcome == b"%d" % i
    finally:
        for one in pairs:
            for s in one:
                s.close()


def test_a_datagram_wakes_the_oldest_of_three(stacks):
    a, b = stacks
    sockets = [b.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    try:
        for i, s in enumerate(sockets):
            s.bind(("10.9.0.1", 9000 + i))
        threads = [Blocked(lambda s=s: s.recv(100)) for s in sockets]
        with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for i in range(3):
                sender.sendto(b"%d" % i, ("10.9.0.1", 9000 + i))
                threads[i].join(10)
                assert threads[i].outcome == b"%d" % i
    finally:
        for s in sockets:
            s.close()
