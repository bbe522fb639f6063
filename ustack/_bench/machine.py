"""The computer that a run was made on: what it is, and how busy it is."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything but idling, since it started (/proc/stat)."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def background(seconds: float = 0.25) -> float:
    """CPUs that are busy while we do nothing: 0.0 on a quiet machine, 2.0 on two cores fully used by others."""
    began, busy = time.perf_counter(), busy_seconds()
    time.sleep(seconds)
    return (busy_seconds() - busy) / (time.perf_counter() - began)


def cpus() -> tuple[int, int | None]:
    """The CPUs that endpoints are put on: ours, and the other one (None where there is none)."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1] if len(allowed) > 1 else None


def congestion_controls() -> list[str]:
    """Those of cubic and bbr that a socket may choose here; reno where there is neither."""
    usable = []
    with socket.socket() as s:
        for name in ("cubic", "bbr", "reno"):
            with contextlib.suppress(OSError):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
                usable.append(name)
    return usable[:2] if "reno" not in usable[:1] else usable[:1]


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def describe() -> dict[str, Any]:
    """What a reader of the figures wants to know."""
    import ustack

    with open("/proc/loadavg") as f:
        load = float(f.read().split()[0])
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ustack": ustack.__version__,
        "congestion": congestion_controls(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load": load,
        "background_cpus": round(background(), 2),
    }
