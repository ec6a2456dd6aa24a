/* Both clocks of a process, moved by as many seconds as a file says, or stopped: for programs that are started with this library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

/* Seconds: of the wall clock, and of the one that is never set. If there is a third, that one stands still, but for so many less one. */
static const volatile long long *ahead;
static _Atomic long long stopped_at;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *shared = mmap(NULL, 3 * sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || shared == MAP_FAILED) abort();
    ahead = shared;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*of_libc)(clockid_t, struct timespec *);
    if (!of_libc) of_libc = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = of_libc(clock, now);
    if (result == 0 && ahead) {
        if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += ahead[0];
        if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME) {
            now->tv_sec += ahead[1];
            if (ahead[2]) {
                long long running = 0;
                atomic_compare_exchange_strong(&stopped_at, &running, now->tv_sec + 1);
                *now = (struct timespec){.tv_sec = stopped_at + ahead[2] - 1};
            }
        }
    }
    return result;
}

/* The one wait that names a point in time and not a length of it: the kernel's clock was not moved. */
long syscall(long number, ...) {
    static long (*of_libc)(long, ...);
    if (!of_libc) of_libc = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) given[i] = va_arg(rest, long);
    va_end(rest);
    struct timespec until;
    int is_wait = number == SYS_futex && (given[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
    if (is_wait && given[3] && ahead) {
        until = *(struct timespec *)given[3];
        int clock = given[1] & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
        struct timespec shown, real;
        clock_gettime(clock, &shown);
        of_libc(SYS_clock_gettime, (long)clock, (long)&real);
        until.tv_sec -= shown.tv_sec - real.tv_sec;
        given[3] = (long)&until;
    }
    return of_libc(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
