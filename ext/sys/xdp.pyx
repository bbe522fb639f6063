"""AF_XDP: see xdp.pxd. The calls are in xdp_sys.h, which only this module includes."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "xdp_sys.h" nogil:
    ctypedef struct us_xdp_ring:
        pass
    int us_xdp_socket()
    int us_xdp_umem(int fd, void *base, uint64_t length, uint32_t chunk)
    int us_xdp_ring_open(int fd, int which, uint32_t n, us_xdp_ring *r)
    void us_xdp_ring_close(us_xdp_ring *r)
    int us_xdp_bind(int fd, int ifindex, uint32_t queue, int flags)
    int us_xdp_zerocopy(int fd)
    int us_xdp_statistics(int fd, uint64_t *out)
    int us_xdp_kick(int fd)
    int us_xdp_nudge(int fd)
    int us_xdp_map(int sock, uint32_t queue)
    int us_xdp_program(int map, int frags)
    int us_xdp_attach(int program, int ifindex, uint32_t mode)


cdef int sys_xdp_socket() noexcept nogil:
    return us_xdp_socket()


cdef int sys_xdp_umem(int fd, void *base, uint64_t length, uint32_t chunk) noexcept nogil:
    return us_xdp_umem(fd, base, length, chunk)


cdef int sys_xdp_ring(int fd, int which, uint32_t n, xdp_mapped *r) noexcept nogil:
    return us_xdp_ring_open(fd, which, n, <us_xdp_ring *>r)


cdef void sys_xdp_unmap(xdp_mapped *r) noexcept nogil:
    us_xdp_ring_close(<us_xdp_ring *>r)


cdef int sys_xdp_bind(int fd, int ifindex, uint32_t queue, int flags) noexcept nogil:
    return us_xdp_bind(fd, ifindex, queue, flags)


cdef bint sys_xdp_is_zerocopy(int fd) noexcept nogil:
    return us_xdp_zerocopy(fd) != 0


cdef int sys_xdp_statistics(int fd, uint64_t *out) noexcept nogil:
    return us_xdp_statistics(fd, out)


cdef int sys_xdp_kick(int fd) noexcept nogil:
    return us_xdp_kick(fd)


cdef int sys_xdp_nudge(int fd) noexcept nogil:
    return us_xdp_nudge(fd)


cdef int sys_xdp_map(int sock, uint32_t queue) noexcept nogil:
    return us_xdp_map(sock, queue)


cdef int sys_xdp_program(int map, bint frags) noexcept nogil:
    return us_xdp_program(map, frags)


cdef int sys_xdp_attach(int program, int ifindex, uint32_t mode) noexcept nogil:
    return us_xdp_attach(program, ifindex, mode)
