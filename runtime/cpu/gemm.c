/* Matrix products for machines without OpenBLAS: cblas_sgemm and cblas_dgemm by plain loops.
 *
 * In and out as the CBLAS defines them (row- or column-major, transposed or not; conjugation
 * means nothing for real numbers). Correct, and many times slower than a BLAS. */
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, ROWS = 4, COLUMNS = 64, DEPTH = 256 };

#define DEFINE_GEMM(name, scalar)                                                          \
    static void name##_row_major(int transpose_a, int transpose_b, int m, int n, int k,    \
                                 scalar alpha, const scalar *a, int lda, const scalar *b,  \
                                 int ldb, scalar beta, scalar *c, int ldc) {               \
        long a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;              \
        long b_row = transpose_b ? 1 : ldb, b_column = transpose_b ? ldb : 1;              \
        for (int i = 0; i < m; i++)                                                        \
            for (int j = 0; j < n; j++) {                                                  \
                scalar *to = c + (long)i * ldc + j;                                        \
                *to = beta == 0 ? 0 : *to * beta;                                          \
            }                                                                              \
        if (alpha == 0) return;                                                            \
        for (int j0 = 0; j0 < n; j0 += COLUMNS)                                            \
            for (int p0 = 0; p0 < k; p0 += DEPTH) {                                        \
                int columns = n - j0 < COLUMNS ? n - j0 : COLUMNS;                         \
                int depth = k - p0 < DEPTH ? k - p0 : DEPTH;                               \
                scalar panel[DEPTH * COLUMNS];                                             \
                for (int p = 0; p < depth; p++)                                            \
                    for (int j = 0; j < COLUMNS; j++)                                      \
                        panel[p * COLUMNS + j] =                                           \
                            j < columns ? b[(p0 + p) * b_row + (j0 + j) * b_column] : 0;   \
                for (int i0 = 0; i0 < m; i0 += ROWS) {                                     \
                    int rows = m - i0 < ROWS ? m - i0 : ROWS;                              \
                    scalar sum[ROWS][COLUMNS] = {{0}};                                     \
                    for (int p = 0; p < depth; p++)                                        \
                        for (int i = 0; i < rows; i++) {                                   \
                            scalar x = a[(i0 + i) * a_row + (p0 + p) * a_column];          \
                            for (int j = 0; j < COLUMNS; j++)                              \
                                sum[i][j] += x * panel[p * COLUMNS + j];                   \
                        }                                                                  \
                    for (int i = 0; i < rows; i++)                                         \
                        for (int j = 0; j < columns; j++)                                  \
                            c[(long)(i0 + i) * ldc + j0 + j] += alpha * sum[i][j];         \
                }                                                                          \
            }                                                                              \
    }                                                                                      \
    void name(int order, int transpose_a, int transpose_b, int m, int n, int k,            \
              scalar alpha, const scalar *a, int lda, const scalar *b, int ldb,            \
              scalar beta, scalar *c, int ldc) {                                           \
        int ta = transpose_a != NO_TRANSPOSE, tb = transpose_b != NO_TRANSPOSE;            \
        if (order == ROW_MAJOR)                                                            \
            name##_row_major(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);        \
        else /* the column-major product is the row-major one of the transposes */         \
            name##_row_major(tb, ta, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);        \
    }

DEFINE_GEMM(flamec_sgemm, float)
DEFINE_GEMM(flamec_dgemm, double)
