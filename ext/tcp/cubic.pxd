"""CUBIC's windows (RFC 9438): growth by a cubic function of the time since the last congestion event, so that a long
path's window is found again soon, whatever the round trip time; and never slower than Reno's.

    W_cubic(t) = C (t - K)^3 + W_max       C = 0.4 segments/s^3, beta = 0.7

Integers only: windows in bytes, time in 1/1024 s, so that a seed determines every packet on every machine.
"""

from ustack._core.tcp.block cimport cc_ops

cdef const cc_ops *cubic() noexcept nogil
