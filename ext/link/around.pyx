"""Links that wrap a link: see around.pxd."""

from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.link.link cimport link, link_init, link_notify, link_ops


cdef void pass_on(void *arg) noexcept nogil:
    """What the link inside notifies, the wrapper does."""
    link_notify(<link *>arg)


cdef void around_attached(link *l) noexcept nogil:
    cdef link *inner = (<around *>l).inner
    inner.mem = l.mem
    inner.src = l.src
    inner.book = l.book
    if inner.ops.attached != NULL:
        inner.ops.attached(inner)


cdef int around_fds(link *l, int *fds, int max) noexcept nogil:
    cdef link *inner = (<around *>l).inner
    return inner.ops.fds(inner, fds, max)


cdef int around_pending(link *l) noexcept nogil:
    cdef link *inner = (<around *>l).inner
    return inner.ops.pending(inner) if inner.ops.pending != NULL else -1


cdef ns_t around_deadline(link *l) noexcept nogil:
    cdef link *inner = (<around *>l).inner
    return inner.ops.deadline(inner) if inner.ops.deadline != NULL else NS_NEVER


cdef void around_want_tx(link *l, bint on) noexcept nogil:
    cdef link *inner = (<around *>l).inner
    if inner.ops.want_tx != NULL:
        inner.ops.want_tx(inner, on)


cdef void around_init(around *a, link *inner, const link_ops *ops, const knowledge *know) noexcept nogil:
    link_init(&a.base, ops, inner.layer, inner.mtu, inner.mac)
    a.inner = inner
    a.know = know[0]
    a.base.caps = inner.caps
    a.base.max_sg = inner.max_sg
    around_sync(a)
    inner.notify = pass_on
    inner.notify_arg = a


cdef void around_sync(around *a) noexcept nogil:
    a.base.mtu = a.inner.mtu
    a.base.gso_max = a.inner.gso_max
    a.base.state = a.inner.state
    a.base.rx_room = a.inner.rx_room


cdef void around_ops(link_ops *with_fds, link_ops *without, const link_ops *own) noexcept nogil:
    with_fds[0] = own[0]
    with_fds.pending = around_pending
    with_fds.want_tx = around_want_tx
    with_fds.attached = around_attached
    if with_fds.deadline == NULL:
        with_fds.deadline = around_deadline
    without[0] = with_fds[0]
    with_fds.fds = around_fds
    without.fds = NULL
