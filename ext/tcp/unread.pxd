"""What was taken from a receive queue and found no place goes back."""

from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.tcp cimport tcb

# To the front of the queue: a chain that was taken there last, or its end. Takes it.
cdef void tcp_unread(tcb *c, mblk *taken) noexcept nogil
