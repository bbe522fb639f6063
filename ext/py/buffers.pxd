"""What other modules of the room need of Python's handles on message blocks."""

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk


cdef class Mblk:
    cdef mblk *m                # NULL once it was freed
    cdef Mblk follower          # the handle of m.cont
    cdef bint linked            # some other block's cont leads here
    cdef bint lent              # never writable: storage that a stack has lent
    cdef Py_ssize_t exports     # buffers exported of the storage that m has now
    cdef Py_ssize_t shape[1]


# A handle for every block of a message, the first of them returned: read-only views for Python. `taken` is
# owned, also when it raises. `a`: the arena that its further blocks would come from.
cdef Mblk wrap_mblk(mblk *taken, arena *a)
# An external block on the memory of a buffer exporter, which is held until the block's last reference is
# gone; then `free` (a callable or None) is called once, with the GIL and no lock held.
cdef mblk *lend_buffer(arena *a, object exporter, object free) except NULL
# Run what waits for the GIL: release exporters, call free functions. Every entry into the library does this
# first; it costs two loads when nothing waits.
cdef int drain() except -1
