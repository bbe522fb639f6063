"""E3: copying, summing, and both in one pass; E24: how fast memory is here."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

from ustack._core.py import bench_lab
from ustack._lab.bench import Lab
from ustack._lab.form import Band, Claim, Column, Experiment, Plot, Row, cannot, in_band, measured

SIZES = (64, 256, 1460, 4096, 16384, 65536, 1 << 20, 16 << 20)
QUICK_SIZES = (64, 1460, 65536, 1 << 20, 16 << 20)
WARM, COLD = "warm", "cold"
ROOM = 64 << 20  # bytes; through twice that no cache of today keeps anything
KINDS = ("copy", "csum", "separate", "fused")
DRAM = 16 << 20  # bytes from which on a block is in memory, not in a cache, whichever way it is taken


def measure_copying(lab: Lab) -> list[Row]:
    """Rows by kernel, size and whether the block is in the cache."""
    room = bench_lab.Room(ROOM)
    rows: list[Row] = []
    for kernel in ("words", *bench_lab.checksum_kernels()):
        for size in lab.pick(SIZES, QUICK_SIZES):
            for cache in (WARM, COLD) if size < DRAM else (COLD,):
                rough = {k: room.copying(k, kernel, size, 1, cache == COLD) for k in KINDS}
                seconds = 0.002 if kernel == "words" else 0.0015
                what = {
                    k: partial(room.copying, k, kernel, size, lab.turns(rough[k], seconds, most=200_000), cache == COLD)
                    for k in KINDS
                }
                found = lab.in_turn(what, warm=0)
                rows.append(copying_row(kernel, size, cache, found))
    return rows


def copying_row(kernel: str, size: int, cache: str, found: dict[str, list[float]]) -> Row:
    """A row of the times of each kind of each round; shares and ratios are those of the rounds."""
    row: Row = {"kernel": kernel, "size": size, "cache": cache}
    for kind in KINDS:
        row |= measured(f"{kind}_ns", found[kind])
    rounds = list(zip(found["copy"], found["separate"], found["fused"], strict=True))
    row |= measured("checksum_share", [100 * (both - copy) / both for copy, both, _ in rounds])
    row |= measured("fused_over_copy", [fused / copy for copy, _, fused in rounds])
    return row


def measure_memory(lab: Lab) -> list[Row]:
    """Bandwidth of a copy and of a sum, and what a miss costs."""
    room = bench_lab.Room(ROOM)
    rows: list[Row] = []
    for what, size, cold in (("copy", 32 << 10, False), ("copy", 512 << 10, False), ("copy", 4 << 20, True),
                             ("csum", 4 << 20, True)):  # fmt: skip
        one = partial(room.copying, what, "", size, lab.turns(size / 20, 0.02), cold)
        rates = [size / ns for ns in lab.in_turn({"x": one})["x"]]
        where = "memory" if cold else f"{size >> 10} KiB again and again"
        rows.append({"what": f"{what}, {where}", **measured("gb_per_s", rates)})
    for size in (16 << 10, 512 << 10, *lab.pick((16 << 20, 128 << 20), (32 << 20,))):
        chase = bench_lab.Chase(size)
        rounds = max(1, (1 << 20) // size)
        rows.append({"what": f"a load from {size >> 10} KiB, each needs the one before",
                     **measured("ns", lab.in_turn({"x": partial(chase.run, rounds)})["x"])})  # fmt: skip
    ghz = clock_rate()
    for row in rows:
        if ghz and "ns" in row:
            row["cycles"] = row["ns"] * ghz
    rows.append({"what": "clock rate that /proc/cpuinfo names", "ghz": ghz})
    return rows


def clock_rate() -> float | None:
    """GHz, as /proc/cpuinfo has it; of a virtual machine's it is a nominal one."""
    rates = []
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("cpu MHz"):
                rates.append(float(line.partition(":")[2]) / 1000)
    return median(rates) if rates else None


PACKET: dict[str, Any] = {"size": 1460}
E3 = Experiment(
    "E3", "copy and checksum",
    "copy (memcpy), checksum, one after the other (\"separate\") and both in one pass (\"fused\"), in C, for each "
    "kernel that this CPU has; \"words\" is the loop of the textbooks, 16 bits at a time, not vectorised. Warm: the "
    f"same block again and again. Cold: another block each time, through {2 * ROOM >> 20} MiB.",
    (
        Column("kernel", "kernel"), Column("size", "bytes"), Column("cache", "cache"), Column("copy_ns", "copy", "ns"),
        Column("csum_ns", "sum", "ns"), Column("separate_ns", "separate", "ns"), Column("fused_ns", "fused", "ns"),
        Column("checksum_share", "sum's share", "%"), Column("fused_over_copy", "fused / copy"),
    ),
    (
        Claim("N7", "the checksum is 20 to 30 % of the cost per byte",
              "(separate - copy) / separate lies between 20 and 30 %, for each kernel, at 1460 bytes and in memory",
              in_band("checksum_share", Band(20, 30, "%"), "{kernel}, {size} B, {cache}", size=(1460, DRAM))),
        Claim("T11", "copying and summing in one pass saves the second pass: the access to memory costs, not the sum",
              "fused / copy is at most 1.10 for blocks in memory, for each kernel of the core",
              in_band("fused_over_copy", Band(high=1.10), "{kernel}, {size} B, {cache}", size=DRAM,
                      kernel=("scalar", "avx2", "avx512"))),
    ),
    measure_copying,
    (Plot("e3_checksum", "Copy, sum, and both in one pass (warm)", "size", "copy_ns,csum_ns,separate_ns,fused_ns",
          "", "size of a block", "ns a byte", panel="kernel", panel_title="{kernel}", only=(("cache", WARM),),
          per_x=True),),
)  # fmt: skip
E24 = Experiment(
    "E24", "memory and processor (context)",
    "bandwidth of memcpy and of the core's checksum, and a chain of loads in random order over sets of several sizes. "
    "How both have grown over the years since (N1: 35 % and 50 % a year) one machine cannot say.",
    (Column("what", "what"), Column("gb_per_s", "bandwidth", "GB/s"), Column("ns", "a load", "ns"),
     Column("cycles", "cycles"), Column("ghz", "clock", "GHz")),
    (Claim("N1", "memory bandwidth grows by 35 % a year, processors by 50 %",
           "needs machines of many years", cannot("one machine has one year; the figures are context")),),
    measure_memory,
)  # fmt: skip
EXPERIMENTS = (E3, E24)
