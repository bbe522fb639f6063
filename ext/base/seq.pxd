"""Sequence numbers: 32-bit arithmetic modulo 2^32 (RFC 9293 section 3.4). Nothing else."""

from libc.stdint cimport int32_t, uint32_t

ctypedef uint32_t seq_t


cdef inline bint seq_lt(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) < 0


cdef inline bint seq_leq(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) <= 0


cdef inline bint seq_gt(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) > 0


cdef inline bint seq_geq(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) >= 0


cdef inline seq_t seq_max(seq_t a, seq_t b) noexcept nogil:
    return a if <int32_t>(a - b) > 0 else b


cdef inline seq_t seq_min(seq_t a, seq_t b) noexcept nogil:
    return a if <int32_t>(a - b) < 0 else b


cdef inline int32_t seq_diff(seq_t a, seq_t b) noexcept nogil:
    """How far ``a`` lies after ``b``; negative if before."""
    return <int32_t>(a - b)
