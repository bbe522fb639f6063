"""Socket calls without Python: see calls.pxd.

User memory is touched without the lock only: sends copy into blocks before taking it, receives take references under
it and copy afterwards (in socket.pyx).
"""

from libc.errno cimport EAGAIN, EBADF, EDESTADDRREQ, EFAULT, EINPROGRESS, EINTR, EINVAL, ENOBUFS
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ip_is4, ipaddr
from ustack._core.base.codes cimport EV_IN, EV_OUT
from ustack._core.base.ledger cimport LR_TX_COPY
from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport inet_is_local, path_release
from ustack._core.inet.ping cimport ping_meta, ping_recv, ping_send, ping_take_error
from ustack._core.mem.arena cimport SEND_SHARE, arena_may_send
from ustack._core.mem.guarded cimport msgcopyin_guarded
from ustack._core.mem.mblk cimport freemsg, mblk, mblk_len
from ustack._core.py.driver cimport (
    driver, driver_attend, driver_attended, driver_busy, driver_flush_unlock, driver_lock, driver_try_lock,
    driver_unlock, driver_wait, sock_note)
from ustack._core.stack.engine cimport engine_poll
from ustack._core.stack.sockets cimport SOCK_PING, SOCK_TCP, SOCK_UDP, sock, sock_of_tcb
from ustack._core.tcp.tcp cimport (
    TCP_RECV_PEEK, TCP_SEND_BULK, TCP_SEND_LATE, TCP_SEND_MORE, TCPS_LISTEN, tcb, tcp_abort, tcp_accept, tcp_await,
    tcp_connect, tcp_connect_result, tcp_recv, tcp_send, tcp_send_hint, tcp_send_memory, tcp_send_room,
    tcp_send_wait, tcp_state)
from ustack._core.udp.udp cimport (
    UDP_OWN_SIZE, udp_bind_lazily, udp_connect, udp_meta, udp_pcb, udp_recv, udp_room, udp_send, udp_take,
    udp_take_error, udp_train)

cdef enum:
    LATE_WRITE = 32768          # the odd end of so large a write may wait a moment for the next one
    ASK_FROM = 4096             # bytes to send for which cutting and summing them in phase is worth a question
    SEND_CHUNK = 65536          # bytes copied into one block before the path's super-segments are known


cdef int pause(driver *d, sock *s, uint32_t events, ns_t deadline, bint main_thread, bint *tried) noexcept nogil:
    """Between two looks at an endpoint: wait, or, for calls that never do, poll once. 0: look again."""
    if s.closed:
        return -EBADF
    if deadline == NO_WAIT:
        if tried[0]:
            return -EAGAIN
        tried[0] = True
        engine_poll(&d.eng, d.eng.ctx.now, 64)
        return 0
    return sleep_on(d, s, events, deadline, main_thread)


cdef int sleep_on(driver *d, sock *s, uint32_t events, ns_t deadline, bint main_thread) noexcept nogil:
    """Sleep on an endpoint, and let TCP know: where time is virtual nobody sleeps."""
    cdef int r
    if s.kind != SOCK_TCP or d.manual or d.foreign:
        return driver_wait(d, s, events, deadline, main_thread)
    tcp_await(s.tcp, True)
    r = driver_wait(d, s, events, deadline, main_thread)
    if not s.closed:
        tcp_await(s.tcp, False)
    return r


# --- streams ------------------------------------------------------------------------------------------------------

cdef int wait_for_room(driver *d, sock *s, ns_t deadline, bint main_thread) noexcept nogil:
    """Under the lock: until something can be queued. 0 or -errno."""
    cdef bint tried = False
    cdef int64_t room
    cdef int r
    while True:
        if s.closed:
            return -EBADF
        room = tcp_send_room(s.tcp)
        if room > 0:
            return 0
        if room < 0:
            return <int>room
        r = pause(d, s, EV_OUT, deadline, main_thread, &tried)
        if r != 0:
            return r


cdef inline mblk *copy_in(driver *d, sock *s, const char *p, size_t *n, int *err) noexcept nogil:
    """A copy of n bytes, or of as many as can be read."""
    return msgcopyin_guarded(d.eng.ctx.mem, &d.eng.ctx.book, LR_TX_COPY, p, n, s.csum_stride, s.csum_phase, err)


cdef size_t next_chunk(driver *d, sock *s, size_t left) noexcept nogil:
    """How much to copy at once. Where it matters the connection is asked how far it is now: what was queued may have
    left since the last call."""
    cdef size_t chunk
    if left >= ASK_FROM and driver_try_lock(d):
        if not s.closed:
            s.chunk = tcp_send_hint(s.tcp, &s.csum_stride, &s.csum_phase)
        driver_unlock(d)
    chunk = s.chunk if s.chunk else SEND_CHUNK
    return left if left < chunk else chunk


cdef int wait_for_memory(driver *d, sock *s, size_t *n, bint failed, ns_t deadline, bint main_thread) noexcept nogil:
    """Takes the lock: until some of n bytes may be copied; n becomes how many. `failed`: they were not to be had."""
    cdef bint tried = failed
    cdef size_t some
    cdef int64_t room
    cdef int r
    driver_lock(d)
    while True:
        room = -EBADF if s.closed else tcp_send_room(s.tcp)
        if room < 0:
            r = <int>room
            break
        if failed:
            tcp_send_wait(s.tcp)
        else:
            some = tcp_send_memory(s.tcp, n[0])
            if some:
                n[0] = some
                r = 0
                break
        failed = False
        r = pause(d, s, EV_OUT, deadline, main_thread, &tried)
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r


cdef mblk *bring_in(driver *d, sock *s, const char *p, size_t *n, ns_t deadline, bint main_thread,
                    int *err) noexcept nogil:
    """A copy of n bytes, or of fewer where memory is short or ends: then n says how many. NULL: *err."""
    cdef mblk *m = NULL
    cdef bint failed = False
    while m == NULL:
        if failed or not arena_may_send(d.eng.ctx.mem, n[0], SEND_SHARE):
            err[0] = wait_for_memory(d, s, n, failed, deadline, main_thread)
            if err[0] != 0:
                return NULL
        m = copy_in(d, s, p, n, err)
        failed = True
        if m == NULL and (err[0] == -EFAULT or d.eng.ctx.mem.budget == 0):
            return NULL                 # it is not ours to wait for
    return m


cdef int call_send(driver *d, sock *s, const char *p, size_t n, bint more, bint partial, ns_t deadline,
                   bint main_thread, size_t *done, mblk **kept) noexcept nogil:
    cdef size_t chunk
    cdef mblk *m
    cdef int64_t sent
    cdef int hold
    cdef int r
    while done[0] < n:
        chunk = next_chunk(d, s, n - done[0])
        m = kept[0]
        if m != NULL:
            chunk = m.pkt_len
            kept[0] = NULL
        else:
            m = bring_in(d, s, p + done[0], &chunk, deadline, main_thread, &r)
            if m == NULL:
                return r
        driver_lock(d)
        r = wait_for_room(d, s, deadline, main_thread)
        if r == -EINTR:
            driver_unlock(d)
            kept[0] = m
            return r
        if r != 0:
            driver_unlock(d)
            freemsg(m)
            return r
        if n >= LATE_WRITE and not more and deadline != NO_WAIT and driver_attended(d):
            hold = TCP_SEND_LATE | TCP_SEND_BULK if driver_busy(d) else TCP_SEND_LATE
        elif more or done[0] + chunk < n:
            hold = TCP_SEND_MORE
        else:
            hold = 0
        sent = tcp_send(s.tcp, m, hold)
        s.chunk = tcp_send_hint(s.tcp, &s.csum_stride, &s.csum_phase)
        if s.note_fd >= 0:
            sock_note(s)
        driver_attend(d, chunk)
        driver_flush_unlock(d)
        if sent < 0:
            return <int>sent
        done[0] += sent
        if partial and deadline != NO_WAIT:
            break
    return 0


cdef inline int try_recv(sock *s, size_t n, bint peek, mblk **out) noexcept nogil:
    cdef int err = 0
    if s.closed:
        return -EBADF
    out[0] = tcp_recv(s.tcp, n, TCP_RECV_PEEK if peek else 0, &err)
    return 0 if out[0] != NULL else err


cdef int call_recv(driver *d, sock *s, size_t n, bint peek, ns_t deadline, bint main_thread,
                   mblk **out) noexcept nogil:
    cdef bint tried = False
    cdef int r
    driver_lock(d)
    while True:
        r = try_recv(s, n, peek, out)
        if r != -EAGAIN:
            break
        r = pause(d, s, EV_IN, deadline, main_thread, &tried)
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r


cdef int call_recv_now(driver *d, sock *s, size_t n, bint peek, mblk **out) noexcept nogil:
    cdef int r
    if s.note_fd >= 0 or not driver_try_lock(d):
        return -EAGAIN
    r = try_recv(s, n, peek, out)
    if r == -EAGAIN:
        driver_unlock(d)
    else:
        driver_flush_unlock(d)
    return r


cdef int call_connect(driver *d, sock *s, const ipaddr *addr, uint16_t port, ns_t deadline,
                      bint main_thread) noexcept nogil:
    cdef int r
    driver_lock(d)
    if s.closed:
        r = -EBADF
    elif s.kind == SOCK_UDP:
        r = udp_connect(s.udp, addr, port)
    else:
        r = tcp_connect(s.tcp, addr, port)
    driver_flush_unlock(d)
    if r != -EINPROGRESS or deadline == NO_WAIT:
        return r
    return call_connect_wait(d, s, deadline, main_thread)


cdef int call_connect_wait(driver *d, sock *s, ns_t deadline, bint main_thread) noexcept nogil:
    cdef int r
    driver_lock(d)
    while True:
        if s.closed:
            r = -EBADF
            break
        r = tcp_connect_result(s.tcp)
        if r != -EINPROGRESS:
            break
        r = sleep_on(d, s, EV_OUT, deadline, main_thread)
        if r != 0:
            break
    driver_flush_unlock(d)
    return r


cdef int call_accept(driver *d, sock *s, ns_t deadline, bint main_thread, sock **out) noexcept nogil:
    cdef bint tried = False
    cdef tcb *c
    cdef int r = 0
    out[0] = NULL
    driver_lock(d)
    while True:
        if s.closed:
            r = -EBADF
            break
        if tcp_state(s.tcp) != TCPS_LISTEN:
            r = -EINVAL
            break
        c = tcp_accept(s.tcp)
        if c != NULL:
            out[0] = sock_of_tcb(&d.eng, c)
            if out[0] == NULL:
                tcp_abort(c)
                r = -ENOBUFS
            break
        r = pause(d, s, EV_IN, deadline, main_thread, &tried)
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r


# --- datagrams ----------------------------------------------------------------------------------------------------

cdef int take_error(sock *s) noexcept nogil:
    """The pending error of a datagram endpoint as -errno, 0 if there is none."""
    return udp_take_error(s.udp) if s.kind == SOCK_UDP else ping_take_error(s.ping)


cdef int call_sendto(driver *d, sock *s, mblk *taken, const ipaddr *to, uint16_t port, int gso_size,
                     ns_t deadline, bint main_thread) noexcept nogil:
    cdef int r
    driver_lock(d)
    if s.closed:
        freemsg(taken)
        r = -EBADF
    elif s.kind == SOCK_PING:
        # `port` carries the sequence number
        r = ping_send(s.ping, taken, to, port) if to != NULL else -EDESTADDRREQ
    else:
        r = udp_send(s.udp, taken, to, port, gso_size)
    driver_flush_unlock(d)
    return r


cdef int send_as(sock *s, mblk *taken, const ipaddr *to, uint16_t port, int gso_size, int ttl, int tos,
                 const ipaddr *from_) noexcept nogil:
    cdef udp_pcb *p = s.udp
    cdef udp_pcb own = p[0]
    cdef int r
    cdef const ipaddr *peer = to if to != NULL else &p.entry.key.raddr
    if from_ != NULL and (ip_is4(from_) != ip_is4(peer) or not inet_is_local(&s.eng.net, from_, NULL)):
        freemsg(taken)
        return -EINVAL
    if ttl >= 0:
        p.ttl = p.group_ttl = <uint8_t>ttl
    if tos >= 0:
        p.tos = <uint8_t>tos
    if from_ != NULL:
        path_release(&s.eng.net, &p.way)        # it has the other source address
        r = udp_bind_lazily(p)
        if r == 0:
            own.entry.key.laddr = p.entry.key.laddr
            p.entry.key.laddr = from_[0]
            r = udp_send(p, taken, to, port, gso_size)
            p.entry.key.laddr = own.entry.key.laddr
            path_release(&s.eng.net, &p.way)
        else:
            freemsg(taken)
    else:
        r = udp_send(p, taken, to, port, gso_size)
    p.ttl = own.ttl
    p.group_ttl = own.group_ttl
    p.tos = own.tos
    return r


cdef int call_sendto_as(driver *d, sock *s, mblk *taken, const ipaddr *to, uint16_t port, int gso_size, int ttl,
                        int tos, const ipaddr *from_) noexcept nogil:
    cdef int r
    driver_lock(d)
    if s.closed or s.kind != SOCK_UDP:
        freemsg(taken)
        r = -EBADF if s.closed else -EINVAL
    else:
        r = send_as(s, taken, to, port, gso_size, ttl, tos, from_)
    driver_flush_unlock(d)
    return r


cdef mblk *recv_ping(sock *s, udp_meta *meta, bint peek) noexcept nogil:
    """The payload of an echo reply; its sequence number stands in for the sender's port."""
    cdef ping_meta reply
    cdef mblk *m = ping_recv(s.ping, &reply, peek)
    if m != NULL:
        meta.src = reply.src
        meta.sport = reply.seq
        meta.ttl = reply.ttl
    return m


cdef int call_recvfrom(driver *d, sock *s, bint peek, ns_t deadline, bint main_thread, mblk **out,
                       udp_meta *meta) noexcept nogil:
    cdef bint tried = False
    cdef int r = 0
    driver_lock(d)
    while True:
        if s.closed:
            r = -EBADF
            break
        if s.kind == SOCK_PING:
            out[0] = recv_ping(s, meta, peek)
        else:
            out[0] = udp_recv(s.udp, meta, peek)
        if out[0] != NULL:
            break
        r = take_error(s)
        if r == 0 and deadline != NO_WAIT and s.kind == SOCK_UDP and s.udp.shut_rd:
            break                       # nothing will come: the end, as on Linux
        if r == 0:
            r = pause(d, s, EV_IN, deadline, main_thread, &tried)
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r


cdef mblk *take_train(sock *s, mblk **left, const ipaddr *to, int *n, int *gso_size) noexcept nogil:
    """The first datagram of a list, with those behind it that may go with it as one packet: of its length, the last of
    them perhaps shorter. What is received is the same; a link that segments is asked once instead of often."""
    cdef mblk *m = left[0]
    cdef mblk *last = m
    cdef mblk *rest = m.next
    cdef size_t step = mblk_len(m)
    cdef size_t size = step
    cdef int most = udp_train(s.udp, to, step) if rest != NULL and m.cont == NULL else 1
    n[0] = 1
    while n[0] < most and size == step and rest != NULL and rest.cont == NULL and 0 < mblk_len(rest) <= step:
        size = mblk_len(rest)
        last.next = NULL
        last.cont = rest
        last = rest
        rest = rest.next
        n[0] += 1
    last.next = NULL
    gso_size[0] = <int>step if n[0] > 1 else UDP_OWN_SIZE
    left[0] = rest
    return m


cdef int call_send_many(driver *d, sock *s, mblk **left, const ipaddr *to, uint16_t port, ns_t deadline,
                        bint main_thread, int *done) noexcept nogil:
    cdef bint tried = False
    cdef int n, gso_size
    cdef mblk *m
    cdef int r = 0
    driver_lock(d)
    while left[0] != NULL:
        if s.closed:
            r = -EBADF
        elif done[0] and s.udp.error:
            break                       # it stays for the next call
        elif udp_room(s.udp) <= 0:
            r = pause(d, s, EV_OUT, deadline, main_thread, &tried)
            if r == 0:
                continue
        else:
            m = take_train(s, left, to, &n, &gso_size)
            r = udp_send(s.udp, m, to, port, gso_size)
            done[0] += n if r == 0 else 0
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r


cdef int call_recv_many(driver *d, sock *s, int max, ns_t deadline, bint main_thread, mblk **out) noexcept nogil:
    cdef bint tried = False
    cdef int r
    driver_lock(d)
    while True:
        if s.closed:
            r = -EBADF
            break
        out[0] = udp_take(s.udp, max)
        r = 0 if out[0] != NULL else take_error(s)
        if r != 0 or out[0] != NULL:
            break
        if s.udp.head != NULL:
            r = -ENOBUFS                # no memory to part joined ones
            break
        if s.udp.shut_rd:
            break
        r = pause(d, s, EV_IN, deadline, main_thread, &tried)
        if r != 0:
            break
    if s.note_fd >= 0:
        sock_note(s)
    driver_flush_unlock(d)
    return r
