"""E9: round trips of small and large messages; E11: what a copy out of fixed buffers costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ustack._bench.cases import Case, choose
from ustack._lab.bench import CannotMeasure, Lab, why_no_tap
from ustack._lab.form import Band, Claim, Column, Experiment, Finding, Plot, Row, in_band, measured, number, verdict_of

# --- E9 ---------------------------------------------------------------------------------------------------------------

SIZES = (8, 64, 1024, 4096)
QUICK_SIZES = (8, 1024)
WIRES = {"tcp.rtt.tap.spin.cross.python": "TCP, TAP to Linux", "tcp.rtt.ring.spin.cross.python": "TCP, packet rings"}


def measure_round_trips(lab: Lab) -> list[Row]:
    """Rows by transport, API and size."""
    if lab.other_cpu is None:
        raise CannotMeasure("the two ends need a CPU each")
    return messages(lab) + wires(lab)


def messages(lab: Lab) -> list[Row]:
    """The message layer between two processes over shared memory, and a UNIX socket; both look all the time."""
    from ustack._bench import via

    assert lab.other_cpu is not None
    turns = lab.pick(20, 3)  # of 100 round trips
    rows: list[Row] = []
    for api, size in ((api, size) for api in ("c", "python") for size in lab.pick(SIZES, QUICK_SIZES)):
        with via.near_end(size, lab.cpu, lab.other_cpu) as (end, process):
            pipe = process.stdin
            assert pipe is not None

            def one(what: str, end: Any = end, pipe: Any = pipe, api: str = api) -> float:
                pipe.write(f"{what} {api} {turns}\n")
                pipe.flush()
                return float(end.half_round_trip(what, api, turns))

            found = lab.in_turn({what: partial(one, what) for what in ("via", "socket")})
        for what, values in found.items():
            transport = "messages, shared memory" if what == "via" else "UNIX socket"
            rows.append({"transport": transport, "api": api, "size": size, **measured("half_us", values)})
    return rows


def wires(lab: Lab) -> list[Row]:
    """TCP over a TAP and over packet rings, spinning, each beside the kernel over a veth; bytes of one."""
    from ustack._bench.beds import Beds, WorkerFailed
    from ustack._bench.runner import CannotRun, Runner

    rows: list[Row] = []
    if why := why_no_tap():
        lab.missing["TCP"] = why
        return rows
    cases, _ = choose(list(WIRES))
    with Beds() as beds:
        runner = Runner(beds, lab.repeats, True, lambda text: lab.progress.step())
        for case in cases:
            if not isinstance(case, Case):
                continue
            try:
                row = runner.run(case)
            except (WorkerFailed, CannotRun) as e:
                lab.missing[WIRES[case.full_name]] = str(e)
                continue
            ours, base = zip(*row.pairs, strict=True)
            rows.append({"transport": WIRES[case.full_name], "api": "python", "size": 1,
                         **measured("half_us", [x / 2 for x in ours])})  # fmt: skip
            rows.append({"transport": f"{row.baseline_name} (beside it)", "api": "python", "size": 1,
                         **measured("half_us", [x / 2 for x in base])})  # fmt: skip
    return rows


E9 = Experiment(
    "E9", "latency of messages",
    "half a round trip between two processes on two CPUs that look all the time: the message layer over shared "
    "memory, through a C loop and through the Python API, beside a UNIX socket that is polled as well; and a byte "
    "over TCP, over a TAP and over packet rings, beside the kernel's TCP over a veth. What belongs to the whole "
    "message layer (messages over Ethernet, large ones by rendezvous) is not in this version.",
    (Column("transport", "transport"), Column("api", "API"), Column("size", "bytes"),
     Column("half_us", "half a round trip", "µs")),
    (
        Claim("N15b", "20 µs for a small message are in reach (of user-level messages)",
              "half a round trip of at most 64 bytes takes at most 20 µs through the Python API; in C it is printed "
              "too",
              in_band("half_us", Band(high=20, unit="µs"), "{transport}, {api}, {size} B",
                      transport="messages, shared memory", size=(8, 64))),
        Claim("X4", "a message can take less than 10 µs (the aim of the standard, in silicon)",
              "half a round trip of at most 64 bytes in C takes less than 10 µs",
              in_band("half_us", Band(high=10, unit="µs"), "{transport}, {size} B",
                      transport="messages, shared memory", api="c", size=(8, 64))),
    ),
    measure_round_trips,
    taps=True,
)  # fmt: skip


# --- E11 --------------------------------------------------------------------------------------------------------------

MESSAGES = (64, 512, 4096, 32768, 262144, 1 << 20)
QUICK_MESSAGES = (64, 4096, 262144)


def measure_copies(lab: Lab) -> list[Row]:
    """Rows by size and ring; the repeats are whole experiments."""
    from ustack._bench.via import experiment_e11

    cold = lab.pick(64 << 20, 16 << 20)
    runs: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for _ in range(lab.repeats):
        for one in experiment_e11(lab.pick(MESSAGES, QUICK_MESSAGES), cold=cold, seconds=lab.pick(0.004, 0.001)):
            runs.setdefault((one["size"], one["ring"]), []).append(one)
            lab.progress.step()
    rows: list[Row] = []
    for (size, ring), found in runs.items():
        row: Row = {"size": size, "ring": ring}
        for key in ("in_place_ns", "copied_ns", "latency_factor"):
            row |= measured(key, [float(r[key]) for r in found])
        row |= measured("bandwidth_loss", [100 * float(r["bandwidth_loss"]) for r in found])
        rows.append(row | {key: round(float(found[0][key]), 3) for key in ("cpu_copies", "device_copies")})
    return rows


def _grows(rows: Sequence[Row]) -> list[Finding]:
    warm = sorted((r for r in rows if r["ring"] == "warm"), key=lambda r: r["size"])
    if len(warm) < 2:
        return []
    first, last = warm[0]["latency_factor"], warm[-1]["latency_factor"]
    return [Finding("warm", f"{number(first)} at {warm[0]['size']} B, {number(last)} at {warm[-1]['size']} B",
                    verdict_of(last > first))]  # fmt: skip


E11 = Experiment(
    "E11", "a copy out of fixed buffers",
    "messages from one VI to another of the same process; received in place, or copied on to the program's own "
    "buffer. In C. Warm: a ring of 4 buffers; cold: as many as fill a large part of memory. CPU copies are those of "
    "the copying receiver; the device's one is the message itself.",
    (
        Column("size", "bytes"), Column("ring", "ring"), Column("in_place_ns", "in place", "ns"),
        Column("copied_ns", "copied", "ns"), Column("latency_factor", "latency, times"),
        Column("bandwidth_loss", "bandwidth lost", "%"), Column("cpu_copies", "CPU copies"),
        Column("device_copies", "device"),
    ),
    (
        Claim("N16", "an extra copy takes 20 to 30 % of the bandwidth", "the bandwidth lost lies between 20 and 30 %",
              in_band("bandwidth_loss", Band(20, 30, "%"), "{size} B, {ring}")),
        Claim("N16b", "and doubles the latency", "the latency is at least 1.8 times as long",
              in_band("latency_factor", Band(low=1.8), "{size} B, {ring}")),
        Claim("P8", "the larger the message, the more the copy weighs",
              "the factor in latency is larger for the largest message than for the smallest (warm)", _grows),
    ),
    measure_copies,
    (Plot("e11_copy", "A message in place, and copied on", "size", "in_place_ns,copied_ns", "",
          "size of a message", "ns", panel="ring", panel_title="{ring} ring"),),
)  # fmt: skip
EXPERIMENTS = (E9, E11)
