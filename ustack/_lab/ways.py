"""What E1 compares: techniques as ``Sample``s over beds, and what the ledger has to say of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from ustack._bench.worker import difference
from ustack._core.py import bench_lab
from ustack._lab import dark, programs
from ustack._lab.bench import beside, connected, file_of, memory_stacks, tap_connection
from ustack._lab.form import Row, measured

CHUNK = 256 << 10  # of a call: large enough for what differs by a copy to stand out of what a call costs
RING = 16  # buffers, or pieces of the file, in turn: 4 MiB
RELAYED = 64 << 10  # of a call, where three stacks or two VIs of one thread take turns
SUMS = ("tx.checksum", "rx.checksum", "tx.fused")  # of the ledger: sums, not copies
EXPECTED = {
    "read_write": 2, "mmap_write": 1, "sendfile": 1, "sendfile_gather": 0, "write": 1, "direct": 0, "cow": 0,
    "fbuf": 0, "fbuf_copy": 1, "splice": 0, "recv_send": 2, "via": 0, "via_copy": 1, "recv": 1, "recv_loaned": 0,
    "recv_flip": 0, "recv_zerocopy": 0,
}  # fmt: skip
# Techniques of which the first makes more copies than the second, and else does about the same. (Exchanging and mapping
# pages is work of another kind: E14.)
PAIRS = (
    ("read_write", "mmap_write"), ("read_write", "sendfile"), ("read_write", "sendfile_gather"),
    ("mmap_write", "sendfile_gather"), ("sendfile", "sendfile_gather"), ("recv_send", "splice"), ("via_copy", "via"),
    ("write", "direct"), ("write", "cow"), ("write", "fbuf"), ("fbuf_copy", "fbuf"), ("recv", "recv_loaned"),
)  # fmt: skip
FILES = {"read_write": "read", "mmap_write": "mmap", "sendfile": "copy", "sendfile_gather": "gather"}
Book = dict[str, tuple[int, int]]


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


def in_the_dark(technique: str) -> str:
    """What a zero rests on over shared memory."""
    return "prot_none" if dark.proves(technique) else "ledger"


# --- sending ----------------------------------------------------------------------------------------------------------


class Outgoing:
    """Techniques to send over one connection, from a file or from memory; CPU time is that of the sending alone."""

    def __init__(self, s: Any, file: int, link: str, book: Callable[[], Book], after: Callable[[int], None]) -> None:
        self.s, self.file, self.link, self.book, self.after = s, file, link, book, after
        self.at = self.spent = 0
        self.lent: list[programs.Direct] = []

    def sample(self, technique: str, send: Callable[[], object]) -> Sample:
        """A sample of something that sends CHUNK bytes."""

        def once() -> int:
            began = bench_lab.cpu_ns()
            send()
            self.spent += bench_lab.cpu_ns() - began
            self.after(CHUNK)
            return CHUNK

        shown = self.link == "shm" and EXPECTED[technique] == 0
        return Sample(technique, self.link, once, self.book, lambda: self.spent,
                      in_the_dark(technique) if shown else "ledger")  # fmt: skip

    def send_file(self, how: str) -> None:
        """The next piece of the file."""
        self.at = (self.at + CHUNK) % (RING * CHUNK)
        self.s.sendfile(self.file, self.at, CHUNK, how=how)

    def from_files(self, *but: str) -> list[Sample]:
        """Those that send a file."""
        return [self.sample(t, partial(self.send_file, how)) for t, how in FILES.items() if t not in but]

    def from_memory(self, memory: Callable[[], Any], fbufs: Sequence[Any]) -> list[Sample]:
        """Those that send memory, each a ring of buffers: ``memory`` makes one, ``fbufs`` were received."""
        import ustack

        plain = cycle([bytearray(CHUNK) for _ in range(RING)])
        shared = cycle([ustack.CowBuffer(CHUNK) for _ in range(RING)])
        found = [
            self.sample("write", lambda: self.s.sendall(next(plain))),
            self.sample("cow", lambda: self.s.sendall(next(shared), cow=True)),
        ]
        if self.link != "memory":  # it hands the receiver what it is given: there, sends in place are copied
            direct = programs.Direct(self.s, [memory() for _ in range(RING)])
            handed = programs.Direct(self.s, fbufs, direct)
            self.lent = [direct, handed]
            found += [self.sample("direct", direct.send), self.sample("fbuf", handed.send)]
        return found

    def close(self) -> None:
        """Have everything back that was lent to the socket."""
        for one in self.lent:
            one.end()
            one.close()


@contextlib.contextmanager
def over_memory() -> Iterator[list[Sample]]:
    """Files and buffers to a socket at the other end of the in-memory link, in one thread."""
    buffer = bytearray(CHUNK)
    with file_of(RING * CHUNK) as file, memory_stacks() as (near, far), connected(near, far) as (a, b):
        out = Outgoing(a, file, "memory", near.ledger, lambda n: take(b, n, buffer))
        # In place is not for this link: whoever receives would hold pages that the file's writers may change.
        yield out.from_files("sendfile_gather") + out.from_memory(lambda: None, ())


@contextlib.contextmanager
def over_tap() -> Iterator[list[Sample]]:
    """The same to the kernel behind a TAP."""
    with (
        file_of(RING * CHUNK) as file, programs.fbufs_received(CHUNK, RING) as fbufs,
        tap_connection() as (net, s, kernel), beside(partial(bench_lab.drain, kernel.fileno())),
    ):  # fmt: skip
        out = Outgoing(s, file, "tap", net.ledger, lambda n: None)
        try:
            yield out.from_files() + out.from_memory(lambda: bytearray(CHUNK), fbufs)
            out.close()
        finally:
            s.close()


@contextlib.contextmanager
def over_shm() -> Iterator[list[Sample]]:
    """To another stack over shared memory, whose device processes move the bytes."""
    from ustack.buffers import Region

    with (
        file_of(RING * CHUNK) as file, programs.fbufs_received(CHUNK, RING) as fbufs,
        dark.shared_stacks() as (near, far), connected(near, far) as (a, b),
    ):  # fmt: skip
        buffer = bytearray(CHUNK)

        def book() -> Book:
            near.poll()  # what the device has done is booked when it is noticed
            return dict(near.ledger())

        out = Outgoing(a, file, "shm", book, lambda n: take(b, n, buffer))
        yield out.from_files() + out.from_memory(lambda: Region(CHUNK), fbufs)
        out.close()


# --- receiving --------------------------------------------------------------------------------------------------------

SEGMENT = 61_440  # whole pages, of which a call takes as many as fit CHUNK
MTU = SEGMENT + 52


@contextlib.contextmanager
def into_pages() -> Iterator[list[Sample]]:
    """From the kernel behind a TAP whose link receives payload into pages of its own (header split)."""
    import ustack

    most = CHUNK // SEGMENT * SEGMENT
    buffer, pages, shown = bytearray(most), ustack.FlipBuffer(most), ustack.ReceiveMapping(most)
    data = bytes(most)
    with tap_connection(MTU, header_split=True) as (net, s, kernel):
        state = {"spent": 0}

        def sample(technique: str, receive: Callable[[], int], place: int = 0) -> Sample:
            def once() -> int:
                kernel.sendall(data)
                left = most
                while left:
                    began = bench_lab.cpu_ns()
                    left -= receive()
                    state["spent"] += bench_lab.cpu_ns() - began
                return most

            proof = "identity" if place and changes(place, once) else "ledger"
            return Sample(technique, "tap, split", once, net.ledger, lambda: state["spent"], proof, outgoing=False)

        def mapped() -> int:
            got = s.recv_zerocopy(shown)
            rest = got.recv_skip_hint
            take(s, rest, buffer)
            return int(got.length + rest)

        yield [
            sample("recv", lambda: int(s.recv_into(buffer))),
            sample("recv_loaned", lambda: sum(map(len, s.recv_buffers(most)))),
            sample("recv_flip", lambda: int(s.recv_flip(pages)), pages.address),
            sample("recv_zerocopy", mapped, shown.address),
        ]


def changes(address: int, act: Callable[[], object]) -> bool:
    """Whether there is another page of a file at an address, behind what is done: nobody has copied into it."""
    before = programs.mapped_at(address)
    act()
    after = programs.mapped_at(address)
    return after[0] != 0 and after != before


# --- between programs, and between sockets ----------------------------------------------------------------------------


@contextlib.contextmanager
def by_fbufs() -> Iterator[list[Sample]]:
    """Buffers from one channel of this process to another."""
    with programs.handed_over(CHUNK) as (hand, book, same):
        yield [
            Sample("fbuf", "channel", partial(hand, False), book, bench_lab.cpu_ns, "identity" if same else "ledger"),
            Sample("fbuf_copy", "channel", partial(hand, True), book, bench_lab.cpu_ns),
        ]


@contextlib.contextmanager
def through_a_middle(proof: str = "ledger") -> Iterator[list[Sample]]:
    """A stack between two others: what it receives on one socket goes out of another; all in one thread."""
    import ustack

    buffer, data = bytearray(RELAYED), bytes(RELAYED)
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
            left = RELAYED
            while left:
                middle.poll()
                with contextlib.suppress(BlockingIOError):
                    left -= b.recv_into(buffer, left)
            return RELAYED

        c, p, q, d = two()

        def by_hand() -> int:
            c.sendall(data)
            take_and_pass(p, q, RELAYED, buffer)
            take(d, RELAYED, buffer)
            return RELAYED

        yield [
            Sample("splice", "memory", relayed, middle.ledger, bench_lab.cpu_ns, proof, outgoing=False),
            Sample("recv_send", "memory", by_hand, middle.ledger, bench_lab.cpu_ns, outgoing=False),
        ]
        splice.cancel()


def spliced() -> contextlib.AbstractContextManager[list[Sample]]:
    """The same; what proves it has shared memory on one side."""
    return through_a_middle(in_the_dark("splice"))


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
        a, b = (via.Vi(nic, ptag, max_transfer=RELAYED) for _ in range(2))
        via.pair(a, b)
        out, *into = via.buffers(nic, ptag, RELAYED, 5)
        own = bytearray(RELAYED)

        def once(target: bytearray | None) -> int:
            bench_via.relay(a, b, out, into, target, RELAYED, 16)
            return 16 * RELAYED

        yield [
            Sample("via", "loopback", partial(once, None), nic.ledger, bench_lab.cpu_ns, in_the_dark("via"), False),
            Sample("via_copy", "loopback", partial(once, own), nic.ledger, bench_lab.cpu_ns, outgoing=False),
        ]


Bed = Callable[[], contextlib.AbstractContextManager[list[Sample]]]
# Name: (bed, whether what is copied comes from more memory than the nearest caches have).
BEDS: dict[str, tuple[Bed, bool]] = {
    "memory": (over_memory, True), "TAP": (over_tap, True), "shared memory": (over_shm, True),
    "TAP with header split": (into_pages, False), "splice": (spliced, False), "messages": (over_via, False),
    "channels": (by_fbufs, False),
}  # fmt: skip
