"""Active open, local ports, and what both kinds of open have in common (RFC 9293 3.5, 3.10.1, 3.10.7.3)."""

from libc.stdint cimport uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

cdef int bind_to(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil
# An ephemeral port on every address, for listen without bind.
cdef int tcp_bind_any(tcb *c) noexcept nogil
# Whether another block has the port, and the two may not share it.
cdef bint bind_conflict(const tcb *c, const ipaddr *addr, uint16_t port, bint to_listen) noexcept nogil
cdef int connect_to(tcb *c, const ipaddr *addr, uint16_t port) noexcept nogil
# SYN-SENT: an acceptable SYN-ACK; a SYN without ACK (simultaneous open).
cdef void connect_synack(tcb *c, arrival *s) noexcept nogil
cdef void connect_syn(tcb *c, arrival *s) noexcept nogil
# The sender's numbers begin at `iss`.
cdef void synchronize(tcb *c, seq_t iss) noexcept nogil
# Take in the peer's SYN: its number, window and options; what it lacks is not used (RFC 7323 1.3, RFC 2018 2).
cdef void negotiate(tcb *c, const arrival *s) noexcept nogil
# Our SYN has been acknowledged.
cdef void established(tcb *c, const arrival *s) noexcept nogil
