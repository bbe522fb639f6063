"""A link that wraps another and records its packets, both ways, as pcapng (draft-ietf-opsawg-pcapng).

Packets are recorded as the stack and the device exchange them: a super-segment is one packet. Checksums that
are still partial are completed in the record. Records are buffered, and written when the buffer is full,
about once a second, and at the end.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ustack._core.base.types cimport ns_t
from ustack._core.link.around cimport knowledge
from ustack._core.link.link cimport link

cdef struct capture_stats:
    uint64_t packets, nbytes
    uint64_t missed             # not recorded, for want of memory
    int error                   # -errno of the write that ended the recording; 0: none did

# `epoch` is what to add to the stack's time to get nanoseconds since 1970. Takes the descriptor. NULL without
# memory.
cdef link *capture_create(link *inner, int fd, uint32_t snaplen, int64_t epoch, const knowledge *know) noexcept nogil
cdef capture_stats *capture_figures(link *l) noexcept nogil
# Write what is buffered.
cdef void capture_flush(link *l) noexcept nogil
