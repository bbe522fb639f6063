"""The seventh and eighth step of input: the segment's text, and FIN (RFC 9293 3.10.7.4)."""

from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

# False: the segment is done with, and the block may be gone.
cdef bint take_text(tcb *c, arrival *s) noexcept nogil
cdef void check_fin(tcb *c, arrival *s) noexcept nogil
