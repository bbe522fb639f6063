"""Pictures of the rows of experiments, for ``ustack lab --plots`` and for docs/lab.md; drawn with matplotlib."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ustack._bench.plots import why_not
from ustack._lab.form import Experiment, Plot, Row

__all__ = ["Series", "draw", "series_of", "why_not", "write"]

FORMATS = ("svg", "png")
ABREAST = 2  # panels, but for three
COLOURS = ("#1f5fa8", "#c25114", "#2b8a3e", "#8c3fa0", "#7a6a00", "#b3123a", "#0d8f93", "#555555")
MARKERS = "osD^v<>P"
TICKS = 6  # at most so many figures below an axis


@dataclass
class Series:
    """A line in a panel: (x, y, lower quartile, upper quartile) by ascending x."""

    name: str
    panel: str
    points: list[tuple[float, float, float, float]] = field(default_factory=list)


def series_of(experiment: Experiment, plot: Plot, rows: Sequence[Row]) -> list[Series]:
    """The lines that the rows are enough for: two points at least."""
    titles = {c.key: c.title for c in experiment.columns}
    ys = plot.y.split(",")
    found: dict[tuple[str, str], Series] = {}
    for row in rows:
        if row.get("table", "") != plot.table or any(row.get(k) != v for k, v in plot.only):
            continue
        for y in ys:
            x, value = row.get(plot.x), row.get(y)
            if not x or not value or (plot.panel and plot.panel not in row):
                continue
            name = str(row.get(plot.line, "")) if plot.line else titles.get(y, y)
            if plot.line and len(ys) > 1:
                name = f"{name}, {titles.get(y, y)}"
            panel = plot.panel_title.format_map(row) if plot.panel else ""
            one = found.setdefault((name, panel), Series(name, panel))
            if all(x != p[0] for p in one.points):  # where columns that are not drawn differ: the first
                low, high = row.get(f"{y}_iqr") or (value, value)
                scale = 1 / x if plot.per_x else 1.0
                one.points.append((x, value * scale, low * scale, high * scale))
    for one in found.values():
        one.points.sort()
    return [s for s in found.values() if len(s.points) > 1]


def size_text(n: float, _place: object = None) -> str:
    """A number of bytes, short."""
    for unit, name in ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")):
        if n >= unit and n % unit == 0:
            return f"{n / unit:.0f}{name}"
    return f"{n:.0f}"


def ticks(low: float, high: float) -> list[float]:
    """Powers of two, not too many, from one that is not above the smallest value on."""
    first, last = max(int(low), 1).bit_length() - 1, max(int(high), 1).bit_length()
    step = next(s for s in range(1, 64) if (last - first) / s < TICKS)
    return [float(1 << k) for k in range(first + (-first) % step, last + 1, step) if low <= 1 << k <= high]


def spans_little(series: Sequence[Series]) -> bool:
    """Less than two powers of ten, which would leave an axis without figures."""
    values = [p[1] for s in series for p in s.points]
    return max(values) < 100 * min(values)


def drawing(plot: Plot, series: Sequence[Series]) -> Any:
    """A figure: panels with common axes, one legend below all of them; bars are quartiles."""
    ticker = importlib.import_module("matplotlib.ticker")
    panels = list(dict.fromkeys(s.panel for s in series))
    names = list(dict.fromkeys(s.name for s in series))
    across = min(ABREAST, len(panels)) if len(panels) != 3 else 3
    down = -(-len(panels) // across)
    picture = importlib.import_module("matplotlib.figure").Figure(
        figsize=(4.2 * across + 0.6, 2.8 * down + 1.1), layout="constrained")  # fmt: skip
    picture.suptitle(plot.title, fontsize=11)
    grid = picture.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    shown: dict[str, Any] = {}
    for k, axes in enumerate(grid.flat):
        if k >= len(panels):
            axes.set_visible(False)
            continue
        for s in series:
            if s.panel == panels[k]:
                xs, ys, lows, highs = zip(*s.points, strict=True)
                n = names.index(s.name)
                below = [max(y - low, 0.0) for y, low in zip(ys, lows, strict=True)]
                above = [max(high - y, 0.0) for y, high in zip(ys, highs, strict=True)]
                shown[s.name] = axes.errorbar(
                    xs, ys, [below, above], label=s.name, markersize=4, linewidth=1.2,
                    color=COLOURS[n % len(COLOURS)], marker=MARKERS[n % len(MARKERS)],
                )  # fmt: skip
        axes.set_title(panels[k], fontsize=10)
        axes.grid(visible=True, alpha=0.3)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if spans_little(series) else (1,)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _place: f"{y:,g}"))
        axes.tick_params(labelsize=8)
        if k + across >= len(panels):
            axes.set_xlabel(plot.x_title, fontsize=9)
            axes.tick_params(labelbottom=True)
        if k % across == 0:
            axes.set_ylabel(plot.y_title, fontsize=9)
    values = [p[0] for s in series for p in s.points]
    grid.flat[0].xaxis.set_major_locator(ticker.FixedLocator(ticks(min(values), max(values))))
    text = ticker.FuncFormatter((lambda x, _place: f"{x:.0f}") if plot.counts else size_text)
    grid.flat[0].xaxis.set_major_formatter(text)
    if len(names) > 1 or names[0]:
        picture.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(names), 2 * across), fontsize=9)
    return picture


def shortened(svg: str) -> str:
    """Two digits behind the point, and no indentation: for people's eyes the same."""
    return re.sub(r"\n *", "\n", re.sub(r"(?<=\d\.\d\d)\d+", "", svg))


def draw(
    experiment: Experiment, plot: Plot, rows: Sequence[Row], directory: Path, forms: Iterable[str] = FORMATS,
    prefix: str = "",
) -> list[Path]:  # fmt: skip
    """Write one picture, if the rows are enough; returns the files. Raises ImportError without matplotlib, OSError."""
    series = series_of(experiment, plot, rows)
    if not series:
        return []
    matplotlib = importlib.import_module("matplotlib")
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):  # text stays text
        picture = drawing(plot, series)
        for form in forms:
            files.append(directory / f"{prefix}{plot.name}.{form}")
            picture.savefig(files[-1], dpi=130, metadata={"Date": None} if form == "svg" else None)
            if form == "svg":
                files[-1].write_text(shortened(files[-1].read_text()))
    return files


def write(found: Iterable[tuple[Experiment, Sequence[Row]]], directory: Path) -> list[Path]:
    """All pictures of experiments; returns the files. Raises ImportError without matplotlib, OSError."""
    return [f for e, rows in found for plot in e.plots for f in draw(e, plot, rows, directory)]
