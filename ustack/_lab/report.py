"""Experiments as text: for the terminal, from what goes into JSON."""

from __future__ import annotations

from typing import Any

from ustack._cli.common import table
from ustack._lab.form import number

WIDTH = 110


def cell(row: dict[str, Any], key: str) -> str:
    """A value; behind ~ the distance between its quartiles, in per cent of it."""
    value = row.get(key)
    if value is None:
        return "-" if key in row else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return str(value)
    spread = row.get(f"{key}_iqr")
    if not value or not spread or None in spread:
        return number(value)
    return f"{number(value)} ~{100 * (spread[1] - spread[0]) / abs(value):.0f}%"


def tables_of(experiment: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, cells) of each table: the rows of one ``table``, and the columns that any of them has."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in experiment["rows"]:
        tables.setdefault(row.get("table", ""), []).append(row)
    found = []
    for title, rows in tables.items():
        columns = [c for c in experiment["columns"] if any(c[0] in row for row in rows)]
        heads = [f"{head} [{unit}]" if unit else head for _, head, unit in columns]
        if columns:
            found.append((title, heads, [[cell(row, key) for key, _, _ in columns] for row in rows]))
    return found


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Lines of at most WIDTH characters."""
    lines, line = [], ""
    for word in text.split():
        if line and len(indent) + len(line) + 1 + len(word) > WIDTH:
            lines.append(indent + line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, indent + line] if line else lines


def machine_line(machine: dict[str, Any], mode: str) -> str:
    """The computer and how busy it was, in a line."""
    end = machine.get("background_cpus_at_end")
    busy = f"{machine['background_cpus']:g} CPUs busy with other things at the beginning"
    busy += f", {end:g} at the end" if end is not None else ""
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}, ustack"
        f" {machine['ustack']}; {mode} run, {machine['time']}; {busy}"
    )


def text_of(experiment: dict[str, Any]) -> str:
    """An experiment: how it was measured, its figures, and the verdicts with their rules."""
    lines = [f"{experiment['number']}  {experiment['title']}  ({experiment['seconds']:.1f} s)"]
    if experiment["how"]:
        lines += wrapped("measured: " + experiment["how"])
    if experiment["not_run"]:
        lines += wrapped(experiment["not_run"])
    for title, heads, cells in tables_of(experiment):
        lines += ["", *([f"  {title}"] if title else []), *("  " + line for line in table(cells, heads).splitlines())]
    lines.append("")
    lines += [line for name, why in experiment["missing"].items() for line in wrapped(f"not measured: {name}: {why}")]
    for claim in experiment["claims"]:
        lines += wrapped(f"{claim['number']}: {claim['claim']}")
        lines += wrapped(f"rule: {claim['rule']}", "      ")
        for f in claim["findings"]:
            text = ": ".join(part for part in (f["where"], f["figure"]) if part)
            remark = f" ({f['remark']})" if f["remark"] else ""
            lines += wrapped(f"{f['verdict']} {text}{remark}", "      ")
    return "\n".join(lines)
