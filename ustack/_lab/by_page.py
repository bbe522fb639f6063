"""E13 and E14 with the stack around them: send(cow=True) by what is written to, recv_flip() and recv_zerocopy()."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

from ustack._core.py import bench_lab
from ustack._lab.bench import CannotMeasure, Lab, connected, memory_stacks, tap_connection
from ustack._lab.form import Row, measured, pays_from

PAGE = bench_lab.PAGE

# --- sending ----------------------------------------------------------------------------------------------------------

SENDING = "send(cow=True) against send(), by the share of pages that are written to before the peer has them"
SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
QUICK_SIZES = (16 << 10, 256 << 10)
MECHANISMS = ("userfaultfd", "mprotect")
SHARES = {0.0: "no page", 1 / 64: "1 page of 64", 1 / 16: "1 of 16", 1 / 4: "1 of 4", 1.0: "every page"}


def sending(lab: Lab) -> list[Row]:
    """Rows by mechanism, size and share, and where copy on write begins to pay by share."""
    import ustack

    rows: list[Row] = []
    before = ustack.cow_mechanism()
    for mechanism in MECHANISMS:
        try:
            ustack.cow_mechanism(mechanism)
        except OSError as e:
            lab.missing[f"send(cow=True), {mechanism}"] = str(e)
            continue
        with memory_stacks() as (near, far), connected(near, far) as (a, b):
            rows += of_mechanism(lab, mechanism, Sends(near, a, b))
    if before is not None:
        ustack.cow_mechanism(before)
    return rows


class Sends:
    """A connection over the in-memory link, whose receiver takes the blocks as they are: all in one thread."""

    def __init__(self, net: Any, a: Any, b: Any) -> None:
        self.net, self.a, self.b = net, a, b
        a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        b.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # else what is timed is how long it waits

    def one(self, size: int, written: int, cow: bool, count: int) -> float:
        """ns to send a buffer, write to so many of its pages, and have it acknowledged; a buffer of its own."""
        import ustack

        buffer = ustack.CowBuffer(size, spare=2 * size // PAGE)
        spent, pages = 0, size // PAGE
        places = [k * pages // written * PAGE for k in range(written)] if written else []
        with memoryview(buffer) as view:
            for k in range(0, size, PAGE):
                view[k] = 1
            for _ in range(count):
                began = time.perf_counter_ns()
                self.a.sendall(buffer, cow=cow)
                for at in places:
                    view[at] = 1
                left = size
                while left:
                    left -= sum(map(len, self.b.recv_buffers(left)))
                self.net.poll()  # acknowledged: pages are let go
                spent += time.perf_counter_ns() - began
        return spent / count


def of_mechanism(lab: Lab, mechanism: str, sends: Sends) -> list[Row]:
    """Rows of one mechanism."""
    rows: list[Row] = []
    sizes = lab.pick(SIZES, QUICK_SIZES)
    costs: dict[tuple[float, bool], list[list[float]]] = {}
    for size in sizes:
        pages = size // PAGE
        shares = [s for s in SHARES if s == 0 or s * pages >= 1]
        what: dict[str, Callable[[], float]] = {}
        for share in shares:
            written = round(share * pages)
            turns = lab.turns(20_000 + size / 10 + 6000 * written, 0.006)
            for cow in (True, False):
                what[f"{share} {cow}"] = partial(sends.one, size, written, cow, turns)
        found = lab.in_turn(what)
        events = found[f"{shares[-1]} True"]
        for share in shares:
            shared, copied = (found[f"{share} {cow}"] for cow in (True, False))
            costs.setdefault((share, True), []).append(shared)
            costs.setdefault((share, False), []).append(copied)
            row: Row = {
                "table": SENDING, "mechanism": mechanism, "size": size, "share": share,
                "written": SHARES[share], "pages_written": round(share * pages), **measured("shared_ns", shared),
                **measured("sent_ns", copied),
                **measured("shared_ratio", [x / y for x, y in zip(shared, copied, strict=True)]),
            }  # fmt: skip
            if share == 0 and pages > 1:
                row |= break_even(shared, copied, events, pages)
            rows.append(row)
    for share in SHARES:
        columns = costs.get((share, True), [])
        if len(columns) > 1:
            name = named(share, mechanism)
            rows.append(pays_from(name, "send()", sizes[-len(columns):], costs[share, False], columns))
    return rows


def named(share: float, mechanism: str) -> str:
    """What is compared with send()."""
    return f"send(cow=True), {SHARES[share]} written to, {mechanism}"


def break_even(shared: Sequence[float], copied: Sequence[float], all_written: Sequence[float], pages: int) -> Row:
    """What a written page costs more, and the share of pages that may be: beyond it copying is cheaper. 0: always."""
    events = [(w - s) / pages for w, s in zip(all_written, shared, strict=True)]
    gains = [c - s for c, s in zip(copied, shared, strict=True)]
    event = median(events)
    row = measured("page_ns", events)
    if event > 0:
        row |= measured("break_even", [min(1.0, max(0.0, g / (pages * event))) for g in gains])
    return row


# --- receiving --------------------------------------------------------------------------------------------------------

RECEIVING = "received from Linux over a TAP with header split, in segments of whole pages"
HEADERS = 52
CALLS = ((4096, (4096, 16384, 65536)), (61_440, (61_440, 122_880, 245_760)))  # of a segment; of an exchange
QUICK_CALLS = ((61_440, (61_440, 245_760)),)
WAYS = {"copied": "recv_into()", "flipped": "recv_flip()", "shown": "recv_zerocopy()", "loaned": "recv_buffers()"}


class Pages:
    """A connection from Linux, over a link that puts payload into pages of its own; CPU time of receiving alone."""

    def __init__(self, net: Any, s: Any, kernel: Any, most: int) -> None:
        import ustack

        self.net, self.s, self.kernel = net, s, kernel
        self.data, self.spent = bytes(most), 0
        self.buffer, self.pages, self.window = bytearray(most), ustack.FlipBuffer(most), ustack.ReceiveMapping(most)

    def copied(self, n: int) -> int:
        """The ordinary way."""
        return int(self.s.recv_into(self.buffer, n))

    def loaned(self, n: int) -> int:
        """Blocks of the link's."""
        return sum(map(len, self.s.recv_buffers(n)))

    def flipped(self, n: int) -> int:
        """Pages change places."""
        return int(self.s.recv_flip(self.pages, n))

    def shown(self, n: int) -> int:
        """Pages are mapped; what cannot be is copied."""
        got = self.s.recv_zerocopy(self.window)
        rest = got.recv_skip_hint
        while rest:
            rest -= self.s.recv_into(self.buffer, rest)
        return int(got.length + got.recv_skip_hint)

    def exchange(self, n: int, receive: Callable[[int], int]) -> int:
        """n bytes from Linux."""
        with memoryview(self.data) as view:
            self.kernel.sendall(view[:n])
        left = n
        while left:
            began = bench_lab.cpu_ns()
            left -= receive(left)
            self.spent += bench_lab.cpu_ns() - began
        return n

    def cost(self, n: int, way: str, seconds: float) -> float:
        """ns of CPU time to receive n bytes."""
        before, count, end = self.spent, 0, time.perf_counter() + seconds
        receive = getattr(self, way)
        while not count or time.perf_counter() < end:
            self.exchange(n, receive)
            count += 1
        return (self.spent - before) / count


@contextlib.contextmanager
def pages_of(segment: int, most: int) -> Iterator[Pages]:
    """A bed for it. Raises CannotMeasure where there are no TAPs."""
    with tap_connection(segment + HEADERS, header_split=True) as (net, s, kernel):
        kernel.settimeout(20)
        made = Pages(net, s, kernel, most)
        for _ in range(8):
            made.exchange(segment, made.copied)  # windows have grown beyond a segment
        yield made


def received(way: str, segment: int) -> str:
    """What is compared with recv_into()."""
    return f"{WAYS[way]}, segments of {segment} B"


def receiving(lab: Lab) -> list[Row]:
    """Rows by segment and size, and where each way begins to pay."""
    rows: list[Row] = []
    for segment, sizes in lab.pick(CALLS, QUICK_CALLS):
        costs: dict[str, list[list[float]]] = {}
        try:
            with pages_of(segment, max(sizes)) as bed:
                for size in sizes:
                    found = lab.in_turn({way: partial(bed.cost, size, way, lab.pick(0.01, 0.005)) for way in WAYS})
                    row: Row = {"table": RECEIVING, "segment": segment, "size": size}
                    for way, values in found.items():
                        row |= measured(f"{way}_ns", values)
                        costs.setdefault(way, []).append(values)
                    rows.append(row)
        except CannotMeasure as e:
            lab.missing["receiving by page"] = str(e)
            break
        rows += [pays_from(received(way, segment), WAYS["copied"], sizes, costs["copied"], costs[way])
                 for way in ("flipped", "shown", "loaned")]  # fmt: skip
    return rows
