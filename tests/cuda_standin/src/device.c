/* The catalogue of devices, and the books of the chosen one's memory. README.md names the environment's variables. */
#include "device.h"
#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB(n) ((n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)

/* Sources: NVIDIA's CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability" (threads,
   blocks and shared memory of a multiprocessor); the whitepapers of Turing, GA102, A100 and H100 (multiprocessors, L2,
   clocks). total_bytes is what PyTorch has reported for such a card; it varies by some MiB with the driver. */
static const Device CATALOGUE[] = {
    {.key = "T4", .name = "Tesla T4", .major = 7, .minor = 5, .multiprocessors = 40,
     .threads_per_multiprocessor = 1024, .blocks_per_multiprocessor = 16,
     .shared_per_multiprocessor = KIB(64), .shared_per_block_optin = KIB(64),
     .l2_bytes = KIB(4096), .clock_khz = 1590000, .memory_clock_khz = 5001000, .bus_bits = 256,
     .total_bytes = MIB(15095), .board_bytes = MIB(15360)},
    {.key = "RTX3060", .name = "NVIDIA GeForce RTX 3060", .major = 8, .minor = 6, .multiprocessors = 28,
     .threads_per_multiprocessor = 1536, .blocks_per_multiprocessor = 16,
     .shared_per_multiprocessor = KIB(100), .shared_per_block_optin = KIB(99),
     .l2_bytes = KIB(2304), .clock_khz = 1777000, .memory_clock_khz = 7501000, .bus_bits = 192,
     .total_bytes = MIB(12044), .board_bytes = MIB(12288)},
    {.key = "A100-40GB", .name = "NVIDIA A100-SXM4-40GB", .major = 8, .minor = 0, .multiprocessors = 108,
     .threads_per_multiprocessor = 2048, .blocks_per_multiprocessor = 32,
     .shared_per_multiprocessor = KIB(164), .shared_per_block_optin = KIB(163),
     .l2_bytes = KIB(40960), .clock_khz = 1410000, .memory_clock_khz = 1215000, .bus_bits = 5120,
     .total_bytes = MIB(40339), .board_bytes = MIB(40960)},
    {.key = "A100-80GB", .name = "NVIDIA A100-SXM4-80GB", .major = 8, .minor = 0, .multiprocessors = 108,
     .threads_per_multiprocessor = 2048, .blocks_per_multiprocessor = 32,
     .shared_per_multiprocessor = KIB(164), .shared_per_block_optin = KIB(163),
     .l2_bytes = KIB(40960), .clock_khz = 1410000, .memory_clock_khz = 1593000, .bus_bits = 5120,
     .total_bytes = MIB(81050), .board_bytes = MIB(81920)},
    {.key = "H100", .name = "NVIDIA H100 80GB HBM3", .major = 9, .minor = 0, .multiprocessors = 132,
     .threads_per_multiprocessor = 2048, .blocks_per_multiprocessor = 32,
     .shared_per_multiprocessor = KIB(228), .shared_per_block_optin = KIB(227),
     .l2_bytes = KIB(51200), .clock_khz = 1980000, .memory_clock_khz = 2619000, .bus_bits = 5120,
     .total_bytes = MIB(81089), .board_bytes = MIB(81559)},
};
#define N_DEVICES (sizeof CATALOGUE / sizeof *CATALOGUE)

static Device device;
static uint64_t used_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    const char *key = getenv("STANDIN_GPU"), *bytes = getenv("STANDIN_BYTES"), *context = getenv("STANDIN_CONTEXT");
    size_t which = 0;
    while (key && which < N_DEVICES && strcmp(key, CATALOGUE[which].key)) which++;
    if (which == N_DEVICES) {
        fprintf(stderr, "stand-in CUDA: STANDIN_GPU=%s is none of", key);
        for (size_t i = 0; i < N_DEVICES; i++) fprintf(stderr, " %s", CATALOGUE[i].key);
        fprintf(stderr, "\n");
        exit(2);
    }
    device = CATALOGUE[which];
    if (bytes) device.total_bytes = device.board_bytes = strtoull(bytes, NULL, 0);
    if (context) device.context_bytes = strtoull(context, NULL, 0);
}

const Device *standin_device(void) {
    pthread_once(&once, choose);
    return &device;
}

/* For tests and drivers, through ctypes: another capacity while the process runs. */
void standin_set_total_bytes(uint64_t n_bytes) {
    standin_device();
    device.total_bytes = device.board_bytes = n_bytes;
}
void standin_set_context_bytes(uint64_t n_bytes) {
    standin_device();
    device.context_bytes = n_bytes;
}

uint64_t standin_free_bytes(void) {
    const Device *d = standin_device();
    uint64_t gone = used_bytes + d->context_bytes;
    return gone < d->total_bytes ? d->total_bytes - gone : 0;
}

int standin_take(uint64_t n_bytes) {
    pthread_mutex_lock(&lock);
    int fits = n_bytes <= standin_free_bytes();
    if (fits) used_bytes += n_bytes;
    pthread_mutex_unlock(&lock);
    return fits;
}

void standin_give(uint64_t n_bytes) {
    pthread_mutex_lock(&lock);
    used_bytes -= n_bytes;
    pthread_mutex_unlock(&lock);
}

int standin_attribute(int which) {
    const Device *d = standin_device();
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return KIB(48);
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return d->clock_khz;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return d->memory_clock_khz;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return d->bus_bits;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return d->multiprocessors;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT: return 512;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return d->l2_bytes;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return d->threads_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return d->blocks_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return d->major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return d->minor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return d->shared_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return d->shared_per_block_optin;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return d->major >= 8 ? 1024 : 0;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
    default: return 0;
    }
}

int standin_not_there(const char *function) {
    static char told[64][64];
    static int n_told;
    if (!getenv("STANDIN_LOG")) return CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    int is_new = n_told < 64;
    for (int i = 0; i < n_told; i++) is_new = is_new && strcmp(told[i], function);
    if (is_new) {
        snprintf(told[n_told++], sizeof *told, "%s", function);
        fprintf(stderr, "stand-in CUDA: %s is not there\n", function);
    }
    pthread_mutex_unlock(&lock);
    return CUDA_ERROR_NOT_SUPPORTED;
}
