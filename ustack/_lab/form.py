"""Claims, the rules by which they are judged, verdicts and statistics. Nothing here measures anything.

A row is a dict of plain values, as it goes into JSON. A measured value ``ns`` is the median of its repeats; beside it
``ns_iqr`` holds the lower and the upper quartile. Rows with a ``table`` are shown in one of that title. A rule is data:
a ``Band`` that a column of rows has to lie in, values that it must equal. Judging is a pure function of rows, so that
who has the rows can judge again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

Row = dict[str, Any]
Verdict = str  # one of the three
CONFIRMED: Verdict = "CONFIRMED"
REFUTED: Verdict = "REFUTED"
NOT_MEASURABLE: Verdict = "NOT MEASURABLE"


# --- statistics -------------------------------------------------------------------------------------------------------


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile, between the samples next to them. Raises ValueError without samples."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return at(0.25), at(0.75)


def measured(name: str, samples: Sequence[float]) -> Row:
    """The part of a row that says what was measured: median and quartiles."""
    low, high = quartiles(samples)
    return {name: median(samples), f"{name}_iqr": [low, high], "repeats": len(samples)}


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, b) of y = a + b x with the least relative squares: small values count as much as large ones.

    Raises ValueError for fewer than two different x.
    """
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs two points")
    w = [1 / (y * y) if y else 1.0 for _, y in points]
    sw = sum(w)
    sx = sum(k * x for k, (x, _) in zip(w, points, strict=True))
    sy = sum(k * y for k, (_, y) in zip(w, points, strict=True))
    sxx = sum(k * x * x for k, (x, _) in zip(w, points, strict=True))
    sxy = sum(k * x * y for k, (x, y) in zip(w, points, strict=True))
    b = (sw * sxy - sx * sy) / (sw * sxx - sx * sx)
    return (sy - b * sx) / sw, b


def crossover(points: Sequence[tuple[float, float, float]]) -> float | None:
    """Where the second of two costs begins to be the smaller one, and stays it: x, between points on a log scale.

    points: (x, first, second), by ascending x. None: never within them. The first x: all along.
    """
    where: float | None = None
    before: tuple[float, float] | None = None  # log x, log ratio
    for x, first, second in points:
        ratio = math.log(second / first) if first > 0 and second > 0 else 0.0
        if ratio > 0:
            where = None
        elif where is None:
            if before is None or before[1] <= ratio:
                where = x
            else:
                share = before[1] / (before[1] - ratio)
                where = math.exp(before[0] + (math.log(x) - before[0]) * share)
        before = math.log(x), ratio
    return where


PAYS = "where it begins to pay"


def pays_from(what: str, against: str, sizes: Sequence[float], first: Sequence[Sequence[float]],
              second: Sequence[Sequence[float]]) -> Row:  # fmt: skip
    """A row of the sizes from which the second cost is the smaller one: median and quartiles of the crossovers of the
    rounds. None: never within what was measured.

    first, second: for each size the costs of the rounds.
    """
    rounds = min(len(column) for column in (*first, *second))
    found = []
    for k in range(rounds):
        points = sorted((x, a[k], b[k]) for x, a, b in zip(sizes, first, second, strict=True))
        found.append(crossover(points))
    ordered = sorted(math.inf if x is None else x for x in found)

    def at(share: float) -> float | None:  # an element: nothing lies between "never" and a size
        x = ordered[round(share * (len(ordered) - 1))]
        return x if math.isfinite(x) else None

    return {
        "table": PAYS, "what": what, "against": against, "pays_from": at(0.5), "pays_low": at(0.25),
        "pays_high": at(0.75), "largest": max(sizes), "smallest": min(sizes), "rounds": rounds,
    }  # fmt: skip


def pays_text(row: Row) -> str:
    """A row of ``pays_from`` for people, with its quartiles."""

    def text(x: float | None) -> str:
        if x is None:
            return "never"
        return f"{number(x / 1024)} KiB"

    low, middle, high = (row[k] for k in ("pays_low", "pays_from", "pays_high"))
    if middle is None:
        some = "" if low is None else f" (in some rounds from {text(low)})"
        return f"never up to {text(row['largest'])}{some}"
    at_most = " at most" if middle <= row["smallest"] else ""
    return f"from {text(middle)}{at_most} ({text(low)} .. {text(high)})"


# --- rules ------------------------------------------------------------------------------------------------------------


def number(x: float | None) -> str:
    """Three digits; large numbers whole, with commas; - for none."""
    if x is None or not math.isfinite(x):
        return "-"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}"


@dataclass(frozen=True)
class Band:
    """A value has to lie between two bounds, both of which belong to it."""

    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def holds(self, x: float) -> bool:
        """Whether a value lies in it."""
        return self.low <= x <= self.high

    def is_close(self, spread: Sequence[float] | None) -> bool:
        """Whether a bound lies between the quartiles: repeats do not agree on the verdict."""
        return bool(spread) and self.holds(spread[0]) != self.holds(spread[1])  # type: ignore[index]

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low == -math.inf:
            return f"at most {number(self.high)}{unit}"
        if self.high == math.inf:
            return f"at least {number(self.low)}{unit}"
        return f"{number(self.low)} to {number(self.high)}{unit}"


@dataclass(frozen=True)
class Finding:
    """What one row, or a few, say about a claim."""

    where: str  # the configuration: "1460 B, avx2"
    figure: str
    verdict: Verdict
    remark: str = ""

    def as_json(self) -> dict[str, str]:
        """As it is written to files."""
        return {"where": self.where, "figure": self.figure, "verdict": self.verdict, "remark": self.remark}


Judge = Callable[[Sequence[Row]], list[Finding]]
CLOSE = "close: the bound lies between the quartiles"


@dataclass(frozen=True)
class Claim:
    """A numbered claim, the rule that decides about it, and how the rule is applied to rows."""

    number: str  # "N7"
    text: str
    rule: str
    judge: Judge

    def findings(self, rows: Sequence[Row]) -> list[Finding]:
        """One for each configuration that the rule speaks about; NOT MEASURABLE where there is none."""
        return self.judge(rows) or [Finding("", "", NOT_MEASURABLE, "nothing that the rule needs was measured")]


def cannot(why: str) -> Judge:
    """The rule of what no experiment here can decide."""
    return lambda rows: [Finding("", "", NOT_MEASURABLE, why)]


def verdict_of(holds: bool) -> Verdict:
    """CONFIRMED or REFUTED."""
    return CONFIRMED if holds else REFUTED


def in_band(key: str, band: Band, where: str, **only: Any) -> Judge:
    """The rule: column ``key`` lies in the band, in each row that has it and whose columns are as ``only`` says.

    where: a format of the row's columns, "{size} B, {kernel}".
    """

    def judge(rows: Sequence[Row]) -> list[Finding]:
        found = []
        for row in rows:
            value = row.get(key)
            if value is None or not matches(row, only):
                continue
            remark = CLOSE if band.is_close(row.get(f"{key}_iqr")) else ""
            unit = f" {band.unit}" if band.unit else ""
            text = f"{number(value)}{unit}{spread_of(row, key)}"
            found.append(Finding(where.format_map(row), text, verdict_of(band.holds(value)), remark))
        return found

    return judge


def spread_of(row: Row, key: str) -> str:
    """The quartiles of a column, in brackets, if it has them."""
    spread = row.get(f"{key}_iqr")
    return f" ({number(spread[0])} .. {number(spread[1])})" if spread else ""


def matches(row: Row, only: Mapping[str, Any]) -> bool:
    """Whether columns have the values, or one of the values, asked for."""
    return all(row.get(k) in v if isinstance(v, (tuple, set, frozenset)) else row.get(k) == v for k, v in only.items())


def equals(key: str, expected: Mapping[str, float], by: str) -> Judge:
    """The rule: column ``key`` of the row whose column ``by`` is the key has exactly the value."""

    def judge(rows: Sequence[Row]) -> list[Finding]:
        found = []
        for row in rows:
            if row.get(by) in expected and row.get(key) is not None:
                want, value = expected[row[by]], row[key]
                where = str(row[by]) + (f", {row['link']}" if "link" in row else "")
                text = f"{value:g}, expected {want:g}"
                found.append(Finding(where, text, verdict_of(abs(value - want) < 0.005)))
        return found

    return judge


def rising(key: str, by: str, where: str = "", **only: Any) -> Judge:
    """The rule: column ``key`` rises with column ``by``."""

    def judge(rows: Sequence[Row]) -> list[Finding]:
        chosen = sorted((r for r in rows if matches(r, only) and r.get(key) is not None), key=lambda r: r[by])
        if len(chosen) < 2:
            return []
        values = [r[key] for r in chosen]
        holds = all(a < b for a, b in itertools.pairwise(values))
        return [Finding(where or ", ".join(map(str, only.values())), " < ".join(map(number, values)) if holds else
                        ", ".join(map(number, values)), verdict_of(holds))]

    return judge


def pays(low: float = 0.0, high: float = math.inf, **only: Any) -> Judge:
    """The rule: rows of ``pays_from`` have a size at all, and it lies between the bounds."""

    def judge(rows: Sequence[Row]) -> list[Finding]:
        found = []
        for row in rows:
            if row.get("table") == PAYS and matches(row, only):
                x = row["pays_from"]
                spread = [math.inf if row[k] is None else row[k] for k in ("pays_low", "pays_high")]
                band = Band(low, high if math.isfinite(high) else row["largest"])
                found.append(Finding(f"{row['what']} against {row['against']}", pays_text(row),
                                     verdict_of(x is not None and band.holds(x)),
                                     CLOSE if band.is_close(spread) else ""))  # fmt: skip
        return found

    return judge


def never_pays(**only: Any) -> Judge:
    """The rule: rows of ``pays_from`` have no size."""

    def judge(rows: Sequence[Row]) -> list[Finding]:
        return [replace(f, verdict=verdict_of(f.verdict == REFUTED)) for f in pays(**only)(rows)]

    return judge


def several(*judges: Judge) -> Judge:
    """The findings of all of them."""
    return lambda rows: [f for judge in judges for f in judge(rows)]


# --- experiments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table of an experiment's rows."""

    key: str
    title: str
    unit: str = ""


PAYS_COLUMNS = (
    Column("what", "technique"), Column("against", "against"), Column("pays_from", "pays from", "B"),
    Column("pays_low", "lower quartile", "B"), Column("pays_high", "upper quartile", "B"), Column("rounds", "rounds"),
)  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A picture of rows: one line for each value of ``line``, y over x; one panel for each value of ``panel``.

    Several y, with commas between them: a line for each, named by its column. Both axes are logarithmic.
    """

    name: str
    title: str
    x: str
    y: str
    line: str
    x_title: str = "bytes"
    y_title: str = "ns"
    panel: str = ""
    panel_title: str = ""  # a format of a row's columns
    table: str = ""  # rows of this table
    only: tuple[tuple[str, Any], ...] = ()  # rows whose columns have these values
    per_x: bool = False  # y is divided by x: the cost of a byte
    counts: bool = False  # x is no number of bytes


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it measures, how, and what it decides.

    ``run`` measures and returns rows; None where this version has no such thing, and ``absent`` says why.
    """

    number: str  # "E3"
    title: str
    how: str
    columns: tuple[Column, ...] = ()
    claims: tuple[Claim, ...] = ()
    run: Callable[[Any], list[Row]] | None = None
    plots: tuple[Plot, ...] = ()
    absent: str = ""
    taps: bool = False  # makes namespaces and TAPs


@dataclass
class Result:
    """What an experiment found."""

    experiment: Experiment
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # what could not be measured, and why
    seconds: float = 0.0
    not_run: str = ""
    failed: bool = False  # by an error of the program

    def as_json(self) -> dict[str, Any]:
        """As it is written to files."""
        e = self.experiment
        return {
            "number": e.number, "title": e.title, "how": e.how, "seconds": round(self.seconds, 1),
            "columns": [[c.key, c.title, c.unit] for c in e.columns],
            "rows": [rounded(row) for row in self.rows], "missing": self.missing, "not_run": self.not_run,
            "claims": [
                {"number": c.number, "claim": c.text, "rule": c.rule, "findings": [f.as_json() for f in self.judged(c)]}
                for c in e.claims
            ],
        }  # fmt: skip

    def judged(self, claim: Claim) -> list[Finding]:
        """The findings about a claim."""
        if self.not_run:
            return [Finding("", "", NOT_MEASURABLE, self.not_run)]
        return claim.findings(self.rows)


def rounded(value: Any) -> Any:
    """Five significant digits: more than any measurement here has."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return value
