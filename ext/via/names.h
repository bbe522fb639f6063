/* What the message layer calls things, once: return codes, asynchronous errors, counters. */
#ifndef USTACK_VIA_NAMES_H
#define USTACK_VIA_NAMES_H
#define VIA_CODES(X) \
  X(VIP_SUCCESS,            "done") \
  X(VIP_NOT_DONE,           "not done yet") \
  X(VIP_INVALID_PARAMETER,  "an argument that cannot be") \
  X(VIP_ERROR_RESOURCE,     "a limit is reached, or it is in use") \
  X(VIP_TIMEOUT,            "the time is over") \
  X(VIP_REJECT,             "the peer refused the connection") \
  X(VIP_INVALID_RELIABILITY_LEVEL, "the reliability levels differ, or there is no such level") \
  X(VIP_INVALID_MTU,        "the maximal transfer sizes differ, or the size is beyond the NIC's") \
  X(VIP_INVALID_QOS,        "the qualities of service differ") \
  X(VIP_INVALID_PTAG,       "no such protection tag on this NIC") \
  X(VIP_INVALID_RDMAREAD,   "RDMA read is not to be had") \
  X(VIP_DESCRIPTOR_ERROR,   "the queue is empty, or the descriptor failed") \
  X(VIP_INVALID_STATE,      "not in this state of the VI") \
  X(VIP_ERROR_NAMESERVICE,  "the name service failed") \
  X(VIP_NO_MATCH,           "nobody waits for this discriminator") \
  X(VIP_NOT_REACHABLE,      "the peer is gone") \
  X(VIP_ERROR_NOT_SUPPORTED, "this provider cannot do it")

#define VIA_EVENTS(X) \
  X(VE_NONE,          "NONE") \
  X(VE_POST_DESC,     "POST_DESC") \
  X(VE_CONN_LOST,     "CONN_LOST") \
  X(VE_RECVQ_EMPTY,   "RECVQ_EMPTY") \
  X(VE_VI_OVERRUN,    "VI_OVERRUN") \
  X(VE_COMP_PROT,     "COMP_PROT") \
  X(VE_CATASTROPHIC,  "CATASTROPHIC")

#define VIA_COUNTS(X) \
  X(VC_SENT,          "via.sent",           "messages that were handed to the provider") \
  X(VC_RECEIVED,      "via.received",       "messages placed in posted receive descriptors") \
  X(VC_SENT_BYTES,    "via.sent_bytes",     "bytes of messages that were handed to the provider") \
  X(VC_RECEIVED_BYTES, "via.received_bytes", "bytes placed in posted receive descriptors") \
  X(VC_RECVQ_EMPTY,   "via.recvq_empty",    "messages for which no receive descriptor was posted") \
  X(VC_TOO_LONG,      "via.too_long",       "messages longer than the receive descriptor that was their turn") \
  X(VC_BAD_DESC,      "via.bad_descriptor", "descriptors with a format, protection or length error of their own") \
  X(VC_FLUSHED,       "via.flushed",        "descriptors that a disconnection or error gave back unused") \
  X(VC_STALE,         "via.stale",          "messages for a VI that is gone or connected to somebody else") \
  X(VC_CANCELLED,     "via.cancelled",      "messages that their sender took back while they waited") \
  X(VC_CQ_LIMIT,      "via.cq_limit",       "notifications for which a completion queue had no room") \
  X(VC_EVENT_LIMIT,   "via.event_limit",    "asynchronous errors that nobody had fetched when more came") \
  X(VC_BACKLOG_LIMIT, "via.backlog_limit",  "connection requests refused because a listener's queue was full") \
  X(VC_NO_MATCH,      "via.no_match",       "connection requests for a discriminator that nobody waits for") \
  X(VC_HOSTILE,       "via.hostile",        "entries of another process that cannot be: its channel is closed") \
  X(VC_BAD_RANGE,     "via.bad_range",      "entries of another process that name memory it has not lent") \
  X(VC_CONN_LOST,     "via.conn_lost",      "connections that ended without a disconnection of ours") \
  X(VC_KICKS,         "via.kicks",          "times another process had to be woken by a system call")

#define X(id, ...) id,
enum { VIA_CODES(X) VIA_CODE_COUNT };
enum { VIA_EVENTS(X) VIA_EVENT_COUNT };
enum { VIA_COUNTS(X) VIA_COUNT };
#undef X
#endif
