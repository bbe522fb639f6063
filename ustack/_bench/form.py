"""Rows: their names, their form in JSON, and the statistics of paired rounds. Nothing here measures anything.

A full name ends in wait, placement and api, as in ``tcp.rtt.tap.block.same.python``. A name given as a prefix means all
rows below it. A bare name's own row, its headline, is the Python row in blocking mode with the better placement: the
one with the better ratio, which disturbances of a shared machine touch least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Better = Literal["higher", "lower"]
ROUNDS = 7
MAJORITY = 5 / 7


def pair_ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """ustack / baseline of each round; a baseline of 0 gives infinity."""
    return [ours / base if base else math.inf for ours, base in pairs]


def reaches(ratio: float, target: float, better: Better) -> bool:
    """Whether a ratio is at least (``better`` = "higher") or at most ("lower") the target."""
    return ratio >= target if better == "higher" else ratio <= target


def holds(pairs: Sequence[tuple[float, float]], target: float, better: Better) -> bool:
    """The median of the paired ratios reaches the target, and so do at least 5 of 7 rounds (as a share)."""
    ratios = pair_ratios(pairs)
    if not ratios:
        return False
    good = sum(reaches(r, target, better) for r in ratios)
    return reaches(median(ratios), target, better) and good >= math.ceil(MAJORITY * len(ratios) - 1e-9)


def full_name(name: str, wait: str, placement: str, api: str) -> str:
    """``tcp.rtt.tap`` and how it was run, as one name."""
    return f"{name}.{wait}.{placement}.{api}"


def is_below(full: str, prefix: str) -> bool:
    """Whether a full name is the prefix, or continues it at a dot."""
    prefix = prefix.rstrip(".")
    return full == prefix or full.startswith(prefix + ".")


@dataclass
class Row:
    """The result of one case. ``pairs`` holds (ustack, baseline) of each round, in the row's unit."""

    name: str
    api: str
    wait: str
    placement: str
    unit: str
    better: Better
    baseline_name: str
    pairs: list[tuple[float, float]]
    target: float | None = None  # the ratio to reach
    aim: float | None = None
    ledger: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name with wait, placement and api."""
        return full_name(self.name, self.wait, self.placement, self.api)

    @property
    def ratio(self) -> float:
        """Median of the paired ratios ustack / baseline."""
        return median(pair_ratios(self.pairs))

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest of the paired ratios."""
        ratios = pair_ratios(self.pairs)
        return min(ratios), max(ratios)

    @property
    def ustack(self) -> float:
        """Median of our figures."""
        return median(ours for ours, _ in self.pairs)

    @property
    def baseline(self) -> float:
        """Median of the baseline's figures."""
        return median(base for _, base in self.pairs)

    @property
    def holds(self) -> bool | None:
        """Whether the row reaches its target; None without one."""
        return None if self.target is None else holds(self.pairs, self.target, self.better)

    def as_json(self) -> dict[str, Any]:
        """The row as it is written to files."""
        notes: dict[str, Any] = {"full_name": self.full_name, "spread": [_round(x) for x in self.spread]}
        if self.target is not None:
            notes |= {"target": self.target, "holds": self.holds}
        if self.aim is not None:
            notes["aim"] = self.aim
        given = asdict(self)
        return {
            "name": self.name, "api": self.api, "wait": self.wait, "placement": self.placement, "unit": self.unit,
            "better": self.better, "ustack": _round(self.ustack), "baseline": _round(self.baseline),
            "baseline_name": self.baseline_name, "ratio": _round(self.ratio), "rounds": len(self.pairs),
            "pairs": [[_round(ours), _round(base)] for ours, base in self.pairs],
            "ledger": {reason: list(v) for reason, v in self.ledger.items()}, "notes": notes | given["notes"],
        }  # fmt: skip


def _round(x: float) -> float:
    """Five significant digits: more than any measurement here has."""
    return float(f"{x:.5g}") if math.isfinite(x) else x


def headline(rows: Iterable[Row], name: str) -> Row | None:
    """The row that stands for a bare name: Python, blocking, the better placement; else the best that there is."""
    candidates = [r for r in rows if r.name == name]
    candidates = [r for r in candidates if r.api == "python"] or candidates
    candidates = [r for r in candidates if r.wait == "block"] or candidates
    if not candidates:
        return None
    best = max if candidates[0].better == "higher" else min
    return best(candidates, key=lambda r: r.ratio)
