"""Passive open: LISTEN, the queue of handshakes, the queue of connections to accept (RFC 9293 3.10.7.2).

A connection request gets a control block, of which a listener has at most tcp.syn_max: beyond that the answer is a
SYN cookie (see cookie.pxd) or, where those are switched off, the oldest unfinished handshake makes way (RFC 4987 3.3).
While the accept queue is full, requests and final ACKs are dropped, not refused: the peer tries again.
"""

from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

cdef int listen_start(tcb *c, int backlog) noexcept nogil
# A segment for a listener. Returns the connection, in SYN-RECEIVED, that a SYN cookie stood for: the segment is its.
cdef tcb *arrives_listen(tcb *c, arrival *s) noexcept nogil
# The ACK of our SYN has come; False: it has to wait, or the block is gone.
cdef bint handshake_done(tcb *c, arrival *s) noexcept nogil
cdef void resend_synack(tcb *c) noexcept nogil
# The oldest connection of the accept queue; NULL: none.
cdef tcb *listen_take(tcb *c) noexcept nogil
# Take an unaccepted connection out of its listener's queues.
cdef void listen_forget(tcb *child) noexcept nogil
# Reset all that has not been accepted.
cdef void listen_close(tcb *c) noexcept nogil
