"""One run of one side, and the figures that need more of it than what the two ends say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SUMMED = ("tx.checksum", "rx.checksum")  # passes of their own: those in the ledger that are not fused with a copy


@dataclass(frozen=True)
class Measurement:
    """One run of one side. ``near`` and ``far`` are the answers of the workers."""

    near: dict[str, Any]
    far: dict[str, Any]
    machine_cpu: float = 0.0  # CPU seconds of the whole machine
    seconds: float = 1.0
    background: float = 0.0  # CPUs that were busy before

    def figure(self, name: str) -> float:
        """The sum of what both ends say."""
        return float(self.near["figures"].get(name, 0) + self.far["figures"].get(name, 0))

    @property
    def own_cpu(self) -> float:
        """CPU seconds of the whole machine beyond the background, but at least those of the two processes."""
        processes = self.near["cpu"] + self.far["cpu"]
        return float(max(self.machine_cpu - self.background * self.seconds, processes))


def cpu_per_gb(m: Measurement) -> float:
    """CPU seconds of the whole machine for 10^9 bytes of payload."""
    return m.own_cpu / (m.figure("payload") / 1e9)


def spent_per_byte(m: Measurement) -> float:
    """Nanoseconds of CPU time that a proxy spends on a byte."""
    return float(m.near["figures"]["spent"]) * 1e9 / m.figure("payload")


def summed_apart(m: Measurement) -> float:
    """Bytes of payload that our end summed in passes of their own."""
    return float(sum(m.near["ledger"].get(reason, (0, 0))[0] for reason in SUMMED))


def payload(m: Measurement) -> float:
    """Bytes of payload that arrived."""
    return m.figure("payload")
