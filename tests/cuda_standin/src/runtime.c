/* libcudart, preloaded: it takes the real one's place by its soname and symbol versions. Launches do nothing, copies
   and fills happen at once. build.py adds every function that PyTorch imports and this file lacks: "not supported". */
#include "device.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef cudaError_t Error;
#define OK cudaSuccess

static __thread Error last;
static Error fail(Error e) { last = e; return e; }
Error cudaGetLastError(void) { Error e = last; last = OK; return e; }
Error cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorString(Error e) {
    return e == cudaErrorMemoryAllocation ? "out of memory" : e ? "error of the stand-in runtime" : "no error";
}
const char *cudaGetErrorName(Error e) {
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : e ? "cudaErrorStandIn" : "cudaSuccess";
}

/* The device */
Error cudaGetDeviceCount(int *n) { *n = 1; return OK; }
Error cudaGetDevice(int *d) { *d = 0; return OK; }
Error cudaSetDevice(int d) { return d ? fail(cudaErrorInvalidDevice) : OK; }
Error cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return OK; }
Error cudaDriverGetVersion(int *v) { *v = CUDART_VERSION; return OK; }
Error cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) { *v = standin_attribute(a); return OK; }
Error cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:00:1E.0"); return OK; }
Error cudaDeviceGetStreamPriorityRange(int *least, int *most) {
    if (least) *least = 0;
    if (most) *most = -5;
    return OK;
}
Error cudaDeviceCanAccessPeer(int *v, int a, int b) { *v = 0; return OK; }
Error cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    const Device *device = standin_device();
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", device->name);
    memset(&p->uuid, 7, sizeof p->uuid);
    p->totalGlobalMem = device->total_bytes;
    p->sharedMemPerBlock = standin_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->memPitch = 2147483647;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = device->major;
    p->minor = device->minor;
    p->textureAlignment = 512;
    p->multiProcessorCount = device->multiprocessors;
    p->unifiedAddressing = p->concurrentKernels = p->streamPrioritiesSupported = p->cooperativeLaunch = 1;
    p->memoryBusWidth = device->bus_bits;
    p->l2CacheSize = device->l2_bytes;
    p->maxThreadsPerMultiProcessor = device->threads_per_multiprocessor;
    p->maxBlocksPerMultiProcessor = device->blocks_per_multiprocessor;
    p->sharedMemPerMultiprocessor = device->shared_per_multiprocessor;
    p->sharedMemPerBlockOptin = device->shared_per_block_optin;
    p->reservedSharedMemPerBlock = standin_attribute(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    return OK;
}

/* Memory */
Error cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = standin_free_bytes();
    *total_bytes = standin_device()->total_bytes;
    return OK;
}
Error cudaMalloc(void **p, size_t n_bytes) {
    standin_count(MALLOC);
    *p = standin_allocate(n_bytes);
    return *p ? OK : fail(cudaErrorMemoryAllocation);
}
Error cudaFree(void *p) {
    if (!p) return OK;
    standin_count(FREE);
    return standin_free(p) ? OK : fail(cudaErrorInvalidValue);
}
Error cudaMallocAsync(void **p, size_t n_bytes, cudaStream_t s) { return cudaMalloc(p, n_bytes); }
Error cudaFreeAsync(void *p, cudaStream_t s) { return cudaFree(p); }
Error cudaHostAlloc(void **p, size_t n_bytes, unsigned flags) {
    standin_count(HOST_ALLOC);
    if (posix_memalign(p, 4096, n_bytes ? n_bytes : 1)) return fail(cudaErrorMemoryAllocation);
    standin_register(*p, n_bytes, PINNED_MEMORY);
    return OK;
}
Error cudaFreeHost(void *p) {
    standin_count(HOST_FREE);
    standin_unregister(p);
    free(p);
    return OK;
}
Error cudaHostRegister(void *p, size_t n_bytes, unsigned f) { standin_register(p, n_bytes, PINNED_MEMORY); return OK; }
Error cudaHostUnregister(void *p) { standin_unregister(p); return OK; }
Error cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    static const enum cudaMemoryType TYPES[] = {cudaMemoryTypeUnregistered, cudaMemoryTypeDevice, cudaMemoryTypeHost};
    Kind kind = standin_find(p, NULL, NULL);
    memset(a, 0, sizeof *a);
    a->type = TYPES[kind];
    a->device = kind == UNKNOWN ? -1 : 0;
    a->devicePointer = kind == UNKNOWN ? NULL : (void *)p;
    a->hostPointer = kind == PINNED_MEMORY ? (void *)p : NULL;
    return OK;
}

/* Copies and fills. A real device copies to and from pageable memory through a buffer of the driver: to the host such a
   copy ends only when it is done, from the host it may. */
static void count_copy(const void *to, const void *from) {
    Kind target = standin_find(to, NULL, NULL), source = standin_find(from, NULL, NULL);
    if (target == UNKNOWN) standin_count(COPY_TO_PAGEABLE);
    else if (source == UNKNOWN) standin_count(COPY_FROM_PAGEABLE);
    else if (target == PINNED_MEMORY || source == PINNED_MEMORY) standin_count(COPY_PINNED);
    else standin_count(COPY_ON_DEVICE);
}
Error cudaMemcpy(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind k) {
    standin_count(MEMCPY);
    standin_copy(to, from, n_bytes);
    return OK;
}
Error cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind k, cudaStream_t s) {
    count_copy(to, from);
    standin_copy(to, from, n_bytes);
    return OK;
}
Error cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n_bytes, cudaStream_t s) {
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, s);
}
Error cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                        enum cudaMemcpyKind k, cudaStream_t s) {
    count_copy(to, from);
    for (size_t i = 0; i < height; i++) memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    return OK;
}
Error cudaMemset(void *p, int value, size_t n_bytes) {
    standin_count(MEMSET);
    standin_fill(p, value, n_bytes);
    return OK;
}
Error cudaMemsetAsync(void *p, int value, size_t n_bytes, cudaStream_t s) {
    standin_fill(p, value, n_bytes);
    return OK;
}
Error cudaMemcpyToSymbol(const void *s, const void *from, size_t n, size_t at, enum cudaMemcpyKind k) { return OK; }
Error cudaGetSymbolAddress(void **p, const void *s) { *p = (void *)s; return OK; }

/* Streams: work is done when the call returns. */
static Error handle(void **h) { *h = malloc(64); return OK; }
Error cudaStreamCreate(cudaStream_t *s) { return handle((void **)s); }
Error cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { return handle((void **)s); }
Error cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int p) { return handle((void **)s); }
Error cudaStreamDestroy(cudaStream_t s) { free(s); return OK; }
Error cudaStreamGetPriority(cudaStream_t s, int *p) { *p = 0; return OK; }
Error cudaStreamQuery(cudaStream_t s) { standin_count(STREAM_QUERY); return OK; }
Error cudaStreamSynchronize(cudaStream_t s) { standin_count(STREAM_SYNCHRONIZE); return OK; }
Error cudaDeviceSynchronize(void) { standin_count(DEVICE_SYNCHRONIZE); return OK; }
Error cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) { return OK; }
Error cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
    *c = cudaStreamCaptureStatusNone;
    return OK;
}
static Error not_capturing(enum cudaStreamCaptureStatus *c, unsigned long long *id, cudaGraph_t *g,
                           const cudaGraphNode_t **nodes, size_t *n) {
    *c = cudaStreamCaptureStatusNone;
    if (id) *id = 0;
    if (g) *g = NULL;
    if (nodes) *nodes = NULL;
    if (n) *n = 0;
    return OK;
}
#if CUDART_VERSION >= 13000
Error cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id, cudaGraph_t *g,
                               const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *n) {
    if (edges) *edges = NULL;
    return not_capturing(c, id, g, nodes, n);
}
#else
Error cudaStreamGetCaptureInfo_v2(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id,
                                  cudaGraph_t *g, const cudaGraphNode_t **nodes, size_t *n) {
    return not_capturing(c, id, g, nodes, n);
}
#endif
Error cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { return OK; }
Error cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *user, unsigned flags) {
    f(s, OK, user);
    return OK;
}
Error cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *user) { f(user); return OK; }

/* An event is the time at which it was recorded. */
static Error stamp(cudaEvent_t e) { clock_gettime(CLOCK_MONOTONIC, (struct timespec *)e); return OK; }
Error cudaEventCreate(cudaEvent_t *e) { handle((void **)e); return stamp(*e); }
Error cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { return cudaEventCreate(e); }
Error cudaEventDestroy(cudaEvent_t e) { free(e); return OK; }
Error cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return stamp(e); }
Error cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) { return stamp(e); }
Error cudaEventQuery(cudaEvent_t e) { standin_count(EVENT_QUERY); return OK; }
Error cudaEventSynchronize(cudaEvent_t e) { standin_count(EVENT_SYNCHRONIZE); return OK; }
Error cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    struct timespec *begin = (struct timespec *)a, *end = (struct timespec *)b;
    *ms = (end->tv_sec - begin->tv_sec) * 1e3f + (end->tv_nsec - begin->tv_nsec) / 1e6f;
    return OK;
}

/* Launches: only the limits of a real grid and block are checked. */
static Error launch(dim3 grid, dim3 block) {
    if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647 || grid.y > 65535 || grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration);
    if (!block.x || !block.y || !block.z || block.x * block.y * block.z > 1024)
        return fail(cudaErrorInvalidConfiguration);
    standin_count(LAUNCH);
    return OK;
}
Error cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **a, size_t m, cudaStream_t s) {
    return launch(grid, block);
}
Error __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **a, size_t m, cudaStream_t s) {
    return launch(grid, block);
}
Error cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) {
    return launch(c->gridDim, c->blockDim);
}
Error cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->maxDynamicSharedSizeBytes = standin_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    a->ptxVersion = a->binaryVersion = 10 * standin_device()->major + standin_device()->minor;
    return OK;
}
Error cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v) { return OK; }
Error cudaKernelSetAttributeForDevice(cudaKernel_t k, enum cudaFuncAttribute a, int v, int d) { return OK; }
Error cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int block, size_t shared_bytes,
                                                             unsigned flags) {
    const Device *device = standin_device();
    int by_threads = device->threads_per_multiprocessor / (block > 0 ? block : 1);
    int by_memory = shared_bytes ? (int)(device->shared_per_multiprocessor / shared_bytes) : by_threads;
    *n = by_threads < by_memory ? by_threads : by_memory;
    if (*n > device->blocks_per_multiprocessor) *n = device->blocks_per_multiprocessor;
    if (*n < 1) *n = 1;
    return OK;
}
static Error entry_point(const char *name, void **f, enum cudaDriverEntryPointQueryResult *status) {
    *f = standin_driver_function(name);
    if (status) *status = cudaDriverEntryPointSuccess;
    return OK;
}
Error cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version, unsigned long long flags,
                                       enum cudaDriverEntryPointQueryResult *status) {
    return entry_point(name, f, status);
}
#if CUDART_VERSION < 13000
Error cudaGetDriverEntryPoint(const char *name, void **f, unsigned long long flags,
                              enum cudaDriverEntryPointQueryResult *status) {
    return entry_point(name, f, status);
}
#endif
Error cudaProfilerStart(void) { return OK; }
Error cudaProfilerStop(void) { return OK; }

/* What the compiled code of kernels calls: registration when a library is loaded, and around each launch. */
typedef struct {
    dim3 grid, block;
    size_t shared_bytes;
    void *stream;
} Configuration;
static __thread Configuration pushed[16];
static __thread int depth;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void *stream) {
    pushed[depth++ & 15] = (Configuration){grid, block, shared_bytes, stream};
    return 0;
}
Error __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream) {
    Configuration *top = &pushed[--depth & 15];
    *grid = top->grid;
    *block = top->block;
    *shared_bytes = top->shared_bytes;
    *(void **)stream = top->stream;
    return OK;
}
void **__cudaRegisterFatBinary(void *binary) { static void *module; return &module; }
void __cudaRegisterFatBinaryEnd(void **module) {}
void __cudaUnregisterFatBinary(void **module) {}
void __cudaRegisterFunction(void **module, const char *f, char *d, const char *name, int threads, void *a, void *b,
                            void *c, void *e, int *warp) {}
void __cudaRegisterVar(void **module, char *v, char *d, const char *name, int e, size_t n, int c, int g) {}
char __cudaInitModule(void **module) { return 1; }
Error __cudaGetKernel(cudaKernel_t *k, const void *f) { *k = (cudaKernel_t)f; return OK; }

Error cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int d) { return handle((void **)pool); }
Error cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr a, void *value) { return OK; }
Error cudaMemPoolTrimTo(cudaMemPool_t pool, size_t n_bytes) { return OK; }
