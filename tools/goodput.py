"""Measure what a bad cable leaves of a TCP stream, in virtual time: the same numbers on every machine.

    tools/goodput.py [--loss P]... [--seeds N] [--size BYTES] [--rate BITS] [--rtt SECONDS] [--reorder P]

One row per probability of loss: the goodput in Mbit/s (median of the seeds, and the worst), the share of what was sent
again, and the counters of recovery, all seeds together. Losses hit data and ACKs alike.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from statistics import median

from ustack import sim

SHOWN = ("tcp.rto", "tcp.fast_retransmit", "tcp.tlp_probes", "tcp.spurious")


@dataclass
class Row:
    """What one probability of loss came to."""

    loss: float
    mbits: list[float]
    resent: float
    counters: Counter[str]


def measure(loss: float, args: argparse.Namespace) -> Row:
    """Run every seed for one probability of loss."""
    speeds: list[float] = []
    counters: Counter[str] = Counter()
    for seed in range(args.seeds):
        with sim.Network(f"goodput {seed}", trace=False) as net:
            a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
            net.link(a, b, loss=loss, reorder=args.reorder, delay=args.rtt / 2, rate=args.rate, queue=args.queue)
            flow = net.flow(a, b, args.size)
            began = net.now_ns
            net.run()
            assert flow.exact
            speeds.append(args.size * 8e3 / (net.now_ns - began))
            counters.update(a.stack.stats())
    again = counters["tcp.retransmitted_bytes"] / max(1, counters["tcp.tx_bytes"])
    return Row(loss, speeds, again, counters)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", type=float, action="append", help="probability per packet (default 0.01 0.03 0.05)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--size", type=int, default=4_000_000, help="bytes per transfer")
    parser.add_argument("--rate", type=float, default=100e6, help="bits per second of the cable")
    parser.add_argument("--rtt", type=float, default=0.02, help="seconds")
    parser.add_argument("--reorder", type=float, default=0.0, help="probability per packet")
    parser.add_argument("--queue", type=int, default=200, help="packets of room in front of the cable")
    args = parser.parse_args()
    print(f"{'loss':>6} {'Mbit/s':>8} {'worst':>8} {'again':>7}  {'  '.join(SHOWN)}")
    for loss in args.loss or (0.01, 0.03, 0.05):
        row = measure(loss, args)
        shown = "  ".join(f"{row.counters[name]:>{len(name)}}" for name in SHOWN)
        print(f"{loss:>6.1%} {median(row.mbits):>8.2f} {min(row.mbits):>8.2f} {row.resent:>7.2%}  {shown}")


if __name__ == "__main__":
    main()
