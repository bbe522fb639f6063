/* Everything that is counted, once: the enum, the name seen in `ustack stat`, and what it means.
   A packet or request that is dropped, refused or given up is counted here under the reason. */
#ifndef USTACK_COUNTERS_H
#define USTACK_COUNTERS_H
#define COUNTERS(X) \
  /* links, as the engine sees them */ \
  X(C_LINK_RX,              "link.rx",                    "frames received from links") \
  X(C_LINK_TX,              "link.tx",                    "frames handed to links") \
  X(C_LINK_RX_BYTES,        "link.rx_bytes",              "bytes of received frames, link headers included") \
  X(C_LINK_TX_BYTES,        "link.tx_bytes",              "bytes of sent frames, link headers included") \
  X(C_LINK_RX_NOMEM,        "link.rx_nomem",              "frames lost because no receive buffer was to be had") \
  X(C_LINK_RX_BAD,          "link.rx_bad",                "frames with an impossible virtio header or ring entry") \
  X(C_LINK_RX_TRUNCATED,    "link.rx_truncated",          "frames that the device cut short") \
  X(C_LINK_RX_OVERRUN,      "link.rx_overrun",            "frames that the kernel lost because the ring was full (TP_STATUS_LOSING, drop counters)") \
  X(C_LINK_TX_DROP,         "link.tx_drop",               "frames that the device refused") \
  X(C_LINK_TX_DOWN,         "link.tx_down",               "frames dropped because the link was down or gone") \
  X(C_LINK_TX_QUEUE_FULL,   "link.tx_queue_full",         "frames dropped because the interface's queue was full") \
  X(C_LINK_TX_TOO_BIG,      "link.tx_too_big",            "frames larger than the link's MTU") \
  X(C_LINK_DOWN,            "link.down",                  "times a link went down") \
  X(C_LINK_GONE,            "link.gone",                  "times a device vanished") \
  X(C_PIPE_FULL,            "pipe.full",                  "packets refused because the pipe's queue was full") \
  X(C_SW_CSUM,              "offload.checksum",           "packets whose checksum was completed in software") \
  X(C_SW_SEGMENT,           "offload.segment",            "super-segments cut in software") \
  X(C_SW_COALESCE,          "offload.coalesce",           "wire segments joined into an earlier one") \
  X(C_SW_BAD_GSO,           "offload.bad_gso",            "super-segments whose facts do not fit their headers") \
  /* ethernet, arp */ \
  X(C_ETH_RUNT,             "eth.runt",                   "frames shorter than an Ethernet header") \
  X(C_ETH_FOREIGN,          "eth.foreign",                "frames for another station") \
  X(C_ETH_SOURCE,           "eth.bad_source",             "frames whose source is a group address") \
  X(C_ETH_UNKNOWN,          "eth.unknown_type",           "frames of an EtherType that is not served (802.3 lengths and VLAN tags too)") \
  X(C_ARP_RX,               "arp.rx",                     "ARP packets received") \
  X(C_ARP_TX,               "arp.tx",                     "ARP packets sent") \
  X(C_ARP_BAD,              "arp.bad",                    "malformed ARP packets") \
  X(C_ARP_FOREIGN,          "arp.foreign",                "ARP requests for somebody else") \
  X(C_ARP_CONFLICT,         "arp.conflict",               "ARP packets from another station that claims our address (RFC 5227)") \
  X(C_ARP_QUEUE_FULL,       "arp.queue_full",             "packets dropped while their next hop was being resolved") \
  X(C_ARP_FAILED,           "arp.failed",                 "next hops that never answered") \
  X(C_ARP_EVICTED,          "arp.evicted",                "neighbours forgotten because the cache was full") \
  /* ip */ \
  X(C_IP_RX,                "ip.rx",                      "IP packets received") \
  X(C_IP_TX,                "ip.tx",                      "IP packets sent") \
  X(C_IP_SHORT,             "ip.short",                   "packets shorter than their IP header") \
  X(C_IP_VERSION,           "ip.bad_version",             "packets of a wrong IP version") \
  X(C_IP_HEADER,            "ip.bad_header",              "IP header length or total length impossible") \
  X(C_IP_CHECKSUM,          "ip.bad_checksum",            "IP header checksum wrong") \
  X(C_IP_TTL,               "ip.ttl",                     "packets that arrived with a TTL of 0") \
  X(C_IP_SOURCE,            "ip.bad_source",              "source address that no host may use (RFC 1122 3.2.1.3)") \
  X(C_IP_MARTIAN,           "ip.martian",                 "loopback or IPv4-mapped addresses seen on a wire") \
  X(C_IP_SOURCE_ROUTE,      "ip.source_route",            "packets with a source route option or an unspent routing header (refused, RFC 7126, 5095)") \
  X(C_IP_OPTION,            "ip.bad_option",              "IP options that run past the header") \
  X(C_IP_OPTION_UNKNOWN,    "ip.unknown_option",          "IPv6 packets with an unknown option that asks for them to be dropped (RFC 8200 4.2)") \
  X(C_IP_EXT_LIMIT,         "ip.ext_limit",               "IPv6 packets with more, or longer, extension headers than are walked") \
  X(C_IP_FOREIGN,           "ip.foreign",                 "packets for another host") \
  X(C_IP_PROTO,             "ip.unknown_protocol",        "packets of a protocol that is not served") \
  X(C_IP_NO_ROUTE,          "ip.no_route",                "packets without a route") \
  X(C_IP_TOO_BIG,           "ip.too_big",                 "packets that exceed the path MTU and may not be fragmented") \
  X(C_IP_PMTU,              "ip.path_mtu",                "path MTUs learnt from ICMP and remembered (RFC 1191, 8201)") \
  X(C_IP_FRAG_RX,           "ip.frag_rx",                 "fragments received") \
  X(C_IP_FRAG_TX,           "ip.frag_tx",                 "fragments sent") \
  X(C_IP_FRAG_OK,           "ip.frag_reassembled",        "datagrams reassembled") \
  X(C_IP_FRAG_OVERLAP,      "ip.frag_overlap",            "datagrams dropped for overlapping fragments (RFC 5722)") \
  X(C_IP_FRAG_TIMEOUT,      "ip.frag_timeout",            "datagrams that stayed incomplete") \
  X(C_IP_FRAG_BAD,          "ip.frag_bad",                "fragments with an impossible length or offset") \
  X(C_IP_FRAG_LIMIT,        "ip.frag_limit",              "incomplete datagrams dropped to stay inside the memory bound") \
  X(C_IP_NOMEM,             "ip.nomem",                   "packets dropped because no block was to be had") \
  /* icmp */ \
  X(C_ICMP_RX,              "icmp.rx",                    "ICMP messages received") \
  X(C_ICMP_TX,              "icmp.tx",                    "ICMP messages sent") \
  X(C_ICMP_ECHO,            "icmp.echo",                  "echo requests answered") \
  X(C_ICMP_BAD,             "icmp.bad",                   "malformed ICMP messages") \
  X(C_ICMP_CHECKSUM,        "icmp.bad_checksum",          "ICMP checksum wrong") \
  X(C_ICMP_IGNORED,         "icmp.ignored",               "ICMP messages of a type that is not acted upon") \
  X(C_ICMP_QUOTE,           "icmp.bad_quote",             "ICMP errors about packets that we cannot have sent") \
  X(C_ICMP_ERROR_TX,        "icmp.error_tx",              "ICMP errors sent") \
  X(C_ICMP_LIMITED,         "icmp.rate_limited",          "ICMP messages not sent because of the rate limit") \
  X(C_PING_RCVBUF,          "icmp.rcvbuf",                "echo replies dropped because the endpoint's buffer was full") \
  /* udp */ \
  X(C_UDP_RX,               "udp.rx",                     "datagrams delivered to a socket") \
  X(C_UDP_TX,               "udp.tx",                     "datagrams sent") \
  X(C_UDP_SHORT,            "udp.short",                  "datagrams shorter than a UDP header, or with an impossible length") \
  X(C_UDP_CHECKSUM,         "udp.bad_checksum",           "UDP checksum wrong") \
  X(C_UDP_NO_CHECKSUM,      "udp.no_checksum",            "IPv6 datagrams without a checksum (RFC 8200 8.1)") \
  X(C_UDP_NO_PORT,          "udp.no_port",                "datagrams for a port that nobody is bound to") \
  X(C_UDP_RCVBUF,           "udp.rcvbuf",                 "datagrams dropped because the socket's buffer was full") \
  X(C_UDP_ERRORS,           "udp.icmp_errors",            "ICMP errors given to a connected socket") \
  /* tcp */ \
  X(C_TCP_RX,               "tcp.rx",                     "segments received (super-segments count once)") \
  X(C_TCP_TX,               "tcp.tx",                     "segments sent (super-segments count once)") \
  X(C_TCP_TX_BYTES,         "tcp.tx_bytes",               "payload bytes sent, retransmissions included") \
  X(C_TCP_RX_BYTES,         "tcp.rx_bytes",               "payload bytes accepted in order") \
  X(C_TCP_SHORT,            "tcp.short",                  "segments shorter than their header") \
  X(C_TCP_CHECKSUM,         "tcp.bad_checksum",           "TCP checksum wrong") \
  X(C_TCP_OPTION,           "tcp.bad_option",             "options that run past the header or have an impossible length") \
  X(C_TCP_BROADCAST,        "tcp.broadcast",              "segments to or from a group address") \
  X(C_TCP_LAND,             "tcp.land",                   "segments that claim to come from ourselves") \
  X(C_TCP_NO_PORT,          "tcp.no_port",                "segments for which there is no connection or listener") \
  X(C_TCP_FLAGS,            "tcp.bad_flags",              "segments with a combination of flags that means nothing") \
  X(C_TCP_OUT_OF_WINDOW,    "tcp.out_of_window",          "segments outside the receive window") \
  X(C_TCP_DUPLICATE,        "tcp.duplicate",              "segments that brought only old data") \
  X(C_TCP_OUT_OF_ORDER,     "tcp.out_of_order",           "segments queued out of order") \
  X(C_TCP_OOO_LIMIT,        "tcp.ooo_limit",              "out-of-order segments dropped at the bound") \
  X(C_TCP_RCVBUF,           "tcp.rcvbuf",                 "data dropped because the receive buffer's storage was exhausted") \
  X(C_TCP_RCV_MEMORY,       "tcp.rcv_memory",             "data dropped because the stack's memory budget was nearly used up") \
  X(C_TCP_SND_MEMORY,       "tcp.snd_memory",             "times a sender had to wait for memory") \
  X(C_TCP_PAWS,             "tcp.paws",                   "segments rejected by PAWS (RFC 7323)") \
  X(C_TCP_ACK_OLD,          "tcp.ack_old",                "acknowledgements older than the largest window") \
  X(C_TCP_ACK_FUTURE,       "tcp.ack_future",             "acknowledgements of data never sent") \
  X(C_TCP_RST_RX,           "tcp.rst_rx",                 "resets accepted") \
  X(C_TCP_RST_TX,           "tcp.rst_tx",                 "resets sent") \
  X(C_TCP_RST_BAD,          "tcp.rst_bad",                "resets outside the window") \
  X(C_TCP_RST_LIMITED,      "tcp.rst_limited",            "resets not sent because of the rate limit") \
  X(C_TCP_CHALLENGE,        "tcp.challenge_ack",          "challenge ACKs sent (RFC 5961)") \
  X(C_TCP_CHALLENGE_LIMITED,"tcp.challenge_limited",      "challenge ACKs not sent because of the rate limit") \
  X(C_TCP_SYN_RX,           "tcp.syn_rx",                 "connection requests received by listeners") \
  X(C_TCP_SYN_DROP,         "tcp.syn_drop",               "connection requests dropped: the SYN queue was full") \
  X(C_TCP_COOKIE_SENT,      "tcp.cookie_sent",            "connection requests answered with a SYN cookie: the SYN queue was full") \
  X(C_TCP_COOKIE_OK,        "tcp.cookie_ok",              "SYN cookies that came back") \
  X(C_TCP_COOKIE_BAD,       "tcp.cookie_bad",             "ACKs refused that carried no SYN cookie of ours, or an old one") \
  X(C_TCP_PACED,            "tcp.paced",                  "times that output waited for SO_MAX_PACING_RATE") \
  X(C_TCP_ACCEPT_DROP,      "tcp.accept_drop",            "handshakes held back: the accept queue was full") \
  X(C_TCP_DEFERRED,         "tcp.deferred",               "handshakes held back until data comes: TCP_DEFER_ACCEPT") \
  X(C_TCP_OPEN_ACTIVE,      "tcp.open_active",            "connections opened by us") \
  X(C_TCP_OPEN_PASSIVE,     "tcp.open_passive",           "connections opened by a peer") \
  X(C_TCP_ESTABLISHED,      "tcp.established",            "connections that reached ESTABLISHED") \
  X(C_TCP_CLOSED,           "tcp.closed",                 "connections that ended") \
  X(C_TCP_ABORT_TIMEOUT,    "tcp.abort_timeout",          "connections given up after too many retransmissions") \
  X(C_TCP_ABORT_UNREAD,     "tcp.abort_unread",           "connections reset because unread data was left at close (RFC 2525 2.17)") \
  X(C_TCP_ABORT_NOMEM,      "tcp.abort_nomem",            "connections refused or reset for want of memory") \
  X(C_TCP_FINWAIT2_TIMEOUT, "tcp.finwait2_timeout",       "orphaned connections dropped in FIN-WAIT-2") \
  X(C_TCP_TIMEWAIT_REUSED,  "tcp.timewait_reused",        "TIME-WAIT connections reopened by a new SYN") \
  X(C_TCP_TIMEWAIT_LIMIT,   "tcp.timewait_limit",         "TIME-WAIT connections dropped at the bound") \
  X(C_TCP_RETRANS,          "tcp.retransmitted",          "segments sent again") \
  X(C_TCP_RETRANS_BYTES,    "tcp.retransmitted_bytes",    "payload bytes sent again") \
  X(C_TCP_RTO,              "tcp.rto",                    "retransmission time-outs") \
  X(C_TCP_FAST_RETRANS,     "tcp.fast_retransmit",        "fast recoveries entered") \
  X(C_TCP_RACK_REORDER,     "tcp.rack_reorder",           "connections whose network was seen to reorder (RFC 8985)") \
  X(C_TCP_LOST_RETRANS,     "tcp.lost_retransmit",        "retransmissions found to be lost again") \
  X(C_TCP_TLP_PROBES,       "tcp.tlp_probes",             "tail loss probes sent (RFC 8985 7)") \
  X(C_TCP_TLP_REPAIRED,     "tcp.tlp_repaired",           "losses that a tail loss probe has repaired") \
  X(C_TCP_DSACK,            "tcp.dsack_rx",               "reports that something was received twice (RFC 2883)") \
  X(C_TCP_SPURIOUS,         "tcp.spurious",               "reductions of the window taken back, for any of the reasons below") \
  X(C_TCP_UNDO_FULL,        "tcp.undo_full",              "fast recoveries found to be needless at their end") \
  X(C_TCP_UNDO_PARTIAL,     "tcp.undo_partial",           "fast recoveries found to be needless by the timestamp of a late original (RFC 3522)") \
  X(C_TCP_UNDO_DSACK,       "tcp.undo_dsack",             "recoveries whose every retransmission was reported as a duplicate (RFC 3708)") \
  X(C_TCP_UNDO_LOSS,        "tcp.undo_loss",              "time-outs found to be needless by a timestamp or by DSACKs (RFC 3522)") \
  X(C_TCP_UNDO_FRTO,        "tcp.undo_frto",              "time-outs found to be needless by what was acknowledged after them (RFC 5682)") \
  X(C_TCP_PROBE,            "tcp.zero_window_probe",      "zero-window probes sent") \
  X(C_TCP_SACK_BAD,         "tcp.sack_bad",               "SACK blocks outside what was sent, or inverted") \
  X(C_TCP_SACK_RENEGED,     "tcp.sack_reneged",           "times a peer took back what it had selectively acknowledged") \
  X(C_TCP_KEEPALIVE,        "tcp.keepalive",              "keep-alive probes sent") \
  X(C_TCP_DELACK,           "tcp.delayed_ack",            "ACKs sent by the delayed-ACK timer") \
  X(C_TCP_NOMEM,            "tcp.nomem",                  "segments not sent, or dropped, for want of a block") \
  X(C_TCP_ICMP_HARD,        "tcp.icmp_error",             "ICMP errors that a connection took note of") \
  X(C_TCP_ICMP_IGNORED,     "tcp.icmp_ignored",           "ICMP errors that did not fit the connection's state") \
  X(C_TCP_PMTU,             "tcp.path_mtu",               "path MTU reductions") \
  X(C_TCP_COLLAPSED,        "tcp.collapsed",              "receive queues packed because they held far more storage than data") \
  X(C_FILE_GATHERED,        "file.gathered",              "pieces of files queued without a copy, as windows on the page cache") \
  X(C_FILE_NO_CHECKSUM,     "file.no_checksum",           "file pieces copied because the link cannot sum: bytes that change must not meet an old sum") \
  X(C_FILE_NO_GATHER,       "file.no_gather",             "file pieces copied because the link takes contiguous packets only") \
  X(C_FILE_SHARED,          "file.by_reference",          "file pieces copied because the receiver would be handed the file's own pages") \
  X(C_FILE_NOT_MAPPED,      "file.not_mapped",            "file pieces copied because the source cannot be mapped") \
  X(C_FILE_SHRUNK,          "file.truncated",             "transfers that ended early because the file became shorter") \
  X(C_FILE_LOST,            "file.lost",                  "connections reset because pages of a file that were to be sent (again) are gone") \
  X(C_DIRECT_SENT,          "direct.sent",                "sends whose memory was queued in place, without a copy") \
  X(C_DIRECT_BYTES,         "direct.sent_bytes",          "bytes of them") \
  X(C_DIRECT_REGISTERED,    "direct.registered",          "sends in place from memory that was registered and is pinned") \
  X(C_DIRECT_SMALL,         "direct.fallback.small",      "sends copied because they are below the size from which sending in place pays") \
  X(C_DIRECT_SHARED,        "direct.fallback.by_reference", "sends copied because the receiver would be handed the sender's own memory") \
  X(C_DIRECT_NO_GATHER,     "direct.fallback.no_gather",  "sends copied because the link takes contiguous packets only") \
  X(C_DIRECT_NO_CHECKSUM,   "direct.fallback.no_checksum", "sends copied because the link cannot sum: bytes that change must not meet an old sum") \
  X(C_DIRECT_NO_WAIT,       "direct.fallback.nonblocking", "sends copied because a non-blocking call cannot wait until its memory is free") \
  X(C_DIRECT_NO_MEMORY,     "direct.fallback.no_memory",  "sends copied for want of a block to describe them, or since their pages cannot be brought in") \
  X(C_DIRECT_DATAGRAM,      "direct.fallback.datagram",   "datagrams copied: only streams are sent in place") \
  X(C_DIRECT_RESCUED,       "direct.rescued",             "sends in place that ended early: what was not acknowledged has been copied") \
  X(C_DIRECT_RESET,         "direct.reset",               "connections reset because memory in flight could neither be copied nor be waited for") \
  X(C_POSTED_HIT,           "posted.hit",                 "packets whose payload the link put where a posted receive wants it") \
  X(C_POSTED_BYTES,         "posted.hit_bytes",           "payload bytes of them") \
  X(C_POSTED_MISS,          "posted.miss",                "packets moved out of a posted buffer: another one than expected came") \
  X(C_POSTED_NO_LINK,       "posted.fallback.link",       "posted receives over a link that cannot place payload: received and copied") \
  X(C_POSTED_UNREGISTERED,  "posted.fallback.unregistered", "posted receives into memory that is not registered: received and copied") \
  X(C_SPLICE_IDLE,          "splice.idle",                "splices between sockets that ended because nothing moved for too long") \
  X(C_COW_PAGES,            "cow.pages",                  "pages that send(cow=True) shared with the caller") \
  X(C_COW_NESTED,           "cow.nested",                 "of them, pages that an earlier send had not let go yet") \
  X(C_COW_FAULTS,           "cow.faults",                 "pages copied because they were written to before the stack let go of them") \
  X(C_COW_SMALL,            "cow.small",                  "send(cow=True) of less than a whole aligned page: copied") \
  X(C_COW_REFUSED,          "cow.refused",                "send(cow=True) of memory that could not be protected: copied") \
  X(C_COW_KEPT,             "cow.kept",                   "send(cow=True) of plain memory to a link that keeps what it sends: copied") \
  X(C_COW_FULL,             "cow.full",                   "pages that send(cow=True) copied for want of spare pages") \
  X(C_FLIP_PAGES,           "flip.pages",                 "received pages that took the place of the caller's (recv_flip)") \
  X(C_FLIP_MAPPED,          "flip.mapped",                "received pages shown in a mapping (recv_zerocopy)") \
  X(C_FLIP_PARTIAL,         "flip.partial",               "pieces that were copied: no whole page, or not at a page boundary") \
  X(C_FLIP_HELD,            "flip.held",                  "whole pages that were copied: somebody else holds their storage, or it is no pool's")
#define X(id, name, why) id,
enum { COUNTERS(X) C_COUNT };
#undef X
#endif
