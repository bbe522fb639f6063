"""E12 to E14: what it costs to pin, protect and move pages, against copying them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from functools import partial

from ustack._core.py import bench_lab
from ustack._lab import by_page
from ustack._lab.bench import Lab
from ustack._lab.form import (
    PAYS_COLUMNS,
    Band,
    Claim,
    Column,
    Experiment,
    Finding,
    Plot,
    Row,
    cannot,
    crossover,
    in_band,
    measured,
    never_pays,
    pays,
    pays_from,
    several,
    verdict_of,
)

PAGE = bench_lab.PAGE
SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20)
QUICK_SIZES = (4 << 10, 64 << 10, 1 << 20)
ROOM = 64 << 20
WARM, COLD = "a warm copy", "a cold copy"
MMAP = "mmap of another page"


def copies(lab: Lab, room: bench_lab.Room, size: int) -> dict[str, Callable[[], float]]:
    """The copies that everything here is compared with."""
    return {
        "warm": partial(room.copying, "copy", "", size, lab.turns(size / 20, 0.002)),
        "cold": partial(room.copying, "copy", "", size, lab.turns(size / 8, 0.003), True),
    }


def paired(found: dict[str, list[float]], a: str, b: str) -> list[float]:
    """Ratios of the rounds."""
    return [x / y for x, y in zip(found[a], found[b], strict=True)]


def crossing(rows: Sequence[Row], copy: str, other: str) -> float | None:
    """The size from which ``other`` costs no more than the copy; None: not within what was measured."""
    points = sorted((r["size"], r[copy], r[other]) for r in rows if r.get(other) and r.get(copy))
    return crossover(points)


# --- E12: pinning -----------------------------------------------------------------------------------------------------


def measure_pinning(lab: Lab) -> list[Row]:
    """Pin and unpin, by mlock and by registering with io_uring, against a copy of the same bytes."""
    room = bench_lab.Room(ROOM)
    ring = bench_lab.uring()
    rows: list[Row] = []
    try:
        for size in lab.pick(SIZES, QUICK_SIZES):
            what = copies(lab, room, size) | {
                "mlock": partial(room.lock, size, lab.turns(3000 + size / 3)),
                "register": partial(room.register, ring, size, lab.turns(2000 + size / 30)),
            }
            found = lab.in_turn(what)
            row: Row = {"size": size, **measured("copy_ns", found["warm"]), **measured("cold_ns", found["cold"])}
            for name in ("mlock", "register"):
                if name in found:
                    row |= measured(f"{name}_ns", found[name])
                    row |= measured(f"{name}_ratio", paired(found, name, "warm"))
            if "register_ratio" in row:
                row["reuses"] = math.ceil(row["register_ratio"])
            rows.append(row)
    finally:
        os.close(ring)
    return rows


E12 = Experiment(
    "E12", "pinning against copying",
    "mlock and munlock; registering a buffer with io_uring (which pins its pages) and giving it back; and memcpy of "
    "the same bytes, warm and cold. Reuses: how often a registered buffer has to be used until registering it once "
    "has cost less than copying each time (warm).",
    (
        Column("size", "bytes"), Column("copy_ns", "warm copy", "ns"), Column("cold_ns", "cold copy", "ns"),
        Column("mlock_ns", "mlock", "ns"), Column("register_ns", "register", "ns"),
        Column("mlock_ratio", "mlock / copy"), Column("register_ratio", "register / copy"), Column("reuses", "reuses"),
    ),
    (
        Claim("N14", "pinning costs about as much as copying", "pin and unpin / warm copy lies between 0.5 and 2",
              several(in_band("register_ratio", Band(0.5, 2), "io_uring, {size} B"),
                      in_band("mlock_ratio", Band(0.5, 2), "mlock, {size} B"))),
        Claim("P7", "so buffers are registered once, and used often",
              "a registered buffer pays after at most 100 uses, whatever its size",
              in_band("reuses", Band(high=100, unit="uses"), "{size} B")),
    ),
    measure_pinning,
    (Plot("e12_pinning", "Pin and unpin against copying", "size", "copy_ns,cold_ns,mlock_ns,register_ns", "",
          "size of a buffer", "ns a byte", per_x=True),),
)  # fmt: skip


# --- E13: copy on write -----------------------------------------------------------------------------------------------

MECHANISMS = ("mprotect", "userfaultfd")


def measure_cow(lab: Lab) -> list[Row]:
    """Protection alone, and with a fault for each page; the kernel's own copy on write; and the stack's sends."""
    room = bench_lab.Room(ROOM)
    rows: list[Row] = []
    costs: dict[str, list[list[float]]] = {}
    sizes = lab.pick(SIZES, QUICK_SIZES)
    for size in sizes:
        found = cow_costs(lab, room, size)
        base: Row = {"size": size, **measured("copy_ns", found["warm"]), **measured("cold_ns", found["cold"])}
        for mechanism in (*MECHANISMS, "kernel"):
            if f"{mechanism} all" in found:
                rows.append(base | cow_row(mechanism, size // PAGE, found))
        for name, values in found.items():
            costs.setdefault(name, []).append(values)
    for mechanism in MECHANISMS:
        if f"{mechanism} 0" in costs:
            rows += against_copies(f"protect and unprotect, {mechanism}", sizes, costs, f"{mechanism} 0")
    return rows + sweep(lab, room) + by_page.sending(lab)


def against_copies(what: str, sizes: Sequence[int], costs: dict[str, list[list[float]]], name: str) -> list[Row]:
    """Where something begins to pay, against both copies."""
    return [pays_from(what, copy, sizes, costs[key], costs[name]) for key, copy in (("warm", WARM), ("cold", COLD))]


def cow_costs(lab: Lab, room: bench_lab.Room, size: int) -> dict[str, list[float]]:
    """Copies of one size, and each mechanism without a write ("0") and with one to each page ("all")."""
    pages = size // PAGE
    what = copies(lab, room, size)
    with contextlib.ExitStack() as held:
        for mechanism in MECHANISMS:
            fd = -1
            if mechanism == "userfaultfd":
                try:
                    fd = room.write_protected(size)
                except OSError as e:
                    lab.missing[mechanism] = str(e)
                    continue
                held.callback(os.close, fd)
            turns = lab.turns(8000 * pages + 4000, 0.003)
            what[f"{mechanism} 0"] = partial(room.cow, size, 0, lab.turns(4000 + 30 * pages, 0.003), uffd=fd)
            what[f"{mechanism} all"] = partial(room.cow, size, pages, turns, uffd=fd)
        file = os.memfd_create("lab")
        held.callback(os.close, file)
        os.ftruncate(file, size)
        what["kernel all"] = partial(bench_lab.private_write, file, size, lab.turns(2000 * pages, 0.003))
        return lab.in_turn(what)


def cow_row(mechanism: str, pages: int, found: dict[str, list[float]]) -> Row:
    """Costs of a mechanism for so many pages."""
    everything, copy = found[f"{mechanism} all"], found["warm"]
    nothing = found.get(f"{mechanism} 0", [0.0] * len(everything))
    row: Row = {"mechanism": mechanism}
    if f"{mechanism} 0" in found:
        row |= measured("protect_ns", nothing)
        row |= measured("protect_ratio", [a / b for a, b in zip(nothing, copy, strict=True)])
    row |= measured("all_ns", everything)
    events = [(a - b) / pages for a, b in zip(everything, nothing, strict=True)]
    row |= measured("event_ns", events)
    row |= measured("event_ratio", [e / (c / pages) for e, c in zip(events, copy, strict=True)])
    if "protect_ns" in row and row["event_ns"] > 0:
        row["break_even_warm"] = probability(found["warm"], nothing, events, pages)
        row["break_even_cold"] = probability(found["cold"], nothing, events, pages)
    return row


def probability(copy: Sequence[float], nothing: Sequence[float], events: Sequence[float], pages: int) -> float:
    """The share of pages that may be written to before copying all of them would have been cheaper; 0: never pays."""
    c, p, e = (sorted(x)[len(x) // 2] for x in (copy, nothing, events))
    return min(1.0, max(0.0, (c - p) / (pages * e)))


def sweep(lab: Lab, room: bench_lab.Room) -> list[Row]:
    """The cost of copy on write by the share of pages that are written to."""
    rows: list[Row] = []
    for size in lab.pick((64 << 10, 1 << 20), (1 << 20,)):
        pages = size // PAGE
        written = sorted({0, 1, pages // 64, pages // 16, pages // 4, pages})
        what: dict[str, Callable[[], float]] = {
            str(w): partial(room.cow, size, w, lab.turns(6000 + 8000 * w, 0.003)) for w in written
        }
        found = lab.in_turn(what | copies(lab, room, size))
        for w in written:
            rows.append({
                "table": "by the share of pages that are written to (mprotect)", "size": size, "pages_written": w,
                "share": w / pages, **measured("all_ns", found[str(w)]),
                **measured("over_copy", paired(found, str(w), "warm")),
                **measured("over_cold", paired(found, str(w), "cold")),
            })  # fmt: skip
    return rows


E13 = Experiment(
    "E13", "copy on write",
    "pages are made read-only and writable again, without a write (\"protect\") and with a write to every page, each "
    "of which faults; a handler copies the page aside and lifts its protection. mprotect with SIGSEGV; userfaultfd "
    "write-protection with SIGBUS; and the kernel's own copy on write of a private mapping of a file, which needs no "
    "protection first. An event is what one written page costs. Break-even: the share of pages that may be written "
    "to before it would have been cheaper to copy them all at once. Last, the stack: send(cow=True) of a CowBuffer "
    "over the in-memory link, some of its pages written to before the peer has them, until it is acknowledged; against "
    "send() of the same. Time, since a thread of the library's answers the faults of userfaultfd.",
    (
        Column("mechanism", "mechanism"), Column("size", "bytes"), Column("pages_written", "pages written"),
        Column("written", "written to"),
        Column("share", "share"), Column("copy_ns", "warm copy", "ns"), Column("cold_ns", "cold copy", "ns"),
        Column("protect_ns", "protect", "ns"), Column("all_ns", "with writes", "ns"),
        Column("event_ns", "an event", "ns"), Column("event_ratio", "event / copy"),
        Column("protect_ratio", "protect / copy"), Column("break_even_warm", "break-even, warm"),
        Column("break_even_cold", "break-even, cold"), Column("over_copy", "/ warm copy"),
        Column("over_cold", "/ cold copy"), Column("shared_ns", "send(cow=True)", "ns"),
        Column("sent_ns", "send()", "ns"), Column("shared_ratio", "cow / send"),
        Column("page_ns", "a page written to", "ns"), Column("break_even", "break-even"), *PAYS_COLUMNS,
    ),
    (
        Claim("N17", "an event of copy on write costs far more than a copy, so it has to be rare (P14)",
              "one event / the warm copy of one page is at least 3",
              in_band("event_ratio", Band(low=3), "{mechanism}, {size} B")),
        Claim("P15", "even where a mapping is kept, protecting and unprotecting it costs each time",
              "protect and unprotect / warm copy of the same bytes is at least 1",
              in_band("protect_ratio", Band(low=1), "{mechanism}, {size} B")),
        Claim("T40", "copy on write pays for a sender that leaves its buffer alone",
              "there is a size, up to the largest measured, from which protect and unprotect cost less than the copy",
              pays(what=tuple(f"protect and unprotect, {m}" for m in MECHANISMS))),
        Claim("T40b", "so does send(cow=True)",
              "there is a size, up to the largest measured, from which it takes less time than send()",
              pays(what=tuple(by_page.named(0.0, m) for m in by_page.MECHANISMS))),
        Claim("P14b", "but not if pages are written to before the peer has them",
              "there is no such size where one page of 64, or more, is written to",
              never_pays(what=tuple(by_page.named(s, m) for s in by_page.SHARES if s for m in by_page.MECHANISMS))),
    ),
    measure_cow,
    (
        Plot("e13_cow", "Copy on write against copying", "size", "copy_ns,cold_ns,protect_ns,all_ns", "",
             "size of a buffer", "ns a byte", panel="mechanism", panel_title="{mechanism}", per_x=True),
        Plot("e13_written", "send(cow=True) against send(), by what is written to too soon", "size", "shared_ratio",
             "written", "size of a buffer", "time / send()", panel="mechanism", panel_title="{mechanism}",
             table=by_page.SENDING),
    ),
)  # fmt: skip


# --- E14: flipping pages ----------------------------------------------------------------------------------------------


def measure_flip(lab: Lab) -> list[Row]:
    """Move pages, or map others in their place, against copying."""
    room = bench_lab.Room(ROOM)
    rows: list[Row] = []
    costs: dict[str, list[list[float]]] = {}
    sizes = lab.pick(SIZES, QUICK_SIZES)
    for size in sizes:
        file = os.memfd_create("lab")
        os.ftruncate(file, 2 * size)
        turns = lab.turns(4000 + 500 * size / PAGE)
        what = copies(lab, room, size) | {
            "move": partial(bench_lab.move, size, turns), "flip": partial(bench_lab.flip, file, size, turns),
        }  # fmt: skip
        found = lab.in_turn(what)
        os.close(file)
        row: Row = {"size": size, "page": os.sysconf("SC_PAGESIZE")}
        for name, key in (("warm", "copy_ns"), ("cold", "cold_ns"), ("move", "move_ns"), ("flip", "flip_ns")):
            row |= measured(key, found[name])
        row |= measured("move_ratio", paired(found, "move", "warm"))
        row |= measured("flip_ratio", paired(found, "flip", "warm"))
        rows.append(row)
        for name, values in found.items():
            costs.setdefault(name, []).append(values)
    rows += against_copies("mremap", sizes, costs, "move") + against_copies(MMAP, sizes, costs, "flip")
    return rows + by_page.receiving(lab)


def _page_size(rows: Sequence[Row]) -> list[Finding]:
    return [Finding("", f"{r['page']} bytes", verdict_of(r["page"] in (4096, 8192))) for r in rows if "page" in r][:1]


E14 = Experiment(
    "E14", "moving pages against copying",
    "mremap to another address and a write to each page there; mmap of another part of a file in place, and a read of "
    "each page; against memcpy of the same bytes, warm and cold. Pages of 4 KiB. Then the stack: bytes from Linux, by "
    "segments of whole pages, over a TAP whose link receives them into pages of its own; CPU time of the calls that "
    "receive so many bytes, which have the device's copy in them, whichever way the bytes are taken.",
    (
        Column("size", "bytes"), Column("copy_ns", "warm copy", "ns"), Column("cold_ns", "cold copy", "ns"),
        Column("move_ns", "mremap", "ns"), Column("flip_ns", "mmap", "ns"), Column("move_ratio", "mremap / copy"),
        Column("flip_ratio", "mmap / copy"), Column("page", "page"), Column("segment", "segment"),
        *(Column(f"{way}_ns", name, "ns") for way, name in by_page.WAYS.items()), *PAYS_COLUMNS,
    ),
    (
        Claim("N10", "a page has 4 or 8 KB", "the page size is 4096 or 8192 bytes", _page_size),
        Claim("N19", "remapping does not pay for a page: packets of Ethernet are too small for it",
              "at 4096 bytes, remapping / warm copy is at least 1",
              several(in_band("move_ratio", Band(low=1), "mremap, {size} B", size=4096),
                      in_band("flip_ratio", Band(low=1), "mmap, {size} B", size=4096))),
        Claim("T42", "remapping pages is cheaper than copying much data",
              "there is a size, up to the largest measured, from which it is", pays(what=("mremap", MMAP))),
        Claim("T42c", "so received pages are better exchanged (recv_flip) or mapped (recv_zerocopy) than copied",
              "there is a size of a call, up to the largest measured, from which it takes less CPU time than recv_into",
              pays(what=tuple(by_page.received(way, segment) for way in ("flipped", "shown")
                              for segment, _ in by_page.CALLS))),
        Claim("N18", "a walk through four levels of page tables touches 4 lines of 64 bytes",
              "4 x 64 = 256 bytes: arithmetic about the format of page tables",
              cannot("nothing to measure; what a missed translation costs is part of every cold figure")),
    ),
    measure_flip,
    (
        Plot("e14_flip", "Moving pages against copying them", "size", "copy_ns,cold_ns,move_ns,flip_ns", "",
             "size of a block", "ns a byte", per_x=True),
        Plot("e14_receive", "Receiving by page", "size", ",".join(f"{way}_ns" for way in by_page.WAYS), "",
             "bytes", "ns a byte", panel="segment", panel_title="segments of {segment} B", table=by_page.RECEIVING,
             per_x=True),
    ),
)  # fmt: skip


EXPERIMENTS = (E12, E13, E14)
