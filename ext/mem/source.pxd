"""Where a link draws its receive buffers from: one narrow interface, filled in by the engine and constant
afterwards."""

from ustack._core.mem.mblk cimport dblk

cdef struct source:
    void *owner
    # A buffer of at least `size` bytes with refs == 1, or NULL (count it: link.rx_nomem).
    dblk *(*take)(void *owner, size_t size) noexcept nogil
    # A buffer that was not filled goes back.
    void (*give)(void *owner, dblk *d) noexcept nogil
