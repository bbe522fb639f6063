"""A pipe of page references: a bounded ring of blocks, which go in and out without their bytes being touched.

         put                                                              begin, look, end
    [ block ] ──> | 0 | 1 | 2 | 3 | ...          at most `capacity` blocks, `limit` bytes ──> [ window ]
                    |   |   |                                                                     |
                  storage: a program's memory, pages of a file, received packets  <───────────────+

Whoever reads *begins*, looks at windows on the first bytes, and *ends* with how many of them it has used: what could
not be delivered is still in the pipe, in its place. One reads at a time.

Threads: all functions may be called from any thread, none of them waits but ``pagepipe_wait``. No clock is read here,
and no payload.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t

from ustack._core.base.types cimport ns_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk

cdef enum:
    PAGEPIPE_BUFFERS = 65536    # blocks that a pipe may be given room for
    PAGEPIPE_LOOK = 64          # blocks that are looked at together

cdef enum:
    PAGEPIPE_READ = 1           # what to wait for: somebody can begin
    PAGEPIPE_WRITE = 2          # there is room

cdef struct pagepipe:
    arena *mem                  # of the structures of windows
    mblk **slots
    uint32_t capacity
    uint32_t head
    uint32_t count
    size_t limit
    size_t bytes
    bint reading                # somebody has begun
    bint no_writers
    bint no_readers
    int32_t lock
    int32_t turn                # changes with whatever somebody may wait for
    int32_t sleepers

# 0 or -ENOMEM. `p` is zeroed.
cdef int pagepipe_init(pagepipe *p, arena *a, uint32_t buffers, size_t size) noexcept nogil
# Gives everything back. Nobody uses it any more.
cdef void pagepipe_fini(pagepipe *p) noexcept nogil
# -EBUSY: more is in it; -ENOMEM.
cdef int pagepipe_resize(pagepipe *p, uint32_t buffers, size_t size) noexcept nogil
# Bytes for which there is room, 0 if they are fewer than `least`. -EPIPE: nobody reads any more; -EBADF: no writers.
cdef int64_t pagepipe_room(pagepipe *p, size_t least) noexcept nogil
# Blocks from the front of *m go in, the last of them cut at the limit unless only `whole` ones are to go; *m becomes
# what is left, and stays the caller's. Bytes, or as pagepipe_room; -ENOBUFS without memory.
cdef int64_t pagepipe_put(pagepipe *p, mblk **m, bint whole) noexcept nogil
# Become the reader: bytes that are there; 0 at the end, and -EAGAIN if there are none yet or somebody else reads: then
# the caller is not. -EBADF: the reading end is closed.
cdef int64_t pagepipe_begin(pagepipe *p) noexcept nogil
# Windows on at most `max` of the first bytes; NULL if there are none, or without memory.
cdef mblk *pagepipe_look(pagepipe *p, size_t max) noexcept nogil
# The reader has used so many bytes.
cdef void pagepipe_end(pagepipe *p, size_t n) noexcept nogil
# writers: what is in it is still read, then it ends; readers: what is in it is dropped.
cdef void pagepipe_close(pagepipe *p, bint writers, bint readers) noexcept nogil
# Until there is something to do, at most so many nanoseconds: 0: look again; -EAGAIN, -EINTR. least: as pagepipe_room.
cdef int pagepipe_wait(pagepipe *p, int what, size_t least, ns_t timeout) noexcept nogil
