"""AF_PACKET sockets with mmap'd rings (packet(7), Documentation/networking/packet_mmap.rst). Values, or -errno."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from "<linux/if_packet.h>" nogil:
    cdef struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_net
        uint32_t tp_sec
        uint32_t tp_nsec
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct sockaddr_ll:
        uint16_t sll_protocol
        int sll_ifindex
        uint8_t sll_pkttype
    enum:
        TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_LOSING, TP_STATUS_CSUMNOTREADY
        TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_CSUM_VALID
        TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_SENDING, TP_STATUS_WRONG_FORMAT
        PACKET_RX_RING, PACKET_TX_RING, PACKET_RESERVE, PACKET_VNET_HDR, PACKET_LOSS, PACKET_QDISC_BYPASS
        PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_FANOUT_LB, PACKET_FANOUT_CPU, PACKET_FANOUT_ROLLOVER
        PACKET_FANOUT_QM, PACKET_FANOUT_FLAG_DEFRAG
        PACKET_MR_PROMISC, PACKET_MR_UNICAST, PACKET_MR_ALLMULTI
        PACKET_OUTGOING
        TPACKET_ALIGNMENT, TPACKET2_HDRLEN

cdef enum:
    PACKET_IGNORE_OUTGOING = 23     # Linux 4.20
    ETH_P_ALL = 3

# A raw packet socket of ring version 2, non-blocking, close-on-exec, that receives nothing until it is bound.
cdef int sys_packet_open() noexcept nogil
# An option of SOL_PACKET with an int value.
cdef int sys_packet_set(int fd, int option, int value) noexcept nogil
# A ring of nblocks blocks of block_size (a multiple of the page) that hold whole frames of frame_size; 0 blocks: no
# ring any more (it must not be mapped).
cdef int sys_packet_ring(int fd, int option, uint32_t block_size, uint32_t nblocks, uint32_t frame_size) noexcept nogil
# Map the rings, the receive ring first; NULL and -errno in *err.
cdef void *sys_packet_map(int fd, size_t length, int *err) noexcept nogil
cdef int sys_packet_unmap(void *p, size_t length) noexcept nogil
# Bind to an interface; protocol in host order, 0 stops receiving.
cdef int sys_packet_bind(int fd, int ifindex, int protocol) noexcept nogil
# Receive also for an address (PACKET_MR_UNICAST) or everything (PACKET_MR_PROMISC, mac NULL).
cdef int sys_packet_join(int fd, int ifindex, int kind, const uint8_t *mac) noexcept nogil
# Frames lost for want of a slot since the last call.
cdef int sys_packet_drops(int fd, uint32_t *drops) noexcept nogil
# The socket's pending error (positive), which is thereby cleared; 0 if there is none.
cdef int sys_socket_error(int fd) noexcept nogil
# Ask for a send buffer of n bytes, beyond the system's limit where that is permitted.
cdef int sys_socket_sndbuf(int fd, int n) noexcept nogil
