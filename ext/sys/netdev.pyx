"""Interfaces of this network namespace: see netdev.pxd."""

from libc.errno cimport EINVAL, errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset, strlen

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <net/if.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    """
    cdef struct sockaddr:
        unsigned short sa_family
        char sa_data[14]
    cdef struct ifreq:
        char ifr_name[16]
        short ifr_flags
        int ifr_ifindex
        int ifr_mtu
        sockaddr ifr_hwaddr
    int c_socket "socket"(int family, int type, int protocol) noexcept nogil
    int c_ioctl "ioctl"(int fd, unsigned long request, void *arg) noexcept nogil
    enum:
        AF_UNIX, SOCK_DGRAM, SOCK_CLOEXEC
    unsigned long SIOCGIFINDEX, SIOCGIFMTU, SIOCSIFMTU, SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFHWADDR


cdef int sys_if_open() noexcept nogil:
    cdef int r = c_socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    return r if r >= 0 else -errno


cdef int ask(int ctl, const char *name, unsigned long request, ifreq *r) noexcept nogil:
    """One device ioctl; the kernel answers it on a socket of any family."""
    cdef size_t n = strlen(name)
    if n == 0 or n >= 16:
        return -EINVAL
    memset(r.ifr_name, 0, 16)
    memcpy(r.ifr_name, name, n)
    return 0 if c_ioctl(ctl, request, r) == 0 else -errno


cdef int sys_if_index(int ctl, const char *name) noexcept nogil:
    cdef ifreq r
    cdef int e = ask(ctl, name, SIOCGIFINDEX, &r)
    return e if e < 0 else r.ifr_ifindex


cdef int sys_if_mtu(int ctl, const char *name) noexcept nogil:
    cdef ifreq r
    cdef int e = ask(ctl, name, SIOCGIFMTU, &r)
    return e if e < 0 else r.ifr_mtu


cdef int sys_if_set_mtu(int ctl, const char *name, int mtu) noexcept nogil:
    cdef ifreq r
    r.ifr_mtu = mtu
    return ask(ctl, name, SIOCSIFMTU, &r)


cdef int sys_if_flags(int ctl, const char *name) noexcept nogil:
    cdef ifreq r
    cdef int e = ask(ctl, name, SIOCGIFFLAGS, &r)
    return e if e < 0 else <unsigned short>r.ifr_flags


cdef int sys_if_up(int ctl, const char *name) noexcept nogil:
    cdef ifreq r
    cdef int flags = sys_if_flags(ctl, name)
    if flags < 0:
        return flags
    if flags & IFF_UP:
        return 0
    r.ifr_flags = <short>(flags | IFF_UP)
    return ask(ctl, name, SIOCSIFFLAGS, &r)


cdef int sys_if_hardware(int ctl, const char *name, uint8_t *mac) noexcept nogil:
    cdef ifreq r
    cdef int e = ask(ctl, name, SIOCGIFHWADDR, &r)
    if e < 0:
        return e
    memcpy(mac, r.ifr_hwaddr.sa_data, 6)
    return r.ifr_hwaddr.sa_family
