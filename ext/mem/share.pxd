"""Regions that two processes share: sealed before they are given away, checked before they are taken.

What travels is the descriptor (over a UNIX socket, sys/passing); offsets in the region mean the same to both. A region
whose owner could shrink it would be a trap: reading behind its end is SIGBUS. So a descriptor that was received is
mapped only if it is sealed against shrinking.

A link that is given a block wants to know which region it lies in. Blocks of a pool tell it; for external storage there
is a list of the regions of this process that may be shared.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t

from ustack._core.mem.region cimport region

# Seal a region's memory file against shrinking and growing. 0, -ENOTSUP (it has no file) or -errno.
cdef int region_seal(region *r) noexcept nogil
# A new region of at least `length` bytes, sealed. NULL, the reason in *err (-errno).
cdef region *region_share(size_t length, int *err) noexcept nogil
# Why a region has got no memory file, asked again: -EMFILE, -ENOMEM …; -ENOTSUP if it would have one now.
cdef int region_refusal() noexcept nogil
# The region behind a descriptor that somebody else made; `prot` as for mmap. Takes the descriptor on success. NULL, the
# reason in *err: -EPERM (not sealed against shrinking), -EMSGSIZE (less than `least` bytes, or no whole pages), -errno.
cdef region *region_import(int fd, size_t least, int prot, int *err) noexcept nogil

cdef enum:
    # In region.flags.
    REGION_FILE = 1 << 16       # pages of a file, which are read only and may be cut off at any time
    REGION_RETIRED = 1 << 17    # nobody sends from it any more
    REGION_PEERS = 1 << 18      # the other sides of links may write to it: its owner has said so

# Pages of an ordinary file as a region: `length` bytes from `offset` (both whole pages), mapped with `prot`. The region
# has a descriptor of its own. NULL, the reason in *err (-errno).
cdef region *region_of_file(int fd, int64_t offset, size_t length, int prot, int *err) noexcept nogil
cdef int64_t region_file_offset(const region *r) noexcept nogil
# Whether somebody in this process (a link whose device is another process) can make use of descriptors of files: how
# many of them come or go. While nobody does, a mapping of a file needs none.
cdef void files_share(int change) noexcept nogil
cdef bint files_shared() noexcept nogil

cdef enum:
    SHARED_MAX = 4096           # regions in the list

# Put a region that has a memory file on the list, which holds no reference; withdraw it before the last one goes. 0,
# -ENOSPC or -ENOTSUP.
cdef int region_publish(region *r) noexcept nogil
cdef void region_withdraw(region *r) noexcept nogil
# Nothing will be sent from it any more: withdraw it and let go of the reference `taken`. Whoever else holds one,
# because a device knows the region, finds it marked REGION_RETIRED, and is told to look by the count of these.
cdef void region_retire(region *taken) noexcept nogil
cdef int32_t regions_retired() noexcept nogil
# The published region that holds `n` bytes at `addr`, with a reference for the caller; NULL if there is none.
cdef region *region_holding(const void *addr, size_t n) noexcept nogil
