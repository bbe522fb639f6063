"""The handle on a pipe of page references, for what splices to and from it."""

cimport cython

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.types cimport ns_t
from ustack._core.mem.mblk cimport mblk
from ustack._core.py.buffers cimport Arena
from ustack._core.zerocopy.gift cimport gift_log
from ustack._core.zerocopy.pagepipe cimport pagepipe


@cython.final
cdef class _GivenBack:
    cdef object callback
    cdef Py_ssize_t out


@cython.final
cdef class PagePipe:
    cdef pagepipe p
    cdef Arena arena
    cdef long long timeout_ns       # < 0: no limit
    cdef gift_log *log              # NULL: gifts are not watched
    cdef int told                   # pages that were told of

    cdef ns_t deadline(self, int flags)
    cdef int enter(self, int flags) except -1
    cdef int tell(self) except -1
    cdef Py_ssize_t map_all(self, list parts, int flags, ns_t deadline, given_back) except -1
    cdef Py_ssize_t wait_for_room(self, size_t least, ns_t deadline) except -1
    cdef Py_ssize_t map_in(self, part, Py_ssize_t n, int flags, ns_t deadline, _GivenBack whole) except -1
    cdef mblk *refer(self, part, Py_ssize_t n, bint gift, _GivenBack whole) except? NULL
    cdef mblk *watch(self, mblk *keeper, Py_ssize_t n) except NULL
    cdef Py_ssize_t copy_in(self, part, Py_ssize_t n, ns_t deadline) except -1
    cdef mblk *look(self, Py_ssize_t n, ns_t deadline) except? NULL
    cdef Py_ssize_t copy_out(self, mblk *m, uint8_t *to, Py_ssize_t n, bint guarded, bint peek) except -1
    cdef Py_ssize_t fill(self, part, Py_buffer *b, ns_t deadline, bint peek) except -1
    cdef int end(self, bint writers) except -1
