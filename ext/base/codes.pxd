"""Small numbers with names that rooms share: link capabilities, packet facts, readiness bits, protocols."""

cdef enum:
    # What a link can do by itself; the stack does the rest in software just above it.
    CAP_TX_CSUM = 1 << 0        # completes a partial L4 checksum (csum_start, csum_offset)
    CAP_RX_CSUM = 1 << 1        # vouches for, or leaves partial, received L4 checksums
    CAP_TSO4 = 1 << 2           # takes and gives TCP/IPv4 super-segments
    CAP_TSO6 = 1 << 3
    CAP_USO = 1 << 4            # takes UDP super-datagrams
    CAP_GATHER = 1 << 5         # takes chains up to max_sg blocks
    CAP_ZEROCOPY_RX = 1 << 6    # received storage is lent, not copied
    CAP_ZEROCOPY_TX = 1 << 7    # the link itself copies nothing
    CAP_NEED_WAKEUP = 1 << 8
    CAP_FAULTS = 1 << 9         # its transmit may fault on user memory: call it outside the lock

cdef enum:
    # mblk.csum: what is known of the L4 checksum of a packet
    CSUM_NONE = 0               # nothing: verify on input, complete before output
    CSUM_OK = 1                 # verified (input) or complete (output)
    CSUM_PARTIAL = 2            # the field holds the pseudo-header sum; data from csum_start not yet summed

cdef enum:
    GSO_NONE = 0
    GSO_TCP4 = 1
    GSO_TCP6 = 2
    GSO_UDP = 3

cdef enum:
    # Readiness, as poll(2) names it
    EV_IN = 1                   # data, a connection to accept, or the end of the stream
    EV_OUT = 4                  # room to send, or a connect that ended
    EV_ERR = 8
    EV_HUP = 16

cdef enum:
    IPPROTO_ICMP_ = 1
    IPPROTO_TCP_ = 6
    IPPROTO_UDP_ = 17
    IPPROTO_ICMPV6_ = 58

cdef enum:
    LINK_UP = 1
    LINK_DOWN = 2               # carrier lost or ENETDOWN: may come back
    LINK_GONE = 3               # the device vanished: will not come back
