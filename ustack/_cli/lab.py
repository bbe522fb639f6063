"""Measure the claims of a survey of zero-copy techniques on this machine, each with the rule that decides about it.

Every experiment repeats what it measures (15 times; 3 with --quick) and shows the median with the quartiles. Namespaces
and devices that are needed are made for it and removed, also after Ctrl-C, which ends the run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ustack._cli.common import Failure

if TYPE_CHECKING:
    from ustack._lab.form import Result

HELP = "measure the claims about zero copy on this machine"
EPILOG = """\
  ustack lab                          every experiment, at most ten minutes
  ustack lab E1 E3 --quick            two of them, as an impression
  ustack lab all --json lab.json --plots figures

docs/lab.md is a whole run, with what the experiments are about.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack lab``."""
    parser.add_argument("experiments", nargs="*", metavar="E", help="E1 … E25, or all (the default)")
    parser.add_argument("--quick", action="store_true", help="3 short repeats instead of 15: an impression")
    parser.add_argument("--json", metavar="FILE", help="write rows and verdicts there (- for standard output)")
    parser.add_argument("--plots", metavar="DIR", help="draw pictures of the rows there (matplotlib)")
    parser.add_argument("--list", action="store_true", help="what there is")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from ustack._bench.machine import describe
    from ustack._lab import pictures, report
    from ustack._lab.bench import why_no_tap
    from ustack._lab.progress import Progress
    from ustack._lab.registry import choose
    from ustack._lab.run import document, perform_all

    chosen, unknown = choose(args.experiments)
    if unknown:
        raise Failure(f"no experiment is called {', '.join(unknown)}: see  ustack lab --list", 2)
    if args.list:
        for e in chosen:
            print(f"{e.number:4} {e.title}" + (f": {e.absent}" if e.absent else ""))
        return 0
    if args.plots and (why := pictures.why_not()):
        raise Failure(why, 2)
    if args.json and args.json != "-":
        open(args.json, "a").close()        # to fail now, not after minutes
    out = sys.stderr if args.json == "-" else sys.stdout
    if any(e.taps for e in chosen):
        why_no_tap()  # enters a user namespace where that is needed: before there are threads
    before = describe()
    mode = "quick" if args.quick else "full"
    print(report.machine_line(before, mode), file=out)

    def tell(result: Result) -> None:
        print("\n" + report.text_of(result.as_json()), file=out, flush=True)

    results = perform_all(chosen, args.quick, Progress(sys.stderr, len(chosen)), tell)
    if args.json:
        text = json.dumps(document(results, args.quick, before), indent=1) + "\n"
        if args.json == "-":
            print(text, end="")
        else:
            Path(args.json).write_text(text)
    if args.plots:
        for file in pictures.write([(r.experiment, r.rows) for r in results], Path(args.plots)):
            print(file, file=out)
    done = any(not r.not_run for r in results) or all(r.experiment.absent for r in results)
    return 1 if not done or any(r.failed for r in results) else 0
