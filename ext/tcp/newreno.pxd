"""NewReno's windows (RFC 5681): slow start, congestion avoidance, halving."""

from ustack._core.tcp.block cimport cc_ops

cdef const cc_ops *newreno() noexcept nogil
