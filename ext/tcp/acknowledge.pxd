"""The fifth step of input: the ACK field (RFC 9293 3.10.7.4, RFC 5961 5, RFC 5681 2 on duplicates)."""

from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

# False: the segment is done with, and the block may be gone.
cdef bint check_ack(tcb *c, arrival *s) noexcept nogil
# Who waits to write, if there is room now.
cdef void tell_writer(tcb *c) noexcept nogil
