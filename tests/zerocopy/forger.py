"""A process that speaks the protocol of fbuf channels and lies: hello, rings and introductions made by hand."""

import array
import fcntl
import mmap
import os
import socket
import struct

HELLO = struct.Struct("<IIII")
INTRODUCTION = struct.Struct("<IIQII")
DESCRIPTOR = struct.Struct("<IIIIII")
RETURN = struct.Struct("<II")
MAGIC, DESCRIPTORS, RETURNS = 0x31626675, 512, 1024
ENTRIES = 256                           # where a ring's entries begin; the consumer's index is at 128
SECOND = ENTRIES + DESCRIPTORS * DESCRIPTOR.size
LENGTH = 24576
SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def memory(length: int, seals: int = SEALED) -> int:
    fd = os.memfd_create("forged", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, length)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class Forger:
    """One end of a channel whose every word can be a lie."""

    def __init__(self, sock: socket.socket, *, magic: int = MAGIC, seals: int = SEALED, length: int = LENGTH,
                 fds: int = 2) -> None:
        self.sock = sock
        self.files = [memory(length, seals), os.eventfd(0)]
        self.rings = mmap.mmap(self.files[0], length)
        self.pass_on(HELLO.pack(magic, DESCRIPTORS, RETURNS, 0), self.files[:fds])
        self.put_at = self.back_at = 0

    def pass_on(self, data: bytes, fds: list[int]) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], control)

    def introduce(self, number: int, count: int, size: int, *, fd: int | None = None, flags: int = 0, epoch: int = 1,
                  seals: int = SEALED) -> None:
        own = memory(count * size if count * size < 1 << 30 else 4096, seals) if fd is None else fd
        self.pass_on(INTRODUCTION.pack(number, count, size, flags, epoch), [own])
        os.close(own)

    def describe(self, region: int, buffer: int, offset: int, length: int, flags: int = 0, epoch: int = 1) -> None:
        at = ENTRIES + self.put_at % DESCRIPTORS * DESCRIPTOR.size
        self.rings[at:at + DESCRIPTOR.size] = DESCRIPTOR.pack(region, buffer, offset, length, flags, epoch)
        self.put_at += 1
        self.publish(0, self.put_at)

    def give_back(self, region: int, buffer: int) -> None:
        at = SECOND + ENTRIES + self.back_at % RETURNS * RETURN.size
        self.rings[at:at + RETURN.size] = RETURN.pack(region, buffer)
        self.back_at += 1
        self.publish(SECOND, self.back_at)

    def publish(self, ring: int, index: int) -> None:
        self.rings[ring:ring + 4] = struct.pack("<I", index & 0xFFFFFFFF)

    def close(self) -> None:
        self.sock.close()
        self.rings.close()
        for fd in self.files:
            os.close(fd)
