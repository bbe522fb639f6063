"""When received data is acknowledged (RFC 9293 3.8.6.3, RFC 5681 4.2): at once, in the next egress, or a little later.

Output is made once per verb, so a burst of in-order segments gets one ACK; out-of-order segments are answered one
by one, by ``input``, because the peer counts those answers.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport tcb

cdef enum:
    DELACK_MS = 40              # Linux's least
    QUICK_ACKS = 16             # the first segments are acknowledged at once: the peer is in slow start

# n bytes of in-order data have come.
cdef void ack_data(tcb *c, uint32_t n) noexcept nogil
# An ACK in the next egress.
cdef void ack_soon(tcb *c) noexcept nogil
cdef void delack_fire(void *arg, ns_t now) noexcept nogil


cdef inline void ack_interactive(tcb *c) noexcept nogil:
    """Data went out while an ACK waited: a dialogue, where delayed ACKs ride on answers."""
    c.quick = 0
