"""Streams, listeners and datagram sockets of ``ustack.trio``: trio's own suites, and what they leave out."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import ustack
import ustack.trio as ut
from ustack.socket import SF_NODISKIO
from ustack.trio import SocketStream

PORT = 7000
Bed = tuple[ustack.Stack, ustack.Stack, str]


def two_stacks(**options: Any) -> Bed:
    """Two stacks on one cable; where the second one lives."""
    a, b = ustack.Stack(**options), ustack.Stack(**options)
    one, other = ustack.pair()
    a.add_interface(one, ["10.0.0.1/24"])
    b.add_interface(other, ["10.0.0.2/24"])
    return a, b, "10.0.0.2"


def two_stacks_and_a_bad_cable() -> Bed:
    """Two stacks on a cable that loses, reorders and doubles packets."""
    a, b = ustack.Stack(), ustack.Stack()
    one, other = ustack.pair()
    a.add_interface(
        ustack.Impair(one, seed=1, loss=0.02, duplicate=0.02, reorder=0.05, delay=0.001), ["10.0.0.1/24"])
    b.add_interface(other, ["10.0.0.2/24"])
    return a, b, "10.0.0.2"


def one_stack() -> Bed:
    """One stack that talks to itself."""
    a = ustack.Stack()
    return a, a, "127.0.0.1"


@asynccontextmanager
async def closing(bed: Bed) -> AsyncIterator[Bed]:
    try:
        yield bed
    finally:
        bed[0].close(0)
        bed[1].close(0)


async def connected(bed: Bed) -> tuple[SocketStream, SocketStream]:
    a, b, host = bed
    (listener,) = await ut.open_tcp_listeners(b, 0, host=host)
    async with listener:
        client = await ut.open_tcp_stream(a, host, listener.socket.getsockname()[1])
        return client, await listener.accept()


def makers(bed: Bed, stall: float = 0.02) -> tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]:
    async def plain() -> tuple[SocketStream, SocketStream]:
        return await connected(bed)

    async def clogged() -> tuple[SocketStream, SocketStream]:
        left, right = await connected(bed)
        for stream in (left, right):
            while True:
                with trio.move_on_after(stall) as scope:
                    await stream.send_all(bytes(1 << 16))
                if scope.cancelled_caught:
                    break
        return left, right

    return plain, clogged


@pytest.mark.parametrize("make", [two_stacks, one_stack])
def test_trio_agrees_that_it_is_a_stream(make: Callable[[], Bed]) -> None:
    async def main() -> None:
        async with closing(make()) as bed:
            plain, clogged = makers(bed)
            await trio.testing.check_one_way_stream(plain, clogged)
            await trio.testing.check_two_way_stream(plain, clogged)
            await trio.testing.check_half_closeable_stream(plain, clogged)

    trio.run(main)


def test_trio_agrees_over_a_bad_cable() -> None:
    async def main() -> None:
        async with closing(two_stacks_and_a_bad_cable()) as bed:
            # Until nothing moves for longer than a retransmission takes.
            plain, clogged = makers(bed, stall=0.5)
            await trio.testing.check_two_way_stream(plain, clogged)

    trio.run(main)


async def fill(stream: SocketStream, seed: int, size: int) -> str:
    """Send a stream of bytes that depends on the seed, then end it; its SHA-256."""
    digest = hashlib.sha256()
    block = hashlib.sha256(bytes([seed])).digest() * 300
    for at in range(0, size, len(block)):
        part = block[:size - at]
        digest.update(part)
        await stream.send_all(part)
    await stream.send_eof()
    return digest.hexdigest()


async def drain(stream: SocketStream, cancel_every: int = 0) -> str:
    """Receive to the end; SHA-256. With cancel_every, every so many receives one is cancelled before it starts."""
    digest = hashlib.sha256()
    count = 0
    while True:
        count += 1
        with trio.CancelScope() as scope:
            if cancel_every and count % cancel_every == 0:
                scope.cancel()
            part = await stream.receive_some(5000)
            if not part:
                return digest.hexdigest()
            digest.update(part)


def test_both_directions_at_once_are_exact() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            left, right = await connected(bed)
            sums: dict[str, str] = {}

            async def run(name: str, function: Callable[..., Awaitable[str]], *args: Any) -> None:
                sums[name] = await function(*args)

            async with left, right, trio.open_nursery() as nursery:
                nursery.start_soon(run, "sent by left", fill, left, 1, 3_000_000)
                nursery.start_soon(run, "sent by right", fill, right, 2, 2_000_000)
                nursery.start_soon(run, "seen by left", drain, left, 7)
                nursery.start_soon(run, "seen by right", drain, right, 3)
            assert sums["seen by right"] == sums["sent by left"]
            assert sums["seen by left"] == sums["sent by right"]

    trio.run(main)


def test_a_cancelled_receive_that_was_waiting_loses_nothing() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            left, right = await connected(bed)
            async with left, right:
                got = b""
                for step in range(200):
                    async with trio.open_nursery() as nursery:
                        async def receive(scope: trio.CancelScope) -> None:
                            nonlocal got
                            with scope:
                                got += await right.receive_some()

                        scope = trio.CancelScope()
                        nursery.start_soon(receive, scope)
                        await trio.testing.wait_all_tasks_blocked()
                        # The data arrives and the cancellation is asked for in the same breath.
                        left.socket.send(b"%06d" % step)
                        if step % 2:
                            scope.cancel()
                left.socket.shutdown(1)
                while part := await right.receive_some():
                    got += part
                assert got == b"".join(b"%06d" % step for step in range(200))

    trio.run(main)


def test_two_tasks_in_one_direction_are_busy() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            left, right = await connected(bed)
            async with left, right:
                for call in (left.receive_some, left.wait_send_all_might_not_block):
                    if call == left.wait_send_all_might_not_block:
                        with trio.move_on_after(0.05):
                            while True:
                                await left.send_all(bytes(1 << 16))
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(call)
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        with pytest.raises(trio.BusyResourceError):
                            await call()
                        nursery.cancel_scope.cancel()

    trio.run(main)


def test_reset_breaks_the_stream() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            left, right = await connected(bed)
            async with left, right:
                right.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")       # SO_LINGER, 0 s
                await right.aclose()
                with pytest.raises(trio.BrokenResourceError):
                    await left.receive_some()
                with pytest.raises(trio.BrokenResourceError):
                    await left.send_all(b"x")

    trio.run(main)


@pytest.mark.parametrize("how", ["here", "thread"])
def test_closing_the_stack_wakes_the_tasks(how: str) -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a = bed[0]
            left, right = await connected(bed)
            (listener,) = await ut.open_tcp_listeners(a, 0)
            udp = await ut.open_udp_socket(a, local_address=("10.0.0.1", 53))
            woken = 0

            async def expect(call: Callable[[], Awaitable[object]]) -> None:
                nonlocal woken
                with pytest.raises(trio.ClosedResourceError):
                    await call()
                woken += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, left.receive_some)
                nursery.start_soon(expect, listener.accept)
                nursery.start_soon(expect, udp.recvfrom)
                await trio.testing.wait_all_tasks_blocked(0.01)
                if how == "here":
                    a.close(0)
                else:
                    await trio.to_thread.run_sync(a.close)
                with trio.fail_after(10):
                    while woken < 3:
                        await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(trio.ClosedResourceError):
                await left.send_all(b"x")
            await left.aclose()
            await right.aclose()
            await listener.aclose()
            await udp.aclose()

    trio.run(main)


def test_errors_of_connecting_and_listening() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a, b, host = bed
            with pytest.raises(ConnectionRefusedError):
                await ut.open_tcp_stream(a, host, 9)
            with pytest.raises(OSError, match="unreachable"):
                await ut.open_tcp_stream(a, "192.0.2.1", 9)
            with trio.move_on_after(0.02) as scope:
                await ut.open_tcp_stream(a, "10.0.0.77", 9)
            assert scope.cancelled_caught
            (listener,) = await ut.open_tcp_listeners(b, 81)
            with pytest.raises(OSError, match="in use"):
                await ut.open_tcp_listeners(b, 81)
            async with listener, trio.open_nursery() as nursery:
                nursery.start_soon(listener.accept)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(trio.BusyResourceError):
                    await listener.accept()
                nursery.cancel_scope.cancel()
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()
            with pytest.raises(TypeError):
                SocketStream(object())  # type: ignore[arg-type]

    trio.run(main)


def test_a_thousand_connections() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a, b, host = bed
            finished = 0

            async def echo(stream: SocketStream) -> None:
                async with stream:
                    async for part in stream:
                        await stream.send_all(part)

            async def client(number: int, everybody_is_here: trio.Event) -> None:
                nonlocal finished
                async with await ut.open_tcp_stream(a, host, PORT) as stream:
                    finished += 1
                    if finished == 1000:
                        everybody_is_here.set()
                    await everybody_is_here.wait()
                    message = b"%d " % number * 100
                    await stream.send_all(message)
                    got = b""
                    while len(got) < len(message):
                        got += await stream.receive_some()
                    assert got == message
                    finished += 1

            async with trio.open_nursery() as nursery:
                await nursery.start(ut.serve_tcp, echo, b, PORT)
                with trio.fail_after(60):
                    event = trio.Event()
                    async with trio.open_nursery() as clients:
                        for number in range(1000):
                            clients.start_soon(client, number, event)
                nursery.cancel_scope.cancel()
            assert finished == 2000

    trio.run(main)


def test_datagrams() -> None:
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a, b, host = bed
            server = await ut.open_udp_socket(b, local_address=(host, 53))
            client = await ut.open_udp_socket(a)
            async with server, client, trio.open_nursery() as nursery:
                async def echo() -> None:
                    for _ in range(3):
                        data, sender = await server.recvfrom()
                        await server.sendto(data.upper(), sender)

                nursery.start_soon(echo)
                client.connect((host, 53))
                for word in (b"one", b"two", b""):
                    assert await client.sendto(word) == len(word)
                    assert await client.recvfrom() == (word.upper(), (host, 53))
                assert client.getsockname()[0] == "10.0.0.1"
                with pytest.raises(OSError, match="too long"):
                    await client.sendto(bytes(66000))
            async with await ut.open_udp_socket(a) as client:
                client.connect((host, 54))
                await client.sendto(b"nobody")
                with pytest.raises(ConnectionRefusedError):
                    await client.recvfrom()

    trio.run(main)


def test_after_the_run_the_stack_looks_after_itself() -> None:
    a, b, host = two_stacks()
    with a, b:
        async def main() -> None:
            left, right = await connected((a, b, host))
            await left.send_all(b"before")
            assert await right.receive_some() == b"before"
            await left.aclose()
            await right.aclose()

        for _ in range(2):
            trio.run(main)
            with b.create_server((host, PORT)) as server, a.create_connection((host, PORT), 5) as client:
                there, _ = server.accept()
                with there:
                    there.sendall(b"after")
                    assert client.recv(10) == b"after"


def test_one_stack_is_not_for_two_runs_at_once() -> None:
    async def main() -> None:
        async with closing(one_stack()) as bed:
            await connected_and_closed(bed)

            def elsewhere() -> None:
                trio.run(connected_and_closed, bed)

            with pytest.raises(RuntimeError, match="another trio run"):
                await trio.to_thread.run_sync(elsewhere)

    trio.run(main)


async def connected_and_closed(bed: Bed) -> None:
    left, right = await connected(bed)
    await left.aclose()
    await right.aclose()


def test_blocking_threads_beside_trio() -> None:
    """A thread blocked in accept() and recv() of the same stack takes nothing away from the tasks."""
    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a, b, host = bed
            server = b.create_server((host, PORT))

            def blocking_echo() -> None:
                conn, _ = server.accept()
                with conn:
                    while data := conn.recv(100000):
                        conn.sendall(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, blocking_echo)
                left, right = await connected(bed)
                async with left, right, await ut.open_tcp_stream(a, host, PORT) as third:
                    with trio.fail_after(60):
                        for _ in range(100):        # each is two hand-overs between threads
                            await left.send_all(b"x" * 3000)
                            await third.send_all(b"y" * 3000)
                            for stream in (right, third):
                                got = 0
                                while got < 3000:
                                    got += len(await stream.receive_some())
            server.close()

    trio.run(main)


def test_a_virtual_stack_runs_on_trios_clock() -> None:
    """Handshake, data, close and the TIME-WAIT behind it, twice: the same packets at the same times."""
    def once() -> list[tuple[int, bytes]]:
        packets: list[tuple[int, bytes]] = []

        async def main() -> None:
            a, b = (ustack.Stack(clock=ustack.VirtualClock(), seed=name) for name in "ab")
            with a, b:
                here, there = ustack.Pipe(), ustack.Pipe()
                a.add_interface(here, ["10.0.0.1/24"])
                b.add_interface(there, ["10.0.0.2/24"])

                async def carry() -> None:
                    while True:         # one task: trio would wake two of them in any order
                        await trio.sleep(0.02)
                        for source, sink in ((here, there), (there, here)):
                            for _, packet in source.drain():
                                packets.append((a.now_ns(), packet))
                                sink.inject(packet)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(carry)
                    left, right = await connected((a, b, "10.0.0.2"))
                    async with trio.open_nursery() as both:
                        both.start_soon(fill, left, 1, 300_000)
                        both.start_soon(drain, right)
                    await left.aclose()
                    await right.aclose()
                    await trio.sleep(200)
                    assert not a.sockets()
                    assert not b.sockets()
                    nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return packets

    first = once()
    assert len(first) > 200
    assert once() == first


def test_files() -> None:
    """In pieces, as the other end takes them; a part of it; errors of the file are the file's."""
    body = bytes(range(256)) * 40_000

    async def send(a: SocketStream) -> None:
        with tempfile.TemporaryFile() as f:
            f.write(body)
            f.flush()
            assert await a.send_file(f) == len(body)
            assert await a.send_file(f, 256, 512, how="copy") == 512
            f.seek(len(body) - 10)
            assert await a.send_file(f, None) == 10
            assert await a.send_file(f, len(body)) == 0
            await a.send_eof()
            with pytest.raises(trio.ClosedResourceError):
                await a.send_file(f)

    async def main() -> None:
        async with closing(two_stacks()) as bed:
            a, b = await connected(bed)
            got = bytearray()
            async with a, b, trio.open_nursery() as nursery:
                nursery.start_soon(send, a)
                async for part in b:
                    got += part
                folder = os.open(".", os.O_RDONLY)
                with pytest.raises(OSError, match="directory"):
                    await b.send_file(folder, None)
                os.close(folder)
            assert bytes(got) == body + body[256:768] + body[-10:]

    trio.run(main)


def test_a_file_that_a_disk_would_have_to_be_waited_for(tmp_path: Path) -> None:
    """SF_NODISKIO: what is in memory goes; somebody else reads on, and so it ends."""
    body = bytes(range(256)) * 16384
    with open(tmp_path / "cold", "w+b", buffering=0) as f:
        f.write(body)
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 1 << 20, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(f.fileno(), [bytearray(1)], 3 << 20, os.RWF_NOWAIT)
            pytest.skip("this file system keeps files in memory")
        except BlockingIOError:
            pass
        except OSError:
            pytest.skip("this file system does not say what is in memory")

        async def send(a: SocketStream) -> None:
            waits = sent = 0
            while sent < len(body):
                try:
                    sent += await a.send_file(f, sent, flags=SF_NODISKIO)
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    waits += 1
                    sent += error.moved  # type: ignore[attr-defined]
                    await trio.to_thread.run_sync(os.pread, f.fileno(), 1 << 20, sent)
            assert waits
            with pytest.raises(OSError, match="SF_NODISKIO"):
                await a.send_file(f, flags=2)
            await a.send_eof()

        async def main() -> None:
            async with closing(two_stacks()) as bed:
                a, b = await connected(bed)
                got = bytearray()
                async with a, b, trio.open_nursery() as nursery:
                    nursery.start_soon(send, a)
                    async for part in b:
                        got += part
                assert bytes(got) == body

        trio.run(main)
