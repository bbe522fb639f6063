#!/usr/bin/env python3
"""The figures of docs/performance.md, as Markdown, from what ``ustack bench --json`` wrote.

    ustack bench --json rows.json
    tools/bench_table.py rows.json                          prints the table
    tools/bench_table.py rows.json --into docs/performance.md

Several files are one run in parts: a row that is in more than one is taken from the last.
``--into`` replaces what lies between the two marks of the page.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: tools/bench_table.py -->\n", "<!-- end of figures -->\n"


def number(x: float | None) -> str:
    """Three digits; large numbers whole, with commas; - for none."""
    if x is None or not math.isfinite(x):
        return "-"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def verdict(row: dict[str, Any]) -> str:
    """Whether it holds, and how many of the rounds do."""
    notes = row["notes"]
    if notes.get("holds") is None:
        return ""
    return "yes" if notes["holds"] else "**no**"


def line(row: dict[str, Any]) -> str:
    """One row."""
    notes = row["notes"]
    sign = "≥" if row["better"] == "higher" else "≤"
    target = f"{sign} {notes['target']:g}" if "target" in notes else ""
    aim = f"{notes['aim']:g}" if "aim" in notes else ""
    low, high = notes["spread"]
    cells = [
        f"`{notes['full_name']}`", number(row["ustack"]), number(row["baseline"]), row["unit"],
        f"{row['ratio']:.2f} ({low:.2f} .. {high:.2f})", target, aim, verdict(row), row["baseline_name"],
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(documents: list[dict[str, Any]]) -> str:
    """The machine in a sentence, the table, and what did not run."""
    machine = documents[-1]["machine"]
    rows = {row["notes"]["full_name"]: row for d in documents for row in d["rows"]}
    rounds = max((row["rounds"] for row in rows.values()), default=0)
    text = [
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}; at most"
        f" {rounds} rounds; {machine['background_cpus']:g} CPUs busy with other things at the end.",
        "",
        "| row | ustack | baseline | unit | ratio (least .. most) | target | aim | holds | against |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(line, rows.values()),
    ]
    failed = {name: why for d in documents for name, why in d["not_run"].items() if name not in rows}
    text += [f"\nNot run: `{name}`: {why}" for name, why in failed.items()]
    return "\n".join(text) + "\n"


def replaced(page: str, text: str) -> str:
    """The page with other figures. Raises ValueError without the marks."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs a line {BEGIN.strip()} and, after it, one {END.strip()}")
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + text + "\n" + page[page.index(END) :]


def main(argv: list[str] | None = None) -> int:
    """Print, or write into a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON", help="of ustack bench --json")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="replace the figures of a page")
    args = parser.parse_args(argv)
    text = table([json.loads(f.read_text()) for f in args.files])
    if args.into is None:
        print(text, end="")
        return 0
    try:
        args.into.write_text(replaced(args.into.read_text(), text))
    except ValueError as e:
        print(f"{args.into}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
