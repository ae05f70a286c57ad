/* libcuda.so.1: the driver's functions that PyTorch, Triton and the stand-in runtime call. */
#define _GNU_SOURCE
#include "device.h"
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OK CUDA_SUCCESS

/* One device with one context. */
static struct { int nothing; } the_context;
static __thread CUcontext current;

CUresult cuInit(unsigned flags) { return OK; }
CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return OK; }
CUresult cuDeviceGetCount(int *n) { *n = 1; return OK; }
CUresult cuDeviceGet(CUdevice *d, int i) { *d = 0; return i ? CUDA_ERROR_INVALID_DEVICE : OK; }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { snprintf(s, n, "%s", standin_device()->name); return OK; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) { *v = standin_attribute(a); return OK; }
CUresult cuDeviceTotalMem(size_t *n, CUdevice d) { *n = standin_device()->total_bytes; return OK; }
CUresult cuDeviceGetUuid(CUuuid *u, CUdevice d) { memset(u, 7, sizeof *u); return OK; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)&the_context; return OK; }
CUresult cuDevicePrimaryCtxRelease(CUdevice d) { return OK; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *flags, int *active) { *flags = 0; *active = 1; return OK; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = current ? current : (CUcontext)&the_context; return OK; }
CUresult cuCtxSetCurrent(CUcontext c) { current = c; return OK; }
CUresult cuCtxPushCurrent(CUcontext c) { current = c; return OK; }
CUresult cuCtxPopCurrent(CUcontext *c) { if (c) *c = current; return OK; }
CUresult cuCtxGetDevice(CUdevice *d) { *d = 0; return OK; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { *value = 1 << 20; return OK; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return OK; }

CUresult cuGetErrorString(CUresult e, const char **s) {
    *s = e == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : e ? "error of the stand-in driver" : "no error";
    return OK;
}
CUresult cuGetErrorName(CUresult e, const char **s) {
    *s = e == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : e ? "CUDA_ERROR" : "CUDA_SUCCESS";
    return OK;
}

/* Nothing is ever under way, so waiting is only counted. */
CUresult cuCtxSynchronize(void) { standin_count(DRIVER_CONTEXT_SYNCHRONIZE); return OK; }
CUresult cuStreamSynchronize(CUstream s) { standin_count(DRIVER_STREAM_SYNCHRONIZE); return OK; }
CUresult cuEventSynchronize(CUevent e) { standin_count(DRIVER_EVENT_SYNCHRONIZE); return OK; }

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = standin_free_bytes();
    *total_bytes = standin_device()->total_bytes;
    return OK;
}
CUresult cuMemAlloc(CUdeviceptr *p, size_t n_bytes) {
    standin_count(DRIVER_MALLOC);
    *p = (CUdeviceptr)standin_allocate(n_bytes);
    return *p ? OK : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree(CUdeviceptr p) {
    standin_count(DRIVER_FREE);
    return standin_free((void *)p) ? OK : CUDA_ERROR_INVALID_VALUE;
}

/* Expandable segments: addresses without memory; handles, which count as memory; pages made usable when mapped. */
typedef struct {
    size_t n_bytes;
    CUmemAllocationProp properties;
} Handle;

CUresult cuMemGetAllocationGranularity(size_t *n, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags o) {
    *n = 2 << 20;
    return OK;
}
CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n_bytes, size_t align, CUdeviceptr at, unsigned long long flags) {
    void *start = standin_map(n_bytes, 0);
    if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    standin_register(start, n_bytes, DEVICE_MEMORY);
    *p = (CUdeviceptr)start;
    return OK;
}
CUresult cuMemAddressFree(CUdeviceptr p, size_t n_bytes) {
    standin_unregister((void *)p);
    standin_unmap((void *)p, n_bytes);
    return OK;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *h, size_t n_bytes, const CUmemAllocationProp *p,
                     unsigned long long flags) {
    standin_count(DRIVER_CREATE);
    if (!standin_take(n_bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    Handle *handle = malloc(sizeof *handle);
    *handle = (Handle){n_bytes, *p};
    *h = (CUmemGenericAllocationHandle)(uintptr_t)handle;
    return OK;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle h) {
    standin_count(DRIVER_RELEASE);
    Handle *handle = (Handle *)(uintptr_t)h;
    standin_give(handle->n_bytes);
    free(handle);
    return OK;
}
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t offset, CUmemGenericAllocationHandle h, unsigned long long flags) {
    return OK;
}
CUresult cuMemSetAccess(CUdeviceptr p, size_t n_bytes, const CUmemAccessDesc *access, size_t n) {
    return mprotect((void *)p, n_bytes, PROT_READ | PROT_WRITE) ? CUDA_ERROR_INVALID_VALUE : OK;
}
CUresult cuMemUnmap(CUdeviceptr p, size_t n_bytes) {
    madvise((void *)p, n_bytes, MADV_DONTNEED);
    return mprotect((void *)p, n_bytes, PROT_NONE) ? CUDA_ERROR_INVALID_VALUE : OK;
}

CUresult cuMemGetAddressRange(CUdeviceptr *start, size_t *n_bytes, CUdeviceptr p) {
    void *found;
    size_t size;
    if (!standin_find((void *)p, &found, &size)) return CUDA_ERROR_NOT_FOUND;
    if (start) *start = (CUdeviceptr)found;
    if (n_bytes) *n_bytes = size;
    return OK;
}
CUresult cuMemsetD32Async(CUdeviceptr p, unsigned value, size_t n, CUstream s) {
    if (value == 0) standin_fill((void *)p, 0, 4 * n);
    else for (size_t i = 0; i < n; i++) ((unsigned *)p)[i] = value;
    return OK;
}
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t n_bytes) {
    standin_count(DRIVER_COPY_TO_HOST);
    standin_copy(to, (void *)from, n_bytes);
    return OK;
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t n_bytes) {
    standin_count(DRIVER_COPY_FROM_HOST);
    standin_copy((void *)to, from, n_bytes);
    return OK;
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute a, CUdeviceptr p) {
    Kind kind = standin_find((void *)p, NULL, NULL);
    switch (a) {
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: *(CUdeviceptr *)value = p; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)value = kind == DEVICE_MEMORY ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        break;
    default: *(unsigned long long *)value = 0; return OK;
    }
    return kind == UNKNOWN ? CUDA_ERROR_INVALID_VALUE : OK;
}
CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *a, void **values, CUdeviceptr p) {
    CUresult result = OK;
    for (unsigned i = 0; i < n && result == OK; i++) result = cuPointerGetAttribute(values[i], a[i], p);
    return result;
}

/* Modules and launches: accepted, and nothing happens. A function is its name. */
CUresult cuModuleLoadData(CUmodule *m, const void *image) {
    standin_count(DRIVER_MODULE_LOAD);
    *m = (CUmodule)image;
    return OK;
}
CUresult cuModuleLoadDataEx(CUmodule *m, const void *image, unsigned n, CUjit_option *options, void **values) {
    return cuModuleLoadData(m, image);
}
CUresult cuModuleUnload(CUmodule m) { return OK; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { *f = (CUfunction)strdup(name); return OK; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute a, CUfunction f) {
    *value = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : a == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : 0;
    return OK;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int value) { return OK; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return OK; }
CUresult cuLaunchKernel(CUfunction f, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream s, void **arguments,
                        void **extra) {
    /* The limits of a real grid and block. */
    if (!grid_x || !grid_y || !grid_z || grid_x > 2147483647 || grid_y > 65535 || grid_z > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    if (!block_x || !block_y || !block_z || block_x * block_y * block_z > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (shared_bytes > (unsigned)standin_device()->shared_per_block_optin) return CUDA_ERROR_INVALID_VALUE;
    standin_count(DRIVER_LAUNCH);
    return OK;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **arguments, void **extra) {
    return cuLaunchKernel(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ,
                          c->sharedMemBytes, c->hStream, arguments, extra);
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int block, size_t m) { *n = 2; return OK; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = 1; return OK; }
#if CUDA_VERSION >= 12090
CUresult cuLogsRegisterCallback(CUlogsCallback c, void *user, CUlogsCallbackHandle *h) {
    *h = (CUlogsCallbackHandle)&the_context;
    return OK;
}
CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle h) { return OK; }
#endif

static int not_there(void) { return standin_not_there("a function of the driver"); }

/* The newest version of a function that is here; for all others one that answers "not supported". */
void *standin_driver_function(const char *name) {
    static const char *const SUFFIXES[] = {"_v3", "_v2", ""};
    Dl_info self;
    dladdr((void *)standin_driver_function, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    for (int i = 0; library && i < 3; i++) {
        char versioned[160];
        snprintf(versioned, sizeof versioned, "%s%s", name, SUFFIXES[i]);
        void *found = dlsym(library, versioned);
        if (found) return found;
    }
    if (getenv("STANDIN_LOG")) standin_not_there(name);
    return (void *)not_there;
}
CUresult cuGetProcAddress(const char *name, void **f, int v, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    *f = standin_driver_function(name);
    if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
    return OK;
}
