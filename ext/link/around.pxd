"""Links that wrap a link: what they have in common. The stack sees the wrapper, which calls the link inside.

What needs to know headers (cutting super-segments, completing checksums) is handed in from above.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.types cimport ns_t
from ustack._core.link.link cimport link, link_ops
from ustack._core.mem.mblk cimport mblk

# The knowledge of headers. `mem` is where new blocks come from; none of these books in the stack's ledger:
# what happens on a wire is not the stack's work.
cdef struct knowledge:
    void *arg
    # Cut a super-segment (IP at offset l3) into wire packets in out[], with partial checksums; takes the
    # packet on success. Returns how many, or -errno, then it is not taken.
    int (*segment)(void *arg, link *l, mblk *pkt, mblk **out, int max) noexcept nogil
    # Complete a partial checksum in place; 0 or -EINVAL.
    int (*complete)(void *arg, link *l, mblk *pkt) noexcept nogil
    # A private contiguous copy; takes the packet. NULL without memory.
    mblk *(*flatten)(void *arg, link *l, mblk *taken) noexcept nogil
    # Whether checksums would find a flipped bit in it: an IP packet.
    bint (*guarded)(void *arg, link *l, const mblk *pkt) noexcept nogil

cdef struct around:
    link base
    link *inner                 # owned by the Python handle, which closes it after the wrapper
    knowledge know

# Set up `a` as a wrapper of the same kind of wire as `inner`; ops is one of two tables that around_ops filled
# in.
cdef void around_init(around *a, link *inner, const link_ops *ops, const knowledge *know) noexcept nogil
# Fill in a wrapper's tables, for links inside with descriptors and without; rx, tx, close and deadline are
# its own.
cdef void around_ops(link_ops *with_fds, link_ops *without, const link_ops *own) noexcept nogil
# Take over what may have changed inside: MTU, state. Before and after each call of the link inside.
cdef void around_sync(around *a) noexcept nogil
