/* The floor of mounting: an overlay of some directories, mounted and unmounted by system calls.
 * mount ROUNDS TARGET LAYER… (top first) prints the median of the rounds as JSON. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int by_size(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void set(int context, int command, const char *key, const char *value) {
    if (syscall(SYS_fsconfig, context, command, key, value, 0)) die(key ? key : "fsconfig");
}

static void show(const char *target, char **layers, int count) {
    if (count == 1) { /* an overlay wants two */
        int tree = syscall(SYS_open_tree, AT_FDCWD, layers[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (tree < 0) die("open_tree");
        if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)) die("move_mount");
        close(tree);
        return;
    }
    int context = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
    if (context < 0) die("fsopen");
    for (int at = 0; at < count; at++) set(context, FSCONFIG_SET_STRING, "lowerdir+", layers[at]);
    set(context, FSCONFIG_CMD_CREATE, NULL, NULL);
    int made = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
    if (made < 0) die("fsmount");
    if (syscall(SYS_move_mount, made, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)) die("move_mount");
    close(made);
    close(context);
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int rounds = atoi(arguments[1]);
    double *times = calloc(rounds, sizeof *times);
    for (int round = 0; round < rounds; round++) {
        double begun = now();
        show(arguments[2], arguments + 3, count - 3);
        if (umount2(arguments[2], 0)) die("umount2");
        times[round] = now() - begun;
    }
    qsort(times, rounds, sizeof *times, by_size);
    printf("{\"seconds\": %.9f}\n", times[rounds / 2]);
    return 0;
}
