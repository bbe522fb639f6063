"""The other endpoint of a scene, a process of its own: the services of ``ustack serve`` over one stack.

    python -m ustack._demo.peer {kernel | ring:IFACE} ADDRESS/PREFIX FOLDER

Prints ``ready``; ends with its standard input, and prints the ledger of its stack as its last line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from ustack._cli.services import PORTS, Service
from ustack._demo.kernel import Kernel


def main(wire: str, address: str, folder: str) -> None:
    """Serve until standard input ends."""
    import ustack

    host = address.partition("/")[0]
    with contextlib.ExitStack() as stack:
        net: Any
        if wire == "kernel":
            net = Kernel()
        else:
            net = stack.enter_context(ustack.Stack())
            net.add_interface(ustack.PacketRing(wire.removeprefix("ring:")), addresses=[address])
        for kind in PORTS:
            stack.enter_context(Service(net, kind, host, directory=folder))
        print("ready", flush=True)
        sys.stdin.read()
        ledger = {} if wire == "kernel" else net.ledger()
        print(json.dumps(ledger), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
