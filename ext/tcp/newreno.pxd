"""NewReno's windows (RFC 5681): slow start, congestion avoidance, halving. Recovery itself is in recovery.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport cc_ops, tcb

cdef const cc_ops *newreno() noexcept nogil
# Ten segments, as Linux has it (RFC 6928 asks for less where segments exceed 1460 bytes).
cdef uint32_t initial_window(uint32_t mss) noexcept nogil
