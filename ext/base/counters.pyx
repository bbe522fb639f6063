"""Names of the counters: see counters.pxd."""

cdef extern from *:
    """
    #define X(id, name, why) name,
    static const char *const counter_names[] = { COUNTERS(X) };
    #undef X
    #define X(id, name, why) why,
    static const char *const counter_meanings[] = { COUNTERS(X) };
    #undef X
    """
    const char *counter_names[]
    const char *counter_meanings[]


cdef const char *counter_name(int c) noexcept nogil:
    return counter_names[c] if 0 <= c < C_COUNT else NULL


cdef const char *counter_meaning(int c) noexcept nogil:
    return counter_meanings[c] if 0 <= c < C_COUNT else NULL
