"""Segments on their way out: see segment.pxd."""

from libc.errno cimport EMSGSIZE, ENOBUFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.addr cimport ip_is4
from ustack._core.base.checksum cimport csum_fold
from ustack._core.base.codes cimport CSUM_PARTIAL, GSO_TCP4, GSO_TCP6, IPPROTO_TCP_
from ustack._core.base.counters cimport (
    C_TCP_NOMEM, C_TCP_RST_LIMITED, C_TCP_RST_TX, C_TCP_TX, C_TCP_TX_BYTES, count, count_n,
)
from ustack._core.base.seq cimport seq_geq, seq_gt, seq_leq, seq_t
from ustack._core.base.types cimport NS_SEC
from ustack._core.base.wheel cimport timer_stop
from ustack._core.inet.inet cimport (
    IP_DF, ip_output, ip_packet, path_check, path_pseudo, path_release, path_resolve, path_room,
)
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport alloc_header, freemsg, mblk
from ustack._core.tcp.block cimport (
    TF2_ACK_LATE, TF2_ACK_RODE, TF2_USUAL, TF_ACK_DELAYED, TF_ACK_NOW, TF_DSACK, TF_FIN_KNOWN, TF_PATH, TF_SACK, TF_TS,
    TF_WSCALE, has, interval, mark, tcb,
)
from ustack._core.tcp.pacing cimport pacing_packet, pacing_sent
from ustack._core.tcp.reassembly cimport ooo_sack
from ustack._core.tcp.rtt cimport ts_now
from ustack._core.tcp.tcp cimport TCPS_SYN_RECEIVED, tcp
from ustack._core.tcp.window cimport window_offer
from ustack._core.wire.ip4 cimport IP4_MAX
from ustack._core.wire.tcp cimport (
    TCP_LEN, TCP_MAX_SACK, TCP_SUM, TH_ACK, TH_RST, TH_SYN, tcp_clear_options, tcp_emit_header, tcp_emit_options,
    tcp_header, tcp_options,
)
from ustack._core.wire.bytes cimport put_sum

cdef enum:
    MSS_MIN = 48                # less is not believed (CVE-2019-11479)
    TS_BYTES = 12
    SACK_BYTES = 36             # of four blocks
    GSO_SEGMENTS = 160          # wire segments in one packet at most: a tiny MSS must not cost too much below
    RESETS_PER_SECOND = 10000


# --- sizes --------------------------------------------------------------------------------------------------------
cdef void seg_sizes(tcb *c) noexcept nogil:
    cdef uint32_t most = min(c.way.gso_max, <uint32_t>IP4_MAX) if c.flags2 & TF2_USUAL else c.way.gso_max
    cdef uint32_t headers = TCP_LEN + (20 if ip_is4(&c.way.dst) else 40)
    cdef uint32_t mss = c.way.mtu - headers if c.way.mtu > headers + MSS_MIN else MSS_MIN
    cdef uint32_t segments
    c.pmtu = c.way.mtu
    if c.mss_peer < mss:
        mss = c.mss_peer if c.mss_peer > MSS_MIN else MSS_MIN
    if c.mss_user and c.mss_user < mss:
        mss = c.mss_user
    if has(c, TF_TS):
        headers += TS_BYTES
        mss -= TS_BYTES
    c.snd_mss = mss
    segments = (most - headers) // mss if most > headers + mss else 1
    c.gso_payload = pacing_packet(c, mss * (segments if segments < GSO_SEGMENTS else GSO_SEGMENTS))


cdef void seg_usual(tcb *c) noexcept nogil:
    if c.way.gso_max > IP4_MAX and ip_is4(&c.way.dst) and not c.flags2 & TF2_USUAL:
        c.flags2 |= TF2_USUAL
        seg_sizes(c)


cdef uint16_t mss_to_offer(const path *way, uint16_t wished) noexcept nogil:
    """RFC 9293 3.7.1: what our interface takes, options not deducted (RFC 6691)."""
    cdef uint32_t mss = way.ifp.mtu - TCP_LEN - (20 if ip_is4(&way.dst) else 40)
    if mss > 65495:
        mss = 65495
    return wished if wished and wished < mss else <uint16_t>mss


cdef int seg_open_path(tcb *c) noexcept nogil:
    cdef int err = path_resolve(c.home.net, &c.way, &c.link.key.laddr, &c.link.key.raddr)
    if err < 0:
        return err
    c.flags |= TF_PATH
    c.link.key.laddr = c.way.src
    c.mss_adv = mss_to_offer(&c.way, c.mss_user)
    if c.mss_peer == 0:
        c.mss_peer = mss_default(c)
    seg_sizes(c)
    return 0


cdef int path_ready(tcb *c) noexcept nogil:
    """The path, made anew if routes or addresses have changed; its MTU may have."""
    cdef int err = 0
    if not has(c, TF_PATH):
        return seg_open_path(c)
    if c.way.generation != c.home.net.generation:
        err = path_check(c.home.net, &c.way)
    if c.way.mtu != c.pmtu:
        seg_sizes(c)
    return err


cdef int seg_room(tcb *c) noexcept nogil:
    return path_room(c.home.net, &c.way) if has(c, TF_PATH) else 1


# --- options ------------------------------------------------------------------------------------------------------
cdef void add_timestamps(tcb *c, tcp_options *o, bint echo) noexcept nogil:
    o.has_ts = True
    o.tsval = ts_now(c)
    o.tsecr = c.ts_recent if echo else 0


cdef bint fin_waits(const tcb *c) noexcept nogil:
    """The peer's FIN is here, and something before it is not."""
    return has(c, TF_FIN_KNOWN) and seq_gt(c.rcv_fin, c.rcv_nxt)


cdef bint sack_due(const tcb *c) noexcept nogil:
    return has(c, TF_SACK) and (c.ooo.n or has(c, TF_DSACK) or fin_waits(c))


cdef void add_sack(tcb *c, tcp_options *o) noexcept nogil:
    """What was received twice first (RFC 2883), then what is held above rcv_nxt, newest first (RFC 2018); with its FIN,
    or the peer would send the last segment again for that alone."""
    cdef bint fin = fin_waits(c)
    cdef interval blocks[TCP_MAX_SACK]
    cdef int n = 0
    cdef int i
    cdef int held = 0
    if has(c, TF_DSACK):
        c.flags &= ~TF_DSACK
        blocks[0] = c.dsack
        held = 1
    n = held + ooo_sack(&c.ooo, &blocks[held], TCP_MAX_SACK - held)
    for i in range(n):
        o.sack[i][0] = blocks[i].start
        o.sack[i][1] = blocks[i].end
        if fin and i >= held and blocks[i].end == c.rcv_fin:
            o.sack[i][1] += 1
        fin = fin and seq_leq(o.sack[i][1], c.rcv_fin)
    if fin and n < TCP_MAX_SACK:
        o.sack[n][0] = c.rcv_fin
        o.sack[n][1] = c.rcv_fin + 1
        n += 1
    o.nsack = <uint8_t>n


cdef void add_syn_options(tcb *c, tcp_options *o) noexcept nogil:
    """All that we can do in a SYN; in a SYN-ACK what the peer's SYN had as well."""
    o.mss = c.mss_adv
    o.sack_permitted = has(c, TF_SACK)
    if has(c, TF_WSCALE):
        o.wscale = c.rcv_wscale
    if has(c, TF_TS):
        add_timestamps(c, o, c.state == TCPS_SYN_RECEIVED)


# --- sending ------------------------------------------------------------------------------------------------------
cdef void book_sent(tcb *c, mblk *pkt, uint32_t n) noexcept nogil:
    """Counters, and what every segment with an ACK settles."""
    cdef context *ctx = c.home.ctx
    count(&ctx.n, C_TCP_TX)
    c.segs_out += 1 if n <= c.snd_mss else (n + c.snd_mss - 1) // c.snd_mss
    if n:
        count_n(&ctx.n, C_TCP_TX_BYTES, n)
        c.bytes_sent += n
        c.last_sent = ctx.now
        if c.pace != NULL:
            pacing_sent(c, n)
        if n > c.snd_mss:
            pkt.gso_size = <uint16_t>c.snd_mss
            pkt.gso_type = GSO_TCP4 if ip_is4(&c.way.dst) else GSO_TCP6
            pkt.segs = <uint16_t>((n + c.snd_mss - 1) // c.snd_mss)
    c.last_ack_sent = c.rcv_nxt
    if c.flags & (TF_ACK_NOW | TF_ACK_DELAYED):
        c.flags &= ~(TF_ACK_NOW | TF_ACK_DELAYED)
        if c.flags2 & TF2_ACK_LATE:
            c.flags2 = c.flags2 & ~<uint32_t>TF2_ACK_LATE | TF2_ACK_RODE
        timer_stop(&ctx.timers, &c.delack)


cdef int emit(tcb *c, tcp_header *h, tcp_options *o, mblk *taken, uint32_t n) noexcept nogil:
    """Put the header in front of the payload and hand the packet down."""
    cdef mblk *pkt = alloc_header(c.home.ctx.mem)
    cdef int err = 0
    if pkt != NULL:
        err = path_ready(c)
    if pkt == NULL or err < 0:
        freemsg(pkt)
        freemsg(taken)
        if pkt == NULL:
            count(&c.home.ctx.n, C_TCP_NOMEM)
        return err if err < 0 else -ENOBUFS
    h.sport = c.link.key.lport
    h.dport = c.link.key.rport
    h.data_offset = <uint8_t>(TCP_LEN + tcp_emit_options(pkt.rptr + TCP_LEN, o))
    tcp_emit_header(pkt.rptr, h)
    pkt.wptr = pkt.rptr + h.data_offset
    pkt.cont = taken
    pkt.pkt_len = h.data_offset + n
    pkt.hdr_len = h.data_offset
    pkt.csum = CSUM_PARTIAL
    pkt.csum_start = 0
    pkt.csum_offset = TCP_SUM
    put_sum(pkt.rptr + TCP_SUM, csum_fold(path_pseudo(&c.way, IPPROTO_TCP_, pkt.pkt_len)))
    book_sent(c, pkt, n)
    err = ip_output(c.home.net, &c.way, pkt, IPPROTO_TCP_, c.ttl, c.tos, IP_DF)
    if err == -EMSGSIZE and c.way.mtu != c.pmtu:
        seg_sizes(c)
    return err


cdef int seg_send(tcb *c, uint8_t flags, seq_t seq, mblk *taken, uint32_t n) noexcept nogil:
    cdef tcp_header h
    cdef tcp_options o
    tcp_clear_options(&o)
    if has(c, TF_TS):
        add_timestamps(c, &o, True)
    if sack_due(c) and n + SACK_BYTES <= c.snd_mss:
        add_sack(c, &o)                 # RFC 2018 4. Beside a full segment there is no room: ACKs have told it
    h.flags = TH_ACK | flags
    h.seq = seq
    h.ack = c.rcv_nxt
    h.window = <uint16_t>window_offer(c, False)
    h.urgent = 0
    return emit(c, &h, &o, taken, n)


cdef int bare_ack(tcb *c, seq_t seq) noexcept nogil:
    cdef tcp_header h
    cdef tcp_options o
    tcp_clear_options(&o)
    if has(c, TF_TS):
        add_timestamps(c, &o, True)
    if sack_due(c):
        add_sack(c, &o)
    h.flags = TH_ACK
    h.seq = seq
    h.ack = c.rcv_nxt
    h.window = <uint16_t>window_offer(c, False)
    h.urgent = 0
    if emit(c, &h, &o, NULL, 0) == -ENOBUFS:
        c.flags |= TF_ACK_NOW           # the interface is full: the next egress tries again
        mark(c)
        return -ENOBUFS
    return 0


cdef seq_t audible(const tcb *c) noexcept nogil:
    """SND.NXT, unless the peer has shrunk its window to the left of that: it hears only what begins inside it
    (RFC 9293 3.8.6, as Linux: tcp_acceptable_seq). What the scale of the window rounds off is no shrinking."""
    cdef seq_t edge = c.snd_una + c.snd_wnd
    if c.state == TCPS_SYN_RECEIVED or seq_geq(edge, c.snd_nxt) or c.snd_nxt - edge < <uint32_t>1 << c.snd_wscale:
        return c.snd_nxt
    return edge


cdef int seg_ack(tcb *c) noexcept nogil:
    return bare_ack(c, audible(c))


cdef int seg_probe(tcb *c) noexcept nogil:
    return bare_ack(c, c.snd_una - 1)


cdef int seg_syn(tcb *c) noexcept nogil:
    cdef tcp_header h
    cdef tcp_options o
    cdef bint answer = c.state == TCPS_SYN_RECEIVED
    tcp_clear_options(&o)
    add_syn_options(c, &o)
    h.flags = TH_SYN | TH_ACK if answer else TH_SYN
    h.seq = c.iss
    h.ack = c.rcv_nxt if answer else 0
    h.window = <uint16_t>window_offer(c, True)
    h.urgent = 0
    return emit(c, &h, &o, NULL, 0)


cdef void seg_reset(tcb *c) noexcept nogil:
    cdef tcp_header h
    cdef tcp_options o
    if c.flags2 & TF2_ACK_LATE or c.flags2 & TF2_ACK_RODE and c.snd_una == c.iss + 1:
        seg_ack(c)              # of a handshake: what carried it may be lost, and who accepts would never hear of it
    tcp_clear_options(&o)
    h.flags = TH_RST | TH_ACK
    h.seq = audible(c)
    h.ack = c.rcv_nxt
    h.window = 0
    h.urgent = 0
    if emit(c, &h, &o, NULL, 0) == 0:
        count(&c.home.ctx.n, C_TCP_RST_TX)


# --- resets for nobody --------------------------------------------------------------------------------------------
cdef bint may_reset(tcp *t) noexcept nogil:
    if t.ctx.now - t.reset_epoch >= NS_SEC:
        t.reset_epoch = t.ctx.now
        t.limit_reset = RESETS_PER_SECOND
    if t.limit_reset == 0:
        count(&t.ctx.n, C_TCP_RST_LIMITED)
        return False
    t.limit_reset -= 1
    return True


cdef void fill_reset(tcp_header *r, const tcp_header *h, uint32_t n) noexcept nogil:
    memset(r, 0, sizeof(tcp_header))
    r.sport = h.dport
    r.dport = h.sport
    r.data_offset = TCP_LEN
    if h.flags & TH_ACK:
        r.flags = TH_RST
        r.seq = h.ack
    else:
        r.flags = TH_RST | TH_ACK
        r.ack = h.seq + n + ((h.flags >> 1) & 1) + (h.flags & 1)


cdef void seg_reset_reply(tcp *t, const ip_packet *ip, const tcp_header *h, uint32_t n) noexcept nogil:
    cdef tcp_header r
    cdef tcp_options o
    if h.flags & TH_RST or not may_reset(t):
        return
    fill_reset(&r, h, n)
    tcp_clear_options(&o)
    if seg_reply(t, ip, &r, &o, NULL) == 0:
        count(&t.ctx.n, C_TCP_RST_TX)


cdef int seg_reply(tcp *t, const ip_packet *ip, tcp_header *h, tcp_options *o, const tcb *listener) noexcept nogil:
    cdef path way
    cdef mblk *pkt
    cdef int err
    memset(&way, 0, sizeof(path))
    err = path_resolve(t.net, &way, &ip.dst, &ip.src)
    if err < 0:
        return err
    pkt = alloc_header(t.ctx.mem)
    if pkt == NULL:
        path_release(t.net, &way)
        return -ENOBUFS
    if listener != NULL:
        o.mss = mss_to_offer(&way, listener.mss_user)
    h.data_offset = <uint8_t>(TCP_LEN + tcp_emit_options(pkt.rptr + TCP_LEN, o))
    tcp_emit_header(pkt.rptr, h)
    pkt.wptr = pkt.rptr + h.data_offset
    pkt.pkt_len = h.data_offset
    pkt.hdr_len = h.data_offset
    pkt.csum = CSUM_PARTIAL
    pkt.csum_offset = TCP_SUM
    put_sum(pkt.rptr + TCP_SUM, csum_fold(path_pseudo(&way, IPPROTO_TCP_, h.data_offset)))
    # A reset travels as what it answers did, as in Linux.
    err = ip_output(t.net, &way, pkt, IPPROTO_TCP_, 64 if listener == NULL else listener.ttl,
                    listener.tos if listener != NULL else ip.tos & 0xFC if h.flags & TH_RST else 0, IP_DF)
    path_release(t.net, &way)
    return err
