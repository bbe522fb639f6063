"""Questions to rtnetlink: see rtnl.pxd."""

from libc.errno cimport EINTR, EIO, ENODATA, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.sys.io cimport sys_close

cdef extern from *:
    """
    #include <sys/socket.h>
    #include <linux/netlink.h>
    #include <linux/rtnetlink.h>
    """
    cdef struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
    cdef struct ifinfomsg:
        uint8_t ifi_family
        int ifi_index
    cdef struct rtattr:
        uint16_t rta_len
        uint16_t rta_type
    int c_socket "socket"(int family, int type, int protocol) noexcept nogil
    ssize_t c_send "send"(int fd, const void *p, size_t n, int flags) noexcept nogil
    ssize_t c_recv "recv"(int fd, void *p, size_t n, int flags) noexcept nogil
    enum:
        AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC, NETLINK_ROUTE, NLM_F_REQUEST, NLMSG_ERROR, RTM_GETLINK, RTM_NEWLINK

cdef enum:
    IFLA_GSO_IPV4_MAX_SIZE = 63     # headers of Linux before 6.3 lack it
    ROOM = 16384                    # for the answer about one device; it has 2 KB

cdef struct question:
    nlmsghdr head
    ifinfomsg body


cdef int read_attribute(const uint8_t *p, size_t n, int kind) noexcept nogil:
    """A 32-bit attribute among the n bytes of them at p."""
    cdef rtattr a
    cdef uint32_t value
    cdef size_t step
    while n >= sizeof(rtattr):
        memcpy(&a, p, sizeof(rtattr))
        if a.rta_len < sizeof(rtattr) or a.rta_len > n:
            return -EIO
        if a.rta_type == kind and a.rta_len == sizeof(rtattr) + 4:
            memcpy(&value, p + sizeof(rtattr), 4)
            return <int>(value & 0x7FFFFFFF)
        step = (a.rta_len + 3) & ~<size_t>3
        if step >= n:
            break
        p += step
        n -= step
    return -ENODATA


cdef int read_answer(const uint8_t *p, size_t n, int kind) noexcept nogil:
    cdef nlmsghdr head
    cdef int32_t error
    cdef size_t front = sizeof(nlmsghdr) + sizeof(ifinfomsg)
    if n < sizeof(nlmsghdr) + sizeof(int32_t):
        return -EIO
    memcpy(&head, p, sizeof(nlmsghdr))
    if head.nlmsg_type == NLMSG_ERROR:
        memcpy(&error, p + sizeof(nlmsghdr), sizeof(int32_t))
        return error if error < 0 else -EIO
    if head.nlmsg_type != RTM_NEWLINK or head.nlmsg_len > n or head.nlmsg_len < front:
        return -EIO
    return read_attribute(p + front, head.nlmsg_len - front, kind)


cdef int ask(int fd, int ifindex, int kind) noexcept nogil:
    cdef uint8_t answer[ROOM]
    cdef question q
    cdef ssize_t n
    memset(&q, 0, sizeof(question))
    q.head.nlmsg_len = sizeof(question)
    q.head.nlmsg_type = RTM_GETLINK
    q.head.nlmsg_flags = NLM_F_REQUEST
    q.body.ifi_index = ifindex
    if c_send(fd, &q, sizeof(question), 0) < 0:
        return -errno
    n = c_recv(fd, answer, ROOM, 0)
    while n < 0 and errno == EINTR:
        n = c_recv(fd, answer, ROOM, 0)
    return read_answer(answer, n, kind) if n >= 0 else -errno


cdef int sys_if_gso_max(int ifindex) noexcept nogil:
    cdef int fd = c_socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
    cdef int result
    if fd < 0:
        return -errno
    result = ask(fd, ifindex, IFLA_GSO_IPV4_MAX_SIZE)
    sys_close(fd)
    return result
