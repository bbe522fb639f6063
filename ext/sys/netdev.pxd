"""Interfaces of this network namespace: number, MTU, flags, address (netdevice(7)). Values, or -errno."""

from libc.stdint cimport uint8_t

cdef extern from "<net/if.h>" nogil:
    enum:
        IFF_UP, IFF_RUNNING, IFF_LOOPBACK, IFF_NOARP

# A control socket, bound to the namespace of the calling thread: what the others ask through. Any other
# socket of the namespace does as well.
cdef int sys_if_open() noexcept nogil
cdef int sys_if_index(int ctl, const char *name) noexcept nogil
cdef int sys_if_mtu(int ctl, const char *name) noexcept nogil
cdef int sys_if_set_mtu(int ctl, const char *name, int mtu) noexcept nogil
cdef int sys_if_flags(int ctl, const char *name) noexcept nogil
# Bring it up; nothing to do (and no privilege needed) if it is.
cdef int sys_if_up(int ctl, const char *name) noexcept nogil
# ARPHRD_* of the device; its address in mac, where that has 6 bytes.
cdef int sys_if_hardware(int ctl, const char *name, uint8_t *mac) noexcept nogil
