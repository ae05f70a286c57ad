/* Device memory is host memory: pages exist once touched. Addresses lie in one stretch, in the driver's units of 2 MiB.

   PyTorch's allocator takes the lowest address among free blocks of equal size, and nothing says which addresses a
   real driver gives, so there are three ways: STANDIN_ADDRESSES=first, the lowest free ones (the default); new, always
   higher ones; down, always lower ones. */
#define _GNU_SOURCE
#include "device.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define UNIT ((size_t)2 << 20)
#define N_UNITS ((size_t)1 << 23) /* 16 TiB */
#define PAGE 4096

static unsigned char *taken; /* by unit */
static char *arena;
static size_t next_up, next_down = N_UNITS;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char *addresses(char *at, size_t n_bytes, int flags) {
    return mmap(at, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

/* The first of n units; N_UNITS: there are not as many. The lock is held. */
static size_t find_units(size_t n) {
    const char *how = getenv("STANDIN_ADDRESSES");
    if (how && !strcmp(how, "down")) return n <= next_down ? next_down -= n : N_UNITS;
    if (how && !strcmp(how, "new")) return n <= N_UNITS - next_up ? (next_up += n) - n : N_UNITS;
    size_t at = 0, run = 0;
    for (; at < N_UNITS && run < n; at++) run = taken[at] ? 0 : run + 1;
    return run == n ? at - n : N_UNITS;
}

void *standin_map(size_t n_bytes, int writable) {
    size_t n = (n_bytes + UNIT - 1) / UNIT;
    pthread_mutex_lock(&lock);
    if (!arena) {
        taken = calloc(N_UNITS, 1);
        char *start = addresses(NULL, (N_UNITS + 1) * UNIT, 0);
        arena = (char *)(((uintptr_t)start + UNIT - 1) / UNIT * UNIT);
    }
    size_t at = find_units(n);
    if (at < N_UNITS) memset(taken + at, 1, n);
    pthread_mutex_unlock(&lock);
    if (at == N_UNITS) return NULL;
    char *start = arena + at * UNIT;
    if (writable) mprotect(start, n * UNIT, PROT_READ | PROT_WRITE);
    return start;
}

void standin_unmap(void *start, size_t n_bytes) {
    size_t n = (n_bytes + UNIT - 1) / UNIT;
    addresses(start, n * UNIT, MAP_FIXED); /* gives the pages back */
    pthread_mutex_lock(&lock);
    memset(taken + ((char *)start - arena) / UNIT, 0, n);
    pthread_mutex_unlock(&lock);
}

/* Which memory an address belongs to. */
typedef struct Range {
    char *start;
    size_t n_bytes;
    Kind kind;
    struct Range *next;
} Range;
static Range *ranges;

void standin_register(void *start, size_t n_bytes, Kind kind) {
    Range *range = malloc(sizeof *range);
    pthread_mutex_lock(&lock);
    *range = (Range){start, n_bytes, kind, ranges};
    ranges = range;
    pthread_mutex_unlock(&lock);
}

size_t standin_unregister(void *start) {
    size_t n_bytes = 0;
    pthread_mutex_lock(&lock);
    Range **at = &ranges;
    while (*at && (*at)->start != start) at = &(*at)->next;
    if (*at) {
        Range *found = *at;
        n_bytes = found->n_bytes;
        *at = found->next;
        free(found);
    }
    pthread_mutex_unlock(&lock);
    return n_bytes;
}

Kind standin_find(const void *pointer, void **start, size_t *n_bytes) {
    const char *at = pointer;
    Kind kind = UNKNOWN;
    pthread_mutex_lock(&lock);
    Range *range = ranges;
    while (range && (at < range->start || at >= range->start + range->n_bytes)) range = range->next;
    if (range) {
        kind = range->kind;
        if (start) *start = range->start;
        if (n_bytes) *n_bytes = range->n_bytes;
    }
    pthread_mutex_unlock(&lock);
    return kind;
}

void *standin_allocate(size_t n_bytes) {
    if (!standin_take(n_bytes)) return NULL;
    void *start = standin_map(n_bytes, 1);
    if (start) standin_register(start, n_bytes, DEVICE_MEMORY);
    else standin_give(n_bytes);
    return start;
}

int standin_free(void *start) {
    size_t n_bytes = standin_unregister(start);
    if (!n_bytes) return 0;
    standin_unmap(start, n_bytes);
    standin_give(n_bytes);
    return 1;
}

/* A copy or fill above this size inside the device would only fill the host's memory with numbers that mean nothing. */
#define LARGEST ((size_t)64 << 20)

void standin_copy(void *to, const void *from, size_t n_bytes) {
    int on_device = standin_find(to, NULL, NULL) == DEVICE_MEMORY && standin_find(from, NULL, NULL) == DEVICE_MEMORY;
    if (n_bytes > LARGEST && on_device) return;
    memmove(to, from, n_bytes);
}

void standin_fill(void *to, int value, size_t n_bytes) {
    if (value == 0 && n_bytes >= 16 * PAGE && standin_find(to, NULL, NULL) == DEVICE_MEMORY) {
        /* Whole pages are given back, and so are zero again. */
        char *end = (char *)to + n_bytes;
        char *first = (char *)(((uintptr_t)to + PAGE - 1) & -(uintptr_t)PAGE);
        char *last = (char *)((uintptr_t)end & -(uintptr_t)PAGE);
        memset(to, 0, first - (char *)to);
        memset(last, 0, end - last);
        madvise(first, last - first, MADV_DONTNEED);
    } else if (n_bytes <= LARGEST) {
        memset(to, value, n_bytes);
    }
}
