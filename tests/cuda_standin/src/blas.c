/* Preloaded before cuBLAS and cuBLASLt: every product is accepted and nothing is computed. build.py adds all other
   functions that PyTorch imports from them: they answer 0, success. */
/* cuBLAS's header wants these two types and nothing else of headers that need a C++ library of NVIDIA's. */
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
typedef struct { unsigned short bits; } __half, __nv_bfloat16;
#include <cublasLt.h>
#include <cublas_v2.h>
#include <stdlib.h>
#include <string.h>

#define OK CUBLAS_STATUS_SUCCESS
typedef cublasStatus_t Status;

static Status make(void **object) {
    *object = calloc(1, 512);
    return *object ? OK : CUBLAS_STATUS_ALLOC_FAILED;
}

Status cublasCreate_v2(cublasHandle_t *h) { return make((void **)h); }
Status cublasDestroy_v2(cublasHandle_t h) { free(h); return OK; }
Status cublasGetMathMode(cublasHandle_t h, cublasMath_t *mode) { *mode = CUBLAS_DEFAULT_MATH; return OK; }
Status cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t *mode) {
    *mode = CUBLAS_POINTER_MODE_HOST;
    return OK;
}
size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
Status cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t c, cudaDataType_t t) {
    return make((void **)d);
}
Status cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { free(d); return OK; }
Status cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { return make((void **)p); }
Status cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { free(p); return OK; }
Status cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType t, uint64_t rows, uint64_t columns,
                                  int64_t stride) {
    return make((void **)l);
}
Status cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { free(l); return OK; }
Status cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a,
                                      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                      cublasLtMatmulPreference_t p, int asked, cublasLtMatmulHeuristicResult_t *result,
                                      int *found) {
    memset(result, 0, sizeof *result * asked);
    *found = 1;
    return OK;
}
