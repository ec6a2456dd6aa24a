/* A disk that hangs: what a process writes to files of one name, and syncs of them, waits. For programs that are started with this library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Whether it hangs; how many calls wait. */
static struct { _Atomic int hangs, waiting; } *disk;
static const char *name;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("TEST_DISK"), O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || shared == MAP_FAILED) abort();
    name = getenv("TEST_DISK_NAME");
    disk = shared;
}

static void wait_for_disk(int fd) {
    char link[64], path[PATH_MAX + 1];
    if (!disk || !disk->hangs) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    size_t end = strlen(name);
    if (length < (ssize_t)end || memcmp(path + length - end, name, end)) return;
    disk->waiting++;
    while (disk->hangs) usleep(1000);
    disk->waiting--;
}

int fdatasync(int fd) {
    wait_for_disk(fd);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    wait_for_disk(fd);
    return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, count, offset);
}
