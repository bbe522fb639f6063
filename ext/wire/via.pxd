"""The formats of the message layer: descriptors as VIPL 1.0 lays them out, and entries of lanes between processes.

Both lie in memory of one machine, in its byte order. A descriptor belongs to the process that posts it and holds
addresses; an entry crosses to another process and holds none: (handle, offset, length). Whoever reads either copies
it
first, then looks.

       descriptor (64-byte aligned)                        entry (one cache line)
       0  next            8 bytes                          0  stamp      position in the lane + 1: the entry is there
       8  next's handle   4                                4  ack        entries of the other lane that are finished
       12 segments        2                                8  kind, flags, segments, cancelled
       14 control         2                                12 to         VI of the reader
       16 reserved        4                                16 from       VI of the writer
       20 immediate data  4                                20 immediate
       24 length          4                                24 length     bytes of the message
       28 status          4                                28 about      attempt, or position that failed
       32 segments, 16 bytes each:                         32 two segments, 16 bytes each:
          address 8, handle 4, length 4                       handle 4, length 4, offset 8; or a discriminator
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    DESC_ALIGN = 64
    DESC_CONTROL = 32           # bytes of the control segment
    DESC_SEGMENT = 16           # bytes of a data segment
    SEGMENTS_MAX = 16           # data segments of a descriptor

# Control bits: an operation and two flags.
cdef enum:
    CONTROL_OP = 3
    OP_SENDRECV = 0
    OP_RDMAWRITE = 1
    OP_RDMAREAD = 2
    CONTROL_IMMEDIATE = 4
    CONTROL_QFENCE = 8
    CONTROL_KNOWN = 15

# Status bits.
cdef enum:
    STATUS_DONE = 1
    STATUS_FORMAT = 2
    STATUS_PROTECTION = 4
    STATUS_LENGTH = 8
    STATUS_PARTIAL = 0x10
    STATUS_FLUSHED = 0x20
    STATUS_TRANSPORT = 0x40
    STATUS_RDMA_PROT = 0x80
    STATUS_REMOTE_DESC = 0x100
    STATUS_ERRORS = 0x1FE
    STATUS_OP_SEND = 0
    STATUS_OP_RECEIVE = 0x10000
    STATUS_OP = 0x70000
    STATUS_IMMEDIATE = 0x80000

cdef struct desc_control:
    uint64_t next
    uint32_t next_handle
    uint16_t segments
    uint16_t control
    uint32_t reserved
    uint32_t immediate
    uint32_t length
    uint32_t status

cdef struct desc_segment:
    uint64_t data
    uint32_t handle
    uint32_t length

cdef struct desc:               # a copy of one, to be looked at
    desc_control c
    desc_segment s[SEGMENTS_MAX]

cdef enum:
    LANE_ENTRY = 64
    ENTRY_INLINE = 2            # segments in the first slot of an entry
    ENTRY_MORE = 3              # in each further one
    ENTRY_SLOTS_MAX = 6         # 1 + (SEGMENTS_MAX - 2) / 3, rounded up
    DISCRIMINATOR_MAX = 32

cdef enum:                      # kinds of entries
    ENTRY_SEND = 1
    ENTRY_ERROR = 2             # the entry at position `about` was not delivered; why: a status bit in `length`
    ENTRY_CONNECT = 3
    ENTRY_ACCEPT = 4
    ENTRY_REJECT = 5            # a return code in `length`
    ENTRY_DISCONNECT = 6
    ENTRY_KINDS = 7

cdef enum:
    ENTRY_HAS_IMMEDIATE = 1

cdef struct entry_segment:
    uint32_t handle
    uint32_t length
    uint64_t offset

cdef struct entry:
    uint32_t stamp
    uint32_t ack
    uint8_t kind
    uint8_t flags               # ENTRY_SEND: ENTRY_HAS_IMMEDIATE; ENTRY_CONNECT: the reliability level
    uint8_t segments
    uint8_t cancelled           # set by the writer after publishing: what was read meanwhile is void
    uint32_t to
    uint32_t source
    uint32_t immediate
    uint32_t length
    uint32_t about
    entry_segment s[ENTRY_INLINE]

cdef struct entry_more:
    uint32_t stamp
    uint32_t unused[3]
    entry_segment s[ENTRY_MORE]


cdef inline uint32_t desc_finish(const uint8_t *p, desc *d) noexcept nogil:
    """Copy the segments behind a control segment that was copied already. 0, or a status bit if it is malformed."""
    if d.c.segments > SEGMENTS_MAX or d.c.control & ~<uint16_t>CONTROL_KNOWN:
        return STATUS_FORMAT
    memcpy(d.s, p + DESC_CONTROL, <size_t>d.c.segments * DESC_SEGMENT)
    return 0


cdef inline uint64_t desc_extent(uint32_t segments) noexcept nogil:
    """Bytes of a descriptor with so many data segments."""
    return DESC_CONTROL + DESC_SEGMENT * <uint64_t>segments


cdef inline uint32_t entry_slots(uint32_t segments) noexcept nogil:
    """Slots of a lane that an entry with so many segments takes."""
    return 1 if segments <= ENTRY_INLINE else 1 + (segments - ENTRY_INLINE + ENTRY_MORE - 1) / ENTRY_MORE
