"""Show the stack at work."""

from __future__ import annotations

import argparse

HELP = "show the stack at work against the kernel and itself"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack demo``."""


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    return 0
