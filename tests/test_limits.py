"""docs/limits.md says what the sources say: every constant, its value, every counter."""

import re

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "limits.md").read_text()
COUNTERS = dict(re.findall(r'X\((C_\w+),\s*"([\w.]+)"', (ROOT / "ext/base/counters.h").read_text()))
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
STATED = r"(\d[\d,]*)(?:/16)?( KiB| MiB| GiB)?(?: \w+)*? = `([A-Z]\w+)`"

# Table rows, and sentences that name the file behind the constant.
ROWS = [(row, re.findall(r"`(ext/[\w./]+)`", row)) for row in PAGE.split("\n")
        if row.startswith("|") and "`ext/" in row]
STATEMENTS = [(name, number, unit, files[0]) for row, files in ROWS for number, unit, name in re.findall(STATED, row)]
STATEMENTS += [(name, number, unit, file) for number, unit, name, file in
               re.findall(STATED + r"\s+\(`(ext/[\w./]+)`\)", "\n".join(
                   line for line in PAGE.split("\n") if not line.startswith("|")))]

# Constants whose names end like a bound, and which are none, or are told of elsewhere.
NO_BOUNDS = {"TCP_MAX_SACK", "EV_MAX"}


def constant(text: str, name: str) -> int:
    found = re.search(rf"^\s*{name} = ([\d *<()]+?)\s*(?:#.*)?$", text, re.M)
    assert found, f"there is no {name}"
    return int(eval(found[1], {}))


@pytest.mark.parametrize(("name", "number", "unit", "file"), STATEMENTS, ids=[f"{s[3]}:{s[0]}" for s in STATEMENTS])
def test_a_bound_is_that_of_the_source(name: str, number: str, unit: str, file: str):
    stated = int(number.replace(",", "")) * UNITS.get(unit.strip(), 1)
    assert constant((ROOT / file).read_text(), name) == stated


def test_every_row_has_its_file():
    for row, files in ROWS:
        assert len(files) == 1, row
        assert (ROOT / files[0]).exists(), row
    assert len(STATEMENTS) > 40


def test_the_least_budget():
    assert "256 KiB" in PAGE
    assert "1 << 18 <= memory" in (ROOT / "ext/py/stack.pyx").read_text()


def test_the_counters_exist():
    named = {name for row, _ in ROWS for name in re.findall(r"`((?:link|arp|ip|icmp|udp|tcp|nd)\.\w+)`", row)}
    assert named <= set(COUNTERS.values())
    assert len(named) > 20


def test_every_counter_of_a_bound_is_on_the_page():
    """A counter whose name says that something was full, or limited, belongs here."""
    full = {name for name in COUNTERS.values() if re.search(r"limit|full|rcvbuf|_memory|evicted|nomem", name)}
    missing = {name for name in full if f"`{name}`" not in PAGE} - {"pipe.full", "tcp.abort_nomem", "tcp.undo_full"}
    assert not missing


def test_every_constant_that_bounds_something_is_on_the_page():
    missing = []
    for path in sorted((ROOT / "ext").glob("*/*.p[xy][dx]")):
        if path.parent.name in ("base", "simd", "sys", "wire", "link") or path.stem.startswith(("probe", "bench")):
            continue
        for name in re.findall(r"^\s+(\w*_(?:MAX|LIMIT|PER_SECOND|RETRIES)) = ", path.read_text(), re.M):
            missing += [f"{path.parent.name}/{path.name}: {name}"] if f"`{name}`" not in PAGE else []
    allowed = {"QUOTE_MAX", "SPAN_MAX", "RTO_MAX", "RING_MAX", "GROW_SHIFT_MAX", "WAKE_MAX"}
    assert [m for m in missing if m.split(": ")[1] not in NO_BOUNDS | allowed] == []
