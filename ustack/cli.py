"""The ``ustack`` command: one file per subcommand in ``ustack/_cli``."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ustack._cli.common import Failure

__all__ = ["main"]

# In the order of the help. Each is a module of ustack._cli with HELP, add_arguments(parser) and run(args).
COMMANDS = ["demo", "ping", "nc", "serve", "bench", "lab", "capture", "ss", "stat"]

EPILOG = """\
links:
  tap:NAME    a TAP device of that name, made if it is not there (needs /dev/net/tun)
  tun:NAME    the same without Ethernet: packets of IPv4 and IPv6
  ring:IFACE  mmap'd packet rings on a network device (needs CAP_NET_RAW); the device must
              not carry our address, or the kernel answers our peers with resets
  xdp:IFACE   AF_XDP on queue 0 of a network device, past the kernel's stack (needs root); the other end of a veth
              must complete its checksums: ethtool -K DEVICE tx off
  pair        no device: a second stack inside the process is the peer

exit status: 0 done; 1 it failed, a line says why; 2 wrong arguments; 130 Ctrl-C
"""


def _parser() -> argparse.ArgumentParser:
    from ustack import __version__

    parser = argparse.ArgumentParser(
        prog="ustack",
        description="A TCP/IP stack in user space: programs to try it, use it and look into it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ustack {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"ustack._cli.{name}")
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # unwinds, so that devices and programs are removed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` by default); returns the exit status."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return int(args.run(args) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output is gone; nothing more can be said, not even by the interpreter as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Failure as e:
        print(f"ustack {args.command}: {e}", file=sys.stderr)
        return e.status
    except OSError as e:
        what = f"{e.filename}: " if e.filename else ""
        print(f"ustack {args.command}: {what}{e.strerror or e}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
