"""For ``ustack bench``: loops over functions of the core, where a Python call would cost more than what it measures."""

from libc.stdint cimport int64_t, uint32_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.checksum cimport copy_csum, csum_kernel

# The compiler must not see that nobody reads what is copied, and must call the same memcpy as everybody.
cdef extern from *:
    """
    #include <string.h>
    static void *(*volatile bench_memcpy)(void *, const void *, size_t) = memcpy;
    """
    void *bench_memcpy(void *dst, const void *src, size_t n) nogil

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef volatile uint32_t sink = 0


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef int64_t time_fused(uint8_t *dst, uint8_t *src, size_t n, int count) noexcept nogil:
    global sink
    cdef int _k
    cdef uint32_t total = 0
    cdef int64_t began = now()
    for _k in range(count):
        total += copy_csum(dst, src, n)
    sink = total
    return now() - began


cdef int64_t time_memcpy(uint8_t *dst, uint8_t *src, size_t n, int count) noexcept nogil:
    cdef int _k
    cdef int64_t began = now()
    for _k in range(count):
        bench_memcpy(dst, src, n)
    return now() - began


def fused_and_memcpy(size: int) -> tuple[float, float]:
    """ns to copy ``size`` bytes with their checksum in one pass, and with memcpy: the best of a few turns of each.

    The blocks are page-aligned and stay the same: what fits into a cache is there. Raises MemoryError.
    """
    cdef size_t n = size
    cdef size_t room = (n + 8191) & ~<size_t>4095
    cdef uint8_t *src = <uint8_t *>aligned_alloc(4096, room)
    cdef uint8_t *dst = <uint8_t *>aligned_alloc(4096, room)
    # About 2 ms a turn, so that a turn rarely meets an interruption.
    cdef int count = <int>max(1, min(100000, 50000000 // max(n, 1)))
    cdef int64_t fused = -1
    cdef int64_t plain = -1
    cdef int64_t t
    cdef int _k
    if src == NULL or dst == NULL:
        free(src)
        free(dst)
        raise MemoryError("no memory for the blocks to copy")
    with nogil:
        memset(src, 0x5A, room)
        memset(dst, 0, room)
        for _k in range(9):
            t = time_memcpy(dst, src, n, count)
            plain = t if plain < 0 or t < plain else plain
            t = time_fused(dst, src, n, count)
            fused = t if fused < 0 or t < fused else fused
    free(src)
    free(dst)
    return fused / <double>count, plain / <double>count


def checksum_kernel() -> str:
    """Name of the implementation in use: "avx512", "avx2" or "scalar"."""
    return csum_kernel().decode()
