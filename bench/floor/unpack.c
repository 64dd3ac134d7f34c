/* The floor of unpacking: a zstd blob of a tar becomes a tree, with sha256 of the blob and of the tar.
 * unpack BLOB TREE prints both digests, the blob's last. Of PAX records path, linkpath, size and mtime are read; names
 * are trusted, so it is no program to use. The main thread inflates, one hashes each digest, one writes files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <zstd.h>

#include "queue.h"

static hasher tar_hash = {.input = QUEUE_INITIALIZER}, blob_hash = {.input = QUEUE_INITIALIZER};
static queue to_write = QUEUE_INITIALIZER;
static buffer *current;
static size_t used;

static size_t available(unsigned char **bytes) {
    while (used == current->size) {
        if (!current->size) refuse("the archive ends too early");
        done_with(current);
        current = take(&to_write);
        used = 0;
    }
    *bytes = current->bytes + used;
    return current->size - used;
}

static void read_exactly(void *into, size_t size) {
    for (size_t at = 0; at < size;) {
        unsigned char *bytes;
        size_t part = available(&bytes);
        if (part > size - at) part = size - at;
        memcpy((char *)into + at, bytes, part);
        used += part;
        at += part;
    }
}

static unsigned long long number(const char *field, int width) {
    unsigned long long value = 0;
    if (*field & 0x80) {
        for (int at = 1; at < width; at++) value = value << 8 | (unsigned char)field[at];
        return value;
    }
    for (int at = 0; at < width && field[at]; at++)
        if (field[at] != ' ') value = value << 3 | (unsigned)(field[at] - '0');
    return value;
}

typedef struct {
    char path[8192], link[8192];
    long long size;
    struct timespec mtime;
    int has_mtime;
} pax;

static void read_pax(pax *into, size_t size) {
    size_t padded = (size + 511) / 512 * 512;
    char *text = malloc(padded + 1);
    read_exactly(text, padded);
    text[size] = 0;
    for (char *at = text; at < text + size;) {
        char *key, *end = at + strtol(at, &key, 10);
        char *value = strchr(++key, '=') + 1;
        end[-1] = 0;
        if (!strncmp(key, "path=", 5)) snprintf(into->path, sizeof into->path, "%s", value);
        if (!strncmp(key, "linkpath=", 9)) snprintf(into->link, sizeof into->link, "%s", value);
        if (!strncmp(key, "size=", 5)) into->size = atoll(value);
        if (!strncmp(key, "mtime=", 6)) {
            char *dot, digits[10] = "000000000";
            into->mtime.tv_sec = strtol(value, &dot, 10);
            for (int i = 0; *dot == '.' && i < 9 && dot[1 + i]; i++) digits[i] = dot[1 + i];
            into->mtime.tv_nsec = strtol(digits, NULL, 10);
            into->has_mtime = 1;
        }
        at = end;
    }
    free(text);
}

static void write_file(const char *path, mode_t mode, long long size, struct timespec times[2]) {
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (file < 0) die(path);
    for (long long left = size; left;) {
        unsigned char *bytes;
        size_t part = available(&bytes);
        if ((long long)part > left) part = left;
        if (write(file, bytes, part) != (ssize_t)part) die(path);
        used += part;
        left -= part;
    }
    if (futimens(file, times)) die(path);
    close(file);
    char padding[512];
    read_exactly(padding, (512 - size % 512) % 512);
}

static void write_tree(void) {
    pax more = {.size = -1};
    for (;;) {
        char header[512], path[8192], link[8192];
        read_exactly(header, 512);
        if (!header[0] && !more.path[0]) return;
        long long size = number(header + 124, 12);
        if (header[156] == 'x' || header[156] == 'g') {
            read_pax(&more, size);
            continue;
        }
        snprintf(path, sizeof path, "%.155s%s%.100s", header[345] ? header + 345 : "", header[345] ? "/" : "", header);
        if (more.path[0]) strcpy(path, more.path);
        snprintf(link, sizeof link, "%.100s", header + 157);
        if (more.link[0]) strcpy(link, more.link);
        if (more.size >= 0) size = more.size;
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)number(header + 136, 12)}};
        if (more.has_mtime) times[1] = more.mtime;
        mode_t mode = number(header + 100, 8);
        uid_t owner = number(header + 108, 8);
        gid_t group = number(header + 116, 8);
        dev_t device = makedev(number(header + 329, 8), number(header + 337, 8));
        int failed = 0, top = !strcmp(path, "./");
        switch (header[156]) {
        case '5': failed = !top && mkdir(path, mode); break;
        case '2': failed = symlink(link, path); break;
        case '1': failed = linkat(AT_FDCWD, link, AT_FDCWD, path, 0); break;
        case '3': failed = mknod(path, S_IFCHR | mode, device); break;
        case '4': failed = mknod(path, S_IFBLK | mode, device); break;
        case '6': failed = mkfifo(path, mode); break;
        default: write_file(path, mode, size, times);
        }
        if (failed) die(path);
        if (header[156] != '1' && (owner != geteuid() || group != getegid())) {
            if (lchown(path, owner, group)) die(path);
            if (header[156] != '2' && chmod(path, mode)) die(path);
        }
        memset(&more, 0, sizeof more);
        more.size = -1;
    }
}

static void *write_all(void *nothing) {
    current = take(&to_write);
    write_tree();
    for (size_t size = 1; size;) { /* what comes after the last entry */
        size = current->size;
        done_with(current);
        if (size) current = take(&to_write);
    }
    return nothing;
}

static void pass_on(buffer *inflated) {
    atomic_store(&inflated->readers, 2);
    put(&tar_hash.input, inflated);
    put(&to_write, inflated);
}

int main(int count, char **arguments) {
    if (count != 3) refuse("usage: unpack BLOB TREE");
    int blob = open(arguments[1], O_RDONLY | O_CLOEXEC);
    if (blob < 0) die(arguments[1]);
    if (chdir(arguments[2])) die(arguments[2]);
    umask(0);
    pthread_t writer;
    start(&tar_hash);
    start(&blob_hash);
    if (pthread_create(&writer, NULL, write_all, NULL)) die("pthread_create");
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    buffer *inflated = new_buffer();
    for (;;) {
        buffer *packed = new_buffer();
        ssize_t got = read(blob, packed->bytes, BUFFER_SIZE);
        if (got < 0) die(arguments[1]);
        packed->size = got;
        atomic_store(&packed->readers, 2); /* this thread, and the one that hashes */
        put(&blob_hash.input, packed);
        ZSTD_inBuffer in = {packed->bytes, packed->size, 0};
        for (int full = 0; full || in.pos < in.size;) { /* a full buffer may leave something inside the decoder */
            ZSTD_outBuffer out = {inflated->bytes, BUFFER_SIZE, inflated->size};
            size_t state = ZSTD_decompressStream(zstd, &out, &in);
            if (ZSTD_isError(state)) refuse(ZSTD_getErrorName(state));
            inflated->size = out.pos;
            if ((full = out.pos == BUFFER_SIZE)) {
                pass_on(inflated);
                inflated = new_buffer();
            }
        }
        done_with(packed);
        if (!got) break;
    }
    if (inflated->size) {
        pass_on(inflated);
        inflated = new_buffer();
    }
    pass_on(inflated);
    pthread_join(writer, NULL);
    const char *tar = finish(&tar_hash);
    printf("%s %s\n", tar, finish(&blob_hash));
    return 0;
}
