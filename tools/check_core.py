"""Hold the core to its rules: no Python objects outside the room py, functions that can be seen whole.

    tools/check_core.py [--build DIR]

The sources are searched for what makes Python objects (def, class, import, raise, print, functions that are
not ``noexcept nogil``). With a build folder, the C that Cython made of them is searched too: a call of the C
API inside a core function is a Python object that the source did not show.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOM_WITH_OBJECTS = "py"
LONGEST_FUNCTION = 60           # the aim is 40; what is longer than this must be listed below with its reason
LONGER: dict[str, str] = {}     # "room/file.pyx:function": why it reads better whole

STATEMENT = re.compile(
    r"\s*(def|cpdef|class|cdef\s+class|import|raise|print|try|with|lambda|yield|assert|async)\b")
FUNCTION = re.compile(
    r"\s*cdef\s+(?!extern|class|enum|struct|union|packed)[^=(]*?\b(?P<name>(?!sizeof\b)\w+)\(")
ENDING = re.compile(r"\)\s*(?:noexcept\s+nogil|nogil\s+noexcept)\s*(?::|$|#)")
FROM_IMPORT = re.compile(r"\s*from\s+\S+\s+import\b")
PYTHON_NAME = re.compile(r"\bcdef\s+(?:object|list|dict|tuple|str|bytes|bytearray|set)\b|\bcpython\b")

C_FUNCTION = re.compile(r"^static\s.*?\b__pyx_f_\w*?_(?P<name>\w+)\(.*\{\s*$")
C_API = re.compile(
    r"\b(?:Py[A-Z]\w*_\w+|Py_(?:INCREF|DECREF|XDECREF|BuildValue)|__Pyx_(?:Py\w+|Get\w*Name\w*|Raise\w*|Import\w*"
    r"|XDECREF|DECREF|INCREF|WriteUnraisable|AddTraceback))\s*\(")


@dataclass(frozen=True)
class Finding:
    """One broken rule."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments, docstrings, and the bodies of verbatim C; continued lines in one."""
    blank = re.sub(r'("""|\'\'\').*?\1', lambda m: "''" + "\n" * m.group().count("\n"), text, flags=re.S)
    blank = re.sub(r"\\\n([^\n]*)", r" \1\n", blank)
    for number, line in enumerate(blank.split("\n"), 1):
        yield number, re.sub(r"\s*#.*", "", line)


def joined(lines: list[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, text) of statements, with lines that brackets leave open put together."""
    start, text, depth = 0, "", 0
    for number, line in lines:
        if not depth:
            start, text = number, ""
        text += (" " if depth else "") + (line.strip() if depth else line)
        depth += sum(line.count(c) for c in "([{") - sum(line.count(c) for c in ")]}")
        depth = max(depth, 0)
        if not depth:
            yield start, number, text


def check_source(name: str, text: str) -> list[Finding]:
    """What in a .pyx or .pxd of the core may make Python objects, and functions that are too long."""
    found: list[Finding] = []
    lines = list(code_lines(text))
    extern = -1                     # indentation of a `cdef extern` block that we are in
    open_function: tuple[int, str, int] | None = None      # line, name, indent
    last_code = 0

    def close_function() -> None:
        if open_function:
            length = last_code - open_function[0] + 1
            if length > LONGEST_FUNCTION and f"{name}:{open_function[1]}" not in LONGER:
                found.append(Finding(name, open_function[0],
                                     f"{open_function[1]} has {length} lines: more than {LONGEST_FUNCTION}"))

    for first, last, line in joined(lines):
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if extern >= 0 and indent <= extern:
            extern = -1
        if open_function and indent <= open_function[2]:
            close_function()
            open_function = None
        if re.match(r"\s*cdef\s+extern\b", line):
            extern = indent
        last_code = last
        if (m := STATEMENT.match(line)) and extern < 0 and not re.match(r"\s*with\s+nogil\b", line):
            found.append(Finding(name, first, f"`{m[1]}` belongs in the room {ROOM_WITH_OBJECTS}"))
        elif FROM_IMPORT.match(line):
            found.append(Finding(name, first, f"`import` belongs in the room {ROOM_WITH_OBJECTS}: cimport"))
        elif PYTHON_NAME.search(line):
            found.append(Finding(name, first, "a Python type in the core"))
        elif (f := FUNCTION.match(line)) and extern < 0:
            if not ENDING.search(line):
                found.append(Finding(name, first, f"{f['name']} is not `noexcept nogil`"))
            if line.rstrip().endswith(":"):
                open_function = (first, f["name"], indent)
    close_function()
    return found


def check_c(name: str, text: str) -> list[Finding]:
    """Calls of the C API inside the functions of one generated file."""
    found: list[Finding] = []
    inside = ""
    for number, line in enumerate(text.split("\n"), 1):
        if m := C_FUNCTION.match(line):
            inside = m["name"]
        elif line.startswith("}"):
            inside = ""
        elif inside and not line.lstrip().startswith(("*", "/*")) and (call := C_API.search(line)):
            found.append(Finding(name, number, f"{inside} calls {call.group().rstrip('( ')}"))
    return found


def core_sources() -> list[Path]:
    """The .pyx and .pxd files outside the room that has objects."""
    return [p for p in sorted((ROOT / "ext").glob("*/*.p[yx][xd]")) if p.parent.name != ROOM_WITH_OBJECTS]


def generated(build: Path) -> list[Path]:
    """The C of the same files below a build folder."""
    found = sorted(build.glob("ext/*/*.p/*.pyx.c")) or sorted(build.glob("*/ext/*/*.p/*.pyx.c"))
    return [p for p in found if p.parent.parent.name != ROOM_WITH_OBJECTS]


def main() -> int:
    """Print what is found; the exit status says whether there was anything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, help="build folder whose generated C is searched too")
    args = parser.parse_args()
    sources = core_sources()
    found = [f for p in sources for f in check_source(f"{p.parent.name}/{p.name}", p.read_text())]
    count = 0
    if args.build:
        for path in generated(args.build):
            count += 1
            found += check_c(f"{path.parent.parent.name}/{path.name}", path.read_text())
        if not count:
            found.append(Finding(str(args.build), 0, "no generated C below this folder"))
    for finding in found:
        print(finding)
    print(f"{len(sources)} sources and {count} generated files of the core: {len(found) or 'no'} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
