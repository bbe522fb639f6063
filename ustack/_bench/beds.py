"""The wires that things are measured on: namespaces, devices, and a worker process at each end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from ustack import testbed

NEAR, FAR = "10.9.0.2/24", "10.9.0.1/24"
LONG = 3 * 65536  # bytes of the super-segments that our links use where they may
SPIN = 10.0  # seconds of busy polling: longer than any wait
PATIENCE = 20.0  # seconds that a worker may be silent beyond the time that its work takes


class WorkerFailed(RuntimeError):
    """An endpoint died, failed or fell silent."""


class Worker:
    """The process of one endpoint (``ustack._bench.worker``)."""

    def __init__(
        self, namespace: testbed.Namespace, wire: str, device: str, address: str, spin: bool, offloads: bool = True
    ) -> None:
        spec = {
            "wire": wire, "device": device, "address": address, "busy_poll": SPIN if spin else None,
            "offloads": offloads,
        }  # fmt: skip
        self.ip = address.partition("/")[0]
        self.title = f"the worker on {wire} {device}"
        self.process = namespace.popen(
            sys.executable, "-P", "-m", "ustack._bench.worker", json.dumps(spec),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.answer()

    def _read(self) -> None:
        lines = self.process.stdout or ()
        with contextlib.suppress(ValueError, OSError):  # closed with the bed
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def tell(self, command: dict[str, Any]) -> None:
        """Give it something to do."""
        pipe = self.process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(command) + "\n")
            pipe.flush()
        except OSError:
            raise WorkerFailed(f"{self.title} is gone") from None

    def answer(self, seconds: float = 0.0) -> dict[str, Any]:
        """Its next line, which should come within so many seconds and some patience."""
        try:
            line = self._lines.get(timeout=seconds + PATIENCE)
        except queue.Empty:
            raise WorkerFailed(f"{self.title} says nothing for {seconds + PATIENCE:.0f} s") from None
        if not line:
            raise WorkerFailed(f"{self.title} ended")
        value: dict[str, Any] = json.loads(line)
        if "error" in value:
            raise WorkerFailed(f"{self.title}: {value['error']}")
        return value


class Bed:
    """Two workers with a wire between them; ``near`` is the end that is measured."""

    def __init__(self, near: Worker, far: Worker) -> None:
        self.near, self.far = near, far

    def perform(self, command: dict[str, Any], near_cpu: int, far_cpu: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both ends of a piece of work; what they answer, the near one first."""
        seconds = command["seconds"]
        self.far.tell(command | {"end": "serve", "cpu": far_cpu, "ip": self.far.ip, "blocked": {}})
        port = self.far.answer()["port"]
        self.near.tell(command | {"end": "call", "cpu": near_cpu, "ip": self.near.ip, "to": [self.far.ip, port]})
        near = self.near.answer(seconds)
        return near, self.far.answer(seconds)


class Alone(Bed):
    """One worker that has both ends."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker, worker)

    def perform(self, command: dict[str, Any], near_cpu: int, far_cpu: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both ends of a piece of work, as what the near one answers."""
        self.near.tell(command | {"end": "both", "cpu": near_cpu, "ip": self.near.ip})
        return self.near.answer(command["seconds"] + command.get("setup", 0)), {
            "figures": {},
            "cpu": 0.0,
            "stats": {},
            "ledger": {},
        }


@contextlib.contextmanager
def veth_bed(
    near_wire: str, far_wire: str, spin: bool, offloads: bool = True, long: tuple[str, ...] = ()
) -> Iterator[Bed]:
    """A veth; at its ends the kernel, or packet rings on devices without an address.

    Devices in ``long`` take super-segments of 192 KB ("BIG TCP"), of whoever is there.
    Without ``offloads`` the wire carries packets of at most the MTU. Checksums of the kernel's own are never computed
    on a veth.
    """
    with testbed.Namespace("far") as far, testbed.Namespace("near") as near:
        testbed.veth(far, "v0", near, "v1")
        for namespace, device, address, wire in ((far, "v0", FAR, far_wire), (near, "v1", NEAR, near_wire)):
            if not offloads:
                namespace.offload(device, tso=False, gso=False, gro=False)
            if near_wire == "xdp" and wire == "kernel":
                namespace.offload(device, tx=False)  # nobody behind AF_XDP completes its checksums
            if device in long:
                namespace.gso_max(device, LONG)
            if wire == "kernel":
                namespace.add_address(device, address)
        yield Bed(Worker(near, near_wire, "v1", NEAR, spin, offloads), Worker(far, far_wire, "v0", FAR, spin, offloads))


@contextlib.contextmanager
def tap_bed(spin: bool, offloads: bool = True) -> Iterator[Bed]:
    """A TAP; our stack holds it, the kernel behind it has an address."""
    with testbed.Namespace("tap") as namespace:
        near = Worker(namespace, "tap", "us0", NEAR, spin, offloads)
        namespace.add_address("us0", FAR)
        namespace.up("us0")
        yield Bed(near, Worker(namespace, "kernel", "us0", FAR, spin))


@contextlib.contextmanager
def shm_bed(spin: bool) -> Iterator[Bed]:
    """Two stacks of ours over shared memory."""
    with tempfile.TemporaryDirectory() as folder, testbed.Namespace("shm") as namespace:
        path = os.path.join(folder, "link")
        near = Worker(namespace, "shm", path, NEAR, spin)  # listens
        yield Bed(near, Worker(namespace, "shm", path, FAR, spin))


@contextlib.contextmanager
def alone_bed(wire: str) -> Iterator[Bed]:
    """One process with both ends, in a namespace of its own."""
    with testbed.Namespace("alone") as namespace:
        yield Alone(Worker(namespace, wire, "", NEAR, False))


VETH = {
    "kernel": ("kernel", "kernel"),
    "kernel-long": ("kernel", "kernel"),
    "ring": ("ring", "kernel"),
    "pair": ("ring", "ring"),
    "xdp": ("xdp", "kernel"),
}
LONG_ENDS = {"kernel-long": ("v0", "v1"), "ring": ("v1",)}  # a ring's slots, at the other end, take 64 KB
SMALL = "1500"  # ends the name of a wire without offloads, with an MTU of 1500
KERNELS = ("kernel", "kernel-long", "kernel" + SMALL, "loopback", "tun")  # wires without a stack of ours
ALONE = ("memory", "proxy", "crowd", "loopback", "pipe", "tun")


def make(wire: str, spin: bool) -> contextlib.AbstractContextManager[Bed]:
    """The bed of a wire.

    "kernel", "kernel-long" (with longer super-segments), "tap", "ring" and "xdp" (against the kernel), "pair" (packet
    rings at both ends), the same with "1500" behind it (no offloads), "shm" (two stacks over shared memory),
    or one process with both ends of "memory", "proxy", "crowd", "loopback", "pipe", "tun".
    """
    if wire in ALONE:
        return alone_bed(wire)
    if wire == "shm":
        return shm_bed(spin)
    offloads = not wire.endswith(SMALL)
    wire = wire.removesuffix(SMALL)
    if wire == "tap":
        return tap_bed(spin, offloads)
    return veth_bed(*VETH[wire], spin, offloads, LONG_ENDS.get(wire, ()) if offloads else ())


class Beds:
    """Beds made when they are needed: the kernel's stay, of ours only the one in use (each spins or polls)."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, bool], tuple[Bed, contextlib.ExitStack]] = {}

    def __enter__(self) -> Beds:
        return self

    def __exit__(self, *exc: object) -> None:
        self.drop_all()

    def drop_all(self) -> None:
        """Remove all beds."""
        for key in list(self._open):
            self.drop(key)

    def drop(self, key: tuple[str, bool]) -> None:
        """Remove a bed, if it is there."""
        if entry := self._open.pop(key, None):
            entry[1].close()

    def get(self, wire: str, spin: bool) -> Bed:
        """The bed for a wire, made if necessary."""
        key = (wire, spin and wire not in KERNELS)
        if key not in self._open:
            if wire not in KERNELS:
                for other in [k for k in self._open if k[0] not in KERNELS]:
                    self.drop(other)
            stack = contextlib.ExitStack()
            self._open[key] = (stack.enter_context(make(*key)), stack)
        return self._open[key][0]
