"""Two links that are the two ends of one cable in a process: packets pass by reference between engines.

What one end sends is the very storage that the other receives: shared, hence read-only to it unless it holds
the last reference. Full queues push back: ``tx`` takes fewer packets, and the end is notified when there is
room. When one end is closed, the other is down (-ENETDOWN).

With `device`, the receiving end moves the bytes to memory of its own engine, as a network card would (booked as the
device's), straight to a posted receive if one waits for them.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ustack._core.link.link cimport link

cdef struct memory_options:
    uint8_t layer
    uint32_t mtu
    uint32_t gso_max
    uint32_t caps               # CAP_*
    uint16_t max_sg
    int32_t queue               # packets in flight in each direction
    bint device                 # the receiving end copies
    uint8_t mac[2][6]           # layer 2 only

# Both ends; each is freed by its own close. 0 or -ENOMEM.
cdef int memory_pair(memory_options *o, link **a, link **b) noexcept nogil
