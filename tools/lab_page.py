#!/usr/bin/env python3
"""The figures and verdicts of docs/lab.md, as Markdown, from what ``ustack lab --json`` wrote.

    ustack lab all --json lab.json
    tools/lab_page.py lab.json                      prints them
    tools/lab_page.py lab.json --into docs/lab.md

The page has a pair of marks for the machine, for the verdicts in short, and for each experiment; ``--into`` replaces
what lies between the marks that the page has. An experiment that the run lacks keeps what it has. A few pictures are
drawn as figures/lab_NAME.svg beside the page, and shown in it; without matplotlib there are none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ustack._lab import pictures
from ustack._lab.form import CONFIRMED, NOT_MEASURABLE, REFUTED
from ustack._lab.registry import EXPERIMENTS
from ustack._lab.report import machine_line, tables_of

SHOWN = ("e2_packets", "e3_checksum", "e5_senders", "e13_written", "e14_flip", "e21_completions")


def begin(name: str) -> str:
    """The mark in front of a generated part."""
    return f"<!-- {name}: tools/lab_page.py -->\n"


def end(name: str) -> str:
    """The mark behind it."""
    return f"<!-- end of {name} -->\n"


def escaped(text: str) -> str:
    """For a cell of a table."""
    return text.replace("|", "\\|")


def markdown_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]


def machine(document: dict[str, Any]) -> str:
    """The computer, and how long the run took."""
    line = machine_line(document["machine"], document["mode"])
    return f"{line}. The run took {document['seconds']:.0f} s.\n"


def tally(claim: dict[str, Any]) -> str:
    """The verdict on a claim over all configurations, in short."""
    verdicts = [f["verdict"] for f in claim["findings"]]
    if len(set(verdicts)) == 1 and len(verdicts) > 1 and verdicts[0] != NOT_MEASURABLE:
        return f"{verdicts[0]} ({len(verdicts)} of {len(verdicts)})"
    if len(set(verdicts)) == 1:
        return str(verdicts[0])
    parts = [f"{v} in {verdicts.count(v)}" for v in (CONFIRMED, REFUTED, NOT_MEASURABLE) if v in verdicts]
    return f"{', '.join(parts)} of {len(verdicts)}"


def verdicts(document: dict[str, Any]) -> str:
    """Every claim in a line."""
    rows = [
        [f"[{e['number']}](#{e['number'].lower()})", c["number"], c["claim"], tally(c)]
        for e in document["experiments"] for c in e["claims"]
    ]  # fmt: skip
    return "\n".join(markdown_table(["experiment", "", "claim", "verdict"], rows)) + "\n"


def part(experiment: dict[str, Any], page: Path | None = None) -> str:
    """How it was measured, the tables, pictures (drawn beside the page), the verdicts with their rules."""
    lines: list[str] = []
    if experiment["how"]:
        lines += [f"*Measured:* {experiment['how']}", ""]
    if experiment["not_run"]:
        lines += [f"{experiment['not_run'][:1].upper()}{experiment['not_run'][1:]}.", ""]
    for title, heads, rows in tables_of(experiment):
        lines += [*([f"**{title}**", ""] if title else []), *markdown_table(heads, rows), ""]
    lines += [line for title, path in drawn(experiment, page) for line in (f"![{title}]({path})", "")]
    lines += [f"Not measured: {name}: {why}\n" for name, why in experiment["missing"].items()]
    for c in experiment["claims"]:
        lines += [f"**{c['number']}**: {c['claim']}.  \nRule: {c['rule']}.", ""]
        for f in c["findings"]:
            text = ": ".join(escaped(x) for x in (f["where"], f["figure"]) if x)
            remark = f" ({f['remark']})" if f["remark"] else ""
            lines.append(f"- **{f['verdict']}**{' ' if text else ''}{text}{remark}")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def drawn(experiment: dict[str, Any], page: Path | None) -> Iterator[tuple[str, str]]:
    """Draw the pictures of an experiment that are shown beside the page: (title, path from there)."""
    known = EXPERIMENTS.get(experiment["number"])
    if page is None or known is None or pictures.why_not():
        return
    for plot in known.plots:
        if plot.name in SHOWN:
            for file in pictures.draw(known, plot, experiment["rows"], page.parent / "figures", ["svg"], "lab_"):
                yield plot.title, f"figures/{file.name}"


def parts(document: dict[str, Any], page: Path | None = None) -> Iterator[tuple[str, str]]:
    """(name of the marks, text) of everything that a run says."""
    yield "machine", machine(document)
    yield "verdicts", verdicts(document)
    for experiment in document["experiments"]:
        yield experiment["number"], part(experiment, page)


def replaced(page: str, name: str, text: str) -> str:
    """The page with another text between two marks. Raises ValueError without them."""
    first, last = begin(name), end(name)
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise ValueError(f"the page needs a line {first.strip()} and, after it, one {last.strip()}")
    return page[: page.index(first) + len(first)] + "\n" + text + "\n" + page[page.index(last) :]


def main(argv: list[str] | None = None) -> int:
    """Print, or write into a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, metavar="JSON", help="of ustack lab --json")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="replace the generated parts of a page")
    args = parser.parse_args(argv)
    document = json.loads(args.file.read_text())
    if args.into is None:
        for name, text in parts(document):
            print(f"## {name}\n\n{text}")
        return 0
    page = args.into.read_text()
    if why := pictures.why_not():
        print(f"{args.into}: no pictures: {why}", file=sys.stderr)
    try:
        for name, text in parts(document, args.into):
            page = replaced(page, name, text)
    except ValueError as e:
        print(f"{args.into}: {e}", file=sys.stderr)
        return 1
    args.into.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
