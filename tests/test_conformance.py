"""The list of what the stack does: every sentence has a test or a reason, and the page is the list's."""

import copy
import tomllib

from helpers import load_tool

tool = load_tool("conformance")
DATA = tomllib.loads(tool.SOURCE.read_text())


def test_the_list_is_right_and_the_page_is_made_of_it():
    assert tool.main(["--check"]) == 0


def test_what_is_wrong_is_found():
    assert tool.problems(DATA) == []
    bad = copy.deepcopy(DATA)
    bad["files"]["gone"] = "tests/test_gone.py"
    bad["row"].append(copy.deepcopy(bad["row"][0]))
    bad["row"][1]["line"][0]["tests"].append("arp.nobody_wrote_this")
    bad["row"][2]["line"][0] = {"says": "What nobody proved.", "rfc": ""}
    found = tool.problems(bad)
    assert len(found) == 4
    assert [any(word in line for line in found) for word in ("test_gone", "twice", "nobody_wrote_this", "neither")] == [
        True] * 4


def test_a_stale_page_is_found(monkeypatch, capsys):
    monkeypatch.setattr(tool, "PAGE", tool.ROOT / "docs" / "testing.md")
    assert tool.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
