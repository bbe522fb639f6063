"""A posted receive as a link sees it: where the payload of the next packet belongs, if that is the one expected.

A link that can scatter reads headers of the expected length into a buffer of its own and what follows to `base`; then
it asks `claim`. A packet that is another one has to be moved out again: a guess that fails costs one copy. A device
that looks at headers itself is given the rule by which to know them: it puts payload wherever the rule says, and
`claim` has the last word. Under the engine's lock.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.mem.mblk cimport dblk

cdef enum:
    POSTING_LEAST = 512         # with less room left it is not worth the trouble
    POSTING_HEADER = 128        # bytes in front of the payload, at most

cdef struct posting_rule:       # how the headers of a packet look whose payload belongs here
    uint32_t origin             # the number of the first byte of the memory
    uint16_t number_at          # where in the headers the number of a packet's first byte lies, of 4 bytes
    uint16_t header             # bytes in front of the payload
    uint8_t value[POSTING_HEADER]
    uint8_t flow[POSTING_HEADER]        # bits that are to be as in `value`: whose packet it is
    uint8_t form[POSTING_HEADER]        # … that it is a plain one

cdef struct posting:
    uint8_t *base               # where the payload that is expected next belongs
    size_t room                 # bytes that still fit there
    uint32_t header             # bytes in front of the payload, link header included
    # The packet has `n` bytes in all, the first `header` of which are at `head`; its payload is at `where`. If it
    # belongs there, the posting steps behind it (at most to the end of the room), and a reference to the storage of
    # that is returned; NULL: another packet.
    dblk *(*claim)(posting *p, const uint8_t *head, size_t n, const uint8_t *where) noexcept nogil
    void (*missed)(posting *p) noexcept nogil       # bytes were at `base`, and were not wanted there
    posting_rule rule
