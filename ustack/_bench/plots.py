"""Figures for ``ustack bench --plots``: what is measured for them, and how they are drawn (with matplotlib).

Three figures, each as SVG and PNG: throughput against the size of a call, CPU time for a byte against the same, and the
distribution of round trips. ``plots.json`` beside them has the numbers.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ustack._bench.cases import ALL, BULK_IN, BULK_OUT, RTT, SAME, Case
from ustack._bench.measurement import cpu_per_gb
from ustack._bench.runner import Runner

SIZES = tuple(64 << k for k in range(0, 15, 2))  # bytes a call: 64 B to 1 MB
QUANTILES = 200
FORMATS = ("svg", "png")
MISSING = "matplotlib, which draws the figures, is missing:  pip install 'ustack[plots]'"


@dataclass
class Series:
    """One line: of whom, in which panel, and its points."""

    name: str  # "ustack" or "kernel"
    panel: str
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Figure:
    """One figure: panels side by side, each with the lines of both."""

    name: str  # of the file
    title: str
    x: str
    y: str
    series: list[Series]
    sizes: bool = False  # x is bytes a call; both axes are logarithmic


def why_not() -> str | None:
    """None where figures can be drawn, else what to do."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        return MISSING
    return None


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(runner: Runner) -> list[Figure]:
    """Measure what the figures show: each size in paired rounds, both ends on one core."""
    throughput = Figure(
        "throughput",
        "One stream over a TAP (ustack) and a veth (kernel), one core",
        "bytes a call",
        "Gbit/s",
        [],
        sizes=True,
    )
    cpu = Figure(
        "cpu_per_byte", "CPU time of the whole machine for a byte, one core", "bytes a call", "ns", [], sizes=True
    )
    for panel, kind in (("to Linux", BULK_OUT), ("from Linux", BULK_IN)):
        lines = [Series(who, panel) for who in ("ustack", "kernel")]
        costs = [Series(who, panel) for who in ("ustack", "kernel")]
        for size in SIZES:
            small = replace(kind, params={"chunk": size}, free_baseline=False)
            (wait, placement), *_ = SAME
            case = Case(f"plot of {size} bytes {panel}", small, "tap", wait, placement)
            runs = runner.rounds_of(case, runner.baseline(case), 0.0)
            for k in range(2):
                figures = [pair[k] for pair in runs]
                rates = [small.value(m.near["figures"], m.far["figures"]) for m in figures if m]
                lines[k].points.append((size, median(rates)))
                costs[k].points.append((size, median(cpu_per_gb(m) for m in figures if m)))
        throughput.series += lines
        cpu.series += costs
    rtt = Figure("round_trips", "Round trips of one byte over a TAP (ustack) and a veth (kernel)", "µs", "share", [])
    for wait, placement in ALL if runner.other_cpu is not None else SAME:
        kind = replace(RTT, params={"size": 1, "quantiles": QUANTILES})
        panel = f"{wait}, {placement} core" if placement == "same" else f"{wait}, two cores"
        case = Case(f"plot of round trips, {panel}", kind, "tap", wait, placement)
        runs = runner.rounds_of(case, runner.baseline(case), 0.0)
        for k, who in enumerate(("ustack", "kernel")):
            found = [m.near["figures"]["quantiles"] for m in (pair[k] for pair in runs) if m]
            times = [median(column) for column in zip(*found, strict=True)]
            points = [(t, n / QUANTILES) for n, t in enumerate(times)]
            rtt.series.append(Series(who, panel, points))
    return [throughput, rtt, cpu]


# --- drawing ----------------------------------------------------------------------------------------------------------

COLOURS = {"ustack": "#0b6e4f", "kernel": "#b3541e"}


def _draw(figure: Figure) -> Any:
    make: Callable[..., Any] = importlib.import_module("matplotlib.figure").Figure
    panels = list(dict.fromkeys(s.panel for s in figure.series))
    picture = make(figsize=(5 * len(panels), 4), layout="constrained")
    picture.suptitle(figure.title)
    for axes, panel in zip(picture.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for s in figure.series:
            if s.panel == panel:
                xs, ys = zip(*s.points, strict=True)
                marker = "o" if figure.sizes else ""
                (line,) = axes.plot(xs, ys, marker=marker, label=s.name, color=COLOURS.get(s.name))
                line.set_gid(f"{s.name} {panel}")
        axes.set_title(panel)
        axes.set_xlabel(figure.x)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        if figure.sizes:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        else:
            axes.set_xscale("log")  # a few are a hundred times as long: something else had the core
    picture.axes[0].set_ylabel(figure.y)
    return picture


def draw(figures: Sequence[Figure], directory: Path) -> list[Path]:
    """Write the figures and their numbers; returns the files. Raises ImportError without matplotlib, OSError."""
    matplotlib = importlib.import_module("matplotlib")
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        for figure in figures:
            picture = _draw(figure)
            for form in FORMATS:
                files.append(directory / f"{figure.name}.{form}")
                picture.savefig(files[-1], dpi=150)
    files.append(directory / "plots.json")
    files[-1].write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    return files
