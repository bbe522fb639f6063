"""Filling blocks, and the partial sums that are kept of what was copied into them. Nothing is allocated here."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.mem.types cimport dblk, mblk

# Copy n bytes into empty blocks, from the front, 64 KB into each of those that are as large; stride, phase as for
# msgcopyin_csum. What is read is read before anything of it is shown: who is left in the middle frees the blocks.
cdef void msgfill(mblk *m, const uint8_t *src, size_t n, uint32_t stride, uint32_t phase) noexcept nogil
# Copy n bytes to where the sums of d end, and carry the sums on.
cdef void copy_summing(dblk *d, uint8_t *dst, const uint8_t *src, size_t n) noexcept nogil


cdef inline size_t sums_room(const dblk *d) noexcept nogil:
    return d.home.nsums if d.home != NULL else 0
