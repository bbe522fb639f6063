"""For tests: the guard against SIGBUS, applied to any buffer."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc

from ustack._core.py.errors cimport check
from ustack._core.sys.guard cimport guard_copy, guard_forget, guard_install, guard_watch


def copy_guarded(buffer: object, n: int) -> int:
    """Copy n bytes of a mapping; returns how many there were."""
    cdef Py_buffer view
    cdef uint8_t *to = <uint8_t *>malloc(n)
    cdef size_t got
    check(guard_install())
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    got = guard_copy(to, view.buf, n)
    PyBuffer_Release(&view)
    free(to)
    return got


def touch_watched(buffer: object) -> str:
    """Read a watched mapping: bytes that are x, bytes that are zero, and whether it was marked as broken."""
    cdef Py_buffer view
    cdef int32_t broken = 0
    cdef Py_ssize_t k, x = 0, zeros = 0
    cdef const uint8_t *p
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    cdef int slot = check_slot(guard_watch(view.buf, view.len, &broken))
    p = <const uint8_t *>view.buf
    for k in range(view.len):
        x += p[k] == 120
        zeros += p[k] == 0
    guard_forget(slot)
    PyBuffer_Release(&view)
    return f"{x} {zeros} {broken}"


cdef int check_slot(int slot) except -1:
    check(slot)
    return slot
