/* libnvidia-ml.so.1: what memplan and PyTorch ask of NVML. Its structures are NVML's own. */
#include "device.h"
#include <stdio.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define DRIVER_VERSION 13000
typedef void *Gpu;

int nvmlInit_v2(void) { return OK; }
int nvmlInitWithFlags(unsigned flags) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int e) { return e ? "error of the stand-in NVML" : "no error"; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { snprintf(s, n, "580.65.06"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = DRIVER_VERSION; return OK; }
int nvmlSystemGetCudaDriverVersion(int *version) { *version = DRIVER_VERSION; return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return OK; }

static int the_gpu(Gpu *gpu) { *gpu = (Gpu)1; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Gpu *gpu) { return i ? INVALID_ARGUMENT : the_gpu(gpu); }
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu *gpu) { return the_gpu(gpu); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Gpu *gpu) { return the_gpu(gpu); }
int nvmlDeviceGetName(Gpu gpu, char *s, unsigned n) { snprintf(s, n, "%s", standin_device()->name); return OK; }
int nvmlDeviceGetUUID(Gpu gpu, char *s, unsigned n) {
    snprintf(s, n, "GPU-07070707-0707-0707-0707-070707070707");
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Gpu gpu, int *major, int *minor) {
    *major = standin_device()->major;
    *minor = standin_device()->minor;
    return OK;
}

typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} Memory2;
int nvmlDeviceGetMemoryInfo(Gpu gpu, Memory *m) {
    m->total = standin_device()->board_bytes;
    m->free = standin_free_bytes();
    m->used = m->total - m->free;
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(Gpu gpu, Memory2 *m) {
    m->total = standin_device()->board_bytes;
    m->reserved = m->total - standin_device()->total_bytes;
    m->free = standin_free_bytes();
    m->used = m->total - m->reserved - m->free;
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses(Gpu gpu, unsigned *n, void *processes) { *n = 0; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu gpu, unsigned *n, void *processes) { *n = 0; return OK; }
int nvmlDeviceGetNvLinkRemoteDeviceType(Gpu gpu, unsigned link, int *type) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(Gpu gpu, unsigned link, void *info) { return NOT_SUPPORTED; }
int nvmlDeviceGetGpuFabricInfoV(Gpu gpu, void *info) { return NOT_SUPPORTED; }
