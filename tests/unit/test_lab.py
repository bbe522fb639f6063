"""ustack lab: the table of experiments, verdicts by rules, the document, the command. Nothing here judges a time."""

import io
import json

import pytest

from ustack import DIRECT_LEAST
from ustack._lab import (
    bench,
    by_page,
    copies,
    copying,
    dark,
    form,
    packets,
    pages,
    pictures,
    programs,
    report,
    run,
    ways,
)
from ustack._lab.form import CONFIRMED, NOT_MEASURABLE, REFUTED, Band, Claim, Column, Experiment
from ustack._lab.progress import Progress
from ustack._lab.registry import ABSENT, EXPERIMENTS, choose
from ustack.cli import main


def verdicts(experiment, number, rows):
    claim = next(c for c in experiment.claims if c.number == number)
    return [f.verdict for f in claim.findings(rows)]


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_experiment_is_there_in_order():
    assert list(EXPERIMENTS) == [f"E{n}" for n in range(1, 26)]


@pytest.mark.parametrize("e", EXPERIMENTS.values(), ids=lambda e: e.number)
def test_an_experiment_says_what_it_does(e):
    assert e.title
    assert e.claims
    assert (e.run is None) == bool(e.absent)
    if e.run:
        assert e.how
        assert e.columns
    for c in e.claims:
        assert all((c.text, c.rule, c.number))
        assert not (c.text + " " + c.rule).endswith(".")
        assert [f.verdict for f in c.findings([])] == [NOT_MEASURABLE]
    for p in e.plots:
        keys = {c.key for c in e.columns}
        assert {p.x, *p.y.split(",")} <= keys
        assert not p.panel or p.panel in keys
        assert not p.line or p.line in keys


def test_numbers_of_claims_are_unique():
    numbers = [c.number for e in EXPERIMENTS.values() for c in e.claims]
    assert len(set(numbers)) == len(numbers)


def test_what_belongs_to_later_says_so():
    assert [e.number for e in ABSENT] == ["E10", "E18", "E19", "E25"]
    for e in ABSENT:
        assert e.absent.startswith("not in this version")


def test_choosing():
    assert [e.number for e in choose(["e3", "E1"])[0]] == ["E1", "E3"]
    assert len(choose([])[0]) == len(choose(["all"])[0]) == 25
    assert choose(["E3", "E26", "x"])[1] == ["E26", "x"]


# --- statistics -------------------------------------------------------------------------------------------------------


def test_quartiles_lie_between_samples():
    assert form.quartiles([4, 1, 3, 2, 5]) == (2, 4)
    assert form.quartiles([1, 2]) == (1.25, 1.75)
    assert form.quartiles([7]) == (7, 7)
    with pytest.raises(ValueError, match="no samples"):
        form.quartiles([])


def test_what_was_measured_is_median_quartiles_and_repeats():
    assert form.measured("ns", [5.0, 1.0, 3.0]) == {"ns": 3.0, "ns_iqr": [2.0, 4.0], "repeats": 3}


def test_a_line_is_found_again():
    a, b = form.line_through([(n, 1000 + 0.25 * n) for n in (100, 500, 1448)])
    assert a == pytest.approx(1000)
    assert b == pytest.approx(0.25)
    with pytest.raises(ValueError, match="two points"):
        form.line_through([(1, 2), (1, 3)])


def test_crossovers():
    assert form.crossover([(1, 1, 10), (2, 1, 10)]) is None
    assert form.crossover([(4, 10, 1), (8, 10, 1)]) == 4
    assert form.crossover([(4, 1, 10), (64, 10, 1)]) == pytest.approx(16)
    assert form.crossover([(4, 10, 1), (8, 1, 10), (16, 10, 1)]) == pytest.approx((8 * 16) ** 0.5)  # not the first one
    assert form.crossover([(4, 1, 10), (8, 1, 1)]) == pytest.approx(8)


def test_crossovers_have_a_spread():
    """Each round has its own; "never" is larger than every size."""
    row = form.pays_from("x", "y", [4, 64], [[1, 1, 1], [10, 10, 10]], [[10, 10, 10], [1, 1, 20]])
    assert (row["pays_low"], row["pays_from"], row["pays_high"]) == (pytest.approx(16), pytest.approx(16), None)
    assert (row["rounds"], row["largest"], row["smallest"]) == (3, 64, 4)
    never = form.pays_from("x", "y", [1024, 2048], [[1], [1]], [[2], [2]])
    assert never["pays_from"] is None
    assert form.pays_text(never) == "never up to 2 KiB"
    always = form.pays_from("x", "y", [1024, 2048], [[2], [2]], [[1], [1]])
    assert form.pays_text(always) == "from 1 KiB at most (1 KiB .. 1 KiB)"
    row = {"pays_from": None, "pays_low": 4096.0, "pays_high": None, "largest": 1 << 20, "smallest": 1}
    assert form.pays_text(row) == "never up to 1,024 KiB (in some rounds from 4 KiB)"


def test_a_size_from_which_something_pays_decides():
    def row(what, x, low=None, high=None):
        return {"table": form.PAYS, "what": what, "against": "y", "pays_from": x, "pays_low": low or x,
                "pays_high": high or x, "largest": 1 << 20, "smallest": 1024}

    rows = [row("a", 4096), row("b", None), row("c", 65536, 1024), {"what": "a", "pays_from": 1}]
    assert [f.verdict for f in form.pays()(rows)] == [CONFIRMED, REFUTED, CONFIRMED]
    assert [f.verdict for f in form.pays(8192)(rows)] == [REFUTED, REFUTED, CONFIRMED]
    assert [bool(f.remark) for f in form.pays(8192)(rows)] == [False, False, True]
    assert [f.where for f in form.pays(what=("b", "c"))(rows)] == ["b against y", "c against y"]
    assert [f.verdict for f in form.pays(high=8192)(rows)] == [CONFIRMED, REFUTED, REFUTED]
    assert [f.verdict for f in form.never_pays()(rows)] == [REFUTED, CONFIRMED, REFUTED]


def test_the_constant_of_direct_auto_is_judged():
    for size, verdict in ((DIRECT_LEAST, CONFIRMED), (DIRECT_LEAST * 3, REFUTED), (DIRECT_LEAST // 3, REFUTED)):
        row = form.pays_from(programs.SENDERS["waiting"], "copied", [size, 1 << 20], [[2], [2]], [[1], [1]])
        (found,) = programs.E21.claims[1].findings([row])
        assert found.verdict == verdict
        assert "the constant is" in found.figure


def test_a_share_of_pages_may_be_written_to():
    row = by_page.break_even([10.0] * 3, [20.0] * 3, [50.0] * 3, 4)
    assert (row["page_ns"], row["break_even"]) == (10.0, 0.25)
    assert by_page.break_even([30.0], [20.0], [50.0], 4)["break_even"] == 0      # dearer even if nobody writes
    assert "break_even" not in by_page.break_even([50.0], [20.0], [50.0], 4)


# --- rules ------------------------------------------------------------------------------------------------------------


def test_both_bounds_of_a_band_belong_to_it():
    band = Band(20, 30, "%")
    assert [band.holds(x) for x in (19.9, 20, 30, 30.1)] == [False, True, True, False]
    assert (str(band), str(Band(low=2)), str(Band(high=2, unit="ns"))) == ("20 to 30 %", "at least 2", "at most 2 ns")


def test_a_verdict_that_repeats_do_not_agree_on_is_marked():
    judge = form.in_band("x", Band(high=1), "{name}")
    found = judge([
        {"name": "clear", "x": 0.5, "x_iqr": [0.4, 0.6]},
        {"name": "close", "x": 0.9, "x_iqr": [0.8, 1.1]},
        {"name": "above", "x": 2.0, "x_iqr": [1.9, 2.1]},
        {"name": "no figure"},
        {"name": "none", "x": None},
    ])
    assert [(f.where, f.verdict, bool(f.remark)) for f in found] == [
        ("clear", CONFIRMED, False), ("close", CONFIRMED, True), ("above", REFUTED, False),
    ]


def test_rows_are_chosen_by_their_columns():
    judge = form.in_band("x", Band(low=1), "{size}", size=(2, 3), kind="a")
    rows = [{"size": n, "kind": k, "x": 1.0} for n in (1, 2, 3) for k in "ab"]
    assert [f.where for f in judge(rows)] == ["2", "3"]


def test_rising():
    rows = [{"mtu": m, "share": s} for m, s in ((9000, 60.0), (1500, 20.0))]
    assert [f.verdict for f in form.rising("share", "mtu")(rows)] == [CONFIRMED]
    assert [f.verdict for f in form.rising("share", "mtu")([*rows, {"mtu": 4000, "share": 70.0}])] == [REFUTED]
    assert form.rising("share", "mtu")(rows[:1]) == []


def copy_row(technique, copies, **more):
    return {"technique": technique, "link": "memory", "cpu_copies": copies, **more}


def test_the_ledger_has_to_say_exactly_what_is_claimed():
    rows = [copy_row("read_write", 2.0), copy_row("mmap_write", 1.0), copy_row("sendfile", 1.0),
            copy_row("sendfile_gather", 0.07)]
    assert verdicts(copies.E1, "N9", rows) == [CONFIRMED]
    assert verdicts(copies.E1, "N11", rows) == [CONFIRMED]
    assert verdicts(copies.E1, "N12", rows) == [CONFIRMED, REFUTED]
    assert verdicts(copies.E1, "T19", rows) == [NOT_MEASURABLE]


def test_a_copy_has_to_cost_half_a_memcpy():
    pair = {"pair": "a - b", "link": "tap"}
    rows = [pair | {"copies_cost": 0.5, "copies_cost_iqr": [0.5, 0.6]},
            pair | {"copies_cost": 0.4, "copies_cost_iqr": [0.3, 0.45]}]
    assert verdicts(copies.E1, "E1", rows) == [CONFIRMED, REFUTED]


def test_copies_of_a_ledger():
    booked = {"tx.copy": (100, 1), "file.read": (100, 1), "tx.fused": (100, 1), "device.tx": (150, 2)}
    assert ways.copies_of(booked, 100) == {"cpu_copies": 2.0, "device_copies": 1.5}
    assert ways.sum_of({"a": (1, 2)}, {"a": (3, 4), "b": (5, 6)}) == {"a": (4, 6), "b": (5, 6)}


def test_the_checksum_s_share_decides_per_configuration():
    found = {"copy": [75.0, 74.0, 76.0], "csum": [25.0] * 3, "separate": [100.0] * 3, "fused": [80.0] * 3}
    row = copying.copying_row("avx2", 1460, "warm", found)
    assert row["checksum_share"] == 25.0
    assert verdicts(copying.E3, "N7", [row]) == [CONFIRMED]
    assert verdicts(copying.E3, "N7", [row | {"checksum_share": 45.0}]) == [REFUTED]
    assert verdicts(copying.E3, "N7", [row | {"size": 64}]) == [NOT_MEASURABLE]


def test_packets():
    row = packets.fit_row("copy, SIMD", 1500, 1448, [(1000.0, 0.2)] * 3)
    assert row["half_at"] == pytest.approx(5000)
    assert row["share"] == pytest.approx(100 * 289.6 / 1289.6)
    assert verdicts(packets.E2, "N4", [row]) == [CONFIRMED]
    assert verdicts(packets.E2, "N3", [row]) == [REFUTED]
    assert packets.shares([(64, 7), (576, 4), (1500, 1)], 576) == (
        pytest.approx(100 * 5 / 12), pytest.approx(100 * 3804 / 4252))
    assert packets.shares([(64, 1)], None) == (0, 0)


def test_pages():
    assert verdicts(pages.E12, "N14", [{"size": 4096, "register_ratio": 1.0, "mlock_ratio": 3.0}]) == [
        CONFIRMED, REFUTED]
    assert pages.probability([100.0], [40.0], [10.0], 12) == pytest.approx(0.5)
    assert pages.probability([10.0], [40.0], [10.0], 12) == 0
    rows = [{"size": 4096, "copy_ns": 1.0, "move_ns": 10.0}, {"size": 65536, "copy_ns": 10.0, "move_ns": 1.0}]
    assert pages.crossing(rows, "copy_ns", "move_ns") == pytest.approx(16384)


# --- the document -----------------------------------------------------------------------------------------------------


def measure_nothing(lab):
    lab.missing["the other"] = "it is not there"
    return [{"technique": "x", "size": 1, **form.measured("ns", [1.0, 2.0, 3.0])}, {"table": "other", "size": 2}]


def breaks(lab):
    raise bench.CannotMeasure("no such device")


def fails(lab):
    raise KeyError("x")


def experiment(number, measure):
    claim = Claim("N0", "it is fast", "at most 5 ns", form.in_band("ns", Band(high=5, unit="ns"), "{size}"))
    return Experiment(number, "a title", "by looking", (Column("size", "bytes"), Column("ns", "time", "ns")), (claim,),
                      measure)


def test_results_become_a_document():
    told = []
    made = [experiment("E1", measure_nothing), experiment("E2", breaks), experiment("E3", fails)]
    results = run.perform_all(made, True, Progress(None), told.append)
    assert told == results
    assert [r.failed for r in results] == [False, False, True]
    document = run.document(results, True, {"cpu": "a CPU"})
    assert json.loads(json.dumps(document)) == document
    assert document["rows"] == document["experiments"][0]["rows"][:1] == [
        {"technique": "x", "size": 1, "ns": 2.0, "ns_iqr": [1.5, 2.5], "repeats": 3}]
    claims = [e["claims"][0]["findings"] for e in document["experiments"]]
    assert claims[0] == [{"where": "1", "figure": "2 ns (1.5 .. 2.5)", "verdict": CONFIRMED, "remark": ""}]
    assert claims[1][0] == {"where": "", "figure": "", "verdict": NOT_MEASURABLE, "remark": "no such device"}
    assert "KeyError" in claims[2][0]["remark"]


def test_the_text_has_all_of_it():
    result = run.perform(experiment("E1", measure_nothing), bench.Lab(quick=True))
    text = report.text_of(result.as_json())
    for part in ("E1  a title", "measured: by looking", "bytes", "time [ns]", "2 ~50%", "N0: it is fast",
                 "rule: at most 5 ns", "CONFIRMED 1: 2 ns (1.5 .. 2.5)", "not measured: the other: it is not there"):
        assert part in text


def test_rows_of_tables_are_kept_apart():
    rows = [{"size": 1, "ns": 2.0}, {"table": "fits", "a": None, "a_iqr": [None, 2.0]}]
    made = {"columns": [["size", "bytes", ""], ["ns", "time", "ns"], ["a", "a", ""]], "rows": rows}
    assert report.tables_of(made) == [("", ["bytes", "time [ns]"], [["1", "2"]]), ("fits", ["a"], [["-"]])]


def test_pictures_are_made_of_rows():
    plot = form.Plot("p", "a title", "size", "ns", "kind", panel="where", panel_title="in {where}")
    e = Experiment("E1", "t", "h", (Column("ns", "the time", "ns"), Column("other", "the other")), plots=(plot,))
    rows = [{"size": n, "ns": 10.0 * n, "kind": k, "where": w} for n in (4, 1) for k in "ab" for w in "xy"]
    rows.append({"table": "another", "size": 2, "ns": 1.0, "kind": "a", "where": "x"})
    found = {(s.name, s.panel): s.points for s in pictures.series_of(e, plot, rows)}
    assert found == {
        (k, f"in {w}"): [(1, 10.0, 10.0, 10.0), (4, 40.0, 40.0, 40.0)] for w in "xy" for k in "ab"}
    assert pictures.series_of(e, plot, rows[:1]) == []


def test_pictures_have_quartiles_and_costs_of_a_byte():
    plot = form.Plot("p", "a title", "size", "ns,other", "", per_x=True, only=(("cache", "warm"),))
    e = Experiment("E1", "t", "h", (Column("ns", "the time", "ns"), Column("other", "the other")), plots=(plot,))
    rows = [{"size": n, "ns": 10.0 * n, "ns_iqr": [5.0 * n, 20.0 * n], "other": n, "cache": c}
            for n in (8, 2) for c in ("warm", "cold")]
    assert {s.name: s.points for s in pictures.series_of(e, plot, rows)} == {
        "the time": [(2, 10.0, 5.0, 20.0), (8, 10.0, 5.0, 20.0)], "the other": [(2, 1.0, 1.0, 1.0), (8, 1.0, 1.0, 1.0)]}


def test_axes_have_few_powers_of_two():
    assert pictures.ticks(4096, 1 << 20) == [4096, 16384, 65536, 262144, 1 << 20]
    assert pictures.ticks(1, 4) == [1, 2, 4]
    assert pictures.ticks(100, 1448) == [128, 256, 512, 1024]
    assert [pictures.size_text(n) for n in (64, 4096, 1 << 20, 3 << 30, 1460)] == [
        "64", "4 KiB", "1 MiB", "3 GiB", "1460"]


@pytest.mark.parametrize("panels", ["x", "xyz"])
def test_pictures_are_drawn(tmp_path, panels):
    pytest.importorskip("matplotlib")
    plot = form.Plot("p", "a title", "size", "ns", "kind", "the size", "the time", panel="where", panel_title="{where}")
    e = Experiment("E1", "t", "h", plots=(plot,))
    rows = [{"size": n, "kind": k, "where": w, **form.measured("ns", [n * 1.0, n * 2.0, n * 3.0])}
            for n in (4096, 1 << 20) for k in ("one", "two") for w in panels]
    files = pictures.write([(e, rows)], tmp_path / "made")
    assert [f.name for f in files] == ["p.svg", "p.png"]
    text = files[0].read_text()
    for part in ("a title", "the size", "the time", "one", "two", "4 KiB", "1 MiB", *panels):
        assert part in text
    assert pictures.write([(e, rows[:1])], tmp_path) == []
    again = pictures.draw(e, plot, rows, tmp_path, ["svg"], "lab_")[0]
    assert again.name == "lab_p.svg"
    assert again.read_text() == text


# --- measuring --------------------------------------------------------------------------------------------------------


def test_repeats_come_in_turn_and_failures_are_told():
    lab, seen = bench.Lab(quick=True), []

    def one(name):
        seen.append(name)
        return float(len(seen))

    def broken():
        raise OSError("not here")

    found = lab.in_turn({"a": lambda: one("a"), "b": lambda: one("b"), "c": broken})
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}
    assert seen[2:] in (["a", "b", "b", "a", "a", "b"], ["a", "b", "a", "b", "b", "a"], list("abbaab"), list("ababab"))
    assert lab.missing == {"c": "not here"}


def test_the_bar_is_for_terminals_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    silent, shown = io.StringIO(), Terminal()
    for stream in (silent, shown):
        bar = Progress(stream, 2)
        bar.begin("E1 a title")
        bar.step()
        bar.end()
        bar.clear()
    assert silent.getvalue() == ""
    assert "1/2" in shown.getvalue()
    assert shown.getvalue().endswith("\r\x1b[K")


# --- the command ------------------------------------------------------------------------------------------------------


def test_listing(capsys):
    assert main(["lab", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 25
    assert lines[9].startswith("E10 ")
    assert "not in this version" in lines[9]


def test_an_unknown_experiment_is_an_error(capsys):
    assert main(["lab", "E99"]) == 2
    assert "E99" in capsys.readouterr().err


def test_what_is_not_there_says_why(capsys):
    assert main(["lab", "E10", "E25"]) == 0
    out = capsys.readouterr().out
    assert out.count("not in this version") >= 2
    assert NOT_MEASURABLE in out


def test_a_file_that_cannot_be_written_is_told_at_once(capsys):
    assert main(["lab", "E3", "--json", "/nonexistent/lab"]) == 1
    assert "/nonexistent/lab" in capsys.readouterr().err


def test_without_matplotlib_plots_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(pictures, "why_not", lambda: "matplotlib is missing")
    assert main(["lab", "E3", "--plots", "/nonexistent"]) == 2
    assert "matplotlib is missing" in capsys.readouterr().err


def test_a_cheap_experiment_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "QUICK_SIZES", (4096, 65536))
    file = tmp_path / "lab.json"
    assert main(["lab", "E12", "E14", "--quick", "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    assert document["mode"] == "quick"
    assert [e["number"] for e in document["experiments"]] == ["E12", "E14"]
    for e in document["experiments"]:
        measured = [row for row in e["rows"] if "table" not in row]
        assert [row["size"] for row in measured] == [4096, 65536]
        assert all(row["copy_ns"] > 0 for row in measured)
    assert "rule: " in capsys.readouterr().out


@pytest.mark.parametrize(("bed", "expected"), [
    (ways.over_memory, {"read_write": 2, "mmap_write": 1, "sendfile": 1, "write": 1, "cow": 0}),
    (ways.by_fbufs, {"fbuf": 0, "fbuf_copy": 1}),
    (ways.through_a_middle, {"splice": 0, "recv_send": 2}),
], ids=["memory", "channel", "middle"])
def test_copies_are_counted(bed, expected):
    with bed() as samples:
        rows = {s.technique: s.row([s.run(0.0)]) for s in samples}
    assert {t: row["cpu_copies"] for t, row in rows.items()} == expected
    for row in rows.values():
        assert {"technique", "link", "cpu_copies", "device_copies", "ns_per_byte", "proof"} <= set(row)
        assert row["proof"] in ("ledger", "identity", "prot_none")
        assert row["expected"] == row["cpu_copies"]


@pytest.mark.parametrize("technique", dark.PROOFS)
def test_a_technique_sends_what_its_process_cannot_read(technique):
    assert dark.proves(technique)


def test_not_every_technique_does():
    assert not dark.proves("write")


def test_zeros_need_a_proof():
    rows = [copy_row("cow", 0, proof="ledger"), copy_row("cow", 0, proof="prot_none"),
            copy_row("direct", 0, proof="ledger"), copy_row("recv_flip", 0, proof="identity"),
            copy_row("write", 1, proof="ledger")]
    claim = next(c for c in copies.E1.claims if c.number == "E1b")
    assert {f.where: f.verdict for f in claim.findings(rows)} == {
        "cow": CONFIRMED, "direct": REFUTED, "recv_flip": CONFIRMED}


def test_ends_that_fall_out_of_step_end_the_experiment():
    """A way that fails is left out otherwise; here the other end would wait for it for ever."""
    def breaks(how):
        raise TimeoutError("nobody answers")

    with pytest.raises(RuntimeError, match="nobody answers"):
        bench.Lab(quick=True).in_turn({"x": lambda: programs.in_step(breaks, "x")})
