"""E16 and E17: fbufs; E20: receives posted before the data; E21: sends with completions."""

from __future__ import annotations

from ustack._lab.bench import CannotMeasure, Lab
from ustack._lab.form import Band, Claim, Column, Experiment, Row, in_band, rising

ORDER = "cached and volatile < volatile < cached <= plain < COW < copy"


def not_here(lab: Lab) -> list[Row]:
    """What this build lacks."""
    raise CannotMeasure("not in this build")


E16 = Experiment(
    "E16", "fbufs between two processes", "a buffer of several pages is handed from one process to another.",
    (Column("variant", "variant"), Column("size", "bytes"), Column("ns_per_page", "a page", "ns"),
     Column("place", "place")),
    (Claim("X7", f"for a page: {ORDER}", "the medians of a page are in that order, for the largest buffer measured",
           rising("ns_per_page", "place")),),
    not_here,
)  # fmt: skip
E17 = Experiment(
    "E17", "a file through fbufs", "a file is sent through fbufs, and by read and write.",
    (Column("technique", "technique"), Column("mb_per_s", "throughput", "MB/s"),
     Column("cpu_s_per_gib", "CPU", "s/GiB"), Column("gain", "more throughput", "%"),
     Column("cpu_saved", "CPU saved", "%")),
    (Claim("X5", "fbufs give at least 40 % more throughput for a file",
           "throughput / read and write - 1 is at least 40 %",
           in_band("gain", Band(low=40, unit="%"), "{technique}")),
     Claim("X5b", "and use at least 20 % less CPU", "1 - CPU time / that of read and write is at least 20 %",
           in_band("cpu_saved", Band(low=20, unit="%"), "{technique}"))),
    not_here,
)  # fmt: skip
E20 = Experiment(
    "E20", "receives posted before the data", "a receive is posted before its data, or called after they came.",
    (Column("way", "receive"), Column("link", "link"), Column("copies", "copies of a byte"),
     Column("ns_per_byte", "ns/B")),
    (Claim("T43", "data of a receive that was posted before are not copied by the CPU",
           "the ledger says 0 copies for a byte", in_band("copies", Band(0, 0.005), "{way}, {link}", way="posted")),),
    not_here,
)  # fmt: skip
E21 = Experiment(
    "E21", "sends with completions", "a buffer is sent in place, with a completion, and by copying.",
    (Column("size", "bytes"), Column("copy_ns", "copied", "ns"), Column("direct_ns", "in place", "ns"),
     Column("ratio", "in place / copied")),
    (Claim("X8", "sending in place with a completion pays above about 10 KB",
           "the size from which it is cheaper lies between 5 and 20 KiB", lambda rows: []),),
    not_here,
)  # fmt: skip
EXPERIMENTS = (E16, E17, E20, E21)
