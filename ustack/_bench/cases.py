"""The table of what is measured: each case is one row, with what it is compared with and what it should reach.

The ratios to reach are those that the project has set itself; docs/performance.md says what each row means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ustack._bench.form import Better, full_name, is_below
from ustack._bench.measurement import Measurement, cpu_per_gb, payload, spent_per_byte, summed_apart

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


def packets(near: Figures, far: Figures) -> float:
    """Packets a second that were carried in the direction of the data."""
    return near["packets"] / near["seconds"]


def call_time(near: Figures, far: Figures) -> float:
    """Nanoseconds of one call."""
    return near["ns"]


def bytes_each(near: Figures, far: Figures) -> float:
    """Bytes of memory of one connection."""
    return near["bytes_each"]


def wakeups(near: Figures, far: Figures) -> float:
    """How often threads woke up, a second."""
    return near["wakeups"]


def cpu_percent(near: Figures, far: Figures) -> float:
    """Per cent of one CPU."""
    return near["cpu_percent"]


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
    quick_params: dict[str, Any] = field(default_factory=dict)  # with --quick
    free_baseline: bool = False  # the baseline may choose its placement
    fresh: bool = False  # each run of ours has a new process
    enough: int = 99  # rounds beyond which more of them say no more
    whole: Callable[[Measurement], float] | None = None  # instead of `value`: of all that was measured


CHUNKS = {"chunk": CHUNK}
BULK_OUT = Kind("bulk.out", throughput, "Gbit/s", "higher", 0.6, 0.3, CHUNKS, free_baseline=True)
BULK_IN = Kind("bulk.in", throughput, "Gbit/s", "higher", 0.6, 0.3, CHUNKS, free_baseline=True)
CPU_OUT = replace(BULK_OUT, unit="s/GB", better="lower", whole=cpu_per_gb)
CPU_IN = replace(BULK_IN, unit="s/GB", better="lower", whole=cpu_per_gb)
SUMS_OUT = replace(BULK_OUT, unit="B", better="lower", whole=summed_apart, seconds=0.3, free_baseline=False)
SUMS_IN = replace(BULK_IN, unit="B", better="lower", whole=summed_apart, seconds=0.3, free_baseline=False)
FILE = {"bytes": 1 << 30, "how": "", **CHUNKS}
FILE_OUT = replace(CPU_OUT, work="file.out", params=FILE, quick_params={"bytes": 1 << 26})
SPLICE = {"form": "splice", **CHUNKS}
PROXY = Kind("alone.proxy", throughput, "ns/B", "lower", 0.4, 0.2, SPLICE, whole=spent_per_byte)
PROXY_TAP = replace(PROXY, work="proxy", seconds=0.6)
MEMORY = Kind("alone.bulk", throughput, "Gbit/s", "higher", 0.5, 0.2, CHUNKS)
CARRIED = Kind("carried.bulk", throughput, "Gbit/s", "higher", 0.5, 0.2, CHUNKS)
CARRIED_SMALL = Kind("carried.small", packets, "1/s", "higher", 0.5, 0.2, {"size": 64, "burst": 64})
RTT = Kind("rtt", median_rtt, "us", "lower", 0.25, 0.1, {"size": 1})
CONNECT = Kind("connect", connections, "1/s", "higher", 0.4, 0.2)
UDP_OUT = Kind("udp.out", delivered, "1/s", "higher", 0.4, 0.2, {"size": 64, "window": 128})
UDP_IN = Kind("udp.in", delivered, "1/s", "higher", 0.4, 0.2, {"size": 64, "window": 128})
BATCH = {"size": 64, "window": 128, "batch": 32}
BATCH_OUT = replace(UDP_OUT, work="udp.batch.out", params=BATCH)
BATCH_IN = replace(UDP_IN, work="udp.batch.in", params=BATCH)
# Of the buffer that is asked for the kernel gives what it may, twice 212,992: three super-datagrams of 64 KB fit.
SUPER = {"size": 64, "segments": 64, "window": 3, "rcvbuf": 1 << 20}
GSO_OUT = replace(UDP_OUT, work="udp.gso.out", params=SUPER)
GSO_IN = replace(UDP_IN, work="udp.gso.in", params=SUPER)
RECV_CALL = Kind("recv_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 1024})
SEND_CALL = Kind("send_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 8})
RECV_CALL_MEMORY = Kind("alone.recv_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 1024})
SEND_CALL_MEMORY = Kind("alone.send_call", call_time, "ns", "lower", 0.2, 0.1, {"block": 64})
CROWD = Kind("alone.crowd", call_time, "ns", "lower", 0.3, 0.05, {"connections": 100_000, "setup": 60})
HOLD = Kind("hold", bytes_each, "B", "lower", 0.0, 0.0, {"count": 10_000, "warm": 500}, fresh=True, enough=3)
IDLE_WAKEUPS = Kind("idle", wakeups, "1/s", "lower", 2.0, 1.0, {"settle": 1.5}, enough=3)
IDLE_CPU = replace(IDLE_WAKEUPS, value=cpu_percent, unit="%")


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
    limit: Callable[[Measurement], float] | None = None  # of our own run: what we are compared with; no other baseline
    limit_name: str = ""  # instead of the baseline's own name
    allowance: float = 0.0  # added to the baseline's figure

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


@dataclass(frozen=True)
class Checksum:
    """Copy and checksum in one pass against memcpy, in the core, without sockets."""

    name: str
    size: int
    target: float = 1.10
    aim: float = 1.05
    default: bool = True
    wait: str = "block"
    placement: str = "same"
    api: str = "c"

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


@dataclass(frozen=True)
class Messages:
    """A row of the message layer: half a round trip of small messages; both processes look all the time."""

    name: str
    api: str
    size: int = 8
    target: float = 0.5  # of a UNIX socket's, polled as well
    aim: float = 0.2
    limit: float = 0.3  # microseconds
    default: bool = True
    wait: str = "spin"
    placement: str = "cross"

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


@dataclass(frozen=True)
class Handover:
    """A row of fbufs: a buffer from one process to another."""

    name: str
    touched: bool  # the producer fills it, the consumer sums all of it
    baseline: str  # "socket", or "copy" through shared memory
    target: float
    aim: float
    kind: str = "volatile"  # of the pool
    size: int = 64 * 1024
    default: bool = True
    wait: str = "spin"
    placement: str = "cross"
    api: str = "python"

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)


AnyCase: TypeAlias = Case | Checksum | Handover | Messages

LARGE = {"size": 1400, "window": 64}
LARGE_SUPER = {"size": 1400, "segments": 46}
BLOCK = (("block", "same"), ("block", "cross"))
ALL = (*BLOCK, ("spin", "cross"))
SAME = BLOCK[:1]


def _cases(
    name: str,
    kind: Kind,
    wire: str,
    waits: Sequence[tuple[str, str]],
    target: float | None = None,
    aim: float | None = None,
    **more: Any,
) -> list[Case]:
    return [Case(name, kind, wire, wait, placement, target, aim, **more) for wait, placement in waits]


def _bulk(name: str, kind: Kind, wire: str, target: float, aim: float, **more: Any) -> list[Case]:
    return [
        *_cases(name, kind, wire, BLOCK, target, aim, **more),
        *_cases(name, kind, wire, (("spin", "cross"),), target, aim, **more | {"default": False}),
    ]


def _carried(name: str, kind: Kind, mtu: int, **more: Any) -> list[Case]:
    params = {"mtu": mtu, **more.pop("params", {})}
    return _cases(name, kind, "pipe", SAME, 3.0, 10.0, params=params, baseline_wire="tun", **more)


PLAIN = {"baseline_wire": "kernel1500"}
OWN = {"baseline_wire": "tap"}
LOOPBACK = {"baseline_wire": "loopback"}


def at_most(limit: float) -> dict[str, Any]:
    """A row without a baseline: a figure that must not be larger."""
    return {"limit": lambda m: limit, "limit_name": "the limit"}


HOT = {"random": False, "burst": 1}
RANDOM = {"random": True, "burst": 10}
TEN = {"baseline_wire": "crowd", "baseline_params": {"connections": 10}, "limit_name": "10 connections", "api": "c"}
WAITING = {"blocked": {"accepting": 1}}
LOOP = {"baseline_params": {"form": "loop"}, "limit_name": "a recv/send loop on the same stack"}
SUMS = {"limit": payload, "limit_name": "payload that arrived"}

CASES: list[AnyCase] = [
    *_bulk("tcp.bulk.tap.to_linux", BULK_OUT, "tap", 1.0, 1.5),
    *_bulk("tcp.bulk.tap.from_linux", BULK_IN, "tap", 1.0, 1.5),
    *_bulk("tcp.bulk.ring.to_linux", BULK_OUT, "ring", 0.8, 1.2),
    *_bulk("tcp.bulk.ring.from_linux", BULK_IN, "ring", 0.8, 1.2),
    *_bulk("tcp.bulk.pair", BULK_OUT, "pair", 1.0, 1.5),
    *_bulk("tcp.bulk.tap1500.to_linux", BULK_OUT, "tap1500", 0.8, 1.3, **PLAIN),
    *_bulk("tcp.bulk.tap1500.from_linux", BULK_IN, "tap1500", 0.8, 1.3, **PLAIN),
    *_bulk("tcp.bulk.ring1500.to_linux", BULK_OUT, "ring1500", 0.8, 1.3, **PLAIN),
    *_bulk("tcp.bulk.ring1500.from_linux", BULK_IN, "ring1500", 0.8, 1.3, **PLAIN),
    *_bulk("tcp.bulk.xdp1500.to_linux", BULK_OUT, "xdp1500", 0.8, 1.3, **PLAIN | {"default": False}),
    *_bulk("tcp.bulk.xdp1500.from_linux", BULK_IN, "xdp1500", 0.8, 1.3, **PLAIN | {"default": False}),
    *_bulk("tcp.bulk.shm", BULK_OUT, "shm", 1.0, 1.5, default=False),
    *_cases("tcp.bulk.memory", MEMORY, "memory", SAME, 1.0, 2.0, **LOOPBACK),
    *_cases("tcp.rtt.tap", RTT, "tap", ALL[:2], 1.0, 0.95),
    *_cases("tcp.rtt.tap", RTT, "tap", ALL[2:], 1.0, 0.85),
    *_cases("tcp.rtt.tap.accept", RTT, "tap", ALL, 1.2, 1.0, params={"blocked": {"accepting": 1}}, **OWN),
    *_cases(
        "tcp.rtt.tap.threads8",
        RTT,
        "tap",
        ALL,
        2.0,
        1.0,
        params={"blocked": {"accepting": 4, "receiving": 4}},
        **OWN,
    ),
    *_cases("tcp.rtt.ring", RTT, "pair", ALL, 0.9, 0.7),
    *_cases("tcp.rtt.shm", RTT, "shm", ALL, 0.9, 0.7, default=False),
    *_cases("udp.pps.one", UDP_OUT, "tap", BLOCK, 1.0, 2.0),
    *_cases("udp.pps.one.1400", UDP_OUT, "tap", BLOCK, 1.0, 2.0, params=LARGE, default=False),
    *_cases("udp.pps.one.from_linux", UDP_IN, "tap", BLOCK, 1.0, 2.0),
    *_cases("udp.pps.one.from_linux.1400", UDP_IN, "tap", BLOCK, 1.0, 2.0, params=LARGE, default=False),
    *_cases("udp.pps.batch", BATCH_OUT, "tap", BLOCK, 1.0, 1.5),
    *_cases("udp.pps.batch.1400", BATCH_OUT, "tap", BLOCK, 1.0, 1.5, params=LARGE, default=False),
    *_cases("udp.pps.batch.from_linux", BATCH_IN, "tap", BLOCK, 1.0, 1.5),
    *_cases("udp.pps.batch.from_linux.1400", BATCH_IN, "tap", BLOCK, 1.0, 1.5, params=LARGE, default=False),
    *_cases("udp.pps.gso", GSO_OUT, "tap", BLOCK, 0.5, 1.0),
    *_cases("udp.pps.gso.1400", GSO_OUT, "tap", BLOCK, 0.5, 1.0, params=LARGE_SUPER),
    *_cases("udp.pps.gso.from_linux", GSO_IN, "tap", BLOCK, 0.5, 1.0, default=False),
    *_cases("udp.pps.gso.from_linux.1400", GSO_IN, "tap", BLOCK, 0.5, 1.0, params=LARGE_SUPER, default=False),
    *_cases("connect.rate", CONNECT, "tap", BLOCK, 1.0, 1.5),
    *_cases("connect.rate.pair", CONNECT, "pair", BLOCK, 1.5, 3.0),
    *_carried("pipe.bulk", CARRIED, 1500),
    *_carried("pipe.bulk.16000", CARRIED, 16000),
    *_carried("pipe.bulk.offloads", CARRIED, 1500, params={"offloads": True}, default=False),
    *_carried("pipe.pps", CARRIED_SMALL, 1500),
    *_carried("pipe.pps.16000", CARRIED_SMALL, 16000, default=False),
    Messages("via.rtt.shm", "c", target=0.5, aim=0.2, limit=0.3),
    Messages("via.rtt.shm", "python", target=1.0, aim=0.3, limit=2.0),
    Handover("fbuf.handover", False, "socket", 0.1, 0.05),
    Handover("fbuf.handover.protected", False, "socket", 1.0, 0.5, kind="protected"),
    Handover("fbuf.touched", True, "socket", 0.5, 0.3),
    Handover("fbuf.touched.shm", True, "copy", 1.0, 0.7),
    Checksum("checksum.fused_over_memcpy", 4 << 10),
    Checksum("checksum.fused_over_memcpy.64k", 64 << 10),
    Checksum("checksum.fused_over_memcpy.64m", 64 << 20),
    *_cases("ledger.checksum.tap1500.to_linux", SUMS_OUT, "tap1500", SAME, 0.02, 0.0, **SUMS),
    *_cases("ledger.checksum.tap1500.from_linux", SUMS_IN, "tap1500", SAME, 0.02, 0.0, **SUMS),
    *_cases("python.recv_call.memory", RECV_CALL_MEMORY, "memory", SAME, 0.5, 0.3, **LOOPBACK),
    *_cases("python.send_call.memory", SEND_CALL_MEMORY, "memory", SAME, 0.5, 0.3, **LOOPBACK),
    *_cases("python.recv_call.tap", RECV_CALL, "tap", SAME, 1.0, 0.9),
    *_cases("python.send_call.tap", SEND_CALL, "tap", SAME, 1.0, 0.9),
    *_cases("connections.100k.hot", CROWD, "crowd", SAME, 1.1, 1.0, params=HOT, **TEN),
    *_cases(
        "connections.100k.random",
        CROWD,
        "crowd",
        SAME,
        1.0,
        1.0,
        params=RANDOM,
        allowance=400.0,
        **TEN | {"limit_name": "10 connections, plus 400 ns"},
    ),
    *_cases("memory.per_connection.core", HOLD, "tap", SAME, 1.0, 1.0, params={"bare": True}, **at_most(1536), api="c"),
    *_cases("memory.per_connection.python", HOLD, "tap", SAME, 1.0, 1.0, params={"bare": False}, **at_most(3072)),
    *_cases("idle.wakeups", IDLE_WAKEUPS, "tap", SAME, 1.0, 0.0, params=WAITING, **at_most(2)),
    *_cases("idle.cpu", IDLE_CPU, "tap", SAME, 1.0, 0.0, params=WAITING, **at_most(0.1)),
    *_cases("cpu.per_gb.tap.to_linux", CPU_OUT, "tap", BLOCK, 1.0, 0.7),
    *_cases("cpu.per_gb.tap.from_linux", CPU_IN, "tap", BLOCK, 1.0, 0.7),
    *_cases("cpu.per_gb.ring.to_linux", CPU_OUT, "ring", BLOCK, 1.0, 0.7, default=False),
    *_cases("cpu.per_gb.ring.from_linux", CPU_IN, "ring", BLOCK, 1.0, 0.7, default=False),
    *_cases(
        "sendfile.gather.tap", FILE_OUT, "tap", BLOCK, 1.0, 0.8, params={"how": "gather"}, baseline_params={"how": ""}
    ),
    *_cases("splice.proxy", PROXY, "proxy", SAME, 0.5, 0.3, baseline_wire="proxy", **LOOP),
    *_cases("splice.proxy", PROXY, "proxy", SAME, 0.5, 0.3, baseline_wire="proxy", api="c", **LOOP),
    *_cases("splice.proxy.tap", PROXY_TAP, "tap", BLOCK, 0.5, 0.3, baseline_wire="tap", **LOOP),
    *_cases("splice.proxy.tap", PROXY_TAP, "tap", BLOCK, 0.5, 0.3, baseline_wire="tap", api="c", default=False, **LOOP),
]


def _in_c(case: Case) -> Case:
    """The same with its loops in C, for who asks for it by name."""
    return replace(case, api="c", default=False)


IN_C = {"bulk.out", "bulk.in", "rtt", "udp.out", "udp.in", "alone.bulk"}  # of work_c
CASES += [
    _in_c(c) for c in CASES if isinstance(c, Case) and c.kind.work in IN_C and not c.kind.whole and c.api == "python"
]


def choose(names: Sequence[str]) -> tuple[list[AnyCase], list[str]]:
    """The cases below the names given (without names: the default ones), and the names that fit nothing."""
    if not names:
        return [c for c in CASES if c.default], []
    unknown = [n for n in names if not any(is_below(c.full_name, n) for c in CASES)]
    return [c for c in CASES if any(is_below(c.full_name, n) for n in names)], unknown
