"""A posted receive as a link sees it: where the payload of the next packet belongs, if that is the one expected.

A link that can scatter reads headers of the expected length into a buffer of its own and what follows to `base`; then
it asks `claim`. A packet that is another one has to be moved out again: a guess that fails costs one copy. Under the
engine's lock.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.mem.mblk cimport dblk

cdef enum:
    POSTING_LEAST = 512         # with less room left it is not worth the trouble

cdef struct posting:
    uint8_t *base               # where the payload that is expected next belongs
    size_t room                 # bytes that still fit there
    uint32_t header             # bytes in front of the payload, link header included
    # The packet has `n` bytes in all, the first `header` of which are at `head`. If it is the one expected, the posting
    # steps behind its payload (at most `room` bytes of which are at the old `base`), and a reference to the storage of
    # that is returned; NULL: another packet.
    dblk *(*claim)(posting *p, const uint8_t *head, size_t n) noexcept nogil
    void (*missed)(posting *p) noexcept nogil       # bytes were at `base`, and were not wanted there
