"""Rows of ``ustack bench``: names, the statistics of paired rounds, the form in JSON. Nothing is timed here."""

import json
import math

import pytest

from ustack._bench.about import ABOUT
from ustack._bench.cases import CASES, choose, delivered, throughput
from ustack._bench.form import Row, full_name, headline, holds, is_below, pair_ratios
from ustack._bench.measurement import Measurement, cpu_per_gb, summed_apart


def row(**changes):
    values = {
        "name": "tcp.x", "api": "python", "wait": "block", "placement": "same", "unit": "Gbit/s", "better": "higher",
        "baseline_name": "kernel", "pairs": [(2.0, 1.0), (3.0, 1.0), (9.0, 3.0)],
    }  # fmt: skip
    return Row(**(values | changes))


def test_the_ratio_is_the_median_of_the_paired_ratios_not_the_ratio_of_the_medians():
    r = row(pairs=[(10.0, 1.0), (2.0, 2.0), (3.0, 9.0)])
    assert r.ustack / r.baseline == 1.5
    assert r.ratio == 1.0
    assert r.spread == (3 / 9, 10.0)


def test_a_baseline_of_nothing_is_infinitely_beaten():
    assert pair_ratios([(1.0, 0.0)]) == [math.inf]


@pytest.mark.parametrize(
    ("good", "expected"), [(7, True), (5, True), (4, False), (3, False)], ids=lambda x: str(x)
)
def test_a_row_holds_with_five_good_rounds_of_seven(good, expected):
    higher = [(1.1, 1.0)] * good + [(0.9, 1.0)] * (7 - good)
    lower = [(0.9, 1.0)] * good + [(1.1, 1.0)] * (7 - good)
    assert holds(higher, 1.0, "higher") is expected
    assert holds(lower, 1.0, "lower") is expected
    assert holds(higher[::-1], 1.0, "higher") is expected


def test_the_target_itself_is_good_enough():
    assert holds([(1.5, 1.0)], 1.5, "lower")
    assert holds([(0.5, 1.0)], 0.5, "higher")


@pytest.mark.parametrize(("rounds", "needed"), [(1, 1), (2, 2), (3, 3), (14, 10)])
def test_the_share_of_good_rounds_is_rounded_up(rounds, needed):
    assert holds([(1.0, 1.0)] * needed + [(0.0, 1.0)] * (rounds - needed), 1.0, "higher")
    assert not holds([(1.0, 1.0)] * (needed - 1) + [(0.0, 1.0)] * (rounds - needed + 1), 1.0, "higher")


def test_nothing_measured_holds_nothing():
    assert not holds([], 1.0, "higher")


def test_without_a_target_there_is_nothing_to_hold():
    assert row().holds is None
    assert "holds" not in row().as_json()["notes"]


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("tcp.rtt.tap.block.same.python", "tcp.rtt.tap", True),
        ("tcp.rtt.tap.block.same.python", "tcp.rtt.tap.block.same.python", True),
        ("tcp.rtt.tap.block.same.python", "tcp.", True),
        ("tcp.rtt.tap.block.same.python", "tcp.rtt.ta", False),
        ("tcp.rtt.tap.block.same.python", "rtt", False),
        ("tcp.rtt.tap1500.block.same.python", "tcp.rtt.tap", False),
    ],
)
def test_a_name_stands_for_all_below_it(name, prefix, expected):
    assert is_below(name, prefix) is expected


def test_full_names_end_in_wait_placement_and_api():
    assert full_name("tcp.rtt.tap", "spin", "cross", "c") == "tcp.rtt.tap.spin.cross.c"
    for case in CASES:
        rest, wait, placement, api = case.full_name.rsplit(".", 3)
        assert rest == case.name
        assert wait in ("block", "spin")
        assert placement in ("same", "cross")
        assert api in ("python", "c")


def test_every_case_has_a_name_of_its_own():
    assert len({c.full_name for c in CASES}) == len(CASES)


def test_every_row_is_explained_and_nothing_else():
    assert list(ABOUT) == list(dict.fromkeys(c.name for c in CASES))


@pytest.mark.parametrize(
    "name",
    [
        "tcp.bulk.tap1500.to_linux", "tcp.bulk.tap1500.from_linux", "tcp.bulk.ring1500.to_linux",
        "tcp.bulk.ring1500.from_linux", "tcp.bulk.memory", "tcp.rtt.tap.threads8", "pipe.bulk", "pipe.bulk.16000",
        "pipe.pps", "python.send_call.memory", "python.send_call.tap", "python.recv_call.memory",
        "cpu.per_gb.tap.to_linux", "cpu.per_gb.tap.from_linux", "ledger.checksum.tap1500.to_linux",
        "tcp.bulk.tap.to_linux", "tcp.bulk.tap.from_linux", "tcp.bulk.ring.to_linux", "tcp.bulk.ring.from_linux",
        "tcp.bulk.pair", "tcp.rtt.tap", "tcp.rtt.ring", "udp.pps.one", "connect.rate", "checksum.fused_over_memcpy",
    ],
)  # fmt: skip
def test_the_rows_that_are_promised_exist_and_run_by_default(name):
    assert any(c.name == name and c.default for c in CASES)


def test_choosing():
    chosen, unknown = choose(["tcp.rtt.tap.block", "nonsense"])
    ends = ["same.python", "cross.python", "same.c", "cross.c"]
    assert [c.full_name for c in chosen] == [f"tcp.rtt.tap.block.{end}" for end in ends]
    assert unknown == ["nonsense"]
    assert choose([]) == ([c for c in CASES if c.default], [])


def test_the_headline_is_the_python_row_that_blocks_with_the_better_placement():
    same, cross = row(pairs=[(10.0, 20.0)]), row(placement="cross", pairs=[(9.0, 9.0)])
    spin = row(wait="spin", pairs=[(90.0, 1.0)])
    in_c = row(api="c", pairs=[(99.0, 1.0)])
    other = row(name="tcp.y", pairs=[(99.0, 1.0)])
    assert headline([same, cross, spin, in_c, other], "tcp.x") is cross
    slow, fast = row(better="lower", pairs=[(9.0, 1.0)]), row(better="lower", placement="cross", pairs=[(30.0, 10.0)])
    assert headline([slow, fast], "tcp.x") is fast


def test_the_headline_of_a_row_that_only_c_has_is_that():
    in_c = row(api="c")
    assert headline([in_c], "tcp.x") is in_c
    assert headline([in_c], "tcp.z") is None


def test_the_form_in_json():
    r = row(target=1.0, aim=1.5, ledger={"tx.copy": (10, 1)}, notes={"mean_tx_frame": 41000})
    value = json.loads(json.dumps(r.as_json()))
    assert list(value) == [
        "name", "api", "wait", "placement", "unit", "better", "ustack", "baseline", "baseline_name", "ratio", "rounds",
        "pairs", "ledger", "notes",
    ]  # fmt: skip
    assert value["pairs"] == [[2.0, 1.0], [3.0, 1.0], [9.0, 3.0]]
    assert (value["ustack"], value["baseline"], value["ratio"], value["rounds"]) == (3.0, 1.0, 3.0, 3)
    assert value["ledger"] == {"tx.copy": [10, 1]}
    assert value["notes"]["holds"] is True
    assert value["notes"]["mean_tx_frame"] == 41000


def test_bulk_counts_what_the_receiver_read_whichever_end_it_is():
    receiver = {"bytes": 1e9, "seconds": 2.0}
    assert throughput({"sent": 5e9}, receiver) == throughput(receiver, {"sent": 5e9}) == 4.0


def test_datagrams_count_only_with_hardly_any_loss():
    assert delivered({"sent": 10000}, {"received": 9990, "seconds": 2.0}) == 4995.0
    assert delivered({"sent": 10000}, {"received": 9989, "seconds": 2.0}) == 0.0


def run_of(near, far=(), ledger=(), cpu=0.0, **rest):
    ends = [{"figures": dict(f), "cpu": cpu / 2, "stats": {}, "ledger": dict(ledger)} for f in (near, far)]
    return Measurement(*ends, **rest)


def test_cpu_is_that_of_the_whole_machine_beyond_the_background():
    m = run_of({"payload": 2e9}, machine_cpu=3.0, seconds=2.0, background=0.5)
    assert cpu_per_gb(m) == 1.0


def test_cpu_is_never_less_than_what_the_two_processes_used():
    m = run_of({}, {"payload": 1e9}, cpu=0.75, machine_cpu=1.0, seconds=1.0, background=0.9)
    assert cpu_per_gb(m) == 0.75


def test_only_sums_in_passes_of_their_own_count():
    m = run_of({}, ledger={"tx.checksum": (10, 1), "rx.checksum": (5, 2), "tx.fused": (1000, 9), "tx.copy": (99, 1)})
    assert summed_apart(m) == 15.0
