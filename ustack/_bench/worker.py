"""One endpoint, a process of its own: ``python -m ustack._bench.worker STACK``; STACK is a JSON object.

    {"wire": "kernel"}                                         sockets of the kernel, in this namespace
    {"wire": "tap", "device": "us0", "address": "10.9.0.2/24", "offloads": true, "busy_poll": 1.0 or null}
    {"wire": "ring", ...}
    {"wire": "memory"}, "proxy", "crowd", "loopback", "pipe", "tun"      both ends in this process: see ``duets``

Commands come as JSON lines on standard input, answers go out the same way; a failure is ``{"error": text}``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ustack._bench import duets
from ustack._bench.alone import ALONE
from ustack._bench.hosts import KernelHost, StackHost
from ustack._bench.work import WORK
from ustack._bench.work_c import WORK_C, exchange
from ustack._bench.work_files import WORK_FILES


def pin(cpu: int) -> None:
    """Put every thread of this process on one CPU."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), [cpu])


@contextlib.contextmanager
def blocked(host: Any, ip: str, accepting: int = 0, receiving: int = 0) -> Iterator[None]:
    """While this lasts, so many other threads wait in accept() and in recv() of a datagram, each on its own socket."""
    kinds = [socket.SOCK_STREAM] * accepting + [socket.SOCK_DGRAM] * receiving
    sockets = [host.bound(ip, kind) for kind in kinds]
    running = threading.Barrier(len(sockets) + 1)

    def wait(s: Any, kind: int) -> None:
        running.wait()
        with contextlib.suppress(OSError):
            s.accept() if kind == socket.SOCK_STREAM else s.recv(1)

    threads = [threading.Thread(target=wait, args=pair, daemon=True) for pair in zip(sockets, kinds, strict=True)]
    for thread in threads:
        thread.start()
    running.wait()
    try:
        yield
    finally:
        for s in sockets:
            if isinstance(s, socket.socket):
                with contextlib.suppress(OSError):  # a datagram socket is not connected, and wakes all the same
                    s.shutdown(socket.SHUT_RDWR)
            s.close()
        for thread in threads:
            thread.join(5)


def answer(value: dict[str, Any]) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What was counted in between."""
    out: dict[str, Any] = {}
    for k, v in after.items():
        if isinstance(v, tuple):
            old = before.get(k, (0, 0))
            delta: Any = (v[0] - old[0], v[1] - old[1])
            changed = any(delta)
        else:
            delta = v - before.get(k, 0)
            changed = bool(delta)
        if changed:
            out[k] = delta
    return out


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _ends(host: Any, command: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any], dict[str, Any], float]:
    """Do the work: its figures, and stats, ledger and CPU time as they were before."""
    in_c = command["api"] == "c"
    if command["end"] == "both":
        before = host.stats(), host.ledger(), cpu_seconds()
        return (exchange if in_c and command["work"] == "alone.bulk" else ALONE[command["work"]])(
            host, command
        ), *before
    work = (WORK_C if in_c and command["work"] in WORK_C else WORK | WORK_FILES)[command["work"]]
    if command["end"] == "serve":
        with host.bound(command["ip"], work.kind) as listener:
            answer({"port": listener.getsockname()[1]})
            before = host.stats(), host.ledger(), cpu_seconds()
            return work.serve(host, listener, command), *before
    before = host.stats(), host.ledger(), cpu_seconds()
    return work.call(host, tuple(command["to"]), command), *before


def perform(host: Any, command: dict[str, Any]) -> dict[str, Any]:
    """One end of a piece of work, or both. The serving end first answers with its port."""
    host.configure(command)
    pin(command["cpu"])
    gc.collect()
    with blocked(host, command["ip"], **command.get("blocked", {})):
        figures, stats, ledger, cpu = _ends(host, command)
    return {
        "figures": figures,
        "cpu": cpu_seconds() - cpu,
        "stats": difference(host.stats(), stats),
        "ledger": difference(host.ledger(), ledger),
    }


def make_host(spec: dict[str, Any]) -> Any:
    """The sockets of a wire's end."""
    if spec["wire"] == "kernel":
        return KernelHost()
    if spec["wire"] in ("tap", "ring", "xdp", "shm"):
        return StackHost(spec)
    return duets.make(spec["wire"])


def main() -> None:
    """Serve commands until standard input ends."""
    spec = json.loads(sys.argv[1])
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # ten thousand connections of the kernel's
    host = make_host(spec)
    gc.disable()
    answer({"ready": os.getpid()})
    for line in sys.stdin:
        try:
            answer(perform(host, json.loads(line)))
        except Exception as e:
            answer({"error": f"{type(e).__name__}: {e}"})


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
