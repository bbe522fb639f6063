"""``ustack bench`` from the command line to the rows it writes. What the figures are is nobody's business here."""

import json
import os

import pytest

from ustack.cli import main

KEYS = {
    "name", "api", "wait", "placement", "unit", "better", "ustack", "baseline", "baseline_name", "ratio", "rounds",
    "pairs", "ledger", "notes",
}  # fmt: skip


def bench(tmp_path, *names):
    file = tmp_path / "rows.json"
    status = main(["bench", *names, "--quick", "--rounds", "1", "--json", str(file)])
    return status, json.loads(file.read_text())


def test_rows_without_a_wire(tmp_path, capsys):
    status, result = bench(tmp_path, "checksum.fused_over_memcpy.block")
    assert status == 0
    assert result["machine"]["kernel"]
    assert [set(r) for r in result["rows"]] == [KEYS]
    assert result["rows"][0]["notes"]["bytes"] == 4096
    assert "checksum.fused_over_memcpy.block.same.c" in capsys.readouterr().out


def test_an_unknown_name_is_named(capsys):
    assert main(["bench", "tcp.nonsense"]) == 2
    assert "tcp.nonsense" in capsys.readouterr().err


def test_the_list_has_every_row(capsys):
    assert main(["bench", "--list"]) == 0
    assert "* tcp.rtt.tap.block.same.python\n" in capsys.readouterr().out


# By wire: those that share one are measured over the same.
ROWS = {
    "tcp.bulk.tap.to_linux.block.same": "tx.copy",
    "tcp.rtt.tap.accept.block.same": "tx.copy",
    "udp.pps.one.from_linux.block.same": "rx.copy",
    "udp.pps.batch.block.same": "tx.copy",
    "udp.pps.batch.from_linux.1400.block.same": "rx.copy",
    "udp.pps.gso.1400.block.same": "tx.copy",
    "udp.pps.gso.from_linux.block.same": "rx.copy",
    "tcp.bulk.tap1500.from_linux.block.same": "rx.copy",
    "tcp.bulk.ring1500.to_linux.block.same": "tx.copy",
    "tcp.bulk.memory.block.same": "rx.copy",
    "tcp.rtt.tap.threads8.block.same": "tx.copy",
    "pipe.bulk.16000.block.same": "pipe.drain",
    "pipe.pps.block.same": "pipe.inject",
    "python.send_call.memory.block.same": "tx.copy",
    "python.recv_call.memory.block.same": "rx.copy",
    "cpu.per_gb.tap.to_linux.block.same": "tx.copy",
    "connect.rate.block.same": "rx.copy",
    "ledger.checksum.tap1500.to_linux.block.same": "tx.copy",
    "sendfile.gather.tap.block.same": "device.tx",
    "splice.proxy.tap.block.same": "device.tx",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run of all of them."""
    status, result = bench(tmp_path_factory.mktemp("bench"), *ROWS)
    assert status == 0, result["not_run"]
    return {row["notes"]["full_name"]: row for row in result["rows"]}


@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("name", ROWS)
def test_rows_on_wires(measured, name):
    row = measured[f"{name}.python"]
    assert set(row) == KEYS
    assert row["rounds"] == len(row["pairs"]) == 1
    assert row["ustack"] > 0 or name.startswith("ledger.")
    assert row["baseline"] > 0
    assert row["ledger"][ROWS[name]][0] > 0


@pytest.mark.root
@pytest.mark.tun
def test_what_is_summed_apart_is_compared_with_the_payload(measured):
    row = measured["ledger.checksum.tap1500.to_linux.block.same.python"]
    apart = row["ledger"].get("tx.checksum", [0])[0] + row["ledger"].get("rx.checksum", [0])[0]
    assert row["baseline"] == pytest.approx(row["notes"]["payload_bytes"], rel=1e-4)
    assert row["ustack"] == pytest.approx(apart, rel=1e-4)


@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith(("sendfile.gather", "splice."))])
def test_what_claims_no_copies_makes_none(measured, name):
    ledger = measured[f"{name}.python"]["ledger"]       # a byte or two of the test's own
    assert sum(ledger.get(reason, (0, 0))[0] for reason in ("tx.copy", "rx.copy", "file.read")) < 100


@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("wire", ["ring1500.to_linux", "tap1500.from_linux"])
def test_a_wire_without_offloads_carries_packets_of_the_mtu(measured, wire):
    notes = measured[f"tcp.bulk.{wire}.block.same.python"]["notes"]
    assert 0 < notes["mean_rx_frame"] <= 1514
    assert 0 < notes["mean_tx_frame"] <= 1514


@pytest.mark.root
@pytest.mark.tun
def test_rows_in_c(tmp_path):
    names = [f"{n}.block.same.c" for n in ("splice.proxy", "splice.proxy.tap", "tcp.bulk.tap.to_linux",
                                           "tcp.bulk.memory", "tcp.rtt.tap", "udp.pps.one")]
    status, result = bench(tmp_path, *names)
    assert status == 0, result["not_run"]
    assert [row["notes"]["full_name"] for row in result["rows"]] == names
    assert all(row["api"] == "c" and row["ustack"] > 0 and row["baseline"] > 0 for row in result["rows"])


@pytest.mark.root
@pytest.mark.tun
def test_what_the_figures_show_is_measured(tmp_path, monkeypatch, capsys):
    from ustack._bench import plots

    drawn = []
    trips = ["block, same core", "block, two cores", "spin, two cores"][: 3 if len(os.sched_getaffinity(0)) > 1 else 1]
    monkeypatch.setattr(plots, "why_not", lambda: None)
    monkeypatch.setattr(plots, "SIZES", (64, 65536))
    monkeypatch.setattr(plots, "draw", lambda figures, directory: drawn.extend(figures) or [directory / "a.svg"])
    assert main(["bench", "--plots", str(tmp_path), "--quick", "--rounds", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.svg'}\n"
    assert [f.name for f in drawn] == ["throughput", "round_trips", "cpu_per_byte"]
    for figure in drawn:
        panels = ["to Linux", "from Linux"] if figure.sizes else trips
        assert [(s.panel, s.name) for s in figure.series] == [(p, w) for p in panels for w in ("ustack", "kernel")]
        for s in figure.series:
            assert [x for x, _ in s.points] == [64, 65536] if figure.sizes else len(s.points) == 201
            assert all(y >= 0 for _, y in s.points)
