"""A message meets the descriptor that was posted for it: what every provider does at either end, whatever carried
the bytes.

The provider moves them once, from the sender's segments to those of the receive descriptor, as a device would by
DMA; the
ledger books that as a device's copy (``device.rx``). Nothing is moved unless the whole message fits.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from ustack._core.via.types cimport via_message, via_nic, via_span, via_vi
from ustack._core.wire.via cimport SEGMENTS_MAX, desc

cdef enum:
    DELIVER_NOTHING = 1         # dropped, and nobody is told (unreliable; or the VI is gone)

cdef struct via_target:         # where a message goes
    uint32_t position           # of the receive descriptor
    int n
    via_span spans[SEGMENTS_MAX]

# Look at the send descriptor at `position`: its spans, their sum and the copy. 0, or the status that it fails with.
cdef uint32_t deliver_gather(via_vi *vi, uint32_t position, desc *d, via_span *spans, uint32_t *length) noexcept nogil
# Look at a receive descriptor that was just posted: 0, or the status that it fails with.
cdef uint32_t deliver_inspect(via_vi *vi, uint32_t position) noexcept nogil
# Find the receive descriptor whose turn it is. 0; DELIVER_NOTHING; or the status that a reliable sender's descriptor
# gets: then
# the VI is in ERROR already.
cdef uint32_t deliver_match(via_vi *vi, uint32_t length, via_target *to) noexcept nogil
# Move the bytes; both sides have the same number of them, or the target has more.
cdef void deliver_move(via_nic *nic, const via_target *to, const via_message *m) noexcept nogil
# The receive descriptor is done.
cdef void deliver_done(via_vi *vi, const via_target *to, const via_message *m) noexcept nogil
# The send descriptor at `position` is done: `refused` is what deliver_match said at the other end. False: the
# connection is over.
cdef bint deliver_report(via_vi *vi, uint32_t position, uint32_t length, uint32_t refused) noexcept nogil
# The send descriptor at `position` fails by itself. False: the connection is over.
cdef bint deliver_fail(via_vi *vi, uint32_t position, uint32_t status) noexcept nogil
