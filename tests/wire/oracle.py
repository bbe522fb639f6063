"""A peer made of scapy, at the other end of a pipe: an implementation of the wire formats that is not ours.

Everything that the stack sends is parsed by scapy and put together again: header lengths and checksums must be what
scapy computes. Time is virtual, so nothing waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

import ustack

OURS, PEER, OTHER = "10.9.0.2", "10.9.0.1", "10.9.0.77"
OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
SECOND = 10**9


def verified(raw: bytes, layer: int) -> Packet:
    """The packet as scapy reads it; it must be what scapy itself would have made of its fields."""
    whole = Ether(raw) if layer == 2 else IP(raw)
    if IP not in whole:
        return whole
    p = whole[IP]
    assert p.len == len(bytes(p)), "bytes behind the IP packet"
    again = IP(bytes(p))
    claimed = {}
    fragment = p.frag or p.flags.MF
    for kind in (IP, TCP, UDP, ICMP):
        # The quotation inside an ICMP error is as it came; a fragment has no checksum of its own.
        if kind in again and (kind is IP or not fragment) and not (kind in (TCP, UDP) and ICMP in again):
            claimed[kind] = again[kind].chksum
            del again[kind].chksum
    del again.len
    if UDP in claimed:
        del again[UDP].len
    rebuilt = IP(bytes(again))
    assert bytes(rebuilt) == bytes(p), {k.__name__: (hex(v), hex(rebuilt[k].chksum)) for k, v in claimed.items()}
    return whole


class Wire:
    """A stack at OURS on a pipe of IP packets (layer 3) or Ethernet frames (2); the test is everybody else."""

    def __init__(self, layer: int = 3, mtu: int = 1500, **options: object) -> None:
        self.layer = layer
        self.net = ustack.Stack(clock=ustack.VirtualClock(SECOND), seed=1, **options)
        self.pipe = ustack.Pipe(layer=layer, mtu=mtu, mac=OUR_MAC if layer == 2 else None)
        self.net.add_interface(self.pipe, addresses=[OURS + "/24"], gateway=PEER)
        self.drain()

    def close(self) -> None:
        self.net.close()

    def send(self, *packets: Packet | bytes) -> None:
        """To the stack, as given; scapy fills in what is not set."""
        for p in packets:
            if isinstance(p, Packet) and self.layer == 2 and Ether not in p:
                p = Ether(src=PEER_MAC, dst=OUR_MAC) / p
            assert self.pipe.inject(bytes(p))

    def drain(self) -> list[Packet]:
        """All that the stack has sent since the last time, verified; in layer 2 with its Ethernet header."""
        return [verified(raw, self.layer) for _, raw in self.pipe.drain()]

    def ask(self, *packets: Packet | bytes) -> list[Packet]:
        """Send, and return what the stack sends at once."""
        self.drain()
        self.send(*packets)
        return self.drain()

    def after(self, seconds: float) -> list[Packet]:
        """Let time pass; what the stack sends in it."""
        self.net.advance_to(self.net.now_ns() + round(seconds * SECOND))
        return self.drain()

    @contextlib.contextmanager
    def counts(self, **expected: int) -> Iterator[None]:
        """Exactly these counters change by so much (``_`` for the first dot), beside the traffic counters."""
        wanted = {name.replace("_", ".", 1): n for name, n in expected.items()}
        before = self.net.stats()
        yield
        after = self.net.stats()
        changed = {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}
        plain = {"link.rx", "link.rx_bytes", "link.tx", "link.tx_bytes", "ip.rx", "ip.tx", "arp.rx", "arp.tx",
                 "icmp.rx", "icmp.tx", "tcp.rx", "tcp.tx", "ip.frag_rx", "offload.checksum"}
        seen = {k: v for k, v in changed.items() if k in wanted or k not in plain}
        assert seen == wanted, f"counted {seen}, not {wanted}"

    def dropped(self, *packets: Packet | bytes, **counter: int) -> None:
        """Nothing comes back, and the reason is counted."""
        with self.counts(**counter):
            assert self.ask(*packets) == []

    def learn(self) -> None:
        """Layer 2: tell the stack where PEER is, by asking where it is."""
        answers = self.ask(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
            op=1, hwsrc=PEER_MAC, psrc=PEER, pdst=OURS))
        assert [p[ARP].op for p in answers] == [2]


def ip(payload: Packet | None = None, **fields: object) -> Packet:
    """An IP packet from PEER to OURS."""
    p = IP(**{"src": PEER, "dst": OURS} | fields)
    return p if payload is None else p / payload
