"""The one edge at which -errno becomes an exception."""

# Raises; the return type lets `return fail(r)` end a function.
cdef object fail(int code, object what=*)
cdef int check(int code, object what=*) except -1
