"""List the connections and listeners of running ustack processes of this user."""

from __future__ import annotations

import argparse

from ustack._cli import control
from ustack._cli.common import add_json_argument, endpoint_text, print_json, table

HELP = "list the sockets of running ustack processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack ss``."""
    parser.add_argument("pid", nargs="*", type=int, help="only these processes")
    add_json_argument(parser)


def _endpoint(value: object) -> str:
    return endpoint_text(value[0], value[1]) if isinstance(value, (list, tuple)) else str(value)


def run(args: argparse.Namespace) -> int:
    """Print one row per socket."""
    found = control.running(args.pid)
    rows = [
        {"pid": d["pid"], "command": d["command"], "stack": name} | s
        for d in found
        for name, stack in d["stacks"].items()
        for s in stack["sockets"]
    ]
    if args.json:
        print_json(rows)
    elif not found:
        print("no ustack process is running")
    else:
        header = ["state", "recv-q", "send-q", "local", "remote", "rtt", "process"]
        print(
            table(
                [
                    [
                        r["state"],
                        r.get("recv_q", ""),
                        r.get("send_q", ""),
                        _endpoint(r["local"]),
                        _endpoint(r["remote"]),
                        f"{r['rtt'] * 1e6:.0f} us" if r.get("rtt") else "",
                        f"{r['pid']} {r['command']}/{r['stack']}",
                    ]
                    for r in rows
                ],
                header,
            )
        )
    return 0
