"""A host on a fake Ethernet, and the peer that talks to it: for tests of the internet layer without an engine."""

from __future__ import annotations

import socket
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ustack._core.py.probe_inet import Interface, Net

__all__ = ["ARP", "ICMP", "IP", "MAC", "OUR_MAC", "PEER", "SECOND", "TCP", "UDP", "US", "Ether", "Host", "Packet",
           "Raw", "number"]

SECOND = 10**9
OUR_MAC = "02:00:00:00:00:01"
MAC = "02:00:00:00:00:02"
US = "10.0.0.1"
PEER = "10.0.0.2"


def number(address: str) -> int:
    return int(struct.unpack("!I", socket.inet_aton(address))[0])


class Host(Net):
    """10.0.0.1/24 behind 10.0.0.254, with a loopback; it knows the peer 10.0.0.2 already, unless told otherwise."""

    eth: Interface
    lo: Interface

    def __init__(self, mtu: int = 1500, caps: int = 0, know_peer: bool = True, budget: int = 0) -> None:
        super().__init__()
        self.eth = self.add_if(mtu=mtu, caps=caps)
        self.lo = self.add_if(layer=0, mtu=65535)
        assert self.add_addr(self.eth, number(US), 24) == 0
        assert self.add_route(0, 0, number("10.0.0.254")) == 0
        self.eth.drain()
        if know_peer:
            self.arp(op=1, pdst=US)
            self.sent()
        self.before = self.counters()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        leaked = self.close()
        assert failed or leaked == 0, f"{leaked} blocks leaked"

    def frame(self, data: bytes | Packet, **facts: object) -> None:
        self.input(self.eth, bytes(data), **facts)

    def ip(self, payload: Packet | bytes, dst: str = US, src: str = PEER, facts: dict[str, object] | None = None,
           **fields: object) -> None:
        """An IP packet from the peer."""
        self.frame(Ether(src=MAC, dst=OUR_MAC) / IP(src=src, dst=dst, **fields) / payload, **(facts or {}))

    def arp(self, *, op: int = 1, hwsrc: str = MAC, psrc: str = PEER, pdst: str = US, dst: str = "ff:ff:ff:ff:ff:ff",
            hwdst: str = "00:00:00:00:00:00") -> None:
        self.frame(Ether(src=hwsrc if hwsrc[1] in "02468ace" else MAC, dst=dst)
                   / ARP(op=op, hwsrc=hwsrc, psrc=psrc, pdst=pdst, hwdst=hwdst, hwlen=6, plen=4))

    def sent(self) -> list[Packet]:
        return [Ether(data) for data in self.eth.drain()]

    def counted(self) -> dict[str, int]:
        """What was counted since the last call."""
        now = self.counters()
        change = {k: v - self.before.get(k, 0) for k, v in now.items() if v != self.before.get(k, 0)}
        self.before = now
        return change
