"""Show the stack at work: against the Linux kernel and against itself, on wires that are made for it.

Each scene pings, bounces bytes off a TCP echo service, downloads a file over HTTP and checks its SHA-256, and
moves bulk data both ways; a table compares with the kernel's own TCP in the same run. The wires are removed
afterwards, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ustack._cli.common import Failure, add_json_argument, print_json, size, table

if TYPE_CHECKING:
    from ustack._demo.measure import Result
    from ustack._demo.scenes import Scene

HELP = "show the stack at work against the kernel and itself"
EPILOG = """\
scenes:
  kernel  the kernel at both ends of a veth: what the others are compared with
  a       ustack and the kernel over a TAP               (needs /dev/net/tun)
  b       ustack and the kernel over a veth with packet rings
  c       two ustack processes over a veth with packet rings
  d       two ustack endpoints in one process            (needs no privilege at all)
  e       ustack on a TAP and ustack on packet rings of the TAP's own device (needs /dev/net/tun)

What cannot run here is named with its remedy; that is no failure.
"""
BAR = 24
NEGLIGIBLE = 0.0005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack demo``."""
    parser.add_argument("--unprivileged", action="store_true", help="only what needs no privilege: scene d")
    parser.add_argument("--only", metavar="SCENES", help="only these, as in --only kernel,a,d")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each bulk transfer (default 2)")
    parser.add_argument("--rounds", type=int, default=3000, help="of the echo (default 3000)")
    parser.add_argument(
        "--file-size", type=int, default=32, metavar="MB", help="of the download (default 32)"
    )
    add_json_argument(parser)


class _Bar:
    """A progress line on stderr; on something that is no terminal, one line per step."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.tty = sys.stderr.isatty()
        self.step = ""

    def __call__(self, step: str, fraction: float, note: str = "") -> None:
        """Draw it."""
        if self.tty:
            done = int(min(fraction, 1.0) * BAR)
            bar = "#" * done + "." * (BAR - done)
            sys.stderr.write(f"\r\x1b[K{self.title}  {step:9} [{bar}] {note}")
            sys.stderr.flush()
        elif step != self.step:
            self.step = step
            print(f"{self.title}: {step}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take it away."""
        if self.tty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _chosen(args: argparse.Namespace) -> list[Scene]:
    from ustack._demo.scenes import SCENES

    if args.unprivileged:
        return [s for s in SCENES if not s.needs]
    if not args.only:
        return SCENES
    keys = args.only.split(",")
    if unknown := set(keys) - {s.key for s in SCENES}:
        raise Failure(
            f"there is no scene {', '.join(sorted(unknown))}: {', '.join(s.key for s in SCENES)}", 2
        )
    return [s for s in SCENES if s.key in keys]


def _obstacles(scenes: list[Scene]) -> dict[str, str]:
    """What the scenes need and this machine or user does not have, with the remedy."""
    from ustack import testbed

    found: dict[str, str] = {}
    if any("namespaces" in s.needs for s in scenes) and (why := testbed.enter_user_namespace()):
        found["namespaces"] = why
    if any("tun" in s.needs for s in scenes) and (why := testbed.why_no_tun()):
        found["tun"] = why
    return found


def run(args: argparse.Namespace) -> int:
    """Play the scenes, print the tables."""
    if args.seconds <= 0 or args.rounds < 10 or args.file_size < 1:
        raise Failure("--seconds must be positive, --rounds at least 10, --file-size at least 1", 2)
    from ustack._demo.scenes import Run

    scenes = _chosen(args)
    obstacles = _obstacles(scenes)
    results: dict[str, Result] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ustack-demo-") as folder:
        file = Path(folder) / "random.bin"
        with file.open("wb") as f:
            for _ in range(args.file_size):
                f.write(os.urandom(1_000_000))
        for scene in scenes:
            if missing := [obstacles[need] for need in scene.needs if need in obstacles]:
                left_out[scene.key] = missing[0]
                continue
            bar = _Bar(scene.title)
            try:
                results[scene.key] = scene.play(Run(file, args.seconds, args.rounds, bar))
            except (OSError, RuntimeError) as e:
                failed[scene.key] = f"{type(e).__name__}: {e}"
            finally:
                bar.close()
    if args.json:
        print_json(
            {"results": {k: asdict(r) for k, r in results.items()}, "left_out": left_out, "failed": failed}
        )
    else:
        _report(scenes, results, left_out, failed)
    return 1 if failed else 0


def _report(
    scenes: list[Scene], results: dict[str, Result], left_out: dict[str, str], failed: dict[str, str]
) -> None:
    base = results.get("kernel")
    rows = []
    for scene in scenes:
        if r := results.get(scene.key):
            compare = base is not None and r is not base
            rows.append([
                scene.title, f"{r.ping * 1e6:.0f}", f"{r.rtt_p50 * 1e6:.1f}", f"{r.rtt_p99 * 1e6:.1f}",
                f"{r.up / 1e9:.2f}", f"{r.up / base.up:.2f}" if base and compare else "",
                f"{r.down / 1e9:.2f}", f"{r.down / base.down:.2f}" if base and compare else "", "ok",
            ])  # fmt: skip
        else:
            rows.append([scene.title, *[""] * 7, "FAILED" if scene.key in failed else "not run"])
    header = ["", "ping us", "RTT p50 us", "p99 us", "out Gbit/s", "x kernel", "in Gbit/s", "x kernel", "SHA-256"]
    print(table(rows, header))
    _report_ledgers(scenes, results)
    titles = {s.key: s.title for s in scenes}
    for key, why in left_out.items():
        print(f"\nnot run: {titles[key]}: {why}")
    for key, why in failed.items():
        print(f"\nFAILED: {titles[key]}: {why}")


def _report_ledgers(scenes: list[Scene], results: dict[str, Result]) -> None:
    rows = []
    for scene in scenes:
        if (r := results.get(scene.key)) is None:
            continue
        for who, ledger in r.ledger.items():
            moved = {"tx": r.sent, "rx": r.received} if who == "ours" else {"tx": r.received, "rx": r.sent}
            for reason, (n, calls) in sorted(ledger.items(), key=lambda item: -item[1][0]):
                per_byte = n / max(1, moved["tx" if "tx" in reason.split(".") else "rx"])
                if per_byte >= NEGLIGIBLE:
                    rows.append([f"{scene.title}: {who}", reason, size(n), calls, f"{per_byte:.3f}"])
    if rows:
        print("\nThe copy ledger: payload bytes copied or summed, in all and per byte sent (tx) or received (rx);")
        print("device.*: moved by the kernel. Shares below 0.001 are left out.\n")
        print(table(rows, ["", "reason", "bytes", "calls", "per byte"]))
