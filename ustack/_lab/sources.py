"""E4: mapping a file against reading it, by its size; E5: the ways to send one, of the kernel and of this stack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ustack._core.py import bench_lab
from ustack._lab.bench import CannotMeasure, Lab, beside, file_of, loopback_pair, tap_connection
from ustack._lab.form import (
    PAYS_COLUMNS,
    Band,
    Claim,
    Column,
    Experiment,
    Finding,
    Plot,
    Row,
    in_band,
    measured,
    pays,
    pays_from,
    several,
    verdict_of,
)
from ustack._lab.ways import FILES

PIECE = 64 << 10


# --- E4 ---------------------------------------------------------------------------------------------------------------

SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
QUICK_SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
READ, MAPPED = "read", {"map": "map each time", "mapped": "mapping kept"}


def measure_mapping(lab: Lab) -> list[Row]:
    """Rows by the size of the file."""
    rows: list[Row] = []
    costs: dict[str, list[list[float]]] = {}
    sizes = lab.pick(SIZES, QUICK_SIZES)
    sink = os.memfd_create("lab")
    try:
        for size in sizes:
            with file_of(size) as file:
                count = lab.turns(2000 + size / 10, 0.01)

                def one(how: Any, file: int = file, size: int = size, count: int = count) -> float:
                    return bench_lab.send_file(how, file, size, sink, PIECE, size * count, again=True)[0] / count

                found = lab.in_turn({how: partial(one, how) for how in ("read", "map", "mapped")})
            row: Row = {"size": size}
            for how, values in found.items():
                row |= measured(f"{how}_ns", values)
                costs.setdefault(how, []).append(values)
            for how in ("map", "mapped"):
                row |= measured(f"{how}_ratio", [a / b for a, b in zip(found[how], found["read"], strict=True)])
            rows.append(row)
    finally:
        os.close(sink)
    return rows + [pays_from(name, READ, sizes, costs["read"], costs[how]) for how, name in MAPPED.items()]


E4 = Experiment(
    "E4", "mapping a file against reading it",
    f"a file in the page cache is written to another one (of {PIECE >> 10} KiB, always the same pages) in pieces of "
    f"{PIECE >> 10} KiB, by the kernel: pread and pwrite; mmap, pwrite and munmap for each file; pwrite from a mapping "
    "that is kept. C. ns for one whole file.",
    (
        Column("size", "bytes"), Column("read_ns", "read", "ns"), Column("map_ns", "map each time", "ns"),
        Column("mapped_ns", "mapping kept", "ns"), Column("map_ratio", "map / read"),
        Column("mapped_ratio", "kept / read"), *PAYS_COLUMNS,
    ),
    (
        Claim("N11b", "the cost of mapping is outweighed only by many kilobytes",
              "there is a size from which mapping each file is cheaper than reading it, and it is at least 8 KiB; "
              "with a mapping that is kept there is one at all",
              several(pays(low=8 << 10, what=MAPPED["map"]), pays(what=MAPPED["mapped"]))),
    ),
    measure_mapping,
    (Plot("e4_mapping", "A file read, mapped each time, and kept mapped", "size", "read_ns,map_ns,mapped_ns", "",
          "size of the file", "ns a byte", per_x=True),),
)  # fmt: skip


# --- E5 ---------------------------------------------------------------------------------------------------------------

CHUNKS = (4 << 10, 64 << 10, 1 << 20)
FILE = 4 << 20
WAYS: tuple[Any, ...] = ("read", "mapped", "sendfile", "splice")
NAMES = {"read": "read + write", "mapped": "mmap + write", "sendfile": "sendfile", "splice": "splice"}
OURS = {"read_write": "read + write", "mmap_write": "mmap + write", "sendfile": "sendfile, copying",
        "sendfile_gather": "sendfile, gather"}  # fmt: skip


def measure_senders(lab: Lab) -> list[Row]:
    """Rows by stack, technique and size of a call."""
    rows: list[Row] = []
    with file_of(FILE) as file:
        with loopback_pair() as (a, b), beside(partial(bench_lab.drain, b.fileno())):
            try:
                for chunk in CHUNKS:
                    total = lab.pick(32 << 20, 8 << 20) if chunk > 4096 else lab.pick(16 << 20, 4 << 20)
                    way = partial(both, partial(_send_kernel, a.fileno(), file, chunk, total), total)
                    rows += rows_of(lab, "kernel, loopback", chunk, {NAMES[how]: partial(way, how) for how in WAYS})
            finally:
                a.shutdown(1)
        try:
            with tap_connection() as (_net, s, kernel), beside(partial(bench_lab.drain, kernel.fileno())):
                try:
                    for chunk in CHUNKS:
                        total = lab.pick(32 << 20, 8 << 20) if chunk > 4096 else lab.pick(8 << 20, 2 << 20)
                        send = partial(_send_ours, s, file, chunk, total)
                        ways = {name: partial(both, send, total, FILES[t]) for t, name in OURS.items()}
                        rows += rows_of(lab, "ustack, TAP", chunk, ways)
                finally:
                    s.close()
        except CannotMeasure as e:
            lab.missing["ustack, TAP"] = str(e)
    return rows


def _send_kernel(out: int, file: int, chunk: int, total: int, how: Any) -> tuple[float, float]:
    return bench_lab.send_file(how, file, FILE, out, chunk, total)


def _send_ours(s: Any, file: int, chunk: int, total: int, how: str) -> tuple[float, float]:
    began, used = time.perf_counter_ns(), bench_lab.cpu_ns()
    for at in range(0, total, chunk):
        s.sendfile(file, at % FILE, chunk, how=how)
    return float(time.perf_counter_ns() - began), float(bench_lab.cpu_ns() - used)


def both(run: Callable[[Any], tuple[float, float]], total: int, how: Any) -> complex:
    """(CPU ns for a byte, GB/s) as one value, so that they are taken in turn together."""
    wall, cpu = run(how)
    return complex(cpu / total, total / wall)


def rows_of(lab: Lab, stack: str, chunk: int, ways: Mapping[str, Callable[[], complex]]) -> list[Row]:
    """Rows of the ways, and how they compare with read and write in the same round."""
    found = lab.in_turn(ways)
    rows: list[Row] = []
    base = found["read + write"]
    for name, values in found.items():
        row: Row = {
            "stack": stack, "technique": name, "size": chunk, **measured("cpu_ns", [v.real for v in values]),
            **measured("gb_per_s", [v.imag for v in values]),
        }  # fmt: skip
        if name != "read + write":
            row |= measured("cpu_ratio", [v.real / b.real for v, b in zip(values, base, strict=True)])
            row |= measured("rate_ratio", [v.imag / b.imag for v, b in zip(values, base, strict=True)])
        rows.append(row)
    return rows


E5 = Experiment(
    "E5", "ways to send a file",
    f"a warm file of {FILE >> 20} MiB, again and again, in calls of several sizes; CPU time of the thread that "
    "sends, for each byte, and throughput. The kernel's ways over its loopback device, in C; ours over a TAP, "
    "through the Python API. Ratios are against read and write in the same round. Where the receiver runs on the "
    "other CPU, throughput is that of the slower end.",
    (
        Column("stack", "stack"), Column("technique", "technique"), Column("size", "bytes a call"),
        Column("cpu_ns", "CPU", "ns/B"), Column("gb_per_s", "throughput", "GB/s"),
        Column("cpu_ratio", "CPU / read + write"), Column("rate_ratio", "throughput / read + write"),
    ),
    (
        Claim("N12d", "sendfile saves a copy, and system calls: less CPU time for a byte than read and write",
              "CPU time for a byte / that of read and write is at most 0.9",
              in_band("cpu_ratio", Band(high=0.9), "{stack}, {technique}, {size} B",
                      technique=("sendfile", "sendfile, copying"))),
        Claim("N12c", "where the device gathers, the last copy goes as well",
              "CPU time for a byte / that of read and write is at most 0.9",
              in_band("cpu_ratio", Band(high=0.9), "{stack}, {technique}, {size} B", technique="sendfile, gather")),
        Claim("P5", "less CPU time is not always more throughput",
              "there is a row with less CPU time than read and write, and less throughput",
              lambda rows: _less_of_both(rows)),
    ),
    measure_senders,
    (Plot("e5_senders", "CPU time of the sender for a byte", "size", "cpu_ns", "technique", "size of a call",
          "ns a byte", panel="stack", panel_title="{stack}"),),
    taps=True,
)  # fmt: skip


def _less_of_both(rows: Any) -> list[Finding]:
    chosen = [r for r in rows if "cpu_ratio" in r and "rate_ratio" in r]
    both_less = [r for r in chosen if r["cpu_ratio"] < 1 and r["rate_ratio"] < 1]
    text = "; ".join(f"{r['stack']}, {r['technique']}, {r['size']} B" for r in both_less)
    return [Finding("", text or "no such row", verdict_of(bool(both_less)))] if chosen else []


EXPERIMENTS = (E4, E5)
