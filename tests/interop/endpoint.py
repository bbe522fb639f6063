"""One end of a conversation: sockets by number, with the operations that the tests ask for.

The same class serves a stack in the test's own process (:class:`Local`), and the kernel or a second stack in a process
of its own (:class:`Remote`): what a test asks of one end it can ask of the other, and it can swap them.

Data: ``send(handle, n, seed)`` sends n bytes that the seed determines and returns their SHA-256; a block carries its
number, so that lost, repeated and exchanged blocks change the digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ustack import testbed

BLOCK = 1 << 18
PATIENCE = 60.0  # seconds after which a test is wrong, not slow


def blocks(n: int, seed: int) -> Iterator[memoryview]:
    """n bytes in blocks; the first 8 bytes of each block are its number."""
    block = bytearray(random.Random(seed).randbytes(BLOCK))
    for k in itertools.count():
        if n <= 0:
            return
        struct.pack_into("!Q", block, 0, k)
        yield memoryview(block)[: min(n, BLOCK)]
        n -= BLOCK


def digest_of(n: int, seed: int) -> str:
    """The SHA-256 of what ``send(handle, n, seed)`` sends."""
    sha = hashlib.sha256()
    for block in blocks(n, seed):
        sha.update(block)
    return sha.hexdigest()


class Endpoint:
    """Sockets of one end. ``net`` has the methods socket, create_connection and create_server."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.sockets: dict[int, Any] = {}
        self.numbers = itertools.count(1)

    def _add(self, s: Any) -> int:
        s.settimeout(PATIENCE)
        handle = next(self.numbers)
        self.sockets[handle] = s
        return handle

    def ready(self) -> bool:
        """True: the process has started, its stack runs."""
        return True

    # --- streams

    def listen(self, host: str, port: int = 0, backlog: int = 128) -> tuple[int, int]:
        """(handle, port) of a new listener."""
        s = self.net.create_server((host, port), backlog=backlog)
        return self._add(s), s.getsockname()[1]

    def connect(self, host: str, port: int, timeout: float = 10.0) -> int:
        return self._add(self.net.create_connection((host, port), timeout))

    def accept(self, listener: int) -> int:
        return self._add(self.sockets[listener].accept()[0])

    def send(self, handle: int, n: int, seed: int = 0, shut: bool = True) -> str:
        """Send n bytes, then a FIN unless told otherwise. Returns their SHA-256."""
        s = self.sockets[handle]
        for block in blocks(n, seed):
            s.sendall(block)
        if shut:
            s.shutdown(socket.SHUT_WR)
        return digest_of(n, seed)

    def receive(self, handle: int, n: int | None = None) -> tuple[int, str]:
        """Receive n bytes, or until the end of the stream: (how many, their SHA-256)."""
        s = self.sockets[handle]
        buffer = bytearray(BLOCK)
        sha = hashlib.sha256()
        got = 0
        while n is None or got < n:
            part = s.recv_into(buffer, BLOCK if n is None else min(BLOCK, n - got))
            if not part:
                break
            sha.update(memoryview(buffer)[:part])
            got += part
        return got, sha.hexdigest()

    def exchange(self, handle: int, n: int, seed: int) -> tuple[int, str]:
        """Send n bytes and a FIN in one thread while receiving in another; returns what came."""
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self.send, handle, n, seed)
            got = self.receive(handle)
            sending.result()
        return got

    def shutdown(self, handle: int, how: int = socket.SHUT_WR) -> None:
        self.sockets[handle].shutdown(how)

    def linger(self, handle: int, on: int, seconds: int) -> None:
        self.sockets[handle].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds))

    def close(self, handle: int) -> None:
        self.sockets.pop(handle).close()

    def close_all(self) -> None:
        while self.sockets:
            self.sockets.popitem()[1].close()

    # --- many streams at once

    def connect_many(self, host: str, port: int, n: int) -> list[int]:
        """n connections, all open at once."""
        return [self.connect(host, port, PATIENCE) for _ in range(n)]

    def accept_many(self, listener: int, n: int) -> list[int]:
        return [self.accept(listener) for _ in range(n)]

    def say_names(self, handles: list[int]) -> None:
        """On each stream, send the own and the peer's port."""
        for h in handles:
            s = self.sockets[h]
            s.sendall(struct.pack("!HH", s.getsockname()[1], s.getpeername()[1]))

    def hear_names(self, handles: list[int]) -> int:
        """On how many streams the right name came: the one that :meth:`say_names` gave at the other end."""
        good = 0
        for h in handles:
            s = self.sockets[h]
            good += s.recv(100) == struct.pack("!HH", s.getpeername()[1], s.getsockname()[1])
        return good

    # --- datagrams

    def udp(self, host: str, port: int = 0, broadcast: bool = False) -> tuple[int, int]:
        """(handle, port) of a bound datagram socket with a large receive buffer."""
        s = self.net.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if broadcast:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.bind((host, port))
        return self._add(s), s.getsockname()[1]

    def udp_connect(self, handle: int, host: str, port: int) -> None:
        self.sockets[handle].connect((host, port))

    def sendto(self, handle: int, data: bytes, host: str, port: int) -> int:
        return self.sockets[handle].sendto(data, (host, port))

    def recvfrom(self, handle: int, n: int = 65536) -> tuple[bytes, tuple[str, int]]:
        return self.sockets[handle].recvfrom(n)

    # --- raw calls

    def sock_send(self, handle: int, data: bytes) -> int:
        return self.sockets[handle].send(data)

    def sock_recv(self, handle: int, n: int = 65536) -> bytes:
        return self.sockets[handle].recv(n)

    def getsockname(self, handle: int) -> tuple[str, int]:
        return self.sockets[handle].getsockname()

    def error_of(self, handle: int) -> int:
        return self.sockets[handle].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def ping(self, host: str, size: int) -> float:
        return self.net.ping(host, size=size, timeout=PATIENCE)

    def stats(self) -> dict[str, int]:
        return self.net.stats()


class Local:
    """An endpoint in this process. ``call`` waits; ``start`` gives a Future. Handles mean the same in both."""

    def __init__(self, net: Any) -> None:
        self.endpoint = Endpoint(net)
        self.net = net
        self.pool = ThreadPoolExecutor(8, "endpoint")

    def call(self, what: str, *args: Any) -> Any:
        return getattr(self.endpoint, what)(*args)

    def start(self, what: str, *args: Any) -> Future[Any]:
        return self.pool.submit(self.call, what, *args)

    def close(self) -> None:
        self.endpoint.close_all()
        self.pool.shutdown()


class Remote:
    """An endpoint in a process of its own, inside a namespace: the kernel, or a stack over ``device``."""

    def __init__(self, ns: testbed.Namespace, device: str | None = None, address: str = "") -> None:
        mine, theirs = Pipe()
        # Not from PYTHONPATH, where the sources of the package would hide the installed one.
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        if device is not None:
            command += [device, address]
        self.program = ns.popen(*command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.connection = mine
        self.futures: dict[int, Future[Any]] = {}
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.reader = threading.Thread(target=self._read, daemon=True, name="remote")
        self.reader.start()
        self.call("ready")

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, ok, value = self.connection.recv()
                future = self.futures.pop(number)
                if ok:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        for future in list(self.futures.values()):
            future.set_exception(RuntimeError("the process of the other end has ended"))

    def start(self, what: str, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self.lock:
            number = next(self.numbers)
            self.futures[number] = future
            self.connection.send((number, what, args))
        return future

    def call(self, what: str, *args: Any) -> Any:
        return self.start(what, *args).result(2 * PATIENCE)

    def kill(self) -> None:
        """End the process as kill -9 does: the kernel closes what it had open."""
        self.program.send_signal(signal.SIGKILL)
        self.program.wait()

    def close(self) -> None:
        if self.program.poll() is None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.program.wait(5)
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        self.reader.join()
        self.connection.close()


def serve(net: Any, connection: Connection) -> None:
    """Do what the test's process asks for, each request in a thread of its own, until it hangs up."""
    endpoint = Endpoint(net)
    lock = threading.Lock()

    def act(number: int, what: str, args: tuple[Any, ...]) -> None:
        try:
            answer = (number, True, getattr(endpoint, what)(*args))
        except Exception as e:
            answer = (number, False, e)
        with lock:
            connection.send(answer)

    with contextlib.suppress(EOFError):
        while (request := connection.recv()) is not None:
            threading.Thread(target=act, args=request, daemon=True).start()
    endpoint.close_all()


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    if len(sys.argv) == 2:
        serve(socket, connection)  # the kernel's module has what a stack offers
        return
    import ustack

    device, address = sys.argv[2:]
    with ustack.Stack() as net:
        net.add_interface(ustack.PacketRing(device), addresses=[address])
        serve(net, connection)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads that still wait for something that will not come do not hold the end up
