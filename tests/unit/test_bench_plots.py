"""The figures of ``ustack bench --plots``: which files are made, and that the lines are in them."""

import json
import re
import sys

import pytest

from ustack._bench import plots
from ustack.cli import main

FIGURES = [
    plots.Figure(
        "throughput", "a title", "bytes a call", "Gbit/s",
        [plots.Series(who, panel, [(64.0, 0.1 * k), (1024.0, 2.0), (65536.0, 30.0)])
         for panel in ("to Linux", "from Linux") for k, who in enumerate(("ustack", "kernel"), 1)],
        sizes=True,
    ),
    plots.Figure(
        "round_trips", "another", "µs", "share",
        [plots.Series(who, "block", [(10.0 + n, n / 20) for n in range(21)]) for who in ("ustack", "kernel")],
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    pytest.importorskip("matplotlib")
    directory = tmp_path_factory.mktemp("plots") / "made" / "for it"
    return directory, plots.draw(FIGURES, directory)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_figure_is_a_vector_and_a_bitmap_beside_the_numbers(drawn):
    directory, files = drawn
    names = ["throughput.svg", "throughput.png", "round_trips.svg", "round_trips.png", "plots.json"]
    assert files == [directory / name for name in names]
    assert all(f.stat().st_size > 1000 for f in files)
    assert (directory / "throughput.png").read_bytes().startswith(b"\x89PNG")


def test_every_line_is_drawn_with_all_its_points(drawn):
    directory, _ = drawn
    for figure in FIGURES:
        text = (directory / f"{figure.name}.svg").read_text()
        for s in figure.series:
            path = re.search(rf'<g id="{s.name} {s.panel}">\s*<path d="([^"]*)"', text)
            assert path is not None, s
            assert len(re.findall("[ML]", path[1])) == len(s.points)
        for word in ("ustack", "kernel", figure.title, figure.x, figure.y):
            assert f">{word}<" in text


def test_the_numbers_can_be_read_again(drawn):
    directory, _ = drawn
    found = json.loads((directory / "plots.json").read_text())
    assert [f["name"] for f in found] == ["throughput", "round_trips"]
    assert found[0]["series"][1] == {
        "name": "kernel", "panel": "to Linux", "points": [[64.0, 0.2], [1024.0, 2.0], [65536.0, 30.0]],
    }  # fmt: skip


def test_without_matplotlib_the_remedy_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--plots", str(tmp_path / "figures")]) == 2
    assert "pip install 'ustack[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()
