"""The table of what is measured: each case is one row, with what it is compared with and what it should reach.

The ratios to reach are those that the project has set itself; docs/performance.md says what each row means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ustack._bench.form import Better, full_name, is_below

Figures = dict[str, float]

CHUNK = 64 * 1024


def throughput(near: Figures, far: Figures) -> float:
    """Gbit/s that the receiver read, from its first byte to the end of the stream."""
    end = near if "bytes" in near else far
    return end["bytes"] * 8 / end["seconds"] / 1e9


def median_rtt(near: Figures, far: Figures) -> float:
    """Microseconds."""
    return near["p50"]


def connections(near: Figures, far: Figures) -> float:
    """Connections a second."""
    return near["count"] / near["seconds"]


def delivered(near: Figures, far: Figures) -> float:
    """Datagrams a second that the receiving application got; 0 if more than 0.1 % were lost."""
    sent = near.get("sent", far.get("sent", 0.0))
    got = near if "received" in near else far
    if sent - got["received"] > sent / 1000:
        return 0.0
    return got["received"] / got["seconds"]


def call_time(near: Figures, far: Figures) -> float:
    """Nanoseconds of one call."""
    return near["ns"]


@dataclass(frozen=True)
class Kind:
    """What the cases of one kind of work have in common."""

    work: str  # of work.WORK
    value: Callable[[Figures, Figures], float]
    unit: str
    better: Better
    seconds: float  # of one measurement
    quick: float
    params: dict[str, Any] = field(default_factory=dict)
    free_baseline: bool = False  # the baseline may choose its placement


BULK_OUT = Kind("bulk.out", throughput, "Gbit/s", "higher", 0.8, 0.3, {"chunk": CHUNK}, free_baseline=True)
BULK_IN = Kind("bulk.in", throughput, "Gbit/s", "higher", 0.8, 0.3, {"chunk": CHUNK}, free_baseline=True)
RTT = Kind("rtt", median_rtt, "us", "lower", 0.25, 0.1, {"size": 1})
CONNECT = Kind("connect", connections, "1/s", "higher", 0.4, 0.2)
UDP_OUT = Kind("udp.out", delivered, "1/s", "higher", 0.4, 0.2, {"size": 64, "window": 128})
UDP_IN = Kind("udp.in", delivered, "1/s", "higher", 0.4, 0.2, {"size": 64, "window": 128})
RECV_CALL = Kind("recv_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 1024})
SEND_CALL = Kind("send_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 8})


@dataclass(frozen=True)
class Case:
    """One row to measure: work over a wire of ours, and over the baseline's."""

    name: str
    kind: Kind
    wire: str  # of beds.make
    wait: str
    placement: str
    target: float | None = None
    aim: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    baseline_wire: str = "kernel"
    baseline_params: dict[str, Any] = field(default_factory=dict)
    default: bool = True  # runs when no name is given
    api: str = "python"

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


@dataclass(frozen=True)
class Checksum:
    """Copy and checksum in one pass against memcpy, in the core, without sockets."""

    name: str
    size: int
    target: float = 1.15
    aim: float = 1.05
    default: bool = True
    wait: str = "block"
    placement: str = "same"
    api: str = "c"

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


LARGE = {"size": 1400, "window": 64}
BLOCK = (("block", "same"), ("block", "cross"))
ALL = (*BLOCK, ("spin", "cross"))


def _cases(
    name: str, kind: Kind, wire: str, waits: Sequence[tuple[str, str]], target: float | None = None,
    aim: float | None = None, **more: Any,
) -> list[Case]:
    return [Case(name, kind, wire, wait, placement, target, aim, **more) for wait, placement in waits]


def _bulk(name: str, kind: Kind, wire: str, target: float, aim: float) -> list[Case]:
    return [
        *_cases(name, kind, wire, BLOCK, target, aim),
        *_cases(name, kind, wire, (("spin", "cross"),), target, aim, default=False),
    ]


CASES: list[Case | Checksum] = [
    *_bulk("tcp.bulk.tap.to_linux", BULK_OUT, "tap", 0.5, 1.0),
    *_bulk("tcp.bulk.tap.from_linux", BULK_IN, "tap", 0.5, 1.0),
    *_bulk("tcp.bulk.ring.to_linux", BULK_OUT, "ring", 0.5, 0.8),
    *_bulk("tcp.bulk.ring.from_linux", BULK_IN, "ring", 0.5, 0.8),
    *_bulk("tcp.bulk.pair", BULK_OUT, "pair", 0.5, 1.0),
    *_cases("tcp.rtt.tap", RTT, "tap", ALL, 1.5, 1.0),
    *_cases(
        "tcp.rtt.tap.accept", RTT, "tap", ALL, 1.2, 1.0,
        params={"accept_thread": True}, baseline_wire="tap",
    ),
    *_cases("tcp.rtt.ring", RTT, "pair", ALL, 1.5, 0.9),
    *_cases("udp.pps.one", UDP_OUT, "tap", BLOCK, 1.0, 2.0),
    *_cases("udp.pps.one.1400", UDP_OUT, "tap", BLOCK, 1.0, 2.0, params=LARGE, default=False),
    *_cases("udp.pps.one.from_linux", UDP_IN, "tap", BLOCK, 1.0, 2.0),
    *_cases("udp.pps.one.from_linux.1400", UDP_IN, "tap", BLOCK, 1.0, 2.0, params=LARGE, default=False),
    *_cases("connect.rate", CONNECT, "tap", BLOCK, 1.0, 1.5),
    *_cases("connect.rate.pair", CONNECT, "pair", BLOCK, 1.5, 3.0),
    *_cases("python.recv_call", RECV_CALL, "tap", BLOCK[:1], 1.0, 0.9),
    *_cases("python.send_call", SEND_CALL, "tap", BLOCK[:1], 1.0, 0.9),
    Checksum("checksum.fused_over_memcpy", 4 << 10),
    Checksum("checksum.fused_over_memcpy.64k", 64 << 10),
    Checksum("checksum.fused_over_memcpy.64m", 64 << 20),
]


def choose(names: Sequence[str]) -> tuple[list[Case | Checksum], list[str]]:
    """The cases below the names given (without names: the default ones), and the names that fit nothing."""
    if not names:
        return [c for c in CASES if c.default], []
    unknown = [n for n in names if not any(is_below(c.full_name, n) for c in CASES)]
    return [c for c in CASES if any(is_below(c.full_name, n) for n in names)], unknown
