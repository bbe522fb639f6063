"""E15: what it costs to change page tables, alone and with threads on another CPU, whose caches of them go stale."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ustack._core.py import bench_lab
from ustack._lab.bench import Lab, beside, on_cpu
from ustack._lab.form import Band, Claim, Column, Experiment, Finding, Plot, Row, in_band, measured, number, verdict_of

PAGE = bench_lab.PAGE
COUNTS = (1, 4, 16, 64, 256, 1024)
QUICK_COUNTS = (1, 64, 1024)


def measure_shootdown(lab: Lab) -> list[Row]:
    """mprotect and munmap by the number of pages, alone and with a thread that runs on another CPU; huge pages."""
    rows: list[Row] = []
    found: dict[tuple[str, int, int], list[float]] = {}
    siblings = (0, 1) if lab.other_cpu is not None else (0,)
    if lab.other_cpu is None:
        lab.missing["threads on another CPU"] = "there is one CPU"
    counts = lab.pick(COUNTS, QUICK_COUNTS)
    for sibling in siblings:
        companion = bench_lab.Companion()
        threads: list[Callable[[], Any]] = [partial(_run_on, lab.other_cpu, companion)] if sibling else []
        with on_cpu(lab.cpu), beside(*threads):
            try:
                for pages, kind in ((n, k) for n in counts for k in ("small", "huge")):
                    if kind == "huge" and pages % 512:
                        continue
                    room = bench_lab.Room(pages * PAGE + (2 << 20), huge=kind == "huge")
                    size, turns = pages * PAGE, lab.turns(4000 + 60 * pages, 0.003)
                    what = {
                        f"mprotect {kind}": partial(room.protect, size, turns),
                        f"munmap {kind}": partial(bench_lab.unmap, size, lab.turns(4000 + 600 * pages, 0.003),
                                                  huge=kind == "huge"),
                    }  # fmt: skip
                    for name, values in lab.in_turn(what).items():
                        found[name, pages, sibling] = values
            finally:
                companion.stop()
    for (name, pages, sibling), values in found.items():
        call, kind = name.split()
        row: Row = {"call": call, "kind": kind, "pages": pages, "siblings": sibling,
                    "company": "with a thread on the other CPU" if sibling else "alone", **measured("ns", values),
                    **measured("per_page", [v / pages for v in values])}  # fmt: skip
        if sibling and (name, pages, 0) in found:
            row |= measured("extra_ns", [v - sorted(found[name, pages, 0])[len(values) // 2] for v in values])
            row |= measured("factor", [v / sorted(found[name, pages, 0])[len(values) // 2] for v in values])
        rows.append(row)
    return rows


def _run_on(cpu: int | None, companion: bench_lab.Companion) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, [cpu])
    companion.run()


def _cheaper_huge(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for call in ("mprotect", "munmap"):
        pick = {r["kind"]: r for r in rows if r["call"] == call and not r["siblings"] and r["pages"] == 1024}
        if len(pick) == 2:
            ratio = pick["small"]["ns"] / pick["huge"]["ns"]
            found.append(Finding(f"{call}, 4 MiB", f"{number(ratio)} times as long with small pages",
                                 verdict_of(ratio >= 2)))  # fmt: skip
    return found


E15 = Experiment(
    "E15", "page tables and translation caches",
    "mprotect (read-only and back: two calls) and munmap, by the number of pages, alone and while another thread of "
    "the process computes on the other CPU, whose translation cache has to be told by an interrupt. Huge: pages of 2 "
    "MiB, where the kernel gives them.",
    (
        Column("call", "call"), Column("kind", "pages of"), Column("pages", "pages of 4 KiB"),
        Column("company", "the other CPU"), Column("ns", "ns"), Column("per_page", "a page", "ns"),
        Column("extra_ns", "extra", "ns"), Column("factor", "factor"),
    ),
    (
        Claim("P18", "with several processors every change of a mapping interrupts the others",
              "with a thread on another CPU it costs at least 1.5 times as much",
              in_band("factor", Band(low=1.5), "{call}, {pages} pages, {kind}")),
        Claim("P18b", "fewer, larger pages make it cheaper",
              "for 4 MiB, small pages cost at least twice as much as huge ones", _cheaper_huge),
    ),
    measure_shootdown,
    (Plot("e15_pages", "Changing page tables", "pages", "ns", "company", "pages of 4 KiB", "ns",
          panel="call", panel_title="{call}", only=(("kind", "small"),), counts=True),),
)  # fmt: skip
EXPERIMENTS = (E15,)
