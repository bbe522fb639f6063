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
