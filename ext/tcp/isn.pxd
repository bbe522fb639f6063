"""Numbers that must not be guessed: initial sequence numbers (RFC 6528), timestamp offsets, ephemeral ports
(RFC 6056)."""

from libc.stdint cimport uint16_t, uint32_t

from ustack._core.base.addr cimport flow
from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.tcp cimport tcp

cdef enum:
    PORT_FIRST = 32768          # Linux's range
    PORT_LAST = 60999

cdef enum:
    # Salts: one secret serves all hashes. Above the low byte a salt may carry more.
    SALT_ISN = 1
    SALT_TS = 2
    SALT_PORT = 3
    SALT_COOKIE = 4
    SALT_COOKIE_DATA = 5

# M + F(four-tuple, secret): M counts 64 ns, as in Linux.
cdef seq_t isn_of(const tcp *t, const flow *f) noexcept nogil
# The same for a four-tuple at any time, so that timestamps of its incarnations go on (RFC 7323 5.4).
cdef uint32_t ts_offset_of(const tcp *t, const flow *f) noexcept nogil
# The candidate number `attempt` of a random walk over the range.
cdef uint16_t port_candidate(tcp *t, uint32_t start, uint32_t attempt) noexcept nogil
# RFC 6056 algorithm 3: where the search for a flow's local port begins.
cdef uint32_t port_start(tcp *t, const flow *f) noexcept nogil
