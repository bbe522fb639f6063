"""Congestion control as the rest of TCP sees it (RFC 5681): which there are, and when a window may grow.

By how much it grows and falls is decided by the operations that a connection points to (block.pxd, cc_ops); what is
lost, and what is sent meanwhile, by recovery.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport cc_ops, tcb

cdef enum:
    CWND_MAX = 1 << 30

# By its name of n bytes, up to a NUL; NULL: there is none.
cdef const cc_ops *congestion_find(const char *name, size_t n) noexcept nogil
# Windows of a connection that has just been established.
cdef void congestion_start(tcb *c) noexcept nogil
# Change over; the windows stay.
cdef void congestion_use(tcb *c, const cc_ops *cc) noexcept nogil
# `acked` new bytes were acknowledged, not in fast recovery: grow, if the window was used.
cdef void congestion_acked(tcb *c, uint32_t acked) noexcept nogil
# Ten segments, as Linux has it (RFC 6928 asks for less where segments exceed 1460 bytes).
cdef uint32_t initial_window(uint32_t mss) noexcept nogil
# Slow start's part of `acked`: grows cwnd up to ssthresh, returns what is left.
cdef uint32_t slow_start(tcb *c, uint32_t acked) noexcept nogil
