/* The floor of moving bytes: files sent through one loopback connection by sendfile, and written on the other side.
 * copy TARGET FILE… writes all of them, one after the other, to TARGET. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[1 << 20];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(struct sockaddr *address, socklen_t size, char **files) {
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, address, size)) die("connect");
    for (; *files; files++) {
        struct stat info;
        int file = open(*files, O_RDONLY);
        if (file < 0 || fstat(file, &info)) die(*files);
        for (off_t left = info.st_size; left > 0;) {
            ssize_t sent = sendfile(connection, file, NULL, left);
            if (sent <= 0) die("sendfile");
            left -= sent;
        }
        close(file);
    }
    exit(0);
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), status;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1)) die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size)) die("getsockname");
    if (fork() == 0) send_all((struct sockaddr *)&address, size, arguments + 2);
    int target = open(arguments[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int connection = accept(listener, NULL, NULL);
    if (target < 0 || connection < 0) die(arguments[1]);
    for (ssize_t got; (got = read(connection, buffer, sizeof buffer)) != 0;)
        if (got < 0 || write(target, buffer, got) != got) die("write");
    wait(&status);
    return !WIFEXITED(status) || WEXITSTATUS(status);
}
