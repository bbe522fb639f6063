"""What the processes around a shared-memory link have in common: descriptors, where they lie, and bounds.

Each end of the link has two regions with rings in them. Its own one is between the stack and its device process; its
face is between the stack and the *other* end's device, which puts packets into the buffers that are posted there.

       stack A                       device A                          stack B
          |-- tx: heads and pieces ----->|                                |
          |<- done: cookies -------------|<---- fill: empty buffers ------|      B's face
          |         A's own region       |----- rx: packets ------------->|
                              |<--- posting, regions -------------|

A stack may post a receive: memory of a region that it lets the other side's device write to, and the rule by which the
device knows the packets whose payload belongs there. Such payload goes to its place, and into a buffer only its
headers. What is below `floor` is the stack's; the device says in `busy` that it is writing before it looks at version
and floor, the stack writes those before it looks at `busy`: so either sees the other.

Nothing in here is believed because it is there: entries are copied out of a ring, the copy is checked, and the copy is
used.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.link.vnet cimport vnet_hdr
from ustack._core.mem.posting cimport posting_rule

cdef enum:
    SHM_TX = 1024               # entries of the transmit ring: one for a packet and one for each piece of it
    SHM_FLIGHTS = 256           # packets that a device may have at a time
    SHM_SLOTS = 1024            # receive buffers, at most
    SHM_SLOT = 69632            # bytes of each: a page for headers, 64 KB of payload that begins at a page
    SHM_HEADERS = 4096          # where in a buffer the payload begins
    SHM_SPLIT = 256             # longer headers than this are not believed
    SHM_PIECES = 64             # pieces of a packet, at most
    SHM_REGIONS = 256           # regions that a device knows at a time
    SHM_SINKS = 16              # regions of the other side that a device may write to, at a time
    SHM_POSTED = 1 << 30        # bytes of a posted receive, at most: far less than numbers of four bytes count
    SHM_PACKET = 65535 + 14     # bytes of a packet: IP and Ethernet

cdef enum:
    SHM_HEAD = 0x4848           # kinds of entries of the transmit ring
    SHM_PIECE = 0x5050

cdef struct shm_head:
    uint32_t cookie             # which of the packets that the device has
    uint32_t stamp              # what the map says about that cookie while its memory may be read
    uint32_t length
    uint16_t pieces
    uint16_t hdr_len            # bytes of headers; 0: unknown
    vnet_hdr facts
    uint16_t kind
    uint32_t unused

cdef struct shm_piece:
    uint64_t offset
    uint32_t length
    uint32_t region             # slot of the device's table, and its version above it: SHM_VERSION
    uint16_t kind
    uint16_t unused[7]

cdef union shm_entry:
    shm_head head
    shm_piece piece

cdef enum:
    SHM_VERSION = 16            # bits

cdef struct shm_buffer:         # of the fill ring
    uint64_t offset             # in the receive region
    uint32_t length
    uint32_t slot

cdef struct shm_packet:         # of the receive ring
    uint32_t slot
    uint32_t start              # in the buffer
    uint32_t length
    uint16_t hdr_len
    vnet_hdr facts
    uint32_t at                 # in the posted memory; with placed == 0: SHM_NOT_*, why there is nothing
    uint16_t placed             # bytes of the packet that are there: they belong behind the headers in the buffer
    uint16_t posting            # the low bits of its version; 0 and SHM_NOT_POSTED: there was none

cdef enum:
    SHM_NOT_POSTED = 0
    SHM_NOT_FLOW = 1            # another connection's
    SHM_NOT_FORM = 2            # headers of another length, a fragment, a flag that begins or ends something
    SHM_NOT_ORDER = 3           # not behind what was put there before, or not inside the memory
    SHM_NOT_LEFT = 4            # the stack wanted the memory back at that moment
    SHM_NOT_REGION = 5          # memory that the device does not know
    SHM_NOT_COUNT = 6

cdef struct shm_posting:        # in a face, written by the stack
    int32_t version             # 0: nothing is posted; what follows is written while it is
    uint32_t floor              # bytes from its beginning on that are no longer the device's; it only grows
    uint32_t region             # slot of the device's table of those it may write to, and its version above it
    uint32_t length
    uint64_t offset             # in the region
    posting_rule rule

cdef struct shm_done:
    uint32_t cookie
    int32_t status              # 0, or -errno: the device refused the packet; -EFAULT: pages of a file are gone

cdef struct shm_limits:         # of a device
    uint32_t max_sg             # pieces of a packet
    uint32_t max_seg            # bytes of a piece
    uint32_t align              # of a piece's offset; a power of two
    uint32_t outboard           # it completes checksums of packets that are not super-segments
    uint64_t address_limit      # the bytes of each region that it reaches

cdef enum:
    # What a device counts, in its own region: SHM_NAMES in shm_device
    D_PACKETS, D_BYTES, D_PIECES, D_SUMMED, D_SLEEPS, D_KICKS, D_STARVED
    D_BAD_ENTRY, D_BAD_COUNT, D_BAD_REGION, D_BAD_RANGE, D_BAD_ALIGN, D_BAD_SEG, D_BAD_LIMIT, D_BAD_LENGTH, D_BAD_FACTS
    D_LOST, D_UNMAPPED, D_UNMAPPED_EARLY, D_BAD_BUFFER, D_BAD_RING, D_FULL, D_PLACED, D_BAD_POSTING
    D_COUNT

cdef enum:
    # Offsets in an own region: tx, done, map, counts
    SHM_AT_TX = 0
    SHM_AT_DONE = 65536
    SHM_AT_MAP = 65536 + 8192
    SHM_AT_COUNTS = 65536 + 8192 + 4096
    SHM_OWN = 65536 + 8192 + 4096 + 4096
    # and in a face: fill, rx, a posting, the version that the device writes for (which only the device writes)
    SHM_AT_FILL = 0
    SHM_AT_RX = 32768
    SHM_AT_POSTING = 32768 + 65536 - 4096
    SHM_AT_BUSY = 32768 + 65536 - 2048
    SHM_FACE = 32768 + 65536

cdef enum:
    SHM_CONFIG = 0x75736431     # what the stack tells its device at first, with SHM_CONFIG_FDS descriptors
    SHM_CONFIG_FDS = 7          # own, the peer's face and receive region, bell, our irq, the peer's irq and sinks
    SHM_REGION = 0x75736432     # a region that pieces will be in, with one
    SHM_FILE = 0x75736433       # pages of a file, likewise: the device maps them
    SHM_FORGET = 0x75736434     # a region that no piece will be in any more; with one too, of no meaning
    # The other side's stack has a socket to the device too, for its sinks: regions to write to, told of likewise.

cdef struct shm_order:
    uint32_t kind
    uint32_t region             # as in a piece
    shm_limits limits           # SHM_CONFIG
    uint64_t offset             # SHM_FILE: which bytes
    uint64_t length
