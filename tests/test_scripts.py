"""The README's two commands on machines that lack things: one sentence says what to install."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

NEEDED = ["bash", "id", "mkdir", "dirname", "sha256sum", "cut", "sort", "find", "xargs", "flock", "cat", "touch", "rm",
          "uname", "tr"]


@pytest.fixture
def bare(tmp_path) -> Path:
    """A PATH with next to nothing on it: no compiler, no Python, no apt-get, no programs that tests talk to."""
    for name in NEEDED:
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    return tmp_path


def run(script: str, path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script)], text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
        env={"PATH": str(path), "HOME": str(path)} | env)


def test_without_python_and_compiler(bare):
    done = run("demo", bare)
    assert done.returncode == 1
    assert done.stderr.split("\n") == [
        "missing: python3 python3-venv python3-dev gcc libc6-dev. "
        "Install it with:  sudo apt-get install python3 python3-venv python3-dev gcc libc6-dev", ""]


def test_without_a_compiler(bare):
    (bare / "python3").symlink_to(shutil.which("python3"))
    done = run("demo", bare)
    assert done.returncode == 1
    assert "sudo apt-get install gcc libc6-dev\n" in done.stderr


def test_with_a_python_that_is_too_old(bare):
    old = bare / "python3"
    old.write_text('#!/bin/bash\ncase "$*" in *version_info*) exit 1;; *-V*) echo Python 3.9.2;; esac\n')
    old.chmod(0o755)
    done = run("demo", bare, CC="cc")
    assert done.returncode == 1
    assert done.stderr == ("Python 3.11 or newer is needed, Python 3.9.2 was found: "
                           "install one and set PYTHON=/path/to/it\n")


def test_tests_name_the_programs_that_they_would_like(bare):
    done = run("test", bare)
    assert done.returncode == 1
    assert "iputils-ping curl ncat" in done.stderr


@pytest.mark.parametrize("script", ["scripts/test", "scripts/demo", "scripts/lib.sh", ".ci/run"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True, timeout=60)
    assert script.endswith(".sh") or os.access(ROOT / script, os.X_OK)
