/* The reasons for which a CPU moves or sums payload. One list: the enum, the names and the explanations. */
#ifndef USTACK_LEDGER_H
#define USTACK_LEDGER_H
#define LEDGER_REASONS(X) \
  X(LR_TX_COPY,    "tx.copy",       "user bytes copied into the stack's blocks by send") \
  X(LR_RX_COPY,    "rx.copy",       "received bytes copied out to the caller by recv") \
  X(LR_CSUM_TX,    "tx.checksum",   "bytes summed on output in a pass of their own") \
  X(LR_CSUM_RX,    "rx.checksum",   "bytes summed on input in a pass of their own") \
  X(LR_CSUM_FUSED, "tx.fused",      "bytes summed while they were copied (no pass of their own)") \
  X(LR_APPEND,     "tx.append",     "small writes appended to the tail block of the send queue") \
  X(LR_COLLAPSE,   "rx.collapse",   "sparse received blocks packed into dense ones") \
  X(LR_FLATTEN,    "tx.flatten",    "chains made contiguous for a device that cannot gather") \
  X(LR_SEGMENT,    "tx.segment",    "super-segments cut in software for a link that cannot") \
  X(LR_COALESCE,   "rx.coalesce",   "wire packets joined in software by copying") \
  X(LR_RING_COPY,  "rx.ring",       "bytes copied out of ring slots so that the slots can go back") \
  X(LR_RING_FILL,  "tx.ring",       "bytes copied into transmit ring slots") \
  X(LR_PULLUP,     "pullup",        "bytes moved by pullupmsg and msgpullup") \
  X(LR_COPYB,      "copyb",         "bytes duplicated by copyb and copymsg") \
  X(LR_REASSEMBLY, "rx.reassembly", "fragments copied together") \
  X(LR_PIPE_IN,    "pipe.inject",   "packets copied in from the harness or tunnel") \
  X(LR_PIPE_OUT,   "pipe.drain",    "packets copied out to the harness or tunnel") \
  X(LR_BOUNCE,     "tx.bounce",     "bytes copied because a device limit forbade sending them in place") \
  X(LR_RESCUE,     "tx.rescue",     "bytes of a send in place copied because it ended before they were acknowledged") \
  X(LR_MISPLACED,  "rx.misplaced",  "bytes moved out of a posted buffer because another packet than expected came") \
  X(LR_FILE_READ,  "file.read",     "file bytes read into memory") \
  X(LR_COW_PAGE,   "cow.page",      "pages copied because somebody wrote to them while the stack still had to send them") \
  X(LR_FLIP_ZERO,  "flip.zero",     "pages cleared before they go back to the stack in exchange for received ones") \
  X(LR_DEVICE_TX,  "device.tx",     "bytes that the kernel or device moved out (not a CPU copy of ours)") \
  X(LR_DEVICE_RX,  "device.rx",     "bytes that the kernel or device moved in (not a CPU copy of ours)")
#define X(id, name, why) id,
enum { LEDGER_REASONS(X) LR_COUNT };
#undef X
#endif
