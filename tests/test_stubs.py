"""The stubs of the compiled modules say what is really there (mypy.stubtest), for what users import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_stubs_agree_with_the_modules():
    pytest.importorskip("mypy.stubtest")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mypy.stubtest", "ustack", "--concise",
         "--mypy-config-file", str(ROOT / "pyproject.toml"),
         "--allowlist", str(ROOT / "tests" / "stubtest.allow"),
         "--ignore-unused-allowlist"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
