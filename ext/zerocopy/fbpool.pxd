"""Pools of fbufs: buffers of one memory file that a producer fills and gives to other processes whole (Druschel and
Peterson, "Fbufs: A High-Bandwidth Cross-Domain Transfer Facility", SOSP 1993).

The file is sealed with F_SEAL_FUTURE_WRITE: whoever gets its descriptor can map it for reading only, and the kernel
sees to that. What the producer itself may still do with a buffer that it has given away is the pool's kind:

    FB_VOLATILE     it keeps the right to write; a reader that must not be deceived asks it to give that up (secure)
    (none)          its pages are read-only for it until the buffer comes back
    FB_STRICT       it has no access at all until then
    FB_ONCE         the pool is one buffer, used once. Unless volatile it is unmapped and sealed against writing when it
                    is given away: then not even a malicious producer can change it

The last is the only protection that the kernel enforces against the producer: the others guard it from its own
mistakes. What travels between processes is in fbchannel. Threads: one at a time.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.mem.region cimport region

cdef enum:
    FB_VOLATILE = 1
    FB_STRICT = 2
    FB_ONCE = 4
    FB_FORWARD = 8              # a receiver may let other processes read the pool
    FB_RELAYED = 16             # of an introduction: it comes from somebody who cannot protect the pool
    FB_LATEST = 32              # the buffer that came back last is used next; else the one that did first

cdef enum:
    FB_FREE = 0
    FB_OWNED = 1                # ours to fill
    FB_SENT = 2                 # somebody else's

cdef enum:
    FB_BUFFERS_MAX = 65536

cdef struct fbpool:
    region *mem
    size_t size                 # bytes of a buffer: whole pages
    uint32_t count
    uint32_t nfree
    uint32_t *free_ids          # a ring: the first is used next
    uint32_t first
    uint8_t *state              # FB_FREE, …
    uint16_t *holds             # of each buffer: the windows that are out, and one for our own
    uint8_t *prot               # what our own pages allow: PROT_*
    uint32_t flags
    bint published              # devices of shared memory can reach it: mem/share
    bint sealed                 # FB_ONCE: no writer is left, by decree of the kernel
    int32_t refs
    uint64_t protects           # calls of mprotect

# `count` buffers of at least `size` bytes; flags FB_*. NULL, the reason in *err (-errno).
cdef fbpool *fbpool_create(size_t size, uint32_t count, uint32_t flags, int *err) noexcept nogil
cdef void fbpool_ref(fbpool *p) noexcept nogil
cdef void fbpool_unref(fbpool *p) noexcept nogil
# A buffer to fill: its number, or -ENOBUFS, -errno.
cdef int fbpool_take(fbpool *p) noexcept nogil
# Its first window is given away: what the pool's kind demands is done with its pages. 0 or -errno, and then it is still
# ours to fill.
cdef int fbpool_give(fbpool *p, uint32_t id) noexcept nogil
# It is ours to fill again: nobody got it, or it was sent back to us. Where others still see it, it stays as it is. 0 or
# -errno.
cdef int fbpool_regain(fbpool *p, uint32_t id) noexcept nogil
# One more, one less who keeps it from being free; the last one makes it free. -EOVERFLOW: 65,535 do.
cdef int fbpool_hold(fbpool *p, uint32_t id) noexcept nogil
cdef void fbpool_drop(fbpool *p, uint32_t id) noexcept nogil
# A receiver asks that nobody may write to it any more, until it comes back. 0 or -errno.
cdef int fbpool_secure(fbpool *p, uint32_t id) noexcept nogil
# In a child process: what is shared with the parent can be read, and no more.
cdef void fbpool_disown(fbpool *p) noexcept nogil


cdef inline uint8_t *fbpool_at(const fbpool *p, uint32_t id) noexcept nogil:
    return p.mem.base + <size_t>id * p.size
