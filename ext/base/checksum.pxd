"""The Internet checksum (RFC 1071): summing, summing while copying, combining, and updates (RFC 1624).

A partial sum is a uint32_t whose 16-bit halves add up to the ones' complement sum of the data taken as 16-bit words
in memory order; so it is stored into a packet as it is, and combines across blocks by csum_block_add. The kernels
live in ``simd``; which of them runs is chosen once, when this module is initialised.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t

# Sum of n bytes at any alignment, folded to 16 bits or less in a uint32_t.
cdef uint32_t csum_partial(const void *p, size_t n) noexcept nogil
# Copy n bytes (no overlap) and return the sum of them; one pass over the memory.
cdef uint32_t copy_csum(void *dst, const void *src, size_t n) noexcept nogil
# Name of the kernel in use: "avx512", "avx2", "scalar".
cdef const char *csum_kernel() noexcept nogil
# Select a kernel by name, for tests and measurements; -1 if this CPU lacks it.
cdef int csum_select(const char *name) noexcept nogil


cdef inline uint16_t csum_fold(uint32_t sum) noexcept nogil:
    """The sum as 16 bits, not complemented."""
    sum = (sum & 0xFFFF) + (sum >> 16)
    sum = (sum & 0xFFFF) + (sum >> 16)
    return <uint16_t>sum


cdef inline uint16_t csum_finish(uint32_t sum) noexcept nogil:
    """What goes into the header: the complement of the folded sum."""
    return <uint16_t>(~csum_fold(sum) & 0xFFFF)


cdef inline uint32_t csum_add(uint32_t a, uint32_t b) noexcept nogil:
    cdef uint64_t s = <uint64_t>a + b
    return <uint32_t>((s & <uint64_t>0xFFFFFFFF) + (s >> 32))


cdef inline uint32_t csum_block_add(uint32_t sum, uint32_t block, size_t offset) noexcept nogil:
    """Add the sum of a block that begins ``offset`` bytes into the data; an odd offset swaps its bytes."""
    cdef uint32_t folded = csum_fold(block)
    if offset & 1:
        folded = ((folded & 0xFF) << 8) | (folded >> 8)
    return csum_add(sum, folded)


cdef inline uint32_t csum_sub(uint32_t sum, uint32_t part) noexcept nogil:
    """The sum without a part of it that lay at an even offset."""
    return csum_add(sum, <uint32_t>(~csum_fold(part) & 0xFFFF))


cdef inline uint16_t csum_update16(uint16_t check, uint16_t old, uint16_t new) noexcept nogil:
    """Header checksum after a 16-bit word changed: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3)."""
    cdef uint32_t s = <uint32_t>(~check & 0xFFFF) + <uint32_t>(~old & 0xFFFF) + new
    return csum_finish(s)


cdef inline uint16_t csum_update32(uint16_t check, uint32_t old, uint32_t new) noexcept nogil:
    cdef uint16_t half = csum_update16(check, <uint16_t>(old & 0xFFFF), <uint16_t>(new & 0xFFFF))
    return csum_update16(half, <uint16_t>(old >> 16), <uint16_t>(new >> 16))
