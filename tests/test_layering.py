"""The rooms of the core and the arrows between them. Try not to let this table grow."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXT = ROOT / "ext"

# room -> rooms that it may cimport from (itself always)
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "sys": {"base"},
    "wire": {"base"},
    "mem": {"base", "sys"},
    "link": {"base", "sys", "mem"},
    "inet": {"base", "mem", "wire"},
    "udp": {"base", "mem", "wire", "inet"},
    "tcp": {"base", "mem", "wire", "inet"},
    "via": {"base", "mem", "wire", "inet"},
    "zerocopy": {"base", "sys", "mem", "wire", "tcp"},
    "stack": {"base", "sys", "mem", "wire", "link", "inet", "udp", "tcp", "zerocopy"},
    "py": {"base", "sys", "mem", "wire", "link", "inet", "udp", "tcp", "zerocopy", "stack", "via"},
}
CIMPORT = re.compile(
    r"^\s*(?:from\s+ustack\._core\.(\w+)\S*\s+c?import|c?import\s+ustack\._core\.(\w+))", re.M)
SOURCES = sorted(EXT.glob("*/*.p[yx][xd]"))


def arrows(path: Path) -> set[str]:
    return {a or b for a, b in CIMPORT.findall(path.read_text())}


def test_there_are_sources():
    assert len(SOURCES) > 20
    assert {p.parent.name for p in SOURCES} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_arrows_point_down_only(path: Path):
    room = path.parent.name
    upward = arrows(path) - ALLOWED[room] - {room}
    assert not upward, f"{room}/{path.name} reaches into {sorted(upward)}"


def test_the_check_can_fail(tmp_path: Path):
    bad = tmp_path / "x.pyx"
    bad.write_text("from ustack._core.stack.engine cimport engine\n"
                   "from ustack._core.base.seq cimport seq_lt\n")
    assert arrows(bad) == {"stack", "base"}


@pytest.mark.parametrize("path", sorted((ROOT / "ustack").glob("*.py")), ids=lambda p: p.name)
def test_python_sees_only_the_room_py(path: Path):
    reached = re.findall(r"ustack\._core\.(\w+)", path.read_text())
    assert set(reached) <= {"py"}
