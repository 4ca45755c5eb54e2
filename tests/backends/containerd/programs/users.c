/* Answers commands at $PORT. With the argument "workers", it has a child of user 33 that answers in its place. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int answered;

static const char *outcome(int is_done) { return is_done ? "done" : strerror(errno); }

/* Uses up what the kernel counts for a user. Returns how much that was. */
static int use_up(const char *what) {
    int count = 0;
    char name[32];
    if (!strncmp(what, "instances", 9)) {
        while (count < 100000 && inotify_init1(0) >= 0) count++;
    } else if (!strncmp(what, "watches", 7)) {
        for (int file = 0; file < 400; file++) {
            sprintf(name, "/tmp/watched-%d", file);
            close(open(name, O_CREAT | O_WRONLY, 0600));
        }
        for (int notify; (notify = inotify_init1(0)) >= 0;) {
            for (int file = 0; file < 400; file++, count++) {
                sprintf(name, "/tmp/watched-%d", file);
                if (inotify_add_watch(notify, name, IN_MODIFY) < 0) return count;
            }
        }
    } else if (!strncmp(what, "queues", 6)) {
        static int number;
        for (; sprintf(name, "/queue-%d", number++), mq_open(name, O_CREAT | O_RDWR, 0600, NULL) >= 0; count++);
    } else if (!strncmp(what, "signals", 7)) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        sigprocmask(SIG_BLOCK, &set, NULL);
        /* A signal that was delivered a moment ago may still be counted. */
        for (int failed = 0; count < 1000000 && failed < 20;) {
            if (!sigqueue(getpid(), SIGRTMIN, (union sigval){0})) {
                count++;
            } else {
                failed++;
                usleep(1000);
            }
        }
    } else if (!strncmp(what, "pipes", 5)) {
        for (int ends[2]; !pipe(ends) && fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0; count++);
    }
    return count;
}

/* Uses a little of the same. */
static const char *use_one(const char *what) {
    int one = -1, ends[2];
    if (!strncmp(what, "instances", 9)) {
        one = inotify_init1(0);
    } else if (!strncmp(what, "watches", 7)) {
        int notify = inotify_init1(0);
        one = notify < 0 ? -1 : inotify_add_watch(notify, "/tmp", IN_MODIFY);
        int error = errno;
        close(notify);
        errno = error;
        return outcome(one >= 0);
    } else if (!strncmp(what, "queues", 6)) {
        one = mq_open("/one", O_CREAT | O_RDWR, 0600, NULL);
        if (one >= 0) mq_unlink("/one");
    } else if (!strncmp(what, "signals", 7)) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        sigprocmask(SIG_BLOCK, &set, NULL);
        return outcome(!sigqueue(getpid(), SIGRTMIN, (union sigval){0}));
    } else if (!strncmp(what, "pipes", 5) && !pipe(ends)) {
        one = fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0 ? ends[1] : -1;
        int error = errno;
        close(ends[0]);
        close(ends[1]);
        errno = error;
        return outcome(one >= 0);
    }
    if (one >= 0) close(one);
    return outcome(one >= 0);
}

/* Makes a file that user 33 may read by an access control list only, and has an overlay copy the program /capable. */
static void make_files(void) {
    struct { unsigned version; struct { unsigned short kind, rights; unsigned id; } entries[5]; } list = {
        2, {{1, 6, -1}, {2, 4, 33}, {4, 0, -1}, {16, 4, -1}, {32, 0, -1}}};
    int file = open("/tmp/listed", O_CREAT | O_WRONLY, 0600);
    if (file < 0 || write(file, "secret", 6) != 6) return;
    if (fsetxattr(file, "system.posix_acl_access", &list, sizeof list, 0)) return;
    close(file);
    chmod("/capable", 0700);
}

static void print_capabilities(FILE *to) {
    unsigned char value[64];
    int count = getxattr("/capable", "security.capability", value, sizeof value);
    if (count < 0) fprintf(to, "%s", strerror(errno));
    for (int at = 0; at < count; at++) fprintf(to, "%02x", value[at]);
    fprintf(to, "\n");
}

static void answer(const char *command, FILE *to) {
    if (!strncmp(command, "who", 3)) {
        fprintf(to, "%d %d\n", getuid(), ++answered);
    } else if (!strncmp(command, "use up ", 7)) {
        fprintf(to, "%d\n", use_up(command + 7));
    } else if (!strncmp(command, "use one ", 8)) {
        fprintf(to, "%s\n", use_one(command + 8));
    } else if (!strncmp(command, "unshare", 7)) {
        fprintf(to, "%s\n", unshare(CLONE_NEWUSER) ? "refused" : "made");
    } else if (!strncmp(command, "write", 5)) {
        int file = open("/tmp/made", O_CREAT | O_WRONLY, 0600);
        fprintf(to, "%s\n", file >= 0 && write(file, "x", 1) == 1 ? "written" : strerror(errno));
        close(file);
    } else if (!strncmp(command, "listed", 6)) {
        char text[16] = "";
        int file = open("/tmp/listed", O_RDONLY);
        fprintf(to, "%s\n", file >= 0 && read(file, text, 15) > 0 ? text : strerror(errno));
        close(file);
    } else if (!strncmp(command, "capabilities", 12)) {
        print_capabilities(to);
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
        make_files();
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
