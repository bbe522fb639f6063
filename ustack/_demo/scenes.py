"""The scenes: who talks to whom over what. Each sets its wire up, measures, and removes it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ustack import testbed
from ustack._demo.kernel import Kernel
from ustack._demo.measure import Progress, Result, measure

PEER_ADDRESS = "10.9.0.1/24"
PEER = "10.9.0.1"
OUR_ADDRESS = "10.9.0.2/24"


@dataclass(frozen=True)
class Run:
    """How much to do, and where to say how far it is."""

    file: Path  # what the HTTP download fetches
    seconds: float  # of each bulk transfer
    rounds: int  # of the echo
    progress: Progress

    def measure(self, us: Any) -> Result:
        """Everything that a scene measures, between ``us`` and the peer."""
        return measure(us, PEER, self.file, self.seconds, self.rounds, self.progress)


class PeerFailed(RuntimeError):
    """The peer process did not come up."""


@dataclass
class PeerProcess:
    """A running :mod:`ustack._demo.peer`."""

    process: subprocess.Popen[Any]

    def finish(self) -> dict[str, tuple[int, int]]:
        """End it; the ledger of its stack."""
        out, _ = self.process.communicate(timeout=30)
        return {reason: (n, calls) for reason, (n, calls) in json.loads(out or b"{}").items()}


@contextlib.contextmanager
def peer(namespace: testbed.Namespace, wire: str, folder: Path) -> Iterator[PeerProcess]:
    """The peer process in ``namespace``, serving; it ends with the block."""
    process = namespace.popen(
        sys.executable, "-P", "-m", "ustack._demo.peer", wire, PEER_ADDRESS, str(folder),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise PeerFailed(f"the peer on {wire} did not start")
    yield PeerProcess(process)


def kernel_over_veth(run: Run) -> Result:
    """The measure of all others: the kernel at both ends of a veth."""
    with testbed.Namespace("peer") as far, testbed.Namespace("ours") as near:
        testbed.veth(far, "k0", near, "k1")
        far.add_address("k0", PEER_ADDRESS)
        near.add_address("k1", OUR_ADDRESS)
        with peer(far, "kernel", run.file.parent):
            return run.measure(Kernel(near))


def _with_stack(run: Run, link: Any, other: PeerProcess | None = None) -> Result:
    import ustack

    with ustack.Stack() as us:
        us.add_interface(link, addresses=[OUR_ADDRESS])
        result = run.measure(us)
        result.ledger["ours"] = us.ledger()
        if other and (theirs := other.finish()):
            result.ledger["peer"] = theirs
        return result


def linux_over_tap(run: Run) -> Result:
    """(a) A stack on a TAP, the kernel behind it."""
    with (
        testbed.over_tap(PEER_ADDRESS, OUR_ADDRESS) as bed,
        peer(bed.peer, "kernel", run.file.parent) as other,
    ):
        return _with_stack(run, bed.link, other)


def linux_over_ring(run: Run) -> Result:
    """(b) A stack on the packet rings of a veth, the kernel at its other end."""
    with (
        testbed.over_veth(PEER_ADDRESS, OUR_ADDRESS) as bed,
        peer(bed.peer, "kernel", run.file.parent) as other,
    ):
        return _with_stack(run, bed.link, other)


def two_processes(run: Run) -> Result:
    """(c) Two stacks in two processes, packet rings at both ends of a veth."""
    import ustack

    with testbed.Namespace("peer") as far, testbed.Namespace("ours") as near:
        testbed.veth(far, "v0", near, "v1")
        with peer(far, "ring:v0", run.file.parent) as other:
            with near.entered():
                link = ustack.PacketRing("v1")
            return _with_stack(run, link, other)


def one_process(run: Run) -> Result:
    """(d) Two stacks in one process, joined by a cable in memory. Needs no privilege."""
    import ustack
    from ustack._cli.services import PORTS, Service

    near, far = ustack.pair()
    with contextlib.ExitStack() as stack:
        them = stack.enter_context(ustack.Stack())
        them.add_interface(far, addresses=[PEER_ADDRESS])
        for kind in PORTS:
            stack.enter_context(Service(them, kind, PEER, directory=str(run.file.parent)))
        result = _with_stack(run, near)
        result.ledger["peer"] = them.ledger()
        return result


def tap_and_ring(run: Run) -> Result:
    """(e) A stack on a TAP, and one in another process on the packet rings of that TAP's own device."""
    with testbed.Namespace("tap") as ns:
        link = ns.tap("us0")
        try:
            with peer(ns, "ring:us0", run.file.parent) as other:
                return _with_stack(run, link, other)
        finally:
            link.close()


@dataclass(frozen=True)
class Scene:
    """One line of the table."""

    key: str
    title: str
    play: Callable[[Run], Result]
    needs: tuple[str, ...] = ()  # "namespaces", "tun"


SCENES = [
    Scene("kernel", "Linux <> Linux, veth (the kernel's own)", kernel_over_veth, ("namespaces",)),
    Scene("a", "ustack <> Linux, TAP", linux_over_tap, ("namespaces", "tun")),
    Scene("b", "ustack <> Linux, packet rings on veth", linux_over_ring, ("namespaces",)),
    Scene("c", "ustack <> ustack, two processes, veth", two_processes, ("namespaces",)),
    Scene("d", "ustack <> ustack, one process", one_process),
    Scene("e", "ustack TAP <> ustack ring, same device", tap_and_ring, ("namespaces", "tun")),
]
