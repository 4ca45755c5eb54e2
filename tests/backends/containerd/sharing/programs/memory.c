// An app that checks its own memory: `memory KIND` keeps memory of one kind, and at each request does the operation of
// that kind and checks the result, before its bake and after. It answers each request with "right" or with what is wrong.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

static char verdict[256];
// The words by which a certain library in a program is recognized.
__attribute__((used)) static const char words[] = WORDS;

// Keeps the first thing that is wrong.
static int wrong(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!verdict[0]) vsnprintf(verdict, sizeof verdict, format, arguments);
    va_end(arguments);
    return -1;
}

static void fill(void *at, size_t length, uint64_t seed) {
    uint64_t *words = at;
    for (size_t i = 0; i < length / 8; i++) words[i] = (seed + i) * 0x9E3779B97F4A7C15ul + 1;
}

static int holds(const char *what, const void *at, size_t length, uint64_t seed) {
    const uint64_t *words = at;
    for (size_t i = 0; i < length / 8; i++)
        if (words[i] != (seed + i) * 0x9E3779B97F4A7C15ul + 1)
            return wrong("%s: byte %zu of %zu is not as it was", what, i * 8, length);
    return 0;
}

static int zero(const char *what, const void *at, size_t length) {
    const uint64_t *words = at;
    for (size_t i = 0; i < length / 8; i++)
        if (words[i]) return wrong("%s: byte %zu of %zu is not zero", what, i * 8, length);
    return 0;
}

static void *map(size_t length, int flags) {
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return at;
}

// The memory that every kind has: all sorts of memory that is filled and never discarded.
static uint64_t data[64 * 512] = {1}, bss[64 * 512];
static char *bulk, *heap;
#define BULK (8 * MIB)

static void hold_bulk(void) {
    // Inaccessible pages on both sides keep the kernel from merging the mapping with others.
    char *around = map(BULK + 2 * PAGE, MAP_PRIVATE);
    mprotect(around, PAGE, PROT_NONE), mprotect(around + PAGE + BULK, PAGE, PROT_NONE);
    bulk = around + PAGE;
    heap = malloc(MIB / 16);
    fill(bulk, BULK, 1), fill(heap, MIB / 16, 2), fill(data, sizeof data, 3), fill(bss, sizeof bss, 4);
}

static void check_bulk(void) {
    holds("a mapping", bulk, BULK, 1), holds("the heap", heap, MIB / 16, 2);
    holds("data", data, sizeof data, 3), holds("bss", bss, sizeof bss, 4);
}

static char *pool;
static size_t size;
static unsigned round_;

// Relies on zeros where memory was discarded.
static void begin_dontneed(void) { fill(pool = map(2 * MIB, MAP_PRIVATE), 2 * MIB, 5); }

static void check_dontneed(void) {
    holds("what is discarded next", pool, 2 * MIB, 5);
    if (madvise(pool + MIB, MIB, MADV_DONTNEED)) wrong("MADV_DONTNEED: %s", strerror(errno));
    holds("what is beside it", pool, MIB, 5);
    zero("what was discarded", pool + MIB, MIB);
    fill(pool, 2 * MIB, 5);
}

// Lets the kernel free memory with MADV_FREE.
static void check_free(void) {
    holds("what may be freed next", pool, 2 * MIB, 5);
    if (madvise(pool, MIB, MADV_FREE)) wrong("MADV_FREE: %s", strerror(errno));
    fill(pool, MIB / 2, 5);
    holds("what was used again", pool, MIB / 2, 5), holds("what is beside it", pool + MIB, MIB, 5 + MIB / 8);
    uint64_t first = *(uint64_t *)(pool + MIB / 2);
    if (first) holds("what was freed", pool + MIB / 2, PAGE, 5 + MIB / 16);
    fill(pool, 2 * MIB, 5);
}

// Discards memory as a hint: afterwards it is zero or what it was last, and nothing else. The content differs each time,
// so the content at the bake is wrong after the first request.
static void hint(const char *who, int advice, uint64_t seed) {
    fill(pool, 2 * MIB, seed);
    if (madvise(pool, 2 * MIB, advice)) wrong("%s, advice %d: %s", who, advice, strerror(errno));
    for (size_t at = 0; at < 2 * MIB; at += PAGE)
        if (*(uint64_t *)(pool + at)) holds(who, pool + at, PAGE, seed + at / 8);
        else zero(who, pool + at, PAGE);
}

static void hint_both(const char *who) {
    hint(who, MADV_DONTNEED, 100 + round_), hint(who, MADV_FREE, 1000000 + round_);
    fill(pool, 2 * MIB, round_);
}

static void *hint_in_thread(void *who) {
    hint_both(who);
    return NULL;
}

// In this thread, in another thread, and in a child.
static void check_hint(void) {
    if (round_) holds("what was last", pool, 2 * MIB, round_ - 1);
    hint_both("a thread");
    pthread_t other;
    pthread_create(&other, NULL, hint_in_thread, "another thread"), pthread_join(other, NULL);
    pid_t child = fork();
    if (!child) {
        hint_both("a child");
        fputs(verdict, stderr), _exit(verdict[0] != 0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status) wrong("a hint of a child affected other memory");
    holds("what a child's parent has", pool, 2 * MIB, round_);
}

// Discards memory, or maps it again where that fails, and relies on zeros.
static void check_ask(void) {
    holds("what is discarded next", pool, 2 * MIB, 5 + round_);
    int advice = round_ % 2 ? MADV_DONTNEED : MADV_FREE;
    if (advice == MADV_FREE) memset(pool + MIB, 0, MIB);
    if (madvise(pool + MIB, MIB, advice)) {
        if (errno != ENOSYS) wrong("advice %d: %s", advice, strerror(errno));
        if (mmap(pool + MIB, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            wrong("mmap: %s", strerror(errno));
    }
    holds("what is beside it", pool, MIB, 5 + round_), zero("what was discarded", pool + MIB, MIB);
    fill(pool, 2 * MIB, 6 + round_);
}

// Resizes the mapping, which may move. New memory is zero, whatever was there before.
static void resize(const char *what, size_t to) {
    size_t from = size;
    char *moved = mremap(pool, from, to, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) {
        wrong("mremap: %s", strerror(errno));
        return;
    }
    pool = moved, size = to;
    holds(what, pool, from < to ? from : to, 5);
    if (to > from) zero("what is new", pool + from, to - from);
    fill(pool, size, 5);
}

static void begin_grow(void) { fill(pool = map(MIB, MAP_PRIVATE), size = MIB, 5); }
static void check_grow(void) { resize("what grew", size + MIB); }

static void check_shrink(void) {
    resize("what shrank", MIB / 2);
    resize("what grew again", MIB);
}

// Makes more changes than can be traced.
static void begin_churn(void) {
    begin_grow();
    for (int i = 0; i < 200000; i++) pool = mremap(pool, size, size + PAGE, MREMAP_MAYMOVE), pool = mremap(pool, size + PAGE, size, 0);
}

// Moves a mapping and leaves an empty one behind.
static void check_dontunmap(void) {
    char *moved = mremap(pool, size, size, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    if (moved == MAP_FAILED) {
        wrong("MREMAP_DONTUNMAP: %s", strerror(errno));
        return;
    }
    holds("what moved", moved, size, 5), zero("what it left", pool, size);
    memcpy(pool, moved, size), munmap(moved, size);
}

// Shrinks the heap and grows it again.
static void begin_brk(void) {
    pool = sbrk(0);
    pool = sbrk((intptr_t)(-(uintptr_t)pool % PAGE + MIB)) + (-(uintptr_t)pool % PAGE);
    fill(pool, MIB, 5);
}

static void check_brk(void) {
    holds("what is at the end", pool, MIB, 5);
    if (sbrk(-(intptr_t)(MIB / 2)) == (void *)-1 || sbrk(MIB / 2) == (void *)-1) wrong("sbrk: %s", strerror(errno));
    holds("what stayed", pool, MIB / 2, 5), zero("what came back", pool + MIB / 2, MIB / 2);
    fill(pool, MIB, 5);
}

// Two children and their parent: private memory belongs to each, and shared memory to all three.
struct task { uint64_t number, answer; char said[128]; };
static int to[3][2], back[3][2];
static uint64_t *common;

static void child(int number) {
    struct task task;
    // Else it would never read the end of its pipe.
    close(to[number][1]), close(back[number][0]);
    // The child changes half of what it inherits at once.
    fill(pool + MIB, MIB, 100 + (uint64_t)number);
    while (read(to[number][0], &task, sizeof task) == sizeof task) {
        verdict[0] = 0;
        check_bulk();
        holds("what a child inherited", pool, MIB, 5);
        holds("what a child changed", pool + MIB, MIB, 100 + (uint64_t)number);
        fill(pool + MIB, MIB, 100 + (uint64_t)number);
        fill(bulk + (size_t)number * PAGE, PAGE, 1 + (size_t)number * PAGE / 8);
        common[number] += task.number;
        task.answer = common[0];
        memcpy(task.said, verdict, sizeof task.said);
        if (write(back[number][1], &task, sizeof task) != sizeof task) break;
    }
    _exit(0);
}

static pid_t fork_child(int number) {
    if (pipe(to[number]) || pipe(back[number])) exit(1);
    pid_t pid = fork();
    if (pid < 0) exit(1);
    if (!pid) child(number);
    close(to[number][0]), close(back[number][1]);
    return pid;
}

static void ask(int number) {
    uint64_t before = common[number];
    struct task task = {.number = 7};
    common[0]++;
    if (write(to[number][1], &task, sizeof task) != sizeof task || read(back[number][0], &task, sizeof task) != sizeof task) {
        wrong("child %d is gone", number);
        return;
    }
    if (task.said[0]) wrong("child %d: %s", number, task.said);
    if (task.answer != common[0]) wrong("child %d does not see what its parent wrote", number);
    if (common[number] != before + 7) wrong("the parent does not see what child %d wrote", number);
}

static void begin_fork(void) {
    fill(pool = map(2 * MIB, MAP_PRIVATE), 2 * MIB, 5);
    common = map(PAGE, MAP_SHARED);
    fork_child(1), fork_child(2);
}

static void check_fork(void) {
    ask(1), ask(2);
    holds("what a parent has", pool, 2 * MIB, 5);
    // The changes of the parent are private too.
    fill(pool, 2 * MIB, 6), ask(1), ask(2);
    holds("what a parent changed", pool, 2 * MIB, 6), fill(pool, 2 * MIB, 5);
    // Another child, which is forked now.
    int keep[2][2] = {{to[1][0], to[1][1]}, {back[1][0], back[1][1]}};
    pid_t last = fork_child(1);
    ask(1);
    close(to[1][1]), close(back[1][0]), waitpid(last, NULL, 0);
    memcpy(to[1], keep[0], sizeof to[1]), memcpy(back[1], keep[1], sizeof back[1]);
}

// Threads with stacks, storage and allocations of their own. At each request one ends and another one starts.
#define THREADS 8
static pthread_barrier_t barrier;
static _Thread_local uint64_t own[512];
static volatile int leave[THREADS];
static pthread_t threads[THREADS];

static void *thread(void *argument) {
    size_t number = (size_t)argument;
    uint64_t stack[8192];
    char *kept = malloc(MIB / 16);
    fill(stack, sizeof stack, 10 + number), fill(own, sizeof own, 20 + number), fill(kept, MIB / 16, 30 + number);
    for (;;) {
        pthread_barrier_wait(&barrier);
        int last = leave[number];
        holds("a thread's stack", stack, sizeof stack, 10 + number);
        holds("a thread's storage", own, sizeof own, 20 + number);
        holds("a thread's allocation", kept, MIB / 16, 30 + number);
        char *some[64];
        for (int i = 0; i < 64; i++) {
            some[i] = calloc(1, 12345 + (size_t)i);
            zero("a new allocation", some[i], 12344);
            fill(some[i], 12344, 40);
        }
        for (int i = 0; i < 64; i++) free(some[i]);
        pthread_barrier_wait(&barrier);
        if (last) break;
    }
    free(kept);
    return NULL;
}

static void begin_threads(void) {
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
}

static void check_threads(void) {
    size_t next = round_ % THREADS;
    leave[next] = 1;
    pthread_barrier_wait(&barrier), pthread_barrier_wait(&barrier);
    pthread_join(threads[next], NULL);
    leave[next] = 0;
    pthread_create(&threads[next], NULL, thread, (void *)next);
}

// Huge pages, transparent or not.
static void begin_huge(void) {
    size = 6 * MIB;
    char *at = map(size + 2 * MIB, MAP_PRIVATE);
    pool = (char *)(((uintptr_t)at + 2 * MIB - 1) & ~(2 * MIB - 1));
    // Removes what is beside them, which would be merged with other mappings.
    if (pool > at) munmap(at, (size_t)(pool - at));
    munmap(pool + size, (size_t)(at + 2 * MIB - pool));
    if (madvise(pool, size, MADV_HUGEPAGE)) perror("MADV_HUGEPAGE");
    fill(pool, size, 5);
}

static void begin_hugetlb(void) { fill(pool = map(4 * MIB, MAP_PRIVATE | MAP_HUGETLB), size = 4 * MIB, 5); }

static void check_pool(void) {
    holds("huge pages", pool, size, 5);
    fill(pool + size / 2, size / 4, 6);
    holds("what was changed", pool + size / 2, size / 4, 6), holds("what is beside it", pool, size / 2, 5);
    fill(pool, size, 5);
}

// A memfd: two processes share it, and one also maps it privately.
static uint64_t *view;
static int file;

static void begin_memfd(void) {
    file = memfd_create("memory", 0);
    if (file < 0 || ftruncate(file, 3 * (off_t)MIB)) exit(1);
    char *whole = mmap(NULL, 3 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    fill(whole, 3 * MIB, 8);
    common = view = (uint64_t *)(whole + 2 * MIB);
    memset(view, 0, PAGE);
    pool = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (whole == MAP_FAILED || pool == MAP_FAILED) exit(1);
    fill(pool, 2 * MIB, 5);
    fork_child(1);
}

static void check_memfd(void) {
    holds("what is mapped privately", pool, 2 * MIB, 5);
    holds("what all see", (char *)view - 2 * MIB, 2 * MIB, 8);
    uint64_t word = ++view[0], seen = 0;
    if (pread(file, &seen, sizeof seen, 2 * (off_t)MIB) != sizeof seen || seen != word) wrong("the file is not what is mapped");
    ask(1);
    fill(pool, 2 * MIB, 5);
}

static void nothing(void) {}

static const struct kind {
    const char *name;
    void (*begin)(void), (*check)(void);
} kinds[] = {
    {"plain", nothing, nothing},
    {"dontneed", begin_dontneed, check_dontneed},
    {"free", begin_dontneed, check_free},
    {"hint", begin_dontneed, check_hint},
    {"ask", begin_dontneed, check_ask},
    {"grow", begin_grow, check_grow},
    {"shrink", begin_grow, check_shrink},
    {"churn", begin_churn, check_shrink},
    {"dontunmap", begin_grow, check_dontunmap},
    {"brk", begin_brk, check_brk},
    {"fork", begin_fork, check_fork},
    {"threads", begin_threads, check_threads},
    {"huge", begin_huge, check_pool},
    {"hugetlb", begin_hugetlb, check_pool},
    {"memfd", begin_memfd, check_memfd},
};

int main(int count, char **arguments) {
    const struct kind *kind = NULL;
    for (size_t i = 0; count == 2 && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, arguments[1])) kind = &kinds[i];
    if (!kind) return 64;
    hold_bulk();
    kind->begin();
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(getenv("PORT")));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) return 1;
    for (;;) {
        int visitor = accept(listener, NULL, NULL);
        if (visitor < 0) continue; // woken by a restore
        char request[1024], answer[512];
        if (read(visitor, request, sizeof request) > 0) {
            verdict[0] = 0;
            check_bulk(), kind->check(), check_bulk();
            round_++;
            int length = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\n\r\n%s\n", verdict[0] ? verdict : "right");
            if (write(visitor, answer, (size_t)length) < 0) perror("write");
        }
        close(visitor);
    }
}
