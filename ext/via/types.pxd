"""The structures of the message layer, in one place because they refer to each other.

       nic ---- memories    registered memory: a handle names it, a protection tag says who may
        |------ vis         a VI: two queues of descriptors and the state of its connection
        |          send, recv ---- slots: what is posted, in order; may tell a completion queue
        |------ listeners   who waits for connections, by discriminator
        +------ ports       ways to other VIs (providers): loopback, shared memory; each with its operations

Everything here is guarded by the lock of the NIC, which the callers of this room hold. Words that are looked at
without it
are said to be so. Nothing here makes a system call, reads a clock or knows Python.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.region cimport region
from ustack._core.wire.via cimport DISCRIMINATOR_MAX, SEGMENTS_MAX

cdef extern from "names.h" nogil:
    enum:
        VIP_SUCCESS, VIP_NOT_DONE, VIP_INVALID_PARAMETER, VIP_ERROR_RESOURCE, VIP_TIMEOUT, VIP_REJECT
        VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_MTU, VIP_INVALID_QOS, VIP_INVALID_PTAG, VIP_INVALID_RDMAREAD
        VIP_DESCRIPTOR_ERROR, VIP_INVALID_STATE, VIP_ERROR_NAMESERVICE, VIP_NO_MATCH, VIP_NOT_REACHABLE
        VIP_ERROR_NOT_SUPPORTED, VIA_CODE_COUNT
    enum:
        VE_NONE, VE_POST_DESC, VE_CONN_LOST, VE_RECVQ_EMPTY, VE_VI_OVERRUN, VE_COMP_PROT, VE_CATASTROPHIC
        VIA_EVENT_COUNT
    enum:
        VC_SENT, VC_RECEIVED, VC_SENT_BYTES, VC_RECEIVED_BYTES, VC_RECVQ_EMPTY, VC_TOO_LONG, VC_BAD_DESC, VC_FLUSHED
        VC_STALE, VC_CANCELLED, VC_CQ_LIMIT, VC_EVENT_LIMIT, VC_BACKLOG_LIMIT, VC_NO_MATCH, VC_HOSTILE, VC_BAD_RANGE
        VC_CONN_LOST, VC_KICKS, VIA_COUNT

cdef enum:
    VIA_VI_MAX = 1024               # VIs of a NIC
    VIA_MEMORY_MAX = 1024           # registrations of a NIC
    VIA_PTAG_MAX = 256              # protection tags of a NIC
    VIA_CQ_MAX = 64                 # completion queues of a NIC
    VIA_CQ_ENTRIES_MAX = 65536      # notifications in one
    VIA_DEPTH_MAX = 4096            # descriptors posted to one queue
    VIA_TRANSFER_MAX = 16777216     # bytes of a message
    VIA_BACKLOG_MAX = 64            # connection requests that wait at a listener
    VIA_LISTENER_MAX = 256          # listeners of a NIC
    VIA_PORT_MAX = 64               # other processes that a NIC is attached to
    VIA_EVENT_MAX = 64              # asynchronous errors kept until they are fetched

cdef enum:                          # states of a VI
    VI_IDLE = 0
    VI_CONNECTED = 1
    VI_CONNECT_PENDING = 2
    VI_ERROR = 3

cdef enum:                          # reliability levels, as bits
    UNRELIABLE = 1
    RELIABLE_DELIVERY = 2
    RELIABLE_RECEPTION = 4

cdef struct via_nic
cdef struct via_vi
cdef struct via_port

cdef struct via_span:               # bytes to be moved, or to be filled
    uint8_t *base
    uint32_t length

cdef struct via_memory:
    uint8_t *base
    size_t length
    uint32_t handle                 # generation << 16 | index; 0: not registered
    uint32_t ptag
    uint32_t generation
    bint shared                     # lies in a memory file: other processes may be shown it
    uint64_t offset                 # of `base` in that file

cdef struct via_ptag:
    uint32_t id                     # generation << 16 | index; 0: free
    uint32_t generation
    uint32_t users                  # registrations and VIs

cdef struct via_cq:
    via_nic *nic
    uint32_t *ring                  # (VI's index) << 1 | is_recv
    uint32_t mask
    uint32_t head                   # looked at without the lock
    uint32_t tail
    uint32_t users                  # queues that report here
    uint64_t lost                   # notifications there was no room for, since that was last reported

cdef struct via_slot:               # one posted descriptor
    uint8_t *at
    uint32_t handle                 # of the memory that the descriptor lies in
    uint32_t status                 # STATUS_*; 0: not done
    uint32_t length
    uint32_t immediate
    uint32_t position               # in the lane, while it flies
    bint flying

cdef struct via_queue:
    via_slot *slots
    uint32_t mask
    uint32_t head                   # oldest that was not given back
    uint32_t ready                  # up to here they may be; looked at without the lock
    uint32_t next                   # first that the provider has not begun with
    uint32_t tail                   # where the next is posted
    bint is_recv
    via_cq *cq
    via_vi *vi

cdef struct via_vi:
    via_nic *nic
    uint32_t id                     # generation << 16 | index
    uint32_t ptag
    uint32_t max_transfer
    uint32_t qos
    uint8_t reliability
    uint8_t state
    int outcome                     # of the connection request: VIP_NOT_DONE until there is one
    uint32_t attempt                # number of the connection request
    via_port *port
    uint32_t peer                   # VI at the other end
    via_queue send
    via_queue recv

cdef struct via_request:            # somebody wants to be connected
    via_port *port
    uint32_t source
    uint32_t attempt
    uint32_t max_transfer
    uint32_t qos
    uint8_t reliability

cdef struct via_listener:
    via_listener *next
    via_nic *nic
    uint8_t name[DISCRIMINATOR_MAX]
    uint32_t name_length
    uint32_t head
    uint32_t tail
    via_request waiting[VIA_BACKLOG_MAX]

cdef struct via_message:            # as a provider delivers it
    via_span *spans
    int n
    uint32_t length
    uint32_t immediate
    bint has_immediate

cdef struct via_control:            # what ends of a connection tell each other beside messages
    uint8_t kind                    # ENTRY_CONNECT .. ENTRY_DISCONNECT
    uint8_t reliability
    uint32_t to
    uint32_t source
    uint32_t attempt
    uint32_t max_transfer
    uint32_t qos
    uint32_t code
    uint8_t name[DISCRIMINATOR_MAX]
    uint32_t name_length

# What a provider can do. All are called with the NIC's lock held.
cdef struct via_ops:
    # Begin with the descriptors of vi.send from `next` on, as far as there is room. VIP_SUCCESS; or, with the last
    # one taken
    # out again, VIP_ERROR_NOT_SUPPORTED: its memory cannot be shown to the other process.
    int (*send)(via_vi *vi) noexcept nogil
    # Tell the other end. VIP_SUCCESS, VIP_NOT_REACHABLE.
    int (*control)(via_port *p, const via_control *c) noexcept nogil
    # Take what has come, at most `budget` entries: how many, or PORT_WANTS_MEMORY, or -1 if the port died of it.
    int (*poll)(via_port *p, int budget) noexcept nogil
    # Take back what a VI has in flight, or what of it is done already: nobody takes its memory for a message
    # afterwards.
    void (*cancel)(via_vi *vi, bint everything) noexcept nogil

cdef enum:
    # an entry names memory that we have not been shown yet: look at the control socket
    PORT_WANTS_MEMORY = -2

cdef struct via_port:
    via_port *next
    via_nic *nic
    const via_ops *ops
    bint dead
    bint owes_kick                  # the other process sleeps, and has to be woken
    # a descriptor in vi.send names memory that must be shown to the other process first
    bint wants_export
    uint32_t export_handle          # which
    bint stalled                    # some vi.send waits for room, or for that
    void *state                     # the provider's
    int wake_fd                     # the owner's: what wakes the other process
    int socket_fd                   # the owner's: where memory files and the other's end are announced

cdef struct via_event:
    int code                        # VE_*
    uint32_t vi

cdef struct via_nic:
    int32_t lock
    ledger book
    via_memory memories[VIA_MEMORY_MAX]
    via_ptag ptags[VIA_PTAG_MAX]
    via_vi *vis[VIA_VI_MAX]
    uint32_t generations[VIA_VI_MAX]
    via_listener *listeners
    via_port *ports
    via_port loopback
    uint32_t nvis, nmemories, nptags, ncqs, nports, nlisteners
    int64_t pinned                  # bytes registered
    int64_t counts[VIA_COUNT]
    via_event events[VIA_EVENT_MAX]
    uint32_t event_head, event_tail
    uint32_t completions            # moves with each: who sleeps on this NIC has something to look at
