"""Handles on descriptors, VIs and completion queues."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.py.via_nic cimport Memory, Nic, Ptag
from ustack._core.via.types cimport via_cq, via_slot, via_vi


cdef class Descriptor:
    cdef readonly Memory memory     # that it lies in
    cdef uint8_t *at
    cdef via_slot result            # as it was given back; status 0: it was not
    cdef bint busy                  # it is posted

    cdef int writable(self) except -1


@cython.final
cdef class Buffer(Descriptor):
    cdef uint8_t *bytes_at
    cdef uint32_t room
    cdef Py_ssize_t begins          # of its bytes in `memory`

    cdef void prepared(self, uint32_t length)


@cython.final
cdef class CompletionQueue:
    cdef readonly Nic nic
    cdef via_cq *cq
    cdef int waiting

    cdef via_cq *queue(self) except NULL
    cdef tuple take(self)


@cython.final
cdef class Vi:
    cdef readonly Nic nic
    cdef readonly Ptag ptag
    cdef public object _stream      # a byte stream over it
    cdef via_vi *v
    cdef int waiting                # threads in a wait on it
    cdef list sending               # Descriptor handles, by their position in the queue
    cdef list receiving
    cdef CompletionQueue send_cq
    cdef CompletionQueue recv_cq
    cdef object __weakref__

    cdef via_vi *mine(self) except NULL
    cdef int post(self, Descriptor d, bint is_recv) except -1
    cdef Descriptor take(self, bint is_recv)
    cdef Descriptor take_or_look(self, bint is_recv)
    cdef Descriptor take_or_wait(self, bint is_recv, object timeout)
