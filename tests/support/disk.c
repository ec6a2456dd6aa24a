/* A disk that hangs: what a process writes to files of one name, and syncs of them, waits. For programs that are started with
   this library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether it hangs, or will once a file is made larger; how many calls wait. */
enum { WORKS, HANGS, HANGS_FROM_GROWTH };
static struct { _Atomic int state, waiting; } *disk;
static const char *name;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("TEST_DISK"), O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || shared == MAP_FAILED) abort();
    name = getenv("TEST_DISK_NAME");
    disk = shared;
}

static int is_on_disk(int fd) {
    char link[64], path[PATH_MAX + 1];
    if (!disk || disk->state == WORKS) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    size_t end = strlen(name);
    return length >= (ssize_t)end && !memcmp(path + length - end, name, end);
}

static void wait_for_disk(int fd) {
    if (!is_on_disk(fd) || disk->state != HANGS) return;
    disk->waiting++;
    while (disk->state == HANGS) usleep(1000);
    disk->waiting--;
}

int ftruncate64(int fd, off64_t length) {
    struct stat about;
    if (is_on_disk(fd) && disk->state == HANGS_FROM_GROWTH && !fstat(fd, &about) && about.st_size < length) disk->state = HANGS;
    return ((int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64"))(fd, length);
}

int fdatasync(int fd) {
    wait_for_disk(fd);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    wait_for_disk(fd);
    return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(fd, bytes, count, offset);
}
