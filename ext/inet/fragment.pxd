"""IPv4 fragments: cutting what is too big for its path, and reassembly, by reference. Private to the internet layer.

Reassembly (RFC 791 3.2, 815, 1122 3.3.2) copies nothing: fragments are linked. It is strict, as RFC 5722 is for IPv6:
a fragment that overlaps another makes the whole datagram void, and what still comes of it; an exact duplicate is
dropped. Everything is bounded, and at a bound the oldest incomplete datagram goes.
"""

from libc.stdint cimport uint8_t

from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.inet.path cimport path
from ustack._core.mem.mblk cimport mblk
from ustack._core.wire.ip4 cimport ip4_header

cdef enum:
    FRAG_BUCKETS = 256
    FRAG_DATAGRAMS = 256        # incomplete datagrams
    FRAG_PIECES = 256           # fragments of one: 64 KB over an MTU of 276
    FRAG_SECONDS = 30           # RFC 1122 3.3.2 wants 60 to 120, Linux has 30, and so have we
    FRAG_BYTES = 4 << 20        # storage held by all of them

cdef int fragment_init(inet *net) noexcept nogil
cdef void fragment_free(inet *net) noexcept nogil
# A fragment, from its IP header on. Returns the whole datagram from its IP header on when it is complete, with *ip
# brought up to date; else NULL.
cdef mblk *fragment_input(inet *net, mblk *taken, const ip4_header *h, ip_packet *ip) noexcept nogil
cdef int fragment_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos) noexcept nogil
