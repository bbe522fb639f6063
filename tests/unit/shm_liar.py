"""A peer of a SharedMemory link, and a stack of its device, that write what they like into the shared rings."""

import mmap
import os
import socket
import struct
import threading
import time

from ustack import SharedMemory
from ustack._core.py.shm import MAGIC, serve

SLOT = 69632
FACE = 32768 + 65536
OWN = 65536 + 8192 + 4096 + 4096
AT_TX, AT_DONE, AT_MAP, AT_COUNTS = 0, 65536, 65536 + 8192, 65536 + 8192 + 4096
AT_FILL, AT_RX = 0, 32768
AT_POSTING, AT_BUSY = 32768 + 65536 - 4096, 32768 + 65536 - 2048
POSTING_HEADER = 128
POSTING = struct.Struct(f"=iIIIQIHH{POSTING_HEADER}s{POSTING_HEADER}s{POSTING_HEADER}s")
PLAIN = (0, 0, 0, 0, 0, 0)      # a virtio header without facts
HELLO = struct.Struct("=8sIIII6s2x")
ORDER = struct.Struct("=IIIIIIQQQ")
CONFIG, REGION, FILE, FORGET = 0x75736431, 0x75736432, 0x75736433, 0x75736434
COUNTS = ["packets", "bytes", "pieces", "summed", "sleeps", "kicks", "starved", "bad_entry", "bad_count", "bad_region",
          "bad_range", "bad_align", "bad_seg", "bad_limit", "bad_length", "bad_facts", "lost", "unmapped",
          "unmapped_early", "bad_buffer", "bad_ring", "full", "placed", "bad_posting"]


def memory_file(length, sealed=True):
    """(descriptor, mapping) of a new memory file."""
    import fcntl
    fd = os.memfd_create("liar", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length)
    if sealed:
        fcntl.fcntl(fd, 1033, 2 | 4)            # F_ADD_SEALS: SHRINK, GROW
    return fd, mmap.mmap(fd, length)


class RawRing:
    """One side of a ring, without any rules."""

    def __init__(self, memory, at, capacity, entry):
        self.memory, self.at, self.capacity, self.entry = memory, at, capacity, entry

    def get(self, which):
        """An index: 0 is the producer's, 1 the consumer's."""
        return struct.unpack_from("=I", self.memory, self.at + 128 * which)[0]

    def set(self, which, value):
        # At once: pack_into clears the bytes first, and whoever looks at that moment sees an index of 0.
        where = self.at + 128 * which
        self.memory[where:where + 4] = struct.pack("=I", value & 0xFFFFFFFF)

    def put(self, *entries):
        """Publish entries together."""
        tail = self.get(0)
        for k, entry in enumerate(entries):
            where = self.at + 256 + (tail + k) % self.capacity * self.entry
            self.memory[where:where + self.entry] = entry.ljust(self.entry, b"\0")
        self.set(0, tail + len(entries))

    def take(self):
        """The next entry, or None."""
        head = self.get(1)
        if head == self.get(0):
            return None
        where = self.at + 256 + head % self.capacity * self.entry
        self.set(1, head + 1)
        return bytes(self.memory[where:where + self.entry])


def packet(slot, start, length, hdr_len=0, facts=PLAIN, at=0, placed=0, version=0):
    """An entry of a receive ring."""
    return struct.pack("=IIIHBBHHHHIHH", slot, start, length, hdr_len, *facts, at, placed, version & 0xFFFF)


def buffer(offset, length, slot):
    """An entry of a fill ring."""
    return struct.pack("=QII", offset, length, slot)


def head(cookie, stamp, length, pieces, hdr_len=0, facts=PLAIN, kind=0x4848):
    """The entry of a packet in a transmit ring."""
    return struct.pack("=IIIHHBBHHHHH", cookie, stamp, length, pieces, hdr_len, *facts, kind)


def piece(offset, length, region=0, kind=0x5050):
    """The entry of a piece."""
    return struct.pack("=QIIH", offset, length, region, kind)


class Peer:
    """The other side of ``self.link``, which takes us for a stack with a device."""

    def __init__(self, path, *, hello=None, face=FACE, room=4 * SLOT, sealed=True, fds=5, **options):
        self.files = [memory_file(face, sealed), memory_file(room, sealed)]
        self.ours, self.given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events = [os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)]
        self.theirs = []
        self.sock = self.sinks = None
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            thread = threading.Thread(target=self._greet, args=(listener, hello, fds))
            thread.start()
            try:
                self.link = SharedMemory.connect(path, timeout=60, **{"slots": 4, "device": "thread"} | options)
            except BaseException:
                thread.join()
                self.close()
                raise
            thread.join()
        face_fd, room_fd, self.bell, self.irq, sinks = self.theirs
        self.sinks = socket.socket(fileno=os.dup(sinks))        # where a device of ours would hear of regions
        self.face = mmap.mmap(face_fd, FACE)
        self.room = mmap.mmap(room_fd, os.fstat(room_fd).st_size)
        self.fill = RawRing(self.face, AT_FILL, 1024, 16)       # what the link's stack posts
        self.rx = RawRing(self.face, AT_RX, 1024, 32)           # what we give it
        self.our_fill = RawRing(self.files[0][1], AT_FILL, 1024, 16)    # what its device reads
        self.our_rx = RawRing(self.files[0][1], AT_RX, 1024, 32)

    def _greet(self, listener, hello, fds):
        self.sock, _ = listener.accept()
        message = HELLO.pack(MAGIC, 3, 65535, 0xFFFFFFFF, 0, bytes(6)) if hello is None else hello
        _, self.theirs, _, _ = socket.recv_fds(self.sock, 100, 8)
        if message:
            ends = [self.files[0][0], self.files[1][0], *self.events, self.given.fileno()]
            socket.send_fds(self.sock, [message], ends[:fds])
        else:
            self.sock.close()

    def kick(self):
        """Wake the link's stack."""
        os.eventfd_write(self.irq, 1)

    def close(self):
        for sock in (self.sock, self.ours, self.given, self.sinks):
            if sock is not None:
                sock.close()
        for fd, memory in self.files:
            memory.close()
            os.close(fd)
        for fd in (*self.events, *self.theirs):
            os.close(fd)
        for name in ("face", "room"):
            if hasattr(self, name):
                getattr(self, name).close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Device:
    """A device whose stack we are: it runs in a thread, and reads what we write into its rings."""

    def __init__(self, *, max_sg=8, max_seg=1 << 20, align=1, outboard=0, limit=1 << 40, face=FACE, room=8 * SLOT,
                 own=OWN, sealed=True):
        self.files = [memory_file(own, sealed), memory_file(face), memory_file(room)]
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        self.own, self.face, self.room = (m for _, m in self.files)
        self.tx = RawRing(self.own, AT_TX, 1024, 32)
        self.done = RawRing(self.own, AT_DONE, 256, 8)
        self.fill = RawRing(self.face, AT_FILL, 1024, 16)
        self.rx = RawRing(self.face, AT_RX, 1024, 32)
        self.stamp = 0
        self.sock, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sinks, sinks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(60)
        self.thread = threading.Thread(target=serve, args=(its.detach(),))
        self.thread.start()
        order = ORDER.pack(CONFIG, 0, max_sg, max_seg, align, outboard, limit, 0, 0)
        with sinks:
            socket.send_fds(self.sock, [order], [*(fd for fd, _ in self.files), *self.events, sinks.fileno()])
        answer = self.sock.recv(16)
        self.status = struct.unpack("=i", answer)[0]

    def tell(self, name, fd, kind=REGION, offset=0, length=0):
        """Tell it of a region."""
        socket.send_fds(self.sock, [ORDER.pack(kind, name, 0, 0, 0, 0, 0, offset, length)], [fd])

    def map(self, cookie):
        """Let it read the memory of a packet: the stamp."""
        self.stamp += 1
        struct.pack_into("=I", self.own, AT_MAP + 4 * cookie, self.stamp)
        return self.stamp

    def ring(self):
        """Wake it."""
        os.eventfd_write(self.events[0], 1)

    def completion(self):
        """(cookie, status) of the next packet that it is done with; waits for it."""
        while (entry := self.done.take()) is None:
            assert self.thread.is_alive(), self.counts
            self.ring()
            os.sched_yield()
        return struct.unpack("=Ii", entry)

    def tell_sink(self, name, fd, kind=REGION):
        """As the other side's stack: a region to write to."""
        socket.send_fds(self.sinks, [ORDER.pack(kind, name, 0, 0, 0, 0, 0, 0, 0)], [fd])

    def post(self, version, offset, length, name, origin, header, number_at, value=b"", flow=b"", form=b"", floor=0):
        """As the other side's stack: a receive."""
        self.face[AT_POSTING:AT_POSTING + 4] = bytes(4)
        self.face[AT_POSTING + 4:AT_POSTING + POSTING.size] = POSTING.pack(
            0, floor, name, length, offset, origin, number_at, header, value, flow, form)[4:]
        self.face[AT_POSTING:AT_POSTING + 4] = struct.pack("=i", version)
        self.posted = version

    def forget(self):
        """Take back what is left in the ring of packets, once it has come to rest there."""
        while True:
            seen = self.tx.get(1)
            time.sleep(0.002)
            if self.tx.get(1) == seen:
                break
        self.tx.set(0, seen)

    def send(self, cookie, pieces, length=None, count=None, stamp=None, **more):
        """One packet of pieces (offset, length, region): its completion."""
        stamp = self.map(cookie) if stamp is None else stamp
        total = sum(p[1] for p in pieces) if length is None else length
        count = len(pieces) if count is None else count
        self.tx.put(head(cookie, stamp, total, count, **more), *(piece(*p) for p in pieces))
        return self.completion()

    @property
    def counts(self):
        """What it counts, where that is not zero."""
        values = struct.unpack_from(f"={len(COUNTS)}Q", self.own, AT_COUNTS)
        return {name: n for name, n in zip(COUNTS, values, strict=True) if n}

    def refused(self):
        """Its counts of refusals."""
        fine = {"packets", "bytes", "pieces", "summed", "sleeps", "kicks", "starved", "placed"}
        return {name: n for name, n in self.counts.items() if name not in fine}

    def close(self):
        self.sock.close()
        self.sinks.close()
        self.thread.join(60)
        assert not self.thread.is_alive()
        for fd, memory in self.files:
            memory.close()
            os.close(fd)
        for fd in self.events:
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
