"""/dev/net/tun: see tun.pxd."""

from libc.errno cimport errno
from libc.string cimport memcpy, memset, strncpy

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <net/if.h>
    #include <sys/ioctl.h>
    #include <linux/if_tun.h>
    """
    cdef struct ifreq:
        char ifr_name[16]
        short ifr_flags
    int c_open "open"(const char *path, int flags) noexcept nogil
    int c_ioctl "ioctl"(int fd, unsigned long request, void *arg) noexcept nogil
    enum:
        O_RDWR, O_NONBLOCK, O_CLOEXEC
    unsigned long TUNSETIFF, TUNGETIFF, TUNSETOFFLOAD, TUNGETVNETHDRSZ


cdef int sys_tun_open() noexcept nogil:
    cdef int r = c_open(b"/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)
    return r if r >= 0 else -errno


cdef int sys_tun_attach(int fd, char *name, int flags) noexcept nogil:
    cdef ifreq r
    memset(&r, 0, sizeof(r))
    strncpy(r.ifr_name, name, IF_NAME - 1)
    r.ifr_flags = <short>flags
    if c_ioctl(fd, TUNSETIFF, &r) < 0:
        return -errno
    memcpy(name, r.ifr_name, IF_NAME)
    return 0


cdef int sys_tun_query(int fd, char *name) noexcept nogil:
    cdef ifreq r
    memset(&r, 0, sizeof(r))
    if c_ioctl(fd, TUNGETIFF, &r) < 0:
        return -errno
    memcpy(name, r.ifr_name, IF_NAME)
    return <unsigned short>r.ifr_flags


cdef int sys_tun_offload(int fd, unsigned int flags) noexcept nogil:
    return 0 if c_ioctl(fd, TUNSETOFFLOAD, <void *><unsigned long>flags) == 0 else -errno


cdef int sys_tun_vnet_len(int fd) noexcept nogil:
    cdef int n = 0
    if c_ioctl(fd, TUNGETVNETHDRSZ, &n) < 0:
        return -errno
    return n
