/* The binary interface between a generated program and the runtime.
 *
 * In: what the runtime passes to a program's one entry point. Out: 0 or an error code,
 * a 1-based position in ExecutionPlan.errors. No system header is needed. */
#ifndef FLAMEC_RUNTIME_H
#define FLAMEC_RUNTIME_H

typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;

/* One chunk of a parallel loop: the half-open range [begin, end) and the thread's number. */
typedef void (*FlamecLoop)(void *context, int64_t begin, int64_t end, int thread);

typedef struct FlamecRuntime {
    /* Splits [0, n) into at most `threads` contiguous chunks of at least `grain` iterations. */
    void (*parallel_for)(FlamecLoop loop, void *context, int64_t n, int64_t grain);
    int64_t threads;
    void *sgemm; /* cblas_sgemm and cblas_dgemm with 32-bit integers, or null */
    void *dgemm;
} FlamecRuntime;

typedef struct FlamecCall {
    void **buffers;       /* one address for each buffer of the plan */
    const int64_t *sizes; /* one value for each symbol of the plan */
    const FlamecRuntime *runtime;
    void *scratch;
    int64_t (*host)(int64_t number); /* makes ExecutionPlan.actions[number]; not 0: it failed */
    int64_t error_detail; /* written by a program that returns an error, e.g. the bad index */
} FlamecCall;

#endif
