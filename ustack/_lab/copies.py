"""E1: how often a CPU copies each byte between the page cache, or the producer, and the link, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from ustack._core.py import bench_lab
from ustack._lab.bench import CannotMeasure, Lab
from ustack._lab.form import Band, Claim, Column, Experiment, Finding, Row, equals, in_band, measured, verdict_of
from ustack._lab.ways import BEDS, CHUNK, EXPECTED, PAIRS, RING, Sample

COST = "what a copy costs"
MEMCPY = "memcpy"


def measure(lab: Lab) -> list[Row]:
    """Rows of each bed, and between the rows of a bed the differences."""
    room = bench_lab.Room(2 * RING * CHUNK)
    rows: list[Row] = []
    for name, (bed, cold) in BEDS.items():
        try:
            with bed() as samples:
                rows += measure_bed(lab, samples, partial(memcpy, room, cold))
        except CannotMeasure as e:
            lab.missing[name] = str(e)
    return rows


def memcpy(room: bench_lab.Room, cold: bool, seconds: float) -> float:
    """ns of CPU time for a byte: of a block again and again, or of blocks out of half of the room, into a buffer."""
    count, began = max(1, int(seconds * 1e9 / (CHUNK / 15))), bench_lab.cpu_ns()
    if cold:
        room.consume(CHUNK, count, copied=True, used=False)
    else:
        room.copying("copy", "", CHUNK, count)
    return (bench_lab.cpu_ns() - began) / (count * CHUNK)


def measure_bed(lab: Lab, samples: list[Sample], copy: Callable[[float], float]) -> list[Row]:
    """The rows of the samples, in turn with a copy; and what a copy of theirs costs, from the rounds."""
    seconds, rounds = lab.pick((0.02, 2), (0.01, 1))  # many short rounds: a disturbance spoils one, not a share of all
    runs = {s.technique: partial(s.run, seconds) for s in samples} | {MEMCPY: partial(copy, seconds / 2)}
    found = lab.in_turn(runs, rounds=rounds * lab.repeats)
    rows = [s.row(found[s.technique]) for s in samples if s.technique in found]
    made = {row["technique"]: row for row in rows}
    typical = median(found[MEMCPY])
    for more, fewer in PAIRS:
        if more in made and fewer in made:
            copies = made[more]["cpu_copies"] - made[fewer]["cpu_copies"]
            if copies > 0.5:
                each = [(a - b) / copies / typical for a, b in zip(found[more], found[fewer], strict=True)]
                rows.append({
                    "table": COST, "pair": f"{more} - {fewer}", "link": made[more]["link"], "copies_apart": copies,
                    **measured("copies_cost", each),
                })  # fmt: skip
    link = samples[0].link
    return [*rows, {"table": COST, "pair": MEMCPY, "link": link, **measured("memcpy_ns_per_byte", found[MEMCPY])}]


def _counted(*techniques: str) -> Callable[[Sequence[Row]], list[Finding]]:
    return equals("cpu_copies", {t: EXPECTED[t] for t in techniques}, "technique")


def _proven(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for technique, copies in EXPECTED.items():
        proofs = {r["proof"] for r in rows if r.get("technique") == technique}
        want = "identity" if technique.startswith("recv") else "prot_none"
        if copies == 0 and proofs and technique != "recv_loaned":  # whose storage is the link's, for anybody to see
            found.append(Finding(technique, ", ".join(sorted(proofs)), verdict_of(want in proofs)))
    return found


E1 = Experiment(
    "E1", "copies by the ledger",
    f"a warm file (or {RING} buffers of the program), {RING * CHUNK >> 20} MiB, sent again and again in calls of "
    f"{CHUNK >> 10} KiB by each technique. CPU copies: what the stack booked, for each byte, between the page cache or "
    "the producer "
    "and the link, or the link and the program that receives; a read of the file counts as one. Device copies: what "
    "the link's system call or the device moves (0 over the in-memory link, which passes references). Bus: twice the "
    "CPU copies, and the device's. ns/B: CPU time of the thread in the calls that send, or that receive; for splice "
    "and messages with the neighbours in it, who do the same for both of a pair. memcpy: in the same rounds, into a "
    f"buffer, of a block again and again, or, where {RING * CHUNK >> 20} MiB are sent, of blocks out of as many. "
    "direct, fbuf (of another program's making, over TAP and shm): with completions. The receiving rows: from Linux, "
    "in segments of whole pages. Proof: what the number of copies rests on: the ledger; identity (the receiver sees "
    "the very pages that were sent, or others than before the call: by file and offset); prot_none (a process that "
    "could not read the payload has sent it, over shm).",
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
        Claim("T42b", "an ordinary receive copies once; a loan, exchanged pages and mapped pages do not",
              "the ledger says exactly 1 and 0", _counted("recv", "recv_loaned", "recv_flip", "recv_zerocopy")),
        Claim("E1b", "no copy means that the CPU did not touch the bytes",
              "each technique that claims 0 on its way out has a row with the proof prot_none; on its way in, identity",
              _proven),
        Claim("E1", "the copies that the ledger tells apart are real",
              "between two techniques, ns/B differ by at least 0.5 of a measured memcpy for each copy",
              in_band("copies_cost", Band(low=0.5, unit="memcpy"), "{pair}, {link}")),
    ),
    measure,
    taps=True,
)  # fmt: skip
EXPERIMENTS = (E1,)
