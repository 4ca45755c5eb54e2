// A generator that notices a fork as BoringSSL, AWS-LC and s2n do: by a page that is zero in a child. It draws at each line
// that a visitor sends.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile uint64_t *is_same_process;
static uint64_t state;
static unsigned seeded;

static void *page_of_its_own(void) {
    char *around = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (around == MAP_FAILED || mprotect(around + 4096, 4096, PROT_READ | PROT_WRITE)) exit(1);
    return around + 4096;
}

static uint64_t draw(void) {
    if (!*is_same_process) {
        if (getrandom(&state, sizeof state, 0) != sizeof state) exit(1);
        *is_same_process = 1, seeded++;
    }
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return state ^ state >> 29;
}

int main(void) {
    is_same_process = page_of_its_own();
    if (madvise((void *)is_same_process, 4096, MADV_WIPEONFORK)) return 1;
    // A page beside it that is not wiped must keep its content.
    uint64_t *kept = page_of_its_own();
    memset(kept, 7, 4096);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in here = {AF_INET, htons((uint16_t)atoi(getenv("PORT"))), {htonl(INADDR_LOOPBACK)}, {0}};
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 16)) return 1;
    for (;;) {
        int visitor = accept(listener, NULL, NULL);
        if (visitor < 0) continue;
        char line[100], answer[200];
        if (read(visitor, line, sizeof line) > 0) {
            uint64_t number = draw();
            snprintf(answer, sizeof answer, "secret wiped %016lx\nseeded %u\nkept %lx", number, seeded, kept[511]);
            if (write(visitor, answer, strlen(answer)) < 0) perror("write");
        }
        close(visitor);
    }
}
