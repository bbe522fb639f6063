"""Paired rounds: ours and the baseline's in turn, first one then the other in front."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ustack._bench import machine
from ustack._bench.beds import Bed, Beds
from ustack._bench.cases import AnyCase, Case, Checksum, Handover, Messages
from ustack._bench.form import Row
from ustack._bench.measurement import Measurement

CALIBRATION_SECONDS = 0.4
CALIBRATION_ROUNDS = 2


# Wires of the kernel alone, as rows call them.
KERNELS = {
    "kernel": "over veth", "kernel-long": "over veth, super-segments of 192 KB",
    "kernel1500": "over veth without offloads", "loopback": "over loopback, one thread",
    "tun": "over two TUN devices, one thread",
}  # fmt: skip


class CannotRun(Exception):
    """A case that this machine cannot run."""


@dataclass(frozen=True)
class Baseline:
    """How the baseline is run."""

    wire: str
    congestion: str
    placement: str

    @property
    def name(self) -> str:
        """As it is written into rows."""
        if self.wire in KERNELS:
            what = f"kernel {'TCP' if self.congestion else 'UDP'} {KERNELS[self.wire]}"
            return f"{what}, {self.congestion}" if self.congestion else what
        return f"ustack over {self.wire}" + (f", {self.congestion} at the kernel's end" if self.congestion else "")


class Runner:
    """Runs cases on the beds that they need."""

    def __init__(self, beds: Beds, rounds: int, quick: bool, tell: Callable[[str], None]) -> None:
        self.beds, self.rounds, self.quick, self.tell = beds, rounds, quick, tell
        self.cpu, self.other_cpu = machine.cpus()
        self.congestion = machine.congestion_controls()
        self._best: dict[tuple[str, ...], Baseline] = {}

    def cpus(self, placement: str) -> tuple[int, int]:
        """Where the near and the far end go."""
        if placement == "same":
            return self.cpu, self.cpu
        if self.other_cpu is None:
            raise CannotRun("needs two CPUs")
        return self.other_cpu, self.cpu

    def measure(
        self,
        bed: Bed,
        case: Case,
        placement: str,
        congestion: str,
        seconds: float,
        params: dict[str, Any],
        background: float = 0.0,
    ) -> Measurement:
        """One run."""
        command = {
            "work": case.kind.work, "api": case.api, "wait": case.wait, "congestion": congestion, "seconds": seconds,
            **case.kind.params, **(case.kind.quick_params if self.quick else {}), **params,
        }  # fmt: skip
        began, busy = time.perf_counter(), machine.busy_seconds()
        near, far = bed.perform(command, *self.cpus(placement))
        return Measurement(near, far, machine.busy_seconds() - busy, time.perf_counter() - began, background)

    def baseline(self, case: Case) -> Baseline:
        """The best of cubic and bbr, and for bulk of same and cross, and of usual and longer super-segments: tried once
        for each kind of work and wait."""
        if not case.kind.free_baseline:
            congestion = "" if case.kind.work.startswith("udp") else self.congestion[0]
            return Baseline(case.baseline_wire, congestion, case.placement)
        key = (case.kind.work, case.kind.unit, case.wait, case.baseline_wire, case.api)
        if key not in self._best:
            wires = [case.baseline_wire, *(["kernel-long"] if case.baseline_wire == "kernel" else [])]
            placements = ["cross"] if case.wait == "spin" else ["same", "cross"]
            if self.other_cpu is None:
                placements = ["same"]
            background = machine.background()
            tried: Counter[tuple[str, str, str]] = Counter()
            seconds = CALIBRATION_SECONDS / (4 if self.quick else 1)
            for _ in range(1 if self.quick else CALIBRATION_ROUNDS):
                for wire, congestion, placement in itertools.product(wires, self.congestion, placements):
                    bed = self.beds.get(wire, case.wait == "spin")
                    m = self.measure(bed, case, placement, congestion, seconds, {}, background)
                    tried[wire, congestion, placement] += figure(case, m)  # type: ignore[assignment]
            best = max if case.kind.better == "higher" else min
            self._best[key] = Baseline(*best(tried, key=lambda k: tried[k]))
        return self._best[key]

    def run(self, case: AnyCase) -> Row:
        """All rounds of a case."""
        if isinstance(case, Checksum):
            return run_checksum(case, self.rounds)
        if isinstance(case, Messages):
            return self.run_messages(case)
        if isinstance(case, Handover):
            return self.run_handover(case)
        self.cpus(case.placement)
        baseline = self.baseline(case)
        background = machine.background()
        return make_row(case, baseline, self.rounds_of(case, baseline, background), background)

    def run_messages(self, case: Messages) -> Row:
        """Half a round trip between two processes, over shared memory and over a UNIX socket."""
        from ustack._bench.via import measure

        pairs, stats = measure(case, self.rounds, *self.cpus(case.placement))
        per_message = stats.get("via.kicks", 0) / max(stats["via.sent"], 1)
        return Row(
            case.name, case.api, case.wait, case.placement, "us", "lower", "UNIX stream socket, polled", pairs,
            case.target, case.aim, notes={
                "what": "half a round trip", "bytes": case.size, "limit_us": case.limit,
                "kicks_per_message": per_message,
            },
        )  # fmt: skip

    def run_handover(self, case: Handover) -> Row:
        """A buffer from one process to another: as an fbuf, and copied."""
        from ustack._bench.fbufs import measure

        pairs = measure(case, self.rounds, *self.cpus(case.placement))
        name = "UNIX stream socket" if case.baseline == "socket" else "copied through shared memory"
        return Row(
            case.name, case.api, case.wait, case.placement, "us", "lower", name, pairs, case.target, case.aim,
            notes={"bytes": case.size, "touched": case.touched, "pool": case.kind},
        )  # fmt: skip

    def rounds_of(
        self, case: Case, baseline: Baseline, background: float
    ) -> list[tuple[Measurement, Measurement | None]]:
        """The paired rounds of a case: ours, and the baseline's where there is one."""
        seconds = case.kind.quick if self.quick else case.kind.seconds
        spin = case.wait == "spin"

        def ours() -> Measurement:
            if case.kind.fresh:
                self.beds.drop((case.wire, spin))
            bed = self.beds.get(case.wire, spin)
            return self.measure(bed, case, case.placement, baseline.congestion, seconds, case.params, background)

        def theirs() -> Measurement:
            bed = self.beds.get(baseline.wire, spin)
            params = {k: v for k, v in case.params.items() if k != "blocked"} | case.baseline_params
            return self.measure(bed, case, baseline.placement, baseline.congestion, seconds, params, background)

        if not case.kind.fresh:
            ours()  # the first run resolves addresses, touches memory
        runs: list[tuple[Measurement, Measurement | None]] = []
        rounds = min(self.rounds, case.kind.enough)
        for k in range(rounds):
            self.tell(f"{case.full_name}  {k + 1}/{rounds}")
            if case.limit:
                runs.append((ours(), None))
            elif k % 2:
                base = theirs()
                runs.append((ours(), base))
            else:
                mine = ours()
                runs.append((mine, theirs()))
        return runs


def figure(case: Case, m: Measurement) -> float:
    """What a row shows of a run."""
    return case.kind.whole(m) if case.kind.whole else case.kind.value(m.near["figures"], m.far["figures"])


def make_row(
    case: Case, baseline: Baseline, runs: list[tuple[Measurement, Measurement | None]], background: float
) -> Row:
    """The row of the measurements of a case."""
    us, base = [m for m, _ in runs], [m for _, m in runs if m is not None]
    stats, far_stats = _sum([m.near["stats"] for m in us]), _sum([m.far["stats"] for m in us])
    notes: dict[str, Any] = {"congestion": baseline.congestion, "baseline_placement": baseline.placement}
    if stats.get("link.tx"):
        notes["mean_tx_frame"] = round(stats.get("link.tx_bytes", 0) / stats["link.tx"])
    if stats.get("link.rx"):
        notes["mean_rx_frame"] = round(stats.get("link.rx_bytes", 0) / stats["link.rx"])
    if payload := _payload(us):
        notes["payload_bytes"] = payload
    notes["retransmissions"] = {
        "ustack": stats.get("tcp.retransmitted", 0) + far_stats.get("tcp.retransmitted", 0),
        "kernel_peer": sum(int(m.figure("retransmissions")) for m in us),
        "baseline": sum(int(m.figure("retransmissions")) for m in base),
    }
    if base and "p99" in us[0].near["figures"]:
        notes["p99"] = {"ustack": _median(us, "p99"), "baseline": _median(base, "p99")}
    notes["cpu"] = {"background_cpus": round(background, 2), "ustack": _cpu(us), "baseline": _cpu(base)}
    ledger = _sum_ledgers([m.near["ledger"] for m in us])
    pairs = [(figure(case, m), case.limit(m)) for m in us] if case.limit else []
    pairs += [(figure(case, m), figure(case, b) + case.allowance) for m, b in runs if b is not None]
    return Row(
        case.name, case.api, case.wait, case.placement, case.kind.unit, case.kind.better,
        case.limit_name or baseline.name, pairs, case.target, case.aim, ledger, notes,
    )  # fmt: skip


def _median(ms: list[Measurement], name: str) -> float:
    values = sorted(m.near["figures"][name] for m in ms)
    return round(float(values[len(values) // 2]), 2)


def _payload(ms: list[Measurement]) -> int:
    return sum(int(m.figure("payload")) for m in ms)


def _sum(counts: list[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for c in counts:
        total.update(c)
    return total


def _sum_ledgers(ledgers: list[dict[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    out: dict[str, tuple[int, int]] = {}
    for ledger in ledgers:
        for reason, (n, calls) in ledger.items():
            old = out.get(reason, (0, 0))
            out[reason] = (old[0] + n, old[1] + calls)
    return out


def _cpu(ms: list[Measurement]) -> dict[str, float]:
    """CPU seconds in all rounds: of the whole machine beyond the background, and of the two processes."""
    out = {
        "machine": round(sum(max(m.machine_cpu - m.background * m.seconds, 0.0) for m in ms), 3),
        "near": round(sum(m.near["cpu"] for m in ms), 3),
        "far": round(sum(m.far["cpu"] for m in ms), 3),
    }
    if payload := _payload(ms):
        out["machine_per_gb"] = round(out["machine"] / (payload / 1e9), 4)
        out["processes_per_gb"] = round((out["near"] + out["far"]) / (payload / 1e9), 4)
    return out


def run_checksum(case: Checksum, rounds: int) -> Row:
    """Fused copy and checksum against memcpy of the same blocks."""
    from ustack._core.py import bench_core

    pairs = [bench_core.fused_and_memcpy(case.size) for _ in range(rounds)]
    return Row(
        case.name, case.api, case.wait, case.placement, "ns", "lower", "memcpy", pairs, case.target, case.aim,
        notes={"bytes": case.size, "kernel": bench_core.checksum_kernel()},
    )  # fmt: skip
