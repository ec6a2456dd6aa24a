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
/* Of the steady clock, in nanoseconds: where it stands, 0 while it goes, and how far it has stayed behind by standing; and the
   seconds that it was ahead when it was stopped. */
static _Atomic long long stopped_at, behind, ahead_then;
static const long long SECOND = 1000000000;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *shared = mmap(NULL, 3 * sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || shared == MAP_FAILED) abort();
    ahead = shared;
}

static long long steady(long long real) {
    if (ahead[2]) {
        long long running = 0, here = real + ahead[1] * SECOND - behind;
        if (!stopped_at) ahead_then = ahead[1];
        atomic_compare_exchange_strong(&stopped_at, &running, here);
        return stopped_at + (ahead[2] - 1) * SECOND;
    }
    long long stood = stopped_at;
    if (stood) {
        behind = real + ahead_then * SECOND - stood;
        stopped_at = 0;
    }
    return real + ahead[1] * SECOND - behind;
}

static long long nanoseconds(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*of_libc)(clockid_t, struct timespec *);
    if (!of_libc) of_libc = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = of_libc(clock, now);
    if (result == 0 && ahead) {
        if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += ahead[0];
        if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME) {
            long long shown = steady(nanoseconds(now));
            *now = (struct timespec){.tv_sec = shown / SECOND, .tv_nsec = shown % SECOND};
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
        long long then = nanoseconds(&until) - (nanoseconds(&shown) - nanoseconds(&real));
        until = (struct timespec){.tv_sec = then / SECOND, .tv_nsec = then > 0 ? then % SECOND : 0};
        given[3] = (long)&until;
    }
    return of_libc(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
