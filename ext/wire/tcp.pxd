"""TCP headers (RFC 9293 3.1) and options (RFC 9293 3.2, 2018, 7323). Lengths in bytes, numbers in host order.

    tcp_check(p, n)                     -1 unless the header with its options lies within n bytes
    tcp_parse(p, &h)                    after tcp_check
    tcp_parse_options(p + TCP_LEN, h.data_offset - TCP_LEN, &o)     safe for any bytes
    n = tcp_emit_options(p + TCP_LEN, &o)                           0 to 40, a multiple of 4
    h.data_offset = TCP_LEN + n; tcp_emit_header(p, &h)             checksum 0: put_sum(p + TCP_SUM, …)
"""

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memset

from ustack._core.wire.bytes cimport get16, get32, put16, put32, put_sum

cdef enum:
    O_SPORT = 0
    O_DPORT = 2
    O_SEQ = 4
    O_ACK = 8
    O_OFFSET = 12
    O_FLAGS = 13
    O_WINDOW = 14
    O_CHECKSUM = 16
    O_URGENT = 18

cdef enum:
    TCP_LEN = 20
    TCP_MAX_HEADER = 60
    TCP_MAX_OPTIONS = 40
    TCP_SUM = 16                # where the checksum lies: csum_offset
    TCP_MAX_WSCALE = 14         # RFC 7323 2.3
    TCP_MAX_SACK = 4

cdef enum:
    TH_FIN = 1
    TH_SYN = 2
    TH_RST = 4
    TH_PSH = 8
    TH_ACK = 16
    TH_URG = 32
    TH_ECE = 64
    TH_CWR = 128

cdef enum:
    OPT_END = 0
    OPT_NOP = 1
    OPT_MSS = 2
    OPT_WSCALE = 3
    OPT_SACK_PERMITTED = 4
    OPT_SACK = 5
    OPT_TIMESTAMP = 8

cdef struct tcp_header:
    uint16_t sport
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint8_t data_offset         # header and options, in bytes
    uint8_t flags               # TH_*; the reserved bits are ignored (RFC 9293 3.1)
    uint16_t window             # as on the wire, not scaled
    uint16_t urgent

cdef struct tcp_options:
    uint16_t mss                # 0: none
    int8_t wscale               # -1: none; above 14 read as 14 (RFC 7323 2.3)
    bint sack_permitted
    bint has_ts
    bint bad                    # an option without a valid length: what follows it was not read
    uint8_t nsack
    uint32_t tsval
    uint32_t tsecr
    uint32_t sack[TCP_MAX_SACK][2]  # [left edge, right edge), in the order of the packet


cdef inline int tcp_check(const uint8_t *p, size_t n) noexcept nogil:
    """0, or -1 if the header or its options do not lie within n bytes."""
    cdef size_t offset
    if n < TCP_LEN:
        return -1
    offset = (p[O_OFFSET] >> 4) << 2
    return 0 if TCP_LEN <= offset <= n else -1


cdef inline size_t tcp_header_len(const uint8_t *p) noexcept nogil:
    """What the header says of its length, options included; 20 bytes lie at p."""
    return (p[O_OFFSET] >> 4) << 2


cdef inline void tcp_parse(const uint8_t *p, tcp_header *h) noexcept nogil:
    h.sport = get16(p + O_SPORT)
    h.dport = get16(p + O_DPORT)
    h.seq = get32(p + O_SEQ)
    h.ack = get32(p + O_ACK)
    h.data_offset = (p[O_OFFSET] >> 4) << 2
    h.flags = p[O_FLAGS]
    h.window = get16(p + O_WINDOW)
    h.urgent = get16(p + O_URGENT)


cdef inline void tcp_emit_header(uint8_t *p, const tcp_header *h) noexcept nogil:
    """Write 20 bytes with a checksum of 0; data_offset says how many options follow."""
    put16(p + O_SPORT, h.sport)
    put16(p + O_DPORT, h.dport)
    put32(p + O_SEQ, h.seq)
    put32(p + O_ACK, h.ack)
    p[O_OFFSET] = (h.data_offset >> 2) << 4
    p[O_FLAGS] = h.flags
    put16(p + O_WINDOW, h.window)
    put_sum(p + O_CHECKSUM, 0)
    put16(p + O_URGENT, h.urgent)


cdef inline uint32_t tcp_seq(const uint8_t *p) noexcept nogil:
    return get32(p + O_SEQ)


cdef inline uint8_t tcp_flags(const uint8_t *p) noexcept nogil:
    return p[O_FLAGS]


cdef inline void tcp_set_segment(uint8_t *p, uint32_t seq, uint8_t flags) noexcept nogil:
    """Make a copied header that of another segment of the same stream."""
    put32(p + O_SEQ, seq)
    p[O_FLAGS] = flags


cdef inline void tcp_set_flags(uint8_t *p, uint8_t flags) noexcept nogil:
    p[O_FLAGS] = flags


cdef inline bint tcp_same_but_seq(const uint8_t *a, const uint8_t *b, size_t header_len) noexcept nogil:
    """Whether two headers agree in all that matters to joining their segments: ports, acknowledgement, flags but
    PSH, window, urgent pointer, and options byte by byte."""
    return (memcmp(a + O_SPORT, b + O_SPORT, 4) == 0 and memcmp(a + O_ACK, b + O_ACK, 5) == 0
            and ((a[O_FLAGS] ^ b[O_FLAGS]) & ~TH_PSH) == 0 and memcmp(a + O_WINDOW, b + O_WINDOW, 2) == 0
            and memcmp(a + O_URGENT, b + O_URGENT, header_len - O_URGENT) == 0)


cdef inline void tcp_clear_options(tcp_options *o) noexcept nogil:
    """No options at all; to start from before emitting some."""
    memset(o, 0, sizeof(tcp_options))
    o.wscale = -1


cdef inline void tcp_parse_option(const uint8_t *p, size_t length, tcp_options *o) noexcept nogil:
    """One option whose ``length`` bytes, at least 2, lie at p. A length that its kind cannot have:
    skipped."""
    cdef size_t i
    if p[0] == OPT_MSS and length == 4:
        o.mss = get16(p + 2)
    elif p[0] == OPT_WSCALE and length == 3:
        o.wscale = p[2] if p[2] <= TCP_MAX_WSCALE else TCP_MAX_WSCALE
    elif p[0] == OPT_SACK_PERMITTED and length == 2:
        o.sack_permitted = True
    elif p[0] == OPT_TIMESTAMP and length == 10:
        o.has_ts = True
        o.tsval = get32(p + 2)
        o.tsecr = get32(p + 6)
    elif p[0] == OPT_SACK and 10 <= length <= 34 and (length - 2) % 8 == 0:
        o.nsack = (length - 2) // 8
        for i in range(o.nsack):
            o.sack[i][0] = get32(p + 2 + 8 * i)
            o.sack[i][1] = get32(p + 6 + 8 * i)


cdef inline int tcp_walk_options(const uint8_t *p, size_t n, tcp_options *o) noexcept nogil:
    cdef size_t i = 0
    cdef size_t length
    while i < n:
        if p[i] == OPT_END:
            return 0
        if p[i] == OPT_NOP:
            i += 1
            continue
        length = p[i + 1] if i + 1 < n else 0
        if length < 2 or length > n - i:
            o.bad = True
            return -1
        tcp_parse_option(p + i, length, o)
        i += length
    return 0


cdef inline int tcp_parse_options(const uint8_t *p, size_t n, tcp_options *o) noexcept nogil:
    """Read n bytes of options. Unknown ones are skipped; of several of a kind the last one counts, as in
    Linux. -1 (and ``bad``) at one without a valid length: those before it have been read."""
    o.mss = 0
    o.wscale = -1
    o.sack_permitted = False
    o.has_ts = False
    o.bad = False
    o.nsack = 0
    o.tsval = 0
    o.tsecr = 0
    if n == 12 and get32(p) == 0x0101080A:     # NOP NOP TIMESTAMP 10: nearly every segment (RFC 7323 A)
        o.has_ts = True
        o.tsval = get32(p + 4)
        o.tsecr = get32(p + 8)
        return 0
    return tcp_walk_options(p, n, o)


cdef inline int tcp_options_len(const tcp_options *o) noexcept nogil:
    """How many bytes tcp_emit_options writes."""
    cdef int n = 4 if o.mss else 0
    cdef int room
    if o.has_ts:
        n += 12                 # the two bytes of padding carry SACK-permitted
    elif o.sack_permitted:
        n += 4
    if o.wscale >= 0:
        n += 4
    if o.nsack:
        room = (TCP_MAX_OPTIONS - n - 4) // 8
        if room > 0:
            n += 4 + 8 * (o.nsack if o.nsack < room else room)
    return n


cdef inline int tcp_emit_options(uint8_t *p, const tcp_options *o) noexcept nogil:
    """Write options in Linux's order, each padded with NOPs to a multiple of 4: MSS, SACK-permitted and
    timestamps, window scale, SACK blocks (the first ones that fit). Returns the length, at most 40."""
    cdef uint8_t *q = p
    cdef int i
    cdef int room
    if o.mss:
        put32(q, (<uint32_t>OPT_MSS << 24) | (4 << 16) | o.mss)
        q += 4
    if o.has_ts:
        put32(q, 0x0402080A if o.sack_permitted else 0x0101080A)
        put32(q + 4, o.tsval)
        put32(q + 8, o.tsecr)
        q += 12
    elif o.sack_permitted:
        put32(q, 0x01010402)
        q += 4
    if o.wscale >= 0:
        put32(q, 0x01030300 | <uint32_t>o.wscale)
        q += 4
    room = (TCP_MAX_OPTIONS - <int>(q - p) - 4) // 8
    if o.nsack and room > 0:
        if o.nsack < room:
            room = o.nsack
        put32(q, 0x01010500 | <uint32_t>(2 + 8 * room))
        q += 4
        for i in range(room):
            put32(q, o.sack[i][0])
            put32(q + 4, o.sack[i][1])
            q += 8
    return <int>(q - p)
