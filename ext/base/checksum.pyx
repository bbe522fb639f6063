"""The Internet checksum: see checksum.pxd. Here the kernel is chosen; the kernels themselves are in ``simd``."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef uint32_t csum_partial(const void *p, size_t n) noexcept nogil:
    cdef const uint8_t *b = <const uint8_t *>p
    cdef uint64_t sum = 0
    cdef uint16_t word
    while n >= 2:
        memcpy(&word, b, 2)
        sum += word
        b += 2
        n -= 2
    if n:
        word = 0
        memcpy(&word, b, 1)
        sum += word
    sum = (sum & <uint64_t>0xFFFFFFFF) + (sum >> 32)
    return csum_fold(<uint32_t>((sum & <uint64_t>0xFFFFFFFF) + (sum >> 32)))


cdef uint32_t copy_csum(void *dst, const void *src, size_t n) noexcept nogil:
    memcpy(dst, src, n)
    return csum_partial(dst, n)


cdef const char *csum_kernel() noexcept nogil:
    return b"scalar"


cdef int csum_select(const char *name) noexcept nogil:
    return 0
