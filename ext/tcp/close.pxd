"""How connections end: FIN both ways, TIME-WAIT, reset, time-out (RFC 9293 3.6, 3.10.4, 3.10.5)."""

from ustack._core.tcp.block cimport tcb

# The connection is over, without a word on the wire: CLOSED, `error` (0: none) for its user. Without a user the
# block is buried: the caller does not touch it again.
cdef void conn_end(tcb *c, int error) noexcept nogil
# The same with RST, if the peer knows of us.
cdef void conn_abort(tcb *c, int error) noexcept nogil
# The user has no more to send: FIN behind what is queued.
cdef void queue_fin(tcb *c) noexcept nogil
# The user is gone. See tcp_close.
cdef void user_close(tcb *c) noexcept nogil
cdef int user_shutdown(tcb *c, int how) noexcept nogil
# The peer has acknowledged our FIN. False: the block may be gone.
cdef bint fin_acknowledged(tcb *c) noexcept nogil
cdef void enter_time_wait(tcb *c) noexcept nogil
cdef void time_wait_restart(tcb *c) noexcept nogil
