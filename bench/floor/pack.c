/* The floor of packing: a directory as tar (ustar), zstd level 3, with sha256 of the tar and of the blob.
 * pack TREE BLOB prints both digests. One thread reads, one hashes the tar, one compresses with two workers and hashes.
 * Hard links are written as files of their own; xattrs are left out. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <zstd.h>

#include "queue.h"

static hasher tar_hash = {.input = QUEUE_INITIALIZER};
static queue to_compress = QUEUE_INITIALIZER;
static buffer *current;

static void flush_buffer(void) {
    atomic_store(&current->readers, 2);
    put(&tar_hash.input, current);
    put(&to_compress, current);
    current = new_buffer();
}

static unsigned char *room(size_t *size) {
    if (current->size == BUFFER_SIZE) flush_buffer();
    if (*size > BUFFER_SIZE - current->size) *size = BUFFER_SIZE - current->size;
    return current->bytes + current->size;
}

static void zeros(size_t size) {
    while (size) {
        size_t part = size;
        memset(room(&part), 0, part);
        current->size += part;
        size -= part;
    }
}

static void add_header(const char *path, const struct stat *info, char kind, const char *target) {
    char header[512] = {0};
    const char *name = path;
    if (strlen(path) > 100) { /* a slash parts prefix and name */
        name = path + strlen(path) - 101;
        if (!(name = strchr(name, '/')) || name - path > 155) refuse("a path is too long for ustar");
        memcpy(header + 345, path, name - path);
        name++;
    }
    memcpy(header, name, strlen(name));
    sprintf(header + 100, "%07o", info->st_mode & 07777);
    sprintf(header + 108, "%07o", info->st_uid);
    sprintf(header + 116, "%07o", info->st_gid);
    unsigned long long size = kind == '0' ? info->st_size : 0;
    if (size >= 1ull << 33) { /* more than octal digits hold: base 256, as GNU tar does */
        header[124] = (char)0x80;
        for (int at = 0; at < 8; at++) header[135 - at] = (char)(size >> (8 * at));
    } else {
        sprintf(header + 124, "%011llo", size);
    }
    sprintf(header + 136, "%011lo", (long)info->st_mtim.tv_sec);
    header[156] = kind;
    if (target && strlen(target) > 100) refuse("a link is too long for ustar");
    if (target) memcpy(header + 157, target, strlen(target));
    memcpy(header + 257, "ustar\00000", 8);
    if (kind == '3' || kind == '4') {
        sprintf(header + 329, "%07o", major(info->st_rdev));
        sprintf(header + 337, "%07o", minor(info->st_rdev));
    }
    memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (int at = 0; at < 512; at++) sum += (unsigned char)header[at];
    sprintf(header + 148, "%06o", sum);
    for (size_t at = 0; at < 512;) {
        size_t part = 512 - at;
        memcpy(room(&part), header + at, part);
        current->size += part;
        at += part;
    }
}

static void add_content(int directory, const char *name, off_t size) {
    int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) die(name);
    for (off_t left = size; left;) {
        size_t part = left > BUFFER_SIZE ? BUFFER_SIZE : (size_t)left;
        unsigned char *into = room(&part); /* it may shorten the part */
        ssize_t got = read(file, into, part);
        if (got <= 0) refuse("a file got shorter");
        current->size += got;
        left -= got;
    }
    close(file);
    zeros((512 - size % 512) % 512);
}

static void add_all(int directory, const char *path) {
    struct dirent **names;
    int count = scandirat(directory, ".", &names, NULL, alphasort);
    if (count < 0) die(path);
    for (int at = 0; at < count; at++) {
        const char *name = names[at]->d_name;
        struct stat info;
        char inside[4096], target[4096] = {0};
        if (!strcmp(name, ".") || !strcmp(name, "..")) { free(names[at]); continue; }
        if (fstatat(directory, name, &info, AT_SYMLINK_NOFOLLOW)) die(name);
        snprintf(inside, sizeof inside, "%s%s%s", path, name, S_ISDIR(info.st_mode) ? "/" : "");
        if (S_ISREG(info.st_mode)) {
            add_header(inside, &info, '0', NULL);
            add_content(directory, name, info.st_size);
        } else if (S_ISDIR(info.st_mode)) {
            int below = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below < 0) die(name);
            add_header(inside, &info, '5', NULL);
            add_all(below, inside);
            close(below);
        } else if (S_ISLNK(info.st_mode)) {
            if (readlinkat(directory, name, target, sizeof target - 1) < 0) die(name);
            add_header(inside, &info, '2', target);
        } else {
            add_header(inside, &info, S_ISCHR(info.st_mode) ? '3' : S_ISBLK(info.st_mode) ? '4' : '6', NULL);
        }
        free(names[at]);
    }
    free(names);
}

static void *compress_all(void *path) {
    static hasher blob_hash = {.input = QUEUE_INITIALIZER};
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) die(path);
    start(&blob_hash);
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 3);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_nbWorkers, 2);
    for (int last = 0; !last;) {
        buffer *one = take(&to_compress);
        ZSTD_inBuffer in = {one->bytes, one->size, 0};
        last = !one->size;
        size_t left = 0;
        do {
            buffer *packed = new_buffer();
            ZSTD_outBuffer out = {packed->bytes, BUFFER_SIZE, 0};
            left = ZSTD_compressStream2(zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(left)) refuse(ZSTD_getErrorName(left));
            if (out.pos && write(file, packed->bytes, out.pos) != (ssize_t)out.pos) die("write");
            packed->size = out.pos;
            atomic_store(&packed->readers, 1);
            if (out.pos) put(&blob_hash.input, packed);
            else free(packed);
        } while (in.pos < in.size || (last && left));
        done_with(one);
    }
    buffer *end = new_buffer();
    atomic_store(&end->readers, 1);
    put(&blob_hash.input, end);
    ZSTD_freeCCtx(zstd);
    close(file);
    return (void *)finish(&blob_hash);
}

int main(int count, char **arguments) {
    if (count != 3) refuse("usage: pack TREE BLOB");
    int tree = open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tree < 0) die(arguments[1]);
    pthread_t compressor;
    void *blob;
    current = new_buffer();
    start(&tar_hash);
    if (pthread_create(&compressor, NULL, compress_all, arguments[2])) die("pthread_create");
    add_all(tree, "");
    zeros(1024);
    flush_buffer();
    flush_buffer(); /* an empty one: the end */
    pthread_join(compressor, &blob);
    printf("%s %s\n", finish(&tar_hash), (char *)blob);
    return 0;
}
