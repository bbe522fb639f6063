"""IPv4 headers (RFC 791): check, parse, emit, options, pseudo header. Lengths and offsets in bytes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.checksum cimport csum_add, csum_finish, csum_fold, csum_partial, csum_update16
from ustack._core.wire.bytes cimport get16, get32, get_sum, htonl, htons, put16, put32, put_sum

cdef enum:
    O_VERSION_IHL = 0
    O_TOS = 1
    O_TOTAL = 2
    O_ID = 4
    O_FRAG = 6
    O_TTL = 8
    O_PROTO = 9
    O_CHECKSUM = 10
    O_SRC = 12
    O_DST = 16

cdef enum:
    IP4_LEN = 20
    IP4_MAX_HEADER = 60
    IP4_MAX = 65535
    IP4_MIN_MTU = 68            # RFC 791: every link carries this much
    IP4_DF = 0x4000
    IP4_MF = 0x2000
    IP4_OFFSET_MASK = 0x1FFF    # in units of 8 bytes

cdef enum:
    # What ip4_check finds
    IP4_OK = 0
    IP4_SHORT = 1
    IP4_BAD_VERSION = 2
    IP4_BAD_LENGTH = 3

cdef enum:
    IP4_OPT_END = 0
    IP4_OPT_NOP = 1
    IP4_OPT_RR = 7
    IP4_OPT_TIMESTAMP = 68
    IP4_OPT_LSRR = 131
    IP4_OPT_SSRR = 137

cdef enum:
    # In Record Route and Timestamp: what lies at which byte; and the kinds of the latter
    IP4_OPT_POINTER = 2
    IP4_OPT_TS_FLAGS = 3        # the lower four bits; the others count who found no room
    TS_ONLY = 0
    TS_AND_ADDRESS = 1
    TS_PRESPECIFIED = 3

cdef struct ip4_header:
    uint8_t header_len
    uint8_t tos
    uint32_t total_len          # in the header 0 if longer than IP4_MAX
    uint16_t id
    bint df
    bint mf
    uint32_t frag_offset        # bytes
    uint8_t ttl
    uint8_t proto
    uint32_t src
    uint32_t dst


cdef inline uint32_t ip4_total(const uint8_t *p, size_t packet) noexcept nogil:
    """The length that the header of a packet of ``packet`` bytes tells. A super-segment for which 16 bits are too few
    tells 0 and ends with its frame (as in Linux since 6.3, "BIG TCP"); no wire ever carries one."""
    cdef uint32_t total = get16(p + O_TOTAL)
    return total if total or packet <= IP4_MAX else <uint32_t>packet


cdef inline int ip4_check(const uint8_t *p, size_t n, size_t packet) noexcept nogil:
    """Of a packet of ``packet`` bytes, n of them contiguous at p. IP4_OK: a whole header lies there, and
    all of total length is in the packet."""
    cdef size_t header, total
    if n < 1:
        return IP4_SHORT
    if p[O_VERSION_IHL] >> 4 != 4:
        return IP4_BAD_VERSION
    if n < IP4_LEN:
        return IP4_SHORT
    header = (p[O_VERSION_IHL] & 15) << 2
    total = ip4_total(p, packet)
    if header < IP4_LEN or total < header or total > packet:
        return IP4_BAD_LENGTH
    return IP4_OK if header <= n else IP4_SHORT


cdef inline size_t ip4_header_len(const uint8_t *p) noexcept nogil:
    return (p[O_VERSION_IHL] & 15) << 2


cdef inline bint ip4_sum_ok(const uint8_t *p) noexcept nogil:
    """Whether the header checksum holds. The header has been checked."""
    return csum_fold(csum_partial(p, (p[O_VERSION_IHL] & 15) << 2)) == 0xFFFF


cdef inline void ip4_parse(const uint8_t *p, ip4_header *h) noexcept nogil:
    cdef uint16_t frag = get16(p + O_FRAG)
    h.header_len = (p[O_VERSION_IHL] & 15) << 2
    h.tos = p[O_TOS]
    h.total_len = get16(p + O_TOTAL)
    h.id = get16(p + O_ID)
    h.df = (frag & IP4_DF) != 0
    h.mf = (frag & IP4_MF) != 0
    h.frag_offset = (frag & IP4_OFFSET_MASK) << 3
    h.ttl = p[O_TTL]
    h.proto = p[O_PROTO]
    h.src = get32(p + O_SRC)
    h.dst = get32(p + O_DST)


cdef inline void ip4_set_sum(uint8_t *p) noexcept nogil:
    put_sum(p + O_CHECKSUM, 0)
    put_sum(p + O_CHECKSUM, csum_finish(csum_partial(p, (p[O_VERSION_IHL] & 15) << 2)))


cdef inline void ip4_emit(uint8_t *p, const ip4_header *h) noexcept nogil:
    """Write the first 20 bytes, and the checksum over header_len bytes: options, if any, lie there
    already."""
    cdef uint16_t frag = <uint16_t>(h.frag_offset >> 3)
    if h.df:
        frag |= IP4_DF
    if h.mf:
        frag |= IP4_MF
    p[O_VERSION_IHL] = 0x40 | (h.header_len >> 2)
    p[O_TOS] = h.tos
    put16(p + O_TOTAL, <uint16_t>h.total_len if h.total_len <= IP4_MAX else 0)
    put16(p + O_ID, h.id)
    put16(p + O_FRAG, frag)
    p[O_TTL] = h.ttl
    p[O_PROTO] = h.proto
    put32(p + O_SRC, h.src)
    put32(p + O_DST, h.dst)
    ip4_set_sum(p)


cdef inline void ip4_set_length(uint8_t *p, uint16_t total, uint16_t id) noexcept nogil:
    """Give a header another total length and identification, its checksum updated (RFC 1624)."""
    cdef uint16_t sum = get_sum(p + O_CHECKSUM)
    sum = csum_update16(sum, get_sum(p + O_TOTAL), htons(total))
    sum = csum_update16(sum, get_sum(p + O_ID), htons(id))
    put16(p + O_TOTAL, total)
    put16(p + O_ID, id)
    put_sum(p + O_CHECKSUM, sum)


cdef inline uint16_t ip4_id(const uint8_t *p) noexcept nogil:
    return get16(p + O_ID)


cdef inline void ip4_set_whole(uint8_t *p, uint16_t total) noexcept nogil:
    """Make the header of a first fragment that of the whole datagram."""
    put16(p + O_TOTAL, total)
    put16(p + O_FRAG, get16(p + O_FRAG) & IP4_DF)
    ip4_set_sum(p)


cdef inline uint32_t ip4_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t length) noexcept nogil:
    """Partial sum of the pseudo header (RFC 9293 3.1)."""
    cdef uint32_t sum = csum_add(htonl(src), htonl(dst))
    return csum_add(csum_add(sum, htonl(proto)), htonl(length))


cdef inline int ip4_check_options(const uint8_t *p, size_t n) noexcept nogil:
    """Walk n bytes of options: 0, 1 if there is a source route; -1 - i if the one that begins at byte i runs past
    the end or has no length."""
    cdef size_t i = 0
    cdef size_t length
    while i < n:
        if p[i] == IP4_OPT_END:
            return 0
        if p[i] == IP4_OPT_NOP:
            i += 1
            continue
        if i + 1 >= n:
            return -1 - <int>i
        length = p[i + 1]
        if length < 2 or length > n - i:
            return -1 - <int>i
        if p[i] == IP4_OPT_LSRR or p[i] == IP4_OPT_SSRR:
            return 1
        i += length
    return 0
