"""Experiment E13 with the stack around it: ``send(cow=True)`` of a buffer that is written to, against ``send()``."""

from __future__ import annotations

from statistics import median
from time import perf_counter_ns
from typing import Any

import ustack
from ustack._core.py.cow import CowBuffer, cow_mechanism

PAGE = 4096
NEAR, FAR = "10.9.0.1", "10.9.0.2"


def one(near: Any, far: Any, buffer: Any, view: memoryview, cow: bool, written: int) -> int:
    """Nanoseconds to send a buffer, write to ``written`` of its pages before the peer has them, and be let go."""
    size, got = len(view), 0
    began = perf_counter_ns()
    near.sendall(buffer, cow=cow)
    for k in range(written):
        view[k * PAGE] = 1
    took = perf_counter_ns() - began
    while got < size:
        got += sum(map(len, far.recv_buffers()))
    return took


def experiment_e13(
    sizes: tuple[int, ...] = (1, 4, 16, 64, 256), *, shares: tuple[float, ...] = (0.0, 0.125, 0.5, 1.0), turns: int = 40
) -> list[dict[str, float | int | str]]:
    """E13: sharing pages until they are acknowledged, against copying them; over a link in memory, one process.

    One row for each size (pages), mechanism and share of the pages that is written to before the peer has them:
    ``cow_us`` and ``copy_us`` of the call and the writes, medians; ``faults`` a call. The break-even share p* of a size
    is ``break_even``: (copy - share) / (what a written page adds), below 0 where it never pays. The claim that is
    tested: a write that comes too soon costs several times a copy of its page.
    """
    rows: list[dict[str, float | int | str]] = []
    before = cow_mechanism()
    for mechanism in ("userfaultfd", "mprotect"):
        try:
            cow_mechanism(mechanism)
        except OSError:
            continue
        for pages in sizes:
            rows += _of_size(mechanism, pages, shares, turns)
    if before is not None:
        cow_mechanism(before)
    return rows


def _of_size(mechanism: str, pages: int, shares: tuple[float, ...], turns: int) -> list[dict[str, float | int | str]]:
    rows: list[dict[str, float | int | str]] = []
    links = ustack.pair()
    with ustack.Stack() as a, ustack.Stack() as b:
        for net, link, ip in zip((a, b), links, (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        with b.create_server((FAR, 0)) as listener, a.create_connection(listener.getsockname()) as near:
            far, _ = listener.accept()
            with far:
                for share in shares:
                    written = round(share * pages)
                    times: dict[bool, list[int]] = {False: [], True: []}
                    faults = a.stats().get("cow.faults", 0)
                    for cow in (False, True):
                        buffer = CowBuffer(pages * PAGE, spare=2 * pages)
                        with memoryview(buffer) as view:
                            view[:] = bytes(len(view))
                            for _ in range(turns):
                                times[cow].append(one(near, far, buffer, view, cow, written))
                    rows.append({
                        "mechanism": mechanism, "pages": pages, "share": share, "cow_us": median(times[True]) / 1e3,
                        "copy_us": median(times[False]) / 1e3,
                        "faults": (a.stats().get("cow.faults", 0) - faults) / turns,
                    })  # fmt: skip
    clean, worst = rows[0], rows[-1]
    per_page = (float(worst["cow_us"]) - float(clean["cow_us"])) / max(1, round(float(worst["share"]) * pages))
    for row in rows:
        row["event_us"] = per_page
        row["break_even"] = (float(clean["copy_us"]) - float(clean["cow_us"])) / (pages * per_page) if per_page else 0.0
    return rows
