"""Filling blocks with bytes: see sums.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ustack._core.base.checksum cimport copy_csum, csum_block_add, csum_fold


cdef void copy_summing(dblk *d, uint8_t *dst, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t begin, within, here
    cdef uint32_t i
    while n:
        i = (d.sum_phase + d.summed) // d.stride
        begin = i * <size_t>d.stride - d.sum_phase if i else 0
        within = d.summed - begin
        here = (i + 1) * <size_t>d.stride - d.sum_phase - d.summed
        if here > n:
            here = n
        if within == 0:
            d.sums[i] = csum_fold(copy_csum(dst, src, here))
            d.nsums = i + 1
        else:
            d.sums[i] = csum_fold(csum_block_add(d.sums[i], copy_csum(dst, src, here), within))
        d.summed += here
        dst += here
        src += here
        n -= here


cdef void begin_sums(dblk *d, uint32_t stride, uint32_t phase, size_t n) noexcept nogil:
    cdef size_t room = sums_room(d)
    d.sum_base = d.base
    d.sum_phase = phase
    d.summed = 0
    d.nsums = 0
    d.stride = stride
    while d.stride * room < phase + n:
        d.stride += stride


cdef void msgfill(mblk *m, const uint8_t *src, size_t n, uint32_t stride, uint32_t phase) noexcept nogil:
    """stride 0: no summing. Where a block lacks room for the sums, its stride is a multiple of the one asked
    for."""
    cdef size_t here
    while m != NULL:
        here = n if n < 65536 else 65536
        if stride and sums_room(m.dp) and here:
            begin_sums(m.dp, stride, phase, here)
            phase = <uint32_t>((phase + here) % stride)
            copy_summing(m.dp, m.wptr, src, here)
        elif here:
            memcpy(m.wptr, src, here)
        m.wptr += here
        src += here
        n -= here
        m = m.cont
