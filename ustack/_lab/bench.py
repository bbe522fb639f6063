"""What experiments measure with: repeats in turn, the time they may take, and beds that are made once and removed."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ustack._bench import machine
from ustack._lab.form import Experiment, Row
from ustack._lab.progress import Progress

T = TypeVar("T")
REPEATS, QUICK_REPEATS = 15, 3
BUDGET, QUICK_BUDGET = 50.0, 10.0  # seconds for an experiment: on a busy machine it ends with fewer repeats
NEAR, FAR = "10.9.0.2", "10.9.0.1"


class CannotMeasure(Exception):
    """Something that this machine, or this version, cannot measure."""


class Lab:
    """A run: how thorough, on which CPUs, and what could not be measured."""

    def __init__(
        self, quick: bool = False, progress: Progress | None = None, known: dict[str, list[Row]] | None = None
    ) -> None:
        self.quick, self.known = quick, {} if known is None else known
        self.repeats = QUICK_REPEATS if quick else REPEATS
        self.progress = progress or Progress(None)
        self.cpu, self.other_cpu = machine.cpus()
        self.missing: dict[str, str] = {}
        self.until = time.monotonic() + (QUICK_BUDGET if quick else BUDGET)

    def pick(self, full: Any, quick: Any) -> Any:
        """The one for a thorough run, or the one for a quick run."""
        return quick if self.quick else full

    def turns(self, each_ns: float, seconds: float = 0.008, least: int = 1, most: int = 20_000) -> int:
        """How often something that takes so long is done in one repeat."""
        return int(min(most, max(least, seconds * (0.2 if self.quick else 1.0) * 1e9 / each_ns)))

    def rows_of(self, experiment: Experiment) -> list[Row]:
        """The rows of another experiment: of this run if it was part of it, else measured now."""
        if experiment.number not in self.known and experiment.run is not None:
            self.known[experiment.number] = experiment.run(self)
        return self.known.get(experiment.number, [])

    def in_turn(
        self, what: Mapping[str, Callable[[], T]], warm: int = 1, rounds: int | None = None
    ) -> dict[str, list[T]]:
        """``repeats`` values of each (numbers, or two as a complex one), or ``rounds``: one after the other in each
        round, another one first each time.

        What raises CannotMeasure or OSError is left out, and the reason kept in ``missing``.
        """
        found: dict[str, list[T]] = {name: [] for name in what}
        names = list(what)
        rounds = rounds or self.repeats
        for k in range(-warm, rounds):
            if k > 0 and time.monotonic() > self.until:
                self.missing["repeats"] = f"some of {rounds} were left out: the experiment took too long"
                break
            start = k % len(names) if names else 0
            for name in [*names[start:], *names[:start]]:
                self.progress.step()
                try:
                    value = what[name]()
                except (CannotMeasure, OSError) as e:
                    self.missing[name] = str(e)
                    names = [n for n in names if n != name]
                    found.pop(name)
                else:
                    if k >= 0:
                        found[name].append(value)
        return found


@contextlib.contextmanager
def beside(*work: Callable[[], Any]) -> Iterator[list[threading.Thread]]:
    """Threads that run functions while the body does; they must end by themselves when it does."""
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for t in threads:
        t.start()
    try:
        yield threads
    finally:
        for t in threads:
            t.join(30)


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread on one CPU while the body runs; threads that it starts as well."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [cpu])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def file_of(size: int) -> Iterator[int]:
    """A descriptor of a file of so many bytes, all of it in the page cache."""
    with tempfile.TemporaryFile() as f:
        block = os.urandom(min(size, 1 << 20))
        for at in range(0, size, len(block)):
            f.write(block[: size - at])
        f.flush()
        yield f.fileno()


@contextlib.contextmanager
def memory_stacks() -> Iterator[tuple[Any, Any]]:
    """Two stacks on the in-memory link."""
    import ustack

    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        yield near, far


@contextlib.contextmanager
def connected(near: Any, far: Any, ip: str = FAR) -> Iterator[tuple[Any, Any]]:
    """A connection between two stacks: (socket of the first, of the second)."""
    with far.create_server((ip, 0)) as listener:
        a = near.create_connection((ip, listener.getsockname()[1]))
        b, _ = listener.accept()
    with a, b:
        yield a, b


def why_no_tap() -> str | None:
    """None where a TAP can be had, else why not."""
    from ustack import testbed

    return testbed.enter_user_namespace() or testbed.why_no_tun()


@contextlib.contextmanager
def tap_dialler(mtu: int = 1500, **options: Any) -> Iterator[tuple[Any, Callable[[int], tuple[Any, socket.socket]]]]:
    """A stack on a TAP of its own namespace, and a function that connects to the kernel behind it.

    That takes the largest segment (0: what the MTU allows), and returns both ends, which are closed with the stack.
    Raises CannotMeasure where there are no TAPs.
    """
    import ustack
    from ustack import testbed

    if why := why_no_tap():
        raise CannotMeasure(why)
    with contextlib.ExitStack() as held:
        bed = held.enter_context(testbed.over_tap(mtu=mtu, **options))
        net = held.enter_context(ustack.Stack())
        net.add_interface(bed.link, addresses=[bed.address])

        def dial(segment: int) -> tuple[Any, socket.socket]:
            with bed.peer.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                listener.bind((bed.peer_ip, 0))
                listener.listen(1)
                s = held.enter_context(net.socket())
                if segment:
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                s.connect(listener.getsockname())
                kernel = held.enter_context(listener.accept()[0])
            return s, kernel

        yield net, dial


@contextlib.contextmanager
def tap_connection(mtu: int = 1500, **options: Any) -> Iterator[tuple[Any, Any, socket.socket]]:
    """A stack on a TAP of its own namespace, a connection of its, and the kernel's end of that: see ``tap_dialler``."""
    with tap_dialler(mtu, **options) as (net, dial):
        yield net, *dial(0)


@contextlib.contextmanager
def loopback_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over the kernel's loopback device."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    with a, b:
        yield a, b
