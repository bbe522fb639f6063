"""Stream sockets over stacks: the calls, their modes and errors, as the standard module has them."""

from __future__ import annotations

import errno
import hashlib
import os
import selectors
import signal
import socket as std
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import ustack
from ustack import socket as us

PORT = 8080
Bed = tuple[ustack.Stack, ustack.Stack, str]


@pytest.fixture(params=["pair", "loopback"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A client's stack, a server's, and where the server lives."""
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


@pytest.fixture
def connection(bed: Bed) -> Iterator[tuple[us.socket, us.socket]]:
    a, b, host = bed
    with b.create_server((host, PORT)) as server:
        client = a.create_connection((host, PORT), 10)
        conn, _ = server.accept()
    conn.settimeout(10)
    with client, conn:
        yield client, conn


def in_thread(function: Callable[[], object]) -> Callable[[], BaseException | object]:
    """Run it in a thread; the returned function joins it, and gives what it returned or raised."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> Any:
        thread.join(20)
        assert not thread.is_alive(), "still blocked"
        return result[0]

    return join


def wait_blocked(stack: ustack.Stack, moment: float = 0.05) -> None:
    """Give a thread time to get into its call; the test holds whether it got there or not."""
    time.sleep(moment)


# --- modes and connecting -----------------------------------------------------------------------------------------

def test_non_blocking_connect(bed: Bed) -> None:
    a, b, host = bed
    with b.create_server((host, PORT)) as server, a.socket() as s:
        s.setblocking(False)
        first = s.connect_ex((host, PORT))
        assert first in (0, errno.EINPROGRESS)
        conn, peer = server.accept()
        with conn:
            with selectors.DefaultSelector() as selector:
                selector.register(s, selectors.EVENT_WRITE)
                assert selector.select(10)
            assert s.getsockopt(us.SOL_SOCKET, us.SO_ERROR) == 0
            assert s.connect_ex((host, PORT)) == 0              # as on Linux: the call that learns how it went
            assert s.connect_ex((host, PORT)) == errno.EISCONN
            assert s.getsockname() == peer
            assert s.getpeername() == conn.getsockname() == (host, PORT)
            with pytest.raises(BlockingIOError):
                s.recv(1)
            with pytest.raises(BlockingIOError):
                conn.recv(1, us.MSG_DONTWAIT)


def test_connect_that_takes_long() -> None:
    with ustack.Stack() as a:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        with a.socket() as s:
            s.setblocking(False)
            assert s.connect_ex(("10.0.0.9", 1)) == errno.EINPROGRESS
            assert s.connect_ex(("10.0.0.9", 1)) == errno.EALREADY
        with a.socket() as s:
            s.settimeout(0.05)
            with pytest.raises(TimeoutError):
                s.connect(("10.0.0.9", 1))
        a.close(0)
        there.close()


def test_refused_and_unreachable(bed: Bed) -> None:
    a, _, host = bed
    with a.socket() as s:
        with pytest.raises(ConnectionRefusedError) as info:
            s.connect((host, 9))
        assert info.value.errno == errno.ECONNREFUSED
        assert s.connect_ex((host, 9)) == errno.ECONNREFUSED
    with a.socket() as s:
        s.setblocking(False)
        assert s.connect_ex((host, 9)) in (errno.EINPROGRESS, errno.ECONNREFUSED)
        with selectors.DefaultSelector() as selector:
            selector.register(s, selectors.EVENT_WRITE)
            assert selector.select(10)
    with a.socket() as s:
        with pytest.raises(OSError, match="Errno") as other:
            s.connect(("192.0.2.1", 9))
        assert other.value.errno == errno.ENETUNREACH


def test_timeouts(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    for value in (None, 0.0, 1.5):
        client.settimeout(value)
        assert client.gettimeout() == value
        assert client.getblocking() is (value != 0)
    with pytest.raises(ValueError, match="range"):
        client.settimeout(-1)
    client.settimeout(0.02)
    with pytest.raises(TimeoutError):
        client.recv(1)
    conn.settimeout(0.02)
    with pytest.raises(TimeoutError):
        conn.sendall(bytes(50_000_000))
    with pytest.raises(TimeoutError):
        conn.sendall(bytes(50_000_000))


def test_bind_and_listen_errors(bed: Bed) -> None:
    _, b, host = bed
    with b.create_server((host, PORT)), b.socket() as s:
        with pytest.raises(OSError, match="in use") as info:
            s.bind((host, PORT))
        assert info.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="Errno") as other:
            s.bind(("192.0.2.1", PORT))
        assert other.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(OSError, match="Errno") as third:
            s.accept()
        assert third.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="Errno") as fourth:
            s.getpeername()
        assert fourth.value.errno == errno.ENOTCONN
        assert s.getsockname() == ("0.0.0.0", 0)
    with b.create_server((host, PORT)) as again:
        assert again.getsockopt(us.SOL_SOCKET, us.SO_REUSEADDR) == 1
        assert again.getsockopt(us.SOL_SOCKET, us.SO_ACCEPTCONN) == 1


@pytest.mark.parametrize("call", [
    lambda s: s.bind(("10.0.0.1", 70000)), lambda s: s.bind("10.0.0.1"), lambda s: s.connect(("nowhere.example", 1)),
    lambda s: s.recv(-1), lambda s: s.sendto(b"x", None), lambda s: s.sendall("text"), lambda s: s.shutdown(7),
    lambda s: s.recv_into(b"read only"), lambda s: s.setsockopt(1, 13, 1), lambda s: s.getsockopt(255, 255),
    lambda s: s.recvmsg(10, -1), lambda s: s.recvmsg_into([b"read only"]), lambda s: s.sendmsg([b"x"], [(0, 0)]),
    lambda s: s.recv_buffers(0), lambda s: s.makefile("x"),
])
def test_wrong_arguments_are_python_errors(bed: Bed, call: Callable[[us.socket], object]) -> None:
    with bed[0].socket() as s:
        s.settimeout(1)
        with pytest.raises((TypeError, ValueError, OSError, OverflowError)) as info:
            call(s)
        assert str(info.value)
        assert not isinstance(info.value, TimeoutError)


# --- data ------------------------------------------------------------------------------------------------------------

def test_flags_of_recv(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.sendall(b"abcdef")
    assert conn.recv(3, us.MSG_PEEK | us.MSG_WAITALL)[:1] == b"a"
    assert conn.recv(2) == b"ab"
    later = in_thread(lambda: conn.recv(8, us.MSG_WAITALL))
    client.sendall(b"ghij")
    assert later() == b"cdefghij"
    client.shutdown(us.SHUT_WR)
    assert conn.recv(10, us.MSG_WAITALL) == b""
    assert conn.recv(10) == b""


def test_every_way_to_receive(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.sendmsg([b"0123", b"456", b"", b"789"])
    buffer = bytearray(8)
    assert conn.recv_into(buffer, 2) == 2
    assert conn.recvfrom_into(memoryview(buffer)[2:], 2)[0] == 2
    assert conn.recvfrom(1) == (b"4", None)
    assert conn.recvmsg(1)[:2] == (b"5", [])
    one, other = bytearray(1), bytearray(10)
    assert conn.recvmsg_into([one, other])[0] == 4
    assert bytes(buffer[:4]) + one + other[:3] == b"01236789"


def test_shutdown(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.sendall(b"question")
    client.shutdown(us.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        client.send(b"more")
    assert conn.recv(100) == b"question"
    assert conn.recv(100) == b""
    conn.sendall(b"answer")
    assert client.recv(100) == b"answer"
    client.shutdown(us.SHUT_RD)
    assert client.recv(100) == b""


def test_linger_of_a_non_blocking_socket_does_not_wait() -> None:
    """Nor does one that is not connected."""
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        b.add_interface(there, ["10.0.0.2/24"])
        unconnected = a.socket()
        with b.create_server(("10.0.0.2", PORT)) as server:
            idle, client = (a.create_connection(("10.0.0.2", PORT), 60) for _ in range(2))
            for s in (unconnected, idle, client):
                s.setsockopt(us.SOL_SOCKET, us.SO_LINGER, struct.pack("ii", 1, 3600))
            unconnected.close()
            conns = [server.accept()[0] for _ in range(2)]
            b.remove_interface(there)           # from now on nothing is acknowledged
            client.setblocking(False)
            client.send(b"never arrives")
            closing = in_thread(client.close)
            assert closing() is None
            assert any(row["state"] == "FIN-WAIT-1" for row in a.sockets())
            for conn in conns:
                conn.close()
            idle.setsockopt(us.SOL_SOCKET, us.SO_LINGER, struct.pack("ii", 1, 0))
            idle.close()
        a.close(0)
        b.close(0)


def test_linger_zero_resets(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.setsockopt(us.SOL_SOCKET, us.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        conn.recv(1)
    with pytest.raises(BrokenPipeError):
        conn.send(b"x")


def test_unread_data_resets(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.sendall(b"never read")
    assert conn.recv(1, us.MSG_PEEK)
    conn.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_tcp_info_has_linuxs_layout(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    client.sendall(bytes(100_000))
    got = 0
    while got < 100_000:
        got += len(conn.recv(65536))
    raw = client.getsockopt(us.IPPROTO_TCP, us.TCP_INFO, 232)
    assert len(raw) == 232
    assert raw[0] == 1                                  # tcpi_state: ESTABLISHED
    rto, _ato, snd_mss, _rcv_mss = struct.unpack_from("IIII", raw, 8)
    assert 200_000 <= rto <= 120_000_000                # microseconds
    assert snd_mss >= 536
    assert struct.unpack_from("I", raw, 76) == (0x7FFFFFFF,)                # tcpi_snd_ssthresh: no loss so far
    assert struct.unpack_from("QQ", raw, 200) == (100_000, 0)               # tcpi_bytes_sent, tcpi_bytes_retrans
    assert struct.unpack_from("I", raw, 228)[0] > 0                         # tcpi_snd_wnd
    assert len(client.getsockopt(us.IPPROTO_TCP, us.TCP_INFO, 16)) == 16


def test_files(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    with client.makefile("w", encoding="utf-8", newline="\n") as out, conn.makefile("r", encoding="utf-8") as into:
        out.write("one\nzwei\u00e4\n")
        out.flush()
        assert into.readline() == "one\n"
        conn.close()                    # the file keeps it open
        client.shutdown(us.SHUT_WR)
        assert list(into) == ["zwei\u00e4\n"]
    assert conn.fileno() == -1


def test_binary_file_both_ways(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    with client.makefile("rwb") as one, conn.makefile("rwb", buffering=0) as other:
        one.write(b"x" * 10)
        one.flush()
        assert other.read(10) == b"x" * 10
        other.write(b"line\n")
        assert one.readline() == b"line\n"
    with pytest.raises(ValueError, match="binary"):
        client.makefile("r", buffering=0)


def test_lent_buffers_cost_no_copy() -> None:
    """On one stack: what recv_buffers() lends is what the sender queued, and nothing is copied for it."""
    with ustack.Stack() as net, net.create_server(("127.0.0.1", PORT)) as server:
        with net.create_connection(("127.0.0.1", PORT)) as client, server.accept()[0] as conn:
            data = Random(1).randbytes(200_000)
            client.sendall(data)
            before = net.ledger()
            lent: list[Any] = []
            while sum(len(memoryview(block)) for block in lent) < len(data):
                lent += conn.recv_buffers()
            assert net.ledger().get("rx.copy") == before.get("rx.copy")
            assert net.ledger()["tx.copy"] == before["tx.copy"]
            assert b"".join(bytes(block) for block in lent) == data
            assert memoryview(lent[0]).readonly
        net.close(0)
        assert b"".join(bytes(block) for block in lent) == data     # lent storage outlives the stack


# --- closing while others wait --------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["recv", "accept", "sendall", "connect"])
@pytest.mark.parametrize("who", ["socket", "stack"])
def test_closing_wakes_who_waits(what: str, who: str) -> None:
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, ["10.0.0.1/24"])
        b.add_interface(there, ["10.0.0.2/24"])
        with b.create_server(("10.0.0.2", PORT)) as server, a.create_connection(("10.0.0.2", PORT)) as client:
            conn, _ = server.accept()
            listener = a.create_server(("10.0.0.1", 81))
            fresh = a.socket()
            call, sock = {
                "recv": (lambda: client.recv(1), client),
                "accept": (listener.accept, listener),
                "sendall": (lambda: client.sendall(bytes(1 << 28)), client),
                "connect": (lambda: fresh.connect(("10.0.0.77", 1)), fresh),
            }[what]
            join = in_thread(call)
            wait_blocked(a)
            if who == "socket":
                sock.close()
            else:
                a.close(0)
            assert isinstance(join(), OSError)
            for one in (conn, listener, fresh):
                one.close()
        b.close(0)


def test_unclosed_things_warn(bed: Bed) -> None:
    s = bed[0].socket()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del s
    stack = ustack.Stack()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stack


def test_fork_gives_a_clear_error(bed: Bed) -> None:
    a, _, _ = bed
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = b"no error"
        try:
            a.socket()
        except RuntimeError as error:
            text = str(error).encode()
        finally:
            os.write(writer, text)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert b"forked" in said
    with a.socket():
        pass


@pytest.mark.parametrize("call", ["recv", "accept", "connect", "sendall"])
def test_ctrl_c_interrupts(call: str) -> None:
    program = f"""
import os, signal, sys, threading, time, ustack
a, b = ustack.Stack(), ustack.Stack()
here, there = ustack.pair()
a.add_interface(here, ["10.0.0.1/24"])
b.add_interface(there, ["10.0.0.2/24"])
server = b.create_server(("10.0.0.2", 80))
client = a.create_connection(("10.0.0.2", 80))
fresh = a.socket()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {{"recv": lambda: client.recv(1), "accept": lambda: [server.accept() for _ in range(2)],
      "connect": lambda: fresh.connect(("10.0.0.9", 1)), "sendall": lambda: client.sendall(bytes(1 << 28))}}[{call!r}]()
except KeyboardInterrupt:
    print("interrupted")
for thing in (fresh, client, server):
    thing.close()
a.close(0)
b.close(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=Path("/"))
    assert done.stdout == "interrupted\n", done.stderr


def test_signal_handler_that_returns_lets_the_call_go_on(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    seen = []

    def handler(*_: object) -> None:
        seen.append(1)
        conn.send(b"late")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert client.recv(10) == b"late"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen


# --- many ------------------------------------------------------------------------------------------------------------

def test_selectors_echo_server(bed: Bed) -> None:
    a, b, host = bed
    server = b.create_server((host, PORT))
    server.setblocking(False)
    def serve() -> int:
        served = finished = 0
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while finished < 30:
                ready = selector.select(10)
                assert ready, "nothing to do, and connections left"
                for key, _ in ready:
                    sock: Any = key.fileobj
                    if sock is server:
                        conn, _ = server.accept()
                        conn.setblocking(False)
                        selector.register(conn, selectors.EVENT_READ)
                        continue
                    data = sock.recv(1000)
                    if data:
                        sock.send(data)
                        served += len(data)
                    else:
                        selector.unregister(sock)
                        sock.close()
                        finished += 1
        return served

    join = in_thread(serve)
    for _ in range(3):
        clients = [a.create_connection((host, PORT), 10) for _ in range(10)]
        for k, client in enumerate(clients):
            client.sendall(b"%d" % k * 500)
        for k, client in enumerate(clients):
            with client:
                assert client.recv(500, us.MSG_WAITALL) == b"%d" % k * 500
    assert join() == 3 * 10 * 500
    server.close()


def test_many_stacks_in_one_process() -> None:
    stacks = [ustack.Stack() for _ in range(20)]
    for k, stack in enumerate(stacks):
        with stack.create_server(("127.0.0.1", PORT)) as server, stack.create_connection(("127.0.0.1", PORT)) as c:
            conn, _ = server.accept()
            with conn:
                c.sendall(b"%d" % k)
                assert conn.recv(10) == b"%d" % k
    for stack in stacks:
        stack.close(0)


def test_eight_threads_do_what_they_like(bed: Bed) -> None:
    a, b, host = bed
    with b.create_server((host, PORT), backlog=100) as server:
        def echo(conn: us.socket) -> None:
            with conn:
                try:
                    while data := conn.recv(65536):
                        conn.sendall(data)
                except OSError:
                    pass

        def acceptor() -> None:
            workers = []
            while True:
                try:
                    conn, _ = server.accept()
                except OSError:
                    break
                worker = threading.Thread(target=echo, args=(conn,), daemon=True)
                worker.start()
                workers.append(worker)
            for worker in workers:
                worker.join(60)

        def client(seed: int) -> int:
            dice = Random(seed)
            for _ in range(6):
                with a.create_connection((host, PORT), 20) as sock:
                    for _ in range(dice.randrange(6)):
                        data = dice.randbytes(dice.choice((1, 100, 5000, 60_000)))
                        sock.sendall(data)
                        assert sock.recv(len(data), us.MSG_WAITALL) == data
                    if dice.random() < 0.3:
                        sock.setsockopt(us.SOL_SOCKET, us.SO_LINGER, struct.pack("ii", 1, 0))
            return seed

        accepting = in_thread(acceptor)
        joins = [in_thread(partial(client, seed)) for seed in range(8)]
        assert [join() for join in joins] == list(range(8))
        server.close()
        assert accepting() is None


def test_bulk_is_exact(connection: tuple[us.socket, us.socket]) -> None:
    client, conn = connection
    data = Random(5).randbytes(5_000_000)

    def send() -> None:
        client.sendall(data)
        client.shutdown(us.SHUT_WR)

    join = in_thread(send)
    digest = hashlib.sha256()
    while part := conn.recv(100_000):
        digest.update(part)
    join()
    assert digest.digest() == hashlib.sha256(data).digest()


def test_the_module_stands_in_for_socket(bed: Bed) -> None:
    a, b, host = bed
    us.use(a)
    try:
        us.setdefaulttimeout(5)
        with us.socket() as s:
            assert s.gettimeout() == 5
            assert s.type == std.SOCK_STREAM
            assert s.family == std.AF_INET
        with b.create_server((host, PORT)) as server, us.create_connection((host, PORT)) as c:
            conn, _ = server.accept()
            with conn:
                assert conn.gettimeout() == c.gettimeout() == 5
        with pytest.raises(ExceptionGroup):
            us.create_connection((host, 9), all_errors=True)
    finally:
        us.setdefaulttimeout(None)
        us.use(None)
    with pytest.raises(RuntimeError, match="no stack"):
        us.socket()


@pytest.mark.parametrize(("option", "value"), [(us.SO_TYPE, std.SOCK_STREAM), (us.SO_DOMAIN, std.AF_INET),
                                               (us.SO_PROTOCOL, std.IPPROTO_TCP), (us.SO_ERROR, 0)])
def test_options_come_as_bytes_if_their_length_is_given(bed: Bed, option: int, value: int) -> None:
    with bed[0].socket() as s:
        assert s.getsockopt(us.SOL_SOCKET, option) == value
        assert s.getsockopt(us.SOL_SOCKET, option, 16) == struct.pack("i", value)


@pytest.mark.parametrize("length", [-1, 1025])
def test_a_length_of_an_option_that_cannot_be(bed: Bed, length: int) -> None:
    with bed[0].socket() as s, pytest.raises(OSError, match="out of range"):
        s.getsockopt(us.SOL_SOCKET, us.SO_TYPE, length)


def test_a_small_send_buffer_is_overrun_by_its_own_size_at_most(bed: Bed) -> None:
    """And by what has left already: nobody reads."""
    a, b, host = bed
    with b.socket() as server:
        server.setsockopt(us.SOL_SOCKET, us.SO_RCVBUF, 4096)
        server.bind((host, PORT))
        server.listen()
        with a.create_connection((host, PORT)) as client, server.accept()[0]:
            client.setsockopt(us.SOL_SOCKET, us.SO_SNDBUF, 10_000)
            client.setblocking(False)
            assert client.send(bytes(200_000)) <= 20_000 + 4096


def test_urgent_data_is_not_to_be_had_apart(bed: Bed) -> None:
    with bed[0].socket() as s, pytest.raises(OSError, match="urgent") as e:
        s.recv(1, std.MSG_OOB)
    assert e.value.errno == errno.EINVAL


def test_shutdown_of_a_listener_wakes_accept(bed: Bed) -> None:
    _, b, host = bed
    with b.create_server((host, PORT)) as server:
        failed = []

        def wait() -> None:
            try:
                server.accept()
            except OSError as e:
                failed.append(e.errno)

        join = in_thread(wait)
        server.shutdown(us.SHUT_RDWR)
        join()
        assert failed == [errno.EINVAL]
        with pytest.raises(OSError, match="accept"):
            server.accept()
