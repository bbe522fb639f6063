"""Socket options: see options.pxd."""

import struct

from libc.errno cimport EBADF, EINVAL, ENOPROTOOPT, ENOTCONN
from libc.stdint cimport int64_t, uint8_t

from ustack._core.inet.demux cimport FLOW_V6, FLOW_V6ONLY
from ustack._core.inet.ping cimport ping_take_error
from ustack._core.inet.pmtu cimport pmtu_of
from ustack._core.py.driver cimport driver, driver_lock, driver_unlock
from ustack._core.py.errors cimport fail
from ustack._core.stack.sockets cimport SOCK_TCP, SOCK_UDP, sock
from ustack._core.tcp.tcp cimport (
    TCPO_CORK, TCPO_DEFER_ACCEPT, TCPO_KEEPALIVE, TCPO_KEEPCNT, TCPO_KEEPIDLE, TCPO_KEEPINTVL, TCPO_LINGER,
    TCPO_LINGER2, TCPO_MAX_PACING_RATE, TCPO_MAXSEG, TCPO_NODELAY, TCPO_NOTSENT_LOWAT, TCPO_OOBINLINE,
    TCPO_QUICKACK, TCPO_RCVBUF, TCPO_RCVLOWAT, TCPO_REUSEADDR, TCPO_REUSEPORT, TCPO_SNDBUF, TCPO_SYNCNT,
    TCPO_TOS, TCPO_TTL, TCPO_USER_TIMEOUT, TCPO_V6ONLY, TCPS_LISTEN, tcp_get_congestion, tcp_get_info,
    tcp_getopt, tcp_info, tcp_setopt, tcp_state, tcp_take_any_error)
from ustack._core.udp.udp cimport udp_pcb, udp_take_error

cdef enum:
    # Linux's numbers (asm-generic/socket.h, linux/in.h, linux/tcp.h)
    SOL_SOCKET = 1
    SO_REUSEADDR = 2
    SO_TYPE = 3
    SO_ERROR = 4
    SO_BROADCAST = 6
    SO_SNDBUF = 7
    SO_RCVBUF = 8
    SO_KEEPALIVE = 9
    SO_OOBINLINE = 10
    SO_LINGER = 13
    SO_REUSEPORT = 15
    SO_RCVLOWAT = 18
    SO_SNDLOWAT = 19
    SO_MAX_PACING_RATE = 47
    SO_ACCEPTCONN = 30
    SO_PROTOCOL = 38
    SO_DOMAIN = 39
    IPPROTO_IP = 0
    IP_TOS = 1
    IP_TTL = 2
    IP_MTU_DISCOVER = 10
    IP_MTU = 14
    IP_MULTICAST_TTL = 33
    IPPROTO_TCP = 6
    IPPROTO_UDP = 17
    UDP_SEGMENT = 103           # linux/udp.h
    UDP_GRO = 104
    IPPROTO_IPV6 = 41
    IPV6_UNICAST_HOPS = 16
    IPV6_MULTICAST_HOPS = 18
    IPV6_MTU_DISCOVER = 23
    IPV6_MTU = 24
    IPV6_V6ONLY = 26
    IPV6_DONTFRAG = 62
    IPV6_TCLASS = 67
    PMTUDISC_WANT = 1
    PMTUDISC_DO = 2
    PMTUDISC_PROBE = 3
    PMTUDISC_OMIT = 5
    DEFAULT_HOPS = 64
    NO_THRESHOLD = 1 << 30      # CWND_MAX: slow start has not ended yet

cdef enum:
    TCP_NODELAY = 1
    TCP_MAXSEG = 2
    TCP_CORK = 3
    TCP_KEEPIDLE = 4
    TCP_KEEPINTVL = 5
    TCP_KEEPCNT = 6
    TCP_SYNCNT = 7
    TCP_LINGER2 = 8
    TCP_DEFER_ACCEPT = 9
    TCP_QUICKACK = 12
    TCP_USER_TIMEOUT = 18
    TCP_NOTSENT_LOWAT = 25


cdef int tcp_option(int level, int name) noexcept nogil:
    """The TCPO_* for Linux's numbers; 0 if there is none."""
    if level == SOL_SOCKET:
        return socket_option(name)
    if level == IPPROTO_IP:
        return TCPO_TOS if name == IP_TOS else TCPO_TTL if name == IP_TTL else 0
    if level == IPPROTO_IPV6:
        return (TCPO_TTL if name == IPV6_UNICAST_HOPS else TCPO_TOS if name == IPV6_TCLASS
                else TCPO_V6ONLY if name == IPV6_V6ONLY else 0)
    if level != IPPROTO_TCP:
        return 0
    if name == TCP_NODELAY:
        return TCPO_NODELAY
    if name == TCP_MAXSEG:
        return TCPO_MAXSEG
    if name == TCP_CORK:
        return TCPO_CORK
    if name == TCP_KEEPIDLE:
        return TCPO_KEEPIDLE
    if name == TCP_KEEPINTVL:
        return TCPO_KEEPINTVL
    if name == TCP_KEEPCNT:
        return TCPO_KEEPCNT
    if name == TCP_SYNCNT:
        return TCPO_SYNCNT
    if name == TCP_LINGER2:
        return TCPO_LINGER2
    if name == TCP_QUICKACK:
        return TCPO_QUICKACK
    if name == TCP_DEFER_ACCEPT:
        return TCPO_DEFER_ACCEPT
    if name == TCP_NOTSENT_LOWAT:
        return TCPO_NOTSENT_LOWAT
    if name == TCP_USER_TIMEOUT:
        return TCPO_USER_TIMEOUT
    return 0


cdef int socket_option(int name) noexcept nogil:
    if name == SO_REUSEADDR:
        return TCPO_REUSEADDR
    if name == SO_REUSEPORT:
        return TCPO_REUSEPORT
    if name == SO_KEEPALIVE:
        return TCPO_KEEPALIVE
    if name == SO_SNDBUF:
        return TCPO_SNDBUF
    if name == SO_RCVBUF:
        return TCPO_RCVBUF
    if name == SO_LINGER:
        return TCPO_LINGER
    if name == SO_OOBINLINE:
        return TCPO_OOBINLINE
    if name == SO_RCVLOWAT:
        return TCPO_RCVLOWAT
    if name == SO_MAX_PACING_RATE:
        return TCPO_MAX_PACING_RATE
    return 0


cdef int discover(sock *s, int64_t *value, bint write) noexcept nogil:
    """IP_MTU_DISCOVER of a datagram endpoint: refuse what is larger than the path is known to carry (DO, PROBE), or cut
    to that (all others: nothing goes with DF that might not fit)."""
    if write and not 0 <= value[0] <= PMTUDISC_OMIT:
        return -EINVAL
    if write:
        s.udp.discover = <uint8_t>value[0]
        s.udp.df = value[0] == PMTUDISC_DO or value[0] == PMTUDISC_PROBE
    value[0] = s.udp.discover
    return 0


cdef int udp_option(sock *s, int level, int name, int64_t *value, bint write) noexcept nogil:
    """Read or write a field of a UDP endpoint."""
    if level == SOL_SOCKET and name == SO_BROADCAST:
        if write:
            s.udp.broadcast = value[0] != 0
        value[0] = s.udp.broadcast
    elif level == SOL_SOCKET and name == SO_REUSEADDR:
        if write:
            s.udp.reuse_addr = value[0] != 0
        value[0] = s.udp.reuse_addr
    elif level == SOL_SOCKET and name == SO_REUSEPORT:
        if write:
            s.udp.reuse_port = value[0] != 0
        value[0] = s.udp.reuse_port
    elif level == SOL_SOCKET and name == SO_RCVBUF:
        if write:
            s.udp.rcvbuf = value[0] if value[0] > 2048 else 2048
        value[0] = s.udp.rcvbuf
    elif level == SOL_SOCKET and name == SO_SNDBUF:
        value[0] = 1 << 20          # a datagram is handed down at once: nothing is buffered here
    elif level == IPPROTO_UDP and name == UDP_SEGMENT:
        if write:
            if not 0 <= value[0] <= 65535:
                return -EINVAL
            s.udp.gso_size = <unsigned short>value[0]
        value[0] = s.udp.gso_size
    elif level == IPPROTO_UDP and name == UDP_GRO:
        if write:
            s.udp.gro = value[0] != 0
        value[0] = s.udp.gro
    elif level == IPPROTO_IP and name == IP_TTL:
        return byte_option(&s.udp.ttl, value, write, 1)
    elif level == IPPROTO_IP and name == IP_TOS:
        if write:
            s.udp.tos = <unsigned char>value[0]
        value[0] = s.udp.tos
    elif level == IPPROTO_IP and name == IP_MULTICAST_TTL:
        if write and value[0] == -1:
            value[0] = 1
        return byte_option(&s.udp.group_ttl, value, write, 0)
    elif level == IPPROTO_IP and name == IP_MTU_DISCOVER:
        return discover(s, value, write)
    elif level == IPPROTO_IP and name == IP_MTU and not write:
        return path_option(s, name, value)
    else:
        return -ENOPROTOOPT
    return 0


cdef int path_option(sock *s, int name, int64_t *value) noexcept nogil:
    """What the path of a connected endpoint carries: -ENOTCONN of others."""
    cdef tcp_info info
    if name in (IPV6_MTU_DISCOVER, IP_MTU_DISCOVER):
        value[0] = PMTUDISC_WANT    # paths are always asked, and datagrams cut to what they say
        return 0
    if s.kind == SOCK_TCP:
        tcp_get_info(s.tcp, &info)
        value[0] = info.pmtu
    elif s.udp.connected:
        value[0] = pmtu_of(&s.eng.net, &s.udp.way.dst, s.udp.way.mtu)
    else:
        value[0] = 0
    return 0 if value[0] else -ENOTCONN


cdef int v6only(udp_pcb *p, int64_t *value, bint write) noexcept nogil:
    if write and p.bound:
        return -EINVAL
    if write:
        p.entry.family = FLOW_V6 | FLOW_V6ONLY if value[0] else FLOW_V6
    value[0] = p.entry.family & FLOW_V6ONLY != 0
    return 0


cdef int byte_option(uint8_t *field, int64_t *value, bint write, int least) noexcept nogil:
    """A field of the IP header: -1 means the default."""
    if write and not -1 <= value[0] <= 255:
        return -EINVAL
    if write and value[0] < 0:
        value[0] = DEFAULT_HOPS if least else 0
    if write and value[0] < least:
        return -EINVAL
    if write:
        field[0] = <uint8_t>value[0]
    value[0] = field[0]
    return 0


cdef int datagram_option6(sock *s, int name, int64_t *value, bint write) noexcept nogil:
    """Level IPPROTO_IPV6 of datagram and echo endpoints."""
    if name == IPV6_UNICAST_HOPS:
        return byte_option(&s.udp.ttl if s.kind == SOCK_UDP else &s.ping.ttl, value, write, 1)
    if name == IPV6_TCLASS:
        return byte_option(&s.udp.tos if s.kind == SOCK_UDP else &s.ping.tos, value, write, 0)
    if s.kind == SOCK_UDP and name == IPV6_MULTICAST_HOPS:
        if write and value[0] == -1:
            value[0] = 1
        return byte_option(&s.udp.group_ttl, value, write, 0)
    if s.kind == SOCK_UDP and name == IPV6_V6ONLY:
        return v6only(s.udp, value, write)
    if name == IPV6_DONTFRAG:
        if write and s.kind == SOCK_UDP:
            s.udp.df = value[0] != 0
        elif write:
            s.ping.df = value[0] != 0
        value[0] = s.udp.df if s.kind == SOCK_UDP else s.ping.df
        return 0
    if s.kind == SOCK_UDP and name in (IPV6_MTU, IPV6_MTU_DISCOVER) and not write:
        return path_option(s, name, value)
    return -ENOPROTOOPT


cdef int option_set(sock *s, int level, int name, int64_t value) noexcept nogil:
    cdef int option
    if s.closed:
        return -EBADF
    if level == IPPROTO_IPV6 and not s.v6:
        return -ENOPROTOOPT
    if level == IPPROTO_IPV6 and s.kind != SOCK_TCP:
        return datagram_option6(s, name, &value, True)
    if level == IPPROTO_IPV6 and value == -1 and name in (IPV6_UNICAST_HOPS, IPV6_TCLASS):
        value = DEFAULT_HOPS if name == IPV6_UNICAST_HOPS else 0
    if s.kind == SOCK_UDP:
        return udp_option(s, level, name, &value, True)
    if s.kind != SOCK_TCP:
        return -ENOPROTOOPT
    if level == SOL_SOCKET and name == SO_BROADCAST:
        return 0                    # means nothing to a stream, as on Linux
    option = tcp_option(level, name)
    return tcp_setopt(s.tcp, option, value) if option else -ENOPROTOOPT


cdef int option_get(sock *s, int level, int name, int64_t *value) noexcept nogil:
    cdef int option
    if s.closed:
        return -EBADF
    if level == SOL_SOCKET and name == SO_ERROR:
        if s.kind == SOCK_TCP:
            value[0] = tcp_take_any_error(s.tcp)
        else:
            value[0] = -(udp_take_error(s.udp) if s.kind == SOCK_UDP else ping_take_error(s.ping))
        return 0
    if level == SOL_SOCKET and name == SO_ACCEPTCONN:
        value[0] = s.kind == SOCK_TCP and tcp_state(s.tcp) == TCPS_LISTEN
        return 0
    if level == IPPROTO_IPV6 and not s.v6:
        return -ENOPROTOOPT
    if level == IPPROTO_IPV6 and s.kind != SOCK_TCP:
        return datagram_option6(s, name, value, False)
    if level == IPPROTO_IPV6 and name in (IPV6_MTU, IPV6_MTU_DISCOVER):
        return path_option(s, name, value)
    if s.kind == SOCK_UDP:
        return udp_option(s, level, name, value, False)
    if s.kind != SOCK_TCP:
        return -ENOPROTOOPT
    if level == IPPROTO_IP and name in (IP_MTU, IP_MTU_DISCOVER):
        return path_option(s, name, value)
    if level == SOL_SOCKET and name == SO_BROADCAST:
        value[0] = 0
        return 0
    if level == SOL_SOCKET and name == SO_SNDLOWAT:
        value[0] = 1                # it cannot be changed, as on Linux
        return 0
    option = tcp_option(level, name)
    return tcp_getopt(s.tcp, option, value) if option else -ENOPROTOOPT


cdef bytes congestion_name(driver *d, sock *s):
    """TCP_CONGESTION, without the NULs that follow it."""
    cdef const char *name = NULL
    if s.kind != SOCK_TCP:
        fail(-ENOPROTOOPT)
    with nogil:
        driver_lock(d)
        if not s.closed:
            name = tcp_get_congestion(s.tcp)
        driver_unlock(d)
    if name == NULL:
        fail(-EBADF)
    return name


cdef bytes pack_tcp_info(driver *d, sock *s):
    cdef tcp_info i
    cdef bint closed
    with nogil:
        driver_lock(d)
        closed = s.closed
        if not closed:
            tcp_get_info(s.tcp, &i)
        driver_unlock(d)
    if closed:
        fail(-EBADF)
    mss = i.snd_mss or 536
    return struct.pack(
        "=8B24I4Q6I4Q2I2Q4I",
        i.state, i.ca_state, i.retransmits, 0, i.retransmits, i.options, i.snd_wscale | i.rcv_wscale << 4, 0,
        i.rto // 1000, i.ato // 1000, i.snd_mss, i.rcv_mss,
        i.accept_queue if i.state == TCPS_LISTEN else (i.unacked + mss - 1) // mss,
        i.accept_max if i.state == TCPS_LISTEN else i.sacked // mss,
        (i.lost + mss - 1) // mss, (i.retrans + mss - 1) // mss, 0,
        0, 0, 0, 0,
        i.pmtu, i.rcv_wnd, i.srtt // 1000, i.rttvar // 1000,
        i.ssthresh // mss if i.ssthresh < NO_THRESHOLD else 0x7FFFFFFF, i.cwnd // mss,
        i.advmss, 3, 0, i.rcv_wnd, i.total_retrans & 0xFFFFFFFF,
        0, 0, i.bytes_acked, i.bytes_received,
        i.segs_out & 0xFFFFFFFF, i.segs_in & 0xFFFFFFFF, i.notsent, min(i.min_rtt // 1000, 0xFFFFFFFF), 0, 0,
        0, 0, 0, 0,
        0, 0, i.bytes_sent, i.bytes_retrans,
        0, 0, 0, min(i.snd_wnd, 0xFFFFFFFF),
    )
