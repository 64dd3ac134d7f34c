/* Makes system calls on files below a directory fail, for tests: loaded with LD_PRELOAD, armed by failing_arm(). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char below[4096];
static size_t below_length;
static int error;
static unsigned seed, one_in;
static long injected;

/* From now on, one in `rate` of the calls on files below `path` fails with `number`. */
void failing_arm(const char *path, int number, unsigned rate, unsigned start)
{
    snprintf(below, sizeof below, "%s/", path);
    below_length = strlen(below);
    error = number;
    one_in = rate;
    seed = start;
}

void failing_disarm(void) { one_in = 0; }

long failing_count(void) { return __atomic_load_n(&injected, __ATOMIC_RELAXED); }

static int chosen(void)
{
    if (rand_r(&seed) % one_in != 0)
        return 0;
    __atomic_add_fetch(&injected, 1, __ATOMIC_RELAXED);
    errno = error;
    return 1;
}

static int hits_fd(int fd)
{
    char link[64], path[4096];
    int before = errno;
    ssize_t length;
    if (one_in == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path);
    errno = before;
    return length > (ssize_t)below_length && memcmp(path, below, below_length) == 0 && chosen();
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define ON_FD(type, name, parameters, arguments) \
    type name parameters \
    { \
        REAL(name); \
        return hits_fd(fd) ? -1 : real arguments; \
    }

ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, syncfs, (int fd), (fd))
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))
