"""tools/lab_page.py: what a run said goes between the marks of docs/lab.md, and nowhere else."""

import json
import re
from pathlib import Path

import pytest
from helpers import load_tool

from ustack._lab.form import CONFIRMED, NOT_MEASURABLE, REFUTED
from ustack._lab.registry import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
lab_page = load_tool("lab_page")

MACHINE = {
    "cpu": "a CPU", "cpus": 2, "kernel": "6.18", "python": "3.11", "ustack": "0.1", "time": "now",
    "background_cpus": 0.02, "background_cpus_at_end": 0.5,
}  # fmt: skip
EXPERIMENT = {
    "number": "E3", "title": "a title", "how": "by looking", "seconds": 2.5, "missing": {"x": "no TAP"}, "not_run": "",
    "columns": [["size", "bytes", ""], ["ns", "time", "ns"]],
    "rows": [{"size": 64, "ns": 1234.5, "ns_iqr": [1200.0, 1300.0]}, {"table": "a|b", "size": 128}],
    "claims": [{
        "number": "N7", "claim": "it is fast", "rule": "at most 5 ns",
        "findings": [
            {"where": "64 B", "figure": "1 | 2", "verdict": CONFIRMED, "remark": ""},
            {"where": "", "figure": "", "verdict": NOT_MEASURABLE, "remark": "no device"},
        ],
    }],
}  # fmt: skip
DOCUMENT = {"machine": MACHINE, "mode": "full", "seconds": 400.4, "rows": [], "experiments": [EXPERIMENT]}


def page(*names):
    return "before\n" + "".join(
        f"prose of {n}\n{lab_page.begin(n)}former\n{lab_page.end(n)}" for n in names) + "after\n"


def test_a_part_has_figures_and_verdicts():
    text = lab_page.part(EXPERIMENT)
    assert "*Measured:* by looking\n" in text
    assert "| bytes | time [ns] |\n|---|---|\n| 64 | 1,234 ~8% |\n" in text
    assert "**a|b**\n\n| bytes |" in text
    assert "Not measured: x: no TAP\n" in text
    assert "**N7**: it is fast.  \nRule: at most 5 ns.\n" in text
    assert f"- **{CONFIRMED}** 64 B: 1 \\| 2\n- **{NOT_MEASURABLE}** (no device)\n" in text
    assert text.endswith(")\n")


@pytest.mark.parametrize(("found", "text"), [
    ([CONFIRMED], "CONFIRMED"),
    ([REFUTED] * 3, "REFUTED (3 of 3)"),
    ([CONFIRMED, REFUTED, CONFIRMED], "CONFIRMED in 2, REFUTED in 1 of 3"),
    ([NOT_MEASURABLE] * 2, "NOT MEASURABLE"),
])
def test_verdicts_in_short(found, text):
    assert lab_page.tally({"findings": [{"verdict": v} for v in found]}) == text


def test_the_parts_of_a_page_are_replaced_and_the_rest_stays(tmp_path):
    data, target = tmp_path / "lab.json", tmp_path / "lab.md"
    data.write_text(json.dumps(DOCUMENT))
    target.write_text(page("machine", "verdicts", "E3", "E4"))
    for _ in range(2):
        assert lab_page.main([str(data), "--into", str(target)]) == 0
        text = target.read_text()
        assert text.count("former") == 1       # E4 was not run
        assert "a CPU, 2 CPUs, Linux 6.18, Python 3.11, ustack 0.1; full run, now; 0.02 CPUs busy" in text
        assert "The run took 400 s." in text
        assert "| [E3](#e3) | N7 | it is fast | CONFIRMED in 1, NOT MEASURABLE in 1 of 2 |" in text
        for part in ("before", "after", "prose of E3"):
            assert part in text


def test_pictures_are_drawn_beside_the_page_and_shown_in_it(tmp_path):
    pytest.importorskip("matplotlib")
    (plot,) = (p for p in EXPERIMENTS["E14"].plots if p.name in lab_page.SHOWN)
    rows = [{"size": n, **dict.fromkeys(plot.y.split(","), 2.0 * n)} for n in (4096, 65536)]
    data, target = tmp_path / "lab.json", tmp_path / "lab.md"
    data.write_text(json.dumps(DOCUMENT | {"experiments": [EXPERIMENT | {"number": "E14", "rows": rows}]}))
    target.write_text(page("machine", "verdicts", "E14"))
    assert lab_page.main([str(data), "--into", str(target)]) == 0
    (path,) = re.findall(r"!\[Moving pages against copying them\]\((.*)\)", target.read_text())
    assert "<svg" in (tmp_path / path).read_text()
    assert [f.name for f in (tmp_path / "figures").iterdir()] == [Path(path).name] == ["lab_e14_flip.svg"]


def test_without_matplotlib_a_page_has_no_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab_page.pictures, "why_not", lambda: "it is missing")
    data, target = tmp_path / "lab.json", tmp_path / "lab.md"
    data.write_text(json.dumps(DOCUMENT))
    target.write_text(page("machine", "verdicts", "E3"))
    assert lab_page.main([str(data), "--into", str(target)]) == 0
    assert "no pictures: it is missing" in capsys.readouterr().err
    assert "![" not in target.read_text()


def test_every_picture_that_is_shown_exists():
    assert set(lab_page.SHOWN) <= {p.name for e in EXPERIMENTS.values() for p in e.plots}


def test_a_page_without_marks_is_left_alone(tmp_path, capsys):
    data, target = tmp_path / "lab.json", tmp_path / "lab.md"
    data.write_text(json.dumps(DOCUMENT))
    target.write_text(page("machine", "verdicts"))
    assert lab_page.main([str(data), "--into", str(target)]) == 1
    assert target.read_text() == page("machine", "verdicts")
    assert "needs a line" in capsys.readouterr().err


def test_without_a_page_all_is_printed(tmp_path, capsys):
    data = tmp_path / "lab.json"
    data.write_text(json.dumps(DOCUMENT))
    assert lab_page.main([str(data)]) == 0
    assert "## E3\n" in capsys.readouterr().out


def test_the_page_of_the_project_has_a_place_for_everything():
    text = (ROOT / "docs" / "lab.md").read_text()
    for name in ("machine", "verdicts", *EXPERIMENTS):
        assert lab_page.replaced(text, name, "x") != text
    assert set(re.findall(r'<a id="(e\d+)">', text)) == {n.lower() for n in EXPERIMENTS}
