"""Print the counters and the copy ledger of running ustack processes of this user."""

from __future__ import annotations

import argparse

from ustack._cli import control
from ustack._cli.common import add_json_argument, print_json, table

HELP = "print counters and copy ledger of running ustack processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack stat``."""
    parser.add_argument("pid", nargs="*", type=int, help="only these processes")
    parser.add_argument("--why", action="store_true", help="say what every name means")
    add_json_argument(parser)


def _meanings() -> tuple[dict[str, str], dict[str, str]]:
    import ustack

    return ustack.counter_meanings(), ustack.ledger_meanings()


def run(args: argparse.Namespace) -> int:
    """Print one block per stack."""
    found = control.running(args.pid)
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no ustack process is running")
    counters, reasons = _meanings() if args.why else ({}, {})
    for document in found:
        for name, stack in document["stacks"].items():
            print(f"{document['pid']} {document['command']}/{name}\n")
            print(
                table(
                    [[k, v, counters.get(k, "")] for k, v in stack["counters"].items()],
                    ["counter", "value", ""],
                )
            )
            print()
            print(
                table(
                    [[k, v["bytes"], v["calls"], reasons.get(k, "")] for k, v in stack["ledger"].items()],
                    ["copies", "bytes", "calls", ""],
                )
            )
            print()
    return 0
