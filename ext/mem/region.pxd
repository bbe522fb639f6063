"""Regions: contiguous memory that can be shared with another process and pinned. A memfd mapping where there
is one."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    REGION_LOCKED = 1           # asked for mlock; falls back to unlocked memory
    REGION_HUGE = 2             # asked for huge pages; falls back to ordinary ones

cdef struct region:
    uint8_t *base
    size_t length
    int fd                      # memfd; -1 for anonymous memory
    int32_t refs
    uint32_t flags              # REGION_*: what was obtained
    uint64_t id

# `flags` are wishes. NULL without memory, the reason in *err (-errno).
cdef region *region_create(size_t length, uint32_t flags, int *err) noexcept nogil
cdef void region_ref(region *r) noexcept nogil
cdef void region_unref(region *r) noexcept nogil
