"""Threads that move bytes by every technique at once: what ``threads`` does with sockets, with what avoids copies.

Besides those who call and close at random, a courier sends a stream by one technique after the other to the second
stack, and whoever fetches it, by one technique after the other, looks at every byte.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import ustack
from torture.courier import PAGE, SIZE, Fetcher, Sender
from torture.threads import FORGOTTEN, PORTS, Storm
from ustack import Stack, fbufs, via
from ustack.socket import IPPROTO_TCP, SO_LINGER, SO_ZEROCOPY, SOL_SOCKET, TCP_NODELAY, socket

NEAR, FAR = "10.9.0.1", "10.9.0.2"
KINDS = ("protected", "strict", "volatile")
SECONDS = (0, 0.001, 0.02)      # that whoever calls at random waits


class Message:
    """VIs, and who waits for what, on one NIC."""

    def __init__(self, nic: via.Nic, ptag: via.Ptag):
        self.nic, self.ptag = nic, ptag
        self.buffers = via.buffers(nic, ptag, 2 * PAGE, 24)
        self.queues = [via.CompletionQueue(nic, 64) for _ in range(2)]
        self.vis = [self.vi() for _ in range(6)]

    def vi(self, **more: Any) -> via.Vi:
        """One, with room for few descriptors."""
        return via.Vi(self.nic, self.ptag, depth=8, **more)


class Moves(Storm):
    """Two stacks, one wire, and whatever moves bytes between them, into them and past them."""

    expected = (OSError, BufferError, MemoryError, via.ViaError, ValueError)    # FbufLost; sockets for datagrams

    def __init__(self, steps: int, seed: int):
        super().__init__(steps, seed)
        self.far = Stack()
        with contextlib.suppress(OSError):          # where there is no userfaultfd, mprotect alone
            ustack.cow_mechanism(("userfaultfd", "mprotect")[seed % 2])
        for net, link, ip in zip((self.stack, self.far), ustack.pair(device=True), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        self.cows = [ustack.CowBuffer(SIZE, spare=k * 16) for k in range(4)]
        self.flips = [ustack.FlipBuffer(SIZE) for _ in range(3)]
        self.maps = [ustack.ReceiveMapping(SIZE) for _ in range(3)]
        self.plain = [mmap.mmap(-1, SIZE) for _ in range(4)]
        self.pinned = [ustack.register(one) for one in self.plain[:2]]
        self.file = os.memfd_create("moves")
        os.write(self.file, bytes(SIZE))
        self.splices: list[ustack.Splice] = []
        self.channels = list(fbufs.pair())
        self.pools = [fbufs.Pool(2 * PAGE, 8, kind=kind) for kind in KINDS]
        self.fbufs: list[Any] = []
        nic = via.Nic()
        self.message = Message(nic, nic.ptag())
        self.techniques: Counter[str] = Counter()

    def calls(self) -> tuple[Callable[[Random], None], ...]:
        """The new ones, beside those of sockets, which open and close what these work on."""
        return (*super().calls(), self.join, self.join, self.join, self.join, self.in_place, self.in_place, self.share,
                self.share, self.scribble, self.post, self.exchange, self.show, self.give_file, self.begin_splice,
                self.end_splice, self.look_twice, self.hand_over, self.take_over, self.let_go, self.talk, self.talk,
                self.listen_to, self.reconnect, self.register, self.split_off)

    # --- sockets: either stack ------------------------------------------------------------------------------------

    def listen(self, dice: Random) -> None:
        """On the far stack half of the time."""
        if dice.random() < 0.5:
            return super().listen(dice)
        sock = self.far.socket()
        self.keep(sock, dice)
        sock.bind((FAR, dice.choice(PORTS)))
        sock.listen(3)
        return None

    def connect(self, dice: Random) -> None:
        """To the far stack half of the time."""
        if dice.random() < 0.5:
            return super().connect(dice)
        sock = self.stack.socket()
        self.keep(sock, dice)
        sock.connect((FAR, dice.choice(PORTS)))
        return None

    def join(self, dice: Random) -> None:
        """A connection that is sure to stand, for a while."""
        net, host = dice.choice(((self.stack, "127.0.0.1"), (self.far, FAR)))
        with net.create_server((host, 0)) as server:
            sock = self.stack.create_connection((host, server.getsockname()[1]), timeout=0.02)
            self.keep(sock, dice)
            server.settimeout(0.02)
            self.keep(server.accept()[0], dice)

    # --- sending --------------------------------------------------------------------------------------------------

    def part(self, dice: Random, whole: Any) -> memoryview:
        """Some of a buffer, whole pages or not."""
        begin = dice.choice((0, 0, PAGE, 17, dice.randrange(SIZE // 2)))
        return memoryview(whole)[begin:begin + dice.choice((100, PAGE, 5 * PAGE, 5 * PAGE + 77, SIZE // 2))]

    def in_place(self, dice: Random) -> None:
        """Direct, with completions, or by what the library chooses."""
        sock = self.some(dice)
        with self.part(dice, dice.choice((*self.plain, *self.flips))) as view:
            how = dice.randrange(4)
            if how == 0:
                sock.setsockopt(SOL_SOCKET, SO_ZEROCOPY, 1)
                sock.send(view, zerocopy=True)
                sock.completions(dice.choice(SECONDS))
            else:
                sock.send(view, direct=(True, "auto", "auto")[how - 1])

    def share(self, dice: Random) -> None:
        """By copy-on-write."""
        with self.part(dice, dice.choice((*self.cows, *self.cows, *self.plain))) as view:
            self.some(dice).send(view, cow=True)

    def scribble(self, dice: Random) -> None:
        """Write to what is shared."""
        with memoryview(dice.choice((*self.cows, *self.plain))) as view:
            for _ in range(dice.randrange(8)):
                k = dice.randrange(SIZE - 8)
                view[k:k + 8] = b"scribble"

    def give_file(self, dice: Random) -> None:
        """A part of a file."""
        self.some(dice).sendfile(self.file, dice.randrange(SIZE), dice.choice((1, 5000, None)),
                                 how=dice.choice(("auto", "gather", "copy", "mmap", "read")))

    # --- receiving ------------------------------------------------------------------------------------------------

    def post(self, dice: Random) -> None:
        """Into registered memory and other."""
        with self.part(dice, dice.choice(self.plain)) as view:
            self.some(dice).recv_posted(view)

    def exchange(self, dice: Random) -> None:
        """Page by page."""
        self.some(dice).recv_flip(dice.choice(self.flips), dice.choice((0, PAGE, 5000)), zero=dice.random() < 0.5)

    def show(self, dice: Random) -> None:
        """Pages mapped, or let go."""
        mapping = dice.choice(self.maps)
        if dice.random() < 0.2:
            mapping.release()
        else:
            self.some(dice).recv_zerocopy(mapping, bytearray(dice.choice((1, PAGE))))

    # --- past the program -----------------------------------------------------------------------------------------

    def begin_splice(self, dice: Random) -> None:
        """Between any two sockets, or from the file."""
        source: Any = self.file if dice.random() < 0.3 else self.some(dice)
        count = dice.choice((1, 10_000, -1))
        try:
            self.splices.append(ustack.splice(source, self.some(dice), count, wait=False, pass_end=dice.random() < 0.2))
        except ValueError:      # source and sink may be one
            return
        if len(self.splices) > 10:
            self.splices.pop(0).cancel()

    def end_splice(self, dice: Random) -> None:
        """Cancel one, or wait for it."""
        if self.splices:
            one = self.splices.pop(dice.randrange(len(self.splices)))
            if dice.random() < 0.5:
                one.wait(0.005)
            one.cancel()

    def look_twice(self, dice: Random) -> None:
        """Send what was received, and leave it."""
        ustack.tee(self.some(dice), self.some(dice), 5000)

    def split_off(self, dice: Random) -> None:
        """A child, seldom: fork with everything as it is."""
        if dice.random() < 0.02:
            subprocess.run(["true"], check=True, preexec_fn=lambda: None)       # with a function it is a fork(2)

    # --- fbufs ----------------------------------------------------------------------------------------------------

    def hand_over(self, dice: Random) -> None:
        """To the other end of the channel, or to a socket."""
        pool, channel = dice.choice(self.pools), dice.choice(self.channels)
        if dice.random() < 0.02:
            channel.close()
        if channel.closed:
            self.channels = list(fbufs.pair())
            return
        f = pool.alloc(dice.choice((5, None)), timeout=dice.choice(SECONDS))
        if dice.random() < 0.5:
            f.write(b"fbufs")
        how = dice.randrange(4)
        if how == 0:
            self.some(dice).send(f, direct=True)
        elif how == 1:
            self.fbufs.append(f.mblk())
        elif how == 2:
            channel.send(fbufs.Aggregate([f.window(0, 2), f.window(1, 3), f]), timeout=dice.choice(SECONDS))
        else:
            channel.send(f, timeout=dice.choice(SECONDS), keep=dice.random() < 0.2)

    def take_over(self, dice: Random) -> None:
        """From one end or the other."""
        got = dice.choice(self.channels).recv(dice.choice(SECONDS))
        if got is not None:
            self.fbufs.append(got)

    def let_go(self, dice: Random) -> None:
        """Free, read, or pass on."""
        if self.fbufs:
            one = self.fbufs.pop(dice.randrange(len(self.fbufs)))
            how = dice.randrange(4)
            if isinstance(one, fbufs.Aggregate):
                one.contiguous()
                one.free()
            elif how == 0 and isinstance(one, fbufs.Fbuf):
                one.copy_out()
            elif how == 1 and isinstance(one, fbufs.Fbuf):
                self.fbufs.append(one)      # twice: another thread frees it while this one sends it
                dice.choice(self.channels).send(one, timeout=0.001)

    # --- the message layer ----------------------------------------------------------------------------------------

    def talk(self, dice: Random) -> None:
        """Post to some VI."""
        m = self.message
        buffer, vi = dice.choice(m.buffers), dice.choice(m.vis)
        if dice.random() < 0.5:
            buffer.copy_in(b"message" * dice.randrange(100))
            vi.post_send(buffer)
        else:
            vi.post_recv(buffer)

    def listen_to(self, dice: Random) -> None:
        """Take back, or wait."""
        m = self.message
        vi, seconds = dice.choice(m.vis), dice.choice(SECONDS)
        (vi.send_done, vi.recv_done, lambda: vi.send_wait(seconds), lambda: vi.recv_wait(seconds), m.nic.poll,
         m.nic.errors, m.nic.stats, lambda: dice.choice(m.queues).wait(seconds), dice.choice(m.queues).done,
         lambda: vi.state)[dice.randrange(10)]()

    def reconnect(self, dice: Random) -> None:
        """Pair, part, make and destroy."""
        m = self.message
        how = dice.randrange(8)
        k = dice.randrange(len(m.vis))
        if how == 0:
            m.vis[k].disconnect()
        elif how == 1:
            old, m.vis[k] = m.vis[k], m.vi(reliability=dice.choice((1, 2, 2, 4)),
                                           send_cq=dice.choice((None, None, *m.queues)))
            old.destroy()
        elif how == 2:
            with via.Listener(m.nic, b"here") as one:
                one.wait(0.001)
        elif how == 3:
            m.vis[k].connect(b"here", timeout=0.001)
        else:
            via.pair(m.vis[k], dice.choice(m.vis))

    def register(self, dice: Random) -> None:
        """Memory, with the stack and with the NIC."""
        m = self.message
        one = dice.choice(self.plain)
        if dice.random() < 0.5:
            m.nic.register(one, m.ptag).deregister()
        else:
            with ustack.register(one):
                pass

    # --- the courier: what is sent arrives ------------------------------------------------------------------------

    def couple(self) -> list[socket]:
        """Of the two stacks, for the courier; ping-pong is played on the near one, as ever."""
        two = super().couple()
        with self.far.create_server((FAR, 6998)) as server:
            one = self.stack.create_connection((FAR, 6998), timeout=FORGOTTEN)
            other = server.accept()[0]
        one.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        for sock in (one, other):
            sock.settimeout(FORGOTTEN)
        return [*two, one, other]

    def workers(self, couple: list[socket]) -> list[threading.Thread]:
        """Two players, the courier and the fetcher, and those who work at random."""
        threads = super().workers(couple)
        threads[2:4] = [threading.Thread(target=self.guarded, args=(what, couple[k]), daemon=True)
                        for k, what in ((2, self.carry), (3, self.fetch))]
        return threads

    def guarded(self, what: Callable[[socket], None], sock: socket) -> None:
        """What goes wrong in a thread ends the storm."""
        try:
            what(sock)
        except BaseException as error:
            self.failures.append(error)
            self.over.set()

    def carry(self, sock: socket) -> None:
        """Until it is over."""
        sender = Sender(sock, self.seed, self.techniques)
        while not self.over.is_set():
            sender.step()
            self.done[2] += 1
        sender.end()

    def fetch(self, sock: socket) -> None:
        """Until the end of the stream."""
        fetcher = Fetcher(sock, self.seed, self.techniques)
        while fetcher.step():
            self.done[3] += 1
        fetcher.end()

    # --- the end --------------------------------------------------------------------------------------------------

    def finish(self, couple: list[socket]) -> None:
        """Take everything back; what is left then has been forgotten."""
        for splice in self.splices:
            splice.cancel()
        for registration in self.pinned:
            registration.close()
        for mapping in self.maps:
            mapping.release()
        for channel in self.channels:
            channel.close()
        for held in (self.splices, self.fbufs, self.lent):
            held.clear()
        for sock in (*self.sockets, *couple):
            with contextlib.suppress(OSError):
                sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            sock.completions(0)
        self.message.nic.close()
        os.close(self.file)
        self.empty()
        self.far.close()
        super().finish(couple)

    def empty(self) -> None:
        """Wait until neither stack has a block: those in the other's hands come back too, before they are closed."""
        if self.failures:
            raise self.failures[0]
        gc.collect()
        until = time.monotonic() + FORGOTTEN
        while left := [net.memory() for net in (self.stack, self.far) if net.memory()["live"]]:
            if time.monotonic() > until:
                raise AssertionError(f"blocks that nobody gave back: {left}")
            time.sleep(0.001)
        if shared := [one.shared for one in self.cows if one.shared]:
            raise AssertionError(f"pages that nobody let go: {shared}")
