"""The shared-memory provider, the way in: entries that another process wrote. Hostile until proven otherwise.

An entry is copied, then checked, then used. What cannot be (a stamp, a kind, a number of segments, an
acknowledgement of what was
never sent) ends the port. What names memory that was not lent, or lies about its length, ends that VI's connection
and
no other.
"""

from ustack._core.via.types cimport via_port

# The `poll` of the provider: see via_ops.
cdef int incoming_poll(via_port *port, int budget) noexcept nogil
