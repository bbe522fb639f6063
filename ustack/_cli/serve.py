"""Serve a well-known service over a stack in user space, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from ustack._cli.common import Failure, LinkSpec, add_stack_arguments, port_number, stack_from
from ustack._cli.services import PORTS, Service

HELP = "serve echo, discard, chargen or HTTP"
EPILOG = """\
echo, discard and chargen (RFC 862, 863, 864) answer on TCP and UDP. http serves the files of a folder, and
/bytes/N: N zero bytes made on the way.

example (as root; the kernel is the peer):
  ustack serve http --link tap:us0 --address 10.9.0.2/24 &
  ip address add 10.9.0.1/24 dev us0
  curl http://10.9.0.2/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack serve``."""
    parser.add_argument("service", choices=sorted(PORTS))
    parser.add_argument("-p", "--port", type=port_number, help="instead of the service's well-known port")
    parser.add_argument(
        "-d", "--directory", default=".", help="http: the folder to serve (default: this one)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of connections and requests")
    add_stack_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the end."""
    if isinstance(args.link, LinkSpec) and args.link.kind == "pair":
        raise Failure("--link pair ends inside this process, nobody could connect: choose tap: or ring:", 2)
    if args.service == "http" and not Path(args.directory).is_dir():
        raise Failure(f"{args.directory} is not a folder", 2)

    def log(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with stack_from(args, f"serve {args.service}") as net:
        host = net.address.partition("/")[0]
        with Service(
            net.stack,
            args.service,
            host,
            args.port,
            directory=args.directory,
            log=None if args.quiet else log,
        ) as service:
            log(f"serving {args.service} on {host} port {service.port}; Ctrl-C ends it")
            threading.Event().wait()
    return 0
