"""E16 and E17: fbufs; E20: receives posted before the data; E21: sends in place, with completions."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

from ustack._core.py import bench_lab
from ustack._lab.bench import CannotMeasure, Lab, beside, file_of, tap_connection
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
    number,
    pays,
    pays_from,
    rising,
)

T = TypeVar("T")
PAGE = bench_lab.PAGE


# --- E16 --------------------------------------------------------------------------------------------------------------

# What the paper calls it: (place in its order, the kind of its pools, whether each has a pool of its own).
VARIANTS = {
    "cached, volatile": (1, "volatile", False), "volatile": (2, "volatile", True), "cached": (3, "protected", False),
    "plain": (4, "protected", True), "copy": (6, "copy", False), "UNIX socket": (7, "socket", False),
}  # fmt: skip
ORDER = "cached and volatile < volatile < cached <= plain < COW < copy"
SIZES = (4 << 10, 64 << 10, 1 << 20)
FBUF_TURNS, EACH = 1, 400  # EACH is that of the other end
PATIENCE = 20.0  # seconds for EACH transfers


def measure_fbufs(lab: Lab) -> list[Row]:
    """Rows by variant and size: two processes on two CPUs; nobody touches the bytes."""
    from ustack._bench import fbufs as ends

    if lab.other_cpu is None:
        raise CannotMeasure("the two ends need a CPU each")
    rows: list[Row] = []
    for size in lab.pick(SIZES, SIZES[1:2]):
        with ends.near_end(size, lab.cpu, lab.other_cpu) as (near, process):
            near.plain.settimeout(PATIENCE)
            one = partial(in_step, partial(hand_over, near, process, size))
            found = lab.in_turn({name: partial(one, *how) for name, (_, *how) in VARIANTS.items()})
        for name, values in found.items():
            rows.append({
                "variant": name, "place": VARIANTS[name][0], "size": size, **measured("ns", values),
                **measured("ns_per_page", [v / (size / PAGE) for v in values]),
            })  # fmt: skip
    lab.missing["COW"] = "no kernel interface lends pages of one process to another so (within a process: E13)"
    return rows


def in_step(act: Callable[..., T], *how: Any) -> T:
    """What two ends do together. One that fails leaves the other waiting: there is no going on with a next way."""
    try:
        return act(*how)
    except OSError as e:
        raise RuntimeError(f"{how}: {e}") from e


def hand_over(near: Any, process: Any, size: int, kind: str, once: bool) -> float:
    """ns for a buffer, from here to the other process, and back to its pool."""
    from ustack import fbufs
    from ustack._bench import fbufs as ends

    copied = kind in ("copy", "socket")
    ends.tell(process, kind if copied else "fbuf", False, FBUF_TURNS)
    began = time.perf_counter_ns()
    if once:
        for _ in range(EACH):
            introduce(near.channel, fbufs.Pool(size, once=True, kind=kind).alloc())
    elif copied:
        getattr(near, kind)(False)
    else:
        near.fbuf(kind, False)
    near.plain.recv(1)
    return (time.perf_counter_ns() - began) / EACH


def introduce(channel: Any, f: Any) -> None:
    """Send a buffer whose pool the other side does not know; it can know so many at a time, and has to catch up."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return channel.send(f)  # type: ignore[no-any-return]
        except OSError as e:
            if e.errno != errno.ENOSPC or time.monotonic() > end:
                raise
            channel.collect()


def _order(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for size in sorted({r["size"] for r in rows}):
        found += rising("ns_per_page", "place", f"{size} B, of those measured", size=size, place=(1, 2, 3, 4, 6))(rows)
    return found


E16 = Experiment(
    "E16", "fbufs between two processes",
    "a buffer goes from one process to another on the other CPU and comes back to its pool; nobody touches the "
    "bytes, but \"copy\" copies them into shared memory and out of it, and the socket does. Python API; ns for a "
    "whole buffer and for each page of 4 KiB. Cached: the buffers of a pool that both have mapped; else each is a "
    "memory file of its own, made, mapped and unmapped for one transfer. Volatile: the producer could still write; "
    "else its right to write goes away at each transfer (mprotect), and where that is for good (plain) by a seal.",
    (Column("variant", "variant"), Column("size", "bytes"), Column("ns", "a buffer", "ns"),
     Column("ns_per_page", "a page", "ns"), Column("place", "place in the claim")),
    (Claim("X7", f"for a page: {ORDER}", "the medians are in that order, for each size", _order),),
    measure_fbufs,
    (Plot("e16_fbufs", "A buffer from one process to another", "size", "ns", "variant", "size of a buffer", "ns"),),
)  # fmt: skip


# --- E17 --------------------------------------------------------------------------------------------------------------

FILE_PIECE = 64 << 10


def measure_file(lab: Lab) -> list[Row]:
    """A file read into fbufs and handed over, against one that is read and written to a socket."""
    from ustack._bench import fbufs as ends

    if lab.other_cpu is None:
        raise CannotMeasure("the two ends need a CPU each")
    total = EACH * FILE_PIECE
    with file_of(4 << 20) as file, ends.near_end(FILE_PIECE, lab.cpu, lab.other_cpu) as (near, process):
        near.plain.settimeout(PATIENCE)

        def one(how: str) -> complex:
            began, used = time.perf_counter_ns(), time.process_time_ns() + cpu_of(process.pid)
            ends.tell(process, "socket" if how == "socket" else "fbuf", True, 1)
            own, view = near.own, memoryview(near.own)
            for k in range(EACH):
                at = k * FILE_PIECE % (4 << 20)
                if how == "socket":
                    os.preadv(file, [view], at)
                    near.plain.sendall(own)
                else:
                    f = near.pools[how].alloc()
                    with f.data as data:
                        os.preadv(file, [data], at)
                    near.channel.send(f)
            near.plain.recv(1)
            spent = time.perf_counter_ns() - began
            return complex(spent, time.process_time_ns() + cpu_of(process.pid) - used)

        ways = {"read + write": "socket", "fbufs, volatile": "volatile", "fbufs, protected": "protected"}
        found = lab.in_turn({name: partial(in_step, one, how) for name, how in ways.items()})
    rows: list[Row] = []
    for name, values in found.items():
        row: Row = {
            "technique": name, **measured("mb_per_s", [total / v.real * 1e3 for v in values]),
            **measured("cpu_s_per_gib", [v.imag / total * 2**30 / 1e9 for v in values]),
        }  # fmt: skip
        if name != "read + write" and "read + write" in found:
            base = found["read + write"]
            row |= measured("gain", [100 * (b.real / v.real - 1) for v, b in zip(values, base, strict=True)])
            row |= measured("cpu_saved", [100 * (1 - v.imag / b.imag) for v, b in zip(values, base, strict=True)])
        rows.append(row)
    return rows


def cpu_of(pid: int) -> int:
    """CPU time of the threads of another process, in ns (/proc/PID/task/*/schedstat)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total


E17 = Experiment(
    "E17", "a file through fbufs",
    f"a warm file is read in pieces of {FILE_PIECE >> 10} KiB into fbufs that are handed to another process on the "
    "other CPU, which sums all bytes; or read into a buffer, written to a UNIX socket, received and summed. CPU: of "
    "both processes, including the time in which an end looks for the other before it sleeps.",
    (Column("technique", "technique"), Column("mb_per_s", "throughput", "MB/s"),
     Column("cpu_s_per_gib", "CPU", "s/GiB"), Column("gain", "more throughput", "%"),
     Column("cpu_saved", "CPU saved", "%")),
    (Claim("X5", "fbufs give at least 40 % more throughput for a file",
           "throughput / that of read and write - 1 is at least 40 %",
           in_band("gain", Band(low=40, unit="%"), "{technique}")),
     Claim("X5b", "and use at least 20 % less CPU", "1 - CPU time / that of read and write is at least 20 %",
           in_band("cpu_saved", Band(low=20, unit="%"), "{technique}"))),
    measure_file,
)  # fmt: skip


# --- E20 --------------------------------------------------------------------------------------------------------------


def measure_receives(lab: Lab) -> list[Row]:
    """Receives posted before the data, late ones, and loaned buffers, by how many packets come late."""
    from ustack._bench.direct import experiment_e20

    runs: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for _ in range(lab.repeats):
        for one in experiment_e20(lab.pick(4_000_000, 1_000_000)):
            runs.setdefault((one["reorder"], one["receive"]), []).append(one)
        lab.progress.step()
        if time.monotonic() > lab.until:
            break
    rows: list[Row] = []
    for (reorder, receive), found in runs.items():
        row: Row = {"reorder": reorder, "way": receive}
        for key, source in (("copies", "copies"), ("in_place", "in_place"), ("ns_per_byte", "ns_byte")):
            row |= measured(key, [float(one[source]) for one in found])
        rows.append(row)
    return rows


E20 = Experiment(
    "E20", "receives posted before the data",
    "a stream over a cable with devices at its ends that place payload (MTU 1500), received into registered memory "
    "by calls that wait before the data come (posted), copied after they came (late), or loaned; with none, 1 and 5 "
    "% of the packets exchanged with others. Copies: bytes that a CPU moved in the receiving stack, for each byte "
    "received. Time: from the first to the last byte, both ends in one process.",
    (Column("reorder", "packets late"), Column("way", "receive"), Column("copies", "copies of a byte"),
     Column("in_place", "placed"), Column("ns_per_byte", "time", "ns/B")),
    (Claim("T43", "data of a receive that was posted before are not copied by a CPU",
           "without reordering, at most 0.02 copies of each byte",
           in_band("copies", Band(high=0.02), "{way}, {reorder} late", way="posted", reorder="0%")),
     Claim("P13", "the network delivers when it likes: what does not come as expected is copied after all",
           "with 5 % of the packets late, posted receives copy more than without",
           rising("copies", "reorder", "posted, 0% and 5% late", way="posted", reorder=("0%", "5%")))),
    measure_receives,
)  # fmt: skip


# --- E21 --------------------------------------------------------------------------------------------------------------

SENDS = tuple(1 << k for k in (10, 12, 14, 16, 17, 18, 20))
QUICK_SENDS = (4 << 10, 64 << 10, 1 << 20)
RING = 16
SO_ZEROCOPY = 60


class Direct:
    """Sends with completion from a ring of buffers, which are registered, over a socket.

    other: one that sends over the same socket. It is the socket that tells of completions, so both count as one.
    """

    def __init__(self, s: Any, buffers: Sequence[Any], other: Direct | None = None) -> None:
        from ustack import register

        self.s, self.ring, self.most = s, cycle(buffers), min(len(buffers), RING) - 1
        self.under_way: Counter[str] = other.under_way if other else Counter()
        s.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        self.held = [register(b) for b in buffers]
        self.copied = False

    def send(self) -> None:
        """One of the buffers, waiting until it is free."""
        if self.under_way["sends"] >= self.most:
            self.collect(5.0)
        self.s.sendall(next(self.ring), zerocopy=True)
        self.under_way["sends"] += 1

    def collect(self, timeout: float) -> None:
        """Take the completions that are there, at least one."""
        for low, high, copied in self.s.completions(timeout):
            self.under_way["sends"] -= ((high - low) & 0xFFFFFFFF) + 1
            self.copied |= copied

    def end(self) -> None:
        """Wait until all are free."""
        while (before := self.under_way["sends"]) > 0:
            self.collect(5.0)
            if self.under_way["sends"] == before:
                raise CannotMeasure("a completion does not come")

    def close(self) -> None:
        """Give the registrations back."""
        for one in self.held:
            one.close()


COPIED = "copied"
SENDERS = {"completion": "with completion", "waiting": "waited for"}


def measure_completions(lab: Lab) -> list[Row]:
    """Rows by size: copied, in place with completions, in place and waited for; over a TAP."""
    rows: list[Row] = []
    costs: dict[str, list[list[float]]] = {}
    sizes = lab.pick(SENDS, QUICK_SENDS)
    with tap_connection() as (_net, s, kernel), beside(partial(bench_lab.drain, kernel.fileno())):
        try:
            for size in sizes:
                row, found = of_size(lab, s, size)
                rows.append(row)
                for name, values in found.items():
                    costs.setdefault(name, []).append(values)
        finally:
            s.close()
    return rows + [pays_from(name, COPIED, sizes, costs["copy"], costs[key]) for key, name in SENDERS.items()]


def of_size(lab: Lab, s: Any, size: int) -> tuple[Row, dict[str, list[float]]]:
    """The row of a size, and the costs of a call in each round."""
    ring = [bytearray(size) for _ in range(RING)]
    count, buffers, direct = lab.turns(3000 + size / 5, 0.012, least=RING), cycle(ring), Direct(s, ring)

    def timed(act: Callable[[], object]) -> float:
        used = bench_lab.cpu_ns()
        for _ in range(count):
            act()
        direct.end()
        return (bench_lab.cpu_ns() - used) / count

    found = lab.in_turn({
        "copy": partial(timed, lambda: s.sendall(next(buffers))), "completion": partial(timed, direct.send),
        "waiting": partial(timed, lambda: s.sendall(next(buffers), direct=True)),
    })  # fmt: skip
    direct.close()
    row: Row = {"size": size}
    for name, values in found.items():
        row |= measured(f"{name}_ns", values)
    row |= measured("ratio", [x / y for x, y in zip(found["completion"], found["copy"], strict=True)])
    return row | {"copied": "yes" if direct.copied else "no"}, found


def _threshold(rows: Sequence[Row]) -> list[Finding]:
    from ustack import DIRECT_LEAST

    found = []
    for f in pays(DIRECT_LEAST / 2, DIRECT_LEAST * 2, what=SENDERS["waiting"])(rows):
        text = f"{f.figure}; the constant is {number(DIRECT_LEAST / 1024)} KiB"
        found.append(Finding(f.where, text, f.verdict, f.remark))
    return found


E21 = Experiment(
    "E21", "sends in place, with completions",
    f"{RING} buffers in turn are sent over a TAP: copied; in place with a completion (each used again when it is "
    "free); in place and waited for. CPU time of the thread that sends, for a call, through the Python "
    "API; where it waits for acknowledgements it looks for them, which is in the figures. Copied: whether a "
    "completion said so.",
    (Column("size", "bytes"), Column("copy_ns", "copied", "ns"), Column("completion_ns", "with completion", "ns"),
     Column("waiting_ns", "waited for", "ns"), Column("ratio", "completion / copied"), Column("copied", "copied"),
     *PAYS_COLUMNS),
    (Claim("X8", "sending in place with a completion pays above about 10 KB",
           "the size from which it costs less CPU time than copying lies between 5 and 20 KiB",
           pays(5 << 10, 20 << 10, what=SENDERS["completion"])),
     Claim("X8b", "direct=\"auto\" sends in place from the size on from which that is cheaper",
           "ustack.DIRECT_LEAST is at most twice, and at least half, the size from which a send in place that is "
           "waited for costs less CPU time than copying", _threshold)),
    measure_completions,
    (Plot("e21_completions", "CPU time of a send over a TAP", "size", "copy_ns,completion_ns,waiting_ns", "",
          "size of a call", "ns a byte", per_x=True),),
    taps=True,
)  # fmt: skip
EXPERIMENTS = (E16, E17, E20, E21)


@contextlib.contextmanager
def fbufs_received(size: int, count: int) -> Iterator[list[Any]]:
    """For E1: fbufs that were handed over through a channel, to be read where they lie."""
    from ustack import fbufs

    one, other = fbufs.pair()
    with one, other:
        pool = fbufs.Pool(size, count)
        got = []
        for _ in range(count):
            one.send(pool.alloc())
            got.append(other.recv(PATIENCE))
        yield got


@contextlib.contextmanager
def handed_over(size: int) -> Iterator[tuple[Callable[[bool], int], Callable[[], dict[str, tuple[int, int]]], bool]]:
    """For E1: a function that hands an fbuf from one channel of this process to another (copying into it first, or
    not), the ledger of fbufs, and whether what arrives is where it was."""
    from ustack import fbufs

    one, other = fbufs.pair()
    with one, other:
        pool, data = fbufs.Pool(size, 16, kind="volatile", reuse="latest"), bytes(size)

        def hand(copied: bool) -> int:
            f = pool.alloc()
            if copied:
                f.write(data)
            one.send(f)
            got = other.recv()
            assert got is not None
            got.free()
            one.collect()
            return size

        f = pool.alloc()
        place = mapped_at(f.address)
        one.send(f)
        got = other.recv()
        same = isinstance(got, fbufs.Fbuf) and place[0] != 0 and mapped_at(got.address) == place
        if got is not None:
            got.free()
        yield hand, fbufs.fbuf_ledger, same


def mapped_at(address: int) -> tuple[int, int]:
    """(inode, offset in the file) of what is mapped at an address of this process; (0, 0) for none."""
    with open("/proc/self/maps") as f:
        for line in f:
            fields = line.split()
            low, high = (int(x, 16) for x in fields[0].split("-"))
            if low <= address < high:
                return int(fields[4]), int(fields[2], 16) + address - low
    return 0, 0
