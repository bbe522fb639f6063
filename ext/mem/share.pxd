"""Regions that two processes share: sealed before they are given away, checked before they are taken.

What travels is the descriptor (over a UNIX socket, sys/passing); offsets in the region mean the same to both. A region
whose owner could shrink it would be a trap: reading behind its end is SIGBUS. So a descriptor that was received is
mapped only if it is sealed against shrinking.
"""

from libc.stddef cimport size_t

from ustack._core.mem.region cimport region

# Seal a region's memory file against shrinking and growing. 0, -ENOTSUP (it has no file) or -errno.
cdef int region_seal(region *r) noexcept nogil
# A new region of at least `length` bytes, sealed. NULL, the reason in *err (-errno).
cdef region *region_share(size_t length, int *err) noexcept nogil
# The region behind a descriptor that somebody else made; `prot` as for mmap. Takes the descriptor on success. NULL, the
# reason in *err: -EPERM (not sealed against shrinking), -EMSGSIZE (less than `least` bytes, or no whole pages), -errno.
cdef region *region_import(int fd, size_t least, int prot, int *err) noexcept nogil
