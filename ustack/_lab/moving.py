"""E6: flattening; E7: caches; E8: splices; E23: CPU time for a bit. What all measure is bytes through our stack."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ustack._bench.worker import difference
from ustack._core.py import bench_lab
from ustack._lab import ways
from ustack._lab.bench import FAR, NEAR, CannotMeasure, Lab, beside, connected, file_of, loopback_pair, tap_connection
from ustack._lab.copying import clock_rate
from ustack._lab.form import Band, Claim, Column, Experiment, Finding, Plot, Row, in_band, measured, number, verdict_of

CHUNK = 64 << 10


# --- E6 ---------------------------------------------------------------------------------------------------------------

GATHERS = (1, 2, 4, 16, 64)


def measure_flatten(lab: Lab) -> list[Row]:
    """Rows by how many pieces a device gathers: SharedMemory links, whose devices have such a limit."""
    import ustack

    rows: list[Row] = []
    data, buffer = bytes(CHUNK), bytearray(CHUNK)
    with contextlib.ExitStack() as held:
        runs: dict[str, Callable[[], float]] = {}
        booked: dict[str, tuple[Any, dict[str, tuple[int, int]]]] = {}
        sent = dict.fromkeys(GATHERS, 0)
        for most in GATHERS:
            near, far = (held.enter_context(ustack.Stack()) for _ in range(2))
            for net, link, ip in zip((near, far), ustack.SharedMemory.pair(max_sg=most), (NEAR, FAR),
                                     strict=True):
                net.add_interface(link, addresses=[f"{ip}/24"])
            a, b = held.enter_context(connected(near, far))

            def one(most: int = most, a: Any = a, b: Any = b) -> float:
                n, spent, end = 0, 0, time.perf_counter() + lab.pick(0.02, 0.01)
                while time.perf_counter() < end:
                    used = bench_lab.cpu_ns()
                    a.sendall(data)
                    spent += bench_lab.cpu_ns() - used
                    ways.take(b, CHUNK, buffer)
                    n += CHUNK
                sent[most] += n
                return spent / n

            runs[str(most)] = one
            booked[str(most)] = near, near.ledger()
        found = lab.in_turn(runs, rounds=3 * lab.repeats)
        for most in GATHERS:
            if str(most) not in found:
                continue
            net, before = booked[str(most)]
            flat = difference(net.ledger(), before).get("tx.flatten", (0, 0))[0]
            row: Row = {"max_sg": most, **measured("ns_per_byte", found[str(most)]), "flattened": flat / sent[most]}
            if row["flattened"] > 0.1:
                gain = [(x - y) * 1024 / row["flattened"]
                        for x, y in zip(found[str(most)], found[str(GATHERS[-1])], strict=True)]  # fmt: skip
                row |= measured("ns_per_kb", gain)
            rows.append(row)
    return rows


def _flattened(rows: Sequence[Row]) -> list[Finding]:
    return [Finding(f"max_sg {r['max_sg']}", f"{number(r['flattened'])} copies of each byte",
                    verdict_of((r["flattened"] > 0.99) == (r["max_sg"] == 1)))
            for r in rows if r["max_sg"] in (1, GATHERS[-1])]  # fmt: skip


E6 = Experiment(
    "E6", "flattening for a device that cannot gather",
    "a stream over SharedMemory links whose devices gather at most so many pieces into a packet: a packet of more is "
    "copied together first. CPU time of the thread in its calls that send, for a byte; flattened: bytes copied for "
    "that reason, for each byte sent; what that costs is the difference to the device that gathers most.",
    (Column("max_sg", "gathers"), Column("ns_per_byte", "ns/B"), Column("flattened", "flattened"),
     Column("ns_per_kb", "flattening 1 KB", "ns")),
    (
        Claim("P21", "without gathering every packet costs a copy more; with it none",
              "the ledger says 1 for a device that gathers nothing, and not 1 for one that gathers 64 pieces",
              _flattened),
        Claim("T13", "gathering saves CPU time", "flattening a KB costs more than 0 ns, at max_sg 1",
              in_band("ns_per_kb", Band(low=0.001, unit="ns"), "max_sg {max_sg}", max_sg=1)),
    ),
    measure_flatten,
)  # fmt: skip


# --- E7 ---------------------------------------------------------------------------------------------------------------

SET = 512 << 10  # half of the second-level cache of the machines of today
BLOCKS = (16 << 10, 64 << 10, 256 << 10, 1 << 20)


def measure_caches(lab: Lab) -> list[Row]:
    """How slow a program's own data are after sending; and what a copy does for who reads the data anyway."""
    return pollution(lab) + prefetching(lab)


def pollution(lab: Lab) -> list[Row]:
    """A chain of loads through half of a cache, after sending much with and without copies."""
    total = lab.pick(256 << 20, 32 << 20)
    rows: list[Row] = []
    chase = bench_lab.Chase(SET)

    def after(send: Callable[[], object]) -> float:
        chase.run(8)
        send()
        return chase.run(1)

    with file_of(total) as file:
        runs: dict[str, Callable[[], object]] = {"nothing sent": lambda: None}
        with contextlib.ExitStack() as held:
            a, b = held.enter_context(loopback_pair())
            held.enter_context(beside(partial(bench_lab.drain, b.fileno())))
            held.callback(a.shutdown, 1)
            for how, name in (("read", "kernel, loopback: read + write"), ("sendfile", "kernel, loopback: sendfile")):
                way: Any = how
                runs[name] = partial(bench_lab.send_file, way, file, total, a.fileno(), CHUNK, total)
            try:
                _net, s, kernel = held.enter_context(tap_connection())
                held.enter_context(beside(partial(bench_lab.drain, kernel.fileno())))
                held.callback(s.close)
                for how, name in (("read", "ustack, TAP: read + write"), ("copy", "ustack, TAP: sendfile, copying"),
                                  ("gather", "ustack, TAP: sendfile, gather")):
                    runs[name] = partial(s.sendfile, file, 0, total, how=how)
            except CannotMeasure as e:
                lab.missing["TAP"] = str(e)
            found = lab.in_turn({name: partial(after, send) for name, send in runs.items()}, warm=0)
    for name, values in found.items():
        row: Row = {"after": name, **measured("load_ns", values)}
        rows.append(row)
    made = {row["after"]: row for row in rows}
    for copying, gathering in (("kernel, loopback: read + write", "kernel, loopback: sendfile"),
                               ("ustack, TAP: sendfile, copying", "ustack, TAP: sendfile, gather")):
        if copying in found and gathering in found:
            made[copying] |= measured(
                "slower", [x / y for x, y in zip(found[copying], found[gathering], strict=True)])
    return rows


def prefetching(lab: Lab) -> list[Row]:
    """A program that reads all: in place, or after a copy that has brought the data into the cache."""
    room = bench_lab.Room(64 << 20)
    rows: list[Row] = []
    for size in BLOCKS:
        turns = lab.turns(size / 5, 0.01)
        found = lab.in_turn({
            "in_place": partial(room.consume, size, turns, copied=False),
            "copied": partial(room.consume, size, turns, copied=True),
            "copy": partial(room.consume, size, turns, copied=True, used=False),
        })  # fmt: skip
        row: Row = {"table": "who reads all of the data", "size": size}
        for name, values in found.items():
            row |= measured(f"{name}_ns", values)
        gains = [(both - place) / copy for both, place, copy in
                 zip(found["copied"], found["in_place"], found["copy"], strict=True)]  # fmt: skip
        rows.append(row | measured("gain", gains))
    return rows


E7 = Experiment(
    "E7", "caches: pollution and prefetching",
    f"(a) a chain of loads in random order through {SET >> 10} KiB, which the program had in its cache before much "
    "of a file was sent, by way of copies or without; ns of a load. Through a TAP the kernel copies as the device, "
    "on the same CPU. (b) a program that reads all of a block that no cache has: in place, or after copying it into "
    "a buffer of its own; the gain of reading in place, in parts of what the copy costs alone. C.",
    (
        Column("after", "after"), Column("load_ns", "a load", "ns"), Column("slower", "copying / gather"),
        Column("size", "bytes"), Column("in_place_ns", "in place", "ns"), Column("copied_ns", "copied first", "ns"),
        Column("copy_ns", "the copy alone", "ns"), Column("gain", "gain / copy"),
    ),
    (
        Claim("P2", "sending with copies pollutes the cache",
              "the loads after copying take at least 1.2 times as long as after sending without",
              in_band("slower", Band(low=1.2), "{after}")),
        Claim("P1", "a copy also brings the data into the cache for who reads them next",
              "the gain of reading in place is less than 0.5 of what the copy costs alone",
              in_band("gain", Band(high=0.5), "{size} B")),
    ),
    measure_caches,
    taps=True,
)  # fmt: skip


# --- E8 ---------------------------------------------------------------------------------------------------------------

SPLICED = 8 << 20
PIECES = (4 << 10, 64 << 10, 1 << 20)
PAGE, PAGES = 4096, 16  # of a pipe of references
WATERMARKS = (1, 4, 32)  # pieces of 64 KiB that may be on their way to us, and as many that wait in front of the sink


def measure_splice(lab: Lab) -> list[Row]:
    """File to file, file to a TCP of ours, and TCP to TCP: a loop of read and write, and a splice."""
    rows: list[Row] = []
    with file_of(SPLICED) as file, file_of(SPLICED) as target:
        rows += compare(lab, "file to file", SPLICED, {
            **{f"read + write, {n >> 10} KiB": partial(loop_files, file, target, n) for n in PIECES},
            "splice": partial(splice_files, file, target),
        })  # fmt: skip
        try:
            with tap_connection() as (_net, s, kernel), beside(partial(bench_lab.drain, kernel.fileno())):
                try:
                    rows += compare(lab, "file to TCP (TAP)", SPLICED, {
                        **{f"read + write, {n >> 10} KiB": partial(loop_to_socket, file, s, n) for n in PIECES},
                        "splice": partial(splice_from_file, file, s),
                        **{f"splice, watermarks {n}": partial(splice_from_file, file, s, n) for n in WATERMARKS},
                        "splice, by a PagePipe": partial(splice_by_pipe, file, s),
                    })  # fmt: skip
                finally:
                    s.close()
        except CannotMeasure as e:
            lab.missing["TAP"] = str(e)
    with ways.through_a_middle() as samples:
        relays = {{"recv_send": "read + write, 64 KiB"}.get(x.technique, x.technique): x for x in samples}

        def many(sample: ways.Sample) -> None:
            for _ in range(SPLICED // ways.RELAYED):
                sample.once()

        rows += compare(lab, "TCP to TCP", SPLICED, {name: partial(many, x) for name, x in relays.items()})
    return rows + measure_references(lab)


def measure_references(lab: Lab) -> list[Row]:
    """What a reference to a page costs in a pipe of them, beside a copy of the page."""
    import ustack.buffers

    memory, target = ustack.buffers.Region(PAGES * PAGE), bytearray(PAGES * PAGE)
    with ustack.register(memory), ustack.PagePipe(PAGES) as one, ustack.PagePipe(PAGES) as other:
        whole = memoryview(memory)
        pages = [whole[at : at + PAGE] for at in range(0, len(whole), PAGE)]

        def again(*steps: Callable[[], object]) -> None:
            for _ in range(SPLICED // len(whole)):
                for step in steps:
                    step()

        vmsplice, tee = partial(one.vmsplice, pages), partial(ustack.tee, one, other)
        rows = compare(lab, "pages in a PagePipe", SPLICED, {
            "vmsplice, copied out": partial(again, vmsplice, partial(one.vmsplice_into, target)),
            "vmsplice, taken": partial(again, vmsplice, one.take),
            "vmsplice, tee, both taken": partial(again, vmsplice, tee, one.take, other.take),
            "vmsplice, splice, taken": partial(again, vmsplice, partial(ustack.splice, one, other, len(whole)),
                                               other.take),
        })  # fmt: skip
    for row in rows:
        row["page_ns"] = PAGE * 1e3 / row["mb_per_s"]
    return rows


def loop_files(source: int, sink: int, piece: int) -> None:
    """Read and write, by the kernel's calls from Python."""
    os.lseek(sink, 0, os.SEEK_SET)
    for at in range(0, SPLICED, piece):
        os.write(sink, os.pread(source, piece, at))


def splice_files(source: int, sink: int) -> None:
    """The same as one call."""
    import ustack

    os.lseek(sink, 0, os.SEEK_SET)
    ustack.splice(source, sink, SPLICED, offset=0)


def loop_to_socket(source: int, s: Any, piece: int) -> None:
    """Read and send."""
    for at in range(0, SPLICED, piece):
        s.sendall(os.pread(source, piece, at))


def splice_from_file(source: int, s: Any, pieces: int | None = None) -> None:
    """The same as one call, perhaps with watermarks of so many pieces of 64 KiB."""
    import ustack

    ustack.splice(source, s, SPLICED, offset=0, watermarks=(pieces << 16, pieces << 16) if pieces else None)


def splice_by_pipe(source: int, s: Any) -> None:
    """The loop of splice(2)'s manual page: from the file into a pipe of references, and out of it."""
    import ustack

    with ustack.PagePipe(size=CHUNK) as pipe:
        for at in range(0, SPLICED, CHUNK):
            left = ustack.splice(source, pipe, CHUNK, offset=at)
            more = ustack.SPLICE_F_MORE if at + CHUNK < SPLICED else 0
            while left:
                left -= ustack.splice(pipe, s, left, flags=more)


def compare(lab: Lab, way: str, moved: int, runs: dict[str, Callable[[], None]]) -> list[Row]:
    """Rows of the loops and of the splice, which is compared with the best loop of the same round."""

    def timed(run: Callable[[], None]) -> complex:
        began, used = time.perf_counter_ns(), time.process_time_ns()
        run()
        return complex(time.perf_counter_ns() - began, time.process_time_ns() - used)

    found = lab.in_turn({name: partial(timed, run) for name, run in runs.items()})
    rows: list[Row] = []
    loops = [name for name in found if name.startswith("read + write")]
    for name, values in found.items():
        row: Row = {
            "way": way, "technique": name, **measured("mb_per_s", [moved / v.real * 1e3 for v in values]),
            **measured("cpu_s_per_gib", [v.imag / moved * 2**30 / 1e9 for v in values]),
        }  # fmt: skip
        if name == "splice":
            best = [min((found[loop][k] for loop in loops), key=lambda v: v.real) for k in range(len(values))]
            row |= measured("gain", [100 * (b.real / v.real - 1) for v, b in zip(values, best, strict=True)])
            least = [min(found[loop][k].imag for loop in loops) for k in range(len(values))]
            row |= measured("cpu_ratio", [v.imag / b for v, b in zip(values, least, strict=True)])
        rows.append(row)
    return rows


E8 = Experiment(
    "E8", "splice against a loop of read and write",
    f"{SPLICED >> 20} MiB from file to file, from a file to a TCP connection of ours over a TAP, and from one "
    "connection to another of a stack in the middle (in-memory links; all three stacks in one thread): by a Python "
    "loop with pieces of several sizes, and by one ustack.splice. CPU: of the whole process, which between "
    "connections includes both neighbours. The splice is compared with the best loop of each round. Watermarks, "
    "in pieces of 64 KiB: as many may be on their way from the file, and as many wait in front of the connection. "
    f"PagePipe: {PAGES} pages of registered memory at a time, from Python, referred to, duplicated, and lent or copied "
    "back to the program.",
    (
        Column("way", "from, to"), Column("technique", "technique"), Column("mb_per_s", "throughput", "MB/s"),
        Column("cpu_s_per_gib", "CPU", "s/GiB"), Column("gain", "more throughput", "%"),
        Column("cpu_ratio", "CPU / loop"), Column("page_ns", "a page", "ns"),
    ),
    (
        Claim("N13", "splice gives 30 to 70 % more throughput", "throughput / that of the best loop - 1 is 30 to 70 %",
              in_band("gain", Band(30, 70, "%"), "{way}")),
        Claim("N13b", "and almost halves the CPU load", "CPU time / that of the cheapest loop is at most 0.6",
              in_band("cpu_ratio", Band(high=0.6), "{way}")),
    ),
    measure_splice,
    taps=True,
)  # fmt: skip


# --- E23 --------------------------------------------------------------------------------------------------------------


def measure_cycles(lab: Lab) -> list[Row]:
    """CPU time and cycles for a byte of the own stack over a TAP, from the rows of E5."""
    from ustack._lab.sources import E5

    ghz = clock_rate()
    if ghz is None:
        raise CannotMeasure("/proc/cpuinfo names no clock rate")
    rows: list[Row] = []
    for row in lab.rows_of(E5):
        cycles = row["cpu_ns"] * ghz
        rows.append({
            "stack": row["stack"], "technique": row["technique"], "size": row["size"], "cpu_ns": row["cpu_ns"],
            "cycles": cycles, "ghz_per_gbit": cycles / 8, "ghz_per_gbit_iqr": [x * ghz / 8 for x in row["cpu_ns_iqr"]],
            "repeats": row["repeats"],
        })  # fmt: skip
    return rows


E23 = Experiment(
    "E23", "processor cycles for a bit",
    "CPU time of the sender for a byte, as E5 measured it, times the clock rate that /proc/cpuinfo names (nominal, "
    "on a virtual machine): cycles for a byte, and GHz that a Gbit/s needs.",
    (Column("stack", "stack"), Column("technique", "technique"), Column("size", "bytes a call"),
     Column("cpu_ns", "CPU", "ns/B"), Column("cycles", "cycles a byte"), Column("ghz_per_gbit", "GHz per Gbit/s")),
    (Claim("N8", "a processor of 1.2 GHz barely handles 1 Gbit/s: about 1 GHz for each Gbit/s",
           "sending costs at least 1 GHz for each Gbit/s",
           in_band("ghz_per_gbit", Band(low=1, unit="GHz"), "{stack}, {technique}, {size} B")),),
    measure_cycles,
    (Plot("e23_cycles", "Cycles of the sender for a byte", "size", "cycles", "technique", "size of a call",
          "cycles a byte", panel="stack", panel_title="{stack}"),),
    taps=True,
)  # fmt: skip
EXPERIMENTS = (E6, E7, E8, E23)
