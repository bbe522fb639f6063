"""A host on a layer-3 link that speaks IPv6, and the peer that talks to it: the internet layer without an engine."""

from __future__ import annotations

from inet_harness import SECOND, TCP, UDP, Packet, Raw
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)

from ustack._core.py.probe_inet import Interface, Net

__all__ = ["PEER6", "PROTO", "SECOND", "TCP", "UDP", "US6", "Host6", "ICMPv6DestUnreach", "ICMPv6EchoReply",
           "ICMPv6EchoRequest", "ICMPv6PacketTooBig", "ICMPv6ParamProblem", "ICMPv6TimeExceeded", "IPv6",
           "IPv6ExtHdrDestOpt", "IPv6ExtHdrFragment", "IPv6ExtHdrHopByHop", "IPv6ExtHdrRouting", "Packet", "Raw"]

US6 = "fd00::1"
PEER6 = "fd00::2"
PROTO = 253                                                  # RFC 3692: for experiments


class Host6(Net):
    """fd00::1/64 behind fd00::fe, with a loopback."""

    link: Interface
    lo: Interface

    def __init__(self, mtu: int = 1500, caps: int = 0, budget: int = 0) -> None:
        super().__init__()
        self.link = self.add_if(layer=3, mtu=mtu, caps=caps)
        self.lo = self.add_if(layer=0, mtu=65535)
        assert self.add_addr(self.lo, "::1", 128) == 0
        assert self.add_addr(self.link, US6, 64) == 0
        assert self.add_route("::", 0, "fd00::fe") == 0
        self.before = self.counters()

    def __enter__(self) -> Host6:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        leaked = self.close()
        assert failed or leaked == 0, f"{leaked} blocks leaked"

    def ip(self, payload: Packet | bytes, dst: str = US6, src: str = PEER6, facts: dict[str, object] | None = None,
           **fields: object) -> None:
        """An IPv6 packet from the peer."""
        self.input(self.link, bytes(IPv6(src=src, dst=dst, **fields) / payload), **(facts or {}))

    def sent(self) -> list[Packet]:
        return [IPv6(data) for data in self.link.drain()]

    def problem(self) -> tuple[int, int]:
        """Code and pointer of the parameter problem that was sent, and nothing else."""
        (packet,) = self.sent()
        assert packet[IPv6].dst == PEER6
        message = packet[ICMPv6ParamProblem]
        return message.code, message.ptr

    def counted(self) -> dict[str, int]:
        """What was counted since the last call."""
        now = self.counters()
        change = {k: v - self.before.get(k, 0) for k, v in now.items() if v != self.before.get(k, 0)}
        self.before = now
        return change
