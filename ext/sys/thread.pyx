"""Native threads: see thread.pxd."""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    """
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct sigset_t:
        pass
    int pthread_attr_init(pthread_attr_t *a) noexcept nogil
    int pthread_attr_destroy(pthread_attr_t *a) noexcept nogil
    int pthread_attr_setdetachstate(pthread_attr_t *a, int state) noexcept nogil
    int pthread_attr_setstacksize(pthread_attr_t *a, size_t n) noexcept nogil
    int pthread_create(unsigned long *t, const pthread_attr_t *a, void *(*fn)(void *) noexcept nogil,
                       void *arg) noexcept nogil
    int pthread_join(unsigned long t, void **result) noexcept nogil
    int pthread_setname_np(unsigned long t, const char *name) noexcept nogil
    unsigned long pthread_self() noexcept nogil
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old) noexcept nogil
    int sigfillset(sigset_t *s) noexcept nogil
    int sigdelset(sigset_t *s, int number) noexcept nogil
    int sched_yield() noexcept nogil
    int getpid() noexcept nogil
    long syscall(long nr) noexcept nogil
    enum:
        PTHREAD_CREATE_DETACHED, SIG_SETMASK, SYS_gettid, SIGBUS, SIGSEGV

cdef enum:
    STACK = 256 * 1024

cdef struct start:
    thread_fn fn
    void *arg
    const char *name


cdef void *run(void *p) noexcept nogil:
    cdef start s = (<start *>p)[0]
    free(p)
    if s.name != NULL:
        pthread_setname_np(pthread_self(), s.name)
    s.fn(s.arg)
    return NULL


cdef int sys_thread_start(uint64_t *handle, thread_fn fn, void *arg, const char *name) noexcept nogil:
    cdef pthread_attr_t attr
    cdef sigset_t every, before
    cdef unsigned long t = 0
    cdef int r
    cdef start *s = <start *>malloc(sizeof(start))
    if s == NULL:
        return -ENOMEM
    s.fn = fn
    s.arg = arg
    s.name = name
    pthread_attr_init(&attr)
    pthread_attr_setstacksize(&attr, STACK)
    if handle == NULL:
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED)
    sigfillset(&every)
    sigdelset(&every, SIGBUS)           # what a thread meets by itself must reach its handler: blocked, it kills
    sigdelset(&every, SIGSEGV)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    r = pthread_create(&t, &attr, run, s)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attr)
    if r:
        free(s)
    elif handle != NULL:
        handle[0] = t
    return -r


cdef int sys_thread_join(uint64_t handle) noexcept nogil:
    return -pthread_join(handle, NULL)


cdef int sys_gettid() noexcept nogil:
    return syscall(SYS_gettid)


cdef int sys_getpid() noexcept nogil:
    return getpid()


cdef void sys_yield() noexcept nogil:
    sched_yield()
