"""Record the packets of a device in a pcapng file, for Wireshark. The stack that does it has no address."""

from __future__ import annotations

import argparse
import sys
import time

from ustack._cli.common import Failure, link_spec, open_link

HELP = "record the packets of a device (pcapng)"
EPILOG = """\
To record what another command does, give that command --capture FILE.

  ustack capture --link ring:eth1 trace.pcapng
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack capture``."""
    parser.add_argument("file", help="where to write")
    parser.add_argument(
        "--link", type=link_spec, required=True, metavar="LINK", help="tap:NAME or ring:IFACE"
    )
    parser.add_argument("-c", "--count", type=int, help="end after so many packets")
    parser.add_argument("-t", "--time", type=float, metavar="S", help="end after so many seconds")


def run(args: argparse.Namespace) -> int:
    """Record until Ctrl-C, the count or the time."""
    import ustack

    if args.link.kind == "pair":
        raise Failure("--link pair has no traffic of others: choose tap:NAME or ring:IFACE", 2)
    link = ustack.Capture(open_link(args.link), args.file)
    end = time.monotonic() + args.time if args.time is not None else None
    print(f"recording in {args.file}; Ctrl-C ends it", file=sys.stderr, flush=True)
    seen = 0
    with ustack.Stack() as stack:
        stack.add_interface(link)
        try:
            while (args.count is None or seen < args.count) and (end is None or time.monotonic() < end):
                time.sleep(0.05)
                seen = stack.stats().get("link.rx", 0)
        except KeyboardInterrupt:
            pass
        seen = stack.stats().get("link.rx", 0)
    print(f"{seen} packets", file=sys.stderr)
    return 0
