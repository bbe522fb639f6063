"""The handle of a stack: owns a driver, and knows the link objects attached to it."""

from ustack._core.py.driver cimport driver
from ustack._core.stack.engine cimport iface

cdef class Stack:
    cdef driver *d
    cdef bint closed
    cdef bint pipe_clock
    cdef dict interfaces        # link object -> Interface
    cdef dict last_memory       # what memory() said when the stack was closed
    cdef object __weakref__
    cdef int enter(self) except -1
    cdef void leave(self) noexcept

cdef class Interface:
    cdef Stack stack
    cdef iface *i
    cdef readonly object link
    cdef readonly tuple addresses
