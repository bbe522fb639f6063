"""Numbers that must not be guessed: see isn.pxd."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport flow
from ustack._core.base.rng cimport flow_hash, rng_next
from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.tcp cimport tcp

cdef enum:
    RANGE = PORT_LAST - PORT_FIRST + 1


cdef seq_t isn_of(const tcp *t, const flow *f) noexcept nogil:
    return <uint32_t>(<uint64_t>t.ctx.now >> 6) + <uint32_t>flow_hash(t.secret, f, SALT_ISN)


cdef uint32_t ts_offset_of(const tcp *t, const flow *f) noexcept nogil:
    return <uint32_t>flow_hash(t.secret, f, SALT_TS)


cdef uint32_t port_start(tcp *t, const flow *f) noexcept nogil:
    # Algorithm 3 hides the offset behind a hash but counts up by one; a random step hides the count as well
    # (algorithm 5).
    return <uint32_t>flow_hash(t.secret, f, SALT_PORT) + <uint32_t>rng_next(&t.ctx.dice)


cdef uint16_t port_candidate(tcp *t, uint32_t start, uint32_t attempt) noexcept nogil:
    return <uint16_t>(PORT_FIRST + (start + attempt) % RANGE)
