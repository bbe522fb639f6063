"""Names of the ledger's reasons: see ledger.pxd."""

cdef extern from *:
    """
    #define X(id, name, why) name,
    static const char *const reason_names[] = { LEDGER_REASONS(X) };
    #undef X
    #define X(id, name, why) why,
    static const char *const reason_meanings[] = { LEDGER_REASONS(X) };
    #undef X
    """
    const char *reason_names[]
    const char *reason_meanings[]


cdef const char *ledger_name(int reason) noexcept nogil:
    return reason_names[reason] if 0 <= reason < LR_COUNT else NULL


cdef const char *ledger_meaning(int reason) noexcept nogil:
    return reason_meanings[reason] if 0 <= reason < LR_COUNT else NULL
