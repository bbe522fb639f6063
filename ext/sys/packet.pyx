"""AF_PACKET sockets with mmap'd rings: see packet.pxd."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <linux/if_packet.h>
    """
    cdef struct tpacket_req:
        unsigned int tp_block_size
        unsigned int tp_block_nr
        unsigned int tp_frame_size
        unsigned int tp_frame_nr
    cdef struct tpacket_stats:
        unsigned int tp_packets
        unsigned int tp_drops
    cdef struct packet_mreq:
        int mr_ifindex
        unsigned short mr_type
        unsigned short mr_alen
        unsigned char mr_address[8]
    cdef struct sockaddr_ll_full "sockaddr_ll":
        unsigned short sll_family
        uint16_t sll_protocol
        int sll_ifindex
    int c_socket "socket"(int family, int type, int protocol) noexcept nogil
    cdef struct sockaddr:
        pass
    int c_bind "bind"(int fd, const sockaddr *addr, unsigned int n) noexcept nogil
    int c_setsockopt "setsockopt"(int fd, int level, int option, const void *p, unsigned int n) noexcept nogil
    int c_getsockopt "getsockopt"(int fd, int level, int option, void *p, unsigned int *n) noexcept nogil
    void *c_mmap "mmap"(void *at, size_t n, int prot, int flags, int fd, long offset) noexcept nogil
    int c_munmap "munmap"(void *p, size_t n) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    uint16_t htons(uint16_t n) noexcept nogil
    void *MAP_FAILED
    enum:
        AF_PACKET, SOCK_RAW, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_PACKET, SOL_SOCKET, SO_ERROR, SO_SNDBUF
        SO_SNDBUFFORCE, PROT_READ, PROT_WRITE, MAP_SHARED, PACKET_VERSION, TPACKET_V2
        PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS


cdef int sys_packet_set(int fd, int option, int value) noexcept nogil:
    return 0 if c_setsockopt(fd, SOL_PACKET, option, &value, sizeof(int)) == 0 else -errno


cdef int sys_packet_open() noexcept nogil:
    cdef int e, fd = c_socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    e = sys_packet_set(fd, PACKET_VERSION, TPACKET_V2)
    if e < 0:
        c_close(fd)
        return e
    return fd


cdef int sys_packet_ring(int fd, int option, uint32_t block_size, uint32_t nblocks,
                         uint32_t frame_size) noexcept nogil:
    cdef tpacket_req r
    r.tp_block_size = block_size
    r.tp_block_nr = nblocks
    r.tp_frame_size = frame_size
    r.tp_frame_nr = block_size // frame_size * nblocks if nblocks else 0
    return 0 if c_setsockopt(fd, SOL_PACKET, option, &r, sizeof(r)) == 0 else -errno


cdef void *sys_packet_map(int fd, size_t length, int *err) noexcept nogil:
    cdef void *p = c_mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if p == MAP_FAILED:
        err[0] = -errno
        return NULL
    return p


cdef int sys_packet_unmap(void *p, size_t length) noexcept nogil:
    return 0 if c_munmap(p, length) == 0 else -errno


cdef int sys_packet_bind(int fd, int ifindex, int protocol) noexcept nogil:
    cdef sockaddr_ll_full a
    memset(&a, 0, sizeof(a))
    a.sll_family = AF_PACKET
    a.sll_protocol = htons(protocol)
    a.sll_ifindex = ifindex
    return 0 if c_bind(fd, <sockaddr *>&a, sizeof(a)) == 0 else -errno


cdef int sys_packet_join(int fd, int ifindex, int kind, const uint8_t *mac) noexcept nogil:
    cdef packet_mreq m
    memset(&m, 0, sizeof(m))
    m.mr_ifindex = ifindex
    m.mr_type = kind
    if mac != NULL:
        m.mr_alen = 6
        memcpy(m.mr_address, mac, 6)
    return 0 if c_setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof(m)) == 0 else -errno


cdef int sys_packet_drops(int fd, uint32_t *drops) noexcept nogil:
    cdef tpacket_stats s
    cdef unsigned int n = sizeof(s)
    drops[0] = 0
    if c_getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n) < 0:
        return -errno
    drops[0] = s.tp_drops
    return 0


cdef int sys_socket_error(int fd) noexcept nogil:
    cdef int e = 0
    cdef unsigned int n = sizeof(e)
    if c_getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0:
        return errno
    return e


cdef int sys_socket_sndbuf(int fd, int n) noexcept nogil:
    if c_setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &n, sizeof(n)) == 0:
        return 0
    return 0 if c_setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n)) == 0 else -errno
