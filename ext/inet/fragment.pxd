"""Fragments: reassembly for both versions, by reference, and cutting what is too big for an IPv4 path. Private to the
internet layer.

Reassembly (RFC 791 3.2, 815, 1122 3.3.2; RFC 8200 4.5) copies nothing: fragments are linked. It is strict as RFC 5722
has it, for IPv4 too: a fragment that overlaps another makes the whole datagram void, and what still comes of it; an
exact duplicate is dropped. Everything is bounded, and at a bound the oldest incomplete datagram goes.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr

from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.inet.path cimport path
from ustack._core.mem.mblk cimport mblk

cdef enum:
    FRAG_BUCKETS = 256
    FRAG_DATAGRAMS = 256        # incomplete datagrams
    FRAG_PIECES = 256           # fragments of one: 64 KB over an MTU of 276
    FRAG_SECONDS = 30           # RFC 1122 3.3.2 wants 60 to 120, Linux has 30, and so have we
    FRAG6_SECONDS = 60          # RFC 8200 4.5
    FRAG_BYTES = 4 << 20        # storage held by all of them

# What the header of a fragment says, whatever the version.
cdef struct fragment:
    ipaddr src
    ipaddr dst
    uint32_t id
    uint8_t version
    uint8_t proto               # IPv4; 0 with IPv6, where it is no part of what names a datagram
    bint more
    uint16_t header_len         # all headers in front of the data, IPv6's fragment header included
    uint32_t offset             # bytes
    uint32_t length
    uint32_t most               # the furthest that data may reach behind such a header

cdef int fragment_init(inet *net) noexcept nogil
cdef void fragment_free(inet *net) noexcept nogil
# A fragment, from its IP header on. Returns the whole datagram from its IP header on when it is complete, with *ip
# brought up to date (header_len and proto are those of the first fragment, as they were in its *ip); else NULL.
cdef mblk *fragment_input(inet *net, mblk *taken, const fragment *f, ip_packet *ip) noexcept nogil
cdef int fragment_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos) noexcept nogil
