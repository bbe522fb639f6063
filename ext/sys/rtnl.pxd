"""What of a device only netlink tells (rtnetlink(7)). Values, or -errno."""

from libc.stdint cimport uint32_t

# Bytes of the longest IPv4 super-segment that the device takes (IFLA_GSO_IPV4_MAX_SIZE, Linux 6.3), in the network
# namespace of the calling thread; -ENODATA from a kernel that does not say.
cdef int sys_if_gso_max(int ifindex) noexcept nogil
