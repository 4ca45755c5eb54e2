/* Answers commands at $PORT. With the argument "workers", it has a child of user 33 that answers in its place. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int answered;

static void answer(const char *command, FILE *to) {
    if (!strncmp(command, "who", 3)) {
        fprintf(to, "%d %d\n", getuid(), ++answered);
    } else if (!strncmp(command, "inotify", 7)) {
        int count = 0;
        while (count < 100000 && inotify_init1(0) >= 0) count++;
        fprintf(to, "%d\n", count);
    } else if (!strncmp(command, "watch", 5)) {
        int one = inotify_init1(0);
        fprintf(to, "%s\n", one >= 0 ? "watching" : strerror(errno));
        if (one >= 0) close(one);
    } else if (!strncmp(command, "unshare", 7)) {
        fprintf(to, "%s\n", unshare(CLONE_NEWUSER) ? "refused" : "made");
    } else if (!strncmp(command, "write", 5)) {
        int file = open("/tmp/made", O_CREAT | O_WRONLY, 0600);
        fprintf(to, "%s\n", file >= 0 && write(file, "x", 1) == 1 ? "written" : strerror(errno));
        close(file);
    } else if (!strncmp(command, "stdout", 6)) {
        int file = open("/dev/stdout", O_WRONLY);
        fprintf(to, "%s\n", file >= 0 ? "open" : strerror(errno));
        close(file);
    }
}

int main(int count, char **arguments) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    inet_aton("127.0.0.1", &at.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 16)) return 1;
    signal(SIGPIPE, SIG_IGN);
    if (count > 1 && !strcmp(arguments[1], "workers")) {
        if (fork()) {
            wait(NULL);
            return 2;
        }
        if (setgroups(0, NULL) || setgid(33) || setuid(33)) return 3;
    }
    for (;;) {
        int visitor = accept(listener, NULL, NULL);
        if (visitor < 0) continue;
        FILE *to = fdopen(visitor, "r+");
        char line[64];
        if (fgets(line, sizeof line, to)) answer(line, to);
        fclose(to);
    }
}
