// A library that makes PostgreSQL, which refuses to run as root, believe that it runs as user 1000 and owns its files.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define OTHER_USER 1000

uid_t getuid(void) { return OTHER_USER; }
uid_t geteuid(void) { return OTHER_USER; }

int stat(const char *restrict path, struct stat *restrict result) {
    int status = fstatat(AT_FDCWD, path, result, 0);
    result->st_uid = OTHER_USER;
    return status;
}
