"""The checks in tools/ must be able to fail, and the core must pass them."""

import pytest
from helpers import load_tool

check_core = load_tool("check_core")
requirements = load_tool("requirements")

GOOD = '''
"""A docstring may speak of def, class and import."""
from libc.stdint cimport uint32_t
from ustack._core.base.seq cimport seq_lt

cdef extern from "x.h" nogil:
    int import_me(int a)
    """
    static int def(void) { return 1; }   /* verbatim C */
    """
ctypedef int (*callback)(void *arg) noexcept nogil

cdef struct thing:
    uint32_t a
    callback fn

cdef inline int twice(int a) noexcept nogil:
    cdef int b = import_me(a)
    cdef char room[sizeof(thing)]
    return a + b

cdef int declared(thing *t,
                  int long_list) noexcept nogil
cdef int continued(thing *t) \\
    noexcept nogil
'''


def test_good_source_has_no_findings():
    assert check_core.check_source("x.pyx", GOOD) == []


@pytest.mark.parametrize("bad", [
    "def f(): pass\n",
    "cpdef int f() noexcept nogil: return 1\n",
    "cdef class Handle:\n    pass\n",
    "class Handle:\n    pass\n",
    "import os\n",
    "from os import path\n",
    "cdef int f(int a):\n    return a\n",
    "cdef int f(int a) except -1 nogil:\n    return a\n",
    "cdef int f(int a) noexcept:\n    return a\n",
    "cdef int f(int a,\n           int b) nogil\n",
    "cdef void f() noexcept nogil:\n    print(1)\n",
    "cdef void f() noexcept nogil:\n    raise ValueError\n",
    "cdef void f() noexcept nogil:\n    with gil:\n        pass\n",
    "cdef list names\n",
    "from cpython.bytes cimport PyBytes_FromString\n",
    "cdef void f() noexcept nogil:\n" + "    g()\n" * 61,
])
def test_bad_source_is_found(bad: str):
    assert check_core.check_source("x.pyx", GOOD + bad)


def test_findings_name_the_line():
    (finding,) = check_core.check_source("room/x.pyx", "cdef int a\n\nimport os\n")
    assert str(finding).startswith("room/x.pyx:3: ")


def test_python_calls_in_generated_c_are_found():
    body = "static int __pyx_f_6ustack_5_core_3mem_f(int a) {{\n  {}\n}}\n"
    assert check_core.check_c("x.c", body.format("return a + 1;")) == []
    for call in ("__pyx_t_1 = PyNumber_Add(a, b);", "__Pyx_XDECREF(t);", "__Pyx_WriteUnraisable(\"f\");",
                 "PyGILState_STATE s = PyGILState_Ensure();", "__Pyx_RaiseUnboundLocalError(\"x\");"):
        assert check_core.check_c("x.c", body.format(call)), call
    outside = "static int __pyx_pymod_exec_x(PyObject *m) {\n  PyDict_New();\n}\n"
    assert check_core.check_c("x.c", outside) == []


def test_the_core_keeps_its_rules():
    found = [f for p in check_core.core_sources()
             for f in check_core.check_source(f"{p.parent.name}/{p.name}", p.read_text())]
    assert not found, "\n".join(map(str, found))


def test_requirements_of_groups_include_what_they_include():
    project = {
        "project": {"optional-dependencies": {"extra": ["e"]}},
        "dependency-groups": {"a": ["x>=1", {"include-group": "b"}], "b": ["y"]},
    }
    assert requirements.requirements(project, "a") == ["x>=1", "y"]
    assert requirements.requirements(project, "extra") == ["e"]
    with pytest.raises(SystemExit, match="'c'"):
        requirements.requirements(project, "c")


# --- the table of docs/performance.md ---------------------------------------------------------------------------------

bench_table = load_tool("bench_table")


def bench_document(*names, not_run=(), **changes):
    row = {
        "unit": "Gbit/s", "better": "higher", "ustack": 12345.6, "baseline": 2.0, "baseline_name": "kernel",
        "ratio": 1.5, "rounds": 7,
    }  # fmt: skip
    notes = {"spread": [1.25, float("inf")], "target": 1.0, "holds": True, "aim": 1.3}
    rows = [row | changes | {"notes": notes | {"full_name": n} | changes.get("notes", {})} for n in names]
    machine = {"cpu": "a CPU", "cpus": 2, "kernel": "6.18", "python": "3.11", "background_cpus": 0.02}
    return {"machine": machine, "rows": rows, "not_run": dict.fromkeys(not_run, "no TAP")}


def test_a_row_of_the_table():
    text = bench_table.table([bench_document("a.block")])
    assert "a CPU, 2 CPUs, Linux 6.18, Python 3.11; at most 7 rounds; 0.02 CPUs busy" in text
    assert "| `a.block` | 12,346 | 2 | Gbit/s | 1.50 (1.25 .. inf) | ≥ 1 | 1.3 | yes | kernel |\n" in text
    text = bench_table.table([bench_document("a.block", better="lower", notes={"holds": False})])
    assert "| ≤ 1 | 1.3 | **no** |" in text


def test_runs_in_parts_make_one_table():
    text = bench_table.table([bench_document("a", "b", not_run=["c", "d"]), bench_document("c", "a", ratio=9.0)])
    assert [line[3] for line in text.splitlines() if line.startswith("| `")] == ["a", "b", "c"]
    assert "| 9.00 (" in text.splitlines()[4]
    assert text.endswith("\nNot run: `d`: no TAP\n")


def test_the_figures_of_a_page_are_replaced(tmp_path, capsys):
    rows, page = tmp_path / "rows.json", tmp_path / "page.md"
    rows.write_text(bench_table.json.dumps(bench_document("a.block")))
    page.write_text(f"before\n{bench_table.BEGIN}former\n{bench_table.END}after\n")
    for _ in range(2):
        assert bench_table.main([str(rows), "--into", str(page)]) == 0
        text = page.read_text()
        assert text.startswith(f"before\n{bench_table.BEGIN}\na CPU")
        assert text.endswith(f"|\n\n{bench_table.END}after\n")
        assert "former" not in text
    page.write_text("no marks\n")
    assert bench_table.main([str(rows), "--into", str(page)]) == 1
    assert page.read_text() == "no marks\n"
    assert "needs a line" in capsys.readouterr().err


def test_the_page_has_the_marks():
    page = (bench_table.Path(__file__).parent.parent / "docs/performance.md").read_text()
    assert f"{bench_table.BEGIN}\nnew\n\n{bench_table.END}" in bench_table.replaced(page, "new\n")
