"""E2: what a packet costs and what each of its bytes costs; E22: how many packets are large enough for page tricks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ustack._core.py import bench_lab
from ustack._lab.bench import CannotMeasure, Lab, beside, file_of, tap_dialler, why_no_tap
from ustack._lab.form import (
    Band,
    Claim,
    Column,
    Experiment,
    Finding,
    Plot,
    Row,
    in_band,
    line_through,
    measured,
    number,
    rising,
    verdict_of,
)

# --- E2 ---------------------------------------------------------------------------------------------------------------

MTUS = (1500, 4352, 9180, 65521)
QUICK_MTUS = (1500, 9180)
HEADERS = 52  # IPv4, TCP, timestamps
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
SMALLEST = 100  # bytes of payload: below that the maximum segment size does not go
CLASSIC, SIMD, IN_PLACE = VARIANTS = ("copy, scalar", "copy, SIMD", "in place")
BATCH = 1 << 20


@contextmanager
def senders(variant: str, mtu: int, sizes: Sequence[int]) -> Iterator[Callable[[int, float], float]]:
    """A function (payload of a packet, seconds) -> ns of CPU for a packet, over a TAP with that MTU."""
    offloads = {"offloads": ["csum"]} if variant == IN_PLACE else {"offloads": False}
    kernel = "scalar" if variant == CLASSIC else bench_lab.checksum_kernels()[-1]
    data = bytes(BATCH)
    with file_of(BATCH) as file, tap_dialler(mtu=mtu, **offloads) as (net, dial):
        # A full payload needs no maximum, and the largest there is could not be set.
        ends = {n: dial(0 if n == mtu - HEADERS else n) for n in sizes}
        with beside(*(partial(bench_lab.drain, peer.fileno()) for _, peer in ends.values())):
            try:

                def one(n: int, seconds: float) -> float:
                    s = ends[n][0]
                    before = bench_lab.use_checksum_kernel(kernel)
                    try:
                        packets, used = net.stats()["link.tx"], bench_lab.cpu_ns()
                        while bench_lab.cpu_ns() - used < seconds * 1e9:
                            if variant == IN_PLACE:
                                s.sendfile(file, 0, BATCH, how="gather")
                            else:
                                s.sendall(data)
                        return float((bench_lab.cpu_ns() - used) / (net.stats()["link.tx"] - packets))
                    finally:
                        bench_lab.use_checksum_kernel(before)

                yield one
            finally:
                for s, _ in ends.values():
                    s.close()


def measure_packets(lab: Lab) -> list[Row]:
    """Rows by variant, MTU and payload, and the line through them for each."""
    if why := why_no_tap():
        raise CannotMeasure(why)
    rows: list[Row] = []
    fits: list[Row] = []
    for mtu in lab.pick(MTUS, QUICK_MTUS):
        full = mtu - HEADERS
        sizes = sorted({max(SMALLEST, int(full * share)) for share in SHARES})
        for variant in VARIANTS:
            with senders(variant, mtu, sizes) as one:
                seconds = lab.pick(0.025, 0.006)
                found = lab.in_turn({str(n): partial(one, n, seconds) for n in sizes})
            for n in sizes:
                rows.append({"variant": variant, "mtu": mtu, "payload": n, **measured("ns", found[str(n)])})
            lines = [line_through(list(zip(map(float, sizes), column, strict=True)))
                     for column in zip(*(found[str(n)] for n in sizes), strict=True)]  # fmt: skip
            fits.append({"table": "the line t = a + b n", **fit_row(variant, mtu, full, lines)})
    return rows + fits


def fit_row(variant: str, mtu: int, full: int, lines: Sequence[tuple[float, float]]) -> Row:
    """a, b and what follows from them, from the lines of the repeats."""
    row: Row = {"variant": variant, "mtu": mtu, "full": full}
    row |= measured("a_ns", [a for a, _ in lines])
    row |= measured("b_ns", [b for _, b in lines])
    row |= measured("share", [100 * b * full / (a + b * full) for a, b in lines])
    row |= measured("half_at", [a / b if b > 0 else float("inf") for a, b in lines])
    return row


def _share(number: str, low: float, high: float, mtu: int) -> Claim:
    return Claim(
        number, f"at an MTU of {mtu} the bytes are {low} to {high} % of a packet's cost",
        f"b n / (a + b n), with n the payload of a full packet, lies between {low} and {high} %",
        in_band("share", Band(low, high, "%"), "{variant}", mtu=mtu),
    )  # fmt: skip


E2 = Experiment(
    "E2", "cost of a packet and of a byte",
    "one stream of our TCP over a TAP without segmentation offload to Linux, in packets of several sizes (by "
    "TCP_MAXSEG) and MTUs; CPU time of the thread that sends, for each packet that left, which includes the kernel's "
    "work behind the TAP. Python API, 1 MiB a call. t = a + b n is fitted to each repeat with least relative "
    "squares. Copy, scalar: the core's portable checksum, 64 bits at a time, while copying; SIMD: the best kernel of "
    "this CPU; in place: from a file by gathering, the checksum left to the device.",
    (
        Column("variant", "variant"), Column("mtu", "MTU"), Column("payload", "payload"),
        Column("ns", "a packet", "ns"),
        Column("full", "full payload"), Column("a_ns", "a", "ns"), Column("b_ns", "b", "ns/B"),
        Column("share", "share of bytes", "%"), Column("half_at", "a / b", "B"),
    ),
    (
        Claim("N3", "above 128 bytes the cost of the bytes dominates, and it is linear in the size",
              "the size at which bytes cost as much as the packet, a / b, is at most 128 bytes",
              in_band("half_at", Band(high=128, unit="B"), "{variant}, MTU {mtu}")),
        _share("N4", 18, 25, 1500), _share("N5", 35, 50, 4352), _share("N6", 55, 65, 9180),
        Claim("N4-6", "the share rises with the MTU",
              "the share of the bytes rises from each MTU to the next (1500, 4352, 9180)",
              lambda rows: [f for v in VARIANTS
                            for f in rising("share", "mtu", v, variant=v, mtu=(1500, 4352, 9180))(rows)]),
    ),
    measure_packets,
    (Plot("e2_packets", "CPU time for a packet", "payload", "ns", "variant", "payload", "ns", panel="mtu",
          panel_title="MTU {mtu}"),),
    taps=True,
)  # fmt: skip


# --- E22 --------------------------------------------------------------------------------------------------------------

# (bytes, packets of it), of the wire or of calls.
MIXES = {
    "simple IMIX (7 x 64, 4 x 576, 1 x 1500)": ((64, 7), (576, 4), (1500, 1)),
    "bulk at an MTU of 1500 (2 data, 1 acknowledgement)": ((1500, 2), (64, 1)),
    "bulk at an MTU of 9180": ((9180, 2), (64, 1)),
    "super-segments of 64 KiB": ((65536, 2), (64, 1)),
    "calls of a file server: 4 KiB, 64 KiB, 1 MiB alike": ((4096, 1), (65536, 1), (1 << 20, 1)),
}


def measure_mix(lab: Lab) -> list[Row]:
    """Rows by mix and technique: the share of packets, and of bytes, that are large enough."""
    from ustack._lab import pages

    rows: list[Row] = []
    thresholds: dict[str, float | None] = {}
    pinned, flipped = lab.rows_of(pages.E12), lab.rows_of(pages.E14)
    cow = [r for r in lab.rows_of(pages.E13) if r.get("mechanism") == "mprotect"]
    for copy, where in (("copy_ns", "warm"), ("cold_ns", "cold")):
        thresholds[f"pin each time, against a {where} copy"] = pages.crossing(pinned, copy, "register_ns")
        thresholds[f"protect (COW, not written), against a {where} copy"] = pages.crossing(cow, copy, "protect_ns")
        thresholds[f"mremap, against a {where} copy"] = pages.crossing(flipped, copy, "move_ns")
    for mix, sizes in MIXES.items():
        for name, least in thresholds.items():
            packets, share = shares(sizes, least)
            rows.append({"mix": mix, "technique": name, "least": None if least is None else round(least),
                         "packets": packets, "bytes": share})  # fmt: skip
    return rows


def shares(sizes: Sequence[tuple[int, int]], least: float | None) -> tuple[float, float]:
    """Per cent of the packets, and of the bytes, in packets of at least that size; None: no size is enough."""
    count, total = sum(n for _, n in sizes), sum(s * n for s, n in sizes)
    large = [(s, n) for s, n in sizes if least is not None and s >= least]
    return 100 * sum(n for _, n in large) / count, 100 * sum(s * n for s, n in large) / total


def _few_large(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for mix in MIXES:
        chosen = [r for r in rows if r["mix"] == mix]
        if chosen:
            best = max(chosen, key=lambda r: r["packets"])
            found.append(Finding(mix, f"at most {number(best['packets'])} % of the packets ({best['technique']})",
                                 verdict_of(best["packets"] < 10)))  # fmt: skip
    return found


E22 = Experiment(
    "E22", "packets that are large enough",
    "the sizes from which pinning, protecting or moving pages costs less than a copy, as E12, E13 and E14 measured "
    "them, applied to mixes of packet sizes; \"-\": no size that was measured is enough. The mixes are models: no "
    "traffic was recorded.",
    (Column("mix", "mix"), Column("technique", "technique"), Column("least", "pays from", "B"),
     Column("packets", "packets", "%"), Column("bytes", "bytes", "%")),
    (Claim("P19", "few packets are large enough for page tricks",
           "fewer than 10 % of the packets of a mix reach the size from which any of them pays", _few_large),),
    measure_mix,
)  # fmt: skip
EXPERIMENTS = (E2, E22)
