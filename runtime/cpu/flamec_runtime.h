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

/* Where the elements along a dimension of a matrix lie: those of nested loops, outermost first. */
enum {
    FLAMEC_MOST_LOOPS = 8,
    FLAMEC_PANELS_MEMORY = 649 << 10,
    FLAMEC_PRODUCT_MEMORY = 1449 << 10,
};
typedef struct FlamecLoops {
    int64_t count;
    int64_t size[FLAMEC_MOST_LOOPS], stride[FLAMEC_MOST_LOOPS];
} FlamecLoops;

typedef struct FlamecOperand {
    const void *data;
    FlamecLoops free, depth;
} FlamecOperand;

/* Of a left operand with zeros around it: where `row_step` times the index of its loop `row` over rows
 * and `step` times that of its loop `along` the depth are in all less than `low`, or at least `high`,
 * it is 0. */
typedef struct FlamecBorder {
    int64_t row, along, row_step, step, low, high;
} FlamecBorder;

/* Some rows and columns of the product of two operands (flamec_product.h). `result` is the place of the
 * first element; rows of it are `step` elements apart. `run`: elements of both operands that are
 * neighbours along the depth, along which they are summed, or 0. With a `step` of 0 `result` is the
 * place of the whole product's first element, and `down` and `across` are where its rows and columns
 * go. */
enum { FLAMEC_MOST_BORDERS = 3 };
typedef struct FlamecProduct {
    FlamecOperand left, right;
    int64_t first_row, rows, first_column, columns, depth;
    void *result;
    int64_t step, run;
    FlamecLoops down, across;
    int64_t borders;
    FlamecBorder border[FLAMEC_MOST_BORDERS];
} FlamecProduct;

typedef struct FlamecRuntime {
    /* Splits [0, n) into at most `threads` contiguous chunks of at least `grain` iterations. */
    void (*parallel_for)(FlamecLoop loop, void *context, int64_t n, int64_t grain);
    int64_t threads;
    void *sgemm; /* cblas_sgemm and cblas_dgemm with 32-bit integers, or null */
    void *dgemm;
    /* Some of a product (flamec_product.h), or null; with FLAMEC_PRODUCT_MEMORY bytes of private memory,
     * FLAMEC_PANELS_MEMORY if the result is row-major. */
    void (*product_f32)(const FlamecProduct *product, void *memory);
    void (*product_f64)(const FlamecProduct *product, void *memory);
} FlamecRuntime;

typedef struct FlamecCall {
    void **buffers;       /* one address for each buffer of the plan */
    const int64_t *sizes; /* one value for each symbol of the plan */
    const FlamecRuntime *runtime;
    void *scratch;
    int64_t (*host)(int64_t number); /* makes ExecutionPlan.actions[number]; not 0: it failed */
    int64_t error_detail; /* written by a program that returns an error, e.g. the bad index */
    int64_t failed_step;  /* the number of the step that returned the error, from 1 */
} FlamecCall;

#endif
