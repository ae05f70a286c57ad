/* The one device that the stand-in libraries share: its properties, its memory, what was called on it. */
#ifndef STANDIN_DEVICE_H
#define STANDIN_DEVICE_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *key;  /* what STANDIN_GPU says */
    const char *name; /* what the driver says */
    int major, minor, multiprocessors;
    int threads_per_multiprocessor, blocks_per_multiprocessor;
    int shared_per_multiprocessor, shared_per_block_optin; /* bytes */
    int l2_bytes, clock_khz, memory_clock_khz, bus_bits;
    uint64_t total_bytes; /* by cudaMemGetInfo: what the driver keeps is gone already */
    uint64_t board_bytes; /* by NVML and nvidia-smi */
    uint64_t context_bytes;
} Device;

/* device.c */
const Device *standin_device(void);
uint64_t standin_free_bytes(void);
int standin_take(uint64_t n_bytes); /* 1: taken; 0: the device has no more */
void standin_give(uint64_t n_bytes);
int standin_attribute(int which);           /* a CUdevice_attribute, which equals cudaDeviceAttr */
int standin_not_there(const char *function); /* 801, "not supported"; STANDIN_LOG=1: says so once */

/* memory.c */
typedef enum { UNKNOWN, DEVICE_MEMORY, PINNED_MEMORY } Kind;
void *standin_map(size_t n_bytes, int writable); /* addresses; NULL: there are no more */
void standin_unmap(void *start, size_t n_bytes);
void standin_register(void *start, size_t n_bytes, Kind kind);
size_t standin_unregister(void *start); /* its bytes; 0 where it is unknown */
Kind standin_find(const void *pointer, void **start, size_t *n_bytes);
void *standin_allocate(size_t n_bytes); /* device memory; NULL: out of memory */
int standin_free(void *start);          /* 0: nothing was allocated there */
void standin_copy(void *to, const void *from, size_t n_bytes);
void standin_fill(void *to, int value, size_t n_bytes);

/* counters.c */
typedef enum {
#define COUNTER(id, name) id,
#include "counters.def"
#undef COUNTER
    N_COUNTERS
} Counter;
void standin_count(Counter which);

/* driver.c */
void *standin_driver_function(const char *name);
#endif
