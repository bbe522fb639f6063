"""IPv6 headers (RFC 8200): check, parse, emit, extension headers one at a time, pseudo header. Offsets in bytes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.checksum cimport csum_add
from ustack._core.wire.bytes cimport get16, get32, htonl, put16, put32

cdef enum:
    O_CLASS = 0                 # version, traffic class and flow label: one word
    O_PAYLOAD = 4
    O_NEXT = 6
    O_HOPS = 7
    O_SRC = 8
    O_DST = 24

cdef enum:
    IP6_LEN = 40
    IP6_PAYLOAD = 4             # where the payload length lies
    IP6_NEXT = 6                # where the first next header lies
    IP6_MAX = 65535             # payload; jumbograms (RFC 2675) are not served
    IP6_MIN_MTU = 1280          # RFC 8200 5: every link carries this much
    IP6_FRAG_LEN = 8            # of the fragment header
    IP6_EXT_LEN = 8             # the least that an extension header has

cdef enum:
    # What ip6_check finds
    IP6_OK = 0
    IP6_SHORT = 1
    IP6_BAD_VERSION = 2
    IP6_BAD_LENGTH = 3

cdef enum:
    # Next header values that are extension headers, and the end of the chain
    NEXT_HOPOPTS = 0
    NEXT_ROUTING = 43
    NEXT_FRAGMENT = 44
    NEXT_NONE = 59
    NEXT_DSTOPTS = 60

cdef enum:
    OPT6_PAD1 = 0
    OPT6_PADN = 1

cdef enum:
    # What to do about options (RFC 8200 4.2), as the two highest bits of an unknown one say it
    OPTS_SKIP = 0
    OPTS_DROP = 1
    OPTS_REPORT = 2             # parameter problem, whatever the destination
    OPTS_REPORT_UNICAST = 3     # parameter problem unless the destination is a group
    OPTS_BAD = 4                # one runs past the end

cdef struct ip6_header:
    uint8_t tclass
    uint32_t label
    uint16_t payload            # bytes behind this header
    uint8_t next
    uint8_t hops
    ipaddr src
    ipaddr dst

cdef struct ip6_fragment:
    uint8_t next
    uint32_t offset             # bytes
    bint more
    uint32_t id


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    return (<uint64_t>get32(p) << 32) | get32(p + 4)


cdef inline void get_addr(const uint8_t *p, ipaddr *a) noexcept nogil:
    a.hi = get64(p)
    a.lo = get64(p + 8)


cdef inline void put_addr(uint8_t *p, const ipaddr *a) noexcept nogil:
    put32(p, <uint32_t>(a.hi >> 32))
    put32(p + 4, <uint32_t>a.hi)
    put32(p + 8, <uint32_t>(a.lo >> 32))
    put32(p + 12, <uint32_t>a.lo)


cdef inline int ip6_check(const uint8_t *p, size_t n, size_t packet) noexcept nogil:
    """Of a packet of ``packet`` bytes, n of them contiguous at p. IP6_OK: a whole header lies there, and all of its
    payload is in the packet."""
    if n < 1:
        return IP6_SHORT
    if p[O_CLASS] >> 4 != 6:
        return IP6_BAD_VERSION
    if n < IP6_LEN:
        return IP6_SHORT
    if <size_t>IP6_LEN + get16(p + O_PAYLOAD) > packet:
        return IP6_BAD_LENGTH
    return IP6_OK


cdef inline void ip6_parse(const uint8_t *p, ip6_header *h) noexcept nogil:
    cdef uint32_t word = get32(p + O_CLASS)
    h.tclass = (word >> 20) & 0xFF
    h.label = word & 0xFFFFF
    h.payload = get16(p + O_PAYLOAD)
    h.next = p[O_NEXT]
    h.hops = p[O_HOPS]
    get_addr(p + O_SRC, &h.src)
    get_addr(p + O_DST, &h.dst)


cdef inline void ip6_emit(uint8_t *p, const ip6_header *h) noexcept nogil:
    put32(p + O_CLASS, <uint32_t>0x60000000 | (<uint32_t>h.tclass << 20) | (h.label & 0xFFFFF))
    put16(p + O_PAYLOAD, h.payload)
    p[O_NEXT] = h.next
    p[O_HOPS] = h.hops
    put_addr(p + O_SRC, &h.src)
    put_addr(p + O_DST, &h.dst)


cdef inline void ip6_set_payload(uint8_t *p, uint16_t payload) noexcept nogil:
    put16(p + O_PAYLOAD, payload)


cdef inline uint32_t add_addr(uint32_t sum, const ipaddr *a) noexcept nogil:
    sum = csum_add(sum, htonl(<uint32_t>(a.hi >> 32)))
    sum = csum_add(sum, htonl(<uint32_t>a.hi))
    sum = csum_add(sum, htonl(<uint32_t>(a.lo >> 32)))
    return csum_add(sum, htonl(<uint32_t>a.lo))


cdef inline uint32_t ip6_pseudo(const ipaddr *src, const ipaddr *dst, uint8_t proto, uint32_t length) noexcept nogil:
    """Partial sum of the pseudo header (RFC 8200 8.1)."""
    return csum_add(csum_add(add_addr(add_addr(0, src), dst), htonl(length)), htonl(proto))


# --- extension headers ----------------------------------------------------------------------------------------
cdef inline bint ip6_is_ext(uint8_t next) noexcept nogil:
    """An extension header that is walked here (authentication and encryption are protocols that nobody serves)."""
    return next == NEXT_HOPOPTS or next == NEXT_ROUTING or next == NEXT_FRAGMENT or next == NEXT_DSTOPTS


cdef inline size_t ip6_ext_len(const uint8_t *p, uint8_t kind) noexcept nogil:
    """Of an extension header of which at least two bytes are here."""
    return IP6_FRAG_LEN if kind == NEXT_FRAGMENT else (<size_t>p[1] + 1) << 3


cdef inline uint8_t ip6_segments_left(const uint8_t *p) noexcept nogil:
    """Of a routing header."""
    return p[3]


cdef inline void ip6_parse_fragment(const uint8_t *p, ip6_fragment *f) noexcept nogil:
    f.next = p[0]
    f.offset = get16(p + 2) & 0xFFF8
    f.more = p[3] & 1
    f.id = get32(p + 4)


cdef inline void ip6_emit_fragment(uint8_t *p, const ip6_fragment *f) noexcept nogil:
    p[0] = f.next
    p[1] = 0
    put16(p + 2, <uint16_t>(f.offset | (1 if f.more else 0)))
    put32(p + 4, f.id)


cdef inline int ip6_check_options(const uint8_t *p, size_t n, size_t *at) noexcept nogil:
    """Walk the options of an extension header of n bytes (at p, whole). OPTS_*; *at: the offset in it of the option
    that is to blame."""
    cdef size_t i = 2
    at[0] = 0
    while i < n:
        if p[i] == OPT6_PAD1:
            i += 1
            continue
        if i + 1 >= n or <size_t>p[i + 1] + 2 > n - i:
            at[0] = i
            return OPTS_BAD
        if p[i] != OPT6_PADN and p[i] >> 6:
            at[0] = i
            return p[i] >> 6
        i += <size_t>p[i + 1] + 2
    return OPTS_SKIP


cdef inline size_t ip6_skip(const uint8_t *p, size_t n, uint8_t *next, bint *later) noexcept nogil:
    """Where the transport header is in an excerpt of n bytes of a packet that begins with a checked IPv6 header: its
    offset and protocol, or 0 if the excerpt ends before it. *later: it is a fragment other than the first."""
    cdef size_t i = IP6_LEN
    later[0] = False
    next[0] = p[O_NEXT]
    while ip6_is_ext(next[0]):
        if i + IP6_EXT_LEN > n:
            return 0
        if next[0] == NEXT_FRAGMENT and get16(p + i + 2) & 0xFFF8:
            later[0] = True
        next[0], i = p[i], i + ip6_ext_len(p + i, next[0])
    return i if i <= n else 0
