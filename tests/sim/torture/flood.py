"""A SYN flood from random sources beside a transfer, in virtual time."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from random import Random

from ustack import Pipe, sim

BURST = 500
VALID = struct.pack("=BBHHHH", 2, 0, 0, 0, 0, 0)        # virtio_net_hdr: the checksum has been looked at
OPTIONS = bytes((2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 1, 1))
LENGTH = 40 + len(OPTIONS)


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


def syns(n: int, dice: Random, target: bytes, port: int) -> bytearray:
    """n SYNs back to back, from random addresses, ports and numbers, as a link brings them that sums for itself."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, LENGTH, 0, 0x4000, 64, 6, 0, bytes(4), target)
    base = sum(struct.unpack("!10H", ip))
    tcp = struct.pack("!HHIIBBHHH", 0, port, 0, 0, (20 + len(OPTIONS)) // 4 << 4, 2, 65535, 0, 0)
    template = VALID + ip + tcp + OPTIONS
    flat = bytearray(template * n)
    address, numbers = struct.Struct("!HI").pack_into, struct.Struct("!HHI").pack_into
    size = len(template)
    for k in range(n):
        r = dice.getrandbits(80)
        # 11.x.x.x: no group, nobody's neighbour
        high, low = 0x0B00 | r & 0xFF, r >> 8 & 0xFFFF
        total = base + high + low
        total = (total >> 16) + (total & 0xFFFF)
        at = k * size + len(VALID)
        address(flat, at + 10, ~((total >> 16) + total) & 0xFFFF, high << 16 | low)
        numbers(flat, at + 20, r >> 24 & 0xFFFF | 1, port, r >> 48)
    return flat


@dataclass
class Outcome:
    """What a flood came to."""

    seconds: float              # of virtual time that the transfer took
    grown: int                  # bytes of resident memory
    counters: dict[str, int]
    exact: bool


def transfer_under_flood(total: int, rate: float, size: int, seed: int = 1) -> Outcome:
    """Move `size` bytes over a link of 20 Mbit/s while `total` SYNs arrive, `rate` a second; all of them do."""
    with sim.Network(seed, trace=False) as net:
        a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
        net.link(a, b, rate=20e6, delay=0.005, queue=200)
        door = Pipe(layer=3, mtu=1500, queue=4096, offloads=True)
        b.stack.add_interface(door, ["10.1.0.2/24"])
        b.stack.add_route("11.0.0.0/8", link=door)
        victim = b.stack.create_server(("10.1.0.2", 80))
        dice = Random(seed)
        flood = syns(BURST, dice, bytes((10, 1, 0, 2)), 80)
        sizes = array("I", [len(flood) // BURST] * BURST)

        def attack() -> sim.Steps[None]:
            nonlocal flood
            for _ in range(total // BURST):
                flood = syns(BURST, dice, bytes((10, 1, 0, 2)), 80)
                door.inject_from(flood, sizes)
                yield from sim.sleep(BURST / rate)
                door.drain()

        flow = net.flow(a, b, size)
        net.run(until=lambda: flow.received > 0)
        before, start = resident(), net.now_ns
        attacker = net.spawn(attack()) if total else None
        net.run(until=lambda: flow.ended, limit=1000)
        took = (net.now_ns - start) / 1e9
        net.run(until=lambda: attacker is None or attacker.done, limit=1000)
        grown = resident() - before
        victim.close()
        return Outcome(took, grown, b.stack.stats(), flow.exact)
