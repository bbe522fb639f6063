"""The table of experiments, E1 … E25. Each is in the module of its family; those not in this version say so."""

from __future__ import annotations

from collections.abc import Sequence

from ustack._lab import copies, copying, messages, moving, packets, pages, programs, sources, tables
from ustack._lab.form import Claim, Experiment, cannot

LATER = "not in this version: it belongs to the whole message layer"


def _absent(number: str, title: str, why: str, *claims: tuple[str, str]) -> Experiment:
    return Experiment(
        number, title, "", claims=tuple(Claim(n, text, "needs what is not there", cannot(why)) for n, text in claims),
        absent=f"{LATER} ({why})",
    )  # fmt: skip


ABSENT = (
    _absent("E10", "line rate of the message layer", "messages over Ethernet, paced at 1 Gbit/s",
            ("N15", "VIA and MPI reach about 100 % of the line rate")),
    _absent("E18", "EMP: a tag-matched protocol in the device", "tag matching, acknowledgements for groups",
            ("X1", "EMP: 23 µs latency, 880 Mbit/s")),
    _absent("E19", "Arsenic: filters, validation and shares of one interface", "a manager that shares an interface",
            ("T33", "an Ethernet interface can be given to applications, with protection")),
    _absent("E25", "isolation of neighbours", "a manager with quotas, under applications that misbehave",
            ("P10", "applications with errors can exhaust the device"),
            ("S12", "no application reaches the buffers of another")),
)  # fmt: skip

MODULES = (copies, packets, copying, sources, moving, messages, pages, tables, programs)
EXPERIMENTS: dict[str, Experiment] = {
    e.number: e
    for e in sorted((e for group in (*(m.EXPERIMENTS for m in MODULES), ABSENT) for e in group),
                    key=lambda e: int(e.number[1:]))
}  # fmt: skip


def choose(names: Sequence[str]) -> tuple[list[Experiment], list[str]]:
    """The experiments of these numbers (none, or "all": every one), in their order; and the names that are none."""
    wanted = {n.upper() for n in names}
    if not wanted or "ALL" in wanted:
        wanted = set(EXPERIMENTS) | wanted - {"ALL"}
    unknown = [n for n in names if n.upper() not in EXPERIMENTS and n.upper() != "ALL"]
    return [e for n, e in EXPERIMENTS.items() if n in wanted], unknown
