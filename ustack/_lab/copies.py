"""E1: how often a CPU copies each byte between the page cache, or the producer, and the link, and what that costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

from ustack._bench.worker import difference
from ustack._core.py import bench_lab
from ustack._lab import dark, programs
from ustack._lab.bench import CannotMeasure, Lab, beside, connected, file_of, memory_stacks, tap_connection, why_no_tap
from ustack._lab.form import Band, Claim, Column, Experiment, Finding, Row, equals, in_band, measured

CHUNK = 64 << 10
FILE = 8 * CHUNK  # small enough for a cache: what is compared is the copies, not the memory behind
SUMS = ("tx.checksum", "rx.checksum", "tx.fused")  # of the ledger: sums, not copies
EXPECTED = {
    "read_write": 2, "mmap_write": 1, "sendfile": 1, "sendfile_gather": 0, "write": 1, "direct": 0, "cow": 0,
    "fbuf": 0, "fbuf_copy": 1, "splice": 0, "recv_send": 2, "via": 0, "via_copy": 1,
}  # fmt: skip
# Techniques of which the first makes more copies than the second, and else does the same.
PAIRS = (
    ("read_write", "mmap_write"), ("read_write", "sendfile_gather"), ("mmap_write", "sendfile_gather"),
    ("sendfile", "sendfile_gather"), ("recv_send", "splice"), ("via_copy", "via"), ("write", "direct"),
    ("write", "cow"), ("fbuf_copy", "fbuf"),
)  # fmt: skip
Book = dict[str, tuple[int, int]]
COST = "what a copy costs"
FILES = {"read_write": "read", "mmap_write": "mmap", "sendfile": "copy", "sendfile_gather": "gather"}


def sum_of(a: Book, b: Book) -> Book:
    """Two ledgers as one."""
    return a | {k: (a.get(k, (0, 0))[0] + n, a.get(k, (0, 0))[1] + calls) for k, (n, calls) in b.items()}


def copies_of(booked: Book, payload: int) -> dict[str, float]:
    """The columns of the ledger for each byte of payload: copies by a CPU; by the device or the kernel behind it."""
    device = sum(n for reason, (n, _) in booked.items() if reason.startswith("device."))
    cpu = sum(n for reason, (n, _) in booked.items() if not reason.startswith("device.") and reason not in SUMS)
    return {"cpu_copies": cpu / payload, "device_copies": device / payload}


def whole(x: float) -> float:
    """Two digits behind the point, and none if they are 0."""
    x = round(x, 2)
    return int(x) if x == int(x) else x


class Sample:
    """One technique over one link: ``once`` moves some bytes; the ledger is what was booked on the way."""

    def __init__(
        self, technique: str, link: str, once: Callable[[], int], book: Callable[[], Book],
        clock: Callable[[], int], proof: str = "ledger", outgoing: bool = True,
    ) -> None:  # fmt: skip
        self.outgoing = outgoing  # what is received, acknowledgements, is not counted
        self.technique, self.link, self.once, self.book, self.clock, self.proof = (
            technique, link, once, book, clock, proof)  # fmt: skip
        self.booked: Book = {}
        self.moved = 0

    def run(self, seconds: float) -> float:
        """ns of CPU time for a byte, over so many seconds."""
        before = self.book()
        moved, end, began = 0, time.perf_counter() + seconds, self.clock()
        while not moved or time.perf_counter() < end:
            moved += self.once()
        spent = self.clock() - began
        self.moved += moved
        self.booked = sum_of(self.booked, difference(self.book(), before))
        return spent / moved

    def row(self, values: Sequence[float]) -> Row:
        """The row of the repeats."""
        booked = {k: v for k, v in self.booked.items() if not (self.outgoing and k.startswith("rx."))}
        found = copies_of(booked, self.moved)
        cpu, device = (whole(found[k]) for k in ("cpu_copies", "device_copies"))
        return {
            "technique": self.technique, "link": self.link, "cpu_copies": cpu, "device_copies": device,
            "bus": whole(2 * cpu + device), "expected": EXPECTED[self.technique],
            **measured("ns_per_byte", values), "proof": self.proof,
        }  # fmt: skip


def take(s: Any, n: int, buffer: bytearray) -> None:
    """Read n bytes."""
    recv_into = s.recv_into
    while n:
        n -= recv_into(buffer, min(n, len(buffer)))


@contextlib.contextmanager
def over_memory() -> Iterator[list[Sample]]:
    """Files and buffers to a socket at the other end of the in-memory link, in one thread."""
    buffer, data = bytearray(CHUNK), bytes(CHUNK)
    with file_of(FILE) as file, memory_stacks() as (near, far), connected(near, far) as (a, b):
        state = {"at": 0}

        def send_file(how: str) -> int:
            at = state["at"] = (state["at"] + CHUNK) % FILE
            n = a.sendfile(file, at, CHUNK, how=how)
            take(b, n, buffer)
            return int(n)

        def write() -> int:
            a.sendall(data)
            take(b, CHUNK, buffer)
            return CHUNK

        # In place is not for this link: whoever receives would hold pages that the file's writers may change.
        samples = [
            Sample(t, "memory", partial(send_file, how), near.ledger, bench_lab.cpu_ns)
            for t, how in FILES.items() if how != "gather"
        ]  # fmt: skip
        yield [*samples, Sample("write", "memory", write, near.ledger, bench_lab.cpu_ns)]


class Outgoing:
    """Techniques to send over one connection, from a file or from memory; CPU time is that of the sending alone."""

    def __init__(self, s: Any, file: int, link: str, book: Callable[[], Book], after: Callable[[int], None]) -> None:
        self.s, self.file, self.link, self.book, self.after = s, file, link, book, after
        self.at = self.spent = 0
        self.data = bytes(CHUNK)

    def sample(self, technique: str, send: Callable[[], object], proof: str = "ledger") -> Sample:
        """A sample of something that sends CHUNK bytes."""

        def once() -> int:
            began = bench_lab.cpu_ns()
            send()
            self.spent += bench_lab.cpu_ns() - began
            self.after(CHUNK)
            return CHUNK

        return Sample(technique, self.link, once, self.book, lambda: self.spent, proof)

    def send_file(self, how: str) -> None:
        """The next piece of the file."""
        self.at = (self.at + CHUNK) % FILE
        self.s.sendfile(self.file, self.at, CHUNK, how=how)

    def samples(self, region: bool = False) -> list[Sample]:
        """What this build has. region: direct transfers from memory that a SharedMemory device can read."""
        shared = self.link == "shm"
        found = [
            self.sample(t, partial(self.send_file, how),
                        "prot_none" if shared and t == "sendfile_gather" and dark.proves(t) else "ledger")
            for t, how in FILES.items()
        ]  # fmt: skip
        found.append(self.sample("write", partial(self.s.sendall, self.data)))
        if hasattr(self.s, "completions"):
            memory = _region if region else bytearray
            direct = programs.Direct(self.s, CHUNK, memory)
            proof = "prot_none" if shared and dark.proves("direct") else "ledger"
            found.append(self.sample("direct", direct.send, proof))
        if cow := _cow_buffers():
            found.append(self.sample("cow", partial(self.send_cow, cow)))
        return found

    def send_cow(self, buffers: list[Any]) -> None:
        """The next buffer of a ring, protected while it is under way."""
        self.at = (self.at + CHUNK) % FILE
        self.s.sendall(buffers[self.at // CHUNK % len(buffers)], cow=True)


def _region(size: int) -> Any:
    from ustack.buffers import Region

    return Region(size)


def _cow_buffers() -> list[Any]:
    """Buffers to be sent with copy on write, if this build has that."""
    import ustack

    make = getattr(ustack, "CowBuffer", None)
    return [make(CHUNK) for _ in range(FILE // CHUNK)] if make else []


@contextlib.contextmanager
def over_tap() -> Iterator[list[Sample]]:
    """The same to the kernel behind a TAP; the CPU time is that of the thread that sends."""
    with file_of(FILE) as file, tap_connection() as (net, s, kernel):
        with beside(partial(bench_lab.drain, kernel.fileno())):
            try:
                yield Outgoing(s, file, "tap", net.ledger, lambda n: None).samples()
            finally:
                s.close()


@contextlib.contextmanager
def over_shm() -> Iterator[list[Sample]]:
    """To another stack over shared memory, whose device processes move the bytes."""
    with file_of(FILE) as file, dark.shared_stacks() as (near, far), connected(near, far) as (a, b):
        buffer = bytearray(CHUNK)

        def book() -> Book:
            near.poll()  # what the device has done is booked when it is noticed
            return dict(near.ledger())

        yield Outgoing(a, file, "shm", book, lambda n: take(b, n, buffer)).samples(region=True)


@contextlib.contextmanager
def by_fbufs() -> Iterator[list[Sample]]:
    """Buffers from one channel of this process to another."""
    with programs.handed_over(CHUNK) as (hand, book, same):
        yield [
            Sample("fbuf", "channel", partial(hand, False), book, bench_lab.cpu_ns, "identity" if same else "ledger"),
            Sample("fbuf_copy", "channel", partial(hand, True), book, bench_lab.cpu_ns),
        ]


@contextlib.contextmanager
def through_a_middle() -> Iterator[list[Sample]]:
    """A stack between two others: what it receives on one socket goes out of another; all in one thread."""
    import ustack

    buffer, data = bytearray(CHUNK), bytes(CHUNK)
    with contextlib.ExitStack() as held:
        ends = [held.enter_context(ustack.Stack()) for _ in range(3)]
        nets = ("10.9.1", "10.9.2")
        for k, net in enumerate(nets):
            for stack, link, last in zip(ends[k : k + 2], ustack.pair(), (1, 2), strict=True):
                stack.add_interface(link, addresses=[f"{net}.{last}/24"])
        first, middle, last_stack = ends

        def two() -> tuple[Any, Any, Any, Any]:
            a, m = held.enter_context(connected(first, middle, f"{nets[0]}.2"))
            n, b = held.enter_context(connected(middle, last_stack, f"{nets[1]}.2"))
            return a, m, n, b

        a, m, n, b = two()
        splice = ustack.splice(m, n, wait=False)
        b.setblocking(False)

        def relayed() -> int:
            a.sendall(data)
            left = CHUNK
            while left:
                middle.poll()
                with contextlib.suppress(BlockingIOError):
                    left -= b.recv_into(buffer, left)
            return CHUNK

        c, p, q, d = two()

        def by_hand() -> int:
            c.sendall(data)
            take_and_pass(p, q, CHUNK, buffer)
            take(d, CHUNK, buffer)
            return CHUNK

        yield [
            Sample("splice", "memory", relayed, middle.ledger, time.process_time_ns, outgoing=False),
            Sample("recv_send", "memory", by_hand, middle.ledger, time.process_time_ns, outgoing=False),
        ]
        splice.cancel()


def take_and_pass(source: Any, sink: Any, n: int, buffer: bytearray) -> None:
    """What a proxy does: read, write, until n bytes went."""
    view = memoryview(buffer)
    while n:
        got = source.recv_into(buffer, min(n, len(buffer)))
        sink.sendall(view[:got])
        n -= got


@contextlib.contextmanager
def over_via() -> Iterator[list[Sample]]:
    """Messages of the message layer into buffers that were posted; then, where that is asked, copied on."""
    from ustack import via
    from ustack._core.py import bench_via

    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b = (via.Vi(nic, ptag, max_transfer=CHUNK) for _ in range(2))
        via.pair(a, b)
        out, *into = via.buffers(nic, ptag, CHUNK, 5)
        own = bytearray(CHUNK)

        def once(target: bytearray | None) -> int:
            bench_via.relay(a, b, out, into, target, CHUNK, 16)
            return 16 * CHUNK

        yield [
            Sample("via", "loopback", partial(once, None), nic.ledger, bench_lab.cpu_ns, outgoing=False),
            Sample("via_copy", "loopback", partial(once, own), nic.ledger, bench_lab.cpu_ns, outgoing=False),
        ]


def measure(lab: Lab) -> list[Row]:
    """Rows of each bed, and between the rows of a bed the differences."""
    room = bench_lab.Room(CHUNK)
    memcpy = [ns / CHUNK for ns in lab.in_turn({"memcpy": partial(room.copying, "copy", "", CHUNK, 500)})["memcpy"]]
    beds: list[Callable[[], contextlib.AbstractContextManager[list[Sample]]]] = [
        over_memory, over_tap, over_shm, through_a_middle, over_via, by_fbufs]  # fmt: skip
    if why := why_no_tap():
        beds.remove(over_tap)
        lab.missing["tap"] = why
    rows: list[Row] = []
    for bed in beds:
        try:
            with bed() as samples:
                rows += measure_bed(lab, samples, memcpy)
        except CannotMeasure as e:
            lab.missing[bed.__name__] = str(e)
    made = {row.get("technique") for row in rows}
    lab.missing |= {t: "not in this build" for t in ("direct", "cow") if t not in made}
    return [*rows, {"table": COST, "pair": "memcpy", **measured("memcpy_ns_per_byte", memcpy)}]


def measure_bed(lab: Lab, samples: list[Sample], memcpy: Sequence[float]) -> list[Row]:
    """The rows of the samples, in turn; and what a copy costs, from the rounds."""
    seconds = lab.pick(0.06, 0.02)
    found = lab.in_turn({s.technique: partial(s.run, seconds) for s in samples})
    rows = [s.row(found[s.technique]) for s in samples if s.technique in found]
    made = {row["technique"]: row for row in rows}
    typical = median(memcpy)
    for more, fewer in PAIRS:
        if more in made and fewer in made:
            copies = made[more]["cpu_copies"] - made[fewer]["cpu_copies"]
            if copies > 0.5:
                each = [(a - b) / copies / typical for a, b in zip(found[more], found[fewer], strict=True)]
                rows.append({
                    "table": COST, "pair": f"{more} - {fewer}", "link": made[more]["link"], "copies_apart": copies,
                    **measured("copies_cost", each),
                })  # fmt: skip
    return rows


def _counted(*techniques: str) -> Callable[[Sequence[Row]], list[Finding]]:
    return equals("cpu_copies", {t: EXPECTED[t] for t in techniques}, "technique")


E1 = Experiment(
    "E1", "copies by the ledger",
    f"a warm file of {FILE >> 10} KiB (or a buffer of the program) sent in calls of {CHUNK >> 10} KiB by each "
    "technique. CPU copies: what the sending stack booked, for each byte, between the page cache or the producer "
    "and the link; a read of the file counts as one. Device copies: what the link's system call or the device moves "
    "(0 over the in-memory link, which passes references). Bus: twice the CPU copies, and the device's. ns/B: CPU "
    "time of the thread; over the in-memory link and the loopback of the message layer it includes the receiver, "
    "which does the same for every technique. Over SharedMemory (shm) and a TAP it is the sending alone. direct: "
    "with completions, from a ring of buffers. Proof: what the number of copies rests on: the ledger; identity (the "
    "receiver's buffer is the sender's, by file and offset); prot_none (a process that cannot read the payload "
    "sends it over shm).",
    (
        Column("technique", "technique"), Column("pair", "difference"), Column("link", "link"),
        Column("cpu_copies", "CPU copies"),
        Column("expected", "expected"), Column("device_copies", "device"), Column("bus", "bus"),
        Column("ns_per_byte", "ns/B"), Column("proof", "proof"),
        Column("copies_apart", "copies apart"), Column("copies_cost", "a copy's cost", "memcpy"),
        Column("memcpy_ns_per_byte", "memcpy", "ns/B"),
    ),
    (
        Claim("N9", "reading a file and writing it copies by CPU twice", "the ledger says exactly 2",
              _counted("read_write")),
        Claim("N11", "mmap and write copies once", "the ledger says exactly 1", _counted("mmap_write")),
        Claim("N12", "sendfile copies once; where the device gathers (N12b), not at all",
              "the ledger says exactly 1 and 0", _counted("sendfile", "sendfile_gather")),
        Claim("T27", "messages into registered buffers are not copied; the copy to the user's own buffer is one",
              "the ledger says exactly 0 and 1", _counted("via", "via_copy")),
        Claim("T19", "a splice between two sockets copies nothing, a loop of recv and send twice",
              "the ledger says exactly 0 and 2", _counted("splice", "recv_send")),
        Claim("T3", "an ordinary write copies once; direct transfer, copy on write and fbufs do not",
              "the ledger says exactly 1 and 0", _counted("write", "direct", "cow", "fbuf", "fbuf_copy")),
        Claim("E1", "the copies that the ledger tells apart are real",
              "between two techniques, ns/B differ by at least 0.5 of a measured memcpy for each copy",
              in_band("copies_cost", Band(low=0.5, unit="memcpy"), "{pair}, {link}")),
    ),
    measure,
    taps=True,
)  # fmt: skip
EXPERIMENTS = (E1,)
