"""Socket calls without Python: each takes the lock, waits if it may, and returns a count or -errno.

-EINTR asks the caller to look at signals and to call again; what was done so far is in the out arguments.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.mem.mblk cimport mblk
from ustack._core.py.driver cimport driver
from ustack._core.stack.sockets cimport sock
from ustack._core.tcp.tcp cimport tcb
from ustack._core.udp.udp cimport udp_meta

cdef enum:
    NO_WAIT = 0                 # as a deadline: at or before any time there is

# Queue n bytes on a connection; *done counts on. 0 when all are queued. more: MSG_MORE for the last byte.
# partial: one successful queueing is enough (a non-blocking or timed send). *kept: what was copied and could not be
# queued before -EINTR: give it back with the next call, or free it.
cdef int call_send(driver *d, sock *s, const char *p, size_t n, bint more, bint partial, ns_t deadline,
                   bint main_thread, size_t *done, mblk **kept) noexcept nogil
# Under the lock: until something can be queued. 0 or -errno.
cdef int wait_for_room(driver *d, sock *s, ns_t deadline, bint main_thread) noexcept nogil
# Take at most n received bytes as a chain that the caller owns: *out NULL with 0 means end of stream.
cdef int call_recv(driver *d, sock *s, size_t n, bint peek, ns_t deadline, bint main_thread,
                   mblk **out) noexcept nogil
# The same, only if it can be had at once without waiting for the lock; -EAGAIN otherwise.
cdef int call_recv_now(driver *d, sock *s, size_t n, bint peek, mblk **out) noexcept nogil
cdef int call_connect(driver *d, sock *s, const ipaddr *addr, uint16_t port, ns_t deadline,
                      bint main_thread) noexcept nogil
# Wait for the end of a connect that call_connect began.
cdef int call_connect_wait(driver *d, sock *s, ns_t deadline, bint main_thread) noexcept nogil
cdef int call_accept(driver *d, sock *s, ns_t deadline, bint main_thread, sock **out) noexcept nogil
# Datagrams. `taken` is sent as one, or cut by gso_size (UDP_OWN_SIZE: as the socket's option says); to NULL: the
# connected peer.
cdef int call_sendto(driver *d, sock *s, mblk *taken, const ipaddr *to, uint16_t port, int gso_size,
                     ns_t deadline, bint main_thread) noexcept nogil
# The same with what the endpoint has of its own changed for this one (-1: not; from_ NULL: not); -EINVAL: from_ is not
# an address of ours.
cdef int call_sendto_as(driver *d, sock *s, mblk *taken, const ipaddr *to, uint16_t port, int gso_size, int ttl,
                        int tos, const ipaddr *from_) noexcept nogil
cdef int call_recvfrom(driver *d, sock *s, bint peek, ns_t deadline, bint main_thread, mblk **out,
                       udp_meta *meta) noexcept nogil
# Many of them, with one lock: send the messages of the list *left (by next), waiting for room if the deadline allows;
# *done counts on, *left is what was not taken. After the first one an error ends it, for the next call to find.
cdef int call_send_many(driver *d, sock *s, mblk **left, const ipaddr *to, uint16_t port, ns_t deadline,
                        bint main_thread, int *done) noexcept nogil
# Wait for one, then take what else there is: at most max, as udp_take has them.
cdef int call_recv_many(driver *d, sock *s, int max, ns_t deadline, bint main_thread, mblk **out) noexcept nogil
