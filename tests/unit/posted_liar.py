"""A connection to a stack whose other side is made by hand: packets and descriptors of a device that may lie."""

import mmap
import os
import socket
import struct
import time

from shm_liar import AT_BUSY, AT_POSTING, ORDER, PLAIN, POSTING, REGION, SLOT, Peer, buffer, packet
from tcp_script import checksum

import ustack

US, PEER = "10.9.0.2", "10.9.0.1"
OUR_PORT, PEER_PORT = 80, 4000
SYN, RST, PSH, ACK = 2, 4, 8, 16
ISS = 1000
HEADER = 40


def segment(seq, ack, flags, data=b"", options=b"", total=None):
    """An IPv4 packet with a TCP segment to the stack; its sums are right."""
    tcp = struct.pack("!HHIIBBHHH", PEER_PORT, OUR_PORT, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                      (20 + len(options)) // 4 << 4, flags, 65535, 0, 0) + options + data
    ends = socket.inet_aton(PEER) + socket.inet_aton(US)
    sum_ = checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", sum_) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp) if total is None else total, 1, 0x4000, 64, 6, 0) + ends
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


class Attacker(Peer):
    """What a stack is connected to by ``link``; ``accepted`` is the stack's socket."""

    def __init__(self, path, **options):
        super().__init__(path, room=64 * SLOT, slots=8, **options)
        self.net = ustack.Stack()
        self.net.add_interface(self.link, addresses=[f"{US}/24"])
        self.our_fill.put(*(buffer(k % 64 * SLOT, SLOT, k % 64) for k in range(1000)))
        self.listener = self.net.create_server((US, OUR_PORT))
        self.memory = None
        self.give(segment(ISS, 0, SYN))
        answer = self.hear()
        self.ack = struct.unpack_from("!I", answer, 24)[0] + 1
        self.give(segment(ISS + 1, self.ack, ACK))
        self.accepted, _ = self.listener.accept()
        self.accepted.settimeout(60)
        self.accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))

    def hear(self):
        """The next packet of the stack."""
        while (entry := self.our_rx.take()) is None:
            os.sched_yield()
        slot, start, length = struct.unpack_from("=III", entry)
        return bytes(self.files[1][1][slot * SLOT + start:slot * SLOT + start + length])

    def slot(self):
        """An empty buffer of the stack's."""
        while (entry := self.fill.take()) is None:
            self.kick()
            os.sched_yield()
        return struct.unpack("=QII", entry)[2]

    def give(self, raw, hdr_len=0, facts=PLAIN, **placement):
        """A packet, or what is not placed of it."""
        slot = self.slot()
        self.room[slot * SLOT:slot * SLOT + len(raw)] = raw
        self.rx.put(packet(slot, 0, len(raw), hdr_len, facts, **placement))
        self.kick()

    def data(self, at, payload):
        """The segment of the stream's bytes from ``at`` on."""
        return segment(ISS + 1 + at, self.ack, ACK | PSH, payload)

    @property
    def posting(self):
        """(version, floor, region, length, offset, origin, number_at, header) as the stack tells it."""
        return POSTING.unpack_from(self.face, AT_POSTING)[:8]

    def wait_posting(self, at=0):
        """The version of what the stack has posted for the stream from ``at`` on; its memory is then ``memory``."""
        end = time.monotonic() + 60
        while not (version := self.posting[0]):
            assert time.monotonic() < end
            os.sched_yield()
        _, _, name, length, offset, origin, _, header = self.posting
        assert (header, origin) == (HEADER, ISS + 1 + at)
        if self.memory is None:
            message, fds, _, _ = socket.recv_fds(self.sinks, 100, 1)
            kind, told = ORDER.unpack(message)[:2]
            assert (kind, told) == (REGION, name)
            self.memory = mmap.mmap(fds[0], 0)
            os.close(fds[0])
        assert offset + length <= len(self.memory)
        return version

    def place(self, version, at, payload, *, write=True, lie=None):
        """As a device that puts ``payload`` to its place; or lies about it."""
        raw = self.data(at, payload)
        if write:
            where = self.posting[4] + at
            self.memory[where:where + len(payload)] = payload
        honest = {"hdr_len": HEADER, "at": at, "placed": len(payload), "version": version}
        self.give(raw[:HEADER], **honest | (lie or {}))

    def place_late(self, version, payload):
        """The descriptor of what was put in place when the posting was no more."""
        self.give(self.data(0, payload)[:HEADER], hdr_len=HEADER, at=0, placed=len(payload), version=version)

    def hang_up_sinks(self):
        """As a device that has ended."""
        self.sinks.close()
        os.close(self.theirs.pop())

    def busy(self, value):
        """Say what the device is writing."""
        self.face[AT_BUSY:AT_BUSY + 4] = struct.pack("=i", value)

    def close(self):
        for one in ("accepted", "listener", "net", "memory"):
            if getattr(self, one, None) is not None:
                getattr(self, one).close()
        super().close()
