"""Threads on one stack: random calls, closes of each other's sockets, Ctrl-C at any moment. Real time, real threads.

Run as a program (tools/torture --threads STEPS does): a deadlock cannot hang it, since a watchdog in C dumps every
thread's stack and ends the process when nobody has got a step further for a while.
"""

from __future__ import annotations

import faulthandler
import gc
import signal
import socket as kernel
import struct
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from ustack import Stack
from ustack.socket import SO_LINGER, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socket

HOST = "127.0.0.1"
PORTS = range(7000, 7004)
WORKERS = 8                 # the main thread, which is interrupted, is one of them
COUPLES = 1                 # two of them play ping-pong, and must never be forgotten asleep
SOCKETS = 40                # that the others share
PATIENCE = 30.0             # seconds without a step after which it is a deadlock
FORGOTTEN = 20.0            # seconds after which a sleeper has been forgotten


class Storm:
    """One stack, sockets that everybody uses and closes, and threads that do."""

    expected: tuple[type[Exception], ...] = (OSError,)      # what a call may raise

    def __init__(self, steps: int, seed: int):
        self.left = steps
        self.seed = seed
        self.stack = Stack()
        self.sockets: list[socket] = []
        self.lent: list[Any] = []
        self.done = [0] * WORKERS
        self.errors: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.over = threading.Event()
        self.interrupts = 0
        self.armed = False
        self.menu = self.calls()

    # --- steps ----------------------------------------------------------------------------------------------------

    def some(self, dice: Random) -> socket:
        """A socket out of those that are shared."""
        return self.sockets[dice.randrange(len(self.sockets))]

    def keep(self, sock: socket, dice: Random) -> None:
        """Share it; where there are too many, one goes."""
        sock.settimeout(dice.choice((0, 0.001, 0.02)))
        if len(self.sockets) < SOCKETS:
            self.sockets.append(sock)
        else:
            k = dice.randrange(SOCKETS)
            self.sockets[k], old = sock, self.sockets[k]
            old.close()

    def listen(self, dice: Random) -> None:
        """A listener on one of few ports: often it is taken."""
        sock = self.stack.socket()
        self.keep(sock, dice)
        sock.bind((HOST, dice.choice(PORTS)))
        sock.listen(dice.randrange(5))

    def connect(self, dice: Random) -> None:
        """Connect to one of them."""
        sock = self.stack.socket()
        self.keep(sock, dice)
        sock.connect((HOST, dice.choice(PORTS)))

    def accept(self, dice: Random) -> None:
        """On whatever socket: most are no listeners."""
        self.keep(self.some(dice).accept()[0], dice)

    def send(self, dice: Random) -> None:
        """A little or much."""
        self.some(dice).send(bytes(dice.choice((1, 1000, 100_000))))

    def receive(self, dice: Random) -> None:
        """By copy, into a buffer, or lent for a while."""
        how = dice.randrange(3)
        if how == 0:
            self.some(dice).recv(dice.choice((1, 1000, 100_000)))
        elif how == 1:
            self.some(dice).recv_into(bytearray(1000))
        else:
            self.lent.append(self.some(dice).recv_buffers(10_000))
            if len(self.lent) > 20:
                self.lent.clear()

    def datagram(self, dice: Random) -> None:
        """To one of the same ports."""
        sock = self.stack.socket(type=kernel.SOCK_DGRAM)
        self.keep(sock, dice)
        sock.bind((HOST, dice.choice((0, *PORTS))))
        sock.sendto(bytes(dice.randrange(2000)), (HOST, dice.choice(PORTS)))

    def close(self, dice: Random) -> None:
        """Close, shut down, or have closing reset, whatever others are doing with it."""
        sock = self.some(dice)
        how = dice.randrange(4)
        if how == 0:
            sock.shutdown(dice.randrange(3))
        elif how == 1:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def look(self, dice: Random) -> None:
        """Ask about everything."""
        sock = self.some(dice)
        (self.stack.sockets, self.stack.stats, self.stack.memory, sock.getpeername, sock.getsockname, sock.fileno,
         lambda: repr(sock), lambda: sock.setsockopt(SOL_SOCKET, dice.choice((SO_RCVBUF, SO_SNDBUF)), 5000),
         sock._events, gc.collect if dice.random() < 0.01 else sock.fileno)[dice.randrange(10)]()

    # --- threads --------------------------------------------------------------------------------------------------

    def calls(self) -> tuple[Callable[[Random], None], ...]:
        """What is done at random; what is here twice, twice as often."""
        return (self.listen, self.connect, self.connect, self.accept, self.accept, self.send, self.send, self.receive,
                self.receive, self.datagram, self.close, self.look)

    def step(self, dice: Random) -> None:
        """One random call; what it raises is as good as what it returns, if it is expected."""
        try:
            dice.choice(self.menu)(dice)
        except self.expected as error:
            self.errors[type(error).__name__] += 1

    def work(self, number: int) -> None:
        """What a thread does."""
        dice = Random(f"{self.seed}/{number}")
        try:
            while not self.over.is_set():
                self.step(dice)
                self.done[number] += 1
        except BaseException as error:
            self.failures.append(error)
            self.over.set()

    def play(self, number: int, sock: socket, begins: bool) -> None:
        """Ping-pong of one byte: whoever waits has to be woken by the other's byte, in the midst of all this."""
        ball = b"x"
        try:
            if begins:
                sock.send(ball)
            while True:
                ball = sock.recv(1)
                if not ball:
                    return
                if begins and self.over.is_set():
                    sock.close()
                    return
                sock.send(ball)
                self.done[number] += 1
        except BaseException as error:
            self.failures.append(error)
            self.over.set()

    def couple(self) -> list[socket]:
        """Two connected sockets that are nobody else's."""
        with self.stack.create_server((HOST, 6999)) as server:
            one = self.stack.create_connection((HOST, 6999), timeout=FORGOTTEN)
            other = server.accept()[0]
        for sock in (one, other):
            sock.settimeout(FORGOTTEN)
        return [one, other]

    def workers(self, couple: list[socket]) -> list[threading.Thread]:
        """All of them but the main thread."""
        threads = [threading.Thread(target=self.play, args=(k, couple[k], k == 0), daemon=True) for k in range(2)]
        return threads + [threading.Thread(target=self.work, args=(k,), daemon=True) for k in range(2, WORKERS - 1)]

    def run(self) -> None:
        """Start everybody; the main thread works too, and is interrupted by SIGINT again and again."""
        dice = Random(f"{self.seed}/main")
        for _ in range(10):
            self.keep(self.stack.socket(), dice)
        couple = self.couple()
        threads = self.workers(couple)
        annoyer = threading.Thread(target=self.annoy, args=(threading.main_thread().ident,), daemon=True)
        for thread in (*threads, annoyer):
            thread.start()
        while not self.over.is_set():
            try:
                self.work_and_watch(dice)
            except KeyboardInterrupt:
                self.interrupts += 1        # undisturbed: the next one comes when it is armed again
        annoyer.join(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                raise AssertionError(f"{thread.name} does not come back")
        self.finish(couple)

    def work_and_watch(self, dice: Random) -> None:
        """What the main thread does until it is interrupted, or all is done."""
        seen = -1
        while not self.over.is_set():
            self.armed = True               # each step: an interrupt inside a finaliser is lost
            self.step(dice)
            self.done[-1] += 1
            total = sum(self.done)
            if total != seen:
                faulthandler.dump_traceback_later(PATIENCE, exit=True)
                seen = total
            if total >= self.left:
                self.over.set()
        self.armed = False

    def interrupt(self, number: int, frame: object) -> None:
        """SIGINT: as usual, but only where it is caught."""
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def annoy(self, main: int) -> None:
        """Ctrl-C, at random."""
        dice = Random(f"{self.seed}/annoyer")
        while not self.over.wait(dice.choice((0.0005, 0.005, 0.03))):
            signal.pthread_kill(main, signal.SIGINT)

    def finish(self, couple: list[socket]) -> None:
        """Close everything, and look whether something is left."""
        for sock in (*self.sockets, *couple):
            sock.close()
        self.sockets.clear()
        self.lent.clear()
        gc.collect()
        self.stack.close()
        if self.failures:
            raise self.failures[0]
        if self.stack.memory()["live"]:
            raise AssertionError(f"blocks that nobody gave back: {self.stack.memory()}")


def storm(steps: int, seed: int, kind: type[Storm] = Storm) -> str:
    """So many steps of all threads together; what was done, in words. Raises what went wrong; never hangs."""
    warnings.simplefilter("ignore", ResourceWarning)    # an interrupt may come between making a socket and keeping it
    begin = time.monotonic()
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    sys.unraisablehook = lambda what: None              # an interrupt inside a finaliser is lost
    one = kind(steps, seed)
    signal.signal(signal.SIGINT, one.interrupt)
    try:
        one.run()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return (f"steps={sum(one.done)} threads={WORKERS} refused={sum(one.errors.values())} "
            f"interrupts={one.interrupts} rallies={one.done[0]} failures=0 seconds={time.monotonic() - begin:.0f}")
