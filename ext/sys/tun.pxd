"""/dev/net/tun: TAP and TUN devices (Documentation/networking/tuntap.rst of Linux). Values, or -errno."""

cdef extern from "<linux/if_tun.h>" nogil:
    enum:
        IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE, IFF_PERSIST
        TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN

cdef enum:
    IF_NAME = 16                # bytes of an interface name with its NUL
    TUN_F_USO = 0x60            # TUN_F_USO4 | TUN_F_USO6, Linux 6.2

# Open the clone device, non-blocking and close-on-exec; not yet attached to an interface.
cdef int sys_tun_open() noexcept nogil
# Attach to (or make) the interface `name`, which is replaced by the one obtained ("tap%d" numbers itself).
cdef int sys_tun_attach(int fd, char *name, int flags) noexcept nogil
# Name and IFF_* of the interface that the descriptor is attached to.
cdef int sys_tun_query(int fd, char *name) noexcept nogil
cdef int sys_tun_offload(int fd, unsigned int flags) noexcept nogil
cdef int sys_tun_vnet_len(int fd) noexcept nogil
