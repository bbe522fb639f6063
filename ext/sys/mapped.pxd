"""What lies behind an address: memory, or a file that somebody may cut? A question to the kernel; no policy."""

from libc.stddef cimport size_t

# 1: a part of the range is mapped from a file, whose pages go when it is truncated; 0: memory, or the memory files of
# this library (mem/region); also where the kernel does not tell.
cdef bint sys_maps_file(const void *base, size_t n) noexcept nogil
