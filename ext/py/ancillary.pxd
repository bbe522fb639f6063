"""What goes with a datagram beside its bytes (cmsg(3), ip(7), ipv6(7), udp(7)), and options that a handle keeps."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.py.driver cimport driver
from ustack._core.stack.sockets cimport sock
from ustack._core.udp.udp cimport udp_meta

# What a datagram is sent with instead of the endpoint's own; -1 (and not `sourced`): that.
cdef struct manner:
    int gso_size
    int ttl
    int tos
    bint sourced
    ipaddr source

# The items of sendmsg for a datagram. Raises OSError (EINVAL) for what is not known.
cdef int ancillary_out(object ancdata, manner *how) except -1
# What the options in `kept` ask for, as far as `room` bytes of control data hold it: (list of items, msg_flags).
cdef tuple ancillary_in(driver *d, sock *s, dict kept, const udp_meta *meta, size_t room)
# (default, least, most) of an option that is kept for who asks for it again; None: there is none such.
cdef tuple kept_option(bint stream, bint v6, int level, int name)
