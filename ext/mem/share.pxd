"""Regions that two processes share: sealed before they are given away, checked before they are taken.

What travels is the descriptor (over a UNIX socket, sys/passing); offsets in the region mean the same to both. A region
whose owner could shrink it would be a trap: reading behind its end is SIGBUS. So a descriptor that was received is
mapped only if it is sealed against shrinking.

A link that is given a block wants to know which region it lies in. Blocks of a pool tell it; for external storage there
is a list of the regions of this process that may be shared.
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

cdef enum:
    SHARED_MAX = 4096           # regions in the list

# Put a region that has a memory file on the list, which holds no reference; withdraw it before the last one goes. 0,
# -ENOSPC or -ENOTSUP.
cdef int region_publish(region *r) noexcept nogil
cdef void region_withdraw(region *r) noexcept nogil
# The published region that holds `n` bytes at `addr`, with a reference for the caller; NULL if there is none.
cdef region *region_holding(const void *addr, size_t n) noexcept nogil
