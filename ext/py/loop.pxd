"""A driver in the hands of a foreign event loop: what it sleeps on, what wakes it, which sockets something happened on.

The loop sleeps on one descriptor, and calls ``loop_poll`` when that is readable. It covers the links, the next deadline
(a timer of the kernel's), and what other threads and other engines did meanwhile.
"""

from ustack._core.base.types cimport ns_t
from ustack._core.py.driver cimport driver
from ustack._core.stack.sockets cimport sock

cdef void loop_init(driver *d) noexcept nogil
# A descriptor that is readable when loop_poll should be called; from now on the loop drives. -errno.
cdef int loop_fileno(driver *d) noexcept nogil
# The loop drives no more: the housekeeper takes over.
cdef void loop_leave(driver *d) noexcept nogil
# The driver was closed: the descriptor is readable for ever, until loop_free closes it.
cdef void loop_closed(driver *d) noexcept nogil
cdef void loop_free(driver *d) noexcept nogil

# One poll by hand (foreign loops, virtual clock): takes the lock. Returns the deadline.
cdef ns_t loop_poll(driver *d) noexcept nogil
# Before the lock is released: tell the loop what it has to know.
cdef void loop_tell(driver *d) noexcept nogil
# Make the descriptor readable. Needs no lock.
cdef void loop_kick(driver *d) noexcept nogil

# Take a watched socket off the list of those on which something happened; NULL: none. Takes the lock.
cdef sock *loop_take_fired(driver *d) noexcept nogil
# Forget one that is going away. Under the lock.
cdef void loop_forget_fired(driver *d, sock *s) noexcept nogil
