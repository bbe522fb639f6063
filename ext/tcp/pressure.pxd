"""When the stack's memory budget runs short: who may still queue what, and who waits until there is more.

The shares are those of mem/arena.pxd. A connection that holds next to nothing gets a little where others get nothing.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp

cdef enum:
    SEND_LITTLE = 16384         # bytes that a connection without any may queue up to SEND_LAST
    SEND_LEAST = 2048           # or at least so many
    LOOK_MS = 10                # when those who wait look again: doubled each time, up to
    LOOK_MOST_MS = 320
    BUFFER_SHARE = 8            # default buffers are an eighth of the budget, if that is less than their size

cdef void pressure_init(tcp *t) noexcept nogil
# How many of n bytes may be copied to be sent; 0: none now.
cdef size_t pressure_room(tcb *c, size_t n) noexcept nogil
# Whether what arrives in so much storage may be kept for the application: up to KEEP_LAST for one for which nothing is.
cdef bint pressure_keeps(const tcb *c, uint32_t storage) noexcept nogil
# The sender waits for memory: no EV_OUT until there is some.
cdef void pressure_wait(tcb *c) noexcept nogil
cdef void pressure_forget(tcb *c) noexcept nogil
# Tell those who wait, if there is memory.
cdef void pressure_look(tcp *t) noexcept nogil
