"""Send ICMP echo requests from a stack in user space and report round-trip times."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from ustack._cli.common import (
    Failure,
    add_json_argument,
    add_stack_arguments,
    host_address,
    print_json,
    stack_from,
)

HELP = "measure round trips with ICMP echo"
EPILOG = """\
exit status: 0 if an answer came, 1 if none did

  ustack ping --link pair 10.9.0.1          needs no privilege: the peer is in this process
  ustack ping --link tap:us0 10.9.0.1       the kernel, at the other end of the TAP
  ustack ping --link tun:us0 --address fd00::2/64 fd00::1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack ping``."""
    parser.add_argument("host", type=host_address)
    parser.add_argument("-c", "--count", type=int, default=4, help="how many (default 4; 0: until Ctrl-C)")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="S", help="seconds between two")
    parser.add_argument("-s", "--size", type=int, default=56, help="payload bytes, 0 to 65507 (default 56)")
    parser.add_argument(
        "-W", "--timeout", type=float, default=2.0, metavar="S", help="seconds to wait for one"
    )
    add_json_argument(parser)
    add_stack_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ping and print; 0 if anything came back."""
    if not 0 <= args.size <= 65507:
        raise Failure(f"--size {args.size}: a payload has 0 to 65507 bytes", 2)
    times: list[float] = []
    sent = 0
    with stack_from(args, "ping") as net:
        try:
            while not args.count or sent < args.count:
                if sent:
                    time.sleep(args.interval)
                sent += 1
                try:
                    rtt = net.stack.ping(args.host, size=args.size, timeout=args.timeout, sequence=sent & 0xFFFF)
                except TimeoutError:
                    _say(args, f"no answer from {args.host}: seq={sent}")
                except OSError as e:
                    _say(args, f"{args.host}: seq={sent}: {e.strerror or e}")
                else:
                    times.append(rtt)
                    _say(args, f"{args.size} bytes from {args.host}: seq={sent} time={rtt * 1e3:.3f} ms")
        except KeyboardInterrupt:
            print(file=sys.stderr)
    _summary(args, sent, times)
    return 0 if times else 1


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        print(text, flush=True)


def _summary(args: argparse.Namespace, sent: int, times: list[float]) -> None:
    result = {"host": args.host, "size": args.size, "sent": sent, "received": len(times)}
    if times:
        result |= {
            "min_us": min(times) * 1e6,
            "p50_us": statistics.median(times) * 1e6,
            "max_us": max(times) * 1e6,
        }
    if args.json:
        print_json(result)
        return
    print(f"{sent} sent, {len(times)} received")
    if times:
        print(
            f"min {result['min_us']:.0f} us, median {result['p50_us']:.0f} us, max {result['max_us']:.0f} us"
        )
