"""What links cannot do, in software just above them: checksum completion, segmentation, receive coalescing."""

from libc.stdint cimport uint32_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk

# Complete a partial checksum in place (csum_start, csum_offset); 0, or -EINVAL if the facts do not fit the packet.
# The header must be writable; it is made so if it is not. UDP's 0 becomes 0xFFFF (RFC 768).
cdef int offload_checksum(context *ctx, mblk *pkt) noexcept nogil
# Cut a TCP or UDP super-segment (IP packet at offset `l3` from rptr: 14 on Ethernet, 0 on layer 3) into wire packets:
# out[0..n), payload shared (no copy), checksums complete unless keep_partial. Takes the packet on success. Returns n,
# or -EINVAL, -ENOBUFS, -E2BIG if `max` is too small (then the packet is not taken).
cdef int offload_segment(context *ctx, mblk *pkt, int l3, mblk **out, int max, bint keep_partial) noexcept nogil
# How many wire packets a super-segment stands for.
cdef int offload_count(const mblk *pkt, int l3) noexcept nogil
# Join in-order TCP segments of one flow in a burst (in place, payload linked, not copied); returns the new count.
# A packet leaves alone if it is not plain data: other flags than ACK and PSH, differing options, IP options, odd
# sizes, bad or unknown checksum. gso_size, segs and pkt_len tell what was joined.
cdef int offload_coalesce(context *ctx, mblk **pkts, int n, int l3) noexcept nogil
# For links, which know no headers: make a private contiguous copy of a chain (LR_FLATTEN), facts kept.
cdef mblk *offload_flatten(context *ctx, mblk *taken) noexcept nogil
