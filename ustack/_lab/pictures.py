"""Pictures for ``ustack lab --plots``, from the rows of experiments; drawn by ``ustack._bench.plots``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ustack._bench.plots import Figure, Series, draw, why_not
from ustack._lab.form import Plot, Result, Row

__all__ = ["figures", "why_not", "write"]


def _lines(rows: Sequence[Row], plot: Plot, panel: str) -> list[Series]:
    ys = plot.y.split(",")
    series: dict[str, Series] = {}
    for row in rows:
        for y in ys:
            if row.get(plot.x) and row.get(y):
                name = str(row[plot.line]) if plot.line else y.removesuffix("_ns").replace("_", " ")
                if plot.line and len(ys) > 1:
                    name += " " + y.removesuffix("_ns")
                one = series.setdefault(name, Series(name, panel))
                if all(x != row[plot.x] for x, _ in one.points):  # where columns that are not drawn differ: the first
                    one.points.append((row[plot.x], row[y]))
    for one in series.values():
        one.points.sort()
    return [s for s in series.values() if len(s.points) > 1]


def figures(results: Sequence[Result]) -> list[Figure]:
    """The pictures that the rows are enough for."""
    found: list[Figure] = []
    for result in results:
        for plot in result.experiment.plots:
            panels: dict[Any, list[Row]] = {}
            for row in result.rows:
                panels.setdefault(row.get(plot.panel, "") if plot.panel else "", []).append(row)
            series = [s for key, rows in panels.items() for s in _lines(rows, plot, str(key))]
            if series:
                found.append(Figure(plot.name, plot.title, plot.x_title, plot.y_title, series, sizes=True))
    return found


def write(results: Sequence[Result], directory: Path) -> list[Path]:
    """Draw them and write their numbers; returns the files. Raises ImportError without matplotlib, OSError."""
    return draw(figures(results), directory)
