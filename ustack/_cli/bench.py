"""Measure the stack against the kernel: in the same run, in paired rounds, on wires that are made for it.

The ratio of a row is the median of the paired ratios ustack / kernel; a row holds when the median reaches the target
and so do at least 5 of 7 rounds. The wires are removed afterwards, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ustack._cli.common import Failure, table

if TYPE_CHECKING:
    from ustack._bench.cases import AnyCase
    from ustack._bench.form import Row

HELP = "measure the stack against the kernel"
EPILOG = """\
A full name ends in wait (block, spin), placement (same, cross: both ends on one core, or one on each) and
api (python, c). A name may be the beginning of others: it stands for all below it.

  ustack bench                              the default rows, a few minutes
  ustack bench tcp.rtt --quick              everything below tcp.rtt, short rounds
  ustack bench tcp.rtt.tap.spin.cross.python --json -
  ustack bench --plots figures              the figures alone; with names, those rows as well

docs/performance.md says what each row measures.
"""
QUICK_ROUNDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack bench``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows, or beginnings of their names")
    parser.add_argument("--json", metavar="FILE", help="write the rows there (- for standard output)")
    parser.add_argument("--plots", metavar="DIR", help="draw throughput, round trips and CPU time there (matplotlib)")
    parser.add_argument("--rounds", type=int, help="paired rounds of each row (default 7)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} short rounds: an impression")
    parser.add_argument("--list", action="store_true", help="what there is, and which rows run by default (*)")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from ustack._bench.cases import CASES, choose
    from ustack._bench.form import ROUNDS

    if args.list:
        from ustack._bench.about import ABOUT

        for name in dict.fromkeys(case.name for case in CASES):
            print(f"{name}: {ABOUT[name]}")
            for case in CASES:
                if case.name == name:
                    print(f"  {'*' if case.default else ' '} {case.full_name}")
        return 0
    cases, unknown = choose(args.names)
    if unknown:
        raise Failure(f"no row is called {', '.join(unknown)}: see  ustack bench --list", 2)
    rounds = args.rounds if args.rounds is not None else QUICK_ROUNDS if args.quick else ROUNDS
    if rounds < 1:
        raise Failure("--rounds must be at least 1", 2)
    if args.json and args.json != "-":
        open(args.json, "a").close()        # to fail now, not after minutes
    if args.plots:
        plot(Path(args.plots), rounds, args.quick)
        if not args.names:
            return 0
    rows, failed = measure(cases, rounds, args.quick)
    text = report(rows, failed)
    if args.json == "-":
        print(text, file=sys.stderr)
        json.dump(document(rows, failed), sys.stdout, indent=1)
        print()
    else:
        print(text)
        if args.json:
            with open(args.json, "w") as f:
                json.dump(document(rows, failed), f, indent=1)
                f.write("\n")
    return 1 if failed else 0


def _obstacles(cases: list[AnyCase]) -> dict[str, str]:
    """Wires that cannot be had here, with the remedy."""
    from ustack import testbed
    from ustack._bench.cases import Case

    wires = {c.wire for c in cases if isinstance(c, Case)}
    if not wires:
        return {}
    if why := testbed.enter_user_namespace():
        return dict.fromkeys(wires, why)
    tuns = wires & {"tap", "tap1500", "pipe"}
    if tuns and (why := testbed.why_no_tun()):
        return dict.fromkeys(tuns, why)
    return {}


def _teller() -> Callable[[str], None]:
    """Shows on a terminal what is being measured."""
    tty = sys.stderr.isatty()

    def tell(text: str) -> None:
        if tty:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return tell


def plot(directory: Path, rounds: int, quick: bool) -> None:
    """Measure for the figures and draw them."""
    from ustack import testbed
    from ustack._bench import plots
    from ustack._bench.beds import Beds, WorkerFailed
    from ustack._bench.runner import CannotRun, Runner

    if why := plots.why_not():
        raise Failure(why, 2)
    directory.mkdir(parents=True, exist_ok=True)
    if why := testbed.enter_user_namespace() or testbed.why_no_tun():
        raise Failure(why)
    tell = _teller()
    with Beds() as beds:
        try:
            figures = plots.measure(Runner(beds, rounds, quick, tell))
        except (WorkerFailed, CannotRun) as e:
            raise Failure(str(e)) from None
    tell("")
    for file in plots.draw(figures, directory):
        print(file)


def measure(cases: list[AnyCase], rounds: int, quick: bool) -> tuple[list[Row], dict[str, str]]:
    """Rows of the cases, and why others could not be measured, by full name."""
    from ustack._bench.beds import Beds, WorkerFailed
    from ustack._bench.cases import Case
    from ustack._bench.runner import CannotRun, Runner

    obstacles = _obstacles(cases)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    tty = sys.stderr.isatty()
    tell = _teller()

    # One wire and wait mode after the other: making a bed takes longer than a round.
    order = sorted(cases, key=lambda c: (c.wire, c.wait) if isinstance(c, Case) else ("", ""))
    with Beds() as beds:
        runner = Runner(beds, rounds, quick, tell)
        for case in order:
            if isinstance(case, Case) and (why := obstacles.get(case.wire)):
                failed[case.full_name] = why
                continue
            began = time.monotonic()
            try:
                row = runner.run(case)
            except (WorkerFailed, CannotRun, OSError) as e:
                failed[case.full_name] = str(e)
                if isinstance(case, Case) and not isinstance(e, CannotRun):
                    beds.drop_all()  # whatever is left of the bed is in an unknown state
            else:
                rows.append(row)
                if not tty:
                    line = f"{row.full_name}  {row.ratio:.2f}  ({time.monotonic() - began:.0f} s)"
                    print(line, file=sys.stderr, flush=True)
    if tty:
        print("\r\x1b[K", end="", file=sys.stderr)
    places = {c.full_name: k for k, c in enumerate(cases)}
    rows.sort(key=lambda r: places[r.full_name])
    return rows, failed


def document(rows: list[Row], failed: dict[str, str]) -> dict[str, Any]:
    """What ``--json`` writes."""
    from ustack._bench.machine import describe

    return {"machine": describe(), "rows": [r.as_json() for r in rows], "not_run": failed}


def _number(x: float) -> str:
    if not math.isfinite(x):
        return "-"
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def report(rows: list[Row], failed: dict[str, str]) -> str:
    """The table, the rows for the bare names marked, and what could not be run."""
    from ustack._bench.form import headline

    lines = []
    if rows:
        heads = {id(headline(rows, r.name)) for r in rows}
        cells = []
        for r in rows:
            low, high = r.spread
            verdict = {None: "", True: "holds", False: "missed"}[r.holds]
            sign = ">=" if r.better == "higher" else "<="
            cells.append([
                ("* " if id(r) in heads else "  ") + r.full_name, _number(r.ustack), _number(r.baseline), r.unit,
                f"{r.ratio:.2f}", f"{low:.2f} .. {high:.2f}", f"{sign} {r.target:g}" if r.target is not None else "",
                verdict, r.baseline_name,
            ])  # fmt: skip
        lines.append(table(cells, ["", "ustack", "baseline", "unit", "ratio", "spread", "target", "", "against"]))
        lines.append("\n* the row that stands for its bare name: Python, blocking, the better placement")
    lines += [f"\nnot run: {name}: {why}" for name, why in failed.items()]
    return "\n".join(lines)
