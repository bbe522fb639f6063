"""The size of the receive buffer: it follows what the application reads in a round trip, as Linux's does ("dynamic
right sizing"), unless the user has set it.

It begins with what a short path needs at any speed, grows up to tcp.rcvbuf, and never shrinks: neither does the right
edge of the window. A stack with a memory budget gives one connection an eighth of it at most, and nothing more while
half of it is held.
"""

from libc.stdint cimport uint32_t

from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp

cdef enum:
    RCVBUF_FIRST = 512 * 1024

# What a new socket has.
cdef uint32_t tuning_first(const tcp *t) noexcept nogil
# The connection is established.
cdef void tuning_start(tcb *c) noexcept nogil
# Text has come, in order: how long a round trip is, as the receiver sees it.
cdef void tuning_measure(tcb *c, const arrival *s) noexcept nogil
# The application has read.
cdef void tuning_read(tcb *c) noexcept nogil
