"""A process that attaches to a NIC and then writes nonsense into its own segment until it is killed."""

import fcntl
import mmap
import os
import random
import socket
import struct
import sys

LANE_BYTES, FIRST, ENTRY, SLOTS = 20480, 4096, 64, 256


def main() -> None:
    """Attach over the descriptor argv[1]; argv[2] is the seed."""
    sock, dice = socket.socket(fileno=int(sys.argv[1])), random.Random(int(sys.argv[2]))
    fd = os.memfd_create("sprayer", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, LANE_BYTES)
    fcntl.fcntl(fd, 1033, 6)
    segment = mmap.mmap(fd, LANE_BYTES)
    segment[:12] = struct.pack("<III", 0x76696131, 1, SLOTS)
    socket.send_fds(sock, [struct.pack("<IIQQ", 0x56494131, 0, 0, LANE_BYTES)], [fd, os.eventfd(0)])
    theirs = mmap.mmap(socket.recv_fds(sock, 64, 2)[1][0], LANE_BYTES, prot=mmap.PROT_READ)
    position = 0
    while True:
        if position - struct.unpack_from("<I", theirs, 256)[0] >= SLOTS:
            continue
        kind = dice.choice((1, 1, 1, 3, 6)) if position < 500 else dice.randrange(256)
        raw = bytearray(dice.randbytes(ENTRY - 4))
        raw[0:4], raw[4] = bytes(4), kind
        raw[6] = dice.randrange(3) if position < 500 else raw[6]
        slot = FIRST + position % SLOTS * ENTRY
        segment[slot + 4 : slot + ENTRY] = bytes(raw)
        segment[slot : slot + 4] = struct.pack("<I", position + 1)
        segment[slot + 4 + dice.randrange(4, 60)] = dice.randrange(256)
        position += 1


main()
