"""Moving storage under the blocks that show it: every window on a dblk, wherever it is queued, follows."""

from libc.stdint cimport uint8_t

from ustack._core.mem.types cimport dblk, mblk

# The storage of `d` is at `base` from now on: the same bytes in a new place. `hint`: an mblk that is often the only
# window on it. Nobody may be reading the windows: the caller holds the lock under which they are used.
cdef void dblk_repoint(dblk *d, mblk *hint, uint8_t *base) noexcept nogil
