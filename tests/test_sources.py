"""The lists that people and the build keep of the same things say the same."""

import contextlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT, load_tool

import ustack

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_build_installs_what_git_has():
    try:
        listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "ustack"], cwd=ROOT, text=True,
                                capture_output=True)
    except FileNotFoundError:
        pytest.skip("git is missing:  sudo apt-get install git")
    if listed.returncode:
        pytest.skip("not a git checkout: nothing to compare the build's list of files with")
    package_files = load_tool("package_files")
    in_git = {f for f in listed.stdout.split("\n") if Path(f).suffix in package_files.KINDS}
    assert in_git <= set(package_files.package_files())


def test_one_version():
    version = PROJECT["project"]["version"]
    assert ustack.__version__ == version
    assert re.search(rf"^\s+version: '{re.escape(version)}'", (ROOT / "meson.build").read_text(), re.M)
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_speak_of_files_and_names_that_exist(page: Path):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    dead = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"`((?:ext|ustack|tests|tools|scripts|docs)/[\w./-]+)`", text)
    dead += [path for path in paths if not (ROOT / path).exists()]
    for name in set(re.findall(r"\bustack\.([A-Za-z_]\w*)(?:\.(\w+))?", re.sub(r"github\.com\S*", "", text))):
        dead += [] if _exists(*name) else [".".join(filter(None, ("ustack", *name)))]
    assert not dead


def _exists(first: str, second: str) -> bool:
    if not hasattr(ustack, first):
        try:
            __import__(f"ustack.{first}")
        except ImportError:
            return False
    thing = getattr(ustack, first)
    with contextlib.suppress(ImportError):
        __import__(f"ustack.{first}.{second}")
    return not second or hasattr(thing, second) or second in getattr(thing, "__annotations__", {})
