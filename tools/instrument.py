"""Compile the C of a finished build once more with other flags: for sanitizers, and for coverage.

    tools/instrument.py BUILD OUT [--rooms tcp,inet] FLAG...

BUILD is meson's folder, in which Cython has done its work already. OUT becomes a folder for PYTHONPATH that holds the
whole package; what has not changed since the last time is not compiled again. Flags go behind those of the build, in
all rooms of the core or in those that are named.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOVED = (".o", ".o.d", ".a", ".so")     # what a command makes, or takes from another


def commands(build: Path) -> list[list[str]]:
    """The compilers', archivers' and linkers' commands, in an order that works."""
    text = subprocess.run(["ninja", "-C", str(build), "-t", "commands"], capture_output=True, text=True, check=True)
    found = []
    for line in text.stdout.splitlines():
        _, _, rest = line.rpartition("&& ")     # the archive is removed before it is made anew
        words = shlex.split(rest)
        if any(Path(word).name.endswith(("cc", "gcc-ar", "ar", "clang")) for word in words[:2]):
            found.append(words)
    return found


def moved(words: list[str], out: Path, flags: list[str], rooms: list[str]) -> list[str]:
    """The command with its results and intermediate files below ``out``, and the flags added."""
    new = [str(out / "build" / word) if word.startswith("ext/") and word.endswith(MOVED) else word for word in words]
    meant = "-o" in words and (not rooms or words[words.index("-o") + 1].split("/")[1] in rooms)
    return [*new, *flags] if meant else new


def inputs(words: list[str], build: Path) -> list[Path]:
    """What a command reads."""
    return [build / word for word in words[1:] if word.endswith((".c", ".o", ".a")) and not word.startswith("-")]


def result(words: list[str]) -> Path:
    """What it makes."""
    if "-o" in words:
        return Path(words[words.index("-o") + 1])
    return next(Path(word) for word in words if word.endswith(".a"))


def run(words: list[str], build: Path) -> None:
    """One command, unless its result is newer than all it is made of."""
    made = result(words)
    made.parent.mkdir(parents=True, exist_ok=True)
    sources = [p for p in inputs(words, build) if p != made]
    if made.exists() and all(p.stat().st_mtime < made.stat().st_mtime for p in sources):
        return
    if made.suffix == ".a":
        made.unlink(missing_ok=True)
    done = subprocess.run(words, cwd=build, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}\n{done.stderr}")


def build_all(build: Path, out: Path, flags: list[str], rooms: list[str]) -> None:
    """Compile, archive, link; each in parallel."""
    stamp = out / "flags"
    how = shlex.join([*rooms, *flags])
    if not stamp.exists() or stamp.read_text() != how:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        stamp.write_text(how)
    steps: tuple[list[list[str]], ...] = ([], [], [])
    for words in commands(build):
        kind = 0 if "-c" in words else 1 if result(words).suffix == ".a" else 2
        steps[kind].append(moved(words, out, flags, rooms))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in steps:
            list(pool.map(lambda words: run(words, build), step))


def package(out: Path) -> None:
    """The Python of the package, with the modules in their rooms."""
    target = out / "ustack"
    shutil.copytree(ROOT / "ustack", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (out / "build" / "ext").rglob("*.so"):
        room = target / "_core" / module.parent.name
        room.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, room / module.name)


def main() -> None:
    """The whole of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rooms", default="", help="only these get the flags, separated by commas")
    arguments, flags = parser.parse_known_args()
    out = arguments.out.resolve()
    build_all(arguments.build.resolve(), out, flags, [room for room in arguments.rooms.split(",") if room])
    package(out)


if __name__ == "__main__":
    sys.exit(main())
