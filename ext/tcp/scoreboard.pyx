"""The scoreboard: see scoreboard.pxd."""

from libc.stdint cimport int32_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from ustack._core.base.seq cimport seq_geq, seq_gt, seq_leq, seq_lt, seq_min, seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport RUNS_FEW, interval, scoreboard, sent_run
from ustack._core.tcp.rtt cimport TS_TICK_NS

cdef enum:
    RUNS_CAP = RUNS_MAX + RUNS_MAX // 4     # slack, so that the array seldom has to be moved


# --- room ---------------------------------------------------------------------------------------------------------
cdef void join_pairs(scoreboard *b) noexcept nogil:
    """Neighbours of one fate become one run, two by two; it was sent when the later of them was."""
    cdef sent_run *v = board_run(b, 0)
    cdef int i = 0
    cdef int n = 0
    while i < b.n:
        v[n] = v[i]
        if i + 1 < b.n and v[i + 1].fate == v[i].fate:
            i += 1
            if v[i].at > v[n].at:
                v[n].at = v[i].at
        i += 1
        n += 1
    b.n = <uint16_t>n


cdef bint grow(scoreboard *b, int cap) noexcept nogil:
    cdef sent_run *v = <sent_run *>malloc(cap * sizeof(sent_run))
    if v == NULL:
        return False
    memcpy(v, board_run(b, 0), b.n * sizeof(sent_run))
    free(b.heap)
    b.heap = v
    b.first = 0
    b.cap = <uint16_t>cap
    return True


cdef bint make_room(scoreboard *b, int more, int most) noexcept nogil:
    """For that many more runs. Indices are not valid any more."""
    cdef int cap = b.cap if b.heap != NULL else RUNS_FEW
    if b.first + b.n + more <= cap and b.n + more <= most:
        return True
    if b.n + more > most:
        join_pairs(b)
        if b.n + more > most:
            return False
    if b.n + more > cap - (cap >> 2) and cap < RUNS_CAP and grow(b, min(4 * cap, <int>RUNS_CAP)):
        return True
    if b.first:
        memmove(board_run(b, -<int>b.first), board_run(b, 0), b.n * sizeof(sent_run))
        b.first = 0
    return b.n + more <= cap


cdef int seek(const scoreboard *b, seq_t seq) noexcept nogil:
    """Index of the run that holds seq, or of the first one behind it; n if there is none."""
    cdef int low = 0
    cdef int high = b.n
    cdef int mid
    while low < high:
        mid = (low + high) >> 1
        if seq_leq(board_end(b, mid), seq):
            low = mid + 1
        else:
            high = mid
    return low


cdef void cut(scoreboard *b, int i, seq_t at) noexcept nogil:
    """Run i becomes two, the second beginning at `at`. There is room."""
    cdef sent_run *r = board_run(b, i)
    memmove(r + 1, r, (b.n - i) * sizeof(sent_run))
    r[1].start = at
    b.n += 1


cdef int begin_at(scoreboard *b, seq_t start) noexcept nogil:
    """Index of the run that begins at `start`, which is cut from another if need be, or of the first behind it: what
    the peer holds stays whole. There is room."""
    cdef int i = seek(b, start)
    if i < b.n and seq_lt(board_run(b, i).start, start):
        if not board_run(b, i).fate & RUN_HELD:
            cut(b, i, start)
        i += 1
    return i


cdef void join_fates(scoreboard *b, int i, int j) noexcept nogil:
    """Runs i to j become one: the fate is that of run i."""
    if j > i:
        memmove(board_run(b, i + 1), board_run(b, j + 1), (b.n - j - 1) * sizeof(sent_run))
        b.n -= <uint16_t>(j - i)


# --- sent ---------------------------------------------------------------------------------------------------------
cdef bint board_sent(scoreboard *b, seq_t start, seq_t end, ns_t now) noexcept nogil:
    cdef sent_run *r
    if b.n:
        r = board_run(b, b.n - 1)
        if r.fate == 0 and r.at == now:
            b.end = end
            return True
    if not make_room(b, 1, RUNS_MAX):
        return False
    r = board_run(b, b.n)
    r.at = now
    r.start = start
    r.fate = 0
    b.n += 1
    b.end = end
    return True


cdef void book_resent(scoreboard *b, sent_run *r, uint32_t n, ns_t now) noexcept nogil:
    if r.fate & RUN_LOST:
        b.lost -= n
        b.resent += n
    elif not r.fate & RUN_RESENT:
        b.resent += n
    r.fate = RUN_RESENT
    r.at = now


cdef void board_resent(scoreboard *b, seq_t start, seq_t end, ns_t now) noexcept nogil:
    """Without room to cut, whole runs pass for sent again: what was not is found missing later."""
    cdef bint room = make_room(b, 2, RUNS_MAX)
    cdef int i = begin_at(b, start) if room else seek(b, start)
    cdef int first = i
    cdef sent_run *r
    while i < b.n and seq_lt(board_run(b, i).start, end):
        r = board_run(b, i)
        if not r.fate & RUN_HELD:
            if room and seq_gt(board_end(b, i), end):
                cut(b, i, end)
            book_resent(b, r, board_end(b, i) - r.start, now)
        i += 1
    # What goes out segment by segment in one verb is one run again.
    if first and first < b.n and i == first + 1:
        r = board_run(b, first - 1)
        if r.fate == r[1].fate and r.at == r[1].at:
            join_fates(b, first - 1, first)


# --- delivered ----------------------------------------------------------------------------------------------------
cdef void deliver(scoreboard *b, const sent_run *r, seq_t end, uint32_t n, scored *s) noexcept nogil:
    """The last n bytes up to `end` of a run have been delivered: RFC 8985 6.2, steps 2 and 3."""
    s.delivered += n
    if r.fate & RUN_LOST:
        b.lost -= n
    elif r.fate & RUN_RESENT:
        b.resent -= n
    if not r.fate & RUN_RESENT:
        s.original = s.original or seq_leq(end, s.recover)
        s.reordered = s.reordered or seq_lt(end, s.highest)
    elif s.now - r.at < s.min_rtt or (s.has_echo and <int32_t>(s.echo - <uint32_t>(r.at // TS_TICK_NS)) < 0):
        return                          # it was the original that arrived
    if sent_after(r.at, end, s.at, s.end):
        s.at = r.at
        s.end = end


cdef void board_ack(scoreboard *b, seq_t una, scored *s) noexcept nogil:
    cdef sent_run *r
    cdef seq_t end
    cdef uint32_t n
    while b.n:
        r = board_run(b, 0)
        if seq_geq(r.start, una):
            return
        end = seq_min(board_end(b, 0), una)
        n = end - r.start
        if r.fate & RUN_HELD:
            b.held -= n
        else:
            deliver(b, r, end, n, s)
        if end != board_end(b, 0):
            r.start = una
            return
        b.first += 1
        b.n -= 1
    board_free(b)


cdef uint32_t board_sack(scoreboard *b, seq_t start, seq_t end, scored *s) noexcept nogil:
    cdef int i = seek(b, start)
    cdef int first
    cdef sent_run *r
    cdef uint32_t before = s.delivered
    if i == b.n or seq_geq(start, end):
        return 0
    r = board_run(b, i)
    if r.fate & RUN_HELD and seq_geq(board_end(b, i), end):
        return 0
    if not make_room(b, 2, RUNS_SACK):
        return 0
    i = seek(b, start)
    if not board_run(b, i).fate & RUN_HELD:
        i = begin_at(b, start)
    first = i
    while i < b.n and seq_lt(board_run(b, i).start, end):
        r = board_run(b, i)
        if not r.fate & RUN_HELD:
            if seq_gt(board_end(b, i), end):
                cut(b, i, end)
            deliver(b, r, board_end(b, i), board_end(b, i) - r.start, s)
            r.fate = RUN_HELD
        i += 1
    b.held += s.delivered - before
    if first and board_run(b, first - 1).fate & RUN_HELD:
        first -= 1
    if i == b.n or not board_run(b, i).fate & RUN_HELD:
        i -= 1
    join_fates(b, first, i)
    return s.delivered - before


# --- lost ---------------------------------------------------------------------------------------------------------
cdef void board_lose(scoreboard *b, int i) noexcept nogil:
    cdef sent_run *r = board_run(b, i)
    cdef uint32_t n = board_end(b, i) - r.start
    if not in_flight(r):
        return
    if r.fate & RUN_RESENT:
        b.resent -= n
    r.fate |= RUN_LOST
    b.lost += n


cdef uint32_t board_lose_below(scoreboard *b, seq_t end) noexcept nogil:
    cdef uint32_t before = b.lost
    cdef int i = 0
    if make_room(b, 1, RUNS_MAX):
        begin_at(b, end)
    while i < b.n and seq_lt(board_run(b, i).start, end):
        if board_run(b, i).fate == 0:
            board_lose(b, i)
        i += 1
    return b.lost - before


cdef void board_lose_all(scoreboard *b) noexcept nogil:
    cdef int i
    for i in range(b.n):
        board_lose(b, i)


cdef void board_renege(scoreboard *b) noexcept nogil:
    cdef int i
    cdef sent_run *r
    for i in range(b.n):
        r = board_run(b, i)
        if r.fate & RUN_HELD:
            r.fate = RUN_RESENT | RUN_LOST      # how often and when it was sent is not known any more
            r.at = 0
            b.lost += board_end(b, i) - r.start
    b.held = 0


cdef void board_unlose(scoreboard *b) noexcept nogil:
    cdef int i
    cdef sent_run *r
    for i in range(b.n):
        r = board_run(b, i)
        if r.fate & RUN_LOST:
            r.fate &= ~RUN_LOST
            if r.fate & RUN_RESENT:
                b.resent += board_end(b, i) - r.start
    b.lost = 0


# --- questions ----------------------------------------------------------------------------------------------------
cdef bint board_lost(const scoreboard *b, interval *run) noexcept nogil:
    cdef int i = 0
    if b.lost == 0:
        return False
    while not board_run(b, i).fate & RUN_LOST:
        i += 1
    run.start = board_run(b, i).start
    while i + 1 < b.n and board_run(b, i + 1).fate & RUN_LOST:
        i += 1
    run.end = board_end(b, i)
    return True


cdef int board_held(const scoreboard *b, int most) noexcept nogil:
    cdef int i = b.n - 1
    cdef int n = 0
    if b.held == 0:
        return 0
    while i >= 0 and n < most:
        if board_run(b, i).fate & RUN_HELD:
            n += 1
        i -= 1
    return n


cdef void board_free(scoreboard *b) noexcept nogil:
    free(b.heap)
    b.heap = NULL
    b.first = 0
    b.n = 0
    b.cap = 0
    b.held = 0
    b.lost = 0
    b.resent = 0
